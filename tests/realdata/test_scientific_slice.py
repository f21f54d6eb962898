"""A slice of Amazon Scientific through the whole flow: real text, real clicks, every method."""

import gzip
import json

import polars as pl
import pytest

from ..workflow.conftest import Workflow
from ..workflow.planning import ROOT

CONFIG = """
datasets:
  slice:
    source: amazon
    category: Scientific
    raw: raw
    table: real
embeddings:
  minilm: {max_tokens: 16}
identifiers:
  joint_real: {epochs: 10, codebook_size: 64}
corpora:
  real: {vocabulary_size: 2000, max_item_tokens: 24}
generators:
  gensar_real:
    size: {d_model: 64, d_ff: 128, d_kv: 16, num_heads: 4, num_layers: 1, num_decoder_layers: 1}
    epochs: 0.5
    validation_users: 100
  gensar_catalogue: {epochs: 1.5}
methods:
  gru4rec: {epochs: 3}
  sasrec: {epochs: 6}
  lrurec: {epochs: 3}
  minilm_head: {epochs: 3}
  tem_text: {epochs: 3}
"""


@pytest.mark.long
def test_a_slice_runs_whole_and_search_frequency_beats_chance(realdata, tmp_path):
    source = realdata / "amazon_scientific"
    raw = tmp_path / "raw"
    raw.mkdir()
    with gzip.open(source / "reviews_Scientific_5.json.gz", "rt") as lines:
        kept = [line for line in lines if json.loads(line)["reviewerID"] < "S00600"]
    with gzip.open(raw / "reviews_Scientific_5.json.gz", "wt") as out:
        out.writelines(kept)
    (raw / "meta_Scientific.json.gz").symlink_to(source / "meta_Scientific.json.gz")
    (tmp_path / "slice.yaml").write_text(CONFIG)

    Workflow(tmp_path, ROOT / "tests" / "config_real.yaml", tmp_path / "slice.yaml").run("results/tables/slice.csv")

    table = pl.read_csv(tmp_path / "results/tables/slice.csv")
    score = {(row["task"], row["method"]): row["ndcg@10"] for row in table.iter_rows(named=True)}
    samples = {row["task"]: row["samples"] for row in table.iter_rows(named=True)}
    # One test target a user and task; all but a few of the 600 users have enough of both.
    assert all(400 < count <= 600 for count in samples.values())
    # 1 + 99 candidates in random order give NDCG@10 of 0.0454.
    assert abs(score["rec", "random"] - 0.0454) < 0.025
    assert score["search", "query_frequency"] > 3 * score["search", "random"]
    # Where items alone compete, the generator learns what to recommend from a few hundred users.
    assert score["rec", "gensar_calibrated"] > 1.5 * score["rec", "random"]
    audit = json.loads((tmp_path / "results/slice/samples/audit.json").read_text())
    assert "leak" in json.dumps(audit)
