"""Define the commands of `gensar`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from gensar_core import __version__
from gensar_core.errors import UserError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"gensar {__version__}")
        raise typer.Exit


class _SnakemakeCommand(TyperCommand):
    """Pass Snakemake's arguments on, with the `--` that stands before targets; it would be dropped here."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        return super().parse_args(ctx, [*args[: at + 1], *args[at:]])


_UNKNOWN_OPTIONS: Final = {"allow_extra_args": True, "ignore_unknown_options": True}


def _check_workflow(folder: Path, arguments: Sequence[str]) -> None:
    """Raise UserError when ``folder`` holds no workflow and Snakemake's ``arguments`` name none."""
    files = (folder / "Snakefile", folder / "workflow/Snakefile")
    named = any(word.partition("=")[0] in ("--snakefile", "-s") for word in arguments)
    if not named and not any(file.is_file() for file in files):
        raise UserError(f"{files[0]}: no such file; the workflow is not installed: run this in a checkout of GenSAR")


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="tell it")] = False,
) -> None:
    """Inspect what the workflow made, and query a trained model."""


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="a configuration, or a folder of results")] = Path("config.yaml"),
    whole: Annotated[bool, typer.Option(help="of results, read every file and compare its sha256")] = False,
) -> None:
    """Check a configuration: print its entries, or the first mistake. Or check results: that no file has changed."""
    if path.is_dir():
        _check_results(path, whole)
        return
    from gensar_core.baselines.check import check_methods
    from gensar_core.config.experiments import read_experiments
    from gensar_core.config.seeds import added, with_seeds

    experiments = read_experiments(path)
    traits = check_methods(experiments, str(path))
    seeded, _ = with_seeds(experiments, lambda kind: traits[kind].seeded, str(path))
    for section in ("datasets", "embeddings", "identifiers", "corpora", "generators", "methods", "fusions", "tables"):
        typer.echo(f"{section:12} {', '.join(getattr(experiments, section)) or '-'}")
    for section, names in added(experiments, seeded).items():
        typer.echo(f"for seeds, {len(names)} more {section}: {', '.join(names)}")


def _check_results(folder: Path, whole: bool) -> None:
    """Report every file that is not as its stage wrote it; exit with code 1 when there is one."""
    from gensar_core.runtime.verification import faults, records

    stages = records(folder)
    wrong_files = [fault for record in stages for fault in faults(record, whole=whole)]
    for fault in wrong_files:
        typer.echo(f"{fault}", err=True)
    by = "sizes and digests" if whole else "sizes (digests: --whole)"
    result = f"{len(wrong_files)} faults" if wrong_files else "all files are as they were written"
    typer.echo(f"{len(stages)} stages, by {by}: {result}")
    if wrong_files:
        raise typer.Exit(1)


@app.command()
def init(
    items: Annotated[Path, typer.Option(help="table of items: Parquet, CSV, TSV or JSON lines, maybe gzipped")],
    events: Annotated[Path, typer.Option(help="table of events: clicks after recommendations and after searches")],
    output: Annotated[Path, typer.Option(help="the configuration to write; its NAME is the data set's")] = Path(
        "config.shop.yaml"
    ),
    column: Annotated[
        list[str] | None, typer.Option(help="which column holds what: user=COLUMN, items.item=COLUMN, ...")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="what events of a kind are: KIND=recommendation, =search, or =none")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="text encoder: a hub name or a folder; default: by the texts' languages")
    ] = None,
) -> None:
    """Look at the two tables of your shop, and write a configuration that runs on two cores in minutes."""
    from gensar_core.cli.preset import choose_encoder, estimate, write_preset
    from gensar_core.cli.survey import survey_tables
    from gensar_core.cli.table_view import print_table

    surveyed = survey_tables(items, events, column or [], kind or [])
    model = encoder or choose_encoder(surveyed)
    name = write_preset(output, surveyed, model)
    minutes = estimate(surveyed, model)
    rows = [
        *surveyed.found,
        ("encoder", model if encoder else f"{model}, by the languages (another: --encoder MODEL)"),
        ("tokenizer", "trained on these texts"),
        ("minutes", f"{max(1, round(sum(minutes.values())))} on two cores without a GPU, the sum of"),
        *((f"  {value:.1f}", stage) for stage, value in minutes.items()),
        ("written", f"{output}"),
    ]
    print_table(("what", "found"), rows)
    for warning in surveyed.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(
        f"\nNext:\n  gensar run --cores 2 --configfile {output} -- results/tables/{name}.csv\n"
        f"  gensar search results/{name} gensar_{name} WORDS"
    )


