"""Searches of settings by the workflow."""

import json

import polars as pl
import pytest
import yaml

from .conftest import TINY, Workflow


@pytest.fixture
def searching(tmp_path):
    few = tmp_path / "few.yaml"
    few.write_text(yaml.safe_dump({"tuning_trials": 3}))
    (tmp_path / "work").mkdir()
    return Workflow(tmp_path / "work", TINY, few)


def test_a_search_leaves_its_best_settings_beside_its_trials(searching):
    best = "results/tuning/demo/itemknn.json"
    assert searching.planned(best) == {"simulate", "canonical_amazon", "samples", "tune_method"}
    done = searching.run(best)
    assert "trial 3 of 3" in done.stdout + (searching.folder / "results/demo/logs/tune_method_itemknn.log").read_text()
    result = json.loads((searching.folder / best).read_text())
    trials = pl.read_csv(searching.folder / "results/tuning/demo/itemknn.csv")
    assert (result["trials"], len(trials)) == (3, 3)
    assert result["valid"]["score"] == trials["valid_ndcg@5"].max()
    assert searching.planned(best) == set()
    # More trials are another search, which the study of the first one spares three.
    more = searching.folder / "more.yaml"
    more.write_text(yaml.safe_dump({"tuning_trials": 4}))
    assert searching.planned(best, overlays=(more,)) == {"tune_method"}
    refused = searching.run("results/tuning/demo/popularity.json", check=False)
    assert refused.returncode
    assert "popularity: has no search space" in refused.stdout
    assert "no rule makes it; did you mean results/tuning/demo/itemknn.json" in (
        searching.run("results/tuning/demo/itemkn.json", check=False).stdout
    )


def test_a_search_needs_what_a_training_needs(searching):
    for name, rule in (("gensar_demo_t5", "train_generator"), ("sasrec", "method")):
        folder = f"results/demo/models/{name}/stage.json"
        searched = searching.planned(f"results/tuning/demo/{name}.json")
        assert searching.planned(folder) - {rule} == searched - {"tune_method", "tune_generator"}
