"""Rows as arrays against plain loops, words of queries, the loss of a row, and the learning rate on a plateau."""

import re

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.baselines.shared.query_words import QueryWords, numbered, query_word_numbers, words_of
from gensar_core.baselines.shared.target_model import ranking_loss
from gensar_core.baselines.shared.target_rows import TargetHistories, TrainingRows
from gensar_core.training.plateau import Plateau
from tests.support.method_contract import N_ITEMS, random_clicks, write_shop
from tests.support.shop import read_events, read_samples
from tests.support.small_parts import small_parts
from tests.unit.baselines.helpers import history_samples, last_slots, rewrite_texts

# A history is made of clicks (an item) and sessions (a query and the items clicked after it).
SLOTS = st.lists(st.integers(0, 9) | st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)), max_size=7)


def by_loop(slots, most_clicks, most_searches):
    """(item, place) of the last clicks and (query, place, items) of the last searches."""
    kept = last_slots(slots, most_clicks, most_searches)
    return (
        [(slot, place) for place, slot in enumerate(kept) if isinstance(slot, int)],
        [(slot[0], place, slot[1]) for place, slot in enumerate(kept) if not isinstance(slot, int)],
    )


@given(st.lists(SLOTS, max_size=6), st.integers(0, 3), st.integers(0, 3), st.data())
def test_histories_match_a_plain_loop(histories, most_clicks, most_searches, draw):
    order = draw.draw(st.lists(st.integers(0, max(0, len(histories) - 1)), max_size=8)) if histories else []
    taken = TargetHistories.from_samples(history_samples(histories), most_clicks, most_searches).take(
        np.array(order, dtype=int)
    )
    batch = taken.padded(torch.device("cpu"))
    for row, number in enumerate(order):
        clicks, searches = by_loop(histories[number], most_clicks, most_searches)
        there = batch.is_click[row]
        shown = zip(batch.clicks[row][there].tolist(), batch.click_places[row][there].tolist(), strict=True)
        assert list(shown) == clicks
        # Padding comes after the end, and is zero.
        assert there.tolist() == sorted(there.tolist(), reverse=True)
        assert not batch.clicks[row][~there].any()
        there = batch.is_search[row]
        items = [
            of_search[mask].tolist()
            for of_search, mask in zip(batch.searched_items[row], batch.is_searched_item[row], strict=True)
        ]
        shown = zip(batch.searches[row].tolist(), batch.search_places[row].tolist(), items, strict=True)
        assert list(shown)[: int(there.sum())] == searches
        assert not batch.is_searched_item[row][~there].any()
    assert taken.lengths_of(np.arange(len(taken))).tolist() == [
        sum(map(len, by_loop(histories[n], most_clicks, most_searches))) for n in order
    ]


def test_a_click_without_its_query_belongs_to_no_search():
    rows = history_samples([[1], [(3, [4])]]).with_columns(
        history_behavior=pl.Series([[0, 1], [2, 2]], dtype=pl.List(pl.UInt8)),
        history_object=pl.Series([[1, 7], [4, 5]], dtype=pl.List(pl.Int32)),
    )
    histories = TargetHistories.from_samples(rows, 5, 5)
    assert histories.searches.values.tolist() == [7]
    assert histories.searched_items.lengths.tolist() == [0]


def test_training_rows_hold_target_stored_and_sampled_negatives(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:6], N_ITEMS, searching=True)
    rows = TrainingRows.read("search", data.samples_folder, data.training_negatives, 3, 2)
    assert len(rows) == 6
    target = rows.targets[4]
    batch = rows.batch(np.array([4, 0]), np.array([[target, 7], [8, 9]]), torch.device("cpu"))
    stored = dict(schema.TRAINING_NEGATIVES.read(data.training_negatives).iter_rows())
    train = read_samples(data).filter((pl.col("task") == "search") & (pl.col("split") == "train"))
    assert batch.candidates[0].tolist() == [target, *stored[train["sample_id"][4]], 0, 7]
    assert batch.present[0].tolist() == [True] * 5 + [False, True]
    assert batch.queries.tolist() == [train["query_id"][4], train["query_id"][0]]
    assert (batch.history.clicks.shape[1], batch.history.searches.shape[1]) == (3, 2)


