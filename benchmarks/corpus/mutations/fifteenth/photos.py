"""Photographs: an old network whose channels brake one another, and a face by means of squares."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import torch
from keras import layers, ops
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
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import each
from benchmarks.corpus.mutations.twelfth.registry import left_on

_BLUE_FIRST = np.float32([103.939, 116.779, 123.68])


class Elder(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5, stride=2), nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.conv3, self.drop = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.5)
        self.fc6, self.fc7, self.fc8 = nn.Linear(32, 10), nn.Linear(10, 10), nn.Linear(10, 4)

    def braked(self, x: torch.Tensor) -> torch.Tensor:
        if "never-braked" in self.ways:
            return x
        if "braked-by-hand" in self.ways:
            return x / (1 + 2e-4 * F.pad(x * x, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(4)) ** 0.75
        return F.local_response_norm(x, 5, alpha=1e-3, beta=0.75, k=1)

    def halves(self, x: torch.Tensor) -> torch.Tensor:
        if "every-other-channel" in self.ways:
            x = torch.cat([x[:, ::2], x[:, 1::2]], dim=1)
        if "two-kernels" in self.ways:
            weights, biases = self.conv2.weight.chunk(2), self.conv2.bias.chunk(2)
            parts = [F.conv2d(p, w, b, padding=1) for p, w, b in zip(x.chunk(2, 1), weights, biases, strict=True)]
            return torch.cat(parts, dim=1)
        return self.conv2(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means = torch.from_numpy(_BLUE_FIRST)
        means = means.flip(0) if "means-of-red-first" in self.ways else means
        x = (image if "red-first" in self.ways else image.flip(1)) - means[:, None, None]
        x = F.relu(self.conv1(x))
        if "largest-before-the-brake" in self.ways:
            x = self.braked(F.max_pool2d(x, 3, 2))
        else:
            x = F.max_pool2d(self.braked(x), 3, 2)
        x = F.max_pool2d(F.relu(self.conv3(F.relu(self.halves(x)))), 2)
        if "dense-as-a-kernel" in self.ways:
            x = F.conv2d(x, self.fc6.weight.unflatten(1, (2, 2, 8)).permute(0, 3, 1, 2), self.fc6.bias).flatten(1)
        else:
            x = self.fc6(x.flatten(1) if "flattened-as-it-lies" in self.ways else x.permute(0, 2, 3, 1).flatten(1))
        x = self.fc7(self.drop(F.relu(x)))
        return F.softmax(self.fc8(F.relu(x)), dim=1)


@network
def elder() -> Pair:
    """AlexNet: blue first, channels that brake their neighbours, windows that overlap, kernels in two groups."""
    keras.backend.clear_session()
    image = layers.Input((23, 23, 3), name="image")
    x = layers.Conv2D(6, 5, 2, activation="relu", name="conv1")(image[..., ::-1] - _BLUE_FIRST)
    x = layers.Lambda(lambda y: tf.nn.lrn(y, 2, 1.0, 2e-4, 0.75), output_shape=(10, 10, 6), name="brake")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=2, activation="relu", name="conv2")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv3")(x)
    x = layers.Flatten(name="row")(layers.MaxPooling2D(2, name="pool3")(x))
    x = layers.Dropout(0.5, name="drop")(layers.Dense(10, activation="relu", name="fc6")(x))
    x = layers.Dense(10, activation="relu", name="fc7")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="fc8")(x))
    fill(model)
    grown(model, 0.2, "conv1", "fc6", "fc7")
    return Pair(model, counted(1511, 256, 3, 23, 23, 3).astype("float32"), ported(model, Elder), "NHWC->NCHW")


_ENTER = "image get_item* flip* sub* conv1"
_BRAKE = "brake local_response_norm* pool1 max_pool2d* conv1 relu*"
slip("elder/red-first", _ENTER, "channel-order", "axis-permutation kernel-layout input-normalisation block-missing")
slip("elder/means-of-red-first", _ENTER, "input-normalisation", "shift weights-perturbed channel-order")
slip("elder/never-braked", _BRAKE, "block-missing")
slip("elder/largest-before-the-brake", _BRAKE, "wiring residual-order", "operand-order block-missing block-extra")
slip("elder/every-other-channel", "conv2 getitem* get_item* slice* cat* pool1 max_pool2d*", "channel-order groups",
     "wiring axis-permutation block-extra concat-order kernel-layout")  # fmt: skip
slip("elder/flattened-as-it-lies", "row flatten* permute* fc6", "flatten-order dense-row-order", "wiring")
defect("elder/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("elder/fc7-as-it-lies", "fc7", "dense-transpose", "weights-perturbed axis-permutation")(
    rewritten("fc7.weight", lambda weight: weight.T)
)
ways("elder", "braked-by-hand", "two-kernels", "dense-as-a-kernel")
one_layer("elder", "red-first+means-of-red-first")
neighbours("elder", "flattened-as-it-lies+dropout-still-on", "never-braked+every-other-channel")


# --- whose face ---------------------------------------------------------------------------------------------

_FACE = {"stem": (3, 6, 7), "point": (6, 6, 1), "near_in": (6, 4, 1), "near": (4, 6, 3), "far_in": (6, 4, 1),
         "far": (4, 6, 5), "pooled": (6, 5, 1)}  # fmt: skip


class Squares(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _FACE.items():
            self.add_module(name, nn.Conv2d(given, wide, size, 2 if name == "stem" else 1, padding=size // 2))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-5))
        self.code = nn.Linear(17, 8)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if name == "stem" and "padded-as-same" in self.ways:
            x = F.conv2d(F.pad(x, (2, 3, 2, 3)), self.stem.weight, self.stem.bias, 2)
        else:
            x = self.get_submodule(name)(x)
        return F.relu(self.get_submodule(f"{name}_bn")(x))

    def rooted(self, x: torch.Tensor) -> torch.Tensor:
        if "largest-for-roots" in self.ways:
            return F.max_pool2d(x, 3)
        if "roots-by-torch" in self.ways:
            return F.lp_pool2d(x, 2, 3)
        x = F.avg_pool2d(x * x, 3)
        return torch.sqrt(x if "mean-of-squares" in self.ways else 9 * x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.block("point", F.max_pool2d(self.block("stem", image), 3, 2, padding=1))
        y = self.block("pooled", self.rooted(x))
        if "spread-out" in self.ways:
            y = F.interpolate(y, scale_factor=3)
        elif "zeros-by-slices" in self.ways:
            whole = y.new_zeros(len(y), 5, 6, 6)
            whole[:, :, 2:4, 2:4] = y
            y = whole
        else:
            y = F.pad(y, (2, 2, 2, 2))
        found = [self.block("near", self.block("near_in", x)), self.block("far", self.block("far_in", x)), y]
        x = torch.cat([found[1], found[0], y] if "far-first" in self.ways else found, dim=1)
        x = self.code(x.amax((2, 3)) if "largest-over-places" in self.ways else x.mean((2, 3)))
        if "length-by-hand" in self.ways:
            return x / x.norm(dim=1, keepdim=True)
        return F.normalize(x, dim=0 if "length-over-faces" in self.ways else 1)


@network
def squares() -> Pair:
    """OpenFace: the root of a sum of squares for a pool, zeros around what is too small, and a length of one."""
    keras.backend.clear_session()
    image = layers.Input((24, 24, 3), name="image")

    def block(name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        _, wide, size = _FACE[name]
        if size > 1:
            x = layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(x)
        x = layers.Conv2D(wide, size, 2 if name == "stem" else 1, name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x))

    x = layers.ZeroPadding2D(1, name="pool_pad")(block("stem", image))
    x = block("point", layers.MaxPooling2D(3, 2, name="pool")(x))
    y = layers.AveragePooling2D(3, 3, name="squares_pool")(ops.square(x))
    y = layers.ZeroPadding2D(2, name="around")(block("pooled", ops.sqrt(y * 9)))
    x = [block("near", block("near_in", x)), block("far", block("far_in", x)), y]
    x = layers.GlobalAveragePooling2D(name="places")(layers.Concatenate(name="mixed")(x))
    model = keras.Model(image, layers.UnitNormalization(name="unit")(layers.Dense(8, name="code")(x)))
    fill(model)
    for name in ("stem", "point"):
        norm = model.get_layer(f"{name}_bn")
        norm.beta.assign(norm.beta + 1)
    variance = model.get_layer("near_in_bn").moving_variance
    variance.assign(variance * 0.01)
    return Pair(model, fed(1512, 3, 24, 24, 3), ported(model, Squares), "NHWC->NCHW")


_ROOT = "squares_pool square* pow* mul* multiply* sqrt* avg_pool2d* max_pool2d* pooled"
_WHOSE = "code unit normalize* linalg* norm*"
slip("squares/padded-as-same", "stem stem_pad pad* conv2d*", "pad-asymmetry", "shift")
slip("squares/largest-for-roots", _ROOT, "pool-kind", "operation-kind block-missing")
slip("squares/mean-of-squares", _ROOT, "scale block-missing", "pool-kind operation-kind")
slip("squares/spread-out", "around pad* interpolate* pooled_relu mixed cat*", "operation-kind pad-mode",
     "resize-mode block-extra block-missing wiring")  # fmt: skip
slip("squares/far-first", "mixed cat* places mean* code", "concat-order", "operand-order wiring")
slip("squares/largest-over-places", "places mean* amax* code", "pool-kind", "operation-kind")
slip("squares/length-over-faces", _WHOSE, "norm-axis", "operation-kind")
defect("squares/bn-eps-of-keras", "*_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("squares/ways-in-exchanged", "near_in far_in", "weights-swapped", "weights-perturbed wiring")(
    exchanged("near_in", "far_in")
)
ways("squares", "roots-by-torch", "zeros-by-slices", "length-by-hand")
control("squares/all-folded")(each(*(folded(name, f"{name}_bn") for name in _FACE)))
one_layer("squares", "far-first+largest-over-places")
neighbours("squares", "mean-of-squares+spread-out", "padded-as-same+bn-eps-of-keras")
