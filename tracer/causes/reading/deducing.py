"""What a recording does not tell of a node, found from the tensors that it recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tracer.causes import operations
from tracer.causes.reading import Read
from tracer.causes.step import Array, Step, Unknown, as_double
from tracer.errors import TraceError

_NEAR = 2e-3
"""How far off the one that is taken may be, of the largest value: more than a half-precision layer is."""

Option = tuple[dict[str, Any], dict[str, Array]]


def step_of(read: Read, option: Option, kind: str = "") -> Step:
    """The node as a step with these settings and weights."""
    node = read.node
    return Step(node.name, kind or node.kind, option[0], option[1], node.parents, node.shape, node.source)


def deduce(read: Read, options: Iterable[Option], what: str) -> Option:
    """Which of ``options`` (settings, weights) makes of the recorded inputs what was recorded.

    Of several that do so equally well the first counts. ``what`` names what is not told, for the user. Raises Unknown
    where none does, or what it takes was not recorded.
    """
    said = f"the recording does not tell {what}"
    try:
        inputs = [read.recorded(name) for name in read.node.parents]
        wanted = read.recorded(read.node.name)
    except Unknown as error:
        raise Unknown(f"{said}, and {error}") from error
    found, least = None, np.inf
    for option in options:
        try:
            error_ = distance(operations.run(step_of(read, option), inputs), wanted)
        except Unknown:
            continue
        if error_ < least / 2:
            found, least = option, error_
    if found is None or least > _NEAR:
        raise Unknown(f"{said}, and nothing that was tried gives what was recorded")
    return found


def borrowed(read: Read, shapes: Iterable[tuple[int, ...]]) -> Iterator[Array]:
    """The recorded weights of whatever layer that have one of these shapes, float64."""
    wanted = set(shapes)
    for stored in read.recording.weights.values():
        if tuple(stored.shape) in wanted:
            try:
                yield as_double(read.recording.read_stored(stored))
            except TraceError as error:
                raise Unknown(str(error)) from error


def distance(made: Array, wanted: Array) -> float:
    """The largest difference, of the largest value wanted; infinite where shapes differ or a value is none."""
    if made.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    both = np.stack([np.asarray(made, np.float64), np.asarray(wanted, np.float64)])
    odd = ~np.isfinite(both[1])
    if odd.any():
        if not np.array_equal(both[0][odd], both[1][odd], equal_nan=True):
            return float("inf")
        both[:, odd] = 0
    largest = float(np.abs(both[1]).max())
    off = float(np.abs(both[0] - both[1]).max())
    return off / largest if largest else off if off == 0 else float("inf") if np.isnan(off) else off
