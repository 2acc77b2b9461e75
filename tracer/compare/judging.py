"""Verdicts for all pairs, walked in the reference's order so that each knows how its inputs fared."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tracer import dtypes, kinds
from tracer.alignment import labels
from tracer.alignment.features import TRANSPARENT, Apart, pairable
from tracer.alignment.flattened import READS_ROWS, as_computed, within_rows
from tracer.alignment.outputs import Output
from tracer.compare import instability
from tracer.compare.local import DRAWS, Local
from tracer.compare.pair import PairDiff
from tracer.compare.stats import NonFinite, Stats
from tracer.compare.turned import turned
from tracer.compare.verdict import GROWTH, Tolerance, Verdict, judge, judge_again, rounding_floor
from tracer.graph import Node, Structure
from tracer.names import display
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

Of = Literal["values", "gradients"]
"""What is compared of a pair: activations, or the loss's gradients with respect to them."""

UNSEEN = "it differs, but all that reads it agrees: what is masked is not seen"
UNREAD = "it differs, but nothing reads it on either side"
_OFF = (Verdict.DIVERGED, Verdict.INHERITED)
_ORDERING = kinds.LAYOUT_ONLY | {"concat"}
"""Kinds that may hold the same values in another order, whether by their own doing or their input's."""
_DEEP = 100
"""Depth that is granted to the readers of a re-ordered tensor, whose own depth is not known yet."""


def tolerance_for(name: str, general: Tolerance, mapping: MappingFile | None) -> tuple[Tolerance, str]:
    """The tolerance of an aligned name, and the words that say why where it is not the general one."""
    entry = mapping.tolerance(name) if mapping is not None else None
    if entry is None:
        return general, ""
    own = Tolerance(
        general.atol if entry.atol is None else entry.atol, general.rtol if entry.rtol is None else entry.rtol
    )
    return own, f"tolerance of '{entry.match}'" + (f": {entry.reason}" if entry.reason else "")


def judged(
    pairs: Sequence[PairDiff],
    tolerance: Tolerance,
    reference: Recording,
    candidate: Recording,
    mapping: MappingFile | None,
    of: Of = "values",
    moved: Sequence[Output] = (),
    undone: Callable[[int], bool] | None = None,
) -> tuple[PairDiff, ...]:
    """The pairs with verdicts and reasons; they come in the order in which errors travel.

    ``moved`` are the outputs that the candidate returns at another place: whatever their values, that is said.
    ``undone`` says of a pair, by its index, whether what reads it takes its difference back; asked seldom.
    """
    judge_ = _Judge(pairs, tolerance, reference, candidate, mapping, of, undone)
    places = {output.reference: str(output) for output in moved}
    found = [judge_.judge(index, pair) for index, pair in enumerate(pairs)]
    for index, (name, axes) in (turned(found, reference, candidate) if of == "values" else {}).items():
        said = (
            f"the output {display(name)} has its axes in another order, which no layout is: moved by {axes} it agrees"
        )
        found[index] = replace(found[index], verdict=Verdict.DIVERGED, reason=said)
    return tuple(replace(p, reason=f"{p.reason}; {places[p.aligned]}") if p.aligned in places else p for p in found)


@dataclass(frozen=True)
class _Above:
    """What a pair stands on: the nearest pairs that were compared, and what lies between.

    ``between`` has no twin, ``uncompared`` has one but no values.
    """

    pairs: tuple[PairDiff, ...]
    between: tuple[tuple[str, ...], tuple[str, ...]]
    same_sources: bool
    uncompared: tuple[str, ...]

    @property
    def lonely(self) -> str:
        """``between`` in words."""
        sides = zip(("reference", "candidate"), self.between, strict=True)
        return "; ".join(f"{side} {_some(names)}" for side, names in sides if names)


