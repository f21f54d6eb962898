"""Text embeddings with a tiny encoder made on the spot, and prefixes by settings, model and family."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from gensar_core import schema
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings import text
from gensar_core.embeddings.text import TextEncoder, embed_catalogue, prefixes, resolve_model
from gensar_core.errors import UserError

WORDS = ["[PAD]", "[UNK]", "query:", "item:", *(f"w{number}" for number in range(30))]
POSITIONS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A local sentence-transformers folder: one small BERT layer over whole words, 16 positions."""
    folder = tmp_path_factory.mktemp("models")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        folder / "bert"
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=POSITIONS, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    layers = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[layers, Pooling(8)], device="cpu").save(str(folder / "tiny"))
    return folder / "tiny"


def canonical(folder, items, queries=("w1 w2",)):
    folder.mkdir(parents=True, exist_ok=True)
    n = len(items)
    frame = {
        "item_id": range(n), "raw_id": [str(i) for i in range(n)], "title": [""] * n, "description": [""] * n,
        "brand": [""] * n, "categories": [[["c"]]] * n, "text": list(items),
    }  # fmt: skip
    schema.ITEMS.write(pl.DataFrame(frame), folder / "items.parquet")
    rows = pl.DataFrame({"query_id": range(len(queries)), "text": list(queries)}, schema=schema.QUERIES.schema)
    schema.QUERIES.write(rows, folder / "queries.parquet")
    return folder


def settings(model, **more):
    return TextEmbedding(kind="text", model=str(model), **more)


def embed(tmp_path, model, items, queries=("w1 w2",), name="out", **more):
    embed_catalogue(canonical(tmp_path / "in", items, queries), tmp_path / name, settings(model, **more), 42)
    record = json.loads((tmp_path / name / "stage.json").read_text())
    return load_file(tmp_path / name / "vectors.safetensors"), record


TEXTS = ["w1", "w5 w6 w7", "", "w2 w3", "w5 w6 w7", "w9 w8 w7 w6 w5 w4", "  "]


def test_vectors_are_the_models_own_normalized(tmp_path, model):
    vectors, record = embed(tmp_path, model, TEXTS, ["w3 w4", "w1"], batch_size=2)
    reference = SentenceTransformer(str(model), device="cpu")
    for row, words in enumerate(TEXTS):
        if words.strip():
            assert vectors["items"][row] == pytest.approx(reference.encode(words, normalize_embeddings=True), abs=1e-5)
    assert vectors["queries"] == pytest.approx(reference.encode(["w3 w4", "w1"], normalize_embeddings=True), abs=1e-5)
    for matrix in vectors.values():
        assert matrix.dtype == np.float32
        assert np.linalg.norm(matrix, axis=1) == pytest.approx(np.ones(len(matrix)), abs=1e-5)
    assert record["figures"]["items_without_text"] == 2
    assert record["figures"]["dimensions"] == 8


def test_items_without_text_get_the_direction_of_the_mean(tmp_path, model):
    vectors, _ = embed(tmp_path, model, TEXTS)
    distinct = vectors["items"][[0, 1, 3, 5]].astype(np.float64).mean(axis=0)
    assert vectors["items"][2] == pytest.approx(distinct / np.linalg.norm(distinct), abs=1e-5)
    assert (vectors["items"][2] == vectors["items"][6]).all()


def test_each_distinct_text_is_encoded_once(tmp_path, model, monkeypatch):
    encoded = []
    original = SentenceTransformer.encode

    def counting(self, inputs, **more):
        encoded.extend(inputs)
        return original(self, inputs, **more)

    monkeypatch.setattr(SentenceTransformer, "encode", counting)
    vectors, _ = embed(tmp_path, model, ["w1 w2"] * 50 + ["w3"] * 50, [])
    assert sorted(encoded) == ["text", "w1 w2", "w3"]
    assert (vectors["items"][:50] == vectors["items"][0]).all()
    assert vectors["queries"].shape == (0, 8)


