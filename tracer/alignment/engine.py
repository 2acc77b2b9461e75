"""The alignment: score every pair, walk both graphs in order, mend what order alone gets wrong.

Order is the strongest single evidence (both authors follow the same paper), so a dynamic programme over the running
order comes first; branches that the two sides run in another order are then paired through the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import axes as axes_
from tracer.alignment import score
from tracer.alignment.assign import LEAST, agree, assign
from tracer.alignment.axes import Axes
from tracer.alignment.features import Features, Summary, beyond, extract
from tracer.errors import TraceError
from tracer.graph import Structure
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

IGNORED = "ignored by the mapping file"
_CONTENT_BONUS = 0.5


@dataclass(frozen=True)
class Pair:
    """Reference nodes and candidate nodes that compute the same thing.

    Attributes:
        reference, candidate: node names (one each today; groups keep the last as the one that is compared).
        axes: see :mod:`tracer.alignment.axes`; None when no axis order makes the shapes equal.
        confidence: 0 to 1.
        evidence: shares in [0, 1] by name (``kind``, ``shape``, ``params``, ``graph``, ``values``), or
            ``{"mapping": 1.0}`` for a pair that a person wrote.
    """

    reference: tuple[str, ...]
    candidate: tuple[str, ...]
    axes: Axes | None
    confidence: float
    evidence: Mapping[str, float]

    @property
    def aligned(self) -> str:
        """The reference's name, which keys the store."""
        return self.reference[-1]

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": list(self.reference),
            "candidate": list(self.candidate),
            "aligned": self.aligned,
            "axes": None if self.axes is None else list(self.axes),
            "confidence": round(self.confidence, 4),
            "evidence": {name: round(value, 4) for name, value in self.evidence.items()},
        }


@dataclass(frozen=True)
class Alignment:
    """All pairs in the reference's running order, and what has no twin, with the reason."""

    pairs: tuple[Pair, ...]
    unmatched_reference: Mapping[str, str] = field(default_factory=dict)
    unmatched_candidate: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_reference(self) -> dict[str, Pair]:
        return {name: pair for pair in reversed(self.pairs) for name in pair.reference}

    @cached_property
    def by_candidate(self) -> dict[str, Pair]:
        """The pair of each candidate node; a node that is also compared as an output keeps its own pair."""
        return {name: pair for pair in reversed(self.pairs) for name in pair.candidate}

    def keys(self) -> dict[str, str]:
        """Candidate node to the aligned name it is stored under, each name once."""
        out: dict[str, str] = {}
        for name, pair in self.by_candidate.items():
            if name == pair.candidate[-1] and self.by_reference[pair.aligned] is pair:
                out[name] = pair.aligned
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "pairs": [pair.to_json() for pair in self.pairs],
            "unmatched": {
                "reference": dict(self.unmatched_reference),
                "candidate": dict(self.unmatched_candidate),
            },
        }

    @classmethod
    def empty(cls) -> Self:
        return cls(())


@dataclass(frozen=True)
class _Side:
    structure: Structure
    summaries: Mapping[str, Summary]
    recording: Recording | None


def _side(source: Recording | Structure) -> _Side:
    if isinstance(source, Structure):
        return _Side(source, {}, None)
    return _Side(source.structure, source.summaries, source)


