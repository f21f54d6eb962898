"""`gensar recommend` and `gensar search`: raw ids in, titles out, one clear line for every mistake."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gensar_core.errors import UserError
from gensar_core.generator.trained import TrainedGenerator
from tests.support.command import gensar
from tests.support.dataset_folder import ANNA, write_dataset
from tests.support.live_questions import check_answers_together
from tests.support.shop import QUERIES, TEXTS, write_corpus_inputs
from tests.support.small_corpus import build_small_corpus


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("run") / "results" / "demo")


@pytest.fixture(scope="module")
def generator(dataset: Path) -> TrainedGenerator:
    return TrainedGenerator.load(dataset / "models" / "gensar_demo", dataset / "corpora" / "demo")


def ask(*arguments: object) -> list[dict[str, Any]]:
    done = gensar(*arguments, "--json")
    assert done.exit_code == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_user_gets_what_the_functions_find_for_the_users_history(dataset: Path, generator: TrainedGenerator) -> None:
    rows = ask("recommend", dataset, "gensar_demo", "--user", "anna", "--again")
    hits = generator.recommend(ANNA)
    assert [row["item"] for row in rows] == [f"i{hit.item}" for hit in hits]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in hits], abs=1e-4)
    assert [row["title"] for row in rows] == [TEXTS[hit.item] for hit in hits]
    assert sorted(hit.item for hit in hits) == [0, 1, 2, 3, 4]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]


def test_several_questions_are_answered_as_each_alone(generator: TrainedGenerator) -> None:
    check_answers_together(generator)


def test_the_users_own_items_are_left_out_of_recommendations(dataset: Path) -> None:
    assert [row["item"] for row in ask("recommend", dataset, "gensar_demo", "--user", "#0")] == ["i0"]


def test_a_written_history_counts_like_the_users_own(dataset: Path) -> None:
    told = ["clicked=i2", f"query={QUERIES[1]}", "found=i3", "found=#4", "clicked=i1"]
    written = [part for entry in told for part in ("--history", entry)]
    for command in (["recommend", dataset, "gensar_demo", "--again"], ["search", dataset, "gensar_demo", "piano"]):
        assert ask(*command, *written) == ask(*command, "--user", "anna")


def test_search_needs_no_history_and_takes_any_words(dataset: Path, generator: TrainedGenerator) -> None:
    rows = ask("search", dataset, "gensar_demo", "zither of oak", "--top", "2")
    assert [row["item"] for row in rows] == [f"i{hit.item}" for hit in generator.search("zither of oak", top=2)]


def test_what_may_be_returned_can_be_restricted(dataset: Path, tmp_path: Path) -> None:
    listed = tmp_path / "stock.txt"
    listed.write_text("i1\ni3\nno-such-item\n")
    found = [
        {row["item"] for row in ask("search", dataset, "gensar_demo", "piano", *options)}
        for options in (["--only", listed], ["--category", "Pianos"], ["--only", listed, "--category", "Pianos"])
    ]
    assert found == [{"i1", "i3"}, {"i0", "i3", "i4"}, {"i3"}]


def test_the_snippet_of_the_documentation_runs(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "ask-a-model.md").read_text()
    snippet = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(dataset.parents[1])
    names: dict[str, Any] = {}
    exec(snippet, names)
    assert {int(line.split()[0]) for line in capsys.readouterr().out.splitlines()} == {0, 3, 4}
    assert len(names["hits"]) == 5


def test_people_read_rank_score_item_and_title(dataset: Path) -> None:
    done = gensar("search", dataset, "gensar_demo", "piano", "--top", 1)
    header, _, row = done.stdout.splitlines()
    assert header.split() == ["rank", "score", "item", "title"]
    assert row.split()[0] == "1"
    assert "loaded in" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "carl"], "user 'carl': there is none among the 2"),
        (["--user", "ana"], "did you mean anna?"),
        (["--user", "#2"], "user '#2': there is none"),
        (["--history", "clicked=i9"], "item 'i9': there is none among the 5"),
        (["--history", "bought=i1"], "'bought=i1' is not clicked=ITEM"),
        (["--history", "found=i1"], "comes before any query"),
        (["--history", "query="], "query: holds no word"),
        (["--history", "clicked=i1", "--user", "anna"], "give one of the two"),
        ([], "history: is empty"),
        (["--user", "anna", "--top", "0"], "top: 0 items"),
        (["--user", "anna", "--beams", "2"], "top: 10 items cannot be found with 2 beams"),
        (["--user", "anna", "--category", "Boats"], "no item is left"),
        (["--user", "anna", "--only", "nowhere.txt"], "nowhere.txt: cannot be read"),
    ],
)
def test_a_mistake_is_one_clear_line(dataset: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        gensar("recommend", dataset, "gensar_demo", *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_that_do_not_fit_are_one_clear_line(dataset: Path, tmp_path: Path) -> None:
    for folder, name, message in (
        (dataset, "other", r"no such generator \(trained here: gensar_demo\)"),
        (tmp_path, "gensar_demo", r"no such generator \(trained here: none\)"),
    ):
        with pytest.raises(UserError, match=message):
            gensar("search", folder, name, "piano")
    other = write_corpus_inputs(
        tmp_path / "shop", collaborative=[[0, 1, 7, 6], [0, 1, 6, 5], [5, 0, 1, 1], [3, 3, 5, 5], [1, 2, 0, 0]]
    )
    build_small_corpus(other, tmp_path / "corpus")
    with pytest.raises(UserError, match="is not the corpus that the model"):
        TrainedGenerator.load(dataset / "models" / "gensar_demo", tmp_path / "corpus")


def test_the_functions_refuse_items_that_are_not_there(generator: TrainedGenerator) -> None:
    with pytest.raises(UserError, match="excluded: there is no item number 5"):
        generator.recommend(ANNA, excluded={5})
    with pytest.raises(UserError, match="allowed: has 4 entries, but there are 5 items"):
        generator.recommend(ANNA, allowed=np.ones(4, dtype=bool))
