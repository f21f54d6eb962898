"""The simulated shop's shelves: categories, products and product pages, with a style that no page tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from gensar_core.runtime.seeds import generator

_WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
REVIEW_SENTENCES: list[str] = _WORDS["reviews"]
ADJECTIVES: list[str] = _WORDS["adjectives"]

#: How many styles there are at least and at most; more where buckets stay filled.
_STYLES = (4, 16)
_ITEMS_A_BUCKET = 4
#: Share of items that have no title.
_NO_TITLE = 0.01
#: Share of texts that keep leftovers of HTML, as scraped pages do.
_HTML = 0.1


@dataclass(frozen=True)
class Leaf:
    """A leaf category: its path from the root, and what a product in it is called."""

    path: tuple[str, ...]
    product: str


@dataclass(frozen=True)
class Shelves:
    """What the shop sells; arrays are [items] unless said otherwise.

    ``leaf`` is the item's category, ``second`` another one or -1, ``style`` what shoppers go by though no text tells
    it, ``popularity`` a positive weight. ``complement`` [leaves] is the category that one turns to after each.
    """

    leaves: list[Leaf]
    complement: np.ndarray
    leaf: np.ndarray
    second: np.ndarray
    style: np.ndarray
    n_styles: int
    popularity: np.ndarray


def all_leaves() -> list[Leaf]:
    """Every leaf category: first one of each group, then another, so that any first few span all families."""
    groups = [
        [Leaf((family, group, leaf), product) for leaf, product in leaves.items()]
        for family, groups in _WORDS["categories"].items()
        for group, leaves in groups.items()
    ]
    return [group[place] for place in range(max(map(len, groups))) for group in groups if place < len(group)]


def stock_shelves(n_items: int, seed: int, second_categories: float = 0.25) -> Shelves:
    """Draw the items. Categories and styles are spread evenly and independently of each other.

    A share ``second_categories`` of the items stands in two categories.
    """
    draw = generator(seed, "shop", "shelves")
    leaves = all_leaves()
    leaves = leaves[: int(np.clip(n_items // (_STYLES[0] * _ITEMS_A_BUCKET), 12, len(leaves)))]
    n_styles = int(np.clip(n_items // (len(leaves) * _ITEMS_A_BUCKET), *_STYLES))
    places = draw.permutation(n_items)
    leaf, style = places % len(leaves), places // len(leaves) % n_styles
    other = (leaf + draw.integers(1, len(leaves), n_items)) % len(leaves)
    return Shelves(
        leaves=leaves,
        complement=_complements(leaves),
        leaf=leaf,
        second=np.where(draw.random(n_items) < second_categories, other, -1),
        style=style,
        n_styles=n_styles,
        popularity=draw.lognormal(0.0, 0.7, n_items),
    )


def _complements(leaves: list[Leaf]) -> np.ndarray:
    """After a leaf comes the next one of its family, by groups: pans are followed by grinders, grinders by bowls."""
    following = np.arange(len(leaves))
    for family in dict.fromkeys(leaf.path[0] for leaf in leaves):
        members = [place for place, leaf in enumerate(leaves) if leaf.path[0] == family]
        following[members] = np.roll(members, -1)
    return following


def product_pages(shelves: Shelves, missing_descriptions: float, n_unsold: int, seed: int) -> pl.DataFrame:
    """title, description (each null where missing), brand and categories of every item, raw as in a scraped shop.

    ``n_unsold`` items that nobody ever buys follow after those of the shelves. At least one item has no text at all.
    """
    draw = generator(seed, "shop", "pages")
    unsold = draw.integers(0, len(shelves.leaves), n_unsold)
    leaf = np.concatenate([shelves.leaf, unsold])
    second = np.concatenate([shelves.second, np.full(n_unsold, -1)])
    count = len(leaf)
    words = pl.DataFrame(
        {
            "product": pl.Series([entry.product for entry in shelves.leaves]).gather(leaf),
            **{
                name: _pick(draw, _WORDS[source], count)
                for name, source in (
                    ("brand", "brands"),
                    ("adjective", "adjectives"),
                    ("material", "materials"),
                    ("color", "colors"),
                    ("size", "sizes"),
                )
            },
        }
    )
    titled = words.select(
        pl.format("{} {} {}, {}, {}", "brand", "adjective", *(_titled(name) for name in ("product", "color", "size")))
    ).to_series()
    described = _descriptions(words, draw)
    untitled = draw.random(count) < _NO_TITLE
    undescribed = draw.random(count) < missing_descriptions
    # Someone always forgets to fill in a page; take one that hardly anyone visits.
    nameless = int(np.argmin(shelves.popularity))
    untitled[nameless] = undescribed[nameless] = True
    return pl.select(
        title=pl.when(pl.Series(~untitled)).then(_entities(titled)),
        description=pl.when(pl.Series(~undescribed)).then(_html(described, draw)),
        brand=_entities(words["brand"]),
        categories=_paths(shelves.leaves, leaf, second),
    )


def _pick(draw: np.random.Generator, words: list[str], count: int) -> pl.Series:
    return pl.Series(list(map(str, words))).gather(draw.integers(0, len(words), count))


def _titled(name: str) -> pl.Expr:
    return pl.col(name).str.to_titlecase()


def _descriptions(words: pl.DataFrame, draw: np.random.Generator) -> pl.Series:
    """An opening and two to four other sentences, filled with the item's words."""
    texts = _filled(words, _pick(draw, _WORDS["openings"], len(words)))
    sentences = np.argsort(draw.random((len(words), len(_WORDS["sentences"]))), axis=1)
    length = draw.integers(2, 5, len(words))
    for place in range(4):
        chosen = pl.Series(_WORDS["sentences"]).gather(sentences[:, place])
        more = _filled(words, chosen)
        texts = pl.select(pl.when(pl.Series(place < length)).then(texts + ". " + more).otherwise(texts)).to_series()
    return texts + "."


