"""Compare searching the whole catalogue with Hugging Face's constrained beam search, and measure the trie's cost.

`python benchmarks/retrieval.py` searches the 12,101 items of Beauty with 30 beams, on the CPU and with the same
weights, by tensor trie and by `generate` with `prefix_allowed_tokens_fn` over a dictionary trie. Both run the same
search, and there is no claim unless their best scores agree. It also measures this search normalized over the catalogue
instead of the vocabulary, and both in bfloat16 if the CPU multiplies in it. A single user's search is timed on all
cores and on one. Then it searches catalogues of 12,101, 100,000 and 1,000,000 items and reports the time outside the
model relative to the time in it: finding children in the trie, choosing the best continuations, mapping them to items.

A causal model over users' logs searches for as many users, against `generate` of its own folder in the library. Vectors
of nodes and queries and click evidence are switched off, because the library's model cannot have them. There is no
claim unless the items in the better half of the beams are the same, and their scores agree to 1e-4.

    --quick    two users, the small model, catalogues up to 100,000 items, to test the benchmark itself
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _calm  # noqa: F401
import numpy as np
from _causal import causal_setting, our_search, peer_search
from _generator import SIZES, Setting, by_precision, catalogue, dictionary_trie, generate, setting, token_trie
from _measure import claim, fastest, options, report, speedup_claims, timed

from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator import beam_search as module
from gensar_core.generator.beam_search import beam_search
from gensar_core.generator.likelihoods import VOCABULARY, CatalogueLikelihood, Likelihood

CATALOGUE, BEAMS = 12_101, 30
CATALOGUES = {"12k": CATALOGUE, "100k": 100_000, "1m": 1_000_000}
USERS = {"t5_small": 16, "small": 64}
REPEATS = 3
#: Largest difference of two scores that count as equal.
EQUAL = 1e-4
#: Functions of the search that run outside the model.
TRIE_PARTS = ("by_slot", "_best", "_items")


def main() -> None:
    """Run the benchmark and print its claims."""
    quick = options("search in the whole catalogue against constrained beam search").parse_args().quick
    claims = []
    for size in ["small"] if quick else SIZES:
        users, repeats = (2, 1) if quick else (USERS[size], REPEATS)
        case = setting(size, CATALOGUE, users)
        claims += speedup(case, size, repeats)
        claims += single_question(case, size, repeats)
        claims += causal_speedup(size, users, repeats)
        for name, n_items in CATALOGUES.items():
            claims.append(trie_share(case, size, name, min(n_items, 100_000) if quick else n_items, repeats))
    report("retrieval", claims)


def speedup(case: Setting, size: str, repeats: int) -> list[dict[str, Any]]:
    """Measure the claims of one model size; ours and the peer alternate, and the fastest run of each counts."""
    users = len(case.prompts)
    trie = token_trie(case.items)
    nested = dictionary_trie(case.items.tokens)
    cases = by_precision(case)
    ways: dict[str, Callable[[], np.ndarray]] = {}
    for precision, one in cases.items():
        for suffix, likelihood in (("_over_catalogue", CatalogueLikelihood(trie)), ("", VOCABULARY)):
            ways[suffix + precision] = functools.partial(ours, one, trie, likelihood)
    ways["generate"] = lambda: generate(case, lambda _: nested, BEAMS)
    for one in cases.values():
        ours(one, trie, VOCABULARY)
    seconds, _, scores = fastest(ways, repeats)
    gap = np.abs(scores[""][:, : BEAMS // 2] - scores["generate"][:, : BEAMS // 2]).max()
    if not gap < 1e-2:
        raise SystemExit(f"{size}: the same search gives scores that differ by {gap:.2g}")
    theirs = seconds.pop("generate")
    print(f"{size}: {users / seconds['']:.3g} users/s, generate {users / theirs:.3g} users/s", flush=True)
    how = f"users/s / users/s of generate with prefix_allowed_tokens_fn, {BEAMS} beams, {CATALOGUE} items, {size}, CPU"
    name = "speedup_prefix_fn" if size == "small" else f"speedup_prefix_fn_{size}"
    return [
        *(claim(name + way, theirs / taken, "times", how) for way, taken in seconds.items()),
        claim(f"users_per_second_{size}", users / seconds[""], "users/s", f"{BEAMS} beams, {CATALOGUE} items, CPU"),
    ]


def causal_speedup(size: str, users: int, repeats: int) -> list[dict[str, Any]]:
    """Measure the claims of one size of a causal model; ours and the peer alternate, and the fastest run counts."""
    with tempfile.TemporaryDirectory(prefix="gensar-retrieval-") as folder:
        case = causal_setting(SIZES[size], CATALOGUE, users, Path(folder))
    nested = dictionary_trie(case.codes)
    ways: dict[str, Callable[[], Any]] = {
        "_over_catalogue": lambda: our_search(case, BEAMS, "catalogue"),
        "": lambda: our_search(case, BEAMS, "vocabulary"),
        "generate": lambda: peer_search(case, BEAMS, nested),
    }
    our_search(case, BEAMS, "vocabulary")
    seconds, cpu, found = fastest(ways, repeats)
    half, (codes, scores) = BEAMS // 2, found["generate"]
    gap = np.abs(found[""].scores - scores)[:, :half].max()
    if not gap < EQUAL or not np.array_equal(case.codes[found[""].items][:, :half], codes[:, :half]):
        raise SystemExit(f"causal, {size}: finds other items than generate, or scores that differ by {gap:.2g}")
    rates = {way: users / taken for way, taken in seconds.items()}
    print(f"causal, {size}: {rates['']:.3g} users/s, generate {rates['generate']:.3g} users/s", flush=True)
    how = f"users/s / users/s of generate with prefix_allowed_tokens_fn, {BEAMS} beams, {CATALOGUE} items, {size}, CPU"
    claims = [
        one
        for way in ("_over_catalogue", "")
        for one in speedup_claims(f"speedup_causal{way}_{size}", seconds, cpu, way, "generate", how)
    ]
    how = f"{BEAMS} beams, {CATALOGUE} items, CPU"
    return [*claims, claim(f"users_per_second_causal_{size}", rates[""], "users/s", how)]


def ours(case: Setting, trie: TokenTrie, likelihood: Likelihood) -> np.ndarray:
    """Run our search; return its scores, best first [users, beams]."""
    return beam_search(case.model, case.prompts, trie, beams=BEAMS, likelihood=likelihood).scores


def single_question(case: Setting, size: str, repeats: int) -> list[dict[str, Any]]:
    """Measure one user's search on all cores at once, and its speed-up over one core."""
    trie, claims = token_trie(case.items), []
    for precision, one in by_precision(case).items():
        prompt = one.prompts.take(np.zeros(1, dtype=np.int64))
        seconds = {False: np.inf, True: np.inf}
        for _ in range(2 * repeats):
            for at_once in seconds:
                ask = functools.partial(beam_search, one.model, prompt, trie, beams=50, answer_at_once=at_once)
                seconds[at_once] = min(seconds[at_once], timed(ask)[0])
        how = f"one user, 50 beams, {CATALOGUE} items, {size}, CPU"
        claims.append(claim(f"one_question_{size}{precision}", 1000 * seconds[True], "ms", f"on all cores: {how}"))
        name = f"one_question_speedup_{size}{precision}"
        claims.append(claim(name, seconds[False] / seconds[True], "times", f"on one core / on all cores: {how}"))
    return claims


