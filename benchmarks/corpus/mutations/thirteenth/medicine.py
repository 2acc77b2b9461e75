"""Medicine: rhythms of a heart, what a hand is meant to do, and how one slept."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, set_to
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


class Rhythm(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Conv1d(1, 4, 8), nn.BatchNorm1d(4, eps=1e-3)
        self.conv1, self.bn1, self.conv2 = nn.Conv1d(4, 4, 8, stride=2), nn.BatchNorm1d(4, eps=1e-3), nn.Conv1d(4, 4, 8)
        self.bn2, self.conv3, self.bn3 = nn.BatchNorm1d(4, eps=1e-3), nn.Conv1d(4, 8, 8), nn.BatchNorm1d(8, eps=1e-3)
        self.conv4, self.last_bn = nn.Conv1d(8, 8, 8, stride=2), nn.BatchNorm1d(8, eps=1e-3)
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(8, 4)

    def along(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        around = (4, 3) if "even-kernel-padded-in-front" in self.ways else (3, 4)
        if "kernels-of-nine" in self.ways and conv.stride == (1,):
            return F.conv1d(x, F.pad(conv.weight, (1, 0)), conv.bias, padding=4)
        return conv(F.pad(x, (3, 3) if conv.stride == (2,) else around))

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool1d(x, 2) if "shortcut-of-means" in self.ways else F.max_pool1d(x, 2)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.enter_bn(self.along(self.enter, wave)))
        y = self.drop(F.relu(self.bn1(self.along(self.conv1, x))))
        x = self.along(self.conv2, y) + self.pooled(x)
        y = F.relu(self.bn2(x))
        x = self.pooled(y if "shortcut-behind-the-norm" in self.ways else x)
        zeros = torch.zeros_like(x)
        x = torch.cat([zeros, x] if "zeros-in-front" in self.ways else [x, zeros], dim=1)
        y = F.relu(self.bn3(self.along(self.conv3, y)))
        x = F.relu(self.last_bn(self.along(self.conv4, y) + x))
        if "out-by-einsum" in self.ways:
            x = torch.einsum("bct,oc->bto", x, self.out.weight) + self.out.bias
        else:
            x = self.out(x.transpose(1, 2))
        if "logarithms-of-chances" in self.ways:
            return F.log_softmax(x, dim=2)
        return F.softmax(x, dim=1 if "shared-over-time" in self.ways else 2)


@network
def rhythm() -> Pair:
    """Hannun's network for an ECG: even kernels, shortcuts that are pooled and filled with zeros, chances over time."""
    keras.backend.clear_session()
    wave = layers.Input((32, 1), name="wave")

    def normed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.Activation("relu", name=f"{name}_relu")(layers.BatchNormalization(name=name)(x))

    def conv(name: str, wide: int, step: int = 1) -> layers.Layer:
        return layers.Conv1D(wide, 8, step, padding="same", name=name)

    x = normed(conv("enter", 4)(wave), "enter_bn")
    skip = layers.MaxPooling1D(2, name="pool1")(x)
    y = layers.Dropout(0.2, name="drop")(normed(conv("conv1", 4, 2)(x), "bn1"))
    x = layers.Add(name="sum1")([conv("conv2", 4)(y), skip])
    skip = layers.MaxPooling1D(2, name="pool2")(x)
    zeros = layers.Lambda(lambda y: keras.ops.zeros_like(y), name="zeros")(skip)
    skip = layers.Concatenate(name="filled")([skip, zeros])
    y = normed(conv("conv3", 8)(normed(x, "bn2")), "bn3")
    x = normed(layers.Add(name="sum2")([conv("conv4", 8, 2)(y), skip]), "last_bn")
    x = layers.TimeDistributed(layers.Dense(4, name="out"), name="each")(x)
    model = keras.Model(wave, layers.Softmax(name="chances")(x))
    fill(model)
    port = ported(model, Rhythm, rename=lambda name: name.rpartition(".")[2] if name.startswith("each") else name)
    return Pair(model, fed(1331, 3, 32, 1), port, "NHWC->NCHW")


_SHORT = "pool? pool2 max_pool* avg_pool* filled zeros* cat* sum? add*"
slip("rhythm/even-kernel-padded-in-front", "enter conv2 conv3 pad*", "pad-asymmetry", "shift")
slip("rhythm/shortcut-of-means", _SHORT, "pool-kind", "operation-kind")
slip("rhythm/shortcut-behind-the-norm", _SHORT + " bn2 bn2_relu relu*", "wiring residual-order activation-extra",
     "operand-order block-extra")  # fmt: skip
