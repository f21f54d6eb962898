"""Learn GenRet's codes by discrete auto-encoding, one level after another (Sun et al., 2023, section 3).

At each level the codes of earlier levels stand. A short training brings the level's vectors of queries and items
together; k-means, with bounded sizes and inside the groups of items that share their codes so far, initializes the
codebook; the main training learns codebook and vectors together; and every item takes its best code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gensar_core.config.identifiers import GenRetSettings
from gensar_core.identifiers.bounded_kmeans import bounded_kmeans
from gensar_core.identifiers.genret_model import GenRetModel, LevelBatch
from gensar_core.identifiers.quality import collision_rate
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.training.loop import Schedule, train

#: Texts read at once without gradients.
_ROWS: Final = 256
#: Scores of items held at once.
_SCORES: Final = 1 << 24


@dataclass(frozen=True)
class SearchPairs:
    """Hold the texts of items and queries as tokens, and the pairs of a query and an item clicked after it."""

    #: Tokens with an end of sequence, a row for each item, and for each query.
    items: Ragged
    queries: Ragged
    #: Item and query of each pair [pairs], in training and held out.
    learned: tuple[np.ndarray, np.ndarray]
    held_out: tuple[np.ndarray, np.ndarray]

    @cached_property
    def of_item(self) -> Ragged:
        """Map each item to its queries of training."""
        item, query = self.learned
        return _grouped(item, query, len(self.items))

    @cached_property
    def of_query(self) -> Ragged:
        """Map each query to all items that it led to, in order."""
        item, query = (np.concatenate(both) for both in zip(self.learned, self.held_out, strict=True))
        order = np.argsort(item, kind="stable")
        return _grouped(query[order], item[order], len(self.queries))

    def led_to(self, query: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Mark which of ``items`` [B] each ``query`` [A] led to, bool [A, B]."""
        place = np.full(len(self.items), -1)
        place[items] = np.arange(len(items))
        found = self.of_query.take(query)
        columns = place[found.values]
        marked = np.zeros((len(query), len(items)), dtype=bool)
        marked[found.rows[columns >= 0], columns[columns >= 0]] = True
        return marked


@dataclass(frozen=True)
class LearnedCodes:
    """Hold the codes [items, levels], the curve of the training, and figures of each level."""

    codes: np.ndarray
    history: list[dict[str, float]]
    figures: list[dict[str, float]]


def learn_codes(
    model: GenRetModel,
    searches: SearchPairs,
    settings: GenRetSettings,
    seed: int,
    checkpoints: Path | None = None,
    key: str = "",
) -> LearnedCodes:
    """Learn codes, level after level; ``model`` keeps the weights of the last level.

    ``checkpoints`` and ``key`` are those of `training.loop.train`; each training has a folder of its own in it.
    """
    codes = np.zeros((len(searches.items), 0), dtype=np.int64)
    history: list[dict[str, float]] = []
    figures: list[dict[str, float]] = []
    for level in range(settings.levels):
        for phase in ("warm-up", "main"):
            name = f"level {level + 1} {phase}"
            task = LevelTraining(model, searches, codes, settings, derive_seed(seed, name), main=phase == "main")
            if task.main:
                vectors = task.item_vectors().cpu().numpy()
                start_codebook(model, vectors, codes, derive_seed(seed, name, "codebook"))
            record = train(
                task,
                task.schedule(),
                seed=derive_seed(seed, name, "steps"),
                description=f"GenRet {name}",
                checkpoints=checkpoints / name.replace(" ", "-") if checkpoints is not None else None,
                key=key,
            )
            model.eval()
            done = history[-1]["step"] if history else 0.0
            history += [{**entry, "step": done + entry["step"], "level": level + 1.0} for entry in record.history]
        vectors_of_level = task.item_vectors()
        codes = np.column_stack([codes, task.best_codes(vectors_of_level)])
        figures.append(task.recalls(vectors_of_level))
    return LearnedCodes(codes, history, figures)


