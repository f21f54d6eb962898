"""A causal model over logs equals the Hugging Face model that is asked for each event alone."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from gensar_core import schema
from gensar_core.config.generators import ExamplesPerEpoch, OnePassSettings, TrainingSettings
from gensar_core.corpora.alignment_logs import EntryColumn, alignment_rows
from gensar_core.corpora.read import ItemTokens
from gensar_core.corpora.trie import TokenTrie
from gensar_core.corpora.user_logs import NO_TARGET, log_entries, log_rows, training_targets
from gensar_core.generator.backbones.causal import CausalGenerator, attention, from_scratch
from gensar_core.generator.beam_search import search_beams
from gensar_core.generator.click_evidence import ClickEvidence, Questions
from gensar_core.generator.item_nodes import ItemNodes, item_codes
from gensar_core.generator.log_rows import TRAINING_TASKS, LogRows, row_tensors
from gensar_core.generator.one_pass_scores import OnePassScorer
from gensar_core.generator.one_pass_training import Catalogue, OnePassTask, RowOrder
from gensar_core.runtime.arrays import Ragged
from gensar_core.samples.events import EventLog
from gensar_core.schema import DESCRIPTION, SEARCHED_ITEM, SEARCHED_QUERY
from gensar_core.training.processes import ALONE, Processes
from gensar_core.training.state import TrainingState
from tests.support.gpu_stand_in import GPU, Waits
from tests.support.ragged import ragged
from tests.support.samples_logs import event, events_frame, logs

ITEMS, QUERIES, VOCABULARY = 9, 3, 48
END, LEADS, FIRST_CODE = 1, (20, 21, 22), 24
WORDS = [[2, 3], [4], [2, 5, 6]]
TASK_OF = {0: "rec", 2: "search"}
OTHER = {"rec": "search", "search": "rec"}


class Tokenizer:
    pad_token_id, eos_token_id = 0, END


def identifiers():
    """Three codes an item by task: the first is shared, the last two are the task's own."""
    rng = np.random.default_rng(3)
    shared = np.repeat(np.arange(3), 3)[:, None]
    own = {task: np.stack(np.divmod(rng.permutation(9), 3), 1) for task in ("rec", "search")}
    return {
        task: np.concatenate([shared + FIRST_CODE, part + FIRST_CODE + 3 + [0, 3] + 6 * (task == "search")], 1)
        for task, part in own.items()
    }


@pytest.fixture(scope="module", params=[True, False], ids=["behavior tokens", "no behavior tokens"])
def catalogue(request):
    leads = [LEADS[0], LEADS[2]]
    rows = {
        task: ragged([[*[lead] * request.param, *item, END] for item in codes.tolist()])
        for (task, codes), lead in zip(identifiers().items(), leads, strict=True)
    }
    items = {task: ItemTokens.from_rows(part) for task, part in rows.items()}
    tries = {task: TokenTrie.from_rows(part) for task, part in rows.items()}
    first = int(request.param)
    return Catalogue(items, tries, ItemNodes.build(items, tries, first), first)


def generator(catalogue, seed=0, **changes):
    """A small model whose vectors and weights of evidence are not zero."""
    options = OnePassSettings(
        hidden_size=16, intermediate_size=24, num_layers=2, num_heads=2, dropout=0.0, hidden_share=0.0, node_dropout=0.0
    ).model_copy(update=changes)
    depth = max(trie.depth for trie in catalogue.tries.values())
    model = CausalGenerator(
        from_scratch(options, VOCABULARY, Tokenizer, seed), options, catalogue.nodes.count, QUERIES, depth
    )
    torch.manual_seed(seed)
    for parameter in (model.node_vectors, model.query_vectors):
        torch.nn.init.normal_(parameter, std=0.5)
    for layer in model.lm.model.layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.3)
    return model.eval()


def rows_of(log, catalogue, width=10**6, history=10**6):
    """The rows of a log, every entry a target."""
    events = EventLog.from_frame(events_frame(log))
    entries = log_entries(events, "strict")
    codes = identifiers()
    tokens = []
    for behavior, thing in zip(entries.behavior.tolist(), entries.object.tolist(), strict=True):
        lead = LEADS[behavior] if catalogue.first_code else END
        tokens.append(
            [lead, *(WORDS[thing] if behavior == SEARCHED_QUERY else codes[TASK_OF[behavior]][thing].tolist())]
        )
    return LogRows.from_frame(log_rows(entries, ragged(tokens), training_targets(entries, events), width, history))


