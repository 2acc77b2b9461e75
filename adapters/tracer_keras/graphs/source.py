"""Reads a frozen graph or a SavedModel into the part that is run: its inputs, outputs and weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tracer.adapter import Array, LoadRequest
from tracer.errors import InputError, TracerError
from tracer.names import display
from tracer.preflight import check_regular_file
from tracer.text import first_line, some
from tracer_keras.flavour import tensorflow
from tracer_keras.graphs import cut, files
from tracer_keras.graphs.flat import CALLS, Flat, Item, Tensor, output_types, tensor_name, unique

_INITIALISES = "__saved_model_init_op"
_DEFAULT = "serving_default"
_DIGITS = re.compile(r"(\d+)")


@dataclass
class Source:
    """A graph cut down to what its outputs need.

    ``inputs`` maps the names a user feeds to placeholders, ``values`` reads each variable's array.
    """

    flat: Flat
    inputs: dict[str, str]
    outputs: list[Tensor]
    values: dict[str, Callable[[], Array]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    stated: dict[str, tuple[int | None, ...] | None] = field(default_factory=dict)

    @property
    def producer(self) -> int:
        """The version of TensorFlow's graph format that wrote it."""
        return int(self.flat.versions.producer)


def read(request: LoadRequest) -> Source:
    """The graph of ``request``, checked. Raises InputError or RefusedError, in one line."""
    assert request.path is not None
    path, kind = files.located(request.path)
    shown = display(str(request.path))
    try:
        data = path.read_bytes()
        source = (_saved_model if kind == "saved_model" else _frozen)(request, path, data)
        _needs(source)
        cut.check(source.flat, shown, len(data), request.trust)
        _readable_variables(source.flat)
    except TracerError as error:
        text = str(error)
        if shown not in text:
            error.args = (f"{shown}: {text}", *error.args[1:])
        raise
    return source


# -- frozen graphs -------------------------------------------------------------------------------------------------


def _frozen(request: LoadRequest, path: Path, data: bytes) -> Source:
    graph = cut.loads("tensorflow.core.framework.graph_pb2.GraphDef", data)
    if not graph.node:
        raise InputError("the graph holds no nodes")
    flat = Flat(graph)
    notes: list[str] = []
    fed = {tensor_name(text)[0] for text in request.inputs}
    cut.settle_switches(flat, notes, fed)
    candidates = cut.unread(flat)
    calls = {name for name in candidates if flat.items[name].op in CALLS or flat.items[name].op in flat.functions}
    flat.inline([(name, 0) for name in flat.items])
    cut.choose(flat, [(name, 0) for name in fed])
    inputs = [cut.named(flat, text, "--inputs") for text in request.inputs]
    if request.outputs:
        outputs = [cut.named(flat, text, "--outputs") for text in request.outputs]
    else:
        results = [flat.resolve((name, n))[0] for name in calls for n in range(len(output_types(flat.items[name])))]
        kept = [name for name in candidates if name not in calls]
        outputs = cut.ends(flat, dict.fromkeys([*kept, *results]))
        if len(outputs) > 1 and len({name for name, _ in outputs}) > 1:
            notes.append(f"outputs are {some([name for name, _ in outputs], 6)}: --outputs chooses")
    return _finish(flat, outputs, {name: (name, n) for name, n in inputs}, notes, bool(inputs))


def _finish(flat: Flat, outputs: list[Tensor], inputs: dict[str, Tensor], notes: list[str], stated: bool) -> Source:
    made = cut.prune(flat, outputs, inputs.values())
    names = {name: made[tensor] for name, tensor in inputs.items()}
    loose = [name for name, item in flat.items.items() if item.op in cut.PLACEHOLDERS and name not in names.values()]
    if stated and loose:
        hint = ", ".join([*inputs, *loose])
        raise InputError(f"the outputs also need {some(loose)}: --inputs {hint.replace(' ', '')}")
    names |= {name: name for name in loose}
    # What is cut off at a named tensor needs no input that lies before it.
    names = {name: node for name, node in names.items() if node in flat.items}
    return Source(flat, names, list(dict.fromkeys(map(flat.resolve, outputs))), {}, notes)


# -- SavedModels ---------------------------------------------------------------------------------------------------