@app.command()
def methods(
    paper: Annotated[
        bool, typer.Option("--paper", help="the generative methods instead, as in the paper's Table 1")
    ] = False,
    config: Annotated[Path, typer.Option(help="of --paper: the configuration that has their entries")] = Path(
        "config.yaml"
    ),
) -> None:
    """List every ranking method: its tasks, its inputs, and its source."""
    from gensar_core.cli.table_view import print_table

    if paper:
        from gensar_core.cli.published_methods import generative_methods
        from gensar_core.config.experiments import read_experiments

        header, *rows = generative_methods(read_experiments(config), str(config))
        print_table(header, rows)
        return
    from gensar_core.baselines.interface import INPUTS, find, kinds

    rows = [
        (kind, "+".join(method.tasks), ", ".join(method.inputs) or "-", method.paper)
        for kind, method in zip(kinds(), map(find, kinds()), strict=True)
    ]
    print_table(("kind", "tasks", "reads", "paper"), rows)
    print_table(("input", "what it holds"), INPUTS.items())


@app.command()
def corpus(
    folder: Annotated[Path, typer.Argument(help="a corpus, such as results/demo/corpora/demo")],
    head: Annotated[int, typer.Option(min=1, help="examples of each task")] = 2,
) -> None:
    """Print the first training examples of each task as text: what the encoder reads, and the answer to predict."""
    from gensar_core.corpora.readable import readable

    typer.echo(readable(folder, head), nl=False)


@app.command()
def inspect(folder: Annotated[Path, typer.Argument(help="a data set's folder, such as results/demo")]) -> None:
    """Print what a data set holds: its log, samples, audit, tables, and each finished stage with time and memory."""
    from gensar_core.cli.inspection import inspection

    for line in inspection(folder):
        typer.echo(line)


@app.command()
def explain(
    item: Annotated[str, typer.Argument(help="an item: its id in the source, or #17 for number 17")],
    identifiers: Annotated[Path, typer.Argument(help="an identifier set, such as results/demo/identifiers/joint_demo")],
    neighbors: Annotated[int, typer.Option(min=0, help="how many nearest items of each side")] = 5,
) -> None:
    """Show an item's identifiers, and the items that share their first codes."""
    from gensar_core.cli.explain import explain as lines

    # A folder of added items holds the whole catalogue.
    extended = (identifiers / "items.parquet").is_file()
    canonical = identifiers if extended else identifiers.resolve().parents[1] / "canonical"
    for line in lines(item, identifiers, canonical, neighbors):
        typer.echo(line)


_Dataset = Annotated[Path, typer.Argument(help="a data set's folder, such as results/demo")]
_Generator = Annotated[str, typer.Argument(help="a generator trained on it, such as gensar_demo")]
_Source = Annotated[Path, typer.Argument(help="a data set's folder, such as results/demo, or an exported folder")]
_ItsGenerator = Annotated[str | None, typer.Argument(help="a generator of the data set, such as gensar_demo")]
_User = Annotated[str | None, typer.Option(help="whose history to go by: a raw id, or #17 for number 17")]
_History = Annotated[
    list[str] | None,
    typer.Option(help="one thing done, oldest first: clicked=ITEM, query=WORDS, or found=ITEM after its query"),
]
_Top = Annotated[int, typer.Option(help="how many items to return")]
_Beams = Annotated[int | None, typer.Option(help="width of the search; default: 50, or --top if that is more")]
_Only = Annotated[Path | None, typer.Option(help="file of raw item ids, one a line: return no others")]
_Category = Annotated[str | None, typer.Option(help="return items of this category only")]
_Again = Annotated[bool, typer.Option(help="return items of the history as well")]
_Json = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


