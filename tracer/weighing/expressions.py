"""Steps between two frameworks' layouts as a numpy expression, as short as one would write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tracer.alignment.relayout import Step, Steps

Shape = tuple[int, ...]


@dataclass
class Expression:
    """An array-valued Python expression that is built up, with the shape it has so far.

    ``pending`` are the axes of the last written expression, in the order in which they now stand, None for an axis of
    length one that is new: moves and axes of length one are put off and written as one transposition.
    """

    text: str
    written: Shape
    pending: list[int | None]
    shape: Shape
    atom: bool = True

    @classmethod
    def of(cls, text: str, shape: Sequence[int]) -> Expression:
        return cls(text, tuple(shape), list(range(len(shape))), tuple(shape))

    def then(self, step: Step) -> None:
        """Apply a step of :mod:`tracer.alignment.relayout` that works on one array."""
        name, numbers = step[0], [int(n) for n in step[1:]]
        if name == "move":
            self.pending = [self.pending[axis] for axis in numbers]
            self.shape = tuple(self.shape[axis] for axis in numbers)
        elif name == "shape":
            self._reshape(tuple(numbers))
        elif name == "part":
            axis, index, count = numbers
            self._flush()
            self._write(f"np.split({self.text}, {count}, {axis})[{index}]", _parted(self.shape, axis, count), True)
        elif name == "cut":
            axis, start, stop = numbers
            self._flush()
            where = ", ".join([":"] * axis + [f"{start}:{stop}"])
            shape = (*self.shape[:axis], stop - start, *self.shape[axis + 1 :])
            self._write(f"{self._operand()}[{where}]", shape, True)
        elif name == "blocks":
            axis, *order = numbers
            self._flush()
            self._write(f"blocks({self.text}, {axis}, {order})", self.shape, True)
        elif name == "runs":
            axis, count, *rest = numbers
            self._flush()
            self._write(f"runs({self.text}, {axis}, {rest[:count]}, {rest[count:]})", self.shape, True)
        elif name == "fold":
            self._flush()
            self._write(f"{self._operand()}.sum(0)", self.shape[1:], True)
        else:
            raise ValueError(f"unknown step {name!r}")

    def result(self, shape: Shape | None = None) -> str:
        """The whole expression, in ``shape`` where that differs by axes of length one only."""
        self._flush(shape)
        return self.text

    def operand(self) -> str:
        """The expression so far, to be used in a larger one."""
        self._flush()
        return self._operand()

    def becomes(self, text: str) -> None:
        """Arithmetic that keeps the shape was written around it."""
        self._write(text, self.shape, False)

    def _operand(self) -> str:
        return self.text if self.atom else f"({self.text})"

    def _write(self, text: str, shape: Shape, atom: bool) -> None:
        self.text, self.written, self.shape, self.atom = text, shape, shape, atom
        self.pending = list(range(len(shape)))

    def _reshape(self, shape: Shape) -> None:
        if math.prod(shape) != math.prod(self.shape):
            raise ValueError(f"{self.shape} does not go into {shape}")
        if [n for n in shape if n != 1] == [n for n in self.shape if n != 1]:
            left = [axis for axis, n in zip(self.pending, self.shape, strict=True) if n != 1]
            self.pending = [left.pop(0) if n != 1 else None for n in shape]
            self.shape = shape
            return
        self._flush()
        if shape != self.written:
            self._write(f"{self._operand()}.reshape({_lengths(shape)})", shape, True)

    def _flush(self, shape: Shape | None = None) -> None:
        """Write the pending moves: a transposition, and a reshape where axes of length one do not simply move."""
        wanted = self.shape if shape is None else shape
        if shape is not None and shape != self.shape:
            self._reshape(shape)
        spare = [axis for axis, n in enumerate(self.written) if n == 1]
        moves: list[int] = []
        for axis, n in zip(self.pending, wanted, strict=True):
            if axis is None or n == 1:
                if not spare:
                    break
                moves.append(spare.pop(0))
            else:
                moves.append(axis)
        if len(moves) == len(self.written) == len(wanted) and sorted(moves) == list(range(len(moves))):
            self._transpose(moves)
        else:
            kept = [axis for axis, n in zip(self.pending, wanted, strict=True) if axis is not None and n != 1]
            ones = [axis for axis, n in enumerate(self.written) if n == 1]
            self._transpose(sorted(ones) + kept if kept != sorted(kept) else list(range(len(self.written))))
            if self.written != wanted:
                text = f"{self._operand()}.reshape({_lengths(wanted)})"
                self.text, self.atom = text, True
        self.written = self.shape = wanted
        self.pending = list(range(len(wanted)))

    def _transpose(self, moves: Sequence[int]) -> None:
        if list(moves) == list(range(len(moves))):
            return
        text = ".T" if len(moves) == 2 else f".transpose({', '.join(map(str, moves))})"
        self.text, self.atom = f"{self._operand()}{text}", True
        self.written = tuple(self.written[axis] for axis in moves)


def inverse(steps: Steps, shape: Shape) -> list[Step]:
    """The steps that undo ``steps`` on an array of ``shape``, last first.

    Raises ValueError for steps that cannot be undone: ``sum`` and ``fold``, and ``part`` and ``cut``, which need
    the other parts.
    """
    found: list[Step] = []
    for step in steps:
        name, numbers = step[0], [int(n) for n in step[1:]]
        if name == "move":
            found.append(("move", *map(int, np.argsort(numbers))))
            shape = tuple(shape[axis] for axis in numbers)
        elif name == "shape":
            found.append(("shape", *shape))
            shape = tuple(numbers)
        elif name == "blocks":
            axis, *order = numbers
            found.append(("blocks", axis, *map(int, np.argsort(order))))
        elif name == "runs":
            axis, count, *rest = numbers
            lengths, order = rest[:count], rest[count:]
            found.append(("runs", axis, count, *(lengths[i] for i in order), *map(int, np.argsort(order))))
        else:
            raise ValueError(f"{name!r} cannot be undone")
    return found[::-1]


def _parted(shape: Shape, axis: int, count: int) -> Shape:
    return (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])


def _lengths(shape: Shape) -> str:
    """Lengths for a reshape; the only one of a vector, or the first of several, need not be told."""
    if len(shape) == 1:
        return "-1"
    return ", ".join(map(str, shape)) or "()"
