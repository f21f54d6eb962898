"""Run a stage by its contract: outputs appear whole or not at all, beside a record of their origin."""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from gensar_core import __version__
from gensar_core.config.base import Settings, canonical_json
from gensar_core.errors import UserError
from gensar_core.runtime.fingerprint import fingerprint

_PACKAGES = (
    "polars",
    "pyarrow",
    "numpy",
    "bm25s",
    "simplemma",
    "torch",
    "transformers",
    "tokenizers",
    "sentence-transformers",
    "faiss-cpu",
)

#: A disk with fewer bytes left than this counts as full.
_FULL_BYTES = 65536


class Stage:
    """Run one stage once; a context manager.

    Outputs are written to ``path(name)``, in a hidden folder inside ``folder``. Leaving the block without an error
    moves them into ``folder`` and writes the record; leaving it with an error removes them. ``record_name`` is
    ``stage.json`` unless several stages share a folder. ``alone`` means that the folder belongs to this stage alone:
    anything else in it, such as outputs of other settings, is removed when the outputs arrive. ``code`` names the
    module that does the work; the fingerprint of the code it reaches goes into the record and into ``key``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        settings: Settings | Mapping[str, Any] | None = None,
        inputs: Iterable[Path] = (),
        seed: int | None = None,
        code: str | None = None,
        record_name: str = "stage.json",
        alone: bool = False,
    ) -> None:
        self.name = name
        self.folder = folder
        self.seed = seed
        self.settings = settings.model_dump(mode="json") if isinstance(settings, Settings) else dict(settings or {})
        self.inputs = list(inputs)
        self.module = code
        self.code = fingerprint(code) if code else None
        self.record_name = record_name
        self.alone = alone
        self.counts: dict[str, Any] = {}
        self.warnings: list[str] = []
        self._scratch = folder / f".{Path(record_name).stem}.partial"

    @classmethod
    def named_after(cls, output: Path, name: str, **options: Any) -> Stage:
        """Return the stage ``name`` whose outputs are called like ``output``, as is its record: {output}.stage.json."""
        return cls(name, output.parent, record_name=f"{output.name}.stage.json", **options)

    def __enter__(self) -> Stage:
        self._started, self._cpu_started = time.monotonic(), cpu_seconds()
        self._digests = {str(path): digest(path) for path in self.inputs}
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(parents=True)
        return self

    def path(self, name: str) -> Path:
        """Return where to write the output ``name`` (a file or a folder) until the stage is done."""
        target = self._scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @property
    def key(self) -> str:
        """Hash everything the result depends on: a checkpoint with another key is not continued."""
        parts = [self.name, self.code, self.settings, self.seed, sorted(self._digests.values()), _versions()]
        return hashlib.sha256(canonical_json(parts).encode()).hexdigest()

    def record(self, **counts: Any) -> None:
        """Add counts of this stage to its record."""
        self.counts.update(counts)

    def warn(self, message: str) -> None:
        """Report something that users should know but is no error: on the terminal, in the log and in the record."""
        from gensar_core.runtime.progress import announce

        self.warnings.append(message)
        announce(f"warning: {self.folder}: {message}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error
        if error is None:
            try:
                self._commit()
            except OSError as uncommitted:
                failure = uncommitted
        # Checked before the unfinished outputs are removed, since that frees space.
        full = failure is not None and disk_is_full(failure, self.folder)
        shutil.rmtree(self._scratch, ignore_errors=True)
        if full:
            raise UserError(f"{self.folder}: the disk is full; free some space and run again") from failure
        if failure is not error and failure is not None:
            raise failure

    def _commit(self) -> None:
        outputs = sorted(self._scratch.iterdir())
        write_json(self._scratch / self.record_name, self._record())
        self._share(outputs)
        # The record comes last: where it exists, all outputs exist.
        (self.folder / self.record_name).unlink(missing_ok=True)
        for stale in set(self.folder.iterdir()) - {self._scratch} if self.alone else ():
            _remove(stale)
        for path in outputs:
            target = self.folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        os.replace(self._scratch / self.record_name, self.folder / self.record_name)

    def _share(self, outputs: list[Path]) -> None:
        """Give all files the record's permissions: some libraries write files that only their owner may read."""
        mode = (self._scratch / self.record_name).stat().st_mode
        for path in outputs:
            for file in path.rglob("*") if path.is_dir() else [path]:
                if file.is_file() and not file.is_symlink():
                    file.chmod(mode)

    def _record(self) -> dict[str, Any]:
        outputs = sorted(path for path in self._scratch.rglob("*") if path.is_file())
        return {
            "stage": self.name,
            "settings": self.settings,
            "seed": self.seed,
            "module": self.module,
            "code": self.code,
            "inputs": self._digests,
            # List every file, including those in folders, so that later changes can be detected (`gensar check`).
            "outputs": {
                str(path.relative_to(self._scratch)): {"bytes": path.stat().st_size, "sha256": digest(path)}
                for path in outputs
            },
            "counts": self.counts,
            "warnings": self.warnings,
            "device": _device(),
            "seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": round(cpu_seconds() - self._cpu_started, 3),
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 3),
            "versions": {"gensar": __version__, "python": platform.python_version(), **_versions()},
        }


def cpu_seconds() -> float:
    """Return the seconds that processors have worked for this process so far, on all its threads and ended children."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _remove(path: Path) -> None:
    """Remove a file, a link, or a folder with its contents."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def disk_is_full(error: BaseException, folder: Path) -> bool:
    """Check whether an error results from a full disk under ``folder``.

    Compiled libraries wrap the system's error in types of their own, some without its number or its text, so the space
    left on the disk counts as well.
    """
    if isinstance(error, UserError):
        return False
    cause: BaseException | None = error
    while cause is not None:
        if getattr(cause, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free < _FULL_BYTES


def digest(path: Path) -> str:
    """Hash a file, or a folder's files with their names (sha256). Raises UserError when there is no such path."""
    if path.is_dir():
        whole = hashlib.sha256()
        for file in sorted(path.rglob("*")):
            if file.is_file():
                whole.update(f"{file.relative_to(path)}\0{digest(file)}\n".encode())
        return whole.hexdigest()
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and programs: indented, UTF-8, keys in the order given, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read a stage's record. Raises UserError when it is missing or unreadable."""
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such record; run the stage first") from None
    except ValueError:
        raise UserError(f"{path}: not readable as JSON; delete it and run its stage again") from None
    return record


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _device() -> str:
    # Query torch only where a stage has already loaded it; this keeps data stages fast.
    torch = sys.modules.get("torch")
    if torch is None:
        return f"cpu ({os.cpu_count()} cores)"
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    # Sums are split by threads, so the last digits of trained results depend on the number of threads.
    threads = torch.get_num_threads()
    return f"cpu ({os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''})"
