"""Where the thirteenth set's modules register, and what its ports share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("thirteenth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours


def unscaled(**widths: int) -> dict[str, np.ndarray]:
    """The scales that Keras leaves out of a BatchNorm which only shifts."""
    return {f"{name}.weight": np.ones(wide, np.float32) for name, wide in widths.items()}


def each(*changes: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Several changes of one port, in turn."""

    def apply(port: Any) -> None:
        for change in changes:
            change(port)

    return apply


def one_too_early(path: str) -> Callable[[Any], None]:
    """What a BatchNorm without a scale holds, read as if the first of it were the scale."""

    def apply(port: Any) -> None:
        norm = port.get_submodule(path)
        beta, mean = norm.bias.detach().clone(), norm.running_mean.clone()
        norm.weight.data.copy_(beta)
        norm.bias.data.copy_(mean)
        norm.running_mean.zero_()

    return apply
