"""GenRet's codes: losses by hand, batches, levels that stand, clusters that are found, and killed trainings."""

import dataclasses
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.identifiers import GenRetSettings
from gensar_core.errors import UserError
from gensar_core.identifiers import genret_model
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.genret_model import GenRetModel, LevelBatch
from gensar_core.identifiers.genret_training import (
    LearnedCodes,
    LevelTraining,
    SearchPairs,
    learn_codes,
    prefix_order,
    start_codebook,
)
from gensar_core.identifiers.interface import KindData, Work
from gensar_core.identifiers.kinds import genret
from gensar_core.identifiers.quality import code_use
from gensar_core.identifiers.sinkhorn import balanced_by_cost
from gensar_core.nn.t5 import load_t5, t5_from_scratch
from gensar_core.runtime.seeds import generator
from gensar_core.runtime.stage import Stage
from gensar_core.samples import search_clicks
from tests.support.generator_folders import TINY
from tests.support.killed import Killed, kill_at
from tests.support.ragged import ragged
from tests.support.shop import write_events, write_items, write_queries, write_rows
from tests.support.small_parts import small_parts

SMALL: dict[str, Any] = {
    "kind": "genret",
    "levels": 2,
    "codebook_size": 4,
    "backbone": "scratch",
    "size": TINY,
    "tokenizer": "trained",
    "vocabulary_size": 400,
    "first_warmup_epochs": 1,
    "warmup_epochs": 1,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 2e-3,
}
ENDS = SimpleNamespace(pad_token_id=0, eos_token_id=1)
TOPICS, PER_TOPIC = 4, 12
WORDS = [["piano", "keys", "music"], ["lamp", "light", "bulb"], ["tent", "camp", "rope"], ["drill", "bit", "steel"]]


def settings(**changes: Any) -> GenRetSettings:
    return GenRetSettings(**{**SMALL, **changes})


def topic_searches() -> tuple[np.ndarray, SearchPairs]:
    """Items of four topics: each has its topic's three words and a token of its own, a query two words and that token."""
    rng = np.random.default_rng(0)
    topic = rng.permutation(np.repeat(np.arange(TOPICS), PER_TOPIC))
    items, queries = [], []
    for item, number in enumerate(topic.tolist()):
        words = (10 + 3 * number + rng.permutation(3)).tolist()
        items.append([*words, 30 + item, 1])
        queries += [[*words[:2], 30 + item, 1], [*words[1:], 30 + item, 1]]
    item = np.arange(len(topic)).repeat(2)
    held_out = np.arange(len(item)) % 6 == 0
    pairs = item, np.arange(len(item))
    return topic, SearchPairs(
        ragged(items), ragged(queries), (item[~held_out], pairs[1][~held_out]), (item[held_out], pairs[1][held_out])
    )


def new_model(vocabulary: int, levels: int, codes: int) -> GenRetModel:
    torch.manual_seed(0)
    return GenRetModel(t5_from_scratch(TINY, vocabulary, ENDS, seed=0), levels, codes)


def learned(levels: int, **changes: Any) -> tuple[LearnedCodes, GenRetModel]:
    _, searches = topic_searches()
    given = settings(levels=levels, **changes)
    model = new_model(30 + TOPICS * PER_TOPIC, levels, given.codebook_size)
    return learn_codes(model, searches, given, seed=1), model


