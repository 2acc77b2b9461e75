"""The rows of a comparison: every pair, and in their places the nodes without a twin; and a row's tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tracer.alignment.axes import apply
from tracer.compare import Verdict
from tracer.errors import said
from tracer.graph import Node
from tracer.report import words
from tracer.report.tensors import Array, Tensors
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.compare import Diff, PairDiff
    from tracer.compare.local import Local

SORTS = ("order", "error", "name")


@dataclass(frozen=True)
class Row:
    """A pair, or one node that has no twin (``pair`` is None then, and one side's name is empty).

    Names are as they came from the file: make them fit the screen before showing them.
    """

    place: int
    number: int | None
    pair: PairDiff | None
    node: Node
    on_reference: bool
    reference: str
    candidate: str
    verdict: Verdict
    reason: str
    pending: bool = False
    """Whether it has yet to be compared, or a side to be recorded."""

    @property
    def idle(self) -> bool:
        """Whether it is a node without a twin that does nothing."""
        return self.pair is None and self.node.idle

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the row across another judgement of the same comparison."""
        return self.reference, self.candidate

    @property
    def names(self) -> tuple[str, str]:
        return self.reference, self.candidate

    @property
    def ops(self) -> tuple[str, str, str]:
        return self.op, self.node.kind, self.node.label

    @property
    def state(self) -> Verdict:
        return self.verdict

    @property
    def op(self) -> str:
        return self.node.label if self.pair is None else words.op_text(self.pair)

    @property
    def shape(self) -> str:
        return words.shape_text(self.node.shape if self.pair is None else self.pair.shape)

    @property
    def axes(self) -> str:
        return "" if self.pair is None else words.axes_text(self.pair)

    @property
    def error(self) -> float | None:
        """max|Δ|; infinite where only one side is finite; None where nothing was compared."""
        if self.pair is None or self.pair.stats is None:
            return None
        return math.inf if self.pair.stats.nonfinite else self.pair.stats.max_abs

    @property
    def relative(self) -> float | None:
        return None if self.pair is None or self.pair.stats is None else self.pair.stats.rel_l2

    @property
    def own(self) -> float | None:
        """What the layer adds itself on the reference's inputs, relative to its largest value; None where unknown."""
        local = self._local
        return None if local is None else local.relative(local.error)

    @property
    def floor(self) -> float | None:
        """What rounding explains of :attr:`own`."""
        local = self._local
        return None if local is None else local.relative(local.floor)

    @property
    def _local(self) -> Local | None:
        local = None if self.pair is None else self.pair.local
        return local if local is not None and local.known else None

    @property
    def sides(self) -> str:
        return " ⇄ ".join(side for side in (self.reference, self.candidate) if side)


def rows_of(diff: Diff) -> list[Row]:
    """All rows in running order: a node without a twin stands where its own model runs it."""
    ours = {node.name: place for place, node in enumerate(diff.reference.structure)}
    theirs = {node.name: place for place, node in enumerate(diff.candidate.structure)}
    found: list[tuple[tuple[float, int, int], Row]] = []
    anchors: list[tuple[int, float]] = []
    for number, pair in enumerate(diff.pairs):
        names = " + ".join(pair.pair.reference), " + ".join(pair.pair.candidate)
        place = float(ours.get(pair.node.name, number))
        anchors.append((theirs.get(pair.candidate_node.name, 0), place))
        row = Row(0, number, pair, pair.node, True, *names, pair.verdict, pair.reason, _pending(diff, pair))
        found.append(((place, 0, 0), row))
    anchors.sort()
    for name, reason in diff.alignment.unmatched_reference.items():
        node = diff.reference.structure.by_name[name]
        row = Row(0, None, None, node, True, name, "", Verdict.UNMATCHED, reason)
        found.append(((float(ours[name]), 0, 0), row))
    for name, reason in diff.alignment.unmatched_candidate.items():
        node = diff.candidate.structure.by_name[name]
        before = [place for at, place in anchors if at < theirs[name]]
        row = Row(0, None, None, node, False, "", name, Verdict.UNMATCHED, reason)
        found.append(((before[-1] if before else -1.0, 1, theirs[name]), row))
    found.sort(key=lambda item: item[0])
    return [_placed(row, place) for place, (_, row) in enumerate(found)]


def _pending(diff: Diff, pair: PairDiff) -> bool:
    if pair.awaited:
        return True
    if pair.saved or pair.stats is not None:
        return False
    sides = ((diff.reference, pair.node.name), (diff.candidate, pair.candidate_node.name))
    return any(side.state == "recording" and side.stored(name) is None for side, name in sides)


def _placed(row: Row, place: int) -> Row:
    return replace(row, place=place)


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """The rows in running order, by error (the greatest first), or by name."""
    if sort == "error":
        return sorted(rows, key=lambda row: -1.0 if row.error is None else row.error, reverse=True)
    if sort == "name":
        return sorted(rows, key=lambda row: (row.reference or row.candidate).casefold())
    return sorted(rows, key=lambda row: row.place)


def opened(row: Row, recordings: tuple[Recording, Recording]) -> Tensors:
    """Map both tensors, in the reference's axes; the comparison has checked their sums already."""
    found: list[Array | None] = [None, None]
    reasons = ["", ""]
    nodes = (row.node, row.pair.candidate_node) if row.pair is not None else (row.node, row.node)
    for side, (recording, node) in enumerate(zip(recordings, nodes, strict=True)):
        if row.pair is None and row.on_reference == bool(side):
            reasons[side] = "no twin here"
            continue
        try:
            if recording.stored(node.name) is None:
                reasons[side] = recording.why_missing(node.name)
                continue
            values = recording.read(node.name, verify=False)
            if side and row.pair is not None and found[0] is not None:
                axes, arrangement = row.pair.pair.axes, row.pair.pair.arrangement
                if axes is not None:
                    values = apply(values, axes)
                elif arrangement is not None:
                    values = arrangement.apply(values)
                else:
                    reasons[side] = f"shape {words.shape_text(values.shape)} does not fit"
                    continue
                if values.shape != found[0].shape:
                    reasons[side] = f"shape {words.shape_text(values.shape)} does not fit"
                    continue
            found[side] = values
        except Exception as error:
            reasons[side] = said(error)
    return Tensors(found[0], found[1], (reasons[0], reasons[1]))
