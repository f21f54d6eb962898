"""The paper's experiments, every one of them, run on the demo in the smallest size."""

import polars as pl
import pytest
import yaml

from gensar_core.config.experiments import load_experiments

from .conftest import COLLISIONS, Workflow
from .planning import ROOT

OVERLAY = ROOT / "tests" / "config_experiments.yaml"


def paper():
    return load_experiments(yaml.safe_load((ROOT / "config.yaml").read_text()))


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """A folder in which all experiments of the paper have been run on the demo."""
    workflow = Workflow(tmp_path_factory.mktemp("experiments"), OVERLAY)
    names = paper().datasets["amazon"].experiments
    tables = [f"results/tables/demo_{name}.csv" for name in names if name in paper().tables]
    figures = [f"results/figures/demo_{name}.svg" for name in names if name in paper().figures]
    workflow.run(*tables, *figures, COLLISIONS)
    return workflow


def test_the_papers_experiments_are_all_configured():
    amazon = paper().datasets["amazon"]
    assert set(amazon.experiments) >= {
        "ablation",
        "tradeoff",
        "id_and_text",
        "identifier_kinds",
        "shared_levels",
        "identifier_length",
    }
    assert amazon.compared_identifiers == ["joint", "only_semantic", "only_collaborative"]
    assert yaml.safe_load(OVERLAY.read_text())["datasets"]["demo"]["experiments"] == amazon.experiments


@pytest.mark.long
def test_table_5_has_a_row_for_each_ablation(experiments):
    folder = experiments.folder / "results/tables"
    table = pl.read_csv(folder / "demo_ablation.csv")
    assert set(table.group_by("task").len()["len"]) == {7}
    tests = pl.read_csv(folder / "demo_ablation.significance.csv")
    # GenSAR with each of six, by two tasks and five metrics.
    assert len(tests) == 60
    assert set(tests["proposed"]) == {"gensar"}
    assert all(row["low"] <= row["difference"] <= row["high"] for row in tests.iter_rows(named=True))
    for ending in ("md", "tex", "html"):
        assert "wo" in (folder / f"demo_ablation.{ending}").read_text()


@pytest.mark.long
@pytest.mark.parametrize("name", paper().figures)
def test_a_figure_draws_all_its_rows(experiments, name):
    figure = paper().figures[name]
    drawn = pl.read_csv(experiments.folder / f"results/figures/demo_{name}.csv")
    assert set(drawn["row"]) == set(figure.rows)
    svg = (experiments.folder / f"results/figures/demo_{name}.svg").read_text()
    assert all(f">{series.label}<" in svg for series in figure.series)


@pytest.mark.long
def test_text_is_embedded_once_for_all(experiments):
    assert len(list((experiments.folder / "results/demo/embeddings").iterdir())) == 3
    assert len(list((experiments.folder / "results/demo/identifiers").iterdir())) == 9


@pytest.mark.long
def test_another_ablation_builds_only_what_is_new(experiments, tmp_path):
    rows = [*paper().tables["ablation"].rows, "gensar_short"]
    generators = {"gensar_short": {"base": "gensar", "corpus": {"max_recommendations": 2}}}
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"generators": generators, "tables": {"ablation": {"rows": rows}}}))
    planned = experiments.planned("results/tables/demo_ablation.csv", overlays=(more,))
    assert planned == {"corpus", "train_generator", "rank_generator", "named_table"}
