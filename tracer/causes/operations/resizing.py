"""Resizing by interpolation: one matrix for every axis.

Settings: ``size`` (of the result, spatial axes), ``scale`` (of the coordinates, result over input, for each axis; None:
the quotient of the lengths), ``channels`` (the axis), and

======================  =============================================================================================
``mode``                ``nearest``, ``linear``, ``cubic``, ``area`` (whole cells, as adaptive pooling), ``area_exact``
                        (parts of cells), ``lanczos3``, ``lanczos5``, ``gaussian``, ``mitchell``
``coordinates``         where a place of the result lies in the input: ``half_pixel``, ``align_corners``,
                        ``asymmetric``, ``pytorch_half_pixel`` (0 where the result has one place),
                        ``half_pixel_symmetric``, ``tf_half_pixel_for_nn``
``rounding``            of ``nearest``: ``floor``, ``ceil``, ``round_prefer_floor``, ``round_prefer_ceil``
``antialias``           a kernel as wide as the places of the result are apart, where that is smaller
``cubic``               the coefficient: -0.75 (PyTorch, ONNX) or -0.5 (TensorFlow, all antialiased ones)
``edge``                of ``cubic``: ``clamp`` (the last value goes on) or ``renormalise`` (only what is inside counts)
``table``               TensorFlow's cubic weights are those of so many steps between two places
``aspect``              ``crop`` to the result's proportions before, or ``pad`` with ``fill``
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step, Unknown, numbers


@operation("upsample", "resize")
def resize(step: Step, inputs: Sequence[Array]) -> Array:
    """The spatial axes brought to another length."""
    own = step.settings
    values = np.asarray(inputs[0], np.float64)
    channels = own["channels"] % values.ndim
    axes = [axis for axis in range(1, values.ndim) if axis != channels]
    size = numbers(own["size"], len(axes))
    if own.get("aspect"):
        values = _proportioned(own, values, axes, size)
    scales = own.get("scale") or [None] * len(axes)
    for axis, length, scale in zip(axes, size, scales, strict=True):
        if length == values.shape[axis] and scale in (None, 1) and not own.get("always"):
            continue
        matrix = weights(own, values.shape[axis], length, scale)
        values = np.moveaxis(np.tensordot(values, matrix, (axis, 1)), -1, axis)
    return values


def weights(own: Mapping[str, Any], before: int, after: int, scale: float | None = None) -> Array:
    """How much of every place of an axis is in each of the result's: (after, before)."""
    mode, ratio = own.get("mode", "nearest"), scale or after / before
    if mode == "area":
        return _cells(before, after)
    if mode == "area_exact":
        return _overlap(before, after, ratio)
    coordinates = own.get("coordinates", "half_pixel")
    if coordinates == "align_corners" and own.get("antialias") and min(before, after) > 1:
        # As PyTorch has it: places are as far apart as with aligned corners, and begin as half pixels do.
        coordinates, ratio = "half_pixel", (after - 1) / (before - 1)
    places = _places(coordinates, before, after, ratio, mode)
    if mode == "nearest":
        return _picked(own.get("rounding", "floor"), places, before)
    if own.get("antialias") or mode not in ("linear", "cubic"):
        return _wide(own, places, before, ratio)
    return _narrow(own, places, before)


def _places(coordinates: str, before: int, after: int, ratio: float, mode: str) -> Array:
    """Where the places of the result lie among the input's."""
    at = np.arange(after, dtype=np.float64)
    if coordinates == "align_corners":
        return at * ((before - 1) / (after - 1)) if after > 1 else np.zeros(after)
    if coordinates == "asymmetric":
        return at / ratio
    if coordinates == "half_pixel_exact":  # floor of it is what nearest picks
        return (at + 0.5) / ratio
    if coordinates == "tf_half_pixel_for_nn":
        return (at + 0.5) / ratio
    if coordinates == "half_pixel_symmetric":
        adjust = after / (ratio * before)
        return before / 2 * (1 - adjust) + (at + 0.5) / ratio - 0.5
    if coordinates == "pytorch_half_pixel" and after == 1:
        return np.zeros(1)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / ratio - 0.5
    raise Unknown(f"the coordinates {coordinates} are not known")


_ROUNDED: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
}


def _picked(rounding: str, places: Array, before: int) -> Array:
    # What float32 computes as a whole number is one.
    near = np.round(places)
    exact = np.where(np.abs(places - near) < 1e-5, near, places)
    halves = np.round(2 * exact) / 2
    exact = np.where(np.abs(exact - halves) < 1e-5, halves, exact)
    index = np.clip(_ROUNDED[rounding](exact), 0, before - 1).astype(np.int64)
    return np.asarray(np.eye(before)[index])


