"""Functions that few networks have; what of them is no tensor is rarely told, and read off the recorded values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.step import Array, Step, Unknown

_EACH = ("exp2", "log10", "trunc", "frac", "logit", "sinc", "sgn", "real", "imag", "angle", "conj", "view_as_real",
         "view_as_complex", "squareplus")  # fmt: skip
_PLAIN = (*_EACH, "logaddexp", "hypot", "outer", "xlogy", "complex", "polar")
_SHARES = (0.5, 0.25, 0.75, 0.1, 0.9, 0.05, 0.95, 0.01, 0.99, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8)


def _kind(node: Read) -> str:
    return node.node.kind.partition(":")[2] or node.node.kind


def _along(node: Read) -> list[int]:
    """The axis that is told, or each, the last first."""
    told = node.config.get("axis")
    return [int(told)] if isinstance(told, int) else list(range(-1, -node.rank - 1, -1))


@reader(*(f"other:{kind}" for kind in _PLAIN), "other:special_expit")
def plain(node: Read) -> Step:
    """A function without settings."""
    kind = _kind(node).removeprefix("special_")
    if len(node.node.parents) != (1 if kind in (*_EACH, "expit") else 2):
        raise Unknown("its other operand was not recorded")
    return inferring.step_of(node, kind=kind)


@reader("inverse")
def inverse(node: Read) -> Step:
    """The inverse of matrices."""
    return inferring.step_of(node)


@reader("other:softmin")
def softmin(node: Read) -> Step:
    """The softmax of what is negative."""
    steps = (inferring.step_of(node, kind="softmax", axis=axis, negated=True) for axis in _along(node))
    return inferring.first(node, steps, "its axis is not told")


@reader("other:cdist", "other:pairwise_distance")
def distances(node: Read) -> Step:
    """PyTorch's: lengths of differences, the second's with a small number added."""
    if len(node.node.parents) != 2:
        raise Unknown("its other operand was not recorded")
    kind, told = _kind(node), node.config.get("rate", node.config.get("p"))
    epsilon: dict[str, Any] = (
        {} if kind == "cdist" else {"epsilon": float(node.config.get("eps", node.config.get("epsilon", 1e-6)))}
    )
    keeps = kind != "cdist" and len(node.shape) == node.rank
    orders = (2.0, 1.0, float("inf")) if told is None else (float(told),)
    steps = [inferring.step_of(node, kind=kind, order=order, keepdims=keeps, **epsilon) for order in orders]
    # Squares that are multiplied out, as cdist does it, leave more rounding than the lengths themselves.
    return steps[0] if told is not None else inferring.first(node, steps, "which norm it takes is not told", terms=64)


@reader("other:diff", "other:cummax", "other:cummin", "other:logcumsumexp")
def along_one(node: Read) -> Step:
    """A function along one axis."""
    steps = (inferring.step_of(node, kind=_kind(node), axis=axis) for axis in _along(node))
    return inferring.first(node, steps, "its axis is not told", terms=64)


@reader("other:diagonal")
def diagonal(node: Read) -> Step:
    """The diagonal of two axes."""
    told = [node.config.get(word) for word in ("dim1", "dim2")]
    rank, offset = node.rank, int(node.config.get("offset", 0))
    pairs = [told] if None not in told else [(0, 1), (rank - 2, rank - 1), *combinations(range(rank), 2)]
    steps = (inferring.step_of(node, kind="diagonal", axes=tuple(pair), offset=offset) for pair in pairs)
    return inferring.first(node, steps, "of which axes it is is not told")


@reader("other:quantile", "other:nanquantile")
def quantile(node: Read) -> Step:
    """A share that the values tell; one of the usual."""
    keeps = len(node.shape) == node.rank
    steps = (
        inferring.step_of(node, kind="quantile", axes=axis, keepdims=keeps, share=share)
        for axis in (*_along(node), None)
        for share in _SHARES
    )
    return inferring.first(node, steps, "which share it takes is not told", terms=4)


@reader("argsort")
def places_in_order(node: Read) -> Step:
    """Where the values stood that are brought in order."""
    return places(node, node)


def places(node: Read, whole: Read) -> Step:
    """The numbers of the values that a sort, or the largest few, gives beside them; raises Unknown."""
    told = bool(whole.config.get("largest", whole.config.get("descending", whole.node.kind == "topk")))
    source = (whole.node.parents[0],)
    some: list[dict[str, Any]] = []
    for axis in _along(whole):
        if whole.node.kind in ("amax", "amin"):
            some.append(
                {"kind": f"arg{whole.node.kind[1:]}", "axes": (axis,), "keepdims": len(node.shape) == whole.rank}
            )
            continue
        count = node.shape[axis] if whole.node.kind == "topk" and len(node.shape) == whole.rank else None
        some += [{"kind": "sort", "axis": axis, "descending": down, "count": count, "places": True}
                 for down in (told, not told)]  # fmt: skip
    return inferring.first(node, (inferring.step_of(node, source, **one) for one in some), "what it counts is not told")


@reader("scatter")
def scatter(node: Read) -> Step:
    """Slices that are summed where they belong: by recorded numbers, or by those that the values tell."""
    return inferring.first(node, _summed(node), "where its values go is not told", terms=16)


def _summed(node: Read) -> Iterator[Step]:
    recorded = {name: node.recorded(name) for name in dict.fromkeys(node.node.parents)}
    for name, values in recorded.items():
        if values.dtype.kind != "f" or values.ndim != len(node.shape):
            continue
        for axis in range(values.ndim):
            if any(n != m for k, (n, m) in enumerate(zip(values.shape, node.shape, strict=True)) if k != axis):
                continue
            count = node.shape[axis]
            for other, numbers in recorded.items():
                if numbers.dtype.kind in "iu" and numbers.shape == values.shape[axis : axis + 1]:
                    yield inferring.step_of(node, (name, other), "index_add", axis=axis, count=count)
            found = _belonging(np.moveaxis(values, axis, 0), np.moveaxis(inferring.result(node), axis, 0))
            if found is not None:
                settings = {"axis": axis, "count": count, "indices": found, "inferred": True}
                yield inferring.step_of(node, (name,), "index_add", **settings)


def _belonging(values: Array, sums: Array) -> Array | None:
    """For each slice the sum that it is part of; None where the values are too few to tell."""
    rows, goal = values.reshape(len(values), -1), sums.reshape(len(sums), -1)
    if not 0 < len(rows) <= min(rows.shape[1], 512):
        return None
    shares = np.linalg.lstsq(rows.T, goal.T, rcond=None)[0]
    found = shares.argmax(1)
    return found if np.allclose(shares, np.eye(len(sums))[found], atol=1e-2) else None


@reader("masking")
def masking(node: Read) -> Step:
    """Keras's Masking."""
    return inferring.step_of(node, value=float(node.config.get("mask_value", 0.0)))
