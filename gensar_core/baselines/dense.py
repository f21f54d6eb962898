"""Dense retrieval fine-tuned on the training log: a text encoder, or a projection of its vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import polars as pl
import torch
from pydantic import Field
from safetensors.torch import save_file
from torch.nn import functional

from gensar_core import schema
from gensar_core.baselines.interface import Method, MethodData
from gensar_core.baselines.rows import TrainingRows
from gensar_core.config.base import Count, Positive, Rate, Settings, Share
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.embeddings.text import TextEncoder
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists, load_candidates
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.stage import read_record
from gensar_core.runtime.tensors import load_vectors, save_vectors
from gensar_core.runtime.training import Schedule, train, warmup_cosine

#: Lists whose candidate vectors are gathered at once.
_LISTS_AT_ONCE = 256


class DenseSettings(Settings):
    """How the encoder is fine-tuned."""

    #: encoder: all its weights; head: a linear map of query vectors and one of item vectors, on top of frozen ones.
    train: Literal["encoder", "head"] = "encoder"
    #: Of an encoder's item texts; null takes what the embedding says.
    max_tokens: Positive | None = None
    #: Cosines are divided by it before the softmax.
    temperature: Rate = 0.02
    #: Stored BM25 negatives of each pair, beside the items of the other pairs of its batch.
    bm25_negatives: Count = 4
    mask: bool = True
    logq: float = 0.0
    distinct: bool = True
    #: Pairs of a query and an item clicked after it.
    batch_size: Positive = 64
    learning_rate: Rate = 2.0e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.1
    epochs: Positive = 3
    validation_users: Count = 0
    patience: Positive = 3


class Sides(Protocol):
    """Both sides of dense retrieval, differentiable: numbers of queries or items -> vectors of length 1."""

    module: torch.nn.Module

    def queries(self, numbers: np.ndarray) -> torch.Tensor: ...
    def items(self, numbers: np.ndarray) -> torch.Tensor: ...
    def vectors(self) -> dict[str, np.ndarray]: ...


class _Encoder:
    """The text encoder itself."""

    def __init__(self, data: MethodData, max_tokens: int | None) -> None:
        assert data.embedding is not None
        entry = dict(read_record(data.embedding.parent / "stage.json")["settings"])
        if max_tokens is not None:
            entry["max_tokens"] = max_tokens
        self.encoder = TextEncoder.load(TextEmbedding.model_validate(entry))
        self.module: torch.nn.Module = self.encoder.model
        self.item_texts = schema.ITEMS.read(data.canonical / "items.parquet").sort("item_id")["text"]
        self.query_texts = schema.QUERIES.read(data.canonical / "queries.parquet").sort("query_id")["text"]

    def queries(self, numbers: np.ndarray) -> torch.Tensor:
        return self._encoded(self.query_texts, numbers, self.encoder.query_prefix)

    def items(self, numbers: np.ndarray) -> torch.Tensor:
        return self._encoded(self.item_texts, numbers, self.encoder.item_prefix)

    def vectors(self) -> dict[str, np.ndarray]:
        return {
            "items": self.encoder.encode(self.item_texts, self.encoder.item_prefix, "item texts"),
            "queries": self.encoder.encode(self.query_texts, self.encoder.query_prefix, "queries"),
        }

    def _encoded(self, texts: pl.Series, numbers: np.ndarray, prefix: str) -> torch.Tensor:
        device = next(self.module.parameters()).device
        features = self.encoder.model.preprocess([prefix + text for text in texts.gather(numbers)])
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()
        }
        return functional.normalize(self.module(moved)["sentence_embedding"], dim=1)


class _Head:
    """Linear maps of frozen vectors, the identity at first."""

    def __init__(self, data: MethodData) -> None:
        device = pick_device()
        self.frozen = {side: torch.from_numpy(data.vectors(side)).to(device) for side in ("queries", "items")}
        size = self.frozen["items"].shape[1]
        self.maps = torch.nn.ModuleDict({f"of_{side}": torch.nn.Linear(size, size, bias=False) for side in self.frozen})
        for layer in self.maps.values():
            torch.nn.init.eye_(layer.weight)
        self.module: torch.nn.Module = self.maps.to(device)

    def queries(self, numbers: np.ndarray) -> torch.Tensor:
        return self._mapped("queries", torch.from_numpy(numbers))

    def items(self, numbers: np.ndarray) -> torch.Tensor:
        return self._mapped("items", torch.from_numpy(numbers))

    def vectors(self) -> dict[str, np.ndarray]:
        return {side: self._mapped(side, torch.arange(len(rows))).cpu().numpy() for side, rows in self.frozen.items()}

    def _mapped(self, side: str, numbers: torch.Tensor) -> torch.Tensor:
        rows = self.frozen[side]
        return functional.normalize(self.maps[f"of_{side}"](rows[numbers.to(rows.device)]), dim=1)


class Dense(Method[DenseSettings]):
    """DPR-style."""

    tasks = ("search",)
    inputs = ("searches", "texts", "vectors", "training_negatives")
    paper = "Karpukhin et al.: Dense Passage Retrieval for Open-Domain Question Answering. EMNLP 2020"
    settings_model = DenseSettings
    _found: dict[str, np.ndarray]

    @functools.cached_property
    def sides(self) -> Sides:
        """The model to be trained."""
        if self.data.embedding is None:
            raise UserError("this method tunes a text encoder: name an embedding under its key 'embedding'")
        if self.settings.train == "head":
            return _Head(self.data)
        return _Encoder(self.data, self.settings.max_tokens)

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        task = _Training(self)
        steps = task.steps_per_epoch * self.settings.epochs
        schedule = Schedule(
            total_steps=steps,
            validate_every=task.steps_per_epoch,
            checkpoint_every=task.steps_per_epoch,
            patience=self.settings.patience,
            gradient_clip=1.0,
            rate=warmup_cosine(steps, self.settings.warmup_share),
        )
        record = train(task, schedule, seed=self.seed, description="Dense", checkpoints=checkpoints, key=key)
        self._take()
        return {
            "pairs": len(task.queries),
            "steps": record.steps,
            "best_step": record.best_step,
            "best_valid_ndcg@5": record.best_score,
            "curve": record.history,
        }

    @torch.no_grad()
    def _take(self) -> None:
        self.sides.module.eval()
        self._found = self.sides.vectors()

    def score(self, lists: CandidateLists) -> np.ndarray:
        queries = self._found["queries"][lists.samples.get_column("query_id").to_numpy()]
        scores = np.empty(lists.items.shape, dtype=np.float32)
        for start in range(0, len(lists), _LISTS_AT_ONCE):
            part = slice(start, start + _LISTS_AT_ONCE)
            scores[part] = np.einsum("nd,nwd->nw", queries[part], self._found["items"][lists.items[part]])
        return scores


class _Training:
    def __init__(self, method: Dense) -> None:
        settings, data = method.settings, method.data
        samples = data.samples
        rows = TrainingRows.from_samples("search", samples, data.negatives, 0, 0)
        codes = rows.rows.queries * data.n_items + rows.targets
        self.clicked = np.unique(codes)
        first = np.unique(codes, return_index=True)[1] if settings.distinct else np.arange(len(codes))
        self.queries, self.targets = rows.rows.queries[first], rows.targets[first]
        self.negatives = rows.negatives[first, : settings.bm25_negatives]
        self.pop = np.log(np.bincount(self.targets, minlength=data.n_items) + 1.0)
        self.lists = load_candidates(
            data.samples_folder, "search", "valid", users=settings.validation_users, samples=samples
        )
        self.method = method
        self.module = method.sides.module
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.steps_per_epoch = -(-len(self.queries) // settings.batch_size)

    def batches(self, first_step: int) -> Iterator[np.ndarray]:
        epoch, skipped = divmod(first_step, self.steps_per_epoch)
        while True:
            order = generator(self.method.seed, "epoch", epoch).permutation(len(self.queries))
            yield from np.array_split(order, self.steps_per_epoch)[skipped:]
            epoch, skipped = epoch + 1, 0

    def backward(self, rows: np.ndarray) -> Mapping[str, torch.Tensor]:
        settings, sides = self.method.settings, self.method.sides
        queries, asked = np.unique(self.queries[rows], return_inverse=True)
        negatives = self.negatives[rows]
        items = np.unique(np.concatenate([self.targets[rows], negatives[negatives >= 0]]))
        place = np.searchsorted(items, self.targets[rows])
        vectors = sides.queries(queries)
        logits = (vectors @ sides.items(items).T)[torch.from_numpy(asked).to(vectors.device)] / settings.temperature
        if settings.logq:
            logits = logits - settings.logq * torch.from_numpy(self.pop[items]).float()
        if settings.mask:
            right = np.isin(self.queries[rows][:, None] * self.method.data.n_items + items, self.clicked)
            right[np.arange(len(rows)), place] = False
            logits = logits.masked_fill(torch.from_numpy(right).to(logits.device), -torch.inf)
        loss = functional.cross_entropy(logits, torch.from_numpy(place).to(logits.device))
        loss.backward()
        return {"loss": loss.detach()}

    def validate(self) -> Mapping[str, float]:
        self.method._take()
        ranks = average_ranks(self.method.score(self.lists), self.lists.present)
        figure = ndcg(ranks, 5)
        return {"score": figure, "valid_ndcg@5": figure, "valid_hr@10": hit_rate(ranks, 10)}


METHOD = Dense
