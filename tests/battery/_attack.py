"""One attack: a folder with a file made to do harm, the commands that read it, and what they may not have done."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import cli
from tests.battery import Tally

Command = tuple[str, ...]
TRACE = "trace.zarr"
OUTPUTS = "out"
"""The folder in the working directory that commands are told to write to."""
SECRET = b"SECRET-5f1c9e2b7a"
"""What lies in a file that no model may read."""
MEMORY = 5 << 30
"""Bytes that a command may take at most beyond what importing the frameworks takes."""
LONGEST = 120.0
"""Seconds after which a command counts as hanging."""
_REFUSED = frozenset({2, 3})
_ANY = frozenset({0, 1, 2, 3, 4})


@dataclass(frozen=True)
class Place:
    """Where an attack happens: ``work`` is the working directory, ``outside`` nobody's to touch.

    Whoever connects to ``port`` of this machine, or makes ``marker``, has got out.
    """

    work: Path
    outside: Path
    port: int

    @property
    def marker(self) -> Path:
        return self.outside / "marker"

    @property
    def secret(self) -> Path:
        return self.outside / "secret"


@dataclass(frozen=True)
class Case:
    """An attack. ``make`` writes its files and gives the commands, which must fail if ``refused``, but with --trust."""

    group: str
    name: str
    make: Callable[[Place], Sequence[Command]]
    refused: bool = True


def loading(adapter: str, *words: str, trust: bool = True) -> list[Command]:
    """The commands that load a model file: recording it, looking at it, and recording it with ``--trust``."""
    record = ("record", adapter, *words, "--force")
    looking = [("inspect", "--adapter", adapter, *(word for word in words if word != "--samples"))]
    return [record, *looking, *([(*record, "--trust")] if trust else [])]


class Listener:
    """Counts who connects to a port of this machine."""

    def __init__(self) -> None:
        self.count = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._server.accept()[0].close()
                self.count += 1

    def close(self) -> None:
        self._server.close()


@contextmanager
def place(listener: Listener) -> Iterator[Place]:
    """A fresh place."""
    root = Path(tempfile.mkdtemp(prefix="battery-"))
    made = Place(root / "work", root / "outside", listener.port)
    made.work.mkdir()
    made.outside.mkdir()
    made.secret.write_bytes(SECRET * 4)
    try:
        yield made
    finally:
        shutil.rmtree(root)


def attack(case: Case, listener: Listener, tally: Tally) -> None:
    """Make the files of a case, run its commands, and count what became of them."""
    with place(listener) as where:
        for command in case.make(where):
            trusted = "--trust" in command
            codes = _ANY if trusted or not case.refused else _REFUSED
            fault, outcome = attempt(command, where, listener, codes)
            group = f"{case.group} --trust" if trusted else case.group
            if fault:
                tally.breaks(group, f"{case.name}: tracer {' '.join(command)}", fault)
            else:
                tally.add(group, outcome)


def attempt(command: Command, where: Place, listener: Listener, codes: frozenset[int] = _ANY) -> tuple[str, str]:
    """Run one command: what is wrong with how it went (empty: nothing), and what became of it."""
    before, connected, started = _snapshot(where), listener.count, time.monotonic()
    wrong = _trace_faults(where.work / TRACE)
    try:
        done = cli.run(*command, cwd=where.work, code=None)
    except AssertionError:
        return "it hangs", ""
    seconds = time.monotonic() - started
    said = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    last = said[-1][:300] if said else ""
    after = _snapshot(where)
    if where.marker.exists():
        return f"it ran code (exit {done.returncode}: {last})", ""
    if listener.count != connected:
        return "it opened a connection", ""
    if before != after:
        return f"files outside the trace changed: {sorted({*before.items()} ^ {*after.items()})[:4]}", ""
    if more := _trace_faults(where.work / TRACE) - wrong:
        return f"in the trace: {sorted(more)}", ""
    if _told(done.stdout + done.stderr):
        return "it printed what no model may read", ""
    if done.returncode not in codes:
        return f"exit {done.returncode}: {last}", ""
    # What a trace does not hold whole is said in the table.
    told = not said and done.stdout and command[0] not in ("record", "inspect")
    if done.returncode > 1 and not told and (len(said) != 1 or not last.startswith("tracer: ")):
        return f"not one line: {said[:6]}", ""
    if "Traceback (most" in done.stderr or "internal error" in last or "a bug of tracer" in last:
        return f"an exception that nobody foresaw: {last}", ""
    if done.peak > MEMORY + _base():
        return f"it took {done.peak / 2**30:.1f} GiB", ""
    if seconds > LONGEST:
        return f"it took {seconds:.0f} s", ""
    return "", "worked" if done.returncode < 2 else f"refused ({done.returncode})"


def _base() -> int:
    """Bytes of the process that the commands are forks of."""
    return cli.run("--version", cwd=Path("/"), code=None).peak


def _snapshot(where: Place) -> dict[str, tuple[int, int, str]]:
    """Mode, time of change and content of every file but those that commands are to write."""
    found = {}
    for top in (where.work, where.outside):
        for folder, folders, files in os.walk(top):
            if folder == str(where.work):
                folders[:] = [name for name in folders if name not in (TRACE, OUTPUTS)]
            for name in (*folders, *files):
                path = Path(folder) / name
                status = path.lstat()
                small = stat.S_ISREG(status.st_mode) and status.st_size < 1 << 22
                content = hashlib.sha256(path.read_bytes()).hexdigest() if small else str(status.st_size)
                changed = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
                found[str(path.relative_to(where.work.parent))] = status.st_mode, changed, content
    return found


def _told(text: str | bytes) -> bool:
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return any(pattern in raw for pattern in _PATTERNS)


_PATTERNS = (SECRET, np.frombuffer(SECRET, "u1").astype("f4").tobytes())


def _trace_faults(trace: Path) -> set[str]:
    """What lies in a trace that no command may put there: links, pipes, the secret."""
    found = set()
    for folder, folders, files in os.walk(trace):
        for name in (*folders, *files):
            path = Path(folder) / name
            status = path.lstat()
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
                found.add(f"{name} is no file")
            if stat.S_ISREG(status.st_mode) and status.st_size < 1 << 26 and _told(path.read_bytes()):
                found.add(f"{name} holds what no model may read")
    return found