slip("rhythm/zeros-in-front", _SHORT, "concat-order", "operand-order channel-order wiring")
slip("rhythm/logarithms-of-chances", "chances softmax* log_softmax* out", "logits activation-kind", "operation-kind")
slip("rhythm/shared-over-time", "chances softmax* out", "softmax-axis", "operation-kind")
defect("rhythm/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("rhythm/norm-still-learns", "bn3", "bn-mode", "bn-stats norm-axis")(left_on("bn3"))
ways("rhythm", "kernels-of-nine", "out-by-einsum")
control("rhythm/norms-folded")(each(folded("enter", "enter_bn"), folded("conv1", "bn1"), folded("conv3", "bn3")))
one_layer("rhythm", "shortcut-of-means+zeros-in-front", "norm-still-learns+even-kernel-padded-in-front")
neighbours("rhythm", "shortcut-of-means+shortcut-behind-the-norm")


# --- a hand -------------------------------------------------------------------------------------------------


class Imagery(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.time, self.space = nn.Conv2d(1, 4, (1, 5)), nn.Conv2d(4, 4, (8, 1), bias=False)
        self.later, self.drop = nn.Conv2d(4, 6, (1, 5), bias=False), nn.Dropout(0.5)
        self.bn1, self.bn2 = nn.BatchNorm2d(4, eps=1e-5), nn.BatchNorm2d(6, eps=1e-5)
        self.out = nn.Linear(30, 4)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "elu-by-hand" in self.ways:
            return F.relu(x) + torch.expm1(x.clamp(max=0))
        return F.relu(x) if "cut-below-zero" in self.ways else F.elu(x)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop((F.avg_pool2d if "means-as-in-the-shallow-one" in self.ways else F.max_pool2d)(x, (1, 2)))

    def forward(self, leads: torch.Tensor) -> torch.Tensor:
        x = leads.flip(2) if "electrodes-from-the-last" in self.ways else leads
        if "one-kernel" in self.ways:  # both kernels of the first block are linear, and so is what they make together
            weight = torch.einsum("oil,imk->omlk", self.space.weight[..., 0], self.time.weight[:, :, 0])
            bias = torch.einsum("oil,i->o", self.space.weight[..., 0], self.time.bias)
            x = F.conv2d(x, weight, bias)
        else:
            x = self.space(self.time(x))
        x = self.bn1(self.bend(x)) if "norm-after-the-bend" in self.ways else self.bend(self.bn1(x))
        x = self.pooled(self.bend(self.bn2(self.later(self.pooled(x)))))
        x = x.flatten(1) if "flattened-as-it-lies" in self.ways else x.permute(0, 2, 3, 1).flatten(1)
        return F.softmax(self.out(x), dim=1)


@network
def imagery() -> Pair:
    """DeepConvNet for an EEG: time, then all electrodes without a bend between, twice a pool of two."""
    keras.backend.clear_session()
    leads = layers.Input((8, 32, 1), name="leads")
    x = layers.Conv2D(4, (1, 5), name="time")(leads)
    x = layers.Conv2D(4, (8, 1), use_bias=False, name="space")(x)
    for i in (1, 2):
        x = layers.Conv2D(6, (1, 5), use_bias=False, name="later")(x) if i > 1 else x
        x = layers.Activation("elu", name=f"elu{i}")(layers.BatchNormalization(epsilon=1e-5, name=f"bn{i}")(x))
        x = layers.Dropout(0.5, name=f"drop{i}")(layers.MaxPooling2D((1, 2), name=f"pool{i}")(x))
    x = layers.Dense(4, kernel_constraint=keras.constraints.MaxNorm(0.5), name="out")(layers.Flatten(name="flat")(x))
    model = keras.Model(leads, layers.Activation("softmax", name="softmax")(x))
    fill(model)
    return Pair(model, fed(1332, 3, 8, 32, 1), ported(model, Imagery), "NHWC->NCHW")


_FLAT = "flat flatten* permute* out"
slip("imagery/cut-below-zero", "elu? elu* relu* bn?", "activation-kind", "operation-kind activation-param")
slip("imagery/means-as-in-the-shallow-one", "pool? max_pool* avg_pool*", "pool-kind", "operation-kind")
slip("imagery/electrodes-from-the-last", "leads flip* time space conv2d*", "axis-permutation channel-order kernel-flip",
     "block-extra wiring")  # fmt: skip
slip("imagery/norm-after-the-bend", "bn1 elu1 elu* pool1", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("imagery/flattened-as-it-lies", _FLAT, "flatten-order dense-row-order", "wiring")
defect("imagery/time-not-biased", "time space", "bias-missing", "weights-not-loaded")(set_to("time", bias=None))
defect("imagery/bn-eps-of-keras", "bn?", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("imagery", "elu-by-hand", "one-kernel")
one_layer("imagery", "norm-after-the-bend+bn-eps-of-keras")
neighbours("imagery", "time-not-biased+cut-below-zero")


# --- a night ------------------------------------------------------------------------------------------------


class Hypnogram(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down, self.down_bn = nn.Conv1d(2, 4, 5, dilation=2), nn.BatchNorm1d(4, eps=1e-3)
        self.low, self.low_bn = nn.Conv1d(4, 8, 5), nn.BatchNorm1d(8, eps=1e-3)
        self.up, self.up_bn = nn.Conv1d(8, 4, 4), nn.BatchNorm1d(4, eps=1e-3)
        self.join, self.join_bn = nn.Conv1d(8, 6, 5), nn.BatchNorm1d(6, eps=1e-3)
        self.dense, self.stages = nn.Conv1d(6, 5, 1), nn.Conv1d(5, 5, 1)

    def block(self, name: str, x: torch.Tensor, around: tuple[int, int] = (2, 2)) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        if name == "down" and "down-not-dilated" in self.ways:
            x = F.conv1d(F.pad(x, (2, 2)), conv.weight, conv.bias)
        else:
            x = conv(F.pad(x, around))
        return F.elu(norm(x)) if name == "low" and "norm-before-the-bend" in self.ways else norm(F.elu(x))

    def longer(self, x: torch.Tensor) -> torch.Tensor:
        if "longer-by-repeats" in self.ways:
            return x.repeat_interleave(4, dim=2)
        return F.interpolate(x, scale_factor=4, mode="linear" if "longer-by-lines" in self.ways else "nearest")

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        skip = self.block("down", signal, (4, 4))
        x = self.longer(self.block("low", F.max_pool1d(skip, 4)))
        x = self.block("up", x, (2, 1) if "even-kernel-padded-in-front" in self.ways else (1, 2))
        x = self.block("join", torch.cat([skip, x], dim=1))
        x = self.dense(x) if "dense-left-linear" in self.ways else torch.tanh(self.dense(x))
        if "parts-by-a-view" in self.ways:
            x = x.unflatten(2, (8, 4)).mean(2)
        else:
            x = F.max_pool1d(x, 8) if "largest-of-a-part" in self.ways else F.avg_pool1d(x, 8)
        return F.softmax(self.stages(x).transpose(1, 2), dim=2)


@network
def hypnogram() -> Pair:
    """U-Time: dilated kernels, each with its bend before its norm, repeated steps, and a stage for each part."""
    keras.backend.clear_session()
    signal = layers.Input((32, 2), name="signal")

    def block(x: keras.KerasTensor, name: str, wide: int, size: int = 5, far: int = 1) -> keras.KerasTensor:
        own = {"padding": "same", "dilation_rate": far, "activation": "elu"}
        return layers.BatchNormalization(name=f"{name}_bn")(layers.Conv1D(wide, size, name=name, **own)(x))

    skip = block(signal, "down", 4, far=2)
    x = block(layers.MaxPooling1D(4, name="pool")(skip), "low", 8)
    x = block(layers.UpSampling1D(4, name="longer")(x), "up", 4, 4)
    x = block(layers.Concatenate(name="both")([skip, x]), "join", 6)
    x = layers.Conv1D(5, 1, activation="tanh", name="dense")(x)
    x = layers.Conv1D(5, 1, activation="softmax", name="stages")(layers.AveragePooling1D(8, name="parts")(x))
    model = keras.Model(signal, x)
    fill(model)
    grown(model, 3, "stages")
    return Pair(model, fed(1333, 3, 32, 2), ported(model, Hypnogram), "NHWC->NCHW")


_PARTS = "parts avg_pool* max_pool* mean* unflatten* stages"
slip("hypnogram/down-not-dilated", "down conv1d* pad*", "dilation", "pad-mode")
slip("hypnogram/norm-before-the-bend", "low low_bn elu*", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("hypnogram/longer-by-lines", "longer interpolate* upsample* up", "resize-mode", "operation-kind")
slip("hypnogram/even-kernel-padded-in-front", "up pad*", "pad-asymmetry", "shift")
slip("hypnogram/dense-left-linear", "dense tanh* parts", "activation-missing", "block-missing")
slip("hypnogram/parts-by-a-view", _PARTS, "reshape-order axis-permutation", "wiring pool-kind operation-kind")
slip("hypnogram/largest-of-a-part", _PARTS, "pool-kind", "operation-kind")
ways("hypnogram", "longer-by-repeats")
one_layer("hypnogram", "dense-left-linear+largest-of-a-part")
neighbours("hypnogram", "longer-by-lines+even-kernel-padded-in-front", "down-not-dilated+norm-before-the-bend")


@control("hypnogram/norm-in-the-next-kernel")
def _ahead(port: Hypnogram) -> None:
    """The last norm, in the pointwise kernel that follows it."""
    norm, point = port.join_bn, port.dense
    share = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    point.bias = nn.Parameter(point.bias + point.weight[:, :, 0] @ (norm.bias - norm.running_mean * share))
    point.weight = nn.Parameter(point.weight * share[:, None])
    port.join_bn = nn.Identity()
