"""Mistakes in config.yaml are refused in one line that names the key; right configurations resolve as written."""

import copy
import re
from pathlib import Path

import pytest
import yaml

from gensar_core.baselines.check import check_methods
from gensar_core.config.experiments import load_experiments, read_experiments
from gensar_core.config.generators import TrainingSettings
from gensar_core.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def values():
    return {
        "datasets": {"shop": {"source": "simulated", "users": 200, "items": 200, "table": "overall"}},
        "embeddings": {"text": {"kind": "text", "model": "m"}, "clicks": {"kind": "sequential", "method": "sasrec"}},
        "identifiers": {
            "joint": {"semantic": "text", "collaborative": "clicks"},
            "deep": {"base": "joint", "shared_levels": 1, "specific_levels": 3},
        },
        "corpora": {"full": {"identifier": "joint"}, "wo_nrip": {"base": "full", "drop": ["nrip"]}},
        "generators": {"gensar": {"corpus": "full", "size": {"d_model": 32}}},
        "methods": {"sasrec": {"kind": "sasrec"}},
        "tables": {"overall": {"rows": ["sasrec", "gensar"]}},
    }


def put(values, path, value):
    changed = copy.deepcopy(values)
    place = changed
    *parents, last = path.split(".")
    for key in parents:
        place = place.setdefault(key, {})
    place[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("tables.full", {"rows": ["sasrec"]}, "tables.full: every data set has another table of this name; rename it"),
        ("tables.ablation_costs", {"rows": ["sasrec"]}, "tables.ablation_costs: every data set has another table of this name"),
        ("generators.gensar.learnign_rate", 0.1, "generators.gensar.learnign_rate: unknown key; did you mean 'learning_rate'"),
        ("datasets.shop.samples", {"negativs": 9}, "datasets.shop.samples.negativs: unknown key; did you mean 'negatives'"),
        ("generators.gensar.start_from", "tiger", "generators.gensar.start_from: 'tiger' is not an entry of generators (there: gensar)"),
        ("generators.gensar.start_from", "gensar", "generators.gensar.start_from: circular: gensar -> gensar"),
        ("generators", {"a": {"corpus": "full", "start_from": "b"}, "b": {"base": "a", "start_from": "c"}, "c": {"base": "a"}, "gensar": {"corpus": "full"}}, "generators.a.start_from: circular: a -> b -> c -> b"),
        ("generators.next", {"base": "gensar", "start_from": "gensar", "warm_start": True, "backbone": "scratch"}, "generators.next: value error, warm_start would overwrite the weights of start_from; set warm_start: false"),
        ("generators.next", {"corpus": "full", "start_from": "gensar", "backbone": "scratch"}, "generators.next.backbone: is 'scratch', but start_from: gensar has 'google-t5/t5-small'; leave it out"),
        ("generators.next", {"base": "gensar", "start_from": "gensar", "size": {"d_model": 64}}, "generators.next.size.d_model: is 64, but start_from: gensar has 32; leave it out"),
        ("generators.gensar.start_from_identifiers", True, "generators.gensar.start_from_identifiers: no T5 learned identifiers of kind rqvae; write false, or give the corpus those of kind genret"),
        ("generators.next", {"corpus": "full", "start_from": "gensar", "start_from_identifiers": True}, "generators.next: value error, start_from and start_from_identifiers are both set"),
        ("generators.next", {"base": "gensar", "start_from_identifiers": True, "warm_start": True, "backbone": "scratch"}, "generators.next: value error, warm_start would overwrite the weights of start_from_identifiers"),
        ("generators.gensar.size.dmodel", 3, "generators.gensar.size.dmodel: unknown key; did you mean 'd_model'"),
        ("generators.gensar.learning_rate", "1e-4", "generators.gensar.learning_rate: '1e-4' is text, not a number"),
        ("generators.gensar.batch_size", "64", "generators.gensar.batch_size: '64' is text"),
        ("generators.gensar.batch_size", 0, "generators.gensar.batch_size: input should be greater than 0, not 0"),
        ("datasets.shop.users", 10.5, "datasets.shop.users:"),
        ("datasets.shop.samples", {"time_shares": [0.8, 0.1, 0.2]}, "datasets.shop.samples.time_shares: value error, expected three positive shares that sum to 1, not [0.8, 0.1, 0.2]"),
        ("datasets.shop.samples", {"time_shares": [0.9, 0.1]}, "samples.time_shares: value error, expected three positive shares"),
        ("datasets.shop.samples", {"time_shares": [1.1, -0.2, 0.1]}, "samples.time_shares: value error, expected three positive shares"),
        ("datasets.shop.samples", {"time_shares": [0.8, 0.2, 0.0]}, "samples.time_shares: value error, expected three positive shares"),
        ("datasets.shop.samples", {"split": "times"}, "datasets.shop.samples.split: input should be 'leave_one_out' or 'time', not 'times'"),
        ("datasets.shop.training_negatives", {"negative": 9}, "training_negatives.negative: unknown key; did you mean 'negatives'"),
        ("datasets.shop.source", "ftp", "config.yaml: datasets.shop.source: 'ftp' is no source; (there: amazon, simulated, eventlog, kuaisar, qilin)"),
        ("datasets.shop.source", "evenlog", "datasets.shop.source: 'evenlog' is no source; did you mean 'eventlog'? (there: amazon, simulated, eventlog, kuaisar, qilin)"),
        ("datasets.shop.source", "KuaiSAR", "did you mean 'kuaisar'?"), ("datasets.shop", {"items": "i.csv"}, "datasets.shop.source: this key is required"),
        ("embeddings.text.kind", "texts", "embeddings.text.kind: 'texts' is no kind; did you mean 'text'? (there: text, sequential, trained_text)"),
        ("identifiers.joint.semantic", "bert", "identifiers.joint.semantic: 'bert' is not an entry of embeddings (there: clicks, text)"),
        ("corpora.full.identifier", "none", "corpora.full.identifier: 'none' is not an entry of identifiers"),
        ("embeddings.clicks.method", "gru", "embeddings.clicks.method: 'gru' is not an entry of methods"),
        ("tables.overall.rows", ["sasrec", "tiger"], "tables.overall.rows.1: 'tiger' is not an entry of methods or generators"),
        ("tables.overall.rows", ["gensr"], "is not an entry of methods or generators or fusions; did you mean 'gensar'?"),
        ("datasets.shop.table", "mine", "datasets.shop.table: 'mine' is not an entry of tables"),
        ("corpora.wo_nrip.base", "whole", "corpora.wo_nrip.base: 'whole' is not an entry here"),
        ("identifiers.joint.base", "deep", "circular: joint -> deep -> joint"),
        ("corpora.full.tasks", ["nrip", "nsqq"], "corpora.full.tasks.1: 'nsqq' is not an entry of its prompt file; did you mean 'nsqp'?"),
        ("corpora.full.drop", ["descid"], "corpora.full.drop.0: 'descid' is not an entry of its prompt file; did you mean 'desc2id'?"),
        ("corpora.full.drop", ["nrip", "nsqp", "nsip", "desc2id", "id2desc"], "corpora.full.drop: no task is left; drop fewer of nrip,"),
        ("corpora.full.tasks", ["doc2query"], "corpora.full.pseudo_queries: its tasks ask them; name an entry of pseudo_queries"),
        ("corpora.full.prompts", "tigr", "corpora.full.prompts: 'tigr' is not an entry of the prompt files, nor a file; did you mean 'tiger'?"),
        ("corpora.wo_nrip.base", ["full"], "corpora.wo_nrip.base: name one entry of this section, not ['full']"),
        ("corpora.wo_nrip.base", {}, "corpora.wo_nrip.base: name one entry of this section, not {}"),
        ("corpora.wo_nrip.base", "ful", "corpora.wo_nrip.base: 'ful' is not an entry here; did you mean 'full'?"),
        ("corpora.full", None, "corpora.full: is the base of wo_nrip, so it must be a mapping of settings"),
        ("corpora.full", ["joint"], "corpora.full: is the base of wo_nrip, so it must be a mapping of settings"),
        ("tables.overall.rows", ["sasrek"], "tables.overall.rows.0: 'sasrek' is not an entry of methods or generators or fusions; did you mean 'sasrec'?"),
        ("generators.gensar.epochs", float("inf"), "generators.gensar.epochs: input should be a finite number, not inf"),
        ("generators.gensar.scatter", 1_000_000_000, "generators.gensar.scatter: input should be less than or equal to 10000"),
        ("datasets.shop.scatter", 1_000_000_000, "datasets.shop.scatter: input should be less than or equal to 10000"),
        ("generators.gensar.corpus", "x" * 5000, "(5,002 characters) is not an entry of corpora"),
        ("generators.gensar.epochs", list(range(5000)), "input should be a valid number, not [0, 1, 2"),
        ("datasets.shop_overall", {"source": "simulated", "users": 200, "items": 200}, "datasets.shop: results/tables/shop_overall is a file of data set shop_overall, too; rename one of them"),
        ("datasets.shop_costs", {"source": "simulated", "users": 200, "items": 200}, "results/tables/shop_costs is a file of data set shop_costs, too"),
        ("datasets.shop_overall_costs", {"source": "simulated", "users": 200, "items": 200}, "results/tables/shop_overall_costs is a file of data set shop_overall_costs, too"),
        ("datasets.figures", {"source": "simulated", "users": 200, "items": 200}, "datasets.figures: results/figures holds other results; rename it"),
        ("figures.collisions", {"series": [{"label": "a", "rows": ["sasrec"]}]}, "figures.collisions: every data set has another figure of this name; rename it"),
        ("figures.sasrec_training", {"series": [{"label": "a", "rows": ["sasrec"]}]}, "figures.sasrec_training: every data set has another figure of this name"),
        ("generators.gensar.task_weights", {"nsi": 1.0}, "generators.gensar.task_weights.nsi: 'nsi' is not an entry of the corpora's prompt files; did you mean 'nsip'?"),
        ("generators.gensar.task_weights", {"nsip": "all"}, "generators.gensar.task_weights.nsip: input should be a valid number, not 'all'"),
        ("generators.gensar.task_weights", {"nsip": -0.5}, "generators.gensar.task_weights.nsip: input should be greater than or equal to 0"),
        ("generators.gensar.task_weights", {"nsip": {"examples": 1.5}}, "task_weights.nsip.examples: input should be a valid integer, not 1.5"),
        ("generators.gensar.task_weights", {"nsip": {"examples": 9, "exmaples": 9}}, "nsip.exmaples: unknown key; did you mean 'examples'?"),
        ("generators.gensar.validation_choice", "last", "validation_choice: input should be 'spread' or 'latest', not 'last'"),
        ("generators.gensar.ranking", {"beams": 30, "other_identifier": {"rec": 1.0}}, "other_identifier needs scores of all"),
        ("generators.gensar", {"corpus": "full", "likelihood": "catalogue", "ranking": {"beams": 30}}, "likelihood: vocabulary"),
        ("generators.gensar", {"corpus": "full", "backbone": "causal", "untied_output": True}, "untied_output is for a T5; set it to false for a causal model"),
        ("generators.gensar", {"corpus": "full", "backbone": "causal", "optimizer": "adafactor"}, "optimizer: adafactor is for a T5; write adamw for a causal model"),
        ("generators.gensar", {"corpus": "full", "backbone": "causal", "whole_word_embedding": True}, "whole_word_embedding is for a T5; set it to false"),
        ("generators.gensar", {"corpus": "full", "backbone": "scratch", "warm_start": True, "untied_output": True}, "warm_start makes the embeddings the output matrix; set untied_output: false"),
        ("generators.gensar", {"corpus": "full", "warm_start": True}, "warm_start needs backbone: scratch"),
        ("datasets.shop.compared_identifiers", ["joint", "single"], "datasets.shop.compared_identifiers.1: 'single' is not an entry of identifiers"),
        ("datasets.toys", {"source": "amazon", "category": "Toys", "raw": "download", "release": 2023}, "release 2023 has no published 5-core; give 'min_interactions', usually 5"),
        ("datasset", {}, "datasset: unknown key; did you mean 'datasets'"),
        ("datasets.a b", {"source": "simulated", "users": 9, "items": 200}, "datasets.a b"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_naming_the_key(values, path, value, expected):
    with pytest.raises(UserError) as caught:
        load_experiments(put(values, path, value), "config.yaml")
    message = str(caught.value)
    assert message.startswith("config.yaml: ")
    assert expected in message
    assert "\n" not in message
    assert len(message) < 300


def test_the_cure_for_a_number_read_as_text_is_valid_yaml(values):
    with pytest.raises(UserError) as caught:
        load_experiments(put(values, "generators.gensar.learning_rate", "1e-5"), "config.yaml")
    cure = str(caught.value).rsplit("write ", 1)[1]
    assert yaml.safe_load(cure) == 1e-5


def test_base_takes_over_and_overrides_key_by_key(values):
    experiments = load_experiments(values)
    assert experiments.identifiers["deep"].semantic == "text"
    assert experiments.identifiers["deep"].shared_levels == 1
    assert experiments.identifiers["joint"].shared_levels == 2
    assert "nrip" not in experiments.corpora["wo_nrip"].active_tasks()
    assert experiments.corpora["full"].active_tasks()[0] == "nrip"


def test_a_long_chain_of_bases_is_followed_and_a_long_circle_refused(values):
    chain = {f"c{number}": {"base": f"c{number + 1}"} for number in range(3000)}
    long = put(values, "corpora", values["corpora"] | chain | {"c3000": {"base": "wo_nrip", "max_searches": 3}})
    assert load_experiments(long).corpora["c0"] == load_experiments(long).corpora["c3000"]
    assert load_experiments(long).corpora["c0"].max_searches == 3
    with pytest.raises(UserError, match=r"corpora.c0.base: circular: c0 -> c1 -> .* -> \.\.\.$"):
        load_experiments(put(long, "corpora.c3000.base", "c0"))


def test_a_staged_training_has_backbone_and_size_of_its_first_stage(values):
    first = put(values, "generators.gensar", {"corpus": "full", "backbone": "scratch", "size": {"d_model": 32}})
    staged = put(first, "generators.second", {"corpus": "wo_nrip", "start_from": "gensar", "epochs": 2.0})
    experiments = load_experiments(put(staged, "generators.a_third", {"base": "gensar", "start_from": "second"}))
    for name in ("second", "a_third"):
        training = experiments.generators[name].part(TrainingSettings)
        assert (training.backbone, training.size.d_model) == ("scratch", 32)
    assert experiments.generators["second"].epochs == 2.0
    assert list(experiments.generators) == ["gensar", "second", "a_third"]


def test_a_staged_training_of_a_causal_model_has_its_shape_and_dropout_of_its_own(values):
    first = {"corpus": "full", "backbone": "causal", "one_pass": {"hidden_size": 48, "dropout": 0.5}}
    second = {"corpus": "full", "start_from": "gensar", "one_pass": {"dropout": 0.1}}
    both = put(put(values, "generators.gensar", first), "generators.second", second)
    one_pass = load_experiments(both).generators["second"].one_pass
    assert (one_pass.hidden_size, one_pass.dropout) == (48, 0.1)
    with pytest.raises(
        UserError, match=r"second\.one_pass\.num_layers: is 9, but start_from: gensar has 3; leave it out"
    ):
        load_experiments(put(both, "generators.second.one_pass.num_layers", 9))


def test_a_training_that_starts_from_its_identifiers_takes_their_t5(values):
    learned = put(values, "identifiers.learned", {"kind": "genret", "backbone": "scratch", "size": {"d_model": 32}})
    learned = put(learned, "corpora.full", {"identifier": "learned"})
    learned = put(learned, "generators.next", {"corpus": "full", "start_from_identifiers": True})
    entry = load_experiments(learned).generators["next"]
    assert (entry.backbone, entry.size.d_model) == ("scratch", 32)
    # What an entry inherits from its base does not count: identifiers may be of another T5.
    other = put(learned, "generators.next.size", {"d_model": 64})
    assert load_experiments(other).generators["next"].size.d_model == 32


def test_rows_of_tables_have_names_of_their_own_and_fusions_are_of_entries(values):
    fused = put(values, "fusions.both", {"parts": ["sasrec", "gensar"]})
    assert load_experiments(put(fused, "tables.overall.rows", ["both"])).fusions["both"].parts == ["sasrec", "gensar"]
    shown = {"rows": ["sasrec", "both"], "among": "catalogue"}
    with pytest.raises(UserError, match=r"tables.overall.rows: the fusion both has the generator gensar as a part"):
        load_experiments(put(fused, "tables.overall", shown))
    of_methods = put(fused, "fusions.both.parts", ["sasrec"])
    assert load_experiments(put(of_methods, "tables.overall", shown)).tables["overall"].rows == ["sasrec", "both"]
    with pytest.raises(UserError, match=r"fusions.sasrec: a method has the same name"):
        load_experiments(put(values, "fusions.sasrec", {"parts": ["gensar"]}))
    with pytest.raises(UserError, match=r"fusions.both.parts.0: 'nobody' is not an entry of methods or generators"):
        load_experiments(put(values, "fusions.both", {"parts": ["nobody"]}))
    with pytest.raises(UserError, match=r"fusions.both.parts"):
        load_experiments(put(values, "fusions.both", {"parts": []}))


def test_reordered_keys_give_the_same_canonical_settings(values):
    turned = put(values, "identifiers.joint", dict(reversed(values["identifiers"]["joint"].items())))
    assert (
        load_experiments(values).identifiers["deep"].of_stage().canonical()
        == load_experiments(turned).identifiers["deep"].of_stage().canonical()
    )


def test_a_method_is_checked_by_its_own_file(values, tmp_path):
    for method, expected in [
        ({"kind": "sasrec", "hidden": 3}, "methods.sasrec.hidden: unknown key"),
        ({"kind": "sasrecc"}, "methods.sasrec.kind: no method 'sasrecc'"),
    ]:
        experiments = load_experiments(put(values, "methods.sasrec", method))
        for _ in range(2):
            # A configuration found wrong is not remembered as right.
            with pytest.raises(UserError, match=expected):
                check_methods(experiments, checked=tmp_path)
    check_methods(load_experiments(values), checked=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("path", "value", "cure"),
    [
        ("generators.gensar.checkpoint_steps", 200, "write checkpoint_seconds beside seed, once for all"),
        ("methods.sasrec.item_text", True, "write item_vectors (id, text or both)"),
        ("methods.knn", {"kind": "itemknn", "neighbours": 50}, "write neighbors"),
    ],
)
def test_a_key_of_an_earlier_version_is_answered_with_the_new_key(values, path, value, cure):
    key = path if not isinstance(value, dict) else f"{path}.neighbours"
    with pytest.raises(UserError, match=rf"^config: {key}: unknown key; .*{re.escape(cure)}$"):
        check_methods(load_experiments(put(values, path, value)))


def test_the_shipped_configuration_is_valid_and_holds_the_papers_experiment():
    experiments = read_experiments(ROOT / "config.yaml")
    check_methods(experiments)
    amazon, joint = experiments.datasets["amazon"], experiments.identifiers["joint"]
    corpus, generator = experiments.corpora["full"], experiments.generators["gensar"]
    assert (amazon.category, amazon.raw, amazon.samples.negatives) == ("Electronics", "download", 99)
    assert (joint.shared_levels, joint.specific_levels, joint.codebook_size, joint.latent_size) == (2, 2, 256, 32)
    assert (joint.epochs, joint.batch_size, joint.learning_rate, joint.commitment) == (500, 1024, 1e-3, 0.25)
    # As run_index.py and the defaults of main.py say: `--lr_scheduler_type linear`, 50 warm-up epochs, Sinkhorn last.
    assert (joint.rate_schedule, joint.warmup_share * joint.epochs) == ("linear", 50)
    assert joint.sinkhorn is not None
    assert (joint.sinkhorn.levels, joint.sinkhorn.epsilon, joint.sinkhorn.iterations) == (1, 0.003, 50)
    assert experiments.embeddings[joint.semantic].model == "BAAI/bge-base-en-v1.5"
    assert (corpus.max_recommendations, corpus.max_searches) == (5, 5)
    assert (corpus.max_item_tokens, corpus.max_query_tokens) == (256, 64)
    assert (generator.backbone, generator.epochs, generator.batch_size) == ("google-t5/t5-small", 200, 64 * 16 * 8)
    assert (generator.learning_rate, generator.weight_decay, generator.warmup_share) == (1e-3, 1e-7, 0.01)
    # What the authors' run draws each epoch beside all of nrip, and how they validate.
    drawn = {name: weight.examples for name, weight in generator.task_weights.items()}
    sides = [f"{task}_{side}" for task in ("desc2id", "id2desc") for side in ("semantic", "collaborative")]
    assert drawn == {"nsip": 100_000, "nsqp": 1_000, "doc2query": 1_000, **dict.fromkeys(sides, 1_000)}
    assert (generator.patience, generator.validation_users, generator.validation_choice) == (None, 10_000, "latest")
    assert corpus.active_tasks() == ["nrip", "nsqp", "nsip", *sides, "doc2query"]
    queries = experiments.pseudo_queries[corpus.pseudo_queries]
    assert (queries.backbone, queries.epochs) == ("doc2query/msmarco-t5-base-v1", 0.0)
    assert (queries.top_k, queries.top_p) == (10, 0.95)
    assert (queries.max_item_tokens, queries.max_query_tokens, queries.queries_per_item) == (256, 64, 20)
    # The small corpora build on the paper's, but have no query model to ask.
    assert not experiments.corpora["demo"].reads_pseudo_queries()


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_experiments(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("datasets: [")
    with pytest.raises(UserError, match="not readable as YAML"):
        read_experiments(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("datasets: " + "[" * 5000)
    with pytest.raises(UserError, match="nested too deep"):
        read_experiments(tmp_path / "config.yaml")
