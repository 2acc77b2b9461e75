"""Operations that move, join and repeat values, and constants."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.arithmetic import constant, weights_of
from tracer.causes.reading.reshaping import followed
from tracer.causes.step import Array, Step, Unknown, numbers

_Found = tuple[dict[str, Any], dict[str, Array]]


def first_axis(node: Read) -> int:
    """The axis of the channels: the layout's, or that of the layer's data format."""
    first = node.config.get("data_format") == "channels_first" or (
        node.config.get("data_format") is None and (node.node.layout == "channels_first" or node.torch_like)
    )
    return 1 if first else -1


def listed(value: Any) -> list[int]:
    """One number or several as a list."""
    return [int(item) for item in value] if isinstance(value, list | tuple) else [int(value)]


@reader("reshape", "flatten")
def reshape(node: Read) -> Step:
    """To the shape that the node has; the length of the batch is free where it stays first."""
    if not node.node.parents:
        return constant(node)
    before, after = node.source(), node.shape
    recorded = node.recording.structure.by_name[node.node.parents[0]].shape
    if node.given is not None and recorded is not None and recorded != before:
        found = followed(recorded, after, before, node.seen)
        after = after if found is None else found
    free = bool(before and after and before[0] == after[0]) and math.prod(after[1:]) > 0
    step = inferring.step_of(node, (node.node.parents[0],), shape=(-1, *after[1:]) if free else after)
    if node.config.get("data_format") == "channels_first" and len(before) > 2:
        step = step.set(permutation=(0, *range(2, len(before)), 1))
    if math.prod(before) == math.prod(after):
        return step
    return inferring.first(node, _expanded(step, before, after), "it has more values than what it reads")


def _expanded(step: Step, before: Sequence[int], after: Sequence[int]) -> Iterator[Step]:
    """Broadcast first along axes of length 1, there already or new, which torch does without copying."""
    grown = math.prod(after) // max(1, math.prod(before))
    if grown * math.prod(before) != math.prod(after):
        return
    for place in range(len(before) + 1):
        wide = (*before[:place], 1, *before[place:])
        yield Step(step.name, "repeat", {"repeats": grown, "axis": None}, {}, step.inputs, step.shape, step.source)
        for axis, length in enumerate(wide):
            if length == 1:
                shape = (*wide[:axis], grown, *wide[axis + 1 :])
                yield step.set(unsqueeze=place, expand=shape, shape=tuple(after))


@reader("permute")
def permute(node: Read) -> Step:
    """The order of the axes; without one told, the reverse of all (ONNX) or what gives the recorded values."""
    order = node.config.get("permutation")
    if order is not None:
        order = listed(order)
        if node.node.label == "Permute" and len(order) == node.rank - 1:  # Keras counts from 1, the batch aside
            order = [0, *order]
        return inferring.step_of(node, permutation=tuple(order))
    if node.node.label.rpartition(".")[2].replace("_", "").lower() == "channelshuffle":
        return inferring.first(node, _shuffled(node), "in how many groups channels are shuffled is not told")
    orders = [tuple(reversed(range(node.rank))), *itertools.permutations(range(node.rank))]
    fitting = (order for order in orders if tuple(node.source()[k] for k in order) == node.shape)
    return inferring.first(
        node, (inferring.step_of(node, permutation=order) for order in fitting), "the order of its axes is not told"
    )


def _shuffled(node: Read) -> Iterator[Step]:
    """Channels that are dealt out to groups, as many as the values tell."""
    count = node.source()[1]
    for groups in (n for n in range(2, count) if count % n == 0):
        indices = np.arange(count).reshape(groups, -1).T.reshape(-1)
        yield inferring.step_of(node, kind="gather", axis=1, indices=indices, mode="take")


@reader("squeeze")
def squeeze(node: Read) -> _Found:
    """The axes that are gone."""
    axes = node.config.get("axis")
    before = node.source()
    if axes is None or not listed(axes):
        gone = [k for k, length in enumerate(before) if length == 1]
        if len(before) - len(gone) != len(node.shape):
            gone = _gone(before, node.shape)
    else:
        gone = [axis for axis in (a % len(before) for a in listed(axes)) if before[axis] == 1]
    return {"axes": tuple(gone)}, {}


def _gone(long: Sequence[int], short: Sequence[int]) -> list[int]:
    """Axes of length 1 without which a shape is the other; of several the first. Raises Unknown."""
    for gone in itertools.combinations([k for k, n in enumerate(long) if n == 1], len(long) - len(short)):
        if tuple(n for k, n in enumerate(long) if k not in gone) == tuple(short):
            return list(gone)
    raise Unknown("which axes it drops or adds is not told")


@reader("expand_dims")
def expand_dims(node: Read) -> Step:
    """The axes that are new."""
    rank = len(node.shape)
    axes = node.config.get("axis")
    if isinstance(node.config.get("index"), list):
        return _indexed(node)
    if axes is not None:
        return inferring.step_of(node, axes=tuple(axis % rank for axis in listed(axes)))
    return inferring.step_of(node, axes=tuple(_gone(node.shape, node.source())))


def _indexed(node: Read) -> Step:
    parts = node.config["index"]
    given = sum(part is not None and part != "..." for part in parts)
    axes, at = [], 0
    for part in parts:
        if part is None:
            axes.append(at)
        at += node.rank - given if part == "..." else 1
    return inferring.step_of(node, axes=tuple(axes))


@reader("concat", "stack")
def join(node: Read) -> Step:
    """What is joined, in order; learnt tokens and constants among it are found by what stands there."""
    axis = node.config.get("axis")
    if not node.node.parents:
        return constant(node)
    shapes = [node.source(k) for k in range(len(node.node.parents))]
    candidates = _axes(node, shapes) if axis is None else [int(axis) % len(node.shape)]
    for found in candidates:
        step = inferring.step_of(node, axis=found)
        whole = sum(1 if node.node.kind == "stack" else shape[found] for shape in shapes if len(shape) > found)
        if whole == node.shape[found] and (axis is not None or inferring.reproduces(node, step)):
            return step
    for found in candidates:
        pieces = _pieces(node, found)
        if pieces is not None:
            return pieces
    raise Unknown("what it joins was not recorded in full")


def _axes(node: Read, shapes: Sequence[Sequence[int]]) -> list[int]:
    rank = len(node.shape)
    return [axis for axis in range(rank) if node.node.kind == "stack" or any(
        len(shape) == rank and shape[axis] != node.shape[axis] for shape in shapes)] or list(range(rank))  # fmt: skip


def _pieces(node: Read, axis: int) -> Step | None:
    """The parts along an axis: recorded inputs where their values stand, weights, else constants."""
    y = np.moveaxis(inferring.result(node), axis, 0)
    known: list[tuple[int | str, Array]] = []
    for place, name in enumerate(node.node.parents):
        known.append((place, node.recorded(name)))
    known += list(weights_of(node).items())
    order: list[int | str] = []
    parts: dict[str, Array] = {}
    at = 0
    while at < len(y):
        for key, value in known:
            piece = _laid(value, y, axis, stack=node.node.kind == "stack")
            if piece is not None and at + len(piece) <= len(y) and inferring.same(piece, y[at : at + len(piece)], ""):
                order.append(key)
                at += len(piece)
                break
        else:
            if order and isinstance(order[-1], str) and order[-1].startswith("constant"):
                parts[order[-1]] = np.concatenate([parts[order[-1]], y[at : at + 1]])
            else:
                order.append(f"constant {at}")
                parts[f"constant {at}"] = y[at : at + 1]
            at += 1
    if not any(isinstance(key, int) for key in order):
        return None
    constants = {key: _alike(np.moveaxis(value, 0, axis), axis) for key, value in parts.items()}
    if any(value is None for value in constants.values()):
        return None
    if node.node.kind == "stack":
        constants = {key: np.squeeze(value, axis) for key, value in constants.items() if value is not None}
    step = inferring.step_of(node, axis=axis, order=tuple(order), parts=constants)
    owned = {key: value for key, value in known if isinstance(key, str) and key in order}
    return step.weigh(**owned)


def _laid(value: Array, y: Array, axis: int, *, stack: bool) -> Array | None:
    """A part with the joined axis first, broadcast to the rest of the result."""
    if stack:
        value = np.expand_dims(value, axis) if value.ndim == y.ndim - 1 else value
    value = value.reshape((1,) * (y.ndim - value.ndim) + value.shape) if value.ndim < y.ndim else value
    if value.ndim != y.ndim:
        return None
    value = np.moveaxis(value, axis, 0)
    try:
        return np.broadcast_to(value, (len(value), *y.shape[1:]))
    except ValueError:
        return None


def _alike(value: Array, axis: int) -> Array | None:
    """A constant part, once for all samples; None where the samples differ, which no constant does."""
    if axis == 0:
        return value
    if len(value) > 1 and not (value == value[:1]).all():
        return None
    return value[:1] if len(value) else None


@reader("pad", "crop")
def pad(node: Read) -> Step:
    """How much at both ends of every axis."""
    mode = str(node.config.get("mode", "constant")).lower()
    if node.node.kind == "crop":
        return _cropped(node)
    pairs = _padding(node)
    settings: dict[str, Any] = {"padding_mode": "zeros" if mode == "constant" else "circular" if mode == "wrap" else
                                "replicate" if mode == "edge" else mode}  # fmt: skip
    if node.config.get("value") is not None:
        settings["value"] = float(node.config["value"])
    if pairs is not None:
        usual = inferring.step_of(node, padding=pairs, **settings)
        return inferring.likely(node, usual, lambda: padded(node))
    return inferring.first(node, padded(node), "how much it pads is not told")


def _padding(node: Read) -> tuple[tuple[int, int], ...] | None:
    rank = node.rank
    flat = node.config.get("pads", node.config.get("padding"))
    if flat is None:
        return None
    if isinstance(flat, int):
        flat = [[flat, flat]] * (rank - 2)
    if flat and isinstance(flat[0], list):
        pairs = [(int(a), int(b)) for a, b in flat]
    elif node.framework == "onnx":
        half = len(flat) // 2
        pairs = [(int(flat[k]), int(flat[half + k])) for k in range(half)]
        axes = node.config.get("axes")
        if axes is not None:
            by_axis = {int(axis) % rank: pair for axis, pair in zip(listed(axes), pairs, strict=True)}
            pairs = [by_axis.get(axis, (0, 0)) for axis in range(rank)]
    elif node.framework == "pytorch":  # from the last axis on
        pairs = [(int(flat[k]), int(flat[k + 1])) for k in range(0, len(flat), 2)][::-1]
        return tuple([(0, 0)] * (rank - len(pairs)) + pairs)
    elif len(flat) == 2 and rank == 3:
        pairs = [(int(flat[0]), int(flat[1]))]
    else:
        pairs = [(int(size), int(size)) for size in flat]
    if len(pairs) == rank - 2:
        pairs = [(0, 0), (0, 0), *pairs] if first_axis(node) == 1 else [(0, 0), *pairs, (0, 0)]
    if len(pairs) == rank - 1:
        pairs = [(0, 0), *pairs]
    return tuple(pairs) if len(pairs) == rank else None


def padded(node: Read) -> Iterator[Step]:
    """The paddings that take the input to the node's shape."""
    more = [after - before for before, after in zip(node.source(), node.shape, strict=True)]
    if min(more) < 0:
        return
    y = inferring.result(node)
    splits = [
        sorted(((a, extra - a) for a in range(extra + 1)), key=lambda pair: abs(pair[0] - pair[1])) for extra in more
    ]
    if math.prod(len(found) for found in splits) > 4096:
        return
    value = float(y.reshape(-1)[0]) if y.size else 0.0
    values = dict.fromkeys((0.0, value, float(y.reshape(-1)[-1]) if y.size else 0.0))
    for pairs in itertools.product(*splits):
        for mode in ("reflect", "symmetric", "replicate", "circular"):
            if mode != "reflect" or all(max(pair) < size for pair, size in zip(pairs, node.source(), strict=True)):
                yield inferring.step_of(node, kind="pad", padding=pairs, padding_mode=mode, inferred=True)
        for number in values:
            yield inferring.step_of(node, kind="pad", padding=pairs, padding_mode="zeros", value=number, inferred=True)


