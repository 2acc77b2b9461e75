"""What the Mapping screen lists, and what its keys make of a mapping. Nothing here draws or computes an alignment."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Mapping as Table
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

from tracer.alignment import Alignment
from tracer.alignment.dumping import SURE, dump
from tracer.alignment.features import pairable
from tracer.alignment.mapping import Entry, Ignore, Mapping, Side
from tracer.alignment.result import Ambiguous, Pair
from tracer.errors import InputError
from tracer.graph import Node, Structure
from tracer.names import display
from tracer.report import words
from tracer.store import Recording

SORTS = ("doubt", "order", "name")
SIDES: tuple[Side, Side] = ("reference", "candidate")
Names = tuple[str, ...]


class State(StrEnum):
    """How a suggestion stands: left open by the alignment; paired, below or above :data:`SURE`; paired as what the
    models return; stated by a person; said to be no pair."""

    OPEN = "open"
    DOUBT = "doubtful"
    SURE = "sure"
    OUTPUT = "output"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


_ORDER = tuple(State)
PAIRED, OPEN, UNPAIRED, IGNORED = "paired", "open", "unpaired", "ignored"
STATES = (*State, PAIRED, UNPAIRED, IGNORED)
"""What a filter takes, for suggestions and for the nodes beside them."""
GLYPHS = {
    State.OPEN: ("?", "?", "diverged"),
    State.DOUBT: ("?", "?", "noise"),
    State.SURE: ("✓", "=", "match"),
    State.OUTPUT: ("·", ".", "dim"),
    State.ACCEPTED: ("●", "*", "match"),
    State.REJECTED: ("✗", "X", "dim"),
}
"""Glyph, its ASCII, and style."""
NODE_GLYPHS = {
    PAIRED: ("●", "*", "match"),
    OPEN: ("?", "?", "diverged"),
    UNPAIRED: ("○", "o", "noise"),
    IGNORED: ("–", "-", "dim"),
}
MEANING = {
    State.OPEN: "the evidence does not settle it, so it is not paired",
    State.DOUBT: f"paired with a confidence below {SURE:g}",
    State.SURE: "paired, and sure",
    State.OUTPUT: "compared because the models return them",
    State.ACCEPTED: "stated by you or the mapping file",
    State.REJECTED: "never paired, because you said so",
}


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A pair that is suggested, stated or rejected; or a node with what it may be.

    Attributes:
        choices: of a node that is left open what it may be, with the likelihood of each; the candidate is one of them.
        pending: whether the alignment does not know of it yet.
    """

    place: int
    reference: Names
    candidate: Names
    state: State
    confidence: float
    pair: Pair | None = None
    choices: tuple[tuple[str, float], ...] = ()
    reason: str = ""
    pending: bool = False

    @property
    def key(self) -> tuple[str, ...]:
        return (*self.reference, *([""] if self.state is State.REJECTED else []))

    @property
    def names(self) -> Names:
        return (*self.reference, *self.candidate)

    @property
    def ops(self) -> Names:
        return (self.pair.what if self.pair is not None else "",)

    @property
    def error(self) -> float | None:
        return None

    @property
    def relative(self) -> float | None:
        return None

    @property
    def ends(self) -> tuple[str, str]:
        """The nodes that are compared."""
        return self.reference[-1], self.candidate[-1]

    def chosen(self, at: int) -> Suggestion:
        """The same with another of the choices."""
        if not self.choices:
            return self
        name, likelihood = self.choices[at % len(self.choices)]
        return replace(self, candidate=(name,), confidence=likelihood)


@dataclass(frozen=True, eq=False)
class Listed:
    """A node in the list of its side."""

    place: int
    node: Node
    state: str

    @property
    def key(self) -> str:
        return self.node.name

    @property
    def names(self) -> Names:
        return (self.node.name,)

    @property
    def ops(self) -> Names:
        return self.node.label, self.node.kind

    @property
    def error(self) -> float | None:
        return None

    @property
    def relative(self) -> float | None:
        return None


@dataclass(frozen=True)
class Said:
    """What a mapping states of two models, its patterns replaced by what they stand for. Raises InputError."""

    mapping: Mapping
    structures: tuple[Structure, Structure]

    @cached_property
    def resolved(self) -> Mapping:
        return self.mapping.resolve(*self.structures)

    @cached_property
    def pairs(self) -> dict[tuple[Names, Names], Entry]:
        return {(entry.reference, entry.candidate): entry for entry in self.resolved.pairs}

    @cached_property
    def rejected(self) -> set[tuple[str, str]]:
        return {(entry.reference[-1], entry.candidate[-1]) for entry in self.resolved.rejected}

    @cached_property
    def taken(self) -> tuple[set[str], set[str]]:
        """The nodes of either side that a stated pair holds."""
        return ({name for entry in self.resolved.pairs for name in entry.reference},
                {name for entry in self.resolved.pairs for name in entry.candidate})  # fmt: skip

    def ignores(self, side: int, name: str) -> bool:
        return self.mapping.ignores(SIDES[side], name)


