"""What is watched for in every step that comes, and said once it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tracer.names import display
from tracer.store import Step

_BOUNDED = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "hard_sigmoid": (0.0, 1.0)}
"""Activations that saturate, with the values that they come close to."""


class Rules(BaseModel):
    """The table ``[rules]`` of ``tracer.toml``: what is worth an event. A rule that is ``false`` or 0 is off.

    Attributes:
        nonfinite: NaN or infinities in an activation or gradient that had none at the step before.
        exploding, vanishing: the root mean square of all gradients of weights above or below this.
        dead: share of an activation function's elements that are exactly 0, in every one of ``patience`` steps.
        saturated: share of a sigmoid's or tanh's elements within 1 % of its bounds.
        divergence: a pair that agreed at the recording's steps so far and parts now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    nonfinite: bool = True
    exploding: float = Field(default=1e3, ge=0)
    vanishing: float = Field(default=1e-8, ge=0)
    dead: float = Field(default=0.999, ge=0, le=1)
    saturated: float = Field(default=0.95, ge=0, le=1)
    divergence: bool = True
    patience: int = Field(default=3, ge=1)


@dataclass(frozen=True)
class Told:
    """Something that a rule found: its name, the layer it begins at, and in words."""

    rule: str
    node: str
    what: str


class Watch:
    """Applies rules to one recording's steps in turn; says a thing when it begins, not at every step it lasts."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lasting: dict[tuple[str, str], int] = {}

    def of(self, step: Step) -> list[Told]:
        """What begins at this step, the first layer first. Raises TraceError where it cannot be read."""
        found = list(self._found(step))
        now = {(told.rule, told.node) for told in found}
        self._lasting = {key: count for key, count in self._lasting.items() if key in now}
        begun = []
        for told in found:
            key = told.rule, told.node
            self._lasting[key] = self._lasting.get(key, 0) + 1
            if self._lasting[key] == (self._rules.patience if told.rule in ("dead", "saturated") else 1):
                begun.append(told)
        return begun

    def _found(self, step: Step) -> Iterator[Told]:
        rules, inherited = self._rules, False
        known = step.summaries
        for layer in step.structure:
            stored, said = step.activations.get(layer.name), known.get(layer.name)
            if stored is None and said is None:
                continue
            values = None if stored is None else step.read_stored(stored, verify=False)
            size = values.size if values is not None else int((said or {}).get("size", 0))
            nan, inf = nonfinite(values) if values is not None else _noted(said)
            if nan or inf:
                if rules.nonfinite and not inherited:  # what comes behind the first has it from there
                    yield Told("nonfinite", layer.name, _counted(nan, inf, size, layer.name))
                inherited = True
                continue
            if rules.dead and layer.kind in ("relu", "relu6") and size > 1:
                zeros = size - np.count_nonzero(values) if values is not None else (said or {}).get("zeros", 0)
                if zeros / size >= rules.dead:
                    yield Told("dead", layer.name, f"{zeros / size:.1%} of {display(layer.name)} is 0")
            if rules.saturated and layer.kind in _BOUNDED and values is not None and size > 1:
                share = _saturated(values, layer.kind)
                if share >= rules.saturated:
                    what = f"{share:.1%} of {display(layer.name)} is within 1 % of its bounds"
                    yield Told("saturated", layer.name, what)
        yield from self._gradients(step)

    def _gradients(self, step: Step) -> Iterator[Told]:
        rules = self._rules
        squares, count = 0.0, 0
        for (owner, name), stored in step.weight_gradients.items():
            values, label = step.read_stored(stored, verify=False), f"{owner}:{name}"
            nan, inf = nonfinite(values)
            if nan or inf:
                if rules.nonfinite:
                    what = f"gradient: {_counted(nan, inf, values.size, label)}"
                    yield Told("nonfinite", label, what)
                return
            flat = np.abs(values).reshape(-1).astype(np.float64)
            squares += float(np.dot(flat, flat))
            count += flat.size
        if not count:
            return
        rms = math.sqrt(squares / count)
        if rules.exploding and rms > rules.exploding:
            yield Told("exploding", "", f"gradients have a root mean square of {rms:.2g}")
        elif rules.vanishing and rms < rules.vanishing:
            yield Told("vanishing", "", f"gradients have a root mean square of {rms:.2g}")


def nonfinite(values: NDArray[Any]) -> tuple[int, int]:
    """How many NaN and infinities there are, at the memory's own speed where there are none."""
    if values.dtype.kind in "biu" or not values.size:
        return 0, 0
    if values.dtype.kind == "f" and np.isfinite(values.min()) and np.isfinite(values.max()):  # NaN goes through both
        return 0, 0
    return int(np.isnan(values).sum()), int(np.isinf(values).sum())


def _noted(said: Mapping[str, float | int] | None) -> tuple[int, int]:
    return (0, 0) if said is None else (int(said.get("nan", 0)), int(said.get("inf", 0)))


def _counted(nan: float, inf: float, size: float, where: str) -> str:
    parts = [f"{int(count)} {word}" for count, word in ((nan, "NaN"), (inf, "Inf")) if count]
    return f"{' and '.join(parts)} of {int(size)} elements of {display(where)}"


def _saturated(values: NDArray[Any], kind: str) -> float:
    """The share that is close to the bounds of an activation."""
    low, high = _BOUNDED[kind]
    near = 0.01 * (high - low) / 2
    return float(np.count_nonzero((values <= low + near) | (values >= high - near)) / values.size)


__all__ = ["Rules", "Told", "Watch"]
