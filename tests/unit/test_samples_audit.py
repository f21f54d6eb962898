"""The audit finds what is wrong in tables that were not made by the stage."""

import polars as pl
import pytest

from gensar_core import schema
from gensar_core.samples import audit as module
from gensar_core.samples.audit import Audit, audit_time_split
from tests.unit.samples_logs import event, events_frame

EVENTS = events_frame(
    [
        event(0, 1, 5),
        event(0, 2, 5),
        event(0, 2, 5, query=0, session=0),
        event(0, 3, 6),
        event(1, 1, 7),
        event(1, 2, 8, query=1, session=1),
        event(1, 3, 7),
    ]
)


def sample(number, task, split, user, time, target, *history):
    return {
        "sample_id": number,
        "task": task,
        "split": split,
        "user_id": user,
        "time": time,
        "event_id": number,
        "target_item": target,
        "query_id": 0 if task == "search" else None,
        "history_behavior": [behavior for behavior, _ in history],
        "history_object": [value for _, value in history],
    }


def audited(samples, candidates=(), training=EVENTS, negatives=2):
    frame = schema.SAMPLES.check(pl.DataFrame(samples, infer_schema_length=None, strict=False))
    lists = pl.DataFrame(list(candidates), schema=dict(schema.CANDIDATES.schema), orient="row")
    audit = Audit(training.lazy(), negatives)
    audit.add(EVENTS, frame, lists)
    return audit.report()


def marks(report, task, split):
    return {name for name, value in report[task][split].items() if value and name not in ("samples", "leak_share")}


@pytest.mark.parametrize(
    ("sample_under_test", "expected"),
    [
        # The one earlier click accounts for one entry, not for two.
        (sample(0, "search", "train", 0, 2, 5, (0, 5), (1, 0)), {"repeats", "targets_in_own_input"}),
        (sample(0, "search", "train", 0, 2, 5, (0, 5), (0, 5)), {"leaks", "repeats", "targets_in_own_input"}),
        # Nobody searched item 5 before time 2; a query whose number is the target's is no item.
        (sample(0, "search", "train", 0, 2, 5, (2, 5), (1, 0)), {"leaks", "targets_in_own_input"}),
        (sample(0, "search", "train", 0, 2, 5, (0, 6), (1, 5)), set()),
        # At time 3 the search at time 2 is an earlier one; another user's clicks account for nothing.
        (sample(0, "rec", "train", 0, 3, 5, (2, 5), (1, 0)), {"repeats", "targets_in_own_input"}),
        (sample(0, "rec", "train", 1, 3, 5, (0, 5), (1, 0)), {"leaks", "targets_in_own_input"}),
    ],
)
def test_leaks_and_repeats(sample_under_test, expected):
    report = audited([sample_under_test])
    task = sample_under_test["task"]
    assert marks(report, task, "train") == expected
    assert report[task]["train"]["leak_share"] == float("leaks" in expected)


def test_held_out_pairs_in_training_rows_and_across_tasks():
    report = audited(
        [
            sample(0, "rec", "train", 0, 3, 6, (0, 5), (1, 0)),  # the target is search's valid target
            sample(1, "rec", "train", 1, 3, 7, (0, 6), (1, 0)),  # another user's: nothing
            sample(2, "search", "train", 0, 2, 5, (0, 6), (1, 0)),  # shows it
            sample(3, "search", "train", 0, 2, 5, (1, 6), (2, 8)),  # shows a query of that number
            sample(4, "search", "valid", 0, 3, 6, (0, 5), (1, 0)),
        ],
        [(4, [1, 2])],
    )
    assert report["rec"]["train"]["targets_held_out"] == 1
    assert report["rec"]["train"]["inputs_with_held_out"] == 0
    assert report["search"]["train"]["targets_held_out"] == 0
    assert report["search"]["train"]["inputs_with_held_out"] == 1
    assert marks(report, "search", "valid") == {"training_targets_of_other_task"}


def test_a_training_target_of_the_same_task_is_no_cross_task_leak():
    report = audited(
        [
            sample(0, "rec", "train", 0, 3, 6, (0, 5), (1, 0)),
            sample(1, "rec", "valid", 0, 3, 6, (0, 5), (1, 0)),
        ],
        [(1, [1, 2])],
    )
    assert marks(report, "rec", "valid") == set()


def test_candidate_lists():
    rows = [sample(i, "rec", "test", 0, 3, 6, (0, 5), (1, 0)) for i in range(4)]
    report = audited(rows, [(0, [1, 2]), (1, [1, 6]), (2, [1])])
    assert report["rec"]["test"] == {
        "samples": 4,
        "leaks": 0,
        "repeats": 0,
        "targets_in_own_input": 0,
        "leak_share": 0.0,
        "targets_of_unseen_users": 0,
        "targets_of_unseen_items": 0,
        "training_targets_of_other_task": 0,
        "candidates_equal_target": 1,
        "candidate_lists_short": 1,
        "candidate_lists_missing": 1,
    }


def test_users_and_items_without_training_events():
    rows = [sample(0, "rec", "test", 0, 3, 6, (0, 5), (1, 0)), sample(1, "rec", "test", 1, 3, 7, (0, 5), (1, 0))]
    report = audited(rows, [(0, [1, 2]), (1, [1, 2])], training=EVENTS.filter(pl.col("user_id") == 1))
    assert report["rec"]["test"]["targets_of_unseen_users"] == 1
    assert report["rec"]["test"]["targets_of_unseen_items"] == 1


def test_slices_do_not_show(monkeypatch):
    rows = [sample(i, "search", "train", 0, 2, 5, *[(0, 5)] * (i % 3), (1, 0)) for i in range(7)]
    rows.append(sample(7, "rec", "test", 0, 3, 5, (0, 6), (1, 0)))
    whole = audited(rows, [(7, [1, 2])])
    assert whole["search"]["train"]["leaks"] == 2
    assert whole["search"]["train"]["inputs_with_held_out"] == 4
    monkeypatch.setattr(module, "_SLICE", 2)
    assert audited(rows, [(7, [1, 2])]) == whole


def test_what_lies_on_the_wrong_side_of_a_split_by_time():
    def row(number, split, time):
        return sample(number, "rec", split, 0, time, 5, (0, 6), (1, 0))

    def checked(*rows):
        return audit_time_split(EVENTS.lazy(), schema.SAMPLES.check(pl.DataFrame(rows, strict=False)).lazy())

    right = [row(0, "train", 1), row(1, "valid", 4), row(2, "valid", 5), row(3, "test", 6)]
    assert checked(*right) == {
        "valid_from": 4, "test_from": 6, "late_training_events": 0, "late_training_targets": 0, "late_valid_targets": 0,
    }  # fmt: skip
    # At time 3 stand two events, at time 2 three.
    late = checked(*right, row(4, "train", 3), row(5, "valid", 3), row(6, "train", 9), row(7, "valid", 6))
    assert late == {
        "valid_from": 3, "test_from": 6, "late_training_events": 2, "late_training_targets": 2, "late_valid_targets": 1,
    }  # fmt: skip
    assert checked(*right, row(4, "test", 2))["late_training_events"] == 5
    assert checked(right[0]) == {
        "valid_from": None, "test_from": None, "late_training_events": 0, "late_training_targets": 0,
        "late_valid_targets": 0,
    }  # fmt: skip