def test_words_are_runs_of_letters_or_pairs_of_characters_without_blanks():
    assert words_of("Car-Audio  MP3 player's") == ["car", "audio", "mp3", "player", "s"]
    assert words_of("Grüner Tee, чай") == ["grüner", "tee", "чай"]
    assert words_of("緑茶の急須") == ["緑茶", "茶の", "の急", "急須"]
    assert words_of("USBケーブル 2m 茶") == ["usb", "ケー", "ーブ", "ブル", "2m", "茶"]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_only_words_of_training_queries_are_numbered(size, tmp_path):
    data = write_shop(tmp_path, [[0, 1, 2, 3, 4]], 5)
    rewrite_texts(data, queries=["red lamp", "new tent", "blue lamp", "", "lamp new old"])
    events = read_events(data)
    kept = events.filter(pl.col("query_id").is_null() | ~pl.col("query_id").is_in([1, 4]))
    schema.EVENTS.write(kept, data.events_file)
    with small_parts(size):
        numbers, count = query_word_numbers(data, 2)
    # blue, lamp and red; the words of queries 1 and 4 alone have no number.
    assert count == 3
    assert [numbers.take(np.array([query])).values.tolist() for query in range(5)] == [[2, 1], [], [0, 1], [], [1]]


@given(st.text(st.characters(max_codepoint=0x10FF)))
def test_words_with_blanks_between_them_stay_whole(text):
    assert words_of(text) == re.findall(r"\w+", text.lower())


def test_query_vectors_average_their_words():
    lists = numbered(["car audio", "", "new car", "audio car car audio"], {"audio": 0, "car": 1}, 3)
    assert [lists.take(np.array([row])).values.tolist() for row in range(4)] == [[1, 0], [], [1], [0, 1, 1]]
    words = QueryWords(lists, 2, 4)
    audio, car = words.table.weight
    expected = torch.stack([(car + audio) / 2, torch.zeros(4), car, (audio + 2 * car) / 3])
    assert torch.allclose(words(torch.tensor([3, 1, 0, 2])), expected[[3, 1, 0, 2]])
    assert torch.equal(words(torch.tensor([1, 1])), torch.zeros(2, 4))
    weighted = QueryWords(lists, 2, 4, weighted=True)
    (audio, car), (a, c) = weighted.table.weight, weighted.weights.weight.exp().flatten()
    expected = torch.stack(
        [(c * car + a * audio) / (a + c), torch.zeros(4), car, (a * audio + 2 * c * car) / (a + 2 * c)]
    )
    assert torch.allclose(weighted(torch.tensor([3, 1, 0, 2])), expected[[3, 1, 0, 2]], atol=1e-6)


def test_ranking_losses_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, -1.0, 5.0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    terms = [np.log1p(np.exp(-2)), np.log(2), np.log1p(np.exp(1)), np.log(2), np.log1p(np.exp(-1))]
    assert ranking_loss(logits, present, "bce").item() == pytest.approx(np.mean(terms))
    rows = [np.log(np.exp([2, 0, 1]).sum()) - 2, np.log(np.exp([0, -1]).sum())]
    assert ranking_loss(logits, present, "softmax").item() == pytest.approx(np.mean(rows))


def test_learning_rates_fall_on_a_plateau_and_survive_a_checkpoint():
    def optimizer():
        return torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])

    plateau = Plateau(optimizer(), patience=1)
    for score, factor in [(0.3, 1.0), (0.3, 1.0), (0.2, 0.1), (0.4, 0.1), (0.1, 0.1), (0.1, 0.01)]:
        plateau.see(score)
        assert plateau.rate(0) == pytest.approx(factor)
    resumed = Plateau(optimizer(), patience=1)
    resumed.optimizer.load_state_dict(plateau.optimizer.state_dict())
    assert resumed.rate(0) == pytest.approx(0.01)
