"""Say once which entry of the experiments each rule reads: its settings, or a part of them, and its seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gensar_core.config.base import Settings
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import (
    CanonicalSettings,
    ClickSettings,
    EventLogSettings,
    KuaiSARSettings,
    QilinSettings,
    SimulationSettings,
)
from gensar_core.config.embeddings import TrainedTextSettings
from gensar_core.config.experiments import Experiments
from gensar_core.config.fusions import WeightSettings
from gensar_core.config.generators import TrainingSettings
from gensar_core.config.pseudo_queries import PseudoQuerySettings
from gensar_core.config.tables import ComparisonSettings

#: Rule -> the section of its entry, and the part that it reads: the settings of a model, a field, or what a method
#: returns; None is all of it.
_READS: Final[Mapping[str, tuple[str, type[Settings] | str | None]]] = {
    "simulate": ("datasets", SimulationSettings),
    "canonical_amazon": ("datasets", CanonicalSettings),
    "canonical_eventlog": ("datasets", EventLogSettings),
    "canonical_kuaisar": ("datasets", KuaiSARSettings),
    "canonical_qilin": ("datasets", QilinSettings),
    **dict.fromkeys(("canonical_part", "canonical_gather"), ("datasets", ClickSettings)),
    **dict.fromkeys(("samples", "samples_survey", "samples_part", "samples_gather"), ("datasets", "samples")),
    "training_negatives": ("datasets", "training_negatives"),
    "embed_text": ("embeddings", None),
    "embed_trained_text": ("embeddings", TrainedTextSettings),
    "identifiers": ("identifiers", "of_stage"),
    "pseudo_queries": ("pseudo_queries", PseudoQuerySettings),
    "corpus": ("corpora", MaterializationSettings),
    **dict.fromkeys(("train_generator", "tune_generator"), ("generators", TrainingSettings)),
    "rank_generator": ("generators", "ranking"),
    "full_rank_generator": ("generators", "retrieval"),
    "recommendations": ("datasets", "recommendations"),
    "searches": ("datasets", "queries"),
    **dict.fromkeys(("method", "full_rank_method", "tune_method"), ("methods", None)),
    **dict.fromkeys(("fuse", "full_rank_fusion"), ("fusions", WeightSettings)),
    **dict.fromkeys(("overall_table", "named_table", "full_table"), ("tables", ComparisonSettings)),
    "comparison_figure": ("figures", None),
}
#: The wildcard that names an entry of a section, where it is not the section without its last letter.
_WILDCARDS: Final = {"corpora": "corpus", "pseudo_queries": "pseudo_queries"}


def stage_settings(experiments: Experiments, rule: str, wildcards: Mapping[str, str]) -> Settings | None:
    """Return the settings that a rule reads for these wildcards; None when it reads no entry."""
    if rule not in _READS:
        return None
    part = _READS[rule][1]
    entry = _entry(experiments, rule, wildcards)
    if part is None or not isinstance(part, str):
        return entry if part is None else entry.part(part)
    settings: Any = getattr(entry, part)
    return settings if isinstance(settings, Settings) else settings()  # type: ignore[no-any-return]


def stage_seed(experiments: Experiments, rule: str, wildcards: Mapping[str, str]) -> int:
    """Return the seed that a rule draws from: its entry's, or the configuration's."""
    entry = _entry(experiments, rule, wildcards) if rule in _READS else None
    return experiments.seed_of(entry) if hasattr(entry, "seed") else experiments.seed


def _entry(experiments: Experiments, rule: str, wildcards: Mapping[str, str]) -> Settings:
    """Return the entry that a rule reads: a data set's table stands for one that no wildcard names."""
    section, _ = _READS[rule]
    wildcard = _WILDCARDS.get(section, section.removesuffix("s"))
    named = wildcard in wildcards or section != "tables"
    name = wildcards[wildcard] if named else experiments.datasets[wildcards["dataset"]].table
    entry: Settings = getattr(experiments, section)[name]
    return entry
