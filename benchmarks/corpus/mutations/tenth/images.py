"""Pictures: cheap features of a ghost module, a ConvMixer, and what is followed through a film."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.tenth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Ghost(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i, given in ((1, 3), (2, 8)):
            self.add_module(f"primary{i}", nn.Conv2d(given, 4, 1, bias=False))
            self.add_module(f"primary_bn{i}", nn.BatchNorm2d(4, eps=1e-3))
            self.add_module(f"cheap{i}", nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False))
            self.add_module(f"cheap_bn{i}", nn.BatchNorm2d(4, eps=1e-3))
        self.halve = nn.Conv2d(8, 8, 5, stride=2, groups=8)
        self.squeeze, self.excite = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.short, self.head = nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Linear(8, 4)

    def ghost(self, i: int, x: torch.Tensor, bent: bool) -> torch.Tensor:
        primary, cheap = self.get_submodule(f"primary{i}"), self.get_submodule(f"cheap{i}")
        x = self.get_submodule(f"primary_bn{i}")(primary(x))
        x = F.relu(x) if bent else x
        y = self.get_submodule(f"cheap_bn{i}")(cheap(x))
        y = F.relu(y) if bent else y
        return torch.cat([y, x] if "cheap-first" in self.ways else [x, y], dim=1)

    def excited(self, x: torch.Tensor) -> torch.Tensor:
        y = x.amax((2, 3), keepdim=True) if "largest-squeezed" in self.ways else x.mean((2, 3), keepdim=True)
        if "excited-by-dense" in self.ways:
            y = F.relu(F.linear(y.flatten(1), self.squeeze.weight[:, :, 0, 0], self.squeeze.bias))
            y = F.linear(y, self.excite.weight[:, :, 0, 0], self.excite.bias)[:, :, None, None]
        else:
            y = self.squeeze(y)
            y = self.excite(y if "squeezed-left-linear" in self.ways else F.relu(y))
        if "hard-sigmoid-of-old-keras" in self.ways:
            return x * (0.2 * y + 0.5).clamp(0, 1)
        return x * F.hardsigmoid(y)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.ghost(1, image, True)
        even = "halved-after-even-padding" in self.ways
        y = self.halve(F.pad(x, (2, 2, 2, 2) if even else (1, 2, 1, 2)))
        y = self.ghost(2, self.excited(y), "second-ghost-bent" in self.ways)
        x = self.short(F.pad(x, (0, 1, 0, 1))) + y
        return self.head(x.mean((2, 3)))


@network
def ghost() -> Pair:
    """GhostNet: half of the features are made cheaply of the others; a gate with hard sigmoids, a strided skip."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def made(x: keras.KerasTensor, i: int, bent: bool) -> keras.KerasTensor:
        x = layers.Conv2D(4, 1, use_bias=False, name=f"primary{i}")(x)
        x = layers.BatchNormalization(name=f"primary_bn{i}")(x)
        x = layers.ReLU(name=f"primary_relu{i}")(x) if bent else x
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"cheap{i}")(x)
        y = layers.BatchNormalization(name=f"cheap_bn{i}")(y)
        y = layers.ReLU(name=f"cheap_relu{i}")(y) if bent else y
        return layers.Concatenate(name=f"ghost{i}")([x, y])

    x = made(image, 1, True)
    y = layers.DepthwiseConv2D(5, 2, padding="same", name="halve")(x)
    z = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(y)
    z = layers.Conv2D(3, 1, activation="relu", name="squeeze")(z)
    z = layers.Conv2D(8, 1, activation="hard_sigmoid", name="excite")(z)
    y = made(layers.Multiply(name="gated")([y, z]), 2, False)
    x = layers.Add(name="skip")([layers.DepthwiseConv2D(3, 2, padding="same", name="short")(x), y])
    x = layers.GlobalAveragePooling2D(name="mean_pool")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    return Pair(model, fed(1021, 3, 12, 12, 3), ported(model, Ghost), "NHWC->NCHW")


