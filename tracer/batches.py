"""Recording in several batches: what is cut from the input, how the pieces of tensors are joined and found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tracer.adapter import Array, LoadedModel
from tracer.errors import InputError, ReplayError
from tracer.graph import Node, Structure
from tracer.names import display
from tracer.store import Recording
from tracer.store.storage import Joined


def sample_count(inputs: Mapping[str, Array]) -> int:
    """Length of the axis of samples, the first one: of most inputs, else of that of the highest rank; 0 for none."""
    found = Counter(int(values.shape[0]) for values in inputs.values() if values.ndim)
    rank = {
        int(values.shape[0]): values.ndim for values in sorted(inputs.values(), key=lambda v: v.ndim) if values.ndim
    }
    return max(found, key=lambda length: (found[length], rank[length]), default=0)


@dataclass(frozen=True)
class Batches:
    """The samples of an input, ``size`` at a time.

    Inputs whose first axis is of another length (scalars, tables) go into every batch whole.
    """

    inputs: Mapping[str, Array]
    size: int

    @property
    def samples(self) -> int:
        """:func:`sample_count` of the inputs."""
        return sample_count(self.inputs)

    def __len__(self) -> int:
        return -(-self.samples // self.size) if self.samples else 1

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for start in range(0, max(self.samples, 1), self.size):
            yield self.cut(start, start + self.size)

    def cut(self, start: int, stop: int) -> dict[str, Array]:
        """The samples from ``start`` to ``stop``."""
        samples = self.samples
        return {n: a[start:stop] if a.ndim and a.shape[0] == samples else a for n, a in self.inputs.items()}


@dataclass(frozen=True)
class Plan:
    """How the tensors of several batches are put together.

    Attributes:
        structure: with the shapes of the whole tensors.
        joined: by node.
        unfit: nodes whose tensors cannot be joined, with the reason.
    """

    structure: Structure
    joined: Mapping[str, Joined]
    unfit: Mapping[str, str]


def plan(model: LoadedModel, batches: Batches, structure: Structure) -> Plan:
    """How each stored node's tensors become one; ``structure`` is that of the first batch.

    Found by asking the model for its graph at a second batch size: the axis whose length follows is the one that the
    samples lie on (in time-major models it is the second). Raises InputError when the graph itself depends on the
    batch size.
    """
    other = batches.samples % batches.size or (batches.size - 1 if batches.size > 1 else 2)
    other = min(other, batches.samples)
    try:
        second = model.structure(batches.cut(0, other)) if other != batches.size else None
    except InputError:  # a model of one fixed batch size
        second = None
    if second is not None and [n.name for n in second.stored()] != [n.name for n in structure.stored()]:
        raise InputError("the model's graph depends on the batch size: record it without --batch")
    found: dict[str, Joined] = {}
    unfit: dict[str, str] = {}
    nodes: dict[str, Node] = {}
    for node in structure.stored():
        twin = None if second is None else second.by_name[node.name]
        if node.shape is None or (twin is not None and twin.shape is None):
            unfit[node.name] = "its shape depends on values: batches cannot be joined"
            continue
        axis, each = _grows(node.shape, None if twin is None else twin.shape, batches.size, other)
        if axis is None:
            found[node.name] = Joined(None, node.shape)
            continue
        if each is None:
            unfit[node.name] = "its shape does not follow the batch size along one axis: batches cannot be joined"
            continue
        shape = (*node.shape[:axis], each * batches.samples, *node.shape[axis + 1 :])
        found[node.name] = Joined(axis, shape)
        nodes[node.name] = replace(node, shape=shape)
    whole = tuple(
        replace(node, shape=nodes[node.alias_of or node.name].shape) if (node.alias_of or node.name) in nodes else node
        for node in structure.nodes
    )
    return Plan(replace(structure, nodes=whole), found, unfit)


def _grows(
    shape: tuple[int, ...], other: tuple[int, ...] | None, size: int, other_size: int
) -> tuple[int | None, int | None]:
    """The axis that follows the batch size (None: none does), and its length for each sample (None: not regular)."""
    if other is None:
        axis = next((axis for axis, length in enumerate(shape) if length and length % size == 0), None)
        if axis == 0 and len(shape) > 2 and shape[0] != size == shape[1]:
            axis = 1  # time first, as recurrent layers have it
        return axis, shape[axis] // size if axis is not None else 0
    changed = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=False)) if a != b]
    if not changed:
        return None, 0
    each, rest = divmod(shape[changed[0]], size)
    if len(shape) != len(other) or len(changed) > 1 or rest or other[changed[0]] != each * other_size:
        return changed[0], None
    return changed[0], each


# --- running them again ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """The samples that one run takes, from ``start`` to ``stop`` of ``total``."""

    start: int = 0
    stop: int = 1
    total: int = 1

    @property
    def all(self) -> bool:
        return self.stop - self.start == self.total

    def of(self, values: Array, axis: int | None) -> Array:
        """What belongs to them of a whole tensor whose samples lie on ``axis`` (None: it has none), a view.

        Raises ReplayError where they cannot lie there.
        """
        if self.all or axis is None:
            return values
        each, rest = divmod(values.shape[axis], self.total) if axis < values.ndim else (0, 0)
        if rest or not each:
            raise ReplayError(f"damaged: {self.total} samples do not lie on axis {axis} of a tensor {values.shape}")
        return values[(*(slice(None),) * axis, slice(self.start * each, self.stop * each))]

    def place(self, place: tuple[int, ...] | None, axis: int | None, whole: tuple[int, ...]) -> tuple[int, ...] | None:
        """A place in what :meth:`of` gave as one in the whole tensor, which has the shape ``whole``."""
        if self.all or place is None or axis is None:
            return place
        shifted = place[axis] + self.start * (whole[axis] // self.total)
        return (*place[:axis], shifted, *place[axis + 1 :])

    def shape(self, shape: tuple[int, ...] | None, axis: int | None) -> tuple[int, ...] | None:
        """The shape of the whole of which these samples' has ``shape``."""
        if self.all or shape is None or axis is None or axis >= len(shape):
            return shape
        return (*shape[:axis], shape[axis] * self.total // (self.stop - self.start), *shape[axis + 1 :])


@dataclass(frozen=True)
class Split:
    """The runs that make up a recording.

    Attributes:
        total: of samples.
        size: of a batch.
        axes: on which axis the samples of each stored node lie, where that is not the first; None where on none.
    """

    total: int = 1
    size: int = 1
    axes: Mapping[str, int | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def axis(self, node: str) -> int | None:
        return self.axes.get(node, 0)

    def each(self, inputs: Mapping[str, Array]) -> Iterator[tuple[Samples, Mapping[str, Array]]]:
        """The samples of each run with what of the whole ``inputs`` it is fed."""
        if len(self) == 1:
            yield Samples(), inputs
            return
        for start in range(0, self.total, self.size):
            stop = min(start + self.size, self.total)
            yield Samples(start, stop, self.total), Batches(inputs, self.size).cut(start, stop)


WHOLE = Split()
"""Of a recording that was made in one run."""


def as_attributes(size: int, total: int, joined: Mapping[str, Joined]) -> dict[str, Any]:
    """What a recording in several batches keeps, for :func:`split`."""
    axes = {name: found.axis for name, found in joined.items() if found.axis != 0}
    return {"total": total, "size": size, "axes": axes}


def split(recording: Recording) -> Split:
    """The runs that make up ``recording``. Raises ReplayError where it does not say what lies where."""
    if not recording.attributes.get("batches"):
        return WHOLE
    known = recording.attributes.get("samples")
    if known is None:
        raise ReplayError(f"'{display(recording.name)}' was recorded in several batches by an earlier tracer: again")
    try:
        found = Split(int(known["total"]), int(known["size"]), dict(known["axes"]))
        sound = 0 < found.size < found.total < 1 << 48
        sound = sound and all(axis is None or (type(axis) is int and axis >= 0) for axis in found.axes.values())
    except (KeyError, TypeError, ValueError) as error:
        raise ReplayError(f"damaged: the batches of '{display(recording.name)}'") from error
    if not sound:
        raise ReplayError(f"damaged: the batches of '{display(recording.name)}'")
    return found
