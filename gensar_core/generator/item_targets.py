"""Select the training tasks that answer with an item, and build the tries of their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gensar_core.corpora.read import ItemTokens, load_item_tokens, new_tokens
from gensar_core.corpora.tasks import BEHAVIOR_TOKENS, RANKING_TASKS, TASKS
from gensar_core.corpora.trie import TokenTrie
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.runtime.arrays import Ragged


def target_tries(corpus: Path, model: Backbone) -> dict[str, TokenTrie]:
    """Build the trie of all items as each task writes them, by the task's name; tasks that write texts have none.

    Raises UserError if the corpus' table of item tokens is broken.
    """
    items = load_item_tokens(corpus, model.lm_head.weight.shape[0], int(model.config.eos_token_id))
    by_kind = {task.target.kind: items[source] for source, task in RANKING_TASKS.items()}
    have_behaviors = not set(BEHAVIOR_TOKENS).isdisjoint(new_tokens(corpus))
    built: dict[tuple[str, bool], TokenTrie] = {}
    tries = {}
    for name, task in TASKS.items():
        if task.target.kind not in by_kind:
            continue
        # Item tokens are stored as the ranking tasks write them, with the behavior token first.
        bare = have_behaviors and task.target.behavior is None
        key = task.target.kind, bare
        if key not in built:
            built[key] = TokenTrie.from_rows(_rows(by_kind[task.target.kind], skipped=int(bare)))
        tries[name] = built[key]
    return tries


def _rows(items: ItemTokens, skipped: int) -> Ragged:
    """Return the items' tokens without the first ``skipped`` of each."""
    tokens = items.tokens[:, skipped:]
    real = np.arange(tokens.shape[1]) < (items.lengths - skipped)[:, None]
    return Ragged.from_lengths(items.lengths - skipped, tokens[real])
