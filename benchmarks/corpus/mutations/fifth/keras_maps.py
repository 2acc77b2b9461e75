"""Ports to Keras: a U-Net whose skips pass gates, and a network that joins all it has found."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.fifth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair


class Twice(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, padding=1), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, padding=1), nn.BatchNorm2d(outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Attend(nn.Module):
    """What of a skip passes, as what lies deeper asks for it."""

    def __init__(self, deep: int, skip: int) -> None:
        super().__init__()
        self.ask, self.ask_bn = nn.Conv2d(deep, 6, 1), nn.BatchNorm2d(6)
        self.look, self.look_bn = nn.Conv2d(skip, 6, 1), nn.BatchNorm2d(6)
        self.psi, self.psi_bn = nn.Conv2d(6, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.ask_bn(self.ask(x)) + self.look_bn(self.look(skip)))
        return skip * torch.sigmoid(self.psi_bn(self.psi(y)))


class Organ(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(1, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
        self.down, self.middle = Twice(6, 8), Twice(8, 10)
        self.up1, self.up2 = nn.Conv2d(10, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.gate1, self.gate2 = Attend(8, 8), Attend(6, 6)
        self.back1, self.back2, self.out = Twice(16, 8), Twice(12, 6), nn.Conv2d(6, 1, 1)

    def forward(self, scan: torch.Tensor) -> torch.Tensor:
        one = F.relu(self.first_bn(self.first(scan)))
        two = self.down(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = F.relu(self.up1(F.interpolate(x, scale_factor=2)))
        x = self.back1(torch.cat([self.gate1(x, two), x], dim=1))
        x = F.relu(self.up2(F.interpolate(x, scale_factor=2)))
        x = self.back2(torch.cat([self.gate2(x, one), x], dim=1))
        return torch.sigmoid(self.out(x))


def _organ(**wrong: Any) -> Any:
    keras.backend.clear_session()
    eps = wrong.get("eps", 1e-5)

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=eps, momentum=0.9, name=name)(x)

    def act(x: Any, name: str) -> Any:
        return layers.Activation("relu", name=name)(x)

    def twice(x: Any, width: int, name: str) -> Any:
        for i in (1, 2):
            x = layers.Conv2D(width, 3, padding="same", name=f"{name}.conv{i}")(x)
            x = act(norm(x, f"{name}.bn{i}"), f"{name}.relu{i}")
        return x

    def gated(x: Any, skip: Any, name: str) -> Any:
        if wrong.get("ungated") == name:
            return skip
        ask = norm(layers.Conv2D(6, 1, name=f"{name}.ask")(x), f"{name}.ask_bn")
        look = norm(layers.Conv2D(6, 1, name=f"{name}.look")(skip), f"{name}.look_bn")
        y = layers.Add(name=f"{name}.sum")([ask, look])
        y = y if wrong.get("sum_linear") == name else act(y, f"{name}.relu")
        y = norm(layers.Conv2D(1, 1, name=f"{name}.psi")(y), f"{name}.psi_bn")
        y = layers.Activation(wrong.get("psi", "sigmoid"), name=f"{name}.share")(y)
        passed = x if wrong.get("deeper_gated") == name else skip
        return layers.Multiply(name=f"{name}.times")([passed, y])

    def up(x: Any, skip: Any, width: int, i: int) -> Any:
        if wrong.get("repeated"):
            x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
        else:
            x = layers.UpSampling2D(2, interpolation=wrong.get(f"up{i}", "nearest"), name=f"enlarge{i}")(x)
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"up{i}")(x)
        both = [gated(x, skip, f"gate{i}"), x]
        x = layers.Concatenate(name=f"join{i}")(both[::-1] if wrong.get("deep_first") == i else both)
        return twice(x, width, f"back{i}")

    scan = layers.Input((16, 12, 1), name="scan")
    if wrong.get("same"):
        x = layers.Conv2D(6, 3, padding="same", name="first")(scan)
    else:
        x = ops.pad(scan, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=wrong.get("mirror", "reflect"))
        x = layers.Conv2D(6, 3, name="first")(x)
    x = norm(x, "first_bn")
    one = act(x, "first_act")
    two = twice(layers.MaxPooling2D(2, name="pool1")(one), 8, "down")
    pool = layers.AveragePooling2D if wrong.get("average") else layers.MaxPooling2D
    x = twice(pool(2, name="pool2")(two), 10, "middle")
    x = up(up(x, two, 8, 1), one, 6, 2)
    return keras.Model(scan, layers.Conv2D(1, 1, activation=wrong.get("out", "sigmoid"), name="out")(x))


@network
def organ() -> Pair:
    """An attention U-Net, enlarged by repetition before its convolutions; the first mirrors its edges."""
    model = Organ().eval()
    fill_torch(model)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.mul_(0.05 if name.startswith("middle.bn1") else 0.5)
    model.out.weight.data *= 0.4
    inputs = np.random.default_rng(53).standard_normal((2, 1, 16, 12)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _organ(**wrong))
        if wrong.get("psi_left"):
            for name in ("gate1.psi_bn", "gate2.psi_bn"):
                norm = port.get_layer(name)
                norm.set_weights([np.ones(1), np.zeros(1), np.zeros(1), np.ones(1)])
        if wrong.get("swapped"):
            norm = port.get_layer("middle.bn2")
            gamma, beta, *rest = norm.get_weights()
            norm.set_weights([beta, gamma, *rest])
        if wrong.get("exchanged"):
            one, two = port.get_layer("gate2.ask"), port.get_layer("gate2.look")
            kept = one.get_weights()
            one.set_weights(two.get_weights())
            two.set_weights(kept)
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("organ/edges-of-zeros", "first pad", "pad-mode", same=True)
mistake("organ/edges-doubled", "first pad", "pad-mode", "shift", mirror="symmetric")
mistake("organ/enlarged-smoothly", "enlarge1 interpolate", "resize-mode", "operation-kind", up1="bilinear")
mistake("organ/pool-of-means", "pool2 max_pool2d_1", "pool-kind", average=True)
mistake("organ/skip-ungated", "gate2 gate2.* join2 cat_1", "block-missing", "wiring", ungated="gate2")
mistake("organ/gate-for-the-deeper", "gate1.times gate1.mul", "residual-order wiring",
        "operand-order operation-kind", deeper_gated="gate1")  # fmt: skip
mistake("organ/gate-linear", "gate1.relu gate1.sum gate1.add gate1.psi", "activation-missing", "block-missing",
        sum_linear="gate1")  # fmt: skip
mistake("organ/gate-rectified", "gate?.share gate?.sigmoid gate?.times gate?.mul", "activation-kind", psi="relu")
mistake("organ/deeper-first", "join1 cat back1.conv1", "concat-order", "operand-order", deep_first=1)
mistake("organ/norm-eps-of-keras", "*bn*", "bn-eps", eps=1e-3)
mistake("organ/small-norms-left", "gate?.psi_bn", "bn-stats", "weights-not-loaded weights-perturbed", psi_left=True)
mistake("organ/gain-for-shift", "middle.bn2", "bn-swapped", "weights-swapped weights-perturbed", swapped=True)
mistake("organ/ask-for-look", "gate2.ask gate2.look", "weights-swapped", "weights-perturbed operand-order wiring",
        exchanged=True)  # fmt: skip
mistake("organ/no-shares", "out sigmoid", "logits activation-missing", "block-missing", out=None)
variant("organ/pixels-repeated", repeated=True)
one_layer("organ", "small-norms-left+norm-eps-of-keras")
neighbours("organ", "enlarged-smoothly+deeper-first", "edges-of-zeros+norm-eps-of-keras", "gate-linear+gate-rectified")


# --- all that was found ---------------------------------------------------------------------------------------


class Grow(nn.Module):
    """Norm and rectifier before each convolution; what is new is joined to what was."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inner), nn.Conv2d(inner, 12, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(12), nn.Conv2d(12, 4, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([x, y], dim=1)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.grow1, self.grow2 = Grow(8), Grow(12)
        self.less_bn, self.less, self.smaller = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2)
        self.grow3, self.last_bn, self.head = Grow(8), nn.BatchNorm2d(12), nn.Linear(12, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.stem_bn(self.stem(image))))
        x = self.grow2(self.grow1(x))
        x = F.relu(self.last_bn(self.grow3(self.smaller(self.less(F.relu(self.less_bn(x)))))))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _dense(**wrong: Any) -> Any:
    keras.backend.clear_session()

    def norm(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=wrong.get("eps", 1e-5), momentum=0.9, name=name)(x)

    def act(x: Any, name: str) -> Any:
        return x if wrong.get("act_lost") == name else layers.ReLU(name=name)(x)

    def grow(x: Any, name: str) -> Any:
        y = act(norm(x, f"{name}.bn1"), f"{name}.relu1")
        y = layers.Conv2D(12, 1, use_bias=False, name=f"{name}.conv1")(y)
        y = act(norm(y, f"{name}.bn2"), f"{name}.relu2")
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"{name}.conv2")(y)
        both = [y, x] if wrong.get("new_first") == name else [x, y]
        return layers.Concatenate(name=f"{name}.join")(both)

    def reduced(x: Any, pad: int, name: str, layer: Any) -> Any:
        if wrong.get(f"{name}_same"):
            layer.padding = "same"
            return layer(x)
        return layer(layers.ZeroPadding2D(pad, name=f"{name}_pad")(x))

    image = layers.Input((20, 28, 3), name="image")
    x = image[..., ::-1] if wrong.get("blue_first") else image
    x = reduced(x, 2, "stem", layers.Conv2D(8, 5, strides=2, use_bias=False, name="stem"))
    x = act(norm(x, "stem_bn"), "stem_act")
    x = reduced(x, 1, "pool", layers.MaxPooling2D(3, strides=2, name="pool"))
    x = grow(grow(x, "grow1"), "grow2")
    x = act(norm(x, "less_bn"), "less_act")
    x = layers.Conv2D(8, 1, use_bias=False, name="less")(x)
    smaller = layers.MaxPooling2D if wrong.get("largest") else layers.AveragePooling2D
    x = smaller(2, padding=wrong.get("smaller", "valid"), name="smaller")(x)
    x = grow(x, "grow3")
    x = x if wrong.get("last_lost") else norm(x, "last_bn")
    x = act(x, "last_act")
    if wrong.get("sums"):
        x = ops.sum(x, axis=(1, 2))
    elif wrong.get("by_hand"):
        x = ops.mean(x, axis=(1, 2))
    else:
        x = layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, layers.Dense(4, name="head")(x))


