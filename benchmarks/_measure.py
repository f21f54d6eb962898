"""Run child processes with their times and peak memory, and print the JSON line that ends every benchmark."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Usage:
    """Hold a child process's wall seconds, CPU seconds over all threads, peak resident memory in GB, and output."""

    seconds: float
    cpu_seconds: float
    peak_gb: float
    output: str


def run_child(code: str, *arguments: str | Path) -> Usage:
    """Run Python code in a separate process; ``sys.argv[1:]`` are the arguments.

    The calling process should stay small: Linux counts the caller's memory at the start as the child's.
    """
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a measured process failed with status {child.returncode}")
    # Linux counts kilobytes, macOS bytes.
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return Usage(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, output.strip())


def claim(name: str, value: float, unit: str, how: str) -> dict[str, Any]:
    """Build one claim of the report."""
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "how": how}


def report(benchmark: str, claims: list[dict[str, Any]]) -> None:
    """Print the benchmark's last line."""
    print(json.dumps({"benchmark": benchmark, "claims": claims, "machine": machine()}), flush=True)


def machine() -> dict[str, Any]:
    """Describe the measured machine; a load above its number of cores means that others shared it."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
