"""Real Amazon files, where they are at hand: beside the checkout, or where GENSAR_REALDATA points."""

import os
from pathlib import Path

import pytest

from tests.workflow.conftest import common_folder, ready_python

__all__ = ["common_folder", "ready_python"]

ROOT = Path(__file__).parents[2]
REALDATA = Path(os.environ.get("GENSAR_REALDATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items):
    """Everything in this folder reads the real files."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.realdata)


@pytest.fixture(scope="session")
def realdata():
    if not REALDATA.is_dir():
        pytest.skip(f"the real data is not at {REALDATA}")
    return REALDATA
