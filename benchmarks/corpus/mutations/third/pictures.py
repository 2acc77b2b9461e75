"""Classifiers of pictures: a mobile network with gates, and parallel branches joined."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.third.registry import control, defect, neighbours, network, one_layer

_MEANS = (103.939, 116.779, 123.68)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.less, self.more = nn.Linear(8, 4), nn.Linear(4, 8)

    def squeeze(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x + 3) / 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.gate(self.more(F.relu(self.less(self.squeeze(x)))))
        return x * weights[:, :, None, None]


class Photo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.stem = nn.Conv2d(3, 6, 3, stride=2, bias=False)
        self.stem_bn = nn.BatchNorm2d(6, eps=1e-3, momentum=0.01)
        self.deep = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False)
        self.deep_bn = nn.BatchNorm2d(12, eps=1e-3, momentum=0.01)
        self.point = nn.Conv2d(12, 8, 1, bias=False)
        self.point_bn = nn.BatchNorm2d(8, eps=1e-3, momentum=0.01)
        self.gate = Gate()
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.hidden, self.head = nn.Linear(96, 10), nn.Linear(10, 4)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x / 127.5 - 1

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def flatten(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem_bn(self.stem(self.pad(self.prepare(x)))))
        x = F.hardswish(self.deep_bn(self.deep(x)))
        x = self.point_bn(self.point(x))
        x = self.flatten(self.pool(self.gate(x)))
        return torch.softmax(self.head(self.act(self.hidden(x))), dim=-1)


@network
def photo() -> Pair:
    """Bytes in, a stem padded at the end, depthwise and pointwise convolutions, a gate, two dense layers."""
    keras.backend.clear_session()
    image = layers.Input((14, 10, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(image)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="pad")(x)
    x = layers.Conv2D(6, 3, strides=2, use_bias=False, name="stem")(x)
    x = layers.ReLU(6.0, name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="deep")(x)
    x = layers.Activation("hard_silu", name="deep_act")(layers.BatchNormalization(name="deep_bn")(x))
    x = layers.Conv2D(8, 1, use_bias=False, name="point")(x)
    x = layers.BatchNormalization(name="point_bn")(x)
    x = _Gate()(x)
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, padding="same", name="pool")(x))
    x = layers.Dense(10, activation="tanh", name="hidden")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    inputs = np.random.default_rng(1).integers(0, 256, (2, 14, 10, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Photo()), "NHWC->NCHW")


class _Gate(layers.Layer):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="gate")
        self.less = layers.Dense(4, activation="relu", name="less")
        self.more = layers.Dense(8, activation="hard_sigmoid", name="more")

    def call(self, x: Any) -> Any:
        return x * self.more(self.less(ops.mean(x, axis=(1, 2))))[:, None, None, :]


@defect("photo/bytes-by-255", "rescaling div sub stem", "input-scale input-normalisation",
        "scale block-extra block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.prepare = lambda x: x / 255


@defect("photo/stem-padded-both", "pad stem", "pad-asymmetry", "shift block-extra pad-mode")
def _(port: Any) -> None:
    port.pad = nn.Identity()
    port.stem.padding = (1, 1)


@defect("photo/multiplier-first", "deep", "depthwise-order", "kernel-layout channel-order")
def _(port: Any) -> None:
    weight = port.deep.weight.data  # (channel, multiplier) read as (multiplier, channel)
    weight.copy_(weight.unflatten(0, (6, 2)).transpose(0, 1).flatten(0, 1).clone())


@defect("photo/bn-arrays-moved-up", "point_bn", "bn-stats", "weights-not-loaded weights-perturbed weights-swapped")
def _(port: Any) -> None:
    """Read as if there were no gamma: each array is the one before."""
    norm = port.point_bn
    norm.weight.data.fill_(1)
    arrays = [norm.running_mean, norm.running_var]
    norm.bias.data.copy_(norm.running_mean)
    arrays[0].copy_(arrays[1])
    arrays[1].fill_(1)


@defect("photo/gate-smooth", "gate?more gate.sigmoid", "activation-kind", "operation-kind")
def _(port: Any) -> None:
    port.gate.gate = torch.sigmoid


@defect("photo/gate-of-largest", "gate?mean gate.amax gate?less", "pool-kind", "operation-kind")
def _(port: Any) -> None:
    port.gate.squeeze = lambda x: x.amax((2, 3))


@defect("photo/pool-adaptive", "pool", "pool-kind pool-ceil-mode", "operation-kind pad-mode pad-asymmetry shift")
def _(port: Any) -> None:
    """What makes the shape fit."""
    port.pool = nn.AdaptiveMaxPool2d((4, 3))


@defect("photo/flattened-as-is", "flat flatten permute hidden", "flatten-order dense-row-order",
        "reshape-order axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    port.flatten = lambda x: x.flatten(1)


@defect("photo/folded-without-mean", "stem stem_bn", "bn-stats bias-missing weights-perturbed", "weights-not-loaded")
def _(port: Any) -> None:
    _fold(port, mean=False)


def _fold(port: Any, *, mean: bool) -> None:
    """The normalisation's factors in the convolution in front of it."""
    norm, conv = port.stem_bn, nn.Conv2d(3, 6, 3, stride=2)
    factor = norm.weight.data / (norm.running_var + norm.eps).sqrt()
    conv.weight.data.copy_(port.stem.weight.data * factor[:, None, None, None])
    conv.bias.data.copy_(norm.bias.data - (norm.running_mean * factor if mean else 0))  # type: ignore[union-attr]
    port.stem, port.stem_bn = conv, nn.Identity()


