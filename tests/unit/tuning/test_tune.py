"""Searches of settings: what is drawn, pruned and resumed, and that valid targets alone choose."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Annotated

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from gensar_core import schema
from gensar_core.baselines.interface import find, kinds
from gensar_core.cli.main import app
from gensar_core.config.base import Settings, validate
from gensar_core.config.generators import TrainingSettings
from gensar_core.config.search_spaces import Among, Between, search_space
from gensar_core.errors import DivergedError, UserError
from gensar_core.ranking.candidates import load_candidates
from gensar_core.ranking.metrics import average_ranks, ndcg
from gensar_core.tuning.fitting import Tuned, TunedGenerator, TunedMethod
from gensar_core.tuning.study import tune
from tests.support.generator_folders import write_corpus, write_samples
from tests.support.shop import N_ITEMS, random_clicks, read_samples, write_shop
from tests.unit.baselines.helpers import make

ROOT = Path(__file__).parents[3]
QUICK = {"epochs": 3, "batch_size": 64, "negatives": 16}


@pytest.fixture
def shop(tmp_path):
    return write_shop(tmp_path / "shop", random_clicks(), N_ITEMS)


def sasrec(shop, **settings):
    return TunedMethod("sasrec", 42, "sasrec", {**QUICK, **settings}, shop.canonical, shop.samples_folder)


def search(tuned, folder, trials, grid=None):
    """Return the best settings and the table of trials, without times."""
    folder.mkdir(exist_ok=True)
    best = tune(tuned, folder / "it", folder / "checkpoints", trials, grid)
    assert json.loads((folder / "it.json").read_text()) == best
    return best, pl.read_csv(folder / "it.csv").drop("seconds")


class Curves(Tuned):
    """Trainings whose validations are known: `height` times 1, 2, 3; they diverge above 0.9."""

    class settings_model(Settings):
        height: Annotated[float, Between(0.0, 1.0)] = 0.5
        kind: Annotated[str, Among(("a", "b"))] = "a"

    code = "gensar_core.tuning.study"
    inputs: list[Path] = []  # noqa: RUF012

    def __init__(self):
        super().__init__("curves", 7)
        self.settings = self.settings_model()

    def fit(self, settings, checkpoints, key, watch):  # noqa: ARG002
        for number in (1, 2, 3):
            watch(number, settings.height * number)
            if settings.height > 0.9:
                raise DivergedError("loss not a finite number")
        return {"score": settings.height * 3}


def test_a_trial_below_the_median_of_the_complete_ones_is_pruned_and_a_diverged_one_only_noted(tmp_path):
    best, table = search(Curves(), tmp_path, 30)
    complete = []
    for row in table.iter_rows(named=True):
        height = row["height"]
        below = len(complete) >= 5 and height < median(complete)
        expected = ("pruned", 1) if below else ("diverged", 1) if height > 0.9 else ("complete", 3)
        assert (row["state"], row["validations"]) == expected
        assert row["valid_ndcg@5"] == pytest.approx(height * row["validations"])
        complete += [height] if expected[0] == "complete" else []
    assert {"pruned", "diverged", "complete"} == set(table["state"])
    assert best["settings"]["height"] == max(complete)
    assert (best["trials"], best["pruned"]) == (30, (table["state"] == "pruned").sum())
    assert set(table["kind"]) == {"a", "b"}
    assert {path.suffix for path in tmp_path.glob("it.*")} == {".json", ".csv", ".svg", ".png", ".journal"}


def test_all_trials_that_diverge_are_one_clear_error(tmp_path):
    tuned = Curves()
    with pytest.raises(UserError, match="all 2 trials diverged; search lower learning rates"):
        search(tuned, tmp_path, 2, {"height": [0.95, 0.99]})


KILLED = """
import os, sys
from pathlib import Path
from gensar_core.tuning import fitting
from gensar_core.tuning.study import tune
folder, shop = map(Path, sys.argv[1:])
fit, fits = fitting.TunedMethod.fit, []
def killed(self, settings, checkpoints, key, watch):
    fits.append(key)
    def watched(number, score):
        watch(number, score)
        if len(fits) == 3 and number == 2:
            os._exit(9)
    return fit(self, settings, checkpoints, key, watched)
