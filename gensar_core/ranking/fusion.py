"""Fuse rankers by a conditional logit over their scores, fitted on the valid candidate lists.

Each part contributes two features of a candidate: its score, and minus the logarithm of its rank in the list. The score
keeps how much better one candidate is than another; the rank is not misled by oddly distributed scores (counts, say).
The probability that candidate c of a list is the target is proportional to exp(w . x_c) (McFadden, 1974), and w
maximizes the likelihood of the valid targets: a convex problem, with the same answer in every run. The logarithm of an
item's training clicks may be an additional feature, the only one whose weight may be negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from scipy.optimize import minimize

from gensar_core import schema
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, concat_ranks, load_candidates, ranks_table
from gensar_core.ranking.metrics import average_ranks, ndcg, ranks_in_list
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import Stage

#: Features of each part, in this order.
FEATURES = ("score", "rank")

_SPLITS = ("valid", "test")


def fuse(parts: Mapping[str, Path], samples: Path, output: Path, name: str, settings: WeightSettings) -> None:
    """Write {name}.parquet (table `ranks`) and its record into the folder ``output``.

    ``parts`` maps the name of each part to its file of scores (table `scores`); ``samples`` is the folder of candidate
    lists. A task is ranked when at least one part scored it. Raises UserError when a part scored other lists than
    these, or when no task can be ranked.
    """
    inputs = [samples / "samples.parquet", samples / "candidates.parquet", *parts.values()]
    inputs += [samples / "training_events.parquet"] if settings.popularity else []
    recorded = {**settings.model_dump(mode="json"), "parts": list(parts)}
    with Stage.named_after(output / name, "fuse", settings=recorded, inputs=inputs, code=__name__) as stage:
        table = schema.SAMPLES.read(samples / "samples.parquet")
        scored = {part: schema.SCORES.read(path).sort("sample_id") for part, path in parts.items()}
        prior = log_clicks(samples / "training_events.parquet") if settings.popularity else None
        ranks = []
        for task in schema.TASKS:
            lists = {split: load_candidates(samples, task, split, samples=table) for split in _SPLITS}
            used = {part: rows for part in scored if (rows := _scores_of(part, scored[part], lists)) is not None}
            if not used or not all(map(len, lists.values())):
                continue
            ranked, weights = fuse_task(
                list(used.values()),
                [lists[split].present for split in _SPLITS],
                settings,
                None if prior is None else [_looked_up(prior, lists[split].items) for split in _SPLITS],
            )
            for split, fused in zip(_SPLITS, ranked, strict=True):
                ranks.append(ranks_table(lists[split], fused))
                stage.record(**{f"{task}_{split}_ndcg@5": ndcg(fused, 5)})
            stage.record(**{f"{task}_weights": _named_weights(list(used), weights)})
        if not ranks:
            raise UserError(f"fusions.{name}: none of {', '.join(parts)} scored the valid and test targets of a task")
        schema.RANKS.write(concat_ranks(ranks), stage.path(f"{name}.parquet"))


def fuse_task(
    parts: Sequence[Sequence[np.ndarray]],
    present: Sequence[np.ndarray],
    settings: WeightSettings,
    prior: Sequence[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Fuse the parts of one task: return the ranks of valid and test targets, and the weights, fitted on valid alone.

    ``parts`` holds each part's scores [rows, width] for valid and test; ``present`` [rows, width] marks the candidates
    of both; ``prior`` is an additional feature, [rows, width] for both, whose weight may have any sign. The weights
    [2 * parts (+ 1)] apply to features of unit standard deviation.
    """
    inside = [features([part[split] for part in parts], present[split]) for split in range(len(_SPLITS))]
    if prior is not None:
        inside = [np.concatenate([part, log[:, :, None]], axis=2) for part, log in zip(inside, prior, strict=True)]
    scale = spread(inside[0], present[0])
    weights = fit_weights(inside[0] / scale, present[0], settings.ridge, signed=int(prior is not None))
    scores = [(part / scale) @ weights for part in inside]
    return [average_ranks(*split) for split in zip(scores, present, strict=True)], weights


def list_scores(scores: pl.DataFrame, lists: CandidateLists) -> np.ndarray | None:
    """Return a part's scores of these lists, float64 [rows, width], 0 without a candidate; None if it scored no list.

    Raises UserError when it scored only some of the lists, or lists of other lengths.
    """
    wanted = lists.samples.select("sample_id")
    rows = wanted.join(scores, on="sample_id", how="left", maintain_order="left").get_column("scores")
    if rows.null_count() == len(rows):
        return None
    scored = Ragged.from_series(rows)
    if rows.null_count() or (scored.lengths != lists.present.sum(axis=1)).any():
        raise UserError("its scores are of other candidate lists than these; delete its ranks and run again")
    matrix: np.ndarray = scored.padded(lists.items.shape[1], 0).astype(np.float64)
    return matrix


