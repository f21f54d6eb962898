"""Generators override keys of their corpus and identifier in place: one entry of config.yaml is one ablation."""

import pytest

from gensar_core.config.experiments import load_experiments
from gensar_core.config.seeds import with_seeds
from gensar_core.errors import UserError
from tests.unit.config.test_config import put

VALUES = {
    "datasets": {"shop": {"source": "simulated", "users": 200, "items": 200, "table": "overall"}},
    "embeddings": {"text": {"kind": "text", "model": "m"}},
    "identifiers": {"joint": {"semantic": "text", "epochs": 3}, "words": {"semantic": "text"}},
    "corpora": {"full": {"identifier": "joint", "max_searches": 7}, "other": {"identifier": "words"}},
    "generators": {"gensar": {"corpus": "full", "epochs": 2.0}},
    "methods": {"random": {"kind": "random_order"}},
    "tables": {"overall": {"rows": ["gensar"]}},
}


def with_generator(entry, values=VALUES):
    return put(values, "generators.ablation", entry)


@pytest.mark.parametrize(
    ("entry", "corpus", "corpus_keys", "identifier", "identifier_keys"),
    [
        ({"base": "gensar"}, "full", (7, []), "joint", (2, 3)),
        ({"base": "gensar", "corpus": "other"}, "other", (5, []), "words", (2, 500)),
        ({"base": "gensar", "corpus": {"drop": ["nrip"]}}, "ablation", (7, ["nrip"]), "joint", (2, 3)),
        ({"corpus": {"base": "other", "max_searches": 1}}, "ablation", (1, []), "words", (2, 500)),
        ({"base": "gensar", "corpus": {"base": "other", "drop": ["nrip"]}}, "ablation", (5, ["nrip"]), "words", (2, 500)),
        ({"base": "gensar", "identifier": {"shared_levels": 1}}, "ablation", (7, []), "ablation", (1, 3)),
        ({"corpus": "full", "identifier": {"shared_levels": 1}}, "ablation", (7, []), "ablation", (1, 3)),
        ({"base": "gensar", "identifier": "words"}, "ablation", (7, []), "words", (2, 500)),
        ({"base": "gensar", "identifier": {"base": "words", "shared_levels": 3}}, "ablation", (7, []), "ablation", (3, 500)),
        ({"base": "gensar", "corpus": {"drop": ["nsqp"]}, "identifier": {"epochs": 9}}, "ablation", (7, ["nsqp"]), "ablation", (2, 9)),
    ],
)  # fmt: skip
def test_what_a_generator_overrides_is_an_entry_of_its_name(entry, corpus, corpus_keys, identifier, identifier_keys):
    experiments = load_experiments(with_generator(entry))
    generator = experiments.generators["ablation"]
    assert (generator.corpus, generator.identifier) == (corpus, None)
    assert generator.epochs == (2.0 if "base" in entry else 200.0)
    corpus_entry = experiments.corpora[corpus]
    assert (corpus_entry.max_searches, corpus_entry.drop) == corpus_keys
    assert corpus_entry.identifier == identifier
    identifier_entry = experiments.identifiers[identifier]
    assert (identifier_entry.shared_levels, identifier_entry.epochs) == identifier_keys
    # The entries that it takes keys from stay as they are, and so does their generator.
    for section in ("corpora", "identifiers"):
        written = getattr(load_experiments(VALUES), section)
        assert {name: getattr(experiments, section)[name] for name in written} == written
    assert experiments.generators["gensar"] == load_experiments(VALUES).generators["gensar"]


def test_generators_built_on_an_ablation_share_its_entries_and_override_them_further():
    values = with_generator({"base": "gensar", "identifier": {"shared_levels": 1}})
    values = put(values, "generators.again", {"base": "ablation", "epochs": 5.0})
    values = put(values, "generators.A_further_one", {"base": "again", "corpus": {"drop": ["nrip"]}})
    experiments = load_experiments(values)
    assert [experiments.generators[name].corpus for name in ("ablation", "again", "A_further_one")] == [
        "ablation", "ablation", "A_further_one",
    ]  # fmt: skip
    assert experiments.corpora["A_further_one"].identifier == "ablation"
    assert list(experiments.identifiers) == ["joint", "words", "ablation"]


