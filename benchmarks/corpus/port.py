"""What a pair of the alignment corpus is: one network that two people wrote, with equal weights on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Parameter = tuple[str, str]
"""Owner and name, as in ``Recording.weights``."""


@dataclass(frozen=True)
class Built:
    """Two live models in evaluation mode whose outputs agree.

    Attributes:
        reference, candidate: the models, weights transferred.
        inputs: what ``tracer.record(reference, inputs)`` takes; the batch has at least two samples and a length unlike
            the other dimensions.
        candidate_inputs: the same for the candidate; None where tracer moves the reference's own.
        parameters: which parameter of the candidate each of the reference's was copied to, by those who wrote the
            conversion; those without a twin are left out.
        record: further arguments of ``tracer.record`` for each side.
    """

    reference: Any
    candidate: Any
    inputs: Any
    candidate_inputs: Any = None
    parameters: Mapping[Parameter, Parameter] = field(default_factory=dict)
    record: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default_factory=lambda: ({}, {}))


@dataclass(frozen=True)
class Port:
    """A pair of the corpus.

    Attributes:
        name: ``transformers/bert``.
        build: builds both models; always the same ones.
        source: whose code both sides are, and whose conversion of the weights is the truth.
        held_out: whether the pair is kept aside: never looked at while the engine is tuned, reported separately.
    """

    name: str
    build: Callable[[], Built]
    source: str
    held_out: bool = False
