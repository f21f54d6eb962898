"""Simulate the shop's customers: their purchases in order, and which purchases began with a search.

Three factors decide the next purchase, and only one source of evidence reveals each. The style that a shopper favors
shows in the clicked items, never in a text. The category is named by the query, or predicted by the purchase before,
which draws its complement after it. Within a category and a style, popular items sell more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gensar_core.runtime.arrays import ranges
from gensar_core.runtime.seeds import generator
from gensar_core.sources.simulated.shop import Shelves

FEWEST_REVIEWS = 5
_MOST_REVIEWS = 120
#: Number of categories that interest a shopper; shares of purchases that keep to them, to the favorite style, and to
#: the complement of the purchase before.
_INTERESTS = 4
_INTERESTED = 0.85
_FAITHFUL = 0.85
_COMPLEMENTARY = 0.4
#: Number of draws that may hit items the shopper already has; after these, any other item will do.
_PATIENCE = 4

_FIRST_DAY = 14_975  # 2011-01-01
_DAYS = 900
_SECONDS_A_DAY = 86_400
#: Share of purchases made on the same day as the one before; otherwise, mean days between the two.
_SAME_DAY = 0.25
_MEAN_GAP = 12
_SEARCHED = 0.76


@dataclass(frozen=True)
class Purchases:
    """Hold the users, items and times of purchases with reviews; arrays are [purchases], by shopper and time.

    ``time`` is the start of a day in unix seconds, ``rating`` lies in 1..5, and ``searched`` says whether the purchase
    began with a search. No shopper buys an item twice.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray
    searched: np.ndarray


def simulate_purchases(shelves: Shelves, n_users: int, mean_reviews: float, seed: int) -> Purchases:
    """Let every shopper buy at least ``FEWEST_REVIEWS`` items, ``mean_reviews`` on average."""
    rng = generator(seed, "shop", "purchases")
    extra = rng.geometric(1.0 / (1.0 + mean_reviews - FEWEST_REVIEWS), n_users) - 1
    lengths = FEWEST_REVIEWS + np.minimum(extra, min(_MOST_REVIEWS, len(shelves.leaf) // 2) - FEWEST_REVIEWS)
    favorite = rng.integers(0, shelves.n_styles, n_users)
    baskets = _fill_baskets(shelves, lengths, favorite, rng)

    user = np.repeat(np.arange(n_users), lengths)
    place = ranges(np.zeros(n_users, dtype=np.int64), lengths)
    item = baskets[user, place]
    liked = shelves.style[item] == favorite[user]
    return Purchases(
        user=user,
        item=item,
        time=_days(lengths, rng) * _SECONDS_A_DAY,
        rating=np.clip(3 + liked + rng.integers(-2, 2, len(user)), 1, 5),
        searched=rng.random(len(user)) < _SEARCHED,
    )


def _days(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the day of every purchase [purchases], counted from 1970; it never decreases within a shopper."""
    total = int(lengths.sum())
    first = np.cumsum(lengths) - lengths
    gaps = np.where(rng.random(total) < _SAME_DAY, 0, rng.geometric(1.0 / _MEAN_GAP, total))
    gaps[first] = 0
    since_first = np.cumsum(gaps)
    start = _FIRST_DAY + rng.integers(0, _DAYS, len(lengths))
    days: np.ndarray = since_first + np.repeat(start - since_first[first], lengths)
    return days


class _Buckets:
    """Group items by category and style, to draw them by popularity."""

    def __init__(self, shelves: Shelves) -> None:
        bucket = shelves.leaf * shelves.n_styles + shelves.style
        self.n_styles = shelves.n_styles
        self.items = np.argsort(bucket, kind="stable")
        self.sums = np.concatenate([[0.0], np.cumsum(shelves.popularity[self.items])])
        sizes = np.bincount(bucket, minlength=len(shelves.leaves) * shelves.n_styles)
        self.bounds = np.concatenate([[0], np.cumsum(sizes)])

    def draw(self, leaf: np.ndarray, style: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Draw one item for each category and style, from numbers in [0, 1)."""
        bucket = leaf * self.n_styles + style
        low, high = self.bounds[bucket], self.bounds[bucket + 1]
        weight = self.sums[low] + numbers * (self.sums[high] - self.sums[low])
        # Rounding may reach the upper end.
        places = np.minimum(np.searchsorted(self.sums, weight, side="right") - 1, high - 1)
        items: np.ndarray = self.items[places]
        return items


def _fill_baskets(shelves: Shelves, lengths: np.ndarray, favorite: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw every shopper's items in order of purchase [users, longest], -1 after the last."""
    buckets = _Buckets(shelves)
    n_users, n_leaves = len(lengths), len(shelves.leaves)
    interests = rng.integers(0, n_leaves, (n_users, _INTERESTS))
    baskets = np.full((n_users, int(lengths.max())), -1, dtype=np.int32)
    for place in range(baskets.shape[1]):
        users = np.flatnonzero(lengths > place)
        attempt = 0
        while len(users):
            if attempt < _PATIENCE:
                leaf = _next_leaf(shelves, baskets[users, place - 1] if place else None, interests[users], rng)
                faithful = rng.random(len(users)) < _FAITHFUL
                style = np.where(faithful, favorite[users], rng.integers(0, shelves.n_styles, len(users)))
                item = buckets.draw(leaf, style, rng.random(len(users)))
            else:
                item = rng.integers(0, len(shelves.leaf), len(users))
            baskets[users, place] = item
            users = users[(baskets[users, :place] == item[:, None]).any(axis=1)]
            attempt += 1
    return baskets


def _next_leaf(
    shelves: Shelves, before: np.ndarray | None, interests: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the category of the next purchase [users], after the items ``before`` (None for the first purchase)."""
    count = len(interests)
    interesting = interests[np.arange(count), rng.integers(0, _INTERESTS, count)]
    leaf = np.where(rng.random(count) < _INTERESTED, interesting, rng.integers(0, len(shelves.leaves), count))
    if before is None:
        return leaf
    return np.where(rng.random(count) < _COMPLEMENTARY, shelves.complement[shelves.leaf[before]], leaf)
