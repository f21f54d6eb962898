"""Prompts of the generative baselines: worked examples of every task, users, and corpora of one task."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import SampleSettings
from gensar_core.config.prompts import PROMPTS_FOLDER
from gensar_core.corpora.build import _user_rows, build_corpus
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.live_prompts import Asked, Entry, LivePrompts
from gensar_core.corpora.user_words import user_rows
from gensar_core.errors import UserError
from gensar_core.samples.build import build_samples
from tests.support.prompts_by_hand import prompts_of, t5_like
from tests.support.samples_logs import event, write_canonical
from tests.support.shop import (
    QUERIES,
    SAMPLES,
    TEXTS,
    Q,
    R,
    S,
    sample,
    write_corpus_inputs,
    write_identifiers,
    write_rows,
)
from tests.support.small_parts import small_parts

#: Sample 6 has no recommendation click in its history; the target of sample 9, item 1, has neither text nor title.
MORE = [
    *SAMPLES,
    sample(6, "rec", "train", 3, None, [(Q, 0), (S, 2)]),
    sample(9, "rec", "train", 1, None, [(R, 4)]),
]
#: The identifiers of items 0 to 4, as the shop has them.
COLLABORATIVE = [
    "<M1_0><M2_1><R1_7><R2_7>",
    "<M1_0><M2_1><R1_6><R2_6>",
    "<M1_5><M2_0><R1_1><R2_1>",
    "<M1_3><M2_3><R1_5><R2_5>",
    "<M1_1><M2_2><R1_0><R2_0>",
]
SEMANTIC = ["", "", "<M1_5><M2_0><S1_0><S2_0>", "<M1_3><M2_3><S1_3><S2_3>", "<M1_1><M2_2><S1_3><S2_4>"]
CLICKS = f"{COLLABORATIVE[0]} , {COLLABORATIVE[2]}"
COMMAS = f"{COLLABORATIVE[0]}, {COLLABORATIVE[2]}"

#: (task, sample, item or pseudo-query's item) -> prompt in the first template and target, by family.
BY_HAND: dict[str, dict[tuple[str, int], tuple[str, str]]] = {
    "p5": {
        ("sequential", 0): (f"User user_1 has clicked {CLICKS} . Which item comes next ?", COLLABORATIVE[4]),
        ("sequential", 6): ("User user_1 has clicked . Which item comes next ?", COLLABORATIVE[3]),
        ("straightforward", 0): ("Which item should be recommended to user user_1 ?", COLLABORATIVE[4]),
    },
    "lcrec": {
        ("sequential", 0): (
            f"The user has interacted with the items {COMMAS} in this order. Which item comes next?",
            COLLABORATIVE[4],
        ),
        ("title_to_index", 4): ("An item is called piano stool and its index is", COLLABORATIVE[4]),
        ("description_to_index", 2): (
            "An item is described as follows: USB-C cable (2 m) Which item is it?",
            COLLABORATIVE[2],
        ),
        ("index_to_title", 4): (f"What is the title of the item {COLLABORATIVE[4]}", "piano stool"),
        ("index_to_description", 2): (f"Describe the item {COLLABORATIVE[2]} with its title.", "USB-C cable (2 m)"),
        ("sequential_to_title", 0): (
            f"The user has interacted with the items {COMMAS} in this order. What is the next item called?",
            "piano stool",
        ),
        ("sequential_to_description", 0): (
            f"The user has interacted with the items {COMMAS} in this order. Describe the next item.",
            "piano stool",
        ),
        ("titles_to_index", 0): (
            "The user has interacted with these products: Upright piano, 88 keys, USB-C cable (2 m) "
            "Which index comes next?",
            COLLABORATIVE[4],
        ),
        ("search", 3): ("The user wants music stand and which item should be recommended?", COLLABORATIVE[3]),
        ("search_after_history", 3): (
            f"The user has interacted with the items {COMMAS} and now wants music stand so recommend one.",
            COLLABORATIVE[3],
        ),
    },
    "dsi_qg": {("generated", 4): ("low seat", SEMANTIC[4]), ("logged", 3): ("music stand", SEMANTIC[3])},
    "webultron": {
        ("passage", 2): ("USB-C cable (2 m)", SEMANTIC[2]),
        ("key_terms", 2): ("USB-C cable (2 m)", SEMANTIC[2]),
        ("title", 4): ("piano stool", SEMANTIC[4]),
        ("generated", 4): ("low seat", SEMANTIC[4]),
        ("logged", 3): ("music stand", SEMANTIC[3]),
    },
    "genret": {
        ("document", 2): ("USB-C cable (2 m)", SEMANTIC[2]),
        ("generated", 4): ("low seat", SEMANTIC[4]),
        ("logged", 3): ("music stand", SEMANTIC[3]),
    },
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_corpus_inputs(tmp_path_factory.mktemp("shop"), samples=MORE)
    write_rows(schema.PSEUDO_QUERIES, folder, [(4, 0, "low  seat"), (2, 0, "phone charger")], "pseudo")
    t5_like([*TEXTS, "recommended items user_0123456789 clicked"]).save_pretrained(folder / "t5")
    return folder


def build(shop: Path, output: Path, prompts: str, **changes: Any) -> Path:
    chosen = {"tokenizer": "trained", "vocabulary_size": 400, "prompts": prompts, **changes}
    build_corpus(shop, shop, shop, output, MaterializationSettings(**chosen), 7, shop / "pseudo.parquet")
    return output


def rows(corpus: Path, task: str) -> dict[int, tuple[list[int], list[int]]]:
    return {row[1]: (row[2], row[3]) for row in prompts_of(corpus).filter(task=task).iter_rows()}


@pytest.mark.parametrize("tokenizer", ["trained", "t5"])
@pytest.mark.parametrize("family", BY_HAND)
def test_examples_are_those_written_by_hand(shop: Path, tmp_path: Path, family: str, tokenizer: str) -> None:
    tasks = sorted({task for task, _ in BY_HAND[family]})
    corpus = build(shop, tmp_path, family, tasks=tasks, tokenizer=tokenizer.replace("t5", str(shop / "t5")))
    read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    assert sorted(set(prompts_of(corpus)["task"])) == tasks
    for (task, number), (shown, wanted) in BY_HAND[family].items():
        assert rows(corpus, task)[number] == (read(shown).input_ids, read(wanted).input_ids), task


def test_decoded_prompts_read_as_they_are_written(shop: Path, tmp_path: Path) -> None:
    corpus = build(shop, tmp_path, "p5")
    read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    shown, wanted = rows(corpus, "sequential")[0]
    # Decoders put blanks around tokens as they like.
    assert read.decode(shown).split() == [
        *("User", "user_1", "has", "clicked" + COLLABORATIVE[0], "," + COLLABORATIVE[2]),
        *(".", "Which", "item", "comes", "next", "?</s>"),
    ]
    assert read.decode(wanted) == f"{COLLABORATIVE[4]}</s>"


def test_tiger_reads_a_user_token_and_codes_alone(shop: Path, tmp_path: Path) -> None:
    corpus = build(shop, tmp_path, "tiger")
    read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    tokens = json.loads((corpus / "new_tokens.json").read_text())["tokens"]
    users = {number: token for token, number in tokens.items() if token.startswith("<U_")}
    assert sorted(users.values()) == sorted(f"<U_{number}>" for number in range(2000))
    examples = rows(corpus, "next_item")
    shown, wanted = examples[0]
    assert shown == [shown[0], *read(COLLABORATIVE[0] + COLLABORATIVE[2]).input_ids]
    assert wanted == read(COLLABORATIVE[4]).input_ids
    # Samples 0, 6 and 9 are of user 0, sample 1 is of user 1 and sample 2 of user 2.
    assert {prompt[0] for prompt, _ in examples.values()} == {shown[0]}
    prompts = dict(schema.PROMPTS.read(corpus / "prompts.parquet").iter_rows())
    assert len({shown[0], prompts[1][0], prompts[2][0]} & users.keys()) == 3
    assert examples[6][0] == [shown[0], read.eos_token_id]


def test_tiger_has_an_example_for_every_prefix_of_a_users_training_clicks(tmp_path: Path) -> None:
    """By the field's protocol: the last click is test, the one before it valid, and each prompt has the 20 latest."""
    users = [
        np.random.default_rng(user).permutation(40)[:clicks].tolist() for user, clicks in enumerate((4, 5, 12, 30))
    ]
    log = [event(user, time, item) for user, items in enumerate(users) for time, item in enumerate(items)]
    canonical = write_canonical(tmp_path / "canonical", log, items=40, queries=0)
    build_samples(canonical, tmp_path / "samples", SampleSettings(negatives=5), 7)
    # Two items share three codes; every item has the digit that tells them apart.
    codes = [[item // 8, item % 8, 0, 0] for item in range(39)] + [[4, 6, 0, 1]]
    names = [f"<R1_{a}><R2_{b}><R3_{c}><R4_{d}>" for a, b, c, d in codes]
    levels = {side: ["R1", "R2", "R3", "R4"] for side in schema.SIDES}
    write_identifiers(tmp_path / "identifiers", codes, codes, levels, 8)
    settings = MaterializationSettings(
        prompts="tiger", tokenizer="trained", vocabulary_size=400, max_recommendations=20
    )
    build_corpus(canonical, tmp_path / "samples", tmp_path / "identifiers", tmp_path / "corpus", settings, 7)
    read = AutoTokenizer.from_pretrained(tmp_path / "corpus" / "tokenizer")

    def prompt(items: list[int]) -> list[int]:
        return read("".join(names[item] for item in items[-20:])).input_ids

    expected = [
        (prompt(items[:place]), read(names[items[place]]).input_ids)
        for items in users
        for place in range(1, len(items) - 2)
    ]
    examples = prompts_of(tmp_path / "corpus").select("input_ids", "target_ids").rows()
    assert sorted((shown[1:], wanted) for shown, wanted in examples) == sorted(expected)
    assert len({shown[0] for shown, _ in examples}) == len(users)
    asked = schema.PROMPTS.read(tmp_path / "corpus" / "prompts.parquet")["input_ids"].to_list()
    assert sorted(shown[1:] for shown in asked) == sorted(prompt(items[:-cut]) for items in users for cut in (1, 2))


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("last", [-1, 0, 6])
def test_every_user_up_to_the_last_one_of_a_sample_has_words(last: int, size: int, tmp_path: Path) -> None:
    """The last user's sample stands first."""
    samples = [{**sample(number, "rec", "train", 0, None, []), "user_id": last - number} for number in range(last + 1)]
    write_rows(schema.SAMPLES, tmp_path, samples)
    encoder: Any = SimpleNamespace(encode=lambda texts: texts)
    with small_parts(size):
        assert _user_rows(tmp_path, [], encoder) == [f"user_{user + 1}" for user in range(-1, last + 1)]


def test_users_spread_over_their_tokens_and_an_unknown_one_has_the_first() -> None:
    encoder: Any = None
    known = user_rows(np.arange(20_000), list(range(100, 2100)), encoder).values
    assert user_rows(np.array([-1, 7]), list(range(100, 2100)), encoder).values.tolist() == [100, known[7]]
    counts = np.bincount(known - 100, minlength=2000)
    # Ten users a token are expected, with a standard deviation of the square root of ten.
    assert counts.min() >= 1
    assert abs(counts.std() - 10**0.5) < 0.3


@pytest.mark.parametrize(
    ("family", "ranked"), [("p5", "rec"), ("tiger", "rec"), ("lcrec", "rec"), ("dsi_qg", "search")]
)
def test_a_family_has_prompts_for_its_task_alone(shop: Path, tmp_path: Path, family: str, ranked: str) -> None:
    corpus = build(shop, tmp_path, family)
    held_out = [row["sample_id"] for row in MORE if row["task"] == ranked and row["split"] != "train"]
    assert schema.PROMPTS.read(corpus / "prompts.parquet")["sample_id"].to_list() == held_out
    assert prompted_tasks(corpus) == [ranked]
    # No behavior token is new, and none is in a prompt, a target or an item's tokens.
    assert not {"<R_I>", "<S_Q>", "<S_I>"} & json.loads((corpus / "new_tokens.json").read_text())["tokens"].keys()
    items = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet").filter(task="rec", item_id=4)
    read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    assert items["target_ids"].to_list() == [read(COLLABORATIVE[4]).input_ids]


@pytest.mark.parametrize(
    ("tasks", "searches"), [(None, False), (["sequential", "search"], True), (["title_to_index"], False)]
)
def test_logs_tell_a_recommender_of_no_search_that_its_prompts_do_not(
    shop: Path, tmp_path: Path, tasks: list[str] | None, searches: bool
) -> None:
    corpus = build(shop, tmp_path, "lcrec", tasks=tasks)
    for name in ("user_logs", "asked_logs"):
        behaviors = set(schema.USER_LOGS.read(corpus / f"{name}.parquet")["behavior"].explode())
        assert behaviors == ({R, Q, S} if searches else {R})


@pytest.mark.parametrize("family", ["p5", "tiger", "lcrec", "dsi_qg", "genret"])
def test_live_prompts_equal_the_stored_ones(shop: Path, tmp_path: Path, family: str) -> None:
    corpus = build(shop, tmp_path, family)
    stored = dict(schema.PROMPTS.read(corpus / "prompts.parquet").iter_rows())
    live = LivePrompts(corpus)
    (ranked,) = prompted_tasks(corpus)
    for row in (row for row in MORE if row["sample_id"] in stored):
        pairs = zip(row["history_behavior"], row["history_object"], strict=True)
        history = [Entry(code, QUERIES[thing] if code == Q else thing) for code, thing in pairs]
        query = None if row["query_id"] is None else QUERIES[row["query_id"]]
        assert live.write(ranked, [Asked(history, query, row["user_id"])]).values.tolist() == stored[row["sample_id"]]
    other = "search" if ranked == "rec" else "rec"
    with pytest.raises(UserError, match=f"its prompt file ranks {ranked} alone; ask another model for {other}"):
        live.write(other, [Asked([], "piano")])


def test_an_unknown_user_is_number_zero(shop: Path, tmp_path: Path) -> None:
    for family, shown in (("p5", "User user_0 has clicked"), ("tiger", "<U_0>")):
        corpus = build(shop, tmp_path / family, family)
        read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
        assert read.decode(LivePrompts(corpus).write("rec", [Asked([Entry.clicked(0)])]).values).startswith(shown)


def test_items_without_a_title_are_asked_for_by_no_title(shop: Path, tmp_path: Path) -> None:
    corpus = build(shop, tmp_path, "lcrec", later_targets=1)
    train = schema.CORPUS.read(corpus / "train.parquet")
    asked = {task: train.filter(task=task)["sample_id"].to_list() for task in ("sequential", "sequential_to_title")}
    # Of user 0's training targets, items 4, 3 and 1 (samples 0, 6 and 9), the last has no title.
    assert asked == {"sequential": [0, 0, 6, 6, 9], "sequential_to_title": [0, 0, 6]}


def own_file(folder: Path, history: dict[str, Any]) -> str:
    task = {
        "source": "rec",
        "history": history,
        "asks": "recommended_item",
        "ranks": "rec",
        "templates": ["past: {history} next:"],
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump({"behavior_tokens": True, "tasks": {"next": task}}))
    return str(folder / "mine.yaml")


@pytest.mark.parametrize(
    ("history", "shown"),
    [
        ({"behaviors": ["R_I"], "separator": " |"}, f"<R_I>{COLLABORATIVE[0]} | <R_I>{COLLABORATIVE[2]}"),
        ({"behaviors": ["S_Q", "S_I"], "separator": ";"}, f"<S_Q> digital piano; <S_I>{SEMANTIC[3]}"),
        ({"behaviors": ["S_Q"]}, "<S_Q> digital piano"),
        ({"behaviors": ["R_I", "S_I"], "latest": 1}, f"<S_I>{SEMANTIC[3]}<R_I>{COLLABORATIVE[2]}"),
    ],
)
def test_a_users_own_file_shows_what_it_says(shop: Path, tmp_path: Path, history: dict[str, Any], shown: str) -> None:
    corpus = build(shop, tmp_path / "corpus", own_file(tmp_path, history))
    read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    expected = read(f"past: {shown} next: <R_I>").input_ids
    assert rows(corpus, "next")[0] == (expected, read(f"<R_I>{COLLABORATIVE[4]}").input_ids)
    # What `prompts: PATH` named is in the corpus, whatever becomes of the file.
    assert str(tmp_path / "mine.yaml") in json.loads((corpus / "stage.json").read_text())["inputs"]
    (tmp_path / "mine.yaml").unlink()
    assert LivePrompts(corpus).write("rec", [Asked([Entry.clicked(0)])]).values[-2] == read("<R_I>").input_ids[0]


def test_stages_of_webultron_have_one_vocabulary(shop: Path, tmp_path: Path) -> None:
    """A later stage continues the weights of the one before: both must number the tokens alike."""
    stages = [build(shop, tmp_path / task, "webultron", tasks=[task]) for task in ("general", "generated", "logged")]
    assert [sorted(set(prompts_of(stage)["task"])) for stage in stages] == [
        ["key_terms", "passage", "title"],
        ["generated"],
        ["logged"],
    ]
    for name in ("new_tokens.json", "item_tokens.parquet", "prompts.parquet", "tokenizer/tokenizer.json"):
        assert len({(stage / name).read_bytes() for stage in stages}) == 1


def test_every_template_of_every_family_is_written(shop: Path, tmp_path: Path) -> None:
    """A history, a title or a user may stand first, last or alone in a template."""
    for family in BY_HAND:
        lists = yaml.safe_load((PROMPTS_FOLDER / f"{family}.yaml").read_text(encoding="utf-8"))
        corpus = build(shop, tmp_path / family, family, tasks=list(lists["tasks"]))
        read = AutoTokenizer.from_pretrained(corpus / "tokenizer")
        for position in range(min(len(task["templates"]) for task in lists["tasks"].values())):
            written = prompts_of(corpus, position)
            assert all(read(read.decode(ids[:-1])).input_ids == ids for ids in written["input_ids"].to_list())
