"""Dense layers, convolutions and pools.

Windows go through BLAS: what a part of the output reads is gathered into a matrix, as much at a time as ``_MOST``
numbers hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.operations.kernels import used
from tracer.causes.step import Array, Step, Unknown, numbers, pairs_of

_MOST = 8_000_000
_MODES = {"reflect": "reflect", "symmetric": "symmetric", "replicate": "edge", "circular": "wrap"}
Pairs = tuple[tuple[int, int], ...]


def padded(x: Array, pairs: Pairs, mode: str = "zeros", value: float = 0.0) -> Array:
    """``x`` with ``pairs`` of lengths added on every axis; negative ones cut. Raises Unknown for a mode not known."""
    cut = tuple(slice(max(0, -a), size - max(0, -b)) for size, (a, b) in zip(x.shape, pairs, strict=True))
    x = x[cut]
    pairs = tuple((max(0, a), max(0, b)) for a, b in pairs)
    if not any(map(any, pairs)):
        return x
    if mode in ("zeros", "constant"):
        return np.pad(x, pairs, constant_values=value)
    if mode not in _MODES:
        raise Unknown(f"padding '{mode}' is not known")
    return np.pad(x, pairs, mode=_MODES[mode])  # type: ignore[call-overload,no-any-return]


class _Pictures:
    """The input as (pictures, spatial…, channels), and the way back to the axes it came in."""

    def __init__(self, x: Array, rank: int, channels: int) -> None:
        if x.ndim < rank + 1:
            raise Unknown(f"{x.ndim} axes are too few")
        self.channels = channels if channels < 0 else channels - x.ndim
        moved = np.moveaxis(x, self.channels, -1)
        self.leading = moved.shape[: -rank - 1]
        self.x = moved.reshape(-1, *moved.shape[-rank - 1 :])

    def back(self, y: Array) -> Array:
        return np.moveaxis(y.reshape(*self.leading, *y.shape[1:]), -1, self.channels)


@operation("dense")
def _dense(step: Step, inputs: Sequence[Array]) -> Array:
    kernel = used(step.weights, step.settings)
    # Kernels with more axes (EinsumDense) contract the last axes of the input with their first ones.
    contracted = int(step.settings.get("contracted", 1))
    x = inputs[0]
    if x.shape[x.ndim - contracted :] != kernel.shape[:contracted]:
        raise Unknown(f"{x.shape} does not fit a kernel of {kernel.shape}")
    rows = int(np.prod(x.shape[: x.ndim - contracted]))
    matrix = kernel.reshape(int(np.prod(kernel.shape[:contracted])), -1)
    y = x.reshape(rows, matrix.shape[0]) @ matrix
    return _finished(step, y.reshape(x.shape[: x.ndim - contracted] + kernel.shape[contracted:]))


@operation("bilinear")
def _bilinear(step: Step, inputs: Sequence[Array]) -> Array:
    first, second = inputs
    return _finished(step, np.einsum("...i,oij,...j->...o", first, step.weights["kernel"], second, optimize=True))


@operation("conv1d", "conv2d", "conv3d", "depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d")
def _conv(step: Step, inputs: Sequence[Array]) -> Array:
    kernel = used(step.weights, step.settings)
    pictures = _Pictures(inputs[0], kernel.ndim - 2, int(step.settings.get("channels", -1)))
    y = convolved(pictures.x, kernel, step.settings)
    return _laid(step, pictures, y)


@operation("separable_conv1d", "separable_conv2d", "separable_conv3d")
def _separable(step: Step, inputs: Sequence[Array]) -> Array:
    depthwise, kernel = step.weights["depthwise_kernel"], step.weights["kernel"]
    pictures = _Pictures(inputs[0], kernel.ndim - 2, int(step.settings.get("channels", -1)))
    between = convolved(pictures.x, depthwise, {**step.settings, "groups": pictures.x.shape[-1]})
    y = between @ kernel.reshape(kernel.shape[-2:])
    return _laid(step, pictures, y)


def _laid(step: Step, pictures: _Pictures, y: Array) -> Array:
    bias = step.weights.get("bias")
    if bias is not None:
        y = y + bias
    return _activated(step, pictures.back(y))


def _finished(step: Step, y: Array) -> Array:
    bias = step.weights.get("bias")
    return _activated(step, y if bias is None else y + bias)


def _activated(step: Step, y: Array) -> Array:
    """With the activation that the same node applies, where it was not recorded on its own."""
    kind = step.settings.get("activation")
    if not kind:
        return y
    from tracer.causes.operations import run

    return run(Step(step.name, str(kind), step.settings.get("activation_settings") or {}), [y])


def convolved(x: Array, kernel: Array, settings: Any) -> Array:
    """``x`` (n, spatial…, c) with ``kernel`` (spatial…, c / groups, out); the outputs of a group lie together."""
    rank = kernel.ndim - 2
    strides = numbers(settings.get("strides", 1), rank)
    dilation = numbers(settings.get("dilation", 1), rank)
    groups = int(settings.get("groups", 1))
    pairs = pairs_of(settings.get("padding") or [(0, 0)] * rank)
    if len(pairs) != rank or x.shape[-1] != groups * kernel.shape[-2] or kernel.shape[-1] % groups:
        raise Unknown(f"{x.shape[-1]} channels do not fit a kernel of {kernel.shape} in {groups} groups")
    x = padded(x, ((0, 0), *pairs, (0, 0)), str(settings.get("padding_mode", "zeros")))
    sizes = _windows(x.shape[1:-1], kernel.shape[:rank], strides, dilation)
    if kernel.shape[-2] == 1 and groups > 1:
        return _by_taps(x, kernel, sizes, strides, dilation, groups)
    if all(length == 1 for length in kernel.shape[:rank]) and groups == 1:
        picked = x[(slice(None), *(slice(None, n * s, s) for n, s in zip(sizes, strides, strict=True)))]
        return picked @ kernel.reshape(kernel.shape[-2:])
    return _by_matrix(x, kernel, sizes, strides, dilation, groups)


def _windows(
    lengths: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> tuple[int, ...]:
    """How many windows fit on each axis. Raises Unknown where one does not fit once."""
    sizes = tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in zip(lengths, kernel, strides, dilation, strict=True))
    if any(size < 1 for size in sizes):
        raise Unknown(f"a window of {tuple(kernel)} does not fit {tuple(lengths)}")
    return sizes


def _taps(
    x: Array, kernel: Sequence[int], sizes: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Every place in the window with what all windows have there: a view (n, sizes…, c)."""
    for tap in itertools.product(*map(range, kernel)):
        starts = [t * d for t, d in zip(tap, dilation, strict=True)]
        ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, sizes, strides, strict=True)]
        yield tap, x[(slice(None), *(slice(a, b, s) for a, b, s in zip(starts, ends, strides, strict=True)))]


