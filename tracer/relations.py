"""What one array is of another: a permutation, a transpose, a multiple, a rounding, or nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes

Array = NDArray[Any]

SAME = 2e-6
"""Arrays that agree to this part of the largest are the same: a conversion may have rounded them."""
_LONGEST = 6
"""Axes of which all orders are tried."""
_PORTION = 1 << 13
"""Elements that are worked on at a time: what is made on the way stays in the cache, however large the arrays, and no
product is so large that OpenBLAS starts threads for it."""


def portions(shape: Sequence[int], most: int = _PORTION) -> Iterator[tuple[slice | int, ...]]:
    """Indices of pieces of about ``most`` elements that together are an array of this shape."""
    split, inner = len(shape), 1
    while split > 0 and inner * shape[split - 1] <= most:
        split -= 1
        inner *= shape[split]
    if not split or not math.prod(shape):
        yield ()
        return
    step = max(1, most // inner)
    for lead in np.ndindex(*shape[: split - 1]):
        for begin in range(0, shape[split - 1], step):
            yield (*lead, slice(begin, begin + step))


def _wide(values: Array) -> Array:
    return values if values.dtype == np.float64 else dtypes.as_float64(values)


def peak(values: Array) -> float:
    """The largest magnitude; NaN where there is one."""
    if not values.size:
        return 0.0
    if values.dtype.kind == "c":
        return max(float(np.abs(values[part]).max(initial=0.0)) for part in portions(values.shape))
    return float(np.maximum(abs(float(values.max())), abs(float(values.min()))))


def alike(mine: Array, its: Array, slack: float = SAME, change: Callable[[Array], Array] | None = None) -> bool:
    """Whether two arrays are equal but for rounding; ``change`` is made to mine first, element by element."""
    if mine.shape != its.shape:
        return False
    scale = max(peak(its), 0.0 if change is not None else peak(mine))
    for part in portions(mine.shape):
        a, b = _wide(mine[part]), _wide(its[part])
        a = change(a) if change is not None else a
        if not np.abs(a - b).max(initial=0.0) <= slack * scale:
            return False
    return True


def same_values(mine: Array, its: Array) -> bool:
    """Whether two arrays hold the same numbers, wherever they stand."""
    if mine.size != its.size:
        return False
    # Sums are the same in any order, and are found faster than an order.
    total = float(np.abs(mine).sum())
    if np.isfinite(total) and abs(total - float(np.abs(its).sum())) > SAME * max(total, 1e-300) * 10:
        return False
    return alike(np.sort(mine, axis=None), np.sort(its, axis=None))


def orders(shape: Sequence[int], axes: Sequence[int] | None = None) -> Iterator[tuple[int, ...]]:
    """All orders of axes other than the one they have, those first that move few of them; only ``axes`` move."""
    moving = tuple(range(len(shape))) if axes is None else tuple(axes)
    if len(moving) > _LONGEST:
        return
    found = []
    for order in itertools.permutations(moving):
        whole = list(range(len(shape)))
        for place, axis in zip(moving, order, strict=True):
            whole[place] = axis
        if whole != sorted(whole):
            found.append(tuple(whole))
    yield from sorted(found, key=lambda order: sum(a != b for a, b in enumerate(order)))


def transposed(mine: Array, its: Array) -> tuple[int, ...] | None:
    """The order of mine's axes that gives its, where there is one."""
    for order in orders(mine.shape):
        if tuple(mine.shape[axis] for axis in order) == its.shape and alike(mine.transpose(order), its):
            return order
    return None


def laid(mine: Array, its: Array) -> tuple[int, ...] | None:
    """The order of mine's axes in memory that read in its shape gives its."""
    for order in orders(mine.shape):
        if alike(mine.transpose(order).reshape(its.shape), its):
            return order
    return None


def flipped(mine: Array, its: Array, axes: Sequence[int]) -> tuple[int, ...] | None:
    """Which of ``axes`` run backwards in its; the fewest come first."""
    long = [axis for axis in axes if mine.shape[axis] > 1]
    for count in range(len(long), 0, -1):
        for some in itertools.combinations(long, count):
            if alike(np.flip(mine, some), its):
                return some
    return None


