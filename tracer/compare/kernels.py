"""The walk over two float32 tensors, compiled: what :class:`tracer.compare.walk.Walk` does with numpy, in one pass.

Blocks of at most 8192 elements lie in the second-level cache, so that each is read from memory once, and looked at by
several short loops: one alone would need more registers than there are. Differences of single precision only say where
to look: every figure is computed from doubles.

Nothing here raises, allocates or holds Python's lock. :mod:`tracer.compiled` imports it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import boolean, float32, float64, int64, types, void

from tracer.compare import loops, slots

_i4, _f4, _f8 = np.int32, np.float32, np.float64
_INFINITE = _i4(0x7F800000)
_CHUNK, _PIECE = 1024, 64
"""Elements whose places under the hull are decided together."""
_THIN = 16
"""Row lengths below which a call for each row would cost more than the row."""
_ALIKE = 0.25
"""Σd² / Σx² up to which Σxy and Σy² follow from Σx², Σxd and Σd² without cancellation."""
_UNSURE = 2e-6
"""More than single precision rounds in the few operations that are decided on here, relatively."""


@loops.exact
def _insert(hull: Any, counts: Any, m: Any, e: Any) -> Any:
    """Take a point into the upper left hull, if it lies outside; gives whether it did."""
    size = counts[slots.HULL]
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if hull[0, middle] < m:
            low = middle + 1
        else:
            high = middle
    at = low  # the first vertex whose magnitude is not below m
    if at == size:
        if size and e <= hull[1, size - 1]:
            return False
    elif hull[0, at] == m:
        if e <= hull[1, at]:
            return False
    elif at > 0:
        wide, tall = hull[0, at] - hull[0, at - 1], hull[1, at] - hull[1, at - 1]
        if (e - hull[1, at - 1]) * wide <= tall * (m - hull[0, at - 1]):
            return False
    right = at
    while right < size and hull[1, right] <= e:
        right += 1
    while right + 1 < size:
        step, wide = hull[0, right + 1] - hull[0, right], hull[0, right] - m
        if (hull[1, right] - e) * step > (hull[1, right + 1] - hull[1, right]) * wide:
            break
        right += 1
    left = at
    while left > 1:
        step, wide = hull[0, left - 1] - hull[0, left - 2], m - hull[0, left - 1]
        if (hull[1, left - 1] - hull[1, left - 2]) * wide > (e - hull[1, left - 1]) * step:
            break
        left -= 1
    grown = left + 1 - right
    if grown > 0:
        for i in range(size - 1, right - 1, -1):
            hull[0, i + grown], hull[1, i + grown] = hull[0, i], hull[1, i]
    elif grown < 0:
        for i in range(right, size):
            hull[0, i + grown], hull[1, i + grown] = hull[0, i], hull[1, i]
    hull[0, left], hull[1, left] = m, e
    counts[slots.HULL] = size + grown
    return True


@loops.exact
def _farthest(hull: Any, a: Any, b: Any) -> Any:
    """The vertex between two that is highest above their chord, and how high; ``a`` where there is none."""
    best, height = a, 0.0
    if b - a < 2:
        return best, height
    slope = (hull[1, b] - hull[1, a]) / (hull[0, b] - hull[0, a])
    for i in range(a + 1, b):
        over = hull[1, i] - hull[1, a] - slope * (hull[0, i] - hull[0, a])
        if over > height:
            best, height = i, over
    return best, height


@loops.exact
def _line(hull: Any, a: Any, b: Any, lines: Any, number: Any, offsets: Any) -> None:
    """The line through two vertices, a little lower than it is."""
    slope = min((hull[1, b] - hull[1, a]) / (hull[0, b] - hull[0, a]), 1e38)  # more than single precision holds
    offset = hull[1, a] - slope * hull[0, a]
    lower = offset * (1 - _UNSURE)
    if offset < 0:
        lower = offset - _UNSURE * (slope * hull[0, b] - offset)
    lines[number], lines[offsets + number] = _f4(slope * (1 - _UNSURE)), _f4(lower)


@loops.exact
def _fence(hull: Any, counts: Any, lines: Any, corners: Any) -> None:
    """Chords of the hull that together come close to it; what lies under the lowest is inside. The first two numbers of
    ``lines`` are the slopes of two chords, then come their offsets; behind them those of up to six likewise."""
    last = counts[slots.HULL] - 1
    if last == 0:
        lines[:] = _f4(0)
        lines[2:4] = lines[10:] = _f4(hull[1, 0] * (1 - _UNSURE))
        return
    corners[0], corners[1] = 0, last
    many = 2
    while many < 7:
        best, height, behind = 0, 0.0, 0
        for i in range(many - 1):
            at, over = _farthest(hull, corners[i], corners[i + 1])
            if over > height:
                best, height, behind = at, over, i + 1
        if height == 0:
            break
        for i in range(many, behind, -1):
            corners[i] = corners[i - 1]
        corners[behind] = best
        many += 1
        if many == 3:
            _line(hull, 0, best, lines, 0, 2)
            _line(hull, best, last, lines, 1, 2)
    if many == 2:
        _line(hull, 0, last, lines, 0, 2)
        _line(hull, 0, last, lines, 1, 2)
    for i in range(6):
        at = min(i, many - 2)
        _line(hull, corners[at], corners[at + 1], lines[4:], i, 6)


@loops.exact
def _inside(x: Any, y: Any, hull: Any, counts: Any, lines: Any) -> Any:
    """Whether points surely lie inside the hull."""
    least, largest, over = loops.corner(x, y, lines)
    return _bounded(hull, counts, least, largest) and not over


@loops.exact
def _bounded(hull: Any, counts: Any, least: Any, largest: Any) -> Any:
    """Whether points of these extremes are no farther to the left than the hull, and no higher."""
    return counts[slots.HULL] > 0 and least >= hull[0, 0] and largest <= hull[1, counts[slots.HULL] - 1] * (1 - _UNSURE)


@loops.exact
def _enclose(x: Any, y: Any, hull: Any, counts: Any, lines: Any, corners: Any) -> None:
    """Take a block's points into the hull, which few lie outside of: they are sought in ever smaller pieces."""
    for start in range(0, x.size, _CHUNK):
        a, b = x[start : start + _CHUNK], y[start : start + _CHUNK]
        if _inside(a, b, hull, counts, lines):
            continue
        for begin in range(0, a.size, _PIECE):
            u, v = a[begin : begin + _PIECE], b[begin : begin + _PIECE]
            if not _inside(u, v, hull, counts, lines):
                grown = False
                for i in range(u.size):
                    grown = _insert(hull, counts, abs(_f8(u[i])), abs(_f8(u[i]) - _f8(v[i]))) or grown
                if grown:
                    _fence(hull, counts, lines, corners)