fitting.TunedMethod.fit = killed
tuned = fitting.TunedMethod("sasrec", 42, "sasrec", {"epochs": 3, "batch_size": 64, "negatives": 16}, shop / "canonical", shop / "samples")
tune(tuned, folder / "it", folder / "checkpoints", 6)
"""


def test_equal_seeds_make_equal_trials_and_a_killed_search_goes_on_to_the_same(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("GENSAR_CHECKPOINT_SECONDS", "0")
    best, table = search(sasrec(shop), tmp_path / "whole", 6)
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(shop.canonical.parent)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 9
    assert not (tmp_path / "killed" / "it.json").exists()
    assert list((tmp_path / "killed" / "checkpoints").iterdir())
    fits = []
    monkeypatch.setattr(TunedMethod, "fit", counted(fits))
    again, same = search(sasrec(shop), tmp_path / "killed", 6)
    assert len(fits) == 4
    assert not (tmp_path / "killed" / "checkpoints").exists()
    assert (again, same.to_dicts()) == (best, table.to_dicts())
    # The best of the search is the best of its table, and its settings fit to the same again.
    row = table.filter(pl.col("state") == "complete").sort("valid_ndcg@5", descending=True).row(0, named=True)
    assert (row["trial"], row["valid_ndcg@5"]) == (best["trial"], best["valid"]["score"])
    method = make("sasrec", shop, 42, **QUICK, **best["settings"])
    assert method.fit(None, "")["best_valid_ndcg@5"] == best["valid"]["score"]
    # More trials add to those that are there.
    _, more = search(sasrec(shop), tmp_path / "killed", 7)
    assert len(fits) == 5
    assert more.head(6).to_dicts() == same.to_dicts()


def counted(fits):
    fit = TunedMethod.fit

    def counting(self, settings, *arguments):
        fits.append(settings)
        return fit(self, settings, *arguments)

    return counting


def test_no_test_target_is_read(shop, tmp_path):
    with_tests = search(sasrec(shop), tmp_path / "with", 2)
    samples = read_samples(shop).filter(pl.col("split") != "test")
    path = shop.samples_folder / "candidates.parquet"
    kept = schema.CANDIDATES.read(path).filter(pl.col("sample_id").is_in(samples["sample_id"].to_list()))
    schema.CANDIDATES.write(kept, path)
    schema.SAMPLES.write(samples, shop.samples_folder / "samples.parquet")
    best, table = search(sasrec(shop), tmp_path / "without", 2)
    assert (best, table.to_dicts()) == (with_tests[0], with_tests[1].to_dicts())


def test_a_grid_is_tried_whole_and_its_validation_is_that_of_the_valid_lists(shop, tmp_path):
    tuned = TunedMethod("itemknn", 42, "itemknn", {}, shop.canonical, shop.samples_folder)
    best, table = search(tuned, tmp_path / "grid", 4, {"decay": [1.0, 0.5], "backward": [1.0, 0.0]})
    assert table.select("decay", "backward").rows() == [(1.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.5, 0.0)]
    lists = load_candidates(shop.samples_folder, "rec", "valid")
    for row in table.iter_rows(named=True):
        method = make("itemknn", shop, decay=row["decay"], backward=row["backward"])
        method.fit(None, "")
        assert row["valid_ndcg@5"] == pytest.approx(ndcg(average_ranks(method.score(lists), lists.present), 5))
    assert best["valid"]["rec_valid_ndcg@5"] == table["valid_ndcg@5"].max()


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({"backbone": "scratch", "size": {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2}}, "size.dropout_rate"),
        ({"backbone": "google-t5/t5-small"}, None),
        ({"backbone": "causal"}, "one_pass.hidden_share"),
    ],
)
def test_a_generator_varies_what_its_backbone_reads(tmp_path, settings, read):
    corpus, samples = write_corpus(tmp_path / "corpus"), write_samples(tmp_path / "samples")
    chosen = TrainingSettings(**settings, epochs=1.0, batch_size=32)
    tuned = TunedGenerator("generator", 42, chosen, corpus, samples)
    space = tuned.space()
    assert {"learning_rate", "weight_decay"} <= space.keys()
    assert {path.split(".")[0] for path in space if "." in path} == ({read.split(".")[0]} if read else set())
    assert ("embedding_rate" in space) == (read is not None)
    if settings["backbone"] == "scratch":
        best, table = search(tuned, tmp_path / "search", 2)
        assert best["settings"].keys() == space.keys()
        assert best["valid"].keys() == {"score", "rec_hr@1", "rec_ndcg@5", "search_hr@1", "search_ndcg@5"}
        assert best["valid"]["score"] == table["valid_ndcg@5"].max()


@pytest.mark.parametrize("kind", kinds())
def test_every_value_of_a_search_space_is_one_that_the_method_takes(kind):
    model = find(kind).settings_model
    for path, one in search_space(model()).items():
        for value in one.choices if isinstance(one, Among) else (one.low, one.high):
            assert getattr(validate(model, {path: value}, kind), path) == value


def command(*arguments):
    return CliRunner().invoke(app, ["tune", *map(str, arguments)], catch_exceptions=False)


def test_the_command_searches_an_entry_of_the_configuration(shop, tmp_path):
    config = tmp_path / "config.yaml"
    methods = {"knn": {"kind": "itemknn", "window": 7}, "popularity": {"kind": "popularity"}}
    config.write_text(yaml.safe_dump({"datasets": {}, "methods": methods, "tuning_trials": 2, "seed": 5}))
    folder = shop.canonical.parent
    done = command(folder, "knn", "--config", config, "--set", "shrinkage=3.0")
    best = json.loads(done.output.splitlines()[-1])
    assert best == json.loads((tmp_path / "tuning" / "shop" / "knn.json").read_text())
    assert (best["trials"], best["seed"]) == (2, 5)
    record = json.loads((tmp_path / "tuning" / "shop" / "knn.stage.json").read_text())
    assert (record["settings"]["window"], record["settings"]["shrinkage"]) == (7, 3.0)
    for arguments, message in (
        (["popularity"], "popularity: has no search space"),
        (["nothing"], "'nothing' is not an entry of methods or generators"),
        (["knn", "--set", "windows=3"], "tune: knn.windows: unknown key; did you mean 'window'"),
        (["knn", "--set", "window=three"], "--set window=three: not JSON"),
        (["knn", "--grid", '{"window": 3}'], "--grid: write a list of values for each key"),
        (["knn", "--grid", '{"window": [0]}'], "tune: knn.window: "),
    ):
        with pytest.raises(UserError, match=message):
            command(folder, *arguments, "--config", config)
