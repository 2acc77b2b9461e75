"""The error that each layer adds itself: the candidate walked once, every node fed the reference's own activations.

What is compared is what a node makes of the same inputs; then the reference's tensor takes its place, so that a
defect is seen where it is and nowhere below. Nodes without a twin run between two that have one. The reference is
walked the same way, in float64 on its own activations: what both do in float64 is free of rounding, and how far each
is from what it does in its own type is its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.adapter import LoadedModel
from tracer.compare.local import BOTH, CANDIDATE, DRAWS, NEITHER, REFERENCE, Local
from tracer.errors import ReplayError
from tracer.rerun.cuts import Cut, Way
from tracer.rerun.measuring import apart
from tracer.store import Recording

Array = NDArray[Any]
Progress = Callable[[], None]
"""Called for each tensor that was judged."""
_IN_MEMORY = 1 << 29
"""Bytes of intermediate results that are kept in memory."""


@dataclass(frozen=True)
class Exact:
    """What the reference gave in float64 on its own activations.

    Attributes:
        rounding: largest |float64 − recorded| of each stored node.
        folder: holds the difference of each as an array in float32.
        why: why there is nothing; empty where there is.
    """

    rounding: Mapping[str, float]
    folder: Path | None
    files: Mapping[str, str]
    why: str = ""

    def values(self, node: str, recorded: Array) -> Array:
        """The float64 values of a node, as far as they are known."""
        if self.folder is None or node not in self.files:
            return recorded
        away: Array = np.load(self.folder / self.files[node], mmap_mode="r")
        if recorded.dtype.kind == "f":
            return np.asarray(np.add(recorded, away, dtype=np.float64))
        return np.asarray(dtypes.as_float64(recorded) + away)


NOT_EXACT = Exact({}, None, {})


class _Own:
    """Feeds a model its own activations and keeps how far float64 is from them."""

    def __init__(self, recording: Recording, nodes: Sequence[str], folder: Path, progress: Progress) -> None:
        self._recording, self._left, self._folder = recording, set(nodes), folder
        self._progress = progress
        self.rounding: dict[str, float] = {}
        self.files: dict[str, str] = {}

    def wants(self, name: str) -> bool:
        return name in self._left

    def __call__(self, name: str, value: Array) -> Array | None:
        recorded = self._recording.read(name)
        self._progress()
        if recorded.shape == value.shape and recorded.dtype.kind not in "biuc":
            with np.errstate(all="ignore"):
                exact_ = recorded if recorded.dtype.kind == "f" else dtypes.as_float64(recorded)
                away = (value - exact_).astype(np.float32, copy=False)
            if not np.isfinite(away.min(initial=0.0) + away.max(initial=0.0)):
                away = np.where(np.isfinite(away), away, np.float32(0))
            self.files[name] = f"exact-{len(self.files)}.npy"
            np.save(self._folder / self.files[name], away)
            self.rounding[name] = apart(recorded, value, masks=True)[0]
        return recorded


def exact(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    recording: Recording,
    cuts: Sequence[Cut],
    folder: Path,
    progress: Progress = lambda: None,
) -> Exact:
    """Run the reference in float64 on its own activations. Raises ModelError, TraceError."""
    own = _Own(recording, [name for cut in cuts for name in {cut.reference, cut.heal}], folder, progress)
    try:
        model.replay(inputs, own, double=True)
    except ReplayError as error:
        return Exact({}, None, {}, str(error))
    return Exact(own.rounding, folder, own.files)


class _Kept:
    """Arrays by name, of which those beyond a size lie in a folder."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, kind
        self._arrays: dict[str, Array | Path] = {}
        self._left = _IN_MEMORY

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __setitem__(self, name: str, values: Array) -> None:
        self._left -= values.nbytes
        if self._left >= 0:
            self._arrays[name] = values.copy()  # the model goes on with its own
            return
        path = self._folder / f"{self._kind}-{len(self._arrays)}.npy"
        np.save(path, values)
        self._arrays[name] = path

    def pop(self, name: str) -> Array | None:
        found = self._arrays.pop(name, None)
        return np.load(found) if isinstance(found, Path) else found


