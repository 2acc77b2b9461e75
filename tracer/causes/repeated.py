"""Tensors that a model computes twice: the same operation of the same inputs, with the same result."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer import kinds
from tracer.errors import TraceError
from tracer.graph import Node
from tracer.store import Recording


@dataclass(frozen=True)
class Repeated:
    """Of one recording: its tensors by name, with those that are computed again.

    Attributes:
        groups: the nodes that make the same tensor, in running order, by each of them; of one alone nothing is kept.
    """

    recording: Recording
    groups: Mapping[str, tuple[str, ...]]

    def resolve(self, name: str, known: Container[str] = ()) -> str:
        """The node that stands for a tensor: itself where it is among those ``known`` on both sides or computed once,
        else the first of the same that is known, or the first."""
        name = self.recording.resolve(name)
        same = self.groups.get(name, ())
        return name if not same or name in known else next((one for one in same if one in known), same[0])


def repeated(recording: Recording) -> Repeated:
    """What a recorded model computes more than once. Values are read only where the graph says that they are equal."""
    first: dict[str, str] = {}
    groups: dict[tuple[object, ...], list[str]] = {}
    for node in recording.structure:
        if node.role == "input" or node.alias_of is not None or not node.parents or node.shape is None:
            continue
        above = tuple(first.get(name, name) for name in map(recording.resolve, node.parents))
        same = groups.setdefault(_key(node, above), [])
        same.append(node.name)
        if len(same) > 1 and not _equal(recording, same[0], node.name):
            same.remove(node.name)
        elif len(same) > 1:
            first[node.name] = same[0]
    several = {name: tuple(same) for same in groups.values() if len(same) > 1 for name in same}
    return Repeated(recording, several)


def _key(node: Node, above: Sequence[str]) -> tuple[object, ...]:
    """What two nodes must have alike; a layer with weights is itself alone."""
    config = json.dumps(node.config, sort_keys=True, default=str)
    owner = node.owner if node.params or node.kind in kinds.WEIGHTED or ":" in node.kind else ""
    owner = owner or (node.owner if node.kind.startswith("other") or node.role == "inner" else "")
    return node.kind, node.label, node.role, owner, above, node.shape, node.dtype, config


def _equal(recording: Recording, one: str, other: str) -> bool:
    if recording.stored(one) is None or recording.stored(other) is None:
        return False
    try:
        return bool(np.array_equal(recording.read(one), recording.read(other)))
    except (TraceError, TypeError):
        return False
