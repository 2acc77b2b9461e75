"""What is written out in arithmetic as the operation that it is: activations, deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tracer.causes.step import Program, Step

_NOTHING = 1e-6
"""What numbers may be off that stand for the same."""
_TWO = 2
_QUICK = 1.702
"""What a gelu's input is multiplied by where a sigmoid stands for its error function."""


def as_operations(program: Program) -> Program:
    """The program with such arithmetic as one step each."""
    return _standardised(_gated(_hardened(_taken_apart(program))))


def _taken_apart(program: Program) -> Program:
    """With a product and a sum that one function makes as two steps, a mean of two tensors as its products."""
    steps: list[Step] = []
    for step in program.steps:
        steps += _APART[step.kind](step) if step.kind in _APART else (step,)
    return Program(tuple(steps))


def _product_added(step: Step) -> tuple[Step, ...]:
    kind = "mul" if step.kind == "addcmul" else "div"
    product = Step(f"{step.name}, {kind}", kind, {}, {}, step.inputs[1:], None, step.source)
    alpha = step.settings.get("alpha", 1.0)
    given = {} if alpha == 1 else {"alpha": alpha}
    return product, Step(step.name, "add", given, {}, (step.inputs[0], product.name), step.shape, step.source)


def _between_two(step: Step) -> tuple[Step, ...]:
    """``a · (1 − w) + b · w``, as most write it."""
    first, second, *weight = step.inputs
    if not weight:
        share = float(step.settings["weight"])
        one = Step(f"{step.name}, first", "mul", {"operand": 1 - share, "side": "right"}, {}, (first,))
        other = Step(f"{step.name}, second", "mul", {"operand": share, "side": "right"}, {}, (second,))
        return one, other, Step(step.name, "add", {}, {}, (one.name, other.name), step.shape, step.source)
    rest = Step(f"{step.name}, rest", "sub", {"operand": 1.0, "side": "left"}, {}, (weight[0],))
    one = Step(f"{step.name}, first", "mul", {}, {}, (first, rest.name))
    other = Step(f"{step.name}, second", "mul", {}, {}, (second, weight[0]))
    return rest, one, other, Step(step.name, "add", {}, {}, (one.name, other.name), step.shape, step.source)


_APART = {"addcmul": _product_added, "addcdiv": _product_added, "lerp": _between_two}


def _hardened(program: Program) -> Program:
    steps = {step.name: step for step in program.steps}
    for last in program.steps:
        capped = steps.get(last.inputs[0]) if last.inputs else None
        raised = steps.get(capped.inputs[0]) if capped is not None and capped.inputs else None
        factor = multiplier(last)
        if capped is None or raised is None or factor is None or abs(factor * 6 - 1) > _NOTHING:
            continue
        least, most = capped.settings.get("min_value", 0.0), capped.settings.get("max_value")
        if capped.kind not in ("relu6", "relu", "clip", "hard_tanh") or least or most != 6:
            continue
        offset = np.asarray(raised.settings.get("operand", ()))
        if raised.kind != "add" or len(raised.inputs) != 1 or offset.size != 1 or float(offset.reshape(())) != 3:
            continue
        if any(sum(one.name in step.inputs for step in program.steps) != 1 for one in (capped, raised)):
            continue
        whole = Step(
            last.name, "hard_sigmoid", {"slope": 1 / 6, "offset": 0.5}, {}, raised.inputs, last.shape, last.source
        )
        gone = {capped.name, raised.name}
        kept = (whole if step is last else step for step in program.steps if step.name not in gone)
        program = Program(tuple(kept))
    return program


def _gated(program: Program) -> Program:
    """With values times their own sigmoid as one activation."""
    steps = {step.name: step for step in program.steps}
    for last in program.steps:
        for source, gate in (last.inputs, last.inputs[::-1]) if last.kind == "mul" and len(last.inputs) == _TWO else ():
            kind, settings = _of_gate(steps, steps.get(gate), source)
            if kind:
                whole = Step(last.name, kind, settings, {}, (source,), last.shape, last.source)
                program = without_idle(program.with_step(whole))
                break
    return program


def _of_gate(steps: Mapping[str, Step], gate: Step | None, source: str) -> tuple[str, Mapping[str, object]]:
    """The activation that a tensor times a gate is; an empty kind where it is none."""
    if gate is None or gate.kind not in ("sigmoid", "hard_sigmoid"):
        return "", {}
    if gate.inputs == (source,):
        return ("silu", {}) if gate.kind == "sigmoid" else ("hard_silu", gate.settings)
    above = steps.get(gate.inputs[0])
    factor = None if above is None or above.inputs != (source,) or gate.kind != "sigmoid" else multiplier(above)
    quick = factor is not None and abs(factor - _QUICK) < _NOTHING
    return ("gelu", {"approximate": "sigmoid"}) if quick else ("", {})


def _standardised(program: Program) -> Program:
    """With deviations as one step each, with what is added to them."""
    steps = {step.name: step for step in program.steps}
    found = {last.name: whole for last in program.steps if (whole := _deviation(steps, last)) is not None}
    return without_idle(Program(tuple(found.get(step.name, step) for step in program.steps))) if found else program


def _deviation(steps: Mapping[str, Step], last: Step) -> Step | None:
    """The root of a variance as one step, with what is added under the root or beside it."""
    added, rooted, outside, step = 0.0, False, False, last
    while step.kind not in ("std", "var"):
        number = addend(step)
        if number is not None and not added:
            added, outside = number, not rooted
        elif step.kind == "sqrt" and not rooted:
            rooted = True
        else:
            return None
        if step.inputs[0] not in steps:
            return None
        step = steps[step.inputs[0]]
    if rooted == (step.kind == "std"):
        return None
    form = {"epsilon": added, "form": "deviation" if outside else "root"}
    return replace(step.set(**form), name=last.name, kind="std", shape=last.shape, source=last.source)


def multiplier(step: Step) -> float | None:
    """What a step multiplies by; None where it does anything else."""
    operand = np.asarray(step.settings.get("operand", ()))
    if step.kind == "rescaling" and not np.any(step.settings.get("offset", 1.0)):
        operand, step = np.asarray(step.settings["scale"]), replace(step, kind="mul")
    if step.kind not in ("mul", "div") or len(step.inputs) != 1 or operand.size != 1 or not float(operand.reshape(())):
        return None
    if step.kind == "mul":
        return float(operand.reshape(()))
    return 1 / float(operand.reshape(())) if step.settings.get("side", "right") == "right" else None


def addend(step: Step) -> float | None:
    """What a step adds, if that is one number; None where it does anything else."""
    operand = np.asarray(step.settings.get("operand", ()))
    return float(operand.reshape(())) if step.kind == "add" and len(step.inputs) == 1 and operand.size == 1 else None


def without_idle(program: Program) -> Program:
    """The program without steps that nothing reads."""
    kept: list[Step] = []
    for step in reversed(program.steps):
        if step is program.last or any(step.name in other.inputs for other in kept):
            kept.insert(0, step)
    return Program(tuple(kept))