def share_alike(topic: np.ndarray, codes: np.ndarray) -> float:
    """The share of items whose code is mostly held by their own topic."""
    counts = np.zeros((codes.max() + 1, topic.max() + 1), dtype=int)
    np.add.at(counts, (codes, topic), 1)
    return float(counts.max(axis=1).sum() / len(codes))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=20),
    st.none() | st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["piano", "lamp", "tent"])), max_size=6),
    st.booleans(),
    st.integers(1, 7),
)
def test_pairs_are_those_of_clicks_and_of_pseudo_queries(
    clicks: list[tuple[int, int]], generated: list[tuple[int, str]] | None, cold: bool, size: int
) -> None:
    queries = ["lamp", "piano", "tent bag"]
    with tempfile.TemporaryDirectory() as name, small_parts(size, search_clicks):
        folder = Path(name)
        write_items(folder, ["a"] * 4)
        write_queries(folder, queries)
        searches = [(0, 0, "search", item, query, 0) for item, query in clicks]
        write_events(folder, [*searches, (1, 0, "rec", 3, None, None)])
        write_rows(schema.COLD_ITEMS, folder, [(1,)])
        if generated is not None:
            numbered = [(item, number, text) for number, (item, text) in enumerate(generated)]
            write_rows(schema.PSEUDO_QUERIES, folder, numbered)
        data = KindData(
            training_events=folder / "training_events.parquet",
            queries=folder / "queries.parquet",
            item_texts=folder / "items.parquet",
            pseudo_queries=None if generated is None else folder / "pseudo_queries.parquet",
            cold_items=folder / "cold_items.parquet" if cold else None,
        )
        texts, found = genret._queried(data)
    logged = {(item, queries[query]) for item, query in clicks}
    expected = [
        (item, text, (item, text) in logged)
        for item, text in sorted(logged | set(generated or []))
        if not (cold and item == 1)
    ]
    assert [(item, texts[query], logged) for item, query, logged in found.rows()] == expected
    assert texts.to_list() == sorted({text for _, text, _ in expected})


def test_balanced_codes_are_the_heaviest_of_the_plan_and_even() -> None:
    logits = np.random.default_rng(0).standard_normal((64, 4))
    logits[:, 0] += 6.0
    middle, half = (logits.max() + logits.min()) / 2, (logits.max() - logits.min()) / 2 + 1e-5
    plan = np.exp((logits - middle) / half / 1.0)
    for _ in range(100):
        for column in range(4):
            plan[:, column] /= plan[:, column].sum() * 4
        for row in range(64):
            plan[row] /= plan[row].sum() * 64
    codes = balanced_by_cost(torch.from_numpy(-logits), 1.0, 100)
    assert codes.tolist() == plan.argmax(axis=1).tolist()
    assert code_use(torch.from_numpy(logits).argmax(1, keepdim=True), [4])["perplexity"][0] < 1.5
    assert code_use(codes[:, None], [4])["perplexity"][0] > 3.5


def test_codes_that_tell_items_apart_less_get_their_share_as_well() -> None:
    """The last of 16 codes differs between items twenty times as much as the first."""
    logits = np.random.default_rng(0).standard_normal((128, 16)) * np.geomspace(0.05, 1.0, 16)
    chosen = balanced_by_cost(-torch.from_numpy(logits), genret_model._EPSILON, genret_model._ITERATIONS)
    use = code_use(chosen[:, None], [16])
    assert use["usage"] == [1.0]
    assert use["perplexity"][0] > 14


def entropy(logits: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])


def test_losses_are_those_of_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items, queries = rng.standard_normal((4, 2, 32)), rng.standard_normal((2, 2, 32))
    prefix, asked = np.array([0, 1, 1, 2]), np.array([1, 3])
    # The first query led to item 2 of the batch as well.
    alike = np.array([[False, False, True, False], [False, False, False, False]])
    books = 0.3 * rng.standard_normal((2, 4, 32))
    model = new_model(20, 2, 4).double()
    for codebook, values in zip(model.codebooks, books, strict=True):
        codebook.data.copy_(torch.from_numpy(values))
    outputs = iter([items, queries])
    monkeypatch.setattr(model, "outputs", lambda *_: torch.from_numpy(next(outputs)))
    tokens = torch.zeros((4, 1), dtype=torch.int64)
    batch = LevelBatch(
        tokens, torch.from_numpy(prefix[:, None]), tokens[:2], torch.from_numpy(asked), torch.from_numpy(alike)
    )
    losses = {name: value.item() for name, value in model.losses(batch, codes=True).items()}

    code = balanced_by_cost(-torch.from_numpy(items[:, 1] @ books[1].T), genret_model._EPSILON, 100).tolist()
    retrieval = np.mean([
        entropy(np.array([queries[row, 1] @ items[j, 1] for j in range(4) if not alike[row, j]]), target)
        for row, target in ((0, 1), (1, 3))
    ])  # fmt: skip
    kept = np.mean([entropy(books[0] @ items[row, 0], prefix[row]) for row in range(4)])
    kept += np.mean([entropy(books[0] @ queries[row, 0], prefix[asked[row]]) for row in range(2)])
    commitment = np.mean([entropy(books[1] @ items[row, 1], code[row]) for row in range(4)])
    commitment += np.mean([entropy(books[1] @ queries[row, 1], code[asked[row]]) for row in range(2)])
    reconstruction = np.mean([entropy(items[:, 1] @ books[1, code[row]], row) for row in range(4)])
    assert losses == pytest.approx({
        "retrieval": retrieval, "prefix": kept, "commitment": commitment, "reconstruction": reconstruction,
        "loss": 0.5 * (retrieval + kept + commitment) + 0.1 * reconstruction,
    })  # fmt: skip


