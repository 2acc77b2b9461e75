"""Weights that are the same on both sides, however each framework lays them out.

A conversion copies: it transposes, flattens, re-orders gates, puts tensors side by side. None of this changes which
values there are, so a few numbers that do not depend on the order of the elements (:mod:`tracer.store.summary`, kept
with every recorded weight) tell whether two tensors hold the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.features import Features
from tracer.alignment.owned import WHOLE, Key, keys
from tracer.errors import TraceError
from tracer.store import Recording
from tracer.store.summary import summarize

if TYPE_CHECKING:
    from typing import Self

CLOSE = 1e-5
"""Difference, relative to the tensor's root mean square, under which two numbers are taken for the same."""
NEAR = 0.03
"""Difference, relative to that of tensors drawn anew, under which weights are rounded or hardly trained copies."""
ALONE = 10.0
"""How many times nearer than any other of their size such weights must be."""
MOST_TWINS = 32
"""A tensor with more twins than this is no evidence for any of them."""
PARTS = (2, 3, 4)
"""How many tensors of one shape another framework may keep as one: keys and values, queries too, four gates."""
EQUAL_SHARE = 0.5
"""Share of the weighted layers with an equal twin above which the second side has the first's weights."""

_FEWEST = 4
"""Of fewer elements the order-free numbers are too often alike by chance."""
_MOST_CELLS = 1 << 20
_SPAN = 4000.0
"""More than the logarithms of two float64 can differ."""
_NAMES = ("size", "min", "max", "mean", "rms", "cube")
Sketch = tuple[float, float, float, float, float, float]
"""Size, minimum, maximum, mean, root mean square and mean cube."""
Table = NDArray[np.float64]
"""Sketches, a row each."""


def sketch(values: NDArray[Any]) -> Sketch | None:
    """The numbers of a tensor that survive every re-arrangement; None where they say nothing: :func:`of_summary`."""
    return None if values.dtype.name in WHOLE else of_summary(summarize(values))


def of_summary(summary: Mapping[str, float | int]) -> Sketch | None:
    """The sketch in a stored summary.

    None for constants (biases that are all zero, scales that are all one: every untrained layer has them), for tensors
    of fewer than two elements and for those with NaN or Inf.
    """
    found = tuple(float(summary.get(name, math.nan)) for name in _NAMES)
    usable = all(map(math.isfinite, found)) and found[0] > 1 and found[1] != found[2] and found[4] > 0
    broken = summary.get("nan", 0) or summary.get("inf", 0)
    return (found[0], found[1], found[2], found[3], found[4], found[5]) if usable and not broken else None


@dataclass(frozen=True)
class Weights:
    """What is known of a recording's weights without reading them again.

    Attributes:
        sketches: those that say something; see :func:`of_summary`.
        shapes: of all of them.
        whole: those of whole numbers.
        read: gives the values of one that is in ``shapes``. Raises TraceError where they are damaged.
    """

    sketches: Mapping[Key, Sketch]
    shapes: Mapping[Key, tuple[int, ...]]
    whole: frozenset[Key] = frozenset()
    read: Callable[[Key], NDArray[Any]] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, recording: Recording) -> Self:
        """From what is stored; weights of traces that keep no summaries of them are read."""
        sketches: dict[Key, Sketch] = {}
        whole: set[Key] = set()
        for key, stored in recording.weights.items():
            if stored.dtype in WHOLE:
                whole.add(key)
                continue
            try:
                found = of_summary(stored.summary or summarize(recording.read_stored(stored, verify=False)))
            except TraceError:
                continue  # said where the trace is checked
            if found is not None:
                sketches[key] = found
        shapes = {key: stored.shape for key, stored in recording.weights.items()}
        return cls(
            sketches, shapes, frozenset(whole), lambda key: recording.read_stored(recording.weights[key], verify=False)
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[Key, NDArray[Any]]) -> Self:
        """From the values themselves."""
        found = {key: sketch(values) for key, values in arrays.items()}
        return cls(
            {key: value for key, value in found.items() if value is not None},
            {key: values.shape for key, values in arrays.items()},
            frozenset(key for key, values in arrays.items() if values.dtype.name in WHOLE),
            arrays.__getitem__,
        )

    def __bool__(self) -> bool:
        return bool(self.shapes)


