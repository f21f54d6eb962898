"""Write a trained generator into one folder that needs nothing else of the results (`gensar export`)."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.generator.click_evidence import ClickEvidence
from gensar_core.generator.one_pass import query_numbers
from gensar_core.generator.one_pass_training import EVIDENCE_FILE
from gensar_core.generator.open import live_files
from gensar_core.generator.trained import EXPORT
from gensar_core.runtime.stage import Stage
from gensar_core.service.card import model_card
from gensar_core.service.shop import Folders

#: Files of a model's folder that are not of the model.
_RECORDS: Final = ("stage.json", "curve.json")


def export_generator(dataset: Path, name: str, output: Path) -> None:
    """Write the generator ``name`` of a data set's folder into ``output``, a new folder, whole or not at all.

    docs/ask-a-model.md lists its files. None tells a user's history, but those of a causal model hold the queries of
    the training log. Raises UserError when the generator does not open, and on a folder that is not empty.
    """
    if output.exists() and (not output.is_dir() or any(path.name != ".stage.partial" for path in output.iterdir())):
        raise UserError(f"{output}: is there already; name a new folder, or delete it")
    # Items that were added since belong to the data set, not to the model.
    folders = replace(Folders.of(dataset, name), added=None)
    # Refuse here what would not open there.
    generator = folders.load()
    identifiers = [folders.identifiers / file for file in ("identifiers.parquet", "vocabulary.json")]
    with Stage(EXPORT, output, inputs=[*folders.files(), *identifiers], code=__name__) as stage:
        for path in sorted(folders.model.iterdir()):
            if path.name == EVIDENCE_FILE:
                ClickEvidence.load(path).without_users().save(stage.path(path.name))
            elif path.is_file() and path.name not in _RECORDS:
                shutil.copyfile(path, stage.path(path.name))
        for file in [*live_files(folders.model, folders.corpus), "stage.json"]:
            source = folders.corpus / file
            if file == "user_logs.parquet":
                schema.QUERY_NUMBERS.write(query_numbers(folders.corpus), stage.path("corpus/query_numbers.parquet"))
            elif source.is_dir():
                shutil.copytree(source, stage.path(f"corpus/{file}"), copy_function=shutil.copyfile)
            else:
                shutil.copyfile(source, stage.path(f"corpus/{file}"))
        for path in identifiers:
            shutil.copyfile(path, stage.path(f"identifiers/{path.name}"))
        shutil.copyfile(folders.canonical / "items.parquet", stage.path("items.parquet"))
        card = model_card(dataset, name, folders, generator)
        stage.path("README.md").write_text(card, encoding="utf-8")
