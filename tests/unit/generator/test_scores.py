"""Prefix trees and exact scores, against plain loops and against scoring each candidate alone."""

from __future__ import annotations

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator import candidate_scores as score
from gensar_core.generator import tree_attention as ancestors
from gensar_core.generator import vocabulary_likelihood as likelihood
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.prefix_tree import build_trees
from gensar_core.runtime.arrays import Ragged

VOCABULARY, END = 23, 1
Lists = list[list[int]]


def ragged(rows: Lists) -> Ragged:
    return Ragged.from_lengths(
        np.array([len(row) for row in rows]), np.array([*itertools.chain(*rows)], dtype=np.int32)
    )


@functools.cache
def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCABULARY, "d_model": 12, "d_ff": 16, "d_kv": 5, "num_heads": 2, "num_layers": 2}
    buckets = {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 9, "decoder_start_token_id": 0}
    if kind == "t5":
        made = T5ForConditionalGeneration(T5Config(**sizes, **buckets))
    else:
        made = MT5ForConditionalGeneration(MT5Config(feed_forward_proj="gated-gelu", **sizes, **buckets))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "relative" in name else 0.5))
    return made.eval()


def alone(network: torch.nn.Module, prompt: list[int], target: list[int]) -> float:
    """The sum of the target's token log-probabilities, by the library's own forward pass."""
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).logits[0]
    return float(logits.log_softmax(-1)[torch.arange(len(target)), target].sum())


def rows_of_codes(longest: int) -> st.SearchStrategy[Lists]:
    """Few codes, so that prefixes are shared, and some rows are equal."""
    return st.lists(st.lists(st.integers(2, 5), max_size=longest), min_size=1, max_size=12)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Lists, Lists, np.ndarray]:
    """Items' tokens, prompts, and candidate lists of different sizes, holes included."""
    fixed = draw(st.booleans())
    if fixed:
        length = draw(st.integers(0, 5))
        code = st.lists(st.integers(2, 5), min_size=length, max_size=length)
        codes = draw(st.lists(code, min_size=1, max_size=12))
    else:
        codes = draw(rows_of_codes(6))
    items = [[*row, END] for row in codes]
    users = draw(st.integers(1, 4))
    prompts = [draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9)) for _ in range(users)]
    width = draw(st.integers(1, 6))
    chosen = st.lists(st.integers(-1, len(items) - 1), min_size=width, max_size=width)
    return items, prompts, np.array([draw(chosen) for _ in range(users)], dtype=np.int32)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_trees_hold_every_prefix_once(case: tuple[Lists, Lists, np.ndarray]) -> None:
    items, _, candidates = case
    trees = build_trees(candidates, ItemTokens.from_rows(ragged(items)))
    prefixes = []
    for node in range(len(trees.node_user)):
        depth = trees.node_depth[node]
        chain = trees.ancestors[node, : depth + 1]
        assert chain[-1] == node
        assert trees.node_token[chain[0]] == -1
        assert (trees.node_user[chain] == trees.node_user[node]).all()
        prefixes.append((int(trees.node_user[node]), tuple(trees.node_token[chain[1:]].tolist())))
    rows = [(user, items[item]) for user, row in enumerate(candidates) for item in row if item >= 0]
    expected = {(user, tuple(row[:cut])) for user, row in rows for cut in range(len(row))}
    expected |= {(user, ()) for user in range(len(candidates))}
    assert sorted(prefixes) == sorted(expected)
    assert (np.diff(trees.node_user) >= 0).all()

    edges = [
        (*prefixes[parent], token) for parent, token in zip(trees.edge_parent, trees.edge_token.tolist(), strict=True)
    ]
    assert sorted(edges) == sorted(
        {(user, tuple(row[:cut]), row[cut]) for user, row in rows for cut in range(len(row))}
    )
    for user, row in enumerate(candidates):
        for column, item in enumerate(row):
            path = trees.paths[user, column]
            tokens = items[item] if item >= 0 else []
            steps = [(user, tuple(tokens[:cut]), tokens[cut]) for cut in range(len(tokens))]
            assert [edges[edge] for edge in path[: len(tokens)]] == steps
            assert (path[len(tokens) :] == -1).all()


