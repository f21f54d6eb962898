"""Ways to deal with collisions: the extra digit by property, and every way on thousands of copies of one vector."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensar_core.config.identifiers import QuantizerSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import Resolved, occurrence, resolve
from gensar_core.identifiers.fit import fit


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=2, max_size=2), min_size=1, max_size=40))
def test_digits_count_the_earlier_items_of_the_same_identifier(rows: list[list[int]]) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    expected = []
    for row in rows:
        expected.append(seen[tuple(row)])
        seen[tuple(row)] += 1
    assert occurrence(torch.tensor(rows)).tolist() == expected


def resolved(collisions: str, copies: int, **changes: object) -> tuple[Resolved, torch.Tensor]:
    """3,000 items by residual k-means, ``copies`` of them with the very same vectors; the raw semantic codes."""
    source = np.random.default_rng(0)
    vectors = {}
    for side, size in (("semantic", 8), ("collaborative", 6)):
        matrix = source.standard_normal((3000, size)).astype(np.float32)
        matrix[:copies] = matrix[0]
        vectors[side] = torch.from_numpy(matrix)
    values = {"quantizer": "rq-kmeans", "collisions": collisions, "codebook_size": 32, "shared_levels": 1}
    model, _ = fit(vectors, QuantizerSettings.model_validate({**values, **changes}), seed=0)
    latents = model.all_latents(model.scale(vectors))
    raw = model.encode_latents(latents)
    return resolve(model, latents, raw), raw.identifier("semantic")


@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("copies", [1, 2500, 3000])
def test_thousands_of_copies_get_identifiers_of_their_own(shared: int, copies: int) -> None:
    changes = {"shared_levels": shared, "specific_levels": 3 - shared}
    for collisions in ("unique", "extra_digit"):
        found, _ = resolved(collisions, copies, **changes)
        for side in ("semantic", "collaborative"):
            assert len(torch.unique(found.identifier(side), dim=0)) == 3000


@pytest.mark.parametrize("collisions", ["none", "sinkhorn_repair"])
def test_copies_collide_where_nothing_can_tell_them_apart(collisions: str) -> None:
    found, raw = resolved(collisions, 2500)
    identifiers = found.identifier("semantic")
    assert len(torch.unique(identifiers[:2500], dim=0)) == 1
    assert torch.equal(identifiers[:, :-1], raw[:, :-1])
    assert torch.equal(identifiers, raw) == (collisions == "none")


def test_too_small_a_space_is_told_when_identifiers_are_to_be_unique() -> None:
    with pytest.raises(UserError, match=r"3 levels of 14 codes give 2,744 identifiers for 3,000 items"):
        resolved("unique", 1, codebook_size=14)
