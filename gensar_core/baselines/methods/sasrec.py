"""Recommend by SASRec: causal self-attention over a user's recommendation clicks.

Kang and McAuley: Self-Attentive Sequential Recommendation. ICDM 2018. As published it is trained with one binary
negative per position (`loss: bce`, negatives uniform over what the user has not clicked in training). With a softmax
over many negatives (`softmax`, `sampled_softmax`) or with gBCE it is a much stronger method, and stronger again with
each prefix as a row (`rows: prefixes`), so tables show both forms. One sequence per user, as published, makes epochs
short: without a softmax it takes hundreds of them.

Deviations, all deliberate:
- Ordinary pre-norm blocks. The paper normalizes the query alone and adds the normalized input; the two train alike.
- Rows are padded at the end and positions count from a row's first item; the paper pads in front and counts slots from
  the left. The causal mask alone then keeps padding out of every state, and no attention row is fully masked, which is
  where left padding produces NaN.
- Item vectors start from N(0, 0.02), so that the factor sqrt(dimensions) on inputs does not make logits explode.
- Sequences longer than `max_history` are cut into windows, so their beginnings are trained on as well.
- With `item_vectors: text` a projection of frozen text vectors replaces id vectors, as input and as output (the GenSAR
  paper, Figure 1b, reduces BGE vectors to the dimensions of ids).
- Candidates are drawn by popularity but the negatives of `bce` uniformly; this lowers its HR@1, and is left as it is.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.sequence_encoder import SequenceEncoder
from gensar_core.baselines.shared.sequential_recommender import CausalRecommender, CausalSettings
from gensar_core.baselines.shared.text_item_vectors import TextItems
from gensar_core.baselines.shared.trained_method import heads_divide_dimensions
from gensar_core.config.base import Positive, Rate
from gensar_core.config.search_spaces import Among
from gensar_core.nn.attention import Pointwise, SelfAttention
from gensar_core.nn.dropout import Dropout


class SASRecSettings(CausalSettings):
    """Hold the sizes of the encoder, on top of the settings of all causal methods."""

    blocks: Annotated[Positive, Among((1, 2, 3))] = 2
    heads: Positive = 1
    initial_std: Rate | None = None
    """Standard deviation of initial matrices; null: Xavier's, which is larger, as published. Blocks that add hardly
    anything at first learn faster with prefixes as rows (docs/tuning.md)."""
    item_vectors: Literal["id", "text"] = "id"
    """Source of an item's vector. id: learned for each item; text: a learned projection of the item's text vector from
    the entry's `embedding`."""

    _heads_divide_dimensions = heads_divide_dimensions()


class SASRecBlock(torch.nn.Module):
    """Apply self-attention, then a point-wise network; normalize before each and add it to its input."""

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = torch.nn.LayerNorm(dimensions)
        self.attention = SelfAttention(dimensions, heads, dropout)
        self.before_pointwise = torch.nn.LayerNorm(dimensions)
        self.pointwise = Pointwise(dimensions, dimensions, torch.nn.ReLU(), dropout)
        self.dropout = Dropout(dropout)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        states = states + self.dropout(self.attention(self.before_attention(states)))
        added: torch.Tensor = self.dropout(self.pointwise(self.before_pointwise(states)))
        return states + added


class SASRecEncoder(SequenceEncoder):
    """Encode item and position vectors by blocks and a last normalization."""

    def __init__(self, data: MethodData, settings: SASRecSettings) -> None:
        super().__init__(data.n_items, settings.dimensions)
        size = settings.dimensions
        if settings.item_vectors == "text":
            self.items = TextItems(data, size)
        self.positions = torch.nn.Embedding(settings.max_history, size)
        self.dropout = Dropout(settings.dropout)
        self.blocks = torch.nn.ModuleList(
            SASRecBlock(size, settings.heads, settings.dropout) for _ in range(settings.blocks)
        )
        self.normalization = torch.nn.LayerNorm(size)
        for module in self.modules():
            if isinstance(module, torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, torch.nn.Linear):
                if settings.initial_std is None:
                    torch.nn.init.xavier_uniform_(module.weight)
                else:
                    torch.nn.init.normal_(module.weight, std=settings.initial_std)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        """Return the states [rows, width, dimensions] after each of the items int64 [rows, width]."""
        scale = self.items.embedding_dim**0.5
        states = self.dropout(self.items(items) * scale + self.positions.weight[: items.shape[1]])
        for block in self.blocks:
            states = block(states)
        normalized: torch.Tensor = self.normalization(states)
        return normalized


class SASRec(CausalRecommender[SASRecSettings]):
    """Recommend by SASRec (Kang and McAuley, 2018).

    By default a softmax over many negatives replaces the one binary negative.
    """

    paper = "Kang and McAuley: Self-Attentive Sequential Recommendation. ICDM 2018"
    settings_model = SASRecSettings
    module_class = SASRecEncoder


METHOD = SASRec
