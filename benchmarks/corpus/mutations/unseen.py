"""Defects that were written when the engine that names causes was done, to measure it on what it was not made with.

Apart from the other kinds: benchmarks.causes takes them with ``--new``. ``RIGHT`` and ``VAGUE`` say by which
names of the catalogue each may be called.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.graph import _channel_axis, _fed, _last
from benchmarks.corpus.mutations.layers import (
    _BATCH,
    _CONV,
    Site,
    _assign,
    _own_norms,
    _padded,
    _twins,
    calls,
    of,
    weighted,
)
from benchmarks.corpus.mutations.sequences import _attentions, _before_softmax, _parts
from benchmarks.corpus.mutations.subject import Call, Kind, Work, around, kind

_NORMS = (_BATCH, nn.LayerNorm, nn.GroupNorm)
KINDS: dict[str, Kind] = {}
RIGHT: dict[str, frozenset[str]] = {}
VAGUE: dict[str, frozenset[str]] = {}


def new(name: str, right: str, sites: Any, vague: str = "") -> Any:
    """Registers a defect of this kind with what it may be called."""
    RIGHT[name], VAGUE[name] = frozenset(right.split()), frozenset(vague.split())
    return kind(name, sites, into=KINDS)


# --- activations --------------------------------------------------------------------------------------------


@new("relu-capped", "activation-kind activation-param", of(nn.ReLU))
@new("relu-capped", "activation-kind activation-param", calls("relu"))
def _(work: Work, site: Any) -> None:
    most = 1.0  # what a quantised port keeps
    if isinstance(site, str):
        work.replace(site, nn.Hardtanh(0.0, most))
    else:
        work.edit(site, lambda func, args, named: F.hardtanh(args[0], 0.0, most))


@new("relu-leaking", "activation-kind activation-param", of(nn.ReLU))
@new("relu-leaking", "activation-kind activation-param", calls("relu"))
def _(work: Work, site: Any) -> None:
    if isinstance(site, str):
        work.replace(site, nn.LeakyReLU(0.01))
    else:
        work.edit(site, lambda func, args, named: F.leaky_relu(args[0], 0.01))


@new("gelu-sigmoid", "gelu-approx activation-kind", of(nn.GELU))
@new("gelu-sigmoid", "gelu-approx activation-kind", calls("gelu"))
def _(work: Work, site: Any) -> None:
    def quick(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)

    if isinstance(site, str):
        around(work.at(site), lambda forward, x: quick(x))
    else:
        work.edit(site, lambda func, args, named: quick(args[0]))


@new("silu-for-gelu", "activation-kind", of(nn.GELU))
@new("silu-for-gelu", "activation-kind", calls("gelu"))
def _(work: Work, site: Any) -> None:
    if isinstance(site, str):
        work.replace(site, nn.SiLU())
    else:
        work.edit(site, lambda func, args, named: F.silu(args[0]))


@new("relu-after-add", "activation-extra", calls("add"))
def _(work: Work, call: Call) -> bool:
    if call.nodes_read != 2 or len(set(call.shapes)) != 1:
        return False
    work.edit(call, lambda func, args, named: torch.relu(func(*args, **named)))
    return True


@new("tanh-after-dense", "activation-extra", of(nn.Linear))
def _(work: Work, path: Site) -> None:
    work.insert(path, nn.Tanh())


# --- normalisation ------------------------------------------------------------------------------------------


@new("bn-deviation", "bn-stats", of(_BATCH))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    _assign(layer, "running_var", layer.running_var.sqrt())


@new("bn-mean-zero", "bn-stats", of(_BATCH), "weights-not-loaded weights-perturbed")
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    _assign(layer, "running_mean", torch.zeros_like(layer.running_mean))


@new("norm-scale-one", "weights-not-loaded bn-stats", of(*_NORMS), "weights-perturbed")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight is None:
        return False
    _assign(layer, "weight", torch.ones_like(layer.weight))
    return True


@new("norm-eps-large", "bn-eps ln-eps", of(*_NORMS))
@new("norm-eps-large", "bn-eps ln-eps", _own_norms)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    for name in ("eps", "variance_epsilon"):
        if hasattr(layer, name):
            setattr(layer, name, 0.1)


@new("ln-eps-outside", "ln-eps", of(nn.LayerNorm))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    axes = tuple(range(-len(layer.normalized_shape), 0))

    def run(forward: Any, x: torch.Tensor) -> Any:
        deviation = x.var(axes, keepdim=True, correction=0).sqrt()
        normal = (x - x.mean(axes, keepdim=True)) / (deviation + 1e-3)
        normal = normal if layer.weight is None else normal * layer.weight
        return normal if layer.bias is None else normal + layer.bias

    around(layer, run)


@new("norms-swapped", "weights-swapped bn-stats", lambda subject: _neighbours(subject), "weights-not-loaded")
def _(work: Work, paths: tuple[Site, Site]) -> None:
    first, second = (work.at(path) for path in paths)
    kept = {name: value.clone() for name, value in first.state_dict().items()}
    first.load_state_dict(second.state_dict())
    second.load_state_dict(kept)


def _neighbours(subject: Any) -> list[tuple[Site, Site]]:
    found: list[tuple[Site, Site]] = []
    last: dict[Any, Site] = {}
    for path in subject.modules(*_NORMS):
        layer = subject.leaves[path]
        key = type(layer), None if layer.weight is None else tuple(layer.weight.shape)
        if key in last and key[1] is not None:
            found.append((last[key], path))
        last[key] = path
    return found


# --- weights ------------------------------------------------------------------------------------------------


@new("kernel-in-out", "kernel-layout", of(_CONV), "channel-order axis-permutation dense-transpose")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight.shape[0] != layer.weight.shape[1] or layer.weight.shape[0] == 1 or layer.groups != 1:
        return False
    _assign(layer, "weight", layer.weight.transpose(0, 1).clone())
    return True


@new("kernel-mirrored", "kernel-flip", of(_CONV))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight.shape[-1] < 2:
        return False
    _assign(layer, "weight", layer.weight.flip(-1).clone())
    return True


@new("channels-out-reversed", "channel-order", of(_CONV, nn.Linear), "kernel-layout axis-permutation concat-order")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight.shape[0] < 3 or getattr(layer, "groups", 1) != 1 or isinstance(layer, nn.ConvTranspose2d):
        return False
    _assign(layer, "weight", layer.weight.flip(0).clone())
    if layer.bias is not None:
        _assign(layer, "bias", layer.bias.flip(0).clone())
    return True


@new("weights-halved-type", "dtype weights-perturbed", weighted)
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    _assign(layer, "weight", layer.weight.bfloat16().float())


@new("weights-scaled", "scale weights-perturbed", weighted, "weights-not-loaded")
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    _assign(layer, "weight", layer.weight * math.sqrt(2))


@new("weights-half-loaded", "weights-not-loaded weights-perturbed", weighted)
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    rows = layer.weight.shape[0] // 2
    if rows < 2:
        return False
    changed = layer.weight.detach().clone()
    changed[:rows] = torch.randn_like(changed[:rows]) * changed.std()
    _assign(layer, "weight", changed)
    return True


@new("bias-swapped", "weights-swapped qkv-order", _twins, "weights-not-loaded weights-perturbed")
def _(work: Work, paths: tuple[Site, Site]) -> bool:
    first, second = (work.at(path) for path in paths)
    if first.bias is None or torch.equal(first.bias, second.bias):
        return False
    value = first.bias.detach().clone()
    _assign(first, "bias", second.bias)
    _assign(second, "bias", value)
    return True


@new("bias-zero", "bias-missing weights-not-loaded", weighted, "weights-perturbed")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.bias is None or not layer.bias.any():
        return False
    _assign(layer, "bias", torch.zeros_like(layer.bias))
    return True


@new("bias-extra", "bias-missing", of(_CONV, nn.Linear))
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.bias is not None:
        return False
    count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    layer.bias = nn.Parameter(torch.randn(count) * 0.1)
    return True


# --- convolutions and pools ---------------------------------------------------------------------------------


def _shifted(before: int, after: int, mode: str = "constant") -> Any:
    """Pads a layer's input so many more (of its padding) before and after each axis, in place of its own padding."""

    def apply(work: Work, path: Site) -> bool:
        layer = work.at(path)
        if isinstance(layer, nn.Conv3d):
            return False
        wide = list(layer.padding)
        layer.padding = (0,) * len(wide)
        layer._reversed_padding_repeated_twice = [0] * (2 * len(wide))
        sides = [n for w in reversed(wide) for n in (w * before // 2, w * after // 2)]
        around(layer, lambda forward, x: forward(F.pad(x, sides, mode=mode)))
        return True

    return apply


new("pad-start", "pad-asymmetry", _padded, "shift")(_shifted(4, 0))
new("pad-replicated", "pad-mode", _padded)(_shifted(2, 2, "replicate"))


@new("pad-wrapped", "pad-mode", _padded)
def _(work: Work, path: Site) -> None:
    work.at(path).padding_mode = "circular"


@new("pool-zeros", "pad-mode pool-count-include-pad", of(nn.MaxPool1d, nn.MaxPool2d), "block-extra pad-asymmetry")
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    wide = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * int(type(layer).__name__[-2])
    if not max(wide):
        return False
    layer.padding = 0
    around(layer, lambda forward, x: forward(F.pad(x, [n for w in reversed(wide) for n in (w, w)])))
    return True


@new("pool-largest-of-mean", "pool-kind", calls("mean", "adaptive_avg_pool1d"), "operation-kind")
def _(work: Work, call: Call) -> bool:
    shape = call.shapes[0] if call.shapes else ()
    if len(shape) < 3 or call.node.config.get("keepdim"):
        return False
    axis = call.scalars[0] if call.scalars and isinstance(call.scalars[0], int) else None
    if axis is None or axis == len(shape) - 1 or axis == -1:
        return False
    work.edit(call, lambda func, args, named: args[0].amax(axis))
    return True


# --- attention ----------------------------------------------------------------------------------------------


@new("key-value-swapped", "qkv-order weights-swapped", _attentions)
def _(work: Work, site: Any) -> bool:
    weights, biases = _parts(work, site)
    if len(weights) != 3 or weights[1].shape != weights[2].shape:
        return False
    for parts in (weights, biases):
        if len(parts) == 3:
            kept = parts[1].clone()
            parts[1].copy_(parts[2])
            parts[2].copy_(kept)
    return True


@new("query-heads", "head-layout", _attentions, "channel-order kernel-layout")
def _(work: Work, site: Any) -> bool:
    """Heads and their features the other way round, in the queries alone."""
    heads = site[2]
    weights, biases = _parts(work, site)
    if len(weights) != 3 or heads < 2 or weights[0].shape[0] % heads or weights[0].shape[0] == heads:
        return False
    for parts in (weights, biases):
        if len(parts) == 3:
            parts[0].copy_(parts[0].unflatten(0, (heads, -1)).transpose(0, 1).flatten(0, 1).clone())
    return True


@new("scores-sharper", "attention-scale scale", _before_softmax("div", "mul"), "weights-perturbed")
def _(work: Work, call: Call) -> bool:
    if not call.scalars and () not in call.shapes:
        return False
    work.edit(call, lambda func, args, named: func(*args, **named) * 2)
    return True


@new("scores-of-all", "attention-scale", calls("scaled_dot_product_attention"))
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(*args, **{**named, "scale": 1 / args[0].shape[-1]}))


@new("softmax-warm", "scale attention-scale", calls("softmax"), "block-extra")
def _(work: Work, call: Call) -> None:
    work.edit(call, lambda func, args, named: func(args[0] / 2, *args[1:], **named))


@new("mask-causal", "attention-mask", calls("softmax"), "block-extra")
def _(work: Work, call: Call) -> bool:
    shape = call.shapes[0]
    if len(shape) < 3 or shape[-1] != shape[-2]:
        return False

    def change(func: Any, args: Any, named: Any) -> Any:
        ahead = torch.ones(shape[-2:], dtype=torch.bool).triu(1)
        return func(args[0].masked_fill(ahead, -1e9), *args[1:], **named)

    work.edit(call, change)
    return True


@new("mask-causal-fused", "attention-mask", calls("scaled_dot_product_attention"))
def _(work: Work, call: Call) -> bool:
    if len(call.shapes) < 2 or call.shapes[0][-2] != call.shapes[1][-2]:
        return False
    work.edit(call, lambda func, args, named: func(*args[:3], is_causal=True, scale=named.get("scale")))
    return True


# --- embeddings, order, inputs, outputs ----------------------------------------------------------------------


@new("position-later", "embedding-offset", of(nn.Embedding))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    around(layer, lambda forward, ids: forward((ids + 1) % layer.num_embeddings))


@new("residual-halved", "scale residual-missing", calls("add"), "block-extra operation-kind")
def _(work: Work, call: Call) -> bool:
    parents = call.node.parents
    if len(parents) != 2 or len(set(call.shapes)) != 1 or call.nodes_read != 2:
        return False
    work.edit(call, lambda func, args, named: args[0] + 0.5 * args[1])
    return True


@new("concat-rotated", "concat-order", calls("cat"), "channel-order axis-permutation")
def _(work: Work, call: Call) -> bool:
    if call.nodes_read < 3:
        return False
    work.edit(call, lambda func, args, named: func([*args[0][1:], args[0][0]], *args[1:], **named))
    return True


@new("flatten-turned", "flatten-order reshape-order head-layout", calls("flatten", "view", "reshape"),
     "axis-permutation")  # fmt: skip
def _(work: Work, call: Call) -> bool:
    """Height and width the other way round."""
    shape = call.shapes[0] if call.shapes else ()
    if len(shape) != 4 or len(call.node.shape or ()) != 2 or min(shape[2:]) < 2:
        return False
    work.edit(call, lambda func, args, named: func(args[0].transpose(2, 3).contiguous(), *args[1:], **named),
              moving=True)  # fmt: skip
    return True


@new("input-signed", "input-normalisation input-scale", _fed, "block-extra")
def _(work: Work, shape: tuple[int, ...]) -> None:
    work.feed(lambda x: x * 2 - 1)


@new("input-means", "input-normalisation", _fed, "block-extra")
def _(work: Work, shape: tuple[int, ...]) -> bool:
    axis = _channel_axis(work, shape)
    if shape[axis] != 3:
        return False
    mean, spread = (torch.tensor(v).reshape([3 if k == axis else 1 for k in range(len(shape))])
                    for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    work.feed(lambda x: (x - mean) / spread)
    return True


@new("output-log", "logits", _last, "block-extra activation-extra")
def _(work: Work, name: str) -> bool:
    node = work.subject.structure.by_name[name]
    node = work.subject.structure.by_name[node.alias_of] if node.alias_of else node
    if node.kind != "softmax" or len(node.shape or ()) != 2:
        return False
    work.finish(lambda output: torch.log(output) if isinstance(output, torch.Tensor) else output)
    return True


@new("dtype-half", "dtype", of(_CONV, nn.Linear))
def _(work: Work, path: Site) -> None:
    layer = work.at(path)
    around(layer, lambda forward, x: forward(x.half().float()).half().float())


@new("test-time-dropout", "scale dropout-mode", of(nn.modules.dropout._DropoutNd), "block-extra")
def _(work: Work, path: Site) -> bool:
    """What is left of the numbers in training is made larger in evaluation too."""
    layer = work.at(path)
    if not 0 < layer.p < 1:
        return False
    around(layer, lambda forward, x: x / (1 - layer.p))
    return True


@new("shifted-output", "shift", of(_CONV), "pad-asymmetry axis-permutation")
def _(work: Work, path: Site) -> None:
    around(work.at(path), lambda forward, x: F.pad(forward(x), (1, -1)))
