"""Which strand of one graph is taken for which of the other's, and how much speaks for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import permutations

from tracer.alignment.axes import Axes
from tracer.alignment.flow import Flow
from tracer.graph import Node

_DEEPEST = 3
"""Splits of splits that a link is handed on to."""
_LONGEST = 5
"""Axes of which all orders are tried."""
_LEAD = 0.25
"""Support by which an order must lead."""


class Links:
    """Weights of pairs of strands; ``ours`` are the reference's, ``theirs`` the candidate's."""

    def __init__(self, ours: Flow, theirs: Flow) -> None:
        self.ours, self.theirs = ours, theirs
        self._weights: dict[tuple[int, int], float] = {}
        self._rows: dict[int, set[int]] = {}
        self._columns: dict[int, set[int]] = {}

    def add(self, one: int, other: int, weight: float, depth: int = 0) -> None:
        """Take two strands for the same: with the parts that both are split into alike, and what both are parts of."""
        one, other = self.ours.find(one), self.theirs.find(other)
        self._weights[one, other] = self._weights.get((one, other), 0.0) + weight
        self._rows.setdefault(one, set()).add(other)
        self._columns.setdefault(other, set()).add(one)
        if depth > _DEEPEST:
            return
        parts = self.theirs.parts(other)
        for key, part in self.ours.parts(one).items():
            if key in parts and depth >= 0:
                self.add(part, parts[key], weight, depth + 1)
        above, beyond = self.ours.origin(one), self.theirs.origin(other)
        if depth <= 0 and above is not None and beyond is not None and above[1] == beyond[1]:
            self.add(above[0], beyond[0], weight, depth - 1 if depth > -_DEEPEST else _DEEPEST + 1)

    def support(self, one: int, other: int, ours: Collection[int], theirs: Collection[int]) -> float:
        """How much speaks, from 0 to 1, for two strands being the same rather than others of the same two tensors,
        whose strands are ``ours`` and ``theirs``."""
        weight = self._weights.get((one, other), 0.0)
        if not weight:
            return 0.0
        rivals = [self._weights[one, x] for x in self._rows[one].intersection(theirs) if x != other]
        rivals += [self._weights[x, other] for x in self._columns[other].intersection(ours) if x != one]
        return weight / (weight + 1.0) * weight / (weight + sum(rivals))


class Unlike:
    """Axes of tensors whose lengths differ, which no values tell: by the strands that other pairs say are the same."""

    def __init__(self, ours: Iterable[Node], theirs: Iterable[Node], known: Iterable[tuple[str, str, Axes]]) -> None:
        self._ours, self._theirs = Flow(ours), Flow(theirs)
        self._links = Links(self._ours, self._theirs)
        for name, twin, axes in known:
            for letters in self._letters(name, twin, axes):
                self._links.add(*letters, 1.0)

    def axes(self, name: str, twin: str) -> Axes | None:
        """The candidate's axis of ``twin`` for each of the reference's of ``name``; None where that is not known."""
        rank = len(self._ours.tensors.get(name, ()))
        if rank > _LONGEST or rank != len(self._theirs.tensors.get(twin, ())):
            return None
        found = [self._letters(name, twin, order) for order in permutations(range(rank))]
        ours, theirs = ({pair[side] for letters in found for pair in letters} for side in (0, 1))
        scores = [sum(self._links.support(*pair, ours, theirs) for pair in letters) for letters in found]
        best, second = sorted((*scores, 0.0), reverse=True)[:2]
        order = list(permutations(range(rank)))[scores.index(best)] if best else ()
        return order if best - second >= _LEAD else None

    def _letters(self, name: str, twin: str, axes: Axes) -> list[tuple[int, int]]:
        """The strands that stand for each other; of axes of several those of the same place."""
        ours, theirs = self._ours.tensors.get(name), self._theirs.tensors.get(twin)
        if ours is None or theirs is None or len(axes) != len(ours):
            return []
        out: list[tuple[int, int]] = []
        for axis, place in zip(ours, axes, strict=True):
            other = theirs[place] if place is not None and place < len(theirs) else ()
            if len(axis) == len(other):
                out += [(self._ours.find(f), self._theirs.find(g)) for (f, _), (g, _) in zip(axis, other, strict=True)]
        return out
