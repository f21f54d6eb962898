"""Text embeddings with a tiny encoder made on the spot, and prefixes by settings, model and family."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertModel, PreTrainedTokenizerFast

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings import encoder_families as families
from gensar_core.embeddings import text
from gensar_core.embeddings.encoder_families import resolve_model, text_prefixes
from gensar_core.embeddings.text import TextEncoder, embed_catalogue
from gensar_core.errors import UserError
from gensar_core.runtime import device
from gensar_core.runtime.shards import Shards
from tests.support.shop import write_corpus_inputs
from tests.support.tiny_bert import save_tiny_bert

WORDS = ["[PAD]", "[UNK]", "query:", "item:", *(f"w{number}" for number in range(30))]
POSITIONS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A local sentence-transformers folder: one small BERT layer over whole words, 16 positions."""
    options = {"max_position_embeddings": POSITIONS, "initializer_range": 0.5}
    return save_tiny_bert(tmp_path_factory.mktemp("models"), WORDS, 8, **options)


def canonical(folder, items, queries=("w1 w2",)):
    codes = [[0]] * len(items)
    return write_corpus_inputs(folder, texts=list(items), queries=list(queries), semantic=codes, collaborative=codes)


def settings(model, **more):
    return TextEmbedding(kind="text", model=str(model), **more)


def embed(tmp_path, model, items, queries=("w1 w2",), name="out", **more):
    """The vectors of items and queries, and the stage's record."""
    embed_catalogue(canonical(tmp_path / "in", items, queries), tmp_path / name, settings(model, **more), 42)
    record = json.loads((tmp_path / name / "stage.json").read_text())
    return load_file(tmp_path / name / "vectors.safetensors"), record


TEXTS = ["w1", "w5 w6 w7", "", "w2 w3", "w5 w6 w7", "w9 w8 w7 w6 w5 w4", "  "]


def test_vectors_are_those_of_the_model_normalized(tmp_path, model):
    queries = ["w3 w4", "w1"]
    vectors, record = embed(tmp_path, model, TEXTS, queries, batch_size=2)
    reference = SentenceTransformer(str(model), device="cpu")
    rows = [0, 1, 3, 4, 5]
    expected = reference.encode([TEXTS[row] for row in rows], normalize_embeddings=True)
    assert vectors["items"][rows] == pytest.approx(expected, abs=1e-5)
    assert vectors["queries"] == pytest.approx(reference.encode(queries, normalize_embeddings=True), abs=1e-5)
    # Items without text have the direction of the mean of the distinct other vectors.
    mean = vectors["items"][[0, 1, 3, 5]].astype(np.float64).mean(axis=0)
    assert vectors["items"][[2, 6]] == pytest.approx(np.tile(mean / np.linalg.norm(mean), (2, 1)), abs=1e-5)
    for matrix in vectors.values():
        assert matrix.dtype == np.float32
        assert np.linalg.norm(matrix, axis=1) == pytest.approx(np.ones(len(matrix)), abs=1e-5)
    assert record["counts"]["items_without_text"] == 2
    assert record["counts"]["dimensions"] == 8


@pytest.fixture
def batches(monkeypatch):
    """The batches of texts that were encoded."""
    encoded = []
    original = TextEncoder._encode_batch

    def watched(self, texts, prefix):
        encoded.append(list(texts))
        return original(self, texts, prefix)

    monkeypatch.setattr(TextEncoder, "_encode_batch", watched)
    return encoded


def test_each_distinct_text_is_encoded_once(tmp_path, model, batches):
    vectors, _ = embed(tmp_path, model, ["w1 w2"] * 50 + ["w3"] * 50, [])
    assert batches == [["text"], ["w1 w2", "w3"]]
    assert (vectors["items"][:50] == vectors["items"][0]).all()
    assert vectors["queries"].shape == (0, 8)


