"""Which axis of the candidate's tensor is which of the reference's.

Axes are written as one entry per reference axis: the candidate axis it is, or None for an axis of length one that the
candidate lacks. Candidate axes that are not listed have length one and are dropped. Axes that are products of others
are the matter of :mod:`tracer.alignment.arrange`; :mod:`tracer.alignment.orient` finds both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.arrange import Rearrangement, bijections

Axes = tuple[int | None, ...]
MOST = 720
"""Orders that are told apart; of more (six equal lengths and above) the most natural ones and the first others."""


def apply(values: NDArray[Any], axes: Axes) -> NDArray[Any]:
    """The candidate's tensor in the reference's axes, as a view. Raises ValueError when the axes do not fit."""
    kept = [a for a in axes if a is not None]
    dropped = [a for a in range(values.ndim) if a not in kept]
    if len(set(kept)) != len(kept) or any(
        a >= values.ndim or values.shape[a] != 1 for a in (*dropped,) if a < values.ndim
    ):
        raise ValueError(f"axes {axes} do not fit shape {values.shape}")
    moved = values.transpose([*kept, *dropped]).reshape([values.shape[a] for a in kept])
    for position, axis in enumerate(axes):
        if axis is None:
            moved = np.expand_dims(moved, position)
    return moved


def possible(reference: Sequence[int], candidate: Sequence[int]) -> list[Axes]:
    """All axes under which the candidate's shape becomes the reference's; most natural first.

    The order is: axis 0, the batch, where it was; then nothing moved, channels moved between last and second with the
    others in order, everything else by how little it moves. Axes of length one keep their order: it is the same tensor.
    """
    return list(_possible(tuple(reference), tuple(candidate)))


@lru_cache(maxsize=8192)
def _possible(reference: tuple[int, ...], candidate: tuple[int, ...]) -> tuple[Axes, ...]:
    if len(reference) == len(candidate):
        ours, theirs = list(range(len(reference))), list(range(len(candidate)))
    else:
        ours = [i for i, length in enumerate(reference) if length != 1]
        theirs = [i for i, length in enumerate(candidate) if length != 1]
    lengths, others = [reference[i] for i in ours], [candidate[j] for j in theirs]
    if sorted(lengths) != sorted(others):
        return ()
    found: dict[Axes, None] = {}
    for order in (*_natural(lengths, others), *islice(bijections(lengths, others, MOST), MOST)):
        axes: list[int | None] = [None] * len(reference)
        for i, place in zip(ours, order, strict=True):
            axes[i] = theirs[place]
        found[tuple(axes)] = None
    straight = [axes for axes in found if _ones_in_order(axes, reference)]
    return tuple(sorted(straight, key=_moved)[:MOST])


def _natural(ours: Sequence[int], theirs: Sequence[int]) -> Iterator[tuple[int, ...]]:
    rank = len(ours)
    orders = [tuple(range(rank))]
    if rank > 2:
        orders += [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1)), (1, 0, *range(2, rank))]
    yield from (o for o in orders if all(a == theirs[j] for a, j in zip(ours, o, strict=True)))


def _ones_in_order(axes: Axes, reference: Sequence[int]) -> bool:
    ones = [axis for axis, length in zip(axes, reference, strict=True) if length == 1 and axis is not None]
    return ones == sorted(ones)


def _moved(axes: Axes) -> tuple[bool, int, int]:
    order = [a for a in axes if a is not None]
    inversions = sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order)))
    rank = len(order)
    straight = order == sorted(order)
    layouts = ([0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]) if rank > 2 else ()
    return bool(order) and order[0] != min(order), 0 if straight else 1 if order in layouts else 2, inversions


def preferred(options: Sequence[Axes], inherited: Axes | None, layouts: tuple[str | None, str | None]) -> Axes:
    """The likeliest of ``options`` without looking at values.

    A parent's axes of the same rank go first; else what the layers' own layouts say; else the first option.
    """
    if inherited is not None and inherited in options:
        return inherited
    ours, theirs = layouts
    rank = len(options[0])
    if rank > 2 and ours == "channels_last" and theirs == "channels_first":
        wanted: Axes = (0, *range(2, rank), 1)
    elif rank > 2 and ours == "channels_first" and theirs == "channels_last":
        wanted = (0, rank - 1, *range(1, rank - 1))
    else:
        return options[0]
    return wanted if wanted in options else options[0]


def describe(axes: Axes | None, rank: int, arrangement: Rearrangement | None = None, *, ambiguous: bool = False) -> str:
    """Axes as people write them: ``NWC→NCW`` for a channel move, ``=`` for none, else the permutation.

    A rearrangement is written out where axes alone do not say it; a question mark says that others are as likely.
    """
    if arrangement is not None:
        return f"{arrangement}{'?' * ambiguous}"
    if axes is None:
        return "?"
    return _text(axes, rank) + "?" * ambiguous


def _text(axes: Axes, rank: int) -> str:
    order = [a for a in axes if a is not None]
    if axes == tuple(range(rank)):
        return "="
    letters = {3: "W", 4: "HW", 5: "DHW"}.get(rank)
    if letters and order == [0, *range(2, rank), 1]:
        return f"N{letters}C→NC{letters}"
    if letters and order == [0, rank - 1, *range(1, rank - 1)]:
        return f"NC{letters}→N{letters}C"
    return "(" + ",".join("·" if a is None else str(a) for a in axes) + ")"
