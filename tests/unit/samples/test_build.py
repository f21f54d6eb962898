"""The stage as a whole: tables, candidates, reproducibility, and one clear line for every bad input."""

import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.datasets import SampleSettings
from gensar_core.config.experiments import read_experiments
from gensar_core.errors import UserError
from gensar_core.samples import build as module
from gensar_core.samples import events as event_blocks
from gensar_core.samples.build import build_part, build_samples, gather_samples
from gensar_core.samples.parts import EVALUATED, part_files
from gensar_core.samples.survey import survey_samples
from gensar_core.sources.amazon.canonical import STEPS
from tests.support.samples_logs import (
    REPEATED,
    WORKED,
    A,
    B,
    event,
    events_frame,
    expected_samples,
    logs,
    read_samples,
    tells,
    write_canonical,
)

ROOT = Path(__file__).parents[3]
OUTPUTS = ("training_events.parquet", "samples.parquet", "candidates.parquet", "audit.json")
PROTOCOLS = ("strict", "paper")
CUTOFFS = ("none", "per_user")
SPLITS = ("leave_one_out", "time")
#: What the audit counts of valid and test targets and what their users did before and after.
HISTORY_MARKS = (
    "clicked_before",
    "clicked_before_but_untrained",
    "training_targets_of_other_task",
    "targets_with_later_training",
    "later_training_events",
    "only_candidate_in_history",
    "only_candidate_not_in_history",
)
many_logs = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def build(folder, log, history_protocol="strict", seed=1, items=9, **own):
    """Build samples of a log; None when it gives none."""
    write_canonical(folder / "canonical", log, items=items)
    try:
        build_samples(
            folder / "canonical", folder / "samples", SampleSettings(history_protocol=history_protocol, **own), seed
        )
    except UserError as error:
        if "such a log gives no samples" not in str(error):
            raise
        return None
    return tables(folder / "samples")


def tables(folder):
    return {
        "samples": schema.SAMPLES.read(folder / "samples.parquet"),
        "candidates": schema.CANDIDATES.read(folder / "candidates.parquet"),
        "training_events": schema.EVENTS.read(folder / "training_events.parquet"),
        "audit": json.loads((folder / "audit.json").read_text()),
        "counts": json.loads((folder / "stage.json").read_text())["counts"],
    }


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@many_logs
@given(logs(users=2, most=24, items=9), st.integers(1, 4), st.sampled_from(CUTOFFS))
def test_samples_equal_the_plain_loops(workplace, protocol, split, log, caps, cutoff):
    shares = [0.5, 0.25, 0.25]
    own = {"max_recommendations": caps, "max_searches": caps, "training_cutoff": cutoff}
    built = build(workplace, log, protocol, split=split, time_shares=shares, **own)
    samples, training = expected_samples(
        log, protocol, 3, caps, caps, shares=shares if split == "time" else None, cutoff=cutoff
    )
    if built is None:
        assert not samples
        return
    assert read_samples(built["samples"]) == samples
    assert built["training_events"]["event_id"].to_list() == training
    assert built["samples"]["sample_id"].to_list() == list(range(len(samples)))
    for row in built["samples"].iter_rows(named=True):
        target = log[row["event_id"]]
        assert (row["user_id"], row["time"], row["target_item"], row["query_id"]) == (
            target["user"], target["time"], target["item"], target["query"],
        )  # fmt: skip
    for (task, split), rows in built["samples"].group_by("task", "split"):
        assert built["counts"][f"{task}_{split}"] == len(rows)


@pytest.mark.parametrize("split", SPLITS)
@many_logs
@given(logs(users=3, most=24, items=9))
def test_strict_is_free_of_every_leak(workplace, split, log):
    built = build(workplace, log, split=split)
    if built is None:
        return
    assert built["audit"]["split"] == split
    for task in schema.TASKS:
        audited = built["audit"][task]
        for split in schema.SPLITS:
            assert audited[split]["leaks"] == 0
            # What stands in an input all the same, an earlier click of the user put there.
            assert audited[split]["targets_in_own_input"] == audited[split]["repeats"]
        assert audited["train"]["inputs_with_held_out"] == audited["train"]["targets_held_out"] == 0
        for split in ("valid", "test"):
            assert audited[split]["training_targets_of_other_task"] == 0
            assert audited[split]["candidates_equal_target"] == audited[split]["candidate_lists_missing"] == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@many_logs
