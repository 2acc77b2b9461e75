"""Groups of several nodes: one layer on one side, what it is made of on the other.

A group is made where the structure leaves no doubt: one side is a single node of a kind in
:data:`~tracer.alignment.composites.COMPOSITES`, the other a piece of the graph that reads the same tensors, consists
of nothing but parts of that kind, and whose result alone goes on. What is no part stays without a twin, for it is the
finding: a missing or extra activation, layer or residual.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from tracer import kinds
from tracer.alignment import composites
from tracer.alignment.composites import LAYOUT, SAME, Case, Composite
from tracer.alignment.features import Features
from tracer.alignment.folding import Folding
from tracer.alignment.pieces import Side, alien, closed, forks, leaving, masking, tails
from tracer.graph import Node

Same = Callable[[int, int], float | None]
_LARGEST = 4096
"""Nodes of the largest piece that is looked at: a recurrent layer written out step by step has thousands."""
_FARTHEST = 200
"""Nodes without a twin that a look goes through: for each of thousands, all those before it would be a long look."""
_TRIES = 300_000
"""Looks at single nodes altogether: two models that have next to nothing in common are given up."""
_ARITHMETIC = frozenset(
    "add sub mul div power matmul dot concat stack mean pad crop clip neg sqrt rsqrt square sum reciprocal erf abs "  # noqa: SIM905
    "expand tile flip log std var norm where".split()
)
"""Kinds that stay within a group where the tensors above and below are known to be equal."""
_MASKING = frozenset({"add", "sub", "mul", "where", "masked_fill"})
"""What masks are made of, which all layers may share."""
_RECURRENT = frozenset({"lstm", "gru", "rnn"})


@dataclass(frozen=True)
class Group:
    """Nodes of both sides that compute one thing together.

    Attributes:
        reference, candidate: indices into the features' nodes in running order, the compared node last.
        what: words such as "GELU against its arithmetic".
    """

    reference: tuple[int, ...]
    candidate: tuple[int, ...]
    what: str


def groups(
    matched: Mapping[int, int], a: Features, b: Features, same: Same, equal: Iterable[tuple[int, int]] = ()
) -> list[Group]:
    """The groups among the nodes of two models that are paired one to one.

    Args:
        matched: candidate index by reference index. A group may pair its last nodes otherwise: it then takes
            precedence over the pairs in which its nodes are.
        a, b: features of the reference and of the candidate.
        same: agreement of two tensors' numbers, 1 for equal and 0 for different ones, None where unknown.
        equal: nodes of both sides whose weights are equal.

    Returns groups that share no node, in the reference's order. One of a single node on either side is a pair that the
    groups around it make certain.
    """
    finder = _Finder(matched, a, b, same, equal)
    finder.resolve()
    finder.fill()
    return sorted(finder.found, key=lambda group: group.reference[-1])


@dataclass(frozen=True)
class _Option:
    """A piece of the graph that may stand for a single node, and how well it does."""

    entry: Composite
    last: int
    nodes: frozenset[int]
    second: Mapping[int, int]
    rank: tuple[int, ...]

    def pads(self, kind: str, side: Side) -> bool:
        """Whether the piece is nothing but a node of this kind and padding before it."""
        found = {side.nodes[k].kind for k in self.nodes} - LAYOUT
        return found == {"pad", kind}


class _Finder:
    def __init__(
        self, matched: Mapping[int, int], a: Features, b: Features, same: Same, equal: Iterable[tuple[int, int]]
    ) -> None:
        self._sides = (Side(a, dict(matched)), Side(b, {j: i for i, j in matched.items()}))
        self._same = same
        self.found: list[Group] = []
        self._alike_weights: tuple[dict[int, set[int]], dict[int, set[int]]] = ({}, {})
        for i, j in equal:
            self._alike_weights[0].setdefault(i, set()).add(j)
            self._alike_weights[1].setdefault(j, set()).add(i)
        self._entries = {kind: composites.entries(kind) for side in self._sides for kind in side.kinds}
        self._folding = Folding(self._sides, self._agreement)
        self._weak = {i: j for i, j in matched.items() if self._is_weak(i, j)}
        for i, j in self._weak.items():
            del self._sides[0].twin[i], self._sides[1].twin[j]

    def _is_weak(self, i: int, j: int) -> bool:
        """Whether a pair is no obstacle: an activation with one step of another's arithmetic, or the like."""
        ours, theirs = self._sides[0].nodes[i], self._sides[1].nodes[j]
        if (self._same(i, j) or 0) >= SAME or ours.role == "input":
            return False
        if ours.kind == theirs.kind:  # a residual and the 1 + … within a GELU
            return ours.kind in kinds.COMBINING and len(ours.parents) != len(theirs.parents)
        return kinds.similarity(ours.kind, theirs.kind) < 0.6 or not (ours.params or theirs.params)

    def _agreement(self, side: int, ours: int, theirs: int) -> float | None:
        return self._same(ours, theirs) if side == 0 else self._same(theirs, ours)

    # Single nodes whose twin is the end of a piece.

    def resolve(self) -> None:
        """Pair single nodes with the pieces that stand for them, those that feed others first."""
        pending = [
            (index / max(1, len(side.nodes)), which, index)
            for which, side in enumerate(self._sides)
            for index, node in enumerate(side.nodes)
            if self._entries[node.kind] and not self._done(which, index)
        ]
        pending.sort()
        tried = 0
        while tried < _TRIES:
            tried += len(pending)
            left = [item for item in pending if not self._resolve(*item[1:])]
            if len(left) == len(pending) and not self._bridged():
                first = next((item for item in pending if self._resolve(*item[1:], padding=True)), None)
                # Behind a node that only one side has, its own finding, the piece reads something else.
                first = first or next((item for item in pending if self._resolve(*item[1:], astray=True)), None)
                first = first or next((item for item in pending if self._resolve(*item[1:], foreign=True)), None)
                if first is None:
                    return
                left.remove(first)
            pending = left

    def _bridged(self) -> bool:
        """Pair free nodes that do the same with the same tensors, which other pairs had kept apart."""
        a, b = self._sides
        found = False
        for i, node in enumerate(a.nodes):
            if not a.free(i) or not a.solid(i) or node.role == "item" or not a.parents[i]:
                continue
            parents = [a.twin.get(p) for p in a.parents[i]]
            if None in parents:
                continue
            rivals = [k for k in a.children[a.parents[i][0]] if a.free(k) and self._alike(a, k, a, i)]
            same = [j for j in b.children[parents[0] or 0] if b.free(j) and self._alike(a, i, b, j)]
            if len(rivals) == len(same) == 1 and list(b.parents[same[0]]) == parents:
                a.twin[i], b.twin[same[0]] = same[0], i
                self.found.append(Group((i,), (same[0],), "the same operation on the same tensors"))
                found = True
        return found

    @staticmethod
    def _alike(one: Side, i: int, other: Side, j: int) -> bool:
        a, b = one.features, other.features
        return (one.nodes[i].kind, a.dims[i], a.params[i]) == (other.nodes[j].kind, b.dims[j], b.params[j])

    def _resolve(
        self, which: int, single: int, padding: bool = False, astray: bool = False, foreign: bool = False
    ) -> bool:
        """Find the piece that stands for a single node; True where there is no more to find.

        ``padding`` says that a piece may be only what is padded and its padding, ``foreign`` that its weights may be
        those of another node.
        """
        ours, theirs = self._sides[which], self._sides[1 - which]
        if single in ours.held:
            return True
        node, twin = ours.nodes[single], ours.twin.get(single)
        settled = twin is not None and self._settled(which, single, twin)
        sources = self._sources(which, single, astray)
        if sources is None:
            return False
        inputs, passed = sources
        entries = [e for e in self._entries[node.kind] if len(ours.parents[single]) >= e.arity]
        options = self._options(which, single, inputs, passed, entries, settled, astray)
        if astray and not options and len(inputs) == 1:
            for further in theirs.after(*inputs):
                # What may be a part comes before only where there would be too many of them.
                kind = theirs.nodes[further].kind
                apart = [e for e in entries if e.forks or kind not in e.parts or self._whole(which, single, inputs, e)]
                options = options or self._options(which, single, frozenset({further}), passed, apart, settled, astray)
        if not foreign:
            options = [o for o in options if not self._foreign(which, single, o.nodes)]
        if astray and not options:
            options = self._owned(which, single, inputs, passed, entries)
        if not (padding or astray):
            options = [o for o in options if not o.pads(node.kind, theirs)]
        tail: frozenset[int] = frozenset()
        if not options and node.kind in _RECURRENT:
            for tail in tails(ours, single):
                options = self._options(which, single, inputs, passed, entries, False, astray, max(tail))
                if options:
                    break
        if not options:
            return False
        best = max(options, key=lambda option: option.rank)
        self._take(which, single, passed, best, tail)
        return True

    def _foreign(self, which: int, single: int, piece: Collection[int]) -> bool:
        """Whether the weights of a piece are not a node's own, which are those of other nodes without a twin."""
        theirs = self._sides[1 - which]
        own = self._alike_weights[which].get(single, set())
        return own.isdisjoint(piece) and any(map(theirs.free, own))

    def _owned(
        self, which: int, single: int, inputs: frozenset[int], passed: frozenset[int], entries: list[Composite]
    ) -> list[_Option]:
        """The pieces with a node's own weights, behind others that only the other side has."""
        theirs = self._sides[1 - which]
        own = {k for k in self._alike_weights[which].get(single, ()) if theirs.free(k)}
        if len(own) != 1:
            return []
        for source in theirs.before(*own):
            if theirs.reaches(inputs, source):
                options = self._options(which, single, frozenset({source}), passed, entries, False, False)
                options = [o for o in options if own <= o.nodes]
                if options:
                    return options
        return []

    def _options(
        self,
        which: int,
        single: int,
        inputs: frozenset[int],
        passed: frozenset[int],
        entries: list[Composite],
        settled: bool,
        astray: bool,
        shown: int | None = None,
    ) -> list[_Option]:
        """The pieces that read ``inputs`` and may stand for a single node, with the tensor of ``shown``."""
        ours, theirs = self._sides[which], self._sides[1 - which]
        shown = single if shown is None else shown
        ended = ours.twin.get(shown) if shown != single else None
        own = self._own(which, single) | (frozenset() if ended is None else {ended})
        allowed = LAYOUT.union(*(e.parts for e in entries), kinds.ACTIVATIONS if astray else ())
        ends = [e for e in self._reached(theirs, inputs, allowed, own) if self._fits(ours, shown, theirs, e)]
        below = {ours.twin[c] for c in ours.children[shown] if c in ours.twin}
        options = []
        for end in ends:
            agreement = self._agreement(which, shown, end)
            equal = agreement is not None and agreement >= SAME
            if (settled and not equal) or ended not in (None, end):
                continue
            for entry in entries:
                piece = self._piece(theirs, end, inputs, entry, own, astray)
                if piece is None or len([i for i in piece if theirs.solid(i)]) < 2:
                    continue
                if ended is not None and sum(bool(theirs.nodes[i].params) for i in piece) < 2:
                    continue  # one layer against one: that their last states are a pair says nothing of the layers
                second = self._second(which, single, piece, end)
                if second is None:
                    continue
                known_kinds = entry.parts | LAYOUT
                piece = frozenset(k for k in piece if theirs.nodes[k].kind in known_kinds or theirs.given(k))
                if not self._stands(which, single, passed, piece, end, entry):
                    continue
                size = theirs.weights(piece)[1]
                anchored = bool(below) and below <= set(theirs.children[end])
                known = self._numbers(theirs, piece, entry)
                # Where it cannot be seen which numbers are used, a last factor may be missing, as a last step may be:
                # what follows decides.
                vague = entry.steps or (bool(entry.constants) and known is None)
                rank = (equal, size, known is not False, vague and anchored, len(piece) if vague else -len(piece))
                options.append(_Option(entry, end, piece, second, rank))
        return options

    def _whole(self, which: int, single: int, inputs: frozenset[int], entry: Composite) -> bool:
        """Whether there is a piece between ``inputs`` and a tensor like the node's, whatever it is made of."""
        theirs, own = self._sides[1 - which], self._own(which, single)
        ends = self._reached(theirs, inputs, entry.parts | LAYOUT, own)
        return any(
            self._fits(self._sides[which], single, theirs, end)
            and self._piece(theirs, end, inputs, entry, own, False) is not None
            for end in ends
        )

    def _done(self, which: int, single: int) -> bool:
        """Whether a node has the twin that it looks like, and nothing speaks against it."""
        twin = self._sides[which].twin.get(single)
        if twin is None or not self._settled(which, single, twin):
            return False
        agreement = self._agreement(which, single, twin)
        return agreement is None or agreement >= SAME

    def _settled(self, which: int, single: int, twin: int) -> bool:
        """Whether a single node has a twin that is as it is: there is nothing to look for."""
        ours, theirs = self._sides[which], self._sides[1 - which]
        kind = ours.nodes[single].kind
        if kind in kinds.WEIGHTED and theirs.kinds["batchnorm"] and not ours.kinds["batchnorm"]:
            return False  # where one model has no normalisation at all, the other's may be folded into its weights
        return self._alike(ours, single, theirs, twin)

    def _sources(self, which: int, index: int, astray: bool) -> tuple[frozenset[int], frozenset[int]] | None:
        """The twins of what a node reads, and the free layout nodes that were looked through; None if one has none.

        ``astray`` looks through whatever has no twin, if that is not too much.
        """
        side = self._sides[which]
        found: set[int] = set()
        passed: set[int] = set()
        seen: set[int] = set()
        queue = list(side.parents[index])
        while queue:
            parent = queue.pop()
            if parent in side.twin:
                found.add(side.twin[parent])
            elif side.nodes[parent].kind in LAYOUT | {"pad"} and side.free(parent) and side.parents[parent]:
                if parent not in passed:
                    passed.add(parent)
                    queue += side.parents[parent]
            elif astray and side.free(parent) and parent not in seen and len(seen) < _FARTHEST:
                seen.add(parent)
                queue += side.parents[parent]
            elif parent not in seen and (side.parents[parent] or side.nodes[parent].role == "input"):
                return None
        return (frozenset(found), frozenset(passed)) if found else None

    def _items(self, which: int, single: int) -> list[int]:
        side = self._sides[which]
        return [c for c in side.children[single] if side.nodes[c].role == "item"]

    def _second(self, which: int, single: int, piece: Collection[int], end: int) -> dict[int, int] | None:
        """The twin of a further output of a single node within its piece: what goes on from there besides the end.

        Empty where nothing does; None where something does that cannot be told.
        """
        ours, theirs = self._sides[which], self._sides[1 - which]
        exits = leaving(theirs, piece, end, self._own(which, single))
        if not exits:
            return {}
        items = [c for c in self._items(which, single) if c not in ours.twin and ours.children[c]]
        alike = len(items) == len(exits) == 1 and self._fits(ours, items[0], theirs, exits[0])
        return {items[0]: exits[0]} if alike else None

    def _own(self, which: int, single: int) -> frozenset[int]:
        """The twins of a single node and of its further outputs: they may lie within its piece."""
        side, items = self._sides[which], self._items(which, single)
        return frozenset(side.twin[k] for k in (single, *items) if k in side.twin) - self._sides[1 - which].held

    @staticmethod
    def _open(side: Side, index: int, own: Collection[int]) -> bool:
        """Whether a node may be part of a piece: it has no twin but the single node itself."""
        return side.free(index) or index in own

    def _reached(
        self, side: Side, inputs: Collection[int], allowed: Collection[str], own: Collection[int]
    ) -> list[int]:
        """The nodes that come from ``inputs`` through nodes that may be parts."""
        seen: set[int] = set()
        queue = [c for i in inputs for c in side.children[i]]
        while queue and len(seen) < _LARGEST:
            index = queue.pop()
            if index in seen or not side.solid(index) or not self._open(side, index, own):
                continue
            if side.nodes[index].kind in allowed:
                seen.add(index)
                queue += side.children[index]
        return sorted(seen)

    def _fits(self, ours: Side, single: int, theirs: Side, end: int) -> bool:
        one, other = ours.features.dims[single], theirs.features.dims[end]
        return one is None or other is None or one == other

    def _piece(
        self, side: Side, end: int, inputs: frozenset[int], entry: Composite, own: Collection[int], astray: bool
    ) -> frozenset[int] | None:
        """All that lies between ``inputs`` and ``end``; None where something else comes in.

        ``astray``, it need not read all of the inputs, and may hold one activation that is no part.
        """
        piece: set[int] = set()
        foreign = 0
        touched: set[int] = set()
        spare = LAYOUT | _MASKING if entry.extra else LAYOUT
        left = {some: count for some, count in entry.most.items() if not some & spare}
        queue = [end]
        while queue:
            index = queue.pop()
            if index in inputs:
                touched.add(index)
            elif index not in piece:
                kind = side.nodes[index].kind
                part = self._open(side, index, own) and (kind in entry.parts or kind in LAYOUT or side.given(index))
                if not part and entry.extra and masking(side, index, inputs):
                    continue
                foreign += not part
                if not part and not (astray and foreign == 1 and alien(side, index)):
                    return None
                piece.add(index)
                queue += side.parents[index]
                for some in left:
                    left[some] -= kind in some and kind in entry.parts and not side.given(index)
                if len(piece) > _LARGEST or any(count < 0 for count in left.values()):
                    return None
        if touched != inputs and not (astray and touched):
            return None
        inside = closed(side, piece, end, own, spare)
        if entry.forks and not forks(side, inside, inputs):
            return None
        return frozenset(inside)

    def _stands(
        self, which: int, single: int, before: frozenset[int], piece: frozenset[int], end: int, entry: Composite
    ) -> bool:
        """Whether a piece has what the entry asks for."""
        ours, theirs = self._sides[which], self._sides[1 - which]
        if not entry.admits(theirs.counted(piece)):
            return False
        one, many = ours.weights([single]), theirs.weights(piece)
        if one[0] != many[0] or (not one[1] and many[1]) or (entry.params == "within" and many[1] > one[1]):
            return False
        if entry.check is None:
            return not any(ours.nodes[k].kind == "pad" for k in before)
        return entry.check(self._case(which, single, before, piece, end))

    def _case(self, which: int, single: int, before: Collection[int], piece: Collection[int], end: int) -> Case:
        ours, theirs = self._sides[which], self._sides[1 - which]
        by_name = {theirs.nodes[i].name: i for i in piece}

        def agreement(part: Node) -> float | None:
            return self._agreement(which, single, by_name[part.name])

        return Case(
            ours.described(single),
            [ours.described(k) for k in before],
            [theirs.described(k) for k in sorted(piece)],
            theirs.described(end),
            agreement,
            self._inputs_agree(which, single),
            ours.kinds,
            self._folding.known,
            theirs.kinds["batchnorm"] > 1 and not ours.kinds["batchnorm"] and not self._folding.forgotten,
        )

    def _inputs_agree(self, which: int, index: int) -> bool | None:
        side = self._sides[which]
        known = [self._agreement(which, p, side.twin[p]) for p in side.parents[index] if p in side.twin]
        values = [value for value in known if value is not None]
        return all(value >= SAME for value in values) if values else None

    @staticmethod
    def _numbers(side: Side, piece: Collection[int], entry: Composite) -> bool | None:
        """Whether the entry's constants occur; None where not all numbers are known, or none are asked for."""
        if not entry.constants:
            return None
        used: set[float] = set()
        known = True
        for index in piece:
            node = side.nodes[index]
            numbers = node.config.get("args", ())
            if isinstance(numbers, list | tuple) and numbers:
                used |= {round(float(n), 4) for n in numbers if isinstance(n, int | float)}
            elif node.kind in ("add", "sub", "mul", "div") and len(node.parents) < 2:
                known = False
        if all(used & {round(number, 4) for number in some} for some in entry.constants):
            return True
        return False if known else None

    def _take(self, which: int, single: int, passed: frozenset[int], option: _Option, tail: frozenset[int]) -> None:
        ours, theirs = self._sides[which], self._sides[1 - which]
        shown = max(tail, default=single)
        for side, index in ((ours, single), (theirs, option.last)):
            old = side.twin.pop(index, None)
            if old is not None:
                (theirs if side is ours else ours).twin.pop(old, None)
        ours.twin[shown], theirs.twin[option.last] = option.last, shown
        one = {i for i in passed if all(c == single or c in passed for c in ours.children[i] if ours.solid(c))}
        for item, twin in option.second.items():
            ours.twin[item], theirs.twin[twin] = twin, item
            one_each = ((item,), (twin,))
            self.found.append(Group(one_each[which], one_each[1 - which], "further output of a layer"))
        if theirs.nodes[option.last].kind == "batchnorm" and ours.nodes[single].kind != "batchnorm":
            self._folding.known = True
        words = option.entry.words({theirs.nodes[k].kind for k in option.nodes})
        self._add(which, one | {single} | tail, shown, set(option.nodes), option.last, words)

    def _add(self, which: int, one: set[int], end: int, many: set[int], other_end: int, what: str) -> None:
        sides = []
        for side, some, last in (
            (self._sides[which], one, end), (self._sides[1 - which], many, other_end),
        ):  # fmt: skip
            inner = {k for k in some | side.between(some) | side.loose(some) if k not in side.twin} - {last}
            side.held |= inner
            sides.append((*sorted(inner), last))
        if which:
            sides.reverse()
        self.found.append(Group(sides[0], sides[1], what))

    # Pairs whose twins are right, with nodes before them that belong to either.

    def fill(self) -> None:
        """Take free nodes into the groups of the pairs that they lead to."""
        a, b = self._sides
        for i, j in self._weak.items():
            if a.free(i) and b.free(j):
                a.twin[i], b.twin[j] = j, i
        done = {group.reference[-1] for group in self.found}
        for i, j in sorted(self._sides[0].twin.items()):
            if i not in done and i not in self._sides[0].held and j not in self._sides[1].held:
                self._fill(i, j)

    def _fill(self, i: int, j: int) -> None:
        left, right = self._above(self._sides[0], i), self._above(self._sides[1], j)
        if left is None or right is None:
            return
        (ours, sources), (theirs, others) = left, right
        if len(ours) == len(theirs) == 1 or {self._sides[0].twin[s] for s in sources} != others:
            return
        what = self._known(i, j, ours, theirs, sources) or self._equal(i, j, ours, theirs, sources)
        if what:
            self._add(0, set(ours), i, set(theirs), j, what)

    def _above(self, side: Side, end: int) -> tuple[frozenset[int], frozenset[int]] | None:
        """A node with the free ones that lead to it alone, and what all of them read; None where that has no twin."""
        piece: set[int] = set()
        queue = [end]
        while queue:
            index = queue.pop()
            if index in piece or (index != end and not side.free(index)):
                continue
            piece.add(index)
            queue += side.parents[index]
            if len(piece) > _LARGEST:
                return None
        inside = closed(side, piece, end)
        if leaving(side, inside, end):
            return None
        sources = {p for i in inside for p in side.parents[i]} - inside
        return (frozenset(inside), frozenset(sources)) if all(s in side.twin for s in sources) else None

    def _known(
        self, i: int, j: int, ours: frozenset[int], theirs: frozenset[int], sources: frozenset[int]
    ) -> str | None:
        """The words of the table's entry by which two pieces are the same, if there is one."""
        pieces, ends = (ours, theirs), (i, j)
        counts = [side.counted(piece) for side, piece in zip(self._sides, pieces, strict=True)]
        for which in (0, 1):
            computing = [k for k in pieces[which] if self._sides[which].nodes[k].kind not in LAYOUT | {"pad"}]
            if computing != [ends[which]]:
                continue
            inputs = sources if which else frozenset(self._sides[0].twin[s] for s in sources)
            many = pieces[1 - which]
            for entry in self._entries[self._sides[which].nodes[ends[which]].kind]:
                if len(self._sides[which].parents[ends[which]]) < entry.arity or not entry.admits(counts[1 - which]):
                    continue
                if entry.forks and not forks(self._sides[1 - which], many, inputs):
                    continue
                before = pieces[which] - {ends[which]}
                if self._stands(which, ends[which], before, many, ends[1 - which], entry):
                    return entry.words(counts[1 - which])
        kernels = [side.weights(piece)[0] for side, piece in zip(self._sides, pieces, strict=True)]
        if kernels[0] != kernels[1]:
            return None
        agreement = self._same(i, j)
        if agreement is not None and agreement < 0.5:
            return None
        for entry in composites.COMPOSITES:
            if entry.both and all(entry.admits(found) for found in counts):
                return entry.what.partition(" against ")[0] + " on both sides"
        return None

    def _equal(
        self, i: int, j: int, ours: frozenset[int], theirs: frozenset[int], sources: frozenset[int]
    ) -> str | None:
        """Whether arithmetic leads from equal tensors to equal ones on both sides."""
        if (self._same(i, j) or 0) < SAME:
            return None
        if any((self._same(s, self._sides[0].twin[s]) or 0) < SAME for s in sources):
            return None
        inner = {self._sides[0].nodes[k].kind for k in ours - {i}} | {
            self._sides[1].nodes[k].kind for k in theirs - {j}
        }
        if inner <= LAYOUT:
            return "the same values in another arrangement"
        return "the same values by other arithmetic" if inner <= LAYOUT | _ARITHMETIC else None
