"""Reruns are exact: a changed setting or an edited module reruns the stages it concerns, and nothing else.

The table of settings is reruns.yaml. A plan looks at names, notes and configuration alone, so results here are finished
by name (planning.py), for every source and every kind of entry at once.
"""

import contextlib
import copy
import functools
import os
import re
import shutil
import typing
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from gensar_core.baselines.interface import find, kinds
from gensar_core.config import prompts
from gensar_core.config.base import Settings
from gensar_core.config.datasets import _DatasetBase
from gensar_core.config.experiments import Experiments, load_experiments
from gensar_core.runtime import fingerprint as fingerprints
from gensar_core.runtime.fingerprint import script_fingerprint
from gensar_core.sources.qilin import FOLDERS

from .planning import ROOT, Job, Plans

TABLE = yaml.safe_load((ROOT / "tests" / "workflow" / "reruns.yaml").read_text())
#: Entries that the settings are changed in, by section and kind.
ENTRIES = {
    "datasets": "demo",
    "datasets.amazon": "amazon",
    "datasets.simulated": "demo",
    "datasets.eventlog": "shop",
    "datasets.kuaisar": "kuaisar",
    "datasets.qilin": "qilin",
    "embeddings.text": "minilm",
    "embeddings.trained_text": "minilm_trained",
    "embeddings.sequential": "sasrec",
    "identifiers.rqvae": "joint_demo",
    **{f"identifiers.{kind}": kind for kind in ("rq_kmeans", "clusters", "numbers", "titles", "product")},
    "identifiers.genret": "genret_demo",
    "pseudo_queries": "doc2query_demo",
    "corpora": "demo_doc2query",
    "generators": "gensar_demo_t5",
    "methods": "sasrec_bce",
    "fusions": "demo_methods",
    "tables": "demo",
    "figures": "tradeoff",
}
#: The value to which reruns.yaml need not say that a setting is changed.
AUTOMATIC = object()
#: Sources beside config.yaml's own, so that every kind of data set is there.
SOURCES = {
    "shop": {"source": "eventlog", "items": "shop/items.csv", "events": "shop/events.csv", "table": "demo"},
    "kuaisar": {"source": "kuaisar", "raw": "kuaisar", "table": "small"},
    "qilin": {"source": "qilin", "raw": "qilin", "table": "small"},
}
#: Entries of the kinds of identifiers that config.yaml's own do not have.
IDENTIFIERS = {
    "rq_kmeans": {"kind": "rq_kmeans", "semantic": "minilm", "codebook_size": 16},
    "clusters": {"kind": "clusters"},
    "numbers": {"kind": "numbers"},
    "titles": {"kind": "titles"},
    "product": {"kind": "product", "semantic": "minilm"},
}
RAW = ["shop/items.csv", "shop/events.csv", "shop/queries.txt", "shop/new.csv", "shop/other.csv"]
RAW += [f"{folder}/{name}" for folder in ("kuaisar", "other") for name in ("rec_inter.csv", "src_inter.csv")]
RAW += [f"{folder}/item_features.csv" for folder in ("kuaisar", "other")]
RAW += [f"{folder}/{name}/train-00000-of-00001.parquet" for folder in ("qilin", "other") for name in FOLDERS]
RAW += ["other/reviews_Electronics_5.json.gz", "other/meta_Electronics.json.gz"]
RAW += [f"other/{name}" for name in ("query_text.txt.gz", "train.qrels.gz", "test.qrels.gz")]


