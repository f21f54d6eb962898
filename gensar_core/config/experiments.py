"""Read config.yaml: named entries per stage, inheritance through `base`, and names that must be defined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from gensar_core.config.base import Count, Name, Positive, Settings, not_an_entry, validate
from gensar_core.config.corpora import CorpusSettings
from gensar_core.config.datasets import DatasetSettings
from gensar_core.config.embeddings import EmbeddingSettings, TrainedTextEmbedding
from gensar_core.config.fusions import FusionSettings
from gensar_core.config.generators import GeneratorSettings, with_starts
from gensar_core.config.identifiers import IdentifierSettings
from gensar_core.config.inheritance import InPlace, inherit, merge
from gensar_core.config.prompts import find_prompts
from gensar_core.config.pseudo_queries import PseudoQueryEntry
from gensar_core.config.tables import FigureSettings, MethodSettings, TableSettings
from gensar_core.errors import UserError

_SECTIONS = (
    "datasets",
    "embeddings",
    "identifiers",
    "pseudo_queries",
    "corpora",
    "generators",
    "methods",
    "fusions",
    "tables",
    "figures",
)

#: Values of NAME in results/tables/{dataset}_NAME.csv besides entries of `tables`. Each table also has a file
#: {dataset}_{table}_costs.csv.
_OTHER_TABLES = ("full", "cold", "costs", "statistics")
#: Values of NAME in results/figures/{dataset}_NAME.svg besides entries of `figures`. Each trained model also has a file
#: {dataset}_{model}_training.svg.
_OTHER_FIGURES = ("distributions", "training", "collisions", "cold")
#: Folders in results/ besides those of the data sets.
_OTHER_FOLDERS = {"tables", "figures", "overview", "tuning"}

#: Section -> key under which an entry names what it is built on -> sections that may define that name.
BUILT_ON: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "embeddings": {"method": ("methods",), "text": ("embeddings",)},
    "identifiers": {
        "semantic": ("embeddings",),
        "collaborative": ("embeddings",),
        "pseudo_queries": ("pseudo_queries",),
    },
    "pseudo_queries": {},
    "corpora": {"identifier": ("identifiers",), "pseudo_queries": ("pseudo_queries",)},
    "generators": {"corpus": ("corpora",), "start_from": ("generators",)},
    "methods": {"embedding": ("embeddings",)},
    "fusions": {"parts": ("methods", "generators")},
}


class Experiments(Settings):
    """Hold the validated config.yaml. An entry names the entries it builds on; shared ones are built once."""

    seed: Count = 42
    checkpoint_seconds: Count = 60
    """Seconds between checkpoints of a training (0: one after every step). No result depends on it."""
    tuning_trials: Positive = 30
    """Trials of a search of settings (results/tuning/)."""
    datasets: dict[Name, DatasetSettings]
    embeddings: dict[Name, EmbeddingSettings] = {}
    identifiers: dict[Name, IdentifierSettings] = {}
    pseudo_queries: dict[Name, PseudoQueryEntry] = {}
    corpora: dict[Name, CorpusSettings] = {}
    generators: dict[Name, GeneratorSettings] = {}
    methods: dict[Name, MethodSettings] = {}
    fusions: dict[Name, FusionSettings] = {}
    tables: dict[Name, TableSettings] = {}
    figures: dict[Name, FigureSettings] = {}

    def seed_of(self, entry: Any) -> int:
        """Return the seed that an entry draws from: its own, or the configuration's."""
        return self.seed if entry.seed is None else int(entry.seed)

    def embeddings_of(self, kind: str) -> list[str]:
        """Return the names of the embeddings of a kind."""
        return [name for name, entry in self.embeddings.items() if entry.kind == kind]


