"""Runs a graph once more with tensors exchanged on the way.

The graph is cut where an exchanged tensor is made: what reads it runs in a later piece, which is fed the new value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from onnx import TensorProto
from onnxruntime import OrtValue

from tracer.adapter import Array, Exchange, NotRecorded
from tracer.errors import ReplayError
from tracer.names import display
from tracer_onnx.control import Taken
from tracer_onnx.flow import Op
from tracer_onnx.running import Engine, Made
from tracer_onnx.tensors import to_array, to_value

_PACKED = (TensorProto.INT4, TensorProto.UINT4)


class Replay:
    """One run. ``cuts`` are the values to exchange with their nodes' names; ``ways`` the branches of the graph."""

    def __init__(self, engine: Engine, cuts: Mapping[str, str], ways: Sequence[Taken], exchange: Exchange) -> None:
        self._engine = engine
        self._cuts = cuts
        self._exchange = exchange
        self._ways: dict[str, list[Taken]] = {}
        for way in ways:
            if engine.flow.origin.get(way.condition) != "constant":
                self._ways.setdefault(way.condition, []).append(way)

    def run(self, inputs: Mapping[str, Array], besides: set[str], sizes: Callable[[str], int], budget: int) -> None:
        """Run what the cuts and the values ``besides`` need. Raises OpError, and ReplayError where a branch turns."""
        flow = self._engine.flow
        live = {name: self._engine.fed(name, array) for name, array in inputs.items()}
        for name in inputs:
            live[name] = self._taken(name, live[name])
        decisive = {name for name in self._ways if name in flow.producer}
        wanted = {name for name in self._cuts if name in flow.producer} | besides | decisive
        ops = flow.needed(list(wanted), {*live, *flow.weights})
        last = {name: position for position, op in enumerate(ops) for name in op.reads if name}
        for start, end in self._pieces(ops, sizes, budget):
            kept = {n for op in ops[start:end] for n in op.outputs if n in wanted or last.get(n, -1) >= end}
            for made in self._engine.part(ops[start:end], live, kept):
                self._hand_over(made)
                live |= made.values
            live = {name: value for name, value in live.items() if last.get(name, -1) >= end}

    def _hand_over(self, made: Made) -> None:
        names = [name for op in made.ops for name in op.outputs if name in made.values]
        for name in names:
            made.values[name] = self._taken(name, made.values[name])

    def _taken(self, name: str, value: OrtValue) -> OrtValue:
        """What is read as ``name``."""
        if name in self._cuts and value.has_value() and value.is_tensor():
            value = self._exchanged(self._cuts[name], value)
        for way in self._ways.get(name, ()):
            if bool(value.numpy().any()) != way.answer:
                raise ReplayError(
                    f"with these activations If '{display(way.name, 80)}' does not take its {way.word} branch, which "
                    "is the one that was recorded"
                )
        return value

    def _exchanged(self, node: str, value: OrtValue) -> OrtValue:
        array = to_array(value)
        if isinstance(array, NotRecorded):
            return value
        given = self._exchange(node, array)
        if given is None:
            return value
        if value.element_type() in _PACKED:
            raise ReplayError(f"'{display(node, 80)}' holds integers of four bits, which cannot be exchanged")
        with np.errstate(all="ignore"):
            # A copy: the session reads the array's own memory, which the caller may use again.
            fitted = np.array(given).astype(array.dtype)
        return to_value(node, fitted)

    def _pieces(self, ops: Sequence[Op], sizes: Callable[[str], int], budget: int) -> Iterator[tuple[int, int]]:
        """Runs of operators none of which reads what is exchanged in the same run."""
        start, held, made, ends = 0, 0, set[str](), False
        for position, op in enumerate(ops):
            size = sum(sizes(name) for name in op.outputs if name in self._cuts)
            alone = self._engine.alone(op)
            full = bool(held) and held + size > budget
            if position > start and (ends or alone or full or not made.isdisjoint(op.reads)):
                yield start, position
                start, held, made = position, 0, set()
            held += size
            made |= {name for name in op.outputs if name in self._cuts}
            # What stands in a branch does not read the condition.
            ends = alone or any(name in self._ways for name in op.outputs)
        if start < len(ops):
            yield start, len(ops)
