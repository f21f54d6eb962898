"""The catalogue's trie, against prefixes listed one by one."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.corpora import trie as module
from gensar_core.corpora.trie import Level, TokenTrie, counts, load_tries, restricted, save_tries
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged

END = 1
rows_of_codes = st.lists(st.lists(st.integers(2, 5), max_size=4), min_size=1, max_size=12)


def ragged(codes: list[list[int]]) -> Ragged:
    rows = [[*row, END] for row in codes]
    return Ragged.from_lengths(
        np.array([len(row) for row in rows]), np.array([*itertools.chain(*rows)], dtype=np.int32)
    )


def prefixes(trie: TokenTrie) -> list[list[tuple[int, ...]]]:
    """The prefix of every node of every level, told by walking down from the root."""
    found: list[list[tuple[int, ...]]] = [[()]]
    for level, below in zip(trie.levels, trie.levels[1:], strict=False):
        found.append([])
        for node, prefix in enumerate(found[-2]):
            for child in range(int(level.first_child[node]), int(level.first_child[node + 1])):
                found[-1].append((*prefix, int(below.token[child])))
        assert len(found[-1]) == len(below)
    return found


@given(rows_of_codes)
@settings(max_examples=80)
def test_nodes_are_the_prefixes_and_know_their_items(codes: list[list[int]]) -> None:
    trie = TokenTrie.from_rows(ragged(codes))
    rows = [(*row, END) for row in codes]
    for depth, found in enumerate(prefixes(trie)):
        assert found == sorted({row[:depth] for row in rows if len(row) >= depth})
        level = trie.levels[depth]
        for node, prefix in enumerate(found):
            beneath = trie.items[int(level.start[node]) : int(level.stop[node])].tolist()
            assert sorted(beneath) == [item for item, row in enumerate(rows) if row[:depth] == prefix]
            assert bool(level.ends[node]) == (prefix in rows)
    assert trie.items[trie.place].tolist() == list(range(len(codes)))
    assert trie.fixed_length == (len({len(row) for row in rows}) == 1)
    assert trie.most_alike == max(rows.count(row) for row in rows)


@pytest.mark.parametrize("dense", [0, 1 << 20])
@given(codes=rows_of_codes, data=st.data())
@settings(max_examples=60)
def test_a_restriction_leaves_the_branches_that_lead_to_allowed_items(
    dense: int, codes: list[list[int]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_DENSE", dense)
        trie = TokenTrie.from_rows(ragged(codes))
        allowed = data.draw(st.lists(st.booleans(), min_size=len(codes), max_size=len(codes)))
        branches = restricted(trie, torch.tensor(allowed))
    named = prefixes(trie)
    rows = [(*row, END) for row, kept in zip(codes, allowed, strict=True) if kept]
    for depth, branch in enumerate(branches):
        assert counts(trie, torch.tensor(allowed))[depth].tolist() == [
            sum(row[:depth] == prefix for row in rows) for prefix in named[depth]
        ]
        for node, prefix in enumerate(named[depth]):
            if branch.table is None:
                level = trie.levels[depth]
                children = range(int(level.first_child[node]), int(level.first_child[node + 1]))
                found = [child for child in children if branch.alive is None or branch.alive[child]]
            else:
                found = [child for child in branch.table[node].tolist() if child >= 0]
                slots = [slot for slot, child in enumerate(branch.table[node].tolist()) if child >= 0]
                assert [branch.first_token + slot for slot in slots] == [named[depth + 1][child][-1] for child in found]
            expected = {row[: depth + 1] for row in rows if row[:depth] == prefix and len(row) > depth}
            assert {named[depth + 1][child] for child in found} == expected


@given(rows_of_codes)
def test_rows_without_their_first_token_make_the_trie_without_its_root(codes: list[list[int]]) -> None:
    short = TokenTrie.from_rows(ragged([[9, *row] for row in codes])).without_first_token()
    expected = TokenTrie.from_rows(ragged(codes))
    assert short.items.tolist() == expected.items.tolist()
    assert len(short.levels) == len(expected.levels)
    for level, wanted in zip(short.levels, expected.levels, strict=True):
        assert all(torch.equal(getattr(level, field.name), getattr(wanted, field.name)) for field in fields(Level))


def test_saved_tries_load_as_they_were(tmp_path: Path) -> None:
    tries = {"rec": TokenTrie.from_rows(ragged([[2, 3], [2, 4]])), "search": TokenTrie.from_rows(ragged([[2], [5]]))}
    save_tries(tries, tmp_path / "trie.safetensors")
    loaded = load_tries(tmp_path, 2)
    assert {task: prefixes(trie) for task, trie in loaded.items()} == {
        task: prefixes(trie) for task, trie in tries.items()
    }
    (tmp_path / "again").mkdir()
    save_tries(loaded, tmp_path / "again/trie.safetensors")
    assert (tmp_path / "again/trie.safetensors").read_bytes() == (tmp_path / "trie.safetensors").read_bytes()
    with pytest.raises(UserError, match="is not that of its items"):
        load_tries(tmp_path, 3)


def test_a_missing_or_broken_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file; build the corpus again"):
        load_tries(tmp_path, 2)
    (tmp_path / "trie.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="holds no tries"):
        load_tries(tmp_path, 2)
