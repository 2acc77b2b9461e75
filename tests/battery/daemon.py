"""The daemon among clients that are hostile, broken or too many: it stays up, and honest ones lose nothing.

While each group runs an honest recorder sends steps; afterwards they read back bit for bit, the daemon answers, its
memory has stayed bounded, and its log is text. Group ``messages``: real messages that are changed, cut, repeated, put
in another order, or made up; ``sockets``: bytes that are no messages, connections that say nothing, are slow, or are
very many; ``ends``: clients that die in the middle, other users, wrong tokens; ``full disk``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import zmq

import tracer
from tests.battery import Tally
from tests.live_driving import daemon, status, until
from tracer.graph import Node, Structure
from tracer.live import place, wire
from tracer.live.destination import Opening
from tracer.live.remote import Away, Connection, Remote, connect

_MESSAGES = 10_000
_MEMORY = 900 << 20
"""Bytes that the daemon's process may take: what its connections may send at most, and the interpreter."""
_STRUCTURE = Structure((Node("x", "input", "input", "input", (), (2, 3), "float32"),), ("x",))


@cache
def _port() -> int:
    """A free one."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def run(seed: int, cases: int | None) -> Tally:
    """``cases``: how many messages are made up."""
    tally = Tally()
    draw = random.Random(seed)
    count = _MESSAGES if cases is None else cases
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with daemon(Path(folder) / "t.zarr", "--port", str(_port())) as where, _Honest(tally) as honest:
            attacks: dict[str, Callable[[], None]] = {
                "messages": lambda: _messages(draw, count, where, tally),
                "sockets": lambda: _sockets(draw, min(count, 400), where, tally),
                "ends": lambda: _ends(draw, where, tally),
            }
            for group, attack in attacks.items():
                attack()
                honest.answers(group, where)
                if place.running() is None:
                    return tally
        _full_disk(Path(folder) / "full.zarr", tally)
    return tally


class _Honest:
    """Records steps all the while, and compares what was kept with what it sent."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._sent: dict[int, np.ndarray[Any, Any]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.fault = ""

    def _send(self) -> None:
        draw = np.random.default_rng(0)
        try:
            remote = Remote()
            remote.open(Opening("honest", _STRUCTURE, {"framework": "pytorch", "mode": "train"}))
            step = 0
            while not self._over.wait(0.02):
                values = draw.standard_normal((2, 3)).astype(np.float32)
                remote.begin(step)
                remote.put("value", "", "x", values)
                remote.commit(time.time())
                self._sent[step] = values
                step += 1
            left_out = remote.left_out + remote.not_begun
            remote.close()
            if left_out:
                self.fault = f"{left_out} steps could not be sent"
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"

    def __enter__(self) -> _Honest:
        self._thread.start()
        until(lambda: self._sent or self.fault)
        return self

    def answers(self, group: str, where: Path) -> None:
        """After an attack: it answers, and takes no more memory than it may."""
        try:
            pid = status()["pid"]
            kept = int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) << 10
        except Exception as error:
            self._tally.breaks(group, "afterwards", f"it does not answer: {error}; its log ends {_log(where)[-500:]!r}")
            return
        if kept > _MEMORY:
            self._tally.breaks(group, "afterwards", f"it took {kept >> 20} MB")
        elif not _log(where).isprintable():
            self._tally.breaks(group, "afterwards", "its log holds what is no text")
        elif self.fault:
            self._tally.breaks(group, "afterwards", f"the honest recorder: {self.fault}")
        else:
            self._tally.add(group, "it answers afterwards, with little memory")

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self.fault or place.running() is None:
            self._tally.breaks("honest", "recorder", self.fault or "there is no daemon any more")
            return
        trace = tracer.open(status()["trace"])
        kept = trace.recording("honest")
        lost = [step for step, values in self._sent.items() if step not in kept.steps or
                not np.array_equal(kept.at(step).read("x"), values)]  # fmt: skip
        if lost or kept.state != "complete":
            self._tally.breaks("honest", f"{len(self._sent)} steps", f"{len(lost)} are lost; it is {kept.state}")
        else:
            self._tally.outcomes["honest", "steps that read back bit for bit"] += len(self._sent)


def _log(where: Path) -> str:
    return "".join(path.read_text(errors="surrogateescape") for path in where.glob("*.log")).replace("\n", "")


