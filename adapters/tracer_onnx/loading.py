"""From an ONNX file, or a live object, to a graph without functions whose weights are numpy arrays beside it.

Nothing in the file runs code: libraries of custom operators are never loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx.inliner
import onnxruntime
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from tracer.adapter import Array
from tracer.errors import InputError, RefusedError, TracerError
from tracer.names import display
from tracer.text import first_line, some
from tracer_onnx import preflight
from tracer_onnx.tensors import element_bits, passable, proto_array

HEAVY = 1024
"""Bytes from which a weight is kept beside the graph, once, however many sessions read it."""
_KNOWN_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
     "com.microsoft.nchwc", "com.ms.internal.nhwc"}
)  # fmt: skip
_MOST_NODES = 1 << 18
"""Operators, those of inner graphs and of each call of a function counted: each costs microseconds, in many passes."""
_DENSEST = 1 << 30
"""Bytes that a sparse weight may become."""


@dataclass
class Source:
    """A model as it is analysed and run.

    ``proto`` holds the graph; ``weights`` the value of every top-level initializer but text, by name. The heavy ones
    are not in ``proto``: there stands an external marker.
    """

    proto: ModelProto
    weights: dict[str, Array]
    folder: Path | None = None
    notes: list[str] = field(default_factory=list)


def from_file(path: Path) -> Source:
    """Read a model file. Raises InputError or RefusedError, in one line."""
    proto = ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {display(str(path))}: {error.strerror}") from error
    except Exception as error:
        raise InputError(f"{display(str(path))} is truncated or damaged: it is not a whole ONNX file") from error
    try:
        return _prepared(proto, path.parent)
    except TracerError as error:
        error.args = (f"{display(str(path))}: {error}", *error.args[1:])
        raise


def from_object(model: object) -> Source:
    """A live ModelProto or InferenceSession. Raises InputError when its graph cannot be had."""
    if isinstance(model, onnxruntime.InferenceSession):
        # The session gives no graph away; its Python class keeps what it was made from.
        data, path = getattr(model, "_model_bytes", None), getattr(model, "_model_path", None)
        if data:
            proto = ModelProto()
            try:
                proto.ParseFromString(data)
            except Exception as error:
                raise InputError("this InferenceSession was not made from an ONNX model: give the .onnx") from error
            return _prepared(proto, None)
        if path and Path(path).is_file() and claims_onnx(Path(path)):
            return from_file(Path(path))
        raise InputError("this InferenceSession does not say what it was made from: give the ModelProto, or the .onnx")
    if not isinstance(model, ModelProto):
        raise InputError(f"{type(model).__name__} is neither a ModelProto nor an InferenceSession")
    copy = ModelProto()
    copy.CopyFrom(model)
    return _prepared(copy, None)


def claims_onnx(path: Path) -> bool:
    """Whether ``path`` is a whole ONNX file."""
    try:
        preflight.check_file(path)
    except InputError:
        return False
    return True


def _prepared(proto: ModelProto, folder: Path | None) -> Source:
    if not proto.graph.node and not proto.graph.output:
        raise InputError("its graph is empty: not an ONNX model")
    _check_growth(proto)
    for body in (proto.graph, *proto.functions):
        _check_text(body)
    _read_external(proto, folder)
    source = Source(proto, {}, folder)
    take_weights(proto.graph, source.weights)
    _inline(source)
    _check_operators(source.proto)
    take_constants(source.proto.graph, source.weights)
    _check_order(source.proto.graph)
    return source


def _check_text(body: GraphProto | FunctionProto) -> None:
    """Protobuf gives bytes for a name that is no text."""
    names: list[object] = []
    if isinstance(body, GraphProto):
        names += [value.name for value in (*body.input, *body.output, *body.initializer)]
        names += [sparse.values.name for sparse in body.sparse_initializer]
    for node in body.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        for attribute in node.attribute:
            names += [attribute.name, attribute.t.name]
    for tensor in tensors(body):
        names += [text for entry in tensor.external_data for text in (entry.key, entry.value)]
    if not all(isinstance(name, str) for name in names):
        raise InputError("damaged: a name in it is no text")
    for graph in inner_graphs(body):
        _check_text(graph)


# --- tensors ---------------------------------------------------------------------------------------------------


def tensors(body: GraphProto | FunctionProto) -> Iterator[TensorProto]:
    """Every tensor in a graph or function, those of inner graphs too."""
    if isinstance(body, GraphProto):
        yield from body.initializer
        for sparse in body.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
    for graph in inner_graphs(body):
        yield from tensors(graph)


def inner_graphs(body: GraphProto | FunctionProto) -> Iterator[GraphProto]:
    """The graphs directly inside the nodes of ``body``."""
    for node in body.node:
        yield from graphs_of(node)


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of an If, Loop or Scan."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _read_external(proto: ModelProto, folder: Path | None) -> None:
    """Take in the tensors that lie in files beside the model.

    The files must be regular ones in its folder, and as long as the tensors' shapes say: both are known before
    memory is taken.
    """
    for body in (proto.graph, *proto.functions):
        for tensor in tensors(body):
            if tensor.data_location != TensorProto.EXTERNAL:
                continue
            shown = f"weight '{display(tensor.name, 80)}'"
            entries = {entry.key: entry.value for entry in tensor.external_data}
            name = entries.get("location", "")
            if folder is None:
                raise InputError(
                    f"{shown} lies in a file beside the model: load it with onnx.load(path), or give the path"
                )
            _check_external(tensor, entries, folder, f"{shown} in '{display(name, 120)}'")
            try:
                load_external_data_for_tensor(tensor, str(folder))
            except Exception as error:
                why = first_line(error, 120)
                raise InputError(f"{shown} in '{display(name, 120)}' cannot be read: {why}") from error


def _check_external(tensor: TensorProto, entries: dict[str, str], folder: Path, where: str) -> None:
    name = entries.get("location", "")
    fault = preflight.inside(folder, name)
    if fault == "does not exist":
        raise InputError(f"{where}: no such file; an ONNX file is copied together with its external data")
    if fault is not None:
        raise RefusedError(f"{where}: this file {fault}: refused")
    wanted = _size(tensor)
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or -1)
    except ValueError:
        raise InputError(f"{where}: offset and length are no numbers") from None
    held = (folder / name).stat().st_size
    if offset < 0 or offset + wanted > held or length not in (-1, wanted) or (length == -1 and offset + wanted != held):
        raise InputError(f"{where}: {wanted} bytes wanted at {offset}, which the file of {held} bytes does not hold")


def _size(tensor: TensorProto) -> int:
    """Bytes that a tensor's shape and type say. Raises InputError for impossible ones."""
    bits = element_bits(tensor.data_type)
    if bits is None or any(dim < 0 for dim in tensor.dims):
        raise InputError(f"weight '{display(tensor.name, 80)}' has no possible shape or type")
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


