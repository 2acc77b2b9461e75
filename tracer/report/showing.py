"""A comparison from Python: opened where the program runs, or written as a page."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import InputError
from tracer.names import display
from tracer.weighing import writing

if TYPE_CHECKING:
    from tracer.compare import Diff

_ENDINGS = (".html", ".htm", "")


def show(diff: Diff) -> None:
    """Open a comparison: HTML in a notebook, the terminal interface in a terminal; else print it."""
    from tracer.report.html import shown

    if shown(diff):
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(diff)
        return
    # By name: what compares does not depend on a screen.
    ui = import_module("tracer.cli.ui")
    tolerance = diff.tolerance
    ui.run(
        diff.reference.root, diff.reference.name, diff.candidate.name, atol=tolerance.atol, rtol=tolerance.rtol,
        mapping=None, how=ui.Shown(),
    )  # fmt: skip


def check(path: Path, force: bool) -> None:
    """Raises InputError where a report cannot be written to ``path``: something is there, or the name is of no page."""
    if path.suffix.lower() not in _ENDINGS:
        raise InputError(f"{display(str(path))}: a report is a page of HTML, name a file that ends in .html")
    writing.check(path, force)


def write(diff: Diff, path: Path, *, force: bool = False, details: int = 10) -> Path:
    """Write the page to ``path`` and return it. Raises InputError, TraceError."""
    from tracer.report.html import gather
    from tracer.report.html.rendering import page

    check(path, force)
    content = page(gather(diff, details=details))
    writing.publish_text(content, path, force)
    return path
