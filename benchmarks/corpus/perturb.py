"""Structures with something done to them: what a port looks like when a layer or block is gone, extra or unnamed.

Cheap stand-ins for defects where no model has to run: only for calibration, and only structures are left of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from tracer.graph import Node, Param, Structure

Renamed = dict[str, str | None]
"""For each node of the changed structure the node that it was; None for one that is new; left out where it is both."""


def perturbed(structure: Structure, seed: int) -> Iterator[tuple[str, Structure, Renamed]]:
    """Changed copies: what was done, the structure, and what its nodes were."""
    rng = np.random.default_rng(seed)
    for name, change in _CHANGES.items():
        found = change(structure, rng)
        if found is not None:
            yield name, *found


def chain(blocks: int, without: int | None = None) -> Structure:
    """Equal layers with an activation each, one behind the other; without one of them."""
    nodes = [Node("x", "input", "x", role="input", shape=(5, 6))]
    weights = (Param("weight", (6, 6), "float32"), Param("bias", (6,), "float32"))
    for k in range(blocks):
        if k == without:
            continue
        more = {"params": weights, "config": {"units": 6}, "owner": f"{k}.0"}
        nodes.append(Node(f"{k}.0", "dense", "Dense", "layer", (nodes[-1].name,), (5, 6), **more))
        nodes.append(Node(f"{k}.1", "tanh", "Tanh", "layer", (nodes[-1].name,), (5, 6)))
    return Structure(tuple(nodes), (nodes[-1].name,))


def heads(order: Iterable[int], deep: bool, prefix: str) -> Structure:
    """Equal heads on one trunk, built in some order: a layer each, or two with an activation between."""
    nodes = [Node(f"{prefix}x", "input", "x", role="input", shape=(5, 6))]

    def dense(name: str, parent: str, wide: int, out: int) -> str:
        weights = (Param("weight", (out, wide), "float32"), Param("bias", (out,), "float32"))
        more = {"params": weights, "config": {"units": out}, "owner": name}
        nodes.append(Node(name, "dense", "Dense", "layer", (parent,), (5, out), **more))
        return name

    trunk = dense(f"{prefix}trunk", f"{prefix}x", 6, 8)
    ends = []
    for k in order:
        last = trunk
        if deep:
            last = dense(f"{prefix}in{k}", last, 8, 8)
            nodes.append(Node(f"{prefix}act{k}", "relu", "ReLU", "layer", (last,), (5, 8)))
            last = nodes[-1].name
        ends.append(dense(f"{prefix}out{k}", last, 8, 3))
    return Structure(tuple(nodes), tuple(ends))


def _anonymous(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """Names that say nothing."""
    names = {node.name: f"n{i}" for i, node in enumerate(structure)}
    nodes = [
        replace(
            node,
            name=names[node.name],
            parents=tuple(names.get(p, p) for p in node.parents),
            alias_of=None if node.alias_of is None else names.get(node.alias_of),
            owner=names[node.name],
            scope="",
        )
        for node in structure
    ]
    outputs = tuple(names[o] for o in structure.outputs if o in names)
    return Structure(tuple(nodes), outputs), {new: old for old, new in names.items()}


def _without(structure: Structure, gone: set[str]) -> tuple[Structure, Renamed]:
    """Nodes taken out; who read them reads what they read first."""
    instead: dict[str, str] = {}
    for node in structure:
        if node.name in gone and node.parents:
            first = node.parents[0]
            instead[node.name] = instead.get(first, first)
    nodes = [
        replace(
            node,
            parents=tuple(instead.get(p, p) for p in node.parents),
            alias_of=None if node.alias_of is None else instead.get(node.alias_of, node.alias_of),
        )
        for node in structure
        if node.name not in gone
    ]
    return Structure(tuple(nodes), structure.outputs), {node.name: node.name for node in nodes}


def _layers(structure: Structure) -> list[Node]:
    """Nodes in the middle of a chain whose shape is their input's."""
    by_name = structure.by_name
    return [
        node
        for node in structure
        if node.role in ("layer", "op")
        and node.alias_of is None
        and len(node.parents) == 1
        and node.parents[0] in by_name
        and by_name[node.parents[0]].shape == node.shape
    ]


