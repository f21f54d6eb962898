"""Results made by several jobs are, byte for byte, those of one."""

import pytest

from tests.support.sources_files import NAMES
from tests.support.two_languages import write_two_languages

SAMPLES = ["samples/samples.parquet", "samples/candidates.parquet", "samples/training_events.parquet"]
NEGATIVES = "training_negatives/training_negatives.parquet"
STEPS = ("part", "gather")
#: One family of backbones in either ranking.
RANKS = ["ranks/gensar_demo_t5.parquet", "ranks/gensar_demo_t5.scores.parquet", "full_ranks/gensar_demo.parquet"]
ANSWERS = "recommendations/gensar_demo.parquet"
CASES = {
    "data": (
        ("datasets", ["demo"]),
        [*(f"samples_{step}" for step in ("survey", *STEPS)), *(f"training_negatives_{step}" for step in STEPS)],
        [*SAMPLES, "samples/audit.json", NEGATIVES],
    ),
    "rankings": (
        ("generators", ["gensar_demo", "gensar_demo_t5"]),
        [f"{rule}_{step}" for rule in ("rank_generator", "full_rank_generator", "recommendations") for step in STEPS],
        [*RANKS, ANSWERS],
    ),
}


@pytest.mark.parametrize(("entries", "rules", "files"), CASES.values(), ids=CASES)
def test_jobs_share_the_work_and_give_the_tables_of_one_job(tiny_demo, tmp_path, entries, rules, files):
    workflow = tiny_demo.copied(tmp_path)
    section, names = entries
    targets = [f"results/demo/{file}" for file in files]
    # The demo draws no negatives for training.
    if lacking := [file for file in targets if not (workflow.folder / file).exists()]:
        workflow.run(*lacking)
    whole = {file: (workflow.folder / file).read_bytes() for file in targets}
    with workflow.configuration() as values:
        for name in names:
            values[section][name]["scatter"] = 3
    assert workflow.planned(*targets) == set(rules)
    output = workflow.run(*targets).stdout
    for rule in rules:
        if rule.endswith("_part"):
            assert output.count(f"rule {rule}:") == 3
    for file in targets:
        assert (workflow.folder / file).read_bytes() == whole[file]
    # Parts are temporary.
    parts = workflow.folder.glob("results/demo/*_parts/**/*")
    assert not [path for path in parts if path.is_file() and "-of-" in str(path.relative_to(workflow.folder))]


def test_an_event_log_is_made_canonical_by_several_jobs(workflow):
    items, events = write_two_languages(workflow.folder / "shop", users=60)
    columns = {"item_columns": {"item_id": "sku", "title": "name"}, "kinds": "by_query", "time_unit": "milliseconds"}
    columns["event_columns"] = {"user_id": "customer", "item_id": "sku", "time": "timestamp", "query": "search"}
    entry = {"source": "eventlog", "items": str(items), "events": str(events), **columns}
    with workflow.configuration() as values:
        values["datasets"] |= {"whole": entry, "parts": {**entry, "scatter": 3}}
    files = [f"results/{{}}/canonical/{name}.parquet" for name in NAMES]
    output = workflow.run(*(file.format(name) for file in files for name in ("whole", "parts"))).stdout
    assert [output.count(f"rule canonical_{step}:") for step in ("eventlog_survey", "part", "gather")] == [1, 3, 1]
    for file in files:
        whole, parts = ((workflow.folder / file.format(name)).read_bytes() for name in ("whole", "parts"))
        assert parts == whole
    # Temporary files are gone, and nothing asks for them.
    assert workflow.planned(*(file.format("parts") for file in files)) == set()
    assert not [path for path in workflow.folder.glob("results/parts/canonical_parts/**/*") if path.is_file()]
