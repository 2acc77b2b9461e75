"""From numbers to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from tracer import dtypes
from tracer.errors import InputError
from tracer.names import display
from tracer.text import Word

if TYPE_CHECKING:
    from tracer.compare.local import Local
    from tracer.compare.stats import Stats


class Verdict(Word):
    """What is said about a pair (docs/verdicts.md)."""

    MATCH = "match"
    NOISE = "noise"
    DIVERGED = "diverged"
    INHERITED = "inherited"
    UNMATCHED = "unmatched"
    NOT_COMPARABLE = "not-comparable"


AGREEING = (Verdict.MATCH, Verdict.NOISE)

GLYPHS = {
    Verdict.MATCH: "✓",
    Verdict.NOISE: "~",
    Verdict.DIVERGED: "✗",
    Verdict.INHERITED: "↓",
    Verdict.UNMATCHED: "?",
    Verdict.NOT_COMPARABLE: "!",
}
ASCII_GLYPHS = {**GLYPHS, Verdict.MATCH: "=", Verdict.DIVERGED: "X", Verdict.INHERITED: "v"}


@dataclass(frozen=True)
class Tolerance:
    """|reference − candidate| ≤ ``atol`` + ``rtol``·|reference|, for every element.

    Raises InputError where one of them is no number, or less than 0.
    """

    atol: float = 1e-5
    rtol: float = 1e-5

    def __post_init__(self) -> None:
        for name, value in (("atol", self.atol), ("rtol", self.rtol)):
            if not (isinstance(value, Real) and value >= 0):
                raise InputError(f"{name} is to be a number, 0 or more, not {display(repr(value))}")


ROUNDING = 64.0
"""Rounding errors, in units of the machine epsilon relative to the tensor, that √depth layers may add up to."""
AT_ONCE = 16.0
"""Rounding errors, in the same units, that a layer may have whatever its inputs had."""
GROWTH = 12.0
"""How much a layer may enlarge the error of its inputs and still be taken for rounding.

On the correct ports of tests/zoo (500 pairs) no layer enlarged it more than 3.8 times, and no error exceeded 5e-6; a
BatchNorm epsilon of 1e-5 for 1e-3 behind seven layers enlarged it 44 times.
"""
SUSPICION = 4.0
"""The same where the two layers' settings differ, or something between them has no twin."""


def rounding_floor(dtype: str, depth: int) -> float:
    """An estimate of the relative error that rounding alone reaches after ``depth`` layers.

    Errors of independent roundings add up like a random walk: √depth. This is an estimate for traces alone; the
    measured floor of a layer needs re-execution.
    """
    return ROUNDING * dtypes.epsilon(dtype) * math.sqrt(max(1, depth))


def judge(
    stats: Stats,
    tolerance: Tolerance,
    floor: float,
    epsilon: float,
    off: str | None,
    inherited: float | None,
    suspicious: bool,
    stored_rounding: float = 0.0,
    steps: int = 1,
) -> tuple[Verdict, str]:
    """The verdict on a pair and the reason, in words (none for a divergence: that depends on the inputs).

    Args:
        floor: relative rounding error to expect here (:func:`rounding_floor`).
        epsilon: of the coarser of the two element types.
        off: an input that is off itself (aligned name), if there is one.
        inherited: the largest relative error among the nearest paired inputs.
        suspicious: whether the layers' settings differ or something above has no twin.
        stored_rounding: relative rounding that storing added to what was computed.
        steps: layers from the inputs that were compared to here, this one included.
    """
    if stats.passes(tolerance.atol, tolerance.rtol):
        return Verdict.MATCH, "within the tolerance"
    if off is not None:
        return (
            Verdict.INHERITED,
            f"its input {off} is off already: tracer diff --local says what this layer adds itself",
        )
    if stats.nonfinite:
        return Verdict.DIVERGED, f"{stats.nonfinite} elements are NaN or infinite on one side only"
    peak = stats.max_abs / stats.reference_max if stats.reference_max > 0 else math.inf
    at_once = AT_ONCE * epsilon * steps + stored_rounding
    grown = (SUSPICION if suspicious else GROWTH) * (inherited or 0.0) * steps
    if floor > 0 and stats.rel_l2 <= min(floor, max(at_once, grown)) and peak <= 4 * floor:
        before = f"; its inputs differ by {inherited:.1e}" if inherited else ""
        return Verdict.NOISE, f"relative error {stats.rel_l2:.1e} is rounding at this depth (up to {floor:.0e}){before}"
    return Verdict.DIVERGED, ""


