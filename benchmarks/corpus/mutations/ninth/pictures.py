"""Networks for pictures: separable kernels, faces on a telephone, and a pyramid that a detector reads."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import (
    control,
    defect,
    folded,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to


class Xception(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.short, self.short_bn = nn.Conv2d(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        for i, given in enumerate((6, 8, 8), 1):
            self.add_module(f"deep{i}", nn.Conv2d(given, given, 3, padding=1, groups=given, bias=False))
            self.add_module(f"point{i}", nn.Conv2d(given, 8, 1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(8, eps=1e-3))
        self.head = nn.Linear(8, 5)

    def separable(self, i: int, x: torch.Tensor) -> torch.Tensor:
        deep, point, bn = (self.get_submodule(f"{part}{i}") for part in ("deep", "point", "bn"))
        x = deep(x)
        return bn(point(F.relu(x) if "relu-between" in self.ways else x))

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if "pooled-by-ceiling" in self.ways:
            return F.max_pool2d(x, 3, 2, ceil_mode=True)
        if "padded-around" in self.ways:
            return F.max_pool2d(x, 3, 2, padding=1)
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=0 if "zeros-pooled" in self.ways else -torch.inf), 3, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if "channels-innermost" in self.ways:
            image = image.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.stem_bn(self.stem(image)))
        y = self.short(x)
        y = y if "shortcut-not-normed" in self.ways else self.short_bn(y)
        x = self.pooled(self.separable(2, F.relu(self.separable(1, x)))) + y
        y = self.separable(3, F.relu(x))
        x = (F.relu(x) if "relu-in-place" in self.ways else x) + y
        x = F.relu(x)
        return F.softmax(self.head(x.amax((2, 3)) if "largest-of-the-map" in self.ways else x.mean((2, 3))), dim=1)


@network
def xception() -> Pair:
    """Xception: two separable kernels and a pool beside a strided point, then one that begins with its ReLU."""
    keras.backend.clear_session()
    image = layers.Input((21, 21, 3), name="image")

    def separable(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"deep{i}")(x)
        return layers.BatchNormalization(name=f"bn{i}")(layers.Conv2D(8, 1, use_bias=False, name=f"point{i}")(x))

    x = layers.BatchNormalization(name="stem_bn")(layers.Conv2D(6, 3, 2, use_bias=False, name="stem")(image))
    x = layers.ReLU(name="relu1")(x)
    y = layers.Conv2D(8, 1, 2, padding="same", use_bias=False, name="short")(x)
    y = layers.BatchNormalization(name="short_bn")(y)
    x = separable(layers.ReLU(name="relu2")(separable(x, 1)), 2)
    x = layers.Add(name="sum1")([layers.MaxPooling2D(3, 2, padding="same", name="pool")(x), y])
    x = layers.Add(name="sum2")([x, separable(layers.ReLU(name="relu3")(x), 3)])
    x = layers.GlobalAveragePooling2D(name="mean")(layers.ReLU(name="relu4")(x))
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))
    fill(model)
    return Pair(model, fed(931, 3, 21, 21, 3), ported(model, Xception), "NHWC->NCHW")


_POOLED = "pool pad* max_pool2d*"
slip("xception/relu-between", "deep? point? relu*", "activation-extra", "block-extra")
slip("xception/padded-around", _POOLED, "pad-asymmetry", "shift pad-mode")
slip("xception/zeros-pooled", _POOLED, "pad-mode", "activation-extra block-extra")
slip("xception/shortcut-not-normed", "short short_bn sum1 add*", "block-missing", "bn-stats wiring")
slip("xception/relu-in-place", "sum2 add* relu* bn3", "activation-extra wiring", "block-extra residual-order")
slip("xception/largest-of-the-map", "mean* amax* head", "pool-kind", "operation-kind")
defect("xception/bn-eps-of-torch", "*bn bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("xception/gains-for-shifts", "bn2", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("bn2", weight=port.bn2.bias, bias=port.bn2.weight)(port)
)
defect("xception/rows-for-columns", "deep3", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("deep3.weight", lambda weight: weight.transpose(2, 3))
)
ways("xception", "pooled-by-ceiling", "channels-innermost")
control("xception/stem-folded")(folded("stem", "stem_bn"))
one_layer("xception", "rows-for-columns+relu-between")
neighbours("xception", "zeros-pooled+shortcut-not-normed")


# --- faces --------------------------------------------------------------------------------------------------


class Blaze(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem = nn.Conv2d(3, 6, 5, stride=2)
        self.deep1, self.point1 = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 8, 1)
        self.deep2, self.point2 = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 8, 1)
        self.chance, self.place = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 8, 1)

    def widened(self, x: torch.Tensor) -> torch.Tensor:
        if "widened-by-joining" in self.ways:
            return torch.cat([x, torch.zeros_like(x[:, :2])], dim=1)
        return F.pad(x, (0, 0, 0, 0, 2, 0) if "channels-behind-the-zeros" in self.ways else (0, 0, 0, 0, 0, 2))

    def separable(self, deep: nn.Conv2d, point: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if "one-dense-kernel" in self.ways:
            weight = point.weight * deep.weight.transpose(0, 1)
            bias = point.bias + point.weight[:, :, 0, 0] @ deep.bias
            return F.conv2d(x, weight, bias, stride=deep.stride, padding=deep.padding)
        return point(deep(x))

    def listed(self, x: torch.Tensor, width: int) -> torch.Tensor:
        x = x if "heads-not-turned" in self.ways else x.permute(0, 2, 3, 1)
        return x.reshape(len(x), -1, width)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = image / 255 if "bytes-between-zero-and-one" in self.ways else image / 127.5 - 1
        x = F.relu(self.stem(F.pad(x, (2, 1, 2, 1) if "stem-padded-in-front" in self.ways else (1, 2, 1, 2))))
        y = self.separable(self.deep1, self.point1, x)
        x = F.relu(y) + self.widened(x) if "bent-before-the-sum" in self.ways else F.relu(y + self.widened(x))
        pads = (1, 1, 1, 1) if "halved-after-even-padding" in self.ways else (0, 1, 0, 1)
        y = self.separable(self.deep2, self.point2, F.pad(x, pads))
        x = F.relu(y + (F.avg_pool2d(x, 2) if "means-skip" in self.ways else F.max_pool2d(x, 2)))
        chance = self.listed(self.chance(x), 1)
        return chance if "chances-as-logits" in self.ways else torch.sigmoid(chance), self.listed(self.place(x), 4)


@network
def blaze() -> Pair:
    """BlazeFace: what skips gets channels of zeros or is pooled; chances and places of two anchors in each field."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scaled")(image)
    x = layers.Conv2D(6, 5, 2, padding="same", activation="relu", name="stem")(x)
    y = layers.Conv2D(8, 1, name="point1")(layers.DepthwiseConv2D(3, padding="same", name="deep1")(x))
    turned = layers.ZeroPadding2D(((0, 0), (0, 2)), name="wider")(layers.Permute((1, 3, 2), name="channels_inside")(x))
    x = layers.Permute((1, 3, 2), name="channels_outside")(turned)
    x = layers.ReLU(name="relu1")(layers.Add(name="sum1")([y, x]))
    y = layers.DepthwiseConv2D(3, 2, padding="same", name="deep2")(x)
    y = layers.Conv2D(8, 1, name="point2")(y)
    x = layers.ReLU(name="relu2")(layers.Add(name="sum2")([y, layers.MaxPooling2D(2, name="pool")(x)]))
    chance = layers.Reshape((32, 1), name="chances")(layers.Conv2D(2, 1, name="chance")(x))
    place = layers.Reshape((32, 4), name="places")(layers.Conv2D(8, 1, name="place")(x))
    model = keras.Model(image, [layers.Activation("sigmoid", name="sigmoid")(chance), place])
    fill(model)
    return Pair(model, counted(932, 256, 2, 16, 16, 3).astype("float32"), ported(model, Blaze), "NHWC->NCHW")


