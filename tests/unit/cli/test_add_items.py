"""`gensar add-items`: new items are asked for and ranked, and nothing changes for the others; both backbones."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.config.generators import OnePassSettings, ScratchSize, TrainingSettings
from gensar_core.corpora.added_items import add_items
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.live_prompts import Entry
from gensar_core.embeddings.text import embed_catalogue
from gensar_core.errors import UserError
from gensar_core.generator.added_items import ExtendedGenerator
from gensar_core.generator.live_questions import LiveQuestion
from gensar_core.generator.train import train_generator
from gensar_core.identifiers.build import build_identifiers
from gensar_core.identifiers.interface import KindData, identifier_kinds
from gensar_core.runtime.stage import digest
from gensar_core.runtime.tensors import save_vectors
from gensar_core.service.app import Service, create_app
from gensar_core.service.shop import Folders
from tests.support.shop import R, S, sample, write_corpus_inputs, write_rows, write_users
from tests.support.small_quantizer import small_settings
from tests.support.tiny_bert import save_tiny_bert

COLORS = ["red", "blue", "green", "white", "black", "pink"]
NOUNS = ["chair", "lamp", "sofa", "desk", "shelf"]
WORDS = ["[PAD]", "[UNK]", *COLORS, *NOUNS]
TEXTS = [f"{color} {noun}" for color in COLORS for noun in NOUNS]
N_ITEMS = len(TEXTS)
#: What is added; the last two have the text of an item that exists, so that their nearest identifier is taken.
NEW = ["red chair lamp", "blue desk shelf", "green sofa", "green sofa"]
ADDED = range(N_ITEMS, N_ITEMS + len(NEW))
MODELS = ["causal_catalogue", "causal_vocabulary", "t5_catalogue", "t5_vocabulary"]
HISTORY = [Entry.clicked(2), Entry.searched(TEXTS[7]), Entry.found(7)]


def samples(queries: Sequence[int]) -> list[dict[str, Any]]:
    """Every item is found by its query, and recommended after the one or two items before it."""
    rows: list[dict[str, Any]] = []
    for item, query in enumerate(queries):
        before = [(R, (item - 1) % len(queries)), (S, (item - 2) % len(queries))][: 1 + item % 2]
        for split in schema.SPLITS:
            rows.append(sample(len(rows), "search", split, item, query, []))
            rows.append(sample(len(rows), "rec", split, item, None, before))
    return rows


def train(folder: Path, name: str) -> None:
    backbone, likelihood = name.split("_")
    values: dict[str, Any] = {"likelihood": likelihood, "batch_size": 16, "epochs": 4, "patience": None}
    if backbone == "causal":
        one_pass = OnePassSettings(hidden_size=16, intermediate_size=16, num_layers=1, num_heads=2)
        values |= {"backbone": "causal", "one_pass": one_pass}
    else:
        size = ScratchSize(d_model=16, d_ff=16, d_kv=4, num_heads=2, num_layers=1, num_decoder_layers=1)
        values |= {"backbone": "scratch", "size": size}
    corpus, model = folder / "corpora/demo", folder / "models" / name
    train_generator(corpus, folder / "canonical", model, TrainingSettings(**values), 1, None)


def write_dataset(
    root: Path, texts: list[str], queries: list[str], query_of: Sequence[int], *, clicks: bool, kind: str = "rqvae"
) -> Path:
    """Write all that generators are built of; without ``clicks``, identifiers have the side of the texts alone."""
    folder = root / "results" / "demo"
    codes = [[0]] * len(texts)
    rows = samples(query_of)
    shop = write_corpus_inputs(
        folder / "canonical", texts=texts, queries=queries, semantic=codes, collaborative=codes, samples=rows
    )
    write_users(shop, ["anna", "bert", "carl"])
    held_out = [row for row in rows if row["split"] != "train"]
    lists = [(row["sample_id"], [item for item in range(9) if item != row["target_item"]]) for row in held_out]
    write_rows(schema.CANDIDATES, shop, lists)
    encoder = save_tiny_bert(root / "encoder", WORDS, 8, initializer_range=0.5)
    text = folder / "embeddings" / "words"
    embed_catalogue(shop, text, TextEmbedding(kind="text", model=str(encoder)), 1)
    vectors = {"semantic": text / "vectors.safetensors"}
    if clicks:
        vectors["collaborative"] = folder / "embeddings" / "clicks" / "vectors.safetensors"
        vectors["collaborative"].parent.mkdir()
        matrix = np.random.default_rng(0).normal(size=(len(texts), 6)).astype(np.float32)
        save_vectors({"items": matrix}, vectors["collaborative"])
    identifiers = folder / "identifiers" / "joint"
    quantizer = small_settings(kind=kind, codebook_size=4 if clicks else 8)
    build_identifiers(KindData(vectors), identifiers, quantizer, 1, None)
    settings = MaterializationSettings(tokenizer="trained", vocabulary_size=400)
    build_corpus(shop, shop, identifiers, folder / "corpora" / "demo", settings, 1)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's folder with four generators on one corpus: both backbones, both likelihoods."""
    folder = write_dataset(tmp_path_factory.mktemp("run"), TEXTS, TEXTS, range(N_ITEMS), clicks=True)
    for name in MODELS:
        train(folder, name)
    return folder


