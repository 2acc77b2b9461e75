"""Defects of recurrent layers, attention and embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.corpus.mutations.layers import Site, calls, of
from benchmarks.corpus.mutations.subject import Call, Subject, Work, around, kind

_PROJECTIONS = (("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q_lin", "k_lin", "v_lin"), ("q", "k", "v"),
                ("to_q", "to_k", "to_v"), ("wq", "wk", "wv"), ("query_proj", "key_proj", "value_proj"),
                ("linear_q", "linear_k", "linear_v"))  # fmt: skip
_FUSED = ("qkv", "c_attn", "query_key_value", "in_proj")
_SOON = 4
"""Nodes between a scale or a mask and the softmax that it is for."""


# --- recurrent layers ---------------------------------------------------------------------------------------


def _rows_swapped(layer: nn.RNNBase, gates: int, one: int, two: int) -> None:
    order = list(range(gates))
    order[one], order[two] = order[two], order[one]
    with torch.no_grad():
        for value in layer.parameters():
            if value.shape[0] == gates * layer.hidden_size:
                value.copy_(value.unflatten(0, (gates, -1))[order].flatten(0, 1))


@kind("lstm-gate-order", of(nn.LSTM))
def _(work: Work, path: Site) -> None:
    _rows_swapped(work.at(path), 4, 1, 2)


@kind("gru-gate-order", of(nn.GRU))
def _(work: Work, path: Site) -> None:
    _rows_swapped(work.at(path), 3, 0, 1)


@kind("rnn-bias", of(nn.LSTM, nn.GRU, nn.RNN))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    with torch.no_grad():
        for name, value in layer.named_parameters():
            if name.startswith("bias_ih"):
                value.add_(getattr(layer, name.replace("_ih_", "_hh_")))


@kind("rnn-direction", of(nn.LSTM, nn.GRU, nn.RNN))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    axis = 1 if layer.batch_first else 0
    around(layer, lambda forward, x, *args: forward(x.flip(axis), *args))


# --- attention ----------------------------------------------------------------------------------------------


def _attentions(subject: Subject) -> Iterator[tuple[Site, tuple[str, ...], int]]:
    """Modules with projections for queries, keys and values: path, names (one where they are fused), heads."""
    ran = {node.scope for node in subject.structure} | set(subject.leaves)
    for path, module in subject.paths.items():
        heads = next((getattr(module, n) for n in ("num_attention_heads", "num_heads", "n_heads", "heads", "nh")
                      if isinstance(getattr(module, n, None), int)), 0)  # fmt: skip
        if path not in ran:
            continue
        if isinstance(module, nn.MultiheadAttention):
            if module.in_proj_weight is not None:
                yield path, ("in_proj_weight",), heads
            continue
        own = dict(module.named_children())
        found = next((names for names in _PROJECTIONS if all(n in own for n in names)), None)
        fused = next((name for name in _FUSED if name in own), None)
        if found is not None and all(hasattr(own[n], "weight") for n in found):
            yield path, found, heads
        elif fused is not None and hasattr(own[fused], "weight"):
            yield path, (fused,), heads


def _parts(work: Work, site: tuple[Site, tuple[str, ...], int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Weights and biases of the three projections, features first; views that can be written to."""
    path, names, _ = site
    module: Any = work.model.get_submodule(path)
    if names == ("in_proj_weight",):
        work.where.append(path)
        weight, bias = module.in_proj_weight.data, module.in_proj_bias
        return list(weight.chunk(3)), [] if bias is None else list(bias.data.chunk(3))
    weights: list[torch.Tensor] = []
    biases: list[torch.Tensor] = []
    for name in names:
        layer = work.at(f"{path}.{name}")
        weight = layer.weight.data.t() if type(layer).__name__ == "Conv1D" else layer.weight.data
        weights += weight.chunk(3) if len(names) == 1 else [weight]
        if getattr(layer, "bias", None) is not None:
            biases += layer.bias.data.chunk(3) if len(names) == 1 else [layer.bias.data]
    return weights, biases


@kind("qkv-order", _attentions)
def _(work: Work, site: tuple[Site, tuple[str, ...], int]) -> bool:
    weights, biases = _parts(work, site)
    if len(weights) != 3 or weights[0].shape != weights[2].shape:
        return False
    for parts in (weights, biases):
        if len(parts) == 3:  # queries and values: with queries and keys either pairing were right
            kept = parts[0].clone()
            parts[0].copy_(parts[2])
            parts[2].copy_(kept)
    return True


@kind("head-layout", _attentions)
def _(work: Work, site: tuple[Site, tuple[str, ...], int]) -> bool:
    """Heads and their features the other way round, in the values' projection."""
    heads = site[2]
    weights, biases = _parts(work, site)
    if len(weights) != 3 or heads < 2 or weights[2].shape[0] % heads or weights[2].shape[0] == heads:
        return False
    for parts in (weights, biases):
        if len(parts) == 3:
            parts[2].copy_(parts[2].unflatten(0, (heads, -1)).transpose(0, 1).flatten(0, 1).clone())
    return True


@kind("attention-scale", of(nn.MultiheadAttention))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.in_proj_weight is None:
        return False
    with torch.no_grad():
        for value in (layer.in_proj_weight, layer.in_proj_bias):
            if value is not None:
                value[: layer.embed_dim] *= math.sqrt(layer.head_dim)
    return True


def _before_softmax(*ops: str) -> Any:
    """Calls whose result reaches a softmax within a few nodes."""

    def sites(subject: Subject) -> Iterator[Call]:
        for call in calls(*ops)(subject):
            front = {call.node.name}
            for _ in range(_SOON):
                front = {child for name in front for child in subject.structure.children.get(name, ())}
                if any(subject.structure.by_name[name].kind == "softmax" for name in front):
                    yield call
                    break

    return sites


@kind("attention-scale", _before_softmax("div", "mul"))
def _(work: Work, call: Call) -> bool:
    if not call.scalars and () not in call.shapes:
        return False
    work.edit(call, lambda func, args, named: args[0])
    return True


@kind("attention-scale", calls("scaled_dot_product_attention"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(*args, **{**named, "scale": 1.0}))


@kind("attention-mask", calls("scaled_dot_product_attention"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(*args[:3], **{**named, "attn_mask": None, "is_causal": False}))


@kind("attention-mask", _before_softmax("masked_fill", "add"))
def _(work: Work, call: Call) -> bool:
    if call.op == "add" and (len(call.shapes) != 2 or call.shapes[0] == call.shapes[1]):
        return False
    work.edit(call, lambda func, args, named: args[0])
    return True


@kind("attention-mask", _before_softmax("where"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: args[1])


@kind("attention-mask", of(nn.MultiheadAttention))
def _(work: Work, path: Site) -> None:
    def run(forward: Any, *args: Any, **named: Any) -> Any:
        return forward(*args[:3], **{**named, "attn_mask": None, "key_padding_mask": None, "is_causal": False})

    around(work.at(path), run)


# --- embeddings ---------------------------------------------------------------------------------------------


@kind("embedding-offset", of(nn.Embedding))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.roll(1, 0))


@kind("embedding-scale", of(nn.Embedding))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    around(layer, lambda forward, ids: forward(ids) * math.sqrt(layer.embedding_dim))
