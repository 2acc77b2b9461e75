"""Which two recordings are meant when none, or one, is named."""

from __future__ import annotations

from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.store import Recording, Trace


def choose(
    trace: Trace, reference: str | None = None, candidate: str | None = None, *, complete: bool = True
) -> tuple[Recording, Recording]:
    """Reference and candidate.

    With no names, the newest recording that was aligned to another one, and that other; else the two newest, the
    older being the reference. With one name, that is the reference. With ``complete``, recordings that hold
    nothing are passed over and named ones that hold nothing are an error.

    Raises InputError for a name that does not exist or when there are not two, TraceError for an empty recording.
    """
    if reference is not None and candidate is not None:
        chosen = trace.recording(reference), trace.recording(candidate)
    else:
        chosen = _newest(trace, reference, complete)
    for recording in chosen:
        if complete and not recording.summaries:
            why = recording.attributes.get("error")
            raise TraceError(
                f"recording '{display(recording.name)}' holds no activations ({recording.state}"
                + (f": {display(str(why), 160)})" if why else ")")
            )
    return chosen


def _newest(trace: Trace, reference: str | None, complete: bool) -> tuple[Recording, Recording]:
    usable = [r for r in trace.recordings() if r.summaries or not complete]
    by_name = {r.name: r for r in usable}
    if reference is not None:
        first = trace.recording(reference)
        others = [r for r in usable if r.name != first.name and r.input_id == first.input_id] or [
            r for r in usable if r.name != first.name
        ]
        if not others:
            raise InputError(f"nothing to compare '{display(reference)}' with: record the other model first")
        return first, others[-1]
    for second in reversed(usable):
        twin = by_name.get(str(second.attributes.get("reference")))
        if twin is not None and twin.name != second.name:
            return twin, second
    damaged = [r for r in trace.recordings() if r.state == "damaged"]
    if len(usable) < 2 and damaged:
        why = str(damaged[0].attributes.get("error", "")).removeprefix("damaged: ")
        raise TraceError(f"recording '{display(damaged[0].name)}' is damaged: {display(why, 160)}")
    if len(usable) < 2:
        have = ", ".join(f"'{display(r.name)}'" for r in usable) or "none"
        shown = display(str(trace.root))
        raise InputError(f"{shown} needs two recordings to compare (have: {have}): tracer record tf|pt MODEL")
    return usable[-2], usable[-1]
