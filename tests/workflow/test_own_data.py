"""The walk-through of docs/own-data.md, command by command; its three commands on German and Japanese texts."""

import os
import re
import subprocess

import polars as pl
import pytest
import yaml

from gensar_core import schema
from tests.support.two_languages import write_two_languages

from .conftest import Workflow
from .planning import ROOT

PAGE = (ROOT / "docs" / "own-data.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "bash"]


@pytest.fixture
def walk_through(workflow):
    """A working folder in which the page's files are written and its data set is in config.yaml."""
    entry = next(text for language, text in BLOCKS if language == "yaml")
    subprocess.run(["bash", "-c", SHELL[1]], cwd=workflow.folder, check=True)
    with workflow.configuration() as values:
        values["datasets"] |= yaml.safe_load(entry)["datasets"]
    return workflow


def test_the_walk_through_builds_its_tables(walk_through):
    done = walk_through.run("results/shop/samples/samples.parquet", "results/tables/shop_statistics.csv")
    results = walk_through.folder / "results"
    events = schema.EVENTS.read(results / "shop/canonical/events.parquet")
    assert set(events["task"].unique()) == {"rec", "search"}
    assert (results / "figures/shop_distributions.svg").is_file()
    # The page shows the warning as the terminal does.
    (warning,) = re.findall(r"^warning: .*$", PAGE, re.MULTILINE)
    assert warning in done.stdout.splitlines()


def test_a_missing_table_is_named_with_its_key(walk_through):
    (walk_through.folder / "shop/events.csv").unlink()
    done = walk_through.run("results/shop/samples/samples.parquet", options=("--dry-run",), check=False)
    assert done.returncode == 1
    assert "config: datasets.shop.events: there is no shop/events.csv" in done.stdout


def test_two_files_become_a_table_by_three_commands(workflow):
    write_two_languages(workflow.folder / "shop", users=500)
    init, run, search = SHELL[0].splitlines()
    # Nothing is downloaded here, so the encoder is the one that is installed.
    done = gensar(workflow, *init.split()[1:], "--encoder", "all-MiniLM-L6-v2")
    # The page shows what is said of these files, but for blanks.
    shown, said = (
        [" ".join(line.split()) for line in text.splitlines()]
        for text in (next(text for language, text in BLOCKS if language == "text"), done)
    )
    assert [line for line in shown if line not in said] == [line for line in shown if line.startswith("encoder")]
    *_, overlay, _, table = run.split()
    Workflow(workflow.folder, workflow.folder / overlay).run(table)
    rows = {
        (row["task"], row["method"]): row["ndcg@5"]
        for row in pl.read_csv(workflow.folder / table).iter_rows(named=True)
    }
    assert rows.keys() == {
        *(("rec", name) for name in ("popularity", "itemknn", "sasrec", "gensar_shop")),
        *(("search", name) for name in ("query_frequency", "bm25", "gensar_shop")),
    }
    # A user likes two products of one language, and a query asks for one.
    assert rows["rec", "gensar_shop"] > 2 * rows["rec", "popularity"]
    for query, titles in (("kanne für tee", "Teekanne"), ("お茶の急須", "急須")):
        found = gensar(workflow, *search.split()[1:4], query, "--top", "5")
        assert sum(titles in line for line in found.splitlines()) >= 4, found


def gensar(workflow, *arguments):
    """Run the command in the working folder; return what it prints."""
    command = [str(workflow.python), "-m", "gensar_core", *arguments]
    environment = workflow.environment(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(command, cwd=workflow.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
