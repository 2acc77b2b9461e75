"""How far two tensors are apart, in one walk over both."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.compare.envelope import Envelope, Gathering
from tracer.compare.spread import Block, Fit, Spread, Where, of_tensor
from tracer.compare.ulps import Counting, Ulps
from tracer.store.sources import forget

BLOCK = 1 << 13
"""Elements compared at a time: intermediate results stay in the cache, below the size at which the allocator asks the
kernel for fresh pages each time, and below the one above which OpenBLAS starts threads for a product, which on a busy
machine wait for each other longer than they work."""
RTOLS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative tolerances that people ask for."""
_SAFE = 1e140
"""Magnitudes up to which, and down to the inverse of which, squares and their sums neither overflow nor vanish."""
_ROUNDING = 16.0
"""Errors up to so many units of the machine epsilon, relative to a block's greatest value, are taken for rounding: it
is everywhere and follows no rule, so its place is not looked for."""
_KEPT = 1 << 22
"""Elements after which the pages of tensors that lie in files are let go of, so that memory stays flat."""
_EXACT = 2.0**53
"""Whole numbers up to which a double holds each."""


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
        """Whether the tensors agree within a tolerance, whichever was asked for."""
        return not self.nonfinite and self.sufficient_atol(rtol) <= atol

    def sufficient_atol(self, rtol: float) -> float:
        """The smallest absolute tolerance under which |reference − candidate| ≤ atol + rtol·|reference| holds for all
        finite elements."""
        return self.envelope.atol(rtol)

    def at(self, atol: float, rtol: float) -> Stats:
        """The same for another tolerance; ``outside`` is None where only the tensors could tell it."""
        if (atol, rtol) == (self.atol, self.rtol):
            return self
        outside = self.nonfinite if self.sufficient_atol(rtol) <= atol else None
        return replace(self, atol=atol, rtol=rtol, outside=outside)