def _saved_model(request: LoadRequest, path: Path, data: bytes) -> Source:
    saved = cut.loads("tensorflow.core.protobuf.saved_model_pb2.SavedModel", data)
    serving = [meta for meta in saved.meta_graphs if "serve" in meta.meta_info_def.tags]
    metas = serving or list(saved.meta_graphs)
    if not metas:
        raise InputError("the SavedModel holds no graph")
    if len(metas) > 1 and not serving:
        tags = [" ".join(meta.meta_info_def.tags) for meta in metas]
        raise InputError(f"the SavedModel holds {len(metas)} graphs ({some(tags)}), none tagged 'serve'")
    meta = metas[0]
    notes: list[str] = []
    key = _signature(meta, request)
    flat = Flat(meta.graph_def)
    if key is not None:
        signature = meta.signature_def[key]
        outputs, inputs = _tensors(signature.outputs), _tensors(signature.inputs)
        others = sorted(set(_usable(meta)) - {key})
        if others:
            notes.append(f"signature '{key}' of {some([key, *others], 6)}: --outputs NAME chooses another")
        stated = {name: _shape(info) for name, info in signature.inputs.items()}
        _held(flat, {**outputs, **inputs})
    else:
        outputs, inputs, stated = {}, {}, {}
    cut.settle_switches(flat, notes, {name for name, _ in inputs.values()})
    wanted = list(outputs.values()) or [(name, 0) for name in flat.items]
    flat.inline(wanted)
    cut.choose(flat, inputs.values())
    if request.inputs:
        inputs = {text: inputs.get(text) or cut.named(flat, text, "--inputs") for text in request.inputs}
    chosen = [name for name in request.outputs if name != key]
    if chosen:
        ends = [outputs.get(text) or cut.named(flat, text, "--outputs") for text in chosen]
    else:
        ends = list(outputs.values()) or cut.ends(flat, cut.unread(flat))
    source = _finish(flat, ends, inputs, notes, bool(inputs))
    source.stated = {name: shape for name, shape in stated.items() if name in source.inputs}
    variables = [item.name for item in flat.items.values() if item.op in _HANDLES]
    if variables:
        source.values = _values(path.parent, meta, variables)
    return source


_HANDLES = ("VarHandleOp", "Variable", "VariableV2")


def _usable(meta: Any) -> list[str]:
    """Keys of the signatures that have outputs; the one that initialises is none."""
    return [key for key, found in meta.signature_def.items() if found.outputs and key != _INITIALISES and found.inputs]


def _signature(meta: Any, request: LoadRequest) -> str | None:
    """The signature to run: named among --outputs, the default, or the only one. Raises InputError."""
    usable = _usable(meta)
    for name in request.outputs:
        if name in usable:
            return name
    for key in usable:  # one that has all the outputs named
        if request.outputs and all(name in meta.signature_def[key].outputs for name in request.outputs):
            return key
    if _DEFAULT in usable:
        return _DEFAULT
    if len(usable) == 1:
        return usable[0]
    if not usable:
        if request.outputs:
            return None
        raise InputError("the SavedModel has no signature with inputs and outputs: name tensors with --outputs")
    raise InputError(
        f"the SavedModel has no default among its signatures {some(usable, 8)}: choose with --outputs NAME"
    )


def _tensors(named: Any) -> dict[str, Tensor]:
    """The tensors of one side of a signature, which keeps no order of its own: ``output_2`` before ``output_10``."""
    out: dict[str, Tensor] = {}
    for name in sorted(named, key=lambda key: [int(part) if part.isdigit() else part for part in _DIGITS.split(key)]):
        if named[name].WhichOneof("encoding") != "name":
            raise InputError(f"'{display(name)}' in the signature is a sparse or composite tensor")
        out[name] = tensor_name(named[name].name)
    return out


def _shape(info: Any) -> tuple[int | None, ...] | None:
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)


def _held(flat: Flat, tensors: Mapping[str, Tensor]) -> None:
    for name, (node, _) in tensors.items():
        if node not in flat.items:
            raise InputError(f"the signature's '{display(name)}' is '{display(node)}', which the graph does not hold")


# -- variables -----------------------------------------------------------------------------------------------------


def _needs(source: Source) -> None:
    missing = [
        item.name for item in source.flat.items.values() if item.op in _HANDLES and item.name not in source.values
    ]
    if missing:
        raise InputError(
            f"no values for the variables {some(missing)}: the graph is not frozen; "
            "freeze it (convert_variables_to_constants), or give the SavedModel's folder with its variables"
        )


def _values(folder: Path, meta: Any, variables: list[str]) -> dict[str, Callable[[], Array]]:
    """For each variable what reads its array from the checkpoint. Raises InputError."""
    stem = folder / "variables" / "variables"
    if not Path(f"{stem}.index").exists():
        raise InputError(f"no variables/variables.index beside saved_model.pb, but it has {len(variables)} variables")
    check_regular_file(Path(f"{stem}.index"))
    for file in (folder / "variables").glob("variables.data-*"):
        check_regular_file(file)
    try:
        reader = tensorflow().train.load_checkpoint(str(stem))
        held = set(reader.get_variable_to_shape_map())
    except Exception as error:
        raise InputError(f"cannot read the variables: {first_line(error)}") from None
    keys = _restored(meta)

    def value(key: str, part: str) -> Array:
        try:
            whole = np.asarray(reader.get_tensor(key))
        except Exception as error:
            raise InputError(f"cannot read the variable '{display(key)}': {first_line(error)}") from None
        return whole[_slices(part)] if part else whole

    out: dict[str, Callable[[], Array]] = {}
    for name in variables:
        key, part = keys.get(name, (name, ""))
        if key in held:
            out[name] = lambda key=key, part=part: value(key, part)  # type: ignore[misc]
    return out


