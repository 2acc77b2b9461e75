"""How an error is spread over the axes of a tensor, gathered block by block."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LONGEST = 4096
"""Bins of an axis while it is gathered: of longer ones several positions share a bin."""
KEPT = 256
"""Bins of a profile that is kept."""
NEARLY_ALL = 0.999
"""Share of the squared error that says where it sits."""
_EXPLAINED = 1e-3
"""Share of the squared error that a fit may leave."""
_FEWEST = 8
"""Elements that a fitted number must stand for."""
ALWAYS, EVERY = 4, 4
"""Blocks that are all read to find a rule, and of the others one in so many."""
_LISTED = 8
"""Single positions that are told; of more only a run is."""
_THIN = 16
"""Row lengths below which a loop over the columns is faster than numpy's reduction of each row."""


@dataclass(frozen=True)
class Profile:
    """The error along one axis.

    Attributes:
        axis: of the tensors as they were compared.
        length: of the axis; bin ``i`` stands for the positions from ``i·step`` on.
        peaks: greatest |reference − candidate| in each bin.
        squares: sum of its squares in each bin, as a share of the whole.
    """

    axis: int
    length: int
    step: int
    peaks: tuple[float, ...]
    squares: tuple[float, ...]


@dataclass(frozen=True)
class Spot:
    """Positions of an axis that hold nearly all of the squared error.

    Attributes:
        positions: ascending; of a run its first and last.
        run: whether all positions between are meant.
        share: of the squared error, up to 1.
    """

    axis: int
    length: int
    positions: tuple[int, ...]
    run: bool
    share: float


Law = Literal["offset", "ratio", "affine"]


@dataclass(frozen=True)
class Fit:
    """A rule that the candidate's values follow: candidate = ratio · reference + offset.

    Attributes:
        law: what differs: the offset alone, the ratio alone, or both (``affine``).
        axis: along which each position has numbers of its own; None where one rule holds for the whole tensor.
        ratio, offset: smallest and greatest.
        left: share of the squared error that the rule does not explain.
    """

    law: Law
    axis: int | None
    ratio: tuple[float, float]
    offset: tuple[float, float]
    left: float


@dataclass(frozen=True)
class Where:
    """Where the error sits.

    Attributes:
        unequal: elements that differ.
        profiles: along each axis; none where the error is no more than rounding.
        spots: axes few of whose positions hold nearly all of the error.
        fit: a rule that explains it.
        negative: share of the squared error where the reference is negative; None where it has no negative or no
            positive values (or complex ones).
        channels: the axis that was taken for the channels'.
        names: of the axes, where they are factors of the tensors' own.
        frame: axes whose first and last position together hold nearly all of it, as at the padded rim of an image.
    """

    unequal: int
    profiles: tuple[Profile, ...] = ()
    spots: tuple[Spot, ...] = ()
    fit: Fit | None = None
    negative: float | None = None
    frame: tuple[int, ...] = ()
    channels: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """A piece of a tensor in C order: ``rows`` whole slices of axis ``split − 1`` from ``begin`` on, below ``lead``."""

    start: int
    lead: tuple[int, ...]
    begin: int
    rows: int