def alone(model, catalogue, rows, row, entry, extra=()):
    """States of one entry's tokens, by the Hugging Face model on the tokens that it sees; plain loops throughout.

    ``extra`` are tokens (with their nodes) after the entry's own first token, in place of the rest of the entry.
    """
    first, stop = rows.entries[row], rows.entries[row + 1]
    number = entry - first
    shown = [
        other
        for other in range(stop - first)
        if rows.closes[first + other] < rows.opens[entry] or other in (number, int(rows.query[entry]))
    ]
    tokens, nodes, asked, owner = [], [], [], []
    for other in shown:
        place = first + other
        own = rows.tokens.take(np.array([place])).values.tolist()
        behavior, thing = int(rows.behavior[place]), int(rows.object[place])
        path = [-1] * len(own)
        if behavior in TASK_OF:
            numbers = catalogue.nodes.of_item[TASK_OF[behavior]][thing].tolist()
            path = [-1, *numbers[catalogue.first_code :]][: len(own)]
        if other == number and extra:
            own, path = [own[0], *(token for token, _ in extra)], [-1, *(node for _, node in extra)]
        query = int(rows.query[place])
        tokens += own
        nodes += path
        typed = query != other and rows.behavior[first + query] == SEARCHED_QUERY
        asked += [int(rows.object[first + query]) if typed else -1] + [-1] * (len(own) - 1)
        owner += [other] * len(own)
    count = len(tokens)
    mask, positions = np.zeros((count, count), dtype=bool), []
    for reader in range(count):
        mine = owner[reader]
        for read in range(count):
            theirs = owner[read]
            closed = rows.closes[first + theirs] < rows.opens[first + mine]
            mask[reader, read] = closed or (read <= reader and theirs in (mine, int(rows.query[first + mine])))
        positions.append(int(mask[reader].sum()) - 1)
    embeddings = model.embeddings[torch.tensor(tokens)].clone()
    for place, other in enumerate(owner):
        query = first + int(rows.query[first + other])
        begins = place == 0 or owner[place - 1] != other
        if model.settings.query_words and begins and query != first + other and rows.behavior[query] in (1, 3):
            words = rows.tokens.take(np.array([query])).values[1:]
            embeddings[place] += model.embeddings[torch.tensor(words, dtype=torch.long)].mean(0)
    for place, (node, query) in enumerate(zip(nodes, asked, strict=True)):
        if node >= 0:
            embeddings[place] += model.node_vectors[node]
        if query >= 0:
            embeddings[place] += model.query_vectors[query]
    found = model.lm(
        inputs_embeds=embeddings[None],
        attention_mask=torch.where(torch.from_numpy(mask), 0.0, torch.finfo(torch.float32).min)[None, None],
        position_ids=torch.tensor([positions]),
        output_hidden_states=True,
    ).hidden_states[-1][0]
    begin = owner.index(number)
    return found[begin : begin + 1 + (len(extra) if extra else count)]


def loss_alone(model, catalogue, rows, row, entry, item, evidence=None, *, smoothing=0.0, cold=(), other=False):
    """The item's negative log-probability among the continuations of each prefix, by plain loops over all items but
    the cold ones; with smoothing, that share of it is the mean over these continuations. Or that of the item's other
    identifier after the same question."""
    task = TASK_OF[int(rows.behavior[entry])]
    if other:
        task = OTHER[task]
    codes = [[int(code) for code in part] for part in identifiers()[task]]
    numbers = catalogue.nodes.of_item[task][:, catalogue.first_code :].tolist()
    own = list(zip(codes[item], numbers[item], strict=False))
    states = alone(model, catalogue, rows, row, entry, own)
    total = 0.0
    for level in range(3):
        children = {}
        for other in range(ITEMS):
            if codes[other][:level] == codes[item][:level] and other not in cold:
                children.setdefault(codes[other][level], []).append(other)
        logits = {}
        for code, beneath in children.items():
            vector = model.outputs[code] + model.node_vectors[numbers[beneath[0]][level]]
            logits[code] = states[level] @ vector
            if evidence is not None:
                depth = level + catalogue.first_code
                summed = torch.tensor([[*evidence[beneath, :3].sum(0), evidence[beneath, 3].mean()]])
                number = ("rec", "search").index(task)
                floor = torch.nn.functional.softplus(model.evidence_floor[number, depth])
                logits[code] = logits[code] + (torch.log(floor + summed) * model.evidence_weight[number, depth]).sum()
        values = torch.stack(list(logits.values()))
        aim = (1 - smoothing) * logits[codes[item][level]] + smoothing * values.mean()
        total += float(values.logsumexp(0) - aim)
    return total


def task_of(model, rows, catalogue, evidence=None, likelihood="catalogue", cold=None, clicks=None, **changes):
    options = TrainingSettings(
        backbone="causal", batch_size=4, batch_tokens=64, likelihood=likelihood, task_weights={"nsqp": 0.5}, **changes
    )
    return OnePassTask(model, options, rows, catalogue, evidence, [], 7, cold=cold, clicks=clicks)


