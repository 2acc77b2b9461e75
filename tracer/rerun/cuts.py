"""Where two recordings meet: nodes of both whose tensors stand for each other, and how one becomes the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from numpy.typing import NDArray

from tracer import dtypes
from tracer.alignment import Pair
from tracer.alignment import axes as axes_
from tracer.alignment.arrange import Rearrangement
from tracer.alignment.axes import Axes
from tracer.alignment.flattened import READS_ROWS, as_computed, within_rows
from tracer.alignment.links import Unlike
from tracer.graph import Node, Structure
from tracer.store import Recording

Array = NDArray[Any]


@dataclass(frozen=True)
class Way:
    """One way in which the candidate's tensor is the reference's: by moving axes, or by a rearrangement.

    Where the shapes differ the axes are those that the layouts suggest, and ``fits`` is false.
    """

    axes: Axes | None
    arrangement: Rearrangement | None = None
    fits: bool = True

    def to_reference(self, candidate: Array) -> Array:
        """The candidate's tensor in the reference's axes, a view where that is possible. Raises ValueError."""
        if self.arrangement is not None:
            return self.arrangement.apply(candidate)
        assert self.axes is not None
        return axes_.apply(candidate, self.axes)

    def to_candidate(self, reference: Array, rank: int) -> Array:
        """The reference's tensor in the candidate's axes, of which there are ``rank``. Raises ValueError."""
        if self.arrangement is not None:
            return self.arrangement.inverse.apply(reference)
        assert self.axes is not None
        lengths = [1] * rank
        order = []
        for position, axis in enumerate(self.axes):
            if axis is not None:
                lengths[axis] = reference.shape[position]
                order.append((axis, position))
        if math.prod(lengths) != reference.size:
            raise ValueError(f"axes {self.axes} do not fit shape {reference.shape}")
        kept = [position for _, position in sorted(order)]
        missing = [position for position in range(reference.ndim) if position not in kept]
        return reference.transpose([*kept, *missing]).reshape(lengths)

    def to_json(self) -> dict[str, Any]:
        return {
            "axes": None if self.axes is None else list(self.axes),
            "arrangement": None if self.arrangement is None else self.arrangement.to_json(),
            "fits": self.fits,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Way:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        found = values["arrangement"]
        arrangement = None if found is None else Rearrangement.parse(found["pattern"], found["lengths"])
        return cls(None if values["axes"] is None else tuple(values["axes"]), arrangement, bool(values["fits"]))


@dataclass(frozen=True)
class Cut:
    """A tensor of the candidate that the reference's own may take the place of.

    Attributes:
        candidate: the node whose tensor it is, as it is stored.
        reference: the node of the reference that it is compared with, as it is stored.
        heal: the node of the reference whose tensor everything that reads the candidate's is fed.
        index: of the pair that is judged here, among the alignment's pairs.
        computed: whether the reference computes something at this pair; else it only passes its input on.
        same: pairs (by index, with the reference's stored node) at which the candidate only passes this tensor on.
        ways: how the candidate's tensor may become the reference's, likeliest first.
        draws: whether the node draws random numbers in the mode that was recorded.
        masks: whether very negative values may only say that something is masked: no weights are applied here.
        epsilon: unit roundoff of the coarser of the two types that were computed in.
        readers: the next nodes of the candidate that have a cut.
        owed: those of the readers whose kernels have to follow the order in which this tensor's values stand, for it is
            that of the side's layout.
    """

    candidate: str
    reference: str
    heal: str
    index: int
    computed: bool
    same: tuple[tuple[int, str], ...]
    ways: tuple[Way, ...]
    draws: bool = False
    masks: bool = False
    epsilon: float = 0.0
    readers: tuple[str, ...] = ()
    owed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate, "reference": self.reference, "heal": self.heal, "index": self.index,
            "computed": self.computed, "same": [list(entry) for entry in self.same],
            "ways": [way.to_json() for way in self.ways], "draws": self.draws, "masks": self.masks,
            "epsilon": self.epsilon, "readers": list(self.readers), "owed": list(self.owed),
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Cut:
        """The inverse of :meth:`to_json`. Raises KeyError, TypeError or ValueError for anything else."""
        same = tuple((int(index), str(name)) for index, name in values["same"])
        ways = tuple(map(Way.from_json, values["ways"]))
        names = {key: tuple(map(str, values[key])) for key in ("readers", "owed")}
        return cls(**{**values, "same": same, "ways": ways, **names})


def cuts(pairs: Sequence[Pair], reference: Recording, candidate: Recording) -> tuple[dict[str, Cut], dict[int, str]]:
    """The cuts by the candidate's stored node, and for each pair that has none the reason why."""
    found: dict[str, Cut] = {}
    without: dict[int, str] = {}
    unlike = cache(lambda: _unlike(pairs, reference.structure, candidate.structure))
    for index, pair in enumerate(pairs):
        ours, theirs = reference.structure.by_name[pair.reference[-1]], candidate.structure.by_name[pair.candidate[-1]]
        held, name = reference.resolve(ours.name), candidate.resolve(theirs.name)
        if reference.stored(held) is None:
            without[index] = f"{held} of '{reference.name}' was not recorded: {reference.why_missing(held)}"
            continue
        if name in found and "output" in pair.evidence and held == found[name].reference:
            without[index] = "an output that is compared where it is computed"
            continue
        ways = tuple(_ways(pair, ours, theirs, unlike))
        if not ways:
            without[index] = "no order of the axes makes the two shapes equal"
            continue
        if name in found:  # the candidate passes on what another pair computes
            if _same_ways(ways, found[name].ways):
                found[name] = replace(found[name], heal=held, same=(*found[name].same, (index, held)))
                continue
            given_as_it_is = "output" in pair.evidence and pair.axes is not None and found[name].ways[0].axes is None
            other = found.pop(name).index if given_as_it_is else index
            without[other] = f"the candidate passes {name} on, in other axes"
            if other == index:
                continue
        training = "train" in (reference.attributes.get("mode"), candidate.attributes.get("mode"))
        grouped = [reference.structure.by_name[n] for n in pair.reference]
        grouped += [candidate.structure.by_name[n] for n in pair.candidate]
        draws = training and any(map(_draws, grouped))
        computed = ours.alias_of is None
        masks = not any(dtypes.epsilon(p.dtype) for node in (ours, theirs) for p in node.params)
        epsilon = max(dtypes.epsilon(node.dtype) for node in (ours, theirs) if node.dtype)
        found[name] = Cut(name, held, held, index, computed, (), ways, draws, masks, epsilon)
    for name, cut in found.items():
        readers = _readers(candidate, name, found)
        found[name] = replace(cut, readers=readers, owed=_owed(reference, candidate, cut, readers))
    return found, without


def _owed(reference: Recording, candidate: Recording, cut: Cut, readers: Sequence[str]) -> tuple[str, ...]:
    if not any(within_rows(way.arrangement) for way in cut.ways):
        return ()
    owed = tuple(name for name in readers if candidate.structure.by_name[name].kind in READS_ROWS)
    laid = owed and as_computed(candidate, cut.candidate) and as_computed(reference, cut.reference)
    return owed if laid else ()


def _draws(node: Node) -> bool:
    """Whether a node draws random numbers in training mode, by itself or inside."""
    if node.config.get("training") is False:
        return False
    if node.config.get("num_layers") == 1 and "batch_first" in node.config:
        return False  # PyTorch drops between stacked layers only
    return node.kind == "dropout" or any("dropout" in key and bool(rate) for key, rate in node.config.items())


def _readers(candidate: Recording, name: str, cut: Container[str]) -> tuple[str, ...]:
    """The next nodes that read a tensor, through those that are left as they are."""
    found: dict[str, None] = {}
    seen, queue = {name}, [name]
    passing: dict[str, list[str]] = {}
    for node in candidate.structure:
        if node.alias_of is not None:
            passing.setdefault(node.alias_of, []).append(node.name)
    while queue:
        here = queue.pop()
        for reader in (*candidate.structure.children[here], *passing.get(here, ())):
            if reader in seen:
                continue
            seen.add(reader)
            if reader in cut:
                found[reader] = None
            else:
                queue.append(reader)
    return tuple(found)


def _same_ways(ours: Sequence[Way], theirs: Sequence[Way]) -> bool:
    return ours[0].axes == theirs[0].axes and ours[0].arrangement == theirs[0].arrangement


def _ways(pair: Pair, ours: Node, theirs: Node, unlike: Callable[[], Unlike]) -> Iterator[Way]:
    if pair.axes is not None:
        yield Way(pair.axes)
    if pair.arrangement is not None:
        yield Way(None, pair.arrangement)
    for other in pair.other_axes:
        yield Way(other)
    if pair.axes is not None or pair.arrangement is not None:
        return
    if ours.shape is None or theirs.shape is None or len(ours.shape) != len(theirs.shape):
        return
    straight = tuple(range(len(ours.shape)))
    yield Way(_by_layout(ours, theirs) or unlike().axes(ours.name, theirs.name) or straight, fits=False)


def _by_layout(ours: Node, theirs: Node) -> Axes | None:
    """The axes of two tensors of one rank that are laid out differently; None where that is not known of both."""
    rank, layouts = len(ours.shape or ()), (ours.layout, theirs.layout)
    if rank < 3 or len(theirs.shape or ()) != rank:
        return None
    if layouts == ("channels_last", "channels_first"):
        return (0, *range(2, rank), 1)
    return (0, rank - 1, *range(1, rank - 1)) if layouts == ("channels_first", "channels_last") else None


def _unlike(pairs: Sequence[Pair], ours: Structure, theirs: Structure) -> Unlike:
    """What says the axes of tensors whose lengths differ: those of the pairs that fit, and of layers whose layout is
    known."""
    known = []
    for pair in pairs:
        names = pair.reference[-1], pair.candidate[-1]
        axes = pair.axes or _by_layout(ours.by_name[names[0]], theirs.by_name[names[1]])
        if axes is not None:
            known.append((*names, axes))
    return Unlike(ours, theirs, known)
