"""Which projections of a written-out attention make its queries, keys and values, as the graph says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tracer import kinds
from tracer.alignment.atoms import Tag
from tracer.alignment.features import ARRANGING
from tracer.alignment.labels import only_axis
from tracer.graph import Node, Structure

_PASSES = ARRANGING | kinds.LAYOUT_ONLY | {"mul", "div", "rescaling", "expand", "tile"}
_SCORES = _PASSES | {"add", "sub", "where", "masked_fill"}
_PRODUCTS = frozenset({"matmul", "einsum"})


def roles(structure: Structure) -> Mapping[str, Tag]:
    """Query, key or value by the name of the dense layer that makes it; a layer that makes several has none.

    What a softmax is multiplied with are the values; in a product of queries and keys the queries come first, unless
    only one of the two is made of what the values are made of: those are the keys.
    """
    found: dict[str, set[Tag]] = {}
    nodes = structure.by_name
    readers: dict[str, list[Node]] = {}
    for node in structure:
        for parent in node.parents:
            readers.setdefault(parent, []).append(node)

    def parents(node: Node) -> list[Node]:
        names = (node.alias_of,) if node.role == "container" and node.alias_of else node.parents
        return [nodes[name] for name in names if name in nodes]

    def source(node: Node) -> Node | None:
        """The dense layer whose values, arranged or scaled, a node gives."""
        while node.kind != "dense":
            above = parents(node)
            if node.role != "container" and (node.kind not in _PASSES or node.kind == "input"):
                return None
            if len(above) != 1:
                return None
            node = above[0]
        return node

    def note(tag: Tag, node: Node | None) -> None:
        if node is not None:
            found.setdefault(node.name, set()).add(tag)

    for node in structure:
        if node.kind == "attention" and not node.params and len(node.parents) >= 3:
            tags: tuple[Tag, ...] = ("query", "key", "value")
            for tag, read in zip(tags, parents(node), strict=False):
                note(tag, source(read))
        if node.kind != "softmax":
            continue
        score = _above(node, parents)
        product = next(_below(node, readers), None)
        if score is None or product is None:
            continue
        through, after = product
        made = [source(other) for other in parents(after) if other.name != through]
        pair = [source(other) for other in parents(score)]
        if len(made) != 1 or len(pair) != 2:
            continue
        value = made[0]
        note("value", value)
        like = [one is not None and value is not None and {*one.parents} == {*value.parents} for one in pair]
        last = node.shape is not None and only_axis(node.config, len(node.shape)) == len(node.shape) - 1
        if like[0] != like[1]:
            note("key", pair[like.index(True)])
            note("query", pair[like.index(False)])
        elif score.kind == "matmul" and last:
            note("query", pair[0])
            note("key", pair[1])
    return {name: next(iter(tags)) for name, tags in found.items() if len(tags) == 1}


def _above(softmax: Node, parents: Callable[[Node], list[Node]]) -> Node | None:
    """The one product that a softmax is taken of, perhaps scaled and masked."""
    queue, seen = [softmax], set[str]()
    products = []
    while queue:
        for parent in parents(queue.pop()):
            if parent.kind in _PRODUCTS and len(parent.parents) == 2:
                products.append(parent)
            elif (parent.kind in _SCORES or parent.role == "container") and parent.name not in seen:
                seen.add(parent.name)
                queue.append(parent)
    return products[0] if len({product.name for product in products}) == 1 else None


def _below(softmax: Node, readers: Mapping[str, list[Node]]) -> Iterator[tuple[str, Node]]:
    """The products of two tensors of which one is the softmax's, with the name of that one."""
    queue, seen = [softmax], set[str]()
    while queue:
        node = queue.pop()
        for reader in readers.get(node.name, ()):
            if reader.kind in _PRODUCTS and len(reader.parents) == 2:
                yield node.name, reader
            elif (reader.kind in ARRANGING or reader.role == "container") and reader.name not in seen:
                seen.add(reader.name)
                queue.append(reader)
