"""Activations: another one, another parameter, one that only one side has, and what stands for probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import naming, operations
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    HELPS,
    ahead,
    behind,
    close,
    gives_output,
    inputs,
    is_last,
    made,
    of_each,
    of_mask,
    ordered,
    sample,
    sides,
    snapped,
    solved,
    telling,
    try_chain,
    try_settings,
    twin,
    value,
)
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step, Unknown

_EACH: tuple[tuple[str, dict[str, Any]], ...] = (
    ("identity", {}), ("relu", {}), ("relu6", {}), ("leaky_relu", {"negative_slope": 0.01}),
    ("leaky_relu", {"negative_slope": 0.1}), ("leaky_relu", {"negative_slope": 0.2}),
    ("leaky_relu", {"negative_slope": 0.3}), ("gelu", {"approximate": "none"}), ("gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": "sigmoid"}), ("silu", {}), ("hard_silu", {}), ("mish", {}), ("elu", {"alpha": 1.0}),
    ("selu", {}), ("sigmoid", {}), ("hard_sigmoid", {"slope": 1 / 6, "offset": 0.5}),
    ("hard_sigmoid", {"slope": 0.2, "offset": 0.5}), ("tanh", {}), ("hard_tanh", {}), ("softplus", {}),
    ("softsign", {}), ("exponential", {}), ("log_sigmoid", {}), ("tanh_shrink", {}),
    ("soft_shrink", {"threshold": 0.5}), ("hard_shrink", {"threshold": 0.5}),
    ("square", {}), ("abs", {}), ("neg", {}), ("log", {}), ("sqrt", {}),
)  # fmt: skip
_PARAMETERS: dict[str, tuple[tuple[str, tuple[float, ...]], ...]] = {
    "leaky_relu": (("negative_slope", (0.01, 0.1, 0.2, 0.3)),),
    "relu": (("negative_slope", (0.01, 0.2)), ("max_value", (6.0, 1.0)), ("threshold", (0.5,))),
    "relu6": (("max_value", (6.0, 1.0)),),
    "elu": (("alpha", (1.0, 0.5)),),
    "celu": (("alpha", (1.0, 0.5, 2.0)),),
    "softplus": (("beta", (1.0, 2.0, 0.5)),),
    "hard_sigmoid": (("slope", (1 / 6, 0.2)), ("offset", (0.5,))),
    "hard_silu": (("slope", (1 / 6, 0.2)),),
    "hard_tanh": (("max_value", (1.0,)), ("min_value", (-1.0,))),
    "clip": (("max_value", (1.0, 6.0)), ("min_value", (0.0,))),
    "soft_shrink": (("threshold", (0.5,)),),
    "hard_shrink": (("threshold", (0.5,)),),
    "threshold": (("value", (0.0,)), ("threshold", (0.0,))),
}
_POSITIVE = frozenset({"slope", "alpha", "beta"})
_LEAST = 1e-3
"""Of such a parameter: with a smaller one the function is none of the kind any more."""
_PROBABLE = ("softmax", "log_softmax", "sigmoid")
_NOT_ALONE = frozenset({"prelu", "softmax", "log_softmax", "glu"})


@suggests(*(kinds.ACTIVATIONS - _NOT_ALONE), "clip", "hard_sigmoid")
def replaced(case: Case, step: Step) -> Iterator[Edit]:
    """Another function of the same input, or the same one with another parameter."""
    x = inputs(case, step)[0]
    places = sample(case, step, x)
    if not telling(x) or (places is not None and not of_each(*places)):
        return
    same: list[Edit] = []
    if places is not None and distance(*places) <= case.bar:
        same = list(_exchanged(case, step, Step(step.name, "identity", {}, {}, step.inputs[:1], step.shape), 2.0))
    own = same or list(_parameters(case, step))
    yield from own
    for kind, settings in _EACH:
        if kind == step.kind and (own or settings.items() <= step.settings.items()):
            continue
        other = Step(step.name, kind, settings, {}, step.inputs[:1], step.shape)
        # Where nothing is done only what does nothing to these very numbers is as likely.
        if not _near(places, other, case.bar if same else HELPS) or (same and kind == "identity"):
            continue
        yield from _exchanged(case, step, other, 2.0 if kind in _likely(step.kind) else 2.5)
    if places is not None and not own:
        for kind in ("leaky_relu", "elu", "celu", "softplus", "hard_sigmoid", "hard_tanh", "relu"):
            if kind != step.kind:
                other = Step(step.name, kind, _defaults(kind), {}, step.inputs[:1], step.shape)
                yield from _parameters(case, step, other)


def _likely(kind: str) -> tuple[str, ...]:
    return {
        "relu": ("relu6", "leaky_relu", "gelu", "silu"), "silu": ("hard_silu", "gelu", "relu"),
        "sigmoid": ("hard_sigmoid",), "hard_sigmoid": ("sigmoid", "hard_sigmoid"), "gelu": ("gelu", "relu"),
        "leaky_relu": ("relu", "leaky_relu"), "elu": ("relu", "selu"),
    }.get(kind, ())  # fmt: skip


def _defaults(kind: str) -> dict[str, Any]:
    return next((dict(settings) for name, settings in _EACH if name == kind), {"alpha": 1.0} if kind == "celu" else {})


def _near(places: tuple[Array, Array] | None, other: Step, bar: float = HELPS) -> bool:
    """Whether an activation fits some places; true where there are none."""
    if places is None:
        return True
    x, y = places
    try:
        found = operations.run(other, [x])
    except Unknown:
        return False
    return distance(found, y) <= bar


def _exchanged(case: Case, step: Step, other: Step, cost: float) -> Iterator[Edit]:
    if other.kind == "identity":
        cause = case.lacks("activation")
        if gives_output(case) and step.kind in _PROBABLE:
            cause = "logits"
        what = f"{step.name} ({step.kind}) does nothing in the {case.doer}"
    elif other.kind == step.kind:
        cause = "gelu-approx" if step.kind == "gelu" else "activation-param"
        key = next(iter(other.settings), "")
        what = sides(case, key, step.settings.get(key), other.settings[key]) if key else "other settings"
    else:
        cause = naming.of_kinds(step.kind, other.kind)
        reference, candidate = ordered(case, _told(step), _told(other))
        what = f"the reference computes {reference}, the candidate {candidate}"
    values = ordered(case, _told(step), _told(other))
    yield from try_chain(case, step, (other,), cause, what, cost, key="kind", values=values)


def _told(step: Step) -> str:
    numbers = ", ".join(f"{key} {naming.said(number)}" for key, number in step.settings.items() if number is not None)
    return f"{step.kind} ({numbers})" if numbers else step.kind


def _parameters(case: Case, step: Step, other: Step | None = None) -> Iterator[Edit]:
    """Each parameter solved for."""
    wanted = other or step
    x = inputs(case, step)[0]
    places = sample(case, step, x)
    for key, starts in _PARAMETERS.get(wanted.kind, ()):
        whole = places is None

        def result(number: float, key: str = key) -> Array:
            changed = wanted.set(**{key: number})
            if places is None:
                return case.start.program.with_step(changed).run(case.tensors, case.ran)
            return operations.run(changed, [places[0]])

        target = case.target if whole else places[1]  # type: ignore[index]
        now = wanted.settings.get(key)
        found = solved(result, target, [*starts, *([float(now)] if isinstance(now, int | float) else [])])
        if found is None or found[1] > max(case.bar * 4, 0.3 * case.before if other is None else 0):
            continue
        bar = max(2 * found[1], case.bar)
        number = snapped(found[0], close(result, target, bar), starts)
        if key in _POSITIVE and number < _LEAST:
            continue  # a straight line, or a constant
        if key == "negative_slope" and math.isclose(number, 1, rel_tol=_LEAST):
            continue  # the same on both sides of zero: none at all, which is tried on its own
        changed = wanted.set(**{key: number})
        if np.ptp(operations.run(changed, [x])) <= case.bar * np.ptp(x):
            continue  # it lets nothing through, which any number would that is far enough off
        if other is None:
            yield from try_settings(case, step, "activation-param", 2.0, {key: number})
        else:
            yield from _exchanged(case, step, changed, 2.5)


@suggests("prelu")
def slopes(case: Case, step: Step) -> Iterator[Edit]:
    """The slopes of each channel, solved for."""
    x, alpha = inputs(case, step)[0], step.weights["alpha"]
    if not is_last(case, step) or x.shape != case.target.shape:
        return
    below = np.where(x < 0, x, 0)
    lead = tuple(range(x.ndim - alpha.ndim))
    over = lead + tuple(len(lead) + k for k, length in enumerate(alpha.shape) if length == 1)
    total = np.square(below).sum(axis=over, keepdims=True)
    found = (below * case.target).sum(axis=over, keepdims=True) / np.where(total == 0, 1, total)
    changed = {"alpha": found.reshape(alpha.shape)}
    what = f"the slopes of {step.name} are others in the {case.doer}: {naming.said(float(found.flat[0]))}, …"
    for edit in (step.weigh(**changed), Step(step.name, "relu", {}, {}, step.inputs, step.shape)):
        plain = edit.kind == "relu"
        yield from try_chain(
            case, step, (edit,), "activation-kind" if plain else "activation-param",
            f"the {case.doer} computes relu" if plain else what, 2.0,
        )  # fmt: skip


@suggests()
def more(case: Case, step: Step) -> Iterator[Edit]:
    """One that follows a step, or that the same node applies."""
    if step.settings.get("activation"):
        what = f"the {case.doer} leaves out the {step.settings['activation']} that {step.name} ends with"
        yield from try_settings(case, step, case.lacks("activation"), 2.0, {"activation": None}, what)
    found = value(case, step)
    if not is_last(case, step) or not telling(found) or of_mask(case.target):
        return
    places = sample(case, step, found)
    if places is None or distance(*places) <= case.bar:
        return
    if of_each(*places):
        for kind, settings in _EACH:
            other = made(kind, **settings)
            if kind != "identity" and _near(places, other):
                yield from _behind(
                    case, step, other, 3.0 if kind not in ("square", "abs", "neg", "log", "sqrt") else 6.0
                )
        yield from _slope_behind(case, step, places)
    for kind in ("softmax", "log_softmax"):
        for axis in {-1, 1 - found.ndim} if found.ndim > 1 else {-1}:
            if found.shape[axis] == 1:
                continue  # ones, whatever it is computed of
            yield from _behind(case, step, made(kind, axis=axis), 3.0)


def _behind(case: Case, step: Step, other: Step, cost: float) -> Iterator[Edit]:
    probable = other.kind in _PROBABLE and gives_output(case)
    cause = "logits" if probable else case.has("activation")
    what = f"the {case.doer} computes {_told(other)} of what {step.name} gives"
    fix = f"take the {other.kind} away" if not case.turned_round else f"add the {other.kind}"
    yield from try_chain(
        case, step, behind(case, step, other), cause, what, cost, fix=f"{fix} behind {_name(case, step)}"
    )


def _name(case: Case, step: Step) -> str:
    return step.name if case.turned_round else twin(case, step) or step.name


def _slope_behind(case: Case, step: Step, places: tuple[Array, Array]) -> Iterator[Edit]:
    x, y = places
    below = x < 0
    if not below.any() or distance(np.where(below, 0, x), np.where(below, 0, y)) > case.bar:
        return
    slope = float(np.vdot(x[below], y[below]) / np.vdot(x[below], x[below]))
    slope = snapped(slope, lambda n: distance(np.where(below, n * x, x), y) <= case.bar)
    yield from _behind(case, step, made("leaky_relu", negative_slope=slope), 3.0)


@suggests(*kinds.CONVOLUTIONS, "dense", "batchnorm", "layernorm", *kinds.POOLS)
def before(case: Case, step: Step) -> Iterator[Edit]:
    """One that comes before a step on one side only."""
    for kind in ("relu", "gelu", "silu", "tanh", "sigmoid"):
        other = made(kind, **_defaults(kind))
        what = f"the {case.doer} computes {kind} of what {step.name} reads"
        yield from try_chain(case, step, ahead(step, other), case.has("activation"), what, 5.0)


@suggests("softmax", "log_softmax", "glu")
def along(case: Case, step: Step) -> Iterator[Edit]:
    """Another axis, logarithms, or nothing."""
    x = inputs(case, step)[0]
    current = step.settings.get("axis")
    for axis in range(-1, -x.ndim - 1, -1):
        if isinstance(current, int) and axis % x.ndim == current % x.ndim:
            continue
        yield from try_settings(case, step, "softmax-axis" if step.kind != "glu" else "norm-axis", 2.0, {"axis": axis})
    if step.kind == "glu":
        return
    for kind in ("softmax", "log_softmax"):
        if kind != step.kind:
            other = Step(step.name, kind, step.settings, {}, step.inputs, step.shape)
            what = f"the {case.doer} gives {kind}, the {case.other} {step.kind}"
            yield from try_chain(case, step, (other,), "logits", what, 2.0)
    if is_last(case, step):
        cause = "logits" if gives_output(case) else case.lacks("activation")
        nothing = Step(step.name, "identity", {}, {}, step.inputs[:1], None)
        what = f"the {case.doer} gives what goes into the {step.kind} {step.name}"
        yield from try_chain(case, step, (nothing,), cause, what, 2.0)
        other = Step(step.name, "sigmoid", {}, {}, step.inputs[:1], None)
        yield from try_chain(case, step, (other,), "activation-kind", f"the {case.doer} computes sigmoid", 2.5)
    yield from _temperature(case, step, x)


def _temperature(case: Case, step: Step, x: Array) -> Iterator[Edit]:
    """A factor on what goes in."""
    if not is_last(case, step):
        return

    def result(factor: float) -> Array:
        return operations.run(step, [x * factor])

    found = solved(result, case.target, (1.0, 0.1, 10.0))
    if found is not None and found[1] <= 4 * case.bar:
        factor = snapped(found[0], lambda n: distance(result(n), case.target) <= max(case.bar, 2 * found[1]))
        what = f"the {case.doer} multiplies what {step.name} reads by {naming.said(factor)}"
        chain = ahead(step, made("mul", operand=factor))
        yield from try_chain(case, step, chain, "attention-scale" if x.ndim > 3 else "scale", what, 4.0)
