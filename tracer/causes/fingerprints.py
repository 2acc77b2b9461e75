"""What a difference looks like, in words: for what no hypothesis reproduces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np

from tracer import relations
from tracer.causes.case import Case
from tracer.causes.step import Array, Unknown

_CLOSE = 1e-4
"""Of the largest value: a fingerprint is seen with the eye, not to rounding."""
_MOST = 1 << 21
_FEW = 0.25


def of_case(case: Case) -> tuple[str, ...]:
    """The fingerprints of a case's difference; none where it cannot be computed."""
    try:
        last = case.program.last
        read = [values for values in case.ran[last.name].inputs if values.dtype.kind == "f"]
        channels = last.settings.get("channels", -1)
        found, target = case.ran[last.name].value, case.target
    except Unknown:
        return ()
    return seen(found, target, read, channels=channels if isinstance(channels, int) else -1)


def seen(found: Array, target: Array, inputs: Sequence[Array] = (), *, channels: int = -1) -> tuple[str, ...]:
    """What ``target`` looks like beside ``found``, which was to be the same; ``inputs`` are what both were made of.

    ``channels`` is the axis of the channels. Sentences, the most telling first.
    """
    if found.shape != target.shape:
        words = f"the shapes differ: {found.shape} and {target.shape}"
        same = found.size == target.size and relations.same_values(found, target)
        return (words, "the same numbers, laid out otherwise") if same else (words,)
    if not found.size or found.dtype.kind not in "fiu" or target.dtype.kind not in "fiu":
        return ()
    if not (np.all(np.isfinite(found)) and np.all(np.isfinite(target))):
        return _infinite(found, target)
    scale = float(np.abs(target).max(initial=0.0)) or 1.0
    gap = np.abs(found - target) > _CLOSE * scale
    tests: list[Callable[[], str]] = [
        lambda: _order(found, target),
        lambda: _constant(found, target, scale),
        lambda: _channel(found, target, channels, scale),
        lambda: _where(gap, channels),
        lambda: _side(found, target, gap, inputs),
        lambda: _rows(found, target, scale),
        lambda: _function(found, target, inputs),
        lambda: _noise(found, target, scale),
    ]
    return tuple(words for words in (test() for test in tests) if words)


def _infinite(found: Array, target: Array) -> tuple[str, ...]:
    here, there = ~np.isfinite(found), ~np.isfinite(target)
    if np.array_equal(here, there):
        return ("infinite or not a number at the same places",)
    side = "one side" if not here.any() or not there.any() else "both sides, at other places"
    return (f"infinite or not a number on {side}",)


def _order(found: Array, target: Array) -> str:
    if relations.alike(found, target, _CLOSE):
        return ""
    if found.size <= _MOST and relations.same_values(found, target):
        return "the same numbers, at other places"
    if np.allclose(np.sort(np.abs(found), axis=None), np.sort(np.abs(target), axis=None), rtol=1e-5) and found.size > 1:
        return "the same sizes, with other signs or at other places"
    return ""


def _constant(found: Array, target: Array, scale: float) -> str:
    size = float(np.vdot(found, found))
    factor = float(np.vdot(found, target)) / size if size else 0.0
    if np.abs(found * factor - target).max() <= _CLOSE * scale:
        return "the sign is the other" if abs(factor + 1) < _CLOSE else f"one constant ratio: {factor:.6g}"
    shift = float(np.mean(target - found))
    if np.abs(found + shift - target).max() <= _CLOSE * scale:
        return f"one constant is added: {shift:.6g}"
    return ""


def _channel(found: Array, target: Array, channels: int, scale: float) -> str:
    """One factor and one shift for each channel."""
    for axis in dict.fromkeys((channels % found.ndim, found.ndim - 1, min(1, found.ndim - 1)) if found.ndim else ()):
        x, y = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (found, target))
        if x.shape[0] < 2 or x.shape[1] < 4:
            continue
        middle = x - x.mean(1, keepdims=True)
        total = np.square(middle).sum(1)
        factor = np.divide((middle * y).sum(1), total, out=np.zeros_like(total), where=total > 0)
        shift = y.mean(1) - factor * x.mean(1)
        if np.abs(x * factor[:, None] + shift[:, None] - y).max() > _CLOSE * scale:
            continue
        if np.allclose(factor, 1, atol=_CLOSE):
            return f"one constant is added to each channel (axis {axis})"
        added = np.abs(shift).max() > _CLOSE * scale
        return f"each channel (axis {axis}) has a factor of its own{' and a shift' if added else ''}"
    return ""


