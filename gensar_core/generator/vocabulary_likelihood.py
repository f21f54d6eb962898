"""Normalize over the whole vocabulary, without ever holding all logits."""

from __future__ import annotations

import torch

#: Outputs and tokens whose logits are held at a time. On a CPU both operands and the logits then stay in its cache:
#: with all tokens at once, the output matrix would be read from memory again for every few rows.
_CPU_ROWS, _CPU_TOKENS = 512, 1024
_GPU_LOGITS = 1 << 28


def log_normalizers(outputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the log-sum-exp over the logits of each output, [n].

    ``outputs`` [n, d_model]; ``weight`` [vocabulary, d_model] is the output matrix. A token's log-probability is its
    logit minus this.
    """
    on_cpu = outputs.device.type == "cpu"
    tokens = _CPU_TOKENS if on_cpu else len(weight)
    rows = _CPU_ROWS if on_cpu else max(1, _GPU_LOGITS // len(weight))
    found = torch.empty(len(outputs), device=outputs.device)
    logits = outputs.new_empty(min(rows, len(outputs)) * min(tokens, len(weight)))
    for first in range(0, len(outputs), rows):
        part = outputs[first : first + rows]
        sums = []
        for start in range(0, len(weight), tokens):
            block = weight[start : start + tokens]
            held = logits[: len(part) * len(block)].view(len(part), len(block))
            sums.append(torch.logsumexp(torch.mm(part, block.T, out=held).float(), 1))
        found[first : first + rows] = torch.logsumexp(torch.stack(sums), 0)
    return found
