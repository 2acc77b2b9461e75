"""Pictures that are made or known again: twice the size, whose face it is, and a number."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    slip,
    unscaled,
    ways,
)
from benchmarks.corpus.mutations.twelfth.registry import left_on


class Upscale(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        shapes = {"feel": (1, 6, 5), "shrink": (6, 3, 1), "map": (3, 3, 3), "expand": (3, 6, 1)}
        for name, (given, wide, size) in shapes.items():
            self.add_module(name, nn.Conv2d(given, wide, size))
            self.add_module(f"{name}_prelu", nn.PReLU(wide))
        self.up = nn.ConvTranspose2d(6, 1, 9, stride=2)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, prelu = self.get_submodule(name), self.get_submodule(f"{name}_prelu")
        side = conv.kernel_size[0] // 2
        mirrored = name == "feel" and "edges-mirrored" in self.ways
        x = F.pad(x, (side,) * 4, mode="reflect" if mirrored else "constant")
        if name == "map" and "map-in-half" in self.ways:
            x = F.conv2d(x.bfloat16(), conv.weight.bfloat16(), conv.bias.bfloat16()).float()
        else:
            x = conv(x)
        if "slopes-left-out" in self.ways:
            return F.relu(x)
        return torch.where(x < 0, x * prelu.weight[:, None, None], x) if "slopes-by-where" in self.ways else prelu(x)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-as-torch-would" in self.ways:
            return F.conv_transpose2d(x, self.up.weight, self.up.bias, stride=2, padding=4, output_padding=1)
        if "raised-among-zeros" in self.ways:
            wide = x.new_zeros(*x.shape[:2], 12, 12)
            wide[:, :, ::2, ::2] = x
            return F.conv2d(F.pad(wide, (5, 3, 5, 3)), self.up.weight.transpose(0, 1).flip(2, 3), self.up.bias)
        return self.up(x)[:, :, 3:-4, 3:-4]

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        x = grey if "bytes-as-they-are" in self.ways else grey / 255
        for name in ("feel", "shrink", "map", "expand"):
            x = self.block(name, x)
        x = self.raised(x)
        return x if "not-cut-to-shares" in self.ways else x.clamp(0, 1)


@network
def upscale() -> Pair:
    """FSRCNN: a slope for each channel, features made few and many again, and a transposed kernel of nine."""
    keras.backend.clear_session()
    grey = layers.Input((6, 6, 1), name="grey")
    x = layers.Rescaling(1 / 255, name="rescaling")(grey)
    for name, wide, size in (("feel", 6, 5), ("shrink", 3, 1), ("map", 3, 3), ("expand", 6, 1)):
        x = layers.Conv2D(wide, size, padding="same", name=name)(x)
        x = layers.PReLU(shared_axes=[1, 2], name=f"{name}_prelu")(x)
    x = layers.Conv2DTranspose(1, 9, 2, padding="same", name="up")(x)
    model = keras.Model(grey, ops.clip(x, 0.0, 1.0))
    fill(model)
    grown(model, 3, "feel")
    return Pair(model, counted(1381, 256, 3, 6, 6, 1).astype("float32"), ported(model, Upscale), "NHWC->NCHW")


slip("upscale/edges-mirrored", "feel pad*", "pad-mode", "operation-kind")
slip("upscale/map-in-half", "map conv2d* to* float* bfloat16*", "dtype", "noise weights-perturbed")
slip("upscale/slopes-left-out", "*_prelu prelu* relu*", "activation-kind activation-param", "operation-kind")
slip("upscale/raised-as-torch-would", "up conv_transpose2d* get_item*", "transposed-conv-shift", "pad-asymmetry")
slip("upscale/bytes-as-they-are", "rescaling grey div* truediv* feel pad*", "input-scale scale block-missing")
slip("upscale/not-cut-to-shares", "clip* clamp* up get_item*", "activation-missing block-missing", "operation-kind")
defect("upscale/kernel-turned-round", "up conv_transpose2d*", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("up.weight", lambda weight: weight.flip(2, 3))
)
ways("upscale", "slopes-by-where", "raised-among-zeros")
one_layer("upscale", "raised-as-torch-would+kernel-turned-round")
neighbours("upscale", "slopes-left-out+map-in-half", "bytes-as-they-are+edges-mirrored")


# --- whose face ---------------------------------------------------------------------------------------------

_IDENTITY = {"stem": (3, 8, 3), "one": (8, 4, 1), "two1": (8, 3, 1), "two2": (3, 4, 3), "three1": (8, 3, 1),
             "three2": (3, 3, 3), "three3": (3, 4, 3)}  # fmt: skip


class Identity(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _IDENTITY.items():
            step, around = (2, 0) if name == "stem" else (1, size // 2)
            self.add_module(name, nn.Conv2d(given, wide, size, step, around, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.back, self.code, self.code_bn = (
            nn.Conv2d(12, 8, 1),
            nn.Linear(8, 6, bias=False),
            nn.BatchNorm1d(6, eps=1e-3),
        )

    def whitened(self, x: torch.Tensor) -> torch.Tensor:
        if "levelled-by-what-is-fixed" in self.ways:
            return (x - 127.5) / 128
        axes = (2, 3) if "each-colour-alone" in self.ways else (1, 2, 3)
        spread = x.std(axes, correction=int("std-of-torch" in self.ways), keepdim=True)
        return (x - x.mean(axes, keepdim=True)) / spread.clamp(min=300**-0.5)

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        if "functions-for-layers" in self.ways:
            x = F.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)
            return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps))
        return F.relu(norm(conv(x)))

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        x = self.conv("stem", self.whitened(face))
        found = [self.conv("one", x), self.conv("two2", self.conv("two1", x))]
        found.append(self.conv("three3", self.conv("three2", self.conv("three1", x))))
        y = self.back(torch.cat(found, dim=1))
        y = y if "branch-not-weighed" in self.ways else y * 0.5
        x = x + F.relu(y) if "bent-before-the-sum" in self.ways else F.relu(x + y)
        x = self.code_bn(self.code(x.mean((2, 3))))
        if "length-over-faces" in self.ways:
            return F.normalize(x, dim=0)
        return x / torch.linalg.vector_norm(x, dim=1, keepdim=True) if "length-by-hand" in self.ways else F.normalize(x)


@network
def identity() -> Pair:
    """FaceNet: each picture whitened by itself, a block whose branch is weighed down, and a code of length one."""
    keras.backend.clear_session()
    face = layers.Input((10, 10, 3), name="face")

    def conv(name: str, x: keras.KerasTensor, step: int = 1) -> keras.KerasTensor:
        _, wide, size = _IDENTITY[name]
        padding = "same" if step == 1 else "valid"
        x = layers.Conv2D(wide, size, step, padding=padding, use_bias=False, name=name)(x)
        x = layers.BatchNormalization(scale=False, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x)

    spread = ops.maximum(ops.std(face, axis=(1, 2, 3), keepdims=True), 300**-0.5)
    x = conv("stem", (face - ops.mean(face, axis=(1, 2, 3), keepdims=True)) / spread, 2)
    found = [conv("one", x), conv("two2", conv("two1", x)), conv("three3", conv("three2", conv("three1", x)))]
    y = layers.Conv2D(8, 1, name="back")(layers.Concatenate(name="branches")(found))
    y = layers.Rescaling(0.5, name="weighed")(y)
    x = layers.Activation("relu", name="sum_relu")(layers.Add(name="sum")([x, y]))
    x = layers.Dense(6, use_bias=False, name="code")(layers.GlobalAveragePooling2D(name="pool")(x))
    x = layers.UnitNormalization(name="unit")(layers.BatchNormalization(scale=False, name="code_bn")(x))
    model = keras.Model(face, x)
    fill(model)
    own = unscaled(**{f"{name}_bn": wide for name, (_, wide, _) in _IDENTITY.items()}, code_bn=6)
    return Pair(model, counted(1382, 256, 3, 10, 10, 3).astype("float32"), ported(model, Identity, own), "NHWC->NCHW")


_WHITE = "face mean* std* sub* div* truediv* maximum* clamp* subtract* divide* true_divide* stem"
_BRANCH = "weighed sum sum_relu relu* add* mul* back"
slip(
    "identity/levelled-by-what-is-fixed",
    _WHITE,
    "input-normalisation",
    "block-missing scale shift input-scale norm-axis",
)
slip("identity/each-colour-alone", _WHITE, "norm-axis input-normalisation", "wiring")
slip("identity/std-of-torch", _WHITE, "std-ddof", "scale input-normalisation")
slip("identity/branch-not-weighed", _BRANCH, "scale block-missing", "wiring weights-perturbed")
slip(
    "identity/bent-before-the-sum",
    _BRANCH,
    "residual-order wiring",
    "operand-order activation-missing activation-extra",
)
slip("identity/length-over-faces", "unit normalize* code_bn", "norm-axis", "axis-permutation wiring")
defect("identity/back-not-biased", "back", "bias-missing", "weights-not-loaded")(set_to("back", bias=None))
ways("identity", "length-by-hand", "functions-for-layers")
control("identity/all-folded")(each(*(folded(name, f"{name}_bn") for name in _IDENTITY), folded("code", "code_bn")))
one_layer("identity", "branch-not-weighed+bent-before-the-sum", "each-colour-alone+std-of-torch")
neighbours("identity", "branch-not-weighed+back-not-biased")


# --- a number -----------------------------------------------------------------------------------------------


class Digits(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.label, self.dense = nn.Embedding(11, 8), nn.Linear(8, 128, bias=False)
        self.dense_bn, self.up1_bn = nn.BatchNorm1d(128, eps=1e-3), nn.BatchNorm2d(8, eps=1e-3)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 8, 5, padding=2, bias=False), nn.ConvTranspose2d(8, 1, 5, stride=2)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2 if "slope-of-the-paper" in self.ways else 0.3)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        if "up-as-a-plain-kernel" in self.ways:
            return F.conv2d(x, self.up1.weight.transpose(0, 1), padding=2)
        if "up-as-a-turned-kernel" in self.ways:
            return F.conv2d(x, self.up1.weight.transpose(0, 1).flip(2, 3), padding=2)
        return self.up1(x)

    def forward(self, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = noise * self.label(label + 1 if "labels-from-one" in self.ways else label)[:, 0]
        x = self.leaky(self.dense_bn(self.dense(x)))
        by_view = "maps-by-a-view" in self.ways
        x = x.reshape(-1, 8, 4, 4) if by_view else x.reshape(-1, 4, 4, 8).permute(0, 3, 1, 2)
        x = self.leaky(self.up1_bn(self.first(x)))
        if "raised-as-torch-would" in self.ways:
            x = F.conv_transpose2d(x, self.up2.weight, self.up2.bias, stride=2, padding=2, output_padding=1)
        else:
            x = self.up2(x)[:, :, 1:-2, 1:-2]
        return torch.sigmoid(x) if "grey-from-zero" in self.ways else torch.tanh(x)


@network
def digits() -> Pair:
    """A conditional DCGAN as in TensorFlow's tutorial: noise times a label, kernels of five."""
    keras.backend.clear_session()
    noise, label = layers.Input((8,), name="noise"), layers.Input((1,), dtype="int32", name="label")
    x = layers.Multiply(name="mixed")([noise, layers.Flatten(name="row")(layers.Embedding(11, 8, name="kind")(label))])
    x = layers.BatchNormalization(name="dense_bn")(layers.Dense(128, use_bias=False, name="dense")(x))
    x = layers.Reshape((4, 4, 8), name="maps")(layers.LeakyReLU(name="leaky1")(x))
    x = layers.Conv2DTranspose(8, 5, padding="same", use_bias=False, name="up1")(x)
    x = layers.LeakyReLU(name="leaky2")(layers.BatchNormalization(name="up1_bn")(x))
    x = layers.Conv2DTranspose(1, 5, 2, padding="same", activation="tanh", name="up2")(x)
    model = keras.Model([noise, label], x)
    fill(model)
    inputs = {"noise": 2 * fed(1383, 4, 8), "label": counted(1384, 10, 4, 1)}
    port = ported(model, Digits, rename=lambda name: "label" if name == "kind" else name)
    return Pair(model, inputs, port, "NHWC->NCHW")


