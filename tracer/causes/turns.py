"""Two findings that are one mistake: an activation before a layer and behind it, a layer's bias that is added further
on, a padding for another dilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import Any

from tracer import kinds
from tracer.alignment.labels import only_axis
from tracer.causes.finding import Cause, Finding
from tracer.causes.naming import above
from tracer.causes.step import Array
from tracer.compare import Diff
from tracer.graph import Node, Structure
from tracer.relations import alike
from tracer.store import Recording


def in_turn(found: Sequence[Finding], diff: Diff) -> list[Finding]:
    """The findings with such two causes as one, at the place of the first of them."""
    left = list(found)
    for (ends, one), (here, there) in product(_MOVING.items(), permutations(range(len(left)), 2)):
        for extra, missing in product(_called(left[here], ends[0]), _called(left[there], ends[1])):
            told = one(extra, missing, diff)
            if told is None:
                continue
            first, second = (here, extra), (there, missing)
            first, second = (first, second) if here < there else (second, first)
            left[first[0]] = _without(left[first[0]], first[1], told)
            left[second[0]] = _without(left[second[0]], second[1])
            break
    return [one for one in left if one.causes or one.status != "proven"]


def _called(one: Finding, name: str) -> list[Cause]:
    return [cause for cause in one.causes if cause.id == name] if one.status == "proven" else []


def _without(one: Finding, gone: Cause, *instead: Cause) -> Finding:
    """A finding with another cause in place of one, or without it."""
    kept = [instead if cause is gone else (cause,) for cause in one.causes]
    return replace(one, causes=tuple(cause for some in kept for cause in some))


def widened(found: Sequence[Finding], diff: Diff) -> list[Finding]:
    """The findings with a padding that is another one for a convolution of another dilation as one with that."""
    left = list(found)
    for padded, wide in permutations(found, 2):
        both = padded in left and wide in left and padded.status == wide.status == "proven"
        if not both or len(padded.causes) != 1 or padded.causes[0].key != "padding":
            continue
        one = next((cause for cause in wide.causes if cause.key == "dilation"), None)
        node = None if one is None else diff.candidate.structure.by_name.get(one.candidate)
        if one is None or node is None or padded.causes[0].candidate not in node.parents:
            continue
        more = [_total(ours) - _total(theirs) for ours, theirs in (padded.causes[0].values, one.values)]
        if more[0] * more[1] > 0:
            note = f"the padding before it goes with it: {padded.causes[0].what}"
            pairs = (*(padded.pairs or (padded.pair,)), *(wide.pairs or (wide.pair,)))
            left[left.index(wide)] = replace(wide, pairs=pairs, notes=(*wide.notes, note))
            left.remove(padded)
    return left


def taken_there(found: Sequence[Finding], diff: Diff) -> list[Finding]:
    """The findings with a token that is joined at the other end, and taken from there, as one."""
    left, structure = list(found), diff.candidate.structure
    for joined, taken in permutations(found, 2):
        both = joined in left and taken in left and joined.status == taken.status == "proven"
        if not both or len(joined.causes) != 1 or len(taken.causes) != 1:
            continue
        start, end = joined.causes[0], taken.causes[0]
        node = structure.by_name.get(start.candidate)
        if start.id != "concat-order" or end.key != "index" or node is None or node.shape is None:
            continue
        axis = only_axis(node.config, len(node.shape))
        apart = [k for k, (one, other) in enumerate(zip(*end.values, strict=False)) if one != other]
        single = apart == [axis] and all(isinstance(side[apart[0]], int) for side in end.values)
        if single and start.candidate in above(structure, end.candidate):
            note = f"what reads it there goes with it: {end.what}"
            left[left.index(joined)] = replace(joined, notes=(*joined.notes, note))
            left.remove(taken)
    return left


def _total(value: Any) -> int:
    return sum(map(_total, value)) if isinstance(value, tuple | list) else int(value)


def _moved(extra: Cause, missing: Cause, diff: Diff) -> Cause | None:
    """The two as one cause, where one layer lies between the two places; None where they are two mistakes."""
    theirs, ours = diff.candidate.structure, diff.reference.structure
    here, there = theirs.by_name.get(extra.candidate), ours.by_name.get(missing.reference)
    if here is None or there is None or here.kind != there.kind:
        return None
    twins = {name: other for pair in diff.pairs for name in pair.pair.candidate for other in pair.pair.reference}
    before = {twins.get(name) for name in _next(theirs, here.name, False)} & set(_next(ours, there.name, True))
    behind = {twins.get(name) for name in _next(theirs, here.name, True)} & set(_next(ours, there.name, False))
    terms = {twins.get(name) for name in _next(theirs, here.name, False)} & set(_next(ours, there.name, False))
    if not (before or behind) and here.kind in _JOINING and terms - {None}:
        before = {twins.get(name) for name in _far(theirs, here.name, False)} & _far(ours, there.name, True)
        behind = {twins.get(name) for name in _far(theirs, here.name, True)} & _far(ours, there.name, False)
    layer = next(iter(sorted(name for name in (before or behind) if name is not None)), "")
    if not layer:
        return None
    words = ("behind", "before") if before else ("before", "behind")
    # What the candidate's activation follows is what the reference's comes before.
    what = f"the {here.kind} stands {words[1]} {layer} in the reference, {words[0]} it in the candidate"
    fix = f"{here.source + ': ' if here.source else ''}compute the {here.kind} {words[1]} what stands for {layer}"
    return replace(extra, id="residual-order", what=what, fix=fix, reference=missing.reference, changes=())


def _added_later(extra: Cause, missing: Cause, diff: Diff) -> Cause | None:
    """A layer's bias that the candidate adds behind an operation on what the layer gives, of which it has none itself;
    None where the numbers are others."""
    mine, its = (diff.reference, missing.reference), (diff.candidate, extra.candidate)
    sides = [(side, side.structure.by_name.get(name)) for side, name in (mine, its)]
    here, layer = sides[1][1], missing.candidate
    if missing.key != "bias" or here is None or sides[0][1] is None:
        return None
    above = _next(diff.candidate.structure, here.name, False)
    if not any(layer in diff.candidate.structure.by_name[name].parents for name in above):
        return None
    own = [value for side, node in sides if node is not None for value in _vectors(side, node)]
    if len(own) != len(sides) or not alike(own[0], own[1]):
        return None
    what = f"the bias of {layer} is added at {here.name} in the candidate, by {missing.reference} in the reference"
    fix = f"{here.source + ': ' if here.source else ''}add the bias where the reference does: in {layer} itself"
    return replace(extra, id="residual-order", what=what, fix=fix, reference=missing.reference, changes=())


def _vectors(side: Recording, node: Node) -> list[Array]:
    """What a node keeps along one axis."""
    stored = [side.weights.get((node.owner, param.name)) for param in node.params if len(param.shape) == 1]
    return [side.read_stored(one) for one in stored if one is not None]


_MOVING: Mapping[tuple[str, str], Callable[[Cause, Cause, Diff], Cause | None]] = {
    ("activation-extra", "activation-missing"): _moved,
    ("bias-extra", "bias-missing"): _added_later,
    ("residual-extra", "residual-missing"): _moved,
    ("block-extra", "block-missing"): _moved,
}
"""What the candidate has at one place and the reference at another, by what the two findings are called."""


_JOINING = ("add", "mul")
"""What is known by one of its terms wherever it stands: a skip that is added, or a gate that is multiplied by."""
_STEPS = 8
"""Layers that may lie between two places of a sum or a product."""


def _far(structure: Structure, name: str, behind: bool) -> set[str]:
    """The layers above a node, or behind it, that compute something, some steps far."""
    found, last = set[str](), {name}
    for _ in range(_STEPS):
        last = {other for one in last for other in _next(structure, one, behind)} - found
        found |= last
    return found


def _next(structure: Structure, name: str, behind: bool) -> Iterator[str]:
    """The layers right above a node, or right behind it, that compute something."""
    pending, seen = [name], {name}
    while pending:
        node = structure.by_name[pending.pop()]
        for other in node.parents if not behind else structure.children.get(node.name, ()):
            if other in seen or other not in structure.by_name:
                continue
            seen.add(other)
            if structure.by_name[other].kind in kinds.LAYOUT_ONLY:
                pending.append(other)
            else:
                yield other
