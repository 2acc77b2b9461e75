"""Why two nodes are taken for a pair, in words and bars."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from tracer.alignment import Alignment
from tracer.alignment.axes import describe
from tracer.alignment.why import sorted_shares
from tracer.compare import Diff
from tracer.names import display
from tracer.report import words
from tracer_tui.look import Look
from tracer_tui.pairing import State, Suggestion

_BAR = 8
_LABEL = 11
_CELL = _LABEL + _BAR + 9


def reasons_text(look: Look, diff: Diff, one: Suggestion, *, width: int) -> list[Text]:
    """What speaks for a suggestion, line by line: the two nodes, each kind of evidence, doubts, other candidates."""
    lines = [_nodes(look, diff, one)]
    if one.state is State.REJECTED:
        return [*lines, look.text("Rejected: they are never paired, whatever speaks for it", "dim")]
    if one.reason:
        lines.append(look.text(one.reason[:1].upper() + one.reason[1:]))
    if one.pending:
        lines.append(look.text("Said since the pairs were sought: they are being sought anew", "dim"))
    elif one.state is State.ACCEPTED:
        lines.append(look.text("Stated by you or the mapping file", "dim"))
    why = diff.alignment.reasons.pairs.get(one.ends)
    shares = dict(why.shares) if why is not None else {}
    if shares:
        lines += _shares(look, sorted_shares(shares), width)
    elif one.pair is not None and one.state is not State.ACCEPTED:
        evidence = ", ".join(f"{name} {share:.2g}" for name, share in one.pair.evidence.items())
        lines.append(look.text(f"Paired by {evidence}" + (f": {one.pair.what}" if one.pair.what else "")))
    for doubt in why.doubts if why is not None and one.state is not State.ACCEPTED else ():
        lines.append(look.join(("but ", "noise"), (doubt, "noise")))
    if (others := rivals(look, diff.alignment, one.reference[-1], 0, one)) is not None:
        lines.append(others)
    return lines


def rivals(look: Look, alignment: Alignment, name: str, side: int, one: Suggestion | None) -> Text | None:
    """``other candidates: a 0.44 · b 0.12``; None where there are none."""
    taken = () if one is None else one.candidate if side == 0 else one.reference
    found = one.choices if one is not None and one.choices else alignment.reasons.rivals[side].get(name, ())
    left = [(other, value) for other, value in found if other not in taken]
    if not left:
        return None
    label = "other candidates: " if taken else "may be: "
    listed = " · ".join(f"{display(other)} {value:.2f}" for other, value in left)
    return look.join((label, "dim"), (listed, "dim"))


def _nodes(look: Look, diff: Diff, one: Suggestion) -> Text:
    """Shapes, axes and operations of both."""
    sides = diff.reference.structure.by_name, diff.candidate.structure.by_name
    ours, theirs = (known.get(name) for known, name in zip(sides, one.ends, strict=True))
    parts = []
    if ours is not None and theirs is not None:
        parts = [f"{words.shape_text(ours.shape)} ⇄ {words.shape_text(theirs.shape)}"]
        if one.pair is not None and one.pair.axes is not None:
            axes = describe(
                one.pair.axes, len(one.pair.axes), one.pair.arrangement, ambiguous=bool(one.pair.other_axes)
            )
            parts.append(f"axes {axes}")
        parts.append(ours.label if ours.kind == theirs.kind else f"{ours.label} ⇄ {theirs.label}")
        places = [[node.name for node in side].index(name) + 1 for side, name in zip(
            (diff.reference.structure, diff.candidate.structure), one.ends, strict=True)]  # fmt: skip
        lengths = [len(side.nodes) for side in (diff.reference.structure, diff.candidate.structure)]
        parts.append(f"node {places[0]} of {lengths[0]} ⇄ {places[1]} of {lengths[1]}")
    found = next((p for p in diff.pairs if (p.node.name, p.candidate_node.name) == one.ends), None)
    if found is not None and found.stats is not None:
        parts.append(f"max|Δ| {words.number(found.stats.max_abs, 1)}")
    return look.text("   ".join(parts))


def _shares(look: Look, shares: Sequence[tuple[str, float]], width: int) -> list[Text]:
    """A bar for each kind of evidence, as many beside one another as fit."""
    most = max(abs(value) for _, value in shares)
    cells = []
    for name, value in shares:
        bar = look.bar(abs(value) / most, _BAR).ljust(_BAR)
        style = "match" if value > 0 else "diverged"
        cell = look.join((name.ljust(_LABEL), "bold"), (bar, style), f" {value:+.1f}".ljust(_CELL - _LABEL - _BAR))
        cells.append(cell)
    beside = max(1, min(4, width // _CELL))
    height = -(-len(cells) // beside)
    return [look.join(*cells[row::height]) for row in range(height)]
