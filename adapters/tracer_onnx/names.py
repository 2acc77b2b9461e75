"""What the nodes are called.

One rule: an operator is named by the module it ran in. The module's path is taken from what the exporter left:

- ``pkg.torch.onnx.name_scopes`` of torch's newer exporter;
- the operator's own name where it is a path: ``/layer1/layer1.0/conv1/Conv`` (torch) is ``layer1.0.conv1``,
  ``StatefulPartitionedCall/model/conv1/BiasAdd`` (tf2onnx) is ``conv1``: leading parts that all operators share go;
- the name of its kernel, ``layer1.0.conv1.weight``, where neither is there; and before the name scopes, for these give
  a convolution that a batch normalisation was folded into the latter's name.

The one operator of a module that computes is called like the module (``layer1.0.conv1``, ``fc``), with ``#0``, ``#1`` …
where the module was called several times; others have their operation after it (``layer1.0/Add``, ``fc/MatMul``). Where
no module is known the operator's own name stands, else its output's. Names that would be equal are numbered: ``Add~2``.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracer.kinds import ACTIVATIONS, LAYOUT_ONLY, NORMALISATIONS, POOLS, WEIGHTED
from tracer_onnx.flow import Flow, Op
from tracer_onnx.layers import Layer

_PARAMETER = re.compile(r"^(.+)[./](weight|kernel|weight_v|weight_hh_l0|weight_ih_l0)$")
_SCOPES, _STACK = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.stack_trace"
_LAYERS = WEIGHTED | NORMALISATIONS | ACTIVATIONS | POOLS
"""Kinds that are modules: several of one kind with the same kernel in one module are its calls."""
_MADE_UP = re.compile(r"[A-Za-z]+__\d+")
"""What tf2onnx calls an operator that stands for several of TensorFlow's; its weights keep their names."""
_FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')


@dataclass(frozen=True)
class Named:
    """A node's name, the path of the module it ran in, the layer it belongs to, and which call of it this is."""

    name: str
    scope: str
    owner: str
    call: int = 0


@dataclass
class _Place:
    scope: str
    word: str


def assign(
    flow: Flow, layers: list[Layer], kinds: Mapping[int, str], kernels: Mapping[int, str], taken: Sequence[str]
) -> dict[int, Named]:
    """A name for every shown operator, by its index.

    Args:
        kernels: the name in the file of the kernel that an operator reads.
        taken: names that are in use (the inputs').
    """
    inside = {inner.index: layer for layer in layers for inner in layer.inner}
    places = {op.index: _place(flow, op) for op in flow.nodes}
    _shorten(places)
    for op in flow.nodes:
        match = _PARAMETER.match(kernels.get(op.index, ""))
        if match and (not places[op.index].scope or _scopes(op)):
            places[op.index] = _Place(match[1], op.type)
    for index, layer in inside.items():
        places[index].scope = places[layer.last.index].scope
    for layer in layers:  # a gate or a sum between modules belongs to none of them
        if layer.main is not None and not places[layer.last.index].scope and places[layer.main.index].scope:
            places[layer.last.index] = places[layer.main.index]
    main = Counter(
        places[op.index].scope for op in flow.nodes if kinds[op.index] not in LAYOUT_ONLY and op.index not in inside
    )
    total = Counter(places[op.index].scope for op in flow.nodes if op.index not in inside)
    deeper = {scope for place in places.values() for scope in _above(place.scope)}
    found: dict[str, set[tuple[str, str]]] = {}
    for op in flow.nodes:
        if op.index not in inside and kinds[op.index] not in LAYOUT_ONLY:
            found.setdefault(places[op.index].scope, set()).add((kinds[op.index], kernels.get(op.index, "")))
    out: dict[int, Named] = {}
    used, calls = set(taken), Counter[str]()
    for op in flow.nodes:
        if op.index in inside:
            continue
        place = places[op.index]
        scope, computes = place.scope, kinds[op.index] not in LAYOUT_ONLY
        owner, call = "", 0
        if not scope:
            name = place.word
        elif scope in deeper or not (main[scope] or total[scope] == 1):
            name = f"{scope}/{place.word}"
        elif (computes and main[scope] == 1) or total[scope] == 1:
            name = scope
        elif main[scope] == 1:
            name = f"{scope}/{op.type if _scopes(op) else place.word}"
        elif computes and len(found[scope]) == 1 and kinds[op.index] in _LAYERS:
            owner, call = scope, calls[scope]
            calls[scope] += 1
            name = f"{scope}#{call}"
        else:
            name = f"{scope}/{place.word}"
        name = unique(name, used)
        out[op.index] = Named(name, scope, owner or name, call)
    for op in flow.nodes:
        if op.index in inside:
            whole = out[inside[op.index].last.index]
            out[op.index] = Named(unique(f"{whole.name}/{op.type}", used), whole.scope, whole.owner, whole.call)
    return out


def source_of(op: Op) -> str | None:
    """``file:line`` of the call in the exported model, where the exporter wrote it down."""
    trace = next((entry.value for entry in op.proto.metadata_props if entry.key == _STACK), "")
    frames = _FRAME.findall(trace)
    return f"{frames[-1][0]}:{frames[-1][1]}" if frames else None


def _place(flow: Flow, op: Op) -> _Place:
    scopes = _scopes(op)
    if scopes:
        # The exporter numbers the operations through the whole model: add_40.
        return _Place(scopes[-2] if len(scopes) > 1 else "", re.sub(r"_\d+$", "", scopes[-1]) or op.type)
    name = op.proto.name or next(iter(op.outputs), "").removesuffix(":0")
    if _MADE_UP.fullmatch(name):
        for weight in (flow.root(value) for value in op.inputs if flow.constant(value) is not None):
            parts = weight.removesuffix("/ReadVariableOp:0").split("/")
            if len(parts) > 1:
                return _Place("/".join(parts[:-1]), op.type)
    parts = [part for part in name.split("/") if part]
    if len(parts) < 2:
        return _Place("", parts[0] if parts else op.type)
    if not name.startswith("/"):
        return _Place("/".join(parts[:-1]), parts[-1])
    path: list[str] = []
    for part in parts[:-1]:
        # torch repeats the container's name: layer1/layer1.0
        if path and part.startswith(f"{path[-1]}."):
            path[-1] = part
        else:
            path.append(part)
    return _Place(".".join(path), parts[-1])


def _scopes(op: Op) -> list[str]:
    text = next((entry.value for entry in op.proto.metadata_props if entry.key == _SCOPES), "")
    if not text or len(text) > 10_000:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return []
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        return []
    return [item for item in found if item and not item.startswith("_empty_nn_module")] or [op.type]


def _shorten(places: Mapping[int, _Place]) -> None:
    """Take off the leading parts that all paths share, as long as something is left of each."""
    paths = [place for place in places.values() if "/" in place.scope or place.scope]
    while paths and all("/" in f"{place.scope}/" for place in paths):
        heads = {place.scope.partition("/")[0] for place in paths}
        if len(heads) > 1 or len(paths) < 2 or len({place.scope for place in paths}) < 2:
            return
        for place in paths:
            place.scope = place.scope.partition("/")[2]
        paths = [place for place in paths if place.scope]


def _above(scope: str) -> list[str]:
    """The paths above a path, whichever sign separates its parts."""
    return [scope[: match.start()] for match in re.finditer(r"[./]", scope)]


def unique(name: str, used: set[str]) -> str:
    """``name``, with ``~2``, ``~3`` … where it is in ``used`` already; it is then in there."""
    free, copy = name, 1
    while free in used:
        copy += 1
        free = f"{name}~{copy}"
    used.add(free)
    return free
