"""Work in forks of this process, which must have no other threads: what they say, and how they end."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.battery._disk import Disk
from tracer.cli.main import run
from tracer.errors import TracerError
from tracer.store import packed

Mark = Callable[[str], None]
"""Told what is promised from now on."""
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where files cost little."""
REFUSED, RAISED = 10, 11
"""Exit codes: a TracerError, anything else."""
_HANGS = 120


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative: a signal), what it said, what it had promised, and the count and log
    of its :class:`Disk`."""

    code: int
    said: str
    marks: list[str]
    count: int
    log: tuple[Any, ...]


def forked(
    *works: Callable[[Mark], None], disk: Disk | None = None, killed_after: float | None = None,
    largest: int | None = None,
) -> list[Ended]:  # fmt: skip
    """Run each in a child, all at once.

    Args:
        disk: has their storage calls fail.
        killed_after: seconds.
        largest: bytes that a file may have.
    """
    packed._threads.cache_clear()  # a fork has none of them
    with tempfile.TemporaryDirectory(prefix="tracer-battery-", dir=MEMORY) as name:
        notes = [Path(name, str(number)) for number in range(len(works))]
        children = []
        for work, folder in zip(works, notes, strict=True):
            folder.mkdir()
            children.append(os.fork())
            if not children[-1]:
                _work(work, disk, largest, folder)
        if killed_after is not None:
            time.sleep(killed_after)
            for child in children:
                os.kill(child, signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return [_ended(code, folder) for code, folder in zip(codes, notes, strict=True)]


def _ended(code: int, folder: Path) -> Ended:
    texts = [path.read_text() if path.exists() else "" for path in (folder / "said", folder / "marks")]
    log = folder / "log"
    count, entries = pickle.loads(raw) if log.exists() and (raw := log.read_bytes()) else (0, ())
    return Ended(code, texts[0], texts[1].splitlines(), count, entries)


def _work(work: Callable[[Mark], None], disk: Disk | None, largest: int | None, notes: Path) -> NoReturn:
    code, told = 0, ""
    try:
        gc.disable()
        signal.alarm(_HANGS)
        warnings.simplefilter("ignore")
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        files = [os.open(notes / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("marks", "said", "log")]

        def mark(what: str) -> None:
            os.write(files[0], f"{what}\n".encode())
            if disk is not None:
                disk.mark(what)

        if disk is not None:
            disk.watch()
        if largest is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
        try:
            work(mark)
        except TracerError as error:
            code, told = REFUSED, str(error)
        except BaseException:
            code, told = RAISED, traceback.format_exc()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.write(files[1], told.encode(errors="replace"))
        if disk is not None:
            os.write(files[2], pickle.dumps((disk.count, tuple(disk.log))))
    finally:
        os._exit(code)


def said(*arguments: str) -> tuple[int, str]:
    """A command in this process: its exit code, and what it printed on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(list(arguments))
    return code, err.getvalue()
