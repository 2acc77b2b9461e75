"""What a recorded layer computes, in terms that no framework owns: operations, settings, weights, and how they run.

A :class:`Step` is one node read from a recording. Its settings and weights are in one convention whatever framework
it came from, so that those of two steps can be compared, exchanged, and run by :mod:`tracer.causes.operations` in
float64. Tensors keep the axes in which they were recorded; ``channels`` among the settings says which axis holds the
channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

GIVEN = "was_given"
"""Setting of a step that cannot be read and stands for what it gave: nothing is known of how it comes to that."""


class Unknown(Exception):
    """A step cannot be computed here; the message says why, in words for the user."""


@dataclass(frozen=True)
class Step:
    """One operation.

    Attributes:
        name: of the node whose tensor it makes.
        kind: the operation, a word of :mod:`tracer.kinds`.
        settings: what it does, in the words of :mod:`tracer.causes.operations`.
        weights: what it has learnt, by role, in that module's layouts, float64.
        inputs: names of the tensors that it reads, in order.
        shape: of the tensor that it makes, where that is known.
        source: ``file:line`` of the call, where known.
    """

    name: str
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Array] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    source: str | None = None

    def set(self, **settings: Any) -> Step:
        """The step with other settings."""
        return replace(self, settings={**self.settings, **settings})

    def weigh(self, **weights: Array | None) -> Step:
        """The step with other weights; None takes one away."""
        found = {**self.weights, **weights}
        return replace(self, weights={role: value for role, value in found.items() if value is not None})


@dataclass(frozen=True)
class Program:
    """Steps in the order in which they run, the last of which makes the tensor that is asked for."""

    steps: tuple[Step, ...]

    @property
    def output(self) -> str:
        return self.steps[-1].name

    @property
    def last(self) -> Step:
        return self.steps[-1]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The tensors that it reads and does not make, in order, each once."""
        made = {step.name for step in self.steps}
        return tuple(dict.fromkeys(name for step in self.steps for name in step.inputs if name not in made))

    def step(self, name: str) -> Step:
        """Raises KeyError where no step has that name."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def with_step(self, step: Step) -> Program:
        """The program with the step of that name replaced."""
        return Program(tuple(step if step.name == old.name else old for old in self.steps))

    def without(self, name: str, instead: str | None = None) -> Program:
        """The program without a step: what read its tensor reads its first input, or ``instead``.

        A program of that step alone hands its input on. Raises ValueError where nothing can take its place.
        """
        gone = self.step(name)
        other = instead or (gone.inputs[0] if gone.inputs else None)
        kept = [step for step in self.steps if step.name != name]
        if other is None:
            raise ValueError(f"{name} cannot be left out")
        if gone is self.last:
            return Program((*kept, replace(gone, kind="identity", settings={}, weights={}, inputs=(other,))))
        return Program(tuple(_reading(step, {name: other}) for step in kept))

    def insert(self, step: Step, after: str) -> Program:
        """The program with ``step`` put behind ``after``, one of its inputs: what read that reads the step."""
        made = {old.name for old in self.steps}
        steps: list[Step] = []
        waiting = [name for name in step.inputs if name in made]
        placed = not waiting
        if placed:
            steps.append(step)
        for old in self.steps:
            steps.append(_reading(old, {after: step.name}) if placed else old)
            if not placed and old.name == waiting[-1]:
                waiting.pop()
                while waiting and any(s.name == waiting[-1] for s in steps):
                    waiting.pop()
                if not waiting:
                    steps.append(step)
                    placed = True
        return Program(tuple(steps))

    def run(self, tensors: Mapping[str, Array], ran: Mapping[str, Ran] | None = None) -> Array:
        """The result in float64; what ``ran`` already, of the same inputs, is not computed again.

        Raises Unknown where a step cannot be computed, or an input is not given.
        """
        return self.trace(tensors, ran)[self.output].value

    def trace(self, tensors: Mapping[str, Array], ran: Mapping[str, Ran] | None = None) -> dict[str, Ran]:
        """What each step makes, by name. Raises Unknown as :meth:`run` does."""
        from tracer.causes import operations

        found: dict[str, Ran] = {}
        for step in self.steps:
            inputs = []
            for name in step.inputs:
                if name not in found and name not in tensors:
                    raise Unknown(f"{name} was not recorded")
                inputs.append(found[name].value if name in found else tensors[name])
            before = None if ran is None else ran.get(step.name)
            if before is not None and before.same(step, inputs):
                found[step.name] = before
            else:
                found[step.name] = Ran(step, tuple(inputs), operations.run(step, inputs))
        return found


@dataclass(frozen=True)
class Ran:
    """A step, what it read, and what it made."""

    step: Step
    inputs: tuple[Array, ...]
    value: Array

    def same(self, step: Step, inputs: Sequence[Array]) -> bool:
        """Whether a step of these inputs makes that: by identity, for a change makes new ones."""
        own = self.step
        unchanged = own.kind == step.kind and own.settings is step.settings and own.weights is step.weights
        return unchanged and len(inputs) == len(self.inputs) and all(map(is_, inputs, self.inputs))


def _reading(step: Step, renamed: Mapping[str, str]) -> Step:
    return replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs))


def as_double(values: Array) -> Array:
    """``values`` in float64 where they are floating; whole numbers and booleans as they are."""
    return np.asarray(values, np.float64) if values.dtype.kind in "fV" else values


def pairs_of(values: Iterable[Any]) -> tuple[tuple[int, int], ...]:
    """``((before, after), …)`` from lists, JSON's or numpy's."""
    return tuple((int(a), int(b)) for a, b in values)


def numbers(value: Any, count: int) -> tuple[int, ...]:
    """One number for each of ``count`` axes, from a number or a list of them."""
    found = list(value) if isinstance(value, Sequence) else [value]
    found = found * count if len(found) == 1 else found
    return tuple(int(item) for item in found)
