"""How far two arrays are apart, and whether that is more than a conversion rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer import dtypes, relations
from tracer.relations import SAME, Array


@dataclass(frozen=True)
class Figures:
    """How far two parameters are apart, in the common layout.

    Attributes:
        size: numbers compared.
        max_abs, mean_abs: of |reference − candidate|.
        rel_max: ``max_abs`` over the greatest magnitude of the reference (infinite where that is 0).
        rel_l2: ‖reference − candidate‖₂ / ‖reference‖₂, likewise.
        nonfinite: numbers that are finite on one side only, or infinite with another sign; the others leave them out.
        equal: whether they agree but for what a conversion rounds.
    """

    size: int
    max_abs: float
    mean_abs: float
    rel_max: float
    rel_l2: float
    nonfinite: int
    equal: bool

    def to_json(self) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in ("max_abs", "mean_abs", "rel_max", "rel_l2")}
        finite = {name: value if math.isfinite(value) else str(value) for name, value in found.items()}
        return {"size": self.size, **finite, "nonfinite": self.nonfinite}


def coarser(*epsilons: float) -> float:
    """The epsilon of the coarser of two types; 0 where they are equally fine, or fine enough to make no difference."""
    return max(epsilons) if min(epsilons) < max(epsilons) and max(epsilons) > SAME else 0.0


def figures(both: Sequence[tuple[Array, Array]], coarse: float) -> Figures:
    """Of arrays of the same shapes; with ``coarse`` they are equal where each number is as near as that type has it."""
    size = sum(a.size for a, _ in both)
    if all(np.array_equal(a[part], b[part]) for a, b in both for part in relations.portions(a.shape)):
        return Figures(size, 0.0, 0.0, 0.0, 0.0, 0, True)
    nonfinite = 0
    largest = top = total = apart = square = 0.0
    rounded = True
    for a, b in both:
        for part in relations.portions(a.shape):
            x, y = dtypes.as_float64(a[part]), dtypes.as_float64(b[part])
            with np.errstate(invalid="ignore"):
                d = np.abs(x - y)
            if not math.isfinite(float(d.sum())):
                usable = np.isfinite(x) & np.isfinite(y)
                same = (x == y) | (np.isnan(x) & np.isnan(y))
                nonfinite += int(np.count_nonzero(~usable & ~same))
                x, y, d = x[usable], y[usable], d[usable]
            if not d.size:
                continue
            largest, total = max(largest, float(d.max())), total + float(d.sum())
            size_x, size_y = np.abs(x), np.abs(y)
            top = max(top, float(size_x.max()))
            apart += float(np.vdot(d, d))
            square += float(np.vdot(x, x).real)
            if coarse and rounded:
                rounded = bool(np.all(d <= coarse * (0.505 * np.maximum(size_x, size_y) + 6.2e-5)))
    exact = all(a.dtype.kind in "biu" for a, _ in both)
    bar = 0.0 if exact else SAME * max(top, max((relations.peak(b) for _, b in both), default=0.0))
    bar = 0.0 if math.isnan(bar) else bar
    same = nonfinite == 0 and (largest <= bar or bool(coarse and rounded))
    return Figures(
        size, largest, total / size if size else 0.0, largest / top if top else math.inf * bool(largest) or 0.0,
        math.sqrt(apart / square) if square else (math.inf if apart else 0.0), nonfinite, same,
    )  # fmt: skip
