"""Which atom of one side is which of the other: through the tensor map, equal weights, and the order in between."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.alignment import atoms as atoms_
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.atoms import Atom, Slot, named_tag
from tracer.alignment.axes import Axes
from tracer.alignment.cells import written_out
from tracer.alignment.declared import as_declared
from tracer.alignment.layouts import alike_shapes
from tracer.alignment.owned import WHOLE, Key, key, listed
from tracer.alignment.roles import roles
from tracer.alignment.spanning import as_dense, spans
from tracer.alignment.twins import Twins, Weights
from tracer.graph import Structure

_FREE_KINDS = 0.6
_UNLIKE_NORMS = 0.5
BY_VALUES = 0.99
BY_ORDER = 0.85
BY_SCOPE = 0.8
BY_SHAPE = 0.6
IN_DOUBT = 0.5
_SMALL = 4096
"""Pairs of atoms in a gap up to which their names are compared."""
_MOST = 64
"""Candidates that are looked at for one atom."""


class Paired(Protocol):
    """What is read of a pair of the tensor map."""

    @property
    def reference(self) -> tuple[str, ...]: ...
    @property
    def candidate(self) -> tuple[str, ...]: ...
    @property
    def axes(self) -> Axes | None: ...
    @property
    def arrangement(self) -> Rearrangement | None: ...
    @property
    def confidence(self) -> float: ...


@dataclass(frozen=True)
class Side:
    """One model's parameters as atoms, in running order."""

    structure: Structure
    weights: Weights | None = None
    dense: frozenset[tuple[int, ...]] = frozenset()
    """Shapes of kernels for which a convolution that spans all it reads is taken for the dense layer that it is."""

    def facing(self, other: Side) -> Side:
        """The same, with convolutions taken for dense layers where the other side has these."""
        if not any(spans(atom, self.structure) for atom in self.atoms):
            return self
        return replace(self, dense=frozenset(atom.main.shape for atom in other.atoms if atom.kind == "dense"))

    @cached_property
    def atoms(self) -> tuple[Atom, ...]:
        found = [atom for i, node in enumerate(self.structure.nodes) if node.params for atom in self._of(i)]
        found = written_out(atoms_.cells(found, self.structure.nodes), self.structure)
        found = as_declared(found, self.structure, self.weights)
        if self.dense:
            found = [as_dense(atom, self.dense) if spans(atom, self.structure) else atom for atom in found]
        have = {key for atom in found for key in atom.keys}
        if self.weights is not None:
            found += self._lone([k for k in self.weights.shapes if k not in have and k not in self.weights.whole])
        played = roles(self.structure)
        names = {i: node.name for i, node in enumerate(self.structure.nodes) if node.name in played}
        found = [replace(a, plays=played[names[a.node]]) if a.node in names and not a.tag else a for a in found]
        return tuple(sorted(found, key=lambda atom: atom.order))

    def _of(self, index: int) -> list[Atom]:
        # A parameter that several nodes list (tied, or merged by an exporter) is the first one's; indices, counters and
        # masks are nobody's.
        found = []
        for atom in atoms_.of_node(self.structure.nodes[index], index):
            kept = tuple(slot for slot in atom.slots if not any(self._first.get(k) != index for k in slot.keys))
            if kept:
                found.append(
                    atom
                    if len(kept) == len(atom.slots)
                    else Atom(atom.kind, kept, atom.node, atom.order, atom.owner, atom.tag, atom.label)
                )
        return found

    @cached_property
    def _first(self) -> dict[Key, int]:
        first: dict[Key, int] = {}
        for i, node in enumerate(self.structure.nodes):
            for param in node.params:
                if param.dtype not in WHOLE:
                    first.setdefault(key(node, param), i)
        return first

    def _lone(self, keys: Sequence[Key]) -> list[Atom]:
        """Parameters that no node lists stand where the first node of their owner, or inside it, does."""
        assert self.weights is not None
        places: dict[str, int] = {}
        for i, node in enumerate(self.structure.nodes):
            parts = re.split(r"([./])", node.owner)
            for end in range(1, len(parts) + 1, 2):
                places.setdefault("".join(parts[:end]), i)
            places.setdefault("", i)
        last = len(self.structure.nodes)
        return [
            atoms_.of_lone(
                owner, name, self.weights.shapes[owner, name], places.get(owner, last) - 0.5 + i / (4 * len(keys))
            )
            for i, (owner, name) in enumerate(keys)
        ]

    @cached_property
    def of_name(self) -> dict[str, tuple[int, ...]]:
        """The atoms behind each node: its own, those of a shared layer's first call, those of the layer whose output
        before the activation it is."""
        by_node: dict[int, list[int]] = {}
        by_owner: dict[str, list[int]] = {}
        for number, atom in enumerate(self.atoms):
            by_node.setdefault(atom.node, []).append(number)
            if atom.node >= 0 and self.structure.nodes[atom.node].role == "layer":
                by_owner.setdefault(atom.owner, []).append(number)
        place = {node.name: i for i, node in enumerate(self.structure.nodes)}
        first = listed(self.structure.nodes)
        found = {}
        for node in self.structure.nodes:
            lister = first[node.name]
            # A further call may list the layer's parameters again: their atoms are the first call's.
            at = {self._first.get(key(lister, p), place[lister.name]) for p in lister.params} if lister else set()
            own = [number for where in sorted(at) for number in by_node.get(where, [])]
            if not own and node.role in ("activation", "item", "layer"):
                own = by_owner.get(node.owner, [])
            found[node.name] = tuple(own)
        return found

    @cached_property
    def _shared(self) -> frozenset[str]:
        return frozenset(node.owner for node in self.structure.nodes if node.call and node.owner)

    def shares(self, names: Iterable[str]) -> bool:
        """Whether one of these nodes is of a layer that is called several times."""
        nodes = self.structure.by_name
        return any(nodes[name].owner in self._shared for name in names if name in nodes)


