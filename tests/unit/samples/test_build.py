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
from gensar_core.samples.parts import part_files
from gensar_core.samples.survey import survey_samples
from gensar_core.sources.amazon.canonical import STEPS
from tests.support.samples_logs import (
    PROTOCOLS,
    REPEATED,
    WORKED,
    A,
    B,
    check_negatives,
    event,
    events_frame,
    expected_samples,
    logs,
    read_samples,
    tells,
    write_canonical,
)
from tests.support.samples_logs import build as build_folder

ROOT = Path(__file__).parents[3]
OUTPUTS = ("training_events.parquet", "samples.parquet", "candidates.parquet", "cold_items.parquet", "audit.json")
CUTOFFS = ("none", "per_user")
SPLITS = ("leave_one_out", "time")
SHARES = ([0.5, 0.25, 0.25], [0.8, 0.1, 0.1])
#: Marks that the audit derives from what the user of a valid or test target did before and after it.
HISTORY_MARKS = (
    "clicked_before",
    "clicked_before_but_untrained",
    "training_targets_of_other_task",
    "targets_with_later_training",
    "later_training_events",
    "targets_with_future_of_others",
    "only_candidate_in_history",
    "only_candidate_not_in_history",
)
many_logs = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def build(folder, log, seed=1, items=9, **overrides):
    """Build samples of a log; None when it gives none."""
    if not build_folder(folder, log, items=items, seed=seed, **overrides):
        return None
    return {
        "samples": schema.SAMPLES.read(folder / "samples/samples.parquet"),
        "candidates": schema.CANDIDATES.read(folder / "samples/candidates.parquet"),
        "training_events": schema.EVENTS.read(folder / "samples/training_events.parquet"),
        "cold": schema.COLD_ITEMS.read(folder / "samples/cold_items.parquet")["item_id"].to_list(),
        "audit": json.loads((folder / "samples/audit.json").read_text()),
        "counts": json.loads((folder / "samples/stage.json").read_text())["counts"],
    }


def contents(folder):
    return [(folder / name).read_bytes() for name in OUTPUTS]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@many_logs
@given(
    logs(users=2, most=26, items=9, times=8),
    st.integers(1, 4),
    st.sampled_from(CUTOFFS),
    st.sampled_from(SHARES),
    st.sampled_from([0.0, 0.3]),
)
@example(REPEATED, 3, "none", SHARES[0], 0.0)
@example(REPEATED, 3, "per_user", SHARES[1], 0.0)
def test_samples_equal_the_plain_loops(workplace, protocol, split, log, cap, cutoff, shares, cold_share):
    caps = {"max_recommendations": cap, "max_searches": cap, "cold_share": cold_share}
    built = build(
        workplace, log, history_protocol=protocol, split=split, time_shares=shares, training_cutoff=cutoff, **caps
    )
    samples, training = expected_samples(
        log, protocol, 3, cap, cap, shares=shares if split == "time" else None, cutoff=cutoff,
        cold=built["cold"] if built else (),
    )  # fmt: skip
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
@given(logs(users=3, most=24, items=9, times=8), st.sampled_from(PROTOCOLS))
def test_without_queries_a_click_needs_only_a_click_before_it(workplace, split, log, protocol):
    clicks = [e for e in log if e["query"] is None]
    shares = SHARES[0] if split == "time" else None
    options = {"split": split, "time_shares": SHARES[0], "history_protocol": protocol}
    built = build(workplace, clicks, queries=0, max_recommendations=5, **options)
    samples, training = expected_samples(clicks, protocol, 3, 5, 5, shares=shares, searching=False)
    if built is None:
        assert not samples
        return
    assert read_samples(built["samples"]) == samples
    assert built["training_events"]["event_id"].to_list() == training
    assert set(built["samples"]["task"]) == {"rec"}
    evaluated = built["samples"].filter(pl.col("split") != "train")["sample_id"]
    assert built["candidates"]["sample_id"].to_list() == evaluated.to_list()


@pytest.mark.parametrize("by_time", [False, True])
@many_logs
@given(logs(users=3, most=24, items=9, times=8))
def test_strict_samples_have_no_leak(workplace, by_time, log):
    built = build(workplace, log, split=SPLITS[by_time], time_shares=SHARES[0])
    if built is None:
        return
    assert built["audit"]["split"] == SPLITS[by_time]
    if by_time:
        begins = dict(built["samples"].group_by("split").agg(pl.col("time").min()).iter_rows())
        late = dict.fromkeys(("late_training_events", "late_training_targets", "late_valid_targets"), 0)
        expected = {"valid_from": begins["valid"], "test_from": begins["test"], **late}
        assert built["audit"]["time_split"] == expected
    for task in schema.TASKS:
        audited = built["audit"][task]
        for split in schema.SPLITS:
            assert audited[split]["leaks"] == 0
            # An earlier click of the user put the target's item into the input.
            assert audited[split]["targets_in_own_input"] == audited[split]["repeats"]
        assert audited["train"]["inputs_with_held_out"] == audited["train"]["targets_held_out"] == 0
        for split in ("valid", "test"):
            assert audited[split]["training_targets_of_other_task"] == 0
            assert audited[split]["candidates_equal_target"] == audited[split]["candidate_lists_missing"] == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
