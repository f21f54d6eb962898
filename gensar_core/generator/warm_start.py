"""Initialize a model from scratch so that similar tokens are alike and answers resemble the prompt.

A small model spends most of a short training on learning what its tokens mean and that a user's next item is like the
last ones. Both are known in advance. Token meanings come from the items' embeddings (see `token_vectors`). The likeness
to the prompt is written into the cross-attention of a T5's decoder, whose value and output maps start as one rotation
and its inverse. Its even attention then adds the mean of the prompt to the decoder's state, and the output matrix, tied
to the embeddings, reads from that state the tokens similar to those of the prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch

from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.tensors import load_vectors
from gensar_core.schema import SIDES

#: Share of an embedding's variance that comes from the token's vector; the rest stays random and separates tokens with
#: equal vectors.
_SHARE: Final = 0.8
#: Entries beyond this many standard deviations of their level are clipped.
_LARGEST: Final = 3.0
#: Strength with which each decoder layer adds the mean of the prompt.
_COPYING: Final = 2.0


def warm_start(model: Backbone, token_vectors: Path, seed: int) -> None:
    """Overwrite token embeddings and cross-attention maps of a new T5; see `warm_embeddings`."""
    warm_embeddings(model.shared.weight.data, token_vectors, seed)
    for number, block in enumerate(model.decoder.block):
        attention = block.layer[1].EncDecAttention
        inner, width = attention.v.weight.shape
        rotation = _orthogonal(max(inner, width), seed, "copying", number)[:inner, :width]
        attention.v.weight.data.copy_(rotation)
        attention.o.weight.data.copy_(_COPYING * rotation.T)


def warm_embeddings(embeddings: torch.Tensor, token_vectors: Path, seed: int) -> None:
    """Overwrite new token embeddings [vocabulary, d] of unit variance; ``token_vectors`` is the file of that stage.

    The sides share the model's width evenly, each with its first principal components, and are rotated together at
    random. Words take the scale of T5's own embeddings. So do codes, with one factor for all levels: the tokens of an
    identifier still add up to its item. Raises UserError if the file has another vocabulary.
    """
    vectors, groups = _load(token_vectors, len(embeddings), embeddings.shape[1])
    turned = torch.from_numpy(vectors).to(embeddings.dtype) @ _orthogonal(embeddings.shape[1], seed, "embeddings")
    for tokens in (groups == 0, groups > 0):
        scale = _size(turned[torch.from_numpy(tokens)])
        for group in np.unique(groups[tokens]):
            rows = torch.from_numpy(np.flatnonzero(groups == group))
            if _size(turned[rows]) > 0:
                embeddings[rows] = _meaning(turned[rows], scale) + (1.0 - _SHARE) ** 0.5 * embeddings[rows]


def warm_items(codes: np.ndarray, token_vectors: Path, vocabulary: int, width: int, seed: int) -> torch.Tensor:
    """Return what the items' codes leave over of the items' own vectors, [n_items, width].

    ``codes`` int [n_items, longest] are the tokens of each identifier, -1 past its last. In the space and the scale of
    `warm_embeddings`, the embeddings of an item's codes and this vector add up to the item.
    """
    vectors, groups = _load(token_vectors, vocabulary, width)
    left_over = _joined(token_vectors, "_items", width)
    for column in codes.T:
        left_over -= np.where(column[:, None] >= 0, vectors[column], 0.0)
    rotation = _orthogonal(width, seed, "embeddings")
    turned, of_codes = (torch.from_numpy(rows).to(rotation.dtype) @ rotation for rows in (left_over, vectors))
    return _meaning(turned, _size(of_codes[torch.from_numpy(groups > 0)]))


def _meaning(rows: torch.Tensor, scale: float) -> torch.Tensor:
    """Divide vectors by ``scale``, clip their largest entries, and take their share of an embedding."""
    largest = _LARGEST * _size(rows)
    share: torch.Tensor = rows.clamp(-largest, largest) * (_SHARE**0.5 / scale)
    return share


def _size(rows: torch.Tensor) -> float:
    """Compute the root mean square of all entries."""
    return float(rows.square().mean().sqrt())


def _load(path: Path, vocabulary: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Load token vectors [vocabulary, width] and groups [vocabulary]."""
    groups = load_vectors(path, "groups")[:, 0].astype(np.int64)
    if len(groups) != vocabulary:
        raise UserError(f"{path}: has {len(groups)} tokens, the model {vocabulary}; build it from the model's corpus")
    return _joined(path, "", width), groups


def _joined(path: Path, kind: str, width: int) -> np.ndarray:
    """Put the first columns of both sides' matrices of a kind side by side, [rows, width]."""
    sides = [load_vectors(path, f"{side}{kind}") for side in SIDES if _holds(path, side)]
    room = np.diff(np.linspace(0, width, len(sides) + 1).astype(int))
    vectors = np.zeros((len(sides[0]), width))
    start = 0
    for side, columns in zip(sides, room, strict=True):
        components = min(columns, side.shape[1])
        vectors[:, start : start + components] = side[:, :components]
        start += columns
    return vectors


def _holds(path: Path, name: str) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as stored:
        return name in stored.keys()  # noqa: SIM118


def _orthogonal(size: int, seed: int, *purpose: str | int) -> torch.Tensor:
    """Draw a random orthogonal matrix [size, size]."""
    draw = torch.Generator().manual_seed(derive_seed(seed, "warm start", *purpose))
    rotation: torch.Tensor = torch.linalg.qr(torch.randn((size, size), generator=draw))[0]
    return rotation