@defect("photo/momentum-copied", "stem_bn deep_bn point_bn", "training-bn-momentum", latent=True)
def _(port: Any) -> None:
    for norm in (port.stem_bn, port.deep_bn, port.point_bn):
        norm.momentum = 0.99


@defect("photo/hidden-relu", "hidden tanh relu relu_1", "activation-kind", "operation-kind")
def _(port: Any) -> None:
    port.act = F.relu


@control("photo/folded")
def _(port: Any) -> None:
    _fold(port, mean=True)


@control("photo/rows-moved")
def _(port: Any) -> None:
    """The dense layer's rows turned in place of the maps."""
    weight = port.hidden.weight.data
    weight.copy_(weight.unflatten(1, (4, 3, 8)).permute(0, 3, 1, 2).flatten(1).clone())
    port.flatten = lambda x: x.flatten(1)


@control("photo/adaptive-squeeze")
def _(port: Any) -> None:
    port.gate.squeeze = lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1)
    port.gate.gate = F.hardsigmoid


one_layer("photo", "folded-without-mean+stem-padded-both", "gate-smooth+gate-of-largest")
neighbours("photo", "pool-adaptive+flattened-as-is", "bytes-by-255+stem-padded-both")


# --- branches -----------------------------------------------------------------------------------------------


