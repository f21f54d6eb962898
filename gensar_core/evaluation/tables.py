"""Turn ranks tables into the paper's metric tables (Tables 3 and 4), in CSV, Markdown, LaTeX and HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.config.tables import ComparisonSettings
from gensar_core.evaluation import table_cells as cells
from gensar_core.evaluation.published import PUBLISHED_COLUMNS, published_cells
from gensar_core.evaluation.significance import rank_column, significance
from gensar_core.evaluation.table_formats import html_table, latex_table, latex_text, markdown_table, page
from gensar_core.evaluation.targets import TargetRanks, check_same_targets, read_test_ranks
from gensar_core.ranking.metrics import UNSEEN, count_codes, mean_gain
from gensar_core.runtime.stage import Stage, read_record

METRICS: Final = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
#: Metrics of full rankings. With one target per sample, Recall@k is HR@k under this protocol's usual name. A second
#: ranking, without items that the user clicked before, has the same metrics with `_unseen` at their end.
FULL_METRICS: Final = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20")

_CSV_DECIMALS: Final = 6
_WARNINGS: Final = "Warnings about the data:"
_NOTE: Final = (
    "Bold: the best of a task. Underlined: the second best. *: {better} by more than chance (paired t-test over "
    "targets, exact where few differ, p &lt; 0.05)."
)
_SEEDS: Final = " Mean ± standard deviation over seeds; the test is of each target's mean over seeds."
_PUBLISHED: Final = "Published figures of the same data set and protocol, as their sources print them:"
#: Compares the best row with the second best.
_BEST: Final = ComparisonSettings()
_EACH: Final = "Differences, proposed minus other. *: more than chance (p adjusted for their number by Holm's method)."


def metric_table(
    ranks: Sequence[Path],
    names: Sequence[str],
    output: Path,
    comparison: ComparisonSettings = _BEST,
    canonical: Path | None = None,
    *,
    full: bool = False,
    published: str | None = None,
) -> None:
    """Write {output}.csv, .md, .tex and .html: HR@k and NDCG@k of each method on the test targets of each task.

    ``ranks`` are ranks files and ``names`` their rows' names, in the order shown; recommendation comes first, then
    search. A name that occurs several times is a row trained once per seed; it shows means and standard deviations (see
    ``metrics``). {output}.significance.csv holds the tests that ``comparison`` requests (`significance.significance`).
    In all files but the CSV the best value is bold, with a star where the test separates it from the row it is compared
    with (p < 0.05), and the second best is underlined. ``canonical`` is the record of the data set's stage `canonical`;
    .md and .html repeat its warnings. With ``full``, ``ranks`` are files of the table `full_ranks`, and the metrics are
    Recall@k and NDCG@k among all items; a target without a rank counts as a miss at every k. Where the files hold a
    second ranking, the metrics of it follow. ``published`` names a data set of published.yaml whose figures .md and
    .html then show. Raises UserError as ``metrics`` does, and on an unknown ``published``.
    """
    kind = schema.FULL_RANKS if full else schema.RANKS
    columns: tuple[str, ...] = FULL_METRICS if full else METRICS
    files = _read(ranks, kind)
    if any(one.unseen for one in files.values()):
        columns += tuple(name + UNSEEN for name in columns)
    quoted = [] if published is None else published_cells(published)
    options = {"settings": comparison, "inputs": [*ranks, *([canonical] if canonical else [])], "code": __name__}
    with Stage.named_after(output, "full_table" if full else "metric_table", **options) as stage:
        table = _means(files, ranks, names, columns)
        runs: dict[tuple[str, str], list[np.ndarray]] = {}
        for path, name in zip(ranks, names, strict=True):
            for task, codes in files[path].codes.items():
                runs.setdefault((task, name), []).append(codes)
        tests = significance(runs, columns, comparison)
        table.write_csv(stage.path(f"{output.name}.csv"), float_precision=_CSV_DECIMALS)
        tests.write_csv(stage.path(f"{output.name}.significance.csv"))
        shown = _Shown(table, tests, columns, quoted)
        warnings = read_record(canonical)["warnings"] if canonical else []
        for ending, text in (
            ("md", shown.as_markdown(warnings)),
            ("tex", shown.as_latex()),
            ("html", page(output.name, shown.as_html(warnings, comparison))),
        ):
            stage.path(f"{output.name}.{ending}").write_text(text, encoding="utf-8")
        stage.record(rows=len(table))


def metrics(
    ranks: Sequence[Path],
    names: Sequence[str],
    kind: schema.Table = schema.RANKS,
    shown: Sequence[str] = METRICS,
) -> pl.DataFrame:
    """Return the metric table: `task`, `method`, the metrics ``shown``, `samples`, one row per task and method.

    ``ranks`` are files of the table ``kind``. If a name occurs several times, once per seed, the metrics are means over
    its files, and there are columns `{metric}_std` (ddof 1, null for a method with one file) and `seeds`, the number of
    files. Raises UserError when a file is missing, is not of this table or holds no test ranks, and when two files rank
    different targets of a task or different numbers of candidates.
    """
    return _means(_read(ranks, kind), ranks, names, shown)


def _read(ranks: Sequence[Path], kind: schema.Table) -> dict[Path, TargetRanks]:
    files = {path: read_test_ranks(path, kind) for path in ranks}
    check_same_targets(files)
    return files


def _means(
    files: Mapping[Path, TargetRanks], ranks: Sequence[Path], names: Sequence[str], shown: Sequence[str]
) -> pl.DataFrame:
    rows = []
    for task in schema.TASKS:
        for path, name in zip(ranks, names, strict=True):
            if task in files[path].codes:
                codes = files[path].codes[task]
                counts = {column: count_codes(codes[column]) for column in {rank_column(metric) for metric in shown}}
                rows.append((task, name, *(mean_gain(counts[rank_column(m)], m) for m in shown), len(codes)))
    types = {"task": pl.String, "method": pl.String, **dict.fromkeys(shown, pl.Float64), "samples": pl.Int64}
    by_file = pl.DataFrame(rows, schema=types, orient="row")
    if not by_file.select("task", "method").is_duplicated().any():
        return by_file
    by_method = by_file.group_by("task", "method", maintain_order=True)
    deviations = [pl.col(name).std().alias(name + cells.DEVIATION) for name in shown]
    return by_method.agg(pl.col(*shown).mean(), *deviations, pl.col("samples").first(), seeds=pl.len())


class _Shown:
    """Format a metric table, figures that others published, the differences of its rows, and warnings about its data.

    ``published`` are the rows of `published_cells`.
    """

    def __init__(
        self, table: pl.DataFrame, tests: pl.DataFrame, metrics: Sequence[str], published: list[list[str]]
    ) -> None:
        self.header = cells.shown_columns(table.columns)
        self.rows = cells.metric_cells(table, tests, metrics)
        self.tests_header = ["task", "proposed", "other", *metrics]
        self.differences = cells.difference_cells(tests, metrics)
        self.published = published

    def as_markdown(self, warnings: Sequence[str]) -> str:
        text = markdown_table(self.header, cells.dressed(self.rows, cells.MARKDOWN))
        if self.published:
            text += f"\n{_PUBLISHED}\n\n{markdown_table(PUBLISHED_COLUMNS, self.published)}"
        if self.differences:
            differences = cells.dressed(self.differences, cells.MARKDOWN)
            text += f"\n{_EACH}\n\n{markdown_table(self.tests_header, differences)}"
        return text + (f"\n{_WARNINGS}\n\n" if warnings else "") + "".join(f"* {line}\n" for line in warnings)

    def as_latex(self) -> str:
        tasks = [row[0].text for row in self.rows]
        # A rule separates the tasks.
        breaks = [row for row in range(1, len(tasks)) if tasks[row] != tasks[row - 1]]
        return latex_table(self.header, cells.dressed(self.rows, cells.TEX, latex_text), breaks)

    def as_html(self, warnings: Sequence[str], comparison: ComparisonSettings) -> str:
        better = "better than the second best"
        if comparison.proposed:
            better = f"of the best proposed row ({', '.join(comparison.proposed)}) and the best other one, the better"
        note = _NOTE.format(better=better) + (_SEEDS if "seeds" in self.header else "")
        body = html_table(self.header, cells.dressed(self.rows, cells.HTML))
        if self.published:
            body += f"<p>{_PUBLISHED}</p>\n{html_table(PUBLISHED_COLUMNS, self.published)}"
        # The data set's page shows this section alone.
        body = f"<section>{body}</section>\n<p>{note}</p>\n"
        if self.differences:
            body += f"{html_table(self.tests_header, cells.dressed(self.differences, cells.HTML))}<p>{_EACH}</p>\n"
        if warnings:
            entries = "".join(f"<li>{html.escape(line)}</li>\n" for line in warnings)
            body += f"<p>{_WARNINGS}</p>\n<ul>\n{entries}</ul>\n"
        return body
