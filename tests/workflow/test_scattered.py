"""Results made by several jobs are, byte for byte, those of one."""

import pytest

SAMPLES = ["samples/samples.parquet", "samples/candidates.parquet", "samples/training_events.parquet"]
#: One family of backbones in either ranking.
RANKS = ["ranks/gensar_demo_t5.parquet", "ranks/gensar_demo_t5.scores.parquet", "full_ranks/gensar_demo.parquet"]
ANSWERS = "recommendations/gensar_demo.parquet"
CASES = {
    "samples": (
        ("datasets", ["demo"]),
        ["samples_survey", "samples_part", "samples_gather"],
        [*SAMPLES, "samples/audit.json"],
    ),
    "rankings": (
        ("generators", ["gensar_demo", "gensar_demo_t5"]),
        [
            f"{rule}_{step}"
            for rule in ("rank_generator", "full_rank_generator", "recommendations")
            for step in ("part", "gather")
        ],
        [*RANKS, ANSWERS],
    ),
}


@pytest.mark.parametrize(("entries", "rules", "files"), CASES.values(), ids=CASES)
def test_jobs_share_the_work_and_give_the_tables_of_one_job(tiny_demo, tmp_path, entries, rules, files):
    workflow = tiny_demo.copied(tmp_path)
    section, names = entries
    with workflow.configuration() as values:
        for name in names:
            values[section][name]["scatter"] = 3
    targets = [f"results/demo/{file}" for file in files]
    assert workflow.planned(*targets) == set(rules)
    output = workflow.run(*targets).stdout
    for rule in rules:
        if rule.endswith("_part"):
            assert output.count(f"rule {rule}:") == 3
    for file in targets:
        assert (workflow.folder / file).read_bytes() == (tiny_demo.folder / file).read_bytes()
    # Parts are temporary.
    parts = workflow.folder.glob("results/demo/*_parts/**/*")
    assert not [path for path in parts if path.is_file() and "-of-" in str(path.relative_to(workflow.folder))]
