"""The order of a layer's rows and columns behind a flatten, before a reshape, or behind concatenated branches.

Keras flattens (height, width, channels), PyTorch (channels, height, width): the same network then has its rows in
another order. So they have where branches are concatenated in another order (:mod:`tracer.alignment.concats`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tracer import kinds
from tracer.alignment.arrange import Rearrangement, Runs
from tracer.alignment.atoms import Atom
from tracer.alignment.axes import Axes, possible, preferred
from tracer.alignment.matching import Paired
from tracer.errors import TraceError
from tracer.graph import Node, Structure
from tracer.store import Recording

_FLAT = frozenset({"flatten", "reshape"})
_PASSING = frozenset(
    {"identity", "dropout", "cast", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "relu6",
     "mul", "prelu", "squeeze", "expand_dims", "softplus", "hard_sigmoid", "hard_silu", "batchnorm", "layernorm",
     "rmsnorm"}
)  # fmt: skip
"""Kinds that neither move nor mix elements."""
_READ_WHOLE = kinds.CONVOLUTIONS | {"layernorm"}
"""Kinds with a weight for each element of what they read, where they span all of it."""
_MOST = 8


@dataclass(frozen=True)
class Turned:
    """Lengths of the reference's flattened axes, and which of them the candidate flattens first, second …

    ``runs`` says which of them has its elements in runs that stand in another order, and how.
    """

    lengths: tuple[int, ...]
    order: tuple[int, ...]
    runs: tuple[int, Runs] | None = None

    @property
    def moved(self) -> bool:
        """Whether the axes themselves change places."""
        kept = [i for i in self.order if self.lengths[i] != 1]
        return kept != sorted(kept)

    def __str__(self) -> str:
        rank = len(self.lengths)
        last_first = self.order == (rank - 1, *range(rank - 1))
        letters = {2: "LC", 3: "HWC", 4: "DHWC"}.get(rank, "ABCDEFGH"[:rank])
        if not last_first:
            first_last = self.order == (*range(1, rank), 0)
            letters = {2: "CL", 3: "CHW", 4: "CDHW"}.get(rank, letters) if first_last else "ABCDEFGH"[:rank]
        return f"({','.join(letters)})→({','.join(letters[i] for i in self.order)})"


READS_ROWS = kinds.RECURRENT | {"dense"}
"""Kinds whose kernels have a row for each element of the last axis."""


def within_rows(arrangement: Rearrangement | None) -> bool:
    """Whether only the elements of the last axis stand in another order."""
    if arrangement is None or arrangement.runs is not None or len(arrangement.reference) != len(arrangement.candidate):
        return False
    *before, ours = arrangement.reference
    *others, theirs = arrangement.candidate
    return before == others and sorted(ours) == sorted(theirs) and ours != theirs


def as_computed(recording: Recording, name: str) -> bool:
    """Whether a tensor's elements follow each other as in the layers that computed them: nothing on the way moved them.

    A kernel that reads it has to have its rows in that order, which is the layout's and no layer's choice.
    """
    structure = recording.structure
    queue, seen = [recording.resolve(name)], {recording.resolve(name)}
    while queue:
        node = structure.by_name[queue.pop()]
        if node.kind in _FLAT:
            if not all(_follow(recording, recording.resolve(parent), node.name) for parent in node.parents):
                return False
        elif node.kind in kinds.ARRANGING - {"squeeze", "expand_dims"}:
            return False
        elif node.kind not in _PASSING:
            continue
        fresh = dict.fromkeys(map(recording.resolve, node.parents)).keys() - seen
        queue += [parent for parent in fresh if structure.by_name[parent].kind not in ("input", "concat")]
        seen |= fresh
    return True


def _follow(recording: Recording, above: str, name: str) -> bool:
    """Whether two tensors hold the same values in the same order; True where one of them was not recorded."""
    if recording.stored(above) is None or recording.stored(name) is None:
        return True
    try:
        return np.array_equal(recording.read(above).reshape(-1), recording.read(name).reshape(-1), equal_nan=True)
    except TraceError:
        return True


class Flattened:
    """Finds the axes that were flattened before a layer, or that it is reshaped into behind it, on both sides."""

    def __init__(self, ours: Structure, theirs: Structure, pairs: Iterable[Paired]) -> None:
        self._sides = ours, theirs
        self._axes: Mapping[tuple[str, str], Axes | None] = {
            (a, b): pair.axes for pair in pairs for a in pair.reference for b in pair.candidate
        }
        self._runs: Mapping[tuple[str, str], tuple[Rearrangement, Runs]] = {
            (pair.reference[-1], pair.candidate[-1]): (pair.arrangement, pair.arrangement.runs[1])
            for pair in pairs
            if pair.arrangement is not None and pair.arrangement.runs is not None
        }

    def channels(self, a: Atom, b: Atom) -> Runs | None:
        """The runs of the channels that two layers read, where they stand in another order."""
        if not self._runs:
            return None
        ours, theirs = (_read(side, atom) for side, atom in zip(self._sides, (a, b), strict=True))
        return next((self._runs[x, y][1] for x in ours for y in theirs if (x, y) in self._runs), None)

    def rows(self, a: Atom, b: Atom) -> Turned | None:
        """How the rows of a dense kernel differ; None where they do not, or nothing was flattened."""
        found = [_before(side, atom) for side, atom in zip(self._sides, (a, b), strict=True)]
        return self._turned(found[0], found[1])

    def branches(self, a: Atom, b: Atom) -> list[tuple[int, Turned | None]]:
        """The same by branch, where several that were flattened are concatenated before a layer: the width of each in
        the rows, and how it differs. Empty where none differs."""
        found = [_concatenated(side, atom) for side, atom in zip(self._sides, (a, b), strict=True)]
        if [width for width, _ in found[0]] != [width for width, _ in found[1]]:
            return []
        out = [(width, self._turned(x, y)) for (width, x), (_, y) in zip(*found, strict=True)]
        return out if any(turned is not None for _, turned in out) else []

    def columns(self, a: Atom, b: Atom) -> Turned | None:
        """The same for the columns of a layer whose output is reshaped."""
        found = [_behind(side, atom) for side, atom in zip(self._sides, (a, b), strict=True)]
        return self._turned(found[0], found[1])

    def _turned(self, ours: Node | None, theirs: Node | None) -> Turned | None:
        if ours is None or theirs is None or not ours.shape or not theirs.shape:
            return None
        if (ours.name, theirs.name) in self._axes:
            axes = self._axes[ours.name, theirs.name]
        else:
            options = possible(ours.shape, theirs.shape)
            layouts = _layout(self._sides[0], ours), _layout(self._sides[1], theirs)
            axes = preferred(options, None, layouts) if options else None
        if axes is None or any(axis is None for axis in axes) or axes[0] != 0 or len(axes) != len(theirs.shape):
            return None
        inverse = sorted(range(1, len(axes)), key=lambda i: axes[i] or 0)
        order = tuple(i - 1 for i in inverse)
        lengths = tuple(ours.shape[1:])
        found = Turned(lengths, order, self._turned_runs(ours, theirs))
        return found if found.moved or found.runs is not None else None

    def _turned_runs(self, ours: Node, theirs: Node) -> tuple[int, Runs] | None:
        plan, runs = self._runs.get((ours.name, theirs.name), (None, None))
        if plan is None or runs is None or plan.runs is None:
            return None
        axis = next((k for k, group in enumerate(plan.reference) if group == (plan.runs[0],)), 0)
        return (axis - 1, runs) if axis > 0 else None


def _layout(structure: Structure, node: Node) -> str | None:
    """A tensor's layout: its own, or that of the nearest node before it that has one and its rank."""
    for _ in range(_MOST):
        if node.layout is not None:
            return node.layout
        if node.kind == "permute" or not node.parents or node.parents[0] not in structure.by_name:
            return None
        node = structure.by_name[node.parents[0]]
    return None


