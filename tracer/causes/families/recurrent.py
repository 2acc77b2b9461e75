"""Recurrent layers: gates, biases, directions, steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from tracer.causes import operations
from tracer.causes.case import Case, distance
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    HELPS,
    ahead,
    inputs,
    is_last,
    made,
    ordered,
    sides,
    try_chain,
    try_settings,
    try_step,
    try_weights,
)
from tracer.causes.naming import picks_one
from tracer.causes.operations.recurrent import GATES
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step, Unknown

_LAYERS = ("lstm", "gru", "rnn")
_CELLS = tuple(f"{kind}_cell" for kind in _LAYERS)
_GATING = ("sigmoid", "hard_sigmoid", "hard_sigmoid_sixth", "tanh")
_INNER = ("tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "softsign", "elu")


def _glance(case: Case, step: Step, changed: Step) -> bool:
    """Whether a change fits one sample: a long sequence is run step by step."""
    if not is_last(case, step):
        return True
    read = inputs(case, step)
    time = int(step.settings.get("time", 1))
    if len(read) > 1 or read[0].ndim != 3 or case.target.ndim < 2:
        return True
    batch = 0 if time == 1 else 1
    where = batch if case.target.ndim == 3 else 0
    if case.target.shape[where] != read[0].shape[batch] or step.settings.get("mask") is not None:
        return True
    try:
        found = operations.run(changed, [np.take(read[0], [0], batch)])
    except Unknown:
        return False
    target = np.take(case.target, [0], where)
    return found.shape == target.shape and distance(found, target) < max(HELPS * case.before, 4 * case.bar) * _slack(
        case, target
    )


def _slack(case: Case, target: Array) -> float:
    """The error is relative to the largest of all samples."""
    return max(1.0, float(np.abs(case.target).max()) / (float(np.abs(target).max()) or 1.0))


def _settings(
    case: Case, step: Step, cause: str, cost: float, settings: dict[str, Any], what: str = ""
) -> Iterator[Edit]:
    if _glance(case, step, step.set(**settings)):
        yield from try_settings(case, step, cause, cost, settings, what)


def _weights(
    case: Case, step: Step, cause: str, cost: float, what: str, changed: dict[str, Array | None]
) -> Iterator[Edit]:
    if _glance(case, step, step.weigh(**changed)):
        yield from try_weights(case, step, cause, cost, what, changed)


@suggests(*_LAYERS, *_CELLS)
def gates(case: Case, step: Step) -> Iterator[Edit]:
    """The gates in another order, with other functions, and where the reset gate acts."""
    kind = step.kind.removesuffix("_cell")
    now = str(step.settings.get("gates", GATES[kind]))
    if kind == "gru":
        after = bool(step.settings.get("reset_after", True))
        words = {True: "after the product", False: "before the product"}
        what = sides(case, f"where the reset gate of {step.name} acts", words[after], words[not after])
        yield from _settings(case, step, "gru-reset-after", 2.0, {"reset_after": not after}, what)
    for key, options in (("recurrent_activation", _GATING), ("activation", _INNER)):
        if kind == "rnn" and key == "recurrent_activation":
            continue
        for name in options:
            if name != (step.settings.get(key) or ("sigmoid" if key != "activation" else "tanh")):
                yield from _settings(case, step, "rnn-activation", 2.0, {key: name})
    for order in itertools.permutations(now):
        word = "".join(order)
        if len(word) > 1 and word != now:
            what = sides(case, f"the order of the gates of {step.name}", now, word)
            yield from _settings(case, step, f"{kind}-gate-order", 2.5, {"gates": word}, what)
    if kind == "lstm":
        what = f"the {case.doer} adds one to the forget gate of {step.name} as it runs (unit_forget_bias)"
        yield from _settings(case, step, "rnn-bias", 2.5, {"forget_bias": 1.0}, what)
        inner = str(step.settings.get("output_activation") or step.settings.get("activation") or "tanh")
        if inner != "linear":
            what = sides(case, f"what the cell state of {step.name} goes through", inner, "linear")
            yield from _settings(case, step, "rnn-activation", 2.0, {"output_activation": "linear"}, what)


@suggests(*_LAYERS, *_CELLS)
def biases(case: Case, step: Step) -> Iterator[Edit]:
    """Biases that are left out or count twice."""
    own = {role: w for role, w in step.weights.items() if "bias" in role}
    plain = {role: w for role, w in own.items() if role.startswith("bias")}
    back = {role: w for role, w in own.items() if role.startswith("recurrent_bias")}
    who = case.doer
    for some, words in ((own, "biases"), (back, "recurrent bias"), (plain, "bias of the input")):
        if not some or (some is not own and len(some) == len(own)):
            continue
        dropped: dict[str, Array | None] = dict.fromkeys(some)
        yield from _weights(case, step, "rnn-bias", 2.5, f"the {who} leaves out the {words} of {step.name}", dropped)
        twice: dict[str, Array | None] = {role: 2 * w for role, w in some.items()}
        yield from _weights(case, step, "rnn-bias", 2.5, f"the {who} counts the {words} of {step.name} twice", twice)
    if plain and back:
        both = list(zip(plain, back, strict=False))
        turned: dict[str, Array | None] = {**{a: own[b] for a, b in both}, **{b: own[a] for a, b in both}}
        what = f"the {who} exchanges the two biases of {step.name}"
        yield from _weights(case, step, "rnn-bias", 3.0, what, turned)
        more: dict[str, Array | None] = {a: own[a] + own[b] for a, b in both}
        what = f"the {who} adds the recurrent bias of {step.name} a second time"
        yield from _weights(case, step, "rnn-bias", 3.0, what, more)


@suggests(*_LAYERS)
def running(case: Case, step: Step) -> Iterator[Edit]:
    """Which way, which step, how two ways are joined, and which axis is time."""
    own = step.settings
    time, who = int(own.get("time", 1)), case.doer
    x = inputs(case, step)[0]
    if own.get("mask") is not None:
        what = f"the {who} counts padding as steps in {step.name}, which the {case.other} masks"
        fix = "pack the padded sequences, or take each one's own last step" if not case.turned_round else ""
        counted = step.set(mask=None, hidden=None)
        yield from try_step(case, step, counted, "rnn-last-step", what, 2.0, fix=fix, same=("attention-mask",))
    if x.ndim > _PLAIN:
        yield from _convolving(case, step)
    if x.ndim >= _PLAIN:
        chain = ahead(step, made("flip", axes=(time,)))
        what = f"the {who} reads the sequence of {step.name} backwards"
        yield from try_chain(case, step, chain, "rnn-direction", what, 2.5)
        for word, part in (("last", (None, -1, 1)), ("first", (1, None, 1))):
            index = tuple(part if axis == time else (None, None, None) for axis in range(x.ndim))
            what = f"the {who} leaves the {word} step out of the sequence of {step.name}"
            yield from try_chain(case, step, ahead(step, made("slice", index=index)), "rnn-last-step", what, 2.5)
    if x.ndim == _PLAIN:
        what = f"the {who} takes axis {1 - time} of what {step.name} reads for time"
        yield from _settings(case, step, "axis-permutation", 2.5, {"time": 1 - time}, what)
    if own.get("bidirectional"):
        for mode in ("concat", "sum", "ave", "mul"):
            if mode != own.get("merge_mode", "concat"):
                yield from _settings(case, step, "rnn-direction", 2.5, {"merge_mode": mode})
        turned = _exchanged(step)
        what = f"the forward and backward weights of {step.name} change places in the {who}"
        yield from _weights(case, step, "rnn-direction", 3.0, what, turned)
        if own.get("return_sequences", True) and own.get("layers", 1) == 1:
            what = f"the {who} gives the steps of the backward half of {step.name} in the order in which it ran"
            last = [other for other in case.program.steps if step.name in other.inputs and picks_one(other)]
            cause = "rnn-last-step" if last else "rnn-direction"
            if last:
                what = f"the {who} takes the last state of both directions where {last[0].name} takes one step of both"
            yield from _settings(case, step, cause, 2.0, {"realign": not own.get("realign", True)}, what)
    else:
        back = bool(own.get("reverse"))
        words = {False: "forwards", True: "backwards"}
        for realign in (True, False):
            what = f"the {who} runs {step.name} {words[not back]}"
            yield from _settings(case, step, "rnn-direction", 2.0, {"reverse": not back, "realign": realign}, what)
        if back:
            now = bool(own.get("realign"))
            what = f"the {who} gives the steps of the backward {step.name} in the {'order it ran' if now else 'order of the input'}"  # noqa: E501
            yield from _settings(case, step, "rnn-direction", 2.0, {"realign": not now}, what)
    if own.get("result", "output") in ("h", "c"):
        other = "c" if own["result"] == "h" else "h"
        if step.kind == "lstm":
            yield from _settings(case, step, "rnn-last-step", 2.5, {"result": other}, f"the {who} hands on the {'cell' if other == 'c' else 'output'} state of {step.name}")  # noqa: E501  # fmt: skip
    yield from _steps(case, step, time)


_PLAIN = 3
"""Axes of a batch of sequences."""
_EDGES = ("replicate", "reflect", "symmetric", "circular")


def _convolving(case: Case, step: Step) -> Iterator[Edit]:
    """Kernels that lie otherwise, and edges, of a layer whose products are convolutions."""
    for role in ("kernel", "recurrent_kernel"):
        own = step.weights[role]
        space = range(own.ndim - _PLAIN)
        if len(space) > 1 and own.shape[0] == own.shape[1]:
            what = f"the {role} of {step.name} has its spatial axes exchanged in the {case.doer}"
            yield from try_weights(case, step, "kernel-layout", 2.0, what, {role: np.swapaxes(own, 0, 1)})
        what = f"the {role} of {step.name} is flipped in the {case.doer}"
        yield from try_weights(case, step, "kernel-flip", 2.5, what, {role: np.flip(own, tuple(space))})
    for mode in _EDGES if any(map(any, step.settings["conv_padding"])) else ():
        what = sides(case, f"the edges of what {step.name} reads are", "zeros", mode)
        yield from try_settings(case, step, "pad-mode", 2.5, {"conv_padding_mode": mode}, what)


def _exchanged(step: Step) -> dict[str, Array | None]:
    found: dict[str, Array | None] = {}
    for role, w in step.weights.items():
        other = role.removesuffix("_reverse") if role.endswith("_reverse") else f"{role}_reverse"
        if other in step.weights:
            found[other] = w
    return found


def _steps(case: Case, step: Step, time: int) -> Iterator[Edit]:
    """The first step for the last, or another one."""
    if not is_last(case, step) or step.settings.get("return_sequences", True):
        return
    whole = replace(step.set(return_sequences=True), name=f"{step.name}~all")
    x = inputs(case, step)[0]
    if case.target.ndim != x.ndim - 1:
        return
    length = x.shape[time]
    for place in dict.fromkeys((0, length - 1, length // 2)):
        index = tuple(place if axis == time else (None, None, None) for axis in range(x.ndim))
        taken = Step(step.name, "slice", {"index": index}, {}, (whole.name,))
        values = ordered(case, "last", "first" if place == 0 else str(place))
        what = f"the {case.doer} takes step {place} of {step.name}, of {length}"
        yield from try_chain(case, step, (whole, taken), "rnn-last-step", what, 2.0, key="step", values=values)
