"""Settings of corpora: which prompts the generator is trained on (paper, section 3.3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gensar_core.config.base import Name, Positive, Settings

Task = Literal["nrip", "nsqp", "nsip", "desc2id", "id2desc"]


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

    def materialization(self) -> MaterializationSettings:
        """The part of these settings that the stage reads."""
        return MaterializationSettings(**{name: getattr(self, name) for name in MaterializationSettings.model_fields})
