"""The terminal interface of tracer. Importing this costs nothing: Textual is loaded when the interface opens."""

from __future__ import annotations

from collections.abc import Mapping as Table
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping
    from tracer.compare import Tolerance
    from tracer.store import Trace
    from tracer_tui.actions import Keymap
    from tracer_tui.session import Session


def parse_keys(table: Table[str, Any], where: str) -> Keymap:
    """Keys of the user's own choice from a table of settings. Raises InputError, naming ``where``."""
    from tracer_tui.keymap import parse

    return parse(table, where)


def visit(
    trace: Trace,
    names: tuple[str, str] | None,
    tolerance: Tolerance | None,
    mapping: Mapping | None,
    *,
    mapping_file: Path | None = None,
    ascii_only: bool = False,
    keys: Keymap | None = None,
    kept: Path | None = None,
) -> Session:
    """A visit of a trace.

    Args:
        names: reference and candidate to compare at once; None for the two that :func:`tracer.selection.choose`
            would take. Where there are not two, the list of recordings opens.
        tolerance: to begin with; None for the one of the last visit, or the usual one.
        mapping: a mapping file's content that applies to every comparison, ``mapping_file`` where it lies.
        ascii_only: draw with ASCII characters alone.
        keys: of the user's own choice.
        kept: the folder where the user's place in every trace is kept; None to neither look there nor keep anything.
    """
    from tracer.compare import Tolerance as Usual
    from tracer_tui import remembering
    from tracer_tui.session import Session

    place = remembering.load(trace.root, kept) if kept is not None else remembering.Place()
    return Session(
        trace,
        names,
        tolerance or place.tolerance or Usual(),
        mapping,
        mapping_file,
        ascii_only=ascii_only,
        keymap=keys or {},
        place=place,
    )


def run(session: Session, *, kept: Path | None) -> int:
    """Open the interface and stay until the user leaves; the exit code. The place is kept in the folder ``kept``."""
    from tracer_tui import remembering
    from tracer_tui.app import TracerApp

    try:
        return TracerApp(session).run() or 0
    finally:
        if kept is not None:
            session.place.tolerance = session.tolerance
            remembering.save(session.trace.root, session.place, kept)


def draw(session: Session, size: tuple[int, int], keys: Sequence[str] = ()) -> str:
    """The first screen as SVG, ``size`` columns and lines, after ``keys`` were pressed."""
    from tracer_tui import drawing

    return drawing.picture(session, size, keys)


def serve(arguments: Sequence[str], port: int, say: Any) -> None:
    """Serve the interface to a browser on this machine. Raises ImportError without textual-serve, OSError for a port
    that is taken."""
    from tracer_tui.web import serve as served

    served(arguments, port, say)


__all__ = ["draw", "parse_keys", "run", "serve", "visit"]
