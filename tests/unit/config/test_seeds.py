"""Tables over seeds: which entries are copied with another seed, which are shared, and what is refused."""

import pytest
import yaml

from gensar_core.baselines.check import check_methods
from gensar_core.config.experiments import BUILT_ON, load_experiments, read_experiments
from gensar_core.config.seeds import added, with_seeds
from gensar_core.errors import UserError
from tests.support.command import gensar
from tests.unit.config.test_config import ROOT, put

VALUES = {
    "seed": 42,
    "datasets": {"shop": {"source": "simulated", "users": 200, "items": 200, "table": "overall"}},
    "embeddings": {"text": {"kind": "text", "model": "m"}, "clicks": {"kind": "sequential", "method": "sasrec"}},
    "identifiers": {"joint": {"semantic": "text", "collaborative": "clicks"}, "words": {"semantic": "text"}},
    "pseudo_queries": {"asked": {"backbone": "scratch"}},
    "corpora": {
        "full": {"identifier": "joint"},
        "short": {"identifier": "words", "tasks": ["nrip", "doc2query"], "pseudo_queries": "asked"},
    },
    "generators": {"gensar": {"corpus": "full", "size": {"d_model": 32}}, "brief": {"corpus": "short"}},
    "methods": {
        "sasrec": {"kind": "sasrec", "dropout": 0.3},
        "unused": {"kind": "sasrec"},
        "bm25": {"kind": "bm25"},
        "cosine": {"kind": "text_cosine", "embedding": "text"},
        "odd": {"kind": "text_cosine", "embedding": "clicks"},
    },
    "fusions": {"both": {"parts": ["gensar", "bm25"], "ridge": 0.5}, "plain": {"parts": ["bm25", "cosine"]}},
    "tables": {"overall": {"rows": ["sasrec", "bm25", "cosine", "gensar", "both", "plain"], "seeds": [42, 1]}},
}


def draws(kind):
    return kind == "sasrec"


def expanded(values=VALUES):
    return with_seeds(load_experiments(values), draws)


def test_what_draws_is_copied_with_all_that_is_built_on_it_and_the_rest_is_shared():
    experiments, runs = expanded()
    assert added(load_experiments(VALUES), experiments) == {
        "embeddings": ["clicks-seed1"],
        "identifiers": ["joint-seed1"],
        "corpora": ["full-seed1"],
        "generators": ["gensar-seed1"],
        "methods": ["sasrec-seed1"],
        "fusions": ["both-seed1"],
    }
    copied = {name: [name, f"{name}-seed1"] for name in ("sasrec", "gensar", "both")}
    assert runs == {"overall": {**copied, **{name: [name] for name in ("bm25", "cosine", "plain")}}}
    assert experiments.embeddings["clicks-seed1"].method == "sasrec-seed1"
    joint = experiments.identifiers["joint-seed1"]
    assert (joint.semantic, joint.collaborative) == ("text", "clicks-seed1")
    assert experiments.corpora["full-seed1"].identifier == "joint-seed1"
    assert experiments.generators["gensar-seed1"].corpus == "full-seed1"
    assert experiments.fusions["both-seed1"].parts == ["gensar-seed1", "bm25"]


def test_a_staged_training_with_a_seed_starts_from_the_first_stage_with_it():
    staged = put(VALUES, "generators.staged", {"corpus": "short", "start_from": "gensar"})
    experiments, runs = expanded(put(staged, "tables.overall.rows", ["staged"]))
    assert runs["overall"]["staged"] == ["staged", "staged-seed1"]
    copy = experiments.generators["staged-seed1"]
    assert (copy.start_from, copy.corpus, copy.size.d_model) == ("gensar-seed1", "short-seed1", 32)


def test_a_copy_differs_by_its_seed_alone():
    experiments, _ = expanded()
    for section, name in (
        ("methods", "sasrec"),
        ("identifiers", "joint"),
        ("corpora", "full"),
        ("generators", "gensar"),
        ("fusions", "both"),
    ):
        entry, copy = (getattr(experiments, section)[one] for one in (name, f"{name}-seed1"))
        built_on = {"seed", *BUILT_ON[section]}
        assert copy.model_dump(exclude=built_on) == entry.model_dump(exclude=built_on)
        if section != "fusions":
            assert (experiments.seed_of(entry), experiments.seed_of(copy)) == (42, 1)
    assert experiments.methods["sasrec-seed1"].kind == "sasrec"


