"""What a graft says: the outputs before and after, and which defects they differ by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tracer.alignment import Pair
from tracer.compare import Diff, PairDiff, Tolerance
from tracer.errors import ExitCode
from tracer.rerun.graft import Off, Output, explained
from tracer.store import Recording

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = "tracer-graft/1"
Side = Literal["reference", "candidate"]


@dataclass(frozen=True)
class _Result:
    """What is known of the outputs, before anything was changed and after.

    Attributes:
        outputs: those that both models have, with what passes there.
        before, after: how far each is from the other model's recorded one.
        runs: how often models were run for it.
        notes: sentences about what could not be done.
    """

    reference: Recording
    candidate: Recording
    tolerance: Tolerance
    outputs: tuple[Output, ...]
    before: tuple[Off, ...]
    after: tuple[Off, ...]
    runs: int
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the outputs were within the tolerance as they were recorded."""
        return all(output.passes(off) for output, off in zip(self.outputs, self.before, strict=True))

    @property
    def agreed(self) -> bool:
        """Whether the outputs agreed as they were recorded, within the tolerance or up to rounding."""
        return self._agree(self.before)

    @property
    def agrees(self) -> bool:
        """Whether they agree now, within the tolerance or up to rounding."""
        return self._agree(self.after)

    def _agree(self, offs: Sequence[Off]) -> bool:
        return all(output.agrees(off) for output, off in zip(self.outputs, offs, strict=True))

    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.agrees else ExitCode.DIVERGED

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def _to_json(self) -> dict[str, Any]:
        rows = zip(self.outputs, self.before, self.after, strict=True)
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "tolerance": {"atol": self.tolerance.atol, "rtol": self.tolerance.rtol},
            "agreed": self.agreed,
            "agrees": self.agrees,
            "outputs": [
                {
                    "name": output.name,
                    "before": _figures(before),
                    "after": _figures(after),
                    "changed": _finite(after.changed),
                }
                for output, before, after in rows
            ],
            "explained": None if self.passed else _finite(explained(self.after)),
            "runs": self.runs,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Graft(_Result):
    """One model run on from the other's activations. ``bool(g)`` is true when the outputs agree then.

    Attributes:
        pairs: where they were put in.
        into: the model that ran.
        changed: by how much that changed each tensor (relative L2).
        reordered: aligned names whose values were put in in the order of the model that runs, which what reads them
            expects.
    """

    pairs: tuple[Pair, ...]
    into: Side
    changed: tuple[float, ...]
    reordered: tuple[str, ...]

    @property
    def grows(self) -> float | None:
        """Relative change of the outputs per relative change of the one tensor; None where there are several."""
        return growth(self.after, self.changed[0]) if len(self.changed) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer graft --at … --json``."""
        at = [
            {
                "aligned": pair.aligned,
                "reference": list(pair.reference),
                "candidate": list(pair.candidate),
                "changed": _finite(changed),
            }
            for pair, changed in zip(self.pairs, self.changed, strict=True)
        ]
        reordered = list(self.reordered)
        return {
            **self._to_json(), "into": self.into, "at": at, "reordered": reordered, "grows": _finite(self.grows)
        }  # fmt: skip

    def __str__(self) -> str:
        from tracer.report.graft import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self)


@dataclass(frozen=True)
class Defect:
    """Pairs that diverge on their own and are repaired together: one, all calls of a layer, or all with one mistake.

    Attributes:
        pairs: the pairs.
        settings: what differs in each of several layers, in words.
        alone: share of the outputs' difference that goes when this is repaired alone.
        last: share that goes when this is repaired after all others.
        grows: relative change of the outputs per relative change of the layer's result, when it is repaired alone.
    """

    pairs: tuple[PairDiff, ...]
    settings: str = ""
    alone: float | None = None
    last: float | None = None
    grows: float | None = None

    @property
    def explains(self) -> float | None:
        """Its share of the outputs' difference: the mean of both, so that what it shares with another is halved."""
        known = [share for share in (self.alone, self.last) if share is not None]
        return sum(known) / len(known) if known else None

    @property
    def error(self) -> float:
        """The largest local error of its pairs, in units of the largest value; infinite where the shape differs."""
        locals_ = [pair.local for pair in self.pairs if pair.local is not None]
        return max((local.relative(local.error) for local in locals_), default=math.nan)

    @property
    def interacts(self) -> bool:
        """Whether its share depends on which others are repaired."""
        return self.alone is not None and self.last is not None and abs(self.alone - self.last) > 0.1


@dataclass(frozen=True)
class Explanation(_Result):
    """Which defects the outputs' difference comes from. ``bool(e)`` is true when repairing all of them removes it.

    Attributes:
        diff: the comparison that found them, with local errors.
        defects: the largest share first.
        enough: the smallest set found that brings the outputs within the tolerance or up to rounding, as positions in
            ``defects``; None where all together do not.
        left_out: defects whose shares were not looked for, being too many; they stay in the candidate.
    """

    diff: Diff
    defects: tuple[Defect, ...]
    enough: tuple[int, ...] | None
    left_out: tuple[Defect, ...]

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer graft --json``."""
        defects = [
            {
                "pairs": [pair.aligned for pair in d.pairs],
                "settings": d.settings,
                "local": _finite(d.error),
                "explains": _finite(d.explains),
                "alone": _finite(d.alone),
                "last": _finite(d.last),
                "grows": _finite(d.grows),
            }
            for d in self.defects
        ]
        enough = None if self.enough is None else list(self.enough)
        left_out = [pair.aligned for d in self.left_out for pair in d.pairs]
        return {**self._to_json(), "defects": defects, "enough": enough, "left_out": left_out}

    def to_pandas(self) -> DataFrame:
        """One row a defect, with the columns of ``tracer graft --format csv``. Raises
        MissingFrameworkError without pandas."""
        from tracer.exporting.frames import frame

        return frame(self.to_json())

    def __str__(self) -> str:
        from tracer.report.graft import plain

        return plain(self)

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self)


def _figures(off: Off) -> dict[str, Any]:
    return {
        "max_abs": _finite(off.max_abs), "rel_l2": _finite(off.rel_l2), "outside": off.outside, "size": off.size,
        "argmax": None if off.argmax is None else list(off.argmax),
        "shape": None if off.shape is None else list(off.shape),
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def growth(outputs: Sequence[Off], changed: float) -> float | None:
    """Relative change of the outputs per relative change of a tensor; None where it did not change."""
    moved = [off.changed for off in outputs if math.isfinite(off.changed)]
    return max(moved) / changed if moved and 0 < changed < math.inf else None
