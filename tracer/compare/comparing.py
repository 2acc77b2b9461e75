"""The comparison of two recordings, pair by pair."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer import configuration, dtypes, kinds
from tracer.alignment import Alignment, Pair, align
from tracer.alignment.consistency import MASKED
from tracer.alignment.engine import IGNORED
from tracer.alignment.features import least_apart, same_content
from tracer.alignment.outputs import Output
from tracer.causes.finding import Finding
from tracer.collecting import rarely_collected
from tracer.compare import compiled
from tracer.compare.judging import Of, judged, tolerance_for
from tracer.compare.local import Local, Measure, Measured, depends_on
from tracer.compare.pair import AWAITED, PairDiff
from tracer.compare.stats import Stats
from tracer.compare.tensors import Kept, Spread, Tensors, Way
from tracer.compare.verdict import AGREEING, Tolerance, Verdict
from tracer.errors import ExitCode, InputError, TraceError
from tracer.graph import Node
from tracer.names import display
from tracer.store import Recording, Stored

if TYPE_CHECKING:
    from pandas import DataFrame

    from tracer.alignment.mapping import Mapping as MappingFile
    from tracer.compare.baseline import Baseline

SCHEMA = "tracer-diff/1"
_LOOK = 2.0
"""Seconds between two looks at a comparison that is under way, at least: each has to be judged and drawn."""
_FAINT = 1e-3
"""Relative error of values below the absolute tolerance from which on it is said that only that lets them pass."""


@dataclass(frozen=True)
class Diff:
    """Everything ``tracer diff`` knows. ``bool(d)`` is true when nothing diverged.

    ``pairs`` are in the reference's running order; where gradients are compared in the opposite one, from the loss
    to the inputs, as errors travel there. ``notes`` say what could not be measured when the models were run again.
    """

    reference: Recording
    candidate: Recording
    tolerance: Tolerance
    pairs: tuple[PairDiff, ...]
    alignment: Alignment
    mapping: MappingFile | None = None
    of: Of = "values"
    notes: tuple[str, ...] = ()
    baseline: Baseline | None = None

    @cached_property
    def counts(self) -> Counter[Verdict]:
        """How many pairs have each verdict."""
        return Counter(pair.verdict for pair in self.pairs)

    @cached_property
    def first(self) -> PairDiff | None:
        """The first divergence in the order of ``pairs``."""
        return next((pair for pair in self.pairs if pair.verdict is Verdict.DIVERGED), None)

    @property
    def verdict(self) -> Verdict:
        """``diverged`` if any pair is or the outputs come in another order, ``not-comparable`` if no pair could be
        compared, else the mildest that holds."""
        if self.first is not None or self.moved:
            return Verdict.DIVERGED
        if not any(pair.compared for pair in self.pairs):
            return Verdict.NOT_COMPARABLE
        return Verdict.NOISE if self.counts[Verdict.NOISE] else Verdict.MATCH

    @property
    def moved(self) -> tuple[Output, ...]:
        """Outputs that the candidate returns at another place than the reference; of no matter to gradients."""
        return self.alignment.moved if self.of == "values" else ()

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Why pairs part, where that was looked for: one for all pairs of one mistake, in the order of ``pairs``."""
        found: dict[tuple[str, ...], Finding] = {}
        for pair in self.pairs:
            if pair.finding is not None:
                found.setdefault(pair.finding.pairs, pair.finding)
        return tuple(found.values())

    @property
    def latent(self) -> tuple[PairDiff, ...]:
        """Pairs that agree on this input although their settings differ: another input may tell them apart."""
        return tuple(p for p in self.pairs if p.verdict in AGREEING and p.settings and not p.accepted)

    @property
    def untested(self) -> tuple[PairDiff, ...]:
        """Layers of which nothing but one value, or no number at all, was seen on either side: agreement means little.

        Of masks and the like that is to be expected.
        """
        ends = set(self.reference.structure.outputs)
        telling = (p for p in self.pairs if p.node.params or p.node.kind in kinds.ACTIVATIONS or p.node.name in ends)
        return tuple(p for p in telling if p.stats is not None and p.stats.size > 1 and p.stats.blank)

    @property
    def faint(self) -> tuple[PairDiff, ...]:
        """Pairs that match only because all their values are below the absolute tolerance; by how much they differ in
        units of themselves is then more than rounding."""
        passed = (p for p in self.pairs if p.verdict is Verdict.MATCH and p.local is None and not p.note)
        return tuple(
            p for p in passed if p.stats and 0 < p.stats.reference_max <= p.tolerance.atol and p.stats.rel_l2 > _FAINT
        )

    @property
    def broken(self) -> tuple[PairDiff, ...]:
        """Pairs that could not be compared, but for those that were left out on request."""
        return tuple(p for p in self.pairs if p.verdict is Verdict.NOT_COMPARABLE and not p.left_out)

    @property
    def unmatched(self) -> int:
        """Nodes of both sides that do something and have no twin, but for those that the mapping file ignores."""
        sides = (self.alignment.unmatched_reference, self.alignment.unmatched_candidate)
        lonely = zip((self.reference, self.candidate), sides, strict=True)
        return sum(reason != IGNORED and not recording.structure.by_name[name].idle for recording, side in lonely
                   for name, reason in side.items())  # fmt: skip

    def exit_code(self, *, strict: bool = False) -> ExitCode:
        """What the command line exits with, ``strict`` as its option; comparing nothing is never success."""
        if self.verdict is Verdict.NOT_COMPARABLE:
            return ExitCode.PARTIAL
        if self.verdict is Verdict.DIVERGED:
            return ExitCode.DIVERGED
        if any(recording.state != "complete" for recording in (self.reference, self.candidate)):
            return ExitCode.PARTIAL
        if self.broken:
            return ExitCode.PARTIAL
        return ExitCode.UNMATCHED if strict and self.unmatched else ExitCode.OK

    def __bool__(self) -> bool:
        return self.exit_code() is ExitCode.OK

    def __str__(self) -> str:
        from tracer.report.text import diff_text

        return diff_text(self)

    def __repr__(self) -> str:
        """One line, for a prompt and for what pytest shows of ``assert tracer.diff(a, b)``."""
        from tracer.report.words import count

        at = ""
        if self.first is not None:
            cause = f" ({self.first.cause})" if self.first.cause else ""
            at = f" first at {display(self.first.aligned)}{cause}"
        sides = f"{display(self.reference.name)} ⇄ {display(self.candidate.name)}"
        return f"<Diff {sides}: {self.verdict}{at}, {count(len(self.pairs), 'pair')}>"

    def _repr_html_(self) -> str:
        from tracer.report.html import fragment

        return fragment(self)

    def show(self) -> None:
        """Open it: as HTML in a notebook, as the terminal interface in a terminal; elsewhere it is printed."""
        from tracer.report.showing import show

        show(self)

    def report(self, path: str | os.PathLike[str], *, force: bool = False, details: int = 10) -> Path:
        """Write it as one HTML file that needs nothing else, as ``tracer report`` does.

        Args:
            path: of the file.
            force: replace a file that is there.
            details: layers that are shown with their tensors, at most.

        Raises InputError where a file is in the way or cannot be written, TraceError where the disk fails.
        """
        from tracer.report.showing import write

        return write(self, Path(path), force=force, details=details)

    def at(self, tolerance: Tolerance) -> Diff:
        """The same comparison judged by another tolerance, from the statistics alone; what only the tensors could tell,
        how many elements are outside, is None."""
        pairs = judged(
            self.pairs, tolerance, self.reference, self.candidate, self.mapping, self.of, self.moved, self._undone
        )
        pairs = tuple(pair.counted() for pair in pairs)
        if self.baseline is not None:
            pairs = self.baseline.judged(pairs)
        return replace(self, tolerance=tolerance, pairs=pairs)

    def _undone(self, index: int) -> bool:
        """Whether what reads a pair takes its difference back."""
        return self._knows_undone(index)

    @cached_property
    def _knows_undone(self) -> Callable[[int], bool]:
        from tracer.causes.undone import Undone  # which reads layers: needed for few models

        return Undone(self.pairs, self.reference, self.candidate)

    @property
    def accepted(self) -> tuple[PairDiff, ...]:
        """Pairs over the general tolerance that a person let pass."""
        return tuple(pair for pair in self.pairs if pair.accepted)

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer diff --json``."""
        return {
            "schema": SCHEMA,
            "reference": self.reference.name,
            "candidate": self.candidate.name,
            **({"of": self.of} if self.of != "values" else {}),
            "tolerance": {"atol": self.tolerance.atol, "rtol": self.tolerance.rtol},
            "verdict": str(self.verdict),
            "pairs": [pair.to_json() for pair in self.pairs],
            "unmatched": {
                "reference": list(self.alignment.unmatched_reference),
                "candidate": list(self.alignment.unmatched_candidate),
            },
            "first_divergence": None if self.first is None else self.first.aligned,
            "causes": [finding.to_json() for finding in self.causes],
        }

    def to_pandas(self) -> DataFrame:
        """One row a pair, then one for each node without a twin, with the columns of ``tracer diff --format csv``.

        Raises MissingFrameworkError without pandas.
        """
        from tracer.exporting.frames import frame

        return frame(self.to_json())


@rarely_collected()
def diff(
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance | None = None,
    *,
    mapping: MappingFile | None = None,
    of: Of = "values",
    progress: Callable[[int, int], None] | None = None,
    measure: Measure | None = None,
    baseline: Baseline | None = None,
    kept: Kept | None = None,
    alignment: Alignment | None = None,
    seen: Callable[[Diff], None] | None = None,
    spread: Spread | None = None,
) -> Diff:
    """Compare two recordings of one input: their activations, or the gradients of the loss with respect to them.

    Damaged or missing tensors make their pair ``not-comparable``; the others are compared. With ``measure`` both models
    are run again, and every pair is judged by what it adds itself; of gradients that is not known. What ``baseline``
    accepts is noise until it grows. ``kept`` holds what an earlier comparison of the two found, and takes what this one
    finds; without it that is what lies in the trace. ``progress`` takes how many pairs are done and how many there are,
    0 and 0 while they are being sought; what it raises ends the comparison. ``seen`` takes the comparison as far as it
    has come: once the pairs are known, and every few seconds. ``spread`` begins the work on tensors elsewhere.

    Raises InputError when the recordings were made on different inputs, when ``mapping`` does not fit them, and when
    gradients are wanted that were not recorded or are of different losses; and what ``measure`` raises.
    """
    tolerance = tolerance or Tolerance()
    if reference.input_id != candidate.input_id:
        raise InputError(
            f"recordings '{reference.name}' and '{candidate.name}' were made on different inputs "
            f"({reference.input_id} and {candidate.input_id}): record one of them again on the other's"
        )
    if of == "gradients":
        _check_losses(reference, candidate)
    check = None if progress is None else partial(progress, 0, 0)
    kept = kept or Kept(reference, candidate, of)
    kept.sides = reference, candidate
    if alignment is None:
        alignment = align(reference, candidate, mapping, check=check)
        kept.remember_alignment(alignment, mapping)
    pairs = alignment.pairs if of == "values" else tuple(_with_gradients(alignment.pairs, reference, candidate))
    measured = _measured(alignment, kept, measure) if of == "values" else Measured({})
    pairs = tuple(_with_axes(pair, measured.found.get(index)) for index, pair in enumerate(pairs))
    waiting = list(_waiting(pairs, kept))
    compiled.kernels(sum(tensors.size for _, tensors, _ in waiting))  # loaded once for all of them, or not at all
    begun = {} if spread is None else _begun(pairs, waiting, tolerance, mapping, spread)
    found: list[PairDiff] = []
    look = 0.0
    for done, pair in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs))
        if seen is not None and time.monotonic() >= look:
            began = time.monotonic()
            so_far = Diff(reference, candidate, tolerance, tuple(found), alignment, mapping, of).at(tolerance)
            rest = (_awaited(pair, reference, candidate, tolerance) for pair in pairs[done:])
            seen(replace(so_far, pairs=(*so_far.pairs, *rest)))
            look = max(began + _LOOK, time.monotonic() + 4 * (time.monotonic() - began))
        if done in begun:
            begun.pop(done)()
        found.append(_compare(pair, reference, candidate, tolerance, mapping, of, kept, measured.found.get(done)))
    kept.save()
    notes = (*measured.notes, *_unexplained(mapping))
    whole = Diff(reference, candidate, tolerance, tuple(found), alignment, mapping, of, notes, baseline).at(tolerance)
    return whole if baseline is None else replace(whole, notes=(*notes, *baseline.notes(whole.pairs)))


def recalled(reference: Recording, candidate: Recording, of: Of = "values") -> Diff | None:
    """The comparison of two recordings as an earlier one left it with the trace; None where a tensor would have to be
    read for it. Raises as :func:`diff`."""
    kept = Kept(reference, candidate, of)
    alignment = kept.last_alignment(None)
    if alignment is None:
        return None
    pairs = alignment.pairs if of == "values" else tuple(_with_gradients(alignment.pairs, reference, candidate))
    if next(_waiting(pairs, kept), None) is not None:
        return None
    return diff(reference, candidate, of=of, kept=kept, alignment=alignment)


def _measured(alignment: Alignment, kept: Kept, measure: Measure | None) -> Measured:
    """Local errors: measured now, or when it was last done for the same pairs of the same recordings."""
    depends = depends_on(alignment, *kept.sides)
    if measure is None:
        known = kept.recalled(depends)
        if known is None:
            return Measured({})
        return replace(known, notes=("what each layer adds itself is as it was measured before", *known.notes))
    found = measure(alignment, *kept.sides)
    kept.remember(depends, found)
    return found


def _check_losses(reference: Recording, candidate: Recording) -> None:
    losses = []
    for recording in (reference, candidate):
        if not recording.attributes.get("loss"):
            raise InputError(f"recording '{recording.name}' has no gradients: record it again with --grad")
        losses.append(str(recording.attributes["loss"]))
    if losses[0] != losses[1] and ":" not in "".join(losses):  # a loss of the user's own has a twin of its own
        raise InputError(f"the gradients are of different losses: {losses[0]} and {losses[1]}")


def _with_gradients(pairs: Sequence[Pair], reference: Recording, candidate: Recording) -> Iterator[Pair]:
    """The pairs one of whose sides has a gradient, from the loss to the inputs."""
    for pair in reversed(pairs):
        sides = ((reference, pair.reference[-1]), (candidate, pair.candidate[-1]))
        if any(recording.resolve(name) in recording.gradients for recording, name in sides):
            yield pair


def _awaited(pair: Pair, reference: Recording, candidate: Recording, tolerance: Tolerance) -> PairDiff:
    """A pair that is still to be compared."""
    node = reference.structure.by_name[pair.reference[-1]]
    other = candidate.structure.by_name[pair.candidate[-1]]
    return PairDiff(
        pair, node, other, node.shape, None, Verdict.NOT_COMPARABLE, AWAITED, None, 0.0, tolerance,
        obstacle=AWAITED, saved=False,
    )  # fmt: skip


def _with_axes(pair: Pair, local: Local | None) -> Pair:
    """A pair with the axes that running it again showed."""
    return pair if local is None or local.axes is None else replace(pair, axes=local.axes, other_axes=())


def _waiting(pairs: Sequence[Pair], kept: Kept) -> Iterator[tuple[int, Tensors, Way]]:
    """Tensors that can be read and whose statistics are not known yet: the pair's place, and how they are laid side by
    side."""
    for index, pair in enumerate(pairs):
        node, other, coarsest, missing = _sides(pair, kept)
        way = None if missing else _first_way(pair, _content(node, other, kept))
        with suppress(TraceError, ValueError):
            tensors = kept.tensors(pair, coarsest)
            if way is not None and not tensors.knows(way):
                yield index, tensors, way


def _begun(
    pairs: Sequence[Pair],
    waiting: Sequence[tuple[int, Tensors, Way]],
    tolerance: Tolerance,
    mapping: MappingFile | None,
    spread: Spread,
) -> dict[int, Callable[[], None]]:
    """The comparisons of tensors that are not known yet, all begun: what waits for each, by the pair's place.

    What cannot be read there is read here again, which says why.
    """

    def wait(tensors: Tensors, way: Way, stats: Callable[[], Stats]) -> None:
        with suppress(TraceError, ValueError):
            tensors.take(way, stats())

    begun: dict[int, Callable[[], None]] = {}
    for index, tensors, way in waiting:
        with suppress(TraceError, ValueError):
            work = tensors.work(way, tolerance_for(pairs[index].aligned, tolerance, mapping)[0])
            begun[index] = partial(wait, tensors, way, spread(work))
    return begun


def _sides(pair: Pair, kept: Kept) -> tuple[Node, Node, str, str]:
    """A pair's nodes, the coarser of the types they were computed in, and why a side's tensor is missing (or empty)."""
    node, other = (
        side.structure.by_name[names[-1]]
        for side, names in zip(kept.sides, (pair.reference, pair.candidate), strict=True)
    )
    coarsest = max((n.dtype for n in (node, other) if n.dtype), key=dtypes.epsilon, default="float32")
    missing = ""
    for recording, name in zip(kept.sides, (node.name, other.name), strict=True):
        if _stored(recording, name, kept.of) is None:
            values = kept.of == "values"
            why = recording.why_missing(name) if values else recording.why_no_gradient(name)
            missing = f"{name if values else f'the gradient of {name}'} of '{recording.name}' was not recorded: {why}"
    return node, other, coarsest, missing


def _content(node: Node, other: Node, kept: Kept) -> float | None:
    reference, candidate = kept.sides
    return same_content(_summary(reference, node.name, kept.of), _summary(candidate, other.name, kept.of))


def _first_way(pair: Pair, content: float | None) -> Way | None:
    """How a pair's tensors are laid side by side at first; None where nothing makes them comparable."""
    if pair.axes is not None:
        return "moved"
    if pair.arrangement is not None:
        return "arranged"
    # The same values in whatever order, as where time steps are folded into the batch?
    return "sorted" if content == 1.0 else None


