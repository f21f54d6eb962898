"""Number the items at random; an identifier is the number's text, which the tokenizer splits as it does any number.

Numbers tell nothing of the items: DSI-QG's "naively structured" identifiers. Both sides get the same.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from gensar_core.config.identifiers import NumberSettings
from gensar_core.errors import UserError
from gensar_core.identifiers.interface import Kind, KindData, SideIdentifiers, Work
from gensar_core.identifiers.table import Scheme
from gensar_core.runtime.seeds import generator


def random_numbers(items: int, below: int, seed: int) -> np.ndarray:
    """Draw a different number for each item, from 0 to ``below`` (excluded) [items]. Raises UserError if too few."""
    if below < items:
        raise UserError(f"identifiers: {below:,} numbers for {items:,} items; raise 'below', or leave it out")
    return generator(seed, "numbers").choice(below, size=items, replace=False)


def _build(settings: NumberSettings, data: KindData, work: Work) -> dict[str, SideIdentifiers]:
    items = data.n_items()
    numbers = random_numbers(items, settings.below or items, work.seed)
    return {"semantic": SideIdentifiers([str(number) for number in numbers.tolist()], Scheme(rows="text"))}


KIND: Final = Kind(
    settings=NumberSettings,
    paper="DSI-QG (Zhuang et al. 2022)",
    build=_build,
)
