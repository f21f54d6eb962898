"""Fuse rankers by a conditional logit over their scores, fitted on the valid candidate lists.

Each part contributes two features of a candidate: its score, and minus the logarithm of its rank in the list. The score
keeps how much better one candidate is than another; the rank is not misled by oddly distributed scores (counts, say).
The probability that candidate c of a list is the target is proportional to exp(w . x_c) (McFadden, 1974), and w
maximizes the likelihood of the valid targets: a convex problem, with the same answer in every run. The logarithm of an
item's training clicks may be an additional feature, the only one whose weight may be negative.

Lists are read and ranked block by block. A few weights need no more than `_FITTED` valid lists, so memory does not grow
with the lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from scipy.optimize import minimize

from gensar_core import schema
from gensar_core.config.fusions import WeightSettings
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateBlocks, CandidateLists, ranks_table
from gensar_core.ranking.metrics import average_ranks, count_codes, mean_gain, rank_codes, ranks_in_list
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.reading import PART_ROWS
from gensar_core.runtime.stage import Stage
from gensar_core.runtime.writing import TableWriter
from gensar_core.samples.popularity import count_clicks

#: Features of each part, in this order.
FEATURES = ("score", "rank")

#: Valid lists, evenly spread, that the weights are fitted on at most.
_FITTED: Final = 1 << 17
#: Lists read at a time, and of these, ranked at a time: limit memory, affect no rank and of weights only the rounding.
_READ: Final = 1 << 16
_ROWS: Final = 1 << 13


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
        prior = log_clicks(samples / "training_events.parquet") if settings.popularity else None
        fused = False
        with TableWriter(schema.RANKS, stage.path(f"{name}.parquet"), rows=PART_ROWS) as table:
            for task in schema.TASKS:
                valid, test = (CandidateBlocks.open(samples, task, split, _READ) for split in ("valid", "test"))
                used = _ranking_parts(parts, valid) if len(valid) and len(test) else []
                if not used:
                    continue
                fused = True
                chosen = np.linspace(0, len(valid) - 1, min(len(valid), _FITTED)).round().astype(np.int64)
                views = [(inside, lists.present) for lists, inside in _views(valid, parts, used, prior, chosen)]
                scale, weights = fit_fusion(views, settings, signed=int(prior is not None))
                del views
                for blocks in (valid, test):
                    counts = count_codes(np.zeros(0, dtype=np.uint16))
                    for lists, inside in _views(blocks, parts, used, prior):
                        ranks = average_ranks((inside / scale) @ weights, lists.present)
                        counts += count_codes(rank_codes(ranks))
                        table.write(ranks_table(lists, ranks))
                    stage.record(**{f"{task}_{blocks.split}_ndcg@5": mean_gain(counts, "ndcg@5")})
                stage.record(**{f"{task}_weights": named_weights(used, weights)})
        if not fused:
            raise UserError(f"fusions.{name}: none of {', '.join(parts)} scored the valid and test targets of a task")


def fit_fusion(
    views: Sequence[tuple[np.ndarray, np.ndarray]], settings: WeightSettings, signed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the parts of one task to its valid lists; return the features' scale and weights, [features] both.

    ``views`` are blocks of features [rows, width, features], which are divided by their scale in place, and of their
    candidates [rows, width]. The weights apply to features of unit standard deviation; see `fit_weights`.
    """
    scale = spread(views)
    for inside, _ in views:
        inside /= scale
    return scale, fit_weights(views, settings.ridge, signed)


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


