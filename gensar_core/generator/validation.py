"""Validate a generator during training by its exact ranking of the valid candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gensar_core import schema
from gensar_core.corpora.instructions import prompted_tasks
from gensar_core.corpora.read import ItemTokens, load_item_tokens, load_prompts
from gensar_core.corpora.trie import load_tries
from gensar_core.errors import UserError
from gensar_core.generator.backbones.t5 import Backbone
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.generator.likelihoods import VOCABULARY, Likelihood, item_likelihoods
from gensar_core.ranking.candidates import CandidateLists, Choice, load_candidates
from gensar_core.ranking.metrics import average_ranks, hit_rate, ndcg
from gensar_core.runtime.arrays import Ragged
from gensar_core.training.processes import ALONE, Processes

_USERS_PER_BATCH = 64


@dataclass(frozen=True)
class Validation:
    """Hold the valid candidate lists of one task, with their prompts."""

    task: str
    lists: CandidateLists
    prompts: Ragged
    items: ItemTokens
    likelihood: Likelihood = VOCABULARY

    def metrics(self, model: Backbone, processes: Processes = ALONE) -> dict[str, float]:
        """Compute metrics of the model's exact ranking; each process ranks a share of the lists."""
        share = processes.own(len(self.lists))
        candidates = self.lists.items[share]
        scores = score_candidates(
            model,
            self.prompts.take(share),
            candidates,
            self.items,
            users_per_batch=_USERS_PER_BATCH,
            likelihood=self.likelihood,
        )
        ranks = np.zeros(len(self.lists))
        ranks[share] = average_ranks(scores, candidates >= 0)
        ranks = processes.sum(ranks)
        return {f"{self.task}_hr@1": hit_rate(ranks, 1), f"{self.task}_ndcg@5": ndcg(ranks, 5)}


def load_validation(
    corpus: Path, samples: Path, model: Backbone, users: int, choice: Choice = "spread"
) -> list[Validation]:
    """Load the valid lists of the tasks that the corpus has prompts for.

    They are those of at most ``users`` users each (0: all), by ``choice``. Tasks without lists are left out. Raises
    UserError if no task has valid samples.
    """
    vocabulary = model.lm_head.weight.shape[0]
    items = load_item_tokens(corpus, vocabulary, int(model.config.eos_token_id))
    prompts = load_prompts(corpus, vocabulary)
    likelihoods = item_likelihoods(model, lambda: load_tries(corpus, len(items["rec"])))
    table = schema.SAMPLES.read(samples / "samples.parquet")
    validations = []
    tasks = prompted_tasks(corpus)
    for task in tasks:
        lists = load_candidates(samples, task, "valid", users=users, choice=choice, samples=table)
        if len(lists):
            rows = prompts.of(lists.samples.get_column("sample_id").to_numpy())
            validations.append(Validation(task, lists, rows, items[task], likelihoods.get(task, VOCABULARY)))
    if not validations:
        named = " or ".join(tasks)
        raise UserError(f"{samples}: holds no valid samples of {named} to choose the model by; take more data")
    return validations
