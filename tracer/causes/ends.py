"""Where a layer ends that the other side writes in several operations: its twin is what the last of them makes.

An alignment without equal values takes the first of them for the layer. Three layers are such: one of somebody's own, a
convolution whose result is cropped, as a causal one that is padded on both ends, and one that ends with an activation
of its own. A layer that is called for
several inputs has no twin in one that is called for all of them at once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from tracer import kinds
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.graph import Node
from tracer.rerun.cuts import Cut, Way
from tracer.store import Recording

_LONG = 12
"""Operations at most that are looked through."""
_CROPS = frozenset({"slice", "crop"})


def at_ends(
    made: Mapping[str, Cut], pairs: Sequence[PairDiff], reference: Recording, candidate: Recording
) -> dict[str, Cut]:
    """The cuts, by the candidate's node, with those that part where the longer side's operations end, and without
    those of one call of several with all of them."""
    found = dict(made)
    for name, cut in made.items():
        if pairs[cut.index].verdict in (Verdict.MATCH, Verdict.NOISE):
            continue
        ours, theirs = reference.structure.by_name[cut.reference], candidate.structure.by_name[name]
        if cut.same:  # the model's output, which is held against its twin's on its own
            known = {one.reference for one in found.values()}
            way = cut.ways[0]
            end = None if way.axes is None else _end(reference, ours, theirs, way, known, turned=True)
            if end is not None and cut.same == ((cut.same[0][0], end),):
                found[name] = replace(cut, reference=end, heal=end, same=())
            continue
        if cut.ways[0].axes is not None and _all_calls(ours, theirs, cut.ways[0], reference, candidate):
            del found[name]
            found = {key: _renamed(one, name, *cut.readers) for key, one in found.items()}
            continue
        others = {key for key, one in found.items() if one.reference != cut.reference}
        if (end := _activation(candidate, theirs, ours, others)) is not None:
            del found[name]
            found.setdefault(end, replace(cut, candidate=end))  # it may be held against the same layer as an output
            found = {key: _renamed(one, name, end) for key, one in found.items()}
            continue
        if (end := _activation(reference, ours, theirs, {one.reference for one in found.values()})) is not None:
            found[name] = replace(cut, reference=end, heal=end)
            continue
        if cut.ways[0].axes is None:
            continue
        fitting = (replace(cut.ways[0], fits=True), *cut.ways[1:])
        references = {one.reference for one in found.values()}
        if (end := _end(candidate, theirs, ours, cut.ways[0], set(found), turned=False)) is not None:
            read = {found[reader].reference for reader in cut.readers}
            if _reads(reference, cut.reference, references) == read:
                del found[name]
                found[end] = replace(cut, candidate=end, ways=fitting)
                found = {key: _renamed(one, name, end) for key, one in found.items()}
        elif (end := _end(reference, ours, theirs, cut.ways[0], references, turned=True)) is not None:
            read = {found[reader].reference for reader in cut.readers}
            if _reads(reference, end, references) == read:
                found[name] = replace(cut, reference=end, heal=end, ways=fitting)
    return found


def in_turn(
    made: Mapping[str, Cut], pairs: Sequence[PairDiff], reference: Recording, candidate: Recording
) -> dict[str, Cut]:
    """The cuts with two operations that come one behind the other in one order on the one side, in the other on the
    other, as one: what both give at the end is compared, and not what each gives with its namesake's."""
    found = dict(made)
    for name, cut in made.items():
        above = candidate.structure.by_name[name].parents
        first = found.get(candidate.resolve(above[0])) if len(above) == 1 else None
        if name not in found or first is None or pairs[cut.index].verdict in (Verdict.MATCH, Verdict.NOISE):
            continue
        one, other = reference.structure.by_name[cut.reference], reference.structure.by_name[first.reference]
        crossed = [*map(reference.resolve, other.parents)] == [one.name] and one.kind != other.kind
        alone = _following(reference, one.name) == [other.name] and _following(candidate, first.candidate) == [name]
        begins = [found.get(candidate.resolve(name)) for name in candidate.structure.by_name[first.candidate].parents]
        begun = [None if start is None else start.reference for start in begins]
        if crossed and alone and not (cut.same or first.same) and begun == [*map(reference.resolve, one.parents)]:
            found[name] = replace(cut, reference=other.name, heal=other.name)
            del found[first.candidate]
            found = {key: _renamed(each, first.candidate, name) for key, each in found.items()}
    return found


def _renamed(cut: Cut, old: str, *new: str) -> Cut:
    """The cut with other readers in place of one."""
    if old not in cut.readers:
        return cut
    readers = (one for reader in cut.readers for one in (new if reader == old else (reader,)))
    return replace(cut, readers=tuple(dict.fromkeys(readers)))


