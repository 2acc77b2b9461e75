"""What an adapter's author gives the kit: models, inputs, and what must be seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracer.adapter import Array, LoadRequest

Inputs = Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its inputs, and what must be seen.

    Attributes:
        name: stands in the test's name.
        inputs: arrays by the names of the model's signature.
        model: makes a fresh live model for ``wrap``, each time with the same weights.
        file: writes the model into a folder and returns how to load it. With ``model``, both must compute the same.
        nodes: names of nodes that must be seen, with their kind (:mod:`tracer.kinds`). For a case with ``raises``,
            those that ran before.
        expect: what the framework itself computes: called with a fresh model and ``inputs``, returns tensors by node.
        gradients: the same for the gradients of the sum of all outputs, by node, or by ``(owner, parameter)``.
        other: inputs of other shapes that the model takes as well.
        wrong: inputs of the right names that the model does not take.
        raises: the model raises a fault of its own on ``inputs``, and the error says this text.
        state: a comparable picture of the model beyond its parameters: hooks, modes, random state.
        unrecorded: stored nodes whose value cannot be handed over (no array); others must be.
        tolerance: relative, for ``expect`` and for file against live model.
    """

    name: str
    inputs: Inputs
    model: Callable[[], Any] | None = None
    file: Callable[[Path], LoadRequest] | None = None
    nodes: Mapping[str, str] = field(default_factory=dict)
    expect: Callable[[Any, Inputs], Mapping[str, Array]] | None = None
    gradients: Callable[[Any, Inputs], Mapping[str | tuple[str, str], Array]] | None = None
    other: Inputs | None = None
    wrong: Inputs | None = None
    raises: str = ""
    state: Callable[[Any], object] | None = None
    unrecorded: frozenset[str] = frozenset()
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        if self.model is None and self.file is None:
            raise ValueError(f"case '{self.name}' needs a model, a file or both")
        if (self.expect or self.gradients or self.state) and self.model is None:
            raise ValueError(f"case '{self.name}': expect, gradients and state need a live model")


@dataclass(frozen=True)
class CodeFile:
    """A file that runs code when it is loaded without care.

    Attributes:
        name: stands in the test's name.
        write: writes it into a folder so that loading it with ``trust`` makes the file ``marker``; returns how to
            load it (without ``trust``).
    """

    name: str
    write: Callable[[Path, Path], LoadRequest]
