"""How well each reference node fits each candidate node: local evidence, then the graph around it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.alignment.features import Features, agreement, moments

Matrix = NDArray[np.float32]
_Feature = TypeVar("_Feature", bound=Hashable)

ROUNDS = 8
"""Rounds of propagation; each carries evidence one layer further."""


def _table(a: Sequence[_Feature], b: Sequence[_Feature], compare: Callable[[_Feature, _Feature], float]) -> Matrix:
    """``compare`` of every pair, evaluated once for each pair of distinct values."""
    rows = {value: i for i, value in enumerate(dict.fromkeys(a))}
    columns = {value: i for i, value in enumerate(dict.fromkeys(b))}
    small = np.array([[compare(x, y) for y in columns] for x in rows], np.float32).reshape(len(rows), len(columns))
    return small[np.ix_([rows[x] for x in a], [columns[y] for y in b])]


def shapes(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> float:
    if a is None or b is None:
        return 0.5
    if a == b:
        return 1.0
    if np.prod(a, dtype=np.float64) == np.prod(b, dtype=np.float64):
        return 0.5
    # Another padding or rounding of a stride changes lengths a little; another width changes them a lot.
    if len(a) == len(b) and all(abs(x - y) <= max(2, 0.1 * max(x, y)) for x, y in zip(a, b, strict=True)):
        return 0.4
    return 0.0


def params(a: tuple[tuple[int, ...], ...], b: tuple[tuple[int, ...], ...]) -> float:
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


def local(a: Features, b: Features) -> Matrix:
    """Fitness in [0, 1] from each pair's own kind, shape, parameters and position; 0 where a pair is impossible."""
    kind = _table([n.kind for n in a.nodes], [n.kind for n in b.nodes], kinds.similarity)
    role = _table(
        [n.role == "input" for n in a.nodes], [n.role == "input" for n in b.nodes], lambda x, y: float(x == y)
    )
    shape = _table(a.dims, b.dims, shapes)
    parameters = _table(a.params, b.params, params)
    bare = _table([not p for p in a.params], [not p for p in b.params], lambda x, y: float(x and y))
    score = 0.4 * kind + 0.35 * shape + 0.25 * parameters
    score = np.where(bare > 0, (0.4 * kind + 0.35 * shape) / 0.75, score)
    score *= (kind > 0) & (role > 0) & (shape > 0) & ((bare > 0) | (parameters > 0))
    score *= 0.5 + 0.5 * _position(a, b)
    return score.astype(np.float32)


def _position(a: Features, b: Features) -> Matrix:
    """1 where both stand as many weighted layers from the input, or from the output: the better of the two, since a
    layer that only one side has disturbs only one of them."""
    from_input = np.abs(np.subtract.outer(np.array(a.depth_in), np.array(b.depth_in)))
    from_output = np.abs(np.subtract.outer(np.array(a.depth_out), np.array(b.depth_out)))
    near: Matrix = np.exp(-np.minimum(from_input, from_output) / 3.0).astype(np.float32)
    both: Matrix = np.exp(-np.maximum(from_input, from_output) / 3.0).astype(np.float32)
    return 0.8 * near + 0.2 * both


def content(a: Features, b: Features) -> Matrix:
    """Agreement of the tensors' order-free numbers, for every pair; 0 where unknown."""
    out: Matrix = np.zeros((len(a.nodes), len(b.nodes)), np.float32)
    theirs = np.array([moments(summary) for summary in b.summaries])
    for i, summary in enumerate(a.summaries):
        out[i] = np.nan_to_num(agreement(np.array(moments(summary)), theirs))
    return out


def propagate(start: Matrix, a: Features, b: Features) -> Matrix:
    """Similarity flooding: a pair is as good as its own evidence and that of its parents and children."""
    score = start
    up = (_slots(a.parents), _slots(b.parents))
    down = (_slots(a.children), _slots(b.children))
    for _ in range(ROUNDS):
        around = 0.5 * _neighbours(score, *up) + 0.5 * _neighbours(score, *down)
        score = (start * (0.4 + 0.6 * around)).astype(np.float32)
    return score


def _slots(links: Sequence[Sequence[int]], most: int = 4) -> NDArray[np.intp]:
    """Neighbour indices in fixed columns, -1 where there is none (joins of more than four are cut)."""
    out = np.full((len(links), max(1, min(most, max(map(len, links), default=1)))), -1, np.intp)
    for i, found in enumerate(links):
        for slot, index in enumerate(found[: out.shape[1]]):
            out[i, slot] = index
    return out


def _neighbours(score: Matrix, ours: NDArray[np.intp], theirs: NDArray[np.intp]) -> Matrix:
    """Mean over the neighbours of either side of their best partner among the other's; 1 where neither has any."""
    padded: NDArray[Any] = np.zeros((score.shape[0] + 1, score.shape[1] + 1), np.float32)
    padded[:-1, :-1] = score
    pairs = padded[ours[:, :, None, None], theirs[None, None, :, :]] if score.size < 40_000 else None
    if pairs is not None:
        forward = pairs.max(axis=3).sum(axis=1)
        backward = pairs.max(axis=1).sum(axis=2)
    else:
        forward = np.zeros_like(score)
        backward = np.zeros_like(score)
        for p in range(ours.shape[1]):
            best = padded[np.ix_(ours[:, p], theirs[:, 0])]
            for q in range(1, theirs.shape[1]):
                best = np.maximum(best, padded[np.ix_(ours[:, p], theirs[:, q])])
            forward += best
        for q in range(theirs.shape[1]):
            best = padded[np.ix_(ours[:, 0], theirs[:, q])]
            for p in range(1, ours.shape[1]):
                best = np.maximum(best, padded[np.ix_(ours[:, p], theirs[:, q])])
            backward += best
    have_ours = (ours >= 0).sum(axis=1)[:, None]
    have_theirs = (theirs >= 0).sum(axis=1)[None, :]
    total = have_ours + have_theirs
    return np.where(total > 0, (forward + backward) / np.maximum(total, 1), 1.0).astype(np.float32)
