"""``tracer steps``: at which step two recordings of many steps part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.text import Text

from tracer.cli import settings
from tracer.compare.verdict import Tolerance
from tracer.errors import ExitCode, TraceError
from tracer.live import judging
from tracer.names import display
from tracer.report import words
from tracer.report.outline import columns
from tracer.selection import pair_of_series
from tracer.store import Recording, Trace

_SHOWN = 40


def steps(path: Path, reference: str | None, candidate: str | None, *, atol: float, rtol: float, as_json: bool) -> int:
    """Compare every step that both have; what a daemon compared already is not compared again."""
    trace = Trace.open(path)
    ours, theirs, both = pair_of_series(trace, reference, candidate)
    found = _compared(trace.root, ours, theirs, both, Tolerance(atol, rtol))
    parted = [one for one in found if one.get("first")]
    if as_json:
        said = {"schema": "tracer-steps/1", "reference": ours.name, "candidate": theirs.name, "steps": found}
        settings.out().print(json.dumps(said, allow_nan=False))
    else:
        _print(ours, theirs, found, parted)
        option = settings.trace_option(path)
        if parted:
            at = parted[0]["step"]
            settings.hint(f"tracer explain {ours.name}@{at} {theirs.name}@{at}{option}")
    if all("error" in one for one in found):
        raise TraceError(f"no step could be compared: {found[0]['error']}")
    return ExitCode.DIVERGED if parted else ExitCode.OK


def _compared(
    path: Path, ours: Recording, theirs: Recording, both: list[int], tolerance: Tolerance
) -> list[dict[str, Any]]:
    bars = {"atol": tolerance.atol, "rtol": tolerance.rtol}
    known = {
        one.get("step"): one
        for one in judging.lines(theirs, judging.COMPARED)
        if one.get("reference") == ours.name and {key: one.get(key) for key in bars} == bars
    }
    found = []
    with settings.progress("comparing") as progress:
        for done, step in enumerate(both):
            progress(done, len(both))
            found.append(known.get(step) or judging.compared(str(path), ours.name, theirs.name, step, **bars))
    return found


def _print(ours: Recording, theirs: Recording, found: list[dict[str, Any]], parted: list[dict[str, Any]]) -> None:
    out = settings.out()
    out.print(Text(f"{display(ours.name)} ⇄ {display(theirs.name)}   {words.count(len(found), 'step')} in both"))
    if parted:
        first = parted[0]
        out.print(Text(f"✗ they part at step {first['step']}, first at {display(first['first'])}"))
    else:
        out.print(Text("✓ every step agrees"))
    shown = found if len(found) <= _SHOWN else _telling(found)
    rows = [["step", "verdict", "first divergence", "relative error"]]
    for one in shown:
        error = one.get("first_error")
        rows.append(
            [
                str(one["step"]), display(str(one.get("error") or one["verdict"]), 60), display(one.get("first") or ""),
                "" if error is None else f"{error:.1e}",
            ]
        )  # fmt: skip
    for line in columns(rows, width=out.width, right=frozenset((0, 3))):
        out.print(Text(line))
    if len(shown) < len(found):
        settings.say(f"{len(shown)} of {len(found)} steps are shown: --json has them all")


def _telling(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps around the first that parts, and others evenly."""
    first = next((at for at, one in enumerate(found) if one.get("first")), 0)
    keep = {0, len(found) - 1, *range(max(0, first - 2), min(len(found), first + 3))}
    keep |= {round(at * (len(found) - 1) / (_SHOWN - 8)) for at in range(_SHOWN - 7)}
    return [found[at] for at in sorted(keep)]
