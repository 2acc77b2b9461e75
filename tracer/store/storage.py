"""What a recording keeps of the tensors that a model gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Joined:
    """How the tensors that a node gives in several batches become one.

    Attributes:
        axis: the axis that grows with the batch; None where the tensor does not depend on it: the first is kept.
        shape: of the whole.
    """

    axis: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Storage:
    """What is kept of the tensors.

    Attributes:
        only: names of the stored nodes that are wanted; None for all of them.
        statistics_only: keep the numbers of :mod:`tracer.store.summary` instead of the values.
        precision: a floating type; tensors of wider floating types are rounded to it before they are written.
        batches: how many runs of the model make up the recording.
        joined: how their tensors are put together, by node.
    """

    only: frozenset[str] | None = None
    statistics_only: bool = False
    precision: str | None = None
    batches: int = 1
    joined: Mapping[str, Joined] = field(default_factory=dict)
