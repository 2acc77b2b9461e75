"""Differences that what comes next takes back: one side multiplies a mask, the other fills it in, before a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tracer import kinds
from tracer.causes.case import Case, cases
from tracer.causes.ends import at_ends
from tracer.causes.step import Unknown
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.rerun.cuts import Cut, cuts
from tracer.store import Recording

Make = Callable[[int, PairDiff, frozenset[str]], tuple[Case, Case]]

_LOSING = kinds.POOLS | kinds.REDUCTIONS


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
    """Where two recordings meet, by the candidate's node; values that rightly come in another order in that order, and
    layers that one side writes in several operations where these end."""
    made, _ = cuts([pair.pair for pair in pairs], reference, candidate)
    for name, cut in made.items():
        if pairs[cut.index].reordered and pairs[cut.index].verdict is not Verdict.DIVERGED:
            ways = sorted(cut.ways, key=lambda way: way.arrangement is None)
            made[name] = replace(cut, ways=tuple(ways))
    return at_ends(made, pairs, reference, candidate)


def undone(
    cut: Cut,
    made: Mapping[str, Cut],
    pairs: Sequence[PairDiff],
    make: Make,
    apart: frozenset[str] = frozenset(),
    far: int = 1,
) -> bool:
    """Whether everything that reads a pair's tensors agrees when it is computed from what is above the pair.

    The two tensors are then steps on two ways to the same result, and no defect. What reads them may itself be such a
    step, ``far`` tensors on at most, but for one that only loses what differs, as a mean does; nor are those in
    ``apart`` relied on. False where nothing reads them, and where that cannot be computed.
    """
    apart |= {cut.candidate}
    steps = [cut]
    for _ in range(far):
        following: dict[str, Cut] = {}
        for step in steps:
            if not step.readers:
                return False
            for other in (made[reader] for reader in step.readers if reader not in apart):
                try:
                    case = make(other.index, pairs[other.index], apart)[0]
                    if step.reference not in case.ours.nodes:
                        return False
                    if not case.before <= case.bar:
                        following[other.candidate] = other
                    elif far > 1 and case.theirs.node.kind in _LOSING:
                        return False
                except Unknown:
                    return False
        if not following:
            return True
        apart |= following.keys()
        steps = list(following.values())
    return False
