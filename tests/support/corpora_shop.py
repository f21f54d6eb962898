"""A small shop written by hand, and prompts put together the slow way: one sample at a time, as text."""

from __future__ import annotations

import io
import json
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import sentencepiece
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Tokenizer

from gensar_core import schema
from gensar_core.corpora.instructions import Instructions, Shown
from gensar_core.runtime.arrays import Ragged

TEXTS = ["Upright piano, 88 keys", "", "USB-C cable (2 m)", "Sheet music: 20 easy pieces", "piano stool"]
QUERIES = ["digital piano", "music stand"]
SEMANTIC = [[0, 1, 2, 3], [0, 1, 2, 4], [5, 0, 0, 0], [3, 3, 3, 3], [1, 2, 3, 4]]
COLLABORATIVE = [[0, 1, 7, 7], [0, 1, 6, 6], [5, 0, 1, 1], [3, 3, 5, 5], [1, 2, 0, 0]]
LEVELS = {"semantic": ["M1", "M2", "S1", "S2"], "collaborative": ["M1", "M2", "R1", "R2"]}

R, Q, S = 0, 1, 2


def sample(
    sample_id: int, task: str, split: str, item: int, query: int | None, history: list[tuple[int, int]]
) -> dict[str, Any]:
    """A row of the samples table; ``history`` lists (behavior, object)."""
    return {
        "sample_id": sample_id,
        "task": task,
        "split": split,
        "user_id": sample_id % 3,
        "time": 1000 + sample_id,
        "event_id": sample_id,
        "target_item": item,
        "query_id": query,
        "history_behavior": [behavior for behavior, _ in history],
        "history_object": [thing for _, thing in history],
    }


SAMPLES = [
    sample(0, "rec", "train", 4, None, [(R, 0), (Q, 0), (S, 3), (R, 2)]),
    sample(1, "rec", "valid", 3, None, [(Q, 1), (S, 3), (R, 1)]),
    sample(2, "rec", "test", 2, None, [(Q, 1), (S, 3), (S, 4), (R, 1)]),
    sample(3, "search", "train", 3, 1, [(R, 0), (Q, 0), (S, 3), (R, 2)]),
    sample(4, "search", "valid", 0, 0, [(R, 2), (Q, 1), (S, 3)]),
    sample(5, "search", "test", 4, 0, [(R, 2), (Q, 1), (S, 3), (R, 3)]),
]


