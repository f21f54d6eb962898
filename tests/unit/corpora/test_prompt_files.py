"""Templates: the project's own file, and what a wrong file is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from gensar_core.corpora.tasks import TASKS
from gensar_core.corpora.template_files import Slot, read_templates, write_templates
from gensar_core.corpora.templates import TEMPLATES_FILE, load_templates
from gensar_core.errors import UserError


def test_each_task_has_ten_templates_and_no_two_tasks_share_one() -> None:
    """Two tasks may show the same text and ask for different identifiers: only the template tells them apart."""
    templates = load_templates()
    assert templates.keys() == TASKS.keys()
    assert all(len(of_task) == 10 for of_task in templates.values())
    every = [template for of_task in templates.values() for template in of_task]
    assert len({template.text for template in every}) == len(every)
    for template in every:
        words = [part if isinstance(part, str) else f"{{{part.name}}}" for part in template.parts]
        assert " ".join(words) == template.text


def test_a_template_is_cut_at_its_placeholders(tmp_path: Path) -> None:
    path = changed(tmp_path, "nsip", "The query {query} after\n  the past {history} Which item?")
    (template,) = read_templates(path)["nsip"]
    assert template.text == "The query {query} after the past {history} Which item?"
    assert template.parts == ("The query", Slot("query"), "after the past", Slot("history"), "Which item?")


def test_written_templates_are_read_again(tmp_path: Path) -> None:
    write_templates(load_templates(), tmp_path / "templates.yaml")
    assert read_templates(tmp_path / "templates.yaml") == load_templates()


def changed(folder: Path, task: str, template: object) -> Path:
    lists = yaml.safe_load(TEMPLATES_FILE.read_text(encoding="utf-8"))
    lists[task] = [template] if template is not None else []
    path = folder / "templates.yaml"
    path.write_text(yaml.safe_dump(lists), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("task", "template", "message"),
    [
        ("nrip", "no placeholder", r"nrip.0: must hold each of {history} exactly once"),
        ("nrip", "{history} and {history}", "exactly once"),
        ("nsip", "only {query}", r"must hold each of {history}, {query}"),
        ("nrip", "{histroy}", r"unknown placeholder {histroy}; this task has {history}"),
        ("desc2id_semantic", '"{description}"', "blank before and after each placeholder"),
        ("nsip", "{query}{history}", "blank before and after each placeholder"),
        ("nrip", "{history}.", "blank before and after each placeholder"),
        ("nrip", "{history} <R_I>", "take the '<' out"),
        ("nrip", "{history} }", "brace that is no placeholder"),
        ("nrip", "{history}}", "blank before and after each placeholder"),
        ("nrip", 3, "a template is a text, not 3"),
        ("nrip", None, "a list of one or more templates"),
    ],
)
def test_a_wrong_template_is_named(tmp_path: Path, task: str, template: object, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message) if "{" in message else message):
        read_templates(changed(tmp_path, task, template))


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    with pytest.raises(UserError, match="no such file"):
        read_templates(path)
    for content, message in (
        ("nrip: [", "not readable as YAML"),
        ("- a list", "nrip: a list of one or more templates"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            read_templates(path)
