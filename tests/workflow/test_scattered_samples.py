"""Samples made by several jobs are, byte for byte, those of one."""

from .conftest import ROOT

FILES = ("samples.parquet", "candidates.parquet", "training_events.parquet", "audit.json")
TARGET = "results/demo/samples/samples.parquet"
TINY = str(ROOT / "tests" / "config_tiny.yaml")


def test_jobs_share_the_users_and_give_the_tables_of_one_job(workflow):
    samples = workflow.folder / "results" / "demo" / "samples"
    workflow.run("--configfile", TINY, "--", TARGET)
    whole = [(samples / name).read_bytes() for name in FILES]

    config = workflow.folder / "config.yaml"
    config.write_text(config.read_text().replace("    users: 600\n", "    users: 600\n    scatter: 3\n"))
    assert workflow.planned("--configfile", TINY, "--", TARGET) == {"samples_survey", "samples_part", "samples_gather"}
    done = workflow.run("--configfile", TINY, "--", TARGET)
    assert (done.stdout + done.stderr).count("rule samples_part:") == 3
    assert [(samples / name).read_bytes() for name in FILES] == whole
    # Parts are temporary.

    assert not list(samples.parent.glob("samples_parts/*-of-*/*"))
