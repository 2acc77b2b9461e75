"""A TensorFlow graph as plain nodes, with its calls of functions written out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from tracer.errors import InputError, RefusedError
from tracer.names import display

Tensor = tuple[str, int]
"""A node's name and the number of its output."""

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_ANONYMOUS = re.compile(r"(Stateful)?PartitionedCall(_\d+)?$")
_DEEPEST = 100
_MOST_NODES = 300_000
_FUSED = "api_implements"
"""Marks a function that is one of several ways to compute the same layer (LSTM, GRU): the layer stays one node."""


@dataclass
class Item:
    """One operation: its type, attributes as protobuf values, and what it reads."""

    name: str
    op: str
    attr: dict[str, Any]
    inputs: list[Tensor] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)


class Flat:
    """The nodes of a graph by name, in the file's order. Calls are written out on :meth:`inline`.

    Raises InputError for a graph that refers to what it does not hold.
    """

    def __init__(self, graph: Any) -> None:
        self.versions = graph.versions
        self.functions: dict[str, Any] = {f.signature.name: f for f in graph.library.function}
        self.items: dict[str, Item] = {}
        self.alias: dict[Tensor, Tensor] = {}
        for node in graph.node:
            if node.name in self.items:
                raise InputError(f"the graph holds two nodes named '{display(node.name)}'")
            self.items[node.name] = _item(node)
        self._whole()

    def _whole(self) -> None:
        for item in self.items.values():
            for name in (*(tensor[0] for tensor in item.inputs), *item.controls):
                if name not in self.items:
                    raise InputError(
                        f"the graph is not whole: node '{display(item.name)}' reads '{display(name)}', "
                        "which the graph does not hold"
                    )

    def resolve(self, tensor: Tensor) -> Tensor:
        """The tensor that ``tensor`` stands for after calls were written out and branches chosen."""
        seen: set[Tensor] = set()
        while tensor in self.alias and tensor not in seen:
            seen.add(tensor)
            tensor = self.alias[tensor]
        return tensor

    def settle(self) -> None:
        """Let every node read what it reads directly."""
        for item in self.items.values():
            item.inputs = [self.resolve(tensor) for tensor in item.inputs]
            item.controls = [name for name in item.controls if name in self.items]

    def function_of(self, item: Item) -> Any:
        """The function that ``item`` calls, None when it calls none."""
        if item.op in self.functions:
            return self.functions[item.op]
        if item.op in CALLS:
            return self.functions.get(item.attr["f"].func.name)
        return None

    def inline(self, wanted: Iterable[Tensor]) -> None:
        """Write out every call that ``wanted`` needs. Raises RefusedError for functions without end."""
        reached: set[str] = set()
        pending = [(tensor[0], 0) for tensor in wanted]
        while pending:
            name, depth = pending.pop()
            if name in reached or name not in self.items:
                continue
            reached.add(name)
            item = self.items[name]
            function = self.function_of(item)
            if function is not None and _FUSED not in function.attr:
                if depth >= _DEEPEST:
                    raise RefusedError(f"function '{display(function.signature.name)}' calls itself without end")
                pending += [(tensor[0], depth + 1) for tensor in self.expand(item, function, item.inputs)]
                pending += [(tensor[0], depth) for tensor in item.inputs]
                continue
            pending += [(self.resolve(tensor)[0], depth) for tensor in item.inputs]
        self.settle()

    def expand(self, call: Item, function: Any, arguments: list[Tensor]) -> list[Tensor]:
        """Replace ``call`` by the body of ``function``; what its outputs are now."""
        scope = "" if _ANONYMOUS.search(call.name) else f"{call.name}/"
        outer = _ANONYMOUS.sub("", call.name)
        bodies = list(function.node_def)
        if len(self.items) + len(bodies) > _MOST_NODES:
            raise RefusedError(f"the graph's functions unfold to over {_MOST_NODES:,} operations")
        renamed: dict[str, str] = {}
        taken = self.items.keys()
        for node in bodies:
            fresh = f"{scope or outer}{node.name}"
            if fresh in taken:
                fresh = unique(f"{call.name}/{node.name}", taken)
            renamed[node.name] = fresh
            self.items[fresh] = Item(fresh, node.op, {**defaults(node.op), **_bound(node.attr, call.attr)})
        names = [argument.name for argument in function.signature.input_arg]
        if len(names) != len(arguments):
            raise InputError(f"node '{display(call.name)}' calls a function with {len(names)} arguments")
        known = dict(zip(names, arguments, strict=True))
        offsets = {node.name: self._offsets(self.items[renamed[node.name]]) for node in bodies}

        def tensor(text: str) -> Tensor:
            parts = text.split(":")
            if parts[0] in renamed:
                if len(parts) < 2 or parts[1] not in offsets[parts[0]]:
                    raise InputError(f"the function '{display(function.signature.name)}' is damaged at '{text}'")
                return str(renamed[parts[0]]), int(offsets[parts[0]][parts[1]]) + int(parts[2] if len(parts) > 2 else 0)
            if parts[0] in known:
                argument: Tensor = known[parts[0]]
                return argument
            raise InputError(
                f"the function '{display(function.signature.name)}' is not whole: it reads '{display(text)}'"
            )

        for node in bodies:
            item = self.items[renamed[node.name]]
            item.inputs = [tensor(text) for text in node.input if not text.startswith("^")]
            item.controls = [renamed[text[1:]] for text in node.input if text[:1] == "^" and text[1:] in renamed]
        results = [tensor(function.ret[out.name]) for out in function.signature.output_arg]
        for number, result in enumerate(results):
            self.alias[call.name, number] = result
        return results

    def _offsets(self, item: Item) -> dict[str, int]:
        """Where each named output of an operation begins among all its outputs."""
        function = self.functions.get(item.op)
        definition = function.signature if function is not None else op_def(item.op)
        out, at = {}, 0
        for argument in definition.output_arg:
            out[argument.name] = at
            if argument.number_attr:
                at += max(0, item.attr[argument.number_attr].i)
            elif argument.type_list_attr:
                at += len(item.attr[argument.type_list_attr].list.type)
            else:
                at += 1
        return out


