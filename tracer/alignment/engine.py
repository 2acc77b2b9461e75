"""The alignment: weigh all evidence for each pair, let the graph spread it, and choose the pairs that fit together.

Any evidence may be missing, and any may lie, so all of it is joined: what two nodes look like, what they compute, their
weights, their names, where they stand; then what their neighbours say. Order is strong (both authors follow the same
paper), so a dynamic programme over the order comes first; branches that the two sides run in another order are then
paired through the graph. What is more likely wrong than right is left open rather than guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes, kinds
from tracer.alignment import twins
from tracer.alignment.assign import LEAST, PINNED, Assigned, assign
from tracer.alignment.candidates import Values, params, possible, shapes
from tracer.alignment.concats import reordered
from tracer.alignment.confidence import LEAST as LEAST_CONFIDENCE
from tracer.alignment.confidence import alternatives, trust
from tracer.alignment.consistency import agree
from tracer.alignment.evidence import EQUAL, MOST_EQUAL, equal_tensors, gather
from tracer.alignment.features import Features, Summary, agreement, beyond, extract
from tracer.alignment.folds import unfolded
from tracer.alignment.groups import groups
from tracer.alignment.orient import find as find_axes
from tracer.alignment.outputs import chain, label, outputs
from tracer.alignment.parameters import parameter_map
from tracer.alignment.propagation import Graph
from tracer.alignment.repeats import Repeats
from tracer.alignment.result import Alignment, Ambiguous, Pair
from tracer.alignment.rules import Rules
from tracer.alignment.structural import Contradictions
from tracer.alignment.why import reasons
from tracer.errors import TraceError
from tracer.graph import Structure
from tracer.names import display
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

IGNORED = "ignored by the mapping file"
NOTHING = "nothing alike on the other side"
OUTDONE = "its only fits are paired better"
LEFT_OPEN = "ambiguous: what may be it in the reference is left open"
UNSURE = "what fits it is more likely something else"
FEW = 8
"""So many nodes side by side may be given up, and yet be paired by what stands around them."""
AMISS = 2
"""So much said against the pairs begins a search for better ones: one word is what a single mistake looks like."""
OTHER = 0.5
"""Two tensors that agree less are not the same, however much they have in common."""
_NEVER = -60.0


@dataclass(frozen=True)
class Side:
    structure: Structure
    summaries: Mapping[str, Summary]
    recording: Recording | None


def side(source: Recording | Structure) -> Side:
    if isinstance(source, Structure):
        return Side(source, {}, None)
    return Side(source.structure, source.summaries, source)


def align(
    reference: Recording | Structure,
    candidate: Recording | Structure,
    mapping: MappingFile | None = None,
    *,
    check: Callable[[], None] | None = None,
) -> Alignment:
    """Pair the nodes of two models.

    Structures alone are enough; of recordings, the stored numbers about each tensor and each weight are used too, and
    tensors are read where several axis orders are possible. What ``mapping`` says wins.

    Args:
        reference, candidate: recordings of the two models, or their structures.
        check: called between the steps; what it raises ends the work.

    Raises InputError when ``mapping`` names nodes, or recordings, that do not exist.
    """
    sides = side(reference), side(candidate)
    a, b = (extract(side.structure, side.summaries) for side in sides)
    if mapping is not None:
        if sides[0].recording is not None and sides[1].recording is not None:
            mapping.check_names(sides[0].recording, sides[1].recording)
        mapping = mapping.resolve(sides[0].structure, sides[1].structure)
    if not a.nodes or not b.nodes:
        alone = [{node.name: NOTHING for node in side.nodes} for side in (a, b)]
        return Alignment((), alone[0], alone[1])
    return Work(sides, a, b, mapping, check or (lambda: None)).run()


class Work:
    """One alignment in the making."""

    def __init__(
        self,
        sides: tuple[Side, Side],
        a: Features,
        b: Features,
        mapping: MappingFile | None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.sides, self.a, self.b, self.check = sides, a, b, check
        self.rules = Rules.of(mapping, a, b, sides[0].structure, sides[1].structure)
        self.accepted = {} if mapping is None else mapping.accepted(sides[0].structure, sides[1].structure)
        check()
        self.weights = self._weights()
        check()
        rows, cols = equal_tensors(a, b)
        extra = self.rules.pairs
        related = self.weights is not None and self.weights.related
        owned = self._owned() if related else np.zeros((0, 2), np.intp)
        self.owned: list[tuple[int, int]] = [(int(i), int(j)) for i, j in owned]
        equal = [*zip(rows.tolist(), cols.tolist(), strict=True), *map(tuple, owned.tolist())]
        self.repeats = Repeats(a, b, equal, self.rules.laid, self.rules.ignored)
        check()
        self.pairs = possible(
            a, b, (np.append(rows, extra[:, 0]), np.append(cols, extra[:, 1])), owned, self.repeats.anchors
        )
        check()
        self.evidence = gather(a, b, self.pairs, self.weights if related else None)
        self.said = self.rules.said(self.pairs)
        self.rules.follow(self.said, self.pairs, a, b, self.evidence.columns["impossible"] == 0)
        check()
        self.logit, self.value, self.assigned = self._assigned()
        check()
        self._uncross()
        self.assigned = replace(self.assigned, matched=self._unfolded())

    def run(self) -> Alignment:
        self.check()
        trusted = trust(self.pairs, self.value, self.evidence, self.assigned, self.a, self.b)
        confidence = {
            int(self.pairs.rows[place]): float(value)
            for place, value in zip(trusted.places, trusted.confidence, strict=True)
        }
        stated = {i for i, _ in self.rules.pairs.tolist()}
        chosen = self.assigned.matched
        unknown = {i for i in chosen.keys() & self.repeats.open - stated if not self._confirmed(i, chosen[i])}
        matched = {
            i: j
            for i, j in chosen.items()
            if i not in unknown and (i in stated or confidence[i] >= LEAST_CONFIDENCE) and not self.rules.rejects(i, j)
        }
        self.check()
        pairs = self._pairs(matched, confidence, unknown)
        self.check()
        ambiguous = tuple(self._ambiguous((chosen.keys() | self.repeats.open) - matched.keys(), pairs))
        unmatched = self._unmatched(pairs, {entry.reference: entry.reason for entry in ambiguous})
        parameters = parameter_map(
            self.sides[0].structure,
            self.sides[1].structure,
            pairs,
            self._stored,
            self.weights.twins if self.weights is not None and self.weights.related else None,
        )
        why = reasons(
            self.pairs, self.evidence, self.logit, self.value, self.assigned.regret, trusted, (self.a, self.b)
        )
        found = Alignment(tuple(pairs), unmatched[0], unmatched[1], ambiguous, parameters, reasons=why)
        return replace(
            found,
            outputs=outputs(
                self.sides[0].structure, self.sides[1].structure, found.by_reference, self._same_named, self.accepted
            ),
        )

    def _unmatched(self, pairs: Sequence[Pair], ambiguous: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Of either side the nodes in no pair, with the reason; ``ambiguous`` has those that are left open."""
        likely = self.value >= LEAST
        ends = self.pairs.rows, self.pairs.cols
        paired = [{name for pair in pairs for name in (pair.reference, pair.candidate)[s]} for s in (0, 1)]
        alone = [
            np.array([node.name not in names for node in side.nodes])
            for side, names in zip((self.a, self.b), paired, strict=True)
        ]
        unsettled = np.array([node.name in ambiguous for node in self.a.nodes])
        found: tuple[dict[str, str], dict[str, str]] = ({}, {})
        for s, side in enumerate((self.a, self.b)):
            alike = {*ends[s][likely].tolist()}
            free = {*ends[s][likely & alone[1 - s][ends[1 - s]]].tolist()}
            doubted = {*ends[1][likely & unsettled[ends[0]]].tolist()} if s else set()
            for i, node in enumerate(side.nodes):
                if node.name in paired[s]:
                    continue
                if i in self.rules.ignored[s]:
                    why = IGNORED
                elif s == 0 and node.name in ambiguous:
                    why = ambiguous[node.name]
                elif i in doubted:
                    why = LEFT_OPEN
                else:
                    why = UNSURE if i in free else OUTDONE if i in alike else NOTHING
                found[s][node.name] = why
        return found

    def _weights(self) -> twins.Evidence | None:
        left, right = self.sides[0].recording, self.sides[1].recording
        self._stored = None if left is None or right is None else (twins.Weights.of(left), twins.Weights.of(right))
        return None if self._stored is None else twins.evidence(self.a, self.b, *self._stored)

    def _owned(self) -> NDArray[np.intp]:
        """Pairs of nodes whose weights are equal, a row each; of a layer that is called often none."""
        found = [(i, j) for i, j, score in self.weights.found if score >= EQUAL] if self.weights else []
        often = [Counter(pair[s] for pair in found) for s in (0, 1)]
        few = [(i, j) for i, j in found if max(often[0][i], often[1][j]) <= MOST_EQUAL]
        return np.array(few, np.intp).reshape(-1, 2)

    def _assigned(self, without: Collection[str] = ()) -> tuple[Values, Values, Assigned]:
        """Each pair's log-odds by itself and its likelihood, and the best matching, some evidence left out."""
        said = self.said
        logit = self.evidence.logit(without) + self.repeats.logit(self.pairs)
        logit[said == 0] = _NEVER
        logit[said == PINNED] = -_NEVER
        value = Graph(self.a, self.b, self.pairs).propagate(logit)
        value[said == 0] = 0
        value[said == PINNED] = PINNED
        self.check()
        wanted = ("content", "weights", "equal_content")
        known = {name: self.evidence.columns[name] * (name not in without) for name in wanted}
        content = np.where(said == 0, 0, known["content"])
        confirmed = np.where(said == 0, 0, np.maximum(known["weights"], known["equal_content"]))
        returned = self._returned(0), self._returned(1)
        assigned = assign(self.pairs, value, content, confirmed, self.a, self.b, self.rules.ignored, logit, returned)
        return logit, value, assigned

    def _uncross(self) -> None:
        """Where the graph contradicts what is paired because of its values, pair by structure alone."""
        columns = self.evidence.columns
        against = Contradictions(self.pairs, columns["content"], columns["parts"], self.a, self.b)
        matched = self.assigned.matched
        if not columns["equal_content"].any() or against.count(matched) < AMISS:
            return
        logit, value, other = self._assigned(("content", "equal_content"))
        region = against.fewer(matched, other.matched)
        inside = np.isin(self.pairs.rows, [*region])
        self.logit, self.value = np.where(inside, logit, self.logit), np.where(inside, value, self.value)
        taken = {i: j for i, j in other.matched.items() if i in region}
        kept = {i: j for i, j in matched.items() if i not in region}
        self.assigned = Assigned(kept | taken, np.where(inside, other.regret, self.assigned.regret))

    def _unfolded(self) -> dict[int, int]:
        """The matching, where what was stated stays."""
        content, stated = self.evidence.columns["content"], {i for i, _ in self.rules.pairs.tolist()}

        def agreement(i: int, j: int) -> float:
            place = int(self.pairs.find(np.array([i], np.intp), np.array([j], np.intp))[0])
            return float(content[place]) if place < len(content) and i not in stated else -1.0

        return unfolded(self.assigned.matched, agreement, self.a, self.b)

    def _returned(self, s: int) -> dict[int, frozenset[str]]:
        """The places where a model returns its nodes."""
        found: dict[int, set[str]] = {}
        for place, name in self.sides[s].structure.returned:
            index = _index(self.sides[s].structure, (self.a, self.b)[s], name)
            if index is not None:
                found.setdefault(index, set()).add(label(place))
        return {index: frozenset(labels) for index, labels in found.items()}

    def _pairs(
        self, matched: Mapping[int, int], confidence: Mapping[int, float], unknown: Collection[int]
    ) -> list[Pair]:
        """The pairs in the reference's running order, groups with all their nodes, the models' outputs last.

        What is ``unknown`` of the matching, and what is too little sure, is in none of them.
        """
        stated = self.rules.entries
        chosen = self.assigned.matched
        # What only arranges the values of a node without a twin may be part of that node's group.
        loose = {i: j for i, j in matched.items() if self.a.arranges(i) and self.a.above[i][0] not in matched}
        firm = {i: j for i, j in matched.items() if i not in loose}
        # The groups in blocks that may be one or the other are found all the same, and left open with their blocks.
        firm |= {i: chosen[i] for i in unknown}
        grouped = groups(firm, self.a, self.b, self._same, self.owned) if firm else []
        closed = {*unknown}, {chosen[i] for i in unknown}
        adrift = self._adrift(matched)
        grouped = [
            g
            for g in grouped
            if closed[0].isdisjoint(g.reference)
            and closed[1].isdisjoint(g.candidate)
            and (len(g.reference) > 1 or len(g.candidate) > 1 or g.reference[0] not in adrift)
        ]
        grouped = [
            g
            for g in grouped
            if not self.rules.decided(g.reference, g.candidate)
            and not self.rules.crosses(g.reference[-1:], g.candidate[-1:])
            and not self.rules.rejects(g.reference[-1], g.candidate[-1])
            and not self._elsewhere(g.reference[-1], g.candidate[-1])
        ]
        inside = {i for g in grouped for i in g.reference}, {j for g in grouped for j in g.candidate}
        members: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
            ((i,), (j,), "") for i, j in matched.items() if i not in inside[0] and j not in inside[1]
        ]
        members += [(g.reference, g.candidate, g.what) for g in grouped]
        members.sort(key=lambda found: found[0][-1])
        ends = [(ours[-1], theirs[-1]) for ours, theirs, _ in members]
        outputs = self._outputs(dict(ends))
        axes = {(i, j): entry.axes for (i, j), entry in stated.items() if entry.axes is not None}
        compared = [*ends, *outputs]
        found = find_axes(compared, self.a, self.b, self._tensors, axes)
        found = reordered(compared, found, self.a, self.b, self._tensors)
        now = dict(ends)
        pairs = []
        for (ours, theirs, what), at in zip(members, found[: len(ends)], strict=True):
            i, j = ours[-1], theirs[-1]
            entry = stated.get((i, j))
            if entry is not None:
                pair = Pair(entry.reference, entry.candidate, at.axes, 1.0, {"mapping": 1.0})
            else:
                sure = confidence[i] if matched.get(i) == j else self._beside(i, now, confidence)
                names = tuple(self.a.nodes[k].name for k in ours), tuple(self.b.nodes[k].name for k in theirs)
                pair = Pair(*names, at.axes, sure, self._shares(i, j, now), what=what)
            pairs.append(replace(pair, other_axes=at.ambiguous, arrangement=at.arrangement))
        for (i, j), at in zip(outputs, found[len(ends) :], strict=True):
            names = (self.a.nodes[i].name,), (self.b.nodes[j].name,)
            pairs.append(Pair(*names, at.axes, 0.5, {"output": 1.0}, at.ambiguous, at.arrangement))
        return pairs

    def _adrift(self, matched: Mapping[int, int]) -> set[int]:
        """Nodes whose pairs were given up with so many around them that what is beside these proves nothing."""
        left = {i for i in self.assigned.matched if i not in matched}
        out: set[int] = set()
        while left:
            found, queue = set[int](), [left.pop()]
            while queue:
                i = queue.pop()
                found.add(i)
                queue += self.a.near[i] & left
                left -= self.a.near[i]
            if len(found) > FEW:
                out |= found.union(*(self.a.near[i] for i in found)) - matched.keys()
        return out

    def _beside(self, i: int, matched: Mapping[int, int], confidence: Mapping[int, float]) -> float:
        """How sure a pair is that rests on its neighbours: as sure as the least of them."""
        near = self.a.near[i] & matched.keys() & confidence.keys()
        return max(LEAST_CONFIDENCE, min((confidence[k] for k in near), default=LEAST_CONFIDENCE))

    def _shares(self, i: int, j: int, matched: Mapping[int, int]) -> dict[str, float]:
        out = {
            "kind": kinds.similarity(self.a.nodes[i].kind, self.b.nodes[j].kind),
            "shape": shapes(self.a.dims[i], self.b.dims[j]),
            "graph": agree(matched, i, j, self.a, self.b),
        }
        if self.a.params[i] or self.b.params[j]:
            out["params"] = params(self.a.params[i], self.b.params[j])
        if self.a.summaries[i] is not None and self.b.summaries[j] is not None:
            out["values"] = self._same(i, j) or 0.0
        if self.weights is not None and self.weights.related and self.a.params[i]:
            out["weights"] = self.weights.scores.get((i, j), 0.0)
        return out

    def _same(self, i: int, j: int) -> float | None:
        """Agreement of two tensors' order-free numbers; None where it is not known."""
        if not (self.a.known[i] and self.b.known[j]):
            return None
        value = float(agreement(self.a.moments[i], self.b.moments[j : j + 1])[0])
        return None if np.isnan(value) else value

    def _same_named(self, ours: str, theirs: str) -> float | None:
        i, j = self.a.index.get(ours), self.b.index.get(theirs)
        return None if i is None or j is None else self._same(i, j)

    def _confirmed(self, i: int, j: int) -> bool:
        """Whether two nodes have equal weights or equal tensors."""
        place = int(self.pairs.find(np.array([i]), np.array([j]))[0])
        columns = self.evidence.columns
        return place < len(self.pairs) and max(columns["weights"][place], columns["content"][place]) >= EQUAL

    def _elsewhere(self, i: int, j: int) -> bool:
        """Whether two tensors differ, and one of them is known to be another of the other side."""
        same = self._same(i, j)
        if same is None or same >= OTHER:
            return False
        equal = self.evidence.columns["equal_content"] > 0
        return bool((equal & ((self.pairs.rows == i) | (self.pairs.cols == j))).any())

    def _tensors(self, i: int, j: int) -> tuple[NDArray[Any], NDArray[Any]] | None:
        left, right = self.sides[0].recording, self.sides[1].recording
        names = self.a.nodes[i].name, self.b.nodes[j].name
        if left is None or right is None or left.stored(names[0]) is None or right.stored(names[1]) is None:
            return None
        try:
            return left.read(names[0], verify=False), right.read(names[1], verify=False)
        except TraceError:
            return None  # the comparison says what is damaged

    def _ambiguous(self, rows: Iterable[int], pairs: list[Pair]) -> Iterable[Ambiguous]:
        """What was left open though something fits, and what it may be."""
        paired = {name for pair in pairs for name in pair.reference}
        taken = {name for pair in pairs for name in pair.candidate}
        left = [i for i in sorted(rows) if self.a.nodes[i].name not in paired]
        found = self.repeats.alternatives([i for i in left if i in self.repeats.open], self.assigned.matched)
        of_blocks = {i: (shares, reason) for i, shares, reason in found if shares}
        for i in left:
            node = self.a.nodes[i]
            if i in of_blocks:
                yield Ambiguous(node.name, *of_blocks[i])
                continue
            others = [
                (self.b.nodes[j].name, share)
                for j, share in alternatives(self.pairs, self.value, self.assigned, i)
                if self.b.nodes[j].name not in taken
            ]
            if others:
                yield Ambiguous(node.name, tuple(others), _as_likely([name for name, _ in others]))

    def _outputs(self, matched: Mapping[int, int]) -> list[tuple[int, int]]:
        """Outputs of the two models that stand at the same place, where one of them has no twin.

        One side may end in a softmax that the other lacks: every layer agrees, and yet the models do not.
        """
        ends: list[list[int]] = []
        for side, features, ignored in zip(self.sides, (self.a, self.b), self.rules.ignored, strict=True):
            indices = (_index(side.structure, features, name) for name in side.structure.outputs)
            ends.append([i for i in indices if i is not None and i not in ignored])
        twin = set(matched.values())
        joined = {matched.get(i) for i in ends[0]}
        left = [i for i in ends[0] if matched.get(i) not in ends[1]]
        right = [j for j in ends[1] if j not in joined]
        found = []
        for i, j in zip(left, right, strict=False):
            if (i in matched and j in twin) or self.rules.rejects(i, j):
                continue
            if len(ends[0]) != len(ends[1]) and not shapes(self.a.dims[i], self.b.dims[j]):
                continue  # which stands for which is not known
            above = beyond(self.sides[0].structure, self.a.nodes[i]), beyond(self.sides[1].structure, self.b.nodes[j])
            passed = {self.a.nodes[k].name: self.b.nodes[m].name for k, m in matched.items() if k == i or m == j}
            if any(ours in above[0] or theirs in above[1] for ours, theirs in passed.items()):
                # Nothing but a permute or the like comes after the twin; a reshape may lay its values out otherwise,
                # and a cast round them.
                structures = self.sides[0].structure, self.sides[1].structure
                nodes = self.a.nodes[i], self.b.nodes[j]
                ends_in = [chain(side, node.name) for side, node in zip(structures, nodes, strict=True)]
                relaid = any(_relays(structures[s], name) for s in (0, 1) for name in ends_in[s])
                rounded = any(_rounds(structures[s], {nodes[s].name, *above[s]}) for s in (0, 1))
                if self.a.dims[i] != self.b.dims[j] or not (relaid or rounded):
                    continue
            found.append((i, j))
        return found


