"""Which of several orders of a tensor's axes its values speak for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

View = Callable[[], tuple[NDArray[Any], NDArray[Any]]]
"""Both tensors with the same axes, as views; called when its turn comes."""
_SAMPLES = (1 << 14, 1 << 16)
"""Elements looked at: a few thousand tell equal tensors; where the values have diverged, more are asked."""
_ROLLS = 8


@dataclass(frozen=True)
class Heard:
    """What the values say.

    Attributes:
        best: the index of the option that they prove; None where they prove none.
        correlations: of every option, None where either tensor is constant.
        equal: options under which the tensors are the same but for rounding.
    """

    best: int | None
    correlations: tuple[float | None, ...]
    equal: tuple[int, ...] = ()


def listen(views: Sequence[View]) -> Heard:
    """Correlate both tensors under every option; which is proven needs a margin over the second best.

    Correlation survives a scale, an offset and noise several times the signal, which a defect upstream adds. How much
    of it chance gives is measured by shifting one tensor against the other along all axes: neighbouring values are
    alike, so the number of elements says nothing about that. Constant tensors prove nothing.
    """
    found: list[float | None] = []
    for most in _SAMPLES:
        found = [_correlation(*_sample(*view(), most)) for view in views]
        ranked = sorted((r, -i) for i, r in enumerate(found) if r is not None)
        if not ranked:
            break
        best, place = ranked[-1][0], -ranked[-1][1]
        others = [r for r, i in ranked[:-1]]
        second = max(others, default=-1.0)
        missing, rival = 1 - best, 1 - second
        if missing < 1e-3:
            equal = tuple(i for i, r in enumerate(found) if r is not None and 1 - r <= 4 * missing + 1e-9)
            return Heard(place if len(equal) == 1 else None, tuple(found), equal)
        chance = _chance(*_sample(*views[place](), most))
        sure = best >= max(0.1, 4 * chance) and best - second >= max(0.05, 3 * chance)
        if sure or (missing < 0.1 and rival > 10 * missing):
            return Heard(place, tuple(found))
    return Heard(None, tuple(found))


def _sample(ours: NDArray[Any], theirs: NDArray[Any], most: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same evenly spread entries of both, ``most`` at most: few along the first axes, to read few pages."""
    index: list[slice] = []
    inner = ours.size
    for length in ours.shape:
        inner //= max(1, length)
        count = max(1, min(length, most // max(1, inner)))
        step = max(1, length // count)
        index.append(slice((length - 1 - (count - 1) * step) // 2, None, step))
        most //= count
        most = max(1, most)
    place = tuple(index)
    return ours[place], theirs[place]


def _centred(values: NDArray[Any]) -> NDArray[np.float64] | None:
    """Mean removed, norm one; None for a constant. What is not finite counts as the mean."""
    with np.errstate(all="ignore"):
        real = np.abs(values) if values.dtype.kind == "c" else values
        x: NDArray[np.float64] = real.astype(np.float64)
        finite = np.isfinite(x)
        if not finite.all():
            x = np.where(finite, x, x[finite].mean() if finite.any() else 0.0)
        x -= x.mean()
        norm = math.sqrt(float((x * x).sum()))  # BLAS would start threads for it
        if not math.isfinite(norm) or norm <= 1e-12 * math.sqrt(x.size) or not x.size:
            return None
        return x / norm


def _correlation(ours: NDArray[Any], theirs: NDArray[Any]) -> float | None:
    x, y = _centred(ours), _centred(theirs)
    return None if x is None or y is None else float((x * y).sum())


def _chance(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Root mean square of the correlation of tensors shifted against each other."""
    x, y = _centred(ours), _centred(theirs)
    if x is None or y is None:
        return 1.0
    rng = np.random.default_rng(0)
    long = [k for k, length in enumerate(x.shape) if length > 1]
    found = []
    for _ in range(_ROLLS):
        shift = [int(rng.integers(1, x.shape[k])) for k in long]
        found.append(float((x * np.roll(y, shift, axis=long)).sum()) ** 2)
    return math.sqrt(sum(found) / len(found)) if long else 1.0