def _by_taps(
    x: Array, kernel: Array, sizes: Sequence[int], strides: Sequence[int], dilation: Sequence[int], groups: int
) -> Array:
    rank, many = kernel.ndim - 2, kernel.shape[-1] // groups
    out = np.zeros((x.shape[0], *sizes, groups, many))
    for tap, seen in _taps(x, kernel.shape[:rank], sizes, strides, dilation):
        out += seen[..., None] * kernel[tap].reshape(groups, many)
    return out.reshape(*out.shape[:-2], -1)


def _by_matrix(
    x: Array, kernel: Array, sizes: Sequence[int], strides: Sequence[int], dilation: Sequence[int], groups: int
) -> Array:
    rank = kernel.ndim - 2
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel.shape[:rank], dilation, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=tuple(range(1, rank + 1)))
    steps = tuple(slice(None, n * s, s) for n, s in zip(sizes, strides, strict=True))
    inner = tuple(slice(None, None, d) for d in dilation)
    view = view[(slice(None), *steps, slice(None), *inner)]  # n, sizes…, c, kernel…
    width, per = int(np.prod(kernel.shape[:-1])), kernel.shape[-2]
    matrices = kernel.reshape(width, groups, -1).transpose(1, 0, 2)
    out = np.empty((x.shape[0], *sizes, groups, kernel.shape[-1] // groups))
    row = width * groups * int(np.prod(sizes[1:], dtype=np.int64))
    rows = min(sizes[0], max(1, _MOST // max(1, row)))
    pictures = max(1, _MOST // max(1, row * sizes[0]))
    order = (rank + 1, *range(rank + 1), *range(rank + 3, 2 * rank + 3), rank + 2)
    for first, start in itertools.product(range(0, x.shape[0], pictures), range(0, sizes[0], rows)):
        block = slice(first, first + pictures), slice(start, start + rows)
        part = view[block]
        split = part.reshape(*part.shape[: rank + 1], groups, per, *part.shape[rank + 2 :])
        columns = split.transpose(order).reshape(groups, -1, width)
        made = columns @ matrices  # groups, windows, out / groups
        out[block] = made.transpose(1, 0, 2).reshape(*part.shape[: rank + 1], groups, -1)
    return out.reshape(*out.shape[:-2], -1)


@operation("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed(step: Step, inputs: Sequence[Array]) -> Array:
    kernel, settings = step.weights["kernel"], step.settings
    rank = kernel.ndim - 2
    strides, dilation = numbers(settings.get("strides", 1), rank), numbers(settings.get("dilation", 1), rank)
    groups = int(settings.get("groups", 1))
    pictures = _Pictures(inputs[0], rank, int(settings.get("channels", -1)))
    x = pictures.x
    if x.shape[-1] != kernel.shape[-2] or x.shape[-1] % groups:
        raise Unknown(f"{x.shape[-1]} channels do not fit a kernel of {kernel.shape} in {groups} groups")
    full = [
        (n - 1) * s + (k - 1) * d + 1
        for n, k, s, d in zip(x.shape[1:-1], kernel.shape[:rank], strides, dilation, strict=True)
    ]
    made = kernel.shape[-1]
    out = np.zeros((x.shape[0], *full, groups * made))
    parts = x.reshape(*x.shape[:-1], groups, -1)
    for tap, place in _taps(out, kernel.shape[:rank], x.shape[1:-1], strides, dilation):
        matrices = kernel[tap].reshape(groups, -1, made)
        if groups == 1:
            place += x @ matrices[0]
        else:
            place += np.einsum("...gi,gio->...go", parts, matrices, optimize=True).reshape(place.shape)
    crop = pairs_of(settings.get("crop") or [(0, 0)] * rank)
    cut = tuple((-a, -b) for a, b in crop)
    return _laid(step, pictures, padded(out, ((0, 0), *cut, (0, 0))))


def _pooled(step: Step, inputs: Sequence[Array], fill: float) -> tuple[_Pictures, Iterator[Array], tuple[int, ...]]:
    """The picture, what all windows have at each of their places, and the windows' number an axis."""
    settings = step.settings
    rank = int(step.kind[-2])
    size = numbers(settings["pool_size"], rank)
    strides, dilation = numbers(settings.get("strides", size), rank), numbers(settings.get("dilation", 1), rank)
    pictures = _Pictures(inputs[0], rank, int(settings.get("channels", -1)))
    x = padded(pictures.x, ((0, 0), *_whole(settings, rank), (0, 0)), value=fill)
    sizes = _windows(x.shape[1:-1], size, strides, dilation)
    return pictures, (seen for _, seen in _taps(x, size, sizes, strides, dilation)), sizes


def _whole(settings: Any, rank: int) -> Pairs:
    """The padding with what a ceil mode adds at the end."""
    pairs, more = pairs_of(settings.get("padding") or [(0, 0)] * rank), numbers(settings.get("ceil", 0), rank)
    return tuple((a, b + extra) for (a, b), extra in zip(pairs, more, strict=True))


@operation("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(step: Step, inputs: Sequence[Array]) -> Array:
    pictures, taps, _ = _pooled(step, inputs, float(step.settings.get("pad_value", -np.inf)))
    out = next(taps).copy()
    for seen in taps:
        np.maximum(out, seen, out=out)
    return pictures.back(out)


@operation("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(step: Step, inputs: Sequence[Array]) -> Array:
    pictures, taps, _ = _pooled(step, inputs, 0.0)
    out = next(taps).copy()
    for seen in taps:
        out += seen
    divisor = step.settings.get("divisor")
    return pictures.back(out / (divisor or _counted(step, pictures.x.shape[1:-1])))


def _counted(step: Step, lengths: Sequence[int]) -> Array:
    """How many places of each window count, with an axis for the channels."""
    settings = step.settings
    rank = len(lengths)
    pairs, more = pairs_of(settings.get("padding") or [(0, 0)] * rank), numbers(settings.get("ceil", 0), rank)
    ones = np.ones((1, *lengths, 1))
    inside = ((0, 0), *pairs, (0, 0))
    ones = np.pad(ones, inside, constant_values=1.0 if settings.get("count_include_pad") else 0.0)
    ones = np.pad(ones, ((0, 0), *((0, extra) for extra in more), (0, 0)))
    size = numbers(settings["pool_size"], rank)
    strides = numbers(settings.get("strides", size), rank)
    sizes = _windows(ones.shape[1:-1], size, strides, (1,) * rank)
    total: Array = sum(seen for _, seen in _taps(ones, size, sizes, strides, (1,) * rank))  # type: ignore[assignment]
    return total


@operation("global_avg_pool", "global_max_pool")
def _global_pool(step: Step, inputs: Sequence[Array]) -> Array:
    axes, keeps = tuple(step.settings["axes"]), bool(step.settings.get("keepdims"))
    function: Callable[..., Array] = np.mean if step.kind == "global_avg_pool" else np.max
    mask = step.settings.get("mask")
    if mask is None:
        return function(inputs[0], axis=axes, keepdims=keeps)
    counts = np.asarray(mask, np.float64).reshape(*mask.shape, *(1,) * (inputs[0].ndim - mask.ndim))
    mean: Array = (inputs[0] * counts).sum(axis=axes, keepdims=keeps) / counts.sum(axis=axes, keepdims=keeps)
    return mean


@operation("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(step: Step, inputs: Sequence[Array]) -> Array:
    axes = tuple(step.settings["axes"])
    function: Callable[..., Array] = np.mean if step.kind == "adaptive_avg_pool" else np.max
    out = inputs[0]
    for axis, size in zip(axes, numbers(step.settings["output_size"], len(axes)), strict=True):
        length = out.shape[axis]
        ends = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
        moved = np.moveaxis(out, axis, 0)
        # A window is a product of intervals: one axis can follow the other.
        out = np.moveaxis(np.stack([function(moved[a:b], axis=0) for a, b in ends]), 0, axis)
    return out
