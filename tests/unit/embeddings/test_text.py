"""Text embeddings with a tiny encoder made on the spot, and prefixes by settings, model and family."""

import json
import os
import shutil
from pathlib import Path

import huggingface_hub
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
from gensar_core.embeddings import encoder_families as families
from gensar_core.embeddings import text
from gensar_core.embeddings.encoder_families import resolve_model, text_prefixes
from gensar_core.embeddings.shards import Shards
from gensar_core.embeddings.text import TextEncoder, embed_catalogue
from gensar_core.errors import UserError
from gensar_core.runtime import device

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
    assert record["counts"]["items_without_text"] == 2
    assert record["counts"]["dimensions"] == 8


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
    assert record["counts"]["max_tokens"] == POSITIONS
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
    assert text_prefixes(settings(name, **own), prompts) == expected


def bare(model, name):
    """The transformer alone, without a word on pooling, in a folder called ``name``."""
    folder = model.parent / name
    if not folder.exists():
        shutil.copytree(model.parent / "bert", folder)
    return folder


def by_hand(model, words, pool):
    """The vector of one text as transformers alone gives it."""
    transformer = BertModel.from_pretrained(model.parent / "bert").eval()
    tokens = PreTrainedTokenizerFast.from_pretrained(model.parent / "bert")(words, return_tensors="pt")
    with torch.no_grad():
        states = transformer(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state[0]
    return torch.nn.functional.normalize(pool(states), dim=0).numpy()


def test_e5_averages_tokens_with_its_prefixes_among_them(tmp_path, model):
    vectors, record = embed(tmp_path, bare(model, "e5-small-v2"), ["w1 w2 w3"], ["w1 w2"])
    mean = lambda states: states.mean(dim=0)  # noqa: E731
    assert vectors["queries"][0] == pytest.approx(by_hand(model, "query: w1 w2", mean), abs=1e-5)
    assert vectors["items"][0] == pytest.approx(by_hand(model, "passage: w1 w2 w3", mean), abs=1e-5)
    assert (record["counts"]["query_prefix"], record["counts"]["item_prefix"]) == ("query: ", "passage: ")


def test_bge_takes_the_first_token_and_instructs_queries_alone(tmp_path, model):
    folder = bare(model, "bge-small-en-v1.5")
    vectors, _ = embed(tmp_path, folder, ["w1 w2 w3"], ["w1 w2"])
    first = lambda states: states[0]  # noqa: E731
    assert vectors["items"][0] == pytest.approx(by_hand(model, "w1 w2 w3", first), abs=1e-5)
    assert vectors["queries"][0] == pytest.approx(by_hand(model, f"{BGE}w1 w2", first), abs=1e-5)
    assert np.abs(vectors["items"][0] - by_hand(model, "w1 w2 w3", lambda states: states.mean(dim=0))).max() > 1e-3


def test_a_model_that_tells_its_pooling_and_prompts_is_taken_at_its_word(tmp_path, model):
    layers = Transformer(str(model.parent / "bert"))
    own = SentenceTransformer(modules=[layers, Pooling(8, "max")], device="cpu", prompts={"query": "item: "})
    own.save(str(tmp_path / "bge-base-en"))
    vectors, _ = embed(tmp_path, tmp_path / "bge-base-en", ["w1 w2 w3"], ["w1 w2"])
    largest = lambda states: states.max(dim=0).values  # noqa: E731
    assert vectors["items"][0] == pytest.approx(by_hand(model, "w1 w2 w3", largest), abs=1e-5)
    assert vectors["queries"][0] == pytest.approx(by_hand(model, "item: w1 w2", largest), abs=1e-5)


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


@pytest.mark.parametrize(("dies_at", "kept"), [(3, 0), (9, 6), (14, 11)])
def test_a_killed_run_continues_behind_its_shards_to_the_same_bytes(tmp_path, model, monkeypatch, dies_at, kept):
    monkeypatch.setattr(text, "_SHARD_BATCHES", 2)
    items = [f"w{number % 30} w{number // 30}" for number in range(43)] + [""]
    source = canonical(tmp_path / "in", items, ["w1", "w2 w3"] * 5 + ["w4 w5 w6", "w7", "w8"])
    chosen, checkpoints = settings(model, batch_size=4), tmp_path / "checkpoints"
    embed_catalogue(source, tmp_path / "whole", chosen, 42)
    original, calls = TextEncoder._encode_batch, []

    def dying(self, texts, prefix):
        calls.append(texts)
        if len(calls) == dies_at:
            raise Killed
        return original(self, texts, prefix)

    monkeypatch.setattr(TextEncoder, "_encode_batch", dying)
    with pytest.raises(Killed):
        embed_catalogue(source, tmp_path / "out", chosen, 42, checkpoints)
    assert not (tmp_path / "out/vectors.safetensors").exists()
    dies_at, first = None, len(calls)
    embed_catalogue(source, tmp_path / "out", chosen, 42, checkpoints)
    whole, continued = tmp_path / "whole/vectors.safetensors", tmp_path / "out/vectors.safetensors"
    assert whole.read_bytes() == continued.read_bytes()
    # One text to learn the size in each run, then 11 batches of items and 2 of queries, less those in whole shards.
    assert len(calls) - first == 1 + 13 - kept
    assert not checkpoints.exists()


def test_shards_of_other_settings_are_not_continued(tmp_path):
    old = Shards(tmp_path / "checkpoints", "old" * 20)
    old.save("item-texts", 0, np.ones((3, 8), dtype=np.float32))
    rows = np.zeros((3, 8), dtype=np.float32)
    assert Shards(tmp_path / "checkpoints", "new" * 20).restore("item-texts", rows) == 0
    assert old.restore("item-texts", rows) == 0
    assert not rows.any()


def test_a_shard_with_a_changed_bit_is_refused(tmp_path):
    shards = Shards(tmp_path, "key" * 20)
    shards.save("item-texts", 0, np.ones((3, 8), dtype=np.float32))
    rows = np.zeros((3, 8), dtype=np.float32)
    assert shards.restore("item-texts", rows) == 3
    assert (rows == 1.0).all()
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{file}: is damaged or cut off .*; delete it and run again"):
        shards.restore("item-texts", rows)


def test_equal_inputs_give_equal_bytes(tmp_path, model):
    for name in ("one", "two"):
        embed(tmp_path, model, TEXTS, name=name)
    assert (tmp_path / "one/vectors.safetensors").read_bytes() == (tmp_path / "two/vectors.safetensors").read_bytes()


def test_a_packaged_model_is_found_and_else_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr(families, "_PACKAGED", {"known": ("os", "curdir", "org/known")})
    assert resolve_model("known") == os.curdir
    monkeypatch.setattr(families, "_PACKAGED", {"known": ("no_such_package", "MODEL_DIR", "org/known")})
    assert resolve_model("known") == "org/known"
    assert resolve_model("org/other") == "org/other"


def test_a_model_that_is_not_there_is_one_clear_error(tmp_path, monkeypatch):
    source = canonical(tmp_path / "in", ["w1"])
    with pytest.raises(UserError, match=r"'/no/such/model': no such folder"):
        embed_catalogue(source, tmp_path / "out", settings("/no/such/model"), 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' cannot be loaded .*path of a local folder that holds it"):
        embed_catalogue(source, tmp_path / "out", settings(tmp_path / "empty"), 1)

    def broken(*_, **__):
        raise OSError("no file named model.safetensors.\nCheck the name.")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    monkeypatch.setattr(text, "SentenceTransformer", broken)
    with pytest.raises(
        UserError, match=r"'org/model' cannot be loaded \(no file named model\.safetensors\); download it while online"
    ):
        embed_catalogue(source, tmp_path / "out", settings("org/model"), 1)
    assert not [path for path in Path(tmp_path / "out").rglob("*") if path.is_file()]


def test_a_catalogue_without_any_text_is_one_clear_error(tmp_path, model):
    with pytest.raises(UserError, match=r"items\.parquet: no item has text to embed"):
        embed_catalogue(canonical(tmp_path / "in", ["", " "]), tmp_path / "out", settings(model), 1)
