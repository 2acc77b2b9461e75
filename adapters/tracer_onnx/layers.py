"""Layers that a file writes as several operators: the last one takes the layer's kind, configuration and weights.

Exporters write a dense layer as a product and a sum, and what their version of ONNX has no operator for (layer
normalisation before 17, GELU before 20) in its parts. Every operator stays a node; those before the last are tensors
inside the layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tracer_onnx.flow import Flow, Op
from tracer_onnx.vocabulary import CONVOLUTIONS, MATRIX, axes_of


@dataclass(frozen=True)
class Layer:
    """Operators that make one layer.

    Attributes:
        last: the operator that gives the layer's output.
        inner: the operators before it.
        kind: None for that of ``main``.
        main: the operator whose configuration and weights the layer has, if one has them.
        params: further weights: role and value name.
    """

    last: Op
    inner: tuple[Op, ...]
    kind: str | None = None
    main: Op | None = None
    params: tuple[tuple[str, str], ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def find(flow: Flow) -> list[Layer]:
    """The layers of a graph; no operator belongs to two."""
    finders: tuple[Callable[[Flow, Op], Layer | None], ...] = (_normalised, _gelu, _gated, _biased)
    used = set[int]()
    out = []
    for finder in finders:
        for op in flow.nodes:
            layer = finder(flow, op) if op.index not in used else None
            if layer is None:
                continue
            members = {layer.last.index, *(inner.index for inner in layer.inner)}
            if not members & used:
                used |= members
                out.append(layer)
    return out


def _ins(flow: Flow, op: Op) -> list[Op | None]:
    return [flow.producer.get(name) for name in op.inputs]


def _next(flow: Flow, op: Op, *types: str) -> Op | None:
    """The only reader of an operator's output, if it is of one of these types."""
    reader = flow.only_reader(op.outputs[0])
    return reader if reader is not None and reader.type in types else None


def _other(flow: Flow, op: Op, name: str) -> str:
    """The other operand of an operator with two."""
    rest = [other for other in op.inputs if other != name]
    return rest[0] if len(rest) == 1 else ""


def _vector(flow: Flow, op: Op, name: str) -> str:
    """The constant operand beside ``name`` that has one axis longer than one, or is a single weight."""
    other = _other(flow, op, name)
    value = flow.constant(other)
    return other if value is not None and value.ndim and sum(d > 1 for d in value.shape) <= 1 else ""


# --- bias ------------------------------------------------------------------------------------------------------


def _biased(flow: Flow, op: Op) -> Layer | None:
    """A product or convolution without bias, and the sum that adds one."""
    place, bias = (MATRIX | CONVOLUTIONS).get(op.type, (None, None))
    if place is None or (bias is not None and op.input(bias)) or op.type == "Einsum":
        return None
    weight = flow.constant(op.input(place))
    total = _next(flow, op, "Add")
    if weight is None or total is None or (op.type in MATRIX and weight.ndim != 2):
        return None
    name = _vector(flow, total, op.outputs[0])
    if not name:
        return None
    shape = flow.weights[name].shape
    if op.type in MATRIX:
        units = weight.shape[0] if op.attributes.get("transB") else weight.shape[1]
        fits = shape[-1] == units and math.prod(shape) == units
    else:
        spatial = weight.ndim - 2
        filters = weight.shape[1] * op.attributes.get("group", 1) if op.type == "ConvTranspose" else weight.shape[0]
        fits = len(shape) in (spatial + 1, spatial + 2) and shape[-spatial - 1] == filters == math.prod(shape)
    return Layer(total, (op,), main=op, params=(("bias", name),), config={"bias": True}) if fits else None


# --- normalisation ---------------------------------------------------------------------------------------------


def _normalised(flow: Flow, op: Op) -> Layer | None:
    """Layer and RMS normalisation, from the square root of a mean of squares."""
    if op.type != "Sqrt":
        return None
    total = flow.producer.get(op.input(0))
    if total is None or total.type != "Add":
        return None
    epsilon = next((value for name in total.inputs if (value := flow.scalar(name)) is not None), None)
    mean = next((p for p in _ins(flow, total) if p is not None and p.type == "ReduceMean"), None)
    square = flow.producer.get(mean.input(0)) if mean is not None else None
    if epsilon is None or mean is None or square is None:
        return None
    centred = _squared(flow, square)
    axes = axes_of(mean, flow)
    if centred is None or axes is None:
        return None
    inner = [square, mean, total, op]
    centre, values = flow.producer.get(centred), centred
    kind = "rmsnorm"
    if centre is not None and centre.type == "Sub":
        average = flow.producer.get(centre.input(1))
        if average is not None and average.type == "ReduceMean" and average.input(0) == centre.input(0):
            kind, values, inner = "layernorm", centre.input(0), [average, centre, *inner]
    ends = _divided(flow, op, centred, values, kind)
    if ends is None:
        return None
    inner += ends[:-1]
    last, params = ends[-1], []
    for word, role in (("Mul", "weight"), ("Add", "bias")):
        further = _next(flow, last, word)
        name = _vector(flow, further, last.outputs[0]) if further is not None else ""
        if further is None or not name or (role == "bias" and kind == "rmsnorm"):
            break
        params.append((role, name))
        inner.append(last)
        last = further
    unique = tuple({member.index: member for member in inner}.values())
    return Layer(last, unique, kind, params=tuple(params), config={"epsilon": float(f"{epsilon:.7g}"), "axis": axes})


