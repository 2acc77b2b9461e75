"""TensorFlow operations outside leaf layers, seen through TensorFlow's own operation callbacks."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.graph import Param
from tracer.kinds import powered, reduction
from tracer_keras import composites
from tracer_keras.describe import param
from tracer_keras.flavour import raw_variable
from tracer_keras.tree import is_leaf, weights_of
from tracer_keras.vocabulary import op_kind, snake, words

if TYPE_CHECKING:
    from tracer_keras.recorder import Recorder

_SAME = frozenset({"Identity", "StopGradient", "PreventGradient", "EnsureShape", "CheckNumerics", "Snapshot"})
_CUT = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike", "Assert", "NoOp"})
_LOOKUPS = frozenset({"ResourceGather", "GatherV2", "Gather"})
_WINDOWED = ("max_pool", "avg_pool", "conv", "depthwise_conv")
_WEIGHT_VIEWS = words(
    "Identity Cast Reshape ExpandDims Squeeze Transpose StridedSlice GatherV2 ResourceGather Pack BroadcastTo"
)


class OpWatch:
    """Notes each operation that computes with the model's data where no leaf layer runs."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._weights: dict[int, tuple[str, Param]] | None = None
        self._read: dict[Any, tuple[str, Param]] = {}
        self.claimed: set[tuple[str, str]] = set()
        self._leaves: set[str] = set()
        """Layers whose weights are listed at their own nodes, whatever else reads them."""

    def install(self) -> Callable[[], None]:
        """Start watching; the result stops it."""
        callbacks = import_module("tensorflow.python.framework.op_callbacks")
        callback = self._callback
        callbacks.add_op_callback(callback)
        undo = list(composites.install(self))

        def stop() -> None:
            callbacks.remove_op_callback(callback)
            for restore in undo:
                restore()

        return stop

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
        if name == "IdentityN":  # what functions with a gradient of their own give
            for output, source in zip(outputs, inputs, strict=False):
                tensors.link(output, source)
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
        looks_up = name in _LOOKUPS and bool(weights) and getattr(inputs[1].shape, "rank", 0) != 0
        if not parents and not looks_up:
            if weights and name in _WEIGHT_VIEWS:
                self._read[tensors.canonical(outputs[0])] = weights[0]
            return
        if name in _CUT:
            return
        # Masks are seen through, as in the other framework: what reads them reads what they were made from.
        shown = [out for out in outputs if getattr(out.dtype, "name", "") not in ("resource", "variant", "bool")]
        if not shown:
            for out in outputs:
                tensors.pass_on(out, parents)
            return
        kind = "embedding" if looks_up else self._kind(name, inputs, outputs, weights)
        # What is constant is known of eager tensors that is not of a graph's: the name must not depend on it.
        word = "embedding" if name == "ResourceGather" else op_kind(name)
        self.recorder.add_op(
            snake(name) if word.startswith("other:") else word,
            kind,
            f"tf.{name}",
            parents,
            shown if len(shown) > 1 else shown[0],
            self._config(kind, inputs, attrs),
            self._claimed(weights),
        )

    def _claimed(self, weights: list[tuple[str, Param]]) -> tuple[Param, ...]:
        """Those of ``weights`` that no operation has claimed before; they are claimed now."""
        fresh = dict.fromkeys(p for p in weights if (p[0], p[1].name) not in self.claimed and p[0] not in self._leaves)
        self.claimed.update((owner, p.name) for owner, p in fresh)
        return tuple(p for _, p in fresh)

    def claim(self, values: list[Any]) -> tuple[tuple[Param, ...], bool]:
        """The containers' own weights among ``values`` that are not claimed yet, claimed now; whether any are there."""
        tensors = self.recorder.tensors
        found = [self._weight(getattr(raw_variable(value), "handle", None)) for value in values]
        found += [self._read.get(tensors.canonical(value)) for value in values if tensors.is_tensor(value)]
        weights = [weight for weight in found if weight is not None]
        return self._claimed(weights), bool(weights)

    def _kind(self, name: str, inputs: list[Any], outputs: list[Any], weights: list[tuple[str, Param]]) -> str:
        """The kind of an operation, told by its constant operands where they make it another."""
        kind = op_kind(name)
        if kind == "matmul" and weights and name != "Einsum":
            return "dense"
        if len(inputs) < 2:
            return kind
        rank = getattr(inputs[0].shape, "rank", None)
        if kind in ("mean", "amax") and rank:
            axes = self._constant(inputs[1])
            kept = getattr(outputs[0].shape, "rank", None) == rank
            return kind if axes is None else reduction(kind, np.ravel(axes).tolist(), rank, keeps=kept)
        if kind == "power":
            exponent = self._constant(inputs[1])
            return powered(exponent) if exponent is None or np.ndim(exponent) else powered(float(exponent))
        if kind == "gather" and getattr(inputs[1].shape, "rank", None) == 0:
            return "slice"
        if kind == "pad" and (paddings := self._constant(inputs[1])) is not None and not np.any(paddings):
            return "identity"
        if kind == "conv2d" and rank == 4:
            return "depthwise_conv2d" if _depthwise(inputs[1].shape, outputs[0].shape, inputs[0].shape) else kind
        return kind

    def _constant(self, value: Any) -> Any:
        """A constant tensor's value; None for others."""
        return self.recorder.tensors.tf.get_static_value(value)

    def _reads(self, handle: Any, output: Any) -> None:
        """Remember which weight a tensor is a reading of."""
        known = self._weight(handle)
        if known is not None:
            self._read[self.recorder.tensors.canonical(output)] = known

    def _weight(self, handle: Any) -> tuple[str, Param] | None:
        """The weight behind a variable's handle."""
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
                self._leaves.add(path)
            for name, weight in weights_of(layer, flavour):
                handle = getattr(raw_variable(weight), "handle", None)
                if handle is not None:
                    found[id(handle)] = (path, param(name, weight, layer))
        return found

    def _config(self, kind: str, inputs: list[Any], attrs: Any) -> dict[str, Any]:
        """Axes and paddings, where they are constants, and windows."""
        if kind.startswith(_WINDOWED):
            return _windows(attrs)
        wanted = {"permute": (1, "permutation"), "pad": (1, "padding")}
        wanted |= dict.fromkeys(("mean", "amax", "global_avg_pool", "global_max_pool", "sum"), (1, "axis"))
        place, word = wanted.get(kind, (-1, "axis") if kind == "concat" else (None, ""))
        if place is None or len(inputs) < 2:
            return {}
        value = self._constant(inputs[place])
        return {word: value.tolist()} if value is not None else {}