def _relays(structure: Structure, name: str) -> bool:
    """Whether a node reshapes its input, and not only by axes of one element."""
    node = structure.by_name[name]
    if node.kind not in ("reshape", "flatten") or not node.parents:
        return False
    before = structure.by_name[node.parents[0]]
    return [n for n in node.shape or () if n != 1] != [n for n in before.shape or () if n != 1]


def _rounds(structure: Structure, names: Collection[str]) -> bool:
    """Whether a tensor on the way has a coarser type than another."""
    coarse = {
        dtypes.epsilon(dtype) for name in names if (dtype := structure.by_name[name].dtype or "").startswith(_REAL)
    }
    return len(coarse) > 1


_REAL = ("float", "bfloat")


def _index(structure: Structure, features: Features, name: str) -> int | None:
    """Index of the node whose tensor ``name`` is: an output may be a container's."""
    seen: set[str] = set()
    while name not in features.index and name in structure.by_name and name not in seen:
        seen.add(name)
        name = structure.by_name[name].alias_of or ""
    return features.index.get(name)


def _as_likely(names: list[str]) -> str:
    shown = [display(name) for name in names[:4]]
    more = f" or {len(names) - 4} more" if len(names) > 4 else ""
    if len(shown) == 1:
        return f"ambiguous: {shown[0]}, or nothing"
    return f"ambiguous: {', '.join(shown[:-1])} or {shown[-1]}{more}"
