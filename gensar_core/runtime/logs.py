"""Send a workflow script's output to its rule's log, and a user's mistake, in one line, to the terminal as well."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

from gensar_core.errors import UserError
from gensar_core.runtime import progress

#: Environment variables that limit the threads of numeric libraries.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS")


def set_loggers(level: int) -> None:
    """Log records from ``level`` on to stderr; from chatty libraries, only from warnings on."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "sentence_transformers", "transformers", "bm25s", "matplotlib", "faiss"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class ScriptLog:
    """Send a workflow script's stdout, stderr, logging and tracebacks to ``path``; a context manager.

    File descriptors are redirected, so output of compiled libraries is caught as well. A UserError ends the process
    with exit code 1 and its one line, in the log and on the terminal. Any other exception leaves its traceback in both,
    and a stage's warnings appear in both.
    """

    def __init__(self, path: str | Path | None, threads: int | None = None) -> None:
        self.path = Path(path) if path else None
        if threads:
            # Numeric libraries read these when they are first imported, which is later than this.
            for variable in THREADS:
                os.environ.setdefault(variable, str(threads))
            # Threads that wait by spinning take cores from one another where jobs share them: measured on two busy
            # cores, a small model took ten times as long to train.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    def __enter__(self) -> ScriptLog:
        if self.path is not None:
            sys.stdout.flush()
            sys.stderr.flush()
            self._terminal = os.dup(2)
            log = self._open(self.path)
            progress.terminal = os.fdopen(os.dup(self._terminal), "w")
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
        set_loggers(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, UserError):
            self._tell(f"error: {error}\n")
            os._exit(1)
        if error is not None:
            self._tell("".join(traceback.format_exception(kind, error, trace)))
        sys.stdout.flush()
        sys.stderr.flush()

    @staticmethod
    def _open(path: Path) -> int:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            sys.stderr.write(f"error: {path}: the log cannot be written ({os.strerror(error.errno or 0)})\n")
            sys.stderr.flush()
            os._exit(1)

    def _tell(self, text: str) -> None:
        # A full disk rejects the log as well; the terminal still gets the line.
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
            sys.stderr.flush()
        if self.path is not None:
            os.write(self._terminal, text.encode(errors="replace"))
