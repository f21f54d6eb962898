"""Compare RQ-VAE training with a plain port of the paper's, and assign unique identifiers to a million items.

`python benchmarks/identifiers.py [--quick] [--semantic FILE --collaborative FILE]`

The files are vectors.safetensors of a data set, such as results/beauty/embeddings/minilm/vectors.safetensors; without
them, clustered random vectors of Amazon Beauty's size are used. Both trainings run one after the other in this process,
on all cores.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import claim, options, report, run_child

#: Epochs of the plain port, in its authors' batches of 1,024; ours is better in every metric after fewer epochs.
PLAIN_EPOCHS = 100
OUR_EPOCHS, OUR_BATCH = 20, 256
#: (shared levels, specific levels per side, codes per level).
SHAPES = ((2, 2, 256), (1, 2, 1024))
ASSIGN = """
import json, sys, time
import numpy as np, torch
from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.identifiers.collisions import resolve
from gensar_core.identifiers.initialize import initialize_codebooks, start_as_principal_components
from gensar_core.identifiers.quality import collision_rate
from gensar_core.identifiers.rqvae import RQVAE

items, shared, specific, codes = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
sizes = {"semantic": 768, "collaborative": 64}
drawn = {side: rng.standard_normal((items, size), dtype=np.float32) for side, size in sizes.items()}
vectors = {side: torch.from_numpy(matrix) for side, matrix in drawn.items()}
settings = QuantizerSettings(shared_levels=shared, specific_levels=specific, codebook_size=codes)
model = RQVAE(sizes, settings).eval()
model.fit_scale(vectors)
scaled = model.scale(vectors)
del vectors, drawn
# Training is not measured here: a share of the items gives encoders and codebooks.
sample = {side: matrix[:20_000] for side, matrix in scaled.items()}
start_as_principal_components(model, sample)
initialize_codebooks(model, sample, 0)

started = time.perf_counter()
latents = model.all_latents(scaled)
raw = model.encode_latents(latents)
encoded = time.perf_counter()
unique = resolve(model, latents, raw)
done = time.perf_counter()
for side in model.sides:
    assert collision_rate(unique.identifier(side)) == 0.0
rates = [collision_rate(raw.identifier(side)) for side in model.sides]
print(json.dumps({"encode": encoded - started, "assign": done - encoded, "raw_collision_rates": rates}))
"""


def main() -> None:
    """Measure and report."""
    parser = options(__doc__)
    parser.add_argument("--semantic", type=Path, help="item vectors of a text encoder")
    parser.add_argument("--collaborative", type=Path, help="item vectors of a sequential recommender")
    parser.add_argument("--plain-epochs", type=int, default=PLAIN_EPOCHS)
    parser.add_argument("--epochs", type=int, default=OUR_EPOCHS)
    arguments = parser.parse_args()
    # Children first: a child's peak memory starts at this process's memory.
    claims = assign_claims(3_000 if arguments.quick else 1_000_000)
    report("identifiers", claims + training_claims(arguments))


def assign_claims(items: int) -> list[dict[str, Any]]:
    """Measure encoding and unique assignment of random vectors, a million of them unless ``--quick``."""
    seconds, memory, lines = [], [], []
    for shared, specific, codes in SHAPES:
        usage = run_child(ASSIGN, items, shared, specific, codes)
        measured = usage.result()
        rates = " and ".join(f"{100 * rate:.3f} %" for rate in measured["raw_collision_rates"])
        lines.append(
            f"{shared} shared + {specific} specific levels of {codes}: encoding {measured['encode']:.1f} s, unique "
            f"assignment {measured['assign']:.1f} s, {rates} raw collisions, {usage.peak_gb:.2f} GB"
        )
        print(lines[-1], flush=True)
        seconds.append(measured["encode"] + measured["assign"])
        memory.append(usage.peak_gb)
    how = f"{items:,} random vectors of 768 and 64 dimensions; " + "; ".join(lines)
    return [
        claim("assign_1m_seconds", max(seconds), "s", f"the slower of two shapes. {how}"),
        claim("assign_1m_gb", max(memory), "GB", f"peak of the larger process, vectors included. {how}"),
    ]


def training_claims(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both trainings and return the speed-up of ours."""
    vectors, data = training_vectors(arguments)
    codes, plain_epochs, epochs = (32, 2, 2) if arguments.quick else (256, arguments.plain_epochs, arguments.epochs)
    plain, ours = run_plain(vectors, codes, plain_epochs), run_ours(vectors, codes, epochs)
    print(f"plain port: {json.dumps(plain)}\nours: {json.dumps(ours)}", flush=True)
    compared = ("raw_collision_rate", "unexplained_variance")
    better = all(ours[name][side] <= plain[name][side] for name in compared for side in vectors)
    if not better and not arguments.quick:
        raise SystemExit("our training is worse than the plain port in a number above; the speeds do not compare")
    how = (
        f"whole training, wall clock. {data}; semantic / collaborative: plain port "
        f"{description(plain, plain_epochs, 1024)}; ours {description(ours, epochs, OUR_BATCH)}"
    )
    cpu = plain["cpu_seconds"] / ours["cpu_seconds"]
    return [
        claim("speedup_plain_loop", plain["seconds"] / ours["seconds"], "x", how),
        claim("speedup_plain_loop_cpu", cpu, "x", "the same in CPU seconds, which other load disturbs less"),
    ]


