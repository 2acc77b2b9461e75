"""Ports to Keras: a mobile network, a U-Net, a generator. The network in PyTorch is right."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry_back, fill_torch
from benchmarks.corpus.mutations.fourth.registry import mistake, neighbours, network, one_layer, variant
from benchmarks.corpus.mutations.pairs import Pair


class Mobile(nn.Module):
    """Two inverted residuals as torchvision's MobileNetV3 has them, the first with a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), _norm(8)
        self.smooth = nn.AvgPool2d(3, stride=1, padding=1)
        self.expand1, self.expand1_bn = nn.Conv2d(8, 16, 1, bias=False), _norm(16)
        self.deep1, self.deep1_bn = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False), _norm(16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.project1, self.project1_bn = nn.Conv2d(16, 8, 1, bias=False), _norm(8)
        self.expand2, self.expand2_bn = nn.Conv2d(8, 16, 1, bias=False), _norm(16)
        self.deep2, self.deep2_bn = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False), _norm(16)
        self.project2, self.project2_bn = nn.Conv2d(16, 10, 1, bias=False), _norm(10)
        self.last, self.last_bn = nn.Conv2d(10, 24, 1, bias=False), _norm(24)
        self.hidden, self.drop, self.head = nn.Linear(24, 20), nn.Dropout(0.2), nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.smooth(F.hardswish(self.stem_bn(self.stem(x))))
        y = F.hardswish(self.expand1_bn(self.expand1(x)))
        y = F.hardswish(self.deep1_bn(self.deep1(y)))
        gate = F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))
        y = y * F.hardsigmoid(self.excite(gate))
        x = x + self.project1_bn(self.project1(y))
        y = F.relu(self.deep2_bn(self.deep2(F.relu(self.expand2_bn(self.expand2(x))))))
        x = F.hardswish(self.last_bn(self.last(self.project2_bn(self.project2(y)))))
        x = F.hardswish(self.hidden(x.mean((2, 3))))
        return self.head(self.drop(x))


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


