"""Fingerprints of code: what a stage's functions reach, without comments, docstrings and formatting.

A rule passes its script's fingerprint as a parameter, so an edit reruns the stages whose functions reach the edited
module, and no others. Left out are settings models, whose values are parameters themselves, and what only tells how a
run goes: logs and progress bars.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

PACKAGE = "gensar_core"
_ROOT = Path(__file__).resolve().parents[1]
_LEFT_OUT = (f"{PACKAGE}.config", f"{PACKAGE}.runtime.logs", f"{PACKAGE}.runtime.progress")


@functools.cache
def fingerprint(*modules: str) -> str:
    """A sha256 over the given modules and all modules of this package they reach by imports."""
    whole = hashlib.sha256()
    for module in sorted(reached(*modules)):
        whole.update(f"{module}\0{_content(module)}\n".encode())
    return whole.hexdigest()[:16]


@functools.cache
def script_fingerprint(script: Path, *modules: str) -> str:
    """A sha256 over a script and all modules of this package that it reaches by imports.

    ``modules`` are those that the script's functions look up by name, where no import tells.
    """
    tree = ast.parse(script.read_text(encoding="utf-8"))
    whole = hashlib.sha256(_without_docstrings(tree).encode())
    whole.update(fingerprint(*sorted({*_imported(tree), *modules})).encode())
    return whole.hexdigest()[:16]


def reached(*modules: str) -> set[str]:
    """The given modules and every module of this package that they import, directly or not."""
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
    return seen


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Modules of this package that ``module`` imports, anywhere in its text."""
    return _imported(_tree(module))


def _imported(tree: ast.Module) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(name for name in found if name.startswith(f"{PACKAGE}.") and module_file(name) is not None)


def module_file(module: str) -> Path | None:
    """The source file of a module of this package, or None when there is no such module."""
    base = _ROOT.joinpath(*module.split(".")[1:])
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if file.is_file():
            return file
    return None


@functools.cache
def _tree(module: str) -> ast.Module:
    file = module_file(module)
    assert file is not None
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _content(module: str) -> str:
    file = module_file(module)
    assert file is not None
    # Data that a module reads lies beside it under the same name (templates.yaml beside templates.py).
    data = file.with_suffix(".yaml")
    return _without_docstrings(_tree(module)) + (
        hashlib.sha256(data.read_bytes()).hexdigest() if data.is_file() else ""
    )


def _without_docstrings(tree: ast.Module) -> str:
    """The code as text: neither comments nor layout are in a tree, and docstrings are taken out of it."""
    copy = ast.parse(ast.unparse(tree))
    for node in ast.walk(copy):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(copy)
