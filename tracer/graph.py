"""The data model: what an adapter says about a model before and while it runs.

A :class:`Structure` is the model's graph with shapes but without values. Every :class:`Node` stands for exactly
one tensor; an operation with several outputs has one node for its first tensor and further nodes of role
``item`` for the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, get_args

from tracer import kinds
from tracer.errors import InputError

if TYPE_CHECKING:
    from typing import Self

Role = Literal["input", "layer", "op", "activation", "container", "item", "inner"]
"""What a node is.

``input``       a model input;
``layer``       a module or layer, its own (last) output;
``op``          a functional operation outside any leaf module;
``activation``  a tensor inside a layer, before its fused activation;
``container``   a module that only holds others (its output is usually the tensor of one of them);
``item``        a further output of the node that is its parent;
``inner``       one of several operations that a layer is made of: recorded, but not compared.
"""
Layout = Literal["channels_last", "channels_first"]
_ROLES, _LAYOUTS = frozenset(get_args(Role)), frozenset((None, *get_args(Layout)))


_LONGEST = 1 << 53
_WHOLE = frozenset({int})
MOST_NODES = 1 << 17
"""Of a structure that is recorded or read: what is done with a node costs microseconds, and kilobytes."""
MOST_DIMENSIONS = 64
"""As numpy; frameworks have tensors of more, which cannot be stored."""


def text(value: Any) -> str:
    """``value`` if it is a string. Raises TypeError: what comes from a file is not turned into something else."""
    if not isinstance(value, str):
        raise TypeError(f"text wanted, not {type(value).__name__}")
    return value


def _finite(value: Any) -> Any:
    """``value`` with infinities and NaN as text, for JSON has none: ``maximum(x, -inf)``, ``clamp(max=inf)``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def lengths(value: Any) -> tuple[int, ...]:
    """``value`` if it is a list of dimensions. Raises TypeError or ValueError."""
    if not isinstance(value, list | tuple) or len(value) > MOST_DIMENSIONS:
        raise TypeError(f"a shape is a list of at most {MOST_DIMENSIONS} dimensions")
    if value and not (_WHOLE.issuperset(map(type, value)) and min(value) >= 0 and max(value) < _LONGEST):
        raise ValueError("a dimension is a whole number")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter or buffer of a layer: ``name`` is local to its owner (``kernel``, ``weight``)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool = True

    def to_json(self) -> list[Any]:
        return [self.name, list(self.shape), self.dtype, self.trainable]

    @classmethod
    def from_json(cls, raw: list[Any]) -> Self:
        name, shape, dtype, trainable = raw
        return cls(text(name), lengths(shape), text(dtype), bool(trainable))


