"""What is set once for a whole command: the consoles, and how it speaks."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.names import display

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_TRACE = Path("trace.zarr")
debug = False


@cache
def out() -> Console:
    """Standard output: data. Wide when it is no terminal, so that nothing is cut in a file or pipe."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else 400, highlight=False, markup=False, emoji=False, soft_wrap=True)


@cache
def err() -> Console:
    """Standard error: narration."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def ascii_only(flag: bool) -> bool:
    """Whether to keep to ASCII: asked for, or the terminal's encoding has nothing else."""
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return flag or bool(os.environ.get("TRACER_ASCII")) or not encoding.startswith("utf")


def say(text: str) -> None:
    """A line of narration on stderr; whatever it quotes is made fit for a screen here."""
    from rich.text import Text

    err().print(Text(display(text)))


def trace_option(trace: Path) -> str:
    """The ``--trace`` that a suggested command needs, with a space before it; empty for the one it takes without."""
    return (
        "" if trace == Path(os.environ.get("TRACER_TRACE") or DEFAULT_TRACE) else f" --trace {shlex.quote(str(trace))}"
    )


def hint(text: str) -> None:
    """The next command worth typing; only for a person at a terminal."""
    if sys.stderr.isatty():
        from rich.text import Text

        err().print(Text(display(f"next: {text}"), style="dim"))


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with an estimate of the time left, on a terminal, once a second has passed.

    Yields a function that takes the number done and the total.
    """
    import time

    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=err(), transient=True)
    task = bar.add_task(label, total=None)
    began = time.monotonic()
    started = False

    def show(done: int, total: int) -> None:
        nonlocal started
        bar.update(task, completed=done, total=total or None)
        if not started and time.monotonic() - began > 1.0:
            bar.start()
            started = True

    try:
        yield show
    finally:
        if started:
            bar.stop()


def check_free(path: Path, force: bool) -> None:
    """Raises InputError where a file that the user named may not be written: before the work, not after it."""
    from tracer.weighing import writing

    writing.check(path, force)


def write_text(path: Path, content: str, force: bool) -> None:
    """Write a file that the user named, whole or not at all.

    Raises InputError where it may not be written, TraceError where the disk fails.
    """
    from tracer.weighing import writing

    writing.check(path, force)
    writing.publish_text(content, path, force)
