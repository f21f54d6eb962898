"""Give new items identifiers and tokens without training anything again: the stage `add_items`.

Their texts pass through the frozen text encoder and codebooks of the identifiers that a corpus writes. On the
collaborative side, an item that nobody has clicked has the mean of the embedding's vectors, as in
`embeddings.sequential`; the quantizer holds this mean. Then `identifiers.free_identifiers` gives every new item the
nearest identifier that is free. Nothing that exists is written to: all items stand in a folder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.config.base import validate
from gensar_core.config.datasets import EventLogSettings
from gensar_core.config.embeddings import TextEmbedding
from gensar_core.corpora.read import has_behavior_tokens, new_tokens
from gensar_core.corpora.token_pieces import stack
from gensar_core.corpora.trie import TokenTrie, save_tries
from gensar_core.embeddings.text import TextEncoder
from gensar_core.errors import UserError
from gensar_core.identifiers.free_identifiers import free_codes
from gensar_core.identifiers.quantizer import code_rows
from gensar_core.identifiers.rqvae import RQVAE, load_rqvae
from gensar_core.identifiers.table import Vocabulary, read_vocabulary, save_identifiers
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.stage import Stage, digest, read_record
from gensar_core.runtime.tensors import load_vectors
from gensar_core.sources.eventlog import clean_items
from gensar_core.sources.shared.category_paths import category_column
from gensar_core.sources.shared.raw_tables import reading

#: Kinds of identifiers that are codes of `rqvae.RQVAE`.
_EXTENSIBLE: Final = ("rqvae", "rq_kmeans")
#: Name of the column that holds the ids of the source.
_RAW_ID: Final = "raw_id"
#: Texts of the catalogue that are encoded again, and how far their vectors, of length 1, may lie from the stored ones:
#: devices and number types move them by less, other models by more.
_ENCODED_AGAIN, _TOLERANCE = 8, 0.1


def add_items(items: Path, canonical: Path, corpus: Path, identifiers: Path, embedding: Path, output: Path) -> None:
    """Write a catalogue extended by the table ``items`` into the folder ``output``.

    ``items`` is Parquet, CSV or JSON lines with the columns raw_id and title and, if it likes, description, brand and
    categories, as in the items of an event log. ``canonical``, ``corpus``, ``identifiers`` and ``embedding`` are
    folders of the stages that a generator is built from; ``embedding`` is that of the semantic side. Writes
    items.parquet, identifiers.parquet, vocabulary.json, item_tokens.parquet (the tables of these names, old rows first
    and unchanged, new ones numbered on in the order of the file) and trie.safetensors. Items are placed in this order
    and encoded one at a time, so a longer file that begins with the same rows gives these the same identifiers. Raises
    UserError when a raw id exists already or occurs twice, when an item has no text, when the identifiers are of
    another kind than rqvae or of another encoder, and when no identifier is left for some item.
    """
    files = [items, canonical / "items.parquet", identifiers / "model.safetensors", embedding / "vectors.safetensors"]
    files += [identifiers / name for name in ("identifiers.parquet", "vocabulary.json")]
    files += [corpus / name for name in ("item_tokens.parquet", "new_tokens.json")]
    check_extensible(identifiers)
    _check_reads(corpus, identifiers / "identifiers.parquet")
    _check_reads(corpus, canonical / "items.parquet")
    _check_reads(identifiers, embedding / "vectors.safetensors")
    with Stage("add_items", output, inputs=files, code=__name__, alone=True) as stage:
        known = schema.ITEMS.read(canonical / "items.parquet").sort("item_id")
        added = _read_new(items, known)
        model = load_rqvae(identifiers / "model.safetensors")
        vectors = _text_vectors(added["text"], known["text"], embedding)
        table = schema.IDENTIFIERS.read(identifiers / "identifiers.parquet").sort("item_id")
        codes, moved = _place(model, vectors, {side: _matrix(table[side]) for side in model.sides})
        schema.ITEMS.write(pl.concat([known, added]), stage.path("items.parquet"))
        vocabulary = read_vocabulary(identifiers / "vocabulary.json")
        save_identifiers(
            {side: code_rows(np.concatenate([_matrix(table[side]), codes[side]])) for side in schema.SIDES},
            {side: np.append(table[f"{side}_moved"].to_numpy(), moved[side]) for side in schema.SIDES},
            vocabulary,
            stage.path("identifiers.parquet"),
            stage.path("vocabulary.json"),
        )
        _write_tokens(corpus, codes, vocabulary, stage)
        stage.record(
            extends={"corpus": str(corpus), "identifiers": str(identifiers)},
            items=len(known) + len(added),
            added_items=len(added),
            moved_items={side: int(moved[side].sum()) for side in model.sides},
            free_identifiers=int(np.prod(model.settings.sizes)) - len(known) - len(added),
        )


def check_extensible(identifiers: Path) -> None:
    """Raise UserError unless the identifiers in a folder are codes of a residual quantizer, and nothing else."""
    settings = read_record(identifiers / "stage.json")["settings"]
    kind, collisions = settings.get("kind"), settings.get("collisions")
    if kind not in _EXTENSIBLE or collisions == "extra_digit":
        shown = f"{kind} with collisions: {collisions}" if kind in _EXTENSIBLE else kind
        raise UserError(
            f"{identifiers}: items can be added to identifiers of kind {' or '.join(_EXTENSIBLE)} that are rows of its "
            f"codes alone, and these are of kind {shown}; build other identifiers and train on them"
        )


def _check_reads(stage: Path, file: Path) -> None:
    """Raise UserError unless, by its record, a stage read this ``file`` as it is now."""
    record = read_record(stage / "stage.json")
    if digest(file) not in record["inputs"].values():
        raise UserError(f"{stage}: was not made of {file} as it is now; run its stage again")


def _read_new(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """Read new items as table `items`, numbered after the ``known`` ones in the order of the file."""
    with reading(path):
        table = clean_items(path, EventLogSettings(item_columns={"item_id": _RAW_ID})).collect().sort("row")
    if table.is_empty():
        raise UserError(f"{path}: holds no items; write one a row")
    table = table.with_columns(text=pl.concat_str("title", pl.lit(" "), "description").str.strip_chars())
    for wrong, fault in (
        (table["raw_id"].is_null(), "has no raw_id; give every item one"),
        (~table["raw_id"].is_first_distinct(), "has a raw_id that an earlier row has; write each item once"),
        (table["raw_id"].is_in(known["raw_id"].implode()), "is in the catalogue already; write new items alone"),
        (table["text"] == "", "has neither title nor description, and so no identifier; write one of them"),
    ):
        if wrong.any():
            row, raw_id = table.filter(wrong).select("row", "raw_id").row(0)
            raise UserError(f"{path}: row {row} (item {raw_id!r}) {fault} ({int(wrong.sum()):,} such rows)")
    numbers = pl.Series("item_id", np.arange(len(known), len(known) + len(table)), dtype=pl.Int32())
    table = table.with_columns(numbers, category_column(table["categories"]))
    return schema.ITEMS.check(table, path)


def _text_vectors(texts: pl.Series, known: pl.Series, embedding: Path) -> np.ndarray:
    """Encode texts as the stage of ``embedding`` encoded those of the ``known`` items, float32 [texts, dimensions].

    Raises UserError when the vectors are of no text encoder, or of another one than opens now.
    """
    record = read_record(embedding / "stage.json")
    if record["stage"] != "embed_text":
        raise UserError(
            f"{embedding}: holds vectors of no text encoder, so that new items have none; build identifiers whose "
            "semantic side is a text embedding"
        )
    settings = validate(TextEmbedding, record["settings"], str(embedding / "stage.json"), "settings")
    # One text a batch: a vector's last bits then do not depend on the texts beside it.
    encoder = TextEncoder.load(settings.model_copy(update={"batch_size": 1}))
    stored = load_vectors(embedding / "vectors.safetensors")
    places = np.flatnonzero(known.str.len_bytes().to_numpy())[:_ENCODED_AGAIN]
    again = encoder.encode(known.gather(places), encoder.item_prefix, "known item texts")
    if again.shape[1] != stored.shape[1] or np.linalg.norm(again - stored[places], axis=1).max() > _TOLERANCE:
        raise UserError(
            f"{embedding}: {settings.model!r} is another encoder now than the one that made these vectors; put that "
            "one back, or build embedding, identifiers and generator again"
        )
    return encoder.encode(texts, encoder.item_prefix, "new item texts")


@torch.no_grad()
def _place(
    model: RQVAE, vectors: np.ndarray, taken: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return, by side, the codes [m, L] of items with these text vectors, and which are not their nearest ones [m]."""
    if "semantic" not in model.sides:
        raise UserError("identifiers: are built from clicks alone, which new items have none of; build others of texts")
    given = {side: model.get_buffer(f"mean_{side}").expand(len(vectors), -1) for side in model.sides}
    given["semantic"] = torch.from_numpy(vectors)
    latents = model.all_latents(model.scale(given))
    nearest = model.encode_latents(latents)
    found = free_codes(
        latents.numpy(),
        [codebook.numpy() for codebook in model.shared],
        [[codebook.numpy() for codebook in model.specific_codebooks(side)] for side in model.sides],
        [taken[side] for side in model.sides],
    )
    codes = dict(zip(model.sides, found, strict=True))
    moved = {side: (rows != nearest.identifier(side).numpy()).any(axis=1) for side, rows in codes.items()}
    return _both_sides(codes), _both_sides(moved)


