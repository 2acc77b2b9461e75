"""A few numbers about one tensor that do not depend on the order of its elements."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Elements handled at a time: intermediate results stay in the cache and memory stays flat."""
_ROW = 1 << 13
"""Elements of one dot product: OpenBLAS hands those of more than 10,000 to several threads, which costs more than it
brings."""
_ONES = np.ones(BLOCK)


class Summary:
    """Gathers the numbers of a tensor that comes in pieces, in whatever order."""

    def __init__(self) -> None:
        self._low, self._high = np.inf, -np.inf
        self._total = self._squares = self._cubes = 0.0
        self._size = self._nans = self._infs = self._zeros = self._finite = 0

    def add(self, values: NDArray[Any]) -> None:
        """Take a piece of any shape."""
        flat = values.reshape(-1)
        self._size += int(flat.size)
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
        out: dict[str, float | int] = {
            "size": self._size, "nan": self._nans, "inf": self._infs, "zeros": self._zeros,
        }  # fmt: skip
        if self._finite:
            moments = {
                "min": self._low,
                "max": self._high,
                "mean": self._total / self._finite,
                "rms": math.sqrt(self._squares / self._finite),
                "cube": self._cubes / self._finite,
            }
            out |= {name: value for name, value in moments.items() if math.isfinite(value)}
        return out


def _dot(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    rows = left.size // _ROW
    whole = rows * _ROW
    found = float(np.dot(left[whole:], right[whole:]))
    if rows:
        found += float(np.vecdot(left[:whole].reshape(rows, _ROW), right[:whole].reshape(rows, _ROW)).sum())
    return found


def summarize(values: NDArray[Any]) -> dict[str, float | int]:
    """The numbers of one whole tensor: :meth:`Summary.result`."""
    summary = Summary()
    summary.add(values)
    return summary.result()