@network
def dense() -> Pair:
    """A DenseNet of three layers and a transition, as torchvision has it."""
    model = Dense().eval()
    fill_torch(model)
    for norm in (model.stem_bn, model.grow2.bn2, model.last_bn):
        norm.running_var.mul_(0.1)  # type: ignore[operator]
    inputs = np.random.default_rng(54).standard_normal((2, 3, 20, 28)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _dense(**wrong))
        if wrong.get("conv_left"):
            kernel = port.get_layer("grow2.conv2").kernel
            kernel.assign(np.random.default_rng(1).normal(0, 0.1, kernel.shape))
        if wrong.get("turned"):
            kernel = port.get_layer("grow1.conv2").kernel
            kernel.assign(np.swapaxes(np.array(kernel), 0, 1))
        if wrong.get("from_one"):
            one, two = port.get_layer("grow3.bn2"), port.get_layer("grow2.bn2")
            one.set_weights(two.get_weights())
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("dense/stem-same", "stem stem_pad", "pad-asymmetry", "block-missing pad-mode", stem_same=True)
mistake("dense/pool-same", "pool pool_pad", "pad-asymmetry", "block-missing pad-mode pool-kind", pool_same=True)
mistake("dense/smaller-with-the-rest", "smaller", "pool-ceil-mode pad-mode", "pad-asymmetry pool-kind", smaller="same")
mistake("dense/smaller-of-largest", "smaller", "pool-kind", largest=True)
mistake("dense/new-first", "grow2.join grow2.cat less_bn", "concat-order", "operand-order", new_first="grow2")
mistake("dense/blue-first", "stem stem_pad get_item* image", "channel-order", "weights-swapped kernel-layout",
        blue_first=True)  # fmt: skip
