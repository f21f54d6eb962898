"""Without a network, a model comes from the hub's cache or not at all, after a single look-up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import file_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import T5Config, T5ForConditionalGeneration

from gensar_core.config.embeddings import TextEmbedding
from gensar_core.corpora.tokenizer import load_tokenizer
from gensar_core.embeddings.text import TextEncoder
from gensar_core.errors import UserError
from gensar_core.generator.backbones.load import load_model
from gensar_core.runtime.hub import LOOK_UP_SECONDS, Hub
from tests.support.prompts_by_hand import t5_like
from tests.support.shop import TEXTS

LOADERS: dict[str, Callable[[str], object]] = {
    "tokenizer": load_tokenizer,
    "backbone": load_model,
    "embedding model": lambda name: TextEncoder.load(TextEmbedding(kind="text", model=name)),
}


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """An empty cache and no network: what was looked up. A file that is asked for beside it fails the test."""
    asked: list[str] = []

    def no_network(url: str, *, timeout: float) -> None:
        assert timeout == LOOK_UP_SECONDS
        asked.append(url)
        raise ConnectionError("Name or service not known")

    def another(*_: object, **__: object) -> None:
        pytest.fail("another look-up")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_network)
    # What its client asks for every file that it may not take from the cache.
    monkeypatch.setattr(file_download, "get_hf_file_metadata", another)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return asked


@pytest.mark.parametrize("what", LOADERS)
def test_a_model_that_is_not_cached_is_one_error_after_one_look_up(look_ups: list[str], what: str) -> None:
    with pytest.raises(UserError) as caught:
        LOADERS[what]("org/model")
    message = str(caught.value)
    assert message.startswith(
        f"{what}{':' if what == 'backbone' else ''} 'org/model' cannot be loaded (it is not whole in"
    )
    assert "the hub does not answer: Name or service not known); download it while online" in message
    assert "local folder" in message
    assert [url.split("/", 3)[3] for url in look_ups] == ["org/model/resolve/main/config.json"]


def cached(cache: Path, name: str) -> Path:
    """The folder of a model in a hub cache."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return folder / "snapshots" / ("0" * 40)


def test_what_is_cached_is_loaded_without_the_network(look_ups: list[str], tmp_path: Path) -> None:
    folder = cached(tmp_path / "hub", "org/model")
    t5_like(TEXTS).save_pretrained(folder)
    config = T5Config(vocab_size=12, d_model=8, d_ff=8, d_kv=4, num_heads=2, num_layers=1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    assert load_tokenizer("org/model").eos_token == "</s>"
    assert load_model("org/model").config.d_model == 8
    assert len(look_ups) == 2


def test_a_folder_and_what_is_no_name_on_the_hub_need_no_look_up(look_ups: list[str], tmp_path: Path) -> None:
    for name in (str(tmp_path), "/no/such/model"):
        assert Hub(name).options == {}
    assert look_ups == []


def test_a_hub_that_answers_is_used_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *_, **__: None)
    assert Hub("org/model").options == {}

    def not_there(*_: object, **__: object) -> None:
        # What the hub says of a model that does not exist, or that one may not see.
        raise HfHubHTTPError.__new__(HfHubHTTPError)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", not_there)
    assert Hub("org/model").options == {}
    assert Hub("org/model").reason(ValueError("no such model.\nSee the page.")) == "no such model"
