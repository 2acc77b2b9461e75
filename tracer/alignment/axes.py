"""Which axis of the candidate's tensor is which of the reference's.

Axes are written as one entry per reference axis: the candidate axis it is, or None for an axis of length one that the
candidate lacks. Candidate axes that are not listed have length one and are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Axes = tuple[int | None, ...]
_MOST = 720
_SAMPLE = 1 << 18


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

    Axis 0, the batch, stays where it is if it can. The order is: nothing moved, channels moved between last and
    second with the others in order, then everything else by how little it moves.
    """
    if len(reference) == len(candidate):
        pools: list[tuple[list[int], list[int]]] = [(list(range(len(reference))), list(range(len(candidate))))]
    else:
        pools = [([i for i, d in enumerate(reference) if d != 1], [i for i, d in enumerate(candidate) if d != 1])]
    found: list[Axes] = []
    for ours, theirs in pools:
        if sorted(reference[i] for i in ours) != sorted(candidate[i] for i in theirs) or len(ours) > 8:
            continue
        pinned = bool(ours and theirs) and ours[0] == theirs[0] == 0 and reference[0] == candidate[0]
        head = [0] if pinned else []
        rest = theirs[1:] if pinned else theirs
        for count, order in enumerate(permutations(rest)):
            if count >= _MOST:
                break
            chosen = [*head, *order]
            if all(reference[i] == candidate[j] for i, j in zip(ours, chosen, strict=True)):
                axes: list[int | None] = [None] * len(reference)
                for i, j in zip(ours, chosen, strict=True):
                    axes[i] = j
                found.append(tuple(axes))
    return sorted(found, key=_moved)


def _moved(axes: Axes) -> tuple[int, int]:
    order = [a for a in axes if a is not None]
    inversions = sum(order[i] > order[j] for i in range(len(order)) for j in range(i + 1, len(order)))
    rank = len(order)
    straight = order == sorted(order)
    layouts = ([0, *range(2, rank), 1], [0, rank - 1, *range(1, rank - 1)]) if rank > 2 else ()
    return (0 if straight else 1 if order in layouts else 2, inversions)


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


def decide(
    reference: NDArray[Any], candidate: NDArray[Any], options: Sequence[Axes], prior: Axes
) -> tuple[Axes, float | None]:
    """The axes under which the values agree best, and the relative error there.

    Leaves ``prior`` only for an option whose error is at most half of the prior's: where values have diverged they
    say nothing about the axes. Looks at no more than a quarter of a million elements (whole leading slices).
    """
    if len(options) == 1:
        return options[0], None
    inner = max(1, math.prod(reference.shape[1:]))
    rows = max(1, min(len(reference), _SAMPLE // inner)) if reference.ndim else 1
    errors = {}
    for axes in options:
        moved = apply(candidate, axes)
        errors[axes] = _error(reference[:rows], moved[:rows])
    best = min(errors, key=lambda a: errors[a])
    if errors[best] < 0.5 * errors.get(prior, math.inf):
        return best, errors[best]
    return prior, errors.get(prior)


def _error(a: NDArray[Any], b: NDArray[Any]) -> float:
    x, y = a.reshape(-1)[:_SAMPLE], b.reshape(-1)[:_SAMPLE]
    with np.errstate(all="ignore"):
        x64, y64 = np.nan_to_num(x.astype(np.float64)), np.nan_to_num(y.astype(np.float64))
        scale = float(np.linalg.norm(x64))
        return float(np.linalg.norm(x64 - y64)) / scale if scale > 0 else math.inf


def describe(axes: Axes | None, rank: int) -> str:
    """Axes as people write them: ``NWC→NCW`` for a channel move, ``=`` for none, else the permutation."""
    if axes is None:
        return "?"
    order = [a for a in axes if a is not None]
    if axes == tuple(range(rank)):
        return "="
    letters = {3: "W", 4: "HW", 5: "DHW"}.get(rank)
    if letters and order == [0, *range(2, rank), 1]:
        return f"N{letters}C→NC{letters}"
    if letters and order == [0, rank - 1, *range(1, rank - 1)]:
        return f"NC{letters}→N{letters}C"
    return "(" + ",".join("·" if a is None else str(a) for a in axes) + ")"
