"""Configure corpora: the prompts that the generator is trained on (paper, section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gensar_core.config.base import Count, Name, Positive, Settings
from gensar_core.config.prompts import find_prompts, shipped_prompts


class MaterializationSettings(Settings):
    """Configure the stage `corpus`; identifiers and samples are input files."""

    prompts: str = "gensar"
    """Prompt file, which holds the tasks and their templates: `gensar`, `gensar_short` (the same tasks in short
    prompts), `p5`, `tiger`, `lcrec`, `dsi_qg`, `webultron`, `genret`, or the path of your own
    (docs/add-an-identifier.md)."""
    tasks: list[Name] | None = None
    """Training tasks, by their names or groups in the prompt file; null: all that are not optional there."""
    drop: list[Name] = []
    """Tasks to remove; an ablation sets this on top of its `base`."""
    behavior_tokens: bool = True
    """Put <R_I>, <S_Q>, <S_I> before every history entry and target (paper, section 3.2.4), if the prompt file does."""
    max_recommendations: Positive = 5
    """History shown in a prompt: the last clicks, and the last sessions (a query and its clicks). A task of the prompt
    file may set a maximum of its own."""
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
    special tokens). `identifiers`: that with which the identifiers were learned (`kind: genret`). Otherwise a hub name
    or local folder of a T5 or mT5."""
    vocabulary_size: Annotated[int, Field(ge=300)] = 8000

    @property
    def own_prompts(self) -> Path | None:
        """Return the path of the user's own prompt file; None: a shipped one is used."""
        return None if self.prompts in shipped_prompts() else Path(self.prompts)

    def active_tasks(self, where: str = "") -> list[str]:
        """Name the tasks to materialize, in the order of `tasks`. Raises UserError as the prompt file's methods do."""
        return find_prompts(self.prompts, f"{where}prompts").active(self.tasks, self.drop, where)

    def reads_pseudo_queries(self, where: str = "") -> bool:
        """Tell whether a task to materialize has pseudo-queries as examples."""
        file = find_prompts(self.prompts, f"{where}prompts")
        return any(file.tasks[name].source == "pseudo_query" for name in self.active_tasks(where))


class CorpusSettings(MaterializationSettings):
    """Configure an entry of `corpora`."""

    identifier: Name
    pseudo_queries: Name | None = None
    """Entry of `pseudo_queries` that supplies the queries of tasks such as `doc2query`."""
    seed: Count | None = None
    """Seed of all random draws; null uses the configuration's seed."""
