"""What of two recordings' tensors belongs to one batch, and what several batches tell together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tracer.batches import WHOLE, Samples, Split, split
from tracer.compare.local import Local
from tracer.errors import ReplayError
from tracer.rerun.cuts import Cut, Way
from tracer.store import Recording


def resized(way: Way, samples: Samples, axis: int | None) -> Way:
    """``way`` for some samples alone; they lie on ``axis`` of the candidate's tensor."""
    found = way.arrangement
    if samples.all or axis is None or found is None:
        return way
    lengths = list(found.lengths)
    for slowest in (found.candidate[axis] if axis < len(found.candidate) else ())[:1]:
        lengths[slowest] = lengths[slowest] * (samples.stop - samples.start) // samples.total
    return replace(way, arrangement=replace(found, lengths=tuple(lengths)))


@dataclass(frozen=True)
class Parts:
    """The runs in which the candidate is walked.

    Attributes:
        split: its own.
        axes: on which axis the samples of the reference's stored nodes lie; None where on none.
    """

    split: Split = WHOLE
    axes: Mapping[str, int | None] = field(default_factory=dict)

    @classmethod
    def of(cls, cuts: Mapping[str, Cut], reference: Recording, candidate: Recording) -> Parts:
        """Raises ReplayError where the batches of the two recordings do not go together."""
        ours, theirs = split(reference), split(candidate)
        same = (ours.total, ours.size) == (theirs.total, theirs.size)
        if not same and "train" in (reference.attributes.get("mode"), candidate.attributes.get("mode")):
            raise ReplayError("what layers give in training depends on the batch: record both with the same --batch")
        found: dict[str, int | None] = {}
        for name, cut in cuts.items() if theirs != WHOLE else ():
            for node in (cut.reference, cut.heal, *(other for _, other in cut.same)):
                found[node] = ours.axis(node) if ours != WHOLE else _opposite(cut.ways[0], theirs.axis(name))
        return cls(theirs, found)


ONE = Parts()
"""Of a candidate that was recorded in one run."""


def _opposite(way: Way, axis: int | None) -> int | None:
    """The reference's axis that is the candidate's ``axis``."""
    if axis is None:
        return None
    if way.axes is not None:
        return way.axes.index(axis) if axis in way.axes else None
    assert way.arrangement is not None
    slowest = (way.arrangement.candidate[axis] if axis < len(way.arrangement.candidate) else ())[:1]
    found = (place for place, letters in enumerate(way.arrangement.reference) if letters[:1] == slowest)
    return next(found, None) if slowest else None


def together(one: Local, other: Local) -> Local:
    """What two batches tell of one pair; the axes and the basis are the second's."""
    larger = other if not one.error >= other.error else one
    return replace(
        other, error=larger.error, argmax=larger.argmax, scale=max(one.scale, other.scale),
        rounding_reference=most(one.rounding_reference, other.rounding_reference),
        rounding_candidate=most(one.rounding_candidate, other.rounding_candidate),
        shape=one.shape if other.shape is None else other.shape,
    )  # fmt: skip


def most(one: float | None, other: float | None) -> float | None:
    """The larger of two figures, unknown where one is."""
    return None if one is None or other is None else max(one, other)
