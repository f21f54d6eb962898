"""A warm start: vectors of tokens against means by hand, and a decoder that answers with what the prompt shows."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from gensar_core.config.generators import TrainingSettings
from gensar_core.corpora.read import vocabulary_size
from gensar_core.embeddings.item_texts import Encoder
from gensar_core.embeddings.tokenizer import load_corpus_tokenizer
from gensar_core.errors import UserError
from gensar_core.generator import token_vectors
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.token_vectors import FILE, _words, build_token_vectors, code_vectors, principal, word_vectors
from gensar_core.generator.warm_start import warm_embeddings, warm_items, warm_start
from gensar_core.runtime.tensors import load_vectors, save_vectors
from gensar_core.samples import search_clicks
from tests.support.shop import QUERIES, TEXTS, write_corpus_inputs, write_events
from tests.support.small_corpus import build_small_corpus
from tests.support.small_parts import small_parts

SIZE = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1}


def test_principal_axes_keep_distances_and_fall_in_variance():
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [1, 5, 2, 3, 1, 4] + 7
    turned = principal(vectors)
    variances = turned.var(axis=0)
    assert (np.diff(variances) <= 1e-12).all()
    assert (turned**2).sum(axis=1).mean() == pytest.approx(1.0)
    ratios = np.linalg.norm(turned[0] - turned[1:], axis=1) / np.linalg.norm(vectors[0] - vectors[1:], axis=1)
    assert ratios == pytest.approx(ratios[0])


def test_a_word_is_the_mean_of_its_items_shrunk_where_they_are_few():
    items = np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
    # Word 0 is seen with items 0 and 1 once each, word 1 three times with item 2, word 2 never.
    seen_with = csr_matrix(np.array([[1, 1, 0], [0, 0, 3], [0, 0, 0]]))
    assert word_vectors(seen_with, items) == pytest.approx(np.array([[0.2, 0.2], [2.0, 2.0], [0.0, 0.0]]))


@given(st.integers(0, 500), st.integers(1, 4))
@settings(max_examples=30)
def test_codes_and_the_residual_add_up_to_the_vector(seed, levels):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(40, 3))
    rest, total = vectors, np.zeros_like(vectors)
    errors = [np.square(vectors).sum()]
    for _ in range(levels):
        codes = draw.integers(-1, 5, size=40)
        means, rest = code_vectors(codes, 5, rest)
        total += np.where(codes[:, None] >= 0, means[codes], 0.0)
        errors.append(np.square(rest).sum())
    assert total + rest == pytest.approx(vectors)
    assert (np.diff(errors) <= 1e-9).all()


@pytest.fixture
def shop(tmp_path):
    """A corpus of five items with their vectors; item 4 was clicked after the query `digital piano` in training."""
    folder = write_corpus_inputs(tmp_path / "shop")
    build_small_corpus(folder, tmp_path / "corpus")
    draw = np.random.default_rng(1)
    for side, width in (("semantic", 12), ("collaborative", 6)):
        save_vectors({"items": draw.normal(size=(5, width))}, tmp_path / f"{side}.safetensors")
    write_events(folder, [(0, 0, "search", 4, 0, 0), (0, 1, "rec", 0, None, None)])
    return tmp_path


def build(shop, sides=("semantic", "collaborative"), **folders):
    given_ = {"canonical": shop / "shop", "samples": shop / "shop", "identifiers": shop / "shop"} | folders
    embeddings = {side: shop / f"{side}.safetensors" for side in sides}
    build_token_vectors(**given_, corpus=shop / "corpus", embeddings=embeddings, output=shop / "vectors")
    return shop / "vectors" / FILE


def test_words_and_codes_have_the_vectors_of_their_items(shop):
    path = build(shop)
    known = json.loads((shop / "corpus" / "new_tokens.json").read_text())
    tokenizer = load_corpus_tokenizer(shop / "corpus" / "tokenizer")
    groups = load_vectors(path, "groups")[:, 0]
    for side in ("semantic", "collaborative"):
        items = principal(load_vectors(shop / f"{side}.safetensors"))
        vectors = load_vectors(path, side)
        # Item 2 alone has the first code 5, items 0 and 1 share the first two.
        assert vectors[known["tokens"]["<M1_5>"]] == pytest.approx(items[2], abs=1e-6)
        assert vectors[known["tokens"]["<M1_0>"]] == pytest.approx(items[:2].mean(axis=0), abs=1e-6)
    # `stool` stands in the text of item 4 alone.
    stool = tokenizer.encode(" stool", add_special_tokens=False)[0]
    assert groups[stool] == 0
    tokens, semantic = known["tokens"], load_vectors(path, "semantic")
    # A level of the other side says nothing of this one.
    assert not semantic[tokens["<R1_7>"]].any()
    assert groups[tokens["<R_I>"]] == -1


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    folder = write_corpus_inputs(tmp_path_factory.mktemp("words"))
    build_small_corpus(folder, folder / "corpus")
    return folder


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 1)), max_size=30), st.integers(1, 7))
@settings(max_examples=30)
def test_words_are_counted_with_items_as_by_a_plain_loop(small_corpus, clicks, size):
    rows = [
        (0, 0, "rec", item, None, None) if query is None else (0, 0, "search", item, query, 0) for item, query in clicks
    ]
    tokenizer = load_corpus_tokenizer(small_corpus / "corpus" / "tokenizer")

    def tokens(text):
        return Encoder(tokenizer).encode([text]).values.tolist()

    expected = np.zeros((vocabulary_size(small_corpus / "corpus"), len(TEXTS)))
    for item, text in enumerate(TEXTS):
        expected[sorted(set(tokens(text))), item] += 1
    for item, query in clicks:
        for token in tokens(QUERIES[query]) if query is not None else ():
            expected[token, item] += 1
    with tempfile.TemporaryDirectory() as folder, small_parts(size, token_vectors, search_clicks):
        write_events(Path(folder), rows)
        counted = _words(small_corpus, Path(folder), small_corpus / "corpus", len(expected))
    for name in ("indptr", "indices", "data"):
        assert getattr(counted, name).tolist() == getattr(csr_matrix(expected), name).tolist()


def test_one_side_alone_takes_the_whole_width(shop):
    path = build(shop, sides=("semantic",))
    model = from_scratch(shop)
    warm_start(model, path, seed=1)
    assert torch.isfinite(model.shared.weight).all()
    with pytest.raises(UserError, match="holds no matrix 'collaborative'"):
        load_vectors(path, "collaborative")


def from_scratch(shop):
    entry = TrainingSettings(backbone="scratch", size=SIZE, warm_start=True)
    return backbone.build(entry, shop / "corpus", 1).eval()


def test_a_warm_decoder_prefers_tokens_of_the_prompt(shop):
    path = build(shop)
    tokens = json.loads((shop / "corpus" / "new_tokens.json").read_text())["tokens"]
    cold, warm = from_scratch(shop), from_scratch(shop)
    warm_start(warm, path, seed=1)
    gains = {}
    for name, model in (("cold", cold), ("warm", warm)):
        margins = []
        for first, second in ((0, 1), (5, 0), (3, 3), (1, 2)):
            codes = [tokens[f"<M1_{first}>"], tokens[f"<M2_{second}>"]]
            inputs = torch.tensor([[*codes, *codes, 1]])
            with torch.no_grad():
                logits = model(input_ids=inputs, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
            others = [tokens[f"<M1_{code}>"] for code in (0, 5, 3, 1) if code != first]
            margins.append(float(logits[codes[0]] - logits[others].mean()))
        gains[name] = np.mean(margins)
    assert gains["warm"] > 1.0 > abs(gains["cold"])


def test_embeddings_keep_the_scale_of_t5(shop):
    model = from_scratch(shop)
    warm_start(model, build(shop), seed=1)
    assert model.shared.weight.std().item() == pytest.approx(1.0, abs=0.15)
    again = from_scratch(shop)
    warm_start(again, shop / "vectors" / FILE, seed=1)
    assert torch.equal(model.shared.weight, again.shared.weight)


def test_tokens_of_an_identifier_add_up_to_its_item(shop, tmp_path):
    # Three levels of four codes, each finer than the one before, as residual quantization leaves them.
    model = from_scratch(shop)
    draw = np.random.default_rng(2)
    size, width = model.shared.weight.shape
    vectors, groups = np.zeros((size, width)), np.full((size, 1), -1)
    for level, spread in enumerate((0.17, 0.06, 0.03)):
        rows = slice(40 + 4 * level, 44 + 4 * level)
        vectors[rows], groups[rows] = spread * draw.normal(size=(4, width)), level + 1
    save_vectors({"groups": groups, "semantic": vectors}, tmp_path / "made.safetensors")
    drawn = model.shared.weight.detach().clone()
    warm_start(model, tmp_path / "made.safetensors", seed=1)
    known = (model.shared.weight.detach() - 0.2**0.5 * drawn).double().numpy()
    identifiers = 40 + np.array([[first, 4 + second, 8 + third] for first, second, third in np.ndindex(4, 4, 4)])
    items, sums = (rows[identifiers].sum(axis=1) for rows in (vectors, known))
    # Whatever rotation and factor fit best.
    turned = sums @ np.linalg.lstsq(sums, items, rcond=None)[0]
    explained = 1 - np.square(items - turned).sum() / np.square(items).sum()
    factors = [
        np.linalg.norm(known[groups[:, 0] == level]) / np.linalg.norm(vectors[groups[:, 0] == level])
        for level in (1, 2, 3)
    ]
    assert explained > 0.99
    assert factors == pytest.approx([factors[0]] * 3, rel=0.02)


def test_what_codes_leave_over_makes_up_the_item(tmp_path):
    draw = np.random.default_rng(3)
    # Two levels of four codes, which say little of sixteen items; token 8 is a word.
    codes = np.array([[first, 4 + second] for first, second in np.ndindex(4, 4)])
    codes[3] = [2, -1]
    items, vectors, groups = draw.normal(size=(16, 6)), np.zeros((9, 6)), np.repeat([1, 2, 0], [4, 4, 1])
    vectors[:8] = 0.3 * draw.normal(size=(8, 6))
    save_vectors(
        {"groups": groups[:, None], "semantic": vectors, "semantic_items": items}, tmp_path / "made.safetensors"
    )
    embeddings = torch.zeros((9, 6))
    warm_embeddings(embeddings, tmp_path / "made.safetensors", seed=1)
    own = warm_items(codes, tmp_path / "made.safetensors", 9, 6, seed=1)
    sums = [embeddings[row[row >= 0]].sum(0) + left for row, left in zip(codes, own, strict=True)]
    # One rotation and one factor turn all of them into the items' vectors.
    sums = torch.stack(sums).double().numpy()
    cosines, expected = (rows @ rows.T for rows in (sums, items))
    factor = np.trace(expected) / np.trace(cosines)
    assert factor * cosines == pytest.approx(expected, abs=1e-4 * np.trace(expected))


def test_inputs_that_do_not_fit_are_refused(shop):
    path = build(shop)
    save_vectors({"groups": np.zeros((7, 1)), "semantic": np.zeros((7, 3))}, path)
    with pytest.raises(UserError, match="has 7 tokens"):
        warm_start(from_scratch(shop), path, seed=1)
    path.unlink()
    save_vectors({"items": np.zeros((9, 4))}, shop / "semantic.safetensors")
    with pytest.raises(UserError, match="has 9 items"):
        build(shop)
    assert not path.exists()