def _cropped(node: Read) -> Step:
    given = node.config.get("cropping")
    if given is None:
        return inferring.first(node, inferring.slices(node, node.node.parents[0]), "what it cuts off is not told")
    rank = node.rank
    if rank == 3 and isinstance(given, list) and len(given) == 2 and not isinstance(given[0], list):
        pairs = [(int(given[0]), int(given[1]))]
    else:
        cut = [given] * (rank - 2) if isinstance(given, int) else given
        pairs = [(int(c[0]), int(c[1])) if isinstance(c, list) else (int(c), int(c)) for c in cut]
    inner = [(-before, -after) for before, after in pairs]
    whole = [(0, 0), (0, 0), *inner] if first_axis(node) == 1 else [(0, 0), *inner, (0, 0)]
    return inferring.step_of(node, padding=tuple(whole))


@reader("roll")
def roll(node: Read) -> Step:
    """By how much along which axes."""
    shifts = node.config.get("shifts")
    if shifts is not None:
        axes = node.config.get("axis")
        axes = None if axes is None or axes == [] else tuple(listed(axes))
        moved = tuple(listed(shifts))
        return inferring.step_of(node, shifts=moved[0] if axes is None else moved, axes=axes)
    return inferring.first(node, rolled(node), "by how much it shifts is not told")


