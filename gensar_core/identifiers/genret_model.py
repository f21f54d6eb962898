"""Model of GenRet (Sun et al., 2023): one T5 that reads items and queries and writes their codes level by level.

Levels are numbered from 0, and z_t is an item's code of level t. At level t the decoder has read the codes before it,
and its output h_t, [d_model], is the vector of the item or of the query there. Logits of codes are the inner products
of h_t and the codebook C_t. Shapes: B rows, L tokens, K codes a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from gensar_core.identifiers.sinkhorn import balanced_by_cost
from gensar_core.nn.t5 import scales_outputs

#: Weights of the losses (the authors' training).
_WEIGHTS: Final = {"retrieval": 0.5, "prefix": 0.5, "commitment": 0.5, "reconstruction": 0.1}
#: Balanced codes: the weight of the plan's entropy, and the iterations. With the 1.0 of the authors' training the plan
#: is so even that its heaviest codes are not: codes that tell items apart less are never chosen, and die.
_EPSILON: Final = 0.01
_ITERATIONS: Final = 100


@dataclass(frozen=True)
class LevelBatch:
    """Hold items and a query each for a training step at level t."""

    #: Tokens of the items [B, L], negative past a row's end.
    items: Tensor
    #: Codes of the items before level t [B, t].
    prefix: Tensor
    #: Tokens of the queries [A, L]; an item without a query has none.
    queries: Tensor
    #: The row of each query's item [A].
    asked: Tensor
    #: Marks other items of the batch that the query led to as well, bool [A, B]: they are no negatives.
    alike: Tensor


class GenRetModel(nn.Module):
    """Hold the T5, and for each level a codebook and a table of decoder inputs."""

    def __init__(self, t5: Any, levels: int, codes: int) -> None:
        super().__init__()
        width = t5.config.d_model
        self.t5 = t5
        #: The decoder's input at level 0.
        self.start = nn.Parameter(torch.randn(width))
        #: Inputs at level t + 1, by the code of level t: each level has a table of its own, the last one's untrained.
        self.inputs = nn.ModuleList(nn.Embedding(codes, width) for _ in range(levels))
        self.codebooks = nn.ParameterList(nn.Parameter(torch.zeros(codes, width)) for _ in range(levels))

    def outputs(self, tokens: Tensor, prefix: Tensor) -> Tensor:
        """Return h_0, ..., h_t [B, t + 1, d_model] of texts ``tokens`` [B, L] after the codes ``prefix`` [B, t]."""
        present = tokens >= 0
        states = self.t5.encoder(input_ids=tokens.clamp_min(0), attention_mask=present).last_hidden_state
        steps = [self.start.expand(len(tokens), -1)]
        steps += [table(codes) for table, codes in zip(self.inputs, prefix.unbind(1), strict=False)]
        outputs: Tensor = self.t5.decoder(
            inputs_embeds=torch.stack(steps, dim=1),
            encoder_hidden_states=states,
            encoder_attention_mask=present,
            use_cache=False,
        ).last_hidden_state
        return outputs

    @torch.no_grad()
    def as_generator(self, words: int) -> Any:
        """Return the T5 with a token for each code, those of level t from row ``words`` + t K on; it gives up its own.

        A code's row of the embeddings is its decoder input, and its row of the output matrix, a separate one, is its
        vector in the codebook: logits of codes stay those of this model. Words keep the logits that they had.
        """
        t5, config = self.t5, self.t5.config
        scale = config.d_model**-0.5 if scales_outputs(t5) else 1.0
        output = torch.cat([t5.lm_head.weight[:words] * scale, *self.codebooks])
        t5.resize_token_embeddings(len(output), mean_resizing=False)
        t5.shared.weight[words:] = torch.cat([table.weight for table in self.inputs])
        t5.shared.weight[config.decoder_start_token_id] = self.start
        config.tie_word_embeddings = config.scale_decoder_outputs = False
        t5.lm_head = nn.Linear(config.d_model, len(output), bias=False)
        t5.lm_head.weight.copy_(output)
        return t5

    def losses(self, batch: LevelBatch, *, codes: bool) -> dict[str, Tensor]:
        """Return the losses of a step at level t = ``batch.prefix.shape[1]``, `loss` being their weighted sum.

        `retrieval` sets a query's item against the batch's other items. `prefix` keeps the codes before the level.
        With ``codes``, `commitment` draws items and queries to the balanced code of the item, and `reconstruction` asks
        of this code's vector that it finds its item in the batch.
        """
        level, prefix, asked = batch.prefix.shape[1], batch.prefix, batch.asked
        items = self.outputs(batch.items, prefix)
        item, codebook = items[:, level], self.codebooks[level]
        losses: dict[str, Tensor] = {}
        if level:
            losses["prefix"] = self._prefix_loss(items, prefix)
        if codes:
            code = balanced_by_cost(-(item @ codebook.T).detach().double(), _EPSILON, _ITERATIONS)
            losses["commitment"] = functional.cross_entropy(item @ codebook.T, code)
            # The value is the code's vector; the gradient reaches the code and, as if it were the item's vector, that.
            found = (codebook[code] + item - item.detach()) @ item.detach().T
            losses["reconstruction"] = functional.cross_entropy(found, torch.arange(len(found), device=found.device))
        if len(asked):
            queries = self.outputs(batch.queries, prefix[asked])
            query = queries[:, level]
            losses["retrieval"] = functional.cross_entropy((query @ item.T).masked_fill(batch.alike, -torch.inf), asked)
            if level:
                losses["prefix"] = losses["prefix"] + self._prefix_loss(queries, prefix[asked])
            if codes:
                losses["commitment"] = losses["commitment"] + functional.cross_entropy(query @ codebook.T, code[asked])
        weighted = [_WEIGHTS[name] * value for name, value in losses.items()]
        # Nothing is learned from a batch without queries before the first level has codes.
        loss = torch.stack(weighted).sum() if weighted else items.sum() * 0.0
        return {"loss": loss, **losses}

    def _prefix_loss(self, outputs: Tensor, prefix: Tensor) -> Tensor:
        """Return the mean cross entropy of the codes ``prefix`` [B, t] at their levels."""
        logits = torch.stack([outputs[:, level] @ self.codebooks[level].T for level in range(prefix.shape[1])], dim=1)
        return functional.cross_entropy(logits.flatten(0, 1), prefix.flatten())
