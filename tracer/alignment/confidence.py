"""How sure a chosen pair is: the probability that it is right, fitted on pairs whose truth is known."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer.alignment.assign import LEAST as FIT
from tracer.alignment.assign import Assigned
from tracer.alignment.calibration import TRUST
from tracer.alignment.candidates import Candidates, Index, Values
from tracer.alignment.evidence import Evidence
from tracer.alignment.features import Features
from tracer.alignment.symmetry import interchangeable

LEAST = 0.5
"""A pair that is more likely wrong than right is not made."""
TIE = 0.85
"""Closeness above which another matching is as good as the best."""
_ARITHMETIC = {
    "adds": frozenset({"add", "sub", "average", "normalization", "batchnorm"}),
    "multiplies": frozenset({"mul", "div", "rescaling", "normalization", "batchnorm"}),
}
SCALING = frozenset({"mul", "div", "rescaling"})
LONG = 5
"""A run of two to the power of so many pairs is as long as any."""
ENOUGH = 0.3
"""Models of which less is paired than this share of the smaller one's nodes may have nothing to do with each other."""
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
        # What is known to hold the same values needs no such word.
        follows = (self.sources >= 0) & (self.columns["equal_content"] == 0)
        return np.where(follows, np.minimum(own, own[self.sources]), own)


def trust(pairs: Candidates, value: Values, evidence: Evidence, assigned: Assigned, a: Features, b: Features) -> Trust:
    """Gather what :data:`tracer.alignment.calibration.TRUST` weighs, for all chosen pairs in ascending order."""
    matched = assigned.matched
    rows = np.array(sorted(matched), np.intp)
    cols = np.array([matched[i] for i in rows.tolist()], np.intp)
    places = pairs.find(rows, cols)
    found = {name: values[places].astype(np.float64) for name, values in evidence.columns.items()}
    near = closeness(assigned.regret)
    position = {int(i): k for k, i in enumerate(rows)}
    sources = np.array([position.get(a.above[i][0], -1) if a.arranges(i) else -1 for i in rows.tolist()], np.intp)
    ties = np.where(sources >= 0, 1, _ties(pairs, value, near)[places])
    speaks = evidence.columns["names"] + evidence.columns["weights"] + evidence.columns["equal_content"]
    # Nodes that are named alike to the last number are each other's sooner than others.
    named = [(i, b.index[node.name]) for i, node in enumerate(a.nodes) if node.name in b.index]
    same = pairs.find(*np.array(named, np.intp).reshape(-1, 2).T)
    speaks[same[same < len(pairs)]] += 1
    twins = interchangeable(matched, pairs, speaks, a, b)
    chosen = [*zip(rows.tolist(), cols.tolist(), strict=True)]
    taken = frozenset(cols.tolist())
    share = len(rows) / max(1, min(len(a.nodes), len(b.nodes)))
    columns: dict[str, NDArray[np.float64]] = {
        # Equal tensors need no order to vouch for them.
        "order": np.maximum(near[places], found["equal_content"]),
        "other_tie": (ties > 1).astype(np.float64),
        "other_run": _runs(rows, ties, a),
        "other_close": _rivals(pairs, value, near)[places].astype(np.float64),
        "other_moved": np.array([float(_moved(matched, taken, i, j, a, b)) for i, j in chosen]),
        "other_arithmetic": np.array([float(_unlike(a.nodes[i].kind, b.nodes[j].kind)) for i, j in chosen]),
        "other_twin": np.array([float(i in twins) for i in rows.tolist()]),
        "other_model": np.full(len(rows), max(0.0, 1 - share / ENOUGH)),
    }
    for name in columns:
        # What holds the same values is the same, whatever speaks against it.
        if name.startswith("other_"):
            columns[name] *= 1 - found["equal_content"]
    for name in ("content", "equal_content", "weights"):
        columns[name] = found[name]
    return Trust(places, columns, sources)


def _moved(
    matched: Mapping[int, int], taken: Container[int], i: int, j: int, a: Features, b: Features
) -> bool:  # fmt: skip
    """Whether one side scales right before what the other scales right behind: the query here, the scores there."""
    above = [k for k in a.above[i] if a.nodes[k].kind in SCALING], [k for k in b.above[j] if b.nodes[k].kind in SCALING]
    below = (
        [c for c, _ in a.below[i] if a.nodes[c].kind in SCALING],
        [c for c, _ in b.below[j] if b.nodes[c].kind in SCALING],
    )
    here = any(k not in matched for k in above[0]) and bool(below[1]) and not below[0]
    there = any(k not in taken for k in above[1]) and bool(below[0]) and not below[1]
    return here or there


def _unlike(ours: str, theirs: str) -> bool:
    """Whether one adds where the other multiplies, or does both."""
    found = [{name for name, words in _ARITHMETIC.items() if kind in words} for kind in (ours, theirs)]
    return bool(found[0] and found[1] and found[0] != found[1])


def _rivals(pairs: Candidates, value: Values, near: Values) -> Values:
    """For each pair how close a matching comes to the best that pairs one of its nodes otherwise."""
    return pairs.rivals(np.where(value >= FIT, near, np.float32(0)).astype(np.float32))


def _runs(rows: Index, ties: Index, a: Features) -> NDArray[np.float64]:
    """How far pairs with a tie lie in a run of such pairs that may be shifted as a whole: 0 for a tie by itself, 1 for
    many blocks."""
    known = {int(i) for i in rows}
    tied = {int(i) for i, count in zip(rows, ties, strict=True) if count > 1}

    def shifted(i: int) -> bool:
        sides = ({*a.above[i]} & known, {c for c, _ in a.below[i]} & known)
        return all(not found or bool(found & tied) for found in sides)

    size: dict[int, int] = {}
    left = set(tied)
    while left:
        run, queue = list[int](), [left.pop()]
        while queue:
            run.append(queue.pop())
            beside = a.near[run[-1]] & left
            left -= beside
            queue += beside
        size |= dict.fromkeys(run, len(run))
    return np.array([min(1.0, np.log2(size[i]) / LONG) if i in tied and shifted(i) else 0.0 for i in rows.tolist()])


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
