"""What two recordings of many steps have come to: errors by layer and step, and events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracer.errors import TracerError, said
from tracer.live import judging
from tracer.selection import common
from tracer.store import Recording


@dataclass(frozen=True)
class LayerSteps:
    """A pair's relative L2 error at every compared step; None where it was not compared, infinite for NaN."""

    name: str
    errors: tuple[float | None, ...]

    @property
    def key(self) -> str:
        return self.name

    def trend(self, last: int) -> list[float]:
        """Heights from 0 to 1 of the last steps, by the logarithm of the error between 1e-8 and 1."""
        return [_height(error) for error in self.errors[-last:]]


def _height(error: float | None) -> float:
    if not error:
        return 0.0
    if math.isinf(error):
        return 1.0
    return min(1.0, max(0.02, (math.log10(error) + 8) / 8))


@dataclass(frozen=True)
class Happened:
    """An event: when (seconds since 1970), in which recording and step, the rule's name, and in words."""

    time: float
    where: str
    rule: str
    what: str


@dataclass(frozen=True)
class Overview:
    """The whole at one moment.

    Attributes:
        steps: the compared ones, in order; ``verdicts`` and ``firsts`` (aligned names, empty where none parts) theirs.
        layers: in the reference's order.
        both: the steps that both recordings have, compared or not.
        events: of both recordings, the newest last.
        recorders: what a daemon says of those that are connected, by recording, where it was asked.
        error: why nothing can be read; empty otherwise.
    """

    steps: tuple[int, ...] = ()
    verdicts: tuple[str, ...] = ()
    firsts: tuple[str, ...] = ()
    layers: tuple[LayerSteps, ...] = ()
    both: tuple[int, ...] = ()
    events: tuple[Happened, ...] = ()
    recorders: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str = ""

    @property
    def parted(self) -> int | None:
        """The place of the first step that parts."""
        return next((at for at, first in enumerate(self.firsts) if first), None)


def overview(reference: Recording, candidate: Recording, more: Iterable[Mapping[str, Any]] = ()) -> Overview:
    """Read what is there; ``more`` are comparisons that could not be kept. Compares nothing, never raises; to be called
    off the screen's thread."""
    try:
        both = common(reference, candidate)
        found = {
            one["step"]: one
            for one in (*more, *judging.lines(candidate, judging.COMPARED))
            if one.get("reference") == reference.name and isinstance(one.get("step"), int)
        }
        rows = [found[step] for step in sorted(found)]
        events = [
            Happened(
                _number(event.get("time")), f"{side.name}@{event.get('step', '?')}", str(event.get("rule", "?")),
                str(event.get("what", "")),
            )
            for side in (reference, candidate)
            for event in judging.lines(side, judging.EVENTS)
        ]  # fmt: skip
    except (TracerError, OSError, ValueError) as error:
        return Overview(error=said(error))
    return Overview(
        tuple(row["step"] for row in rows),
        tuple(str(row.get("verdict") or row.get("error") or "?") for row in rows),
        tuple(str(row.get("first") or "") for row in rows),
        tuple(_layers(rows, [node.name for node in reference.structure])),
        tuple(both),
        tuple(sorted(events, key=lambda event: event.time)),
    )


def _layers(rows: Sequence[Mapping[str, Any]], order: Sequence[str]) -> list[LayerSteps]:
    errors: list[Mapping[str, Any]] = [pairs if isinstance(pairs := row.get("pairs"), dict) else {} for row in rows]
    known = {name for one in errors if one for name in one}
    places = {name: at for at, name in enumerate(order)}
    return [
        LayerSteps(name, tuple(_error(one, name) for one in errors))
        for name in sorted(known, key=lambda name: places.get(name, len(places)))
    ]


def _error(pairs: Mapping[str, Any] | None, name: str) -> float | None:
    if not pairs or name not in pairs:
        return None
    value = pairs[name]
    return math.inf if value is None else _number(value)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
