"""``tracer ui``: hand over to the terminal interface."""

from __future__ import annotations

from pathlib import Path


def run(
    trace: Path,
    reference: str | None,
    candidate: str | None,
    *,
    atol: float,
    rtol: float,
    mapping: Path | None,
    ascii_only: bool,
) -> int:
    """Open the interface; everything that can be wrong with the arguments is said before the screen is taken.

    Raises InputError.
    """
    import sys

    from tracer.alignment.mapping import load
    from tracer.cli import settings
    from tracer.compare import Tolerance
    from tracer.errors import InputError
    from tracer.selection import choose
    from tracer.store import Trace

    opened = Trace.open(trace)
    file = load(mapping) if mapping is not None else None
    names = None
    if reference is not None:
        chosen = choose(opened, reference, candidate)
        names = (chosen[0].name, chosen[1].name)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("tracer ui needs a terminal; tracer diff prints the same comparison")
    from tracer_tui import run as run_tui

    return run_tui(opened, names, Tolerance(atol, rtol), file, ascii_only=settings.ascii_only(ascii_only))
