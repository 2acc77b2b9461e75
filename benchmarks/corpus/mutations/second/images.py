"""Defects of networks for images and signals: norms, kernels, pools, resizing, inputs and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.graph import _fed, _last
from benchmarks.corpus.mutations.layers import _BATCH, _CONV, Site, _assign, calls, of, weighted
from benchmarks.corpus.mutations.second.registry import KINDS, new
from benchmarks.corpus.mutations.second.sequences import hard_sigmoid
from benchmarks.corpus.mutations.subject import Call, Subject, Work, around, kind

# --- batch normalisation ------------------------------------------------------------------------------------


@new("bn-gain-as-variance", "bn-stats", of(_BATCH), "vision/resnet50 vision/mobilenet_v2 custom/unet",
     "weights-swapped weights-perturbed")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """A list of four arrays read in another order."""
    layer = work.at(path)
    kept = layer.weight.detach().clone()
    _assign(layer, "weight", layer.running_var)
    _assign(layer, "running_var", kept.abs())


@new("bn-unbiased", "bn-stats training-bn-variance std-ddof", of(_BATCH),
     "vision/efficientnet_b0 custom/crnn transformers/regnet", "weights-perturbed scale")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """Statistics taken anew with the other divisor, on eight values."""
    layer = work.at(path)
    _assign(layer, "running_var", layer.running_var * (8 / 7))


@new("bn-per-sample", "norm-axis", of(_BATCH), "vision/densenet121 custom/unet vision/mobilenet_v3_large",
     "bn-mode bn-stats operation-kind")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    """InstanceNorm in place of BatchNorm."""
    layer = work.at(path)
    if len(work.subject.gives[path]) < 4 or work.subject.gives[path][-1] < 2:
        return False
    around(layer, lambda forward, x: F.instance_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps))
    return True


def _norm_then_activation(subject: Subject) -> Iterator[Site]:
    for path, module in subject.paths.items():
        own = list(module.children()) if isinstance(module, nn.Sequential) else []
        if len(own) == 3 and isinstance(own[1], _BATCH) and f"{path}.2" in subject.leaves:
            yield path


@new("norm-after-activation", "activation-missing activation-extra", _norm_then_activation,
     "vision/mobilenet_v2 vision/efficientnet_b0 vision/mobilenet_v3_large",
     "block-extra block-missing residual-order operation-kind")  # fmt: skip
def _(work: Work, path: Site) -> None:
    own = work.model.get_submodule(path)._modules
    own["1"], own["2"] = own["2"], own["1"]
    work.where += [f"{path}.1", f"{path}.2"]
    work.moved |= {f"{path}.1": f"{path}.2", f"{path}.2": f"{path}.1"}


# --- convolutions, pools and resizing -----------------------------------------------------------------------


@new("kernel-reshaped", "kernel-layout", of(_CONV), "vision/mobilenet_v2 zoo/ecg_pathology_avb custom/unet zoo/deepepi",
     "weights-perturbed weights-not-loaded dense-transpose reshape-order")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    """The right shape by a reshape of Keras' kernel, where a transposition was needed."""
    layer = work.at(path)
    weight = layer.weight.detach()
    if weight.dim() < 3 or layer.groups != 1:
        return False
    keras = weight.permute(*range(2, weight.dim()), 1, 0)
    _assign(layer, "weight", keras.reshape(weight.shape).clone())
    return True


@new("dense-reshaped", "dense-transpose kernel-layout reshape-order", weighted,
     "custom/classifier transformers/bert zoo/ecg_generic zoo/mtcnn_rnet",
     "weights-perturbed weights-not-loaded dense-row-order")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    if layer.weight.dim() != 2 or layer.weight.shape[0] == layer.weight.shape[1]:
        return False
    _assign(layer, "weight", layer.weight.detach().t().reshape(layer.weight.shape).clone())
    return True


@new("bias-twice", "bias-missing", of(_CONV, nn.Linear), "zoo/mtcnn_onet zoo/ecg_pathology_lbbb custom/classifier",
     "block-extra weights-perturbed")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    """Added by the layer, and once more by hand."""
    layer = work.at(path)
    if layer.bias is None:
        return False
    shape = (-1, *[1] * (layer.weight.dim() - 2))
    around(layer, lambda forward, x: forward(x) + layer.bias.reshape(shape))
    return True