@dataclass(frozen=True, slots=True)
class Node:
    """One tensor of the graph.

    Attributes:
        name: unique in the recording. A Keras layer's or torch module's path (``encoder/conv1``,
            ``blocks.0.bn``), with ``#0``, ``#1`` … when it is called several times, ``[1]`` for further
            outputs, ``/preactivation`` for the value before a fused activation.
        kind: the operation in the vocabulary of :mod:`tracer.kinds`.
        label: the operation in the framework's own words (``Conv1D``, ``torch.flatten``).
        parents: names of the nodes whose tensors it reads, in argument order.
        shape: concrete shape, the batch included; None when not known before the run.
        dtype: numpy-style name (``float32``, ``bfloat16``) or None.
        params: parameters and buffers it owns, in the framework's order.
        config: what matters for porting (``strides``, ``padding``, ``epsilon`` …), JSON values only.
        owner: path of the layer or module it belongs to, without call or suffix.
        call: how often ``owner`` had been called before.
        scope: path of the module in whose forward it ran (empty at the root).
        source: ``file:line`` of the call, where known.
        layout: where the layer keeps its channels, where that is known.
        alias_of: the node whose very tensor this is (containers, dropout in evaluation); stored once.
    """

    name: str
    kind: str
    label: str
    role: Role = "layer"
    parents: tuple[str, ...] = ()
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    params: tuple[Param, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    owner: str = ""
    call: int = 0
    scope: str = ""
    source: str | None = None
    layout: Layout | None = None
    alias_of: str | None = None

    @property
    def idle(self) -> bool:
        """Whether it hands on its input whatever that is, in training too: an ``nn.Identity``, a dropout of rate 0."""
        rate = self.config.get("rate", self.config.get("p"))
        return self.kind == "identity" or (self.kind == "dropout" and rate == 0)

    def to_json(self) -> dict[str, Any]:
        """The node as JSON values; fields at their default, and a shape of too many dimensions, are left out."""
        out: dict[str, Any] = {"name": self.name, "kind": self.kind, "label": self.label, "role": self.role}
        if self.parents:
            out["parents"] = [*self.parents]
        if self.shape is not None and len(self.shape) <= MOST_DIMENSIONS:
            out["shape"] = [*self.shape]
        if self.dtype:
            out["dtype"] = self.dtype
        if self.params:
            out["params"] = [p.to_json() for p in self.params]
        if self.config:
            out["config"] = {key: _finite(item) for key, item in self.config.items()}
        return out | {name: value for name, value in zip(_LAST, _last(self), strict=True) if value}

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        if not isinstance(raw, Mapping):
            raise TypeError("a node is an object")
        shape = raw.get("shape")
        role, layout = raw.get("role", "layer"), raw.get("layout")
        if role not in _ROLES or layout not in _LAYOUTS:
            raise ValueError("unknown role or layout")
        return cls(
            name=text(raw["name"]),
            kind=text(raw["kind"]),
            label=text(raw["label"]),
            role=role,
            parents=tuple(map(text, raw.get("parents", ()))),
            shape=None if shape is None else lengths(shape),
            dtype=None if raw.get("dtype") is None else text(raw["dtype"]),
            params=tuple(map(Param.from_json, raw.get("params", ()))),
            config={text(key): value for key, value in dict(raw.get("config", {})).items()},
            owner=text(raw.get("owner", "")),
            call=int(raw.get("call", 0)),
            scope=text(raw.get("scope", "")),
            source=None if raw.get("source") is None else text(raw["source"]),
            layout=layout,
            alias_of=None if raw.get("alias_of") is None else text(raw["alias_of"]),
        )


_LAST = ("owner", "call", "scope", "source", "layout", "alias_of")
_last = attrgetter(*_LAST)


@dataclass(frozen=True)
class Structure:
    """A model's graph in the order in which it runs (parents come before their children).

    ``notes`` are sentences for the user about what could not be seen ("lstm: gates are not visible"); ``fault`` says
    what the model itself raised while it was looked at: the nodes are then those that ran before. ``returned`` says
    where each output stands in what the model returns, place and node: ``[1]``, ``[logits]``, ``[0][h]``, nothing for
    a single one. It is empty where the format knows no such places.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fault: str = ""
    returned: tuple[tuple[str, str], ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for parent in node.parents:
                if parent in found:
                    found[parent].append(node.name)
        return {name: tuple(names) for name, names in found.items()}

    @cached_property
    def unread(self) -> frozenset[str]:
        """Tensors that nothing reads of operations without weights that give several, others of which are read: the
        values of a ``topk`` of which only the places are taken."""
        names: dict[str, list[str]] = {}
        for node in self.nodes:
            names.setdefault(node.alias_of or node.name, []).append(node.name)

        def read(name: str) -> bool:
            through = {*names.get(name, ()), name}
            items = (child for one in through for child in self.children[one] if self.by_name[child].role != "item")
            return not through.isdisjoint(self.outputs) or any(child not in through for child in items)

        found: set[str] = set()
        for node in self.nodes:
            parts = [child for child in self.children[node.name] if self.by_name[child].role == "item"]
            if parts and not node.params and node.role == "op":
                used = {name: read(name) for name in (node.name, *parts)}
                found |= {name for name in used if any(used.values()) and not used[name]}
        return frozenset(found)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes if node.role == "input")

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def checked(self) -> Self:
        """The structure itself. Raises InputError where it has more nodes than :meth:`from_json` takes."""
        if len(self.nodes) > MOST_NODES:
            many = f"{len(self.nodes):,} operations, and more than {MOST_NODES:,}"
            raise InputError(f"the model runs {many} are not recorded: record a part of it")
        return self

    def stored(self) -> Iterable[Node]:
        """The nodes whose tensors are stored: all but aliases."""
        return (node for node in self.nodes if node.alias_of is None)

    def to_json(self) -> dict[str, Any]:
        """The structure as JSON values, with what the kinds that an adapter declared resemble."""
        own = kinds.declared(node.kind for node in self.nodes)
        return {
            "nodes": [node.to_json() for node in self.nodes],
            "outputs": list(self.outputs),
            "notes": list(self.notes),
            "fault": self.fault,
            **({"returned": [list(item) for item in self.returned]} if self.returned else {}),
            **({"kinds": {word: sorted(alike) for word, alike in own.items()}} if own else {}),
        }

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        if not isinstance(raw, Mapping):
            raise TypeError("a structure is an object")
        # Known words of a later version may be declared ones here, and the other way round.
        own = {word: alike for word, alike in dict(raw.get("kinds", {})).items() if word not in kinds.KNOWN}
        kinds.declare({word: [item for item in map(text, alike) if item in kinds.KNOWN] for word, alike in own.items()})
        if len(raw["nodes"]) > MOST_NODES:
            raise ValueError(f"a structure of more than {MOST_NODES} nodes")
        return cls(
            tuple(Node.from_json(n) for n in raw["nodes"]),
            tuple(str(o) for o in raw.get("outputs", ())),
            tuple(str(n) for n in raw.get("notes", ())),
            str(raw.get("fault", "")),
            tuple((text(place), text(node)) for place, node in raw.get("returned", ())),
        )