class _Walk:
    """One walk through the candidate on the reference's activations."""

    def __init__(
        self, cuts: Mapping[str, Cut], reference: Recording, exact: Exact, folder: Path, progress: Progress
    ) -> None:
        self._cuts, self._reference, self._exact = cuts, reference, exact
        self._progress = progress
        self.double = False
        self.looking: Container[str] = self._reordering()
        self.found: dict[int, Local] = {}
        self.own = _Kept(folder, "own")
        self.wide = _Kept(folder, "wide")
        self._read: dict[str, Array] = {}
        self.ways: dict[str, Way] = {}
        self.straight: frozenset[str] = frozenset()

    def wants(self, name: str) -> bool:
        return name in self._cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        cut = self._cuts[name]
        self._progress()
        if not self.double and value.dtype.kind in "fV":
            self.own[name] = value.astype(np.float32) if value.dtype.kind == "V" else value
        if name not in self.looking:
            return self.healed(name, value.ndim)
        recorded = self._recorded(cut.reference)
        wanted = self._exact.values(cut.reference, recorded) if cut.computed else recorded
        way, error, place, scale, shape = self._nearest(cut, wanted, value)
        local = Local(
            error, scale, self._rounding(cut), None, cut.epsilon, argmax=place, shape=shape,
            reordered=way is not None and way.arrangement is not None and cut.ways[0].arrangement is None,
            axes=way.axes if way is not None and way != cut.ways[0] else None,
        )  # fmt: skip
        if self.double:
            narrow = self.own.pop(name)
            if narrow is not None and narrow.shape == value.shape:
                local = replace(local, rounding_candidate=apart(value, narrow, masks=cut.masks)[0])
            if local.unlike(0.0):
                self.wide[name] = value
        self.found[cut.index] = local
        for index, other in cut.same:
            given = self._recorded(other)
            off, place, scale = apart(given, recorded) if given.shape == recorded.shape else (math.inf, None, 0.0)
            self.found[index] = Local(off, scale, 0.0, 0.0, cut.epsilon, argmax=place)
        return self.healed(name, value.ndim)

    def _reordering(self) -> frozenset[str]:
        """Where the first walk has to look: at what may become the reference's in several ways, and what reads that."""
        several = [name for name, cut in self._cuts.items() if len(cut.ways) > 1]
        return frozenset([*several, *(reader for name in several for reader in self._cuts[name].readers)])

    def _recorded(self, name: str) -> Array:
        """The reference's own tensor; looked for, and its checksum verified, once."""
        if name not in self._read:
            self._read[name] = self._reference.read(name)
        return self._read[name]

    def healed(self, name: str, rank: int) -> Array | None:
        """What takes the place of a node's tensor; None where no order of the axes fits."""
        cut = self._cuts[name]
        way = cut.ways[0] if name in self.straight else self.ways.get(name, cut.ways[0])
        try:
            return way.to_candidate(self._recorded(cut.heal), rank)
        except ValueError:
            return None

    def _rounding(self, cut: Cut) -> float | None:
        """The reference's own; unknown where what was stored had been rounded further."""
        if self._reference.attributes.get("precision"):
            return None
        return self._exact.rounding.get(cut.reference) if cut.computed else 0.0

    def _nearest(
        self, cut: Cut, wanted: Array, value: Array
    ) -> tuple[Way | None, float, tuple[int, ...] | None, float, tuple[int, ...] | None]:
        """The way in which the value is nearest to what is wanted; None where none makes the shapes equal."""
        ways = [self.ways[cut.candidate]] if cut.candidate in self.ways else list(cut.ways)
        best: tuple[Way | None, float, tuple[int, ...] | None, float, tuple[int, ...] | None] | None = None
        shape: tuple[int, ...] | None = tuple(value.shape)
        for way in ways:
            try:
                ours = way.to_reference(value)
            except ValueError:
                continue
            shape = tuple(ours.shape)
            if ours.shape != wanted.shape:
                continue
            error, place, scale = apart(wanted, ours, masks=cut.masks)
            if best is None or error < best[1]:
                best = (way, error, place, scale, None)
            if error <= 1e-6 * scale:
                break
        if best is None:
            return None, math.inf, None, apart(wanted, wanted, masks=cut.masks)[2], shape
        assert best[0] is not None
        self.ways[cut.candidate] = best[0]
        return best


