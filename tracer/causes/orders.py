"""In which order the two sides of a case read and make their channels, where they do not agree.

Numbers are sent along: each place of a tensor above gets its own, and where operations only move values they show
afterwards which place stands where.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tracer import kinds
from tracer.causes import operations
from tracer.causes.case import Case, Side
from tracer.causes.step import Array, Program, Step, Unknown
from tracer.errors import TraceError

_MOVING = kinds.ARRANGING | kinds.UNCHANGED | {"concat", "stack", "slice", "split", "gather", "tile", "expand"}
_EACH = (
    kinds.ACTIVATIONS - {"softmax", "log_softmax", "glu", "prelu"}
) | {"batchnorm", "clip", "sqrt", "square", "abs", "neg", "rescaling"}  # fmt: skip
_KERNELS = ("kernel", "depthwise_kernel", "input_kernel")
_MOST = 1 << 22


@dataclass(frozen=True)
class Orders:
    """Which of their channels each of ours is, of what a step reads and of what it makes; None as they stand.

    Attributes:
        raw: their weights as they stand, where they were brought into another order.
        shapes: of tensors above that were flattened into what the step reads, without the batch.
        joined: whether what it reads was joined from several.
        turned: whether the flatten above, of either side, reads its axes in another order than they stand in.
    """

    inputs: Array | None = None
    outputs: Array | None = None
    raw: Mapping[str, Array] | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    joined: bool = False
    turned: bool = False


def orders(case: Case, ours: Step, theirs: Step) -> Orders:
    """The orders of two steps' channels; ``theirs`` is the twin of ours."""
    if not ours.weights and not theirs.weights:
        return Orders()
    shapes, joined = _above(case.ours, ours)
    inputs = outputs = None
    try:
        inputs = _inputs(case, ours, theirs)
        outputs = _outputs(case, ours, theirs)
    except (Unknown, ValueError, KeyError, IndexError):
        pass
    raw = theirs.weights if inputs is not None else None
    turned = bool(shapes) and (_turned(case.ours, ours) or _turned(case.theirs, theirs))
    return Orders(inputs, outputs, raw, shapes, joined, turned)


def brought(step: Step, role: str, values: Array, order: Orders) -> Array:
    """A weight of theirs in our order."""
    if order.inputs is not None:
        values = _taken(step, role, values, order.inputs, False)
    if order.outputs is not None:
        values = _taken(step, role, values, order.outputs, True)
    return values


def _taken(step: Step, role: str, values: Array, order: Array, made: bool) -> Array:
    if values.ndim == 1:
        fits = len(values) == len(order) and (made or step.kind in kinds.NORMALISATIONS or step.kind == "prelu")
        return values[order] if fits else values
    if role not in _KERNELS:
        return values
    axis = values.ndim - 1 if made else values.ndim - 2
    if values.shape[axis] == len(order):
        return np.take(values, order, axis)
    if values.shape[-2] == 1 and not made and values.shape[-1] % len(order) == 0:  # depthwise
        many = values.shape[-1] // len(order)
        return np.take(values.reshape(*values.shape[:-1], len(order), many), order, -2).reshape(values.shape)
    return values


def _above(side: Side, step: Step) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """Shapes of what was flattened into what a step reads, and whether it was joined."""
    structure = side.recording.structure
    shapes: list[tuple[int, ...]] = []
    joined = False
    name = step.inputs[0] if step.inputs else ""
    for _ in range(12):
        node = structure.by_name.get(name)
        if node is None:
            break
        if node.shape is not None and len(node.shape) > 2:
            shapes.append(tuple(node.shape[1:]))
        joined = joined or node.kind in ("concat", "stack")
        if not node.parents or node.kind not in _MOVING | _EACH:
            break
        name = node.parents[0]
    return tuple(dict.fromkeys(shapes)), joined


