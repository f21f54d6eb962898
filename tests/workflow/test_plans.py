"""Plans and mistakes, without running a stage."""

import subprocess
import sys

import pytest

from .planning import ROOT


def test_the_papers_experiment_shows_the_full_plan(workflow):
    assert workflow.planned("results/tables/amazon.csv") == {
        "download_amazon",
        "download_product_search",
        "canonical_amazon",
        "samples",
        "training_negatives",
        "embed_text",
        "embed_sequential",
        "identifiers",
        "pseudo_queries",
        "corpus",
        "train_generator",
        "rank_generator",
        "method",
        "fuse",
        "overall_table",
    }


def test_costs_need_what_the_table_needs(workflow):
    planned = workflow.planned("results/tables/amazon.csv")
    costs = workflow.planned("results/tables/amazon_costs.csv")
    assert costs - planned == {"costs"}
    assert {"method", "train_generator", "rank_generator"} <= costs
    # A fusion costs what its parts do.
    assert "fuse" not in costs
    ablation = workflow.planned("results/tables/amazon_ablation.csv")
    assert workflow.planned("results/tables/amazon_ablation_costs.csv") - ablation == {"named_costs"}


def test_training_negatives_need_no_model(workflow):
    assert workflow.planned("results/demo/training_negatives/training_negatives.parquet") == {
        "simulate",
        "canonical_amazon",
        "samples",
        "training_negatives",
    }


def test_the_figure_of_collision_rates_needs_both_embeddings_and_no_generator(workflow):
    assert workflow.planned("results/figures/amazon_collisions.svg") == {
        "download_amazon",
        "download_product_search",
        "canonical_amazon",
        "samples",
        "embed_text",
        "embed_sequential",
        "method",
        "identifiers",
        "identifier_quality",
        "collisions",
    }


def test_a_page_without_trained_rows_draws_no_training(workflow):
    with workflow.configuration() as values:
        values["tables"]["demo"] = {"rows": ["random", "popularity", "bm25"]}
        values["datasets"]["demo"]["compared_identifiers"] = []
    assert workflow.planned("results/overview/demo.html") == {
        "simulate", "canonical_amazon", "samples", "method", "statistics", "overall_table", "overview",
    }  # fmt: skip


def test_vectors_of_a_joint_method_feed_identifiers(workflow):
    planned = workflow.planned("results/demo/embeddings/unisar/vectors.safetensors")
    assert {"training_negatives", "method", "embed_sequential"} <= planned


def test_identifiers_need_what_their_kind_declares(workflow):
    kinds = {
        "numbers": ({"kind": "numbers"}, set()),
        "titles": ({"kind": "titles"}, set()),
        "clusters": ({"kind": "clusters"}, {"samples"}),
        "product": ({"kind": "product", "semantic": "minilm"}, {"embed_text"}),
        "quick": ({"kind": "rq_kmeans", "semantic": "minilm"}, {"embed_text"}),
    }
    with workflow.configuration() as values:
        values["identifiers"] |= {name: entry for name, (entry, _) in kinds.items()}
    for name, (_, needed) in kinds.items():
        planned = workflow.planned(f"results/demo/identifiers/{name}/identifiers.parquet")
        assert planned == {"simulate", "canonical_amazon", "identifiers", *needed}, name


# Other mistakes take the same way out of Snakemake; tests/unit/config has them all.
@pytest.mark.parametrize(
    ("old", "new", "target", "expected"),
    [
        ("max_tokens: 256", "max_token: 256", "", "embeddings.bge.max_token: unknown key; did you mean 'max_tokens'?"),
        ("kind: popularity", "kind: popular", "", "methods.popularity.kind: no method 'popular'"),
        ("raw: download", "raw: nowhere", "", "datasets.amazon.raw: there is no nowhere/reviews_Electronics_5.json.gz"),
        (
            "",
            "",
            "_ablations",
            "amazon_ablations.csv: no rule makes it; did you mean results/tables/amazon_ablation.csv?",
        ),
    ],
    ids=["unknown key", "unknown method", "missing file", "misspelt target"],
)
def test_a_mistake_is_one_clear_line(workflow, old, new, target, expected):
    config = workflow.folder / "config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))
    done = workflow.run(f"results/tables/amazon{target}.csv", options=("--dry-run",), check=False)
    assert done.returncode == 1
    assert sum(expected in line for line in done.stdout.splitlines()) == 1
    assert "Traceback (most recent call last)" not in done.stdout


def test_another_workflow_may_import_this_one(workflow):
    (workflow.folder / "config.yaml").rename(workflow.folder / "settings.yaml")
    (workflow.folder / "Snakefile").write_text(
        'configfile: "settings.yaml"\n'
        f'module gensar:\n    snakefile: "{ROOT / "Snakefile"}"\n    config: config\n'
        "use rule * from gensar as gensar_*\n"
        'rule mine:\n    default_target: True\n    input: "results/tables/demo.csv"\n'
        '    output: "mine.txt"\n    shell: "cp {input} {output}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1"],
        cwd=workflow.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    for rule in ("gensar_simulate", "gensar_train_generator", "gensar_overall_table", "mine"):
        assert f"rule {rule}:" in told
