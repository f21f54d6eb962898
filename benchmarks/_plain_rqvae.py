"""Train the joint RQ-VAE as the paper and its released code do, as the peer of benchmarks/identifiers.py.

This is plain torch, as a reader of the paper would write it: Xavier initialization, codebooks from k-means on the first
batch, residuals that pass no gradient beyond a level, losses as means, Sinkhorn on the last specific level, a data set
read item by item, identifiers counted as strings. The weights with the lowest collision rate are kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

HIDDEN = [512, 256, 128, 64]
LATENT = 32
COMMITMENT = 0.25
BATCH = 1024
RATE = 1e-3
DECAY = 1e-5
CLIP = 1.0
EPSILON = 0.003
SINKHORN_ITERATIONS = 50
KMEANS_ITERATIONS = 100
EVALUATE_EVERY = 10


def mlp(sizes: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for position in range(len(sizes) - 1):
        layer = nn.Linear(sizes[position], sizes[position + 1])
        nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def distances(vectors: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    norms = (vectors**2).sum(dim=1, keepdim=True) + (codes**2).sum(dim=1)
    return norms - 2 * vectors @ codes.t()


@torch.no_grad()
def sinkhorn(distance: torch.Tensor) -> torch.Tensor:
    middle, half = (distance.max() + distance.min()) / 2, (distance.max() - distance.min()) / 2 + 1e-5
    plan = torch.exp(-((distance - middle) / half).double() / EPSILON)
    plan /= plan.sum()
    for _ in range(SINKHORN_ITERATIONS):
        plan /= plan.sum(dim=0, keepdim=True) * plan.shape[1]
        plan /= plan.sum(dim=1, keepdim=True) * plan.shape[0]
    return plan


class Level(nn.Module):
    """Quantize residuals with one codebook."""

    def __init__(self, size: int, dimensions: int, balanced: bool) -> None:
        super().__init__()
        self.codes = nn.Embedding(size, dimensions)
        self.balanced, self.started = balanced, False

    def start(self, residual: torch.Tensor) -> None:
        kmeans = KMeans(n_clusters=len(self.codes.weight), max_iter=KMEANS_ITERATIONS, random_state=0)
        kmeans.fit(residual.detach().numpy())
        self.codes.weight.data.copy_(torch.from_numpy(kmeans.cluster_centers_))
        self.started = True

    def forward(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.training and not self.started:
            self.start(residual)
        distance = distances(residual, self.codes.weight)
        chosen = sinkhorn(distance).argmax(dim=1) if self.balanced and self.training else distance.argmin(dim=1)
        quantized = self.codes(chosen)
        loss = functional.mse_loss(quantized, residual.detach()) + COMMITMENT * functional.mse_loss(
            residual, quantized.detach()
        )
        return residual + (quantized - residual).detach(), loss, chosen


def chain(
    levels: nn.ModuleList, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Quantize by successive levels; return the residual, the sum of the code vectors, the losses and the codes."""
    total, losses, codes = torch.zeros_like(residual), [], []
    for level in levels:
        quantized, loss, chosen = level(residual)
        residual, total = residual - quantized, total + quantized
        losses.append(loss)
        codes.append(chosen)
    return residual, total, losses, codes


class JointRQVAE(nn.Module):
    """Combine two autoencoders with two shared levels and two specific levels each."""

    def __init__(self, semantic: int, collaborative: int, codes: int) -> None:
        super().__init__()
        sizes = {"semantic": semantic, "collaborative": collaborative}
        self.encoders = nn.ModuleDict({side: mlp([size, *HIDDEN, LATENT]) for side, size in sizes.items()})
        self.decoders = nn.ModuleDict({side: mlp([LATENT, *HIDDEN[::-1], size]) for side, size in sizes.items()})
        self.shared = nn.ModuleList([Level(codes, 2 * LATENT, balanced=False) for _ in range(2)])
        self.specific = nn.ModuleDict(
            {side: nn.ModuleList([Level(codes, LATENT, balanced=last) for last in (False, True)]) for side in sizes}
        )

    def forward(
        self, vectors: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, list[torch.Tensor]]]:
        latents = torch.cat([self.encoders[side](matrix) for side, matrix in vectors.items()], dim=1)
        residual, total, losses, shared = chain(self.shared, latents)
        decoded, codes = {}, {}
        for side, part, shared_part in zip(vectors, residual.chunk(2, dim=1), total.chunk(2, dim=1), strict=True):
            _, specific_part, specific_losses, specific = chain(self.specific[side], part)
            decoded[side] = self.decoders[side](shared_part + specific_part)
            losses += specific_losses
            codes[side] = shared + specific
        return decoded, torch.stack(losses).mean(), codes


def train(semantic: np.ndarray, collaborative: np.ndarray, codes: int, epochs: int) -> dict[str, Any]:
    """Train for ``epochs`` epochs; return seconds, and metrics of the weights with the lowest collision rate."""
    torch.manual_seed(0)
    started = time.perf_counter()
    items = TensorDataset(torch.from_numpy(semantic), torch.from_numpy(collaborative))
    model = JointRQVAE(semantic.shape[1], collaborative.shape[1], codes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    best, best_weights = 2.0, model.state_dict()
    for epoch in range(epochs):
        model.train()
        for vectors in batches(items, shuffle=True):
            optimizer.zero_grad()
            decoded, quantization, _ = model(vectors)
            loss = sum(functional.mse_loss(decoded[side], vectors[side]) for side in vectors) + quantization
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
        if (epoch + 1) % EVALUATE_EVERY == 0 or epoch + 1 == epochs:
            rate = sum(collision_rates(model, items).values()) / 2
            if rate < best:
                best, best_weights = rate, copy.deepcopy(model.state_dict())
    seconds = time.perf_counter() - started
    model.load_state_dict(best_weights)
    return {
        "seconds": seconds,
        "raw_collision_rate": collision_rates(model, items),
        "unexplained_variance": unexplained(model, items),
    }


def batches(items: TensorDataset, shuffle: bool) -> Iterator[dict[str, torch.Tensor]]:
    for semantic, collaborative in DataLoader(items, batch_size=BATCH, shuffle=shuffle):
        yield {"semantic": semantic, "collaborative": collaborative}


@torch.no_grad()
def collision_rates(model: JointRQVAE, items: TensorDataset) -> dict[str, float]:
    model.eval()
    identifiers: dict[str, set[str]] = {"semantic": set(), "collaborative": set()}
    for vectors in batches(items, shuffle=False):
        _, _, codes = model(vectors)
        for side, levels in codes.items():
            for row in torch.stack(levels, dim=1).tolist():
                identifiers[side].add("-".join(map(str, row)))
    return {side: 1 - len(distinct) / len(items) for side, distinct in identifiers.items()}


@torch.no_grad()
def unexplained(model: JointRQVAE, items: TensorDataset) -> dict[str, float]:
    """Compute the squared error relative to the vectors' variance, by side."""
    model.eval()
    vectors = dict(zip(("semantic", "collaborative"), items.tensors, strict=True))
    decoded, _, _ = model(vectors)
    return {
        side: float((decoded[side] - matrix).square().sum() / (matrix - matrix.mean(dim=0)).square().sum())
        for side, matrix in vectors.items()
    }
