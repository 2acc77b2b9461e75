"""Operations that move, pick, repeat and look up values, and constants.

======================  =============================================================================================
kinds                   settings; weights
======================  =============================================================================================
``reshape`` ``flatten``  ``shape`` (-1 where free), ``permutation`` (of the input before it, or None); before that
                        ``unsqueeze`` (an axis) and ``expand`` (a shape to which it is broadcast), or None
``permute``             ``permutation``
``squeeze``             ``axes``
``expand_dims``         ``axes`` (of the result)
``slice``               ``index``: for every axis of the input a number (the axis goes), a triple (start, stop, step)
                        with None where open, or ``newaxis`` between them
``split``               ``axis``, ``start``, ``stop`` of the part that the node is; ``drop`` (the axis goes: unbind)
``gather``              ``axis``, ``indices`` (where no input has them), ``mode``: ``take`` (rows of an axis), ``along``
                        (one for each value), ``nd`` (a place for each row; ``batch`` axes in common), ``mask``
``embedding``           ``offset`` (added to the ids), ``scale``, ``ids`` (where no input has them), ``padding_idx``
                        (rows of zeros), ``one_hot`` (the input are one-hot rows); ``kernel`` (rows, features)
``concat`` ``stack``    ``axis``, ``order``: what is joined, numbers of inputs and names of ``parts`` or weights
``pad`` ``crop``        ``padding`` ((before, after) every axis; negative crops), ``padding_mode`` (zeros, reflect,
                        symmetric, replicate, circular), ``value``
``roll``                ``shifts``, ``axes`` (None: of the flattened tensor)
``flip``                ``axes``
``pixel_shuffle``       ``factor``, ``channels``, ``order``: ``crd`` (PyTorch's: channels vary slowest) or ``dcr``
``pixel_unshuffle``     (TensorFlow's depth_to_space: channels vary fastest)
``tile``                ``repeats`` every axis
``repeat``              ``repeats`` (a number or a list), ``axis`` (None: of the flattened tensor)
``expand``              ``shape`` (of the result; -1 as it is)
``where`` ``masked_fill``  ``condition``, ``chosen``, ``other`` (values that no input has), ``order``: which of the
                        three the inputs are
``one_hot``             ``depth``, ``axis``, ``values`` (off, on)
``cumsum`` ``cumprod``  ``axis``, ``exclusive``, ``reverse``, ``start`` (a number before the first)
``tril`` ``triu``       ``diagonal``
``unfold``              ``kernel_size``, ``strides``, ``padding``, ``dilation`` of the last axes, channels before them
``arange`` ``full`` …   ``value``: the constant
======================  =============================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tracer.causes.operations import operation
from tracer.causes.step import Array, Step, Unknown, numbers, pairs_of

PAD_MODES = {
    "zeros": "constant",
    "constant": "constant",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "edge": "edge",
    "circular": "wrap",
}
"""numpy's words of the padding modes."""


@operation("reshape", "flatten")
def reshape(step: Step, inputs: Sequence[Array]) -> Array:
    """The values in the row-major order of the input's axes, or of those in ``permutation``."""
    values = inputs[0]
    expand = step.settings.get("expand")
    if expand is not None:
        place = step.settings.get("unsqueeze")
        values = values if place is None else np.expand_dims(values, place)
        values = np.broadcast_to(values, _as_is(expand, values.shape))
    order = step.settings.get("permutation")
    if order is not None:
        values = values.transpose(order)
    return values.reshape(step.settings["shape"])


@operation("permute")
def permute(step: Step, inputs: Sequence[Array]) -> Array:
    """The axes in another order."""
    return inputs[0].transpose(step.settings["permutation"])


@operation("squeeze")
def squeeze(step: Step, inputs: Sequence[Array]) -> Array:
    """Without axes of length 1."""
    return np.squeeze(inputs[0], tuple(step.settings["axes"]))


@operation("expand_dims")
def expand_dims(step: Step, inputs: Sequence[Array]) -> Array:
    """With axes of length 1."""
    return np.expand_dims(inputs[0], tuple(step.settings["axes"]))


@operation("slice")
def take_slice(step: Step, inputs: Sequence[Array]) -> Array:
    """A part of every axis."""
    return np.asarray(inputs[0][index_of(step.settings["index"])])


def index_of(parts: Sequence[Any]) -> tuple[Any, ...]:
    """numpy's index of the ``index`` of a slice."""
    found: list[Any] = []
    for part in parts:
        if part == "newaxis":
            found.append(None)
        elif part == "...":
            found.append(Ellipsis)
        else:
            found.append(part if isinstance(part, int) else slice(*part))
    return tuple(found)


@operation("split")
def split(step: Step, inputs: Sequence[Array]) -> Array:
    """One part of an axis that is split."""
    axis, start = step.settings["axis"], step.settings["start"]
    part = np.take(inputs[0], np.arange(start, step.settings["stop"]), axis)
    return np.squeeze(part, axis) if step.settings.get("drop") else part


