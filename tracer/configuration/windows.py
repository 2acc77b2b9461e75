"""Windows that slide over a tensor, and zeros around it: kernels, strides, and paddings as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tracer.configuration.vocabulary import Pairs
from tracer.graph import Node, Structure

_RANK = re.compile(r"(?:conv|conv_transpose|depthwise_conv|separable_conv|max_pool|avg_pool)([123])d")


def rank_of(node: Node) -> int | None:
    """How many axes the window of a convolution or pool slides over; None for what has none."""
    found = _RANK.fullmatch(node.kind)
    return int(found[1]) if found else None


def transposed(node: Node) -> bool:
    return node.kind.startswith("conv_transpose")


def spatial(node: Node) -> tuple[int, ...] | None:
    """The axes of a node's tensor that its window slides over; None where that is not known."""
    rank, count = rank_of(node), len(node.shape or ())
    if rank is None or count < rank + 1:
        return None
    if _last(node):
        return tuple(range(count - 1 - rank, count - 1))
    return tuple(range(count - rank, count))


def _last(node: Node) -> bool:
    return (node.layout or node.config.get("data_format")) == "channels_last"


def each(value: Any, rank: int) -> tuple[int, ...] | None:
    """One whole number for each axis: ``2``, ``[2]`` and ``[2, 2]`` are the same."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    if len(items) == 1:
        items *= rank
    whole = all(isinstance(item, int) and not isinstance(item, bool) for item in items)
    return tuple(items) if whole and len(items) == rank else None


def kernel(node: Node, rank: int) -> tuple[int, ...] | None:
    return each(node.config.get("pool_size", node.config.get("kernel_size")), rank)


def steps(node: Node, rank: int) -> tuple[int, ...] | None:
    """The strides; a pool that states none takes its kernel's, a convolution one."""
    if "strides" in node.config:
        return each(node.config["strides"], rank)
    return kernel(node, rank) if "pool" in node.kind else (1,) * rank


