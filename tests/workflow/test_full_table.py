"""The table of full rankings, and questions to the trained model, on the small demo."""

import json
import shutil

import polars as pl
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.config.catalogue import read_catalogue
from gensar_core.evaluation.tables import FULL_METRICS

from .conftest import ROOT

FULL = ("--configfile", str(ROOT / "tests" / "config_tiny.yaml"), "--", "results/tables/demo_full.csv")


def test_every_row_of_the_table_is_ranked_in_the_whole_catalogue(tiny_demo, workflow):
    # In a copy: other tests compare what the demo's folder holds.
    for name in ("results", ".snakemake"):
        shutil.copytree(tiny_demo.folder / name, workflow.folder / name)
    assert workflow.planned(*FULL) == {"full_rank_method", "full_rank_generator", "full_table"}
    workflow.run(*FULL)
    tables = workflow.folder / "results" / "tables"
    table = pl.read_csv(tables / "demo_full.csv")
    lists = pl.read_csv(tables / "demo.csv")
    assert table.columns == ["task", "method", *FULL_METRICS, "samples"]
    # A fusion weighs candidate lists; every other row ranks the catalogue.
    ranked = lists.filter(~pl.col("method").is_in(list(read_catalogue(workflow.folder / "config.yaml").fusions)))
    assert table.select("task", "method", "samples").equals(ranked.select("task", "method", "samples"))
    for row in table.iter_rows(named=True):
        assert 0.0 <= row["recall@5"] <= row["recall@10"] <= row["recall@20"] <= 1.0
        assert row["ndcg@20"] <= row["recall@20"]
    items = len(schema.ITEMS.read(workflow.folder / "results/demo/canonical/items.parquet"))
    for file in (workflow.folder / "results/demo/full_ranks").glob("*.parquet"):
        ranks = schema.FULL_RANKS.read(file)
        assert (ranks["n_candidates"] == items).all()
        assert ranks["rank"].null_count() == 0 or file.stem == "gensar_demo"


def test_a_trained_model_answers_questions(tiny_demo):
    dataset = str(tiny_demo.folder / "results" / "demo")
    for question in (["recommend", dataset, "gensar_demo"], ["search", dataset, "gensar_demo", "oak shelf"]):
        done = CliRunner().invoke(app, [*question, "--user", "#0", "--top", "5", "--json"], catch_exceptions=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        assert len({row["item"] for row in rows}) == 5
        assert all(row["title"] for row in rows)
