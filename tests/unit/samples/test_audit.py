"""The audit finds what is wrong in tables that were not made by the stage."""

import polars as pl
import pytest

from gensar_core import schema
from gensar_core.samples import audit as module
from gensar_core.samples.audit import Audit, audit_time_split
from tests.support.samples_logs import event, events_frame

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


def test_a_click_before_the_held_out_target_tells_nothing_of_it():
    def held(target_time, *history, task="search"):
        report = audited(
            [sample(0, "rec", "train", 0, target_time, 5, *history), sample(1, task, "valid", 0, 2, 5, (0, 6))],
            [(1, [1, 2])],
        )
        train = report["rec"]["train"]
        return train["targets_held_out"], train["inputs_with_held_out"]

    # Item 5 was recommended at time 1; it is recommended and searched at time 2, the target's.
    assert held(1, (0, 6)) == (0, 0)
    assert held(2, (0, 6)) == (1, 0)
    assert held(2, (0, 6), task="rec") == (1, 0)
    assert held(3, (0, 5), (1, 5)) == (1, 0)
    assert held(1, (0, 5), (0, 5)) == (0, 1)
    assert held(1, (2, 5)) == (0, 1)


def test_targets_clicked_before_and_training_after():
    def told(time, user=0, target=5, training=EVENTS):
        found = audited([sample(0, "search", "valid", user, time, target, (1, 0))], [(0, [1, 2])], training)
        found = found["search"]["valid"]
        return tuple(
            found[mark] for mark in ("clicked_before", "clicked_before_but_untrained", "later_training_events")
        )

    # User 0 clicked 5 at time 1 and twice at time 2, and 6 at time 3; user 1 clicked 7 at times 1 and 3, 8 at time 2.
    assert told(1) == (0, 0, 3)
    assert told(2) == (1, 0, 1)
    assert told(3) == (1, 0, 0)
    assert told(3, target=6) == (0, 0, 0)
    assert told(2, user=1) == (0, 0, 1)
    without = EVENTS.filter(pl.col("item_id") != 5)
    assert told(2, training=without) == (1, 1, 1)
    assert told(1, user=1, target=7, training=without) == (0, 0, 2)
    assert told(2, training=EVENTS.clear()) == (1, 1, 0)


@pytest.mark.parametrize(
    ("history", "negatives", "expected"),
    [
        ([(0, 5), (2, 6), (1, 1)], [1, 2], "only_candidate_in_history"),
        ([(2, 5), (0, 2)], [1, 2], None),
        ([(0, 6), (1, 5)], [1, 2], None),
        ([(0, 1), (0, 1), (2, 2), (1, 5)], [1, 2], "only_candidate_not_in_history"),
        ([(0, 1), (1, 2)], [1, 2], None),
        ([(0, 5)], [], None),
        ([], [], None),
    ],
)
def test_targets_set_apart_by_membership_alone(history, negatives, expected):
    report = audited([sample(0, "rec", "test", 0, 3, 5, *history)], [(0, negatives)])
    found = {
        mark for mark in ("only_candidate_in_history", "only_candidate_not_in_history") if report["rec"]["test"][mark]
    }
    assert found == ({expected} if expected else set())


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
        "clicked_before": 0,
        "clicked_before_but_untrained": 0,
        "training_targets_of_other_task": 0,
        "targets_with_later_training": 0,
        "later_training_events": 0,
        "later_training_share": 0.0,
        "only_candidate_in_history": 0,
        "only_candidate_not_in_history": 0,
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
    rows += [sample(7 + i, "rec", "test", 0, 2, 5, (0, 5 + i % 2), (1, 0)) for i in range(5)]
    lists = [(7 + i, [1, 2]) for i in range(5)]
    whole = audited(rows, lists)
    assert whole["search"]["train"]["leaks"] == 2
    assert whole["search"]["train"]["inputs_with_held_out"] == 2
    assert whole["rec"]["test"]["only_candidate_in_history"] == 3
    monkeypatch.setattr(module, "_SLICE", 2)
    assert audited(rows, lists) == whole


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