def configuration():
    values = yaml.safe_load((ROOT / "config.yaml").read_text())
    values["datasets"] |= SOURCES
    values["datasets"]["demo"] |= {"queries": {"file": "shop/queries.txt"}, "new_items": "shop/new.csv"}
    values["identifiers"] |= IDENTIFIERS
    # test_field_protocol.py plans these. Their rows over seeds are copies that no setting names.
    for name in ("beauty_field", "sports_field", "toys_field"):
        del values["datasets"][name]
    # They are planned as amazon is.
    for name in ("games_2018", "games_2023"):
        del values["datasets"][name]
    # The other experiments are more of the same stages.
    values["datasets"]["amazon"]["experiments"] = ["tradeoff"]
    values["tables"]["small"] = {"rows": ["popularity", "random"], "proposed": ["popularity"]}
    # A warm start goes with a model from scratch alone, and the backbone is one of the settings that are changed.
    values["generators"]["gensar_demo_t5"]["warm_start"] = False
    values["tables"]["demo"]["rows"].append("gensar_demo_t5")
    # A fusion of methods, which can rank among all items, too.
    values["fusions"]["demo_methods"] = {"parts": ["sasrec", "popularity", "minilm_cosine"]}
    # Staged trainings: one that goes on from the demo's T5, and one for that to go on from.
    values["generators"]["gensar_staged"] = {"corpus": "demo_doc2query", "start_from": "gensar_demo_t5"}
    values["generators"]["gensar_first"] = copy.deepcopy(values["generators"]["gensar_demo_t5"])
    return values


def targets(values):
    """Every last file of the configured data sets, and some that no table needs."""
    experiments = load_experiments(values)
    paths = ["all", "results/tables/demo_demo.csv"]
    paths += [f"results/{dataset}/training_negatives/training_negatives.parquet" for dataset in experiments.datasets]
    paths.append("results/demo/corpora/demo_doc2query/train.parquet")
    paths.append("results/demo/models/gensar_staged/stage.json")
    paths += [f"results/demo/{folder}/demo_methods.parquet" for folder in ("ranks", "full_ranks")]
    paths += [f"results/demo/{answers}/gensar_demo.parquet" for answers in ("recommendations", "searches")]
    paths.append("results/demo/embeddings/minilm_trained/vectors.safetensors")
    paths += [f"results/demo/identifiers/{name}/identifiers.parquet" for name in [*IDENTIFIERS, "genret_demo"]]
    return [
        *paths,
        *(f"results/tables/{dataset}_costs.csv" for dataset in experiments.datasets),
        "results/tables/demo_demo_costs.csv",
        *(f"results/tables/{dataset}_cold.csv" for dataset in experiments.datasets),
        "results/tables/demo_full.csv",
    ]


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    for path in RAW:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    values = configuration()
    return Plans(folder, values, targets(values))


def models_in(annotation):
    """The settings models that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def leaves(model, prefix=""):
    """Names of a model's settings, those of models within it by dotted path."""
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        if len(inner) == 1 and isinstance(field.annotation, type):
            yield from leaves(inner[0], f"{prefix}{name}.")
        else:
            yield prefix + name


def sections():
    """(section and kind, settings model) of everything that config.yaml may hold; `datasets` is what all sources share."""
    yield "datasets", _DatasetBase
    for section, field in Experiments.model_fields.items():
        models = models_in(field.annotation)
        for model in models:
            tag = model.model_fields.get("source" if section == "datasets" else "kind")
            kind = typing.get_args(tag.annotation)[0] if tag and typing.get_args(tag.annotation) else None
            yield f"{section}.{kind}" if kind and len(models) > 1 else section, model


def all_settings():
    settings = [name for name, field in Experiments.model_fields.items() if not models_in(field.annotation)]
    shared = set(leaves(_DatasetBase))
    for section, model in sections():
        known = shared if section.startswith("datasets") and model is not _DatasetBase else set()
        settings += [f"{section}.{leaf}" for leaf in leaves(model) if leaf not in known]
    return settings


def row_of(setting):
    """What reruns.yaml says of a setting, or None: all rows of names that it begins with, the longest last."""
    rows = [TABLE[name] for name in sorted(TABLE, key=len) if f"{setting}.".startswith(f"{name}.")]
    merged = {}
    for row in rows:
        merged |= row if isinstance(row, dict) else {"rule": row}
    return merged if rows else None


def test_the_table_holds_every_setting():
    missing = [setting for setting in all_settings() if row_of(setting) is None]
    assert not missing, "add to tests/workflow/reruns.yaml, each with the rule that reads it: " + ", ".join(missing)
    stale = [name for name in TABLE if not any(f"{setting}.".startswith(f"{name}.") for setting in all_settings())]
    assert not stale, "no longer settings; take them out of tests/workflow/reruns.yaml: " + ", ".join(stale)


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if value else 0.5
    raise AssertionError(f"say in reruns.yaml to which value {value!r} is to be changed")


