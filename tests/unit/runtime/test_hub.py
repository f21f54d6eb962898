"""Models without a network: from the hub's cache after a single look-up, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import file_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import T5Config, T5ForConditionalGeneration

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.embeddings.text import TextEncoder
from gensar_core.embeddings.tokenizer import load_tokenizer
from gensar_core.errors import UserError
from gensar_core.nn.t5 import load_t5
from gensar_core.runtime.hub import LOOK_UP_SECONDS, Hub
from tests.support.prompts_by_hand import t5_like
from tests.support.shop import TEXTS

LOADERS: dict[str, Callable[[str], object]] = {
    "tokenizer": load_tokenizer,
    "backbone": load_t5,
    "embedding model": lambda name: TextEncoder.load(TextEmbedding(kind="text", model=name)),
}


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Give an empty cache and no network; return the addresses looked up. Any other request fails the test."""
    urls: list[str] = []

    def no_network(url: str, *, timeout: float) -> None:
        assert timeout == LOOK_UP_SECONDS
        urls.append(url)
        raise ConnectionError("Name or service not known")

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("another request")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_network)
    # The client's request for each file that it may not take from the cache.
    monkeypatch.setattr(file_download, "get_hf_file_metadata", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return urls


@pytest.mark.parametrize("kind", LOADERS)
def test_a_model_that_is_not_cached_is_one_error_after_one_look_up(look_ups: list[str], kind: str) -> None:
    message = (
        rf"^{kind}:? 'org/model' cannot be loaded \(it is not whole in .*the hub does not answer: "
        r"Name or service not known\); download it while online.*local folder"
    )
    with pytest.raises(UserError, match=message):
        LOADERS[kind]("org/model")
    assert [url.split("/", 3)[3] for url in look_ups] == ["org/model/resolve/main/config.json"]


def test_a_cached_model_is_loaded_without_the_network(look_ups: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "hub" / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    folder = cache / "snapshots" / ("0" * 40)
    t5_like(TEXTS).save_pretrained(folder)
    config = T5Config(vocab_size=12, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    assert load_tokenizer("org/model").eos_token == "</s>"
    assert load_t5("org/model").config.d_model == 8
    assert len(look_ups) == 2


def test_a_folder_needs_no_look_up(look_ups: list[str], tmp_path: Path) -> None:
    for name in (str(tmp_path), "/no/such/model"):
        assert Hub(name).options == {}
    assert look_ups == []


def test_a_hub_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    assert Hub("org/model").options == {}

    def not_there(*_: object, **__: object) -> None:
        # The hub's answer on a model that does not exist or is private.
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", not_there)
    assert Hub("org/model").options == {}
    assert Hub("org/model").reason(ValueError("no such model.\nSee the page.")) == "no such model"
