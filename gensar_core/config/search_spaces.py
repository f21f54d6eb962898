"""Mark the settings that `gensar tune` varies where they are defined: ``rate: Annotated[Rate, Between(...)]``."""

from __future__ import annotations

from dataclasses import dataclass

from gensar_core.config.base import Settings


@dataclass(frozen=True)
class Between:
    """Draw a number from ``low`` to ``high``, evenly or, if ``log``, on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Among:
    """Take one of ``choices``."""

    choices: tuple[bool | float | str | None, ...]


#: Range of each setting that is varied, by the path of its key (`one_pass.dropout`).
SearchSpace = dict[str, Between | Among]


def search_space(settings: Settings, prefix: str = "") -> SearchSpace:
    """Collect the ranges that a settings model and the models in its fields declare."""
    space: SearchSpace = {}
    for name, field in type(settings).model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, Between | Among):
                space[prefix + name] = mark
        value = getattr(settings, name)
        if isinstance(value, Settings):
            space |= search_space(value, f"{prefix}{name}.")
    return space
