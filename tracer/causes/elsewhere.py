"""What stands for what where a result is reproduced by leaving out and putting in: a layer that is called at another
place, an operation that does nothing behind the one that was put in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tracer import kinds
from tracer.causes import naming, weighing
from tracer.causes.case import Case, Trial
from tracer.causes.edit import Edit, of_program
from tracer.causes.finding import Cause
from tracer.causes.settings import sides
from tracer.causes.step import Array, Step, Unknown
from tracer.causes.written import without_idle
from tracer.relations import alike

_LOADED = "weights-not-loaded"


def made(case: Case, edits: Sequence[Edit]) -> Trial:
    """Our program after some edits. Raises Unknown, ValueError or KeyError."""
    trial = case.start
    for edit in edits:
        trial = edit.change(trial)
    return trial


def idle(case: Case, edits: Sequence[Edit]) -> tuple[Step, ...]:
    """Steps of our program that nothing reads any more after some edits, without those that these are about."""
    try:
        left = {step.name for step in without_idle(made(case, edits).program).steps}
    except (Unknown, ValueError, KeyError):
        return ()
    about = {edit.step for edit in edits}
    return tuple(step for step in case.program.steps if step.name not in left | about)


def for_another(case: Case, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """The edits with an operation that was put in as one that stands for ours, where ours does nothing behind it: a
    sum over the places of a map that a mean has made one place."""
    if len(edits) != 1 or edits[0].step or not edits[0].detail.get("alone"):
        return edits
    (theirs,) = edits[0].detail["steps"]
    try:
        trial = made(case, edits)
        after, before = trial.program.trace(trial.tensors), case.ran
    except (Unknown, ValueError, KeyError):
        return edits
    for ours in case.program.steps:
        if ours.kind in kinds.LAYOUT_ONLY | {theirs.kind} or ours.name not in after or len(ours.inputs) != 1:
            continue
        if _nothing(after[ours.name].inputs[0], after[ours.name].value) and not _nothing(
            before[ours.name].inputs[0], before[ours.name].value
        ):
            cause = naming.of_exchange(ours, theirs, case.ours)
            what = sides(case, "computes", ours.kind, theirs.kind)
            values = (theirs.kind, ours.kind) if case.turned_round else (ours.kind, theirs.kind)
            exchanged = replace(
                edits[0], cause=cause, what=what, step=ours.name, key="kind", values=values,
                change=of_program(lambda program: edits[0].change(replace(trial, program=program)).program),
                detail={"single": naming.of_single(ours, case.ours)[0]},
            )  # fmt: skip
            return (exchanged,)
    return edits


def _nothing(read: Array, made: Array) -> bool:
    """Whether values are what was read, at most in another shape."""
    return read.size == made.size and alike(read.reshape(-1), made.reshape(-1))


def called_elsewhere(
    case: Case, edits: Sequence[Edit], causes: tuple[Cause, ...], told: Callable[[Case, Edit], Cause]
) -> tuple[Cause, ...]:
    """The causes with a layer that one side has here and the other there as one layer that reads something else, and
    what its weights are beside its twin's; ``told`` makes a cause of an edit."""
    alone = [edit for edit in edits if edit.detail.get("alone") and edit.detail["steps"][0].weights]
    if len(alone) != 2 or bool(alone[0].step) == bool(alone[1].step):
        return causes
    (ours,), (theirs,) = (edit.detail["steps"] for edit in sorted(alone, key=lambda edit: not edit.step))
    shapes = [{role: value.shape for role, value in step.weights.items()} for step in (ours, theirs)]
    if ours.kind != theirs.kind or shapes[0] != shapes[1]:
        return causes
    others = tuple(weighing.differences(case, ours, theirs))
    if any(edit.cause == _LOADED for edit in others):
        return causes
    here, there = (theirs, ours) if case.turned_round else (ours, theirs)
    which = [cause for edit, cause in zip(edits, causes, strict=True) if edit in alone]
    first = next(cause for cause in which if cause.candidate)
    what = f"{here.name} reads {', '.join(here.inputs)} in the reference, {', '.join(there.inputs)} in the candidate"
    fix = f"{first.source + ': ' if first.source else ''}call {there.name} where the reference does"
    one = replace(first, id="wiring", what=what, reference=here.name, fix=fix, changes=(), block=())
    kept = tuple(cause for cause in causes if cause not in which)
    return (one, *(told(case, edit) for edit in others), *kept)