_BYTES = "scaled div* true_divide* sub* stem image"
slip("blaze/bytes-between-zero-and-one", _BYTES, "input-normalisation input-scale scale", "block-missing bias-missing")
slip("blaze/stem-padded-in-front", "stem pad*", "pad-asymmetry", "shift")
slip("blaze/channels-behind-the-zeros", "wider channels_* pad* sum1 add*",
     "pad-asymmetry channel-order concat-order shift", "axis-permutation operand-order")  # fmt: skip
slip("blaze/halved-after-even-padding", "deep2 pad*", "pad-asymmetry", "shift pad-mode")
slip("blaze/bent-before-the-sum", "sum1 add* relu*", "residual-order", "operand-order wiring")
slip("blaze/means-skip", "pool *_pool2d* sum2", "pool-kind", "operation-kind")
slip("blaze/heads-not-turned", "chances places permute* reshape* chance place", "reshape-order flatten-order", "wiring")
slip("blaze/chances-as-logits", "sigmoid* chances chance", "logits activation-missing", "block-missing")
defect("blaze/deep-without-bias", "deep1", "bias-missing", "weights-not-loaded")(set_to("deep1", bias=None))
ways("blaze", "widened-by-joining", "one-dense-kernel")
one_layer("blaze", "heads-not-turned+chances-as-logits", "channels-behind-the-zeros+bent-before-the-sum")
neighbours("blaze", "bytes-between-zero-and-one+stem-padded-in-front", "halved-after-even-padding+means-skip")


# --- a pyramid ----------------------------------------------------------------------------------------------


