"""The joint methods: the contract of all methods."""

import pytest

from tests.support.method_contract import BY_HEART, TrainedMethodContract

SMALL = {
    **BY_HEART, "loss": "softmax", "sampled_negatives": 24, "popularity_power": 0.0, "epochs": 50, "validate_every": 25,
}  # fmt: skip
#: Of methods with towers, which learn from some steps on.
TOWER = {"learning_rate": 5.0e-3}

pytestmark = pytest.mark.slow


class TestJSR(TrainedMethodContract):
    kind = "jsr"
    own = {**SMALL, "loss": "bce", "epochs": 80}  # noqa: RUF012
    # Queries stand for eight items each, of which four are among 20 candidates.
    by_heart_in_search = 0.2


class TestJSR2020(TrainedMethodContract):
    kind = "jsr2020"
    own = {**SMALL, "layers": 0, "min_titles": 1}  # noqa: RUF012
    # The shop's queries say nothing about its items.
    by_heart_in_search = -1.0


class TestUniSAR(TrainedMethodContract):
    kind = "unisar"
    own = {  # noqa: RUF012
        **SMALL, **TOWER, "embedding_size": 16, "experts": 2, "search_weight": 1.0, "query_item_negatives": 16,
    }  # fmt: skip


class TestSESRec(TrainedMethodContract):
    kind = "sesrec"
    own = {**SMALL, **TOWER, "query_item_negatives": 16}  # noqa: RUF012


class TestUnifiedSSR(TrainedMethodContract):
    kind = "unifiedssr"
    own = {  # noqa: RUF012
        **SMALL, "dimensions": 32, "heads": 2, "layers": 1, "stored_negatives": False, "sampled_negatives": 64,
        "learning_rate": 6.0e-3, "batch_size": 16, "epochs": 60, "validate_every": 30,
    }  # fmt: skip
