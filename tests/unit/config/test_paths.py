"""Which files an entry reads: known answers for a small shop, and what is refused."""

import copy

import pytest

from gensar_core.config import paths
from gensar_core.config.corpora import MaterializationSettings
from gensar_core.config.datasets import SimulationSettings
from gensar_core.config.experiments import load_experiments
from gensar_core.config.generators import TrainingSettings
from gensar_core.config.pseudo_queries import PseudoQuerySettings
from gensar_core.config.seeds import with_seeds
from gensar_core.config.stage_settings import stage_seed, stage_settings
from gensar_core.config.tables import ComparisonSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.interface import INPUTS

SIMULATED = {"source": "simulated", "users": 200, "items": 200}
VALUES = {
    "seed": 42,
    "datasets": {
        "shop": {**SIMULATED, "experiments": ["ablation", "tradeoff"], "compared_identifiers": ["words", "joint"]},
        "plain": {**SIMULATED, "table": "plain", "scatter": 2},
        "books": {"source": "amazon", "category": "Books", "raw": "download"},
        "phones": {"source": "amazon", "category": "Phones", "raw": "download"},
        "new": {"source": "amazon", "category": "Books", "raw": "download", "release": 2023, "min_interactions": 5},
        "toys": {"source": "amazon", "category": "Toys", "raw": "folder"},
        "mine": {"source": "eventlog", "items": "folder/items.csv", "events": "folder/events.csv"},
    },
    "embeddings": {"text": {"kind": "text", "model": "m"}, "clicks": {"kind": "sequential", "method": "sasrec"}},
    "identifiers": {
        "joint": {"semantic": "text", "collaborative": "clicks"},
        "words": {"semantic": "text"},
        "pairs": {"kind": "clusters"},
        "random": {"kind": "numbers"},
        "titles": {"kind": "titles"},
        "product": {"kind": "product", "collaborative": "clicks"},
        "learned": {"kind": "genret", "backbone": "scratch"},
    },
    "pseudo_queries": {"asked": {"backbone": "scratch"}},
    "corpora": {
        "full": {"identifier": "joint"},
        "short": {"identifier": "words", "tasks": ["nrip", "doc2query"], "pseudo_queries": "asked"},
        "learned": {"identifier": "learned"},
    },
    "generators": {
        "gensar": {"corpus": "full", "backbone": "scratch", "warm_start": True, "scatter": 2},
        "brief": {"corpus": "short", "backbone": "scratch"},
        "further": {"corpus": "full", "start_from": "gensar", "seed": 5},
        "from_codes": {"corpus": "learned", "start_from_identifiers": True},
    },
    "methods": {
        "sasrec": {"kind": "sasrec", "dropout": 0.3},
        "cosine": {"kind": "text_cosine", "embedding": "text"},
        "unisar": {"kind": "unisar"},
    },
    "fusions": {"both": {"parts": ["gensar", "cosine"], "popularity": True}, "one": {"parts": ["sasrec", "cosine"]}},
    "tables": {
        "overall": {"rows": ["sasrec", "cosine", "gensar", "both"], "proposed": ["gensar"]},
        "ablation": {"rows": ["sasrec", "brief", "both"], "seeds": [42, 1]},
        "plain": {"rows": ["cosine"]},
    },
    "figures": {"tradeoff": {"series": [{"label": "UniSAR", "rows": ["unisar", "sasrec"]}]}},
}


