"""Nodes of one model that its structure cannot tell apart, such as equal heads on one trunk."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice

import numpy as np

from tracer.alignment.candidates import Candidates, Values
from tracer.alignment.features import COMMUTATIVE, Features

CLEAR = 0.1
"""By so much must names, weights or values speak for one of several such pairs."""
_MOST = 256
"""Of thousands that look alike so many speak for all."""


def siblings(side: Features, wanted: Iterable[int]) -> dict[int, tuple[int, ...]]:
    """For each node the others that it could change places with: they look the same, read the same and are read alike
    in turn, up to inputs and outputs, and yet may hold other values (they have weights of their own, or read such).

    Which output is a model's first says nothing: two authors need not agree on it.
    """
    looks = [
        (n.kind, n.role, n.shape, params, repr(sorted(n.config.items())))
        for n, params in zip(side.nodes, side.params, strict=True)
    ]
    places = [
        [0] * len(found) if n.kind in COMMUTATIVE else [*range(len(found))]
        for n, found in zip(side.nodes, side.direct, strict=True)
    ]
    readers: list[list[tuple[int, int]]] = [[] for _ in side.nodes]
    for i, found in enumerate(side.direct):
        for place, parent in zip(places[i], found, strict=True):
            readers[parent].append((place, i))
    colours = _numbered(looks)
    # Up and down twice: what a node reads, who reads that, and what these read besides.
    for _ in range(2):
        colours = _spread(colours, [[*zip(p, f, strict=True)] for p, f in zip(places, side.direct, strict=True)], False)
        colours = _spread(colours, readers, True)
    own = [
        (look, n.owner or n.name if n.params or n.role == "input" else "")
        for look, n in zip(looks, side.nodes, strict=True)
    ]
    values = _spread(
        _numbered(own), [[*zip(p, f, strict=True)] for p, f in zip(places, side.direct, strict=True)], False
    )
    alike: dict[int, list[int]] = {}
    for i, colour in enumerate(colours):
        alike.setdefault(colour, []).append(i)
    others = ((i, (k for k in alike[colours[i]] if values[k] != values[i])) for i in wanted)
    return {i: tuple(islice(found, _MOST)) for i, found in others}


def _numbered(keys: Iterable[Hashable]) -> list[int]:
    known: dict[Hashable, int] = {}
    return [known.setdefault(key, len(known)) for key in keys]


def _spread(colours: Sequence[int], links: Sequence[Sequence[tuple[int, int]]], back: bool) -> list[int]:
    """Each node's colour with those of the nodes it is linked to; these must come before it, or after it (``back``)."""
    known: dict[Hashable, int] = {}
    out = [-1] * len(colours)
    for i in reversed(range(len(colours))) if back else range(len(colours)):
        key = colours[i], tuple(sorted((place, out[k]) for place, k in links[i]))
        out[i] = known.setdefault(key, len(known))
    return out


def interchangeable(
    matched: Mapping[int, int], pairs: Candidates, speaks: Values, a: Features, b: Features
) -> frozenset[int]:
    """Reference nodes of ``matched`` whose twin might as well be another, for all that the structure says, and that
    neither themselves nor by those of their branch are told apart by ``speaks`` (names, weights, values of each pair).
    """
    ours, theirs = siblings(a, matched), siblings(b, matched.values())
    doubtful = {i for i, j in matched.items() if ours[i] or theirs[j]}
    if not doubtful:
        return frozenset()

    def said(i: int, j: int) -> float:
        place = int(pairs.find(np.array([i]), np.array([j]))[0])
        return float(speaks[place]) if place < len(pairs) else 0.0

    lead = {}
    for i in doubtful:
        j = matched[i]
        others = [said(i, k) for k in theirs[j]] + [said(k, j) for k in ours[i]]
        lead[i] = said(i, j) - max(others, default=0.0)
    out: set[int] = set()
    left = set(doubtful)
    while left:
        branch, queue = set(), [left.pop()]
        while queue:
            i = queue.pop()
            branch.add(i)
            beside = {k for k in a.near[i] & left if matched[k] in b.near[matched[i]]}
            left -= beside
            queue += beside
        found = [lead[i] for i in branch]
        if max(found) < CLEAR or min(found) < -CLEAR:
            out |= branch
    return frozenset(out)