def changed(values, setting, to):
    """The configuration with one setting of one entry changed, and the wildcard value of that entry."""
    values = copy.deepcopy(values)
    to = to.replace("CHECKOUT", str(ROOT)) if isinstance(to, str) else to
    if setting in values:
        values[setting] = other(values[setting]) if to is AUTOMATIC else to
        return values, None
    section = max((key for key in ENTRIES if setting.startswith(key + ".")), key=len)
    entry, path = ENTRIES[section], setting.removeprefix(section + ".").split(".")
    holder = values[section.split(".")[0]][entry]
    now = getattr(load_experiments(values), section.split(".")[0])[entry]
    for part in path[:-1]:
        holder, now = holder.setdefault(part, {}), getattr(now, part)
    holder[path[-1]] = other(getattr(now, path[-1])) if to is AUTOMATIC else to
    return values, entry


def has(settings, path):
    """Whether an entry sets the setting itself."""
    for part in path:
        if not isinstance(settings, dict) or part not in settings:
            return False
        settings = settings[part]
    return True


def based_on(values, entry, setting=()):
    """The entry and those that take its settings over, directly or not, without those that set ``setting`` themselves."""
    names = {entry}
    for _ in range(9):
        names |= {
            name
            for section in values.values()
            if isinstance(section, dict)
            for name, settings in section.items()
            if settings.get("base") in names and not (setting and has(settings, setting))
        }
    return names


def jobs_of(plans, rules, entry, setting=()):
    names = based_on(plans.values, entry, setting)
    return {job for job in plans.jobs if job[0] in rules and (entry is None or names & set(dict(job[1]).values()))}


class Expected(typing.NamedTuple):
    """What a changed setting reruns: the stages that read it, all that follows them, and of those what is left to run."""

    stages: set[Job]
    reached: set[Job]
    rerun: set[Job]


def expected_of(plans, setting):
    row = row_of(setting)
    rules = row["rule"] if isinstance(row["rule"], list) else [row["rule"]] if row["rule"] else []
    _, entry = changed(plans.values, setting, row.get("to", AUTOMATIC))
    path = setting.removeprefix(section_of(setting) + ".").split(".")
    stages = {job for name in row.get("entries", [entry]) for job in jobs_of(plans, rules, name, path)}
    for rule, name in row.get("also", {}).items():
        stages |= jobs_of(plans, [rule], name)
    assert stages or not rules, f"no job of {rules} for {entry}"
    reached = plans.following(stages)
    return Expected(stages, reached, reached - (stages if row.get("replaced") else set()))


def section_of(setting):
    return max((key for key in ENTRIES if setting.startswith(key + ".")), key=len, default="")


def rerun_by(plans, settings):
    """Jobs of the finished results that run again when all these settings are changed."""
    values = plans.values
    for setting in settings:
        values, _ = changed(values, setting, row_of(setting).get("to", AUTOMATIC))
    return {job for job in plans.needed(values) if job in plans.jobs}


def told_apart(one, another, expected):
    """Whether one plan shows for both settings that they rerun what they should: neither hides the other's stages."""
    first, second = expected[one], expected[another]
    if not first.stages and not second.stages:
        return True
    sections = [section_of(one), section_of(another)]
    if sections[0] == sections[1] or all(section.startswith("datasets") for section in sections):
        return False
    return not (first.stages & second.reached or second.stages & first.reached)


def rounds(expected):
    """Settings that are changed together, so that fewer plans are made."""
    packed = []
    for setting in expected:
        together = next((round for round in packed if all(told_apart(setting, one, expected) for one in round)), None)
        if together is None:
            packed.append([setting])
        else:
            together.append(setting)
    return packed


def test_a_setting_reruns_the_stages_that_read_it_and_what_follows(plans):
    settings = [name for name in all_settings() if (row_of(name) or {}).get("rule") != "kind"]
    expected = {setting: expected_of(plans, setting) for setting in settings}
    wrong = {}
    for together in rounds(expected):
        if rerun_by(plans, together) != set().union(*(expected[setting].rerun for setting in together)):
            # Some settings change which jobs there are for others.
            alone = {setting: rerun_by(plans, [setting]) ^ expected[setting].rerun for setting in together}
            wrong |= {setting: difference for setting, difference in alone.items() if difference}
    assert not wrong


