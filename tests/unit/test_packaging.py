"""Versions are told in one voice: pyproject.toml, the conda environment, and the pinned constraints."""

import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import gensar_core

ROOT = Path(__file__).parents[2]

#: Names that conda-forge gives to packages of PyPI.
CONDA_NAMES = {
    "python-duckdb": "duckdb",
    "matplotlib-base": "matplotlib",
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


def test_the_constraints_lie_within_pyprojects_ranges():
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    extras = [line for lines in project()["optional-dependencies"].values() for line in lines]
    for requirement in map(Requirement, project()["dependencies"] + extras):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_the_package_runs_as_the_command_and_tells_its_version(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gensar", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gensar_core", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"gensar {gensar_core.__version__}\n"
