"""The error that each layer adds itself: the candidate walked, every node fed the reference's own activations.

What is compared is what a node makes of the same inputs; then the reference's tensor takes its place, so that a
defect is seen where it is and nowhere below. Nodes without a twin run between two that have one.

Float64 is asked for only where it can change what is said. The first walk is in the candidate's own precision; what
it leaves open (:attr:`Local.settled`) the candidate computes in float64 as well, and what is open then the reference,
on its own activations: what both do in float64 is free of rounding, and how far each is from what it does in its own
type is its rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.adapter import LoadedModel
from tracer.alignment.consistency import MASKED
from tracer.batches import WHOLE, Samples, Split
from tracer.compare.local import AS_COMPUTED, BOTH, CANDIDATE, DRAWS, REFERENCE, Local
from tracer.errors import ReplayError
from tracer.rerun.batched import ONE, Parts, most
from tracer.rerun.cuts import Cut
from tracer.rerun.measuring import apart
from tracer.rerun.walking import Known, Progress, Walk, double
from tracer.store import Recording

Array = NDArray[Any]


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

    def beside(self, other: Compared | None) -> Compared:
        """What two batches tell together."""
        if other is None:
            return self
        larger = self if not other.error >= self.error else other
        return Compared(larger.error, larger.argmax, most(self.rounding, other.rounding))


def walked(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    reference: Recording,
    cuts: Mapping[str, Cut],
    folder: Path,
    progress: Progress = lambda: None,
    parts: Parts = ONE,
) -> Walked:
    """Run the candidate on the reference's activations, in float64 where its own precision leaves something open.

    ``inputs`` is what it was fed in all of its ``parts``.

    Raises ReplayError where it cannot be run again, ModelError when it raises, TraceError.
    """
    walk = Walk(cuts, reference, folder, progress, parts)
    walk.run(model, inputs, cuts, double=False)
    out = Walked(walk.found, walk.files)
    reordered = _unexpected(cuts, walk.found)
    open_ = {name for name, cut in cuts.items() if cut.index in walk.found and not walk.found[cut.index].settled}
    readers = {reader for name in reordered for reader in cuts[name].readers}
    if open_ or readers:
        try:
            walk.run(model, inputs, open_ | readers, double=True, rounding=True)
        except ReplayError as error:
            out.double, out.notes = False, [str(error)]
            walk.last = True
            walk.files.clear()
            walk.run(model, inputs, open_ | readers, double=False)
    straight = _unexpected(cuts, walk.found) if reordered else frozenset()
    if straight:
        carried = dict(walk.found)
        _refed(walk, straight, straight, model, inputs, out.double)
        righted = frozenset(name for name in straight if _righted(name, cuts, carried, walk.found, straight))
        if righted != straight:
            _refed(walk, straight - righted, righted, model, inputs, out.double)
        for name in righted:
            index = cuts[name].index
            walk.found[index] = replace(walk.found[index], unexpected=walk.found[index].reordered)
    return out


def _refed(
    walk: Walk,
    names: Collection[str],
    straight: Collection[str],
    model: LoadedModel,
    inputs: Mapping[str, Array],
    double: bool,
) -> None:
    """Run what reads ``names`` again, now that those in ``straight`` give the reference's order."""
    walk.straight = straight
    readers = {reader for name in names for reader in walk.cuts[name].readers}
    for reader in readers:
        walk.own.pop(reader)
        walk.ways.pop(reader, None)
    walk.run(model, inputs, readers, double=double)


def against(
    model: LoadedModel,
    inputs: Mapping[str, Array],
    recording: Recording,
    cuts: Mapping[str, Cut],
    files: Mapping[str, str],
    folder: Path,
    progress: Progress = lambda: None,
    split: Split = WHOLE,
) -> dict[str, Compared]:
    """Run the reference in float64 on its own activations, and compare with what :func:`walked` left open.

    ``inputs`` is what it was fed in all the runs of ``split``.

    Raises ReplayError where it cannot be run so, ModelError, TraceError.
    """
    own = _Own(recording, cuts, files, folder, progress, split)
    for samples, given in split.each(inputs):
        own.samples = samples
        model.replay_rest(given, own, Known(own.fed - own.open.keys(), own.read), double=True)
    return own.compared


