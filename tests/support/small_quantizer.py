"""Settings and vectors of identifiers that train in less than a second."""

import numpy as np
import torch

from gensar_core.config.identifiers import QuantizerSettings

SMALL = {
    "latent_size": 4,
    "hidden_sizes": [16, 8],
    "codebook_size": 8,
    "shared_levels": 1,
    "specific_levels": 2,
    "epochs": 6,
    "batch_size": 64,
    "evaluate_every": 2,
}


def small_settings(**changes: object) -> QuantizerSettings:
    """Three levels of eight codes, the first one shared."""
    return QuantizerSettings.model_validate(SMALL | changes)


def clustered_vectors(items: int = 200) -> dict[str, torch.Tensor]:
    """Vectors of both sides, [items, 10] and [items, 7], around the same 12 topics."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((12, 5))
    topic = topics[rng.integers(12, size=items)]
    vectors = {}
    for side, size in (("semantic", 10), ("collaborative", 7)):
        matrix = topic @ rng.standard_normal((5, size)) + 0.3 * rng.standard_normal((items, size))
        vectors[side] = torch.from_numpy(matrix.astype(np.float32))
    return vectors
