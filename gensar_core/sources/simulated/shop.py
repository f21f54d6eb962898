"""Stock the simulated shop: categories and products, with a style that no product page reveals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gensar_core.runtime.seeds import generator

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
REVIEW_SENTENCES: list[str] = WORDS["reviews"]
ADJECTIVES: list[str] = WORDS["adjectives"]

#: Minimum and maximum number of styles; between them, as many as keep buckets filled.
_STYLES = (4, 16)
_ITEMS_A_BUCKET = 4


@dataclass(frozen=True)
class Leaf:
    """Describe a leaf category: its path from the root, and the name of a product in it."""

    path: tuple[str, ...]
    product: str


@dataclass(frozen=True)
class Shelves:
    """Hold the items that the shop sells; arrays are [items] unless said otherwise.

    ``leaf`` is the item's category, ``second`` another one or -1, ``style`` the trait that shoppers choose by although
    no text reveals it, ``popularity`` a positive weight. ``complement`` [leaves] is the category that shoppers turn to
    after each.
    """

    leaves: list[Leaf]
    complement: np.ndarray
    leaf: np.ndarray
    second: np.ndarray
    style: np.ndarray
    n_styles: int
    popularity: np.ndarray


def all_leaves() -> list[Leaf]:
    """Return every leaf category: one of each group, then another, so that any first few span all families."""
    groups = [
        [Leaf((family, group, leaf), product) for leaf, product in leaves.items()]
        for family, groups in WORDS["categories"].items()
        for group, leaves in groups.items()
    ]
    return [group[place] for place in range(max(map(len, groups))) for group in groups if place < len(group)]


def stock_shelves(n_items: int, seed: int, second_categories: float = 0.25) -> Shelves:
    """Draw the items, with categories and styles spread evenly and independently of each other.

    A share ``second_categories`` of the items belongs to two categories.
    """
    rng = generator(seed, "shop", "shelves")
    leaves = all_leaves()
    leaves = leaves[: int(np.clip(n_items // (_STYLES[0] * _ITEMS_A_BUCKET), 12, len(leaves)))]
    n_styles = int(np.clip(n_items // (len(leaves) * _ITEMS_A_BUCKET), *_STYLES))
    places = rng.permutation(n_items)
    leaf, style = places % len(leaves), places // len(leaves) % n_styles
    other = (leaf + rng.integers(1, len(leaves), n_items)) % len(leaves)
    return Shelves(
        leaves=leaves,
        complement=_complements(leaves),
        leaf=leaf,
        second=np.where(rng.random(n_items) < second_categories, other, -1),
        style=style,
        n_styles=n_styles,
        popularity=rng.lognormal(0.0, 0.7, n_items),
    )


def _complements(leaves: list[Leaf]) -> np.ndarray:
    """Map each leaf to the next one of its family, by groups: grinders follow pans, bowls follow grinders."""
    following = np.arange(len(leaves))
    for family in dict.fromkeys(leaf.path[0] for leaf in leaves):
        members = [place for place, leaf in enumerate(leaves) if leaf.path[0] == family]
        following[members] = np.roll(members, -1)
    return following
