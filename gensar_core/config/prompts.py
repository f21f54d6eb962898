"""Read prompt files: training tasks as data, with their templates (paper, section 3.3).

A prompt file says for each task where its examples come from, what their prompts show, what they ask, and the templates
around it. Files of gensar_core/corpora/prompts/ are named without their ending, a user's own file by its path.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import yaml
from pydantic import Field

from gensar_core.config.base import Count, Name, Positive, Settings, not_an_entry, validate
from gensar_core.errors import UserError

PROMPTS_FOLDER: Final = Path(__file__).parents[1] / "corpora" / "prompts"

#: Pattern of a placeholder; a word must match it in full or not contain it.
_SLOT: Final = re.compile(r"\{(\w+)\}")
#: Character that tokenizers write for a blank.
BLANK: Final = "\N{LOWER ONE EIGHTH BLOCK}"

Source: TypeAlias = Literal["rec", "search", "item", "pseudo_query"]
Content: TypeAlias = Literal[
    "recommended_item",
    "searched_item",
    "semantic_identifier",
    "collaborative_identifier",
    "description",
    "passage",
    "key_terms",
    "title",
    "query",
    "user",
]

_BARE: Final = ("semantic_identifier", "collaborative_identifier")
_IDENTIFIERS: Final = ("recommended_item", "searched_item", *_BARE)
_TEXTS: Final = ("description", "title")
#: What examples of a source may show beside a history, and what they may ask. A sample must not show its target.
_SHOWS: Final[Mapping[str, Sequence[str]]] = {
    "rec": ("user",),
    "search": ("query", "user"),
    "item": (*_BARE, *_TEXTS, "passage", "key_terms"),
    "pseudo_query": ("query",),
}
_ASKS: Final[Mapping[str, Sequence[str]]] = {
    "rec": (*_IDENTIFIERS, *_TEXTS),
    "search": (*_IDENTIFIERS, *_TEXTS, "query"),
    "item": (*_BARE, *_TEXTS),
    "pseudo_query": _IDENTIFIERS,
}
#: What a prompt asks that ranks a task's items.
_RANKED: Final = {"rec": "recommended_item", "search": "searched_item"}


class HistoryForm(Settings):
    """Say which entries of a history a prompt shows, and how."""

    behaviors: Annotated[list[Literal["R_I", "S_Q", "S_I"]], Field(min_length=1)]
    """Recommendation clicks, queries, clicks after queries; others are left out."""
    items: Literal["identifier", "title"] = "identifier"
    separator: str = ""
    """Text after each entry but the last; a blank follows."""
    latest: Positive | None = None
    """Maximum of shown clicks, and of shown sessions; null: `max_recommendations` and `max_searches` of the corpus."""


class PromptTask(Settings):
    """Define a training task.

    ``source`` is what has one example each: a training sample of `rec` or `search`, an item, or a pseudo-query. A
    template holds {history} where there is one, and once what it ``shows``: {query}, {user}, {description}, {passage},
    {key_terms}, {title}, or {identifier} for either identifier. An item has as many examples as it has passages where
    these are shown.
    """

    source: Source
    history: HistoryForm | None = None
    shows: Content | None = None
    asks: Content
    ranks: Literal["rec", "search"] | None = None
    """Task of the valid and test samples whose prompts are written as this one's, in its first template."""
    group: Name | None = None
    """Second name, which several tasks may share: `tasks` and `drop` of a corpus select all of them by it."""
    optional: bool = False
    """Leave the task out of a corpus that does not list it under `tasks`."""
    templates: Annotated[list[str], Field(min_length=1)]

    @property
    def placeholders(self) -> list[str]:
        """Return the placeholders that each template must hold, once each."""
        shown = "identifier" if self.shows in _BARE else self.shows
        return [*(["history"] if self.history else []), *([shown] if shown else [])]


class PromptFile(Settings):
    """Hold the tasks of a prompt file, by their names."""

    behavior_tokens: bool = False
    """Put <R_I>, <S_Q> and <S_I> before history entries, queries and next items, and at the end of prompts that ask for
    such an item."""
    user_tokens: Count = 0
    """Write {user} as one of this many new tokens, <U_0>, <U_1>, ..., by a hash of the user; 0: as the words user_1,
    user_2, ... A user without a number is <U_0> or user_0."""
    tasks: Annotated[dict[Name, PromptTask], Field(min_length=1)]

    @property
    def ranking(self) -> dict[str, str]:
        """Map `rec` and `search`, where ranked, to the name of the task that asks for their items."""
        found = {task.ranks: name for name, task in self.tasks.items()}
        return {ranked: found[ranked] for ranked in _RANKED if ranked in found}

    def active(self, tasks: Sequence[str] | None, drop: Sequence[str], where: str) -> list[str]:
        """Name the tasks that a corpus materializes, in the order of ``tasks``, without those to ``drop``.

        Raises UserError when a name is no task or group, and when no task is left.
        """
        for key, names in (("tasks", tasks or ()), ("drop", drop)):
            for position, name in enumerate(names):
                if not self._named(name):
                    known = dict.fromkeys(task.group or own for own, task in self.tasks.items())
                    raise UserError(f"{where}{key}.{position}: {not_an_entry(name, known, 'of its prompt file')}")
        if tasks is None:
            chosen = [name for name, task in self.tasks.items() if not task.optional]
        else:
            chosen = [task for name in tasks for task in self._named(name)]
        dropped = {task for name in drop for task in self._named(name)}
        left = [name for name in dict.fromkeys(chosen) if name not in dropped]
        if not left:
            raise UserError(f"{where}drop: no task is left; drop fewer of {', '.join(dict.fromkeys(chosen))}")
        return left

    def _named(self, name: str) -> list[str]:
        return [own for own, task in self.tasks.items() if name in (own, task.group)]

    def write(self, path: Path) -> None:
        """Write the file in the form that `read_prompts` reads."""
        content = self.model_dump(mode="json")
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000), encoding="utf-8")