def test_batches_hold_texts_of_equal_length(tmp_path, model, monkeypatch):
    batches = []
    original = TextEncoder._encode_batch

    def watching(self, texts, prefix):
        batches.append([len(words.split()) for words in texts])
        return original(self, texts, prefix)

    monkeypatch.setattr(TextEncoder, "_encode_batch", watching)
    # Few characters are not few tokens: the longest words stand in the shortest texts.
    items = ["w1 " * (1 + number % 7) + f"w{number}" for number in range(28)] + ["w" + "9" * 60]
    embed(tmp_path, model, items, batch_size=4)
    lengths = [length for batch in batches[1:-1] for length in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 1


def test_texts_are_cut_and_limits_told(tmp_path, model):
    long = " ".join(f"w{number % 30}" for number in range(40))
    cut, record = embed(tmp_path, model, [long, "w0 w1 w2"], max_tokens=3)
    assert cut["items"][0] == pytest.approx(cut["items"][1], abs=1e-6)
    assert record["warnings"] == []
    _, record = embed(tmp_path, model, [long, "w0 w1 w2"], name="more", max_tokens=256)
    assert record["figures"]["max_tokens"] == POSITIONS
    assert record["warnings"] == [f"{model} reads at most {POSITIONS} tokens, not 256"]


def test_prefixes_go_before_the_texts(tmp_path, model):
    told, _ = embed(tmp_path, model, ["w1 w2"], ["w1 w2"], query_prefix="query: ", item_prefix="item: ")
    written, _ = embed(tmp_path, model, ["item: w1 w2"], ["query: w1 w2"], name="written")
    assert told["items"] == pytest.approx(written["items"], abs=1e-6)
    assert told["queries"] == pytest.approx(written["queries"], abs=1e-6)
    assert np.abs(told["items"] - told["queries"]).max() > 1e-3


BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "prompts", "own", "expected"),
    [
        ("BAAI/bge-base-en-v1.5", {}, {}, (BGE, "")),
        ("/data/models/bge-small-en-v1.5", {"query": "", "document": ""}, {}, (BGE, "")),
        ("BAAI/bge-base-zh-v1.5", {}, {}, ("为这个句子生成表示以用于检索相关文章：", "")),  # noqa: RUF001
        ("intfloat/e5-base-v2", {}, {}, ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-base", {}, {}, ("query: ", "passage: ")),
        ("all-MiniLM-L6-v2", {}, {}, ("", "")),
        ("BAAI/bge-m3", {}, {}, ("", "")),
        ("x/own", {"query": "Q ", "document": "D "}, {}, ("Q ", "D ")),
        ("x/own", {"query": "Q ", "passage": "P "}, {}, ("Q ", "P ")),
        ("intfloat/e5-base-v2", {"query": "Q "}, {}, ("Q ", "")),
        ("intfloat/e5-base-v2", {}, {"query_prefix": ""}, ("", "passage: ")),
        ("intfloat/e5-base-v2", {"query": "Q "}, {"query_prefix": "A ", "item_prefix": "B "}, ("A ", "B ")),
    ],
)
def test_settings_then_the_model_then_its_family_decide_prefixes(name, prompts, own, expected):
    assert prefixes(settings(name, **own), prompts) == expected


def test_equal_inputs_give_equal_bytes(tmp_path, model):
    for name in ("one", "two"):
        embed(tmp_path, model, TEXTS, name=name)
    assert (tmp_path / "one/vectors.safetensors").read_bytes() == (tmp_path / "two/vectors.safetensors").read_bytes()


def test_a_packaged_model_is_found_and_else_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr(text, "_PACKAGED", {"known": ("os", "curdir", "org/known")})
    assert resolve_model("known") == os.curdir
    monkeypatch.setattr(text, "_PACKAGED", {"known": ("no_such_package", "MODEL_DIR", "org/known")})
    assert resolve_model("known") == "org/known"
    assert resolve_model("org/other") == "org/other"


def test_a_model_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    source = canonical(tmp_path / "in", ["w1"])
    with pytest.raises(UserError, match=r"'/no/such/model': no such folder"):
        embed_catalogue(source, tmp_path / "out", settings("/no/such/model"), 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' cannot be loaded .*path of a local folder that holds it"):
        embed_catalogue(source, tmp_path / "out", settings(tmp_path / "empty"), 1)

    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")

    monkeypatch.setattr(text, "SentenceTransformer", offline)
    with pytest.raises(
        UserError, match=r"'org/model' cannot be loaded \(We couldn't connect to the hub\); without internet"
    ):
        embed_catalogue(source, tmp_path / "out", settings("org/model"), 1)
    assert not [path for path in Path(tmp_path / "out").rglob("*") if path.is_file()]


def test_a_catalogue_without_any_text_is_one_clear_error(tmp_path, model):
    with pytest.raises(UserError, match=r"items\.parquet: no item has text to embed"):
        embed_catalogue(canonical(tmp_path / "in", ["", " "]), tmp_path / "out", settings(model), 1)
