"""The heaviest set of pairs that keeps the order of both sides, and what each other pair would cost.

Needleman and Wunsch's recurrence with free gaps, row by row over the pairs that are considered: memory grows with
these, not with the product of the two sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.candidates import Candidates, Index, Values


@dataclass(frozen=True)
class Ordered:
    """An order-keeping matching.

    Attributes:
        chosen: positions of the matched pairs.
        total: sum of their weights.
        regret: for each pair considered, how much the best matching that holds it falls short of ``total``.
    """

    chosen: Index
    total: float
    regret: NDArray[np.float64]


def heaviest(pairs: Candidates, weights: Values, ours: Index, theirs: Index) -> Ordered:
    """The heaviest matching in the given orders.

    Args:
        weights: of each pair; those of 0 and less are never taken.
        ours, theirs: place of each reference node, and of each candidate node, in its order.
    """
    order = np.lexsort((theirs[pairs.cols], ours[pairs.rows]))
    rows, cols = ours[pairs.rows][order], theirs[pairs.cols][order]
    weight = np.where(weights > 0, weights, 0).astype(np.float64)[order]
    before = _before(rows, cols, weight, pairs.shape)
    back = np.arange(len(rows))[::-1]
    height, width = pairs.shape
    after = _before(height - 1 - rows[back], width - 1 - cols[back], weight[back], pairs.shape)[::-1]
    through = before + weight + after
    total = float(through.max(initial=0.0))
    chosen: list[int] = []
    starts = np.searchsorted(rows, np.arange(height + 1))
    limit, value = width, total
    for row in range(height - 1, -1, -1):
        low, high = starts[row], starts[row + 1]
        if low == high:
            continue
        here = slice(low, high)
        fits = (cols[here] < limit) & (weight[here] > 0) & (before[here] + weight[here] >= value - 1e-9)
        if fits.any():
            # Of equally good ones the one that leaves the most room.
            place = low + int(np.flatnonzero(fits)[-1])
            chosen.append(int(order[place]))
            limit, value = int(cols[place]), float(before[place])
            if value <= 1e-12:
                break
    regret = np.empty(len(rows))
    regret[order] = np.where(weight > 0, total - through, np.inf)
    return Ordered(np.array(chosen[::-1], np.intp), total, regret)


def _before(rows: Index, cols: Index, weight: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    """For each pair the weight of the heaviest matching of what comes before it on both sides."""
    out = np.zeros(len(rows))
    best = np.zeros(shape[1] + 1)
    starts = np.searchsorted(rows, np.arange(shape[0] + 1))
    for row in range(shape[0]):
        low, high = starts[row], starts[row + 1]
        if low == high:
            continue
        out[low:high] = best[cols[low:high]]
        take = out[low:high] + weight[low:high]
        np.maximum.at(best, cols[low:high] + 1, take)
        np.maximum.accumulate(best, out=best)
    return out
