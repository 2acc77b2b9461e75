"""Loops over a piece of two float32 tensors, for :mod:`tracer.compare.kernels`.

They are written so that LLVM makes vector code of them: greatest values are taken of the bits of |x| as whole numbers,
which ascend as the numbers do and put NaN above all others; sums may be added in any order. x is the reference, y the
candidate, d = x − y.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_i4, _f4, _f8 = np.int32, np.float32, np.float64
_MAGNITUDE, _EXPONENT = _i4(0x7FFFFFFF), _i4(0x7F800000)
EXPONENT = np.int64(0x7FF0000000000000)
"""The bits of a double's exponent."""

# Without wrappers for Python, reference counts and exceptions the code is smaller, and compiled in half the time.
_options = {"_nrt": False, "error_model": "numpy", "no_cfunc_wrapper": True, "no_cpython_wrapper": True}
_summing = njit(**_options, fastmath={"reassoc", "contract", "nsz"})
exact = njit(**_options)


@_summing
def sums(x: Any, y: Any) -> Any:
    """Σx², Σd², Σxd, Σd, Σ|d|."""
    xx = dd = xd = sd = sa = 0.0
    for i in range(x.size):
        a = _f8(x[i])
        d = a - _f8(y[i])
        xx += a * a
        dd += d * d
        xd += a * d
        sd += d
        sa += abs(d)
    return xx, dd, xd, sd, sa


@_summing
def products(x: Any, y: Any) -> Any:
    """Σxy, Σy²."""
    xy = yy = 0.0
    for i in range(x.size):
        a, b = _f8(x[i]), _f8(y[i])
        xy += a * b
        yy += b * b
    return xy, yy


@_summing
def square(x: Any) -> Any:
    total = 0.0
    for i in range(x.size):
        a = _f8(x[i])
        total += a * a
    return total


@_summing
def extremes(x: Any, y: Any, floor: Any, lines: Any) -> Any:
    """Bits of the greatest |d| and |x|, of the least |x| and |y|, the greatest difference of the bits of |d| and of
    the power of two below max(|x|, floor), how many differ, and whether any |d| lies above the lower one of two lines
    over |x|. The d are rounded to single precision."""
    error, peak, ratio, over = _i4(0), _i4(0), _i4(-0x7FFFFFFF), _i4(0)
    low = other = _MAGNITUDE
    apart, one, none = _f4(0), _f4(1), _f4(0)
    s, t, u, v = lines[0], lines[1], lines[2], lines[3]
    for i in range(x.size):
        a, b = x[i], y[i]
        height, width = _f4(abs(_f4(a - b))), _f4(abs(a))
        e, m, n = height.view(_i4), width.view(_i4), _f4(abs(b)).view(_i4)
        error = e if e > error else error
        peak = m if m > peak else peak
        low = m if m < low else low
        other = n if n < other else other
        apart += one if e != 0 else none
        unit = _i4(m & _EXPONENT)
        unit = unit if unit > floor else floor
        r = _i4(e - unit)
        ratio = r if r > ratio else ratio
        line, second = s * width + u, t * width + v
        line = line if line < second else second
        above = _f4(height - line).view(_i4)
        over = above if above > over else over
    return error, peak, low, other, ratio, np.int64(apart), over > 0


@_summing
def corner(x: Any, y: Any, lines: Any) -> Any:
    """The least |x| and the greatest |d|, as single precision has them, and whether a |d| lies above all the lines."""
    low, error, over = _MAGNITUDE, _i4(0), _i4(0)
    a, b, c, d, e, f = lines[4], lines[5], lines[6], lines[7], lines[8], lines[9]
    g, h, j, k, l, m = lines[10], lines[11], lines[12], lines[13], lines[14], lines[15]  # noqa: E741
    for i in range(x.size):
        height, width = _f4(abs(_f4(x[i] - y[i]))), _f4(abs(x[i]))
        bits, size = height.view(_i4), width.view(_i4)
        error = bits if bits > error else error
        low = size if size < low else low
        first, second, third = a * width + g, b * width + h, c * width + j
        fourth, fifth, sixth = d * width + k, e * width + l, f * width + m
        first = first if first < second else second
        third = third if third < fourth else fourth
        fifth = fifth if fifth < sixth else sixth
        first = first if first < third else third
        first = first if first < fifth else fifth
        above = _f4(height - first).view(_i4)
        over = above if above > over else over
    return _f8(_i4(low).view(_f4)), _f8(_i4(error).view(_f4)), over > 0


@exact
def inexact(x: Any, y: Any) -> Any:
    """Whether single precision rounds any d: its rounding error is a difference of differences (Møller, Knuth)."""
    found = _i4(0)
    for i in range(x.size):
        a, b = x[i], y[i]
        d = _f4(a - b)
        virtual = _f4(a - d)
        lost = _f4(_f4(a - _f4(d + virtual)) + _f4(virtual - b))
        found = _i4(found | _f4(abs(lost)).view(_i4))
    return found != 0


@exact
def ulp_top(x: Any, y: Any, floor: Any) -> Any:
    """As the ratio of :func:`extremes`, of doubles."""
    top = np.int64(-(1 << 62))  # less than any
    for i in range(x.size):
        a = _f8(x[i])
        unit = _f8(abs(a)).view(np.int64) & EXPONENT
        unit = unit if unit > floor else floor
        ratio = _f8(abs(a - _f8(y[i]))).view(np.int64) - unit
        top = ratio if ratio > top else top
    return top