def _windows(attrs: Any) -> dict[str, Any]:
    """The window, strides, dilation and padding of an operation, of its spatial axes."""
    flat = list(attrs or ())
    own = {str(key): _plain(value) for key, value in zip(flat[::2], flat[1::2], strict=False)}
    first = str(own.get("data_format", "NHWC")).startswith("NC")
    out: dict[str, Any] = {}
    for name, word in (("ksize", "pool_size"), ("strides", "strides"), ("dilations", "dilation")):
        numbers = own.get(name)
        if isinstance(numbers, list) and len(numbers) > 2:
            out[word] = numbers[2:] if first else numbers[1:-1]
    padding, each = own.get("padding"), own.get("explicit_paddings")
    if padding == "EXPLICIT" and isinstance(each, list):
        pairs = [each[k : k + 2] for k in range(0, len(each), 2)]
        out["padding"] = pairs[2:] if first else pairs[1:-1]
    elif isinstance(padding, str):
        out["padding"] = padding.lower()
    if first:
        out["data_format"] = "channels_first"
    return out


def _plain(value: Any) -> Any:
    """An attribute's value: protobuf's in a graph, Python's in eager execution."""
    if hasattr(value, "WhichOneof"):
        which = value.WhichOneof("value")
        value = list(value.list.i) if which == "list" else getattr(value, which) if which in ("s", "i", "b") else None
    if isinstance(value, bytes):
        return value.decode()
    return [int(number) for number in value] if isinstance(value, list | tuple) else value


def _depthwise(kernel: Any, output: Any, source: Any) -> bool:
    """Whether a convolution's kernel has one input channel for several of the picture."""
    return kernel[2] == 1 and output[-1] == kernel[3] and source[-1] is not None and source[-1] > 1
