"""The daemon: takes the steps that recorders send, writes them, has them compared, tells watchers."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import zmq

from tracer.compare.verdict import Tolerance
from tracer.errors import InputError, TracerError
from tracer.live import judging, place, wire
from tracer.live.door import Door
from tracer.live.looking import Looker, Task
from tracer.live.retention import Kept, Retention
from tracer.live.rules import Rules
from tracer.live.session import Session
from tracer.live.telling import Teller, Telling
from tracer.names import display
from tracer.store import Trace
from tracer.text import described
from tracer.wanted import wanted

log = logging.getLogger("tracer.daemon")
_ARENAS, _MAPPED, _TRIMMED = -8, -3, -1
"""``M_ARENA_MAX``, ``M_MMAP_THRESHOLD`` and ``M_TRIM_THRESHOLD`` of mallopt(3)."""
_MOST = 512
"""Clients at a time: a recorder costs a thread."""
_TURN = 500
"""Milliseconds after which the daemon looks around, where nothing comes."""
_LAST_LOOKS = 5.0
"""Seconds that what waits to be looked at has when the daemon is stopped; what is left then is for the next one."""


@dataclass(frozen=True)
class Settings:
    """How a daemon runs.

    Attributes:
        trace: where steps go for which a recorder names no other place.
        tcp: the port on the loopback interface, with ``token``; None for the Unix socket alone.
        durable: whether each step is on the disk before it is told, so that it outlasts a power cut.
        tolerance: what pairs are judged by.
    """

    trace: Path
    tcp: int | None = None
    token: str = ""
    tolerance: Tolerance = field(default_factory=Tolerance)
    rules: Rules = field(default_factory=Rules)
    retention: Retention = field(default_factory=Retention)
    telling: Telling = field(default_factory=Telling)
    durable: bool = False


@dataclass
class _Pair:
    """Two recordings of one trace whose steps are compared as both have them."""

    last: dict[str, Any] | None = None
    compared: int = 0
    asked: set[int] = field(default_factory=set)


@dataclass
class _Other:
    """A client that records nothing: one that asks, or a watcher."""

    role: wire.Role
    heard: float = field(default_factory=time.monotonic)


class Daemon:
    """Serves until it is told to stop. Disk and comparing aside, all is done in the thread of :meth:`run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._began = time.time()
        self._context = zmq.Context()
        self._sessions: dict[bytes, Session] = {}
        self._others: dict[bytes, _Other] = {}
        self._pairs: dict[tuple[Path, str, str], _Pair] = {}
        self._events: deque[wire.Event] = deque(maxlen=1000)
        self._counts: Counter[str] = Counter()
        self._kept: dict[tuple[Path, str], Kept] = {}
        self._gone = 0
        self._teller = Teller(settings.telling)
        self._stopping = False
        self._inboxes: list[zmq.Socket[bytes]] = []
        self._inner = "inproc://tracer-out"
        self._local = threading.local()

    # -- serving -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve. Raises InputError where another daemon runs or the port is taken."""
        _keep_memory()
        with place.alone(), contextlib.ExitStack() as stack:
            stack.callback(self._context.destroy, 0)
            stack.enter_context(Door(self._context, self.settings.token))
            self._inboxes = [self._listening(place.address())]
            if self.settings.tcp is not None:
                self._inboxes.append(self._listening(f"tcp://127.0.0.1:{self.settings.tcp}", token=True))
            outbox = self._context.socket(zmq.PULL)
            outbox.set_hwm(0)
            outbox.bind(self._inner)
            poller = zmq.Poller()
            for socket in (*self._inboxes, outbox):
                poller.register(socket, zmq.POLLIN)
            self._looker = Looker(self._wake)
            stack.callback(self._looker.close)
            port = "" if self.settings.tcp is None else f" and 127.0.0.1:{self.settings.tcp}"
            log.info("listening at %s%s, writing %s", place.address(), port, self.settings.trace)
            self._look_at_the_rest()
            while not self._stopping:
                for socket, _ in poller.poll(_TURN):
                    if socket is outbox:
                        self._send(outbox)
                    else:
                        self._receive(self._inboxes.index(socket))
                self._look_around()
            for peer, session in list(self._sessions.items()):
                session.end("the daemon was stopped")
                self._tell(peer, wire.Fault(why="the daemon was stopped"))
            self._send(outbox)
            until = time.monotonic() + _LAST_LOOKS
            while len(self._looker) and time.monotonic() < until:
                outbox.poll(_TURN)
                self._send(outbox)
                self._looker.turn()
            self._send(outbox)
            left = len(self._looker)
            log.info("stopped%s", f"; {left} steps and pairs were not looked at" if left else "")

    def stop(self, *_: Any) -> None:
        """To be called from a signal handler, too."""
        self._stopping = True

    def _listening(self, address: str, *, token: bool = False) -> zmq.Socket[bytes]:
        """Raises InputError where the port is taken."""
        socket = self._context.socket(zmq.ROUTER)
        if token:
            socket.setsockopt(zmq.PLAIN_SERVER, 1)
        socket.setsockopt(zmq.LINGER, 200)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDTIMEO, 0)
        socket.setsockopt(zmq.RCVHWM, 16)
        socket.setsockopt(zmq.MAXMSGSIZE, max(wire.LARGEST_HEADER, wire.PIECE))
        socket.setsockopt(zmq.ZAP_DOMAIN, b"tracer")
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        before = os.umask(0o177)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise InputError(f"cannot listen at {address}: {error.strerror}") from error
        finally:
            os.umask(before)
        return socket

    def _receive(self, which: int) -> None:
        inbox = self._inboxes[which]
        # A turn's worth, so that answers are not kept waiting by a flood.
        for _ in range(64):
            try:
                frames: list[Any] = [inbox.recv(zmq.NOBLOCK)]
            except zmq.Again:
                return
            while inbox.getsockopt(zmq.RCVMORE):
                frames.append(inbox.recv(copy=len(frames) != 2))  # a tensor is used where it came in
            peer = bytes([which]) + frames[0]
            try:
                if not 2 <= len(frames) <= 3:
                    raise wire.WireError(f"a message of {len(frames) - 1} frames")
                payload = frames[2].buffer if len(frames) == 3 else memoryview(b"")
                self._take(peer, wire.decoded(frames[1]), payload)
            except Exception as error:  # whatever it is, it costs its sender the connection, and nobody else anything
                self._refuse(peer, str(error) if isinstance(error, TracerError) else described(error))

    def _refuse(self, peer: bytes, why: str) -> None:
        log.warning("refused: %s", display(why, 300))
        session = self._sessions.pop(peer, None)
        self._others.pop(peer, None)
        self._tell(peer, wire.fault(why))
        if session is not None:
            threading.Thread(target=session.end, args=(why,), daemon=True).start()

    def _take(self, peer: bytes, message: wire.Message, payload: memoryview) -> None:
        if isinstance(message, wire.Hello):
            self._greet(peer, message)
            return
        session = self._sessions.get(peer)
        if session is not None:
            session.take(message, payload)
            return
        other = self._others.get(peer)
        if other is None:
            raise wire.WireError("no greeting came first: is this a connection of before the daemon's start?")
        other.heard = time.monotonic()
        match message:
            case wire.Ping():
                self._tell(peer, message)
            case wire.Status():
                self._tell(peer, wire.Status(state=self.status()))
            case wire.Capture():
                self._tell(peer, self._capture(message))
            case wire.Stop():
                self._tell(peer, wire.Stop())
                self._stopping = True
            case _:
                raise wire.WireError(f"'{message.kind}' is not for a {other.role} to say")

    def _greet(self, peer: bytes, hello: wire.Hello) -> None:
        if hello.protocol != wire.PROTOCOL:
            raise wire.WireError(f"it speaks protocol {hello.protocol}, this daemon {wire.PROTOCOL}: use one version")
        if peer in self._sessions or peer in self._others:
            raise wire.WireError("a second greeting")
        if len(self._sessions) + len(self._others) >= _MOST:
            raise wire.WireError(f"{_MOST} clients are there already")
        if hello.trace is not None and peer[0]:
            raise wire.WireError("who comes over TCP records into the daemon's own trace")
        trace = Path(hello.trace) if hello.trace else self.settings.trace
        if hello.role == "recorder":
            self._sessions[peer] = Session(
                hello, trace, partial(self._tell, peer), self._committed, durable=self.settings.durable
            )
            self._looker.ready()
            log.info("recorder of process %s on %s", hello.pid, display(hello.host, 60))
        else:
            self._others[peer] = _Other(hello.role)
        self._tell(peer, wire.Welcome(version=version("tracer-nn"), pid=os.getpid(), trace=str(trace)))

    # -- answering, from any thread ----------------------------------------------------------------------------

    def _tell(self, peer: bytes, message: wire.Message) -> None:
        self._put(peer, wire.encoded(message))

    def _put(self, *frames: bytes) -> None:
        out = getattr(self._local, "out", None)
        if out is None:
            out = self._local.out = self._context.socket(zmq.PUSH)
            out.set_hwm(0)
            out.connect(self._inner)
        out.send_multipart(frames)

    def _wake(self) -> None:
        with contextlib.suppress(zmq.ZMQError):  # stopped meanwhile
            self._put(b"", b"")

    def _send(self, outbox: zmq.Socket[bytes]) -> None:
        while True:
            try:
                peer, frame = outbox.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if not peer:
                if frame:  # else something was looked at
                    self._happened(wire.decoded(frame))
                continue
            # One who is gone, or does not read, is not waited for.
            with contextlib.suppress(zmq.Again, zmq.ZMQError):
                self._inboxes[peer[0]].send_multipart([peer[1:], frame])

    # -- steps -------------------------------------------------------------------------------------------------

    def _committed(self, session: Session, step: int, ended: float) -> None:
        """In the session's thread."""
        assert session.name is not None
        assert session.writer is not None
        reference = session.writer.attributes.get("reference")
        said = {"trace": str(session.trace.root), "ended": ended, "reference": reference}
        if session.figures.steps == 1:  # they may have ended before this daemon's start
            others = session.trace.recordings()
            judging.begin_looking(session.trace.recording(session.name), step)
            said["candidates"] = [one.name for one in others if one.attributes.get("reference") == session.name]
        self._tell(b"", wire.Event(what="step", recording=session.name, step=step, time=time.time(), said=said))

    def _happened(self, event: wire.Message) -> None:
        assert isinstance(event, wire.Event)
        if event.what == "step":
            root = Path(event.said["trace"])
            if event.said["reference"] is not None:
                self._pairs.setdefault((root, event.said["reference"], event.recording), _Pair())
            for candidate in event.said.get("candidates", ()):
                self._pairs.setdefault((root, event.recording, candidate), _Pair())
            if self.settings.retention:
                with contextlib.suppress(TracerError, OSError):  # somebody removed it
                    self._kept_of(root, event.recording, event.step).added(event.step)
            self._look_at(root, event.recording, event.step)
            for (where, reference, candidate), pair in self._pairs.items():
                if where != root or event.recording not in (reference, candidate) or event.step in pair.asked:
                    continue
                # Asked of the trace: the other side may have ended, or been recorded before this daemon's start.
                other = candidate if event.recording == reference else reference
                if Trace(root).has_step(other, event.step):
                    pair.asked.add(event.step)
                    self._compare(root, reference, candidate, event.step, event.said["ended"])
            self._retain(root, event.recording)
        elif event.what != "compared":
            self._events.append(event)
            self._counts[event.what] += 1
            self._teller.tell(event.model_dump(exclude={"kind"}))
        for peer in self._watchers:
            self._tell(peer, event)

    @property
    def _watchers(self) -> list[bytes]:
        return [peer for peer, other in self._others.items() if other.role == "watcher"]

    def _look_around(self) -> None:
        now = time.monotonic()
        for peer, session in list(self._sessions.items()):
            if session.over or now - session.figures.heard > wire.GONE:
                del self._sessions[peer]
                silent = f"nothing was heard of it for {wire.GONE:.0f} s"
                why = session.fault or ("it has ended" if session.over else silent)
                left = f", {session.figures.left_out} steps due and not sent" if session.figures.left_out else ""
                log.info("recorder '%s' is gone: %s%s", display(session.name or "?", 60), display(why, 300), left)
                threading.Thread(target=session.end, args=(why,), daemon=True).start()
        for peer, other in list(self._others.items()):
            if now - other.heard > wire.GONE:
                del self._others[peer]
        self._looker.turn()

    def _look_at_the_rest(self) -> None:
        """What a daemon before wrote and did not come to look at."""
        with contextlib.suppress(TracerError, OSError):  # no trace yet, or none that can be used: said when it is
            root = self.settings.trace
            for recording in Trace.at(root).recordings():
                for step in judging.to_look_at(recording):
                    self._look_at(root, recording.name, step)

    def _look_at(self, root: Path, name: str, step: int) -> None:
        def done(found: Any) -> None:
            self._gone += found is None
            for told in found or ():
                self._tell_of(told["rule"], root, name, step, told["node"], told["what"])
            self._retain(root, name)

        rules = self.settings.rules.model_dump()
        self._looker.step(Task(root, (name,), step, judging.looked_at, (str(root), name, step, rules), done))

    def _compare(self, root: Path, reference: str, candidate: str, step: int, ended: float) -> None:
        sides = reference, candidate

        def done(found: Any) -> None:
            if "error" in found and not all(Trace(root).has_step(side, step) for side in sides):
                self._gone += 1
                return
            pair = self._pairs[root, reference, candidate]
            pair.compared += 1
            parted = found.pop("parted", None)
            pair.last = {key: value for key, value in found.items() if key != "pairs"}
            said = {**found, "trace": str(root), "delay": time.time() - ended}
            self._happened(wire.Event(what="compared", recording=candidate, step=step, time=time.time(), said=said))
            if parted and self.settings.rules.divergence:
                self._tell_of("divergence", root, candidate, step, found["first"], parted, *sides)
            for side in sides:
                self._retain(root, side)

        tolerance = self.settings.tolerance
        arguments = str(root), reference, candidate, step, tolerance.atol, tolerance.rtol
        self._looker.pair(Task(root, sides, step, judging.compared, arguments, done))

    def _tell_of(self, rule: str, root: Path, name: str, step: int, node: str, what: str, *sides: str) -> None:
        """An event of a recording's; its step stays, and that of other ``sides`` of it."""
        for side in {name, *sides}:
            if (root, side) in self._kept:
                self._kept[root, side].events.add(step)
        said = {"node": node, "what": what, "trace": str(root)}
        self._happened(wire.Event(what=rule, recording=name, step=step, time=time.time(), said=said))

    def _kept_of(self, root: Path, name: str, last: int) -> Kept:
        kept = self._kept.get((root, name))
        if kept is None:
            found = judging.lines(Trace(root).recording(name), judging.EVENTS)
            kept = self._kept[root, name] = Kept(
                root, name, last, {step for line in found if isinstance(step := line.get("step"), int)}
            )
        return kept

    def _retain(self, root: Path, name: str) -> None:
        kept = self._kept.get((root, name))
        if kept is None:
            return
        with contextlib.suppress(OSError):  # the next time, then
            kept.drop(self.settings.retention, self._looker.wanted(root, name))

    # -- what is asked -----------------------------------------------------------------------------------------

    def _capture(self, asked: wire.Capture) -> wire.Message:
        """Hand it to the recorders it is for, unless its patterns fit no layer of one of them."""
        found = {}
        for peer, session in self._sessions.items():
            name = session.name or session.hello.name
            if not name or session.over or not fnmatchcase(name, asked.recording):
                continue
            if session.structure is not None:  # else the recorder sees for itself, at its first step
                try:
                    wanted(session.structure, {}, asked.layers or (), asked.exclude or ())
                except InputError as error:
                    return wire.fault(f"'{display(name)}': {error}", last=False)
            found[peer] = name
        for peer in found:
            self._tell(peer, asked)
        return wire.Captured(recordings=sorted(found.values()))

    def status(self) -> dict[str, Any]:
        """What ``tracer daemon status`` prints."""
        now = time.monotonic()
        recorders = []
        for session in self._sessions.values():
            figures = session.figures
            seconds = max(1e-3, time.time() - figures.began)
            recorders.append(
                {
                    "recording": session.name, "asks_for": session.hello.name,
                    "trace": str(session.trace.root), "pid": session.hello.pid,
                    "host": session.hello.host, "steps": figures.steps, "last_step": figures.last_step,
                    "bytes": figures.nbytes, "messages": figures.messages, "mb_per_s": figures.nbytes / 1e6 / seconds,
                    "waiting": figures.waiting, "lag": figures.lag, "left_out": figures.left_out,
                    "silent": now - figures.heard,
                }
            )  # fmt: skip
        pairs = [
            {"reference": ours, "candidate": theirs, "trace": str(root), "compared": pair.compared, **pair.last}
            for (root, ours, theirs), pair in self._pairs.items()
            if pair.last is not None
        ]
        return {
            "version": version("tracer-nn"), "pid": os.getpid(), "since": self._began,
            "trace": str(self.settings.trace), "recorders": recorders, "pairs": pairs,
            "watchers": len(self._watchers), "to_look_at": len(self._looker),
            "not_looked_at": self._looker.left_out + self._gone, "events": dict(self._counts),
            "last_events": [event.model_dump() for event in list(self._events)[-20:]],
        }  # fmt: skip


def _keep_memory() -> None:
    """Have what is freed used again, in place of new pages from the system, which cost more than what is copied into
    them; what a daemon holds is bounded by what its connections may send (mallopt(3))."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_ARENAS, 1), (_MAPPED, 4 * wire.PIECE), (_TRIMMED, 4 * wire.WINDOW)):
            mallopt(parameter, value)