def rolled(node: Read) -> Iterator[Step]:
    """A shift says itself by where the first value has gone."""
    x, y = node.recorded(node.node.parents[0]), inferring.result(node)
    if x.shape != y.shape or not x.size:
        return
    for place in np.argwhere(y == x.reshape(-1)[0])[:256]:
        moved = [(int(by) if 2 * by <= length else int(by) - length, axis)
                 for axis, (by, length) in enumerate(zip(place, y.shape, strict=True)) if by]  # fmt: skip
        yield inferring.step_of(
            node, kind="roll", shifts=tuple(by for by, _ in moved), axes=tuple(a for _, a in moved), inferred=True
        )


@reader("flip")
def flip(node: Read) -> Step:
    """Along which axes."""
    axes, rank = node.config.get("axis", node.config.get("axes")), node.rank
    found = itertools.chain.from_iterable(itertools.combinations(range(rank), count) for count in range(1, rank + 1))
    others = (inferring.step_of(node, axes=axes) for axes in found)
    if axes is not None:  # of several that are given one by one only the first is told
        return inferring.likely(node, inferring.step_of(node, axes=tuple(listed(axes))), lambda: others)
    return inferring.first(node, others, "along which axes it turns is not told")


@reader("pixel_shuffle", "pixel_unshuffle")
def shuffle(node: Read) -> Step:
    """PyTorch's order of channels, TensorFlow's, or the one that ONNX is told."""
    channels = first_axis(node)
    factor = node.config.get("factor", node.config.get("block_size", node.config.get("downscale_factor")))
    if factor is None:
        factor = _grown(node, channels)
    order = {"DCR": "dcr", "CRD": "crd"}.get(
        str(node.config.get("mode", "DCR" if node.framework != "pytorch" else "CRD")).upper(), "dcr"
    )
    axes = (1 - node.rank, -1) if channels == 1 else (-1, 1 - node.rank)
    usual = inferring.step_of(node, (node.node.parents[0],), factor=int(factor), channels=axes[0], order=order)
    return inferring.likely(
        node, usual, lambda: [usual.set(channels=axis, order=way) for axis in axes for way in ("crd", "dcr")]
    )


