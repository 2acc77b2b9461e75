"""Weights that are used otherwise than they were recorded: flipped, transposed, left out, added twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tracer import kinds, relations
from tracer.causes import naming, weighing
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit, of_program
from tracer.causes.families.common import HELPS, behind, is_last, made, snapped, try_chain, try_step, try_weights, value
from tracer.causes.reading import Read
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Program, Step, Unknown

_PLAIN = tuple(kind for kind in kinds.CONVOLUTIONS if not kind.startswith("separable"))


@suggests(*_PLAIN, "dense")
def kernel(case: Case, step: Step) -> Iterator[Edit]:
    """The kernel in another layout."""
    own, who = step.weights["kernel"], case.doer
    rank = own.ndim - 2
    if (form := step.settings.get("use_form", "plain")) != "plain":
        what = f"the {who} uses the kernel of {step.name} as it is, the {case.other} {form}"
        yield from try_step(case, step, step.set(use_form="plain"), "weights-perturbed", what, 2.0)
    if own.ndim == 2:
        if own.shape[0] == own.shape[1]:
            what = f"the {who} transposes the kernel of {step.name}"
            yield from try_weights(case, step, "dense-transpose", 2.5, what, {"kernel": own.T})
        return
    if rank < 1:
        return
    flipped = np.flip(own, tuple(range(rank)))
    what = f"the {who} flips the kernel of {step.name}: a true convolution against a cross-correlation"
    yield from try_weights(case, step, "kernel-flip", 3.0, what, {"kernel": flipped})
    for order in relations.orders(own.shape):
        if tuple(own.shape[axis] for axis in order) == own.shape:
            what = f"the {who} takes the axes of the kernel of {step.name} in the order {order}"
            yield from try_weights(case, step, "kernel-layout", 3.0, what, {"kernel": own.transpose(order)})
    if own.ndim > 2:
        yield from _standardised(case, step, own)
    groups = int(step.settings.get("groups", 1))
    if own.shape[-2] == 1 and groups > 1:
        many = own.shape[-1] // groups
        if many > 1:
            turned = own.reshape(*own.shape[:-1], groups, many).swapaxes(-1, -2).reshape(own.shape)
            back = own.reshape(*own.shape[:-1], many, groups).swapaxes(-1, -2).reshape(own.shape)
            for changed in (turned, back):
                what = f"the {who} exchanges channel and multiplier in the kernel of {step.name}"
                yield from try_weights(case, step, "depthwise-order", 3.0, what, {"kernel": changed})


_EPSILONS = (1e-6, 1e-5, 1e-3, 1e-8, 1e-10)


def _standardised(case: Case, step: Step, own: Array) -> Iterator[Edit]:
    """Each output's kernel brought to mean zero and deviation one as it is used, by the usual forms of it."""
    axes, size = tuple(range(own.ndim - 1)), own[..., 0].size
    middle, var = own - own.mean(axes, keepdims=True), own.var(axes, keepdims=True)
    what = f"the {case.doer} standardises the kernel of {step.name} as it uses it"

    def tried(deviation: Array, share: float) -> list[Edit]:
        kernel = {"kernel": middle / deviation * share}
        return list(try_weights(case, step, "weights-perturbed", 3.0, what, dict(kernel)))

    for share in (1.0, size**-0.5):
        if size < 2 or not tried(np.sqrt(var + _EPSILONS[0]), share):
            continue
        for eps in _EPSILONS:
            for deviation in (np.sqrt(var + eps), np.sqrt(var) + eps, np.sqrt(var * size / (size - 1)) + eps):
                yield from tried(deviation, share)


@suggests(*kinds.CONVOLUTIONS, "dense", "matmul")
def bias(case: Case, step: Step) -> Iterator[Edit]:
    """A bias that is left out, added twice, or another one: what is added to each channel is seen."""
    if not is_last(case, step):
        return
    own = step.weights.get("bias")
    found, target = value(case, step), case.target
    if found.shape != target.shape or found.ndim < 2 or step.settings.get("activation"):
        return
    gap = target - found
    axis = int(step.settings.get("channels", -1)) % gap.ndim
    over = tuple(k for k in range(gap.ndim) if k != axis)
    shift = gap.mean(axis=over)
    shape = [-1 if k == axis else 1 for k in range(gap.ndim)]
    if distance(found + shift.reshape(shape), target) > 4 * case.bar:
        return
    who = case.doer
    if own is not None and own.shape == shift.shape:
        what = f"the {who} does not add the bias of {step.name}"
        yield from try_weights(case, step, "bias-missing", 2.5, what, {"bias": None})
        what = f"the {who} adds the bias of {step.name} twice"
        yield from try_weights(case, step, "bias-missing", 2.5, what, {"bias": 2 * own})
        what = f"the {who} takes the bias of {step.name} away"
        yield from try_weights(case, step, "bias-missing", 2.5, what, {"bias": -own})
    cause = "bias-missing" if own is None else "weights-perturbed"
    what = f"the {who} adds another number to each channel of {step.name}: {naming.said(float(shift.flat[0]))}, …"
    if np.allclose(shift, shift.flat[0], rtol=1e-4, atol=case.bar):
        cause = "shift"
    chain = behind(case, step, made("add", operand=shift.reshape(shape)))
    yield from try_chain(case, step, chain, cause, what, 5.0)


