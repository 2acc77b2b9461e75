"""Numbers: a coarser type, a constant factor, a shift along an axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from tracer import dtypes, kinds, relations
from tracer.causes import naming, preparing
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    HELPS,
    ahead,
    behind,
    chained,
    fitted,
    inputs,
    is_last,
    made,
    of_mask,
    run,
    snapped,
    telling,
    try_chain,
    twin,
    value,
)
from tracer.causes.operations import operation
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step, Unknown

_TYPES = ("bfloat16", "float16", "tf32")
_EPSILON = {"tf32": 2.0**-11, "bfloat16": 2.0**-8, "float16": 2.0**-11}
_UNITS = 2.0
"""Units in the last place of a coarse type that its own sums may be off."""
_DROPPED = 16
"""Numbers of which it may be said that some were left out at random."""
_NOISE = 0.05
"""Relative error above which no coarser type is asked for."""


@operation("rounded")
def rounded(step: Step, inputs: Sequence[Array]) -> Array:
    """Rounded to the type of ``dtype``; what is within a few of its units of ``like`` counts as that."""
    name, like = str(step.settings["dtype"]), step.settings.get("like")
    found = relations.as_type(np.asarray(inputs[0], np.float64), name)
    if like is None or like.shape != found.shape:
        return found
    unit = 2 * _EPSILON[name] * np.maximum(np.abs(like), np.abs(found)) + step.settings.get("slack", 0.0)
    return np.where(np.abs(found - like) <= _UNITS * unit, like, found)


@suggests(*kinds.WEIGHTED, *kinds.NORMALISATIONS, *kinds.ACTIVATIONS, "matmul", "add", "mul")
def coarse(case: Case, step: Step) -> Iterator[Edit]:
    """Inputs, weights or result in half precision, or products as tensor cores make them."""
    found = value(case, step)
    if not is_last(case, step) or found.shape != case.target.shape or case.before > _NOISE:
        return
    wide = not any(dtypes.epsilon(n.dtype or "float32") > 1e-6 for n in (case.ours.node, case.theirs.node))
    if not wide:
        return
    target = case.target
    scale = float(np.abs(target).max(initial=0.0))
    for name in _TYPES:
        if case.before < _EPSILON[name] / 32:
            continue
        given = relations.as_type(target, name)
        if (
            name != "tf32"
            and np.array_equal(given, target)
            and not np.array_equal(relations.as_type(found, name), found)
        ):
            last = made("rounded", dtype=name, like=target, slack=case.bar * scale)
            chains = [(*_inward(step, name), last), (step, last)]
        elif step.kind in kinds.WEIGHTED | {"matmul"}:
            chains = [_inward(step, name)]
        else:
            continue
        for chain in chains:
            whole = _joined(case, step, chain)
            try:
                left = distance(run(case, whole, inputs(case, step), step.inputs), target)
            except Unknown:
                continue
            if left < HELPS * case.before:
                what = f"the {case.doer} computes {step.name} in {name}"
                what += " (equal to within two of its units)" if name != "tf32" else ""
                yield Edit(
                    "dtype", what, chained(step.name, whole), step.name, twin(case, step), cost=3.0,
                    fix=f"compute {twin(case, step) or step.name} in float32",
                )  # fmt: skip
                break


def _inward(step: Step, name: str) -> tuple[Step, ...]:
    """The step with its inputs and weights in a coarser type."""
    few = {role: relations.as_type(w, name) for role, w in step.weights.items() if name != "tf32" or role != "bias"}
    changed = step.weigh(**few)
    chain: tuple[Step, ...] = (changed,)
    for place in range(len(step.inputs)):
        first, chain_end = ahead(chain[-1], made("rounded", dtype=name), place)
        chain = (*chain[:-1], first, chain_end)
    return chain


def _joined(case: Case, step: Step, chain: Sequence[Step]) -> tuple[Step, ...]:
    """Steps whose last has no place yet, each reading the one before."""
    if chain[-1].name:
        return tuple(chain)
    *ahead_of, main, last = chain
    return (*ahead_of, *behind(case, main, last))


@suggests()
def multiplied(case: Case, step: Step) -> Iterator[Edit]:
    """The result by a constant, with another constant added."""
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape or not np.all(np.isfinite(found)):
        return
    size = float(np.vdot(found, found))
    if not size or found.size < 4:
        return
    factor = float(np.vdot(found, target)) / size
    cost = 6.0
    if distance(found * factor, target) <= 4 * case.bar and factor:
        factor = snapped(factor, lambda n: distance(found * n, target) <= case.bar)
        what = f"what the {case.doer} makes in {step.name} is {naming.said(factor)} times that of the {case.other}"
        cause = "embedding-scale" if step.kind == "embedding" else "scale"
        yield from try_chain(case, step, behind(case, step, made("mul", operand=factor)), cause, what, cost)
        return
    both, left = fitted([found, np.ones(())], target)
    if left <= 4 * case.bar and abs(both[0]) > 1e-9:
        numbers = f"{naming.said(float(both[0]))} times that of the {case.other} {both[1]:+.6g}"
        what = f"what the {case.doer} makes in {step.name} is {numbers}"
        chain = behind(case, step, made("mul", operand=float(both[0])), made("add", operand=float(both[1])))
        cause = "shift" if math.isclose(both[0], 1, rel_tol=1e-5) else "scale"
        cause = "input-normalisation" if preparing.of_input(step, case.ours) else cause
        yield from try_chain(case, step, chain, cause, what, cost + 1)


@suggests()
def moved_along(case: Case, step: Step) -> Iterator[Edit]:
    """The result a few places further along an axis, with zeros where nothing comes in."""
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape or found.ndim < 2 or step.kind in kinds.LAYOUT_ONLY:
        return
    for axis in range(1, found.ndim):
        length = found.shape[axis]
        for by in (1, -1, 2, -2):
            if length < 4 + abs(by):
                continue
            a = np.take(found, range(max(0, -by), length - max(0, by)), axis)
            b = np.take(target, range(max(0, by), length - max(0, -by)), axis)
            if distance(a, b) > 4 * case.bar:
                continue
            padding = tuple((by, -by) if k == axis else (0, 0) for k in range(found.ndim))
            for mode in ("zeros", "replicate"):
                chain = behind(case, step, made("pad", padding=padding, padding_mode=mode))
                what = f"what {step.name} gives stands {by:+d} further along axis {axis} in the {case.doer}"
                yield from try_chain(case, step, chain, "shift", what, 8.0)
            chain = behind(case, step, made("roll", shifts=by, axes=axis))
            what = f"what {step.name} gives is rolled by {by:+d} along axis {axis} in the {case.doer}"
            yield from try_chain(case, step, chain, "shift", what, 8.0)


@suggests()
def dropped(case: Case, step: Step) -> Iterator[Edit]:
    """Numbers left out at random, and the others larger for it."""
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape or found.size < _DROPPED or not telling(found):
        return
    if of_mask(target):
        return
    there = found != 0
    gone = there & (target == 0)
    share = float(gone.sum()) / max(1, int(there.sum()))
    kept = there & ~gone
    if not 0.01 < share < 0.99:
        return
    factor = float(np.vdot(found[kept], target[kept])) / float(np.vdot(found[kept], found[kept]))
    rate = 1 - 1 / factor if factor > 1 else 0.0
    # What is left out is a draw: the share lies within a few deviations of the rate.
    if not rate or abs(rate - share) > 6 * math.sqrt(rate * (1 - rate) / int(there.sum())):
        return
    chain = behind(case, step, made("mul", operand=np.where(gone, 0.0, factor)))
    what = f"the {case.doer} drops {naming.said(round(rate, 4))} of what it makes in {step.name}, as in training"
    yield from try_chain(case, step, chain, "dropout-mode", what, 3.0)
