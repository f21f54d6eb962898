"""Share what every settings model needs: frozen, strict, no unknown keys, errors that name the key and the cure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from gensar_core.errors import UserError

#: Name of an entry; it becomes a folder name and a Snakemake wildcard.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
Positive = Annotated[int, Field(gt=0)]
#: Number of parts that one stage is split into; the scheduler runs each part as a job.
Parts = Annotated[int, Field(gt=0, le=10_000)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0)]

#: Maximum number of names in an error about a circular chain of entries.
_SHOWN_CHAIN = 8
#: Maximum number of characters of an invalid value in an error.
_SHOWN = 120
#: Keys of earlier versions -> what to write instead.
_REPLACED = {
    "checkpoint_steps": "checkpoints are written by time; write checkpoint_seconds beside seed, once for all",
    "item_text": "write item_vectors (id, text or both)",
    "neighbours": "write neighbors",
    "quantizer": "write kind (rqvae or rq_kmeans)",
}

_NUMBER_AS_TEXT = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Validate settings strictly: text never becomes a number, nor a number text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def canonical(self) -> str:
        """Return these settings as JSON with sorted keys: equal text for equal settings. Used as a rule's parameter."""
        return canonical_json(self.model_dump(mode="json"))

    def part(self, model: type[S]) -> S:
        """Return the settings that ``model`` holds: as here where both have them, else its defaults."""
        return model(**{name: getattr(self, name) for name in model.model_fields if name in type(self).model_fields})


def canonical_json(value: Any) -> str:
    """Serialize a value to JSON with sorted keys and no layout-dependent blanks."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def validate(model: type[S], values: Any, where: str, path: str = "") -> S:
    """Build ``model``, or one of a union of models, from the plain values at ``path`` of the configuration ``where``.

    Raises UserError with the full path of the first invalid key.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise UserError(f"{explain_error(details[0], model, values, where, path)}{more}") from None


def explain_error(detail: ErrorDetails, model: type[BaseModel], values: Any, where: str, path: str) -> str:
    """Describe one validation error in one line: path of the key, what is wrong, what to write instead."""
    parts, kind = [str(part) for part in detail["loc"]], detail["type"]
    path = f"{where}: {'.'.join([*filter(None, [path]), *_written(parts, values, kind)])}"
    given = detail.get("input")
    if kind == "extra_forbidden":
        keys = sorted(_fields_at(model, parts[:-1]))
        close = difflib.get_close_matches(parts[-1], keys, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(keys)}"
        hint = _REPLACED.get(parts[-1], hint)
        return f"{path}: unknown key; {hint}"
    if kind == "missing":
        return f"{path}: this key is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _unknown_tag(path, **detail["ctx"])
    if isinstance(given, str) and kind in ("float_type", "int_type") and _NUMBER_AS_TEXT.match(given):
        cure = f"write {float(given)!r}" if kind == "int_type" else f"write {_yaml_float(float(given))}"
        read = "YAML reads 1e-4 as text, 1.0e-4 as a number"
        return f"{path}: {shortened_repr(given)} is text, not a number ({read}); {cure}"
    return f"{path}: {detail['msg'][0].lower()}{detail['msg'][1:]}, not {shortened_repr(given)}"


def _unknown_tag(path: str, discriminator: str, expected_tags: str = "", tag: str | None = None) -> str:
    """Report an entry whose source (or kind) is unknown or missing."""
    key = discriminator.strip("'")
    tags = [name.strip("'") for name in expected_tags.split(", ")]
    if tag is None:
        return f"{path}.{key}: this key is required"
    close = difflib.get_close_matches(tag[:_SHOWN].lower(), tags, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{path}.{key}: {shortened_repr(tag)} is no {key}; {hint}(there: {', '.join(tags)})"


def shortened_repr(value: Any) -> str:
    """Format an invalid value for an error message, cut to one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text):,} characters)"


def not_an_entry(name: str, entries: Iterable[str], where: str) -> str:
    """Report that ``name`` is none of the entries, and suggest the closest one."""
    names = [str(entry) for entry in entries]
    close = difflib.get_close_matches(name[:_SHOWN], names, n=1)
    listed = f"did you mean {close[0]!r}?" if close else f"(there: {', '.join(names) or 'none'})"
    return f"{shortened_repr(name)} is not an entry {where}{'; ' if close else ' '}{listed}"


def in_turn(names: Sequence[str]) -> str:
    """Join a chain of names for a one-line error, shortened when the chain is long."""
    return " -> ".join(names if len(names) <= _SHOWN_CHAIN else [*names[:_SHOWN_CHAIN], "..."])


def _written(parts: list[str], values: Any, kind: str) -> list[str]:
    """Keep the parts of an error's path that the user wrote; pydantic adds the tags of discriminated unions.

    The last part may be a key that is missing, but not where an error of this ``kind`` is about the whole entry.
    """
    written = []
    for position, part in enumerate(parts):
        inside = isinstance(values, Mapping) and part in values
        last = position == len(parts) - 1 and isinstance(values, Mapping) and kind != "value_error"
        if inside or isinstance(values, list) or last:
            written.append(part)
        if inside:
            values = values[part]
        elif isinstance(values, list) and part.isdigit() and int(part) < len(values):
            values = values[int(part)]
    return written


def _yaml_float(value: float) -> str:
    """Format a float so that YAML 1.1 reads it as one: an exponent needs a dot before it and a sign."""
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    sign = exponent[0] if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent.lstrip('+-')}"


def _fields_at(model: type[BaseModel], path: list[str]) -> set[str]:
    """Return the field names of the model at ``path`` below ``model``, following the path as far as possible."""
    current: Any = model
    for part in path:
        candidates = [current, *_models_in(current)]
        follow = None
        for candidate in candidates:
            fields = getattr(candidate, "model_fields", {})
            if part in fields:
                follow = fields[part].annotation
                break
            tag = fields.get("source") or fields.get("kind")
            if tag is not None and part in repr(tag.annotation):
                follow = candidate
                break
        # A key of a mapping, or a list index: the models inside stay the same.
        current = follow if follow is not None else current
    models = [current] if hasattr(current, "model_fields") else _models_in(current)
    return {name for candidate in models for name in candidate.model_fields}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """List all models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
