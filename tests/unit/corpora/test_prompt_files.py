"""Prompt files: those of the project, and what a wrong file is told."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gensar_core.config.prompts import PROMPTS_FOLDER, Slot, Template, find_prompts, read_prompts, shipped_prompts
from gensar_core.errors import UserError


def test_each_task_of_gensar_has_ten_templates_and_no_two_tasks_share_one() -> None:
    """Two tasks may show the same text and ask for different identifiers: only the template tells them apart."""
    tasks = find_prompts("gensar").tasks
    assert all(len(task.templates) == 10 for task in tasks.values())
    every = [template for task in tasks.values() for template in task.templates]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("name", "ranking", "left_out"),
    [
        ("gensar", {"rec": "nrip", "search": "nsip"}, {"query2id", "doc2query"}),
        ("gensar_short", {"rec": "nrip", "search": "nsip"}, {"query2id"}),
        ("p5", {"rec": "sequential"}, set()),
        ("tiger", {"rec": "next_item"}, set()),
        ("lcrec", {"rec": "sequential"}, {"search", "search_after_history"}),
        ("dsi_qg", {"search": "logged"}, set()),
        ("webultron", {"search": "logged"}, set()),
        ("genret", {"search": "logged"}, set()),
    ],
)
def test_a_family_ranks_the_tasks_of_its_paper(name: str, ranking: dict[str, str], left_out: set[str]) -> None:
    file = find_prompts(name)
    assert file.ranking == ranking
    assert set(file.tasks) - set(file.active(None, [], "")) == left_out


def test_all_shipped_files_are_those_of_the_settings_documentation() -> None:
    assert shipped_prompts() == ["dsi_qg", "genret", "gensar", "gensar_short", "lcrec", "p5", "tiger", "webultron"]


def test_a_recommender_of_lcrec_reads_no_search_unless_asked() -> None:
    file = find_prompts("lcrec")
    assert {file.tasks[name].source for name in file.active(None, [], "")} == {"rec", "item"}
    fused = ["sequential_to_title", "sequential_to_description", "titles_to_index"]
    assert file.active(["fused", "sequential", "intention"], ["search"], "") == [
        *fused,
        "sequential",
        "search_after_history",
    ]


def test_a_template_is_cut_at_its_placeholders() -> None:
    text = "The query {query} after\n  the past {history} Which item?"
    template = Template.parse(text, ["history", "query"], "here")
    assert template.text == "The query {query} after the past {history} Which item?"
    assert template.parts == ("The query", Slot("query"), "after the past", Slot("history"), "Which item?")


@pytest.mark.parametrize("name", shipped_prompts())
def test_written_files_are_read_again(tmp_path: Path, name: str) -> None:
    find_prompts(name).write(tmp_path / "prompts.yaml")
    assert read_prompts(tmp_path / "prompts.yaml") == find_prompts(name)


GENSAR = yaml.safe_load((PROMPTS_FOLDER / "gensar.yaml").read_text(encoding="utf-8"))


def changed(folder: Path, key: str, value: object) -> Path:
    """The file of GenSAR with another value at a key of a task; None takes the key out."""
    values = copy.deepcopy(GENSAR)
    task, *keys = key.split(".")
    place: Any = values["tasks"][task]
    for part in keys[:-1]:
        place = place[int(part) if part.isdigit() else part]
    last: Any = int(keys[-1]) if keys[-1].isdigit() else keys[-1]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("nrip.templates.0", "no placeholder", "nrip.templates.0: must hold each of {history} exactly once"),
        ("nrip.templates.3", "{history} and {history}", "nrip.templates.3: must hold each of {history} exactly once"),
        ("nsip.templates.0", "only {query}", "must hold each of {history}, {query}"),
        ("nrip.templates.0", "{histroy}", "nrip.templates.0: unknown placeholder {histroy}; this task has {history}"),
        ("id2desc_semantic.templates.0", "{semantic}", "unknown placeholder {semantic}; this task has {identifier}"),
        ("desc2id_semantic.templates.0", '"{description}"', "blank before and after each placeholder"),
        ("nsip.templates.0", "{query}{history}", "blank before and after each placeholder"),
        ("nrip.templates.0", "{history} <R_I>", "take the '<' out"),
        ("nrip.templates.0", "{history} }", "brace that is no placeholder"),
        ("nrip.templates.0", 3, "nrip.templates.0: input should be a valid string, not 3"),
        ("nrip.templates", [], "nrip.templates: list should have at least 1 item"),
        ("nrip.templates", None, "nrip.templates: this key is required"),
        ("nrip.showz", "query", "nrip.showz: unknown key; did you mean 'shows'?"),
        ("nrip.source", "recs", "nrip.source: input should be 'rec', 'search', 'item' or 'pseudo_query', not 'recs'"),
        ("nrip.shows", "query", "nrip.shows: an example of source rec cannot have query there; it may have user"),
        ("nsip.shows", "title", "nsip.shows: an example of source search cannot have title there"),
        ("nrip.asks", "query", "nrip.asks: an example of source rec cannot have query there"),
        ("nsip.asks", "query", "nsip.asks: query is what the prompt shows"),
        ("nrip.history", None, "nrip: shows nothing; give it a history"),
        ("desc2id_semantic.history", {"behaviors": ["R_I"]}, "desc2id_semantic.history: source item has no history"),
        ("nrip.history.behaviors.0", "R_J", "nrip.history.behaviors.0: input should be 'R_I', 'S_Q' or 'S_I'"),
        ("nrip.history.behaviors", [], "nrip.history.behaviors: list should have at least 1 item"),
        ("nrip.history.separator", "<sep>", "nrip.history.separator: '<sep>' would read as a token"),
        ("nrip.history.items", "title", "nrip.history.items: a task that ranks shows identifiers"),
        ("nrip.history.latest", 0, "nrip.history.latest: input should be greater than 0"),
        ("nrip.asks", "searched_item", "nrip.ranks: ranking rec needs source: rec and asks: recommended_item"),
        ("nsqp.ranks", "search", "nsqp.ranks: ranking search needs source: search and asks: searched_item"),
    ],
)
def test_a_wrong_file_is_named_with_its_task(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = changed(tmp_path, key, value)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}: tasks.")
    assert "\n" not in str(caught.value)


def test_two_tasks_do_not_rank_the_same_samples(tmp_path: Path) -> None:
    values = copy.deepcopy(GENSAR)
    values["tasks"]["again"] = values["tasks"]["nrip"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(UserError, match=r"tasks\.again\.ranks: nrip ranks rec already"):
        read_prompts(tmp_path / "mine.yaml")
    for task in ("nrip", "nsip", "again"):
        del values["tasks"][task]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="tasks: none ranks a task"):
        read_prompts(tmp_path / "mine.yaml")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    with pytest.raises(UserError, match="no such file"):
        read_prompts(path)
    for content, message in (
        ("tasks: [", "not readable as YAML"),
        ("- a list", "must be a mapping with the key 'tasks'"),
        ("tasks: {}", "tasks: dictionary should have at least 1 item"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_prompts(path)
    with pytest.raises(
        UserError, match="prompts: 'tigers' is not an entry of the prompt files, nor a file; did you mean"
    ):
        find_prompts("tigers")
