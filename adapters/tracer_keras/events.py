"""What a recorder notes down while a model runs, and how it becomes a :class:`~tracer.graph.Structure`."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tracer.graph import Layout, Node, Param, Role, Structure

_FRAMEWORK = tuple(f"{os.sep}{name}{os.sep}" for name in ("keras", "tf_keras", "tensorflow", "tracer_keras"))
_FRAMEWORK += tuple(f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("torch", "jax", "jaxlib", "numpy"))


@dataclass(eq=False)
class Event:
    """One tensor seen: a node before it has its final name.

    ``base`` is the layer's path, ``call`` how often it had been called before, ``suffix`` what tells its several
    tensors apart. ``value`` is the tensor, symbolic while a function is traced. ``needs`` are events whose tensors it
    reads without being their child: masks.
    """

    base: str
    kind: str
    label: str
    role: Role
    value: Any
    suffix: str = ""
    call: int = 0
    parents: tuple[Event, ...] = ()
    owner: str = ""
    scope: str = ""
    source: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    params: tuple[Param, ...] = ()
    layout: Layout | None = None
    alias: Event | None = None
    merged: Event | None = None
    needs: tuple[Event, ...] = ()

    def key(self) -> tuple[str, int, str]:
        """What identifies the event in another run of the same model."""
        return self.base, self.call, self.suffix

    def final(self) -> Event:
        """The event that stands for this one when it was merged into its layer."""
        event = self
        while event.merged is not None:
            event = event.merged
        return event

    def stored(self) -> Event:
        """The event whose very tensor this is."""
        event = self.final()
        while event.alias is not None:
            event = event.alias.final()
        return event


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested outputs with their places: ``""`` for a single one, ``[1]``, ``[key]``, ``[0][h]``."""
    return ((place, leaf) for place, leaf in leaves(value, path) if leaf is not None)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The same with those that are None."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from leaves(item, f"{path}[{key}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for spec in fields(value):
            yield from leaves(getattr(value, spec.name), f"{path}[{spec.name}]")
    else:
        yield path, value


def exchanged_leaves(value: Any, instead: Mapping[int, tuple[Any, Any]]) -> Any:
    """Nested ``value`` with the leaves exchanged that ``instead`` has by identity; itself where there are none."""
    if id(value) in instead:
        return instead[id(value)][0]
    if isinstance(value, Mapping):
        items = {key: exchanged_leaves(item, instead) for key, item in value.items()}
        changed = {key: item for key, item in items.items() if item is not value[key]}
        if not changed:
            return value
        out: Any = copy.copy(value)
        for key, item in changed.items():
            out[key] = item
        return out
    if isinstance(value, (list, tuple)):
        parts = [exchanged_leaves(item, instead) for item in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value) and not isinstance(value, type):
        old = {spec.name: getattr(value, spec.name) for spec in fields(value)}
        new = {name: exchanged_leaves(item, instead) for name, item in old.items()}
        if all(new[name] is old[name] for name in old):
            return value
        out = copy.copy(value)
        for name, item in new.items():
            object.__setattr__(out, name, item)
        return out
    return value


def is_framework(name: str) -> bool:
    """Whether a source file belongs to a framework or to tracer."""
    return any(part in name for part in _FRAMEWORK)


def user_source() -> str | None:
    """``file:line`` of the innermost frame that belongs to the user's model code, if there is one."""
    frame = sys._getframe(1)
    inside = False
    while frame is not None:
        name = frame.f_code.co_filename
        if is_framework(name):
            # Beyond the recorder's own call of the model there is only the caller of tracer.
            if inside and name.endswith("runner.py"):
                return None
            inside = True
        elif inside and "__autograph_generated_file" not in name and os.path.exists(name) and not _library(name):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _library(name: str) -> bool:
    return f"{os.sep}lib{os.sep}python" in name and "site-packages" not in name


def topological(events: list[Event], outputs: Iterable[Event], depth_first: bool) -> list[Event]:
    """Parents before children; with ``depth_first`` in the order in which the graph is written.

    Keras runs functional graphs level by level, which interleaves parallel branches; walking back from the outputs
    gives each branch in one piece.
    """
    if not depth_first:
        return events
    order: list[Event] = []
    done: set[int] = set()
    known = {id(event) for event in events}
    outer: dict[int, list[Event]] = {}
    for event in events:
        if event.role == "container" and event.alias is not None:
            outer.setdefault(id(event.stored()), []).append(event)
    for root in [*(e for e in events if e.role == "input"), *outputs, *events]:
        stack: list[tuple[Event, bool]] = [(root, False)]
        while stack:
            event, ready = stack.pop()
            if ready:
                order.append(event)
                # A container belongs right behind the inner tensor that it returns.
                stack.extend((around, False) for around in reversed(outer.get(id(event), ())))
                continue
            if id(event) in done or id(event) not in known:
                continue
            done.add(id(event))
            stack.append((event, True))
            needed = [*event.parents, *event.needs, *([event.alias] if event.alias is not None else [])]
            stack.extend((need.final(), False) for need in reversed(needed))
    return order


def build(
    events: list[Event],
    calls: Mapping[str, int],
    outputs: list[tuple[str, Event]],
    notes: Iterable[str],
    depth_first: bool,
) -> tuple[Structure, dict[tuple[str, int, str], str]]:
    """The structure, and the name of every event by its key; ``outputs`` come with their places."""
    ordered = topological(events, [event for _, event in outputs], depth_first)
    names: dict[int, str] = {}
    taken: set[str] = set()
    order: dict[str, dict[int, int]] = {}
    for event in ordered:
        numbers = order.setdefault(event.base, {})
        # Calls are counted in the order of the nodes, which for a functional model is not the order of the run.
        number = numbers.setdefault(event.call, len(numbers))
        call = f"#{number}" if calls.get(event.base, 1) > 1 else ""
        base = name = f"{event.base}{call}{event.suffix}"
        number = 1
        while name in taken:
            number += 1
            name = f"{base}~{number}"
        taken.add(name)
        names[id(event)] = name
    nodes = tuple(_node(event, names, order[event.base][event.call]) for event in ordered)
    ends = [(place, names[id(e.stored())]) for place, e in outputs if id(e.stored()) in names]
    wanted = dict.fromkeys(name for _, name in ends)
    structure = Structure(nodes, tuple(wanted), tuple(dict.fromkeys(notes)), returned=tuple(ends))
    return structure, {event.key(): names[id(event)] for event in ordered}


def _node(event: Event, names: Mapping[int, str], call: int) -> Node:
    shape, dtype = describe_tensor(event.value)
    parents = dict.fromkeys(names[id(p.final())] for p in event.parents if id(p.final()) in names)
    alias = event.stored() if event.alias is not None else None
    return Node(
        name=names[id(event)],
        kind=event.kind,
        label=event.label,
        role=event.role,
        parents=tuple(parents),
        shape=shape,
        dtype=dtype,
        params=event.params,
        config=dict(event.config),
        owner=event.owner,
        call=call,
        scope=event.scope,
        source=event.source,
        layout=event.layout,
        alias_of=names.get(id(alias)) if alias is not None else None,
    )


def describe_tensor(value: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """Concrete shape (None while a dimension is open) and dtype name."""
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    name = getattr(dtype, "name", None) or (str(dtype) if dtype is not None else None)
    rank = getattr(shape, "rank", -1)
    if shape is None or rank is None or not (hasattr(value, "op") or hasattr(value, "__array__")):
        return None, name
    sizes = list(shape)
    return (None if any(size is None for size in sizes) else tuple(int(size) for size in sizes)), name
