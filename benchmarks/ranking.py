"""Compare ranking 100 candidates per user with Hugging Face's constrained beam search.

`python benchmarks/ranking.py` ranks the same candidates of the same users with the same weights, on the CPU, in three
ways: by exact scores of all candidates over a prefix tree, normalized over the vocabulary and over the catalogue, each
in float32 and in bfloat16; by our beam search among the candidates; and by `generate` with `prefix_allowed_tokens_fn`,
one dictionary trie per user and 30 beams, as in the paper. The latter two run the same search, and there is no claim
unless their best scores agree. A CPU without bfloat16 products makes no claim about them. The error of rounding to
bfloat16 is reported relative to the spread of a user's candidate scores. Models have the size of t5-small and of a
small T5 trained from scratch.

A causal model over users' logs ranks the candidates of the same number of users, and is compared with its own folder in
the Hugging Face library (`AutoModelForCausalLM`), which reads every candidate alone after the user's history; or the
history once, with its keys and values kept for all candidates. There is no claim unless all scores agree to 1e-4: over
the vocabulary for every user, over the catalogue for the first one, whose logits a plain loop normalizes.

    --quick    two users, one run, to test the benchmark itself
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import numpy as np
from _causal import causal_setting, our_scores, peer_scores, peer_scores_over_catalogue
from _generator import SIZES, Setting, by_precision, dictionary_trie, generate, setting, token_trie
from _measure import claim, fastest, options, report, speedup_claims, timed

from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood, Likelihood
from gensar_core.generator.prefix_tree import build_trees

CATALOGUE, CANDIDATES, BEAMS = 12_101, 100, 30
#: Users per run: the peer takes seconds for each.
USERS = {"t5_small": 16, "small": 64}
#: The peer of a causal model reads a hundred histories a user.
CAUSAL_USERS = {"t5_small": 4, "small": 32}
REPEATS = 3
#: Largest difference of two scores that count as equal.
EQUAL = 1e-4


def main() -> None:
    """Run the benchmark and print its claims."""
    quick = options("exact ranking of candidates against constrained beam search").parse_args().quick
    claims = []
    for size in SIZES:
        claims += measure(size, 2 if quick else USERS[size], 1 if quick else REPEATS)
    for size in ["small"] if quick else SIZES:
        claims += measure_causal(size, 2 if quick else CAUSAL_USERS[size], 1 if quick else REPEATS)
    report("ranking", claims)


def draw_candidates(users: int) -> np.ndarray:
    """Draw different items for each user, int32 [users, candidates]."""
    draw = np.random.default_rng(1)
    return np.stack([draw.choice(CATALOGUE, CANDIDATES, replace=False) for _ in range(users)]).astype(np.int32)


def measure(size: str, users: int, repeats: int) -> list[dict[str, Any]]:
    """Measure the claims of one model size; ours and the peer alternate, and the fastest run of each counts."""
    case = setting(size, CATALOGUE, users)
    candidates = draw_candidates(users)
    catalogue, rounded = CatalogueLikelihood(token_trie(case.items)), by_precision(case).get("_bfloat16")
    ways: dict[str, Callable[[], np.ndarray]] = {
        "catalogue": lambda: ours(case, candidates, None, catalogue),
        "exact": lambda: ours(case, candidates, None),
        "beams": lambda: ours(case, candidates, BEAMS),
        # Building its tries is part of its work.
        "generate": lambda: generate(case, lambda row: dictionary_trie(case.items.tokens[candidates[row]]), BEAMS),
    }
    ours(case, candidates[:2], None)
    if rounded is not None:
        ways["catalogue_bfloat16"] = lambda: ours(rounded, candidates, None, catalogue)
        ways["bfloat16"] = lambda: ours(rounded, candidates, None)
        ours(rounded, candidates[:2], None)
    seconds, _, scores = fastest(ways, repeats)
    gap = np.abs(-np.sort(-scores["beams"], axis=1)[:, : BEAMS // 2] - scores["generate"][:, : BEAMS // 2]).max()
    if not gap < 1e-2:
        raise SystemExit(f"{size}: the same search gives scores that differ by {gap:.2g}")
    many = np.resize(candidates, (64, CANDIDATES))
    trees = min(timed(lambda: build_trees(many, case.items))[0] for _ in range(20))
    rates = {name: users / value for name, value in seconds.items()}
    print(f"{size}: users/s " + ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items()), flush=True)
    peer = f"users/s of generate with {BEAMS} beams and prefix_allowed_tokens_fn, {users} users, 100 candidates, CPU"
    numerators = {
        "exact": ("", "exact scores of all candidates"),
        "bfloat16": ("_bfloat16", "scores of all candidates in bfloat16"),
        "catalogue": ("_catalogue", "exact scores of all candidates, normalized over the catalogue"),
        "catalogue_bfloat16": ("_catalogue_bfloat16", "the same in bfloat16"),
        "beams": ("_beams", "the same beam search"),
    }
    claims = [
        claim(f"speedup{name}_{size}", rates[way] / rates["generate"], "times", f"{how} / {peer}")
        for way, (name, how) in numerators.items()
        if way in rates
    ]
    if "bfloat16" in scores:
        error = np.abs(scores["bfloat16"] - scores["exact"]).mean() / scores["exact"].std(axis=1).mean()
        spread = "mean change of a score / standard deviation of a user's scores"
        claims.append(claim(f"bfloat16_error_{size}", 100.0 * error, "%", spread))
    return [
        *claims,
        claim(f"users_per_second_{size}", rates["exact"], "users/s", "exact scores of 100 candidates, CPU"),
        claim(f"tree_ms_{size}", trees * 1e3, "ms", "prefix trees of 64 users' candidates"),
    ]


def measure_causal(size: str, users: int, repeats: int) -> list[dict[str, Any]]:
    """Measure the claims of one size of a causal model; ours and the peer alternate, and the fastest run counts."""
    candidates = draw_candidates(users)
    with tempfile.TemporaryDirectory(prefix="gensar-ranking-") as folder:
        case = causal_setting(SIZES[size], CATALOGUE, users, Path(folder))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "catalogue": lambda: our_scores(case, candidates, "catalogue"),
        "exact": lambda: our_scores(case, candidates, "vocabulary"),
        "alone": lambda: peer_scores(case, candidates, cached=False),
        "cached": lambda: peer_scores(case, candidates, cached=True),
    }
    our_scores(case, candidates[:2], "vocabulary")
    seconds, cpu, scores = fastest(ways, repeats)
    gaps = [np.abs(scores["exact"] - scores[way]).max() for way in ("alone", "cached")]
    gaps.append(np.abs(scores["catalogue"][0] - peer_scores_over_catalogue(case, 0, candidates)).max())
    if not max(gaps) < EQUAL:
        raise SystemExit(f"causal, {size}: scores differ from the peer's by {max(gaps):.2g}")
    print(f"causal, {size}: " + ", ".join(f"{way} {users / taken:.3g} users/s" for way, taken in seconds.items()))
    whom = f"users/s of the Hugging Face model, {users} users, {CANDIDATES} candidates, CPU"
    compared = {
        "": ("exact", "alone", f"exact scores of all candidates / {whom}, each candidate read alone"),
        "_cached": ("exact", "cached", f"exact scores of all candidates / {whom}, the history read once"),
        "_catalogue": (
            "catalogue",
            "alone",
            f"normalized over the catalogue / {whom}, each candidate read alone, over the vocabulary",
        ),
    }
    claims = [
        one
        for name, (way, peer, how) in compared.items()
        for one in speedup_claims(f"speedup_causal{name}_{size}", seconds, cpu, way, peer, how)
    ]
    how = f"exact scores of {CANDIDATES} candidates, CPU"
    return [*claims, claim(f"users_per_second_causal_{size}", users / seconds["exact"], "users/s", how)]


def ours(case: Setting, candidates: np.ndarray, beams: int | None, likelihood: Likelihood = VOCABULARY) -> np.ndarray:
    """Compute our scores [users, candidates]."""
    prompts = case.prompts.take(np.arange(len(candidates)))
    return score_candidates(
        case.model, prompts, candidates, case.items, users_per_batch=64, beams=beams, likelihood=likelihood
    )


if __name__ == "__main__":
    main()