def local_errors(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    reference: Recording,
    cuts: Mapping[str, Cut],
    exact: Exact,
    folder: Path,
    progress: Progress = lambda: None,
) -> tuple[dict[int, Local], tuple[str, ...]]:
    """What each pair of ``cuts`` adds itself, by the pair's index, and sentences about what could not be done.

    Raises ReplayError where the candidate cannot be run again, ModelError when it raises, TraceError.
    """
    walk = _Walk(cuts, reference, exact, folder, progress)
    model.replay(inputs, walk)
    basis = REFERENCE if exact.folder is not None else NEITHER
    narrow = {index: replace(local, basis=basis) for index, local in walk.found.items()}
    notes = [exact.why] if exact.why else []
    unexpected = frozenset(name for name in cuts if _unexpected(name, cuts, narrow, set()))
    walk.double, walk.found, walk.straight, walk.looking = True, {}, unexpected, cuts
    if unexpected:
        walk.ways.clear()
        for reader in {reader for name in unexpected for reader in cuts[name].readers}:
            walk.own.pop(reader)  # it was fed otherwise
    try:
        model.replay(inputs, walk, double=True)
        basis = BOTH if exact.folder is not None else CANDIDATE
    except ReplayError as error:
        notes.append(str(error))
        walk.double, walk.found = False, {}
        model.replay(inputs, walk)
    wide = {index: replace(local, basis=basis) for index, local in walk.found.items()}
    found = {}
    for cut in cuts.values():
        for index in (cut.index, *(index for index, _ in cut.same)):
            if cut.draws:
                found[index] = Local(why=DRAWS)
            elif index in wide:
                found[index] = wide[index]
            else:
                found[index] = Local(why=f"{cut.candidate} did not run when the candidate was run again")
        if cut.candidate in unexpected:
            found[cut.index] = replace(found[cut.index], unexpected=found[cut.index].reordered)
    _find_coarse(model, inputs, walk, cuts, found)
    return found, tuple(notes)


class _Shaken:
    """Feeds the candidate the reference's activations, each off by one roundoff of its type."""

    def __init__(self, walk: _Walk, cuts: Mapping[str, Cut]) -> None:
        self._walk, self._cuts = walk, cuts
        self._rng = np.random.default_rng(0)
        self.moved: dict[str, float] = {}

    def wants(self, name: str) -> bool:
        return name in self._cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        before = self._walk.wide.pop(name)
        if before is not None and before.shape == value.shape:
            self.moved[name] = apart(before, value, masks=self._cuts[name].masks)[0]
        healed = self._walk.healed(name, value.ndim)
        if healed is None or value.dtype.kind != "f":
            return healed
        off = self._rng.choice((-1.0, 1.0), healed.shape) * self._cuts[name].epsilon
        return np.asarray(dtypes.as_float64(healed) * (1 + off))


def _find_coarse(
    model: LoadedModel, inputs: Mapping[str, Array], walk: _Walk, cuts: Mapping[str, Cut], found: dict[int, Local]
) -> None:
    """Tell layers that compute in less precision than their types say from those that only cancel.

    What cancels moves as much when its inputs are off by their own rounding. Where most layers with weights are coarse
    it is the arithmetic in use (TF32, say), and no layer's fault.
    """
    unlike = {name for name in walk.wide if found[cuts[name].index].unlike(0.0)}
    if not unlike:
        return
    weighted = [name for name, cut in cuts.items() if not cut.masks and found[cut.index].rounding_candidate]
    if 2 * len(unlike.intersection(weighted)) > max(2, len(weighted)):
        return
    shaken = _Shaken(walk, cuts)
    model.replay(inputs, shaken, double=True)
    for name in unlike:
        local = replace(found[cuts[name].index], sensitivity=shaken.moved.get(name))
        found[cuts[name].index] = replace(local, coarse=local.unlike(local.sensitivity))


def _unexpected(name: str, cuts: Mapping[str, Cut], found: Mapping[int, Local], seen: set[str]) -> bool:
    """Whether values that come in another order go on to something that does not expect it.

    What works element by element hands the order on; a kernel with its rows in that order expects it.
    """
    own = found.get(cuts[name].index)
    if own is None or not own.reordered or own.ratio > 1 or name in seen:
        return False
    seen.add(name)
    for reader in cuts[name].readers:
        other = found.get(cuts[reader].index)
        if other is None:
            continue
        if (not other.reordered and other.ratio > 1) or _unexpected(reader, cuts, found, seen):
            return True
    return False
