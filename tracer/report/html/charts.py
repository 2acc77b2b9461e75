"""Where the bars and lines of the inline SVG stand. Nothing here knows of markup."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.compare import Verdict
from tracer.compare.verdict import GLYPHS
from tracer.report import words
from tracer.report.profile import Bar, pooled, scale
from tracer.report.rows import Row
from tracer.report.tensors import Array, Histogram, pool

HEIGHT = 150
"""Of the error profile, in pixels; the glyphs stand below."""
_WIDEST = 400
"""Bars of the profile at most; of more pairs each bar stands for several."""
_NARROWEST = 5
_FEW = 60
"""Bars up to which each has its glyph; of more only those that call for a look."""
_POINTS = 240
_BINS = 60


@dataclass(frozen=True)
class Column:
    """A bar of the profile: its place in percent of the width, its upper edge and height in pixels."""

    left: float
    width: float
    top: float
    height: float
    verdict: Verdict
    glyph: str
    anchor: str
    title: str


@dataclass(frozen=True)
class Profile:
    """The error of every pair.

    Attributes:
        marks: the lines of the scale: their height in pixels and their label.
        tolerance: the height of the absolute tolerance's line; None where that is 0.
        least: pixels below which the width must not fall for a bar to be hit.
    """

    columns: tuple[Column, ...]
    marks: tuple[tuple[float, str], ...]
    tolerance: float | None
    atol: float
    least: int
    grouped: bool


def profile(rows: Sequence[Row], atol: float) -> Profile | None:
    """The bars of all pairs, each linked to its row; None where there is no pair."""
    pairs = [row for row in rows if row.pair is not None]
    if not pairs:
        return None
    bars = [Bar(row.verdict, row.error) for row in pairs]
    low, high = scale(bars, atol, HEIGHT // 20)

    def height(error: float) -> float:
        share = 1.0 if math.isinf(error) else (math.log10(error) - low) / (high - low)
        return max(2.0, min(1.0, share) * HEIGHT)

    groups = pooled(bars, _WIDEST)
    columns = []
    for place, (bar, start, end) in enumerate(groups):
        tall = height(bar.error) if bar.error else 1.0
        # The gravest of those it stands for is what one wants to see.
        at = max(range(start, end), key=lambda n: (pairs[n].verdict is bar.verdict, pairs[n].error or 0.0))
        quiet = bar.verdict is Verdict.MATCH or (len(groups) > _FEW and bar.verdict is not Verdict.DIVERGED)
        row = pairs[at]
        more = f" and {words.count(end - start - 1, 'pair')} beside it" if end - start > 1 else ""
        title = f"{GLYPHS[bar.verdict]} {bar.verdict}: {row.sides}{more}, max|Δ| {words.number(bar.error)}"
        left, width = 100 * place / len(groups), 100 / len(groups)
        columns.append(
            Column(
                round(left + 0.1 * width, 3), round(0.8 * width, 3), round(HEIGHT - tall, 1), round(tall, 1),
                bar.verdict, "" if quiet else GLYPHS[bar.verdict], anchor(row), title,
            )
        )  # fmt: skip
    step = max(1, math.ceil((high - low) / 5))
    exponents = range(math.ceil(low), math.floor(high) + 1, step)
    marks = tuple((round(HEIGHT * (1 - (e - low) / (high - low)), 1), f"1e{e:+d}") for e in exponents)
    line = round(HEIGHT * (1 - (math.log10(atol) - low) / (high - low)), 1) if atol > 0 else None
    return Profile(tuple(columns), marks, line, atol, _NARROWEST * len(groups), len(groups) < len(pairs))


def anchor(row: Row) -> str:
    """The name of a row's place in the page."""
    return f"p{row.number}" if row.number is not None else f"u{row.place}"


