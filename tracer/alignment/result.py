"""What an alignment says: pairs, what is left open, and what has no twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tracer.alignment.arrange import Rearrangement
from tracer.alignment.axes import Axes
from tracer.alignment.outputs import Output
from tracer.alignment.parameters import ParameterMap
from tracer.alignment.why import Reasons

NO_PARAMETERS = ParameterMap((), {}, {})


@dataclass(frozen=True)
class Pair:
    """Reference nodes and candidate nodes that compute the same thing.

    Attributes:
        reference, candidate: node names; of several the last is the one that is compared.
        axes: see :mod:`tracer.alignment.axes`; None when no axis order makes the shapes equal.
        confidence: probability that the pair is right.
        evidence: shares in [0, 1] by name (``kind``, ``shape``, ``params``, ``graph``, ``values``, ``weights``), or
            ``{"mapping": 1.0}`` for a pair that a person wrote.
        other_axes: orders that are as likely as ``axes``; empty where these are known.
        arrangement: how factors of merged axes move, where moving axes alone does not make the tensors equal.
        what: what a group of several nodes is, in words; empty for one node against one.
    """

    reference: tuple[str, ...]
    candidate: tuple[str, ...]
    axes: Axes | None
    confidence: float
    evidence: Mapping[str, float]
    other_axes: tuple[Axes, ...] = ()
    arrangement: Rearrangement | None = None
    what: str = ""

    @property
    def aligned(self) -> str:
        """The reference's name, which keys the store."""
        return self.reference[-1]

    def to_json(self) -> dict[str, Any]:
        """As a pair of ``tracer map --json``."""
        return {
            "reference": list(self.reference),
            "candidate": list(self.candidate),
            "aligned": self.aligned,
            "axes": None if self.axes is None else list(self.axes),
            "other_axes": [list(axes) for axes in self.other_axes],
            "arrangement": None if self.arrangement is None else self.arrangement.to_json(),
            "confidence": round(self.confidence, 4),
            "evidence": {name: round(value, 4) for name, value in self.evidence.items()},
        }


@dataclass(frozen=True)
class Ambiguous:
    """A node that the evidence does not settle.

    Attributes:
        reference: the node's name.
        candidates: nodes that it may be, with the probability of each, likeliest first.
        reason: why it is left open, in words.
    """

    reference: str
    candidates: tuple[tuple[str, float], ...]
    reason: str


@dataclass(frozen=True)
class Alignment:
    """All pairs in the reference's running order, and what has no twin, with the reason.

    ``pairs`` say which activations must be equal, ``parameters`` whose weights go where. ``ambiguous`` nodes are among
    the unmatched ones of the reference. ``outputs`` say where the twins of the reference's outputs stand,
    ``reasons`` why the pairs were made.
    """

    pairs: tuple[Pair, ...]
    unmatched_reference: Mapping[str, str] = field(default_factory=dict)
    unmatched_candidate: Mapping[str, str] = field(default_factory=dict)
    ambiguous: tuple[Ambiguous, ...] = ()
    parameters: ParameterMap = NO_PARAMETERS
    outputs: tuple[Output, ...] = ()
    reasons: Reasons = field(default_factory=Reasons, compare=False, repr=False)

    @property
    def moved(self) -> tuple[Output, ...]:
        """Outputs that the candidate returns at another place than the reference, which no mapping file accepts."""
        return tuple(output for output in self.outputs if output.moved)

    @cached_property
    def by_reference(self) -> dict[str, Pair]:
        """Each name of the reference that is paired, and the first pair that it is in."""
        return {name: pair for pair in reversed(self.pairs) for name in pair.reference}

    @cached_property
    def by_candidate(self) -> dict[str, Pair]:
        """The pair of each candidate node; a node that is also compared as an output keeps its own pair."""
        return {name: pair for pair in reversed(self.pairs) for name in pair.candidate}

    def keys(self) -> dict[str, str]:
        """Candidate node to the aligned name it is stored under, each name once."""
        out: dict[str, str] = {}
        for name, pair in self.by_candidate.items():
            if name == pair.candidate[-1] and self.by_reference[pair.aligned] is pair:
                out[name] = pair.aligned
        return out

    def to_json(self) -> dict[str, Any]:
        """The pairs, and what has no twin with the reason, as JSON values."""
        return {
            "pairs": [pair.to_json() for pair in self.pairs],
            "unmatched": {
                "reference": dict(self.unmatched_reference),
                "candidate": dict(self.unmatched_candidate),
            },
        }