def _hard_sigmoid_of_keras_2(x: Any) -> Any:
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def _mobile(**wrong: Any) -> Any:
    keras.backend.clear_session()
    eps, momentum = wrong.get("eps", 1e-3), wrong.get("momentum", 0.99)

    def norm(name: str, x: Any) -> Any:
        return layers.BatchNormalization(epsilon=eps, momentum=momentum, name=f"{name}_bn")(x)

    def point(width: int, name: str, x: Any) -> Any:
        return norm(name, layers.Conv2D(width, 1, use_bias=False, name=name)(x))

    def act(kind: str, name: str, x: Any) -> Any:
        return layers.Activation(kind, name=f"{name}_act")(x)

    def reduced(convolution: Any, name: str, x: Any) -> Any:
        if wrong.get(f"{name}_same"):
            convolution.padding = "same"
            return convolution(x)
        return convolution(layers.ZeroPadding2D(1, name=f"{name}_pad")(x))

    image = layers.Input((16, 16, 3), name="image")
    x = reduced(layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem"), "stem", image)
    x = act("hard_silu", "stem", norm("stem", x))
    if wrong.get("smooth_same"):
        x = layers.AveragePooling2D(3, strides=1, padding="same", name="smooth")(x)
    else:
        x = layers.AveragePooling2D(3, strides=1, name="smooth")(layers.ZeroPadding2D(1, name="smooth_pad")(x))
    y = act("hard_silu", "expand1", point(16, "expand1", x))
    y = layers.DepthwiseConv2D(5, padding="same", use_bias=False, name="deep1")(y)
    y = act("hard_silu", "deep1", norm("deep1", y))
    if wrong.get("flat_gate"):
        gate = layers.Reshape((1, 1, 16), name="gate")(layers.GlobalAveragePooling2D(name="mean")(y))
    else:
        gate = layers.GlobalAveragePooling2D(keepdims=True, name="mean")(y)
    gate = layers.Conv2D(8, 1, activation=wrong.get("squeeze", "relu"), name="squeeze")(gate)
    gate = layers.Conv2D(16, 1, activation=wrong.get("gate", "hard_sigmoid"), name="excite")(gate)
    y = point(8, "project1", layers.Multiply(name="times")([y, gate]))
    x = y if wrong.get("no_skip") else layers.Add(name="sum")([x, y])
    y = act("relu", "expand2", point(16, "expand2", x))
    y = reduced(layers.DepthwiseConv2D(3, strides=2, use_bias=False, name="deep2"), "deep2", y)
    y = point(10, "project2", act("relu", "deep2", norm("deep2", y)))
    x = act("hard_silu", "last", point(24, "last", y))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(20, activation=wrong.get("hidden", "hard_silu"), name="hidden")(x)
    return keras.Model(image, layers.Dense(5, name="head")(layers.Dropout(0.2, name="drop")(x)))


@network
def mobile() -> Pair:
    """A mobile network with a gate, hard swishes and depthwise convolutions."""
    model = Mobile().eval()
    fill_torch(model)
    model.stem_bn.running_var.mul_(0.1)  # type: ignore[operator]
    inputs = np.random.default_rng(31).standard_normal((2, 3, 16, 16)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _mobile(**wrong))
        if wrong.get("turned"):
            port.get_layer("deep2").kernel.assign(np.swapaxes(np.array(port.get_layer("deep2").kernel), 0, 1))
        if wrong.get("norms_exchanged"):
            one, two = (port.get_layer(name) for name in ("expand2_bn", "deep2_bn"))
            kept = one.get_weights()
            one.set_weights(two.get_weights())
            two.set_weights(kept)
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("mobile/stem-same", "stem stem_pad", "pad-asymmetry", "shift pad-mode block-missing", stem_same=True)
mistake("mobile/zeros-not-counted", "smooth smooth_pad", "pool-count-include-pad", "pad-mode block-missing",
        smooth_same=True)  # fmt: skip
mistake("mobile/deep-same", "deep2 deep2_pad", "pad-asymmetry", "shift pad-mode block-missing", deep2_same=True)
mistake(
    "mobile/deep-turned", "deep2", "kernel-layout", "axis-permutation weights-perturbed depthwise-order", turned=True
)
mistake("mobile/norm-eps-of-torch", "*_bn", "bn-eps", eps=1e-5)
mistake("mobile/momentum-as-is", "*_bn", "training-bn-momentum", latent=True, momentum=0.01)
mistake("mobile/gate-of-keras-2", "excite hardsigmoid times mul", "activation-kind activation-param", "operation-kind",
        gate=_hard_sigmoid_of_keras_2)  # fmt: skip
mistake("mobile/squeezed-by-silu", "squeeze relu excite", "activation-kind", "operation-kind", squeeze="silu")
mistake("mobile/shortcut-lost", "sum add project1_bn", "residual-missing", "block-missing wiring", no_skip=True)
mistake("mobile/norms-exchanged", "expand2_bn deep2_bn", "weights-swapped",
        "bn-stats weights-not-loaded weights-perturbed", norms_exchanged=True)  # fmt: skip
mistake("mobile/hidden-linear", "hidden hardswish_4 drop", "activation-missing", "block-missing", hidden=None)
variant("mobile/gate-from-a-vector", flat_gate=True)
one_layer("mobile", "deep-same+deep-turned", "gate-of-keras-2+squeezed-by-silu")
neighbours("mobile", "stem-same+zeros-not-counted")


# --- a U-Net ------------------------------------------------------------------------------------------------


class Double(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Mask(nn.Module):
    """A U-Net for pictures of any size: what was enlarged is padded to the skip's."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = Double(3, 6), Double(6, 8), Double(8, 8)
        self.pool, self.up1 = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.back1, self.up2 = Double(16, 6), nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.back2, self.out = Double(12, 6), nn.Conv2d(6, 2, 1)

    def join(self, skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        high, wide = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        return torch.cat([skip, F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.down1(x)
        two = self.down2(self.pool(one))
        x = self.back1(self.join(two, self.up1(self.middle(self.pool(two)))))
        return self.out(self.back2(self.join(one, self.up2(x))))


class _Corners(layers.Layer):  # type: ignore[misc]
    """Enlarged by two, corners on corners: a matrix along each axis."""

    def call(self, x: Any) -> Any:
        rows, columns = (_between(size) for size in x.shape[1:3])
        return ops.einsum("ih,jw,bhwc->bijc", rows, columns, x)


def _between(size: int) -> np.ndarray:
    places = np.linspace(0, size - 1, 2 * size)[:, None]
    return np.clip(1 - np.abs(places - np.arange(size)), 0, None).astype(np.float32)


def _mask(**wrong: Any) -> Any:
    keras.backend.clear_session()

    def double(width: int, name: str, x: Any, second: str | None = "relu") -> Any:
        for i, act in ((1, "relu"), (2, second)):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}.conv{i}")(x)
            x = layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name=f"{name}.bn{i}")(x)
            if act:
                x = layers.Activation(act, name=f"{name}.relu{i}")(x)
        return x

    def join(name: str, skip: Any, x: Any) -> Any:
        return layers.Concatenate(name=name)([x, skip] if wrong.get("skip_behind") else [skip, x])

    pool = layers.AveragePooling2D if wrong.get("average") else layers.MaxPooling2D
    image = layers.Input((10, 14, 3), name="image")
    one = double(6, "down1", image)
    two = double(8, "down2", layers.MaxPooling2D(2, name="pool1")(one))
    x = double(8, "middle", pool(2, name="pool2")(two), wrong.get("middle", "relu"))
    if "upsampling" in wrong:
        x = layers.UpSampling2D(2, interpolation=wrong["upsampling"], name="up1")(x)
    else:
        x = _Corners(name="up1")(x)
    front = wrong.get("front", 0)
    x = layers.ZeroPadding2D(((front, 1 - front), (front, 1 - front)), name="fit")(x)
    x = double(6, "back1", join("join1", two, x))
    x = layers.Conv2DTranspose(6, 2, strides=2, padding=wrong.get("up2", "valid"), name="up2")(x)
    x = double(6, "back2", join("join2", one, x))
    x = layers.Conv2D(2, 1, use_bias=not wrong.get("no_bias"), activation=wrong.get("out"), name="out")(x)
    return keras.Model(image, x)


@network
def mask() -> Pair:
    """Two sizes below the picture's, one enlarged between its corners, one by a transposed convolution."""
    model = Mask().eval()
    fill_torch(model)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.mul_(0.2)
    inputs = np.random.default_rng(32).standard_normal((2, 3, 10, 14)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _mask(**wrong))
        kernel = port.get_layer("up2").kernel
        if wrong.get("unturned"):
            kernel.assign(np.swapaxes(np.array(kernel), 2, 3))
        if wrong.get("flipped"):
            kernel.assign(np.array(kernel)[::-1, ::-1])
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("mask/upsampling-of-keras", "up1 upsample", "resize-align-corners", "resize-mode operation-kind",
        upsampling="bilinear")  # fmt: skip
mistake("mask/upsampling-default", "up1 upsample", "resize-mode", "resize-align-corners operation-kind",
        upsampling="nearest")  # fmt: skip
mistake("mask/fitted-in-front", "fit pad join1 cat up1", "pad-asymmetry", "shift pad-mode", front=1)
mistake("mask/skip-behind", "join1 join2 cat cat_1 back1?conv1 back2?conv1", "concat-order",
        "channel-order axis-permutation operand-order", skip_behind=True)  # fmt: skip
mistake("mask/relu-forgotten", "middle.relu2 middle.bn2 middle.relu_1", "activation-missing", "block-missing",
        middle=None)  # fmt: skip
mistake("mask/pool-average", "pool2 pool#1", "pool-kind", "operation-kind", average=True)
mistake("mask/transposed-unturned", "up2", "kernel-layout", "dense-transpose axis-permutation weights-perturbed",
        unturned=True)  # fmt: skip
mistake("mask/transposed-flipped", "up2", "kernel-flip", "kernel-layout weights-perturbed", flipped=True)
mistake("mask/sigmoid-in-the-network", "out", "logits activation-extra", "block-extra", out="sigmoid")
mistake("mask/out-without-bias", "out", "bias-missing", "weights-perturbed", no_bias=True)
variant("mask/transposed-same", up2="same")
one_layer("mask", "transposed-unturned+transposed-flipped")
neighbours("mask", "upsampling-of-keras+fitted-in-front")


# --- a generator --------------------------------------------------------------------------------------------


class Generate(nn.Module):
    """From a code to a picture, features of every pixel brought to one length."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 54)
        self.conv, self.conv_scale = nn.Conv2d(6, 6, 3, padding=1), 0.6
        self.wide = nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1, bias=False)
        self.wide_bn = nn.BatchNorm2d(5)
        self.fine = nn.ConvTranspose2d(5, 4, 3, stride=2, padding=1, output_padding=1)
        self.colours = nn.Conv2d(4, 3, 1)

    def unit(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        x = self.dense(self.unit(code)).view(-1, 6, 3, 3)
        x = self.unit(F.leaky_relu(x, 0.2))
        x = F.conv2d(F.interpolate(x, scale_factor=2), self.conv.weight * self.conv_scale, self.conv.bias, padding=1)
        x = self.unit(F.leaky_relu(x, 0.2))
        x = F.leaky_relu(self.wide_bn(self.wide(x)), 0.2)
        return torch.tanh(self.colours(F.leaky_relu(self.fine(x), 0.2)))


class _Unit(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str, axis: Any = -1, total: bool = False) -> None:
        super().__init__(name=name)
        self.axis, self.total = axis, total

    def call(self, x: Any) -> Any:
        squares = (ops.sum if self.total else ops.mean)(ops.square(x), axis=self.axis, keepdims=True)
        return x * ops.rsqrt(squares + 1e-8)


class Conv2DScaled(layers.Conv2D):  # type: ignore[misc]
    """With the factor of an equalised learning rate on its kernel."""

    def __init__(self, factor: float, **own: Any) -> None:
        super().__init__(6, 3, padding="same", **own)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return ops.conv(x, self.kernel * self.factor, padding="same") + self.bias


class _OfTheBatch(layers.BatchNormalization):  # type: ignore[misc]
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=True)


def _generate(**wrong: Any) -> Any:
    keras.backend.clear_session()
    slope = wrong.get("slope", 0.2)
    code = layers.Input((8,), name="code")
    x = layers.Dense(54, name="dense")(code if wrong.get("any_code") else _Unit("unit0")(code))
    if wrong.get("maps_last"):
        x = layers.Reshape((3, 3, 6), name="maps")(x)
    else:
        x = layers.Permute((2, 3, 1), name="turn")(layers.Reshape((6, 3, 3), name="maps")(x))
    x = _Unit("unit1", total=wrong.get("total", False))(layers.LeakyReLU(slope, name="act1")(x))
    if wrong.get("repeated"):
        x = ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
    else:
        x = layers.UpSampling2D(2, interpolation=wrong.get("smooth", "nearest"), name="enlarge")(x)
    if wrong.get("folded"):
        x = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    else:
        x = Conv2DScaled(wrong.get("factor", 0.6), name="conv")(x)
    x = _Unit("unit2", axis=wrong.get("axis", -1))(layers.LeakyReLU(slope, name="act2")(x))
    x = layers.Conv2DTranspose(5, 4, strides=2, padding="same", use_bias=False, name="wide")(x)
    norm = _OfTheBatch if wrong.get("bn_training") else layers.BatchNormalization
    x = norm(epsilon=1e-5, momentum=0.9, name="wide_bn")(x)
    x = x if wrong.get("act3_lost") else layers.LeakyReLU(slope, name="act3")(x)
    if wrong.get("fine_same"):
        x = layers.Conv2DTranspose(4, 3, strides=2, padding="same", name="fine")(x)
    else:
        x = layers.Conv2DTranspose(4, 3, strides=2, name="fine")(x)
        x = layers.Cropping2D(((1, 0), (1, 0)), name="crop")(x)
    x = layers.LeakyReLU(slope, name="act4")(x)
    return keras.Model(code, layers.Conv2D(3, 1, activation=wrong.get("out", "tanh"), name="colours")(x))


@network
def generate() -> Pair:
    """A progressive generator: pixel norms, scaled weights, two transposed convolutions."""
    model = Generate().eval()
    fill_torch(model)
    inputs = np.random.default_rng(33).standard_normal((3, 8)).astype(np.float32)

    def make(**wrong: Any) -> Any:
        port = carry_back(model, _generate(**wrong))
        if wrong.get("folded"):
            port.get_layer("conv").kernel.assign(np.array(port.get_layer("conv").kernel) * model.conv_scale)
        if wrong.get("flipped"):
            port.get_layer("fine").kernel.assign(np.array(port.get_layer("fine").kernel)[::-1, ::-1])
        return port

    return Pair(model, inputs, make, "NCHW->NHWC")


mistake("generate/any-code", "unit0 square mean add rsqrt mul dense", "block-missing input-normalisation",
        "scale norm-axis", any_code=True)  # fmt: skip
mistake("generate/maps-last", "maps turn view dense", "reshape-order flatten-order", "axis-permutation dense-row-order",
        maps_last=True)  # fmt: skip
mistake("generate/slope-of-keras", "act? leaky_relu*", "activation-param", "activation-kind", slope=0.3)
mistake("generate/length-of-the-sum", "unit1* square_1 mean_1 rsqrt_1 mul_1 add_1", "scale norm-axis",
        "operation-kind pool-kind", total=True)  # fmt: skip
mistake("generate/length-of-the-map", "unit2* square_2 mean_2 rsqrt_2 mul_2 mul_3 add_2", "norm-axis",
        "operation-kind pool-kind", axis=(1, 2))  # fmt: skip
mistake("generate/enlarged-smoothly", "enlarge interpolate", "resize-mode", "operation-kind", smooth="bilinear")
mistake("generate/unscaled", "conv mul_2 conv2d", "scale weights-perturbed", "block-missing", factor=1.0)
mistake("generate/norm-in-training", "wide_bn", "bn-mode", "bn-stats", bn_training=True)
mistake("generate/act-forgotten", "act3 wide_bn leaky_relu_2", "activation-missing", "block-missing", act3_lost=True)
mistake("generate/fine-same", "fine crop", "transposed-conv-shift", "shift block-missing pad-asymmetry", fine_same=True)
mistake("generate/fine-flipped", "fine", "kernel-flip", "kernel-layout weights-perturbed", flipped=True)
mistake("generate/sigmoid-for-tanh", "colours tanh", "activation-kind", "operation-kind logits", out="sigmoid")
variant("generate/scale-in-the-weights", folded=True)
variant("generate/pixels-repeated", repeated=True)
one_layer("generate", "fine-same+fine-flipped")
neighbours("generate", "norm-in-training+act-forgotten")
