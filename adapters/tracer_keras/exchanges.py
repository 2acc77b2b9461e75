"""Puts an operation of ours between tensors of a graph and all that reads them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from tracer.adapter import Array, Exchange
from tracer_keras.vocabulary import words

NAME = "tracer_exchanged"
_PASSING = words("Identity IdentityN StopGradient PreventGradient EnsureShape CheckNumerics Snapshot")


@dataclass(frozen=True)
class Wanted:
    """A node, the tensor of the graph that it is (``op`` or ``op:1``) and the number of that tensor's type."""

    name: str
    tensor: str
    dtype: int


class Exchanges:
    """The operations through which the tensors of one graph are exchanged, one after the other.

    ``graph`` (a GraphDef) is changed. The operations of ``dropped`` are taken out of it; nothing may read them. The
    values of nodes in ``known`` are given in these numpy types without being computed: where there are any, all that no
    other wanted node needs is taken out, but for placeholders and what is in ``kept``.
    """

    def __init__(
        self,
        graph: Any,
        wanted: Sequence[Wanted],
        dropped: Collection[str] = (),
        known: Mapping[str, Any] | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.operations: list[str] = []
        """Names of the exchanging operations, in the order in which they run."""
        self.names: list[str] = []
        """The names of their nodes."""
        self._exchange: Exchange | None = None
        self._known: Mapping[str, Array] = {}
        self.raised: BaseException | None = None
        """What ``exchange`` raised in the last run."""
        self._kept: list[Any] = []
        """The registry of functions that TensorFlow calls holds none of them."""
        self.shapes: dict[str, tuple[int, ...]] = {}
        """The shapes of what took the place of a value of another shape, by node, in the last run."""
        self.passed: list[str] = []
        """The nodes that the last run came past."""
        _drop(graph, dropped)
        self._insert(graph, wanted, known or {}, kept)

    # -- the graph ---------------------------------------------------------------------------------------------

    def _insert(self, graph: Any, wanted: Sequence[Wanted], known: Mapping[str, Any], kept: Collection[str]) -> None:
        nodes = {node.name: node for node in graph.node}
        chosen: dict[str, Wanted] = {}
        ends = {_canonical(item.tensor) for item in wanted}
        for item in wanted:
            chosen[_source(nodes, item.tensor, ends)] = item
        order = _order(graph, chosen)
        taken = set(nodes)
        instead: dict[str, str] = {}
        for number, tensor in enumerate(order):
            name = NAME if not number else f"{NAME}_{number}"
            while name in taken:
                name += "_"
            instead[tensor] = name
        for node in graph.node:
            for place, text in enumerate(node.input):
                if text[:1] != "^" and (other := instead.get(_canonical(text))) is not None:
                    node.input[place] = other
        if known:
            computed = {name: tensor for tensor, name in instead.items() if chosen[tensor].name not in known}
            needed = _needed(nodes, computed, set(instead.values()))
            needed |= {*kept, *(name for name, node in nodes.items() if node.op == "Placeholder")}
            _drop(graph, nodes.keys() - needed)
            instead = {tensor: name for tensor, name in instead.items() if name in needed}
        registry = import_module("tensorflow.python.ops.script_ops")._py_funcs
        before = ""
        for tensor, name in instead.items():
            item = chosen[tensor]
            self.operations.append(name)
            self.names.append(item.name)
            given = item.name in known
            call: Callable[..., Array] = functools.partial(self._call, item.name)
            if given:
                call = functools.partial(self._give, item.name, known[item.name])
            self._kept.append(call)
            reads = [*([] if given else [tensor]), *([f"^{before}"] if before else [])]
            node = graph.node.add(name=name, op="PyFunc", input=reads)
            node.attr["token"].s = registry.insert(call).encode()
            for side in ("Tin", "Tout"):
                node.attr[side].list.SetInParent()
                if side == "Tout" or not given:
                    node.attr[side].list.type.append(item.dtype)
            before = name

    # -- a run -------------------------------------------------------------------------------------------------

    def run(self, exchange: Exchange, run: Callable[[], object], known: Mapping[str, Array] | None = None) -> None:
        """Call ``run`` and let ``exchange`` have the tensors. Raises what it raises, and what ``exchange`` raises."""
        self._exchange, self._known, self.raised = exchange, known or {}, None
        self.shapes, self.passed = {}, []
        try:
            run()
        except Exception:
            if self.raised is not None:
                raise self.raised from None
            raise
        finally:
            self._exchange, self._known = None, {}

    def _give(self, name: str, dtype: Any) -> Array:
        try:
            out = np.ascontiguousarray(self._known[name], dtype)
        except BaseException as error:
            self.raised = error
            raise
        self.passed.append(name)
        return out

    def _call(self, name: str, value: Any) -> Array:
        array = np.asarray(value)  # TensorFlow hands a scalar over as one
        assert self._exchange is not None
        try:
            out = exchanged(self._exchange, name, array)
        except BaseException as error:
            self.raised = error
            raise
        if out.shape != array.shape:
            self.shapes[name] = out.shape
        self.passed.append(name)
        return out


def exchanged(exchange: Exchange, name: str, value: Array) -> Array:
    """What takes the place of ``value``, in its type."""
    given = exchange(name, value) if exchange.wants(name) else None
    return value if given is None else np.asarray(given).astype(value.dtype, copy=False)


# -- graphs --------------------------------------------------------------------------------------------------------


def _canonical(text: str) -> str:
    return text.removesuffix(":0")


def _drop(graph: Any, dropped: Collection[str]) -> None:
    gone = {f"^{name}" for name in dropped}
    kept = [node for node in graph.node if node.name not in dropped]
    for node in kept:
        if any(text in gone for text in node.input):
            inputs = [text for text in node.input if text not in gone]
            del node.input[:]
            node.input.extend(inputs)
    if dropped:
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _needed(nodes: Mapping[str, Any], computed: Mapping[str, str], exchanging: Collection[str]) -> set[str]:
    """The operations that exchanging ones need, given the tensors that those read; themselves among them."""
    found, queue = set(computed), [*computed]
    while queue:
        name = queue.pop()
        # What is given reads nothing.
        reads = [computed[name]] if name in computed else nodes[name].input if name not in exchanging else []
        for text in reads:
            other = text.lstrip("^").partition(":")[0]
            if other not in found:
                found.add(other)
                queue.append(other)
    return found


def _source(nodes: Mapping[str, Any], tensor: str, ends: Collection[str]) -> str:
    """The tensor that ``tensor`` is the same as: others may read that one directly."""
    at = _canonical(tensor)
    while True:
        name, _, number = at.partition(":")
        node = nodes[name]
        if node.op not in _PASSING:
            return at
        before = _canonical(node.input[int(number or 0)])
        if before in ends or nodes[before.partition(":")[0]].op == "Placeholder":
            return at
        at = before


def _order(graph: Any, chosen: Mapping[str, Wanted]) -> list[str]:
    """The tensors in the order given where none needs one behind it, else in that of the graph's operations."""
    place = {tensor: number for number, tensor in enumerate(chosen)}
    needed: dict[str, int] = {}
    for _ in range(2 if any(node.op == "NextIteration" for node in graph.node) else 1):
        for node in graph.node:
            last = needed.get(node.name, -1)
            for text in node.input:
                source = _canonical(text)
                last = max(last, place.get(source, -1), needed.get(source.lstrip("^").partition(":")[0], -1))
            needed[node.name] = last
    if all(needed[tensor.partition(":")[0]] < number for tensor, number in place.items()):
        return list(chosen)
    position = {node.name: number for number, node in enumerate(graph.node)}
    return sorted(chosen, key=lambda tensor: position[tensor.partition(":")[0]])
