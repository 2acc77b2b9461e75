"""Two findings of other operations as one, where what lies between them is looked at as a whole.

A pair on the way may be of two tensors that stand at other places of the same computation: one side scales the
queries, the other the scores. What is said there is true then and no defect; the smallest statement is believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from tracer.causes.finding import Finding
from tracer.compare.pair import PairDiff
from tracer.rerun.cuts import Cut

_FAR = 4
"""Tensors that may lie between two findings."""
_SEVERAL = 3
"""Causes of two findings of which one or two are too many."""
Look = Callable[[int, PairDiff, frozenset[str]], Finding | None]
"""What is found of a pair when some of the candidate's tensors are not relied on."""


def at_one(
    found: Sequence[Finding], places: Mapping[str, tuple[int, PairDiff, Cut]], made: Mapping[str, Cut], look: Look
) -> Iterator[tuple[Finding, Finding, Finding]]:
    """Two findings each and the smaller one that says both, at the place of the first.

    ``places``: by the pair's aligned name; ``made``: the cuts by the candidate's node.
    """
    gone: list[Finding] = []
    for first, second in combinations([one for one in found if one.pair in places], 2):
        if first in gone or second in gone:
            continue
        if len(first.causes) + len(second.causes) < _SEVERAL:
            continue
        index, pair, cut = places[second.pair]
        apart = _between(places[first.pair][2], cut, made)
        whole = look(index, pair, apart) if apart else None
        if whole is None or whole.status != "proven" or len(whole.causes) >= len(first.causes) + len(second.causes):
            continue
        gone += [first, second]
        yield first, second, replace(whole, pair=first.pair)


def _between(first: Cut, second: Cut, made: Mapping[str, Cut]) -> frozenset[str]:
    """The candidate's tensors by which one cut leads to another nearby, the first's too; none where it does not."""
    paths: list[tuple[str, ...]] = [(first.candidate,)]
    for _ in range(_FAR):
        paths = [(*path, reader) for path in paths for reader in made[path[-1]].readers if reader not in path]
        found = [path for path in paths if path[-1] == second.candidate]
        if found:
            return frozenset(name for path in found for name in path[:-1])
    return frozenset()
