"""Differences that what comes next takes back: one side multiplies a mask, the other fills it in, before a softmax."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracer.causes.case import Case
from tracer.causes.step import Unknown
from tracer.compare import PairDiff
from tracer.rerun.cuts import Cut

Make = Callable[[int, PairDiff, frozenset[str]], tuple[Case, Case]]


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