@dataclass
class Match:
    """Two atoms that are the same; ``how`` says by which evidence."""

    reference: int
    candidate: int
    confidence: float
    how: str


@dataclass
class Matching:
    """The matches, by atom numbers; a shared layer's atom may be in several."""

    ours: Side
    theirs: Side
    same: Twins | None
    matches: list[Match] = field(default_factory=list)
    of_a: dict[int, list[Match]] = field(default_factory=dict)
    of_b: dict[int, list[Match]] = field(default_factory=dict)
    parts: list[Match] = field(default_factory=list)
    """Atoms of which one is a single parameter of the other, whose other parameters are in other atoms."""

    def add(self, i: int, j: int, confidence: float, how: str) -> None:
        match = Match(i, j, confidence, how)
        self.matches.append(match)
        self.of_a.setdefault(i, []).append(match)
        self.of_b.setdefault(j, []).append(match)

    def add_part(self, i: int, j: int, confidence: float, how: str) -> None:
        match = Match(i, j, confidence, how)
        self.parts.append(match)
        self.of_a.setdefault(i, []).append(match)
        self.of_b.setdefault(j, []).append(match)

    def left(self) -> tuple[list[int], list[int]]:
        """Atoms without a match on either side, in running order."""
        return (
            [i for i in range(len(self.ours.atoms)) if i not in self.of_a],
            [j for j in range(len(self.theirs.atoms)) if j not in self.of_b],
        )

    def equal(self, i: int, j: int) -> bool | None:
        """Whether two atoms hold the same values; None where that is not known."""
        return equal(self.ours.atoms[i], self.theirs.atoms[j], self.same, self.ours.weights, self.theirs.weights)


def match(ours: Side, theirs: Side, pairs: Iterable[Paired], same: Twins | None) -> Matching:
    """Match the atoms of two models."""
    found = Matching(ours, theirs, same)
    _through_pairs(found, pairs)
    if same is not None:
        _by_values(found)
    _in_gaps(found)
    _by_signature(found)
    return found


