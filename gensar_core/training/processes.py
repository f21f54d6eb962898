"""Coordinate the processes of one training: each does a share of every step, all take the same step.

`launch` starts them; this module holds their communication. Weights are equal in all processes at all times, because
each process starts from the same ones and every step adds the same sum to them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from torch import distributed

from gensar_core.runtime.device import send

#: Numbers summed over the processes at a time: enough to saturate the connection, few beside the weights.
_BUCKET = 1 << 23
#: `launch` notices a process that has died; those that wait for a slow one must not give up.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """Connect ``count`` processes, of which this one is number ``rank``; alone, each method returns its input."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Return whether this process writes files and logs."""
        return self.rank == 0

    def own(self, rows: int) -> np.ndarray:
        """Return this process' share of ``rows`` rows, int64, ascending: every ``count``-th."""
        return np.arange(self.rank, rows, self.count)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum the float64 arrays of all processes, all of one shape."""
        if self.count == 1:
            return values
        sums = torch.from_numpy(values).to(_device())
        distributed.all_reduce(sums)
        summed: np.ndarray = sums.cpu().numpy()
        return summed

    def sum_step(self, module: torch.nn.Module, losses: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Replace the gradients in ``module`` by their sums over all processes, and return the sums of the losses.

        Every process passes losses of the same names. A parameter that has a gradient in no process keeps none.
        """
        if self.count == 1:
            return losses
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        lacking = [place for place, parameter in enumerate(parameters) if parameter.grad is None]
        has = np.ones(len(parameters))
        has[lacking] = 0.0
        device = parameters[0].device
        sums = torch.cat([torch.stack([losses[name].double() for name in losses]), send(has, device)])
        distributed.all_reduce(sums)
        for place in lacking:
            parameters[place].grad = torch.zeros_like(parameters[place])
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            _sum_bucket(bucket)
        if lacking:
            holders = sums[len(losses) :].cpu()
            for place in lacking:
                if not holders[place]:
                    parameters[place].grad = None
        return dict(zip(losses, sums, strict=False))

    def agree(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Broadcast the metrics of the first process: decisions by them must not depend on a last bit."""
        if self.count == 1:
            return dict(metrics)
        values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=_device())
        distributed.broadcast(values, src=0)
        return dict(zip(metrics, values.tolist(), strict=True))

    def tell(self, key: str | None) -> str:
        """Broadcast a stage's key (64 hexadecimal digits) from the first process; the others pass None."""
        if self.count == 1 and key is not None:
            return key
        digits = torch.tensor(list(bytes.fromhex(key or "00" * 32)), dtype=torch.uint8, device=_device())
        distributed.broadcast(digits, src=0)
        return bytes(digits.tolist()).hex()


ALONE = Processes()


def join() -> Processes:
    """Join the processes that `launch` has started: one GPU each, or the CPU's cores."""
    from accelerate import PartialState

    on_cpu = os.environ.get("GENSAR_DEVICE") == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu, backend="gloo" if on_cpu else "nccl", timeout=_PATIENCE)
    return Processes(state.process_index, state.num_processes)


def leave() -> None:
    """Close the connections to the other processes, once nothing more is to be sent."""
    from accelerate import PartialState

    PartialState().destroy_process_group()


def shares(costs: Sequence[int], count: int) -> list[list[int]]:
    """Deal jobs with these costs to ``count`` processes; return their places 0, 1, ..., ascending within each.

    The most expensive job goes first, each to the process with the least work: none exceeds its fair share by more than
    one job.
    """
    dealt: list[list[int]] = [[] for _ in range(count)]
    loads = [0] * count
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        process = loads.index(min(loads))
        dealt[process].append(place)
        loads[process] += costs[place]
    return [sorted(places) for places in dealt]


def _device() -> torch.device:
    from accelerate import PartialState

    device: torch.device = PartialState().device
    return device


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and size + gradient.numel() > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    yield bucket


def _sum_bucket(bucket: list[torch.Tensor]) -> None:
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    distributed.all_reduce(flat)
    sizes = [gradient.numel() for gradient in bucket]
    for gradient, summed in zip(bucket, torch.split(flat, sizes), strict=True):
        gradient.copy_(summed.view_as(gradient))
