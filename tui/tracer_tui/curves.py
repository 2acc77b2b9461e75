"""Lines of numbers as dots: what a curve looks like in so many columns and rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracer.report.tensors import Array

_BRAILLE = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""The dots of a character, from above and from the left."""


@dataclass(frozen=True)
class Envelope:
    """A line drawn in columns: the range that each column holds, NaN where there is nothing to draw.

    ``spoilt`` marks the columns in which a value is not finite.
    """

    low: Array
    high: Array
    spoilt: Array


def envelope(line: Array, columns: int) -> Envelope:
    """A line of numbers in ``columns`` columns. A short line is drawn from point to point; of a long one every column
    shows all that falls on it, so that a single peak stays visible."""
    length = len(line)
    if not length or columns < 1:
        nothing = np.full(max(0, columns), np.nan)
        return Envelope(nothing, nothing, np.zeros(len(nothing), bool))
    bad = ~np.isfinite(line)
    if length <= columns:
        at = np.linspace(0, length - 1, columns) if columns > 1 else np.zeros(1)
        with np.errstate(all="ignore"):
            low = high = np.interp(at, np.arange(length), np.where(bad, np.nan, line))
        spoilt = bad[np.rint(at).astype(np.int64)]
        return Envelope(*_joined(low, high), spoilt)
    starts = np.arange(columns) * length // columns
    with np.errstate(all="ignore"):
        low = np.fmin.reduceat(np.where(bad, np.nan, line), starts)
        high = np.fmax.reduceat(np.where(bad, np.nan, line), starts)
    return Envelope(*_joined(low, high), np.logical_or.reduceat(bad, starts))


def _joined(low: Array, high: Array) -> tuple[Array, Array]:
    """Let every column reach as far as the one before, so that no gap tears a steep line apart."""
    before_low, before_high = np.append(np.nan, low[:-1]), np.append(np.nan, high[:-1])
    here = np.isfinite(low)
    return np.where(here, np.fmin(low, before_high), low), np.where(here, np.fmax(high, before_low), high)


def dots(curve: Envelope, rows: int, limits: tuple[float, float]) -> Array:
    """The points to draw: booleans of ``rows`` × columns, the greatest value on top."""
    low, high = limits
    with np.errstate(all="ignore"):
        flat = not (high > low and np.isfinite(high - low))
        # Shares first: of a span of denormal numbers the reciprocal is infinite.
        shares = [(high - np.clip(values, low, high)) / (high - low) for values in (curve.high, curve.low)]
        if flat:
            shares = [np.where(np.isnan(values), np.nan, 0.5) for values in (curve.high, curve.low)]
        top, bottom = (np.rint(share * (rows - 1)) for share in shares)
    row = np.arange(rows)[:, None]
    found: Array = (row >= top) & (row <= bottom)
    return found


def braille(points: Array) -> Array:
    """Which dots each character has, for points of 4 × 2 times as many rows and columns as there are characters."""
    rows, columns = points.shape
    cells = points.reshape(rows // 4, 4, columns // 2, 2)
    found: Array = (cells * _BRAILLE[None, :, None, :]).sum(axis=(1, 3))
    return found


def peaks(line: Array, columns: int) -> Array:
    """The greatest magnitude in each of ``columns`` columns; infinite where a value is not finite."""
    length = len(line)
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(line), np.abs(line), np.inf)
    if length <= columns:
        return size[np.arange(columns) * length // columns] if length else np.zeros(columns)
    return np.maximum.reduceat(size, np.arange(columns) * length // columns)
