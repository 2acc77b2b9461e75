"""Which operator owns which weights, and what they are called there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracer import kinds
from tracer.adapter import Array
from tracer.graph import Param
from tracer_onnx.flow import Flow, Op
from tracer_onnx.layers import Layer
from tracer_onnx.tensors import plain
from tracer_onnx.vocabulary import CONVOLUTIONS, MATRIX

_AFFINE = {1: "weight", 2: "bias"}
_ROLES: dict[str, Mapping[int, str]] = {
    "BatchNormalization": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "InstanceNormalization": _AFFINE, "LayerNormalization": _AFFINE, "GroupNormalization": _AFFINE,
    "RMSNormalization": {1: "weight"}, "SimplifiedLayerNormalization": {1: "weight"}, "PRelu": {1: "weight"},
    "SkipLayerNormalization": {2: "weight", 3: "bias", 4: "input_bias"},
    "SkipSimplifiedLayerNormalization": {2: "weight", 3: "input_bias"},
    "LSTM": {1: "kernel", 2: "recurrent_kernel", 3: "bias", 5: "initial_h", 6: "initial_c", 7: "peephole"},
    "GRU": {1: "kernel", 2: "recurrent_kernel", 3: "bias", 5: "initial_h"},
    "RNN": {1: "kernel", 2: "recurrent_kernel", 3: "bias", 5: "initial_h"},
    "Gather": {0: "weight"}, "BiasGelu": {1: "bias"},
    "QLinearConv": {1: "x_scale", 2: "x_zero_point", 3: "weight", 4: "w_scale", 5: "w_zero_point", 6: "y_scale",
                    7: "y_zero_point", 8: "bias"},
    "QLinearMatMul": {1: "x_scale", 2: "x_zero_point", 3: "kernel", 4: "w_scale", 5: "w_zero_point", 6: "y_scale",
                      7: "y_zero_point"},
    "QGemm": {1: "x_scale", 2: "x_zero_point", 3: "kernel", 4: "w_scale", 5: "w_zero_point", 6: "bias",
              7: "y_scale", 8: "y_zero_point"},
    "ConvInteger": {1: "weight", 2: "x_zero_point", 3: "w_zero_point"},
    "MatMulInteger": {1: "kernel", 2: "x_zero_point", 3: "w_zero_point"},
    "MatMulNBits": {1: "kernel", 2: "scales", 3: "zero_points", 5: "bias"},
}  # fmt: skip
_GENERIC = {"Add": "bias", "Sub": "bias", "Mul": "weight", "Div": "weight", "Where": "constant", "Concat": "constant"}
_SETTINGS = frozenset(
    {"Pow", "Clip", "Pad", "Resize", "Upsample", "Reshape", "Slice", "Expand", "Tile", "Range", "ConstantOfShape",
     "QuantizeLinear", "DequantizeLinear", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "OneHot"}
)  # fmt: skip
"""Operators whose constants behind the first input are settings."""


@dataclass(frozen=True)
class Owned:
    """A node's weights: their descriptions, the names of their values in the graph, and by whom they are owned.

    ``call`` counts how often the same kernel had been used by an operator of the same type before: then the weights
    are listed there.
    """

    params: tuple[Param, ...] = ()
    values: tuple[str, ...] = ()
    same_as: int | None = None
    call: int = 0


def assign(flow: Flow, layers: list[Layer], kinds_: Mapping[int, str]) -> dict[int, Owned]:
    """The weights of every shown operator that has some, by its index.

    A layer of several operators lists them at its last one. A kernel that several operators read is one layer called
    several times, or tied: it is listed once. Vectors are listed wherever they are read: exporters merge equal ones.
    """
    by_last = {layer.last.index: layer for layer in layers}
    inside = {inner.index for layer in layers for inner in layer.inner}
    seen: dict[str, tuple[int, str]] = {}
    calls: dict[int, int] = {}
    out: dict[int, Owned] = {}
    for op in flow.nodes:
        if op.index in inside:
            continue
        layer = by_last.get(op.index)
        found = _of_layer(flow, layer) if layer is not None else _of_op(flow, op)
        if not found:
            continue
        kind = kinds_[op.index]
        kernel = next((flow.root(v) for role, v in found if role in ("weight", "kernel")), None)
        if kind in kinds.WEIGHTED and kernel is not None:
            first = seen.setdefault(kernel, (op.index, kind))
            if first[0] != op.index:
                if first[1] == kind:
                    calls[first[0]] = calls.get(first[0], 0) + 1
                    out[op.index] = Owned(same_as=first[0], call=calls[first[0]])
                    continue
                found = [(role, value) for role, value in found if role not in ("weight", "kernel")]
        params = tuple(_param(role, flow.weights[value]) for role, value in found)
        out[op.index] = Owned(params, tuple(value for _, value in found))
    return out


def value_of(flow: Flow, name: str) -> Array:
    """A weight as it is handed over."""
    return plain(flow.weights[name])


def _param(role: str, value: Array) -> Param:
    # A graph for inference does not say what was trained.
    return Param(role, tuple(value.shape), str(plain(value).dtype), False)


def _of_layer(flow: Flow, layer: Layer) -> list[tuple[str, str]]:
    own = _of_op(flow, layer.main) if layer.main is not None else []
    return _distinct([*own, *layer.params])


def _of_op(flow: Flow, op: Op) -> list[tuple[str, str]]:
    """Role and value name of what an operator reads as weights, in its own order."""
    roles = _roles(op)
    found = []
    for place, name in enumerate(op.inputs):
        value = flow.constant(name)
        if value is None or value.dtype.kind in "OUS":
            continue
        role = roles.get(place)
        if role is not None:
            if role.startswith("initial_") and not value.any():
                continue
            found.append((role, name))
        elif op.type not in _ROLES and _is_weight(value) and not (op.type in _SETTINGS and place):
            found.append((_local(flow, name) or _GENERIC.get(op.type, "constant"), name))
    return _distinct(found)


def _is_weight(value: Array) -> bool:
    return value.size > 1 and value.dtype.kind not in "iub"


def _roles(op: Op) -> Mapping[int, str]:
    if op.type == "Gather":
        return {} if op.attributes.get("axis", 0) else _ROLES["Gather"]
    if op.type in _ROLES:
        return _ROLES[op.type]
    if op.type in CONVOLUTIONS:
        place, bias = CONVOLUTIONS[op.type]
        return {place: "weight", **({bias: "bias"} if bias is not None else {})}
    if op.type in MATRIX:
        # (out, in) as PyTorch keeps it, or (in, out) as Keras does.
        place, bias = MATRIX[op.type]
        return {place: "weight" if op.attributes.get("transB") else "kernel",
                **({bias: "bias"} if bias is not None else {})}  # fmt: skip
    return {}


def _local(flow: Flow, name: str) -> str:
    """``pos_embed`` of an initializer named ``encoder.pos_embed``; empty for names that say nothing."""
    root = flow.root(name)
    if root in flow.producer or not root or "::" in root or "/" in root or ":" in root:
        return ""
    last = root.rpartition(".")[2]
    known = "." in root or (last.isidentifier() and not last.startswith(("val_", "const", "_")))
    return last if known and not last.isdigit() else ""


def _distinct(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    out: dict[str, str] = {}
    for role, value in found:
        unique, copy = role, 1
        while unique in out:
            copy += 1
            unique = f"{role}_{copy}"
        out[unique] = value
    return list(out.items())
