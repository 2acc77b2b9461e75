"""How sure a chosen pair is: the probability that it is right, fitted on pairs whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.assign import LEAST as FIT
from tracer.alignment.assign import Assigned
from tracer.alignment.calibration import TRUST
from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.consistency import agree
from tracer.alignment.evidence import Evidence
from tracer.alignment.features import Features

LEAST = 0.5
"""A pair that is more likely wrong than right is not made."""
TIE = 0.85
"""Closeness above which another matching is as good as the best."""
OPEN = 0.6
"""An alternative is named when it is at least so good as the best, in what it costs the whole matching."""


@dataclass(frozen=True)
class Trust:
    """What speaks for and against each chosen pair.

    Attributes:
        places: positions of the chosen pairs among those considered.
        columns: the numbers by name, an entry a pair.
        sources: for pairs that only arrange the values of others, which of ``places`` these are; else -1.
    """

    places: Index
    columns: Mapping[str, NDArray[np.float64]]
    sources: Index

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability that each pair is right; of those that arrange values no more than of what they arrange."""
        total = np.full(len(self.places), TRUST["bias"])
        for name, values in self.columns.items():
            total += TRUST[name] * values
        own: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(0.5 * total)
        return np.where(self.sources >= 0, np.minimum(own, own[self.sources]), own)


def trust(pairs: Candidates, value: Values, evidence: Evidence, assigned: Assigned, a: Features, b: Features) -> Trust:
    """Gather what :data:`tracer.alignment.calibration.TRUST` weighs, for all chosen pairs in ascending order."""
    rows = np.array(sorted(assigned.matched), np.intp)
    places = pairs.find(rows, np.array([assigned.matched[i] for i in rows.tolist()], np.intp))
    near = closeness(assigned.regret)
    position = {int(i): k for k, i in enumerate(rows)}
    sources = np.array([position.get(a.above[i][0], -1) if a.arranges(i) else -1 for i in rows.tolist()], np.intp)
    ties = np.where(sources >= 0, 1, _ties(pairs, value, near)[places])
    columns: dict[str, NDArray[np.float64]] = {
        # Equal tensors need no order to vouch for them.
        "order": np.maximum(near, evidence.columns["equal_content"])[places].astype(np.float64),
        "other_tie": (ties > 1).astype(np.float64),
        "other_run": _runs(rows, ties, a),
        "graph": np.array([agree(assigned.matched, int(i), assigned.matched[int(i)], a, b) for i in rows]),
    }
    for name in ("same_kind", "settings", "content", "equal_content", "weights"):
        columns[name] = evidence.columns[name][places].astype(np.float64)
    return Trust(places, columns, sources)


def _runs(rows: Index, ties: Index, a: Features) -> NDArray[np.float64]:
    """1 for pairs with a tie whose neighbours have ties too: a run of blocks may be shifted as a whole."""
    tied = {int(i) for i, count in zip(rows, ties, strict=True) if count > 1}
    known = {int(i) for i in rows}

    def shifted(near: set[int]) -> bool:
        found = near & known
        return not found or bool(found & tied)

    return np.array(
        [float(i in tied and shifted({*a.above[i]}) and shifted({c for c, _ in a.below[i]})) for i in rows.tolist()]
    )


def _ties(pairs: Candidates, value: Values, near: Values) -> Index:
    """For each pair how many pairs of either of its nodes are part of a matching as good as the best."""
    good = (near > TIE) & (value >= FIT)
    rows = np.bincount(pairs.rows[good], minlength=pairs.shape[0])[pairs.rows]
    cols = np.bincount(pairs.cols[good], minlength=pairs.shape[1])[pairs.cols]
    return np.maximum(rows, cols)


def closeness(regret: NDArray[np.float64]) -> Values:
    """1 for pairs that are part of a best matching, less the more a matching with them falls short."""
    return (1 / (1 + np.maximum(regret, 0))).astype(np.float32)


def alternatives(pairs: Candidates, value: Values, assigned: Assigned, row: int) -> Sequence[tuple[int, float]]:
    """What a reference node may be as well: candidate indices with shares that add up to one, likeliest first."""
    here = slice(pairs.starts[row], pairs.starts[row + 1])
    good = value[here] * closeness(assigned.regret[here]) ** 2
    if not len(good) or good.max() <= 0:
        return []
    kept = np.flatnonzero(good >= OPEN * good.max())
    shares = good[kept] / good[kept].sum()
    order = np.argsort(-shares, kind="stable")
    return [(int(pairs.cols[here][kept[k]]), float(shares[k])) for k in order]