@app.command()
def recommend(
    dataset: _Source,
    generator: _ItsGenerator = None,
    user: _User = None,
    history: _History = None,
    top: _Top = 10,
    beams: _Beams = None,
    only: _Only = None,
    category: _Category = None,
    again: _Again = False,
    as_json: _Json = False,
) -> None:
    """Recommend items with a trained generator, to a user or for a given history."""
    _ask(dataset, generator, None, user, history, top, beams, only, category, again, as_json)


@app.command()
def search(
    dataset: _Source,
    generator: Annotated[str, typer.Argument(help="a generator of the data set; leave it out for an exported folder")],
    query: Annotated[str | None, typer.Argument(help="the words searched for")] = None,
    user: _User = None,
    history: _History = None,
    top: _Top = 10,
    beams: _Beams = None,
    only: _Only = None,
    category: _Category = None,
    as_json: _Json = False,
) -> None:
    """Search for items with a trained generator, in the light of a user's history if there is one."""
    name, words = (None, generator) if query is None else (generator, query)
    _ask(dataset, name, words, user, history, top, beams, only, category, True, as_json)


def _ask(
    dataset: Path,
    name: str | None,
    query: str | None,
    user: str | None,
    written: list[str] | None,
    top: int,
    beams: int | None,
    only: Path | None,
    category: str | None,
    again: bool,
    as_json: bool,
) -> None:
    """Answer one query with a generator; the times taken go to standard error."""
    if user is not None and written:
        raise UserError("--user and --history: give one of the two")
    started = time.perf_counter()
    from gensar_core.corpora.user_words import UNKNOWN_USER
    from gensar_core.service.shop import Folders, clicked_items, read_lines

    folders = Folders.of(dataset, name)
    shop = folders.shop()
    number = None if user is None else shop.user(user)
    entries = shop.read_history(written or []) if number is None else shop.history(number)
    allowed = shop.allowed(None if only is None else read_lines(only), category)
    model = folders.load()
    loaded = time.perf_counter()
    excluded = set() if again else clicked_items(entries)
    asked = UNKNOWN_USER if number is None else number
    if query is None:
        hits = model.recommend(entries, top=top, beams=beams, excluded=excluded, allowed=allowed, user=asked)
    else:
        hits = model.search(query, entries, top=top, beams=beams, excluded=excluded, allowed=allowed, user=asked)
    answered = time.perf_counter()
    if as_json:
        for row in shop.rows(hits):
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        from gensar_core.cli.table_view import print_table

        rows = [(f"{row['rank']}", f"{row['score']:.4f}", row["item"], row["title"]) for row in shop.rows(hits)]
        print_table(("rank", "score", "item", "title"), rows, right=("rank", "score"))
    typer.echo(f"loaded in {loaded - started:.1f} s, answered in {answered - loaded:.2f} s", err=True)


_Output = Annotated[Path, typer.Argument(help="the Parquet file to write; its record goes beside it")]


@app.command("recommend-all")
def recommend_all(
    dataset: _Dataset,
    generator: _Generator,
    output: _Output,
    users: Annotated[Path | None, typer.Option(help="file of raw user ids, one a line: recommend to no others")] = None,
    top: _Top = 10,
    beams: _Beams = None,
    only: _Only = None,
    again: _Again = False,
) -> None:
    """Recommend items to all users into a Parquet file; killed, the same command goes on where it was."""
    from gensar_core.config.datasets import RecommendationSettings
    from gensar_core.service.answers import recommend_to_all

    named = {"items": only, "users": users}
    values = {"top": top, "beams": beams, "again": again} | {name: file and str(file) for name, file in named.items()}
    _answer_all(dataset, generator, output, RecommendationSettings, values, recommend_to_all)


