"""How alike the shapes of two models' tensors are, for many pairs at once, and lengths that differ all along."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.features import Features

Index = NDArray[np.intp]
Values = NDArray[np.float32]
Dims = tuple[int, ...] | None
_Params = tuple[tuple[int, ...], ...]
SHIFTED = 0.3
"""How alike shapes are whose lengths differ as those of other layers do."""
OFTEN = 0.1
"""A length stands for another when it does so in at least this share of the layers that have it."""
MOST = 64
"""So many shapes are tried in place of one."""
_ROWS = 256


def shifts(a: Features, b: Features) -> dict[int, frozenset[int]]:
    """Lengths of the reference and what they are in the candidate, where layers with weights differ in nothing else.

    One convolution that pads otherwise changes the lengths of all that comes after it. Layers with equally shaped
    weights, as many on either side, are held against each other in their order. Of a convolution whose weights no other
    has the shapes of, one is enough: a global pooling behind it hides its lengths from the layers that follow.
    """
    of: tuple[dict[_Params, list[int]], dict[_Params, list[int]]] = ({}, {})
    for found, side in zip(of, (a, b), strict=True):
        for i, params in enumerate(side.params):
            if params:
                found.setdefault(params, []).append(i)
    seen: Counter[int] = Counter()
    moved: Counter[tuple[int, int]] = Counter()
    single: set[tuple[int, int]] = set()
    for params, rows in of[0].items():
        cols = of[1].get(params, [])
        for i, j in zip(rows, cols, strict=True) if len(rows) == len(cols) else ():
            ours, theirs = a.dims[i], b.dims[j]
            if ours is None or theirs is None or len(ours) != len(theirs):
                continue
            seen.update({*ours})
            rest = Counter(ours) - Counter(theirs), Counter(theirs) - Counter(ours)
            changed = {*zip(sorted(rest[0].elements()), sorted(rest[1].elements()), strict=True)}
            moved.update(changed)
            if len(rows) == 1 and any(len(shape) > 2 for shape in params):
                single.update(changed)
    out: dict[int, set[int]] = {}
    for (x, y), count in moved.items():
        if (count > 1 or (x, y) in single) and count >= OFTEN * seen[x]:
            out.setdefault(x, set()).add(y)
    return {x: frozenset(found) for x, found in out.items()}


@dataclass(frozen=True)
class _Table:
    """The distinct shapes of one side: equal numbers for equal ones, and for those of as many elements; their ranks;
    their dimensions, a row each."""

    whole: Index
    count: Index
    rank: Index
    dims: NDArray[np.float64]


class Sizes:
    """The shapes of two lists of nodes, compared as :func:`tracer.alignment.candidates.shapes` does; those that differ
    by ``moved`` lengths only are alike as well."""

    def __init__(self, a: Sequence[Dims], b: Sequence[Dims], moved: dict[int, frozenset[int]] | None = None) -> None:
        ours, theirs = list(dict.fromkeys(a)), list(dict.fromkeys(b))
        self.rows, self.cols = _numbers(a, ours), _numbers(b, theirs)
        self._width = max(1, len(theirs))
        self._known = [np.array([dims is not None for dims in found], bool) for found in (ours, theirs)]
        self._tables = _tables(ours, theirs)
        place = {dims: at for at, dims in enumerate(theirs)}
        found = [
            at * self._width + place[other]
            for at, dims in enumerate(ours)
            for other in _variants(dims, moved or {})
            if other in place
        ]
        self._moved = np.unique(np.array(found, np.intp))

    def between(self, p: Index, q: Index) -> Values:
        """How alike the ``p``-th distinct shapes of the one list are to the ``q``-th of the other."""
        mine, other = self._tables
        near = mine.rank[p] == other.rank[q]
        for axis in range(mine.dims.shape[1]):
            x, y = mine.dims[p, axis], other.dims[q, axis]
            near &= np.abs(x - y) <= np.maximum(2, 0.1 * np.maximum(x, y))
        out = np.where(near, np.float32(0.4), np.float32(0))
        if len(self._moved):
            out[(out == 0) & np.isin(p * self._width + q, self._moved)] = SHIFTED
        out[mine.count[p] == other.count[q]] = 0.5
        out[mine.whole[p] == other.whole[q]] = 1
        out[~(self._known[0][p] & self._known[1][q])] = 0.5
        return out

    def of(self, rows: Index, cols: Index) -> Values:
        """How alike the shapes of pairs of nodes are."""
        wanted, places = np.unique(self.rows[rows] * self._width + self.cols[cols], return_inverse=True)
        found: Values = self.between(wanted // self._width, wanted % self._width)[places]
        return found

    def every(self) -> Values:
        """The same of every two, a matrix."""
        height = len(self._known[0])
        small = np.zeros((height, len(self._known[1])), np.float32)
        columns = np.arange(small.shape[1])
        for start in range(0, height, _ROWS):
            part = np.arange(start, min(height, start + _ROWS))
            p, q = np.repeat(part, len(columns)), np.tile(columns, len(part))
            small[part] = self.between(p, q).reshape(len(part), len(columns))
        return small[np.ix_(self.rows, self.cols)]


def _tables(*sides: Sequence[Dims]) -> list[_Table]:
    wholes: dict[Dims, int] = {}
    counts: dict[int, int] = {}
    rank = max((len(dims or ()) for found in sides for dims in found), default=0)
    out = []
    for found in sides:
        table = np.zeros((len(found), rank))
        for at, dims in enumerate(found):
            table[at, : len(dims or ())] = dims or ()
        out.append(
            _Table(
                np.array([wholes.setdefault(dims, len(wholes)) for dims in found], np.intp),
                np.array([counts.setdefault(math.prod(dims or ()), len(counts)) for dims in found], np.intp),
                np.array([len(dims or ()) for dims in found], np.intp),
                table,
            )
        )
    return out


def _numbers(values: Sequence[Dims], distinct: Iterable[Dims]) -> Index:
    place = {dims: at for at, dims in enumerate(distinct)}
    return np.array([place[dims] for dims in values], np.intp)


def _variants(dims: Dims, moved: dict[int, frozenset[int]]) -> Iterable[tuple[int, ...]]:
    """A shape with some of its lengths replaced by what they may be."""
    if dims is None or not any(d in moved for d in dims):
        return
    choices = [(d, *moved.get(d, ())) for d in dims]
    if math.prod(map(len, choices)) <= MOST:
        for chosen in product(*choices):
            yield tuple(sorted(d for d in chosen if d != 1))


def shared(a: Sequence[tuple[tuple[int, ...], ...]], b: Sequence[tuple[tuple[int, ...], ...]]) -> Values:
    """1 for lists of parameter shapes that have one in common, or are both empty; a matrix."""
    users: dict[tuple[int, ...], list[int]] = {}
    for at, params in enumerate(b):
        for shape in {*params}:
            users.setdefault(shape, []).append(at)
    out = np.zeros((len(a), len(b)), np.float32)
    empty = np.array([not params for params in b], bool)
    for at, params in enumerate(a):
        for shape in {*params}:
            out[at, users.get(shape, [])] = 1
        if not params:
            out[at, empty] = 1
    return out