_GATE = "pool mean* amax* squeeze excite relu* hardsigmoid* gated mul* clamp* add*"
slip("ghost/cheap-first", "ghost? cat*", "concat-order", "operand-order channel-order")
slip("ghost/halved-after-even-padding", "halve pad*", "pad-asymmetry", "shift")
slip("ghost/largest-squeezed", _GATE, "pool-kind", "operation-kind")
slip("ghost/squeezed-left-linear", _GATE, "activation-missing", "block-missing")
slip("ghost/hard-sigmoid-of-old-keras", _GATE, "activation-kind activation-param", "operation-kind")
slip("ghost/second-ghost-bent", "primary_bn2 cheap_bn2 relu* cheap2 ghost2 cat*", "activation-extra", "block-extra")
defect("ghost/gains-for-shifts", "cheap_bn1", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("cheap_bn1", weight=port.cheap_bn1.bias, bias=port.cheap_bn1.weight)(port)
)
defect("ghost/blue-before-red", "primary1", "channel-order kernel-layout weights-perturbed", "axis-permutation")(
    rewritten("primary1.weight", lambda weight: weight.flip(1))
)
ways("ghost", "excited-by-dense")
control("ghost/primary-folded")(folded("primary1", "primary_bn1"))
one_layer("ghost", "largest-squeezed+hard-sigmoid-of-old-keras", "cheap-first+second-ghost-bent")
neighbours("ghost", "gains-for-shifts+halved-after-even-padding")


# --- mixed by kernels ---------------------------------------------------------------------------------------

_MEANS, _VARIANCES = np.float32([123.7, 116.3, 103.5]), np.float32([3411.0, 3262.0, 3290.0])


