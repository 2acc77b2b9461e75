"""Activations, and what else is computed of every value on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tracer.causes.operations import operation, special
from tracer.causes.step import Array, Step, Unknown

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805
Settings = Mapping[str, Any]


def _sigmoid(x: Array) -> Array:
    return np.asarray(special.expit(x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


_PLAIN: dict[str, Callable[[Array], Array]] = {
    "selu": lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "exponential": np.exp,
    "log_sigmoid": lambda x: -_softplus(-x),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "neg": np.negative,
    "abs": np.abs,
    "sign": np.sign,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "square": np.square,
    "reciprocal": lambda x: 1 / np.asarray(x, np.float64),
    "log": np.log,
    "log1p": np.log1p,
    "log2": np.log2,
    "expm1": np.expm1,
    "erf": special.erf,
    "erfc": special.erfc,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "nan_to_num": np.nan_to_num,
    "logical_not": np.logical_not,
    "isnan": np.isnan,
    "isinf": np.isinf,
    "isfinite": np.isfinite,
}


@operation(*_PLAIN)
def _plain(step: Step, inputs: Sequence[Array]) -> Array:
    return _PLAIN[step.kind](inputs[0])


@operation("relu", "relu6", "leaky_relu")
def _relu(step: Step, inputs: Sequence[Array]) -> Array:
    x, settings = inputs[0], step.settings
    threshold = float(settings.get("threshold", 0.0))
    slope = float(settings.get("negative_slope", 0.01 if step.kind == "leaky_relu" else 0.0))
    limit = settings.get("max_value", 6.0 if step.kind == "relu6" else None)
    y = np.where(x >= threshold, x, slope * (x - threshold))
    return y if limit is None else np.minimum(y, float(limit))


@operation("prelu")
def _prelu(step: Step, inputs: Sequence[Array]) -> Array:
    x, alpha = inputs[0], step.weights["alpha"]
    return np.where(x > 0, x, alpha * x)


@operation("elu", "celu")
def _elu(step: Step, inputs: Sequence[Array]) -> Array:
    x, alpha = inputs[0], float(step.settings.get("alpha", 1.0))
    below = np.minimum(x, 0)
    return np.where(x > 0, x, alpha * np.expm1(below / alpha if step.kind == "celu" else below))


@operation("gelu")
def _gelu(step: Step, inputs: Sequence[Array]) -> Array:
    x, approximate = inputs[0], step.settings["approximate"]
    if approximate == "none":
        return np.asarray(0.5 * x * (1 + special.erf(x / np.sqrt(2))))
    if approximate == "tanh":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))
    if approximate == "sigmoid":
        return x * _sigmoid(1.702 * x)
    raise Unknown(f"gelu approximated by '{approximate}' is not known")


@operation("softplus")
def _smooth(step: Step, inputs: Sequence[Array]) -> Array:
    # Above a threshold PyTorch gives x itself; in float64 that is seen only where the threshold is low.
    x, beta, threshold = inputs[0], float(step.settings.get("beta", 1.0)), step.settings.get("threshold")
    y = _softplus(beta * x) / beta
    return y if threshold is None else np.where(beta * x > float(threshold), x, y)


@operation("hard_sigmoid", "hard_silu")
def _hard_sigmoid(step: Step, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    gate = np.clip(float(step.settings.get("slope", 1 / 6)) * x + float(step.settings.get("offset", 0.5)), 0, 1)
    return gate if step.kind == "hard_sigmoid" else x * gate


@operation("hard_tanh")
def _hard_tanh(step: Step, inputs: Sequence[Array]) -> Array:
    return np.clip(inputs[0], float(step.settings.get("min_value", -1.0)), float(step.settings.get("max_value", 1.0)))


@operation("clip")
def _clip(step: Step, inputs: Sequence[Array]) -> Array:
    low, high = (step.settings.get(word) for word in ("min_value", "max_value"))
    if low is None and high is None:
        return inputs[0]
    return np.clip(inputs[0], None if low is None else np.asarray(low), None if high is None else np.asarray(high))


@operation("threshold")
def _threshold(step: Step, inputs: Sequence[Array]) -> Array:
    x = inputs[0]
    return np.where(x > float(step.settings["threshold"]), x, float(step.settings.get("value", 0.0)))


@operation("hard_shrink", "soft_shrink")
def _shrink(step: Step, inputs: Sequence[Array]) -> Array:
    x, limit = inputs[0], float(step.settings.get("threshold", 0.5))
    if step.kind == "hard_shrink":
        return np.where(np.abs(x) > limit, x, 0.0)
    return np.sign(x) * np.maximum(np.abs(x) - limit, 0)


_HIDDEN = -1e30
"""In place of what a mask hides: where all is hidden, all count alike."""


@operation("softmax", "log_softmax")
def _softmax(step: Step, inputs: Sequence[Array]) -> Array:
    x, axis = inputs[0], _axes(step.settings["axis"])
    x = -x if step.settings.get("negated") else x
    if not np.ndim(x):
        raise Unknown("a single number has no axis")
    function = special.softmax if step.kind == "softmax" else special.log_softmax
    masked = step.settings.get("masked")
    if masked is None:
        return np.asarray(function(x, axis=axis))
    kept = np.asarray(inputs[1], bool)
    found = np.asarray(function(np.where(kept, x, _HIDDEN), axis=axis))
    return found * kept if masked == "zeros" else found


@operation("glu")
def _glu(step: Step, inputs: Sequence[Array]) -> Array:
    a, b = np.split(inputs[0], 2, axis=int(step.settings["axis"]))
    return np.asarray(a * _sigmoid(b))


@operation("identity", "dropout")
def _identity(step: Step, inputs: Sequence[Array]) -> Array:
    if not inputs:
        raise Unknown("what it reads was not recorded")
    if step.shape is None:
        return inputs[0]
    # Nothing, joined with something, is among what it reads.
    return next((values for values in inputs if values.shape == step.shape), inputs[0])


@operation("cast")
def _cast(step: Step, inputs: Sequence[Array]) -> Array:
    dtype = step.settings.get("dtype")
    if dtype == "bool":
        return np.asarray(inputs[0] != 0)
    if str(dtype).startswith(("int", "uint")):
        return np.trunc(inputs[0]).astype(str(dtype))
    return np.asarray(inputs[0], np.float64) if str(dtype).startswith(("float", "bfloat")) else inputs[0]


def _axes(value: Any) -> int | tuple[int, ...] | None:
    """``axis`` of numpy: one, several, or None for all."""
    if value is None or isinstance(value, int):
        return value
    return tuple(int(axis) for axis in value)


def _variance(x: Array, axes: Any, keeps: bool, settings: Settings) -> Array:
    return np.asarray(np.var(x, axis=axes, keepdims=keeps, ddof=int(settings.get("ddof", 0))))


def _deviation(x: Array, axes: Any, keeps: bool, settings: Settings) -> Array:
    variance, epsilon = _variance(x, axes, keeps, settings), float(settings.get("epsilon", 0.0))
    beside = settings.get("form") == "deviation"
    return np.asarray(np.sqrt(variance) + epsilon if beside else np.sqrt(variance + epsilon))


def _norm(x: Array, axes: Any, keeps: bool, settings: Settings) -> Array:
    order = float(settings.get("order", 2))
    size = np.abs(x)
    if np.isinf(order):
        return np.asarray((np.max if order > 0 else np.min)(size, axis=axes, keepdims=keeps))
    if order == 0:
        return np.asarray(np.sum(size != 0, axis=axes, keepdims=keeps))
    return np.asarray(np.power(np.sum(np.power(size, order), axis=axes, keepdims=keeps), 1 / order))


_REDUCED: dict[str, Callable[[Array, Any, bool, Settings], Array]] = {
    "sum": lambda x, axes, keeps, _: np.sum(x, axis=axes, keepdims=keeps),
    "prod": lambda x, axes, keeps, _: np.prod(x, axis=axes, keepdims=keeps),
    "mean": lambda x, axes, keeps, _: np.mean(x, axis=axes, keepdims=keeps),
    "amax": lambda x, axes, keeps, _: np.max(x, axis=axes, keepdims=keeps),
    "amin": lambda x, axes, keeps, _: np.min(x, axis=axes, keepdims=keeps),
    "all": lambda x, axes, keeps, _: np.all(x, axis=axes, keepdims=keeps),
    "any": lambda x, axes, keeps, _: np.any(x, axis=axes, keepdims=keeps),
    "logsumexp": lambda x, axes, keeps, _: special.logsumexp(x, axis=axes, keepdims=keeps),
    "argmax": lambda x, axes, keeps, _: np.argmax(x, axis=axes, keepdims=keeps),
    "argmin": lambda x, axes, keeps, _: np.argmin(x, axis=axes, keepdims=keeps),
    "var": _variance,
    "std": _deviation,
    "norm": _norm,
}


@operation(*_REDUCED)
def _reduced(step: Step, inputs: Sequence[Array]) -> Array:
    axes = _axes(step.settings.get("axes"))
    if step.kind.startswith("arg") and isinstance(axes, tuple):
        if len(axes) != 1:
            raise Unknown(f"{step.kind} is of one axis")
        axes = axes[0]
    return _REDUCED[step.kind](inputs[0], axes, bool(step.settings.get("keepdims")), step.settings)


_COMPARED: dict[str, Callable[[Array, Array], Array]] = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "atan2": np.arctan2,
}


@operation(*_COMPARED)
def _compared(step: Step, inputs: Sequence[Array]) -> Array:
    if len(inputs) == 2:
        return _COMPARED[step.kind](inputs[0], inputs[1])
    operand = np.asarray(step.settings["operand"])
    ways = (operand, inputs[0]) if step.settings.get("side") == "left" else (inputs[0], operand)
    return _COMPARED[step.kind](*ways)
