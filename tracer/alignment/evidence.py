"""What speaks for a pair by itself, each kind of evidence a number; how much each weighs was measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tracer import kinds
from tracer.alignment import twins
from tracer.alignment.calibration import LOCAL
from tracer.alignment.candidates import Candidates, Table, Values, params
from tracer.alignment.features import Features, agreement
from tracer.alignment.sizes import Sizes, shifts
from tracer.configuration import differences
from tracer.graph import Node

Pairs = NDArray[np.intp]
EQUAL = 0.99
"""Agreement of two tensors' order-free numbers above which they are taken for the same tensor."""
MOST_EQUAL = 64
"""Of more tensors that equal one tensor (a mask that every layer makes anew) those that stand at its place."""


@dataclass(frozen=True)
class Evidence:
    """Every kind of evidence by name, an entry a pair: see :func:`gather`."""

    columns: Mapping[str, Values]

    def logit(self, without: Collection[str] = ()) -> Values:
        """Log-odds that each pair is right, by what it looks like itself, some evidence left out."""
        total = np.full(len(next(iter(self.columns.values()))), LOCAL["bias"], np.float32)
        for name, values in self.columns.items():
            if name not in without:
                total += np.float32(LOCAL[name]) * values
        return total


def equal_tensors(a: Features, b: Features) -> tuple[Pairs, Pairs]:
    """Pairs of nodes whose tensors' order-free numbers agree, whatever their kinds; where they are known."""
    ours, theirs = a.moments, b.moments
    known = np.flatnonzero(np.isfinite(theirs).all(axis=1))
    # Sorted by size and magnitude, so that each node looks at few others.
    order = known[np.lexsort((theirs[known, 2], theirs[known, 0]))]
    size, rms = theirs[order, 0], theirs[order, 2]
    rows: list[int] = []
    cols: list[int] = []
    for i in np.flatnonzero(np.isfinite(ours).all(axis=1)):
        low, high = np.searchsorted(size, ours[i, 0], "left"), np.searchsorted(size, ours[i, 0], "right")
        near = slice(
            low + np.searchsorted(rms[low:high], ours[i, 2] * 0.998),
            low + np.searchsorted(rms[low:high], ours[i, 2] * 1.002, "right"),
        )
        found = order[near][agreement(ours[i], theirs[order[near]]) >= EQUAL]
        if len(found) > MOST_EQUAL:
            away = np.abs(found / len(b.nodes) - i / len(a.nodes))
            found = found[np.argsort(away, kind="stable")[:MOST_EQUAL]]
        rows += [int(i)] * len(found)
        cols += [int(j) for j in found]
    return np.array(rows, np.intp), np.array(cols, np.intp)


