"""TensorFlow operations outside leaf layers, seen through TensorFlow's own operation callbacks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tracer.graph import Param
from tracer_keras.describe import param
from tracer_keras.flavour import raw_variable
from tracer_keras.tree import is_leaf, weights_of
from tracer_keras.vocabulary import op_kind, snake

if TYPE_CHECKING:
    from tracer_keras.recorder import Recorder

_SAME = frozenset({"Identity", "StopGradient", "PreventGradient", "EnsureShape", "CheckNumerics", "Snapshot"})
_CUT = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "Assert", "NoOp", "IdentityN"})
_WEIGHT_VIEWS = frozenset(
    {"Identity", "Cast", "Reshape", "ExpandDims", "Squeeze", "Transpose", "StridedSlice", "GatherV2", "ResourceGather"}
)


class OpWatch:
    """Notes each operation that computes with the model's data where no leaf layer runs."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._weights: dict[int, tuple[str, Param]] | None = None
        self._read: dict[Any, tuple[str, Param]] = {}
        self.claimed: set[tuple[str, str]] = set()

    def install(self) -> Callable[[], None]:
        """Start watching; the result stops it."""
        callbacks = import_module("tensorflow.python.framework.op_callbacks")
        callback = self._callback
        callbacks.add_op_callback(callback)
        return lambda: callbacks.remove_op_callback(callback)

    def _callback(
        self, op_type: Any, inputs: Any, attrs: Any, outputs: Any, op_name: Any = None, graph: Any = None
    ) -> None:
        recorder = self.recorder
        if not recorder.frames or not recorder.tensors.in_graph() or not outputs:
            return
        name = op_type.decode() if isinstance(op_type, bytes) else str(op_type)
        try:
            self._see(name, list(inputs), attrs, list(outputs))
        except Exception as error:  # never into the user's forward pass
            recorder.notes.append(f"operation {name} could not be recorded: {type(error).__name__}")

    def _see(self, name: str, inputs: list[Any], attrs: Any, outputs: list[Any]) -> None:
        tensors = self.recorder.tensors
        if name in _SAME and inputs:
            tensors.link(outputs[0], inputs[0])
            return
        if not self.recorder.watching():
            return
        if name == "ReadVariableOp":
            self._reads(inputs[0], outputs[0])
            return
        parents = tensors.any_parent(inputs)
        weights = [self._read[key] for key in map(tensors.canonical, inputs) if key in self._read]
        if name == "ResourceGather":  # rows of a variable that is read nowhere else
            table = self._weight(inputs[0])
            weights += [table] if table is not None else []
        if not parents:
            if weights and name in _WEIGHT_VIEWS:
                self._read[tensors.canonical(outputs[0])] = weights[0]
            return
        if name in _CUT:
            return
        shown = [out for out in outputs if getattr(out.dtype, "name", "") not in ("resource", "variant")]
        if not shown:
            for out in outputs:
                tensors.pass_on(out, parents)
            return
        kind = "embedding" if name == "ResourceGather" else op_kind(name)
        params = tuple(dict.fromkeys(p for p in weights if (p[0], p[1].name) not in self.claimed))
        self.claimed.update((owner, p.name) for owner, p in params)
        self.recorder.add_op(
            snake(name) if kind.startswith("other:") else kind,
            kind,
            f"tf.{name}",
            parents,
            shown if len(shown) > 1 else shown[0],
            self._config(kind, inputs, attrs),
            tuple(p for _, p in params),
        )

    def _reads(self, handle: Any, output: Any) -> None:
        """Remember which of the containers' own weights a tensor is a reading of."""
        known = self._weight(handle)
        if known is not None:
            self._read[self.recorder.tensors.canonical(output)] = known

    def _weight(self, handle: Any) -> tuple[str, Param] | None:
        """The container's own weight behind a variable's handle."""
        if self._weights is None:
            self._weights = self._handles()
        if not self._weights:
            return None
        graph = self.recorder.tensors.graph
        outside = handle
        if graph is not None:
            outside = next((outer for outer, inner in graph.captures if inner is handle), handle)
        return self._weights.get(id(outside))

    def _handles(self) -> dict[int, tuple[str, Param]]:
        found: dict[int, tuple[str, Param]] = {}
        flavour = self.recorder.flavour
        for path, layer in self.recorder.paths.layers():
            if is_leaf(layer, flavour):
                continue
            for name, weight in weights_of(layer, flavour):
                handle = getattr(raw_variable(weight), "handle", None)
                if handle is not None:
                    found[id(handle)] = (path, param(name, weight, layer))
        return found

    def _config(self, kind: str, inputs: list[Any], attrs: Any) -> dict[str, Any]:
        """Axes and paddings, where they are constants."""
        wanted = {"permute": (1, "permutation"), "pad": (1, "padding"), "mean": (1, "axis"), "amax": (1, "axis")}
        place, word = wanted.get(kind, (-1, "axis") if kind == "concat" else (None, ""))
        if place is None or len(inputs) < 2:
            return {}
        value = self.recorder.tensors.tf.get_static_value(inputs[place])
        return {word: value.tolist()} if value is not None else {}
