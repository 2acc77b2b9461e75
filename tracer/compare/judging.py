"""Verdicts for all pairs, walked in the reference's order so that each knows how its inputs fared."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tracer import dtypes, kinds
from tracer.alignment.features import TRANSPARENT, Apart, pairable
from tracer.alignment.mapping import Mapping as MappingFile
from tracer.alignment.outputs import Output
from tracer.compare import instability
from tracer.compare.local import DRAWS, Local
from tracer.compare.pair import PairDiff
from tracer.compare.stats import Stats
from tracer.compare.verdict import GROWTH, Tolerance, Verdict, judge, judge_again, rounding_floor
from tracer.graph import Node, Structure
from tracer.names import display
from tracer.store import Recording

Of = Literal["values", "gradients"]
"""What is compared of a pair: activations, or the loss's gradients with respect to them."""

_OFF = (Verdict.DIVERGED, Verdict.INHERITED)
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
) -> tuple[PairDiff, ...]:
    """The pairs with verdicts and reasons; they come in the order in which errors travel.

    ``moved`` are the outputs that the candidate returns at another place: whatever their values, that is said.
    """
    judge_ = _Judge(pairs, tolerance, reference, candidate, mapping, of)
    places = {output.reference: str(output) for output in moved}
    found = (judge_.judge(pair) for pair in pairs)
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
    ) -> None:
        self._of = of
        self._tolerance, self._mapping = tolerance, mapping
        self._ours, self._theirs = reference.structure, candidate.structure
        own = [pair for pair in pairs if "output" not in pair.pair.evidence]
        self._by_reference = {name: pair for pair in own for name in pair.pair.reference}
        self._by_candidate = {name: pair for pair in own for name in pair.pair.candidate}
        self._known = {pair.aligned for pair in own if pair.saved or pair.apart is not None}
        self._done: dict[str, PairDiff] = {}
        self._depth: dict[str, int] = {}
        self._origin: dict[str, str] = {}

    def judge(self, pair: PairDiff) -> PairDiff:
        above = self._above(pair)
        steps = 1 + len(above.uncompared)
        depth = steps + max((self._depth.get(p.aligned, 0) for p in above.pairs), default=0)
        inherited = max((s.rel_l2 for s in map(_telling, above.pairs) if s is not None), default=None)
        own, note = tolerance_for(pair.aligned, self._tolerance, self._mapping)
        floor = rounding_floor(pair.coarsest, depth) + pair.stored_rounding
        waived = note if note and not _within(pair.stats, self._tolerance) and _within(pair.stats, own) else ""
        pair = replace(
            pair, inherited=inherited, floor=floor, tolerance=own, note=note, between=above.between, accepted=waived
        )
        off = next((p.aligned for p in above.pairs if p.verdict in _OFF), None)
        suspicious = any(s.computes for s in pair.settings) or any(above.between)
        local = pair.local if pair.local is not None and pair.local.known else None
        if pair.local is not None and pair.local.why == DRAWS and not _within(pair.stats, own):
            return self._settled(_drawn(pair), depth)
        if local is not None:
            return self._settled(self._again(pair, local, own, note, above, inherited), depth)
        if pair.stats is not None:
            verdict, reason = judge(
                pair.stats, own, floor, dtypes.epsilon(pair.coarsest), off, inherited, suspicious, pair.stored_rounding,
                steps,
            )  # fmt: skip
        elif pair.rearranged:
            verdict, reason = Verdict.MATCH, "the same values in another shape"
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
            if self._undone(pair):
                said = order or "the same values arranged otherwise"
                verdict, reason = Verdict.MATCH, f"{said}, as the next layer expects"
            elif pair.masked and self._unseen(pair):
                verdict, reason = Verdict.MATCH, "it differs, but all that reads it agrees: what is masked is not seen"
            else:
                surprised = self._surprised(pair) if order else None
                if surprised is not None:
                    order += f", which {display(surprised)} does not expect"
                reason = "; ".join(part for part in (order, reason, self._inputs(above, inherited)) if part)
        if pair.local is not None and pair.local.why and verdict is not Verdict.MATCH:
            reason = "; ".join(part for part in (reason, f"its own error is not known: {pair.local.why}") if part)
        return self._settled(replace(pair, verdict=verdict, reason=reason), depth)

    def _settled(self, pair: PairDiff, depth: int) -> PairDiff:
        if "output" not in pair.pair.evidence:
            self._done[pair.aligned] = pair
            self._depth[pair.aligned] = depth
        return pair

    def _again(
        self, pair: PairDiff, local: Local, own: Tolerance, note: str, above: _Above, inherited: float | None
    ) -> PairDiff:
        """A pair that was run again on the reference's inputs, with its verdict."""
        ordered = local.reordered and pair.ordered is not None
        stats = pair.ordered if ordered else pair.stats
        origin = next((self._origin[p.aligned] for p in above.pairs if p.aligned in self._origin), None)
        sizes = [p.stats.reference_max for p in above.pairs if p.stats is not None]
        whole = (pair.node.dtype or "").startswith(("int", "uint", "bool"))
        unstable = instability.named(pair.node.kind, whole, stats, inherited, max(sizes, default=None))
        verdict, reason = judge_again(local, stats, own, note, origin, inherited, pair.coarsest, unstable)
        if ordered:
            said = f"the same values in another order: {pair.pair.arrangement}"
            if local.unexpected:
                surprised = self._surprised(pair)
                reason = said + (f", which {display(surprised)} does not expect" if surprised is not None else "")
            elif verdict is Verdict.MATCH:
                reason = f"{said}, as the next layer expects"
        elif verdict is Verdict.DIVERGED:
            if (pair.masked or pair.masked_once) and self._read_right(pair):
                verdict, reason = Verdict.MATCH, "it differs, but all that reads it agrees: what is masked is not seen"
            elif any(above.between):
                reason += f"; before it lie, without a twin: {above.lonely}: the difference may be theirs"
        if "output" not in pair.pair.evidence:
            if verdict is Verdict.DIVERGED:
                self._origin[pair.aligned] = pair.aligned
            elif origin is not None:
                self._origin[pair.aligned] = origin
        return replace(pair, verdict=verdict, reason=reason, reordered=ordered)

    def _read_right(self, pair: PairDiff) -> bool:
        """Whether all that reads a pair gives the right values on the reference's."""
        readers = self._readers(pair)
        return bool(readers) and all(r.local is not None and r.local.known and not r.local.diverged for r in readers)

    def _above(self, pair: PairDiff) -> _Above:
        forward = self._of == "values"
        ours, lonely, missing = self._walked(self._ours, pair.pair.reference, self._by_reference, forward)
        theirs, lonely_theirs, _ = self._walked(self._theirs, pair.pair.candidate, self._by_candidate, forward)
        sources = {self._by_reference[name].aligned for name in ours}
        found = tuple(self._done[name] for name in sorted(sources) if name in self._done)
        same = sources == {self._by_candidate[name].aligned for name in theirs}
        return _Above(found, (lonely, lonely_theirs), same, missing)

    def _walked(
        self, structure: Structure, start: Sequence[str], paired: Mapping[str, PairDiff], forward: bool
    ) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
        """The nearest compared nodes, and what was passed: without a twin, and with one that has no values."""
        compared = {name for name, pair in paired.items() if pair.aligned in self._known}
        found, passed = _walk(structure, start, compared, _upwards if forward else _downwards(structure))
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

    def _undone(self, pair: PairDiff) -> bool:
        """Whether a layout operation only orders its values otherwise, and all that read it come out right.

        A port may flatten in another order and re-order the rows of the next kernel: that is no defect. A forgotten
        permute looks the same here but not one layer on. What works element by element hands the order on.
        """
        if not (self._agrees(pair, pair.ordered) or (pair.node.kind in kinds.LAYOUT_ONLY and pair.content == 1.0)):
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

    def _surprised(self, pair: PairDiff) -> str | None:
        """The first that reads re-ordered values and does not come out right."""
        for reader in self._readers(pair):
            if not self._takes(reader):
                return (self._surprised(reader) if self._agrees(reader, reader.ordered) else None) or reader.aligned
        return None

    def _takes(self, pair: PairDiff) -> bool:
        """Whether a reader of re-ordered values comes out right, or hands the order on to layers that do."""
        return self._agrees(pair, pair.stats) or (self._agrees(pair, pair.ordered) and self._undone(pair))

    def _agrees(self, pair: PairDiff, stats: Stats | None) -> bool:
        if stats is None:
            return False
        own, _ = tolerance_for(pair.aligned, self._tolerance, self._mapping)
        return stats.passes(own.atol, own.rtol) or stats.rel_l2 <= rounding_floor(pair.coarsest, _DEEP)


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


def _telling(pair: PairDiff) -> Stats | None:
    """The statistics that say how far a pair's values are apart."""
    return pair.ordered if pair.reordered else pair.stats


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
