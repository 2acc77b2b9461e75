"""A loaded ONNX model: structure, capture, parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, ModelProto, shape_inference

from tracer.adapter import Array, Exchange, InputSpec, LoadedModel, NotRecorded, Sink
from tracer.errors import InputError, ModelError
from tracer.graph import Param, Structure
from tracer.kinds import WEIGHTED
from tracer.names import display
from tracer.text import some
from tracer_onnx import control, running, signature, weights
from tracer_onnx.control import Taken
from tracer_onnx.describe import Described, describe
from tracer_onnx.double import Doubled
from tracer_onnx.flow import Flow
from tracer_onnx.loading import Source
from tracer_onnx.replaying import Replay
from tracer_onnx.running import Engine, OpError
from tracer_onnx.tensors import element_bits, stored_name, to_array, to_value

_SHAPES = re.compile(
    r"shape|dimension|\bdims?\b|size|rank|broadcast|axis|out of (range|bounds)|mismatch|match|indices|incompatible",
    re.IGNORECASE,
)
"""What onnxruntime says about operands that do not go together."""
_UNKNOWN_SIZE = 4 << 20
"""Bytes that a value is taken for whose shape cannot be told before it is computed."""

Fingerprint = tuple[tuple[str, tuple[int, ...], str], ...]


class OnnxModel(LoadedModel):
    """An ONNX graph and its weights."""

    framework: ClassVar[str] = "onnx"
    budget: int = running.BUDGET
    """Bytes of values that are held at once while it runs."""

    def __init__(self, source: Source, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
        self._source = source
        proto = source.proto
        self._opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 1)
        version = next(iter(proto.producer_version.split()), "")
        made = f", exported by {display(proto.producer_name, 40)} {display(version, 20)}".rstrip()
        self.loader = f"onnxruntime {onnxruntime.__version__}, opset {self._opset}"
        self.notes = (*source.notes,)
        if proto.producer_name:
            self.loader += made
        self._restrict(inputs, outputs)
        self._whole = self._flow(proto.graph, source.weights)
        self._specs = signature.signature(self._whole)
        self._known: dict[Fingerprint, tuple[Described, Flow, str]] = {}
        self._last: Described | None = None

    def _restrict(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Run up to the named values alone (``--outputs``). Raises InputError for names that the graph has not."""
        graph = self._source.proto.graph
        if inputs:
            raise InputError("an ONNX file states its inputs: --inputs is not needed")
        if not outputs:
            return
        values = {name for node in graph.node for name in node.output}
        missing = [name for name in outputs if name not in values]
        if missing:
            raise InputError(f"the graph computes no value named {some(missing)}")
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        kept = Flow.of(graph, self._source.weights, self._opset).needed(list(outputs), set())
        nodes = [onnx.NodeProto.FromString(op.proto.SerializeToString()) for op in kept]
        del graph.node[:]
        graph.node.extend(nodes)

    def _flow(self, graph: GraphProto, values: Mapping[str, Array]) -> Flow:
        """``graph`` analysed, with its computed constants. Raises InputError when one cannot be computed."""
        flow = Flow.of(graph, values, self._opset)
        try:
            flow.weights |= running.folded(self._source.proto, flow)
        except OpError as error:
            shown = error.op.proto.name or error.op.outputs[0]
            raise InputError(f"onnxruntime cannot run {running.described(error, shown)}") from error
        return flow

    # --- the contract ----------------------------------------------------------------------------------------

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": np.__version__}

    def signature(self) -> tuple[InputSpec, ...]:
        return self._specs

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        described, _, _ = self._run_through(inputs)
        return described.structure

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        described, first_flow, fault = self._run_through(inputs)
        structure = described.structure
        flow, _ = self._unfolded(inputs)
        names = self._names(flow, first_flow, described, inputs)
        sizes = {node.name: _bytes(node.shape, node.dtype) for node in structure}
        due = {node.name for node in structure.stored()}
        for name, array in inputs.items():
            due.discard(name)
            if sink.wants(name):
                sink(name, array)
        wanted = {
            value for op in flow.nodes for value in op.outputs
            if names.get(value) in due and sink.wants(names[value])
        }  # fmt: skip
        # What was not seen before is computed all the same where the model raised: it is to raise again.
        unseen = {value for op in flow.nodes for value in op.outputs if fault and value not in names}
        try:
            for made in Engine(self._source.proto, flow).run(
                _feeds(inputs),
                wanted | unseen,
                lambda value: sizes.get(names.get(value, ""), _UNKNOWN_SIZE),
                self.budget,
            ):
                for op in made.ops:
                    for value in op.outputs:
                        if value in wanted and value in made.values:
                            due.discard(names[value])
                            sink(names[value], to_array(made.values[value]), owned=True)
        except OpError as error:
            raise self._raised(error, names) from error
        if fault:
            raise ModelError(f"the model raised {fault} when it was first run, but not again: only what ran before it")
        for node in structure.stored():
            if node.name in due and sink.wants(node.name):
                sink(node.name, NotRecorded("it did not run in this pass"), owned=True)

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        described, first_flow, fault = self._run_through(inputs)
        flow, ways = self._unfolded(inputs)
        names = self._names(flow, first_flow, described, inputs)
        due = {node.name for node in described.structure.stored() if exchange.wants(node.name)}
        sizes = {node.name: _bytes(node.shape, "float64") for node in described.structure}
        cuts = {value: name for value, name in names.items() if name in due}
        unseen = {value for op in flow.nodes for value in op.outputs if fault and value not in names}
        try:
            engine = Doubled(self._source.proto, flow) if double else Engine(self._source.proto, flow)
            Replay(engine, cuts, ways, exchange).run(
                inputs, unseen, lambda value: sizes.get(names.get(value, ""), _UNKNOWN_SIZE), self.budget
            )
        except OpError as error:
            raise self._raised(error, names) from error

    def _raised(self, error: OpError, names: Mapping[str, str]) -> ModelError:
        output = next(iter(error.op.outputs), "")
        shown = names.get(output) or error.op.proto.name or output
        return ModelError(f"the model raised {running.described(error, shown)}")

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        if self._last is not None:
            described, flow = self._last, next(f for d, f, _ in self._known.values() if d is self._last)
        else:  # not run yet: the names and weights of the graph as it is written
            flow = self._whole
            seen = {name: (None, None) for op in flow.nodes for name in op.outputs}
            described = describe(flow, {}, seen, ())
        for owner, param, value in described.owned:
            yield owner, param, weights.value_of(flow, value)

    # --- running ---------------------------------------------------------------------------------------------

    def _run_through(self, inputs: Mapping[str, Array]) -> tuple[Described, Flow, str]:
        """What a run on these inputs shows, the graph that ran, and what it raised by a fault of its own."""
        mark = tuple((name, tuple(array.shape), str(array.dtype)) for name, array in inputs.items())
        if mark not in self._known:
            signature.check(self._whole, self._specs, inputs)
            flow, ways = self._unfolded(inputs)
            notes = [
                f"If '{display(way.name, 80)}' took its {way.word} branch for this input: the other one was not "
                "recorded"
                for way in ways
            ]
            shown = {value for op in flow.nodes for value in op.outputs}
            seen: dict[str, tuple[tuple[int, ...] | None, str | None]] = {}
            fault: OpError | None = None
            guess = _guessed(self._source.proto, flow, inputs)
            try:
                for made in Engine(self._source.proto, flow).run(
                    _feeds(inputs), shown, lambda value: guess.get(value, _UNKNOWN_SIZE), self.budget
                ):
                    for name, value in made.values.items():
                        if name in shown:
                            tensor = value.has_value() and value.is_tensor()
                            shape = tuple(value.shape()) if tensor else None
                            seen[name] = (shape, stored_name(value.element_type()) if tensor else None)
            except OpError as error:
                fault = error
            described = describe(flow, inputs, seen, notes)
            if fault is not None:
                described = self._blamed(fault, described, flow, inputs, seen, notes)
            self._known = {mark: (described, flow, described.structure.fault)}
            self._last = described
        return self._known[mark]

    def _blamed(
        self,
        error: OpError,
        described: Described,
        flow: Flow,
        inputs: Mapping[str, Array],
        seen: dict[str, tuple[tuple[int, ...] | None, str | None]],
        notes: Sequence[str],
    ) -> Described:
        """The structure with what the model raised. Raises InputError when another input might help."""
        whole = {**{name: (None, None) for op in flow.nodes for name in op.outputs}, **seen}
        names = describe(flow, inputs, whole, ()).node_of
        name = names.get(error.op.outputs[0], error.op.proto.name) if error.op.outputs else error.op.proto.name
        text = running.described(error, name)
        if running.unsupported(error):
            raise InputError(f"onnxruntime {onnxruntime.__version__} cannot run {text}") from error
        begun = any(node.params or node.kind in WEIGHTED for node in described.structure if node.role != "input")
        free = any(spec.shape is None or None in spec.shape for spec in self._specs)
        if not begun or (free and _SHAPES.search(error.reason)):
            given = ", ".join(f"{display(n)} {tuple(a.shape)} {a.dtype}" for n, a in inputs.items())
            raise InputError(f"the model does not take {given}: {text}") from error
        said = (*notes, f"the model raised {text}: only what ran before is here")
        return describe(flow, inputs, seen, said, text)

    def _unfolded(self, inputs: Mapping[str, Array]) -> tuple[Flow, list[Taken]]:
        """The graph with the branches that these inputs take, and these; itself where it has none."""
        if not control.has_branches(self._source.proto.graph):
            return self._whole, []

        def evaluate(graph: GraphProto, values: dict[str, Array], names: Sequence[str]) -> list[bool] | None:
            flow = Flow.of(graph, values, self._opset)
            known = {name: values[name] for name in names if name in values}
            try:
                found = Engine(self._source.proto, flow).compute([n for n in names if n not in known], _feeds(inputs))
            except OpError:
                return None
            fed = {name: inputs[name] for name in names if name in inputs}
            return [
                bool(np.asarray(known[n] if n in known else fed[n] if n in fed else found[n].numpy()).any())
                for n in names
            ]

        graph, values, ways = control.unfold(self._source.proto.graph, self._source.weights, evaluate)
        return self._flow(graph, values), ways

    def _names(self, flow: Flow, first: Flow, described: Described, inputs: Mapping[str, Array]) -> dict[str, str]:
        """Node names of a graph unfolded anew: those of the announced structure, where the same operators run."""
        if flow is first:
            return described.node_of
        seen = {name: (None, None) for op in flow.nodes for name in op.outputs}
        names = describe(flow, inputs, seen, ()).node_of
        announced = described.structure.by_name
        return {value: name for value, name in names.items() if name in announced}


def _feeds(inputs: Mapping[str, Array]) -> dict[str, onnxruntime.OrtValue]:
    return {name: to_value(name, array) for name, array in inputs.items()}


def _bytes(shape: tuple[int, ...] | None, dtype: str | None) -> int:
    return int(np.prod(shape, dtype=np.float64)) * 8 if shape is not None and dtype is not None else _UNKNOWN_SIZE


def _guessed(header: ModelProto, flow: Flow, inputs: Mapping[str, Array]) -> dict[str, int]:
    """Bytes of the values whose shapes follow from the inputs' without running anything."""
    model = ModelProto()
    model.ir_version = header.ir_version
    model.opset_import.extend(header.opset_import)
    model.graph.CopyFrom(flow.graph)
    for value in model.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto())
            for length in inputs[value.name].shape:
                value.type.tensor_type.shape.dim.add(dim_value=length)
    del model.graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a guess for the memory it takes; the run itself says what is wrong
        return {}
    sizes = {}
    for value in inferred.graph.value_info:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            bits = element_bits(tensor.elem_type) or 64
            sizes[value.name] = int(np.prod([dim.dim_value for dim in dims], dtype=np.float64)) * bits // 8
    return sizes
