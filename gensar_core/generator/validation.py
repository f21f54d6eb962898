"""Validate a generator during training by its exact ranking of the valid candidates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.read import ItemTokens, Prompts, load_item_tokens, load_prompts
from gensar_core.corpora.trie import TokenTrie, load_tries
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.beam_search import RetrievedItems, beam_search
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, Likelihood, item_likelihoods
from gensar_core.ranking.candidates import CandidateLists, Choice
from gensar_core.ranking.full_ranking import CatalogueTargets, found_ranks
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.ranking.validation_candidates import ValidLists
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.processes import ALONE, Processes

_USERS_PER_BATCH = 64
#: Beams of a search for the valid targets.
BEAMS: Final = 50


@dataclass(frozen=True)
class Validation:
    """Read the valid candidate lists of one task, with their prompts, block by block."""

    task: str
    lists: ValidLists
    prompts: Prompts
    items: ItemTokens
    likelihood: Likelihood = VOCABULARY
    #: Trie of the catalogue that targets are searched in; None: they are ranked among their candidates.
    trie: TokenTrie | None = None

    def metrics(self, model: Backbone, processes: Processes = ALONE) -> dict[str, float]:
        """Compute metrics of the model's ranking; each process ranks a share of the lists."""
        ranks = shared_ranks(self.lists, lambda lists, share: self._ranks(model, lists, share), processes)
        return validation_metrics(self.task, ranks)

    def _ranks(self, model: Backbone, lists: CandidateLists, share: np.ndarray) -> np.ndarray:
        """Rank the targets of some of the lists."""
        prompts = prompts_of(self.prompts, lists, share)
        how: dict[str, Any] = {"users_per_batch": _USERS_PER_BATCH, "likelihood": self.likelihood}
        if self.trie is not None:
            return retrieved_ranks(beam_search(model, prompts, self.trie, beams=BEAMS, **how), lists, share)
        candidates = lists.items[share]
        scores = score_candidates(model, prompts, candidates, self.items, **how)
        return average_ranks(scores, candidates >= 0)


def prompts_of(prompts: Prompts, lists: CandidateLists, share: np.ndarray) -> Ragged:
    """Return the prompts of some of the lists. Raises UserError when one has none."""
    return prompts.of(lists.samples.get_column("sample_id").to_numpy()[share])


def shared_ranks(
    lists: ValidLists, rank: Callable[[CandidateLists, np.ndarray], np.ndarray], processes: Processes
) -> np.ndarray:
    """Rank the targets of all lists, float [lists]; each process calls ``rank`` for a share of each block of them."""
    share, ranks, first = processes.own(len(lists)), np.zeros(len(lists)), 0
    for block in lists:
        begin, end = np.searchsorted(share, (first, first + len(block)))
        ranks[share[begin:end]] = rank(block, share[begin:end] - first)
        first += len(block)
    return processes.sum(ranks)


def retrieved_ranks(retrieved: RetrievedItems, lists: CandidateLists, share: np.ndarray) -> np.ndarray:
    """Rank the targets of some of the lists among all items; NaN where the search missed them."""
    return found_ranks(retrieved.items, retrieved.scores, CatalogueTargets(lists.samples[share]))


def validation_metrics(task: str, ranks: np.ndarray) -> dict[str, float]:
    """Compute HR@1 and NDCG@5 of a task's valid targets."""
    return {f"{task}_hr@1": hit_rate(ranks, 1), f"{task}_ndcg@5": ndcg(ranks, 5)}


def load_validation(
    corpus: Path,
    samples: Path,
    model: Backbone,
    users: int,
    choice: Choice = "spread",
    *,
    among_catalogue: bool = False,
) -> list[Validation]:
    """Load the valid lists of the tasks that the corpus has prompts for.

    They are those of at most ``users`` users each (0: all), by ``choice``. Tasks without lists are left out. Raises
    UserError if no task has valid samples.
    """
    vocabulary = model.lm_head.weight.shape[0]
    items = load_item_tokens(corpus, vocabulary, int(model.config.eos_token_id))
    prompts = load_prompts(corpus, vocabulary)
    likelihoods = item_likelihoods(model, lambda: load_tries(corpus, len(items["rec"])))
    tries = load_tries(corpus, len(items["rec"])) if among_catalogue else {}
    validations = []
    tasks = prompted_tasks(corpus)
    for task in tasks:
        lists = ValidLists.open(samples, task, users, choice)
        if len(lists):
            for block in lists:
                # A list without a prompt is told before the training.
                prompts_of(prompts, block, np.arange(len(block)))
            likelihood = likelihoods.get(task, VOCABULARY)
            validations.append(Validation(task, lists, prompts, items[task], likelihood, tries.get(task)))
    if not validations:
        named = " or ".join(tasks)
        raise UserError(f"{samples}: holds no valid samples of {named} to choose the model by; take more data")
    return validations
