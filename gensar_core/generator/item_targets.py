"""Select the training tasks that answer with an item, and the tries of their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.corpora.instructions import load_prompt_file
from gensar_core.corpora.read import has_behavior_tokens
from gensar_core.corpora.tasks import ITEM_VALUES, tasks_of
from gensar_core.corpora.trie import TokenTrie, load_tries
from gensar_core.runtime.arrays import Ragged
from gensar_core.samples.cold_items import mark_cold_items


def target_tries(corpus: Path, n_items: int, cold_items: Path | None = None) -> dict[str, TokenTrie]:
    """Load the trie of all items as each task writes them, by the task's name; tasks that write texts have none.

    Items of the table ``cold_items`` are not in it. Raises UserError when the corpus lacks its prompt file, and when
    its file of tries is missing, broken, or not that of ``n_items`` items.
    """
    tries = load_tries(corpus, n_items)
    if cold_items is not None:
        warm = pl.col("item_id").is_in(np.flatnonzero(~mark_cold_items(cold_items, n_items)).tolist())
        rows = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet").filter(warm)
        tries = {
            task: TokenTrie.from_rows(Ragged.from_series(rows.filter(pl.col("task") == task).get_column("target_ids")))
            for task in tries
        }
    as_ranked = {value.kind: tries[source] for source, value in ITEM_VALUES.items()}
    bare = as_ranked
    if has_behavior_tokens(corpus):
        # Next items begin with the behavior token; descriptions are answered by the identifier alone.
        bare = {kind: trie.without_first_token() for kind, trie in as_ranked.items()}
    return {
        name: (bare if task.target.behavior is None else as_ranked)[task.target.kind]
        for name, task in tasks_of(load_prompt_file(corpus)).items()
        if task.target.kind in as_ranked
    }
