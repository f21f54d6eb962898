"""Collaborative indexing: its graph counted by hand, its division of known blocks, and rows of which none begins another."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.sparse import csr_matrix

from gensar_core import schema
from gensar_core.config.identifiers import ClusterSettings
from gensar_core.corpora.trie import TokenTrie
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.interface import KindData
from gensar_core.identifiers.kinds import clusters
from gensar_core.identifiers.kinds.clusters import _LOPSIDED, click_graph, cluster_paths, divided
from gensar_core.identifiers.table import IdentifierTable
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import read_record
from tests.support.samples_logs import event, write_canonical
from tests.support.small_parts import small_parts


def blocks(sizes: list[int], seed: int = 0, clicks: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of clicks: each user clicks items of one block alone, numbered block by block."""
    rng = np.random.default_rng(seed)
    users, items, first = [], [], 0
    for block, size in enumerate(sizes):
        for user in range(4 * size):
            users += [10_000 * block + user] * clicks
            items += (first + rng.integers(size, size=clicks)).tolist()
        first += size
    return np.array(users), np.array(items)


def by_user(users: np.ndarray, items: np.ndarray) -> Ragged:
    order = np.argsort(users, kind="stable")
    return Ragged.from_lengths(np.unique(users, return_counts=True)[1], items[order])


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=25), st.integers(1, 5), st.sampled_from([1, 20])
)
def test_the_graph_counts_pairs_of_clicks_of_one_user(clicks: list[tuple[int, int]], size: int, pairs: int) -> None:
    """However many users or pairs are counted at once, cells are those of one dense matrix, in its order."""
    users, items = (np.array([click[place] for click in clicks], dtype=np.int64) for place in (0, 1))
    expected = np.zeros((6, 6))
    for (user, item), (other_user, other) in itertools.combinations(clicks, 2):
        if user == other_user and item != other:
            expected[item, other] += 1
            expected[other, item] += 1
    with pytest.MonkeyPatch.context() as patch, small_parts(size, clusters):
        patch.setattr(clusters, "_PAIRS", pairs)
        graph = click_graph(by_user(users, items), 6)
    assert graph.dtype == np.float32
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(graph, name), getattr(csr_matrix(expected), name))


@pytest.mark.parametrize("sizes", [[30, 30], [20, 50], [400, 400]])
def test_two_blocks_are_two_clusters(sizes: list[int]) -> None:
    """The largest has too many items for a dense decomposition."""
    first, second = divided(click_graph(by_user(*blocks(sizes)), sum(sizes)), 2, seed=3)
    np.testing.assert_array_equal(first, np.arange(sizes[0]))
    np.testing.assert_array_equal(second, np.arange(sizes[0], sum(sizes)))


def test_what_spectral_clustering_leaves_together_is_cut_evenly() -> None:
    """All items are alike: every user clicked all of them."""
    users, items = np.repeat(np.arange(5), 30), np.tile(np.arange(30), 5)
    groups = divided(click_graph(by_user(users, items), 30), 3, seed=0)
    assert sorted(np.concatenate(groups).tolist()) == list(range(30))
    assert max(map(len, groups)) <= _LOPSIDED * 30


@settings(max_examples=10)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(0, 60),
    st.integers(2, 4),
    st.integers(5, 12),
    st.integers(0, 3),
)
def test_paths_lead_to_small_leaves_that_hold_each_item_once(
    sizes: list[int], unclicked: int, parts: int, leaf_size: int, seed: int
) -> None:
    items = sum(sizes) + unclicked
    leaves, paths = cluster_paths(click_graph(by_user(*blocks(sizes, seed)), items), parts, leaf_size, seed)
    assert sorted(item for leaf in leaves for item in leaf.tolist()) == list(range(items))
    assert max(map(len, leaves)) <= leaf_size
    assert all(path and max(path) < leaf_size for path in paths)
    # No leaf's path is the beginning of another's, so no item's row is.
    for path, other in itertools.permutations(paths, 2):
        assert other[: len(path)] != path


