"""The tensors of a pair, read when they are needed: what was found once is kept with the trace."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tracer.alignment import Alignment, Pair
from tracer.alignment import axes as axes_
from tracer.alignment.arrange import Rearrangement
from tracer.compare import compiled
from tracer.compare.judging import Of
from tracer.compare.local import Local, Measured
from tracer.compare.plain import from_plain, pairs_from_plain, pairs_from_record, plain_pairs, to_plain
from tracer.compare.stats import Stats, compare, outside
from tracer.compare.verdict import Tolerance
from tracer.errors import TraceError
from tracer.graph import Node, Structure
from tracer.kinds import LAYOUT_ONLY
from tracer.store import Recording, Stored, comparisons

VERSION = 2
"""Of the statistics: raised whenever a figure changes its meaning or a new one is kept."""
_AGAIN = "again"
"""What the entry of a measurement begins with, where the others say what is compared."""
_PAIRED = "paired"
"""And that of an alignment."""
_COUNTS = 8
"""Tolerances for which the count of elements outside is kept."""
_STEPS = 32
"""Layers that are looked through for one that says where the channels are."""

_Both = tuple[NDArray[Any], NDArray[Any]]
Way = Literal["moved", "arranged", "sorted"]


@dataclass(frozen=True)
class Work:
    """Two tensors to be laid side by side and compared: all that this depends on but the recordings they lie in.

    Attributes:
        way: the candidate's axes ``moved`` to the reference's; rearranged as ``arrangement`` says, factor by factor, so
            that nothing is copied; or both ``sorted``, their elements in ascending order.
        channels, coarsest, rms, compiled: as :func:`tracer.compare.stats.compare` takes them.
    """

    way: Way
    stored: tuple[Stored, Stored]
    axes: tuple[int | None, ...] | None
    arrangement: Rearrangement | None
    channels: int | None
    coarsest: str
    rms: float | None
    atol: float
    rtol: float
    compiled: bool

    def views(self, sides: tuple[Recording, Recording], verify: bool) -> _Both:
        """Both tensors side by side, their checksums verified or not. Raises TraceError, ValueError."""
        ours, theirs = (side.read_stored(one, verify=verify) for side, one in zip(sides, self.stored, strict=True))
        if self.way == "sorted":
            return np.sort(ours, axis=None), np.sort(theirs, axis=None)
        if self.way == "arranged":
            assert self.arrangement is not None
            return self.arrangement.factored(ours, theirs)
        assert self.axes is not None
        return ours, axes_.apply(theirs, self.axes)

    def stats(self, sides: tuple[Recording, Recording], pool: Executor | None = None) -> Stats:
        """The statistics, whose parts are worked out in ``pool``. Raises as :meth:`views`."""
        return compare(
            *self.views(sides, True), self.atol, self.rtol, channels=self.channels, coarsest=self.coarsest,
            rms=self.rms, compiled=self.compiled, pool=pool,
        )  # fmt: skip


@dataclass
class _Entry:
    """What is known of one pair: statistics by the way the tensors were laid side by side (``plain``: as JSON values),
    and counts of what is outside by tolerance."""

    stats: dict[str, Stats] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, list[tuple[float, float, int]]] = field(default_factory=dict)


Spread = Callable[[Work], Callable[[], Stats]]
"""Begins a piece of work; what it gives waits for the end of it, and raises what the work does."""


class Kept:
    """The comparisons of two recordings that the trace holds, and what is added to them.

    Nothing here is trusted beyond what it says it depends on: the tensors' sizes, times and checksums, how they are
    laid side by side, and the version of the statistics.
    """

    def __init__(self, reference: Recording, candidate: Recording, of: Of) -> None:
        self.sides = reference, candidate
        self.of = of
        self._raw: dict[tuple[str, ...], Any] = {}
        for entry in comparisons.load(reference, candidate, VERSION):
            if isinstance(entry, list) and len(entry) == 5 and all(isinstance(part, str) for part in entry[:4]):
                self._raw[tuple(entry[:4])] = entry
        self._entries: dict[tuple[str, ...], _Entry] = {}
        self._changed = False

    def tensors(self, pair: Pair, coarsest: str) -> Tensors:
        """The tensors of a pair. ``coarsest`` is the coarser of the types that were computed with."""
        return Tensors(self, pair, coarsest)

    def entry(self, nodes: tuple[str, str], depends: str) -> _Entry:
        """What is known of two nodes laid side by side in a way that ``depends`` identifies."""
        key = (self.of, *nodes, depends)
        if key not in self._entries:
            self._entries[key] = self._loaded(key) or _Entry()
        return self._entries[key]

    def _loaded(self, key: tuple[str, ...]) -> _Entry | None:
        raw = self._raw.get(key)
        if raw is None:
            return None
        try:
            stats = {str(way): from_plain(plain) for way, plain in raw[4]["stats"].items()}
            counts = {
                str(way): [(float(atol), float(rtol), int(count)) for atol, rtol, count in some]
                for way, some in raw[4]["counts"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None
        return _Entry(stats, raw[4]["stats"], counts)

    def recalled(self, depends: str) -> Measured | None:
        """What was measured when the models were run again, if it still holds."""
        raw = self._raw.get((_AGAIN, "", "", depends))
        if raw is None:
            return None
        try:
            found = {int(index): Local.from_json(local) for index, local in raw[4]["found"]}
            return Measured(found, tuple(map(str, raw[4]["notes"])))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None

    def remember(self, depends: str, measured: Measured) -> None:
        """Keep a measurement, instead of the one there is."""
        found = [[index, local.to_json()] for index, local in measured.found.items()]
        key = (_AGAIN, "", "", depends)
        self._raw = {other: raw for other, raw in self._raw.items() if other[0] != _AGAIN}
        self._raw[key] = [*key, {"found": found, "notes": list(measured.notes)}]
        self._changed = True

    def last_alignment(self, mapping: object) -> Alignment | None:
        """How these recordings were paired last under the same mapping, without what is about parameters; or when the
        candidate was recorded.

        The engine may pair them otherwise by now: good enough to be looked at until it has.
        """
        raw = self._raw.get((_PAIRED, "", "", self._depends(mapping)))
        reference, candidate = self.sides
        told = candidate.attributes.get("alignment") if mapping is None else None
        try:
            if raw is not None:
                found = pairs_from_plain(raw[4])
            elif told and candidate.attributes.get("reference") == reference.name:
                found = pairs_from_record(told)
            else:
                return None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return None
        ours = {*found.unmatched_reference, *(name for pair in found.pairs for name in pair.reference)}
        theirs = {*found.unmatched_candidate, *(name for pair in found.pairs for name in pair.candidate)}
        there = ours <= reference.structure.by_name.keys() and theirs <= candidate.structure.by_name.keys()
        return found if there else None

    def remember_alignment(self, alignment: Alignment, mapping: object) -> None:
        key = (_PAIRED, "", "", self._depends(mapping))
        entry = [*key, plain_pairs(alignment)]
        if self._raw.get(key) != entry:
            self._raw = {other: raw for other, raw in self._raw.items() if other[0] != _PAIRED}
            self._raw[key] = entry
            self._changed = True

    def _depends(self, mapping: object) -> str:
        facts = [(side.created, side.state, len(side.activations)) for side in self.sides]
        return hashlib.sha256(repr((facts, mapping)).encode()).hexdigest()[:32]

    def note(self) -> None:
        """Something was found that is not kept yet."""
        self._changed = True

    def save(self) -> None:
        """Keep what was found, where the trace can be written; comparisons that were not asked for any more go."""
        if not self._changed:
            return
        others = [entry for key, entry in self._raw.items() if key[0] != self.of]
        own = [
            [*key, {"stats": entry.plain, "counts": {way: list(map(list, some)) for way, some in entry.counts.items()}}]
            for key, entry in self._entries.items()
            if entry.stats
        ]
        self._changed = not comparisons.save(*self.sides, VERSION, [*own, *others])


class Tensors:
    """A pair's two tensors. All methods raise TraceError where they are missing or damaged, ValueError where their
    shapes do not fit."""

    def __init__(self, kept: Kept, pair: Pair, coarsest: str) -> None:
        self._kept, self._pair = kept, pair
        reference, candidate = kept.sides
        self._names = (reference.resolve(pair.reference[-1]), candidate.resolve(pair.candidate[-1]))
        self._coarsest = coarsest
        self._channels = channel_axis(reference.structure, reference.structure.by_name[pair.reference[-1]])

    @cached_property
    def _stored(self) -> tuple[Stored, Stored]:
        found = [
            (recording.activations if self._kept.of == "values" else recording.gradients).get(name)
            for recording, name in zip(self._kept.sides, self._names, strict=True)
        ]
        if found[0] is None or found[1] is None:
            raise TraceError("not recorded")
        return found[0], found[1]

    @cached_property
    def _entry(self) -> _Entry:
        arrangement = self._pair.arrangement
        facts = [
            *(side.fingerprint(one) for side, one in zip(self._kept.sides, self._stored, strict=True)), self._pair.axes,
            None if arrangement is None else arrangement.to_json(), self._channels, self._coarsest,
        ]  # fmt: skip
        depends = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
        return self._kept.entry(self._names, depends)

    def moved(self, tolerance: Tolerance) -> Stats:
        """Statistics with the candidate's axes moved to the reference's."""
        axes = self._pair.axes
        assert axes is not None

        stats = self._of("moved", tolerance)
        if stats.argmax is None:
            return stats
        place = [0] * len(self._stored[1].shape)
        for index, axis in zip(stats.argmax, axes, strict=True):
            if axis is not None:
                place[axis] = index
        return replace(stats, argmax_candidate=tuple(place))

    def arranged(self, tolerance: Tolerance) -> Stats:
        """Statistics under the pair's rearrangement, factor by factor, so that nothing is copied; ``where`` is about
        the factors."""
        arrangement = self._pair.arrangement
        assert arrangement is not None
        stats = self._of("arranged", tolerance)
        if stats.where is not None:
            names = tuple(arrangement.letters[i] for axis in arrangement.reference for i in axis)
            stats = replace(stats, where=replace(stats.where, names=names))
        if stats.argmax is None:
            return stats
        order, lengths = arrangement.order, arrangement.lengths
        letters = [i for axis in arrangement.candidate for i in axis]
        shapes = [lengths[letters[at]] for at in order], [lengths[letter] for letter in letters]
        moved = [0] * len(order)
        for index, at in zip(stats.argmax, order, strict=True):
            moved[at] = arrangement.place(letters[at], index)
        return replace(
            stats,
            argmax=_refolded(stats.argmax, shapes[0], self._stored[0].shape),
            argmax_candidate=_refolded(moved, shapes[1], self._stored[1].shape),
        )

    def sorted(self, tolerance: Tolerance) -> Stats:
        """Statistics of both tensors' elements in ascending order."""

        return self._of("sorted", tolerance)

    def work(self, way: Way, tolerance: Tolerance) -> Work:
        """What is to be done for the statistics of ``way``."""
        rms = self._stored[0].summary.get("rms")
        return Work(
            way, self._stored, self._pair.axes, self._pair.arrangement, self._channels if way == "moved" else None,
            self._coarsest, None if rms is None else float(rms), tolerance.atol, tolerance.rtol,
            compiled.kernels(self.size) is not None,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Elements of the reference's tensor."""
        return math.prod(self._stored[0].shape)

    def knows(self, way: Way) -> bool:
        """Whether the statistics of ``way`` are known already."""
        return way in self._entry.stats

    def take(self, way: Way, stats: Stats) -> None:
        """Keep statistics that were made of :meth:`work`."""
        self._entry.stats[way], self._entry.plain[way] = stats, to_plain(stats)
        self._kept.note()

    def _of(self, way: Way, tolerance: Tolerance) -> Stats:
        entry, (atol, rtol) = self._entry, (tolerance.atol, tolerance.rtol)
        work = self.work(way, tolerance)
        if not self.knows(way):
            self.take(way, work.stats(self._kept.sides))
        stats = entry.stats[way].at(atol, rtol)
        if stats.outside is None:
            counts = entry.counts.setdefault(way, [])
            known = next((count for a, r, count in counts if (a, r) == (atol, rtol)), None)
            if known is None:
                known = outside(*work.views(self._kept.sides, False), atol, rtol)  # verified for the statistics
                entry.counts[way] = [*counts, (atol, rtol, known)][-_COUNTS:]
                self._kept.note()
            stats = replace(stats, outside=known)
        return stats


def _refolded(index: Any, lengths: list[int], shape: tuple[int, ...]) -> tuple[int, ...]:
    """An index into an array of ``lengths`` as one into the same elements in ``shape``."""
    flat = 0
    for place, length in zip(index, lengths, strict=True):
        flat = flat * length + int(place)
    return tuple(int(i) for i in np.unravel_index(flat, shape)) if math.prod(shape) else ()


def channel_axis(structure: Structure, node: Node) -> int | None:
    """The axis of a node's tensor along which a layer's parameters vary, as far as the graph says.

    That of the layer's own layout, or of the nearest layer's above with as many axes; the last one where nothing is
    said, None behind what may have moved it.
    """
    if node.shape is None or len(node.shape) < 2:
        return None
    rank = len(node.shape)
    seen: Node | None = node
    for _ in range(_STEPS):
        if seen is None or seen.shape is None or len(seen.shape) != rank or rank == 2:
            break
        if seen.layout is not None:
            return 1 if seen.layout == "channels_first" else rank - 1
        if seen.params:
            return rank - 1
        if seen.kind in LAYOUT_ONLY:
            return None  # it may have moved them anywhere
        seen = structure.by_name.get(seen.alias_of or (seen.parents[0] if seen.parents else ""))
    return rank - 1
