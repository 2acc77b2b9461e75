"""A model's graph as the groups see it: which nodes are taken, and what makes a piece of it whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from tracer import kinds
from tracer.alignment.composites import LAYOUT
from tracer.alignment.features import TRANSPARENT, Features
from tracer.graph import Node


@dataclass
class Side:
    """One model: its graph, and which of its nodes are taken."""

    features: Features
    twin: dict[int, int]
    held: set[int] = field(default_factory=set)
    """Nodes of groups that are not compared."""

    def __post_init__(self) -> None:
        self.nodes = self.features.nodes
        self.parents, self.children = self.features.parents, self.features.children
        self.kinds = Counter(node.kind for node in self.nodes)
        self._raw: list[list[int]] = [
            [self.features.index[name] for name in node.parents if name in self.features.index] for node in self.nodes
        ]
        self._readers: list[list[int]] = [[] for _ in self.nodes]
        for index, above in enumerate(self._raw):
            for p in above:
                self._readers[p].append(index)
        self._first = {(n.owner, n.kind): n.params for n in reversed(self.nodes) if n.params}

    def free(self, index: int) -> bool:
        return index not in self.twin and index not in self.held and self.nodes[index].role != "input"

    def given(self, index: int) -> bool:
        """Whether a tensor is computed from none: a constant, or a parameter that nothing describes."""
        node = self.nodes[index]
        return not node.parents and node.role != "input" and node.kind not in kinds.WEIGHTED and self.free(index)

    def solid(self, index: int) -> bool:
        """Whether a node is there for itself, and not merely passes on what others made."""
        return self.nodes[index].kind not in TRANSPARENT

    def described(self, index: int) -> Node:
        """The node, a further call of a shared layer with the parameters of the first."""
        node = self.nodes[index]
        if node.params or not node.call:
            return node
        return replace(node, params=self._first.get((node.owner, node.kind), ()))

    def weights(self, some: Iterable[int]) -> tuple[int, int]:
        """Elements in the kernels, and in all parameters, of these nodes together; shared ones count once."""
        found: dict[tuple[str, str, tuple[int, ...]], int] = {}
        for index in some:
            node = self.nodes[index]
            for param in self.described(index).params:
                size = 1
                for length in param.shape:
                    size *= length
                found[node.owner, param.name, param.shape] = size
        kernels = {
            key: size
            for key, size in found.items()
            if "bias" not in key[1] and sum(d != 1 for d in key[2]) > 1 and key[1] != "constant"
        }
        return sum(kernels.values()), sum(found.values())

    def between(self, some: Collection[int]) -> set[int]:
        """Transparent nodes within a piece: they lead to it alone, and do not come before all of it."""
        found: set[int] = set()
        queue = [p for index in some for p in self._raw[index]]
        while queue:
            index = queue.pop()
            if index not in found and index not in some and not self.solid(index) and self.free(index):
                found.add(index)
                queue += self._raw[index]
        changed = True
        while changed:
            outside = {i for i in found if not all(r in found or r in some for r in self._readers[i])}
            changed = bool(outside)
            found -= outside
        return {
            i
            for i in found
            if not self.parents[i] or self.nodes[i].kind == "split" or any(p in some for p in self.parents[i])
        }

    def counted(self, some: frozenset[int]) -> Counter[str]:
        """How many nodes of each kind these are, with what leads to them alone, constants left out."""
        return Counter(self.nodes[k].kind for k in some | self.between(some) if not self.given(k))

    def after(self, start: int, most: int = 4) -> list[int]:
        """Free nodes that come after ``start``, nearest first."""
        found: list[int] = []
        queue = [start]
        while queue and len(found) < most:
            ahead = [c for c in self.children[queue.pop(0)] if self.solid(c) and self.free(c) and c not in found]
            found += ahead
            queue += ahead
        return found[:most]

    def before(self, end: int, most: int = 12) -> list[int]:
        """Free nodes that come before ``end``, nearest first."""
        found: list[int] = []
        queue = [end]
        while queue and len(found) < most:
            ahead = [p for p in self.parents[queue.pop(0)] if self.solid(p) and self.free(p) and p not in found]
            found += ahead
            queue += ahead
        return found[:most]

    def reaches(self, starts: Collection[int], end: int) -> bool:
        """Whether free nodes alone lead from one of ``starts`` to a node."""
        seen, queue = {end}, [end]
        while queue:
            for parent in self.parents[queue.pop()]:
                if parent in starts:
                    return True
                if parent not in seen and self.free(parent):
                    seen.add(parent)
                    queue.append(parent)
        return False

    def loose(self, some: Collection[int]) -> set[int]:
        """Further outputs of these nodes that nothing reads."""
        return {
            c
            for index in some
            for c in self.children[index]
            if self.nodes[c].role == "item" and not self.children[c] and self.free(c)
        }


def leaving(side: Side, piece: Collection[int], end: int, own: Collection[int] = ()) -> list[int]:
    """The nodes of a piece, but for its end, that something else reads."""
    return [
        i
        for i in piece
        if i != end
        and i not in own
        and any(
            c not in piece and side.solid(c) and not (side.nodes[c].role == "item" and not side.children[c])
            for c in side.children[i]
        )
    ]


def closed(
    side: Side, piece: set[int], end: int, own: Collection[int] = (), spare: Collection[str] = LAYOUT
) -> set[int]:
    """``piece`` without what others read too, where that and all before it is of the ``spare`` kinds."""
    inside = set(piece)
    while True:
        shared = {i for i in leaving(side, inside, end, own) if side.nodes[i].kind in spare}
        queue = [p for i in shared for p in side.parents[i]]
        before: set[int] = set()
        while queue:
            index = queue.pop()
            if index in inside and index not in before:
                before.add(index)
                queue += side.parents[index]
        if not shared or any(side.nodes[i].kind not in spare or side.nodes[i].params for i in before | shared):
            return inside
        inside -= shared


def forks(side: Side, piece: Collection[int], inputs: Collection[int]) -> bool:
    """Whether what comes in is read at least twice within a piece."""
    sources = set(inputs)
    entering: set[int] = set()
    for index in sorted(piece):
        if any(p in sources for p in side.parents[index]):
            if side.nodes[index].kind in LAYOUT:
                sources.add(index)
            else:
                entering.add(index)
    return len(entering) > 1


def tails(side: Side, single: int) -> list[frozenset[int]]:
    """Nodes that take a step out of a layer's output and are all that reads it, each with those before.

    The last may have a twin of its own: equal values pair the step with the other side's last layer.
    """
    found: list[frozenset[int]] = []
    before: dict[int, frozenset[int]] = {single: frozenset()}
    queue = [c for c in side.children[single] if side.solid(c)]
    while queue:
        index = queue.pop(0)
        kind = side.nodes[index].kind
        parents = side.parents[index]
        if index in before or index in side.held or not (kind in LAYOUT or kind == "concat"):
            continue
        if not parents or any(p not in before for p in parents):
            continue  # looked at again from the last of them
        tail = frozenset({index}).union(*(before[p] for p in parents))
        if not leaving(side, tail | {single}, index):
            found.append(tail)
        if side.free(index):
            before[index] = tail
            queue += [c for c in side.children[index] if side.solid(c)]
    return found


def alien(side: Side, index: int) -> bool:
    """Whether a node may stand within a piece that it is no part of: an activation that only one side has."""
    kind = side.nodes[index].kind
    return side.free(index) and kind in kinds.ACTIVATIONS and len(side.parents[index]) == 1


def masking(side: Side, index: int, inputs: Collection[int]) -> bool:
    """Whether a tensor that comes in from elsewhere is a mask or the like: not computed from ``inputs``."""
    seen: set[int] = set()
    queue = [index]
    while queue:
        index = queue.pop()
        node = side.nodes[index]
        if index in inputs or (
            not side.free(index) and node.role != "input" and str(node.dtype or "float").startswith(("float", "bf"))
        ):
            return False
        if index not in seen and side.free(index):
            seen.add(index)
            queue += side.parents[index]
    return True
