"""A daemon as the destination of a program's steps."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from numpy.typing import NDArray

from tracer import dtypes
from tracer.errors import InputError, TracerError
from tracer.live import place, wire
from tracer.live.destination import Opening
from tracer.live.door import USER
from tracer.store.buffers import Buffers
from tracer.store.series import Part

_AGAIN = 2.0
"""Seconds between two attempts to reach a daemon that is gone."""


class Away(TracerError):
    """The daemon cannot be reached."""


def connect(
    role: wire.Role,
    *,
    address: str | None = None,
    token: str = "",
    trace: str | None = None,
    name: str = "",
    seconds: float = 5.0,
) -> Connection:
    """Greet the daemon. Raises InputError where none runs, Away where it does not answer, WireError."""
    if address is None and place.running() is None:
        raise InputError("no daemon runs: tracer daemon start")
    return Connection(role, address or place.address(), token, trace, seconds, name)


class Connection:
    """One client's socket; used by one thread."""

    def __init__(
        self, role: wire.Role, address: str, token: str, trace: str | None, seconds: float, name: str = ""
    ) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 8)
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)  # what comes after a break is another connection
        self.socket.setsockopt(zmq.HANDSHAKE_IVL, int(1000 * seconds))
        if token:
            self.socket.setsockopt(zmq.PLAIN_USERNAME, USER)
            self.socket.setsockopt(zmq.PLAIN_PASSWORD, token.encode())
        broken = zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        self._breaks = self.socket.get_monitor_socket(broken)
        self._pollers: dict[int, zmq.Poller] = {}
        self.heard = time.monotonic()
        try:
            self.socket.connect(address)
            self.send(
                wire.Hello(
                    protocol=wire.PROTOCOL,
                    role=role,
                    pid=os.getpid(),
                    host=platform.node(),
                    trace=trace,
                    name=name,
                ),
                seconds=seconds,
            )
            answer = self.receive(seconds)
            if isinstance(answer, wire.Fault):
                raise wire.WireError(answer.why)
            if not isinstance(answer, wire.Welcome):
                raise Away("the daemon does not answer: a wrong token, or it hangs (tracer daemon logs)")
        except BaseException:
            self.close()
            raise
        self.welcome = answer

    def send(self, message: wire.Message, payload: memoryview | None = None, *, seconds: float = wire.GONE) -> None:
        """Raises Away where it is not taken in that time."""
        frames: list[Any] = [wire.encoded(message), *([] if payload is None else [payload])]
        if not self._wait(zmq.POLLOUT, seconds):
            raise Away("the daemon takes nothing any more")
        # Small ones are copied at once, large ones sent from where they lie: whoever gave them leaves them alone.
        self.socket.send_multipart(frames, zmq.NOBLOCK, copy=payload is None or payload.nbytes < 1 << 16)

    def receive(self, seconds: float) -> wire.Message | None:
        """The next message, None where none comes in that time. Raises WireError."""
        if not self._wait(zmq.POLLIN, seconds):
            return None
        self.heard = time.monotonic()
        return wire.decoded(self.socket.recv())

    def _wait(self, what: int, seconds: float) -> bool:
        """Whether the socket can be read or written within that time. Raises Away once the connection is broken."""
        if int(self.socket.getsockopt(zmq.EVENTS)) & what:
            return True
        poller = self._pollers.get(what)
        if poller is None:
            poller = self._pollers[what] = zmq.Poller()
            poller.register(self.socket, what)
            poller.register(self._breaks, zmq.POLLIN)
        found = dict(poller.poll(int(1000 * seconds)))
        if self.socket in found:
            return True
        if self._breaks in found:
            event = int.from_bytes(self._breaks.recv_multipart()[0][:2], sys.byteorder)
            if event != zmq.EVENT_DISCONNECTED:
                raise Away("the daemon refuses the connection: a wrong token, or another user's daemon")
            raise Away("the daemon is gone")
        return False

    def ask(self, message: wire.Message, seconds: float = 5.0) -> wire.Message:
        """Send, and wait for the answer. Raises Away, WireError."""
        self.send(message, seconds=seconds)
        answer = self.receive(seconds)
        if answer is None:
            raise Away("the daemon does not answer (tracer daemon logs)")
        if isinstance(answer, wire.Fault):
            raise wire.WireError(answer.why)
        return answer

    def close(self) -> None:
        self.socket.disable_monitor()
        self.context.destroy(0)


