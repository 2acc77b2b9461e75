"""Branches that the two models concatenate in another order, and what that does to all that reads them.

A port may list the branches of a concatenation otherwise and re-order the rows of the next kernel: that is no defect.
The runs of channels are followed from the concatenation through all that keeps channels apart, up to the layers that
mix them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from tracer.alignment.arrange import Rearrangement, Runs, letters
from tracer.alignment.correlation import listen
from tracer.alignment.features import Features
from tracer.alignment.flow import Factor, Flow
from tracer.alignment.labels import only_axis
from tracer.alignment.orient import Found

Values = Callable[[int, int], tuple[NDArray[Any], NDArray[Any]] | None]
_CLEAR = 0.05
"""Correlation by which one order must lead, where values are known and agree under neither."""


def reordered(
    pairs: Sequence[tuple[int, int]], found: Sequence[Found], a: Features, b: Features, values: Values
) -> list[Found]:
    """The axes of every pair, with an arrangement where its channels are runs in another order.

    Args:
        pairs: indices into the nodes of ``a`` (reference) and ``b`` (candidate).
        found: the axes of each.
        values: reads both tensors of a pair, or says None where they were not recorded; they decide where they can.
    """
    twins = dict(pairs)
    turned = [i for i, j in pairs if a.nodes[i].kind == b.nodes[j].kind == "concat" and _turned(i, j, a, b, twins)]
    if not turned:
        return list(found)
    return _Search(pairs, found, a, b, values, turned).run()


def _turned(i: int, j: int, a: Features, b: Features, twins: Mapping[int, int]) -> tuple[int, ...] | None:
    """For each of the candidate's branches which of the reference's it is; None where they stand in order, or some
    branch has no twin."""
    ours, theirs = a.direct[i], b.direct[j]
    names = [len(side.nodes[k].parents) for side, k in ((a, i), (b, j))]
    if not len(ours) == len(theirs) == names[0] == names[1] > 1 or len(set(theirs)) < len(theirs):
        return None
    place = {twins.get(p): k for k, p in enumerate(ours)}
    order = tuple(place[p] for p in theirs if p in place)
    return order if len(order) == len(theirs) and list(order) != sorted(order) else None


class _Search:
    def __init__(
        self, pairs: Sequence[tuple[int, int]], found: Sequence[Found], a: Features, b: Features, values: Values,
        turned: Sequence[int],
    ) -> None:  # fmt: skip
        self.pairs, self.found = pairs, found
        self.a, self.b, self.values = a, b, values
        self.twins = dict(pairs)
        self.turned = set(turned)
        self.at = {i: k for k, (i, _) in enumerate(pairs)}
        self.flow = Flow(a.nodes)
        self.runs: list[dict[Factor, Runs]] = []
        """Of every reference node the factors of its tensor whose elements stand in another order."""

    def run(self) -> list[Found]:
        for i in range(len(self.a.nodes)):
            self.runs.append(self._of(i))
        return [self._arranged(n) for n in range(len(self.pairs))]

    def _factors(self, i: int) -> list[list[Factor]]:
        return [[(self.flow.find(s), n) for s, n in axis] for axis in self.flow.tensors.get(self.a.nodes[i].name, ())]

    def _of(self, i: int) -> dict[Factor, Runs]:
        factors = [f for axis in self._factors(i) for f in axis]
        known: dict[Factor, Runs] = {}
        for parent in self.a.direct[i]:
            for factor, runs in self.runs[parent].items():
                if factor in factors:
                    known.setdefault(factor, runs)
        own = self._concatenated(i) if self.a.nodes[i].kind == "concat" else None
        if own is not None:
            known[own[0]] = own[1]
        return known

    def _concatenated(self, i: int) -> tuple[Factor, Runs] | None:
        """The factor of a concatenation's axis and its runs: those of the branches, where these have some."""
        node, factors = self.a.nodes[i], self._factors(i)
        place = only_axis(node.config, len(node.shape or ()))
        inner = [self._branch(p, place) for p in self.a.direct[i]]
        if place is None or not factors or len(factors[place]) != 1 or None in inner:
            return None
        branches = [runs for runs in inner if runs is not None]
        order = _turned(i, self.twins[i], self.a, self.b, self.twins) if i in self.turned else None
        starts = [0]
        for runs in branches:
            starts.append(starts[-1] + len(runs.lengths))
        moved = [starts[k] + at for k in order or range(len(branches)) for at in branches[k].order]
        lengths = tuple(length for runs in branches for length in runs.lengths)
        if moved == sorted(moved) or sum(lengths) != factors[place][0][1]:
            return None
        return factors[place][0], Runs(lengths, tuple(moved))

    def _branch(self, parent: int, place: int | None) -> Runs | None:
        shape, factors = self.a.nodes[parent].shape, self._factors(parent)
        if place is None or shape is None or place >= len(shape) or place >= len(factors):
            return None
        axis = factors[place]
        known = self.runs[parent].get(axis[0]) if len(axis) == 1 else None
        return known or Runs((shape[place],), (0,))

    def _arranged(self, n: int) -> Found:
        (i, j), found = self.pairs[n], self.found[n]
        for factor, runs in self.runs[i].items():
            plan = self._plan(i, j, found, factor, runs)
            if plan is not None and self._fits(i, j, plan):
                return replace(found, arrangement=plan) if self._holds(i, j, found, plan) else found
        return found

    def _fits(self, i: int, j: int, plan: Rearrangement) -> bool:
        """Whether both tensors have the plan's shapes: what lies on a factor further up may not lie on it here."""
        shapes = plan.shape(plan.reference), plan.shape(plan.candidate)
        return shapes == (self.a.nodes[i].shape, self.b.nodes[j].shape)

    def _plan(self, i: int, j: int, found: Found, factor: Factor, runs: Runs) -> Rearrangement | None:
        axes = self._factors(i)
        flat = [f for axis in axes for f in axis]
        lengths = tuple(f[1] for f in flat)
        if flat.count(factor) != 1 or found.ambiguous:
            return None
        letter = (flat.index(factor), runs)
        if found.arrangement is not None:
            return replace(found.arrangement, runs=letter) if found.arrangement.lengths == lengths else None
        shape = self.b.nodes[j].shape
        if found.axes is None or shape is None:
            return None
        ours, start = [], 0
        for axis in axes:
            ours.append(tuple(range(start, start + len(axis))))
            start += len(axis)
        theirs: list[tuple[int, ...]] = [()] * len(shape)
        for group, place in zip(ours, found.axes, strict=True):
            if place is not None:
                theirs[place] = group
        if sorted(k for group in theirs for k in group) != list(range(len(lengths))):
            return None
        others = [k for k in range(1, len(lengths)) if k != letter[0]]
        known = dict(zip(others, {1: "l", 2: "hw", 3: "dhw"}.get(len(others), ""), strict=False))
        names = letters(lengths, {letter[0]: "c", **known}, next((group for group in ours if group), ()))
        return Rearrangement(lengths, tuple(ours), tuple(theirs), names, letter)

    def _holds(self, i: int, j: int, found: Found, plan: Rearrangement) -> bool:
        """Whether the values speak for the runs rather than for the order as it is, if they say anything."""
        tensors = self.values(i, j)
        if tensors is None or tensors[0].shape != self.a.nodes[i].shape or tensors[1].shape != self.b.nodes[j].shape:
            return True
        ours, theirs = tensors
        plain = replace(plan, runs=None)
        heard = listen([lambda: plan.factored(ours, theirs), lambda: plain.factored(ours, theirs)])
        moved, straight = (-1.0 if r is None else r for r in heard.correlations)
        if heard.equal:
            return heard.equal == (0,)
        return moved >= straight - _CLEAR if found.axes is not None else moved >= straight
