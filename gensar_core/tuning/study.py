"""Search an entry's settings on the valid targets by Optuna (rules `tune_method` and `tune_generator`)."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from gensar_core.config.base import canonical_json
from gensar_core.config.search_spaces import Among, SearchSpace
from gensar_core.errors import DivergedError, UserError
from gensar_core.runtime.progress import say
from gensar_core.runtime.seeds import derive_seed
from gensar_core.runtime.stage import Stage, write_json
from gensar_core.tuning.fitting import Tuned
from gensar_core.tuning.report import Trial, draw_trials, trial_table

try:
    import optuna
    from optuna.samplers import TPESampler
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState
except ModuleNotFoundError as missing:
    raise UserError(f"tuning needs {missing.name}; run pip install 'gensar[tune]'") from missing

#: Trials that run to their end before any is pruned.
_UNPRUNED: Final = 5


def tune(
    tuned: Tuned, output: Path, checkpoints: Path, trials: int, grid: Mapping[str, Sequence[Any]] | None = None
) -> dict[str, Any]:
    """Search settings; write ``{output}.json``, ``.csv``, ``.svg`` and ``.png``; return what the JSON file holds.

    A trial fits once with settings drawn from the entry's search space by TPE (Bergstra et al., 2011), and is pruned at
    a validation that leaves it below the median of the complete trials. ``grid`` replaces the space by lists of values:
    its trials are the first ``trials`` of their combinations, in order. The study file ``{output}.journal`` holds all
    trials, so that a killed search goes on, and a search for more ``trials`` adds to them. A draw depends on the seed
    and the trials before it alone. ``checkpoints`` is a folder for this search. Raises UserError on an entry without a
    search space, on settings that do not go together, and when every trial has diverged.
    """
    space: SearchSpace = {path: Among(tuple(values)) for path, values in grid.items()} if grid else tuned.space()
    if not space:
        raise UserError(
            f"{tuned.name}: has no search space, because no setting of its kind is marked to be varied; "
            "name values to try by --grid, or mark settings as docs/tuning.md says"
        )
    recorded = {**tuned.settings.model_dump(mode="json"), "space": {path: repr(one) for path, one in space.items()}}
    with Stage.named_after(
        output, "tune", settings=recorded, inputs=tuned.inputs, seed=tuned.seed, code=tuned.code
    ) as stage:
        search = _Search(tuned, space, Path(f"{output}.journal"), checkpoints, stage.key)
        table = search.run(trials, _combinations(grid) if grid else None)
        complete = [trial for trial in table if trial.state == "complete"]
        if not complete:
            raise UserError(f"{tuned.name}: all {len(table)} trials diverged; search lower learning rates")
        best = max(complete, key=lambda trial: trial.score)
        result = {
            "name": tuned.name,
            "settings": best.settings,
            "valid": best.metrics,
            "trial": best.number,
            "trials": len(table),
            "pruned": sum(trial.state == "pruned" for trial in table),
            "seed": tuned.seed,
        }
        write_json(stage.path(f"{output.name}.json"), result)
        trial_table(table).write_csv(stage.path(f"{output.name}.csv"))
        draw_trials(table, stage.path(output.name))
        stage.record(**result)
    return result


class _Search:
    """Run the trials of one study: those with the same settings, inputs, code and seed, which ``key`` hashes."""

    def __init__(self, tuned: Tuned, space: SearchSpace, journal: Path, checkpoints: Path, key: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.tuned, self.space, self.checkpoints, self.key = tuned, space, checkpoints, key
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name=key,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED),
            load_if_exists=True,
        )

    def finished(self) -> list[Trial]:
        """Return the trials that are complete or pruned, in order; a killed one is neither, and is made again."""
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return [Trial(number, **trial.user_attrs["outcome"]) for number, trial in enumerate(trials, start=1)]

    def run(self, trials: int, combinations: Sequence[dict[str, Any]] | None) -> list[Trial]:
        """Run trials until so many are finished, each with the next combination if there are any; return them."""
        trials = trials if combinations is None else min(trials, len(combinations))
        while (done := len(self.finished())) < trials:
            # A new sampler for each trial, because a kill would lose the random state of an old one.
            self.study.sampler = TPESampler(seed=derive_seed(self.tuned.seed, "trial", done) % 2**32)
            if combinations is not None and not self.study.get_trials(states=(TrialState.WAITING,)):
                self.study.enqueue_trial(combinations[done])
            self.study.optimize(self._fit, n_trials=1)
            trial = self.finished()[-1]
            say(f"trial {trial.number} of {trials}: {trial.state}, valid NDCG@5 {trial.score:.4f}: {trial.settings}")
        return self.finished()[:trials]

    def _fit(self, trial: optuna.Trial) -> float:
        values = {path: _draw(trial, path, one) for path, one in self.space.items()}
        settings = self.tuned.varied(values)
        scores: list[float] = []
        state, metrics, started = "complete", {}, time.monotonic()

        def watch(number: int, score: float) -> None:
            scores.append(score)
            trial.report(score, number)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            metrics = self.tuned.fit(settings, self.checkpoints, f"{self.key} {canonical_json(values)}", watch)
        except optuna.TrialPruned:
            state = "pruned"
        except DivergedError:
            state = "diverged"
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        outcome = {
            "state": state,
            "score": metrics["score"] if metrics else max(scores, default=0.0),
            "settings": values,
            "metrics": metrics,
            "validations": len(scores),
            "seconds": round(time.monotonic() - started, 1),
        }
        trial.set_user_attr("outcome", outcome)
        if state != "complete":
            raise optuna.TrialPruned
        return float(metrics["score"])


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _draw(trial: optuna.Trial, path: str, one: Any) -> Any:
    if isinstance(one, Among):
        return trial.suggest_categorical(path, one.choices)
    return trial.suggest_float(path, one.low, one.high, log=one.log)