def suggestions(alignment: Alignment, said: Said) -> list[Suggestion]:
    """Everything to decide on and everything decided, as it is with what was said since the alignment was made."""
    place = {node.name: at for at, node in enumerate(said.structures[0])}
    found = []
    shown = set()
    for pair in alignment.pairs:
        ends = pair.reference[-1], pair.candidate[-1]
        stated = (pair.reference, pair.candidate) in said.pairs
        if ends in said.rejected or ("output" in pair.evidence and ends in shown):
            continue
        if not stated and _touched(said, pair.reference, pair.candidate):
            continue
        state = State.ACCEPTED if stated else State.SURE if pair.confidence >= SURE else State.DOUBT
        state = State.OUTPUT if "output" in pair.evidence else state
        shown.add(ends)
        pending = stated is not ("mapping" in pair.evidence) and state is not State.OUTPUT
        found.append(Suggestion(place[pair.aligned], pair.reference, pair.candidate, state,
                                1.0 if stated else pair.confidence, pair, pending=pending))  # fmt: skip
    for ours, theirs in said.pairs:
        if (ours[-1], theirs[-1]) not in shown:
            found.append(Suggestion(place[ours[-1]], ours, theirs, State.ACCEPTED, 1.0, pending=True))
    opened = (_open(one, said) for one in alignment.ambiguous)
    found += [replace(one, place=place[one.reference[0]]) for one in opened if one is not None]
    found += [Suggestion(place[a], (a,), (b,), State.REJECTED, 0.0) for a, b in sorted(said.rejected)]
    return found


def _touched(said: Said, reference: Names, candidate: Names) -> bool:
    """Whether something was said about one of these nodes."""
    return any(
        name in said.taken[side] or said.ignores(side, name)
        for side, names in enumerate((reference, candidate))
        for name in names
    )


def _open(one: Ambiguous, said: Said) -> Suggestion | None:
    if _touched(said, (one.reference,), ()):
        return None
    choices = tuple((name, value) for name, value in one.candidates
                    if (one.reference, name) not in said.rejected and not _touched(said, (), (name,)))  # fmt: skip
    if not choices:
        return None
    name, likelihood = choices[0]
    return Suggestion(0, (one.reference,), (name,), State.OPEN, likelihood, None, choices, one.reason)


def ordered(found: Iterable[Suggestion], sort: str) -> list[Suggestion]:
    """By doubt (what is open first, then the least sure), in running order, or by name."""
    if sort == "order":
        return sorted(found, key=lambda one: one.place)
    if sort == "name":
        return sorted(found, key=lambda one: one.reference[-1].casefold())
    return sorted(found, key=lambda one: (_ORDER.index(one.state), round(one.confidence, 2), one.place))


def nodes(side: int, found: Sequence[Suggestion], said: Said) -> list[Listed]:
    """The nodes of a side that can be paired, in running order."""
    names: dict[str, str] = {}
    for one in found:
        if one.state is State.REJECTED:
            continue
        state = OPEN if one.state is State.OPEN else PAIRED
        members = one.reference if side == 0 else () if one.state is State.OPEN else one.candidate
        names |= dict.fromkeys(members, state)
    return [
        Listed(place, node, IGNORED if said.ignores(side, node.name) else names.get(node.name, UNPAIRED))
        for place, node in enumerate(node for node in said.structures[side] if pairable(node))
    ]


# --- edits: each gives another mapping, and raises InputError where it cannot be ----------------------------------


def accept(said: Said, found: Iterable[Suggestion]) -> Mapping:
    """State these pairs."""
    entries = []
    for one in found:
        axes = None
        if one.pair is not None and not one.pair.other_axes and one.pair.arrangement is None:
            axes = one.pair.axes
        entries.append(Entry(reference=one.reference, candidate=one.candidate, axes=axes))
    return _stated(said, entries)


def pair_up(said: Said, reference: Names, candidate: Names) -> Mapping:
    """State a pair made by hand; of several nodes the last ones in running order are compared."""
    names = []
    for structure, chosen in zip(said.structures, (reference, candidate), strict=True):
        place = {node.name: at for at, node in enumerate(structure)}
        names.append(tuple(sorted(chosen, key=place.__getitem__)))
    return _stated(said, [Entry(reference=names[0], candidate=names[1])])


def _stated(said: Said, entries: Sequence[Entry]) -> Mapping:
    taken = tuple({name for entry in entries for name in entry.names(side)} for side in SIDES)
    ends = {(entry.reference[-1], entry.candidate[-1]) for entry in entries}
    rest = _without(said, taken[0], taken[1])
    rest = _unrejected(rest, said, ends)
    for side in (0, 1):
        for name in taken[side]:
            if said.ignores(side, name):
                rest = _unignored(rest, side, name)
    return _checked(rest.model_copy(update={"pairs": (*rest.pairs, *entries)}), said)


