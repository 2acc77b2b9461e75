"""Cells that are searched for, and joints that are looked for twice."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Cell(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.halve = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 6, 3, stride=2, padding=0)
        self.path1, self.path2 = (nn.Conv2d(4, 3, 1, bias=False) for _ in range(2))
        self.fit_bn, self.sep_bn = nn.BatchNorm2d(6, eps=1e-3), nn.BatchNorm2d(6, eps=1e-3)
        self.deep, self.point = nn.Conv2d(6, 12, 3, padding=1, groups=6, bias=False), nn.Conv2d(12, 6, 1, bias=False)
        self.head = nn.Linear(18, 4)

    def fitted(self, x: torch.Tensor) -> torch.Tensor:
        """The cell before, at half its size: one path from even places, and one from those beside them."""
        x = F.relu(x)
        if "second-path-by-slices" in self.ways:
            beside = x[:, :, 1::2, 1::2]
        else:
            moved = x if "second-path-not-moved" in self.ways else F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
            beside = moved[:, :, ::2, ::2]
        both = [self.path1(x[:, :, ::2, ::2]), self.path2(beside)]
        return self.fit_bn(torch.cat(both[::-1] if "second-path-first" in self.ways else both, dim=1))

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        if "mean-by-sums" in self.ways:
            count = F.avg_pool2d(torch.ones_like(x), 3, 1, padding=1)
            return F.avg_pool2d(x, 3, 1, padding=1) / count
        return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad="zeros-counted" in self.ways)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        around = (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1)
        before = self.stem(F.pad(image, around))
        now = self.halve(F.pad(F.relu(before), around))
        before = self.fitted(before)
        one = self.sep_bn(self.point(self.deep(F.relu(now)))) + before
        two = self.mean(before) + now if "means-of-the-other" in self.ways else self.mean(now) + before
        return self.head(torch.cat([before, one, two], dim=1).mean((2, 3)))


@network
def cell() -> Pair:
    """A cell of NASNet: the one before is fitted by two paths, a separable kernel with two maps for each channel."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    first = layers.Conv2D(4, 3, 2, padding="same", name="stem")(image)
    now = layers.Conv2D(6, 3, 2, padding="same", name="halve")(layers.ReLU(name="stem_relu")(first))
    x = layers.ReLU(name="fit_relu")(first)
    one = layers.AveragePooling2D(1, 2, name="even")(x)
    two = layers.ZeroPadding2D(((0, 1), (0, 1)), name="around")(x)
    two = layers.AveragePooling2D(1, 2, name="odd")(layers.Cropping2D(((1, 0), (1, 0)), name="moved")(two))
    both = [layers.Conv2D(3, 1, use_bias=False, name=f"path{i}")(y) for i, y in ((1, one), (2, two))]
    before = layers.BatchNormalization(name="fit_bn")(layers.Concatenate(name="fitted")(both))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="deep")(
        layers.ReLU(name="sep_relu")(now)
    )
    x = layers.BatchNormalization(name="sep_bn")(layers.Conv2D(6, 1, use_bias=False, name="point")(x))
    one = layers.Add(name="sum1")([x, before])
    two = layers.Add(name="sum2")([layers.AveragePooling2D(3, 1, padding="same", name="mean")(now), before])
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Concatenate(name="all")([before, one, two]))
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    return Pair(model, fed(1291, 3, 16, 16, 3), ported(model, Cell), "NHWC->NCHW")