@operation("gather")
def gather(step: Step, inputs: Sequence[Array]) -> Array:
    """Values picked by number."""
    values = inputs[0]
    indices = np.asarray(inputs[1] if len(inputs) > 1 else step.settings["indices"])
    mode, axis = step.settings.get("mode", "take"), step.settings.get("axis", 0)
    if mode == "mask":
        return np.asarray(values[indices.astype(bool)])
    indices = indices.astype(np.int64)
    if mode == "along":
        return np.take_along_axis(values[_within(values, indices, axis)], indices, axis)
    if mode == "nd":
        batch = step.settings.get("batch", 0)
        grid = np.ix_(*(np.arange(length) for length in indices.shape[:batch]))
        rest = indices.ndim - batch - 1
        lead = tuple(part.reshape(part.shape + (1,) * rest) for part in grid)
        return np.asarray(values[lead + tuple(np.moveaxis(indices, -1, 0))])
    return np.asarray(np.take(values, indices, axis))


def _within(values: Array, indices: Array, axis: int) -> tuple[slice, ...]:
    """Where the indices are fewer than the values along other axes, torch takes the first of those."""
    axis %= values.ndim
    return tuple(slice(None) if k == axis else slice(indices.shape[k]) for k in range(values.ndim))


@operation("embedding")
def embedding(step: Step, inputs: Sequence[Array]) -> Array:
    """Rows of a table."""
    table = step.weights["kernel"]
    ids = np.asarray(inputs[0] if inputs else step.settings["ids"])
    scale = step.settings.get("scale", 1)
    if step.settings.get("one_hot"):
        return np.asarray(ids @ table * scale)
    places = ids.astype(np.int64) + step.settings.get("offset", 0)
    if places.size and (places.max() >= len(table) or places.min() < -len(table)):
        raise Unknown("an id is beyond the table")
    return np.asarray(table[places] * scale if scale != 1 else table[places])


@operation("concat", "stack")
def join(step: Step, inputs: Sequence[Array]) -> Array:
    """Tensors behind each other along an axis, or along a new one."""
    axis = step.settings["axis"]
    given = step.settings.get("parts", {})
    found = []
    for part in step.settings.get("order") or range(len(inputs)):
        if isinstance(part, int):
            found.append(inputs[part])
        else:
            found.append(np.asarray(step.weights[part] if part in step.weights else given[part]))
    if step.kind == "stack":
        shape = np.broadcast_shapes(*(value.shape for value in found))
        return np.stack([np.broadcast_to(value, shape) for value in found], axis)
    return np.concatenate(_alike(found, axis), axis)


def _alike(found: Sequence[Array], axis: int) -> list[Array]:
    """Tensors with the lengths that they have in common: what is the same for every sample is repeated."""
    rank = max(value.ndim for value in found)
    axis %= rank
    padded = [value.reshape((1,) * (rank - value.ndim) + value.shape) for value in found]
    lengths = [max(value.shape[k] for value in padded) for k in range(rank)]
    return [
        np.broadcast_to(value, [value.shape[k] if k == axis else length for k, length in enumerate(lengths)])
        for value in padded
    ]


@operation("pad", "crop")
def pad(step: Step, inputs: Sequence[Array]) -> Array:
    """More at the ends of the axes; less where the number is negative."""
    values = inputs[0]
    pairs = pairs_of(step.settings["padding"])
    mode: Any = PAD_MODES[step.settings.get("padding_mode", "zeros")]
    cut = tuple(
        slice(max(0, -before), length - max(0, -after))
        for (before, after), length in zip(pairs, values.shape, strict=True)
    )
    more = [(max(0, before), max(0, after)) for before, after in pairs]
    if not any(map(any, more)):
        return values[cut]
    if mode == "constant":
        return np.asarray(np.pad(values[cut], more, mode, constant_values=step.settings.get("value", 0)))
    return np.asarray(np.pad(values[cut], more, mode))


@operation("roll")
def roll(step: Step, inputs: Sequence[Array]) -> Array:
    """Shifted around."""
    axes = step.settings.get("axes")
    shifts = step.settings["shifts"]
    return np.roll(inputs[0], shifts if axes is None or isinstance(shifts, int) else tuple(shifts), axes)


@operation("flip")
def flip(step: Step, inputs: Sequence[Array]) -> Array:
    """Backwards along axes."""
    axes = step.settings["axes"]
    return np.flip(inputs[0], axes if axes is None or isinstance(axes, int) else tuple(axes))


