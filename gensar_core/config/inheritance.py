"""Resolve what an entry of config.yaml takes over: all keys of its `base`, and corpora overridden in place."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, Final

from gensar_core.config.base import in_turn, not_an_entry, shortened_repr
from gensar_core.errors import UserError

#: Replace an entry's own keys, given its name, these keys, and the resolved settings of its base.
Rewrite = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]


def inherit(entries: Any, where: str, rewrite: Rewrite = lambda _, own_keys, __: own_keys) -> Any:
    """Resolve `base: NAME` within one section: an entry takes over its base's keys and overrides them one by one.

    ``rewrite`` may change an entry's own keys before they override. Raises UserError on a base that is no entry, and on
    a circle of bases.
    """
    if not isinstance(entries, Mapping):
        return entries
    resolved: dict[str, Any] = {}
    for name in entries:
        for link in reversed(_unresolved_bases(name, entries, resolved, where)):
            entry = entries[link]
            if isinstance(entry, Mapping):
                base = resolved[entry["base"]] if "base" in entry else {}
                own_keys = {key: value for key, value in entry.items() if key != "base"}
                entry = merge(base, rewrite(link, own_keys, base))
            resolved[link] = entry
    return {name: resolved[name] for name in entries}


def _unresolved_bases(name: str, entries: Mapping[str, Any], resolved: Mapping[str, Any], where: str) -> list[str]:
    """List an entry and its unresolved bases, each before its own base."""
    chain: dict[str, None] = {}
    while name not in resolved:
        if name in chain:
            circle = [*chain, name]
            raise UserError(f"{where}.{circle[0]}.base: circular: {in_turn(circle)}")
        chain[name] = None
        entry = entries[name]
        if not isinstance(entry, Mapping) or "base" not in entry:
            break
        base = entry["base"]
        if not isinstance(base, str):
            raise UserError(f"{where}.{name}.base: name one entry of this section, not {shortened_repr(base)}")
        if base not in entries:
            raise UserError(f"{where}.{name}.base: {not_an_entry(base, entries, 'here')}")
        if not isinstance(entries[base], Mapping):
            raise UserError(f"{where}.{base}: is the base of {name}, so it must be a mapping of settings")
        name = base
    return list(chain)


def merge(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Merge child over parent: mappings key by key, everything else replaced."""
    merged = dict(parent)
    for key, value in child.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


#: Key of a generator that may override an entry in place -> the section of that entry.
_SECTIONS: Final = {"corpus": "corpora", "identifier": "identifiers"}


class InPlace:
    """Derive the corpora and identifiers that generators override in place.

    A generator that overrides keys of its corpus gets a corpus of its own, under the generator's name; likewise its
    identifier. Generators built on it take over these names. ``sections`` holds the resolved entries as written.
    """

    def __init__(self, sections: Mapping[str, Any], where: str) -> None:
        written = {section: sections.get(section) for section in _SECTIONS.values()}
        self._written = {name: entries if isinstance(entries, Mapping) else {} for name, entries in written.items()}
        self._where = where
        #: Section -> name -> all keys of a derived entry.
        self.derived: dict[str, dict[str, Any]] = {section: {} for section in written}

    def rewrite(self, generator: str, own_keys: Mapping[str, Any], base: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a generator's own keys with the name of its corpus in place of overrides.

        Raises UserError when an overridden entry does not exist, and when a derived entry's name is taken.
        """
        corpus, identifier = own_keys.get("corpus"), own_keys.get("identifier")
        if not isinstance(corpus, Mapping) and identifier is None:
            return own_keys
        inherited = base.get("corpus")
        overrides = {"base": inherited if corpus is None else corpus}
        if isinstance(corpus, Mapping):
            overrides = {"base": inherited, **corpus}
        if identifier is not None:
            parent = self._entry(generator, "corpus", overrides["base"])
            current = overrides.get("identifier", parent.get("identifier"))
            overrides["identifier"] = self._name(generator, "identifier", identifier, current)
        name = self._name(generator, "corpus", overrides)
        return {key: value for key, value in own_keys.items() if key != "identifier"} | {"corpus": name}

    def path_as_written(self, path: str) -> str:
        """Return the path at which a user finds a key: those of derived entries are in their generator."""
        section, name, *keys = path.split(".")
        place = {section: key for key, section in _SECTIONS.items()}.get(section)
        return ".".join(["generators", name, place, *keys]) if place and name in self.derived[section] else path

    def _name(self, generator: str, key: str, value: Any, current: Any = None) -> str:
        """Return the name that ``value`` is, or the name of what it derives from its base, or else from ``current``."""
        if not isinstance(value, Mapping):
            self._entry(generator, key, value)
            return str(value)
        section = _SECTIONS[key]
        parent = self._entry(generator, key, value.get("base", current))
        if generator in self._written[section]:
            raise UserError(
                f"{self._where}: {section}.{generator}: generators.{generator}.{key} makes an entry of this name; "
                "rename one of them"
            )
        self.derived[section][generator] = merge(parent, {name: one for name, one in value.items() if name != "base"})
        return generator

    def _entry(self, generator: str, key: str, name: Any) -> Mapping[str, Any]:
        """Return the keys of the entry that a generator names under ``key``."""
        section, path = _SECTIONS[key], f"{self._where}: generators.{generator}.{key}"
        if name is None:
            raise UserError(f"{path}: overrides keys of no entry; add base: NAME, one of {section}")
        if not isinstance(name, str):
            raise UserError(f"{path}: name one of {section}, or override its keys; not {shortened_repr(name)}")
        entries = ChainMap(self.derived[section], dict(self._written[section]))
        if name not in entries:
            raise UserError(f"{path}: {not_an_entry(name, entries, f'of {section}')}")
        if not isinstance(entries[name], Mapping):
            raise UserError(f"{self._where}: {section}.{name}: must be a mapping of settings")
        entry: Mapping[str, Any] = entries[name]
        return entry
