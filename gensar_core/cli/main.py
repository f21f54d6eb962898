"""The commands of `gensar`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gensar_core.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def check(config: Annotated[Path, typer.Argument(help="the configuration to check")] = Path("config.yaml")) -> None:
    """Check a configuration; print what it holds, or the first mistake."""
    from gensar_core.baselines.interface import check_methods
    from gensar_core.config.catalogue import read_catalogue

    catalogue = read_catalogue(config)
    check_methods(catalogue, str(config))
    for section in ("datasets", "embeddings", "identifiers", "corpora", "generators", "methods", "fusions", "tables"):
        typer.echo(f"{section:12} {', '.join(getattr(catalogue, section)) or '-'}")


@app.command()
def methods() -> None:
    """List every ranking method there is: its tasks, what it reads, and where it comes from."""
    from gensar_core.baselines.interface import INPUTS, find, kinds

    found = [(kind, find(kind)) for kind in kinds()]
    rows = [("kind", "tasks", "reads", "paper")]
    rows += [(kind, "+".join(method.tasks), ", ".join(method.inputs) or "-", method.paper) for kind, method in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, paper in rows:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), paper]))
    typer.echo("")
    for name, meaning in INPUTS.items():
        typer.echo(f"{name:{max(map(len, INPUTS))}}  {meaning}")


@app.command()
def corpus(
    folder: Annotated[Path, typer.Argument(help="a corpus, such as results/demo/corpora/demo")],
    head: Annotated[int, typer.Option(min=1, help="examples of each task")] = 2,
) -> None:
    """Print the first training examples of each task as text: what the encoder reads, and what is to be answered."""
    from gensar_core.corpora.text import readable

    typer.echo(readable(folder, head), nl=False)


@app.command()
def inspect(folder: Annotated[Path, typer.Argument(help="a data set's folder, such as results/demo")]) -> None:
    """Print what a data set holds: its log, samples, audit and tables, and each finished stage with time and memory."""
    from gensar_core.cli.inspection import inspection

    for line in inspection(folder):
        typer.echo(line)


@app.command()
def explain(
    item: Annotated[str, typer.Argument(help="an item: its id in the source, or its number")],
    identifiers: Annotated[Path, typer.Argument(help="an identifier set, such as results/demo/identifiers/joint_demo")],
    neighbors: Annotated[int, typer.Option(min=0, help="so many nearest items of each side")] = 5,
) -> None:
    """Show an item's identifiers, and the items that share their first codes."""
    from gensar_core.cli.explain import explain as lines

    for line in lines(item, identifiers, identifiers.resolve().parents[1] / "canonical", neighbors):
        typer.echo(line)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 1."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
