"""The negatives of train targets: what they are drawn from, that only training events decide, and reproducibility."""

import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import TrainingNegativesSettings
from gensar_core.errors import UserError
from gensar_core.samples import events as event_tables
from gensar_core.samples import training_negatives as module
from gensar_core.samples.training_negatives import draw_training_negatives, gather_training_negatives
from tests.support.samples_logs import PROTOCOLS, WORKED, A, B, C, D, E, F, build, check_negatives, event, logs

FILE = "training_negatives.parquet"
CROWD = [event(user, 1, item) for user in range(2, 20) for item in range(9, 40)]


def draw(folder, seed=1, output=None, part=0, parts=1, **overrides):
    settings, output = TrainingNegativesSettings(**overrides), output or folder / "negatives"
    draw_training_negatives(folder / "canonical", folder / "samples", output, settings, seed, None, part, parts)
    return schema.TRAINING_NEGATIVES.read(output / FILE)


def train_samples(folder):
    return schema.SAMPLES.read(folder / "samples" / "samples.parquet").filter(pl.col("split") == "train")


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs(users=3, most=20, items=30), st.integers(1, 20))
def test_negatives_are_distinct_without_the_target_and_unseen_in_training(tmp_path, protocol, split, log, negatives):
    if not build(tmp_path, log, items=30, history_protocol=protocol, split=split):
        return
    drawn = draw(tmp_path, negatives=negatives)
    train = train_samples(tmp_path)
    assert drawn["sample_id"].to_list() == train["sample_id"].to_list()
    training_events = schema.EVENTS.read(tmp_path / "samples/training_events.parquet")["event_id"].to_list()
    check_negatives(train.join(drawn, on="sample_id"), [log[i] for i in training_events], negatives)


def test_held_out_items_that_others_clicked_are_negatives(tmp_path):
    # Without the earlier clicks on E and F the first user trains on A to D; E and F are held out, and a third user clicks
    # them. Query 0 matches the items 0, 3 and 6, query 1 the items 1, 4 and 7.
    build(tmp_path, [*WORKED[:6], *WORKED[8:], event(2, 1, E), event(2, 2, F)], items=9)
    drawn = draw(tmp_path, negatives=9)
    train = train_samples(tmp_path)
    rows = train.join(drawn, on="sample_id").sort("sample_id").rows(named=True)
    assert [(row["task"], row["target_item"], row["query_id"]) for row in rows] == [
        ("rec", B, None), ("rec", C, None), ("rec", D, None), ("search", B, 1), ("search", C, 1), ("search", D, 0),
    ]  # fmt: skip
    assert [sorted(row["negatives"]) for row in rows[:3]] == [[E, F, 6, 7, 8]] * 3
    hits = [[4, 7], [1, 4, 7], [0, 6]]
    drawn = [[F, 6, 8], [F, 6, 8], [E, F, 7, 8]]
    for row, row_hits, row_drawn in zip(rows[3:], hits, drawn, strict=True):
        count = len(row_hits)
        assert (row["negatives"][:count], sorted(row["negatives"][count:])) == (row_hits, row_drawn)
    counts = json.loads((tmp_path / "negatives/stage.json").read_text())["counts"]
    assert counts == {
        "queries": 2, "lists": 6, "lists_topped_up": 3, "lists_short": 6, "lists_rec": 3, "lists_search": 3,
    }  # fmt: skip


def test_events_after_training_do_not_change_negatives(tmp_path):
    crowd = [event(user, 1, item) for user in range(2, 9) for item in range(9, 30)]
    lists = []
    # In both logs user 0's test target is new to that user; the logs differ only from time 9 on.
    for last, later in ((F, []), (E, [event(9, 9, item) for item in (6, 6, 6, 30, 31)])):
        log = [event(0, 1, A, query=0, session=0), *(event(0, t, t - 1) for t in range(2, 6)), event(0, 9, last)]
        build(tmp_path, log + crowd + later, items=40, split="time", time_shares=[0.4, 0.3, 0.3])
        assert train_samples(tmp_path)["target_item"].to_list() == [C, D]
        lists.append(draw(tmp_path)["negatives"].to_list())
    assert lists[0] == lists[1]


def test_equal_seeds_give_equal_bytes_in_any_order_of_rows(tmp_path):
    build(tmp_path, WORKED + CROWD, items=40)
    # Four negatives are drawn by default, the first of any larger number.
    four, six = draw(tmp_path)["negatives"], draw(tmp_path, negatives=6)["negatives"]
    assert four.list.len().to_list() == [4] * len(four)
    assert six.list.head(4).to_list() == four.to_list()
    file = tmp_path / "negatives" / FILE
    contents = []
    for seed in (4, 4, 5):
        draw(tmp_path, seed=seed)
        contents.append(file.read_bytes())
    for table, path in (
        (schema.ITEMS, "canonical/items.parquet"),
        (schema.QUERIES, "canonical/queries.parquet"),
        (schema.SAMPLES, "samples/samples.parquet"),
        (schema.EVENTS, "samples/training_events.parquet"),
    ):
        table.write(table.read(tmp_path / path).reverse(), tmp_path / path)
    draw(tmp_path, seed=4)
    assert contents[0] == contents[1] == file.read_bytes() != contents[2]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs(users=5, most=18, items=30), st.integers(1, 6), st.integers(1, 40), st.integers(1, 5))
def test_parts_and_blocks_of_users_do_not_change_the_file(tmp_path, log, parts, block, rows):
    if not build(tmp_path, log, items=30):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ROWS", rows)
        draw(tmp_path)
        patch.setattr(event_tables, "_BLOCK", block)
        folders = [tmp_path / f"{part}-of-{parts}" for part in range(parts)]
        sizes = [len(draw(tmp_path, output=folder, part=part, parts=parts)) for part, folder in enumerate(folders)]
        gathered = tmp_path / "gathered"
        gather_training_negatives(tmp_path / "samples", folders, gathered, TrainingNegativesSettings(), 1)
    whole = tmp_path / "negatives"
    assert (gathered / FILE).read_bytes() == (whole / FILE).read_bytes()
    counts = json.loads((gathered / "stage.json").read_text())["counts"]
    assert counts == json.loads((whole / "stage.json").read_text())["counts"]
    assert sum(sizes) == len(train_samples(tmp_path))


def test_a_damaged_file_of_a_part_is_one_clear_error(tmp_path):
    build(tmp_path, WORKED, items=9)
    draw(tmp_path, output=tmp_path / "part")
    (tmp_path / "part" / FILE).unlink()
    with pytest.raises(UserError, match=rf"part/{FILE}: is missing; delete .* and run again"):
        gather_training_negatives(
            tmp_path / "samples", [tmp_path / "part"], tmp_path / "all", TrainingNegativesSettings(), 1
        )


def test_folders_that_do_not_match_are_one_clear_error(tmp_path):
    build(tmp_path, WORKED, items=9)
    path = tmp_path / "samples/training_events.parquet"
    events = schema.EVENTS.read(path)
    wrong = {
        "a train target is not among .*training_events.parquet": events.filter(pl.col("event_id") != 8),
        "an item or a query has no row in .*canonical": events.with_columns(item_id=pl.col("item_id") + 1),
    }
    for message, frame in wrong.items():
        schema.EVENTS.write(frame, path)
        with pytest.raises(UserError, match=message):
            draw(tmp_path)
        assert list((tmp_path / "negatives").iterdir()) == []
    (tmp_path / "canonical/queries.parquet").unlink()
    with pytest.raises(UserError, match=r"queries\.parquet: no such file"):
        draw(tmp_path)