def spread(views: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Compute the standard deviation of each feature over all candidates, [features]; 1 for a constant feature.

    ``views`` are as in `fit_fusion`.
    """
    count = sum(int(present.sum()) for _, present in views)
    mean = sum(inside[present].sum(axis=0) for inside, present in views) / count
    deviation = np.sqrt(sum(((inside[present] - mean) ** 2).sum(axis=0) for inside, present in views) / count)
    spread: np.ndarray = np.where(deviation > 0, deviation, 1.0)
    return spread


def log_clicks(training_events: Path) -> np.ndarray:
    """Compute log(1 + training clicks) of each item, both tasks together, [items up to the last clicked one]."""
    counted: np.ndarray = np.log1p(count_clicks(training_events))
    return counted


def fit_weights(views: Sequence[tuple[np.ndarray, np.ndarray]], ridge: float, signed: int = 0) -> np.ndarray:
    """Fit the weights [features] that maximize the likelihood of the targets, which are column 0 of the features.

    ``views`` are as in `fit_fusion`. Minimizes the mean of -log p(target) plus ``ridge`` / 2 times the squared weights.
    Only the last ``signed`` weights may be negative: a part may count little but never against its own scores, and a
    part alone keeps its order.
    """
    count = sum(len(inside) for inside, _ in views)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        loss, gradient = 0.0, np.zeros_like(weights)
        for inside, present in views:
            logits = np.where(present, inside @ weights, -np.inf)
            top = logits.max(axis=1, keepdims=True)
            shares = np.exp(logits - top)
            mass = shares.sum(axis=1, keepdims=True)
            shares /= mass
            loss += float(np.sum(top[:, 0] + np.log(mass[:, 0]) - logits[:, 0]))
            gradient += np.einsum("rw,rwf->f", shares, inside) - inside[:, 0].sum(axis=0)
        return loss / count + 0.5 * ridge * float(weights @ weights), gradient / count + ridge * weights

    start = np.zeros(views[0][0].shape[2])
    bounds = [(0.0, None)] * (len(start) - signed) + [(None, None)] * signed
    options = {"maxiter": 500}
    weights: np.ndarray = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    return weights


def _looked_up(prior: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Look up ``prior`` for ``items`` [rows, width]; 0 past its end (items without clicks) and without a candidate."""
    inside = (items >= 0) & (items < len(prior))
    return np.where(inside, prior[np.where(inside, items, 0)], 0.0)


def _ranking_parts(parts: Mapping[str, Path], lists: CandidateBlocks) -> list[str]:
    """Return the parts that rank a task: those that scored the first of its valid lists."""
    first = next(lists.read(0, 1)).take(0, 1)
    return [part for part, path in parts.items() if _scores_of(part, _scores(path, first), first) is not None]


def _views(
    blocks: CandidateBlocks,
    parts: Mapping[str, Path],
    used: Sequence[str],
    prior: np.ndarray | None,
    chosen: np.ndarray | None = None,
) -> Iterator[tuple[CandidateLists, np.ndarray]]:
    """Yield lists with their features [rows, width, features] of the parts ``used``, and of ``prior``, block by block.

    ``chosen`` are the places of the lists to take, ascending; None takes all. Raises UserError when a part that ranks
    the task did not score each of the lists, or another scored one.
    """
    first = 0
    for large in blocks.read():
        scores = {part: _scores(path, large) for part, path in parts.items()}
        for start in range(0, len(large), _ROWS):
            lists = large.take(start, start + _ROWS)
            if chosen is not None:
                mine = chosen[np.searchsorted(chosen, first) : np.searchsorted(chosen, first + len(lists))] - first
                first += len(lists)
                lists = CandidateLists(lists.samples[mine], lists.items[mine])
            if not len(lists):
                continue
            matrices = {part: _scores_of(part, scores[part], lists) for part in parts}
            for part, matrix in matrices.items():
                if (matrix is None) == (part in used):
                    raise UserError(
                        f"{part}: scored one split of a task and not the other; delete its ranks and run again"
                    )
            inside = features([matrix for matrix in matrices.values() if matrix is not None], lists.present)
            if prior is not None:
                inside = np.concatenate([inside, _looked_up(prior, lists.items)[:, :, None]], axis=2)
            yield lists, inside


def _scores(path: Path, lists: CandidateLists) -> pl.DataFrame:
    """Read the scores of the lists' samples, and of samples between them."""
    ids = lists.samples.get_column("sample_id")
    return schema.SCORES.read(path, pl.col("sample_id").is_between(ids.min(), ids.max()))


def _scores_of(part: str, scores: pl.DataFrame, lists: CandidateLists) -> np.ndarray | None:
    """Return a part's scores of some lists; None when it scored none of them."""
    try:
        return list_scores(scores, lists)
    except UserError as error:
        raise UserError(f"{part}: {error}") from None


def named_weights(parts: Sequence[str], weights: np.ndarray) -> dict[str, dict[str, float]]:
    """Name the weights [features] of ``parts``, and of popularity if there is one more, for a stage's record."""
    by_part = weights[: len(parts) * len(FEATURES)].reshape(len(parts), len(FEATURES))
    prior = {"popularity": {"log_clicks": round(float(weights[-1]), 6)}} if weights.size > by_part.size else {}
    return prior | {
        part: {name: round(float(value), 6) for name, value in zip(FEATURES, row, strict=True)}
        for part, row in zip(parts, by_part, strict=True)
    }
