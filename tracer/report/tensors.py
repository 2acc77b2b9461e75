"""What is shown of two tensors: slices, pooled pictures, histograms, where the error sits.

Tensors are memory-mapped and may be larger than memory: every function here reads a bounded part, or walks in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.graph import Node
from tracer.store.sources import forget

if TYPE_CHECKING:
    from tracer.compare import PairDiff

PLANE = 1 << 21
"""Elements of a slice that are held; a larger slice is thinned out."""
SAMPLE = 200_000
BINS = 960
"""Of a histogram; the screen draws as many groups of them as it has lines."""
WALK = 1 << 26
"""Elements looked at when the place of the error is sought."""
_BLOCK = 1 << 18
_MAPPED = 1 << 26
"""Bytes of a file that stay mapped while a slice of it is read."""
_HELD = 32
"""Blocks or runs of a file that stay mapped while one walks."""

Array = NDArray[Any]


_quietly = np.errstate(all="ignore")
"""NaN and infinities are expected here; a warning would be written across the screen."""


def real(values: Array) -> Array:
    """Double precision; complex numbers by their magnitude."""
    found = dtypes.as_float64(values)
    return np.abs(found) if found.dtype.kind == "c" else found


def axis_names(node: Node, pair: PairDiff | None, rank: int) -> tuple[str, ...]:
    """Words for the axes of the reference's tensor, where its layout is known."""
    if rank == 0:
        return ()
    layout: str | None = node.layout
    axes = pair.pair.axes if pair is not None else None
    if layout is None and axes is not None and rank > 2:
        if axes == (0, rank - 1, *range(1, rank - 1)):
            layout = "channels_last"
        elif axes == (0, *range(2, rank), 1):
            layout = "channels_first"
    spatial = {1: ("position",), 2: ("row", "column"), 3: ("depth", "row", "column")}.get(rank - 2)
    if rank > 2 and spatial and layout == "channels_last":
        return ("batch", *spatial, "channel")
    if rank > 2 and spatial and layout == "channels_first":
        return ("batch", "channel", *spatial)
    if rank == 2:
        return ("batch", "feature")
    return ("batch", *(f"axis {axis}" for axis in range(1, rank)))


@dataclass(frozen=True)
class Tensors:
    """Both sides in one order of axes, memory-mapped; None with a reason for one that cannot be shown."""

    reference: Array | None
    candidate: Array | None
    reasons: tuple[str, str]

    @property
    def shape(self) -> tuple[int, ...] | None:
        some = self.reference if self.reference is not None else self.candidate
        return None if some is None else some.shape

    @property
    def why(self) -> tuple[str, str, str]:
        """What stands in the place of either side's picture, and of the difference's."""
        ours, theirs = self.reasons
        empty = "empty: no elements" if self.shape is not None else ""
        return ours or empty, theirs or empty, (empty if not (ours or theirs) else "needs both sides")


