"""Balanced choice of codes, against the plan iterated as a matrix and against hand-made cases; the authors' repair."""

import numpy as np
import pytest
import torch

from gensar_core.config.identifiers import SinkhornSettings
from gensar_core.identifiers.fit import fit_rqvae
from gensar_core.identifiers.quality import code_use
from gensar_core.identifiers.quantize import nearest
from gensar_core.identifiers.sinkhorn import balanced, repair
from tests.support.small_quantizer import small_settings

SETTINGS = SinkhornSettings()


def plan_by_loop(residual: np.ndarray, codebook: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """The transport plan itself, its columns and rows normalized in turn."""
    distance = ((residual[:, None].astype(np.float64) - codebook[None]) ** 2).sum(axis=2)
    middle, half = (distance.max() + distance.min()) / 2, (distance.max() - distance.min()) / 2 + 1e-5
    plan = np.exp(-(distance - middle) / half / epsilon)
    for _ in range(iterations):
        plan /= plan.sum(axis=0, keepdims=True) * plan.shape[1]
        plan /= plan.sum(axis=1, keepdims=True) * plan.shape[0]
    return plan


@pytest.mark.parametrize("epsilon", [0.003, 0.05, 1.0])
def test_codes_are_the_heaviest_of_the_plan(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    residual = rng.standard_normal((96, 4)).astype(np.float32)
    codebook = rng.standard_normal((12, 4)).astype(np.float32) * 0.3
    codes = balanced(
        torch.from_numpy(residual), torch.from_numpy(codebook), SinkhornSettings(epsilon=epsilon, iterations=50)
    )
    assert codes.tolist() == plan_by_loop(residual, codebook, epsilon, 50).argmax(axis=1).tolist()


def test_codes_serve_equal_shares_where_one_is_nearest_to_most_items() -> None:
    residual = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    codebook = torch.tensor([[0.0, 0.0], [3.0, 3.0], [-3.0, 3.0], [3.0, -3.0]])
    assert torch.bincount(nearest(residual, codebook), minlength=4).max() > 200
    counts = torch.bincount(balanced(residual, codebook, SinkhornSettings(epsilon=0.01, iterations=500)), minlength=4)
    assert counts.min() >= 58
    assert counts.max() <= 70


def test_repair_moves_colliding_items_alone() -> None:
    residual = torch.tensor([[0.1, 0.0], [-0.1, 0.0], [0.9, 0.0], [0.0, 0.1]])
    codebook = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    node = torch.tensor([0, 0, 0, 1])
    assert nearest(residual, codebook).tolist() == [0, 0, 1, 0]
    repaired = repair(node, residual, codebook, SETTINGS).tolist()
    assert repaired[2:] == [1, 0]
    assert repaired[0] != repaired[1]


def test_repair_of_thousands_of_copies_ends_with_all_of_them_colliding() -> None:
    codebook = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    repaired = repair(torch.zeros(3000, dtype=torch.int64), torch.ones(3000, 4), codebook, SETTINGS)
    assert len(repaired.unique()) == 1


def test_balanced_training_uses_the_last_codes_more_evenly() -> None:
    rng = np.random.default_rng(4)
    matrix = rng.standard_normal((5, 8))[rng.integers(5, size=256)] + 0.05 * rng.standard_normal((256, 8))
    vectors = {"semantic": torch.from_numpy(matrix.astype(np.float32))}
    perplexity = []
    for sinkhorn in (None, {"levels": 1}):
        settings = small_settings(
            codebook_size=16, specific_levels=1, epochs=8, revive_dead_codes=False, separation_share=0.0,
            sinkhorn=sinkhorn,
        )  # fmt: skip
        model, _ = fit_rqvae(vectors, settings, seed=0)
        codes = model.encode_latents(model.all_latents(model.scale(vectors))).identifier("semantic")
        perplexity.append(code_use(codes, settings.sizes)["perplexity"][1])
    nearest_alone, balanced_codes = perplexity
    assert balanced_codes > nearest_alone + 0.5
