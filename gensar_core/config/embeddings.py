"""Configure embeddings: the item vectors that identifiers are learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gensar_core.config.base import Count, Name, Positive, Rate, Settings, Share


class TextEmbedding(Settings):
    """Encode item texts and queries with a sentence-transformers model, L2-normalized (stage `embed_text`)."""

    kind: Literal["text"]
    model: str
    """A hub name, a local folder, or the name of a model that an installed package contains (all-MiniLM-L6-v2)."""
    max_tokens: Positive = 256
    batch_size: Positive = 32
    query_prefix: str | None = None
    """Prefixes of each query and each item text; null uses those of the model's own configuration or family."""
    item_prefix: str | None = None


class SequentialEmbedding(Settings):
    """Take the item vectors of a trained ranking method (stage `embed_sequential`)."""

    kind: Literal["sequential"]
    method: Name
    """Entry of `methods` that learns item vectors."""


class TrainedTextSettings(Settings):
    """Configure the stage `embed_trained_text`: a text embedding trained on the clicks of both tasks."""

    train: Literal["head", "encoder"] = "head"
    """head: linear maps of the text embedding's vectors, one of queries and one of items; encoder: the whole text
    encoder, which wants a GPU and a `learning_rate` about 2.0e-5."""
    max_tokens: Positive | None = None
    """Tokens of a text read in training an encoder; null: the text embedding's own limit."""
    temperature: Rate = 0.02
    """Divisor of the cosines."""
    batch_size: Positive = 256
    """Pairs per step; each pair's negatives are the items of all of them."""
    learning_rate: Rate = 4.0e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.1
    gradient_clip: Rate = 1.0
    epochs: Positive = 8
    patience: Positive = 3
    """Stop after this many epochs without a gain on the valid targets."""


class TrainedTextEmbedding(TrainedTextSettings):
    """Train a text embedding on both tasks, for one space of identifiers (Penha et al., 2025)."""

    kind: Literal["trained_text"]
    text: Name
    """Entry of `embeddings` of kind text."""
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""


EmbeddingSettings = Annotated[TextEmbedding | SequentialEmbedding | TrainedTextEmbedding, Field(discriminator="kind")]
