"""Running the workflow in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What the demo is run for.
DEMO = ("results/tables/demo.csv", "results/figures/demo_collisions.svg")


def pytest_collection_modifyitems(items):
    """Everything in this folder runs Snakemake."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.workflow)


class Workflow:
    """A checkout's workflow over a working folder with its own config.yaml and results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "config.yaml", folder / "config.yaml")
        shutil.copytree(ROOT / "profiles" / "default", folder / "profiles" / "default")

    def command(self, *arguments: str, cores: int = 2) -> list[str]:
        """The command line of a run."""
        workflow = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", str(cores)]
        return [*workflow, *arguments]

    @staticmethod
    def environment(**variables: str) -> dict[str, str]:
        """The environment of a run: nothing is looked for on the network."""
        return {**os.environ, "HF_HUB_OFFLINE": "1", **variables}

    def run(
        self, *arguments: str, cores: int = 2, check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake; ``variables`` are added to its environment. Fails the test on an error, unless told not to."""
        done = subprocess.run(
            self.command(*arguments, cores=cores),
            cwd=self.folder,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"snakemake {' '.join(arguments)} failed:\n{done.stdout}\n{done.stderr}")
        return done

    def planned(self, *arguments: str) -> set[str]:
        """Rules that a dry run would run."""
        done = self.run("--dry-run", *arguments)
        lines = (done.stdout + done.stderr).splitlines()
        return {line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "localrule "))}


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory):
    """The demo, run whole in its smallest size, once for all tests that only look at it."""
    workflow = Workflow(tmp_path_factory.mktemp("demo"))
    workflow.run("--configfile", str(ROOT / "tests" / "config_tiny.yaml"), "--", *DEMO)
    return workflow