def _restored(meta: Any) -> dict[str, tuple[str, str]]:
    """Variable node to the checkpoint's key and slice, as the SavedModel's own restoring operations pair them."""
    flat = Flat(meta.graph_def)
    restore = flat.items.get(tensor_name(meta.saver_def.restore_op_name)[0])
    if restore is not None:
        function = flat.function_of(restore)
        if function is not None:
            flat.expand(restore, function, restore.inputs)
    out: dict[str, tuple[str, str]] = {}
    for item in flat.items.values():
        if item.op not in ("Assign", "AssignVariableOp") or len(item.inputs) != 2:
            continue
        name, number = flat.resolve(item.inputs[1])
        while flat.items[name].op in ("Identity", "Cast"):
            name, number = flat.resolve(flat.items[name].inputs[0])
        source = flat.items[name]
        if source.op != "RestoreV2":
            continue
        names, parts = (_strings(flat, source.inputs[index]) for index in (1, 2))
        if number < len(names):
            out[flat.resolve(item.inputs[0])[0]] = names[number], parts[number] if number < len(parts) else ""
    return out


def _strings(flat: Flat, tensor: Tensor) -> list[str]:
    item = flat.items[flat.resolve(tensor)[0]]
    if item.op != "Const":
        return []
    return [text.decode("utf-8", "replace") for text in tensorflow().make_ndarray(item.attr["value"].tensor).ravel()]


def _slices(part: str) -> tuple[slice, ...]:
    """``10,4 0,5:-`` : the first five of ten, all of four."""
    ranges = part.rpartition(" ")[2].split(":")
    out = []
    for text in ranges:
        start, _, length = text.partition(",")
        out.append(slice(None) if text == "-" else slice(int(start), int(start) + int(length)))
    return tuple(out)


def _readable_variables(flat: Flat) -> None:
    """Turn old variables, which are read as they are, into handles that are read by an operation."""
    types = tensorflow().compat.v1.AttrValue
    for item in list(flat.items.values()):
        if item.op.startswith("Ref"):  # it passes on the variable itself, which is a plain tensor from here on
            item.op = item.op.removeprefix("Ref")
        if item.op == "VarHandleOp":
            item.attr = {key: item.attr[key] for key in ("dtype", "shape") if key in item.attr}
            item.attr["shared_name"] = types(s=item.name.encode())
        elif item.op in ("Variable", "VariableV2"):
            attr = {"dtype": item.attr["dtype"]}
            reading = Item(f"{item.name}/value", "ReadVariableOp", dict(attr), [(item.name, 0)])
            item.op = "VarHandleOp"
            item.attr = {**attr, "shape": item.attr["shape"], "shared_name": types(s=item.name.encode())}
            flat.alias[item.name, 0] = (reading.name, 0)
            flat.settle()
            reading.inputs = [(item.name, 0)]
            flat.items[reading.name] = reading
            del flat.alias[item.name, 0]
        elif item.op == "ResourceGather" and not item.attr["batch_dims"].i:
            _as_gather(flat, item)
    read = {item.inputs[0][0] for item in flat.items.values() if item.op == "ReadVariableOp"}
    for item in list(flat.items.values()):
        if item.op == "VarHandleOp" and item.name not in read:  # a loop reads it inside
            name = unique(f"{item.name}/value", flat.items)
            flat.items[name] = Item(name, "ReadVariableOp", {"dtype": item.attr["dtype"]}, [(item.name, 0)])
    flat.items = {name: flat.items[name] for name in cut.ordered(flat, flat.items)}


def _as_gather(flat: Flat, item: Item) -> None:
    """Let a look-up in a variable read the variable first: its weights are then seen like all others."""
    tf = tensorflow()
    types = tf.compat.v1.AttrValue
    kind = item.attr["dtype"]
    reading = Item(f"{item.name}/weights", "ReadVariableOp", {"dtype": kind}, [item.inputs[0]])
    axis = Item(f"{item.name}/axis", "Const", {"dtype": types(type=3), "value": types(tensor=tf.make_tensor_proto(0))})
    attr = {"Tparams": kind, "Tindices": item.attr["Tindices"], "Taxis": types(type=3)}
    item.op, item.attr = "GatherV2", attr
    item.inputs = [(reading.name, 0), item.inputs[1], (axis.name, 0)]
    flat.items[reading.name], flat.items[axis.name] = reading, axis