def _alike(subject: Subject, count: int) -> list[tuple[Site, ...]]:
    """So many layers with weights of equal shapes, in running order."""
    same: dict[Any, list[Site]] = {}
    for path in weighted(subject):
        layer: Any = subject.weighted[path]
        same.setdefault((type(layer), layer.weight.shape, layer.bias is None), []).append(path)
    return [tuple(paths[i : i + count]) for paths in same.values() for i in range(len(paths) - count + 1)]


@new("weights-rotated", "weights-swapped", lambda s: _alike(s, 3), "vision/resnet50 transformers/bert zoo/deepepi",
     "weights-not-loaded weights-perturbed qkv-order")  # fmt: skip
def _(work: Work, paths: tuple[Site, ...]) -> None:
    """A loader that counts from one: each layer has the next one's weights."""
    states = [{n: v.clone() for n, v in work.at(path).state_dict().items()} for path in paths]
    for path, state in zip(paths, [*states[1:], states[0]], strict=True):
        work.model.get_submodule(path).load_state_dict(state)


@new("weights-twice", "weights-swapped weights-not-loaded", lambda s: _alike(s, 2),
     "vision/mobilenet_v2 transformers/gpt2 zoo/deepepi", "weights-perturbed qkv-order")  # fmt: skip
def _(work: Work, paths: tuple[Site, ...]) -> None:
    """A closure in a loop: two layers have the first one's weights."""
    work.at(paths[1]).load_state_dict(work.model.get_submodule(paths[0]).state_dict())


@new("prelu-shared", "activation-param weights-perturbed", of(nn.PReLU),
     "zoo/mtcnn_pnet zoo/mtcnn_onet custom/classifier", "weights-not-loaded")  # fmt: skip
def _(work: Work, path: Site) -> bool:
    layer = work.at(path)
    _assign(layer, "weight", layer.weight.detach().mean().expand_as(layer.weight).clone())
    return layer.weight.numel() > 1


@kind("hard-sigmoid-fifth", of(nn.Hardsigmoid, nn.Sigmoid), into=KINDS)
@new("hard-sigmoid-fifth", "activation-kind activation-param", calls("sigmoid"),
     "vision/mobilenet_v3_large vision/efficientnet_b0 custom/unet custom/bilstm_text", "operation-kind")  # fmt: skip
def _(work: Work, site: Any) -> None:
    """Keras 2's slope of a fifth."""
    if isinstance(site, str):
        around(work.at(site), lambda forward, x: hard_sigmoid(x))
    else:
        work.edit(site, lambda func, args, named: hard_sigmoid(args[0]))


def _gating(subject: Subject) -> Iterator[Call]:
    """A multiplication of maps with one number for each channel."""
    for call in calls("mul")(subject):
        small = [shape for shape in call.shapes if shape[2:] and set(shape[2:]) == {1}]
        if call.nodes_read == 2 and len(call.shapes) == 2 and len(small) == 1:
            yield call


@new("gate-missing", "block-missing", _gating, "vision/efficientnet_b0 vision/mobilenet_v3_large transformers/regnet",
     "scale operation-kind")  # fmt: skip
def _(work: Work, call: Call) -> None:
    wide = max(range(2), key=lambda i: math.prod(call.shapes[i]))
    work.edit(call, lambda func, args, named: args[wide] * 1)


def _padded_pools(subject: Subject) -> list[Site]:
    leaves: Any = subject.leaves
    return [path for path in subject.modules(nn.MaxPool2d) if leaves[path].padding and leaves[path].stride != 1]


@new("pool-pad-end", "pad-asymmetry", _padded_pools, "vision/resnet50 vision/densenet121 transformers/resnet",
     "shift pad-mode block-extra")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """Padded as TensorFlow's SAME pads even lengths, at the end alone."""
    layer = work.at(path)
    wide = layer.padding if isinstance(layer.padding, int) else layer.padding[0]
    layer.padding = 0
    around(layer, lambda forward, x: forward(F.pad(x, (0, 2 * wide, 0, 2 * wide), value=-math.inf)))


@new("pool-unpadded", "pad-mode", _padded_pools, "vision/resnet50 transformers/resnet",
     "pad-asymmetry shift pool-ceil-mode")  # fmt: skip
def _(work: Work, path: Site) -> None:
    work.at(path).padding = 0


def _upsamples(subject: Subject, *modes: str) -> list[Site]:
    leaves: Any = subject.leaves
    return [path for path in subject.modules(nn.Upsample) if leaves[path].mode in modes]


