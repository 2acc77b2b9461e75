"""The parameters of one model: names, sizes, sums, and which hold the same values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracer import dtypes
from tracer.alignment import owned
from tracer.alignment.owned import WHOLE, Key
from tracer.alignment.twins import Weights, equal
from tracer.errors import InputError, TraceError
from tracer.names import display
from tracer.store import Recording


def named(key: Key, framework: str) -> str:
    """A parameter's whole name as its framework writes it: ``layer1.0.conv1.weight``, ``block1_conv1/kernel``."""
    owner, name = key
    mark = "." if framework == "pytorch" else "/"
    return display(mark.join(filter(None, (owner, name))))


@dataclass(frozen=True)
class Parameter:
    """A parameter or buffer of a recording; ``trainable`` is None where that is not known."""

    key: Key
    text: str
    shape: tuple[int, ...]
    dtype: str
    trainable: bool | None

    @classmethod
    def unknown(cls, key: Key, framework: str) -> Parameter:
        """One that the structure lists and that was not recorded."""
        return cls(key, named(key, framework), (), "float32", None)

    @property
    def owner(self) -> str:
        return self.key[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What it may be called by: its whole name in either framework's writing, and its layer's."""
        owner, name = self.key
        return self.text, f"{owner}.{name}".lstrip("."), f"{owner}/{name}".lstrip("/"), f"{owner} {name}", owner

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        try:
            return self.size * dtypes.by_name(self.dtype).itemsize
        except InputError:
            return 0

    def to_json(self) -> dict[str, Any]:
        return {
            "owner": self.key[0],
            "name": self.key[1],
            "shape": list(self.shape),
            "dtype": self.dtype,
            "trainable": self.trainable,
        }


def summarised(recording: Recording) -> dict[Key, Parameter]:
    """Every parameter that was recorded."""
    listed = owned.described(recording.structure)
    return {
        key: Parameter(
            key, named(key, recording.framework), stored.shape, stored.dtype,
            listed[key].trainable if key in listed else stored.trainable,
        )
        for key, stored in recording.weights.items()
    }  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """How much there is: numbers that are trained, numbers that are not, and bytes; indices and counters aside."""

    tensors: int
    trainable: int
    fixed: int
    bytes: int

    @classmethod
    def of(cls, parameters: Iterable[Parameter]) -> Summary:
        learned = [found for found in parameters if found.dtype not in WHOLE]
        return cls(
            len(learned),
            sum(found.size for found in learned if found.trainable),
            sum(found.size for found in learned if not found.trainable),
            sum(found.bytes for found in learned),
        )

    @property
    def parameters(self) -> int:
        return self.trainable + self.fixed

    def to_json(self) -> dict[str, int]:
        return {
            "tensors": self.tensors,
            "parameters": self.parameters,
            "trainable": self.trainable,
            "not_trainable": self.fixed,
            "bytes": self.bytes,
        }


def difference(ours: Summary, theirs: Summary) -> dict[str, Any]:
    """How many more the candidate has, in numbers and in percent of the reference's."""
    found: Mapping[str, tuple[int, int]] = {
        "parameters": (ours.parameters, theirs.parameters),
        "trainable": (ours.trainable, theirs.trainable),
        "not_trainable": (ours.fixed, theirs.fixed),
        "bytes": (ours.bytes, theirs.bytes),
    }
    return {name: {"count": b - a, "percent": percent(a, b)} for name, (a, b) in found.items()}


def percent(ours: int, theirs: int) -> float | None:
    """By how many percent of ours theirs is more; None of nothing."""
    return 100 * (theirs - ours) / ours if ours else (0.0 if theirs == ours else None)


def tied(recording: Recording) -> tuple[tuple[str, ...], ...]:
    """Parameters of one shape that hold the very same values, by name; constants (an untrained bias) say nothing."""
    weights = Weights.of(recording)
    keys = list(weights.sketches)
    rows = np.array([weights.sketches[key] for key in keys], np.float64).reshape(-1, 6)
    first: dict[int, int] = {}
    for i, j in sorted(equal(rows, rows)):
        if i < j and i not in first and j not in first and _same(recording, keys[i], keys[j]):
            first[j] = i
    found: dict[int, list[int]] = {}
    for j, i in first.items():
        found.setdefault(i, [i]).append(j)
    return tuple(tuple(named(keys[at], recording.framework) for at in group) for group in found.values())


def _same(recording: Recording, one: Key, other: Key) -> bool:
    stored = recording.weights[one], recording.weights[other]
    if stored[0].shape != stored[1].shape or stored[0].dtype != stored[1].dtype:
        return False
    try:
        one_of, other_of = (recording.read_stored(found, verify=False) for found in stored)
        return bool(np.array_equal(one_of, other_of))
    except TraceError:
        return False