def test_reconstruction_draws_the_code_and_straight_through_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(20, 1, 2)
    model.codebooks[0].data.normal_()
    item = torch.randn((3, 1, 32), requires_grad=True)
    monkeypatch.setattr(model, "outputs", lambda *_: item)
    nothing = torch.zeros((0, 1), dtype=torch.int64)
    tokens = torch.zeros((3, 1), dtype=torch.int64)
    batch = LevelBatch(tokens, tokens[:, :0], nothing, nothing[:, 0], torch.zeros((0, 3), dtype=torch.bool))
    losses = model.losses(batch, codes=True)
    assert losses.keys() == {"loss", "commitment", "reconstruction"}
    losses["reconstruction"].backward()
    code = balanced_by_cost(-(item[:, 0] @ model.codebooks[0].T).detach().double(), genret_model._EPSILON, 100)
    for number in range(2):
        torch.testing.assert_close(model.codebooks[0].grad[number], item.grad[code == number, 0].sum(0))


def test_a_text_s_vectors_depend_on_the_codes_before_alone_and_not_on_padding() -> None:
    model = new_model(20, 3, 4).eval()
    tokens, padded = torch.tensor([[5, 6, 1]]), torch.tensor([[5, 6, 1, -1, -1]])
    one, other = torch.tensor([[2, 3]]), torch.tensor([[2, 0]])
    with torch.no_grad():
        vectors = model.outputs(tokens, one)
        torch.testing.assert_close(model.outputs(padded, one), vectors)
        changed = model.outputs(tokens, other)
        torch.testing.assert_close(changed[:, :2], vectors[:, :2])
        assert not torch.allclose(changed[:, 2], vectors[:, 2])
        # Each level has its own table of inputs.
        assert not torch.allclose(model.outputs(tokens, torch.tensor([[3, 2]]))[:, 1], vectors[:, 1])


@pytest.mark.parametrize("tied", [True, False])
def test_as_a_generator_it_gives_codes_and_words_the_logits_they_had(tied: bool) -> None:
    model, words = new_model(20, 2, 4).eval(), 18
    for codebook in model.codebooks:
        codebook.data.normal_()
    if not tied:
        model.t5.config.tie_word_embeddings = model.t5.config.scale_decoder_outputs = False
        model.t5.lm_head = torch.nn.Linear(32, 20, bias=False)
    tokens, prefix = torch.tensor([[5, 6, 1, -1], [7, 8, 9, 1]]), torch.tensor([[2], [3]])
    with torch.no_grad():
        outputs = model.outputs(tokens, prefix)
        of_codes = [outputs[:, level] @ model.codebooks[level].T for level in range(2)]
        of_words = outputs @ model.t5.lm_head.weight[:words].T * (32**-0.5 if tied else 1.0)
        logits = model.as_generator(words)(
            input_ids=tokens.clamp_min(0),
            attention_mask=(tokens >= 0).long(),
            decoder_input_ids=torch.tensor([[0, words + 2], [0, words + 3]]),
        ).logits
    assert logits.shape == (2, 2, words + 2 * 4)
    torch.testing.assert_close(logits[:, 0, words : words + 4], of_codes[0])
    torch.testing.assert_close(logits[:, 1, words + 4 :], of_codes[1])
    torch.testing.assert_close(logits[..., :words], of_words)


