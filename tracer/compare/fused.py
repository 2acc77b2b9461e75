"""A part of two tensors walked over by the compiled kernels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.compare import slots, ulps
from tracer.compare.envelope import MOST, Point, outer
from tracer.compare.spread import ALWAYS, EVERY
from tracer.compare.walk import BLOCK, ROUNDING, Asked, Walk

_TOGETHER = 16
"""Blocks that are brought into one form at a time where the tensors are not as the kernels want them."""
_OFFSETS = [2, 3, *range(10, 16)]
"""Places of the offsets among the numbers of the lines that lie under the hull."""
NOTHING = -(1 << 62)
"""The difference of bits of the greatest error and its unit before there is one."""
_SMALLEST = 2.0**-126
"""The smallest normal number of single precision."""


def fits(asked: Asked) -> bool:
    """Whether the kernels take these tensors: single precision holds every element of both."""
    return all(_single(side.dtype) for side in asked.sides) and (
        not asked.epsilon or dtypes.smallest_normal(asked.coarsest) >= _SMALLEST
    )


def _single(dtype: np.dtype[Any]) -> bool:
    return dtype == np.float32 or (dtype.itemsize <= 2 and dtype.kind in "biufV" and dtype.names is None)


class Fused:
    """Walks over some blocks of two tensors.

    What the kernels leave alone (blocks whose differences overflow single precision) numpy takes.
    """

    def __init__(self, asked: Asked, kernels: SimpleNamespace) -> None:
        self._asked, self._kernels, self._grid = asked, kernels, asked.grid
        self._walk: Walk | None = None
        self._spread = asked.spread()
        grid, channels, row = self._grid, self._spread.channels, self._grid.split - 1
        leads = int(np.prod(grid.leads, dtype=np.int64))
        self._numbers, self._counts = np.zeros(12), np.zeros(21, np.int64)
        self._numbers[slots.LARGEST], self._counts[slots.WORST] = -1.0, -1
        self._counts[[slots.CONSTANT_A, slots.CONSTANT_B]] = 1
        self._counts[slots.ULP_TOP] = NOTHING
        firsts = (float(asked.first(side)) for side in (0, 1))
        self._given = np.array([ROUNDING * asked.epsilon, asked.atol, asked.rtol, *firsts])
        where = slots.NONE
        if channels is not None:
            where = slots.INNER if channels > row else slots.ROW if channels == row else slots.LEAD
        step = self._spread.steps[row] if row >= 0 else 1
        self._chosen = np.array(
            [-1 if asked.epsilon else 0, 0, 0, ulps.STRIDE, ulps.ALL, where, step, MOST, EVERY, ALWAYS]
        )
        self._hull = np.zeros((2, MOST + BLOCK + 2))
        self._lines = np.zeros(16, np.float32)
        self._lines[_OFFSETS] = -np.inf
        self._bins = np.zeros(ulps.BINS)
        self._leads = np.zeros((2, leads))
        self._rows = self._spread.outer[row] if row >= 0 else np.zeros((2, 1))
        apart = where == slots.LEAD
        moments, skipped = self._spread.moments, self._spread.skipped
        self._moments = np.zeros((5, leads if apart else 1)) if apart or moments is None else moments
        self._skipped = np.zeros(leads if apart else 1, bool) if apart or skipped is None else skipped
        self._room = np.zeros((3, BLOCK // 2), np.int64)

    def over(self, first: int, last: int) -> Walk:
        """What blocks from ``first`` up to ``last`` say."""
        grid, (a, b) = self._grid, self._asked.sides
        if all(_plain(side) for side in (a, b)):
            part = slice(grid.start(first), grid.start(last))
            self._take(a.reshape(-1)[part], b.reshape(-1)[part], first)
        else:
            room = np.empty((2, _TOGETHER * BLOCK), np.float32)
            for lead, begin, end in grid.runs(first, last, _TOGETHER):
                left, right = (
                    self._flat(grid.rows(side, lead, begin, end), some) for side, some in zip((a, b), room, strict=True)
                )
                self._take(left, right, lead * -(-grid.length // grid.step) + begin // grid.step)
        return self._result()

    def _flat(self, values: NDArray[Any], room: NDArray[np.float32]) -> NDArray[np.float32]:
        """The elements in C order in single precision: themselves, if they lie so."""
        if _plain(values):
            return values.reshape(-1)
        out = room[: values.size]
        shaped = out.reshape(values.shape)
        merged = _merged(values) if values.dtype == np.float32 and values.flags.aligned else None
        if merged is None:
            np.copyto(shaped, values, casting="unsafe")
        else:
            self._kernels.gather(merged, out.reshape(merged.shape))
        return out

    def _take(self, left: NDArray[np.float32], right: NDArray[np.float32], first: int) -> None:
        """Take the elements of whole blocks, from the ``first`` on."""
        grid, base, done = self._grid, self._grid.start(first), 0
        while done < left.size:
            block = grid.at(base + done)
            lead, begin = grid.place(block)
            taken = self._kernels.walk(
                left[done:], right[done:], lead, begin, grid.length, grid.inner, grid.step, self._numbers, self._counts,
                self._given, self._chosen, self._hull, self._lines, self._bins, self._leads, self._rows,
                self._spread.columns, self._moments, self._skipped, self._room,
            )  # fmt: skip
            done += taken
            if done < left.size and not self._went_on():
                block = grid.at(base + done)
                self._walk = self._walk or Walk(self._asked)
                for piece, ours, theirs in grid.blocks(*self._asked.sides, block, block + 1):
                    self._walk.add(piece, ours, theirs)
                done = grid.start(block + 1) - base

    def _went_on(self) -> bool:
        """Clear away what the kernels stopped for, if that can be."""
        if self._counts[slots.HULL] > MOST:
            points = outer(self._points(), MOST // 2)
            self._hull[:, : len(points)] = np.array(points).T
            self._counts[slots.HULL] = len(points)
            self._lines[_OFFSETS] = -np.inf  # until the next vertex
            return True
        if self._chosen[slots.ULPS] < 0:
            counting = self._asked.counting()
            self._chosen[slots.ULPS] = counting is not None
            if counting is not None:
                self._chosen[[slots.FLOOR, slots.SHIFTED]] = counting.floor_bits, counting.shift
            return True
        return False

    def _points(self) -> list[Point]:
        hull = self._hull[:, : self._counts[slots.HULL]]
        return list(zip(*hull.tolist(), strict=True))

    def _result(self) -> Walk:
        """All that was found, in one walk."""
        counts, found = self._counts.tolist(), Walk(self._asked)
        (
            found.xx, found.yy, found.xy, found.xd, found.squares, found.sum, found.shift, found.signed, found.located,
            found.largest, found.reference_max, found.zeros_max,
        ) = self._numbers.tolist()  # fmt: skip
        found.worst = counts[slots.WORST] if found.largest >= 0 else None
        found.outside, found.nonfinite, found.finite, found.unequal = counts[slots.OUTSIDE : slots.UNEQUAL + 1]
        found.nan, found.inf = counts[slots.NAN_A : slots.INF_A], counts[slots.INF_A : slots.ZEROS]
        found.zeros = counts[slots.ZEROS]
        found.constant = [bool(flag) for flag in counts[slots.CONSTANT_A : slots.NEGATIVE]]
        found.signs = [bool(flag) for flag in counts[slots.NEGATIVE : slots.SEEN]]
        found.hull.points = self._points()
        if counts[slots.SEEN]:
            found.ulps = self._asked.counting()
            if found.ulps is not None:
                found.ulps.take(self._bins, counts[slots.ULP_TOP])
        if counts[slots.SPREAD]:
            apart = self._chosen[slots.CHANNELS] == slots.LEAD
            moments, skipped = (self._moments, self._skipped) if apart else (None, None)
            self._spread.take(self._leads, moments, skipped, counts[slots.READ])
            found.spread = self._spread
        if self._walk is not None:
            found.merge(self._walk)
        return found


def _plain(values: NDArray[Any]) -> bool:
    """Whether the kernels read this array as it is."""
    return values.dtype == np.float32 and values.flags.c_contiguous and values.flags.aligned


def _merged(values: NDArray[Any]) -> NDArray[Any] | None:
    """The same elements seen along three axes, the last of which is not dense; None where more are needed, or fewer."""
    axes: list[tuple[int, int]] = []
    for length, stride in zip(values.shape, values.strides, strict=True):
        if length == 1:
            continue
        if axes and axes[-1][1] == stride * length:
            axes[-1] = axes[-1][0] * length, stride
        else:
            axes.append((length, stride))
    if not 2 <= len(axes) <= 3 or axes[-1][1] == values.itemsize:
        return None
    shape = [length for length, _ in axes]
    return values.reshape(*[1] * (3 - len(shape)), *shape)