@pytest.fixture
def dataset(trained: Path, tmp_path: Path) -> Path:
    """A copy to add to."""
    return Path(shutil.copytree(trained, tmp_path / "demo"))


def write_new(path: Path, texts: list[str] = NEW, **columns: list[Any]) -> Path:
    frame: dict[str, Any] = {"raw_id": [f"n{number}" for number in range(len(texts))], "title": texts}
    pl.DataFrame(frame | columns).write_parquet(path)
    return path


def gensar(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def add(dataset: Path, name: str = MODELS[0], **options: Any) -> Path:
    gensar("add-items", dataset, name, write_new(dataset / "new.parquet", **options))
    return dataset / "added" / name


def files(folder: Path) -> dict[Path, str]:
    return {path: digest(path) for path in sorted(folder.rglob("*")) if path.is_file() and "added" not in path.parts}


def bytes_of(generator: Any, ids: np.ndarray, candidates: np.ndarray) -> list[bytes]:
    """All that is computed of known items, to the last bit."""
    asked = generator.asked().of(ids)
    return [generator.score(asked, candidates, task).tobytes() for task in schema.TASKS]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_changes_for_the_items_that_were_there(dataset: Path, name: str) -> None:
    before, ids = Folders.of(dataset, name).load(), np.array([2, 8, 14])
    known = np.tile(np.arange(N_ITEMS, dtype=np.int32), (3, 1))
    scores = bytes_of(before, ids, known)
    answers = [before.recommend(HISTORY, top=N_ITEMS), before.search("blue lamp", top=N_ITEMS)]
    written = files(dataset)

    added = add(dataset, name)
    after = Folders.of(dataset, name).load()
    assert isinstance(after, ExtendedGenerator)
    assert bytes_of(after, ids, known) == scores
    everything = np.tile(np.arange(N_ITEMS + len(NEW), dtype=np.int32), (3, 1))
    mixed = [after.score(after.asked().of(ids), everything, task) for task in schema.TASKS]
    assert [part[:, :N_ITEMS].tobytes() for part in mixed] == scores
    assert np.isfinite(mixed).all()
    for old, new in zip(answers, (after.recommend(HISTORY, top=60), after.search("blue lamp", top=60)), strict=True):
        assert [hit for hit in new if hit.item < N_ITEMS] == old
        assert {hit.item for hit in new} == {*ADDED} | {hit.item for hit in old}
    now = files(dataset)
    del now[dataset / "new.parquet"]
    assert now == written

    for table, names in ((schema.IDENTIFIERS, "identifiers/joint/identifiers"), (schema.ITEMS, "canonical/items")):
        old_rows = table.read(dataset / f"{names}.parquet")
        assert table.read(added / f"{table.name}.parquet").head(N_ITEMS).equals(old_rows)
    for task in schema.TASKS:
        tables = [schema.ITEM_TOKENS.read(path / "item_tokens.parquet") for path in (dataset / "corpora/demo", added)]
        first, second = (table.filter(pl.col("task") == task) for table in tables)
        assert second.head(N_ITEMS).equals(first)
        assert second["target_ids"].n_unique() == N_ITEMS + len(NEW)


@pytest.mark.parametrize("name", MODELS)
def test_new_items_are_recommended_found_ranked_and_read_in_histories(dataset: Path, name: str) -> None:
    add(dataset, name)
    stock = dataset / "stock.txt"
    stock.write_text("n0\nn2\n")
    for command in (["recommend", dataset, name, "--user", "anna"], ["search", dataset, name, "green sofa"]):
        lines = gensar(*command, "--only", stock, "--json").splitlines()
        assert {json.loads(line)["item"] for line in lines} == {"n0", "n2"}
        assert {json.loads(line)["title"] for line in lines} == {NEW[0], NEW[2]}
    generator = Folders.of(dataset, name).load()
    # What a beam search finds has the score of the exact ranking: of all added items, after the same question.
    ids = np.array([2, 8])
    asked = generator.asked().of(ids)
    exact = generator.score(asked, np.tile(np.array(ADDED, dtype=np.int32), (2, 1)), "search")
    found = generator.retrieve(asked, "search", beams=40, users_per_batch=2, excluded=np.array([[1, 31], [-1, -1]]))
    for row, (items, scores) in enumerate(zip(found.items, found.scores, strict=True)):
        place = {item: score for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item in ADDED}
        assert set(place) == {*ADDED} - ({31} if row == 0 else set())
        assert list(place.values()) == pytest.approx([exact[row, item - N_ITEMS] for item in place], abs=1e-4)
    assert {*range(N_ITEMS)} - set(found.items[0].tolist()) == {1}
    # A click on a new item says something, and is not recommended again.
    after_new = generator.recommend([*HISTORY, Entry.clicked(ADDED[0])], top=40, excluded={ADDED[0]})
    assert {hit.item for hit in after_new} == {*range(N_ITEMS), *ADDED} - {ADDED[0]}
    before = {hit.item: hit.score for hit in generator.recommend(HISTORY, top=40)}
    assert any(hit.score != before[hit.item] for hit in after_new)
    only = np.zeros(N_ITEMS + len(NEW), dtype=bool)
    only[ADDED[1]] = True
    assert [hit.item for hit in generator.search("lamp", allowed=only)] == [ADDED[1]]
    # Several questions at once, each with items of its own: an added one, a known one, none.
    masks = [only, np.arange(len(only)) == 4, np.zeros_like(only)]
    answers = generator.answer([LiveQuestion([], "lamp", allowed=mask) for mask in masks])
    assert [[hit.item for hit in hits] for hits in answers] == [[ADDED[1]], [4], []]


@pytest.mark.parametrize("kind", ["rqvae", "rq_kmeans"])
def test_identifiers_of_texts_alone_are_the_same_on_both_sides(tmp_path: Path, kind: str) -> None:
    folder = write_dataset(tmp_path, TEXTS, TEXTS, range(N_ITEMS), clicks=False, kind=kind)
    stages = [folder / name for name in ("canonical", "corpora/demo", "identifiers/joint", "embeddings/words")]
    add_items(write_new(folder / "new.parquet"), *stages, folder / "added")
    table = schema.IDENTIFIERS.read(folder / "added" / "identifiers.parquet")
    assert table["semantic"].equals(table["collaborative"].alias("semantic"))
    assert table["semantic"].n_unique() == N_ITEMS + len(NEW)
    old = schema.IDENTIFIERS.read(stages[2] / "identifiers.parquet")
    assert table.head(N_ITEMS).equals(old)


def test_an_item_with_the_text_of_another_has_its_codes_or_the_nearest_free_ones(dataset: Path) -> None:
    added = add(dataset, texts=[*NEW, TEXTS[5]])
    table = schema.IDENTIFIERS.read(added / "identifiers.parquet")
    rows = np.array(table["semantic"].to_list())
    # Of two equal new items the second is moved, by one code alone if a sibling is free.
    assert table["semantic_moved"].to_list()[N_ITEMS + 3]
    assert len(np.unique(rows, axis=0)) == len(rows)
    for side in schema.SIDES:
        shared = np.array(table[side].to_list())[:, :1]
        assert np.array_equal(shared, rows[:, :1])
    counts = json.loads((added / "stage.json").read_text())["counts"]
    assert counts["items"] == N_ITEMS + 5
    assert counts["free_identifiers"] == 4**3 - N_ITEMS - 5


def test_a_longer_file_leaves_the_first_items_their_numbers_and_identifiers(dataset: Path) -> None:
    few = schema.IDENTIFIERS.read(add(dataset, texts=NEW[:2]) / "identifiers.parquet")
    more = schema.IDENTIFIERS.read(add(dataset, texts=[*NEW, "pink"]) / "identifiers.parquet")
    assert more.head(len(few)).equals(few)


def test_texts_and_categories_are_those_of_an_event_log(dataset: Path) -> None:
    columns = {"description": ["for  two "], "categories": [[["Home", "Sofas"]]]}
    added = add(dataset, texts=["green  sofa"], **columns)
    item = schema.ITEMS.read(added / "items.parquet").row(N_ITEMS, named=True)
    assert (item["raw_id"], item["text"], item["categories"]) == ("n0", "green sofa for two", [["Home", "Sofas"]])
    lines = gensar("search", dataset, MODELS[0], "sofa", "--category", "Sofas", "--json").splitlines()
    assert [json.loads(line)["item"] for line in lines] == ["n0"]


def test_explain_knows_new_items(dataset: Path) -> None:
    shown = gensar("explain", "n2", add(dataset), "--neighbors", "3")
    assert f"item {N_ITEMS + 2}  n2  green sofa" in shown
    # Its twin shares all codes but the last ones.
    assert TEXTS[12] == "green sofa"
    assert "i12  green sofa" in shown


def test_a_running_service_answers_with_new_items_and_shows_their_identifiers(dataset: Path) -> None:
    async def talk() -> None:
        service = Service.open(dataset, MODELS[0], beams=50, batch=8, most_waiting=8, watch_seconds=0.05)
        app = create_app(service)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            assert (await client.get("/items/n2")).status_code == 404
            added, before = await asyncio.to_thread(add, dataset), service.model
            while service.model is before:
                await asyncio.sleep(0.05)
            answer = await client.post("/search", json={"query": "sofa", "only": ["n2"], "excluded": ["n0"]})
            (hit,) = answer.json()["hits"]
            codes = schema.IDENTIFIERS.read(added / "identifiers.parquet")["semantic"][ADDED[2]].to_list()
            assert (hit["item"], hit["title"]) == ("n2", NEW[2])
            assert hit["identifier"] == [f"<{level}_{c}>" for level, c in zip(("M1", "S1", "S2"), codes, strict=True)]
            path = (await client.get("/items/n2")).json()["identifiers"]["semantic"]["path"]
            assert [step["code"] for step in path] == hit["identifier"]

    asyncio.run(asyncio.wait_for(talk(), 120))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raw_id": ["a", "b", "i3", "c"]}, r"row 3 \(item 'i3'\) is in the catalogue already"),
        ({"raw_id": ["a", "b", "b", "c"]}, r"row 3 \(item 'b'\) has a raw_id that an earlier row has"),
        ({"raw_id": ["a", None, "b", "c"]}, "row 2 .* has no raw_id"),
        ({"title": ["a", "b", "c", " "]}, r"row 4 \(item 'n3'\) has neither title nor description"),
        ({"texts": []}, "holds no items"),
        ({"texts": ["sofa"] * 40}, "give 64 identifiers, and 30 are taken: 34 of the 40 new items fit"),
    ],
)
def test_items_that_cannot_be_added_are_one_clear_error(dataset: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        add(dataset, **options)
    assert not (dataset / "added" / MODELS[0] / "stage.json").exists()


def edit_record(folder: Path, **changes: Any) -> None:
    record = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({**record, **changes}))


