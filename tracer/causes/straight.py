"""Axes of tensors that differ: values do not tell them, what the tensors are made of does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tracer import kinds
from tracer.alignment.axes import Axes
from tracer.causes.scores import of_scores
from tracer.compare.pair import PairDiff
from tracer.compare.verdict import Verdict
from tracer.graph import Node, Structure
from tracer.rerun.cuts import Cut, Way
from tracer.store import Recording

_KEEPING = kinds.ACTIVATIONS | kinds.ELEMENTWISE | kinds.UNCHANGED | {
    "add", "sub", "mul", "div", "maximum", "minimum", "average", "slice", "roll", "flip", "pad", "concat", "dense",
    "layernorm", "rmsnorm", "batchnorm", "softmax",
}  # fmt: skip
"""Operations that leave the axes of what they read where they are, where these are as many behind them."""
_MOST = 16


def straightened(
    made: Mapping[str, Cut], pairs: Sequence[PairDiff], reference: Recording, candidate: Recording
) -> dict[str, Cut]:
    """The cuts with the axes of tensors that part taken from the tensors above, where nothing in between moves any.

    Values that differ may be likest with rows for columns, by chance.
    """
    found = dict(made)
    by_reference = {cut.reference: name for name, cut in made.items()}
    for name, cut in made.items():
        if cut.ways[0].axes is None and pairs[cut.index].verdict not in (Verdict.MATCH, Verdict.NOISE):
            ours, theirs = reference.structure.by_name[cut.reference], candidate.structure.by_name[name]
            read = [found[one].ways[0] for one in _above(candidate.structure, name, {one: one for one in found})]
            if (axes := _of_windows(ours, theirs, read)) is not None:
                found[name] = replace(cut, ways=(Way(axes, fits=False),))
                continue
        axes = cut.ways[0].axes
        if axes is None or None in axes or pairs[cut.index].verdict in (Verdict.MATCH, Verdict.NOISE):
            continue
        if of_scores([cut.reference], reference.structure):  # queries taken for keys
            continue
        mine = _above(reference.structure, cut.reference, by_reference)
        its = _above(candidate.structure, name, {one: one for one in made})
        if not mine or not its:
            continue
        known = {found[one].ways[0].axes for one in (*mine, *its)}
        straight = next(iter(known)) if len(known) == 1 else None
        if straight is not None and straight != axes and _fits(straight, axes, cut, reference, candidate):
            found[name] = replace(cut, ways=(Way(straight), *cut.ways))
    return found


def _of_windows(ours: Node, theirs: Node, read: Sequence[Way]) -> Axes | None:
    """The axes of what convolutions or pools give in maps of other lengths and as many places, which a rearrangement
    would fit; of what is made of such maps theirs. None for anything else."""
    mine, its = ours.shape or (), theirs.shape or ()
    if len(mine) != len(its) or len(mine) <= _PLAIN or ours.kind != theirs.kind:
        return None
    axes = next((way.axes for way in read if not way.fits), None)
    if ours.kind in kinds.CONVOLUTIONS | kinds.POOLS and ours.layout is not None and theirs.layout is not None:
        order = [_by_channels(node.layout, len(mine)) for node in (ours, theirs)]
        turned = dict(zip(*order, strict=True))
        axes = tuple(turned[axis] for axis in range(len(mine)))
    if axes is None or None in axes or len(axes) != len(mine):
        return None
    brought = tuple(its[axis] for axis in axes if axis is not None)
    return axes if brought != mine and brought[0] == mine[0] else None


def _by_channels(layout: str | None, rank: int) -> tuple[int, ...]:
    """A map's axes: samples, channels, places."""
    return (0, 1, *range(2, rank)) if layout == "channels_first" else (0, rank - 1, *range(1, rank - 1))


_PLAIN = 2


def _fits(straight: Axes, axes: Axes, cut: Cut, reference: Recording, candidate: Recording) -> bool:
    """Whether other axes give the same shape."""
    ours, theirs = reference.structure.by_name[cut.reference].shape, candidate.structure.by_name[cut.candidate].shape
    if ours is None or theirs is None or len(straight) != len(axes) or None in straight:
        return False
    return ours == tuple(theirs[axis] for axis in straight if axis is not None)


def _above(structure: Structure, name: str, known: Mapping[str, str]) -> list[str]:
    """The nearest tensors above that have a twin, by the candidate's name, through what leaves axes where they are;
    empty where anything else lies on the way."""
    found, queue, seen = [], [name], {name}
    rank = len(structure.by_name[name].shape or ())
    while queue:
        node = structure.by_name[queue.pop()]
        if node.kind not in _KEEPING or len(seen) > _MOST or not node.parents:
            return []
        for parent in node.parents:
            above = structure.by_name[parent]
            if len(above.shape or ()) != rank:
                return []
            if parent in known:
                found.append(known[parent])
            elif parent not in seen:
                seen.add(parent)
                queue.append(parent)
    return found