def build(folder: Path, clicks: list[tuple[int, int]], items: int, **changes: object) -> IdentifierTable:
    """Build clusters of items from recommendation clicks, (user, item), and from one search click that must not count."""
    log = [event(user, time, item) for time, (user, item) in enumerate(sorted(clicks))]
    last = max(clicks)[0]
    log += [event(last, 10**6 + item, item, query=0, session=item) for item in (0, items - 1)]
    write_canonical(folder / "canonical", log, items=items)
    data = KindData(training_events=folder / "canonical/events.parquet", item_texts=folder / "canonical/items.parquet")
    kind = ClusterSettings.model_validate({"kind": "clusters", "parts": 2, "leaf_size": 16, **changes})
    build_identifiers(data, folder / "out", kind, 5, None)
    return IdentifierTable.load(folder / "out")


def test_both_sides_get_rows_of_different_length_that_end_in_leaves(tmp_path: Path) -> None:
    users, clicked = blocks([14, 40])
    table = build(tmp_path, list(zip(users.tolist(), clicked.tolist(), strict=True)), items=60)
    # Blocks of 14 and 40 items, and 6 items without clicks: numbers 0, 1 and 2; the second is divided again.
    assert [table.text("collaborative", item) for item in (0, 13)] == ["<C_0><C_0>", "<C_0><C_13>"]
    assert [table.text("collaborative", item) for item in (54, 59)] == ["<C_2><C_0>", "<C_2><C_5>"]
    assert all(table.text("collaborative", item).startswith("<C_1><C_") for item in range(14, 54))
    assert set(table.sides["collaborative"].lengths[14:54].tolist()) <= {3, 4, 5}
    assert len(table.tokens) == 16
    np.testing.assert_array_equal(table.sides["semantic"].values, table.sides["collaborative"].values)
    # Every row is a leaf of the trie: none is the beginning of another, none belongs to two items.
    trie = TokenTrie.from_rows(table.sides["collaborative"])
    assert sum(int(level.ends.sum()) for level in trie.levels) == 60
    counts = read_record(tmp_path / "out/stage.json")["counts"]
    assert counts["items_without_edges"] == 6
    assert counts["collaborative"]["collision_rate"] == counts["collaborative"]["colliding_items"] == 0
    assert len(counts["collaborative"]["usage"]) == int(table.sides["collaborative"].lengths.max())
    assert "semantic" not in counts


def test_a_small_catalogue_is_one_leaf(tmp_path: Path) -> None:
    table = build(tmp_path, [(user, item) for user in range(3) for item in range(4)], items=4)
    assert [table.text("semantic", item) for item in range(4)] == [f"<C_0><C_{item}>" for item in range(4)]


def test_random_last_codes_differ_and_come_from_the_seed(tmp_path: Path) -> None:
    clicks = [(user, item) for user in range(3) for item in range(8)]
    one, two = (build(tmp_path / name, clicks, items=8, last_code="random") for name in ("one", "two"))
    last = one.sides["semantic"].values[1::2]
    assert len(set(last.tolist())) == 8
    assert last.tolist() != sorted(last.tolist())
    assert (tmp_path / "one/out/identifiers.parquet").read_bytes() == (
        tmp_path / "two/out/identifiers.parquet"
    ).read_bytes()
    assert Counter(two.sides["semantic"].lengths.tolist()) == {2: 8}


def test_a_leaf_must_have_more_codes_than_clusters_side_by_side() -> None:
    with pytest.raises(ValidationError, match=r"leaf_size is 20; with 20 parts .* write 21 or more"):
        ClusterSettings(kind="clusters", leaf_size=20)


def test_the_table_holds_the_clicks_of_recommendation_alone(tmp_path: Path) -> None:
    """The search clicks that `build` adds would link items 0 and 3."""
    build(tmp_path, [(0, 1), (0, 2)], items=4)
    assert read_record(tmp_path / "out/stage.json")["counts"]["edges"] == 1
    assert len(schema.EVENTS.read(tmp_path / "canonical/events.parquet")) == 4
