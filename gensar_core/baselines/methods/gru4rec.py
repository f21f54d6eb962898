"""Recommend by GRU4Rec: a recurrent network over a user's recommendation clicks.

Hidasi, Karatzoglou, Baltrunas and Tikk: Session-based Recommendations with Recurrent Neural Networks. ICLR 2016, with
the losses of Hidasi and Karatzoglou: Recurrent Neural Networks with Top-k Gains. CIKM 2018 (`sampled_softmax` is their
cross-entropy; `bpr_max` takes its softmax over the negatives alone). Inputs and outputs share one set of item vectors,
their "constrained" form, plus a bias per item.

Deviations, all deliberate:
- A row is a whole user sequence, or one of its prefixes, and gradients flow through all of it. The authors run sessions
  in parallel slots, keep the state across steps and cut its gradient, so theirs flow through one step; here each row
  begins from zero.
- Adam. Their Adagrad with momentum on sparse rows takes about a hundred times the learning rate.
- Negatives are drawn samples alone, not the batch's other targets; each copy that equals the target is masked out,
  where their diagonal masks one copy. No correction by log q, and no ELU on the scores of `bpr_max`.
- Rows are padded at the end, so no state that is read follows padding.
"""

from __future__ import annotations

from typing import Annotated

import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequence_encoder import SequenceEncoder
from gensar_core.baselines.shared.sequential_recommender import CausalRecommender, CausalSettings
from gensar_core.config.base import Positive
from gensar_core.config.search_spaces import Among
from gensar_core.nn.dropout import Dropout


class GRU4RecSettings(CausalSettings):
    """Hold the sizes of the network, on top of the settings of all causal methods."""

    layers: Annotated[Positive, Among((1, 2))] = 1


class GRU4RecEncoder(SequenceEncoder):
    """Encode item vectors by gated recurrent layers of the same size."""

    def __init__(self, data: MethodData, settings: GRU4RecSettings) -> None:
        size = settings.dimensions
        super().__init__(data.n_items, size, bias=True)
        self.dropout = Dropout(settings.dropout)
        self.layers = torch.nn.ModuleList(torch.nn.GRU(size, size, batch_first=True) for _ in range(settings.layers))
        torch.nn.init.normal_(self.items.weight, std=size**-0.5)
        for name, weight in self.layers.named_parameters():
            if "bias" in name:
                torch.nn.init.zeros_(weight)
                continue
            # Each gate is a separate matrix, initialized within sqrt(6 / (fan in + fan out)).
            for gate in weight.detach().chunk(3):
                torch.nn.init.xavier_uniform_(gate)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return the states [rows, width, dimensions] after each of the items int64 [rows, width]."""
        states: torch.Tensor = self.dropout(self.items(items))
        for layer in self.layers:
            states = self.dropout(layer(states)[0])
        return states


class GRU4Rec(CausalRecommender[GRU4RecSettings]):
    """Recommend by GRU4Rec (Hidasi et al., 2016; Hidasi and Karatzoglou, 2018)."""

    paper = "Hidasi et al.: Session-based Recommendations with Recurrent Neural Networks. ICLR 2016"
    settings_model = GRU4RecSettings
    module_class = GRU4RecEncoder


METHOD = GRU4Rec