def fit(a: Atom, b: Atom) -> float:
    """How well two atoms go together by what they are for and their shapes: 0 (not at all) to 1."""
    if a.signature != b.signature or ("backward" in (a.tag, b.tag) and a.tag != b.tag):
        return 0.0
    free = "free" in (a.kind, b.kind)
    if a.kind == b.kind:
        value = 1.0 if not free or a.main.role == b.main.role else 0.9
    elif free:
        value = _FREE_KINDS
    elif a.kind in kinds.NORMALISATIONS and b.kind in kinds.NORMALISATIONS:
        value = _UNLIKE_NORMS
    elif {a.kind, b.kind} <= {"depthwise", "conv"} or (
        {a.kind, b.kind} <= {"embedding", "dense"} and a.main.shape == b.main.shape
    ):
        value = 0.3
    else:
        return 0.0
    if not free and a.main.shape != b.main.shape and a.kind == b.kind:
        return 0.0  # a kernel of (1, 3) is not one of (3, 1), nor 8 to 16 channels 16 to 8
    if free:
        return value
    roles = {s.role for s in a.slots}, {s.role for s in b.slots}
    return value - 0.05 * min(2, len(roles[0] ^ roles[1]))


def equal(a: Atom, b: Atom, same: Twins | None, ours: Weights | None, theirs: Weights | None) -> bool | None:
    """Whether the two hold the same values, of what says something; None where nothing does."""
    if same is None or ours is None or theirs is None:
        return None
    votes = []
    others = {slot.role: slot for slot in b.slots}
    for slot in a.slots:
        other = others.get(slot.role)
        if other is None or (slot.role == "bias" and (len(slot.keys) != len(other.keys) or slot.gates)):
            continue
        votes.append(_same_slot(slot, other, same, ours, theirs))
    if not votes and len(a.slots) == len(b.slots) == 1:
        votes.append(_same_slot(a.main, b.main, same, ours, theirs))
    known = [vote for vote in votes if vote is not None]
    return all(known) if known else None


def _same_slot(slot: Slot, other: Slot, same: Twins, ours: Weights, theirs: Weights) -> bool | None:
    if len(slot.keys) != 1 or len(other.keys) != 1:
        return None
    mine, theirs_ = slot.keys[0], other.keys[0]
    if mine not in ours.sketches or theirs_ not in theirs.sketches:
        return None
    if slot.part and not other.part:
        return any(theirs_ in run for run in same.split.get(mine, ())) or None
    if other.part and not slot.part:
        return any(mine in run for run in same.joined.get(theirs_, ())) or None
    return theirs_ in same.one.get(mine, ())


def _through_pairs(found: Matching, pairs: Iterable[Paired]) -> None:
    """Match the atoms of layers whose outputs are paired, the surest pairs first."""
    for pair in sorted(pairs, key=lambda p: -p.confidence):
        ours = _atoms_of(found.ours, pair.reference)
        theirs = _atoms_of(found.theirs, pair.candidate)
        if not ours or not theirs:
            continue
        again = found.ours.shares(pair.reference) or found.theirs.shares(pair.candidate)
        options = []
        for r, i in enumerate(reversed(ours)):
            for c, j in enumerate(reversed(theirs)):
                a, b = found.ours.atoms[i], found.theirs.atoms[j]
                value = fit(a, b)
                if value > 0:
                    # The tensors that are paired are the layers' outputs: what is nearer to the output goes first.
                    same = found.equal(i, j)
                    bonus = 0.5 * _tags(a, b) + (0.3 if same else 0) + 0.2 * _alike(a, b)
                    options.append((value + bonus - 0.01 * abs(r - c), value, i, j))
        used: tuple[set[int], set[int]] = set(), set()
        for _, value, i, j in sorted(options, key=lambda option: -option[0]):
            if i in used[0] or j in used[1] or any(m.candidate == j for m in found.of_a.get(i, ())):
                continue
            if (i in found.of_a or j in found.of_b) and not (again and not (i in found.of_a and j in found.of_b)):
                continue
            used[0].add(i)
            used[1].add(j)
            a, b = found.ours.atoms[i], found.theirs.atoms[j]
            sure = pair.confidence * (1.0 if value > 0.8 else 0.9)
            if not _tags(a, b) and (_projects(found.ours, a) or _projects(found.theirs, b)):
                sure = min(sure, BY_SHAPE)  # which of an attention's projections it is rests on their order
            found.add(i, j, max(sure, BY_VALUES) if found.equal(i, j) else sure, "their outputs are paired")
            _apart(found, i, j, (ours, theirs), sure)


