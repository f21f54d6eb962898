"""Prefix trees and exact scores, against plain loops and against scoring each candidate alone."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.corpora import trie as trie_module
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator import candidate_scores, likelihoods
from gensar_core.generator.backbones import tree_attention
from gensar_core.generator.candidate_scores import path_log_probabilities, score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood
from gensar_core.generator.prefix_tree import build_trees
from tests.support.ragged import ragged
from tests.unit.generator.small_models import END, Case, cases, large_case, library_search, log_probability, model


@given(cases())
@settings(max_examples=25)
def test_trees_hold_every_prefix_once(case: Case) -> None:
    items, _, candidates = case
    trees = build_trees(candidates, ItemTokens.from_rows(ragged(items)))
    prefixes = []
    for node in range(len(trees.node_user)):
        chain = trees.ancestors[node, : trees.node_depth[node] + 1]
        assert chain[-1] == node
        assert trees.node_token[chain[0]] == -1
        assert (trees.node_user[chain] == trees.node_user[node]).all()
        prefixes.append((int(trees.node_user[node]), tuple(trees.node_token[chain[1:]].tolist())))
    rows = [(user, items[item]) for user, row in enumerate(candidates) for item in row if item >= 0]
    expected = {(user, tuple(row[:cut])) for user, row in rows for cut in range(len(row))}
    assert sorted(prefixes) == sorted(expected | {(user, ()) for user in range(len(candidates))})
    assert (np.diff(trees.node_user) >= 0).all()

    pairs = zip(trees.edge_parent, trees.edge_token.tolist(), strict=True)
    edges = [(*prefixes[parent], token) for parent, token in pairs]
    steps = {(user, tuple(row[:cut]), row[cut]) for user, row in rows for cut in range(len(row))}
    assert sorted(edges) == sorted(steps)
    for (user, column), item in np.ndenumerate(candidates):
        tokens = items[item] if item >= 0 else []
        path = trees.paths[user, column]
        steps = [(user, tuple(tokens[:cut]), token) for cut, token in enumerate(tokens)]
        assert [edges[edge] for edge in path[: len(tokens)]] == steps
        assert (path[len(tokens) :] == -1).all()


@pytest.mark.parametrize(
    ("kind", "over_catalogue", "dense"),
    [("t5", False, 1), ("mt5", False, 1), ("t5", True, 0), ("t5", True, 1 << 20)],
    ids=["t5", "mt5", "catalogue, no tables", "catalogue, tables"],
)
@given(case=cases(), users_per_batch=st.integers(1, 4))
@settings(max_examples=20)
def test_scores_equal_those_of_each_candidate_alone(
    kind: str, over_catalogue: bool, dense: int, case: Case, users_per_batch: int
) -> None:
    items, prompts, candidates = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "_DENSE", dense)
        scores = score_candidates(
            model(kind),
            ragged(prompts),
            candidates,
            ItemTokens.from_rows(ragged(items)),
            users_per_batch=users_per_batch,
            likelihood=CatalogueLikelihood(TokenTrie.from_rows(ragged(items))) if over_catalogue else VOCABULARY,
        )
    by_length = not over_catalogue and len({len(row) for row in items}) > 1
    for (user, column), item in np.ndenumerate(candidates):
        expected = -np.inf
        if item >= 0:
            expected = log_probability(model(kind), prompts[user], items[item], items if over_catalogue else None)
            expected /= len(items[item]) if by_length else 1
        assert scores[user, column] == pytest.approx(expected, abs=1e-4, rel=1e-5)


@given(case=cases(), shared=st.lists(st.integers(0, 2), min_size=1, max_size=9))
@settings(max_examples=20)
def test_a_prompt_of_several_users_is_read_once_for_all_their_candidates(case: Case, shared: list[int]) -> None:
    items, prompts, candidates = case
    users = [user % len(prompts) for user in shared]
    # Each user shows the candidates of another one, too.
    shown = np.concatenate([candidates[users], np.roll(candidates, 1, axis=0)[users]], axis=1)
    rows = ItemTokens.from_rows(ragged(items))
    asked = ragged([prompts[user] for user in users])
    read = []
    with pytest.MonkeyPatch.context() as patch:
        encode = candidate_scores.encode_prompts
        patch.setattr(
            candidate_scores,
            "encode_prompts",
            lambda network, tokens: read.append(len(tokens)) or encode(network, tokens),
        )
        scores = score_candidates(model("t5"), asked, shown, rows, users_per_batch=2)
    alone = [
        score_candidates(model("t5"), asked.take(np.array([row])), shown[[row]], rows, users_per_batch=1)
        for row in range(len(users))
    ]
    np.testing.assert_allclose(scores, np.concatenate(alone), atol=1e-4)
    needed, different = 0, {tuple(prompts[user]) for user in users}
    for prompt in different:
        theirs = [row for user, row in zip(users, shown.tolist(), strict=True) if tuple(prompts[user]) == prompt]
        needed += -(-len({item for row in theirs for item in row if item >= 0}) // shown.shape[1])
    # Where no prompt is shared, each is read, even for a list without candidates.
    assert sum(read) == (len(users) if len(different) == len(users) else min(needed, len(users)))


def test_scores_depend_on_neither_the_order_nor_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    items, _, prompts, candidates = large_case()
    # Items 7 and 150 have the same tokens.
    candidates = np.concatenate([np.tile([7, 150], (9, 1)), candidates[:, :38]], axis=1)
    scores = score_candidates(model("t5"), prompts, candidates, items, users_per_batch=4)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    order = np.random.default_rng(1).permuted(np.tile(np.arange(40), (9, 1)), axis=1)
    monkeypatch.setattr(tree_attention, "_CPU_TOKENS", 7)
    monkeypatch.setattr(likelihoods, "_CPU_ROWS", 11)
    monkeypatch.setattr(likelihoods, "_CPU_TOKENS", 5)
    shuffled = np.take_along_axis(candidates, order, axis=1)
    again = score_candidates(model("t5"), prompts, shuffled, items, users_per_batch=9)
    np.testing.assert_allclose(again, np.take_along_axis(scores, order, axis=1), atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "mt5"])
@pytest.mark.parametrize("over_catalogue", [False, True])
def test_bfloat16_changes_scores_by_little_of_their_spread(kind: str, over_catalogue: bool) -> None:
    items, trie, prompts, candidates = large_case()
    likelihood = CatalogueLikelihood(trie) if over_catalogue else VOCABULARY
    rounded = copy.deepcopy(model(kind)).to(torch.bfloat16)
    # The rounded weights, computed with exactly: what remains is the rounding of products.
    exact = copy.deepcopy(rounded).to(torch.float32)
    scores, expected = (
        score_candidates(network, prompts, candidates, items, users_per_batch=4, likelihood=likelihood)
        for network in (rounded, exact)
    )
    assert scores.dtype == np.float32
    error = np.abs(scores - expected)
    assert 0 < error.mean() < 0.02 * expected.std(axis=1).mean()
    assert error.max() < 0.3 * expected.std(axis=1).mean()


@pytest.mark.parametrize("beams", [2, 5, 12])
def test_beams_reach_the_candidates_that_the_library_finds(beams: int) -> None:
    items, _, prompts, candidates = large_case()
    candidates = candidates[:, :40]
    candidates = np.where((candidates == 7) | (candidates == 150), 0, candidates)
    scores = score_candidates(model("t5"), prompts, candidates, items, users_per_batch=4, beams=beams)
    for user, row in enumerate(candidates):
        expected, _ = library_search(prompts.take(np.array([user])).values.tolist(), items.tokens[row].tolist(), beams)
        best_first = [row[place] for place in np.argsort(-scores[user], kind="stable") if scores[user, place] > -np.inf]
        assert len(set(expected)) == min(beams, len(set(row)))
        assert list(dict.fromkeys(tuple(items.tokens[item].tolist()) for item in best_first)) == expected


@given(case=cases(), beams=st.integers(1, 5))
@settings(max_examples=25)
def test_beams_are_those_of_the_plain_search(case: Case, beams: int) -> None:
    items, prompts, candidates = case
    table = ItemTokens.from_rows(ragged(items))
    scores = score_candidates(model("t5"), ragged(prompts), candidates, table, users_per_batch=4, beams=beams)
    exact = score_candidates(model("t5"), ragged(prompts), candidates, table, users_per_batch=4)
    steps = path_log_probabilities(model("t5"), ragged(prompts), build_trees(candidates, table))
    for user, row in enumerate(candidates):
        total = {}
        for column, item in enumerate(row):
            for cut in range(len(items[item]) if item >= 0 else 0):
                total[tuple(items[item][: cut + 1])] = float(steps[user, column, : cut + 1].cumsum()[-1])
        ended, live = set(), {()}
        while live:
            grown = sorted((one for one in total if one[:-1] in live), key=lambda one: -total[one])[: 2 * beams]
            ended |= {one for one in grown[:beams] if one[-1] == END}
            live = set([one for one in grown if one[-1] != END][:beams])
        reached = [tuple(items[item]) in ended if item >= 0 else False for item in row]
        assert (scores[user] > -np.inf).tolist() == reached
        np.testing.assert_allclose(scores[user][reached], exact[user][reached], atol=1e-4)