def _filled(words: pl.DataFrame, templates: pl.Series) -> pl.Series:
    text = pl.col("template")
    for name in words.columns:
        word = pl.col(name) if name == "brand" else pl.col(name).str.to_lowercase()
        text = text.str.replace_all("{" + name + "}", word, literal=True)
    return words.with_columns(template=templates).select(text).to_series()


def _entities(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all("&", "&amp;", literal=True)


def _html(texts: pl.Series, draw: np.random.Generator) -> pl.Series:
    """Leave tags and entities in some of the texts."""
    kind = pl.Series(np.where(draw.random(len(texts)) < _HTML, draw.integers(0, 4, len(texts)), -1))
    return pl.select(
        pl.when(kind == 0)
        .then("<b>" + texts.str.replace(". ", ".</b> ", literal=True))
        .when(kind == 1)
        .then(texts.str.replace_all(". ", ".<br />", literal=True))
        .when(kind == 2)
        .then(texts.str.replace_all(" and ", " &amp;&nbsp;", literal=True) + "..")
        .when(kind == 3)
        .then("<p>&quot;" + texts + "&quot;</p>")
        .otherwise(texts)
    ).to_series()


def _paths(leaves: list[Leaf], leaf: np.ndarray, second: np.ndarray) -> pl.Series:
    """List of one or two category paths an item."""
    paths = pl.Series([list(entry.path) for entry in leaves])
    both = pl.DataFrame({"first": paths.gather(leaf), "second": paths.gather(np.maximum(second, 0))})
    alone = pl.concat_list(pl.col("first").implode().over(pl.int_range(pl.len())))
    pair = pl.concat_list(
        pl.col("first").implode().over(pl.int_range(pl.len())), pl.col("second").implode().over(pl.int_range(pl.len()))
    )
    return both.select(pl.when(pl.Series(second < 0)).then(alone).otherwise(pair)).to_series()
