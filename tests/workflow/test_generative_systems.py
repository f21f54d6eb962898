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
#: What their papers or their code set, by section and entry.
PUBLISHED = yaml.safe_load("""
generators:
  # OpenP5's script of Electronics and its defaults: 10 epochs, in each of which an example has three instructions.
  p5_cid: {whole_word_embedding: true, optimizer: adamw, learning_rate: 1.0e-3, weight_decay: 0.01, warmup_share: 0.05,
    rate_schedule: linear, gradient_clip: 1.0, batch_size: 128, epochs: 30.0}
  # 10,000 of 200,000 steps at the full rate.
  tiger_scratch: {backbone: scratch, optimizer: adafactor, learning_rate: 1.0e-2, warmup_share: 0.05, batch_size: 256,
    rate_schedule: inverse_square_root, size: {num_layers: 4, num_decoder_layers: 4, num_heads: 6, d_model: 128,
    d_ff: 1024, d_kv: 64, dropout_rate: 0.1}}
  lcrec_causal: {backbone: "causal:huggyllama/llama-7b", learning_rate: 5.0e-5, weight_decay: 0.01, warmup_share: 0.01,
    rate_schedule: cosine, batch_size: 128, epochs: 4.0}
  webultron_general: &stage {start_from: null, epochs: 10.0, learning_rate: 1.0e-3, warmup_share: 0.0, batch_size: 100,
    rate_schedule: linear, gradient_clip: 5.0, untied_output: true}
  webultron_generated: {<<: *stage, start_from: webultron_general, epochs: 20.0}
  webultron: {<<: *stage, start_from: webultron_generated}
  genret: {start_from_identifiers: true, learning_rate: 5.0e-4, warmup_share: 0.0, rate_schedule: constant,
    gradient_clip: 1.0, batch_size: 128}
identifiers:
  p5_cid: {kind: clusters, parts: 20, leaf_size: 500, last_code: sequential}
  tiger: {shared_levels: 0, specific_levels: 3, codebook_size: 256, collisions: extra_digit, commitment: 0.25,
    hidden_sizes: [512, 256, 128], latent_size: 32, sinkhorn: null}
  lcrec: {shared_levels: 0, specific_levels: 4, codebook_size: 256, collisions: sinkhorn_repair, commitment: 0.25,
    hidden_sizes: [2048, 1024, 512, 256, 128, 64], latent_size: 32,
    sinkhorn: {levels: 1, epsilon: 0.003, iterations: 50}}
  dsi_qg: {kind: numbers}
  webultron: {kind: product, subspaces: 24, codebook_size: 256, collisions: none}
  genret: {kind: genret, levels: 3, learning_rate: 5.0e-4, gradient_clip: 1.0, batch_size: 128}
""")
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


def test_each_system_has_the_published_settings_and_the_authors_backbone():
    experiments = read_experiments(ROOT / "config.yaml")
    for section, entries in PUBLISHED.items():
        for name, published in entries.items():
            ours = getattr(experiments, section)[name].model_dump(mode="json")
            assert {key: ours[key] for key in published} == published, name
    for name in SYSTEMS:
        generator = experiments.generators[name]
        corpus = experiments.corpora[generator.corpus]
        assert (generator.backbone, corpus.tokenizer) == ("google-t5/t5-small",) * 2
        assert (corpus.identifier, corpus.max_recommendations) == (name, 5)


def test_rows_of_the_fields_protocol_train_as_long_as_their_papers_and_read_20_clicks():
    """Beauty has 131,413 examples: an example for every prefix of its 22,363 users' training clicks."""
    experiments = read_experiments(ROOT / "config.yaml")
    for name in ("tiger_field", "lcrec_field", "p5_cid_field"):
        generator = experiments.generators[name]
        assert experiments.corpora[generator.corpus].max_recommendations == 20
        assert generator.validate_among == "catalogue"
        assert generator.patience is None
    examples = 198_502 - 3 * 22_363
    tiger = experiments.generators["tiger_field"]
    assert tiger.epochs * examples / tiger.batch_size == pytest.approx(200_000, rel=0.01)
    assert tiger.optimizer == "adafactor"
    # 20 epochs of three instructions an example.
    assert experiments.generators["p5_cid_field"].epochs == 60.0


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
