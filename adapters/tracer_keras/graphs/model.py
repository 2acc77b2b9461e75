"""A loaded graph, as the core sees it, and how it is run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np

from tracer import dtypes
from tracer.adapter import Array, Exchange, InputSpec, LoadedModel, LoadRequest, NotRecorded, Sink
from tracer.errors import InputError, MissingFrameworkError, ModelError, OptionError, ReplayError
from tracer.graph import Param, Structure
from tracer.names import display
from tracer.text import one_line
from tracer_keras.flavour import tensorflow
from tracer_keras.graphs import cut, running
from tracer_keras.graphs.flat import Tensor
from tracer_keras.graphs.network import Network
from tracer_keras.graphs.nodes import Drawing, draw
from tracer_keras.graphs.running import open_session
from tracer_keras.graphs.source import Source, read
from tracer_keras.replay import exchanged_inputs
from tracer_keras.signature import Signature, shown

_SEGMENT = 128 << 20
"""Bytes of activations that one run of the session may give; larger graphs run piece by piece."""
_Key = tuple[tuple[str, tuple[int, ...]], ...]


def load(request: LoadRequest) -> GraphModel:
    """The graph of ``request``, checked before TensorFlow sees it.

    Raises InputError, RefusedError, or MissingFrameworkError where Keras alone is installed.
    """
    if "tensorflow" not in sys.modules and find_spec("tensorflow") is None:
        raise MissingFrameworkError("a graph needs tensorflow: pip install 'tracer-nn[tensorflow]'")
    return GraphModel(read(request))


class _Imported:
    """The graph in TensorFlow for inputs of certain shapes, with a session that holds its weights."""

    def __init__(self, source: Source, shapes: Mapping[str, tuple[int, ...]]) -> None:
        tf = tensorflow()
        self.graph = tf.Graph()
        nodes = {source.inputs[name]: shape for name, shape in shapes.items()}
        with self.graph.as_default():
            tf.graph_util.import_graph_def(cut.graph_def(source.flat, nodes), name="")
        self.net = Network(source.flat, self.graph, set(source.inputs.values()), source.outputs)
        self.drawing: Drawing = draw(self.net, source.inputs, source.outputs)
        self._source = source
        self._session: Any = None

    @property
    def session(self) -> Any:
        """Made on first use."""
        if self._session is None:
            self._session = open_session(self.graph, self._source)
        return self._session

    def run(self, tensors: list[Tensor], feeds: Mapping[Tensor, Any]) -> list[Any]:
        fed = {self.net.tensor(tensor): value for tensor, value in feeds.items()}
        out: list[Any] = self.session.run([self.net.tensor(tensor) for tensor in tensors], fed)
        return out


class GraphModel(LoadedModel):
    """A frozen graph or the signature of a SavedModel."""

    framework: ClassVar[str] = "tensorflow"

    def __init__(self, source: Source) -> None:
        self._source = source
        self.loader = f"tensorflow {tensorflow().__version__} graph"
        self.notes = tuple(source.notes)
        self._known: dict[_Key, _Imported] = {}
        self._replays: dict[bool, tuple[dict[str, tuple[int, ...]], running.Replay]] = {}
        self._specs = self._signature()

    def versions(self) -> dict[str, str]:
        return {"tensorflow": str(tensorflow().__version__), "numpy": np.__version__}

    def signature(self) -> tuple[InputSpec, ...]:
        return self._specs

    def _signature(self) -> tuple[InputSpec, ...]:
        source, out = self._source, []
        loose = self._imported({})
        self._known.clear()  # it holds the weights once more
        layouts = {node.name: node.layout for node in loose.drawing.structure.inputs}
        for name, node in source.inputs.items():
            item = source.flat.items[node]
            shape = cut.stated_shape(item, source.producer)
            shape = source.stated.get(name) if shape is None else shape
            maximum = _vocabulary(loose.net, node)
            out.append(InputSpec(name, shape, cut.input_type(item), maximum, layouts.get(name)))
        return tuple(out)

    def _imported(self, arrays: Mapping[str, Array]) -> _Imported:
        key = tuple((name, array.shape) for name, array in arrays.items())
        if key not in self._known:
            shapes = {name: tuple(array.shape) for name, array in arrays.items()}
            try:
                self._known[key] = _Imported(self._source, shapes)
            except (ValueError, tensorflow().errors.OpError) as error:
                raise InputError(self._refusal(error, arrays)) from None
        return self._known[key]

    def _refusal(self, error: Exception, arrays: Mapping[str, Array]) -> str:
        why = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__, 240)
        if not arrays:
            return f"TensorFlow does not take the graph: {why}"
        expected = ", ".join(map(shown, self._specs))
        given = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
        return f"the graph does not take this input: {why} (expects {expected}; given {given})"

    def _arrays(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        form = Signature(self._specs, (None,) * len(self._specs), "arguments", self._specs, True)
        arrays = form.check(inputs)
        return {spec.name: arrays[spec.name].astype(dtypes.by_name(spec.dtype)) for spec in self._specs}

    def structure(self, inputs: Mapping[str, Array]) -> Structure:
        if self.run.mode != "eval":
            raise OptionError("a graph runs as it was saved: it has no training mode; record it without --mode train")
        if self.run.loss is not None:
            raise OptionError("a graph gives no gradients: leave --grad out, or record the Keras model it is of")
        arrays = self._arrays(inputs)
        imported = self._imported(arrays)
        structure = imported.drawing.structure
        if any(node.shape is None for node in structure.stored()):
            self._measure(imported, arrays)
        return imported.drawing.structure

    def _measure(self, imported: _Imported, arrays: Mapping[str, Array]) -> None:
        """Run once to learn the shapes that depend on values."""
        shapes: dict[str, tuple[int, ...]] = {}
        fault = ""
        try:
            for name, value in self._values(imported, arrays, None):
                if isinstance(value, np.ndarray):
                    shapes[name] = value.shape
        except ModelError as error:
            fault = str(error)
        old = imported.drawing.structure
        nodes = (
            replace(node, shape=shapes.get(node.alias_of or node.name)) if node.shape is None else node for node in old
        )
        imported.drawing.structure = replace(old, nodes=tuple(nodes), fault=fault)

    # -- running -------------------------------------------------------------------------------------------------

    def capture(self, inputs: Mapping[str, Array], sink: Sink) -> None:
        arrays = self._arrays(inputs)
        imported = self._imported(arrays)
        for name, value in self._values(imported, arrays, sink):
            sink(name, value, owned=True)

    def _values(
        self, imported: _Imported, arrays: Mapping[str, Array], sink: Sink | None
    ) -> Iterator[tuple[str, Array | NotRecorded]]:
        """The nodes' tensors in order, each computed once. Raises ModelError naming the node that fails."""
        drawing = imported.drawing
        nodes = [node for node in drawing.structure.stored() if sink is None or sink.wants(node.name)]
        feeds: dict[Tensor, Any] = {(self._source.inputs[name], 0): array for name, array in arrays.items()}
        computed = []
        for node in nodes:
            if node.role == "input":
                yield node.name, arrays[node.name]
            else:
                computed.append(node.name)
        for segment in self._segments(imported, computed):
            yield from self._segment(imported, segment, feeds)
            _forget(imported, segment[-1], feeds)

    def _segments(self, imported: _Imported, names: list[str]) -> Iterator[list[str]]:
        by_name, room = imported.drawing.structure.by_name, _SEGMENT
        segment: list[str] = []
        for name in names:
            node = by_name[name]
            size = int(np.prod(node.shape, dtype=np.int64)) * 4 if node.shape is not None else 1 << 20
            if segment and size > room:
                yield segment
                segment, room = [], _SEGMENT
            segment.append(name)
            room -= size
        if segment:
            yield segment

    def _segment(
        self, imported: _Imported, names: list[str], feeds: dict[Tensor, Any]
    ) -> Iterator[tuple[str, Array | NotRecorded]]:
        tensors = imported.drawing.tensors
        try:
            values = imported.run([tensors[name] for name in names], feeds)
        except Exception as error:
            if len(names) > 1:  # which one fails, only smaller runs can tell
                middle = len(names) // 2
                yield from self._segment(imported, names[:middle], feeds)
                yield from self._segment(imported, names[middle:], feeds)
                return
            raise ModelError(_failure(names[0], tensors[names[0]], error)) from error
        for name, value in zip(names, values, strict=True):
            feeds[tensors[name]] = value
        for name, value in zip(names, values, strict=True):
            array = np.asarray(value)
            if array.dtype.names:  # a quantised type: one field that holds the numbers
                array = array.view(array.dtype[0])
            if not dtypes.storable(array.dtype):
                yield name, NotRecorded(f"{imported.net.dtype(tensors[name])} tensor")
                continue
            yield name, array

    def replay(self, inputs: Mapping[str, Array], exchange: Exchange, *, double: bool = False) -> None:
        self.replay_rest(inputs, exchange, {}, double=double)

    def replay_rest(
        self, inputs: Mapping[str, Array], exchange: Exchange, known: Mapping[str, Array], *, double: bool = False
    ) -> None:
        arrays = self._arrays(inputs)
        given = exchanged_inputs(arrays, exchange, {name: array.dtype for name, array in arrays.items()}, double=double)
        shapes = {name: array.shape for name, array in given.items()}
        before, again = self._replays.get(double, (None, None))
        if again is None or before != shapes or known:
            try:
                imported = self._imported(given)
            except InputError as error:
                raise ReplayError(f"the graph cannot be run again on this input: {error}") from error
            stored = imported.drawing.structure.stored()
            due = {node.name for node in stored if known and node.name not in known and exchange.wants(node.name)}
            again = running.Replay(
                self._source, imported.drawing, imported.graph, shapes, double=double, due=due, known=known
            )
            if not known:
                self._replays[double] = shapes, again
        again.run(given, exchange, known)

    # -- parameters ----------------------------------------------------------------------------------------------

    def parameters(self) -> Iterable[tuple[str, Param, Array]]:
        imported = next(reversed(self._known.values()), None) or self._imported({})
        for owner, param, leaf in imported.drawing.weights:
            try:
                (value,) = imported.run([leaf], {})
            except tensorflow().errors.OpError as error:
                raise ModelError(_failure(owner, leaf, error)) from error
            yield owner, param, np.asarray(value)