def write_shop(
    folder: Path,
    *,
    texts: list[str] = TEXTS,
    queries: list[str] = QUERIES,
    semantic: list[list[int]] = SEMANTIC,
    collaborative: list[list[int]] = COLLABORATIVE,
    samples: list[dict[str, Any]] = SAMPLES,
    codes: int = 8,
    levels: dict[str, list[str]] = LEVELS,
) -> Path:
    """Write items, queries, identifiers, their vocabulary and samples as the stages before would; return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(texts)
    items = {
        "item_id": range(count),
        "raw_id": [f"i{item}" for item in range(count)],
        "title": texts,
        "description": [""] * count,
        "brand": [""] * count,
        "categories": pl.Series([[] for _ in range(count)], dtype=pl.List(pl.List(pl.String))),
        "text": texts,
    }
    schema.ITEMS.write(pl.DataFrame(items), folder / "items.parquet")
    schema.QUERIES.write(pl.DataFrame({"query_id": range(len(queries)), "text": queries}), folder / "queries.parquet")
    moved = [False] * count
    identifiers = {
        "item_id": range(count),
        "semantic": semantic,
        "collaborative": collaborative,
        "semantic_moved": moved,
        "collaborative_moved": moved,
    }
    schema.IDENTIFIERS.write(pl.DataFrame(identifiers), folder / "identifiers.parquet")
    vocabulary = {side: {"levels": names, "sizes": [codes] * len(names)} for side, names in levels.items()}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    schema.SAMPLES.write(pl.DataFrame(samples, schema=schema.SAMPLES.schema), folder / "samples.parquet")
    return folder


def spell(side: str, codes: list[int], levels: dict[str, list[str]] = LEVELS) -> str:
    """An identifier as text: <M1_0><M2_1>..."""
    return "".join(f"<{level}_{code}>" for level, code in zip(levels[side], codes, strict=False))


class Scribe:
    """Prompts and targets as text, written sample by sample straight from the tables."""

    def __init__(
        self,
        texts: list[str] = TEXTS,
        queries: list[str] = QUERIES,
        semantic: list[list[int]] = SEMANTIC,
        collaborative: list[list[int]] = COLLABORATIVE,
        *,
        levels: dict[str, list[str]] = LEVELS,
        behavior_tokens: bool = True,
        max_recommendations: int = 5,
        max_searches: int = 5,
    ) -> None:
        self.texts, self.queries = texts, queries
        self.codes = {"semantic": semantic, "collaborative": collaborative}
        self.levels = levels
        self.behavior_tokens = behavior_tokens
        self.max_recommendations, self.max_searches = max_recommendations, max_searches

    def identifier(self, side: str, item: int) -> str:
        return spell(side, self.codes[side][item], self.levels)

    def entry(self, behavior: int, thing: int) -> str:
        token = ("<R_I>", "<S_Q> ", "<S_I>")[behavior] if self.behavior_tokens else ""
        if behavior == Q:
            return token + self.queries[thing]
        return token + self.identifier("collaborative" if behavior == R else "semantic", thing)

    def history(self, row: dict[str, Any]) -> str:
        kept, clicks, searches = [], 0, 0
        for behavior, thing in zip(reversed(row["history_behavior"]), reversed(row["history_object"]), strict=True):
            if behavior == R and clicks < self.max_recommendations:
                kept.append(self.entry(behavior, thing))
            if behavior != R and searches < self.max_searches:
                kept.append(self.entry(behavior, thing))
            clicks += behavior == R
            searches += behavior == Q
        return "; ".join(reversed(kept))

    def prompt(self, task: str, template: str, row: dict[str, Any]) -> str:
        filled = template.replace("{history}", self.history(row))
        if task == "nsip":
            filled = filled.replace("{query}", self.entry(Q, row["query_id"]))
        asked = {"nrip": " <R_I>", "nsip": " <S_I>", "nsqp": ""}[task] if self.behavior_tokens else ""
        return re.sub(" +", " ", filled + asked).strip(" ")

    def target(self, task: str, row: dict[str, Any]) -> str:
        if task == "nsqp":
            return self.entry(Q, row["query_id"]).strip(" ")
        return self.entry(R if task == "nrip" else S, row["target_item"])

    def alignment(self, task: str, template: str, item: int) -> tuple[str, str]:
        kind, side = task.split("_")
        identifier, text = self.identifier(side, item), self.texts[item]
        if kind == "desc2id":
            return re.sub(" +", " ", template.replace("{description}", text)).strip(" "), identifier
        return template.replace("{identifier}", identifier), text


def prompts_of(folder: Path, position: int = 0) -> pl.DataFrame:
    """The training examples of a corpus with their prompts as ``input_ids``, all in one of their task's instructions."""
    train = schema.CORPUS.read(folder / "train.parquet")
    names = train.get_column("task").unique(maintain_order=True).to_list()
    instructions = Instructions.load(folder, names)
    shown = Shown(*(Ragged.from_series(train.get_column(name)) for name in ("history_ids", "value_ids")))
    task = np.array([names.index(name) for name in train.get_column("task")], dtype=np.int64)
    prompts = instructions.write(shown, instructions.first[task] + position)
    return train.select("task", "sample_id", prompts.to_series("input_ids", pl.Int32()), "target_ids")


def t5_like(texts: list[str]) -> PreTrainedTokenizerBase:
    """A small tokenizer of T5's own class: a SentencePiece Unigram vocabulary with its NFKC table, and sentinels."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts, "<", "> _ 0 1 2 3 4 5 6 7 8 9", *string.punctuation, string.ascii_letters] * 3),
        model_writer=model,
        vocab_size=150,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    proto = model.getvalue()
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
    size = processor.get_piece_size()
    vocabulary = [(processor.id_to_piece(number), processor.get_score(number)) for number in range(size)]
    # ModelProto.normalizer_spec.precompiled_charsmap
    table = _message_field(_message_field(proto, 3), 2)
    return T5Tokenizer(vocab=vocabulary, _spm_precompiled_charsmap=table)


def blanks_kept() -> PreTrainedTokenizerBase:
    """A tokenizer that writes every blank, also one before a token or at a text's end, and has few characters."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz;.,:?"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("o.", -1.0), ("▁piano", -1.5)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def _message_field(message: bytes, wanted: int) -> bytes:
    """The first length-delimited field with the number ``wanted`` of a protocol buffer."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            number()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or number()
        if key >> 3 == wanted:
            return message[at : at + size]
        at += size
    raise ValueError(f"no field {wanted}")