@given(logs(users=3, most=24, items=9), st.sampled_from(CUTOFFS), st.sampled_from((3, 50)))
@example(REPEATED, "none", 50)
def test_the_audit_counts_what_plain_loops_count(workplace, protocol, log, cutoff, cap):
    own = {"training_cutoff": cutoff, "max_recommendations": cap, "max_searches": cap, "negatives": 4}
    built = build(workplace, log, protocol, **own)
    if built is None:
        return
    assert built["audit"]["training_cutoff"] == cutoff
    samples, training = expected_samples(log, protocol, 3, cap, cap, cutoff=cutoff)
    lists = dict(zip(built["candidates"]["sample_id"], built["candidates"]["negatives"].to_list(), strict=True))
    negatives = {key: lists.get(number) for number, key in enumerate(read_samples(built["samples"]))}
    pairs = {key: (log[key[2]]["user"], log[key[2]]["item"]) for key in samples}
    evaluated = [log[i] for (_, split, i) in samples if split != "train"]
    innocent = Counter((0 if e["query"] is None else 2, e["user"], e["item"]) for e in log if not tells(e, evaluated))
    met = {(log[i]["user"], log[i]["item"]) for i in training}
    for task, other in (("rec", "search"), ("search", "rec")):
        trained = [i for (of, split, i) in samples if (of, split) == (other, "train")]
        for split in schema.SPLITS:
            own = {key: pairs[key] for key in samples if key[:2] == (task, split)}
            inputs = {key: [value for behavior, value in samples[key] if behavior != 1] for key in own}
            found = built["audit"][task][split]
            assert found["samples"] == len(own)
            assert found["targets_in_own_input"] == sum(pair[1] in inputs[key] for key, pair in own.items())
            unseen = sum(pair[1] not in {item for _, item in met} for pair in own.values())
            assert found["targets_of_unseen_items"] == unseen
            assert found["targets_of_unseen_users"] == sum(pair[0] not in {u for u, _ in met} for pair in own.values())
            if split == "train":
                assert found["targets_held_out"] == sum(tells(log[i], evaluated) for _, _, i in own)
                entries = {
                    key: Counter((kind, pair[0], value) for kind, value in samples[key] if kind != 1)
                    for key, pair in own.items()
                }
                held = {(e["user"], e["item"]) for e in evaluated}
                told = [
                    any(count > innocent[entry] for entry, count in counts.items() if entry[1:] in held)
                    for counts in entries.values()
                ]
                assert found["inputs_with_held_out"] == sum(told)
                continue
            expected = Counter(dict.fromkeys(HISTORY_MARKS, 0))
            for key, pair in own.items():
                time = log[key[2]]["time"]
                before = any((e["user"], e["item"]) == pair and e["time"] < time for e in log)
                later = sum(log[i]["user"] == pair[0] and log[i]["time"] > time for i in training)
                known = [item in inputs[key] for item in negatives[key]]
                expected["clicked_before"] += before
                expected["clicked_before_but_untrained"] += before and pair not in met
                expected["training_targets_of_other_task"] += any(
                    (log[i]["user"], log[i]["item"]) == pair and log[i]["time"] >= time for i in trained
                )
                expected["targets_with_later_training"] += later > 0
                expected["later_training_events"] += later
                expected["only_candidate_in_history"] += bool(known) and pair[1] in inputs[key] and not any(known)
                expected["only_candidate_not_in_history"] += bool(known) and pair[1] not in inputs[key] and all(known)
            assert {mark: found[mark] for mark in HISTORY_MARKS} == expected
            share = found["targets_with_later_training"] / max(len(own), 1)
            assert found["later_training_share"] == pytest.approx(share, abs=1e-6)
            if cutoff == "per_user":
                assert found["later_training_events"] == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@many_logs
