"""Expand tables over several seeds: add the entries that train their rows with each other seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gensar_core.config.base import Settings
from gensar_core.config.experiments import BUILT_ON, Experiments, names_in
from gensar_core.errors import UserError

#: Table -> row -> the entries that it shows: one, or one per seed.
Runs = dict[str, dict[str, list[str]]]

_ROWS: Final = ("methods", "generators", "fusions")


def with_seeds(
    experiments: Experiments, draws: Callable[[str], bool], where: str = "config"
) -> tuple[Experiments, Runs]:
    """Add the entries that tables need for their `seeds`; return all experiments and the entries that each table shows.

    For a row and a seed, an entry is copied with this seed, as NAME-seedN, if it draws at random or is built on a copy.
    All else is shared, and an entry that already has this seed is not copied. ``draws`` tells whether a kind of method
    draws at random; text embeddings and fusions do not. Raises UserError when a copy's name is taken, and when entries
    are built on each other in a circle.
    """
    copies = _Copies(experiments, draws, where)
    runs: Runs = {
        name: {
            row: list(dict.fromkeys(copies.row(row, seed) for seed in table.seeds)) if table.seeds else [row]
            for row in table.rows
        }
        for name, table in experiments.tables.items()
    }
    sections = {section: {**getattr(experiments, section), **made} for section, made in copies.made.items()}
    return experiments.model_copy(update=sections), runs


def added(before: Experiments, after: Experiments) -> dict[str, list[str]]:
    """Return the names of the entries in ``after`` but not in ``before``, by section; empty sections are left out."""
    sections = {
        section: [name for name in getattr(after, section) if name not in getattr(before, section)]
        for section in BUILT_ON
    }
    return {section: names for section, names in sections.items() if names}


class _Copies:
    """Hold the entries copied so far, by section and name."""

    def __init__(self, experiments: Experiments, draws: Callable[[str], bool], where: str) -> None:
        self.experiments, self.draws, self.where = experiments, draws, where
        self.made: dict[str, dict[str, Settings]] = {section: {} for section in BUILT_ON}

    def row(self, name: str, seed: int) -> str:
        """Return the name of the entry that represents a table's row with this seed."""
        return self._at(_ROWS, name, seed, ())

    def _at(self, sections: tuple[str, ...], name: str, seed: int, chain: tuple[str, ...]) -> str:
        """Return the name of the entry, or of its copy with this seed; ``chain`` holds the entries built on it."""
        section = next(one for one in sections if name in getattr(self.experiments, one))
        path = f"{section}.{name}"
        if path in chain:
            raise UserError(f"{self.where}: {path}: is built on itself: {' -> '.join((*chain, path))}")
        entry = getattr(self.experiments, section)[name]
        changed: dict[str, Any] = {}
        for key, homes in BUILT_ON[section].items():
            names = names_in(entry, key)
            seeded = [self._at(homes, one, seed, (*chain, path)) for one in names]
            if seeded != names:
                changed[key] = seeded if isinstance(getattr(entry, key), list) else seeded[0]
        if self._draws(section, entry) and self.experiments.seed_of(entry) != seed:
            changed["seed"] = seed
        return self._copy(section, name, seed, changed) if changed else name

    def _draws(self, section: str, entry: Any) -> bool:
        return self.draws(entry.kind) if section == "methods" else "seed" in type(entry).model_fields

    def _copy(self, section: str, name: str, seed: int, changed: Mapping[str, Any]) -> str:
        copy = f"{name}-seed{seed}"
        for one in _ROWS if section in _ROWS else (section,):
            if copy in getattr(self.experiments, one):
                raise UserError(f"{self.where}: {one}.{copy}: is what {name} is called with seed {seed}; rename it")
        self.made[section][copy] = getattr(self.experiments, section)[name].model_copy(update=changed)
        return copy
