"""Define what requests may ask and what is answered; everything has a limit."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

#: Limits of a request: bytes of its body, entries of a history, items named in a list, items returned.
MAX_BODY: Final = 1 << 20
MAX_HISTORY: Final = 500
MAX_NAMED: Final = 20_000
MAX_TOP: Final = 50

#: A raw id as the source writes it, or #17 for number 17.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
Names = Annotated[list[Name], Field(max_length=MAX_NAMED)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HistoryEntry(_Body):
    """Tell one thing done: exactly one of a clicked recommendation, a query, and an item found by the last query."""

    clicked: Name | None = None
    query: Words | None = None
    found: Name | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> HistoryEntry:
        if sum(value is not None for value in (self.clicked, self.query, self.found)) != 1:
            raise ValueError("write one of clicked, query and found")
        return self

    @property
    def kind(self) -> Literal["clicked", "query", "found"]:
        """Return which of the three it is."""
        return "clicked" if self.clicked is not None else "query" if self.query is not None else "found"

    @property
    def value(self) -> str:
        """Return the raw id or the words."""
        return str(getattr(self, self.kind))


class QuestionBody(_Body):
    """Hold what both questions share."""

    user: Name | None = Field(None, description="whose whole history to go by")
    history: list[HistoryEntry] | None = Field(
        None, max_length=MAX_HISTORY, description="what to go by instead of a user, oldest first"
    )
    top: int = Field(10, ge=1, le=MAX_TOP, description="how many items to return")
    excluded: Names = Field(default_factory=list, description="items not to return")
    only: Names | None = Field(None, description="return no other items: what is in stock, say")
    category: Name | None = Field(None, description="return items of this category only")

    @model_validator(mode="after")
    def _goes_by_one(self) -> QuestionBody:
        if self.user is not None and self.history is not None:
            raise ValueError("give user or history, not both")
        return self


class RecommendBody(QuestionBody):
    """Ask for recommendations to a user or after a history."""

    again: bool = Field(False, description="return items of the history as well")


class SearchBody(QuestionBody):
    """Search, in the light of a user or a history if there is one."""

    query: Words


class HitRow(BaseModel):
    """Hold an item returned; ``score`` is the log-probability of the codes of its ``identifier``."""

    rank: int
    item: str
    title: str
    score: float
    identifier: list[str]


class AnswerBody(BaseModel):
    """Hold the items returned, best first."""

    hits: list[HitRow]


class NamedItem(BaseModel):
    """Name an item."""

    item: str
    title: str


class CodeBody(BaseModel):
    """Hold one code of an identifier: how many other items share the path up to it, and some that leave it here."""

    code: str
    others: int
    beside: list[NamedItem]


class PathBody(BaseModel):
    """Hold an identifier as a path of codes; ``moved``: another item had the nearest codes."""

    moved: bool
    path: list[CodeBody]


class ItemBody(NamedItem):
    """Describe an item."""

    categories: list[list[str]]
    identifiers: dict[Literal["semantic", "collaborative"], PathBody]


class UserBody(BaseModel):
    """Hold a user's history, oldest first."""

    user: str
    history: list[dict[str, str]]


class ErrorBody(BaseModel):
    """Say in one sentence what is wrong."""

    error: str