def permutation(mine: Array, its: Array, axis: int, *, loose: bool = False) -> Array | None:
    """``order`` such that mine taken in that order along an axis is its, or None.

    With ``loose`` it is enough that each slice holds the same numbers.
    """
    if mine.shape != its.shape or mine.shape[axis] < 2 or not (np.isfinite(mine).all() and np.isfinite(its).all()):
        return None
    ours, theirs = (np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) for values in (mine, its))
    if loose:
        ours, theirs = np.sort(ours, axis=1), np.sort(theirs, axis=1)
    # One number stands for a slice; that it is the right one is seen afterwards.
    key = np.random.default_rng(0).standard_normal(ours.shape[1])
    step = max(1, _PORTION // len(key))
    starts = range(0, len(ours), step)
    a, b = (
        np.argsort(np.concatenate([_wide(side[s : s + step]) @ key for s in starts]), kind="stable")
        for side in (ours, theirs)
    )
    order = np.empty_like(a)
    order[b] = a
    scale = max(peak(ours), peak(theirs))
    for s in starts:
        apart = _wide(ours[order[s : s + step]]) - _wide(theirs[s : s + step])
        if np.abs(apart).max(initial=0.0) > SAME * scale:
            return None
    return order


def factored(order: Array, shapes: Sequence[Sequence[int]] = ()) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The shape and the order of its axes that a permutation is; ``shapes`` are likely ones.

    Of an axis that was flattened from ``shape``, and is read as if its axes had stood in that order.
    """
    size = len(order)
    plain = [(a, size // a) for a in range(2, size) if size % a == 0]
    for shape in [*(tuple(s) for s in shapes if math.prod(s) == size and len(s) < _LONGEST), *plain]:
        index = np.arange(size).reshape(shape)
        for axes in orders(shape):
            if np.array_equal(index.transpose(axes).reshape(-1), order):
                return shape, axes
    return None


def runs(order: Array) -> list[tuple[int, int]]:
    """The stretches of a permutation that count up: (first, length) each."""
    cuts = [0, *(np.flatnonzero(np.diff(order) != 1) + 1).tolist(), len(order)]
    return [(int(order[a]), b - a) for a, b in itertools.pairwise(cuts)]


def blocks(order: Array, most: int = 12) -> tuple[int, ...] | None:
    """The order of equal blocks that a permutation is, for the fewest blocks there can be."""
    size = len(order)
    for count in range(2, min(most, size) + 1):
        if size % count:
            continue
        width = size // count
        parts = order.reshape(count, width)
        if np.array_equal(parts, parts[:, :1] + np.arange(width)) and not np.any(parts[:, 0] % width):
            return tuple((parts[:, 0] // width).tolist())
    return None


def shifted(mine: Array, its: Array, most: int = 4) -> int | None:
    """By how many rows its stands behind mine; the rows that fell out at an end do not count."""
    if mine.shape != its.shape:
        return None
    for count in range(1, min(most, len(mine) - 1) + 1):
        if alike(mine[:-count], its[count:]):
            return count
        if alike(mine[count:], its[:-count]):
            return -count
    return None


def multiple(mine: Array, its: Array) -> float | None:
    """The number that mine is multiplied by to give its."""
    total = float(np.vdot(mine, mine))
    if not total or mine.shape != its.shape:
        return None
    factor = float(np.vdot(mine, its)) / total
    return factor if factor and alike(mine * factor, its) else None


def multiples(mine: Array, its: Array) -> Array | None:
    """One such number for each place of the last axis."""
    if mine.shape != its.shape or mine.ndim < 2 or mine[..., 0].size < 2:
        return None
    ours, theirs = mine.reshape(-1, mine.shape[-1]), its.reshape(-1, mine.shape[-1])
    total = np.square(ours).sum(0)
    factors = np.divide((ours * theirs).sum(0), total, out=np.ones_like(total), where=total > 0)
    return factors if alike(mine * factors, its) else None


def rounded(mine: Array, its: Array) -> str | None:
    """The type that mine was rounded to to give its."""
    if mine.shape != its.shape:
        return None
    for name in ("float16", "bfloat16"):
        made = as_type(mine, name)
        # Where mine was itself rounded on the way a few numbers fall on the other side.
        if np.mean(made == its) > 0.9 and alike(made, its, 2 * dtypes.epsilon(name)):
            return name
    return None


def as_type(values: Array, name: str) -> Array:
    """Values rounded to ``float16``, ``bfloat16`` or ``tf32``, in float64."""
    with np.errstate(over="ignore"):
        if name == "float16":
            return values.astype(np.float16).astype(np.float64)
        kept = 7 if name == "bfloat16" else 10
        single = np.ascontiguousarray(values, np.float32).view(np.uint32)
        low = 23 - kept
        # To nearest, ties to the even one.
        single = single + np.uint32((1 << (low - 1)) - 1) + ((single >> np.uint32(low)) & np.uint32(1))
        return ((single >> np.uint32(low)) << np.uint32(low)).view(np.float32).astype(np.float64)


def correlation(mine: Array, its: Array) -> float:
    """Of two arrays of one shape; 0 where one of them does not vary."""
    a, b = mine.ravel() - mine.mean(), its.ravel() - its.mean()
    size = math.sqrt(float(np.vdot(a, a)) * float(np.vdot(b, b)))
    return float(np.vdot(a, b)) / size if size else 0.0


def initialiser(values: Array, fan_in: int, fan_out: int) -> str | None:
    """The usual initialiser that numbers could be from, in words."""
    if not values.any():
        return "zeros"
    if np.all(values == 1):
        return "ones"
    if values.size < 64 or not fan_in:
        return None
    spread, largest = float(values.std()), float(np.abs(values).max())
    near = 4 / math.sqrt(2 * values.size) + 0.005
    if largest < 1.9 * spread:  # uniform: √3
        for bound, what in (
            (1 / math.sqrt(fan_in), "PyTorch's default, uniform within ±1/√fan_in"),
            (math.sqrt(6 / (fan_in + fan_out)), "Glorot's uniform"),
            (math.sqrt(6 / fan_in), "He's uniform"),
            (math.sqrt(3 / fan_in), "LeCun's uniform"),
            (0.05, "uniform within ±0.05"),
        ):
            if abs(spread * math.sqrt(3) / bound - 1) < near and largest <= bound * 1.0001:
                return what
        return None
    if abs(float(values.mean())) > 5 * spread / math.sqrt(values.size):
        return None
    kurtosis = float(((values - values.mean()) ** 4).mean()) / spread**4
    if not 2.2 < kurtosis < 3.4:
        return None
    for wanted, what in (
        (math.sqrt(2 / fan_in), "He's normal"),
        (math.sqrt(2 / fan_out), "He's normal of the outputs"),
        (math.sqrt(2 / (fan_in + fan_out)), "Glorot's normal"),
        (1 / math.sqrt(fan_in), "LeCun's normal"),
        (0.02, "normal with deviation 0.02"),
        (1.0, "the standard normal"),
    ):
        if abs(spread / wanted - 1) < near:
            return what
    return None
