"""What a step is for, by what it reads and what reads it: a layer's activation, the kernel of a convolution, a mask."""

from __future__ import annotations

from tracer import kinds
from tracer.causes.scores import FAR, SCALING
from tracer.causes.step import Step
from tracer.graph import Structure

_WAVES = ("sin", "cos")
_BEHIND = 3


def bends_layer(step: Step, structure: Structure) -> bool:
    """Whether a step is a wave of what a layer with weights gives, scaled at most: there it is an activation, and of
    places or times it is not."""
    names = list(step.inputs) if step.kind in _WAVES else []
    for _ in range(_BEHIND):
        above = [structure.by_name[name] for name in names if name in structure.by_name]
        if any(node.kind in kinds.WEIGHTED and node.params for node in above):
            return True
        names = [parent for node in above if node.kind in SCALING and len(node.parents) == 1 for parent in node.parents]
    return False


def makes_kernel(step: Step, structure: Structure) -> bool:
    """Whether a convolution takes what a step gives for its kernel, at most laid out otherwise."""
    names = [step.name]
    for _ in range(FAR):
        following = [(name, structure.by_name[child]) for name in names for child in structure.children.get(name, ())]
        if any(node.kind in kinds.CONVOLUTIONS and name in node.parents[1:2] for name, node in following):
            return True
        names = [node.name for _, node in following if node.kind in kinds.LAYOUT_ONLY]
    return False
