"""One pair of layers in full: facts, statistics, where the error sits, pictures of both tensors."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tracer.compare import Diff, PairDiff
from tracer.compare.verdict import AGREEING, Verdict
from tracer.compare.weights import facts as weight_facts
from tracer.errors import said
from tracer.names import display
from tracer.report import causes, tensors, words
from tracer.report.causes import Said
from tracer.report.html import charts
from tracer.report.html.charts import Chart
from tracer.report.html.pictures import Kind, heatmap
from tracer.report.rows import Row, opened
from tracer.report.tensors import Array, Planes, View
from tracer.store.summary import summarize

_WORST = 8
_TALLEST, _FLATTEST, _WIDE = 300, 56, 340
"""Pixels of a picture."""
_SECONDS = 5.0
"""For where the error sits in one layer; what could not be looked at by then is said."""
_ROOM = 600_000
"""Bytes of pictures in a page: the layers after that have numbers only."""
_SUMMED = 1 << 22
"""Elements of a tensor whose statistics are computed where the recording has none."""
_VERDICTS = {Verdict.DIVERGED: 0, Verdict.NOT_COMPARABLE: 2}


@dataclass(frozen=True)
class Picture:
    """A heatmap: its file as a URI, its size on the page, where the worst element is, and the ends of its scale."""

    title: str
    kind: Kind
    uri: str
    width: int
    height: int
    focus: tuple[float, float] | None
    ends: tuple[str, str]


@dataclass(frozen=True)
class Place:
    """Along one axis: which indices are hit, and the greatest difference at each as an outline."""

    axis: str
    where: str
    outline: str


@dataclass(frozen=True)
class Detail:
    """What is shown of a pair.

    Attributes:
        facts: sentences; ``causes`` what was found of it.
        figures: a label and a number each; ``moments`` a label and both sides' numbers.
        settings: word, reference, candidate, what it means.
        places, worst: where the tensors differ; index, reference, candidate and difference as text.
        plane: which slice is drawn, in words.
        missing: why there are no pictures.
    """

    row: Row
    pair: PairDiff
    anchor: str
    first: bool
    facts: tuple[str, ...]
    causes: tuple[Said, ...]
    figures: tuple[tuple[str, str], ...]
    moments: tuple[tuple[str, str, str], ...]
    settings: tuple[tuple[str, str, str, str], ...]
    places: tuple[Place, ...] = ()
    worst: tuple[tuple[str, str, str, str], ...] = ()
    outside: str = ""
    pictures: tuple[Picture, ...] = ()
    plane: str = ""
    curves: Chart | None = None
    histogram: Chart | None = None
    missing: str = ""


def chosen(diff: Diff, rows: Sequence[Row], most: int) -> tuple[list[Row], int]:
    """The layers to show in full, in running order, and how many more call for it.

    Those that diverge, the last that agrees before the first of them, and those that could not be compared; where
    nothing diverges, those with the largest errors.
    """
    pairs = [row for row in rows if row.pair is not None]
    wanted = sorted((row for row in pairs if row.verdict in _VERDICTS), key=lambda row: _VERDICTS[row.verdict])
    if not wanted:
        off = [row for row in pairs if row.error]
        wanted = sorted(off, key=lambda row: row.relative or 0.0, reverse=True)[: min(3, most)]
    kept = wanted[: max(0, most)]
    first = next((row for row in pairs if diff.first is not None and row.pair is diff.first), None)
    if first is not None and kept:
        before = [row for row in pairs if row.place < first.place and row.verdict in AGREEING]
        kept += before[-1:]
    return sorted(kept, key=lambda row: row.place), len(wanted) - min(len(wanted), max(0, most))


def details(diff: Diff, rows: Sequence[Row]) -> Iterator[Detail]:
    """Each of the layers in full; tensors are read a slice or a block at a time."""
    room = _ROOM
    order = sorted(rows, key=lambda row: (row.pair is not diff.first, row.place))
    found = {}
    for row in order:  # the first divergence has its pictures whatever comes before it
        one = _detail(diff, row, pictures=room > 0)
        room -= sum(len(picture.uri) for picture in one.pictures)
        found[row.place] = one
    yield from (found[row.place] for row in rows)


def _detail(diff: Diff, row: Row, *, pictures: bool) -> Detail:
    pair = row.pair
    assert pair is not None
    first = pair is diff.first
    facts = [text for text in words.facts(pair) if not text.startswith("Configuration differs")]
    if pair.verdict is Verdict.DIVERGED and diff.of == "values":
        facts += weight_facts(pair, diff.reference, diff.candidate, diff.alignment.parameters)
    said_ = () if pair.finding is None else tuple(causes.parts(pair.finding))
    bare = Detail(
        row, pair, f"d{row.number}", first, tuple(facts), said_, tuple(_figures(pair)),
        tuple(_moments(_summary(diff, pair, 0), _summary(diff, pair, 1))),
        tuple((one.word, one.reference, one.candidate, one.means) for one in pair.settings),
    )  # fmt: skip
    if diff.of != "values":
        return bare
    try:
        return _with_tensors(diff, bare, pictures)
    except Exception as error:  # a damaged tensor is no reason to lose the page
        return _but(bare, missing=said(error))


def _with_tensors(diff: Diff, bare: Detail, pictures: bool) -> Detail:
    pair, row = bare.pair, bare.row
    found = opened(row, (diff.reference, diff.candidate))
    some = found.reference if found.reference is not None else found.candidate
    if some is None or not some.size:
        return _but(bare, missing="; ".join(dict.fromkeys(filter(None, found.why[:2]))))
    names = tensors.axis_names(row.node, pair, some.ndim)
    more: dict[str, object] = {}
    ours, theirs = found.reference, found.candidate
    if ours is not None and theirs is not None:
        more |= _located(ours, theirs, pair, names)
    else:
        more["missing"] = "; ".join(filter(None, found.reasons))
    if not bare.moments:  # of a step nothing is noted
        more["moments"] = tuple(_moments(_summarized(ours), _summarized(theirs)))
    histogram = tensors.histogram(ours, theirs)
    labels = display(diff.reference.name), display(diff.candidate.name)
    if histogram is not None:
        more["histogram"] = charts.outlines(histogram, labels)
    if not pictures:
        more["missing"] = "no pictures here: the page would grow too large"
        return _but(bare, **more)
    stats = pair.stats
    view = View.of(some.shape, names, stats.argmax if stats is not None else None)
    planes = tensors.load(view, ours, theirs)
    more["plane"] = _plane_text(view, names, planes)
    if view.is_line:
        lines = [(name, kind, side.reshape(-1)) for name, kind, side in
                 zip(labels, ("reference", "candidate"), (planes.reference, planes.candidate), strict=True)
                 if side is not None]  # fmt: skip
        last = len(lines[0][2]) - 1
        more["curves"] = charts.curves(lines, ("0", str(last)))
    else:
        more["pictures"] = tuple(_pictures(planes, view, labels))
    return _but(bare, **more)


def _but(bare: Detail, **more: object) -> Detail:
    from dataclasses import replace

    return replace(bare, **more)  # type: ignore[arg-type]


def _located(ours: Array, theirs: Array, pair: PairDiff, names: Sequence[str]) -> dict[str, object]:
    end = time.monotonic() + _SECONDS
    atol, rtol = pair.tolerance.atol, pair.tolerance.rtol
    where = tensors.locate(ours, theirs, atol, rtol, count=_WORST, stop=lambda: time.monotonic() > end)
    if not where.worst:
        return {}
    share = 100 * where.outside / max(1, where.seen)
    seen = "" if where.seen == where.size else f" of the {where.seen} that were looked at"
    worst = tuple(
        (words.index_text(index), f"{a:.6g}", f"{b:.6g}", words.number(abs(a - b)))
        for index, a, b in where.worst
        if a != b and not (math.isnan(a) and math.isnan(b))
    )
    places = tuple(
        Place(name, f"at {tensors.spans(hit)}" if where.outside else "none outside", charts.strip(greatest))
        for name, hit, greatest in zip(names, where.hit, where.greatest, strict=False)
        if len(hit) > 1 and greatest.any()
    )
    return {
        "worst": worst, "places": places,
        "outside": f"{where.outside} of {where.size} elements{seen} ({share:.3g} %) are outside the tolerance",
    }  # fmt: skip


def _pictures(planes: Planes, view: View, labels: tuple[str, str]) -> Iterator[Picture]:
    low, high = planes.limits
    far = planes.greatest
    focus = planes.nearest(view.focus)
    drawn: list[tuple[str, Kind, Array | None, tuple[float, float]]] = [
        (labels[0], "values", planes.reference, (low, high)),
        (labels[1], "values", planes.candidate, (low, high)),
        (f"{labels[1]} − {labels[0]}", "difference", planes.difference, (-far, far)),
    ]
    for title, kind, plane, limits in drawn:
        if plane is None:
            continue
        rows, columns = plane.shape
        height = round(min(_TALLEST, max(_FLATTEST, _WIDE * rows / max(1, columns))))
        width = round(min(_WIDE, max(_FLATTEST, height * columns / rows))) if rows > columns else _WIDE
        mark = (width * (focus[1] + 0.5) / columns, height * (focus[0] + 0.5) / rows) if far > 0 else None
        ends = f"{limits[0]:.4g}", f"{limits[1]:.4g}"
        yield Picture(title, kind, heatmap(plane, limits, kind), width, height, mark, ends)


def _plane_text(view: View, names: Sequence[str], planes: Planes) -> str:
    down = names[view.down] if view.down is not None else ""
    across = names[view.across] if view.across is not None else ""
    at = ", ".join(f"{names[axis]} {view.index[axis]} of {view.shape[axis]}" for axis in view.others)
    shown = f"{down} (down) by {across} (across)" if down and across else across
    thinned = "; some of its rows or columns" if planes.thinned else ""
    return f"{shown}{f', at {at}' if at else ''}{thinned}"


def _figures(pair: PairDiff) -> Iterator[tuple[str, str]]:
    yield "confidence of the pair", f"{pair.pair.confidence:.2f}"
    stats = pair.stats
    if stats is None:
        return
    yield "max|Δ|", f"{words.number(stats.max_abs)} at {words.index_text(stats.argmax)}"
    yield "mean|Δ|", words.number(stats.mean_abs)
    yield "relative L2 error", words.number(stats.rel_l2)
    yield "cosine", "—" if stats.cosine is None else f"{stats.cosine:.6f}"
    local = pair.local if pair.local is not None and pair.local.known else None
    if local is not None:
        yield "adds itself", f"{words.number(local.relative(local.error), 1)} of its largest value"
        yield "rounding explains", words.number(local.relative(local.floor), 1)
    else:
        yield "rounding at this depth", words.number(pair.floor, 1)
    if stats.nonfinite:
        yield "NaN, inf on one side", str(stats.nonfinite)


def _summary(diff: Diff, pair: PairDiff, side: int) -> Mapping[str, float | int]:
    recording, node = ((diff.reference, pair.node), (diff.candidate, pair.candidate_node))[side]
    return recording.summary(node.name) or {}


def _summarized(values: Array | None) -> Mapping[str, float | int]:
    return summarize(values) if values is not None and values.size <= _SUMMED else {}


def _moments(ours: Mapping[str, float | int], theirs: Mapping[str, float | int]) -> Iterator[tuple[str, str, str]]:
    """What each recording noted when it saved the tensor, or what was found of it now; nothing where neither is."""
    for label in ("mean", "std", "min", "max", "nan", "inf", "zeros") if ours or theirs else ():
        cells = _moment(ours, label), _moment(theirs, label)
        if label not in ("nan", "inf") or any(cell not in ("0", "—") for cell in cells):
            yield label, *cells


def _moment(summary: Mapping[str, float | int], label: str) -> str:
    if label == "std" and "rms" in summary and "mean" in summary:
        return f"{math.sqrt(max(0.0, summary['rms'] ** 2 - summary['mean'] ** 2)):.4g}"
    if label not in summary:
        return "—"
    value = summary[label]
    return str(value) if label in ("nan", "inf", "zeros") else f"{value:.4g}"