def op_def(op: str) -> Any:
    """TensorFlow's definition of an operation. Raises InputError for one it does not have."""
    found = import_module("tensorflow.python.framework.op_def_registry").get(op)
    if found is None:
        raise InputError(f"this TensorFlow has no operation '{display(op)}'")
    return found


def is_operation(name: str) -> bool:
    """Whether this TensorFlow has an operation of that name."""
    return import_module("tensorflow.python.framework.op_def_registry").get(name) is not None


@cache
def defaults(op: str) -> dict[str, Any]:
    """The attributes that an operation has when a file leaves them out, as SavedModels do."""
    found = import_module("tensorflow.python.framework.op_def_registry").get(op)
    if found is None:
        return {}
    return {attr.name: attr.default_value for attr in found.attr if attr.HasField("default_value")}


def output_types(item: Item) -> list[int]:
    """The type numbers of an operation's outputs."""
    out: list[int] = []
    for argument in op_def(item.op).output_arg:
        if argument.type_list_attr:
            out += item.attr[argument.type_list_attr].list.type
            continue
        kind = item.attr[argument.type_attr].type if argument.type_attr else argument.type
        out += [kind] * (item.attr[argument.number_attr].i if argument.number_attr else 1)
    return out


def unique(name: str, taken: Any) -> str:
    """``name``, or ``name_1`` and so on when that is taken."""
    fresh, number = name, 0
    while fresh in taken:
        number += 1
        fresh = f"{name}_{number}"
    return fresh


def _bound(attributes: Any, outer: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a node in a function's body, with those of the call where it names them."""
    return {
        key: outer.get(value.placeholder, value) if value.WhichOneof("value") == "placeholder" else value
        for key, value in attributes.items()
    }


def _item(node: Any) -> Item:
    item = Item(node.name, node.op, {**defaults(node.op), **node.attr})
    for text in node.input:
        if text.startswith("^"):
            item.controls.append(text[1:])
        else:
            item.inputs.append(tensor_name(text))
    return item


def tensor_name(text: str) -> Tensor:
    """``conv/Relu:0`` or ``conv/Relu`` as node and output number."""
    name, colon, number = text.rpartition(":")
    if colon and number.isdigit():
        return name, int(number)
    return text, 0


def called(item: Item) -> Iterator[str]:
    """Names of the functions that an operation's attributes name."""
    for value in item.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        elif value.WhichOneof("value") == "list":
            yield from (function.name for function in value.list.func)
