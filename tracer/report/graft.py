"""A graft as text, and the defects that explain the outputs' difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from tracer.compare.verdict import ASCII_GLYPHS, GLYPHS, Verdict
from tracer.names import display
from tracer.report import words
from tracer.report.outline import columns
from tracer.report.text import STYLES
from tracer.report.words import to_ascii
from tracer.rerun.graft import Off, explained
from tracer.rerun.grafted import Defect, Explanation, Graft
from tracer.rerun.growth import Growth
from tracer.store import Recording

_BAR = 20
_MOST = 8
"""Outputs that are listed."""


@dataclass(frozen=True)
class Told:
    """What a graft comes to, in words.

    Attributes:
        said: the verdict, then what it means, a sentence each.
        shares: a table of defects, its titles first; empty where none is weighed.
        conclusions: what follows from it.
        outputs: a table of the outputs, ``cut`` of which are not in it.
    """

    said: tuple[str, ...]
    shares: list[list[str]]
    conclusions: tuple[str, ...]
    outputs: list[list[str]]
    cut: int


def told(result: Graft | Explanation) -> Told:
    """What the text and a notebook's fragment hold."""
    if isinstance(result, Graft):
        return Told(tuple(_grafted(result)), [], (), _outputs(result), max(0, len(result.outputs) - _MOST))
    weighed = bool(result.defects and result.runs)
    several = len(result.outputs) > 1
    return Told(
        tuple(_explained(result)), _shares(result) if weighed else [], tuple(_conclusions(result)) if weighed else (),
        _outputs(result) if several else [], max(0, len(result.outputs) - _MOST) if several else 0,
    )  # fmt: skip


def verdict(result: Graft | Explanation) -> Verdict:
    return Verdict.MATCH if result.agrees else Verdict.DIVERGED


def text(result: Graft | Explanation, *, ascii_only: bool = False, width: int = 120) -> Text:
    """What a person reads, about a dozen lines."""
    glyphs = ASCII_GLYPHS if ascii_only else GLYPHS
    out, found = Text(), told(result)
    out.append(f"{head(result)}\n")
    out.append(f"{glyphs[verdict(result)]} {found.said[0]}\n", STYLES[verdict(result)])
    for line in found.said[1:]:
        out.append(f"  {line}\n")
    if found.shares:
        out.append("\n")
        for at, line in enumerate(columns(found.shares, width=width, right=frozenset({0, 3, 4, 5, 6}))):
            out.append(f"  {line}\n", "bold" if at == 0 else "")
        out.append("\n")
        for line in found.conclusions:
            out.append(f"{line}\n")
    if found.outputs:
        out.append("\n")
        for at, line in enumerate(columns(found.outputs, width=width, right=frozenset({1, 2, 3}))):
            out.append(f"  {line}\n", "bold" if at == 0 else "")
        if found.cut:
            out.append(f"  … and {found.cut} more (--json)\n")
    return Text(to_ascii(out.plain)) if ascii_only else out


def head(result: Graft | Explanation) -> str:
    """Both recordings with their models, and the tolerance."""
    sides = " ⇄ ".join(f"{display(r.name)} ({display(r.model, 40)})" for r in (result.reference, result.candidate))
    return f"{sides}   atol {result.tolerance.atol:g} rtol {result.tolerance.rtol:g}"


def growth_text(result: Growth, *, ascii_only: bool = False, width: int = 120) -> Text:
    """How much a small change at each layer grows to the outputs, a row each."""
    table = [["pair", "grows", ""]]
    largest = max((value for value in result.grows if math.isfinite(value)), default=0.0)
    for pair, value in zip(result.pairs, result.grows, strict=True):
        bar = "█" * round(_BAR * value / largest) if largest and math.isfinite(value) else ""
        ours, theirs = words.together(pair.reference), words.together(pair.candidate)
        table.append([f"{ours} ⇄ {theirs}" if ours != theirs else ours, _times(value), bar])
    out = Text("a small random change at a layer, relative to its tensor, grows by so much to the outputs\n")
    for at, line in enumerate(columns(table, width=width, right=frozenset({1}))):
        out.append(f"{line}\n", "bold" if at == 0 else "")
    if result.left_out:
        out.append(f"and {words.count(result.left_out, 'pair')} between them\n")
    return Text(to_ascii(out.plain.replace("█", "#"))) if ascii_only else out


