"""Runs a graph in onnxruntime, unoptimised, in pieces whose values fit a budget of memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnxruntime
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnxruntime import OrtValue

from tracer.adapter import Array
from tracer.names import display
from tracer.text import one_line
from tracer_onnx.flow import Flow, Op
from tracer_onnx.loading import HEAVY
from tracer_onnx.tensors import to_value, type_proto

BUDGET = 256 << 20
"""Bytes of values that one piece may hold at once."""
_WHERE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/\S*?/onnxruntime/\S+:\d+ (\S+::\S+\(.*?\) )?"
    r"|Node ?\(node\d+\) |Op \(\w+\) |\[(Shape|Type)InferenceError\] |Load model from .*? failed:"
    r"|This is an invalid model\. "
)
_CONDITION = re.compile(r"^.*? was false\. (?=.)", re.DOTALL)
_UNSUPPORTED = re.compile(
    r"No Op registered|not a registered|Could not find an implementation|Opset \d+|opset version|IR version",
    re.IGNORECASE,
)
_PROLOGUE = re.compile(r"^.*Status Message: ", re.DOTALL)


class OpError(Exception):
    """An operator could not run: which one, and what onnxruntime said."""

    def __init__(self, op: Op, reason: str) -> None:
        super().__init__(reason)
        self.op = op
        self.reason = reason


@dataclass(frozen=True)
class Made:
    """Values that became available, of some operators in order; they are given up when the next ones are asked for."""

    ops: Sequence[Op]
    values: dict[str, OrtValue]


class Engine:
    """Runs parts of one model; ``header`` carries its versions of ONNX and of the operator sets."""

    def __init__(self, header: ModelProto, flow: Flow) -> None:
        self._header = ModelProto(ir_version=header.ir_version or 8)
        self._header.opset_import.extend(header.opset_import)
        self.flow = flow
        self._small = {t.name: t for t in flow.graph.initializer}
        self._sparse = {s.values.name: s for s in flow.graph.sparse_initializer}
        self._heavy: dict[str, OrtValue] = {}

    def compute(self, names: Sequence[str], feeds: Mapping[str, OrtValue]) -> dict[str, OrtValue]:
        """Some values from the inputs, and nothing that they do not need. Raises OpError."""
        ops = self.flow.needed(names, {*feeds, *self.flow.weights})
        found: dict[str, OrtValue] = {}
        for made in self._run(ops, dict(feeds), set(names)):
            found |= {name: value for name, value in made.values.items() if name in names}
        return found

    def run(
        self, feeds: Mapping[str, OrtValue], wanted: set[str], sizes: Callable[[str], int], budget: int
    ) -> Iterator[Made]:
        """Run what the wanted values need, and give them piece by piece.

        What later pieces read is kept; everything else is given up once it was handed on. Raises OpError after what
        ran before the operator was handed on.
        """
        ops = self.flow.needed(list(wanted), {*feeds, *self.flow.weights})
        last = {name: position for position, op in enumerate(ops) for name in op.reads if name}
        live = dict(feeds)
        for start, end in _pieces(ops, wanted, sizes, budget):
            kept = {n for op in ops[start:end] for n in op.outputs if last.get(n, -1) >= end}
            for made in self._run(ops[start:end], live, wanted | kept):
                live |= {name: value for name, value in made.values.items() if last.get(name, -1) >= end}
                yield made
                made.values.clear()
            live = {name: value for name, value in live.items() if last.get(name, -1) >= end}

    def fed(self, name: str, array: Array) -> OrtValue:
        """An input as it is fed. Raises InputError for element types that onnxruntime has not."""
        return to_value(name, array)

    def alone(self, op: Op) -> bool:
        """Whether an operator has to be run by itself."""
        return False

    def part(self, ops: Sequence[Op], live: Mapping[str, OrtValue], wanted: set[str]) -> Iterator[Made]:
        """Run some operators on what is there, and give the wanted values. Raises OpError like :meth:`run`."""
        return self._run(ops, dict(live), wanted)

    def _run(self, ops: Sequence[Op], live: dict[str, OrtValue], wanted: set[str]) -> Iterator[Made]:
        """Run some operators at once; when that fails, halves of them, until the one at fault stands alone."""
        if not ops:
            return
        values: dict[str, OrtValue] | None = None
        try:
            values = self._session(ops, live, [n for op in ops for n in op.outputs if n in wanted])
        except Exception as error:
            if len(ops) == 1:
                raise OpError(ops[0], reason_of(error)) from error
        if values is not None:
            yield Made(ops, values)
            return
        half = len(ops) // 2
        first, second = ops[:half], ops[half:]
        later = {name for op in second for name in op.reads if name}
        inner = dict(live)
        for part, names in ((first, wanted | later), (second, wanted)):
            for made in self._run(part, inner, names):
                inner |= made.values
                yield made

    def _session(self, ops: Sequence[Op], live: Mapping[str, OrtValue], names: Sequence[str]) -> dict[str, OrtValue]:
        if not names:
            return {}
        graph = GraphProto(name="piece")
        computed = {name for op in ops for name in op.outputs}
        reads = dict.fromkeys(n for op in ops for n in op.reads if n and n not in computed)
        feeds = {name: live[name] for name in reads if name in live}
        settings = options()
        outside: list[str] = []
        for name in reads:
            if name in feeds:
                graph.input.append(ValueInfoProto(name=name, type=type_proto(feeds[name])))
            elif name in self._sparse:
                graph.sparse_initializer.append(self._sparse[name])
            elif name in self._small and self._small[name].data_location != TensorProto.EXTERNAL:
                graph.initializer.append(self._small[name])
            elif name in self.flow.weights and self.flow.weights[name].nbytes < HEAVY:
                graph.initializer.append(numpy_helper.from_array(self._weight(name), name))
            elif name in self.flow.weights:
                graph.initializer.append(self._outside(name))
                outside.append(name)
        if outside:
            settings.add_external_initializers(outside, [self._heavy[name] for name in outside])
        for op in ops:
            node = NodeProto()
            node.CopyFrom(op.proto)
            node.name = f"node{op.index}"
            graph.node.append(node)
        graph.output.extend(ValueInfoProto(name=name) for name in names)
        model = ModelProto()
        model.CopyFrom(self._header)
        model.graph.CopyFrom(graph)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )  # fmt: skip
        found = session.run_with_ort_values(list(names), feeds)
        return dict(zip(names, found, strict=True))

    def _weight(self, name: str) -> Array:
        """A weight as the sessions take it."""
        return self.flow.weights[name]

    def _outside(self, name: str) -> TensorProto:
        """A marker for a weight that the session is given as it lies in memory."""
        if name not in self._heavy:
            self._heavy[name] = to_value(name, self._weight(name))
        value = self._heavy[name]
        marker = TensorProto(
            name=name, data_type=value.element_type(), dims=value.shape(), data_location=TensorProto.EXTERNAL
        )
        marker.external_data.add(key="location", value="memory")
        return marker


def _pieces(ops: Sequence[Op], wanted: set[str], sizes: Callable[[str], int], budget: int) -> Iterator[tuple[int, int]]:
    """Runs of operators whose wanted values together stay within the budget."""
    start, held = 0, 0
    for position, op in enumerate(ops):
        size = sum(sizes(name) for name in op.outputs if name in wanted)
        if held and held + size > budget:
            yield start, position
            start, held = position, 0
        held += size
    if start < len(ops):
        yield start, len(ops)


def options() -> onnxruntime.SessionOptions:
    """As the graph is written: no operator fused, moved or computed ahead."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    # A number of its own also keeps onnxruntime from binding its threads to processors, which a sandbox denies.
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    options.inter_op_num_threads = 1
    return options


