"""Initialize encoders as principal components, and codebooks by k-means over their residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from gensar_core.identifiers.quantize import encode
from gensar_core.identifiers.rqvae import RQVAE
from gensar_core.runtime.seeds import derive_seed, generator

_ITERATIONS = 25
_ROWS = 8192
#: Distance of spare codes from the vectors they are drawn near, in standard deviations of the data.
_JITTER = 0.05


@torch.no_grad()
def start_as_principal_components(model: RQVAE, scaled: Mapping[str, Tensor]) -> None:
    """Start each autoencoder as the best linear one: project onto its vectors' principal components and back.

    A ReLU network can pass a vector h through unchanged as relu(h) - relu(-h), so 2p hidden units carry p components.
    All other units keep their random weights and start without effect on the output; training puts them to use.
    """
    widths = model.settings.hidden_sizes
    for side, matrix in scaled.items():
        carried = min(model.settings.latent_size, matrix.shape[1], min(widths) // 2 if widths else matrix.shape[1])
        components = _principal_components(matrix, carried)
        latent = torch.eye(model.settings.latent_size, carried, dtype=matrix.dtype, device=matrix.device)
        _carry(model.encoders[side], components, latent)
        _carry(model.decoders[side], latent.T, components.T)


@torch.no_grad()
def initialize_codebooks(model: RQVAE, scaled: Mapping[str, Tensor], seed: int) -> None:
    """Set all codebooks by k-means over the residuals of the items, or of a share ``initialization_share`` of them."""
    items = len(next(iter(scaled.values())))
    sample_size = max(round(items * model.settings.initialization_share), min(items, max(model.settings.sizes)))
    if sample_size < items:
        sample = np.sort(generator(seed, "items").choice(items, size=sample_size, replace=False))
        scaled = {side: matrix[torch.from_numpy(sample).to(matrix.device)] for side, matrix in scaled.items()}
    residual = _fill_chain(list(model.shared), model.all_latents(scaled), derive_seed(seed, "shared"))
    for side, part in model.split(residual).items():
        _fill_chain(model.specific_codebooks(side), part.contiguous(), derive_seed(seed, side))


def kmeans(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Compute cluster centers [clusters, D] of the vectors [n, D], float32; equal seeds yield equal centers.

    If there are no more distinct vectors than clusters, every distinct vector becomes a center, and the spare centers
    lie near vectors drawn at random, so that the unique assignment can use them.
    """
    distinct = _few_distinct(vectors, clusters)
    if distinct is not None:
        return np.concatenate([distinct, _beside(distinct, clusters - len(distinct), seed)])
    model = faiss.Kmeans(
        vectors.shape[1],
        clusters,
        niter=_ITERATIONS,
        seed=seed % 2**31,
        min_points_per_centroid=1,
        max_points_per_centroid=-(-len(vectors) // clusters),
    )
    model.train(np.ascontiguousarray(vectors))
    return np.asarray(model.centroids, dtype=np.float32)


def _principal_components(matrix: Tensor, count: int) -> Tensor:
    """Return the first ``count`` principal components [count, D] of centered vectors [n, D], signs fixed."""
    scatter = torch.zeros((matrix.shape[1],) * 2, dtype=torch.float64, device=matrix.device)
    for block in torch.split(matrix, _ROWS):
        scatter += block.double().T @ block.double()
    _, vectors = torch.linalg.eigh(scatter)
    components = vectors.flip(1)[:, :count].T
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    return torch.mul(components, signs).to(matrix.dtype)


def _carry(network: nn.Module, inward: Tensor, outward: Tensor) -> None:
    """Make an MLP compute ``outward @ inward @ x``; ``inward`` [p, in], ``outward`` [out, p], hidden widths >= 2p."""
    first, *inner = [layer for layer in network.children() if isinstance(layer, nn.Linear)]
    if not inner:
        first.weight.copy_(outward @ inward)
        return
    pairs = 2 * len(inward)
    first.weight[:pairs] = torch.cat([inward, -inward])
    for layer in inner[:-1]:
        layer.weight[:pairs] = 0.0
        layer.weight[:pairs, :pairs] = torch.eye(pairs)
    inner[-1].weight.zero_()
    inner[-1].weight[:, :pairs] = torch.cat([outward, -outward], dim=1)


def _fill_chain(codebooks: Sequence[nn.Parameter], residual: Tensor, seed: int) -> Tensor:
    """Set the codebooks, [K, D] each, level by level; return the residuals after the last level."""
    for level, codebook in enumerate(codebooks):
        centers = kmeans(residual.cpu().numpy(), len(codebook), derive_seed(seed, level))
        codebook.copy_(torch.from_numpy(centers))
        _, residual = encode(residual, [codebook])
    return residual


def _few_distinct(vectors: np.ndarray, clusters: int) -> np.ndarray | None:
    """Return the distinct vectors if there are at most ``clusters`` of them, else None."""
    # The first rows nearly always contain more, which saves sorting all rows.
    if len(vectors) > 4 * clusters and len(np.unique(vectors[: 4 * clusters], axis=0)) > clusters:
        return None
    distinct = np.unique(vectors, axis=0)
    return distinct if len(distinct) <= clusters else None


def _beside(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draw ``count`` points near vectors drawn at random."""
    rng = generator(seed, "beside")
    drawn = vectors[rng.integers(len(vectors), size=count)]
    noise = rng.standard_normal((count, vectors.shape[1])) * (_JITTER * (float(vectors.std()) or 1.0))
    return (drawn + noise).astype(np.float32)