mistake("dense/last-act-lost", "last_act last_bn relu_2 mean adaptive_avg_pool2d flatten", "activation-missing",
        "block-missing", act_lost="last_act")  # fmt: skip
mistake("dense/last-norm-lost", "last_bn last_act relu_2", "block-missing", "bn-stats", last_lost=True)
mistake("dense/second-act-lost", "grow1.relu2 grow1.relu_1 grow1.bn2 grow1.conv2", "activation-missing",
        "block-missing", act_lost="grow1.relu2")  # fmt: skip
mistake("dense/norm-eps-of-keras", "*bn*", "bn-eps", eps=1e-3)
mistake("dense/kernel-turned", "grow1.conv2", "kernel-layout", "axis-permutation weights-perturbed", turned=True)
mistake("dense/convolution-left", "grow2.conv2", "weights-not-loaded", "weights-perturbed", conv_left=True)
mistake("dense/norm-of-another-layer", "grow3.bn2", "weights-swapped weights-not-loaded bn-stats", "weights-perturbed",
        from_one=True)  # fmt: skip
mistake("dense/sums-for-means", "mean sum adaptive_avg_pool2d flatten head", "pool-kind scale", "operation-kind",
        sums=True)  # fmt: skip
variant("dense/mean-by-hand", by_hand=True)
one_layer("dense", "stem-same+blue-first", "smaller-with-the-rest+smaller-of-largest")
neighbours("dense", "stem-same+pool-same", "last-norm-lost+sums-for-means")