def _grown(node: Read, channels: int) -> int:
    axis = 2 if channels == 1 else 1
    long, short = sorted((node.source()[axis], node.shape[axis]), reverse=True)
    return long // short


@reader("tile", "repeat", "expand")
def repeat(node: Read) -> Step:
    """How often along every axis, whole or value by value."""
    if not node.node.parents:
        return constant(node)
    before, after = node.source(), node.shape
    if node.node.label == "RepeatVector":
        return inferring.step_of(node, (node.node.parents[0],), "reshape", **_vector(before, after))
    repeats = node.config.get("repeats")
    if node.node.kind == "repeat" and isinstance(repeats, int) and node.config.get("axis") is not None:
        return inferring.step_of(node, repeats=repeats, axis=int(node.config["axis"]))
    return inferring.first(node, _repeats(node, before, after), "how often it repeats is not told")


def _vector(before: Sequence[int], after: Sequence[int]) -> dict[str, Any]:
    return {"unsqueeze": 1, "expand": (-1, after[1], before[1]), "shape": (-1, *after[1:])}


def _repeats(node: Read, before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[Step]:
    source = node.node.parents[:1]
    try:
        if np.broadcast_shapes(before, after) == after and node.node.kind == "expand":
            yield inferring.step_of(node, source, shape=after)
    except ValueError:
        pass
    if math.prod(before) == 0:
        return
    short = (1,) * (len(after) - len(before)) + before
    if len(short) == len(after) and all(b % a == 0 for a, b in zip(short, after, strict=True)):
        counts = tuple(b // a for a, b in zip(short, after, strict=True))
        steps = [inferring.step_of(node, source, "tile", repeats=counts)]
        for axis, count in enumerate(counts):
            if len(before) == len(after) and count > 1 and max(counts[:axis] + counts[axis + 1 :], default=1) == 1:
                steps.append(inferring.step_of(node, source, "repeat", repeats=count, axis=axis))
        yield from reversed(steps) if node.node.kind == "repeat" else steps
    if len(after) == 1:
        yield inferring.step_of(node, source, "repeat", repeats=after[0] // math.prod(before), axis=None)
    if len(before) == len(after):
        yield from _uneven(node, source)


def _uneven(node: Read, source: Sequence[str]) -> Iterator[Step]:
    """Each place along an axis its own number of times."""
    x, y = node.recorded(source[0]), inferring.result(node)
    for axis in range(x.ndim):
        found = inferring.rows(np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0))
        if found is not None and (np.diff(found) >= 0).all():
            counts = np.bincount(found, minlength=x.shape[axis]).tolist()
            yield inferring.step_of(node, source, "repeat", repeats=counts, axis=axis, inferred=True)


@reader("cumsum", "cumprod")
def accumulate(node: Read) -> Step:
    """Along which axis, with or without each itself, from which end."""
    given = {key: bool(node.config[key]) for key in ("exclusive", "reverse") if key in node.config}
    axis = node.config.get("axis")
    if axis is not None:
        return inferring.step_of(node, axis=int(axis)).set(**given)
    ways = itertools.product(range(node.rank), (False, True), (False, True))
    steps = (inferring.step_of(node, axis=a, exclusive=e, reverse=r, inferred=True) for a, e, r in ways)
    return inferring.first(node, steps, "along which axis it sums is not told")


@reader("tril", "triu")
def triangle(node: Read) -> Step:
    """Which diagonal; the other triangle where that gives the recorded values."""
    given = [int(node.config["diagonal"])] if "diagonal" in node.config else range(-8, 9)
    ordered = sorted(given, key=abs)
    steps = (
        inferring.step_of(node, kind=kind, diagonal=k) for k in ordered for kind in (node.node.kind, "triu", "tril")
    )
    return inferring.first(node, steps, "which diagonal it keeps is not told")


@reader("unfold")
def unfold(node: Read) -> Step:
    """Windows of pictures as columns; PyTorch's method of that name is of one axis, with the windows last."""
    if node.node.label == "torch.Tensor.unfold":
        from tracer.causes.reading.sampling import sliding

        return inferring.first(node, sliding(node), "how far its windows are apart is not told")
    rank = node.rank - 2
    found: dict[str, Any] = {
        word: numbers(node.config.get(word, usual), rank)
        for word, usual in (("strides", 1), ("dilation", 1), ("padding", 0))
    }
    size = node.config.get("kernel_size")
    if size is not None:
        return inferring.step_of(node, kernel_size=numbers(size, rank), **found)
    taps = node.shape[1] // node.source()[1]
    sizes = (way for way in itertools.product(range(1, taps + 1), repeat=rank) if math.prod(way) == taps)
    steps = (inferring.step_of(node, kernel_size=way, **found) for way in sizes)
    return inferring.first(node, steps, "the size of its windows is not told")


@reader("arange", "full", "zeros", "ones", "eye", "other:zeros_like", "other:ones_like", "other:unseen")
def made(node: Read) -> Step:
    """A constant: what was recorded."""
    return constant(node)
