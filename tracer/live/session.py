"""One recorder's connection to the daemon: what it sends is written by a thread of its own."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracer import dtypes
from tracer.errors import InputError, TraceError, TracerError
from tracer.graph import Structure
from tracer.live import wire
from tracer.live.destination import Opening, opened
from tracer.names import display
from tracer.recording import free
from tracer.store import Trace
from tracer.store.series import SeriesWriter
from tracer.text import described

Answer = Callable[[wire.Message], None]
_LARGEST = 1 << 34
"""Bytes of one tensor."""
_SOON = 0.02
"""Seconds without a message after which what was written is acknowledged."""


@dataclass
class Figures:
    """What a recorder has sent, for ``tracer daemon status``."""

    began: float = field(default_factory=time.time)
    heard: float = field(default_factory=time.monotonic)
    messages: int = 0
    nbytes: int = 0
    steps: int = 0
    last_step: int | None = None
    left_out: int = 0
    lag: float = 0.0
    waiting: int = 0


class Session:
    """Takes the messages of one recorder; everything that touches the disk happens in its thread.

    Args:
        answer: hands a message back to the recorder; callable from any thread.
        committed: called with a step's number and the time it ended, once it is written.

    Attributes:
        over: whether no more will be taken; ``fault`` says why, where it did not just end.
    """

    def __init__(
        self,
        hello: wire.Hello,
        trace: Path,
        answer: Answer,
        committed: Callable[[Session, int, float], None],
        *,
        durable: bool = False,
    ) -> None:
        self.hello = hello
        self.trace = Trace.at(trace, durable=durable)
        self.name: str | None = None
        self.figures = Figures()
        self.structure: Structure | None = None
        self.writer: SeriesWriter | None = None
        self.over = False
        self.fault: str | None = None
        self._answer = answer
        self._committed = committed
        self._tensor: _Tensor | None = None
        self._messages = self._bytes = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[wire.Message, memoryview] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="tracer-session", daemon=True)
        self._thread.start()

    def take(self, message: wire.Message, payload: memoryview) -> None:
        """Queue a message. Raises WireError where the recorder sends more than it was allowed."""
        figures = self.figures
        figures.heard = time.monotonic()
        if isinstance(message, wire.Ping):
            figures.left_out = message.left_out
            self._answer(message)
            return
        with self._lock:
            self._messages += 1
            self._bytes += payload.nbytes
            figures.waiting = self._bytes
            if self._messages > wire.MESSAGES + 16 or self._bytes > wire.WINDOW + wire.PIECE:
                raise wire.WireError("more was sent than the daemon had room for")
        figures.messages += 1
        figures.nbytes += payload.nbytes
        self._queue.put((message, payload))

    def end(self, why: str | None) -> None:
        """The recorder is gone (``why``), or the daemon stops: what was committed stays, the rest is given up."""
        self.over = True
        self._queue.put(None)
        self._thread.join()
        self._finish(why)

    # -- in its thread -----------------------------------------------------------------------------------------

    def _work(self) -> None:
        messages = size = 0
        while True:
            try:
                item = self._queue.get(timeout=_SOON if messages else None)
            except queue.Empty:
                late = True
            else:
                if item is None:
                    return
                late, messages, size = False, messages + 1, size + item[1].nbytes
                self._do(*item)
                del item
            # Not each by itself: for small tensors the answers would cost as much as they do.
            if late or messages >= wire.MESSAGES // 8 or size >= wire.PIECE:
                self._answer(wire.Ack(messages=messages, nbytes=size))
                messages = size = 0

    def _do(self, message: wire.Message, payload: memoryview) -> None:
        if self.over:
            if isinstance(message, wire.Close):  # of one who has not read yet why it is over
                self._answer(wire.Close())
        else:
            try:
                self._handle(message, payload)
            except Exception as error:
                said = str(error) if isinstance(error, TracerError) else described(error)
                self._answer(wire.fault(said))
                self._finish(said)
                self.fault = said
                self.over = True
        with self._lock:
            self._messages -= 1
            self._bytes -= payload.nbytes
            self.figures.waiting = self._bytes

    def _handle(self, message: wire.Message, payload: memoryview) -> None:
        if isinstance(message, wire.Open):
            self._open(message)
            return
        writer = self.writer
        if writer is None:
            raise wire.WireError(f"'{message.kind}' before a recording was opened")
        if self._tensor is not None and not isinstance(message, wire.More):
            raise wire.WireError(f"'{message.kind}' in the middle of a tensor")
        match message:
            case wire.Begin():
                writer.begin(message.step)
            case wire.Put():
                self._begun(writer)
                self._tensor = _Tensor(message)
                self._more(writer, payload)
            case wire.Puts():
                self._begun(writer)
                self._several(writer, message, payload)
            case wire.More():
                self._more(writer, payload)
            case wire.Statistics():
                self._begun(writer)
                dtypes.by_name(message.dtype)
                writer.statistics(message.name, tuple(message.shape), message.dtype, message.summary)
            case wire.Skip():
                self._begun(writer)
                writer.skip(message.part, message.name, message.why)
            case wire.Commit():
                if self._begun(writer) != message.step:
                    raise wire.WireError(f"step {message.step} was never begun")
                writer.commit(ended=message.ended)
                figures = self.figures
                figures.steps, figures.last_step = figures.steps + 1, message.step
                figures.lag = max(0.0, time.time() - message.ended)
                self._committed(self, message.step, message.ended)
            case wire.Close():
                self._finish(message.fault, whole=True)
                self._answer(wire.Close())
                self.over = True
            case _:
                raise wire.WireError(f"'{message.kind}' is not for a recorder to say")

    def _begun(self, writer: SeriesWriter) -> int:
        if writer.step is None:
            raise wire.WireError("a tensor before a step was begun")
        return writer.step

    def _open(self, message: wire.Open) -> None:
        if self.writer is not None:
            raise wire.WireError("a second recording on one connection")
        try:
            structure = Structure.from_json(message.structure)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("the structure that was sent cannot be read") from error
        name = message.name
        if not name:
            raise InputError("a recording needs a name")
        if message.numbered and not message.resume and self.trace.has(name):
            name = free(self.trace, name)
        opening = Opening(
            name, structure, message.attributes, message.reference, tuple((a, b) for a, b in message.parameters)
        )
        self.writer = opened(self.trace, opening, resume=message.resume).__enter__()
        self.name, self.structure = name, structure
        self._answer(wire.Opened(name=name))

    def _more(self, writer: SeriesWriter, payload: memoryview) -> None:
        if self._tensor is None:
            raise wire.WireError("a piece of no tensor")
        values = self._tensor.add(payload)
        if values is not None:
            put, self._tensor = self._tensor.put, None
            writer.put(put.part, put.name, values, put.owner)

    def _several(self, writer: SeriesWriter, message: wire.Puts, payload: memoryview) -> None:
        done = 0
        for put in message.puts:
            tensor = _Tensor(put)
            values = tensor.add(payload[done : done + tensor.size])
            if values is None:
                raise wire.WireError(f"'{display(put.name, 60)}' came without all of its bytes")
            done += tensor.size
            writer.put(put.part, put.name, values, put.owner)
        if done != payload.nbytes:
            raise wire.WireError(f"{payload.nbytes} bytes came where {done} belong")

    def _finish(self, why: str | None, *, whole: bool = False) -> None:
        writer, self.writer = self.writer, None
        if writer is not None:
            # A full disk: it reads as interrupted, which who closes it is told.
            with suppress(*() if whole else (TraceError,)):
                if whole or why is None:
                    writer.finish(why)
                else:
                    writer.leave()


class _Tensor:
    """A tensor on its way."""

    def __init__(self, put: wire.Put) -> None:
        self.put = put
        self._dtype = dtypes.by_name(put.dtype)
        self.size = math.prod(put.shape) * self._dtype.itemsize
        if self.size > _LARGEST:
            raise wire.WireError(f"a tensor of {self.size} bytes: '{display(put.name, 60)}'")
        self._values: np.ndarray[Any, np.dtype[Any]] | None = None
        self._done = 0

    def add(self, payload: memoryview) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Take a piece: the whole tensor once it is there."""
        done = self._done + payload.nbytes
        if done > self.size or (payload.nbytes == 0 and self.size):
            raise wire.WireError(f"'{display(self.put.name, 60)}' came with {done} bytes where {self.size} belong")
        if self.size == 0:
            return np.empty(self.put.shape, self._dtype)
        if done == self.size and self._done == 0:
            flat = np.frombuffer(payload, np.uint8)
        else:
            # Grown as the bytes come: what is declared is not yet believed.
            if self._values is None or self._values.size < done:
                grown = np.empty(min(self.size, max(done, 2 * self._done)), np.uint8)
                if self._values is not None:
                    grown[: self._done] = self._values[: self._done]
                self._values = grown
            self._values[self._done : done] = np.frombuffer(payload, np.uint8)
            flat = self._values[: self.size]
        self._done = done
        return flat.view(self._dtype).reshape(self.put.shape) if done == self.size else None
