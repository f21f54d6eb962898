"""The walk-through of docs/own-data.md, command by command."""

import re
import subprocess

import pytest
import yaml

from gensar_core import schema

from .planning import ROOT


@pytest.fixture
def walk_through(workflow):
    """A working folder in which the page's files are written and its data set is in config.yaml."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "docs" / "own-data.md").read_text(), re.MULTILINE | re.DOTALL)
    shell = [text for language, text in blocks if language == "bash"]
    entry = next(text for language, text in blocks if language == "yaml")
    subprocess.run(["bash", "-c", shell[0]], cwd=workflow.folder, check=True)
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
    (warning,) = re.findall(r"^warning: .*$", (ROOT / "docs" / "own-data.md").read_text(), re.MULTILINE)
    assert warning in done.stdout.splitlines()


def test_a_missing_table_is_named_with_its_key(walk_through):
    (walk_through.folder / "shop/events.csv").unlink()
    done = walk_through.run("results/shop/samples/samples.parquet", options=("--dry-run",), check=False)
    assert done.returncode == 1
    assert "config: datasets.shop.events: there is no shop/events.csv" in done.stdout