@given(logs(users=4, most=24, items=9, times=9))
def test_a_split_by_time_trains_on_nothing_from_the_first_valid_target_on(workplace, protocol, log):
    built = build(workplace, log, protocol, split="time", time_shares=[0.5, 0.25, 0.25])
    if built is None:
        return
    times = {
        split: built["samples"].filter(pl.col("split") == split)["time"].to_list()
        for split in ("train", "valid", "test")
    }
    begins = min(times["valid"])
    assert all(time < begins for time in [*times["train"], *built["training_events"]["time"]])
    assert max(times["valid"]) < min(times["test"])
    early = {(e["user"], 0 if e["query"] is None else 2, e["item"]) for e in log if e["time"] < begins}
    early |= {(e["user"], 1, e["query"]) for e in log if e["query"] is not None and e["time"] < begins}
    for row in built["samples"].filter(pl.col("split") == "train").iter_rows(named=True):
        entries = zip(row["history_behavior"], row["history_object"], strict=True)
        assert {(row["user_id"], *entry) for entry in entries} <= early
    assert built["audit"]["time_split"] == {
        "valid_from": begins,
        "test_from": min(times["test"]),
        "late_training_events": 0,
        "late_training_targets": 0,
        "late_valid_targets": 0,
    }


@many_logs
@given(logs(users=3, most=20, items=30), st.integers(1, 25))
def test_candidates_are_distinct_unseen_and_without_the_target(workplace, log, negatives):
    built = build(workplace, log, items=30, negatives=negatives)
    if built is None:
        return
    evaluated = built["samples"].filter(pl.col("split") != "train")
    assert built["candidates"]["sample_id"].to_list() == evaluated["sample_id"].to_list()
    clicked = {e["item"] for e in log if e["query"] is None}
    for row in evaluated.join(built["candidates"], on="sample_id").iter_rows(named=True):
        seen = {e["item"] for e in log if e["user"] == row["user_id"]}
        found = row["negatives"]
        assert len(set(found)) == len(found)
        assert row["target_item"] not in found
        if row["task"] == "rec":
            assert len(found) == min(negatives, len(clicked - seen))
            assert set(found) <= clicked - seen
        else:
            # The text of item i matches query i % 3 for two of three queries; all hits of a query tie.
            hits = [i for i in range(30) if i % 3 == row["query_id"] < 2 and i != row["target_item"]][:negatives]
            further = clicked - seen - set(hits)
            assert found[: len(hits)] == hits
            assert set(found[len(hits) :]) <= further
            assert len(found) == min(negatives, len(hits) + len(further))


def test_worked_log(workplace):
    built = build(workplace / "worked", WORKED, "paper")
    audit = built["audit"]
    assert audit["history_protocol"] == "paper"
    nothing = {
        "leaks": 0, "repeats": 0, "targets_in_own_input": 0, "leak_share": 0.0, "targets_of_unseen_users": 0,
        "targets_of_unseen_items": 0,
    }  # fmt: skip
    evaluation = {
        **nothing, "samples": 1, "repeats": 1, "targets_in_own_input": 1, **dict.fromkeys(HISTORY_MARKS, 0),
        "clicked_before": 1, "only_candidate_in_history": 1, "later_training_share": 0.0, "candidates_equal_target": 0,
        "candidate_lists_short": 1, "candidate_lists_missing": 0,
    }  # fmt: skip
    # All held-out targets were clicked before, and training may know. Of the candidates, the user has met the target
    # alone; but query 0 finds A and D as well.
    training = {**nothing, "samples": 4, "inputs_with_held_out": 0, "targets_held_out": 0}
    found_by_query = {**evaluation, "only_candidate_in_history": 0}
    assert audit["rec"] == {"train": training, "valid": evaluation, "test": evaluation}
    assert audit["search"] == {
        "train": {**training, "leaks": 1, "targets_in_own_input": 1, "leak_share": 0.25},
        "valid": evaluation,
        "test": found_by_query,
    }
    strict = build(workplace / "worked", WORKED)["audit"]
    assert strict["rec"] == audit["rec"]
    assert strict["search"] == {"train": training, "valid": evaluation, "test": found_by_query}
    # The user has clicked everything but 6, 7 and 8.
    lists = tables(workplace / "worked" / "samples")["candidates"]["negatives"].to_list()
    assert [sorted(row) for row in lists[:2]] == [[6, 7, 8]] * 2


