"""Constants of a step that the other side computes otherwise, and what is done on the way to a result: which axes are
reduced, which of a sequence is read, a norm that stands within a layer of somebody's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tracer import kinds, relations
from tracer.causes import constants, naming
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    ahead,
    behind,
    fitted,
    inputs,
    is_last,
    made,
    ordered,
    sides,
    snapped,
    try_chain,
    try_settings,
    try_step,
)
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step

_TABLE = 2
"""Axes longer than one of a constant that is a table, and no bias or gain."""
_ROUNDING = 1e-5
_NEAR = 0.5
"""Correlation from which on a table is another one's with other numbers here and there."""


def _operand(step: Step) -> Array | None:
    """The constant of a step of one input, in float64; None where it has none, or one on the left."""
    value = step.weights.get("operand", step.settings.get("operand"))
    if value is None or len(step.inputs) != 1 or step.settings.get("side", "right") != "right":
        return None
    return np.asarray(value, np.float64)


@suggests("add", "sub", "mul")
def another_table(case: Case, step: Step) -> Iterator[Edit]:
    """A table that is added or multiplied as another one: solved for, and named by what it is to the step's own."""
    own = _operand(step)
    if own is None or not is_last(case, step) or sum(length > 1 for length in own.shape) < _TABLE:
        return
    (read,), target = inputs(case, step), case.target
    shape = (1,) * (target.ndim - own.ndim) + own.shape
    if read.shape != target.shape or np.broadcast_shapes(shape, target.shape) != target.shape:
        return
    if step.kind == "mul":
        usable = np.abs(read) > 1e-3 * np.abs(read).max(initial=0.0)
        each = np.divide(target, read, out=np.full_like(target, np.nan), where=usable)
    else:
        each = target - read if step.kind == "add" else read - target
    over = tuple(axis for axis, length in enumerate(shape) if length != target.shape[axis])
    if not over or not np.isfinite(each).any(over).all():
        return  # of one sample any difference is a table
    found = np.nanmean(each, axis=over, keepdims=True).reshape(own.shape)
    spread = np.nanmax(np.abs(each - found.reshape(shape)), axis=over)
    if float(spread.max(initial=0.0)) > 64 * case.bar * float(np.abs(target).max(initial=0.0)):
        return
    changed = step.weigh(operand=found) if "operand" in step.weights else step.set(operand=found)
    told = _told(case, step, own, found)
    if told is not None:
        yield from try_step(case, step, changed, told[0], told[1], 2.5, fix=f"{step.name}: {told[2]}")


def _snapped(found: Array, own: Array) -> Array:
    """Numbers that were solved for, as those of ``own`` that they are but for rounding."""
    known = np.sort(own, axis=None)
    after = np.clip(np.searchsorted(known, found), 1, known.size - 1)
    near = np.where(found - known[after - 1] < known[after] - found, known[after - 1], known[after])
    return np.where(np.abs(near - found) <= _ROUNDING * np.abs(own).max(initial=0.0), near, found)


def _told(case: Case, step: Step, own: Array, found: Array) -> tuple[str, str, str] | None:
    """Cause, sentence and fix of another table; None where the two have nothing to do with one another."""
    told = constants.of_constants(own, _snapped(found, own))
    if told is not None:
        what = f"the constant of {step.name} is in the {case.doer} {told[1]}"
        return told[0], what, "compute the constant as the reference does"
    if relations.correlation(own, found) > _NEAR and "operand" in step.weights:
        size = float(np.linalg.norm(own - found) / (np.linalg.norm(own) or 1.0))
        what = f"the table of {step.name} differs a little in the {case.doer}: by {size:.2g} of its size"
        return "weights-perturbed", what, "load the table again"
    return None


