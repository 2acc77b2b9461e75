"""The walk over two tensors, block by block, with numpy; :mod:`tracer.compare.fused` does most of it in one go."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.compare.envelope import Gathering
from tracer.compare.figures import NonFinite, Stats
from tracer.compare.spread import Block, Fit, Spread, of_tensor
from tracer.compare.ulps import Counting

BLOCK = 1 << 13
"""Elements compared at a time: intermediate results stay in the cache, below the size at which the allocator asks the
kernel for fresh pages each time, and below the one above which OpenBLAS starts threads for a product, which on a busy
machine wait for each other longer than they work."""
SEGMENT = 1 << 22
"""Elements that are walked over by themselves; what was found is put together in order, so that no figure depends on
who walked over which. Then the pages of tensors that lie in files are let go of, so that memory stays flat."""
_SAFE = 1e140
"""Magnitudes up to which, and down to the inverse of which, squares and their sums neither overflow nor vanish."""
ROUNDING = 16.0
"""Errors up to so many units of the machine epsilon, relative to a block's greatest value, are taken for rounding: it
is everywhere and follows no rule, so its place is not looked for."""
_EXACT = 2.0**53
"""Whole numbers up to which a double holds each."""
_LENGTHS = ("sum", "shift")
_SQUARES = ("squares", "xx", "yy", "xy", "xd", "signed", "located")
_COUNTS = ("outside", "nonfinite", "finite", "unequal", "zeros")


@dataclass(frozen=True)
class Grid:
    """How a tensor is cut into blocks of at most :data:`BLOCK` elements, in C order.

    Attributes:
        split: the first of the trailing axes that fit a block together, ``inner`` elements; below each place of the
            axes before ``split − 1`` (a *lead*) lie ``length`` rows of so many, ``step`` of them in a block.
        count: blocks in all.
    """

    shape: tuple[int, ...]
    split: int
    inner: int
    length: int
    step: int
    count: int

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Grid:
        split, inner = len(shape), 1
        while split > 0 and inner * shape[split - 1] <= BLOCK:
            split -= 1
            inner *= shape[split]
        length = shape[split - 1] if split else 1
        step = max(1, BLOCK // max(1, inner))
        count = math.prod(shape[: max(0, split - 1)]) * -(-length // step) if math.prod(shape) else 0
        return cls(shape, split, inner, length, step, count)

    @property
    def leads(self) -> tuple[int, ...]:
        """Lengths of the axes of which a block has one place."""
        return self.shape[: max(0, self.split - 1)]

    def at(self, element: int) -> int:
        """The block in which an element lies."""
        lead, place = divmod(element, self.length * self.inner)
        return lead * -(-self.length // self.step) + place // self.inner // self.step

    def place(self, block: int) -> tuple[int, int]:
        """The lead of a block, counted in C order, and its first row there."""
        lead, number = divmod(block, -(-self.length // self.step))
        return lead, number * self.step

    def start(self, block: int) -> int:
        """Its first element in C order; the number of all for the block behind the last."""
        lead, begin = self.place(block)
        return (lead * self.length + begin) * self.inner

    def segments(self) -> list[tuple[int, int]]:
        """Ranges of blocks of about :data:`SEGMENT` elements."""
        most = max(1, SEGMENT // max(1, self.step * self.inner))
        return [(first, min(first + most, self.count)) for first in range(0, self.count, most)]

    def runs(self, first: int, last: int, most: int) -> Iterator[tuple[int, int, int]]:
        """A range of blocks as rows below one lead, of up to ``most`` blocks: the lead, the first row, and the one
        behind the last."""
        while first < last:
            lead, begin = self.place(first)
            many = min(most, last - first, -(-(self.length - begin) // self.step))
            yield lead, begin, min(begin + many * self.step, self.length)
            first += many

    def rows(self, values: NDArray[Any], lead: int, begin: int, end: int) -> NDArray[Any]:
        """Rows of a tensor below a lead."""
        if not self.split:
            return values
        place = np.unravel_index(lead, self.leads) if self.leads else ()
        return np.asarray(values[place])[begin:end]

    def blocks(
        self, a: NDArray[Any], b: NDArray[Any], first: int = 0, last: int | None = None
    ) -> Iterator[tuple[Block, NDArray[Any], NDArray[Any]]]:
        """A range of blocks with both sides' elements."""
        known, ours, theirs = -1, a, b
        index: tuple[int, ...] = ()
        for lead, begin, end in self.runs(first, self.count if last is None else last, 1):
            if lead != known and self.split:
                index = tuple(int(i) for i in np.unravel_index(lead, self.leads)) if self.leads else ()
                known, ours, theirs = lead, a[index], b[index]
            left, right = (ours[begin:end], theirs[begin:end]) if self.split else (a, b)
            start = (lead * self.length + begin) * self.inner
            yield Block(start, index, begin, end - begin), left.reshape(-1), right.reshape(-1)


