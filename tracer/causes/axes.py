"""Along which axis a step moves values: channels, features, steps of a sequence, or places."""

from __future__ import annotations

import numpy as np

from tracer import kinds
from tracer.causes.case import Side
from tracer.causes.scores import SCALING
from tracer.causes.step import Step
from tracer.graph import Node, Structure

_FEATURES = 2
"""Axes of samples that have features, and nothing else."""
_FAR = 8


_LEAVING = kinds.ELEMENTWISE | kinds.UNCHANGED | SCALING | {"pad", "clip"}
"""What leaves axes where they are."""


def counts(node: Node) -> bool:
    """Whether a node's tensor is of whole numbers, such as ids."""
    return (node.dtype or "").startswith(("int", "uint"))


def moved(step: Step) -> tuple[int, ...]:
    """The axes that a step names, from the first on; none where their number is not known."""
    axes, rank = step.settings.get("axes", step.settings.get("axis")), len(step.shape or ())
    axes = axes if isinstance(axes, tuple | list) else (axes,)
    return tuple(int(axis) % rank for axis in axes if isinstance(axis, int | np.integer)) if rank else ()


def as_flip(step: Step) -> Step:
    """A slice that takes all of one axis from its end on as the flip that it is; any other step as it is."""
    index, shape = list(step.settings.get("index", ())), step.shape or ()
    if "..." in map(str, index):
        at = [str(part) for part in index].index("...")
        index[at : at + 1] = [(None, None, 1)] * (len(shape) - len(index) + 1)
    turned = [
        axis for axis, part in enumerate(index)
        if isinstance(part, tuple) and part[2] == -1 and part[1] is None and part[0] in (None, -1, shape[axis] - 1)
    ] if step.kind == "slice" and len(index) <= len(shape) else []  # fmt: skip
    others = [part for axis, part in enumerate(index) if axis not in turned]
    whole = all(isinstance(part, tuple) and not part[0] and part[1] is None and part[2] in (1, None) for part in others)
    if len(turned) != 1 or not whole:
        return step
    return Step(step.name, "flip", {"axes": tuple(turned)}, inputs=step.inputs, shape=step.shape)


def along_features(step: Step) -> bool:
    """Whether a step moves values along the last of three axes or more, and no other."""
    rank = len(step.shape or ())
    return rank > _FEATURES and bool(moved(step)) and set(moved(step)) == {rank - 1}


def turns_features(step: Step, side: Side) -> bool:
    """Whether a step puts the features of each sample in another order: what it gives has no other axis."""
    node = side.recording.structure.by_name.get(step.name)
    features = len(step.shape or ()) == _FEATURES and set(moved(step)) == {1}
    return features and node is not None and not counts(node)


def along_channels(step: Step, side: Side) -> bool:
    """Whether a step moves values along the axis that what reads them takes for channels; where nothing tells which
    that is, the last or the second of three axes and more may be."""
    rank, axes = len(step.shape or ()), set(moved(step))
    if not axes:
        return step.kind != "flip"
    if rank <= _FEATURES:
        return axes == {rank - 1}
    own = _channels(side.recording.structure, step.name)
    return len(axes) == 1 and axes <= ({1, rank - 1} if own is None else {own % rank})


def _channels(structure: Structure, name: str) -> int | None:
    """The axis of the channels of the convolution that reads a tensor, through what leaves its axes as they are."""
    names = [name]
    for _ in range(_FAR):
        following = [structure.by_name[child] for one in names for child in structure.children.get(one, ())]
        for node in following:
            if node.kind in kinds.CONVOLUTIONS and node.layout is not None:
                return -1 if node.layout == "channels_last" else -1 - int(node.kind[-2])
        names = [node.name for node in following if node.kind in _LEAVING]
    return None


def reorders_channels(step: Step) -> bool:
    """Whether a step picks each of the last axis' values once, in another order."""
    indices = np.asarray(step.settings.get("indices", ()))
    if step.kind != "gather" or len(step.inputs) != 1 or not step.shape or indices.ndim != 1:
        return False
    rank, axis = len(step.shape), step.settings.get("axis", 0)
    return axis in (-1, rank - 1) and np.array_equal(np.sort(indices), np.arange(step.shape[-1]))
