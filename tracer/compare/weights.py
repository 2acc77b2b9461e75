"""Whether the recorded weights of two paired layers are the same, up to how each framework lays them out.

Keras keeps a kernel as (spatial…, in, out), PyTorch as (out, in, spatial…); a depthwise kernel is (spatial…, channel,
multiplier) there and (channel·multiplier, 1, spatial…) here; biases, scales and statistics are vectors in both.
Recurrent and attention layers merge and re-order theirs: left to a comparison that knows them.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer.compare.pair import PairDiff
from tracer.errors import TraceError
from tracer.graph import Node
from tracer.kinds import CONVOLUTIONS, NORMALISATIONS, parameter_role
from tracer.store import Recording

_SIMPLE = CONVOLUTIONS | NORMALISATIONS | {"dense", "prelu", "embedding"}
_CLOSE = 1e-6
"""Relative difference under which two tensors are taken for the same: a conversion copies, it does not compute."""


def facts(pair: PairDiff, reference: Recording, candidate: Recording) -> list[str]:
    """Sentences about the weights of a pair; none where there are no weights, or the layer re-orders them."""
    ours, theirs = _weights(pair.node, reference), _weights(pair.candidate_node, candidate)
    if pair.node.kind not in _SIMPLE or pair.node.kind != pair.candidate_node.kind or not (ours and theirs):
        return []
    out = []
    for name in [*ours, *(n for n in theirs if n not in ours)]:
        if name not in ours or name not in theirs:
            out.append(f"{name}: only on the {'reference' if name in ours else 'candidate'}'s side")
            continue
        fault = _difference(ours[name], theirs[name], pair.node, pair.candidate_node)
        if fault:
            out.append(f"{name}: {fault}")
    if not out:
        return [f"Its weights are the same on both sides ({', '.join(ours)})"]
    return [f"Weights differ: {fact}" for fact in out]


def _weights(node: Node, recording: Recording) -> dict[str, NDArray[Any]]:
    found = {}
    for param in node.params:
        stored = recording.weights.get((node.owner or node.name, param.name))
        if stored is not None:
            try:
                found[parameter_role(node.kind, param.name)] = recording.read_stored(stored)
            except TraceError:
                continue  # said where the trace is checked
    return found


def _difference(ours: NDArray[Any], theirs: NDArray[Any], node: Node, other: Node) -> str:
    """What is wrong, in words; empty when nothing is."""
    if ours.size != theirs.size:
        return f"{_shape(ours)} against {_shape(theirs)}"
    if node.kind.startswith("depthwise") or ours.ndim != theirs.ndim or ours.ndim == 1:
        # Vectors, and kernels whose axes are merged: equal in some order, or not.
        flat = ours.reshape(-1)
        same = any(_relative(flat, theirs.transpose(o).reshape(-1)) < _CLOSE for o in permutations(range(theirs.ndim)))
        return "" if same else f"relative difference {_relative(flat, theirs.reshape(-1)):.1e}"
    wanted = _wanted(node, other, ours.ndim)
    orders = [wanted, *(order for order in permutations(range(ours.ndim)) if order != wanted)]
    errors = {o: _relative(ours, theirs.transpose(o)) for o in orders if theirs.transpose(o).shape == ours.shape}
    if not errors:
        return f"{_shape(ours)} against {_shape(theirs)}"
    if errors.get(wanted, 1.0) < _CLOSE:
        return ""
    if min(errors.values()) < _CLOSE:
        return f"the same values with the axes in another order than this layer wants ({_shape(theirs)})"
    return f"relative difference {errors.get(wanted, min(errors.values())):.1e}"


def _wanted(node: Node, other: Node, rank: int) -> tuple[int, ...]:
    """The order of the candidate's axes that is the reference's."""
    keras, keras_too = (any(p.name == "kernel" for p in n.params) for n in (node, other))
    if keras == keras_too or rank < 2:
        return tuple(range(rank))
    return (*range(2, rank), 1, 0) if keras else (rank - 1, rank - 2, *range(rank - 2))


def _relative(a: NDArray[Any], b: NDArray[Any]) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.linalg.norm(x))
    return float(np.linalg.norm(x - y)) / scale if scale else float(np.abs(y).max(initial=0))


def _shape(values: NDArray[Any]) -> str:
    return "×".join(map(str, values.shape)) or "scalar"
