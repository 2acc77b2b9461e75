"""The parameter map: whose weights go where, and how they are laid out there.

It differs from the tensor map wherever one layer of one side is several of the other, or computes something else with
the same weights: a transposed convolution with a crop behind it, a GRU of which only the last step is taken, separable
convolutions, bidirectional and fused layers, a BatchNorm folded into a convolution, three LSTM layers in one module.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import relayout
from tracer.alignment.atoms import Slot, named_tag
from tracer.alignment.axes import Axes
from tracer.alignment.features import ARRANGING
from tracer.alignment.flattened import Flattened, Turned
from tracer.alignment.fused import fuse
from tracer.alignment.layouts import (
    RUNS,
    UNSETTLED,
    Slots,
    alike_shapes,
    common_role,
    in_words,
    joined_words,
    may_pair,
    moved_axes,
    read_axis,
    run_words,
    same_words,
)
from tracer.alignment.matching import Match, Matching, Paired, Side, fit, grouped, match
from tracer.alignment.owned import WHOLE, Key, described
from tracer.alignment.relayout import Steps, in_runs, rows
from tracer.alignment.twins import CLOSE, Twins, Weights
from tracer.errors import TraceError
from tracer.graph import Structure

FOLDED = "scaled by BatchNorm"
SHIFTED = "shifted by BatchNorm"
INTO_WEIGHTS = "folded into the weights of"


@dataclass(frozen=True)
class Piece:
    """Parameters that are equal when each side's are read by its steps; see :mod:`tracer.alignment.relayout`."""

    reference: tuple[Key, ...]
    reference_steps: Steps
    candidate: tuple[Key, ...]
    candidate_steps: Steps


@dataclass(frozen=True)
class ParameterPair:
    """Parameters of the reference and those of the candidate that hold, or should hold, the same.

    Attributes:
        reference, candidate: owner and name of each, several where one framework keeps as one what the other splits.
        axes: for one parameter against one whose axes are only moved: which axis of the candidate each of the
            reference's is, None for one of length one that the candidate lacks; None for every other relation.
        relation: how the one becomes the other, in words: ``transpose``, ``gates ifco→ifgo`` …
        confidence: 0 to 1.
        evidence: how they were found, in words.
        role: what they are for: ``kernel``, ``bias``, ``gamma`` …, the same in every framework.
        pieces: how to compare them.
    """

    reference: tuple[Key, ...]
    candidate: tuple[Key, ...]
    axes: Axes | None
    relation: str
    confidence: float
    evidence: str
    role: str = ""
    pieces: tuple[Piece, ...] = field(default=(), compare=False)

    @property
    def comparable(self) -> bool:
        """Whether the two hold the same values when read by their pieces."""
        return not self.relation.startswith((FOLDED, SHIFTED, UNSETTLED))

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": [list(key) for key in self.reference],
            "candidate": [list(key) for key in self.candidate],
            "axes": None if self.axes is None else list(self.axes),
            "relation": self.relation,
            "confidence": round(self.confidence, 4),
            "evidence": self.evidence,
        }


@dataclass(frozen=True)
class ParameterMap:
    """All pairs in the reference's order, and what has no twin, with the reason."""

    pairs: tuple[ParameterPair, ...] = ()
    unmatched_reference: Mapping[Key, str] = field(default_factory=dict)
    unmatched_candidate: Mapping[Key, str] = field(default_factory=dict)


def parameter_map(
    reference: Structure,
    candidate: Structure,
    pairs: Iterable[Paired],
    weights: tuple[Weights, Weights] | None = None,
    same: Twins | None = None,
) -> ParameterMap:
    """Whose weights go where.

    Args:
        pairs: the tensor map.
        weights: what is stored of both sides' weights, if anything: it also names parameters that no node lists.
        same: which of them hold the same values (:func:`tracer.alignment.twins.twins`); None where the candidate has
            weights of its own.
    """
    tensor_map = tuple(pairs)
    ours = Side(reference, weights[0] if weights else None)
    theirs = Side(candidate, weights[1] if weights else None)
    found = match(ours.facing(theirs), theirs.facing(ours), tensor_map, same)
    fused = fuse(found)
    builder = _Builder(found, tensor_map)
    for m in found.matches:
        builder.take(m)
    for m in found.parts:
        builder.take_part(m)
    for several, one, swapped in fused:
        builder.take_fused(several, one, swapped)
    builder.residual()
    return builder.result()