@pytest.fixture(scope="module")
def plan():
    trained = {"sasrec", "unisar"}
    experiments, runs = with_seeds(load_experiments(VALUES), lambda kind: kind in trained)
    return paths.Plan(
        experiments, runs, reads_negatives=lambda kind: kind == "unisar", leaves_curve=lambda kind: kind in trained
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty `folder` of raw files in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def raw_names(category, release=2014, every_review=False):
    kind = "all" if every_review else "reviews"
    return f"{category}.{kind}", f"{category}.meta{'' if release == 2014 else release}"


def amazon_files(plan, dataset):
    names = {"search_names": ("q", "a", "b"), "searched_categories": ("Books",)}
    return paths.amazon_files(plan, dataset, raw_names, {2014: "amazon", 2023: "amazon_2023"}.__getitem__, **names)


#: Vectors of the shop's items, by their embedding.
TEXT, CLICKS = (f"results/shop/embeddings/{name}/vectors.safetensors" for name in ("text", "clicks"))
EVENTS, ITEM_TEXTS = "results/shop/samples/training_events.parquet", "results/shop/canonical/items.parquet"
OVERALL = ["sasrec", "cosine", "gensar", "both"]
#: The entries of the table `ablation`, over two seeds, without its fusion.
ABLATION = ("sasrec", "sasrec-seed1", "brief", "brief-seed1")


def shop(pattern, *names):
    """Files of the shop, one for each name."""
    return [f"results/shop/{pattern.format(name)}" for name in names]


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (paths.datasets_of, ("amazon", "eventlog"), ["books", "phones", "new", "toys", "mine"]),
        (paths.datasets_in_parts, (True,), ["plain"]),
        (paths.datasets_in_parts, (False,), ["shop", "books", "phones", "new", "toys", "mine"]),
        (paths.datasets_in_parts, (False, "eventlog", "qilin"), ["mine"]),
        (paths.parts_of, ("plain",), 2),
        (paths.dataset_parts, ("plain", "samples_parts", ["a", "stage.json"]),
         [f"results/plain/samples_parts/{part}-of-2/{name}" for part in (0, 1) for name in ("a", "stage.json")]),
        (paths.embedding_model, ("shop", "clicks"), "results/shop/models/sasrec/stage.json"),
        (paths.identifier_embeddings, ("shop", "joint"), {"semantic": TEXT, "collaborative": CLICKS}),
        (paths.identifier_embeddings, ("shop", "words"), {"semantic": TEXT}),
        (paths.identifier_inputs, ("shop", "words"), {"semantic": TEXT}),
        (paths.identifier_inputs, ("shop", "product"), {"collaborative": CLICKS}),
        (paths.identifier_inputs, ("shop", "pairs"), {"training_events": EVENTS, "item_texts": ITEM_TEXTS}),
        (paths.identifier_inputs, ("shop", "random"), {"item_texts": ITEM_TEXTS}),
        (paths.identifier_inputs, ("shop", "titles"), {"item_texts": ITEM_TEXTS}),
        (paths.identifier_module, ("words",), "gensar_core.identifiers.kinds.rqvae"),
        (paths.identifier_module, ("pairs",), "gensar_core.identifiers.kinds.clusters"),
        (paths.corpus_embeddings, ("shop", "short"), {"semantic": TEXT}),
        (paths.corpus_sides, ("full",), ["collaborative", "semantic"]),
        (paths.corpus_identifiers, ("shop", "short"), shop("identifiers/words/{}", "identifiers.parquet", "vocabulary.json")),
        (paths.corpus_pseudo_queries, ("shop", "full"), []),
        (paths.corpus_pseudo_queries, ("shop", "short"), "results/shop/pseudo_queries/asked/pseudo_queries.parquet"),
        (paths.compared_identifiers, ("shop",), ["words", "joint"]),
        (paths.compared_quality, ("shop",), shop("identifiers/{}/quality.json", "words", "joint")),
        (paths.generators_in_parts, (True,), ["gensar", "gensar-seed1"]),
        (paths.generators_in_parts, (False,), ["brief", "further", "from_codes", "brief-seed1"]),
        (paths.ranking_corpus, ("shop", "brief"),
         shop("corpora/short/{}", "prompts.parquet", "prompts.yaml", "item_tokens.parquet", "trie.safetensors")),
        (paths.training_corpus, ("shop", "gensar"),
         shop("corpora/full/{}", "train.parquet", "prompts.parquet", "item_tokens.parquet", "new_tokens.json", "prompts.yaml",
              "trie.safetensors")),
        (paths.generator_tokenizer, ("shop", "brief"), "results/shop/corpora/short/tokenizer/tokenizer_config.json"),
        (paths.generator_token_vectors, ("shop", "brief"), []),
        (paths.generator_token_vectors, ("shop", "gensar"), ["results/shop/token_vectors/full/token_vectors.safetensors"]),
        (paths.generator_start, ("shop", "gensar"), []),
        (paths.generator_start, ("shop", "further"), shop("models/gensar/{}", "model.safetensors", "config.json", "stage.json")),
        (paths.generator_start, ("shop", "from_codes"), ["results/shop/identifiers/learned/stage.json"]),
        (paths.ranking_parts, ("shop", "gensar", "full_ranks_parts", {"ranks": ".parquet", "records": ".stage.json"}),
         {"ranks": shop("full_ranks_parts/gensar/{}-of-2.parquet", 0, 1),
          "records": shop("full_ranks_parts/gensar/{}-of-2.stage.json", 0, 1)}),
        (paths.method_module, ("cosine",), "gensar_core.baselines.methods.text_cosine"),
        (paths.method_settings, ("sasrec",), '{"dropout": 0.3, "kind": "sasrec"}'),
        (paths.method_settings, ("cosine",), '{"kind": "text_cosine"}'),
        (paths.method_embedding, ("shop", "sasrec"), []),
        (paths.method_embedding, ("shop", "cosine"), [TEXT]),
        (paths.method_negatives, ("shop", "sasrec"), []),
        (paths.method_negatives, ("shop", "unisar"), ["results/shop/training_negatives/training_negatives.parquet"]),
        (paths.fusion_parts, ("both",), ["gensar", "cosine"]),
        (paths.fusion_scores, ("shop", "both"), shop("ranks/{}.scores.parquet", "gensar", "cosine")),
        (paths.fusion_clicks, ("shop", "both"), EVENTS),
        (paths.fusion_clicks, ("shop", "one"), []),
        (paths.fusion_models, ("shop", "one"), shop("models/{}/stage.json", "sasrec", "cosine")),
        (paths.fusion_embeddings, ("shop", "one"), [TEXT]),
        (paths.fusion_methods, ("shop", "one"),
         '[{"embedding": null, "kind": "sasrec", "model": "results/shop/models/sasrec/stage.json", "name": "sasrec", '
         '"overrides": {"dropout": 0.3}, "seed": 42}, '
         f'{{"embedding": "{TEXT}", "kind": "text_cosine", "model": "results/shop/models/cosine/stage.json", '
         '"name": "cosine", "overrides": {}, "seed": 42}]'),
        (paths.fusion_modules, ("one",), [f"gensar_core.baselines.methods.{kind}" for kind in ("sasrec", "text_cosine")]),
        # The other has a generator.
        (paths.catalogue_fusions, (), ["one"]),
        (paths.table_rows, ("shop",), OVERALL),
        (paths.table_ranks, ("plain",), ["results/plain/ranks/cosine.parquet"]),
        (paths.table_runs, ("shop", "ablation"), [*zip(("sasrec", "sasrec", "brief", "brief"), ABLATION, strict=True), ("both", "both"), ("both", "both-seed1")]),
        (paths.fitted_rows, ("shop",), ["sasrec", "cosine", "gensar"]),
        (paths.fitted_rows, ("shop", "ablation"), ["sasrec", "sasrec", "brief", "brief"]),
        (paths.cost_files, ("shop", "ablation"),
         {"ranks": shop("ranks/{}.parquet", *ABLATION), "records": shop("ranks/{}.stage.json", *ABLATION),
          "models": shop("models/{}/stage.json", *ABLATION)}),
        (paths.drawn_records, ("shop", "_brief"), ["results/shop/models/brief/stage.json"]),
        (paths.drawn_records, ("shop", ""),
         shop("models/{}/stage.json", "sasrec", "gensar", "brief", "unisar") + shop("identifiers/{}/stage.json", "joint", "words")),
        (paths.page_files, ("plain",),
         {"quality": [], "figures": ["results/figures/plain_distributions.svg"], "tables": ["results/tables/plain.html"],
          "records": [f"results/plain/{name}.json" for name in ("canonical/stage", "samples/stage", "ranks/cosine.stage")]}),
        (paths.full_table_ranks, ("shop",), shop("full_ranks/{}.parquet", "sasrec", "cosine", "gensar")),
        (paths.figure_ranks, ("shop", "tradeoff"), shop("ranks/{}.parquet", "unisar", "sasrec")),
        (paths.shown_tables, ("shop",), {"overall": "shop", "ablation": "shop_ablation"}),
        (paths.shown_table_names, ("shop",), ["overall", "ablation"]),
        (paths.shown_figures, ("shop",), ["distributions", "training", "collisions", "tradeoff"]),
        # Nothing is trained by steps here, and no identifiers are compared.
        (paths.shown_figures, ("plain",), ["distributions"]),
        (paths.shown_figure_files, ("plain",), ["results/figures/plain_distributions.svg"]),
        (paths.shown_corpora, ("shop",), ["full", "short"]),
        (paths.shown_identifiers, ("shop",), ["joint", "words"]),
        (paths.shown_models, ("shop",), ["sasrec", "gensar", "brief", "unisar"]),
        (paths.drawn_models, ("shop", "_brief"), ["brief"]),
        (paths.drawn_identifiers, ("shop", "_brief"), []),
        (paths.drawn_identifiers, ("shop", ""), ["joint", "words"]),
        (paths.drawn_names, ("shop", ""), ["sasrec", "gensar", "brief", "unisar", "joint", "words"]),
        (paths.final_files, ("shop",),
         ["results/overview/shop.html", *(f"results/tables/shop{name}.csv" for name in ("", "_ablation", "_statistics")),
          *(f"results/figures/shop_{name}.svg" for name in ("distributions", "training", "collisions", "tradeoff"))]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_each_function_names_these_files(plan, function, arguments, expected):
    assert function(plan, *arguments) == expected


def test_a_causal_generator_reads_logs_in_place_of_prompts():
    entry = {"corpus": "full", "backbone": "causal"}
    experiments = load_experiments({**VALUES, "generators": {**VALUES["generators"], "log": entry}})
    plan = paths.Plan(experiments, {}, reads_negatives=_never, leaves_curve=_never)
    ranked = ("asked_logs.parquet", "prompts.yaml", "item_tokens.parquet", "trie.safetensors")
    assert paths.ranking_corpus(plan, "shop", "log") == shop("corpora/full/{}", *ranked)
    trained = ("user_logs", "alignment_logs", "asked_logs", "item_tokens")
    assert paths.training_corpus(plan, "shop", "log") == shop("corpora/full/{}.parquet", *trained) + shop(
        "corpora/full/{}", "new_tokens.json", "prompts.yaml", "trie.safetensors"
    )
    assert paths.training_samples(plan, "shop", "log")[-1] == EVENTS
    assert len(paths.training_samples(plan, "shop", "gensar")) == 2


def test_a_page_rests_on_the_records_of_every_stage_once(plan):
    records = [record.removeprefix("results/shop/") for record in paths.page_files(plan, "shop")["records"]]
    assert records == [
        *(f"{stage}/stage.json" for stage in ("canonical", "samples", "embeddings/text", "embeddings/clicks")),
        *(f"{stage}/stage.json" for stage in ("identifiers/joint", "identifiers/words", "corpora/full", "corpora/short")),
        *(f"ranks/{row}.stage.json" for row in ("sasrec", "cosine", "gensar", "both", "brief", "unisar")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "wildcards", "settings"),
    [
        ("simulate", {}, lambda all_: all_.datasets["shop"].part(SimulationSettings)),
        ("samples", {}, lambda all_: all_.datasets["shop"].samples),
        ("train_generator", {"generator": "gensar"}, lambda all_: all_.generators["gensar"].part(TrainingSettings)),
        ("corpus", {"corpus": "short"}, lambda all_: all_.corpora["short"].part(MaterializationSettings)),
        ("pseudo_queries", {"pseudo_queries": "asked"}, lambda all_: all_.pseudo_queries["asked"].part(PseudoQuerySettings)),
        ("embed_text", {"embedding": "text"}, lambda all_: all_.embeddings["text"]),
        # A data set's table stands for one that is not named.
        ("overall_table", {}, lambda all_: all_.tables["overall"].part(ComparisonSettings)),
        ("overall_table", {"table": "ablation"}, lambda all_: all_.tables["ablation"].part(ComparisonSettings)),
        ("statistics", {}, lambda _: None),
    ],
)  # fmt: skip
def test_a_rule_reads_its_part_of_its_entry(plan, rule, wildcards, settings):
    assert stage_settings(plan.experiments, rule, {"dataset": "shop", **wildcards}) == settings(plan.experiments)


@pytest.mark.parametrize(
    ("rule", "wildcards", "seed"),
    [
        ("train_generator", {"generator": "gensar"}, 42),
        ("train_generator", {"generator": "further"}, 5),
        ("full_rank_method", {"method": "sasrec-seed1"}, 1),
        ("samples", {"dataset": "shop"}, 42),
        ("statistics", {"dataset": "shop"}, 42),
    ],
)
def test_a_rule_draws_from_the_seed_of_its_entry_or_of_the_configuration(plan, rule, wildcards, seed):
    assert stage_seed(plan.experiments, rule, wildcards) == seed


def resources(folder, *names):
    return [f"resources/{folder}/{name}" for name in names]


def test_amazon_files_are_simulated_or_downloaded(plan, monkeypatch):
    assert amazon_files(plan, "shop") == shop("raw/{}", "Simulated.reviews", "Simulated.meta", "q", "a", "b")
    assert amazon_files(plan, "books") == resources("amazon/Books", "Books.reviews", "Books.meta", "q", "a", "b")
    # Nobody publishes product-search files for this category; those of Books are about the reviews of 2014.
    assert amazon_files(plan, "phones") == resources("amazon/Phones", "Phones.reviews", "Phones.meta")
    assert amazon_files(plan, "new") == resources("amazon_2023/Books", "Books.all", "Books.meta2023")
    without_searches = plan.experiments.datasets["books"].model_copy(update={"searches": "none"})
    monkeypatch.setitem(plan.experiments.datasets, "books", without_searches)
    assert amazon_files(plan, "books") == resources("amazon/Books", "Books.reviews", "Books.meta")


def test_amazon_files_of_a_folder_are_those_that_lie_there(plan, folder):
    (folder / "Toys.reviews").touch()
    with pytest.raises(UserError, match=r"config: datasets\.toys\.raw: there is no folder/Toys\.meta; put the file"):
        amazon_files(plan, "toys")
    (folder / "Toys.meta").touch()
    (folder / "a").touch()
    assert amazon_files(plan, "toys") == ["folder/Toys.reviews", "folder/Toys.meta", "folder/a"]


def test_a_missing_table_of_an_event_log_is_named_with_its_key(plan, folder):
    (folder / "items.csv").touch()
    assert paths.user_table(plan, "mine", "items") == "folder/items.csv"
    with pytest.raises(UserError, match=r"config: datasets\.mine\.events: there is no folder/events\.csv"):
        paths.user_table(plan, "mine", "events")


def test_nothing_to_compare_is_refused_with_the_key_to_write(plan):
    with pytest.raises(UserError, match=r"config: datasets\.plain\.compared_identifiers: name the entries"):
        paths.compared_quality(plan, "plain")


def test_only_missing_results_for_people_are_checked_by_name(folder):
    assert paths.is_missing_result("results/tables/shops.csv")
    assert not paths.is_missing_result("results/shop/ranks/sasrec.parquet")
    assert not paths.is_missing_result("--cores")
    tables = folder.parent / "results" / "tables"
    tables.mkdir(parents=True)
    (tables / "shops.csv").touch()
    assert not paths.is_missing_result("results/tables/shops.csv")


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("results/tables/shop_ablations.csv", "did you mean results/tables/shop_ablation.csv?"),
        ("results/figures/shop_sasrek_training.svg", "did you mean results/figures/shop_sasrec_training.svg?"),
        # Unlike each of the three tables of seven data sets.
        ("results/tables/" + 60 * "0" + ".csv", "there are 21"),
    ],
)
def test_a_target_that_no_rule_makes_is_answered_with_the_nearest(plan, target, hint):
    patterns = {
        "results/tables/{dataset}_{table}.csv",
        "results/figures/{dataset}{_model}_training.svg",
        "results/{dataset}/ranks_parts/{generator}/{part}-of-{parts}.parquet",
    }
    assert paths.not_made(plan, target, patterns) == f"{target}: no rule makes it; {hint}"


