"""Evidence from the graph: a pair is as likely as its own looks and the pairs of its neighbours make it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.calibration import GRAPH
from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.features import COMMUTATIVE, Features

ROUNDS = 12
"""Rounds of propagation; each carries evidence one layer further."""
SLOTS = 4
"""Neighbours of a node that are looked at in either direction; of more, the first and the last."""
OTHER_SLOT = 0.5
"""What a neighbour counts for that is read as another argument (the second operand of a product, not the first)."""


class Graph:
    """Both graphs as seen from the pairs that are considered: for each pair, the pairs of its neighbours."""

    def __init__(self, a: Features, b: Features, pairs: Candidates) -> None:
        self.pairs = pairs
        self._up = _Links(pairs, _parents(a), _parents(b))
        self._down = _Links(pairs, _children(a), _children(b))

    def around(self, values: Values) -> tuple[Values, Values]:
        """For each pair, the mean over its nodes' parents (and children) of the best ``values`` with one of the
        other's; 1 where neither has any."""
        return self._up.best(values), self._down.best(values)

    def propagate(self, logit: Values) -> Values:
        """Probabilities in [0, 1] after :data:`ROUNDS` rounds."""
        value = sigmoid(logit)
        for _ in range(ROUNDS):
            # What fits best nowhere else speaks loudest: a rival that fits as well halves it.
            best = np.maximum(self.pairs.row_max(value)[self.pairs.rows], self.pairs.column_max(value)[self.pairs.cols])
            up, down = self.around((value * value / np.maximum(best, 1e-9)).astype(np.float32))
            value = sigmoid(logit + np.float32(GRAPH["up"]) * (2 * up - 1) + np.float32(GRAPH["down"]) * (2 * down - 1))
        return value


class _Links:
    def __init__(
        self,
        pairs: Candidates,
        ours: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
        theirs: tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]],
    ) -> None:
        near, slot = _columns(*ours)
        far, place = _columns(*theirs)
        count = len(pairs)
        self._index = np.full((near.shape[1], far.shape[1], count), count, np.int32)
        self._weight = np.ones((near.shape[1], far.shape[1], count), np.float16)
        for s in range(near.shape[1]):
            for t in range(far.shape[1]):
                i, j = near[pairs.rows, s], far[pairs.cols, t]
                self._index[s, t] = pairs.find(i, j)
                self._weight[s, t] = np.where(slot[pairs.rows, s] == place[pairs.cols, t], 1, OTHER_SLOT)
        self._total = ((near >= 0).sum(axis=1)[pairs.rows] + (far >= 0).sum(axis=1)[pairs.cols]).astype(np.float32)

    def best(self, values: Values) -> Values:
        padded = np.append(values, np.float32(0))
        sums = np.zeros(len(values), np.float32)
        backward = np.zeros((self._index.shape[1], len(values)), np.float32)
        for s in range(self._index.shape[0]):
            forward = np.zeros(len(values), np.float32)
            for t in range(self._index.shape[1]):
                found = padded[self._index[s, t]] * self._weight[s, t]
                np.maximum(forward, found, out=forward)
                np.maximum(backward[t], found, out=backward[t])
            sums += forward
        sums += backward.sum(axis=0)
        return np.where(self._total > 0, sums / np.maximum(self._total, 1), 1).astype(np.float32)


def _parents(side: Features) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
    slots = [
        [0] * len(found) if node.kind in COMMUTATIVE else range(len(found))
        for node, found in zip(side.nodes, side.above, strict=True)
    ]
    return side.above, slots


def _children(side: Features) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
    return [[c for c, _ in found] for found in side.below], [[s for _, s in found] for found in side.below]


def _columns(links: Sequence[Sequence[int]], slots: Sequence[Sequence[int]]) -> tuple[Index, Index]:
    """Neighbours, and the slots of the links to them, in fixed columns; -1 where there is none."""
    width = max(1, min(SLOTS, max(map(len, links), default=1)))
    near = np.full((len(links), width), -1, np.intp)
    slot = np.zeros((len(links), width), np.intp)
    for i, found in enumerate(links):
        kept = range(len(found))
        chosen = [*kept] if len(kept) <= width else [*kept[: width // 2], *kept[-(width - width // 2) :]]
        near[i, : len(chosen)] = [found[k] for k in chosen]
        slot[i, : len(chosen)] = [slots[i][k] for k in chosen]
    return near, slot


def sigmoid(x: NDArray[np.float32]) -> Values:
    """1 / (1 + exp(-x)), with no overflow."""
    out: Values = (0.5 + 0.5 * np.tanh(0.5 * x)).astype(np.float32)
    return out
