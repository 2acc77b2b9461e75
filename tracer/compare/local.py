"""What a layer adds itself: its own error on the reference's inputs, and the rounding that excuses it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tracer.alignment.axes import Axes

if TYPE_CHECKING:
    from tracer.alignment import Alignment
    from tracer.store import Recording

BOTH = "float64 on both sides"
CANDIDATE = "the candidate in float64"
REFERENCE = "the reference in float64"
NEITHER = "neither side in float64"
AS_COMPUTED = "each in its own precision, which settles it"
ENOUGH = "the candidate in float64, which settles it"


@dataclass(frozen=True)
class Local:
    """What came of running a pair's candidate again on the reference's own activations.

    All errors are the largest absolute ones, in units of the pair's tensor.

    Attributes:
        error: |reference − candidate| on the same inputs; infinite where the shapes or what is finite differ. Of a side
            that is in float64 as ``basis`` says, rounding is no part of it.
        scale: the largest |reference| that is no mask.
        rounding_reference, rounding_candidate: how far each side's own arithmetic is from float64; None where it was
            not run in float64, or where what was stored had been rounded further.
        epsilon: unit roundoff of the coarser arithmetic in use.
        basis: which sides ran in float64.
        argmax: where the error is largest, in the reference's axes.
        shape: the shape that the candidate gave, in the reference's axes where its own axes are known; None where it is
            the reference's.
        reordered: whether the values agree in another order only.
        unexpected: whether what reads them wants the reference's order.
        axes: those under which the values agree, where the alignment had left them open and held others for likelier.
        sensitivity: how much it moves when its inputs are off by one roundoff; known only where one side rounds far
            more than the other, and of errors in models that are in float64 themselves.
        coarse: whether one side rounds far more than the other and than this explains.
        why: why there are no figures; empty where there are.
    """

    error: float = math.nan
    scale: float = 0.0
    rounding_reference: float | None = None
    rounding_candidate: float | None = None
    epsilon: float = 0.0
    basis: str = NEITHER
    argmax: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    reordered: bool = False
    unexpected: bool = False
    axes: Axes | None = None
    sensitivity: float | None = None
    coarse: bool = False
    why: str = ""

    @property
    def known(self) -> bool:
        return not self.why

    @property
    def floor(self) -> float:
        """The error that rounding explains, as measured: see :data:`SAFETY`."""
        measured = [r for r in (self.rounding_reference, self.rounding_candidate) if r is not None]
        if self.finest and self.sensitivity is not None:
            measured.append(self.sensitivity)
        factor = SAFETY if self.basis in (BOTH, AS_COMPUTED, ENOUGH) and not self.finest else UNMEASURED
        return max([factor * r for r in measured] + [factor * self.epsilon * self.scale])

    @property
    def finest(self) -> bool:
        """Whether both sides are in float64 themselves, so that their rounding is part of every error."""
        return 0 < self.epsilon <= _FINEST

    @property
    def ratio(self) -> float:
        """The error in units of the floor; over one the layer itself differs."""
        if self.error == 0:
            return 0.0
        return self.error / self.floor if self.floor > 0 else math.inf

    @property
    def diverged(self) -> bool:
        return self.known and (self.unexpected or self.coarse or not self.ratio <= 1)

    @property
    def settled(self) -> bool:
        """Whether float64 on the sides whose rounding is unknown could not change the verdict.

        The error in float64 is at most this one plus each unknown rounding, and the floor is :data:`SAFETY` times the
        largest rounding: an unknown one adds to the floor at least as much as to the error.
        """
        roundings = (self.rounding_reference, self.rounding_candidate)
        known = max([self.epsilon * self.scale, *(r for r in roundings if r is not None)])
        within = self.shape is None and self.error <= (SAFETY - roundings.count(None)) * known
        return within and known <= COARSE * self.epsilon * self.scale

    @property
    def at_most(self) -> float | None:
        """The reference's rounding; where only the candidate ran in float64, and rounds more than the two are apart,
        that at most."""
        alone = self.rounding_reference is None and self.basis == CANDIDATE
        return self.error if alone and self.error < (self.rounding_candidate or 0.0) else self.rounding_reference

    def unlike(self, sensitivity: float | None) -> bool:
        """Whether one side rounds far more than the other, one roundoff and a ``sensitivity`` explain."""
        if self.at_most is None or self.rounding_candidate is None or sensitivity is None:
            return False
        least, most = sorted((self.at_most, self.rounding_candidate))
        return most > COARSE * max(least, self.epsilon * self.scale, sensitivity)

    def relative(self, value: float) -> float:
        """An error in units of the largest |reference|."""
        return value / self.scale if self.scale > 0 else value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: see :func:`to_json`."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Local:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        own = dict(values)
        for key in ("error", "scale", "rounding_reference", "rounding_candidate", "epsilon", "sensitivity"):
            own[key] = float(own[key]) if own[key] is not None else math.nan if key == "error" else None
        for key in ("argmax", "shape", "axes"):
            own[key] = None if own[key] is None else tuple(own[key])
        return cls(**own)


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with the word ``inf`` for infinite numbers and null for what is no number."""
    return {
        key: ("inf" if value > 0 else None) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


DRAWS = "it draws random numbers, and no two frameworks draw the same"
"""Why there are no figures of a layer that drops at random in training mode."""
SAFETY = 4.0
"""How much of the measured rounding, and of one unit roundoff of the largest value, passes for rounding.

With both sides in float64 rounding is no part of the error, which then is a difference of the computations or of the
weights; the factor says how small a one is still not worth a word in the arithmetic in use. From METHODS: on 999 nodes
of correct ports the largest ratio was .42.
"""
UNMEASURED = 16.0
"""The same where one side's rounding is part of the error, and unknown."""
_FINEST = math.ulp(1.0)


COARSE = 256.0
"""How much more one side may round than the other and its inputs' own rounding explain; bfloat16 rounds 65536 times
more than float32, float16 and TF32 8192 times."""


@dataclass(frozen=True)
class Measured:
    """Local errors by the index of the pair in the alignment, and sentences about what could not be measured."""

    found: Mapping[int, Local]
    notes: tuple[str, ...] = ()


Measure = Callable[["Alignment", "Recording", "Recording"], Measured]
"""Runs two recorded models again. Raises TracerError where that cannot be done at all."""


def depends_on(alignment: Alignment, reference: Recording, candidate: Recording) -> str:
    """What identifies a measurement: how the recordings are paired, and when each was made."""
    facts = [
        VERSION, *((r.attributes.get("created"), r.input_id) for r in (reference, candidate)),
        [[p.reference, p.candidate, p.axes, p.other_axes, p.arrangement and p.arrangement.to_json()]
         for p in alignment.pairs],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


VERSION = 2
"""Of the figures: raised whenever one changes its meaning."""
