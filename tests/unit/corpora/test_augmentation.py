"""Prefix augmentation of histories, and searches without one: those of the log, and pseudo-queries."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.prompts import find_prompts
from gensar_core.corpora.assemble import ExampleRows, shortened
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.histories import ShownHistories
from gensar_core.corpora.read import load_examples
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from tests.support.prompts_by_hand import TASKS, Scribe, prompts_of
from tests.support.shop import Q, R, S, sample, write_corpus_inputs, write_rows

NRIP = TASKS["nrip"]

#: Two users; user 0 has four training targets of recommendation, user 1 two, and their search targets.
SAMPLES = [
    {**sample(number, "rec", "train", item, None, [(R, 2), (Q, 0), (S, 4), (R, item - 1)]), "user_id": user}
    for number, (user, item) in enumerate([(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 2)])
] + [
    {**sample(6 + number, "search", "train", item, query, [(R, 0), (Q, 1), (S, 3), (R, 2)]), "user_id": user}
    for number, (user, item, query) in enumerate([(0, 3, 1), (0, 4, 0), (1, 4, 1)])
]
#: By sample, the items asked for when two later targets are taken along: those of the same user, in order.
LATER = {0: [1, 2, 3], 1: [2, 3, 4], 2: [3, 4], 3: [4], 4: [3, 2], 5: [2]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus_inputs(tmp_path_factory.mktemp("shop"), samples=SAMPLES)


def build(shop: Path, output: Path, pseudo: Path | None = None, **changes: Any) -> pl.DataFrame:
    chosen = MaterializationSettings(**{"tokenizer": "trained", "vocabulary_size": 400, **changes})
    build_corpus(shop, shop, shop, output, chosen, 7, pseudo)
    return prompts_of(output)


def ids(folder: Path, text: str) -> list[int]:
    tokens: list[int] = AutoTokenizer.from_pretrained(folder / "tokenizer")(text).input_ids
    return tokens


def test_later_targets_follow_their_history_and_share_its_prompt(shop: Path, tmp_path: Path) -> None:
    plain = build(shop, tmp_path / "plain", tasks=["nrip", "nsqp", "nsip"])
    more = build(shop, tmp_path / "more", tasks=["nrip", "nsqp", "nsip"], later_targets=2)
    scribe = Scribe()
    prompts = dict(plain.filter(task="nrip").select("sample_id", "input_ids").iter_rows())
    assert more.filter(task="nrip").drop("task").rows() == [
        (sample_id, prompts[sample_id], ids(tmp_path / "more", scribe.entry(R, item)))
        for sample_id, items in LATER.items()
        for item in items
    ]
    assert more.filter(task="nsqp").get_column("sample_id").to_list() == [6, 6, 7, 8]
    # A search prompt holds its own query, so that later targets do not fit it.
    assert more.filter(task="nsip").equals(plain.filter(task="nsip"))


def test_training_reads_a_shared_prompt_once_and_tells_tasks_apart(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shop, tmp_path, tasks=["nsqp", "nrip"], later_targets=2)
    monkeypatch.setattr("gensar_core.runtime.reading.PART_ROWS", 4)
    examples = load_examples(tmp_path, 1000)
    assert examples.task_names == ["nrip", "nsqp"]
    rows = schema.CORPUS.read(tmp_path / "train.parquet")
    prompts: list[tuple[str, list[int]]] = []
    for task, history in rows.select("task", "history_ids").iter_rows():
        prompts += [] if prompts and prompts[-1] == (task, history) else [(task, history)]
    written = [
        (examples.task_names[task], examples.inputs.shown.history.take(np.array([place])).values.tolist())
        for place, task in enumerate(examples.inputs.task)
    ]
    # Parts of the file end where they do: a prompt that goes on in the next part begins again there.
    assert [entry for place, entry in enumerate(written) if not place or entry != written[place - 1]] == prompts
    assert len(written) < len(rows)
    assert [written[prompt] for prompt in examples.prompt] == list(rows.select("task", "history_ids").iter_rows())
    # In the first instruction they are the prompts of the corpus.
    first = examples.inputs.instructions.first[examples.inputs.task[examples.prompt]]
    assert examples.inputs.write(examples.prompt, first).values.tolist() == list(
        chain.from_iterable(prompts_of(tmp_path).get_column("input_ids").to_list())
    )


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_later_targets_and_copies_do_not_depend_on_chunks(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    # Chunks reach one chunk ahead, which is enough when it has as many rows as targets are taken along.
    whole = build(shop, tmp_path / "whole", later_targets=1, shorter_histories=2)
    monkeypatch.setattr("gensar_core.corpora.build.CHUNK_ROWS", rows)
    assert build(shop, tmp_path / "chunked", later_targets=1, shorter_histories=2).equals(whole)


def test_shorter_histories_are_last_parts_of_the_whole(shop: Path, tmp_path: Path) -> None:
    template = find_prompts("gensar").tasks["nrip"].templates[0]
    corpus = build(shop, tmp_path, tasks=["nrip"], shorter_histories=20)
    assert len(corpus) == 6 * 21
    for row in SAMPLES[:6]:
        prompts = corpus.filter(sample_id=row["sample_id"]).get_column("input_ids").to_list()
        possible = [
            ids(tmp_path, Scribe(max_recommendations=clicks, max_searches=sessions).prompt("nrip", template, row))
            for clicks in range(3)
            for sessions in range(2)
            if clicks or sessions
        ]
        # The first one is whole; of twenty others, each is some last part, and most of these come up.
        assert prompts[0] == possible[-1]
        assert all(prompt in possible for prompt in prompts)
        assert len({tuple(prompt) for prompt in prompts}) >= 3


@given(
    st.lists(st.lists(st.sampled_from([(R, 1), (Q, 0), (S, 2)]), max_size=6), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_no_history_is_shortened_to_nothing(
    pasts: list[list[tuple[int, int]]], clicks: int, searches: int, seed: int
) -> None:
    """A history may hold only clicks, only searches, or clicks whose query is cut off."""
    lengths = np.array([len(past) for past in pasts])
    flat = np.array([entry for past in pasts for entry in past], dtype=np.int32).reshape(-1, 2)
    histories = ShownHistories(*(Ragged.from_lengths(lengths, column) for column in flat.T))
    rows = ExampleRows(np.arange(len(pasts)), {}, histories).copied(8)
    cut = shortened(rows, seed, NRIP, clicks, searches).histories
    assert cut is not None
    assert ((cut.behaviors.lengths > 0) == np.repeat(lengths > 0, 8)).all()


def test_pseudo_queries_make_searches_without_a_history(shop: Path, tmp_path: Path) -> None:
    texts = [(3, 1, "easy  songs"), (0, 0, "grand piano"), (3, 0, "note book"), (1, 0, " ")]
    write_rows(schema.PSEUDO_QUERIES, tmp_path, texts, "pseudo")
    corpus = build(shop, tmp_path / "out", tmp_path / "pseudo.parquet", tasks=["nsip", "doc2query"])
    template = "A visitor without any record searches for <S_Q> {} and clicks on which item? <S_I>"
    scribe = Scribe()
    assert corpus.filter(task="doc2query").drop("task").rows() == [
        (item, ids(tmp_path / "out", template.format(text)), ids(tmp_path / "out", scribe.entry(S, item)))
        for item, text in [(0, "grand piano"), (3, "note book"), (3, "easy songs")]
    ]


def test_a_query_alone_asks_for_the_item_that_was_clicked_after_it(shop: Path, tmp_path: Path) -> None:
    corpus = build(shop, tmp_path / "out", tasks=["nsip", "query2id"])
    template = "Search without a history: <S_Q> {} Clicked item: <S_I>"
    scribe = Scribe()
    assert corpus.filter(task="query2id").drop("task").rows() == [
        (number, ids(tmp_path / "out", template.format(query)), ids(tmp_path / "out", scribe.entry(S, item)))
        for number, query, item in [(6, "music stand", 3), (7, "digital piano", 4), (8, "music stand", 4)]
    ]


def test_pseudo_queries_that_are_missing_or_foreign_are_named(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="some need a table of pseudo-queries"):
        build(shop, tmp_path / "out", tasks=["doc2query"])
    write_rows(schema.PSEUDO_QUERIES, tmp_path, [(9, 0, "x")], "pseudo")
    with pytest.raises(UserError, match=r"names items that items\.parquet does not have"):
        build(shop, tmp_path / "out", tmp_path / "pseudo.parquet", tasks=["doc2query"])