@loops.exact
def _ulps(x: Any, y: Any, ratio: Any, unsure: Any, counts: Any, bins: Any, chosen: Any) -> None:
    """Take a block into the histogram; ``ratio`` as :func:`_extremes` gives it, which is exact unless ``unsure``."""
    floor, shift = chosen[slots.FLOOR], chosen[slots.SHIFTED]
    rounded = counts[slots.ULP_TOP] >> 29
    if ratio > rounded or (ratio == rounded and unsure and loops.inexact(x, y)):
        counts[slots.ULP_TOP] = max(counts[slots.ULP_TOP], loops.ulp_top(x, y, floor))
    stride = chosen[slots.STRIDE] if counts[slots.SEEN] >= chosen[slots.ALL] else 1
    first = counts[slots.ULP_BLOCKS] % stride
    taken = (x.size - first + stride - 1) // stride if x.size > first else 0
    counts[slots.ULP_BLOCKS] += 1
    counts[slots.SEEN] += taken
    if not taken:
        return
    weight = x.size / taken
    for i in range(first, x.size, stride):
        a = _f8(x[i])
        unit = _f8(abs(a)).view(np.int64) & loops.EXPONENT
        unit = unit if unit > floor else floor
        place = (_f8(abs(a - _f8(y[i]))).view(np.int64) - unit + shift) >> 49
        bins[min(max(place, 0), bins.size - 1)] += weight


