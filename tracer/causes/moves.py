"""Operations of one side alone that only move values: what the mistake is called by what they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tracer import kinds, relations
from tracer.causes.edit import Edit
from tracer.causes.step import Program, Step, Unknown

MOVING = kinds.LAYOUT_ONLY | {"concat", "gather", "stack"}
_RECURRENT = frozenset({"lstm", "gru", "rnn"})
_MOST = 1 << 20


def of_moves(edits: Sequence[Edit], idle: Sequence[Step] = ()) -> str:
    """The cause that operations of one side are together, with those that serve only them; empty where they do more
    than move values."""
    steps = [*(step for edit in edits for step in edit.detail["steps"]), *(one for one in idle if one.kind in MOVING)]
    made = {step.name for step in steps}
    begins = {node.name: node for edit in edits for node in edit.detail["begins"] if node.name not in made}
    if not all(step.kind in MOVING for step in steps) or len(begins) != 1:
        return ""
    (source,) = begins.values()
    recurrent = source.kind in _RECURRENT
    if source.shape is None or math.prod(source.shape) > _MOST:
        return "rnn-direction" if recurrent else ""
    places = np.arange(math.prod(source.shape), dtype=np.float64).reshape(source.shape)
    try:
        result = Program(tuple(_in_order(steps, source.name))).run({source.name: places})
    except (Unknown, ValueError):
        return "rnn-direction" if recurrent else ""
    if recurrent:  # the features of each step, one direction's before the other's, and no other step
        order = relations.permutation(places, result, places.ndim - 1) if result.shape == places.shape else None
        return "concat-order" if order is not None else "rnn-direction"
    if result.ndim < places.ndim:
        return "flatten-order"
    if result.shape != places.shape or result.ndim < 2:
        return "reshape-order"
    last = result.ndim - 1
    for axis in (last, *range(1, last)):
        if relations.permutation(places, result, axis) is not None:
            return "channel-order" if axis in (last, 1) else "axis-permutation"
    return "reshape-order"


def _in_order(steps: Sequence[Step], begin: str) -> list[Step]:
    """The steps with each behind what it reads."""
    left, ready, found = list(steps), {begin}, []
    while left:
        step = next((one for one in left if set(one.inputs) <= ready), None)
        if step is None:
            raise ValueError("what they read is not known")
        left.remove(step)
        ready.add(step.name)
        found.append(step)
    return found
