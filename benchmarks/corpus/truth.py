"""Which nodes of two recordings with equal weights hold the same tensor: the tensor map's truth, from values alone.

Two nodes are of one class when their values, sorted, are the same: this knows nothing of names, kinds, axes or graphs,
so it cannot favour an engine that uses those. Nodes whose values say nothing (constants, whole numbers, fewer than
eight elements) have no class and are not scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.corpus.port import Parameter
from tracer import kinds
from tracer.alignment import axes as axes_
from tracer.alignment.features import TRANSPARENT, pairable
from tracer.store import Recording

MASKED = 5e3
"""Magnitude from which a value only says that something is masked."""
SAME = 2e-4
"""Relative difference of two sorted tensors under which they are the same one."""


@dataclass(frozen=True)
class Truth:
    """Classes by node name, on both sides.

    Attributes:
        reference, candidate: class of each node that has one.
        computing: names, on either side, of the nodes that compute something: those a mapping must pair.
        parameters: the parameter map.
    """

    reference: Mapping[str, int]
    candidate: Mapping[str, int]
    computing: tuple[frozenset[str], frozenset[str]]
    parameters: Mapping[Parameter, Parameter]

    @classmethod
    def of(cls, reference: Recording, candidate: Recording, parameters: Mapping[Parameter, Parameter]) -> Self:
        """From two recordings of models with equal weights on the same input."""
        known: dict[int, list[tuple[int, np.ndarray]]] = {}
        classes: list[dict[str, int]] = [{}, {}]
        computing: list[frozenset[str]] = []
        count = 0
        for side, recording in enumerate((reference, candidate)):
            nodes = [node for node in recording.structure if pairable(node)]
            for node in nodes:
                values = _sorted(recording, node.name)
                if values is None:
                    continue
                near = known.setdefault(values.size, [])
                found = next((label for label, other in near if _same(values, other)), None)
                if found is None:
                    found = count
                    count += 1
                    near.append((found, values))
                classes[side][node.name] = found
            computing.append(
                frozenset(
                    node.name
                    for node in nodes
                    if node.alias_of is None
                    and node.kind not in TRANSPARENT
                    and node.kind not in kinds.LAYOUT_ONLY - {"input"}
                )
            )
        return cls(classes[0], classes[1], (computing[0], computing[1]), parameters)

    def save(self, path: Path) -> None:
        path.write_text(
            json.dumps(
                {
                    "reference": self.reference,
                    "candidate": self.candidate,
                    "computing": [sorted(names) for names in self.computing],
                    "parameters": [[list(ours), list(theirs)] for ours, theirs in self.parameters.items()],
                }
            )
        )

    @classmethod
    def load(cls, path: Path) -> Self:
        raw: dict[str, Any] = json.loads(path.read_text())
        ours, theirs = (frozenset(names) for names in raw["computing"])
        parameters = {(a, b): (c, d) for (a, b), (c, d) in raw["parameters"]}
        return cls(raw["reference"], raw["candidate"], (ours, theirs), parameters)


def _sorted(recording: Recording, node: str) -> np.ndarray | None:
    if recording.stored(node) is None:
        return None
    values = recording.read(node, verify=False)
    if values.dtype.kind in "iub" or values.size < 8:
        return None
    # Masks are added as -1e4, -1e9, as the smallest float32, or as -inf: all say the same, and drown the rest.
    wide = values.astype(np.float64)
    flat = np.sort(np.where(np.abs(wide) >= MASKED, 0, wide), axis=None)
    return flat if np.isfinite(flat).all() and flat[0] != flat[-1] else None


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) <= SAME * scale


def right_axes(reference: Recording, equal: Recording, ours: str, theirs: str) -> list[tuple[int | None, ...]]:
    """All axes under which a right pair's tensors are the same; none where no order of the axes makes them so."""
    a, b = reference.read(ours, verify=False), equal.read(theirs, verify=False)
    found = []
    scale = float(np.linalg.norm(a.astype(np.float64)))
    for axes in axes_.possible(a.shape, b.shape):
        error = float(np.linalg.norm(a.astype(np.float64) - axes_.apply(b, axes).astype(np.float64)))
        if error <= 1e-2 * scale:
            found.append(axes)
    return found