def _cubic(x: Array, a: float) -> Array:
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def _lanczos(radius: float) -> Callable[[Array], Array]:
    return lambda x: np.where(np.abs(x) < radius, np.sinc(x) * np.sinc(x / radius), 0)


def _mitchell(x: Array) -> Array:
    x = np.abs(x)
    near = (7 * x**3 - 12 * x**2 + 16 / 3) / 6
    far = (-7 / 3 * x**3 + 12 * x**2 - 20 * x + 32 / 3) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _kernel(own: Mapping[str, Any]) -> tuple[Callable[[Array], Array], float]:
    mode = own.get("mode")
    known: dict[Any, tuple[Callable[[Array], Array], float]] = {
        "linear": (lambda x: np.maximum(0, 1 - np.abs(x)), 1.0),
        "cubic": (lambda x: _cubic(x, own.get("cubic", -0.5)), 2.0),
        "lanczos3": (_lanczos(3), 3.0),
        "lanczos5": (_lanczos(5), 5.0),
        "gaussian": (lambda x: np.where(np.abs(x) < 1.5, np.exp(-2 * x * x), 0), 1.5),
        "mitchell": (_mitchell, 2.0),
    }
    if mode not in known:
        raise Unknown(f"the interpolation {mode} is not known")
    return known[mode]


def _wide(own: Mapping[str, Any], places: Array, before: int, ratio: float) -> Array:
    """A kernel over all places in its reach, what is inside made one."""
    function, radius = _kernel(own)
    width = max(1.0, 1 / ratio) if own.get("antialias") else 1.0
    away = (np.arange(before)[None] - places[:, None]) / width
    found = np.where(np.abs(away) <= radius, function(away), 0)
    total = found.sum(1, keepdims=True)
    return np.asarray(found / np.where(np.abs(total) < 1e-9, 1, total))


def _narrow(own: Mapping[str, Any], places: Array, before: int) -> Array:
    """Two or four neighbours; beyond the edge the last value goes on, or nothing counts."""
    cubic = own.get("mode") == "cubic"
    if not cubic:
        places = np.clip(places, 0, before - 1)
    low = np.floor(places)
    part = places - low
    if cubic and own.get("table"):
        part = np.round(part * own["table"]) / own["table"]
    offsets = (-1, 0, 1, 2) if cubic else (0, 1)
    found = np.zeros((len(places), before))
    rows = np.arange(len(places))
    for offset in offsets:
        weight = _cubic(part - offset, own.get("cubic", -0.75)) if cubic else np.maximum(0, 1 - np.abs(part - offset))
        index = (low + offset).astype(np.int64)
        inside = (index >= 0) & (index < before)
        if cubic and own.get("edge", "clamp") == "renormalise":
            weight = np.where(inside, weight, 0)
        np.add.at(found, (rows, np.clip(index, 0, before - 1)), weight)
    return np.asarray(found / found.sum(1, keepdims=True)) if own.get("edge") == "renormalise" else found


def _cells(before: int, after: int) -> Array:
    """The mean of all whole places that a part of the axis touches."""
    found = np.zeros((after, before))
    for k in range(after):
        start, stop = k * before // after, -(-(k + 1) * before // after)
        found[k, start:stop] = 1 / (stop - start)
    return found


def _overlap(before: int, after: int, ratio: float) -> Array:
    """The mean over a part of the axis, places at its ends in proportion."""
    edges = np.arange(after + 1) / ratio
    at = np.arange(before)
    low, high = np.maximum(edges[:-1, None], at), np.minimum(edges[1:, None], at + 1)
    found = np.maximum(0, high - low)
    return np.asarray(found / found.sum(1, keepdims=True))


def _proportioned(own: Mapping[str, Any], values: Array, axes: Sequence[int], size: Sequence[int]) -> Array:
    """The middle part of the result's proportions, or the picture on a ground of these."""
    (row, column), (height, width) = axes, size
    lengths = values.shape[row], values.shape[column]
    wanted = int(lengths[1] * height / width), int(lengths[0] * width / height)
    for axis, length, want in zip((row, column), lengths, wanted, strict=True):
        if own["aspect"] == "crop" and want < length:
            start = (length - want) // 2
            values = np.take(values, np.arange(start, start + want), axis)
        elif own["aspect"] == "pad" and want > length:
            pairs = [(0, 0)] * values.ndim
            pairs[axis] = ((want - length) // 2,) * 2  # as Keras does, one less where the difference is odd
            values = np.pad(values, pairs, constant_values=own.get("fill", 0.0))
    return values
