"""Build a causal generator with random weights and users' logs; run the Hugging Face model on the same histories.

The peer is the model's own folder, opened with `AutoModelForCausalLM`. Vectors of nodes and queries and click evidence
are switched off, because the peer cannot have them. Every entry of these logs may see all before it, so that the peer
reads them under its plain causal mask. Scores leave out the behavior token, which is given, and the end of sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from _generator import (
    CODES,
    CPU,
    END,
    LEVELS,
    PEER_BATCH,
    catalogue,
    constrained_search,
    dictionary_trie,
    rows_of,
    token_trie,
)
from transformers import AutoModelForCausalLM

from gensar_core import schema
from gensar_core.config.generators import OnePassSettings
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.user_logs import NO_TARGET
from gensar_core.generator.backbones.causal import CausalGenerator, from_scratch
from gensar_core.generator.beam_search import RetrievedItems, search_beams
from gensar_core.generator.item_nodes import ItemNodes
from gensar_core.generator.log_rows import LogRows
from gensar_core.generator.one_pass_scores import OnePassScorer
from gensar_core.generator.one_pass_training import Catalogue
from gensar_core.runtime.arrays import Ragged

#: Users a pass of ours.
USERS_PER_BATCH = 64
#: A user's history repeats: a query of three words, a click on one of its results, and a recommendation click.
PATTERN = (schema.SEARCHED_QUERY, schema.SEARCHED_ITEM, schema.RECOMMENDED_ITEM)
WORDS = 3
#: Repetitions, for histories of 56 to 140 tokens.
REPETITIONS = (4, 10)


@dataclass(frozen=True)
class Logs:
    """Hold a model, the same model opened by the library, users' logs that end in a question, and what the peer reads.

    ``histories`` are each user's tokens up to the behavior token that asks for an item.
    """

    scorers: dict[str, OnePassScorer]
    peer: Any
    rows: LogRows
    histories: list[torch.Tensor]

    @property
    def codes(self) -> np.ndarray:
        """Return the codes of each item, [items, levels]."""
        codes: np.ndarray = self.scorers["vocabulary"].catalogue.items["rec"].tokens[:, 1:-1]
        return codes


def causal_setting(
    shape: Mapping[str, int],
    n_items: int,
    users: int,
    folder: Path,
    *,
    repetitions: tuple[int, int] = REPETITIONS,
    device: torch.device = CPU,
) -> Logs:
    """Draw weights, codes and logs from a fixed seed; ``folder`` is where the peer's model is written to."""
    draw = np.random.default_rng(0)
    words = shape["words"]
    items = catalogue(n_items, words, draw)
    searched = np.where(items.tokens == words, words + schema.SEARCHED_ITEM, items.tokens)
    tokens = {"rec": items, "search": ItemTokens.from_rows(rows_of(searched))}
    tries = {task: token_trie(part) for task, part in tokens.items()}
    known = Catalogue(tokens, tries, ItemNodes.build(tokens, tries, first_code=1), first_code=1)
    options = OnePassSettings(
        hidden_size=shape["d_model"],
        intermediate_size=2 * shape["d_ff"] // 3,
        num_layers=shape["num_layers"],
        num_heads=shape["num_heads"],
        node_vectors=False,
        query_vectors=False,
        click_evidence=False,
    )
    special = SimpleNamespace(pad_token_id=0, eos_token_id=END)
    lm = from_scratch(options, words + 3 + CODES * LEVELS, special, seed=0)
    model = CausalGenerator(lm, options, n_nodes=0, n_queries=0, depth=tries["rec"].depth).eval()
    model.save(folder)
    model, known = model.to(device), known.to(device)
    rows = _logs(users, items, words, repetitions, draw)
    firsts, lasts = rows.tokens.offsets[rows.entries[:-1]], rows.tokens.offsets[rows.entries[1:]]
    return Logs(
        {name: OnePassScorer(model, known, None, over_catalogue=name == "catalogue") for name in LIKELIHOODS},
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(),
        rows,
        [torch.from_numpy(rows.tokens.values[first:last]) for first, last in zip(firsts, lasts, strict=True)],
    )


#: What a code competes with.
LIKELIHOODS = ("vocabulary", "catalogue")


def our_scores(case: Logs, candidates: np.ndarray, likelihood: str) -> np.ndarray:
    """Compute our scores of ``candidates`` [users, width]."""
    asked = np.arange(len(candidates))
    return case.scorers[likelihood].score(case.rows, asked, candidates, "rec", USERS_PER_BATCH)


def our_search(case: Logs, beams: int, likelihood: str) -> RetrievedItems:
    """Search the whole catalogue for every user."""
    row, entry = case.rows.places_of(np.arange(len(case.rows)))
    questions = case.scorers[likelihood].questions(case.rows, row, entry, "rec", USERS_PER_BATCH)
    return search_beams(questions, questions.scorer.catalogue.tries["rec"], beams=beams)


