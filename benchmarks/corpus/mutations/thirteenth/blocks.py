"""Blocks of residual and inception networks: long thin kernels, a shortcut that is a mean, and roads from above."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    one_too_early,
    slip,
    unscaled,
    ways,
)

_FACTORS = {"stem": (3, 6, (3, 3)), "one": (6, 4, (1, 1)), "enter": (6, 5, (1, 1)), "wide": (5, 5, (1, 5)),
            "tall": (5, 4, (5, 1)), "pooled": (6, 4, (1, 1)), "reduce": (12, 6, (3, 3))}  # fmt: skip


class Factors(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _FACTORS.items():
            step, around = (2, 0) if name in ("stem", "reduce") else (1, (size[0] // 2, size[1] // 2))
            self.add_module(name, nn.Conv2d(given, wide, size, step, around, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.head = nn.Linear(18, 4)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        thin = conv.kernel_size[0] != conv.kernel_size[1]
        if thin and "rows-for-columns" in self.ways:
            x = F.conv2d(x, conv.weight.transpose(2, 3), conv.bias, 1, conv.padding[::-1])
        elif thin and "channels-last" in self.ways:
            x, weight = (y.contiguous(memory_format=torch.channels_last) for y in (x, conv.weight))
            x = F.conv2d(x, weight, conv.bias, 1, conv.padding)
        else:
            x = conv(x)
        if name == "one" and "bend-before-the-norm" in self.ways:
            return norm(F.relu(x))
        return F.relu(norm(x))

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        if "mean-over-what-is-there" in self.ways:
            kernel = x.new_ones(x.shape[1], 1, 3, 3)
            found = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
            return found / F.conv2d(torch.ones_like(x), kernel, padding=1, groups=x.shape[1])
        return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad="zeros-counted" in self.ways)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.block("stem", image)
        found = [self.block("one", x), self.block("tall", self.block("wide", self.block("enter", x)))]
        found.append(self.block("pooled", self.mean(x)))
        x = torch.cat([found[0], found[2], found[1]] if "pool-in-the-middle" in self.ways else found, dim=1)
        pool = F.avg_pool2d if "mean-for-largest" in self.ways else F.max_pool2d
        x = torch.cat([self.block("reduce", x), pool(x, 3, 2)], dim=1)
        return F.softmax(self.head(x.amax((2, 3)) if "largest-at-the-end" in self.ways else x.mean((2, 3))), dim=1)


@network
def factors() -> Pair:
    """Inception V3's seventeen: a row and a column for a square, a mean that leaves its edges out, norms that shift."""
    keras.backend.clear_session()
    image = layers.Input((15, 15, 3), name="image")

    def block(name: str, x: keras.KerasTensor, step: int = 1) -> keras.KerasTensor:
        _, wide, size = _FACTORS[name]
        padding = "same" if step == 1 else "valid"
        x = layers.Conv2D(wide, size, step, padding=padding, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(scale=False, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x)

    x = block("stem", image, 2)
    found = [block("one", x), block("tall", block("wide", block("enter", x)))]
    found.append(block("pooled", layers.AveragePooling2D(3, 1, padding="same", name="mean")(x)))
    x = layers.Concatenate(name="mixed")(found)
    x = layers.Concatenate(name="reduced")([block("reduce", x, 2), layers.MaxPooling2D(3, 2, name="largest")(x)])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 2, "head")
    own = unscaled(**{f"{name}_bn": wide for name, (_, wide, _) in _FACTORS.items()})
    return Pair(model, fed(1321, 3, 15, 15, 3), ported(model, Factors, own), "NHWC->NCHW")


