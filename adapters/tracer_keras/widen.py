"""Rewrites a graph so that it computes in float64.

Every tensor of a narrower floating type becomes one of float64, constants and weights with the values that they have
in their own type. An operation that cannot be computed so runs in its own type between two casts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from tracer_keras.flavour import tensorflow
from tracer_keras.graphs.allowed import RANDOM
from tracer_keras.graphs.flat import op_def
from tracer_keras.vocabulary import words
from tracer_keras.wide_operations import Replacements

FLOAT, DOUBLE, HALF, BFLOAT16 = 1, 2, 19, 14
"""TensorFlow's numbers of the floating types."""
NARROW = frozenset({FLOAT, HALF, BFLOAT16})
_OWN_TYPE = RANDOM | words(
    "Bitcast NextAfter PyFunc PyFuncStateless EagerPyFunc DecodeRaw DecodePaddedRaw EncodeBase64 AsString "
    "StringToNumber VariableShape"
)
"""Operations that mean something else in another type: they draw other numbers, or look at the bits."""
_STATE = ("Variable", "VarHandle", "Resource", "LookupTable", "HashTable", "Iterator", "Dataset")
"""Parts of the names of operations that touch what is kept outside of the graph, in the type that it has there."""
_SMALL = 64
"""Constants with more elements are cast where they are read instead of being written out twice as long."""


def wide(dtype: int) -> int:
    """The number of the type that takes the place of ``dtype``."""
    return DOUBLE if dtype in NARROW else dtype


def is_narrow(dtype: Any) -> bool:
    """Whether a TensorFlow type becomes float64."""
    return dtype.as_datatype_enum in NARROW


def widen(graph: Any, suffix: str, ours: Collection[str] = ()) -> None:
    """Let ``graph`` (a GraphDef) compute in float64; its placeholders become float64 too.

    Args:
        suffix: what the names of further functions end with.
        ours: operations that take any type.
    """
    functions = {function.signature.name: function for function in graph.library.function}
    replacements = Replacements(suffix)
    nodes = _Body(graph.node, functions, replacements, ours, inside=False).rewritten()
    del graph.node[:]
    graph.node.extend(nodes)
    for function in functions.values():
        _function(function, functions, replacements)
    graph.library.function.extend(replacements.functions)


def _function(function: Any, functions: Mapping[str, Any], replacements: Replacements) -> None:
    body = _Body(function.node_def, functions, replacements, (), inside=True)
    nodes = body.rewritten()
    del function.node_def[:]
    function.node_def.extend(nodes)
    for name, text in function.ret.items():
        function.ret[name] = body.renamed.get(text, text)
    for side in (function.signature.input_arg, function.signature.output_arg):
        for argument in side:
            argument.type = wide(argument.type)
            argument.ClearField("experimental_full_type")
    # Types of what handles and lists hold.
    function.ClearField("arg_attr")
    function.attr.pop("_input_shapes", None)


# -- one body ------------------------------------------------------------------------------------------------------


@dataclass
class _Argument:
    """One tensor that an operation reads or gives: its argument, its number within it, its type before and after."""

    name: str
    number: int
    before: int
    after: int


