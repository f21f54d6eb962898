"""Identifiers that are texts: their pieces in prompts, targets and the trie, and texts that a tokenizer cannot tell apart."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.live_prompts import Asked, Entry, LivePrompts
from gensar_core.corpora.read import new_tokens
from gensar_core.corpora.trie import load_tries
from gensar_core.errors import UserError
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import write_json
from tests.support.shop import write_corpus_inputs

#: The first is the beginning of the second and of the fourth.
TEXTS = ["lip balm", "lip balm 2", "nail polish", "lip balm rose", "12"]


def write_shop(folder: Path, texts: list[str]) -> Path:
    """Write a shop whose semantic identifiers are texts and whose collaborative ones are codes."""
    write_corpus_inputs(folder)
    frame = schema.IDENTIFIERS.read(folder / "identifiers.parquet")
    frame = frame.with_columns(semantic_text=pl.Series(texts), semantic=pl.Series([[]] * 5, dtype=pl.List(pl.Int32)))
    schema.IDENTIFIERS.write(frame, folder / "identifiers.parquet")
    levels = {"levels": ["M1", "R1"], "sizes": [8, 8]}
    frame = frame.with_columns(collaborative=pl.Series([[item, 0] for item in range(5)], dtype=pl.List(pl.Int32)))
    schema.IDENTIFIERS.write(frame, folder / "identifiers.parquet")
    write_json(folder / "vocabulary.json", {"semantic": {"rows": "text"}, "collaborative": levels})
    return folder


def corpus_of(folder: Path, texts: list[str], **settings: object) -> Path:
    shop = write_shop(folder / "shop", texts)
    chosen = MaterializationSettings.model_validate({"tokenizer": "trained", "vocabulary_size": 400, **settings})
    build_corpus(shop, shop, shop, folder / "corpus", chosen, 7)
    return folder / "corpus"


@pytest.fixture(scope="module", params=[True, False], ids=["behavior tokens", "none"])
def corpus(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"), TEXTS, behavior_tokens=request.param)


def test_texts_add_no_tokens_and_are_written_as_the_tokenizer_splits_them(corpus: Path) -> None:
    behaviors = {"<R_I>", "<S_Q>", "<S_I>"} & set(new_tokens(corpus))
    assert set(new_tokens(corpus)) == {f"<{level}_{code}>" for level in ("M1", "R1") for code in range(8)} | behaviors
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    table = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet")
    rows = table.filter(pl.col("task") == "search").sort("item_id").get_column("target_ids").to_list()
    assert rows == [tokenizer(("<S_I> " if behaviors else "") + text).input_ids for text in TEXTS]
    assert rows[1] != rows[0]
    # The end of sequence closes every row, so that none is the beginning of another.
    assert all(row[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in row[:-1] for row in rows)


def test_the_trie_leads_to_each_item_by_its_pieces(corpus: Path) -> None:
    trie = load_tries(corpus, len(TEXTS))["search"]
    table = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet").filter(pl.col("task") == "search").sort("item_id")
    assert not trie.fixed_length
    assert trie.most_alike == 1
    for item, row in zip(table.get_column("item_id").to_list(), table.get_column("target_ids").to_list(), strict=True):
        node = 0
        for depth, token in enumerate(row):
            level, below = trie.levels[depth], trie.levels[depth + 1]
            children = range(int(level.first_child[node]), int(level.first_child[node + 1]))
            (node,) = [child for child in children if int(below.token[child]) == token]
        end = trie.levels[len(row)]
        assert trie.items[int(end.start[node]) : int(end.stop[node])].tolist() == [item]


def test_a_history_shows_the_same_pieces_with_its_separators(corpus: Path) -> None:
    """Prompts of stored samples and of new histories agree, and read as the identifiers do."""
    tokenizer = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    prompts = schema.PROMPTS.read(corpus / "prompts.parquet")
    # Sample 4 of the shop: a click on item 2, query 1, and a click on item 3 among its results; it asks query 0.
    (stored,) = prompts.filter(pl.col("sample_id") == 4).get_column("input_ids").to_list()
    history = [Entry.clicked(2), Entry.searched(query(1, corpus)), Entry.found(3)]
    live: Ragged = LivePrompts(corpus).write("search", [Asked(history, query(0, corpus))])
    assert live.values.tolist() == stored
    assert TEXTS[3] in tokenizer.decode(stored)
    longer = LivePrompts(corpus).write("search", [Asked([*history, Entry.found(0)], query(0, corpus))])
    assert f"{TEXTS[3]};" in tokenizer.decode(longer.values)


def query(number: int, corpus: Path) -> str:
    queries = schema.QUERIES.read(corpus.parent / "shop/queries.parquet").sort("query_id")
    return str(queries.get_column("text")[number])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["caf\u00e9", "a", "cafe\u0301", "b", "c"], "items 0 and 2 have the same identifier .*'caf\u00e9' and 'caf"),
        (["a", "b", "c", "d <R_I>", "d"], "items 3 and 4 have the same identifier"),
        (["a", "b", "c", "d", "<R_I>"], "nothing is left of item 4's identifier '<R_I>'"),
    ],
)
def test_texts_that_the_tokenizer_cannot_tell_apart_are_refused(tmp_path: Path, texts: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        corpus_of(tmp_path, texts)


def test_a_corpus_of_texts_alone_needs_no_added_token(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", TEXTS)
    frame = schema.IDENTIFIERS.read(shop / "identifiers.parquet").with_columns(collaborative_text="semantic_text")
    schema.IDENTIFIERS.write(frame, shop / "identifiers.parquet")
    write_json(shop / "vocabulary.json", {side: {"rows": "text"} for side in schema.SIDES})
    settings = MaterializationSettings(tokenizer="trained", vocabulary_size=400, behavior_tokens=False)
    build_corpus(shop, shop, shop, tmp_path / "corpus", settings, 7)
    assert new_tokens(tmp_path / "corpus") == {}
    table = schema.ITEM_TOKENS.read(tmp_path / "corpus/item_tokens.parquet")
    assert table.filter(pl.col("task") == "rec")["target_ids"].to_list() == (
        table.filter(pl.col("task") == "search")["target_ids"].to_list()
    )