class _Own:
    """Feeds a model its own activations and compares what it makes of them in float64."""

    def __init__(
        self, recording: Recording, cuts: Mapping[str, Cut], files: Mapping[str, str], folder: Path,
        progress: Progress, split: Split,
    ) -> None:  # fmt: skip
        self._recording, self._files, self._folder, self._progress = recording, files, folder, progress
        self._split = split
        self.samples = Samples()
        self.fed = {name for cut in cuts.values() for name in (cut.reference, cut.heal)}
        self.open: dict[str, list[Cut]] = {}
        for name in files:
            self.open.setdefault(cuts[name].reference, []).append(cuts[name])
        self._whole: dict[str, Array] = {}
        self.compared: dict[str, Compared] = {}

    def wants(self, name: str) -> bool:
        return name in self.fed

    def read(self, name: str) -> Array:
        """What was recorded; its checksum is verified once."""
        if name not in self._whole:
            self._whole[name] = self._recording.read(name)
        return self._part(self._whole[name], name)

    def _part(self, whole: Array, name: str) -> Array:
        return self.samples.of(whole, self._split.axis(name))

    def __call__(self, name: str, value: Array) -> Array | None:
        recorded = self.read(name)
        for cut in self.open.get(name, ()) if recorded.shape == value.shape else ():
            self._progress()
            whole = np.load(self._folder / self._files[cut.candidate], mmap_mode=None if self.samples.all else "r")
            found = self._compared(cut, recorded, value, self._part(whole, name))
            place = self.samples.place(found.argmax, self._split.axis(name), whole.shape)
            before = self.compared.get(cut.candidate)
            self.compared[cut.candidate] = replace(found, argmax=place).beside(before)
        return recorded

    def _compared(self, cut: Cut, recorded: Array, value: Array, away: Array) -> Compared:
        """``value`` (in float64) against what is ``away`` from the recorded one."""
        further = bool(self._recording.attributes.get("precision"))  # what was stored had been rounded further
        if recorded.dtype.kind in "biuc":
            known = double(recorded)
            error, place, _ = apart(known, known + away, masks=cut.masks)
            return Compared(error, place, None)
        with np.errstate(all="ignore"):
            own = np.subtract(value, double(recorded) if recorded.dtype.kind == "V" else recorded, dtype=np.float64)
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
    finest = [name for name in alone.files if (own := found[cuts[name].index]).finest and own.ratio > 1]
    if coarse or finest:
        moved = shake(alone, [*coarse, *finest])
        for name in (*coarse, *finest):
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

    def __init__(self, walk: Walk, cuts: Mapping[str, Cut], names: Collection[str], before: Callable[[str], Array]):
        self._walk, self._cuts, self._names, self._before = walk, cuts, names, before
        self._rng = np.random.default_rng(0)
        self.moved: dict[str, float] = {}

    def wants(self, name: str) -> bool:
        return name in self._cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        cut = self._cuts[name]
        if name in self._names:
            before, now = self._before(name), self._walk.way(name).to_reference(value)
            if before.shape == now.shape:
                moved = apart(before, now, masks=cut.masks)[0]
                self.moved[name] = max(moved, self.moved.get(name, 0.0))
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
    parts: Parts = ONE,
) -> dict[str, float]:
    """How much nodes of the candidate move in float64 when its inputs are off by their own rounding.

    That tells layers that compute in less precision than their types say from those that only cancel. ``names`` are of
    ``alone.files``. Raises as :func:`walked`.
    """
    walk = Walk(cuts, reference, folder, lambda: None, parts)
    for name, cut in cuts.items():
        local = alone.found.get(cut.index)
        if local is None:
            continue
        moved = local.axes is not None or local.reordered
        turned = (
            at
            for at, way in enumerate(cut.ways)
            if way.axes == local.axes and (way.arrangement is not None) == local.reordered
        )
        walk.ways[name] = next(turned, 0) if moved else 0
    walk.straight = {
        name for name, cut in cuts.items() if cut.index in alone.found and alone.found[cut.index].unexpected
    }

    def before(name: str) -> Array:
        whole = np.load(folder / alone.files[name], mmap_mode=None if walk.samples.all else "r")
        away = walk.samples.of(whole, parts.axes.get(cuts[name].reference))
        return np.asarray(double(walk.recorded(cuts[name].reference)) + away)

    watch = _Shaken(walk, cuts, {name for name in names if name in alone.files}, before)
    for samples, given in parts.split.each(inputs):
        walk.samples = samples
        model.replay(given, watch, double=True)
    return watch.moved


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
        wrong = not other.reordered and other.ratio > 1 and reader not in cuts[name].owed
        if wrong or _goes_wrong(reader, cuts, found, seen):
            return True
    return False


def _righted(
    name: str,
    cuts: Mapping[str, Cut],
    carried: Mapping[int, Local],
    found: Mapping[int, Local],
    straight: Collection[str],
) -> bool:
    """Whether something that reads a node comes nearer to the reference in the reference's order than as carried on.

    If nothing does the order is right, and what reads it is wrong by itself.
    """
    for reader in cuts[name].readers:
        index = cuts[reader].index
        if index not in carried or index not in found:
            continue
        if reader in straight:
            if _righted(reader, cuts, carried, found, straight):
                return True
        elif carried[index].ratio > 1 and not carried[index].reordered and found[index].error < carried[index].error:
            return True
    return False