class Scene(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(_MEANS)[:, None, None], persistent=False)
        self.across = nn.Conv2d(3, 6, (3, 5), padding=(1, 2))
        self.reduce = nn.Conv2d(3, 6, 1)
        self.wide = nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        self.project = nn.Conv2d(3, 6, 1)
        self.grouped = nn.Conv2d(18, 12, 3, padding=1, groups=3)
        self.norm = nn.BatchNorm2d(12, eps=1e-3)
        self.branch = nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(24, 5)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flip(1) - self.means) * 0.017

    def shuffle(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)

    def add(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * branch

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prepare(x)
        branches = [F.relu(self.across(x)), F.relu(self.wide(F.relu(self.reduce(x)))), self.project(self.pool(x))]
        x = self.shuffle(torch.cat(branches, dim=1))
        x = F.relu(self.norm(self.grouped(x)))
        return self.head(self.pooled(self.add(x, self.branch(x))))


@network
def scene() -> Pair:
    """Preprocessed as Caffe does; branches beside one another, shuffled groups, a scaled residual, two pools."""
    keras.backend.clear_session()
    image = layers.Input((12, 9, 3), name="image")
    x = (ops.flip(image, axis=-1) - np.array(_MEANS, np.float32)) * 0.017
    one = layers.Conv2D(6, (3, 5), padding="same", activation="relu", name="across")(x)
    two = layers.Conv2D(6, 1, activation="relu", name="reduce")(x)
    two = layers.Conv2D(6, 3, padding="same", dilation_rate=2, activation="relu", name="wide")(two)
    three = layers.AveragePooling2D(3, strides=1, padding="same", name="pool")(x)
    three = layers.Conv2D(6, 1, name="project")(three)
    x = layers.Concatenate(name="join")([one, two, three])
    x = layers.Reshape((12, 9, 3, 6), name="shuffle_split")(x)
    x = layers.Permute((1, 2, 4, 3), name="shuffle_turn")(x)
    x = layers.Reshape((12, 9, 18), name="shuffle_join")(x)
    x = layers.Conv2D(12, 3, padding="same", groups=3, name="grouped")(x)
    x = layers.ReLU(name="norm_relu")(layers.BatchNormalization(name="norm")(x))
    branch = layers.Rescaling(0.2, name="branch_scale")(layers.Conv2D(12, 1, name="branch")(x))
    x = layers.Add(name="sum")([x, branch])
    largest, mean = layers.GlobalMaxPooling2D(name="largest")(x), layers.GlobalAveragePooling2D(name="mean")(x)
    x = layers.Concatenate(name="pools")([largest, mean])
    model = keras.Model(image, layers.Dense(5, name="head")(x))
    fill(model)
    inputs = np.random.default_rng(2).integers(0, 256, (2, 12, 9, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Scene()), "NHWC->NCHW")


@defect("scene/means-unturned", "flip sub subtract mul multiply across reduce pool",
        "input-normalisation channel-order", "axis-permutation block-extra weights-swapped")  # fmt: skip
def _(port: Any) -> None:
    """Blue comes first in the picture, red in the means."""
    port.means = port.means.flip(0)


@defect("scene/kernel-turned", "wide", "kernel-layout", "axis-permutation dense-transpose")
def _(port: Any) -> None:
    """permute(3, 2, 1, 0): height and width change places in a square kernel."""
    port.wide.weight.data = port.wide.weight.data.transpose(2, 3).contiguous()


@defect("scene/pool-counts-zeros", "pool", "pool-count-include-pad", "pad-mode")
def _(port: Any) -> None:
    port.pool = nn.AvgPool2d(3, stride=1, padding=1)


@defect("scene/branches-exchanged", "reduce project", "weights-swapped",
        "weights-not-loaded weights-perturbed qkv-order")  # fmt: skip
def _(port: Any) -> None:
    kept = copy.deepcopy(port.reduce.state_dict())
    port.reduce.load_state_dict(port.project.state_dict())
    port.project.load_state_dict(kept)


@defect("scene/undilated", "wide", "dilation", "pad-mode")
def _(port: Any) -> None:
    port.wide.dilation, port.wide.padding = (1, 1), (1, 1)
    port.wide._reversed_padding_repeated_twice = [1, 1, 1, 1]


@defect("scene/shuffle-reversed", "shuffle_split shuffle_turn shuffle_join reshape transpose reshape_1 grouped",
        "channel-order reshape-order",
        "axis-permutation concat-order groups depth-to-space-order block-extra")  # fmt: skip
def _(port: Any) -> None:
    def shuffle(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, c // 3, 3, h, w).transpose(1, 2).reshape(n, c, h, w)

    port.shuffle = shuffle


@defect("scene/groups-in-turns", "grouped", "groups kernel-layout channel-order depthwise-order",
        "weights-swapped weights-perturbed axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    """The outputs of the groups one by one in turns, where each group's are beside one another."""
    for value in (port.grouped.weight.data, port.grouped.bias.data):
        value.copy_(value.unflatten(0, (3, 4)).transpose(0, 1).flatten(0, 1).clone())


@defect("scene/branch-unscaled", "branch_scale sum add mul_1 branch", "scale block-missing", "weights-perturbed")
def _(port: Any) -> None:
    port.add = torch.add


@defect("scene/pools-exchanged", "pools cat_1 largest mean amax", "concat-order",
        "pool-kind channel-order axis-permutation operand-order")  # fmt: skip
def _(port: Any) -> None:
    port.pooled = lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


@defect("scene/kernel-swept-downwards", "across", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    """An inference engine's kernels are those of true convolutions along the height alone."""
    port.across.weight.data = port.across.weight.data.flip(2).contiguous()


@control("scene/channels-beforehand")
def _(port: Any) -> None:
    """The scale multiplied out."""
    port.prepare = lambda x: x.flip(1) * 0.017 - port.means * 0.017


one_layer("scene", "kernel-turned+undilated")
neighbours(
    "scene", "pools-exchanged+branch-unscaled", "shuffle-reversed+groups-in-turns", "means-unturned+branches-exchanged"
)
