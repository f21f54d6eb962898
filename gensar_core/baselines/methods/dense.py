"""Fine-tune dense retrieval on the training log: a whole text encoder, or linear maps of its frozen vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field, model_validator
from torch.nn import functional

from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.shared.target_rows import TrainingRows
from gensar_core.baselines.shared.text_towers import TOWERS, EncoderTowers, HeadTowers, Towers, texts_of
from gensar_core.baselines.shared.trained_method import TrainedMethod, TrainedSettings, Training
from gensar_core.config.base import Count, Positive, Rate, Share
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.config.search_spaces import Among, Between
from gensar_core.embeddings.sequential import ItemVectors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import CandidateLists
from gensar_core.runtime.arrays import Ragged, add_counts, stretches
from gensar_core.runtime.device import send
from gensar_core.runtime.mapped_arrays import mapped_parts
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.sorting import Groups
from gensar_core.runtime.stage import read_record
from gensar_core.runtime.tensors import load_vectors, save_vectors
from gensar_core.training.blocks import BlockOrder
from gensar_core.training.loop import Schedule, warmup_cosine
from gensar_core.training.state import TrainingRecord

#: File of the vectors that ranking reads.
_FILE = "dense_vectors.safetensors"
#: Candidate lists whose item vectors are gathered at once.
_LISTS_AT_ONCE = 256


class TuningSettings(TrainedSettings):
    """Hold the settings of the loss and its optimization."""

    temperature: Annotated[Rate, Between(0.01, 0.2, log=True)] = 0.02
    """Divisor of the cosines."""
    bm25_negatives: Count = 4
    """Stored BM25 negatives per pair that join its batch."""
    distinct_pairs: bool = False
    """Train on each pair of a query and an item once an epoch, instead of as often as it was clicked."""
    spare_clicked: bool = False
    """Exclude from a query's negatives the items clicked after it in other rows."""
    correct_popularity: bool = True
    """Subtract the logarithm of an item's number of pairs from its logits in training. Popular items are negatives more
    often, and the softmax compensates by learning log p(item | query) - log p(item); with this correction it learns
    log p(item | query)."""
    batch_size: Annotated[Positive, Among((64, 128, 256))] = 64
    """Pairs per step; each pair's negatives are the items of all of them."""
    learning_rate: Annotated[Rate, Between(5.0e-6, 1.0e-2, log=True)] = 2.0e-5
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    warmup_share: Share = 0.1
    gradient_clip: Rate = 1.0
    epochs: Positive = 3
    patience: Positive = 3


class DenseSettings(TuningSettings):
    """Choose what to tune, and how."""

    train: Literal["encoder", "head"] = "encoder"
    """encoder: all weights of the text encoder; head: one linear map of its query vectors and one of its item
    vectors."""
    head: TuningSettings | None = None
    """Settings of a head to train first. The encoder's vectors then pass through its maps, which are tuned along with
    the encoder; the model kept ranks the valid targets at least as well as that head. Null: start from the encoder
    alone."""
    max_tokens: Positive | None = None
    """Tokens of a text read in training an encoder; null: the embedding's own limit, which ranking always uses."""
    item_bias: bool = False
    """Add a learned score per item to the cosine of texts. A head with it is more than a text encoder."""

    @model_validator(mode="after")
    def _head_and_bias_go_with_what_is_trained(self) -> DenseSettings:
        if self.train == "encoder" and self.item_bias:
            raise ValueError("item_bias needs train: head; an encoder knows nothing of an item but its text")
        if self.train == "head" and self.head is not None:
            raise ValueError("head needs train: encoder; a head starts from the vectors as they are")
        return self


