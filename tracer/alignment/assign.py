"""From scores to pairs: order first, then the graph, then the values."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tracer.alignment import axes as axes_
from tracer.alignment.features import TRANSPARENT, Features
from tracer.alignment.score import Matrix

LEAST = 0.3
"""Pairs that score less are left unmatched."""
SAME = 0.99
"""Agreement of two tensors' order-free numbers above which they are taken for the same tensor."""


def assign(
    joined: Matrix, content: Matrix, a: Features, b: Features, blocked: tuple[frozenset[int], ...]
) -> dict[int, int]:
    """Candidate index by reference index.

    Args:
        joined: fitness of every pair; 2 and more is a person's word.
        content: agreement of the tensors, for every pair whatever its kinds; 0 where unknown.
        blocked: indices on either side that a person ignores.
    """
    pinned = {int(i): int(j) for i, j in np.argwhere(joined >= 2)}
    rest = joined.copy()
    rest[list(pinned), :] = 0
    rest[:, list(pinned.values())] = 0
    matched = _in_order(rest) | pinned
    _mend(matched, rest, content, a, b)
    _swap(matched, rest)
    _by_content(matched, joined, content, a, b, blocked)
    return matched


def _in_order(joined: Matrix) -> dict[int, int]:
    """The heaviest set of pairs that keeps the order of both sides (Needleman–Wunsch with free gaps)."""
    weights = np.where(joined >= LEAST, joined, 0).astype(np.float64)
    best = np.zeros((weights.shape[0] + 1, weights.shape[1] + 1))
    for i, row in enumerate(weights):
        take = np.where(row > 0, best[i, :-1] + row, 0)
        # Free gaps on the other side make the inner recurrence a running maximum.
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], take))
    matched = {}
    i, j = weights.shape
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matched[i] = j
    return matched


def _mend(matched: dict[int, int], joined: Matrix, content: Matrix, a: Features, b: Features) -> None:
    """Pair what is left where a neighbour's pair, or equal content, says so; order plays no part here."""
    while True:
        taken = set(matched.values())
        options = [
            (joined[i, j] + 0.2 * content[i, j], i, j)
            for i in range(len(a.nodes))
            if i not in matched
            for j in np.flatnonzero(joined[i] >= LEAST)
            if j not in taken and (content[i, j] > 0.9 or agree(matched, i, int(j), a, b) > 0)
        ]
        if not options:
            return
        _, i, j = max(options)
        matched[i] = int(j)


def agree(matched: Mapping[int, int], i: int, j: int, a: Features, b: Features) -> float:
    """The share of neighbours on both sides that are paired with each other."""
    ours = [*a.parents[i], *a.children[i]]
    theirs = {*b.parents[j], *b.children[j]}
    if not ours and not theirs:
        return 1.0
    hits = sum(matched.get(n) in theirs for n in ours)
    return 2 * hits / (len(ours) + len(theirs))


def _swap(matched: dict[int, int], joined: Matrix) -> None:
    """Exchange partners where both together fit better crosswise (branches that run in another order)."""
    for _ in range(4):
        changed = False
        holder = {j: i for i, j in matched.items()}
        for i in list(matched):
            j = matched[i]
            better = int(joined[i].argmax())
            other = holder.get(better)
            if better == j or joined[i, better] <= 1.05 * joined[i, j]:
                continue
            if other is None:
                pass
            elif joined[i, better] + joined[other, j] > 1.05 * (joined[i, j] + joined[other, better]):
                if joined[other, j] >= LEAST:
                    matched[other] = j
                    holder[j] = other
                else:
                    del matched[other]
                    del holder[j]
            else:
                continue
            if other is None:
                del holder[j]
            matched[i] = better
            holder[better] = i
            changed = True
        if not changed:
            return


def _by_content(
    matched: dict[int, int],
    joined: Matrix,
    content: Matrix,
    a: Features,
    b: Features,
    blocked: tuple[frozenset[int], ...],
) -> None:
    """Pair tensors that hold the same values though their operations do not look alike.

    The last step of an LSTM is a slice on one side and part of the layer on the other; a BatchNorm folded into a
    convolution leaves the convolution equal to the BatchNorm. A pair whose values agree is never given up for this.
    """
    holder = {j: i for i, j in matched.items()}

    def free(i: int | None, j: int | None) -> bool:
        return i is None or j is None or (joined[i, j] < 2 and content[i, j] < 0.5)

    open_a = [i for i in range(len(a.nodes)) if free(i, matched.get(i)) and _computes(a, i) and i not in blocked[0]]
    open_b = [j for j in range(len(b.nodes)) if free(holder.get(j), j) and _computes(b, j) and j not in blocked[1]]
    options = []
    for i in open_a:
        for j in open_b:
            ours, theirs = a.nodes[i], b.nodes[j]
            if content[i, j] >= SAME and ours.shape and theirs.shape:
                reshaped = not axes_.possible(ours.shape, theirs.shape)
                distance = abs(i / len(a.nodes) - j / len(b.nodes))
                options.append((reshaped, theirs.role == "item", -joined[i, j], distance, i, j))
    for *_, i, j in sorted(options):
        if free(i, matched.get(i)) and free(holder.get(j), j):
            if i in matched:
                del holder[matched[i]]
            if j in holder:
                del matched[holder[j]]
            matched[i], holder[j] = j, i


def _computes(side: Features, index: int) -> bool:
    node = side.nodes[index]
    return node.kind not in TRANSPARENT and node.alias_of is None and node.role != "input"
