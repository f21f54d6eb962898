"""`gensar explain`: an item's codes and its neighbors, on a table small enough to read off."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.identifiers.table import shared_codes
from gensar_core.runtime.stage import write_json
from tests.support.command import gensar
from tests.support.ragged import ragged

SEMANTIC = [[0, 1, 2], [0, 1, 3], [0, 1], [0, 2, 2], [1, 1, 2]]
COLLABORATIVE = [[4], [4, 4], [3], [2], [1]]
#: Identifiers of the collaborative side, where it is made of text.
TEXTS = ["red lipstick", "pink lipstick", "lip balm", "red nail polish", "red lipstick 2"]
TITLES = ["red lipstick", "pink lipstick", "lip balm", "nail polish " * 9, ""]


@pytest.fixture
def identifiers(tmp_path: Path) -> Path:
    folder = tmp_path / "results/shop/identifiers/joint"
    canonical = tmp_path / "results/shop/canonical"
    folder.mkdir(parents=True)
    canonical.mkdir()
    moved = [False, True, False, False, False]
    columns = {"item_id": range(5), "semantic": SEMANTIC, "collaborative": COLLABORATIVE}
    columns |= {"semantic_moved": moved, "collaborative_moved": [False] * 5}
    frame = pl.DataFrame({**columns, "semantic_text": [None] * 5, "collaborative_text": TEXTS})
    schema.IDENTIFIERS.write(frame, folder / "identifiers.parquet")
    semantic = {"levels": ["M1", "S1", "S2"], "sizes": [4, 4, 4]}
    write_json(
        folder / "vocabulary.json", {"semantic": semantic, "collaborative": {"levels": ["R", "R"], "sizes": [5, 5]}}
    )
    text = {name: [""] * 5 for name in ("description", "brand", "text")}
    raw_ids = ["A1", "A2", "A3", "7", "A5"]
    items = {"item_id": range(5), "raw_id": raw_ids, "title": TITLES, "categories": [[["c"]]] * 5}
    schema.ITEMS.write(pl.DataFrame({**items, **text}), canonical / "items.parquet")
    return folder


def shown(*arguments: object) -> str:
    return gensar("explain", *arguments).output


def test_codes_and_nearest_items_of_both_sides_are_shown(identifiers: Path) -> None:
    assert shown("A1", identifiers, "--neighbors", 3).splitlines() == [
        "item 0  A1  red lipstick",
        "",
        "semantic       <M1_0><S1_1><S2_2>",
        "    2 of 3 codes  <M1_0><S1_1><S2_3>  A2  pink lipstick",
        "    2 of 3 codes  <M1_0><S1_1>  A3  lip balm",
        f"    1 of 3 codes  <M1_0><S1_2><S2_2>  7  {('nail polish ' * 9)[:71]}…",
        "    other items by shared codes: 1: 3, 2: 2, 3: 0",
        "",
        "collaborative  <R_4>",
        "    1 of 1 codes  <R_4><R_4>  A2  pink lipstick",
        "    no other item shares a code",
        "    other items by shared codes: 1: 1",
    ]


def test_identifiers_of_text_are_compared_by_words(identifiers: Path) -> None:
    vocabulary = json.loads((identifiers / "vocabulary.json").read_text())
    write_json(identifiers / "vocabulary.json", {**vocabulary, "collaborative": {"rows": "text"}})
    assert shown("A1", identifiers, "--neighbors", 3).splitlines()[8:] == [
        "collaborative  red lipstick",
        "    2 of 2 words  red lipstick 2  A5",
        f"    1 of 2 words  red nail polish  7  {('nail polish ' * 9)[:71]}…",
        "    no other item shares a word",
        "    other items by shared words: 1: 2, 2: 1",
    ]


def test_a_moved_item_is_told(identifiers: Path) -> None:
    assert "<M1_0><S1_1><S2_3>  (moved: another item had the nearest codes)" in shown("A2", identifiers)


def test_an_id_of_the_source_goes_before_a_number(identifiers: Path) -> None:
    assert shown("7", identifiers).startswith("item 3  7  nail polish")
    assert shown("4", identifiers).startswith("item 4  A5\n")
    # As `recommend` and `search` write it.
    assert shown("#3", identifiers) == shown("7", identifiers)
    assert shown("#4", identifiers) == shown("4", identifiers)
    with pytest.raises(
        UserError, match=r"no item 'A9'; give an id of the source, such as 'A1', or #0 to #4 for its number"
    ):
        shown("A9", identifiers)
    for beyond in ("5", "#5", "#²", "##1"):
        with pytest.raises(UserError, match=f"no item '{beyond}'"):
            shown(beyond, identifiers)


def test_identifiers_of_another_catalogue_are_refused(identifiers: Path) -> None:
    items = identifiers.parents[1] / "canonical/items.parquet"
    schema.ITEMS.write(schema.ITEMS.read(items).head(4), items)
    with pytest.raises(UserError, match=r"identifiers of 5 items, but .* has 4"):
        shown("A1", identifiers)


def test_shared_codes_are_those_of_a_loop() -> None:
    source = np.random.default_rng(0)
    rows = [source.integers(3, size=source.integers(1, 6)).tolist() for _ in range(60)]
    for item, own in enumerate(rows):
        expected = []
        for other in rows:
            depth = 0
            while depth < min(len(own), len(other)) and own[depth] == other[depth]:
                depth += 1
            expected.append(depth)
        assert shared_codes(ragged(rows), item).tolist() == expected
