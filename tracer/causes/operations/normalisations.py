"""Normalisations: what is subtracted, what is divided by, and over which axes both are taken."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step, Unknown


def _along(values: Array, rank: int, axis: int) -> Array:
    """One number a channel, to be broadcast against ``rank`` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def _scaled(step: Step, y: Array, axis: int) -> Array:
    gamma, beta = step.weights.get("gamma"), step.weights.get("beta")
    if gamma is not None:
        y = y * _along(gamma, y.ndim, axis)
    return y if beta is None else y + _along(beta, y.ndim, axis)


@operation("batchnorm")
def _batchnorm(step: Step, inputs: Sequence[Array]) -> Array:
    x, channels = inputs[0], int(step.settings["channels"])
    if step.settings.get("mode", "eval") == "train":
        others = tuple(axis for axis in range(x.ndim) if axis != channels % x.ndim)
        mean, var = x.mean(axis=others), x.var(axis=others, ddof=int(step.settings.get("ddof", 0)))
    else:
        mean, var = step.weights["running_mean"], step.weights["running_var"]
    if mean.size != x.shape[channels]:
        raise Unknown(f"{mean.size} statistics do not fit {x.shape[channels]} channels")
    scale = 1 / np.sqrt(var + float(step.settings["epsilon"]))
    gamma, beta = step.weights.get("gamma"), step.weights.get("beta")
    y = x - _along(mean, x.ndim, channels)
    y *= _along(scale if gamma is None else scale * gamma, x.ndim, channels)
    return y if beta is None else np.add(y, _along(beta, x.ndim, channels), out=y)


@operation("layernorm")
def _layernorm(step: Step, inputs: Sequence[Array]) -> Array:
    x, axes = inputs[0], _axes(step, inputs[0])
    mean = x.mean(axis=axes, keepdims=True)
    var = x.var(axis=axes, keepdims=True, ddof=int(step.settings.get("ddof", 0)))
    return _shaped(step, (x - mean) / _divisor(step, var), axes)


@operation("rmsnorm")
def _rmsnorm(step: Step, inputs: Sequence[Array]) -> Array:
    x, axes = inputs[0], _axes(step, inputs[0])
    square = np.square(x).mean(axis=axes, keepdims=True)
    return _shaped(step, x / _divisor(step, square), axes)


def _divisor(step: Step, var: Array) -> Array:
    epsilon, form = float(step.settings["epsilon"]), step.settings.get("form", "root")
    if form == "variance":
        return np.asarray(var + epsilon)
    return np.asarray(np.sqrt(var) + epsilon if form == "deviation" else np.sqrt(var + epsilon))


def _axes(step: Step, x: Array) -> tuple[int, ...]:
    if not x.ndim:
        raise Unknown("a single number is no sample to normalise")
    return tuple(sorted(int(axis) % x.ndim for axis in step.settings["axes"]))


def _shaped(step: Step, y: Array, axes: tuple[int, ...]) -> Array:
    """Scaled and shifted by weights with one axis for each of ``axes``."""
    shape = [y.shape[axis] if axis in axes else 1 for axis in range(y.ndim)]
    gamma, beta = step.weights.get("gamma"), step.weights.get("beta")
    if gamma is not None:
        y = y * (gamma if gamma.size == 1 else gamma.reshape(shape))
    return y if beta is None else y + (beta if beta.size == 1 else beta.reshape(shape))


@operation("groupnorm")
def _groupnorm(step: Step, inputs: Sequence[Array]) -> Array:
    x, channels, groups = inputs[0], int(step.settings["channels"]), int(step.settings["groups"])
    moved = np.moveaxis(x, channels, 1)
    if groups < 1 or moved.shape[1] % groups:
        raise Unknown(f"{moved.shape[1]} channels do not make {groups} groups")
    parts = moved.reshape(moved.shape[0], groups, -1)
    mean = parts.mean(axis=2, keepdims=True)
    var = parts.var(axis=2, keepdims=True, ddof=int(step.settings.get("ddof", 0)))
    y = ((parts - mean) / np.sqrt(var + float(step.settings["epsilon"]))).reshape(moved.shape)
    return np.moveaxis(_scaled(step, y, 1), 1, channels)


@operation("instancenorm")
def _instancenorm(step: Step, inputs: Sequence[Array]) -> Array:
    x, channels = inputs[0], int(step.settings["channels"])
    if step.settings.get("mode") == "eval":  # with statistics that were tracked
        return _batchnorm(step, inputs)
    # Without a batch axis the channels are the first.
    spatial = tuple(axis for axis in range(x.ndim) if axis != channels % x.ndim)
    batch = int(step.settings.get("batch", 0))
    spatial = tuple(axis for axis in spatial if axis != batch)
    mean, var = x.mean(axis=spatial, keepdims=True), x.var(axis=spatial, keepdims=True)
    return _scaled(step, (x - mean) / np.sqrt(var + float(step.settings["epsilon"])), channels)


@operation("lrn")
def _lrn(step: Step, inputs: Sequence[Array]) -> Array:
    moved = np.moveaxis(inputs[0], int(step.settings["channels"]), -1)
    before, after = step.settings["window"]
    square = np.pad(np.square(moved), [(0, 0)] * (moved.ndim - 1) + [(int(before), int(after))])
    total = np.lib.stride_tricks.sliding_window_view(square, int(before) + int(after) + 1, axis=-1).sum(-1)
    base = float(step.settings["offset"]) + float(step.settings["alpha"]) * total
    return np.moveaxis(moved / base ** float(step.settings["beta"]), -1, int(step.settings["channels"]))


@operation("l2_normalize")
def _l2_normalize(step: Step, inputs: Sequence[Array]) -> Array:
    x, axes = inputs[0], _axes(step, inputs[0])
    epsilon, form = float(step.settings["epsilon"]), step.settings.get("form", "max")
    order = float(step.settings.get("order", 2))
    if order == 2:
        norm = np.sqrt(np.square(x).sum(axis=axes, keepdims=True))
    elif order == np.inf:
        norm = np.abs(x).max(axis=axes, keepdims=True)
    else:
        norm = np.power(np.power(np.abs(x), order).sum(axis=axes, keepdims=True), 1 / order)
    if form == "max":
        norm = np.maximum(norm, epsilon)
    elif form == "maxsquare":
        norm = np.sqrt(np.maximum(np.square(norm), epsilon))
    elif form == "add":
        norm = norm + epsilon
    elif form == "addsquare":
        norm = np.sqrt(np.square(norm) + epsilon)
    else:
        raise Unknown(f"'{form}' is not known")
    return _shaped(step, x / norm, axes)
