"""How far two tensors are apart where one is to be the other: the largest error, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.alignment.consistency import MASKED

Array = NDArray[Any]
Place = tuple[int, ...]
_BLOCK = 1 << 16
"""Elements taken at a time: what is made of them stays in the cache."""


@np.errstate(all="ignore")
def apart(reference: Array, candidate: Array, *, masks: bool = False) -> tuple[float, Place | None, float]:
    """The largest |reference − candidate|, its index, and the largest |reference|, in double precision.

    NaN and equal infinities at the same place agree; what is finite on one side only is infinitely far off. With
    ``masks`` values below :data:`MASKED` on both sides agree, and do not count as large. Shapes must be equal.
    """
    if reference.size == 0:
        return 0.0, None, 0.0
    largest, place, scale = -1.0, (0,) * reference.ndim, 0.0
    for start, block in _blocks(reference.shape):
        x, y = _double(reference[block]), _double(candidate[block])
        error, size = np.abs(x - y), np.abs(x)
        if not math.isfinite(error.max()):
            same = (np.isnan(x) & np.isnan(y)) | (x == y)
            error = np.where(np.isfinite(x) & np.isfinite(y), error, np.where(same, 0.0, math.inf))
            size = np.where(np.isfinite(size), size, 0.0)
        if masks and x.dtype.kind == "f":
            hidden = (x <= MASKED) & (y <= MASKED)
            if hidden.any():
                error, size = np.where(hidden, 0.0, error), np.where(hidden, 0.0, size)
        scale = max(scale, float(size.max()))
        most = float(error.max())
        if most > largest:
            inside = np.unravel_index(int(error.argmax()), error.shape)
            rest = start[len(start) - error.ndim :]
            largest = most
            place = (*start[: len(start) - error.ndim], *(int(a + b) for a, b in zip(rest, inside, strict=True)))
    return largest, place, scale


def _double(values: Array) -> Array:
    return values if values.dtype == np.float64 else dtypes.as_float64(values)


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[Place, tuple[Any, ...]]]:
    """Pieces of an array: where each begins, and what to index with; the leading axes are taken one by one."""
    rank = len(shape)
    inner, axis = 1, rank
    while axis > 0 and inner * shape[axis - 1] <= _BLOCK:
        axis -= 1
        inner *= shape[axis]
    if axis == 0:
        yield (0,) * rank, (...,)
        return
    step = max(1, _BLOCK // inner)
    for outer in np.ndindex(shape[: axis - 1]):
        for begin in range(0, shape[axis - 1], step):
            yield (*outer, begin, *(0,) * (rank - axis)), (*outer, slice(begin, begin + step))