def test_file_lists_stand_in_the_order_rules_write_them():
    assert [path.rpartition("/")[2] for path in paths.CANONICAL_TABLES] == [
        "events.parquet", "users.parquet", "items.parquet", "queries.parquet",
    ]  # fmt: skip
    assert all(path.startswith("results/{dataset}/canonical/") for path in paths.CANONICAL_TABLES)


def test_each_declared_input_of_identifiers_has_its_files():
    for inputs, fields in INPUTS.items():
        files = paths._IDENTIFIER_INPUTS[inputs]
        # Vectors are named by the entry, side by side.
        assert set(files) == (set() if inputs == "vectors" else set(fields))


def test_identifiers_without_vectors_give_no_warm_start_and_draw_no_curve():
    values = copy.deepcopy(VALUES)
    values["corpora"]["full"]["identifier"] = "random"
    values["datasets"]["shop"]["compared_identifiers"] = ["words", "titles"]
    plan = paths.Plan(*with_seeds(load_experiments(values), _never), _never, _never)
    with pytest.raises(UserError, match=r"generators.gensar.warm_start: .* built from no embedding"):
        paths.generator_token_vectors(plan, "shop", "gensar")
    assert paths.drawn_identifiers(plan, "shop", "") == ["words"]


def test_cold_items_are_read_where_a_data_set_holds_some_out():
    values = copy.deepcopy(VALUES)
    values["generators"]["random"] = values["generators"]["gensar"] | {
        "corpus": {"base": "full", "identifier": "random"}
    }
    for share, files in ((0.0, []), (0.1, ["results/shop/samples/cold_items.parquet"])):
        values["datasets"]["shop"]["samples"] = {"cold_share": share}
        plan = paths.Plan(*with_seeds(load_experiments(values), _never), _never, _never)
        assert paths.cold_items(plan, "shop") == files
        assert [*paths.identifier_inputs(plan, "shop", "joint").items()][2:] == [("cold_items", file) for file in files]
        # Identifiers of texts say something of such items, random ones nothing.
        assert paths.unknown_items(plan, "shop", "gensar") == []
        assert paths.unknown_items(plan, "shop", "random") == files