def test_nothing_is_to_do_to_begin_with(plans):
    assert plans.needed() == set()


def test_a_methods_own_settings_rerun_that_method(plans):
    values, changed_names = copy.deepcopy(plans.values), []
    for kind in kinds():
        name = next(name for name, entry in plans.values["methods"].items() if entry.get("kind") == kind)
        model = find(kind).settings_model
        for key, field in model.model_fields.items():
            if not isinstance(field.default, bool | int | float):
                continue
            entry = {**values["methods"][name], key: other(values["methods"][name].get(key, field.default))}
            with contextlib.suppress(ValidationError):
                model.model_validate({key: value for key, value in entry.items() if key not in ("kind", "embedding")})
                values["methods"][name] = entry
                changed_names.append(name)
                break
    # The others have no settings.
    assert len(changed_names) > 15
    stages = {job for name in changed_names for job in jobs_of(plans, ["method"], name)}
    assert plans.needed(values) == plans.following(stages)


def test_a_staged_training_follows_the_one_it_starts_from(plans):
    (first,), (staged,) = (
        demo_jobs(("train_generator", "generator", name)) for name in ("gensar_demo_t5", "gensar_staged")
    )
    assert staged in plans.following([first])
    assert first not in plans.following([staged])


def test_items_that_are_no_longer_added_rerun_what_is_answered_with_them(plans):
    values, _ = changed(plans.values, "datasets.new_items", None)
    assert plans.needed(values) == jobs_of(plans, ["recommendations", "searches"], "demo")


def test_order_and_comments_rerun_nothing(plans):
    def reordered(values):
        if not isinstance(values, dict):
            return values
        return {key: reordered(values[key]) for key in reversed(values)}

    assert plans.needed(reordered(plans.values)) == set()


def test_cores_rerun_nothing(plans):
    assert plans.needed(cores=7) == set()


def test_touching_every_file_and_folder_reruns_nothing(plans):
    for path in [plans.folder / raw for raw in RAW] + sorted((plans.folder / "results").rglob("*")):
        os.utime(path)
    assert plans.needed() == set()


def test_outputs_are_files(plans):
    # Files with a newer date are compared by content; folders are not.
    assert not [path for job in plans.jobs.values() for path in job.output if path.is_directory]