def load_experiments(values: Mapping[str, Any], where: str = "config") -> Experiments:
    """Validate a whole configuration.

    ``where`` begins every error message. Raises UserError with the path of the first unknown key, wrong type, dangling
    name, or circular `base` or `start_from`.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: must be a mapping of sections ({', '.join(_SECTIONS)})")
    resolved = dict(values)
    for section in (one for one in _SECTIONS if one in values and one != "generators"):
        resolved[section] = inherit(values[section], f"{where}: {section}")
    in_place = InPlace(resolved, where)
    resolved["generators"] = inherit(values.get("generators", {}), f"{where}: generators", in_place.rewrite)
    experiments = _with_derived(validate(Experiments, resolved, where), in_place, where)
    for path, name, section in _references(experiments):
        known = {entry for one in section.split(" or ") for entry in getattr(experiments, one)}
        if name not in known:
            path = in_place.path_as_written(path)
            raise UserError(f"{where}: {path}: {not_an_entry(name, sorted(known), f'of {section}')}")
    _check_trained_texts(experiments, where)
    _check_prompts(experiments, in_place, where)
    _check_row_names(experiments, where)
    _check_catalogue_rows(experiments, where)
    _check_file_names(experiments, where)
    corpora, identifiers = experiments.corpora, experiments.identifiers
    learned = {name: identifiers[corpora[entry.corpus].identifier] for name, entry in experiments.generators.items()}
    generators = with_starts(experiments.generators, learned, f"{where}: generators")
    return experiments.model_copy(update={"generators": generators})


def _with_derived(experiments: Experiments, in_place: InPlace, where: str) -> Experiments:
    """Add the corpora and identifiers that generators override in place."""
    sections: dict[str, dict[str, Settings]] = {}
    models: dict[str, Any] = {"corpora": CorpusSettings, "identifiers": IdentifierSettings}
    for section, model in models.items():
        sections[section] = {**getattr(experiments, section)}
        for name, keys in in_place.derived[section].items():
            sections[section][name] = validate(model, keys, where, in_place.path_as_written(f"{section}.{name}"))
    return experiments.model_copy(update=sections)


def _check_trained_texts(experiments: Experiments, where: str) -> None:
    """Raise UserError when an embedding is trained on another that is not of texts."""
    texts = experiments.embeddings_of("text")
    for name, entry in experiments.embeddings.items():
        if isinstance(entry, TrainedTextEmbedding) and entry.text not in texts:
            raise UserError(f"{where}: embeddings.{name}.text: {not_an_entry(entry.text, texts, 'of kind text')}")


def _check_prompts(experiments: Experiments, in_place: InPlace, where: str) -> None:
    """Raise UserError on a wrong prompt file, and on names of tasks that none has.

    A generator may weigh tasks of another prompt file than its own, since it inherits the weights of its base.
    """
    for name, corpus in experiments.corpora.items():
        path = f"{where}: {in_place.path_as_written(f'corpora.{name}')}."
        if corpus.reads_pseudo_queries(path) and corpus.pseudo_queries is None:
            raise UserError(f"{path}pseudo_queries: its tasks ask them; name an entry of pseudo_queries")
    tasks = {task for corpus in experiments.corpora.values() for task in find_prompts(corpus.prompts).tasks}
    for name, generator in experiments.generators.items():
        for task in generator.task_weights:
            if task not in tasks:
                hint = not_an_entry(task, sorted(tasks), "of the corpora's prompt files")
                raise UserError(f"{where}: generators.{name}.task_weights.{task}: {hint}")


def _check_row_names(experiments: Experiments, where: str) -> None:
    """Raise UserError when two of the sections whose entries become rows of tables share a name."""
    owner: dict[str, str] = {}
    for section, one in (("generators", "a generator"), ("methods", "a method"), ("fusions", "a fusion")):
        for name in getattr(experiments, section):
            if name in owner:
                raise UserError(f"{where}: {section}.{name}: {owner[name]} has the same name; rename one of them")
            owner[name] = one


def _check_catalogue_rows(experiments: Experiments, where: str) -> None:
    """Raise UserError when a table among the catalogue has a row that ranks candidates alone."""
    for name, table in experiments.tables.items():
        for row in table.rows if table.among == "catalogue" else ():
            parts = experiments.fusions[row].parts if row in experiments.fusions else []
            for part in parts:
                if part in experiments.generators:
                    raise UserError(
                        f"{where}: tables.{name}.rows: the fusion {row} has the generator {part} as a part; among the "
                        "catalogue only methods can be fused, leave the fusion out"
                    )


def _check_file_names(experiments: Experiments, where: str) -> None:
    """Raise UserError when two entries would write the same table, figure or folder under results/."""
    trained = [*experiments.methods, *experiments.generators]
    drawn = [*_OTHER_FIGURES, *(f"{name}_training" for name in trained)]
    for section, taken in (("tables", _OTHER_TABLES), ("figures", drawn)):
        for name in getattr(experiments, section):
            if name in taken or (section == "tables" and name.endswith("_costs")):
                one = section.removesuffix("s")
                raise UserError(f"{where}: {section}.{name}: every data set has another {one} of this name; rename it")
    for name in _OTHER_FOLDERS & set(experiments.datasets):
        raise UserError(f"{where}: datasets.{name}: results/{name} holds other results; rename it")
    tables = [*_OTHER_TABLES, *experiments.tables, *(f"{table}_costs" for table in experiments.tables)]
    _check_endings("tables", experiments, tables, where)
    _check_endings("figures", experiments, [*drawn, *experiments.figures], where)


def _check_endings(folder: str, experiments: Experiments, endings: list[str], where: str) -> None:
    """Raise UserError when two data sets would write the same file {dataset}_{ending} in a folder of results/."""
    owner = {name: name for name in experiments.datasets}
    for dataset in experiments.datasets:
        for ending in endings:
            file = f"{dataset}_{ending}"
            other = owner.setdefault(file, dataset)
            if other != dataset:
                raise UserError(
                    f"{where}: datasets.{dataset}: results/{folder}/{file} is a file of data set {other}, too; "
                    "rename one of them"
                )


def read_experiments(path: Path, *overlays: Path) -> Experiments:
    """Read and validate a configuration file, merging ``overlays`` over it as `snakemake --configfile` does."""
    values = _read(path)
    for overlay in overlays:
        above = _read(overlay)
        values = merge(values, above) if isinstance(values, Mapping) and isinstance(above, Mapping) else above
    return load_experiments(values, str(overlays[-1] if overlays else path))


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: not readable as YAML: lists or mappings are nested too deep") from None


def names_in(entry: Settings, key: str) -> list[str]:
    """List the entries that ``entry`` names under ``key``: none, one or several."""
    used = getattr(entry, key, None)
    return used if isinstance(used, list) else [] if used is None else [used]


def _references(experiments: Experiments) -> Iterator[tuple[str, str, str]]:
    """Yield every reference from one entry to another: (path of the key, name, section it must be in)."""
    for name, dataset in experiments.datasets.items():
        yield f"datasets.{name}.table", dataset.table, "tables"
        for position, experiment in enumerate(dataset.experiments):
            yield f"datasets.{name}.experiments.{position}", experiment, "tables or figures"
        for position, identifier in enumerate(dataset.compared_identifiers):
            yield f"datasets.{name}.compared_identifiers.{position}", identifier, "identifiers"
    for section, keys in BUILT_ON.items():
        for name, entry in getattr(experiments, section).items():
            for key, homes in keys.items():
                for position, one in enumerate(names_in(entry, key)):
                    place = f".{position}" if isinstance(getattr(entry, key), list) else ""
                    yield f"{section}.{name}.{key}{place}", one, " or ".join(homes)
    for name, table in experiments.tables.items():
        for position, row in enumerate(table.rows):
            yield f"tables.{name}.rows.{position}", row, "methods or generators or fusions"
    for name, figure in experiments.figures.items():
        for number, series in enumerate(figure.series):
            for position, row in enumerate(series.rows):
                yield f"figures.{name}.series.{number}.rows.{position}", row, "methods or generators or fusions"
