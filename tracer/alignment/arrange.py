"""Rearrangements: axes that are products of others, split, reordered and merged.

A flattened axis has an order: ``n (h w c) -> n (c h w)`` says that the reference flattened height, width and channels
where the candidate flattened channels first. Lengths are named by letters as in einops; the reference stands first, as
in :func:`tracer.alignment.axes.describe`. Where branches are concatenated in another order, the runs of one letter are
written out: ``n h w c1+c2 -> n h w c2+c1``.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Groups = tuple[tuple[int, ...], ...]
"""For each axis the letters that it is a product of, slowest first, as indices into ``lengths``."""
MOST = 24
"""Orders that are tried where lengths alone leave several open."""
_EQUAL = 1e-4
_LETTERS = "abdefgijklmopqruvxyz"


@dataclass(frozen=True, slots=True)
class Runs:
    """The elements along one axis as runs that stand in another order, as concatenated branches do.

    Attributes:
        lengths: of the reference's runs.
        order: for each of the candidate's runs, which of the reference's it is.
    """

    lengths: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def inverse(self) -> Runs:
        return Runs(
            tuple(self.lengths[i] for i in self.order), tuple(self.order.index(i) for i in range(len(self.order)))
        )

    def place(self, index: int) -> int:
        """Where the candidate has the element that stands at ``index`` in the reference."""
        starts = [sum(self.lengths[:run]) for run in range(len(self.lengths))]
        run = max(run for run, start in enumerate(starts) if start <= index)
        before = self.order[: self.order.index(run)]
        return index - starts[run] + sum(self.lengths[other] for other in before)

    def text(self, name: str, moved: bool) -> str:
        """The runs of a letter in the reference's order, or in the candidate's: ``c1+c2``, ``c2+c1``."""
        return "+".join(f"{name}{i + 1}" for i in (self.order if moved else range(len(self.order))))

    def apply(self, candidate: NDArray[Any], axis: int) -> NDArray[Any]:
        """The candidate's elements in the reference's order. Raises ValueError where the lengths do not fit."""
        widths = [self.lengths[i] for i in self.order]
        if candidate.shape[axis] != sum(widths):
            raise ValueError(f"runs of {widths} do not make up an axis of {candidate.shape[axis]}")
        parts = np.split(candidate, np.cumsum(widths)[:-1], axis)
        return np.concatenate([parts[place] for place in self.inverse.order], axis)


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """How the candidate's axes become the reference's: split into factors, reordered, merged.

    Attributes:
        lengths: of each letter.
        reference, candidate: the letters of each axis; an axis without letters has length one.
        letters: their names.
        runs: a letter and its runs, where these stand in another order.
    """

    lengths: tuple[int, ...]
    reference: Groups
    candidate: Groups
    letters: tuple[str, ...]
    runs: tuple[int, Runs] | None = None

    def __post_init__(self) -> None:
        wanted = list(range(len(self.lengths)))
        if any(sorted(i for axis in side for i in axis) != wanted for side in (self.reference, self.candidate)):
            raise ValueError("a rearrangement uses every letter once on either side")
        if self.runs is not None:
            letter, runs = self.runs
            if sum(runs.lengths) != self.lengths[letter] or sorted(runs.order) != list(range(len(runs.lengths))):
                raise ValueError("the runs of a letter make up its length, each standing somewhere")

    @property
    def order(self) -> tuple[int, ...]:
        """The reference's letters, slowest first, as places among the candidate's."""
        place = {letter: at for at, letter in enumerate(i for axis in self.candidate for i in axis)}
        return tuple(place[i] for axis in self.reference for i in axis)

    @property
    def trivial(self) -> bool:
        """Whether both sides hold their elements in the same order in memory."""
        return self.order == tuple(range(len(self.lengths))) and self.runs is None

    @property
    def inverse(self) -> Rearrangement:
        """How the reference's axes become the candidate's."""
        runs = None if self.runs is None else (self.runs[0], self.runs[1].inverse)
        return Rearrangement(self.lengths, self.candidate, self.reference, self.letters, runs)

    def shape(self, side: Groups) -> tuple[int, ...]:
        return tuple(math.prod(self.lengths[i] for i in axis) for axis in side)

    def place(self, letter: int, index: int) -> int:
        """Where the candidate has what stands at ``index`` along a letter of the reference."""
        return self.runs[1].place(index) if self.runs is not None and self.runs[0] == letter else index

    def factored(self, reference: NDArray[Any], candidate: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Both tensors with one axis a letter, in the reference's order; views where the arrays are contiguous and no
        runs move.

        Raises ValueError when the shapes are not those of the rearrangement.
        """
        if reference.shape != self.shape(self.reference) or candidate.shape != self.shape(self.candidate):
            raise ValueError(f"{self} does not fit shapes {reference.shape} and {candidate.shape}")
        ours = reference.reshape([self.lengths[i] for axis in self.reference for i in axis])
        theirs = candidate.reshape([self.lengths[i] for axis in self.candidate for i in axis])
        return ours, self._moved(theirs)

    def apply(self, candidate: NDArray[Any]) -> NDArray[Any]:
        """The candidate's tensor in the reference's axes. Raises ValueError when it has another shape."""
        if candidate.shape != self.shape(self.candidate):
            raise ValueError(f"{self} does not fit shape {candidate.shape}")
        split = candidate.reshape([self.lengths[i] for axis in self.candidate for i in axis])
        return self._moved(split).reshape(self.shape(self.reference))

    def _moved(self, split: NDArray[Any]) -> NDArray[Any]:
        """The candidate's tensor with one axis a letter in the reference's order."""
        moved = split.transpose(self.order)
        if self.runs is None:
            return moved
        letter, runs = self.runs
        return runs.apply(moved, [i for axis in self.reference for i in axis].index(letter))

    def __str__(self) -> str:
        return f"{self._text(self.reference)} → {self._text(self.candidate, True)}"

    def _text(self, side: Groups, moved: bool = False) -> str:
        named = list(self.letters)
        if self.runs is not None:
            letter, runs = self.runs
            named[letter] = runs.text(self.letters[letter], moved)
        names = [[named[i] for i in axis] for axis in side]
        return " ".join(axis[0] if len(axis) == 1 else f"({' '.join(axis)})" if axis else "1" for axis in names)

    def to_json(self) -> dict[str, Any]:
        """``pattern`` in the notation of einops (reference -> candidate) with runs as ``c1+c2``, and the ``lengths`` of
        its letters and runs."""
        pattern = f"{self._text(self.reference)} -> {self._text(self.candidate, True)}"
        lengths = dict(zip(self.letters, self.lengths, strict=True))
        if self.runs is not None:
            letter, runs = self.runs
            lengths |= {f"{self.letters[letter]}{i + 1}": length for i, length in enumerate(runs.lengths)}
        return {"pattern": pattern, "lengths": lengths}

    @classmethod
    def parse(cls, pattern: str, lengths: Mapping[str, int]) -> Rearrangement:
        """The inverse of :meth:`to_json`. Raises ValueError for anything else."""
        sides = re.split(r"\s*(?:->|→)\s*", pattern.strip())
        if len(sides) != 2:
            raise ValueError(f"a rearrangement reads 'n (h w c) -> n (c h w)', not {pattern!r}")
        runs: tuple[str, Runs] | None = None
        moved = [re.findall(r"\w+(?:\+\w+)+", side) for side in sides]
        if any(moved):
            if [len(found) for found in moved] != [1, 1]:
                raise ValueError(f"{pattern!r}: the runs of one letter stand on both sides")
            ours, theirs = (found[0].split("+") for found in moved)
            if sorted(ours) != sorted(set(theirs)) or any(not isinstance(lengths.get(name), int) for name in ours):
                raise ValueError(f"{pattern!r}: runs on both sides, and their lengths, wanted")
            name = ours[0][:-1]
            runs = name, Runs(tuple(lengths[run] for run in ours), tuple(ours.index(run) for run in theirs))
            sides = [side.replace(found[0], name) for side, found in zip(sides, moved, strict=True)]
        letters = tuple(dict.fromkeys(re.findall(r"[A-Za-z]\w*", sides[0])))
        if any(not isinstance(lengths.get(name), int) or lengths[name] < 1 for name in letters):
            raise ValueError(f"{pattern!r} wants the lengths of {', '.join(letters)}")
        number = {name: i for i, name in enumerate(letters)}
        groups = [_groups(side, number) for side in sides]
        return cls(
            tuple(lengths[name] for name in letters),
            groups[0],
            groups[1],
            letters,
            None if runs is None else (number[runs[0]], runs[1]),
        )


