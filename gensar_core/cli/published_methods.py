"""Compare generative methods as the paper's Table 1 does: scale, backbone, tasks, and what their identifiers tell.

Scale and backbone are those that the methods were published with. Everything else is read from their entries of
config.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gensar_core.config.base import not_an_entry
from gensar_core.config.experiments import Experiments
from gensar_core.config.identifiers import sides_told
from gensar_core.config.prompts import find_prompts
from gensar_core.errors import UserError
from gensar_core.schema import SIDES, TASKS

_HEADER: Final = ("method", "scale", "backbone", *TASKS, *SIDES, "entry", "its backbone")


@dataclass(frozen=True)
class PublishedMethod:
    """Name a method and its entry of `generators`, and the parameters and backbone of its own paper (Table 1)."""

    name: str
    entry: str
    scale: str
    backbone: str


#: The rows of Table 1, in its order.
PUBLISHED_METHODS: Final = (
    PublishedMethod("P5", "p5_cid", "60M/220M", "T5-small/T5-base"),
    PublishedMethod("TIGER", "tiger", "60M", "T5-small"),
    PublishedMethod("LC-Rec", "lcrec", "7B", "LLaMA"),
    PublishedMethod("DSI-QG", "dsi_qg", "220M", "T5-base"),
    PublishedMethod("WebUltron", "webultron", "220M", "T5-base"),
    PublishedMethod("GenRet", "genret", "220M", "T5-base"),
    PublishedMethod("GenSAR", "gensar", "60M", "T5-small"),
)


def generative_methods(experiments: Experiments, where: str) -> list[tuple[str, ...]]:
    """Return the header and a row a method.

    ``where`` begins the error when the configuration lacks a method's entry (UserError).
    """
    return [_HEADER, *(_row(method, experiments, where) for method in PUBLISHED_METHODS)]


def _row(method: PublishedMethod, experiments: Experiments, where: str) -> tuple[str, ...]:
    if method.entry not in experiments.generators:
        hint = not_an_entry(method.entry, sorted(experiments.generators), "of generators")
        raise UserError(f"{where}: {hint}; Table 1 shows {method.name} by it")
    generator = experiments.generators[method.entry]
    corpus = experiments.corpora[generator.corpus]
    ranked = find_prompts(corpus.prompts).ranking
    told = sides_told(experiments.identifiers[corpus.identifier])
    marks = ["yes" if name in (*ranked, *told) else "no" for name in (*TASKS, *SIDES)]
    return (method.name, method.scale, method.backbone, *marks, method.entry, generator.backbone)