# -- messages --------------------------------------------------------------------------------------------------------


class _Rude:
    """A client that says what it likes, of whatever role."""

    def __init__(self, where: Path) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDTIMEO, 5000), (zmq.RECONNECT_IVL, -1)):
            self.socket.setsockopt(option, value)
        self.socket.connect(f"ipc://{where}/daemon.sock")

    def refused(self, milliseconds: int) -> bool:
        """Whether it was told that no more is taken from it."""
        while self.socket.poll(milliseconds):
            found = wire.decoded(self.socket.recv())
            if isinstance(found, wire.Fault):
                return True
            milliseconds = 0
        return False

    def close(self) -> None:
        self._context.destroy(0)


def _real() -> list[list[bytes]]:
    """What a recorder sends, message by message, and what others ask."""
    four = np.arange(1, dtype=np.float32).tobytes()
    put: dict[str, Any] = {"part": "value", "name": "x", "dtype": "float32", "shape": [1]}
    made: list[tuple[wire.Message, bytes]] = [
        (wire.Open(name="rude", numbered=True, structure=_STRUCTURE.to_json(), attributes={"framework": "x"}), b""),
        (wire.Begin(step=1), b""), (wire.Put(**put), four), (wire.Puts(puts=[wire.Put(**put)]), four),
        (wire.More(), four), (wire.Skip(part="value", name="x", why="so"), b""),
        (wire.Statistics(name="x", dtype="float32", shape=[1], summary={"min": 0.0}), b""),
        (wire.Commit(step=1, ended=0.0), b""), (wire.Ping(left_out=3), b""), (wire.Close(), b""),
        (wire.Status(), b""), (wire.Capture(recording="nobody", on=True, layers=["*"]), b""),
        (wire.Ack(messages=1, nbytes=1), b""), (wire.Fault(why="so"), b""),
        (wire.Welcome(version="", pid=0, trace=""), b""), (wire.Opened(name="x"), b""),
        (wire.Captured(recordings=["x"]), b""),
        (wire.Event(what="step", recording="x", step=1, time=0.0, said={"trace": "/", "reference": "y"}), b""),
    ]  # fmt: skip
    return [[wire.encoded(message), *([payload] if payload else [])] for message, payload in made]


_ODD: list[Any] = [
    None, True, -1, 0, 1 << 62, 1 << 64, 10**400, 1e308, float("nan"), float("inf"), "", "x" * 70_000, "\0", "\x1b[31m",
    "../..", "/etc", "\u202e", [], [[]], {}, {"x": {}}, [0] * 3000, {str(i): i for i in range(3000)}, ["value"],
    "float8_e4m3fn", "object",
]  # fmt: skip


def _changed(draw: random.Random, frames: list[bytes]) -> list[bytes]:
    """A message with something wrong, or put together otherwise."""
    head, rest = frames[0], frames[1:]
    way = draw.randrange(10)
    if way == 0:  # bits
        raw = bytearray(head)
        for _ in range(draw.randint(1, 4)):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return [bytes(raw), *rest]
    if way == 1:  # cut, or twice
        return [head[: draw.randrange(len(head) + 1)] if draw.random() < 0.7 else head * 2, *rest]
    if way in (2, 3, 4):  # another value, another name of a field, one more, one less
        message = json.loads(head)
        key = draw.choice(sorted(message))
        if way == 2:
            message[key] = draw.choice(_ODD)
        elif way == 3:
            message[draw.choice(["x" * 100_000, "", "\ud800", "__class__", "kind "])] = message.pop(key)
        else:
            message.setdefault("more", draw.choice(_ODD)) if draw.random() < 0.5 else message.pop(key)
        return [json.dumps(message).encode(), *rest]
    if way == 5:  # a lie about what lies behind it
        return [head, draw.randbytes(draw.choice([0, 1, 3, 5, 8, 4096, 1 << 20]))]
    if way == 6:  # deep, or long
        deep = draw.choice([100, 10_000, 200_000])
        return [draw.choice([b"[" * deep, b'{"a":' * deep, b"[" * deep + b"]" * deep, b'"' + b"x" * deep])]
    if way == 7:  # other frames
        return [head] * draw.choice([3, 4, 40])
    if way == 8:
        return [draw.randbytes(draw.randrange(200))]
    nested: Any = 0
    for _ in range(draw.choice([20, 150, 900])):
        nested = draw.choice([[nested], {"nodes": nested}])
    return [json.dumps({**json.loads(head), draw.choice(["structure", "attributes", "said"]): nested}).encode(), *rest]


