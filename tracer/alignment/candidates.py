"""Which pairs of nodes are considered at all: few for each node, so that large models stay cheap.

Of small models every pair that is possible is considered. Of large ones each node keeps those that stand about as many
weighted layers from the input, or from the output, as it does: a layer or block that only one side has disturbs only
one of the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.alignment.features import Features
from tracer.alignment.sizes import Sizes, shared, shifts
from tracer.graph import Node

Index = NDArray[np.intp]
Values = NDArray[np.float32]
_Feature = TypeVar("_Feature", bound=Hashable)

EVERY = 1_500_000
"""Up to so many possible pairs all are considered."""
NEAR = 48
"""Else so many on either side of a node's own place, by the distance from the input and by that from the output."""
AROUND = 16
"""And so many by the place between nodes whose twins are known."""


@dataclass(frozen=True)
class Candidates:
    """Pairs of nodes in ascending order of reference, then candidate.

    Attributes:
        rows, cols: indices of the reference's and of the candidate's node, an entry a pair.
        shape: how many nodes either side has.
    """

    rows: Index
    cols: Index
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def _keys(self) -> Index:
        return self.rows * self.shape[1] + self.cols

    @cached_property
    def starts(self) -> Index:
        """First pair of each reference node, and the end."""
        return np.searchsorted(self.rows, np.arange(self.shape[0] + 1))

    @cached_property
    def by_column(self) -> tuple[Index, Index]:
        """The pairs ordered by candidate node, and the first of each."""
        order = np.argsort(self.cols, kind="stable")
        return order, np.searchsorted(self.cols[order], np.arange(self.shape[1] + 1))

    def find(self, rows: NDArray[Any], cols: NDArray[Any]) -> Index:
        """Positions of the given pairs; ``len(self)`` for those that are not considered or have a negative index."""
        wanted = np.asarray(rows, np.intp) * self.shape[1] + np.asarray(cols, np.intp)
        places = np.searchsorted(self._keys, wanted)
        known = (rows >= 0) & (cols >= 0) & (places < len(self))
        known &= self._keys[np.minimum(places, len(self) - 1)] == wanted if len(self) else False
        return np.where(known, places, len(self))

    def row_max(self, values: Values) -> Values:
        """The largest value of each reference node, 0 where it has no pair."""
        return _segments(values, self.starts)

    def column_max(self, values: Values) -> Values:
        """The largest value of each candidate node, 0 where it has no pair."""
        order, starts = self.by_column
        return _segments(values[order], starts)

    def rivals(self, values: Values) -> Values:
        """For each pair the largest value among the other pairs of either of its nodes; 0 where there is none."""
        out: Values = np.zeros(len(self), np.float32)
        order, starts = self.by_column
        for places, bounds, owner in ((np.arange(len(self)), self.starts, self.rows), (order, starts, self.cols)):
            ordered = values[places]
            top = _segments(ordered, bounds)
            best = values >= top[owner]
            # Where two share the top, each is the other's rival.
            twice = np.bincount(owner[best], minlength=len(top)) > 1
            second = _segments(np.where(best[places], 0, ordered), bounds)
            np.maximum(out, np.where(best & ~twice[owner], second[owner], top[owner]), out=out)
        return out


def _segments(values: Values, starts: Index) -> Values:
    out: Values = np.zeros(len(starts) - 1, np.float32)
    filled = starts[:-1] < starts[1:]
    if filled.any():
        out[filled] = np.maximum.reduceat(values, starts[:-1][filled])
    return out