@exact
def worst(x: Any, y: Any) -> Any:
    """The greatest |d| and its first place."""
    top = np.int64(-1)
    for i in range(x.size):
        bits = _f8(abs(_f8(x[i]) - _f8(y[i]))).view(np.int64)
        top = bits if bits > top else top
    for i in range(x.size):
        if _f8(abs(_f8(x[i]) - _f8(y[i]))).view(np.int64) == top:
            return abs(_f8(x[i]) - _f8(y[i])), i
    return 0.0, 0


@_summing
def one_sided(x: Any, y: Any) -> Any:
    """Elements that are zero on one side only, and the bits of the greatest |d| there."""
    found, one, none, top = _f4(0), _f4(1), _f4(0), _i4(0)
    for i in range(x.size):
        m, n = _f4(abs(x[i])).view(_i4), _f4(abs(y[i])).view(_i4)
        alone = (m == 0) != (n == 0)
        found += one if alone else none
        e = _i4(m | n) if alone else _i4(0)
        top = e if e > top else top
    return np.int64(found), top


@exact
def signs(x: Any) -> Any:
    """Whether there are numbers below zero, and above."""
    below = above = _i4(0)
    for i in range(x.size):
        bits = _f4(x[i]).view(_i4)
        under = _i4(bits & _MAGNITUDE) if bits < 0 else _i4(0)
        below = under if under > below else below
        above = bits if bits > above else above
    return below > 0, above > 0


@exact
def all_are(x: Any, value: Any) -> Any:
    for i in range(x.size):  # noqa: SIM110
        if _f8(x[i]) != value:
            return False
    return True


@exact
def scrubbed(x: Any, y: Any, left: Any, right: Any, found: Any) -> Any:
    """Copy both, with zeros where either is no number. ``found`` takes the NaN and infinities of both sides, elements
    that agree in neither, finite ones, and the first place of these; gives whether all are equal."""
    found[:] = 0
    found[6] = -1
    same = True
    for i in range(x.size):
        a, b = x[i], y[i]
        good = np.isfinite(a) and np.isfinite(b)
        left[i], right[i] = (a, b) if good else (_f4(0), _f4(0))
        same = same and a == b
        if good:
            found[5] += 1
            found[6] = i if found[6] < 0 else found[6]
        else:
            found[0] += np.isnan(a)
            found[1] += np.isnan(b)
            found[2] += np.isinf(a)
            found[3] += np.isinf(b)
            found[4] += not (a == b or (np.isnan(a) and np.isnan(b)))
    return same


@_summing
def row(x: Any, y: Any) -> Any:
    """Of a row: Σd², the greatest |d|, and Σd² with the signs of x."""
    total = signed = 0.0
    top = np.int64(0)
    for i in range(x.size):
        a = _f8(x[i])
        d = a - _f8(y[i])
        square = d * d
        total += square
        signed += np.copysign(square, a)
        bits = _f8(abs(d)).view(np.int64)
        top = bits if bits > top else top
    return total, np.int64(top).view(_f8), signed


@_summing
def columns(x: Any, y: Any, squares: Any, peaks: Any) -> None:
    """Add a row's d² to ``squares`` and raise ``peaks``, seen as whole numbers, to its |d|."""
    for i in range(x.size):
        d = _f8(x[i]) - _f8(y[i])
        squares[i] += d * d
        bits = _f8(abs(d)).view(np.int64)
        peaks[i] = bits if bits > peaks[i] else peaks[i]


@exact
def thin_rows(x: Any, y: Any, inner: Any, begin: Any, step: Any, rows: Any, columns: Any) -> Any:
    """The same for all rows of a block, where they are short."""
    whole = signed = peak = 0.0
    at, left = begin // step, step - begin % step
    for start in range(0, x.size, inner):
        total = top = 0.0
        for j in range(inner):
            a = _f8(x[start + j])
            d = a - _f8(y[start + j])
            e, square = abs(d), d * d
            columns[0, j] += square
            columns[1, j] = e if e > columns[1, j] else columns[1, j]
            total += square
            top = e if e > top else top
            signed += np.copysign(square, a)
        rows[0, at] += total
        rows[1, at] = top if top > rows[1, at] else rows[1, at]
        whole += total
        peak = top if top > peak else peak
        left -= 1
        if not left:
            at, left = at + 1, step
    return whole, peak, signed


@_summing
def row_moments(x: Any, y: Any, moments: Any, place: Any) -> None:
    """Add Σx, Σd, Σx², Σxd, Σd² of a row at one place."""
    s = t = xx = xd = dd = 0.0
    for i in range(x.size):
        a = _f8(x[i])
        d = a - _f8(y[i])
        s += a
        t += d
        xx += a * a
        xd += a * d
        dd += d * d
    moments[0, place] += s
    moments[1, place] += t
    moments[2, place] += xx
    moments[3, place] += xd
    moments[4, place] += dd


@_summing
def column_moments(x: Any, y: Any, s: Any, t: Any, xx: Any, xd: Any, dd: Any) -> None:
    """The same, each element at its own."""
    for i in range(x.size):
        a = _f8(x[i])
        d = a - _f8(y[i])
        s[i] += a
        t[i] += d
        xx[i] += a * a
        xd[i] += a * d
        dd[i] += d * d


@exact
def outside(x: Any, y: Any, atol: Any, rtol: Any) -> Any:
    """Elements with |d| > atol + rtol·|x|, of finite numbers."""
    found = 0
    for i in range(x.size):
        a = _f8(x[i])
        found += abs(a - _f8(y[i])) > abs(a) * rtol + atol
    return found
