"""The error of every pair as one bar each, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.compare import Verdict

_GRAVITY = (
    Verdict.UNMATCHED,
    Verdict.MATCH,
    Verdict.NOISE,
    Verdict.INHERITED,
    Verdict.NOT_COMPARABLE,
    Verdict.DIVERGED,
)


@dataclass(frozen=True)
class Bar:
    """One pair: its verdict and max|Δ| (None where nothing was compared, infinite where a side is not finite)."""

    verdict: Verdict
    error: float | None


def pooled(bars: Sequence[Bar], columns: int) -> list[tuple[Bar, int, int]]:
    """At most ``columns`` bars, each with the range it stands for; a group shows its greatest error and gravest
    verdict, so that the one bad pair among a thousand stays visible."""
    count = min(len(bars), max(1, columns))
    out = []
    for column in range(count):
        start, end = column * len(bars) // count, (column + 1) * len(bars) // count
        group = bars[start:end]
        errors = [bar.error for bar in group if bar.error is not None]
        verdict = max((bar.verdict for bar in group), key=_GRAVITY.index)
        out.append((Bar(verdict, max(errors, default=None)), start, end))
    return out


def scale(bars: Sequence[Bar], atol: float, rows: int) -> tuple[float, float]:
    """Exponents of the lower and upper edge of a profile of ``rows`` lines, with room for the tolerance's."""
    known = [b.error for b in bars if b.error is not None and 0 < b.error < math.inf]
    edges = [*known, *([atol] if atol > 0 else [])] or [1e-5]
    low, high = math.floor(math.log10(min(edges)) - 0.5), math.ceil(math.log10(max(edges)) + 0.3)
    if atol > 0:  # room below the tolerance, so that its line does not lie on the ground
        low = min(low, math.floor(math.log10(atol)) - 2)
    low = max(low, high - 14)
    return low, max(high, low + min(rows, 3))