def take_weights(graph: GraphProto, weights: dict[str, Array]) -> None:
    """Move a graph's initializers to ``weights``; the light ones and text also stay."""
    for sparse in graph.sparse_initializer:
        tensor = TensorProto(name=sparse.values.name, data_type=sparse.values.data_type, dims=sparse.dims)
        stored = len(sparse.values.dims) and sparse.values.dims[0]
        if _size(tensor) > max(_DENSEST, 64 * stored):
            raise RefusedError(f"sparse weight '{display(tensor.name, 80)}' would unpack to {_size(tensor)} bytes")
    for tensor in graph.initializer:
        _take(tensor, weights)


def _take(tensor: TensorProto, weights: dict[str, Array]) -> None:
    if tensor.data_type == TensorProto.STRING:
        return
    array = proto_array(tensor)
    weights[tensor.name] = array
    if array.nbytes >= HEAVY and passable(tensor.data_type):
        slim = TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
        )
        slim.external_data.add(key="location", value="memory")
        tensor.CopyFrom(slim)


def take_constants(graph: GraphProto, weights: dict[str, Array]) -> None:
    """Turn Constant nodes that hold a tensor into initializers."""
    rest = []
    for node in graph.node:
        value = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if is_standard(node, "Constant") and value is not None and value.data_type != TensorProto.STRING:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value)
            tensor.name = node.output[0]
            _take(tensor, weights)
        else:
            rest.append(node)
    if len(rest) != len(graph.node):
        kept = [NodeProto.FromString(node.SerializeToString()) for node in rest]
        del graph.node[:]
        graph.node.extend(kept)


