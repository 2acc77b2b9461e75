"""What waits to be looked at, and the process that looks at it."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tracer.live import judging

log = logging.getLogger("tracer.daemon")
_STEPS, _PAIRS = 4096, 64
"""How many steps may wait for the rules, and pairs to be compared; beyond that the oldest are left out, and counted."""


@dataclass(frozen=True)
class Task:
    """Something to be looked at.

    Attributes:
        recordings: of ``trace``, whose ``step`` is read.
        function, arguments: what is called in the other process.
        done: is handed what came out of it, in the thread of :meth:`Looker.turn`.
    """

    trace: Path
    recordings: tuple[str, ...]
    step: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    done: Callable[[Any], None]


class Looker:
    """Has a process of its own look at one thing after the other: by turns at a step by the rules, which is quick, and
    at a pair of steps, each the oldest first. Used by one thread.

    Args:
        wake: called from another thread when :meth:`turn` is to be called.

    Attributes:
        left_out: how much was given up because too much waited.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._steps: deque[Task] = deque()
        self._pairs: deque[Task] = deque()
        self._running: tuple[Task, Future[Any]] | None = None
        self._pair_was_last = True
        self._pool = _pool()
        self.left_out = 0

    def ready(self) -> None:
        """Start the process now: what it needs takes some seconds to load."""
        with contextlib.suppress(BrokenProcessPool):  # seen to when something is to be looked at
            self._pool.submit(int)

    def step(self, task: Task) -> None:
        """Have the rules applied to a step."""
        self._add(self._steps, task, _STEPS)

    def pair(self, task: Task) -> None:
        """Have two steps compared."""
        self._add(self._pairs, task, _PAIRS)

    def _add(self, queue: deque[Task], task: Task, most: int) -> None:
        queue.append(task)
        if len(queue) > most:
            queue.popleft()
            self.left_out += 1

    def __len__(self) -> int:
        return sum(1 for _ in self._all())

    def _all(self) -> Iterator[Task]:
        if self._running is not None:
            yield self._running[0]
        yield from self._steps
        yield from self._pairs

    def wanted(self, trace: Path, recording: str) -> set[int]:
        """The steps of a recording that will be read yet."""
        return {task.step for task in self._all() if recording in task.recordings and task.trace == trace}

    def turn(self) -> None:
        """Take in what was found, and go on with the next."""
        if self._running is not None:
            task, future = self._running
            if not future.done():
                return
            self._running = None
            try:
                task.done(future.result())
            except BrokenProcessPool:
                self._renew()
            except Exception as error:
                log.error("looking at a step failed: %s", error)
        first, second = (self._steps, self._pairs) if self._pair_was_last else (self._pairs, self._steps)
        queue = first or second
        if queue:
            self._pair_was_last = queue is self._pairs
            self._begin(queue.popleft())

    def _begin(self, task: Task) -> None:
        try:
            future = self._pool.submit(task.function, *task.arguments)
        except BrokenProcessPool:
            self._renew()
            future = self._pool.submit(task.function, *task.arguments)
        self._running = task, future
        future.add_done_callback(lambda _: self._wake())

    def _renew(self) -> None:
        """Start another process: the one there was was killed, or a trace broke it."""
        log.error("the process that compares died: a new one is started")
        self._pool = _pool()

    def close(self) -> None:
        """End the process; what waits is not looked at."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=judging.serve)


__all__ = ["Looker", "Task"]