def _read(structure: Structure, atom: Atom) -> list[str]:
    """What a layer reads and what that only passes on, the nearest first."""
    found: list[str] = []
    node = structure.nodes[atom.node] if atom.node >= 0 else None
    while node is not None and len(found) < _MOST:
        name = node.alias_of or next(iter(node.parents), None)
        node = structure.by_name.get(name or "")
        if node is None or node.name in found:
            break
        found.append(node.name)
        if node.alias_of is None and node.kind not in kinds.TRANSPARENT:
            break
    return found


def _spatial(shape: Sequence[int] | None) -> bool:
    return shape is not None and len(shape) > 2 and sum(d != 1 for d in shape[1:]) > 1


def _before(structure: Structure, atom: Atom) -> Node | None:
    """The tensor that is flattened on the way to a layer, or read whole by it."""
    if atom.node < 0:
        return None
    node = structure.nodes[atom.node]
    read = structure.by_name.get(node.parents[0]) if node.kind in _READ_WHOLE and node.parents else None
    if read is not None and _spatial(read.shape) and math.prod((read.shape or ())[1:]) == atom.main.shape[0]:
        return read
    return _flat_above(structure, node.parents)


def _concatenated(structure: Structure, atom: Atom) -> list[tuple[int, Node | None]]:
    """The branches of the concatenation of vectors that a layer reads: the width of each, and what it flattens."""
    for node in _above(structure, structure.nodes[atom.node].parents if atom.node >= 0 else ()):
        if node.kind == "concat" and node.shape is not None and len(node.shape) == 2:
            branches = [structure.by_name[name] for name in node.parents if name in structure.by_name]
            return [((branch.shape or (0,))[-1], _flat_above(structure, (branch.name,))) for branch in branches]
        if node.kind not in _PASSING and node.role != "container":
            break
    return []


def _flat_above(structure: Structure, names: Sequence[str]) -> Node | None:
    """The tensor that is flattened into what the first of these nodes passes on."""
    for node in _above(structure, names):
        if node.kind in _FLAT and node.parents and node.parents[0] in structure.by_name:
            source = structure.by_name[node.parents[0]]
            flat = node.shape is not None and source.shape is not None and len(node.shape) == 2
            if flat and _spatial(source.shape) and math.prod((source.shape or ())[1:]) == (node.shape or (0,))[-1]:
                return source
        if node.kind not in _PASSING and node.kind not in _FLAT and node.role != "container":
            return None
    return None


def _above(structure: Structure, names: Sequence[str]) -> Iterator[Node]:
    """The first of these nodes, and what each reads first, the nearest ones."""
    for _ in range(_MOST):
        if not names or names[0] not in structure.by_name:
            return
        node = structure.by_name[names[0]]
        yield node
        names = node.parents


def _behind(structure: Structure, atom: Atom) -> Node | None:
    """The tensor that a layer's output is reshaped into."""
    if atom.node < 0:
        return None
    node = structure.nodes[atom.node]
    if node.shape is None or len(node.shape) != 2:
        return None
    width = node.shape[-1]
    for _ in range(_MOST):
        children = [structure.by_name[c] for c in structure.children[node.name]]
        children = [c for c in children if c.role not in ("container", "inner")]
        if len(children) != 1:
            return None
        node = children[0]
        if node.kind in _FLAT and _spatial(node.shape) and math.prod((node.shape or ())[1:]) == width:
            return node
        if node.kind not in _PASSING:
            return None
    return None
