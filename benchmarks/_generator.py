"""Build a generator with random weights and a catalogue of random identifiers; run Hugging Face's beam search."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import T5Config, T5ForConditionalGeneration

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import has_bfloat16

#: The paper's backbone, and a small T5 that a laptop can train from scratch.
SIZES: dict[str, dict[str, int]] = {
    "t5_small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6, "words": 32_100},
    "small": {"d_model": 128, "d_ff": 512, "d_kv": 32, "num_heads": 4, "num_layers": 3, "words": 4_000},
}
LEVELS, CODES, END = 4, 256, 1
#: Users that the library searches for at once: on a CPU it is fastest so.
PEER_BATCH = 8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setting:
    """Hold a model, the tokens of its catalogue's items, and prompts of realistic length (60 to 140 tokens)."""

    model: Any
    items: ItemTokens
    prompts: Ragged


def setting(size: str, n_items: int, users: int, device: torch.device = CPU) -> Setting:
    """Draw weights, codes and prompts from a fixed seed.

    Random codes share the fewest prefixes: the least favorable case for methods that compute each prefix once.
    """
    shape = dict(SIZES[size])
    words = shape.pop("words")
    torch.manual_seed(0)
    config = T5Config(vocab_size=words + 3 + 2 * CODES * 3, decoder_start_token_id=0, **shape)
    draw = np.random.default_rng(0)
    rows = catalogue(n_items, words, draw)
    lengths = draw.integers(60, 141, users)
    prompts = Ragged.from_lengths(lengths, draw.integers(2, words, lengths.sum()).astype(np.int32))
    return Setting(T5ForConditionalGeneration(config).eval().to(device), rows, prompts)


def by_precision(case: Setting) -> dict[str, Setting]:
    """Return the setting and, if this CPU multiplies in bfloat16, its copy in it, by the suffix of their claims' names.

    The copy's weights are rounded, as ``precision: bfloat16`` ranks with them. Another CPU would rank in float32.
    """
    if not has_bfloat16(torch.device("cpu")):
        return {"": case}
    return {"": case, "_bfloat16": in_bfloat16(case)}


def in_bfloat16(case: Setting) -> Setting:
    """Copy the setting with its model's weights rounded to bfloat16."""
    return dataclasses.replace(case, model=copy.deepcopy(case.model).to(torch.bfloat16))


def rows_of(tokens: np.ndarray) -> Ragged:
    """Store the rows of a matrix as rows of one length."""
    return Ragged.from_lengths(np.full(len(tokens), tokens.shape[1]), tokens.ravel())


def token_trie(items: ItemTokens) -> TokenTrie:
    """Build the trie of items with equally many tokens."""
    return TokenTrie.from_rows(rows_of(items.tokens))


def catalogue(n_items: int, words: int, draw: np.random.Generator) -> ItemTokens:
    """Draw distinct items, each a behavior token, four codes and the end of sequence."""
    numbers = np.zeros(0, dtype=np.int64)
    while len(numbers) < n_items:
        numbers = np.unique(np.concatenate([numbers, draw.integers(0, CODES**LEVELS, n_items)]))
    numbers = draw.permutation(numbers)[:n_items]
    codes = numbers[:, None] // CODES ** np.arange(LEVELS) % CODES + CODES * np.arange(LEVELS)
    first, last = np.full((n_items, 1), words), np.full((n_items, 1), END)
    tokens = np.concatenate([first, words + 3 + codes, last], axis=1).astype(np.int32)
    return ItemTokens.from_rows(rows_of(tokens))


def dictionary_trie(rows: np.ndarray) -> dict[int, Any]:
    """Build nested dictionaries from token rows, as generative retrieval code does."""
    trie: dict[int, Any] = {}
    for row in rows.tolist():
        node = trie
        for token in row:
            node = node.setdefault(token, {})
    return trie


def constrained_search(
    model: Any,
    inputs: torch.Tensor,
    present: torch.Tensor,
    tries: list[dict[int, Any]],
    beams: int,
    begin: int,
    steps: int,
) -> Any:
    """Run Hugging Face's beam search for ``steps`` tokens, those from place ``begin`` on along one trie a user.

    ``present`` marks the real tokens among ``inputs``, both [users, width].
    """

    def continuations(user: int, sequence: torch.Tensor) -> list[int]:
        node = tries[user]
        for token in sequence.tolist()[begin:]:
            node = node.get(token, {})
        return list(node) or [END]

    with torch.inference_mode():
        return model.generate(
            input_ids=inputs,
            attention_mask=present.long(),
            prefix_allowed_tokens_fn=continuations,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=steps,
            do_sample=False,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )


def generate(case: Setting, trie_of: Callable[[int], dict[int, Any]], beams: int) -> np.ndarray:
    """Search along each user's trie by Hugging Face; return the beams' scores, best first [users, beams]."""
    scores = []
    for start in range(0, len(case.prompts), PEER_BATCH):
        rows = np.arange(start, min(start + PEER_BATCH, len(case.prompts)))
        prompts = case.prompts.take(rows)
        tokens = torch.from_numpy(prompts.padded(int(prompts.lengths.max()), -1)).long().to(case.model.device)
        tries = [trie_of(row) for row in rows]
        found = constrained_search(
            case.model, tokens.clamp_min(0), tokens >= 0, tries, beams, begin=1, steps=LEVELS + 2
        )
        scores.append(found.sequences_scores.view(len(rows), beams).cpu().numpy())
    return np.concatenate(scores)
