"""Both sides of a pair of parameters, read so that they can be compared, and looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tracer import dtypes
from tracer.alignment import relayout
from tracer.alignment.owned import Key
from tracer.alignment.parameters import ParameterPair, Piece
from tracer.alignment.relayout import Steps
from tracer.relations import Array
from tracer.store import Recording
from tracer.weighing.carrying import absorbed, affine
from tracer.weighing.parameters import named
from tracer.weighing.plan import Absorb, Copy, Norm, Plan

_REVERSIBLE = ("move", "shape", "blocks", "runs")
_SPATIAL = {1: ("time",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclass(frozen=True)
class Part:
    """A parameter of the reference (or a part of one) over what the candidate has for it.

    Attributes:
        name: of the parameter, whole.
        reference, candidate: in one layout; None for a side that has nothing.
        layout: ``reference`` as the reference keeps it; ``common`` where that cannot be: a sum of two biases, weights
            with a BatchNorm folded into them; ``own`` of one that is alone.
        axes: what the axes are, where that is known.
    """

    name: str
    reference: Array | None
    candidate: Array | None
    layout: Literal["reference", "common", "own"]
    axes: tuple[str, ...]


class Reading:
    """The stored parameters of two recordings, as the plans of carrying them over say."""

    def __init__(self, sides: tuple[Recording, Recording], plans: tuple[Plan, Plan]) -> None:
        self.sides = sides
        self.norms: tuple[dict[tuple[Key, ...], Norm], dict[tuple[Key, ...], Norm]] = {}, {}
        self.absorbed: dict[tuple[int, Key], list[Absorb]] = {}
        """What of a side is in the statistics of the other side's BatchNorm, by the side and the statistic there."""
        for side, found in enumerate(plans):
            for made in found.operations:
                if isinstance(made, Copy) and made.folded is not None:
                    self.norms[side][made.target] = made.folded
                elif isinstance(made, Absorb):
                    self.absorbed.setdefault((side, made.into), []).append(made)

    def reader(self, side: int) -> Callable[[Key], Array]:
        recording = self.sides[side]
        return lambda key: recording.read_stored(recording.weights[key])

    def norms_of(self, piece: Piece) -> tuple[Norm | None, Norm | None]:
        """The BatchNorm of either side that the other has in these weights."""
        return self.norms[0].get(piece.candidate), self.norms[1].get(piece.reference)

    def both(self, pair: ParameterPair, piece: Piece) -> tuple[list[Array], list[Array]]:
        """Both sides in the common layout, equally many arrays of each where that can be.

        Raises TraceError for damage, ValueError for steps that do not fit.
        """
        found = []
        norms = self.norms_of(piece)
        sides = (piece.reference, piece.reference_steps, norms[0]), (piece.candidate, piece.candidate_steps, norms[1])
        for side, (keys, steps, norm) in enumerate(sides):
            read = self.reader(side)
            if norm is None:
                values = relayout.read(steps, [read(key) for key in keys])
                for held in self._held(side, sides[1 - side][0]):
                    values = [absorbed(v, held, read) for v in values]
            else:
                scale, shift = affine(norm, read)
                if set(keys) & set(norm.keys):  # the layer has no bias: the shift is all
                    values = [shift]
                else:
                    values = [dtypes.as_float64(v) * scale for v in relayout.read(steps, [read(key) for key in keys])]
                    values = [v + shift for v in values] if pair.role == "bias" else values
            found.append(values)
        return _as_many(found[0], found[1])

    def _held(self, side: int, twins: Sequence[Key]) -> list[Absorb]:
        return [held for twin in twins for held in self.absorbed.get((side, twin), ())]

    def made(self, copy: Copy, side: int) -> Array:
        """What the other side's weights make of a parameter of this side."""
        (key,) = copy.target
        values = relayout.read(copy.source_steps, [self.reader(1 - side)(k) for k in copy.source])
        place = np.zeros_like(dtypes.as_float64(self.reader(side)(key)))
        relayout.write(copy.target_steps, [place], values)
        return place

    def parts(self, pair: ParameterPair) -> list[Part]:
        """The pair, parameter by parameter, in the reference's layout where that can be.

        Raises TraceError for damage, ValueError for steps that do not fit, KeyError for what was not recorded.
        """
        found = []
        for piece in pair.pieces:
            names = [named(key, self.sides[0].framework) for key in piece.reference]
            ours, theirs = self.both(pair, piece)
            stored = [self.reader(0)(key) for key in piece.reference]
            aligned = len(ours) == len(stored) == len(theirs)
            for at, (mine, its) in enumerate(zip(ours, theirs, strict=False)):
                name = names[at] if len(ours) == len(names) else " + ".join(names)
                labels = _labels(pair.role, mine.ndim)
                if not aligned:
                    found.append(Part(name, mine, its, "common", labels))
                    continue
                before, back = undone(piece.reference_steps, stored[at].shape)
                plain = self.norms_of(piece)[0] is None and not self._held(0, piece.candidate)
                shown = relayout.read(before, [stored[at]])[0] if plain else relayout.read(back, [mine])[0]
                if its.shape == mine.shape:
                    its = relayout.read(back, [its])[0]
                    labels = _carried(labels, mine.shape, back)
                else:
                    shown, its = mine, its
                whole = plain and not before and its.shape == stored[at].shape
                found.append(Part(name, shown, its, "reference" if whole else "common", labels))
        return found

    def alone(self, side: int, key: Key) -> Part:
        """A parameter that has no twin. Raises TraceError for damage."""
        values = self.reader(side)(key)
        ours, theirs = (values, None) if side == 0 else (None, values)
        return Part(named(key, self.sides[side].framework), ours, theirs, "own", _labels("", values.ndim))

    def copied(self, copy: Copy, side: int) -> Part:
        """A parameter of one side over what the other side's make of it. Raises TraceError for damage."""
        (key,) = copy.target
        values, made = self.reader(side)(key), self.made(copy, side)
        name, labels = named(key, self.sides[side].framework), _labels("", values.ndim)
        if side == 0:
            return Part(name, values, made, "reference", labels)
        return Part(name, made, values, "common", labels)