@new("upsample-tiled", "resize-mode depth-to-space-order", lambda s: _upsamples(s, "nearest"),
     "custom/unet", "axis-permutation reshape-order")  # fmt: skip
def _(work: Work, path: Site) -> None:
    """The whole map repeated, where each pixel is."""

    def run(forward: Any, x: torch.Tensor) -> Any:
        shape = forward(x).shape
        return x.repeat(1, 1, *(a // b for a, b in zip(shape[2:], x.shape[2:], strict=True)))

    around(work.at(path), run)


def _from_corner(x: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Bilinear as TensorFlow 1 does it: no half pixel."""
    for axis, length in enumerate(size, start=2):
        source = torch.arange(length) * (x.shape[axis] / length)
        low = source.floor().long()
        part = (source - low).to(x.dtype).reshape(-1, *[1] * (x.dim() - 1 - axis))
        x = x.index_select(axis, low) * (1 - part) + x.index_select(axis, (low + 1).clamp(max=x.shape[axis] - 1)) * part
    return x


@new("resize-from-corner", "resize-align-corners resize-mode", lambda s: _upsamples(s, "linear", "bilinear"),
     "custom/unet zoo/tracto_ae zoo/tracto_ae_functional", "shift")  # fmt: skip
def _(work: Work, path: Site) -> None:
    around(work.at(path), lambda forward, x: _from_corner(x, forward(x).shape[2:]))


@kind("resize-from-corner", calls("interpolate"), into=KINDS)
def _(work: Work, call: Call) -> None:
    def change(func: Any, args: Any, named: Any) -> Any:
        return _from_corner(args[0] if args else named["input"], func(*args, **named).shape[2:])

    work.edit(call, change)


# --- inputs and outputs -------------------------------------------------------------------------------------


@new("input-standardised", "input-normalisation", _fed, "vision/mobilenet_v2 zoo/ecg_generic custom/unet",
     "input-scale scale block-extra norm-axis")  # fmt: skip
def _(work: Work, shape: tuple[int, ...]) -> None:
    """Each sample by its own mean and deviation."""
    axes = tuple(range(1, len(shape)))
    work.feed(lambda x: (x - x.mean(axes, keepdim=True) - 0.1) / x.std(axes, keepdim=True) / 2)


@new("input-turned", "axis-permutation", _fed, "zoo/mtcnn_rnet vision/efficientnet_b0 custom/classifier",
     "channel-order block-extra kernel-layout")  # fmt: skip
def _(work: Work, shape: tuple[int, ...]) -> bool:
    """Height and width the other way round, as libraries for images disagree on."""
    if len(shape) != 4 or len(set(shape[1:])) != 2:
        return False
    one, two = [axis for axis in (1, 2, 3) if shape[1:].count(shape[axis]) == 2]
    work.feed(lambda x: x.transpose(one, two), moving=True)
    return True


def _soft(subject: Subject, *kinds: str) -> list[Any]:
    """The last activation, where it makes probabilities: its call or its layer."""
    nodes = subject.structure.by_name
    found: list[Any] = []
    for name in _last(subject):
        node = nodes[nodes[name].alias_of or name]
        if node.kind in kinds:
            found += [c for c in subject.calls if c.node.name == node.name] or [node.owner]
    return found


@new("softmax-twice", "logits activation-extra", lambda s: _soft(s, "softmax"),
     "custom/lstm_text zoo/ecg_generic zoo/deepepi", "block-extra")  # fmt: skip
def _(work: Work, site: Any) -> None:
    def again(output: Any) -> Any:
        if isinstance(output, torch.Tensor):
            return torch.softmax(output, 1)
        return type(output)([torch.softmax(output[0], 1), *output[1:]])

    work.finish(again)


@new("sigmoid-for-softmax", "activation-kind logits", lambda s: _soft(s, "softmax", "log_softmax"),
     "custom/lstm_text zoo/ecg_generic custom/classifier", "softmax-axis operation-kind")  # fmt: skip
def _(work: Work, site: Any) -> None:
    if isinstance(site, str):
        work.replace(site, nn.Sigmoid())
    else:
        work.edit(site, lambda func, args, named: torch.sigmoid(args[0]))


@new("log-missing", "logits activation-kind", lambda s: _soft(s, "log_softmax"), "custom/classifier", "operation-kind")
def _(work: Work, site: Any) -> None:
    if isinstance(site, str):
        work.replace(site, nn.Softmax(1))
    else:
        work.edit(site, lambda func, args, named: torch.softmax(args[0], 1))
