"""Which parameters each node uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tracer.graph import Node, Param

Key = tuple[str, str]
"""A parameter: its owner and its name there, as in ``Recording.weights``."""

WHOLE = frozenset({"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (4, 8, 16, 32, 64))})
"""Types of indices, counters and masks: no network learns them."""


def owner(node: Node) -> str:
    """The layer whose parameters a node lists; empty for operations on those of the model itself."""
    return node.owner


def key(node: Node, param: Param) -> Key:
    return owner(node), param.name


def keys(nodes: Sequence[Node]) -> list[tuple[Key, ...]]:
    """The parameters of each node; a further call of a shared layer uses those of the first."""
    listing = listed(nodes)
    return [tuple(key(found, param) for param in found.params) if (found := listing[n.name]) else () for n in nodes]


def listed(nodes: Iterable[Node]) -> dict[str, Node | None]:
    """By name of each node the node that lists its parameters, itself or the first call; None where it has none."""
    nodes = tuple(nodes)
    first: dict[tuple[str, str], Node] = {}
    for node in nodes:
        if node.params and node.owner:
            first.setdefault((node.owner, node.kind), node)
    return {
        node.name: node if node.params else first.get((node.owner, node.kind)) if node.owner and node.call else None
        for node in nodes
    }


def described(nodes: Iterable[Node]) -> Mapping[Key, Param]:
    """Every parameter that some node lists."""
    return {key(node, param): param for node in nodes for param in node.params}
