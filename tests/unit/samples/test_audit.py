"""The audit counts the faults of tables that the stage would not write."""

import polars as pl
import pytest

from gensar_core import schema
from gensar_core.samples import audit as module
from gensar_core.samples.audit import Audit, audit_time_split
from tests.support.samples_logs import event, events_frame

EVENTS = events_frame(
    [
        event(0, 1, 5), event(0, 2, 5), event(0, 2, 5, query=0, session=0), event(0, 3, 6),
        event(1, 1, 7), event(1, 2, 8, query=1, session=1), event(1, 3, 7),
    ]
)  # fmt: skip


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


def nonzero(counts):
    return {name: value for name, value in counts.items() if value}


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
    counts = audited([sample_under_test])[sample_under_test["task"]]["train"]
    assert nonzero(counts) == dict.fromkeys(["samples", *expected, *(["leak_share"] if "leaks" in expected else [])], 1)


@pytest.mark.parametrize(
    ("training_sample", "valid_task", "expected"),
    [
        # Item 5 was recommended at time 1; it is recommended and searched at time 2, the valid target's.
        (sample(0, "rec", "train", 0, 1, 5, (0, 6)), "search", (0, 0, 0)),
        (sample(0, "rec", "train", 0, 2, 5, (0, 6)), "search", (1, 0, 1)),
        (sample(0, "rec", "train", 0, 2, 5, (0, 6)), "rec", (1, 0, 0)),
        (sample(0, "rec", "train", 0, 3, 5, (0, 5), (1, 5)), "search", (1, 0, 1)),
        (sample(0, "rec", "train", 0, 1, 5, (0, 5), (0, 5)), "search", (0, 1, 0)),
        (sample(0, "rec", "train", 0, 1, 5, (2, 5)), "search", (0, 1, 0)),
        # Another user's click, and a query with the number of the item, reveal nothing.
        (sample(0, "rec", "train", 1, 3, 5, (0, 5)), "search", (0, 0, 0)),
        (sample(0, "rec", "train", 0, 1, 5, (1, 5), (2, 8)), "search", (0, 0, 0)),
    ],
)
def test_held_out_targets_in_training(training_sample, valid_task, expected):
    report = audited([training_sample, sample(1, valid_task, "valid", 0, 2, 5, (0, 6))], [(1, [1, 2])])
    train, valid = report["rec"]["train"], report[valid_task]["valid"]
    marks = train["targets_held_out"], train["inputs_with_held_out"], valid["training_targets_of_other_task"]
    assert marks == expected


WITHOUT_5 = EVENTS.filter(pl.col("item_id") != 5)


@pytest.mark.parametrize(
    ("user", "time", "target", "training", "expected"),
    [
        # User 0 clicked 5 at time 1 and twice at time 2, and 6 at time 3; user 1 clicked 7 at times 1 and 3, 8 at time 2.
        (0, 1, 5, EVENTS, (0, 0, 3)), (0, 2, 5, EVENTS, (1, 0, 1)), (0, 3, 5, EVENTS, (1, 0, 0)),
        (0, 3, 6, EVENTS, (0, 0, 0)), (1, 2, 5, EVENTS, (0, 0, 1)), (0, 2, 5, WITHOUT_5, (1, 1, 1)),
        (1, 1, 7, WITHOUT_5, (0, 0, 2)), (0, 2, 5, EVENTS.clear(), (1, 1, 0)),
    ],
)  # fmt: skip
def test_targets_clicked_before_and_training_after(user, time, target, training, expected):
    report = audited([sample(0, "search", "valid", user, time, target, (1, 0))], [(0, [1, 2])], training)
    counts = report["search"]["valid"]
    marks = ("clicked_before", "clicked_before_but_untrained", "later_training_events")
    assert tuple(counts[mark] for mark in marks) == expected


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
    counts = audited([sample(0, "rec", "test", 0, 3, 5, *history)], [(0, negatives)])["rec"]["test"]
    assert [name for name in counts if name.startswith("only_") and counts[name]] == ([expected] if expected else [])


def test_faults_of_candidate_lists():
    rows = [sample(i, "rec", "test", 0, 3, 6, (0, 5), (1, 0)) for i in range(4)]
    report = audited(rows, [(0, [1, 2]), (1, [1, 6]), (2, [1])])
    faults = ("candidates_equal_target", "candidate_lists_short", "candidate_lists_missing")
    assert nonzero(report["rec"]["test"]) == {"samples": 4, **dict.fromkeys(faults, 1)}


def test_users_and_items_without_training_events():
    rows = [sample(0, "rec", "test", 0, 3, 6, (0, 5), (1, 0)), sample(1, "rec", "test", 1, 3, 7, (0, 5), (1, 0))]
    report = audited(rows, [(0, [1, 2]), (1, [1, 2])], training=EVENTS.filter(pl.col("user_id") == 1))
    assert report["rec"]["test"]["targets_of_unseen_users"] == 1
    assert report["rec"]["test"]["targets_of_unseen_items"] == 1


def test_slices_do_not_change_the_counts(monkeypatch):
    rows = [sample(i, "search", "train", 0, 2, 5, *[(0, 5)] * (i % 3), (1, 0)) for i in range(7)]
    rows += [sample(7 + i, "rec", "test", 0, 2, 5, (0, 5 + i % 2), (1, 0)) for i in range(5)]
    lists = [(7 + i, [1, 2]) for i in range(5)]
    whole = audited(rows, lists)
    assert whole["search"]["train"]["leaks"] == 2
    assert whole["search"]["train"]["inputs_with_held_out"] == 2
    assert whole["rec"]["test"]["only_candidate_in_history"] == 3
    monkeypatch.setattr(module, "_SLICE", 2)
    assert audited(rows, lists) == whole


def test_rows_on_the_wrong_side_of_a_split_by_time():
    def row(number, split, time):
        return sample(number, "rec", split, 0, time, 5, (0, 6), (1, 0))

    def counts(*rows):
        report = audit_time_split(EVENTS.lazy(), schema.SAMPLES.check(pl.DataFrame(rows, strict=False)).lazy())
        names = ("valid_from", "test_from", "late_training_events", "late_training_targets", "late_valid_targets")
        assert tuple(report) == names
        return tuple(report.values())

    right = [row(0, "train", 1), row(1, "valid", 4), row(2, "valid", 5), row(3, "test", 6)]
    assert counts(*right) == (4, 6, 0, 0, 0)
    # Two events are at time 3, three at time 2.
    late = [row(4, "train", 3), row(5, "valid", 3), row(6, "train", 9), row(7, "valid", 6)]
    assert counts(*right, *late) == (3, 6, 2, 2, 1)
    assert counts(*right, row(4, "test", 2))[2] == 5
    assert counts(right[0]) == (None, None, 0, 0, 0)