def _messages(draw: random.Random, count: int, where: Path, tally: Tally) -> None:
    """In conversations of some messages, most of them begun as they should be."""
    real, sent = _real(), 0
    kept: list[list[bytes]] = []
    while sent < count:
        rude = _Rude(where)
        try:
            role: wire.Role = draw.choice(["recorder", "recorder", "recorder", "control", "watcher"])
            begun = [[wire.encoded(wire.Hello(protocol=wire.PROTOCOL, role=role, pid=1, host="h"))]]
            if role == "recorder":
                begun += real[: draw.randint(0, 3)]
            script = begun if draw.random() < 0.9 else []
            script += [
                draw.choice(kept) if kept and draw.random() < 0.1 else _changed(draw, draw.choice(real))
                for _ in range(draw.randint(1, 12))
            ]
            for frames in script:
                if any(b'"stop"' in frame for frame in frames):  # what may stop it is not an attack
                    continue
                with contextlib.suppress(zmq.Again):
                    rude.socket.send_multipart(frames)
                kept = [*kept[-50:], frames]
                sent += 1
            tally.outcomes[
                "messages", "refused, with a reason" if rude.refused(300) else "taken, or without effect"
            ] += len(script)
        except wire.WireError as error:
            tally.breaks("messages", f"after {sent}", f"the daemon's answer is no message: {error}")
        finally:
            rude.close()
        if place.running() is None:
            tally.breaks("messages", f"after {sent}: {script[-3:]!r:.300}", "the daemon has ended")
            return


# -- sockets ---------------------------------------------------------------------------------------------------------


def _raw(where: Path, *, tcp: bool) -> socket.socket:
    if tcp:
        return socket.create_connection(("127.0.0.1", _port()), timeout=5)
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(5)
    made.connect(f"{where}/daemon.sock")
    return made


_GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + bytes(48)
"""How ZMTP begins (https://rfc.zeromq.org/spec/23/)."""


def _sockets(draw: random.Random, count: int, where: Path, tally: Tally) -> None:
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for number in range(count):
            tcp = number % 3 == 0
            with contextlib.suppress(OSError):
                made = stack.enter_context(contextlib.closing(_raw(where, tcp=tcp)))
                way = draw.randrange(6)
                if way == 0:
                    made.sendall(draw.randbytes(draw.randrange(1, 300)))
                elif way == 1:
                    made.sendall(_GREETING[: draw.randrange(len(_GREETING))])
                elif way == 2:
                    made.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + bytes(20))
                elif way == 3:  # a frame of 2^62 bytes
                    made.sendall(_GREETING + b"\x02" + (1 << 62).to_bytes(8, "big") + draw.randbytes(64))
                elif way == 4:
                    made.sendall(_GREETING + b"\x04\x26\x05READY" + draw.randbytes(31))
                if draw.random() < 0.3:
                    made.close()
                else:
                    held.append(made)
            tally.outcomes["sockets", "over TCP" if tcp else "over the Unix socket"] += 1
        for made in held[:20]:  # slowly
            with contextlib.suppress(OSError):
                made.sendall(b"\xff")
        if not _asks():
            tally.breaks("sockets", f"{len(held)} held open", "others are not answered")
        else:
            tally.add("sockets", "others are answered while hundreds are held open")
    clients = [_Rude(where) for _ in range(min(count, 150))]
    try:
        hello = wire.encoded(wire.Hello(protocol=wire.PROTOCOL, role="recorder"))
        for client in clients:
            with contextlib.suppress(zmq.Again):
                client.socket.send_multipart([hello])
            tally.outcomes["sockets", "recorders that say nothing more"] += 1
        if not _asks():
            tally.breaks("sockets", "many recorders", "others are not answered")
    finally:
        for client in clients:
            client.close()
    flood = _Rude(where)
    try:
        put = wire.encoded(wire.Put(part="value", name="x", dtype="uint8", shape=[wire.PIECE]))
        for frames in ([hello], *_real()[:2], *[[put, bytes(wire.PIECE)]] * 64):
            with contextlib.suppress(zmq.Again):
                flood.socket.send_multipart(frames, copy=False)
        refused = flood.refused(1000)
        if _asks():
            tally.add("sockets", "a flood is refused" if refused else "a flood is written as it comes")
        else:
            tally.breaks("sockets", "flood", "others are not answered")
    finally:
        flood.close()