def _turned(side: Side, step: Step) -> bool:
    """Whether the flatten above a step gives another order than that of the axes that it reads."""
    recording = side.recording
    structure = recording.structure
    name = step.inputs[0] if step.inputs else ""
    for _ in range(12):
        node = structure.by_name.get(name)
        if node is None or not node.parents or node.kind not in _MOVING | _EACH:
            return False
        if node.kind in ("flatten", "reshape"):
            try:
                before, after = (
                    recording.read(recording.resolve(node.parents[0])),
                    recording.read(recording.resolve(name)),
                )
            except (TraceError, KeyError):
                return False
            return not np.array_equal(before.reshape(-1), after.reshape(-1))
        name = node.parents[0]
    return False


def _inputs(case: Case, ours: Step, theirs: Step) -> Array | None:
    program = case.theirs.program
    if not ours.inputs or not theirs.inputs or program is None:
        return None
    above = _chain(case.program, ours.inputs[0])
    if not _moved(case, above):
        return None
    numbers = _numbered(case)
    mine = _follow(case.program, {name: case.ways[name](numbers[twin]) for name, twin in case.ours.above.items()},
                   ours.inputs[0])  # fmt: skip
    its = _follow(program, numbers, program.step(theirs.name).inputs[0])
    return _matched(_channels(mine, ours), _channels(its, program.step(theirs.name)))


def _outputs(case: Case, ours: Step, theirs: Step) -> Array | None:
    """Where the result itself is compared in another order."""
    program = case.theirs.program
    if program is None or case.axes.get(case.ours.node.name) is not None:
        return None
    if ours is not case.program.last or theirs.name != program.last.name:
        return None
    shape = case.theirs.node.shape
    if shape is None or math.prod(shape) > _MOST:
        return None
    numbers = _ids(tuple(shape), 0)
    return _matched(_channels(case.way(numbers), ours), _channels(numbers, program.step(theirs.name)))


def _chain(program: Program, name: str) -> tuple[list[Step], list[str]]:
    """The steps that lead to a tensor, and the tensors at which they begin."""
    made = {step.name: step for step in program.steps}
    steps, begins, queue, seen = [], [], [name], {name}
    while queue:
        here = queue.pop()
        if here not in made:
            begins.append(here)
            continue
        steps.append(made[here])
        for parent in made[here].inputs:
            if parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return steps, begins


def _moved(case: Case, chain: tuple[list[Step], list[str]]) -> bool:
    """Whether the order of the channels may be another one there."""
    steps, begins = chain
    return any(step.kind in kinds.ARRANGING for step in steps) or any(case.axes.get(name) is None for name in begins)


def _numbered(case: Case) -> dict[str, Array]:
    """A number for each place of each tensor of theirs above."""
    found, start = {}, 0
    known = case.theirs.recording.structure.by_name
    for twin in dict.fromkeys((*case.ours.above.values(), *case.theirs.above)):
        shape = known[twin].shape
        if shape is None or math.prod(shape) > _MOST:
            raise Unknown("too large")
        found[twin] = _ids(tuple(shape), start)
        start += math.prod(shape)
    return found


def _ids(shape: tuple[int, ...], start: int) -> Array:
    return np.arange(start, start + math.prod(shape), dtype=np.float64).reshape(shape)


def _follow(program: Program, known: Mapping[str, Array], name: str) -> Array:
    """The numbers of a tensor. Raises Unknown where more is done than moving."""
    found = dict(known)
    wanted = {step.name for step in _chain(program, name)[0]}
    for step in program.steps:
        if step.name in wanted and step.name not in found:
            if step.kind in _EACH:
                found[step.name] = found[step.inputs[0]]
            elif step.kind in _MOVING:
                found[step.name] = operations.run(step, [found[source] for source in step.inputs])
            else:
                raise Unknown(f"{step.name} computes")
    return found[name]


def _channels(values: Array, step: Step) -> Array:
    """The numbers of the channels at one place."""
    axis = int(step.settings.get("channels", -1))
    found: Array = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])[0]
    return found


def _matched(mine: Array, its: Array) -> Array | None:
    if mine.shape != its.shape or not np.array_equal(np.sort(mine), np.sort(its)):
        return None
    order = np.argsort(its)[np.argsort(np.argsort(mine))]
    return None if np.array_equal(order, np.arange(len(order))) else order