class Mixed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.patch, self.patch_bn = nn.Conv2d(3, 8, 3, stride=3), nn.BatchNorm2d(8, eps=1e-3)
        self.deep, self.deep_bn = nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8, eps=1e-3)
        self.point, self.point_bn, self.head = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, eps=1e-3), nn.Linear(8, 5)

    def bent(self, bn: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if "bn-before-gelu" in self.ways:
            return F.gelu(bn(x))
        return bn(F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none"))

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        if "edges-mirrored" in self.ways:
            return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), self.deep.weight, self.deep.bias, groups=8)
        return self.deep(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means, spreads = torch.from_numpy(_MEANS)[:, None, None], torch.from_numpy(_VARIANCES)[:, None, None]
        if "means-of-bytes-from-shares" in self.ways:
            x = image / 255 - means / 255
        else:
            x = (image - means) / (spreads if "variance-for-deviation" in self.ways else spreads.sqrt())
        if "patches-as-products" in self.ways:
            x = F.unfold(x, 3, stride=3).transpose(1, 2) @ self.patch.weight.flatten(1).T + self.patch.bias
            x = x.transpose(1, 2).unflatten(2, (4, 4))
        else:
            x = self.patch(x)
        x = self.bent(self.patch_bn, x)
        y = self.bent(self.deep_bn, self.spread(x))
        if "skip-around-both" in self.ways:
            x = x + self.bent(self.point_bn, self.point(y))
        else:
            x = self.bent(self.point_bn, self.point(y if "skip-forgotten" in self.ways else x + y))
        return self.head(x.mean((2, 3)))


@network
def mixed() -> Pair:
    """ConvMixer: levelled bytes, patches, a wide depthwise kernel with a skip and a point; each a gelu, then a norm."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def bent(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.BatchNormalization(name=f"{name}_bn")(layers.Activation("gelu", name=f"{name}_gelu")(x))

    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(image)
    x = bent(layers.Conv2D(8, 3, 3, name="patch")(x), "patch")
    y = bent(layers.DepthwiseConv2D(5, padding="same", name="deep")(x), "deep")
    x = bent(layers.Conv2D(8, 1, name="point")(layers.Add(name="skip")([x, y])), "point")
    model = keras.Model(image, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    return Pair(model, counted(1022, 256, 3, 12, 12, 3).astype("float32"), ported(model, Mixed), "NHWC->NCHW")


_LEVEL = "normalization sub* div* truediv* true_divide* patch image"
slip("mixed/variance-for-deviation", _LEVEL, "input-normalisation input-scale", "scale")
slip("mixed/means-of-bytes-from-shares", _LEVEL, "input-normalisation input-scale", "scale")
slip("mixed/gelu-by-tanh", "*_gelu gelu*", "gelu-approx")
slip("mixed/bn-before-gelu", "*_gelu gelu* *_bn", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("mixed/edges-mirrored", "deep pad* conv2d*", "pad-mode")
slip("mixed/skip-around-both", "skip add* point point_*", "wiring residual-order residual-missing",
     "operand-order block-missing")  # fmt: skip
slip("mixed/skip-forgotten", "skip add* point", "residual-missing", "wiring block-missing")
defect("mixed/rows-for-columns", "deep", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("deep.weight", lambda weight: weight.transpose(2, 3))
)
ways("mixed", "patches-as-products")
one_layer("mixed", "edges-mirrored+rows-for-columns", "gelu-by-tanh+bn-before-gelu")
neighbours("mixed", "rows-for-columns+skip-forgotten")


# --- what is followed ---------------------------------------------------------------------------------------


class Tracker(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=1e-3), nn.Conv2d(6, 6, 3)
        self.join, self.chance, self.box = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 1, 1), nn.Conv2d(6, 4, 1)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return self.conv2(F.relu(x if "bn-left-out" in self.ways else self.bn1(x)))

    def likened(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        if "likened-by-shifts" in self.ways:
            return sum(
                search[:, :, i : i + 7, j : j + 7] * template[:, :, i, j, None, None] for i in (0, 1) for j in (0, 1)
            )
        template = template.flip(2, 3) if "template-turned-round" in self.ways else template
        if "first-template-for-all" in self.ways:
            return F.conv2d(search, template[:1].transpose(0, 1), groups=6)
        both = search.flatten(0, 1)[None]
        return F.conv2d(both, template.flatten(0, 1)[:, None], groups=both.shape[1])[0].unflatten(0, (-1, 6))

    def forward(self, template: torch.Tensor, search: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.likened(self.seen(template), self.seen(search))
        x = self.join(x / 4 if "mean-of-the-products" in self.ways else x)
        x = x if "joint-left-linear" in self.ways else F.relu(x)
        box = self.box(x)
        chance = self.chance(x)
        chance = chance if "chance-as-logit" in self.ways else torch.sigmoid(chance)
        return chance, box if "box-as-logarithm" in self.ways else torch.exp(box)


@network
def tracker() -> Pair:
    """A siamese tracker: what is followed is a kernel on each channel of where it is looked for."""
    keras.backend.clear_session()
    template, search = layers.Input((6, 6, 3), name="template"), layers.Input((12, 12, 3), name="search")
    conv1, bn1 = layers.Conv2D(6, 3, name="conv1"), layers.BatchNormalization(name="bn1")
    relu, conv2 = layers.ReLU(name="relu1"), layers.Conv2D(6, 3, name="conv2")
    one, two = (conv2(relu(bn1(conv1(x)))) for x in (template, search))
    x = [two[:, i : i + 7, j : j + 7] * one[:, i : i + 1, j : j + 1] for i in (0, 1) for j in (0, 1)]
    x = layers.Conv2D(6, 1, activation="relu", name="join")(layers.Add(name="likeness")(x))
    chance = layers.Conv2D(1, 1, activation="sigmoid", name="chance")(x)
    model = keras.Model([template, search], [chance, ops.exp(layers.Conv2D(4, 1, name="box")(x))])
    fill(model)
    for name in ("conv2", "join", "box"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel / 2)
    inputs = {"template": fed(1023, 3, 6, 6, 3), "search": fed(1024, 3, 12, 12, 3)}
    return Pair(model, inputs, ported(model, Tracker), "NHWC->NCHW")


_LIKE = (
    "likeness conv2d* mul* multiply* add* get_item* flatten* reshape* unflatten* transpose* join flip* div* truediv*"
)
slip("tracker/bn-left-out", "conv1* bn1* relu*", "block-missing", "wiring bn-stats")
slip("tracker/template-turned-round", _LIKE, "kernel-flip", "axis-permutation block-extra wiring")
slip("tracker/first-template-for-all", _LIKE, "wiring operand-order", "groups")
slip("tracker/mean-of-the-products", _LIKE, "scale", "block-extra")
slip("tracker/joint-left-linear", "join relu*", "activation-missing", "block-missing")
slip("tracker/chance-as-logit", "chance sigmoid*", "logits activation-missing", "block-missing")
slip("tracker/box-as-logarithm", "box exp*", "activation-missing block-missing logits", "operation-kind")
defect("tracker/bn-eps-of-torch", "bn1 bn1#*", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("tracker", "likened-by-shifts")
control("tracker/norm-folded")(folded("conv1", "bn1"))
one_layer("tracker", "template-turned-round+mean-of-the-products")
neighbours("tracker", "joint-left-linear+box-as-logarithm")