def _where(gap: Array, channels: int) -> str:
    """Whether the differences are at the border, in one channel, at one end of an axis."""
    share = float(gap.mean())
    if not share:
        return "no single value differs by much"
    for axis in range(gap.ndim):
        hit = np.flatnonzero(gap.any(axis=tuple(k for k in range(gap.ndim) if k != axis)))
        length = gap.shape[axis]
        if length > 3 and len(hit) <= _FEW * length:
            what = "channels" if axis == channels % gap.ndim else f"places of axis {axis}"
            if len(hit) == 1:
                return f"only one of the {length} {what} differs: {int(hit[0])}"
            if hit[-1] - hit[0] == len(hit) - 1 and hit[0] in (0, length - len(hit)):
                return f"only {len(hit)} of the {length} {what} differ, at the {'start' if hit[0] == 0 else 'end'}"
    axes = [axis for axis in range(1, gap.ndim) if axis != channels % gap.ndim and gap.shape[axis] > 4]
    if axes:
        for width in (1, 2, 3):
            inner = tuple(slice(width, -width) if axis in axes else slice(None) for axis in range(gap.ndim))
            if all(gap.shape[axis] > 2 * width for axis in axes) and not gap[inner].any():
                return f"only the border differs, {width} wide"
    return f"{share:.2g} of the values differ" if share < 0.5 else ""


def _side(found: Array, target: Array, gap: Array, inputs: Sequence[Array]) -> str:
    """Whether only one side of a threshold differs."""
    if not gap.any() or gap.all():
        return ""
    for values, word in (*((x, "of the input") for x in inputs[:1]), (found, "of the result")):
        if values.shape != gap.shape:
            continue
        if np.all(values[gap] < 0) and gap[values < 0].mean() > 0.5:
            return f"only negative values {word} differ"
        if np.all(values[gap] > 0) and gap[values > 0].mean() > 0.5:
            return f"only positive values {word} differ"
        least = float(values[gap].min())
        if gap[values >= least].mean() > 0.95 and (values < least).any():
            return f"only values {word} above {least:.4g} differ"
    return ""


def _rows(found: Array, target: Array, scale: float) -> str:
    """Whether the one is the other some places further along an axis."""
    for axis in range(found.ndim):
        length = found.shape[axis]
        for by in (1, -1, 2, -2):
            if length < 4 + abs(by):
                continue
            a = np.take(found, range(max(0, -by), length - max(0, by)), axis)
            b = np.take(target, range(max(0, by), length - max(0, -by)), axis)
            if np.abs(a - b).max() <= _CLOSE * scale and a.std() > _CLOSE * scale:
                return f"shifted by {by:+d} along axis {axis}"
    return ""


def _function(found: Array, target: Array, inputs: Sequence[Array]) -> str:
    """Whether what came out is a function of the input alone, or of what was to come out."""
    from tracer.causes.families.common import of_each

    given = [(x, "of the input alone") for x in inputs[:1]]
    for values, what in (*given, (found, "of what was to come out alone")):
        if values.shape != target.shape or values.size < 16:
            continue
        x, y = values.reshape(-1), target.reshape(-1)
        if x.size > 8192:
            places = np.random.default_rng(0).integers(0, x.size, 8192)
            x, y = x[places], y[places]
        if of_each(x, y):
            return f"a function {what}"
    return ""


def _noise(found: Array, target: Array, scale: float) -> str:
    """Whether the error looks like rounding: small, and about nothing."""
    error = target - found
    size = float(np.abs(error).max()) / scale
    near = relations.correlation(found, error)
    if size < 1e-2 and abs(near) < 0.1:
        return f"noise-like: at most {size:.2g} of the largest value, in no relation to it"
    sums = [axis for count in (1, 2) for axis in combinations(range(1, found.ndim), count)]
    for axes in sums:
        if np.allclose(target.sum(axis=axes), 1, atol=1e-4) and not np.allclose(found.sum(axis=axes), 1, atol=1e-4):
            return f"one side sums to one along axes {axes}"
    return ""


__all__ = ["of_case", "seen"]
