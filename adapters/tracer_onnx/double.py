"""A graph in double precision: its floating values are float64 wherever something can compute them so.

Every operator is tried in onnxruntime with float64 operands; what it has not is computed by :mod:`tracer_onnx.host`,
and what that has not either runs in the graph's own type, between two casts. Quantised and random operators always do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnxruntime
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, defs, helper
from onnx.numpy_helper import from_array
from onnxruntime import OrtValue

from tracer.adapter import Array, NotRecorded
from tracer.errors import ReplayError
from tracer.names import display
from tracer.text import first_line
from tracer_onnx import control, host
from tracer_onnx.flow import RANDOM, Flow, Op
from tracer_onnx.loading import graphs_of, is_standard
from tracer_onnx.names import unique
from tracer_onnx.running import Engine, Made, OpError, options
from tracer_onnx.tensors import parsed, proto_array, to_array, to_value, type_word

_DOUBLE = "tensor(double)"
_NARROW = ("tensor(float)", "tensor(float16)", "tensor(bfloat16)")
_NARROW_INSIDE = re.compile(r"tensor\((float|float16|bfloat16)\)")
_NARROW_ELEMENTS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_NARROW_NAMES = ("float32", "float16", "bfloat16")
_TYPES = ("to", "dtype", "output_datatype")
"""Attributes that say in what type an operator gives its result."""
_QUANTISED = re.compile(r"Quantize|^Q[A-Z]|QLinear|Integer|NBits|Quantized|Q4$|Bnb4$|QMoE")
_ROUNDING = frozenset({"Erf", "Gelu", "GRU", "LSTM", "Shrink"})
"""Those that onnxruntime takes in double precision, and refuses when they run, or computes in single precision."""
_PROBED: dict[bytes, tuple[str, ...] | None] = {}


class Doubled(Engine):
    """Runs a graph's counterpart in double precision; ``own`` lists the operators that stay in their own type."""

    def __init__(self, header: ModelProto, flow: Flow) -> None:
        initial = {tensor.name for tensor in flow.graph.initializer}
        # What the file computes from constants is computed again: it was rounded.
        weights = {name: value for name, value in flow.weights.items() if name in initial}
        converter = _Converter(header, flow)
        super().__init__(header, Flow.of(converter.graph, weights, flow.opset))
        self._origin = converter.origin
        self._host = converter.host
        self.own = converter.own

    def fed(self, name: str, array: Array) -> OrtValue:
        return to_value(name, _widened(array))

    def alone(self, op: Op) -> bool:
        return op.index in self._host

    def part(self, ops: Sequence[Op], live: Mapping[str, OrtValue], wanted: set[str]) -> Iterator[Made]:
        try:
            yield from super().part(ops, live, wanted)
        except OpError as error:
            raise OpError(self._origin[error.op.index], error.reason) from error

    def _weight(self, name: str) -> Array:
        return _widened(self.flow.weights[name])

    def _session(self, ops: Sequence[Op], live: Mapping[str, OrtValue], names: Sequence[str]) -> dict[str, OrtValue]:
        if len(ops) == 1 and ops[0].index in self._host:
            inputs = [self._array(name, live) if name else None for name in ops[0].inputs]
            outputs = self._host[ops[0].index](inputs)
            found = dict(zip(ops[0].outputs, outputs, strict=True))
            return {name: to_value(name, np.asarray(found[name])) for name in names}
        try:
            return super()._session(ops, live, names)
        finally:
            self._heavy.clear()  # twice the size of the model's own

    def _array(self, name: str, live: Mapping[str, OrtValue]) -> Array:
        found = to_array(live[name]) if name in live else self._weight(name)
        assert not isinstance(found, NotRecorded)
        return found


