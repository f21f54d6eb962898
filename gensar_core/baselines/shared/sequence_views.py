"""Augment item sequences into views for contrastive losses between histories. Randomness is torch's, on the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gensar_core.baselines.shared.product_search import ItemSequences

#: Shares of a sequence that are replaced, kept by a crop, hidden, and shuffled.
_REPLACED, _KEPT, _HIDDEN, _SHUFFLED = 0.3, 0.8, 0.3, 0.5
#: Longest sequence that is too short to crop or shuffle.
_SHORT = 2


@dataclass(frozen=True)
class Substitutes:
    """Store each item's substitutes: items of its brand; failing that, of its leaf category; else the item itself.

    The substitutes of item i are ``members[starts[i] : starts[i] + counts[i]]``.
    """

    starts: torch.Tensor
    counts: torch.Tensor
    members: torch.Tensor

    @classmethod
    def of(cls, brand: np.ndarray, leaf: np.ndarray) -> Substitutes:
        """Build substitutes from each item's brand and leaf category numbers [n_items], 0 for none."""
        n_items = len(brand)
        members = [np.arange(n_items)]
        starts, counts = np.arange(n_items), np.ones(n_items, dtype=np.int64)
        offset = n_items
        for group in (leaf, brand):
            sizes = np.bincount(group, minlength=int(group.max(initial=0)) + 1)
            firsts = np.cumsum(sizes) - sizes
            shared = (group > 0) & (sizes[group] > 1)
            starts[shared] = offset + firsts[group[shared]]
            counts[shared] = sizes[group[shared]]
            members.append(np.argsort(group, kind="stable"))
            offset += n_items
        return cls(torch.from_numpy(starts), torch.from_numpy(counts), torch.from_numpy(np.concatenate(members)))

    def __call__(self, clicked: ItemSequences) -> ItemSequences:
        """Return a view in which each item is replaced with a probability of 0.3."""
        device = clicked.items.device
        starts, counts, members = (part.to(device) for part in (self.starts, self.counts, self.members))
        drawn = (torch.rand(clicked.items.shape, device=device) * counts[clicked.items]).long()
        replaced = torch.rand(clicked.items.shape, device=device) < _REPLACED
        items = torch.where(replaced, members[starts[clicked.items] + drawn], clicked.items)
        return ItemSequences(items, clicked.queries, clicked.present)


def altered(clicked: ItemSequences, hidden: int) -> ItemSequences:
    """Return a view in which each row is cropped, has items replaced by the item ``hidden``, or is partly shuffled."""
    lengths = clicked.present.sum(dim=1)
    drawn = torch.randint(3, lengths.shape, device=lengths.device)
    drawn = drawn.masked_fill(lengths <= _SHORT, 1)[:, None]
    views = [cropped(clicked, lengths), with_hidden(clicked, lengths, hidden), shuffled(clicked, lengths)]

    def chosen(*options: torch.Tensor) -> torch.Tensor:
        return torch.where(drawn == 0, options[0], torch.where(drawn == 1, options[1], options[2]))

    return ItemSequences(
        chosen(*(view.items for view in views)),
        chosen(*(view.queries for view in views)),
        chosen(*(view.present for view in views)),
    )


def cropped(clicked: ItemSequences, lengths: torch.Tensor) -> ItemSequences:
    """Keep a run of 0.8 of each row's items (at least one), moved to the row's start."""
    cropped_lengths = _part(lengths, _KEPT)
    places = _places(clicked)
    source = (places + _start(lengths, cropped_lengths)).clamp(max=places.shape[1] - 1)
    present = places < cropped_lengths
    queries = clicked.queries.gather(1, source).masked_fill(~present, -1)
    return ItemSequences(clicked.items.gather(1, source), queries, present)


def with_hidden(clicked: ItemSequences, lengths: torch.Tensor, hidden: int) -> ItemSequences:
    """Replace 0.3 of each row's items (at least one) by the item ``hidden``, and drop their queries."""
    order = torch.rand(clicked.items.shape, device=lengths.device).masked_fill(~clicked.present, 2.0).argsort(dim=1)
    rank = order.argsort(dim=1)
    behind = (rank < _part(lengths, _HIDDEN)) & clicked.present
    return ItemSequences(
        clicked.items.masked_fill(behind, hidden), clicked.queries.masked_fill(behind, -1), clicked.present
    )


def shuffled(clicked: ItemSequences, lengths: torch.Tensor) -> ItemSequences:
    """Shuffle a run of 0.5 of each row's items (at least one)."""
    part = _part(lengths, _SHUFFLED)
    start = _start(lengths, part)
    places = _places(clicked)
    inside = (places >= start) & (places < start + part)
    keys = torch.where(inside, start + torch.rand(places.shape, device=places.device) * part, places.float())
    # A key of the run may round up to the place after it; a stable sort keeps the two apart.
    order = keys.argsort(dim=1, stable=True)
    return ItemSequences(clicked.items.gather(1, order), clicked.queries.gather(1, order), clicked.present)


def _part(lengths: torch.Tensor, share: float) -> torch.Tensor:
    """Compute a share of each length [rows, 1], at least one for nonempty rows."""
    return torch.minimum((lengths * share).long().clamp(min=1), lengths)[:, None]


def _start(lengths: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Draw the start [rows, 1] of a run of ``part`` [rows, 1] items in rows of these lengths."""
    room = lengths[:, None] - part + 1
    return (torch.rand(part.shape, device=part.device) * room).long()


def _places(clicked: ItemSequences) -> torch.Tensor:
    return torch.arange(clicked.items.shape[1], device=clicked.items.device).expand_as(clicked.items)
