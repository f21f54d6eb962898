"""Co-clicks against a plain loop, for blocks of any size."""

import itertools
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core.samples import co_clicks as module
from gensar_core.samples.co_clicks import CoClickWeights, co_clicks
from tests.support.ragged import ragged

CLICKS = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=6)


@given(CLICKS, st.integers(1, 4), st.floats(0.1, 1.0), st.floats(0.0, 1.0), st.integers(1, 30))
def test_co_clicks_match_a_plain_loop_for_any_block_size(clicks, window, decay, backward, pairs):
    expected = np.zeros((7, 7))
    for items in clicks:
        for earlier, later in itertools.combinations(range(len(items)), 2):
            if later - earlier <= window:
                worth = decay ** (later - earlier - 1)
                expected[items[earlier], items[later]] += worth
                expected[items[later], items[earlier]] += backward * worth
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(module, "_PAIRS", pairs)
        blocks = list(co_clicks(ragged(clicks), 7, CoClickWeights(window, decay, backward), Path(folder)))
    assert np.concatenate([block.toarray() for block in blocks]) == pytest.approx(expected)