def _all_calls(ours: Node, theirs: Node, way: Way, reference: Recording, candidate: Recording) -> bool:
    """Whether one side makes the samples of all calls of a layer at once, of which the other's is one."""
    if way.fits or not ours.shape or not theirs.shape or ours.shape[0] == theirs.shape[0]:
        return False
    one, whole, recording = (ours, theirs, reference) if ours.shape[0] < theirs.shape[0] else (theirs, ours, candidate)
    calls = [
        node.shape for node in recording.structure
        if (node.owner, node.kind, node.alias_of) == (one.owner, one.kind, None) and node.shape
    ]  # fmt: skip
    assert whole.shape
    return len(calls) > 1 and sum(shape[0] for shape in calls) == whole.shape[0]


def _reads(recording: Recording, name: str, known: Set[str]) -> set[str]:
    """The next nodes with a twin that read a tensor."""
    found, queue, seen = set[str](), [name], {name}
    while queue:
        for reader in _following(recording, queue.pop()):
            if reader in known:
                found.add(reader)
            elif reader not in seen:
                seen.add(reader)
                queue.append(reader)
    return found


def _following(recording: Recording, name: str) -> list[str]:
    """What reads a tensor, also by the names of those that pass it on as it is."""
    structure, names, found = recording.structure, [name], dict[str, None]()
    names += [node.name for node in structure if node.alias_of is not None and recording.resolve(node.name) == name]
    for one in names:
        found |= {child: None for child in structure.children.get(one, ()) if recording.resolve(child) == child}
    return list(found)


def _end(recording: Recording, node: Node, other: Node, way: Way, known: Set[str], *, turned: bool) -> str | None:
    """The last of the operations behind a node that make what ``other`` makes; None where it is that node itself.

    ``known`` are nodes with a twin of their own; ``turned``: whether the way's axes are those of the other side.
    """
    opaque = _of_ones_own(other) and not node.kind.startswith("other")
    convolved = node.kind in kinds.CONVOLUTIONS and other.kind in kinds.CONVOLUTIONS and not way.fits
    if other.config.get("merge_mode") == "ave" and node.kind == "add":
        following = _following(recording, node.name)
        halved = len(following) == 1 and recording.structure.by_name[following[0]].kind in ("mul", "div")
        return following[0] if halved and following[0] not in known else None
    if not (opaque or convolved):
        return None
    end, here = None, node.name
    for _ in range(_LONG):
        following = _following(recording, here)
        joined = _joined(recording, following) if opaque else None
        if joined is not None:
            following = [joined]
        if len(following) != 1 or following[0] in known:
            break
        here = following[0]
        one = recording.structure.by_name[here]
        computes = one.kind not in kinds.LAYOUT_ONLY if opaque else one.kind in _CROPS
        if not opaque and not computes:
            break
        if computes and recording.stored(here) is not None and _alike(one, other, way, turned=turned):
            end = here
    return end


def _joined(recording: Recording, names: Sequence[str]) -> str | None:
    """The first node that all ways from some nodes lead to: sines and cosines that are joined; None where they part."""
    order = {node.name: place for place, node in enumerate(recording.structure)}
    ahead = set(names)
    for _ in range(_LONG if len(names) > 1 else 0):
        here = min(ahead, key=order.__getitem__)
        following = _following(recording, here)
        if not following:
            return None
        ahead = (ahead - {here}) | {*following}
        if len(ahead) == 1:
            return next(iter(ahead))
    return None


def _of_ones_own(node: Node) -> bool:
    """Whether a layer is of somebody's own, which may be called like one of the frameworks that it is not."""
    if node.role != "layer" or node.kind.startswith("other"):
        return node.kind.startswith("other")
    usual = _NORM if node.kind in kinds.NORMALISATIONS else _KERNEL if node.kind in _WITH_KERNELS else None
    return usual is not None and not usual.search(node.label)


_WITH_KERNELS = kinds.CONVOLUTIONS | {"dense"}
_NORM = re.compile(r"Norm(ali[sz]ation)?(\dd)?$")
_KERNEL = re.compile(r"Conv|Dense$|Linear$|Gemm|MatMul")
"""How the frameworks call theirs."""


def _activation(recording: Recording, node: Node, other: Node, known: Set[str]) -> str | None:
    """The activation that alone reads a layer, where the other side's ends with one of its own; else None."""
    ends, own = other.config.get("activation"), node.config.get("activation")
    if ends not in kinds.ACTIVATIONS or own not in (None, "linear") or node.kind != other.kind:
        return None
    if other.role == "activation":
        return None  # what it gives before its activation
    following = _following(recording, node.name)
    if node.kind not in kinds.WEIGHTED - kinds.RECURRENT or len(following) != 1 or following[0] in known:
        return None
    acts = recording.structure.by_name[following[0]].kind in kinds.ACTIVATIONS
    return following[0] if acts and recording.stored(following[0]) is not None else None


def _alike(one: Node, other: Node, way: Way, *, turned: bool) -> bool:
    """Whether two tensors have the same lengths on the axes that a way says."""
    assert way.axes is not None
    mine, its = (one.shape, other.shape) if turned else (other.shape, one.shape)
    if mine is None or its is None or len(mine) != len(way.axes):
        return False
    lengths = [1 if axis is None else its[axis] for axis in way.axes if axis is None or axis < len(its)]
    return list(mine) == lengths
