"""Depthwise convolutions in float64, for which torch has no kernel but one that takes the channels one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

CONVOLUTIONS: Mapping[Callable[..., Any], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
"""Torch's convolutions with the number of their spatial axes."""
_BLOCK = 1 << 16
"""Results computed at a time: they stay in the cache while the taps are added up."""
_LARGEST = 1 << 12
"""Results in each channel up to which what torch spends on every single channel is most of the time."""


def convolved(
    rank: int,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """What the convolution over ``rank`` axes with torch's own arguments gives, in float64; None where torch's own is
    as fast, or refuses.
    """
    known = input.dtype == weight.dtype == torch.float64 and weight.device.type == "cpu"
    usual = groups > 1 and weight.ndim == rank + 2 == input.ndim and weight.shape[1] == 1 and input.shape[1] == groups
    if not known or not usual or weight.shape[0] % groups:
        return None
    kernel = tuple(weight.shape[2:])
    strides, dilations = _each(stride, rank), _each(dilation, rank)
    spans = [step * (length - 1) for step, length in zip(dilations, kernel, strict=True)]
    if isinstance(padding, str):
        around = [(span // 2, span - span // 2) if padding == "same" else (0, 0) for span in spans]
    else:
        around = [(width, width) for width in _each(padding, rank)]
    lengths = [
        (have + sum(pair) - span - 1) // step + 1
        for have, pair, span, step in zip(input.shape[2:], around, spans, strides, strict=True)
    ]
    if min(lengths) <= 0 or min(strides) <= 0 or min(map(min, around)) < 0 or math.prod(lengths) > _LARGEST:
        return None
    padded = functional.pad(input, [width for pair in reversed(around) for width in pair])
    out = input.new_empty(input.shape[0], weight.shape[0], *lengths)
    times = weight.shape[0] // groups
    step = max(1, _BLOCK // max(1, out[0, 0].numel() * times))
    places: list[tuple[Any, ...]] = list(itertools.product(*map(range, kernel)))
    ones = (1,) * rank
    for sample, begin in itertools.product(range(input.shape[0]), range(0, groups, step)):
        read = padded[sample, begin : begin + step]
        sums = out[sample, begin * times : (begin + step) * times].view(-1, times, *lengths)
        taps = weight[begin * times : (begin + step) * times, 0].reshape(-1, times, *kernel)
        if bias is None:
            sums.zero_()
        else:
            sums.copy_(bias[begin * times : (begin + step) * times].reshape(-1, times, *ones))
        for place in places:
            window: tuple[Any, ...] = tuple(
                slice(at * apart, at * apart + by * (length - 1) + 1, by)
                for at, apart, by, length in zip(place, dilations, strides, lengths, strict=True)
            )
            sums.addcmul_(read[(..., *window)].unsqueeze(1), taps[(..., *place)].reshape(-1, times, *ones))
    return out


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    found = (value,) if isinstance(value, int) else tuple(value)
    return found * rank if len(found) == 1 else found
