"""A pair of nodes and what its values say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from tracer.alignment import Pair
from tracer.alignment.features import Apart
from tracer.causes.finding import Finding
from tracer.compare.local import Local
from tracer.compare.stats import Stats
from tracer.compare.verdict import Tolerance, Verdict
from tracer.configuration import Difference
from tracer.graph import Node
from tracer.names import display

AWAITED = "it is about to be compared"
"""The obstacle of a pair whose turn has not come in a comparison that is under way."""


@dataclass(frozen=True)
class PairDiff:
    """A pair and what its values say.

    Attributes:
        shape: the reference's shape.
        inherited: largest relative L2 error among the nearest paired inputs; None when there are none.
        obstacle: why there are no statistics; empty where there are.
        saved: whether both tensors could be read, whatever their shapes.
        sorted: statistics of the values without their order, where no order of the axes makes the shapes equal and both
            may hold the same ones.
        ordered: statistics under the pair's arrangement, where the tensors disagree as they are.
        reordered: whether they agree under it: both hold the same values in another order.
        between: nodes of the reference and of the candidate that compute something, have no twin, and lie between the
            nearest pairs above and this one: a difference may be theirs.
        floor: estimated relative rounding error at this depth.
        tolerance: the one that applied here, with ``note`` saying why where it was not the general one.
        left_out: whether a tensor is missing because the user did not want it.
        apart: where only statistics were recorded, how far apart the tensors are at least.
        coarsest: the coarser of the two element types that were computed with.
        stored_rounding: relative rounding added by storing a tensor at less than its own precision.
        masked: whether both tensors hold values that only say that something is masked.
        masked_once: whether one of them does.
        undone: whether what reads it takes the difference back, as computed from what lies above it; None where that
            was not asked.
        local: what running the candidate again on the reference's activations said; None where that was not done.
        accepted: why a difference over the general tolerance is let pass: a person's tolerance or a baseline.
        content: agreement of the order-free numbers of both tensors, 1 for the same values in whatever order.
        settings: what its layers are set to differently.
        finding: why it parts, where that was looked for.
    """

    pair: Pair
    node: Node
    candidate_node: Node
    shape: tuple[int, ...] | None
    stats: Stats | None
    verdict: Verdict
    reason: str
    inherited: float | None
    floor: float
    tolerance: Tolerance
    note: str = ""
    content: float | None = None
    masked: bool = False
    masked_once: bool = False
    undone: bool | None = None
    obstacle: str = ""
    saved: bool = True
    sorted: Stats | None = None
    ordered: Stats | None = None
    reordered: bool = False
    between: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    left_out: bool = False
    apart: Apart | None = None
    coarsest: str = "float32"
    stored_rounding: float = 0.0
    local: Local | None = None
    accepted: str = ""
    settings: tuple[Difference, ...] = ()
    finding: Finding | None = None

    def __repr__(self) -> str:
        """One line: what is in it would fill pages."""
        far = f", max_abs {self.stats.max_abs:.3g}" if self.stats is not None else ""
        sides = " ⇄ ".join(" + ".join(map(display, names)) for names in (self.pair.reference, self.pair.candidate))
        return f"<PairDiff {sides}: {self.verdict}{far}>"

    @property
    def aligned(self) -> str:
        """The reference's name, of several nodes the last one's."""
        return self.pair.aligned

    @property
    def cause(self) -> str | None:
        """The id of the cause, of several joined by ``+``; ``unknown``; None where none was looked for."""
        return None if self.finding is None else self.finding.cause

    @property
    def fix(self) -> str:
        """What to change, a line for each cause; empty where that is not known."""
        return "" if self.finding is None else "\n".join(self.finding.fixes)

    @property
    def compared(self) -> bool:
        """Whether values were compared: those recorded, or those of its layer run again."""
        return self.stats is not None or (self.local is not None and self.local.known)

    @property
    def awaited(self) -> bool:
        """Whether it is still to be compared."""
        return self.obstacle == AWAITED

    def counted(self) -> PairDiff:
        """The same with the statistics said for the pair's own tolerance."""
        both = [s and s.at(self.tolerance.atol, self.tolerance.rtol) for s in (self.stats, self.ordered)]
        if both[0] is self.stats and both[1] is self.ordered:
            return self
        return replace(self, stats=both[0], ordered=both[1])

    def to_json(self) -> dict[str, Any]:
        """As a pair of ``tracer diff --json``."""
        s = self.stats
        local = self.local if self.local is not None and self.local.known else None
        return {
            **self.pair.to_json(),
            "operation": {"reference": self.node.label, "candidate": self.candidate_node.label},
            "shape": None if self.shape is None else list(self.shape),
            "max_abs": None if s is None else s.max_abs,
            "mean_abs": None if s is None else s.mean_abs,
            "rel_l2": None if s is None else _finite(s.rel_l2),
            "cosine": None if s is None else s.cosine,
            "argmax": None if s is None or s.argmax is None else list(s.argmax),
            "outside": None if s is None else s.outside,
            "inherited": _finite(self.inherited),
            "local": _finite(local.relative(local.error)) if local is not None else None,
            "floor": self.floor if local is None else local.relative(local.floor),
            "between": {"reference": list(self.between[0]), "candidate": list(self.between[1])},
            "verdict": str(self.verdict),
            "reason": self.reason,
            "accepted": self.accepted,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
