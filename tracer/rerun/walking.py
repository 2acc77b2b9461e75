"""The walk through the candidate, on the reference's activations: what :mod:`tracer.rerun.local` looks at there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracer import dtypes
from tracer.adapter import LoadedModel
from tracer.batches import Samples
from tracer.compare.local import AS_COMPUTED, BOTH, CANDIDATE, ENOUGH, NEITHER, Local
from tracer.rerun.batched import Parts, resized, together
from tracer.rerun.cuts import Cut, Way
from tracer.rerun.measuring import apart
from tracer.store import Recording

Array = NDArray[Any]
Progress = Callable[[], None]
"""Called for each tensor that was judged."""
_IN_MEMORY = 1 << 29
"""Bytes of intermediate results that are kept in memory."""
_Nearest = tuple[Way | None, float, tuple[int, ...] | None, float, tuple[int, ...] | None]


class Known(Mapping[str, Array]):
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


class Walk:
    """Walks through the candidate on the reference's activations: first in its own precision, then in float64."""

    def __init__(
        self, cuts: Mapping[str, Cut], reference: Recording, folder: Path, progress: Progress, parts: Parts
    ) -> None:
        self.cuts, self._reference, self._folder, self._parts = cuts, reference, folder, parts
        self._progress = progress
        self.samples = Samples()
        self._keeping: Collection[str] = ()
        self.double = False
        self.last = False
        """Whether no walk in float64 comes after one that is not."""
        self.looking: Collection[str] = cuts
        self.found: dict[int, Local] = {}
        self.files: dict[str, str] = {}
        self.own = _Kept(folder)
        self._read: dict[str, Array] = {}
        self._ranks: dict[str, int] = {}
        self.ways: dict[str, int] = {}
        """Which of its ways a node's tensor goes, once that is known."""
        self._tried: dict[str, dict[int, float]] = {}
        """The errors along each of a node's ways in the batches so far, where that is not known yet."""
        self.straight: Collection[str] = ()

    def run(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        looking: Collection[str],
        *,
        double: bool,
        rounding: bool = False,
    ) -> None:
        """Walk once through all batches and look at some nodes; in ``double``, if wanted, also at their ``rounding``.

        Raises what :meth:`LoadedModel.replay` raises.
        """
        self.double, self.looking = double, looking
        while self._turned(model, inputs, rounding):
            pass
        for name in looking:
            self._conclude(self.cuts[name])

    def _turned(self, model: LoadedModel, inputs: Mapping[str, Array], rounding: bool) -> bool:
        """Walk; whether a batch went another way than one before it, which was fed wrongly then."""
        self._tried = {}
        turned = False
        for samples, given in self._parts.split.each(inputs):
            self.samples = samples
            before = dict(self.ways)
            if rounding and self.double and not self.samples.all:
                self._keeping = self.looking
                model.replay(given, self)
                self._keeping = ()
            if self.double:
                fed = {name for name in self._ranks if name not in self.looking}
                known = Known(fed, lambda name: self._in_place_of(name, self._ranks[name]))
                model.replay_rest(given, self, known, double=True)
            else:
                model.replay(given, self)
            turned = turned or any(self.ways[name] != way for name, way in before.items())
        return turned

    def wants(self, name: str) -> bool:
        return name in self.cuts

    def __call__(self, name: str, value: Array) -> Array | None:
        cut = self.cuts[name]
        healed = self.healed(name, value.ndim)
        if name in self._keeping:
            self._keep(name, value)
        if name not in self.looking or self._keeping:
            return healed
        before = self.ways.get(name, 0)
        if healed is not None:
            healed = np.ascontiguousarray(healed)
        self._progress()
        recorded = self.recorded(cut.reference)
        way, error, place, scale, shape = self._nearest(cut, recorded, value, healed)
        taken = cut.ways[self.ways.get(name, 0)]
        local = Local(
            error, scale, None if cut.computed else 0.0, None, cut.epsilon, argmax=place, shape=shape,
            reordered=way is not None and taken.arrangement is not None and cut.ways[0].arrangement is None,
            axes=taken.axes if way is not None and taken != cut.ways[0] else None,
        )  # fmt: skip
        if self.double:
            narrow = self.own.pop(name)
            if narrow is not None and narrow.shape == value.shape:
                local = replace(local, rounding_candidate=apart(value, narrow, masks=cut.masks)[0])
        elif self.samples.all and not local.settled:
            self._keep(name, value)
        # What one batch settles all together may leave open.
        if (self.double or self.last) and not (local.settled and self.samples.all):
            self._save(cut, local, way, recorded, value)
        self._note(cut.index, cut.reference, local)
        for index, other in cut.same:
            given = self.recorded(other)
            off, place, scale = apart(given, recorded) if given.shape == recorded.shape else (math.inf, None, 0.0)
            self._note(index, other, Local(off, scale, 0.0, 0.0, cut.epsilon, BOTH, argmax=place))
        if self.ways.get(name, before) != before:
            healed = self.healed(name, value.ndim)
        if healed is not None:
            self._ranks[name] = value.ndim
        return healed

    def _keep(self, name: str, value: Array) -> None:
        if value.dtype.kind in "fV":
            self.own[name] = value.astype(np.float32) if value.dtype.kind == "V" else value

    def _note(self, index: int, name: str, local: Local) -> None:
        """Add what was found of a pair; ``name`` is the reference's node."""
        if not self.samples.all:
            axis, whole = self._parts.axes[name], self._read[name].shape
            place, shape = self.samples.place(local.argmax, axis, whole), self.samples.shape(local.shape, axis)
            local = replace(local, argmax=place, shape=shape)
        later = self.samples.start > 0 and index in self.found
        self.found[index] = together(self.found[index], local) if later else local

    def _conclude(self, cut: Cut) -> None:
        """Say what the figures of a pair rest on, now that all batches are known."""
        local = self.found.get(cut.index)
        if local is None:
            return
        basis = (CANDIDATE if local.rounding_reference is None else BOTH) if self.double else NEITHER
        if local.settled:
            basis = ENOUGH if self.double else AS_COMPUTED
        if local.settled or not math.isfinite(local.error):
            self.files.pop(cut.candidate, None)
        self.found[cut.index] = replace(local, basis=basis)

    def _save(self, cut: Cut, local: Local, way: Way | None, recorded: Array, value: Array) -> None:
        """Keep how far a value is from the recorded one, if the reference in float64 can tell more of it."""
        if way is None or not math.isfinite(local.error):
            return
        with np.errstate(all="ignore"):
            away = np.subtract(double(way.to_reference(value)), double(recorded)).astype(np.float32)
        away[~np.isfinite(away)] = 0
        self.files[cut.candidate] = f"open-{cut.index}.npy"
        path = self._folder / self.files[cut.candidate]
        if self.samples.all:
            np.save(path, away)
            return
        mode: Literal["r+", "w+"] = "w+" if not self.samples.start else "r+"
        shape = self._read[cut.reference].shape
        whole = np.lib.format.open_memmap(path, mode, np.dtype(np.float32), shape)
        self.samples.of(whole, self._parts.axes[cut.reference])[...] = away

    def recorded(self, name: str) -> Array:
        """The reference's own tensor; looked for, and its checksum verified, once."""
        if name not in self._read:
            self._read[name] = self._reference.read(name)
        return self.samples.of(self._read[name], self._parts.axes.get(name))

    def way(self, name: str, at: int | None = None) -> Way:
        """The way that a node's tensor goes in this batch, or the one that stands at ``at``."""
        taken = self.ways.get(name, 0) if at is None else at
        return resized(self.cuts[name].ways[taken], self.samples, self._parts.split.axis(name))

    def healed(self, name: str, rank: int) -> Array | None:
        """What takes the place of a node's tensor; None where no order of the axes fits."""
        cut = self.cuts[name]
        way = self.way(name, 0 if name in self.straight else None)
        try:
            return way.to_candidate(self.recorded(cut.heal), rank)
        except ValueError:
            return None

    def _in_place_of(self, name: str, rank: int) -> Array:
        found = self.healed(name, rank)
        assert found is not None
        return found

    def _nearest(self, cut: Cut, wanted: Array, value: Array, healed: Array | None) -> _Nearest:
        """The way in which the value is nearest to what is wanted; None where none makes the shapes equal."""
        name, tried = cut.candidate, self._tried.get(cut.candidate)
        known = name in self.ways and tried is None
        places = [self.ways[name]] if known else list(range(len(cut.ways)))
        axes = self.way(name, places[0]).axes
        if (
            len(places) == 1 and axes is not None and cut.heal == cut.reference and name not in self.straight
            and healed is not None and healed.shape == value.shape
        ):  # fmt: skip
            # In the candidate's axes, in which its memory is read in order.
            error, place, scale = apart(healed, value, masks=cut.masks)
            self.ways[name] = places[0]
            if place is not None:
                place = tuple(0 if axis is None else place[axis] for axis in axes)
            return self.way(name), error, place, scale, None
        fitting: dict[int, tuple[float, tuple[int, ...] | None, float]] = {}
        shape: tuple[int, ...] | None = tuple(value.shape)
        for at in places:
            try:
                ours = self.way(name, at).to_reference(value)
            except ValueError:
                continue
            shape = tuple(ours.shape)
            if ours.shape != wanted.shape:
                continue
            fitting[at] = apart(wanted, ours, masks=cut.masks)
            if self.samples.all and fitting[at][0] <= 1e-6 * fitting[at][2]:
                break
        if not fitting:
            return None, math.inf, None, apart(wanted, wanted, masks=cut.masks)[2], shape
        errors = {
            at: found[0] if tried is None else max(found[0], tried.get(at, math.inf)) for at, found in fitting.items()
        }
        self.ways[name] = best = min(errors, key=lambda at: errors[at])
        if not self.samples.all and not known:
            self._tried[name] = errors
        return (self.way(name), *fitting[best], None)


def double(values: Array) -> Array:
    """``values`` in float64."""
    return values if values.dtype == np.float64 else dtypes.as_float64(values)