def test_batches_hold_texts_of_similar_numbers_of_tokens(tmp_path, model, batches):
    # The text with the most characters has one token.
    items = ["w1 " * (1 + number % 7) + f"w{number}" for number in range(28)] + ["w" + "9" * 60]
    embed(tmp_path, model, items, batch_size=4)
    lengths = [len(words.split()) for batch in batches[1:-1] for words in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 1


def test_long_texts_are_cut_and_a_limit_of_the_model_is_a_warning(tmp_path, model):
    long = " ".join(f"w{number % 30}" for number in range(40))
    cut, record = embed(tmp_path, model, [long, "w0 w1 w2"], max_tokens=3)
    assert cut["items"][0] == pytest.approx(cut["items"][1], abs=1e-6)
    assert record["warnings"] == []
    _, record = embed(tmp_path, model, [long, "w0 w1 w2"], name="more", max_tokens=256)
    assert record["counts"]["max_tokens"] == POSITIONS
    assert record["warnings"] == [f"{model} reads at most {POSITIONS} tokens, not 256"]


BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "prompts", "overrides", "expected"),
    [
        ("BAAI/bge-base-en-v1.5", {}, {}, (BGE, "")),
        ("/data/models/bge-small-en-v1.5", {"query": "", "document": ""}, {}, (BGE, "")),
        ("BAAI/bge-base-zh-v1.5", {}, {}, ("为这个句子生成表示以用于检索相关文章：", "")),  # noqa: RUF001
        ("intfloat/e5-base-v2", {}, {}, ("query: ", "passage: ")),
        ("intfloat/multilingual-e5-base", {}, {}, ("query: ", "passage: ")),
        ("all-MiniLM-L6-v2", {}, {}, ("", "")),
        ("BAAI/bge-m3", {}, {}, ("", "")),
        ("x/model", {"query": "Q ", "document": "D "}, {}, ("Q ", "D ")),
        ("x/model", {"query": "Q ", "passage": "P "}, {}, ("Q ", "P ")),
        ("intfloat/e5-base-v2", {"query": "Q "}, {}, ("Q ", "")),
        ("intfloat/e5-base-v2", {}, {"query_prefix": ""}, ("", "passage: ")),
        ("intfloat/e5-base-v2", {"query": "Q "}, {"query_prefix": "A ", "item_prefix": "B "}, ("A ", "B ")),
    ],
)
def test_settings_then_the_model_then_its_family_decide_prefixes(name, prompts, overrides, expected):
    assert text_prefixes(settings(name, **overrides), prompts) == expected


MEAN, FIRST, MAX = (lambda states: states.mean(dim=0)), (lambda states: states[0]), (lambda states: states.amax(dim=0))


