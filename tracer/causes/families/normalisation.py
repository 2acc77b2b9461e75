"""Normalisations: epsilon, statistics, axes, and which of them are applied."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import naming, operations
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    behind,
    fitted,
    inputs,
    is_last,
    made,
    ordered,
    sides,
    snapped,
    solved,
    try_chain,
    try_settings,
    try_step,
    try_weights,
    value,
)
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step

_EPSILONS = (1e-5, 1e-3, 1e-6, 1e-7, 1e-12, 1.001e-5, 1e-4, 1e-8, 1e-2, 1e-10)
_CLOSE = 1e-4
"""Of a normalised value: an epsilon makes a smooth change of the scale, and leaves no more than that."""


@suggests(*kinds.NORMALISATIONS)
def epsilon(case: Case, step: Step) -> Iterator[Edit]:
    """Solved for, and taken as the usual one near it."""
    now = step.settings.get("epsilon")
    if now is None or not is_last(case, step):
        return
    read = inputs(case, step)

    def result(number: float) -> Array:
        return operations.run(step.set(epsilon=abs(number)), list(read))

    found = solved(result, case.target, dict.fromkeys((*_EPSILONS, float(now), 0.0)))
    if found is None or found[1] > max(4 * case.bar, 0.3 * case.before):
        return
    bar = max(case.bar, 2 * found[1])
    number = snapped(abs(found[0]), lambda n: distance(result(n), case.target) <= bar, _EPSILONS)
    if number == now:
        return
    cause = naming.of_setting(step.kind, "epsilon", now, number)
    yield from try_settings(case, step, cause, 2.0, {"epsilon": number})


@suggests("batchnorm")
def batch(case: Case, step: Step) -> Iterator[Edit]:
    """Training mode, and statistics or weights that are not what was recorded."""
    mode = step.settings.get("mode", "eval")
    if mode == "train":
        yield from try_settings(case, step, "bn-mode", 2.0, {"mode": "eval"})
    else:
        what = f"the {case.doer} normalises {step.name} by the batch's own statistics: it is in training mode"
        values = ordered(case, mode, "train")
        for ddof in (0, 1):
            changed = step.set(mode="train", ddof=ddof)
            yield from try_step(case, step, changed, "bn-mode", what, 2.0 + ddof, key="mode", values=values)
    for cause, what, changed_weights in _weights(case, step):
        yield from try_weights(case, step, cause, 3.0, what, changed_weights)


def _beside(case: Case, step: Step, var: Array) -> float:
    """The number that added to the deviation scales each channel as it is scaled; 0 where none does."""
    found, target = value(case, step), case.target
    if not is_last(case, step) or found.shape != target.shape:
        return 0.0
    axis = int(step.settings["channels"]) % found.ndim
    x, y = (np.moveaxis(v, axis, 0).reshape(found.shape[axis], -1) for v in (found, target))
    spread = x - x.mean(1, keepdims=True)
    total = np.square(spread).sum(1)
    usable = total > 0
    factor = (spread * y).sum(1)[usable] / total[usable]
    if not usable.any() or np.any(factor <= 0):
        return 0.0
    each = np.sqrt(var + float(step.settings["epsilon"]))[usable] / factor - np.sqrt(var)[usable]
    middle = float(np.median(each))
    close = np.abs(each - middle) <= 1e-3 * np.maximum(np.sqrt(var)[usable], abs(middle))
    return snapped(middle, lambda n: abs(n - middle) <= 1e-3 * middle, _EPSILONS) if middle > 0 and close.all() else 0.0


def _weights(case: Case, step: Step) -> Iterator[tuple[str, str, dict[str, Array | None]]]:
    own, who = step.weights, case.doer
    gamma, beta = own.get("gamma"), own.get("beta")
    mean, var = own.get("running_mean"), own.get("running_var")
    eps = float(step.settings.get("epsilon", 0.0))
    if gamma is not None and beta is not None:
        yield "bn-stats", f"gamma and beta of {step.name} change places in the {who}", {"gamma": beta, "beta": gamma}
    if gamma is not None:
        yield "bn-stats", f"the {who} does not multiply by the gamma of {step.name}", {"gamma": None}
    if beta is not None:
        yield "bias-missing", f"the {who} does not add the beta of {step.name}", {"beta": None}
    if mean is not None and var is not None:
        new: dict[str, Array | None] = {"running_mean": np.zeros_like(mean), "running_var": np.ones_like(var)}
        yield "bn-stats", f"{step.name} has mean 0 and variance 1 in the {who}: statistics that were never loaded", new
        yield (
            "bn-stats",
            f"the {who} divides by the variance of {step.name}",
            {"running_var": np.square(var + eps) - eps},
        )
        yield "bn-stats", f"the {who} takes the variance of {step.name} for squared", {"running_var": np.sqrt(var)}
        for beside in dict.fromkeys((eps, _beside(case, step, var))):
            if not beside:
                continue
            outside = np.square(np.sqrt(var) + beside) - eps
            yield (
                "bn-eps",
                f"the {who} adds {naming.said(beside)} to the root of the variance in {step.name}, not under it",
                {"running_var": outside},
            )


@suggests("batchnorm", "groupnorm", "instancenorm", "layernorm", "rmsnorm")
def affine(case: Case, step: Step) -> Iterator[Edit]:
    """Each channel by another factor and with another shift."""
    found = value(case, step)
    channels = step.settings.get("channels", (step.settings.get("axes") or (-1,))[-1])
    if not is_last(case, step) or found.shape != case.target.shape or not isinstance(channels, int):
        return
    axis = channels % found.ndim
    if found.shape[axis] * 3 > found.size:
        return
    x, y = (np.moveaxis(v, axis, 0).reshape(found.shape[axis], -1) for v in (found, case.target))
    spread = x - x.mean(1, keepdims=True)
    total = np.square(spread).sum(1)
    factor = np.divide((spread * y).sum(1), total, out=np.zeros_like(total), where=total > 0)
    shift = y.mean(1) - factor * x.mean(1)
    if distance(x * factor[:, None] + shift[:, None], y) > 4 * case.bar:
        return
    shape = [-1 if k == axis else 1 for k in range(found.ndim)]
    chain = behind(
        case, step, made("mul", operand=factor.reshape(shape)), made("add", operand=shift.reshape(shape))
    )  # fmt: skip
    cause = "bn-stats" if step.kind == "batchnorm" else "weights-perturbed"
    what = f"the {case.doer} scales and shifts each channel of {step.name} otherwise: other statistics or weights"
    yield from try_chain(case, step, chain, cause, what, 6.0)


@suggests("layernorm", "groupnorm", "rmsnorm", "instancenorm", "l2_normalize", "var", "std", "batchnorm")
def unbiased(case: Case, step: Step) -> Iterator[Edit]:
    """The deviation over n or over n − 1, and epsilon beside the root."""
    if step.kind in ("layernorm", "groupnorm", "var", "std") or step.settings.get("mode") == "train":
        now = int(step.settings.get("ddof", 0))
        reference, candidate = (f"n − {one}" if one else "n" for one in ordered(case, now, 1 - now))
        what = f"the deviation of {step.name} is over {reference} in the reference, {candidate} in the candidate"
        yield from try_settings(case, step, "std-ddof", 2.0, {"ddof": 1 - now}, what)
    if step.kind in ("layernorm", "rmsnorm", "instancenorm"):
        yield from _by_hand(case, step)


def _by_hand(case: Case, step: Step) -> Iterator[Edit]:
    """Over (root + epsilon), with either deviation: what hand-written norms do."""
    x = inputs(case, step)[0]
    if not is_last(case, step) or x.shape != case.target.shape:
        return
    axes = _axes(step, x)
    eps = float(step.settings.get("epsilon", 0.0))
    for ddof in (0, 1) if step.kind != "rmsnorm" else (0,):
        if math.prod(x.shape[axis] for axis in axes) <= ddof:
            continue
        for form, cause, words in (
            ("deviation", "ln-eps", "adds epsilon to the deviation, not under the root,"),
            ("variance", "std-ddof", "divides by the variance"),
        ):
            settings = {"epsilon": eps, "axes": axes, "ddof": ddof, "form": form}
            chain = _over(case, step, x, "rmsnorm" if step.kind == "rmsnorm" else "layernorm", settings)
            extra = " and takes the deviation over n − 1" if ddof else ""
            what = f"the {case.doer} {words}{extra} in {step.name}"
            yield from try_chain(case, step, chain, cause, what, 3.0 + ddof)


def _axes(step: Step, x: Array) -> tuple[int, ...]:
    if step.kind == "instancenorm":
        channels, batch_axis = int(step.settings["channels"]) % x.ndim, int(step.settings.get("batch", 0))
        return tuple(axis for axis in range(x.ndim) if axis not in (channels, batch_axis))
    return tuple(sorted(int(axis) % x.ndim for axis in step.settings["axes"]))


@suggests("layernorm", "rmsnorm", "groupnorm", "instancenorm", "l2_normalize", "batchnorm")
def axes(case: Case, step: Step) -> Iterator[Edit]:
    """Over other axes, in other groups, or another kind of norm."""
    x = inputs(case, step)[0]
    eps = float(step.settings.get("epsilon", 1e-5))
    if step.kind == "groupnorm":
        now, size = int(step.settings["groups"]), x.shape[int(step.settings["channels"])]
        for groups in range(1, size + 1):
            if size % groups == 0 and groups != now:
                yield from try_settings(case, step, "norm-axis", 2.0, {"groups": groups})
    if step.kind == "batchnorm":
        now = int(step.settings["channels"]) % x.ndim
        for axis in range(x.ndim):
            if axis != now and x.shape[axis] == x.shape[now]:
                yield from try_settings(case, step, "norm-axis", 2.0, {"channels": axis})
        rest = tuple(axis for axis in range(1, x.ndim) if axis != now)
        for some, words in ((rest, "each sample by its own statistics (instance norm)"),
                            ((now,), "each place over its channels (layer norm)"),
                            (tuple(range(1, x.ndim)), "each sample as a whole (layer norm)")):  # fmt: skip
            if not some or math.prod(x.shape[axis] for axis in some) < 2:
                continue
            chain = _over(case, step, x, "layernorm", {"epsilon": eps, "axes": some})
            what = f"the {case.doer} normalises {words} in {step.name}, the {case.other} by running statistics"
            yield from try_chain(case, step, chain, "norm-axis", what, 2.5)
        return
    own = _axes(step, x) if step.kind != "groupnorm" else ()
    for count in range(1, min(x.ndim, 4)):
        for some in itertools.combinations(range(1, x.ndim), count):
            if some == own:
                continue
            words = sides(case, f"the axes of {step.name}", own or step.kind, some)
            kind = (
                "rmsnorm" if step.kind == "rmsnorm" else "l2_normalize" if step.kind == "l2_normalize" else "layernorm"
            )
            settings: dict[str, Any] = {"epsilon": eps, "axes": some}
            if kind == "l2_normalize":
                settings["form"] = step.settings.get("form", "max")
            yield from try_chain(case, step, _over(case, step, x, kind, settings), "norm-axis", words, 2.5)
    for kind in ("layernorm", "rmsnorm"):
        if kind != step.kind and step.kind in ("layernorm", "rmsnorm"):
            verb = "does not take away the mean" if kind == "rmsnorm" else "takes away the mean"
            other = replace(step, kind=kind, settings={"epsilon": eps, "axes": own})
            yield from try_step(case, step, other, "norm-axis", f"the {case.doer} {verb} in {step.name}", 2.5)


def _over(case: Case, step: Step, x: Array, kind: str, settings: dict[str, Any]) -> tuple[Step, ...]:
    """A norm over some axes, then the step's own weights along the axes where they were."""
    bare = Step(step.name, kind, settings, {}, step.inputs, step.shape)
    more = []
    for role, word in (("gamma", "mul"), ("beta", "add")):
        weight = step.weights.get(role)
        if weight is not None:
            own = step.settings.get("axes")
            if own is None:
                shape = [-1 if k == int(step.settings["channels"]) % x.ndim else 1 for k in range(x.ndim)]
            else:
                places = {int(axis) % x.ndim for axis in own}
                shape = [x.shape[k] if k in places else 1 for k in range(x.ndim)]
            more.append(made(word, operand=weight if weight.size == 1 else weight.reshape(shape)))
    return behind(case, bare, *more) if more else (bare,)


