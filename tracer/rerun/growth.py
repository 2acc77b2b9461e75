"""How much a small perturbation at each layer grows to the outputs: what tells whether a small local error matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.alignment import Pair, align
from tracer.errors import TraceError
from tracer.names import display
from tracer.rerun.cuts import cuts
from tracer.rerun.defects import Run, by_index, options
from tracer.rerun.graft import Joint, Output
from tracer.store import Recording

if TYPE_CHECKING:
    from tracer.alignment.mapping import Mapping as MappingFile

SCHEMA = "tracer-growth/1"
MOST = 32
"""Pairs that are perturbed, each in a few runs of its own; of more those that lie evenly over the model."""


@dataclass(frozen=True)
class Growth:
    """What ``tracer graft --grows`` says.

    Attributes:
        pairs: those that were perturbed, in the reference's order.
        grows: relative change of the outputs per relative change of each pair's tensor; NaN for one that holds no
            numbers, or none but zero.
        left_out: how many other pairs there are.
    """

    reference: Recording
    candidate: Recording
    pairs: tuple[Pair, ...]
    grows: tuple[float, ...]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """The documented object of ``tracer graft --grows --json``."""
        known = (value if math.isfinite(value) else None for value in self.grows)
        rows = [
            {"aligned": pair.aligned, "candidate": list(pair.candidate), "grows": value}
            for pair, value in zip(self.pairs, known, strict=True)
        ]
        sides = {"reference": self.reference.name, "candidate": self.candidate.name}
        return {"schema": SCHEMA, **sides, "pairs": rows, "left_out": self.left_out}


def growth(reference: Recording, candidate: Recording, run: Run, *, mapping: MappingFile | None = None) -> Growth:
    """Measure how much a small perturbation grows, at up to :data:`MOST` pairs. Raises what ``run`` raises."""
    pairs = align(reference, candidate, mapping).pairs
    found = amplification(pairs, reference, candidate, run)
    own = sum("output" not in pair.evidence for pair in pairs)
    return Growth(
        reference, candidate, tuple(pairs[index] for index in found), tuple(found.values()), own - len(found)
    )  # fmt: skip


def amplification(
    pairs: Sequence[Pair],
    reference: Recording,
    candidate: Recording,
    run: Run,
    indices: Sequence[int] | None = None,
    most: int = MOST,
) -> Mapping[int, float]:
    """How much a small perturbation of a pair's tensor grows to the candidate's outputs, by the pair's index.

    Relative change of the output (of several the one that changes most) per relative change of the tensor, in seeded
    random directions (:func:`tracer.rerun.graft.amplify`, which takes four runs of the candidate for each). Of more
    than ``most`` pairs those are taken that lie evenly over the model.

    Raises TraceError where no output was recorded, and what ``run`` raises.
    """
    made, _ = cuts(pairs, reference, candidate)
    places = by_index(made)
    wanted = [index for index in (range(len(pairs)) if indices is None else indices) if index in places]
    if len(wanted) > most:
        steps = (round(step * (len(wanted) - 1) / max(most - 1, 1)) for step in range(most))
        wanted = [wanted[step] for step in steps]
    nodes = {places[index].candidate: index for index in wanted}
    joints = [Joint(node, places[index].heal, places[index].ways[:1]) for node, index in nodes.items()]
    outputs = [
        Output(Joint(name, "", ()), name, 0.0, 0.0, 0.0)
        for name in dict.fromkeys(map(candidate.resolve, candidate.structure.outputs))
        if candidate.stored(name) is not None
    ]
    if not outputs:
        raise TraceError(f"no output of '{display(candidate.name)}' was recorded")
    grows = run(candidate, options("amplify", reference, outputs, joints, ""))["grows"]
    by_node = dict(zip(nodes, grows, strict=True))
    return {index: by_node[places[index].candidate] for index in wanted}
