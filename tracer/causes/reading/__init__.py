"""Recorded nodes as steps: each framework's settings and weights in the one convention of the operations.

Each module registers readers ``f(node) -> (settings, weights)``, or the whole step, for kinds.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, TypeVar

import numpy as np

from tracer import kinds
from tracer.causes.step import Array, Step, Unknown, as_double
from tracer.errors import TraceError
from tracer.graph import Node, Param
from tracer.store import Recording

_MODULES = ("layers", "pointwise", "arithmetic", "arrangements", "picking", "recurrent", "attention", "resizing",
            "custom", "compound", "convolving", "sampling", "functions")  # fmt: skip


_CALL = re.compile(r"#\d+(?=$|[/\[])")
"""How a name says that its layer is called several times."""


@dataclass(frozen=True)
class Read:
    """A node that is read, with what stands around it.

    Attributes:
        recording: that it belongs to.
        node: itself.
        given: other shapes of its inputs than the recorded ones.
        seen: with them, shapes that the other model's tensors have there, the likeliest first.
    """

    recording: Recording
    node: Node
    given: tuple[tuple[int, ...], ...] | None = None
    seen: tuple[tuple[int, ...], ...] = ()

    @property
    def framework(self) -> str:
        """``pytorch``, ``tensorflow``, ``onnx`` …"""
        return self.recording.framework

    @property
    def torch_like(self) -> bool:
        """Whether kernels are (out, in, …) and layers as PyTorch's: PyTorch and ONNX."""
        return self.framework in ("pytorch", "onnx")

    @property
    def config(self) -> Mapping[str, Any]:
        return self.node.config

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of what it reads."""
        if self.given is not None:
            return self.given
        known = self.recording.structure.by_name
        return tuple(known[name].shape if name in known else None for name in self.node.parents)

    def source(self, position: int = 0) -> tuple[int, ...]:
        """The shape of one input. Raises Unknown."""
        shape = self.shapes[position] if position < len(self.shapes) else None
        if shape is None:
            raise Unknown("the shape of its input is not known")
        return shape

    @cached_property
    def rank(self) -> int:
        """Axes of the first input. Raises Unknown."""
        return len(self.source())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its tensor. Raises Unknown."""
        if self.node.shape is None:
            raise Unknown("its shape is not known")
        return self.node.shape

    @cached_property
    def owned(self) -> Mapping[str, str]:
        """The names of its parameters by role (see :func:`tracer.kinds.parameter_role`)."""
        return {kinds.parameter_role(self.node.kind, param.name): param.name for param in self.params}

    @cached_property
    def params(self) -> tuple[Param, ...]:
        """Its parameters; those of the first call where the layer is called again, for only that lists them."""
        node = self.node
        if node.params or not _CALL.search(node.name):
            return node.params
        same = (_CALL.sub("", node.name), node.owner, node.label)
        return next(
            (
                other.params
                for other in self.recording.structure.nodes
                if other.params and (_CALL.sub("", other.name), other.owner, other.label) == same
            ),
            (),
        )

    def weight(self, role: str) -> Array | None:
        """A weight in its framework's layout, float64; None where it has none. Raises Unknown where it is not kept."""
        name = self.owned.get(role)
        return None if name is None else self.named(name)

    def named(self, name: str) -> Array:
        """A weight by its own name. Raises Unknown where it was not recorded."""
        return self.stored(self.node.owner, name)

    def stored(self, owner: str, name: str) -> Array:
        """A weight of any layer, float64. Raises Unknown where it was not recorded."""
        stored = self.recording.weights.get((owner, name))
        if stored is None:
            raise Unknown(f"the weight {name} was not recorded")
        try:
            return as_double(self.recording.read_stored(stored))
        except TraceError as error:
            raise Unknown(str(error)) from error

    def recorded(self, name: str) -> Array:
        """The recorded tensor of a node, float64 where it is floating. Raises Unknown."""
        if name not in self._tensors:
            try:
                self._tensors[name] = as_double(self.recording.read(self.recording.resolve(name)))
            except KeyError as error:
                raise Unknown(f"{name} was not recorded") from error
            except TraceError as error:
                raise Unknown(str(error)) from error
        return self._tensors[name]

    @cached_property
    def _tensors(self) -> dict[str, Array]:
        return {}


Reader = Callable[[Read], tuple[dict[str, Any], dict[str, Array]] | Step]
"""Settings and weights; or the whole step where the node's inputs or its kind are others than the recording says."""
_readers: dict[str, Reader] = {}
_Function = TypeVar("_Function", bound=Reader)


def reader(*names: str) -> Callable[[_Function], _Function]:
    """Register a reader for kinds."""

    def register(function: _Function) -> _Function:
        for name in names:
            _readers[name] = function
        return function

    return register


def reader_of(kind: str) -> Reader | None:
    """What reads nodes of a kind, if anything does."""
    _load()
    return _readers.get(kind)


@cache
def _load() -> None:
    for name in _MODULES:
        importlib.import_module(f"{__name__}.{name}")


def _whole(recording: Recording, node: Node) -> Node:
    """A layer that is recorded in several operations with what goes into the first of them as its inputs."""
    known = recording.structure.by_name
    outer: dict[str, None] = {}
    pending = [*reversed(node.parents)]
    seen = {node.name}
    while pending:
        name = pending.pop()
        found = known.get(name)
        if found is not None and found.role == "inner" and found.owner == node.owner and node.role != "inner":
            pending += [parent for parent in reversed(found.parents) if name not in seen]
            seen.add(name)
        else:
            outer[name] = None
    return node if len(seen) == 1 else replace(node, parents=tuple(outer))


def read(
    recording: Recording,
    name: str,
    shapes: Sequence[tuple[int, ...]] | None = None,
    seen: Sequence[tuple[int, ...]] = (),
) -> Step:
    """A recorded node as a step, for inputs of other ``shapes`` than it had if they are given; ``seen`` are shapes that
    the other model's tensors have there.

    Raises Unknown where its settings or weights do not say what it computes.
    """
    _load()
    node = _whole(recording, recording.structure.by_name[name])
    kind = "item" if node.role == "item" else node.kind
    function = _readers.get(kind) or _readers.get(kind.partition(":")[0])
    if function is None:
        raise Unknown(f"{node.label} is not known")
    try:
        with np.errstate(all="ignore"):
            found = function(Read(recording, node, None if shapes is None else tuple(shapes), tuple(seen)))
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise Unknown(f"the settings of {node.label} do not say what it computes ({error})") from error
    if isinstance(found, Step):
        return found
    settings, weights = found
    step = Step(node.name, node.kind, settings, weights, node.parents, node.shape, node.source)
    if kind in _KERNELS and shapes is None:
        from tracer.causes.reading.used import as_used

        return as_used(Read(recording, node), step)
    return step


_KERNELS = frozenset({"dense", *(f"{stem}{rank}d" for stem in ("conv", "depthwise_conv") for rank in (1, 2, 3))})
