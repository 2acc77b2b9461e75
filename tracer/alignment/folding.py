"""What two models' tensors say of normalisations that only one of them has: folded into weights, or forgotten."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from tracer.alignment.composites import SAME
from tracer.alignment.pieces import Side

Agreement = Callable[[int, int, int], float | None]
"""Of a side (0: the reference), one of its nodes and one of the other's; None where it is not known."""


class Folding:
    """Looked at before any group is made; ``known`` may be set once a group shows it."""

    def __init__(self, sides: tuple[Side, Side], agreement: Agreement) -> None:
        self._sides, self._agreement = sides, agreement

    @cached_property
    def known(self) -> bool:
        """Whether some normalisation is folded for certain: its tensor is equal to that of the other side's layer."""
        return any(
            self._folded(which, index)
            for which, side in enumerate(self._sides)
            for index, node in enumerate(side.nodes)
            if node.kind == "batchnorm"
        )

    @cached_property
    def forgotten(self) -> bool:
        """Whether some layer before a normalisation has the very tensor of its twin, where the other model has none."""
        return any(
            (self._agreement(which, layer, side.twin[layer]) or 0) >= SAME
            for which, side in enumerate(self._sides)
            if not self._sides[1 - which].kinds["batchnorm"]
            for index, node in enumerate(side.nodes)
            if node.kind == "batchnorm"
            for layer in side.parents[index]
            if layer in side.twin
        )

    def _folded(self, which: int, norm: int) -> bool:
        side, other = self._sides[which], self._sides[1 - which]
        near = [side.twin.get(i) for i in (norm, *side.parents[norm])]
        return any(
            j is not None and other.nodes[j].kind != "batchnorm" and (self._agreement(which, norm, j) or 0) >= SAME
            for j in near
        )
