"""The device without memory stands for a GPU, so that waits for one are found where there is none."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: A device whose tensors have shapes but no values: what would have to know a value fails.
GPU = torch.device("meta")


class Waits(TorchDispatchMode):
    """Count the results that the host fetches from `GPU`; they are zeros.

    An operation fails where the host would wait for anything else: a shape that depends on values, a value that decides
    what comes next, or a copy to the device that is not queued.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        copies = func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.to)
        if copies and args[0].device == GPU and torch.device(kwargs.get("device") or GPU).type == "cpu":
            self.fetched += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        result = func(*args, **kwargs)
        if len(_devices((args, kwargs, result))) > 1:
            assert copies, f"{func} mixes devices"
            assert kwargs.get("non_blocking"), "a copy to the device that the host waits for"
        return result


def _devices(values: Iterable[Any]) -> set[torch.device]:
    # The host passes numbers on with a kernel's other arguments.
    return {leaf.device for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor) and leaf.dim()}
