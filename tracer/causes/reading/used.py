"""Kernels that a layer does not use as it keeps them: standardised, of length one, positive, masked.

What is done to a kernel is no node of the graph. Each way that people write is tried on the layer's own input and
output, and believed where it gives what was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracer.causes import operations
from tracer.causes.operations.kernels import FUNCTIONS
from tracer.causes.reading import Read, inferring
from tracer.causes.step import Array, Step, Unknown

_OWN = frozenset({
    "Dense", "EinsumDense", "Linear", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D", "Conv1d",
    "Conv2d", "Conv3d", "LazyLinear", "NonDynamicallyQuantizableLinear", "TFConv1D",
})  # fmt: skip
"""Layers of the frameworks, which use their kernels as they are."""
_EPSILONS = (1e-5, 1e-4, 1e-3, 1e-6, 1e-8, 1e-10, 1e-12, 1e-7, 0.0)
_MOST = 1024
"""Numbers of a kernel for one output at most whose mask is solved for."""
_LARGEST = 4_000_000
"""Numbers of what a layer reads and gives at most for which this is asked."""


def as_used(read: Read, step: Step) -> Step:
    """The step with what is done to its kernel, where that alone gives what was recorded."""
    kernel = step.weights.get("kernel")
    if kernel is None or kernel.ndim < 2 or read.node.label in _OWN or len(step.inputs) != 1 or not _small(read):
        return step
    terms = float(kernel.size // kernel.shape[-1])
    if inferring.reproduces(read, step, terms=terms):
        return step
    for gain in (*_gains(read, kernel), None):
        for way in ({}, *_ways(read, step, kernel)) if gain is not None else _ways(read, step, kernel):
            found = step.set(**way).weigh(gain=gain)
            if inferring.reproduces(read, found, terms=terms):
                return found
    return step


def _gains(read: Read, kernel: Array) -> Iterator[Array]:
    """Weights of the layer by which the kernel of each output may be multiplied: the lengths of a weight norm."""
    taken = {read.owned.get("kernel"), read.owned.get("bias")}
    for param in read.params:
        if param.name not in taken and math.prod(param.shape) == kernel.shape[-1]:
            yield read.named(param.name).reshape(-1)


def _small(read: Read) -> bool:
    try:
        return math.prod(read.source()) + math.prod(read.shape) <= _LARGEST
    except Unknown:
        return False


def _ways(read: Read, step: Step, kernel: Array) -> Iterator[dict[str, Any]]:
    for form in FUNCTIONS:
        yield {"use_form": form}
    last = kernel.ndim - 1
    over = (tuple(range(last)), (*range(last - 1), last), tuple(range(last + 1)), tuple(range(last - 1)))
    for axes in dict.fromkeys(axes for axes in over if axes):
        for epsilon in _EPSILONS:
            yield {"use_form": "unit", "use_axes": axes, "use_epsilon": epsilon}
            for centred in (True, False):
                for ddof in (0, 1):
                    for root in (True, False) if epsilon else (True,):
                        told = {"use_axes": axes, "use_epsilon": epsilon, "use_ddof": ddof, "use_root": root}
                        yield {"use_form": "standardised", **told, "use_centred": centred}
    mask = _mask(read, step, kernel)
    if mask is not None:
        yield {"use_form": "masked", "use_mask": mask}


def _mask(read: Read, step: Step, kernel: Array) -> Array | None:
    """Which numbers of a kernel count, solved for from what the layer read and gave."""
    count = kernel.size // kernel.shape[-1]
    if count > _MOST or step.settings.get("groups", 1) != 1 or step.settings.get("activation"):
        return None
    each = np.eye(count).reshape(*kernel.shape[:-1], count)
    columns = step.weigh(kernel=each, bias=None)
    try:
        x = operations.run(columns, [read.recorded(name) for name in step.inputs])
        y = inferring.result(read)
    except Unknown:
        return None
    channels = int(step.settings.get("channels", -1))
    rows, given = (np.moveaxis(values, channels, -1).reshape(-1, values.shape[channels]) for values in (x, y))
    if not count <= len(rows) == len(given) or given.shape[1] != kernel.shape[-1]:
        return None
    found = np.linalg.lstsq(rows, given - step.weights.get("bias", 0.0), rcond=None)[0].reshape(kernel.shape)
    share = np.abs(found) / np.maximum(np.abs(kernel), 1e-12)
    mask = np.asarray(share > 0.5, np.float64)
    return mask if mask.any() and not mask.all() else None