@suggests("layernorm", "rmsnorm", "groupnorm", "instancenorm")
def weights_of(case: Case, step: Step) -> Iterator[Edit]:
    """Weights that one side does not apply, exchanges, or adds one to."""
    gamma, beta = step.weights.get("gamma"), step.weights.get("beta")
    who = case.doer
    if gamma is not None and beta is not None:
        what = f"gamma and beta of {step.name} change places in the {who}"
        yield from try_weights(case, step, "bn-stats", 3.0, what, {"gamma": beta, "beta": gamma})
    if gamma is not None:
        what = f"the {who} does not multiply by the gamma of {step.name}"
        yield from try_weights(case, step, "weights-not-loaded", 3.0, what, {"gamma": None})
        what = f"the {who} multiplies by one plus the gamma of {step.name}"
        yield from try_weights(case, step, "weights-perturbed", 3.0, what, {"gamma": gamma + 1})
        what = f"the {who} multiplies by the gamma of {step.name} less one"
        yield from try_weights(case, step, "weights-perturbed", 3.0, what, {"gamma": gamma - 1})
    if beta is not None:
        what = f"the {who} does not add the beta of {step.name}"
        yield from try_weights(case, step, "bias-missing", 3.0, what, {"beta": None})


@suggests(*kinds.NORMALISATIONS)
def nothing(case: Case, step: Step) -> Iterator[Edit]:
    """A norm that one side leaves out."""
    if is_last(case, step):
        bare = Step(step.name, "identity", {}, {}, step.inputs[:1], None)
        what = f"{step.name} ({step.kind}) does nothing in the {case.doer}"
        yield from try_chain(case, step, (bare,), case.lacks("block"), what, 3.0)


@suggests(*kinds.CONVOLUTIONS, "dense", "add")
def normalised(case: Case, step: Step) -> Iterator[Edit]:
    """A norm that only the other side has behind a step."""
    found = value(case, step)
    if not is_last(case, step) or found.shape != case.target.shape or found.ndim < 2:
        return
    for axis in dict.fromkeys((int(step.settings.get("channels", -1)) % found.ndim, found.ndim - 1)):
        rest = tuple(k for k in range(found.ndim) if k != axis)
        for over, word in (((axis,), "layer"), (rest, "batch"), (rest[1:], "instance")):
            if not over or (word == "instance" and found.ndim < 3):
                continue
            spread = found.var(axis=over, keepdims=True)
            normal = (found - found.mean(axis=over, keepdims=True)) / np.sqrt(spread + 1e-5)
            _, left = fitted([normal, np.ones(())], case.target)
            if left < 0.02:
                chain = behind(case, step, made("layernorm", epsilon=1e-5, axes=over))
                what = f"the {case.doer} normalises what {step.name} gives ({word} norm)"
                yield from try_chain(case, step, chain, case.has("block"), what, 4.0)
