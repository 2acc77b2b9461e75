"""Outputs whose axes stand in an order that is no layout of the reference's: rows for columns, say.

Two tensors are compared with their axes moved, for frameworks lay them out each in its own way. Inside a model the next
layer puts an order right or shows that it is wrong; behind an output there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from tracer import dtypes
from tracer.alignment.outputs import chain
from tracer.compare.pair import PairDiff
from tracer.errors import TraceError
from tracer.graph import Structure
from tracer.store import Recording

Axes = tuple[int, ...]

_RANKS = (2, 4, 5)
"""Axes that an output must have: of three, steps and channels may stand in either order."""
_ROUNDOFFS = 512.0
"""Of the largest value, by which outputs may be apart that count as the same."""


def turned(pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> dict[int, tuple[str, Axes]]:
    """By the index of a pair: the candidate's output and the order in which its axes are the reference's.

    Outputs that cannot be read are passed over.
    """
    ours, theirs = reference.structure, candidate.structure
    if len(ours.outputs) != len(theirs.outputs):
        return {}
    index = {pair.node.name: at for at, pair in enumerate(pairs) if "output" not in pair.pair.evidence}
    found = {}
    for first, second in zip(ours.outputs, theirs.outputs, strict=True):
        at = next((index[name] for name in chain(ours, first) if name in index), None)
        if at is None or _plain(pairs[at], first, second, ours, theirs):
            continue
        axes = _order(reference, first, candidate, second, dtypes.epsilon(pairs[at].coarsest))
        if axes is not None:
            found[at] = second, axes
    return found


def _plain(pair: PairDiff, first: str, second: str, ours: Structure, theirs: Structure) -> bool:
    """Whether a pair's own axes say that two outputs differ by their layout, or a mapping file."""
    shape = ours.by_name[first].shape
    if shape is None or len(shape) not in _RANKS or "mapping" in pair.pair.evidence:
        return True
    direct = pair.node.name == first and pair.candidate_node.name == second
    return direct and pair.pair.axes in (*layouts(len(shape)), None)


def _order(reference: Recording, first: str, candidate: Recording, second: str, roundoff: float) -> Axes | None:
    try:
        one, other = dtypes.as_float64(reference.read(first)), dtypes.as_float64(candidate.read(second))
    except (TraceError, KeyError, ValueError):
        return None
    if one.ndim != other.ndim or not one.size:
        return None
    bar = _ROUNDOFFS * roundoff * float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))

    def alike(axes: Axes) -> bool:
        moved = other.transpose(axes)
        return moved.shape == one.shape and np.allclose(moved, one, rtol=0, atol=bar, equal_nan=True)

    if any(map(alike, layouts(one.ndim))):
        return None
    return next(filter(alike, permutations(range(one.ndim))), None)


def layouts(rank: int) -> Iterator[Axes]:
    """Orders of axes that differ by where the channels stand: as they are, last, or behind the batch."""
    yield from (tuple(range(rank)), (0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1)))