class Dense(TrainedMethod[DenseSettings, Towers]):
    """Retrieve by dense vectors (Karpukhin et al., 2020): InfoNCE of queries and items, in-batch and BM25 negatives.

    The encoder is that of the entry's embedding: with BAAI/bge-base-en-v1.5 this is BGE fine-tuned (Xiao et al., 2024),
    with intfloat/multilingual-e5-base E5 fine-tuned (Wang et al., 2024), prefixes and pooling included. Deviations: one
    encoder serves both queries and items, as in BGE and E5; ``train: head`` tunes linear maps of the encoder's vectors
    instead of the encoder, which takes minutes on a CPU, and its table rows must be labelled so; an encoder may start
    from these maps (``head``); ``item_bias`` adds what texts do not tell.
    By default a pair counts as often as it was clicked, against all other items, with the sampling bias corrected (Yi
    et al., 2019): the ranking here asks which of a query's items is clicked, not which items are relevant at all.
    ``distinct_pairs`` and ``spare_clicked`` without ``correct_popularity`` give the usual recipe for relevance.
    """

    tasks: ClassVar[tuple[str, ...]] = ("search",)
    inputs = ("searches", "texts", "vectors", "training_negatives")
    paper = "Karpukhin et al.: Dense Passage Retrieval for Open-Domain Question Answering. EMNLP 2020"
    settings_model = DenseSettings
    ranked_with: dict[str, np.ndarray]

    def build(self) -> Towers:
        """Build the towers to train: the pretrained encoder, or a head that initially changes nothing."""
        embedding = self.data.embedding
        if embedding is None:
            raise UserError("this method tunes a text encoder: name an embedding under its key 'embedding'")
        if self.settings.train == "head":
            return HeadTowers({side: self.data.vectors(side) for side in TOWERS}, self.settings.item_bias)
        entry = TextEmbedding.model_validate(read_record(embedding.parent / "stage.json")["settings"])
        mapped = self.settings.head is not None
        return EncoderTowers(entry, texts_of(self.data.canonical), self.settings.max_tokens, mapped)

    def optimizer(self) -> torch.optim.Optimizer:
        """Build the towers' optimizer."""
        settings = self.settings
        return torch.optim.AdamW(
            self.module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def training(self) -> DenseTraining:
        """Gather the pairs and the valid candidates."""
        return DenseTraining(self)

    def fit(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Tune, stopping early by NDCG@5 on the valid candidates; the starting point competes too."""
        head = self._start_from_head(None if checkpoints is None else checkpoints / "head", key)
        return {**head, **super().fit(checkpoints, key)}

    def finish(self, training: DenseTraining, record: TrainingRecord) -> dict[str, Any]:  # noqa: ARG002
        """Store the vectors for ranking, and count the pairs."""
        self.settle()
        return {"pairs": len(training.queries)}

    def _start_from_head(self, checkpoints: Path | None, key: str) -> dict[str, Any]:
        """Train the head that the settings name, if any, and take over its maps; return its counts."""
        if self.settings.head is None or self.module.maps is None:
            return {}
        settings = DenseSettings(train="head", **self.settings.head.model_dump())
        head = Dense(settings, self.data, self.seed)
        counts = head.fit(checkpoints, key)
        assert head.module.maps is not None
        self.module.maps.load_state_dict(head.module.maps.state_dict())
        return {"head": {name: counts[name] for name in ("steps", "best_step", "best_valid_ndcg@5")}}

    def settle(self) -> None:
        """Store the towers' current vectors for ranking."""
        self.module.eval()
        bias = self.module.bias
        vectors = self.module.vectors()
        none = np.zeros(len(vectors["items"]), dtype=np.float32)
        self.ranked_with = {**vectors, "bias": none if bias is None else bias.detach().cpu().numpy()}

    def score(self, lists: CandidateLists) -> np.ndarray:
        """Return cosines divided by the temperature, plus item biases."""
        queries = self.question_vectors(lists.samples)
        scores = np.empty(lists.items.shape, dtype=np.float32)
        for start in range(0, len(lists), _LISTS_AT_ONCE):
            part = slice(start, start + _LISTS_AT_ONCE)
            items = lists.items[part]
            cosines = np.einsum("nd,nwd->nw", queries[part], self.ranked_with["items"][items])
            scores[part] = cosines / self.settings.temperature + self.ranked_with["bias"][items]
        return scores

    def question_vectors(self, samples: pl.DataFrame) -> np.ndarray:
        """Return the vectors that items are compared with: those of the samples' queries [rows, dimensions]."""
        vectors: np.ndarray = self.ranked_with["queries"][samples.get_column("query_id").to_numpy()]
        return vectors

    def item_vectors(self) -> ItemVectors:
        """Return the tuned vectors of item texts; all items count as seen, because every text can be encoded."""
        vectors = self.ranked_with["items"]
        return ItemVectors(vectors, np.ones(len(vectors), dtype=bool))

    def save(self, folder: Path) -> None:
        """Write dense_vectors.safetensors, and the weights as model.safetensors."""
        super().save(folder)
        save_vectors({**self.ranked_with, "bias": self.ranked_with["bias"][:, None]}, folder / _FILE)

    def load(self, folder: Path) -> None:
        """Read dense_vectors.safetensors, which is all that ranking needs."""
        self.ranked_with = {name: load_vectors(folder / _FILE, name) for name in (*TOWERS, "bias")}
        self.ranked_with["bias"] = self.ranked_with["bias"][:, 0]


class DenseTraining(Training):
    """Train towers on pairs of a query and the item clicked after it, mapped from the disk."""

    method: Dense

    def __init__(self, method: Dense) -> None:
        settings, data = method.settings, method.data
        self.queries, self.targets, self.negatives = self.pairs(data)
        lists = method.valid_lists()
        if not len(self.queries) or not lists:
            raise UserError(
                f"{data.samples_folder}: no train or no valid target of {' or '.join(method.tasks)} to tune on"
            )
        super().__init__(method, lists)
        if settings.distinct_pairs or settings.spare_clicked:
            places = stretches(len(self.queries))
            self.clicked = Groups.of(
                (self._codes(self.queries[rows], self.targets[rows]) for rows in places), self._disk
            )
        if settings.distinct_pairs:
            self._keep(self.clicked.rows, self.clicked.begins(self._disk)[:-1])
        self.frequencies: torch.Tensor | None = None
        if settings.correct_popularity:
            clicks = np.zeros(data.n_items, dtype=np.int64)
            for rows in stretches(len(self.targets)):
                clicks = add_counts(clicks, self.targets[rows])
            self.frequencies = torch.from_numpy(np.log1p(clicks)).float()
        self.order = BlockOrder(len(self.queries), derive_seed(method.seed, "pairs"))
        self.steps_per_epoch = sum(self.order.steps(settings.batch_size))

    @property
    def _disk(self) -> Path:
        return self.method.data.samples_folder

    def _codes(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        codes: np.ndarray = queries * self.method.data.n_items + items
        return codes

    def _keep(self, rows: np.ndarray, places: np.ndarray) -> None:
        """Keep the pairs ``rows[places]`` alone, in this order."""

        def part(chosen: np.ndarray) -> dict[str, Any]:
            lists = self.negatives.take(chosen)
            return {"queries": self.queries[chosen], "targets": self.targets[chosen], "negatives": lists}

        parts = (part(rows[places[some]]) for some in stretches(len(places)))
        self.queries, self.targets, self.negatives = mapped_parts(parts, self._disk).values()

    @property
    def schedule(self) -> Schedule:
        """Validate before training and after each epoch."""
        settings = self.method.settings
        return Schedule(
            total_steps=self.total_steps,
            validate_every=self.steps_per_epoch,
            patience=settings.patience,
            gradient_clip=settings.gradient_clip,
            rate=warmup_cosine(self.total_steps, settings.warmup_share),
            validate_first=True,
            weight_average=settings.weight_average,
        )

    def pairs(self, data: MethodData) -> tuple[np.ndarray, np.ndarray, Ragged]:
        """Map the queries and the items clicked after them int64 [pairs], and their BM25 negatives [pairs]."""
        rows = TrainingRows.read("search", data.samples_folder, data.negatives_file, 0, 0)
        return rows.rows.queries, rows.targets, rows.negatives

    def epoch(self, number: int) -> Iterator[np.ndarray]:
        """Yield the pairs of each step."""
        steps = self.order.steps(self.method.settings.batch_size)
        for block, visit in self.order.of(number):
            members = self.order.members(block)
            order = generator(self.order.seed, "epoch", visit).permutation(len(members))
            yield from np.array_split(members[order], steps[block])

    def backward(self, batch: tuple[int, np.ndarray]) -> Mapping[str, torch.Tensor]:
        """Run one step; each distinct text of the batch goes through the towers once."""
        _, pairs = batch
        queries, query_rows = np.unique(self.queries[pairs], return_inverse=True)
        targets = self.targets[pairs]
        items = np.unique(np.concatenate([targets, self.bm25_negatives(pairs).values]))
        logits = self._logits(queries, items)[torch.from_numpy(query_rows)]
        places = np.searchsorted(items, targets)
        spared = self.spared(self.queries[pairs], items)
        spared[np.arange(len(pairs)), places] = False
        logits = logits.masked_fill(send(spared, logits.device), -torch.inf)
        loss = functional.cross_entropy(logits, send(places, logits.device))
        loss.backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach()}

    def validate(self) -> Mapping[str, float]:
        """Compute NDCG@5 and HR@10 with the towers' current vectors."""
        self.method.settle()
        return super().validate()

    def bm25_negatives(self, pairs: np.ndarray) -> Ragged:
        """Return the stored negatives of some pairs that join their batch [pairs]."""
        stored = self.negatives.take(pairs)
        place = np.arange(len(stored.values)) - stored.offsets[stored.rows]
        return stored.filter(place < self.method.settings.bm25_negatives)

    def encoded(self, queries: np.ndarray) -> torch.Tensor:
        """Encode distinct queries, in rising order, as vectors [queries, dimensions] with gradients."""
        vectors: torch.Tensor = self.method.module("queries", queries)
        return vectors

    def spared(self, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Mark the items that are no negatives of a pair's query, bool [queries, items]."""
        if not self.method.settings.spare_clicked:
            return np.zeros((len(queries), len(items)), dtype=bool)
        _, clicks = self.clicked.spans(self._codes(queries[:, None], items))
        clicked: np.ndarray = clicks > 0
        return clicked

    def _logits(self, queries: np.ndarray, items: np.ndarray) -> torch.Tensor:
        """Return logits [queries, items]."""
        towers = self.method.module
        logits: torch.Tensor = self.encoded(queries) @ towers("items", items).T / self.method.settings.temperature
        numbers = send(items, logits.device)
        if towers.bias is not None:
            logits = logits + towers.bias[numbers]
        return logits if self.frequencies is None else logits - self.frequencies.to(logits.device)[numbers]


METHOD = Dense
