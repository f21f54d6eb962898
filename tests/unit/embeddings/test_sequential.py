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
    ItemVectors(vectors, np.array([True, False, True, False])).save(tmp_path)
    extract_vectors(tmp_path, tmp_path / "out")
    found = load_file(tmp_path / "out" / "vectors.safetensors")
    assert list(found) == ["items"]
    assert found["items"].dtype == np.float32
    assert found["items"].tolist() == [[1, 2], [2, 3], [3, 4], [2, 3]]
    counts = json.loads((tmp_path / "out" / "stage.json").read_text())["counts"]
    assert counts == {"items": 4, "dimensions": 2, "unseen_items": 2}


def test_what_is_stored_comes_back(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    seen = np.array([True, True, False, True, False])
    ItemVectors(vectors, seen).save(tmp_path)
    loaded = ItemVectors.load(tmp_path)
    assert (loaded.vectors == vectors).all()
    assert loaded.seen.tolist() == seen.tolist()
    assert loaded.vectors[2].tolist() == vectors[2].tolist()


def test_what_is_no_embedding_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="only a method that learns item vectors can be an embedding"):
        extract_vectors(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    file = tmp_path / "item_vectors.safetensors"
    save_vectors({"items": np.full((2, 2), np.nan), "seen": np.ones((2, 1))}, file)
    with pytest.raises(UserError, match="numbers that are not finite"):
        extract_vectors(tmp_path, tmp_path / "out")
    save_vectors({"items": np.ones((2, 2)), "seen": np.zeros((2, 1))}, file)
    with pytest.raises(UserError, match="no vector of an item seen in training"):
        extract_vectors(tmp_path, tmp_path / "out")
    save_vectors({"items": np.ones((2, 2))}, file)
    with pytest.raises(UserError, match="holds no matrix 'seen'"):
        extract_vectors(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "vectors.safetensors").exists()
