"""What the reports say of one finding: causes, proof, fix."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.causes.finding import Cause, Finding, Probed
from tracer.names import display
from tracer.report import words

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff

MOST = 4
"""Layers, causes or pairs that are named of many."""
_LABEL = 7
_OF_ALL = ("for ", "tracer transfer ")
"""What lines begin with that change all layers at once."""


def where(one: Finding, diff: Diff) -> str:
    """The pair, with its operation, as a heading."""
    return "   ".join(filter(None, heading(one, diff)))


def heading(one: Finding, diff: Diff) -> tuple[str, str]:
    """The pair and its operation, which is empty where it is not known."""
    pair = pair_of(one.pair, diff)
    if pair is None:
        return display(one.pair), ""
    ours, theirs = words.together(pair.pair.reference), words.together(pair.pair.candidate)
    return f"{ours} ⇄ {theirs}" if ours != theirs else ours, words.op_text(pair)


def pair_of(name: str, diff: Diff) -> PairDiff | None:
    """The pair of an aligned name."""
    return next((pair for pair in diff.pairs if pair.aligned == name), None)


@dataclass(frozen=True)
class Said:
    """A sentence about a finding: its label (empty where it needs none), its style, and whether it is kept whole."""

    label: str
    text: str
    style: str = ""
    whole: bool = False


def of(
    one: Finding, *, width: int, everything: bool = False, indent: str = "   ", brief: bool = False
) -> Iterator[tuple[str, str]]:
    """A finding as lines with their styles: causes, layers, proof, fix, source.

    ``brief``: the proof without what was computed, and no source.
    """
    lines = Lines(width, indent)
    for said in parts(one, everything=everything, brief=brief):
        if said.label:
            yield from lines.labelled(said.label, said.text, said.style, whole=said.whole)
        else:
            yield from lines.said(said.text, said.style)


def parts(one: Finding, *, everything: bool = False, brief: bool = False) -> Iterator[Said]:
    """What :func:`of` says, a sentence each."""
    for cause in one.causes:
        several = len(one.causes) > 1 and cause.without is not None
        share = f" (without it {error_text(cause.without)} is left)" if several else ""
        yield Said("", f"{display(cause.id)}: {display(cause.what)}{share}")
    if one.status == "unknown":
        yield Said("", f"unknown cause{_unknown(one)}")
    if one.status == "ambiguous" or one.candidates:
        yield Said("", _candidates(one))
    if len(one.pairs) > 1:
        shown = one.pairs if everything else one.pairs[:MOST]
        rest = f" and {len(one.pairs) - len(shown)} more" if len(shown) < len(one.pairs) else ""
        yield Said("", f"in {len(one.pairs)} layers: {', '.join(map(display, shown))}{rest}")
    if one.seen:
        yield Said("seen", "; ".join(map(display, one.seen)))
    if one.status != "unknown":
        yield Said("proof", _proof(one, brief), "dim")
    if one.probed is not None:
        yield Said("probe", probe(one.probed), "dim")
    for note in one.notes:
        yield Said("note", display(note), "dim")
    for fix in fixes(one):
        yield Said("fix", fix, "green", whole=True)
    for source in dict.fromkeys(cause.source for cause in one.causes if cause.source and not brief):
        yield Said("at", display(source), "dim", whole=True)


def fixes(one: Finding) -> list[str]:
    """What to change, each a line."""
    more = f"   (and so in {others_text(one)})" if len(one.pairs) > 1 else ""
    return [display(line) + ("" if line.startswith(_OF_ALL) else more) for line in one.fixes]


def others_text(one: Finding) -> str:
    """The other layers in which the same is to be changed; empty where there are none, or the lines are for all."""
    count = len(one.pairs) - 1
    if count < 1 or all(line.startswith(_OF_ALL) for line in one.fixes):
        return ""
    return f"the {f'{count} others' if count > 1 else 'other'}"


def short(one: Finding) -> str:
    """A finding in one line: ids, the difference, the proof."""
    if one.status == "unknown":
        return f"unknown cause{_unknown(one)}"
    if one.status == "latent":
        return "; ".join(f"{display(cause.id)}: {display(cause.what)}" for cause in one.causes)
    said = "; ".join(f"{display(cause.id)}: {display(cause.what)}" for cause in one.causes)
    others = sorted({cause.id for cause in one.candidates} - set(one.names))
    doubt = f", or {', '.join(map(display, others))}" if others else ""
    return f"{said}{doubt} (error {error_text(one.before)} → {error_text(one.after)})"


def under_first(diff: Diff) -> Iterator[tuple[str, str]]:
    """Cause and fix of the first divergence, as lines with their styles."""
    one = diff.first.finding if diff.first is not None else None
    if one is None:
        return
    yield f"  Cause: {short(one)}", "bold"
    for fix in fixes(one):
        yield f"  Fix: {fix}", "green"


def others(diff: Diff, pairs: Sequence[PairDiff]) -> Iterator[str]:
    """The further pairs that diverged: one line for all of one mistake."""
    groups: dict[tuple[str, ...], list[PairDiff]] = {}
    for pair in pairs:
        groups.setdefault(pair.finding.pairs if pair.finding is not None else (pair.aligned, ""), []).append(pair)
    told = [group for group in groups.values() if group[0].finding is not None]
    untold = [pair for group in groups.values() if group[0].finding is None for pair in group]
    for group in told[:MOST]:
        names = ", ".join(display(pair.aligned) for pair in group[:2]) + (
            f" and {len(group) - 2} more" if len(group) > 2 else ""
        )
        finding = group[0].finding
        assert finding is not None
        same = diff.first is not None and diff.first.finding is not None and diff.first.finding.pairs == finding.pairs
        yield f"{names}: {'the same' if same else short(finding)}"
    if len(told) > MOST:
        yield f"and {words.count(sum(map(len, told[MOST:])), 'pair')} more (tracer explain)"
    if untold:
        names = ", ".join(display(pair.aligned) for pair in untold[:MOST])
        yield names + (f" and {len(untold) - MOST} more" if len(untold) > MOST else "")


def _unknown(one: Finding) -> str:
    if one.before is None:
        return ""
    rounding = f", of which rounding explains {error_text(one.floor)}" if one.floor is not None else ""
    nearest = f"; the nearest hypothesis leaves {error_text(one.after)}" if one.after is not None else ""
    return f" (error {error_text(one.before)}{rounding}{nearest})"


def _candidates(one: Finding) -> str:
    """What is the same function here."""
    own = {(cause.id, cause.what) for cause in one.causes}
    others = [cause for cause in one.candidates if (cause.id, cause.what) not in own]
    if not others:
        return ""
    each = list(dict.fromkeys(_alternative(cause, one) for cause in others))
    said = "; ".join(each[:MOST]) + (f" and {len(each) - MOST} more" if len(each) > MOST else "")
    apart = f". {display(one.apart[0].upper() + one.apart[1:])}" if one.apart and one.status == "ambiguous" else ""
    hint = " (--probe makes such input)" if apart and one.probed is None else ""
    return f"cannot be told apart here from {said}{apart}{hint}"


def _alternative(cause: Cause, one: Finding) -> str:
    alone = cause.what in {own.what for own in one.causes}
    return display(cause.id) if alone else f"{display(cause.id)} ({display(cause.what)})"


def _proof(one: Finding, brief: bool) -> str:
    rounding = f" (rounding: {error_text(one.floor)})" if one.floor is not None else ""
    how = f": {display(one.how)}" if one.how and not brief else ""
    return f"error {error_text(one.before)} → {error_text(one.after)}{rounding}{how}"


def probe(probed: Probed) -> str:
    """What random input says, with the errors that the nearest statement and the others leave."""
    if not probed.said:
        return f"not run: {display(probed.why)}"
    (_, _, before), *rows = probed.errors
    left = sorted(error for _, _, error in rows)
    if not left:
        return f"{display(probed.said)}: error {error_text(before)}"
    others = f"; the others leave {error_text(left[1])} or more" if len(left) > 1 and left[1] > 10 * left[0] else ""
    return f"{display(probed.said)}: error {error_text(before)} → {error_text(left[0])}{others}"


def error_text(value: float | None) -> str:
    if value is None or math.isinf(value):
        return "another shape"
    return "0" if value == 0 else f"{value:.1e}"


class Lines:
    """Sentences broken to the width of the screen under a common margin; lines of code stay whole."""

    def __init__(self, width: int, indent: str) -> None:
        self._width, self._indent = max(40, width), indent

    def said(self, sentence: str, style: str, first: str | None = None) -> Iterator[tuple[str, str]]:
        if sentence:
            yield from self._broken(sentence, first if first is not None else self._indent, self._indent + "  ", style)

    def labelled(self, label: str, sentence: str, style: str, *, whole: bool = False) -> Iterator[tuple[str, str]]:
        head = f"{self._indent}{label}".ljust(len(self._indent) + _LABEL)
        if whole:
            yield head + sentence, style
        else:
            yield from self._broken(sentence, head, " " * len(head), style)

    def _broken(self, sentence: str, first: str, then: str, style: str) -> Iterator[tuple[str, str]]:
        for line in textwrap.wrap(
            sentence, self._width, initial_indent=first, subsequent_indent=then, break_long_words=False,
            break_on_hyphens=False,
        ):  # fmt: skip
            yield line, style
