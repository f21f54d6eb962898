"""Time runs and child processes, their memory included; read options; print the JSON line that ends every benchmark."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
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

    def result(self) -> dict[str, Any]:
        """Parse the last line of the output."""
        parsed: dict[str, Any] = json.loads(self.output.splitlines()[-1])
        return parsed


class Peak:
    """Follow the memory of this process that no file backs, in GB; 0 on systems that do not tell it."""

    def __init__(self) -> None:
        self._highest, self._stopped = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Return the peak."""
        self._stopped.set()
        self._thread.join()
        return self._highest

    def _follow(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self._stopped.wait(0.02):
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            self._highest = max(self._highest, int(line.split()[1]) / 1024**2)


def options(description: str | None) -> argparse.ArgumentParser:
    """Begin a benchmark's options with the one that all have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke size: seconds, and no numbers to rely on")
    return parser


def run_child(code: str | Path, *arguments: object) -> Usage:
    """Run Python code, or the program of this path, in a separate process; ``sys.argv[1:]`` are the arguments.

    The calling process should stay small: Linux counts the caller's memory at the start as the child's.
    """
    started = time.perf_counter()
    program = [str(code)] if isinstance(code, Path) else ["-c", code]
    child = subprocess.Popen([sys.executable, *program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a measured process failed with status {child.returncode}")
    # Linux counts kilobytes, macOS bytes.
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return Usage(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit, output.strip())


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Run once; return the seconds and the result."""
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def fastest(
    ways: Mapping[str, Callable[[], Any]], repeats: int
) -> tuple[dict[str, float], dict[str, float], dict[str, Any]]:
    """Run all ways by turns; return each one's fewest wall seconds and CPU seconds of the process, and its result."""
    seconds, cpu, results = dict.fromkeys(ways, math.inf), dict.fromkeys(ways, math.inf), {}
    for _ in range(repeats):
        for way, run in ways.items():
            begun = time.process_time()
            taken, results[way] = timed(run)
            cpu[way] = min(cpu[way], time.process_time() - begun)
            seconds[way] = min(seconds[way], taken)
    return seconds, cpu, results


def claim(name: str, value: float, unit: str, how: str) -> dict[str, Any]:
    """Build one claim of the report."""
    return {"name": name, "value": float(f"{value:.4g}"), "unit": unit, "how": how}


def speedup_claims(
    name: str, seconds: Mapping[str, float], cpu: Mapping[str, float], way: str, peer: str, how: str
) -> list[dict[str, Any]]:
    """Compare ``way`` with ``peer`` in wall seconds, and in CPU seconds, which other load disturbs less."""
    in_cpu = f"the same in CPU seconds, {cpu[peer]:.3g} / {cpu[way]:.3g}"
    return [
        claim(name, seconds[peer] / seconds[way], "times", how),
        claim(f"{name}_cpu", cpu[peer] / cpu[way], "times", in_cpu),
    ]


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
