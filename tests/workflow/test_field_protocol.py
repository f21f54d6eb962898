"""The protocol that papers on generative recommendation compare by: its plan, and a small run without searches."""

import polars as pl
import pytest

from gensar_core import schema

from .conftest import Workflow
from .planning import ROOT


def test_its_table_needs_no_searches_and_no_lists_of_candidates(workflow):
    planned = workflow.planned("results/tables/beauty_field.csv")
    assert planned == {
        "download_amazon",
        "canonical_amazon",
        "samples",
        "embed_text",
        "embed_sequential",
        "identifiers",
        "corpus",
        "token_vectors",
        "train_generator",
        "method",
        "full_rank_method",
        "full_rank_generator",
        "full_rank_fusion",
        "overall_table",
    }
    # Its page shows the same ranks.
    page = workflow.planned("results/overview/beauty_field.html")
    assert page - planned == {"statistics", "identifier_quality", "training_curves", "overview"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workflow = Workflow(tmp_path_factory.mktemp("field"), ROOT / "tests" / "config_field.yaml")
    workflow.run("results/overview/shop_field.html")
    return workflow.folder / "results"


def test_a_shop_without_searches_is_ranked_with_and_without_what_users_clicked(run):
    queries = schema.QUERIES.read(run / "shop_field/canonical/queries.parquet")
    samples = schema.SAMPLES.read(run / "shop_field/samples/samples.parquet")
    events = schema.EVENTS.read(run / "shop_field/canonical/events.parquet")
    assert queries.is_empty()
    # Leave one out: the last click is test.
    last = events.group_by("user_id").agg(pl.col("item_id").last(), clicks=pl.len()).filter(pl.col("clicks") >= 4)
    tested = samples.filter(pl.col("split") == "test")
    assert dict(tested.select("user_id", "target_item").rows()) == dict(last.select("user_id", "item_id").rows())

    table = pl.read_csv(run / "tables/shop_field.csv")
    assert table["task"].to_list() == ["rec", "rec", "rec"]
    assert table["seeds"].to_list() == [1, 2, 2]
    for name, entries in {
        "itemknn_field": [""],
        "sasrec_field": ["", "-seed1"],
        "fusion_field": ["", "-seed1"],
    }.items():
        ranks = [schema.FULL_RANKS.read(run / f"shop_field/full_ranks/{name}{entry}.parquet") for entry in entries]
        row = table.row(by_predicate=pl.col("method") == name, named=True)
        for column, ending in (("rank", ""), ("rank_unseen", "_unseen")):
            by_hand = [(one[column] <= 10).mean() for one in ranks]
            assert row[f"recall@10{ending}"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-6)
        assert (ranks[0]["n_unseen"] < ranks[0]["n_candidates"]).all()


def test_published_figures_stand_below_the_table_and_on_the_page(run):
    for page in ("tables/shop_field.html", "tables/shop_field.md", "overview/shop_field.html"):
        text = (run / page).read_text()
        assert "TIGER" in text
        assert "0.0648" in text