@dataclass
class _Body:
    """The nodes of a graph or function while they are rewritten."""

    nodes: Iterable[Any]
    functions: Mapping[str, Any]
    replacements: Replacements
    ours: Collection[str]
    inside: bool
    renamed: dict[str, str] = field(default_factory=dict)
    out: list[Any] = field(default_factory=list)

    def rewritten(self) -> list[Any]:
        self.taken = {node.name for node in self.nodes}
        originals = [type(node).FromString(node.SerializeToString()) for node in self.nodes]
        for node in originals:
            node.ClearField("experimental_type")
            self._node(node)
        if self.renamed:
            casts = set(self.renamed.values())
            for node in self.out:
                if node.op == "Cast" and self._of_cast(node.name) in casts:
                    continue  # it reads the very tensor
                for place, text in enumerate(node.input):
                    node.input[place] = self.renamed.get(self._plain(text), text)
        return self.out

    def _plain(self, text: str) -> str:
        return text if self.inside else text.removesuffix(":0")

    def _of_cast(self, name: str) -> str:
        return f"{name}:y:0" if self.inside else name

    def _node(self, node: Any) -> None:
        definition = self.functions[node.op].signature if node.op in self.functions else op_def(node.op)
        for attr in definition.attr if node.op not in self.functions else ():
            if attr.HasField("default_value") and attr.name not in node.attr:  # files leave them out
                node.attr[attr.name].CopyFrom(attr.default_value)
        if node.op == "Const":
            self._constant(node)
            return
        replaced = self.replacements.of(node)
        if replaced is not None:
            self._replace(node, definition, replaced)
            return
        widened = self._widened(node, definition)
        before = (_arguments(definition.input_arg, node.attr), _arguments(definition.output_arg, node.attr))
        own = node.op in self.functions  # its arguments are widened with it
        for key, value in widened.items():
            node.attr[key].CopyFrom(value)
        after = (_arguments(definition.input_arg, node.attr), _arguments(definition.output_arg, node.attr))
        pairs = [
            [
                _Argument(name, number, old, wide(old) if own else new)
                for (name, number, old), (_, _, new) in zip(b, a, strict=True)
            ]
            for b, a in zip(before, after, strict=True)
        ]
        for place, argument in enumerate(pairs[0]):
            if argument.after != wide(argument.before):
                node.input[place] = self._cast(node.input[place], wide(argument.before), argument.after, node.name)
        self.out.append(node)
        for place, argument in enumerate(pairs[1]):
            if argument.after != wide(argument.before):
                self._cast_output(node.name, place, argument)

    def _widened(self, node: Any, definition: Any) -> dict[str, Any]:
        """The attributes that change so that ``node`` computes in float64; none where it cannot."""
        kept = node.op in _OWN_TYPE or any(part in node.op for part in _STATE)
        if kept and node.name not in self.ours:
            return {}
        types = [attr.name for attr in definition.attr if attr.type in ("type", "list(type)")]
        found = {name: value for name in types if (value := _widened(node.attr[name])) is not None}
        return found if _computed(node.op, definition, node, found) else {}

    def _cast_output(self, name: str, place: int, argument: _Argument) -> None:
        text = f"{name}:{place}" if place else name
        if self.inside:
            text = f"{name}:{argument.name}:{argument.number}"
        self.renamed[text] = self._cast(text, argument.after, wide(argument.before), name)

    def _cast(self, text: str, source: int, target: int, name: str) -> str:
        cast = f"{name}/cast"
        number = 0
        while cast in self.taken:
            number += 1
            cast = f"{name}/cast_{number}"
        self.taken.add(cast)
        node = _new_node(name=cast, op="Cast", input=[text])
        node.attr["SrcT"].type = source
        node.attr["DstT"].type = target
        node.attr["Truncate"].b = False
        self.out.append(node)
        return self._of_cast(cast)

    def _constant(self, node: Any) -> None:
        tensor = node.attr["value"].tensor
        self.out.append(node)
        if tensor.dtype not in NARROW:
            return
        tf = tensorflow()
        size = 1
        for dim in tensor.tensor_shape.dim:
            size *= dim.size
        if size > _SMALL:
            self._cast_output(node.name, 0, _Argument("output", 0, tensor.dtype, tensor.dtype))
            return
        value = tf.make_ndarray(tensor).astype("float64")
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype=tf.float64, shape=value.shape))
        node.attr["dtype"].type = DOUBLE

    def _replace(self, node: Any, definition: Any, function: Any) -> None:
        """Let ``node`` call ``function``, which gives the same outputs."""
        outputs = _arguments(definition.output_arg, node.attr)
        if self.inside:
            for number, (name, index, _) in enumerate(outputs):
                self.renamed[f"{node.name}:{name}:{index}"] = f"{node.name}:output:{number}"
        node.op = "PartitionedCall"
        node.attr.clear()
        for side, arguments in (("Tin", function.signature.input_arg), ("Tout", function.signature.output_arg)):
            node.attr[side].list.SetInParent()
            node.attr[side].list.type.extend(argument.type for argument in arguments)
        node.attr["f"].func.name = function.signature.name
        self.out.append(node)


def _new_node(**fields: Any) -> Any:
    return tensorflow().compat.v1.NodeDef(**fields)


def _widened(value: Any) -> Any:
    """The attribute with float64 in the place of narrower types; None where it names none."""
    kind = value.WhichOneof("value")
    if kind == "type" and value.type in NARROW:
        return type(value)(type=DOUBLE)
    if kind == "list" and any(dtype in NARROW for dtype in value.list.type):
        out = type(value)()
        out.list.type.extend(map(wide, value.list.type))
        return out
    return None


def _arguments(arguments: Iterable[Any], attr: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Name, number within that name and type number of every tensor on one side of an operation."""
    out: list[tuple[str, int, int]] = []
    for argument in arguments:
        if argument.type_list_attr:
            out += [(argument.name, n, dtype) for n, dtype in enumerate(attr[argument.type_list_attr].list.type)]
            continue
        dtype = attr[argument.type_attr].type if argument.type_attr else argument.type
        out += [(argument.name, n, dtype) for n in range(attr[argument.number_attr].i if argument.number_attr else 1)]
    return out


def _computed(op: str, definition: Any, node: Any, widened: Mapping[str, Any]) -> bool:
    """Whether TensorFlow has the operation with these attributes, on a CPU."""
    for attr in definition.attr:
        allowed = attr.allowed_values.list.type
        if attr.name in widened and allowed and not set(_types(widened[attr.name])) <= set(allowed):
            return False
    kernels = _kernels(op)
    return not kernels or any(
        all(set(_types(widened.get(name, node.attr[name]))) <= allowed for name, allowed in kernel.items())
        for kernel in kernels
    )


def _types(value: Any) -> list[int]:
    return [value.type] if value.WhichOneof("value") == "type" else list(value.list.type)


@cache
def _kernels(op: str) -> list[dict[str, frozenset[int]]]:
    """The types that each kernel of an operation takes, by attribute."""
    module = import_module("tensorflow.python.framework.kernels")
    return [
        {c.name: frozenset(c.allowed_values.list.type) for c in kernel.constraint if c.allowed_values.list.type}
        for kernel in module.get_registered_kernels_for_op(op).kernel
        if kernel.device_type in ("CPU", "DEFAULT")
    ]