_FIT = "odd moved around even path? get_item* pad* cat* fitted avg_pool* conv2d*"
_MEAN = "mean avg_pool* max_pool* sum2 add*"
slip("cell/second-path-not-moved", _FIT, "shift block-missing", "wiring pad-asymmetry")
slip("cell/second-path-first", _FIT, "concat-order", "operand-order channel-order wiring")
slip("cell/zeros-counted", _MEAN, "pool-count-include-pad", "pad-mode")
slip("cell/means-of-the-other", _MEAN, "wiring operand-order", "residual-order")
slip("cell/padded-evenly", "stem halve pad*", "pad-asymmetry", "shift")
defect("cell/maps-outermost", "deep", "depthwise-order", "weights-perturbed")(
    rewritten("deep.weight", lambda weight: weight.unflatten(0, (6, 2)).transpose(0, 1).flatten(0, 1))
)
defect("cell/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("cell", "second-path-by-slices", "mean-by-sums")
control("cell/point-folded")(folded("point", "sep_bn"))
one_layer("cell", "second-path-not-moved+second-path-first", "zeros-counted+means-of-the-other")
neighbours("cell", "second-path-first+bn-eps-of-torch")


# --- joints -------------------------------------------------------------------------------------------------


class Joints(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.skip = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        for i in (1, 2):
            self.add_module(f"bn{i}", nn.BatchNorm2d(6, eps=1e-3))
            self.add_module(f"conv{i}", nn.Conv2d(6, 6, 3, padding=1, groups=2))
        self.guess, self.back, self.heat = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 1)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        bn, conv = self.get_submodule(f"bn{i}"), self.get_submodule(f"conv{i}")
        y = F.relu(bn(x))
        if "groups-by-halves" in self.ways:
            weights, biases = conv.weight.chunk(2), conv.bias.chunk(2)
            halves = zip(y.chunk(2, dim=1), weights, biases, strict=True)
            y = torch.cat([F.conv2d(half, weight, bias, padding=1) for half, weight, bias in halves], dim=1)
        else:
            y = conv(y)
        return x + y

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-repeats" in self.ways:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        squares = image.unflatten(3, (8, 2)).unflatten(2, (8, 2))
        order = (0, 1, 3, 5, 2, 4) if "squares-of-torch" in self.ways else (0, 3, 5, 1, 2, 4)
        x = F.relu(self.stem(squares.permute(*order).flatten(1, 3)))
        x = self.block(1, x)
        y = self.block(2, F.max_pool2d(x, 2))
        x = self.skip(x) + self.raised(y)
        guess = self.guess(x)
        x = x if "guess-not-told" in self.ways else x + self.back(torch.sigmoid(guess))
        x = self.heat(x)
        if "pixels-of-torch" in self.ways:
            return guess, F.pixel_shuffle(x, 2)
        x = x.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 1, 5, 2)
        return guess, x.flatten(4, 5).flatten(2, 3)


@network
def joints() -> Pair:
    """An hourglass of one level: squares of pixels, kernels in groups, a first guess that is told, and finer maps."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = ops.transpose(ops.reshape(image, (-1, 8, 2, 8, 2, 3)), (0, 1, 3, 2, 4, 5))
    x = layers.Reshape((8, 8, 12), name="squares")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(x)

    def block(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        y = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
        y = layers.Conv2D(6, 3, padding="same", groups=2, name=f"conv{i}")(y)
        return layers.Add(name=f"sum{i}")([x, y])

    x = block(x, 1)
    y = layers.UpSampling2D(2, name="raised")(block(layers.MaxPooling2D(2, name="pool")(x), 2))
    x = layers.Add(name="joined")([layers.Conv2D(6, 1, name="skip")(x), y])
    guess = layers.Conv2D(3, 1, name="guess")(x)
    x = layers.Add(name="told")([x, layers.Conv2D(6, 1, name="back")(ops.sigmoid(guess))])
    x = layers.Reshape((8, 8, 2, 2, 3), name="parts")(layers.Conv2D(12, 1, name="heat")(x))
    x = layers.Reshape((16, 16, 3), name="maps")(ops.transpose(x, (0, 1, 3, 2, 4, 5)))
    model = keras.Model(image, [guess, x])
    fill(model)
    return Pair(model, fed(1292, 2, 16, 16, 3), ported(model, Joints), "NHWC->NCHW")


slip("joints/squares-of-torch", "squares reshape* transpose* permute* flatten* unflatten* stem", "depth-to-space-order",
     "wiring kernel-layout")  # fmt: skip
slip("joints/raised-smoothly", "raised interpolate* upsample* joined", "resize-mode", "operation-kind")
slip("joints/guess-not-told", "told add* back heat sigmoid*", "residual-missing", "wiring block-missing")
slip("joints/pixels-of-torch", "parts maps transpose* permute* pixel_shuffle* heat unflatten* flatten*",
     "depth-to-space-order")  # fmt: skip
defect("joints/left-before-right", "guess", "channel-order weights-perturbed", "axis-permutation weights-swapped")(
    lambda port: [rewritten(f"guess.{part}", lambda w: w[[0, 2, 1]])(port) for part in ("weight", "bias")] and None
)
defect("joints/rows-for-columns", "conv1", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("conv1.weight", lambda weight: weight.transpose(2, 3))
)
defect("joints/gains-for-shifts", "bn2", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("bn2", weight=port.bn2.bias, bias=port.bn2.weight)(port)
)
ways("joints", "groups-by-halves", "raised-by-repeats")
one_layer("joints", "pixels-of-torch+guess-not-told")
neighbours("joints", "raised-smoothly+left-before-right", "squares-of-torch+rows-for-columns")
