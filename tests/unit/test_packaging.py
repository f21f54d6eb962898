"""Versions are told in one voice: pyproject.toml, the conda environment, the pinned constraints, the containers.

And the wheel holds the whole library.
"""

import ast
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gensar_core

ROOT = Path(__file__).parents[2]

#: Names that conda-forge gives to packages of PyPI.
CONDA_NAMES = {
    "matplotlib-base": "matplotlib",
    "python-duckdb": "duckdb",
    "pytorch": "torch",
    "snakemake-minimal": "snakemake",
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_environment_agrees_with_pyproject():
    conda = {}
    for line in yaml.safe_load((ROOT / "envs" / "gensar.yaml").read_text())["dependencies"]:
        name, _, version = line.partition(">=")
        conda[CONDA_NAMES.get(name, name)] = version
    assert conda.pop("python") == project()["requires-python"].removeprefix(">=")
    conda.pop("pip")
    assert conda == {
        requirement.name: str(requirement.specifier).removeprefix(">=")
        for requirement in map(Requirement, project()["dependencies"])
    }


def test_every_package_that_the_library_imports_is_required():
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "gensar_core").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    waiting, required = project()["dependencies"] + extras, set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker is None and requirement.name.lower() not in required:
            required.add(requirement.name.lower())
            waiting += importlib.metadata.requires(requirement.name) or []
    packages = importlib.metadata.packages_distributions()
    for name in imported - set(sys.stdlib_module_names) - {"gensar_core"}:
        assert required & {package.lower().replace("_", "-") for package in packages[name]}, name


def test_the_constraints_lie_within_pyprojects_ranges():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, project()["dependencies"] + extras):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_containers_and_ci_have_the_oldest_python_that_pyproject_allows():
    oldest = project()["requires-python"].removeprefix(">=")
    for file in ("Dockerfile", "envs/apptainer.def"):
        assert re.findall(r"^F(?:ROM|rom):? python:([\d.]+)-slim$", (ROOT / file).read_text(), re.MULTILINE) == [oldest]
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert [step["with"]["python-version"] for step in job["steps"] if "with" in step] == [oldest]


def test_the_wheel_holds_every_file_of_the_library_and_the_command(tmp_path):
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    # A copy, since a build leaves files in the folder, and finds those of earlier builds there.
    shutil.copytree(ROOT / "gensar_core", source / "gensar_core", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, wheels], cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as content:
        held = {name for name in content.namelist() if name.startswith("gensar_core/")}
        (scripts,) = (name for name in content.namelist() if name.endswith("entry_points.txt"))
        assert b"gensar = gensar_core.cli.main:main" in content.read(scripts)
    files = (ROOT / "gensar_core").rglob("*")
    assert held == {
        f"{file.relative_to(ROOT)}" for file in files if file.is_file() and file.parent.name != "__pycache__"
    }


def test_messages_about_a_missing_package_name_an_extra_that_there_is():
    named = {
        extra
        for file in (ROOT / "gensar_core").rglob("*.py")
        for extra in re.findall(r"pip install 'gensar\[(\w+)\]'", file.read_text())
    }
    assert named == {"serve", "tune"}
    assert named <= project()["optional-dependencies"].keys()


def test_containers_install_by_the_makefile():
    """So they have the pinned versions, and nothing of their own beside them."""
    for file in ("Dockerfile", "envs/apptainer.def"):
        text = (ROOT / file).read_text()
        assert "pip" not in text
        assert re.search(r"make .*\benvironment\b", text)
        assert "make" in text.splitlines()[-1]
        assert "demo" in text.splitlines()[-1]


def test_the_apptainer_image_holds_all_that_the_demo_reads():
    copied = re.findall(r"^    ([\w.]+) /opt/gensar/\1$", (ROOT / "envs/apptainer.def").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in copied)
    included = {path.split("/")[0] for path in re.findall(r'include: "(.+)"', (ROOT / "Snakefile").read_text())}
    named = {"Makefile", "Snakefile", "config.yaml", "pyproject.toml", "constraints.txt", "README.md", "gensar_core"}
    assert named | included | {"workflow_scripts", "report", "envs"} <= set(copied)


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == gensar_core.__version__


def test_the_package_runs_as_the_command_and_tells_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gensar", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gensar_core", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gensar {gensar_core.__version__}\n"


@pytest.mark.parametrize("target", ["demo", "test", "docs"])
def test_the_makefiles_recipes_are_whole_shell_commands(target):
    """A `#` in a variable of make cuts the rest off, and the quote with it."""
    recipe = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    subprocess.run(["sh", "-n"], input=recipe, text=True, check=True)