@suggests(*kinds.CONVOLUTIONS, "dense", "embedding", "matmul", "attention")
def channelwise(case: Case, step: Step) -> Iterator[Edit]:
    """Each channel by another factor: a norm that was folded in, or weights that are standardised as they are used."""
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape or found.ndim < 2:
        return
    axis = int(step.settings.get("channels", -1)) % found.ndim
    x, y = (np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1) for v in (found, target))
    if x.shape[1] < 4:
        return
    middle = x - x.mean(1, keepdims=True)
    total = np.square(middle).sum(1)
    factor = np.divide((middle * y).sum(1), total, out=np.zeros_like(total), where=total > 0)
    shift = y.mean(1) - factor * x.mean(1)
    if distance(x * factor[:, None] + shift[:, None], y) > 4 * case.bar:
        return
    shape = [-1 if k == axis else 1 for k in range(found.ndim)]
    more = [made("mul", operand=factor.reshape(shape))]
    bar = case.bar * float(np.abs(y).max())
    if np.abs(shift).max() > bar:
        more.append(made("add", operand=shift.reshape(shape)))
    if np.allclose(factor, factor[0], rtol=1e-5) and len(more) == 1:
        return
    what = f"the {case.doer} scales each channel of what {step.name} gives by a number of its own"
    what += " and adds one" if len(more) > 1 else ""
    yield from try_chain(case, step, behind(case, step, *more), "weights-perturbed", what, 7.0)


@suggests("embedding")
def table(case: Case, step: Step) -> Iterator[Edit]:
    """Ids that are shifted, rows that are scaled, a row of zeros."""
    own = step.weights["kernel"]
    now = int(step.settings.get("offset", 0))
    for offset in (1, -1, 2, -2, 3, -3):
        what = f"the {case.doer} looks up the ids {offset:+d} in {step.name}"
        rolled: dict[str, Array | None] = {"kernel": np.roll(own, -offset, 0)}
        values = (0, offset) if not case.turned_round else (offset, 0)
        yield from try_weights(
            case, step, "embedding-offset", 2.0 + abs(offset) / 10, what, rolled, key="offset",
            values=(now + values[0], now + values[1]),
        )  # fmt: skip
    yield from _factor(case, step, own)
    for row in (0, 1, len(own) - 1):
        blank = own.copy()
        blank[row] = 0
        what = f"row {row} of {step.name} is zeros in the {case.doer}: an index for padding"
        yield from try_weights(case, step, "embedding-offset", 2.5, what, {"kernel": blank})


def _factor(case: Case, step: Step, own: Array) -> Iterator[Edit]:
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape or not np.vdot(found, found):
        return
    factor = float(np.vdot(found, target) / np.vdot(found, found))
    if distance(found * factor, target) > 4 * case.bar:
        return
    features = own.shape[-1]
    usual = (np.sqrt(features), 1 / np.sqrt(features))
    factor = snapped(factor, lambda n: distance(found * n, target) <= case.bar, usual)
    how = (
        f" = √{features}"
        if np.isclose(factor, usual[0])
        else f" = 1/√{features}"
        if np.isclose(factor, usual[1])
        else ""
    )
    what = f"the {case.doer} multiplies what {step.name} gives by {naming.said(factor)}{how}"
    yield from try_weights(case, step, "embedding-scale", 2.0, what, {"kernel": own * factor}, key="scale",
                           values=(1.0, factor) if not case.turned_round else (factor, 1.0))  # fmt: skip


@suggests()
def of_unread_layer(case: Case, step: Step) -> Iterator[Edit]:
    """Weights of a layer of somebody's own: it cannot be computed, and what it has learnt is recorded all the same."""
    if case.theirs.program is not None:
        return
    recording = case.theirs.recording
    nodes = [recording.structure.by_name[name] for name in case.theirs.nodes]
    for role, own in step.weights.items():
        for node in (node for node in nodes if own.size > 1 and node.params):
            for param in node.params:
                try:
                    its = Read(recording, node).named(param.name)
                except Unknown:
                    continue
                for theirs in dict.fromkeys((its.shape, its.shape[::-1])) if its.size == own.size else ():
                    values = its.reshape(own.shape) if theirs == its.shape else its.T.reshape(own.shape)
                    yield from _taken(case, step, role, values)


def _taken(case: Case, step: Step, role: str, values: Array) -> Iterator[Edit]:
    """The edit that puts a weight of theirs for ours, wherever that is used."""
    own = step.weights[role]

    def change(program: Program) -> Program:
        used = {one.name for one in program.steps if np.array_equal(one.weights.get(role, ()), own)}
        return Program(tuple(one.weigh(**{role: values}) if one.name in used else one for one in program.steps))

    if np.array_equal(values, own):
        return
    try:
        left = case.error(of_program(change)(case.start))
    except Unknown:
        return
    if left < HELPS * case.before:
        for told in weighing.differences(case, step, step.weigh(**{role: values})):
            yield Edit(told.cause, told.what, of_program(change), step.name, key=role, fix=told.fix, cost=2.0,
                       same=told.same)  # fmt: skip