@many_logs
@given(logs(users=3, most=24, items=9), st.sampled_from(CUTOFFS), st.sampled_from((3, 50)))
@example(REPEATED, "none", 50)
@example(REPEATED, "per_user", 50)
def test_audit_counts_equal_the_plain_loops(workplace, protocol, log, cutoff, cap):
    caps = {"max_recommendations": cap, "max_searches": cap}
    built = build(workplace, log, history_protocol=protocol, training_cutoff=cutoff, negatives=4, **caps)
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
            targets = {key: pairs[key] for key in samples if key[:2] == (task, split)}
            inputs = {key: [value for behavior, value in samples[key] if behavior != 1] for key in targets}
            counts = built["audit"][task][split]
            assert counts["samples"] == len(targets)
            assert counts["targets_in_own_input"] == sum(item in inputs[key] for key, (_, item) in targets.items())
            assert counts["targets_of_unseen_items"] == sum(
                i not in {item for _, item in met} for _, i in targets.values()
            )
            assert counts["targets_of_unseen_users"] == sum(
                u not in {user for user, _ in met} for u, _ in targets.values()
            )
            if split == "train":
                assert counts["targets_held_out"] == sum(tells(log[i], evaluated) for _, _, i in targets)
                held = {(e["user"], e["item"]) for e in evaluated}
                revealing = 0
                for key, (user, _) in targets.items():
                    entries = Counter((kind, user, value) for kind, value in samples[key] if kind != 1)
                    revealing += any(n > innocent[entry] for entry, n in entries.items() if entry[1:] in held)
                assert counts["inputs_with_held_out"] == revealing
                continue
            expected = Counter(dict.fromkeys(HISTORY_MARKS, 0))
            for key, pair in targets.items():
                time = log[key[2]]["time"]
                before = any((e["user"], e["item"]) == pair and e["time"] < time for e in log)
                later = sum(log[i]["user"] == pair[0] and log[i]["time"] > time for i in training)
                shown = [item in inputs[key] for item in negatives[key]]
                expected["clicked_before"] += before
                expected["clicked_before_but_untrained"] += before and pair not in met
                expected["training_targets_of_other_task"] += any(
                    (log[i]["user"], log[i]["item"]) == pair and log[i]["time"] >= time for i in trained
                )
                expected["targets_with_later_training"] += later > 0
                expected["later_training_events"] += later
                expected["targets_with_future_of_others"] += any(
                    log[i]["user"] != pair[0] and log[i]["time"] > time for i in training
                )
                expected["only_candidate_in_history"] += bool(shown) and pair[1] in inputs[key] and not any(shown)
                expected["only_candidate_not_in_history"] += bool(shown) and pair[1] not in inputs[key] and all(shown)
            assert {mark: counts[mark] for mark in HISTORY_MARKS} == expected
            share = counts["targets_with_later_training"] / max(len(targets), 1)
            assert counts["later_training_share"] == pytest.approx(share, abs=1e-6)
            share = counts["targets_with_future_of_others"] / max(len(targets), 1)
            assert counts["future_of_others_share"] == pytest.approx(share, abs=1e-6)
            if cutoff == "per_user":
                assert counts["later_training_events"] == 0


@many_logs
@given(logs(users=3, most=20, items=30), st.integers(1, 25))
def test_candidates_are_distinct_unseen_and_without_the_target(workplace, log, negatives):
    built = build(workplace, log, items=30, negatives=negatives)
    if built is None:
        return
    evaluated = built["samples"].filter(pl.col("split") != "train")
    assert built["candidates"]["sample_id"].to_list() == evaluated["sample_id"].to_list()
    check_negatives(evaluated.join(built["candidates"], on="sample_id"), log, negatives)