def _forget(imported: _Imported, last: str, feeds: dict[Tensor, Any]) -> None:
    """Drop the tensors that nothing after the node ``last`` reads. The others are fed, so that nothing runs twice."""
    net = imported.net
    place = net.order[imported.drawing.tensors[last][0]]
    for tensor in list(feeds):
        users = net.users.get(tensor, [])
        if tensor[0] not in net.inputs and all(net.order[user] <= place for user in users):
            del feeds[tensor]


def _failure(name: str, tensor: Tensor, error: Exception) -> str:
    op = getattr(error, "op", None)
    where = getattr(op, "name", None) or tensor[0]
    lines = [line.strip() for line in str(getattr(error, "message", error)).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Graph execution error", "Detected at node", "Node:"))]
    text = one_line(lines[0] if lines else type(error).__name__, 200)
    inside = "" if where == tensor[0] else f" (operation '{display(where)}')"
    return f"node '{display(name)}'{inside} raised {type(error).__name__}: {text}"


def _vocabulary(net: Network, node: str) -> int | None:
    """The largest number that the look-ups of an integer input take."""
    if net.floating((node, 0)):
        return None
    sizes: list[int] = []
    pending, seen = [(node, 0)], set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for user in net.users.get(tensor, []):
            item = net.item(user)
            if item.op in ("GatherV2", "Gather") and net.is_static(item.inputs[0]):
                shape = net.shape(item.inputs[0])
                sizes += [shape[0]] if shape else []
            elif item.op in ("Cast", "Reshape", "ExpandDims", "Squeeze"):
                pending.append((user, 0))
    return min(sizes) - 1 if sizes else None
