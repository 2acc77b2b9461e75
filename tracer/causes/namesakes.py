"""Layers that have their namesakes on the other side: two that are paired crosswise by their weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tracer import kinds
from tracer.causes import naming
from tracer.causes.case import Case
from tracer.causes.edit import Change, Edit, of_step
from tracer.causes.step import Step
from tracer.causes.sums import terms_apart
from tracer.graph import Node, Structure


def exchanged(
    case: Case, a: Step, b: Step, mine: Sequence[str], its: Sequence[str], taken: Mapping[str, str]
) -> tuple[str, str, str] | None:
    """The names of two layers that read what their namesakes read, each with the other's weights: then their weights
    were exchanged, and what they are given was not; with the node of each side that it is said of. None where it is
    not so.

    ``a`` of ours and ``b`` of theirs do the same, and read ``mine`` and what is ``its`` in our names; ``taken``: the
    step of ours by that of theirs that does the same. A step that joins what such layers give is asked of these.
    """
    ours, theirs = case.ours.recording.structure, case.theirs.recording.structure
    above = {twin: name for name, twin in case.ours.above.items()} | dict(case.theirs.above)
    own, twin = ours.by_name.get(a.name), theirs.by_name.get(b.name)
    if own is None or twin is None:
        return None
    if a.kind in kinds.WEIGHTED and b.weights and (both := _of_layers(own, twin, ours, theirs, {**above, **taken})):
        return both, a.name, b.name
    pairs = {tuple(sorted(pair)) for pair in zip(mine, its, strict=True) if pair[0] != pair[1]}
    if len(pairs) != 1:
        return None
    first, second = (ours.by_name.get(name) for name in next(iter(pairs)))
    crossed = {name: theirs.by_name[other] for other, name in above.items() if other in theirs.by_name}
    if first is None or second is None or first.name not in crossed or second.name not in crossed:
        return None
    one, other = crossed[first.name], crossed[second.name]
    crosswise = _alike(first, other) and _alike(second, one) and not _alike(first, second)
    if crosswise and {first.kind, second.kind} <= kinds.WEIGHTED and not any(terms_apart(mine, its)):
        return _said(first, second), a.name, b.name
    layers = _only_above(ours, first, second), _only_above(theirs, one, other)
    if len(layers[0]) != _TWO or len(layers[1]) != _TWO or _alike(*layers[0]):
        return None
    if not all(map(_alike, layers[0], layers[1][::-1])):
        return None
    return _said(*layers[0]), layers[0][0].name, layers[1][1].name


def edit_of(case: Case, both: tuple[str, str, str], change: Change) -> Edit:
    """Two layers whose weights were exchanged; ``both`` as :func:`exchanged` gives them."""
    those, here, there = both
    what = f"{those} have one another's weights in the {case.doer}, or are given one another's inputs"
    return Edit(
        "weights-swapped", what, change, here, there, "layers", (those, "the other way round"),
        fix=f"load the weights of {those} the other way round", seen=True, cost=1.5, same=("wiring",),
    )  # fmt: skip


def crosswise(case: Case, a: Step, b: Step, its: Sequence[str | None]) -> tuple[Edit, set[str]] | None:
    """The same of a layer that reads what we alone move the axes of first, with the names of what moves them."""
    steps, moving = {step.name: step for step in case.program.steps}, list[str]()
    first = a.inputs[0]
    while first in steps and steps[first].kind == "permute":
        moving.append(first)
        first = steps[first].inputs[0]
    if not moving or len(a.inputs) != 1 or len(its) != 1 or its[0] in (None, first) or its[0] not in case.ours.above:
        return None
    read = (str(its[0]),)
    both = exchanged(case, a, b, (first,), read, {})
    change = of_step(moving[-1], lambda step: replace(step, inputs=read))
    return None if both is None else (edit_of(case, both, change), {*moving})


_TWO = 2


def _only_above(structure: Structure, first: Node, second: Node) -> list[Node]:
    """The layer with weights that one node is made of and the other is not, of either; fewer or more where each is not
    made of just one."""
    sets = [naming.above(structure, node.name) | {node.name} for node in (first, second)]
    found = [structure.by_name[name] for k in (0, 1) for name in sorted(sets[k] - sets[1 - k])]
    return [node for node in found if node.kind in kinds.WEIGHTED and node.alias_of is None and node.params]


def _of_layers(own: Node, twin: Node, ours: Structure, theirs: Structure, above: Mapping[str, str]) -> str:
    """The two names, where the twin's namesake and our own's are there too and read what the two read crosswise."""
    if _alike(own, twin):
        return ""
    namesake = _like(own, [node for node in theirs if node.kind == twin.kind])
    other = _like(twin, [node for node in ours if node.kind == own.kind])
    if len(namesake) != 1 or len(other) != 1:
        return ""

    def begins(node: Node, structure: Structure) -> list[str]:
        return [_unmoved(structure, name) for name in node.parents]

    def reads(node: Node) -> list[str]:
        return [above.get(name, name) for name in begins(node, theirs)]

    crosswise = reads(namesake[0]) == begins(own, ours) and reads(twin) == begins(other[0], ours)
    return _said(own, other[0]) if crosswise else ""


def _unmoved(structure: Structure, name: str) -> str:
    """The tensor of which one is made by moving its axes alone."""
    while (node := structure.by_name.get(name)) is not None and node.kind == "permute" and len(node.parents) == 1:
        name = node.parents[0]
    return name


def _like(one: Node, nodes: Sequence[Node]) -> list[Node]:
    """The nodes of the same name as one, those around it too where there are such."""
    return [node for node in nodes if _named(node) == _named(one)] or [node for node in nodes if _alike(node, one)]


def _alike(one: Node, other: Node) -> bool:
    """Whether two layers have the same name of their own, or the same with those around it."""
    return _named(one) == _named(other) or _path(one).rpartition(".")[2] == _path(other).rpartition(".")[2]


def _named(node: Node) -> str:
    """A layer's name with those around it, however they are joined."""
    return _path(node).replace("_", ".")


def _path(node: Node) -> str:
    return (node.owner or node.name).replace("/", ".").lower()


def _said(one: Node, other: Node) -> str:
    return " and ".join(sorted((one.owner or one.name, other.owner or other.name)))
