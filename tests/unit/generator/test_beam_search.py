"""Beam search of the whole catalogue, against scores of all items and against Hugging Face's constrained search."""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.corpora import trie as trie_module
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator import beam_search as beam_search_module
from gensar_core.generator.beam_search import beam_search
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood
from gensar_core.generator.prompt_batches import cut_evenly
from tests.unit.generator.small_models import END, Case, cases, large_case, library_search, model, ragged


@pytest.mark.parametrize("dense", [0, 1 << 20], ids=["no tables", "tables"])
@given(
    case=cases(),
    allowed=st.none() | st.integers(1, 2**12 - 1),
    users_per_batch=st.integers(1, 4),
    over_catalogue=st.booleans(),
)
@settings(max_examples=25)
def test_a_beam_for_each_item_finds_the_exact_ranking(
    dense: int, case: Case, allowed: int | None, users_per_batch: int, over_catalogue: bool
) -> None:
    items, prompts, excluded = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", dense)
        trie = TokenTrie.from_rows(ragged(items))
        likelihood = CatalogueLikelihood(trie) if over_catalogue else VOCABULARY
        everything = np.tile(np.arange(len(items), dtype=np.int32), (len(prompts), 1))
        table = ItemTokens.from_rows(ragged(items))
        scores = score_candidates(
            model("t5"), ragged(prompts), everything, table, users_per_batch=4, likelihood=likelihood
        )
        mask = None if allowed is None else np.array([bool(allowed >> item & 1) for item in range(len(items))])
        retrieved = beam_search(
            model("t5"),
            ragged(prompts),
            trie,
            beams=len(items),
            users_per_batch=users_per_batch,
            allowed=mask,
            excluded=excluded,
            likelihood=likelihood,
        )
    for user, row in enumerate(scores):
        # An item taken away leaves the scores of the others as they are.
        row[excluded[user][excluded[user] >= 0]] = -np.inf
        if mask is not None:
            row[~mask] = -np.inf
        expected = np.flatnonzero(row > -np.inf)
        ranked, rest = np.split(retrieved.items[user], [len(expected)])
        assert sorted(ranked.tolist()) == expected.tolist()
        assert (rest == -1).all()
        np.testing.assert_allclose(retrieved.scores[user, : len(ranked)], -np.sort(-row[expected]), atol=1e-4)
        np.testing.assert_allclose(row[ranked], retrieved.scores[user, : len(ranked)], atol=1e-4)


@given(case=cases(), beams=st.integers(1, 4), allowed=st.integers(1, 2**12 - 1))
@settings(max_examples=25)
def test_a_restricted_search_is_that_of_a_catalogue_of_the_other_items(case: Case, beams: int, allowed: int) -> None:
    items, prompts, excluded = case
    mask = np.array([bool(allowed >> item & 1) for item in range(len(items))])
    trie = TokenTrie.from_rows(ragged(items))
    retrieved = beam_search(model("t5"), ragged(prompts), trie, beams=beams, top=9, allowed=mask, excluded=excluded)
    for user, prompt in enumerate(prompts):
        others = np.array([item for item in np.flatnonzero(mask) if item not in excluded[user]], dtype=np.int64)
        if not len(others):
            assert (retrieved.items[user] == -1).all()
            continue
        smaller = TokenTrie.from_rows(ragged([items[item] for item in others]))
        expected = beam_search(model("t5"), ragged([prompt]), smaller, beams=beams, top=9)
        scores = expected.scores[0]
        # Scores are divided by lengths where these differ, which the smaller catalogue may not.
        if smaller.fixed_length and not trie.fixed_length:
            scores = scores / len(items[others[0]])
        real = scores > -np.inf
        np.testing.assert_allclose(retrieved.scores[user], scores, atol=1e-4)
        same_items = set(retrieved.items[user][real]) == set(others[expected.items[0][real]])
        assert same_items or len(set(scores[real])) < real.sum()


@pytest.mark.parametrize("dense", [0, 1 << 20], ids=["no tables", "tables"])
@given(case=cases(), beams=st.integers(1, 4), data=st.data())
@settings(max_examples=20)
def test_users_who_are_allowed_different_items_get_what_each_gets_alone(
    dense: int, case: Case, beams: int, data: st.DataObject
) -> None:
    items, prompts, excluded = case
    masks = data.draw(st.lists(st.integers(0, 2**12 - 1), min_size=len(prompts), max_size=len(prompts)))
    allowed = np.array([[bool(mask >> item & 1) for item in range(len(items))] for mask in masks])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", dense)
        trie = TokenTrie.from_rows(ragged(items))
        together = beam_search(model("t5"), ragged(prompts), trie, beams=beams, allowed=allowed, excluded=excluded)
        for user, prompt in enumerate(prompts):
            own = {"allowed": allowed[user], "excluded": excluded[[user]]}
            alone = beam_search(model("t5"), ragged([prompt]), trie, beams=beams, **own)
            np.testing.assert_allclose(together.scores[user], alone.scores[0], atol=1e-4)
            found = {item for item in together.items[user].tolist() if item >= 0}
            assert found <= set(np.flatnonzero(allowed[user]).tolist()) - set(excluded[user].tolist())