slip("factors/rows-for-columns", "wide tall conv2d*", "kernel-layout", "weights-perturbed axis-permutation pad-mode")
slip("factors/bend-before-the-norm", "one one_* relu* batch_norm*", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("factors/zeros-counted", "mean avg_pool*", "pool-count-include-pad", "pad-mode")
slip("factors/pool-in-the-middle", "mixed cat* reduce", "concat-order", "operand-order channel-order wiring")
slip("factors/mean-for-largest", "largest max_pool* avg_pool* reduced cat*", "pool-kind")
slip("factors/largest-at-the-end", "pool mean* amax* head", "pool-kind")
defect("factors/deviations-for-variances", "reduce_bn", "bn-stats", "weights-perturbed")(
    rewritten("reduce_bn.running_var", lambda variance: variance.sqrt())
)
defect("factors/shifts-read-as-scales", "stem_bn", "bn-stats", "weights-swapped weights-perturbed")(
    one_too_early("stem_bn")
)
ways("factors", "channels-last", "mean-over-what-is-there")
control("factors/all-folded")(each(*(folded(name, f"{name}_bn") for name in _FACTORS)))
one_layer("factors", "pool-in-the-middle+zeros-counted")
neighbours("factors", "mean-for-largest+deviations-for-variances", "bend-before-the-norm+shifts-read-as-scales")


# --- ResNet-RS ----------------------------------------------------------------------------------------------

_MEANS, _VARIANCES = np.float32([0.485, 0.456, 0.406]), np.float32([0.0524, 0.0502, 0.0506])
_RS = {"stem1": (3, 4, 3), "stem2": (4, 4, 3), "stem3": (4, 6, 3), "enter": (6, 5, 1), "middle": (5, 5, 3),
       "leave": (5, 8, 1), "shortcut": (6, 8, 1)}  # fmt: skip


class Rs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _RS.items():
            step = 2 if name in ("stem1", "enter" if "stride-on-the-first" in ways else "middle") else 1
            step = 2 if name == "shortcut" and "shortcut-without-its-mean" in ways else step
            self.add_module(name, nn.Conv2d(given, wide, size, step, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-5))
        self.squeeze, self.excite, self.head = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1), nn.Linear(8, 4)

    def block(self, name: str, x: torch.Tensor, bent: bool = True) -> torch.Tensor:
        conv = self.get_submodule(name)
        if conv.kernel_size[0] == 3:
            x = F.pad(x, (0, 1, 0, 1) if name == "stem1" and "padded-as-same" in self.ways else (1, 1, 1, 1))
        x = self.get_submodule(f"{name}_bn")(conv(x))
        return F.relu(x) if bent else x

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        y = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(y)

    def skipped(self, x: torch.Tensor) -> torch.Tensor:
        if "shortcut-without-its-mean" in self.ways:
            return self.block("shortcut", x, bent=False)
        if "zeros-counted" in self.ways:
            x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2)
        elif "mean-by-edges" in self.ways:  # the last row and column are the mean of themselves
            x = F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2)
        else:
            x = F.avg_pool2d(x, 2, ceil_mode=True)
        return self.block("shortcut", x, bent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means, variances = torch.from_numpy(_MEANS)[:, None, None], torch.from_numpy(_VARIANCES)[:, None, None]
        x = image / 255 if "bytes-as-shares" in self.ways else (image / 255 - means) / variances.sqrt()
        x = self.block("stem2", self.block("stem1", x))
        x = self.block("stem3", x, bent="stem-left-linear" not in self.ways)
        y = self.block("leave", self.block("middle", self.block("enter", x)), bent=False)
        skip = self.skipped(x)
        if "bent-before-the-sum" in self.ways:
            x = F.relu(self.gated(y)) + skip
        else:
            x = F.relu(self.gated(y + skip) if "gate-behind-the-sum" in self.ways else self.gated(y) + skip)
        return self.head(x.mean((2, 3)))


@network
def rs() -> Pair:
    """ResNet-RS: three kernels first, zeros put around by hand, a gate in the block, a shortcut that is a mean."""
    keras.backend.clear_session()
    image = layers.Input((10, 10, 3), name="image")

    def block(name: str, x: keras.KerasTensor, step: int = 1, bent: bool = True) -> keras.KerasTensor:
        _, wide, size = _RS[name]
        if step > 1:
            x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        padding = "same" if step == 1 else "valid"
        x = layers.Conv2D(wide, size, step, padding=padding, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x) if bent else x

    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(x)
    x = block("stem3", block("stem2", block("stem1", x, 2)))
    y = block("leave", block("middle", block("enter", x), 2), bent=False)
    z = layers.Reshape((1, 1, 8), name="row")(layers.GlobalAveragePooling2D(name="squeeze_pool")(y))
    z = layers.Conv2D(2, 1, activation="relu", name="squeeze")(z)
    y = layers.Multiply(name="gated")([y, layers.Conv2D(8, 1, activation="sigmoid", name="excite")(z)])
    x = block("shortcut", layers.AveragePooling2D(2, 2, padding="same", name="shortcut_pool")(x), bent=False)
    x = layers.ReLU(name="last_relu")(layers.Add(name="sum")([y, x]))
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    grown(model, 2, "excite", "squeeze")
    return Pair(model, counted(1322, 256, 3, 10, 10, 3).astype("float32"), ported(model, Rs), "NHWC->NCHW")


_SUM = "sum add* gated mul* last_relu relu* leave_bn"
slip("rs/bytes-as-shares", "normalization rescaling image sub* div* truediv* sqrt* pad* stem1 stem1_pad",
     "input-normalisation block-missing", "input-scale scale shift")  # fmt: skip
slip("rs/padded-as-same", "stem1 stem1_pad pad*", "pad-asymmetry", "shift")
slip("rs/stem-left-linear", "stem3 stem3_* relu* enter shortcut_pool", "activation-missing", "block-missing")
slip("rs/stride-on-the-first", "enter middle middle_pad conv2d* pad* enter_* middle_*", "stride-position")
slip("rs/shortcut-without-its-mean", "shortcut shortcut_* avg_pool*", "pool-kind block-missing stride-position",
     "operation-kind wiring")  # fmt: skip
slip("rs/zeros-counted", "shortcut_pool avg_pool* pad*", "pool-count-include-pad", "pad-mode pad-asymmetry")
slip("rs/bent-before-the-sum", _SUM, "residual-order wiring", "operand-order activation-missing activation-extra")
slip("rs/gate-behind-the-sum", _SUM, "residual-order wiring", "operand-order")
defect("rs/bn-eps-of-keras", "*_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("rs", "mean-by-edges")
control("rs/stem-folded")(each(*(folded(name, f"{name}_bn") for name in ("stem1", "stem2", "stem3"))))
one_layer("rs", "bytes-as-shares+padded-as-same", "shortcut-without-its-mean+bn-eps-of-keras")
neighbours("rs", "stem-left-linear+stride-on-the-first", "zeros-counted+gate-behind-the-sum")


# --- roads --------------------------------------------------------------------------------------------------


class Roads(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.data_bn, self.stem = nn.BatchNorm2d(3, eps=2e-5), nn.Conv2d(3, 4, 7, stride=2, bias=False)
        self.down, self.thin = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.Conv2d(6, 3, 1, bias=False)
        self.up, self.thick = nn.ConvTranspose2d(3, 3, 4, 2, 1, bias=False), nn.Conv2d(3, 4, 1, bias=False)
        for name, wide in {"stem": 4, "down": 6, "thin": 3, "up": 3, "thick": 4}.items():
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=2e-5))
        self.mask = nn.Conv2d(4, 1, 3, padding=1)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def grown(self, x: torch.Tensor) -> torch.Tensor:
        if "grown-by-repeats" in self.ways:
            return x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2).flatten(4, 5).flatten(2, 3)
        return F.interpolate(x, scale_factor=2, mode="bilinear" if "grown-smoothly" in self.ways else "nearest")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image if "data-not-normed" in self.ways else self.data_bn(image)
        x = self.stem_bn(self.stem(F.pad(x, (2, 3, 2, 3) if "padded-as-same" in self.ways else (3, 3, 3, 3))))
        bent = F.relu(x)
        skip = x if "skip-before-its-bend" in self.ways else bent
        x = F.max_pool2d(bent, 3, 2, padding=1)
        x = self.block("thick", self.block("up", self.block("thin", self.block("down", x))))
        x = x if "skip-forgotten" in self.ways else x + skip
        x = self.mask(self.grown(x))
        return x if "mask-as-it-is" in self.ways else torch.sigmoid(x)


