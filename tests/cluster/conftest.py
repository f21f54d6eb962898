"""Everything in this folder runs on a Slurm of its own."""

from pathlib import Path

import pytest

from tests.workflow.conftest import common_folder, ready_python, tiny_demo

__all__ = ["common_folder", "ready_python", "tiny_demo"]


def pytest_collection_modifyitems(items):
    """Everything in this folder takes a Slurm."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
