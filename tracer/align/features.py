"""What the alignment knows of each node before it compares: the graph without mere plumbing, depths, signatures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tracer import kinds
from tracer.graph import Node, Structure

Summary = Mapping[str, float | int]

TRANSPARENT = frozenset({"permute", "identity", "dropout", "cast", "squeeze", "expand_dims", "split"})
"""Kinds that one side may have and the other not, without anything being computed."""


def dims(shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The dimensions in ascending order, ones left out: equal for all axis orders of a tensor."""
    return None if shape is None else tuple(sorted(d for d in shape if d != 1))


@dataclass(frozen=True)
class Features:
    """The nodes to pair, in running order, with everything that is compared."""

    nodes: tuple[Node, ...]
    dims: tuple[tuple[int, ...] | None, ...]
    params: tuple[tuple[tuple[int, ...], ...], ...]
    depth_in: tuple[int, ...]
    """Weighted layers on the longest path from an input."""
    depth_out: tuple[int, ...]
    """Weighted layers on the longest path to an output."""
    parents: tuple[tuple[int, ...], ...]
    """Indices of the nodes that are read, seen through transparent ones."""
    children: tuple[tuple[int, ...], ...]
    summaries: tuple[Summary | None, ...]
    index: Mapping[str, int]


def extract(structure: Structure, summaries: Mapping[str, Summary]) -> Features:
    """Features of every node but containers and what they pass through; ``summaries`` are those of the recorded
    tensors, where there are any."""
    nodes = tuple(
        node for node in structure.nodes if node.role != "container" and not (node.role == "item" and node.alias_of)
    )
    index = {node.name: i for i, node in enumerate(nodes)}
    parents = tuple(tuple(dict.fromkeys(_through(structure, node, index))) for node in nodes)
    children: list[list[int]] = [[] for _ in nodes]
    for i, found in enumerate(parents):
        for parent in found:
            children[parent].append(i)
    weight = [int(node.kind in kinds.WEIGHTED or bool(node.params)) for node in nodes]
    depth_in = [0] * len(nodes)
    for i in range(len(nodes)):
        depth_in[i] = weight[i] + max((depth_in[p] for p in parents[i] if p < i), default=0)
    depth_out = [0] * len(nodes)
    for i in reversed(range(len(nodes))):
        depth_out[i] = weight[i] + max((depth_out[c] for c in children[i] if c > i), default=0)
    stored = [structure.by_name[n.alias_of].name if n.alias_of in structure.by_name else n.name for n in nodes]
    return Features(
        nodes,
        tuple(dims(node.shape) for node in nodes),
        tuple(tuple(sorted(dims(p.shape) or () for p in node.params)) for node in nodes),
        tuple(depth_in),
        tuple(depth_out),
        parents,
        tuple(tuple(c) for c in children),
        tuple(summaries.get(name) for name in stored),
        index,
    )


def _through(structure: Structure, node: Node, index: Mapping[str, int]) -> list[int]:
    """Indices of a node's parents, looking through containers, aliases and transparent nodes."""
    out: list[int] = []
    queue = list(node.parents)
    seen: set[str] = set()
    while queue:
        name = queue.pop(0)
        found = structure.by_name.get(name)
        if found is None or name in seen:
            continue
        seen.add(name)
        if found.role == "container" or found.kind in TRANSPARENT:
            ahead = (found.alias_of,) if found.alias_of else found.parents
            if ahead and ahead[0] is not None:
                queue = [a for a in ahead if a is not None] + queue
                continue
        if name in index:
            out.append(index[name])
    return out


def same_content(a: Summary | None, b: Summary | None) -> float | None:
    """How well the order-free numbers of two tensors agree: 1 equal, 0 different, None when not known.

    Constant tensors say nothing, for they agree with too much.
    """
    if a is None or b is None or a.get("size") != b.get("size") or "rms" not in a or "rms" not in b:
        return None
    rms = max(abs(float(a["rms"])), abs(float(b["rms"])))
    if rms == 0 or not math.isfinite(rms) or a.get("min") == a.get("max"):
        return None
    scale = {"mean": rms, "rms": rms, "min": rms, "max": rms, "cube": rms**3}
    worst = 0.0
    for name, unit in scale.items():
        if name not in a or name not in b or unit == 0 or not math.isfinite(unit):
            return None
        worst = max(worst, abs(float(a[name]) - float(b[name])) / unit)
    if worst >= 0.1:
        return 0.0
    return min(1.0, max(0.0, 1 + math.log10(max(worst, 1e-3) / 1e-3) / -2))