def equal(ours: Table, theirs: Table, close: float = CLOSE) -> list[tuple[int, int]]:
    """All pairs of rows that are sketches of the same values; rows with too many twins have none.

    Candidates come from sorting by size and range, so that many against many costs n·log n and not n².
    """
    if not len(ours) or not len(theirs):
        return []
    # Sizes and ranges in one ascending number (log keeps a relative tolerance the same everywhere); the range tells
    # more tensors apart than the magnitude, which initialisers fix.
    sizes = np.unique(np.concatenate([ours[:, 0], theirs[:, 0]]))
    mine, other = (
        np.searchsorted(sizes, rows[:, 0]) * _SPAN + np.log(rows[:, 2] - rows[:, 1]) for rows in (ours, theirs)
    )
    order = np.argsort(other)
    ranked, other = theirs[order], other[order]
    slack = 2 * close + 1e-12 * np.abs(mine)
    low = np.searchsorted(other, mine - slack, "left")
    high = np.searchsorted(other, mine + slack, "right")
    count = np.where(high - low <= 16 * MOST_TWINS, high - low, 0)
    rows = np.repeat(np.arange(len(ours)), count)
    columns = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(low, count)
    a, b = ours[rows], ranked[columns]
    scale = np.maximum(a[:, 4], b[:, 4])
    with np.errstate(over="ignore", invalid="ignore"):
        apart = np.abs(a[:, 1:5] - b[:, 1:5]).max(axis=1, initial=0) / scale
        # The largest value bounds what rounding does to a sum of cubes.
        cubes = np.abs(a[:, 5] - b[:, 5]) / (scale**2 * np.maximum(np.abs(a[:, 1:3]).max(axis=1, initial=0), scale))
    same = (a[:, 0] == b[:, 0]) & (apart <= close) & (cubes <= close)
    rows, columns = rows[same], order[columns[same]]
    often = np.bincount(rows, minlength=len(ours)) > MOST_TWINS
    keep = ~often[rows]
    return list(zip(rows[keep].tolist(), columns[keep].tolist(), strict=True))


def near(ours: Table, theirs: Table) -> list[tuple[int, int]]:
    """Pairs of rows that are sketches of nearly the same values: each other's nearest by far, a row at most once.

    Rounding each element moves mean, deviation and skew by a small share of what they vary by between tensors that are
    drawn anew, which falls with the number of elements: measured against that, tensors of all sizes are alike.
    """
    found: list[tuple[int, int]] = []
    for size in np.intersect1d(ours[:, 0], theirs[:, 0]):
        rows, columns = np.flatnonzero(ours[:, 0] == size), np.flatnonzero(theirs[:, 0] == size)
        if size < _FEWEST or len(rows) * len(columns) > _MOST_CELLS:
            continue
        apart = _apart(ours[rows], theirs[columns])
        for r, c in enumerate(apart.argmin(axis=1).tolist()):
            least = apart[r, c]
            if least > NEAR:
                continue
            others = np.append(np.delete(apart[r], c), np.delete(apart[:, c], r))
            if others.min(initial=math.inf) >= ALONE * least:
                found.append((int(rows[r]), int(columns[c])))
    return found


def _apart(ours: Table, theirs: Table) -> Table:
    """How far sketches of one size are apart, 1 for what tensors drawn anew differ by; a row against every column."""
    with np.errstate(all="ignore"):
        (means, spreads, skews), (others, wide, askew) = map(_central, (ours, theirs))
        scale = np.maximum(spreads[:, None], wide)
        chance = math.sqrt(2 / ours[0, 0])
        parts = [
            np.abs(means[:, None] - others) / (scale * chance),
            np.abs(spreads[:, None] - wide) / (scale * chance / math.sqrt(2)),
            np.abs(skews[:, None] - askew) / (scale**3 * chance * math.sqrt(6)),
        ]
        for end in (1, 2):
            one, other = ours[:, end][:, None], theirs[:, end]
            parts.append(np.abs(one - other) / np.maximum(np.abs(one), np.abs(other)))
        found: Table = np.max(parts, axis=0)
    return np.where(np.isfinite(found), found, np.inf)


