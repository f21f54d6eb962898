"""Search in the whole catalogue, against scores of all items and against Hugging Face's constrained search."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.corpora import trie as trie_module
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.beam_search import search_catalogue
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.runtime.arrays import Ragged
from tests.unit.generator.test_scores import END, Lists, cases, large_case, model, ragged

Case = tuple[Lists, Lists, np.ndarray]


def brute_force(items: Lists, prompts: Lists) -> np.ndarray:
    """Scores of all items [users, n_items]."""
    everything = np.tile(np.arange(len(items), dtype=np.int32), (len(prompts), 1))
    table = ItemTokens.from_rows(ragged(items))
    return score_candidates(model("t5"), ragged(prompts), everything, table, users_per_batch=4)


@pytest.mark.parametrize("dense", [0, 1 << 20])
@given(case=cases(), allowed=st.none() | st.integers(1, 2**12 - 1), users_per_batch=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_with_enough_beams_it_is_the_exact_ranking(
    dense: int, case: Case, allowed: int | None, users_per_batch: int
) -> None:
    items, prompts, excluded = case
    scores = brute_force(items, prompts)
    mask = None
    if allowed is not None:
        mask = np.array([bool(allowed >> item & 1) for item in range(len(items))])
        scores[:, ~mask] = -np.inf
    for user, away in enumerate(excluded):
        scores[user, away[away >= 0]] = -np.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", dense)
        found = search_catalogue(
            model("t5"),
            ragged(prompts),
            TokenTrie.from_rows(ragged(items)),
            beams=len(items),
            users_per_batch=users_per_batch,
            allowed=mask,
            excluded=excluded,
        )
    for user, row in enumerate(scores):
        left = row[row > -np.inf]
        assert (found.items[user] >= 0).sum() == len(left)
        np.testing.assert_allclose(found.scores[user, : len(left)], -np.sort(-left), atol=1e-4)
        assert sorted(found.items[user, : len(left)].tolist()) == np.flatnonzero(row > -np.inf).tolist()
        np.testing.assert_allclose(row[found.items[user, : len(left)]], found.scores[user, : len(left)], atol=1e-4)
        assert (found.items[user, len(left) :] == -1).all()


@given(case=cases(), beams=st.integers(1, 4), allowed=st.integers(1, 2**12 - 1))
@settings(max_examples=60, deadline=None)
def test_beams_go_where_they_would_without_the_items_taken_away(case: Case, beams: int, allowed: int) -> None:
    """Restricted and with exclusions, the search is that of a catalogue of the remaining items."""
    items, prompts, excluded = case
    mask = np.array([bool(allowed >> item & 1) for item in range(len(items))])
    trie = TokenTrie.from_rows(ragged(items))
    found = search_catalogue(model("t5"), ragged(prompts), trie, beams=beams, top=9, allowed=mask, excluded=excluded)
    for user, prompt in enumerate(prompts):
        left = np.array([item for item in np.flatnonzero(mask) if item not in excluded[user]], dtype=np.int64)
        if not len(left):
            assert (found.items[user] == -1).all()
            continue
        smaller = TokenTrie.from_rows(ragged([items[item] for item in left]))
        # Dividing by lengths is for catalogues in which they differ, and the smaller one may be none.
        lengths = np.array([len(items[item]) for item in left])
        expected = search_catalogue(model("t5"), ragged([prompt]), smaller, beams=beams, top=9)
        scores = expected.scores[0]
        if smaller.fixed_length and not trie.fixed_length:
            scores = scores / lengths[0]
        real = scores > -np.inf
        np.testing.assert_allclose(found.scores[user][real], scores[real], atol=1e-4)
        assert (found.scores[user][~real] == -np.inf).all()
        assert set(found.items[user][real]) == set(left[expected.items[0][real]]) or len(set(scores[real])) < real.sum()


def library_search(prompt: list[int], rows: Lists, beams: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Hugging Face's constrained beam search through ``rows``: what it finds, best first, and the scores."""
    allowed: dict[tuple[int, ...], set[int]] = {}
    for row in rows:
        for cut in range(len(row)):
            allowed.setdefault(tuple(row[:cut]), set()).add(row[cut])

    def continuations(_batch: int, sequence: torch.Tensor) -> list[int]:
        return sorted(allowed.get(tuple(sequence[1:].tolist()), {0}))

    options: dict[str, Any] = {"num_beams": beams, "num_return_sequences": beams, "do_sample": False}
    found = model("t5").generate(
        torch.tensor([prompt]),
        prefix_allowed_tokens_fn=continuations,
        max_new_tokens=max(map(len, rows)),
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    sequences = [tuple(row[1 : row.index(END) + 1]) for row in found.sequences.tolist()]
    return sequences, found.sequences_scores.numpy()


@pytest.mark.parametrize("beams", [2, 5, 12])
def test_it_finds_what_the_library_finds(beams: int) -> None:
    table, prompts, _ = large_case()
    items = [list(row) for row in sorted({tuple(table.tokens[item].tolist()) for item in range(len(table))})]
    excluded = np.array([[90, 3 + user, 9 * user] for user in range(len(prompts))])
    trie = TokenTrie.from_rows(ragged(items))
    found = search_catalogue(model("t5"), prompts, trie, beams=beams, excluded=excluded)
    for user in range(0, len(prompts), 2):
        rows = [row for item, row in enumerate(items) if item not in excluded[user]]
        expected, scores = library_search(prompts.take(np.array([user])).values.tolist(), rows, beams)
        assert [tuple(items[item]) for item in found.items[user]] == expected
        # The library divides by the length here; lengths are equal.
        np.testing.assert_allclose(found.scores[user] / len(items[0]), scores, atol=1e-4)


@pytest.mark.parametrize("beams", [2, 4])
def test_it_finds_what_the_library_finds_among_rows_of_any_length(beams: int) -> None:
    draw = np.random.default_rng(4)
    codes = sorted({tuple(draw.integers(3, 7, draw.integers(1, 5)).tolist()) for _ in range(60)})
    items = [[*row, END] for row in codes]
    prompts = [draw.integers(2, 20, draw.integers(2, 12)).tolist() for _ in range(4)]
    found = search_catalogue(model("t5"), ragged(prompts), TokenTrie.from_rows(ragged(items)), beams=beams)
    for user, prompt in enumerate(prompts):
        expected, scores = library_search(prompt, items, beams)
        assert [tuple(items[item]) for item in found.items[user]] == expected
        np.testing.assert_allclose(found.scores[user], scores, atol=1e-4)


@pytest.mark.parametrize("over_catalogue", [False, True])
def test_the_number_of_threads_does_not_change_a_bit(over_catalogue: bool) -> None:
    items, prompts, _ = large_case()
    trie = TokenTrie.from_rows(Ragged.from_lengths(items.lengths, items.tokens.ravel()))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(
                search_catalogue(model("t5"), prompts, trie, beams=7, users_per_batch=2, over_catalogue=over_catalogue)
            )
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0].items, found[1].items)
    np.testing.assert_array_equal(found[0].scores, found[1].scores)


def test_an_answer_at_once_is_the_answer_of_batches_side_by_side() -> None:
    items, prompts, _ = large_case()
    trie = TokenTrie.from_rows(Ragged.from_lengths(items.lengths, items.tokens.ravel()))
    waiting, at_once = (
        search_catalogue(model("t5"), prompts, trie, beams=7, users_per_batch=2, answer_at_once=now)
        for now in (False, True)
    )
    np.testing.assert_array_equal(waiting.items, at_once.items)
    np.testing.assert_allclose(waiting.scores, at_once.scores, atol=1e-5)


def test_bfloat16_finds_the_scores_it_gives_candidates() -> None:
    """What is found with beams for all has the scores that the exact ranking in the same precision gives."""
    items, prompts, _ = large_case()
    rounded = copy.deepcopy(model("t5")).to(torch.bfloat16)
    trie = TokenTrie.from_rows(Ragged.from_lengths(items.lengths, items.tokens.ravel()))
    found = search_catalogue(rounded, prompts, trie, beams=len(items))
    scores = score_candidates(rounded, prompts, found.items, items, users_per_batch=4)
    np.testing.assert_allclose(found.scores, scores, atol=0.3 * scores.std(axis=1).mean())
