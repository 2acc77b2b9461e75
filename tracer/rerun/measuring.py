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
_PLAIN = (np.dtype(np.float32), np.dtype(np.float64))
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
    shape = reference.shape
    if reference.flags.c_contiguous and candidate.flags.c_contiguous:
        reference, candidate = reference.reshape(-1), candidate.reshape(-1)
    largest, place, scale = -1.0, (0,) * reference.ndim, 0.0
    for start, block in _blocks(reference.shape):
        x, y = reference[block], candidate[block]
        difference, most, size = _at_once(x, y, masks) or _one_by_one(_double(x), _double(y), masks)
        scale = max(scale, size)
        if most > largest:
            inside = np.unravel_index(int(np.abs(difference).argmax()), difference.shape)
            rest = start[len(start) - difference.ndim :]
            largest = most
            place = (*start[: len(start) - difference.ndim], *(int(a + b) for a, b in zip(rest, inside, strict=True)))
    if len(place) != len(shape):
        place = tuple(map(int, np.unravel_index(place[0], shape)))
    return largest, place, scale


def _at_once(x: Array, y: Array, masks: bool) -> tuple[Array, float, float] | None:
    """The differences of two blocks, the largest, and the largest of ``x``; None where some need a closer look."""
    if x.dtype not in _PLAIN or y.dtype not in _PLAIN:
        return None
    difference = np.subtract(x, y)
    high, low, top, bottom = (float(f) for f in (difference.max(), difference.min(), x.max(), x.min()))
    if not (math.isfinite(high) and math.isfinite(low)) or (masks and bottom <= MASKED):
        return None
    return difference, max(high, -low), max(top, -bottom)


def _one_by_one(x: Array, y: Array, masks: bool) -> tuple[Array, float, float]:
    error, size = np.abs(x - y), np.abs(x)
    if not math.isfinite(error.max()):
        same = (np.isnan(x) & np.isnan(y)) | (x == y)
        error = np.where(np.isfinite(x) & np.isfinite(y), error, np.where(same, 0.0, math.inf))
        size = np.where(np.isfinite(size), size, 0.0)
    if masks and x.dtype.kind == "f":
        hidden = (x <= MASKED) & (y <= MASKED)
        if hidden.any():
            error, size = np.where(hidden, 0.0, error), np.where(hidden, 0.0, size)
    return error, float(error.max()), float(size.max())


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
