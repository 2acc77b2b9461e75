"""Pairs by structure alone, where what the tensors hold has led astray.

Equal values are proof, but of what two tensors hold, not of what they are for: where two gates are exchanged, or all is
computed a step late, the tensors of a loop written out are those of another gate or step, and paired so, every step
contradicts the graph. Of two alignments the one is right in a region in which fewer pairs do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tracer.alignment.candidates import Candidates, Values
from tracer.alignment.evidence import EQUAL
from tracer.alignment.features import COMMUTATIVE, Features

Matched = Mapping[int, int]


class Contradictions:
    """Counts what the graph says against pairs.

    Args:
        content: agreement of the tensors of each pair. Pairs that agree are not counted: what they read came out right.
        parts: below 0 for pairs of different parts of what is split.
    """

    def __init__(self, pairs: Candidates, content: Values, parts: Values, a: Features, b: Features) -> None:
        self._pairs, self._a, self._b = pairs, a, b
        self._content, self._parts = np.append(content, np.float32(0)), np.append(parts, np.float32(0))

    def count(self, matched: Matched) -> int:
        """What is said against pairs: arguments that are paired with something else, and tensors that differ though all
        that they are made of agrees."""
        return self._count(matched, matched, {j: i for i, j in matched.items()})

    def fewer(self, one: Matched, other: Matched) -> set[int]:
        """The reference nodes for which ``other`` pairs as many and less is said against it than against ``one``.
        Inputs that were given the same stay together."""
        out: set[int] = set()
        now, holder = dict(one), {j: i for i, j in one.items()}
        for region in regions(one, other, self._a, self._b):
            before, after = ({i: found[i] for i in region if i in found} for found in (one, other))
            if len(after) < len(before) or self._given(before, after):
                continue
            beside = region | {c for i in region for c, _ in self._a.below[i]}
            readers = {c for j in (*before.values(), *after.values()) for c, _ in self._b.below[j]}
            beside |= {holder[c] for c in readers if c in holder}
            least = self._count(beside, now, holder)
            _exchange(now, holder, before, after)
            if self._count(beside, now, holder) < least:
                out |= region
            else:
                _exchange(now, holder, after, before)
        return out

    def _given(self, one: Matched, other: Matched) -> bool:
        """Whether ``other`` parts inputs that were given the same values."""
        rows = [i for i, j in one.items() if self._a.nodes[i].role == "input" and other.get(i) != j]
        return bool((self._content[self._places(one, rows)] >= EQUAL).any()) if rows else False

    def _count(self, nodes: Iterable[int], matched: Matched, holder: Matched) -> int:
        rows = [i for i in nodes if i in matched and not self._a.arranges(i)]
        total = 0
        for i, place in zip(rows, self._places(matched, rows), strict=True):
            if self._content[place] < EQUAL:
                astray = int(self._parts[place] < 0) + self._astray(i, matched[i], matched, holder)
                total += astray or self._begins(i, matched)
        return total

    def _places(self, matched: Matched, rows: Sequence[int]) -> list[int]:
        found = self._pairs.find(np.array(rows, np.intp), np.array([matched[i] for i in rows], np.intp))
        return [int(place) for place in found]

    def _astray(self, i: int, j: int, matched: Matched, holder: Matched) -> int:
        """How many arguments of a pair are paired with something else."""
        ours, theirs = self._a.above[i], self._b.above[j]
        kind = self._a.nodes[i].kind
        if kind != self._b.nodes[j].kind:
            return 0  # the arguments of operations of two kinds have nothing to do with each other
        if kind not in COMMUTATIVE and len(ours) == len(theirs):
            known = [(matched.get(p), q) for p, q in zip(ours, theirs, strict=True) if p in matched or q in holder]
            return sum(twin != q for twin, q in known)
        here = sum(p in matched and matched[p] not in theirs for p in ours)
        return max(here, sum(q in holder and holder[q] not in ours for q in theirs))

    def _begins(self, i: int, matched: Matched) -> bool:
        """Whether all that a node reads is paired and agrees."""
        above = self._a.above[i]
        known = bool(above) and all(p in matched for p in above)
        return known and bool((self._content[self._places(matched, above)] >= EQUAL).all())


def _exchange(matched: dict[int, int], holder: dict[int, int], before: Matched, after: Matched) -> None:
    for i, j in before.items():
        del matched[i], holder[j]
    for i, j in after.items():
        matched[i], holder[j] = j, i


def regions(one: Matched, other: Matched, a: Features, b: Features) -> list[set[int]]:
    """Reference nodes that two matchings pair otherwise, apart from each other: each may be taken from either."""
    left = {i for i in one.keys() | other.keys() if one.get(i) != other.get(i)}
    holders: dict[int, list[int]] = {}
    for i in left:
        for j in _twins(i, one, other):
            holders.setdefault(j, []).append(i)
    out = []
    while left:
        region, queue = set[int](), [left.pop()]
        while queue:
            i = queue.pop()
            region.add(i)
            twins = _twins(i, one, other)
            beside = {k for j in twins.union(*(b.near[j] for j in twins)) for k in holders.get(j, ())} | a.near[i]
            beside &= left
            left -= beside
            queue += beside
        out.append(region)
    return out


def _twins(i: int, *matchings: Matched) -> set[int]:
    return {found[i] for found in matchings if i in found}