def _groups(side: str, number: Mapping[str, int]) -> Groups:
    out: list[tuple[int, ...]] = []
    for part in re.findall(r"\([^()]*\)|\S+", side):
        names = part[1:-1].split() if part.startswith("(") else [] if part == "1" else [part]
        if any(name not in number for name in names):
            raise ValueError(f"{part!r} stands on one side of the rearrangement only")
        out.append(tuple(number[name] for name in names))
    return tuple(out)


def letters(lengths: Sequence[int], known: Mapping[int, str], first: Sequence[int]) -> tuple[str, ...]:
    """A name for each letter: what is ``known`` of it (by index), the batch ``n`` for what leads ``first``."""
    names: list[str] = [""] * len(lengths)
    for index, name in known.items():
        if name not in names:
            names[index] = name
    if first and not names[first[0]] and "n" not in names:
        names[first[0]] = "n"
    free = iter(letter for letter in (*_LETTERS, *(f"a{i}" for i in range(len(lengths)))) if letter not in names)
    return tuple(name or next(free) for name in names)


def bijections(ours: Sequence[int], theirs: Sequence[int], most: int = MOST) -> Iterator[tuple[int, ...]]:
    """For each of ``ours`` a place in ``theirs`` of the same length, in all ways; what keeps the order comes first."""
    if Counter(ours) != Counter(theirs):
        return
    places: dict[int, list[int]] = {}
    for place, length in enumerate(theirs):
        places.setdefault(length, []).append(place)
    asking = {length: [i for i, other in enumerate(ours) if other == length] for length in places}
    # Lengths that occur often are permuted only as far as `most` asks.
    ways = [list(islice(permutations(places[length]), most)) for length in places]
    for choice in islice(product(*ways), most):
        out = [0] * len(ours)
        for length, order in zip(places, choice, strict=True):
            for i, place in zip(asking[length], order, strict=True):
                out[i] = place
        yield tuple(out)


