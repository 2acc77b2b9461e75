"""Values at places between others, windows and what they add up to, spectra, as the frameworks record them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from tracer.causes.reading import Read, inferring, reader
from tracer.causes.reading.arrangements import listed
from tracer.causes.step import Step, Unknown, numbers

_PLACED = 4
"""Axes of the places of a map."""


@reader("grid_sample")
def grid_sample(node: Read) -> Step:
    """PyTorch's, and ONNX's of the same name."""
    if len(node.node.parents) != 2:
        raise Unknown("the places that it takes were not recorded")
    mode = str(node.config.get("mode", "bilinear"))
    settings: dict[str, Any] = {
        "mode": {"linear": "bilinear"}.get(mode, mode),
        "padding_mode": str(node.config.get("padding_mode", "zeros")),
        "align_corners": bool(node.config.get("align_corners", False)),
    }
    return inferring.step_of(node, **settings)


@reader("other:affine_grid")
def affine_grid(node: Read) -> Step:
    """PyTorch's, of pictures."""
    if len(node.shape) != _PLACED:
        raise Unknown("places in a volume are not computed")
    aligned = bool(node.config.get("align_corners", False))
    return inferring.step_of(node, kind="affine_grid", size=node.shape[1:3], align_corners=aligned)


@reader("other:extractsequences", "other:unfold")
def sequences(node: Read) -> Step:
    """Keras's windows of the last axis; its ``unfold`` is PyTorch's of pictures."""
    if node.node.kind == "other:unfold":
        rank = node.rank - 2
        size = node.config.get("kernel_size")
        steps = (
            inferring.step_of(
                node, kind="unfold", kernel_size=numbers(size, rank), strides=strides, **_apart(node, rank)
            )
            for strides in _strides(node, rank)
        )
        return inferring.first(node, steps, "how far its windows are apart is not told")
    return inferring.first(node, sliding(node), "how far its windows are apart is not told")


def sliding(node: Read) -> Iterator[Step]:
    """Windows along one axis, their values last: which axis, and how far apart they are."""
    before, size = node.source(), node.shape[-1]
    for axis in range(len(before)):
        rest = [n for k, n in enumerate(before) if k != axis]
        if len(node.shape) == len(before) + 1 and [n for k, n in enumerate(node.shape[:-1]) if k != axis] == rest:
            for strides in range(1, before[axis] + 1):
                if (before[axis] - size) // strides + 1 == node.shape[axis]:
                    yield inferring.step_of(node, kind="windows", axis=axis, size=size, strides=strides)


def _apart(node: Read, rank: int) -> dict[str, Any]:
    return {word: numbers(node.config.get(word, usual), rank) for word, usual in (("dilation", 1), ("padding", 0))}


def _strides(node: Read, rank: int) -> Iterator[tuple[int, ...]]:
    told = node.config.get("strides", node.config.get("stride"))
    yield from [numbers(told, rank)] if told is not None else ((n,) * rank for n in range(1, 9))


@reader("fold", "other:fold")
def fold(node: Read) -> Step:
    """The sum of windows, given as columns; the window is what the number of channels leaves."""
    size, rank = node.shape[2:], len(node.shape) - 2
    told, taps = node.config.get("kernel_size"), node.source()[1] // node.shape[1]
    windows = [numbers(told, rank)] if told is not None else [
        way for way in itertools.product(range(1, taps + 1), repeat=rank) if math.prod(way) == taps]  # fmt: skip
    steps = (
        inferring.step_of(
            node, kind="fold", output_size=size, kernel_size=window, strides=strides, **_apart(node, rank)
        )
        for window in windows
        for strides in _strides(node, rank)
    )
    return inferring.first(node, steps, "the size of its windows is not told", terms=4)


@reader("fft")
def transform(node: Read) -> Step:
    """What numpy has a function for; PyTorch's are complex, and so are TensorFlow's; of Keras's two results this is the
    real part."""
    return spectrum(node, node, "real")


def spectrum(node: Read, whole: Read, part: str) -> Step:
    """One of the parts of a transform. Raises Unknown."""
    name = whole.node.label.rpartition(".")[2].lower().rpartition("_")[2]
    stem = name.removesuffix("n").removesuffix("2")
    if stem not in ("fft", "ifft", "rfft", "irfft") or (stem.startswith(("r", "ir")) and name != stem):
        raise Unknown(f"{whole.node.label} is not known")
    told, rank = whole.config.get("axis", whole.config.get("axes")), whole.rank
    every = (whole.config.get("norm"),) if "norm" in whole.config else (None, "ortho", "forward")
    if told is not None:
        axes = [tuple(listed(told))]
    elif name == stem:
        axes = [(axis,) for axis in range(-1, -rank - 1, -1)]
    else:
        axes = [pair for pair in ((-2, -1), (-1,), tuple(range(rank))) if len(pair) <= rank]
    together = (whole.node.dtype or "").startswith("complex")
    apart = whole.framework == "tensorflow" and stem != "irfft" and not together
    steps = (
        inferring.step_of(
            node,
            whole.node.parents,
            "fft",
            transform=stem,
            axes=over,
            norm=norm,
            part=part if apart else None,
            length=node.shape[over[0]] if stem == "irfft" else None,
        )
        for over in axes
        for norm in every
    )
    return inferring.first(node, steps, "its axes are not told", terms=64)
