"""Measuring every pair's local error: which runs it takes, and what the worker does of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.alignment import Alignment, Pair
from tracer.compare.local import Local, Measure, Measured
from tracer.errors import ReplayError
from tracer.rerun import loading
from tracer.rerun.cuts import Cut, cuts
from tracer.rerun.local import NOT_EXACT, Exact, exact, local_errors
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
        counted = _Counted(progress, 4 * len(made))
        with tempfile.TemporaryDirectory() as folder:
            try:
                ours, inputs = loading.live(models[0], reference)
                whole = exact(ours, inputs, reference, list(made.values()), Path(folder), counted)
            except ReplayError as error:
                whole = Exact({}, None, {}, str(error))
            theirs, inputs = loading.live(models[1], candidate)
            found, notes = local_errors(theirs, inputs, reference, made, whole, Path(folder), counted)
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


def run_exact(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``exact`` command: the reference in float64, its differences saved in the folder of the job."""
    (model, inputs, recording), made = loading.of_job(job, emit), _cuts(job)
    counted = _Counted(_emitting(emit), len(made))
    whole = exact(model, inputs, recording, list(made.values()), Path(job.options["folder"]), counted)
    return {"rounding": dict(whole.rounding), "files": dict(whole.files), "why": whole.why}


def run_local(job: Job, emit: Callable[[Event], None]) -> dict[str, Any]:
    """The worker's ``local`` command: the candidate on the reference's activations."""
    (model, inputs, recording), made = loading.of_job(job, emit), _cuts(job)
    folder, known = Path(job.options["folder"]), job.options["exact"]
    reference = Trace.open(recording.root).recording(job.options["reference"])
    whole = NOT_EXACT if known is None else Exact(known["rounding"], folder, known["files"])
    counted = _Counted(_emitting(emit), 2 * len(made))
    found, notes = local_errors(model, inputs, reference, made, whole, folder, counted)
    return {"found": [{"index": index, **local.to_json()} for index, local in found.items()], "notes": list(notes)}


def _cuts(job: Job) -> dict[str, Cut]:
    return {cut.candidate: cut for cut in map(Cut.from_json, job.options["cuts"])}


def _emitting(emit: Callable[[Event], None]) -> Progress:
    from tracer.worker import protocol

    return lambda done, total: emit(protocol.progress(done, total))
