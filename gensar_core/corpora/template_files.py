"""Read, check and write files of templates, the tasks' instructions, and split templates at their placeholders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from gensar_core.corpora.tasks import TASKS
from gensar_core.errors import UserError

#: Pattern of a placeholder; a word must match it in full or not contain it.
_SLOT: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Slot:
    """Mark a place to fill in a template."""

    name: str


@dataclass(frozen=True)
class Template:
    """Hold an instruction as written, and as its fixed texts and slots in order."""

    text: str
    parts: tuple[str | Slot, ...]


def read_templates(path: Path) -> dict[str, tuple[Template, ...]]:
    """Read every task's templates, by the task's name. Raises UserError naming the first template that is wrong."""
    try:
        lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    return {name: _task_templates(name, lists, path) for name in TASKS}


def write_templates(templates: Mapping[str, Sequence[Template]], path: Path) -> None:
    """Write templates in the form that `read_templates` reads."""
    texts = {name: [template.text for template in some] for name, some in templates.items()}
    path.write_text(yaml.safe_dump(texts, sort_keys=False, allow_unicode=True, width=10_000), encoding="utf-8")


def _task_templates(name: str, lists: Any, path: Path) -> tuple[Template, ...]:
    texts = lists.get(name) if isinstance(lists, Mapping) else None
    if not isinstance(texts, list) or not texts:
        raise UserError(f"{path}: {name}: a list of one or more templates is required")
    return tuple(_parse(text, name, f"{path}: {name}.{position}") for position, text in enumerate(texts))


def _parse(text: Any, name: str, where: str) -> Template:
    if not isinstance(text, str):
        raise UserError(f"{where}: a template is a text, not {text!r}")
    text = " ".join(text.split())
    if "<" in text or "\N{LOWER ONE EIGHTH BLOCK}" in text:
        raise UserError(f"{where}: tokens such as <R_I> are put in by themselves; take the '<' out of {text!r}")
    parts: list[str | Slot] = []
    for word in text.split(" "):
        if slot := _SLOT.fullmatch(word):
            parts.append(Slot(slot[1]))
        elif _SLOT.search(word):
            raise UserError(f"{where}: put a blank before and after each placeholder in {text!r}")
        elif parts and isinstance(parts[-1], str):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    _check_placeholders([part.name for part in parts if isinstance(part, Slot)], name, where)
    if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
        raise UserError(f"{where}: a brace that is no placeholder in {text!r}")
    return Template(text, tuple(parts))


def _check_placeholders(slots: list[str], name: str, where: str) -> None:
    required = sorted(TASKS[name].placeholders)
    listed = ", ".join(f"{{{slot}}}" for slot in required)
    if unknown := [slot for slot in slots if slot not in required]:
        raise UserError(f"{where}: unknown placeholder {{{unknown[0]}}}; this task has {listed}")
    if sorted(slots) != required:
        raise UserError(f"{where}: must hold each of {listed} exactly once")
