"""The table of costs, read from the records of stages."""

import polars as pl
import pytest

from gensar_core.baselines.run import fit_and_rank
from gensar_core.errors import UserError
from gensar_core.evaluation.costs import cost_table, costs
from gensar_core.runtime.stage import read_record, write_json
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop

NAMES = ["sasrec", "random_order"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Fit two methods; return their folders of models, ranks files and names."""
    folder = tmp_path_factory.mktemp("costs")
    shop = write_shop(folder / "shop", random_clicks()[:10], N_ITEMS)
    for name, settings in zip(NAMES, ({"dimensions": 8, "epochs": 1}, {}), strict=True):
        inputs = (shop.canonical, shop.samples_folder, None)
        fit_and_rank(name, name, settings, *inputs, folder / "models" / name, folder / "ranks", 1, None)
    return [folder / "models" / name for name in NAMES], [folder / f"ranks/{name}.parquet" for name in NAMES], NAMES


def test_a_row_holds_what_the_records_of_its_method_say(fitted):
    models, ranks, names = fitted
    table = costs(models, ranks, names)
    fits = [read_record(model / "stage.json") for model in models]
    rankings = [read_record(path.with_suffix(".stage.json")) for path in ranks]
    assert table.to_dict(as_series=False) == {
        "method": names,
        "tasks": ["rec", "rec+search"],
        "parameters": [fit["counts"]["parameters"] for fit in fits],
        "training seconds": [fit["counts"]["training_seconds"] for fit in fits],
        "training CPU seconds": [fit["counts"]["training_cpu_seconds"] for fit in fits],
        "ranking seconds": [ranking["seconds"] for ranking in rankings],
        "device": [fit["device"] for fit in fits],
    }
    assert table["parameters"][0] > 8 * N_ITEMS
    assert table["parameters"][1] == 0


def test_a_stage_that_only_trains_is_counted_whole_with_those_it_started_from(fitted, tmp_path):
    models, ranks, _ = fitted
    record = read_record(models[0] / "stage.json")
    counts = {"parameters": 7, "earlier_seconds": 100.0, "earlier_cpu_seconds": 150.0}
    (tmp_path / "generator").mkdir()
    write_json(
        tmp_path / "generator" / "stage.json", {**record, "counts": counts, "seconds": 12.5, "cpu_seconds": 20.0}
    )
    row = costs([tmp_path / "generator"], ranks[:1], ["generator"]).row(0, named=True)
    assert (row["training seconds"], row["training CPU seconds"]) == (112.5, 170.0)


def test_the_table_is_written_as_csv_and_markdown(fitted, tmp_path):
    cost_table(*fitted, tmp_path / "shop_costs")
    table = pl.read_csv(tmp_path / "shop_costs.csv")
    markdown = (tmp_path / "shop_costs.md").read_text().splitlines()
    assert table["method"].to_list() == fitted[2]
    assert [line.split("|")[1].strip() for line in markdown[2:]] == fitted[2]
    assert f"{table['parameters'][0]:,}" in markdown[2]
    assert read_record(tmp_path / "shop_costs.stage.json")["counts"] == {"rows": 2}


def test_a_missing_record_is_named(fitted, tmp_path):
    models, ranks, names = fitted
    with pytest.raises(UserError, match=r"nowhere/stage\.json: no such"):
        cost_table([tmp_path / "nowhere", models[1]], ranks, names, tmp_path / "x")


def test_runs_of_one_name_are_one_row_of_means(fitted):
    models, ranks, names = fitted
    apart = costs(models, ranks, names)
    together = costs([models[0], *models], [ranks[0], *ranks], ["one", "one", "one"])
    assert together.columns == apart.columns
    row = together.row(0, named=True)
    assert (len(together), row["method"], row["parameters"]) == (1, "one", apart["parameters"][0])
    for column in ("training seconds", "training CPU seconds", "ranking seconds"):
        assert row[column] == pytest.approx((2 * apart[column][0] + apart[column][1]) / 3)
