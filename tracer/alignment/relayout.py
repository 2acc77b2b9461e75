"""Reading a parameter into the common layout in which two frameworks' weights can be compared.

The common layout is: kernels (spatial…, in, out) without spatial axes of length one, depthwise ones (spatial…,
channel·multiplier), vectors without axes of length one, LSTM gates i,f,g,o and GRU gates r,z,n side by side in the last
axis, the biases of a cell added up where they are only ever added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.arrange import Runs

Step = tuple[str | int, ...]
"""One of ``("move", axes…)``, ``("shape", lengths…)``, ``("part", axis, index, count)``,
``("cut", axis, start, stop)``, ``("blocks", axis, order…)``, ``("runs", axis, count, lengths…, order…)``,
``("fold",)``, which adds up along the first axis, ``("sum",)``, ``("join", axis, counts…)``, which puts so many arrays
each side by side, and ``("normed", axes…)``, which makes one kernel of a direction and its lengths along these axes
(weight normalisation); all but the last three work on each array by itself."""
Steps = tuple[Step, ...]


def read(steps: Steps, arrays: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Arrays of parameters in the common layout. Raises ValueError when a step does not fit."""
    found = list(arrays)
    for name, *numbers in steps:
        values = [int(n) for n in numbers]
        if name == "sum":
            found = [np.sum([a.astype(np.float64) for a in found], axis=0)] if len(found) > 1 else found
        elif name == "fold":
            found = [a.astype(np.float64).sum(axis=0) for a in found]
        elif name == "normed":
            direction, given = found
            found = [_normed(direction, given, values)]
        elif name == "move":
            found = [a.transpose(values) for a in found]
        elif name == "shape":
            found = [a.reshape(values) for a in found]
        elif name == "part":
            axis, index, count = values
            found = [np.split(a, count, axis)[index] for a in found]
        elif name == "cut":
            axis, start, stop = values
            found = [np.split(a, (start, stop), axis)[1] for a in found]
        elif name == "join":
            axis, *counts = values
            ends = np.cumsum(counts)
            found = [np.concatenate(found[n - count : n], axis) for n, count in zip(ends, counts, strict=True)]
        elif name == "runs":
            axis, count, *rest = values
            cuts = np.cumsum(rest[:count])[:-1]
            found = [np.concatenate([np.split(a, cuts, axis)[i] for i in rest[count:]], axis) for a in found]
        elif name == "blocks":
            axis, *order = values
            found = [np.concatenate([np.split(a, len(order), axis)[i] for i in order], axis) for a in found]
        else:
            raise ValueError(f"unknown step {name!r}")
    return found


def write(steps: Steps, arrays: Sequence[NDArray[Any]], values: Iterable[NDArray[Any]]) -> None:
    """The inverse of :func:`read`: fill ``arrays``, in place, so that reading them gives ``values``.

    Of several that are added up the first takes all and the others become zero; a direction takes the whole kernel, and
    its lengths are those of that; what the steps leave out (the other parts) stays as it is. Raises ValueError when a
    step does not fit or the sizes differ.
    """
    starts = np.cumsum([0, *(a.size for a in arrays)])
    places = [np.arange(n, n + a.size).reshape(a.shape) for n, a in zip(starts[:-1], arrays, strict=True)]
    emptied: list[NDArray[Any]] = []
    measured: list[tuple[NDArray[Any], NDArray[Any], list[int]]] = []
    for step in steps:
        if step[0] == "sum":
            emptied += places[1:]
            places = places[:1]
        elif step[0] == "fold":
            emptied += [p[1:] for p in places]
            places = [p[0] for p in places]
        elif step[0] == "normed":
            measured.append((places[0], places[1], [int(n) for n in step[1:]]))
            places = places[:1]
        else:
            places = read((step,), places)
    flat = np.concatenate([a.reshape(-1) for a in arrays])
    for unused in emptied:
        flat[unused.reshape(-1)] = 0
    where = np.concatenate([p.reshape(-1) for p in places])
    given = np.concatenate([v.reshape(-1) for v in values])
    if where.size != given.size:
        raise ValueError(f"{given.size} values for {where.size} places")
    flat[where] = given
    for direction, given_lengths, kept in measured:
        flat[given_lengths.reshape(-1)] = lengths_of(flat[direction], kept).reshape(-1)
    for n, a in zip(starts[:-1], arrays, strict=True):
        a[...] = flat[n : n + a.size].reshape(a.shape)


def lengths_of(direction: NDArray[Any], kept: Sequence[int]) -> NDArray[Any]:
    """The lengths (Euclid's) of a kernel over all axes but those ``kept``, which are all that is left."""
    wide = np.abs(direction).astype(np.float64)
    return np.asarray(np.sqrt((wide * wide).sum(axis=_other(wide.ndim, kept))))


def _normed(direction: NDArray[Any], given: NDArray[Any], kept: Sequence[int]) -> NDArray[Any]:
    own = lengths_of(direction, kept)
    scale = np.divide(given.reshape(own.shape), own, out=np.zeros_like(own), where=own > 0)
    return np.asarray(direction.astype(np.float64) * np.expand_dims(scale, _other(direction.ndim, kept)))


def _other(rank: int, kept: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis not in kept)


def rows(
    axis: int, shape: Sequence[int], lengths: Sequence[int], order: Sequence[int], runs: tuple[int, Runs] | None = None
) -> Steps:
    """Steps that put the elements along ``axis`` of an array of ``shape``, flattened from ``lengths``, in another
    order of these axes; ``runs`` are those of one of them that stand in another order themselves."""
    before, after = shape[:axis], shape[axis + 1 :]
    rank = len(lengths)
    moved = (*range(axis), *(axis + o for o in order), *range(axis + rank, axis + rank + len(after)))
    turned = () if runs is None else in_runs(axis + runs[0], runs[1])
    return (
        ("shape", *before, *lengths, *after),
        *turned,
        ("move", *moved),
        ("shape", *before, math.prod(lengths), *after),
    )


def in_runs(axis: int, runs: Runs) -> Steps:
    """The step that puts the reference's runs along ``axis`` in the candidate's order."""
    return (("runs", axis, len(runs.lengths), *runs.lengths, *runs.order),)
