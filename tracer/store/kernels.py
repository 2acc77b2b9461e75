"""What :class:`tracer.store.summary.Summary` computes of float32, compiled, in the pass that copies them.

Written so that LLVM makes vector code: extremes are taken of whole numbers that ascend as the floating ones do, with
NaN and infinities at both ends; sums are of :data:`SHORT` elements in single precision, then in double.

Nothing here raises, allocates or holds Python's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import float32, float64, njit, types, void

_i4, _f4 = np.int32, np.float32
_MAGNITUDE = _i4(0x7FFFFFFF)
SHORT = 512
LOW, HIGH, ZEROS, TOTAL, SQUARES, CUBES = range(6)
"""Places of what :func:`copy` finds; the extremes as those whole numbers."""

# Without wrappers for Python, reference counts and exceptions the code is smaller, and compiled in half the time.
_options = {"_nrt": False, "error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
_fast = njit(**_options, fastmath={"reassoc", "contract", "nsz"})


@_fast
def _moved(x: Any, y: Any) -> Any:
    """Copy x to y: the least and the greatest element, and how many are zero."""
    low, high = _MAGNITUDE, _i4(-0x80000000)
    zeros, one, none = _f4(0), _f4(1), _f4(0)
    for i in range(x.size):
        value = x[i]
        y[i] = value
        bits = _f4(value).view(_i4)
        order = _i4(bits ^ ((bits >> 31) & _MAGNITUDE))
        low = order if order < low else low
        high = order if order > high else high
        zeros += one if value == none else none
    return low, high, zeros


@_fast
def _powers(x: Any) -> Any:
    total, squares, cubes = _f4(0), _f4(0), _f4(0)
    for i in range(x.size):
        value = x[i]
        square = value * value
        total += value
        squares += square
        cubes += square * value
    return total, squares, cubes


@njit(**_options)
def copy(x: Any, y: Any, found: Any) -> None:
    """Copy float32 ``x`` to ``y`` and put what was found of it into ``found``, see the places above."""
    low, high = _MAGNITUDE, _i4(-0x80000000)
    zeros = total = squares = cubes = 0.0
    for start in range(0, x.size, SHORT):
        piece = x[start : start + SHORT]
        least, greatest, none = _moved(piece, y[start : start + SHORT])
        low, high = min(low, least), max(high, greatest)
        zeros += none
        first, second, third = _powers(piece)
        total += first
        squares += second
        cubes += third
    found[LOW], found[HIGH], found[ZEROS] = low, high, zeros
    found[TOTAL], found[SQUARES], found[CUBES] = total, squares, cubes


def entries() -> list[tuple[Any, Any]]:
    """What is called from Python, and the types it is called with."""
    given = types.Array(float32, 1, "C", readonly=True)
    return [(copy, void(given, types.Array(float32, 1, "C"), types.Array(float64, 1, "C")))]