def plain(result: Graft | Explanation) -> str:
    """The text without colour, for ``str(result)``."""
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(text(result, width=400), end="", soft_wrap=True)
    return capture.get().rstrip("\n")


def _grafted(result: Graft) -> list[str]:
    """The verdict and what it means, a sentence each."""
    own, other = _sides(result)
    where = _some([f"{words.together(p.reference)} ⇄ {words.together(p.candidate)}" for p in result.pairs], 3)
    if result.agreed and result.agrees:
        verdict = f"the outputs agree{'' if result.passed else ' up to rounding'}, as they did before"
    elif result.agrees:
        verdict = "the outputs agree: what makes them differ lies there or above"
    elif result.agreed:
        verdict = "the outputs agreed, and no longer do"
    else:
        verdict = f"the outputs still differ: {_left(result)}"
    lines = [verdict, f"'{display(own.name)}' ran on from the activation of '{display(other.name)}' at {where}"]
    moved = [change for change in result.changed if math.isfinite(change)]
    if any(map(math.isinf, result.changed)):
        lines.append("where the shape is another one")
    elif any(map(math.isnan, result.changed)):
        lines.append("which did not run this time" if not moved else "some of which did not run this time")
    elif max(moved) == 0:
        lines.append("which changed nothing: both gave the same there")
    else:
        what = "that tensor changed" if len(moved) == 1 else "of those tensors the one that changed most did so"
        outputs = max((off.changed for off in result.after if math.isfinite(off.changed)), default=0.0)
        grows = f" (grows {_times(result.grows)})" if result.grows is not None else ""
        lines.append(f"{what} by {_error(max(moved))}, the outputs by {_error(outputs)}{grows}")
    if result.reordered:
        lines.append(f"in its own order of the values, which what reads them expects: {_some(result.reordered, 3)}")
    return lines


def _left(result: Graft) -> str:
    share = explained(result.after)
    if share is None:
        return "something below differs as well"
    if share < 0.01:
        return "what makes them differ lies elsewhere"
    return f"{_percent(share)} of the difference went, the rest comes from elsewhere"


def _explained(result: Explanation) -> list[str]:
    count, left = len(result.defects), sum(len(d.pairs) for d in result.left_out)
    found = f"{count} {'defect' if count == 1 else 'defects'}"
    lines = []
    if result.passed or (result.agreed and not count):
        lines.append(f"the outputs agree {'within the tolerance' if result.passed else 'up to rounding'} as they are")
        if count:
            names = _some([pair.aligned for d in result.defects for pair in d.pairs], 4)
            lines.append(f"what diverges on its own does not show in them: {names}")
        return lines
    worst = max(zip(result.outputs, result.before, strict=True), key=lambda one: one[1].rel_l2)
    if not count:
        return [
            f"the outputs differ ({_off_text(worst[1])}), but no pair diverges on its own",
            "what makes them differ has no twin, or was not recorded: tracer map shows what is not paired",
        ]
    if result.agrees:
        lines.append(f"{found} explain{'s' * (count == 1)} the whole difference of the outputs ({_off_text(worst[1])})")
    else:
        share = explained(result.after)
        most = "do not explain" if share is None else f"explain only {_percent(share)} of"
        lines.append(f"{found} {most} the difference of the outputs ({_off_text(worst[1])})")
    if left:
        lines.append(f"{words.count(left, 'more pair')} with smaller errors left out")
    return lines


