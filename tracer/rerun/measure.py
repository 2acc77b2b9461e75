"""Measuring every pair's local error: which runs it takes, and what the worker does of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.alignment import Alignment, Pair
from tracer.batches import split
from tracer.compare.local import Local, Measure, Measured, to_json
from tracer.rerun import loading
from tracer.rerun.batched import Parts
from tracer.rerun.cuts import Cut, cuts
from tracer.rerun.local import Compared, Walked, against, local_errors, shaken, walked
from tracer.store import Recording, Trace

if TYPE_CHECKING:
    from tracer.worker.protocol import Event, Job

Progress = Callable[[int, int], None]
_EVERY = 0.1


def in_process(models: tuple[object, object], progress: Progress | None = None) -> Measure:
    """Measure with two live models, the reference's and the candidate's; the models are left as they were.

    What is returned raises InputError where no adapter knows a model, ReplayError where one is not the one recorded,
    ModelError, TraceError.
    """

    def measure(alignment: Alignment, reference: Recording, candidate: Recording) -> Measured:
        made, without = cuts(alignment.pairs, reference, candidate)
        parts = Parts.of(made, reference, candidate)
        counted = _Counted(progress, 2 * len(made) * len(parts.split))
        theirs, given = loading.live(models[1], candidate, batches=True)

        def compare(alone: Walked) -> Mapping[str, Compared]:
            ours, inputs = loading.live(models[0], reference, batches=True)
            return against(ours, inputs, reference, made, alone.files, place, counted, split(reference))

        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            found, notes = local_errors(
                made,
                lambda: walked(theirs, given, reference, made, place, counted, parts),
                compare,
                lambda alone, names: shaken(theirs, given, reference, made, alone, names, place, parts),
            )
        return joined(alignment.pairs, reference, candidate, found, without, notes)

    return measure


def joined(
    pairs: Sequence[Pair],
    reference: Recording,
    candidate: Recording,
    found: Mapping[int, Local],
    without: Mapping[int, str],
    notes: Sequence[str],
) -> Measured:
    """All that is known of ``pairs``: outputs that are compared again have the figures of where they are computed."""
    places: dict[tuple[str, str], Local] = {}
    for index, local in found.items():
        places[reference.resolve(pairs[index].reference[-1]), candidate.resolve(pairs[index].candidate[-1])] = local
    whole = dict(found)
    for index, why in without.items():
        pair = pairs[index]
        known = places.get((reference.resolve(pair.reference[-1]), candidate.resolve(pair.candidate[-1])))
        whole[index] = known if known is not None and "output" in pair.evidence else Local(why=why)
    return Measured(whole, tuple(notes))


class _Counted:
    """Counts calls, and tells of them now and then."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done, self._last = progress, total, 0, 0.0

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None and time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self._progress(min(self._done, self._total), self._total)


# --- in the worker --------------------------------------------------------------------------------------------


def run_local(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``local`` command: the candidate on the reference's activations."""
    (model, inputs, recording), made = loading.of_job(job, emit, batches=True), _cuts(job)
    reference = _reference(job, recording)
    parts = Parts.of(made, reference, recording)
    counted = _Counted(_emitting(emit), 2 * len(made) * len(parts.split))
    alone = walked(model, inputs, reference, made, Path(job.options["folder"]), counted, parts)
    return {"found": _to_json(alone.found), "files": alone.files, "double": alone.double, "notes": alone.notes}


def run_against(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``against`` command: the reference in float64 where the candidate left something open."""
    (model, inputs, recording), made = loading.of_job(job, emit, batches=True), _cuts(job)
    files, runs = job.options["files"], split(recording)
    counted = _Counted(_emitting(emit), len(files) * len(runs))
    found = against(model, inputs, recording, made, files, Path(job.options["folder"]), counted, runs)
    return {"compared": {name: to_json(asdict(compared)) for name, compared in found.items()}}


def run_shaken(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``shaken`` command: the candidate with inputs that are off by their own rounding."""
    (model, inputs, recording), made = loading.of_job(job, emit, batches=True), _cuts(job)
    options = job.options
    alone = Walked({int(local.pop("index")): Local.from_json(local) for local in options["found"]}, options["files"])
    folder, reference = Path(options["folder"]), _reference(job, recording)
    parts = Parts.of(made, reference, recording)
    return {"moved": shaken(model, inputs, reference, made, alone, options["names"], folder, parts)}


def _reference(job: Job, candidate: Recording) -> Recording:
    return Trace.open(candidate.root).recording(job.options["reference"])


def _to_json(found: Mapping[int, Local]) -> list[dict[str, Any]]:
    return [{"index": index, **local.to_json()} for index, local in found.items()]


def _cuts(job: Job) -> dict[str, Cut]:
    return {cut.candidate: cut for cut in map(Cut.from_json, job.options["cuts"])}


def _emitting(emit: Callable[[Event], None]) -> Progress:
    from tracer.worker import protocol

    return lambda done, total: emit(protocol.progress(done, total))
