"""What a layer does to its kernel before it uses it.

======================  =============================================================================================
settings of a layer with a ``kernel`` (…, in, out)
--------------------------------------------------------------------------------------------------------------------
``use_form``            ``standardised``, ``unit`` (divided by its length), ``masked``, or a function of each number
``use_axes``            over which; ``use_epsilon`` (for ``unit`` the least length), ``use_ddof``, ``use_root``
                        (whether epsilon is under the root or beside it), ``use_centred`` (whether the mean is taken
                        away)
``use_mask``            which numbers count
weight ``gain``         a factor for each output, as the length that a weight norm learns
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tracer.causes.operations.special import expit
from tracer.causes.step import Array

FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    "abs": np.abs, "square": np.square, "exponential": np.exp, "softplus": lambda k: np.logaddexp(0, k),
    "relu": lambda k: np.maximum(k, 0), "sigmoid": expit, "tanh": np.tanh, "sign": np.sign,
}  # fmt: skip
PREFIX = "use_"


def used(weights: Mapping[str, Array], settings: Mapping[str, Any]) -> Array:
    """The kernel as the layer uses it, that of each output times its ``gain`` where there is one."""
    found = _formed(weights["kernel"], settings)
    return found if "gain" not in weights else np.asarray(found * weights["gain"])


def _formed(kernel: Array, settings: Mapping[str, Any]) -> Array:
    form = settings.get("use_form")
    if form is None or form == "plain":
        return kernel
    if form in FUNCTIONS:
        return np.asarray(FUNCTIONS[form](kernel))
    if form == "masked":
        return np.asarray(kernel * settings["use_mask"])
    axes, epsilon = tuple(settings["use_axes"]), float(settings["use_epsilon"])
    if form == "unit":
        return np.asarray(kernel / np.maximum(np.sqrt(np.square(kernel).sum(axes, keepdims=True)), epsilon))
    variance = kernel.var(axes, ddof=int(settings["use_ddof"]), keepdims=True)
    deviation = np.sqrt(variance + epsilon) if settings["use_root"] else np.sqrt(variance) + epsilon
    centred = kernel - kernel.mean(axes, keepdims=True) if settings["use_centred"] else kernel
    return np.asarray(centred / deviation)
