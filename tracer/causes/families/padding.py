"""Windows: padding, strides, dilation, pools, transposed convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tracer import kinds
from tracer.causes import naming
from tracer.causes.case import Case
from tracer.causes.edit import Edit
from tracer.causes.families.common import (
    ahead,
    inputs,
    is_last,
    made,
    ordered,
    sides,
    try_chain,
    try_settings,
    try_step,
    value,
    view,
)
from tracer.causes.registry import suggests
from tracer.causes.step import Array, Step, numbers, pairs_of

_CONVOLUTIONS = tuple(k for k in kinds.CONVOLUTIONS if "transpose" not in k)
_TRANSPOSED = tuple(k for k in kinds.CONVOLUTIONS if "transpose" in k)
_POOLS = tuple(f"{stem}_pool{rank}d" for stem in ("max", "avg") for rank in (1, 2, 3))
_MODES = ("zeros", "reflect", "replicate", "symmetric", "circular")
_DILATIONS = (1, 2, 3, 4)
Pairs = tuple[tuple[int, int], ...]


def _geometry(case: Case, step: Step) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Lengths of the spatial axes, of the window, strides, dilation."""
    kernel = step.weights.get("depthwise_kernel", step.weights.get("kernel"))
    rank = int(step.kind[-2])
    window = tuple(kernel.shape[:rank]) if kernel is not None else numbers(step.settings["pool_size"], rank)
    strides = numbers(step.settings.get("strides", window if kernel is None else 1), rank)
    dilation = numbers(step.settings.get("dilation", 1), rank)
    return _spatial(inputs(case, step)[0], step), window, strides, dilation


def _spatial(x: Array, step: Step) -> tuple[int, ...]:
    rank = int(step.kind[-2])
    moved = np.moveaxis(x, int(step.settings.get("channels", -1)), -1)
    return tuple(moved.shape[-rank - 1 : -1])


def _wanted(case: Case, step: Step) -> tuple[int, ...]:
    """The lengths that are to come out; those that do where that is not known."""
    found = case.target if is_last(case, step) else value(case, step)
    return _spatial(found, step)


def paddings(
    lengths: Sequence[int], window: Sequence[int], strides: Sequence[int], dilation: Sequence[int], made_: Sequence[int]
) -> Iterator[Pairs]:
    """All paddings that give results of these lengths, alike on all axes where that can be, the plain ones first."""
    each: list[list[tuple[int, int]]] = []
    for n, k, s, d, m in zip(lengths, window, strides, dilation, made_, strict=True):
        extent, found = (k - 1) * d + 1, []
        total = (m - 1) * s + extent - n  # the least; up to s − 1 more are never read
        for before in range(-min(2, n - 1), extent + 1):
            after = max(total - before, 0) if total - before <= 0 < s else total - before
            if -2 <= after <= extent and (n + before + after - extent) // s + 1 == m:
                found.append((before, after))
        if not found:
            return
        half = total / 2
        each.append(sorted(found, key=lambda pair: (abs(pair[0] - half), pair[0])))
    if all(options == each[0] for options in each):
        for pair in each[0]:
            yield (pair,) * len(each)
    else:
        for k in range(max(map(len, each))):
            yield tuple(options[min(k, len(options) - 1)] for options in each)
    if len(each) > 1:
        for index, options in enumerate(each):
            for pair in options[1:4]:
                yield tuple(pair if k == index else other[0] for k, other in enumerate(each))


@suggests(*_CONVOLUTIONS)
def convolution(case: Case, step: Step) -> Iterator[Edit]:
    """Where windows begin, what is beyond the border, and how far apart their taps are."""
    lengths, window, strides, dilation = _geometry(case, step)
    made_ = _wanted(case, step)
    now = pairs_of(step.settings.get("padding") or [(0, 0)] * len(window))
    mode = step.settings.get("padding_mode", "zeros")
    shaped = made_ == _spatial(value(case, step), step)
    if not (shaped and not any(k > 1 for k in window) and all(s == 1 for s in strides)):
        border = shaped and _border_only(case, step, now)
        if any(map(any, now)) and shaped:
            for other in _MODES:
                if other != mode:
                    what = sides(case, f"the padding of {step.name}", mode, other)
                    yield from try_settings(case, step, "pad-mode", 2.0, {"padding_mode": other}, what)
            what = f"the {case.doer} pads {step.name} with another number than zero"
        if not border:
            yield from _begins(case, step, lengths, window, strides, dilation, made_, now)
            yield from _apart(case, step, lengths, window, strides, dilation, made_)


