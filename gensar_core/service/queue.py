"""Collect questions while the model is busy, and answer all that wait in one batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gensar_core.generator.live_questions import Hit, LiveQuestion
from gensar_core.generator.open import Generator
from gensar_core.service.monitoring import Monitor


class Busy(Exception):
    """Say that too many questions wait; ``seconds`` is when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many questions wait; try again in {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Hold a question, the model that it was put to, and where its answer is awaited."""

    question: LiveQuestion
    generator: Generator
    answer: asyncio.Future[list[Hit]]


class QuestionQueue:
    """Answer questions in batches of at most ``batch``, by one thread; at most ``most_waiting`` wait for it."""

    def __init__(self, batch: int, most_waiting: int, beams: int, monitor: Monitor) -> None:
        self._batch, self._beams, self._monitor = batch, beams, monitor
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(most_waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._seconds = 0.0
        monitor.waiting = self._waiting.qsize

    async def ask(self, question: LiveQuestion, generator: Generator) -> list[Hit]:
        """Wait for the ``beams`` best items of a question. Raises Busy at once when the queue is full."""
        answer: asyncio.Future[list[Hit]] = asyncio.get_running_loop().create_future()
        try:
            self._waiting.put_nowait(_Waiting(question, generator, answer))
        except asyncio.QueueFull:
            batches = 1 + self._waiting.qsize() / self._batch
            raise Busy(max(1, math.ceil(self._seconds * batches))) from None
        return await answer

    async def work(self) -> None:
        """Answer questions until cancelled. What arrives while a batch is answered waits for the next."""
        loop = asyncio.get_running_loop()
        while True:
            waiting = [await self._waiting.get()]
            while len(waiting) < self._batch and not self._waiting.empty():
                waiting.append(self._waiting.get_nowait())
            started = time.perf_counter()
            answers = await loop.run_in_executor(self._thread, self._answer, waiting)
            self._seconds = time.perf_counter() - started
            self._monitor.batch(len(waiting), self._seconds)
            for one, answer in zip(waiting, answers, strict=True):
                if one.answer.done():
                    continue
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)
            for _ in waiting:
                self._waiting.task_done()

    async def drain(self) -> None:
        """Wait until every question is answered, then end the thread."""
        await self._waiting.join()
        self._thread.shutdown()

    def _answer(self, waiting: Sequence[_Waiting]) -> list[list[Hit] | Exception]:
        """Answer a batch; when it fails, answer each question alone, so that one bad question fails by itself."""
        # During a reload, questions to both models may wait.
        answers: dict[_Waiting, list[Hit] | Exception] = {}
        for generator in {id(one.generator): one.generator for one in waiting}.values():
            mine = [one for one in waiting if one.generator is generator]
            try:
                answers |= zip(mine, self._ask(generator, mine), strict=True)
            except Exception:
                for one in mine:
                    try:
                        answers[one] = self._ask(generator, [one])[0]
                    except Exception as error:
                        answers[one] = error
        return [answers[one] for one in waiting]

    def _ask(self, generator: Generator, waiting: Sequence[_Waiting]) -> list[list[Hit]]:
        return generator.answer([one.question for one in waiting], top=self._beams, beams=self._beams)
