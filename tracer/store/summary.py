"""A few numbers about one tensor that do not depend on the order of its elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
"""Elements handled at a time: intermediate results stay in the cache and memory stays flat."""


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
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            block = np.abs(block) if block.dtype.kind == "c" else block
            block = block.astype(np.float64)
            good = np.isfinite(block)
            if not good.all():
                nan = int(np.isnan(block).sum())
                self._nans += nan
                self._infs += int(block.size - good.sum()) - nan
                block = block[good]
            if block.size:
                self._finite += block.size
                self._zeros += block.size - int(np.count_nonzero(block))
                self._low = min(self._low, float(block.min()))
                self._high = max(self._high, float(block.max()))
                self._total += float(block.sum())
                square = block * block
                self._squares += float(square.sum())
                self._cubes += float(np.dot(square, block))

    def result(self) -> dict[str, float | int]:
        """Minimum, maximum, mean, root mean square and mean cube of the finite values, and the counts of elements, NaN,
        Inf and zeros.

        The moments identify a tensor across layouts: transposing or flattening does not change them.
        """
        out: dict[str, float | int] = {
            "size": self._size, "nan": self._nans, "inf": self._infs, "zeros": self._zeros,
        }  # fmt: skip
        if self._finite:
            with np.errstate(over="ignore"):
                moments = {
                    "min": self._low,
                    "max": self._high,
                    "mean": self._total / self._finite,
                    "rms": float(np.sqrt(self._squares / self._finite)),
                    "cube": self._cubes / self._finite,
                }
            out |= {name: value for name, value in moments.items() if np.isfinite(value)}
        return out


def summarize(values: NDArray[Any]) -> dict[str, float | int]:
    """The numbers of one whole tensor: :meth:`Summary.result`."""
    summary = Summary()
    summary.add(values)
    return summary.result()