@dataclass
class Asked:
    """Two tensors of one shape, and what is asked about them: see :func:`tracer.compare.stats.compare`."""

    reference: NDArray[Any]
    candidate: NDArray[Any]
    atol: float
    rtol: float
    channels: int | None
    coarser: str | None
    known_rms: float | None
    grid: Grid = field(init=False)

    def __post_init__(self) -> None:
        self.grid = Grid.of(self.reference.shape)
        types = {self.reference.dtype.name, self.candidate.dtype.name}
        kinds = {self.reference.dtype.kind, self.candidate.dtype.kind}
        self.complex = "c" in kinds
        self.wide = bool(types & {"float64", "complex128"})
        self.coarsest = self.coarser or max(sorted(types), key=dtypes.epsilon)
        self.epsilon = 0.0 if kinds <= set("iub") else dtypes.epsilon(self.coarsest)
        self.channels = None if self.complex else self.channels

    @property
    def sides(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.reference, self.candidate

    def first(self, side: int) -> Any:
        """The first element of a side."""
        return self.sides[side][(0,) * self.sides[side].ndim]

    @cached_property
    def rms(self) -> float:
        """Root mean square of the finite elements of the reference."""
        return _rms(self.reference, self.grid) if self.known_rms is None else self.known_rms

    def counting(self) -> Counting | None:
        """What counts errors in units of the last place; None where there is no such unit."""
        return Counting(self.coarsest, self.rms) if self.epsilon and self.rms > 0 else None

    def spread(self) -> Spread:
        return Spread(self.grid.shape, self.grid.split, self.channels)


class _Room(threading.local):
    """Arrays that the blocks are worked on in: fresh ones would cost more than the work."""

    def __init__(self) -> None:
        self.x, self.y, self.d, self.error, self.magnitude, self.squares, self.free = np.empty((7, BLOCK))
        self.bits = np.empty(BLOCK, np.int64)
        self.one, self.other = np.empty((2, BLOCK), bool)


ROOM = _Room()


class Walk:
    """What was found so far. All lengths are of tensors multiplied by ``2 ** -exponent``, so that squares fit."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._complex = asked.complex
        self._exponent: int | None = None
        self.sum = self.squares = self.xx = self.yy = self.xy = self.xd = self.shift = self.signed = 0.0
        self.located = 0.0
        self.largest, self.reference_max = -1.0, 0.0
        self.worst: int | None = None
        self.outside = self.nonfinite = self.finite = self.unequal = 0
        self.nan, self.inf = [0, 0], [0, 0]
        self.zeros, self.zeros_max = 0, 0.0
        self.constant = [asked.reference.size > 0] * 2
        self.signs = [False, False]
        self.hull = Gathering()
        self.ulps: Counting | None = None
        self.spread: Spread | None = None

    @property
    def _scale(self) -> float:
        return math.ldexp(1.0, -(self._exponent or 0))

    def add(self, block: Block, left: NDArray[Any], right: NDArray[Any]) -> None:
        for side, values in enumerate((left, right)):
            if self.constant[side]:
                self.constant[side] = bool((values == self.asked.first(side)).all())
        if np.array_equal(left, right):
            self._equal(block, left)
        else:
            self._apart(block, left, right)

    def _widened(self, values: NDArray[Any], room: NDArray[np.float64]) -> NDArray[Any]:
        """The values in double precision."""
        if self._complex:
            return values.astype(np.complex128)
        out = room[: values.size]
        np.copyto(out, values, casting="unsafe")
        return out

    def _equal(self, block: Block, values: NDArray[Any]) -> None:
        x = self._widened(values, ROOM.x)
        if self.asked.wide:
            self._fit(_peak(x), x)
        square = float(np.vdot(x, x).real)
        at = 0
        if not math.isfinite(square):
            finite = np.isfinite(x)
            at = int(finite.argmax())
            x = x[finite]
            for side in (0, 1):
                self.inf[side] += values.size - x.size
            square = float(np.vdot(x, x).real)
            if not x.size:
                return
        self.finite += x.size
        self.xx += square
        self.yy += square
        self.xy += square
        self.reference_max = max(self.reference_max, float(np.abs(x).max()))
        if self.largest < 0:
            self.largest, self.worst = 0.0, block.start + at
        if square:
            self._look_at_signs(x)
            if self.asked.channels is not None:
                self.spread = self.spread or self.asked.spread()
                self.spread.skip(block)

    def _apart(self, block: Block, left: NDArray[Any], right: NDArray[Any]) -> None:
        room, size = ROOM, left.size
        x, y = self._widened(left, room.x), self._widened(right, room.y)
        if self.asked.wide:
            self._fit(max(_peak(x), _peak(y)), x, y)
        xx, yy = float(np.vdot(x, x).real), float(np.vdot(y, y).real)
        if not math.isfinite(xx + yy):
            self._drop_nonfinite(x, y)
            xx, yy = float(np.vdot(x, x).real), float(np.vdot(y, y).real)
        else:
            self.finite += size
        d: NDArray[Any] = np.subtract(x, y, out=None if self._complex else room.d[:size])
        if left.dtype.kind in "iu" and right.dtype.kind in "iu" and max(_peak(x), _peak(y)) > _EXACT:
            np.copyto(d, left.astype(np.longdouble) - right.astype(np.longdouble), casting="unsafe")
        error = np.abs(d, out=room.error[:size])
        magnitude = np.abs(x, out=room.magnitude[:size])
        at = int(error.argmax())
        largest = float(error[at])
        if largest > self.largest:
            self.largest, self.worst = largest, block.start + at
        self.xx += xx
        self.yy += yy
        self.xy += float(np.vdot(x, y).real)
        peak = float(np.maximum.reduce(magnitude))
        self.reference_max = max(self.reference_max, peak)
        if not self._complex:
            self._look_at_signs(x)
        if largest == 0:
            return
        one, other, free = room.one[:size], room.other[:size], room.free[:size]
        self.unequal += size - int(np.count_nonzero(np.equal(error, 0, out=one)))
        scale = self._scale
        if largest > self.asked.atol * scale:
            np.multiply(magnitude, self.asked.rtol, out=free)
            free += self.asked.atol * scale
            self.outside += int(np.count_nonzero(np.greater(error, free, out=one)))
        self.hull.add(magnitude, error, largest, free, one)
        np.not_equal(np.equal(x, 0, out=one), np.equal(y, 0, out=other), out=one)
        if (alone := int(np.count_nonzero(one))) > 0:
            self.zeros += alone
            self.zeros_max = max(self.zeros_max, float(error[one].max()))
        total = float(np.vdot(error, error))
        self.sum += float(np.add.reduce(error))
        self.squares += total
        self.xd += float(np.vdot(x, d).real)
        if not self._complex:
            self.shift += float(np.add.reduce(d))
        if self.ulps is None and self.asked.epsilon:
            self.ulps = self.asked.counting()
        if self.ulps is not None:
            self.ulps.add(magnitude, error, scale, room.bits[:size])
        self.spread = self.spread or self.asked.spread()
        if largest <= ROUNDING * self.asked.epsilon * peak:
            self.spread.skip(block)
            return
        squares = np.multiply(error, error, out=room.squares[:size])
        if not self._complex:
            self.signed += float(np.add.reduce(np.copysign(squares, x, out=free)))
        self.located += total
        self.spread.add(block, None if self._complex else x, d, error, squares, total, largest, free)

    def _look_at_signs(self, x: NDArray[Any]) -> None:
        if not self._complex and not all(self.signs):
            self.signs = [self.signs[0] or bool((x < 0).any()), self.signs[1] or bool((x > 0).any())]

    def _drop_nonfinite(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Count what is no number, and put zeros there on both sides."""
        good = np.isfinite(x) & np.isfinite(y)
        same = (np.isnan(x) & np.isnan(y)) | (x == y)
        for side, values in enumerate((x, y)):
            nan = int(np.count_nonzero(np.isnan(values)))
            self.nan[side] += nan
            self.inf[side] += int(values.size - np.count_nonzero(np.isfinite(values))) - nan
        bad = int(np.count_nonzero(~good & ~same))
        self.nonfinite += bad
        self.outside += bad
        self.finite += int(np.count_nonzero(good))
        x[~good] = 0
        y[~good] = 0

    def _fit(self, peak: float, *sides: NDArray[Any]) -> None:
        """Bring values into the scale of the walk, which grows where ``peak`` asks for it."""
        wanted = 0
        if peak > _SAFE or 0 < peak < 1 / _SAFE:
            wanted = max(-1000, math.frexp(peak)[1])
        if peak > 0 and (self._exponent is None or wanted > self._exponent):
            if self._exponent is not None:
                self._rescale(math.ldexp(1.0, self._exponent - wanted))
            self._exponent = wanted
        if self._exponent:
            # In two steps: 2 ** 1074 is no double.
            half = -self._exponent // 2
            for values in sides:
                values *= math.ldexp(1.0, half)
                values *= math.ldexp(1.0, -self._exponent - half)

    def _rescale(self, factor: float) -> None:
        for name in _LENGTHS:
            setattr(self, name, getattr(self, name) * factor)
        for name in _SQUARES:
            setattr(self, name, getattr(self, name) * factor * factor)
        self.largest *= factor if self.largest > 0 else 1
        self.reference_max *= factor
        self.zeros_max *= factor
        self.hull.scale(factor)
        if self.spread is not None:
            self.spread.scale(factor)

    def merge(self, later: Walk) -> None:
        """Take what was found in a part of the tensors that lies behind this one."""
        if self._exponent != later._exponent and later._exponent is not None:
            common = max(later._exponent, self._exponent or 0) if self._exponent is not None else later._exponent
            for walk in (self, later):
                if walk._exponent is not None and walk._exponent < common:
                    walk._rescale(math.ldexp(1.0, walk._exponent - common))
            self._exponent = common
        for name in (*_LENGTHS, *_SQUARES, *_COUNTS):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        if later.largest > self.largest:
            self.largest, self.worst = later.largest, later.worst
        self.reference_max = max(self.reference_max, later.reference_max)
        self.zeros_max = max(self.zeros_max, later.zeros_max)
        for mine, others in ((self.nan, later.nan), (self.inf, later.inf)):
            mine[:] = [one + other for one, other in zip(mine, others, strict=True)]
        self.constant = [one and other for one, other in zip(self.constant, later.constant, strict=True)]
        self.signs = [one or other for one, other in zip(self.signs, later.signs, strict=True)]
        self.hull.merge(later.hull.points)
        if self.ulps is None:
            self.ulps = later.ulps
        elif later.ulps is not None:
            self.ulps.merge(later.ulps)
        if self.spread is None:
            self.spread = later.spread
        elif later.spread is not None:
            self.spread.merge(later.spread)

    def result(self) -> Stats:
        reference, candidate = self.asked.sides
        exponent = self._exponent or 0
        norm, other = math.sqrt(self.xx), math.sqrt(self.yy)
        index = None if self.worst is None else np.unravel_index(self.worst, reference.shape)
        argmax = None if index is None else tuple(int(i) for i in index)
        cosine, angle = None, None
        if norm > 0 and other > 0:
            cosine = max(-1.0, min(1.0, self.xy / norm / other))
            angle = 1 - cosine
            if self.squares < norm * other:
                # From the differences, which do not cancel where the tensors are alike.
                apart = (2 * self.xd - self.squares) / (norm + other)  # ‖x‖ − ‖y‖
                angle = max(0.0, (self.squares - apart * apart) / (2 * norm * other))
        where = None
        if self.spread is not None and self.squares > 0:
            law = None if self._complex else self._law()
            where = self.spread.result(self.unequal, self.located, self.squares, law, exponent)
            if all(self.signs) and self.located > 0:
                where = replace(where, negative=min(1.0, max(0.0, 0.5 - 0.5 * self.signed / self.located)))
        length = partial(_longer, exponent=exponent)
        return Stats(
            size=reference.size,
            max_abs=length(max(0.0, self.largest)),
            mean_abs=length(self.sum / reference.size if reference.size else 0.0),
            rel_l2=math.sqrt(self.squares) / norm if norm > 0 else (0.0 if self.squares == 0 else math.inf),
            cosine=cosine,
            argmax=argmax,
            reference_max=length(self.reference_max),
            envelope=self.hull.result(length),
            outside=self.outside,
            nonfinite=self.nonfinite,
            worst=None if argmax is None else (_scalar(reference[argmax]), _scalar(candidate[argmax])),
            atol=self.asked.atol,
            rtol=self.asked.rtol,
            angle=angle,
            nonfinites=NonFinite(*self.nan, *self.inf),
            ulps=self.ulps.result(self.finite) if self.ulps is not None else None,
            zeros=(self.zeros, length(self.zeros_max)),
            constant=(self._constant_value(0), self._constant_value(1)),
            where=where,
        )

    def _law(self) -> Fit | None:
        return of_tensor(self.finite, self.shift, self.xx, self.xd, self.squares)

    def _constant_value(self, side: int) -> float | None:
        return _scalar(self.asked.first(side)) if self.constant[side] else None


def _longer(value: float, exponent: int) -> float:
    """``value`` times a power of two; what no double holds becomes the greatest one."""
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return sys.float_info.max


def _peak(values: NDArray[Any]) -> float:
    """The greatest finite magnitude of real or complex parts; 0 where there is none."""
    parts = values.view(np.float64)
    peak = max(float(np.maximum.reduce(parts)), -float(np.minimum.reduce(parts)))
    return peak if math.isfinite(peak) else float(np.abs(parts[np.isfinite(parts)]).max(initial=0.0))


def _rms(values: NDArray[Any], grid: Grid) -> float:
    """Root mean square of the finite elements."""
    norm, count = 0.0, 0
    for _, block, _ in grid.blocks(values, values):
        x = dtypes.as_float64(block)
        x = x[np.isfinite(x)]
        peak = _peak(x) if x.size else 0.0
        norm = math.hypot(norm, peak * float(np.linalg.norm(x / peak))) if peak > 0 else norm
        count += x.size
    return norm / math.sqrt(count) if count else 0.0


def _scalar(value: Any) -> float:
    number = complex(value)
    return abs(number) if number.imag else number.real
