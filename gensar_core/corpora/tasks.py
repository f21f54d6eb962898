"""Define what each training task shows and predicts, from the data of a prompt file (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gensar_core import schema
from gensar_core.config.prompts import Content, HistoryForm, PromptFile, PromptTask, Source, Template
from gensar_core.schema import SIDE_OF_TASK

#: Kinds of content at a place of a prompt or as its target.
Kind = Literal["collaborative", "semantic", "query", "description", "title", "passage", "key_terms", "pseudo", "user"]

#: Behavior of the log entry that each kind of content makes.
LOG_BEHAVIORS: Final[Mapping[Kind, int]] = {
    "collaborative": schema.RECOMMENDED_ITEM,
    "semantic": schema.SEARCHED_ITEM,
    "query": schema.SEARCHED_QUERY,
    "pseudo": schema.SEARCHED_QUERY,
    "description": schema.DESCRIPTION,
}

#: Token of each behavior b of Eq. 1.
BEHAVIOR_TOKENS: Final = tuple(f"<{behavior}>" for behavior in schema.BEHAVIORS)


@dataclass(frozen=True)
class Value:
    """Describe a value to write: its kind, and the behavior whose token precedes it (None: no token)."""

    kind: Kind
    behavior: int | None = None


RECOMMENDED: Final = Value(SIDE_OF_TASK["rec"], schema.RECOMMENDED_ITEM)
ASKED: Final = Value("query", schema.SEARCHED_QUERY)
FOUND: Final = Value(SIDE_OF_TASK["search"], schema.SEARCHED_ITEM)

#: Values that a log's entries hold, by behavior (Eq. 11).
BEHAVIOR_VALUES: Final = (RECOMMENDED, ASKED, FOUND)

#: Value that means an item as the target of each task's samples.
ITEM_VALUES: Final[Mapping[str, Value]] = {"rec": RECOMMENDED, "search": FOUND}

_VALUES: Final[Mapping[Content, Value]] = {
    "recommended_item": RECOMMENDED,
    "searched_item": FOUND,
    "semantic_identifier": Value("semantic"),
    "collaborative_identifier": Value("collaborative"),
    "description": Value("description"),
    "passage": Value("passage"),
    "key_terms": Value("key_terms"),
    "title": Value("title"),
    "query": ASKED,
    "user": Value("user"),
}


@dataclass(frozen=True)
class Task:
    """Describe one training task.

    ``source`` is the source of its examples, ``value`` what a prompt shows beside the history, ``asks`` the behavior
    whose token ends the prompt.
    """

    name: str
    source: Source
    history: HistoryForm | None
    value: Value | None
    target: Value
    asks: int | None
    templates: tuple[Template, ...]

    @classmethod
    def of(cls, name: str, form: PromptTask) -> Task:
        """Build the task ``name`` of a prompt file."""
        target = _value(form.asks, form.source)
        return cls(
            name,
            form.source,
            form.history,
            None if form.shows is None else _value(form.shows, form.source),
            target,
            # The next query begins with its token, but nothing tells the model that a search comes next.
            target.behavior if target.kind != "query" else None,
            tuple(Template.parse(text, form.placeholders, name) for text in form.templates),
        )

    @property
    def kinds(self) -> set[Kind]:
        """Return the kinds of its values and of its history's items, where these are not identifiers."""
        values = {self.target.kind, *([self.value.kind] if self.value else [])}
        return values | ({"title"} if self.history and self.history.items == "title" else set())

    @property
    def asks_by_history_alone(self) -> bool:
        """Tell whether equal histories of a user make equal prompts, which several targets may then share."""
        return self.history is not None and (self.value is None or self.value.kind == "user")

    @property
    def shown_behaviors(self) -> list[int]:
        """Return the codes of the behaviors that its histories show."""
        return [] if self.history is None else [schema.BEHAVIORS.index(name) for name in self.history.behaviors]


def tasks_of(file: PromptFile) -> dict[str, Task]:
    """Return the tasks of a prompt file, by their names."""
    return {name: Task.of(name, form) for name, form in file.tasks.items()}


def ranking_tasks(file: PromptFile) -> dict[str, Task]:
    """Return the tasks that write the prompts of valid and test samples, by the samples' task."""
    return {ranked: Task.of(name, file.tasks[name]) for ranked, name in file.ranking.items()}


def _value(content: Content, source: Source) -> Value:
    if content == "query" and source == "pseudo_query":
        return Value("pseudo", schema.SEARCHED_QUERY)
    return _VALUES[content]
