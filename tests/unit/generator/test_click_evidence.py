"""Counts of training clicks against plain loops, for blocks of any size."""

import itertools
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.generator import click_evidence
from gensar_core.generator.click_evidence import ClickEvidence
from gensar_core.samples import co_clicks
from tests.support.samples_logs import event, events_frame

ITEMS, QUERIES, PER_USER = 5, 3, 2
#: An item, and the query before the click on it, of a user's clicks.
USERS = st.lists(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 2)), max_size=6), max_size=5)


@given(USERS, st.integers(1, 9))
def test_counts_are_those_of_a_plain_loop(users, at_once):
    log = [
        event(user, time, item, query, None if query is None else time)
        for user, clicks in enumerate(users)
        for time, (item, query) in enumerate(clicks)
    ]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(click_evidence, "_AT_ONCE", at_once)
        patch.setattr(co_clicks, "_PAIRS", at_once)
        patch.setattr(click_evidence, "_PER_USER", PER_USER)
        schema.EVENTS.write(events_frame(log), Path(folder) / "training_events.parquet")
        counted = ClickEvidence.count(Path(folder) / "training_events.parquet", ITEMS, QUERIES)
        counted.save(Path(folder) / "counts.safetensors")
        loaded = ClickEvidence.load(Path(folder) / "counts.safetensors")
    for name, values in vars(counted).items():
        assert (getattr(loaded, name) == values).all()
        assert getattr(loaded, name).dtype == values.dtype

    after, own = Counter(), []
    latest = {user: [] for user, clicks in enumerate(users) if clicks}
    n_users = max(latest, default=-1) + 1
    for user, clicks in enumerate(users):
        for item, query in clicks:
            latest[user] = [other for other in latest[user] if other != item] + [item]
            if query is not None:
                after[query, item] += 1
                own.append((query * n_users + user, item))
    latest = {user: items[-PER_USER:] for user, items in latest.items()}
    # Two items a user are neighbors: one place apart.
    together = Counter()
    for items in latest.values():
        for earlier, later in itertools.pairwise(items):
            together[earlier, later] += 1.0
            together[later, earlier] += 0.4

    def rows(offsets, items, counts):
        return {
            (row, int(items[place])): counts[place]
            for row in range(len(offsets) - 1)
            for place in range(offsets[row], offsets[row + 1])
        }

    assert rows(counted.query_offsets, counted.query_item, counted.query_count) == after
    users = Counter(item for items in latest.values() for item in items)
    likeness = {(a, b): count / (users[a] * users[b]) ** 0.5 for (a, b), count in together.items()}
    found = rows(counted.together_offsets, counted.together_item, counted.together_likeness)
    assert found == pytest.approx(likeness, rel=1e-6)
    assert list(zip(counted.own.tolist(), counted.own_item.tolist(), strict=True)) == sorted(
        own, key=lambda pair: pair[0]
    )
    places = {user * ITEMS + item: place for user, items in latest.items() for place, item in enumerate(items)}
    pairs = sorted(places)
    assert counted.clicked.tolist() == pairs
    assert counted.clicked_place.tolist() == [places[pair] for pair in pairs]
    assert counted.users.tolist() == np.bincount([pair % ITEMS for pair in pairs], minlength=ITEMS).tolist()
