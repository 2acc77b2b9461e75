"""Which axis of a node's tensor plays which part, as its operation and configuration say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer import kinds
from tracer.graph import Node

Labels = dict[str, int]
"""Axis by part: ``n`` batch, ``t`` time, ``c`` channels or features, ``h``, ``w``, ``s`` …; ``axis`` is the
one that a softmax, a concatenation and the like work along."""

_SPATIAL = {1: "s", 2: "hw", 3: "dhw"}
_FOLLOWING = frozenset({"softmax", "log_softmax", "concat", "stack", "glu", "split"})
_CHANNELED = frozenset({"batchnorm", "groupnorm", "instancenorm", "prelu"})
STILL = _CHANNELED | {"softmax", "log_softmax", "layernorm", "rmsnorm"}
"""Kinds that work along an axis, and whose tensor has the axes of the one that they read."""


def integers(value: Any) -> list[int] | None:
    """A list of whole numbers, or None: configurations come from files."""
    items = [value] if isinstance(value, int) else value
    if not isinstance(items, list | tuple) or any(not isinstance(v, int) or isinstance(v, bool) for v in items):
        return None
    return list(items)


def axes_of(config: Mapping[str, Any], rank: int) -> list[int] | None:
    """The operation's axes, counted from the front; None where it does not say or they do not fit."""
    found = integers(config.get("axis", config.get("axes")))
    if not found or any(not -rank <= axis < rank for axis in found):
        return None
    return [axis % rank for axis in found]


def only_axis(config: Mapping[str, Any], rank: int) -> int | None:
    found = axes_of(config, rank)
    return found[0] if found is not None and len(found) == 1 else None


def channels_at(node: Node, rank: int) -> int | None:
    """The channel axis of a node whose layout is known."""
    if node.layout is None or rank < 3:
        return None
    return 1 if node.layout == "channels_first" else rank - 1


def reduced(node: Node, rank: int, after: int) -> set[int] | None:
    """The axes that a reduction takes away (or leaves with length one), of the input's ``rank``."""
    found = axes_of(node.config, rank)
    if found is not None:
        return set(found)
    channel = channels_at(node, rank)
    if node.kind.startswith("global_") and rank > 2:
        if channel is None and after == rank:
            return None
        return set(range(1, rank)) - {rank - 1 if channel is None else channel} if channel is not None else None
    return None


def output(node: Node, rank: int) -> Labels:
    """Parts of the axes of what a node computes."""
    kind, config = node.kind, node.config
    if kind == "input":
        return {"n": 0} if rank > 1 else {}
    if kind in ("lstm", "gru", "rnn") and node.role != "item":
        return _recurrent(node, rank)
    if kind in ("dense", "embedding", "bilinear") and rank:
        return {"c": rank - 1}
    if kind.startswith("global_") and node.layout is not None and rank == 2:
        return {"n": 0, "c": 1}
    if kind == "attention" and node.params and rank == 3 and node.role != "item":
        late = config.get("batch_first") is False
        return {"n": 1 if late else 0, "t": 0 if late else 1, "c": 2}
    placed = _placed(node, rank)
    if placed:
        return placed
    if kind in ("layernorm", "rmsnorm"):
        normalised = integers(config.get("normalized_shape"))
        place = only_axis(config, rank)
        if place is None and normalised is not None and len(normalised) == 1 <= rank:
            place = rank - 1
        return {} if place is None else {"c": place}
    if kind in _FOLLOWING:
        place = only_axis(config, rank)
        return {} if place is None else {"axis": place}
    return {}


def inputs(node: Node, rank: int) -> Labels:
    """Parts of the axes of the first tensor that a node reads."""
    if node.kind in ("lstm", "gru", "rnn") and node.role != "item":
        return _recurrent(node, rank)
    if node.kind in ("dense", "bilinear") and rank:
        return {"c": rank - 1}
    if node.kind in kinds.CONVOLUTIONS or node.kind in kinds.POOLS:
        return _placed(node, rank)
    if node.kind in ("layernorm", "rmsnorm", *_CHANNELED):
        return output(node, rank)
    return {}


def _recurrent(node: Node, rank: int) -> Labels:
    late = node.config.get("batch_first") is False or bool(node.config.get("time_major"))
    if rank == 3:
        return {"n": 1 if late else 0, "t": 0 if late else 1, "c": 2}
    return {"n": 0, "c": 1} if rank == 2 and "batch_first" not in node.config else {}


def _placed(node: Node, rank: int) -> Labels:
    """Batch, channels and positions of a picture or sequence whose layout is known."""
    place = channels_at(node, rank)
    if place is None and node.kind in _CHANNELED and rank > 1:
        place = only_axis(node.config, rank)
        return {} if place is None else {"c": place}
    if place is None or rank - 2 not in _SPATIAL:
        return {}
    rest = [axis for axis in range(1, rank) if axis != place]
    return {"n": 0, "c": place, **dict(zip(_SPATIAL[rank - 2], rest, strict=True))}
