"""Define what each training task shows and predicts (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from gensar_core import schema
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.schema import SIDE_OF_TASK, SIDES

#: Kinds of content at a place of a prompt or as its target.
Kind = Literal["collaborative", "semantic", "query", "description", "pseudo"]

#: Identifier or text that each behavior's object is written as (Eq. 11).
BEHAVIOR_KINDS: Final[tuple[Kind, Kind, Kind]] = (SIDE_OF_TASK["rec"], "query", SIDE_OF_TASK["search"])

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


@dataclass(frozen=True)
class Task:
    """Describe one training task.

    ``option`` is its name in the settings; ``source`` is the source of its examples: the training samples of `rec` or
    `search`, the items, or the pseudo-queries; ``values`` fills the placeholders other than {history}; ``asks`` is the
    behavior whose token ends the prompt.
    """

    name: str
    option: str
    source: Literal["rec", "search", "item", "pseudo"]
    target: Value
    values: Mapping[str, Value] = field(default_factory=dict)
    history: bool = False
    asks: int | None = None

    @property
    def placeholders(self) -> frozenset[str]:
        """Return the placeholders that each of the task's templates must hold, once each."""
        return frozenset(self.values) | ({"history"} if self.history else set())

    @property
    def asks_by_history_alone(self) -> bool:
        """Tell whether equal histories make equal prompts, which several targets may then share."""
        return self.history and not self.values


RECOMMENDED: Final = Value(SIDE_OF_TASK["rec"], schema.RECOMMENDED_ITEM)
ASKED: Final = Value("query", schema.SEARCHED_QUERY)
FOUND: Final = Value(SIDE_OF_TASK["search"], schema.SEARCHED_ITEM)

PSEUDO_ASKED: Final = Value("pseudo", schema.SEARCHED_QUERY)

#: Values that a log's entries hold, by behavior (Eq. 11).
BEHAVIOR_VALUES: Final = (RECOMMENDED, ASKED, FOUND)

NRIP: Final = Task("nrip", "nrip", "rec", RECOMMENDED, history=True, asks=schema.RECOMMENDED_ITEM)
NSQP: Final = Task("nsqp", "nsqp", "search", ASKED, history=True)
NSIP: Final = Task("nsip", "nsip", "search", FOUND, {"query": ASKED}, history=True, asks=schema.SEARCHED_ITEM)

TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        NRIP,
        NSQP,
        NSIP,
        *(
            Task(f"desc2id_{side}", "desc2id", "item", Value(side), {"description": Value("description")})
            for side in SIDES
        ),
        *(
            Task(f"id2desc_{side}", "id2desc", "item", Value("description"), {"identifier": Value(side)})
            for side in SIDES
        ),
        # An ad-hoc search: a query suggested by the item's text, without a history.
        Task("doc2query", "doc2query", "pseudo", FOUND, {"query": PSEUDO_ASKED}, asks=schema.SEARCHED_ITEM),
    )
}

#: Training task that predicts the item of a sample, by the sample's task.
RANKING_TASKS: Final[Mapping[str, Task]] = {"rec": NRIP, "search": NSIP}


def active_tasks(settings: MaterializationSettings) -> list[Task]:
    """Return the tasks to materialize: in the order of the settings, each with all its identifiers."""
    return [task for option in settings.active_tasks for task in TASKS.values() if task.option == option]
