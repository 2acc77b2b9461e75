"""Running the recorded nodes of a small model again as steps, for the tests of the operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import tracer
from tracer.causes import operations, reading
from tracer.causes.step import Array, Step, Unknown, as_double
from tracer.store import Recording


def recorded(model: Any, inputs: Any, folder: Path, name: str = "one") -> Recording:
    """A recording of a live model in a trace of its own."""
    return tracer.record(model, inputs, name=name, trace=folder / name)


def rerun(recording: Recording, name: str, step: Step | None = None) -> Array:
    """What a node's step, or another one, makes of the recorded tensors."""
    step = step or reading.read(recording, name)
    return operations.run(step, [as_double(recording.read(recording.resolve(parent))) for parent in step.inputs])


def distance(recording: Recording, name: str, step: Step | None = None) -> float:
    """How far that is from the recorded tensor, of its largest finite value; infinite where the shapes differ."""
    found, wanted = (
        np.asarray(values, np.float64) for values in (rerun(recording, name, step), as_double(recording.read(name)))
    )
    if found.shape != wanted.shape or not np.array_equal(np.isfinite(found), np.isfinite(wanted)):
        return float("inf")
    usual = np.isfinite(wanted)
    largest = np.abs(wanted[usual]).max(initial=0)
    return float(np.abs(found[usual] - wanted[usual]).max(initial=0) / (largest or 1.0))


def failing(recording: Recording, bound: float, kinds: str = "") -> list[str]:
    """The nodes, of these kinds, that are not read or not reproduced, with why."""
    wanted = set(kinds.split())
    bad = []
    for node in recording.structure.nodes:
        if node.role in ("input", "container") or node.alias_of is not None or (wanted and node.kind not in wanted):
            continue
        try:
            off = distance(recording, node.name)
        except Unknown as error:
            bad.append(f"{node.name} ({node.label}): {error}")
            continue
        if not off <= bound:
            bad.append(f"{node.name} ({node.label}): off by {off:.1e}")
    return bad
