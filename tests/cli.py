"""Running the command as a user does: in a process of its own."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

from tests.warm import Request

COMMAND = [sys.executable, "-c", "from tracer.cli.main import main; main()"]
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("TRACER_")},
    "PYTHONPATH": str(Path(__file__).parent.parent),
    "PYTHONUTF8": "1",
}
_TIMEOUT = 300


class Done(subprocess.CompletedProcess[str]):
    """A command that has ended.

    Attributes:
        peak: bytes of memory that it or its worker had at most; 0 where that was not looked at.
    """

    peak = 0


def run(*arguments: object, cwd: Path, code: int | None = 0, fresh: bool = False, **environment: str) -> Done:
    """Run ``tracer ARGUMENTS``; the exit code must be ``code`` (None: any).

    ``fresh``, or with an ``environment`` of its own, it is a new interpreter and so is its worker; else both are forks
    of a process that has imported the frameworks.
    """
    words = tuple(map(str, arguments))
    if fresh or environment:
        ended = subprocess.run(
            [*COMMAND, *words], cwd=cwd, capture_output=True, text=True, timeout=_TIMEOUT,
            stdin=subprocess.DEVNULL, env={**ENVIRONMENT, **environment},
        )  # fmt: skip
        done = Done(ended.args, ended.returncode, ended.stdout, ended.stderr)
    else:
        done = _forked(words, cwd)
    assert code is None or done.returncode == code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@cache
def _warm() -> Connection:
    """To the process of ``tests.warm``, which ends when we do."""
    ours, theirs = multiprocessing.Pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.warm import serve; serve()", str(theirs.fileno())],
        stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], env=ENVIRONMENT,
    )  # fmt: skip
    theirs.close()

    @atexit.register
    def end() -> None:
        ours.close()
        process.kill()
        process.wait()

    return ours


def ask(request: Request) -> tuple[int, int]:
    """Have a fork of the process that has imported the frameworks run a command: its exit code, and its peak."""
    wire = _warm()
    wire.send(request)
    try:
        assert wire.poll(_TIMEOUT), f"tracer {' '.join(request.arguments)} takes too long"
        code, peak = wire.recv()
    except BaseException:  # its answer is not to be taken for that of the next command
        _warm.cache_clear()
        raise
    return code, peak


def _forked(arguments: tuple[str, ...], cwd: Path) -> Done:
    with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
        code, peak = ask(Request(arguments, str(cwd), out.name, err.name))
        done = Done([*COMMAND, *arguments], code, out.read(), err.read())
        done.peak = peak
        return done


def refused(*arguments: object, cwd: Path, code: int = 2, says: str, **environment: str) -> str:
    """A command that fails as it should: one line on stderr that holds ``says``, nothing on stdout."""
    done = run(*arguments, cwd=cwd, code=code, fresh=False, **environment)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("tracer: ")
    assert says in lines[0], lines[0]
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    return lines[0]
