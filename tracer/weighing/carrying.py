"""The target's arrays, made of the source's as a plan says, every element accounted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.alignment import relayout
from tracer.alignment.owned import Key
from tracer.alignment.relayout import Steps
from tracer.names import display
from tracer.store import Recording
from tracer.weighing.fitting import cast
from tracer.weighing.plan import Absorb, Copy, Fill, Norm, Plan

Array = NDArray[Any]
Read = Callable[[Key], Array]
SURE = 0.9
"""A pair of lower confidence is said to be in doubt."""


@dataclass(frozen=True)
class Carried:
    """What became of every parameter of both sides.

    Attributes:
        values: of the target, in its layout and its type.
        made: how each of ``values`` was made, in words.
        kept: of the target, left as they are and rightly so, with the reason.
        missing: of the target, nothing of the source fits, with the reason.
        left_over: of the source, nothing took them, with the reason.
        spent: of the source, without a place of their own and rightly so, with the reason.
        doubtful: of ``values`` those whose pair is not sure, with its confidence.
        rounded: of ``values`` those whose type is narrower than the source's.
    """

    values: Mapping[Key, Array]
    made: Mapping[Key, str]
    kept: Mapping[Key, str]
    missing: Mapping[Key, str]
    left_over: Mapping[Key, str]
    spent: Mapping[Key, str]
    doubtful: Mapping[Key, float]
    rounded: tuple[Key, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing and nothing left over."""
        return not self.missing and not self.left_over


def carry(plan: Plan, source: Recording, target: Recording) -> Carried:
    """Make the target's weights out of the source's, both as they are stored in recordings.

    Raises TraceError where a stored array is damaged, InputError where the target's type cannot hold a value.
    """

    def read(recording: Recording) -> Read:
        return lambda key: recording.read_stored(recording.weights[key])

    types = {key: stored.dtype for key, stored in target.weights.items()}
    return run(plan, read(source), read(target), tuple(source.weights), types)


def run(
    plan: Plan, source: Read, target: Read, keys: tuple[Key, ...] | None = None, types: Mapping[Key, str] | None = None
) -> Carried:
    """As :func:`carry`, with what reads a parameter of either side; ``keys`` are those that the source has.

    ``types`` are the target's element types by key; those of its arrays where none are given.
    """
    work = _Work(source, target)
    missing: dict[Key, str] = dict(plan.missing)
    for operation in plan.operations:
        work.do(operation)
    for key, filled in work.filled.items():
        empty = int(filled.size - np.count_nonzero(filled))
        if empty:
            missing[key] = f"{empty} of its {filled.size} values have no source"
    left_over, spent = _unused(plan, work, source)
    for key in keys or ():
        if key not in work.spent and key not in left_over and key not in spent:
            spent[key] = "not learned: the model's own"
    values, rounded = {}, []
    for key, found in work.values.items():
        if key in missing:
            continue
        wanted = (types or {}).get(key, target(key).dtype.name)
        values[key] = cast(found, wanted, display(".".join(filter(None, key))))
        if values[key].dtype.kind not in "biu" and dtypes.epsilon(wanted) > work.epsilon.get(key, 1.0):
            rounded.append(key)
    made = {key: ", ".join(dict.fromkeys(words)) for key, words in work.words.items() if key in values}
    return Carried(
        values, made, dict(plan.kept), missing, left_over, spent,
        {key: sure for key, sure in work.sure.items() if key in values and sure < SURE}, tuple(rounded),
    )  # fmt: skip


