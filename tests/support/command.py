"""The command `gensar`, run in this process."""

from click.testing import Result
from typer.testing import CliRunner

from gensar_core.cli.main import app


def gensar(*arguments: object) -> Result:
    """Run `gensar` with these arguments; its errors are raised."""
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
