"""Measure the generator on one GPU, in one run of at most eight minutes.

`python benchmarks/gpu.py` needs a CUDA device. It measures, with random weights and identifiers of 4 levels of 256
codes:

- training: tokens a second and the share of the device's peak arithmetic, of t5-small over prompts and of a causal
  model of its width and layers over logs, against the Hugging Face Trainer;
- ranking of 100 candidates with t5-small, in users a second, against `generate` with 30 beams and
  `prefix_allowed_tokens_fn`;
- search of 12,101 and 1,000,000 items with t5-small: median and 99th percentile of the latency, for 1 to 64 users at
  once and 10 to 200 beams;
- the same with a causal model of 8 layers of 1,024 that reads histories of 2,048 tokens, with 200 beams.

There is no claim unless the scores of the items that a search finds are those of ranking the same items as candidates,
in float32, to 1e-3, and the better half of the beams among candidates are those of `generate`, to 1e-2. Latencies of
t5-small are in bfloat16 where the device multiplies in it.

    --quick    tiny models and catalogues on any device, to test the benchmark itself
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import _shop
import numpy as np
import ranking
import torch
import training
from _causal import Logs, causal_setting
from _generator import Setting, dictionary_trie, generate, in_bfloat16, setting, token_trie
from _measure import claim, report

from gensar_core.config.generators import OnePassSettings, TrainingSettings
from gensar_core.generator.beam_search import RetrievedItems, beam_search, search_beams
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood
from gensar_core.runtime.device import has_bfloat16, pick_device

#: Model, users of the ranking, catalogues, users at once, beams, and seconds of each latency.
FULL: dict[str, Any] = {
    "size": "t5_small",
    "training": (training.T5_SMALL, 256, 20, 2),
    "shop": (3000, 2000),
    "users": 64,
    "catalogues": {"12k": 12_101, "1m": 1_000_000},
    "batches": (1, 8, 64),
    "beams": (10, 50, 200),
    "seconds": 5.0,
    "long": {"d_model": 1024, "d_ff": 6144, "num_heads": 16, "num_layers": 8, "words": 32_100},
    # Fourteen tokens each.
    "repetitions": 146,
    "long_beams": 200,
}
QUICK: dict[str, Any] = FULL | {
    "size": "small",
    "training": (training.TINY, 32, 2, 1),
    "shop": (150, 160),
    "users": 2,
    "catalogues": {"12k": 1_000, "1m": 2_000},
    "batches": (1, 2),
    "beams": (10,),
    "seconds": 0.2,
    "long": {"d_model": 32, "d_ff": 96, "num_heads": 2, "num_layers": 1, "words": 400},
    "repetitions": 4,
    "long_beams": 20,
}
#: Fewest runs of a latency, whatever they take.
RUNS = 3


def main() -> None:
    """Run the benchmark and print its claims."""
    parser = argparse.ArgumentParser(description="training, ranking and search on one GPU")
    parser.add_argument("--quick", action="store_true", help="a smoke size, on any device")
    quick = parser.parse_args().quick
    device = pick_device()
    if device.type != "cuda" and not quick:
        raise SystemExit("no CUDA device here, nothing measured; --quick tests the benchmark on a CPU")
    torch.set_num_threads(1 if quick else torch.get_num_threads())
    sizes = QUICK if quick else FULL
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    claims = []
    for measure in (measure_training, measure_ranking, measure_search, measure_long_histories):
        begun = time.perf_counter()
        claims += measure(sizes, device)
        print(f"{measure.__name__}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    report("gpu", [{**one, "how": f"{one['how']}, {where}"} for one in claims])


def measure_training(sizes: Mapping[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Train on prompts and on logs of the same shop; all loops alternate."""
    size, batch, steps, rounds = sizes["training"]
    settings = TrainingSettings(backbone="scratch", size=size, batch_size=batch)
    layers = size.num_layers + size.num_decoder_layers
    causal = OnePassSettings(
        hidden_size=size.d_model,
        intermediate_size=2 * size.d_ff // 3,
        num_layers=layers,
        num_heads=size.num_heads,
    )
    of_logs = TrainingSettings.model_validate(
        {"backbone": "causal", "one_pass": causal, "batch_size": batch, "likelihood": "catalogue"}
    )
    with tempfile.TemporaryDirectory(prefix="gensar-gpu-") as scratch:
        shop = _shop.build_shop(Path(scratch), *sizes["shop"])
        corpus = _shop.build(shop, shop / "corpus")
        shared = _shop.build(shop, shop / "shared", _shop.CORPUS.model_copy(update={"later_targets": 3}))
        ways = {
            "trainer": training.trainer_round(corpus, settings, steps),
            "ours": training.our_round(corpus, settings, steps),
            "float32": training.our_round(corpus, settings, steps, "float32"),
            "shared": training.our_round(shared, settings, steps),
            "one_pass": training.logs_round(shop, of_logs, steps),
        }
        clocks = {name: training.Clock() for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                run(clocks[name])
    logs = clocks.pop("one_pass")
    claims = training.claims(clocks, settings)
    trainer = clocks["trainer"].steps * batch / clocks["trainer"].seconds
    how = f"causal model of {layers} layers of {size.d_model} over logs, {batch} logs a step, over the catalogue"
    claims += [
        claim("tokens_per_second_one_pass", logs.tokens / logs.seconds, "1/s", f"real tokens; {how}"),
        claim("speedup_one_pass_trainer", logs.targets / logs.seconds / trainer, "x",
              f"{logs.targets / logs.seconds:.4g} targets/s against {trainer:.4g} of the Hugging Face Trainer; {how}"),
    ]  # fmt: skip
    peak = training.peak_of(device)
    if peak is not None:
        # Attention has four square matrices, the gated layer three.
        weights = layers * (4 * size.d_model**2 + 3 * size.d_model * causal.intermediate_size)
        share = 6 * weights * logs.tokens / logs.seconds / peak
        claims.append(
            claim("share_of_peak_one_pass", share, "1", f"6 operations a weight and token, of {peak:.3g}/s; {how}")
        )
    return claims


def measure_ranking(sizes: Mapping[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Rank candidates exactly and by `generate`; the fastest of three runs counts."""
    users, n_items = sizes["users"], sizes["catalogues"]["12k"]
    case = setting(sizes["size"], n_items, users, device)
    draw = np.random.default_rng(1)
    candidates = np.stack([draw.choice(n_items, ranking.CANDIDATES, replace=False) for _ in range(users)])
    candidates = candidates.astype(np.int32)
    over_catalogue = CatalogueLikelihood(token_trie(case.items).to(device))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "": lambda: ranking.ours(case, candidates, None),
        "_catalogue": lambda: ranking.ours(case, candidates, None, over_catalogue),
    }
    if has_bfloat16(device):
        rounded = in_bfloat16(case)
        ways["_bfloat16"] = lambda: ranking.ours(rounded, candidates, None)
    peer_begun = time.perf_counter()
    theirs = generate(case, lambda row: dictionary_trie(case.items.tokens[candidates[row]]), ranking.BEAMS)
    peer = users / (time.perf_counter() - peer_begun)
    half = ranking.BEAMS // 2
    beams = -np.sort(-ranking.ours(case, candidates, ranking.BEAMS), axis=1)
    check("beams among candidates and generate", beams[:, :half], theirs[:, :half], 1e-2)
    claims = []
    for name, run in ways.items():
        rate = users / min(latencies(run, 0.0))
        how = f"{users} users, {ranking.CANDIDATES} candidates, {sizes['size']}"
        claims += [
            claim(f"users_per_second{name}", rate, "users/s", how),
            claim(f"speedup_generate{name}", rate / peer, "times",
                  f"against {peer:.3g} users/s of generate with {ranking.BEAMS} beams; {how}"),
        ]  # fmt: skip
    return claims


def measure_search(sizes: Mapping[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Time searches of whole catalogues."""
    claims = []
    for name, n_items in sizes["catalogues"].items():
        case = setting(sizes["size"], n_items, max(sizes["batches"]), device)
        trie = token_trie(case.items).to(device)
        found = beam_search(case.model, case.prompts, trie, beams=max(sizes["beams"]))
        exact = score_candidates(case.model, case.prompts, found.items, case.items, users_per_batch=8)
        check(f"search of {n_items} items and ranking", found.scores, exact, 1e-3)
        timed_case = in_bfloat16(case) if has_bfloat16(device) else case
        for batch in sizes["batches"]:
            prompts = case.prompts.take(np.arange(batch))
            for beams in sizes["beams"]:

                def run(one: Setting = timed_case, asked: Any = prompts, width: int = beams) -> RetrievedItems:
                    return beam_search(one.model, asked, trie, beams=width, likelihood=VOCABULARY)  # noqa: B023

                how = f"{batch} users at once, {beams} beams, {n_items} items, {sizes['size']}"
                claims += percentiles(f"search_{name}_{batch}_{beams}", latencies(run, sizes["seconds"]), how)
    return claims


def measure_long_histories(sizes: Mapping[str, Any], device: torch.device) -> list[dict[str, Any]]:
    """Time searches after long histories, with the larger of the catalogues."""
    n_items, beams = sizes["catalogues"]["1m"], sizes["long_beams"]
    claims = []
    with tempfile.TemporaryDirectory(prefix="gensar-gpu-") as folder:
        repetitions = sizes["repetitions"], sizes["repetitions"]
        case = causal_setting(
            sizes["long"], n_items, max(sizes["batches"]), Path(folder), repetitions=repetitions, device=device
        )
    check_logs(case, beams)
    tokens = int(case.rows.lengths_of(np.arange(len(case.rows))).max())
    shape = f"{sizes['long']['num_layers']} layers of {sizes['long']['d_model']}, histories of {tokens} tokens"
    for likelihood in case.scorers:
        for batch in sizes["batches"][:2]:

            def run(name: str = likelihood, users: int = batch) -> RetrievedItems:
                return searched(case, name, users, beams)

            how = f"{batch} users at once, {beams} beams, {n_items} items, over the {likelihood}; {shape}"
            name = f"long_history_{likelihood}_{batch}"
            claims += percentiles(name, latencies(run, sizes["seconds"]), how)
    return claims


def searched(case: Logs, likelihood: str, users: int, beams: int) -> RetrievedItems:
    """Search the whole catalogue for the first users."""
    row, entry = case.rows.places_of(np.arange(users))
    questions = case.scorers[likelihood].questions(case.rows, row, entry, "rec", users)
    return search_beams(questions, questions.scorer.catalogue.tries["rec"], beams=beams)


def check_logs(case: Logs, beams: int) -> None:
    """Check that the items found for the first user are ranked by the same scores."""
    for likelihood, scorer in case.scorers.items():
        found = searched(case, likelihood, 1, beams)
        exact = scorer.score(case.rows, np.zeros(1, dtype=np.int64), found.items, "rec", 1)
        check(f"search over the {likelihood} and ranking", found.scores, exact, 1e-3)


def check(what: str, ours: np.ndarray, theirs: np.ndarray, allowed: float) -> None:
    """End the benchmark without claims where two ways to the same scores differ."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    gap = np.abs(ours[both] - theirs[both]).max()
    if not gap < allowed or not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        raise SystemExit(f"{what}: scores differ by {gap:.2g}")


def latencies(run: Callable[[], Any], seconds: float) -> list[float]:
    """Time runs, whose results are on the host, after one that does not count: for ``seconds``, three at least."""
    run()
    taken: list[float] = []
    while len(taken) < RUNS or sum(taken) < seconds:
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return taken


def percentiles(name: str, taken: list[float], how: str) -> list[dict[str, Any]]:
    """Report the median and the 99th percentile in milliseconds."""
    return [
        claim(f"p{share}_{name}", 1000 * float(np.percentile(taken, share)), "ms", f"{len(taken)} runs; {how}")
        for share in (50, 99)
    ]


if __name__ == "__main__":
    main()