class _Converter:
    """Makes ``graph``; ``origin`` says which operator each of its own stands for, ``host`` what computes it here."""

    def __init__(self, header: ModelProto, flow: Flow) -> None:
        self._header = ModelProto(ir_version=header.ir_version or 8)
        self._header.opset_import.extend(header.opset_import)
        self._versions = {opset.domain: opset.version for opset in header.opset_import}
        self.graph = GraphProto(name="double")
        self.origin: dict[int, Op] = {}
        self.host: dict[int, host.Kernel] = {}
        self.own: list[Op] = []
        self._types = _types(self._header, flow)
        self._carried = dict(self._types)
        self._taken = set(self._types)
        for value in flow.inputs:
            self._carry(value.name)
            self.graph.input.append(ValueInfoProto(name=value.name, type=parsed(self._carried[value.name])))
        for tensor in flow.graph.initializer:
            self._carry(tensor.name)
            self.graph.initializer.append(_widened_tensor(tensor))
        for sparse in flow.graph.sparse_initializer:
            self._carry(sparse.values.name)
            added = self.graph.sparse_initializer.add()
            added.CopyFrom(sparse)
            added.values.CopyFrom(_widened_tensor(sparse.values))
        for op in flow.ops:
            self._convert(op)
        self.graph.output.extend(ValueInfoProto(name=output.name) for output in flow.graph.output)

    def _carry(self, name: str) -> None:
        self._carried[name] = _widened_type(self._types[name])

    def _convert(self, op: Op) -> None:
        around = [name for name in (*op.reads, *op.outputs) if name]
        floating = any(_widened_type(self._types[name]) != self._types[name] for name in around)
        if not floating:
            self._add(op, op.proto)
            return
        if op.type in RANDOM or (_QUANTISED.search(op.type)):
            self._in_its_own_type(op)
            return
        node = _widened_node(op.proto, self._versions)
        reads = dict.fromkeys(name for name in op.reads if name)
        narrow = {name for place, name in enumerate(op.inputs) if name and self._always_single(op, place)}
        single = {name: self._carried[name] == _DOUBLE and name in narrow for name in reads}
        known = {n: self._types[n] if single[n] else self._carried[n] for n in reads}
        if op.type not in _ROUNDING and (given := self._probe(node, known)) is not None:
            self._between(op, node, {n for n in reads if single[n]}, dict(zip(op.outputs, given, strict=True)))
            return
        kernel = host.kernel(node, self._header)
        if kernel is None:
            self._in_its_own_type(op)
            return
        self.host[len(self.graph.node)] = kernel
        self._add(op, node)
        for name in op.outputs:
            self._carry(name)

    def _always_single(self, op: Op, place: int) -> bool:
        """Whether an operator takes single precision alone there, whatever else it is fed (a scale, a threshold)."""
        try:
            schema = defs.get_schema(op.type, self._versions.get(op.proto.domain, 1), op.proto.domain)
        except defs.SchemaError:
            return False
        formal = schema.inputs[min(place, len(schema.inputs) - 1)]
        return formal.type_str == "tensor(float)"

    def _in_its_own_type(self, op: Op) -> None:
        self.own.append(op)
        narrowed = {name for name in op.reads if name and self._carried[name] != self._types[name]}
        for name in narrowed:
            if self._types[name] not in _NARROW:
                raise ReplayError(
                    f"'{display(op.proto.name or op.type, 80)}' ({op.type}) cannot be run in double precision: what it "
                    f"reads is {self._types[name]}"
                )
        self._between(op, op.proto, narrowed, {name: self._types[name] for name in op.outputs})

    def _between(self, op: Op, node: NodeProto, narrowed: set[str], given: Mapping[str, str]) -> None:
        """Add an operator with casts of what it reads to its own type, and of what it gives to double precision."""
        names = {}
        for name in sorted(narrowed):
            names[name] = unique(f"{name}/narrow", self._taken)
            element = parsed(self._types[name]).tensor_type.elem_type
            self._add(op, helper.make_node("Cast", [name], [names[name]], to=element))
        widened = [name for name in op.outputs if given[name] in _NARROW]
        names |= {name: unique(f"{name}/narrow", self._taken) for name in widened}
        if names:
            holder = GraphProto(node=[node])
            control.rename(holder, names)
            node = holder.node[0]
        self._add(op, node)
        for name in op.outputs:
            self._carried[name] = given[name]
        for name in widened:
            self._add(op, helper.make_node("Cast", [names[name]], [name], to=TensorProto.DOUBLE))
            self._carried[name] = _DOUBLE

    def _add(self, op: Op, node: NodeProto) -> None:
        self.origin[len(self.graph.node)] = op
        self.graph.node.append(node)

    def _probe(self, node: NodeProto, known: Mapping[str, str]) -> tuple[str, ...] | None:
        """The types that onnxruntime gives for operands of these types; None where it has no such operator."""
        bare = NodeProto()
        bare.CopyFrom(node)
        bare.name = ""
        del bare.metadata_props[:]
        if not any(True for _ in graphs_of(node)):
            order = {name: f"i{k}" for k, name in enumerate(known)}
            bare.input[:] = [order.get(name, "") for name in node.input]
            bare.output[:] = [f"o{k}" if name else "" for k, name in enumerate(node.output)]
            known = {order[name]: word for name, word in known.items()}
        outputs = [name for name in bare.output if name]
        key = b"\0".join([bare.SerializeToString(), repr((known, self._versions)).encode()])
        if key not in _PROBED:
            graph = GraphProto(name="probe", node=[bare])
            graph.input.extend(ValueInfoProto(name=name, type=parsed(word)) for name, word in known.items())
            graph.output.extend(ValueInfoProto(name=name) for name in outputs)
            try:
                _PROBED[key] = tuple(_session(self._header, graph)[name] for name in outputs)
            except Exception:  # whatever it lacks: the operator is run otherwise
                _PROBED[key] = None
        return _PROBED[key]


