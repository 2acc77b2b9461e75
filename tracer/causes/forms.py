"""Layers in the form that the other side has: what is one function under two names or in one step and two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tracer.causes.step import Program, Step


def by_channel(program: Program, other: Program) -> Program | None:
    """The program with group norms of one channel each as instance norms, where ``other`` has these and no group norm;
    None where there are none."""
    norms = {step.kind for step in other.steps}
    if "instancenorm" not in norms or "groupnorm" in norms:
        return None
    steps = tuple(map(_by_channel, program.steps))
    return Program(steps) if steps != program.steps else None


def _by_channel(step: Step) -> Step:
    settings = step.settings
    if step.kind != "groupnorm" or step.shape is None or settings.get("ddof"):
        return step
    channels = int(settings["channels"])
    if step.shape[channels] != settings["groups"]:
        return step
    own = {"epsilon": settings["epsilon"], "channels": channels, "batch": 0}
    return replace(step, kind="instancenorm", settings=own)


def in_two(program: Program, other: Program) -> Program | None:
    """The program with an activation that a layer ends with as a step of its own, where ``other`` has the same one
    behind a layer that ends with none; None where there is none."""
    steps = {step.name: step for step in other.steps}
    behind = {
        (steps[name].kind, step.kind)
        for step in other.steps
        for name in step.inputs
        if name in steps and not steps[name].settings.get("activation")
    }
    found: list[Step] = []
    last: dict[str, str] = {}
    for step in program.steps:
        kind = step.settings.get("activation")
        step = replace(step, inputs=tuple(last.get(name, name) for name in step.inputs))
        if not isinstance(kind, str) or (step.kind, kind) not in behind:
            found.append(step)
            continue
        settings = step.settings.get("activation_settings")
        act = Step(f"{step.name}, {kind}", kind, settings if isinstance(settings, Mapping) else {}, {}, (step.name,))
        left = {key: value for key, value in step.settings.items() if not key.startswith("activation")}
        found += [replace(step, settings=left), replace(act, shape=step.shape, source=step.source)]
        last[step.name] = act.name
    return Program(tuple(found)) if last else None


def sized(program: Program, other: Program) -> Program | None:
    """The program with the size of a transform's complex numbers as a part of them, where ``other`` has a transform of
    which it takes a part; None where there is none."""
    if not any(step.kind == "fft" and step.settings.get("part") for step in other.steps):
        return None
    steps = {step.name: step for step in program.steps}
    for step in program.steps:
        above = steps.get(step.inputs[0]) if step.kind == "abs" and len(step.inputs) == 1 else None
        if above is None or above.kind != "fft" or above.settings.get("part"):
            continue
        if sum(above.name in one.inputs for one in program.steps) == 1:
            whole = replace(above.set(part="abs"), name=step.name, shape=step.shape, source=step.source)
            kept = (whole if one is step else one for one in program.steps if one is not above)
            return Program(tuple(kept))
    return None