def gather(a: Features, b: Features, pairs: Candidates, weights: twins.Evidence | None = None) -> Evidence:
    """All evidence that lies in the two nodes themselves.

    Args:
        weights: whose weights hold the same values; None where they are not known or unrelated.
    """
    kind = Table([n.kind for n in a.nodes], [n.kind for n in b.nodes], kinds.similarity).of(pairs)
    shape = Sizes(a.dims, b.dims, shifts(a, b)).of(pairs.rows, pairs.cols)
    parameters = Table(a.params, b.params, params).of(pairs)
    without = Table([not p for p in a.params], [not p for p in b.params], lambda x, y: float(x) + float(y)).of(pairs)
    bare, one_bare = (without == 2).astype(np.float32), (without == 1).astype(np.float32)
    inputs = [np.array([node.role == "input" for node in side.nodes]) for side in (a, b)]
    impossible = (kind == 0) | (inputs[0][pairs.rows] != inputs[1][pairs.cols])
    impossible |= (shape == 0) | ((without == 0) & (parameters == 0))
    din = np.abs(np.array(a.depth_in)[pairs.rows] - np.array(b.depth_in)[pairs.cols])
    dout = np.abs(np.array(a.depth_out)[pairs.rows] - np.array(b.depth_out)[pairs.cols])
    settings = _settings(a, b, pairs)
    content = np.zeros(len(pairs), np.float32)
    if len(pairs):
        content = np.nan_to_num(agreement(a.moments[pairs.rows], b.moments[pairs.cols])).astype(np.float32)
    columns = {
        "related_kind": (kind >= 0.5).astype(np.float32),
        "same_kind": (kind == 1).astype(np.float32),
        "same_size": (shape >= 0.5).astype(np.float32),
        "same_shape": (shape == 1).astype(np.float32),
        "params": np.where(bare > 0, 0, parameters).astype(np.float32),
        "same_params": ((bare == 0) & (parameters == 1)).astype(np.float32),
        "bare": bare,
        "one_bare": one_bare,
        "near": np.exp(-np.minimum(din, dout) / 3.0).astype(np.float32),
        "both_near": np.exp(-np.maximum(din, dout) / 3.0).astype(np.float32),
        "settings": settings,
        "parts": Table(_parts(a), _parts(b), lambda x, y: (2.0 * (x == y) - 1) if x and y else 0.0).of(pairs),
        "names": _names(a, b, pairs),
        "content": content,
        "equal_content": (content >= EQUAL).astype(np.float32),
        "weights": np.zeros(len(pairs), np.float32),
        "other_weights": np.zeros(len(pairs), np.float32),
        "impossible": impossible.astype(np.float32),
    }
    if weights is not None:
        scores = weights.scores
        keys = np.array(list(scores), np.intp).reshape(-1, 2)
        places = pairs.find(keys[:, 0], keys[:, 1])
        inside = places < len(pairs)
        columns["weights"][places[inside]] = np.array(list(scores.values()), np.float32)[inside]
        known = np.isin(pairs.rows, list(weights.known[0])) & np.isin(pairs.cols, list(weights.known[1]))
        columns["other_weights"][:] = known & (columns["weights"] == 0)
    return Evidence(columns)


def _settings(a: Features, b: Features, pairs: Candidates) -> Values:
    """1 where both state some settings and all agree, -1 where one differs, 0 where they state none in common."""

    def stated(node: Node) -> tuple[str, str]:
        return node.kind, repr(sorted(node.config.items()))

    examples = {stated(node): node for node in (*a.nodes, *b.nodes)}

    def compare(x: tuple[str, str], y: tuple[str, str]) -> float:
        if x[0] != y[0]:
            return 0.0
        ours, theirs = examples[x], examples[y]
        if not ours.config.keys() & theirs.config.keys():
            return 0.0
        return -1.0 if differences(ours, theirs) else 1.0

    return Table([stated(n) for n in a.nodes], [stated(n) for n in b.nodes], compare).of(pairs)


def _parts(side: Features) -> list[str]:
    """Which part of what is split each node is: "" where it is none, and for the first, which is the split itself."""
    out = []
    for node in side.nodes:
        whole = side.index.get(node.parents[0]) if node.role == "item" and node.parents else None
        split = whole is not None and side.nodes[whole].kind == "split"
        out.append(node.name.removeprefix(node.parents[0]) if split else "")
    return out


def _names(a: Features, b: Features, pairs: Candidates) -> Values:
    """Cosine of the two names' words, rare words counting more."""
    vocabulary: dict[str, int] = {}
    for side in (a.words, b.words):
        for found in side:
            for word in found:
                vocabulary.setdefault(word, len(vocabulary))
    count = np.zeros((2, max(1, len(vocabulary))))
    for s, side in enumerate((a.words, b.words)):
        for found in side:
            for word in found:
                count[s, vocabulary[word]] += 1
    total = len(a.nodes) + len(b.nodes)
    # A word that only one side uses says nothing about the pair.
    weight = np.where(count.min(axis=0) > 0, np.log(1 + total / np.maximum(1, count.sum(axis=0))), 0)

    def key(found: frozenset[str]) -> frozenset[int]:
        return frozenset(w for w in map(vocabulary.__getitem__, found) if weight[w] > 0)

    def compare(x: frozenset[int], y: frozenset[int]) -> float:
        if not x or not y:
            return 0.0
        norm = np.sqrt(sum(weight[w] for w in x) * sum(weight[w] for w in y))
        return float(sum(weight[w] for w in x & y) / norm)

    return Table([key(f) for f in a.words], [key(f) for f in b.words], compare).of(pairs)
