"""Running the workflow in a folder of its own."""

import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.ready_python import ReadyPython

from .planning import ROOT, job_graph

#: The demo in a still smaller size, laid over config.yaml.
TINY = ROOT / "tests" / "config_tiny.yaml"
TABLE, COLLISIONS = "results/tables/demo.csv", "results/figures/demo_collisions.svg"
PAGE = "results/overview/demo.html"
ANSWERS = "results/demo/recommendations/gensar_demo.parquet"
#: What the demo is run for.
DEMO = (TABLE, COLLISIONS, PAGE, ANSWERS, *(f"results/tables/demo_{name}.csv" for name in ("costs", "full", "seeds")))


def pytest_collection_modifyitems(items):
    """Everything in this folder runs Snakemake."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.workflow)


class Workflow:
    """A checkout's workflow over a working folder with its own config.yaml and results.

    ``overlays`` are configuration files laid over config.yaml. Every job has one thread, on which bytes may depend.
    """

    #: Folder in which the checked settings of methods are kept for all workflows, since a check imports all methods.
    checks: Path
    #: The Python that runs it, with all imports done.
    python: Path = Path(sys.executable)

    def __init__(self, folder: Path, *overlays: Path) -> None:
        self.folder, self.overlays = folder, overlays
        if not (folder / "config.yaml").is_file():
            shutil.copy(ROOT / "config.yaml", folder)
            shutil.copytree(ROOT / "profiles" / "default", folder / "profiles" / "default")
            (folder / ".snakemake").mkdir()
            (folder / ".snakemake" / "gensar").symlink_to(self.checks, target_is_directory=True)

    def command(self, *targets: str, options: tuple[str, ...] = (), python: str | Path = sys.executable) -> list[str]:
        """The command line of a run."""
        command = [str(python), "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", *options]
        overlays = ["--configfile", *map(str, self.overlays)] if self.overlays else []
        return [*command, *overlays, "--", *targets]

    @staticmethod
    def environment(**variables: str) -> dict[str, str]:
        """The environment of a run: nothing is looked for on the network."""
        return {**os.environ, "HF_HUB_OFFLINE": "1", **variables}

    def run(
        self, *targets: str, options: tuple[str, ...] = (), check: bool = True, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run Snakemake; ``variables`` are added to its environment. Fails the test on an error, unless told not to.

        Its processes are forks of one that has imported all.
        """
        done = subprocess.run(
            self.command(*targets, options=options, python=self.python),
            cwd=self.folder,
            env=self.environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"snakemake {' '.join([*options, *targets])} failed:\n{done.stdout}")
        return done

    def planned(self, *targets: str, overlays: tuple[Path, ...] = (), allowed_rules: tuple[str, ...] = ()) -> set[str]:
        """Rules that would run, planned within this process."""
        configfiles = (*self.overlays, *overlays)
        graph = job_graph(self.folder, targets, configfiles=configfiles, allowed_rules=allowed_rules)
        return {job.rule.name for job in graph.needrun_jobs(exclude_finished=False)}

    @contextmanager
    def configuration(self):
        """Yield the values of config.yaml, to be changed; they are written back."""
        config = self.folder / "config.yaml"
        values = yaml.safe_load(config.read_text())
        yield values
        config.write_text(yaml.safe_dump(values, sort_keys=False))

    def copied(self, folder: Path) -> "Workflow":
        """The workflow with its results and Snakemake's notes in another folder."""
        shutil.copytree(self.folder, folder, symlinks=True, dirs_exist_ok=True)
        return Workflow(folder, *self.overlays)


@pytest.fixture(scope="session", autouse=True)
def common_folder(tmp_path_factory):
    """A folder that all processes of a test session share; GENSAR_TEST_FOLDER names one for several sessions."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    folder = Path(os.environ.get("GENSAR_TEST_FOLDER", folder)) / "common"
    Workflow.checks = folder / "checks"
    Workflow.checks.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def ready_python(tmp_path_factory):
    """A Python with all imports done, for every run of the workflow."""
    with ReadyPython(tmp_path_factory.mktemp("python")) as ready:
        Workflow.python = ready.python
        yield ready.python


@pytest.fixture
def workflow(tmp_path):
    return Workflow(tmp_path)


@pytest.fixture
def tiny_workflow(tmp_path):
    return Workflow(tmp_path, TINY)


@pytest.fixture(scope="session")
def tiny_demo(common_folder):
    """The demo, run whole in its smallest size, once for all tests that only look at it."""
    folder = common_folder / "demo"
    folder.mkdir(exist_ok=True)
    with (common_folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workflow = Workflow(folder, TINY)
        workflow.run(*DEMO)
    return workflow