@operation("pixel_shuffle", "pixel_unshuffle")
def shuffle(step: Step, inputs: Sequence[Array]) -> Array:
    """Channels as pixels, or pixels as channels."""
    channels = step.settings["channels"] % inputs[0].ndim
    values = np.moveaxis(inputs[0], channels, 1)
    spatial = values.ndim - 2
    factors = numbers(step.settings["factor"], spatial)
    fast = step.settings.get("order", "crd") == "dcr"
    blocks = list(range(spatial))
    if step.kind == "pixel_shuffle":
        count = values.shape[1] // int(np.prod(factors))
        parts = (*factors, count) if fast else (count, *factors)
        values = values.reshape(len(values), *parts, *values.shape[2:])
        first, channel = (1, 1 + spatial) if fast else (2, 1)
        order = [0, channel, *(axis for k in blocks for axis in (2 + spatial + k, first + k))]
        lengths = [values.shape[2 + spatial + k] * factors[k] for k in blocks]
        result = values.transpose(order).reshape(len(values), count, *lengths)
    else:
        count = values.shape[1]
        lengths = [values.shape[2 + k] // factors[k] for k in blocks]
        pairs = [number for k in blocks for number in (lengths[k], factors[k])]
        values = values.reshape(len(values), count, *pairs)
        inner = [3 + 2 * k for k in blocks]
        order = [0, *([*inner, 1] if fast else [1, *inner]), *(2 + 2 * k for k in blocks)]
        result = values.transpose(order).reshape(len(values), -1, *lengths)
    return np.moveaxis(result, 1, channels)


@operation("tile")
def tile(step: Step, inputs: Sequence[Array]) -> Array:
    """The whole tensor several times along its axes."""
    return np.tile(inputs[0], tuple(step.settings["repeats"]))


@operation("repeat")
def repeat(step: Step, inputs: Sequence[Array]) -> Array:
    """Every value several times, one after the other."""
    return np.repeat(inputs[0], step.settings["repeats"], step.settings.get("axis"))


@operation("expand")
def expand(step: Step, inputs: Sequence[Array]) -> Array:
    """Broadcast to a shape."""
    return np.broadcast_to(inputs[0], _as_is(step.settings["shape"], inputs[0].shape))


def _as_is(shape: Sequence[int], own: Sequence[int]) -> tuple[int, ...]:
    """``shape`` with the own length where it says -1."""
    ahead = len(shape) - len(own)
    return tuple(own[k - ahead] if length == -1 else length for k, length in enumerate(shape))


@operation("where", "masked_fill")
def where(step: Step, inputs: Sequence[Array]) -> Array:
    """``chosen`` where the condition holds, ``other`` elsewhere."""
    found: dict[str, Any] = {**step.settings, **step.weights}
    order = step.settings.get("order", ("condition", "chosen", "other"))
    found |= {word: value for word, value in zip(order, inputs, strict=True) if word}
    return np.asarray(np.where(np.asarray(found["condition"]).astype(bool), found["chosen"], found["other"]))


@operation("one_hot")
def one_hot(step: Step, inputs: Sequence[Array]) -> Array:
    """A row with one value set for every number; nothing set for numbers out of range."""
    off, on = step.settings.get("values", (0, 1))
    depth = step.settings["depth"]
    hot = np.asarray(inputs[0]).astype(np.int64)[..., None] == np.arange(depth)
    return np.moveaxis(np.where(hot, on, off), -1, step.settings.get("axis", -1))


@operation("cumsum", "cumprod")
def accumulate(step: Step, inputs: Sequence[Array]) -> Array:
    """Sums or products of all up to each."""
    axis, values = step.settings["axis"], inputs[0]
    values = values.astype(np.int64) if values.dtype == np.bool_ else values
    values = np.flip(values, axis) if step.settings.get("reverse") else values
    total = np.cumsum if step.kind == "cumsum" else np.cumprod
    result = np.asarray(total(values, axis))
    if step.settings.get("exclusive"):
        first = np.full_like(np.take(result, [0], axis), 0 if step.kind == "cumsum" else 1)
        rest = np.take(result, np.arange(result.shape[axis] - 1), axis)
        result = np.concatenate([first, rest], axis)
    return np.flip(result, axis) if step.settings.get("reverse") else result


@operation("tril", "triu")
def triangle(step: Step, inputs: Sequence[Array]) -> Array:
    """Zeros above, or below, a diagonal."""
    part = np.tril if step.kind == "tril" else np.triu
    return np.asarray(part(inputs[0], step.settings.get("diagonal", 0)))


@operation("unfold")
def unfold(step: Step, inputs: Sequence[Array]) -> Array:
    """Windows as columns: (batch, channels · taps, windows)."""
    values = inputs[0]
    rank = values.ndim - 2
    size, strides, dilation, padding = (
        numbers(step.settings.get(word, usual), rank)
        for word, usual in (("kernel_size", 1), ("strides", 1), ("dilation", 1), ("padding", 0))
    )
    values = np.pad(values, [(0, 0), (0, 0), *((width, width) for width in padding)])
    span = [(taps - 1) * apart + 1 for taps, apart in zip(size, dilation, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(values, span, tuple(range(2, 2 + rank)))
    steps = (slice(None, None, by) for by in strides)
    within = (slice(None, None, by) for by in dilation)
    windows = windows[(slice(None), slice(None), *steps, *within)]
    count = int(np.prod(windows.shape[2 : 2 + rank]))
    columns = np.moveaxis(windows, range(2, 2 + rank), range(-rank, 0))
    return np.asarray(columns.reshape(len(values), -1, count))


@operation("arange", "full", "zeros", "ones", "eye")
def constant(step: Step, inputs: Sequence[Array]) -> Array:
    """A constant that the recording has."""
    return np.asarray(step.settings["value"])
