"""Which two recordings are meant when none, or one, is named."""

from __future__ import annotations

from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.store import Recording, Step, Trace
from tracer.store.recordings import ranges


def choose(
    trace: Trace, reference: str | None = None, candidate: str | None = None, *, complete: bool = True
) -> tuple[Recording, Recording]:
    """Reference and candidate.

    With no names, the newest recording that was aligned to another one, and that other; else the two newest, the
    older being the reference. With one name, that is the reference. With ``complete``, recordings that hold
    nothing are passed over and named ones that hold nothing are an error. Of recordings of many steps it is the last
    step that both have.

    Raises InputError for a name that does not exist or when there are not two, TraceError for an empty recording.
    """
    if reference is not None and candidate is not None:
        chosen = trace.recording(reference), trace.recording(candidate)
    else:
        chosen = _newest(trace, reference, complete)
    chosen = _at_one_step(*chosen)
    for recording in chosen:
        if complete and not recording.summaries:
            why = recording.attributes.get("error")
            raise TraceError(
                f"recording '{display(recording.name)}' holds no activations ({recording.state}"
                + (f": {display(str(why), 160)})" if why else ")")
            )
    return chosen


def of_steps(recording: Recording) -> bool:
    """Whether it is a whole recording of many steps."""
    return bool(recording.attributes.get("steps")) and not isinstance(recording, Step)


def common(first: Recording, second: Recording) -> list[int]:
    """The steps that two recordings have, in order."""
    return sorted(set(first.steps) & set(second.steps))


def pair_of_series(
    trace: Trace, reference: str | None, candidate: str | None
) -> tuple[Recording, Recording, list[int]]:
    """Two recordings of many steps, as :func:`choose` takes them, and the steps that both have.

    Raises InputError where there are not two, or no step is in both.
    """
    if reference is not None and candidate is not None:
        sides = trace.recording(reference), trace.recording(candidate)
    else:
        sides = _newest(trace, reference, complete=True)
    for side in sides:
        if not of_steps(side):
            raise InputError(f"'{display(side.name)}' is one run, not a recording of many steps: tracer diff")
    _at_one_step(*sides)
    return *sides, common(*sides)


def _at_one_step(first: Recording, second: Recording) -> tuple[Recording, Recording]:
    """Raises InputError where recordings of steps have none in common."""
    sides = first, second
    many = [of_steps(side) and bool(side.steps) for side in sides]
    if not any(many):
        return sides
    if all(many):
        both = common(first, second)
        if not both:
            said = " and ".join(f"'{display(side.name)}' has {ranges(side.steps)}" for side in sides)
            raise InputError(f"no step is in both: {said}")
        return first.at(both[-1]), second.at(both[-1])
    known = [side.number for side in sides if isinstance(side, Step)]
    at = [
        side.at(known[0] if known else side.steps[-1]) if one else side for side, one in zip(sides, many, strict=True)
    ]
    return at[0], at[1]


def _newest(trace: Trace, reference: str | None, complete: bool) -> tuple[Recording, Recording]:
    usable = [r for r in trace.recordings() if r.summaries or r.steps or not complete]
    by_name = {r.name: r for r in usable}
    if reference is not None:
        first = trace.recording(reference)
        own = first.of if isinstance(first, Step) else first.name
        others = [r for r in usable if r.name != own and r.input_id == first.input_id] or [
            r for r in usable if r.name != own
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
