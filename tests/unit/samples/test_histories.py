"""Targets and their histories: written out by hand, and against plain loops."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gensar_core.config.datasets import SampleSettings
from gensar_core.samples import histories
from gensar_core.samples.events import EventLog
from gensar_core.samples.histories import Histories
from gensar_core.samples.targets import at_moments, leave_one_out, moments_of_split, select_targets
from tests.support.samples_logs import (
    REPEATED,
    WORKED,
    both_sides,
    event,
    events_frame,
    expected_history,
    expected_moments,
    expected_samples,
    logs,
    tells,
)

A, B, C, D, E, F = range(6)
PROTOCOLS = ("strict", "paper")
CUTOFFS = ("none", "per_user")
SPLITS = {"leave_one_out": None, "time": [0.8, 0.1, 0.1], "time, even": [0.4, 0.3, 0.3]}

#: What the worked log's user did, as entries.
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
PAPER = {
    ("rec", "train"): {
        2: A0,
        3: [*A0, ("R", B)],
        7: [*UNTIL_TIME_2, ("Q", 2), ("S", F)],
        8: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)],
    },
    ("rec", "valid"): {10: UNTIL_TIME_3},
    ("rec", "test"): {12: UNTIL_TIME_4},
    ("search", "train"): {
        4: [*A0, ("R", B), ("R", C)],  # B is the target
        5: [*A0, ("R", B), ("Q", 1), ("S", B)],
        6: UNTIL_TIME_2,
        9: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)],
    },
    ("search", "valid"): {11: UNTIL_TIME_3},
    ("search", "test"): {13: UNTIL_TIME_4},
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
    """(task, split) -> event id -> history, as the stage puts them together; by time when there are shares."""
    log = log_of(events)
    own = {"split": "time", "time_shares": shares} if shares else {}
    selection = select_targets(log, SampleSettings(history_protocol=protocol, training_cutoff=cutoff, **own))
    found = {}
    for (task, split), rows in selection.targets.items():
        source = log.take(selection.shown) if split == "train" else log
        inputs = Histories(source, protocol).inputs(log.take(rows), most, most)
        found[task, split] = dict(zip(rows.tolist(), map(lettered, entries(inputs)), strict=True))
    return found, selection


@pytest.mark.parametrize(("protocol", "expected"), [("strict", STRICT), ("paper", PAPER)])
def test_worked_log(protocol, expected):
    found, _ = selected(WORKED, protocol)
    assert found == expected


def test_worked_log_training_events_and_figures():
    _, strict = selected(WORKED, "strict")
    # E at time 3 and F at time 2 are genuine earlier clicks on the held-out items, so they stay.
    assert np.flatnonzero(strict.training).tolist() == [*range(10), 14, 15, 16, 17]
    assert strict.counts == {
        "rec_with_both_histories": 6,
        "rec_users": 1,
        "rec_targets": 6,
        "rec_train_split": 4,
        "search_with_both_histories": 6,
        "search_users": 1,
        "search_targets": 6,
        "search_train_split": 4,
        "rec_train_dropped_held_out": 0,
        "rec_train_dropped_after_cutoff": 0,
        "rec_train_dropped_without_history": 0,
        "search_train_dropped_held_out": 0,
        "search_train_dropped_after_cutoff": 0,
        "search_train_dropped_without_history": 0,
        "rec_train": 4,
        "rec_valid": 1,
        "rec_test": 1,
        "search_train": 4,
        "search_valid": 1,
        "search_test": 1,
    }
    _, paper = selected(WORKED, "paper")
    assert np.flatnonzero(paper.training).tolist() == [*range(10), 14, 15, 16, 17]
    assert paper.counts["rec_train"] == 4
    assert paper.counts["search_train"] == 4


def test_the_caps_keep_the_last_clicks_and_sessions():
    log = log_of(WORKED)
    inputs = Histories(log, "strict").inputs(log.take(np.array([10, 12])), 2, 1)
    assert list(map(lettered, entries(inputs))) == [
        [("R", E), ("R", D), ("Q", 0), ("S", D)],
        [("R", D), ("R", E), ("Q", 2), ("S", E)],
    ]


def test_earlier_clicks_on_a_held_out_item_stay_and_its_twin_and_later_ones_go():
    found, selection = selected(REPEATED, "strict")
    assert np.flatnonzero(selection.training).tolist() == [0, 1, 2, 3, 8]
    train = [("Q", 0), ("S", A), ("R", B), ("R", C)]
    assert found["rec", "train"] == {2: train[:-1], 8: [*train, ("Q", 1), ("S", C)]}
    assert found["search", "train"] == {3: train}
    assert selection.counts["rec_train_dropped_held_out"] == 2
    assert found["search", "valid"] == {5: [*train, ("Q", 1), ("S", C)]}
    # What is shown at test is all that went before, as ever.
    assert found["search", "test"] == {6: [*train, ("Q", 1), ("S", C), ("R", C), ("Q", 1), ("S", C)]}


def test_the_cutoff_takes_what_is_later_than_the_first_held_out_target():
    found, selection = selected(REPEATED, "strict", cutoff="per_user")
    assert np.flatnonzero(selection.training).tolist() == [0, 1, 2, 3]
    assert {(task, split): list(rows) for (task, split), rows in found.items()} == {
        ("rec", "train"): [2], ("rec", "valid"): [9], ("rec", "test"): [10],
        ("search", "train"): [3], ("search", "valid"): [5], ("search", "test"): [6],
    }  # fmt: skip
    assert selection.counts["rec_train_dropped_held_out"] == 2
    assert selection.counts["rec_train_dropped_after_cutoff"] == 1
    # The authors' order keeps the twin: it is as late as the valid target, and no later.
    _, paper = selected(REPEATED, "paper", cutoff="per_user")
    assert np.flatnonzero(paper.training).tolist() == [0, 1, 2, 3, 4]
    assert paper.counts["rec_train_dropped_held_out"] == 0
    assert paper.counts["rec_train_dropped_after_cutoff"] == 2


def test_the_cap_applies_after_held_out_clicks_are_gone():
    # Of the clicks before E, two on C are withheld; two others must still stand in its input.
    found, _ = selected(REPEATED, "strict", most=2)
    assert found["rec", "train"][8] == [("Q", 0), ("S", A), ("R", B), ("R", C), ("Q", 1), ("S", C)]


def test_a_training_row_without_a_search_left_is_dropped():
    # All on one day; the only searches before C are those for the valid and the test target.
    events = [
        event(0, 1, D),
        event(0, 1, A, query=0, session=0),
        event(0, 1, B, query=0, session=1),
        event(0, 1, C),
        event(0, 1, A),
        event(0, 1, B),
    ]
    found, selection = selected(events, "strict")
    assert selection.counts["rec_with_both_histories"] == 3
    assert found["rec", "train"] == {}
    assert selection.counts["rec_train_dropped_without_history"] == 1
    assert found["rec", "test"] == {5: [("R", D), ("Q", 0), ("S", A), ("R", C), ("R", A)]}


def test_a_session_is_one_block_at_the_place_of_its_first_click():
    events = [
        event(0, 1, A),
        event(0, 2, B, query=0, session=7),
        event(0, 3, C),
        event(0, 4, C, query=1, session=3),
        event(0, 5, D, query=0, session=7),
        event(0, 6, E),
    ]
    log = log_of(events)
    inputs = Histories(log, "strict").inputs(log.take(np.array([3, 5])), 9, 9)
    assert list(map(lettered, entries(inputs))) == [
        [("R", A), ("Q", 0), ("S", B), ("R", C)],
        [("R", A), ("Q", 0), ("S", B), ("S", D), ("R", C), ("Q", 1), ("S", C)],
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=150, deadline=None)
@given(logs(), st.integers(1, 4), st.integers(1, 4))
@example([], 1, 1)
def test_every_history_equals_the_plain_loops(protocol, events, max_recommendations, max_searches):
    log = log_of(events)
    source = Histories(log, protocol)
    whole = list(enumerate(events))
    caps = (max_recommendations, max_searches)
    assert entries(source.inputs(log, *caps)) == [expected_history(whole, target, protocol, *caps) for target in whole]
    assert source.both_sides(log).tolist() == [
        both_sides(expected_history(whole, target, protocol, 99, 99)) for target in whole
    ]


@pytest.mark.parametrize("shares", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=60, deadline=None)
@given(logs(users=2, most=26, times=8), st.sampled_from(CUTOFFS))
@example(REPEATED, "none")
@example(REPEATED, "per_user")
def test_targets_splits_and_training_rows_equal_the_plain_loops(protocol, shares, events, cutoff):
    found, selection = selected(events, protocol, most=3, shares=shares, cutoff=cutoff)
    samples, training = expected_samples(events, protocol, 3, 3, 3, shares=shares, cutoff=cutoff)
    expected = {key: {} for key in found}
    for (task, split, i), history in samples.items():
        expected[task, split][i] = lettered(history)
    assert found == expected
    assert np.flatnonzero(selection.training).tolist() == training


@settings(max_examples=150, deadline=None)
@given(logs(), st.data())
def test_a_strict_history_does_not_depend_on_what_the_target_is(events, data):
    if not events:
        return
    chosen = data.draw(st.integers(0, len(events) - 1))
    target = events[chosen]
    moment = [
        e["user"] == target["user"] and e["time"] == target["time"] and e["item"] == target["item"] for e in events
    ]
    renamed = [{**e, "item": 99} if same else e for e, same in zip(events, moment, strict=True)]
    row = np.array([chosen])
    before, after = (
        entries(Histories(log, "strict").inputs(log.take(row), 3, 3)) for log in map(log_of, (events, renamed))
    )
    assert before == after


@pytest.mark.parametrize("shares", SPLITS.values(), ids=SPLITS)
@settings(max_examples=60, deadline=None)
@given(logs(users=2, most=26))
@example(REPEATED)
def test_strict_training_meets_a_held_out_item_only_in_earlier_clicks(shares, events):
    found, selection = selected(events, "strict", most=3, shares=shares)
    held_out = [events[i] for (_, split), rows in found.items() if split != "train" for i in rows]
    # Clicks of each user on each item, by kind, that tell of no held-out target.
    innocent = Counter(
        (e["user"], "R" if e["query"] is None else "S", e["item"]) for e in events if not tells(e, held_out)
    )
    for (_, split), rows in found.items():
        for i, history in rows.items():
            assert both_sides([("RQS".index(letter), value) for letter, value in history])
            if split == "train":
                assert not tells(events[i], held_out)
                met = Counter((events[i]["user"], letter, item) for letter, item in history if letter != "Q")
                assert met <= innocent
    kept = set(np.flatnonzero(selection.training).tolist())
    assert not any(tells(events[i], held_out) for i in kept)
    if not shares:
        # Nothing else goes: an earlier click that is missing would tell as much as a later one that is there.
        assert kept == {i for i, e in enumerate(events) if not tells(e, held_out)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=30, deadline=None)
@given(logs(users=2, most=26, times=8))
@example(REPEATED)
def test_after_the_cutoff_no_training_event_is_later_than_a_held_out_target(protocol, events):
    found, selection = selected(events, protocol, most=3, cutoff="per_user")
    _, without = selected(events, protocol, most=3)
    first = {}
    for (_, split), rows in found.items():
        for e in [events[i] for i in rows if split != "train"]:
            first[e["user"]] = min(e["time"], first.get(e["user"], e["time"]))
    kept = {i for i in np.flatnonzero(without.training) if events[i]["time"] <= first.get(events[i]["user"], 99)}
    assert set(np.flatnonzero(selection.training)) == kept
    for task in ("rec", "search"):
        assert set(found[task, "train"]) <= kept


@given(logs())
@settings(max_examples=30, deadline=None)
def test_histories_do_not_depend_on_how_targets_are_sliced(events):
    log = log_of(events)
    whole = entries(Histories(log, "strict").inputs(log, 3, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "_SLICE", 4)
        assert entries(Histories(log, "strict").inputs(log, 3, 3)) == whole


def test_leave_one_out_by_hand():
    users = np.array([0, 0, 0, 0, 2, 2, 5, 5, 5])
    assert leave_one_out(users, 3).tolist() == [0, 0, 1, 2, -1, -1, 0, 1, 2]
    assert leave_one_out(users, 4).tolist() == [0, 0, 1, 2, -1, -1, -1, -1, -1]
    assert leave_one_out(users[:0], 3).tolist() == []


def test_worked_log_split_by_time():
    # Targets stand at time 2 (rec 2, 3; search 4, 5, 6), 3 (rec 7, 8; search 9), 4 (10; 11) and 5 (12; 13).
    found, paper = selected(WORKED, "paper", shares=[0.5, 0.25, 0.25])
    assert {part: list(rows) for part, rows in found.items()} == {
        ("rec", "train"): [2, 3], ("rec", "valid"): [7, 8], ("rec", "test"): [10, 12],
        ("search", "train"): [4, 5, 6], ("search", "valid"): [9], ("search", "test"): [11, 13],
    }  # fmt: skip
    # The second user has no target, and what that user does from time 3 on is no more for training.
    assert np.flatnonzero(paper.training).tolist() == [*range(7), 14, 15, 16]
    assert found["search", "valid"] == {9: [*UNTIL_TIME_2, ("Q", 2), ("S", F), ("R", E)]}
    assert found["rec", "test"] == {10: UNTIL_TIME_3, 12: UNTIL_TIME_4}
    assert (paper.counts["valid_from"], paper.counts["test_from"]) == (3, 4)
    # Strict: E, D and F are held out; that F was searched at time 2 is no secret.
    found, strict = selected(WORKED, "strict", shares=[0.5, 0.25, 0.25])
    assert found["rec", "train"] == {2: A0, 3: [*A0, ("R", B)]}
    assert found["search", "train"] == {4: [*A0, ("R", C)], 5: [*A0, ("R", B)], 6: UNTIL_TIME_2}
    assert np.flatnonzero(strict.training).tolist() == [*range(7), 14, 15, 16]
    assert strict.counts == {
        "valid_from": 3, "test_from": 4,
        "rec_with_both_histories": 6, "rec_users": 1, "rec_targets": 6, "rec_train_split": 2, "rec_train": 2, "rec_valid": 2, "rec_test": 2,
        "rec_train_dropped_held_out": 0, "rec_train_dropped_after_cutoff": 0, "rec_train_dropped_without_history": 0,
        "search_with_both_histories": 6, "search_users": 1, "search_targets": 6, "search_train_split": 3,
        "search_train": 3, "search_valid": 1, "search_test": 2,
        "search_train_dropped_held_out": 0, "search_train_dropped_after_cutoff": 0,
        "search_train_dropped_without_history": 0,
    }  # fmt: skip


def test_users_with_one_target_count_when_the_split_is_by_time():
    events = [
        entry
        for user in range(3)
        for entry in (event(user, 1, A), event(user, 2, B, query=0, session=user), event(user, 3 + user, C))
    ]
    found, selection = selected(events, "strict", shares=[0.4, 0.3, 0.3])
    assert [list(found["rec", split]) for split in ("train", "valid", "test")] == [[2], [5], [8]]
    assert selection.counts["rec_users"] == 3
    assert selected(events, "strict")[0]["rec", "test"] == {}


@pytest.mark.parametrize(
    ("times", "shares", "expected"),
    [
        (range(10), [0.8, 0.1, 0.1], [8, 9]),
        (range(100), [0.8, 0.1, 0.1], [80, 90]),
        # Eight of ten stand at time 0; the rest would leave nothing for test if they stood together.
        ([0] * 8 + [1, 2], [0.5, 0.25, 0.25], [1, 2]),
        # A cut before time 5 has four targets on its left, one after it eight: four is nearer to five.
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


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 30), max_size=60), st.sampled_from([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.05, 0.9, 0.05]])
)
def test_moments_are_nearest_to_the_shares_and_leave_no_part_empty(times, shares):
    moments = moments_of_split(np.array(times, dtype=np.int64), shares).tolist()
    assert moments == list(expected_moments(times, shares) or [])
    if moments:
        assert min(times) < moments[0] < moments[1] <= max(times)
