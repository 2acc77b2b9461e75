"""Two findings of other operations as one, where what lies between them is looked at as a whole.

A pair on the way may be of two tensors that stand at other places of the same computation: one side scales the
queries, the other the scores. What is said there is true then and no defect; the smallest statement is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from tracer.causes.finding import Finding
from tracer.compare.pair import PairDiff
from tracer.rerun.cuts import Cut

_FAR = 4
"""Tensors that may lie between two findings."""
_ONE_EACH = 2
_ENDS = ("missing", "extra")
Look = Callable[[int, PairDiff, frozenset[str]], Finding | None]
"""What is found of a pair when some of the candidate's tensors are not relied on."""


def at_one(
    found: Sequence[Finding],
    opens: Container[str],
    places: Mapping[str, tuple[int, PairDiff, Cut]],
    made: Mapping[str, Cut],
    look: Look,
) -> Iterator[tuple[Finding, Finding, Finding]]:
    """Two findings each and the smaller one that says both, at the place of the first.

    ``opens``: pairs that the first may be of; ``places``: by the pair's aligned name; ``made``: the cuts by the
    candidate's node.
    """
    left = [one for one in found if one.pair in places]
    tried: set[tuple[str, str, tuple[str, ...]]] = set()
    while True:
        for first, second in combinations(left, 2):
            key = first.pair, second.pair, (*first.names, *second.names)
            if key in tried or first.pair not in opens:
                continue
            tried.add(key)
            index, pair, cut = places[second.pair]
            apart = _between(places[first.pair][2], cut, made)
            whole = look(index, pair, apart) if apart else None
            if whole is None or whole.status != "proven" or len(whole.causes) >= len(first.causes) + len(second.causes):
                continue
            if len(first.causes) + len(second.causes) == _ONE_EACH and not _same(whole, first, second):
                continue
            whole = replace(whole, pair=first.pair)
            yield first, second, whole
            # What was found on the way rests on tensors that are no twins.
            between = [one for one in left if places[one.pair][2].candidate in apart and one is not first]
            for one in between:
                yield whole, one, whole
            left = [whole if one is first else one for one in left if one is not second and one not in between]
            break
        else:
            return


def _same(whole: Finding, first: Finding, second: Finding) -> bool:
    """Whether one cause says what two do: under one of their names, or what the one leaves out the other puts in."""
    names = {*first.names, *second.names}
    stems = {name.rpartition("-")[0] for name in names}
    return set(whole.names) <= names or (len(stems) == 1 and names == {f"{s}-{e}" for s in stems for e in _ENDS})


def _between(first: Cut, second: Cut, made: Mapping[str, Cut]) -> frozenset[str]:
    """The candidate's tensors by which one cut leads to another nearby, the first's too; none where it does not."""
    paths: list[tuple[str, ...]] = [(first.candidate,)]
    for _ in range(_FAR):
        paths = [(*path, reader) for path in paths for reader in made[path[-1]].readers if reader not in path]
        found = [path for path in paths if path[-1] == second.candidate]
        if found:
            return frozenset(name for path in found for name in path[:-1])
    return frozenset()
