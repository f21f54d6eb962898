"""Rank by CoPPS: TEM, regularized by contrasting views of the histories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch.nn import functional

from gensar_core import schema
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.methods.tem import TEM, TEMModel, TEMSettings
from gensar_core.baselines.shared.product_search import ItemSequences
from gensar_core.baselines.shared.sequence_views import Substitutes, altered
from gensar_core.baselines.shared.target_ranking import RankedMethod, RowSet, TrainingSet
from gensar_core.config.base import Rate
from gensar_core.config.search_spaces import Between
from gensar_core.nn.contrastive import nt_xent
from gensar_core.runtime.arrays import stretches
from gensar_core.runtime.device import send
from gensar_core.runtime.seeds import generator
from gensar_core.runtime.sorting import Groups


class CoPPSSettings(TEMSettings):
    """Hold the settings of the contrasts, on top of TEM's."""

    contrast_weight: Annotated[float, Field(ge=0.0), Between(1.0e-2, 1.0, log=True)] = 0.1
    """Weight of the mean of the three contrasts, and the temperature that divides their cosines."""
    contrast_temperature: Rate = 0.1


class CoPPSModel(TEMModel):
    """Run TEM over items joined with the queries that led to them, and encode histories for the contrasts."""

    reads_past_queries = True

    def __init__(self, data: MethodData, settings: CoPPSSettings) -> None:
        super().__init__(data, settings)
        size = settings.dimensions
        self.found_by = torch.nn.Linear(size, size, bias=False)
        self.user = torch.nn.Parameter(torch.randn(size) * 0.02)
        #: Vector in place of an item hidden by a view; its item number is n_items.
        self.hidden = torch.nn.Parameter(torch.randn(1, size) * 0.02)
        self.contrasted = torch.nn.Sequential(torch.nn.Linear(size, size), torch.nn.ReLU(), torch.nn.Linear(size, size))

    def tokens(self, clicked: ItemSequences) -> torch.Tensor:
        """Return vectors [rows, width, dimensions] of the user's items, each plus its query's vector if it has one."""
        vectors = functional.embedding(clicked.items, torch.cat([self.item_vectors(), self.hidden]))
        searched = clicked.queries >= 0
        query_vectors: torch.Tensor = self.found_by(self.queries(clicked.queries.clamp(min=0)))
        return vectors + query_vectors * searched[:, :, None]

    def histories(self, clicked: ItemSequences) -> torch.Tensor:
        """Return vectors [rows, dimensions] of length 1 of users' clicks, independent of the current query."""
        users = self.user.expand(len(clicked.items), -1)
        return functional.normalize(self.contrasted(self.encode(users, self.tokens(clicked), clicked.present)), dim=1)


class CoPPS(TEM):
    """Rank by CoPPS (Dai et al., 2023), reconstructed from its abstract: no code is public. Label its table rows so.

    The abstract has a ranker whose reading of histories is regularized by three contrasts: by a knowledge graph,
    within a user's sequence, and between users' sequences. Our choices: the ranker is TEM, whose items carry the
    queries that led to them; the graph links brands and leaf categories, and two views replace items by others of their
    brand; within a sequence, two views are cropped, masked or shuffled; between users, two histories that end in the
    same query and item (failing that, leaf category) form a pair.

    Histories are contrasted without the current query, which would make all rows of one query alike; views of one user
    or one target are not negatives of each other; vectors have length 1; ranking reads the unaltered histories.
    """

    paper = "Dai et al.: Contrastive Learning for User Sequence Representation in Personalized Product Search. KDD 2023"
    inputs = ("clicks", "searches", "words", "attributes", "training_negatives")
    settings_model = CoPPSSettings
    module_class = CoPPSModel

    def training_set(self, task: str) -> TrainingSet:
        """Return the train rows of a task, with contrasts."""
        rows = super().training_set(task)
        assert isinstance(rows, RowSet)
        return _Contrasting(self, rows)


