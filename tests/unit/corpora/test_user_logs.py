"""Users' logs as rows: what each entry sees, its position, and windows."""

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.corpora import user_logs
from gensar_core.corpora.user_logs import (
    NO_TARGET,
    HeldOut,
    cut_windows,
    log_entries,
    log_rows,
    training_targets,
    write_logs,
)
from gensar_core.runtime.arrays import Ragged
from gensar_core.samples import events
from gensar_core.samples.events import EventLog
from gensar_core.schema import RECOMMENDED_ITEM, SEARCHED_ITEM, SEARCHED_QUERY, SPLITS, TASKS, USER_LOGS
from tests.support.samples_logs import WORKED, event, events_frame, expected_history, logs
from tests.support.small_parts import small_parts


def entries_of(log, protocol="strict"):
    return log_entries(EventLog.from_frame(events_frame(log)), protocol)


def sees(entries, reader, read):
    """Whether an entry sees another, by the columns that a row holds."""
    if entries.user[reader] != entries.user[read]:
        return False
    return bool(entries.closes[read] < entries.opens[reader] or read in (reader, entries.query[reader]))


def test_a_worked_log_is_written_in_event_order_with_each_query_before_its_first_click():
    entries = entries_of(WORKED[:6])
    assert entries.behavior.tolist() == [0, 1, 2, 0, 0, 1, 2, 2]
    assert entries.object.tolist() == [0, 0, 0, 1, 2, 1, 1, 2]
    assert entries.query.tolist() == [0, 1, 1, 3, 4, 5, 5, 5]
    # Twins and the session of two clicks form one group: events 2 to 5.
    assert entries.opens.tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    assert entries.closes.tolist() == [1, 1, 1, 5, 5, 5, 5, 5]
    # Each entry has 2 tokens. All of a group stand after what came before it, and clicks after their query, too.
    tokens = Ragged.from_lengths(np.full(8, 2), np.zeros(16))
    assert log_rows(entries, tokens, np.zeros(8), 99, 99)["position"].to_list() == [[0, 0, 2, 6, 6, 6, 8, 8]]


@settings(max_examples=50)
@given(logs(), st.sampled_from(["strict", "paper"]))
def test_no_target_sees_what_its_history_hides(log, protocol):
    entries, numbered = entries_of(log, protocol), list(enumerate(log))
    for reader in range(len(entries)):
        if entries.behavior[reader] == SEARCHED_QUERY:
            continue
        position = int(entries.event[reader])
        allowed = expected_history(numbered, (position, log[position]), protocol, 10**6, 10**6)
        if log[position]["query"] is not None:
            allowed = [*allowed, (SEARCHED_QUERY, log[position]["query"])]
        seen = [
            (int(entries.behavior[read]), int(entries.object[read]))
            for read in range(len(entries))
            if read != reader and sees(entries, reader, read)
        ]
        for entry in seen:
            assert seen.count(entry) <= allowed.count(entry)
        # And nothing at or after the target, however it is written.
        assert all(
            entries.event[read] < position
            for read in range(reader)
            if sees(entries, reader, read) and read != entries.query[reader]
        )


@settings(max_examples=50)
@given(logs())
def test_nothing_hidden_reaches_an_entry_through_a_third(log):
    entries = entries_of(log)
    every = range(len(entries))
    for reader in every:
        for middle in every:
            if sees(entries, reader, middle) and entries.closes[middle] < entries.opens[reader]:
                assert all(sees(entries, reader, read) for read in every if sees(entries, middle, read))


@settings(max_examples=50)
@given(logs(single_clicks=True))
def test_where_no_groups_overlap_an_entry_sees_its_whole_history(log):
    entries, numbered = entries_of(log), list(enumerate(log))
    intervals = {(int(first), int(last)) for first, last in zip(entries.opens, entries.closes, strict=True)}
    if any(one != other and one[0] <= other[1] and other[0] <= one[1] for one in intervals for other in intervals):
        return
    for reader in range(len(entries)):
        position = int(entries.event[reader])
        # A group may hold more than the target's twins: then what lies between is hidden, too.
        if entries.behavior[reader] == SEARCHED_QUERY or entries.closes[reader] - entries.opens[reader] > 1:
            continue
        seen = sum(
            sees(entries, reader, read) for read in range(len(entries)) if read not in (reader, entries.query[reader])
        )
        assert seen == len(expected_history(numbered, (position, log[position]), "strict", 10**6, 10**6))


@settings(max_examples=50)
@given(logs(), st.data())
def test_positions_count_the_tokens_that_an_entry_sees(log, data):
    entries = entries_of(log)
    lengths = np.array(data.draw(st.lists(st.integers(1, 4), min_size=len(entries), max_size=len(entries))), dtype=int)
    tokens = Ragged.from_lengths(lengths, np.zeros(lengths.sum()))
    rows = log_rows(entries, tokens, np.zeros(len(entries)), 10**6, 10**6)
    for reader, position in enumerate(rows["position"].explode()):
        seen = [read for read in range(len(entries)) if read != reader and sees(entries, reader, read)]
        assert position == sum(lengths[seen])


