"""Settings of corpora: which prompts the generator is trained on (paper, section 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gensar_core.config.base import Count, Name, Positive, Settings

Task = Literal["nrip", "nsqp", "nsip", "desc2id", "id2desc", "doc2query"]


class MaterializationSettings(Settings):
    """What the stage `corpus` reads; identifiers and samples arrive as files."""

    tasks: list[Task] = ["nrip", "nsqp", "nsip", "desc2id", "id2desc"]
    #: Tasks taken out again: how an ablation is written on top of `base`.
    drop: list[Task] = []
    #: Put <R_I>, <S_Q>, <S_I> before every history entry and target (paper, section 3.2.4).
    behavior_tokens: bool = True
    #: How much of the history a prompt shows: its last clicks, and its last sessions (a query and its clicks).
    max_recommendations: Positive = 5
    max_searches: Positive = 5
    #: Prefix augmentation: a training history is also asked for so many later targets of its user, which then have an
    #: earlier cut of theirs. Only of next items and next queries, whose prompts hold nothing but the history: all
    #: targets of a history share its prompt, and the encoder reads it once.
    later_targets: Count = 0
    #: Prefix augmentation: so many more examples of each training sample, with a history cut to a random last part.
    shorter_histories: Count = 0
    #: Texts are cut at the end of the last word that fits.
    max_item_tokens: Positive = 256
    max_query_tokens: Positive = 64
    #: `trained`: a vocabulary trained on this data set, of at most `vocabulary_size` tokens (256 bytes and 3 special
    #: ones among them); else a hub name or local folder of a T5 or mT5.
    tokenizer: str = "google-t5/t5-small"
    vocabulary_size: Annotated[int, Field(ge=300)] = 8000

    @model_validator(mode="after")
    def _some_task_left(self) -> MaterializationSettings:
        if not set(self.tasks) - set(self.drop):
            raise ValueError("no task is left: 'drop' takes all of 'tasks' away")
        return self

    @property
    def active_tasks(self) -> list[Task]:
        """The tasks that remain, in the order of `tasks`."""
        return [task for task in dict.fromkeys(self.tasks) if task not in self.drop]


class CorpusSettings(MaterializationSettings):
    """An entry of `corpora`."""

    identifier: Name
    #: Where the task `doc2query` takes its queries from.
    pseudo_queries: Name | None = None
    #: What is drawn at random comes from this number; null: the configuration's seed.
    seed: Count | None = None

    @model_validator(mode="after")
    def _pseudo_queries_are_there(self) -> CorpusSettings:
        if "doc2query" in self.active_tasks and self.pseudo_queries is None:
            raise ValueError("task 'doc2query' needs 'pseudo_queries', the name of an entry of that section")
        return self

    def materialization(self) -> MaterializationSettings:
        """The part of these settings that the stage reads."""
        return MaterializationSettings(**{name: getattr(self, name) for name in MaterializationSettings.model_fields})