def _central(rows: Table) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, standard deviation and third central moment."""
    mean, square, cube = rows[:, 3], rows[:, 4] ** 2, rows[:, 5]
    return mean, np.sqrt(np.maximum(square - mean**2, 0)), cube - 3 * mean * square + 2 * mean**3


@dataclass(frozen=True)
class Twins:
    """Weights with equal values, tensor by tensor.

    Attributes:
        one: for each of the reference's weights the candidate's that hold the same values, or nearly the same (rounded
            to half precision, trained on) where no others come near.
        joined: the candidate's weights that hold the values of several of the reference's side by side, with those.
        split: the reference's weights that hold the values of several of the candidate's, with those.
    """

    one: Mapping[Key, tuple[Key, ...]]
    joined: Mapping[Key, tuple[tuple[Key, ...], ...]]
    split: Mapping[Key, tuple[tuple[Key, ...], ...]]

    @cached_property
    def wholes(self) -> Mapping[Key, tuple[Key, ...]]:
        """``joined`` by the reference's weights that are side by side there."""
        found: dict[Key, list[Key]] = {}
        for whole, runs in self.joined.items():
            for part in dict.fromkeys(part for run in runs for part in run):
                found.setdefault(part, []).append(whole)
        return {key: tuple(values) for key, values in found.items()}


def twins(a: Weights, b: Weights) -> Twins:
    """Which weights of ``a`` and ``b`` hold the same values, singly or several side by side."""
    ours, theirs = tuple(a.sketches), tuple(b.sketches)
    one: dict[Key, list[Key]] = {}
    for i, j in equal(_table(a, ours), _table(b, theirs)):
        one.setdefault(ours[i], []).append(theirs[j])
    matched = {key for found in one.values() for key in found}
    lone_a = tuple(key for key in ours if key not in one)
    lone_b = tuple(key for key in theirs if key not in matched)
    joined, split = _joined(a, lone_a, b, lone_b), _joined(b, lone_b, a, lone_a)
    taken = [
        wholes.keys() | {key for runs in parts.values() for run in runs for key in run}
        for parts, wholes in ((joined, split), (split, joined))
    ]
    lone_a = tuple(key for key in lone_a if key not in taken[0])
    lone_b = tuple(key for key in lone_b if key not in taken[1])
    for i, j in near(_table(a, lone_a), _table(b, lone_b)):
        one[lone_a[i]] = [lone_b[j]]
    return Twins({key: tuple(found) for key, found in one.items()}, joined, split)


def _joined(
    parts: Weights, loose: Sequence[Key], wholes: Weights, wanted: Sequence[Key]
) -> dict[Key, tuple[tuple[Key, ...], ...]]:
    """For each wanted whole the runs of loose tensors, of one shape and next to each other, that make it up."""
    by_shape: dict[tuple[int, ...], list[Key]] = {}
    for key in loose:
        by_shape.setdefault(parts.shapes[key], []).append(key)
    sizes = {wholes.sketches[key][0] for key in wanted}
    runs: list[tuple[Key, ...]] = []
    rows: list[Sketch] = []
    for same in by_shape.values():
        table = _table(parts, same)
        for count in PARTS:
            if len(same) < count or count * table[0, 0] not in sizes:
                continue
            for start in range(len(same) - count + 1):
                runs.append(tuple(same[start : start + count]))
                rows.append(_together(table[start : start + count]))
    found: dict[Key, list[tuple[Key, ...]]] = {}
    for i, j in equal(_table(wholes, wanted), np.array(rows, np.float64).reshape(-1, 6)):
        found.setdefault(wanted[i], []).append(runs[j])
    return {key: tuple(values) for key, values in found.items()}


