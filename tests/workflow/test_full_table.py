"""The table of full rankings, a table over seeds, and questions to the trained model, on the small demo."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.cli.main import app
from gensar_core.config.experiments import read_experiments
from gensar_core.evaluation.tables import FULL_METRICS


def test_a_table_over_seeds_trains_again_what_draws_on_the_same_targets(tiny_demo):
    results = tiny_demo.folder / "results"
    models = {path.name for path in (results / "demo/models").iterdir()}
    assert {name for name in models if name.endswith("-seed1")} == {"random-seed1", "sasrec-seed1"}
    ranks = [pl.read_parquet(results / f"demo/ranks/{name}.parquet") for name in ("sasrec", "sasrec-seed1")]
    assert ranks[0].drop("rank").equals(ranks[1].drop("rank"))
    assert not ranks[0]["rank"].equals(ranks[1]["rank"])
    table = pl.read_csv(results / "tables/demo_seeds.csv").filter(pl.col("task") == "rec")
    rows = {row["method"]: row for row in table.iter_rows(named=True)}
    by_hand = [(ranked.filter(split="test", task="rec")["rank"] <= 5).mean() for ranked in ranks]
    assert rows["sasrec"]["hr@5"] == pytest.approx(sum(by_hand) / 2, abs=1e-6)
    assert rows["sasrec"]["hr@5_std"] == pytest.approx(abs(by_hand[0] - by_hand[1]) / 2**0.5, abs=1e-6)
    once = pl.read_csv(results / "tables/demo.csv").filter(task="rec", method="popularity").row(0, named=True)
    assert (rows["popularity"]["hr@5"], rows["popularity"]["seeds"]) == (once["hr@5"], 1)
    assert rows["popularity"]["hr@5_std"] is None


def test_every_row_of_the_table_is_ranked_in_the_whole_catalogue(tiny_demo):
    tables = tiny_demo.folder / "results" / "tables"
    table = pl.read_csv(tables / "demo_full.csv")
    lists = pl.read_csv(tables / "demo.csv")
    assert table.columns == ["task", "method", *FULL_METRICS, "samples"]
    # A fusion weighs candidate lists; every other row ranks the catalogue.
    ranked = lists.filter(~pl.col("method").is_in(list(read_experiments(tiny_demo.folder / "config.yaml").fusions)))
    assert table.select("task", "method", "samples").equals(ranked.select("task", "method", "samples"))
    for row in table.iter_rows(named=True):
        assert 0.0 <= row["recall@5"] <= row["recall@10"] <= row["recall@20"] <= 1.0
        assert row["ndcg@20"] <= row["recall@20"]
    items = len(schema.ITEMS.read(tiny_demo.folder / "results/demo/canonical/items.parquet"))
    for file in (tiny_demo.folder / "results/demo/full_ranks").glob("*.parquet"):
        ranks = schema.FULL_RANKS.read(file)
        assert (ranks["n_candidates"] == items).all()
        assert ranks["rank"].null_count() == 0 or file.stem in {"gensar_demo", "gensar_demo_t5"}


@pytest.mark.parametrize("generator", ["gensar_demo", "gensar_demo_t5"])
def test_a_trained_model_answers_questions(tiny_demo, generator):
    dataset = str(tiny_demo.folder / "results" / "demo")
    items = schema.ITEMS.read(tiny_demo.folder / "results/demo/canonical/items.parquet")
    titles = dict(items.select("raw_id", "title").iter_rows())
    for question in (["recommend", dataset, generator], ["search", dataset, generator, "oak shelf"]):
        done = CliRunner().invoke(app, [*question, "--user", "#0", "--top", "5", "--json"], catch_exceptions=False)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
        assert len({row["item"] for row in rows}) == 5
        assert [row["title"] for row in rows] == [titles[row["item"]] for row in rows]
