"""Answers for everyone equal those of each question alone, however many jobs, kills and blocks they take."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.config.datasets import QueryAnswerSettings, RecommendationSettings
from gensar_core.errors import UserError
from gensar_core.generator.live_questions import Answering
from gensar_core.ranking.parts import Part
from gensar_core.runtime.stage import read_record
from gensar_core.service import answers
from gensar_core.service.answers import gather_recommendations, recommend_to_all, search_for_all
from gensar_core.service.shop import Folders, Shop, clicked_items
from tests.support.dataset_folder import MODEL, write_dataset
from tests.support.shop import TEXTS


@pytest.fixture(scope="module", params=["t5", "causal"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "results" / "demo"
    return write_dataset(folder, users=23, causal=request.param == "causal")


@pytest.fixture
def folders(dataset: Path) -> Folders:
    return Folders.of(dataset, MODEL)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_BLOCK", 4)


def alone(folders: Folders, users: range, **options: bool) -> list[tuple[str, int, str, float]]:
    """Recommend to each user with a question of its own."""
    shop, generator = Shop(folders.canonical), folders.load()
    rows = []
    for user in users:
        history = shop.history(user)
        excluded = () if options.get("again") else clicked_items(history)
        for rank, hit in enumerate(generator.recommend(history, top=3, excluded=excluded, user=user), 1):
            rows.append((shop.users[user], rank, f"i{hit.item}", hit.score))
    return rows


def assert_equal(found: pl.DataFrame, rows: list[tuple[str, int, str, float]]) -> None:
    *keys, scores = zip(*rows, strict=True)
    assert [tuple(found[name]) for name in found.columns[:3]] == keys
    assert found["score"].to_list() == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("again", [False, True])
def test_every_user_gets_what_the_user_alone_gets(folders: Folders, tmp_path: Path, again: bool) -> None:
    output = tmp_path / "everyone.parquet"
    recommend_to_all(folders, output, RecommendationSettings(top=3, again=again))
    assert_equal(schema.RECOMMENDATIONS.read(output), alone(folders, range(23), again=again))
    assert read_record(tmp_path / "everyone.stage.json")["counts"] == {"questions": 23, "top": 3}


def test_parts_together_are_the_bytes_of_one_job(folders: Folders, tmp_path: Path) -> None:
    settings = RecommendationSettings(top=3)
    recommend_to_all(folders, tmp_path / "one.parquet", settings)
    parts = [tmp_path / f"{number}-of-3.parquet" for number in range(3)]
    for number, path in enumerate(parts):
        recommend_to_all(folders, path, settings, part=Part(number, 3))
    gather_recommendations(parts, tmp_path / "all.parquet")
    assert (tmp_path / "all.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert read_record(tmp_path / "all.stage.json")["counts"]["questions"] == 23


class Killed(BaseException):
    """Ends a stage from outside."""


def test_a_killed_run_goes_on_to_the_same_bytes(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, kept = RecommendationSettings(top=3), tmp_path / "kept"
    recommend_to_all(folders, tmp_path / "whole.parquet", settings)
    calls, answer = [], Answering.answer

    def killed(self, questions, **options):
        calls.append(len(questions))
        if len(calls) == 4:
            raise Killed
        return answer(self, questions, **options)

    monkeypatch.setattr(Answering, "answer", killed)
    output = tmp_path / "again.parquet"
    with pytest.raises(Killed):
        recommend_to_all(folders, output, settings, kept)
    assert not output.exists()
    recommend_to_all(folders, output, settings, kept)
    # Six blocks, the fourth of which was lost.
    assert calls == [4, 4, 4, 4, 4, 4, 3]
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not kept.exists()


def test_some_users_and_items_in_stock(folders: Folders, tmp_path: Path) -> None:
    users, stock = tmp_path / "users.txt", tmp_path / "stock.txt"
    users.write_text("u 05\r\n\r\nu 17\nnobody\nu 05\n", encoding="utf-8-sig")
    stock.write_text("i1\ni4\nno such item\n")
    output = tmp_path / "some.parquet"
    settings = RecommendationSettings(top=3, users=str(users), items=str(stock), again=True)
    recommend_to_all(folders, output, settings)
    table = schema.RECOMMENDATIONS.read(output)
    assert table.group_by("user", maintain_order=True).agg(pl.col("item").sort()).rows() == [
        ("u 05", ["i1", "i4"]),
        ("u 17", ["i1", "i4"]),
    ]
    record = read_record(tmp_path / "some.stage.json")
    assert record["counts"] == {"unknown_items": 1, "unknown_users": 1, "questions": 2, "top": 3}
    assert [line.split(": ")[1] for line in record["warnings"]] == [
        "1 of 3 names are no item, such as 'no such item'",
        "1 of 3 names are no user, such as 'nobody'",
    ]


@pytest.mark.parametrize("key", ["users", "items"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"caf\xe9\n", "cannot be read; give a text file in UTF-8"),
        (b"a\nb\n", "names no (user|item) of the data set"),
    ],
)
def test_a_file_of_names_that_cannot_be_used_is_one_clear_error(
    folders: Folders, tmp_path: Path, key: str, content: bytes | None, message: str
) -> None:
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"names.txt: (.*{message}|no such file)"):
        recommend_to_all(folders, tmp_path / "out.parquet", RecommendationSettings(**{key: str(file)}))
    assert not (tmp_path / "out.parquet").exists()


def test_a_file_of_queries_gets_what_each_query_alone_gets(dataset: Path, folders: Folders, tmp_path: Path) -> None:
    queries = [f"piano {number}" for number in range(6)] + ["digital piano", "Fl\u00fcgel"]
    file, output = tmp_path / "queries.txt", tmp_path / "found.parquet"
    file.write_text("\n".join(["", *queries, queries[0]]), encoding="utf-8")
    command = ["search-all", str(dataset), MODEL, str(file), str(output), "--top", "2"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    generator = folders.load()
    hits = [(query, *found) for query in queries for found in enumerate(generator.search(query, top=2), 1)]
    assert_equal(schema.SEARCHES.read(output), [(query, rank, f"i{hit.item}", hit.score) for query, rank, hit in hits])
    assert read_record(tmp_path / "found.stage.json")["counts"] == {"lines": 9, "questions": 8, "top": 2}


def test_the_command_restricts_users_and_items(dataset: Path, folders: Folders, tmp_path: Path) -> None:
    for name, text in (("users", "u 03\n"), ("stock", "\n".join(f"i{item}" for item in range(len(TEXTS))))):
        (tmp_path / name).write_text(text)
    output = tmp_path / "out.parquet"
    command = ["recommend-all", dataset, MODEL, output, "--users", tmp_path / "users", "--only", tmp_path / "stock"]
    assert CliRunner().invoke(app, [*map(str, command), "--top", "3"], catch_exceptions=False).exit_code == 0
    assert_equal(schema.RECOMMENDATIONS.read(output), alone(folders, range(5, 6)))
    done = CliRunner().invoke(app, [*map(str, command), "--top", "3", "--beams", "2"])
    assert "beams must be at least top, 3" in str(done.exception)
    done = CliRunner().invoke(app, ["recommend-all", str(dataset), MODEL, "out.csv"])
    assert "ends in .parquet" in str(done.exception)


def test_a_generator_that_does_not_recommend_says_so(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "prompted_tasks", lambda _: ["search"])
    with pytest.raises(UserError, match="its prompt file does not rank rec"):
        recommend_to_all(folders, tmp_path / "out.parquet", RecommendationSettings())
    with pytest.raises(UserError, match="name a text file with one query a line"):
        search_for_all(folders, tmp_path / "out.parquet", QueryAnswerSettings())
