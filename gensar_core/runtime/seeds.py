"""Derive seeds: every random choice comes from the configured seed and a name, never from a global generator."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a seed in [0, 2**63) for one purpose: equal arguments yield equal seeds, on every platform."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Create a NumPy generator for one purpose."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))