slip("digits/labels-from-one", "label kind row add* mixed mul*", "embedding-offset", "shift weights-perturbed")
slip("digits/slope-of-the-paper", "leaky? leaky_relu* dense_bn up1_bn", "activation-param")
slip("digits/maps-by-a-view", "maps reshape* permute* up1", "reshape-order", "wiring axis-permutation dense-row-order")
slip("digits/up-as-a-plain-kernel", "up1 conv_transpose2d* conv2d*", "kernel-flip",
     "weights-perturbed operation-kind axis-permutation")  # fmt: skip
slip("digits/raised-as-torch-would", "up2 conv_transpose2d* get_item*", "transposed-conv-shift", "pad-asymmetry")
slip("digits/grey-from-zero", "up2 tanh* sigmoid*", "activation-kind", "operation-kind")
defect("digits/statistics-not-loaded", "dense_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: port.dense_bn.reset_running_stats()
)
defect("digits/inputs-for-outputs", "up1", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("up1.weight", lambda weight: weight.transpose(0, 1))
)
defect("digits/norm-still-learns", "up1_bn", "bn-mode", "bn-stats norm-axis")(left_on("up1_bn"))
ways("digits", "up-as-a-turned-kernel")
one_layer("digits", "up-as-a-plain-kernel+norm-still-learns", "maps-by-a-view+slope-of-the-paper")
neighbours("digits", "statistics-not-loaded+inputs-for-outputs", "raised-as-torch-would+grey-from-zero")