@app.command("search-all")
def search_all(
    dataset: _Dataset,
    generator: _Generator,
    queries: Annotated[Path, typer.Argument(help="text file of the queries, one a line")],
    output: _Output,
    top: _Top = 10,
    beams: _Beams = None,
    only: _Only = None,
) -> None:
    """Search for every query of a file into a Parquet file; killed, the same command goes on where it was."""
    from gensar_core.config.datasets import QueryAnswerSettings
    from gensar_core.service.answers import search_for_all

    values = {"file": str(queries), "top": top, "beams": beams, "items": only and str(only)}
    _answer_all(dataset, generator, output, QueryAnswerSettings, values, search_for_all)


def _answer_all(
    dataset: Path, name: str, output: Path, model: type[Any], values: dict[str, Any], stage: Callable[..., None]
) -> None:
    """Run a stage that answers many questions."""
    from gensar_core.config.base import validate
    from gensar_core.service.shop import Folders

    if output.suffix != ".parquet":
        raise UserError(f"{output}: name a file that ends in .parquet")
    settings = validate(model, values, "command line")
    stage(Folders.of(dataset, name), output, settings, output.with_suffix(".checkpoints"))
    typer.echo(f"{output}: written")


@app.command()
def tune(
    dataset: _Dataset,
    name: Annotated[str, typer.Argument(metavar="METHOD", help="an entry of methods or generators, such as sasrec")],
    config: Annotated[Path, typer.Option(help="the configuration that has the entry")] = Path("config.yaml"),
    trials: Annotated[int | None, typer.Option(min=1, help="default: tuning_trials, or all of --grid")] = None,
    grid: Annotated[str | None, typer.Option(help='values to try instead, as JSON: {"dropout": [0.3, 0.5]}')] = None,
    fixed: Annotated[
        list[str] | None, typer.Option("--set", help="a setting of all trials: KEY=VALUE, the value as JSON")
    ] = None,
) -> None:
    """Search an entry's settings on the valid targets; the best go to results/tuning/, beside all trials."""
    from gensar_core.cli.tuning import read_grid, read_pairs, tuned_entry
    from gensar_core.config.experiments import read_experiments
    from gensar_core.tuning.study import tune as search_settings

    experiments = read_experiments(config)
    dataset = dataset.resolve()
    tuned = tuned_entry(dataset, experiments, name)
    tuned.settings = tuned.varied(read_pairs(fixed or []))
    values = None if grid is None else read_grid(grid)
    many = experiments.tuning_trials if values is None else math.prod(map(len, values.values()))
    output = dataset.parent / "tuning" / dataset.name / name
    best = search_settings(tuned, output, dataset / "checkpoints/tuning" / name, trials or many, values)
    typer.echo(json.dumps(best, ensure_ascii=False))


