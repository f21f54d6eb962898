"""Hold the model that is served, with the tables that name what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.live_questions import Hit, LiveQuestion
from gensar_core.generator.open import Generator
from gensar_core.identifiers.table import IdentifierTable, shared_codes
from gensar_core.service.requests import QuestionBody, RecommendBody, SearchBody
from gensar_core.service.shop import Folders, Shop, clicked_items

_KINDS = {schema.RECOMMENDED_ITEM: "clicked", schema.SEARCHED_ITEM: "found"}


@dataclass(frozen=True, eq=False)
class ServedModel:
    """Hold a generator with its data set. Requests keep the one that they began with."""

    shop: Shop
    generator: Generator
    identifiers: IdentifierTable
    #: Items that the unique assignment moved, bool [n_items], by side.
    moved: dict[str, np.ndarray]
    name: str
    #: Records of the model and of the items added to it; a stage writes its record last.
    records: list[Path]

    @classmethod
    def load(cls, dataset: Path, name: str | None) -> ServedModel:
        """Load the generator ``name`` of a data set's folder, or an exported folder.

        Raises UserError when its parts do not fit.
        """
        folders = Folders.of(dataset, name)
        shop = folders.shop(suggests=False)
        generator = folders.load()
        folder = folders.added or folders.identifiers
        identifiers = IdentifierTable.load(folder)
        if not len(shop.items) == generator.n_items == len(identifiers):
            raise UserError(
                f"{dataset}: has {len(shop.items)} items, {folder} {len(identifiers)} and the generator "
                f"{generator.n_items}; build them again"
            )
        table = schema.IDENTIFIERS.read(folder / "identifiers.parquet").sort("item_id")
        moved: dict[str, np.ndarray] = {}
        for side in schema.SIDES:
            moved[side] = table.get_column(f"{side}_moved").to_numpy()
        served = cls(shop, generator, identifiers, moved, name or dataset.resolve().name, folders.records())
        # The first question of a user, and of a task, loads what later ones share.
        if len(shop.users):
            shop.history(0)
        first = {"rec": LiveQuestion([Entry.clicked(0)]), "search": LiveQuestion([], "first")}
        generator.answer([first[task] for task in prompted_tasks(generator.corpus)], top=1)
        return served

    def question(self, body: QuestionBody) -> LiveQuestion:
        """Return what a request asks. Raises UserError on users and items that do not exist."""
        if body.user is not None:
            history = self.shop.history(self.shop.user(body.user))
        else:
            history = self.shop.entries((entry.kind, entry.value) for entry in body.history or [])
        excluded = {self.shop.item(name) for name in body.excluded}
        if isinstance(body, RecommendBody) and not body.again:
            excluded |= clicked_items(history)
        query = body.query if isinstance(body, SearchBody) else None
        question = LiveQuestion(history, query, excluded, self.shop.allowed(body.only, body.category))
        question.check(self.generator.n_items)
        return question

    def rows(self, question: LiveQuestion, hits: Sequence[Hit]) -> list[dict[str, Any]]:
        """Return the hits by rank, with the identifier that the model wrote for each."""
        side = schema.SIDE_OF_TASK[question.task]
        rows = self.shop.rows(hits)
        for row, hit in zip(rows, hits, strict=True):
            row["identifier"] = self._codes(side, hit.item)
        return rows

    def item(self, name: str, beside: int) -> dict[str, Any]:
        """Describe an item: its identifiers code by code, with up to ``beside`` items under each prefix.

        Such an item shares exactly the codes up to there; ``others`` counts all items that share at least these.
        """
        number = self.shop.item(name)
        titles = self.shop.items
        return {
            "item": titles.item(number, "raw_id"),
            "title": titles.item(number, "title"),
            "categories": titles.item(number, "categories").to_list(),
            "identifiers": {side: self._path(side, number, beside) for side in schema.SIDES},
        }

    def users(self, prefix: str, limit: int) -> list[str]:
        """Return the first ``limit`` raw ids of users that begin with ``prefix``."""
        users = self.shop.users
        return users.filter(users.str.starts_with(prefix)).head(limit).to_list()

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return a user's history, oldest first, as `HistoryEntry` tells it, with titles."""
        return [self._told(entry) for entry in self.shop.history(self.shop.user(name))]

    def _told(self, entry: Entry) -> dict[str, Any]:
        if isinstance(entry.object, str):
            return {"query": entry.object}
        row = self.shop.items.row(entry.object, named=True)
        return {_KINDS[entry.behavior]: row["raw_id"], "title": row["title"]}

    def _codes(self, side: str, item: int) -> list[str]:
        rows = self.identifiers.sides[side]
        return [self.identifiers.tokens[code] for code in rows.values[rows.offsets[item] : rows.offsets[item + 1]]]

    def _path(self, side: str, item: int, beside: int) -> dict[str, Any]:
        shared = shared_codes(self.identifiers.sides[side], item)
        shared[item] = -1
        titles = self.shop.items.select("raw_id", "title")
        path = []
        for depth, code in enumerate(self._codes(side, item), start=1):
            here = np.flatnonzero(shared == depth)[:beside]
            shown = titles[pl.Series(here, dtype=pl.UInt32)].rename({"raw_id": "item"})
            path.append({"code": code, "others": int((shared >= depth).sum()), "beside": shown.to_dicts()})
        return {"moved": bool(self.moved[side][item]), "path": path}