class _Contrasting:
    """Train on rows by the ranking loss and the three contrasts."""

    def __init__(self, method: RankedMethod[Any], rows: RowSet) -> None:
        self.method = method
        self.rows = rows
        items = schema.ITEMS.read(method.data.canonical / "items.parquet").sort("item_id")
        brand, leaf = brands_and_leaves(items)
        # Cold items are in no group, and so no substitutes.
        warm = ~method.data.cold
        self.substitutes = Substitutes.of(brand * warm, leaf * warm)
        train, folder = rows.train, method.data.samples_folder
        self.partners = Partners(train.rows.users, train.rows.queries, train.targets, leaf, method.seed, folder)

    def __len__(self) -> int:
        return len(self.rows)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of these rows' histories."""
        return self.rows.lengths_of(rows)

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """Return the ranking loss and the weighted mean of the contrasts."""
        losses = self.rows.losses(rows, step)
        weight = self.method.settings.contrast_weight
        if not weight:
            return losses
        return {**losses, "contrast": weight * torch.stack(self._contrasts(rows, step)).mean()}

    def _contrasts(self, rows: np.ndarray, step: int) -> list[torch.Tensor]:
        model: Any = self.method.module
        clicked = self._clicked(rows)
        partners = self.partners.draw(rows, step)
        others = self._clicked(np.where(partners < 0, rows, partners))
        hidden = model.items.num_embeddings
        paired = send(partners >= 0, clicked.items.device)
        pairs = (
            (self.substitutes(clicked), self.substitutes(clicked), rows, None),
            (altered(clicked, hidden), altered(clicked, hidden), rows, None),
            (clicked, others, partners, paired),
        )
        return [self._contrast(rows, *pair) for pair in pairs]

    def _contrast(
        self, rows: np.ndarray, one: ItemSequences, other: ItemSequences, others: np.ndarray, use: torch.Tensor | None
    ) -> torch.Tensor:
        """Contrast view ``one`` of each of ``rows`` with view ``other``, which belongs to the rows ``others``."""
        model: Any = self.method.module
        users, targets = self.rows.train.rows.users, self.rows.train.targets
        keep = one.present.any(dim=1) & other.present.any(dim=1)
        keep = keep if use is None else keep & use
        rows_used = keep.cpu().numpy()
        both = np.concatenate([rows[rows_used], others[rows_used]])
        vectors = torch.cat([model.histories(one), model.histories(other)])[keep.repeat(2)]
        alike = (users[both][:, None] == users[both]) | (targets[both][:, None] == targets[both])
        alike_there = send(alike, vectors.device)
        return contrast(vectors, alike_there, self.method.settings.contrast_temperature)

    def _clicked(self, rows: np.ndarray) -> ItemSequences:
        device = next(self.method.module.parameters()).device
        history = self.rows.train.rows.histories.take(rows).padded(device)
        return ItemSequences.from_history(history, self.method.settings.max_items)


def contrast(vectors: torch.Tensor, alike: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute ``nt_xent`` of views [2 n, dimensions] of length 1, with their inner products; zero when n is 0."""
    if not len(vectors):
        return vectors.sum()
    return nt_xent(vectors @ vectors.T / temperature, alike)


class Partners:
    """Pair each train row with another user's row of the same query and item; failing that, query and leaf category.

    Rows are grouped on the disk of ``folder``.
    """

    def __init__(
        self, users: np.ndarray, queries: np.ndarray, targets: np.ndarray, leaf: np.ndarray, seed: int, folder: Path
    ) -> None:
        self.users, self.queries, self.targets, self.leaf = users, queries, targets, leaf
        self.seed = seed
        self.width = max(int(targets.max(initial=0)), int(leaf.max(initial=0))) + 1
        self.groups = [
            Groups.of((self._codes(rows)[place] for rows in stretches(len(users))), folder) for place in range(2)
        ]

    def draw(self, rows: np.ndarray, step: int) -> np.ndarray:
        """Draw a partner for each row, int64 [rows]; -1 where both draws hit the same user."""
        rng = generator(self.seed, "partners", step)
        partners = np.full(len(rows), -1, dtype=np.int64)
        for groups, codes in zip(self.groups, self._codes(rows), strict=True):
            start, size = groups.spans(codes)
            drawn = groups.rows[start + (rng.random(len(rows)) * size).astype(np.int64)]
            partners = np.where((partners < 0) & (self.users[drawn] != self.users[rows]), drawn, partners)
        return partners

    def _codes(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a code of each row's query and item, and one of its query and leaf category."""
        first, targets = self.queries[rows] * self.width, self.targets[rows]
        return first + targets, first + self.leaf[targets]


def brands_and_leaves(items: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Encode each item's brand and the leaf category of its first path as numbers [n_items], 0 for none."""
    leaves = items.get_column("categories").list.first().list.last().fill_null("")
    return _numbered(items.get_column("brand")), _numbered(leaves)


def _numbered(names: pl.Series) -> np.ndarray:
    distinct = sorted(set(names) - {""})
    numbers = {"": 0, **{name: number for number, name in enumerate(distinct, 1)}}
    return np.array([numbers[name] for name in names], dtype=np.int64)


METHOD = CoPPS
