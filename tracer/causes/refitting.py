"""What a weight of the candidate must be, in its framework's layout, and how it is made of what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tracer import kinds, relations
from tracer.causes.case import Case, layer_of
from tracer.causes.orders import brought, orders
from tracer.causes.reading import Read, reader_of
from tracer.causes.step import Array, Step, Unknown

Moves = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Refit:
    """A parameter of a node, and what makes it right.

    Attributes:
        param: its name, local to the owner.
        source: the owner and name of the reference's parameter whose values it takes; None where its own are moved.
    """

    param: str
    source: tuple[str, str] | None
    moves: Moves


@dataclass(frozen=True)
class _Marked(Read):
    """A node whose weights are numbered in place of their values: what is read says which element went where."""

    starts: dict[str, int] = field(default_factory=dict)

    def named(self, name: str) -> Array:
        shape = next((param.shape for param in self.node.params if param.name == name), None)
        if shape is None:
            raise Unknown(f"the weight {name} is another layer's")
        start = self.starts.setdefault(name, sum(_size(self.node_shape(other)) for other in self.starts))
        return np.arange(start, start + _size(shape), dtype=np.float64).reshape(shape)

    def node_shape(self, name: str) -> Sequence[int]:
        return next(param.shape for param in self.node.params if param.name == name)


def refits(case: Case, ours: Step, theirs: Step, roles: Sequence[str]) -> tuple[Refit, ...] | None:
    """How weights of the candidate's step become the reference's; None where that cannot be said.

    ``ours`` is a step of the case's program, ``theirs`` its twin.
    """
    order = orders(case, ours, theirs)
    mine, its = (case.theirs, case.ours) if not case.turned_round else (case.ours, case.theirs)
    node = layer_of(mine.recording.structure, ours.name if case.turned_round else theirs.name)
    other = layer_of(its.recording.structure, theirs.name if case.turned_round else ours.name)
    read, marked = Read(mine.recording, node), _Marked(mine.recording, node)
    try:
        places = _weights(marked)
        now = {param: read.named(param) for param in marked.starts}
        targets = {param: value.copy() for param, value in now.items()}
        for role in roles:
            if case.turned_round:
                at, wanted = places[role], brought(ours, role, _given(theirs, role, places[role]), order)
            else:
                at = brought(ours, role, places[role], order)
                wanted = _given(ours, role, at)
            if at.shape != wanted.shape or not _put(at, wanted, targets, marked.starts):
                return None
        sources = {param.name: Read(its.recording, other).named(param.name) for param in other.params}
    except (Unknown, KeyError, ValueError, TypeError, IndexError):
        return None
    found = []
    for param, target in targets.items():
        if relations.alike(now[param], target):
            continue
        own = moves(now[param], target) if np.any(target) else (("zeros", ()),)
        if own is not None:
            found.append(Refit(param, None, own))
            continue
        ways = ((source, how) for source, values in sources.items() for how in _ways(values, target))
        way = next(((source, how) for source, how in ways if how is not None), None)
        if way is None:
            return None
        found.append(Refit(param, (other.owner, way[0]), way[1]))
    return tuple(found)


def _given(step: Step, role: str, like: Array) -> Array:
    """A weight of the reference's; zeros for the second bias of a recurrent layer that has one. Raises KeyError."""
    if role in step.weights or step.kind not in kinds.RECURRENT or "bias" not in role:
        return step.weights[role]
    return np.zeros_like(like)


def _weights(read: Read) -> dict[str, Array]:
    function = reader_of(read.node.kind)
    if function is None:
        raise Unknown("it is not known")
    found = function(read)
    return dict(found.weights if isinstance(found, Step) else found[1])


def _put(places: Array, values: Array, targets: dict[str, Array], starts: dict[str, int]) -> bool:
    """Write values where the marks say they come from; False where that is no plain copy."""
    marks = places.ravel()
    if not np.array_equal(marks, np.round(marks)) or len(np.unique(marks)) != marks.size:
        return False
    for param, target in targets.items():
        inside = (marks >= starts[param]) & (marks < starts[param] + target.size)
        target.ravel()[marks[inside].astype(int) - starts[param]] = values.ravel()[inside]
    known = sum(target.size for target in targets.values())
    return bool(marks.size == 0 or (marks.min() >= 0 and marks.max() < known))


def _ways(values: Array, target: Array) -> Iterator[Moves | None]:
    """What makes a weight of another, or of one of its rows: Keras keeps the two biases of a GRU in one."""
    yield moves(values, target)
    rows = len(values) if values.ndim > 1 and values.size == len(values) * target.size else 0
    for row in range(rows):
        how = moves(values[row], target.reshape(values.shape[1:]))
        if how is not None and target.ndim == 1:
            yield (("take", (0, row)), ("reshape", values.shape[1:]), *how)


def moves(mine: Array, its: Array) -> Moves | None:
    """What makes ``its`` of ``mine``: nothing, axes or one axis in another order, a reshape, a flip."""
    if mine.size != its.size:
        return None
    if relations.alike(mine, its):
        return ()
    if not relations.same_values(mine, its):
        return None
    order = relations.transposed(mine, its)
    if order is not None:
        return (("transpose", order),)
    if mine.shape == its.shape:
        axes = relations.flipped(mine, its, range(mine.ndim))
        if axes is not None:
            return (("flip", tuple(axes)),)
    for order in (tuple(range(mine.ndim)), *relations.orders(mine.shape)):
        turned = mine.transpose(order)
        first: Moves = () if order == tuple(range(mine.ndim)) else (("transpose", order),)
        if relations.alike(turned.reshape(its.shape), its):
            return (*first, ("reshape", its.shape))
        for axis in range(turned.ndim) if turned.shape == its.shape else ():
            taken = relations.permutation(turned, its, axis)
            if taken is not None:
                equal = relations.blocks(taken)
                last = ("blocks", (axis, *equal)) if equal else ("take", (axis, *map(int, taken)))
                return (*first, last)
    return None


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