@dataclass(frozen=True)
class Line:
    """A line or an outline: its points in a box of 100 × 100, as SVG writes them."""

    name: str
    points: str
    kind: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines over each other, with the ends of both scales in words."""

    lines: tuple[Line, ...]
    bottom: tuple[str, str]
    side: tuple[str, str]
    note: str = ""


def outlines(found: Histogram, names: tuple[str, str]) -> Chart:
    """Both distributions as step outlines over common bins."""
    grouped = found.grouped(_BINS)
    logarithmic = grouped.logarithmic
    known = [s for s in grouped.shares if s is not None]
    top = max(float(s.max()) for s in known)
    least = min((float(s[s > 0].min()) for s in known if s.any()), default=top)

    def height(share: float) -> float:
        if share <= 0 or top <= 0:
            return 0.0
        if not logarithmic or least >= top:
            return 100 * share / top
        return 4 + 96 * math.log(share / least) / math.log(top / least)

    lines = []
    for name, kind, shares in zip(names, ("reference", "candidate"), grouped.shares, strict=True):
        if shares is None:
            continue
        points = [(0.0, 100.0)]
        for place, share in enumerate(shares.tolist()):
            level = 100 - height(share)
            points += [(100 * place / _BINS, level), (100 * (place + 1) / _BINS, level)]
        lines.append(Line(name, _points([*points, (100.0, 100.0)]), kind))
    low, high = (f"{edge:.4g}" for edge in (grouped.edges[0], grouped.edges[-1]))
    said = [*(["logarithmic"] if logarithmic else []), *(["of a sample"] if grouped.sampled else [])]
    return Chart(tuple(lines), (low, high), ("0", f"{100 * top:.3g} %"), ", ".join(said))


def curves(sides: Sequence[tuple[str, str, Array]], bottom: tuple[str, str]) -> Chart | None:
    """Lines of numbers over each other; of a long one each point is the value of largest magnitude that falls on it."""
    drawn = [(name, kind, pool(line.reshape(1, -1), 1, min(_POINTS, line.size))[0]) for name, kind, line in sides]
    finite = np.concatenate([line[np.isfinite(line)] for _, _, line in drawn])
    if not finite.size:
        return None
    low, high = float(finite.min()), float(finite.max())
    span = high - low if math.isfinite(high - low) and high > low else 1.0
    lines = []
    for name, kind, line in drawn:
        last = max(1, len(line) - 1)
        points = [(100 * at / last, 100 * (high - v) / span) for at, v in enumerate(line.tolist()) if math.isfinite(v)]
        lines.append(Line(name, _points(points), kind))
    return Chart(tuple(lines), bottom, (f"{low:.4g}", f"{high:.4g}"))


def growth(names: Sequence[str], errors: Sequence[Sequence[float | None]], steps: Sequence[int]) -> Chart:
    """Relative errors over steps, on a logarithmic scale from 1e-8 to 1."""
    first, last = steps[0], steps[-1]
    span = max(1, last - first)
    lines = []
    for number, (name, line) in enumerate(zip(names, errors, strict=True)):
        points = []
        for step, error in zip(steps, line, strict=True):
            if error is None:
                continue
            share = 1.0 if math.isinf(error) else 0.0 if error <= 0 else min(1.0, max(0.0, (math.log10(error) + 8) / 8))
            points.append((100 * (step - first) / span, 100 * (1 - share)))
        lines.append(Line(name, _points(points), f"l{number}"))
    return Chart(tuple(lines), (f"step {first}", f"step {last}"), ("1e-08", "1"))


def strip(values: Array, columns: int = 96) -> str:
    """A row of bars in a box of 100 × 100 as one outline, the largest of what falls on each."""
    finite = np.nan_to_num(values, posinf=float(np.max(values[np.isfinite(values)], initial=1.0)))
    top = float(finite.max(initial=0.0))
    if top <= 0:
        return ""
    bars = pool(finite.reshape(1, -1), 1, min(columns, finite.size))[0] / top
    points = [(0.0, 100.0)]
    for place, share in enumerate(bars.tolist()):
        points += [(100 * place / len(bars), 100 - 100 * share), (100 * (place + 1) / len(bars), 100 - 100 * share)]
    return _points([*points, (100.0, 100.0)])


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.4g},{y:.4g}" for x, y in points)
