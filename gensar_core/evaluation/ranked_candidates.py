"""Show what a generator and other rankers return for the same test targets: hits, misses and the lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl

from gensar_core import schema
from gensar_core.evaluation.figure_files import TASK_TITLES
from gensar_core.evaluation.targets import TargetRanks, read_test_ranks, target_parts
from gensar_core.ranking.metrics import count_codes, mean_gain
from gensar_core.runtime.stage import read_record

#: A target at this rank or better is a hit.
HIT: Final = 10
#: How many hits and how many misses of a task are shown, how many items of a list, and how much of a history.
_SHOWN, _LENGTH, _HISTORY = 60, 5, 6
#: Kinds of methods whose list is shown beside the generator's: the first that was ranked. The best other one follows.
_BESIDE: Final = {"rec": ("sasrec", "popularity"), "search": ("bm25", "query_frequency")}
_ACTS: Final = ("clicked", "searched", "found")
#: What a reader can choose to see; report_page.html knows these words.
_CHOICES: Final = {
    "": "all",
    "hit": "hits",
    "miss": "misses",
    "only": "hits that no other has",
    "lost": "misses that another hits",
}


@dataclass(frozen=True)
class _Ranker:
    """Hold a row's test ranks, and the kind of its method (None: a generator)."""

    name: str
    kind: str | None
    file: Path
    ranks: TargetRanks

    def codes(self, task: str) -> np.ndarray:
        """Return the codes of the ranks of a task's targets."""
        codes: np.ndarray = self.ranks.codes[task]["rank"]
        return codes

    def quality(self, tasks: Sequence[str] = schema.TASKS) -> float:
        """Return the mean NDCG@5 of the tasks that it ranks."""
        counts = [count_codes(self.codes(task)) for task in tasks if task in self.ranks.codes]
        return float(np.mean([mean_gain(of_task, "ndcg@5") for of_task in counts])) if counts else 0.0


def ranked_candidates(dataset: Path) -> str:
    """Return HTML that shows hits and misses of a data set's best generator beside other rankers' lists.

    ``dataset`` is a data set's folder. The best generator has the highest NDCG@5, as a mean over tasks. Beside it stand
    SASRec in recommendation and BM25 in search where they were ranked, and the best other method. Of each task, 60 hits
    and 60 misses at most are shown, evenly spread over the test targets. The text is empty while the data set has no
    generator's scores. Raises UserError on files that are no tables of this project.
    """
    needed = [dataset / "samples" / f"{name}.parquet" for name in ("samples", "candidates")]
    rankers = list(_rankers(dataset)) if all(path.is_file() for path in needed) else []
    generators = [ranker for ranker in rankers if ranker.kind is None]
    if not generators:
        return ""
    best = max(generators, key=_Ranker.quality)
    methods = [ranker for ranker in rankers if ranker.kind not in (None, "random_order")]
    return "".join(_task(dataset, task, best, methods) for task in best.ranks.codes)


def _rankers(dataset: Path) -> list[_Ranker]:
    """Read the rows that left scores: methods and generators, no fusions; of a row with several seeds, the first."""
    found = []
    for scores in sorted((dataset / "ranks").glob("*.scores.parquet")):
        name = scores.name.removesuffix(".scores.parquet")
        record, ranks = dataset / "models" / name / "stage.json", dataset / "ranks" / f"{name}.parquet"
        if "-seed" not in name and record.is_file() and ranks.is_file():
            found.append(_Ranker(name, read_record(record)["settings"].get("kind"), ranks, read_test_ranks(ranks)))
    return found


def _beside(task: str, methods: Sequence[_Ranker]) -> list[_Ranker]:
    ranking = list(methods)
    ranking.sort(key=lambda method: method.quality([task]), reverse=True)
    first = next((method for kind in _BESIDE[task] for method in ranking if method.kind == kind), None)
    return [*([first] if first else []), *[method for method in ranking if method is not first][:1]]


