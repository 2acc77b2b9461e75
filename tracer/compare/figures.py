"""What is said of the differences of two tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from tracer.compare.envelope import Envelope
from tracer.compare.spread import Where
from tracer.compare.ulps import Ulps


@dataclass(frozen=True)
class NonFinite:
    """Elements that are no finite number, on each side."""

    nan_reference: int = 0
    nan_candidate: int = 0
    inf_reference: int = 0
    inf_candidate: int = 0


@dataclass(frozen=True)
class Stats:
    """Differences of a candidate's tensor from the reference's, in the reference's axes.

    NaN at the same place on both sides, and equal infinities, count as agreement; where only one side is finite, or
    the infinities differ, ``nonfinite`` counts the element, and the error figures leave it out.

    Attributes:
        size: number of elements.
        max_abs: greatest |reference − candidate|; ``argmax`` is its index in the reference's axes.
        mean_abs: mean of |reference − candidate|.
        rel_l2: ‖reference − candidate‖₂ / ‖reference‖₂ (infinite for a zero reference and another candidate).
        cosine: cosine similarity in double precision; None for a zero tensor.
        angle: 1 − cosine without the cancellation: exact where the cosine itself rounds to one; None as above.
        envelope: which tolerances pass.
        outside: elements outside the tolerance asked for; None where they were not counted for this one.
        reference_max: greatest |reference|.
        atol, rtol: the tolerance asked for, which ``outside`` and ``needed_rtol`` are about.
        nonfinite: elements that are finite, or infinite, on one side only.
        nonfinites: NaN and infinities of each side, whether they agree or not.
        worst: values of reference and candidate at ``argmax``.
        argmax_candidate: ``argmax`` in the candidate's own axes, where they are known.
        ulps: errors in units of the last place; None for whole numbers, equal tensors and a zero reference.
        zeros: elements that are zero on exactly one side, and the greatest magnitude of the other side there (a ReLU
            that opens on one side only).
        constant: the value that all elements of the reference, of the candidate, have; None where they vary.
        where: where the error sits; None where there is none.
    """

    size: int
    max_abs: float
    mean_abs: float
    rel_l2: float
    cosine: float | None
    argmax: tuple[int, ...] | None
    reference_max: float
    envelope: Envelope = field(default_factory=Envelope)
    outside: int | None = 0
    nonfinite: int = 0
    worst: tuple[float, float] | None = None
    atol: float = 0.0
    rtol: float = 0.0
    angle: float | None = None
    nonfinites: NonFinite = field(default_factory=NonFinite)
    argmax_candidate: tuple[int, ...] | None = None
    ulps: Ulps | None = None
    zeros: tuple[int, float] = (0, 0.0)
    constant: tuple[float | None, float | None] = (None, None)
    where: Where | None = None

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels, −20·log₁₀(rel_l2): infinite for equal tensors, None for a zero one."""
        if self.reference_max == 0 or not math.isfinite(self.rel_l2):
            return None
        return -20 * math.log10(self.rel_l2) if self.rel_l2 > 0 else math.inf

    @property
    def fraction_outside(self) -> float | None:
        """``outside`` as a share of all elements."""
        return None if self.outside is None else self.outside / max(1, self.size)

    @property
    def needed_rtol(self) -> float:
        """With the absolute tolerance asked for, the relative one that would be enough (maybe infinite)."""
        return self.envelope.rtol(self.atol)

    @property
    def blank(self) -> bool:
        """Whether both sides hold one value throughout, or nothing but NaN."""
        nan = self.nonfinites.nan_reference == self.nonfinites.nan_candidate == self.size
        return nan or None not in self.constant

    def passes(self, atol: float, rtol: float) -> bool:
        """Whether the tensors agree within a tolerance, |reference − candidate| ≤ ``atol`` + ``rtol``·|reference|,
        whichever was asked for."""
        return not self.nonfinite and self.sufficient_atol(rtol) <= atol

    def sufficient_atol(self, rtol: float) -> float:
        """The smallest absolute tolerance under which |reference − candidate| ≤ atol + rtol·|reference| holds for all
        finite elements."""
        return self.envelope.atol(rtol)

    def at(self, atol: float, rtol: float) -> Stats:
        """The same for ``atol`` and ``rtol``; ``outside`` is None where only the tensors could tell it."""
        if (atol, rtol) == (self.atol, self.rtol):
            return self
        outside = self.nonfinite if self.sufficient_atol(rtol) <= atol else None
        return replace(self, atol=atol, rtol=rtol, outside=outside)
