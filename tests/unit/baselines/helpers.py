"""Methods on tiny shops, histories as samples, and plain layers: what tests of methods share."""

import polars as pl
import torch

from gensar_core import schema
from gensar_core.baselines.interface import find
from gensar_core.config.base import validate

#: A click is an item; a search is a query and the items clicked after it. In the order of time.
HISTORIES = [
    [1, (2, [1]), 7, 9, (0, [9, 3]), (1, [])],
    [4, (3, [4]), 5, (2, [8]), 6, 7, (4, [7]), (1, [2]), (0, [5])],
    [11, 12],
    [(1, [3]), (2, [6])],
    [],
]


def make(kind, data, seed=3, **settings):
    """Build an untrained method."""
    method = find(kind)
    return method(validate(method.settings_model, settings, kind), data, seed)


def fitted(kind, data, **settings):
    """Build a method and fit it."""
    method = make(kind, data, **settings)
    method.fit(None, "")
    return method


def rewrite_samples(data, samples):
    """Replace the samples of a shop."""
    schema.SAMPLES.write(samples, data.samples_folder / "samples.parquet")


def rewrite_texts(data, **texts):
    """Replace the texts of a shop's ``items`` or ``queries``."""
    for name, values in texts.items():
        table, path = {"items": schema.ITEMS, "queries": schema.QUERIES}[name], data.canonical / f"{name}.parquet"
        table.write(table.read(path).with_columns(text=pl.Series(values)), path)


def last_slots(slots, clicks, searches):
    """The last clicks and the last searches of a history, in its order."""
    of_clicks = [number for number, slot in enumerate(slots) if isinstance(slot, int)]
    of_searches = [number for number, slot in enumerate(slots) if not isinstance(slot, int)]
    kept = of_clicks[max(0, len(of_clicks) - clicks) :] + of_searches[max(0, len(of_searches) - searches) :]
    return [slots[number] for number in sorted(kept)]


def history_samples(histories, query=None):
    """Write histories in the form of HISTORIES as a samples table."""
    behaviors, objects = [], []
    for slots in histories:
        events = []
        for slot in slots:
            events += [(0, slot)] if isinstance(slot, int) else [(1, slot[0]), *((2, item) for item in slot[1])]
        behaviors.append([behavior for behavior, _ in events])
        objects.append([number for _, number in events])
    return pl.DataFrame(
        {
            "history_behavior": pl.Series(behaviors, dtype=pl.List(pl.UInt8)),
            "history_object": pl.Series(objects, dtype=pl.List(pl.Int32)),
            "user_id": pl.Series(range(len(histories)), dtype=pl.Int32),
            "query_id": pl.Series([query] * len(histories), dtype=pl.Int32),
        }
    )


def random_weights(module, std=0.5):
    """Draw weights large enough that a leak would show; return the module in evaluation mode."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return module.eval()