def _task(dataset: Path, task: str, generator: _Ranker, methods: Sequence[_Ranker]) -> str:
    targets = generator.ranks.targets[task]
    # Files of earlier samples rank other targets.
    rankers = [generator, *_beside(task, [other for other in methods if other.ranks.targets.get(task) == targets])]
    codes = [ranker.codes(task) for ranker in rankers]
    hits = [of_ranker <= 2 * HIT for of_ranker in codes]
    places = np.sort(np.concatenate([_spread(np.flatnonzero(hits[0])), _spread(np.flatnonzero(~hits[0]))]))
    shown = pl.DataFrame(
        {"sample_id": _samples(generator.file, task, places)}
        | {str(number): of_ranker[places] / 2.0 for number, of_ranker in enumerate(codes)}
    )
    counts = [f"{generator.name} hits {hits[0].sum():,} of {len(hits[0]):,} test targets at {HIT}"]
    counts += [
        f"{(hits[0] & ~hit).sum():,} that {other.name} misses, which hits {(hit & ~hits[0]).sum():,} others"
        for other, hit in zip(rankers[1:], hits[1:], strict=True)
    ]
    caption = (
        f"{'; '.join(counts)}. Shown are {shown.height}, evenly spread. All rank the same candidates; open a row to "
        "see the history and the first of each list. The target is marked."
    )
    names = ["query" if task == "search" else "user", "target", *(f"{ranker.name}, rank" for ranker in rankers)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    choices = "".join(f'<option value="{value}">{text}</option>' for value, text in _CHOICES.items())
    title = f"{TASK_TITLES[task].capitalize()}: {generator.name} beside {' and '.join(r.name for r in rankers[1:])}"
    return (
        f'<section class="answers"><h3>{escape(title)}</h3>\n<p>{escape(caption)}</p>\n'
        f'<p><label>show <select>{choices}</select></label> <label>with the words <input type="search"></label></p>\n'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n{"".join(_rows(dataset, task, rankers, shown))}'
        "</table></div></section>\n"
    )


def _spread(places: np.ndarray) -> np.ndarray:
    """Return at most ``_SHOWN`` of some places, evenly spread over them."""
    chosen: np.ndarray = places[np.unique(np.linspace(0, len(places) - 1, min(_SHOWN, len(places))).astype(int))]
    return chosen


def _samples(ranks: Path, task: str, places: np.ndarray) -> np.ndarray:
    """Return the samples at some places, ascending, of a task's test targets in a file of ranks."""
    found, first = [np.zeros(0, dtype=np.int64)], 0
    for of, rows in target_parts(ranks):
        if of == task:
            within = places[(places >= first) & (places < first + len(rows))] - first
            found.append(rows.get_column("sample_id").to_numpy()[within])
            first += len(rows)
    return np.concatenate(found)


def _rows(dataset: Path, task: str, rankers: Sequence[_Ranker], shown: pl.DataFrame) -> list[str]:
    canonical, wanted = dataset / "canonical", shown["sample_id"].implode()
    items = schema.ITEMS.read(canonical / "items.parquet").sort("item_id")
    titles = [title or raw_id for raw_id, title in items.select("raw_id", "title").rows()]
    queries = schema.QUERIES.read(canonical / "queries.parquet").sort("query_id")["text"].to_list()

    def of_samples(table: schema.Table, path: Path) -> pl.DataFrame:
        return table.scan(path).filter(pl.col("sample_id").is_in(wanted)).collect().sort("sample_id")

    samples = of_samples(schema.SAMPLES, dataset / "samples" / "samples.parquet")
    known = pl.col("user_id").is_in(samples["user_id"].implode())
    users = dict(schema.USERS.read(canonical / "users.parquet", known).iter_rows())
    negatives = of_samples(schema.CANDIDATES, dataset / "samples" / "candidates.parquet")["negatives"].to_list()
    scores = [
        of_samples(schema.SCORES, dataset / "ranks" / f"{ranker.name}.scores.parquet")["scores"].to_list()
        for ranker in rankers
    ]
    rows = []
    for place, (sample, ranks) in enumerate(
        zip(samples.iter_rows(named=True), shown.iter_rows(named=True), strict=True)
    ):
        of_rankers = [ranks[str(number)] for number in range(len(rankers))]
        target = sample["target_item"]
        asked = users[sample["user_id"]] if task == "rec" else queries[sample["query_id"]]
        past = [
            f"{_ACTS[act]} {queries[thing] if act == schema.SEARCHED_QUERY else titles[thing]}"
            for act, thing in zip(sample["history_behavior"], sample["history_object"], strict=True)
        ][-_HISTORY:]
        lists = [
            _list(ranker.name, _first([target, *negatives[place]], of_ranker[place], titles))
            for ranker, of_ranker in zip(rankers, scores, strict=True)
        ]
        opened = f'<div class="lists">{_list("history, oldest first", past)}{"".join(lists)}</div>'
        cells = "".join(f'<td class="{"hit" if rank <= HIT else "miss"}">{rank:g}</td>' for rank in of_rankers)
        rows.append(
            f'<tbody data-hits="{"".join("h" if rank <= HIT else "m" for rank in of_rankers)}">'
            f'<tr><td><button aria-expanded="false">{escape(asked)}</button></td><td>{escape(titles[target])}</td>'
            f'{cells}</tr>\n<tr hidden><td colspan="{2 + len(rankers)}">{opened}</td></tr></tbody>\n'
        )
    return rows


def _list(title: str, entries: Sequence[str]) -> str:
    return f"<div><h4>{escape(title)}</h4><ol>{''.join(f'<li>{escape(one)}</li>' for one in entries)}</ol></div>"


def _first(candidates: Sequence[int], scores: Sequence[float], titles: Sequence[str]) -> list[str]:
    """Return the titles of the best candidates, the target (the first) marked; among equal scores it comes last."""
    order = sorted(range(len(candidates)), key=lambda place: (-scores[place], place == 0, place))[:_LENGTH]
    return [f"{'✔ ' if not place else ''}{titles[candidates[place]]}" for place in order]
