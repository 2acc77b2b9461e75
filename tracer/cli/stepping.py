"""``tracer steps``: at which step two recordings of many steps part."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from tracer.cli import formatting, settings
from tracer.cli.formatting import DiffFormat
from tracer.compare.verdict import Tolerance
from tracer.errors import ExitCode, TraceError
from tracer.live.serial import compare
from tracer.selection import pair_of_series
from tracer.store import Trace


def steps(
    path: Path,
    reference: str | None,
    candidate: str | None,
    *,
    atol: float,
    rtol: float,
    form: DiffFormat = "table",
) -> int:
    """Compare every step that both have; what a daemon compared already is not compared again."""
    ours, theirs, both = pair_of_series(Trace.open(path), reference, candidate)
    with settings.progress("comparing") as progress:
        found = compare(ours, theirs, Tolerance(atol, rtol), both, progress)
    if form != "table":
        formatting.write(found.to_json(), form)
    else:
        for line in found.lines(settings.out().width):
            settings.out().print(Text(line))
        if len(found.telling) < len(found.found):
            settings.say(f"{len(found.telling)} of {len(found.found)} steps are shown: --json has them all")
        if found.first is not None:
            option = settings.trace_option(path)
            settings.hint(f"tracer explain {ours.name}@{found.first} {theirs.name}@{found.first}{option}")
    if found.exit_code() is ExitCode.PARTIAL:
        raise TraceError(f"no step could be compared: {found.found[0]['error']}")
    return found.exit_code()