def align(
    reference: Recording | Structure, candidate: Recording | Structure, mapping: MappingFile | None = None
) -> Alignment:
    """Pair the nodes of two models.

    Structures alone are enough; of recordings, the stored numbers about each tensor are used too, and tensors are
    read where several axis orders are possible. What ``mapping`` says wins.

    Raises InputError when ``mapping`` names nodes that do not exist, TraceError when a tensor is damaged.
    """
    ours, theirs = _side(reference), _side(candidate)
    a = extract(ours.structure, ours.summaries)
    b = extract(theirs.structure, theirs.summaries)
    if mapping is not None:
        mapping.check(ours.structure, theirs.structure)
    if not a.nodes or not b.nodes:
        return Alignment.empty()
    local = score.local(a, b)
    content = score.content(a, b)
    start = np.minimum(local + _CONTENT_BONUS * content * (local > 0), 1.0).astype(np.float32)
    blocked_a, blocked_b = _pin(start, a, b, mapping)
    joined = score.propagate(start, a, b)
    joined = np.maximum(joined, np.where(start >= 2, start, 0))
    matched = assign(joined, content, a, b, (blocked_a, blocked_b))
    pairs = _pairs(matched, joined, content, a, b, (ours, theirs), mapping)
    ignored = {a.nodes[i].name for i in blocked_a}, {b.nodes[j].name for j in blocked_b}
    pairs += _outputs(matched, a, b, (ours, theirs), ignored)
    paired_a = {name for pair in pairs for name in pair.reference}
    paired_b = {name for pair in pairs for name in pair.candidate}
    return Alignment(
        tuple(pairs),
        {n.name: _why_not(joined[i], blocked_a, i) for i, n in enumerate(a.nodes) if n.name not in paired_a},
        {n.name: _why_not(joined[:, j], blocked_b, j) for j, n in enumerate(b.nodes) if n.name not in paired_b},
    )


def _pin(
    start: score.Matrix, a: Features, b: Features, mapping: MappingFile | None
) -> tuple[frozenset[int], frozenset[int]]:
    """Write a person's decisions into the scores: 2 for a pair (more than evidence can give), 0 for its rivals."""
    if mapping is None:
        return frozenset(), frozenset()
    ignored_a = frozenset(i for i, node in enumerate(a.nodes) if mapping.ignores("reference", node.name))
    ignored_b = frozenset(j for j, node in enumerate(b.nodes) if mapping.ignores("candidate", node.name))
    start[list(ignored_a), :] = 0
    start[:, list(ignored_b)] = 0
    for entry in mapping.pairs:
        for name in entry.reference:
            start[a.index[name], :] = 0
        for name in entry.candidate:
            start[:, b.index[name]] = 0
        start[a.index[entry.reference[-1]], b.index[entry.candidate[-1]]] = 2
    return ignored_a, ignored_b


def _pairs(
    matched: Mapping[int, int],
    joined: score.Matrix,
    content: score.Matrix,
    a: Features,
    b: Features,
    sides: tuple[_Side, _Side],
    mapping: MappingFile | None,
) -> list[Pair]:
    pairs: list[Pair] = []
    axes_of: dict[int, Axes | None] = {}
    pinned = {entry.reference[-1]: entry for entry in mapping.pairs} if mapping else {}
    for i in sorted(matched):
        j = matched[i]
        ours, theirs = a.nodes[i], b.nodes[j]
        entry = pinned.get(ours.name)
        if entry is not None and entry.axes is not None:
            axes: Axes | None = entry.axes
        else:
            inherited = next((axes_of[p] for p in a.parents[i] if axes_of.get(p) is not None), None)
            axes = _axes(
                ours.shape,
                theirs.shape,
                inherited,
                (ours.layout, theirs.layout),
                sides,
                (ours.name, theirs.name),
            )
        axes_of[i] = axes
        if entry is not None:
            pairs.append(Pair(entry.reference, entry.candidate, axes, 1.0, {"mapping": 1.0}))
            continue
        evidence = _evidence(i, j, matched, content, a, b)
        pairs.append(Pair((ours.name,), (theirs.name,), axes, _confidence(i, j, joined, evidence), evidence))
    return pairs


