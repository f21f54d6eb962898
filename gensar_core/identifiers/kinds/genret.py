"""Learn codes of item texts that queries find: discrete auto-encoding, one level after another (GenRet).

A last code numbers the items that share all learned ones, in the order of their ids. Beside the identifiers it leaves
``t5/``, the trained T5 with its tokenizer, from which a generator may start, and model.safetensors, the codebooks and
decoder inputs.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file

from gensar_core import schema
from gensar_core.config.identifiers import GenRetSettings
from gensar_core.embeddings.item_texts import Texts, tokenize_catalogue
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import occurrence
from gensar_core.identifiers.genret_model import GenRetModel
from gensar_core.identifiers.genret_training import SearchPairs, learn_codes
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.quality import code_use, collision_rate
from gensar_core.identifiers.quantizer import LETTERS, code_rows
from gensar_core.identifiers.table import Scheme
from gensar_core.nn.t5 import t5_of_tokenizer
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.stage import write_json


def _build(settings: GenRetSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    tokenizer, searches = _read(settings, data, work)
    model = _model(settings, tokenizer, work.seed).to(pick_device())
    learned = learn_codes(model, searches, settings, work.seed, work.checkpoints, work.stage.key)

    model.t5.save_pretrained(work.stage.path("t5"))
    tokenizer.save_pretrained(work.stage.path("t5"))
    tables = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name[:3] != "t5."}
    save_file(tables, work.stage.path("model.safetensors"))
    write_json(work.stage.path("curve.json"), learned.history)

    codes, sizes = torch.from_numpy(learned.codes), [settings.codebook_size] * settings.levels
    number = occurrence(codes).numpy()
    counts = {
        "raw_collision_rate": collision_rate(codes),
        **{name: [level[name] for level in learned.figures] for name in learned.figures[0]},
        **code_use(codes, sizes),
    }
    sizes = [*sizes, int(number.max()) + 1]
    scheme = Scheme(levels=[f"{LETTERS['semantic']}{level + 1}" for level in range(len(sizes))], sizes=sizes)
    return {"semantic": SideIdentifiers(code_rows(np.column_stack([learned.codes, number])), scheme, counts=counts)}


def _read(settings: GenRetSettings, data: KindData, work: Work) -> tuple[Any, SearchPairs]:
    """Read texts and training searches. Raises UserError when there are too few to learn from."""
    items = schema.ITEMS.read(data.path("items")).sort("item_id").get_column("text")
    queries = schema.QUERIES.read(data.path("queries")).sort("query_id").get_column("text")
    limits = settings.max_item_tokens, settings.max_query_tokens
    tokenizer, item_texts, query_texts = tokenize_catalogue(
        items, queries, settings.tokenizer, settings.vocabulary_size, limits
    )
    if item_texts.empty.all():
        raise UserError(f"{data.path('items')}: no item has text; GenRet's codes are learned from texts")
    events = schema.EVENTS.read(data.path("training_events")).filter(pl.col("task") == "search")
    pairs = events.select("item_id", "query_id").unique().sort("item_id", "query_id")
    item, query = (pairs.get_column(name).to_numpy() for name in ("item_id", "query_id"))
    with_text = ~item_texts.empty[item] & ~query_texts.empty[query]
    item, query = item[with_text], query[with_text]
    if len(item) < 2:
        raise UserError(
            f"{data.path('training_events')}: holds {len(item)} different searches that led to an item with text; "
            "GenRet learns from two or more; take a data set with searches, or another kind of identifiers"
        )
    held_out = np.zeros(len(item), dtype=bool)
    count = min(max(1, round(settings.held_out * len(item))), len(item) - 1)
    held_out[generator(work.seed, "held out").permutation(len(item))[:count]] = True
    work.stage.record(
        pairs=len(item),
        held_out_pairs=count,
        items_without_text=int(item_texts.empty.sum()),
        items_without_search=len(items) - len(np.unique(item[~held_out])),
    )
    end = tokenizer.eos_token_id
    return tokenizer, SearchPairs(
        _ended(item_texts, end),
        _ended(query_texts, end),
        (item[~held_out], query[~held_out]),
        (item[held_out], query[held_out]),
    )


def _model(settings: GenRetSettings, tokenizer: Any, seed: int) -> GenRetModel:
    t5 = t5_of_tokenizer(settings.backbone, settings.size, tokenizer, settings.tokenizer, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "decoder inputs"))
        return GenRetModel(t5, settings.levels, settings.codebook_size)


def _ended(texts: Texts, end: int) -> Ragged:
    """Return the tokens of texts with an end of sequence."""
    tokens = texts.tokens
    return Ragged.from_lengths(tokens.lengths + 1, np.insert(tokens.values, tokens.offsets[1:], end))


KIND: Final = Kind(
    settings=GenRetSettings,
    paper="GenRet (Sun et al. 2023)",
    build=_build,
)
