"""Where an error sits, in words."""

from __future__ import annotations

from collections.abc import Sequence

from tracer.compare.spread import Fit, Spot, Where
from tracer.compare.stats import Stats
from tracer.graph import Node

_ONLY = 1 - 1e-6
"""Share of the squared error above which the rest is not worth a word."""
_SIGNED = 0.999
_MANY = 0.5
_FEWEST = 16
"""Differing elements of which one sign alone would be chance."""
_IMAGE = {4: ("row", "column"), 5: ("plane", "row", "column")}


def words_of(stats: Stats, node: Node) -> list[str]:
    """Sentences, without a full stop, about what is peculiar to the difference of a pair; none where nothing is.

    ``node`` is the reference's.
    """
    return [*_values(stats), *(_places(stats, stats.where, node) if stats.where is not None else [])]


def _values(stats: Stats) -> list[str]:
    out = []
    for side, constant in zip(("reference", "candidate"), stats.constant, strict=True):
        if constant is not None and stats.size > 1 and stats.max_abs > 0:
            out.append(f"the {side} is {constant:.6g} everywhere")
    found = stats.nonfinites
    for what, ours, theirs in (
        ("NaN", found.nan_reference, found.nan_candidate),
        ("infinite", found.inf_reference, found.inf_candidate),
    ):
        if (ours or theirs) and stats.nonfinite:
            out.append(f"{what}: {ours} elements of the reference, {theirs} of the candidate")
    count, largest = stats.zeros
    if stats.where is not None and count > _MANY * stats.where.unequal and largest > 0.5 * stats.max_abs:
        out.append(f"zero on one side only: {_counted(count)}, the other side up to {largest:.2g}")
    return out


def _places(stats: Stats, where: Where, node: Node) -> list[str]:
    if not where.profiles:
        return []
    out = []
    spots = [_spot(spot, where, node) for spot in where.spots]
    if where.unequal == 1:
        out.append(f"in a single element: {list(stats.argmax or ())}")
    elif spots:
        out.append(" and ".join(spots))
    elif where.frame:
        nouns = [_noun(axis, where, node) for axis in where.frame]
        out.append(f"only at the border (first and last {' and '.join(head + tail for head, tail in nouns)})")
    if where.fit is not None and where.unequal > 1:
        out.append(_law(where.fit, where, node))
    if where.negative is not None and where.unequal >= _FEWEST:
        for sign, share in (("negative", where.negative), ("positive", 1 - where.negative)):
            if share >= _SIGNED:
                only = "only" if share >= _ONLY else "almost only"
                out.append(f"{only} where the reference is {sign}")
    if not out:
        share = where.unequal / max(1, stats.size)
        out.append("everywhere" if share > _MANY else f"scattered: {_counted(where.unequal)} of {stats.size}")
    return out


def _counted(count: int) -> str:
    return "one element" if count == 1 else f"{count} elements"


def _noun(axis: int, where: Where, node: Node) -> tuple[str, str]:
    """What a position along an axis is called, and what is put behind its number."""
    if where.names:
        return "position", f" of {where.names[axis]}"
    rank = len(node.shape or ())
    if axis == where.channels and rank > 1:
        return "channel" if node.layout is not None or rank > 3 else "feature", ""
    if axis == 0 and rank > 1:
        return "sample", ""
    if where.channels is not None and rank == 3:
        return "step", ""
    if where.channels is not None and rank in _IMAGE:
        inner = [i for i in range(1, rank) if i != where.channels]
        return _IMAGE[rank][inner.index(axis)], ""
    return "position", f" of axis {axis}"


def _spot(spot: Spot, where: Where, node: Node) -> str:
    noun, tail = _noun(spot.axis, where, node)
    only = "only" if spot.share >= _ONLY else "almost only"
    at, last = spot.positions, spot.length - 1
    count = at[-1] - at[0] + 1
    if spot.run and at[0] == 0:
        text = f"in the first {count} {noun}s"
    elif spot.run and at[-1] == last:
        text = f"in the last {count} {noun}s"
    elif spot.run:
        text = f"in {noun}s {at[0]} to {at[-1]}"
    elif at == (0, last) and spot.length > 3:
        text = f"at the border (first and last {noun})"
    elif at in ((0,), (last,)) and spot.length > 2 and noun not in ("channel", "feature"):
        text = f"in the {'first' if at == (0,) else 'last'} {noun}"
    else:
        text = f"in {noun}{'s' * (len(at) > 1)} {', '.join(map(str, at))}"
    share = "" if spot.share >= _ONLY else f" ({_floored(100 * spot.share)} % of the squared error)"
    return f"{only} {text}{tail} of {spot.length}{share}" if not tail else f"{only} {text}{tail} ({spot.length}){share}"


def _floored(percent: float) -> str:
    return f"{int(percent * 100) / 100:g}"


def _law(fit: Fit, where: Where, node: Node) -> str:
    ratio, offset = _span(fit.ratio), _span(fit.offset)
    several = fit.axis is not None and (fit.ratio[0] != fit.ratio[1] or fit.offset[0] != fit.offset[1])
    each = f" per {''.join(_noun(fit.axis, where, node))}" if fit.axis is not None and several else ""
    there = ", there" if fit.axis is not None and not several else ""
    if fit.law == "ratio":
        return f"a constant ratio{each}: the candidate is {ratio} times the reference{there}"
    if fit.law == "offset":
        return f"a constant offset{each}: the candidate is the reference plus {offset}{there}"
    return f"another scale and offset{each}: the candidate is {ratio} times the reference plus {offset}{there}"


def _span(ends: Sequence[float]) -> str:
    low, high = (f"{value:.6g}" for value in ends)
    return low if low == high else f"{low} to {high}"