def _border_only(case: Case, step: Step, now: Pairs) -> bool:
    """Whether results differ only where windows reach beyond the border."""
    at = view(case, step)
    if at is None or not at.whole:
        return False
    gap = np.abs(value(case, step) - case.target)
    moved = np.moveaxis(gap, int(step.settings.get("channels", -1)), -1)
    strides = numbers(step.settings.get("strides", 1), len(now))
    inner = moved[(..., *(slice(-(-a // s), moved.shape[k - len(now) - 1] - b or None)
                          for k, ((a, b), s) in enumerate(zip(now, strides, strict=True))), slice(None))]  # fmt: skip
    scale = float(np.abs(case.target).max(initial=0.0)) or 1.0
    return bool(inner.size and inner.max() <= case.bar * scale)


def _begins(
    case: Case, step: Step, lengths: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...],
    dilation: tuple[int, ...], made_: tuple[int, ...], now: Pairs,
) -> Iterator[Edit]:  # fmt: skip
    for pairs in itertools.islice(paddings(lengths, window, strides, dilation, made_), 24):
        if pairs == now:
            continue
        values = ordered(case, now, pairs)
        cause = naming.of_setting(step.kind, "padding", *values)
        what = sides(case, f"the padding of {step.name}", now, pairs)
        yield from try_settings(case, step, cause, 2.5, {"padding": pairs}, what)
    for other in {tuple(reversed(strides)), (1,) * len(strides), (2,) * len(strides)}:
        if other != strides:
            for pairs in itertools.islice(paddings(lengths, window, other, dilation, made_), 4):
                settings = {"strides": other, "padding": pairs}
                yield from try_settings(case, step, "stride-position", 3.0, settings)


def _apart(
    case: Case, step: Step, lengths: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...],
    dilation: tuple[int, ...], made_: tuple[int, ...],
) -> Iterator[Edit]:  # fmt: skip
    if max(window) < 2:
        return
    for by in _DILATIONS:
        other = tuple(by if k > 1 else 1 for k in window)
        if other != dilation:
            for pairs in itertools.islice(paddings(lengths, window, strides, other, made_), 2):
                yield from try_settings(case, step, "dilation", 3.0, {"dilation": other, "padding": pairs})


@suggests(*_TRANSPOSED)
def transposed(case: Case, step: Step) -> Iterator[Edit]:
    """Which part of the full result is kept."""
    now = pairs_of(step.settings.get("crop") or [(0, 0)] * int(step.kind[-2]))
    lengths, made_ = _spatial(value(case, step), step), _wanted(case, step)
    totals = [a + b + n - m for (a, b), n, m in zip(now, lengths, made_, strict=True)]
    options = [[(before, total - before) for before in range(-2, max(total, 0) + 3)] for total in totals]
    alike = [tuple(pair) for pair in zip(*options, strict=False)] if len({len(o) for o in options}) == 1 else []
    for crop in [*alike, *itertools.islice(itertools.product(*options), 40)]:
        if crop != now:
            what = sides(case, f"what is cut off {step.name}", now, crop)
            yield from try_settings(case, step, "transposed-conv-shift", 2.0, {"crop": crop}, what)
    kernel = step.weights["kernel"]
    flipped = step.weigh(kernel=np.flip(kernel, tuple(range(kernel.ndim - 2))))
    what = f"the kernel of {step.name} is flipped in the {case.doer}"
    yield from try_step(case, step, flipped, "kernel-flip", what, 3.0)


@suggests(*_POOLS)
def pool(case: Case, step: Step) -> Iterator[Edit]:
    """Another kind, another start, what counts of the border."""
    lengths, window, strides, dilation = _geometry(case, step)
    made_, rank = _wanted(case, step), len(window)
    now = pairs_of(step.settings.get("padding") or [(0, 0)] * rank)
    maximum = step.kind.startswith("max")
    kind = f"{'avg' if maximum else 'max'}_pool{rank}d"
    what = f"the {case.doer} takes the {'mean' if maximum else 'largest'} of each window of {step.name}"
    other = replace(step, kind=kind, settings={**step.settings, "count_include_pad": False})
    yield from try_step(case, step, other, "pool-kind", what, 2.0)
    included = replace(step, kind=kind, settings={**step.settings, "count_include_pad": True})
    if any(map(any, now)) and maximum:
        yield from try_step(case, step, included, "pool-kind", f"{what}, the padding counted", 2.5)
    if not maximum:
        flag = bool(step.settings.get("count_include_pad"))
        who = ("does not count", "counts")[not flag]
        what = f"the {case.doer} {who} the padded zeros in the mean of {step.name}"
        yield from try_settings(case, step, "pool-count-include-pad", 2.0, {"count_include_pad": not flag}, what)
    yield from _starts(case, step, lengths, window, strides, dilation, made_, now)
    if maximum and any(map(any, now)):
        yield from _zeros(case, step, now)


