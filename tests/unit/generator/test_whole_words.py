"""P5's whole-word embedding: which tokens share a vector, what it adds, and that it is kept."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from gensar_core.config.generators import TrainingSettings
from gensar_core.errors import UserError
from gensar_core.generator.backbones import load as backbone
from gensar_core.generator.backbones.t5 import encode_prompts
from gensar_core.generator.backbones.whole_words import WholeWords
from gensar_core.generator.beam_search import beam_search
from gensar_core.generator.train import train_generator
from gensar_core.generator.trained import TrainedGenerator
from tests.support import generator_folders as folders
from tests.unit.generator.small_models import log_probability, ragged

#: Pieces that begin a word, one that continues, a behavior, codes, and the end.
PIECES = ["</s>", "_a", "b", "_c", "<R_I>", "<A_1>", "<A_2>"]
ROLES = torch.tensor([3, 1, 0, 1, 1, 2, 2], dtype=torch.uint8)


def settings(**changes: Any) -> TrainingSettings:
    return folders.tiny_settings(**{"epochs": 4.0, "whole_word_embedding": True, **changes})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.write_corpus(tmp_path_factory.mktemp("data") / "corpus", 20)


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    samples = folders.write_samples(folder / "samples", 20)
    train_generator(corpus, samples, folder / "p5", settings(), 1, None)
    return folder / "p5"


def counted(pieces: list[str]) -> list[int]:
    """The number of each piece's word, by a plain loop."""
    numbers, word, last = [], 0, ""
    for piece in pieces:
        code, after_code = piece.startswith("<A"), last.startswith("<A")
        if piece.startswith("_") or piece == "<R_I>" or (code and not after_code):
            word += 1
        numbers.append(0 if piece == "</s>" else max(word, 1))
        last = piece
    return numbers


def test_all_codes_of_an_identifier_are_one_word() -> None:
    words = WholeWords(torch.zeros(512, 4), ROLES)
    row = ["_a", "b", "<A_1>", "<A_2>", "<A_2>", "_c", "<A_1>", "b", "<R_I>", "<A_2>", "</s>"]
    tokens = torch.tensor([[PIECES.index(piece) for piece in row] + [-1, -1]])
    assert words.numbers(tokens)[0].tolist() == [1, 1, 2, 2, 2, 3, 4, 4, 5, 6, 0, 0, 0]


def test_words_are_counted_as_by_a_plain_loop() -> None:
    words = WholeWords(torch.zeros(512, 4), ROLES)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, len(PIECES), (30, 25)))
    assert words.numbers(tokens).tolist() == [counted([PIECES[token] for token in row]) for row in tokens.tolist()]


def test_words_past_the_last_vector_share_it() -> None:
    words = WholeWords(torch.zeros(4, 2), ROLES)
    assert words.numbers(torch.ones(1, 6, dtype=torch.int64))[0].tolist() == [1, 2, 3, 3, 3, 3]


def test_a_tokenizers_pieces_begin_words_where_a_blank_stands(corpus: Path) -> None:
    model = backbone.build(settings(), corpus, 1)
    names = ["<M1_2>", "<M2_3>", "<M3_0>", "<R_I>", "<M1_2>"]
    numbers = model.whole_words.numbers(torch.tensor([[*map(folders.token, names), folders.END]]))
    assert numbers[0].tolist() == [1, 1, 1, 2, 3, 0]


def expected_score(folder: Path, prompt: list[int], item: int, vectors: torch.Tensor) -> float:
    """The library's model over embeddings to which a plain loop has added the vectors."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    embedded = model.shared.weight[prompt].detach().clone()
    word, before = 0, ""
    for place, number in enumerate(prompt[:-1]):
        name = (folders.WORDS + folders.NEW)[number]
        word += name in ("<R_I>", "<S_Q>", "<S_I>") or (name.startswith("<M") and not before.startswith("<M"))
        embedded[place] += vectors[max(word, 1)]
        before = name
    embedded[-1] += vectors[0]
    target = torch.tensor([folders.item_row("rec", item)])
    logits = model(inputs_embeds=embedded[None], labels=target).logits[0].log_softmax(-1)
    return float(logits[torch.arange(target.shape[1]), target[0]].sum().detach())


def test_trained_vectors_count_in_ranking_search_and_questions(trained: Path, corpus: Path) -> None:
    generator = TrainedGenerator.load(trained, corpus)
    vectors = generator.model.whole_words.vectors.detach()
    # Training moved those of the words there are.
    assert not torch.equal(vectors[:3], backbone.build(settings(), corpus, 1).whole_words.vectors[:3])
    codes = ["<M1_0>", "<M2_1>", "<M3_2>", "<R_I>"]
    prompt = [*map(folders.token, codes), folders.END]
    expected = {item: expected_score(trained, prompt, item, vectors) for item in range(folders.N_ITEMS)}
    everything = np.arange(folders.N_ITEMS, dtype=np.int32)[None]
    scores = generator.score(ragged([prompt]), everything, "rec")[0]
    assert scores == pytest.approx(list(expected.values()), abs=1e-4)
    found = beam_search(generator.model, ragged([prompt]), generator.tries["rec"], beams=folders.N_ITEMS)
    searched = dict(zip(found.items[0].tolist(), found.scores[0].tolist(), strict=True))
    assert searched == {item: pytest.approx(score, abs=1e-4) for item, score in expected.items()}
    # The library's model knows nothing of them.
    model = AutoModelForSeq2SeqLM.from_pretrained(trained).eval()
    assert abs(log_probability(model, prompt, folders.item_row("rec", 4), None) - expected[4]) > 1e-3


def test_the_next_stage_goes_on_with_the_vectors(trained: Path, corpus: Path) -> None:
    further = backbone.build(settings(), corpus, 2, trained)
    assert torch.equal(further.whole_words.vectors, TrainedGenerator.load(trained, corpus).model.whole_words.vectors)


def test_a_damaged_file_is_named(trained: Path, corpus: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "whole_words.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match=r"whole_words.safetensors: is not readable .*; train the generator again"):
        TrainedGenerator.load(folder, corpus)


def test_without_the_setting_nothing_is_added(corpus: Path) -> None:
    plain, with_words = (backbone.build(settings(whole_word_embedding=one), corpus, 1) for one in (False, True))
    assert not hasattr(plain, "whole_words")
    assert torch.equal(plain.shared.weight, with_words.shared.weight)
    tokens = torch.tensor([[5, 6, 7, folders.END]])
    states = [encode_prompts(model.eval(), tokens).states for model in (plain, with_words)]
    assert not torch.allclose(*states)