@dataclass(frozen=True)
class View:
    """A plane through a tensor: the axis drawn downwards (None for a line), the one drawn across, the other indices.

    ``index`` has an entry for every axis; those of the shown axes point at the element of interest.
    """

    shape: tuple[int, ...]
    down: int | None
    across: int | None
    index: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], names: Sequence[str], at: Sequence[int] | None) -> View:
        """The natural plane: the image, else channels over positions, else the two longest axes."""
        index = tuple(at) if at is not None and len(at) == len(shape) else (0,) * len(shape)
        rank = len(shape)
        if rank < 2:
            return cls(shape, None, 0 if rank else None, index)
        if "row" in names:
            return cls(shape, names.index("row"), names.index("column"), index)
        if "position" in names:
            return cls(shape, names.index("channel"), names.index("position"), index)
        if rank == 2:
            return cls(shape, 0, 1, index)
        longest = sorted(sorted(range(rank), key=lambda axis: shape[axis], reverse=True)[:2])
        return cls(shape, longest[0], longest[1], index)

    @property
    def is_line(self) -> bool:
        """Whether there is but one row to draw, and more than one element in it."""
        long = self.across is not None and self.shape[self.across] > 1
        return long and (self.down is None or self.shape[self.down] == 1)

    @property
    def others(self) -> tuple[int, ...]:
        """The axes that are not shown, longer than one."""
        shown = (self.down, self.across)
        return tuple(axis for axis, length in enumerate(self.shape) if axis not in shown and length > 1)

    def turned(self) -> View:
        """The next two axes, in all orders that differ; of a line the next axis."""
        rank = len(self.shape)
        if rank < 2:
            return self
        long = [axis for axis in range(rank) if self.shape[axis] > 1]
        if self.down is None:
            around = long or list(range(rank))
            place = around.index(self.across) if self.across in around else -1
            return View(self.shape, None, around[(place + 1) % len(around)], self.index)
        usable = long if len(long) > 1 else list(range(rank))
        planes = [(a, b) for a in usable for b in usable if a != b]
        current = (self.down, self.across)
        place = planes.index(current) if current in planes else -1
        down, across = planes[(place + 1) % len(planes)]
        return View(self.shape, down, across, self.index)

    def lined(self) -> View:
        """The line through the element of interest along the axis that is drawn across."""
        return View(self.shape, None, self.across, self.index)

    def stepped(self, axis: int, by: int) -> View:
        index = list(self.index)
        index[axis] = (index[axis] + by) % self.shape[axis]
        return View(self.shape, self.down, self.across, tuple(index))

    def at(self, index: tuple[int, ...]) -> View:
        return View(self.shape, self.down, self.across, index)

    def plane(self, values: Array) -> Array:
        """The plane of a tensor as a view, always two-dimensional."""
        if values.ndim == 0:
            return values.reshape(1, 1)
        cut = tuple(slice(None) if axis in (self.down, self.across) else at for axis, at in enumerate(self.index))
        out = values[cut]
        if self.down is None:
            return out.reshape(1, -1)
        return out if self.across is None or self.down < self.across else out.T

    @property
    def focus(self) -> tuple[int, int]:
        """Row and column of the element of interest in the plane."""
        down = 0 if self.down is None else self.index[self.down]
        return down, 0 if self.across is None else self.index[self.across]


@dataclass(frozen=True)
class Planes:
    """The same plane of both tensors and of their difference; None for a side that is not there.

    ``thinned`` says that only every so many rows or columns were read.
    """

    reference: Array | None
    candidate: Array | None
    difference: Array | None
    rows: Array
    columns: Array
    thinned: bool = False

    @property
    def limits(self) -> tuple[float, float]:
        """Least and greatest finite value of both sides."""
        both = [plane[np.isfinite(plane)] for plane in (self.reference, self.candidate) if plane is not None]
        known = [part for part in both if part.size]
        if not known:
            return 0.0, 0.0
        return min(float(p.min()) for p in known), max(float(p.max()) for p in known)

    def nearest(self, focus: tuple[int, int]) -> tuple[int, int]:
        """Where a row and a column of the plane stand among those that were read."""
        row, column = (
            max(0, min(int(np.searchsorted(kept, wanted)), len(kept) - 1))
            for kept, wanted in zip((self.rows, self.columns), focus, strict=True)
        )
        return row, column

    @property
    def greatest(self) -> float:
        if self.difference is None:
            return 0.0
        good = self.difference[np.isfinite(self.difference)]
        return float(np.abs(good).max()) if good.size else 0.0