@network
def roads() -> Pair:
    """LinkNet of segmentation_models: a norm for the picture, a kernel of seven, sums for skips, a mask."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")

    def block(x: keras.KerasTensor, name: str, conv: layers.Layer) -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=2e-5, name=f"{name}_bn")(conv(x))
        return layers.Activation("relu", name=f"{name}_relu")(x)

    def conv(name: str, wide: int, size: int) -> layers.Layer:
        return layers.Conv2D(wide, size, padding="same", use_bias=False, name=name)

    x = layers.BatchNormalization(epsilon=2e-5, scale=False, name="data_bn")(image)
    x = layers.ZeroPadding2D(3, name="stem_pad")(x)
    skip = block(x, "stem", layers.Conv2D(4, 7, 2, use_bias=False, name="stem"))
    x = layers.MaxPooling2D(3, 2, name="pool")(layers.ZeroPadding2D(1, name="pool_pad")(skip))
    x = block(block(x, "down", conv("down", 6, 3)), "thin", conv("thin", 3, 1))
    x = block(x, "up", layers.Conv2DTranspose(3, 4, 2, padding="same", use_bias=False, name="up"))
    x = layers.Add(name="joined")([block(x, "thick", conv("thick", 4, 1)), skip])
    x = layers.Conv2D(1, 3, padding="same", name="mask")(layers.UpSampling2D(2, name="grown")(x))
    model = keras.Model(image, layers.Activation("sigmoid", name="chance")(x))
    fill(model)
    given = counted(1323, 256, 2, 16, 16, 3).astype("float32") / 255
    return Pair(model, given, ported(model, Roads, unscaled(data_bn=3)), "NHWC->NCHW")


slip("roads/data-not-normed", "data_bn image stem stem_pad pad*", "block-missing input-normalisation bn-stats",
     "wiring input-scale")  # fmt: skip
slip("roads/padded-as-same", "stem stem_pad pad*", "pad-asymmetry", "shift")
slip("roads/skip-before-its-bend", "joined add* stem_relu relu* stem_bn", "wiring activation-missing",
     "operand-order block-missing residual-order")  # fmt: skip
slip("roads/skip-forgotten", "joined add* thick thick_*", "residual-missing", "wiring block-missing")
slip("roads/grown-smoothly", "grown interpolate* upsample* mask", "resize-mode", "operation-kind")
slip("roads/mask-as-it-is", "chance sigmoid* mask", "logits activation-missing", "block-missing")
defect("roads/kernel-turned-round", "up", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("up.weight", lambda weight: weight.flip(2, 3))
)
defect("roads/bn-eps-of-keras", "*_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("roads", "grown-by-repeats")
control("roads/down-folded")(each(folded("down", "down_bn"), folded("thin", "thin_bn"), folded("thick", "thick_bn")))
one_layer("roads", "skip-before-its-bend+padded-as-same", "kernel-turned-round+bn-eps-of-keras")
neighbours("roads", "grown-smoothly+mask-as-it-is")
