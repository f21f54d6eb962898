"""Encode item texts and queries as L2-normalized vectors of a sentence-transformers model (stage `embed_text`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.encoder_families import pool_as_family, resolve_model, text_prefixes, transformer_config
from gensar_core.errors import UserError
from gensar_core.runtime.device import autocast, compute_type, pick_device
from gensar_core.runtime.hub import Hub
from gensar_core.runtime.progress import progress
from gensar_core.runtime.shards import Shards
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.tensors import save_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: Families whose position numbers start after the padding token's id, which leaves fewer positions for text.
_POSITIONS_AFTER_PADDING: Final = ("roberta", "xlm-roberta", "camembert", "mpnet")
#: Batches of a shard: a kill loses no more than minutes of work.
_SHARD_BATCHES: Final = 128
#: Texts tokenized at once to measure their lengths.
_TEXTS_AT_ONCE: Final = 1 << 14


def embed_catalogue(
    canonical: Path, output: Path, settings: TextEmbedding, seed: int, checkpoints: Path | None = None
) -> None:
    """Write vectors.safetensors: `items` [n_items, dimensions] and `queries` [n_queries, dimensions], float32.

    ``canonical`` holds items.parquet and queries.parquet. Rows have length 1. An item without text gets the direction
    of the mean of the others; the record counts such items. ``checkpoints`` is a folder for this encoding alone, from
    which a killed run continues to the same bytes. Nothing is drawn at random; ``seed`` is only recorded. Raises
    UserError when the model cannot be loaded, or when no item has text.
    """
    folder = resolve_model(settings.model)
    inputs = [canonical / "items.parquet", canonical / "queries.parquet"]
    inputs += [Path(folder)] if Path(folder).is_dir() else []
    with Stage("embed_text", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id").get_column("text")
        queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id").get_column("text")
        if not _has_text(items).any():
            raise UserError(f"{canonical / 'items.parquet'}: no item has text to embed; use a data set with titles")
        encoder = TextEncoder.load(settings)
        # Vectors differ between devices and between number types.
        shards = Shards(checkpoints, f"{stage.key[:24]}{encoder.numbers}")
        if encoder.max_tokens < settings.max_tokens:
            stage.warn(f"{settings.model} reads at most {encoder.max_tokens} tokens, not {settings.max_tokens}")
        vectors = {
            "items": encoder.encode(items, encoder.item_prefix, "item texts", shards),
            "queries": encoder.encode(queries, encoder.query_prefix, "queries", shards),
        }
        save_vectors(vectors, stage.path("vectors.safetensors"))
        stage.record(
            items=len(items),
            items_without_text=int((~_has_text(items)).sum()),
            distinct_item_texts=items.n_unique(),
            queries=len(queries),
            dimensions=vectors["items"].shape[1],
            max_tokens=encoder.max_tokens,
            query_prefix=encoder.query_prefix,
            item_prefix=encoder.item_prefix,
            numbers=encoder.numbers,
        )
    shards.remove()


@dataclass(frozen=True)
class TextEncoder:
    """Encode texts with a loaded model."""

    model: SentenceTransformer
    query_prefix: str
    item_prefix: str
    max_tokens: int
    batch_size: int

    @classmethod
    def load(cls, settings: TextEmbedding) -> TextEncoder:
        """Load a model by hub name, local folder, or the name of one shipped in an installed package.

        Raises UserError when it cannot be loaded.
        """
        # Its import takes seconds: only processes that load a model pay for it.
        from sentence_transformers import SentenceTransformer

        source = resolve_model(settings.model)
        hub = Hub(source)
        try:
            model = SentenceTransformer(source, device=str(pick_device()), **hub.options)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"embedding model {settings.model!r} cannot be loaded ({hub.reason(error)}); download it while online, "
                "or write the path of a local folder that holds it"
            ) from error
        pool_as_family(model, source)
        model.eval()
        max_tokens = min(settings.max_tokens, _most_tokens(model))
        model.max_seq_length = max_tokens
        query_prefix, item_prefix = text_prefixes(settings, model.prompts)
        return cls(model, query_prefix, item_prefix, max_tokens, settings.batch_size)

    @property
    def numbers(self) -> str:
        """Return the device and the number type it computes with, such as `cuda-bfloat16`."""
        device = self.model.device
        return f"{device.type}-{str(compute_type(device)).removeprefix('torch.')}"

    def encode(self, texts: pl.Series, prefix: str, description: str, shards: Shards | None = None) -> np.ndarray:
        """Encode texts as vectors of length 1, float32 [texts, dimensions]; each distinct text is encoded once.

        Blank texts get the direction of the mean of the other texts' vectors. Rows that ``shards`` hold from an earlier
        run under the same ``description`` are not encoded again.
        """
        distinct = self._longest_first(texts.filter(_has_text(texts)))
        encoded = np.zeros((len(distinct) + 1, self.dimensions), dtype=np.float32)
        self._fill(encoded[:-1], distinct, prefix, description, shards or Shards(None, ""))
        # The last row is the vector of blank texts.
        encoded[-1] = _unit(encoded[:-1].sum(axis=0, dtype=np.float64))
        place = {text: row for row, text in enumerate(distinct)}
        return encoded[[place.get(text, len(distinct)) for text in texts]]

    def _fill(self, rows: np.ndarray, texts: Sequence[str], prefix: str, description: str, shards: Shards) -> None:
        """Encode ``texts`` into ``rows`` [texts, dimensions], batch by batch, starting where the shards end."""
        name, size = description.replace(" ", "-"), self.batch_size
        shard_rows = _SHARD_BATCHES * size
        starts = range(shards.restore(name, rows), len(texts), size)
        done = -(-starts.start // size)
        for start in progress(starts, description, done + len(starts), unit="batch", initial=done):
            stop = min(start + size, len(texts))
            rows[start:stop] = self._encode_batch(texts[start:stop], prefix)
            if stop % shard_rows == 0 or stop == len(texts):
                shard = (stop - 1) // shard_rows
                shards.save(name, shard, rows[shard * shard_rows : stop])

    @functools.cached_property
    def dimensions(self) -> int:
        """Return the length of an encoded vector."""
        return int(self._encode_batch(["text"], "").shape[1])

    def _longest_first(self, texts: pl.Series) -> list[str]:
        """Sort the distinct texts by falling number of tokens: little padding, and lack of memory shows at once."""
        distinct = sorted(set(texts))
        lengths: list[int] = []
        for start in range(0, len(distinct), _TEXTS_AT_ONCE):
            block = distinct[start : start + _TEXTS_AT_ONCE]
            if callable(self.model.tokenizer):
                encoded = self.model.tokenizer(block, truncation=True, max_length=self.max_tokens)
                lengths += map(len, encoded["input_ids"])
            else:
                lengths += map(len, block)
        return [distinct[row] for row in np.argsort(-np.array(lengths, dtype=np.int64), kind="stable")]

    def _encode_batch(self, texts: Sequence[str], prefix: str) -> np.ndarray:
        with torch.inference_mode(), autocast(self.model.device):
            # Put the prefix into the text, so that the model's own prompt is never added to it.
            vectors = self.model.encode(
                [prefix + text for text in texts],
                prompt="",
                batch_size=self.batch_size,
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        # Normalize in float32, whatever number type the model computes with.
        unit: np.ndarray = torch.nn.functional.normalize(vectors.float(), dim=1).cpu().numpy()
        return unit


def _most_tokens(model: SentenceTransformer) -> int:
    """Return the number of tokens the model has positions for."""
    config = transformer_config(model)
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return 2**31
    if getattr(config, "model_type", "") in _POSITIONS_AFTER_PADDING:
        positions -= (getattr(config, "pad_token_id", None) or 0) + 1
    return positions


def _has_text(texts: pl.Series) -> pl.Series:
    return texts.str.strip_chars().str.len_bytes() > 0


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / max(float(np.linalg.norm(vector)), float(np.finfo(np.float32).tiny))
    return unit