def test_the_audit_of_a_user_who_comes_back(workplace):
    def counts(marks, **own):
        audit = build(workplace / "repeated", REPEATED, **own)["audit"]
        return {(task, split): tuple(audit[task][split][mark] for mark in marks) for task, split in EVALUATED}

    # A and C were clicked before they were held out, and training has those clicks.
    clicked = {
        ("rec", "valid"): (1, 0),
        ("rec", "test"): (0, 0),
        ("search", "valid"): (1, 0),
        ("search", "test"): (0, 0),
    }
    assert counts(("clicked_before", "clicked_before_but_untrained")) == clicked
    # Search is over at time 5; the strict protocol keeps only E of what follows, the authors' order C as well.
    marks = ("targets_with_later_training", "later_training_events")
    nothing = dict.fromkeys(EVALUATED, (0, 0))
    assert counts(marks) == {**nothing, ("search", "valid"): (1, 1), ("search", "test"): (1, 1)}
    assert counts(marks, history_protocol="paper") == {
        **nothing, ("search", "valid"): (1, 2), ("search", "test"): (1, 2),
    }  # fmt: skip
    for protocol in PROTOCOLS:
        assert counts(marks, history_protocol=protocol, training_cutoff="per_user") == nothing


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_candidates(workplace):
    log = WORKED + [event(user, 1, item) for user in range(2, 20) for item in range(9, 40)]
    contents = []
    for seed in (4, 4, 5):
        build(workplace / "seeds", log, seed=seed, items=40, negatives=10)
        contents.append([(workplace / "seeds" / "samples" / name).read_bytes() for name in OUTPUTS])
    assert contents[0] == contents[1]
    assert contents[0][:2] == contents[2][:2]
    assert contents[0][2] != contents[2][2]


@pytest.mark.slow
@many_logs
@given(logs(users=3, most=16, items=30), st.randoms(use_true_random=False))
def test_row_order_of_the_files_does_not_matter(workplace, log, random):
    if build(workplace / "order", log, items=30, negatives=8) is None:
        return
    before = [(workplace / "order" / "samples" / name).read_bytes() for name in OUTPUTS]
    canonical = workplace / "order" / "canonical"
    for table, file in ((schema.ITEMS, "items"), (schema.QUERIES, "queries")):
        path = canonical / f"{file}.parquet"
        frame = table.read(path)
        table.write(frame[random.sample(range(len(frame)), len(frame))], path)
    build_samples(canonical, workplace / "order" / "samples", SampleSettings(negatives=8), 1)
    assert [(workplace / "order" / "samples" / name).read_bytes() for name in OUTPUTS] == before


@pytest.mark.slow
@many_logs
@given(logs(users=3, most=16, items=30, single_clicks=True), st.randoms(use_true_random=False))
def test_candidates_of_a_target_do_not_depend_on_the_order_inside_one_time(workplace, log, random):
    shuffled = sorted(log, key=lambda e: (e["user"], e["time"], random.random()))
    lists = []
    for events in (log, shuffled):
        built = build(workplace / "ties", events, items=30, negatives=8)
        if built is None:
            return
        rows = built["samples"].join(built["candidates"], on="sample_id")
        identity = ["task", "user_id", "time", "target_item", "query_id"]
        lists.append({tuple(row[name] for name in identity): row["negatives"] for row in rows.iter_rows(named=True)})
    for key in lists[0].keys() & lists[1].keys():
        assert lists[0][key] == lists[1][key]


def build_in_parts(folder, parts, seed=1, **own):
    """The stage's outputs, made in so many parts from the same canonical folder."""
    canonical, settings = folder / "canonical", SampleSettings(**own)
    survey_samples(canonical, folder / "survey", settings, seed)
    folders = [folder / "parts" / f"{part}-of-{parts}" for part in range(parts)]
    for part, own_folder in enumerate(folders):
        build_part(canonical, folder / "survey", own_folder, settings, seed, part, parts)
        assert {path.name for path in own_folder.iterdir()} == {*part_files(), "stage.json"}
    gather_samples(canonical, folder / "survey", folders, folder / "gathered", settings, seed)
    return [(folder / "gathered" / name).read_bytes() for name in OUTPUTS]


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logs(users=5, most=18, items=30),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(CUTOFFS),
)
def test_parts_and_blocks_of_users_do_not_show(workplace, split, log, parts, block, protocol, cutoff):
    own = {"history_protocol": protocol, "split": split, "time_shares": [0.5, 0.25, 0.25], "negatives": 8}
    own["training_cutoff"] = cutoff
    folder = workplace / "parts"
    with pytest.MonkeyPatch.context() as patch:
        # Rows of a file stand in groups of so many, however they were made.
        patch.setattr(module, "_SLICE", 5)
        whole = build(folder, log, items=30, **own)
        patch.setattr(event_blocks, "_BLOCK", block)
        if whole is None:
            with pytest.raises(UserError, match="such a log gives no samples"):
                build_in_parts(folder, parts, **own)
            return
        expected = [(folder / "samples" / name).read_bytes() for name in OUTPUTS]
        assert build_in_parts(folder, parts, **own) == expected
        assert json.loads((folder / "gathered" / "stage.json").read_text())["counts"] == whole["counts"]
        build(folder, log, items=30, **own)
        assert [(folder / "samples" / name).read_bytes() for name in OUTPUTS] == expected