class Neck(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i, given in ((3, 4), (4, 6), (5, 8)):
            self.add_module(f"side{i}", nn.Conv2d(given, 8, 1))
            self.add_module(f"smooth{i}", nn.Conv2d(8, 8, 3, padding=1))
        self.p6, self.p7 = nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.shared, self.classes = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)

    def side(self, i: int, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(f"side{i}")
        if "points-as-products" in self.ways:
            return torch.einsum("bchw,oc->bohw", x, conv.weight[..., 0, 0]) + conv.bias[:, None, None]
        return conv(x)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-repeating" in self.ways:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")

    def read(self, x: torch.Tensor) -> torch.Tensor:
        x = self.classes(F.relu(self.shared(x)))
        return x.permute(0, 2, 3, 1).reshape(len(x), -1, 3)

    def forward(self, c3: torch.Tensor, c4: torch.Tensor, c5: torch.Tensor) -> torch.Tensor:
        smooth = [self.get_submodule(f"smooth{i}") for i in (3, 4, 5)]
        five = self.side(5, c5)
        if "smoothed-before-it-is-raised" in self.ways:
            five = smooth[2](five)
            four = smooth[1](self.side(4, c4) + self.raised(five))
            levels = [smooth[0](self.side(3, c3) + self.raised(four)), four, five]
        else:
            four = self.side(4, c4) + self.raised(five)
            three = self.side(3, c3) + self.raised(four)
            levels = [three, four, five]
            if "never-smoothed" not in self.ways:
                levels = [conv(x) for conv, x in zip(smooth, levels, strict=True)]
        six = levels[2] if "six-from-the-fifth-level" in self.ways else c5
        six = self.p6(F.pad(six, (1, 0, 1, 0) if "six-padded-in-front" in self.ways else (0, 1, 0, 1)))
        seven = self.p7(six if "seven-from-unbent" in self.ways else F.relu(six))
        found = [self.read(x) for x in (*levels, six, seven)]
        return torch.sigmoid(torch.cat(found[::-1] if "coarse-levels-first" in self.ways else found, dim=1))


@network
def neck() -> Pair:
    """RetinaNet's pyramid: two levels beyond the last, of which the second begins with a ReLU; one head for all."""
    keras.backend.clear_session()
    given = {
        f"c{i}": layers.Input((size, size, width), name=f"c{i}") for i, size, width in ((3, 8, 4), (4, 4, 6), (5, 2, 8))
    }
    side = {i: layers.Conv2D(8, 1, name=f"side{i}")(given[f"c{i}"]) for i in (3, 4, 5)}
    for i in (4, 3):
        side[i] = layers.Add(name=f"sum{i}")([side[i], layers.UpSampling2D(2, name=f"raised{i}")(side[i + 1])])
    levels = [layers.Conv2D(8, 3, padding="same", name=f"smooth{i}")(side[i]) for i in (3, 4, 5)]
    six = layers.Conv2D(8, 3, 2, padding="same", name="p6")(given["c5"])
    seven = layers.Conv2D(8, 3, 2, padding="same", name="p7")(layers.ReLU(name="p6_relu")(six))
    shared = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")
    classes = layers.Conv2D(6, 3, padding="same", name="classes")
    found = [layers.Reshape((-1, 3), name=f"list{i}")(classes(shared(x))) for i, x in enumerate((*levels, six, seven))]
    x = layers.Activation("sigmoid", name="sigmoid")(layers.Concatenate(axis=1, name="all")(found))
    model = keras.Model(given, x)
    fill(model)
    inputs = {"c3": fed(933, 2, 8, 8, 4), "c4": fed(934, 2, 4, 4, 6), "c5": fed(935, 2, 2, 2, 8)}
    return Pair(model, inputs, ported(model, Neck), "NHWC->NCHW")


slip("neck/raised-smoothly", "raised? interpolate* sum? add*", "resize-mode", "operation-kind")
slip("neck/smoothed-before-it-is-raised", "smooth? sum? add* raised? interpolate* repeat_interleave*",
     "wiring residual-order", "operand-order block-extra")  # fmt: skip
slip("neck/never-smoothed", "smooth? shared shared#* classes classes#*", "block-missing", "wiring")
slip("neck/six-from-the-fifth-level", "p6 pad* smooth5 c5", "wiring", "operand-order block-extra")
slip("neck/six-padded-in-front", "p6 pad*", "pad-asymmetry", "shift")
slip("neck/seven-from-unbent", "p6_relu relu* p7", "activation-missing", "block-missing")
slip("neck/coarse-levels-first", "all cat* sigmoid", "concat-order", "operand-order axis-permutation")
defect("neck/side-never-loaded", "side4", "weights-not-loaded weights-perturbed")(lambda port: _begun(port.side4))


def _begun(conv: nn.Conv2d) -> None:
    """As where a name was not found, and ``strict`` was false."""
    torch.manual_seed(0)
    conv.reset_parameters()


ways("neck", "raised-by-repeating", "points-as-products")
one_layer("neck", "six-from-the-fifth-level+six-padded-in-front")
neighbours("neck", "raised-smoothly+never-smoothed", "six-padded-in-front+seven-from-unbent")
