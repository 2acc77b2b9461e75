"""The error that each layer adds itself: the candidate walked, every node fed the reference's own activations.

What is compared is what a node makes of the same inputs; then the reference's tensor takes its place, so that a
defect is seen where it is and nowhere below. Nodes without a twin run between two that have one.

Float64 is asked for only where it can change what is said. The first walk is in the candidate's own precision; what
it leaves open (:attr:`Local.settled`) the candidate computes in float64 as well, and what is open then the reference,
on its own activations: what both do in float64 is free of rounding, and how far each is from what it does in its own
type is its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.adapter import LoadedModel
from tracer.alignment.consistency import MASKED
from tracer.compare.local import AS_COMPUTED, BOTH, CANDIDATE, DRAWS, ENOUGH, REFERENCE, Local
from tracer.errors import ReplayError
from tracer.rerun.cuts import Cut, Way
from tracer.rerun.measuring import apart
from tracer.store import Recording

Array = NDArray[Any]
Progress = Callable[[], None]
"""Called for each tensor that was judged."""
_IN_MEMORY = 1 << 29
"""Bytes of intermediate results that are kept in memory."""
_Nearest = tuple[Way | None, float, tuple[int, ...] | None, float, tuple[int, ...] | None]


@dataclass
class Walked:
    """What the candidate alone tells.

    Attributes:
        found: local errors by the pair's index.
        files: of each node of the candidate that is still open, the file in the folder that holds how far what it
            gives is from what the reference gave: in the reference's axes, float32, zero where neither is finite.
        double: whether the candidate ran in float64, where it was to.
        notes: sentences about what could not be done.
    """

    found: dict[int, Local]
    files: dict[str, str] = field(default_factory=dict)
    double: bool = True
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """A node of the candidate against the reference in float64: as in :class:`Local`."""

    error: float
    argmax: tuple[int, ...] | None
    rounding: float | None


class _Known(Mapping[str, Array]):
    """The activations of the reference that need not be computed, each read when it is asked for."""

    def __init__(self, names: Collection[str], get: Callable[[str], Array]) -> None:
        self._names, self._get = names, get

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._get(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Kept:
    """Arrays by name, of which those beyond a size lie in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrays: dict[str, Array | Path] = {}
        self._left = _IN_MEMORY

    def __setitem__(self, name: str, values: Array) -> None:
        self._left -= values.nbytes
        if self._left >= 0:
            self._arrays[name] = values.copy()  # the model goes on with its own
            return
        path = self._folder / f"own-{len(self._arrays)}.npy"
        np.save(path, values)
        self._arrays[name] = path

    def pop(self, name: str) -> Array | None:
        found = self._arrays.pop(name, None)
        return np.load(found) if isinstance(found, Path) else found


