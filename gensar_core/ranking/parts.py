"""Split a ranking among several jobs, and merge their tables.

A part consists of whole blocks of lists, the same blocks that a single job would process. So every forward pass sees
the same lists whatever the number of parts, and the tables are the same, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gensar_core import schema
from gensar_core.errors import UserError
from gensar_core.ranking.candidates import RankingWriter
from gensar_core.ranking.full_ranking import write_full_ranks
from gensar_core.runtime.reading import table_parts
from gensar_core.runtime.stage import Stage, read_record


@dataclass(frozen=True)
class Part:
    """Identify one of ``of`` jobs, numbered from 0, that share the lists of a ranking."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise UserError(f"part {self.number} of {self.of}: parts are numbered from 0 to {self.of - 1}")

    def spans(self, lengths: Sequence[int], block: int) -> list[tuple[int, int]]:
        """Return (start, stop) of this part's rows in each of several tables with ``lengths`` rows.

        The blocks of ``block`` rows of all tables are dealt out in order, as evenly as possible; starts are multiples
        of ``block``.
        """
        blocks = [-(-length // block) for length in lengths]
        first, last = (share * sum(blocks) // self.of for share in (self.number, self.number + 1))
        spans, before = [], 0
        for length, count in zip(lengths, blocks, strict=True):
            start, stop = (min(max(place - before, 0), count) * block for place in (first, last))
            spans.append((min(start, length), min(stop, length)))
            before += count
        return spans


#: One job ranks all lists.
WHOLE: Final = Part()


def gather_rankings(parts: Sequence[Path], output: Path, name: str) -> None:
    """Write ``output``/{name}.parquet, {name}.scores.parquet and {name}.stage.json from those of all ``parts``.

    ``parts`` are the ranks files of the parts; their scores and records are beside them.
    """
    scores = [path.with_suffix(".scores.parquet") for path in parts]
    with Stage.named_after(output / name, "rank_generator", inputs=[*parts, *scores], code=__name__) as stage:
        with RankingWriter(stage, name) as writer:
            for part, path in zip(parts, scores, strict=True):
                for pair in zip(table_parts(part, schema.RANKS), table_parts(path, schema.SCORES), strict=True):
                    writer.write(*pair)
        stage.record(**_work(parts))


def gather_full_ranks(parts: Sequence[Path], output: Path, name: str) -> None:
    """Write ``output``/{name}.parquet (table `full_ranks`) and its record from those of all ``parts``."""
    with Stage.named_after(output / name, "full_rank_generator", inputs=parts, code=__name__) as stage:
        tables = (table for path in parts for table in table_parts(path, schema.FULL_RANKS))
        stage.record(**write_full_ranks(tables, stage.path(f"{name}.parquet")), **_work(parts))


def _work(parts: Sequence[Path]) -> dict[str, float | str]:
    """Return the total seconds of all parts, and the precisions they computed in."""
    records = [read_record(path.with_suffix(".stage.json")) for path in parts]
    seconds = sum(record["seconds"] for record in records)
    # Parts may run on different machines, not all of which multiply in bfloat16.
    precisions = sorted({record["counts"]["precision"] for record in records})
    return {
        "parts": len(parts),
        "parts_seconds": round(seconds, 3),
        "precision": ", ".join(precisions),
        "cold_items_last": records[0]["counts"]["cold_items_last"],
    }
