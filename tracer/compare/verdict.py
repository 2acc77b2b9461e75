"""From numbers to a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from tracer import dtypes
from tracer.compare.stats import Stats


class Verdict(StrEnum):
    """What is said about a pair (see the README's glossary)."""

    MATCH = "match"
    NOISE = "noise"
    DIVERGED = "diverged"
    INHERITED = "inherited"
    UNMATCHED = "unmatched"
    NOT_COMPARABLE = "not-comparable"


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
    """|reference − candidate| ≤ ``atol`` + ``rtol``·|reference|, for every element."""

    atol: float = 1e-5
    rtol: float = 1e-5


ROUNDING = 64.0
"""Rounding errors that a layer may add, in units of the machine epsilon relative to the tensor: correct ports of
networks stayed below a third of this (see benchmarks/), the weakest defect of the catalogue that a float32 trace can
show (tanh against erf gelu, 1.5e-4) is above it for two hundred layers."""


def rounding_floor(dtype: str, depth: int) -> float:
    """An estimate of the relative error that rounding alone reaches after ``depth`` layers.

    Errors of independent roundings add up like a random walk: √depth. This is an estimate for traces alone; the
    measured floor of a layer needs re-execution.
    """
    return ROUNDING * dtypes.epsilon(dtype) * math.sqrt(max(1, depth))


def judge(
    stats: Stats, tolerance: Tolerance, floor: float, upstream: tuple[str, Verdict] | None, upstream_error: float | None
) -> tuple[Verdict, str]:
    """The verdict on a pair and the reason, in words.

    Args:
        floor: relative rounding error to expect here (:func:`rounding_floor`).
        upstream: the nearest paired input that is off itself (aligned name, verdict), if there is one.
        upstream_error: the largest relative error among the nearest paired inputs.
    """
    if stats.passes(tolerance.atol, tolerance.rtol):
        return Verdict.MATCH, "within the tolerance"
    if upstream is not None:
        return (
            Verdict.INHERITED,
            f"its input {upstream[0]} is off already; what this layer adds itself is not known without re-execution",
        )
    if stats.nonfinite:
        return Verdict.DIVERGED, f"{stats.nonfinite} elements are NaN or infinite on one side only"
    peak = stats.max_abs / stats.reference_max if stats.reference_max > 0 else math.inf
    if floor > 0 and stats.rel_l2 <= floor and peak <= 4 * floor:
        growth = "" if not upstream_error else f"; its inputs differ by {upstream_error:.1e}"
        return Verdict.NOISE, f"relative error {stats.rel_l2:.1e} is rounding at this depth (up to {floor:.0e}){growth}"
    if upstream_error is not None:
        how = f"relative error {upstream_error:.1e}" if upstream_error else "exactly"
        return Verdict.DIVERGED, f"its inputs agree ({how}), its output does not"
    return Verdict.DIVERGED, "the first tensor there is, and it differs already"