class Spread:
    """Sums and maxima along every axis.

    Args:
        shape: of the tensors.
        split: the trailing axes from here on lie whole in every block.
        channels: the axis along which a rule may change from position to position.
    """

    def __init__(self, shape: Sequence[int], split: int, channels: int | None) -> None:
        self._shape, self._row = tuple(shape), split - 1
        self._inner = math.prod(shape[split:])
        outer = range(split)
        self.steps = [-(-shape[axis] // LONGEST) for axis in outer]
        bins = [-(-shape[axis] // step) for axis, step in zip(outer, self.steps, strict=True)]
        # Sums of squares, and greatest errors, at each place of the outer axes, and of all inner ones together.
        self.outer = [np.zeros((2, n)) for n in bins]
        self.columns = np.zeros((2, self._inner))
        self._squares, self._peaks = [both[0] for both in self.outer], [both[1] for both in self.outer]
        self._inner_squares, self._inner_peaks = self.columns
        self._ones = np.ones(max(self._inner, 1 << 13))
        if channels is not None and (shape[channels] > LONGEST or len(shape) < 2):
            channels = None
        self.channels = channels
        self._blocks = self._read = 0
        self.skipped: NDArray[np.bool_] | None = None
        self.moments: NDArray[np.float64] | None = None
        if channels is not None:
            # Σx, Σd, Σx², Σxd, Σd², by channel, or by inner place where the channels are among the inner axes.
            self.moments = np.zeros((5, shape[channels] if channels < split else self._inner))
            self.skipped = np.zeros(shape[channels], bool)

    def skip(self, block: Block) -> None:
        """Take note of a block that no rule is to be read from although its values are not all zero."""
        if self.skipped is None or self.channels is None:
            return
        if self.channels > self._row:
            self.skipped[:] = True
        elif self.channels == self._row:
            self.skipped[block.begin : block.begin + block.rows] = True
        else:
            self.skipped[block.lead[self.channels]] = True

    def add(
        self,
        block: Block,
        x: NDArray[np.float64] | None,
        d: NDArray[np.float64],
        error: NDArray[np.float64],
        squares: NDArray[np.float64],
        total: float,
        peak: float,
        room: NDArray[np.float64],
    ) -> None:
        """Take a block.

        Args:
            x: the reference; None to read no rule from this block.
            d: reference − candidate, with ``error`` = |d|, its ``squares``, their ``total`` and the ``peak`` of error.
            room: worked in.
        """
        for axis, place in enumerate(block.lead):
            at = place // self.steps[axis]
            self._squares[axis][at] += total
            self._peaks[axis][at] = max(self._peaks[axis][at], peak)
        rows, q = block.rows, self._inner
        if rows == 1:
            self._inner_squares += squares
            np.maximum(self._inner_peaks, error, out=self._inner_peaks)
        elif q == 1:
            self._inner_squares[0] += total
            self._inner_peaks[0] = max(self._inner_peaks[0], peak)
        else:
            self._inner_squares += self._ones[:rows] @ squares.reshape(rows, q)
            columns = np.maximum.reduce(error.reshape(rows, q), axis=0)
            np.maximum(self._inner_peaks, columns, out=self._inner_peaks)
        if self._row >= 0:
            self._add_rows(block, error, squares)
        if x is not None and self.moments is not None:
            self._blocks += 1
            # Where every block shows every channel some are enough.
            if self._blocks <= ALWAYS or self._blocks % EVERY == 0 or (self.channels or 0) <= self._row:
                self._read += block.rows
                self._add_moments(block, x, d, room)

    def _add_rows(self, block: Block, error: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        sums, peaks = self._sums(block, squares), _row_peaks(error.reshape(block.rows, self._inner))
        step = self.steps[self._row]
        first = block.begin // step
        if step > 1:
            edges = np.arange(-(block.begin % step), block.rows, step)
            edges[0] = 0
            sums, peaks = np.add.reduceat(sums, edges), np.maximum.reduceat(peaks, edges)
        part = slice(first, first + len(sums))
        self._squares[self._row][part] += sums
        np.maximum(self._peaks[self._row][part], peaks, out=self._peaks[self._row][part])

    def _sums(self, block: Block, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of each row."""
        if self._inner == 1:
            return values
        return values.reshape(block.rows, self._inner) @ self._ones[: self._inner]

    def _add_moments(
        self, block: Block, x: NDArray[np.float64], d: NDArray[np.float64], room: NDArray[np.float64]
    ) -> None:
        assert self.moments is not None
        for moment, values, factor in zip(self.moments, (x, d, x, x, d), (None, None, x, d, d), strict=True):
            self._marginal(moment, block, values if factor is None else np.multiply(values, factor, out=room))

    def _marginal(self, sums: NDArray[np.float64], block: Block, values: NDArray[np.float64]) -> None:
        """Add what ``values`` sum up to in each channel, or at each inner place."""
        assert self.channels is not None
        if self.channels > self._row:
            columns = values.reshape(block.rows, self._inner)
            sums += columns[0] if block.rows == 1 else self._ones[: block.rows] @ columns
        elif self.channels == self._row:
            sums[block.begin : block.begin + block.rows] += self._sums(block, values)
        else:
            sums[block.lead[self.channels]] += np.add.reduce(values)

    def merge(self, other: Spread) -> None:
        """Take what was gathered of another part of the same tensors."""
        for ours, theirs in ((self.columns, other.columns), *zip(self.outer, other.outer, strict=True)):
            ours[0] += theirs[0]
            np.maximum(ours[1], theirs[1], out=ours[1])
        self._read += other._read
        if self.moments is not None and other.moments is not None:
            self.moments += other.moments
        if self.skipped is not None and other.skipped is not None:
            self.skipped |= other.skipped

    def take(
        self,
        leads: NDArray[np.float64],
        moments: NDArray[np.float64] | None,
        skipped: NDArray[np.bool_] | None,
        read: int,
    ) -> None:
        """Take what was gathered by whole leads, in C order: sums of squares and greatest errors; moments and skips
        too, where the channels are among their axes. ``read`` rows of blocks were read for rules."""
        shape = self._shape[: max(0, self._row)]
        self._read += read
        for axis in range(len(shape)):
            others = tuple(i for i in range(len(shape)) if i != axis)
            squares, peaks = leads[0].reshape(shape).sum(others), leads[1].reshape(shape).max(others)
            edges = np.arange(0, shape[axis], self.steps[axis])
            self._squares[axis] += np.add.reduceat(squares, edges)
            np.maximum(self._peaks[axis], np.maximum.reduceat(peaks, edges), out=self._peaks[axis])
        if moments is not None and skipped is not None and self.channels is not None:
            others = tuple(i for i in range(len(shape)) if i != self.channels)
            assert self.moments is not None
            assert self.skipped is not None
            self.moments += moments.reshape(5, *shape).sum(tuple(i + 1 for i in others))
            self.skipped |= skipped.reshape(shape).any(others)

    def scale(self, factor: float) -> None:
        """Take all that was added as multiplied by ``factor``."""
        for squares in (*self._squares, self._inner_squares):
            squares *= factor * factor
        for peaks in (*self._peaks, self._inner_peaks):
            peaks *= factor
        if self.moments is not None:
            self.moments *= np.array([[factor], [factor], [factor * factor], [factor * factor], [factor * factor]])

    def result(self, unequal: int, total: float, whole: float, tensor: Fit | None, exponent: int) -> Where:
        """What was found.

        Args:
            total: sum of the squares that were added, of the ``whole`` of all.
            tensor: a rule that holds for the whole tensor.
            exponent: all lengths are multiplied by two to this power.
        """
        profiles, spots = [], []
        inner = self._shape[self._row + 1 :]
        if total <= 0:
            return Where(unequal, channels=self.channels)
        for axis, length in enumerate(self._shape):
            if length < 2:
                continue
            if axis <= self._row:
                squares, peaks, step = self._squares[axis], self._peaks[axis], self.steps[axis]
            else:
                others = tuple(i for i in range(len(inner)) if i != axis - self._row - 1)
                squares = self._inner_squares.reshape(inner).sum(others)
                peaks, step = self._inner_peaks.reshape(inner).max(others), 1
            squares = squares / whole
            spot = _spot(axis, length, squares) if step == 1 else None
            if spot is not None:
                spots.append(spot)
            profiles.append(_profile(axis, length, step, squares, _longer(peaks, exponent)))
        fit = tensor or self._fit()
        if fit is not None:
            low, high = _longer(np.array(fit.offset), exponent).tolist()
            fit = replace(fit, offset=(low, high))
        frame = () if spots else self._frame(profiles)
        return Where(unequal, tuple(profiles), tuple(spots), fit, None, frame, self.channels)

    def _frame(self, profiles: Sequence[Profile]) -> tuple[int, ...]:
        inside = [p for p in profiles if p.axis not in (0, self.channels) and p.step == 1 and p.length >= 5]
        ends = [p.squares[0] + p.squares[-1] for p in inside]
        found = tuple(p.axis for p, end in zip(inside, ends, strict=True) if end > 4 / p.length)
        return found if len(found) > 1 and sum(ends) >= NEARLY_ALL else ()

    def _fit(self) -> Fit | None:
        """A rule with numbers of its own for each channel."""
        if self.moments is None or self.channels is None or self.skipped is None:
            return None
        length = self._shape[self.channels]
        count = math.prod(self._shape) // length
        if self.channels > self._row:
            inner = self._shape[self._row + 1 :]
            others = tuple(i for i in range(len(inner)) if i != self.channels - self._row - 1)
            x, d, xx, xd, dd = (moment.reshape(inner).sum(others) for moment in self.moments)
            count = self._read * self._inner // length
        else:
            x, d, xx, xd, dd = self.moments
        busy = dd > 1e-6 * dd.max()
        total = float(dd[busy].sum())
        if count < _FEWEST or total <= 0 or (self.skipped & busy).any():
            return None  # too few, or some of the elements were not looked at
        x, d, xx, xd, dd = x[busy], d[busy], xx[busy], xd[busy], dd[busy]
        with np.errstate(all="ignore"):
            ratio = np.nan_to_num(xd / xx)
            spread = xx - x * x / count
            slope = np.nan_to_num((xd - x * d / count) / spread)
            laws: list[tuple[Law, NDArray[Any], NDArray[Any], NDArray[Any]]] = [
                ("ratio", ratio, ratio * 0, dd - ratio * xd),
                ("offset", ratio * 0, d / count, dd - d * d / count),
                ("affine", slope, (d - slope * x) / count, dd - d * d / count - slope * (xd - x * d / count)),
            ]
        for law, slopes, offsets, left in laws:
            share = float(np.maximum(left, 0).sum()) / total
            if share <= _EXPLAINED and (law != "affine" or count >= 2 * _FEWEST):
                return Fit(
                    law, self.channels, (1 - float(slopes.max()), 1 - float(slopes.min())),
                    (-float(offsets.max()), -float(offsets.min())), share,
                )  # fmt: skip
        return None


def of_tensor(count: int, d: float, xx: float, xd: float, dd: float) -> Fit | None:
    """A rule that holds for the whole tensor, from the sums of d = reference − candidate and x = reference."""
    if count < _FEWEST or dd <= 0:
        return None
    if xx > 0:
        left = max(0.0, dd - xd * xd / xx) / dd
        if left <= _EXPLAINED:
            ratio = 1 - xd / xx
            return Fit("ratio", None, (ratio, ratio), (0.0, 0.0), left)
    left = max(0.0, dd - d * d / count) / dd
    return Fit("offset", None, (1.0, 1.0), (-d / count, -d / count), left) if left <= _EXPLAINED else None


def _longer(values: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """``values`` times a power of two; what no double holds becomes the greatest one."""
    greatest = sys.float_info.max
    return np.clip(np.ldexp(values, exponent), -greatest, greatest) if exponent else values


def _row_peaks(error: NDArray[np.float64]) -> NDArray[np.float64]:
    columns = error.shape[1]
    if columns == 1:
        return error[:, 0]
    if columns >= _THIN:
        return np.asarray(np.maximum.reduce(error, axis=1))
    out = np.maximum(error[:, 0], error[:, 1])
    for column in range(2, columns):
        np.maximum(out, error[:, column], out=out)
    return out


def _spot(axis: int, length: int, squares: NDArray[np.float64]) -> Spot | None:
    """The positions that hold nearly all of the error, if they are few and can be told in words."""
    order = np.argsort(squares, kind="stable")[::-1]
    running = np.cumsum(squares[order])
    count = int(np.searchsorted(running, NEARLY_ALL)) + 1
    if count > max(1, length // 4):
        return None
    places = np.sort(order[:count])
    share = min(1.0, float(running[count - 1]))
    run = count > 1 and int(places[-1] - places[0]) == count - 1
    if run:
        return Spot(axis, length, (int(places[0]), int(places[-1])), True, share)
    return Spot(axis, length, tuple(int(p) for p in places), False, share) if count <= _LISTED else None


def _profile(axis: int, length: int, step: int, squares: NDArray[np.float64], peaks: NDArray[np.float64]) -> Profile:
    more = -(-len(peaks) // KEPT)
    if more > 1:
        edges = np.arange(0, len(peaks), more)
        squares, peaks = np.add.reduceat(squares, edges), np.maximum.reduceat(peaks, edges)
    return Profile(axis, length, step * more, tuple(peaks.tolist()), tuple(squares.tolist()))
