"""Prompts written the slow way, one sample at a time as text, and the tokenizers that read them."""

import io
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
from gensar_core.config.prompts import find_prompts
from gensar_core.corpora.instructions import Instructions, Shown
from gensar_core.corpora.tasks import tasks_of
from gensar_core.runtime.arrays import Ragged
from tests.support.shop import COLLABORATIVE, LEVELS, QUERIES, SEMANTIC, TEXTS, Q, R, S

#: The tasks of GenSAR.
TASKS = tasks_of(find_prompts("gensar"))


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
        entries, clicks, searches = [], 0, 0
        for behavior, thing in zip(reversed(row["history_behavior"]), reversed(row["history_object"]), strict=True):
            if clicks < self.max_recommendations if behavior == R else searches < self.max_searches:
                entries.append(self.entry(behavior, thing))
            clicks += behavior == R
            searches += behavior == Q
        return "; ".join(reversed(entries))

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
    # ModelProto.normalizer_spec: its name, then precompiled_charsmap as a tag, a length (varint) and bytes.
    rest = proto[proto.rindex(b"nmt_nfkc\x12") + 9 :]
    width = 1 + next(place for place, byte in enumerate(rest) if byte < 128)
    length = sum((byte & 127) << 7 * place for place, byte in enumerate(rest[:width]))
    return T5Tokenizer(vocab=vocabulary, _spm_precompiled_charsmap=rest[width : width + length])


def blanks_kept() -> PreTrainedTokenizerBase:
    """A tokenizer that writes every blank, also one before a token or at a text's end, and has few characters."""
    letters = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz;.,:?"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters, ("o.", -1.0), ("▁piano", -1.5)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