def _asks() -> bool:
    for _ in range(3):  # a busy machine may be late once
        with contextlib.suppress(Away, wire.WireError):
            return bool(status()["pid"])
    return False


# -- ends ------------------------------------------------------------------------------------------------------------

_DIES = """
import os, sys
import numpy as np
from tests.battery.daemon import _STRUCTURE
from tracer.live.destination import Opening
from tracer.live.remote import Remote
remote = Remote()
remote.open(Opening(sys.argv[1], _STRUCTURE, {"framework": "pytorch", "mode": "train"}))
for step in range(4):
    remote.begin(step)
    remote.put("value", "", "x", np.full((2, 3), step, np.float32))
    if step < 3:
        remote.commit(0.0)
remote._send_gathered()
remote._listen(2)
os.kill(os.getpid(), 9)
"""


def _ends(draw: random.Random, where: Path, tally: Tally) -> None:
    subprocess.run([sys.executable, "-c", _DIES, "killed"], timeout=120, check=False)
    trace = status()["trace"]
    try:
        until(lambda: tracer.open(trace).recording("killed").steps == (0, 1, 2), 30)
        tally.add("ends", "killed in the middle of a step: the others stay")
    except (AssertionError, tracer.TracerError) as error:
        tally.breaks("ends", "killed client", str(error))
    token = (where / "token").read_text()
    for number in range(6):
        guess = "".join(draw.choices("0123456789abcdef", k=len(token))) if number else token[:-1]
        try:
            connect("control", address=f"tcp://127.0.0.1:{_port()}", token=guess, seconds=2).close()
            tally.breaks("ends", "a wrong token", "it is let in")
        except (Away, wire.WireError):
            tally.add("ends", "a wrong token is not let in")
    try:
        Connection("recorder", f"tcp://127.0.0.1:{_port()}", token, "/tmp/elsewhere.zarr", 5).close()
        tally.breaks("ends", "over TCP", "another trace than the daemon's")
    except wire.WireError:
        tally.add("ends", "over TCP the daemon's own trace alone")
    if os.geteuid() == 0:
        code = f"import os, socket; os.setuid(65534); socket.socket(socket.AF_UNIX).connect('{where}/daemon.sock')"
        done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, check=False)
        if b"PermissionError" in done.stderr:
            tally.add("ends", "another user does not reach it")
        else:
            tally.breaks("ends", "another user", done.stderr.decode()[-200:])


@contextlib.contextmanager
def _file_size(most: int) -> Iterator[None]:
    """Of the files of processes that are started inside."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _full_disk(trace: Path, tally: Tally) -> None:
    """Files of the daemon may not be larger than a megabyte: as on a disk that is full, the step that does not fit is
    refused; what came before stays, and what comes after in a recording that fits."""
    with contextlib.ExitStack() as stack:
        with _file_size(1 << 20):
            stack.enter_context(daemon(trace))
        remote = Remote()
        remote.open(Opening("large", _STRUCTURE, {"framework": "pytorch", "mode": "train"}))
        said = ""
        try:
            for step, rows in enumerate((10, 10, 1 << 20, 10)):
                remote.begin(step)
                remote.put("value", "", "x", np.full((rows, 3), step, np.float32))
                remote.commit(0.0)
                remote.idle()
                time.sleep(0.3)
            remote.close()
        except tracer.TracerError as error:
            said = str(error)
        if "cannot write" not in said:
            tally.breaks("full disk", "large step", f"not told: {said!r}")
        else:
            tally.add("full disk", "the recorder is told why")
        if not _asks() or tracer.open(trace).recording("large").steps != (0, 1):
            tally.breaks("full disk", "steps before", "lost")
        else:
            tally.add("full disk", "the steps before stay")
        small = Remote()
        small.open(Opening("small", _STRUCTURE, {"framework": "pytorch", "mode": "train"}))
        small.begin(0)
        small.put("value", "", "x", np.ones((2, 3), np.float32))
        small.commit(0.0)
        small.close()
        if tracer.open(trace).recording("small").steps == (0,):
            tally.add("full disk", "the next recording is whole")
        else:
            tally.breaks("full disk", "the next recording", "lost")