class _Judge:
    def __init__(
        self,
        pairs: Sequence[PairDiff],
        tolerance: Tolerance,
        reference: Recording,
        candidate: Recording,
        mapping: MappingFile | None,
        of: Of,
        undone: Callable[[int], bool] | None,
    ) -> None:
        self._of, self._takes_back = of, undone
        self._tolerance, self._mapping = tolerance, mapping
        self._sides = reference, candidate
        self._ours, self._theirs = reference.structure, candidate.structure
        own = [pair for pair in pairs if "output" not in pair.pair.evidence]
        self._by_reference = {name: pair for pair in own for name in pair.pair.reference}
        self._by_candidate = {name: pair for pair in own for name in pair.pair.candidate}
        self._known = {pair.aligned for pair in own if pair.saved or pair.apart is not None}
        self._compared = [
            {name for name, pair in paired.items() if pair.aligned in self._known}
            for paired in (self._by_reference, self._by_candidate)
        ]
        self._done: dict[str, PairDiff] = {}
        self._depth: dict[str, int] = {}
        self._coarsest: dict[str, str] = {}
        self._origin: dict[str, str] = {}

    def judge(self, index: int, pair: PairDiff) -> PairDiff:
        above = self._above(pair)
        steps = _layers(self._ours, pair.node) + len(above.uncompared)
        depth = steps + max((self._depth.get(p.aligned, 0) for p in above.pairs), default=0)
        inherited = max((error for error in map(_error, above.pairs) if error is not None), default=None)
        own, note = tolerance_for(pair.aligned, self._tolerance, self._mapping)
        types = [pair.coarsest, *(self._coarsest[p.aligned] for p in above.pairs)]
        coarsest = self._coarsest[pair.aligned] = max(types, key=dtypes.epsilon)
        floor = rounding_floor(coarsest, depth) + pair.stored_rounding
        waived = note if note and not _within(pair.stats, self._tolerance) and _within(pair.stats, own) else ""
        pair = replace(
            pair, inherited=inherited, floor=floor, tolerance=own, note=note, between=above.between, accepted=waived
        )
        off = next((p.aligned for p in above.pairs if p.verdict in _OFF), None)
        suspicious = any(s.computes for s in pair.settings) or any(above.between)
        local = pair.local if pair.local is not None and pair.local.known else None
        if pair.local is not None and pair.local.why == DRAWS and not _within(pair.stats, own):
            return self._settled(_drawn(pair), depth)
        if local is not None and not (local.diverged and any(p.undone for p in above.pairs)):
            return self._settled(self._again(index, pair, local, own, note, above, inherited), depth)
        if pair.stats is not None:
            verdict, reason = judge(
                pair.stats, own, floor, dtypes.epsilon(pair.coarsest), off, inherited, suspicious, pair.stored_rounding,
                steps,
            )  # fmt: skip
        elif (moved := self._elsewhere(pair, own, floor, inherited, suspicious, steps)) is not None:
            verdict, reason = moved
        elif pair.saved:
            verdict = Verdict.DIVERGED if off is None else Verdict.INHERITED
            reason = pair.obstacle + (f"; its input {off} is off already" if off is not None else "")
        elif pair.apart is not None:
            verdict, reason = _by_statistics(pair, pair.apart, own, floor, above, off)
        else:
            verdict, reason = Verdict.NOT_COMPARABLE, pair.obstacle
        if verdict is Verdict.DIVERGED:
            pair = replace(pair, reordered=self._agrees(pair, pair.ordered))
            order = f"the same values in another order: {pair.pair.arrangement}" if pair.reordered else ""
            if self._kept(pair):
                said = order or "the same values arranged otherwise"
                verdict, reason = Verdict.MATCH, f"{said}, as the next layer expects"
            elif pair.masked and self._unseen(pair):
                verdict, reason = Verdict.MATCH, UNSEEN
            elif self._of == "values" and unread(pair, *self._sides):
                verdict, reason = Verdict.MATCH, UNREAD
            elif (start := next((p for p in above.pairs if p.undone), None)) is not None:
                said = "computed from what lies above that, it is the same on both sides"
                verdict, reason = Verdict.MATCH, f"it differs as {display(start.aligned)} does; {said}"
            elif (pair := self._asked(index, pair)).undone:
                verdict, reason = Verdict.MATCH, self._another_way(pair)
            else:
                surprised = self._surprised(pair) if order else []
                if surprised:
                    order += f", which {display(surprised[0].aligned)} does not expect"
                inputs = self._inputs(above, inherited) + _rows(pair, above)
                reason = "; ".join(part for part in (order, reason, inputs) if part)
        if pair.local is not None and pair.local.why and verdict is not Verdict.MATCH:
            reason = "; ".join(part for part in (reason, f"its own error is not known: {pair.local.why}") if part)
        return self._settled(replace(pair, verdict=verdict, reason=reason), depth)

    def _settled(self, pair: PairDiff, depth: int) -> PairDiff:
        if "output" not in pair.pair.evidence:
            self._done[pair.aligned] = pair
            self._depth[pair.aligned] = depth
        return pair

    def _again(
        self,
        index: int,
        pair: PairDiff,
        local: Local,
        own: Tolerance,
        note: str,
        above: _Above,
        inherited: float | None,
    ) -> PairDiff:
        """A pair that was run again on the reference's inputs, with its verdict."""
        ordered = local.reordered and pair.ordered is not None
        stats = pair.ordered if ordered else pair.stats
        origin = next((self._origin[p.aligned] for p in above.pairs if p.aligned in self._origin), None)
        sizes = [p.stats.reference_max for p in above.pairs if p.stats is not None]
        whole = (pair.node.dtype or "").startswith(("int", "uint", "bool"))
        unstable = instability.named(pair.node.kind, whole, stats, inherited, max(sizes, default=None))
        verdict, reason = judge_again(local, stats, own, note, origin, inherited, pair.coarsest, unstable)
        if local.diverged and verdict is Verdict.MATCH:
            pair = replace(pair, accepted=note)  # also where the general tolerance would let it pass
        if ordered:
            said = f"the same values in another order: {pair.pair.arrangement}"
            if local.unexpected:
                surprised = self._surprised(pair)
                reason = said + (f", which {display(surprised[0].aligned)} does not expect" if surprised else "")
            elif verdict is Verdict.MATCH:
                owing = self._owing(pair)
                reason = f"{said}, {f'which {_some(owing)} should expect' if owing else 'as the next layer expects'}"
        elif verdict is Verdict.DIVERGED:
            if (pair.masked and self._unseen(pair)) or (pair := self._asked(index, pair)).undone:
                verdict = Verdict.MATCH if origin is None else Verdict.INHERITED
                reason = self._another_way(pair) if pair.undone else UNSEEN
            else:
                reason += _rows(pair, above)
                if any(above.between):
                    reason += f"; before it lie, without a twin: {above.lonely}: the difference may be theirs"
        if "output" not in pair.pair.evidence:
            if verdict is Verdict.DIVERGED:
                self._origin[pair.aligned] = pair.aligned
            elif origin is not None:
                self._origin[pair.aligned] = origin
        return replace(pair, verdict=verdict, reason=reason, reordered=ordered)

    def _elsewhere(
        self, pair: PairDiff, own: Tolerance, floor: float, inherited: float | None, suspicious: bool, steps: int
    ) -> tuple[Verdict, str] | None:
        """The verdict on a pair whose two tensors hold the same values in other shapes; None where they do not."""
        if pair.sorted is None:
            return None
        verdict, reason = judge(
            pair.sorted, own, floor, dtypes.epsilon(pair.coarsest), None, inherited, suspicious, pair.stored_rounding,
            steps,
        )  # fmt: skip
        if verdict is Verdict.DIVERGED:
            return None
        said = "the same values in another shape"
        return verdict, said if verdict is Verdict.MATCH else f"{said}; {reason}"

    def _asked(self, index: int, pair: PairDiff) -> PairDiff:
        """The pair, with whether its difference is taken back. It is asked where two ways to one result are likely: the
        operations differ, or something is masked; and where what is known of the readers does not deny it."""
        if pair.undone is not None or self._takes_back is None:
            return pair
        likely = pair.masked or pair.masked_once or pair.node.kind != pair.candidate_node.kind
        sizes = [math.prod(node.shape or ()) for node in (pair.node, pair.candidate_node)]
        likely |= pair.stats is None and sizes[0] != sizes[1]  # what is too long may be cut off further on
        nan = pair.stats.nonfinites if pair.stats is not None else NonFinite()
        likely &= nan.nan_reference == nan.nan_candidate  # what is NaN on one side only nothing takes back
        readers = self._readers(pair)
        told = bool(readers) and all(self._agrees(r, r.stats) or r.local is not None for r in readers)
        return replace(pair, undone=likely and told and self._takes_back(index))

    def _another_way(self, pair: PairDiff) -> str:
        readers = _some([reader.aligned for reader in self._readers(pair)])
        return f"it differs, but only on the way: computed from what lies above it, {readers} is the same on both sides"

    def _owing(self, pair: PairDiff) -> list[str]:
        """Those that should read re-ordered values and do not, where the order is the layout's and nobody's choice."""
        wrong = [r for r in self._surprised(pair) if r.local is None or not r.local.known or r.local.diverged]
        if not within_rows(pair.pair.arrangement) or any(r.candidate_node.kind not in READS_ROWS for r in wrong):
            return []
        names = pair.node.name, pair.candidate_node.name
        laid = bool(wrong) and all(as_computed(side, name) for side, name in zip(self._sides, names, strict=True))
        return [reader.aligned for reader in wrong] if laid else []

    def _above(self, pair: PairDiff) -> _Above:
        forward = self._of == "values"
        ours, lonely, missing = self._walked(0, pair.pair.reference, forward)
        theirs, lonely_theirs, _ = self._walked(1, pair.pair.candidate, forward)
        sources = {self._by_reference[name].aligned for name in ours}
        found = tuple(self._done[name] for name in sorted(sources) if name in self._done)
        same = sources == {self._by_candidate[name].aligned for name in theirs}
        return _Above(found, (lonely, lonely_theirs), same, missing)

    def _walked(
        self, side: int, start: Sequence[str], forward: bool
    ) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
        """The nearest compared nodes, and what was passed: without a twin, and with one that has no values."""
        structure, paired = ((self._ours, self._by_reference), (self._theirs, self._by_candidate))[side]
        found, passed = _walk(structure, start, self._compared[side], _upwards if forward else _downwards(structure))
        missing = tuple(name for name in passed if name in paired)
        return found, tuple(name for name in passed if name not in paired), missing

    def _inputs(self, above: _Above, inherited: float | None) -> str:
        """What is known of a diverged pair's inputs. "Agree" is said only of what it really reads."""
        if self._of == "gradients":
            return self._received(above, inherited)
        if not above.pairs:
            return "nothing above it was compared"
        if above.uncompared:
            return (
                f"what was compared above it agrees ({_some([p.aligned for p in above.pairs])}), but "
                f"{_some(above.uncompared)} between was not: the difference may come from there"
            )
        if any(above.between):
            return (
                f"what is paired above it agrees ({_some([p.aligned for p in above.pairs])}), but between lie, without "
                f"a twin: {above.lonely}: the difference may be theirs"
            )
        if not above.same_sources:
            return "it does not read the same tensors as its twin"
        if inherited:
            return f"its inputs agree (relative error {inherited:.1e}), its output does not"
        return "its inputs agree exactly, its output does not"

    def _received(self, above: _Above, inherited: float | None) -> str:
        """What is known of the gradients that come to a diverged pair from below."""
        if not above.pairs:
            return "no gradient below it was compared"
        if any(above.between) or above.uncompared or not above.same_sources:
            return f"the nearest gradients compared below it agree ({_some([p.aligned for p in above.pairs])})"
        error = f" (relative error {inherited:.1e})" if inherited else " exactly"
        return f"the gradients that it receives agree{error}, the one that it passes on does not"

    def _kept(self, pair: PairDiff) -> bool:
        """Whether a layout operation only orders its values otherwise, and all that read it come out right.

        A port may flatten in another order and re-order the rows of the next kernel: that is no defect. A forgotten
        permute looks the same here but not one layer on. What works element by element hands the order on.
        """
        if not (self._agrees(pair, pair.ordered) or (pair.node.kind in _ORDERING and pair.content == 1.0)):
            return False
        readers = self._readers(pair)
        return bool(readers) and self._of == "values" and all(map(self._takes, readers))

    def _unseen(self, pair: PairDiff) -> bool:
        readers = self._readers(pair)
        return (
            bool(readers) and self._of == "values" and all(self._agrees(r, r.stats) or self._passes(r) for r in readers)
        )

    def _passes(self, pair: PairDiff) -> bool:
        """Whether a reader of masked values is masked as well, and all that reads it agrees."""
        return pair.masked and self._unseen(pair)

    def _readers(self, pair: PairDiff) -> list[PairDiff]:
        children = self._ours.children
        below, _ = _walk(self._ours, pair.pair.reference, self._by_reference, lambda node: children[node.name])
        return [self._by_reference[name] for name in below]

    def _surprised(self, pair: PairDiff) -> list[PairDiff]:
        """Those that read re-ordered values and do not come out right."""
        found: dict[str, PairDiff] = {}
        for reader in self._readers(pair):
            if not self._takes(reader):
                further = self._surprised(reader) if self._agrees(reader, reader.ordered) else []
                found |= {other.aligned: other for other in further or [reader]}
        return list(found.values())

    def _takes(self, pair: PairDiff) -> bool:
        """Whether a reader of re-ordered values comes out right, or hands the order on to layers that do."""
        ordered = pair.node.kind == "concat" or self._agrees(pair, pair.ordered)
        return self._agrees(pair, pair.stats) or (ordered and self._kept(pair))

    def _agrees(self, pair: PairDiff, stats: Stats | None) -> bool:
        if stats is None:
            return False
        own, _ = tolerance_for(pair.aligned, self._tolerance, self._mapping)
        noise = not stats.nonfinite and stats.rel_l2 <= rounding_floor(pair.coarsest, _DEEP)
        return noise or stats.passes(own.atol, own.rtol)


