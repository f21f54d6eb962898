"""The stage `corpus`: prompts written out by hand, caps, switches, determinism, counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.corpora import chunks as stream
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.readable import readable
from gensar_core.errors import UserError
from gensar_core.runtime.stage import digest
from gensar_core.runtime.writing import TableWriter
from tests.support.prompts_by_hand import TASKS, Scribe, prompts_of, t5_like
from tests.support.shop import SAMPLES, TEXTS, Q, R, S, sample, write_corpus_inputs


def settings(**changes: Any) -> MaterializationSettings:
    return MaterializationSettings(**{"tokenizer": "trained", "vocabulary_size": 400, **changes})


def build(shop: Path, output: Path, seed: int = 7, **changes: Any) -> Path:
    build_corpus(shop, shop, shop, output, settings(**changes), seed)
    return output


class Corpus:
    """A built corpus, opened as its users open it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        self.train = prompts_of(folder)
        self.prompts = schema.PROMPTS.read(folder / "prompts.parquet")
        self.item_tokens = schema.ITEM_TOKENS.read(folder / "item_tokens.parquet")
        self.new_tokens = json.loads((folder / "new_tokens.json").read_text())
        self.record = json.loads((folder / "stage.json").read_text())

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def rows(self, task: str) -> dict[int, tuple[list[int], list[int]]]:
        return {row[1]: (row[2], row[3]) for row in self.train.filter(task=task).iter_rows()}

    def prompt(self, sample_id: int) -> list[int]:
        return self.prompts.filter(sample_id=sample_id).get_column("input_ids").to_list()[0]

    def item_ids(self, task: str, item: int) -> list[int]:
        return self.item_tokens.filter(task=task, item_id=item).get_column("target_ids").to_list()[0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus_inputs(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def corpus(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(build(shop, tmp_path_factory.mktemp("corpus")))


HISTORY = (
    "Here is what the user did so far: <R_I><M1_0><M2_1><R1_7><R2_7>; <S_Q> digital piano; "
    "<S_I><M1_3><M2_3><S1_3><S2_3>; <R_I><M1_5><M2_0><R1_1><R2_1>"
)
DESCRIPTION = "Which item does this text describe? Give its {} identifier. USB-C cable (2 m)"
IDENTIFIER = "Describe the item with the {} identifier {} in words."
# The prompt and target of each task's first template, for a sample or an item of the shop.
BY_HAND = {
    ("nrip", 0): (f"{HISTORY} Which item should be recommended next? <R_I>", "<R_I><M1_1><M2_2><R1_0><R2_0>"),
    ("nsqp", 3): (f"{HISTORY} What will the user search for next?", "<S_Q> music stand"),
    ("nsip", 3): (
        f"{HISTORY} Now the user searches for <S_Q> music stand and clicks on which item? <S_I>",
        "<S_I><M1_3><M2_3><S1_3><S2_3>",
    ),
    ("desc2id_semantic", 2): (DESCRIPTION.format("semantic"), "<M1_5><M2_0><S1_0><S2_0>"),
    ("desc2id_collaborative", 2): (DESCRIPTION.format("collaborative"), "<M1_5><M2_0><R1_1><R2_1>"),
    ("id2desc_semantic", 4): (IDENTIFIER.format("semantic", "<M1_1><M2_2><S1_3><S2_4>"), "piano stool"),
    ("id2desc_collaborative", 4): (IDENTIFIER.format("collaborative", "<M1_1><M2_2><R1_0><R2_0>"), "piano stool"),
}


@pytest.mark.parametrize("tokenizer", ["trained", "t5"])
def test_examples_are_those_written_by_hand(shop: Path, tmp_path: Path, tokenizer: str) -> None:
    """Eq. 11 and section 3.3: the token ids of each task equal the tokenized text of its worked example."""
    if tokenizer == "t5":
        t5_like([*TEXTS, "digital piano music stand recommended identifier"]).save_pretrained(tmp_path / "t5")
        tokenizer = str(tmp_path / "t5")
    corpus = Corpus(build(shop, tmp_path / "corpus", tokenizer=tokenizer))
    assert set(corpus.train.get_column("task")) == {task for task, _ in BY_HAND}
    for (task, number), (shown, wanted) in BY_HAND.items():
        assert corpus.rows(task)[number] == (corpus.ids(shown), corpus.ids(wanted)), (task, number)


def test_evaluation_prompts_take_the_first_template(corpus: Corpus) -> None:
    assert corpus.prompts.get_column("sample_id").to_list() == [1, 2, 4, 5]
    assert corpus.prompt(2) == corpus.ids(
        "Here is what the user did so far: <S_Q> music stand; <S_I><M1_3><M2_3><S1_3><S2_3>; "
        "<S_I><M1_1><M2_2><S1_3><S2_4>; <R_I><M1_0><M2_1><R1_6><R2_6> Which item should be recommended next? <R_I>"
    )
    assert corpus.prompt(4) == corpus.ids(
        "Here is what the user did so far: <R_I><M1_5><M2_0><R1_1><R2_1>; <S_Q> music stand; "
        "<S_I><M1_3><M2_3><S1_3><S2_3> Now the user searches for <S_Q> digital piano and clicks on which item? <S_I>"
    )


def test_item_tokens_are_the_targets_of_training(corpus: Corpus) -> None:
    assert len(corpus.item_tokens) == 2 * len(TEXTS)
    assert corpus.item_ids("rec", 4) == corpus.rows("nrip")[0][1]
    assert corpus.item_ids("search", 3) == corpus.rows("nsip")[3][1]
    # An item without a text still has its identifiers.
    assert corpus.item_ids("rec", 1) == corpus.ids("<R_I><M1_0><M2_1><R1_6><R2_6>")


def test_alignment_tasks_show_items_with_text_and_no_behavior_token(corpus: Corpus) -> None:
    behaviors = {corpus.new_tokens["tokens"][token] for token in ("<R_I>", "<S_Q>", "<S_I>")}
    for task in TASKS.values():
        if task.source == "item":
            examples = corpus.rows(task.name)
            assert sorted(examples) == [0, 2, 3, 4]
            assert not any(behaviors & {*prompt, *target} for prompt, target in examples.values())
    assert corpus.record["counts"]["items"]["empty"] == 1


def test_every_new_token_is_one_token_at_the_end_of_the_vocabulary(corpus: Corpus) -> None:
    tokens = corpus.new_tokens["tokens"]
    base, size = corpus.new_tokens["base_vocabulary_size"], corpus.new_tokens["vocabulary_size"]
    # M1, M2 shared, S1, S2, R1, R2: six levels of eight codes, and three behaviors.
    assert len(tokens) == 6 * 8 + 3
    assert list(tokens.values()) == list(range(base, size))
    assert len(corpus.tokenizer) == size
    for token, number in tokens.items():
        assert corpus.ids(token) == [number, corpus.tokenizer.eos_token_id]
        assert corpus.ids(f"piano{token}; keys").count(number) == 1


def test_decoded_examples_encode_to_the_same_tokens(corpus: Corpus) -> None:
    for column in ("input_ids", "target_ids"):
        for ids in corpus.train.get_column(column).to_list():
            assert ids[-1] == corpus.tokenizer.eos_token_id
            assert corpus.ids(corpus.tokenizer.decode(ids[:-1])) == ids


def test_histories_and_texts_are_capped(tmp_path: Path) -> None:
    history = [(R, 0), (Q, 0), (S, 2), (R, 1), (Q, 1), (S, 3), (S, 4), (R, 2), (R, 3)]
    shop = write_corpus_inputs(tmp_path / "shop", samples=[sample(0, "rec", "train", 4, None, history)])
    corpus = Corpus(build(shop, tmp_path / "corpus", max_recommendations=2, max_searches=1, max_item_tokens=6))
    shown, _ = corpus.rows("nrip")[0]
    assert shown == corpus.ids(
        "Here is what the user did so far: <S_Q> music stand; <S_I><M1_3><M2_3><S1_3><S2_3>; "
        "<S_I><M1_1><M2_2><S1_3><S2_4>; <R_I><M1_5><M2_0><R1_1><R2_1>; <R_I><M1_3><M2_3><R1_5><R2_5> "
        "Which item should be recommended next? <R_I>"
    )
    described = {item: wanted[:-1] for item, (_, wanted) in corpus.rows("id2desc_semantic").items()}
    cut = 0
    for item, tokens in described.items():
        words = TEXTS[item].split()
        beginnings = [" ".join(words[:count]) for count in range(1, len(words) + 1)]
        fitting = [ids for ids in (corpus.ids(text)[:-1] for text in beginnings) if len(ids) <= 6]
        cut += len(fitting) < len(words)
        # A first word of more than six tokens is cut inside.
        assert tokens == (fitting[-1] if fitting else corpus.ids(words[0])[:6])
    assert corpus.record["counts"]["items"]["cut"] == cut > 0


def test_behavior_tokens_can_be_taken_out(shop: Path, tmp_path: Path) -> None:
    corpus = Corpus(build(shop, tmp_path, behavior_tokens=False))
    assert not {"<R_I>", "<S_Q>", "<S_I>"} & corpus.new_tokens["tokens"].keys()
    for (task, number), texts in BY_HAND.items():
        bare = [text.replace("<S_Q> ", "").replace("<R_I>", "").replace("<S_I>", "").strip() for text in texts]
        assert corpus.rows(task)[number] == (corpus.ids(bare[0]), corpus.ids(bare[1]))
    assert corpus.item_ids("search", 0) == corpus.ids("<M1_0><M2_1><S1_2><S2_3>")


@pytest.mark.parametrize("drop", ["nrip", "nsqp", "nsip", "desc2id", "id2desc", "id2desc_semantic"])
def test_an_ablation_drops_its_task_alone(shop: Path, corpus: Corpus, tmp_path: Path, drop: Any) -> None:
    gone = [name for name in TASKS if name.startswith(drop)]
    fewer = Corpus(build(shop, tmp_path, drop=[drop]))
    assert fewer.train.equals(corpus.train.filter(~pl.col("task").is_in(gone)))
    assert fewer.prompts.equals(corpus.prompts)
    assert fewer.item_tokens.equals(corpus.item_tokens)


def test_a_second_build_gives_equal_bytes(shop: Path, corpus: Corpus, tmp_path: Path) -> None:
    again = build(shop, tmp_path / "again")
    for name in (
        "train.parquet",
        "prompts.parquet",
        "item_tokens.parquet",
        "trie.safetensors",
        "tokenizer",
        "new_tokens.json",
    ):
        assert digest(again / name) == digest(corpus.folder / name)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_chunk_size_does_not_matter(
    shop: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("gensar_core.corpora.build.CHUNK_ROWS", rows)
    chunked = Corpus(build(shop, tmp_path))
    assert chunked.train.equals(corpus.train)
    assert chunked.prompts.equals(corpus.prompts)
    assert {task: counts["rows"] for task, counts in chunked.record["counts"]["tasks"].items()} == {
        "nrip": 1,
        "nsqp": 1,
        "nsip": 1,
        **{name: 4 for name, task in TASKS.items() if task.source == "item"},
    }


def test_lengths_are_recorded(corpus: Corpus) -> None:
    counts = corpus.record["counts"]["tasks"]["desc2id_semantic"]
    # Each of the ten instructions is as likely as the others.
    written = [prompts_of(corpus.folder, position).filter(task="desc2id_semantic") for position in range(10)]
    lengths = pl.concat(written).get_column("input_ids").list.len()
    assert counts["mean_input"] == pytest.approx(lengths.mean(), abs=1e-3)
    assert counts["longest_input"] == lengths.max()
    assert counts["longest_target"] == 5


def test_examples_can_be_read(corpus: Corpus) -> None:
    text = readable(corpus.folder, 1)
    # All but the two tasks that are optional.
    assert text.count("->") == len(TASKS) - 2
    assert "<S_Q> digital piano; <S_I><M1_3><M2_3><S1_3><S2_3>;" in text
    assert "-> piano stool" not in text
    assert "-> piano stool" in readable(corpus.folder, 4)


def test_samples_that_do_not_fit_the_catalogue_are_refused(tmp_path: Path) -> None:
    for row, name in (
        (sample(0, "rec", "train", 9, None, [(R, 0)]), "items"),
        (sample(0, "rec", "train", 0, None, [(S, 9)]), "items"),
        (sample(0, "rec", "train", 0, None, [(Q, 2)]), "queries"),
        (sample(0, "search", "train", 0, None, [(R, 0)]), "queries"),
    ):
        shop = write_corpus_inputs(tmp_path / "shop", samples=[row])
        with pytest.raises(UserError, match=f"{name} that {name}.parquet does not have"):
            build(shop, tmp_path / "corpus")
    shop = write_corpus_inputs(tmp_path / "shop", samples=SAMPLES[::-1])
    with pytest.raises(UserError, match="order of sample_id"):
        build(shop, tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "train.parquet").exists()


def test_identifiers_of_another_catalogue_are_refused(tmp_path: Path) -> None:
    shop = write_corpus_inputs(tmp_path / "shop")
    write_corpus_inputs(tmp_path / "other", texts=["a"], semantic=[[0] * 4], collaborative=[[0] * 4])
    with pytest.raises(UserError, match="has 1 items"):
        build_corpus(shop, shop, tmp_path / "other", tmp_path / "corpus", settings(), 7)


def test_a_failed_write_is_not_lost(tmp_path: Path) -> None:
    """Chunks are written in the background: what goes wrong there must still be raised."""

    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    rows = pl.DataFrame({"sample_id": [0], "input_ids": [[1]]})
    for writes in (1, 2):
        with (
            pytest.raises(OSError, match="No space left"),
            TableWriter(schema.PROMPTS, tmp_path / "prompts.parquet") as table,
        ):
            table._writer.write_table = full
            for _ in range(writes):
                table.write(rows)


def test_missing_samples_are_named(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"samples\.parquet"):
        build_corpus(shop, tmp_path, shop, tmp_path / "corpus", settings(), 7)
    with pytest.raises(UserError, match="build table 'samples' first"):
        list(stream.sample_chunks(tmp_path / "samples.parquet", 1, 1))


def test_the_tokenizer_of_the_identifiers_serves_their_corpus(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer: identifiers: there is no .*; name identifiers of kind genret"):
        build(shop, tmp_path / "corpus", tokenizer="identifiers")
    for name in ("identifiers.parquet", "vocabulary.json"):
        shutil.copy(shop / name, tmp_path / name)
    t5_like([*TEXTS, "recommended items clicked"]).save_pretrained(tmp_path / "tokenizer")
    build_corpus(shop, shop, tmp_path, tmp_path / "corpus", settings(tokenizer="identifiers"), 7)
    build(shop, tmp_path / "named", tokenizer=str(tmp_path / "tokenizer"))
    for name in ("tokenizer/tokenizer.json", "train.parquet"):
        assert (tmp_path / "corpus" / name).read_bytes() == (tmp_path / "named" / name).read_bytes()
    # A later training of the identifiers leaves another tokenizer, and a corpus of its own.
    inputs = json.loads((tmp_path / "corpus" / "stage.json").read_text())["inputs"]
    assert str(tmp_path / "tokenizer") in inputs


def test_scribe_agrees_with_the_hand() -> None:
    """The slow reference of the property tests gives the same worked examples."""
    scribe = Scribe()
    for (task, number), (shown, wanted) in BY_HAND.items():
        template = TASKS[task].templates[0].text
        if TASKS[task].source == "item":
            assert scribe.alignment(task, template, number) == (shown, wanted)
        else:
            assert scribe.prompt(task, template, SAMPLES[number]) == shown
            assert scribe.target(task, SAMPLES[number]) == wanted