def _layer_missing(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    found = _layers(structure)
    return _without(structure, {found[int(rng.integers(len(found)))].name}) if found else None


def _some_missing(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    found = _layers(structure)
    if len(found) < 8:
        return None
    return _without(structure, {found[int(k)].name for k in rng.choice(len(found), len(found) // 8, replace=False)})


def _layer_extra(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """A layer twice in a row."""
    found = _layers(structure)
    if not found:
        return None
    twice = found[int(rng.integers(len(found)))]
    if f"{twice.name}_extra" in structure.by_name:
        return None
    copy = replace(twice, name=f"{twice.name}_extra", parents=(twice.name,), owner=f"{twice.owner}_extra")
    nodes: list[Node] = []
    for node in structure:
        nodes.append(replace(node, parents=tuple(copy.name if p == twice.name else p for p in node.parents)))
        if node.name == twice.name:
            nodes[-1] = node
            nodes.append(copy)
    return Structure(tuple(nodes), structure.outputs), {
        node.name: None if node.name == copy.name else node.name for node in nodes
    }


def _some_extra(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """Layers with weights here and there that the other side does not have: depths drift apart."""
    out, renamed = structure, {node.name: node.name for node in structure}
    count = max(2, sum(bool(node.params) for node in structure) // 10)
    for _ in range(count):
        found = _layer_extra(out, rng)
        if found is None:
            return None
        new = next(name for name, old in found[1].items() if old is None)
        shape = structure.nodes[0].shape or (1,)
        param = Param("weight", (shape[-1] + 1, 7), "float32")
        nodes = [
            replace(n, kind="dense", label="Dense", params=(param,), config={}) if n.name == new else n
            for n in found[0]
        ]
        out = Structure(tuple(nodes), found[0].outputs)
        renamed = {name: None if old is None else renamed[old] for name, old in found[1].items()}
    return out, renamed


def _other_extra(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """An activation that the other side does not have, after some layer."""
    found = _layer_extra(structure, rng)
    if found is None:
        return None
    new = next(name for name, old in found[1].items() if old is None)
    kinds = [k for k in ("sigmoid", "relu", "tanh", "layernorm") if k != structure.by_name[new[:-6]].kind]
    kind = kinds[int(rng.integers(len(kinds)))]
    nodes = [replace(n, kind=kind, label=kind, params=(), config={}) if n.name == new else n for n in found[0]]
    return Structure(tuple(nodes), structure.outputs), found[1]


def _blocks(structure: Structure) -> list[set[str]]:
    """Nodes between two tensors of one shape that everything between depends on alone: what can be left out."""
    nodes = list(structure.nodes)
    place = {node.name: i for i, node in enumerate(nodes)}
    last = [max((place[c] for c in structure.children[node.name]), default=i) for i, node in enumerate(nodes)]
    cuts = []
    furthest = 0
    for i, node in enumerate(nodes):
        if furthest <= i and node.role in ("layer", "op", "activation") and node.alias_of is None:
            cuts.append(i)
        furthest = max(furthest, last[i])
    found = []
    for k, start in enumerate(cuts):
        for stop in cuts[k + 1 : k + 40]:
            if 5 <= stop - start <= 60 and nodes[start].shape == nodes[stop].shape:
                found.append({node.name for node in nodes[start + 1 : stop + 1]})
                break
    return found


def _block_missing(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    found = _blocks(structure)
    if not found:
        return None
    gone = found[int(rng.integers(len(found)))]
    start = min(structure.nodes.index(structure.by_name[name]) for name in gone)
    source = structure.nodes[start - 1].name
    out, renamed = _without(structure, gone)
    nodes = [
        replace(node, parents=tuple(source if p not in structure.by_name or p in gone else p for p in node.parents))
        for node in out
    ]
    return Structure(tuple(nodes), tuple(o for o in structure.outputs if o not in gone)), renamed


def _folded(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """No BatchNorm is left: its scale and shift are in the convolutions, whose values are now the BatchNorms'."""
    gone = {node.name for node in structure if node.kind == "batchnorm" and node.parents}
    if not gone:
        return None
    out, renamed = _without(structure, gone)
    before = {structure.by_name[name].parents[0] for name in gone}
    return out, {new: old for new, old in renamed.items() if new not in before}


def _scaled_before(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """The first factor of each product is scaled instead of the product."""
    by_name = structure.by_name
    scales = {
        node.name: node.parents[0]
        for node in structure
        if node.kind in ("mul", "div")
        and len(node.parents) == 1
        and by_name[node.parents[0]].kind == "matmul"
        and len(by_name[node.parents[0]].parents) == 2
        and structure.children[node.parents[0]] == (node.name,)
    }
    if not scales:
        return None
    products = {product: scale for scale, product in scales.items()}
    nodes = []
    for node in structure:
        if node.name in products:
            factor = by_name[node.parents[0]]
            now = replace(by_name[products[node.name]], parents=(factor.name,), shape=factor.shape)
        elif node.name in scales:
            product = by_name[scales[node.name]]
            now = replace(product, parents=(node.name, product.parents[1]))
        else:
            alias = None if node.alias_of is None else scales.get(node.alias_of, node.alias_of)
            now = replace(node, parents=tuple(scales.get(p, p) for p in node.parents), alias_of=alias)
        nodes.append(now)
    renamed: Renamed = {node.name: products.get(node.name, node.name) for node in structure}
    outputs = tuple(scales.get(o, o) for o in structure.outputs)
    return Structure(tuple(nodes), outputs), renamed | dict.fromkeys(scales, None)


def _kinds_changed(structure: Structure, rng: np.random.Generator) -> tuple[Structure, Renamed] | None:
    """Some activations are others."""
    others = {"relu": "silu", "gelu": "relu", "silu": "relu", "tanh": "sigmoid", "max_pool2d": "avg_pool2d"}
    found = [node.name for node in structure if node.kind in others]
    if not found:
        return None
    chosen = {found[int(k)] for k in rng.choice(len(found), max(1, len(found) // 4), replace=False)}
    nodes = [replace(node, kind=others[node.kind]) if node.name in chosen else node for node in structure]
    return Structure(tuple(nodes), structure.outputs), {node.name: node.name for node in nodes}


_CHANGES: dict[str, Callable[[Structure, np.random.Generator], tuple[Structure, Renamed] | None]] = {
    "anonymous": _anonymous,
    "layer-missing": _layer_missing,
    "some-missing": _some_missing,
    "layer-extra": _layer_extra,
    "other-extra": _other_extra,
    "some-extra": _some_extra,
    "block-missing": _block_missing,
    "kinds": _kinds_changed,
    "folded": _folded,
    "scaled": _scaled_before,
}
