"""The numbers of the Layer screen as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from rich.text import Text

from tracer.report import tensors, words
from tracer.report.rows import Row
from tracer.report.tensors import Where
from tracer.store import Recording
from tracer_tui.look import Look
from tracer_tui.weights import STYLES, WeightRow

_LABEL = 9


def statistics(
    look: Look,
    row: Row,
    recordings: tuple[Recording, Recording],
    where: Where | None,
    names: Sequence[str],
    *,
    width: int,
) -> Text:
    """How far the two are apart, what tolerance would do, where the error sits; then the moments of both sides."""
    moments = _moments(look, row, recordings, min(14, max(8, (width - _LABEL) // 2)))
    stats = row.pair.stats if row.pair is not None else None
    if row.pair is None or stats is None:
        return Text("\n").join([look.text(row.reason[:1].upper() + row.reason[1:]), Text(), *moments])
    style = "" if row.verdict == "match" else str(row.verdict)
    lines = [_line(look, "max|Δ|", f"{words.number(stats.max_abs)} at {words.index_text(stats.argmax)}", style)]
    lines.append(_line(look, "needs", _needs(row)))
    if stats.nonfinite:
        lines.append(_line(look, "NaN, inf", f"{stats.nonfinite} elements on one side only", "diverged"))
    lines += _place(look, where, names, width) if where is not None else [_line(look, "where", "looking …", "dim")]
    cosine = "—" if stats.cosine is None else f"{stats.cosine:.6f}"
    measures = [("mean|Δ|", words.number(stats.mean_abs)), ("rel L2", words.number(stats.rel_l2))]
    measures += [("cosine", cosine), ("rounding", words.number(row.pair.floor, 1))]
    beside = 2 if width >= 2 * (_LABEL + 11) else 1
    lines += [_beside(look, *measures[at : at + beside]) for at in range(0, len(measures), beside)]
    return Text("\n").join([*lines, Text(), *moments])


def weight_statistics(
    look: Look, row: WeightRow, where: Where | None, names: Sequence[str], *, width: int
) -> list[Text]:
    """How far two parameters are apart and where they differ, a line each; nothing where they were not compared."""
    found = row.row.figures
    if found is None:
        return []
    style = "" if found.equal else STYLES[row.status]
    lines = [_line(look, "max|Δ|", words.number(found.max_abs), style)]
    if found.nonfinite:
        lines.append(_line(look, "NaN, inf", f"{found.nonfinite} numbers on one side only", "diverged"))
    measures = [("mean|Δ|", words.number(found.mean_abs)), ("rel L2", words.number(found.rel_l2))]
    lines += [_beside(look, *measures)] if width >= 2 * (_LABEL + 11) else [_beside(look, one) for one in measures]
    if where is None:
        return [*lines, _line(look, "where", "looking …", "dim")]
    return [*lines, *_place(look, where, names, width)]


def _line(look: Look, label: str, text: str, style: str = "") -> Text:
    return look.join((label.ljust(_LABEL), "bold"), (text, style))


def _beside(look: Look, *parts: tuple[str, str]) -> Text:
    out = Text()
    for label, text in parts:
        out.append_text(look.join((label.ljust(_LABEL), "bold"), text.ljust(10))).append(" ")
    return out


def _moments(look: Look, row: Row, recordings: tuple[Recording, Recording], column: int) -> list[Text]:
    """What each recording noted when it saved the tensor."""
    nodes: list[str | None] = [row.node.name, row.node.name]
    if row.pair is not None:
        nodes[1] = row.pair.candidate_node.name
    else:
        nodes[int(row.on_reference)] = None
    found: list[Mapping[str, float | int]] = []
    head = Text(" " * _LABEL)
    for recording, node, style in zip(recordings, nodes, ("reference", "candidate"), strict=True):
        found.append((recording.summary(node) if node is not None else None) or {})
        name = look.shorten(look.plain(recording.name), column - 1)
        head.append_text(look.text(name.rjust(column), style))
    lines = [head]
    for label in ("mean", "std", "min", "max"):
        cells = "".join(_moment(one, label).rjust(column) for one in found)
        lines.append(look.join((label.ljust(_LABEL), "bold"), cells))
    spoilt = "".join((f"{one['nan']}/{one['inf']}" if "nan" in one else "—").rjust(column) for one in found)
    lines.append(look.join(("nan/inf".ljust(_LABEL), "bold"), spoilt))
    return lines


def _moment(summary: Mapping[str, float | int], label: str) -> str:
    if label == "std":
        if "rms" not in summary or "mean" not in summary:
            return "—"
        return f"{math.sqrt(max(0.0, summary['rms'] ** 2 - summary['mean'] ** 2)):.4g}"
    return f"{summary[label]:+.4g}" if label in summary else "—"


def _needs(row: Row) -> str:
    """The smallest absolute tolerance under which the pair agrees."""
    assert row.pair is not None
    assert row.pair.stats is not None
    stats, rtol = row.pair.stats, row.pair.tolerance.rtol
    if stats.max_abs == 0 and not stats.nonfinite:
        return "nothing: no element differs"
    if stats.nonfinite:
        return "no tolerance is enough"
    needed = stats.sufficient_atol(rtol)
    return f"atol ≥ {words.rounded_up(needed)} (rtol {rtol:g})" if needed > 0 else f"no atol: rtol {rtol:g} is enough"


def _place(look: Look, where: Where, names: Sequence[str], width: int) -> list[Text]:
    """Which channels and positions hold the error, and how it is spread over them."""
    part = "" if where.seen == where.size else " looked at"
    share = 100 * where.outside / max(1, where.seen)
    lines = [_line(look, "outside", f"{share:.3g} % ({where.outside} of {where.seen}{part})")]
    for name, hit, greatest in zip(names, where.hit, where.greatest, strict=False):
        if len(hit) < 2:
            continue
        if where.outside:
            lines.append(_line(look, name[: _LABEL - 1], f"at {tensors.spans(hit)}"))
        finite = np.nan_to_num(greatest, posinf=float(np.nanmax(greatest[np.isfinite(greatest)], initial=1.0)))
        if finite.max() > 0:
            columns = min(len(finite), max(8, width - _LABEL))
            label = "" if where.outside else name[: _LABEL - 1]
            strip = tensors.pool(finite.reshape(1, -1), 1, columns)[0] if len(finite) > columns else finite
            lines.append(look.join((label.ljust(_LABEL), "bold"), (look.sparkline(strip.tolist()), "reference")))
    return lines
