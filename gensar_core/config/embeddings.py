"""Configure embeddings: the item vectors that identifiers are learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gensar_core.config.base import Name, Positive, Settings


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


EmbeddingSettings = Annotated[TextEmbedding | SequentialEmbedding, Field(discriminator="kind")]