class _Work:
    """The arrays being made."""

    def __init__(self, source: Read, target: Read) -> None:
        self._source, self._target = source, target
        self.values: dict[Key, Array] = {}
        self.filled: dict[Key, NDArray[np.bool_]] = {}
        self.spent: dict[Key, NDArray[np.bool_]] = {}
        self.words: dict[Key, list[str]] = {}
        self.sure: dict[Key, float] = {}
        self.epsilon: dict[Key, float] = {}
        self.refused: dict[Key, str] = {}

    def do(self, operation: Copy | Absorb | Fill) -> None:
        if isinstance(operation, Fill):
            self._start(operation.target)[...] = operation.value
            self.filled[operation.target][...] = True
            self.words[operation.target].append(operation.words)
        elif isinstance(operation, Absorb):
            self._absorb(operation)
        else:
            self._copy(operation)

    def _absorb(self, operation: Absorb) -> None:
        into, held = self.values[operation.into], absorbed(self.values[operation.into], operation, self._source)
        if not np.isfinite(held).all():
            self.refused[operation.source] = "its BatchNorm's twin has none, and not all of gamma is positive"
            return
        into[...] = held
        self._use((operation.source,), ())
        self.words[operation.into].append(operation.words)

    def _copy(self, made: Copy) -> None:
        arrays = [self._source(key) for key in made.source]
        found = relayout.read(made.source_steps, [_wide(array) for array in arrays])
        if made.folded is not None:
            scale, shift = affine(made.folded, self._source)
            found = [values * scale for values in found] or [np.zeros_like(shift)]
            if made.shifts:
                found = [values + shift for values in found]
            self._use(made.folded.keys, ())
        self._use(made.source, made.source_steps)
        places = [self._start(key) for key in made.target]
        relayout.write(made.target_steps, places, found)
        marks = [self.filled[key] for key in made.target]
        if _summed(made.target_steps):
            for mark in marks:
                mark[...] = True  # what the sum leaves out becomes zero
        else:
            relayout.write(made.target_steps, marks, [np.ones(values.shape, bool) for values in found])
        for key in made.target:
            self.words[key].append(made.words)
            self.sure[key] = min(made.confidence, self.sure.get(key, 1.0))
            if arrays:
                self.epsilon[key] = max(dtypes.epsilon(array.dtype.name) for array in arrays)

    def _start(self, key: Key) -> Array:
        if key not in self.values:
            self.values[key] = _wide(self._target(key)).copy()
            self.filled[key] = np.zeros(self.values[key].shape, bool)
            self.words[key] = []
        return self.values[key]

    def _use(self, keys: tuple[Key, ...], steps: Steps) -> None:
        """Mark what was read: all of it, or the parts that the steps take."""
        for key in keys:
            if key not in self.spent:
                self.spent[key] = np.zeros(self._source(key).shape, bool)
        marks = [self.spent[key] for key in keys]
        if _summed(steps) or not any(step[0] in ("part", "cut") for step in steps):
            for mark in marks:
                mark[...] = True
        else:
            taken = relayout.read(steps, [np.ones_like(mark) for mark in marks])
            relayout.write(steps, marks, taken)


def _unused(plan: Plan, work: _Work, source: Read) -> tuple[dict[Key, str], dict[Key, str]]:
    """What the source has left over, and what of it is of no consequence."""
    left_over, spent = {**plan.left_over, **work.refused}, dict(plan.spent)
    for key, mark in work.spent.items():
        unused = int(mark.size - np.count_nonzero(mark))
        if unused:
            left_over[key] = f"{unused} of its {mark.size} values have no place"
    for key in list(left_over):
        if key in work.spent:
            continue
        value, twin = plan.neutral.get(key), plan.spare.get(key)
        if value is not None and bool(np.all(_wide(source(key)) == value)):
            spent[key] = f"all {value:g}: a layer without it computes the same"
        elif twin is not None:
            values, other, named = source(key), source(twin), display(".".join(twin))
            if np.array_equal(values, other) or np.array_equal(values.T, other):
                spent[key] = f"the same values as {named}, which stands for both"
            else:
                left_over[key] = f"the target has one where this and {named} are two, and the two differ"
        if key in spent:
            del left_over[key]
    return left_over, spent


def affine(norm: Norm, read: Read) -> tuple[Array, Array]:
    """Scale and shift of a BatchNorm over its channels, in double precision."""
    mean, variance = (_wide(read(key)).reshape(-1) for key in (norm.mean, norm.variance))
    gamma = 1.0 if norm.gamma is None else _wide(read(norm.gamma)).reshape(-1)
    beta = 0.0 if norm.beta is None else _wide(read(norm.beta)).reshape(-1)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def absorbed(statistic: Array, held: Absorb, read: Read) -> Array:
    """A mean or a variance, in double precision, with what the other side's layer has no place for in it; not finite
    where it cannot hold that."""
    values, wide = _wide(statistic), _wide(read(held.source)).reshape(statistic.shape)
    if held.epsilon is None:
        return np.asarray(values - wide)
    with np.errstate(divide="ignore", invalid="ignore"):
        if held.norm is None:
            return np.where(wide > 0, (values + held.epsilon) / wide**2 - held.epsilon, np.nan)
        scale, _ = affine(replace(held.norm, epsilon=held.epsilon), read)
        return np.where(wide == 0, values, values - wide / scale.reshape(statistic.shape))


def _summed(steps: Steps) -> bool:
    return any(step[0] in ("sum", "fold", "normed") for step in steps)


def _wide(values: Array) -> Array:
    """Floating values in double precision, so that nothing is rounded twice; others as they are."""
    return values if values.dtype.kind in "biuc" else values.astype(np.float64)