@suggests("add", "sub")
def factor_of_term(case: Case, step: Step) -> Iterator[Edit]:
    """A factor on what a table is added to: an embedding that is scaled before its places are added."""
    own = _operand(step)
    if own is None or own.size == 1 or not is_last(case, step):
        return
    (read,), target = inputs(case, step), case.target
    if read.shape != target.shape:
        return
    sign = 1.0 if step.kind == "add" else -1.0
    factors, left = fitted([read, sign * own], target)
    if left > 4 * case.bar or min(map(abs, factors)) < 1e-6:
        return
    for place, (factor, other) in enumerate((factors, factors[::-1])):
        if abs(other - 1) > 1e-4 or abs(factor - 1) < 1e-5:
            continue

        def good(number: float, place: int = place) -> bool:
            terms = (number * read, sign * own) if place == 0 else (read, sign * number * own)
            return distance(terms[0] + terms[1], target) <= case.bar

        number = snapped(float(factor), good)
        if place == 0:
            chain = ahead(step, made("mul", operand=number))
            what = f"the {case.doer} multiplies {step.inputs[0]} by {naming.said(number)} before {step.name}"
        else:
            scaled = own * number
            chain = (step.weigh(operand=scaled) if "operand" in step.weights else step.set(operand=scaled),)
            what = f"the {case.doer} multiplies what is added in {step.name} by {naming.said(number)}"
        yield from try_chain(case, step, chain, "scale", what, 3.0, same=("embedding-scale",))


@suggests("mul", "div", "add", "sub", "dense", "expand_dims")
def of_angles(case: Case, step: Step) -> Iterator[Edit]:
    """A circle, a half of one or degrees, by which angles are multiplied before their sines are taken."""
    readers = [one.kind for one in case.program.steps if step.name in one.inputs]
    if not readers or not {*readers} <= {"sin", "cos"} or is_last(case, step):
        return
    for number, word in ((2 * np.pi, "2π"), (np.pi, "π"), (np.pi / 2, "π/2"), (180 / np.pi, "180/π")):
        for factor, told in ((number, word), (1 / number, f"1/({word})")):
            chain = behind(case, step, made("mul", operand=factor))
            what = f"the {case.doer} multiplies {step.name} by {told} before its sines are taken"
            yield from try_chain(case, step, chain, "scale", what, 3.5)


@suggests(*kinds.REDUCTIONS)
def other_axes(case: Case, step: Step) -> Iterator[Edit]:
    """A mean, sum or largest value over other axes."""
    read = inputs(case, step)
    own = step.settings.get("axes")
    if len(read) != 1 or (not step.settings.get("keepdims") and not is_last(case, step)):
        return
    cause = "norm-axis" if naming.normalises(step, case.ours) else "pool-kind"
    for count in range(1, min(read[0].ndim, 4)):
        for some in itertools.combinations(range(1, read[0].ndim), count):
            if own is None or some != tuple(sorted(int(axis) % read[0].ndim for axis in own)):
                words = sides(case, f"the axes of {step.name}", own, some)
                yield from try_settings(case, step, cause, 2.5, {"axes": some}, words)


@suggests(*kinds.NORMALISATIONS)
def left_out(case: Case, step: Step) -> Iterator[Edit]:
    """A norm within the program that the other side leaves out."""
    if not is_last(case, step):
        bare = Step(step.name, "identity", {}, {}, step.inputs[:1], None)
        what = f"{step.name} ({step.kind}) does nothing in the {case.doer}"
        yield from try_chain(case, step, (bare,), case.lacks("block"), what, 3.0)


@suggests("slice", "gather")
def whole_sequence(case: Case, step: Step) -> Iterator[Edit]:
    """The mean or the largest of a sequence in place of one of it."""
    index, read = tuple(step.settings.get("index", ())), inputs(case, step)
    taken = [axis for axis, part in enumerate(index) if isinstance(part, int | np.integer)]
    if len(taken) != 1 or not taken[0] or "..." in index or None in index or len(read) != 1:
        return
    axis = taken[0]
    for kind, word in (("mean", "the mean"), ("amax", "the largest"), ("sum", "the sum")):
        for start, which in ((None, "all"), (1, "all but the first")):
            rest = tuple((start, None, 1) if k == axis else part for k, part in enumerate(index))
            first = replace(step, name=f"{step.name}~0", shape=None).set(index=rest)
            last = Step(step.name, kind, {"axes": (axis,), "keepdims": False}, {}, (first.name,))
            what = f"the {case.doer} takes {word} of {which} in place of one of the sequence in {step.name}"
            yield from try_chain(case, step, (first, last), "rnn-last-step", what, 3.0, same=("pool-kind",))


@suggests("argmax", "argmin")
def other_end(case: Case, step: Step) -> Iterator[Edit]:
    """The smallest for the largest."""
    other = "argmin" if step.kind == "argmax" else "argmax"
    words = ordered(case, step.kind, other)
    what = f"{step.name} is {words[0]} in the reference, {words[1]} in the candidate"
    yield from try_step(case, step, replace(step, kind=other), "operation-kind", what, 2.0)
