"""Compute cross entropy of decoder outputs against a large vocabulary, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch

#: Logits held at a time; on a CPU few enough to stay in its cache.
_CPU_LOGITS = 1 << 20
_GPU_LOGITS = 1 << 28


def cross_entropy(
    outputs: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float = 0.0,
    added: torch.Tensor | None = None,
    first: int = 0,
) -> torch.Tensor:
    """Compute the negative log-likelihood of each target, [n] (Eq. 12).

    ``outputs`` [n, d_model], ``weight`` [vocabulary, d_model] the output matrix, ``targets`` [n] token ids.
    ``smoothing`` spreads that share of the target's mass evenly over all tokens. ``added`` [n, tokens] is added to the
    logits of the tokens from the ``first`` on, and is not differentiated. Only the sum of the losses may be
    differentiated (the gradient must be the same number for all n): gradients are computed in the forward pass, chunk
    by chunk.
    """
    losses: torch.Tensor = _LinearCrossEntropy.apply(outputs, weight, targets, smoothing, added, first)  # type: ignore[no-untyped-call]
    return losses


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Return how many rows of logits to hold at a time."""
    return max(1, (_CPU_LOGITS if device.type == "cpu" else _GPU_LOGITS) // vocabulary)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        outputs: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        smoothing: float,
        added: torch.Tensor | None,
        first: int,
    ) -> torch.Tensor:
        needed = outputs.requires_grad or weight.requires_grad
        losses = outputs.new_empty(len(outputs))
        by_outputs = torch.empty_like(outputs) if needed else None
        by_weight = torch.zeros_like(weight) if needed else None
        rows = chunk_rows(len(weight), outputs.device)
        for start in range(0, len(outputs), rows):
            part = slice(start, start + rows)
            logits = (outputs[part] @ weight.T).to(outputs.dtype)
            if added is not None:
                logits[:, first : first + added.shape[1]] += added[part]
            wanted = targets[part, None]
            aim = logits.gather(1, wanted).squeeze(1)
            if smoothing:
                aim = (1.0 - smoothing) * aim + smoothing * logits.mean(1)
            largest = logits.amax(1, keepdim=True)
            exponents = logits.sub_(largest).exp_()
            mass = exponents.sum(1, keepdim=True)
            losses[part] = mass.log().add_(largest).squeeze(1) - aim
            if by_outputs is None or by_weight is None:
                continue
            # d loss / d logits = softmax - smoothed target.
            gradient = exponents.div_(mass)
            if smoothing:
                gradient.sub_(smoothing / len(weight))
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, smoothing - 1.0))
            by_outputs[part] = gradient @ weight
            by_weight.addmm_(gradient.T, outputs[part])
        ctx.save_for_backward(by_outputs, by_weight)
        return losses

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None, None, None]:
        by_outputs, by_weight = ctx.saved_tensors
        if by_outputs is None:
            return None, None, None, None, None, None
        return by_outputs * gradient[:, None], by_weight * gradient[0], None, None, None, None