def _together(rows: Table) -> Sketch:
    """The sketch of tensors of one size put side by side."""
    size = float(rows[:, 0].sum())
    mean, cube = float(rows[:, 3].mean()), float(rows[:, 5].mean())
    rms = math.sqrt(float((rows[:, 4] ** 2).mean()))
    return size, float(rows[:, 1].min()), float(rows[:, 2].max()), mean, rms, cube


def _table(weights: Weights, chosen: Iterable[Key]) -> Table:
    return np.array([weights.sketches[key] for key in chosen], np.float64).reshape(-1, 6)


@dataclass(frozen=True)
class Evidence:
    """What equal weights say about nodes.

    Attributes:
        found: reference index, candidate index and score: 1 where all informative weights of the two are the same,
            less where they share a part.
        known: indices on either side of nodes with informative weights; of the others nothing is known.
        share: of the reference's known nodes, those with an equal twin anywhere (their largest weight counts).
        twins: the same, tensor by tensor.
    """

    found: tuple[tuple[int, int, float], ...]
    known: tuple[frozenset[int], frozenset[int]]
    share: float
    twins: Twins

    @property
    def related(self) -> bool:
        """Whether the second side has the first's weights, but for a defect."""
        return self.share >= EQUAL_SHARE

    @cached_property
    def scores(self) -> dict[tuple[int, int], float]:
        return {(i, j): score for i, j, score in self.found}


def evidence(a: Features, b: Features, weights_a: Weights, weights_b: Weights) -> Evidence:
    """Which nodes have the same weights. Layers that share weights, or have copies of them, are all named."""
    same = twins(weights_a, weights_b)
    ours, theirs = keys(a.nodes), keys(b.nodes)
    sizes = [_informative(used, weights) for used, weights in ((ours, weights_a), (theirs, weights_b))]
    users: dict[Key, list[int]] = {}
    for j, used in enumerate(theirs):
        for key in used:
            users.setdefault(key, []).append(j)
    links: dict[Key, list[tuple[Key, float]]] = {}
    for mine, found in same.one.items():
        links.setdefault(mine, []).extend((other, weights_a.sketches[mine][0]) for other in found)
    for other, runs in same.joined.items():
        for mine in {key for run in runs for key in run}:
            links.setdefault(mine, []).append((other, weights_a.sketches[mine][0]))
    for mine, runs in same.split.items():
        for other in {key for run in runs for key in run}:
            links.setdefault(mine, []).append((other, weights_b.sketches[other][0]))
    scores: list[tuple[int, int, float]] = []
    matched = 0
    for i, used in enumerate(ours):
        if not sizes[0][i]:
            continue
        shared: dict[int, dict[Key, float]] = {}
        for key in used:
            for other, amount in links.get(key, ()):
                for j in users.get(other, ()):
                    shared.setdefault(j, {}).setdefault(other, 0.0)
                    shared[j][other] += amount
        largest = max((key for key in used if key in weights_a.sketches), key=lambda k: weights_a.sketches[k][0])
        matched += bool(links.get(largest))
        for j, parts in shared.items():
            if sizes[1][j]:
                common = 2 * sum(parts.values()) / (sizes[0][i] + sizes[1][j])
                scores.append((i, j, min(1.0, common)))
    known = frozenset(i for i, size in enumerate(sizes[0]) if size), frozenset(j for j, s in enumerate(sizes[1]) if s)
    return Evidence(tuple(scores), known, matched / len(known[0]) if known[0] else 0.0, same)


def _informative(used: Sequence[tuple[Key, ...]], weights: Weights) -> list[float]:
    """Elements that say something, for each node; recurrent layers' biases are merged or not, so they never do."""
    out = []
    for found in used:
        recurrent = any("recurrent" in name or "weight_hh" in name for _, name in found)
        out.append(
            sum(
                weights.sketches[key][0]
                for key in found
                if key in weights.sketches and not (recurrent and "bias" in key[1])
            )
        )
    return out