def _layers(structure: Structure, node: Node) -> int:
    """How many layers' rounding a node adds up: a recurrent one's is a random walk over its steps."""
    source = structure.by_name.get(node.parents[0]) if node.parents else None
    shape = source.shape if source is not None else None
    time = labels.inputs(node, len(shape)).get("t") if shape is not None else None
    return 1 if time is None or shape is None else max(1, math.isqrt(shape[time]))


_SHARES = {
    "rate": "its inputs",
    "dropout": "its inputs or scores",
    "recurrent_dropout": "its state",
    "dropout_between": "what its layers give",
}
"""What a dropout of that name takes away."""


def _drawn(pair: PairDiff) -> PairDiff:
    """A pair that drops at random: what can be compared is how much."""
    for setting in pair.settings:
        if setting.word in _SHARES:
            said = f"it drops {setting.reference} of {_SHARES[setting.word]} against {setting.candidate}"
            return replace(pair, verdict=Verdict.DIVERGED, reason=said)
    return replace(pair, verdict=Verdict.NOISE, reason=f"not compared: {DRAWS}")


def _within(stats: Stats | None, tolerance: Tolerance) -> bool:
    return stats is not None and stats.passes(tolerance.atol, tolerance.rtol)


def _error(pair: PairDiff) -> float | None:
    """The relative error that what reads a pair may inherit; None where it is not known."""
    if pair.undone:
        return pair.inherited
    stats = pair.ordered if pair.reordered else pair.sorted if pair.stats is None else pair.stats
    return None if stats is None else stats.rel_l2


