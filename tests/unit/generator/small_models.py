"""Small models with random weights, their items and prompts, and the same computations by Hugging Face."""

import functools

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.runtime.arrays import Ragged
from tests.support.ragged import ragged

VOCABULARY, END = 23, 1
Lists = list[list[int]]
#: Items' tokens, prompts, and items for each prompt [users, W], -1 in empty slots.
Case = tuple[Lists, Lists, np.ndarray]


def new_model(kind: str) -> torch.nn.Module:
    """Draw a T5, a T5 with a separate output matrix ("untied") or of version 1.1, or an mT5, with weights that matter."""
    torch.manual_seed(3)
    sizes = {"vocab_size": VOCABULARY, "d_model": 12, "d_ff": 16, "d_kv": 5, "num_heads": 2, "num_layers": 2}
    sizes |= {"relative_attention_num_buckets": 6, "relative_attention_max_distance": 9, "decoder_start_token_id": 0}
    # The library's beam search takes stacks of equally many layers alone.
    sizes["num_decoder_layers"] = 2 if kind == "t5" else 3
    if kind == "mt5":
        network = MT5ForConditionalGeneration(MT5Config(feed_forward_proj="gated-gelu", **sizes))
    elif kind == "t5-1.1":
        network = T5ForConditionalGeneration(
            T5Config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **sizes)
        )
    else:
        network = T5ForConditionalGeneration(T5Config(**sizes))
    if kind == "untied":
        network.lm_head.weight = torch.nn.Parameter(torch.empty(VOCABULARY, 12))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if "relative" in name else 0.5))
    return network.eval()


#: One model of a kind, which nobody changes.
model = functools.cache(new_model)


def without_dropout(network: torch.nn.Module) -> torch.nn.Module:
    """Turn off a T5's dropout, in the library's modules and in the written-out pass."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "key_value_proj_dim"):
            module.dropout = 0.0
    for stack in (network.encoder, network.decoder):
        stack.config.dropout_rate = 0.0
    return network


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw few codes, so that items share prefixes and some are equal, and items of one length or of several."""
    shortest, longest = draw(st.sampled_from([(0, 6), (1, 1), (3, 3), (5, 5), (0, 0)]))
    code_rows = st.lists(st.integers(2, 5), min_size=shortest, max_size=longest)
    items = [[*row, END] for row in draw(st.lists(code_rows, min_size=1, max_size=12))]
    users, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    prompts = [draw(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9)) for _ in range(users)]
    chosen = st.lists(st.integers(-1, len(items) - 1), min_size=width, max_size=width)
    return items, prompts, np.array([draw(chosen) for _ in range(users)], dtype=np.int32)


def large_case() -> tuple[ItemTokens, TokenTrie, Ragged, np.ndarray]:
    """Return 200 items (7 and 150 are equal), their trie, nine prompts, and all items in a different order for each."""
    draw = np.random.default_rng(0)
    items = [[2 + item % 3, *draw.integers(3, 9, 3).tolist(), END] for item in range(200)]
    items[7] = items[150]
    prompts = [draw.integers(2, VOCABULARY, draw.integers(3, 40)).tolist() for _ in range(9)]
    candidates = draw.permuted(np.tile(np.arange(200), (9, 1)), axis=1)
    return ItemTokens.from_rows(ragged(items)), TokenTrie.from_rows(ragged(items)), ragged(prompts), candidates


def followers(items: Lists, prefix: list[int]) -> list[int]:
    """Return the tokens that continue a prefix in some item."""
    return sorted({row[len(prefix)] for row in items if row[: len(prefix)] == prefix and len(row) > len(prefix)})


def log_probability(network: torch.nn.Module, prompt: list[int], row: list[int], items: Lists | None) -> float:
    """Sum a row's token log-probabilities by the library: over the vocabulary, or over the continuations in ``items``."""
    with torch.no_grad():
        logits = network(input_ids=torch.tensor([prompt]), labels=torch.tensor([row])).logits[0]
    total = 0.0
    for depth, token in enumerate(row):
        rivals = list(range(logits.shape[1])) if items is None else followers(items, row[:depth])
        total += float(logits[depth, token] - logits[depth, rivals].logsumexp(0))
    return total


def library_search(prompt: list[int], rows: Lists, beams: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """Run Hugging Face's constrained beam search through ``rows``; return the rows it finds, best first, and scores."""

    def continuations(_batch: int, sequence: torch.Tensor) -> list[int]:
        return followers(rows, sequence[1:].tolist()) or [0]

    generated = model("t5").generate(
        torch.tensor([prompt]),
        prefix_allowed_tokens_fn=continuations,
        max_new_tokens=max(map(len, rows)),
        num_beams=beams,
        num_return_sequences=beams,
        do_sample=False,
        early_stopping="never",
        return_dict_in_generate=True,
        output_scores=True,
    )
    sequences = [tuple(row[1 : row.index(END) + 1]) for row in generated.sequences.tolist()]
    return sequences, generated.sequences_scores.numpy()
