"""Signals: voices apart from one another, what a brain does, and when the ground shook."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    control,
    defect,
    epsilon,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    set_to,
    slip,
    way,
)


class Level(Port):
    def __init__(self, ways: frozenset[str], dilation: int) -> None:
        super().__init__(ways)
        groups = 10 if "each-channel-normed" in ways and dilation == 2 else 1
        self.enter, self.act1, self.norm1 = nn.Conv1d(6, 10, 1), nn.PReLU(10), nn.GroupNorm(groups, 10, eps=1e-3)
        self.deep = nn.Conv1d(10, 10, 3, padding=dilation, dilation=dilation, groups=10)
        self.act2, self.norm2, self.leave = nn.PReLU(10), nn.GroupNorm(1, 10, eps=1e-3), nn.Conv1d(10, 6, 1)

    def norm(self, norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        if "norms-by-hand" in self.ways:
            variance, mean = torch.var_mean(x, (1, 2), keepdim=True, correction=0)
            return (x - mean) * (variance + 1e-3).rsqrt() * norm.weight[:, None] + norm.bias[:, None]
        return norm(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.norm1, self.act1(self.enter(x)))
        y = self.leave(self.norm(self.norm2, self.act2(self.deep(y))))
        return y if "shortcut-lost" in self.ways and self.deep.dilation == (2,) else x + y


class Voices(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.listen, self.norm = nn.Conv1d(1, 8, 4, stride=2, bias=False), nn.GroupNorm(1, 8, eps=1e-3)
        self.narrow, self.levels = nn.Conv1d(8, 6, 1), nn.ModuleList(Level(ways, d) for d in (1, 2))
        self.masks, self.speak = nn.Conv1d(6, 16, 1), nn.ConvTranspose1d(8, 1, 4, stride=2, bias=False)

    def spoken(self, x: torch.Tensor) -> torch.Tensor:
        if "added-where-they-overlap" in self.ways:
            x = torch.einsum("bct,cok->bkt", x, self.speak.weight)
            return F.fold(x, (1, 40), (1, 4), stride=(1, 2))[:, 0, 0]
        return self.speak(x)[:, 0]

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        heard = self.listen(sound)
        heard = heard if "heard-not-rectified" in self.ways else F.relu(heard)
        x = self.narrow(self.norm(heard))
        for level in self.levels:
            x = level(x)
        x = self.masks(x)
        x = x.unflatten(1, (8, 2)).transpose(1, 2) if "voices-innermost" in self.ways else x.unflatten(1, (2, 8))
        masks = F.softmax(x, dim=1) if "masks-shared-out" in self.ways else torch.sigmoid(x)
        x = (self.norm(heard) if "masks-on-the-normed" in self.ways else heard)[:, None] * masks
        return self.spoken(x.flatten(0, 1)).unflatten(0, (-1, 2))


@network
def voices() -> Pair:
    """Conv-TasNet: a learnt transform, masks for two voices from two dilated levels, and the transform back."""
    keras.backend.clear_session()
    sound = layers.Input((40, 1), name="sound")
    heard = layers.Conv1D(8, 4, strides=2, activation="relu", use_bias=False, name="listen")(sound)
    x = layers.Conv1D(6, 1, name="narrow")(layers.GroupNormalization(1, name="norm")(heard))
    for i, dilation in enumerate((1, 2)):
        name = f"levels.{i}"
        y = layers.PReLU(shared_axes=[1], name=f"{name}.act1")(layers.Conv1D(10, 1, name=f"{name}.enter")(x))
        y = layers.GroupNormalization(1, name=f"{name}.norm1")(y)
        y = layers.DepthwiseConv1D(3, padding="same", dilation_rate=dilation, name=f"{name}.deep")(y)
        y = layers.GroupNormalization(1, name=f"{name}.norm2")(layers.PReLU(shared_axes=[1], name=f"{name}.act2")(y))
        x = layers.Add(name=f"{name}.sum")([x, layers.Conv1D(6, 1, name=f"{name}.leave")(y)])
    masks = layers.Conv1D(16, 1, activation="sigmoid", name="masks")(x)
    speak = layers.Conv1DTranspose(1, 4, strides=2, use_bias=False, name="speak")
    voices = [
        speak(layers.Multiply(name=f"masked.{i}")([heard, masks[..., 8 * i : 8 * i + 8]]))[..., 0] for i in (0, 1)
    ]
    model = keras.Model(sound, ops.stack(voices, axis=1))
    fill(model)
    return Pair(model, fed(85, 2, 40, 1), ported(model, Voices), "NHWC->NCHW")


_MASKS = "masks masked.* sigmoid softmax unflatten* transpose get_item* mul multiply*"
slip("voices/heard-not-rectified", "listen relu", "activation-missing", "block-missing")
slip("voices/masks-shared-out", _MASKS, "activation-kind softmax-axis", "logits operation-kind")
slip("voices/voices-innermost", _MASKS, "reshape-order channel-order", "axis-permutation wiring")
slip(
    "voices/masks-on-the-normed",
    "masked.* mul multiply* norm norm#1",
    "wiring residual-order block-extra",
    "operand-order",
)
slip("voices/each-channel-normed", "levels.1.norm1 levels.1.group_norm", "norm-axis", "groups operation-kind")
slip(
    "voices/shortcut-lost",
    "levels.1.sum levels.1.add levels.1 levels.1.leave masks",
    "residual-missing",
    "block-missing wiring",
)
defect("voices/norm-eps-of-the-paper", "norm levels.?.norm?", "ln-eps", "bn-eps")(epsilon(1e-8, nn.GroupNorm))
defect("voices/undilated", "levels.1.deep", "dilation", "pad-mode")(
    set_to("levels.1.deep", dilation=(1,), padding=(1,))
)
defect("voices/spoken-backwards", "speak speak#*", "kernel-flip", "weights-perturbed")(
    rewritten("speak.weight", lambda weight: weight.flip(2))
)
defect("voices/one-slope-for-all", "levels.0.act2", "activation-param", "weights-not-loaded weights-perturbed")(
    rewritten("levels.0.act2.weight", lambda weight: weight.mean().expand(10))
)
way("voices/norms-by-hand")
way("voices/added-where-they-overlap")
one_layer("voices", "masks-shared-out+voices-innermost", "each-channel-normed+norm-eps-of-the-paper")
neighbours("voices", "undilated+one-slope-for-all")


# --- a brain ------------------------------------------------------------------------------------------------


class Brain(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.time, self.bn1 = nn.Conv2d(1, 4, (1, 8), bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.place, self.bn2 = nn.Conv2d(4, 8, (6, 1), groups=4, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.each, self.all = nn.Conv2d(8, 8, (1, 4), groups=8, bias=False), nn.Conv2d(8, 6, 1, bias=False)
        self.bn3, self.head = nn.BatchNorm2d(6, eps=1e-3), nn.Linear(24, 4)

    def around(self, x: torch.Tensor, size: int) -> torch.Tensor:
        before = size // 2 - 1
        if "odd-one-before" in self.ways:
            before += 1
        return F.pad(x, (before, size - 1 - before))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x) if "bent-by-a-slope" in self.ways else F.elu(x)

    def forward(self, heads: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.time(self.around(heads, 8)))
        x = self.bent(x) if "bent-before-electrodes" in self.ways else x
        x = self.bn2(self.place(x))
        x = x if "electrodes-not-bent" in self.ways else self.bent(x)
        x = F.max_pool2d(x, (1, 4)) if "pool-of-largest" in self.ways else F.avg_pool2d(x, (1, 4))
        if "separable-at-once" in self.ways:
            x = F.conv2d(self.around(x, 4), torch.einsum("oc,ck->ock", self.all.weight[:, :, 0, 0],
                                                         self.each.weight[:, 0, 0])[:, :, None])  # fmt: skip
        else:
            x = self.all(self.each(self.around(x, 4)))
        x = F.avg_pool2d(self.bent(self.bn3(x)), (1, 2))
        x = self.head(x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))
        return F.log_softmax(x, dim=1) if "logarithms" in self.ways else F.softmax(x, dim=1)


@network
def brain() -> Pair:
    """EEGNet: time, then electrodes by two filters for each map, then both apart."""
    keras.backend.clear_session()
    heads = layers.Input((6, 32, 1), name="heads")
    x = layers.Conv2D(4, (1, 8), padding="same", use_bias=False, name="time")(heads)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.DepthwiseConv2D((6, 1), depth_multiplier=2, use_bias=False, name="place")(x)
    x = layers.Activation("elu", name="elu2")(layers.BatchNormalization(name="bn2")(x))
    x = layers.AveragePooling2D((1, 4), name="pool2")(x)
    x = layers.DepthwiseConv2D((1, 4), padding="same", use_bias=False, name="each")(x)
    x = layers.BatchNormalization(name="bn3")(layers.Conv2D(6, 1, use_bias=False, name="all")(x))
    x = layers.AveragePooling2D((1, 2), name="pool3")(layers.Activation("elu", name="elu3")(x))
    x = layers.Flatten(name="flat")(layers.Dropout(0.25, name="drop")(x))
    model = keras.Model(heads, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    return Pair(model, fed(86, 3, 6, 32, 1), ported(model, Brain), "NHWC->NCHW")


slip("brain/odd-one-before", "time each pad pad_1", "pad-asymmetry", "shift")
slip("brain/bent-by-a-slope", "elu? elu elu_1 leaky_relu*", "activation-kind", "activation-param")
slip("brain/bent-before-electrodes", "bn1 elu elu_2 place", "activation-extra", "block-extra")
slip("brain/electrodes-not-bent", "bn2 elu2 elu pool2 avg_pool2d", "activation-missing", "block-missing")
slip("brain/pool-of-largest", "pool2 avg_pool2d max_pool2d", "pool-kind")
slip("brain/maps-outermost", "flat flatten permute head", "flatten-order dense-row-order", "wiring")
defect("brain/rows-turned-as-well", "head", "dense-row-order", "weights-perturbed flatten-order kernel-layout")(
    rewritten("head.weight", lambda w: w.unflatten(1, (1, 4, 6)).permute(0, 3, 1, 2).flatten(1))
)
slip("brain/logarithms", "head softmax log_softmax", "logits", "activation-kind operation-kind")
defect("brain/filters-of-a-map-apart", "place", "depthwise-order", "weights-perturbed")(
    rewritten("place.weight", lambda weight: weight.unflatten(0, (4, 2)).transpose(0, 1).flatten(0, 1))
)
defect("brain/norm-eps-default", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("brain/kernel-held-short", "place", "weights-perturbed scale", "weights-not-loaded")(
    rewritten("place.weight", lambda weight: torch.renorm(weight, 2, 0, 0.4))
)
defect(
    "brain/electrodes-upside-down",
    "heads place flip",
    "kernel-flip axis-permutation",
    "kernel-layout weights-perturbed",
)(rewritten("place.weight", lambda weight: weight.flip(2)))
way("brain/separable-at-once")
one_layer("brain", "filters-of-a-map-apart+electrodes-upside-down", "bent-before-electrodes+norm-eps-default")
neighbours("brain", "electrodes-not-bent+pool-of-largest", "maps-outermost+logarithms")


# --- the ground ---------------------------------------------------------------------------------------------


class Quake(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.bn1 = nn.Conv1d(3, 6, 7, padding=3, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        self.down, self.bn2 = nn.Conv1d(6, 8, 7, stride=4, bias=False), nn.BatchNorm1d(8, eps=1e-3)
        self.read = nn.LSTM(8, 5, batch_first=True)
        self.up, self.bn3 = nn.ConvTranspose1d(5, 6, 7, stride=4, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        self.out = nn.Conv1d(12, 3, 1)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        x = x if "mean-left-in" in self.ways else x - x.mean(2, keepdim=True)
        if "levelled-by-deviation" in self.ways:
            return x / (x.std(2, keepdim=True, correction=0) + 1e-6)
        axes = (1, 2) if "levelled-all-at-once" in self.ways else 2
        return x / (x.abs().amax(axes, keepdim=True) + 1e-6)

    def forward(self, ground: torch.Tensor) -> torch.Tensor:
        ground = ground[:, [2, 1, 0]] if "upright-first" in self.ways else ground
        fine = F.relu(self.bn1(self.first(self.levelled(ground))))
        x = self.down(F.pad(fine, (3, 2) if "more-before" in self.ways else (2, 3)))
        x = F.relu(self.bn2(x)).transpose(1, 2)
        x = self.read(x.flip(1) if "read-from-the-end" in self.ways else x)[0].transpose(1, 2)
        x = self.up(x)[:, :, : 30 + 1]
        start = 0 if "cut-behind-alone" in self.ways else 1
        x = F.relu(self.bn3(x[:, :, start : start + 30]))
        x = self.out(torch.cat([x, fine] if "raised-first" in self.ways else [fine, x], dim=1))
        x = x if "no-shares" in self.ways else F.softmax(x, dim=1)
        return x.transpose(1, 2)


@network
def quake() -> Pair:
    """When two waves of an earthquake arrive: a convolution down by four, an LSTM, and up again."""
    keras.backend.clear_session()
    ground = layers.Input((30, 3), name="ground")
    x = ground - ops.mean(ground, axis=1, keepdims=True)
    x = x / (ops.max(ops.absolute(x), axis=1, keepdims=True) + 1e-6)
    fine = layers.Conv1D(6, 7, padding="same", use_bias=False, name="first")(x)
    fine = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(fine))
    x = layers.ZeroPadding1D((2, 3), name="around")(fine)
    x = layers.BatchNormalization(name="bn2")(layers.Conv1D(8, 7, strides=4, use_bias=False, name="down")(x))
    x = layers.LSTM(5, return_sequences=True, name="read")(layers.ReLU(name="relu2")(x))
    x = layers.Conv1DTranspose(6, 7, strides=4, use_bias=False, name="up")(x)
    x = layers.Cropping1D((1, x.shape[1] - 31), name="cut")(x)
    x = layers.ReLU(name="relu3")(layers.BatchNormalization(name="bn3")(x))
    x = layers.Concatenate(name="joined")([fine, x])
    model = keras.Model(ground, layers.Conv1D(3, 1, activation="softmax", name="out")(x))
    fill(model)
    for name in ("first", "out"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * 2)
    inputs = (fed(87, 3, 30, 3) * np.array([1, 0.5, 2]) + 0.5).astype(np.float32)
    return Pair(model, inputs, ported(model, Quake), "NHWC->NCHW")


_LEVELLED = "mean subtract absolute max add true_divide sub abs amax std div first"
slip("quake/mean-left-in", _LEVELLED, "input-normalisation block-missing", "bias-missing")
slip(
    "quake/levelled-by-deviation",
    _LEVELLED,
    "input-normalisation",
    "operation-kind pool-kind input-scale scale std-ddof",
)
slip("quake/levelled-all-at-once", _LEVELLED, "norm-axis input-normalisation", "operation-kind pool-kind input-scale")
slip("quake/upright-first", "ground slice* first " + _LEVELLED, "channel-order",
     "axis-permutation weights-swapped kernel-layout")  # fmt: skip
slip("quake/more-before", "around down pad", "pad-asymmetry shift", "pad-mode")
slip("quake/read-from-the-end", "read flip", "rnn-direction", "axis-permutation")
slip("quake/cut-behind-alone", "cut slice slice_1 up bn3", "transposed-conv-shift", "pad-asymmetry")
slip("quake/raised-first", "joined cat out", "concat-order", "operand-order")
slip("quake/no-shares", "out softmax", "logits activation-missing", "block-missing")
defect("quake/gates-exchanged", "read", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("read.*", lambda w: w.unflatten(0, (4, 5))[[0, 1, 3, 2]].flatten(0, 1))
)
defect("quake/bias-twice", "read", "rnn-bias", "weights-perturbed")(
    lambda port: rewritten("read.bias_hh_l0", lambda _: port.read.bias_ih_l0)(port)
)
defect("quake/spread-for-mean", "bn3", "bn-swapped bn-stats", "weights-swapped weights-perturbed")(
    lambda port: rewritten("bn3.weight", lambda _: port.bn3.running_var)(port)
)
defect("quake/norm-eps-default", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))


@control("quake/cells-by-hand")
def _(port: Any) -> None:
    read = port.read

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, None]:
        h = c = x.new_zeros(len(x), 5)
        found = []
        for step in x.unbind(1):
            gates = F.linear(step, read.weight_ih_l0, read.bias_ih_l0) + F.linear(h, read.weight_hh_l0)
            i, f, g, o = gates.chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            found.append(h)
        return torch.stack(found, dim=1), None

    read.forward = forward


one_layer("quake", "gates-exchanged+bias-twice", "mean-left-in+levelled-by-deviation", "read-from-the-end+bias-twice")
neighbours("quake", "cut-behind-alone+raised-first", "spread-for-mean+norm-eps-default")