def _axes(
    ours: tuple[int, ...] | None,
    theirs: tuple[int, ...] | None,
    inherited: Axes | None,
    layouts: tuple[str | None, str | None],
    sides: tuple[_Side, _Side],
    names: tuple[str, str],
) -> Axes | None:
    if ours is None or theirs is None:
        return None
    options = axes_.possible(ours, theirs)
    if not options:
        return None
    prior = axes_.preferred(options, inherited, layouts)
    left, right = sides[0].recording, sides[1].recording
    if len(options) == 1 or left is None or right is None or math.prod(ours) == 0:
        return prior
    if left.stored(names[0]) is None or right.stored(names[1]) is None:
        return prior
    try:
        return axes_.decide(left.read(names[0], verify=False), right.read(names[1], verify=False), options, prior)[0]
    except TraceError:
        return prior  # the comparison says what is damaged


def _outputs(
    matched: Mapping[int, int],
    a: Features,
    b: Features,
    sides: tuple[_Side, _Side],
    ignored: tuple[set[str], set[str]],
) -> list[Pair]:
    """Outputs of the two models that stand at the same place, where one of them has no twin.

    One side may end in a softmax that the other lacks: every layer agrees, and yet the models do not.
    """
    outputs = [
        [side.structure.by_name[n] for n in side.structure.outputs if n in side.structure.by_name and n not in skip]
        for side, skip in zip(sides, ignored, strict=True)
    ]
    names = {a.nodes[i].name: b.nodes[j].name for i, j in matched.items()}
    paired = {theirs.name for theirs in outputs[1] if theirs.name in {names.get(ours.name) for ours in outputs[0]}}
    left = [node for node in outputs[0] if names.get(node.name) not in paired]
    right = [node for node in outputs[1] if node.name not in paired]
    twins = set(names.values())
    found = []
    for ours, theirs in zip(left, right, strict=False):
        if ours.name in names and theirs.name in twins:
            continue
        if names.get(ours.name) in beyond(sides[1].structure, theirs) or theirs.name in (
            names.get(name) for name in beyond(sides[0].structure, ours)
        ):
            continue  # nothing but a permute or the like comes after the twin
        axes = _axes(ours.shape, theirs.shape, None, (ours.layout, theirs.layout), sides, (ours.name, theirs.name))
        found.append(Pair((ours.name,), (theirs.name,), axes, 0.5, {"output": 1.0}))
    return found


def _evidence(
    i: int, j: int, matched: Mapping[int, int], content: NDArray[Any], a: Features, b: Features
) -> dict[str, float]:
    from tracer import kinds

    out = {
        "kind": kinds.similarity(a.nodes[i].kind, b.nodes[j].kind),
        "shape": score.shapes(a.dims[i], b.dims[j]),
        "graph": agree(matched, i, j, a, b),
    }
    if a.params[i] or b.params[j]:
        out["params"] = score.params(a.params[i], b.params[j])
    if a.summaries[i] is not None and b.summaries[j] is not None:
        out["values"] = float(content[i, j])
    return out


def _confidence(i: int, j: int, joined: score.Matrix, evidence: Mapping[str, float]) -> float:
    """Mean of the evidence (equal values settle it), less where a rival scores nearly as well."""
    weights = {"kind": 0.2, "shape": 0.2, "params": 0.2, "graph": 0.4}
    known = {name: weight for name, weight in weights.items() if name in evidence}
    quality = sum(evidence[name] * weight for name, weight in known.items()) / sum(known.values())
    if evidence.get("values", 0) > 0.9:
        quality = max(quality, 0.95 + 0.05 * quality)
    row, column = joined[i].copy(), joined[:, j].copy()
    row[j] = column[i] = 0
    rival = max(float(row.max(initial=0)), float(column.max(initial=0)))
    margin = 1.0 if rival == 0 else min(1.0, max(0.0, (float(joined[i, j]) / rival - 1) / 0.25))
    return float(min(1.0, quality * (0.75 + 0.25 * margin)))


def _why_not(scores: NDArray[Any], ignored: frozenset[int], index: int) -> str:
    if index in ignored:
        return IGNORED
    return "its only fits are paired better" if scores.max(initial=0) >= LEAST else "nothing alike on the other side"
