"""QEM: items by the query's words alone, for every user alike."""

from __future__ import annotations

import torch

from gensar_core.baselines.product_search import SearchMethod, SearchModel, SearchSettings
from gensar_core.baselines.rows import RowBatch


class QEMModel(SearchModel):
    """A query's vector is what is asked for."""

    def requests(self, batch: RowBatch) -> torch.Tensor:
        """Vectors [rows, dimensions] of the queries."""
        return self.queries(batch.queries)


class QEM(SearchMethod[SearchSettings]):
    """The query embedding model of Ai et al., 2019."""

    paper = "Ai et al.: A Zero Attention Model for Personalized Product Search. CIKM 2019"
    inputs = ("searches", "words", "training_negatives")
    settings_model = SearchSettings

    def build(self) -> QEMModel:
        """An untrained model."""
        return QEMModel(self.data, self.settings)


METHOD = QEM