class _Walk:
    """Walks through the candidate on the reference's activations: first in its own precision, then in float64."""

    def __init__(self, cuts: Mapping[str, Cut], reference: Recording, folder: Path, progress: Progress) -> None:
        self._cuts, self._reference, self._folder = cuts, reference, folder
        self._progress = progress
        self.double = False
        self.last = False
        """Whether no walk in float64 comes after one that is not."""
        self.looking: Collection[str] = cuts
        self.found: dict[int, Local] = {}
        self.files: dict[str, str] = {}
        self.own = _Kept(folder)
        self._read: dict[str, Array] = {}
        self._ranks: dict[str, int] = {}
        self.ways: dict[str, Way] = {}
        self.straight: Collection[str] = ()

    def run(self, model: LoadedModel, inputs: Mapping[str, Array], looking: Collection[str], *, double: bool) -> None:
        """Walk once and look at some nodes. Raises what :meth:`LoadedModel.replay` raises."""
        self.double, self.looking = double, looking
        if double:
            fed = {name for name in self._ranks if name not in looking}
            known = _Known(fed, lambda name: self._in_place_of(name, self._ranks[name]))
            model.replay_rest(inputs, self, known, double=True)
        else:
            model.replay(inputs, self)

    def wants(self, name: str) -> bool:
        return name in self._cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        cut = self._cuts[name]
        healed = self.healed(name, value.ndim)
        if name not in self.looking:
            return healed
        before = self.ways.get(name, cut.ways[0])
        if healed is not None:
            healed = np.ascontiguousarray(healed)
        self._progress()
        recorded = self._recorded(cut.reference)
        way, error, place, scale, shape = self._nearest(cut, recorded, value, healed)
        local = Local(
            error, scale, None if cut.computed else 0.0, None, cut.epsilon, argmax=place, shape=shape,
            reordered=way is not None and way.arrangement is not None and cut.ways[0].arrangement is None,
            axes=way.axes if way is not None and way != cut.ways[0] else None,
        )  # fmt: skip
        if self.double:
            local = self._in_float64(cut, local, way, recorded, value)
        elif local.settled:
            local = replace(local, basis=AS_COMPUTED)
        else:
            if value.dtype.kind in "fV":
                self.own[name] = value.astype(np.float32) if value.dtype.kind == "V" else value
            if self.last:
                self._save(cut, local, way, recorded, value)
        self.found[cut.index] = local
        for index, other in cut.same:
            given = self._recorded(other)
            off, place, scale = apart(given, recorded) if given.shape == recorded.shape else (math.inf, None, 0.0)
            self.found[index] = Local(off, scale, 0.0, 0.0, cut.epsilon, BOTH, argmax=place)
        if self.ways.get(name, before) != before:
            healed = self.healed(name, value.ndim)
        if healed is not None:
            self._ranks[name] = value.ndim
        return healed

    def _in_float64(self, cut: Cut, local: Local, way: Way | None, recorded: Array, value: Array) -> Local:
        narrow = self.own.pop(cut.candidate)
        if narrow is not None and narrow.shape == value.shape:
            local = replace(local, rounding_candidate=apart(value, narrow, masks=cut.masks)[0])
        self.files.pop(cut.candidate, None)
        if local.settled:
            return replace(local, basis=ENOUGH)
        self._save(cut, local, way, recorded, value)
        return replace(local, basis=CANDIDATE if local.rounding_reference is None else BOTH)

    def _save(self, cut: Cut, local: Local, way: Way | None, recorded: Array, value: Array) -> None:
        """Keep how far a value is from the recorded one, if the reference in float64 can tell more of it."""
        if way is None or not math.isfinite(local.error):
            return
        with np.errstate(all="ignore"):
            away = np.subtract(_double(way.to_reference(value)), _double(recorded)).astype(np.float32)
        away[~np.isfinite(away)] = 0
        self.files[cut.candidate] = f"open-{cut.index}.npy"
        np.save(self._folder / self.files[cut.candidate], away)

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

    def _in_place_of(self, name: str, rank: int) -> Array:
        found = self.healed(name, rank)
        assert found is not None
        return found

    def _nearest(self, cut: Cut, wanted: Array, value: Array, healed: Array | None) -> _Nearest:
        """The way in which the value is nearest to what is wanted; None where none makes the shapes equal."""
        ways = [self.ways[cut.candidate]] if cut.candidate in self.ways else list(cut.ways)
        axes = ways[0].axes
        if (
            len(ways) == 1 and axes is not None and cut.heal == cut.reference and cut.candidate not in self.straight
            and healed is not None and healed.shape == value.shape
        ):  # fmt: skip
            # In the candidate's axes, in which its memory is read in order.
            error, place, scale = apart(healed, value, masks=cut.masks)
            self.ways[cut.candidate] = ways[0]
            if place is not None:
                place = tuple(0 if axis is None else place[axis] for axis in axes)
            return ways[0], error, place, scale, None
        best: _Nearest | None = None
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


def walked(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    reference: Recording,
    cuts: Mapping[str, Cut],
    folder: Path,
    progress: Progress = lambda: None,
) -> Walked:
    """Run the candidate on the reference's activations, in float64 where its own precision leaves something open.

    Raises ReplayError where it cannot be run again, ModelError when it raises, TraceError.
    """
    walk = _Walk(cuts, reference, folder, progress)
    walk.run(model, inputs, cuts, double=False)
    out = Walked(walk.found, walk.files)
    reordered = _unexpected(cuts, walk.found)
    open_ = {name for name, cut in cuts.items() if cut.index in walk.found and not walk.found[cut.index].settled}
    readers = {reader for name in reordered for reader in cuts[name].readers}
    if open_ or readers:
        try:
            walk.run(model, inputs, open_ | readers, double=True)
        except ReplayError as error:
            out.double, out.notes = False, [str(error)]
            walk.last = True
            walk.files.clear()
            walk.run(model, inputs, open_ | readers, double=False)
    walk.straight = _unexpected(cuts, walk.found) if reordered else ()
    if walk.straight:
        readers = {reader for name in walk.straight for reader in cuts[name].readers}
        for reader in readers:  # it was fed otherwise
            walk.own.pop(reader)
            walk.ways.pop(reader, None)
        walk.run(model, inputs, readers, double=out.double)
        for name in walk.straight:
            index = cuts[name].index
            walk.found[index] = replace(walk.found[index], unexpected=walk.found[index].reordered)
    return out


