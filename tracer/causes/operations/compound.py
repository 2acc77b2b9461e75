"""Functions that do several things in one, and values in their order.

======================  =============================================================================================
kinds                   settings
======================  =============================================================================================
``addcmul`` ``addcdiv``  ``alpha``: a + alpha · b · c, or b / c
``lerp``                ``weight`` where no third input is: a · (1 − w) + b · w
``cosine_similarity``   ``axis``, ``epsilon`` (the least length)
``median``              ``axis``, ``keepdims``; the lower of two in the middle, as PyTorch takes it
``sort``                ``axis``, ``descending``, ``count`` (how many of them; None: all), ``places`` (the numbers of
                        the values, not these)
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step


@operation("addcmul", "addcdiv")
def product_added(step: Step, inputs: Sequence[Array]) -> Array:
    """``a + alpha · b · c``, or ``b / c``."""
    first, one, other = inputs
    joined = one * other if step.kind == "addcmul" else one / other
    return np.asarray(first + step.settings.get("alpha", 1.0) * joined)


@operation("lerp")
def between_two(step: Step, inputs: Sequence[Array]) -> Array:
    """``a · (1 − w) + b · w``."""
    weight = inputs[2] if "weight" not in step.settings else step.settings["weight"]
    return np.asarray(inputs[0] * (1 - weight) + inputs[1] * weight)


@operation("cosine_similarity")
def cosine(step: Step, inputs: Sequence[Array]) -> Array:
    """``a · b / (|a| |b|)`` along an axis."""
    axis, least = step.settings["axis"], step.settings.get("epsilon", 1e-8)
    one, other = np.broadcast_arrays(*inputs)
    lengths = [np.maximum(np.sqrt(np.square(values).sum(axis)), least) for values in (one, other)]
    return np.asarray((one * other).sum(axis) / (lengths[0] * lengths[1]))


@operation("median")
def median(step: Step, inputs: Sequence[Array]) -> Array:
    """The lower of the two in the middle."""
    axis = step.settings["axis"]
    middle = np.take(np.sort(inputs[0], axis), [(inputs[0].shape[axis] - 1) // 2], axis)
    return middle if step.settings.get("keepdims") else np.squeeze(middle, axis)


@operation("sort")
def in_order(step: Step, inputs: Sequence[Array]) -> Array:
    """All values along an axis in order, or the first of them; or where they stood."""
    axis, down = step.settings["axis"], bool(step.settings.get("descending"))
    if step.settings.get("places"):
        values = np.argsort(-inputs[0] if down else inputs[0], axis, kind="stable")
    else:
        values = np.sort(inputs[0], axis)
        values = np.flip(values, axis) if down else values
    count = step.settings.get("count")
    return np.asarray(values if count is None else np.take(values, range(count), axis))
