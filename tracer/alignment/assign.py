"""From probabilities to pairs: order first, then the graph, then the values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import axes as axes_
from tracer.alignment.branches import Branches, Returned
from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.consistency import agree, crossed, hangs, healed, reassociated, straightened
from tracer.alignment.evidence import EQUAL
from tracer.alignment.features import TRANSPARENT, Features
from tracer.alignment.order import Ordered, heaviest

LEAST = 0.1
"""Pairs that are less likely are left unmatched."""
CONFIRMED = 3.0
"""How many pairs that merely look right one is worth besides itself whose weights or tensors are equal."""
SINGLE = 0.5
"""Likelihood from which a pair needs no neighbour to vouch for it, if nothing else fits either node."""
DOUBT = 0.1
"""Two pairs are exchanged for the two crosswise when no more than this share of the doubt about them remains."""
PINNED = 2.0
"""The weight of a pair that a person stated: more than evidence can give."""


@dataclass(frozen=True)
class Assigned:
    """Candidate index by reference index, and what each pair that was considered would have cost."""

    matched: Mapping[int, int]
    regret: NDArray[np.float64]


def assign(
    pairs: Candidates,
    value: Values,
    content: Values,
    confirmed: Values,
    a: Features,
    b: Features,
    blocked: tuple[frozenset[int], frozenset[int]],
    logit: Values,
    returned: tuple[Returned, Returned],
) -> Assigned:
    """The best matching.

    Args:
        value: probability of each pair; :data:`PINNED` is a person's word.
        content: agreement of the tensors of each pair, whatever their kinds; 0 where unknown.
        confirmed: 1 for pairs with equal weights or equal tensors, down to 0.
        blocked: indices on either side that a person ignores.
        logit: log-odds of each pair by what its nodes look like themselves.
        returned: for the nodes of either side that a model returns, the places where.
    """
    pinned = {int(pairs.rows[p]): int(pairs.cols[p]) for p in np.flatnonzero(value >= PINNED)}
    free = value.copy()
    free[np.isin(pairs.rows, list(pinned)) | np.isin(pairs.cols, list(pinned.values()))] = 0
    free[free < LEAST] = 0
    # Likelihoods end at 1, whether or not values confirm them: what they confirm must outweigh what merely looks right.
    free *= 1 + CONFIRMED * confirmed
    ordered = _in_order(pairs, free, a, b)
    matched = {int(pairs.rows[p]): int(pairs.cols[p]) for p in ordered.chosen} | pinned
    _mend(matched, pairs, free, content, a, b)
    _swap(matched, pairs, free)
    _mend(matched, pairs, free, content, a, b)
    Branches(pairs, logit, confirmed, a, b, returned, pinned).exchange(matched, ordered.regret)
    _by_content(matched, pairs, value, content, a, b, blocked)
    crossed(matched, pairs, content, a, b, pinned)
    straightened(matched, pairs, content, a, b, pinned)
    for i in [i for i, j in matched.items() if i not in pinned and hangs(matched, i, j, a, b)]:
        del matched[i]
    _mend(matched, pairs, free, content, a, b)
    _alone(matched, pairs, free)
    reassociated(matched, a, b, pinned)
    healed(matched, pairs, content, a, b, pinned)
    return Assigned(matched, ordered.regret)


def _in_order(pairs: Candidates, weights: Values, a: Features, b: Features) -> Ordered:
    """The heaviest matching in the order in which the models ran, or in that of the graph's branches."""
    ran = heaviest(pairs, weights, np.arange(len(a.nodes)), np.arange(len(b.nodes)))
    walked = heaviest(pairs, weights, _places(a.walk), _places(b.walk))
    return ran if ran.total >= walked.total else walked


def _places(order: tuple[int, ...]) -> Index:
    out = np.empty(len(order), np.intp)
    out[list(order)] = np.arange(len(order))
    return out