def against(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    recording: Recording,
    cuts: Mapping[str, Cut],
    files: Mapping[str, str],
    folder: Path,
    progress: Progress = lambda: None,
) -> dict[str, Compared]:
    """Run the reference in float64 on its own activations, and compare with what :func:`walked` left open.

    Raises ReplayError where it cannot be run so, ModelError, TraceError.
    """
    own = _Own(recording, cuts, files, folder, progress)
    model.replay_rest(inputs, own, _Known(own.fed - own.open.keys(), recording.read), double=True)
    return own.compared


class _Own:
    """Feeds a model its own activations and compares what it makes of them in float64."""

    def __init__(
        self, recording: Recording, cuts: Mapping[str, Cut], files: Mapping[str, str], folder: Path, progress: Progress
    ) -> None:
        self._recording, self._files, self._folder, self._progress = recording, files, folder, progress
        self.fed = {name for cut in cuts.values() for name in (cut.reference, cut.heal)}
        self.open: dict[str, list[Cut]] = {}
        for name in files:
            self.open.setdefault(cuts[name].reference, []).append(cuts[name])
        self.compared: dict[str, Compared] = {}

    def wants(self, name: str) -> bool:
        return name in self.fed

    def __call__(self, name: str, value: Array) -> Array | None:
        recorded = self._recording.read(name)
        for cut in self.open.get(name, ()) if recorded.shape == value.shape else ():
            self._progress()
            away: Array = np.load(self._folder / self._files[cut.candidate])
            self.compared[cut.candidate] = self._compared(cut, recorded, value, away)
        return recorded

    def _compared(self, cut: Cut, recorded: Array, value: Array, away: Array) -> Compared:
        """``value`` (in float64) against what is ``away`` from the recorded one."""
        further = bool(self._recording.attributes.get("precision"))  # what was stored had been rounded further
        if recorded.dtype.kind in "biuc":
            known = _double(recorded)
            error, place, _ = apart(known, known + away, masks=cut.masks)
            return Compared(error, place, None)
        with np.errstate(all="ignore"):
            own = np.subtract(value, _double(recorded) if recorded.dtype.kind == "V" else recorded, dtype=np.float64)
        if not np.isfinite(own.min(initial=0.0) + own.max(initial=0.0)):
            own[~np.isfinite(own)] = 0
        if recorded.min(initial=0.0) <= MASKED:
            own[(recorded <= MASKED) & (value <= MASKED)] = 0
            hidden = (recorded <= MASKED) & (recorded + away <= MASKED) if cut.masks else np.False_
            away = np.where(hidden, own, away)
        rounding = max(float(own.max(initial=0.0)), -float(own.min(initial=0.0)))
        error, place, _ = apart(own, away)
        return Compared(error, place, None if further else rounding)


def local_errors(
    cuts: Mapping[str, Cut],
    candidate: Callable[[], Walked],
    reference: Callable[[Walked], Mapping[str, Compared]],
    shake: Callable[[Walked, Sequence[str]], Mapping[str, float]],
) -> tuple[dict[int, Local], tuple[str, ...]]:
    """What each pair of ``cuts`` adds itself, by the pair's index, and sentences about what could not be done.

    Args:
        candidate: does :func:`walked`.
        reference: does :func:`against`; called only where something is open. A ReplayError is one of the sentences.
        shake: does :func:`shaken`, for nodes of the candidate; seldom called.

    Raises what ``candidate`` and ``shake`` raise, and everything else of ``reference``.
    """
    alone = candidate()
    found, notes = alone.found, list(alone.notes)
    compared: Mapping[str, Compared] = {}
    if any(found[cuts[name].index].rounding_reference is None for name in alone.files):
        try:
            compared = reference(alone)
        except ReplayError as error:
            notes.append(str(error))
    for name, result in compared.items():
        index = cuts[name].index
        basis = BOTH if found[index].basis == CANDIDATE else REFERENCE
        found[index] = replace(
            found[index], error=result.error, argmax=result.argmax, rounding_reference=result.rounding, basis=basis
        )
    coarse = _less_precise(cuts, found)
    if coarse:
        moved = shake(alone, coarse)
        for name in coarse:
            local = replace(found[cuts[name].index], sensitivity=moved.get(name))
            found[cuts[name].index] = replace(local, coarse=local.unlike(local.sensitivity))
    for cut in cuts.values():
        for index in (cut.index, *(index for index, _ in cut.same)):
            if cut.draws:
                found[index] = Local(why=DRAWS)
            elif index not in found:
                found[index] = Local(why=f"{cut.candidate} did not run when the candidate was run again")
    return found, tuple(notes)


