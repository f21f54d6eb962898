"""Write a small configuration for a shop's own two tables, laid over config.yaml by `--configfile`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from gensar_core.cli.survey import TableSurvey
from gensar_core.config.experiments import load_experiments
from gensar_core.config.inheritance import merge
from gensar_core.errors import UserError

#: Encoders of 23 and 118 million parameters.
ENGLISH: Final = "all-MiniLM-L6-v2"
MULTILINGUAL: Final = "intfloat/multilingual-e5-small"
#: Smallest share of English texts for an English encoder.
_ENGLISH_SHARE: Final = 0.8


def choose_encoder(survey: TableSurvey) -> str:
    """Choose a text encoder by the texts' languages: an English one only where nearly all texts are English."""
    return ENGLISH if survey.languages.get("English", 0.0) >= _ENGLISH_SHARE or not survey.languages else MULTILINGUAL


def write_preset(output: Path, survey: TableSurvey, encoder: str, config: Path = Path("config.yaml")) -> str:
    """Write the configuration of a surveyed data set to ``output``, a file `config.NAME.yaml`; return NAME, its name.

    Raises UserError when the file exists, when ``config`` has entries of the same names, and when the two together are
    no valid configuration.
    """
    if output.exists():
        raise UserError(f"{output}: is there already; delete it, or give another --output config.NAME.yaml")
    name = output.stem.removeprefix("config.")
    preset = preset_values(name, survey, encoder)
    try:
        base = yaml.safe_load(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{config}: no such file; run this in the folder of the workflow's {config.name}") from None
    for section, entries in preset.items():
        if section != "methods" and (twice := entries.keys() & base.get(section, {})):
            taken = f"{section}.{min(twice)}"
            raise UserError(f"{output}: {config} has {taken} already; give another --output config.NAME.yaml")
    load_experiments(merge(base, preset), str(output))
    head = (
        f"# Made by `gensar init`; laid over {config.name}: gensar run --cores 2 --configfile {output} -- "
        f"results/tables/{name}.csv\n"
    )
    output.write_text(head + yaml.safe_dump(preset, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")
    return name


def preset_values(name: str, survey: TableSurvey, encoder: str) -> dict[str, Any]:
    """Return the sections of a preset: the demo's settings, in sizes that fit the catalogue and the log."""
    sizes = _Sizes(survey)
    return {
        "datasets": {name: survey.settings | {"table": name}},
        "embeddings": {name: {"kind": "text", "model": encoder, "max_tokens": 64}},
        "identifiers": {
            name: {
                "base": "joint_demo",
                "semantic": name,
                "codebook_size": sizes.codebook_size,
                "epochs": sizes.identifier_epochs,
            }
        },
        "corpora": {name: {"base": "demo", "identifier": name, "vocabulary_size": sizes.vocabulary}},
        "generators": {f"gensar_{name}": {"base": "gensar_demo", "corpus": name, "epochs": sizes.epochs}},
        "methods": {"sasrec": {"epochs": sizes.sasrec_epochs, "validate_every": 2}},
        "tables": {
            name: {
                "proposed": [f"gensar_{name}"],
                "rows": ["popularity", "itemknn", "sasrec", "query_frequency", "bm25", f"gensar_{name}"],
            }
        },
    }


class _Sizes:
    """Choose the demo's sizes for small shops; for large ones, larger codebooks and vocabularies, and fewer epochs."""

    def __init__(self, survey: TableSurvey) -> None:
        events = survey.recommendations + survey.searches
        self.codebook_size = 16 if survey.items <= 1000 else 64 if survey.items <= 20_000 else 256
        self.identifier_epochs = round(min(60, max(10, 300_000 / survey.items)))
        # A tokenizer's alphabet is a quarter of its vocabulary at most.
        letters = -(-4 * survey.characters // 1000) * 1000
        self.vocabulary = min(16_000, max(letters, 1000 if survey.items <= 1000 else 4000))
        self.epochs = round(min(10.0, max(1.0, 1_000_000 / events)), 1)
        self.sasrec_epochs = round(min(100, max(4, 2_000_000 / events)))


#: Seconds of one CPU core, fitted to the CPU times of one run on 500 users, 300 items and 6,000 events; SASRec's come
#: from the wall time of one on 100,000 events. An event and an item count once an epoch. The multilingual encoder was
#: not measured: it has twice the layers of the other.
_JOBS: Final = 15
_START_OF_A_JOB: Final = 4.0
_TEXT: Final = {ENGLISH: 0.01}
_OTHER_TEXT: Final = 0.02
_IDENTIFIER: Final = 0.0002
_SASREC_EVENT: Final = 0.00004
_GENERATOR_EVENT: Final = 0.0005
_TARGET: Final = 0.005


def estimate(survey: TableSurvey, encoder: str) -> dict[str, float]:
    """Estimate the minutes to the metric table on two cores: what takes time -> its minutes.

    A stage's time grows in proportion to what it reads. The sum is too high where two stages run side by side. A
    download of the encoder is not counted.
    """
    sizes = _Sizes(survey)
    events = survey.recommendations + survey.searches
    texts = survey.items + survey.queries
    # Leave one out: a valid and a test target of each task.
    targets = 2 * survey.users * sum(count > 0 for count in (survey.recommendations, survey.searches))
    seconds: dict[str, float] = {
        f"starting {_JOBS} jobs": _JOBS * _START_OF_A_JOB,
        f"encoding {texts:,} texts": texts * _TEXT.get(encoder, _OTHER_TEXT),
        f"identifiers of {survey.items:,} items in {sizes.identifier_epochs} epochs": (
            survey.items * sizes.identifier_epochs * _IDENTIFIER
        ),
        f"SASRec on {events:,} events in {sizes.sasrec_epochs} epochs": events * sizes.sasrec_epochs * _SASREC_EVENT,
        f"the generator on {events:,} events in {sizes.epochs:g} epochs": events * sizes.epochs * _GENERATOR_EVENT,
        f"ranking {targets:,} targets": targets * _TARGET,
    }
    return {what: value / 60 for what, value in seconds.items()}
