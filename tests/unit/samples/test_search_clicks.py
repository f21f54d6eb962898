"""Pairs of a clicked item and its query against a counter, read a few rows at a time."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gensar_core.samples import search_clicks
from gensar_core.samples.search_clicks import SearchClicks
from tests.support.shop import write_events
from tests.support.small_parts import small_parts

#: The item and the query of a click; none was recommended.
CLICKS = st.lists(st.tuples(st.sampled_from([0, 1, 2, 2**31 - 1]), st.none() | st.sampled_from([0, 1, 2**31 - 1])))


@given(CLICKS, st.integers(1, 7))
def test_each_pair_is_there_once_by_item_then_query_with_its_clicks(clicks, size):
    with tempfile.TemporaryDirectory() as folder, small_parts(size, search_clicks):
        rows = [
            (0, 0, "rec", item, None, None) if query is None else (0, 0, "search", item, query, 0)
            for item, query in clicks
        ]
        write_events(Path(folder), rows)
        found = SearchClicks.read(Path(folder) / "training_events.parquet")
        expected = Counter(pair for pair in clicks if pair[1] is not None)
        pairs = zip(found.items.tolist(), found.queries.tolist(), strict=True)
        assert dict(zip(pairs, found.clicks.tolist(), strict=True)) == expected
        assert list(zip(found.items.tolist(), found.queries.tolist(), strict=True)) == sorted(expected)
        # Nothing named is left on the disk.
        assert [path.name for path in Path(folder).iterdir()] == ["training_events.parquet"]
