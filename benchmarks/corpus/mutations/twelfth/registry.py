"""Where the twelfth set's modules register, and what its ports share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("twelfth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours


def left_on(path: str) -> Callable[[Any], None]:
    """Leaves a layer in training mode, as where it was made anew behind ``eval``."""

    def apply(port: Any) -> None:
        layer = port.get_submodule(path)
        layer.train(True)
        layer.train = lambda mode=True: layer

    return apply


def folded_ahead(norm: str, dense: str) -> Callable[[Any], None]:
    """Moves a BatchNorm's statistics into the dense layer behind it, and removes the BatchNorm."""

    def apply(port: Any) -> None:
        bn, layer = port.get_submodule(norm), port.get_submodule(dense)
        share = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        layer.bias = nn.Parameter(layer.bias + layer.weight @ (bn.bias - bn.running_mean * share))
        layer.weight = nn.Parameter(layer.weight * share)
        port.set_submodule(norm, nn.Identity())

    return apply