def item_targets(rows):
    row = np.repeat(np.arange(len(rows)), np.diff(rows.entries))
    wanted = (rows.target != NO_TARGET) & (rows.behavior != SEARCHED_QUERY)
    return [(int(row[entry]), int(entry)) for entry in np.flatnonzero(wanted)]


@settings(max_examples=10)
# The second window begins inside a group: its other entries see nothing.
@example(log=[*(event(1, 0, item) for item in (0, 0, 0, 1, 0, 0)), event(1, 1, 0, 0, 5)], width=30)
@given(log=logs(items=ITEMS, users=2, most=9).filter(bool), width=st.sampled_from([30, 10**6]))
def test_a_rows_loss_is_the_sum_of_those_of_its_events_asked_alone(catalogue, log, width):
    model = generator(catalogue, query_words=width == 30)
    rows = rows_of(log, catalogue, width, width // 2)
    with torch.no_grad():
        losses = task_of(model, rows, catalogue).losses(np.arange(len(rows)))
        expected = {"nrip": 0.0, "nsip": 0.0}
        for row, entry in item_targets(rows):
            name = "nrip" if rows.behavior[entry] == 0 else "nsip"
            expected[name] += loss_alone(model, catalogue, rows, row, entry, int(rows.object[entry]))
        words = 0.0
        for entry in np.flatnonzero((rows.behavior == SEARCHED_QUERY) & (rows.target != NO_TARGET)):
            row = int(np.searchsorted(rows.entries, entry, side="right")) - 1
            states = alone(model, catalogue, rows, row, int(entry))
            chances = torch.log_softmax(states @ model.outputs.T, 1)
            own = WORDS[int(rows.object[entry])]
            words -= float(sum(chances[place, token] for place, token in enumerate(own)))
    for name, value in expected.items():
        assert float(losses[TRAINING_TASKS.index(name)]) == pytest.approx(value, abs=1e-3)
    assert float(losses[TRAINING_TASKS.index("nsqp")]) == pytest.approx(words, abs=1e-3)


@pytest.mark.parametrize("cold", [(), (4, 6, 7)])
def test_smoothing_spreads_its_share_over_the_continuations_that_compete(catalogue, cold):
    model, rows = generator(catalogue), rows_of([e for e in random_log(1) if e["item"] not in cold], catalogue)
    held_out = np.isin(np.arange(ITEMS), cold)
    with torch.no_grad():
        losses = task_of(model, rows, catalogue, cold=held_out, label_smoothing=0.2).losses(np.arange(len(rows)))
        expected = {"nrip": 0.0, "nsip": 0.0}
        for row, entry in item_targets(rows):
            item, name = int(rows.object[entry]), "nrip" if rows.behavior[entry] == 0 else "nsip"
            expected[name] += loss_alone(model, catalogue, rows, row, entry, item, smoothing=0.2, cold=cold)
    for name, value in expected.items():
        assert float(losses[TRAINING_TASKS.index(name)]) == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("likelihood", ["vocabulary", "catalogue"])
def test_popularity_is_added_to_the_logits_of_recommended_items_alone(catalogue, likelihood):
    model, rows = generator(catalogue), rows_of(random_log(1), catalogue)
    clicks, every = np.arange(ITEMS) ** 2, np.arange(len(rows))
    codes = [[int(code) for code in part] for part in identifiers()["rec"]]

    def mean(prefix):
        return np.mean([clicks[item] + 1.0 for item in range(ITEMS) if codes[item][: len(prefix)] == prefix])

    with torch.no_grad():
        plain = task_of(model, rows, catalogue, likelihood=likelihood).losses(every)
        losses = task_of(model, rows, catalogue, None, likelihood, clicks=clicks, logit_adjustment=0.5).losses(every)
        expected = 0.0
        for row, entry in item_targets(rows):
            if rows.behavior[entry] != 0:
                continue
            item = int(rows.object[entry])
            numbers = catalogue.nodes.of_item["rec"][:, catalogue.first_code :].tolist()
            states = alone(model, catalogue, rows, row, entry, list(zip(codes[item], numbers[item], strict=False)))
            for level in range(3):
                prefix = codes[item][:level]
                following = {codes[other][level]: other for other in range(ITEMS) if codes[other][:level] == prefix}
                logits = states[level] @ model.outputs.T
                for code, other in following.items():
                    logits[code] += 0.5 * np.log(mean([*prefix, code]) / mean(prefix))
                    if likelihood == "catalogue":
                        logits[code] += states[level] @ model.node_vectors[numbers[other][level]]
                if likelihood == "catalogue":
                    logits = logits.masked_fill(
                        ~torch.isin(torch.arange(len(logits)), torch.tensor([*following])), -torch.inf
                    )
                expected -= float(logits.log_softmax(0)[codes[item][level]])
    number = TRAINING_TASKS.index("nrip")
    assert float(losses[number]) == pytest.approx(expected, rel=1e-4)
    assert float(losses[number]) != pytest.approx(float(plain[number]), rel=1e-3)
    others = torch.arange(len(losses)) != number
    assert torch.equal(losses[others], plain[others])


def with_others(rows, catalogue):
    """The rows, whose clicks are asked for by their other identifier as well."""
    return rows.with_other_identifiers(
        {task: item_codes(items, catalogue.first_code) for task, items in catalogue.items.items()}
    )


@settings(max_examples=10)
@given(log=logs(items=ITEMS, users=2, most=9).filter(bool), width=st.sampled_from([30, 10**6]))
def test_other_identifiers_are_asked_as_each_alone_and_change_nothing_else(catalogue, log, width):
    model, rows = generator(catalogue, query_words=width == 30), rows_of(log, catalogue, width, width // 2)
    both, every = with_others(rows, catalogue), np.arange(len(rows))
    with torch.no_grad():
        plain, half, none = (
            task_of(model, logs, catalogue, one_pass={"other_identifier_weight": weight}).losses(every)
            for logs, weight in ((rows, 0.0), (both, 0.5), (both, 1e-9))
        )
        expected = {"nrip": 0.0, "nsip": 0.0}
        for row, entry in item_targets(rows):
            name = "nrip" if rows.behavior[entry] == 0 else "nsip"
            expected[name] += loss_alone(model, catalogue, rows, row, entry, int(rows.object[entry]), other=True)
    torch.testing.assert_close(none, plain, atol=1e-3, rtol=1e-5)
    for name, value in expected.items():
        number = TRAINING_TASKS.index(name)
        assert float(half[number] - plain[number]) == pytest.approx(0.5 * value, abs=1e-3)
    for mine, theirs in zip(both.asked(every), rows.asked(every), strict=True):
        assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("likelihood", ["vocabulary", "catalogue"])
def test_the_loss_of_an_other_identifier_is_its_score_in_ranking(catalogue, likelihood):
    log = random_log(2)
    model, rows = generator(catalogue), rows_of(log, catalogue)
    evidence = evidence_of(log) if likelihood == "catalogue" else None
    with torch.no_grad():
        without, once = (
            task_of(model, logs, catalogue, evidence, likelihood, one_pass={"other_identifier_weight": 1.0}).losses(
                np.arange(len(rows))
            )
            for logs in (rows, with_others(rows, catalogue))
        )
    scorer = OnePassScorer(model, catalogue, evidence, over_catalogue=likelihood == "catalogue")
    for task, name in (("rec", "nrip"), ("search", "nsip")):
        entry = np.array([e for _, e in item_targets(rows) if TASK_OF[int(rows.behavior[e])] == task])
        scores = scorer.score(rows, rows.target[entry], rows.object[entry][:, None], OTHER[task], per_batch=4)
        added = (once - without)[TRAINING_TASKS.index(name)]
        assert -scores.sum() == pytest.approx(float(added), rel=1e-4)


@pytest.mark.parametrize("others", [False, True])
@settings(max_examples=15)
@given(log=logs(items=ITEMS, users=1, most=9).filter(bool))
def test_no_state_moves_with_a_token_that_its_entry_does_not_see(catalogue, others, log):
    model, rows = generator(catalogue), rows_of(log, catalogue)
    if others:
        rows = with_others(rows, catalogue)
    batch = row_tensors(rows, np.array([0]), catalogue.nodes, catalogue.lead, torch.device("cpu"))

    def states(tokens):
        with torch.no_grad():
            return model.states(tokens, batch.nodes, batch.queries, batch.positions, batch.mask(), model.node_vectors)[
                0
            ]

    before, own = states(batch.tokens), batch.own[0]
    for changed in range(batch.tokens.shape[1]):
        tokens = batch.tokens.clone()
        tokens[0, changed] = (tokens[0, changed] + 7) % VOCABULARY
        moved = (states(tokens) != before).any(1)
        theirs = int(own[changed])
        for reader in np.flatnonzero(moved.numpy()):
            mine = int(own[reader])
            visible = rows.closes[theirs] < rows.opens[mine] or theirs in (mine, int(rows.query[mine]))
            assert visible
            assert theirs != mine or changed <= reader


def of_no_user(catalogue):
    """Rows that give and ask: a description and an item, an item and its description, a query and an item."""
    codes, words = identifiers(), [[END, 2, 7], [END, 5], [END, 9, 9, 3]]
    ids = np.arange(len(words))

    def column(behavior):
        if behavior in TASK_OF:
            lead = LEADS[behavior] if catalogue.first_code else END
            tokens = [[lead, *codes[TASK_OF[behavior]][item].tolist()] for item in ids]
        else:
            tokens = words
        objects = np.full(len(ids), -1) if behavior == SEARCHED_QUERY else ids
        return EntryColumn(behavior, objects, ragged(tokens))

    pairs = [(DESCRIPTION, 0), (DESCRIPTION, 2), (0, DESCRIPTION), (2, DESCRIPTION), (SEARCHED_QUERY, 2)]
    frames = [alignment_rows(column(given), column(asked), ids) for given, asked in pairs]
    return LogRows.from_frame(pl.concat(frames)), words


def test_rows_of_no_user_are_learned_as_the_library_reads_them(catalogue):
    log = random_log(3)
    model, rows = generator(catalogue, query_words=True), rows_of(log, catalogue)
    others, words = of_no_user(catalogue)
    evidence = evidence_of(log)
    task = task_of(model, rows.followed_by(others), catalogue, evidence)
    expected = dict.fromkeys(TRAINING_TASKS[3:], 0.0)
    names = np.repeat(TRAINING_TASKS[3:], len(words))
    nothing = plain_evidence([], -1, -1, [])
    with torch.no_grad():
        losses = task.losses(np.arange(len(rows), len(task.logs)))
        for row, name in enumerate(names):
            entry = 2 * row + 1
            if others.behavior[entry] in TASK_OF:
                expected[name] += loss_alone(model, catalogue, others, row, entry, row % len(words), nothing)
            else:
                chances = torch.log_softmax(alone(model, catalogue, others, row, entry) @ model.outputs.T, 1)
                expected[name] -= float(sum(chances[i, token] for i, token in enumerate(words[row % len(words)][1:])))
    assert losses[:3].tolist() == [0.0] * 3
    assert losses[3:].tolist() == pytest.approx(list(expected.values()), abs=1e-3)


def test_query_dropout_trains_on_the_words_of_queries_alone(catalogue):
    log = random_log(5)
    rows = rows_of(log, catalogue)
    evidence = evidence_of(log)
    untyped = replace(rows, object=np.where(rows.behavior == SEARCHED_QUERY, -1, rows.object))
    with torch.no_grad():
        whole, hidden, expected = (
            task_of(model, logs, catalogue, evidence).losses(np.arange(len(logs)))[[0, 2]]
            for model, logs in (
                (generator(catalogue).train(), rows),
                (generator(catalogue, query_dropout=1.0).train(), rows),
                (generator(catalogue), untyped),
            )
        )
    torch.testing.assert_close(hidden, expected)
    assert not torch.isclose(whole[1], expected[1])


def test_an_epoch_reads_rows_of_no_user_as_often_as_their_weight_says(catalogue):
    logs = rows_of(random_log(3), catalogue)
    others, words = of_no_user(catalogue)
    weights = {"desc2id_semantic": 2.5, "id2desc_semantic": 0.0, "doc2query": ExamplesPerEpoch(examples=1)}
    order = RowOrder(logs.followed_by(others), 4, 100, 3, ALONE, weights)
    steps = [next(order.from_step(step)) for step in range(order.per_epoch)]
    read = np.bincount(np.concatenate([part.rows for step in steps for part in step.parts]), minlength=len(logs) + 15)
    assert (read[: len(logs)] == 1).all()
    once, twice, never, drawn = read[len(logs) :].reshape(5, 3)[[0, 1, 3, 4]]
    assert once.tolist() == [1, 1, 1]
    assert sorted(twice.tolist()) in ([2, 2, 3], [2, 3, 3])
    assert (never.sum(), drawn.sum()) == (0, 1)
    # Words count one by one; the other tasks count rows.
    asked = sum(step.targets for step in steps)
    counts = dict(zip(TRAINING_TASKS, asked.tolist(), strict=True))
    assert counts["desc2id_semantic"] == twice.sum()
    assert counts["id2desc_collaborative"] == sum(len(row) - 1 for row in words)


def test_prefixes_of_more_items_keep_their_numbers_and_new_ones_get_none(catalogue):
    """Items 0 to 5 have two of the three shared codes; the last three have the third one, which is new."""
    first, known = catalogue.first_code, 6

    def nodes(count):
        rows = {
            task: Ragged.from_lengths(items.lengths[:count], items.tokens[:count].ravel())
            for task, items in catalogue.items.items()
        }
        items = {task: ItemTokens.from_rows(part) for task, part in rows.items()}
        tries = {task: TokenTrie.from_rows(part) for task, part in rows.items()}
        return ItemNodes.build(items, tries, first), tries

    (older, _), (newer, tries) = nodes(known), nodes(ITEMS)
    numbered = newer.numbered_as(older)
    for task in ("rec", "search"):
        assert numbered.of_item[task][:known].equal(older.of_item[task])
        assert (numbered.of_item[task][known:] == -1).all()
        for depth, level in enumerate(tries[task].levels):
            items = tries[task].items[level.start.long()].long()
            expected = numbered.of_item[task][items, depth - 1] if depth else torch.tensor([-1])
            assert numbered.of_level[task][depth].equal(expected)


def test_blocks_of_rows_hold_every_log_of_each_epoch_once(catalogue, monkeypatch):
    monkeypatch.setattr("gensar_core.training.blocks.BLOCK", 4)
    logs = rows_of(random_log(3, users=6), catalogue)
    others, _ = of_no_user(catalogue)
    order = RowOrder(logs.followed_by(others), 2, 100, 3, ALONE, {"desc2id_semantic": 2.5, "id2desc_semantic": 0.0})
    steps = list(itertools.islice(order.from_step(0), 3 * order.per_epoch))
    rows = [np.concatenate([part.rows for part in step.parts]) for step in steps]
    epochs = [np.concatenate(rows[first : first + order.per_epoch]) for first in range(0, len(rows), order.per_epoch)]
    for epoch in epochs:
        read = np.bincount(epoch, minlength=len(logs) + 15)
        assert (read[: len(logs)] == 1).all()
        assert read[len(logs) :].reshape(5, 3).sum(1).tolist() == [3, 8, 3, 0, 3]
    assert epochs[0].tolist() != epochs[1].tolist()
    place = order.per_epoch + 3
    assert [part.rows.tolist() for part in next(order.from_step(place)).parts] == [
        part.rows.tolist() for part in steps[place].parts
    ]


LOG_SEEDS = [0, 1, 2]


def random_log(seed, users=3):
    rng, log, session = np.random.default_rng(seed), [], 0
    for user in range(users):
        for time in range(int(rng.integers(3, 8))):
            item, query = int(rng.integers(ITEMS)), int(rng.integers(QUERIES))
            log.append(event(user, time, item))
            if rng.random() < 0.7:
                for _ in range(int(rng.integers(1, 3))):
                    log.append(event(user, time, item, query, session))
                    item = int(rng.integers(ITEMS))
                session += 1
    return log


def evidence_of(log):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training_events.parquet"
        schema.EVENTS.write(events_frame(log), path)
        return ClickEvidence.count(path, ITEMS, QUERIES)


def plain_evidence(log, user, query, history):
    """The four features of every item, by plain loops over a log."""
    found = np.zeros((ITEMS, 4))
    found[:, 3] = [item not in history for item in range(ITEMS)]
    clicked = {}
    for e in log:
        items = clicked.setdefault(e["user"], [])
        # Of an item clicked twice the last click counts.
        clicked[e["user"]] = [item for item in items if item != e["item"]] + [e["item"]]
        if query >= 0 and e["query"] == query and e["user"] != user:
            found[e["item"], 0] += 1
    users_of = [sum(item in items for items in clicked.values()) for item in range(ITEMS)]
    for age, item in enumerate(dict.fromkeys(reversed(history))):
        for other in range(ITEMS):
            for clicker, items in clicked.items():
                if clicker == user or item == other or item not in items or other not in items:
                    continue
                apart = items.index(other) - items.index(item)
                likeness = 0.9 ** (abs(apart) - 1) * (1.0 if apart > 0 else 0.4)
                likeness /= (users_of[item] * users_of[other]) ** 0.5
                found[other, 1] += likeness * (age == 0)
                found[other, 2] += likeness * 0.8**age
    return found


@pytest.mark.parametrize("seed", LOG_SEEDS)
@pytest.mark.parametrize("task", ["rec", "search"])
def test_evidence_beneath_a_node_is_that_of_its_items_without_the_users_own(catalogue, seed, task, tmp_path):
    log = random_log(seed)
    evidence_of(log).save(tmp_path / "evidence.safetensors")
    evidence, trie = ClickEvidence.load(tmp_path / "evidence.safetensors"), catalogue.tries[task]
    # Items past the last one were added since: they are as old as any other, but nobody has clicked them.
    asked = [(0, 1, [3, 1, 3]), (1, -1, [2]), (-1, 0, []), (9, 2, [0, 5, 7, 0]), (-1, -1, [4, ITEMS + 2, ITEMS])]
    users, queries, histories = zip(*asked, strict=True)
    nodes = evidence.of(Questions(np.array(users), np.array(queries), ragged(histories)), trie)
    for number, (user, query, items) in enumerate(asked):
        # A user without training clicks of this query has nothing of their own to leave out.
        expected = plain_evidence(log, user if 0 <= user < 3 else -1, query, items)
        for level in trie.levels:
            question = torch.full((len(level),), number)
            sums = nodes.beneath(question, level.start.long(), level.stop.long())
            for node in range(len(level)):
                beneath = trie.items[level.start[node] : level.stop[node]].numpy()
                assert sums[node, :3].numpy() == pytest.approx(expected[beneath, :3].sum(0), abs=1e-5)
                assert float(sums[node, 3]) == pytest.approx(expected[beneath, 3].mean(), abs=1e-5)


@pytest.mark.parametrize("likelihood", ["vocabulary", "catalogue"])
def test_a_gpu_is_waited_for_only_to_fetch_scores(catalogue, likelihood, monkeypatch):
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **_: torch.optim.SGD(groups))
    log = random_log(4)
    clicks, there = rows_of(log, catalogue), catalogue.to(GPU)
    model = generator(catalogue, dropout=0.3, hidden_share=0.5, node_dropout=0.2, query_dropout=0.2, query_words=True)
    evidence = evidence_of(log)
    cold = np.arange(ITEMS) == 2
    task = task_of(model.to(GPU), clicks.followed_by(of_no_user(catalogue)[0]), there, evidence, likelihood, cold)
    state = TrainingState()
    with Waits() as waits:
        model.train()
        for batch in itertools.islice(task.batches(0), task.order.per_epoch):
            state.add(task.backward(batch))
        assert waits.fetched == 0
        model.eval()
        scorer = OnePassScorer(model, there, evidence, over_catalogue=likelihood == "catalogue")
        asked = np.array(
            [clicks.target[e] for _, e in item_targets(clicks) if TASK_OF[int(clicks.behavior[e])] == "rec"]
        )
        scorer.score(clicks, asked, np.tile(np.arange(ITEMS), (len(asked), 1)), "rec", per_batch=len(asked))
    assert waits.fetched == 1
    assert state.sums.keys() == {"loss", *(f"loss_{name}" for name in TRAINING_TASKS)}


@pytest.mark.parametrize("seed", LOG_SEEDS)
def test_candidates_score_as_the_library_scores_each_alone_and_beams_find_the_best(catalogue, seed):
    log = random_log(seed)
    model, rows = generator(catalogue, seed, query_words=seed > 0), rows_of(log, catalogue, 40, 40)
    counted = evidence_of(log)
    for evidence in (None, counted):
        scorer = OnePassScorer(model, catalogue, evidence, over_catalogue=True)
        for task in ("rec", "search"):
            asked = [(r, e) for r, e in item_targets(rows) if TASK_OF[int(rows.behavior[e])] == task]
            row, entry = map(np.array, zip(*asked, strict=True))
            candidates = np.tile(np.arange(ITEMS), (len(asked), 1))
            candidates[:, 4] = -1
            scores = scorer.score(rows, rows.target[entry], candidates, task, per_batch=3)
            assert (scores[:, 4] == -np.inf).all()
            with torch.no_grad():
                for number, (r, e) in enumerate(asked[:6]):
                    features = None
                    if evidence is not None:
                        first = rows.entries[r]
                        seen = [o for o in range(first, rows.entries[r + 1]) if rows.closes[o] < rows.opens[e]]
                        items = [int(rows.object[o]) for o in seen if rows.behavior[o] != SEARCHED_QUERY]
                        query = int(rows.object[first + rows.query[e]]) if rows.behavior[e] == SEARCHED_ITEM else -1
                        features = plain_evidence(log, int(rows.user[r]), query, items)
                    for item in (0, 5, 8):
                        expected = -loss_alone(model, catalogue, rows, r, e, item, features)
                        assert scores[number, item] == pytest.approx(expected, abs=1e-4)
            every = scorer.score(
                rows, rows.target[entry], np.tile(np.arange(ITEMS), (len(asked), 1)), task, per_batch=8
            )
            excluded = np.array([[item % ITEMS, -1] for item in range(len(asked))])
            found = search_beams(
                scorer.questions(rows, row, entry, task, 4), catalogue.tries[task], beams=ITEMS, excluded=excluded
            )
            every[np.arange(len(asked)), excluded[:, 0]] = -np.inf
            best = np.argsort(-every, axis=1, kind="stable")[:, : ITEMS - 1]
            assert found.scores[:, : ITEMS - 1] == pytest.approx(np.take_along_axis(every, best, 1), abs=1e-4)


@pytest.mark.parametrize("likelihood", ["vocabulary", "catalogue"])
def test_over_either_likelihood_the_loss_of_a_target_is_its_score(catalogue, likelihood):
    model, rows = generator(catalogue), rows_of(random_log(1), catalogue)
    with torch.no_grad():
        losses = task_of(model, rows, catalogue, likelihood=likelihood).losses(np.arange(len(rows)))
    scorer = OnePassScorer(model, catalogue, None, over_catalogue=likelihood == "catalogue")
    for task, name in (("rec", "nrip"), ("search", "nsip")):
        entry = np.array([e for _, e in item_targets(rows) if TASK_OF[int(rows.behavior[e])] == task])
        scores = scorer.score(rows, rows.target[entry], rows.object[entry][:, None], task, per_batch=4)
        assert -scores.sum() == pytest.approx(float(losses[TRAINING_TASKS.index(name)]), rel=1e-4)
        row, _ = rows.places_of(rows.target[entry])
        questions = scorer.questions(rows, row, entry, task, 4)
        found = search_beams(questions, catalogue.tries[task], beams=ITEMS)
        every = scorer.score(rows, rows.target[entry], np.tile(np.arange(ITEMS), (len(entry), 1)), task, per_batch=4)
        assert found.scores == pytest.approx(-np.sort(-every, axis=1), abs=1e-4)


def test_the_folder_opens_in_the_library_with_the_same_logits(catalogue, tmp_path):
    model = generator(catalogue)
    model.lm.config.one_pass = model.settings.model_dump()
    model.save(tmp_path)
    tokens = torch.tensor([[20, 25, 30, 21, 2, 3]])
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)(tokens).logits
        none = torch.full_like(tokens, -1)
        mask = torch.ones(6, 6, dtype=torch.bool).tril()[None]
        ours = model.states(tokens, none, None, torch.arange(6)[None], mask, model.node_vectors) @ model.outputs.T
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    again = CausalGenerator.load(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_a_step_and_any_number_of_threads_gives_the_same_bytes(catalogue, count, torch_threads):
    rows = rows_of(random_log(4, users=9), catalogue, 40, 20)

    def gradients(threads, processes):
        torch_threads(threads)
        model = generator(catalogue, dropout=0.3, hidden_share=0.5, node_dropout=0.2).train()
        task = task_of(model, rows, catalogue, label_smoothing=0.0)
        task.order = RowOrder(rows, 8, 64, 7, processes)
        torch.manual_seed(5)
        loss = task.backward(next(task.batches(1)))["loss"]
        return float(loss), [p.grad for p in model.parameters()]

    loss, whole = gradients(1, ALONE)
    again, threaded = gradients(2, ALONE)
    assert loss == again
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(whole, threaded, strict=True))
    parts = [gradients(1, Processes(rank, count)) for rank in range(count)]
    assert sum(part for part, _ in parts) == pytest.approx(loss, rel=1e-5)
    for number, full in enumerate(whole):
        shares = [grads[number] for _, grads in parts if grads[number] is not None]
        if full is not None:
            torch.testing.assert_close(torch.stack(shares).sum(0), full, atol=1e-5, rtol=1e-4)


