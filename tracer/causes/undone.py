"""Differences that what comes next takes back: one side multiplies a mask, the other fills it in, before a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tracer.causes.case import Case, cases
from tracer.causes.step import Unknown
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.rerun.cuts import Cut, cuts
from tracer.store import Recording

Make = Callable[[int, PairDiff, frozenset[str]], tuple[Case, Case]]


class Undone:
    """Says of pairs, by their index, whether what reads them takes their difference back; what that needs is made when
    it is first asked for."""

    def __init__(self, pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> None:
        self._pairs, self._sides = pairs, (reference, candidate)

    def __call__(self, index: int) -> bool:
        """Raises TraceError where a recording cannot be read."""
        made, make = self._made
        own = next((cut for cut in made.values() if cut.index == index), None)
        return own is not None and undone(own, made, self._pairs, make)

    @cached_property
    def _made(self) -> tuple[Mapping[str, Cut], Make]:
        made = met(self._pairs, *self._sides)
        return made, cases(made, *self._sides)


def met(pairs: Sequence[PairDiff], reference: Recording, candidate: Recording) -> dict[str, Cut]:
    """Where two recordings meet, by the candidate's node; values that rightly come in another order in that order."""
    made, _ = cuts([pair.pair for pair in pairs], reference, candidate)
    for name, cut in made.items():
        if pairs[cut.index].reordered and pairs[cut.index].verdict is not Verdict.DIVERGED:
            ways = sorted(cut.ways, key=lambda way: way.arrangement is None)
            made[name] = replace(cut, ways=tuple(ways))
    return made


def undone(cut: Cut, made: Mapping[str, Cut], pairs: Sequence[PairDiff], make: Make) -> bool:
    """Whether everything that reads a pair's tensors agrees when it is computed from what is above the pair.

    The two tensors are then steps on two ways to the same result, and no defect. False where nothing reads them, and
    where that cannot be computed.
    """
    if not cut.readers:
        return False
    for reader in cut.readers:
        other = made[reader]
        try:
            case, _ = make(other.index, pairs[other.index], frozenset({cut.candidate}))
            if cut.reference not in case.ours.nodes or not case.before <= case.bar:
                return False
        except Unknown:
            return False
    return True
