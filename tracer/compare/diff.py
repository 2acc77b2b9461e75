"""The comparison of two recordings, pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from tracer.alignment import Alignment, Pair, align
from tracer.alignment import axes as axes_
from tracer.alignment.engine import IGNORED
from tracer.alignment.features import same_content
from tracer.alignment.mapping import Mapping as MappingFile
from tracer.compare.configuration import differences
from tracer.compare.judging import judged, tolerance_for
from tracer.compare.pair import PairDiff
from tracer.compare.stats import compare
from tracer.compare.verdict import Tolerance, Verdict
from tracer.errors import ExitCode, InputError, TraceError
from tracer.store import Recording

SCHEMA = "tracer-diff/1"


@dataclass(frozen=True)
class Diff:
    """Everything ``tracer diff`` knows. ``bool(d)`` is true when nothing diverged."""

    reference: Recording
    candidate: Recording
    tolerance: Tolerance
    pairs: tuple[PairDiff, ...]
    alignment: Alignment
    mapping: MappingFile | None = None

    @cached_property
    def counts(self) -> Counter[Verdict]:
        return Counter(pair.verdict for pair in self.pairs)

    @cached_property
    def first(self) -> PairDiff | None:
        """The first divergence in the reference's running order."""
        return next((pair for pair in self.pairs if pair.verdict is Verdict.DIVERGED), None)

    @property
    def verdict(self) -> Verdict:
        """``diverged`` if any pair is, ``not-comparable`` if no pair could be compared, else the mildest that holds."""
        if self.first is not None:
            return Verdict.DIVERGED
        if not any(pair.stats is not None for pair in self.pairs):
            return Verdict.NOT_COMPARABLE
        return Verdict.NOISE if self.counts[Verdict.NOISE] else Verdict.MATCH

    @property
    def latent(self) -> tuple[PairDiff, ...]:
        """Pairs that agree on this input although their settings differ: another input may tell them apart."""
        agree = (Verdict.MATCH, Verdict.NOISE)
        return tuple(p for p in self.pairs if p.verdict in agree and differences(p.node, p.candidate_node))

    @property
    def unmatched(self) -> int:
        """Nodes without a twin on both sides, but for those that the mapping file ignores."""
        sides = (self.alignment.unmatched_reference, self.alignment.unmatched_candidate)
        return sum(reason != IGNORED for side in sides for reason in side.values())

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """What the command line exits with; comparing nothing is never success."""
        if self.verdict is Verdict.NOT_COMPARABLE:
            return ExitCode.PARTIAL
        if self.verdict is Verdict.DIVERGED:
            return ExitCode.DIVERGED
        if any(recording.state != "complete" for recording in (self.reference, self.candidate)):
            return ExitCode.PARTIAL
        if any(pair.verdict is Verdict.NOT_COMPARABLE for pair in self.pairs):
            return ExitCode.PARTIAL
        return ExitCode.UNMATCHED if strict and self.unmatched else ExitCode.OK

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def __str__(self) -> str:
        from tracer.report.text import diff_text

        return diff_text(self)

    def at(self, tolerance: Tolerance) -> Diff:
        """The same comparison judged by another tolerance, from the statistics alone."""
        return replace(
            self, tolerance=tolerance, pairs=judged(self.pairs, tolerance, self.reference, self.candidate, self.mapping)
        )

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer diff --json``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            "tolerance": {"atol": self.tolerance.atol, "rtol": self.tolerance.rtol},
            "verdict": str(self.verdict),
            "pairs": [pair.to_json() for pair in self.pairs],
            "unmatched": {
                "reference": list(self.alignment.unmatched_reference),
                "candidate": list(self.alignment.unmatched_candidate),
            },
            "first_divergence": None if self.first is None else self.first.aligned,
            "causes": [],
        }


def diff(
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance | None = None,
    *,
    mapping: MappingFile | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Compare two recordings of one input.

    Damaged or missing tensors make their pair ``not-comparable``; the others are compared.

    Raises InputError when the recordings were made on different inputs or ``mapping`` does not fit them.
    """
    tolerance = tolerance or Tolerance()
    if reference.input_id != candidate.input_id:
        raise InputError(
            f"recordings '{reference.name}' and '{candidate.name}' were made on different inputs "
            f"({reference.input_id} and {candidate.input_id}): record one of them again on the other's"
        )
    alignment = align(reference, candidate, mapping)
    found = []
    for done, pair in enumerate(alignment.pairs):
        if progress is not None:
            progress(done, len(alignment.pairs))
        found.append(_compare(pair, reference, candidate, tolerance, mapping))
    return Diff(
        reference, candidate, tolerance, judged(found, tolerance, reference, candidate, mapping), alignment, mapping
    )


def _compare(
    pair: Pair, reference: Recording, candidate: Recording, tolerance: Tolerance, mapping: MappingFile | None
) -> PairDiff:
    """A pair with its statistics, or with the reason why there are none; the verdict comes later."""
    node = reference.structure.by_name[pair.reference[-1]]
    other = candidate.structure.by_name[pair.candidate[-1]]
    stats, obstacle, saved, rearranged = None, "", True, False
    for recording, name in ((reference, node.name), (candidate, other.name)):
        if recording.stored(name) is None:
            why = recording.skipped.get(recording.resolve(name), "it was not saved")
            obstacle, saved = f"{name} of '{recording.name}' was not recorded: {why}", False
    if not obstacle and pair.axes is None:
        obstacle = f"{_shape(node.shape)} against {_shape(other.shape)}: no order of the axes makes these shapes equal"
    a, b = reference.stored(node.name), candidate.stored(other.name)
    content = same_content(a.summary, b.summary) if a is not None and b is not None else None
    if saved:
        try:
            ours, theirs = reference.read(node.name), candidate.read(other.name)
            own, _ = tolerance_for(pair.aligned, tolerance, mapping)
            if pair.axes is not None:
                stats = compare(ours, axes_.apply(theirs, pair.axes), own.atol, own.rtol)
            elif content == 1.0:
                # The same values in whatever order, as where time steps are folded into the batch?
                sorted_ = compare(np.sort(ours, axis=None), np.sort(theirs, axis=None), own.atol, own.rtol)
                rearranged = sorted_.passes(own.atol, own.rtol)
        except (TraceError, ValueError) as error:
            obstacle, saved = str(error), False
    return PairDiff(
        pair, node, other, node.shape, stats, Verdict.NOT_COMPARABLE, obstacle, None, 0.0, tolerance,
        content=content, obstacle=obstacle, saved=saved, rearranged=rearranged,
    )  # fmt: skip


def _shape(shape: Sequence[int] | None) -> str:
    return "?" if shape is None else "×".join(map(str, shape)) or "scalar"
