"""Device and precision: one GPU when there is one, else the CPU; bfloat16 where the device computes in it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch


def pick_device() -> torch.device:
    """The first CUDA device, or the CPU. GENSAR_DEVICE=cpu keeps a run off the GPU."""
    wanted = os.environ.get("GENSAR_DEVICE")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast on a GPU that has it; float32 otherwise (on CPUs it brought no gain in measurements)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def set_threads(threads: int | None) -> None:
    """Compute with so many CPU threads; Snakemake's allotment, so that jobs side by side do not fight."""
    if threads:
        torch.set_num_threads(threads)