def trie_share(case: Setting, size: str, name: str, n_items: int, repeats: int) -> dict[str, Any]:
    """Measure one catalogue: time outside the model / time in the model."""
    trie = token_trie(catalogue(n_items, SIZES[size]["words"], np.random.default_rng(0)))
    beam_search(case.model, case.prompts, trie, beams=BEAMS)
    shares = []
    for _ in range(2 * repeats):
        clock = Clock()
        functions = {part: getattr(module, part) for part in TRIE_PARTS}
        try:
            for part, function in functions.items():
                setattr(module, part, clock.watch(function))
            seconds, _ = timed(lambda: beam_search(case.model, case.prompts, trie, beams=BEAMS))
        finally:
            for part, function in functions.items():
                setattr(module, part, function)
        shares.append(clock.seconds / (seconds - clock.seconds))
    label = f"trie_share_{name}" if size == "small" else f"trie_share_{name}_{size}"
    how = f"seconds outside the model / seconds in the model, {n_items} items, {BEAMS} beams, {size}, CPU"
    return claim(label, 100.0 * float(np.median(shares)), "%", how)


class Clock:
    """Sum the seconds that watched functions take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to count its seconds."""

        def watched(*arguments: Any) -> Any:
            started = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - started
            return result

        return watched


if __name__ == "__main__":
    main()
