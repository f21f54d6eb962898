"""A causal model through its stages: trained, killed and continued, ranked, and asked."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from gensar_core import schema
from gensar_core.config.datasets import FullRankingSettings
from gensar_core.config.generators import OnePassSettings, RankingSettings, RetrievalSettings, TrainingSettings
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.log_rows import LogRows
from gensar_core.generator.one_pass import one_pass_task
from gensar_core.generator.open import load_generator
from gensar_core.generator.rank import rank_candidates, rank_catalogue
from gensar_core.generator.train import train_generator
from tests.support.killed import Killed
from tests.support.live_questions import check_answers_together
from tests.support.shop import QUERIES, TEXTS
from tests.support.small_corpus import write_ranked_shop

SMALL = OnePassSettings(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)


def settings(**changes):
    values = {"backbone": "causal", "one_pass": SMALL, "batch_size": 2, "epochs": 3, "patience": None, **changes}
    return TrainingSettings(**values)


@pytest.fixture(scope="module", params=["catalogue", "vocabulary"])
def trained(request, tmp_path_factory):
    """The folders of a shop with samples, its corpus, and a model."""
    shop = write_ranked_shop(tmp_path_factory.mktemp("shop"))
    model = shop / "model"
    train_generator(shop / "corpus", shop, model, settings(likelihood=request.param), 1, shop / "checkpoints")
    return shop, shop / "corpus", model


def test_equal_seeds_give_equal_weights_and_a_killed_training_continues_to_them(trained, tmp_path):
    shop, corpus, model = trained
    likelihood = json.loads((model / "config.json").read_text())["identifier_likelihood"]

    def interrupt(*_):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gensar_core.generator.train.write_json", interrupt)
        with pytest.raises(Killed):
            train_generator(corpus, shop, tmp_path / "again", settings(likelihood=likelihood), 1, tmp_path / "kept")
    assert not (tmp_path / "again" / "config.json").exists()
    train_generator(corpus, shop, tmp_path / "again", settings(likelihood=likelihood), 1, tmp_path / "kept")
    for name in ("model.safetensors", "catalogue.safetensors", "curve.json"):
        assert (tmp_path / "again" / name).read_bytes() == (model / name).read_bytes()


def test_an_average_of_the_weights_is_kept_where_that_is_set(trained, tmp_path):
    shop, corpus, model = trained
    likelihood = json.loads((model / "config.json").read_text())["identifier_likelihood"]
    averaged = settings(likelihood=likelihood, weight_average=0.9)
    train_generator(corpus, shop, tmp_path / "model", averaged, 1, None)
    names = ("model.safetensors", "catalogue.safetensors")
    assert all((tmp_path / "model" / name).read_bytes() != (model / name).read_bytes() for name in names)
    # The training goes on with the weights themselves.
    curves = [json.loads((folder / "curve.json").read_text()) for folder in (model, tmp_path / "model")]
    first, second = ([entry["train_loss"] for entry in curve] for curve in curves)
    assert first == second


def test_a_training_that_starts_from_another_model_drops_out_by_its_own_settings(trained):
    shop, corpus, model = trained
    first = json.loads((model / "config.json").read_text())
    own = OnePassSettings(hidden_size=999, dropout=0.0, hidden_share=0.0, query_dropout=0.5)
    further = settings(likelihood=first["identifier_likelihood"], one_pass=own)
    task = one_pass_task(corpus, shop, further, 1, start_from=model)
    expected = SMALL.model_copy(update={"dropout": 0.0, "hidden_share": 0.0, "query_dropout": 0.5})
    assert task.model.settings == expected
    assert task.model.lm.config.one_pass == expected.model_dump()


def test_logs_from_the_disk_train_the_same_weights_as_logs_in_memory(trained, tmp_path, monkeypatch):
    shop, corpus, model = trained
    likelihood = json.loads((model / "config.json").read_text())["identifier_likelihood"]

    with_others = SMALL.model_copy(update={"other_identifier_weight": 0.5})
    train_generator(corpus, shop, tmp_path / "others", settings(likelihood=likelihood, one_pass=with_others), 1, None)

    def in_memory(_vocabulary, *paths, other_codes=None):
        rows = LogRows.from_frame(pl.concat([pl.read_parquet(path) for path in paths]))
        return rows if other_codes is None else rows.with_other_identifiers(other_codes)

    monkeypatch.setattr(LogRows, "load", in_memory)
    weights = []
    for one_pass, folder in ((SMALL, model), (with_others, tmp_path / "others")):
        again = tmp_path / f"{folder.name}_again"
        train_generator(corpus, shop, again, settings(likelihood=likelihood, one_pass=one_pass), 1, None)
        weights.append((again / "model.safetensors").read_bytes())
        assert weights[-1] == (folder / "model.safetensors").read_bytes()
    assert weights[0] != weights[1]


def test_it_ranks_every_list_and_the_whole_catalogue(trained, tmp_path):
    shop, corpus, model = trained
    rank_candidates(model, corpus, shop, tmp_path, "ranks", RankingSettings())
    ranks = schema.RANKS.read(tmp_path / "ranks.parquet")
    assert ranks["sample_id"].to_list() == [1, 2, 4, 5]
    protocol = FullRankingSettings(unseen=True)
    for name, beams in (("beams", 20), ("scores", None)):
        rank_catalogue(model, corpus, shop, tmp_path, name, RetrievalSettings(beams=beams), protocol)
    found, scored = (schema.FULL_RANKS.read(tmp_path / f"{name}.parquet") for name in ("beams", "scores"))
    assert found.equals(scored)
    # Candidates are all items here.
    both = scored.join(ranks, on="sample_id")
    assert both.select((pl.col("rank") == pl.col("rank_right")).all()).item()


def test_validation_among_the_catalogue_ranks_all_items(trained, tmp_path):
    shop, corpus, model = trained
    likelihood = json.loads((model / "config.json").read_text())["identifier_likelihood"]
    chosen = settings(likelihood=likelihood, validate_among="catalogue")
    train_generator(corpus, shop, tmp_path / "model", chosen, 1, None)
    # Candidates are all items here.
    assert (tmp_path / "model" / "curve.json").read_bytes() == (model / "curve.json").read_bytes()


def test_it_answers_a_user_as_it_ranks_them(trained):
    _, corpus, model = trained
    generator = load_generator(model, corpus)
    history = [Entry.clicked(2), Entry.searched(QUERIES[1]), Entry.found(3)]
    hits = generator.search(QUERIES[0], history, top=5)
    assert sorted(hit.item for hit in hits) == list(range(len(TEXTS)))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    without = generator.search(QUERIES[0], history, top=5, excluded=[hits[0].item])
    assert [hit.item for hit in without] == [hit.item for hit in hits[1:]]
    allowed = np.zeros(len(TEXTS), dtype=bool)
    allowed[[1, 4]] = True
    assert {hit.item for hit in generator.recommend(history, top=5, allowed=allowed)} == {1, 4}
    # A history longer than a row keeps its end.
    long = generator.recommend([Entry.clicked(item % 5) for item in range(400)], top=3)
    short = generator.recommend([Entry.clicked(item % 5) for item in range(200, 400)], top=3)
    assert long == short


def test_several_questions_are_answered_as_each_alone(trained):
    _, corpus, model = trained
    check_answers_together(load_generator(model, corpus))


@pytest.mark.parametrize("item", [-1, 5])
def test_an_item_that_is_not_there_is_one_clear_error(trained, item):
    _, corpus, model = trained
    with pytest.raises(UserError, match=f"there is no item number {item}"):
        load_generator(model, corpus).recommend([Entry.clicked(item)])


def test_settings_that_do_not_fit_and_damaged_folders_are_one_clear_error(trained, tmp_path):
    shop, corpus, model = trained
    with pytest.raises(UserError, match="write a factor of the loss"):
        train_generator(corpus, shop, tmp_path / "m", settings(task_weights={"nrip": {"examples": 4}}), 1, None)
    with pytest.raises(UserError, match="leave out ranking"):
        rank_candidates(model, corpus, shop, tmp_path, "ranks", RankingSettings(beams=30))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for name in ("config.json", "model.safetensors"):
        (damaged / name).write_bytes((model / name).read_bytes())
    with pytest.raises(UserError, match="holds no causal generator that opens"):
        load_generator(damaged, corpus)


def write_pretrained(folder, **changes):
    """A tiny Qwen3 with a byte-level tokenizer, which tells words after a blank from those at a text's start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer.train_from_iterator([text for text in TEXTS if text], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=tokenizer.get_vocab_size() + 64, **sizes, **heads, **changes)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_pretrained_model_keeps_its_words_and_learns_the_corpus_tokens(tmp_path):
    base = write_pretrained(tmp_path / "base")
    shop = write_ranked_shop(tmp_path / "shop", tokenizer=str(base))
    corpus, model = shop / "corpus", tmp_path / "model"
    start = settings(backbone=f"causal:{base}", likelihood="catalogue", learning_rate=1e-9)
    train_generator(corpus, shop, model, start, 1, None)
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base, model))
    words = json.loads((corpus / "new_tokens.json").read_text())["base_vocabulary_size"]
    rows = [one.get_input_embeddings().weight[:words] for one in (before, after)]
    torch.testing.assert_close(*rows, atol=1e-6, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    logs = schema.USER_LOGS.read(corpus / "user_logs.parquet").row(0, named=True)
    query = cut(logs)[logs["behavior"].index(schema.SEARCHED_QUERY)]
    assert query in [tokenizer(f"<S_Q> {text}").input_ids for text in QUERIES]
    rank_candidates(model, corpus, shop, tmp_path, "ranks", RankingSettings())
    assert len(schema.RANKS.read(tmp_path / "ranks.parquet")) == 4
    assert load_generator(model, corpus).search(QUERIES[0], top=2)


def cut(row):
    """The tokens of each entry of a row."""
    ends = np.cumsum(row["lengths"])
    return [row["token_ids"][end - size : end] for end, size in zip(ends, row["lengths"], strict=True)]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("causal:missing", {}, "'causal:missing' cannot be loaded"),
        ("causal:gpt2", {}, "'causal:.*' is a gpt2; name one of llama"),
        ("gpt2", {}, "is a gpt2; .* or 'causal:gpt2' for a causal"),
        ("causal:base", {"max_position_embeddings": 64}, "knows 64 positions, but .* lower the corpus' log_tok"),
        ("causal:base", {"tie_word_embeddings": False, "vocab_size": 20}, "has 20 embeddings, but the tokenizer"),
    ],
)
def test_a_pretrained_model_that_does_not_fit_is_one_clear_error(tmp_path, monkeypatch, name, changes, message):
    base = write_pretrained(tmp_path / "base")
    shop = write_ranked_shop(tmp_path / "shop", tokenizer=str(base))
    config = json.loads((base / "config.json").read_text())
    Qwen3ForCausalLM(Qwen3Config(**{**config, **changes})).save_pretrained(base)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        train_generator(shop / "corpus", shop, tmp_path / "m", settings(backbone=name), 1, None)


def test_rows_of_no_user_hold_the_alignment_tasks_and_ad_hoc_searches(tmp_path):
    shop = write_ranked_shop(tmp_path / "shop")
    corpus = shop / "corpus"
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    items = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet")
    written = {(task, item): tokenizer.decode(tokens[:-1]) for task, item, tokens in items.iter_rows()}
    rows = [
        (row["behavior"], row["target"], [tokenizer.decode(entry) for entry in cut(row)])
        for row in schema.USER_LOGS.read(corpus / "alignment_logs.parquet").iter_rows(named=True)
    ]
    item, text = 2, f"{tokenizer.eos_token} {TEXTS[2]}"
    assert ([3, 0], [-1, item], [text, written["rec", item]]) in rows
    assert ([3, 2], [-1, item], [text, written["search", item]]) in rows
    assert ([0, 3], [-1, item], [written["rec", item], text]) in rows
    assert ([2, 3], [-1, item], [written["search", item], text]) in rows
    assert len(rows) == 4 * sum(bool(text) for text in TEXTS)