def judge_again(
    local: Local,
    stats: Stats | None,
    tolerance: Tolerance,
    accepted: str,
    origin: str | None,
    inherited: float | None,
    coarsest: str,
    unstable: str = "",
) -> tuple[Verdict, str]:
    """The verdict on a pair whose layer was run again on the reference's inputs, and the reason.

    Args:
        local: what it adds itself.
        stats: of what was recorded, in the order in which the values agree; None where the shapes differ.
        accepted: the words of the tolerance that a person set for this pair; empty where there is none.
        origin: what diverged above it (aligned name), if anything did.
        inherited: the largest relative error among the nearest paired inputs.
        coarsest: the coarser of the two element types.
        unstable: why rounding is large here, see :func:`tracer.compare.instability.named`.
    """
    passes = stats is not None and stats.passes(tolerance.atol, tolerance.rtol)
    error, floor = local.relative(local.error), local.relative(local.floor)
    if local.diverged:
        if passes and accepted:
            return Verdict.MATCH, f"within the {accepted}; on the reference's inputs it differs by {error:.1e}"
        return Verdict.DIVERGED, _own_error(local, coarsest)
    if passes:
        return Verdict.MATCH, "within the tolerance, and on the same inputs the same"
    if origin is not None:
        return Verdict.INHERITED, f"off since {origin}; on the reference's inputs it is right ({error:.0e} off)"
    if stats is None:
        return Verdict.MATCH, "on the same inputs the same; its own values were not recorded"
    rounding = max((r for r in (local.rounding_reference, local.rounding_candidate) if r is not None), default=None)
    parts = [f"rounding: on the same inputs {'the same' if error == 0 else f'{error:.0e} apart'} ({local.basis})"]
    measured = "" if rounding is None else f"rounds by {local.relative(rounding):.0e}, "
    parts.append(f"{coarsest} {measured}floor {floor:.0e}")
    if local.sensitivity is not None:
        moved = local.relative(local.sensitivity)
        parts.append(
            f"{'' if local.finest else 'cancellation: '}the rounding of its inputs alone moves it by {moved:.0e}"
        )
    if inherited:
        growth = stats.rel_l2 / inherited
        parts.append(f"its inputs differ by {inherited:.1e}, it by {stats.rel_l2:.1e} (× {growth:.2g})")
    return Verdict.NOISE, "; ".join([*parts, *([unstable] if unstable else [])])


def _own_error(local: Local, coarsest: str) -> str:
    if local.shape is not None:
        return f"on the reference's inputs it gives the shape {'×'.join(map(str, local.shape)) or 'scalar'}"
    if local.unexpected:
        return "it gives the same values in another order, which what reads it does not expect"
    if local.coarse and local.ratio <= 1:
        ours, theirs = (local.relative(r or 0.0) for r in (local.at_most, local.rounding_candidate))
        side = "reference" if ours > theirs else "candidate"
        return (
            f"the {side} computes in less precision than {coarsest}: the reference rounds by {ours:.0e}, the candidate "
            f"by {theirs:.0e}"
        )
    if math.isinf(local.error):
        return "on the reference's inputs some elements are NaN or infinite on one side only"
    times = f", {local.ratio:.2g} × what {coarsest} rounding explains" if math.isfinite(local.ratio) else ""
    return f"on the reference's inputs it is off by {local.relative(local.error):.1e} of its largest value{times}"
