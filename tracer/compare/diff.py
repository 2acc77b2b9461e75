"""The comparison of two recordings, pair by pair."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tracer import kinds
from tracer.align import Alignment, Pair, align
from tracer.align import axes as axes_
from tracer.align.engine import IGNORED
from tracer.align.features import same_content
from tracer.align.mapping import Mapping as MappingFile
from tracer.compare.stats import Stats, compare
from tracer.compare.verdict import Tolerance, Verdict, judge, rounding_floor
from tracer.errors import ExitCode, InputError, TraceError
from tracer.graph import Node
from tracer.store import Recording

SCHEMA = "tracer-diff/1"


@dataclass(frozen=True)
class PairDiff:
    """A pair and what its values say.

    Attributes:
        shape: the reference's shape.
        inherited: largest relative L2 error among the nearest paired inputs; None when there are none.
        floor: estimated relative rounding error at this depth.
        tolerance: the one that applied here, with ``note`` saying why where it was not the general one.
        content: agreement of the order-free numbers of both tensors, 1 for the same values in whatever order.
    """

    pair: Pair
    node: Node
    candidate_node: Node
    shape: tuple[int, ...] | None
    stats: Stats | None
    verdict: Verdict
    reason: str
    inherited: float | None
    floor: float
    tolerance: Tolerance
    note: str = ""
    content: float | None = None

    @property
    def aligned(self) -> str:
        return self.pair.aligned

    @property
    def comparable(self) -> bool:
        """Whether both sides were recorded, whatever their shapes."""
        return self.stats is not None or self.content is not None

    def to_json(self) -> dict[str, Any]:
        s = self.stats
        return {
            **self.pair.to_json(),
            "shape": None if self.shape is None else list(self.shape),
            "max_abs": None if s is None else s.max_abs,
            "mean_abs": None if s is None else s.mean_abs,
            "rel_l2": None if s is None else _finite(s.rel_l2),
            "cosine": None if s is None else s.cosine,
            "argmax": None if s is None or s.argmax is None else list(s.argmax),
            "outside": None if s is None else s.outside,
            "inherited": _finite(self.inherited),
            "local": None,
            "floor": self.floor,
            "verdict": str(self.verdict),
            "reason": self.reason,
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Diff:
    """Everything ``tracer diff`` knows. ``bool(d)`` is true when nothing diverged."""

    reference: Recording
    candidate: Recording
    tolerance: Tolerance
    pairs: tuple[PairDiff, ...]
    alignment: Alignment
    mapping: MappingFile | None = None

    @cached_property
    def counts(self) -> Counter[Verdict]:
        return Counter(pair.verdict for pair in self.pairs)

    @cached_property
    def first(self) -> PairDiff | None:
        """The first divergence in the reference's running order."""
        return next((pair for pair in self.pairs if pair.verdict is Verdict.DIVERGED), None)

    @property
    def verdict(self) -> Verdict:
        """``diverged`` if any pair is, ``not-comparable`` if no pair could be compared, else the mildest that holds."""
        if self.first is not None:
            return Verdict.DIVERGED
        if not any(pair.stats is not None for pair in self.pairs):
            return Verdict.NOT_COMPARABLE
        return Verdict.NOISE if self.counts[Verdict.NOISE] else Verdict.MATCH

    @property
    def unmatched(self) -> int:
        """Nodes without a twin on both sides, but for those that the mapping file ignores."""
        sides = (self.alignment.unmatched_reference, self.alignment.unmatched_candidate)
        return sum(reason != IGNORED for side in sides for reason in side.values())

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """What the command line exits with; comparing nothing is never success."""
        if self.verdict is Verdict.NOT_COMPARABLE:
            return ExitCode.PARTIAL
        if self.verdict is Verdict.DIVERGED:
            return ExitCode.DIVERGED
        if "complete" not in self.reference.state or "complete" not in self.candidate.state:
            return ExitCode.PARTIAL
        if any(pair.verdict is Verdict.NOT_COMPARABLE for pair in self.pairs):
            return ExitCode.PARTIAL
        return ExitCode.UNMATCHED if strict and self.unmatched else ExitCode.OK

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def __str__(self) -> str:
        from tracer.report.text import diff_text

        return diff_text(self)

    def at(self, tolerance: Tolerance) -> Diff:
        """The same comparison judged by another tolerance, from the statistics alone."""
        return replace(self, tolerance=tolerance, pairs=_judged(self.pairs, tolerance, self.reference, self.mapping))

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer diff --json``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "tolerance": {"atol": self.tolerance.atol, "rtol": self.tolerance.rtol},
            "verdict": str(self.verdict),
            "pairs": [pair.to_json() for pair in self.pairs],
            "unmatched": {
                "reference": list(self.alignment.unmatched_reference),
                "candidate": list(self.alignment.unmatched_candidate),
            },
            "first_divergence": None if self.first is None else self.first.aligned,
            "causes": [],
        }


