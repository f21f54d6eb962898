"""docs/add-a-method.md, followed to the letter in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from gensar_core import schema
from gensar_core.config.experiments import load_experiments
from tests.support.method_contract import N_ITEMS, N_NEGATIVES, random_clicks, write_shop
from tests.support.shop import read_samples

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
METHOD, CONTRACT = (text for language, text in BLOCKS if language == "python")
ENTRY = yaml.safe_load(next(text for language, text in BLOCKS if language == "yaml"))

FOLLOW = """
import sys
from pathlib import Path
import pytest
from gensar_core.baselines.run import fit_and_rank
from gensar_core.cli.main import app
app(["methods"], standalone_mode=False)
shop, out = Path(sys.argv[1]), Path(sys.argv[2])
for weight in (1000.0, 0.001):
    fit_and_rank("brands", "brand_affinity", {"brand_weight": weight}, shop / "canonical", shop / "samples", None,
                 out / f"{weight}" / "models" / "brands", out / f"{weight}" / "ranks", 1, None)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/unit/test_brand_affinity.py"]))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package and the tests' helpers with the page's file in its place."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("gensar_core", "tests/support"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("test_*.py"))
    for package in ("tests", "tests/unit"):
        (folder / package).mkdir(exist_ok=True)
        (folder / package / "__init__.py").touch()
    (folder / re.search(r"`(gensar_core/baselines/methods/\w+\.py)`:", PAGE).group(1)).write_text(
        METHOD, encoding="utf-8"
    )
    (folder / "tests" / "unit" / "test_brand_affinity.py").write_text(CONTRACT, encoding="utf-8")
    return folder


def test_the_method_is_short_and_so_is_the_page():
    assert len(METHOD.splitlines()) < 100
    config = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for section, entries in ENTRY.items():
        config[section] |= entries
    assert load_experiments(config).methods["brands"].own() == {"brand_weight": 2.0}


@pytest.mark.slow
def test_it_is_listed_keeps_the_contract_and_ranks_as_the_page_says(checkout, tmp_path):
    # Everybody's brand is one; the item of that brand is never clicked after the query, and yet comes first.
    data = write_shop(tmp_path / "shop", random_clicks()[:12], N_ITEMS)
    items = schema.ITEMS.read(data.canonical / "items.parquet")
    last = {own[-1] for own in random_clicks()[:12]}
    brands = ["Target" if item in last else "Other" for item in range(N_ITEMS)]
    schema.ITEMS.write(items.with_columns(brand=pl.Series(brands)), data.canonical / "items.parquet")
    liked = sorted(last)
    samples = read_samples(data)
    samples = samples.with_columns(
        history_behavior=pl.Series([[0] * len(liked)] * len(samples), dtype=pl.List(pl.UInt8)),
        history_object=pl.Series([liked] * len(samples), dtype=pl.List(pl.Int32)),
    )
    schema.SAMPLES.write(samples, data.samples_folder / "samples.parquet")
    done = subprocess.run(
        [sys.executable, "-c", FOLLOW, str(tmp_path / "shop"), str(tmp_path)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^brand_affinity +search +clicks, searches, attributes +none *$", done.stdout, re.MULTILINE)
    assert re.search(r"\d+ passed", done.stdout)
    ranks, light = (schema.RANKS.read(tmp_path / weight / "ranks" / "brands.parquet") for weight in ("1000.0", "0.001"))
    assert set(ranks["task"]) == {"search"}
    assert set(ranks["n_candidates"]) == {N_NEGATIVES + 1}
    # Only other items of the brand can stand above a target.
    assert ranks["rank"].max() <= len(last)
    assert light["rank"].to_list() != ranks["rank"].to_list()
