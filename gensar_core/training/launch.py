"""Start the processes of one training on this machine, and end them all at once, with one message.

Torch's elastic agent, on which `accelerate launch` and `torchrun` build, starts a module N times, watches the
processes, and ends all of them when one fails or the agent is stopped. Worker processes receive their settings as
command-line arguments, and print where this process prints.
"""

from __future__ import annotations

import logging
import os
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


def count_processes(gpus: int, processes: int) -> int:
    """Return how many processes train: one per GPU that the job was given, or ``processes`` on a machine without GPUs.

    Raises UserError if the machine has fewer GPUs than the job was given.
    """
    import torch

    wanted = os.environ.get("GENSAR_DEVICE", "cuda")
    if wanted == "cpu" or not torch.cuda.is_available():
        return max(1, processes)
    if wanted != "cuda":
        # A single GPU, named by its number.
        return 1
    count = torch.cuda.device_count()
    if gpus > count:
        raise UserError(f"resources: gpu={gpus}, but this machine shows {count}; ask for {count} or another machine")
    return max(1, gpus)


def launch(module: str, words: Sequence[str], count: int) -> None:
    """Run ``python -m module words...``, whose main is `work`, in ``count`` processes; return when all are done.

    Raises the UserError of the first process that failed with one, and RuntimeError for any other failure, whose
    traceback that process has printed.
    """
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
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="gensar",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
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
            if message.startswith(_USER_ERROR):
                raise UserError(message.removeprefix(_USER_ERROR)) from None
            raise RuntimeError(f"process {rank} of {count} failed: {message}") from None


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