def description(measured: dict[str, Any], epochs: int, batch: int) -> str:
    """Describe one training in words."""
    unexplained = " / ".join(f"{share:.4f}" for share in measured["unexplained_variance"].values())
    collisions = " / ".join(f"{100 * rate:.3f} %" for rate in measured["raw_collision_rate"].values())
    return (
        f"{epochs} epochs in batches of {batch:,}, {measured['seconds']:.1f} s ({measured['cpu_seconds']:.0f} CPU s), "
        f"unexplained variance {unexplained}, raw collisions {collisions}"
    )


def run_plain(vectors: dict[str, np.ndarray], codes: int, epochs: int) -> dict[str, Any]:
    """Train the port; return its seconds and metrics."""
    import _plain_rqvae
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    before = time.process_time()
    measured = _plain_rqvae.train(vectors["semantic"], vectors["collaborative"], codes, epochs)
    return {"cpu_seconds": time.process_time() - before, **measured}


def run_ours(vectors: dict[str, np.ndarray], codes: int, epochs: int) -> dict[str, Any]:
    """Train ours; return its seconds, initialization and validations included, and its metrics."""
    import torch

    from gensar_core.config.identifiers import QuantizerSettings
    from gensar_core.identifiers.fit import fit
    from gensar_core.identifiers.quality import collision_rate

    torch.set_num_threads(os.cpu_count() or 1)
    settings = QuantizerSettings(codebook_size=codes, epochs=epochs, batch_size=OUR_BATCH)
    matrices = {side: torch.from_numpy(matrix) for side, matrix in vectors.items()}
    started, before = time.perf_counter(), time.process_time()
    model, _ = fit(matrices, settings, seed=0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - before
    scaled = model.scale(matrices)
    raw = model.encode_latents(model.all_latents(scaled))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "raw_collision_rate": {side: collision_rate(raw.identifier(side)) for side in vectors},
        "unexplained_variance": model.unexplained_variance(scaled, raw),
    }


def training_vectors(arguments: argparse.Namespace) -> tuple[dict[str, np.ndarray], str]:
    """Return the vectors of both sides and their description."""
    if arguments.semantic and arguments.collaborative:
        from gensar_core.runtime.tensors import load_vectors

        paths = {"semantic": arguments.semantic, "collaborative": arguments.collaborative}
        vectors = {side: load_vectors(path) for side, path in paths.items()}
        return vectors, f"vectors of {arguments.semantic}, {arguments.collaborative}"
    items = 1_200 if arguments.quick else 12_101
    return clustered(items), f"{items:,} clustered random vectors of 384 and 64 dimensions"


def clustered(items: int) -> dict[str, np.ndarray]:
    """Draw items from a tree of topics; each side is a noisy random mixture of factors with decaying variance."""
    rng, factors = np.random.default_rng(0), 96
    scale = (1.0 + np.arange(factors)) ** -0.5
    topics = rng.standard_normal((24, factors)) * scale
    subtopics = topics[rng.integers(24, size=300)] + 0.8 * rng.standard_normal((300, factors)) * scale
    item = subtopics[rng.integers(300, size=items)]
    vectors = {}
    for side, size in (("semantic", 384), ("collaborative", 64)):
        noisy = item + 0.8 * rng.standard_normal((items, factors)) * scale
        matrix = noisy @ rng.standard_normal((factors, size))
        vectors[side] = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return vectors


if __name__ == "__main__":
    main()