@pytest.mark.parametrize(
    ("name", "stated", "pool", "query_prefix", "item_prefix"),
    [
        ("e5-small-v2", False, MEAN, "query: ", "passage: "),
        ("bge-small-en-v1.5", False, FIRST, BGE, ""),
        # What a model states about itself goes before its family.
        ("bge-base-en", True, MAX, "item: ", ""),
    ],
)
def test_pooling_and_prefixes_are_those_of_the_model_or_its_family(
    tmp_path, model, name, stated, pool, query_prefix, item_prefix
):
    folder, bert = tmp_path / name, model.parent / "bert"
    if stated:
        modules = [Transformer(str(bert)), Pooling(8, "max")]
        SentenceTransformer(modules=modules, device="cpu", prompts={"query": "item: "}).save(str(folder))
    else:
        shutil.copytree(bert, folder)
    vectors, record = embed(tmp_path, folder, ["w1 w2 w3"], ["w1 w2"])
    transformer = BertModel.from_pretrained(bert).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(bert)
    for kind, words in (("queries", f"{query_prefix}w1 w2"), ("items", f"{item_prefix}w1 w2 w3")):
        tokens = tokenizer(words, return_tensors="pt")
        with torch.no_grad():
            states = transformer(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state[0]
        for by_hand in (MEAN, FIRST, MAX):
            expected = torch.nn.functional.normalize(by_hand(states), dim=0).numpy()
            assert (np.abs(vectors[kind][0] - expected).max() < 1e-5) == (by_hand is pool)
    assert (record["counts"]["query_prefix"], record["counts"]["item_prefix"]) == (query_prefix, item_prefix)


def test_bfloat16_gives_nearly_the_same_vectors_of_length_one(tmp_path, model, monkeypatch):
    exact, record = embed(tmp_path, model, TEXTS)
    assert record["counts"]["numbers"] == "cpu-float32"
    for module in (text, device):
        monkeypatch.setattr(module, "compute_type", lambda _: torch.bfloat16)
    fast, record = embed(tmp_path, model, TEXTS, name="fast")
    assert record["counts"]["numbers"] == "cpu-bfloat16"
    assert fast["items"].dtype == np.float32
    assert np.linalg.norm(fast["items"], axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-6)
    cosines = (exact["items"] * fast["items"]).sum(axis=1)
    assert 0.99 < cosines.min() < 1.0


class Killed(Exception):
    pass


@pytest.mark.parametrize(("killed_at", "sharded"), [(3, 0), (9, 6), (14, 11)])
def test_a_killed_run_continues_after_its_shards_to_the_same_bytes(tmp_path, model, monkeypatch, killed_at, sharded):
    monkeypatch.setattr(text, "_SHARD_BATCHES", 2)
    items = [f"w{number % 30} w{number // 30}" for number in range(43)] + [""]
    source = canonical(tmp_path / "in", items, ["w1", "w2 w3"] * 5 + ["w4 w5 w6", "w7", "w8"])
    small_batches, checkpoints = settings(model, batch_size=4), tmp_path / "checkpoints"
    embed_catalogue(source, tmp_path / "whole", small_batches, 42)
    original, calls = TextEncoder._encode_batch, []

    def killed(self, texts, prefix):
        calls.append(texts)
        if len(calls) == killed_at:
            raise Killed
        return original(self, texts, prefix)

    monkeypatch.setattr(TextEncoder, "_encode_batch", killed)
    with pytest.raises(Killed):
        embed_catalogue(source, tmp_path / "out", small_batches, 42, checkpoints)
    assert not (tmp_path / "out/vectors.safetensors").exists()
    embed_catalogue(source, tmp_path / "out", small_batches, 42, checkpoints)
    whole, continued = tmp_path / "whole/vectors.safetensors", tmp_path / "out/vectors.safetensors"
    assert whole.read_bytes() == continued.read_bytes()
    # One text to learn the size in each run, then 11 batches of items and 2 of queries, less those in whole shards.
    assert len(calls) - killed_at == 1 + 13 - sharded
    assert not checkpoints.exists()


def test_shards_of_other_settings_are_removed(tmp_path):
    rows = np.ones((3, 8), dtype=np.float32)
    old = Shards(tmp_path, "old" * 20)
    old.save("item-texts", 0, rows)
    assert old.restore("item-texts", np.zeros_like(rows)) == 3
    assert Shards(tmp_path, "new" * 20).restore("item-texts", np.zeros_like(rows)) == 0
    assert old.restore("item-texts", np.zeros_like(rows)) == 0


def test_a_shard_with_a_changed_bit_is_refused(tmp_path):
    shards, rows = Shards(tmp_path, "key" * 20), np.zeros((3, 8), dtype=np.float32)
    shards.save("item-texts", 0, np.ones_like(rows))
    assert shards.restore("item-texts", rows) == 3
    assert (rows == 1.0).all()
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: is damaged or cut off .*; delete it and run again"):
        shards.restore("item-texts", rows)


def test_a_packaged_model_is_loaded_from_its_package_or_else_from_the_hub(monkeypatch):
    monkeypatch.setattr(families, "_PACKAGED", {"known": ("os", "curdir", "org/known")})
    assert resolve_model("known") == os.curdir
    monkeypatch.setattr(families, "_PACKAGED", {"known": ("no_such_package", "MODEL_DIR", "org/known")})
    assert resolve_model("known") == "org/known"
    assert resolve_model("org/other") == "org/other"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/model", "'/no/such/model': no such folder"),
        ("{empty}", "empty' cannot be loaded .*path of a local folder that holds it"),
        ("org/model", r"'org/model' cannot be loaded \(no file named model\.safetensors\); download it while online"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_clear_error(tmp_path, monkeypatch, name, message):
    def broken(*_, **__):
        raise OSError("no file named model.safetensors.\nCheck the name.")

    (tmp_path / "empty").mkdir()
    if name == "org/model":
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
        monkeypatch.setattr("sentence_transformers.SentenceTransformer", broken)
    chosen = settings(name.format(empty=tmp_path / "empty"))
    with pytest.raises(UserError, match=message):
        embed_catalogue(canonical(tmp_path / "in", ["w1"]), tmp_path / "out", chosen, 1)
    assert not [path for path in Path(tmp_path / "out").rglob("*") if path.is_file()]


def test_a_data_set_without_any_text_is_one_clear_error(tmp_path, model):
    with pytest.raises(UserError, match=r"items\.parquet: no item has text to embed"):
        embed_catalogue(canonical(tmp_path / "in", ["", " "]), tmp_path / "out", settings(model), 1)
