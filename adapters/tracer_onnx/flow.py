"""What a graph's values depend on: its inputs, the inputs' shapes alone, or nothing but constants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, helper

from tracer.adapter import Array
from tracer_onnx.loading import captured, is_standard

Origin = Literal["data", "shape", "constant"]

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_MEASURES = ("Shape", "Size")


@dataclass
class Op:
    """An operator of the graph, its attributes as Python values.

    ``reads`` are its inputs ("" where one is left out) and then what its inner graphs read from outside.
    """

    proto: NodeProto
    index: int
    reads: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return str(self.proto.op_type)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.proto.input)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(name for name in self.proto.output if name)

    def input(self, place: int) -> str:
        """The name of an input; "" when it is not given."""
        return self.proto.input[place] if place < len(self.proto.input) else ""


@dataclass
class Flow:
    """A graph without branches, analysed.

    Attributes:
        ops: in the file's order, which is a topological one.
        weights: values of the initializers, and of what is computed from them alone once it was folded.
        origin: of every value.
    """

    graph: GraphProto
    weights: dict[str, Array]
    opset: int
    ops: list[Op] = field(default_factory=list)
    origin: dict[str, Origin] = field(default_factory=dict)
    producer: dict[str, Op] = field(default_factory=dict)
    readers: dict[str, list[Op]] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: GraphProto, weights: Mapping[str, Array], opset: int) -> Flow:
        flow = cls(graph, dict(weights), opset)
        constants = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
        flow.origin = dict.fromkeys(constants, "constant")
        for value in graph.input:
            flow.origin.setdefault(value.name, "data")
        for index, node in enumerate(graph.node):
            attributes = {a.name: _value(a) for a in node.attribute}
            op = Op(node, index, (*node.input, *captured(node)), attributes)
            flow.ops.append(op)
            origin = flow._origin_of(op)
            for name in op.outputs:
                flow.origin[name] = origin
                flow.producer[name] = op
            for name in dict.fromkeys(op.reads):
                if name:
                    flow.readers.setdefault(name, []).append(op)
        for output in graph.output:  # what the model gives is shown, whatever it depends on
            if output.name in flow.producer:
                for name in flow.producer[output.name].outputs:
                    flow.origin[name] = "data"
        return flow

    def _origin_of(self, op: Op) -> Origin:
        if op.type in RANDOM:
            return "data"
        origins = {self.origin.get(name, "constant") for name in op.reads if name}
        if not origins - {"constant"}:
            return "constant"
        if is_standard(op.proto, *_MEASURES):
            return "shape"
        if "data" in origins:
            return "data"
        # A table of positions that is read up to the input's length is a layer; a mask or a zero state is not.
        return "data" if any(self._is_weight(name) for name in op.reads) else "shape"

    def _is_weight(self, name: str) -> bool:
        value = self.weights.get(name)
        return value is not None and value.dtype.kind not in "iub" and value.ndim >= 2 and value.size > 1

    @cached_property
    def inputs(self) -> list[Any]:
        """The graph's inputs that are no initializers (before IR version 4 those were listed as inputs)."""
        initial = {t.name for t in self.graph.initializer}
        return [value for value in self.graph.input if value.name not in initial]

    @cached_property
    def nodes(self) -> list[Op]:
        """The operators that are shown: those that depend on more than shapes and constants."""
        return [op for op in self.ops if any(self.origin[name] == "data" for name in op.outputs)]

    @cached_property
    def left_out(self) -> Counter[str]:
        """How many operators are not shown, by why."""
        return Counter(str(self.origin[op.outputs[0]]) if op.outputs else "constant" for op in self.ops
                       if op not in self._shown)  # fmt: skip

    @cached_property
    def _shown(self) -> _Identity:
        return _Identity(self.nodes)

    @cached_property
    def frontier(self) -> list[str]:
        """Computed constants that are read by what depends on an input or its shape."""
        found: dict[str, None] = {}
        for op in self.ops:
            if op.outputs and self.origin[op.outputs[0]] != "constant":
                found |= dict.fromkeys(n for n in op.reads if n in self.producer and self.origin[n] == "constant")
        return list(found)

    def needed(self, names: Sequence[str], known: frozenset[str] | set[str]) -> list[Op]:
        """The operators that compute ``names``, in order, nothing being computed that is ``known``."""
        wanted, queue = set[int](), list(names)
        while queue:
            name = queue.pop()
            op = self.producer.get(name)
            if name in known or op is None or op.index in wanted:
                continue
            wanted.add(op.index)
            queue += [read for read in op.reads if read]
        return [op for op in self.ops if op.index in wanted]

    def constant(self, name: str) -> Array | None:
        """The value of a constant, where it is known."""
        return self.weights.get(name) if name and self.origin.get(name) == "constant" else None

    def scalar(self, name: str) -> float | None:
        """The value of a constant with one element."""
        value = self.constant(name)
        return float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.dtype != bool else None

    def only_reader(self, name: str) -> Op | None:
        """The one operator that reads a value, when nothing else does."""
        readers = self.readers.get(name, [])
        if len(readers) != 1 or any(output.name == name for output in self.graph.output):
            return None
        return readers[0] if list(readers[0].reads).count(name) == 1 else None

    def root(self, name: str) -> str:
        """The initializer that a constant was made from by transposing, casting or unpacking it; else itself."""
        while (op := self.producer.get(name)) is not None and self.origin.get(name) == "constant":
            big = [n for n in op.reads if n and (value := self.weights.get(n)) is not None and value.size > 1]
            deeper = [n for n in op.reads if n in self.producer]
            if len(big) + len([n for n in deeper if n not in big]) != 1:
                break
            name = (big or deeper)[0]
        return name


class _Identity:
    """Membership by identity: protobuf messages compare by value."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._known = {op.index for op in ops}

    def __contains__(self, op: Op) -> bool:
        return op.index in self._known


def _value(attribute: AttributeProto) -> Any:
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [item.decode("utf-8", "replace") for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.7g}")  # stored in single precision: 0.2, not 0.20000000298
    if attribute.type == AttributeProto.FLOATS:
        return [float(f"{item:.7g}") for item in value]
    if attribute.type == AttributeProto.INTS:
        return list(value)
    return value
