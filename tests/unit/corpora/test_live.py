"""Prompts for live histories are, token by token, those that the corpus holds for the same histories."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.prompts import find_prompts
from gensar_core.corpora.build import build_corpus
from gensar_core.corpora.live_prompts import Asked, Entry, LivePrompts
from gensar_core.corpora.readable import readable
from gensar_core.errors import UserError
from tests.support.shop import QUERIES, SAMPLES, TEXTS, Q, write_corpus_inputs


def built(folder: Path, **changes: object) -> Path:
    shop = write_corpus_inputs(folder / "shop")
    settings = MaterializationSettings(tokenizer="trained", vocabulary_size=400, **changes)
    build_corpus(shop, shop, shop, folder / "corpus", settings, 7)
    return folder / "corpus"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("live"))


def check(corpus: Path) -> None:
    live = LivePrompts(corpus)
    stored = dict(schema.PROMPTS.read(corpus / "prompts.parquet").iter_rows())
    held_out = [row for row in SAMPLES if row["split"] != "train"]
    assert stored.keys() == {row["sample_id"] for row in held_out}
    for row in held_out:
        behaviors = zip(row["history_behavior"], row["history_object"], strict=True)
        history = [Entry(code, QUERIES[thing] if code == Q else thing) for code, thing in behaviors]
        query = None if row["query_id"] is None else QUERIES[row["query_id"]]
        assert live.write(row["task"], [Asked(history, query)]).values.tolist() == stored[row["sample_id"]]


def test_live_prompts_equal_the_stored_ones(corpus: Path, tmp_path: Path) -> None:
    check(corpus)
    check(built(tmp_path, behavior_tokens=False, max_recommendations=1, max_searches=1, max_query_tokens=1))


def test_live_prompts_use_the_templates_that_the_corpus_was_built_with(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = find_prompts("gensar").model_dump(mode="json")
    for task in other["tasks"].values():
        task["templates"] = [template + " Now!" for template in task["templates"]]
    (tmp_path / "gensar.yaml").write_text(yaml.safe_dump(other))
    # Another version of the library has other templates.
    monkeypatch.setattr("gensar_core.config.prompts.PROMPTS_FOLDER", tmp_path)
    check(corpus)
    changed = built(tmp_path)
    check(changed)
    assert "Now!" in readable(changed, 1)
    assert "Now!" not in readable(corpus, 1)


def test_a_history_may_be_empty_or_hold_words_that_no_table_has(corpus: Path) -> None:
    live = LivePrompts(corpus)
    empty, foreign = (live.write("search", [Asked(history, "zither")]) for history in ([], [Entry.searched("zither")]))
    assert len(empty) == len(foreign) == 1
    assert len(empty.values) < len(foreign.values)


@pytest.mark.parametrize(
    ("history", "query", "message"),
    [
        ([Entry.clicked(len(TEXTS))], "piano", "there is no item number 5; items are numbered from 0 to 4"),
        ([Entry.found(-1)], "piano", "there is no item number -1"),
        ([Entry.searched(" ")], "piano", "query: holds no word"),
        ([], "", "query: holds no word"),
    ],
)
def test_an_unknown_item_or_an_empty_query_is_one_clear_error(
    corpus: Path, history: list[Entry], query: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        LivePrompts(corpus).write("search", [Asked(history, query)])


def test_a_folder_that_is_no_whole_corpus_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such record; run the stage first"):
        LivePrompts(tmp_path)
    corpus = built(tmp_path)
    (corpus / "prompts.yaml").unlink()
    with pytest.raises(UserError, match=r"prompts\.yaml: no such file; build the corpus again"):
        LivePrompts(corpus)
