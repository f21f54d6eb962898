"""ItemKNN and EASE: the contract of all methods, and item-item weights computed by hand or by a plain computation."""

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from gensar_core import schema
from gensar_core.baselines.interface import MethodData
from gensar_core.baselines.methods import ease
from gensar_core.baselines.methods.itemknn import nearest_neighbors
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import load_candidates
from tests.support.method_contract import N_ITEMS, N_USERS, MethodContract, clicked_history, random_clicks, write_shop
from tests.support.shop import read_events
from tests.unit.baselines.helpers import fitted

#: The textbook's item-based neighborhood: cosines, every pair of a user's clicks alike.
COSINE = {"decay": 1.0, "distance_decay": 1.0, "backward": 1.0, "shrinkage": 0.0, "popularity_power": 0.5}


class TestItemKNN(MethodContract):
    kind = "itemknn"


class TestEASE(MethodContract):
    kind = "ease"
    own = {"neighbors": 7}  # noqa: RUF012


def scores_after(method, history):
    """Scores of all items after one history."""
    behaviors, objects = clicked_history(history)
    samples = (
        load_candidates(method.data.samples_folder, "rec", "test")
        .samples[:1]
        .with_columns(
            history_behavior=pl.Series([behaviors], dtype=pl.List(pl.UInt8)),
            history_object=pl.Series([objects], dtype=pl.List(pl.Int32)),
        )
    )
    return method.score_catalogue(samples)[0]


def test_cosines_by_hand(tmp_path):
    # Users of items 0 to 4: {a, b, c}, {a, b}, {a}, {c}, nobody.
    data = write_shop(tmp_path, [[0, 1, 2], [1, 0], [3, 0]], 5)
    method = fitted("itemknn", data, **COSINE)
    cosines = [
        [0.0, 2 / 6**0.5, 1 / 3**0.5, 1 / 3**0.5, 0.0],
        [2 / 6**0.5, 0.0, 1 / 2**0.5, 0.0, 0.0],
        [1 / 3**0.5, 1 / 2**0.5, 0.0, 0.0, 0.0],
        [1 / 3**0.5, 0.0, 0.0, 0.0, 0.0],
        [0.0] * 5,
    ]
    assert method.weights.toarray() == pytest.approx(np.array(cosines))
    assert scores_after(method, [3, 1]) == pytest.approx([1 / 3**0.5 + 2 / 6**0.5, 0.0, 1 / 2**0.5, 0.0, 0.0])
    # Older clicks count less.
    decayed = fitted("itemknn", data, **{**COSINE, "decay": 0.25})
    assert scores_after(decayed, [3, 1])[0] == pytest.approx(0.25 / 3**0.5 + 2 / 6**0.5)
    # Shrunk, and divided by more of the candidate's clicks than of the other's: items 0 and 3 have 3 and 1.
    other = fitted("itemknn", data, **{**COSINE, "shrinkage": 2.0, "popularity_power": 1.0})
    assert other.weights[3, 0] == pytest.approx(1 / (3 + 2))
    assert other.weights[0, 3] == pytest.approx(1 / (1 + 2))


def test_later_and_nearer_clicks_count_more(tmp_path):
    data = write_shop(tmp_path, [[0, 1, 2, 3]], 4)
    settings = {**COSINE, "distance_decay": 0.5, "backward": 0.1, "window": 2}
    assert fitted("itemknn", data, **settings).weights.toarray() == pytest.approx(
        np.array([[0, 1, 0.5, 0], [0.1, 0, 1, 0.5], [0.05, 0.1, 0, 1], [0, 0.05, 0.1, 0]])
    )


@pytest.mark.parametrize("kind", ["itemknn", "ease"])
def test_on_a_checkerboard_items_of_the_users_colour_come_first(tmp_path, kind):
    # Users of each colour click five of its ten items, which lie on a ring.
    clicks = [[user % 2 + 2 * ((user // 2 + step) % 10) for step in range(5)] for user in range(20)]
    data = write_shop(tmp_path, clicks, 20)
    lists = load_candidates(data.samples_folder, "rec", "test")
    method = fitted(kind, data)
    scores = method.score(lists)
    same_colour = lists.items % 2 == lists.items[:, :1] % 2
    assert (scores[~same_colour] == 0.0).all()
    assert (
        np.where(same_colour, scores, np.inf).min(axis=1) > np.where(same_colour, -np.inf, scores).max(axis=1)
    ).all()
    catalogue = method.score_catalogue(lists.samples)
    assert (np.take_along_axis(catalogue, lists.items, axis=1) == scores).all()


def test_nearest_neighbors_break_ties_by_item():
    similarities = sparse.coo_array(np.array([[0.5, 0.1, 0.5, 0.0], [0.0, 0.2, 0.3, 0.4], [0.0, 0.0, 0.0, 0.0]]))
    assert nearest_neighbors(similarities, 1).toarray().tolist() == [[0.5, 0, 0, 0], [0, 0, 0, 0.4], [0] * 4]
    assert nearest_neighbors(similarities, 2).toarray().tolist() == [[0.5, 0, 0.5, 0], [0, 0, 0.3, 0.4], [0] * 4]
    assert (nearest_neighbors(similarities, 0) != similarities).nnz == 0


def test_ease_is_a_ridge_regression_of_each_item_on_the_others(tmp_path):
    data = write_shop(tmp_path, random_clicks(), N_ITEMS)
    clicks = np.zeros((N_USERS, N_ITEMS))
    for user, items in enumerate(random_clicks()):
        clicks[user, items] = 1.0
    expected = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        others = np.delete(np.arange(N_ITEMS), item)
        inputs = clicks[:, others]
        expected[others, item] = np.linalg.solve(
            inputs.T @ inputs + 3.0 * np.eye(len(others)), inputs.T @ clicks[:, item]
        )
    published = {"l2": 3.0, "popularity_power": 0.0, "neighbors": 0, "decay": 1.0}
    with pytest.MonkeyPatch.context() as patch:
        # As if the matrix were worked on in blocks of three rows.
        patch.setattr(ease, "_CELLS", 3 * N_ITEMS)
        weights = fitted("ease", data, **published).weights.toarray()
    assert weights == pytest.approx(expected, abs=1e-5)
    # Divided by a power of the candidate's clicks, and only the largest in size.
    scaled = expected / clicks.sum(axis=0) ** 0.5
    divided = fitted("ease", data, **{**published, "popularity_power": 0.5, "neighbors": 4}).weights.toarray()
    largest = np.sort(np.abs(scaled), axis=1)[:, -4:-3]
    assert divided == pytest.approx(np.where(np.abs(scaled) >= largest, scaled, 0.0), abs=1e-5)


def test_ease_refuses_a_catalogue_too_large_for_the_memory(tmp_path):
    data = write_shop(tmp_path, random_clicks()[:5], N_ITEMS)
    object.__setattr__(data, "n_items", 200_000)
    with pytest.raises(
        UserError, match=r"EASE of 200,000 items holds a matrix of 160.0 GB, above max_gigabytes \(20\)"
    ):
        fitted("ease", data)


@pytest.mark.parametrize("kind", ["itemknn", "ease"])
def test_a_log_without_recommendation_clicks_is_refused(tmp_path, kind):
    data = write_shop(tmp_path, [[0, 1, 2]], 3)
    searches = read_events(data).filter(pl.col("task") == "search")
    schema.EVENTS.write(searches, data.samples_folder / "training_events.parquet")
    with pytest.raises(UserError, match="no recommendation click to learn from"):
        fitted(kind, MethodData(data.canonical, data.samples_folder))
