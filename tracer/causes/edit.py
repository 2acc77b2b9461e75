"""Edits: what may be different, as a change of a program that can be tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tracer.causes.case import Trial
from tracer.causes.step import Array, Program, Step

Change = Callable[[Trial], Trial]
"""Raises Unknown or ValueError where it cannot be made."""


@dataclass(frozen=True, eq=False)
class Edit:
    """One difference.

    Attributes:
        cause: its id in the catalogue.
        what: the difference as a sentence, with which side does what.
        change: makes our program do it.
        step: the node of ours that it is about.
        twin: the node of theirs, where one is known.
        key: the setting or weight that differs, where it is one.
        values: of that, the reference's and the candidate's, JSON values.
        fix: what to change on which side, where the family says it better than :mod:`tracer.causes.fixes`.
        cost: a larger number is tried later and believed less.
        seen: whether the recording states the difference (a setting, a weight, a node); else it is a hypothesis.
        same: further names of the same function: causes that no data of this kind can tell apart.
        family: the module that suggested it; empty for what the recordings state.
    """

    cause: str
    what: str
    change: Change
    step: str = ""
    twin: str = ""
    key: str = ""
    values: tuple[Any, Any] = (None, None)
    fix: str = ""
    cost: float = 1.0
    seen: bool = False
    same: tuple[str, ...] = ()
    family: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def setting(name: str, **settings: Any) -> Change:
    """Give a step other settings."""
    return of_step(name, lambda step: step.set(**settings))


def weights(name: str, **values: Array | None) -> Change:
    """Give a step other weights; None takes one away."""
    return of_step(name, lambda step: step.weigh(**values))


def of_step(name: str, change: Callable[[Step], Step]) -> Change:
    """Replace a step."""

    def apply(trial: Trial) -> Trial:
        program = trial.program
        if all(step.name != name for step in program.steps):
            raise ValueError(f"{name} is gone")
        return replace(trial, program=program.with_step(change(program.step(name))))

    return apply


def of_program(change: Callable[[Program], Program]) -> Change:
    """Change the program as a whole."""
    return lambda trial: replace(trial, program=change(trial.program))


def feed(**tensors: Array) -> Change:
    """Give the program other inputs."""
    return lambda trial: replace(trial, tensors={**trial.tensors, **tensors})


def both(*changes: Change) -> Change:
    """One change after the other."""

    def apply(trial: Trial) -> Trial:
        for change in changes:
            trial = change(trial)
        return trial

    return apply
