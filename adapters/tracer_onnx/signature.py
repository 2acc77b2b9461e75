"""What a graph says about its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnx import TensorProto

from tracer.adapter import Array, InputSpec
from tracer.errors import InputError
from tracer.graph import Layout
from tracer.names import display
from tracer_onnx.flow import Flow
from tracer_onnx.tensors import stored_name, type_name

_ELEMENTWISE = frozenset(
    {"Cast", "Identity", "Sub", "Div", "Mul", "Add", "QuantizeLinear", "DequantizeLinear", "Pad", "Relu", "Clip",
     "Dropout"}
)  # fmt: skip
_SPATIAL = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "BatchNormalization", "QLinearConv", "GlobalAveragePool"}
)
_INDEX_KEEPING = frozenset({"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Transpose", "Flatten"})
_FARTHEST = 12


def signature(flow: Flow) -> tuple[InputSpec, ...]:
    """The inputs in the graph's order. Raises InputError for inputs that are not tensors of numbers."""
    return tuple(_spec(flow, value) for value in flow.inputs)


def _spec(flow: Flow, value: Any) -> InputSpec:
    kind = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type
    if kind != "tensor_type" or element in (TensorProto.STRING, TensorProto.UNDEFINED):
        what = "text" if element == TensorProto.STRING else f"a {str(kind).removesuffix('_type')}"
        raise InputError(f"its input '{display(value.name, 80)}' is {what}: only tensors of numbers can be fed")
    shape: tuple[int | None, ...] | None = None
    if value.type.tensor_type.HasField("shape"):
        dims = value.type.tensor_type.shape.dim
        # Some exporters write -1 for a free dimension.
        shape = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in dims)
    rank = len(shape) if shape is not None else 0
    return InputSpec(
        value.name,
        shape,
        stored_name(element),
        maximum=_maximum(flow, value.name) if "int" in type_name(element) else None,
        layout=_layout(flow, value.name, rank) if rank > 2 else None,
    )


def _maximum(flow: Flow, name: str) -> int | None:
    """The largest index of the smallest table that is read with these integers."""
    sizes, values = [], [name]
    for _ in range(_FARTHEST):
        following: list[str] = []
        for value in values:
            for op in flow.readers.get(value, []):
                table = flow.constant(op.input(0)) if op.type == "Gather" and op.input(1) == value else None
                if table is not None:
                    sizes.append(table.shape[op.attributes.get("axis", 0)] - 1)
                elif op.type in _INDEX_KEEPING and op.input(0) == value:
                    following += op.outputs
        values = following
    return min(sizes) if sizes else None


def _layout(flow: Flow, name: str, rank: int) -> Layout | None:
    """Where the first convolution or pooling behind an input wants the channels, through a transposition."""
    moved = False
    for _ in range(_FARTHEST):
        readers = flow.readers.get(name, [])
        spatial = next((op for op in readers if op.type in _SPATIAL and op.input(0) == name), None)
        if spatial is not None:
            return "channels_last" if moved else "channels_first"
        last_first = [0, rank - 1, *range(1, rank - 1)]
        turns = (op for op in readers if op.type == "Transpose" and op.attributes.get("perm") == last_first)
        turned = next(turns, None)
        step = turned or next((op for op in readers if op.type in _ELEMENTWISE), None)
        if step is None or (turned is not None and moved):
            return None
        moved = moved or turned is not None
        name = step.outputs[0]
    return None


def check(flow: Flow, specs: tuple[InputSpec, ...], inputs: Mapping[str, Array]) -> None:
    """Raises InputError, in one line, when ``inputs`` do not fit the graph's own statement."""
    known = {spec.name: spec for spec in specs}
    for name in inputs:
        if name not in known:
            raise InputError(f"the model has no input '{display(name, 80)}': it takes {_all(specs)}")
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(f"the model's input '{display(spec.name, 80)}' is missing: it takes {_all(specs)}")
        array, shown = inputs[spec.name], f"input '{display(spec.name, 80)}'"
        if str(array.dtype) != spec.dtype:
            raise InputError(f"{shown} is {array.dtype}, the model takes {spec.dtype}")
        if spec.shape is not None and (
            len(spec.shape) != array.ndim
            or any(want is not None and want != have for want, have in zip(spec.shape, array.shape, strict=True))
        ):
            wanted = ", ".join("any" if d is None else str(d) for d in spec.shape)
            raise InputError(f"{shown} has shape {list(array.shape)}, the model takes [{wanted}]")


def _all(specs: tuple[InputSpec, ...]) -> str:
    return ", ".join(display(spec.name, 80) for spec in specs) or "none"
