"""Apply dropout cheaply on a CPU, where drawing one Bernoulli number per element takes longer than the layer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

#: A draw uses 15 bits, so that one 64-bit number serves four elements.
_LEVELS = 1 << 15
_LOW_15_BITS = 0x7FFF_7FFF_7FFF_7FFF
#: Random generator of this thread, if it does not draw from torch's common one.
_OWN = threading.local()


@contextlib.contextmanager
def drawing_from(seed: int, device: torch.device) -> Iterator[None]:
    """Make `dropout` draw from ``seed`` alone, whatever other threads draw on a CPU meanwhile."""
    if device.type != "cpu":
        torch.manual_seed(seed)
        yield
        return
    _OWN.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        del _OWN.generator


def chosen(shape: tuple[int, ...], share: float, device: torch.device) -> torch.Tensor:
    """Choose each place of ``shape`` with probability ``share``, bool; random numbers as in `dropout`."""
    stream = getattr(_OWN, "generator", None) if device.type == "cpu" else None
    return torch.rand(shape, generator=stream, device=device) < share


def dropout(values: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Zero each element with probability ``rate`` and scale the others by 1 / (1 - rate), in training.

    On a CPU the rate is rounded to a multiple of 2**-15. Random numbers come from torch's generator of the device, or
    from the stream opened by `drawing_from`.
    """
    if not training or rate == 0.0:
        return values
    if values.device.type != "cpu":
        return functional.dropout(values, rate, training=True)
    dropped: torch.Tensor = _CheapDropout.apply(values, rate)  # type: ignore[no-untyped-call]
    return dropped


class Dropout(torch.nn.Module):
    """Apply dropout at low cost on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return dropout(values, self.rate, self.training)


class _CheapDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:  # type: ignore[override]
        first_kept = round(rate * _LEVELS)
        factor = torch.empty_like(values, memory_format=torch.contiguous_format)
        torch.ge(_draws(values.shape), first_kept, out=factor)
        factor.mul_(_LEVELS / (_LEVELS - first_kept) if first_kept < _LEVELS else 0.0)
        ctx.save_for_backward(factor)
        return values * factor

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


def _draws(shape: torch.Size) -> torch.Tensor:
    """Draw uniform int16 numbers in [0, 2**15)."""
    count = shape.numel()
    # `random_` without bounds fills 63 bits; the top bit of each quarter is cleared to treat all four alike.
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64)
    numbers.random_(generator=getattr(_OWN, "generator", None)).bitwise_and_(_LOW_15_BITS)
    return numbers.view(torch.int16)[:count].view(shape)