@dataclass(frozen=True)
class Slot:
    """Mark a place to fill in a template."""

    name: str


@dataclass(frozen=True)
class Template:
    """Hold an instruction as written, and as its fixed texts and slots in order."""

    text: str
    parts: tuple[str | Slot, ...]

    @classmethod
    def parse(cls, text: str, placeholders: Sequence[str], where: str) -> Template:
        """Cut a text at its ``placeholders``. Raises UserError, which begins with ``where``, on a wrong template."""
        text = " ".join(text.split())
        if "<" in text or BLANK in text:
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
        _check_placeholders([part.name for part in parts if isinstance(part, Slot)], placeholders, where)
        if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
            raise UserError(f"{where}: a brace that is no placeholder in {text!r}")
        return cls(text, tuple(parts))


def shipped_prompts() -> list[str]:
    """Name the prompt files that come with the package."""
    return sorted(path.stem for path in PROMPTS_FOLDER.glob("*.yaml"))


def find_prompts(name: str, where: str = "prompts") -> PromptFile:
    """Read the prompt file that a corpus names: a shipped one, or a path. Raises UserError when there is none."""
    path = PROMPTS_FOLDER / f"{name}.yaml" if name in shipped_prompts() else Path(name)
    if not path.is_file():
        raise UserError(f"{where}: {not_an_entry(name, shipped_prompts(), 'of the prompt files, nor a file')}")
    return read_prompts(path)


def read_prompts(path: Path) -> PromptFile:
    """Read and check a prompt file. Raises UserError naming the file, the first wrong task, and what is wrong in it."""
    try:
        return _parse_file(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None


@functools.lru_cache
def _parse_file(text: str, where: str) -> PromptFile:
    values: Any = yaml.safe_load(text)
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: must be a mapping with the key 'tasks'")
    file = validate(PromptFile, values, where)
    for name, task in file.tasks.items():
        _check_task(task, f"{where}: tasks.{name}")
    for ranked in _RANKED:
        names = [name for name, task in file.tasks.items() if task.ranks == ranked]
        if len(names) > 1:
            raise UserError(
                f"{where}: tasks.{names[1]}.ranks: {names[0]} ranks {ranked} already; let one of them do it"
            )
    if not file.ranking:
        raise UserError(f"{where}: tasks: none ranks a task; write ranks: rec or ranks: search in one of them")
    return file


def _check_task(task: PromptTask, where: str) -> None:
    if task.history is not None:
        if task.source not in ("rec", "search"):
            raise UserError(f"{where}.history: source {task.source} has no history; take it out")
        if "<" in task.history.separator or BLANK in task.history.separator:
            raise UserError(
                f"{where}.history.separator: {task.history.separator!r} would read as a token; take '<' out"
            )
    for key, content, allowed in (("shows", task.shows, _SHOWS), ("asks", task.asks, _ASKS)):
        if content is not None and content not in allowed[task.source]:
            raise UserError(
                f"{where}.{key}: an example of source {task.source} cannot have {content} there; "
                f"it may have {', '.join(allowed[task.source])}"
            )
    if task.shows == task.asks:
        raise UserError(f"{where}.asks: {task.asks} is what the prompt shows; ask for something else")
    if not task.placeholders:
        raise UserError(f"{where}: shows nothing; give it a history or write what it shows")
    if task.ranks is not None and (task.source, task.asks) != (task.ranks, _RANKED[task.ranks]):
        raise UserError(
            f"{where}.ranks: ranking {task.ranks} needs source: {task.ranks} and asks: {_RANKED[task.ranks]}"
        )
    if task.ranks is not None and task.history is not None and task.history.items == "title":
        raise UserError(f"{where}.history.items: a task that ranks shows identifiers; write items: identifier")
    for position, text in enumerate(task.templates):
        Template.parse(text, task.placeholders, f"{where}.templates.{position}")


def _check_placeholders(slots: list[str], required: Sequence[str], where: str) -> None:
    listed = ", ".join(f"{{{slot}}}" for slot in sorted(required))
    if unknown := [slot for slot in slots if slot not in required]:
        raise UserError(f"{where}: unknown placeholder {{{unknown[0]}}}; this task has {listed}")
    if sorted(slots) != sorted(required):
        raise UserError(f"{where}: must hold each of {listed} exactly once")
