"""Rank by JSR: one set of item vectors for two scorers, by user and by query, trained together.

As described by Zamani and Croft (2018), with these differences:

- Items have learned vectors; the paper makes them from the words of descriptions (`jsr2020` reads titles).
- The networks over products have three layers: d, d / 2, 1.
- Losses and negatives are those of all methods trained on rows, not a pairwise hinge loss.
- A user without a training row gets the mean of the others' vectors.
"""

from __future__ import annotations

import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.query_words import QueryWords, query_word_numbers
from gensar_core.baselines.shared.scoring_tower import Tower
from gensar_core.baselines.shared.target_model import JointSettings, RowModel
from gensar_core.baselines.shared.target_ranking import JointMethod
from gensar_core.baselines.shared.target_rows import RowBatch
from gensar_core.config.base import Count, Positive
from gensar_core.nn.attention import on_distinct, xavier


class JSRSettings(JointSettings):
    """Hold sizes and weights, on top of the settings of all methods trained on rows."""

    max_recommendations: Count = 0
    max_searches: Count = 0
    max_query_words: Positive = 50


class JSRModel(RowModel):
    """Score products of item vectors with user or query vectors."""

    def __init__(self, data: MethodData, settings: JSRSettings) -> None:
        size = settings.dimensions
        super().__init__(data, size, size)
        self.words = QueryWords(*query_word_numbers(data, settings.max_query_words), size, weighted=True)
        widths = (size, size, size // 2)
        self.scorers = torch.nn.ModuleDict({task: Tower(widths, settings.dropout) for task in ("rec", "search")})
        xavier(self)
        if self.words.weights is not None:
            torch.nn.init.zeros_(self.words.weights.weight)

    def forward(self, batch: RowBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the candidates' logits."""
        assert self.users is not None
        inputs = self.users(batch.users) if batch.task == "rec" else on_distinct(self.words, batch.queries)
        logits: torch.Tensor = self.scorers[batch.task](inputs[:, None] * self.items(batch.candidates))
        return logits.squeeze(-1), {}


class JSR(JointMethod[JSRSettings]):
    """Rank by JSR (Zamani and Croft, 2018)."""

    inputs = ("clicks", "searches", "words", "training_negatives")
    paper = "Zamani and Croft: Joint Modeling and Optimization of Search and Recommendation. DESIRES 2018"
    settings_model = JSRSettings
    module_class = JSRModel


METHOD = JSR