@app.command()
def serve(
    dataset: _Source,
    generator: _ItsGenerator = None,
    host: Annotated[str, typer.Option(help="address to listen at; 0.0.0.0 lets other machines ask")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen at")] = 8000,
    beams: Annotated[int, typer.Option(min=1, help="width of the search")] = 50,
    batch: Annotated[int, typer.Option(min=1, help="most questions answered together")] = 32,
    waiting: Annotated[int, typer.Option(min=1, help="most questions that wait; more are told to come back")] = 256,
) -> None:
    """Answer questions to a trained generator over HTTP, with a page to try it."""
    try:
        from gensar_core.service.run import run_service
    except ModuleNotFoundError as error:
        raise UserError(f"serve: needs {error.name}; run pip install 'gensar[serve]'") from error
    run_service(dataset, generator, host, port, beams=beams, batch=batch, most_waiting=waiting)


@app.command(
    cls=_SnakemakeCommand, context_settings=_UNKNOWN_OPTIONS, epilog="gensar run --cores 2 results/tables/demo.csv"
)
def run(context: typer.Context) -> None:
    """Run the workflow with one line a stage; takes Snakemake's targets and options."""
    from gensar_core.cli.stage_lines import run as run_workflow

    _check_workflow(Path(), context.args)
    run_workflow(context.args)


@app.command()
def export(
    dataset: _Dataset,
    generator: _Generator,
    folder: Annotated[Path, typer.Argument(help="a new folder, which then needs nothing else")],
) -> None:
    """Write a trained generator into one folder to take away or publish: model, items, README with its metrics."""
    from gensar_core.service.export import export_generator

    export_generator(dataset, generator, folder)
    typer.echo(f"{folder}: written; try it with gensar search {folder} WORDS, or read its README.md")


@app.command("add-items")
def add_new_items(
    dataset: _Dataset,
    generator: _Generator,
    items: Annotated[Path, typer.Argument(help="a table of new items: raw_id, title, description, brand, categories")],
) -> None:
    """Add items to a trained generator without training it again; recommend, search and serve then know them."""
    from gensar_core.corpora.added_items import add_items, check_extensible
    from gensar_core.runtime.stage import read_record
    from gensar_core.service.shop import Folders

    folders = Folders.of(dataset, generator)
    check_extensible(folders.identifiers)
    output = dataset / "added" / generator
    add_items(items, folders.canonical, folders.corpus, folders.identifiers, folders.embedding, output)
    counts = read_record(output / "stage.json")["counts"]
    typer.echo(f"{output}: {counts['added_items']:,} items added, {counts['free_identifiers']:,} identifiers left")


@app.command(cls=_SnakemakeCommand, context_settings=_UNKNOWN_OPTIONS)
def status(
    context: typer.Context,
    directory: Annotated[Path, typer.Option(help="the folder that the workflow runs in")] = Path(),
) -> None:
    """Show which stages are done, running and to do, with time and memory; takes Snakemake's targets and options."""
    from gensar_core.cli.status import stages
    from gensar_core.cli.table_view import print_table

    _check_workflow(directory, context.args)
    listed = stages(directory, context.args)
    print_table(("state", "seconds", "peak GB", "stage"), (s.cells() for s in listed), right=("seconds", "peak GB"))
    counts = {state: sum(stage.state == state for stage in listed) for state in dict.fromkeys(s.state for s in listed)}
    spent = sum(stage.seconds or 0.0 for stage in listed)
    typer.echo(f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {spent:,.0f} s spent")


@app.command(cls=_SnakemakeCommand, context_settings=_UNKNOWN_OPTIONS)
def adopt(
    context: typer.Context,
    directory: Annotated[Path, typer.Option(help="the folder that the workflow runs in")] = Path(),
) -> None:
    """Accept copied results as done if they are what would be made; takes Snakemake's targets and options.

    This checks the digests of all files, the settings, seed and code that made them, and their inputs.
    """
    from gensar_core.cli.adoption import adopt as adopted

    _check_workflow(directory, context.args)
    for record in adopted(directory, context.args):
        typer.echo(record)


@app.command("table")
def show_table(path: Annotated[Path, typer.Argument(help="a metric table, such as results/tables/demo.csv")]) -> None:
    """Print a finished metric table: the best in bold green, the second best underlined."""
    from gensar_core.cli.table_view import print_metrics

    print_metrics(path)


@app.command("results-page")
def results_page(
    folders: Annotated[list[Path], typer.Argument(help="folders of results, such as results")],
    output: Annotated[Path, typer.Option(help="the page; plots go to a folder beside it")] = Path("results.md"),
) -> None:
    """Write a Markdown page of all finished metric tables, with plots."""
    from gensar_core.evaluation.results_page import results_page as write_page

    names = write_page(folders, output)
    typer.echo(f"{output}: {len(names)} tables ({', '.join(names)})")


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="a folder of results")] = Path("results"),
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("report.html"),
) -> None:
    """Write one HTML page of all finished results: tables, plots, and the generators' hits and misses."""
    from gensar_core.evaluation.report import write_report

    sections = write_report(results, output)
    typer.echo(f"{output}: {', '.join(sections)}")


@app.command("schema")
def schema_of_config(
    output: Annotated[Path, typer.Argument(help="where to write it")] = Path("config.schema.json"),
) -> None:
    """Write the JSON schema of config.yaml, for editors."""
    from gensar_core.cli.config_schema import config_schema
    from gensar_core.runtime.stage import write_json

    write_json(output, config_schema())


def main() -> None:
    """Run `gensar`; a user's mistake is one line and exit code 1."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