class Places:
    """Under which layer and parameter of the reference each of the candidate's is stored, each place once.

    What is one to one lies under the reference's own name; where several are one, the candidate's keep their names
    under the reference's layer; what has no twin stays where it is.
    """

    def __init__(self, pairs: Iterable[ParameterPair]) -> None:
        self._of: dict[Key, Key] = {}
        self._taken: set[Key] = set()
        for pair in pairs:
            alone = len(pair.reference) == len(pair.candidate) == 1
            for theirs in pair.candidate:
                if theirs not in self._of:
                    self._take(theirs, pair.reference[0] if alone else (pair.reference[0][0], theirs[1]))

    def __getitem__(self, key: Key) -> Key:
        if key not in self._of:
            self._take(key, key)
        return self._of[key]

    def _take(self, key: Key, place: Key) -> None:
        number, free = 1, place
        while free in self._taken:
            number += 1
            free = place[0], f"{place[1]}_{number}"
        self._taken.add(free)
        self._of[key] = free


class _Builder:
    """Turns matched atoms into pairs of parameters and gathers what is left over."""

    def __init__(self, found: Matching, tensor_map: Sequence[Paired]) -> None:
        self.found = found
        self.flat = Flattened(found.ours.structure, found.theirs.structure, tensor_map)
        self.pieces: list[Slots] = []
        self.done: tuple[set[int], set[int]] = set(), set()
        self.loose: tuple[dict[int, list[Slot]], dict[int, list[Slot]]] = {}, {}
        self.partner: dict[int, int] = {}
        self.folded: dict[int, tuple[int, int]] = {}
        self._kept: dict[tuple[int, int], bool] = {}

    def take(self, m: Match) -> None:
        a, b = self.found.ours.atoms[m.reference], self.found.theirs.atoms[m.candidate]
        self.done[0].add(m.reference)
        self.done[1].add(m.candidate)
        self.partner[m.reference] = m.candidate
        left, right = list(a.slots), list(b.slots)
        chosen = []
        for slot in a.slots:
            other = next((o for o in right if common_role(o) == common_role(slot) and may_pair(slot, o)), None)
            if other is not None:
                chosen.append((slot, other))
                left.remove(slot)
                right.remove(other)
        for slot in list(left):
            fits = [o for o in right if sorted(o.shape) == sorted(slot.shape)]
            alone = sum(sorted(o.shape) == sorted(slot.shape) for o in left) == 1
            if len(fits) == 1 and alone and "free" in (a.kind, b.kind):
                chosen.append((slot, fits[0]))
                left.remove(slot)
                right.remove(fits[0])
        for slot, other in chosen:
            self.pieces.append(Slots(slot, other, a, b, m.confidence, m.how))
        if left:
            self.loose[0].setdefault(m.reference, []).extend(left)
        if right:
            self.loose[1].setdefault(m.candidate, []).extend(right)

    def take_part(self, m: Match) -> None:
        """One parameter of a normalisation against the atom that is nothing else."""
        a, b = self.found.ours.atoms[m.reference], self.found.theirs.atoms[m.candidate]
        swapped = len(a.slots) == 1
        (one,), whole = (a.slots, b) if swapped else (b.slots, a)
        slot = next(s for s in whole.slots if s.role == one.role)
        pair = (one, slot) if swapped else (slot, one)
        self._spend(0, m.reference, pair[0])
        self._spend(1, m.candidate, pair[1])
        self.pieces.append(Slots(*pair, a, b, m.confidence, m.how))

    def take_fused(self, several: Sequence[int], one: int, swapped: bool) -> None:
        """Several dense layers against one whose kernel holds theirs side by side; ``swapped``: the reference's one."""
        many, few = (self.found.theirs, self.found.ours) if swapped else (self.found.ours, self.found.theirs)
        whole = few.atoms[one]
        self.done[1 - swapped].add(one)
        roles = {slot.role: slot for slot in whole.slots}
        confidence, how = self._fused_evidence(several, one, swapped)
        for index, number in enumerate(several):
            atom = many.atoms[number]
            self.done[swapped].add(number)
            for slot in atom.slots:
                if slot.role not in roles:
                    self.loose[swapped].setdefault(number, []).append(slot)
                    continue
                cut = roles[slot.role]
                last = len(cut.shape) - 1
                width = cut.shape[last] // len(several)
                part = replace(
                    cut,
                    shape=(*cut.shape[:last], width),
                    steps=(*cut.steps, ("part", last, index, len(several))),
                    part=(index, len(several)),
                    labels=None,
                )
                tagged = replace(whole, tag=atom.tag or named_tag(atom.owner))
                pair = (part, slot, tagged, atom) if swapped else (slot, part, atom, tagged)
                self.pieces.append(Slots(*pair, confidence, how))

    def _fused_evidence(self, several: Sequence[int], one: int, swapped: bool) -> tuple[float, str]:
        same = self.found.same
        if same is None:
            return 0.8, "side by side between matched neighbours"
        many, few = (self.found.theirs, self.found.ours) if swapped else (self.found.ours, self.found.theirs)
        runs = (same.split if swapped else same.joined).get(few.atoms[one].main.keys[0], ())
        keys = {many.atoms[number].main.keys[0] for number in several}
        return (
            (0.99, "equal values")
            if any(set(run) == keys for run in runs)
            else (0.6, "side by side between matched neighbours")
        )

    def residual(self) -> None:
        """Single parameters that are left of layers that are matched in part."""
        self._biases_apart()
        ours, theirs = self.found.ours, self.found.theirs
        spots = [self._spots(0, ours), self._spots(1, theirs)]
        owners: dict[str, set[str]] = {}
        for i, j in self.partner.items():
            owners.setdefault(ours.atoms[i].owner, set()).add(theirs.atoms[j].owner)
        near: tuple[dict[str, list[tuple[int, Slot]]], ...] = ({}, {})
        for side, model in enumerate((ours, theirs)):
            for spot in spots[side]:
                near[side].setdefault(model.atoms[spot[0]].owner, []).append(spot)
        # A layer norm may be one layer here and a multiplication and an addition there.
        for i, slot in spots[0]:
            owner = ours.atoms[i].owner
            fits = [
                spot for twin in owners.get(owner, ()) for spot in near[1].get(twin, ()) if alike_shapes(slot, spot[1])
            ]
            rivals = [s for _, s in near[0][owner] if alike_shapes(slot, s)]
            exact = [(j, o) for j, o in fits if common_role(o) == common_role(slot)]
            if len(exact) == 1 and sum(common_role(s) == common_role(slot) for s in rivals) == 1:
                fits = exact
            elif len(fits) != 1 or len(rivals) != 1:
                continue
            j, other = fits[0]
            near[0][owner].remove((i, slot))
            near[1][theirs.atoms[j].owner].remove((j, other))
            self._spend(0, i, slot)
            self._spend(1, j, other)
            self.pieces.append(Slots(slot, other, ours.atoms[i], theirs.atoms[j], 0.8, "their layers are paired"))

    def _biases_apart(self) -> None:
        """A layer's bias here is there what the operation behind the layer adds: ``conv(x) + self.bias``."""
        for side, model in enumerate((self.found.ours, self.found.theirs)):
            other = (self.found.theirs, self.found.ours)[side]
            for m in self.found.matches:
                number, twin = (m.candidate, m.reference) if side else (m.reference, m.candidate)
                bias = next((slot for slot in self.loose[side].get(number, ()) if slot.role == "bias"), None)
                added = None if bias is None else self._added(1 - side, other, twin)
                if bias is None or added is None or not alike_shapes(bias, other.atoms[added].main):
                    continue
                slot = other.atoms[added].main
                self._spend(side, number, bias)
                self._spend(1 - side, added, slot)
                mine, theirs = (bias, model.atoms[number]), (slot, other.atoms[added])
                (a, first), (b, second) = (theirs, mine) if side else (mine, theirs)
                self.pieces.append(Slots(a, b, first, second, m.confidence, "added behind its layer"))

    def _added(self, side: int, model: Side, number: int) -> int | None:
        """The atom, not yet taken, that is added to a layer's output alone."""
        if model.atoms[number].node < 0:
            return None
        nodes = model.structure.nodes
        free = {
            nodes[atom.node].name: n
            for n, atom in enumerate(model.atoms)
            if n not in self.done[side] and atom.node >= 0 and len(atom.slots) == 1
        }
        name = nodes[model.atoms[number].node].name
        for _ in range(3):  # what only arranges a tensor
            behind = model.structure.children[name]
            node = model.structure.by_name[behind[0]] if len(behind) == 1 else None
            if node is None or (node.kind != "add" and node.kind not in ARRANGING):
                return None
            if node.kind == "add":
                return free.get(node.name)
            name = node.name
        return None

    def _spots(self, side: int, model: Side) -> list[tuple[int, Slot]]:
        found = [(n, slot) for n, slots in self.loose[side].items() for slot in slots]
        return found + [
            (n, slot) for n, atom in enumerate(model.atoms) if n not in self.done[side] for slot in atom.slots
        ]

    def _spend(self, side: int, number: int, slot: Slot) -> None:
        if number in self.loose[side] and slot in self.loose[side][number]:
            self.loose[side][number].remove(slot)
        else:
            model = (self.found.ours, self.found.theirs)[side]
            self.done[side].add(number)
            rest = [s for s in model.atoms[number].slots if s is not slot]
            if rest:
                self.loose[side].setdefault(number, []).extend(rest)

    # -- the result ------------------------------------------------------------------------------------------------

    def result(self) -> ParameterMap:
        self._fold()
        pairs = self._merged()
        used = {key for pair in pairs for key in pair.reference}, {key for pair in pairs for key in pair.candidate}
        left = [{k: why for k, why in self._left(side).items() if k not in used[side]} for side in (0, 1)]
        place = {k: n for n, atom in enumerate(self.found.ours.atoms) for k in atom.keys}
        pairs.sort(key=lambda pair: place[pair.reference[0]])
        return ParameterMap(tuple(pairs), left[0], left[1])

    def _fold(self) -> None:
        """Find the BatchNorms that stand behind a matched convolution and have no twin themselves."""
        for side, model in enumerate((self.found.ours, self.found.theirs)):
            by_name = {model.structure.nodes[atom.node].name: n for n, atom in enumerate(model.atoms) if atom.node >= 0}
            for n, atom in enumerate(model.atoms):
                if atom.kind != "batchnorm" or n in self.done[side] or atom.node < 0:
                    continue
                parents = model.structure.nodes[atom.node].parents
                before = by_name.get(parents[0]) if parents else None
                if before in self.done[side] and not self._normalised(side, before) and self._may_hold(side, before):
                    self.folded[n] = (side, before)
                    self._shift(side, n, before)

    def _shift(self, side: int, norm: int, before: int) -> None:
        """A layer without a bias: what the normalisation adds is the bias of the layer's twin."""
        model, other = (self.found.ours, self.found.theirs)[side], (self.found.theirs, self.found.ours)[side]
        roles = {slot.role: slot for slot in model.atoms[norm].slots}
        added = roles.get("beta") or roles.get("running_mean")
        for m in (self.found.of_a, self.found.of_b)[side].get(before, ()):
            twin = m.reference if side else m.candidate
            bias = next((s for s in self.loose[1 - side].get(twin, ()) if s.role == "bias"), None)
            if added is None or bias is None or bias.shape != added.shape:
                continue
            self._spend(1 - side, twin, bias)
            ours, theirs = (added, model.atoms[norm]), (bias, other.atoms[twin])
            if side:
                ours, theirs = theirs, ours
            self.pieces.append(Slots(ours[0], theirs[0], ours[1], theirs[1], m.confidence, m.how))

    def _normalised(self, side: int, number: int) -> bool:
        """Whether a BatchNorm stands behind an atom's twin, too."""
        other = (self.found.theirs, self.found.ours)[side]
        matches = (self.found.of_a, self.found.of_b)[side].get(number, ())
        twins = [other.atoms[m.reference if side else m.candidate] for m in matches]
        behind = [other.structure.children[other.structure.nodes[t.node].name] for t in twins if t.node >= 0]
        return any(other.structure.by_name[name].kind == "batchnorm" for names in behind for name in names)

    def _may_hold(self, side: int, number: int) -> bool:
        """Whether an atom's twin may hold a normalisation's scale and shift: it has a bias, and weights of its own."""
        other = (self.found.theirs, self.found.ours)[side]
        matches = (self.found.of_a, self.found.of_b)[side].get(number, ())
        return any(
            any(slot.role == "bias" for slot in other.atoms[m.reference if side else m.candidate].slots)
            and not self.found.equal(m.reference, m.candidate)
            for m in matches
        )

    def _merged(self) -> list[ParameterPair]:
        """Pieces that share a parameter as one pair: three kernels against the one that holds them."""
        joined: dict[Any, list[Slots]] = {}
        copies: Counter[Any] = Counter()
        for piece in self.pieces:
            ours, theirs = piece.slot, piece.other
            anchor: Any = (ours.keys, theirs.keys)
            if theirs.part and not ours.part:
                anchor = theirs.keys
            elif ours.part and not theirs.part:
                anchor = ours.keys
            # The same part a second time is that of another copy of a layer that the one side shares.
            place = anchor, ours.part, theirs.part
            copies[place] += 1
            joined.setdefault((bool(ours.part), bool(theirs.part), anchor, copies[place]), []).append(piece)
        return [self._pair(found) for found in joined.values()]

    def _pair(self, found: list[Slots]) -> ParameterPair:
        first = found[0]
        if len(found) > 1:
            found = sorted(found, key=lambda p: p.other.part or p.slot.part or (0, 0))
        confidence = min(p.confidence for p in found)
        ours = tuple(dict.fromkeys(key for p in found for key in p.slot.keys))
        theirs = tuple(dict.fromkeys(key for p in found for key in p.other.keys))
        both = all(p.slot.part and p.other.part and p.slot.part == p.other.part for p in found)
        if both and first.slot.whole == first.other.whole:
            axes: Axes | None = tuple(range(len(first.slot.whole)))
            whole = Piece(ours, (), theirs, ())
            return ParameterPair(
                ours, theirs, axes, same_words(first.slot), confidence, first.how, first.slot.role, (whole,)
            )
        pieces, words = [], []
        for p in found:
            made, word = self._pieces(p)
            pieces += made
            words.append(word)
        if first.slot.part or first.other.part:
            tags = [p.a.tag or p.b.tag or named_tag(p.a.owner) or named_tag(p.b.owner) for p in found]
            words = [
                joined_words(tags, found),
                *(w for w in words if not w.startswith(("as it is", "statistics", "transpose"))),
            ]
        axes = moved_axes(first.slot, first.other) if len(found) == 1 and len(ours) == len(theirs) == 1 else None
        relation = ", ".join(dict.fromkeys(words))
        if " order " in relation or RUNS in relation:
            axes = None
        fold = self._folds(first)
        if fold:
            relation, axes = fold, None
        tag = first.a.tag or first.b.tag if len(found) == 1 else ""
        role = f"{tag} {first.slot.role}".strip()
        return ParameterPair(ours, theirs, axes, relation, confidence, first.how, role, tuple(pieces))

    def _pieces(self, p: Slots) -> tuple[list[Piece], str]:
        branches = self.flat.branches(p.a, p.b) if _by_rows(p) else []
        if branches and sum(width for width, _ in branches) == p.slot.shape[0]:
            made, words = list(_by_branch(p, branches)), [f"row order {turned}" for _, turned in branches if turned]
        else:
            steps, words, runs = self._steps(p)
            if runs and self._kept_in_order(p):
                steps, words, _ = self._steps(p, False)
            made = [Piece(p.slot.keys, steps, p.other.keys, p.other.steps)]
        layout = in_words(p)
        return made, ", ".join(dict.fromkeys(words if words and layout == "as it is" else [layout, *words]))

    def _steps(self, p: Slots, turn: bool = True) -> tuple[Steps, list[str], bool]:
        """How to read the reference's parameter, in words as well, and whether runs of channels change places;
        ``turn`` is False where they shall not."""
        steps, words, moved = p.slot.steps, [], False
        turned = None
        if _by_rows(p):
            turned = self.flat.rows(p.a, p.b)
            if turned is not None and math.prod(turned.lengths) == p.slot.shape[0]:
                runs = turned.runs if turn else None
                steps = (*steps, *rows(0, p.slot.shape, turned.lengths, turned.order, runs))
                words += [f"row order {turned}"] if turned.moved else []
                words += [run_words(runs[1])] if runs is not None else []
                moved = runs is not None
        made = "dense" in (p.a.kind, p.b.kind) and p.slot.role in ("kernel", "bias")
        if p.slot.shape == p.other.shape and (made or (turned is None and _by_rows(p))):
            turned = self.flat.columns(p.a, p.b)
            if turned is not None and math.prod(turned.lengths) == p.slot.shape[-1]:
                steps = (*steps, *rows(len(p.slot.shape) - 1, p.slot.shape, turned.lengths, turned.order))
                words.append(f"column order {turned}")
        read, axis = self.flat.channels(p.a, p.b) if turn else None, read_axis(p)
        if read is not None and axis is not None and p.slot.shape[axis] == sum(read.lengths):
            steps = (*steps, *in_runs(axis, read))
            words.append(run_words(read))
            moved = True
        return steps, words, moved

    def _kept_in_order(self, p: Slots) -> bool:
        """Whether a layer's weights are equal as they are and not with the runs of channels that it reads moved: then
        it is the order of the branches that is wrong, and not the rows."""
        votes = self._kept
        if (id(p.a), id(p.b)) not in votes:
            alike = [q for q in self.pieces if q.a is p.a and q.b is p.b and self._steps(q)[2]]
            moved, kept = ([self._equal(q, turn) for q in alike] for turn in (True, False))
            said = [one for one in zip(moved, kept, strict=True) if one[0] != one[1]]
            votes[id(p.a), id(p.b)] = bool(said) and not any(one for one, _ in said)
        return votes[id(p.a), id(p.b)]

    def _equal(self, p: Slots, turn: bool) -> bool:
        """Whether both sides' values of a slot are the same when they are read so."""
        read = [side.weights and side.weights.read for side in (self.found.ours, self.found.theirs)]
        if self.found.same is None or not read[0] or not read[1]:
            return False
        try:
            ours = relayout.read(self._steps(p, turn)[0], [read[0](key) for key in p.slot.keys])
            theirs = relayout.read(p.other.steps, [read[1](key) for key in p.other.keys])
        except (KeyError, ValueError, TraceError):
            return False  # not stored, or damaged, as is said where the trace is checked
        return all(x.shape == y.shape and _close(x, y) for x, y in zip(ours, theirs, strict=True))

    def _folds(self, p: Slots) -> str:
        """How one side's kernel or bias holds a BatchNorm that is folded into it; empty where none is."""
        for norm, (side, before) in self.folded.items():
            model = (self.found.ours, self.found.theirs)[side]
            if model.atoms[before] is (p.a, p.b)[side] and p.slot.role in ("kernel", "bias"):
                return f"{FOLDED}: {model.atoms[norm].owner}"
            if model.atoms[norm] is (p.a, p.b)[side]:
                return f"{SHIFTED}: {model.atoms[norm].owner}"
        return ""

    def _left(self, side: int) -> dict[Key, str]:
        model, other = ((self.found.ours, self.found.theirs), (self.found.theirs, self.found.ours))[side]
        back = {j: i for i, j in self.partner.items()} if side else self.partner
        why: dict[Key, str] = {}
        alike = grouped(other.atoms, range(len(other.atoms)))
        for number, atom in enumerate(model.atoms):
            if number in self.folded and self.folded[number][0] == side:
                reason = f"{INTO_WEIGHTS} the twin of '{model.atoms[self.folded[number][1]].owner}'"
            elif number in self.done[side]:
                twin = other.atoms[back[number]].owner if number in back else ""
                reason = f"'{twin}' has none" if twin else "its layer's twin has none"
            elif any(fit(atom, other.atoms[rival]) > 0 for rival in alike.get(atom.signature, ())):
                reason = "its only fits are paired better"
            else:
                reason = f"no parameter of shape {_shape(atom.main.whole)} is left for it on the other side"
            for key in atom.keys:
                why.setdefault(key, reason)
        listed = described(model.structure)
        stored = () if model.weights is None else model.weights.shapes
        for key in (*listed, *stored):
            whole = listed[key].dtype in WHOLE if key in listed else model.weights and key in model.weights.whole
            counter = key[1].rpartition(".")[2] == "num_batches_tracked"
            why.setdefault(
                key, "a counter" if counter else "whole numbers, not learned" if whole else "no layer uses it"
            )
        return why


def _by_rows(p: Slots) -> bool:
    """Whether the first axis of two slots is that of the elements of a vector that their layers read."""
    if len(p.slot.shape) == len(p.other.shape) == 2:
        return p.slot.role == "kernel" and "dense" in (p.a.kind, p.b.kind)
    return len(p.slot.shape) == 1 and read_axis(p) == 0


def _by_branch(p: Slots, branches: Sequence[tuple[int, Turned | None]]) -> Iterator[Piece]:
    """The rows of each branch of a concatenation for themselves, in the order in which the candidate flattens it."""
    at = 0
    for width, turned in branches:
        cut = (("cut", 0, at, at + width),)
        moved = () if turned is None else rows(0, (width, *p.slot.shape[1:]), turned.lengths, turned.order)
        yield Piece(p.slot.keys, (*p.slot.steps, *cut, *moved), p.other.keys, (*p.other.steps, *cut))
        at += width


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _close(a: NDArray[Any], b: NDArray[Any]) -> bool:
    scale = float(np.abs(a).max(initial=0))
    return bool(np.abs(a.astype(np.float64) - b).max(initial=0) <= CLOSE * scale)
