"""Fingerprint code: everything that a stage's functions reach, without comments, docstrings and formatting.

A rule passes its script's fingerprint as a parameter, so an edit reruns only the stages whose functions reach the
edited module. Of the settings models that a stage reads, methods and properties count, but not fields, whose values are
parameters themselves. Modules that only report on a run are left out: logs and progress bars.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

PACKAGE = "gensar_core"
_ROOT = Path(__file__).resolve().parents[1]
_LEFT_OUT = (f"{PACKAGE}.runtime.logs", f"{PACKAGE}.runtime.progress")
_SETTINGS = f"{PACKAGE}.config"
#: Decorators of methods that reject values or rewrite them before they become parameters.
_VALIDATORS = {"field_validator", "model_validator"}


@functools.cache
def fingerprint(*modules: str) -> str:
    """Hash the given modules and all modules of this package that they reach by imports (sha256)."""
    whole = hashlib.sha256()
    modules_reached = reached(*modules)
    pairs = {pair for module in modules_reached for pair in _names_imported(module)}
    for module in sorted(modules_reached):
        names = frozenset(name for source, name in pairs if source == module)
        whole.update(f"{module}\0{_content(module, names)}\n".encode())
    return whole.hexdigest()[:16]


@functools.cache
def script_fingerprint(script: Path, *modules: str) -> str:
    """Hash a script and all modules of this package that it reaches by imports (sha256).

    ``modules`` are those that the script's functions look up by name, without an import.
    """
    tree = _parse(script)
    whole = hashlib.sha256(ast.dump(tree).encode())
    whole.update(fingerprint(*sorted({*_imported(tree), *modules})).encode())
    return whole.hexdigest()[:16]


@functools.cache
def reached(*modules: str) -> frozenset[str]:
    """Return the given modules and every module of this package that they import, directly or not."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module.startswith(_LEFT_OUT):
            continue
        if module_file(module) is None:
            raise ModuleNotFoundError(f"no module {module!r} in {PACKAGE}")
        seen.add(module)
        waiting.extend(imports(module))
    return frozenset(seen)


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Return the modules of this package that ``module`` imports, anywhere in its text."""
    return _imported(_tree(module))


def _imported(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in names if name.startswith(f"{PACKAGE}.") and module_file(name) is not None)


@functools.cache
def module_file(module: str) -> Path | None:
    """Return the source file of a module of this package, or None when there is no such module."""
    base = _ROOT.joinpath(*module.split(".")[1:])
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


@functools.cache
def _tree(module: str) -> ast.Module:
    file = module_file(module)
    assert file is not None
    return _parse(file)


@functools.cache
def _names_imported(module: str) -> frozenset[tuple[str, str]]:
    """Return (module, name) of everything that a module imports by name from a settings module."""
    nodes = (node for node in _statements(_tree(module)) if isinstance(node, ast.ImportFrom))
    pairs = ((node.module or "", alias.name) for node in nodes for alias in node.names)
    return frozenset(pair for pair in pairs if pair[0].startswith(_SETTINGS))


@functools.cache
def _content(module: str, names: frozenset[str]) -> str:
    """Return a module's code as text; of a settings module, only the code of the models with these names."""
    tree = _tree(module)
    if module.startswith(_SETTINGS):
        return ast.dump(_deciding(tree, names))
    file = module_file(module)
    assert file is not None
    # A module's data file has the same name beside it (shop.yaml beside shop.py).
    data = file.with_suffix(".yaml")
    return ast.dump(tree) + (_yaml_content(data) if data.is_file() else "")


def _yaml_content(file: Path) -> str:
    """Normalize a YAML file: no comments or layout. Keys keep their order, in which a module may iterate over them."""
    return json.dumps(yaml.safe_load(file.read_text(encoding="utf-8")), ensure_ascii=False)


def _deciding(tree: ast.Module, names: frozenset[str]) -> ast.Module:
    """Reduce a settings module to the methods and properties of the named models, and the names they use in it.

    A model brings in its bases and the models of its fields.
    """
    tree = copy.deepcopy(tree)
    models = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    defined = {name: node for node in tree.body for name in _defines(node)}
    counted: set[str] = set()
    waiting = names & models.keys()
    while waiting:
        name = min(waiting)
        counted.add(name)
        if name in models:
            waiting |= _names(models[name]) & models.keys()
            _leave_methods(models[name])
        waiting = (waiting | _names(defined[name]) & defined.keys()) - counted
    tree.body = [defined[name] for name in sorted(counted) if name not in models or models[name].body]
    return tree


def _leave_methods(model: ast.ClassDef) -> None:
    """Strip a model to its methods and properties, and these of their annotations, which are those of fields."""
    model.bases, model.keywords, model.decorator_list = [], [], []
    model.body = [node for node in model.body if isinstance(node, ast.FunctionDef) and not _is_validator(node)]
    for node in ast.walk(model):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None


def _is_validator(method: ast.FunctionDef) -> bool:
    return any(not _VALIDATORS.isdisjoint(_names(decorator)) for decorator in method.decorator_list)


def _defines(node: ast.stmt) -> list[str]:
    """List the names that a module-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _parse(file: Path) -> ast.Module:
    """Parse a file without its docstrings, those of fields included; a tree has neither comments nor layout."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in (tree, *_statements(tree)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return tree


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield every statement within a node. Expressions hold none, and to walk them as well takes ten times as long."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, field, ()):
            yield statement
            yield from _statements(statement)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str)
