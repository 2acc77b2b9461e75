"""Which tolerances two tensors pass, for all tolerances at once.

An element with error e and reference magnitude m passes (atol, rtol) when e ≤ atol + rtol·m. Whether all do depends on
few of them: the vertices of the upper left hull of the points (m, e), some tens of points whatever the tensor's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 512
"""Vertices kept; of more an outer hull is made, whose answers are on the strict side."""
_FEW = 256
Point = tuple[float, float]


@dataclass(frozen=True)
class Envelope:
    """The hull's vertices as (magnitude, error), both ascending; none for tensors without a finite element."""

    points: tuple[Point, ...] = ()

    def atol(self, rtol: float) -> float:
        """The smallest absolute tolerance under which all elements pass with ``rtol``, to the last bits."""
        return max(0.0, max((error - rtol * magnitude for magnitude, error in self.points), default=0.0))

    def rtol(self, atol: float) -> float:
        """The smallest relative tolerance under which all elements pass with ``atol``; infinite if none does."""
        return max((_ratio(error - atol, magnitude) for magnitude, error in self.points if error > atol), default=0.0)


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.inf


class Gathering:
    """Collects the hull of elements that come in blocks."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def add(
        self,
        magnitude: NDArray[np.float64],
        error: NDArray[np.float64],
        largest: float,
        line: NDArray[np.float64],
        above: NDArray[np.bool_],
    ) -> None:
        """Take a block; ``largest`` is its greatest error. ``line`` and ``above`` are room to work in."""
        lowest = float(np.minimum.reduce(magnitude))
        if not self.points:
            self.points = _hull(magnitude, error)
            return
        first, last = self.points[0], self.points[-1]
        if largest <= first[1] and lowest >= first[0]:
            return
        # What lies under the chord is inside; of the few others the hull itself decides.
        slope = (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else 0.0
        np.multiply(magnitude, slope, out=line)
        line += last[1] - slope * last[0]
        np.greater(error, line, out=above)
        if lowest < first[0]:
            above |= magnitude < first[0]
        if largest > last[1]:
            above |= error > last[1]
        places = np.flatnonzero(above)
        if not places.size:
            return
        m, e = magnitude[places], error[places]
        known = np.array(self.points)
        outside = e > np.interp(m, known[:, 0], known[:, 1], left=-1.0)
        if outside.any():
            m, e = np.concatenate([known[:, 0], m[outside]]), np.concatenate([known[:, 1], e[outside]])
            self.points = _hull(m, e)
            self._limit()

    def merge(self, points: Sequence[Point]) -> None:
        """Take the hull of other elements."""
        if self.points and points:
            self.points = _chain(sorted([*self.points, *points], key=_ascending))
        else:
            self.points = [*self.points, *points]
        self._limit()

    def _limit(self) -> None:
        if len(self.points) > MOST:
            self.points = outer(self.points, MOST // 2)

    def scale(self, factor: float) -> None:
        self.points = [(magnitude * factor, error * factor) for magnitude, error in self.points]

    def result(self, length: Callable[[float], float]) -> Envelope:
        """The hull, its lengths passed through ``length``."""
        return Envelope(tuple((length(magnitude), length(error)) for magnitude, error in self.points))


def _hull(magnitude: NDArray[Any], error: NDArray[Any]) -> list[Point]:
    """The upper left hull, from the smallest magnitude to the greatest error."""
    if magnitude.size > _FEW:
        keep = _sieved(magnitude, error)
        magnitude, error = magnitude[keep], error[keep]
    return _chain(sorted(zip(magnitude.tolist(), error.tolist(), strict=True), key=_ascending))


def _ascending(point: Point) -> Point:
    return point[0], -point[1]


def _sieved(magnitude: NDArray[Any], error: NDArray[Any]) -> NDArray[Any]:
    """Places that may be on the hull: what is left when the polygons of ever more of its points are cut out."""
    low = int(magnitude.argmin())
    lowest = np.flatnonzero(magnitude == magnitude[low])
    low = int(lowest[error[lowest].argmax()])
    high = int(error.argmax())
    kept = [low, high]
    open_ = [(low, high, np.flatnonzero(magnitude < magnitude[high]))]
    while open_:
        a, b, places = open_.pop()
        width = float(magnitude[b] - magnitude[a])
        if width <= 0 or not places.size:
            continue
        slope = float(error[b] - error[a]) / width
        height = (error[places] - error[a]) - slope * (magnitude[places] - magnitude[a])
        over = height > 0
        if not over.any():
            continue
        places, height = places[over], height[over]
        if places.size <= 16:
            kept += places.tolist()
            continue
        top = int(places[height.argmax()])
        kept.append(top)
        at = magnitude[places]
        open_ += [(a, top, places[at < magnitude[top]]), (top, b, places[at > magnitude[top]])]
    ties = np.flatnonzero(error == error[high])  # of several greatest errors the one at the smallest magnitude counts
    kept.append(int(ties[magnitude[ties].argmin()]))
    return np.array(sorted(set(kept)))


def _chain(points: Iterable[Point]) -> list[Point]:
    """The hull of points that ascend by magnitude, those of equal magnitude by descending error."""
    out: list[Point] = []
    for point in points:
        if out and point[1] <= out[-1][1]:
            continue
        while len(out) > 1 and _slope(out[-2], out[-1]) <= _slope(out[-1], point):
            out.pop()
        out.append(point)
    return out


def _slope(a: Point, b: Point) -> float:
    return _ratio(b[1] - a[1], b[0] - a[0])


def outer(points: Sequence[Point], most: int) -> list[Point]:
    """A hull around the hull with at most ``most`` vertices: where the lines of some of its edges meet."""
    chosen = sorted({round(i) for i in np.linspace(0, len(points) - 2, most - 2)})
    lines = [(points[i], _slope(points[i], points[i + 1])) for i in chosen]
    out = [points[0]]
    for (a, steep), (b, flat) in pairwise(lines):
        if steep > flat:
            at = ((b[1] - flat * b[0]) - (a[1] - steep * a[0])) / (steep - flat)
            out.append((at, a[1] + steep * (at - a[0])))
    return _chain([*out, points[-1]])
