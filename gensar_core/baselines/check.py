"""Validate the section `methods` of a configuration with the settings models in the methods' files."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from gensar_core.baselines.interface import find, kinds
from gensar_core.config.base import canonical_json, validate
from gensar_core.config.experiments import Experiments
from gensar_core.runtime.fingerprint import fingerprint


class Traits(NamedTuple):
    """Hold what the workflow needs of a method's class: its inputs, and whether its scores depend on the seed."""

    inputs: list[str]
    seeded: bool


def check_methods(experiments: Experiments, where: str = "config", checked: Path | None = None) -> dict[str, Traits]:
    """Validate the method-specific keys of every entry of `methods`; return the traits of each `kind` in use.

    Importing the methods takes seconds (they import torch), so a passed check is cached in the folder ``checked`` under
    a hash of the entries and of the methods' code. Raises UserError naming the first wrong entry.
    """
    entries = {name: {"kind": entry.kind, **entry.own()} for name, entry in experiments.methods.items()}
    code = fingerprint(*(f"gensar_core.baselines.methods.{kind}" for kind in kinds()))
    key = hashlib.sha256((canonical_json(entries) + code).encode()).hexdigest()[:16]
    remembered = checked / f"{key}.json" if checked is not None else None
    if remembered is not None and remembered.is_file():
        return {kind: Traits(**traits) for kind, traits in json.loads(remembered.read_text(encoding="utf-8")).items()}
    traits_by_kind = {}
    for name, entry in experiments.methods.items():
        method = find(entry.kind, f"{where}: methods.{name}.kind")
        validate(method.settings_model, entry.own(), where, f"methods.{name}")
        traits_by_kind[entry.kind] = Traits(list(method.inputs), method.seeded)
    if remembered is not None:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_suffix(f".{os.getpid()}")
        partial.write_text(
            canonical_json({kind: traits._asdict() for kind, traits in traits_by_kind.items()}), encoding="utf-8"
        )
        partial.replace(remembered)
    return traits_by_kind
