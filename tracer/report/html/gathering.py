"""What a report tells of: a comparison with everything that is known beside it."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import TracerError, said
from tracer.live import judging
from tracer.report import steps as series
from tracer.report.rows import Row, rows_of
from tracer.report.steps import Overview
from tracer.selection import of_steps
from tracer.store import Recording, Step

if TYPE_CHECKING:
    from tracer.causes.explain import Explained
    from tracer.compare import Diff
    from tracer.weighing.table import WeightTable

Progress = Callable[[int, int], None]

WITHIN = 10.0
"""Seconds for causes that were not found before."""
_STEPS = 5.0
"""Seconds for steps that were not compared before."""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        explained: None where causes were not looked for.
        weights: or, in words, why they are not shown.
        steps: of recordings of many steps.
        commands: a label and a line to paste, each.
        details: layers that are shown with their tensors, at most.
    """

    diff: Diff
    rows: tuple[Row, ...]
    explained: Explained | None
    weights: WeightTable | str
    steps: Overview | None
    commands: tuple[tuple[str, str], ...]
    details: int
    made: float


def gather(
    diff: Diff,
    *,
    trace: str | None = None,
    within: float = WITHIN,
    weights: bool = True,
    details: int = 10,
    explained: Explained | None = None,
    looking: Progress | None = None,
    weighing: Progress | None = None,
) -> Report:
    """Look for what the comparison does not hold yet.

    Args:
        trace: where the trace lies, as it stands in the commands; by default where it was opened.
        within: seconds for causes in all; what was found before is taken as it is. 0 for none.
        weights: whether the weights are compared, which reads them all.
        explained: what was found of the same comparison.
        looking, weighing: take how many pairs or parameters are done, and how many there are.
    """
    from tracer.causes.kept import attached
    from tracer.causes.kept import explained as explain

    notes: list[str] = []
    if explained is None and within > 0 and diff.pairs and diff.of == "values":
        try:
            explained = explain(diff, within=within, progress=looking)
        except TracerError as error:
            notes.append(f"the causes could not be looked for ({error})")
    if explained is not None:
        diff = attached(diff, explained)
    if notes:
        from dataclasses import replace

        diff = replace(diff, notes=(*diff.notes, *notes))
    return Report(
        diff, tuple(rows_of(diff)), explained, _weights(diff, weights, weighing), _steps(diff),
        tuple(_commands(diff, trace)), details, time.time(),
    )  # fmt: skip


def _weights(diff: Diff, wanted: bool, progress: Progress | None) -> WeightTable | str:
    if not wanted:
        return "not compared, as asked"
    from tracer.weighing.table import compare

    try:
        return compare(diff.reference, diff.candidate, alignment=diff.alignment, progress=progress)
    except TracerError as error:
        return str(error)
    except (ValueError, OSError) as error:
        return said(error)


def _steps(diff: Diff) -> Overview | None:
    """What the steps have come to, where both are recordings of many; those not compared yet, evenly, while time is."""
    sides = [_whole(side) for side in (diff.reference, diff.candidate)]
    if not all(of_steps(side) for side in sides):
        return None
    found = series.overview(sides[0], sides[1])
    more: list[dict[str, Any]] = []
    end = time.monotonic() + _STEPS
    for step in _evenly([step for step in found.both if step not in set(found.steps)]):
        if time.monotonic() > end:
            break
        tolerance = {"atol": diff.tolerance.atol, "rtol": diff.tolerance.rtol}
        more.append(judging.compared(str(sides[0].root), sides[0].name, sides[1].name, step, **tolerance))
    return series.overview(sides[0], sides[1], more) if more else found


def _whole(recording: Recording) -> Recording:
    """The recording that a step is of."""
    if not isinstance(recording, Step):
        return recording
    from tracer.store import Trace

    return Trace.open(recording.root).recording(recording.of)


def _evenly(steps: Sequence[int]) -> list[int]:
    """The same steps in an order that is spread over all of them wherever it is cut off: the ends, the middle, …"""
    found: dict[int, None] = dict.fromkeys(steps[-1:])
    parts = 1
    while len(found) < len(steps):
        found.update(
            dict.fromkeys(steps[min(len(steps) - 1, math.floor(at * len(steps) / parts))] for at in range(parts))
        )
        parts *= 2
    return list(found)


def _commands(diff: Diff, trace: str | None) -> list[tuple[str, str]]:
    names = " ".join(shlex.quote(side.name) for side in (diff.reference, diff.candidate))
    place = str(diff.reference.root) if trace is None else trace
    option = "" if Path(place) == Path("trace.zarr") else f" --trace {shlex.quote(place)}"
    commands = [("Look at it in the terminal", f"tracer ui {names}{option}")]
    if diff.first is not None:
        commands.append(("Make the fixes and see what is left", f"tracer explain {names} --verify{option}"))
    return commands
