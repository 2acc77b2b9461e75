"""Which event a tensor came from, by identity, for eager tensors and for those of one function graph."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from tracer_keras.events import Event, flatten
from tracer_keras.flavour import tensorflow


@dataclass(frozen=True)
class Seen:
    """What is kept of an eager tensor that was handed over: its shape and type, as a tensor has them."""

    shape: Any
    dtype: Any
    op = None


class Tensors:
    """The origins of tensors. Keeps no eager tensor alive: each has a number until it ends."""

    def __init__(self, graph: Any) -> None:
        self.tf = tensorflow()
        self.graph = graph
        self._exact: dict[Hashable, Event] = {}
        self._origin: dict[Hashable, tuple[Event, ...]] = {}
        self._same: dict[Hashable, Hashable] = {}
        self._numbers: dict[int, int] = {}
        self._ends: dict[int, Any] = {}
        self._kept: list[Any] = []
        self._count = 0

    def in_graph(self) -> bool:
        """Whether operations made now go where the recorder looks (not into a loop body or another function)."""
        if self.graph is None:
            return bool(self.tf.executing_eagerly())
        return not self.tf.executing_eagerly() and self.tf.compat.v1.get_default_graph() is self.graph

    def trying(self) -> bool:
        """Whether Keras only builds what runs now: it calls a new layer once in a graph that it throws away."""
        name = getattr(self.tf.compat.v1.get_default_graph(), "name", "")
        return str(name).startswith(("scratch_graph", "keras_graph", "keras_scratch_graph"))

    def is_tensor(self, value: Any) -> bool:
        """Whether ``value`` is a tensor that this run can see; other graphs' tensors are not."""
        if not self.tf.is_tensor(value):
            return False
        if self.graph is None or self._components(value):
            return True
        graph = getattr(value, "graph", None) if self._symbolic(value) else self.graph
        return graph is self.graph

    def _symbolic(self, value: Any) -> bool:
        return not hasattr(value, "_numpy") and hasattr(value, "op")

    def _components(self, value: Any) -> list[Any]:
        """The tensors inside a ragged or sparse one; none for a plain tensor."""
        if isinstance(value, (self.tf.Tensor, self.tf.Variable)):
            return []
        if isinstance(value, self.tf.__internal__.CompositeTensor):
            return list(self.tf.nest.flatten(value, expand_composites=True))
        return []

    def key(self, value: Any) -> Hashable:
        if self.graph is not None and self._symbolic(value):
            return value.name, id(value.graph)
        identity = id(value)
        if identity not in self._numbers:
            self._count += 1
            self._numbers[identity] = self._count
            try:
                self._ends[identity] = weakref.ref(value, functools.partial(self._forget, identity))
            except TypeError:  # what cannot be watched is kept, so that its identity is not used twice
                self._kept.append(value)
        return self._numbers[identity]

    def _forget(self, identity: int, _: object) -> None:
        self._numbers.pop(identity, None)
        self._ends.pop(identity, None)

    def handed_over(self, value: Any) -> Any:
        """What an event keeps of its tensor once nobody will read its values through the event."""
        plain = self.graph is None and isinstance(value, self.tf.Tensor)
        return Seen(value.shape, value.dtype) if plain else value

    def canonical(self, value: Any) -> Hashable:
        key = self.key(value)
        while key in self._same:
            key = self._same[key]
        return key

    def same(self, first: Any, second: Any) -> bool:
        """Whether both are the very same tensor, looking through identity operations."""
        return self.canonical(first) == self.canonical(second)

    def link(self, value: Any, source: Any) -> None:
        """Say that ``value`` is ``source`` again (an identity operation)."""
        target = self.canonical(source)
        key = self.key(value)
        if key != target:
            self._same[key] = target

    def register(self, event: Event) -> None:
        """``event`` is the node of its tensor from now on; containers never take a tensor over."""
        for part in [event.value, *self._components(event.value)]:
            key = self.canonical(part)
            self._exact.setdefault(key, event)
            if event.alias is None or event.role == "layer":
                self._origin[key] = (event,)

    def forget(self, events: Iterable[Event]) -> None:
        """These events are no nodes of their own after all."""
        gone = {id(event) for event in events}
        self._exact = {key: event for key, event in self._exact.items() if id(event) not in gone}

    def at(self, value: Any) -> Event | None:
        """The stored event of this very tensor, if there is one."""
        event = self._exact.get(self.canonical(value))
        return event.stored() if event is not None else None

    def unknown(self, value: Any) -> bool:
        return self.is_tensor(value) and self.canonical(value) not in self._exact

    def pass_on(self, value: Any, origins: tuple[Event, ...]) -> None:
        """``value`` is no node itself, but what reads it reads ``origins``."""
        self._origin.setdefault(self.canonical(value), origins)

    def origins(self, value: Any) -> tuple[Event, ...]:
        """The events that ``value`` comes from; none for constants and weights."""
        parts = self._components(value)
        if parts and self.canonical(value) not in self._origin:
            return tuple(dict.fromkeys(event for part in parts for event in self.origins(part)))
        found = self._origin.get(self.canonical(value))
        if found is None:
            found = self._walk_back(value) if self._symbolic(value) and self.graph is not None else ()
        return tuple(dict.fromkeys(event.final() for event in found))

    def _walk_back(self, value: Any) -> tuple[Event, ...]:
        """Origins through operations that no callback reported, such as calls of nested functions."""
        if value.graph is not self.graph:
            return ()
        found: dict[Event, None] = {}
        pending, seen = [value], set()
        while pending:
            tensor = pending.pop()
            key = self.canonical(tensor)
            if key in seen:
                continue
            seen.add(key)
            known = self._origin.get(key)
            if known is not None:
                found.update(dict.fromkeys(known))
            elif tensor.op.type not in ("Shape", "Size", "Rank"):
                pending.extend(tensor.op.inputs)
        result = tuple(found)
        self._origin[self.canonical(value)] = result
        return result

    def parents(self, values: Any) -> tuple[Event, ...]:
        """The events behind all tensors in nested ``values``, in order."""
        found: dict[Event, None] = {}
        for _, leaf in flatten(values):
            if self.is_tensor(leaf):
                found.update(dict.fromkeys(self.origins(leaf)))
        return tuple(found)

    def any_parent(self, values: Iterable[Any]) -> tuple[Event, ...]:
        return self.parents(list(values))
