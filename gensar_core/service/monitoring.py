"""Count what the service does, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

#: Upper bounds of histogram buckets: seconds, and questions.
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_QUESTIONS: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class Histogram:
    """Count values by the bucket that they fall in."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value; a bucket holds values up to its bound."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, label: str = "") -> Iterator[str]:
        """Yield the lines of this histogram; ``label`` is `name="value"`."""
        below = 0
        for bound, count in zip([*map(str, self._bounds), "+Inf"], self._counts, strict=True):
            below += count
            labels = ",".join(filter(None, [label, f'le="{bound}"']))
            yield f"{name}_bucket{{{labels}}} {below}"
        braces = f"{{{label}}}" if label else ""
        yield f"{name}_sum{braces} {self._sum:.6f}"
        yield f"{name}_count{braces} {below}"


@dataclass
class Monitor:
    """Hold the counts of one service; all calls come from its event loop."""

    waiting: Callable[[], int] = lambda: 0
    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    latency: dict[str, Histogram] = field(default_factory=dict)
    batches: Histogram = field(default_factory=lambda: Histogram(_QUESTIONS))
    searches: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    reloads: Counter[str] = field(default_factory=Counter)
    loaded_at: float = field(default_factory=time.time)

    def request(self, path: str, code: int, seconds: float) -> None:
        """Count a request to a route; ``path`` is the route's pattern, never the text of a request."""
        self.requests[path, code] += 1
        self.latency.setdefault(path, Histogram(_SECONDS)).add(seconds)

    def batch(self, questions: int, seconds: float) -> None:
        """Count a batch of questions that were answered together."""
        self.batches.add(questions)
        self.searches.add(seconds)

    def reload(self, done: bool) -> None:
        """Count a reload of the model."""
        self.reloads["done" if done else "failed"] += 1
        if done:
            self.loaded_at = time.time()

    def text(self) -> str:
        """Return all metrics."""
        lines = [*_head("gensar_requests_total", "counter", "Requests by route and status code; 400 and up failed.")]
        for (path, code), count in sorted(self.requests.items()):
            lines.append(f'gensar_requests_total{{path="{path}",code="{code}"}} {count}')
        lines += _head("gensar_request_seconds", "histogram", "Seconds from a request to its answer.")
        for path, latency in sorted(self.latency.items()):
            lines += latency.lines("gensar_request_seconds", f'path="{path}"')
        lines += _head("gensar_batch_questions", "histogram", "Questions that were answered together.")
        lines += self.batches.lines("gensar_batch_questions")
        lines += _head("gensar_batch_seconds", "histogram", "Seconds that the model took for a batch.")
        lines += self.searches.lines("gensar_batch_seconds")
        lines += _head("gensar_questions_waiting", "gauge", "Questions that wait for the model.")
        lines.append(f"gensar_questions_waiting {self.waiting()}")
        lines += _head("gensar_reloads_total", "counter", "Reloads of the model.")
        lines += [f'gensar_reloads_total{{result="{way}"}} {self.reloads[way]}' for way in ("done", "failed")]
        lines += _head("gensar_model_loaded_timestamp_seconds", "gauge", "When the model was loaded.")
        lines.append(f"gensar_model_loaded_timestamp_seconds {self.loaded_at:.3f}")
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"
