"""The words and number formats that every front end shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracer import kinds
from tracer.alignment.axes import describe
from tracer.alignment.patterns import scopes
from tracer.compare.places import words_of
from tracer.compare.verdict import Verdict
from tracer.names import display

if TYPE_CHECKING:
    from tracer.compare.comparing import Diff
    from tracer.compare.pair import PairDiff
    from tracer.compare.stats import Stats
    from tracer.compare.verdict import Tolerance

_ASCII = str.maketrans({"⇄": "<>", "×": "x", "→": ">", "·": ".", "—": "-", "≥": ">=", "…": "~", "‖": "|", "−": "-"})


def to_ascii(text: str) -> str:
    """``text`` without our own glyphs; what is left over outside ASCII becomes escapes."""
    return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()


def shape_text(shape: Sequence[int] | Sequence[int | str] | None) -> str:
    if shape is None:
        return "?"
    return "×".join(map(str, shape)) or "scalar"


def number(value: float | None, digits: int = 2) -> str:
    """``1.23e-04``; a dash for None."""
    if value is None:
        return "—"
    return f"{value:.{digits}e}" if math.isfinite(value) else str(value)


def count(number: int, what: str) -> str:
    """``1 pair``, ``2 pairs``."""
    return f"{number} {what}" + "s" * (number != 1)


def index_text(index: Sequence[int] | None) -> str:
    return "—" if index is None else "(" + ", ".join(map(str, index)) + ")"


def bytes_text(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError


def axes_text(pair: PairDiff) -> str:
    axes, found = pair.pair.axes, pair.pair
    return describe(axes, len(axes or ()), found.arrangement, ambiguous=bool(found.other_axes))


def together(names: Sequence[str]) -> str:
    """``a/b/(mul + add)`` for nodes that begin alike; of more than three the first, the last and how many they are."""
    first, last = min(names), max(names)
    common = max((scope for scope in scopes(first) if scope[-1] in "/." and last.startswith(scope)), default="")
    common = common if len(names) > 1 else ""
    shown = [display(name[len(common) :]) for name in names]
    rest = " + ".join(shown) if len(shown) < 4 else f"{shown[0]} … {shown[-1]}"
    text = f"{display(common)}({rest})" if common else rest
    return text if len(shown) < 4 else f"{text}, {len(shown)} nodes"


def op_text(pair: PairDiff) -> str:
    """The operation in the frameworks' own words: one word where they agree, both where they do not.

    Of a group, what it is.
    """
    if pair.pair.what:
        return display(pair.pair.what)
    ours, theirs = pair.node.label, pair.candidate_node.label
    return display(ours) if pair.node.kind == pair.candidate_node.kind else f"{display(ours)} ⇄ {display(theirs)}"


def facts(pair: PairDiff) -> list[str]:
    """What is known about a pair, a sentence each, the weightiest first."""
    out = []
    if pair.reason:
        out.append(pair.reason[0].upper() + pair.reason[1:])
    computing_first = sorted(pair.settings, key=lambda setting: not setting.computes)
    out += [f"Configuration differs: {display(str(setting))}" for setting in computing_first]
    alike = pair.pair.what or pair.verdict is not Verdict.DIVERGED
    if not alike and 0 < kinds.similarity(pair.node.kind, pair.candidate_node.kind) < 1:
        out.append(f"Different operations: {display(pair.node.label)} against {display(pair.candidate_node.label)}")
    s = pair.stats
    if s is not None:
        out.append(
            f"Greatest absolute difference {number(s.max_abs)} at index {index_text(s.argmax)}; "
            f"relative L2 error {number(s.rel_l2)}"
        )
        patterns = [text for text in words_of(s, pair.node) if text != "everywhere"]
        if patterns:
            out.append(f"How it differs: {'; '.join(patterns)}")
        if not s.passes(pair.tolerance.atol, pair.tolerance.rtol) and not s.nonfinite:
            out.append(_needs(s, pair.tolerance))
        if s.nonfinite:
            out.append(f"{s.nonfinite} elements are NaN or infinite on one side only")
    if pair.content == 1.0 and s is not None and s.rel_l2 > 0.1 and not pair.reordered:
        out.append("Both tensors hold the same values, in another order")
    if pair.note:
        out.append(f"Judged by the {display(pair.note)}")
    return out


def _needs(s: Stats, tolerance: Tolerance) -> str:
    s = s.at(tolerance.atol, tolerance.rtol)
    would = [f"atol ≥ {rounded_up(s.sufficient_atol(tolerance.rtol))}"]
    if math.isfinite(s.needed_rtol):
        would.append(f"rtol ≥ {rounded_up(s.needed_rtol)}")
    if s.outside is None:
        return f"Would pass with {' or '.join(would)}"
    share = 100 * s.outside / s.size
    return (
        f"{s.outside} of {s.size} elements ({share:.3g} %) outside the tolerance; would pass with {' or '.join(would)}"
    )


def rounded_up(value: float) -> str:
    """``value`` rounded up to two digits, so that the number shown really would do."""
    if value <= 0 or not math.isfinite(value):
        return number(value, 1)
    exponent = math.floor(math.log10(value)) - 1
    return f"{math.ceil(value / 10.0**exponent - 1e-9) * 10.0**exponent:.1e}"


def title(diff: Diff) -> str:
    """``tf (model.h5) ⇄ pt (model.pt)``."""
    sides = (diff.reference, diff.candidate)
    title = " ⇄ ".join(f"{display(r.name)} ({display(r.model, 40)})" for r in sides)
    return f"gradients: {title}" if diff.of == "gradients" else title
