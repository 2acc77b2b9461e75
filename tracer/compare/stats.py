"""How far two tensors are apart, in one walk over both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.compare import compiled as compiled_
from tracer.compare.figures import NonFinite, Stats
from tracer.compare.walk import BLOCK, ROOM, Asked, Grid, Walk
from tracer.store.sources import forget


def compare(
    reference: NDArray[Any],
    candidate: NDArray[Any],
    atol: float = 1e-5,
    rtol: float = 1e-5,
    *,
    channels: int | None = None,
    coarsest: str | None = None,
    rms: float | None = None,
    compiled: bool | None = None,
    pool: Executor | None = None,
) -> Stats:
    """Statistics of two tensors of the same shape (transpose the candidate first; views are fine).

    Memory stays at a few blocks whatever the size, and the figures are the same to the last bit whatever ``pool`` is.

    Args:
        channels: the axis along which a layer's parameters vary; rules that hold per channel are looked for there.
        coarsest: the element type whose units of the last place count; by default the coarser one of the two.
        rms: root mean square of the reference, where it is known; else it costs a look of its own.
        compiled: whether the compiled kernels are used where they can be (sums then differ by what adding in another
            order makes of them, some 1e-15); by default where they are loaded, or tensors are so large that it pays.
        pool: what the parts of large tensors are walked over in.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    asked = Asked(reference, candidate, atol, rtol, channels, coarsest, rms)
    kernels = None
    if compiled is not False:
        kernels = compiled_.load() if compiled else compiled_.kernels(reference.size)
    segments = asked.grid.segments()
    work = partial(_walked, asked, kernels)
    with np.errstate(all="ignore"):
        found = iter(map(work, segments) if pool is None or len(segments) < 2 else pool.map(work, segments))
        whole = next(found, None) or Walk(asked)
        for later in found:
            whole.merge(later)
        return whole.result()


def _walked(asked: Asked, kernels: SimpleNamespace | None, segment: tuple[int, int]) -> Walk:
    """What one part of the tensors says."""
    with np.errstate(all="ignore"):
        if kernels is not None:
            from tracer.compare.fused import Fused, fits

            if fits(asked):
                found = Fused(asked, kernels).over(*segment)
                _forget(asked.sides)
                return found
        found = Walk(asked)
        for block, left, right in asked.grid.blocks(*asked.sides, *segment):
            found.add(block, left, right)
        _forget(asked.sides)
        return found


def _forget(sides: Sequence[NDArray[Any]]) -> None:
    for side in sides:
        forget(side)


def outside(reference: NDArray[Any], candidate: NDArray[Any], atol: float, rtol: float) -> int:
    """Elements outside a tolerance, as :func:`compare` counts them. Raises ValueError as it does."""
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    found, grid = 0, Grid.of(reference.shape)
    with np.errstate(all="ignore"):
        for first, last in grid.segments():
            for _, left, right in grid.blocks(reference, candidate, first, last):
                if not np.array_equal(left, right):
                    found += _outside(left, right, atol, rtol)
            _forget((reference, candidate))
    return found


def _outside(left: NDArray[Any], right: NDArray[Any], atol: float, rtol: float) -> int:
    if "c" not in (left.dtype.kind, right.dtype.kind):
        x, y, bound = (room[: left.size] for room in (ROOM.x, ROOM.y, ROOM.free))
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


__all__ = ["BLOCK", "NonFinite", "Stats", "compare", "outside"]
