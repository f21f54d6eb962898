"""Open a trained generator of any backbone family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from gensar_core.config.generators import Precision
from gensar_core.errors import UserError
from gensar_core.generator.added_items import ExtendedGenerator
from gensar_core.generator.one_pass import OnePassGenerator
from gensar_core.generator.trained import TrainedGenerator

#: A trained generator: all kinds answer the same questions.
Generator: TypeAlias = TrainedGenerator | OnePassGenerator | ExtendedGenerator


def load_generator(model: Path, corpus: Path, precision: Precision = "float32", added: Path | None = None) -> Generator:
    """Load the generator in the folder ``model``, which was trained on the folder ``corpus``.

    ``added`` is a folder of items added since (stage `add_items`), which it then ranks and returns as well. Raises
    UserError if a folder is missing or they do not belong together.
    """
    family = OnePassGenerator if _reads_logs(model) else TrainedGenerator
    generator: TrainedGenerator | OnePassGenerator = family.load(model, corpus, precision=precision)
    return generator if added is None else ExtendedGenerator.extend(generator, added)


def asked_file(model: Path) -> str:
    """Name the file of a corpus that holds what the generator in ``model`` is asked for valid and test samples."""
    return "asked_logs.parquet" if _reads_logs(model) else "prompts.parquet"


def _reads_logs(model: Path) -> bool:
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{model}: holds no trained model; train the generator first") from None
    except ValueError as error:
        raise UserError(f"{model / 'config.json'}: is not readable ({error}); train the generator again") from error
    return "one_pass" in config
