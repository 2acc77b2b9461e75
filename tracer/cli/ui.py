"""``tracer ui``: hand over to the terminal interface."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracer.errors import InputError


@dataclass(frozen=True)
class Shown:
    """How the interface appears.

    Attributes:
        picture: an SVG file to draw instead of opening it, ``size`` (``120x40``) large, after ``press`` was pressed.
        web: serve it to a browser, on ``port``.
    """

    ascii_only: bool = False
    picture: Path | None = None
    size: str = "120x40"
    press: str = ""
    force: bool = False
    web: bool = False
    port: int = 8008


def run(
    trace: Path,
    reference: str | None,
    candidate: str | None,
    *,
    atol: float | None,
    rtol: float | None,
    mapping: Path | None,
    how: Shown,
) -> int:
    """Open the interface; everything that can be wrong with the arguments is said before the screen is taken.

    Raises InputError.
    """
    import tracer_tui
    from tracer.cli import configured, settings
    from tracer.compare import Tolerance
    from tracer.selection import choose, of_steps
    from tracer.store import Trace

    opened = Trace.open(trace)
    file = None
    if mapping is not None:
        from tracer.alignment.mapping import load

        file = load(mapping)
    names = None
    if reference is not None:
        chosen = choose(opened, reference, candidate)
        names = (chosen[0].name, chosen[1].name)
        if candidate is not None and all(of_steps(opened.recording(name)) for name in (reference, candidate)):
            names = (reference, candidate)  # all of their steps
    size = _size(how.size)
    table, where = configured.table("ui", "keys")
    keys = tracer_tui.parse_keys(table, where)
    tolerance = None
    if atol is not None or rtol is not None:
        usual = Tolerance()
        tolerance = Tolerance(usual.atol if atol is None else atol, usual.rtol if rtol is None else rtol)
    if how.web:
        return _serve(how.port)
    if how.picture is not None:
        settings.check_free(how.picture, how.force)
    elif not (sys.stdin.isatty() and sys.stdout.isatty()) and "TEXTUAL_DRIVER" not in os.environ:
        raise InputError("tracer ui needs a terminal; tracer diff prints the same comparison, --screenshot draws it")
    kept = None
    if how.picture is None:
        from tracer_tui.remembering import folder

        kept = folder()
    session = tracer_tui.visit(
        opened,
        names,
        tolerance,
        file,
        mapping_file=mapping,
        ascii_only=how.ascii_only if how.picture is not None else settings.ascii_only(how.ascii_only),
        keys=keys,
        kept=kept,
    )
    if how.picture is None:
        return tracer_tui.run(session, kept=kept)
    settings.write_text(how.picture, tracer_tui.draw(session, size, how.press.split()), how.force)
    settings.say(f"wrote {how.picture}")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,4})[x×](\d{1,4})", text)
    columns, lines = (int(found[1]), int(found[2])) if found else (0, 0)
    if not (20 <= columns <= 1000 and 5 <= lines <= 500):
        raise InputError(f"--size takes columns and lines such as 120x40, not '{text}'")
    return columns, lines


def _serve(port: int) -> int:
    import tracer_tui
    from tracer.cli import settings

    if "TEXTUAL_DRIVER" in os.environ:
        raise InputError("--web cannot be served from within a browser")
    try:
        tracer_tui.serve(_without_web(sys.argv[1:]), port, settings.say)
    except ImportError:
        raise InputError("--web needs textual-serve: pip install 'tracer-nn[web]'") from None
    except OSError as error:
        raise InputError(f"cannot serve on port {port}: {error.strerror or error} (choose another --port)") from error
    return 0


def _without_web(arguments: Sequence[str]) -> list[str]:
    """The arguments for the interface that a page runs."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--port":
            next(rest, None)
        elif argument != "--web" and not argument.startswith("--port="):
            kept.append(argument)
    return kept
