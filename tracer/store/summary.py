"""A few numbers about one tensor that do not depend on the order of its elements."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
"""Elements handled at a time: intermediate results stay in the cache and memory stays flat."""


def summarize(values: NDArray[Any]) -> dict[str, float | int]:
    """Minimum, maximum, mean, root mean square and mean cube of the finite values, and the counts of NaN and Inf.

    The moments identify a tensor across layouts: transposing or flattening does not change them.
    """
    flat = values.reshape(-1)
    low, high = np.inf, -np.inf
    total = squares = cubes = 0.0
    nans = infs = finite = 0
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        block = np.abs(block) if block.dtype.kind == "c" else block
        block = block.astype(np.float64)
        good = np.isfinite(block)
        if not good.all():
            nan = int(np.isnan(block).sum())
            nans += nan
            infs += int(block.size - good.sum()) - nan
            block = block[good]
        if block.size:
            finite += block.size
            low = min(low, float(block.min()))
            high = max(high, float(block.max()))
            total += float(block.sum())
            square = block * block
            squares += float(square.sum())
            cubes += float(np.dot(square, block))
    out: dict[str, float | int] = {"size": int(flat.size), "nan": nans, "inf": infs}
    if finite:
        with np.errstate(over="ignore"):
            moments = {
                "min": low,
                "max": high,
                "mean": total / finite,
                "rms": float(np.sqrt(squares / finite)),
                "cube": cubes / finite,
            }
        out |= {name: value for name, value in moments.items() if np.isfinite(value)}
    return out
