"""Settings of embeddings: vectors of items that the identifiers are learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gensar_core.config.base import Name, Positive, Settings


class TextEmbedding(Settings):
    """A sentence-transformers model over item texts and queries, L2-normalized (stage `embed_text`)."""

    kind: Literal["text"]
    #: A hub name, a local folder, or the name of a model that an installed package carries (all-MiniLM-L6-v2).
    model: str
    max_tokens: Positive = 256
    batch_size: Positive = 32
    #: Put before each query and each item text; null takes what the model's own configuration or family asks for.
    query_prefix: str | None = None
    item_prefix: str | None = None


class SequentialEmbedding(Settings):
    """The item vectors of a trained ranking method (stage `embed_sequential`)."""

    kind: Literal["sequential"]
    #: An entry of `methods` that learns item vectors.
    method: Name


EmbeddingSettings = Annotated[TextEmbedding | SequentialEmbedding, Field(discriminator="kind")]
