"""Event logs for the tests of samples: written by hand, or drawn by hypothesis, and canonical folders made of them."""

import polars as pl
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import SampleSettings
from gensar_core.errors import UserError
from gensar_core.samples.build import build_samples
from tests.support.shop import write_items, write_queries

A, B, C, D, E, F = range(6)
PROTOCOLS = ("strict", "paper")


def event(user, time, item, query=None, session=None):
    """A recommendation click, or with a query and a session a search click."""
    return {"user": user, "time": time, "item": item, "query": query, "session": session}


#: One user with ties in time, a session of two clicks, an item searched before it is the test target (F) and one
#: clicked before it is the valid target (E); a second user without any target clicked the items 6, 7 and 8.
WORKED = [
    event(0, 1, A),  # 0
    event(0, 1, A, query=0, session=0),  # 1
    event(0, 2, B),  # 2
    event(0, 2, C),  # 3
    event(0, 2, B, query=1, session=1),  # 4
    event(0, 2, C, query=1, session=1),  # 5
    event(0, 2, F, query=2, session=2),  # 6
    event(0, 3, E),  # 7
    event(0, 3, D),  # 8
    event(0, 3, D, query=0, session=3),  # 9
    event(0, 4, E),  # 10
    event(0, 4, E, query=2, session=4),  # 11
    event(0, 5, F),  # 12
    event(0, 5, F, query=0, session=5),  # 13
    event(1, 1, 6),  # 14
    event(1, 2, 7),  # 15
    event(1, 2, 7),  # 16
    event(1, 3, 8),  # 17
]

#: A user who comes back to an item. Search is over at time 5 (valid C, test D), recommendation goes on until time 9. C
#: was clicked and searched before it is the valid target, is clicked beside the search for it, and once more later.
REPEATED = [
    event(0, 1, A, query=0, session=0),  # 0
    event(0, 1, B),  # 1
    event(0, 2, C),  # 2
    event(0, 3, C, query=1, session=1),  # 3: search, train
    event(0, 4, C),  # 4: the twin of the valid target
    event(0, 4, C, query=1, session=2),  # 5: search, valid
    event(0, 5, D, query=2, session=3),  # 6: search, test
    event(0, 6, C),  # 7: the user comes back to C
    event(0, 7, E),  # 8: rec, train
    event(0, 8, A),  # 9: rec, valid
    event(0, 9, F),  # 10: rec, test
]


def events_frame(log):
    """Table `events` of a log in event order."""
    tasks = ["rec" if e["query"] is None else "search" for e in log]
    rows = [
        (number, e["user"], e["time"], task, e["item"], e["query"], e["session"])
        for number, (e, task) in enumerate(zip(log, tasks, strict=True))
    ]
    return schema.EVENTS.check(pl.DataFrame(rows, schema=schema.EVENTS.schema, orient="row"))


def write_canonical(folder, log, *, items=9, queries=3):
    """A canonical folder of a log. Item i's text has the word of query i % 3 for two items out of three."""
    words = ["lamp", "chair", "table"]
    texts = [f"{words[item % 3] if item % 3 < 2 else 'thing'} number{item}" for item in range(items)]
    write_items(folder, texts, [["all"]])
    write_queries(folder, words[:queries])
    schema.EVENTS.write(events_frame(log), folder / "events.parquet")
    return folder


def build(folder, log, *, items, seed=1, queries=3, **overrides):
    """Build the folders `canonical` and `samples` of a log; False when it gives no samples."""
    write_canonical(folder / "canonical", log, items=items, queries=queries)
    try:
        build_samples(folder / "canonical", folder / "samples", SampleSettings(**overrides), seed)
    except UserError as error:
        if "such a log gives no samples" not in str(error):
            raise
        return False
    return True


def check_negatives(rows, log, count):
    """Compare the negatives of samples over 30 items with a log, by plain loops.

    Negatives are distinct, without the target, and as many as exist. Search begins with the hits of the query. All
    others were clicked in the log and not by the user.
    """
    clicked = {e["item"] for e in log if e["query"] is None}
    for row in rows.iter_rows(named=True):
        negatives = row["negatives"]
        assert len(set(negatives)) == len(negatives)
        assert row["target_item"] not in negatives
        # The text of item i matches query i % 3 for two of three queries; all hits of a query tie.
        matching = [i for i in range(30) if row["task"] == "search" and i % 3 == row["query_id"] < 2]
        hits = [i for i in matching if i != row["target_item"]][:count]
        drawable = clicked - {e["item"] for e in log if e["user"] == row["user_id"]} - set(hits)
        assert negatives[: len(hits)] == hits
        assert set(negatives[len(hits) :]) <= drawable
        assert len(negatives) == min(count, len(hits) + len(drawable))


@st.composite
def logs(draw, users=3, most=22, items=7, times=5, queries=3, single_clicks=False):
    """Random logs in event order: heavy ties in time, repeated items, reviews that are a click and a search at once,
    and sessions of several clicks, also with other clicks in between."""
    log, session = [], 0
    kinds = ["rec", "search", "review", "searched first"] + ([] if single_clicks else ["further click"])
    action = st.tuples(
        st.integers(0, times - 1), st.sampled_from(kinds), st.integers(0, items - 1), st.integers(0, queries - 1)
    )
    for user in range(users):
        # By itself, hypothesis draws lists too short for three targets.
        rows, size = [], draw(st.integers(0, most))
        for time, kind, item, query in sorted(draw(st.lists(action, min_size=size, max_size=size)), key=lambda a: a[0]):
            searches = [e for e in rows if e["query"] is not None]
            if kind == "further click" and searches:
                last = searches[-1]
                rows.append(event(user, time, item, last["query"], last["session"]))
                continue
            # Unordered session ids: 7919 generates all of them modulo the prime 10007.
            click, search = event(user, time, item), event(user, time, item, query, session * 7919 % 10007)
            rows += {"rec": [click], "review": [click, search], "searched first": [search, click]}.get(kind, [search])
            session += 1
        log += rows
    return log