def compare(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    atol: float = 1e-5,
    rtol: float = 1e-5,
    *,
    channels: int | None = None,
    coarsest: str | None = None,
    rms: float | None = None,
) -> Stats:
    """Statistics of two tensors of the same shape (transpose the candidate first; views are fine).

    Memory stays at a few blocks whatever the size.

    Args:
        channels: the axis along which a layer's parameters vary; rules that hold per channel are looked for there.
        coarsest: the element type whose units of the last place count; by default the coarser one of the two.
        rms: root mean square of the reference, where it is known; else it costs a look of its own.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    with np.errstate(all="ignore"):
        walk = _Walk(reference, candidate, atol, rtol, channels, coarsest, rms)
        for block, left, right in _blocks(reference, candidate):
            walk.add(block, left, right)
        return walk.result()


def outside(reference: NDArray[Any], candidate: NDArray[Any], atol: float, rtol: float) -> int:
    """Elements outside a tolerance, as :func:`compare` counts them. Raises ValueError as it does."""
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    found = 0
    with np.errstate(all="ignore"):
        for _, left, right in _blocks(reference, candidate):
            if np.array_equal(left, right):
                continue
            found += _outside(left, right, atol, rtol)
    return found


def _outside(left: NDArray[Any], right: NDArray[Any], atol: float, rtol: float) -> int:
    if "c" not in (left.dtype.kind, right.dtype.kind):
        x, y, bound = (room[: left.size] for room in (_ROOM.x, _ROOM.y, _ROOM.free))
        np.copyto(x, left, casting="unsafe")
        np.copyto(y, right, casting="unsafe")
        np.subtract(x, y, out=y)
        np.multiply(np.abs(x, out=bound), rtol, out=bound)
        bound += atol
        if math.isfinite(float(np.dot(y, y))):
            return int(np.count_nonzero(np.abs(y, out=y) > bound))
    wide, other = dtypes.as_float64(left), dtypes.as_float64(right)
    within = np.abs(wide - other) <= atol + rtol * np.abs(wide)
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    return int(within.size - np.count_nonzero((within & np.isfinite(wide)) | same))


class _Room(threading.local):
    """Arrays that the blocks are worked on in: fresh ones would cost more than the work."""

    def __init__(self) -> None:
        self.x, self.y, self.d, self.error, self.magnitude, self.squares, self.free = np.empty((7, BLOCK))
        self.bits = np.empty(BLOCK, np.int64)
        self.one, self.other = np.empty((2, BLOCK), bool)


_ROOM = _Room()


class _Walk:
    """What was found so far. All lengths are of tensors multiplied by ``2 ** -exponent``, so that squares fit."""

    def __init__(
        self,
        reference: NDArray[Any],
        candidate: NDArray[Any],
        atol: float,
        rtol: float,
        channels: int | None,
        coarsest: str | None,
        rms: float | None,
    ) -> None:
        self._sides = reference, candidate
        self._atol, self._rtol = atol, rtol
        types = {reference.dtype.name, candidate.dtype.name}
        self._complex = any(side.dtype.kind == "c" for side in self._sides)
        self._whole = all(side.dtype.kind in "iub" for side in self._sides)
        self._wide = bool(types & {"float64", "complex128"})
        self._coarsest = coarsest or max(sorted(types), key=dtypes.epsilon)
        self._epsilon = 0.0 if self._whole else dtypes.epsilon(self._coarsest)
        self._rms = rms
        self._channels = None if self._complex else channels
        self._exponent: int | None = None
        self._sum = self._squares = self._xx = self._yy = self._xy = self._xd = self._shift = self._signed = 0.0
        self._located = 0.0
        self._largest, self._reference_max = -1.0, 0.0
        self._worst: int | None = None
        self._outside = self._nonfinite = self._finite = self._unequal = 0
        self._nan, self._inf = [0, 0], [0, 0]
        self._zeros, self._zeros_max = 0, 0.0
        self._constant = [reference.size > 0, candidate.size > 0]
        self._signs = [False, False]
        self._hull = Gathering()
        self._ulps: Counting | None = None
        self._spread: Spread | None = None

    @property
    def _scale(self) -> float:
        return math.ldexp(1.0, -(self._exponent or 0))

    def add(self, block: Block, left: NDArray[Any], right: NDArray[Any]) -> None:
        for side, values in enumerate((left, right)):
            if self._constant[side]:
                self._constant[side] = bool((values == self._first(side)).all())
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

    def _first(self, side: int) -> Any:
        return self._sides[side][(0,) * self._sides[side].ndim]

    def _equal(self, block: Block, values: NDArray[Any]) -> None:
        x = self._widened(values, _ROOM.x)
        if self._wide:
            self._fit(_peak(x), x)
        square = float(np.vdot(x, x).real)
        at = 0
        if not math.isfinite(square):
            finite = np.isfinite(x)
            at = int(finite.argmax())
            x = x[finite]
            for side in (0, 1):
                self._inf[side] += values.size - x.size
            square = float(np.vdot(x, x).real)
            if not x.size:
                return
        self._finite += x.size
        self._xx += square
        self._yy += square
        self._xy += square
        self._reference_max = max(self._reference_max, float(np.abs(x).max()))
        if self._largest < 0:
            self._largest, self._worst = 0.0, block.start + at
        if square:
            self._look_at_signs(x)
            if self._channels is not None:
                self._spread = self._spread or self._fresh()
                self._spread.skip(block)

    def _apart(self, block: Block, left: NDArray[Any], right: NDArray[Any]) -> None:
        room, size = _ROOM, left.size
        x, y = self._widened(left, room.x), self._widened(right, room.y)
        if self._wide:
            self._fit(max(_peak(x), _peak(y)), x, y)
        xx, yy = float(np.vdot(x, x).real), float(np.vdot(y, y).real)
        if not math.isfinite(xx + yy):
            self._drop_nonfinite(x, y)
            xx, yy = float(np.vdot(x, x).real), float(np.vdot(y, y).real)
        else:
            self._finite += size
        d: NDArray[Any] = np.subtract(x, y, out=None if self._complex else room.d[:size])
        if left.dtype.kind in "iu" and right.dtype.kind in "iu" and max(_peak(x), _peak(y)) > _EXACT:
            np.copyto(d, left.astype(np.longdouble) - right.astype(np.longdouble), casting="unsafe")
        error = np.abs(d, out=room.error[:size])
        magnitude = np.abs(x, out=room.magnitude[:size])
        at = int(error.argmax())
        largest = float(error[at])
        if largest > self._largest:
            self._largest, self._worst = largest, block.start + at
        self._xx += xx
        self._yy += yy
        self._xy += float(np.vdot(x, y).real)
        peak = float(np.maximum.reduce(magnitude))
        self._reference_max = max(self._reference_max, peak)
        if not self._complex:
            self._look_at_signs(x)
        if largest == 0:
            return
        one, other, free = room.one[:size], room.other[:size], room.free[:size]
        self._unequal += size - int(np.count_nonzero(np.equal(error, 0, out=one)))
        scale = self._scale
        if largest > self._atol * scale:
            np.multiply(magnitude, self._rtol, out=free)
            free += self._atol * scale
            self._outside += int(np.count_nonzero(np.greater(error, free, out=one)))
        self._hull.add(magnitude, error, largest, free, one)
        np.not_equal(np.equal(x, 0, out=one), np.equal(y, 0, out=other), out=one)
        if (alone := int(np.count_nonzero(one))) > 0:
            self._zeros += alone
            self._zeros_max = max(self._zeros_max, float(error[one].max()))
        total = float(np.vdot(error, error))
        self._sum += float(np.add.reduce(error))
        self._squares += total
        self._xd += float(np.vdot(x, d).real)
        if not self._complex:
            self._shift += float(np.add.reduce(d))
        if self._ulps is None and self._epsilon:
            self._rms = _rms(self._sides[0]) if self._rms is None else self._rms
            if self._rms > 0:
                self._ulps = Counting(self._coarsest, self._rms)
        if self._ulps is not None:
            self._ulps.add(magnitude, error, scale, room.bits[:size])
        self._spread = self._spread or self._fresh()
        if largest <= _ROUNDING * self._epsilon * peak:
            self._spread.skip(block)
            return
        squares = np.multiply(error, error, out=room.squares[:size])
        if not self._complex:
            self._signed += float(np.add.reduce(np.copysign(squares, x, out=free)))
        self._located += total
        self._spread.add(block, None if self._complex else x, d, error, squares, total, largest, free)

    def _fresh(self) -> Spread:
        shape = self._sides[0].shape
        return Spread(shape, _split(shape), self._channels)

    def _look_at_signs(self, x: NDArray[Any]) -> None:
        if not self._complex and not all(self._signs):
            self._signs = [self._signs[0] or bool((x < 0).any()), self._signs[1] or bool((x > 0).any())]

    def _drop_nonfinite(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Count what is no number, and put zeros there on both sides."""
        good = np.isfinite(x) & np.isfinite(y)
        same = (np.isnan(x) & np.isnan(y)) | (x == y)
        for side, values in enumerate((x, y)):
            nan = int(np.count_nonzero(np.isnan(values)))
            self._nan[side] += nan
            self._inf[side] += int(values.size - np.count_nonzero(np.isfinite(values))) - nan
        bad = int(np.count_nonzero(~good & ~same))
        self._nonfinite += bad
        self._outside += bad
        self._finite += int(np.count_nonzero(good))
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
        self._sum *= factor
        self._shift *= factor
        for name in ("_squares", "_xx", "_yy", "_xy", "_xd", "_signed", "_located"):
            setattr(self, name, getattr(self, name) * factor * factor)
        self._largest *= factor if self._largest > 0 else 1
        self._reference_max *= factor
        self._zeros_max *= factor
        self._hull.scale(factor)
        if self._spread is not None:
            self._spread.scale(factor)

    def result(self) -> Stats:
        reference, candidate = self._sides
        exponent = self._exponent or 0
        norm, other = math.sqrt(self._xx), math.sqrt(self._yy)
        index = None if self._worst is None else np.unravel_index(self._worst, reference.shape)
        argmax = None if index is None else tuple(int(i) for i in index)
        cosine, angle = None, None
        if norm > 0 and other > 0:
            cosine = max(-1.0, min(1.0, self._xy / norm / other))
            angle = 1 - cosine
            if self._squares < norm * other:
                # From the differences, which do not cancel where the tensors are alike.
                apart = (2 * self._xd - self._squares) / (norm + other)  # ‖x‖ − ‖y‖
                angle = max(0.0, (self._squares - apart * apart) / (2 * norm * other))
        where = None
        if self._spread is not None and self._squares > 0:
            law = None if self._complex else self._law()
            where = self._spread.result(self._unequal, self._located, self._squares, law, exponent)
            if all(self._signs) and self._located > 0:
                where = replace(where, negative=min(1.0, max(0.0, 0.5 - 0.5 * self._signed / self._located)))
        length = partial(_longer, exponent=exponent)
        return Stats(
            size=reference.size,
            max_abs=length(max(0.0, self._largest)),
            mean_abs=length(self._sum / reference.size if reference.size else 0.0),
            rel_l2=math.sqrt(self._squares) / norm if norm > 0 else (0.0 if self._squares == 0 else math.inf),
            cosine=cosine,
            argmax=argmax,
            reference_max=length(self._reference_max),
            envelope=self._hull.result(length),
            outside=self._outside,
            nonfinite=self._nonfinite,
            worst=None if argmax is None else (_scalar(reference[argmax]), _scalar(candidate[argmax])),
            atol=self._atol,
            rtol=self._rtol,
            angle=angle,
            nonfinites=NonFinite(*self._nan, *self._inf),
            ulps=self._ulps.result(self._finite) if self._ulps is not None else None,
            zeros=(self._zeros, length(self._zeros_max)),
            constant=(self._constant_value(0), self._constant_value(1)),
            where=where,
        )

    def _law(self) -> Fit | None:
        return of_tensor(self._finite, self._shift, self._xx, self._xd, self._squares)

    def _constant_value(self, side: int) -> float | None:
        return _scalar(self._first(side)) if self._constant[side] else None


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