def _apart(found: Matching, i: int, j: int, near: tuple[Sequence[int], Sequence[int]], sure: float) -> None:
    """Match what is left of a normalisation of one side, where the other has an atom for each of its parameters: those
    of one pair belong together, whatever else their module has."""
    whole, part = found.ours.atoms[i], found.theirs.atoms[j]
    swapped = len(whole.slots) < len(part.slots)
    if swapped:
        whole, part = part, whole
    if whole.kind not in kinds.NORMALISATIONS or part.kind != "free" or len(part.slots) != 1:
        return
    loose, side = (near[0], found.ours) if swapped else (near[1], found.theirs)
    have = found.of_a if swapped else found.of_b
    if part.node >= 0:  # the other half may be the operation before it, which is in no pair
        loose = [*dict.fromkeys([*loose, *_atoms_of(side, side.structure.nodes[part.node].parents)])]
    for slot in whole.slots:
        if slot.role == part.main.role:
            continue
        fits = [n for n in loose if n not in have and _is_part(side.atoms[n], slot)]
        if len(fits) == 1:
            found.add_part(fits[0] if swapped else i, j if swapped else fits[0], sure, "their outputs are paired")


def _is_part(atom: Atom, slot: Slot) -> bool:
    """Whether an atom is nothing but one parameter of a normalisation."""
    lone = atom.kind == "free" and len(atom.slots) == 1
    return lone and atom.main.role == slot.role and alike_shapes(atom.main, slot)


def _atoms_of(side: Side, names: Sequence[str]) -> list[int]:
    return sorted({number for name in names for number in side.of_name.get(name, ())})


def _projects(side: Side, atom: Atom) -> bool:
    """Whether it makes the queries, keys or values of a layer that does a whole attention."""
    return atom.tag in ("query", "key", "value") and side.structure.nodes[atom.node].kind == "attention"


def _tags(a: Atom, b: Atom) -> int:
    """1 where both say which projection they are and agree, -1 where they do not, 0 otherwise."""
    ours, theirs = (atom.tag or named_tag(atom.owner) or atom.plays for atom in (a, b))
    return 0 if not ours or not theirs else 1 if ours == theirs else -1


def _alike(a: Atom, b: Atom) -> float:
    """Share of the words that two atoms' names have in common."""
    ours, theirs = (set(_words(f"{atom.owner}/{atom.main.keys[0][1]}")) for atom in (a, b))
    return len(ours & theirs) / max(1, len(ours | theirs))


def _words(name: str) -> list[str]:
    # Numbers are left out: one side counts from nought, the other from one.
    return re.findall(r"[a-z]+", name.lower())


def _by_values(found: Matching) -> None:
    """Match what is left where the values are the same; of several with the same values those in order."""
    ours, theirs = found.left()
    of_key = {key: j for j in theirs for key in found.theirs.atoms[j].keys}
    taken: set[int] = set()
    assert found.same is not None
    for i in ours:
        atom = found.ours.atoms[i]
        near = {of_key[other] for other in _others(atom, found.same) if other in of_key} - taken
        good = [j for j in sorted(near) if found.equal(i, j) and fit(atom, found.theirs.atoms[j]) > 0]
        if good:
            good.sort(key=lambda j: (-_tags(atom, found.theirs.atoms[j]), j))
            taken.add(good[0])
            found.add(i, good[0], BY_VALUES, "equal values")


def _others(atom: Atom, same: Twins) -> Iterable[Key]:
    for own in atom.keys:
        yield from same.one.get(own, ())
        yield from same.wholes.get(own, ())
        for run in same.split.get(own, ()):
            yield from run


