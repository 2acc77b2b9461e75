"""Findings that another one makes needless: with what differs above, the reference computes what the candidate did.

A pair may be of two tensors that are no step of the same, where a difference above left nothing for the alignment to go
by: queries and keys crosswise, say. What is said there is true of these two tensors and no defect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import product

from tracer.causes.case import Case, Trial
from tracer.causes.finding import Finding
from tracer.causes.search import Budget
from tracer.causes.step import Unknown
from tracer.causes.undone import Make
from tracer.compare.pair import PairDiff
from tracer.rerun.cuts import Cut

_FAR = 24
"""Tensors that may lie between two findings."""
_NEAR = 3
"""Tensors beyond a finding's own at which it may show that it is needless: its own may be no twins."""
_CLEAR = 8.0
"""Times the error that is left by which a finding's own difference would be seen."""
_SECONDS = 2.0


def needless(
    found: Sequence[Finding],
    doubtful: Set[str],
    places: Mapping[str, tuple[int, Cut]],
    made: Mapping[str, Cut],
    pairs: Sequence[PairDiff],
    make: Make,
) -> set[str]:
    """Pairs of which nothing need be said.

    ``found``: what is proven, in running order; ``doubtful``: pairs whose finding may be needless; ``places``: index
    and cut by the pair's aligned name; ``made``: the cuts by the candidate's node.
    """
    gone: set[str] = set()
    budget = Budget(_SECONDS)
    behind = {one.pair: _behind(places[one.pair][1], made) for one in found if one.pair in places}
    for lower in found:
        if lower.pair not in doubtful or lower.pair not in places or budget.gone(1.0):
            continue
        index, cut = places[lower.pair]
        upper = [
            one for one in found
            if one.pair not in gone | {lower.pair} and one.edits and cut.candidate in behind.get(one.pair, ())
        ]  # fmt: skip
        ways = [[one] for one in reversed(upper)] + ([upper] if len(upper) > 1 else [])
        for some, end in product(ways, (cut, *_beyond(cut, made))):
            if budget.gone(1.0):
                break
            between = {name for one in some for name in _between(places[one.pair][1], end, behind[one.pair], made)}
            large = lower.before if end is cut else _parted(pairs[end.index])
            if cut.candidate in {*between, end.candidate} and _enough(
                large, some, make, index if end is cut else end.index, pairs[end.index], frozenset(between)
            ):
                gone.add(lower.pair)
                break
    return gone


def _parted(pair: PairDiff) -> float:
    """How far two tensors are apart, by their largest value; 0 where they need not be."""
    stats = pair.stats
    return 0.0 if stats is None or not stats.reference_max else stats.max_abs / stats.reference_max


def _beyond(cut: Cut, made: Mapping[str, Cut]) -> list[Cut]:
    """What is made of a cut's tensor: the nearest few, and what nothing reads."""
    found: dict[str, Cut] = {}
    names = [cut.candidate]
    for _ in range(_FAR):
        names = [name for one in names for name in made[one].readers if name not in found]
        found |= {name: made[name] for name in names}
    ends = [one for one in found.values() if not one.readers]
    return list({one.candidate: one for one in (*[*found.values()][:_NEAR], *ends[:_NEAR])}.values())


def _enough(
    large: float | None, upper: Iterable[Finding], make: Make, index: int, pair: PairDiff, between: frozenset[str]
) -> bool:
    """Whether the edits of some findings alone make of a pair's one side what the other gave, from above them all, and
    ``large``, how far the two are apart, is not lost in the error that is left."""
    try:
        both: tuple[Case, Case] = make(index, pair, between)
        (turned,) = {one.turned for one in upper}
        case = both[turned]
        trial: Trial = case.start
        for one in upper:
            for edit in one.edits:
                trial = edit.change(trial)
        error = case.error(trial)
        return error <= case.bar and (large is None or large > _CLEAR * error)
    except (Unknown, ValueError, KeyError, IndexError):
        return False


def _behind(first: Cut, made: Mapping[str, Cut]) -> frozenset[str]:
    """The candidate's tensors that are made of a cut's, nearby."""
    found: set[str] = set()
    names = {first.candidate}
    for _ in range(_FAR):
        names = {reader for name in names for reader in made[name].readers} - found
        found |= names
    return frozenset(found)


def _between(first: Cut, last: Cut, behind: Set[str], made: Mapping[str, Cut]) -> Set[str]:
    """Those by which one cut leads to another, the first's too."""
    known = behind | {first.candidate}
    found, names = {last.candidate}, {last.candidate}
    while names:
        names = {name for name in known - found if not names.isdisjoint(made[name].readers)}
        found |= names
    return found - {last.candidate}
