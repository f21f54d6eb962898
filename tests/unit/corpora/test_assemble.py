"""Assembled token ids equal the tokenized text of the prompt, for any sample, instruction, scheme and tokenizer."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gensar_core import schema
from gensar_core.config.prompts import Template, find_prompts
from gensar_core.corpora import assemble
from gensar_core.corpora.assemble import ExampleRows, targets, value_tokens
from gensar_core.corpora.chunks import item_rows, sample_rows
from gensar_core.corpora.instructions import Instructions
from gensar_core.corpora.tasks import ASKED, BEHAVIOR_TOKENS, FOUND, Task
from gensar_core.corpora.token_pieces import Pieces, beside
from gensar_core.embeddings.item_texts import Encoder, Texts
from gensar_core.embeddings.tokenizer import add_tokens, check_tokenizer, train_tokenizer
from gensar_core.runtime.arrays import Ragged
from gensar_core.schema import SIDES
from tests.support.prompts_by_hand import TASKS, Scribe, blanks_kept, t5_like
from tests.support.shop import QUERIES, TEXTS, Q, R, S, sample

GENSAR = find_prompts("gensar")
CODES = 5
# The levels of a scheme of variable length: positions beyond the second share a level.
TREE = {"semantic": ["T1", "T2", "T3", "T3", "T3"], "collaborative": ["C1", "C2", "C3", "C3", "C3"]}
TOKENS = [f"<{level}_{code}>" for side in SIDES for level in dict.fromkeys(TREE[side]) for code in range(CODES)]


def load(kind: str) -> Any:
    texts = [*TEXTS, *QUERIES, "résumé holder № 5; (new) ﬁne™", "钢琴 键盘 USB-C", "a b c; d. e? f!"]
    made_by = {"trained": lambda: train_tokenizer(texts * 3, 420), "t5": lambda: t5_like(texts), "blanks": blanks_kept}
    tokenizer = made_by[kind]()
    check_tokenizer(tokenizer, kind)
    new = add_tokens(tokenizer, [*TOKENS, *BEHAVIOR_TOKENS], kind)
    return tokenizer, new.tokens


@pytest.fixture(scope="module", params=["trained", "t5", "blanks"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return load(request.param)


def build_pieces(tokenizer: Any, scribe: Scribe) -> Pieces:
    base, tokens = tokenizer
    encoder = Encoder(base)
    identifiers = {}
    for side in SIDES:
        rows = [
            [tokens[f"<{TREE[side][place]}_{code}>"] for place, code in enumerate(row)] for row in scribe.codes[side]
        ]
        identifiers[side] = Ragged.from_series(pl.Series(rows, dtype=pl.List(pl.Int32)))
    reserved = sorted(base.get_added_vocab())
    descriptions = Texts.prepare(pl.Series(scribe.texts, dtype=pl.String), encoder, 30, reserved)
    queries = Texts.prepare(pl.Series(scribe.queries, dtype=pl.String), encoder, 8, reserved)
    # The reference writes texts as they are after cleaning and cutting.
    scribe.texts, scribe.queries = descriptions.texts, queries.texts
    return Pieces(
        encoder,
        tokens,
        identifiers,
        queries,
        descriptions,
        behavior_tokens=scribe.behavior_tokens,
        eos_id=base.eos_token_id,
    )


def as_rows(samples: list[dict[str, Any]]) -> ExampleRows:
    return sample_rows(pl.DataFrame(samples, schema=schema.SAMPLES.schema), samples[0]["task"], ["train"])


def lists(rows: Ragged) -> list[list[int]]:
    return [rows.values[start:stop].tolist() for start, stop in zip(rows.offsets, rows.offsets[1:], strict=False)]


ITEMS, N_QUERIES = 4, 3
text = st.text(st.sampled_from("abcde piano.;:?'\"-/ éßﬁ™№鋼琴ａ\u0301\u200b\u00a0\t\u2581<>{}"), max_size=25)
code_row = st.lists(st.integers(0, CODES - 1), min_size=1, max_size=5)
entry = st.one_of(
    st.tuples(st.sampled_from([R, S]), st.integers(0, ITEMS - 1)), st.tuples(st.just(Q), st.integers(0, N_QUERIES - 1))
)
history = st.lists(entry, max_size=8)
word = st.sampled_from(["what", "next?", "past:", "-", "the user's", "(see", "d.", "piano", ".", ";"])


@st.composite
def template(draw: st.DrawFn, placeholders: tuple[str, ...]) -> Template:
    order = draw(st.permutations(placeholders))
    words = [draw(st.lists(word, max_size=2)) for _ in range(len(order) + 1)]
    parts = [*words[0]]
    for slot, after in zip(order, words[1:], strict=True):
        parts += [f"{{{slot}}}", *after]
    return Template.parse(" ".join(parts), placeholders, "test")


@hypothesis_settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    data=st.data(),
    texts=st.lists(text, min_size=ITEMS, max_size=ITEMS),
    queries=st.lists(text, min_size=N_QUERIES, max_size=N_QUERIES),
    codes=st.lists(st.tuples(code_row, code_row), min_size=ITEMS, max_size=ITEMS),
    histories=st.lists(history, min_size=1, max_size=4),
    behavior_tokens=st.booleans(),
    caps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_assembled_ids_equal_the_tokenized_text(
    tokenizer: Any,
    data: st.DataObject,
    texts: list[str],
    queries: list[str],
    codes: list[tuple[list[int], list[int]]],
    histories: list[list[tuple[int, int]]],
    behavior_tokens: bool,
    caps: tuple[int, int],
) -> None:
    semantic, collaborative = ([list(row) for row in side] for side in zip(*codes, strict=True))
    scribe = Scribe(
        texts,
        queries,
        semantic,
        collaborative,
        levels=TREE,
        behavior_tokens=behavior_tokens,
        max_recommendations=caps[0],
        max_searches=caps[1],
    )
    pieces = build_pieces(tokenizer, scribe)
    base, tokens = tokenizer

    def check(task: Task, rows: ExampleRows, write: Callable[[str, int], tuple[str, str]]) -> None:
        placeholders = tuple(GENSAR.tasks[task.name].placeholders)
        task = replace(task, templates=tuple(data.draw(template(placeholders)) for _ in range(3)))
        chosen = np.arange(len(rows)) % 3
        added = tokens if behavior_tokens else {}
        instructions = Instructions.tokenize([task], Encoder(base), added, base.eos_token_id)
        content = assemble.shown(pieces, task, rows)
        prompts = lists(instructions.write(content, chosen))
        assert [len(prompt) for prompt in prompts] == (content.lengths + instructions.lengths[chosen]).tolist()
        for i, target in enumerate(lists(targets(pieces, task, rows))):
            texts = write(task.templates[chosen[i]].text, i)
            assert (prompts[i], target) == tuple(base(text).input_ids for text in texts), texts

    samples = [sample(i, "search", "train", i % ITEMS, i % N_QUERIES, past) for i, past in enumerate(histories)]

    def searched(name: str, text: str, row: int) -> tuple[str, str]:
        return scribe.prompt(name, text, samples[row]), scribe.target(name, samples[row])

    for task in (TASKS[name] for name in ("nrip", "nsqp", "nsip")):
        check(task, as_rows(samples).recent(task, *caps), functools.partial(searched, task.name))
    for task in (task for task in TASKS.values() if task.source == "item"):
        check(task, item_rows(np.arange(ITEMS)), functools.partial(scribe.alignment, task.name))


def test_values_end_with_the_end_of_sequence(tokenizer: Any) -> None:
    scribe = Scribe(TEXTS, QUERIES, [[0], [1, 2], [1, 2, 3], [1, 2, 3, 4], [0, 0, 0, 0, 0]], [[0]] * 5, levels=TREE)
    pieces = build_pieces(tokenizer, scribe)
    tokens, eos = tokenizer[1], tokenizer[0].eos_token_id
    assert lists(value_tokens(pieces, FOUND, np.asarray([3, 0]))) == [
        [tokens["<S_I>"], tokens["<T1_1>"], tokens["<T2_2>"], tokens["<T3_3>"], tokens["<T3_4>"], eos],
        [tokens["<S_I>"], tokens["<T1_0>"], eos],
    ]


def test_pieces_are_tokenized_once(tokenizer: Any) -> None:
    pieces = build_pieces(tokenizer, Scribe(TEXTS, QUERIES, [[0]] * 5, [[1]] * 5, levels=TREE))
    first = pieces.values(ASKED, ";")
    size = len(pieces.table)
    assert pieces.values(ASKED, ";") == first
    assert len(pieces.table) == size


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=3, max_size=3), st.integers(1, 3))
def test_beside_joins_rows(rows: list[list[int]], copies: int) -> None:
    part = Ragged.from_series(pl.Series(rows, dtype=pl.List(pl.Int32)))
    assert lists(beside(*[part] * copies)) == [row * copies for row in rows]


@given(st.lists(history, min_size=1, max_size=6), st.integers(1, 3), st.integers(1, 3))
def test_recent_histories_equal_a_plain_loop(
    histories: list[list[tuple[int, int]]], clicks: int, searches: int
) -> None:
    rows = as_rows([sample(i, "rec", "train", 0, 0, past) for i, past in enumerate(histories)])
    recent = rows.recent(TASKS["nrip"], clicks, searches).histories
    assert recent is not None
    for i, past in enumerate(histories):
        sessions = [place for place, (behavior, _) in enumerate(past) if behavior == Q]
        recommendations = [place for place, (behavior, _) in enumerate(past) if behavior == R]
        first_click = recommendations[-clicks] if len(recommendations) >= clicks else 0
        first_search = sessions[-searches] if len(sessions) >= searches else 0
        entries = [
            entry for place, entry in enumerate(past) if place >= (first_click if entry[0] == R else first_search)
        ]
        pairs = zip(lists(recent.behaviors)[i], lists(recent.objects)[i], strict=True)
        assert list(pairs) == entries


@pytest.fixture(scope="module")
def instructions() -> Instructions:
    base, tokens = load("trained")
    return Instructions.tokenize([TASKS["nrip"], TASKS["nsip"]], Encoder(base), tokens, base.eos_token_id)


def test_an_instruction_depends_on_its_prompt_and_visit_alone(instructions: Instructions) -> None:
    prompts = np.arange(20_000, dtype=np.int64)
    task = prompts % 2
    drawn = instructions.draw(7, 3, prompts, task)
    shuffled = np.random.Generator(np.random.PCG64(1)).permutation(prompts)
    assert np.array_equal(instructions.draw(7, 3, shuffled, task[shuffled]), drawn[shuffled])
    assert np.array_equal(instructions.draw(7, 3, prompts[100:105], task[100:105]), drawn[100:105])
    assert (drawn // 10 == task).all()


def test_each_visit_draws_instructions_evenly_and_independently(instructions: Instructions) -> None:
    prompts, task = np.arange(20_000), np.zeros(20_000, dtype=np.int64)
    drawn = instructions.draw(7, 0, prompts, task)
    counts = Counter(drawn.tolist())
    assert sorted(counts) == list(range(10))
    # 2,000 expected each; six standard deviations are 255.
    assert all(abs(count - 2000) < 255 for count in counts.values())
    for other in (instructions.draw(8, 0, prompts, task), instructions.draw(7, 1, prompts, task)):
        # Independent draws agree in a tenth of the rows.
        assert abs((other == drawn).mean() - 0.1) < 0.02
