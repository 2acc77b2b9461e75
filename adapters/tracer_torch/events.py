"""What one forward pass leaves behind: events, where each tensor came from, and their translation into a Structure."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from tracer.graph import Layout, Node, Param, Role, Structure
from tracer_torch import layers

Key = tuple[str, int, str]
"""Base name, call of the owner, suffix: known while the model runs, when the final name is not yet."""


@dataclass(slots=True)
class Event:
    """One tensor that came into being. ``parents`` and ``alias`` are positions in the list of events."""

    base: str
    owner: str
    call: int
    suffix: str
    role: Role
    kind: str = ""
    label: str = ""
    parents: tuple[int, ...] = ()
    alias: int | None = None
    shape: tuple[int, ...] = ()
    dtype: str = ""
    scope: str = ""
    config: layers.Config = field(default_factory=dict)
    layout: Layout | None = None
    source: str | None = None
    reads: tuple[int, ...] = ()
    leaf: bool = False

    @property
    def key(self) -> Key:
        return self.base, self.call, self.suffix


class Origin(NamedTuple):
    """Where a tensor came from.

    ``node`` is the event whose very values it holds, if any; ``nodes`` the events it was computed from;
    ``reads`` the ids of parameters it was computed from without passing through an event.
    """

    node: int | None
    nodes: tuple[int, ...]
    reads: tuple[int, ...] = ()


NOWHERE = Origin(None, ())


class Origins:
    """Origins of living tensors.

    Weak references: holding the tensors would keep every activation in memory. An id is only believed while the
    tensor that had it lives, as ids are used again.
    """

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._known: dict[int, tuple[weakref.ref[torch.Tensor], Origin]] = {}
        for tensor in parameters:
            self[tensor] = Origin(None, (), (id(tensor),))

    def __getitem__(self, tensor: torch.Tensor) -> Origin:
        entry = self._known.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        # The same values as another object, made by what no function mode sees (``as_subclass``).
        base = tensor._base
        same = base is not None and base.shape == tensor.shape and base.stride() == tensor.stride()
        entry = self._known.get(id(base)) if same else None
        return entry[1] if entry is not None and entry[0]() is base else NOWHERE

    def __setitem__(self, tensor: torch.Tensor, origin: Origin) -> None:
        self._known[id(tensor)] = (weakref.ref(tensor), origin)


def joined(origins: Sequence[Origin]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The events and the parameters of several tensors, each once, in order of first appearance.

    An event that is read twice (``x * x``) is listed once per argument.
    """
    if len(origins) == 1:
        [one] = origins
        return one.nodes if one.node is None else (one.node,), one.reads and tuple(dict.fromkeys(one.reads))
    nodes: list[int] = []
    for origin in origins:
        if origin.node is not None:
            nodes.append(origin.node)
        else:
            nodes += [node for node in origin.nodes if node not in nodes]
    return tuple(nodes), tuple(dict.fromkeys(read for origin in origins for read in origin.reads))


def finished(
    events: Sequence[Event],
    calls: dict[str, int],
    outputs: Sequence[int],
    places: Sequence[str],
    owned: Sequence[tuple[str, str, torch.Tensor]],
    notes: Sequence[str],
) -> tuple[Structure, dict[Key, str]]:
    """The Structure of a pass, and the final name of every event."""
    names: list[str] = []
    taken: set[str] = set()
    for event in events:
        repeated = calls.get(event.owner, 0) > 1
        name = f"{event.base}#{event.call}{event.suffix}" if repeated else event.base + event.suffix
        unique, copy = name, 1
        while unique in taken:
            # Only for module names made to collide ("a[1]", "a#0"): names must differ at any price.
            copy += 1
            unique = f"{name}~{copy}"
        taken.add(unique)
        names.append(unique)
    claims = _claimed(events, owned)
    nodes = []
    for index, event in enumerate(events):
        owner, params = claims.get(index, (event.owner, ()))
        nodes.append(
            Node(
                name=names[index],
                kind=event.kind,
                label=event.label,
                role=event.role,
                parents=tuple(names[parent] for parent in event.parents),
                shape=event.shape,
                dtype=event.dtype,
                params=params,
                config=_with_dense(event, params),
                owner=owner,
                call=event.call,
                scope=event.scope,
                source=event.source,
                layout=event.layout,
                alias_of=None if event.alias is None else names[event.alias],
            )
        )
    ends = tuple(names[index] for index in outputs)
    structure = Structure(tuple(nodes), ends, tuple(notes), returned=tuple(zip(places, ends, strict=True)))
    return structure, {event.key: name for event, name in zip(events, names, strict=True)}


def _with_dense(event: Event, params: tuple[Param, ...]) -> dict[str, Any]:
    if event.kind == "dense" and params and "units" not in event.config and len(params[0].shape) == 2:
        # ``x @ self.weight``: the matrix is stored (in, out).
        return {**event.config, "units": params[0].shape[1]}
    return dict(event.config)


def _claimed(
    events: Sequence[Event], owned: Sequence[tuple[str, str, torch.Tensor]]
) -> dict[int, tuple[str, tuple[Param, ...]]]:
    """Which event lists which parameters, each on one: leaves first, then operations, then what is left.

    An operation that reads parameters belongs to their owner, which may be another module than its scope (tied
    weights); of several owners, to the one read first.
    """
    by_owner: dict[str, list[tuple[str, torch.Tensor]]] = {}
    home: dict[int, tuple[str, str, torch.Tensor]] = {}
    for owner, name, tensor in owned:
        by_owner.setdefault(owner, []).append((name, tensor))
        home[id(tensor)] = owner, name, tensor
    free = set(home)
    claims: dict[int, tuple[str, tuple[Param, ...]]] = {}

    def claim(index: int, owner: str, wanted: Sequence[tuple[str, torch.Tensor]]) -> None:
        mine = [(name, tensor) for name, tensor in wanted if id(tensor) in free]
        if mine:
            free.difference_update([id(tensor) for _, tensor in mine])
            claims[index] = owner, tuple(layers.param(name, tensor) for name, tensor in mine)

    for index, event in enumerate(events):
        if event.leaf and event.role == "layer" and event.owner in by_owner:
            claim(index, event.owner, by_owner[event.owner])
    for index, event in enumerate(events):
        unread = [home[read] for read in event.reads if read in free]
        if unread and not event.leaf and event.role != "item":
            owner = unread[0][0]
            claim(index, owner, [(name, tensor) for where, name, tensor in unread if where == owner])
    for index, event in enumerate(events):
        if event.role in ("layer", "container") and not event.leaf and event.owner in by_owner:
            claim(index, event.owner, by_owner[event.owner])
    return claims