def test_items_that_share_their_codes_stand_side_by_side() -> None:
    codes = generator(0, "codes").integers(3, size=(60, 2))
    order = prefix_order(codes, generator(1, "order"))
    assert sorted(order.tolist()) == list(range(60))
    changes = (codes[order][1:] != codes[order][:-1]).any(axis=1).sum()
    assert changes == len(np.unique(codes, axis=0)) - 1
    assert order.tolist() != prefix_order(codes, generator(2, "order")).tolist()


def test_batches_hold_each_item_once_with_a_query_of_its_own() -> None:
    _, searches = topic_searches()
    codes = (np.arange(48) % 3)[:, None]
    task = LevelTraining(new_model(80, 2, 4), searches, codes, settings(batch_size=20), seed=3, main=True)
    batches = [batch for batch, _ in zip(task.batches(0), range(3), strict=False)]
    own = np.concatenate([batch.items[:, 3].numpy() for batch in batches])
    assert len(own) == 60
    assert sorted(set(own.tolist())) == list(range(30, 78))
    for batch in batches:
        assert len(batch.items.unique(dim=0)) == 20
        assert batch.queries[:, 2].tolist() == batch.items[batch.asked, 3].tolist()
        assert (np.diff(batch.prefix[:, 0].numpy()) != 0).sum() <= 2
    again = next(task.batches(2))
    assert torch.equal(again.items, batches[2].items)
    assert torch.equal(again.queries, batches[2].queries)


def test_other_items_of_a_query_are_no_negatives_of_it() -> None:
    pairs = np.array([0, 1, 2]), np.array([0, 0, 1])
    searches = SearchPairs(
        ragged([[5, 1], [6, 1], [7, 1]]), ragged([[8, 1], [9, 1]]), pairs, (np.array([2]), np.array([0]))
    )
    task = LevelTraining(new_model(20, 1, 2), searches, np.zeros((3, 0), dtype=int), settings(levels=1), 0, main=False)
    batch = next(task.batches(0))
    item = (batch.items[:, 0] - 5).tolist()
    for row, place in enumerate(batch.asked.tolist()):
        others = {0: {1, 2}, 1: {0, 2}, 2: set()}[item[place]]
        assert {item[j] for j in batch.alike[row].nonzero().flatten().tolist()} == others


def test_a_codebook_starts_at_what_tells_items_of_one_prefix_apart() -> None:
    """Two groups lie far apart, and each has items to its left and right: the codes are left and right."""
    rng = np.random.default_rng(0)
    group, side = np.arange(40) % 2, np.arange(40) // 2 % 2
    vectors = 0.01 * rng.standard_normal((40, 32))
    vectors[:, 0] += 100.0 * group
    vectors[:, 1] += 2.0 * side - 1.0
    model = new_model(20, 2, 2)
    start_codebook(model, vectors.astype(np.float32), group[:, None], seed=0)
    found = model.codebooks[1].detach().numpy()
    assert sorted(found[:, 1].tolist()) == pytest.approx([-1.0, 1.0], abs=0.05)
    assert found[:, 0] == pytest.approx([50.0, 50.0], abs=0.05)


