"""What is watched for in every step that comes, and said once it begins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from tracer.names import display
from tracer.store import Step
from tracer.store.summary import summarize

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
        rules = self._rules
        sizes: dict[str, Mapping[str, float | int]] = dict(step.summaries)
        for node, stored in step.activations.items():
            sizes[node] = summarize(step.read_stored(stored, verify=False))
        broken = False
        for layer in step.structure:
            said = sizes.get(layer.name)
            if said is None or not said.get("size"):
                continue
            bad = said.get("nan", 0), said.get("inf", 0)
            if any(bad):
                if rules.nonfinite and not broken:  # what comes behind the first inherits it
                    yield Told("nonfinite", layer.name, _counted(*bad, said["size"], layer.name))
                broken = True
                continue
            if rules.dead and layer.kind in ("relu", "relu6") and said["size"] > 1:
                share = said.get("zeros", 0) / said["size"]
                if share >= rules.dead:
                    yield Told("dead", layer.name, f"{share:.1%} of {display(layer.name)} is 0")
            if rules.saturated and layer.kind in _BOUNDED:
                near = _saturated(step, layer.name, layer.kind)
                if near is not None and near >= rules.saturated:
                    yield Told(
                        "saturated", layer.name, f"{share:.1%} of {display(layer.name)} is within 1 % of its bounds"
                    )
        yield from self._gradients(step)

    def _gradients(self, step: Step) -> Iterator[Told]:
        rules = self._rules
        squares, count = 0.0, 0
        for (owner, name), stored in step.weight_gradients.items():
            said = summarize(step.read_stored(stored, verify=False))
            label = f"{owner}:{name}"
            if said.get("nan") or said.get("inf"):
                if rules.nonfinite:
                    yield Told(
                        "nonfinite", label, "gradient: " + _counted(said["nan"], said["inf"], said["size"], label)
                    )
                return
            squares += float(said.get("rms", 0.0)) ** 2 * said["size"]
            count += int(said["size"])
        if not count:
            return
        rms = math.sqrt(squares / count)
        if rules.exploding and rms > rules.exploding:
            yield Told("exploding", "", f"gradients have a root mean square of {rms:.2g}")
        elif rules.vanishing and rms < rules.vanishing:
            yield Told("vanishing", "", f"gradients have a root mean square of {rms:.2g}")


def _counted(nan: float, inf: float, size: float, where: str) -> str:
    parts = [f"{int(count)} {word}" for count, word in ((nan, "NaN"), (inf, "Inf")) if count]
    return f"{' and '.join(parts)} of {int(size)} elements of {display(where)}"


def _saturated(step: Step, node: str, kind: str) -> float | None:
    import numpy as np

    if step.stored(node) is None:
        return None
    values = step.read(node, verify=False)
    if values.size < 2 or values.dtype.kind != "f":
        return None
    low, high = _BOUNDED[kind]
    near = 0.01 * (high - low) / 2
    return float(np.count_nonzero((values <= low + near) | (values >= high - near)) / values.size)


__all__ = ["Rules", "Told", "Watch"]