@settings(max_examples=50)
@given(logs(), st.integers(8, 30), st.booleans(), st.data())
def test_each_target_stands_in_one_window_with_half_of_it_before(log, width, asked, data):
    entries = entries_of(log)
    lengths = np.array(data.draw(st.lists(st.integers(1, 4), min_size=len(entries), max_size=len(entries))), dtype=int)
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=len(entries), max_size=len(entries))), dtype=bool)
    history = width if asked else width // 2
    windows = cut_windows(entries, lengths, wanted, width, history)
    targets = []
    for first, start, stop in zip(windows.first, windows.asked, windows.stop, strict=True):
        assert len(set(entries.user[first:stop])) == 1
        targets += [entry for entry in range(start, stop) if wanted[entry]]
        before = [
            entry for entry in range(len(entries)) if entries.user[entry] == entries.user[start] and entry < first
        ]
        size = lengths[first:stop].sum()
        assert size <= width or entries.query[start] == first
        # The entry before the window would not have fitted beside the first target.
        if before:
            longer = lengths[first - 1 : start].sum()
            assert longer > history or longer + lengths[start] > width
        assert all(entries.query[entry] >= first for entry in range(start, stop) if wanted[entry])
    assert targets == np.flatnonzero(wanted).tolist()


def write_samples(folder, rows):
    """Write samples (id, task, split, user, event) of item 0."""
    schema.SAMPLES.write(
        pl.DataFrame(
            [(number, task, split, user, 0, event, 0, None, [], []) for number, task, split, user, event in rows],
            schema=schema.SAMPLES.schema,
            orient="row",
        ),
        folder / "samples.parquet",
    )


@settings(max_examples=50)
@given(logs(), st.data(), st.integers(1, 7), st.integers(1, 30))
def test_logs_do_not_depend_on_the_parts_that_are_read(log, data, size, block):
    held_out = data.draw(st.lists(st.integers(0, max(len(log) - 1, 0)), unique=True, max_size=len(log)))
    splits = data.draw(st.lists(st.sampled_from(SPLITS), min_size=len(held_out), max_size=len(held_out)))
    named = {
        number: held for number, (held, split) in enumerate(zip(held_out, splits, strict=True)) if split != "train"
    }
    whole = EventLog.from_frame(events_frame(log))
    entries = log_entries(whole, "strict")
    target = np.full(len(entries), NO_TARGET)
    for entry in range(len(entries)):
        for number, held in named.items():
            if entries.behavior[entry] != SEARCHED_QUERY and entries.event[entry] == held:
                target[entry] = number

    def tokens(entries):
        return Ragged.from_lengths(np.full(len(entries), 2), np.repeat(entries.object, 2))

    with tempfile.TemporaryDirectory() as name, small_parts(size, user_logs), pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        events_frame(log).write_parquet(folder / "events.parquet")
        write_samples(
            folder, [(n, "rec", split, 0, held) for n, (held, split) in enumerate(zip(held_out, splits, strict=True))]
        )
        patch.setattr(events, "_BLOCK", block)
        target_of = HeldOut(folder / "samples.parquet").targets
        write_logs(folder / "events.parquet", folder / "logs.parquet", target_of, tokens, TASKS, "strict", 20, 20)
        rows = USER_LOGS.read(folder / "logs.parquet")
    assert rows.equals(USER_LOGS.check(log_rows(entries, tokens(entries), target, 20, 20)))


@pytest.mark.parametrize("size", [1, 2, 100])
def test_rows_to_rank_ask_for_the_samples_and_leave_out_users_without_any(size, tmp_path):
    log = [*WORKED[:14], *(event(2, time, time) for time in range(3))]
    frame = events_frame(log)
    frame.write_parquet(tmp_path / "events.parquet")
    held_out = [(0, "train", 12), (7, "valid", 13), (8, "test", 16), (9, "test", 11)]
    write_samples(tmp_path, [(number, "search", split, 0, event_id) for number, split, event_id in held_out])
    path = tmp_path / "asked_logs.parquet"

    def tokens(entries):
        return Ragged.from_lengths(np.full(len(entries), 2), np.repeat(entries.object, 2))

    with small_parts(size, user_logs):
        target_of = HeldOut(tmp_path / "samples.parquet").targets
        counts = write_logs(tmp_path / "events.parquet", path, target_of, tokens, TASKS, "strict", 64, 64)
    rows = USER_LOGS.read(path)
    assert counts == {"rows": 2, "tokens": sum(map(len, rows["token_ids"])), "targets": 3}
    assert rows["user_id"].to_list() == [0, 2]
    first = rows.row(0, named=True)
    marked = [(b, o, t) for b, o, t in zip(first["behavior"], first["object"], first["target"], strict=True) if t >= 0]
    assert marked == [(SEARCHED_ITEM, 4, 9), (SEARCHED_ITEM, 5, 7)]
    assert rows.row(1, named=True)["behavior"] == [RECOMMENDED_ITEM] * 3


def test_a_row_cut_from_a_log_counts_from_its_own_beginning():
    log = [event(0, time, time % 5) for time in range(12)]
    events = EventLog.from_frame(events_frame(log))
    entries = log_entries(events, "strict")
    tokens = Ragged.from_lengths(np.full(12, 3), np.arange(36))
    rows = log_rows(entries, tokens, training_targets(entries, events), 12, 6)
    for row in rows.iter_rows(named=True):
        assert row["position"][0] == row["opens"][0] == 0
        assert row["query"] == list(range(len(row["lengths"])))
        assert row["position"] == list(range(0, 3 * len(row["lengths"]), 3))
    asked = [target for row in rows["target"] for target in row if target != NO_TARGET]
    assert asked == list(range(12))


@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_an_empty_log_has_no_entries(protocol):
    assert len(entries_of([], protocol)) == 0