def is_standard(node: NodeProto, *words: str) -> bool:
    """Whether ``node`` is one of these operators of ONNX itself."""
    return node.op_type in words and node.domain in ("", "ai.onnx")


# --- functions, operators, order -------------------------------------------------------------------------------


def _inline(source: Source) -> None:
    """Put the bodies of the model's own functions in place of their calls."""
    proto = source.proto
    if not proto.functions:
        return
    try:
        source.proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:
        raise InputError(f"its functions cannot be put in place: {first_line(error, 160)}") from error


def _check_growth(proto: ModelProto) -> None:
    """Branches, and functions that call each other, can grow without end, or exponentially."""
    bodies = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(body: GraphProto | FunctionProto, above: frozenset[tuple[str, str]]) -> int:
        total = 0
        for node in body.node:
            key = (node.domain, node.op_type)
            if key in above or len(above) > 100:
                raise RefusedError(f"its function '{display(node.op_type, 80)}' calls itself: refused")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], above | {key})
            total += sizes.get(key, 1) + sum(size(graph, above) for graph in graphs_of(node))
            if total > _MOST_NODES:
                raise RefusedError(f"its branches and functions unfold to more than {_MOST_NODES:,} operators: refused")
        return total

    for body in (proto.graph, *proto.functions):
        size(body, frozenset())


def _check_operators(proto: ModelProto) -> None:
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise InputError(
                f"it wants operator set {opset.version}, onnx {onnx.__version__} knows {newest}: "
                "pip install -U onnx onnxruntime"
            )
    foreign: dict[str, str] = {}
    for node in all_nodes(proto.graph):
        if node.domain not in _KNOWN_DOMAINS:
            foreign.setdefault(f"{node.domain}::{node.op_type}", node.name or (node.output[0] if node.output else ""))
    if foreign:
        first = next(iter(foreign.values()))
        at = f" (the first at '{display(first, 80)}')" if first else ""
        raise InputError(
            f"operator {some(list(foreign))}{at} is neither ONNX's nor onnxruntime's: it needs a library of its own, "
            "and no such library is ever loaded"
        )


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from all_nodes(inner)


def captured(node: NodeProto) -> list[str]:
    """The outer values that the bodies of a node read."""
    found: dict[str, None] = {}
    for graph in graphs_of(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {s.values.name for s in graph.sparse_initializer}
        for inner in graph.node:
            found |= dict.fromkeys(n for n in (*inner.input, *captured(inner)) if n and n not in own)
            own.update(inner.output)
        found |= dict.fromkeys(o.name for o in graph.output if o.name not in own)
    return list(found)


def _check_order(graph: GraphProto) -> None:
    """ONNX wants every value computed once, before it is read."""
    known = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    known |= {s.values.name for s in graph.sparse_initializer}
    for node in graph.node:
        shown = display(node.name or node.op_type, 80)
        for name in (*node.input, *captured(node)):
            if name and name not in known:
                raise InputError(f"'{shown}' reads '{display(name, 80)}', which nothing before it computes")
        for name in node.output:
            if name and name in known:
                raise InputError(f"'{display(name, 80)}' is computed twice, again by '{shown}'")
            known.add(name)
    for output in graph.output:
        if output.name not in known:
            raise InputError(f"its output '{display(output.name, 80)}' is computed by nothing")
