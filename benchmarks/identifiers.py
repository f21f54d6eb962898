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
from _measure import Usage, claim, report, run_child

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

items, shared, own, codes = map(int, sys.argv[1:])
source = np.random.default_rng(0)
sizes = {"semantic": 768, "collaborative": 64}
drawn = {side: source.standard_normal((items, size), dtype=np.float32) for side, size in sizes.items()}
vectors = {side: torch.from_numpy(matrix) for side, matrix in drawn.items()}
settings = QuantizerSettings(shared_levels=shared, specific_levels=own, codebook_size=codes)
model = RQVAE(sizes, settings).eval()
model.fit_scale(vectors)
scaled = model.scale(vectors)
del vectors, drawn
# Training is not what is measured here: a share of the items gives encoders and codebooks.
some = {side: matrix[:20_000] for side, matrix in scaled.items()}
start_as_principal_components(model, some)
initialize_codebooks(model, some, 0)

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke size: seconds, and no figures to rely on")
    parser.add_argument("--semantic", type=Path, help="item vectors of a text encoder")
    parser.add_argument("--collaborative", type=Path, help="item vectors of a sequential recommender")
    parser.add_argument("--plain-epochs", type=int, default=PLAIN_EPOCHS)
    parser.add_argument("--epochs", type=int, default=OUR_EPOCHS)
    options = parser.parse_args()
    # Children first: a child's peak memory starts at this process's memory.
    claims = assign_claims(3_000 if options.quick else 1_000_000)
    claims += training_claims(options)
    report("identifiers", claims)


# ---------------------------------------------------------------------------------------------------------- assignment


def assign_claims(items: int) -> list[dict[str, Any]]:
    """Measure encoding and unique assignment of random vectors, a million of them unless ``--quick``."""
    seconds, memory, words = [], [], []
    for shape in SHAPES:
        usage: Usage = run_child(ASSIGN, str(items), *map(str, shape))
        found = json.loads(usage.output.splitlines()[-1])
        rates = " and ".join(f"{100 * rate:.3f} %" for rate in found["raw_collision_rates"])
        text = (
            f"{shape[0]} shared + {shape[1]} own levels of {shape[2]}: encoding {found['encode']:.1f} s, unique "
            f"assignment {found['assign']:.1f} s, {rates} raw collisions, {usage.peak_gb:.2f} GB"
        )
        print(text, flush=True)
        seconds.append(found["encode"] + found["assign"])
        memory.append(usage.peak_gb)
        words.append(text)
    how = f"{items:,} random vectors of 768 and 64 dimensions; " + "; ".join(words)
    return [
        claim("assign_1m_seconds", max(seconds), "s", f"the slower of two shapes. {how}"),
        claim("assign_1m_gb", max(memory), "GB", f"peak of the larger process, vectors included. {how}"),
    ]


# ------------------------------------------------------------------------------------------------------------ training


def training_claims(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run both trainings and return the speed-up of ours."""
    vectors, data = training_vectors(options)
    codes, plain_epochs, epochs = (32, 2, 2) if options.quick else (256, options.plain_epochs, options.epochs)
    plain = run_plain(vectors, codes, plain_epochs)
    ours = run_ours(vectors, codes, epochs)
    for name, found in (("plain port", plain), ("ours", ours)):
        print(f"{name}: {json.dumps(found)}", flush=True)
    better = all(
        ours[figure][side] <= plain[figure][side]
        for figure in ("raw_collision_rate", "unexplained_variance")
        for side in vectors
    )
    if not better and not options.quick:
        raise SystemExit("our training is worse than the plain port in a figure above; the speeds do not compare")
    speedup = plain["seconds"] / ours["seconds"]
    shown = "; ".join(
        f"{name} {told(found, epochs, batch)}"
        for name, epochs, batch, found in (
            ("plain port", plain_epochs, 1024, plain),
            ("ours", epochs, OUR_BATCH, ours),
        )
    )
    how = f"{data}; semantic / collaborative: {shown}"
    cpu = plain["cpu_seconds"] / ours["cpu_seconds"]
    return [
        claim("speedup_plain_loop", speedup, "x", f"whole training, wall clock. {how}"),
        claim("speedup_plain_loop_cpu", cpu, "x", "the same in CPU seconds, which other load disturbs less"),
    ]


def told(found: dict[str, Any], epochs: int, batch: int) -> str:
    """Describe one training in words."""
    unexplained = " / ".join(f"{share:.4f}" for share in found["unexplained_variance"].values())
    collisions = " / ".join(f"{100 * rate:.3f} %" for rate in found["raw_collision_rate"].values())
    return (
        f"{epochs} epochs in batches of {batch:,}, {found['seconds']:.1f} s ({found['cpu_seconds']:.0f} CPU s), "
        f"unexplained variance {unexplained}, raw collisions {collisions}"
    )


def run_plain(vectors: dict[str, np.ndarray], codes: int, epochs: int) -> dict[str, Any]:
    """Train the port; return its seconds and metrics."""
    import _plain_rqvae
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    before = time.process_time()
    trained = _plain_rqvae.train(vectors["semantic"], vectors["collaborative"], codes, epochs)
    return {
        "seconds": trained.seconds,
        "cpu_seconds": time.process_time() - before,
        "raw_collision_rate": trained.collision_rate,
        "unexplained_variance": trained.unexplained_variance,
    }


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


def training_vectors(options: argparse.Namespace) -> tuple[dict[str, np.ndarray], str]:
    """Return the vectors of both sides and their description."""
    if options.semantic and options.collaborative:
        from gensar_core.runtime.tensors import load_vectors

        paths = {"semantic": options.semantic, "collaborative": options.collaborative}
        return {
            side: load_vectors(path) for side, path in paths.items()
        }, f"vectors of {', '.join(map(str, paths.values()))}"
    items = 1_200 if options.quick else 12_101
    return clustered(items), f"{items:,} clustered random vectors of 384 and 64 dimensions"


def clustered(items: int) -> dict[str, np.ndarray]:
    """Draw items from a tree of topics; each side is a noisy random mixture of factors with decaying variance."""
    source = np.random.default_rng(0)
    factors = 96
    scale = (1.0 + np.arange(factors)) ** -0.5
    topics = source.standard_normal((24, factors)) * scale
    subtopics = topics[source.integers(24, size=300)] + 0.8 * source.standard_normal((300, factors)) * scale
    item = subtopics[source.integers(300, size=items)]
    views = {}
    for side, size in (("semantic", 384), ("collaborative", 64)):
        own = item + 0.8 * source.standard_normal((items, factors)) * scale
        matrix = own @ source.standard_normal((factors, size))
        views[side] = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return views


if __name__ == "__main__":
    main()
