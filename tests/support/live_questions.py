"""What every trained generator promises of several questions at once."""

import numpy as np
import pytest

from gensar_core.corpora.live_prompts import Entry
from gensar_core.errors import UserError
from gensar_core.generator.live_questions import LiveQuestion
from gensar_core.generator.open import Generator
from tests.support.shop import QUERIES, TEXTS


def check_answers_together(generator: Generator) -> None:
    """Ask a generator of the shop of five items together and alone."""
    some = np.zeros(len(TEXTS), dtype=bool)
    some[[1, 2, 4]] = True
    long = [Entry.clicked(2), Entry.searched(QUERIES[1]), Entry.found(3), Entry.found(4), Entry.clicked(1)]
    questions = [
        LiveQuestion(long),
        LiveQuestion([], "oak zither"),
        LiveQuestion([Entry.clicked(0)], excluded=[0, 3]),
        LiveQuestion(long, QUERIES[0], excluded=[1], allowed=some),
        LiveQuestion(long[:2], allowed=some),
        LiveQuestion([], QUERIES[1], allowed=~some),
    ]
    together = generator.answer(questions, top=4)
    for question, hits in zip(questions, together, strict=True):
        options = {"top": 4, "excluded": question.excluded, "allowed": question.allowed}
        if question.query is None:
            alone = generator.recommend(question.history, **options)
        else:
            alone = generator.search(question.query, question.history, **options)
        assert [hit.item for hit in hits] == [hit.item for hit in alone]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in alone], abs=1e-4)
    assert {hit.item for hit in together[3]} == {2, 4}
    assert {hit.item for hit in together[5]} == {0, 3}
    assert len({tuple(hit.item for hit in hits) for hits in together}) > 3
    assert generator.answer([]) == []
    with pytest.raises(UserError, match="history: is empty"):
        generator.answer([*questions, LiveQuestion()])
