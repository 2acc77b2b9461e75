"""A convolution whose result is cropped, as a causal one that is padded on both ends: one that is padded less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tracer import kinds
from tracer.causes.reading import read
from tracer.causes.step import Program, Step, Unknown, numbers, pairs_of
from tracer.store import Recording


def uncropped(program: Program, crop: Step) -> Program:
    """The program with a convolution that pads by as much less as a slice of its result takes away again; as it is
    where that is no matter of padding."""
    step = program.step(crop.inputs[0])
    if step.kind not in kinds.CONVOLUTIONS or step.kind.startswith("conv_transpose") or step.shape is None:
        return program
    if sum(step.name in one.inputs for one in program.steps) != 1:
        return program
    rank = int(step.kind[-2])
    around, index = pairs_of(step.settings.get("padding") or [(0, 0)] * rank), list(crop.settings["index"])
    if str(step.settings.get("padding_mode", "zeros")) != "zeros" or "newaxis" in index:
        return program
    if "..." in index:
        place = index.index("...")
        index[place : place + 1] = [(None, None, 1)] * (len(step.shape) - len(index) + 1)
    channels = int(step.settings.get("channels", -1)) % len(step.shape)
    strides, left = iter(numbers(step.settings.get("strides", 1), rank)), iter(around)
    kept = []
    for axis, length in enumerate(step.shape):
        part = index[axis] if axis < len(index) else (None, None, 1)
        start, stop, by = (0, 0, 0) if isinstance(part, int) else slice(*part).indices(length)
        spatial, whole = axis not in (0, channels), (start, stop, by) == (0, length, 1)
        if not spatial:
            if not whole:
                return program
            continue
        (before, after), stride = next(left), next(strides)
        if not whole and (by != 1 or stride != 1 or before < start or after < length - stop):
            return program
        kept.append((before, after) if whole else (before - start, after - length + stop))
    less = replace(step.set(padding=tuple(kept)), shape=crop.shape)
    steps = [less if one is step else one for one in program.steps if one is not crop]
    read_on = (replace(one, inputs=tuple(step.name if n == crop.name else n for n in one.inputs)) for one in steps)
    return Program(tuple(read_on))


def before_crop(recording: Recording, step: Step | None, pairs: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    """How a convolution of a recording, ``step`` as it was read, is to be padded for ``pairs`` to be left of it: more
    where its result is cropped."""
    wanted = list(pairs_of((a, b) for a, b in pairs))
    if step is None or step.kind not in kinds.CONVOLUTIONS:
        return wanted
    try:
        whole = pairs_of(read(recording, step.name).settings.get("padding") or ())
    except (Unknown, KeyError):
        return wanted
    left = pairs_of(step.settings.get("padding") or ())
    if not len(whole) == len(left) == len(wanted):
        return wanted
    gone = [(max(0, a - c), max(0, b - d)) for (a, b), (c, d) in zip(whole, left, strict=True)]
    return [(a + c, b + d) for (a, b), (c, d) in zip(wanted, gone, strict=True)]