@pytest.mark.parametrize("beams", [2, 5, 12])
@pytest.mark.parametrize("fixed_length", [True, False])
def test_it_finds_what_the_library_finds(beams: int, fixed_length: bool) -> None:
    table, _, long_prompts, _ = large_case()
    if fixed_length:
        items = [list(row) for row in sorted({tuple(row) for row in table.tokens.tolist()})]
    else:
        draw = np.random.default_rng(4)
        codes = sorted({tuple(draw.integers(3, 7, draw.integers(1, 5)).tolist()) for _ in range(60)})
        items = [[*row, END] for row in codes]
    prompts = long_prompts.take(np.arange(0, 9, 2))
    excluded = np.array([[len(items) // 2, 3 + user, 5 * user] for user in range(len(prompts))])
    trie = TokenTrie.from_rows(ragged(items))
    retrieved = beam_search(model("t5"), prompts, trie, beams=beams, excluded=excluded)
    for user in range(len(prompts)):
        rows = [row for item, row in enumerate(items) if item not in excluded[user]]
        expected, scores = library_search(prompts.take(np.array([user])).values.tolist(), rows, beams)
        assert [tuple(items[item]) for item in retrieved.items[user]] == expected
        # The library always divides by the length.
        np.testing.assert_allclose(retrieved.scores[user] / (len(items[0]) if fixed_length else 1), scores, atol=1e-4)


def search_large_case(over_catalogue: bool = False, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    _, trie, prompts, _ = large_case()
    likelihood = CatalogueLikelihood(trie) if over_catalogue else VOCABULARY
    retrieved = beam_search(model("t5"), prompts, trie, beams=7, users_per_batch=2, likelihood=likelihood, **options)
    return retrieved.items, retrieved.scores


def score_large_case(beams: int | None) -> tuple[np.ndarray]:
    items, _, prompts, candidates = large_case()
    return (score_candidates(model("t5"), prompts, candidates, items, users_per_batch=2, beams=beams),)


@pytest.mark.parametrize(
    "compute",
    [
        functools.partial(score_large_case, None),
        functools.partial(score_large_case, 12),
        search_large_case,
        functools.partial(search_large_case, over_catalogue=True),
    ],
    ids=["scores", "scores by beams", "search", "search over the catalogue"],
)
def test_the_number_of_threads_does_not_change_a_bit(
    compute: Callable[[], tuple[np.ndarray, ...]], torch_threads: Callable[[int], None]
) -> None:
    results = []
    for threads in (1, 4):
        torch_threads(threads)
        results.append(compute())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@given(count=st.integers(0, 40), most=st.integers(0, 12))
def test_passes_hold_each_question_once_and_share_them_evenly(count: int, most: int) -> None:
    passes = cut_evenly(np.arange(count), most)
    sizes = [len(rows) for rows in passes]
    assert [row for rows in passes for row in rows] == list(range(count))
    assert len(passes) == -(-count // max(1, most))
    assert not passes or max(sizes) - min(sizes) <= 1


def test_an_answer_at_once_is_the_answer_of_batches_side_by_side() -> None:
    (items, scores), (items_at_once, scores_at_once) = search_large_case(), search_large_case(answer_at_once=True)
    np.testing.assert_array_equal(items, items_at_once)
    np.testing.assert_allclose(scores, scores_at_once, atol=1e-5)


def test_bfloat16_finds_the_scores_it_gives_candidates() -> None:
    items, trie, prompts, _ = large_case()
    rounded = copy.deepcopy(model("t5")).to(torch.bfloat16)
    retrieved = beam_search(rounded, prompts, trie, beams=len(items))
    scores = score_candidates(rounded, prompts, retrieved.items, items, users_per_batch=4)
    np.testing.assert_allclose(retrieved.scores, scores, atol=0.3 * scores.std(axis=1).mean())


def test_a_prompt_of_several_users_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, trie, prompts, _ = large_case()
    users = np.array([0, 3, 0, 0, 3])
    expected = beam_search(model("t5"), prompts, trie, beams=5)
    read: list[int] = []
    encode = beam_search_module.encode_prompts
    monkeypatch.setattr(
        beam_search_module, "encode_prompts", lambda network, rows: read.append(len(rows)) or encode(network, rows)
    )
    found = beam_search(model("t5"), prompts.take(users), trie, beams=5)
    assert sum(read) == 2
    np.testing.assert_array_equal(found.items, expected.items[users])
    np.testing.assert_allclose(found.scores, expected.scores[users], atol=1e-5)
    # What is excluded for each user alone is searched for each.
    excluded = expected.items[users][:, :1] * np.array([[1], [1], [1], [0], [0]]) - np.array([[0], [0], [0], [1], [1]])
    own = beam_search(model("t5"), prompts.take(users), trie, beams=5, excluded=excluded)
    np.testing.assert_array_equal(own.items[3:], expected.items[users[3:]])
    assert (own.items[:3] != excluded[:3]).all()
