"""Take the words of titles as identifiers, in pieces of the tokenizer: what a URL is to WebUltron. Both sides get them.

As WebUltron treats page titles: lower case, no digits, a limited length, and more words where a title has two or fewer.
A page's URL supplies these; an item's brand does here. Equal texts are told apart by a number at the end, which no
title has, since titles lose their digits. The first item with a text keeps it as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from gensar_core import schema
from gensar_core.config.identifiers import TitleSettings
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.quality import row_collisions
from gensar_core.identifiers.table import Scheme

_WORDS: Final = re.compile(r"[^\W\d_]+")
#: A title with so few words gets those of the brand, too.
_SHORT: Final = 2
#: Stands for a title and a brand without any letter.
_NAMELESS: Final = "item"


def title_texts(titles: Sequence[str], brands: Sequence[str], max_words: int) -> list[str]:
    """Write each title as at most ``max_words`` words in lower case, without digits and punctuation."""
    texts = []
    for title, brand in zip(titles, brands, strict=True):
        words = _WORDS.findall(title.lower())
        if len(words) <= _SHORT:
            words += _WORDS.findall(brand.lower())
        texts.append(" ".join(words[:max_words]) or _NAMELESS)
    return texts


def told_apart(texts: Sequence[str]) -> list[str]:
    """Tell equal texts apart: the second item with a text gets a 2 at the end, the third a 3."""
    seen: Counter[str] = Counter()
    different = []
    for text in texts:
        seen[text] += 1
        different.append(text if seen[text] == 1 else f"{text} {seen[text]}")
    return different


def _build(settings: TitleSettings, data: KindData, _: Work) -> dict[str, SideIdentifiers]:
    items = schema.ITEMS.read(data.path("item_texts")).sort("item_id")
    texts = title_texts(items.get_column("title").to_list(), items.get_column("brand").to_list(), settings.max_words)
    raw = row_collisions(texts)[0]
    return {"semantic": SideIdentifiers(told_apart(texts), Scheme(rows="text"), counts={"raw_collision_rate": raw})}


KIND: Final = Kind(
    settings=TitleSettings,
    paper="WebUltron (2023), the identifiers of URLs and titles",
    build=_build,
)
