"""Item vectors as methods leave them, and as embeddings."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from gensar_core.embeddings.sequential import ItemVectors, extract_vectors
from gensar_core.errors import UserError
from gensar_core.runtime.tensors import save_vectors


def test_unseen_items_get_the_mean_of_the_seen_and_are_counted(tmp_path):
    vectors = np.array([[1.0, 2.0], [9.0, 9.0], [3.0, 4.0], [7.0, 7.0]], dtype=np.float32)
    seen = np.array([True, False, True, False])
    ItemVectors(vectors, seen).save(tmp_path)
    loaded = ItemVectors.load(tmp_path)
    np.testing.assert_array_equal(loaded.vectors, vectors)
    np.testing.assert_array_equal(loaded.seen, seen)
    extract_vectors(tmp_path, tmp_path / "out")
    embedding = load_file(tmp_path / "out" / "vectors.safetensors")
    assert list(embedding) == ["items"]
    assert embedding["items"].dtype == np.float32
    assert embedding["items"].tolist() == [[1, 2], [2, 3], [3, 4], [2, 3]]
    counts = json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]
    assert counts == {"items": 4, "dimensions": 2, "unseen_items": 2}


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        (None, "only a method that learns item vectors can be an embedding"),
        ({"items": np.full((2, 2), np.nan), "seen": np.ones((2, 1))}, "numbers that are not finite"),
        ({"items": np.ones((2, 2)), "seen": np.zeros((2, 1))}, "no vector of an item seen in training"),
        ({"items": np.ones((2, 2))}, "holds no matrix 'seen'"),
    ],
)
def test_missing_or_broken_item_vectors_are_one_clear_error(tmp_path, matrices, message):
    if matrices:
        save_vectors(matrices, tmp_path / "item_vectors.safetensors")
    with pytest.raises(UserError, match=message):
        extract_vectors(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "vectors.safetensors").exists()
    assert matrices or not (tmp_path / "out").exists()