def _less_precise(cuts: Mapping[str, Cut], found: Mapping[int, Local]) -> list[str]:
    """Nodes one side of which rounds far more than the other; none where that is the arithmetic in use.

    That is so (TF32, say) where most layers with weights are like this, and no layer's fault.
    """
    known = {name: found[cut.index] for name, cut in cuts.items() if cut.index in found and not cut.draws}
    unlike = [name for name, local in known.items() if local.unlike(0.0)]
    weighted = [
        name
        for name, local in known.items()
        if not cuts[name].masks and (local.basis == AS_COMPUTED or local.rounding_candidate)
    ]
    return [] if 2 * len(set(unlike).intersection(weighted)) > max(2, len(weighted)) else unlike


class _Shaken:
    """Feeds the candidate the reference's activations, each off by one roundoff of its type."""

    def __init__(self, walk: _Walk, cuts: Mapping[str, Cut], names: Collection[str], before: Callable[[str], Array]):
        self._walk, self._cuts, self._names, self._before = walk, cuts, names, before
        self._rng = np.random.default_rng(0)
        self.moved: dict[str, float] = {}

    def wants(self, name: str) -> bool:
        return name in self._cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        cut = self._cuts[name]
        if name in self._names:
            before, now = self._before(name), self._walk.ways[name].to_reference(value)
            if before.shape == now.shape:
                self.moved[name] = apart(before, now, masks=cut.masks)[0]
        healed = self._walk.healed(name, value.ndim)
        if healed is None or value.dtype.kind != "f":
            return healed
        off = self._rng.choice((-1.0, 1.0), healed.shape) * cut.epsilon
        return np.asarray(dtypes.as_float64(healed) * (1 + off))


def shaken(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    reference: Recording,
    cuts: Mapping[str, Cut],
    alone: Walked,
    names: Sequence[str],
    folder: Path,
) -> dict[str, float]:
    """How much nodes of the candidate move in float64 when its inputs are off by their own rounding.

    That tells layers that compute in less precision than their types say from those that only cancel. ``names`` are of
    ``alone.files``. Raises as :func:`walked`.
    """
    walk = _Walk(cuts, reference, folder, lambda: None)
    for name, cut in cuts.items():
        local = alone.found.get(cut.index)
        if local is None:
            continue
        turned = (
            way for way in cut.ways if way.axes == local.axes and (way.arrangement is not None) == local.reordered
        )
        walk.ways[name] = next(turned, cut.ways[0]) if local.axes is not None or local.reordered else cut.ways[0]
    walk.straight = {
        name for name, cut in cuts.items() if cut.index in alone.found and alone.found[cut.index].unexpected
    }

    def before(name: str) -> Array:
        away: Array = np.load(folder / alone.files[name])
        return np.asarray(_double(reference.read(cuts[name].reference)) + away)

    watch = _Shaken(walk, cuts, {name for name in names if name in alone.files}, before)
    model.replay(inputs, watch, double=True)
    return watch.moved


def _double(values: Array) -> Array:
    return values if values.dtype == np.float64 else dtypes.as_float64(values)


def _unexpected(cuts: Mapping[str, Cut], found: Mapping[int, Local]) -> frozenset[str]:
    """The nodes whose values come in another order and go on to something that does not expect it."""
    return frozenset(name for name in cuts if _goes_wrong(name, cuts, found, set()))


def _goes_wrong(name: str, cuts: Mapping[str, Cut], found: Mapping[int, Local], seen: set[str]) -> bool:
    """What works element by element hands the order on; a kernel with its rows in that order expects it."""
    own = found.get(cuts[name].index)
    if own is None or not own.reordered or own.ratio > 1 or name in seen:
        return False
    seen.add(name)
    for reader in cuts[name].readers:
        other = found.get(cuts[reader].index)
        if other is None:
            continue
        if (not other.reordered and other.ratio > 1) or _goes_wrong(reader, cuts, found, seen):
            return True
    return False
