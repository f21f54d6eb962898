"""Run RecBole's SASRec in a separate process, as the peer of benchmarks/sequential.py.

`python _recbole.py PEER_FOLDER WORK_FOLDER SETTINGS` reads WORK_FOLDER/clicks/clicks.inter. It prints as JSON the
seconds of training epochs and of ranking the whole catalogue for all test users, both with RecBole's trainer.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np

#: Names that RecBole uses and NumPy 2 removed.
_FORMER_NAMES = {"float_": np.float64, "bool8": np.bool_, "unicode_": np.str_, "complex_": np.complex128}


def main() -> None:
    """Train and rank."""
    peer, work, settings = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    sys.path.append(peer)
    for name, value in _FORMER_NAMES.items():
        if not hasattr(np, name):
            setattr(np, name, value)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender.sasrec import SASRec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    # RecBole writes logs and event files into the working directory.
    os.chdir(work)
    sys.argv = sys.argv[:1]
    config = Config(model="SASRec", dataset="clicks", config_dict=configuration(work, settings))
    logging.getLogger().setLevel(logging.ERROR)
    init_seed(settings["seed"], True)
    dataset = create_dataset(config)
    train_data, _, test_data = data_preparation(config, dataset)
    model = SASRec(config, train_data.dataset).to(config["device"])
    trainer = Trainer(config, model)
    training, ranking = [], []
    for epoch in range(settings["epochs"]):
        started = time.perf_counter()
        trainer._train_epoch(train_data, epoch)
        training.append(time.perf_counter() - started)
    for _ in range(settings["rankings"]):
        started = time.perf_counter()
        trainer.evaluate(test_data, load_best_model=False)
        ranking.append(time.perf_counter() - started)
    measured = {
        "training_seconds": min(training),
        "ranking_seconds": min(ranking),
        "targets": len(train_data.dataset),
        "users": len(test_data.dataset),
    }
    print(json.dumps(measured))


def configuration(work: Path, settings: dict[str, object]) -> dict[str, object]:
    """Return the peer's configuration: our sizes, full softmax, leave one out, all items ranked."""
    return {
        "data_path": str(work),
        "USER_ID_FIELD": "user",
        "ITEM_ID_FIELD": "item",
        "TIME_FIELD": "time",
        "load_col": {"inter": ["user", "item", "time"]},
        "MAX_ITEM_LIST_LENGTH": settings["max_history"],
        "n_layers": settings["blocks"],
        "n_heads": settings["heads"],
        "hidden_size": settings["dimensions"],
        "inner_size": settings["dimensions"],
        "hidden_dropout_prob": settings["dropout"],
        "attn_dropout_prob": settings["dropout"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "train_batch_size": settings["targets_a_step"],
        "eval_batch_size": settings["targets_a_step"],
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "metrics": ["Recall", "NDCG"],
        "topk": [10],
        "valid_metric": "NDCG@10",
        "learning_rate": settings["learning_rate"],
        "use_gpu": False,
        "device": "cpu",
        "show_progress": False,
        "save_dataset": False,
        "checkpoint_dir": str(work / "saved"),
        "state": "ERROR",
        "seed": settings["seed"],
    }


if __name__ == "__main__":
    main()