class Table:
    """A number for every two nodes that depends on few distinct values, worked out once for each two that occur."""

    def __init__(
        self, a: Sequence[_Feature], b: Sequence[_Feature], compare: Callable[[_Feature, _Feature], float]
    ) -> None:
        self._ours = {value: i for i, value in enumerate(dict.fromkeys(a))}
        self._theirs = {value: i for i, value in enumerate(dict.fromkeys(b))}
        self.rows = np.array([self._ours[x] for x in a], np.intp)
        self.columns = np.array([self._theirs[y] for y in b], np.intp)
        self._compare = compare

    def of(self, pairs: Candidates) -> Values:
        """The numbers of the given pairs."""
        keys = self.rows[pairs.rows] * len(self._theirs) + self.columns[pairs.cols]
        wanted = np.unique(keys)
        ours, theirs = list(self._ours), list(self._theirs)
        found = [self._compare(ours[k // len(theirs)], theirs[k % len(theirs)]) for k in wanted.tolist()]
        return np.array(found, np.float32)[np.searchsorted(wanted, keys)] if found else np.zeros(0, np.float32)

    def every(self) -> Values:
        """The number of every two nodes, a matrix."""
        found = [[self._compare(x, y) for y in self._theirs] for x in self._ours]
        small = np.array(found, np.float32).reshape(len(self._ours), len(self._theirs))
        return small[np.ix_(self.rows, self.columns)]


def shapes(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> float:
    """How alike two multisets of dimensions are: 1 for equal ones, 0.5 for as many elements, 0 for others."""
    if a is None or b is None:
        return 0.5
    if a == b:
        return 1.0
    if math.prod(a) == math.prod(b):
        return 0.5
    # Another padding or rounding of a stride changes lengths a little; another width changes them a lot.
    if len(a) == len(b) and all(abs(x - y) <= max(2, 0.1 * max(x, y)) for x, y in zip(a, b, strict=True)):
        return 0.4
    return 0.0


def params(a: tuple[tuple[int, ...], ...], b: tuple[tuple[int, ...], ...]) -> float:
    """How alike the shapes of two layers' parameters are, up to the order of axes; 0 if one has none."""
    if a == b:
        return 1.0
    if not a or not b:
        return 0.0
    if max(a, key=len) == max(b, key=len):  # the kernels agree, a bias or statistic is missing
        return 0.8
    rest = list(b)
    common = 0
    for shape in a:
        if shape in rest:
            rest.remove(shape)
            common += 1
    return 0.7 * common / max(len(a), len(b))


def possible(
    a: Features,
    b: Features,
    extra: tuple[NDArray[Any], NDArray[Any]],
    owned: Index | None = None,
    anchors: tuple[Index, Index] | None = None,
) -> Candidates:
    """The pairs to consider: alike enough in kind, shape and parameters, and near each other.

    Args:
        extra: further ones (indices of the reference's and of the candidate's nodes), whatever they look like.
        owned: further ones that must be alike enough, a row each.
        anchors: ascending pairs that are known; of large models what stands as far between two of them is considered.
    """
    looks = [[*zip((n.kind for n in x.nodes), map(_sort, x.nodes), x.dims, x.params, strict=True)] for x in (a, b)]
    first = [{look: i for i, look in reversed([*enumerate(found)])} for found in looks]
    number = [{look: i for i, look in enumerate(found)} for found in first]
    rows_of = np.array([number[0][look] for look in looks[0]], np.intp)
    columns_of = np.array([number[1][look] for look in looks[1]], np.intp)
    fits = _fits([*first[0]], [*first[1]], shifts(a, b))
    members = [np.flatnonzero(columns_of == column) for column in range(fits.shape[1])]
    count = np.array([len(m) for m in members])
    total = int((fits[rows_of] @ count).sum()) if len(count) else 0
    keys = [np.asarray(extra[0], np.intp) * len(b.nodes) + np.asarray(extra[1], np.intp)]
    for look in range(fits.shape[0]):
        rows = np.flatnonzero(rows_of == look)
        found = [members[column] for column in np.flatnonzero(fits[look])]
        if not found:
            continue
        cols = np.concatenate(found)
        if total <= EVERY or len(cols) <= 2 * NEAR:
            keys.append((rows[:, None] * len(b.nodes) + cols[None, :]).reshape(-1))
            continue
        for ours, theirs in ((a.depth_in, b.depth_in), (a.depth_out, b.depth_out)):
            depth = np.array(theirs)[cols]
            order = np.lexsort((cols, depth))
            own = np.array(ours)[rows]
            low, high = (np.searchsorted(depth[order], own, end) for end in ("left", "right"))
            # Many at one depth (parallel branches, operations without weights) stand in the order in which they run.
            place = (low + (high - low) * _ranks(own)).astype(np.intp)
            near = np.clip(place[:, None] + np.arange(-NEAR, NEAR)[None, :], 0, len(cols) - 1)
            keys.append((rows[:, None] * len(b.nodes) + cols[order][near]).reshape(-1))
        if anchors is not None and len(anchors[0]) > 2:
            standing = np.sort(cols)
            place = np.searchsorted(standing, np.interp(rows, *anchors))
            near = np.clip(place[:, None] + np.arange(-AROUND, AROUND)[None, :], 0, len(cols) - 1)
            keys.append((rows[:, None] * len(b.nodes) + standing[near]).reshape(-1))
    if owned is not None and len(owned):
        alike = owned[fits[rows_of[owned[:, 0]], columns_of[owned[:, 1]]]]
        keys.append(alike[:, 0] * len(b.nodes) + alike[:, 1])
    flat = np.sort(np.concatenate(keys))
    flat = flat[np.flatnonzero(np.diff(flat, prepend=-1))]  # np.unique hashes, which takes forty times as long
    return Candidates(flat // max(1, len(b.nodes)), flat % max(1, len(b.nodes)), (len(a.nodes), len(b.nodes)))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Where each entry stands among those equal to it, between 0 and 1."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    low, high = (np.searchsorted(ranked, values, end) for end in ("left", "right"))
    place = np.empty(len(values), np.intp)
    place[order] = np.arange(len(values))
    return np.asarray((place - low + 0.5) / (high - low))


_Look = tuple[str, tuple[bool, bool | None], Any, Any]


def _sort(node: Node) -> tuple[bool, bool | None]:
    """Whether a node is an input, and whether it gives complex numbers (None: not known), for which another framework
    has two tensors."""
    return node.role == "input", None if node.dtype is None else node.dtype.startswith("complex")


def _same_sort(one: tuple[bool, bool | None], other: tuple[bool, bool | None]) -> bool:
    return one[0] == other[0] and (one[1] == other[1] or None in (one[1], other[1]))


def _fits(a: list[_Look], b: list[_Look], moved: dict[int, frozenset[int]]) -> NDArray[np.bool_]:
    """Whether nodes that look so can be a pair at all."""
    kind = Table([x[0] for x in a], [x[0] for x in b], kinds.similarity).every() > 0
    role = Table([x[1] for x in a], [x[1] for x in b], _same_sort).every() > 0
    shape = Sizes([x[2] for x in a], [x[2] for x in b], moved).every() > 0
    parameters = shared([x[3] for x in a], [x[3] for x in b]) > 0
    # A constant that is added is a parameter to one framework and none to the other.
    bare = np.logical_or.outer(np.array([not x[3] for x in a], bool), np.array([not x[3] for x in b], bool))
    return np.asarray(kind & role & shape & (parameters | bare))
