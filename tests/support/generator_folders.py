"""Small corpus and samples folders, made by hand, for the tests of the generator."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from gensar_core import schema
from gensar_core.config.generators import ScratchSize, TrainingSettings
from gensar_core.config.prompts import find_prompts
from gensar_core.corpora.trie import TokenTrie, save_tries
from gensar_core.runtime.arrays import Ragged
from tests.support.shop import write_rows

WORDS = ["<pad>", "</s>", "<unk>", *(f"word{number}" for number in range(37))]
BASE = len(WORDS)
NEW = ["<R_I>", "<S_Q>", "<S_I>", *(f"<M{level}_{code}>" for level in (1, 2, 3) for code in range(6))]
VOCABULARY = BASE + len(NEW)
N_ITEMS = 30
PAD, END = 0, 1


#: A T5 that learns these folders in seconds.
TINY = ScratchSize(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=1, num_decoder_layers=1, dropout_rate=0.1)


def tiny_settings(**changes: Any) -> TrainingSettings:
    values = {"backbone": "scratch", "size": TINY, "batch_size": 16, "learning_rate": 5e-3, "patience": None}
    return TrainingSettings(**{**values, **changes})


def random_t5(vocabulary: int, seed: int = 0, **changes: int) -> T5ForConditionalGeneration:
    """Draw a tiny T5."""
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 4, "num_heads": 2, "num_layers": 1, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, **sizes | changes))


def token(text: str) -> int:
    """The id of a token, known or new."""
    return (WORDS + NEW).index(text)


def item_row(task: str, item: int) -> list[int]:
    """Behavior token, three code tokens, end of sequence; all items differ."""
    first, rest = divmod(item, 12)
    second, third = divmod(rest, 4)
    behavior = "<R_I>" if task == "rec" else "<S_I>"
    codes = [f"<M1_{first}>", f"<M2_{second}>", f"<M3_{third}>"]
    return [token(behavior), *map(token, codes), END]


def prompt_row(task: str, user: int) -> list[int]:
    """A prompt that tells users and tasks apart, of a length that varies."""
    words = [3 + user % 37, 3 + (user // 37) % 37, 3 + (user * 7) % 37][: 2 + user % 2]
    return [*words, token("<R_I>" if task == "rec" else "<S_I>"), END]


def target_of(task: str, user: int) -> int:
    return (user * (5 if task == "rec" else 7) + 3) % N_ITEMS


def write_tokenizer(folder: Path, new: Sequence[str] = NEW, known: Sequence[str] = WORDS) -> None:
    """A tokenizer of these words, with new tokens behind them."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.add_tokens(list(new), special_tokens=True)
    fast.save_pretrained(folder)


def write_corpus(folder: Path, users: int = 20, ranked: Sequence[str] = schema.TASKS) -> Path:
    """Each user's prompt and target of the ``ranked`` tasks, as training rows and as prompts of valid and test samples."""
    folder.mkdir(parents=True)
    write_tokenizer(folder / "tokenizer")
    new_tokens = {text: BASE + number for number, text in enumerate(NEW)}
    record = {"tokens": new_tokens, "vocabulary_size": VOCABULARY, "base_vocabulary_size": BASE}
    (folder / "new_tokens.json").write_text(json.dumps(record))
    # The only instruction shows what there is; its end is the behavior token and the end of sequence.
    file = find_prompts("gensar")
    content = file.model_dump(mode="json")
    for name, task in file.tasks.items():
        content["tasks"][name]["templates"] = [" ".join(f"{{{slot}}}" for slot in task.placeholders)]
        content["tasks"][name]["ranks"] = task.ranks if task.ranks in ranked else None
    (folder / "prompts.yaml").write_text(yaml.safe_dump(content))
    training_task = {"rec": "nrip", "search": "nsip"}
    train = [
        (training_task[task], user, prompt_row(task, user)[:-2], [], item_row(task, target_of(task, user)))
        for task in ranked
        for user in range(users)
    ]
    write_rows(schema.CORPUS, folder, train, "train")
    keys = enumerate(sample_keys(users))
    prompts = [(sample, prompt_row(task, user)) for sample, (task, _, user) in keys if task in ranked]
    write_rows(schema.PROMPTS, folder, prompts)
    rows = {task: [item_row(task, item) for item in range(N_ITEMS)] for task in schema.TASKS}
    item_tokens = [(task, item, row) for task in schema.TASKS for item, row in enumerate(rows[task])]
    write_rows(schema.ITEM_TOKENS, folder, item_tokens)
    tries = {task: TokenTrie.from_rows(Ragged.from_series(pl.Series(rows[task]))) for task in schema.TASKS}
    save_tries(tries, folder / "trie.safetensors")
    return folder


def sample_keys(users: int) -> list[tuple[str, str, int]]:
    return [(task, split, user) for task in schema.TASKS for split in ("valid", "test") for user in range(users)]


def write_samples(folder: Path, users: int = 20, negatives: int = 9) -> Path:
    """Valid and test samples whose targets are those of training, with random negatives."""
    rng = np.random.default_rng(5)
    samples, candidates = [], []
    for number, (task, split, user) in enumerate(sample_keys(users)):
        target = target_of(task, user)
        others = rng.permutation(np.delete(np.arange(N_ITEMS), target))[:negatives]
        query = 0 if task == "search" else None
        samples.append((number, task, split, user, 0, number, target, query, [], []))
        candidates.append((number, others.tolist()))
    write_rows(schema.SAMPLES, folder, samples)
    write_rows(schema.CANDIDATES, folder, candidates)
    return folder
