"""What a model pair of the zoo is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

Direction = Literal["tf->pt", "pt->tf"]
Data = Callable[[tuple[int, ...]], np.ndarray]


def normal(shape: tuple[int, ...]) -> np.ndarray:
    """Seeded standard normal values, float32."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@cache
def built(build: Callable[[], Any]) -> Any:
    """The model of a builder, made once: for those who leave it as it is."""
    return build()


@dataclass(frozen=True)
class Defect:
    """A port that went wrong.

    Attributes:
        story: what the porter did.
        build: the defective model; which side it replaces is the pair's candidate.
        first: the reference node at which the first divergence must be reported.
        truth: what the defect changes in the pairing, by reference node; None where the twin is gone.
    """

    story: str
    build: Callable[[], Any]
    first: str
    truth: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """One network in Keras and in PyTorch, and which node of one is which of the other.

    Attributes:
        keras, torch: build the models, weights included; each call builds anew and always the same.
        input_shape: in Keras's layout, the batch first.
        truth: Keras layer path (``encoder/conv1``) to PyTorch node: a module's name, or a function's named by the
            scope it runs in (``relu_1``, ``layer1.0.add``). Layers without a twin or without effect (dropout,
            a permutation only one side has) are left out.
        fused: Keras layers with ``activation=``: the node before the activation and the node after it.
        direction: which side is the reference (the first) and which the candidate.
        defects: by the cause's identifier in the catalogue.
        data: values for ``input_shape``.
        notes: what a reader of a comparison should know.
    """

    name: str
    keras: Callable[[], Any]
    torch: Callable[[], Any]
    input_shape: tuple[int, ...]
    truth: Mapping[str, str]
    fused: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    direction: Direction = "tf->pt"
    defects: Mapping[str, Defect] = field(default_factory=dict)
    data: Data = normal
    notes: str = ""

    @property
    def reference(self) -> Literal["keras", "torch"]:
        return "keras" if self.direction == "tf->pt" else "torch"

    @property
    def nodes(self) -> dict[str, str]:
        """The whole truth by node names, fused activations split: ``fc1/preactivation`` and ``fc1``."""
        split = {f"{layer}/preactivation": before for layer, (before, _) in self.fused.items()}
        return dict(self.truth) | split | {layer: after for layer, (_, after) in self.fused.items()}

    def inputs(self) -> np.ndarray:
        """The input in Keras's layout."""
        return self.data(self.input_shape)

    def defective(self, cause: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """The builders (Keras, PyTorch) with ``cause`` built into the candidate."""
        build = self.defects[cause].build
        return (self.keras, build) if self.reference == "keras" else (build, self.torch)
