"""Volumes: a scan in three dimensions, and pictures one after another."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    defect,
    epsilon,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Volume(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.act1 = nn.Conv3d(1, 6, 3, padding=1), nn.PReLU(6)
        self.down, self.act2 = nn.Conv3d(6, 8, 2, stride=2), nn.PReLU(8)
        self.conv2, self.act3 = nn.Conv3d(8, 8, 3, padding=1), nn.PReLU(8)
        self.up = nn.ConvTranspose3d(8, 6, 2, stride=2)
        self.conv3, self.bn3 = nn.Conv3d(12, 6, 3, padding=1), nn.BatchNorm3d(6, eps=1e-3)
        self.out = nn.Conv3d(6, 1, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-name" in self.ways:
            x = torch.einsum("bcdhw,cokij->bodkhiwj", x, self.up.weight).flatten(6, 7).flatten(4, 5).flatten(2, 3)
            return x + self.up.bias[:, None, None, None]  # type: ignore[index]
        return self.up(x)

    def forward(self, scan: torch.Tensor) -> torch.Tensor:
        scan = scan.transpose(2, 3) if "slices-for-rows" in self.ways else scan
        fine = self.act1(self.conv1(scan))
        x = self.act2(self.down(fine))
        if "acted-before-sum" in self.ways:
            x = x + self.act3(self.conv2(x))
        else:
            x = self.act3(self.conv2(x) if "shortcut-lost" in self.ways else x + self.conv2(x))
        x = self.raised(x)
        x = torch.cat([x, fine] if "raised-first" in self.ways else [fine, x], dim=1)
        x = self.conv3(x)
        if "folded" in self.ways:
            scale = self.bn3.weight * (self.bn3.running_var + 1e-3).rsqrt()
            x = x * scale[:, None, None, None] + (self.bn3.bias - self.bn3.running_mean * scale)[:, None, None, None]
        else:
            x = self.bn3(x)
        x = self.out(F.relu(x)).flatten(1)
        return x if "no-shares" in self.ways else torch.sigmoid(x)


@network
def volume() -> Pair:
    """A V-Net of one level: what belongs to an organ in a scan."""
    keras.backend.clear_session()
    scan = layers.Input((6, 6, 4, 1), name="scan")
    axes = [1, 2, 3]
    fine = layers.Conv3D(6, 3, padding="same", name="conv1")(scan)
    fine = layers.PReLU(shared_axes=axes, name="act1")(fine)
    x = layers.PReLU(shared_axes=axes, name="act2")(layers.Conv3D(8, 2, strides=2, name="down")(fine))
    x = layers.Add(name="add")([x, layers.Conv3D(8, 3, padding="same", name="conv2")(x)])
    x = layers.PReLU(shared_axes=axes, name="act3")(x)
    x = layers.Conv3DTranspose(6, 2, strides=2, name="up")(x)
    x = layers.Concatenate(name="joined")([fine, x])
    x = layers.BatchNormalization(name="bn3")(layers.Conv3D(6, 3, padding="same", name="conv3")(x))
    x = layers.Conv3D(1, 1, activation="sigmoid", name="out")(layers.ReLU(name="relu3")(x))
    model = keras.Model(scan, layers.Flatten(name="voxels")(x))
    fill(model)
    return Pair(model, fed(65, 2, 6, 6, 4, 1), ported(model, Volume), "NHWC->NCHW")


slip("volume/slices-for-rows", "scan transpose conv1 InputLayer", "axis-permutation", "kernel-layout block-extra")
slip("volume/acted-before-sum", "conv2 act3 add", "residual-order wiring", "operand-order operation-kind")
slip("volume/shortcut-lost", "add act3 conv2", "residual-missing", "block-missing wiring")
slip("volume/raised-first", "joined cat conv3", "concat-order", "operand-order")
slip("volume/no-shares", "out sigmoid flatten voxels", "logits activation-missing", "block-missing")
defect("volume/kernel-rows-for-slices", "conv3", "kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("conv3.weight", lambda weight: weight.transpose(2, 3))
)
defect("volume/up-turned", "up", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("up.weight", lambda weight: weight.flip(2, 3, 4))
)
defect("volume/slopes-left", "act3", "activation-param weights-not-loaded", "weights-perturbed")(
    rewritten("act3.weight", lambda weight: torch.full_like(weight, 0.25))
)
defect("volume/norm-eps-default", "bn3", "bn-eps")(epsilon(1e-5, nn.BatchNorm3d))
defect("volume/down-without-bias", "down", "bias-missing", "weights-perturbed weights-not-loaded")(
    rewritten("down.bias", torch.zeros_like)
)
way("volume/raised-by-name")
way("volume/folded")
one_layer("volume", "norm-eps-default+kernel-rows-for-slices", "shortcut-lost+slopes-left")
neighbours("volume", "up-turned+raised-first")


# --- pictures one after another -------------------------------------------------------------------------------


class Motion(Port):
    """Four channels of eight go to the frames before and behind."""

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.space = nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), bias=False)
        self.space_bn = nn.BatchNorm3d(8, eps=1e-3)
        self.time, self.time_bn = nn.Conv3d(8, 8, (3, 1, 1), bias=False), nn.BatchNorm3d(8, eps=1e-3)
        self.mixed, self.head = nn.Conv3d(8, 9, 1), nn.Linear(9, 5)

    def ahead(self, x: torch.Tensor) -> torch.Tensor:
        if "time-padded-at-both-ends" in self.ways:
            return F.pad(x, (0, 0, 0, 0, 1, 1))
        if "first-frame-again" in self.ways:
            return torch.cat([x[:, :, :1], x[:, :, :1], x], dim=2)
        return F.pad(x, (0, 0, 0, 0, 2, 0))

    def shifted(self, x: torch.Tensor) -> torch.Tensor:
        if "shifted-by-convolution" in self.ways:
            kernel = torch.zeros(8, 1, 3, 1, 1)
            kernel[:2, 0, 0] = kernel[2:4, 0, 2] = kernel[4:, 0, 1] = 1
            return F.conv3d(x, kernel, padding=(1, 0, 0), groups=8)
        past, next_, kept = x.split((2, 2, 4), dim=1)
        past, next_ = (next_, past) if "shifted-the-other-way" in self.ways else (past, next_)
        if "shifted-around" in self.ways:
            return torch.cat([past.roll(1, 2), next_.roll(-1, 2), kept], dim=1)
        past, next_ = F.pad(past[:, :, :-1], (0, 0, 0, 0, 1, 0)), F.pad(next_[:, :, 1:], (0, 0, 0, 0, 0, 1))
        return torch.cat([next_, past, kept] if "shifted-the-other-way" in self.ways else [past, next_, kept], dim=1)

    def smaller(self, x: torch.Tensor) -> torch.Tensor:
        if "rest-left-out" in self.ways:
            return F.avg_pool3d(x, (1, 3, 3), (1, 2, 2))
        if "zeros-counted" in self.ways:
            return F.avg_pool3d(F.pad(x, (0, 1, 0, 1)), (1, 3, 3), (1, 2, 2))
        return F.avg_pool3d(x, (1, 3, 3), (1, 2, 2), ceil_mode=True)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        if "frames-as-rows" in self.ways:
            clip = clip.transpose(1, 2).reshape(clip.shape)
        around = (1, 1, 1, 1) if "space-padded-around" in self.ways else (0, 1, 0, 1)
        x = F.relu(self.space_bn(self.space(F.pad(clip, around))))
        x = self.smaller(x)
        x = self.time_bn(self.time(self.ahead(x)))
        x = x if "time-not-rectified" in self.ways else F.relu(x)
        y = self.mixed(self.shifted(x))
        x = F.relu(y).mean((2, 3, 4))
        return self.head(x)


@network
def motion() -> Pair:
    """A factorised network for video: space first, then time past, then channels shifted in time."""
    keras.backend.clear_session()
    clip = layers.Input((5, 12, 12, 3), name="clip")
    x = layers.Conv3D(8, (1, 3, 3), strides=(1, 2, 2), padding="same", use_bias=False, name="space")(clip)
    x = layers.ReLU(name="space_relu")(layers.BatchNormalization(name="space_bn")(x))
    x = layers.AveragePooling3D((1, 3, 3), (1, 2, 2), padding="same", name="pool")(x)
    x = layers.ZeroPadding3D(((2, 0), (0, 0), (0, 0)), name="ahead")(x)
    x = layers.BatchNormalization(name="time_bn")(layers.Conv3D(8, (3, 1, 1), use_bias=False, name="time")(x))
    x = layers.ReLU(name="time_relu")(x)
    past = ops.pad(x[:, :-1, :, :, :2], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    coming = ops.pad(x[:, 1:, :, :, 2:4], ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
    x = layers.Concatenate(name="shifted")([past, coming, x[..., 4:]])
    x = layers.Conv3D(9, 1, activation="relu", name="mixed")(x)
    model = keras.Model(clip, layers.Dense(5, name="head")(layers.GlobalAveragePooling3D(name="mean")(x)))
    fill(model)
    return Pair(model, fed(66, 2, 5, 12, 12, 3), ported(model, Motion), "NHWC->NCHW")


_SHIFTED = "shifted cat pad_2 pad_3 pad pad_1 get_item* getitem* split roll roll_1 mixed"
slip("motion/space-padded-around", "space pad", "pad-asymmetry", "shift")
slip("motion/rest-left-out", "pool avg_pool3d", "pool-ceil-mode", "pad-mode pad-asymmetry")
slip("motion/zeros-counted", "pool avg_pool3d pad_1", "pool-count-include-pad", "pad-mode block-extra")
slip("motion/time-padded-at-both-ends", "time ahead pad_1 pad_2", "pad-asymmetry shift", "pad-mode")
slip("motion/first-frame-again", "ahead time pad_1 cat getitem*", "pad-mode", "operation-kind")
slip("motion/time-not-rectified", "time_relu time_bn relu_1", "activation-missing", "block-missing")
slip(
    "motion/shifted-the-other-way",
    _SHIFTED,
    "rnn-direction shift axis-permutation",
    "wiring operand-order concat-order",
)
slip("motion/shifted-around", _SHIFTED, "pad-mode", "shift axis-permutation wiring operation-kind")
slip("motion/frames-as-rows", "clip transpose reshape space pad", "reshape-order", "wiring")
defect("motion/norm-eps-default", "space_bn time_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm3d))
defect("motion/taps-turned", "time", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("time.weight", lambda weight: weight.flip(2))
)
way("motion/shifted-by-convolution")
one_layer("motion", "time-padded-at-both-ends+taps-turned", "norm-eps-default+time-not-rectified")
neighbours("motion", "shifted-around+time-not-rectified")