def test_worked_log_leaks_under_the_papers_protocol_alone(workplace):
    nothing = dict.fromkeys(("leaks", "repeats", "targets_in_own_input", "targets_of_unseen_users"), 0)
    nothing |= {"leak_share": 0.0, "targets_of_unseen_items": 0}
    training = {**nothing, "samples": 4, "inputs_with_held_out": 0, "targets_held_out": 0}
    # All held-out targets were clicked before, by training events. Of the candidates, the user has met the target
    # alone; but query 0 finds A and D as well.
    evaluation = {
        **nothing, "samples": 1, "repeats": 1, "targets_in_own_input": 1, **dict.fromkeys(HISTORY_MARKS, 0),
        "clicked_before": 1, "only_candidate_in_history": 1, "later_training_share": 0.0, "future_of_others_share": 0.0,
        "candidates_equal_target": 0,
        "candidate_lists_short": 1, "candidate_lists_missing": 0,
    }  # fmt: skip
    leaking = {**training, "leaks": 1, "targets_in_own_input": 1, "leak_share": 0.25}
    for protocol, search_training in (("paper", leaking), ("strict", training)):
        built = build(workplace / "worked", WORKED, history_protocol=protocol)
        assert built["audit"]["history_protocol"] == protocol
        assert built["audit"]["rec"] == {"train": training, "valid": evaluation, "test": evaluation}
        test = {**evaluation, "only_candidate_in_history": 0}
        assert built["audit"]["search"] == {"train": search_training, "valid": evaluation, "test": test}
    # The user has clicked everything but 6, 7 and 8.
    assert [sorted(row) for row in built["candidates"]["negatives"].to_list()[:2]] == [[6, 7, 8]] * 2


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_candidates(workplace):
    log = WORKED + [event(user, 1, item) for user in range(2, 20) for item in range(9, 40)]
    files = []
    for seed in (4, 4, 5):
        build(workplace / "seeds", log, seed=seed, items=40, negatives=10)
        files.append(contents(workplace / "seeds/samples"))
    assert files[0] == files[1]
    assert files[0][:2] == files[2][:2]
    assert files[0][2] != files[2][2]


@pytest.mark.slow
@many_logs
@given(logs(users=3, most=16, items=30), st.randoms(use_true_random=False))
def test_row_order_of_the_files_does_not_matter(workplace, log, random):
    if build(workplace / "order", log, items=30, negatives=8) is None:
        return
    before = contents(workplace / "order/samples")
    canonical = workplace / "order/canonical"
    for table in (schema.ITEMS, schema.QUERIES):
        path = canonical / f"{table.name}.parquet"
        frame = table.read(path)
        table.write(frame[random.sample(range(len(frame)), len(frame))], path)
    build_samples(canonical, workplace / "order/samples", SampleSettings(negatives=8), 1)
    assert contents(workplace / "order/samples") == before


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


def build_in_parts(folder, parts, seed=1, **overrides):
    """Return the stage's files, made in ``parts`` parts from the same canonical folder."""
    canonical, settings = folder / "canonical", SampleSettings(**overrides)
    survey_samples(canonical, folder / "survey", settings, seed)
    folders = [folder / "parts" / f"{part}-of-{parts}" for part in range(parts)]
    for part, part_folder in enumerate(folders):
        build_part(canonical, folder / "survey", part_folder, settings, seed, part, parts)
        assert {path.name for path in part_folder.iterdir()} == {*part_files(), "stage.json"}
    gather_samples(canonical, folder / "survey", folders, folder / "gathered", settings, seed)
    return contents(folder / "gathered")


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    logs(users=5, most=18, items=30),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from(PROTOCOLS),
    st.sampled_from(CUTOFFS),
)
def test_parts_and_blocks_of_users_do_not_change_the_files(workplace, split, log, parts, block, protocol, cutoff):
    overrides = {"history_protocol": protocol, "split": split, "time_shares": SHARES[0], "training_cutoff": cutoff}
    overrides |= {"negatives": 8, "cold_share": 0.2}
    folder = workplace / "parts"
    with pytest.MonkeyPatch.context() as patch:
        # The size of a file's row groups.
        patch.setattr(module, "_SLICE", 5)
        whole = build(folder, log, items=30, **overrides)
        patch.setattr(event_blocks, "_BLOCK", block)
        if whole is None:
            with pytest.raises(UserError, match="such a log gives no samples"):
                build_in_parts(folder, parts, **overrides)
            return
        expected = contents(folder / "samples")
        assert build_in_parts(folder, parts, **overrides) == expected
        assert json.loads((folder / "gathered/stage.json").read_text())["counts"] == whole["counts"]
        build(folder, log, items=30, **overrides)
        assert contents(folder / "samples") == expected


def test_a_damaged_file_of_a_part_is_one_clear_error(workplace):
    folder = workplace / "damaged"
    build(folder, WORKED, items=9)
    build_in_parts(folder, 2)
    file = folder / "parts/1-of-2" / part_files()[0]
    file.write_bytes(file.read_bytes()[:-9])
    settings, parts = SampleSettings(), [folder / f"parts/{part}-of-2" for part in (0, 1)]
    with pytest.raises(UserError, match=rf"{file}: has .* bytes, and was written with .*; delete .* and run again"):
        gather_samples(folder / "canonical", folder / "survey", parts, folder / "again", settings, 1)
    assert list((folder / "again").glob("*")) == []


