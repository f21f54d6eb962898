"""The paper's generative systems: every column of its tables has a row, and every entry plans."""

import polars as pl
import pytest
import yaml

from gensar_core.baselines.interface import find
from gensar_core.config.experiments import read_experiments
from gensar_core.config.prompts import find_prompts

from .conftest import Workflow
from .planning import ROOT, job_graph

#: The columns of the paper's Table 3 (recommendation) and Table 4 (search), and our rows of them.
TABLE_3 = {
    "GRU4Rec": "gru4rec",
    "SASRec": "sasrec",
    "FMLP-Rec": "fmlp",
    "LRURec": "lrurec",
    "P5-CID": "p5_cid",
    "TIGER": "tiger",
    "LC-Rec": "lcrec",
    "JSR": "jsr",
    "SESRec": "sesrec",
    "UnifiedSSR": "unifiedssr",
    "UniSAR": "unisar",
    "GenSAR": "gensar",
}
TABLE_4 = {
    "QEM": "qem",
    "TEM": "tem",
    "CoPPS": "copps",
    "E5": "e5_tuned",
    "BGE": "bge_tuned",
    "DSI-QG": "dsi_qg",
    "WebUltron": "webultron",
    "GenRet": "genret",
    "JSR": "jsr",
    "UnifiedSSR": "unifiedssr",
    "UniSAR": "unisar",
    "GenSAR": "gensar",
}
SYSTEMS = ["p5_cid", "tiger", "lcrec", "dsi_qg", "webultron", "genret"]
REAL = ROOT / "tests" / "config_real.yaml"
PEERS = ROOT / "tests" / "config_peers.yaml"


def ranked_tasks(experiments, row):
    if row in experiments.methods:
        return set(find(experiments.methods[row].kind).tasks)
    return set(find_prompts(experiments.corpora[experiments.generators[row].corpus].prompts).ranking)


def test_the_overall_table_has_every_column_of_tables_3_and_4():
    experiments = read_experiments(ROOT / "config.yaml")
    overall = experiments.tables[experiments.datasets["amazon"].table].rows
    for task, columns in (("rec", TABLE_3), ("search", TABLE_4)):
        assert not set(columns.values()) - set(overall)
        for row in columns.values():
            assert task in ranked_tasks(experiments, row), row
    # A column of one table alone ranks that task alone.
    for row in set(TABLE_3.values()) - set(TABLE_4.values()) - {"sesrec"}:
        assert ranked_tasks(experiments, row) == {"rec"}, row
    for row in set(TABLE_4.values()) - set(TABLE_3.values()):
        assert ranked_tasks(experiments, row) == {"search"}, row


def test_each_system_competes_as_its_paper_says_and_with_the_catalogue():
    experiments = read_experiments(ROOT / "config.yaml")
    beyond = experiments.tables["beyond"].rows
    for name in SYSTEMS:
        plain, catalogue = experiments.generators[name], experiments.generators[f"{name}_catalogue"]
        assert (plain.likelihood, catalogue.likelihood) == ("vocabulary", "catalogue")
        assert plain.model_copy(update={"likelihood": "catalogue"}) == catalogue
        assert {name, f"{name}_catalogue"} <= set(beyond)


@pytest.mark.parametrize("name", [*SYSTEMS, "tiger_scratch", "webultron_titles"])
def test_every_system_plans_from_its_data_to_its_ranks(workflow, name):
    planned = workflow.planned(f"results/amazon/ranks/{name}.parquet")
    # What is special: vectors of texts, generated queries.
    texts = {"tiger", "tiger_scratch", "lcrec", "webultron"}
    asked = {"dsi_qg", "webultron", "webultron_titles", "genret"}
    assert ("embed_text" in planned) == (name in texts)
    assert ("pseudo_queries" in planned) == (name in asked)
    assert planned - {"embed_text", "pseudo_queries"} == {
        "download_amazon",
        "download_product_search",
        "canonical_amazon",
        "samples",
        "identifiers",
        "corpus",
        "train_generator",
        "rank_generator",
    }


def test_the_table_of_both_likelihoods_plans(workflow):
    # One training a likelihood; WebUltron's first two stages serve both of its rows.
    trained = job_graph(workflow.folder, ["results/tables/amazon_beyond.csv"]).needrun_jobs(exclude_finished=False)
    names = {job.wildcards_dict["generator"] for job in trained if job.rule.name == "train_generator"}
    rows = {f"{name}{ending}" for name in [*SYSTEMS, "gensar"] for ending in ("", "_catalogue")}
    assert names == rows | {"webultron_general", "webultron_generated"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_entries_of_real_data_plan(tmp_path, name):
    values = yaml.safe_load(REAL.read_text())
    for dataset in ("scientific", "beauty"):
        # The raw files are not looked at here.
        values["datasets"][dataset]["raw"] = "download"
    (tmp_path / "real.yaml").write_text(yaml.safe_dump(values))
    workflow = Workflow(tmp_path, tmp_path / "real.yaml")
    for row in (f"{name}_real", f"{name}_real_catalogue"):
        planned = workflow.planned(f"results/scientific/ranks/{row}.parquet")
        assert {"identifiers", "corpus", "train_generator", "rank_generator"} <= planned
        assert ("token_vectors" in planned) == (name in ("tiger", "lcrec"))


@pytest.mark.long
def test_the_systems_run_on_the_demo(tmp_path):
    overlay = yaml.safe_load(PEERS.read_text())
    overlay["datasets"] = {"demo": {"users": 150, "items": 160}}
    overlay["generators"]["gensar"] |= {"epochs": 0.5, "validation_users": 50}
    for name in ("p5_cid", "webultron_general", "webultron_generated", "genret"):
        overlay["generators"].setdefault(name, {})["epochs"] = 0.5
    overlay["identifiers"]["genret_demo"] |= {"first_warmup_epochs": 1, "warmup_epochs": 1, "epochs": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    Workflow(tmp_path, tmp_path / "tiny.yaml").run("results/tables/demo_peers.csv")
    table = pl.read_csv(tmp_path / "results/tables/demo_peers.csv")
    rows = {task: set(table.filter(task=task)["method"]) for task in ("rec", "search")}
    assert rows == {
        "rec": {"random", "popularity", "p5_cid", "tiger", "lcrec"},
        "search": {"random", "query_frequency", "dsi_qg", "webultron", "genret"},
    }
