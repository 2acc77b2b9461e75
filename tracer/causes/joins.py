"""Tensors that one side joins in another order, where it writes as a join what the other writes otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, permutations

from tracer.causes.case import Case, distance
from tracer.causes.finding import Cause
from tracer.causes.step import Program, Step, Unknown
from tracer.errors import TraceError

_MOST = 24
"""Orders of a join that are tried."""
_MOVED = frozenset({"reshape-order", "axis-permutation", "channel-order"})


def joined_otherwise(case: Case, causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """The causes; where all that is said is that values stand in another order, and a join of either side with its
    tensors in another order puts them right, that. Both sides write what they do otherwise then: a reshape that lays
    steps side by side against a join of every second one."""
    if len(causes) != 1 or causes[0].id not in _MOVED or causes[0].block:
        return tuple(causes)
    try:
        found = next(_found(case), None)
    except (Unknown, TraceError, ValueError, KeyError):
        found = None
    if found is None:
        return tuple(causes)
    step, own = found
    side = case.other if own else case.doer
    what = f"{step.name} of the {side} joins its tensors in another order than the other side"
    at = f" at {step.source}" if side == "candidate" and step.source else ""
    fix = f"join the tensors{at} in the reference's order"
    one = replace(causes[0], id="concat-order", what=what, fix=fix, changes=())
    return (replace(one, reference=step.name) if side == "reference" else replace(one, candidate=step.name),)


def _found(case: Case) -> Iterator[tuple[Step, bool]]:
    """Joins that put the pair right with their tensors in another order, and whether they are ours."""
    target, bar = case.target, case.bar
    for step, program in _in_other_orders(case.program):
        if distance(program.run(case.tensors), target) <= bar:
            yield step, True
    theirs = case.theirs
    if theirs.program is None:
        return
    tensors = {name: theirs.read(name) for name in theirs.program.inputs}
    wanted = case.start.run(case.ran)
    for step, program in _in_other_orders(theirs.program):
        if distance(case.way(program.run(tensors)), wanted) <= bar:
            yield step, False


def _in_other_orders(program: Program) -> Iterator[tuple[Step, Program]]:
    for step in program.steps:
        if step.kind in ("concat", "stack") and len(step.inputs) > 1:
            for order in islice(permutations(step.inputs), 1, _MOST):
                yield step, program.with_step(replace(step, inputs=order))