def _starts(
    case: Case, step: Step, lengths: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...],
    dilation: tuple[int, ...], made_: tuple[int, ...], now: Pairs,
) -> Iterator[Edit]:  # fmt: skip
    flags: tuple[dict[str, Any], ...] = ({},)
    if step.kind.startswith("avg"):
        flags = ({"count_include_pad": False}, {"count_include_pad": True})
    for pairs in itertools.islice(paddings(lengths, window, strides, dilation, made_), 16):
        if pairs == now:
            continue
        cause = naming.of_setting("conv2d", "padding", *ordered(case, now, pairs))
        if _spatial(value(case, step), step) != made_:
            cause = "pool-ceil-mode"
        what = sides(case, f"the padding of {step.name}", now, pairs)
        for flag in flags:
            settings = {"padding": pairs, "ceil": 0, **flag}
            yield from try_settings(case, step, cause, 2.5, settings, what)
    if _spatial(value(case, step), step) != made_:
        for more in itertools.product((0, 1), repeat=len(window)):
            ceil = tuple(extra * (s - 1) for extra, s in zip(more, strides, strict=True))
            yield from try_settings(case, step, "pool-ceil-mode", 2.5, {"ceil": ceil})


def _zeros(case: Case, step: Step, now: Pairs) -> Iterator[Edit]:
    """A pad of zeros ahead of a maximum that was to ignore what is beyond the border."""
    x = inputs(case, step)[0]
    rank, channels = len(now), int(step.settings.get("channels", -1)) % x.ndim
    spatial = [axis for axis in range(x.ndim) if axis != channels][-rank:]
    whole = [(0, 0)] * x.ndim
    for axis, pair in zip(spatial, now, strict=True):
        whole[axis] = pair
    bare = step.set(padding=((0, 0),) * rank)
    chain = ahead(bare, made("pad", padding=tuple(whole), padding_mode="zeros", value=0.0))
    what = f"the {case.doer} pads {step.name} with zeros, which the {case.other} does not look at"
    yield from try_chain(case, step, chain, "pad-mode", what, 2.5)


@suggests("global_avg_pool", "global_max_pool", "adaptive_avg_pool", "adaptive_max_pool", "mean", "amax", "sum")
def whole(case: Case, step: Step) -> Iterator[Edit]:
    """The mean for the largest, the sum for the mean, over other axes, padding that counts."""
    if step.settings.get("mask") is not None:
        what = f"the {case.doer} counts padding in the mean {step.name}, which the {case.other} masks"
        yield from try_step(case, step, step.set(mask=None), "attention-mask", what, 2.0, same=("pool-kind",))
    swap = {
        "global_avg_pool": "global_max_pool", "global_max_pool": "global_avg_pool", "mean": "amax", "amax": "mean",
        "adaptive_avg_pool": "adaptive_max_pool", "adaptive_max_pool": "adaptive_avg_pool", "sum": "mean",
    }[step.kind]  # fmt: skip
    values = ordered(case, step.kind, swap)
    what = f"the reference computes {values[0]}, the candidate {values[1]}"
    yield from try_step(case, step, replace(step, kind=swap), "pool-kind", what, 2.0, key="kind", values=values)
    x = inputs(case, step)[0]
    axes = step.settings.get("axes")
    if not isinstance(axes, tuple | list) or step.kind.startswith("adaptive"):
        return
    if step.kind in ("mean", "global_avg_pool"):
        total = replace(step, kind="sum")
        yield from try_step(case, step, total, "pool-kind", f"the {case.doer} sums in {step.name}", 3.0)
    for other in itertools.combinations(range(1, x.ndim), len(axes)):
        if other != tuple(axis % x.ndim for axis in axes):
            yield from try_settings(case, step, "norm-axis", 3.0, {"axes": other})
    if is_last(case, step) and case.target.ndim >= 2:
        for place, word in ((0, "first"), (-1, "last")):
            index = tuple(place if axis in {a % x.ndim for a in axes} else (None, None, None) for axis in range(x.ndim))
            taken = Step(step.name, "slice", {"index": index}, {}, step.inputs, None)
            what = f"the {case.doer} takes the {word} in place of the {step.kind} in {step.name}"
            yield from try_chain(case, step, (taken,), "pool-kind", what, 3.0)
