"""Where the ninth set's modules register, and what its ports share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.kinds import KindedSet

SET = KindedSet("ninth")
network, control, defect, slip, ways = SET.network, SET.control, SET.defect, SET.slip, SET.ways
one_layer, neighbours = SET.one_layer, SET.neighbours


def folded(conv: str, norm: str) -> Callable[[Any], None]:
    """Moves a BatchNorm's statistics into the convolution or dense layer before it, and removes the BatchNorm."""

    def apply(port: Any) -> None:
        layer, bn = port.get_submodule(conv), port.get_submodule(norm)
        share = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        before = 0 if layer.bias is None else layer.bias
        bias = (before - bn.running_mean) * share + bn.bias
        layer.weight = nn.Parameter(layer.weight * share.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias = nn.Parameter(bias)
        port.set_submodule(norm, nn.Identity())

    return apply


def regated(path: str, *order: int) -> Callable[[Any], None]:
    """Gives a recurrent layer the parts of its weights in another order."""

    def apply(port: Any) -> None:
        for tensor in port.get_submodule(path).state_dict().values():
            parts = tensor.unflatten(0, (len(order), -1))
            tensor.copy_(parts[list(order)].flatten(0, 1).clone())

    return apply


def unrolled(rnn: nn.RNNBase, x: torch.Tensor, end: str = "", reset_before: bool = False) -> torch.Tensor:
    """An LSTM's or a GRU's one direction, step by step; ``end`` is ``_reverse`` for the one that reads backwards."""
    inner, hidden = getattr(rnn, f"weight_ih_l0{end}"), getattr(rnn, f"weight_hh_l0{end}")
    bias, more = getattr(rnn, f"bias_ih_l0{end}"), getattr(rnn, f"bias_hh_l0{end}")
    h = c = x.new_zeros(len(x), rnn.hidden_size)
    found = []
    for step in (x.flip(1) if end else x).unbind(1):
        given = F.linear(step, inner, bias)
        if isinstance(rnn, nn.LSTM):
            i, f, g, o = (given + F.linear(h, hidden, more)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        else:
            kept = F.linear(h, hidden, more)
            r, z = (torch.sigmoid(a + b) for a, b in zip(given.chunk(3, 1)[:2], kept.chunk(3, 1)[:2], strict=True))
            last = F.linear(r * h, hidden.chunk(3)[2], more.chunk(3)[2]) if reset_before else r * kept.chunk(3, 1)[2]
            h = (1 - z) * torch.tanh(given.chunk(3, 1)[2] + last) + z * h
        found.append(h)
    out = torch.stack(found, dim=1)
    return out.flip(1) if end else out


def both_ways(rnn: nn.RNNBase, x: torch.Tensor) -> torch.Tensor:
    """A layer of two directions, each step by step."""
    return torch.cat([unrolled(rnn, x), unrolled(rnn, x, "_reverse")], dim=2)