def test_what_cannot_be_extended_is_one_clear_error(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such generator \(trained here: causal_catalogue, "):
        add(dataset, "other")
    identifiers, text = dataset / "identifiers" / "joint", dataset / "embeddings" / "words"
    settings = json.loads((identifiers / "stage.json").read_text())["settings"]
    others = [{"kind": kind} for kind in identifier_kinds() if kind not in ("rqvae", "rq_kmeans")]
    for changes in ({"collisions": "extra_digit"}, *others):
        edit_record(identifiers, settings=settings | changes)
        with pytest.raises(UserError, match=f"are of kind .*{next(iter(changes.values()))}; build other identifiers"):
            add(dataset)
    edit_record(identifiers, settings=settings)
    edit_record(text, stage="embed_sequential")
    with pytest.raises(UserError, match="holds vectors of no text encoder"):
        add(dataset)
    edit_record(text, stage="embed_text")
    # Other weights in the place of the encoder's.
    other = save_tiny_bert(tmp_path / "other", WORDS, 8, seed=1)
    embedding = json.loads((text / "stage.json").read_text())["settings"]
    edit_record(text, settings=embedding | {"model": str(other)})
    with pytest.raises(UserError, match="is another encoder now"):
        add(dataset)
    edit_record(text, settings=embedding)
    stored = load_file(text / "vectors.safetensors")
    save_vectors({name: matrix[:, ::-1].copy() for name, matrix in stored.items()}, text / "vectors.safetensors")
    with pytest.raises(UserError, match=r"joint: was not made of .*vectors.safetensors as it is now"):
        add(dataset)


def test_added_items_of_another_corpus_are_refused(dataset: Path) -> None:
    added = add(dataset)
    inputs = json.loads((added / "stage.json").read_text())["inputs"]
    changed = {path: "0" if path.endswith("item_tokens.parquet") else value for path, value in inputs.items()}
    edit_record(added, inputs=changed)
    with pytest.raises(UserError, match=r"extends another corpus than .*; run gensar add-items again, or delete"):
        Folders.of(dataset, MODELS[0]).load()
