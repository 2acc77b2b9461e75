"""The three pipes between supervisor and worker, none of which can block the supervisor or fill its memory."""

from __future__ import annotations

import os
import selectors
from collections import deque

from tracer.worker.protocol import LONGEST

_CHUNK = 1 << 16
_ROUNDS = 1000  # far more than pipes hold; somebody may be filling them still
_LINES_KEPT = 20
_LINE_KEPT = 2000


class Pipes:
    """The job goes in, events come out, and what the worker prints is kept for its last lines."""

    def __init__(self, job: bytes) -> None:
        self.job_for_child, self._job_in = os.pipe()
        self._events, self.events_for_child = os.pipe()
        self._errors, self.errors_for_child = os.pipe()
        self.last_words: deque[str] = deque(maxlen=_LINES_KEPT)
        self._open = {self._job_in, self._events, self._errors}
        self._childs = {self.job_for_child, self.events_for_child, self.errors_for_child}
        self._job = memoryview(job)
        self._partial_event = bytearray()
        self._partial_error = b""
        self._selector = selectors.DefaultSelector()
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
            writes = descriptor == self._job_in
            self._selector.register(descriptor, selectors.EVENT_WRITE if writes else selectors.EVENT_READ)

    def started(self) -> None:
        """Close the child's ends here, so that its end is seen."""
        for descriptor in self._childs:
            os.close(descriptor)
        self._childs.clear()

    def close(self) -> None:
        """Close whatever is open."""
        self.started()
        for descriptor in list(self._open):
            self._drop(descriptor)
        self._selector.close()

    def read(self, wait: float) -> list[bytes]:
        """The event lines that came within ``wait`` seconds; with 0, all that are there.

        Raises ValueError for a line that is too long.
        """
        lines: list[bytes] = []
        for _ in range(_ROUNDS):
            for key, _ in self._selector.select(wait if self._open - {self._job_in} else min(wait, 0.02)):
                if key.fd == self._job_in:
                    self._send()
                elif (data := os.read(key.fd, _CHUNK)) == b"":
                    self._drop(key.fd)
                elif key.fd == self._errors:
                    self._keep(data)
                else:
                    lines += self._split(data)
            if wait or not self._readable():
                break
        return lines

    def _readable(self) -> bool:
        return any(key.fd != self._job_in for key, _ in self._selector.select(0))

    def _drop(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)
        self._open.discard(descriptor)
        os.close(descriptor)
        if descriptor == self._errors and self._partial_error:
            self._keep(b"\n")

    def _send(self) -> None:
        try:
            self._job = self._job[os.write(self._job_in, self._job) :]
        except BrokenPipeError:
            self._job = self._job[:0]
        if not self._job:
            self._drop(self._job_in)

    def _keep(self, data: bytes) -> None:
        *whole, self._partial_error = (self._partial_error + data).split(b"\n")
        self._partial_error = self._partial_error[-_LINE_KEPT:]
        for line in whole[-_LINES_KEPT:]:
            self.last_words.append(line[-_LINE_KEPT:].decode(errors="replace"))

    def _split(self, data: bytes) -> list[bytes]:
        end = data.rfind(b"\n") + 1
        if not end:
            self._partial_event += data
            if len(self._partial_event) > LONGEST:
                raise ValueError("it sent too long a line")
            return []
        lines = (bytes(self._partial_event) + data[:end]).splitlines()
        self._partial_event = bytearray(data[end:])
        return lines