@_quietly
def load(view: View, reference: Array | None, candidate: Array | None) -> Planes:
    """Read a plane of each side into memory."""
    some = reference if reference is not None else candidate
    assert some is not None
    shape = view.plane(some).shape if some.size else (0, 0)
    rows, columns = (_thin(shape, axis, view.focus[axis]) for axis in (0, 1))
    thinned = (len(rows), len(columns)) != shape

    def read(values: Array | None) -> Array | None:
        if values is None or not values.size:
            return None
        plane = view.plane(values)
        if not thinned:
            return real(plane)
        # Elements far apart map most of a file: a part of it at a time.
        longer = int(len(columns) > len(rows))
        parts = []
        for part in np.array_split((rows, columns)[longer], max(1, values.nbytes // _MAPPED)):
            parts.append(real(plane[rows][:, part] if longer else plane[part][:, columns]))
            forget(values)
        return np.concatenate(parts, axis=longer)

    a, b = read(reference), read(candidate)
    difference = None
    if a is not None and b is not None:
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.where(same, 0.0, b - a)
    return Planes(a, b, difference, rows, columns, thinned)


def _thin(shape: tuple[int, ...], axis: int, keep: int) -> Array:
    """Which rows or columns to read so that the plane stays below :data:`PLANE` elements; ``keep`` is among them."""
    length = shape[axis]
    excess = math.prod(shape) / PLANE
    if excess <= 1 or length < 2:
        return np.arange(length)
    longer = length >= shape[1 - axis]
    step = math.ceil(excess) if longer else 1
    if longer and length // step < 512:
        step = max(1, length // 512)
    if not longer and math.ceil(excess) > max(1, shape[1 - axis] // 512):
        step = max(1, length // 512)
    return np.unique(np.append(np.arange(0, length, step), min(keep, length - 1)))


@_quietly
def pool(plane: Array, height: int, width: int) -> Array:
    """``plane`` drawn on ``height`` × ``width`` points: a smaller one is repeated, of a larger one every point is the
    value of greatest magnitude with its sign, so that a single wrong element stays visible. NaN wins."""
    if not plane.size or height < 1 or width < 1:
        return np.zeros((0, 0))
    return _pool(_pool(plane, 0, height), 1, width)


def _pool(plane: Array, axis: int, points: int) -> Array:
    length = plane.shape[axis]
    if length <= points:
        repeated: Array = np.take(plane, np.arange(points) * length // points, axis=axis)
        return repeated
    starts = np.arange(points) * length // points
    high, low = np.maximum.reduceat(plane, starts, axis=axis), np.minimum.reduceat(plane, starts, axis=axis)
    out: Array = np.where(np.abs(low) > np.abs(high), low, high)
    return out


def sample(values: Array) -> Array:
    """At most :data:`SAMPLE` elements in runs spread over the whole tensor, as finite numbers."""
    if values.ndim and not values.flags.c_contiguous:
        values = values.transpose(np.argsort([-abs(stride) for stride in values.strides], kind="stable"))
    flat = values.reshape(-1)
    if flat.size > SAMPLE:
        run = 1000
        starts = np.linspace(0, flat.size - run, SAMPLE // run).astype(np.int64)
        parts = []
        for number, start in enumerate(starts, 1):
            parts.append(np.array(flat[start : start + run]))
            if number % _HELD == 0:
                forget(values)
        forget(values)
        flat = np.concatenate(parts)
    found: Array = real(flat)
    finite: Array = found[np.isfinite(found)]
    return finite


@dataclass(frozen=True)
class Histogram:
    """Shares of the elements in bins of equal width."""

    edges: Array
    shares: tuple[Array | None, Array | None]
    sampled: bool

    def grouped(self, count: int) -> Histogram:
        """The same in ``count`` wider bins."""
        starts = np.arange(count) * (len(self.edges) - 1) // count
        edges = np.append(self.edges[starts], self.edges[-1])
        ours, theirs = (None if s is None else np.add.reduceat(s, starts) for s in self.shares)
        return Histogram(edges, (ours, theirs), self.sampled)

    @property
    def logarithmic(self) -> bool:
        """Whether one bin holds so much that the others would vanish."""
        known = [s for s in self.shares if s is not None and s.any()]
        usual = max((float(np.median(s[s > 0])) for s in known), default=0.0)
        return usual > 0 and max(float(s.max()) for s in known) > 30 * usual


@_quietly
def histogram(reference: Array | None, candidate: Array | None, bins: int = BINS) -> Histogram | None:
    """Both distributions over common bins; None when there is no finite number."""
    parts = [None if values is None else sample(values) for values in (reference, candidate)]
    known = [part for part in parts if part is not None and part.size]
    if not known:
        return None
    low, high = min(float(p.min()) for p in known), max(float(p.max()) for p in known)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    if not math.isfinite(high - low):
        low, high = low / 4, high / 4
    edges = np.linspace(low, high, max(1, bins) + 1)
    shares = tuple(None if p is None else np.histogram(p, edges)[0] / max(1, p.size) for p in parts)
    sampled = any(v is not None and v.size > SAMPLE for v in (reference, candidate))
    return Histogram(edges, (shares[0], shares[1]), sampled)


@dataclass
class Where:
    """Which elements differ.

    Attributes:
        outside: elements outside the tolerance.
        worst: index, reference's and candidate's value, the greatest difference first.
        greatest: for each axis, the greatest difference at each of its indices.
        hit: for each axis, how many elements are outside at each of its indices.
        seen: elements looked at (all of them, unless the tensors are very large).
    """

    size: int
    outside: int = 0
    seen: int = 0
    worst: list[tuple[tuple[int, ...], float, float]] = field(default_factory=list)
    greatest: list[Array] = field(default_factory=list)
    hit: list[Array] = field(default_factory=list)


@_quietly
def locate(
    reference: Array,
    candidate: Array,
    atol: float,
    rtol: float,
    *,
    count: int = 50,
    stop: Callable[[], bool] = lambda: False,
) -> Where:
    """Walk both tensors once and note where they differ. Elements that are not finite on one side count as outside
    and as infinitely different."""
    shape = reference.shape
    found = Where(reference.size)
    found.greatest = [np.zeros(length) for length in shape]
    found.hit = [np.zeros(length, np.int64) for length in shape]
    if not reference.size:
        return found
    if not shape:
        reference, candidate = reference.reshape(1), candidate.reshape(1)
    best: list[tuple[float, tuple[int, ...], float, float]] = []
    for number, cut in enumerate(_cuts(reference.shape), 1):
        if stop() or found.seen >= WALK:
            break
        x, y = real(reference[cut]), real(candidate[cut])
        error = np.abs(x - y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        error = np.where(same, 0.0, np.where(np.isfinite(x) & np.isfinite(y), error, np.inf))
        over = error > np.where(np.isfinite(x), atol + rtol * np.abs(x), atol)
        found.seen += error.size
        found.outside += int(over.sum())
        for axis in range(len(shape)):
            rest = tuple(a for a in range(error.ndim) if a != axis)
            place = cut[axis]
            found.greatest[axis][place] = np.maximum(found.greatest[axis][place], error.max(axis=rest))
            found.hit[axis][place] += over.sum(axis=rest)
        flat = error.reshape(-1)
        top = np.argpartition(flat, -count)[-count:] if flat.size > count else np.arange(flat.size)
        bottom = best[-1][0] if len(best) >= count else 0.0
        for at in top[flat[top] > bottom]:
            local = np.unravel_index(int(at), error.shape)
            index = tuple(int(i) + s.start for i, s in zip(local, cut, strict=True))[: len(shape)]
            best.append((float(flat[at]), index, float(x[local]), float(y[local])))
        best = sorted(best, key=lambda item: -item[0])[:count]
        if number % _HELD == 0:
            forget(reference)
            forget(candidate)
    found.worst = [(index, ours, theirs) for _, index, ours, theirs in best]
    return found


def _cuts(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Blocks that cover an array: runs along the first axes, the last ones whole where they fit."""
    steps, room = [], _BLOCK
    for length in reversed(shape):
        step = max(1, min(length, room))
        steps.append(step)
        room = max(1, room // max(1, length))
    cuts: list[tuple[slice, ...]] = [()]
    for length, step in zip(shape, reversed(steps), strict=True):
        cuts = [(*c, slice(s, min(length, s + step))) for c in cuts for s in range(0, length, step)]
    return cuts


def spans(hit: Array) -> str:
    """Which indices are hit: ``all 64``, ``20–27``, ``3, 7, 9–11 (5 of 64)``."""
    places = np.flatnonzero(hit)
    if not len(places):
        return "none"
    if len(places) == len(hit):
        return f"all {len(hit)}"
    breaks = np.flatnonzero(np.diff(places) > 1)
    starts = [int(places[0]), *(int(places[b + 1]) for b in breaks)]
    ends = [*(int(places[b]) for b in breaks), int(places[-1])]
    runs = [f"{a}" if a == b else f"{a}–{b}" for a, b in zip(starts, ends, strict=True)]
    listed = ", ".join(runs[:3]) + (" …" if len(runs) > 3 else "")
    return f"{listed} ({len(places)} of {len(hit)})"