def test_a_moved_checkout_and_moved_results_rerun_nothing(plans, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("rules", "workflow_scripts", "report"):
        shutil.copytree(ROOT / name, checkout / name, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "Snakefile", checkout / "Snakefile")
    shutil.copytree(plans.folder, tmp_path / "work", symlinks=True)
    assert plans.moved(tmp_path / "work", checkout / "Snakefile").needed() == set()


def demo_jobs(*jobs):
    """Jobs of the demo by (rule, wildcard, value)."""
    return {(rule, tuple(sorted({"dataset": "demo", wildcard: value}.items()))) for rule, wildcard, value in jobs}


def test_a_new_ablation_builds_only_what_is_new(plans):
    values = copy.deepcopy(plans.values)
    values["generators"]["demo_wo_nrip"] = {"base": "gensar_demo_t5", "corpus": {"drop": ["nrip"]}}
    values["tables"]["demo"]["rows"].append("demo_wo_nrip")
    needed = {job for job in plans.needed(values) if dict(job[1])["dataset"] == "demo"}
    new = demo_jobs(
        ("corpus", "corpus", "demo_wo_nrip"),
        *((rule, "generator", "demo_wo_nrip") for rule in ("train_generator", "rank_generator", "full_rank_generator")),
    )
    assert {job for job in needed if job not in plans.jobs} == new
    # Beside what is new, only what shows all rows.
    pages = {
        "overall_table",
        "named_table",
        "full_table",
        "cold_items",
        "costs",
        "named_costs",
        "training_curves",
        "overview",
    }
    assert {job[0] for job in needed - new} == pages


def test_another_seed_trains_what_draws_and_shares_the_rest(plans):
    values = copy.deepcopy(plans.values)
    values["tables"]["demo"]["seeds"] = [42, 1]
    needed = {job for job in plans.needed(values) if dict(job[1])["dataset"] == "demo"}
    new = demo_jobs(
        *(
            (rule, "method", f"{name}-seed1")
            for rule in ("method", "full_rank_method")
            for name in ("random", "sasrec")
        ),
        ("embed_sequential", "embedding", "sasrec-seed1"),
        ("identifiers", "identifier", "joint_demo-seed1"),
        ("corpus", "corpus", "demo-seed1"),
        ("token_vectors", "corpus", "demo-seed1"),
        *(
            (rule, "generator", f"{name}-seed1")
            for rule in ("train_generator", "rank_generator", "full_rank_generator")
            for name in ("gensar_demo", "gensar_demo_t5")
        ),
        ("fuse", "fusion", "gensar_demo_ensemble-seed1"),
    )
    # Samples, candidates and text vectors are there, and so is each row that counts or compares.
    assert {job for job in needed if job not in plans.jobs} == new
    pages = {"overall_table", "named_table", "full_table", "cold_items", "costs", "named_costs", "overview"}
    assert {job[0] for job in needed - new} == pages


# Code.


def scripts_of_jobs(plans):
    """(name, job, script, modules that it looks up by name) of every job whose code counts."""
    experiments = load_experiments(plans.values)
    for name, job in plans.jobs.items():
        # What is downloaded does not depend on the code that does it.
        if name[0] == "all" or name[0].startswith("download_"):
            continue
        entries = dict(name[1])
        methods = [entries["method"]] if "method" in entries else []
        if name[0] == "full_rank_fusion":
            methods = experiments.fusions[entries["fusion"]].parts
        by_name = [f"gensar_core.baselines.methods.{experiments.methods[method].kind}" for method in methods]
        if name[0] == "identifiers":
            by_name = [f"gensar_core.identifiers.kinds.{experiments.identifiers[entries['identifier']].kind}"]
        yield name, job, ROOT / "workflow_scripts" / Path(job.rule.script).name, by_name


def kinds_of(plans):
    """Method -> its kind."""
    return {name: entry.kind for name, entry in load_experiments(plans.values).methods.items()}


def read_off(script):
    """Modules of the library that a script's text imports."""
    return set(re.findall(r"from (gensar_core[\w.]*) import", script.read_text()))


@functools.cache
def text_imports(module):
    """Modules of the library that a module's text imports: an oracle for `runtime.fingerprint.imports`."""
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.is_file():
        file = ROOT.joinpath(*module.split("."), "__init__.py")
    text = re.sub(r"\(\s*([^)]*)\)", lambda names: " ".join(names[1].split()), file.read_text())
    modules = set()
    for package, names in re.findall(r"^\s*from (gensar_core[\w.]*) import (.*)$", text, re.MULTILINE):
        names = [name.split(" as ")[0].strip() for name in names.split(",") if name.strip()]
        modules |= {package, *(f"{package}.{name}" for name in names)}
    modules |= set(re.findall(r"^\s*import (gensar_core[\w.]*)", text, re.MULTILINE))
    return {name for name in modules if exists(name)} - {"gensar_core"}


def exists(module):
    base = ROOT.joinpath(*module.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def reach(seeds):
    reached, waiting = set(), list(seeds)
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting.extend(text_imports(module))
    return reached


#: Logs and bars only tell how a run goes.
LEFT_OUT = ("gensar_core.runtime.logs", "gensar_core.runtime.progress")
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "gensar_core").rglob("*.py"))
    if path.name != "__init__.py"
]


def forget_fingerprints():
    fingerprints.fingerprint.cache_clear()
    fingerprints.script_fingerprint.cache_clear()


def test_an_edited_module_reruns_the_stages_that_reach_it(plans, monkeypatch):
    jobs = list(scripts_of_jobs(plans))
    reached = {name: reach(read_off(script) | set(by_name)) for name, _, script, by_name in jobs}
    content = fingerprints._content
    wrong = []
    for module in MODULES:
        monkeypatch.setattr(
            fingerprints,
            "_content",
            lambda read, names, edited=module: content(read, names) + "!" * (read == edited),
        )
        forget_fingerprints()
        for name, job, script, by_name in jobs:
            now = script_fingerprint(script, *by_name)
            expected = module in reached[name] and not module.startswith(LEFT_OUT)
            if (now != job.params.code) != expected:
                wrong.append(f"{module}: {name}")
    monkeypatch.undo()
    forget_fingerprints()
    assert not wrong


