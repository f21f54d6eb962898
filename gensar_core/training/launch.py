"""Start the processes of one training, on this machine or on several, and end them all at once, with one message.

Torch's elastic agent, on which `accelerate launch` and `torchrun` build, starts a module N times, watches the
processes, and ends all of them when one fails or the agent is stopped. On several machines, the nodes of a Slurm job,
`srun` starts an agent on each and ends them all when one fails. Worker processes receive their settings as command-line
arguments, and print where this process prints.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gensar_core.errors import UserError
from gensar_core.runtime import progress
from gensar_core.runtime.logs import THREADS, set_loggers
from gensar_core.training.processes import Processes, join, leave

#: A process that fails because another has died is ended within this time, and need not report.
_SECONDS_TO_BE_ENDED = 5.0
_SECONDS_BETWEEN_LOOKS = 1.0
_USER_ERROR = "UserError: "
#: Where the first agent that fails leaves its message.
_ERROR = "error"


def count_processes(gpus: int, processes: int, nodes: int = 1) -> int:
    """Return how many processes train on each of ``nodes`` machines that share ``gpus`` and ``processes`` alike.

    That is one per GPU that the job was given, or the share of ``processes`` on a machine without GPUs.

    Raises UserError if they cannot be shared alike, or if the machine has fewer GPUs than the job was given.
    """
    import torch

    wanted = os.environ.get("GENSAR_DEVICE", "cuda")
    on_cpu = wanted == "cpu" or not torch.cuda.is_available()
    name, total = ("processes", processes) if on_cpu else ("gpu", gpus)
    if total % nodes:
        raise UserError(f"resources: {name}={total} cannot be shared by nodes={nodes} alike; ask for a multiple")
    gpus, processes = gpus // nodes, processes // nodes
    if on_cpu:
        return max(1, processes)
    if wanted != "cuda":
        # A single GPU, named by its number.
        return 1
    count = torch.cuda.device_count()
    if gpus > count:
        raise UserError(f"resources: gpu={gpus}, but this machine shows {count}; ask for {count} or another machine")
    return max(1, gpus)


def launch(module: str, words: Sequence[str], count: int, nodes: int = 1) -> None:
    """Run ``python -m module words...``, whose main is `work`, in ``count`` processes; return when all are done.

    With several ``nodes``, in ``count`` processes on each of that many nodes of the Slurm job that this process is in.

    Raises the UserError of the first process that failed with one, and RuntimeError for any other failure, whose
    traceback that process has printed. UserError if several nodes are asked for outside a Slurm job.
    """
    if nodes == 1:
        _run_agent(module, words, count)
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    if "SLURM_JOB_ID" not in os.environ or "SLURM_STEP_ID" in os.environ:
        raise UserError(f"resources: nodes={nodes} takes the Slurm profile and, beside it, mpi=srun (docs/cluster.md)")
    # The agents meet at this process' store.
    host = socket.gethostname()
    store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
    # A task a node, free to use all CPUs of the job there; --kill-on-bad-exit ends those that wait for a failed one.
    command = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--cpu-bind=none"]
    command += ["--kill-on-bad-exit=1", sys.executable, "-m", __name__]
    command += [host, str(store.port), str(nodes), str(count), module, *words]
    code = subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise _failure(store.get(_ERROR).decode() if store.check([_ERROR]) else f"srun: exit code {code}; see above")


def _run_agent(module: str, words: Sequence[str], count: int, nodes: int = 1, store: str = "127.0.0.1:0") -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for variable in THREADS:
        if os.environ.get(variable, "").isdigit():
            os.environ[variable] = str(max(1, int(os.environ[variable]) // count))
    # The agent's messages are replaced by one line, below.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torchelastic-events-null").disabled = True
    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=count,
            run_id="gensar",
            rdzv_backend="c10d",
            rdzv_endpoint=store,
            rdzv_configs={"is_host": nodes == 1},
            local_addr="127.0.0.1" if nodes == 1 else socket.gethostname(),
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", module, *words)
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            # A dictionary if the process reported its error, text if it was killed before it could.
            report: Any = failure.message
            message = str(report["message"] if isinstance(report, dict) else report)
            if not message.startswith(_USER_ERROR):
                message = f"process {rank} of {nodes * count} failed: {message}"
            raise _failure(message) from None


def _failure(message: str) -> Exception:
    if message.startswith(_USER_ERROR):
        return UserError(message.removeprefix(_USER_ERROR))
    return RuntimeError(message)


def work(task: Callable[[Processes], None]) -> NoReturn:
    """Join the other processes, do the task, report a failure, and exit: the main of a process started by `launch`."""
    from torch.distributed.elastic.multiprocessing.errors import record

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()

    @record
    def joined() -> None:
        try:
            processes = join()
            progress.silent = not processes.first
            set_loggers(logging.INFO if processes.first else logging.WARNING)
            task(processes)
            leave()
        except UserError:
            raise
        except Exception:
            time.sleep(_SECONDS_TO_BE_ENDED)
            traceback.print_exc()
            raise

    try:
        joined()
    except BaseException:
        # A normal exit would wait for connections to processes that are gone.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    sys.exit(0)


def _end_with(parent: int) -> None:
    # A parent that was killed outright could not end its children.
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def _main() -> None:
    """Run the agent of one of several nodes; leave its error at the store for the process that started them all."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.elastic.multiprocessing import SignalException

    host, port, nodes, count, module, *words = sys.argv[1:]
    try:
        _run_agent(module, words, int(count), int(nodes), f"{host}:{port}")
    except (UserError, RuntimeError) as error:
        message = f"{_USER_ERROR if isinstance(error, UserError) else ''}{error}"
        TCPStore(host, int(port)).compare_set(_ERROR, "", message)
        sys.exit(1)
    except SignalException:
        # Another agent has failed, and its message is the one to read.
        sys.exit(1)


if __name__ == "__main__":
    _main()