def _squared(flow: Flow, op: Op) -> str | None:
    """What an operator squares."""
    if op.type == "Pow" and flow.scalar(op.input(1)) == 2:
        return op.input(0)
    return op.input(0) if op.type == "Mul" and op.input(0) == op.input(1) else None


def _divided(flow: Flow, root: Op, centred: str, values: str, kind: str) -> list[Op] | None:
    """The division by the root, also as a product with its reciprocal, and a second centring before it."""
    step, before = root, list[Op]()
    inverse = _next(flow, root, "Reciprocal")
    divides = flow.only_reader(root.outputs[0])
    if inverse is not None:
        before, step = [inverse], inverse
    elif divides is not None and divides.type == "Div" and flow.scalar(divides.input(0)) == 1:
        before, step = [divides], divides
    end = flow.only_reader(step.outputs[0])
    if end is None or end.type != ("Mul" if before else "Div"):
        return None
    top = _other(flow, end, step.outputs[0])
    again = flow.producer.get(top)
    if top == centred:
        return [*before, end]
    if kind == "layernorm" and again is not None and again.type == "Sub" and again.input(0) == values:
        return [again, *before, end]
    return None


# --- activations -----------------------------------------------------------------------------------------------


def _gelu(flow: Flow, op: Op) -> Layer | None:
    """x · ½ · (1 + erf(x / √2)), or its approximation by tanh, in any order of the factors."""
    if op.type not in ("Erf", "Tanh"):
        return None
    found = _erf_argument(flow, op) if op.type == "Erf" else _tanh_argument(flow, op)
    total = _next(flow, op, "Add")
    if found is None or total is None or flow.scalar(_other(flow, total, op.outputs[0])) != 1:
        return None
    source, inner = found
    inner += [op, total]
    last, halved, multiplied = total, False, False
    while not (halved and multiplied):
        step = _next(flow, last, "Mul")
        if step is None:
            return None
        other = _other(flow, step, last.outputs[0])
        half = flow.producer.get(other)
        if other == source and not multiplied:
            multiplied = True
        elif flow.scalar(other) == 0.5 and not halved:
            halved = True
        elif half is not None and half.type == "Mul" and not halved and source in half.inputs and \
                flow.scalar(_other(flow, half, source)) == 0.5:  # fmt: skip
            halved = multiplied = True
            inner.append(half)
        else:
            return None
        inner.append(step)
        last = step
    inner = [member for member in inner if member is not last]
    approximate = "none" if op.type == "Erf" else "tanh"
    return Layer(last, tuple(inner), "gelu", config={"approximate": approximate})


def _erf_argument(flow: Flow, op: Op) -> tuple[str, list[Op]] | None:
    scaled = flow.producer.get(op.input(0))
    if scaled is None or scaled.type not in ("Div", "Mul"):
        return None
    for name in scaled.inputs:
        factor = flow.scalar(_other(flow, scaled, name))
        wanted = math.sqrt(2) if scaled.type == "Div" else math.sqrt(0.5)
        if factor is not None and math.isclose(factor, wanted, rel_tol=1e-3):
            return name, [scaled]
    return None


def _tanh_argument(flow: Flow, op: Op) -> tuple[str, list[Op]] | None:
    """x of tanh(√(2/π) · (x + 0.044715 · x³)), with everything between it and the tanh."""
    parts = ("Mul", "Add", "Pow")
    inner: list[Op] = []
    queue, sources, factors = [op.input(0)], dict[str, int](), list[float]()
    while queue and len(inner) < 8:
        step = flow.producer.get(queue.pop())
        if step is None or step.type not in parts or step in inner:
            return None
        inner.append(step)
        for name in step.inputs:
            value, before = flow.scalar(name), flow.producer.get(name)
            if value is not None:
                factors.append(value)
            elif before is not None and before.type in parts and len(inner) < 5 and name not in sources:
                queue.append(name)
            else:
                sources[name] = sources.get(name, 0) + 1
    cubic = any(math.isclose(factor, 0.044715, rel_tol=1e-3) for factor in factors)
    return (next(iter(sources)), inner) if cubic and len(sources) == 1 else None


_GATES = {"Sigmoid": "silu", "HardSigmoid": "hard_silu", "Tanh": "mish"}


def _gated(flow: Flow, op: Op) -> Layer | None:
    """x · sigmoid(x), x · hard_sigmoid(x), x · tanh(softplus(x))."""
    if op.type not in _GATES:
        return None
    end = _next(flow, op, "Mul")
    before = flow.producer.get(op.input(0))
    inner, source = [op], op.input(0)
    if op.type == "Tanh":
        if before is None or before.type != "Softplus":
            return None
        inner, source = [before, op], before.input(0)
    if op.type == "HardSigmoid" and not math.isclose(op.attributes.get("alpha", 0.2), 1 / 6, rel_tol=1e-3):
        return None
    if end is None or _other(flow, end, op.outputs[0]) != source:
        return None
    return Layer(end, tuple(inner), _GATES[op.type])


def members(layers: list[Layer]) -> Iterator[tuple[Op, Layer]]:
    """Every operator that stands inside a layer, with it."""
    for layer in layers:
        for inner in layer.inner:
            yield inner, layer