def _rows(pair: PairDiff, above: _Above) -> str:
    """What is to be said of a kernel that reads values in another order."""
    orders = [p.pair.arrangement for p in above.pairs if p.reordered and p.verdict is Verdict.MATCH]
    if not orders or pair.candidate_node.kind not in READS_ROWS:
        return ""
    return f"; it reads {orders[0]}: the rows of its kernel have to be in that order too"


def unread(pair: PairDiff, reference: Recording, candidate: Recording) -> bool:
    """Whether a pair's tensors are read by nothing on either side, and what is beside them is: they are no matter."""
    return pair.node.name in reference.structure.unread and pair.candidate_node.name in candidate.structure.unread


def _upwards(node: Node) -> Sequence[str]:
    return (*node.parents, *((node.alias_of,) if node.alias_of else ()))


def _downwards(structure: Structure) -> Callable[[Node], Sequence[str]]:
    """What reads a node's tensor, by its own name or through those that pass it on: where gradients come from."""
    passing: dict[str, list[str]] = {}
    for node in structure:
        if node.alias_of is not None:
            passing.setdefault(node.alias_of, []).append(node.name)

    def below(node: Node) -> Sequence[str]:
        return (*structure.children[node.name], *passing.get(node.name, ()))

    return below


def _walk(
    structure: Structure, start: Sequence[str], paired: Container[str], further: Callable[[Node], Sequence[str]]
) -> tuple[list[str], tuple[str, ...]]:
    """The nearest paired nodes beyond those of a pair, ``start``, and the nodes passed that compute something."""
    nodes = structure.by_name
    found: list[str] = []
    passed: list[str] = []
    seen = set(start)
    queue = list(dict.fromkeys(name for first in start for name in further(nodes[first]) if name not in seen))
    seen.update(queue)
    while queue:
        name = queue.pop(0)
        node = nodes.get(name)
        if name in paired:
            found.append(name)
        elif node is not None:
            if node.kind not in TRANSPARENT and node.alias_of is None and pairable(node) and node.role != "item":
                passed.append(name)
            ahead = [other for other in further(node) if other not in seen]
            seen.update(ahead)
            queue += ahead
    return found, tuple(passed)


def _by_statistics(
    pair: PairDiff, apart: Apart, tolerance: Tolerance, floor: float, above: _Above, off: str | None
) -> tuple[Verdict, str]:
    """What statistics alone can say: that two tensors differ, never that they agree."""
    ours, theirs = apart.values
    shown = f"{apart.which} {ours:.6g} against {theirs:.6g}"
    reference = max(abs(ours), abs(theirs))
    inherited = max((p.apart.relative for p in above.pairs if p.apart is not None), default=0.0)
    agree = Verdict.NOT_COMPARABLE, f"its statistics agree ({shown}), but its values were not recorded"
    if apart.least <= tolerance.atol + tolerance.rtol * reference:
        return agree
    if off is not None:
        return Verdict.INHERITED, f"its statistics differ ({shown}); its input {off} is off already"
    if apart.relative <= max(floor, GROWTH * inherited):
        return agree
    return Verdict.DIVERGED, f"its statistics differ: {shown}, so at least {apart.least:.1e} somewhere"


def _some(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(map(display, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
