"""k-means with bounded sizes: bounds hold, and nothing moves where they allow the nearest centers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.identifiers.bounded_kmeans import assign_within_bounds, bounded_kmeans


@given(
    rows=st.integers(1, 40), columns=st.integers(1, 6), slack=st.integers(0, 4), distinct=st.integers(1, 50),
    seed=st.integers(0, 1000),
)  # fmt: skip
@settings(max_examples=100)
def test_sizes_lie_within_their_bounds(rows: int, columns: int, slack: int, distinct: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(distinct, size=(rows, columns)).astype(np.float64)
    least, most = max(0, rows // columns - slack), -(-rows // columns) + slack
    sizes = np.bincount(assign_within_bounds(costs, least, most), minlength=columns)
    assert sizes.min() >= least
    assert sizes.max() <= most


@pytest.mark.parametrize("most", [10, 40])
def test_no_row_and_column_would_both_gain_from_each_other(most: int) -> None:
    """A row that lies nearer to another column finds it full of rows that lie nearer still."""
    costs = np.random.default_rng(1).random((40, 4)) * [0.2, 1.0, 1.0, 1.0]
    assigned = assign_within_bounds(costs, 0, most)
    for row, column in itertools.product(range(40), range(4)):
        if costs[row, column] < costs[row, assigned[row]]:
            assert (assigned == column).sum() == most
            assert costs[assigned == column, column].max() <= costs[row, column]


def test_an_empty_column_takes_the_rows_that_lose_least() -> None:
    costs = np.array([[0.0, 9.0], [1.0, 3.0], [1.0, 4.0], [0.0, 2.5]])
    assert assign_within_bounds(costs, 2, 4).tolist() == [0, 1, 0, 1]


def test_centers_are_the_means_of_groups_of_the_allowed_size() -> None:
    """Nine points to the left and three to the right, six a cluster: the three nearest of the nine cross over."""
    left, right = np.arange(-10.0, -1.0), np.array([5.0, 6.0, 7.0])
    centers = bounded_kmeans(np.concatenate([left, right])[:, None].astype(np.float32), 2, 0, 6, seed=0)
    assert sorted(centers[:, 0].tolist()) == pytest.approx([np.mean(left[:6]), np.mean([*left[6:], *right])])
