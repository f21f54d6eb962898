"""Device and precision: one GPU when there is one, else the CPU; bfloat16 where the device computes in it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch

from gensar_core.config.generators import Precision
from gensar_core.runtime.progress import say


def pick_device() -> torch.device:
    """The CUDA device of this process (the first, where one process works), or the CPU.

    GENSAR_DEVICE=cpu keeps a run off the GPU.
    """
    wanted = os.environ.get("GENSAR_DEVICE")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_type(device: torch.device) -> torch.dtype:
    """In what to hold the weights of a model that is only applied: bfloat16 on a GPU that has it, else float32."""
    return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32


def supported_precision(wanted: Precision, device: torch.device) -> Precision:
    """``wanted``, or float32 with a line in the log where the device would only emulate bfloat16.

    Emulated, a ranking takes four times as long as in float32.
    """
    if wanted == "float32" or has_bfloat16(device):
        return wanted
    say(f"precision: {wanted}: this {device.type} does not multiply in it, or GENSAR_PRECISION forbids it; float32")
    return "float32"


def autocast(device: torch.device, *, on_cpu: bool = False) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 products where a GPU multiplies in it.

    ``on_cpu`` asks for them on a CPU too that has the instructions: for trainings, whose results differ from machine
    to machine anyway, and not for vectors that are compared with those of others.
    """
    if (device.type == "cuda" or on_cpu) and has_bfloat16(device):
        # Each weight is used once a pass, and threads that train side by side would share what is kept.
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products; a CPU without them emulates them, slowly.

    GENSAR_PRECISION=float32 says that no device has.
    """
    if os.environ.get("GENSAR_PRECISION") == "float32":
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # AVX512-BF16 doubles the products of AVX512, AMX has a unit of its own.
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def set_threads(threads: int | None) -> None:
    """Compute with so many CPU threads; Snakemake's allotment, so that jobs side by side do not fight."""
    if threads:
        torch.set_num_threads(threads)
