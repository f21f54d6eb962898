"""Choose device and precision: a GPU if there is one, else the CPU; bfloat16 where the device computes in it."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np
import torch

from gensar_core.config.generators import Precision
from gensar_core.runtime.progress import say


def pick_device() -> torch.device:
    """Return the CUDA device of this process (the first, if there is only one process), or the CPU.

    GENSAR_DEVICE=cpu keeps a run off the GPU.
    """
    wanted = os.environ.get("GENSAR_DEVICE")
    if wanted:
        return torch.device(wanted)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return the array on the device, on a CPU without a copy; a GPU reads pinned memory while the host goes on."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def compute_type(device: torch.device) -> torch.dtype:
    """Return the dtype for weights used in inference only: bfloat16 on a GPU that supports it, else float32."""
    return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else torch.float32


def supported_precision(wanted: Precision, device: torch.device) -> Precision:
    """Return ``wanted``, or log a line and return float32 where the device would only emulate bfloat16.

    Emulation makes a ranking take four times as long as in float32.
    """
    if wanted == "float32" or has_bfloat16(device):
        return wanted
    say(f"precision: {wanted}: this {device.type} does not multiply in it, or GENSAR_PRECISION forbids it; float32")
    return "float32"


def autocast(device: torch.device, *, on_cpu: bool = False) -> contextlib.AbstractContextManager[Any]:
    """Compute products in bfloat16 where a GPU multiplies in it.

    ``on_cpu`` enables this on a CPU with the instructions, too: for trainings, whose results differ from machine to
    machine anyway, but not for vectors that are compared with vectors from elsewhere.
    """
    if (device.type == "cuda" or on_cpu) and has_bfloat16(device):
        # Each weight is used once per pass, and threads that train side by side would share the cache.
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return contextlib.nullcontext()


def has_bfloat16(device: torch.device) -> bool:
    """Check whether the device has instructions for bfloat16 products; a CPU without them emulates them, slowly.

    GENSAR_PRECISION=float32 makes the answer no for every device.
    """
    if os.environ.get("GENSAR_PRECISION") == "float32":
        return False
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # AVX512-BF16 doubles the rate of AVX512 products; AMX has a dedicated unit.
    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))
