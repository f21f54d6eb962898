"""A real Slurm on this machine: two nodes, each with a GPU in name alone, in two partitions, gone after the test."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "salloc", "srun", "scancel", "sinfo")
INSTALLED = Path("/etc/slurm/slurm.conf")
NODES = ("node1", "node2")
#: A GPU that can be asked for where there is none.
GRES = "NodeName=node[1-2] Name=gpu Count=1 File=/dev/null\n"
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n"


@contextmanager
def slurm(state: Path) -> Iterator[dict[str, str]]:
    """Start Slurm with all its state in the folder ``state``; yields the variables its commands need."""
    search = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if shutil.which(program, path=search) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    if os.geteuid():
        pytest.skip("a Slurm of one's own takes root")
    if INSTALLED.exists():
        pytest.skip(f"{INSTALLED} is there: this machine belongs to a cluster")
    variables = {"SLURM_CONF": str(state / "slurm.conf"), "PATH": search}
    _configure(state)
    # Snakemake takes Slurm's variables out of its jobs' environment; these look here.
    INSTALLED.unlink(missing_ok=True)
    INSTALLED.symlink_to(state / "slurm.conf")
    try:
        _start(state, variables)
        yield variables
    finally:
        _stop(state)
        INSTALLED.unlink()


def _configure(state: Path) -> None:
    for folder in ("controller", *NODES):
        (state / folder).mkdir(parents=True)
    text = (HERE / "slurm.conf").read_text()
    text = text.replace("@STATE@", str(state)).replace("@HOST@", socket.gethostname().split(".")[0])
    (state / "slurm.conf").write_text(text)
    (state / "gres.conf").write_text(GRES)
    (state / "cgroup.conf").write_text(CGROUP)
    (state / "munge.key").write_bytes(os.urandom(1024))
    (state / "munge.key").chmod(0o600)


def _start(state: Path, variables: dict[str, str]) -> None:
    munge = ["munged", "--force"]
    munge += [f"--{name}={state}/munge.{end}" for name, end in (("key-file", "key"), ("socket", "socket"))]
    munge += [f"--{name}={state}/{end}" for name, end in (("pid-file", "munged.pid"), ("log-file", "munged.log"))]
    munge += [f"--seed-file={state}/munge.seed"]
    for command in (munge, ["slurmctld"], *(["slurmd", "-N", node] for node in NODES)):
        started = subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
        )
        assert started.returncode == 0, f"{command[0]}: {started.stderr}"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        nodes = subprocess.run(
            ["sinfo", "-h", "-N", "-p", "cpu", "-o", "%T"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if nodes.stdout.split() == ["idle"] * len(NODES):
            return
        time.sleep(0.2)
    raise AssertionError(f"nodes are not idle: {nodes.stdout}{nodes.stderr}")


def _stop(state: Path) -> None:
    """End the daemons that were started here, by their pid files, and wait for them."""
    for name in (*NODES, "slurmctld", "munged"):
        file = state / f"{name}.pid"
        if not file.is_file():
            continue
        pid = int(file.read_text())
        for attempt in range(100):
            try:
                os.kill(pid, signal.SIGTERM if attempt < 50 else signal.SIGKILL)
            except ProcessLookupError:
                break
            time.sleep(0.1)