def _compare(
    pair: Pair,
    reference: Recording,
    candidate: Recording,
    tolerance: Tolerance,
    mapping: MappingFile | None,
    of: Of,
    kept: Kept,
    local: Local | None,
) -> PairDiff:
    """A pair with its statistics, or with the reason why there are none; the verdict comes later."""
    stats, ordered, in_order = None, None, None
    node, other, coarsest, obstacle = _sides(pair, kept)
    saved = not obstacle
    if not obstacle and pair.axes is None and pair.arrangement is None:
        obstacle = f"{_shape(node.shape)} against {_shape(other.shape)}: no order of the axes makes these shapes equal"
    a, b = _summary(reference, node.name, of), _summary(candidate, other.name, of)
    content = _content(node, other, kept)
    apart = None if saved or a is None or b is None else least_apart(a, b)
    if saved:
        try:
            tensors = kept.tensors(pair, coarsest)
            own, _ = tolerance_for(pair.aligned, tolerance, mapping)
            match _first_way(pair, content):
                case "moved":
                    stats = tensors.moved(own)
                    if pair.arrangement is not None and not stats.passes(own.atol, own.rtol):
                        ordered = tensors.arranged(own)
                case "arranged":
                    stats = tensors.arranged(own)
                case "sorted":
                    in_order = tensors.sorted(own)
        except (TraceError, ValueError) as error:
            obstacle, saved = str(error), False
    structures = reference.structure, candidate.structure
    return PairDiff(
        pair, node, other, node.shape, stats, Verdict.NOT_COMPARABLE, obstacle, None, 0.0, tolerance,
        content=content,
        masked=_masked(a) and _masked(b), masked_once=_masked(a) != _masked(b),
        obstacle=obstacle, saved=saved, sorted=in_order, ordered=ordered, apart=apart,
        left_out=reference.left_out(node.name) or candidate.left_out(other.name),
        coarsest=coarsest, local=local,
        settings=configuration.apart(pair.reference, pair.candidate, *structures, _known_axes(pair)),
        stored_rounding=max(_storing(reference, node, of), _storing(candidate, other, of)),
    )  # fmt: skip


