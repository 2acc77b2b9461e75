"""A comparison from Python: opened where the program runs, or written as a page."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracer.compare import Diff


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


def write(diff: Diff, path: Path, *, force: bool = False, details: int = 10) -> Path:
    """Write the page to ``path`` and return it. Raises InputError, TraceError."""
    from tracer.report.html import gather
    from tracer.report.html.rendering import page
    from tracer.weighing import writing

    writing.check(path, force)
    content = page(gather(diff, details=details))
    writing.publish_text(content, path, force)
    return path
