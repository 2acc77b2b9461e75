"""Two recordings of many steps, compared step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.compare.verdict import Tolerance
from tracer.errors import ExitCode, InputError
from tracer.live import judging
from tracer.names import display
from tracer.report import words
from tracer.report.outline import columns
from tracer.selection import common, of_steps
from tracer.store import Recording

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = "tracer-steps/1"
_SHOWN = 40


@dataclass(frozen=True)
class Steps:
    """How two recordings of many steps compare: ``str(s)`` is what ``tracer steps`` prints, ``bool(s)`` says that every
    step agrees.

    Attributes:
        reference, candidate: the whole recordings; ``reference.at(step)`` is one step.
        found: what was found at each step that both have, in order: ``step``, ``verdict``, ``first`` (the aligned name
            of the first divergence, or None), ``first_error`` (its relative L2 error), ``pairs`` (the error of each);
            ``error`` instead where the step could not be compared.
    """

    reference: Recording
    candidate: Recording
    found: tuple[dict[str, Any], ...]

    @property
    def parted(self) -> tuple[dict[str, Any], ...]:
        """The steps at which something diverges."""
        return tuple(one for one in self.found if one.get("first"))

    @property
    def first(self) -> int | None:
        """The number of the first step at which something diverges; None where none does."""
        return self.parted[0]["step"] if self.parted else None

    def exit_code(self) -> ExitCode:
        """As the command's: 1 where they part, 3 where no step could be compared."""
        if all("error" in one for one in self.found):
            return ExitCode.PARTIAL
        return ExitCode.DIVERGED if self.parted else ExitCode.OK

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def __str__(self) -> str:
        return "\n".join(self.lines(None))

    def lines(self, width: int | None) -> Iterator[str]:
        """What the command prints, in at most ``width`` columns; None for as many as it takes."""
        sides = f"{display(self.reference.name)} ⇄ {display(self.candidate.name)}"
        yield f"{sides}   {words.count(len(self.found), 'step')} in both"
        if self.parted:
            first = self.parted[0]
            yield f"✗ they part at step {first['step']}, first at {display(first['first'])}"
        else:
            yield "✓ every step agrees"
        rows = [["step", "verdict", "first divergence", "relative error"]]
        for one in self.telling:
            error = one.get("first_error")
            said = display(str(one.get("error") or one["verdict"]), 60)
            rows.append(
                [str(one["step"]), said, display(one.get("first") or ""), "" if error is None else f"{error:.1e}"]
            )
        yield from columns(rows, width=width, right=frozenset((0, 3)))

    @property
    def telling(self) -> list[dict[str, Any]]:
        """All steps; of many those around the first that parts, and others evenly."""
        found = list(self.found)
        if len(found) <= _SHOWN:
            return found
        first = next((at for at, one in enumerate(found) if one.get("first")), 0)
        keep = {0, len(found) - 1, *range(max(0, first - 2), min(len(found), first + 3))}
        keep |= {round(at * (len(found) - 1) / (_SHOWN - 8)) for at in range(_SHOWN - 7)}
        return [found[at] for at in sorted(keep)]

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer steps --json``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "steps": list(self.found),
        }

    def to_pandas(self) -> DataFrame:
        """One row a step, with the columns of ``tracer steps --format csv``. Raises MissingFrameworkError without
        pandas."""
        from tracer.exporting.frames import frame

        return frame(self.to_json())


def compare(
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance,
    steps: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Steps:
    """Compare every step that both have, or the given ones; what a daemon compared already is not compared again.

    Raises InputError for recordings of one run, and where no step is in both.
    """
    for side in (reference, candidate):
        if not of_steps(side):
            raise InputError(f"'{display(side.name)}' is one run, not a recording of many steps: tracer diff")
    both = common(reference, candidate) if steps is None else steps
    if not both:
        raise InputError(f"no step is in both '{display(reference.name)}' and '{display(candidate.name)}'")
    bars: dict[str, Any] = {"atol": tolerance.atol, "rtol": tolerance.rtol}
    known = {
        one.get("step"): one
        for one in judging.lines(candidate, judging.COMPARED)
        if one.get("reference") == reference.name and {key: one.get(key) for key in bars} == bars
    }
    found = []
    for done, step in enumerate(both):
        if progress is not None:
            progress(done, len(both))
        names = str(reference.root), reference.name, candidate.name
        found.append(known.get(step) or judging.compared(*names, step, **bars))
    return Steps(reference, candidate, tuple(found))
