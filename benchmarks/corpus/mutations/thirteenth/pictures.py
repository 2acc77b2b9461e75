"""Pictures: whose face it is, a small network of the second kind of EfficientNet, and a person cut out."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, ported, rewritten, set_to
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.twelfth.registry import left_on

_MEANS, _SPREADS = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_FACES, _PHOTOS = np.float32([93.594, 104.7624, 129.1863]), np.float32([103.939, 116.779, 123.68])


class Kin(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(a, b, 3) for a, b in ((3, 4), (4, 6), (6, 8)))
        self.fc6, self.fc7, self.drop = nn.Conv2d(8, 10, 3), nn.Conv2d(10, 10, 1), nn.Dropout(0.5)

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.fc6.weight
        if "rows-of-keras" in self.ways:
            x = F.linear(x.flatten(1), weight.permute(0, 2, 3, 1).flatten(1), self.fc6.bias)
        elif "dense-in-place-of-a-kernel" in self.ways:
            x = F.linear(x.flatten(1), weight.flatten(1), self.fc6.bias)
        else:
            return self.fc6(x)
        return x[:, :, None, None]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means = torch.from_numpy(_PHOTOS if "means-of-photos" in self.ways else _FACES)[:, None, None]
        x = (image if "red-first" in self.ways else image.flip(1)) - means
        for i, conv in enumerate((self.conv1, self.conv2, self.conv3)):
            x = F.pad(x, (1, 1, 1, 1), mode="replicate" if "edges-repeated" in self.ways else "constant")
            x = F.relu(conv(x))
            x = F.max_pool2d(x, 2) if i else x
        x = self.fc7(self.drop(F.relu(self.dense(x)))).flatten(1)
        x = F.relu(x) if "descriptor-rectified" in self.ways else x
        if "length-by-hand" in self.ways:
            return x * torch.rsqrt((x * x).sum(1, keepdim=True))
        return x if "length-left-as-it-is" in self.ways else F.normalize(x)


@network
def kin() -> Pair:
    """VGG-Face's descriptor: blue first, zeros put around, dense layers as kernels, and a length of one."""
    keras.backend.clear_session()
    image = layers.Input((14, 14, 3), name="image")
    x = image[..., ::-1] - _FACES
    for i, wide in ((1, 4), (2, 6), (3, 8)):
        x = layers.ZeroPadding2D(1, name=f"pad{i}")(x)
        x = layers.Conv2D(wide, 3, activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x) if i > 1 else x
    x = layers.Conv2D(10, 3, activation="relu", name="fc6")(x)
    x = layers.Conv2D(10, 1, name="fc7")(layers.Dropout(0.5, name="drop")(x))
    x = layers.UnitNormalization(name="unit")(layers.Flatten(name="flatten")(x))
    model = keras.Model(image, x)
    fill(model)
    return Pair(model, counted(1311, 256, 3, 14, 14, 3).astype("float32"), ported(model, Kin), "NHWC->NCHW")


_ENTER = "image get_item* flip* sub* pad1 pad* conv1"
slip("kin/red-first", _ENTER, "channel-order", "axis-permutation kernel-layout input-normalisation")
slip("kin/means-of-photos", _ENTER, "input-normalisation", "shift weights-perturbed")
slip("kin/edges-repeated", "pad? pad* conv?", "pad-mode", "operation-kind")
slip("kin/rows-of-keras", "fc6 flatten* linear*", "dense-row-order flatten-order kernel-layout",
     "weights-perturbed axis-permutation")  # fmt: skip
slip("kin/descriptor-rectified", "fc7 flatten* relu* unit normalize*", "activation-extra", "block-extra")
slip("kin/length-left-as-it-is", "unit flatten* normalize*", "block-missing", "scale norm-axis")
defect("kin/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("kin/fc7-as-it-lies", "fc7", "kernel-layout dense-transpose", "weights-perturbed axis-permutation")(
    rewritten("fc7.weight", lambda weight: weight.transpose(0, 1))
)
ways("kin", "dense-in-place-of-a-kernel", "length-by-hand")
one_layer("kin", "red-first+means-of-photos", "fc7-as-it-lies+descriptor-rectified")
neighbours("kin", "rows-of-keras+dropout-still-on", "red-first+edges-repeated")


# --- the second EfficientNet --------------------------------------------------------------------------------


