"""SASRec: the contract of sequential methods under its losses."""

from tests.support.method_contract import TrainedMethodContract
from tests.support.sequential_contract import SMALL, SequentialContract


class TestSASRec(SequentialContract):
    kind = "sasrec"
    own = {**SMALL, "heads": 2}  # noqa: RUF012


class TestSASRecSoftmax(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "softmax"}  # noqa: RUF012


class TestSASRecPrefixes(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "rows": "prefixes", "initial_std": 0.02, "batch_size": 256}  # noqa: RUF012


class TestSASRecBinary(TrainedMethodContract):
    kind = "sasrec"
    own = {**SMALL, "loss": "bce", "learning_rate": 3.0e-3, "batch_size": 16, "epochs": 120}  # noqa: RUF012
    # One negative a target and step separates slowly.
    by_heart = 0.8
