"""Rankings made by several jobs are, byte for byte, those of one."""

import shutil

import yaml

from .conftest import ROOT

TINY = str(ROOT / "tests" / "config_tiny.yaml")
TARGETS = ("results/demo/ranks/gensar_demo.parquet", "results/demo/full_ranks/gensar_demo.parquet")
FILES = (*TARGETS, "results/demo/ranks/gensar_demo.scores.parquet")
RULES = {f"{rule}_{step}" for rule in ("rank_generator", "full_rank_generator") for step in ("part", "gather")}


def test_jobs_share_the_lists_and_give_the_tables_of_one_job(tiny_demo, workflow):
    for name in ("results", ".snakemake"):
        shutil.copytree(tiny_demo.folder / name, workflow.folder / name)
    assert workflow.planned("--configfile", TINY, "--", *TARGETS) == {"full_rank_generator"}
    workflow.run("--configfile", TINY, "--", *TARGETS)
    whole = [(workflow.folder / name).read_bytes() for name in FILES]

    config = workflow.folder / "config.yaml"
    values = yaml.safe_load(config.read_text())
    values["generators"]["gensar_demo"]["scatter"] = 3
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    assert workflow.planned("--configfile", TINY, "--", *TARGETS) == RULES
    done = workflow.run("--configfile", TINY, "--", *TARGETS)
    told = done.stdout + done.stderr
    assert told.count("rule rank_generator_part:") == told.count("rule full_rank_generator_part:") == 3
    assert [(workflow.folder / name).read_bytes() for name in FILES] == whole
    # Parts are temporary.
    assert not [path for path in workflow.folder.glob("results/demo/*ranks_parts/**/*") if path.is_file()]
