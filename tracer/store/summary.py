"""A few numbers about tensors that do not depend on the order of their elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Elements handled at a time: intermediate results stay in the cache and memory stays flat."""
_ROW = 1 << 13
"""Elements of one dot product: OpenBLAS hands those of more than 10,000 to several threads, which costs more than it
brings."""
_ONES = np.ones(BLOCK)
_QUICK = 1 << 18
_SHORT = 512
"""Elements of a dot product in single precision, few enough for its rounding to stay near that of one element."""
_SHORT_ONES = np.ones(_SHORT, np.float32)
_TAME = 1e-9, 1e11
"""Between these lies the largest magnitude of a block whose cubes single precision can hold, and their sums."""


class Kernels(Protocol):
    """:mod:`tracer.store.kernels`, where it is loaded."""

    def copy(self, x: NDArray[np.float32], y: NDArray[np.float32], found: NDArray[np.float64], /) -> None: ...


class Summary:
    """Gathers the numbers of a tensor that comes in pieces, in whatever order.

    Args:
        quick: sum float32 in short pieces of single precision, which takes a third of the time: mean, root mean
            square and mean cube then hold to some 1e-7 of what they are made of, not to 1e-15.
    """

    def __init__(self, *, quick: bool = False) -> None:
        self._quick = quick
        self._low, self._high = np.inf, -np.inf
        self._total = self._squares = self._cubes = 0.0
        self._size = self._nans = self._infs = self._zeros = self._finite = 0
        self._found = np.zeros(6)

    def copy(self, values: NDArray[np.float32], into: NDArray[np.float32], kernels: Kernels) -> None:
        """Take a piece, of one axis, while it is copied: in the time of the copy."""
        kernels.copy(values, into, self._found)
        low, high, zeros, total, squares, cubes = self._found.tolist()
        least, greatest = _unordered(low), _unordered(high)
        if not (math.isfinite(least + greatest) and _TAME[0] < max(abs(least), abs(greatest)) < _TAME[1]):
            self.add(into)
            return
        self._low, self._high = min(self._low, least), max(self._high, greatest)
        self._size += values.size
        self._finite += values.size
        self._zeros += int(zeros)
        self._total += total
        self._squares += squares
        self._cubes += cubes

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, values: NDArray[Any]) -> None:
        """Take a piece of any shape."""
        flat = values.reshape(-1)
        self._size += int(flat.size)
        if self._quick and flat.dtype == np.float32 and flat.dtype.isnative:
            whole = flat.size - flat.size % _SHORT
            pieces = [flat[start : min(start + _QUICK, whole)] for start in range(0, whole, _QUICK)]
            left = [piece for piece in pieces if not self._add_quickly(piece)]
            for piece in (*left, flat[whole:]):
                self._add(piece)
        else:
            self._add(flat)

    def _add_quickly(self, block: NDArray[np.float32]) -> bool:
        """Take a block of whole short pieces, if its numbers are of a size that single precision can sum."""
        low, high = float(block.min()), float(block.max())
        if not _TAME[0] < max(abs(low), abs(high)) < _TAME[1]:  # NaN and Inf are not, either
            return False
        rows = block.reshape(-1, _SHORT)
        squares = np.multiply(rows, rows)
        self._low, self._high = min(self._low, low), max(self._high, high)
        self._finite += block.size
        self._zeros += int(np.count_nonzero(block == 0))
        self._total += float(np.vecdot(rows, _SHORT_ONES).sum(dtype=np.float64))
        self._squares += float(np.vecdot(rows, rows).sum(dtype=np.float64))
        self._cubes += float(np.vecdot(squares, rows).sum(dtype=np.float64))
        return True

    def _add(self, flat: NDArray[Any]) -> None:
        # The extremes of a narrow block are found faster than those of the widened one, where numpy has loops for it.
        narrow = flat.dtype.kind == "f" and flat.dtype.itemsize >= 4
        room, other = np.empty((2, min(BLOCK, flat.size)))
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            wide = room[: block.size]
            np.copyto(wide, np.abs(block) if block.dtype.kind == "c" else block, casting="unsafe")
            squares = _dot(wide, wide)
            if not math.isfinite(squares):  # NaN or Inf, or numbers whose squares overflow
                good = np.isfinite(wide)
                nan = int(np.isnan(wide).sum())
                self._nans += nan
                self._infs += int(wide.size - good.sum()) - nan
                wide = block = wide[good]
                if not wide.size:
                    continue
                squares = _dot(wide, wide)
            extremes = block if narrow else wide
            self._finite += wide.size
            self._zeros += int(np.count_nonzero(extremes == 0))
            self._low = min(self._low, float(extremes.min()))
            self._high = max(self._high, float(extremes.max()))
            self._total += _dot(_ONES[: wide.size], wide)
            self._squares += squares
            self._cubes += _dot(np.multiply(wide, wide, out=other[: wide.size]), wide)

    def result(self) -> dict[str, float | int]:
        """Minimum, maximum, mean, root mean square and mean cube of the finite values, and the counts of elements, NaN,
        Inf and zeros.

        The moments identify a tensor across layouts: transposing or flattening does not change them.
        """
        counts = self._size, self._nans, self._infs, self._zeros
        return _result(counts, self._finite, self._low, self._high, self._total, self._squares, self._cubes)


