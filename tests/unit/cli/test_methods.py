"""`gensar methods`: every method that there is, one aligned line each."""

import pytest
from typer.testing import CliRunner

from gensar_core.baselines.interface import INPUTS, find, kinds
from gensar_core.cli.main import app


@pytest.fixture(scope="module")
def lines():
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_every_method_has_its_line_with_tasks_inputs_and_paper(lines):
    header, *rows = lines[: lines.index("")]
    starts = [header.index(column) for column in ("kind", "tasks", "reads", "paper")]
    assert [row.split()[0] for row in rows] == kinds()
    for row in rows:
        # Columns stand under each other: a cell begins where its header does, after two blanks.
        cells = [row[start:stop] for start, stop in zip(starts, [*starts[1:], None], strict=True)]
        method = find(cells[0].strip())
        assert all(cell.endswith("  ") and not cell.startswith(" ") for cell in cells[:3])
        assert cells[1].strip() == "+".join(method.tasks)
        assert cells[2].strip() == (", ".join(method.inputs) or "-")
        assert cells[3] == method.paper


def test_what_the_inputs_mean_follows(lines):
    meanings = lines[lines.index("") + 1 :]
    assert [line.split()[0] for line in meanings] == list(INPUTS)
    assert len({len(line) - len(line.split(None, 1)[1]) for line in meanings}) == 1