def padding(node: Node, structure: Structure | None, outer: Pairs | None = None) -> Pairs | None:
    """What is put around the input of a convolution or pool, or cut off a transposed convolution's full output.

    ``same`` is what it comes to for the shapes in ``structure``. What lies behind the last window is left out, as no
    setting of it would change anything: a padding of 1 under a stride of 2 and a kernel of 3 is (1, 0) where the input
    is even. What a layer before has put around already, ``outer``, is counted in. None where it is not known.
    """
    rank = rank_of(node)
    if rank is None or "padding" not in node.config:
        return None
    window, step = kernel(node, rank), steps(node, rank)
    apart = each(node.config.get("dilation", 1), rank)
    if window is None or step is None or apart is None:
        return None
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window, apart, strict=True))
    before, after = _lengths(node, structure, rank), _own_lengths(node, rank)
    if before is None or after is None:
        return given(node.config["padding"], rank)
    slides = zip(before, after, reach, step, strict=True)
    if transposed(node):
        total = [(n - 1) * s + k - m for n, m, k, s in slides]
    else:
        total = [(m - 1) * s + k - n for n, m, k, s in slides]
    text = node.config["padding"]
    if text == "same":
        first = [max(0, t) // 2 for t in total]
    elif text == "same_lower":
        first = [max(0, t) - max(0, t) // 2 for t in total]
    elif text == "causal":
        first = [k - 1 for k in reach]
    else:
        known = given(text, rank)
        if known is None:
            return None
        first = [start for start, _ in known]
    if outer is not None:
        total = [t + start + end for t, (start, end) in zip(total, outer, strict=True)]
        first = [own + start for own, (start, _) in zip(first, outer, strict=True)]
    ends = [t - start for t, start in zip(total, first, strict=True)]
    return tuple((start, end if transposed(node) else max(0, end)) for start, end in zip(first, ends, strict=True))


def given(value: Any, rank: int) -> Pairs | None:
    """Padding as it is written, as pairs: ``valid``, 1, [1, 2], [[0, 1], [0, 1]], or all starts and then all ends."""
    if value == "valid":
        return ((0, 0),) * rank
    if isinstance(value, list | tuple) and len(value) == rank and all(_is_pair(item) for item in value):
        return tuple((item[0], item[1]) for item in value)
    whole = isinstance(value, list | tuple) and all(isinstance(item, int) for item in value)
    if whole and len(value) == 2 * rank:
        return tuple(zip(value[:rank], value[rank:], strict=True))
    both = each(value, rank)
    return None if both is None else tuple((length, length) for length in both)


def around(node: Node, structure: Structure | None = None) -> Pairs | None:
    """What a ``pad`` puts around each axis of its tensor; None where it is not known.

    Which axes are meant where only the spatial ones are told is seen by the shapes in ``structure``, or the layout.
    """
    count = len(node.shape or ())
    if "pads" in node.config:  # ONNX: all starts, then all ends
        flat = node.config["pads"]
        axes = node.config.get("axes", list(range(len(flat) // 2)) if isinstance(flat, list) else [])
        pairs = given(flat, len(axes)) if isinstance(axes, list) else None
        if pairs is None or not count or not all(isinstance(axis, int) for axis in axes):
            return None
        return _at(pairs, [axis % count for axis in axes], count)
    value = node.config.get("padding")
    if not isinstance(value, list | tuple) or not count:
        return None
    if all(map(_is_pair, value)):
        pairs = tuple((item[0], item[1]) for item in value)
        if len(pairs) == count:
            return pairs
        return _placed(pairs, node, structure)
    if not all(isinstance(item, int) for item in value) or len(value) % 2:
        return None
    if node.label.startswith("ZeroPadding"):
        return _placed(((value[0], value[1]),), node, structure)
    # torch writes the last axis first
    pairs = tuple((value[i], value[i + 1]) for i in range(0, len(value), 2))
    return _at(pairs, [count - 1 - i for i in range(len(pairs))], count)


def _placed(pairs: Pairs, node: Node, structure: Structure | None) -> Pairs | None:
    """Pairs of the spatial axes at their places."""
    count = len(node.shape or ())
    starts = {"channels_last": [1], "channels_first": [2]}.get(
        str(node.layout or node.config.get("data_format")), [1, 2]
    )
    found = [_at(pairs, list(range(start, start + len(pairs))), count) for start in starts]
    source = structure.by_name.get(node.parents[0]) if structure is not None and node.parents else None
    if source is not None and source.shape is not None and node.shape is not None and len(source.shape) == count:
        grown = [new - old for new, old in zip(node.shape, source.shape, strict=True)]
        found = [whole for whole in found if whole is not None and [sum(pair) for pair in whole] == grown]
    return found[0] if len(found) == 1 else None


def _at(pairs: Pairs, axes: Sequence[int], count: int) -> Pairs | None:
    if len(pairs) != len(axes) or any(not 0 <= axis < count for axis in axes):
        return None
    out = [(0, 0)] * count
    for pair, axis in zip(pairs, axes, strict=True):
        out[axis] = pair
    return tuple(out)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and all(isinstance(part, int) for part in item)


def _lengths(node: Node, structure: Structure | None, rank: int) -> tuple[int, ...] | None:
    """The spatial lengths of what a node reads."""
    source = structure.by_name.get(node.parents[0]) if structure is not None and node.parents else None
    shape = source.shape if source is not None else None
    if shape is None or node.shape is None or len(shape) != len(node.shape):
        return None
    axes = spatial(node)
    return None if axes is None else tuple(shape[axis] for axis in axes)


def _own_lengths(node: Node, rank: int) -> tuple[int, ...] | None:
    axes = spatial(node)
    return None if axes is None or node.shape is None else tuple(node.shape[axis] for axis in axes)