def features(parts: list[np.ndarray], present: np.ndarray) -> np.ndarray:
    """Compute the candidates' features [rows, width, 2 * parts] from the scores [rows, width] of each part.

    Scores are centred on the mean of their list; minus infinity (a candidate that a beam search missed) becomes one
    less than the lowest finite score of the list.
    """
    columns = []
    for scores in parts:
        finite = np.where(present & np.isfinite(scores), scores, np.nan)
        lowest = np.nan_to_num(np.nanmin(finite, axis=1, initial=np.inf), posinf=0.0)
        filled = np.where(np.isfinite(scores), scores, lowest[:, None] - 1.0)
        mean = np.where(present, filled, 0.0).sum(axis=1) / present.sum(axis=1)
        columns.append(np.where(present, filled - mean[:, None], 0.0))
        columns.append(-np.log(np.maximum(ranks_in_list(filled, present), 1.0)))
    return np.stack(columns, axis=2)


def spread(inside: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Compute the standard deviation of each feature over all candidates, [features]; 1 for a constant feature."""
    deviation = inside[present].std(axis=0)
    spread: np.ndarray = np.where(deviation > 0, deviation, 1.0)
    return spread


def log_clicks(training_events: Path) -> np.ndarray:
    """Compute log(1 + training clicks) of each item, both tasks together, [items up to the last clicked one]."""
    clicked = schema.EVENTS.read(training_events).get_column("item_id").drop_nulls().to_numpy()
    counted: np.ndarray = np.log1p(np.bincount(clicked))
    return counted


def fit_weights(inside: np.ndarray, present: np.ndarray, ridge: float, signed: int = 0) -> np.ndarray:
    """Fit the weights [features] that maximize the likelihood of the targets, which are column 0 of ``inside``.

    ``inside`` [rows, width, features], ``present`` [rows, width]. Minimizes the mean of -log p(target) plus
    ``ridge`` / 2 times the squared weights. Only the last ``signed`` weights may be negative: a part may count little
    but never against its own scores, and a part alone keeps its order.
    """

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = np.where(present, inside @ weights, -np.inf)
        top = logits.max(axis=1, keepdims=True)
        shares = np.exp(logits - top)
        mass = shares.sum(axis=1, keepdims=True)
        shares /= mass
        loss = float(np.mean(top[:, 0] + np.log(mass[:, 0]) - logits[:, 0]))
        expected = np.einsum("rw,rwf->f", shares, inside) / len(inside)
        gradient = expected - inside[:, 0].mean(axis=0)
        return loss + 0.5 * ridge * float(weights @ weights), gradient + ridge * weights

    start = np.zeros(inside.shape[2])
    bounds = [(0.0, None)] * (len(start) - signed) + [(None, None)] * signed
    options = {"maxiter": 500}
    weights: np.ndarray = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return weights


def _looked_up(prior: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Look up ``prior`` for ``items`` [rows, width]; 0 past its end (items without clicks) and without a candidate."""
    inside = (items >= 0) & (items < len(prior))
    return np.where(inside, prior[np.where(inside, items, 0)], 0.0)


def _scores_of(part: str, scores: pl.DataFrame, lists: Mapping[str, CandidateLists]) -> list[np.ndarray] | None:
    """Return a part's scores of the valid and test lists of a task; None when it does not rank the task."""
    try:
        by_split = [list_scores(scores, lists[split]) for split in _SPLITS]
    except UserError as error:
        raise UserError(f"{part}: {error}") from None
    scored = [matrix for matrix in by_split if matrix is not None]
    if scored and len(scored) < len(by_split):
        raise UserError(f"{part}: scored one split of a task and not the other; delete its ranks and run again")
    return scored or None


def _named_weights(parts: list[str], weights: np.ndarray) -> dict[str, dict[str, float]]:
    by_part = weights[: len(parts) * len(FEATURES)].reshape(len(parts), len(FEATURES))
    prior = {"popularity": {"log_clicks": round(float(weights[-1]), 6)}} if weights.size > by_part.size else {}
    return prior | {
        part: {name: round(float(value), 6) for name, value in zip(FEATURES, row, strict=True)}
        for part, row in zip(parts, by_part, strict=True)
    }
