"""Configure corpora: the prompts that the generator is trained on (paper, section 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gensar_core.config.base import Count, Name, Positive, Settings

Task = Literal["nrip", "nsqp", "nsip", "desc2id", "id2desc", "doc2query"]


class MaterializationSettings(Settings):
    """Configure the stage `corpus`; identifiers and samples are input files."""

    tasks: list[Task] = ["nrip", "nsqp", "nsip", "desc2id", "id2desc"]
    drop: list[Task] = []
    """Tasks to remove; an ablation sets this on top of its `base`."""
    behavior_tokens: bool = True
    """Put <R_I>, <S_Q>, <S_I> before every history entry and target (paper, section 3.2.4)."""
    max_recommendations: Positive = 5
    """History shown in a prompt: the last clicks, and the last sessions (a query and its clicks)."""
    max_searches: Positive = 5
    later_targets: Count = 0
    """Prefix augmentation: also predict this many later targets of the user from each training history, an earlier cut
    of those targets' histories. Only next items and next queries are added, whose prompts hold nothing but the
    history: all targets of a history share one prompt, and the encoder reads it once."""
    shorter_histories: Count = 0
    """Prefix augmentation: add this many examples of each training sample, with the history cut to a random suffix."""
    max_item_tokens: Positive = 256
    """Maximum text lengths; texts are cut after the last word that fits."""
    max_query_tokens: Positive = 64
    log_tokens: Annotated[int, Field(ge=32)] = 256
    """Maximum tokens of a row of a user's log, which a causal model reads at once; a longer log has several rows."""
    tokenizer: str = "google-t5/t5-small"
    """`trained`: a vocabulary trained on this data set, of at most `vocabulary_size` tokens (including 256 bytes and 3
    special tokens); otherwise a hub name or local folder of a T5 or mT5."""
    vocabulary_size: Annotated[int, Field(ge=300)] = 8000

    @model_validator(mode="after")
    def _some_task_left(self) -> MaterializationSettings:
        if not set(self.tasks) - set(self.drop):
            raise ValueError("no task is left: 'drop' takes all of 'tasks' away")
        return self

    @property
    def active_tasks(self) -> list[Task]:
        """Return the remaining tasks, in the order of `tasks`."""
        return [task for task in dict.fromkeys(self.tasks) if task not in self.drop]


class CorpusSettings(MaterializationSettings):
    """Configure an entry of `corpora`."""

    identifier: Name
    pseudo_queries: Name | None = None
    """Entry of `pseudo_queries` that supplies the queries of the task `doc2query`."""
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""

    @model_validator(mode="after")
    def _pseudo_queries_are_there(self) -> CorpusSettings:
        if "doc2query" in self.active_tasks and self.pseudo_queries is None:
            raise ValueError("task 'doc2query' needs 'pseudo_queries', the name of an entry of that section")
        return self
