"""How far two tensors are apart, in one walk over both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes

BLOCK = 10_000
"""Elements compared at a time: intermediate results stay in the cache, below the size at which the allocator asks the
kernel for fresh pages each time, and below the one above which OpenBLAS starts threads for a dot product, which on a
busy machine wait for each other longer than they work."""
RTOLS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Relative tolerances for which the smallest sufficient absolute one is kept."""


@dataclass(frozen=True)
class Stats:
    """Differences of a candidate's tensor from the reference's, in the reference's axes.

    NaN at the same place on both sides, and equal infinities, count as agreement; where only one side is finite, or
    the infinities differ, ``nonfinite`` counts the element, and the error figures leave it out.

    Attributes:
        size: number of elements.
        max_abs: greatest |reference − candidate|; ``argmax`` is its index in the reference's axes.
        mean_abs: mean of |reference − candidate|.
        rel_l2: ‖reference − candidate‖₂ / ‖reference‖₂ (infinite for a zero reference and another candidate).
        cosine: cosine similarity in double precision; None for a zero tensor.
        needed_atol: for each relative tolerance of :data:`RTOLS` (and the one asked for), the smallest absolute
            tolerance under which |reference − candidate| ≤ atol + rtol·|reference| holds everywhere.
        needed_rtol: with the absolute tolerance asked for, the relative one that would be enough (maybe infinite).
        outside: elements outside the tolerance asked for.
        reference_max: greatest |reference|.
        atol, rtol: the tolerance asked for, which ``outside`` and ``needed_rtol`` are about.
        nonfinite: elements that are finite, or infinite, on one side only.
        worst: values of reference and candidate at ``argmax``.
    """

    size: int
    max_abs: float
    mean_abs: float
    rel_l2: float
    cosine: float | None
    argmax: tuple[int, ...] | None
    reference_max: float
    needed_atol: dict[float, float] = field(default_factory=dict)
    outside: int = 0
    nonfinite: int = 0
    needed_rtol: float = 0.0
    worst: tuple[float, float] | None = None
    atol: float = 0.0
    rtol: float = 0.0

    def passes(self, atol: float, rtol: float) -> bool:
        """Whether the tensors agree within the tolerance. Exact for a ``rtol`` in ``needed_atol``, else strict:
        judged by the next smaller one."""
        if self.nonfinite:
            return False
        return self.sufficient_atol(rtol) <= atol

    def sufficient_atol(self, rtol: float) -> float:
        """An absolute tolerance under which the finite elements pass; the smallest for a ``rtol`` that was kept."""
        usable = [known for known in self.needed_atol if known <= rtol]
        return self.needed_atol[max(usable)] if usable else self.max_abs


@np.errstate(all="ignore")
def compare(reference: NDArray[Any], candidate: NDArray[Any], atol: float = 1e-5, rtol: float = 1e-5) -> Stats:
    """Statistics of two tensors of the same shape (transpose the candidate first; views are fine).

    Memory stays at a few blocks whatever the size. Raises ValueError when the shapes differ.
    """
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
    rtols = tuple(sorted({*RTOLS, rtol}))
    needed = np.zeros(len(rtols))
    total = squares = reference_squares = candidate_squares = product = 0.0
    largest, reference_max = -1.0, 0.0
    where: tuple[int, int] | None = None
    outside = nonfinite = 0
    needed_rtol = 0.0
    for start, left, right in _blocks(reference, candidate):
        if np.array_equal(left, right):
            x = _double(left)
            finite = np.isfinite(x)
            x = x if finite.all() else x[finite]
            square = float(np.vdot(x, x).real)
            reference_squares += square
            candidate_squares += square
            product += square
            if x.size:
                reference_max = max(reference_max, float(np.abs(x).max()))
                if largest < 0:
                    largest, where = 0.0, (start, int(finite.argmax()))
            continue
        x, y = _double(left), _double(right)
        good = np.isfinite(x) & np.isfinite(y)
        if not good.all():
            same = (np.isnan(x) & np.isnan(y)) | (x == y)
            nonfinite += int((~good & ~same).sum())
            outside += int((~good & ~same).sum())
            x, y = np.where(good, x, 0), np.where(good, y, 0)
        error, magnitude = np.abs(x - y), np.abs(x)
        total += float(error.sum())
        squares += float(np.dot(error, error))
        reference_squares += float(np.dot(magnitude, magnitude))
        candidate_squares += float(np.vdot(y, y).real)
        product += float(np.vdot(x, y).real)
        reference_max = max(reference_max, float(magnitude.max()))
        at = int(error.argmax())
        if error[at] > largest:
            largest, where = float(error[at]), (start, at)
        for slot, relative in enumerate(rtols):
            if error[at] <= needed[slot]:
                continue  # nothing here can need more
            needed[slot] = max(needed[slot], float((error - relative * magnitude).max()))
        outside += int((error > atol + rtol * magnitude).sum())
        over = error > atol
        if over.any():
            needed_rtol = max(needed_rtol, float(((error[over] - atol) / magnitude[over]).max()))
    size = reference.size
    largest = max(largest, 0.0)
    argmax = None if where is None else tuple(int(i) for i in np.unravel_index(where[0] + where[1], reference.shape))
    norm = math.sqrt(reference_squares)
    both = norm * math.sqrt(candidate_squares)
    return Stats(
        size=size,
        max_abs=largest,
        mean_abs=total / size if size else 0.0,
        rel_l2=math.sqrt(squares) / norm if norm > 0 else (0.0 if squares == 0 else math.inf),
        cosine=None if both == 0 else max(-1.0, min(1.0, product / both)),
        argmax=argmax,
        reference_max=reference_max,
        needed_atol=dict(zip(rtols, (float(v) for v in needed), strict=True)),
        outside=outside,
        nonfinite=nonfinite,
        needed_rtol=needed_rtol,
        atol=atol,
        rtol=rtol,
        worst=None if argmax is None else (_scalar(reference[argmax]), _scalar(candidate[argmax])),
    )


def _scalar(value: Any) -> float:
    number = complex(value)
    return abs(number) if number.imag else number.real


def _double(block: NDArray[Any]) -> NDArray[Any]:
    return dtypes.as_float64(block)


def _blocks(a: NDArray[Any], b: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
    """Flat start offset and both sides' elements, about :data:`BLOCK` at a time, in C order of ``a``."""
    # The trailing axes that fit a block together are taken whole; the leading ones are walked.
    split = a.ndim
    inner = 1
    while split > 0 and inner * a.shape[split - 1] <= BLOCK:
        split -= 1
        inner *= a.shape[split]
    if a.size == 0:
        return
    if split == 0:
        yield 0, a.reshape(-1), b.reshape(-1)
        return
    step = max(1, BLOCK // inner)
    length = a.shape[split - 1]
    for number, lead in enumerate(np.ndindex(*a.shape[: split - 1])):
        ours, theirs = a[lead], b[lead]
        for begin in range(0, length, step):
            part = slice(begin, begin + step)
            yield (number * length + begin) * inner, ours[part].reshape(-1), theirs[part].reshape(-1)