@pytest.mark.parametrize("kind", ["t5", "mt5"])
@given(case=cases(), users_per_batch=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_scores_equal_those_of_each_candidate_alone(
    kind: str, case: tuple[Lists, Lists, np.ndarray], users_per_batch: int
) -> None:
    items, prompts, candidates = case
    table = ItemTokens.from_rows(ragged(items))
    found = score_candidates(model(kind), ragged(prompts), candidates, table, users_per_batch=users_per_batch)
    by_mean = len({len(row) for row in items}) > 1
    for user, row in enumerate(candidates):
        for column, item in enumerate(row):
            if item < 0:
                assert found[user, column] == -np.inf
                continue
            expected = alone(model(kind), prompts[user], items[item])
            if by_mean:
                expected /= len(items[item])
            assert found[user, column] == pytest.approx(expected, abs=1e-4, rel=1e-5)


def large_case() -> tuple[ItemTokens, Ragged, np.ndarray]:
    draw = np.random.default_rng(0)
    items = [[2 + item % 3, *draw.integers(3, 9, 3).tolist(), END] for item in range(200)]
    items[7] = items[150]
    prompts = [draw.integers(2, VOCABULARY, draw.integers(3, 40)).tolist() for _ in range(9)]
    return ItemTokens.from_rows(ragged(items)), ragged(prompts), draw.permuted(np.tile(np.arange(200), (9, 1)), axis=1)


def test_scores_follow_shuffled_candidates_and_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    items, prompts, candidates = large_case()
    candidates = candidates[:, :40]
    scores = score_candidates(model("t5"), prompts, candidates, items, users_per_batch=4)
    order = np.random.default_rng(1).permuted(np.tile(np.arange(40), (9, 1)), axis=1)
    monkeypatch.setattr(ancestors, "_CPU_TOKENS", 7)
    monkeypatch.setattr(likelihood, "_CPU_ROWS", 11)
    monkeypatch.setattr(likelihood, "_CPU_TOKENS", 5)
    shuffled = score_candidates(
        model("t5"), prompts, np.take_along_axis(candidates, order, axis=1), items, users_per_batch=9
    )
    np.testing.assert_allclose(shuffled, np.take_along_axis(scores, order, axis=1), atol=1e-4)


@pytest.mark.parametrize("beams", [None, 12])
def test_the_number_of_threads_does_not_change_a_bit(beams: int | None) -> None:
    items, prompts, candidates = large_case()
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(score_candidates(model("t5"), prompts, candidates, items, users_per_batch=2, beams=beams))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("kind", ["t5", "mt5"])
@pytest.mark.parametrize("over_catalogue", [False, True])
def test_bfloat16_moves_scores_by_a_small_part_of_what_tells_candidates_apart(kind: str, over_catalogue: bool) -> None:
    items, prompts, candidates = large_case()
    trie = TokenTrie.from_rows(Ragged.from_lengths(items.lengths, items.tokens.ravel())) if over_catalogue else None
    rounded = copy.deepcopy(model(kind)).to(torch.bfloat16)
    # The rounded weights, computed with exactly: what remains is the rounding of products.
    exact = copy.deepcopy(rounded).to(torch.float32)
    found, expected = (
        score_candidates(one, prompts, candidates, items, users_per_batch=4, catalogue=trie) for one in (rounded, exact)
    )
    assert found.dtype == np.float32
    error = np.abs(found - expected)
    assert 0 < error.mean() < 0.02 * expected.std(axis=1).mean()
    assert error.max() < 0.3 * expected.std(axis=1).mean()


def test_items_with_the_same_tokens_have_the_same_score() -> None:
    items, prompts, candidates = large_case()
    scores = score_candidates(model("t5"), prompts, candidates, items, users_per_batch=3)
    first, second = (np.argwhere(candidates == item)[:, 1] for item in (7, 150))
    users = np.arange(len(candidates))
    np.testing.assert_array_equal(scores[users, first], scores[users, second])


def test_probabilities_of_all_continuations_sum_to_one() -> None:
    """Under the whole vocabulary: one token and the end, for every token that there is."""
    items = [[token, END] for token in range(VOCABULARY) if token != END]
    rows = ragged([*items, [END]])
    candidates = np.arange(VOCABULARY, dtype=np.int32)[None]
    trees = build_trees(candidates, ItemTokens.from_rows(rows))
    paths = score.path_log_probabilities(model("t5"), ragged([[4, 9, 2]]), trees)
    assert np.exp(paths[0, :, 0].astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("beams", [2, 5, 12])
def test_beams_find_what_the_library_finds(beams: int) -> None:
    """Hugging Face's search inside the same candidates returns the same items in the same order."""
    items, prompts, candidates = large_case()
    candidates = candidates[:, :40]
    candidates = np.where((candidates == 7) | (candidates == 150), 0, candidates)
    scores = score_candidates(model("t5"), prompts, candidates, items, users_per_batch=4, beams=beams)
    for user, row in enumerate(candidates):
        allowed: dict[tuple[int, ...], set[int]] = {}
        for item in row:
            tokens = items.tokens[item].tolist()
            for cut in range(len(tokens)):
                allowed.setdefault(tuple(tokens[:cut]), set()).add(tokens[cut])

        def continuations(
            _batch: int, sequence: torch.Tensor, allowed: dict[tuple[int, ...], set[int]] = allowed
        ) -> list[int]:
            return sorted(allowed.get(tuple(sequence[1:].tolist()), {END}))

        prompt = torch.tensor([prompts.take(np.array([user])).values.tolist()])
        sequences = model("t5").generate(
            prompt,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=5,
            do_sample=False,
            prefix_allowed_tokens_fn=continuations,
        )
        expected = [tuple(sequence[1:].tolist()) for sequence in sequences]
        ranked = [row[column] for column in np.argsort(-scores[user], kind="stable") if scores[user, column] > -np.inf]
        found = list(dict.fromkeys(tuple(items.tokens[item].tolist()) for item in ranked))
        assert len(found) == len(set(expected)) == min(beams, len(set(row)))
        assert found == expected


@given(case=cases(), beams=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_beams_are_those_of_the_plain_search(case: tuple[Lists, Lists, np.ndarray], beams: int) -> None:
    items, prompts, candidates = case
    table = ItemTokens.from_rows(ragged(items))
    found = score_candidates(model("t5"), ragged(prompts), candidates, table, users_per_batch=4, beams=beams)
    exact = score_candidates(model("t5"), ragged(prompts), candidates, table, users_per_batch=4)
    trees = build_trees(candidates, table)
    steps = score.path_log_probabilities(model("t5"), ragged(prompts), trees)
    for user, row in enumerate(candidates):
        gain = {}
        for column, item in enumerate(row):
            for cut in range(len(items[item]) if item >= 0 else 0):
                gain[tuple(items[item][: cut + 1])] = float(steps[user, column, : cut + 1].cumsum()[-1])
        ended, live = set(), {()}
        while live:
            grown = sorted((one for one in gain if one[:-1] in live), key=lambda one: -gain[one])[: 2 * beams]
            ended |= {one for one in grown[:beams] if one[-1] == END}
            live = set([one for one in grown if one[-1] != END][:beams])
        expected = [tuple(items[item]) in ended if item >= 0 else False for item in row]
        assert (found[user] > -np.inf).tolist() == expected
        np.testing.assert_allclose(found[user][expected], exact[user][expected], atol=1e-4)
