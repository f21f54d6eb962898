"""Other identifier schemes in the same table: they go through corpora and scoring without a change in either."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from gensar_core import schema
from gensar_core.corpora.read import load_item_tokens, load_prompts, vocabulary_size
from gensar_core.generator.candidate_scores import score_candidates
from gensar_core.identifiers.table import IdentifierTable
from tests.support.generator_folders import random_t5
from tests.support.prompts_by_hand import spell
from tests.support.shop import write_corpus_inputs
from tests.support.small_corpus import build_small_corpus
from tests.unit.generator.small_models import log_probability

#: Name -> level names of both sides and one row of codes an item: a path of clusters and a leaf (P5-CID), numbers
#: spelled digit by digit (DSI-QG), three codes and a digit that separates collisions (TIGER). Some rows begin others.
SCHEMES = {
    "clusters": (["C", "C", "L"], [[0], [0, 1], [0, 1, 2], [3, 3], [1, 0, 2]]),
    "digits": (["D", "D", "D"], [[0], [1], [1, 0], [1, 0, 0], [7]]),
    "extra_digit": (["T1", "T2", "T3", "X"], [[0, 1, 2, 0], [0, 1, 2, 1], [5, 0, 0, 0], [3, 3, 3, 0], [0, 1, 2, 2]]),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_goes_through_corpora_and_exact_scoring(name: str, tmp_path: Path) -> None:
    levels, codes = SCHEMES[name]
    sides = {"semantic": levels, "collaborative": levels}
    shop = write_corpus_inputs(tmp_path / "shop", semantic=codes, collaborative=codes, levels=sides)
    assert IdentifierTable.load(shop).text("semantic", 1) == spell("semantic", codes[1], sides)
    build_small_corpus(shop, tmp_path / "corpus")

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "corpus/tokenizer")
    size = vocabulary_size(tmp_path / "corpus")
    items = load_item_tokens(tmp_path / "corpus", size, tokenizer.eos_token_id)
    for task, behavior, side in (("rec", "<R_I>", "collaborative"), ("search", "<S_I>", "semantic")):
        for item, row in enumerate(codes):
            expected = tokenizer(behavior + spell(side, row, sides)).input_ids
            assert items[task].tokens[item, : items[task].lengths[item]].tolist() == expected
            assert len(expected) == 1 + len(row) + 1

    network = random_t5(size).eval()
    samples = schema.SAMPLES.read(shop / "samples.parquet").filter(task="search", split="test")
    prompts = load_prompts(tmp_path / "corpus", size).of(samples.get_column("sample_id").to_numpy())
    candidates = np.tile(np.arange(len(codes), dtype=np.int32), (len(samples), 1))
    scores = score_candidates(network, prompts, candidates, items["search"], users_per_batch=2)
    for user, prompt in enumerate(np.split(prompts.values, prompts.offsets[1:-1])):
        for item in range(len(codes)):
            target = items["search"].tokens[item, : items["search"].lengths[item]].tolist()
            total = log_probability(network, prompt.tolist(), target, None)
            # Where identifiers differ in length, the score is the mean over tokens.
            expected = total if name == "extra_digit" else total / len(target)
            assert scores[user, item] == pytest.approx(expected, abs=1e-4)