def _monotone(found: Matching) -> list[tuple[int, int]]:
    """The longest run of matches that keeps the order of both sides."""
    pairs = sorted({(m.reference, m.candidate) for m in found.matches}, key=lambda p: (p[0], -p[1]))
    tails: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for n, (_, j) in enumerate(pairs):
        place = bisect_right(tails, j - 1)
        before.append(at[place - 1] if place else -1)
        if place == len(tails):
            tails.append(j)
            at.append(n)
        else:
            tails[place], at[place] = j, n
    out: list[tuple[int, int]] = []
    n = at[-1] if at else -1
    while n >= 0:
        out.append(pairs[n])
        n = before[n]
    return out[::-1]


def gaps(found: Matching) -> tuple[dict[int, int], dict[int, int]]:
    """For every atom without a match the number of the gap, between matches in order, that it stands in."""
    anchors = _monotone(found)
    ours, theirs = found.left()
    starts = [i for i, _ in anchors], [j for _, j in anchors]
    return {i: bisect_right(starts[0], i) for i in ours}, {j: bisect_right(starts[1], j) for j in theirs}


def _in_gaps(found: Matching) -> None:
    """Match what stands between the same matched neighbours on both sides, in order."""
    mine, other = gaps(found)
    inside: dict[int, tuple[list[int], list[int]]] = {}
    for i, gap in mine.items():
        inside.setdefault(gap, ([], []))[0].append(i)
    for j, gap in other.items():
        inside.setdefault(gap, ([], []))[1].append(j)
    for ours, theirs in inside.values():
        if not ours or not theirs:
            continue
        score = _gap_scores(found, ours, theirs)
        many, few = (score > 0).sum(axis=1), (score > 0).sum(axis=0)
        for r, c in _heaviest(score):
            settled = many[r] == few[c]
            told = found.equal(ours[r], theirs[c])
            sure = BY_VALUES if told else BY_ORDER if settled else IN_DOUBT
            kind = fit(found.ours.atoms[ours[r]], found.theirs.atoms[theirs[c]])
            found.add(ours[r], theirs[c], sure * min(1.0, 0.4 + 0.6 * kind), "between matched neighbours")


def _gap_scores(found: Matching, ours: Sequence[int], theirs: Sequence[int]) -> NDArray[np.float32]:
    """How well each atom of one side goes with each of the other; names and values are looked at in small gaps only."""
    if len(ours) * len(theirs) <= _SMALL:
        return np.array([[_gap_score(found, i, j) for j in theirs] for i in ours], np.float32)
    sides = []
    for side, chosen in ((found.ours, ours), (found.theirs, theirs)):
        classes: dict[Any, int] = {}
        examples: list[Atom] = []
        codes = []
        for number in chosen:
            atom = side.atoms[number]
            what = (atom.kind, atom.tag or named_tag(atom.owner), tuple((s.role, s.shape) for s in atom.slots))
            if what not in classes:
                classes[what] = len(examples)
                examples.append(atom)
            codes.append(classes[what])
        sides.append((examples, codes))
    (mine, rows), (other, columns) = sides
    table = np.array([[fit(a, b) * (_tags(a, b) >= 0) for b in other] for a in mine], np.float32)
    return table[np.ix_(rows, columns)]


def _gap_score(found: Matching, i: int, j: int) -> float:
    a, b = found.ours.atoms[i], found.theirs.atoms[j]
    value = fit(a, b)
    tags = _tags(a, b)
    if value <= 0 or tags < 0:
        return 0.0
    same = found.equal(i, j)
    return value + 0.5 * tags + 0.3 * _alike(a, b) + (1.0 if same else 0.0)