def test_every_row_is_read_once_an_epoch_and_a_later_step_is_the_same_from_anywhere(catalogue):
    rows = rows_of(random_log(4, users=9), catalogue, 40, 20)
    order = RowOrder(rows, 4, 100, 3, ALONE)
    steps = [next(order.from_step(step)) for step in range(2 * order.per_epoch)]
    for epoch in (steps[: order.per_epoch], steps[order.per_epoch :]):
        read = np.concatenate([part.rows for step in epoch for part in step.parts])
        assert sorted(read.tolist()) == list(range(len(rows)))
    running = order.from_step(0)
    for step in steps:
        for mine, theirs in zip(step.parts, next(running).parts, strict=True):
            assert mine.rows.tolist() == theirs.rows.tolist()


def test_hidden_entries_are_hidden_from_others_alone(catalogue):
    rows = rows_of(random_log(2), catalogue)
    batch = row_tensors(rows, np.arange(len(rows)), catalogue.nodes, catalogue.lead, torch.device("cpu"))
    torch.manual_seed(0)
    all_hidden, whole = batch.mask(hidden_share=1.0), batch.mask()
    same = (batch.own[:, :, None] == batch.own[:, None, :]) | (batch.unit[:, :, None] == batch.own[:, None, :])
    assert torch.equal(all_hidden, whole & same)
    some = batch.mask(hidden_share=0.5)
    assert (some <= whole).all()
    assert (some >= all_hidden).all()
    assert not torch.equal(some, whole)


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_in_bfloat16_mixes_as_in_float32_and_so_do_its_gradients(groups):
    rng = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, 7, 8, generator=rng, requires_grad=True) for heads in (4, 4 // groups, 4 // groups)
    )
    mask = torch.rand(2, 1, 7, 7, generator=rng) < 0.5
    mask |= torch.eye(7, dtype=torch.bool)
    module = torch.nn.Module()
    module.num_key_value_groups = groups

    def mixed_and_gradients():
        mixed = attention(module, query, key, value, mask, scaling=0.3)[0].float()
        return mixed, torch.autograd.grad(mixed.square().sum(), (query, key, value))

    mixed, gradients = mixed_and_gradients()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, rounded_gradients = mixed_and_gradients()
    torch.testing.assert_close(rounded, mixed, atol=0.03, rtol=0.03)
    assert not torch.equal(rounded, mixed)
    for mine, theirs in zip(rounded_gradients, gradients, strict=True):
        assert (mine - theirs).norm() < 0.03 * theirs.norm()
