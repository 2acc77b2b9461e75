"""Whether the recorded weights of two paired layers are the same, however each framework lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.alignment import owned, relayout
from tracer.alignment.owned import Key
from tracer.alignment.parameters import INTO_WEIGHTS, ParameterMap, ParameterPair
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.errors import TraceError
from tracer.graph import Structure
from tracer.kinds import parameter_role
from tracer.names import display
from tracer.store import Recording, Stored

_CLOSE = 1e-6
"""Relative difference under which two tensors are taken for the same: a conversion copies, it does not compute. Where
it is one to another type it rounds as well."""


def facts(pair: PairDiff, reference: Recording, candidate: Recording, parameters: ParameterMap) -> list[str]:
    """Sentences about the weights of a pair; none where there are no weights, or they were not recorded."""
    ours = _keys(reference.structure, pair.pair.reference)
    theirs = _keys(candidate.structure, pair.pair.candidate)
    same: list[str] = []
    apart: list[tuple[str, str, str]] = []
    several = len({key[0] for key in theirs}) > len({key[0] for key in ours})  # one layer against those
    for found in parameters.pairs:
        if not (set(found.reference) & set(ours) or set(found.candidate) & set(theirs)):
            continue
        fault = _difference(found, reference, candidate)
        if fault is None:
            continue
        if fault:
            keys = found.candidate if several else found.reference
            apart.append((found.role, display(keys[0][0]), fault))
        else:
            same.append(found.role)
    roles = Counter(role for role, _, _ in apart)
    other = [f"{role}{f' of {owner}' if roles[role] > 1 else ''}: {fault}" for role, owner, fault in apart]
    other += _alone(ours, theirs, pair, reference, candidate, parameters)
    if other:
        return [f"Weights differ: {fact}" for fact in other]
    return [f"Its weights are the same on both sides ({', '.join(dict.fromkeys(same))})"] if same else []


def quiet(pairs: Iterable[PairDiff], reference: Recording, candidate: Recording, parameters: ParameterMap) -> list[str]:
    """Weights that differ though nothing that reads them does, a few words each.

    Of layers that are never called, that are switched off by a zero or a mask, or of what training alone uses. Only
    weights whose order-free numbers differ are read.
    """
    agreeing = [pair.pair for pair in pairs if pair.verdict in (Verdict.MATCH, Verdict.NOISE)]
    loud: set[Key] = set()
    for structure, names in (
        (reference.structure, {name for pair in agreeing for name in pair.reference}),
        (candidate.structure, {name for pair in agreeing for name in pair.candidate}),
    ):
        loud.update(_keys(structure, (node.name for node in structure if node.name not in names)))
        loud.difference_update(_keys(structure, names))
    out = []
    for found in parameters.pairs:
        if loud.intersection(found.reference) or loud.intersection(found.candidate):
            continue
        if not _alike(found, reference, candidate) and (fault := _difference(found, reference, candidate)):
            out.append(f"{found.role} of {display(found.reference[0][0])}: {fault}")
    return out


def _alike(found: ParameterPair, reference: Recording, candidate: Recording) -> bool:
    """Whether the numbers that do not depend on the order of elements say that both sides hold the same."""
    sides = []
    for recording, keys in ((reference, found.reference), (candidate, found.candidate)):
        kept = [recording.weights.get(key) for key in keys]
        pooled = _pooled([stored.summary for stored in kept if stored is not None])
        if None in kept or pooled is None:
            return False
        sides.append(np.array(pooled))
    size, scale = sides[0][0], max(sides[0][1], 1e-300)
    return bool(size == sides[1][0] and np.all(np.abs(sides[0] - sides[1])[1:] <= _CLOSE * scale))


def _pooled(summaries: list[Mapping[str, float | int]]) -> tuple[float, ...] | None:
    """Size, root mean square, mean, least and greatest of several tensors together; None where one is not known."""
    size = sum(float(own.get("size", 0)) for own in summaries)
    try:
        power = sum(float(own["size"]) * float(own["rms"]) ** 2 for own in summaries) / size
        mean = sum(float(own["size"]) * float(own["mean"]) for own in summaries) / size
        ends = min(float(own["min"]) for own in summaries), max(float(own["max"]) for own in summaries)
    except (KeyError, ZeroDivisionError):
        return None
    return size, power**0.5, mean, *ends


def _keys(structure: Structure, names: Iterable[str]) -> list[Key]:
    """The parameters of these nodes, a shared layer's too."""
    by_name = dict(zip((node.name for node in structure.nodes), owned.keys(structure.nodes), strict=True))
    return [key for name in names for key in by_name.get(name, ())]