def test_recalls_of_vectors_given_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items 0 to 2 share a code, item 3 has another; both codes of the level point along an axis.

    Query 0 finds its item 0, and item 1 that it led to as well is no rival. Query 1 lies nearest to item 3, which has
    another prefix, and then to its own item 1. Query 2 finds item 1 before its own item 2.
    """
    searches = SearchPairs(
        ragged([[5, 1]] * 4),
        ragged([[6, 1]] * 3),
        (np.array([1]), np.array([0])),
        (np.array([0, 1, 2]), np.array([0, 1, 2])),
    )
    model = new_model(20, 2, 2)
    codes = np.array([[0], [0], [0], [1]])
    task = LevelTraining(model, searches, codes, settings(), 0, main=True)
    items, queries = torch.zeros((4, 32)), torch.zeros((3, 32))
    items[:, :2] = torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 1.0], [9.0, 9.0]])
    queries[:, :2] = torch.tensor([[1.0, 0.0], [1.0, 0.9], [1.0, 0.2]])
    model.codebooks[1].data[:, :2] = torch.eye(2)
    monkeypatch.setattr(task, "_vectors", lambda *_: queries)
    # All queries favor code 0, that of items 0 and 1. Item 0 is the only such item for query 0, since item 1 is left out;
    # item 1 is one of two for query 1; and item 2, which query 2 led to, has code 1.
    assert task.recalls(items) == pytest.approx({"recall": 2 / 3, "code_recall": (1 + 1 / 2 + 0) / 3})


def test_codes_find_the_topics_of_the_texts() -> None:
    topic, _ = topic_searches()
    found, _ = learned(1, first_warmup_epochs=8, epochs=10, patience=5)
    assert share_alike(topic, found.codes[:, 0]) >= 0.9
    assert found.figures[0]["recall"] >= 0.8


def test_nearly_all_codes_are_used_at_each_level_and_say_what_queries_seek() -> None:
    """Chance finds one of 48 items by the first code, and then one of six or so."""
    found, _ = learned(2, codebook_size=8, first_warmup_epochs=8, warmup_epochs=4, epochs=12)
    use = code_use(torch.from_numpy(found.codes), [8, 8])
    assert min(use["usage"]) >= 7 / 8
    assert min(use["perplexity"]) >= 5.5
    first, second = found.figures
    assert first["code_recall"] > 3 / 48
    assert second["code_recall"] > 2 / 6


def test_earlier_levels_stand_while_later_ones_are_learned() -> None:
    (one, first), (two, both) = learned(1), learned(2)
    assert two.codes[:, 0].tolist() == one.codes[:, 0].tolist()
    assert two.figures[0] == one.figures[0]
    assert torch.equal(both.codebooks[0], first.codebooks[0])
    assert [entry["level"] for entry in two.history] == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]
    steps = [entry["step"] for entry in two.history]
    assert steps == sorted(set(steps))


def write_texts(folder: Path, searches: bool = True, texts: bool = True) -> KindData:
    """Write forty items of four topics, an item without text at the end, and a search for each of the forty."""
    names = [f"{' '.join(WORDS[item % 4])} model {item}" if texts else "" for item in range(40)]
    write_items(folder, [*names, ""])
    write_queries(folder, [f"{word} model {item}" for item in range(40) for word in WORDS[item % 4][:1]])
    clicks = [(0, item, "rec", item, None, None) for item in range(41)]
    asked = [(1, 100 + item, "search", item, item, item) for item in range(40)] if searches else []
    write_events(folder, clicks + asked)
    return KindData(
        training_events=folder / "training_events.parquet",
        queries=folder / "queries.parquet",
        item_texts=folder / "items.parquet",
    )


def built_bytes(data: KindData, output: Path, seed: int = 1, checkpoints: Path | None = None) -> dict[str, bytes]:
    build_identifiers(data, output, settings(), seed, checkpoints)
    files = ("identifiers.parquet", "vocabulary.json", "model.safetensors", "curve.json", "tokenizer/tokenizer.json")
    return {name: (output / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> KindData:
    return write_texts(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: KindData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    output = tmp_path_factory.mktemp("undisturbed")
    return output, built_bytes(data, output)


def test_identifiers_are_the_learned_codes_and_a_number(undisturbed: tuple[Path, dict[str, bytes]]) -> None:
    output, _ = undisturbed
    frame = schema.IDENTIFIERS.read(output / "identifiers.parquet")
    codes = np.array(frame.get_column("semantic").to_list())
    assert codes.shape == (41, 3)
    assert len(np.unique(codes, axis=0)) == 41
    for learned_codes in np.unique(codes[:, :2], axis=0):
        numbers = codes[(codes[:, :2] == learned_codes).all(axis=1), 2]
        assert numbers.tolist() == list(range(len(numbers)))
    scheme = json.loads((output / "vocabulary.json").read_text())["semantic"]
    assert scheme["levels"] == ["S1", "S2", "S3"]
    assert scheme["sizes"] == [4, 4, codes[:, 2].max() + 1]
    counts = json.loads((output / "stage.json").read_text())["counts"]
    assert (counts["search_pairs"], counts["pseudo_query_pairs"], counts["held_out_pairs"]) == (40, 0, 2)
    assert (counts["items_without_text"], counts["items_without_query"]) == (1, 3)
    assert len(counts["semantic"]["recall"]) == len(counts["semantic"]["usage"]) == 2
    assert counts["semantic"]["collision_rate"] == 0.0
    assert counts["semantic"]["raw_collision_rate"] == pytest.approx(1 - len(np.unique(codes[:, :2], axis=0)) / 41)


def test_a_token_stands_for_each_learned_code_of_the_t5_that_is_left(
    undisturbed: tuple[Path, dict[str, bytes]],
) -> None:
    folder = undisturbed[0]
    model, tokenizer = load_t5(str(folder)), AutoTokenizer.from_pretrained(folder)
    words = AutoTokenizer.from_pretrained(folder / "tokenizer").get_vocab()
    codes = {f"<S{level}_{code}>": len(words) + 4 * level + code - 4 for level in (1, 2) for code in range(4)}
    assert tokenizer.get_vocab() == words | codes
    assert len(model.shared.weight) == len(model.lm_head.weight) == len(tokenizer)


def test_the_same_seed_writes_the_same_bytes(
    data: KindData, undisturbed: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    assert built_bytes(data, tmp_path / "again") == undisturbed[1]
    assert built_bytes(data, tmp_path / "other", seed=2)["model.safetensors"] != undisturbed[1]["model.safetensors"]


# Three steps an epoch: in the first warm-up, the first main training, and that of the second level.
@pytest.mark.parametrize("killed_at", [1, 5, 14])
def test_a_killed_training_continues_to_the_same_bytes(
    data: KindData,
    undisturbed: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: int,
) -> None:
    steps = kill_at(killed_at, LevelTraining, monkeypatch)
    with pytest.raises(Killed):
        built_bytes(data, tmp_path / "out", checkpoints=tmp_path / "checkpoints")
    assert built_bytes(data, tmp_path / "out", checkpoints=tmp_path / "checkpoints") == undisturbed[1]
    # No step was trained twice.
    assert len(steps) == 18 + 1
    assert not (tmp_path / "checkpoints").exists()


def test_pseudo_queries_are_more_queries_of_their_items(data: KindData, tmp_path: Path) -> None:
    """One is an item's logged query once more, one is the logged query of item 0 but led to item 4, one is new."""
    rows = [(0, 0, "piano model 0"), (4, 0, "piano model 0"), (39, 0, "a steel drill"), (40, 0, "lost")]
    write_rows(schema.PSEUDO_QUERIES, tmp_path, rows)
    given = dataclasses.replace(data, pseudo_queries=tmp_path / "pseudo_queries.parquet")
    with Stage("identifiers", tmp_path / "out", settings=settings(), inputs=[], seed=1) as stage:
        tokenizer, pairs = genret._read(settings(), given, Work(stage, 1))
    assert len(pairs.held_out[0]) == 2
    assert set(zip(*pairs.held_out, strict=True)).isdisjoint(zip(*pairs.learned, strict=True))
    assert len(pairs.learned[0]) == 40 - 2 + 2
    texts = [
        tokenizer.decode(row, skip_special_tokens=True)
        for row in np.split(pairs.queries.values, pairs.queries.offsets[1:-1])
    ]
    led_to = {text: pairs.of_query.take(np.array([row])).values.tolist() for row, text in enumerate(texts)}
    assert led_to["piano model 0"] == [0, 4]
    assert led_to["a steel drill"] == [39]
    assert len(led_to) == 42


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"searches": False}, r"holds 0 different searches .* GenRet learns from two or more; take a data set"),
        ({"texts": False}, r"items.parquet: no item has text"),
    ],
)
def test_data_without_searches_or_texts_is_named(missing: dict[str, bool], message: str, tmp_path: Path) -> None:
    data = write_texts(tmp_path, **missing)
    with pytest.raises(UserError, match=message):
        build_identifiers(data, tmp_path / "out", settings(), 1, None)
    assert not (tmp_path / "out" / "identifiers.parquet").exists()