def _session(header: ModelProto, graph: GraphProto) -> dict[str, str]:
    """The types of a graph's outputs. Raises what onnxruntime raises."""
    model = ModelProto()
    model.CopyFrom(header)
    model.graph.CopyFrom(graph)
    settings = options()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return {output.name: output.type for output in session.get_outputs()}


def _types(header: ModelProto, flow: Flow) -> dict[str, str]:
    """The type of every value in the graph's own precision, as onnxruntime writes it. Raises ReplayError."""
    found = {tensor.name: type_word(tensor.data_type) for tensor in flow.graph.initializer}
    found |= {sparse.values.name: type_word(sparse.values.data_type) for sparse in flow.graph.sparse_initializer}
    found |= {value.name: type_word(value.type.tensor_type.elem_type) for value in flow.inputs}
    graph = GraphProto(name="types", node=[op.proto for op in flow.ops])
    graph.input.extend(ValueInfoProto(name=v.name, type=parsed(found[v.name])) for v in flow.inputs)
    for tensor in flow.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:  # its values say nothing about types
            graph.input.append(ValueInfoProto(name=tensor.name, type=parsed(found[tensor.name])))
        else:
            graph.initializer.append(tensor)
    graph.sparse_initializer.extend(flow.graph.sparse_initializer)
    computed = [name for op in flow.ops for name in op.outputs]
    graph.output.extend(ValueInfoProto(name=name) for name in computed)
    if computed:
        try:
            found |= _session(header, graph)
        except Exception as error:
            raise ReplayError(
                f"the graph cannot be run in double precision: onnxruntime does not load it as a whole: "
                f"{first_line(error, 160)}"
            ) from error
    return found


# --- conversion ------------------------------------------------------------------------------------------------


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.name in _NARROW_NAMES else array


def _widened_type(word: str) -> str:
    return _NARROW_INSIDE.sub(_DOUBLE, word)


def _widened_tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type not in _NARROW_ELEMENTS:
        return tensor
    if tensor.data_location == TensorProto.EXTERNAL:
        out = TensorProto()
        out.CopyFrom(tensor)
        out.data_type = TensorProto.DOUBLE
        return out
    return from_array(proto_array(tensor).astype(np.float64), tensor.name)


def _widen_proto(proto: TypeProto) -> None:
    kind = proto.WhichOneof("value")
    if kind == "tensor_type" and proto.tensor_type.elem_type in _NARROW_ELEMENTS:
        proto.tensor_type.elem_type = TensorProto.DOUBLE
    elif kind in ("sequence_type", "optional_type"):
        _widen_proto(getattr(proto, kind).elem_type)


def _widened_node(node: NodeProto, versions: Mapping[str, int]) -> NodeProto:
    """An operator, and the graphs inside it, with every type that it names made double precision."""
    out = NodeProto()
    out.CopyFrom(node)
    for attribute in out.attribute:
        if attribute.name in _TYPES and attribute.i in _NARROW_ELEMENTS:
            attribute.i = TensorProto.DOUBLE
        elif attribute.type == AttributeProto.TENSOR:
            attribute.t.CopyFrom(_widened_tensor(attribute.t))
        elif attribute.type == AttributeProto.TYPE_PROTO:
            _widen_proto(attribute.tp)
    named = {attribute.name: attribute for attribute in out.attribute}
    if is_standard(node, "ConstantOfShape") and "value" not in named:
        out.attribute.append(helper.make_attribute("value", from_array(np.zeros(1), "value")))
    if is_standard(node, "Constant") and named.keys() & {"value_float", "value_floats"}:
        value = np.asarray(helper.get_attribute_value(out.attribute[0]), np.float64)
        del out.attribute[:]
        out.attribute.append(helper.make_attribute("value", from_array(value, "value")))
    if is_standard(node, "GroupNormalization") and versions.get("", 1) >= 21:
        # It is a function of further operators, and this is the type that they compute in.
        kept = [attribute for attribute in out.attribute if attribute.name != "stash_type"]
        out.ClearField("attribute")
        out.attribute.extend([*kept, helper.make_attribute("stash_type", TensorProto.DOUBLE)])
    for graph in graphs_of(out):
        _widen_graph(graph, versions)
    return out


def _widen_graph(graph: GraphProto, versions: Mapping[str, int]) -> None:
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        _widen_proto(value.type)
    for tensor in graph.initializer:
        tensor.CopyFrom(_widened_tensor(tensor))
    for sparse in graph.sparse_initializer:
        sparse.values.CopyFrom(_widened_tensor(sparse.values))
    nodes = [_widened_node(node, versions) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
