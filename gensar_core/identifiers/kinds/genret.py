"""Learn codes of item texts that queries find: discrete auto-encoding, one level after another (GenRet).

A last code numbers the items that share all learned ones, in the order of their ids. Beside the identifiers it leaves
the trained T5, in which each learned code is a token, for a generator to start from, and ``tokenizer/``, whose words it
reads.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import polars as pl
import torch

from gensar_core import schema
from gensar_core.config.identifiers import GenRetSettings
from gensar_core.embeddings.item_texts import Texts, tokenize_catalogue
from gensar_core.embeddings.tokenizer import add_tokens
from gensar_core.errors import UserError
from gensar_core.identifiers.collisions import occurrence
from gensar_core.identifiers.genret_model import GenRetModel
from gensar_core.identifiers.genret_training import SearchPairs, learn_codes
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.quality import code_use, collision_rate
from gensar_core.identifiers.quantizer import LETTERS, code_rows
from gensar_core.identifiers.table import Scheme, code_tokens
from gensar_core.nn.t5 import t5_of_tokenizer
from gensar_core.runtime.arrays import Ragged
from gensar_core.runtime.device import pick_device
from gensar_core.runtime.seeds import derive_seed, generator
from gensar_core.runtime.stage import write_json
from gensar_core.samples.cold_items import mark_cold_items
from gensar_core.samples.search_clicks import SearchClicks


def _build(settings: GenRetSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    tokenizer, searches = _read(settings, data, work)
    model = _model(settings, tokenizer, work.seed).to(pick_device())
    learned = learn_codes(model, searches, settings, work.seed, work.checkpoints, work.stage.key)

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
    learned_sizes = dict(zip(scheme.levels, sizes[:-1], strict=False))
    _save(model, tokenizer, code_tokens(learned_sizes), work)
    return {"semantic": SideIdentifiers(code_rows(np.column_stack([learned.codes, number])), scheme, counts=counts)}


def _save(model: GenRetModel, tokenizer: Any, tokens: list[str], work: Work) -> None:
    """Write the T5 and two tokenizers: that of its words, and its own, which has a token for each learned code."""
    tokenizer.save_pretrained(work.stage.path("tokenizer"))
    words = add_tokens(tokenizer, tokens, str(tokenizer.name_or_path)).base_vocabulary_size
    folder = work.stage.path("config.json").parent
    model.as_generator(words).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(settings: GenRetSettings, data: KindData, work: Work) -> tuple[Any, SearchPairs]:
    """Read texts and pairs of a query and an item. Raises UserError when there are too few to learn from."""
    items = schema.ITEMS.read(data.path("item_texts")).sort("item_id").get_column("text")
    queries, pairs = _queried(data)
    limits = settings.max_item_tokens, settings.max_query_tokens
    tokenizer, item_texts, query_texts = tokenize_catalogue(
        items, queries, settings.tokenizer, settings.vocabulary_size, limits
    )
    if item_texts.empty.all():
        raise UserError(f"{data.path('item_texts')}: no item has text; GenRet's codes are learned from texts")
    item, query = (pairs.get_column(name).to_numpy() for name in ("item_id", "query"))
    usable = ~item_texts.empty[item] & ~query_texts.empty[query]
    item, query, logged = (values[usable] for values in (item, query, pairs.get_column("logged").to_numpy()))
    searches = np.flatnonzero(logged)
    if len(searches) < 2:
        raise UserError(
            f"{data.path('training_events')}: holds {len(searches)} different searches that led to an item with text; "
            "GenRet learns from two or more; take a data set with searches, or another kind of identifiers"
        )
    count = min(max(1, round(settings.held_out * len(searches))), len(searches) - 1)
    held_out = np.zeros(len(item), dtype=bool)
    held_out[generator(work.seed, "held out").permutation(searches)[:count]] = True
    work.stage.record(
        search_pairs=len(searches),
        pseudo_query_pairs=len(item) - len(searches),
        held_out_pairs=count,
        items_without_text=int(item_texts.empty.sum()),
        items_without_query=len(items) - len(np.unique(item[~held_out])),
    )
    end = tokenizer.eos_token_id
    return tokenizer, SearchPairs(
        _ended(item_texts, end),
        _ended(query_texts, end),
        (item[~held_out], query[~held_out]),
        (item[held_out], query[held_out]),
    )


def _queried(data: KindData) -> tuple[pl.Series, pl.DataFrame]:
    """Return the different texts of queries, sorted, and the distinct pairs of an item and one of them.

    Columns of the pairs: `item_id`, `query` (place among the texts) and `logged` (a search led to it, it is not only
    generated).
    """
    clicks = SearchClicks.read(data.path("training_events"))
    pairs = [pl.DataFrame({"item_id": clicks.items, "text": clicks.queries}).with_columns(logged=pl.lit(True))]
    texts = schema.QUERIES.read(data.path("queries")).sort("query_id").get_column("text")
    if data.pseudo_queries is not None:
        generated = schema.PSEUDO_QUERIES.read(data.pseudo_queries)
        number = pl.int_range(len(texts), len(texts) + len(generated), dtype=pl.Int32, eager=True)
        pairs.append(generated.select("item_id", text=number, logged=pl.lit(False)))
        texts = pl.concat([texts, generated.get_column("text")])
    cold = np.flatnonzero(mark_cold_items(data.cold_items, data.n_items()))
    together = pl.concat(pairs).filter(~pl.col("item_id").is_in(cold.tolist()))
    used = together.get_column("text").unique()
    queries = texts.gather(used).unique().sort()
    place = np.zeros(len(texts), dtype=np.uint32)
    place[used.to_numpy()] = queries.search_sorted(texts.gather(used)).to_numpy()
    query = pl.Series("query", place).gather(together.get_column("text"))
    distinct = together.select("item_id", query, "logged").group_by("item_id", "query").agg(pl.col("logged").any())
    return queries, distinct.sort("item_id", "query")


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
