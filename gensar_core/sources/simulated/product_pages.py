"""Draw the simulated shop's product pages, as raw as scraped ones: gaps, entities and leftovers of HTML."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gensar_core.runtime.seeds import generator
from gensar_core.sources.simulated.shop import WORDS, Leaf, Shelves

#: Share of items without a title.
_NO_TITLE = 0.01
#: Share of texts with leftovers of HTML, as on scraped pages.
_HTML = 0.1
#: Maximum number of sentences that follow the opening of a description.
_SENTENCES = 4
#: Number of rows drawn at once where each takes many numbers; bounds memory, not results.
_SLICE = 1 << 17
#: Attribute that describes a product -> its list of words.
_ATTRIBUTES = {
    "brand": "brands",
    "adjective": "adjectives",
    "material": "materials",
    "color": "colors",
    "size": "sizes",
    "opening": "openings",
}


@dataclass(frozen=True)
class Pages:
    """Store every product page as numbers; ``text`` writes the pages of some rows.

    Arrays are [pages]. ``leaf`` and ``second`` are as in `Shelves`; ``words`` maps a key of `_ATTRIBUTES` to places in
    its list of words; ``sentences`` [pages, _SENTENCES] are places in the list of sentences, of which ``length`` are
    used; ``html`` is the kind of HTML leftovers or -1; ``titled`` and ``described`` say whether the page has a title
    and a description.
    """

    leaves: list[Leaf]
    leaf: np.ndarray
    second: np.ndarray
    words: dict[str, np.ndarray]
    sentences: np.ndarray
    length: np.ndarray
    html: np.ndarray
    titled: np.ndarray
    described: np.ndarray

    def __len__(self) -> int:
        return len(self.leaf)

    def text(self, rows: slice) -> pl.DataFrame:
        """Return title, description (each null where missing), brand and categories of some pages."""
        products = pl.Series([entry.product for entry in self.leaves])
        attributes = {name: _list(source).gather(self.words[name][rows]) for name, source in _ATTRIBUTES.items()}
        words = pl.DataFrame({"product": products.gather(self.leaf[rows]), **attributes})
        title = pl.format(
            "{} {} {}, {}, {}", "brand", "adjective", *(_titled(name) for name in ("product", "color", "size"))
        )
        described = self._descriptions(words.drop("opening"), words["opening"], rows)
        return pl.select(
            title=pl.when(pl.Series(self.titled[rows])).then(_entities(words.select(title).to_series())),
            description=pl.when(pl.Series(self.described[rows])).then(_html(described, pl.Series(self.html[rows]))),
            brand=_entities(words["brand"]),
            categories=_paths(self.leaves, self.leaf[rows], self.second[rows]),
        )

    def _descriptions(self, words: pl.DataFrame, opening: pl.Series, rows: slice) -> pl.Series:
        """Return the opening and the further sentences of pages, filled with the items' words."""
        texts = _filled(words, opening)
        for place in range(_SENTENCES):
            more = _filled(words, _list("sentences").gather(self.sentences[rows, place]))
            used = pl.Series(place < self.length[rows])
            texts = pl.select(pl.when(used).then(texts + ". " + more).otherwise(texts)).to_series()
        return texts + "."


def product_pages(shelves: Shelves, missing_descriptions: float, n_unsold: int, seed: int) -> Pages:
    """Draw the page of every item, and of ``n_unsold`` more items that nobody ever buys.

    At least one item has no text at all.
    """
    rng = generator(seed, "shop", "pages")
    unsold = rng.integers(0, len(shelves.leaves), n_unsold)
    leaf = np.concatenate([shelves.leaf, unsold])
    count = len(leaf)
    words = {name: rng.integers(0, len(WORDS[source]), count).astype(np.int16) for name, source in _ATTRIBUTES.items()}
    sentences = _shuffled(rng, count)
    length = rng.integers(2, 1 + _SENTENCES, count)
    untitled = rng.random(count) < _NO_TITLE
    undescribed = rng.random(count) < missing_descriptions
    # Real shops have pages that nobody filled in: empty the page of the least popular item.
    nameless = int(np.argmin(shelves.popularity))
    untitled[nameless] = undescribed[nameless] = True
    return Pages(
        leaves=shelves.leaves,
        leaf=leaf,
        second=np.concatenate([shelves.second, np.full(n_unsold, -1)]),
        words=words,
        sentences=sentences,
        length=length,
        html=np.where(rng.random(count) < _HTML, rng.integers(0, 4, count), -1),
        titled=~untitled,
        described=~undescribed,
    )


def _shuffled(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return the first `_SENTENCES` sentences of a shuffled list per page, int8 [count, _SENTENCES]."""
    parts = []
    for start in range(0, count, _SLICE):
        numbers = rng.random((min(_SLICE, count - start), len(WORDS["sentences"])))
        parts.append(np.argsort(numbers, axis=1)[:, :_SENTENCES].astype(np.int8))
    return np.concatenate(parts)


def _list(name: str) -> pl.Series:
    return pl.Series(list(map(str, WORDS[name])))


def _titled(name: str) -> pl.Expr:
    return pl.col(name).str.to_titlecase()


def _filled(words: pl.DataFrame, templates: pl.Series) -> pl.Series:
    text = pl.col("template")
    for name in words.columns:
        word = pl.col(name) if name == "brand" else pl.col(name).str.to_lowercase()
        text = text.str.replace_all("{" + name + "}", word, literal=True)
    return words.with_columns(template=templates).select(text).to_series()


def _entities(texts: pl.Series) -> pl.Series:
    return texts.str.replace_all("&", "&amp;", literal=True)


def _html(texts: pl.Series, kind: pl.Series) -> pl.Series:
    """Put tags and entities of the given kind into the texts; none for kind -1."""
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
    """Return a list of one or two category paths per item."""
    paths = pl.Series([list(entry.path) for entry in leaves])
    both = pl.DataFrame({"first": paths.gather(leaf), "second": paths.gather(np.maximum(second, 0))})
    alone = pl.concat_list(pl.col("first").implode().over(pl.int_range(pl.len())))
    pair = pl.concat_list(
        pl.col("first").implode().over(pl.int_range(pl.len())), pl.col("second").implode().over(pl.int_range(pl.len()))
    )
    return both.select(pl.when(pl.Series(second < 0)).then(alone).otherwise(pair)).to_series()
