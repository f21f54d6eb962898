"""Build the JSON schema of config.yaml, with which editors complete and check it."""

from __future__ import annotations

import copy
from typing import Any, get_args

from gensar_core.baselines.interface import find, kinds
from gensar_core.config.experiments import Experiments
from gensar_core.config.identifiers import IdentifierSettings

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """Build the schema from the models that read the configuration.

    It adds what the models do not express: an entry with `base` may leave out the keys that its base has, a generator
    may override keys of its corpus and identifier, and the other keys of a method are those of its kind. Checks that
    need the whole configuration (names that must exist) are left to `gensar check`.
    """
    whole = Experiments.model_json_schema()
    definitions: dict[str, Any] = whole.pop("$defs")
    _accept_overrides(definitions)
    for section, mapping in whole["properties"].items():
        for pattern, entry in mapping.get("patternProperties", {}).items():
            methods = {"anyOf": [_method(kind, definitions) for kind in kinds()] + [_BASED]}
            entries = methods if section == "methods" else _with_base(entry, definitions)
            mapping["patternProperties"][pattern] = entries
    return {"$schema": _DIALECT, "$id": "config.schema.json", **whole, "$defs": definitions}


#: An entry on a base, whose kind is its base's: its keys are checked when the whole configuration is read.
_BASED: dict[str, Any] = {"type": "object", "required": ["base"], "properties": {"base": {"type": "string"}}}


def _with_base(entry: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Accept an entry as its model defines it, or one with `base` and any of the model's keys."""
    references = [part["$ref"] for part in entry.get("oneOf", [entry])]
    choices: list[dict[str, Any]] = [{"$ref": reference} for reference in references]
    choices += [_based(definitions[reference.rsplit("/", 1)[1]], required=["base"]) for reference in references]
    return {"anyOf": choices}


def _based(definition: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """Accept any keys of a definition, and `base`."""
    based = copy.deepcopy(definition)
    based["properties"]["base"] = {"type": "string", "description": "the entry whose keys this one takes over"}
    return {**based, "required": required}


def _accept_overrides(definitions: dict[str, Any]) -> None:
    """Accept keys that override those of a generator's corpus and identifier, beside names of entries."""
    of_kinds = [model.__name__ for model in get_args(get_args(IdentifierSettings)[0])]
    for key, models in (("corpus", ["CorpusSettings"]), ("identifier", of_kinds)):
        field = definitions["GeneratorSettings"]["properties"][key]
        choices = [{"type": "string"}, *(_based(definitions[model], required=[]) for model in models)]
        definitions["GeneratorSettings"]["properties"][key] = {"description": field["description"], "anyOf": choices}


def _method(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Accept an entry of one kind: with the keys that all methods have, and those of its kind."""
    method_schema = find(kind).settings_model.model_json_schema(ref_template=f"#/$defs/{kind}.{{model}}")
    for name, inner in method_schema.pop("$defs", {}).items():
        definitions[f"{kind}.{name}"] = inner
    shared = definitions["MethodSettings"]["properties"]
    properties = {**shared, **method_schema.get("properties", {}), "kind": {"const": kind}, "base": {"type": "string"}}
    required = ["kind", *method_schema.get("required", [])]
    return {"type": "object", "title": kind, "properties": properties, "required": required} | {
        "additionalProperties": False,
        "description": find(kind).paper,
    }