def test_expected_rows_that_differ_are_reported(workplace):
    build(workplace / "rows", WORKED, expected_rows={"rec_test": 1, "search_train": 8, "rec_tests": 3})
    warnings = json.loads((workplace / "rows" / "samples" / "stage.json").read_text())["warnings"]
    assert warnings == ["step search_train: 4, expected 8 rows", "step rec_tests: no such step, expected 3 rows"]


def test_every_step_of_the_papers_preparation_is_counted_and_expected(workplace):
    amazon = read_experiments(ROOT / "config.yaml").datasets["amazon"]
    assert set(amazon.expected_rows) == set(STEPS)
    counts = build(workplace / "steps", WORKED)["counts"]
    assert set(amazon.samples.expected_rows) <= set(counts)
    # The authors' counts on the full files.
    assert set(amazon.expected_rows.values()) | set(amazon.samples.expected_rows.values()) == {
        1_689_188, 192_403, 63_001, 498_196, 62_882, 1_684_135, 989, 1_344_310, 5_541, 1_280_465, 1_275_989, 62_874, 982,
        1_288_753, 168_258, 1_266_903, 930_387, 1_083_586, 191_566, 1_081_934, 698_802,
    }  # fmt: skip


def test_a_log_without_samples_is_one_clear_error_and_leaves_nothing(tmp_path):
    write_canonical(tmp_path / "canonical", [event(0, t, t) for t in range(6)])
    with pytest.raises(UserError, match=r"events\.parquet: no user has 3 clicks of one task with both"):
        build_samples(tmp_path / "canonical", tmp_path / "samples", SampleSettings(), 1)
    assert list((tmp_path / "samples").iterdir()) == []


def test_a_log_whose_targets_have_two_times_cannot_be_split_by_time(tmp_path):
    log = [event(0, 1, A), event(0, 2, B, query=0, session=0), *(event(0, 3 + t // 4, t) for t in range(8))]
    write_canonical(tmp_path / "canonical", log)
    with pytest.raises(
        UserError, match=r"events\.parquet: the clicks with both .* have fewer than three different times"
    ):
        build_samples(tmp_path / "canonical", tmp_path / "samples", SampleSettings(split="time"), 1)
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.with_columns(event_id=pl.col("event_id") + 1), "event_id is not the row number"),
        (lambda e: e.reverse(), "event_id is not the row number"),
        (lambda e: e.with_columns(time=-pl.col("time")), "not in the order of user and time"),
        (lambda e: e.with_columns(user_id=-pl.col("user_id")), "not in the order of user and time"),
        (lambda e: e.with_columns(user_id=pl.col("user_id") - 5), "a user_id is negative"),
        (lambda e: e.with_columns(item_id=pl.col("item_id") + 1), "an item_id has no row"),
        (lambda e: e.with_columns(query_id=pl.col("query_id") + 1), "a query_id has no row"),
        (lambda e: e.with_columns(query_id=pl.lit(None)), "lacks its query_id or session_id"),
        (lambda e: e.with_columns(session_id=pl.lit(None)), "lacks its query_id or session_id"),
        (lambda e: e.with_columns(session_id=pl.lit(0)), "a session has more than one user or query"),
    ],
)
def test_inconsistent_events_are_one_clear_error(tmp_path, change, message):
    write_canonical(tmp_path, WORKED)
    schema.EVENTS.write(change(events_frame(WORKED)), tmp_path / "events.parquet")
    with pytest.raises(UserError, match=message):
        build_samples(tmp_path, tmp_path / "samples", SampleSettings(), 1)


def test_a_missing_table_is_one_clear_error(tmp_path):
    write_canonical(tmp_path, WORKED)
    (tmp_path / "queries.parquet").unlink()
    with pytest.raises(UserError, match=r"queries\.parquet: no such file"):
        build_samples(tmp_path, tmp_path / "samples", SampleSettings(), 1)
