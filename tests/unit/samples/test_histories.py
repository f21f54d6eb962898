"""Targets and their histories: written out by hand, and against plain loops."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gensar_core.config.datasets import SampleSettings
from gensar_core.samples import histories as histories_module
from gensar_core.samples.events import EventLog
from gensar_core.samples.histories import Histories
from gensar_core.samples.targets import DROPPED, at_moments, leave_one_out, moments_of_split, select_targets
from gensar_core.schema import SPLITS
from tests.support.samples_logs import (
    PROTOCOLS,
    REPEATED,
    WORKED,
    A,
    B,
    C,
    D,
    E,
    F,
    complete,
    event,
    events_frame,
    expected_history,
    logs,
)

#: Entries of the worked log's user.
A0 = [("R", A), ("Q", 0), ("S", A)]
BC1 = [("Q", 1), ("S", B), ("S", C)]
UNTIL_TIME_2 = [*A0, ("R", B), ("R", C), *BC1]
UNTIL_TIME_3 = [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E), ("R", D), ("Q", 0), ("S", D)]
UNTIL_TIME_4 = [*UNTIL_TIME_3, ("R", E), ("Q", 2), ("S", E)]

STRICT = {
    ("rec", "train"): {
        2: A0,
        3: [*A0, ("R", B)],
        7: [*UNTIL_TIME_2, ("Q", 2), ("S", F)],
        8: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)],
    },
    ("rec", "valid"): {10: UNTIL_TIME_3},
    ("rec", "test"): {12: UNTIL_TIME_4},
    ("search", "train"): {
        4: [*A0, ("R", C)],
        5: [*A0, ("R", B)],
        6: UNTIL_TIME_2,
        9: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)],
    },
    ("search", "valid"): {11: UNTIL_TIME_3},
    ("search", "test"): {13: UNTIL_TIME_4},
}
#: In the paper's protocol, the histories of events 4 and 5 hold the targets' twins.
PAPER = STRICT | {
    ("search", "train"): STRICT["search", "train"]
    | {4: [*A0, ("R", B), ("R", C)], 5: [*A0, ("R", B), ("Q", 1), ("S", B)]}
}


def log_of(events):
    return EventLog.from_frame(events_frame(events))


def entries(inputs):
    """The histories of some inputs as lists of (behavior, object)."""
    return [
        list(
            zip(inputs.behavior.values[slice(*ends)].tolist(), inputs.object.values[slice(*ends)].tolist(), strict=True)
        )
        for ends in zip(inputs.behavior.offsets[:-1], inputs.behavior.offsets[1:], strict=True)
    ]


def lettered(history):
    return [("RQS"[behavior], value) for behavior, value in history]


def selected(events, protocol, most=50, shares=None, cutoff="none"):
    """(task, split) -> event id -> history, as the stage builds them, and the selection; ``shares`` split by time."""
    log = log_of(events)
    by_time = {"split": "time", "time_shares": shares} if shares else {}
    selection = select_targets(log, SampleSettings(history_protocol=protocol, training_cutoff=cutoff, **by_time))
    histories = {}
    for (task, split), rows in selection.targets.items():
        source = log.take(selection.shown) if split == "train" else log
        inputs = Histories(source, protocol).inputs(log.take(rows), most, most)
        histories[task, split] = dict(zip(rows.tolist(), map(lettered, entries(inputs)), strict=True))
    return histories, selection


def counts_of(task, both, targets, train_split, rows, users=1, dropped=(0, 0, 0, 0)):
    """The counts of one task; ``rows`` are those of train, valid and test."""
    names = (
        "with_both_histories",
        "users",
        "targets",
        "train_split",
        *(f"train_dropped_{why}" for why in DROPPED),
        *SPLITS,
    )
    return {f"{task}_{name}": n for name, n in zip(names, (both, users, targets, train_split, *dropped, *rows), strict=True)}  # fmt: skip


@pytest.mark.parametrize(("protocol", "expected"), [("strict", STRICT), ("paper", PAPER)])
def test_worked_log_by_leave_one_out(protocol, expected):
    histories, selection = selected(WORKED, protocol)
    assert histories == expected
    # E at time 3 and F at time 2 are genuine earlier clicks on the held-out items, so they stay.
    assert np.flatnonzero(selection.training).tolist() == [*range(10), 14, 15, 16, 17]
    assert selection.counts == counts_of("rec", 6, 6, 4, (4, 1, 1)) | counts_of("search", 6, 6, 4, (4, 1, 1))


def test_caps_keep_the_last_clicks_and_sessions():
    log = log_of(WORKED)
    inputs = Histories(log, "strict").inputs(log.take(np.array([10, 12])), 2, 1)
    assert list(map(lettered, entries(inputs))) == [
        [("R", E), ("R", D), ("Q", 0), ("S", D)],
        [("R", D), ("R", E), ("Q", 2), ("S", E)],
    ]


def test_strict_training_keeps_only_earlier_clicks_on_a_held_out_item():
    histories, selection = selected(REPEATED, "strict")
    assert np.flatnonzero(selection.training).tolist() == [0, 1, 2, 3, 8]
    train = [("Q", 0), ("S", A), ("R", B), ("R", C)]
    assert histories["rec", "train"] == {2: train[:-1], 8: [*train, ("Q", 1), ("S", C)]}
    assert histories["search", "train"] == {3: train}
    assert selection.counts["rec_train_dropped_held_out"] == 2
    assert histories["search", "valid"] == {5: [*train, ("Q", 1), ("S", C)]}
    # A test history shows everything before the target.
    assert histories["search", "test"] == {6: [*train, ("Q", 1), ("S", C), ("R", C), ("Q", 1), ("S", C)]}
    # The cap applies after two of the clicks on C are withheld, so two other clicks remain in the input of E.
    histories, _ = selected(REPEATED, "strict", most=2)
    assert histories["rec", "train"][8] == [*train, ("Q", 1), ("S", C)]


def test_cutoff_withholds_events_later_than_the_first_held_out_target():
    histories, selection = selected(REPEATED, "strict", cutoff="per_user")
    assert np.flatnonzero(selection.training).tolist() == [0, 1, 2, 3]
    assert {part: list(rows) for part, rows in histories.items()} == {
        ("rec", "train"): [2], ("rec", "valid"): [9], ("rec", "test"): [10],
        ("search", "train"): [3], ("search", "valid"): [5], ("search", "test"): [6],
    }  # fmt: skip
    assert selection.counts["rec_train_dropped_held_out"] == 2
    assert selection.counts["rec_train_dropped_after_cutoff"] == 1
    # The paper's protocol keeps the twin: it has the time of the valid target.
    _, paper = selected(REPEATED, "paper", cutoff="per_user")
    assert np.flatnonzero(paper.training).tolist() == [0, 1, 2, 3, 4]
    assert paper.counts["rec_train_dropped_held_out"] == 0
    assert paper.counts["rec_train_dropped_after_cutoff"] == 2


def test_training_target_without_a_visible_search_is_dropped():
    # All on one day; the only searches before C are those for the valid and the test target.
    searches = [event(0, 1, A, query=0, session=0), event(0, 1, B, query=0, session=1)]
    histories, selection = selected(
        [event(0, 1, D), *searches, event(0, 1, C), event(0, 1, A), event(0, 1, B)], "strict"
    )
    assert selection.counts["rec_with_both_histories"] == 3
    assert histories["rec", "train"] == {}
    assert selection.counts["rec_train_dropped_without_history"] == 1
    assert histories["rec", "test"] == {5: [("R", D), ("Q", 0), ("S", A), ("R", C), ("R", A)]}


def test_session_is_one_block_at_the_place_of_its_first_click():
    log = log_of(
        [
            event(0, 1, A), event(0, 2, B, query=0, session=7), event(0, 3, C), event(0, 4, C, query=1, session=3),
            event(0, 5, D, query=0, session=7), event(0, 6, E),
        ]
    )  # fmt: skip
    inputs = Histories(log, "strict").inputs(log.take(np.array([3, 5])), 9, 9)
    assert list(map(lettered, entries(inputs))) == [
        [("R", A), ("Q", 0), ("S", B), ("R", C)],
        [("R", A), ("Q", 0), ("S", B), ("S", D), ("R", C), ("Q", 1), ("S", C)],
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=150)
@given(logs(), st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(1, 60))
@example([], (1, 1), 9)
def test_every_history_equals_the_plain_loops(protocol, events, caps, slice_size):
    log = log_of(events)
    source = Histories(log, protocol)
    whole = list(enumerate(events))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories_module, "_SLICE", slice_size)
        inputs, both = source.inputs(log, *caps), source.complete(log)
    assert entries(inputs) == [expected_history(whole, target, protocol, *caps) for target in whole]
    assert both.tolist() == [complete(expected_history(whole, target, protocol, 99, 99)) for target in whole]


@settings(max_examples=150)
@given(logs(), st.data())
def test_strict_history_does_not_depend_on_the_targets_item(events, data):
    if not events:
        return
    chosen = data.draw(st.integers(0, len(events) - 1))
    same = {name: events[chosen][name] for name in ("user", "time", "item")}
    renamed = [{**e, "item": 99} if same.items() <= e.items() else e for e in events]
    row = np.array([chosen])
    before, after = (
        entries(Histories(log, "strict").inputs(log.take(row), 3, 3)) for log in map(log_of, (events, renamed))
    )
    assert before == after


def test_leave_one_out_by_hand():
    users = np.array([0, 0, 0, 0, 2, 2, 5, 5, 5])
    assert leave_one_out(users, 3).tolist() == [0, 0, 1, 2, -1, -1, 0, 1, 2]
    assert leave_one_out(users, 4).tolist() == [0, 0, 1, 2, -1, -1, -1, -1, -1]
    assert leave_one_out(users[:0], 3).tolist() == []


def test_worked_log_by_time():
    # Targets are at time 2 (rec 2, 3; search 4, 5, 6), 3 (rec 7, 8; search 9), 4 (10; 11) and 5 (12; 13).
    histories, paper = selected(WORKED, "paper", shares=[0.5, 0.25, 0.25])
    assert {part: list(rows) for part, rows in histories.items()} == {
        ("rec", "train"): [2, 3], ("rec", "valid"): [7, 8], ("rec", "test"): [10, 12],
        ("search", "train"): [4, 5, 6], ("search", "valid"): [9], ("search", "test"): [11, 13],
    }  # fmt: skip
    # The second user has no target; that user's events from time 3 on are not for training.
    assert np.flatnonzero(paper.training).tolist() == [*range(7), 14, 15, 16]
    assert histories["search", "valid"] == {9: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)]}
    assert histories["rec", "test"] == {10: UNTIL_TIME_3, 12: UNTIL_TIME_4}
    assert (paper.counts["valid_from"], paper.counts["test_from"]) == (3, 4)
    # Strict: E, D and F are held out; the search for F at time 2 may be shown.
    histories, strict = selected(WORKED, "strict", shares=[0.5, 0.25, 0.25])
    assert histories["rec", "train"] == {2: A0, 3: [*A0, ("R", B)]}
    assert histories["search", "train"] == {4: [*A0, ("R", C)], 5: [*A0, ("R", B)], 6: UNTIL_TIME_2}
    assert np.flatnonzero(strict.training).tolist() == [*range(7), 14, 15, 16]
    tasks = counts_of("rec", 6, 6, 2, (2, 2, 2)) | counts_of("search", 6, 6, 3, (3, 1, 2))
    assert strict.counts == {"valid_from": 3, "test_from": 4} | tasks


def test_users_with_one_target_count_in_a_split_by_time():
    events = []
    for user in range(3):
        events += [event(user, 1, A), event(user, 2, B, query=0, session=user), event(user, 3 + user, C)]
    histories, selection = selected(events, "strict", shares=[0.4, 0.3, 0.3])
    assert [list(histories["rec", split]) for split in SPLITS] == [[2], [5], [8]]
    assert selection.counts["rec_users"] == 3
    assert selected(events, "strict")[0]["rec", "test"] == {}


@pytest.mark.parametrize(
    ("times", "shares", "expected"),
    [
        (range(10), [0.8, 0.1, 0.1], [8, 9]),
        (range(100), [0.8, 0.1, 0.1], [80, 90]),
        # Eight of ten are at time 0; no part may be empty.
        ([0] * 8 + [1, 2], [0.5, 0.25, 0.25], [1, 2]),
        # Four targets precede time 5, eight precede time 6: four is nearer to five.
        ([1, 2, 3, 4, 5, 5, 5, 5, 6, 7], [0.5, 0.4, 0.1], [5, 7]),
        # Time 2 and time 3 are equally near to half of the five targets.
        ([1, 1, 2, 3, 3], [0.5, 0.1, 0.4], [2, 3]),
        ([3, 1, 2], [0.8, 0.1, 0.1], [2, 3]),
        ([4, 4, 9], [0.8, 0.1, 0.1], []),
        ([], [0.8, 0.1, 0.1], []),
    ],
)
def test_moments_of_split_by_hand(times, shares, expected):
    assert moments_of_split(np.array(times, dtype=np.int64), shares).tolist() == expected


def test_splits_at_moments_by_hand():
    assert at_moments(np.array([9, 1, 5, 4, 7, 6]), np.array([5, 7])).tolist() == [2, 0, 1, 0, 2, 1]
    assert at_moments(np.array([9, 1]), np.zeros(0, dtype=np.int64)).tolist() == [-1, -1]
