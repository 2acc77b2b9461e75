"""What a model is given: scaled, normalised, or with its channels in another order, on one side only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import naming, operations
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    ahead,
    fitted,
    made,
    reads_input,
    snapped,
    try_chain,
    view,
)
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step, Unknown

_FEW = 4
"""Channels of which each may have its own factor."""
_USUAL = (255.0, 1 / 255.0, 127.5, 1 / 127.5, 2.0, 0.5, 1 / 0.225, 1 / 0.229, 1 / 0.224, 128.0, 1 / 128.0)
_LINEAR = (*kinds.CONVOLUTIONS, "dense")


@suggests(*_LINEAR)
def prepared(case: Case, step: Step) -> Iterator[Edit]:
    """A factor and a shift of what a linear layer reads: one for all, or one for each of a few channels."""
    first = reads_input(case, step)
    at = view(case, step)
    if at is None or not at.inputs:
        return
    x = at.inputs[0]
    bare = at.narrow(step) if not at.whole else step
    if bare.settings.get("activation"):
        return
    bias = bare.weights.get("bias")
    linear = bare.weigh(bias=None)
    axis = int(step.settings.get("channels", -1)) % x.ndim
    size = x.shape[axis]

    def made_of(values: Array) -> Array:
        return operations.run(linear, [values])

    rest = at.target
    if bias is not None:
        where = int(step.settings.get("channels", -1)) if "conv" in step.kind else -1
        shape = [-1 if k == where % rest.ndim else 1 for k in range(rest.ndim)]
        rest = rest - bias.reshape(shape)
    try:
        whole = made_of(x)
        if whole.shape != rest.shape:
            return
        ones = made_of(np.ones_like(x))
    except Unknown:
        return
    bar = 8 * case.bar
    plain, left = fitted([whole], rest)
    if left <= bar:
        yield from _scaled(case, step, float(plain[0]), 0.0, first, rest, whole, ones)
        return
    both, left = fitted([whole, ones], rest)
    if left <= bar:
        yield from _scaled(case, step, float(both[0]), float(both[1]), first, rest, whole, ones)
        return
    if not 1 < size <= _FEW:
        return
    yield from _each(case, step, x, axis, rest, made_of, bar)


def _scaled(
    case: Case, step: Step, factor: float, shift: float, first: bool, rest: Array, whole: Array, ones: Array
) -> Iterator[Edit]:
    def good(f: float, s: float) -> bool:
        return distance(f * whole + s * ones, rest) <= case.bar

    factor = snapped(factor, lambda f: good(f, shift), _USUAL)
    if shift:
        shift = 0.0 if good(factor, 0.0) else snapped(shift, lambda s: good(factor, s))
    more = [made("mul", operand=factor)]
    text = f"multiplies what {step.name} reads by {naming.said(factor)}"
    if shift:
        more.append(made("add", operand=shift))
        text = f"gives {step.name} x · {naming.said(factor)} {'+' if shift > 0 else '−'} {naming.said(abs(shift))}"
        if factor:
            text += f" = (x − {naming.said(-shift / factor)}) / {naming.said(1 / factor)}"
    elif factor and abs(1 / factor - round(1 / factor)) < 1e-6 and abs(factor) < 1:
        text = f"divides what {step.name} reads by {round(1 / factor)}"
    if abs(factor) < 1e-12:
        return
    cause = "input-normalisation" if shift else "input-scale" if first else "scale"
    if shift and not first:
        cause = "scale"
    fix = f"prepare the input as the {'candidate' if case.turned_round else 'reference'} does" if first else ""
    yield from try_chain(
        case, step, _prefixed(step, more), cause, f"the {case.doer} {text}", 2.5 if first else 4.0, fix=fix
    )  # fmt: skip


def _prefixed(step: Step, more: list[Step]) -> tuple[Step, ...]:
    """Steps ahead of the first input of a step."""
    chain: list[Step] = []
    source = step.inputs[0]
    for k, other in enumerate(more):
        chain.append(replace(other, name=f"{step.name}~in{k}", inputs=(source,)))
        source = chain[-1].name
    return (*chain, replace(step, inputs=(source, *step.inputs[1:])))


def _each(case: Case, step: Step, x: Array, axis: int, rest: Array, made_of: Any, bar: float) -> Iterator[Edit]:
    """Each channel with its own factor and shift, from whichever channel."""
    size = x.shape[axis]
    columns = []
    for place in range(size):
        only = [slice(None)] * x.ndim
        only[axis] = slice(place, place + 1)
        for source in range(size):
            picked = [slice(None)] * x.ndim
            picked[axis] = slice(source, source + 1)
            values = np.zeros_like(x)
            values[tuple(only)] = x[tuple(picked)]
            columns.append(made_of(values))
        values = np.zeros_like(x)
        values[tuple(only)] = 1.0
        columns.append(made_of(values))
    factors, left = fitted(columns, rest)
    if left > bar:
        return
    table = factors.reshape(size, size + 1)
    mixed, shifts = table[:, :-1], table[:, -1]
    strong = np.abs(mixed) > 1e-4 * np.abs(mixed).max()
    if not np.all(strong.sum(1) == 1):
        return
    order = strong.argmax(1)
    scales = mixed[np.arange(size), order]
    more: list[Step] = []
    causes: list[str] = []
    words: list[str] = []
    shape = [-1 if k == axis else 1 for k in range(x.ndim)]
    if not np.array_equal(order, np.arange(size)):
        more.append(made("gather", axis=axis, indices=order))
        causes.append("channel-order")
        words.append(f"takes the channels in the order {order.tolist()}")
    if not np.allclose(scales, 1, atol=1e-4) or not np.allclose(shifts, 0, atol=1e-4):
        more += [made("mul", operand=scales.reshape(shape)), made("add", operand=shifts.reshape(shape))]
        causes.append("input-normalisation")
        means, spreads = -shifts / scales, 1 / scales
        words.append(f"takes away {_list(means)} and divides by {_list(spreads)}")
    if not more:
        return
    what = f"the {case.doer} {' and '.join(words)} before {step.name}"
    yield from try_chain(case, step, _prefixed(step, more), causes[0], what, 3.0, same=tuple(causes[1:]))


def _list(values: Array) -> str:
    return f"({', '.join(f'{float(v):.4g}' for v in values)})"


@suggests()
def signed(case: Case, step: Step) -> Iterator[Edit]:
    """What the first layer reads, with a usual preparation; where that layer is not linear."""
    if step.kind in _LINEAR or not reads_input(case, step) or step.kind in ("embedding", "identity"):
        return
    for factor, shift in ((1 / 255.0, 0.0), (255.0, 0.0), (1 / 127.5, -1.0), (2.0, -1.0), (0.5, 0.5), (-1.0, 0.0)):
        more = [made("mul", operand=factor), *([made("add", operand=shift)] if shift else [])]
        text = f"x · {naming.said(factor)}{f' {shift:+g}' if shift else ''}"
        what = f"the {case.doer} gives {step.name} {text}"
        cause = "input-normalisation" if shift else "input-scale"
        chain = ahead(step, more[0]) if len(more) == 1 else _prefixed(step, more)
        yield from try_chain(case, step, chain, cause, what, 5.0)
