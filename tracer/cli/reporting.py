"""``tracer report``: a comparison as one HTML file."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from tracer.alignment import mapping as mappings
from tracer.causes.explain import Explained
from tracer.causes.kept import explained
from tracer.cli import explaining, formatting, settings
from tracer.cli.rerunning import Again
from tracer.compare import Diff, Tolerance, baseline, diff
from tracer.compare.spreading import threads
from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.report import html, showing
from tracer.report.html.rendering import page
from tracer.report.words import bytes_text
from tracer.rerun.verifying import verify as verified
from tracer.selection import choose
from tracer.store import Trace

STDOUT = Path("-")


@dataclass(frozen=True)
class Wanted:
    """What is to be in the report, as typed.

    Attributes:
        out: the file to write; :data:`STDOUT` for standard output.
        seconds: for causes that were not found before.
        local, verify: how models are run again for either; None where they are not.
        details: layers that are shown with their tensors, at most.
    """

    out: Path
    force: bool
    tolerance: Tolerance
    mapping: Path | None
    gradients: bool
    baseline: Path | None
    strict: bool
    seconds: float
    weights: bool
    details: int
    local: Again | None
    verify: Again | None


def report(path: Path, reference: str | None, candidate: str | None, wanted: Wanted) -> int:
    """Compare, look for causes, and write the page; the exit code is the comparison's verdict.

    Raises InputError where the file is in the way, and as ``tracer diff`` does.
    """
    if wanted.gradients and (wanted.local or wanted.verify):
        raise InputError("--local and --verify are about values: leave --gradients out")
    if wanted.out != STDOUT:
        showing.check(wanted.out, wanted.force)
    compared = _compared(path, reference, candidate, wanted)
    if not compared.pairs:
        names = (display(side.name) for side in (compared.reference, compared.candidate))
        raise TraceError("'{}' and '{}' have no layer in common to compare".format(*names))
    found = _explained(compared, wanted)
    with settings.progress("comparing weights") as progress:
        made = html.gather(
            compared, trace=str(path), within=0.0, weights=wanted.weights, details=wanted.details, explained=found,
            weighing=progress,
        )  # fmt: skip
    content = page(made)
    if wanted.out == STDOUT:
        formatting.raw(content)
    else:
        settings.write_text(wanted.out, content, wanted.force)
        settings.say(f"wrote {wanted.out} ({bytes_text(len(content.encode()))})")
    option = settings.trace_option(path)
    settings.hint(
        f"open {wanted.out} in a browser   or   tracer ui{option}" if wanted.out != STDOUT else f"tracer ui{option}"
    )
    return compared.exit_code(strict=wanted.strict)


def _compared(path: Path, reference: str | None, candidate: str | None, wanted: Wanted) -> Diff:
    ours, theirs = choose(Trace.open(path), reference, candidate)
    known = baseline.load(wanted.baseline) if wanted.baseline is not None else None
    mapping = None if wanted.mapping is None else mappings.load(wanted.mapping)
    with contextlib.ExitStack() as stack:
        # Running again shows a progress of its own.
        progress = stack.enter_context(settings.progress("comparing")) if wanted.local is None else None
        spread = stack.enter_context(threads((ours, theirs)))
        return diff(
            ours, theirs, wanted.tolerance, mapping=mapping, of="gradients" if wanted.gradients else "values",
            progress=progress, measure=wanted.local, baseline=known, spread=spread,
        )  # fmt: skip


def _explained(compared: Diff, wanted: Wanted) -> Explained | None:
    if wanted.gradients or (wanted.seconds <= 0 and wanted.verify is None):
        return None
    with settings.progress("looking for causes") as progress:
        found = explained(compared, within=wanted.seconds, progress=progress)
    if wanted.verify is None:
        return found
    return replace(found, verified=verified(found, explaining.changing(wanted.verify, compared.candidate)))