def _shares(result: Explanation) -> list[list[str]]:
    table = [["#", "defect", "op", "explains", "alone", "last", "own error", "grows"]]
    for at, defect in enumerate(result.defects):
        first = defect.pairs[0]
        table.append(
            [
                str(at + 1), _name(defect), words.op_text(first), _percent(defect.explains), _percent(defect.alone),
                _percent(defect.last), _own_error(defect), _times(defect.grows),
            ]
        )  # fmt: skip
    return table


def _own_error(defect: Defect) -> str:
    ordered = all(pair.local is not None and pair.local.unexpected for pair in defect.pairs)
    return "order" if ordered else _error(defect.error)


def _name(defect: Defect) -> str:
    first = defect.pairs[0]
    if len(defect.pairs) == 1:
        ours, theirs = words.together(first.pair.reference), words.together(first.pair.candidate)
        return f"{ours} ⇄ {theirs}" if ours != theirs else ours
    names = f"{display(first.aligned)} … {display(defect.pairs[-1].aligned)}, {len(defect.pairs)} pairs"
    return f"{names}: {display(defect.settings)}" if defect.settings else names


def _conclusions(result: Explanation) -> list[str]:
    count = len(result.defects)
    lines = ["alone: when it is repaired as the only one; last: after all others"] if count > 1 else []
    if result.enough == ():
        lines.append("the difference is small enough to pass for rounding at this depth, though it is none")
    elif result.enough is not None and len(result.enough) < count:
        numbers = " and ".join(str(at + 1) for at in result.enough)
        lines.append(f"repairing {numbers} is enough to bring the outputs within the tolerance")
    elif result.enough is not None and count > 1:
        lines.append("all of them must be repaired to bring the outputs within the tolerance")
    if any(defect.interacts for defect in result.defects):
        lines.append("they influence each other: what one explains depends on which others are repaired")
    hidden = [at + 1 for at, defect in enumerate(result.defects) if (defect.explains or 0.0) < -0.01]
    if hidden:
        numbers = " and ".join(map(str, hidden))
        lines.append(f"{numbers} makes up for part of the others: without it the outputs are further apart")
    if not result.agrees:
        worst = max(result.after, key=lambda off: off.rel_l2)
        lines.append(f"with all of them repaired the outputs still differ ({_off_text(worst)})")
    return lines


def _outputs(result: Graft | Explanation) -> list[list[str]]:
    after = "after" if isinstance(result, Graft) else "all repaired"
    table = [["output", "before", after, "gone"]]
    for output, before, now in list(zip(result.outputs, result.before, result.after, strict=True))[:_MOST]:
        gone = explained([now]) if not output.passes(before) else None
        table.append([display(output.name), _off_text(before), _off_text(now), _percent(gone)])
    return table


def _off_text(off: Off) -> str:
    if off.shape is not None:
        return f"shape {words.shape_text(off.shape)}" if off.shape else "it did not come out"
    return f"max {words.number(off.max_abs, 1)}, rel L2 {words.number(off.rel_l2, 1)}"


def _percent(share: float | None) -> str:
    """``93 %``; two digits of what is small or nearly all."""
    if share is None:
        return "—"
    value = 100 * share
    if abs(value) < 0.05:
        return "0 %" if value == 0 or abs(value) < 5e-4 else f"{value:.1g} %"
    return f"{value:.1f} %" if abs(value) < 1 or 99 < value < 99.95 else f"{value:.0f} %"


def _error(value: float) -> str:
    if math.isnan(value):
        return "—"
    if math.isinf(value):
        return "shape"
    if value >= 10:
        return f"× {value:.2g}"
    return f"{100 * value:.2g} %" if 1e-3 <= value < 1 else f"{100 * value:.0f} %" if value >= 1 else f"{value:.1e}"


def _times(value: float | None) -> str:
    return "—" if value is None or not math.isfinite(value) else f"× {value:.2g}"


def _sides(result: Graft) -> tuple[Recording, Recording]:
    sides = (result.candidate, result.reference)
    return sides if result.into == "candidate" else sides[::-1]


def _some(names: Sequence[str], most: int) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(display, names[:most])) + rest