def test_items_are_added_from_what_a_generator_is_built_of(plan, folder, monkeypatch):
    with pytest.raises(UserError, match=r"config: datasets\.shop\.new_items: name a table of items to add"):
        paths.added_inputs(plan, "shop", "gensar")
    assert paths.added_items(plan, "shop", "gensar") == []
    shop = plan.experiments.datasets["shop"].model_copy(update={"new_items": "folder/new.csv"})
    monkeypatch.setitem(plan.experiments.datasets, "shop", shop)
    with pytest.raises(UserError, match=r"config: datasets\.shop\.new_items: there is no folder/new\.csv"):
        paths.added_inputs(plan, "shop", "gensar")
    (folder / "new.csv").touch()
    assert paths.added_inputs(plan, "shop", "gensar") == {
        "new_items": "folder/new.csv",
        "canonical": "results/shop/canonical/items.parquet",
        "corpus": [f"results/shop/corpora/full/{name}" for name in ("item_tokens.parquet", "new_tokens.json")],
        "identifiers": "results/shop/identifiers/joint/stage.json",
        "embedding": "results/shop/embeddings/text/vectors.safetensors",
    }
    # What is answered with them waits for them.
    assert paths.added_items(plan, "shop", "gensar") == ["results/shop/added/gensar/stage.json"]