def reason_of(error: Exception) -> str:
    """What onnxruntime said, in one line, without its own source files."""
    text = str(error)
    if text.startswith("[ONNXRuntimeError]"):
        text = _CONDITION.sub("", _WHERE.sub("", _PROLOGUE.sub("", text, count=1)))
    return one_line(text, 240) or type(error).__name__


def unsupported(error: OpError) -> bool:
    """Whether this onnxruntime cannot run the operator, whatever it is fed."""
    return bool(_UNSUPPORTED.search(error.reason))


def folded(header: ModelProto, flow: Flow) -> dict[str, Array]:
    """The constants that the file computes from constants, as far as they are tensors of numbers.

    Raises OpError.
    """
    from tracer.adapter import NotRecorded
    from tracer_onnx.tensors import to_array

    out: dict[str, Array] = {}
    for name, value in Engine(header, flow).compute(flow.frontier, {}).items():
        array = to_array(value) if value.is_tensor() and "string" not in value.data_type() else NotRecorded("")
        if not isinstance(array, NotRecorded) and "int4" not in value.data_type():
            out[name] = array.copy()
    return out


def described(error: OpError, name: str) -> str:
    """The failure in one line, by the name that the operator has in the recording."""
    return f"'{display(name, 80)}' ({display(error.op.type, 40)}): {error.reason}"
