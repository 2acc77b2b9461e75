"""Passes what one run of a plan makes on to a sink: each stored node once, and its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracer.adapter import Array, NotRecorded, Sink
from tracer_keras import runner
from tracer_keras.events import Event


class Handover:
    """The way from a run to ``sink``.

    Args:
        plan: whose nodes are wanted.
        arrays: the inputs as the user gave them, which is how they are recorded.
    """

    def __init__(self, plan: runner.Plan, arrays: Mapping[str, Array], sink: Sink) -> None:
        self.plan = plan
        self.arrays = arrays
        self.sink = sink
        self._waiting = {node.name: node for node in plan.structure.stored() if sink.wants(node.name)}
        self._lead()

    def take(self, what: tuple[str, Any], value: Array) -> None:
        """A tensor of :meth:`runner.Plan.run`."""
        kind, key = what
        if kind == "value":
            self._value(key, value)
        elif isinstance(key, tuple):
            self.sink.weight_gradient(key[0], key[1], value, owned=True)
        elif self.sink.wants(key):
            self.sink.gradient(key, value, owned=True)

    def event(self, event: Event) -> None:
        """A tensor of an eager run."""
        name = self.plan.names.get(event.key(), "")
        if name in self._waiting:
            why = runner.reason(event.value)
            self._value(name, NotRecorded(why) if why is not None else runner.array(event.value))

    def finish(self, flat: Mapping[Any, str]) -> None:
        """Say of every node why it has no tensor, or by ``flat`` why no gradient."""
        for name in list(self._waiting):
            self._value(name, NotRecorded(self.plan.skipped.get(name, "not seen when the model ran")))
        for key, why in flat.items():
            if isinstance(key, tuple):
                self.sink.weight_gradient(key[0], key[1], NotRecorded(why))
            elif self.sink.wants(key):
                self.sink.gradient(key, NotRecorded(why))

    def _value(self, name: str, value: Array | NotRecorded) -> None:
        if self._waiting.pop(name, None) is not None:
            self.sink(name, value, owned=True)
            self._lead()

    def _lead(self) -> None:
        """Hand over what comes next in the structure's order and waits for no run."""
        while self._waiting:
            name, node = next(iter(self._waiting.items()))
            if node.role == "input":
                self.sink(name, self.arrays[name])
            elif name in self.plan.skipped:
                self.sink(name, NotRecorded(self.plan.skipped[name]))
            else:
                return
            del self._waiting[name]
