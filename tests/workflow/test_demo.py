"""The whole flow on the simulated shop: every stage real, the table complete, its results adopted elsewhere."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gensar_core import schema
from gensar_core.cli import adoption
from gensar_core.cli.main import inspect
from gensar_core.errors import UserError

from .conftest import COLLISIONS, DEMO, TABLE, TINY, Workflow
from .planning import ROOT

COLUMNS = ["task", "method", "hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "samples"]


def test_the_table_holds_every_row_of_both_tasks(tiny_demo):
    table = pl.read_csv(tiny_demo.folder / "results/tables/demo.csv")
    assert table.columns == COLUMNS
    rows = set(table.select("task", "method").iter_rows())
    assert rows == {
        ("rec", "random"),
        ("search", "random"),
        ("rec", "popularity"),
        ("rec", "sasrec"),
        ("search", "minilm_cosine"),
        ("search", "query_frequency"),
        ("rec", "gensar_demo"),
        ("search", "gensar_demo"),
        ("rec", "gensar_demo_t5"),
        ("search", "gensar_demo_t5"),
        ("rec", "gensar_demo_ensemble"),
        ("search", "gensar_demo_ensemble"),
    }
    values = table.select(COLUMNS[2:7])
    assert all(0.0 <= value <= 1.0 for row in values.iter_rows() for value in row)
    assert all(row["hr@1"] <= row["ndcg@5"] <= row["hr@5"] <= row["hr@10"] for row in table.iter_rows(named=True))
    markdown = (tiny_demo.folder / "results/tables/demo.md").read_text()
    assert all(f"{row['hr@1']:.4f}" in markdown for row in table.iter_rows(named=True))


def test_every_stage_leaves_a_record_and_no_checkpoint_or_partial_file(tiny_demo):
    results = tiny_demo.folder / "results"
    records = list(results.rglob("*stage.json"))
    stages = {json.loads(record.read_text())["stage"] for record in records}
    assert len(records) >= 14
    assert {"canonical", "samples"} <= {stage.split()[0] for stage in stages}
    assert not list(results.rglob("*.partial*"))
    assert not list(results.rglob("*.pt"))


def test_dirty_lines_were_counted_not_fatal(tiny_demo):
    counts = json.loads((tiny_demo.folder / "results/demo/canonical/stage.json").read_text())["counts"]
    assert sum(value for name, value in counts.items() if name.endswith("broken_lines")) > 0


def test_strict_samples_hold_no_leak(tiny_demo):
    samples = schema.SAMPLES.read(tiny_demo.folder / "results/demo/samples/samples.parquet")
    events = schema.EVENTS.read(tiny_demo.folder / "results/demo/canonical/events.parquet")
    held_out = samples.filter(pl.col("split") != "train").select("user_id", item=pl.col("target_item")).unique()
    train = samples.filter(pl.col("split") == "train")
    assert train.join(held_out, left_on=["user_id", "target_item"], right_on=["user_id", "item"], how="semi").is_empty()
    inputs = train.select("user_id", "history_behavior", "history_object").explode("history_behavior", "history_object")
    clicked = inputs.filter(pl.col("history_behavior") != schema.SEARCHED_QUERY)
    assert clicked.join(
        held_out, left_on=["user_id", "history_object"], right_on=["user_id", "item"], how="semi"
    ).is_empty()
    assert set(samples.get_column("split").unique()) == {"train", "valid", "test"}
    assert len(samples.join(events, on="event_id", how="semi")) == len(samples)


def test_the_quality_of_each_identifier_set_is_told_and_drawn(tiny_demo):
    results = tiny_demo.folder / "results"
    drawn = json.loads((results / "figures/demo_collisions.stage.json").read_text())["counts"]["raw_collision_rate"]
    assert {name: list(sides) for name, sides in drawn.items()} == {
        "joint_demo": ["semantic", "collaborative"],
        "only_semantic_demo": ["semantic"],
        "only_collaborative_demo": ["collaborative"],
    }
    report = json.loads((results / "demo/identifiers/joint_demo/quality.json").read_text())
    prefix = report["semantic"]["prefixes"][0]
    # The simulated shop's texts name the category, so items with one first code are far more often alike than any two.
    assert prefix["same_category"]["lift"] > 1.5
    svg = (results / "figures/demo_collisions.svg").read_text()
    assert "only_collaborative_demo" in svg


@pytest.mark.parametrize(
    ("name", "family"), [("gensar_demo", AutoModelForCausalLM), ("gensar_demo_t5", AutoModelForSeq2SeqLM)]
)
def test_a_trained_generator_opens_with_transformers(tiny_demo, name, family):
    folder = tiny_demo.folder / "results/demo/models" / name
    model = family.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("<R_I>", add_special_tokens=False)["input_ids"]) == 1
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)


def test_the_costs_of_every_row_are_known(tiny_demo):
    rows = pl.read_csv(tiny_demo.folder / "results/tables/demo_costs.csv").rows_by_key(
        "method", named=True, unique=True
    )
    table = pl.read_csv(tiny_demo.folder / "results/tables/demo.csv")
    # A fusion costs what its parts do.
    assert rows.keys() == set(table["method"]) - {"gensar_demo_ensemble"}
    for name, row in rows.items():
        assert row["tasks"] == "+".join(sorted(table.filter(pl.col("method") == name)["task"]))
        assert (row["parameters"] > 0) == (name in {"sasrec", "gensar_demo", "gensar_demo_t5"})
        assert row["training seconds"] >= 0.0
        assert row["ranking seconds"] >= 0.0
        assert row["ranking seconds"] > 0.0 or not name.startswith("gensar")


def test_one_setting_reruns_its_stage_and_what_follows(tiny_demo, tmp_path):
    assert tiny_demo.planned(*DEMO) == set()
    lower = tmp_path / "lower.yaml"
    lower.write_text("generators: {gensar_demo: {learning_rate: 2.0e-3}}  # lower\n")
    following = {"train_generator", "rank_generator", "fuse", "overall_table"}
    assert tiny_demo.planned(TABLE, COLLISIONS, overlays=(lower,)) == following


def test_inspect_shows_what_is_there(tiny_demo, capsys):
    inspect(Path(tiny_demo.folder / "results/demo"))
    shown = capsys.readouterr().out
    assert "canonical/events.parquet" in shown
    assert "models/gensar_demo" in shown


ADOPTED = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(TINY), "--", TABLE]


@pytest.fixture(scope="module")
def plan(tiny_demo):
    """What Snakemake prints of all jobs that lead to the table."""
    return adoption._snakemake(tiny_demo.folder, "--dry-run", "--forceall", *ADOPTED)


@pytest.fixture
def copy(tiny_demo, tmp_path):
    """The demo's results, as they are copied: with other dates, and without Snakemake's notes."""
    shutil.copytree(tiny_demo.folder / "results", tmp_path / "results", copy_function=shutil.copyfile)
    return Workflow(tmp_path, TINY)


def planning(monkeypatch, plan):
    """Answer dry runs by a plan, since each takes seconds; returns what Snakemake is asked."""
    snakemake, asked = adoption._snakemake, []

    def answer(folder, *words):
        asked.append(words)
        return plan if "--dry-run" in words else snakemake(folder, *words)

    monkeypatch.setattr(adoption, "_snakemake", answer)
    return asked


def test_copied_results_are_adopted_without_a_change(copy, plan, tmp_path, monkeypatch):
    planning(monkeypatch, plan)
    before = {path: path.read_bytes() for path in tmp_path.rglob("results/**/*") if path.is_file()}
    adopted = adoption.adopt(tmp_path, ADOPTED)
    assert {"results/demo/models/gensar_demo/stage.json", "results/tables/demo.stage.json"} <= set(adopted)
    assert copy.planned(TABLE) == set()
    assert {path: path.read_bytes() for path in before} == before


def edit(folder, old, new):
    config = folder / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def rewrite(path, key, value):
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


MODEL = "results/demo/models/gensar_demo"
REFUSED = {
    "a bit": (lambda f: flip(f / MODEL / "model.safetensors"), r"model\.safetensors: is not what was written"),
    "a setting": (
        lambda f: edit(f, "batch_tokens: 4096\n", "batch_tokens: 8192\n"),
        rf"{MODEL}/stage\.json: was made with batch_tokens 4096, not 8192; delete .* to have it made again",
    ),
    "the seed": (lambda f: edit(f, "seed: 42", "seed: 43"), r"was made with seed 42, not 43"),
    "the code": (
        lambda f: rewrite(f / "results/demo/samples/stage.json", "code", "0"),
        r"samples/stage\.json: was made by another version of gensar_core\.samples\.build",
    ),
    "another input": (
        lambda f: rewrite(f / MODEL / "stage.json", "inputs", {"results/demo/samples/samples.parquet": "0"}),
        rf"{MODEL}/stage\.json: was made from another results/demo/samples/samples\.parquet than stands there",
    ),
    "an input of no use": (
        lambda f: rewrite(f / MODEL / "stage.json", "inputs", {"results/demo/embeddings/e5/vectors.safetensors": "0"}),
        rf"{MODEL}/stage\.json: was made from other inputs than the configuration names",
    ),
}


@pytest.mark.parametrize(("spoil", "told"), REFUSED.values(), ids=REFUSED)
def test_results_that_would_be_made_otherwise_are_not_adopted(copy, plan, monkeypatch, spoil, told):
    spoil(copy.folder)
    asked = planning(monkeypatch, plan)
    with pytest.raises(UserError, match=rf"{told}.*nothing has been adopted"):
        adoption.adopt(copy.folder, ADOPTED)
    assert [words[0] for words in asked] == ["--dry-run"]