def reject(said: Said, one: Suggestion) -> Mapping:
    """Say that the compared nodes are no pair; of what is rejected already, take that back."""
    if one.state is State.REJECTED:
        return _checked(_unrejected(said.mapping, said, {one.ends}), said)
    rest = said.mapping
    if (one.reference, one.candidate) in said.pairs:
        rest = _without(said, set(one.reference), set(one.candidate))
    entry = Entry(reference=one.reference[-1:], candidate=one.candidate[-1:])
    return _checked(rest.model_copy(update={"rejected": (*rest.rejected, entry)}), said)


def ignore(said: Said, chosen: tuple[Names, Names]) -> Mapping:
    """Leave these nodes of either side out, or, where all of them are left out, let them in again."""
    flat = [(side, name) for side, names in enumerate(chosen) for name in names]
    rest = said.mapping
    if all(said.ignores(side, name) for side, name in flat):
        for side, name in flat:
            rest = _unignored(rest, side, name)
        return _checked(rest, said)
    rest = _without(said, set(chosen[0]), set(chosen[1]))
    lists: dict[Side, list[str]] = {side: list(getattr(rest.ignore, side)) for side in SIDES}
    for side, name in flat:
        if not said.ignores(side, name):
            lists[SIDES[side]].append(glob.escape(name))
    return _checked(_ignoring(rest, lists), said)


def _without(said: Said, reference: set[str], candidate: set[str]) -> Mapping:
    """The mapping without the pairs that hold one of these nodes; a pattern is replaced by the pairs that stay."""
    kept: list[Entry] = []
    for entry in said.mapping.pairs:
        single = (entry.reference, entry.candidate) in said.pairs
        whole = (entry,) if single else Mapping(pairs=(entry,)).resolve(*said.structures).pairs
        stay = [one for one in whole if reference.isdisjoint(one.reference) and candidate.isdisjoint(one.candidate)]
        kept += [entry] if len(stay) == len(whole) else stay
    return said.mapping.model_copy(update={"pairs": tuple(kept)})


def _unrejected(mapping: Mapping, said: Said, ends: set[tuple[str, str]]) -> Mapping:
    if not said.rejected & ends:
        return mapping
    kept = [entry for entry in said.resolved.rejected if (entry.reference[-1], entry.candidate[-1]) not in ends]
    return mapping.model_copy(update={"rejected": tuple(kept)})


def _unignored(mapping: Mapping, side: int, name: str) -> Mapping:
    lists: dict[Side, list[str]] = {key: list(getattr(mapping.ignore, key)) for key in SIDES}
    own = [pattern for pattern in lists[SIDES[side]] if pattern in (name, glob.escape(name))]
    lists[SIDES[side]] = [pattern for pattern in lists[SIDES[side]] if pattern not in own]
    rest = _ignoring(mapping, lists)
    if rest.ignores(SIDES[side], name):
        left = (p for p in lists[SIDES[side]] if _ignoring(mapping, {SIDES[side]: [p]}).ignores(SIDES[side], name))
        pattern = next(left)
        raise InputError(f"'{display(name)}' is ignored by the pattern '{display(pattern)}' of the mapping file")
    return rest


def _ignoring(mapping: Mapping, lists: Table[Side, Sequence[str]]) -> Mapping:
    found = Ignore(reference=tuple(lists.get("reference", ())), candidate=tuple(lists.get("candidate", ())))
    return mapping.model_copy(update={"ignore": found})


def _checked(mapping: Mapping, said: Said) -> Mapping:
    """The mapping, if it can be obeyed. Raises InputError."""
    mapping.resolve(*said.structures)
    return mapping


def text_of(alignment: Alignment, said: Said, recordings: tuple[Recording, Recording]) -> str:
    """The mapping file: what a person decided, and as comments what is left to tracer."""
    pairs = tuple(pair for pair in alignment.pairs
                  if not _touched(said, pair.reference, pair.candidate)
                  and (pair.reference[-1], pair.candidate[-1]) not in said.rejected)  # fmt: skip
    left = tuple(one for one in alignment.ambiguous if _open(one, said) is not None)
    return dump(replace(alignment, pairs=pairs, ambiguous=left), recordings[0].name, recordings[1].name,
                mapping=said.mapping, accept=math.inf)  # fmt: skip


def named(names: Names) -> str:
    return words.together(names)


def picks_text(picks: tuple[Names, Names]) -> str:
    sides = [" + ".join(map(display, names)) or "…" for names in picks]
    return " ⇄ ".join(sides)


def counted(found: Sequence[Suggestion]) -> Iterator[tuple[State, int]]:
    for state in State:
        yield state, sum(one.state is state for one in found)