@loops.exact
def _spread(
    x: Any, y: Any, inner: Any, lead: Any, begin: Any, numbers: Any, counts: Any, chosen: Any, leads: Any, rows: Any,
    columns: Any, moments: Any,
) -> None:  # fmt: skip
    """Take a block into the sums and maxima along the axes."""
    if inner < _THIN:
        whole, peak, signed = loops.thin_rows(x, y, inner, begin, chosen[slots.STEP], rows, columns)
    else:
        whole = signed = peak = 0.0
        peaks = columns[1].view(np.int64)
        for row in range(x.size // inner):
            a, b = x[row * inner : (row + 1) * inner], y[row * inner : (row + 1) * inner]
            total, top, sign = loops.row(a, b)
            loops.columns(a, b, columns[0], peaks)
            at = (begin + row) // chosen[slots.STEP]
            rows[0, at] += total
            rows[1, at] = max(rows[1, at], top)
            whole += total
            signed += sign
            peak = max(peak, top)
    leads[0, lead] += whole
    leads[1, lead] = max(leads[1, lead], peak)
    numbers[slots.LOCATED] += whole
    numbers[slots.SIGNED] += signed
    if chosen[slots.CHANNELS] == slots.NONE:
        return
    counts[slots.SPREAD_BLOCKS] += 1
    if (
        counts[slots.SPREAD_BLOCKS] > chosen[slots.ALWAYS]
        and counts[slots.SPREAD_BLOCKS] % chosen[slots.EVERY]
        and chosen[slots.CHANNELS] == slots.INNER
    ):
        return
    counts[slots.READ] += x.size // inner
    for row in range(x.size // inner):
        a, b = x[row * inner : (row + 1) * inner], y[row * inner : (row + 1) * inner]
        if chosen[slots.CHANNELS] == slots.INNER:
            loops.column_moments(a, b, moments[0], moments[1], moments[2], moments[3], moments[4])
        else:
            loops.row_moments(a, b, moments, begin + row if chosen[slots.CHANNELS] == slots.ROW else lead)


@loops.exact
def _skip(lead: Any, begin: Any, rows: Any, chosen: Any, skipped: Any) -> None:
    """Take note of a block that no rule is read from."""
    if chosen[slots.CHANNELS] == slots.INNER:
        skipped[:] = True
    elif chosen[slots.CHANNELS] == slots.ROW:
        skipped[begin : begin + rows] = True
    elif chosen[slots.CHANNELS] == slots.LEAD:
        skipped[lead] = True


@loops.exact
def walk(
    x: Any, y: Any, lead: Any, begin: Any, length: Any, inner: Any, step: Any, numbers: Any, counts: Any, given: Any,
    chosen: Any, hull: Any, lines: Any, bins: Any, leads: Any, rows: Any, columns: Any, moments: Any, skipped: Any,
    room: Any,
) -> Any:  # fmt: skip
    """Take whole blocks of two contiguous float32 tensors.

    Args:
        x, y: their elements in C order, from row ``begin`` of axis ``split − 1`` below the ``lead``-th place of the
            axes before it; ``length`` rows of ``inner`` elements lie below each, ``step`` of them in a block.
        numbers, counts, given, chosen: see the places above.
        hull: magnitudes and errors of the vertices; ``lines``: its fence, slopes and offsets.
        bins: the histogram of errors in units of the last place.
        leads, rows, columns: sums of squares and greatest errors by place; moments, skipped: by channel.
        room: two blocks and seven counts are worked on in.

    Returns:
        Elements that were taken: fewer than there are where the hull has more vertices than it may, the next block is
        the first that differs while the unit of the last place is unknown, or it overflows single precision.
    """
    left, right = room[0].view(_f4), room[1].view(_f4)
    done = 0
    while done < x.size:
        if counts[slots.HULL] > chosen[slots.MOST]:
            return done
        taken = min(step, length - begin)
        size = taken * inner
        a, b = x[done : done + size], y[done : done + size]
        floor = _i4((chosen[slots.FLOOR] >> 29) - ((1023 - 127) << 23))
        error, peak, low, other, ratio, apart, over = loops.extremes(a, b, floor, lines)
        scrubbed = same = False
        if error >= _INFINITE:
            scrubbed = True
            a, b = left[:size], right[:size]
            same = loops.scrubbed(x[done : done + size], y[done : done + size], a, b, room[2])
            error, peak, low, other, ratio, apart, over = loops.extremes(a, b, floor, lines)
            if error >= _INFINITE:
                return done
        if apart and chosen[slots.ULPS] < 0:
            return done
        if counts[slots.CONSTANT_A]:
            counts[slots.CONSTANT_A] = loops.all_are(x[done : done + size], given[slots.FIRST_A])
        if counts[slots.CONSTANT_B]:
            counts[slots.CONSTANT_B] = loops.all_are(y[done : done + size], given[slots.FIRST_B])
        start = 0
        if scrubbed:
            for i in range(4):
                counts[slots.NAN_A + i] += room[2][i]
            counts[slots.NONFINITE] += room[2][4]
            counts[slots.OUTSIDE] += room[2][4]
            counts[slots.FINITE] += room[2][5]
            start = room[2][6] if same else 0
        else:
            counts[slots.FINITE] += size
        place = (lead * length + begin) * inner
        largest = _f8(_i4(error).view(_f4))
        if not scrubbed or not same or room[2][5]:
            _block(
                a, b, place, start, lead, begin, taken, inner, error, peak, low, other, ratio, apart, over, largest,
                same or not scrubbed, numbers, counts, given, chosen, hull, lines, bins, leads, rows, columns, moments,
                skipped, room[2],
            )  # fmt: skip
        done += size
        begin += taken
        if begin == length:
            begin = 0
            lead += 1
    return done


@loops.exact
def _block(
    x: Any, y: Any, place: Any, start: Any, lead: Any, begin: Any, taken: Any, inner: Any, error: Any, peak: Any,
    low: Any, other: Any, ratio: Any, apart: Any, over: Any, largest: Any, equal: Any, numbers: Any, counts: Any,
    given: Any, chosen: Any, hull: Any, lines: Any, bins: Any, leads: Any, rows: Any, columns: Any, moments: Any,
    skipped: Any, corners: Any,
) -> None:  # fmt: skip
    """Take a block of finite numbers, whose extremes are known; ``equal`` unless NaN or infinities were taken out of it
    and the sides differed there."""
    magnitude = _f8(_i4(peak).view(_f4))
    numbers[slots.PEAK] = max(numbers[slots.PEAK], magnitude)
    if not (counts[slots.NEGATIVE] and counts[slots.POSITIVE]):
        below, above = loops.signs(x)
        counts[slots.NEGATIVE] |= below
        counts[slots.POSITIVE] |= above
    if error == 0:
        if numbers[slots.LARGEST] < 0:
            numbers[slots.LARGEST], counts[slots.WORST] = 0.0, place + start
        square = loops.square(x)
        numbers[slots.XX] += square
        numbers[slots.YY] += square
        numbers[slots.XY] += square
        if square > 0 and equal:
            _skip(lead, begin, taken, chosen, skipped)
        return
    limit = given[slots.ROUNDING] * magnitude
    # Differences no greater than the numbers themselves are exact (Sterbenz).
    least = _f8(min(_i4(low).view(_f4), _i4(other).view(_f4)))
    unsure = largest >= least
    close = largest * (1 + _UNSURE) >= numbers[slots.LARGEST] or abs(largest - limit) <= _UNSURE * limit
    if largest > numbers[slots.LARGEST] or (close and unsure and loops.inexact(x, y)):
        largest, at = loops.worst(x, y)
        if largest > numbers[slots.LARGEST]:
            numbers[slots.LARGEST], counts[slots.WORST] = largest, place + at
    xx, dd, xd, sd, sa = loops.sums(x, y)
    if dd <= _ALIKE * xx:
        xy, yy = xx - xd, xx - 2 * xd + dd
    else:
        xy, yy = loops.products(x, y)
    numbers[slots.XX] += xx
    numbers[slots.YY] += yy
    numbers[slots.XY] += xy
    numbers[slots.XD] += xd
    numbers[slots.SQUARES] += dd
    numbers[slots.SUM] += sa
    numbers[slots.SHIFT] += sd
    counts[slots.UNEQUAL] += apart
    if largest * (1 + _UNSURE) > given[slots.ATOL]:
        counts[slots.OUTSIDE] += loops.outside(x, y, given[slots.ATOL], given[slots.RTOL])
    if over or not _bounded(hull, counts, _f8(_i4(low).view(_f4)), largest):
        _enclose(x, y, hull, counts, lines, corners)
    if low == 0 or other == 0:
        alone, top = loops.one_sided(x, y)
        counts[slots.ZEROS] += alone
        numbers[slots.ZEROS_MAX] = max(numbers[slots.ZEROS_MAX], _f8(_i4(top).view(_f4)))
    if chosen[slots.ULPS]:
        _ulps(x, y, ratio, unsure, counts, bins, chosen)
    counts[slots.SPREAD] = 1
    if largest <= limit:
        _skip(lead, begin, taken, chosen, skipped)
    else:
        _spread(x, y, inner, lead, begin, numbers, counts, chosen, leads, rows, columns, moments)


@loops.exact
def gather(view: Any, out: Any) -> None:
    """Copy three axes into a contiguous array, square by square, where the last is not the one that lies dense."""
    n, m, k = view.shape
    for i in range(n):
        for low in range(0, k, 8):
            high = min(low + 8, k)
            for begin in range(0, m, 16):
                end = min(begin + 16, m)
                for c in range(low, high):
                    for r in range(begin, end):
                        out[i, r, c] = view[i, r, c]


def entries() -> list[tuple[Any, Any]]:
    """What is called from Python, and the types it is called with."""
    given, out = types.Array(float32, 1, "C", readonly=True), types.Array(float64, 2, "C")
    line, whole = types.Array(float64, 1, "C"), types.Array(int64, 1, "C")
    places = [int64] * 5
    walked = int64(
        given, given, *places, line, whole, line, whole, out, types.Array(float32, 1, "C"), line, out, out, out, out,
        types.Array(boolean, 1, "C"), types.Array(int64, 2, "C"),
    )  # fmt: skip
    view = types.Array(float32, 3, "A", readonly=True)
    return [
        (walk, walked),
        (gather, void(view, types.Array(float32, 3, "C"))),
    ]