def _as_many(mine: list[Array], its: list[Array]) -> tuple[list[Array], list[Array]]:
    """Both sides as equally many arrays: two biases stand one above the other where the other side has one array."""
    if len(mine) == len(its) or 1 not in (len(mine), len(its)):
        return mine, its
    return ([np.stack(mine)], its) if len(its) == 1 else (mine, [np.stack(its)])


def undone(steps: Steps, shape: Sequence[int]) -> tuple[Steps, Steps]:
    """Those first of ``steps`` that cannot be taken back on an array of ``shape``, and the steps that take back the
    others."""
    last = max((at for at, step in enumerate(steps) if step[0] not in _REVERSIBLE), default=-1) + 1
    now = tuple(shape)
    back: list[tuple[str | int, ...]] = []
    for at, (name, *numbers) in enumerate(steps):
        values = [int(n) for n in numbers]
        before = now
        if name == "move":
            now = tuple(now[axis] for axis in values)
            step: tuple[str | int, ...] = ("move", *(int(axis) for axis in np.argsort(values)))
        elif name == "shape":
            now, step = tuple(values), ("shape", *before)
        elif name == "blocks":
            step = ("blocks", values[0], *(int(block) for block in np.argsort(values[1:])))
        elif name == "runs":
            axis, count, *rest = values
            order = rest[count:]
            step = ("runs", axis, count, *(rest[run] for run in order), *(int(run) for run in np.argsort(order)))
        else:
            now = _reduced(name, now, values)
            continue
        if at >= last:
            back.insert(0, step)
    return steps[:last], tuple(back)


def _reduced(name: str | int, shape: tuple[int, ...], values: Sequence[int]) -> tuple[int, ...]:
    if name == "part":
        axis, _, count = values
        return tuple(length // count if at == axis else length for at, length in enumerate(shape))
    if name == "cut":
        axis, start, stop = values
        return tuple(stop - start if at == axis else length for at, length in enumerate(shape))
    return shape[1:] if name == "fold" else shape


def _labels(role: str, rank: int) -> tuple[str, ...]:
    """The axes of the common layout; a kernel's are known."""
    if role.endswith("kernel") and rank >= 2 and (rank == 2 or rank - 2 in _SPATIAL):
        return (*_SPATIAL.get(rank - 2, ()), "in", "out")
    return ("channel",) if rank == 1 else tuple(f"axis {axis}" for axis in range(rank))


def _carried(labels: tuple[str, ...], shape: tuple[int, ...], steps: Steps) -> tuple[str, ...]:
    """What the axes are after ``steps``: parts of an axis are called as it is, axes made one by both their names."""
    now = list(zip(labels, shape, strict=True))
    for name, *numbers in steps:
        values = [int(n) for n in numbers]
        if name == "move":
            now = [now[axis] for axis in values]
        elif name == "shape":
            now = list(zip(_regrouped(now, values), values, strict=True))
    return tuple(label for label, _ in now)


def _regrouped(axes: Sequence[tuple[str, int]], lengths: Sequence[int]) -> list[str]:
    """Names for axes of these lengths, made of ``axes`` (names and lengths) by a reshape."""
    left, found = list(axes), list[str]()
    while len(found) < len(lengths):
        begin = end = len(found)
        inside, outside, names = 1, 1, list[str]()
        while end == begin or inside != outside:
            if inside < outside and left:
                label, length = left.pop(0)
                inside *= length
                names += [label] * (length > 1 and label not in names)
            elif end < len(lengths):
                outside *= lengths[end]
                end += 1
            else:
                break
        found += ["·".join(names) or "one"] * (end - begin)
    return found
