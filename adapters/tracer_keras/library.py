"""The functions that a graph calls, under names that no other graph uses."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from importlib import import_module
from typing import Any

_NUMBERS = itertools.count()


def rename_functions(graph: Any) -> str:
    """Give all functions of ``graph`` (a GraphDef) names of its own: TensorFlow forgets a name with its first graph.

    The suffix that they have now, for more functions.
    """
    suffix = f"_tracer_{next(_NUMBERS)}"
    names = {function.signature.name: function.signature.name + suffix for function in graph.library.function}
    for function in graph.library.function:
        function.signature.name = names[function.signature.name]
    for node in _nodes(graph):
        node.op = names.get(node.op, node.op)
        for value in node.attr.values():
            for function in _named(value):
                function.name = names.get(function.name, function.name)
    # Nobody asks for gradients, whose functions go by names of their own.
    del graph.library.gradient[:]
    return suffix


def register(graph: Any, user: object) -> None:
    """Let TensorFlow's runtime know the functions of ``graph`` as long as ``user`` lives; importing does not."""
    context = import_module("tensorflow.python.eager.context").context()
    for function in graph.library.function:
        context.add_function_def(function)
        weakref.finalize(user, context.remove_function, function.signature.name).atexit = False


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _named(value: Any) -> list[Any]:
    if value.WhichOneof("value") == "func":
        return [value.func]
    return list(value.list.func) if value.WhichOneof("value") == "list" else []