class Fused(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        shapes = {"stem": (3, 6, 3), "widen": (6, 12, 3), "narrow": (12, 8, 1), "single": (8, 8, 3),
                  "expand": (8, 16, 1), "project": (16, 8, 1), "top": (8, 10, 1)}  # fmt: skip
        for name, (given, wide, size) in shapes.items():
            step = 2 if name in ("stem", "widen") else 1
            self.add_module(name, nn.Conv2d(given, wide, size, step, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.deep, self.deep_bn = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16, eps=1e-3)
        self.squeeze, self.excite, self.head = nn.Conv2d(16, 2, 1), nn.Conv2d(2, 16, 1), nn.Linear(10, 4)

    def block(self, name: str, x: torch.Tensor, bent: bool = True) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        if conv.kernel_size[0] == 3:
            even = conv.stride == (1, 1) or "padded-evenly" in self.ways
            x = F.pad(x, (1, 1, 1, 1) if even else (0, 1, 0, 1))
        x = norm(conv(x))
        if not bent:
            return x
        return x * torch.sigmoid(x) if "swish-by-hand" in self.ways else F.silu(x)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        x = self.excite(F.silu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return F.hardsigmoid(x) if "gate-by-lines" in self.ways else torch.sigmoid(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image / 127.5 - 1 if "levelled-by-half" in self.ways else image / 128 - 1
        x = self.block("widen", self.block("stem", x))
        x = self.block("narrow", x, bent=False)
        y = self.block("single", x, bent="single-left-linear" not in self.ways)
        x = y if "first-skip-forgotten" in self.ways else x + y
        y = self.block("deep", self.block("expand", x))
        y = self.block("project", y * self.gate(y), bent=False)
        x = x + (0.8 * y if "branch-weighed-as-if-it-were-dropped" in self.ways else y)
        return self.head(self.block("top", x).mean((2, 3)))


@network
def fused() -> Pair:
    """EfficientNetV2: two blocks with one kernel in place of two, of which one has a bend, and one with a gate."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")

    def block(x: keras.KerasTensor, name: str, wide: int, size: int = 1, step: int = 1, bent: bool = True) -> object:
        own = {"strides": step, "padding": "same", "use_bias": False, "name": name}
        x = layers.DepthwiseConv2D(size, **own)(x) if name == "deep" else layers.Conv2D(wide, size, **own)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.Activation("swish", name=f"{name}_swish")(x) if bent else x

    x = layers.Rescaling(1 / 128, offset=-1, name="rescaling")(image)
    x = block(block(x, "stem", 6, 3, 2), "widen", 12, 3, 2)
    x = block(x, "narrow", 8, bent=False)
    y = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), name="single_drop")(block(x, "single", 8, 3))
    x = layers.Add(name="sum1")([x, y])
    y = block(block(x, "expand", 16), "deep", 16, 3)
    z = layers.Reshape((1, 1, 16), name="row")(layers.GlobalAveragePooling2D(name="squeeze_pool")(y))
    z = layers.Conv2D(16, 1, activation="sigmoid", name="excite")(
        layers.Conv2D(2, 1, activation="swish", name="squeeze")(z)
    )
    y = block(layers.Multiply(name="gated")([y, z]), "project", 8, bent=False)
    y = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1), name="project_drop")(y)
    x = block(layers.Add(name="sum2")([x, y]), "top", 10)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    grown(model, 3, "excite")
    return Pair(model, counted(1312, 256, 3, 16, 16, 3).astype("float32"), ported(model, Fused), "NHWC->NCHW")


slip("fused/levelled-by-half", "rescaling image div* truediv* sub* pad* stem", "input-scale input-normalisation")
slip("fused/padded-evenly", "stem widen pad* conv2d*", "pad-asymmetry", "shift")
slip("fused/single-left-linear", "single single_* silu* sum1 add*", "activation-missing", "block-missing")
slip("fused/first-skip-forgotten", "sum1 add* single single_*", "residual-missing", "wiring block-missing")
slip("fused/gate-by-lines", "excite sigmoid* hardsigmoid* gated mul*", "activation-kind", "operation-kind")
slip("fused/branch-weighed-as-if-it-were-dropped", "project project_* sum2 mul* rmul* __rmul__* add*", "scale",
     "block-extra weights-perturbed bn-stats dropout-mode")  # fmt: skip
defect("fused/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("fused/gains-for-shifts", "top_bn", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("top_bn", weight=port.top_bn.bias, bias=port.top_bn.weight)(port)
)
ways("fused", "swish-by-hand")
control("fused/points-folded")(each(*(folded(name, f"{name}_bn") for name in ("narrow", "expand", "project", "top"))))
one_layer("fused", "first-skip-forgotten+single-left-linear", "levelled-by-half+padded-evenly")
neighbours("fused", "gate-by-lines+branch-weighed-as-if-it-were-dropped")


# --- a person -----------------------------------------------------------------------------------------------


class Selfie(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.expand = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.Conv2d(6, 12, 1, bias=False)
        self.deep1 = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.deep2 = nn.Conv2d(12, 12, 3, stride=2, groups=12, bias=False)
        self.project1, self.project2 = nn.Conv2d(6, 6, 1, bias=False), nn.Conv2d(12, 8, 1, bias=False)
        for name, wide in {"stem": 6, "deep1": 6, "project1": 6, "expand": 12, "deep2": 12, "project2": 8}.items():
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.up, self.up_bn = nn.ConvTranspose2d(8, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.mask = nn.ConvTranspose2d(18, 3, 3, stride=2)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "clipped-by-hand" in self.ways:
            return x.clamp(0, 6)
        return F.relu(x) if "bends-without-an-end" in self.ways else F.relu6(x)

    def raised(self, up: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        if "raised-as-torch-would" in self.ways:
            return F.conv_transpose2d(x, up.weight, up.bias, stride=2, padding=1, output_padding=1)
        return up(x)[:, :, :-1, :-1]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        around = (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1)
        if "levelled-as-in-torchvision" in self.ways:
            image = image / 255
            image = (image - image.new_tensor(_MEANS)[:, None, None]) / image.new_tensor(_SPREADS)[:, None, None]
        else:
            image = image / 127.5 - 1
        x = self.bend(self.stem_bn(self.stem(F.pad(image, around))))
        x = self.project1_bn(self.project1(self.bend(self.deep1_bn(self.deep1(x)))))
        x = self.bend(x) if "narrow-end-bent" in self.ways else x
        before = self.expand_bn(self.expand(x))
        skip = self.bend(before)
        x = self.bend(self.deep2_bn(self.deep2(F.pad(skip, around))))
        x = F.relu(self.up_bn(self.raised(self.up, self.project2_bn(self.project2(x)))))
        skip = before if "skip-before-its-bend" in self.ways else skip
        return self.raised(self.mask, torch.cat([skip, x] if "skip-in-front" in self.ways else [x, skip], dim=1))


@network
def selfie() -> Pair:
    """MobileNetV2 with TensorFlow's own way up: kernels of three with a stride of two, a skip from inside a block."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")

    def normed(x: keras.KerasTensor, name: str, bent: bool = True) -> keras.KerasTensor:
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(6, name=f"{name}_relu")(x) if bent else x

    x = layers.Rescaling(1 / 127.5, offset=-1, name="rescaling")(image)
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="stem_pad")(x)
    x = normed(layers.Conv2D(6, 3, 2, use_bias=False, name="stem")(x), "stem")
    x = normed(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep1")(x), "deep1")
    x = normed(layers.Conv2D(6, 1, use_bias=False, name="project1")(x), "project1", False)
    skip = normed(layers.Conv2D(12, 1, use_bias=False, name="expand")(x), "expand")
    x = layers.ZeroPadding2D(((0, 1), (0, 1)), name="deep2_pad")(skip)
    x = normed(layers.DepthwiseConv2D(3, 2, use_bias=False, name="deep2")(x), "deep2")
    x = normed(layers.Conv2D(8, 1, use_bias=False, name="project2")(x), "project2", False)
    x = layers.Conv2DTranspose(6, 3, 2, padding="same", use_bias=False, name="up")(x)
    x = layers.ReLU(name="up_relu")(layers.BatchNormalization(name="up_bn")(x))
    x = layers.Concatenate(name="both")([x, skip])
    model = keras.Model(image, layers.Conv2DTranspose(3, 3, 2, padding="same", name="mask")(x))
    fill(model)
    grown(model, 3, "stem", "expand")
    given = counted(1313, 256, 2, 16, 16, 3).astype("float32")
    return Pair(model, given, ported(model, Selfie), "NHWC->NCHW")


slip("selfie/levelled-as-in-torchvision", "rescaling image sub* div* truediv* stem stem_pad pad*",
     "input-normalisation input-scale", "scale shift channel-order")  # fmt: skip
slip("selfie/padded-evenly", "stem stem_pad deep2 deep2_pad pad*", "pad-asymmetry", "shift")
slip("selfie/bends-without-an-end", "*_relu relu* relu6* *_bn", "activation-kind activation-param", "operation-kind")
slip("selfie/narrow-end-bent", "project1 project1_bn relu* relu6* expand", "activation-extra", "block-extra")
slip("selfie/raised-as-torch-would", "up mask conv_transpose2d* get_item*", "transposed-conv-shift", "pad-asymmetry")
slip("selfie/skip-before-its-bend", "both cat* expand_relu expand_bn relu6*", "wiring activation-missing",
     "operand-order block-missing")  # fmt: skip
slip("selfie/skip-in-front", "both cat* mask", "concat-order", "operand-order channel-order wiring")
defect("selfie/rows-for-columns", "deep1", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("deep1.weight", lambda weight: weight.transpose(2, 3))
)
defect("selfie/kernel-turned-round", "mask conv_transpose2d*", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("mask.weight", lambda weight: weight.flip(2, 3))
)
ways("selfie", "clipped-by-hand")
control("selfie/deep-folded")(each(folded("deep1", "deep1_bn"), folded("deep2", "deep2_bn"), folded("stem", "stem_bn")))
one_layer("selfie", "raised-as-torch-would+kernel-turned-round", "skip-before-its-bend+skip-in-front")
neighbours("selfie", "levelled-as-in-torchvision+padded-evenly", "narrow-end-bent+rows-for-columns")