def _rms(values: NDArray[Any]) -> float:
    """Root mean square of the finite elements."""
    norm, count = 0.0, 0
    for _, block, _ in _blocks(values, values):
        x = dtypes.as_float64(block)
        x = x[np.isfinite(x)]
        peak = _peak(x) if x.size else 0.0
        norm = math.hypot(norm, peak * float(np.linalg.norm(x / peak))) if peak > 0 else norm
        count += x.size
    return norm / math.sqrt(count) if count else 0.0


def _scalar(value: Any) -> float:
    number = complex(value)
    return abs(number) if number.imag else number.real


def _split(shape: tuple[int, ...]) -> int:
    """The first of the trailing axes that fit a block together."""
    split, inner = len(shape), 1
    while split > 0 and inner * shape[split - 1] <= BLOCK:
        split -= 1
        inner *= shape[split]
    return split


def _blocks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[Block, NDArray[Any], NDArray[Any]]]:
    """Blocks of about :data:`BLOCK` elements with both sides' elements, in C order of ``a``."""
    if a.size == 0:
        return
    split = _split(a.shape)
    if split == 0:
        yield Block(0, (), 0, 1), a.reshape(-1), b.reshape(-1)
        return
    inner = math.prod(a.shape[split:])
    step = max(1, BLOCK // inner)
    length = a.shape[split - 1]
    kept = 0
    for number, lead in enumerate(np.ndindex(*a.shape[: split - 1])):
        ours, theirs = a[lead], b[lead]
        for begin in range(0, length, step):
            part = slice(begin, min(begin + step, length))
            start = (number * length + begin) * inner
            rows = part.stop - begin
            kept += rows * inner
            if kept > _KEPT:
                kept = 0
                forget(a)
                forget(b)
            yield Block(start, lead, begin, rows), ours[part].reshape(-1), theirs[part].reshape(-1)
