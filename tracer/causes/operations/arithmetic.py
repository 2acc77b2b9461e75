"""Arithmetic between tensors.

======================  =============================================================================================
kinds                   settings; weights
======================  =============================================================================================
``add`` ``sub`` ``mul``  ``operand`` (a number or an array that the recording does not show as an input; a learnt one
``div`` ``floor_div``    is the weight of that name), ``side`` of it (``left``, ``right``); ``alpha`` (of the right
``mod`` ``maximum``      side, ``add`` and ``sub``); ``order`` (which inputs, where one is read twice)
``minimum`` ``average``  ``expand`` (a shape to which the result is broadcast)
``power``
``squared_difference``
``rescaling``           ``scale``, ``offset`` (learnt ones are weights)
``normalization``       ``epsilon``, ``invert``; ``mean``, ``variance`` in shapes that broadcast
``matmul``              ``equation`` (of einsum, or None), ``transpose_a``, ``transpose_b``, ``operand``, ``side``,
                        ``alpha``, ``added`` (which input is added, times ``beta``); ``operand``, ``bias``
``dot``                 ``axes`` (one of each side), ``normalize``
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step

_TWO: dict[str, Callable[[Array, Array], Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "floor_div": np.floor_divide,
    "mod": np.mod,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "average": np.add,
    "power": np.power,
    "squared_difference": lambda a, b: np.square(a - b),
}


def operands(step: Step, inputs: Sequence[Array]) -> list[Array]:
    """What an operation works on, in order: its inputs and what the recording did not show as one."""
    order = step.settings.get("order")
    found = list(inputs) if order is None else [inputs[place] for place in order]
    other = step.weights.get("operand", step.settings.get("operand"))
    if other is not None:
        value = np.asarray(other)
        found = [value, *found] if step.settings.get("side") == "left" else [*found, value]
    return found


@operation(*_TWO)
def combine(step: Step, inputs: Sequence[Array]) -> Array:
    """``a op b op c …``, each broadcast to the others."""
    found = operands(step, inputs)
    alpha = step.settings.get("alpha", 1)
    if alpha != 1 and len(found) == 2:
        found = [found[0], found[1] * alpha]
    if step.kind in ("power", "sub", "add", "mul"):
        found = [value.astype(np.int64) if value.dtype == np.bool_ else value for value in found]
    if step.kind == "power" and all(value.dtype.kind in "iu" for value in found):
        found = [found[0].astype(np.float64), *found[1:]]
    result = np.asarray(reduce(_TWO[step.kind], found))
    expand = step.settings.get("expand")
    result = result if expand is None else np.broadcast_to(result, expand)
    return np.asarray(result / len(found)) if step.kind == "average" else result


@operation("rescaling")
def rescaling(step: Step, inputs: Sequence[Array]) -> Array:
    """``x · scale + offset``."""
    scale, offset = (np.asarray(step.weights.get(word, step.settings.get(word))) for word in ("scale", "offset"))
    return np.asarray(np.asarray(inputs[0], np.float64) * scale + offset)


@operation("normalization")
def normalization(step: Step, inputs: Sequence[Array]) -> Array:
    """``(x − mean) / max(√variance, epsilon)``, or back."""
    deviation = np.maximum(np.sqrt(step.weights["variance"]), step.settings.get("epsilon", 1e-7))
    if step.settings.get("invert"):
        return np.asarray(inputs[0] * deviation + step.weights["mean"])
    return np.asarray((inputs[0] - step.weights["mean"]) / deviation)


@operation("matmul")
def matmul(step: Step, inputs: Sequence[Array]) -> Array:
    """A product over the last axis of the left and the last but one of the right, or as the equation says."""
    added = step.settings.get("added")
    found = operands(step, [value for place, value in enumerate(inputs) if place != added])
    equation = step.settings.get("equation")
    if equation is not None:
        result = einsum(equation, *found)
    else:
        left, right = found
        left = np.swapaxes(left, -1, -2) if step.settings.get("transpose_a") else left
        right = np.swapaxes(right, -1, -2) if step.settings.get("transpose_b") else right
        result = np.matmul(left, right)
    result = result * step.settings.get("alpha", 1)
    if added is not None:
        result = result + inputs[added] * step.settings.get("beta", 1)
    bias = step.weights.get("bias")
    return np.asarray(result if bias is None else result + bias)


@cache
def _path(equation: str, shapes: tuple[tuple[int, ...], ...]) -> Any:
    return np.einsum_path(equation, *(np.broadcast_to(0.0, shape) for shape in shapes), optimize="optimal")[0]


def einsum(equation: str, *values: Array) -> Array:
    """numpy's, with the products through BLAS."""
    path = _path(equation, tuple(value.shape for value in values))
    return np.asarray(np.einsum(equation, *values, optimize=path))


@operation("dot")
def dot(step: Step, inputs: Sequence[Array]) -> Array:
    """Keras's Dot: a product over one axis of each, the batch kept together."""
    left, right = operands(step, inputs)
    axes = step.settings.get("axes")
    if axes is None:
        return np.asarray(np.dot(left, right))
    one, other = ([axes, axes] if isinstance(axes, int) else axes)  # fmt: skip
    if step.settings.get("normalize"):
        left, right = _unit(left, one), _unit(right, other)
    left, right = np.moveaxis(left, one, -1), np.moveaxis(right, other, -1)
    rows, columns = (values.reshape(len(values), -1, values.shape[-1]) for values in (left, right))
    shape = (*left.shape[:-1], *right.shape[1:-1])
    return np.asarray(rows @ np.swapaxes(columns, 1, 2)).reshape(shape if len(shape) > 1 else (len(left), 1))


def _unit(values: Array, axis: int) -> Array:
    return np.asarray(values / np.sqrt(np.maximum(np.square(values).sum(axis, keepdims=True), 1e-12)))