def _result(
    counts: tuple[int, int, int, int], finite: int, low: float, high: float, total: float, squares: float, cubes: float
) -> dict[str, float | int]:  # fmt: skip
    size, nans, infs, zeros = counts
    out: dict[str, float | int] = {"size": size, "nan": nans, "inf": infs, "zeros": zeros}
    if finite:
        moments = {
            "min": low, "max": high, "mean": total / finite, "rms": math.sqrt(squares / finite), "cube": cubes / finite,
        }  # fmt: skip
        if not math.isfinite(sum(moments.values())):
            moments = {name: value for name, value in moments.items() if math.isfinite(value)}
        out |= moments
    return out


def _unordered(order: float) -> float:
    """The number whose bits, as :mod:`tracer.store.kernels` orders them, are this whole number."""
    bits = int(order)
    return float(np.int32(bits ^ (bits >> 31 & 0x7FFFFFFF)).view(np.float32))


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    rows = left.size // _ROW
    whole = rows * _ROW
    found = float(np.dot(left[whole:], right[whole:]))
    if rows:
        found += float(np.vecdot(left[:whole].reshape(rows, _ROW), right[:whole].reshape(rows, _ROW)).sum())
    return found


def summarize(values: NDArray[Any], *, quick: bool = False) -> dict[str, float | int]:
    """The numbers of one whole tensor: :meth:`Summary.result`."""
    summary = Summary(quick=quick)
    summary.add(values)
    return summary.result()


def summaries(tensors: Sequence[NDArray[Any]]) -> list[dict[str, float | int]]:
    """:func:`summarize` of each of many small tensors, whose elements all together are in memory once more."""
    found: dict[int, dict[str, float | int]] = {}
    plain = [(place, values) for place, values in enumerate(tensors) if values.size and values.dtype.kind in "biuf"]
    if len(plain) > 1:
        sizes = np.array([values.size for _, values in plain])
        starts = np.cumsum(sizes) - sizes
        with np.errstate(over="ignore", invalid="ignore"):  # casting some NaN is invalid, too
            wide = np.concatenate([values.reshape(-1) for _, values in plain], dtype=np.float64, casting="unsafe")
            squared = wide * wide
            squares = np.add.reduceat(squared, starts)
            sums = [
                np.minimum.reduceat(wide, starts), np.maximum.reduceat(wide, starts), np.add.reduceat(wide, starts),
                squares, np.add.reduceat(squared * wide, starts),
            ]  # fmt: skip
        zeros = np.add.reduceat(wide == 0, starts, dtype=np.int64)
        rows = zip(sizes.tolist(), zeros.tolist(), *(column.tolist() for column in sums), strict=True)
        for (place, _), tame, (size, none, *numbers) in zip(plain, np.isfinite(squares).tolist(), rows, strict=True):
            if tame:  # NaN and Inf are counted one tensor at a time
                found[place] = _result((size, 0, 0, none), size, *numbers)
    return [found[place] if place in found else summarize(values) for place, values in enumerate(tensors)]
