"""A Python that has imported the heavy libraries already, for runs of many short processes.

Every stage of a workflow is a process of its own, and importing takes most of them longer than their work on a tiny data
set. A server imports once and forks for each program; ``python`` is an executable that hands its arguments, folder,
environment and standard streams to the server and ends as the program does. Programs share nothing but those imports.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

CLIENT = """\
#!{executable} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(asked)
    answer = server.recv(1)
os._exit(answer[0] if answer else 1)
"""


class ReadyPython:
    """Serve forks of one process to all that run ``python``; a context manager."""

    def __init__(self, folder: Path) -> None:
        self.python, self._address = folder / "python", folder / "socket"

    def __enter__(self) -> ReadyPython:
        self.python.write_text(CLIENT.format(executable=sys.executable, address=str(self._address)))
        self.python.chmod(0o755)
        command = [sys.executable, __file__, str(self._address), str(self.python)]
        self._server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.kill()
        self._server.wait()


def serve(address: str, python: str) -> None:
    """Import what stages import; then fork for each program that asks."""
    import gensar_core

    for module in pkgutil.walk_packages(gensar_core.__path__, "gensar_core."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("sentence_transformers", "snakemake.cli"):
        importlib.import_module(name)
    # Nobody waits for the forks.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen(64)
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _answer(client, python)
            client.close()


def _answer(client: socket.socket, python: str) -> None:
    """Fork for the program, and tell the client its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(client, 8, 3)
    asked = b""
    while len(asked) < int.from_bytes(length, "big"):
        asked += client.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _run(*json.loads(asked), python)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    client.sendall(bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _run(arguments: list[str], folder: str, environment: dict[str, str], python: str) -> None:
    """Run a script or ``-m`` a module as Python does, and end this process."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # It has read the number of its threads already, and refuses another one the first time it compiles.
    importlib.import_module("numba").config.reload_config()
    code: Any = 0
    try:
        sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
        sys.modules.pop("sitecustomize", None)
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("sitecustomize")
        if arguments[1] == "-m":
            # Its scripts are run by this Python as well.
            sys.executable = python
            sys.argv = arguments[2:]
            sys.path.insert(0, folder)
            runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments[1:]
            sys.path.insert(0, os.path.dirname(arguments[1]))
            runpy.run_path(arguments[1], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve(*sys.argv[1:])