def _both_sides(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the values of both sides; with a single one, the other has the same identifiers."""
    return {side: values.get(side, values["semantic"]) for side in schema.SIDES}


def _write_tokens(corpus: Path, codes: Mapping[str, np.ndarray], vocabulary: Vocabulary, stage: Stage) -> None:
    """Write the decoder tokens of old and new items, as a table and as tries."""
    table = schema.ITEM_TOKENS.read(corpus / "item_tokens.parquet").sort("task", "item_id")
    tokens, behaviors = new_tokens(corpus), has_behavior_tokens(corpus)
    parts, tries = [], {}
    for task, side in schema.SIDE_OF_TASK.items():
        old = table.filter(pl.col("task") == task)
        known = Ragged.from_series(old["target_ids"])
        levels = vocabulary.scheme(side).levels
        numbers = [
            [tokens[f"<{level}_{code}>"] for level, code in zip(levels, row, strict=True)] for row in codes[side]
        ]
        # The behavior token and the end of sequence are those of every item.
        around = [known.values[:behaviors], known.values[-1:]]
        rows = [[*around[0], *row, *around[1]] for row in numbers]
        new: dict[str, Any] = {"task": [task] * len(rows), "item_id": range(len(old), len(old) + len(rows))}
        parts += [old, schema.ITEM_TOKENS.check(pl.DataFrame({**new, "target_ids": rows}))]
        tries[task] = TokenTrie.from_rows(stack([known, Ragged.from_series(parts[-1]["target_ids"])]))
    schema.ITEM_TOKENS.write(pl.concat(parts), stage.path("item_tokens.parquet"))
    save_tries(tries, stage.path("trie.safetensors"))


def _matrix(column: pl.Series) -> np.ndarray:
    """Return rows of equally many codes, int64 [n, L]."""
    rows = Ragged.from_series(column)
    return rows.values.astype(np.int64).reshape(len(rows), -1)