class LevelTraining:
    """Adapt one training of a level to the training loop."""

    def __init__(
        self,
        model: GenRetModel,
        searches: SearchPairs,
        codes: np.ndarray,
        settings: GenRetSettings,
        seed: int,
        *,
        main: bool,
    ) -> None:
        """Train the level after ``codes`` [items, t]; ``main`` trains its codebook as well."""
        self.module: torch.nn.Module = model
        self.model, self.searches, self.codes = model, searches, codes
        self.settings, self.seed, self.main = settings, seed, main
        self.level = codes.shape[1]
        self.device = model.start.device
        self.batch_size = min(settings.batch_size, len(codes))
        self.steps_per_epoch = -(-len(codes) // self.batch_size)
        for number, codebook in enumerate(model.codebooks):
            codebook.requires_grad_(main and number == self.level)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [weights for weights in model.parameters() if weights.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )

    def schedule(self) -> Schedule:
        """Convert epochs to steps: a warm-up is not cut short, the main training stops early."""
        settings, each = self.settings, self.steps_per_epoch
        if self.main:
            every = min(settings.evaluate_every, settings.epochs) * each
            return Schedule(settings.epochs * each, every, settings.patience, settings.gradient_clip)
        total = (settings.warmup_epochs if self.level else settings.first_warmup_epochs) * each
        return Schedule(total, total, None, settings.gradient_clip)

    def batches(self, first_step: int) -> Iterator[LevelBatch]:
        """Return batches of items that share their codes so far, and a random query of each item that has some."""
        step = first_step
        while True:
            epoch, inside = divmod(step, self.steps_per_epoch)
            rng = generator(self.seed, "epoch", epoch)
            order = prefix_order(self.codes, rng)
            # Fill the last batch with other items.
            order = np.resize(order, self.steps_per_epoch * self.batch_size)
            draws = rng.random(len(order))
            for number in range(inside, self.steps_per_epoch):
                part = slice(number * self.batch_size, (number + 1) * self.batch_size)
                yield self._batch(order[part], draws[part])
                step += 1

    def _batch(self, items: np.ndarray, draws: np.ndarray) -> LevelBatch:
        queries = self.searches.of_item
        counts = queries.lengths_of(items)
        asked = np.flatnonzero(counts)
        chosen = (draws[asked] * counts[asked]).astype(np.int64)
        query = queries.values[queries.offsets[items[asked]] + chosen]
        alike = self.searches.led_to(query, items)
        alike[np.arange(len(asked)), asked] = False
        return LevelBatch(
            self._tokens(self.searches.items, items),
            self._put(self.codes[items]),
            self._tokens(self.searches.queries, query),
            self._put(asked),
            self._put(alike),
        )

    def backward(self, batch: LevelBatch) -> Mapping[str, Tensor]:
        """Run one step's passes."""
        losses = self.model.losses(batch, codes=self.main)
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in losses.items()}

    def validate(self) -> Mapping[str, float]:
        """Return the level's recalls and, past its warm-up, the collision rate; the score is the mean of the recalls.

        The recall of vectors alone would keep the weights of the first epochs, whose codes are not yet even.
        """
        vectors = self.item_vectors()
        metrics = self.recalls(vectors)
        if not self.main:
            # The codebook is still empty.
            return {"score": metrics["recall"], "recall": metrics["recall"]}
        codes = np.column_stack([self.codes, self.best_codes(vectors)])
        return {
            "score": (metrics["recall"] + metrics["code_recall"]) / 2,
            **metrics,
            "collision_rate": collision_rate(torch.from_numpy(codes)),
        }

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Compute the vector h_t of every item at this level [items, d_model]."""
        return self._vectors(self.searches.items, np.arange(len(self.codes)), self.codes)

    @torch.no_grad()
    def best_codes(self, vectors: Tensor) -> np.ndarray:
        """Choose each item's code of largest logit [items]: balance is for training alone."""
        best: np.ndarray = (vectors @ self.model.codebooks[self.level].T).argmax(dim=1).cpu().numpy()
        return best

    @torch.no_grad()
    def recalls(self, vectors: Tensor) -> dict[str, float]:
        """Compute the recalls at rank 1 of held-out pairs among the items with the same codes so far.

        Other items that the query led to are left out. `recall`: items are ranked by the products of their vectors and
        the query's; ties count against. `code_recall`: they are ranked by the logits of their codes alone, items of one
        code in random order, so the most that K even codes can reach among n items is K / n.
        """
        item, query = self.searches.held_out
        query_vectors = self._vectors(self.searches.queries, query, self.codes[item])
        codebook = self.model.codebooks[self.level]
        codes, group = self._put(self.best_codes(vectors)), prefix_groups(self.codes)
        holds = functional.one_hot(codes, len(codebook)).to(vectors.dtype)
        found = found_by_code = 0.0
        rows = max(1, _SCORES // len(vectors))
        for start in range(0, len(item), rows):
            part = slice(start, start + rows)
            known = self.searches.led_to(query[part], np.arange(len(vectors)))
            rivals = self._put((group[None] == group[item[part], None]) & ~known)
            own = self._put(item[part, None])
            scores = query_vectors[part] @ vectors.T
            best = scores.masked_fill(~rivals, -torch.inf).amax(dim=1, keepdim=True)
            found += float((scores.gather(1, own) > best).sum())
            with_code = rivals.to(holds.dtype) @ holds
            logits = query_vectors[part] @ codebook.T
            best = logits.masked_fill(with_code == 0, -torch.inf).amax(dim=1, keepdim=True)
            code = codes[own]
            found_by_code += float(((logits.gather(1, code) >= best) / (with_code.gather(1, code) + 1)).sum())
        return {"recall": found / len(item), "code_recall": found_by_code / len(item)}

    def _vectors(self, texts: Ragged, rows: np.ndarray, codes: np.ndarray) -> Tensor:
        """Compute h_t of the ``rows`` of ``texts`` after ``codes`` [rows, t], in batches of texts of like length."""
        was_training = self.model.training
        self.model.eval()
        order = np.argsort(texts.lengths_of(rows), kind="stable")
        vectors = torch.empty((len(rows), len(self.model.start)), device=self.device)
        for start in range(0, len(rows), _ROWS):
            part = order[start : start + _ROWS]
            outputs = self.model.outputs(self._tokens(texts, rows[part]), self._put(codes[part]))
            vectors[self._put(part)] = outputs[:, self.level]
        self.model.train(was_training)
        return vectors

    def _tokens(self, texts: Ragged, rows: np.ndarray) -> Tensor:
        chosen = texts.take(rows)
        return self._put(chosen.padded(int(chosen.lengths.max(initial=1)), -1).astype(np.int64))

    def _put(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def prefix_groups(codes: np.ndarray) -> np.ndarray:
    """Number the groups of items with equal ``codes`` [items, t], from 0 [items]."""
    if not codes.shape[1]:
        return np.zeros(len(codes), dtype=np.int64)
    _, group = np.unique(codes, axis=0, return_inverse=True)
    return np.asarray(group).reshape(-1)


def prefix_order(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Order all items at random, those with equal ``codes`` [items, t] side by side [items].

    Batches cut from it hold whole groups where these are small, and one group alone where it is large: an item's
    rivals are those that only the next code can tell from it.
    """
    group = prefix_groups(codes)
    place = rng.permutation(int(group.max()) + 1)
    items = rng.permutation(len(codes))
    order: np.ndarray = items[np.argsort(place[group[items]], kind="stable")]
    return order


def start_codebook(model: GenRetModel, vectors: np.ndarray, codes: np.ndarray, seed: int) -> None:
    """Set the codebook of the level after ``codes`` [items, t] to centers of its item ``vectors`` [items, d_model].

    Each group with equal codes is first moved to the mean of all, so that centers tell its items apart.
    """
    group = prefix_groups(codes)
    sums = np.zeros((int(group.max()) + 1, vectors.shape[1]))
    np.add.at(sums, group, vectors)
    means = sums / np.bincount(group)[:, None]
    spread = (vectors - means[group] + vectors.mean(axis=0)).astype(np.float32)
    codebook = model.codebooks[codes.shape[1]]
    items, size = len(vectors), len(codebook)
    # The authors' bounds; the upper one must also leave room for all items.
    least, most = min(items // (2 * size), size // 4), max(2 * size, -(-items // size))
    centers = bounded_kmeans(spread, size, least, most, seed)
    codebook.data.copy_(torch.from_numpy(centers))


def _grouped(keys: np.ndarray, values: np.ndarray, rows: int) -> Ragged:
    """Group ``values`` by ``keys``: row k holds those of key k, in their order."""
    order = np.argsort(keys, kind="stable")
    return Ragged.from_lengths(np.bincount(keys, minlength=rows), values[order])