def _unexplained(mapping: MappingFile | None) -> Iterator[str]:
    """What a mapping file lets pass without a word why."""
    silent = [f"'{entry.match}'" for entry in (mapping.tolerances if mapping else ()) if not entry.reason.strip()]
    if silent:
        yield f"the mapping file does not say why its tolerance of {', '.join(silent)} is right: add a reason to it"


def _known_axes(pair: Pair) -> Sequence[int | None] | None:
    """The axes of a pair where no others are as likely."""
    return None if pair.other_axes else pair.axes


def _masked(summary: Mapping[str, float | int] | None) -> bool:
    return summary is not None and (bool(summary.get("inf")) or float(summary.get("min", 0.0)) <= MASKED)


def _stored(recording: Recording, name: str, of: Of) -> Stored | None:
    return recording.stored(name) if of == "values" else recording.gradients.get(recording.resolve(name))


def _summary(recording: Recording, name: str, of: Of) -> Mapping[str, float | int] | None:
    if of == "values":
        return recording.summary(name)
    stored = _stored(recording, name, of)
    return stored.summary if stored is not None else None


def _storing(recording: Recording, node: Node, of: Of) -> float:
    """Relative rounding that was added when a tensor was stored at less than its own precision."""
    stored = _stored(recording, node.name, of)
    return dtypes.epsilon(stored.dtype) if stored is not None and stored.dtype != node.dtype else 0.0


def _shape(shape: Sequence[int] | None) -> str:
    return "?" if shape is None else "×".join(map(str, shape)) or "scalar"
