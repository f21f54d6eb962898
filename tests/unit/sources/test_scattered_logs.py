"""Canonical tables of click logs made by several jobs are, byte for byte, those of one."""

import json
import shutil

import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from gensar_core.config.datasets import EventLogSettings, KuaiSARSettings, QilinSettings
from gensar_core.errors import UserError
from gensar_core.runtime.stage import read_record
from gensar_core.sources.eventlog import canonicalize_events
from gensar_core.sources.kuaisar import canonicalize_kuaisar
from gensar_core.sources.qilin import canonicalize_qilin
from gensar_core.sources.shared import click_logs, event_blocks
from gensar_core.sources.shared.click_logs import canonicalize_part, gather_canonical
from tests.support.sources_files import table_bytes, warnings

from . import test_kuaisar, test_qilin

ITEMS = pl.DataFrame({"item_id": ["1", "2", "3", None, "2"], "title": ["tea", "mug", " ", "cup", "pot"]})
#: Most rows are usable, else most logs would be refused.
EVENTS = st.tuples(
    st.sampled_from([*["u1", "u10", "u2", "é", "中"] * 5, "", None]),
    st.sampled_from([*(str(time) for time in range(100, 120)), "noon"]),
    st.sampled_from(["recommendation", "search"]),
    st.sampled_from([*["1", "2"] * 4, "3", "unknown"]),
    st.sampled_from([*["tea", "mug"] * 6, "", None]),
    st.sampled_from(["x", "y", None]),
)
COLUMNS = ("user_id", "time", "kind", "item_id", "query", "session_id")


def canonicalize(folder, parts, make, settings):
    """The files and what the record says, or the error of a log that ``parts`` jobs make canonical."""
    output = folder / "canonical"
    try:
        if parts == 1:
            make(output, 1)
        else:
            surveyed, folders = folder / "survey", [folder / f"{part}-of-{parts}" for part in range(parts)]
            make(surveyed, parts)
            for part, part_folder in enumerate(folders):
                canonicalize_part(surveyed, part_folder, settings, 1, part)
            gather_canonical(surveyed, folders, output, settings, 1)
        record = read_record(output / "stage.json")
        # As text, since the order of the counts is part of the record.
        told = json.dumps({name: record[name] for name in ("stage", "settings", "seed", "module", "code", "counts")})
        return table_bytes(output), told, warnings(output)
    except UserError as error:
        return str(error)
    finally:
        shutil.rmtree(output, ignore_errors=True)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@given(
    log=st.lists(EVENTS, min_size=30, max_size=80),
    parts=st.integers(2, 6),
    block=st.sampled_from([1, 7, 1000]),
    sampled=st.sampled_from([1, 1000]),
    minimum=st.sampled_from([0, 3, 4, 5]),
    keep=st.booleans(),
)
@budget(max_examples=30)
def test_parts_of_the_users_do_not_change_the_tables(workplace, log, parts, block, sampled, minimum, keep):
    settings = EventLogSettings(min_interactions=minimum, keep_textless_items=keep)
    items, events = workplace / "items.parquet", workplace / "events.parquet"
    ITEMS.write_parquet(items)
    pl.DataFrame(log, schema=dict.fromkeys(COLUMNS, pl.String), orient="row").write_parquet(events)

    def make(output, parts):
        canonicalize_events(items, events, settings, output, 1, parts)

    expected = canonicalize(workplace, 1, make, settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_blocks, "BLOCK", block)
        patch.setattr(click_logs, "_SAMPLED", sampled)
        assert canonicalize(workplace, parts, make, settings) == expected


def kuaisar(folder):
    # Alone in its session, this click is on an item without a row.
    extra = "9,2,2023-05-22 15:53:22,1684742009000,[3],USER_INPUT,98,1,VIDEO\n"
    test_kuaisar.run(folder, src=test_kuaisar.SRC + extra)
    settings = KuaiSARSettings(min_interactions=1)
    return settings, lambda output, parts: canonicalize_kuaisar(folder, settings, output, 1, parts)


def qilin(folder):
    test_qilin.write(folder, test_qilin.PUBLISHED)
    settings = QilinSettings(min_interactions=1)
    return settings, lambda output, parts: canonicalize_qilin(folder, settings, output, 1, parts)


@pytest.mark.parametrize("source", [kuaisar, qilin])
def test_published_logs_are_made_canonical_in_parts(tmp_path, source):
    settings, make = source(tmp_path)
    expected = canonicalize(tmp_path, 1, make, settings)
    assert len(expected) == 3
    assert canonicalize(tmp_path, 3, make, settings) == expected


def many_users(folder, parts):
    """A log of 3,000 events of 300 users, and its survey."""
    rows = [
        (f"u{number % 300}", str(1_700_000_000 + number), "recommendation", "1", None, None) for number in range(3000)
    ]
    ITEMS.write_parquet(folder / "items.parquet")
    pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row").write_parquet(folder / "events.parquet")
    settings = EventLogSettings(min_interactions=0)
    canonicalize_events(folder / "items.parquet", folder / "events.parquet", settings, folder / "survey", 1, parts)
    return settings


def test_parts_are_ranges_of_users_of_about_equal_size(tmp_path):
    many_users(tmp_path, 4)
    shares = [pl.read_parquet(tmp_path / "survey" / "events" / f"{part}.parquet") for part in range(4)]
    assert [user for share in shares for user in share["user"].unique().sort()] == sorted(f"u{n}" for n in range(300))
    assert all(600 < len(share) < 900 for share in shares)


@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
@pytest.mark.parametrize("name", ["survey/events/1.parquet", "survey/cleaned.parquet", "0/blocks/block000000.parquet"])
def test_a_damaged_file_of_a_part_is_one_error(tmp_path, name, damage):
    settings = many_users(tmp_path, 2)
    surveyed, folders = tmp_path / "survey", [tmp_path / "0", tmp_path / "1"]
    canonicalize_part(surveyed, folders[0], settings, 1, 0)
    file = tmp_path / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-9] if damage == "cut" else data[:9] + b"?" + data[10:])
    with pytest.raises(UserError) as caught:
        canonicalize_part(surveyed, folders[1], settings, 1, 1)
        gather_canonical(surveyed, folders, tmp_path / "canonical", settings, 1)
    problem = {"cut": "has ", "changed": "is not what was written", "missing": "is missing"}[damage]
    assert str(caught.value).startswith(f"{file}: {problem}")
    assert "run again" in str(caught.value)
    assert not (tmp_path / "canonical" / "events.parquet").exists()


def test_a_missing_part_is_one_error(tmp_path):
    settings = many_users(tmp_path, 2)
    with pytest.raises(UserError, match=r"0/stage.json: no such record"):
        gather_canonical(tmp_path / "survey", [tmp_path / "0"], tmp_path / "canonical", settings, 1)
    with pytest.raises(UserError, match=r"events/2.parquet: no such file"):
        canonicalize_part(tmp_path / "survey", tmp_path / "2", settings, 1, 2)
