"""Rank by UnifiedSSR: one encoder for sequences of clicks, and for sequences of queries and the clicks after them.

As published (Xie et al., 2024) and as released, with these differences:

- Attention is causal. The released collate functions pass the padding mask alone, so a state sees the item that it must
  predict.
- Layers are chained. The released loop feeds the original input into every layer, so only the last has effect.
- Keys are masked by their own sequence's mask, in attention across sequences too.
- Session windows, which receive no gradient there, are the middle halves of a sequence's own two halves, without
  padding; states inside a window are doubled, as released.
- One model serves both tasks; the paper fine-tunes a copy for each. Learning rates are constant until a plateau.
- A session of several clicks is one step for each click in training, and one step with their mean in a history.
- Negatives of bce are drawn by clicks ** popularity_power, 0 (uniformly) as published. `loss: softmax` compares each
  target with `sampled_negatives` shared by a batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from gensar_core.baselines.shared.next_item_losses import PopularityNegatives, sampled_softmax
from gensar_core.baselines.shared.sequence_encoder import mark
from gensar_core.baselines.shared.target_ranking import JointMethod, TrainingSet
from gensar_core.baselines.shared.unifiedssr_model import UnifiedSSRModel, UnifiedSSRSettings, shifted
from gensar_core.nn.attention import masked_mean
from gensar_core.runtime.arrays import Ragged, ranges
from gensar_core.runtime.device import send
from gensar_core.runtime.seeds import derive_seed
from gensar_core.samples.user_clicks import UserClicks

#: Number of sessions that a sequence is cut into.
_SESSIONS = 2


def session_windows(mask: torch.Tensor) -> torch.Tensor:
    """Mark each session's window, bool [sessions, rows, width], in padded rows bool [rows, width]."""
    place = (torch.arange(mask.shape[1], device=mask.device) + 0.5) / mask.sum(dim=1, keepdim=True).clamp(min=1)
    centers = [(number + 0.5) / _SESSIONS for number in range(_SESSIONS)]
    return torch.stack([mask & ((place - center).abs() <= 0.25 / _SESSIONS) for center in centers])


class SequenceSet:
    """Hold users' training sequences of one task: every position is a target, except the first where there is no query.

    ``rows`` int64 [sequences] are the users with enough clicks, by their places in ``clicks``.
    """

    def __init__(self, method: UnifiedSSR, task: str) -> None:
        settings, data = method.settings, method.data
        self.method, self.task = method, task
        self.clicks = UserClicks.read(data.events_file, task)
        self.width = settings.max_recommendations + 1 if task == "rec" else settings.max_searches
        fewest = 2 if task == "rec" else 1
        self.rows = np.flatnonzero(np.minimum(self.clicks.items.lengths, self.width) >= fewest)
        counted = data.clicks(task)
        seed = derive_seed(method.seed, task)
        self.sampler = PopularityNegatives(counted, settings.popularity_power, seed, data.cold)
        mark(method.module.seen_items, np.flatnonzero(counted))
        mark(method.module.seen_users, self.clicks.users[self.rows])

    def __len__(self) -> int:
        return len(self.rows)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the lengths of these sequences."""
        lengths: np.ndarray = np.minimum(self.clicks.items.lengths_of(self.rows[rows]), self.width)
        return lengths

    def losses(self, rows: np.ndarray, step: int) -> Mapping[str, torch.Tensor]:
        """Return the loss of all targets, and the correlation of sessions."""
        model = self.method.module
        device = model.items.weight.device
        clicks, of_users, lengths = self.clicks, self.rows[rows], self.lengths_of(rows)
        width = int(lengths.max())
        last = ranges(clicks.items.offsets[of_users + 1] - lengths, lengths)
        padded = [
            Ragged.from_lengths(lengths, values[last]).padded(width, 0)
            for values in (clicks.items.values, clicks.queries)
        ]
        users, items, queries = (send(array.astype(np.int64), device) for array in (clicks.users[of_users], *padded))
        mask = torch.arange(width, device=device) < send(lengths, device)[:, None]
        vectors = model.items(items) * model.scale
        if self.task == "rec":
            mask = mask[:, 1:]
            states, targets = model.encode(users, vectors[:, :-1], None, mask), items[:, 1:]
        else:
            has_item = torch.arange(width, device=device) > 0
            states = model.encode(users, shifted(vectors)[:, :-1], queries, mask, mask & has_item)
            targets = items
        windows = session_windows(mask)
        doubled = (1.0 + windows.any(dim=0).to(vectors.dtype))[..., None]
        losses = [self._next_items((state * doubled)[mask], targets[mask], step) for state in states]
        weight = self.method.settings.session_weight
        return {"ranking": model.mixed(losses), "sessions": weight * correlation(states, windows)}

    def _next_items(self, states: torch.Tensor, targets: torch.Tensor, step: int) -> torch.Tensor:
        """Return the mean loss of states [targets, d] against their targets [targets]."""
        settings, table = self.method.settings, self.method.module.items.weight
        scaled = states * self.method.module.scale
        if settings.loss == "softmax":
            drawn = send(self.sampler.draw(step, settings.sampled_negatives), table.device)
            return sampled_softmax(scaled, targets, table, drawn)
        count = settings.sampled_negatives
        drawn = send(self.sampler.draw(step, len(targets) * count).reshape(-1, count), table.device)
        positive = (scaled * functional.embedding(targets, table)).sum(dim=1)
        negative = (functional.embedding(drawn, table) @ scaled[:, :, None]).squeeze(2)
        terms = functional.softplus(negative) * (drawn != targets[:, None])
        return (functional.softplus(-positive) + terms.sum(dim=1)).mean()


def correlation(states: tuple[torch.Tensor, ...], windows: torch.Tensor) -> torch.Tensor:
    """Penalize similar sessions within a sequence, and reward agreement of item sessions with query sessions.

    ``states`` [rows, width, d] of items, and of queries if there are any; ``windows`` bool [sessions, rows, width].
    """
    sessions = [torch.stack([masked_mean(state, window) for window in windows]) for state in states]
    adjacent = [functional.cosine_similarity(means[:-1], means[1:], dim=2).abs().mean() for means in sessions]
    total = torch.stack(adjacent).sum()
    if len(sessions) == 1:
        return total
    return total - functional.cosine_similarity(sessions[0], sessions[1], dim=2).mean()


class UnifiedSSR(JointMethod[UnifiedSSRSettings]):
    """Rank by UnifiedSSR (Xie et al., 2024)."""

    inputs = ("clicks", "searches", "words")
    paper = "Xie et al.: UnifiedSSR: A Unified Framework of Sequential Search and Recommendation. WWW 2024"
    settings_model = UnifiedSSRSettings
    module_class = UnifiedSSRModel
    module: UnifiedSSRModel

    def training_set(self, task: str) -> TrainingSet:
        """Return users' sequences of a task."""
        return SequenceSet(self, task)


METHOD = UnifiedSSR
