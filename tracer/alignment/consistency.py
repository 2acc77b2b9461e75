"""Pairs that the graph, or the values around them, contradict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from itertools import combinations, pairwise

import numpy as np

from tracer import kinds
from tracer.alignment.candidates import Candidates, Values
from tracer.alignment.evidence import EQUAL
from tracer.alignment.features import COMMUTATIVE, Features

MASKED = -5e3
"""What is added to attention scores to mask them is below this."""


def hangs(matched: Mapping[int, int], i: int, j: int, a: Features, b: Features) -> bool:
    """Whether two nodes that only arrange values would arrange those of two nodes that are no pair."""
    if not (a.arranges(i) and b.arranges(j) and a.above[i] and b.above[j]):
        return False
    ours, theirs = a.above[i][0], b.above[j][0]
    return matched.get(ours) != theirs and (ours in matched or theirs in matched.values())


def healed(
    matched: dict[int, int],
    pairs: Candidates,
    content: Values,
    a: Features,
    b: Features,
    stated: Container[int],
) -> None:
    """Give up pairs whose tensors differ though everything that reads them agrees (no error heals), and those that have
    nothing in common.

    Sums in another order look so: word + position + type here, word + type + position there.
    """
    rows = np.array(list(matched), np.intp)
    places = pairs.find(rows, np.array(list(matched.values()), np.intp))
    same = dict(zip(rows.tolist(), content[places].tolist(), strict=True))
    for i in rows.tolist():
        j = matched[i]
        known = a.known[i] and b.known[j]
        if i in stated or same[i] >= 0.5 or not known or a.arranges(i) or b.arranges(j):
            continue
        if max(a.moments[i, 3], b.moments[j, 3]) <= MASKED:
            continue  # what is masked is -1e4 here and -1e9 there, and no softmax sees it
        kind = a.nodes[i].kind, b.nodes[j].kind
        if kinds.similarity(*kind) < 0.5 and not any(map(kinds.is_unknown, kind)):
            del matched[i]  # neither the same operation nor the same values
            continue
        readers = _readers(a, i), set(_readers(b, j))
        twins = [matched.get(c) for c in readers[0]]
        if readers[0] and {*twins} == readers[1] and all(same.get(c, 0) >= EQUAL for c in readers[0]):
            del matched[i]


def agree(matched: Mapping[int, int], i: int, j: int, a: Features, b: Features) -> float:
    """The share of neighbours on both sides that are paired with each other."""
    ours, theirs = a.near[i], b.near[j]
    if not ours and not theirs:
        return 1.0
    hits = sum(matched.get(n) in theirs for n in ours)
    return 2 * hits / (len(ours) + len(theirs))


def crossed(
    matched: dict[int, int], pairs: Candidates, content: Values, a: Features, b: Features, stated: Container[int]
) -> None:
    """Uncross twins that weights or values alone have crossed: layers that read the same and look the same, whose
    readers say that they are each other's, and come out wrong. Somebody has swapped their weights."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for i in matched:
        if i not in stated and a.params[i]:
            alike.setdefault((a.above[i], a.nodes[i].kind, a.dims[i], a.params[i]), []).append(i)
    for found in alike.values():
        for i, k in combinations(found, 2):
            j, m = matched[i], matched[k]
            if b.above[j] != b.above[m] or b.dims[j] != b.dims[m]:
                continue
            now = agree(matched, i, j, a, b) + agree(matched, k, m, a, b)
            if agree(matched, i, m, a, b) + agree(matched, k, j, a, b) > now and _wrong_below(
                matched, (i, k), pairs, content, a, b
            ):
                matched[i], matched[k] = m, j


def straightened(
    matched: dict[int, int], pairs: Candidates, content: Values, a: Features, b: Features, stated: Container[int]
) -> None:
    """Uncross twins that equal weights have crossed along a path: two layers that look the same, of which the later one
    depends on the earlier one on both sides. In the opposite order they would run only if none of both reads the other;
    unless their tensors agree crosswise, somebody has swapped their weights."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for i in sorted(matched):
        if i not in stated and a.params[i]:
            alike.setdefault((a.nodes[i].kind, a.dims[i], a.params[i]), []).append(i)
    for found in alike.values():
        if all(matched[i] < matched[k] for i, k in pairwise(found)):  # none is crossed
            continue
        for i, k in combinations(found, 2):
            j, m = matched[i], matched[k]
            if m < j and _leads(a, i, k) and _leads(b, m, j):
                places = pairs.find(np.array([i, k], np.intp), np.array([j, m], np.intp))
                if all(p >= len(pairs) or content[p] < 0.5 for p in places.tolist()):
                    matched[i], matched[k] = m, j


def _leads(side: Features, first: int, second: int) -> bool:
    """Whether the second node depends on the first."""
    seen, queue = {second}, [second]
    while queue:
        for parent in side.direct[queue.pop()]:
            if parent == first:
                return True
            if parent > first and parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return False


def _wrong_below(
    matched: Mapping[int, int], nodes: tuple[int, int], pairs: Candidates, content: Values, a: Features, b: Features
) -> bool:
    """Whether what reads these nodes is known to come out wrong; of sums that is not known, whose terms may move."""
    readers = [r for i in nodes for r in _readers(a, i) if r in matched]
    if any(a.nodes[r].kind in COMMUTATIVE and len(a.above[r]) > 1 for r in readers):
        return False
    places = pairs.find(np.array(readers, np.intp), np.array([matched[r] for r in readers], np.intp))
    known = [a.known[r] and b.known[matched[r]] for r in readers]
    return any(k and p < len(pairs) and content[p] < 0.5 for k, p in zip(known, places.tolist(), strict=True))


def _readers(side: Features, index: int) -> list[int]:
    """Who reads a node, or a further output of it."""
    out: list[int] = []
    for reader, _ in side.below[index]:
        out += _readers(side, reader) if side.nodes[reader].role == "item" else [reader]
    return out


def reassociated(matched: dict[int, int], a: Features, b: Features, stated: Container[int]) -> None:
    """Give up partial sums of other terms whose whole sums have the same: (word + position) + type here, and
    (word + type) + position there."""
    for i, j in list(matched.items()):
        if i in stated or a.nodes[i].kind != "add" or b.nodes[j].kind != "add":
            continue
        whole, other = _total(a, i), _total(b, j)
        if whole == i or other == j or matched.get(whole) != other:
            continue
        whole_twins, theirs = _twins(matched, _terms(a, whole)), _terms(b, other)
        # A term without a twin may be any of those that are left.
        unknown = whole_twins.pop(None, 0)
        same = whole_twins <= theirs and (theirs - whole_twins).total() == unknown
        part = _twins(matched, _terms(a, i))
        part.pop(None, 0)
        if same and (not part <= _terms(b, j) or not _terms(b, j) & whole_twins <= part):
            del matched[i]


def _total(side: Features, index: int) -> int:
    """The last of the sums that take a sum as a term."""
    while len(side.below[index]) == 1 and side.nodes[side.below[index][0][0]].kind == "add":
        index = side.below[index][0][0]
    return index


def _terms(side: Features, index: int) -> Counter[int | None]:
    """What a sum is made of in the end, sums that only it reads taken apart."""
    out: Counter[int | None] = Counter()
    for term in side.above[index]:
        taken_apart = side.nodes[term].kind == "add" and len(side.below[term]) == 1
        out += _terms(side, term) if taken_apart else Counter([term])
    return out


def _twins(matched: Mapping[int, int], terms: Counter[int | None]) -> Counter[int | None]:
    return Counter({matched.get(term): count for term, count in terms.items() if term is not None})
