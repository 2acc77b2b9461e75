"""Counts what a Keras model does without tracer's recorder, and says what of it a recording lacks.

- A functional model states its own nodes (every call of every layer and operation, nested models too): each must have
  been recorded, and where the model can be cut there, with the value that a submodel gives.
- Any model can be traced by TensorFlow: every operation of that graph which depends on the input and lies outside the
  innermost layers must be a node's tensor, and so must every output of an innermost layer. Which operations lie inside
  of a layer is read off the graph's length before and after the layer's call.

What is left out on purpose is in :data:`PASSING`, masks (boolean tensors), and what TensorFlow's own functions of
several operations (``tf.nn.gelu``) are made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tracer.adapter import Array, LoadedModel, MemorySink, NotRecorded
from tracer.graph import Node, Structure
from tracer_keras import composites

PASSING = frozenset(
    "Identity StopGradient PreventGradient EnsureShape CheckNumerics IdentityN Shape ShapeN Size Rank ZerosLike "  # noqa: SIM905
    "OnesLike Assert NoOp ReadVariableOp Const Placeholder".split()
)
"""Operations that give their input again, or nothing of it but its shape."""


@dataclass
class Recording:
    """What tracer recorded."""

    structure: Structure
    values: dict[str, Array]
    reasons: dict[str, str]

    @classmethod
    def of(cls, model: LoadedModel, inputs: Mapping[str, Array]) -> Recording:
        structure = model.structure(inputs)
        sink = MemorySink()
        model.capture(inputs, sink)
        return cls.made(structure, sink)

    @classmethod
    def made(cls, structure: Structure, sink: MemorySink) -> Recording:
        values = {name: value for name, value in sink.values.items() if isinstance(value, np.ndarray)}
        return cls(structure, values, {n: v.reason for n, v in sink.values.items() if isinstance(v, NotRecorded)})

    def value(self, node: Node) -> Array | None:
        return self.values.get(node.alias_of or node.name)


# -- functional models -------------------------------------------------------------------------------------------


def stated(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every call that a functional model is made of: path of the layer or operation, and Keras's own node."""
    inner = getattr(model, "_functional", None) or model
    for nodes in inner._nodes_by_depth.values():
        for node in nodes:
            layer = getattr(node, "operation", None) or getattr(node, "layer", None)
            if type(layer).__name__ == "InputLayer":
                continue
            path = f"{prefix}{layer.name}"
            yield path, node
            if hasattr(getattr(layer, "_functional", None) or layer, "_nodes_by_depth"):
                yield from stated(layer, f"{path}/")


def lacking_of_stated(model: Any, recording: Recording) -> list[str]:
    """The calls of a functional model that are no nodes of the recording."""
    wanted = Counter(path for path, _ in stated(model))
    found = Counter((node.owner, node.call) for node in recording.structure if node.role not in ("input", "item"))
    calls = Counter(owner for owner, _ in found)
    return [f"{path} ({calls[path]} of {count} calls)" for path, count in wanted.items() if calls[path] < count]


# -- any model, as TensorFlow's graph -------------------------------------------------------------------------------


@dataclass
class Call:
    """One call of a layer: which operations of the graph it made.

    ``innermost``: one of the library's own, or one of the user's that calls no layer.
    """

    path: str
    library: bool
    begin: int
    end: int = 0
    innermost: bool = True
    outputs: list[Any] = field(default_factory=list)


