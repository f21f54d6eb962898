"""Select the training tasks that answer with an item, and the tries of their answers."""

from __future__ import annotations

from pathlib import Path

from gensar_core.corpora.read import new_tokens
from gensar_core.corpora.tasks import BEHAVIOR_TOKENS, RANKING_TASKS, TASKS
from gensar_core.corpora.trie import TokenTrie, load_tries


def target_tries(corpus: Path, n_items: int) -> dict[str, TokenTrie]:
    """Load the trie of all items as each task writes them, by the task's name; tasks that write texts have none.

    Raises UserError when the corpus' file of tries is missing, broken, or not that of ``n_items`` items.
    """
    tries = load_tries(corpus, n_items)
    as_ranked = {task.target.kind: tries[source] for source, task in RANKING_TASKS.items()}
    bare = as_ranked
    if not set(BEHAVIOR_TOKENS).isdisjoint(new_tokens(corpus)):
        # The ranking tasks write the behavior token first; descriptions are answered by the identifier alone.
        bare = {kind: trie.without_first_token() for kind, trie in as_ranked.items()}
    return {
        name: (bare if task.target.behavior is None else as_ranked)[task.target.kind]
        for name, task in TASKS.items()
        if task.target.kind in as_ranked
    }
