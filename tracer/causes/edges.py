"""Padding that is written out: a tensor joined with its own first and last places, repeated or turned round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes import operations
from tracer.causes.operations.arrangements import PAD_MODES
from tracer.causes.step import Array, Program, Step, Unknown
from tracer.causes.written import without_idle

_TAKING = frozenset({"slice", "gather", "split", "repeat", "tile", "expand", "flip", "identity"})
_MODES = ("replicate", "reflect", "symmetric", "circular")


def as_padding(program: Program, other: Program) -> Program | None:
    """The program with such a join as one padding, where ``other`` pads; None where there is none."""
    if not any(step.kind == "pad" for step in other.steps):
        return None
    steps = {step.name: step for step in program.steps}
    for step in program.steps:
        if step.kind == "concat" and (pad := _padding(step, steps)) is not None:
            return without_idle(Program(tuple(pad if one is step else one for one in program.steps)))
    return None


def _padding(join: Step, steps: dict[str, Step]) -> Step | None:
    axis, shape = join.settings.get("axis"), join.shape
    if not isinstance(axis, int) or shape is None or set(join.settings) - {"axis"} or len(join.inputs) < 2:
        return None
    begins = {_begin(name, steps) for name in join.inputs}
    if len(begins) != 1 or (whole := begins.pop()) not in join.inputs:
        return None
    axis %= len(shape)
    place = join.inputs.index(whole)
    added = sum(_length(name, steps, axis) for name in join.inputs if name != whole)
    length = shape[axis] - added
    if not added or length < 1 or join.inputs.count(whole) > 1:
        return None
    numbers = np.arange(length).reshape([length if k == axis else 1 for k in range(len(shape))])
    numbers = np.broadcast_to(numbers, [length if k == axis else n for k, n in enumerate(shape)])
    try:
        parts = [_made(name, whole, numbers, steps) for name in join.inputs]
        found = np.concatenate(parts, axis)
    except (Unknown, ValueError):
        return None
    before = sum(part.shape[axis] for part in parts[:place])
    pairs = [(before, added - before) if k == axis else (0, 0) for k in range(len(shape))]
    for mode in _MODES:
        word: Any = PAD_MODES[mode]
        if found.shape == tuple(shape) and np.array_equal(found, np.pad(numbers, pairs, word)):
            return replace(join, kind="pad", settings={"padding": tuple(pairs), "padding_mode": mode}, inputs=(whole,))
    return None


def _begin(name: str, steps: dict[str, Step]) -> str:
    """The tensor of which one is a part."""
    while name in steps and steps[name].kind in _TAKING and len(steps[name].inputs) == 1:
        name = steps[name].inputs[0]
    return name


def _length(name: str, steps: dict[str, Step], axis: int) -> int:
    shape = steps[name].shape if name in steps else None
    return 0 if shape is None or len(shape) <= axis else shape[axis]


def _made(name: str, whole: str, numbers: Array, steps: dict[str, Step]) -> Array:
    """The numbers of the places that a part holds. Raises Unknown."""
    if name == whole:
        return numbers
    step = steps[name]
    return np.asarray(operations.run(step, [_made(step.inputs[0], whole, numbers, steps)]))