def test_leave_one_out_warns_of_training_on_the_future_of_others_and_a_split_by_time_has_none(workplace):
    # User 1 does what user 0 does, 100 later, so all of its training follows user 0's targets, and none its own.
    log = [
        event(user, 100 * user + time, time % 9, query, None if query is None else 10 * user + time)
        for user in (0, 1)
        for time in range(1, 9)
        for query in (None, 0)
    ]
    folder = workplace / "future"
    shares = {}
    for split in SPLITS:
        audit = build(folder, log, split=split, time_shares=SHARES[0])["audit"]
        warnings = json.loads((folder / "samples" / "stage.json").read_text())["warnings"]
        shares[split] = [audit[task]["test"]["future_of_others_share"] for task in schema.TASKS], warnings
    told = (
        "leave-one-out trains on clicks of other users that are later than test targets (50% of rec, 50% of search); "
        "split: time trains on what was there before them"
    )
    assert shares == {"leave_one_out": ([0.5, 0.5], [told]), "time": ([0.0, 0.0], [])}


def test_expected_rows_that_differ_are_reported(workplace):
    build(workplace / "rows", WORKED, expected_rows={"rec_test": 1, "search_train": 8, "rec_tests": 3})
    warnings = json.loads((workplace / "rows" / "samples" / "stage.json").read_text())["warnings"]
    assert warnings == ["step search_train: 4, expected 8 rows", "step rec_tests: no such step, expected 3 rows"]


def test_every_step_of_the_papers_preparation_is_counted_and_expected(workplace):
    amazon = read_experiments(ROOT / "config.yaml").datasets["amazon"]
    assert set(amazon.expected_rows) == {step for step in STEPS if not step.startswith("core_")}
    counts = build(workplace / "steps", WORKED)["counts"]
    assert set(amazon.samples.expected_rows) <= set(counts)
    # The authors' counts on the full files.
    assert set(amazon.expected_rows.values()) | set(amazon.samples.expected_rows.values()) == {
        1_689_188, 192_403, 63_001, 498_196, 62_882, 1_684_135, 989, 1_344_310, 5_541, 1_280_465, 1_275_989, 62_874, 982,
        1_288_753, 168_258, 1_266_903, 930_387, 1_083_586, 191_566, 1_081_934, 698_802,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("log", "split", "message"),
    [
        ([event(0, t, t) for t in range(6)], "leave_one_out", "no user has 3 clicks of one task with both"),
        (
            [event(0, 1, A), event(0, 2, B, query=0, session=0), *(event(0, 3 + t // 4, t) for t in range(8))],
            "time",
            "the clicks with both .* have fewer than three different times",
        ),
    ],
)
def test_log_without_samples_is_one_clear_error_and_leaves_nothing(tmp_path, log, split, message):
    write_canonical(tmp_path / "canonical", log)
    with pytest.raises(UserError, match=rf"events\.parquet: {message}"):
        build_samples(tmp_path / "canonical", tmp_path / "samples", SampleSettings(split=split), 1)
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("events", {"event_id": pl.col("event_id") + 1}, "event_id is not the row number"),
        ("events", {"event_id": pl.col("event_id").reverse()}, "event_id is not the row number"),
        ("events", {"time": -pl.col("time")}, "not in the order of user and time"),
        ("events", {"user_id": -pl.col("user_id")}, "not in the order of user and time"),
        ("events", {"user_id": pl.col("user_id") - 5}, "a user_id is negative"),
        ("events", {"item_id": pl.col("item_id") + 1}, "an item_id has no row"),
        ("events", {"query_id": pl.col("query_id") + 1}, "a query_id has no row"),
        ("events", {"query_id": pl.lit(None)}, "lacks its query_id or session_id"),
        ("events", {"session_id": pl.lit(None)}, "lacks its query_id or session_id"),
        ("events", {"session_id": pl.lit(0)}, "a session has more than one user or query"),
        ("queries", None, r"queries\.parquet: no such file"),
    ],
)
def test_missing_or_inconsistent_table_is_one_clear_error(tmp_path, table, change, message):
    path = write_canonical(tmp_path, WORKED) / f"{table}.parquet"
    if change is None:
        path.unlink()
    else:
        schema.EVENTS.write(events_frame(WORKED).with_columns(**change), path)
    with pytest.raises(UserError, match=message):
        build_samples(tmp_path, tmp_path / "samples", SampleSettings(), 1)
