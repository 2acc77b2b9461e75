"""Why a pair was made: what each kind of evidence gave, what makes it doubtful, and what else its nodes may be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.calibration import LOCAL, TRUST
from tracer.alignment.candidates import Candidates, Values
from tracer.alignment.confidence import Trust, closeness
from tracer.alignment.evidence import Evidence
from tracer.alignment.features import Features

KINDS = {
    "kind": ("related_kind", "same_kind"),
    "shape": ("same_size", "same_shape"),
    "parameters": ("params", "same_params", "bare", "one_bare"),
    "place": ("near", "both_near"),
    "settings": ("settings", "parts"),
    "names": ("names",),
    "values": ("content", "equal_content"),
    "weights": ("weights", "other_weights"),
}
"""What of :data:`~tracer.alignment.calibration.LOCAL` each kind of evidence is."""
DOUBTS = {
    "other_tie": "another matching would be as good",
    "other_run": "a run of blocks that may be shifted as a whole",
    "other_close": "other pairs of these nodes come close",
    "other_moved": "one side scales before what the other scales behind",
    "other_arithmetic": "one adds where the other multiplies",
    "other_twin": "it may be exchanged with another that looks the same",
    "other_model": "little of the two models fits together",
}
_LEAST = 0.3
"""Log-odds from which a doubt is worth a word."""
_RIVALS = 4
_FAINT = 0.02
"""Likelihood below which a rival is not named."""
_SURE = 1e-7


@dataclass(frozen=True)
class Why:
    """What speaks for a pair, and against it.

    Attributes:
        shares: by kind of evidence what it adds to the log-odds that the two are the same: those of :data:`KINDS`,
            ``blocks`` that repeat, and ``graph``, the pairs of parents and children.
        doubts: in words, the gravest first.
    """

    shares: Mapping[str, float]
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reasons:
    """Why each pair was made, by the compared nodes of both sides; and for the nodes of the reference, and of the
    candidate, what else they may be, likeliest first, with the likelihood of each."""

    pairs: Mapping[tuple[str, str], Why] = field(default_factory=dict)
    rivals: tuple[Mapping[str, tuple[tuple[str, float], ...]], Mapping[str, tuple[tuple[str, float], ...]]] = ({}, {})


def reasons(
    pairs: Candidates,
    evidence: Evidence,
    logit: Values,
    value: Values,
    regret: NDArray[np.float64],
    trusted: Trust,
    sides: tuple[Features, Features],
) -> Reasons:
    """Gathered once the pairs are chosen.

    Args:
        logit: log-odds of each pair by its nodes alone; ``value`` its likelihood in the graph.
        regret: what a matching with each pair would cost.
    """
    return Reasons(
        dict(_why(pairs, evidence, logit, value, trusted, sides)),
        (_rivals(pairs, value, regret, sides, 0), _rivals(pairs, value, regret, sides, 1)),
    )


def _why(
    pairs: Candidates,
    evidence: Evidence,
    logit: Values,
    value: Values,
    trusted: Trust,
    sides: tuple[Features, Features],
) -> Iterator[tuple[tuple[str, str], Why]]:
    at = trusted.places
    known = np.clip(value[at].astype(np.float64), _SURE, 1 - _SURE)
    columns = {
        name: sum((LOCAL[part] * evidence.columns[part][at].astype(np.float64) for part in parts), np.zeros(len(at)))
        for name, parts in KINDS.items()
    }
    columns["blocks"] = (logit[at] - evidence.logit()[at]).astype(np.float64)
    columns["graph"] = (np.log(known / (1 - known)) - logit[at]).astype(np.float64)
    against = {name: TRUST[name] * trusted.columns[name] for name in DOUBTS}
    for n, place in enumerate(at.tolist()):
        names = sides[0].nodes[pairs.rows[place]].name, sides[1].nodes[pairs.cols[place]].name
        shares = {name: float(values[n]) for name, values in columns.items()}
        if abs(logit[place]) > 50:  # a person's word, in whose face evidence is nothing
            shares = {}
        doubts = sorted((float(values[n]), name) for name, values in against.items() if values[n] < -_LEAST)
        yield names, Why(shares, tuple(DOUBTS[name] for _, name in doubts))


def _rivals(
    pairs: Candidates, value: Values, regret: NDArray[np.float64], sides: tuple[Features, Features], s: int
) -> dict[str, tuple[tuple[str, float], ...]]:
    """What each node of a side may be, what it was paired with among it."""
    own, other = (pairs.rows, pairs.cols) if s == 0 else (pairs.cols, pairs.rows)
    likely = value * closeness(regret) ** 2
    kept = np.flatnonzero((likely >= _FAINT) & (value <= 1))
    order = kept[np.lexsort((-likely[kept], own[kept]))]
    found: dict[str, list[tuple[str, float]]] = {}
    for place in order.tolist():
        names = found.setdefault(sides[s].nodes[own[place]].name, [])
        if len(names) < _RIVALS:
            names.append((sides[1 - s].nodes[other[place]].name, float(value[place])))
    return {name: tuple(rivals) for name, rivals in found.items()}


def sorted_shares(shares: Mapping[str, float]) -> Sequence[tuple[str, float]]:
    """The shares that say something, the weightiest first."""
    return sorted(((n, v) for n, v in shares.items() if abs(v) >= 0.05), key=lambda item: -abs(item[1]))
