"""Configure pseudo-queries: a T5 trained to generate the queries that users write for an item text (doc2query)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from gensar_core.config.base import Count, Positive, Rate, Settings, Share
from gensar_core.config.generators import ScratchSize, TrainingSettings


class PseudoQuerySettings(Settings):
    """Configure the stage `pseudo_queries`."""

    backbone: str = "google-t5/t5-small"
    """A hub name or local folder of a T5, or `scratch`; and its tokenizer (`trained`: on this data)."""
    size: ScratchSize = ScratchSize()
    tokenizer: str = "google-t5/t5-small"
    vocabulary_size: Annotated[int, Field(ge=300)] = 8000
    max_item_tokens: Positive = 256
    """Maximum text lengths; texts are cut after the last word that fits."""
    max_query_tokens: Positive = 64
    epochs: Annotated[float, Field(ge=0.0)] = 3.0
    """0 uses the backbone untrained."""
    batch_size: Positive = 256
    batch_tokens: Positive = 16384
    learning_rate: Rate = 1.0e-3
    embedding_rate: Rate = 1.0
    warmup_share: Share = 0.05
    held_out: Share = 0.05
    """Share of the items whose pairs only serve to choose the weights to keep."""
    patience: Positive | None = 3
    queries_per_item: Positive = 1
    """Number of queries sampled for each item, of which distinct ones are kept, and the tokens to sample from: at each
    position the `top_k` most likely (0: all), and of these the fewest that reach the probability `top_p` together."""
    top_k: Count = 10
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95

    @model_validator(mode="after")
    def _something_has_been_learned(self) -> PseudoQuerySettings:
        if not self.epochs and self.backbone == "scratch":
            raise ValueError("epochs: 0 asks the backbone as it is, and one from scratch has learned nothing")
        return self

    def training(self) -> TrainingSettings:
        """Return the settings of the training loop, for use where there is training (`epochs` > 0)."""
        return self.part(TrainingSettings)


class PseudoQueryEntry(PseudoQuerySettings):
    """Configure an entry of `pseudo_queries`."""

    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""
