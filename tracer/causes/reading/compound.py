"""Functions that do several things in one: a product and a sum, a mean of two tensors, the largest of some values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracer.causes.reading import Read, custom, inferring, reader
from tracer.causes.step import Step, Unknown

_PRODUCT = 3


@reader("other:addcmul", "other:addcdiv")
def product_added(node: Read) -> Step:
    """PyTorch's: the first and ``value`` times the product, or the quotient, of the other two."""
    if len(node.node.parents) != _PRODUCT:
        return custom.custom(node)
    kind = node.node.kind.partition(":")[2]
    return inferring.step_of(node, kind=kind, alpha=float(node.config.get("value", 1)))


@reader("other:lerp")
def between_two(node: Read) -> Step:
    """PyTorch's: the first, and as much of the way to the second as the third, or a number, says."""
    if len(node.node.parents) == _PRODUCT:
        return inferring.step_of(node, kind="lerp")
    if len(node.node.parents) != _PRODUCT - 1:
        return custom.custom(node)
    first, second = (np.asarray(node.recorded(name), np.float64) for name in node.node.parents)
    way = second - first
    size = float((way * way).sum())
    weight = float(((inferring.result(node) - first) * way).sum()) / size if size else 0.0
    short = [float(f"{weight:.{digits}g}") for digits in range(1, 7)]
    steps = (inferring.step_of(node, kind="lerp", weight=number, inferred=True) for number in (*short, weight))
    return inferring.first(node, steps, "how far it goes is not told")


@reader("other:cosine_similarity")
def cosine(node: Read) -> Step:
    """PyTorch's, whose lengths are ``epsilon`` at least."""
    epsilon = float(node.config.get("eps", node.config.get("epsilon", 1e-8)))
    return inferring.step_of(node, kind="cosine_similarity", axis=int(node.config.get("axis", 1)), epsilon=epsilon)


@reader("other:median", "sort", "topk")
def ordered(node: Read) -> Step:
    """What some values are along an axis when they stand in order; the first of a function's two results."""
    return inferring.first(node, _orders(node), "which values it takes is not told")


def _orders(node: Read) -> Iterator[Step]:
    told = node.config.get("axis")
    for axis in range(-1, -node.rank - 1, -1) if told is None else (int(told),):
        if node.node.kind == "other:median":
            for keepdims in (False, True):
                yield inferring.step_of(node, kind="median", axis=axis, keepdims=keepdims)
            continue
        if len(node.shape) != node.rank:
            raise Unknown("its result has other axes")
        count = node.shape[axis] if node.node.kind == "topk" else None
        usual = bool(node.config.get("largest", node.config.get("descending", node.node.kind == "topk")))
        for descending in (usual, not usual):
            yield inferring.step_of(node, kind="sort", axis=axis, descending=descending, count=count)