def diff(
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance | None = None,
    *,
    mapping: MappingFile | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two recordings of one input.

    Damaged or missing tensors make their pair ``not-comparable``; the others are compared.

    Raises InputError when the recordings were made on different inputs or ``mapping`` does not fit them.
    """
    tolerance = tolerance or Tolerance()
    if reference.input_id != candidate.input_id:
        raise InputError(
            f"recordings '{reference.name}' and '{candidate.name}' were made on different inputs "
            f"({reference.input_id} and {candidate.input_id}): record one of them again on the other's"
        )
    alignment = align(reference, candidate, mapping)
    found = []
    for done, pair in enumerate(alignment.pairs):
        if progress is not None:
            progress(done, len(alignment.pairs))
        found.append(_compare(pair, reference, candidate, tolerance, mapping))
    return Diff(reference, candidate, tolerance, _judged(found, tolerance, reference, mapping), alignment, mapping)


def _compare(
    pair: Pair, reference: Recording, candidate: Recording, tolerance: Tolerance, mapping: MappingFile | None
) -> PairDiff:
    """A pair with its statistics, or with the reason why there are none; the verdict comes later."""
    node = reference.structure.by_name[pair.reference[-1]]
    other = candidate.structure.by_name[pair.candidate[-1]]
    stats, reason = None, ""
    for recording, name in ((reference, node.name), (candidate, other.name)):
        if recording.stored(name) is None:
            why = recording.skipped.get(recording.resolve(name), "it was not saved")
            reason = f"{name} of '{recording.name}' was not recorded: {why}"
    if not reason and pair.axes is None:
        reason = f"{_shape(node.shape)} against {_shape(other.shape)}: no order of the axes makes these shapes equal"
    if not reason:
        try:
            ours, theirs = reference.read(node.name), candidate.read(other.name)
            own, _ = _tolerance_for(pair.aligned, tolerance, mapping)
            stats = compare(ours, axes_.apply(theirs, pair.axes or ()), own.atol, own.rtol)
        except (TraceError, ValueError) as error:
            reason = str(error)
    a, b = reference.stored(node.name), candidate.stored(other.name)
    content = same_content(a.summary, b.summary) if a is not None and b is not None else None
    return PairDiff(
        pair, node, other, node.shape, stats, Verdict.NOT_COMPARABLE, reason, None, 0.0, tolerance, content=content
    )


def _shape(shape: Sequence[int] | None) -> str:
    return "?" if shape is None else "×".join(map(str, shape)) or "scalar"


def _judged(
    pairs: Sequence[PairDiff], tolerance: Tolerance, reference: Recording, mapping: MappingFile | None
) -> tuple[PairDiff, ...]:
    """The pairs with verdicts, walked in the reference's order so that each knows its inputs'."""
    done: dict[str, PairDiff] = {}
    depth: dict[str, int] = {}
    graph = _Neighbours(reference, {pair.aligned: pair for pair in pairs})
    out = []
    for pair in pairs:
        parents = [done[name] for name in graph.above(pair.aligned) if name in done]
        depth[pair.aligned] = 1 + max((depth[p.aligned] for p in parents), default=0)
        errors = [p.stats.rel_l2 for p in parents if p.stats is not None]
        inherited = max(errors, default=None)
        own, note = _tolerance_for(pair.aligned, tolerance, mapping)
        floor = rounding_floor(_coarsest(pair.node.dtype, pair.candidate_node.dtype), depth[pair.aligned])
        judged = replace(pair, inherited=inherited, floor=floor, tolerance=own, note=note)
        if pair.stats is not None:
            off = next((p for p in parents if p.verdict in (Verdict.DIVERGED, Verdict.INHERITED)), None)
            verdict, reason = judge(
                pair.stats, own, floor, None if off is None else (off.aligned, off.verdict), inherited
            )
            if verdict is Verdict.DIVERGED and _undone(judged, graph, tolerance, mapping):
                verdict, reason = Verdict.MATCH, "the same values in another order, which the next layer expects"
            judged = replace(judged, verdict=verdict, reason=reason)
        elif pair.pair.axes is None and pair.comparable:
            judged = _other_shape(judged, parents, graph, tolerance, mapping)
        done[pair.aligned] = judged
        out.append(judged)
    return tuple(out)


def _coarsest(*names: str | None) -> str:
    from tracer import dtypes

    known = [name for name in names if name]
    return max(known, key=dtypes.epsilon, default="float32")


def _tolerance_for(name: str, general: Tolerance, mapping: MappingFile | None) -> tuple[Tolerance, str]:
    entry = mapping.tolerance(name) if mapping is not None else None
    if entry is None:
        return general, ""
    own = Tolerance(
        general.atol if entry.atol is None else entry.atol, general.rtol if entry.rtol is None else entry.rtol
    )
    return own, f"tolerance of '{entry.match}'" + (f": {entry.reason}" if entry.reason else "")


def _other_shape(
    pair: PairDiff, parents: Sequence[PairDiff], graph: _Neighbours, tolerance: Tolerance, mapping: MappingFile | None
) -> PairDiff:
    """The verdict on a pair whose shapes differ: nothing to compare by element, but a difference all the same."""
    if _undone(pair, graph, tolerance, mapping):
        return replace(
            pair, verdict=Verdict.MATCH, reason="the same values arranged otherwise, as the next layer expects"
        )
    off = next((p for p in parents if p.verdict in (Verdict.DIVERGED, Verdict.INHERITED)), None)
    if off is not None:
        return replace(pair, verdict=Verdict.INHERITED, reason=f"{pair.reason}; its input {off.aligned} is off already")
    return replace(pair, verdict=Verdict.DIVERGED, reason=f"{pair.reason}; its inputs agree")


def _undone(pair: PairDiff, graph: _Neighbours, tolerance: Tolerance, mapping: MappingFile | None) -> bool:
    """Whether a layout operation only orders its values otherwise, and all that read it come out right.

    A port may flatten in another order and re-order the rows of the next kernel: that is no defect. A forgotten
    permute looks the same here but not one layer on.
    """
    if pair.node.kind not in kinds.LAYOUT_ONLY or pair.content != 1.0:
        return False
    below = [p for p in graph.below(pair.aligned) if p.stats is not None]
    for reader in below:
        assert reader.stats is not None
        own, _ = _tolerance_for(reader.aligned, tolerance, mapping)
        floor = rounding_floor(_coarsest(reader.node.dtype, reader.candidate_node.dtype), 100)
        if not reader.stats.passes(own.atol, own.rtol) and reader.stats.rel_l2 > floor:
            return False
    return bool(below)


class _Neighbours:
    """The nearest paired nodes above and below a node of the reference."""

    def __init__(self, reference: Recording, paired: Mapping[str, PairDiff]) -> None:
        self._structure = reference.structure
        self._paired = paired

    def above(self, name: str) -> list[str]:
        """Aligned names of the nearest paired nodes that it reads."""

        def further(node: Node) -> Sequence[str]:
            return (*node.parents, *((node.alias_of,) if node.alias_of else ()))

        return self._walk(name, further)

    def below(self, name: str) -> list[PairDiff]:
        """The nearest pairs that read it."""
        return [self._paired[n] for n in self._walk(name, lambda node: self._structure.children[node.name])]

    def _walk(self, name: str, further: Callable[[Node], Sequence[str]]) -> list[str]:
        nodes = self._structure.by_name
        found: list[str] = []
        queue = list(further(nodes[name]))
        seen = {name, *queue}
        while queue:
            step = queue.pop()
            if step in self._paired:
                found.append(step)
            elif step in nodes:
                ahead = [other for other in further(nodes[step]) if other not in seen]
                seen.update(ahead)
                queue += ahead
        return found
