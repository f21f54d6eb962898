"""Open a trained generator of any backbone family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeAlias

from gensar_core.config.generators import Precision
from gensar_core.corpora.instructions import PROMPTS_COPY
from gensar_core.errors import UserError
from gensar_core.generator.added_items import ExtendedGenerator
from gensar_core.generator.one_pass import OnePassGenerator, query_numbers_file
from gensar_core.generator.trained import TrainedGenerator, exported_corpus

#: A trained generator: all kinds answer the same questions.
Generator: TypeAlias = TrainedGenerator | OnePassGenerator | ExtendedGenerator


def load_generator(
    model: Path, corpus: Path | None = None, precision: Precision = "float32", added: Path | None = None
) -> Generator:
    """Load the generator in the folder ``model``, which was trained on the folder ``corpus``.

    Without ``corpus``, ``model`` is an exported folder, which holds what it needs of it. ``added`` is a folder of items
    added since (stage `add_items`), which it then ranks and returns as well. Raises UserError if a folder is missing or
    damaged, or they do not belong together.
    """
    corpus = corpus or exported_corpus(model)
    family = OnePassGenerator if _reads_logs(model) else TrainedGenerator
    generator: TrainedGenerator | OnePassGenerator = family.load(model, corpus, precision=precision)
    return generator if added is None else ExtendedGenerator.extend(generator, added)


def asked_file(model: Path) -> str:
    """Name the file of a corpus that holds what the generator in ``model`` is asked for valid and test samples."""
    return "asked_logs.parquet" if _reads_logs(model) else "prompts.parquet"


def live_files(model: Path, corpus: Path) -> list[str]:
    """Name the files and folders of a corpus that the generator in ``model`` answers live questions with."""
    files = [PROMPTS_COPY, "new_tokens.json", "item_tokens.parquet", "trie.safetensors", "tokenizer"]
    return [*files, query_numbers_file(corpus).name] if _reads_logs(model) else files


def _reads_logs(model: Path) -> bool:
    try:
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{model}: holds no trained model; train the generator first") from None
    except ValueError as error:
        raise UserError(f"{model / 'config.json'}: is not readable ({error}); train the generator again") from error
    return "one_pass" in config
