"""A daemon of a test's own, and programs that record into it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tracer.cli.main import run
from tracer.live import place, wire
from tracer.live.remote import connect

ROOT = Path(__file__).parent.parent


def at_once(call: Callable[[int], object], sizes: Sequence[int], times: int) -> None:
    """Call so many times with each size, each in a thread of its own; they begin together."""
    begun = threading.Barrier(len(sizes))

    def serve(size: int) -> None:
        begun.wait()
        for _ in range(times):
            call(size)

    threads = [threading.Thread(target=serve, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextmanager
def daemon(trace: Path, *arguments: str) -> Iterator[Path]:
    """Started by its command; its folder. Short, for a socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="tracer-") as folder:
        before = os.environ.get(place.FOLDER)
        os.environ[place.FOLDER] = str(Path(folder) / "run")
        try:
            assert run(["daemon", "start", "--trace", str(trace), *arguments]) == 0
            yield Path(folder) / "run"
        finally:
            if place.running() is not None:
                run(["daemon", "stop"])
            if before is None:
                del os.environ[place.FOLDER]
            else:
                os.environ[place.FOLDER] = before


def program(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python program that runs beside the test."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def status() -> dict[str, Any]:
    connection = connect("control")
    try:
        answer = connection.ask(wire.Status())
    finally:
        connection.close()
    assert isinstance(answer, wire.Status)
    assert answer.state is not None
    return answer.state


def until(holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until it is true, and give it."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found