def count(model: Any, call: Any, inputs: Mapping[str, Array]) -> list[tuple[str, Array]]:
    """The tensors of ``model``'s graph that a recording must hold: what made them, and their values.

    ``call`` runs the model for input tensors by name. The model must be built.
    """
    import tensorflow as tf

    chosen: list[str] = []

    def body(**tensors: Any) -> list[Any]:
        graph = tf.compat.v1.get_default_graph()
        calls: list[Call] = []
        with _watched(model, graph, calls):
            call(tensors)
        fed = {tensor.name for tensor in tensors.values()}
        operations = graph.get_operations()
        hidden = set()
        for item in calls:
            if item.innermost:
                hidden.update(range(item.begin, item.end))
        kept: dict[str, Any] = {}
        for place, operation in enumerate(operations):
            depends = any(tensor.name in fed for tensor in operation.inputs)
            if not depends or operation.type in ("Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"):
                continue
            fed.update(tensor.name for tensor in operation.outputs)
            for tensor in operation.outputs if place not in hidden and operation.type not in PASSING else ():
                kept[tensor.name] = (f"{operation.type} {operation.name}", tensor)
        for item in calls:
            for tensor in item.outputs if item.innermost else ():
                if tensor.name in fed:
                    kept[tensor.name] = (f"layer {item.path}", tensor)
        out = []
        chosen.clear()
        for what, tensor in kept.values():
            if tensor.dtype not in (tf.bool, tf.resource, tf.variant, tf.string):
                chosen.append(what)
                out.append(tensor)
        return out

    specs = {name: tf.TensorSpec(array.shape, array.dtype, name=name) for name, array in inputs.items()}
    function = tf.function(body, autograph=False).get_concrete_function(**specs)
    values = function(**{name: tf.constant(array) for name, array in inputs.items()})
    return [(what, np.asarray(value)) for what, value in zip(chosen, values, strict=True)]


class _watched:
    """Notes every layer's call while ``model`` is traced into ``graph``."""

    def __init__(self, model: Any, graph: Any, calls: list[Call]) -> None:
        self.graph, self.calls, self.open = graph, calls, list[Call]()
        self.layers = list(model._flatten_layers(include_self=False, recursive=True))
        self.names = {layer.name for layer in self.layers}
        self.functions = composites.functions()

    def __enter__(self) -> None:
        for layer in self.layers:
            object.__setattr__(layer, "call", self._wrapped(layer.name, _of_library(layer), layer.call))
        for module, name, function in self.functions:
            setattr(module, name, self._wrapped(name, True, function))

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            object.__delattr__(layer, "call")
        for module, name, function in self.functions:
            setattr(module, name, function)

    def _wrapped(self, name: str, library: bool, original: Any) -> Any:
        import tensorflow as tf

        def call(*args: Any, **kwargs: Any) -> Any:
            item = Call(name, library, len(self.graph.get_operations()))
            seen = not any(outer.library for outer in self.open)  # not a cell, nor what a wrapper wraps
            for outer in self.open if item.path in self.names else ():
                outer.innermost = outer.library
            self.open.append(item)
            try:
                out = original(*args, **kwargs)
            finally:
                self.open.pop()
            item.end = len(self.graph.get_operations())
            leaves = [leaf for leaf in tf.nest.flatten(out) if tf.is_tensor(leaf)]
            item.outputs = [leaf for leaf in leaves if leaf.graph is self.graph]
            if seen:
                self.calls.append(item)
            return out

        return tf.autograph.experimental.do_not_convert(call)


def _of_library(layer: Any) -> bool:
    return type(layer).__module__.startswith(("keras.src.layers", "tf_keras.src.layers"))


def lacking(found: list[tuple[str, Array]], recording: Recording) -> list[str]:
    """What was counted and is no node. Each node answers for one tensor; values may differ by rounding."""
    pool: dict[tuple[tuple[int, ...], str], list[Array]] = {}
    for node in recording.structure:
        value = recording.value(node)
        if value is not None and (node.role != "container" or node.alias_of is None):
            pool.setdefault((value.shape, str(value.dtype)), []).append(value)
    out = []
    for what, value in found:
        same = pool.get((value.shape, str(value.dtype)), [])
        place = next((i for i, other in enumerate(same) if _close(value, other)), None)
        if place is None:
            out.append(f"{what} {value.shape}")
        else:
            del same[place]
    return out


def _close(a: Array, b: Array) -> bool:
    if a.dtype.kind not in "fc":
        return bool(np.array_equal(a, b))
    scale = float(np.nanmax(np.abs(np.where(np.isfinite(a), a, 0)), initial=0.0))
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-5 * max(scale, 1e-3), equal_nan=True))