#: File, what is replaced in it (nothing: the end), by what -> the rules whose jobs are to be run.
EDITS = [
    ("gensar_core/samples/bm25.py", "", "\nBEYOND = 1\n", {"samples", "training_negatives"}),
    ("gensar_core/corpora/prompts/gensar.yaml", "", "\n# a comment\n", set()),
    ("gensar_core/corpora/prompts/gensar.yaml", "Next query:", "The next query:", {"corpus"}),
    ("gensar_core/baselines/methods/sasrec.py", "", "\nBEYOND = 1\n", {"method"}),
    ("gensar_core/generator/rank.py", "", "\nBEYOND = 1\n", {"rank_generator", "full_rank_generator"}),
    ("gensar_core/config/identifiers.py", "(size,) * self.levels", "(2 * size,) * self.levels", {"identifiers"}),
    ("gensar_core/config/identifiers.py", "epochs: Positive = 500", "epochs: Positive = 5\n    more: int = 1", set()),
    ("gensar_core/config/stage_settings.py", "", "\nBEYOND = 1\n", set()),
    ("workflow_scripts/corpus.py", "", "\nBEYOND = 1\n", {"corpus"}),
    ("gensar_core/cli/main.py", "", "\nBEYOND = 1\n", set()),
    ("gensar_core/samples/bm25.py", "", "\n\n\n# a comment\n", set()),
    ("workflow_scripts/corpus.py", "", "\n# a comment\n", set()),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout of its own, whose files may be edited."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("rules", "workflow_scripts", "report", "gensar_core"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    return folder


def forget_files():
    forget_fingerprints()
    for cached in ("module_file", "reached", "imports", "_tree", "_content", "_names_imported"):
        getattr(fingerprints, cached).cache_clear()


@pytest.mark.parametrize(
    ("path", "old", "new", "rules"), EDITS, ids=[f"{Path(path).stem}-{len(rules)}" for path, *_, rules in EDITS]
)
def test_an_edit_in_a_file_reruns_its_stages(plans, checkout, monkeypatch, path, old, new, rules):
    before = (checkout / path).read_text()
    assert old in before
    monkeypatch.setattr(fingerprints, "_ROOT", checkout / "gensar_core")
    monkeypatch.setattr(prompts, "PROMPTS_FOLDER", checkout / "gensar_core/corpora/prompts")
    try:
        (checkout / path).write_text(before.replace(old, new) if old else before + new)
        forget_files()
        needed = plans.moved(plans.folder, checkout / "Snakefile").needed()
    finally:
        (checkout / path).write_text(before)
        monkeypatch.undo()
        forget_files()
    first = {job for job in plans.jobs if job[0] in rules}
    if path.startswith("gensar_core/baselines/"):
        first = {job for job in first if kinds_of(plans)[dict(job[1])["method"]] == Path(path).stem}
    experiments = load_experiments(plans.values)
    if rules == {"identifiers"}:
        # The edit is in the settings of quantizers, whose code those of text do not reach.
        of_text = {name for name, entry in experiments.identifiers.items() if entry.kind in {"numbers", "titles"}}
        first = {job for job in first if dict(job[1])["identifier"] not in of_text}
    if path.endswith("gensar.yaml"):
        first = {job for job in first if experiments.corpora[dict(job[1])["corpus"]].prompts == "gensar"}
    assert needed == plans.following(first)


def test_docstrings_comments_and_layout_are_not_code(tmp_path):
    one, two, three = (tmp_path / name for name in ("one.py", "two.py", "three.py"))
    one.write_text('"""A."""\n\ndef f(a, b):\n    """Adds."""\n    return a + b  # sum\n')
    two.write_text("def f(a,\n      b):\n    # another comment\n    return (a + b)\n")
    three.write_text("def f(a, b):\n    return a - b\n")
    assert script_fingerprint(one) == script_fingerprint(two)
    assert script_fingerprint(one) != script_fingerprint(three)
