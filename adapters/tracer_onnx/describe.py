"""The graph of a model for inputs of given shapes, in the shared words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tracer.adapter import Array
from tracer.graph import Layout, Node, Param, Role, Structure
from tracer.text import some
from tracer_onnx import layers, names, vocabulary, weights
from tracer_onnx.flow import RANDOM, Flow, Op
from tracer_onnx.loading import graphs_of

_CHANNELLED = ("conv", "depthwise_conv", "max_pool", "avg_pool", "global_", "batchnorm", "instancenorm", "groupnorm")
_FUSED = frozenset({"FusedConv", "FusedMatMul", "FusedGemm", "NhwcFusedConv"})

Seen = Mapping[str, tuple[tuple[int, ...] | None, str | None]]
"""Shape and element type of the values of a run, by name."""


@dataclass(frozen=True)
class Described:
    """A structure, the node of every shown value, and where the weights of the nodes are."""

    structure: Structure
    node_of: dict[str, str]
    owned: tuple[tuple[str, Param, str], ...]


def describe(flow: Flow, inputs: Mapping[str, Array], seen: Seen, notes: Iterable[str], fault: str = "") -> Described:
    """The structure after a run that gave ``seen``; operators that did not run because of ``fault`` are left out."""
    shapes = {name: shape for name, (shape, _) in seen.items() if shape is not None}
    shapes |= {name: tuple(array.shape) for name, array in inputs.items()}
    groups = layers.find(flow)
    by_last = {layer.last.index: layer for layer in groups}
    inside = {inner.index: layer for inner, layer in layers.members(groups)}
    kinds = {op.index: _kind(op, flow, shapes, by_last.get(op.index), inside.get(op.index)) for op in flow.nodes}
    owned = weights.assign(flow, groups, kinds)
    kernels = {
        op.index: flow.root(name)
        for op in flow.nodes
        for layer in [by_last.get(op.index)]
        if (name := _kernel((layer.main or op) if layer is not None else op, flow))
    }
    named = names.assign(flow, groups, kinds, kernels, list(inputs))
    node_of = {name: name for name in inputs}
    nodes = [
        Node(name=name, kind="input", label="input", role="input", shape=tuple(array.shape), dtype=str(array.dtype))
        for name, array in inputs.items()
    ]
    listed: list[tuple[str, Param, str]] = []
    for op in flow.nodes:
        shown = [name for name in op.outputs if name in seen]
        own = owned.get(op.index, weights.Owned())
        for place, value in enumerate(shown):
            first = named[op.index].name
            name = first if not place else f"{first}[{op.outputs.index(value)}]"
            node_of[value] = name
            layer = by_last.get(op.index)
            role: Role = "layer" if own.params or own.same_as is not None or layer is not None else "op"
            around = inside.get(op.index)
            if place:
                role = "item"
            elif around is not None and around.last.outputs[0] in seen:  # else the layer did not come to its end
                role = "inner"
            owner = named[own.same_as if own.same_as is not None else op.index].owner
            nodes.append(
                Node(
                    name=name,
                    kind=kinds[op.index],
                    label=_label(op, layer),
                    role=role,
                    parents=tuple(_parents(op, flow, node_of)) if not place else (first,),
                    shape=seen[value][0],
                    dtype=seen[value][1],
                    params=own.params if not place else (),
                    config=_config(op, flow, shapes, layer) if not place and op.index not in inside else {},
                    owner=owner,
                    call=named[op.index].call or own.call,
                    scope=named[op.index].scope,
                    source=names.source_of(op),
                    layout=_layout(kinds[op.index], shapes.get(op.outputs[0], ())),
                )
            )
        if shown:
            listed += [
                (named[op.index].owner, param, value) for param, value in zip(own.params, own.values, strict=True)
            ]
    ends = [(k, node_of[o.name]) for k, o in enumerate(flow.graph.output) if o.name in node_of]
    returned = tuple((f"[{k}]" if len(flow.graph.output) > 1 else "", name) for k, name in ends)
    outputs = tuple(dict.fromkeys(name for _, name in ends))
    said = (*notes, *_notes(flow))
    return Described(Structure(tuple(nodes), outputs, said, fault, returned), node_of, tuple(listed))


def _kind(
    op: Op,
    flow: Flow,
    shapes: dict[str, tuple[int, ...]],
    layer: layers.Layer | None,
    around: layers.Layer | None,
) -> str:
    if layer is not None:
        return layer.kind or vocabulary.kind_of(layer.main or op, flow, shapes)
    kind = vocabulary.kind_of(op, flow, shapes)
    if around is not None and around.main is op:  # the layer without its bias is not the layer
        return "matmul" if op.type in vocabulary.MATRIX else f"other:{kind}"
    return "mean" if around is not None and op.type == "ReduceMean" else kind


def _label(op: Op, layer: layers.Layer | None) -> str:
    """``Conv``, ``com.microsoft.Gelu``, ``MatMul+Add`` for a layer of several operators."""
    own = op.type if op.proto.domain in ("", "ai.onnx") else f"{op.proto.domain}.{op.type}"
    if layer is None:
        return own
    first = min(layer.inner, key=lambda inner: inner.index)
    return f"{first.type}+{'…+' if len(layer.inner) > 1 else ''}{own}"


def _config(op: Op, flow: Flow, shapes: dict[str, tuple[int, ...]], layer: layers.Layer | None) -> vocabulary.Config:
    if layer is None:
        return vocabulary.config_of(op, flow, shapes)
    return (vocabulary.config_of(layer.main, flow, shapes) if layer.main is not None else {}) | layer.config


def _kernel(op: Op, flow: Flow) -> str:
    """The value that an operator has as its kernel; "" when it has none."""
    place = (vocabulary.MATRIX | vocabulary.CONVOLUTIONS).get(op.type, (None,))[0]
    if op.type in ("LSTM", "GRU", "RNN", "BatchNormalization", "LayerNormalization", "PRelu"):
        place = 1
    elif op.type == "Gather":
        place = 0
    name = op.input(place) if place is not None else ""
    return name if flow.constant(name) is not None else ""


def _parents(op: Op, flow: Flow, node_of: Mapping[str, str]) -> list[str]:
    return [node_of[name] for name in op.reads if name in node_of]


def _layout(kind: str, shape: tuple[int, ...]) -> Layout | None:
    return "channels_first" if kind.startswith(_CHANNELLED) and len(shape) > 2 else None


def _notes(flow: Flow) -> list[str]:
    out = []
    left = flow.left_out
    if left:
        parts = [f"{left['constant']} of constants alone" if left["constant"] else "",
                 f"{left['shape']} of shapes alone" if left["shape"] else ""]  # fmt: skip
        out.append(f"left out are operators that compute from {' and '.join(p for p in parts if p)}")
    folded = sum(_is_folded(op) for op in flow.nodes)
    if folded:
        out.append(
            f"the exporter folded batch normalisations into {folded} convolutions: each gives what the normalisation "
            "gave (export with training=PRESERVE and do_constant_folding=False to keep them apart)"
        )
    opaque = Counter(op.type for op in flow.nodes if any(True for _ in graphs_of(op.proto)))
    if opaque:
        what = ", ".join(f"{count} {word}" for word, count in opaque.items())
        out.append(f"what runs inside loops is not visible, only what they give ({what})")
    drawn = [op.type for op in flow.nodes if op.type in RANDOM or (op.type == "Dropout" and _training(op, flow))]
    if drawn:
        out.append(f"the graph draws random numbers ({some(list(dict.fromkeys(drawn)))}): every run differs")
    if any(value.dtype.name == "float16" for value in flow.weights.values()):
        out.append("onnxruntime computes many float16 operators in float32 on a processor")
    fused = any(op.type in _FUSED or op.proto.domain == "com.microsoft.nchwc" for op in flow.nodes)
    if fused:
        out.append("the file was optimised for onnxruntime: activations inside fused operators are not visible")
    return out


def _is_folded(op: Op) -> bool:
    """Whether torch's exporters named a convolution's weights as they name those that they folded."""
    weight, bias = op.input(1), op.input(2)
    return op.type in ("Conv", "ConvTranspose", "FusedConv") and (
        (weight.startswith("onnx::Conv") and bias.startswith("onnx::Conv")) or bias.endswith(".weight_bias")
    )


def _training(op: Op, flow: Flow) -> bool:
    mode = flow.constant(op.input(2))
    return mode is not None and bool(mode.any())
