"""The terminal interface of tracer. Importing this costs nothing: Textual is loaded when the interface opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping
    from tracer.compare import Tolerance
    from tracer.store import Trace


def run(
    trace: Trace,
    names: tuple[str, str] | None,
    tolerance: Tolerance,
    mapping: Mapping | None,
    *,
    ascii_only: bool,
) -> int:
    """Open the interface on a trace and stay until the user leaves; the exit code.

    Args:
        names: reference and candidate to compare at once; None for the two that :func:`tracer.selection.choose`
            would take. Where there are not two, the list of recordings opens.
        tolerance: to begin with.
        mapping: a mapping file's content that applies to every comparison.
        ascii_only: draw with ASCII characters alone.
    """
    from tracer_tui.app import TracerApp
    from tracer_tui.session import Session

    return TracerApp(Session(trace, names, tolerance, mapping, ascii_only=ascii_only)).run() or 0


__all__ = ["run"]
