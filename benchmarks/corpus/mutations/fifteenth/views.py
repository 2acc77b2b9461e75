"""A view: how far away what it shows is."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, ported


class Remote(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.deep, self.deep_bn = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.bridge, self.out = nn.Conv2d(8, 6, 1), nn.Conv2d(4, 1, 3, padding=1)
        for i, (given, wide) in {1: (10, 6), 2: (9, 4)}.items():
            self.add_module(f"up{i}a", nn.Conv2d(given, wide, 3, padding=1))
            self.add_module(f"up{i}b", nn.Conv2d(wide, wide, 3, padding=1))

    def grown(self, x: torch.Tensor) -> torch.Tensor:
        if "grown-by-nearest" in self.ways:
            return F.interpolate(x, scale_factor=2)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners="grown-between-corners" in self.ways)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "slope-by-hand" in self.ways:
            return F.relu(x) - 0.2 * F.relu(-x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)

    def up(self, i: int, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        x = self.grown(x)
        first, second = self.get_submodule(f"up{i}a"), self.get_submodule(f"up{i}b")
        if "joined-by-two-kernels" in self.ways:
            wide = x.shape[1]
            x = F.conv2d(x, first.weight[:, :wide], first.bias, padding=1) + F.conv2d(
                skip, first.weight[:, wide:], padding=1
            )
        else:
            x = first(torch.cat([skip, x] if "skip-in-front" in self.ways else [x, skip], dim=1))
        return self.bend(second(self.bend(x) if "bent-twice" in self.ways else x))

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        x = view if "bytes-as-they-are" in self.ways else view / 255
        normed = self.stem_bn(self.stem(x))
        skip = F.relu(normed)
        y = self.bridge(F.relu(self.deep_bn(self.deep(skip))))
        y = F.relu(y) if "bridge-bent" in self.ways else y
        y = self.up(1, y, normed if "skip-before-its-bend" in self.ways else skip)
        y = self.out(self.up(2, y, x))
        if "depth-for-its-inverse" in self.ways:
            return torch.sigmoid(y)
        return 0.1 / torch.sigmoid(y).clamp(min=0.1)


@network
def remote() -> Pair:
    """DenseDepth: lines between pixels on the way up, two kernels and one bend, the picture itself as a last skip."""
    keras.backend.clear_session()
    view = layers.Input((16, 16, 3), name="view")

    def normed(x: keras.KerasTensor, name: str, wide: int) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = layers.Conv2D(wide, 3, 2, use_bias=False, name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    x = layers.Rescaling(1 / 255, name="rescaling")(view)
    skip = normed(x, "stem", 4)
    y = layers.Conv2D(6, 1, name="bridge")(normed(skip, "deep", 8))
    for i, (wide, beside) in {1: (6, skip), 2: (4, x)}.items():
        y = layers.UpSampling2D(2, interpolation="bilinear", name=f"grown{i}")(y)
        y = layers.Concatenate(name=f"both{i}")([y, beside])
        for part in "ab":
            y = layers.Conv2D(wide, 3, padding="same", name=f"up{i}{part}")(y)
        y = layers.LeakyReLU(negative_slope=0.2, name=f"leaky{i}")(y)
    y = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="out")(y)
    model = keras.Model(view, 0.1 / keras.ops.maximum(y, np.float32(0.1)))
    fill(model)
    grown(model, 3, "stem")
    return Pair(model, counted(1543, 256, 2, 16, 16, 3).astype("float32"), ported(model, Remote), "NHWC->NCHW")


_GROWN = "grown? interpolate* upsample*"
slip("remote/bytes-as-they-are", "view rescaling div* truediv* stem stem_pad", "input-scale", "scale block-missing")
slip("remote/grown-between-corners", _GROWN, "resize-align-corners", "resize-mode")
slip("remote/grown-by-nearest", _GROWN, "resize-mode", "operation-kind")
slip("remote/slope-of-torch", "leaky? leaky_relu*", "activation-param", "activation-kind")
slip("remote/skip-in-front", "both? cat* up?a", "concat-order", "operand-order wiring")
slip("remote/bent-twice", "up?a up?b leaky_relu*", "activation-extra", "block-extra")
slip("remote/bridge-bent", "bridge relu* grown1 interpolate*", "activation-extra", "block-extra")
slip(
    "remote/skip-before-its-bend",
    "stem_bn stem_relu relu* both1 cat* up1a",
    "wiring activation-missing residual-order",
    "operand-order block-missing",
)
slip(
    "remote/depth-for-its-inverse",
    "out sigmoid* maximum* clamp* truediv* true_divide* divide* div* rtruediv* reciprocal* mul* __rtruediv__*",
    "block-missing",
    "operation-kind activation-kind scale activation-missing",
)
defect("remote/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("remote", "slope-by-hand", "joined-by-two-kernels")
control("remote/channels-last")(lambda port: port.to(memory_format=torch.channels_last))
one_layer("remote", "bent-twice+slope-of-torch")
neighbours("remote", "grown-between-corners+skip-in-front", "bridge-bent+grown-by-nearest")