def _heaviest(score: NDArray[np.float32]) -> list[tuple[int, int]]:
    """The heaviest set of cells that keeps the order; then, of what is left, the heaviest cells in whatever order."""
    rows, columns = score.shape
    best = np.zeros((rows + 1, columns + 1), np.float32)
    for r in range(rows):
        take = np.where(score[r] > 0, best[r, :-1] + score[r], 0)
        # Free gaps on the other side make the inner recurrence a running maximum.
        best[r + 1, 1:] = np.maximum.accumulate(np.maximum(best[r, 1:], take))
    chosen: list[tuple[int, int]] = []
    r, c = rows, columns
    while r and c:
        if best[r, c] == best[r - 1, c]:
            r -= 1
        elif best[r, c] == best[r, c - 1]:
            c -= 1
        else:
            r, c = r - 1, c - 1
            chosen.append((r, c))
    rest = score.copy()
    rest[[r for r, _ in chosen], :] = 0
    rest[:, [c for _, c in chosen]] = 0
    cells = np.argwhere(rest > 0)
    used: tuple[set[int], set[int]] = set(), set()
    for r, c in cells[np.argsort(-rest[cells[:, 0], cells[:, 1]], kind="stable")].tolist():
        if r not in used[0] and c not in used[1]:
            used[0].add(r)
            used[1].add(c)
            chosen.append((r, c))
    return sorted(chosen)


def _by_signature(found: Matching) -> None:
    """Match what is left and fits one atom only, on both sides, or stands in the same part of both models."""
    ours, theirs = found.left()
    by_shape = grouped(found.theirs.atoms, theirs)
    scopes = _Scopes(found)
    options: dict[tuple[int, int], float] = {}
    for i in ours:
        a = found.ours.atoms[i]
        for j in by_shape.get(a.signature, ())[:_MOST]:
            b = found.theirs.atoms[j]
            if fit(a, b) >= _FREE_KINDS and _tags(a, b) >= 0:
                options[i, j] = scopes.alike(a.owner, b.owner)
    rows, columns = (
        _best_two([(i, v) for (i, _), v in options.items()]),
        _best_two([(j, v) for (_, j), v in options.items()]),
    )
    for (i, j), value in options.items():
        lone = rows[i][1] is None and columns[j][1] is None
        clear = value > 0 and all(
            best == value and (second is None or value > 1.5 * second) for best, second in (rows[i], columns[j])
        )
        if lone or clear:
            how = "in the same part of both models" if clear else "the only ones of their shape that are left"
            found.add(i, j, BY_SCOPE if clear else BY_SHAPE, how)


def _best_two(values: Iterable[tuple[int, float]]) -> dict[int, tuple[float, float | None]]:
    """The largest and the second largest value of each number; None where there is no second."""
    out: dict[int, tuple[float, float | None]] = {}
    for number, value in values:
        best, second = out.get(number, (None, None))
        ranked = sorted((v for v in (best, second, value) if v is not None), reverse=True)
        out[number] = ranked[0], ranked[1] if len(ranked) > 1 else None
    return out


class _Scopes:
    """Which parts of the two models, by the paths of their layers, hold the same layers."""

    def __init__(self, found: Matching) -> None:
        self._both: Counter[tuple[str, str]] = Counter()
        self._ours: Counter[str] = Counter()
        self._theirs: Counter[str] = Counter()
        for m in found.matches:
            ours, theirs = (
                _ancestors(found.ours.atoms[m.reference].owner),
                _ancestors(found.theirs.atoms[m.candidate].owner),
            )
            self._ours.update(ours)
            self._theirs.update(theirs)
            self._both.update((x, y) for x in ours for y in theirs)

    def alike(self, ours: str, theirs: str) -> float:
        """How much of what is below an ancestor of one is below one of the other; smaller parts say more."""
        best = 0.0
        for x in _ancestors(ours):
            for y in _ancestors(theirs):
                common = self._both[x, y]
                if common:
                    total = self._ours[x] + self._theirs[y] - common
                    best = max(best, common / total / math.sqrt(total))
        return best


def _ancestors(owner: str) -> list[str]:
    """A path and those of everything around it, the root left out."""
    parts = re.split(r"([./])", owner)
    return ["".join(parts[:end]) for end in range(1, len(parts) + 1, 2)]


def grouped(atoms: Sequence[Atom], chosen: Iterable[int]) -> dict[tuple[int, ...], list[int]]:
    """Numbers of the chosen atoms by what they must have in common with another to go with it."""
    out: dict[tuple[int, ...], list[int]] = {}
    for number in chosen:
        out.setdefault(atoms[number].signature, []).append(number)
    return out
