"""Tables on the terminal: aligned below their headers, marks as styles, cells as plain text."""

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gensar_core.cli import table_view
from gensar_core.cli.main import app
from gensar_core.cli.table_view import print_table
from gensar_core.errors import UserError
from gensar_core.evaluation.tables import metric_table
from tests.unit.evaluation.test_tables import ranks_file


def test_cells_stand_below_their_headers_and_are_no_markup(capsys):
    print_table(("name", "seconds"), [("[red]a[/red]", "1.5"), ("b" * 300, "12,345.0")], right=["seconds"])
    header, rule, first, second = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert header.split() == ["name", "seconds"]
    assert set(rule) == {"─"}
    assert first.split() == ["[red]a[/red]", "1.5"]
    assert second.split() == ["b" * 300, "12,345.0"]
    assert len({len(line) for line in (header, first, second)}) == 1


def test_a_metric_table_is_shown_with_its_marks_as_styles(tmp_path, monkeypatch):
    files = [ranks_file(tmp_path, name, ranks) for name, ranks in (("a", [1] * 30), ("b_b", [2] * 30), ("c", [9] * 30))]
    metric_table(files, ["a", "b_b", "c"], tmp_path / "shop")
    plain = CliRunner().invoke(app, ["table", str(tmp_path / "shop.csv")], catch_exceptions=False).stdout.splitlines()
    assert plain[0].split()[:3] == ["task", "method", "hr@1"]
    assert [line.split()[:3] for line in plain[2:]] == [
        ["rec", "a", "1.0000*"], ["rec", "b_b", "0.0000"], ["rec", "c", "0.0000"],
    ]  # fmt: skip
    monkeypatch.setattr(
        table_view, "Console", lambda **options: Console(**options, force_terminal=True, color_system="standard")
    )
    colored = CliRunner().invoke(app, ["table", str(tmp_path / "shop.csv")], catch_exceptions=False).stdout
    assert "\x1b[1;32m1.0000\x1b[0m*" in colored
    assert "\x1b[4m0.6309" in colored


def test_a_table_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"shop\.md: no such table; name one of results/tables"):
        CliRunner().invoke(app, ["table", str(tmp_path / "shop.csv")], catch_exceptions=False)