class Remote:
    """Sends steps to the daemon.

    Where the daemon goes away one warning says so; what comes then is dropped and counted, until it is there again: the
    next step then goes on with the same recording.

    Args:
        name: what the recording will be called where that is not taken.
        numbered: whether the daemon may give the recording another name where its own is taken.

    Attributes:
        control: is handed what the daemon wants to be recorded from now on.
        left_out: steps that were begun and not sent.
        not_begun: further ones that were due, which who gives the steps counts.
    """

    def __init__(
        self,
        *,
        name: str = "",
        numbered: bool = False,
        trace: str | None = None,
        address: str | None = None,
        token: str = "",
    ) -> None:
        self._numbered = numbered
        self._where = {"address": address, "token": token, "trace": trace, "name": name}
        self.control: Callable[[wire.Capture], None] = lambda capture: None
        self._opening: Opening | None = None
        self._name = ""
        self._connection: Connection | None = connect("recorder", **self._where)  # type: ignore[arg-type]
        self.trace = Path(self._connection.welcome.trace)
        self._sent_messages = self._sent_bytes = 0
        self._step: int | None = None
        self._heads: dict[tuple[Part, str, str], tuple[wire.Put, np.dtype[Any]]] = {}
        self._gathered: list[wire.Put] = []
        self._gathered_bytes = 0
        self._buffers = Buffers(wire.WINDOW)
        self._room = np.empty(0, np.uint8)
        self._tried = 0.0
        self.left_out = 0
        self.not_begun = 0
        self._warned = False

    def __str__(self) -> str:
        return "the daemon"

    @property
    def ready(self) -> bool:
        """Whether what is sent arrives."""
        return self._connection is not None

    # -- Destination -------------------------------------------------------------------------------------------

    def open(self, opening: Opening) -> None:
        self._opening = opening
        with self._reaching():
            self._open()

    def begin(self, step: int) -> None:
        if self._connection is None:
            self._come_back()
        self._gathered, self._gathered_bytes = [], 0  # of a step that was given up
        self._step = step if self._connection is not None else None
        if self._step is None:
            self.left_out += 1
        self._send(wire.Begin(step=step))

    def put(self, part: Part, owner: str, name: str, values: NDArray[Any]) -> None:
        if self._step is None:
            return
        head, dtype = self._heads.get((part, owner, name), (None, None))
        if head is None or dtype != values.dtype or head.shape != list(values.shape):
            if not dtypes.storable(values.dtype):
                self.skip(part, f"{owner}:{name}" if owner else name, f"elements of type {values.dtype}")
                return
            head = wire.Put(part=part, owner=owner, name=name, dtype=values.dtype.name, shape=list(values.shape))
            self._heads[part, owner, name] = head, values.dtype
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8) if values.size else np.empty(0, np.uint8)
        if raw.nbytes <= wire.SMALL:
            self._gather(head, raw)
            return
        self._send(head, raw[: wire.PIECE].data)
        for start in range(wire.PIECE, raw.nbytes, wire.PIECE):
            self._send(wire.More(), raw[start : start + wire.PIECE].data)

    def statistics(self, name: str, shape: tuple[int, ...], dtype: str, summary: Mapping[str, float | int]) -> None:
        self._send(wire.Statistics(name=name, dtype=dtype, shape=list(shape), summary=dict(summary)))

    def skip(self, part: Part, name: str, why: str) -> None:
        self._send(wire.Skip(part=part, name=name, why=why))

    def commit(self, ended: float) -> None:
        if self._step is not None:
            self._send(wire.Commit(step=self._step, ended=ended))
            self._step = None

    def idle(self) -> None:
        """To be called now and then where there is nothing to send."""
        connection = self._connection
        if connection is None:
            self._come_back()
            return
        with self._reaching():
            self._listen(0)
            if time.monotonic() - connection.heard > wire.GONE:
                raise Away(f"nothing was heard of the daemon for {wire.GONE:.0f} s")
            connection.send(wire.Ping(left_out=self.left_out + self.not_begun))

    def close(self, fault: str | None = None) -> None:
        connection = self._connection
        if connection is None:
            return
        with self._reaching():
            if self._name:
                connection.send(wire.Ping(left_out=self.left_out + self.not_begun))
                connection.send(wire.Close(fault=fault))
                until = time.monotonic() + 4 * wire.GONE
                while self._connection is not None and not isinstance(self._listen(1.0), wire.Close):
                    if time.monotonic() > until:
                        raise Away("the daemon did not write the last steps in time")
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- the connection ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        assert self._opening is not None
        assert self._connection is not None
        opening = self._opening
        self._connection.send(
            wire.Open(
                name=self._name or opening.name, numbered=self._numbered, resume=bool(self._name),
                structure=opening.structure.to_json(), attributes=dict(opening.attributes),
                reference=opening.reference, parameters=list(opening.parameters),
            )
        )  # fmt: skip
        self._sent_messages, self._sent_bytes = 1, 0
        while not self._name or self._sent_messages:
            if self._listen(wire.GONE) is None:
                raise Away("the daemon does not answer")

    def _gather(self, head: wire.Put, raw: NDArray[np.uint8]) -> None:
        """Keep a small tensor's bytes until there are more: a message each would cost more than they do."""
        if self._gathered_bytes + raw.nbytes > 4 * wire.SMALL or len(self._gathered) == wire.GATHERED:
            self._send_gathered()
        if not self._gathered:
            self._room = self._buffers.array(4 * wire.SMALL)
        self._room[self._gathered_bytes : self._gathered_bytes + raw.nbytes] = raw
        self._gathered.append(head)
        self._gathered_bytes += raw.nbytes

    def _send_gathered(self) -> None:
        puts, size = self._gathered, self._gathered_bytes
        self._gathered, self._gathered_bytes = [], 0
        if puts:
            self._send(wire.Puts(puts=puts), self._room[:size].data)

    def _send(self, message: wire.Message, payload: memoryview | None = None) -> None:
        connection = self._connection
        if connection is None or (self._step is None and not isinstance(message, wire.Begin)):
            return
        self._send_gathered()
        with self._reaching():
            size = 0 if payload is None else payload.nbytes
            while self._sent_messages >= wire.MESSAGES or (self._sent_bytes and self._sent_bytes + size > wire.WINDOW):
                # It writes more slowly than this comes: what waits for room here is the model.
                if self._listen(wire.ALIVE) is None and time.monotonic() - connection.heard > 4 * wire.GONE:
                    raise Away("the daemon wrote nothing for a minute")
            connection.send(message, payload)
            self._sent_messages += 1
            self._sent_bytes += size
            self._listen(0)

    def _listen(self, seconds: float) -> wire.Message | None:
        """Take in what came; the last of it."""
        connection = self._connection
        last = None
        while connection is not None and (message := connection.receive(seconds)) is not None:
            last, seconds = message, 0
            match message:
                case wire.Ack():
                    self._sent_messages -= message.messages
                    self._sent_bytes -= message.nbytes
                case wire.Opened():
                    self._name = message.name
                case wire.Capture():
                    self.control(message)
                case wire.Fault():
                    if message.last:
                        raise InputError(f"the daemon: {message.why}")
                    raise Away(message.why)
                case wire.Close():
                    break
        return last

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except (Away, wire.WireError, zmq.ZMQError) as error:
            self._gone(str(error))

    def _gone(self, why: str) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._tried = time.monotonic()
        if self._step is not None:
            self.left_out += 1
            self._step = None
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"tracer: {why}; the program goes on, and its steps are recorded again when the daemon is back",
                RuntimeWarning, stacklevel=1,
            )  # fmt: skip

    def _come_back(self) -> None:
        if time.monotonic() - self._tried < _AGAIN:
            return
        self._tried = time.monotonic()
        with contextlib.suppress(TracerError, zmq.ZMQError):
            self._connection = connect("recorder", seconds=0.5, **self._where)  # type: ignore[arg-type]
            with self._reaching():
                if self._opening is not None:
                    self._open()
