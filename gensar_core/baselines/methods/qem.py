"""Rank by QEM: items by the query's words alone, the same for every user."""

from __future__ import annotations

import torch

from gensar_core.baselines.shared.product_search import SearchMethod, SearchModel, SearchSettings
from gensar_core.baselines.shared.target_rows import RowBatch


class QEMModel(SearchModel):
    """Encode a request as its query's vector."""

    def requests(self, batch: RowBatch) -> torch.Tensor:
        """Return the vectors [rows, dimensions] of the queries."""
        return self.queries(batch.queries)


class QEM(SearchMethod[SearchSettings]):
    """Rank by the query embedding model of Ai et al., 2019, as in the code of Bi et al., 2020.

    The query's vector is tanh(W mean of word vectors + b), the score its inner product with the item's vector plus the
    item's bias: without the bias, and in few epochs, a model trained on so few queries ranks worse than counting
    clicks.

    Deviations: the loss is a softmax over the catalogue, which learns p(item | query), and each query has a learned
    vector beside its words'; without ``catalogue_softmax`` and ``query_vectors`` the loss is the binary one over the
    stored BM25 negatives (the mean over a row's candidates, not their sum; the paper draws five uniformly:
    ``stored_negatives: false, sampled_negatives: 5, popularity_power: 0.0``). Vectors start at a standard deviation of
    0.05, not 1, which would make logits huge. The paragraph-vector loss over review texts is left out: samples hold no
    reviews, and the comparison is of ids. With ``item_vectors`` a projection of text vectors replaces the items'
    learned vectors, or is added to them.
    """

    paper = "Ai et al.: A Zero Attention Model for Personalized Product Search. CIKM 2019"
    inputs = ("searches", "words", "training_negatives")
    settings_model = SearchSettings
    module_class = QEMModel


METHOD = QEM
