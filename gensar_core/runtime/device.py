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


def compute_type(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU that has it; float32 otherwise (on CPUs bfloat16 brought no gain in measurements)."""
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast to `compute_type`, which is none for float32."""
    dtype = compute_type(device)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def set_threads(threads: int | None) -> None:
    """Compute with so many CPU threads; Snakemake's allotment, so that jobs side by side do not fight."""
    if threads:
        torch.set_num_threads(threads)
