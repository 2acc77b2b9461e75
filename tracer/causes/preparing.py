"""What is done to a model's input before its layers read it."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import numpy as np

from tracer import kinds
from tracer.causes.case import Side
from tracer.causes.scores import PRODUCTS, SCALING
from tracer.causes.step import Step
from tracer.errors import TraceError

_PREPARING = (
    SCALING | kinds.REDUCTIONS | kinds.ELEMENTWISE | kinds.UNCHANGED | {"power", "clip", "maximum", "minimum", "full"}
) | {"expand_dims", "squeeze", "global_max_pool", "global_avg_pool"}
_SIZING = frozenset({"resize", "upsample", "crop"})
"""What gives a picture another size, and leaves it a picture."""
_STATISTICAL = SCALING - {"add"}
"""What is kept as a weight there are means and deviations of a data set; of what is added it may be anything."""
_FLOATING = ("float", "bfloat", "uint8")


def of_input(step: Step, side: Side) -> bool:
    """Whether a step is part of the model's preprocessing: of what is computed of the input alone, and meets nothing
    else before a layer reads it. What is larger than the input, such as the distances of all its points, is made of
    it; what weighs other tensors, such as the links of a graph, is no measurement, nor is a mask beside it."""
    if is_table(step) or _larger(step, side) or of_a_mask(step, side):
        return False
    own = _PREPARING | kinds.LAYOUT_ONLY | _SIZING
    learnt = bool(step.weights) and step.kind not in _STATISTICAL
    if step.kind not in _PREPARING or learnt or not _of_the_input(step.inputs, side, own):
        return False
    structure, names, seen = side.recording.structure, [step.name], set[str]()
    while names:
        for child in map(structure.by_name.__getitem__, structure.children.get(names.pop(), ())):
            if child.kind in PRODUCTS and len(child.parents) > 1 and not _of_the_input(child.parents, side, own):
                return False
            if child.kind in own and child.name not in seen:
                seen.add(child.name)
                names.append(child.name)
                if not _of_the_input(child.parents, side, own):
                    return False
    return True


def _larger(step: Step, side: Side) -> bool:
    """Whether a step gives more values than any input has."""
    sizes = [math.prod(node.shape) for node in side.recording.structure.inputs if node.shape is not None]
    return step.shape is not None and bool(sizes) and math.prod(step.shape) > max(sizes)


def of_a_mask(step: Step, side: Side) -> bool:
    """Whether what a step reads are zeros and ones, and the model is given more than these."""
    given = {node.name for node in side.recording.structure.inputs}
    read = {side.recording.resolve(name) for name in step.inputs}
    if len(given) == 1 and read & given:
        return False
    try:
        return bool(read) and all(bool(np.isin(side.read(name), (0, 1)).all()) for name in read)
    except (TraceError, KeyError):
        return False


def _of_the_input(names: Sequence[str], side: Side, through: Container[str]) -> bool:
    """Whether tensors are made of the model's input, of floating type, by operations of some kinds and constants."""
    known, left, seen, found = side.recording.structure.by_name, [*names], set[str](), False
    while left:
        name = side.recording.resolve(left.pop())
        if name in seen or name not in known:
            continue
        seen.add(name)
        node = known[name]
        if node.role == "input":
            found = True
            if not (node.dtype or "float").startswith(_FLOATING):
                return False
        elif (node.params and node.kind not in _STATISTICAL) or (node.parents and node.kind not in through):
            return False
        left += node.parents
    return found


def at_input(step: Step, side: Side) -> bool:
    """Whether a step reads the model's input, or several beside one another, through nothing that computes but a
    picture's size."""
    return _of_the_input(step.inputs, side, SCALING | kinds.LAYOUT_ONLY | _SIZING | {"concat"})


def is_table(step: Step) -> bool:
    """Whether what a step adds or multiplies by varies along both axes of a square: a matrix, as of a graph, and no
    mean or deviation."""
    operand = np.squeeze(np.asarray(step.weights.get("operand", step.settings.get("operand", 0.0))))
    return operand.ndim == 2 and operand.shape[0] == operand.shape[1]