Table = tuple[tuple[int, int, int], ...]
"""Letters as (place among ours, place among theirs, length)."""


def tables(ours: Sequence[int], theirs: Sequence[int], most: int = 8) -> list[Table]:
    """Ways to split two lists of lengths into common factors, those with the fewest factors first.

    Each of ours is the product of its factors, so is each of theirs, and no two factors join the same two.
    """
    if math.prod(ours) != math.prod(theirs) or not ours or not theirs or max(len(ours), len(theirs)) > 6:
        return []
    found: list[Table] = []
    budget = [4000]

    def place(i: int, left: int, j: int, rest: tuple[int, ...], chosen: Table) -> None:
        budget[0] -= 1
        if budget[0] < 0 or (found and len(chosen) > min(map(len, found)) + 1):
            return
        if left == 1:
            if i + 1 == len(ours):
                found.append(chosen)
            else:
                place(i + 1, ours[i + 1], 0, rest, chosen)
            return
        for k in range(j, len(theirs)):
            for factor in _divisors(math.gcd(left, rest[k])):
                after = (*rest[:k], rest[k] // factor, *rest[k + 1 :])
                place(i, left // factor, k + 1, after, (*chosen, (i, k, factor)))

    place(0, ours[0], 0, tuple(theirs), ())
    return sorted(found, key=lambda table: (len(table), _crossings(table)))[:most]


def _crossings(table: Table) -> int:
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for n, a in enumerate(table) for b in table[n + 1 :])


def _divisors(value: int) -> list[int]:
    """Divisors above one, greatest first; of large values only what is left after a few small ones."""
    small = [d for d in range(1, min(math.isqrt(value), 1024) + 1) if value % d == 0]
    return sorted({value // d for d in small} | set(small), reverse=True)[:-1] if value > 1 else []


def from_table(ours: Sequence[int], theirs: Sequence[int], table: Table) -> tuple[tuple[int, ...], Groups, Groups]:
    """Lengths and groups of a table, over the lists that it was made from."""
    reference = tuple(tuple(n for n, (i, _, _) in enumerate(table) if i == place) for place in range(len(ours)))
    candidate = tuple(
        tuple(sorted((n for n, (_, j, _) in enumerate(table) if j == place), key=lambda n: table[n][0]))
        for place in range(len(theirs))
    )
    return tuple(length for _, _, length in table), reference, candidate


def row_order(reference: NDArray[Any], candidate: NDArray[Any], factors: Sequence[int]) -> tuple[int, ...] | None:
    """The order in which the candidate flattened what its kernel reads, from the weights alone.

    Args:
        reference: Dense kernel, (in, out).
        candidate: Linear weight, (out, in).
        factors: lengths that the reference flattened, slowest first; their product is ``in``.

    Returns:
        The reference's factors in the candidate's order, slowest first: (2, 0, 1) for ``(h w c) → (c h w)``; None
        when under no order the weights are equal.

    Raises:
        ValueError: the shapes and factors do not belong together.
    """
    if reference.ndim != 2 or candidate.shape != reference.shape[::-1] or math.prod(factors) != reference.shape[0]:
        raise ValueError(f"kernels {reference.shape} and {candidate.shape} with factors {tuple(factors)}")
    columns = min(reference.shape[1], 8)  # eight outputs' worth of rows tell any order from any other
    ours = reference[:, :columns].astype(np.float64)
    theirs = candidate[:columns].T.astype(np.float64)
    scale = float(np.linalg.norm(ours))
    if scale == 0 or not math.isfinite(scale):
        return None
    split = ours.reshape(*factors, columns)
    for order in islice(permutations(range(len(factors))), 720):
        moved = split.transpose(*order, len(factors)).reshape(theirs.shape)
        if float(np.linalg.norm(moved - theirs)) <= _EQUAL * scale:
            return order
    return None
