"""Runs a traced model once more with its tensors exchanged on the way, if wanted in float64."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tracer.adapter import Array, Exchange
from tracer.errors import ModelError
from tracer.names import display
from tracer.text import one_line, some
from tracer_keras.exchanges import NAME, Exchanges, Wanted, exchanged
from tracer_keras.flavour import tensorflow
from tracer_keras.library import register, rename_functions
from tracer_keras.runner import Plan, as_written
from tracer_keras.widen import is_narrow, wide, widen


class Replay:
    """The function of a traced ``plan`` with an exchange behind each of its nodes, in float64 if ``double``.

    With ``known`` only what the nodes that ``due`` names need is computed, given those in ``known``.
    """

    def __init__(self, plan: Plan, *, double: bool, due: Collection[str] = (), known: Collection[str] = ()) -> None:
        assert plan.function is not None
        assert plan.outlet is not None
        traced = plan.function.graph
        graph = traced.as_graph_def()
        leaving = plan.outlet.leaving
        wanted = []
        for name, (what, node) in leaving.items():
            if what == "value" and (not known or node in due or node in known):
                tensor = traced.get_operation_by_name(name).inputs[0]
                wanted.append(Wanted(node, tensor.name, tensor.dtype.as_datatype_enum))
        given = {item.name: numpy_type(item.dtype, double) for item in wanted if item.name in known}
        inputs = {tensor.op.name for tensor in plan.function.inputs}
        self.exchanges = Exchanges(graph, wanted, set(leaving), given, inputs)
        suffix = rename_functions(graph)
        if double:
            widen(graph, suffix, self.exchanges.operations)
        self._wide = double
        register(graph, self)
        self._function = self._imported(plan.function, graph)

    def _imported(self, function: Any, graph: Any) -> Any:
        tf = tensorflow()
        given = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
        held = list(zip(function.inputs[len(given) :], function.captured_inputs, strict=True))
        left = {node.name for node in graph.node}
        read = {text.lstrip("^").partition(":")[0] for node in graph.node for text in node.input}
        effects = [operation.name for operation in function.graph.control_outputs if operation.name in left]

        def body(*tensors: Any) -> Any:
            capture = tf.compat.v1.get_default_graph().capture
            fed = {inner.name: tensor for inner, tensor in zip(given, tensors, strict=True)}
            fed |= {inner.name: self._typed(capture(outer)) for inner, outer in held if inner.op.name in read}
            wanted = [*effects, *self.exchanges.operations[-1:]]
            with tf.control_dependencies(tf.graph_util.import_graph_def(graph, fed, wanted, name=NAME)):
                return tf.constant(0)

        # Without the order that tf.function gives to what has effects: the graph has its own.
        return tf.compat.v1.wrap_function(body, [tf.TensorSpec(t.shape, self._dtype(t.dtype)) for t in given])

    def _dtype(self, dtype: Any) -> Any:
        return tensorflow().as_dtype(wide(dtype.as_datatype_enum)) if self._wide else dtype

    def _typed(self, tensor: Any) -> Any:
        return tensorflow().cast(tensor, "float64") if self._wide and is_narrow(tensor.dtype) else tensor

    def run(self, tensors: list[Any], exchange: Exchange, known: Mapping[str, Array] | None = None) -> None:
        """Run it. Raises ModelError, and whatever ``exchange`` raises."""
        try:
            with as_written():
                self.exchanges.run(exchange, lambda: self._function(*map(self._typed, tensors)), known)
        except Exception as error:
            if error is self.exchanges.raised:
                raise
            raise ModelError(failure(self.exchanges, error)) from error


def numpy_type(dtype: int, double: bool) -> Any:
    """The numpy type of a tensor of the type that TensorFlow gives this number, when run again."""
    return tensorflow().as_dtype(wide(dtype) if double else dtype).as_numpy_dtype


def failure(exchanges: Exchanges, error: Exception) -> str:
    """What to say where a run with ``exchanges`` ended in an error of the model's."""
    passed = set(exchanges.passed)
    name = next((name for name in exchanges.names if name not in passed), "")
    text = str(getattr(error, "message", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Graph execution error", "Detected at node", "Node:"))]
    where = f"node '{display(name)}'" if name else "the model"
    shapes = [f"{key} was given the shape {shape}" for key, shape in exchanges.shapes.items()]
    why = f" after {some(shapes)}" if shapes else ""
    return f"{where} raised {type(error).__name__}{why}: {one_line(lines[0] if lines else '', 200)}"


def exchanged_inputs(
    arrays: Mapping[str, Array], exchange: Exchange, types: Mapping[str, Any], *, double: bool
) -> dict[str, Array]:
    """What takes the place of the inputs ``arrays``; ``types`` are the numpy types in which the model takes them."""
    out = {}
    for name, array in arrays.items():
        # By name: Keras on torch runs where no TensorFlow is.
        narrow = double and np.dtype(types[name]).name in ("float32", "float16", "bfloat16")
        out[name] = exchanged(exchange, name, array.astype(types[name]).astype(np.float64) if narrow else array)
    return out