def _alone(
    ours: list[Key],
    theirs: list[Key],
    pair: PairDiff,
    reference: Recording,
    candidate: Recording,
    parameters: ParameterMap,
) -> list[str]:
    """What only one side has, or both in sizes that do not go together."""
    left = [
        {
            parameter_role(kind, key[1]): stored
            for key in keys
            if not unmatched.get(key, INTO_WEIGHTS).startswith(INTO_WEIGHTS)
            and (stored := recording.weights.get(key)) is not None
            and stored.dtype not in owned.WHOLE
        }
        for keys, unmatched, recording, kind in (
            (ours, parameters.unmatched_reference, reference, pair.node.kind),
            (theirs, parameters.unmatched_candidate, candidate, pair.candidate_node.kind),
        )
    ]
    if not ours or not theirs:
        return []  # the weights are another node's on that side
    out = []
    for role in dict.fromkeys([*left[0], *left[1]]):
        if role in left[0] and role in left[1]:
            out.append(f"{role}: {_shape(left[0][role])} against {_shape(left[1][role])}")
        else:
            out.append(f"{role}: only on the {'reference' if role in left[0] else 'candidate'}'s side")
    return out


def _difference(found: ParameterPair, reference: Recording, candidate: Recording) -> str | None:
    """What is wrong, in words; empty when nothing is, None when it cannot be known."""
    if not found.comparable:
        return None
    kept = (
        [reference.weights.get(key) for key in found.reference],
        [candidate.weights.get(key) for key in found.candidate],
    )
    try:
        a, b = (
            {key: recording.read_stored(stored) for key, stored in zip(keys, side, strict=True) if stored is not None}
            for recording, keys, side in zip(
                (reference, candidate), (found.reference, found.candidate), kept, strict=True
            )
        )
    except TraceError:
        return None  # said where the trace is checked
    if len(a) < len(found.reference) or len(b) < len(found.candidate):
        return None
    pieces = [
        (
            relayout.read(piece.reference_steps, [a[key] for key in piece.reference]),
            relayout.read(piece.candidate_steps, [b[key] for key in piece.candidate]),
        )
        for piece in found.pieces
    ]
    x, y = (np.concatenate([_flat(side[i]) for side in pieces]) for i in (0, 1))
    types = {stored.dtype for side in kept for stored in side if stored is not None}
    close = _CLOSE if len(types) == 1 else max(_CLOSE, *map(dtypes.epsilon, types))
    error = _relative(x, y)
    if error < close:
        return ""
    if x.size == y.size and _relative(np.sort(x), np.sort(y)) < close:
        turned = len(found.pieces) == len(pieces[0][0]) == len(pieces[0][1]) == 1
        moved = turned and _turned(pieces[0][0][0], pieces[0][1][0], close)
        what = "the axes in another order" if moved else "the elements in another order"
        return f"the same values with {what} than this layer wants ({_wanted(found, kept[1])})"
    return f"relative difference {error:.1e}"


def _wanted(found: ParameterPair, kept: list[Stored | None]) -> str:
    shapes = " + ".join(_shape(stored) for stored in kept if stored is not None)
    return shapes if found.relation == "as it is" else f"{shapes}, {found.relation}"


def _turned(a: NDArray[Any], b: NDArray[Any], close: float) -> bool:
    """Whether some order of the axes makes the two equal."""
    orders = (o for o in permutations(range(b.ndim)) if tuple(b.shape[i] for i in o) == a.shape)
    return b.ndim == a.ndim and any(_relative(_flat([a]), _flat([b.transpose(o)])) < close for o in orders)


def _flat(arrays: Iterable[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([values.astype(np.float64).reshape(-1) for values in arrays])


def _relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if a.size != b.size:
        return np.inf
    scale = float(np.linalg.norm(a))
    return float(np.linalg.norm(a - b)) / scale if scale else float(np.abs(b).max(initial=0))


def _shape(stored: Stored) -> str:
    return "×".join(map(str, stored.shape)) or "scalar"
