"""Runs a graph in a session of its own, as it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tracer.adapter import Array, Exchange
from tracer.errors import ModelError
from tracer_keras.exchanges import Exchanges, Wanted
from tracer_keras.flavour import tensorflow
from tracer_keras.graphs import cut
from tracer_keras.graphs.nodes import Drawing
from tracer_keras.graphs.source import Source
from tracer_keras.library import rename_functions
from tracer_keras.replay import failure, numpy_type
from tracer_keras.widen import widen


def open_session(graph: Any, source: Source) -> Any:
    """A session that holds the weights. Nothing is rewritten, so that the values are those of the graph as written."""
    v1 = tensorflow().compat.v1
    options = v1.GraphOptions(optimizer_options=v1.OptimizerOptions(opt_level=v1.OptimizerOptions.L0))
    options.rewrite_options.disable_meta_optimizer = True
    with graph.as_default():
        assigned = [_assign(graph, source, name) for name in source.values]
        session = v1.Session(graph=graph, config=v1.ConfigProto(graph_options=options, allow_soft_placement=True))
    for operation, fed, name in assigned:
        session.run(operation, {fed: source.values[name]()})
    return session


def _assign(graph: Any, source: Source, name: str) -> tuple[Any, Any, str]:
    tf = tensorflow()
    handle = graph.get_tensor_by_name(f"{name}:0")
    fed = tf.compat.v1.placeholder(tf.as_dtype(source.flat.items[name].attr["dtype"].type))
    return tf.raw_ops.AssignVariableOp(resource=handle, value=fed), fed, name


class Replay:
    """A graph with an exchange behind each node of ``drawing``, in float64 if ``double``.

    ``shapes`` are those of the inputs, by the names that a user feeds; ``graph`` is the graph of ``drawing``. With
    ``known`` only what the nodes that ``due`` names need is computed, given those in ``known``.
    """

    def __init__(
        self,
        source: Source,
        drawing: Drawing,
        graph: Any,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        double: bool,
        due: Collection[str] = (),
        known: Collection[str] = (),
    ) -> None:
        tf = tensorflow()
        definition = cut.graph_def(source.flat, {source.inputs[name]: shape for name, shape in shapes.items()})
        wanted = []
        for node in drawing.structure.stored():
            if node.role != "input" and (not known or node.name in due or node.name in known):
                operation, number = drawing.tensors[node.name]
                dtype = graph.get_operation_by_name(operation).outputs[number].dtype
                wanted.append(Wanted(node.name, f"{operation}:{number}", dtype.as_datatype_enum))
        given = {item.name: numpy_type(item.dtype, double) for item in wanted if item.name in known}
        self._exchanges = Exchanges(definition, wanted, (), given, source.values)
        suffix = rename_functions(definition)
        if double:
            widen(definition, suffix, self._exchanges.operations)
        self._double = double
        self._source = source
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.graph_util.import_graph_def(definition, name="")
        self._session = open_session(self._graph, source)

    def run(self, arrays: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array] | None = None) -> None:
        """Run it on the inputs. Raises ModelError, and whatever ``exchange`` raises."""
        graph = self._graph
        feeds = {graph.get_tensor_by_name(f"{self._source.inputs[name]}:0"): array for name, array in arrays.items()}
        ends = [graph.get_operation_by_name(name) for name in self._exchanges.operations[-1:]]
        try:
            self._exchanges.run(exchange, lambda: self._session.run(ends, feeds), known)
        except Exception as error:
            if error is self._exchanges.raised:
                raise
            raise ModelError(failure(self._exchanges, error)) from error