def test_derived_entries_are_compared_and_copied_for_seeds_like_any():
    values = with_generator({"base": "gensar", "identifier": {"shared_levels": 1}})
    values = put(values, "datasets.shop.compared_identifiers", ["ablation"])
    values = put(values, "tables.overall", {"rows": ["ablation"], "seeds": [42, 1]})
    experiments, runs = with_seeds(load_experiments(values), lambda _: False)
    assert runs["overall"]["ablation"] == ["ablation", "ablation-seed1"]
    corpus = experiments.corpora[experiments.generators["ablation-seed1"].corpus]
    assert experiments.identifiers[corpus.identifier].seed == corpus.seed == 1
    assert corpus.identifier == "ablation-seed1"
    assert experiments.identifiers["ablation-seed1"].shared_levels == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"base": "gensar", "corpus": {"dorp": ["nrip"]}}, "generators.ablation.corpus.dorp: unknown key; did you mean 'drop'?"),
        ({"base": "gensar", "identifier": {"shared_level": 1}}, "generators.ablation.identifier.shared_level: unknown key; did you mean 'shared_levels'?"),
        ({"base": "gensar", "identifier": {"shared_levels": 0, "specific_levels": 0}}, "generators.ablation.identifier: value error, shared_levels and"),
        ({"base": "gensar", "identifer": {"shared_levels": 1}}, "generators.ablation.identifer: unknown key; did you mean 'identifier'?"),
        ({"corpus": {"drop": ["nrip"]}}, "generators.ablation.corpus: overrides keys of no entry; add base: NAME, one of corpora"),
        ({"identifier": {"epochs": 3}}, "generators.ablation.corpus: overrides keys of no entry"),
        ({"base": "gensar", "corpus": {"base": "ful"}}, "generators.ablation.corpus: 'ful' is not an entry of corpora; did you mean 'full'?"),
        ({"base": "gensar", "corpus": {"base": ["full"]}}, "generators.ablation.corpus: name one of corpora, or override its keys; not ['full']"),
        ({"base": "gensar", "corpus": ["full"]}, "generators.ablation.corpus: input should be a valid string, not ['full']"),
        ({"base": "gensar", "identifier": "joints"}, "generators.ablation.identifier: 'joints' is not an entry of identifiers; did you mean 'joint'?"),
        ({"base": "gensar", "identifier": 3}, "generators.ablation.identifier: name one of identifiers, or override its keys; not 3"),
        ({"base": "gensar", "corpus": {"pseudo_queries": "asked"}}, "generators.ablation.corpus.pseudo_queries: 'asked' is not an entry of pseudo_queries"),
        ({"base": "gensar", "identifier": {"semantic": "clicks"}}, "generators.ablation.identifier.semantic: 'clicks' is not an entry of embeddings"),
        ({"base": "ablation", "corpus": {"drop": ["nrip"]}}, "generators.ablation.base: circular: ablation -> ablation"),
    ],
)  # fmt: skip
def test_a_mistake_in_an_override_names_the_key_as_written(entry, message):
    with pytest.raises(UserError) as caught:
        load_experiments(with_generator(entry), "config.yaml")
    assert str(caught.value).startswith(f"config.yaml: {message}")


@pytest.mark.parametrize(("section", "key"), [("corpora", "corpus"), ("identifiers", "identifier")])
def test_a_taken_name_is_refused(section, key):
    values = put(VALUES, f"{section}.ablation", VALUES[section]["other" if section == "corpora" else "words"])
    message = rf"config: {section}\.ablation: generators\.ablation\.{key} makes an entry of this name; rename"
    with pytest.raises(UserError, match=message):
        load_experiments(with_generator({"base": "gensar", key: {"seed": 3}}, values))