def expected_history(log, target, protocol, max_recommendations, max_searches):
    """The history of one target as (behavior, object) pairs, by plain loops over a log of (event id, event)."""
    position, aim = target
    before = [(i, e) for i, e in log if e["user"] == aim["user"] and i < position]
    clicks = [(i, e) for i, e in before if e["query"] is None]
    searches = [(i, e) for i, e in before if e["query"] is not None]

    def twin(e):
        return e["time"] == aim["time"] and e["item"] == aim["item"]

    if protocol == "strict":
        clicks = [(i, e) for i, e in clicks if not twin(e)]
        searches = [(i, e) for i, e in searches if not twin(e) and e["session"] != aim["session"]]
    elif aim["query"] is not None and clicks and twin(clicks[-1][1]):
        clicks = clicks[:-1]
    sessions = {}
    for i, e in log:
        if e["query"] is not None and e["session"] in {s["session"] for _, s in searches}:
            sessions.setdefault(
                e["session"], (i, e["query"], [s["item"] for _, s in searches if s["session"] == e["session"]])
            )
    blocks = [(i, [(0, e["item"])]) for i, e in clicks[-max_recommendations:]]
    blocks += [
        (place, [(1, query), *((2, item) for item in items)])
        for place, query, items in sorted(sessions.values())[-max_searches:]
    ]
    return [entry for _, entries in sorted(blocks) for entry in entries]


def complete(history, searching=True):
    """Whether a history holds a recommendation click and, where there are searches, a search."""
    return ({0, 1} if searching else {0}) <= {behavior for behavior, _ in history}


def expected_moments(times, shares):
    """When valid and test begin in a split by time, by plain loops; None for fewer than three times."""
    moments = sorted(set(times))
    if len(moments) < 3:
        return None

    def distance(moment, share):
        return abs(sum(time < moment for time in times) - share * len(times))

    valid = min(moments[1:-1], key=lambda moment: distance(moment, shares[0]))
    later = [moment for moment in moments if moment > valid]
    return valid, min(later, key=lambda moment: distance(moment, shares[0] + shares[1]))


def tells(e, evaluated):
    """Whether an event is a user's click on the item of one of the user's held-out targets, at its moment or later."""
    return any((e["user"], e["item"]) == (o["user"], o["item"]) and e["time"] >= o["time"] for o in evaluated)


def expected_samples(
    log, protocol, min_targets, max_recommendations, max_searches, shares=None, cutoff="none", searching=True, cold=()
):
    """(task, split, event id) -> history of every sample, by plain loops; and the ids of the training events.

    With ``shares`` the split is by time, else by leaving one out; ``cutoff`` is the training cut-off; ``searching``
    says whether the data set has queries; ``cold`` are the items that training must not see.
    """
    everything = list(enumerate(log))
    caps = (max_recommendations, max_searches)
    whole = [expected_history(everything, t, protocol, 10**6, 10**6) for t in everything]
    eligible = [t for t, history in zip(everything, whole, strict=True) if complete(history, searching)]
    parts = {}
    early = everything
    if shares:
        moments = expected_moments([e["time"] for _, e in eligible], shares)
        if moments:
            early = [(i, e) for i, e in everything if e["time"] < moments[0]]
            for i, e in eligible:
                split = ["train", "valid", "test"][sum(e["time"] >= moment for moment in moments)]
                parts["rec" if e["query"] is None else "search", split, i] = (i, e)
    for task in () if shares else ("rec", "search"):
        for user in sorted({e["user"] for e in log}):
            targets = [(i, e) for i, e in eligible if e["user"] == user and (e["query"] is None) == (task == "rec")]
            if len(targets) >= min_targets:
                for target, split in zip(targets, ["train"] * (len(targets) - 2) + ["valid", "test"], strict=True):
                    parts[task, split, target[0]] = target
    evaluated = [e for (_, split, _), (_, e) in parts.items() if split != "train"]
    if protocol == "strict":
        early = [(i, e) for i, e in early if not tells(e, evaluated)]
    if cutoff == "per_user":
        early = [
            (i, e) for i, e in early if not any(o["user"] == e["user"] and o["time"] < e["time"] for o in evaluated)
        ]
    early = [(i, e) for i, e in early if e["item"] not in cold]
    ids = {i for (_, split, i) in parts if split != "train"}
    training = [(i, e) for i, e in early if i not in ids]
    samples = {}
    for (task, split, i), target in parts.items():
        source = everything
        if split == "train":
            if target not in training:
                continue
            source = early
        history = expected_history(source, target, protocol, *caps)
        if complete(history, searching):
            samples[task, split, i] = history
    return samples, [i for i, _ in training]


def read_samples(frame):
    """(task, split, event id) -> history, of table `samples`."""
    return {
        (row["task"], row["split"], row["event_id"]): list(
            zip(row["history_behavior"], row["history_object"], strict=True)
        )
        for row in frame.iter_rows(named=True)
    }