def test_nothing_is_added_to_identifiers_without_texts():
    values = copy.deepcopy(VALUES)
    values["corpora"]["full"]["identifier"] = "random"
    values["datasets"]["shop"]["new_items"] = "folder/new.csv"
    plan = paths.Plan(*with_seeds(load_experiments(values), _never), _never, _never)
    with pytest.raises(UserError, match=r"generators\.gensar: the identifiers of its corpus come from no text embed"):
        paths.added_inputs(plan, "shop", "gensar")


def test_copies_of_a_table_over_seeds_share_identifiers_that_draw_nothing():
    for identifier, copied in (("titles", []), ("random", ["random-seed1"])):
        values = copy.deepcopy(VALUES)
        values["corpora"]["short"]["identifier"] = identifier
        experiments, _ = with_seeds(load_experiments(values), _never)
        # `joint-seed1` belongs to the other rows.
        copies = {name for name in experiments.identifiers if name.endswith("-seed1")}
        assert copies - {"joint-seed1"} == set(copied)


def _never(_kind):
    return False


def test_answers_for_everyone_read_the_files_that_the_data_set_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("some.txt", "stock.txt", "asked.txt"):
        (tmp_path / name).touch()
    values = copy.deepcopy(VALUES)
    values["datasets"]["shop"]["recommendations"] = {"users": "some.txt", "items": "stock.txt"}
    values["datasets"]["shop"]["queries"] = {"file": "asked.txt"}
    values["datasets"]["plain"]["recommendations"] = {"items": "nowhere.txt"}
    values["generators"]["causal"] = {"corpus": "full", "backbone": "causal"}
    plan = paths.Plan(load_experiments(values), {}, lambda _: False, lambda _: False)
    assert paths.answer_files(plan, "shop", "recommendations") == ["some.txt", "stock.txt"]
    assert paths.answer_files(plan, "shop", "queries") == ["asked.txt"]
    assert paths.answer_files(plan, "books", "recommendations") == []
    with pytest.raises(UserError, match=r"datasets.plain.recommendations.items: there is no nowhere.txt"):
        paths.answer_files(plan, "plain", "recommendations")
    with pytest.raises(UserError, match=r"datasets.plain.queries.file: name a text file with one query a line"):
        paths.answer_files(plan, "plain", "queries")
    read = {name: paths.answering_corpus(plan, "shop", name) for name in ("gensar", "causal")}
    assert {*read["causal"]} - {*read["gensar"]} == {"results/shop/corpora/full/user_logs.parquet"}
