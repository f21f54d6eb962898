"""Profiles know every rule: what it needs grows with its inputs, and GPU jobs go where GPUs are."""

import re
from pathlib import Path

import pytest
import yaml

from tests.unit.test_structure import rule_texts

ROOT = Path(__file__).parents[2]
SLURM = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
DEFAULT = yaml.safe_load((ROOT / "profiles/default/config.yaml").read_text())


@pytest.mark.parametrize(("name", "text"), rule_texts().items(), ids=rule_texts())
def test_memory_and_time_of_a_rule_grow_with_inputs_and_attempts(name, text):
    for resource in ("mem_mb", "runtime"):
        assert re.search(rf"^ +{resource}=scaled\(", text, re.MULTILINE), f"rule {name}: {resource}=scaled(...)"


def test_gpu_jobs_and_no_others_go_to_the_partition_with_gpus():
    with_gpu = {name for name, text in rule_texts().items() if re.search(r"^ +gpu=", text, re.MULTILINE)}
    to_gpu = {name for name, resources in SLURM["set-resources"].items() if resources["slurm_partition"] == "gpu"}
    assert with_gpu == to_gpu


def test_both_profiles_judge_reruns_alike():
    for key in ("rerun-triggers", "max-checksum-file-size", "rerun-incomplete", "show-failed-logs"):
        assert SLURM[key] == DEFAULT[key]
    assert "code" not in DEFAULT["rerun-triggers"]
    assert DEFAULT["resources"]["gpu"] == 1
    assert SLURM["retries"] >= 1