@torch.inference_mode()
def peer_logits(case: Logs, user: int, candidates: np.ndarray, *, cached: bool) -> torch.Tensor:
    """Let the library's model read each candidate of a user alone; return the logits before each code [width, L, V].

    The candidates are one batch. With ``cached``, the history is read once, and its keys and values serve all.
    """
    history, codes = case.histories[user][None], torch.from_numpy(case.codes[candidates[user]]).long()
    if not cached:
        whole = torch.cat([history.expand(len(codes), -1), codes[:, :-1]], 1)
        logits: torch.Tensor = case.peer(whole, logits_to_keep=LEVELS, use_cache=False).logits
        return logits
    before = case.peer(history, logits_to_keep=1, use_cache=True)
    before.past_key_values.batch_repeat_interleave(len(codes))
    after = case.peer(codes[:, :-1], past_key_values=before.past_key_values).logits
    return torch.cat([before.logits.expand(len(codes), -1, -1), after], 1)


def peer_scores(case: Logs, candidates: np.ndarray, *, cached: bool) -> np.ndarray:
    """Sum up the log-probabilities of each candidate's codes over the vocabulary, [users, width]."""
    scores = []
    for user, wanted in enumerate(candidates):
        chances = peer_logits(case, user, candidates, cached=cached).log_softmax(-1)
        codes = torch.from_numpy(case.codes[wanted]).long()
        scores.append(chances.gather(2, codes[:, :, None]).sum((1, 2)).numpy())
    return np.stack(scores)


def peer_scores_over_catalogue(case: Logs, user: int, candidates: np.ndarray) -> np.ndarray:
    """Normalize the peer's logits over what continues some item, by plain loops; scores of one user [width]."""
    root = dictionary_trie(case.codes)
    logits = peer_logits(case, user, candidates, cached=False)
    scores = np.zeros(candidates.shape[1])
    for number, codes in enumerate(case.codes[candidates[user]].tolist()):
        node = root
        for level, code in enumerate(codes):
            others = logits[number, level, list(node)]
            scores[number] += float(logits[number, level, code] - others.logsumexp(0))
            node = node[code]
    return scores


def peer_search(case: Logs, beams: int, root: dict[int, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Run the library's constrained beam search; return codes [users, beams, L] and scores."""
    codes, scores = [], []
    for start in range(0, len(case.rows), PEER_BATCH):
        part = case.histories[start : start + PEER_BATCH]
        longest = max(len(history) for history in part)
        tokens = torch.stack([torch.nn.functional.pad(history, (longest - len(history), 0)) for history in part])
        present = torch.stack([torch.arange(longest) >= longest - len(history) for history in part])
        found = constrained_search(case.peer, tokens, present, [root] * len(part), beams, begin=longest, steps=LEVELS)
        codes.append(found.sequences[:, longest:].view(len(part), beams, LEVELS).numpy())
        scores.append(found.sequences_scores.view(len(part), beams).numpy())
    return np.concatenate(codes), np.concatenate(scores)


def _logs(users: int, items: ItemTokens, words: int, repeated: tuple[int, int], draw: np.random.Generator) -> LogRows:
    """Draw logs whose last entry, a recommendation, is asked."""
    repetitions = draw.integers(repeated[0], repeated[1] + 1, users)
    entries = np.concatenate([[0], np.cumsum(len(PATTERN) * repetitions + 1)])
    behavior, objects, group, query, tokens = [], [], [], [], []
    for count in repetitions.tolist():
        for step in range(count):
            for place, kind in enumerate(PATTERN):
                thing = int(draw.integers(len(items)))
                codes = items.tokens[thing, 1:-1].tolist()
                payload = draw.integers(2, words, WORDS).tolist() if kind == schema.SEARCHED_QUERY else codes
                tokens.append([words + kind, *payload])
                behavior.append(kind)
                objects.append(thing)
                # A click follows its query.
                group.append(len(PATTERN) * step + (place if kind == schema.RECOMMENDED_ITEM else 0))
        tokens.append([words + schema.RECOMMENDED_ITEM])
        behavior.append(schema.RECOMMENDED_ITEM)
        objects.append(-1)
        group.append(len(PATTERN) * count)
    rows = Ragged.from_lengths(
        np.array([len(row) for row in tokens]), np.array([token for row in tokens for token in row], dtype=np.int64)
    )
    first = np.repeat(entries[:-1], np.diff(entries))
    target = np.full(len(behavior), NO_TARGET)
    target[entries[1:] - 1] = np.arange(users)
    query = np.array(group)
    return LogRows(
        user=np.full(users, -1),
        entries=entries,
        tokens=rows,
        folder=None,
        behavior=np.array(behavior),
        object=np.array(objects),
        position=rows.offsets[:-1] - rows.offsets[first],
        opens=query,
        closes=query,
        query=query,
        target=target,
    )
