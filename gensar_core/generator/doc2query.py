"""Train a T5 to predict the queries that lead to an item's text, and sample queries for every item.

The stage `pseudo_queries`, after Nogueira et al. (2019), "Document expansion by query prediction". The model sees
training pairs only: queries of search clicks that methods may train on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.config.pseudo_queries import PseudoQuerySettings
from gensar_core.corpora.read import Examples, PromptInputs
from gensar_core.corpora.token_pieces import beside, repeated
from gensar_core.embeddings.item_texts import Texts, tokenize_catalogue
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.batches import Batches
from gensar_core.generator.prompt_batches import padded_tokens
from gensar_core.generator.training_task import GeneratorTask
from gensar_core.nn.t5 import t5_of_tokenizer
from gensar_core.runtime.arrays import Ragged, stretches
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.hashing import row_keys, uniform
from gensar_core.runtime.mapped_arrays import MappedArray, mapped_parts, mapped_zeros
from gensar_core.runtime.progress import progress
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.stage import Stage, write_json
from gensar_core.samples.search_clicks import SearchClicks
from gensar_core.training.loop import train
from gensar_core.training.state import TrainingRecord

#: Queries sampled at once: each holds its item's encoded text in every layer.
_QUERIES: Final = 256


def make_pseudo_queries(
    canonical: Path, samples: Path, output: Path, settings: PseudoQuerySettings, seed: int, checkpoints: Path | None
) -> None:
    """Write ``output``/pseudo_queries.parquet (table `pseudo_queries`) and curve.json.

    Training pairs come from samples/training_events.parquet; with ``settings.epochs`` 0 there is no training. An item
    without text gets no query, and equal queries of an item are kept once. ``checkpoints`` is a folder for this
    training only, from which a killed run continues. Raises UserError if there are no pairs, or if backbone and
    tokenizer do not belong together.
    """
    inputs = [canonical / "items.parquet", canonical / "queries.parquet", samples / "training_events.parquet"]
    with Stage("pseudo_queries", output, settings=settings, inputs=inputs, seed=seed, code=__name__) as stage:
        texts = _Texts.read(canonical, settings)
        model = t5_of_tokenizer(settings.backbone, settings.size, texts.tokenizer, settings.tokenizer, seed).to(
            pick_device()
        )
        history: list[dict[str, float]] = []
        if settings.epochs:
            pairs = training_pairs(samples / "training_events.parquet", texts.items.empty)
            record = _learn(model, texts, pairs, settings, seed, checkpoints, stage)
            history = record.history
        table = sample_queries(model, texts.tokenizer, texts.items, settings, derive_seed(seed, "sampling"))
        schema.PSEUDO_QUERIES.write(table, stage.path("pseudo_queries.parquet"))
        write_json(stage.path("curve.json"), history)
        stage.record(
            pseudo_queries=len(table),
            items_without=len(texts.items.texts) - table.get_column("item_id").n_unique(),
        )
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _learn(
    model: Backbone,
    texts: _Texts,
    pairs: Pairs,
    settings: PseudoQuerySettings,
    seed: int,
    checkpoints: Path | None,
    stage: Stage,
) -> TrainingRecord:
    """Train the model on (item, query) pairs and keep its weights at the lowest held-out loss."""
    learned, held_out = _split(pairs, settings.held_out, derive_seed(seed, "held out"))
    task = QueryTask(model, settings, texts.examples(learned), texts.examples(held_out), derive_seed(seed, "order"))
    record = train(
        task,
        task.schedule(),
        seed=derive_seed(seed, "training"),
        description="train doc2query",
        checkpoints=checkpoints,
        key=stage.key,
    )
    stage.record(
        pairs=len(pairs),
        held_out_pairs=len(held_out),
        best_step=record.best_step,
        held_out_loss=-record.best_score,
    )
    return record


@dataclass(frozen=True)
class Pairs:
    """Hold distinct pairs of an item and a query, by item, then query: int32 [pairs] each, mapped from ``folder``."""

    items: np.ndarray
    queries: np.ndarray
    folder: Path

    def __len__(self) -> int:
        return len(self.items)

    def where(self, keep: Callable[[np.ndarray], np.ndarray]) -> Pairs:
        """Return the pairs of those items that ``keep`` marks, given some items at a time."""
        items, queries = MappedArray(self.folder, np.int32), MappedArray(self.folder, np.int32)
        for places in stretches(len(self)):
            kept = places[keep(self.items[places])]
            items.append(self.items[kept])
            queries.append(self.queries[kept])
        return Pairs(items.read_only(), queries.read_only(), self.folder)


def training_pairs(path: Path, without_text: np.ndarray) -> Pairs:
    """Read the distinct pairs of training search clicks on items with text. Raises UserError when there are none."""
    clicks = SearchClicks.read(path)
    pairs = Pairs(clicks.items, clicks.queries, path.parent).where(lambda items: ~without_text[items])
    if not len(pairs):
        raise UserError(f"{path}: holds no search click on an item with text; pseudo-queries need some to learn from")
    return pairs


class QueryTask(GeneratorTask):
    """Train with validation by the mean loss of held-out pairs."""

    def __init__(
        self, model: Backbone, settings: PseudoQuerySettings, examples: Examples, held_out: Examples, seed: int
    ) -> None:
        super().__init__(model, settings.training(), examples, [], seed)
        self._held_out = Batches(held_out, batch_size=len(held_out), tokens=self.order.tokens, weights={}, seed=seed)

    def validate(self) -> Mapping[str, float]:
        """Return the held-out loss per token; the score is its negative."""
        total, tokens = 0.0, 0
        for rows in stretches(len(self._held_out.examples)):
            parts = self._held_out.micro_batches(rows, 0)
            losses = torch.cat([self._token_losses(part)[0].double() for part in parts])
            total, tokens = total + float(losses.sum()), tokens + len(losses)
        return {"held_out_loss": total / tokens, "score": -total / tokens}


def sample_queries(
    model: Backbone, tokenizer: Any, items: Texts, settings: PseudoQuerySettings, seed: int
) -> pl.DataFrame:
    """Sample up to ``settings.queries_per_item`` different queries per item with text, as table `pseudo_queries`."""
    device = model.lm_head.weight.device
    model.eval()
    order = np.argsort(items.tokens.lengths, kind="stable")
    order = order[items.tokens.lengths[order] > 0]
    queries: dict[int, list[str]] = {}
    items_at_once = max(1, _QUERIES // settings.queries_per_item)
    for start in progress(range(0, len(order), items_at_once), "sample queries", unit="batch"):
        batch = order[start : start + items_at_once]
        rows = _ended(items.tokens.take(batch), tokenizer.eos_token_id)
        tokens = padded_tokens(rows, device).long()
        with torch.random.fork_rng(), torch.inference_mode():
            torch.manual_seed(derive_seed(seed, start))
            sampled = model.generate(
                input_ids=tokens.clamp_min(0),
                attention_mask=(tokens >= 0).long(),
                do_sample=True,
                top_k=settings.top_k,
                top_p=settings.top_p,
                num_return_sequences=settings.queries_per_item,
                max_new_tokens=settings.max_query_tokens,
            )
        words = tokenizer.batch_decode(sampled, skip_special_tokens=True)
        for place, item in enumerate(batch.tolist()):
            texts = words[place * settings.queries_per_item : (place + 1) * settings.queries_per_item]
            queries[item] = [text for text in dict.fromkeys(" ".join(one.split()) for one in texts) if text]
    pairs = [(item, number, text) for item in sorted(queries) for number, text in enumerate(queries[item])]
    return pl.DataFrame(pairs, schema=schema.PSEUDO_QUERIES.schema, orient="row")


@dataclass(frozen=True)
class _Texts:
    """Hold item texts and queries as tokens."""

    tokenizer: Any
    items: Texts
    queries: Texts

    @classmethod
    def read(cls, canonical: Path, settings: PseudoQuerySettings) -> _Texts:
        items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id").get_column("text")
        queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id").get_column("text")
        limits = settings.max_item_tokens, settings.max_query_tokens
        return cls(*tokenize_catalogue(items, queries, settings.tokenizer, settings.vocabulary_size, limits))

    def examples(self, pairs: Pairs) -> Examples:
        """Turn pairs into training examples, mapped from the disk; pairs of one item share its text."""
        found = mapped_parts(self._examples(pairs), pairs.folder)
        tasks = mapped_zeros(pairs.folder, len(pairs), np.uint8)
        return Examples(PromptInputs.whole(found["inputs"]), found["targets"], found["prompt"], tasks, ["doc2query"])

    def _examples(self, pairs: Pairs) -> Iterator[dict[str, np.ndarray | Ragged]]:
        end, last, count = self.tokenizer.eos_token_id, -1, 0
        for places in stretches(len(pairs)):
            items = pairs.items[places]
            new = np.diff(items, prepend=last) != 0
            yield {
                "inputs": _ended(self.items.tokens.take(items[new]), end),
                "targets": _ended(self.queries.tokens.take(pairs.queries[places]), end),
                "prompt": count - 1 + np.cumsum(new),
            }
            last, count = int(items[-1]), count + int(new.sum())


def _ended(rows: Ragged, end: int) -> Ragged:
    return beside(rows, repeated(np.asarray([end], dtype=np.int32), len(rows)))


def _split(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Split pairs into learned and held-out, each item's on one side; return all pairs twice if a side is empty."""

    def held(items: np.ndarray) -> np.ndarray:
        marked: np.ndarray = uniform(row_keys(seed, items)) < share
        return marked

    held_out = pairs.where(held)
    if len(held_out) in (0, len(pairs)):
        return pairs, pairs
    return pairs.where(lambda items: ~held(items)), held_out
