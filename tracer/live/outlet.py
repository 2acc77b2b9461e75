"""Between the thread that trains and the one that writes or sends: bounded, and never in the way of the former."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

from tracer.errors import TracerError
from tracer.forked import ends_with_process
from tracer.live.destination import Destination, Opening
from tracer.text import described

_FULL = 0.5
"""Of the memory: where so much waits at a step's beginning, the step has no room."""
_ENOUGH = 4 << 20
"""Bytes for which the other thread is woken: each change of threads may cost the program as much as a tensor's copy."""
_IDLE = 1.0
"""Seconds without anything after which the destination may look around."""
_Item = tuple[Callable[..., None], tuple[Any, ...], int]


def _conditions() -> tuple[threading.Condition, threading.Condition]:
    """Two on one lock: that there is room, and that there is work."""
    lock = threading.Lock()
    return threading.Condition(lock), threading.Condition(lock)


class Outlet:
    """Hands what it is given to a destination in a thread of its own, in order.

    Where the destination fails, a warning says so once, everything that comes later is dropped at no cost, and the
    program goes on.

    Args:
        memory: bytes that may wait; who gives more waits.
    """

    def __init__(self, destination: Destination, memory: int) -> None:
        self._destination = destination
        self._memory = memory
        self._waiting = 0
        self._held = 0
        self._room, self._work = _conditions()
        self._items: list[_Item | None] = []
        self.fault: str | None = None
        self.opened = False
        self._thread = threading.Thread(target=self._drain, name="tracer-outlet", daemon=True)
        self._thread.start()
        ends_with_process(self)

    def forked(self) -> None:
        """Take nothing any more: who handed it on is a thread of the parent's."""
        self._room, self._work = _conditions()
        self._items = []
        self.fault = "a forked process records nothing: attach in it"

    @property
    def closed(self) -> bool:
        return not self._thread.is_alive()

    def has_room(self) -> bool:
        """Whether a step that begins now is likely to pass without waiting."""
        return self.fault is None and self._waiting <= self._memory * _FULL

    @property
    def ready(self) -> bool:
        """Whether what is given arrives somewhere."""
        return self.fault is None and self._destination.ready

    def open(self, opening: Opening) -> None:
        self.opened = True
        self.give(self._destination.open, opening, soon=True)

    def give(self, action: Callable[..., None], *arguments: Any, size: int = 0, soon: bool = False) -> None:
        """Have ``action``, a method of the destination, called in turn: at once with ``soon``, else when there is more
        to do. Waits while there is no room for ``size`` bytes."""
        with self._room:
            # What is larger than all the memory passes alone.
            while self.fault is None and self._waiting and self._waiting + size > self._memory:
                self._work.notify()
                self._room.wait()
            if self.fault is not None:
                return
            self._waiting += size
            self._held += size
            self._items.append((action, arguments, size))
            if soon or self._held >= _ENOUGH:
                self._held = 0
                self._work.notify()

    def flush(self) -> None:
        """Wait until what was given so far is handed over."""
        done = threading.Event()
        self.give(done.set, soon=True)
        while self.fault is None and self._thread.is_alive() and not done.wait(0.05):
            pass

    def close(self, fault: str | None = None) -> None:
        """Hand over what waits, close the destination, end the thread. A second time it does nothing."""
        if self._thread.is_alive():
            with self._work:
                self._items += [(self._destination.close, (fault,), 0), None]
                self._work.notify()
            self._thread.join()

    def _drain(self) -> None:
        while True:
            with self._work:
                if not self._items:
                    self._work.wait(_IDLE)
                items, self._items, self._held = self._items, [], 0
            if not items:  # before the first step, too: it may be told to begin
                self._do(self._destination.idle)
            for number, item in enumerate(items):
                if item is None:
                    if self.fault is not None:
                        with contextlib.suppress(Exception):  # that it failed was said
                            self._destination.close(self.fault)
                    return
                action, arguments, size = item
                self._do(action, *arguments)
                items[number] = item = None
                del arguments
                if size:
                    with self._room:
                        self._waiting -= size
                        self._room.notify_all()

    def _do(self, action: Callable[..., None], *arguments: Any) -> None:
        if self.fault is None:
            try:
                action(*arguments)
            except Exception as error:
                self.fail(str(error) if isinstance(error, TracerError) else described(error))

    def fail(self, said: str) -> None:
        """Take no more, for this reason, with a warning."""
        with self._room:
            self.fault = said
            self._room.notify_all()
        warnings.warn(f"tracer records no more steps: {said}", RuntimeWarning, stacklevel=1)
        if self.opened:
            try:
                self._destination.close(said)
            except Exception:  # it failed already, and that is what was said
                self.opened = False