def _mend(matched: dict[int, int], pairs: Candidates, value: Values, content: Values, a: Features, b: Features) -> None:
    """Pair what is left where a neighbour's pair, or equal content, says so; order plays no part here."""
    usable = np.flatnonzero(value > 0)
    while True:
        taken = np.zeros(pairs.shape[1], bool)
        taken[list(matched.values())] = True
        held = np.zeros(pairs.shape[0], bool)
        held[list(matched)] = True
        usable = usable[~held[pairs.rows[usable]] & ~taken[pairs.cols[usable]]]
        options = []
        near = a.beside(held)[pairs.rows[usable]] & b.beside(taken)[pairs.cols[usable]]
        for p in usable[near | (content[usable] > 0.9)]:
            i, j = int(pairs.rows[p]), int(pairs.cols[p])
            beside = agree(matched, i, j, a, b)
            if (beside > 0 or content[p] > 0.9) and not hangs(matched, i, j, a, b):
                options.append((float(value[p]) * (0.5 + 0.5 * beside) + 0.2 * float(content[p]), i, j))
        if not options:
            return
        added: set[int] = set()
        for _, i, j in sorted(options, reverse=True):
            if not held[i] and not taken[j]:
                if a.near[i] & added:
                    continue  # its evidence has just changed: next round
                matched[i] = j
                held[i] = taken[j] = True
                added.add(i)


def _alone(matched: dict[int, int], pairs: Candidates, value: Values) -> None:
    """Pair what is left and fits nothing else, wherever it stands: tables that are read in another order."""
    taken = set(matched.values())
    rival = pairs.rivals(value)
    for p in np.flatnonzero((value >= SINGLE) & (rival < LEAST)):
        i, j = int(pairs.rows[p]), int(pairs.cols[p])
        if i not in matched and j not in taken:
            matched[i] = j
            taken.add(j)


def _swap(matched: dict[int, int], pairs: Candidates, value: Values) -> None:
    """Exchange partners where both together fit better crosswise (branches that run in another order)."""

    def worth(i: int, j: int) -> float:
        place = int(pairs.find(np.array([i]), np.array([j]))[0])
        return float(value[place]) if place < len(pairs) else 0.0

    for _ in range(4):
        changed = False
        holder = {j: i for i, j in matched.items()}
        best = pairs.row_max(value)
        for i in list(matched):
            if i not in matched:
                continue
            j = matched[i]
            now = worth(i, j)
            if best[i] <= 1.05 * now and 1 - best[i] >= DOUBT * (1 - now):
                continue
            here = slice(pairs.starts[i], pairs.starts[i + 1])
            better = int(pairs.cols[here][int(value[here].argmax())])
            other = holder.get(better)
            if other is not None:
                cross = worth(other, j)
                kept, exchanged = now + worth(other, better), float(best[i]) + cross
                # Near certainty a pair gains little: there it counts how much doubt is left.
                surer = 2 - kept > 0.02 and 2 - exchanged < DOUBT * (2 - kept)
                if exchanged <= 1.05 * kept and not surer:
                    continue
                if cross > 0:
                    matched[other] = j
                    holder[j] = other
                else:
                    del matched[other]
                    del holder[j]
            else:
                del holder[j]
            matched[i] = better
            holder[better] = i
            changed = True
        if not changed:
            return


def _by_content(
    matched: dict[int, int],
    pairs: Candidates,
    value: Values,
    content: Values,
    a: Features,
    b: Features,
    blocked: tuple[frozenset[int], frozenset[int]],
) -> None:
    """Pair tensors that hold the same values though their operations do not look alike.

    The last step of an LSTM is a slice on one side and part of the layer on the other; a BatchNorm folded into a
    convolution leaves the convolution equal to the BatchNorm. A pair whose values agree is never given up for this.
    """
    holder = {j: i for i, j in matched.items()}
    settled = {(int(pairs.rows[p]), int(pairs.cols[p])) for p in np.flatnonzero((value >= PINNED) | (content >= 0.5))}

    def free(i: int | None, j: int | None) -> bool:
        return i is None or j is None or (i, j) not in settled

    options = []
    for p in np.flatnonzero(content >= EQUAL):
        i, j = int(pairs.rows[p]), int(pairs.cols[p])
        if i in blocked[0] or j in blocked[1] or not (_computes(a, i) and _computes(b, j)):
            continue
        if not (free(i, matched.get(i)) and free(holder.get(j), j)):
            continue
        ours, theirs = a.nodes[i], b.nodes[j]
        if ours.shape and theirs.shape:
            reshaped = not axes_.possible(ours.shape, theirs.shape)
            distance = abs(i / len(a.nodes) - j / len(b.nodes))
            options.append((reshaped, theirs.role == "item", -float(value[p]), distance, i, j))
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
