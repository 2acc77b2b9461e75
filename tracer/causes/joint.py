"""Two findings of other operations as one, where what lies between them is looked at as a whole.

A pair on the way may be of two tensors that stand at other places of the same computation: one side scales the
queries, the other the scores. What is said there is true then and no defect; the smallest statement is believed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import combinations

from tracer.causes.finding import Finding
from tracer.causes.naming import GENERIC, ORDERS
from tracer.rerun.cuts import Cut

_FAR = 4
"""Tensors that may lie between two findings."""
_ENOUGH = 3
"""Times that two findings of the same names are looked at as one in vain: a cause in every block of a deep network
would be looked at with each of its neighbours."""
_ONE_EACH = 2
_ENDS = ("missing", "extra")
Look = Callable[[int, frozenset[str]], Finding | None]
"""What is found of a pair, by its index, when some of the candidate's tensors are not relied on."""


def at_one(
    found: Sequence[Finding],
    opens: Set[str],
    places: Mapping[str, tuple[int, Cut]],
    made: Mapping[str, Cut],
    look: Look,
) -> Iterator[tuple[Finding, Finding, Finding]]:
    """Two findings each and the smaller one that says both, at the place of the first.

    ``opens``: pairs that one of the two is of; ``places``: index and cut by the pair's aligned name; ``made``: the
    cuts by the candidate's node.
    """
    left = [one for one in found if one.pair in places]
    tried: set[tuple[str, str, tuple[str, ...]]] = set()
    in_vain: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
    while True:
        for first, second in combinations(left, 2):
            key, sort = (first.pair, second.pair, (*first.names, *second.names)), (first.names, second.names)
            if key in tried or not {first.pair, second.pair} & opens or in_vain[sort] >= _ENOUGH:
                continue
            tried.add(key)
            index, apart = _where(places[first.pair][1], *places[second.pair], made)
            if not apart:
                continue
            whole = look(index, apart)
            in_vain[sort] += 1
            # What was found on the way rests on tensors that are no twins.
            covered = {name for name, (at, cut) in places.items() if at == index or cut.candidate in apart}
            between = [one for one in left if one.pair in covered and one not in (first, second)]
            count = sum(_size(one) for one in (first, second, *between))
            if whole is None or whole.status != "proven" or _size(whole) >= count:
                continue
            if (count == _ONE_EACH and not _same(whole, first, second)) or _denied(whole, (first, second)):
                continue
            in_vain[sort] -= 1
            whole = replace(whole, pair=first.pair)
            yield first, second, whole
            for one in between:
                yield whole, one, whole
            left = [whole if one is first else one for one in left if one is not second and one not in between]
            break
        else:
            return


def _size(one: Finding) -> int:
    """Operations and settings that a finding speaks of."""
    return sum(max(1, len(cause.block), len(cause.key.split(", "))) for cause in one.causes)


def _same(whole: Finding, first: Finding, second: Finding) -> bool:
    """Whether one cause says what two do: under one of their names, or what the one leaves out the other puts in;
    a more exact one than both, or another order for two."""
    names = {*first.names, *second.names}
    if names <= GENERIC and not set(whole.names) <= GENERIC:
        return True
    if names <= ORDERS and set(whole.names) <= ORDERS:
        return True
    stems = {name.rpartition("-")[0] for name in names}
    return set(whole.names) <= names or (len(stems) == 1 and names == {f"{s}-{e}" for s in stems for e in _ENDS})


def _denied(whole: Finding, both: Sequence[Finding]) -> bool:
    """Whether a layer is said to be on one side alone of which it was found that it only reads other tensors; or
    something else than what both say of the very same node, which is one mistake as it stands."""
    first, second = ({(cause.id, cause.reference, cause.candidate) for cause in one.causes} for one in both)
    if any(cause[0] not in whole.names for cause in first & second):
        return True
    rewired = [cause for one in both for cause in one.causes if cause.id == "wiring"]
    sides = [{cause.reference for cause in rewired} - {""}, {cause.candidate for cause in rewired} - {""}]
    alone = [cause for cause in whole.causes if cause.id in ("block-missing", "block-extra")]
    return any(cause.reference in sides[0] or cause.candidate in sides[1] for cause in alone)


def _where(first: Cut, index: int, second: Cut, made: Mapping[str, Cut]) -> tuple[int, frozenset[str]]:
    """Where two findings are looked at as one, and the candidate's tensors that are not relied on there: at the second,
    or behind both where the candidate has them the other way round."""
    apart = _between(first, second, made)
    if apart and index != second.index:  # an output that the candidate only passes on
        apart |= {second.candidate}
    if apart or len(first.readers) != 1:
        return index, apart
    apart = _between(second, first, made)
    return made[first.readers[0]].index, apart | {first.candidate} if apart else apart


def _between(first: Cut, second: Cut, made: Mapping[str, Cut]) -> frozenset[str]:
    """The candidate's tensors by which one cut leads to another nearby, the first's too; none where it does not."""
    paths: list[tuple[str, ...]] = [(first.candidate,)]
    for _ in range(_FAR):
        paths = [(*path, reader) for path in paths for reader in made[path[-1]].readers if reader not in path]
        found = [path for path in paths if path[-1] == second.candidate]
        if found:
            return frozenset(name for path in found for name in path[:-1])
    return frozenset()