def test_seeds_without_the_one_of_all_copy_every_time():
    _, runs = expanded(put(VALUES, "tables.overall.seeds", [1, 2, 3]))
    assert runs["overall"]["gensar"] == ["gensar-seed1", "gensar-seed2", "gensar-seed3"]
    assert runs["overall"]["bm25"] == ["bm25"]


def test_pseudo_queries_and_a_method_on_learned_vectors_are_copied():
    values = put(VALUES, "tables.overall.rows", ["brief", "odd"])
    experiments, runs = expanded(values)
    assert runs["overall"] == {"brief": ["brief", "brief-seed1"], "odd": ["odd", "odd-seed1"]}
    corpus = experiments.corpora["short-seed1"]
    assert (corpus.identifier, corpus.pseudo_queries) == ("words-seed1", "asked-seed1")
    assert experiments.pseudo_queries["asked-seed1"].seed == 1
    # It draws nothing; what its vectors are learned with does.
    assert experiments.methods["odd-seed1"].embedding == "clicks-seed1"
    assert experiments.methods["odd-seed1"].seed is None


def test_an_entry_with_a_seed_of_its_own_is_the_run_of_that_seed():
    experiments, runs = expanded(put(VALUES, "methods.sasrec.seed", 1))
    assert runs["overall"]["sasrec"] == ["sasrec-seed42", "sasrec"]
    assert [experiments.seed_of(experiments.methods[name]) for name in runs["overall"]["sasrec"]] == [42, 1]


def test_without_seeds_nothing_is_added():
    values = put(VALUES, "tables.overall.seeds", [])
    experiments, runs = expanded(values)
    assert experiments == load_experiments(values)
    assert runs["overall"]["both"] == ["both"]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("methods.sasrec-seed1", {"kind": "bm25"}, "methods.sasrec-seed1: is what sasrec is called with seed 1; rename it"),
        ("fusions.sasrec-seed1", {"parts": ["bm25"]}, "fusions.sasrec-seed1: is what sasrec is called with seed 1"),
        ("corpora.full-seed1", {"identifier": "words"}, "corpora.full-seed1: is what full is called with seed 1"),
        ("methods.sasrec.embedding", "clicks", "methods.sasrec: is built on itself: methods.sasrec -> embeddings.clicks -> methods.sasrec"),
        ("tables.overall.seeds", [1], "tables.overall: value error, 'seeds' names one seed"),
        ("tables.overall.seeds", [1, 2, 1], "tables.overall: value error, 'seeds' names one of its entries twice"),
        ("tables.overall.seeds", [1, -2], "tables.overall.seeds.1: "),
        ("tables.overall.rows", ["sasrec", "sasrec"], "'rows' names one of its entries twice"),
        ("tables.overall.proposed", ["brief"], "'proposed' names 'brief', which is none of 'rows'"),
        ("tables.overall", {"rows": ["sasrec"], "proposed": ["sasrec"]}, "'proposed' names all rows"),
        ("tables.overall.compare", "each", "compare: each needs 'proposed'"),
        ("tables.overall.compare", "all", "tables.overall.compare: input should be 'best' or 'each'"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(path, value, told):
    with pytest.raises(UserError) as caught:
        expanded(put(VALUES, path, value))
    assert told in str(caught.value)


def test_the_check_lists_what_seeds_add(tmp_path):
    def told(values):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        lines = gensar("check", tmp_path / "config.yaml").stdout.splitlines()
        return [line for line in lines if line.startswith("for seeds")]

    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    del values["tables"]["field_comparison"]["seeds"]
    assert told(values) == []
    lines = told(put(values, "tables.demo.seeds", [42, 5]))
    assert "for seeds, 2 more methods: random-seed5, sasrec-seed5" in lines
    assert "for seeds, 1 more generators: gensar_demo-seed5" in lines


def test_counting_and_comparing_draws_nothing():
    traits = check_methods(read_experiments(ROOT / "config.yaml"))
    unseeded = {kind for kind, found in traits.items() if not found.seeded}
    assert {"bm25", "popularity", "query_frequency", "text_cosine"} <= unseeded
    assert not unseeded & {"random_order", "sasrec", "dense", "jsr"}


def test_every_table_here_says_what_it_argues_for():
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    overlay = yaml.safe_load((ROOT / "tests" / "config_real.yaml").read_text())
    for name, table in {**values["tables"], **overlay["tables"]}.items():
        assert set(table.get("proposed", [])) == {row for row in table["rows"] if row.startswith("gensar")} or (
            name == "ablation" and table["proposed"] == ["gensar"]
        ), name
