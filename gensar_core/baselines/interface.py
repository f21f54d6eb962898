"""Define the interface of ranking methods: one class in one file of methods/, looked up by the file's name."""

from __future__ import annotations

import abc
import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.base import Settings
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.tensors import load_vectors
from gensar_core.samples.cold_items import mark_cold_items

S = TypeVar("S", bound=Settings)

#: The folder of the method files; it holds nothing else.
_METHODS = Path(__file__).parent / "methods"

#: The data that a method may read for training or ranking.
INPUTS: Final = {
    "clicks": "recommendation clicks of users",
    "searches": "queries of users and the clicks after them",
    "words": "words of queries, and of items where the method says so",
    "texts": "texts of items and queries",
    "vectors": "vectors of these texts, from the encoder that the entry's `embedding` names",
    "attributes": "brands and categories of items",
    "training_negatives": "the stored negatives of train targets",
}


@dataclass(frozen=True)
class MethodData:
    """Hold everything a method may see of a data set: canonical tables, samples, and at most one text embedding.

    ``training_negatives`` is the path of the table, for methods that list it among their inputs; ``cold_items`` is that
    of the items that are held out of training, where the data set has some.
    """

    canonical: Path
    samples_folder: Path
    embedding: Path | None = None
    training_negatives: Path | None = None
    cold_items: Path | None = None

    @functools.cached_property
    def n_items(self) -> int:
        """Return the number of items; ids are 0 to n_items - 1."""
        return pl.scan_parquet(self.canonical / "items.parquet").select(pl.len()).collect().item()  # type: ignore[no-any-return]

    @functools.cached_property
    def cold(self) -> np.ndarray:
        """Mark the items that are held out of training, bool [n_items]: no loss may set a target against them."""
        return mark_cold_items(self.cold_items, self.n_items)

    @functools.cached_property
    def n_queries(self) -> int:
        """Return the number of queries."""
        return pl.scan_parquet(self.canonical / "queries.parquet").select(pl.len()).collect().item()  # type: ignore[no-any-return]

    @functools.cached_property
    def n_users(self) -> int:
        """Return the number of users."""
        return pl.scan_parquet(self.canonical / "users.parquet").select(pl.len()).collect().item()  # type: ignore[no-any-return]

    @property
    def events_file(self) -> Path:
        """Return the file of the events that training may use (table `events`), to be read part by part.

        They include no valid or test target.
        """
        return self.samples_folder / "training_events.parquet"

    @property
    def negatives_file(self) -> Path:
        """Return the file of the stored negatives of train samples. Raises UserError when there is none."""
        if self.training_negatives is None:
            raise UserError("this method trains on stored negatives: give it the table training_negatives")
        return self.training_negatives

    def clicks(self, task: str) -> np.ndarray:
        """Count the training clicks of one task on each item, int64 [n_items]."""
        counts = np.zeros(self.n_items, dtype=np.int64)
        for part in table_parts(self.events_file, schema.EVENTS, columns=("task", "item_id")):
            np.add.at(counts, part.filter(pl.col("task") == task).get_column("item_id").to_numpy(), 1)
        return counts

    def vectors(self, name: str) -> np.ndarray:
        """Return a matrix of the text embedding: `items` or `queries`, float32 [rows, dimensions]."""
        if self.embedding is None:
            raise UserError("this method ranks with text vectors: name an embedding under its key 'embedding'")
        return load_vectors(self.embedding, name)


class Method(abc.ABC, Generic[S]):
    """Rank candidates: fit once on a data set, then score candidate lists.

    A file of methods/ defines one subclass and binds it to ``METHOD``. ``tasks`` lists the tasks it ranks, ``inputs``
    what it reads (keys of ``INPUTS``), ``paper`` is its source, and ``seeded`` says whether the seed may change its
    scores. ``scores_cold_items`` says whether an item that training never showed gets a score of its own without an
    `embedding`; with one, it has a vector.
    """

    tasks: ClassVar[tuple[str, ...]]
    inputs: ClassVar[tuple[str, ...]]
    paper: ClassVar[str]
    settings_model: ClassVar[type[Settings]]
    seeded: ClassVar[bool] = True
    scores_cold_items: ClassVar[bool] = False

    def __init__(self, settings: S, data: MethodData, seed: int) -> None:
        self.settings = settings
        self.data = data
        self.seed = seed
        #: Messages for the user about the fit that are not errors; `fit` appends them, and the stage records them.
        self.warnings: list[str] = []

    @abc.abstractmethod
    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Learn from the training split, selecting on valid. Returns counts and metrics for the stage's record.

        ``checkpoints`` and ``key`` are passed on to `training.loop.train`.
        """

    @abc.abstractmethod
    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return the candidates' scores, float [rows, width], higher is better; empty slots take any finite value."""

    def score_catalogue(self, samples: pl.DataFrame) -> np.ndarray:
        """Return the scores of all items for each sample (table `samples`), float [rows, n_items], higher is better.

        By default all items are scored as candidates; override this where a method can score the whole catalogue at
        once.
        """
        items = np.tile(np.arange(self.data.n_items, dtype=np.int32), (len(samples), 1))
        return self.score(CandidateLists(samples, items))

    def save(self, folder: Path) -> None:
        """Write what ``load`` needs into an existing folder; a method that learns nothing writes nothing."""

    def load(self, folder: Path) -> None:
        """Restore the fitted method saved in ``folder``."""

    def item_vectors(self) -> ItemVectors | None:
        """Return the learned item vectors if identifiers can be built from them, else None."""
        return None


def kinds() -> list[str]:
    """List all methods by the names of their files, sorted."""
    return sorted(file.stem for file in _METHODS.glob("*.py") if file.stem != "__init__")


def find(kind: str, where: str = "methods") -> type[Method[Any]]:
    """Return the class of a method. Raises UserError when no file has that name."""
    if kind not in kinds():
        raise UserError(f"{where}: no method {kind!r} (there: {', '.join(kinds())})")
    method: type[Method[Any]] = importlib.import_module(f"gensar_core.baselines.methods.{kind}").METHOD
    return method
