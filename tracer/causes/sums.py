"""Sums and joins of several tensors: written in turn or in one, and terms that one side leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tracer.causes.step import Program, Step
from tracer.causes.written import without_idle
from tracer.graph import Structure

SUMS = frozenset({"add", "average"})
_TWO = 2
_NEXT = 3
"""Operations behind a node, among which sums are looked for."""


def in_one(program: Program, other: Program) -> Program | None:
    """The program with sums of sums as one of all the terms, where ``other`` sums more than two in one step; None where
    there are none."""
    if not any(step.kind == "add" and len(step.inputs) > _TWO for step in other.steps):
        return _joined_once(program, other)
    steps = {step.name: step for step in program.steps}
    read = Counter(name for step in program.steps for name in step.inputs)
    changed = False
    for step in program.steps:
        terms: list[str] = []
        for name in step.inputs if _plain(step) else ():
            inner = steps.get(name)
            once = inner is not None and read[name] == 1 and inner.shape == step.shape
            whole = inner is not None and once and (_plain(inner) or _of_nothing(inner))
            terms += inner.inputs if inner is not None and whole else [name]
        if terms != [*step.inputs] and _plain(step):
            steps[step.name] = replace(step, inputs=tuple(terms))
            changed = True
    return without_idle(Program(tuple(steps[step.name] for step in program.steps))) if changed else None


def _joined_once(program: Program, other: Program) -> Program | None:
    """The program with tensors that are joined in turn as joined at once, where ``other`` joins more in one step."""
    most = max((len(step.inputs) for step in other.steps if step.kind == "concat"), default=0)
    steps = {step.name: step for step in program.steps}
    read = Counter(name for step in program.steps for name in step.inputs)
    changed = False
    for step in program.steps:
        if step.kind != "concat" or "order" in step.settings or len(step.inputs) >= most:
            continue
        parts: list[str] = []
        for name in step.inputs:
            inner = steps.get(name)
            whole = inner is not None and inner.kind == "concat" and read[name] == 1 and inner.settings == step.settings
            parts += inner.inputs if inner is not None and whole else [name]
        if len(step.inputs) < len(parts) <= most:
            steps[step.name], changed = replace(step, inputs=tuple(parts)), True
    return without_idle(Program(tuple(steps[step.name] for step in program.steps))) if changed else None


def _plain(step: Step) -> bool:
    """Whether a step adds recorded tensors, and no more."""
    return step.kind == "add" and len(step.inputs) > 1 and not step.weights and not set(step.settings) - {"alpha"} and (
        step.settings.get("alpha", 1) == 1
    )  # fmt: skip


def _of_nothing(step: Step) -> bool:
    """Whether a step adds zero, as Python's ``sum`` does first."""
    operand = np.asarray(step.settings.get("operand", 1.0))
    return step.kind == "add" and len(step.inputs) == 1 and operand.size == 1 and not operand.any()


def terms_apart(mine: Sequence[str], its: Sequence[str]) -> tuple[list[str], list[str]]:
    """The terms that only the one has, and those that only the other has; of one that is there twice the second."""
    ours, theirs = Counter(mine), Counter(its)
    return list((ours - theirs).elements()), list((theirs - ours).elements())


def in_their_order(mine: Sequence[str], its: Sequence[str]) -> tuple[str, ...] | None:
    """Our tensors in their order, where they join one other tensor in place of one of ours and the rest stands
    elsewhere; None where that is not so."""
    gone, new = [name for name in mine if name not in its], [name for name in its if name not in mine]
    if len(gone) != 1 or len(new) != 1 or len({*mine}) < len(mine) or len({*its}) < len(its):
        return None
    turned = tuple(gone[0] if name in new else name for name in its)
    return None if turned == tuple(mine) else turned


def sums(structure: Structure) -> set[str]:
    """The nodes that add several tensors."""
    return {node.name for node in structure if node.kind in SUMS and node.alias_of is None and len(node.parents) > 1}


def following(structure: Structure, name: str) -> set[str]:
    """The next few operations behind a node."""
    found, front = set[str](), {name}
    for _ in range(_NEXT):
        front = {child for one in front for child in structure.children.get(one, ())}
        found |= front
    return found
