"""What the screens do alike that compare two recordings in a thread."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from textual import on
from textual.message import Message
from textual.worker import Worker

from tracer.store import Recording
from tracer_tui.query import Listed
from tracer_tui.screens.listing import ListScreen

R = TypeVar("R", bound=Listed)


class Cancelled(Exception):
    """The comparison is not wanted any more."""


class ComparingScreen(ListScreen[R]):
    """Rows that are computed while the keys work."""

    class Progress(Message):
        def __init__(self, done: int, total: int) -> None:
            super().__init__()
            self.done = done
            self.total = total

    class Failed(Message):
        def __init__(self, reason: str) -> None:
            super().__init__()
            self.reason = reason

    def __init__(self, reference: Recording, candidate: Recording) -> None:
        super().__init__(reference, candidate)
        self._status = ""
        self._failed = False

    @property
    @abstractmethod
    def has_result(self) -> bool:
        """Whether there is a comparison to show."""

    def progress_of(self, worker: Worker[Any]) -> Callable[[int, int], None]:
        """Tells how far a thread is, four times a second at most; raises :class:`Cancelled` where it is to end."""
        last = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal last
            if worker.is_cancelled:
                raise Cancelled
            if total and time.monotonic() - last > 0.25:
                last = time.monotonic()
                self.post_message(self.Progress(done, total))

        return progress

    @on(Progress)
    def _progress(self, event: Progress) -> None:
        if not self.has_result:
            self._status = f"comparing {event.done}/{event.total}"
            self._show_title()
            if not self.everything:
                self.grid.say(self.look.text(self._status, "dim"))

    @on(Failed)
    def _failure(self, event: Failed) -> None:
        self._status, self._failed = event.reason, True
        self.say(event.reason, "error")
        self.redraw()
        self.failed()

    def failed(self) -> None:
        """The comparison ended with an error, which was told."""
