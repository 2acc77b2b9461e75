"""Branches that do not depend on each other: which is which must not rest on when they run.

Two branches that read the same are exchanged for each other where what they compute, their settings and names, as
which argument they are read and where the model returns them fit better crosswise. What values confirm stays.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.features import COMMUTATIVE, Features
from tracer.alignment.order import heaviest

CLEAR = 0.4
"""By so much, in log-odds, must two branches fit better crosswise."""
NAMED, READ, RETURNED, EDGE = 0.5, 1.5, 0.5, 1.0
"""Log-odds for equal names, for being read as the same argument, for being returned at the same place, and for reading
within the branch what is paired."""
MANY = 32
"""Of more branches side by side none is exchanged (experts: their order is all there is)."""
LONG = 200
"""Branches of more nodes are no detail of a model that ran in another order."""
PASSES = 4
_PART = re.compile(r"[a-z]+|[0-9]+")

Returned = Mapping[int, frozenset[str]]


@dataclass(frozen=True)
class _Trial:
    """Pairs that lay two branches on two others, and what they are worth together."""

    places: Index
    score: float


class Branches:
    """The parallel branches of two models, and how well they fit on each other.

    Args:
        logit: log-odds of each pair by what its nodes look like themselves.
        confirmed: 1 for pairs with equal weights or equal tensors, down to 0.
        returned: for the nodes of either side that a model returns, the places where.
        stated: reference nodes of which a person said what they are.
    """

    def __init__(
        self,
        pairs: Candidates,
        logit: Values,
        confirmed: Values,
        a: Features,
        b: Features,
        returned: tuple[Returned, Returned],
        stated: Container[int],
    ) -> None:
        self._pairs, self._confirmed, self._stated = pairs, confirmed, stated
        self._a, self._b, self._returned = a, b, returned
        self._worth = np.maximum(logit, 0).astype(np.float64)
        self._behind = _descendants(a), _descendants(b)
        self._parts = tuple([_parts(node.name) for node in side.nodes] for side in (a, b))

    def exchange(self, matched: dict[int, int], regret: NDArray[np.float64]) -> None:
        """Exchange in ``matched`` what fits better crosswise; ``regret`` then says what undoing that would cost."""
        groups: dict[frozenset[int], list[int]] = {}
        for i in sorted(matched):
            if self._a.above[i] and not self._a.arranges(i):
                groups.setdefault(frozenset(self._a.above[i]), []).append(i)
        holder = {j: i for i, j in matched.items()}
        for _ in range(PASSES):
            changed = False
            for group in groups.values():
                if len(group) <= MANY:
                    for i, k in combinations(group, 2):
                        changed |= self._try(i, k, matched, holder, regret)
            if not changed:
                return

    def _try(
        self, i: int, k: int, matched: dict[int, int], holder: dict[int, int], regret: NDArray[np.float64]
    ) -> bool:
        if i not in matched or k not in matched:
            return False
        j, m = matched[i], matched[k]
        if {*self._b.above[j]} != {*self._b.above[m]}:
            return False
        crosswise = self._pairs.find(np.array([i, k]), np.array([m, j]))
        if (crosswise >= len(self._pairs)).any() or not self._worth[crosswise].all():
            return False
        ours, theirs = _apart(self._behind[0], i, k), _apart(self._behind[1], j, m)
        if ours is None or theirs is None:
            return False
        now = {x: matched[x] for branch in ours for x in branch if x in matched}
        there = theirs[0] | theirs[1]
        if any(x in self._stated for x in now) or not there.issuperset(now.values()):
            return False
        if any(y in holder and holder[y] not in now for y in there):
            return False
        held = self._pairs.find(np.array([*now], np.intp), np.array([*now.values()], np.intp))
        held = held[held < len(self._pairs)]
        kept = self._trial(held, matched, now)
        straight, cross = (
            np.concatenate([self._best(x, y) for x, y in zip(ours, found, strict=True)])
            for found in (theirs, theirs[::-1])
        )
        again, other = self._trial(straight, matched, now), self._trial(cross, matched, now)
        if self._confirmed[np.append(held, other.places)].max(initial=0) >= 0.5:
            return False
        gain = other.score - max(kept.score, again.score)
        if gain < CLEAR:
            return False
        for x, y in now.items():
            del matched[x], holder[y]
        for p in other.places.tolist():
            x, y = int(self._pairs.rows[p]), int(self._pairs.cols[p])
            matched[x], holder[y] = y, x
        regret[held] = np.maximum(regret[held], gain)
        regret[other.places] = 0
        return True

    def _best(self, ours: Iterable[int], theirs: Iterable[int]) -> Index:
        """Positions of the pairs that lay one branch on another, each in its order of running."""
        rows, cols = np.array(sorted(ours), np.intp), np.array(sorted(theirs), np.intp)
        x, y = (grid.reshape(-1) for grid in np.meshgrid(np.arange(len(rows)), np.arange(len(cols)), indexing="ij"))
        places = self._pairs.find(rows[x], cols[y])
        known = places < len(self._pairs)
        places = places[known]
        small = Candidates(x[known], y[known], (len(rows), len(cols)))
        found = heaviest(small, self._worth[places].astype(np.float32), np.arange(len(rows)), np.arange(len(cols)))
        return places[found.chosen]

    def _trial(self, places: Index, matched: Mapping[int, int], inside: Container[int]) -> _Trial:
        """What pairs are worth together, given those that are ``matched`` beside what is ``inside`` their branches."""
        score = float(self._worth[places].sum())
        a, b = self._a, self._b
        laid = dict(zip(self._pairs.rows[places].tolist(), self._pairs.cols[places].tolist(), strict=True))
        for i, j in laid.items():
            # An activation may not stay with its like while what it reads goes to the other branch.
            score += EDGE * sum(laid.get(parent) in b.above[j] for parent in a.above[i] if parent in laid)
            score += NAMED * (self._parts[0][i] == self._parts[1][j])
            score += RETURNED * (not self._returned[0].get(i, _NOWHERE).isdisjoint(self._returned[1].get(j, _NOWHERE)))
            there = {(reader, slot) for reader, slot in b.below[j]}
            for reader, slot in a.below[i]:
                other = None if reader in inside else matched.get(reader)
                # The arguments of operations of two kinds have nothing to do with each other.
                if other is not None and a.nodes[reader].kind == b.nodes[other].kind not in COMMUTATIVE:
                    score += READ * ((other, slot) in there)
        return _Trial(places, score)


_NOWHERE: frozenset[str] = frozenset()


def _parts(name: str) -> tuple[str, ...]:
    """The words and numbers of a name, whatever stands between them."""
    return tuple(_PART.findall(name.replace("preactivation", "").lower()))


def _descendants(side: Features) -> list[int]:
    """For each node a set of bits: those of the nodes whose values depend on it, and its own."""
    out = [1 << i for i in range(len(side.nodes))]
    for i in reversed(range(len(side.nodes))):
        for parent in side.direct[i]:
            out[parent] |= out[i]
    return out


def _apart(behind: list[int], i: int, k: int) -> tuple[frozenset[int], frozenset[int]] | None:
    """The nodes that depend on one of two nodes only; None if one depends on the other, or these are too many."""
    both = behind[i] & behind[k]
    if both >> i & 1 or both >> k & 1:
        return None
    mine, other = behind[i] & ~both, behind[k] & ~both
    if max(mine.bit_count(), other.bit_count()) > LONG:
        return None
    return _bits(mine), _bits(other)


def _bits(value: int) -> frozenset[int]:
    out = set()
    while value:
        low = value & -value
        out.add(low.bit_length() - 1)
        value ^= low
    return frozenset(out)
