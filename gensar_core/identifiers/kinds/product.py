"""Quantize equal parts of a vector on their own: WebUltron's identifiers by product quantization (24 parts x 256).

A product quantizer is a residual quantizer whose codebooks are zero outside of their parts: no level touches what
another quantizes. So the unique assignment of `identifiers.unique` applies as it is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch

from gensar_core.config.identifiers import ProductSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import occurrence
from gensar_core.identifiers.initialize import kmeans
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.quality import code_use, collision_rate
from gensar_core.identifiers.quantizer import LETTERS, code_rows, read_sides
from gensar_core.identifiers.table import Scheme
from gensar_core.identifiers.unique import check_room, unique_codes
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.tensors import save_vectors
from gensar_core.samples.cold_items import mark_cold_items

#: Times that a rotation and its codebooks are improved by turns.
_TURNS: Final = 8
_ROWS: Final = 8192


def product_codebooks(vectors: np.ndarray, subspaces: int, size: int, seed: int) -> np.ndarray:
    """Cluster each of ``subspaces`` equal parts of vectors [n, D]; return centers [subspaces, size, D / subspaces]."""
    parts = np.split(vectors, subspaces, axis=1)
    return np.stack([kmeans(np.ascontiguousarray(part), size, derive_seed(seed, m)) for m, part in enumerate(parts)])


def nearest_parts(vectors: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Choose the nearest center of each part of vectors [n, D], codes [n, subspaces]."""
    codes = np.empty((len(vectors), len(codebooks)), dtype=np.int64)
    norms = np.square(codebooks).sum(axis=2)
    for start in range(0, len(vectors), _ROWS):
        rows = slice(start, start + _ROWS)
        for m, part in enumerate(np.split(vectors[rows], len(codebooks), axis=1)):
            codes[rows, m] = (norms[m] - 2.0 * part @ codebooks[m].T).argmin(axis=1)
    return codes


def rotation(vectors: np.ndarray, subspaces: int, size: int, seed: int) -> np.ndarray:
    """Learn a rotation R [D, D] under which ``vectors @ R`` is quantized well (OPQ, non-parametric).

    By turns, cluster the parts of the rotated vectors, and rotate the vectors onto their quantization (Procrustes).
    Starts at random, which gives each part the same share of the variance on average.
    """
    dimensions = vectors.shape[1]
    start = generator(seed, "rotation").standard_normal((dimensions, dimensions))
    found: np.ndarray = np.linalg.qr(start)[0].astype(np.float32)
    for _ in range(_TURNS):
        rotated = vectors @ found
        codebooks = product_codebooks(rotated, subspaces, size, seed)
        left, _, right = np.linalg.svd(vectors.T @ _restored(nearest_parts(rotated, codebooks), codebooks))
        found = left @ right
    return found


def _build(settings: ProductSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    if len(data.vectors) > 1:
        raise UserError("identifiers: product quantization takes one embedding, semantic or collaborative")
    ((side, matrix),) = read_sides(data.vectors).items()
    vectors = matrix.cpu().numpy()
    items, dimensions = vectors.shape
    subspaces, size = settings.subspaces, settings.codebook_size
    if dimensions % subspaces:
        fitting = [count for count in range(2, dimensions + 1) if dimensions % count == 0]
        nearest = min(fitting, key=lambda count: abs(count - subspaces))
        raise UserError(
            f"{data.vectors[side]}: vectors of {dimensions} dimensions have no {subspaces} equal parts; write, for "
            f"example, subspaces: {nearest}"
        )
    if settings.collisions == "unique":
        check_room(items, [size] * subspaces)
    saved = {}
    trained = ~mark_cold_items(data.cold_items, items)
    vectors = vectors - vectors[trained].mean(axis=0)
    if settings.rotate:
        saved["rotation"] = rotation(vectors[trained], subspaces, size, work.seed)
        vectors = vectors @ saved["rotation"]
    codebooks = product_codebooks(vectors[trained], subspaces, size, work.seed)
    save_vectors({"codebooks": codebooks.reshape(subspaces * size, -1), **saved}, work.stage.path("model.safetensors"))
    raw = nearest_parts(vectors, codebooks)

    codes, sizes = raw, [size] * subspaces
    if settings.collisions == "unique":
        levels = _residual_codebooks(codebooks)
        _, (codes,) = unique_codes(vectors, [], [levels], raw[:, :0], [raw])
    elif settings.collisions == "extra_digit":
        digit = occurrence(torch.from_numpy(raw)).numpy()
        codes, sizes = np.column_stack([raw, digit]), [*sizes, int(digit.max()) + 1]
    error = np.square(vectors - _restored(codes[:, :subspaces], codebooks)).sum()
    counts = {
        "raw_collision_rate": collision_rate(torch.from_numpy(raw)),
        "unexplained_variance": float(error / max(np.square(vectors).sum(), np.finfo(np.float32).tiny)),
        **code_use(torch.from_numpy(raw), [size] * subspaces),
    }
    scheme = Scheme(levels=[f"{LETTERS[side]}{level + 1}" for level in range(len(sizes))], sizes=sizes)
    moved = (codes[:, :subspaces] != raw).any(axis=1)
    return {side: SideIdentifiers(code_rows(codes), scheme, moved, counts)}


def _residual_codebooks(codebooks: np.ndarray) -> list[np.ndarray]:
    """Extend each part's centers by zeros to whole vectors [K, D]."""
    subspaces, size, width = codebooks.shape
    whole = np.zeros((subspaces, size, subspaces, width), dtype=codebooks.dtype)
    for m in range(subspaces):
        whole[m, :, m] = codebooks[m]
    return list(whole.reshape(subspaces, size, -1))


def _restored(codes: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """Put the centers of codes [n, subspaces] side by side [n, D]."""
    return np.concatenate([centers[code] for centers, code in zip(codebooks, codes.T, strict=True)], axis=1)


KIND: Final = Kind(
    settings=ProductSettings,
    paper="WebUltron (2023), the identifiers of product quantization; OPQ (Ge et al. 2013)",
    build=_build,
)
