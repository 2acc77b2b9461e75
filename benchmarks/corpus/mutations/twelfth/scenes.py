"""Maps for pictures: where letters are, what each pixel belongs to, and a front of a house from its plan."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import (
    control,
    defect,
    left_on,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)

_MEANS, _SPREADS = np.float32([123.7, 116.3, 103.5]), np.float32([58.4, 57.1, 57.4])


def _between(x: torch.Tensor, ways: frozenset[str]) -> torch.Tensor:
    """Twice the size, bilinear."""
    if "raised-between-corners" in ways:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    if "raised-by-repetition" in ways:
        return F.interpolate(x, scale_factor=2)
    if "raised-by-shares" in ways:
        for axis in (2, 3):
            size = x.shape[axis]
            ends = [x.narrow(axis, 0, 1), x, x.narrow(axis, size - 1, 1)]
            wide = torch.cat(ends, dim=axis)
            before, after = wide.narrow(axis, 0, size), wide.narrow(axis, 2, size)
            x = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], dim=axis + 1).flatten(axis, axis + 1)
        return x
    return F.interpolate(x, scale_factor=2, mode="bilinear")


class Lines(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-5)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-5)
        self.far, self.point = nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(16, 6, 1)
        self.up, self.up_bn = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-5)
        self.near, self.maps = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def looked_far(self, x: torch.Tensor) -> torch.Tensor:
        far = self.far
        if "far-not-dilated" in self.ways:
            return F.conv2d(x, far.weight, far.bias, padding=1)
        if "far-by-a-sparse-kernel" in self.ways:
            weight = far.weight.new_zeros(8, 8, 5, 5)
            weight[:, :, ::2, ::2] = far.weight
            return F.conv2d(x, weight, far.bias, padding=2)
        return far(x)

    def forward(self, page: torch.Tensor) -> torch.Tensor:
        means, spreads = torch.from_numpy(_MEANS)[:, None, None], torch.from_numpy(_SPREADS)[:, None, None]
        means = means.flip(0) if "means-for-blue-first" in self.ways else means
        x = (page - means) / spreads
        early = self.bn1(self.conv1(x))
        x = self.bn2(self.conv2(F.max_pool2d(F.relu(early), 2)))
        y = self.looked_far(F.max_pool2d(F.relu(x), 3, 1, padding=1))
        y = F.relu(y) if "far-rectified" in self.ways else y
        y = self.point(torch.cat([y, x], dim=1))
        y = F.relu(self.up_bn(self.up(F.relu(y))))
        early = F.relu(early) if "skip-rectified" in self.ways else early
        x = F.relu(self.near(torch.cat([_between(y, self.ways), early], dim=1)))
        x = self.maps(x)
        return torch.sigmoid(x) if "maps-as-chances" in self.ways else x


@network
def lines() -> Pair:
    """CRAFT on a small VGG: a dilated kernel, two skips from before their ReLU, maps of letters and of gaps."""
    keras.backend.clear_session()
    page = layers.Input((12, 12, 3), name="page")

    def normed(x: keras.KerasTensor, wide: int, name: str, bn: str) -> keras.KerasTensor:
        x = layers.Conv2D(wide, 3, padding="same", name=name)(x)
        return layers.BatchNormalization(epsilon=1e-5, name=bn)(x)

    early = normed((page - _MEANS) / _SPREADS, 6, "conv1", "bn1")
    x = layers.MaxPooling2D(2, name="pool1")(layers.ReLU(name="relu1")(early))
    x = normed(x, 8, "conv2", "bn2")
    y = layers.MaxPooling2D(3, 1, padding="same", name="pool2")(layers.ReLU(name="relu2")(x))
    y = layers.Conv2D(8, 3, padding="same", dilation_rate=2, name="far")(y)
    y = layers.Conv2D(6, 1, activation="relu", name="point")(layers.Concatenate(name="both1")([y, x]))
    y = layers.ReLU(name="up_relu")(normed(y, 6, "up", "up_bn"))
    y = layers.UpSampling2D(2, interpolation="bilinear", name="raised")(y)
    x = layers.Concatenate(name="both2")([y, early])
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="near")(x)
    model = keras.Model(page, layers.Conv2D(2, 1, name="maps")(x))
    fill(model)
    return Pair(model, counted(1241, 256, 2, 12, 12, 3).astype("float32"), ported(model, Lines), "NHWC->NCHW")


_RAISED = "raised interpolate* upsample* both2 near stack* flatten* mul* add* narrow* cat*"
slip("lines/means-for-blue-first", "page sub* flip* conv1", "input-normalisation channel-order", "axis-permutation")
slip("lines/far-not-dilated", "far conv2d*", "dilation", "pad-mode")
slip("lines/far-rectified", "far relu* both1", "activation-extra", "block-extra")
slip("lines/raised-between-corners", _RAISED, "resize-align-corners", "resize-mode operation-kind")
slip("lines/skip-rectified", "both2 relu* near cat* bn1", "activation-extra wiring", "block-extra operand-order")
slip("lines/maps-as-chances", "maps sigmoid*", "logits activation-extra", "block-extra")
defect("lines/bn-eps-of-keras", "bn? up_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("lines/gaps-before-letters", "maps", "channel-order weights-perturbed", "axis-permutation weights-swapped")(
    lambda port: [rewritten(f"maps.{part}", lambda w: w.flip(0))(port) for part in ("weight", "bias")] and None
)
ways("lines", "far-by-a-sparse-kernel", "raised-by-shares")
control("lines/norm-folded")(folded("conv2", "bn2"))
one_layer("lines", "far-not-dilated+far-rectified", "gaps-before-letters+maps-as-chances")
neighbours("lines", "raised-between-corners+skip-rectified")


# --- what each pixel is -------------------------------------------------------------------------------------


class Zoomed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.thumb = nn.Conv2d(3, 3, 3, padding=1)
        for size in (6, 3, 2):
            self.add_module(f"level{size}", nn.Conv2d(6, 3, 1))
        self.join, self.join_bn = nn.Conv2d(18, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.labels = nn.Conv2d(6, 4, 1)

    def level(self, size: int, x: torch.Tensor) -> torch.Tensor:
        x = F.adaptive_avg_pool2d(x, 6 // size) if "pooled-by-torch" in self.ways else F.avg_pool2d(x, size)
        x = F.relu(self.get_submodule(f"level{size}")(x))
        corners = True if "levels-between-corners" in self.ways else None
        return F.interpolate(x, size=(6, 6), mode="bilinear", align_corners=corners)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        around = (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1)
        x = F.relu(self.stem_bn(self.stem(F.pad(image, around))))
        smooth = "thumbnail-smoothed" in self.ways
        if "thumbnail-by-pooling" in self.ways:
            thumb = F.avg_pool2d(image, 2)
        else:
            thumb = F.interpolate(image, size=(6, 6), mode="bilinear", antialias=smooth)
        sizes = (2, 3, 6) if "fine-levels-first" in self.ways else (6, 3, 2)
        found = [x, F.relu(self.thumb(thumb)), *(self.level(size, x) for size in sizes)]
        x = self.join(torch.cat(found, dim=1))
        x = self.labels(F.relu(x if "join-not-normed" in self.ways else self.join_bn(x)))
        return F.softmax(_between(x, self.ways), dim=1)


@network
def zoomed() -> Pair:
    """PSPNet with a thumbnail as ICNet has it: means of three sizes, raised again beside what they are means of."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    x = layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    thumb = layers.Resizing(6, 6, name="smaller")(image)
    found = [x, layers.Conv2D(3, 3, padding="same", activation="relu", name="thumb")(thumb)]
    for size in (6, 3, 2):
        y = layers.AveragePooling2D(size, name=f"pool{size}")(x)
        y = layers.Conv2D(3, 1, activation="relu", name=f"level{size}")(y)
        found.append(layers.Resizing(6, 6, name=f"raised{size}")(y))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="join")(layers.Concatenate(name="all")(found))
    x = layers.ReLU(name="join_relu")(layers.BatchNormalization(name="join_bn")(x))
    x = layers.UpSampling2D(2, interpolation="bilinear", name="enlarged")(layers.Conv2D(4, 1, name="labels")(x))
    model = keras.Model(image, layers.Softmax(name="shares")(x))
    fill(model)
    grown(model, 2, "labels")
    return Pair(model, fed(1242, 2, 12, 12, 3), ported(model, Zoomed), "NHWC->NCHW")


_LEVELS = "level? raised? pool? relu* avg_pool* max_pool* adaptive* interpolate* upsample*"
slip("zoomed/padded-evenly", "stem pad*", "pad-asymmetry", "shift")
slip("zoomed/thumbnail-smoothed", "smaller interpolate* upsample* thumb", "resize-antialias",
     "resize-mode operation-kind")  # fmt: skip
slip("zoomed/levels-between-corners", _LEVELS, "resize-align-corners", "resize-mode operation-kind")
slip("zoomed/fine-levels-first", "all cat* join", "concat-order", "operand-order channel-order wiring")
slip("zoomed/join-not-normed", "join join_bn *relu*", "block-missing", "wiring bn-stats")
slip("zoomed/raised-by-repetition", "enlarged interpolate* upsample* labels", "resize-mode", "operation-kind")
defect("zoomed/thumb-not-biased", "thumb", "bias-missing", "weights-not-loaded")(set_to("thumb", bias=None))
ways("zoomed", "pooled-by-torch", "thumbnail-by-pooling", "raised-by-shares")
control("zoomed/join-folded")(folded("join", "join_bn"))
neighbours("zoomed", "fine-levels-first+join-not-normed", "thumbnail-smoothed+thumb-not-biased")


# --- a front ------------------------------------------------------------------------------------------------


class Facade(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.down2 = nn.Conv2d(3, 6, 4, 2, 1, bias=False), nn.Conv2d(6, 8, 4, 2, 1, bias=False)
        self.down3, self.up1 = nn.Conv2d(8, 8, 4, 2, 1, bias=False), nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False)
        self.up2, self.last = nn.ConvTranspose2d(16, 6, 4, 2, 1, bias=False), nn.ConvTranspose2d(12, 3, 4, 2, 1)
        self.down_bn2, self.down_bn3, self.up_bn1, self.up_bn2 = (nn.BatchNorm2d(n, eps=1e-3) for n in (8, 8, 8, 6))
        self.drop = nn.Dropout(0.5)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        if "leaky-by-where" in self.ways:
            return torch.where(x < 0, 0.3 * x, x)
        return F.leaky_relu(x, 0.2 if "slope-of-the-paper" in self.ways else 0.3)

    def joined(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return torch.cat([skip, x] if "skip-in-front" in self.ways else [x, skip], dim=1)

    def forward(self, plan: torch.Tensor) -> torch.Tensor:
        one = self.leaky(self.down1(plan))
        two = self.down_bn2(self.down2(one))
        x = self.down_bn3(self.down3(self.leaky(two)))
        two = two if "skip-before-the-bend" in self.ways else self.leaky(two)
        x = self.up1(self.leaky(x))
        x = self.up_bn1(F.relu(x)) if "norm-after-the-bend" in self.ways else F.relu(self.drop(self.up_bn1(x)))
        x = self.joined(x, two)
        if "cropped-at-the-end" in self.ways:
            x = F.conv_transpose2d(x, self.up2.weight, stride=2)[:, :, :-2, :-2]
        else:
            x = self.up2(x)
        x = self.last(self.joined(F.relu(self.up_bn2(x)), one))
        return torch.sigmoid(x) if "colours-from-zero" in self.ways else torch.tanh(x)


@network
def facade() -> Pair:
    """Pix2pix' generator as TensorFlow's tutorial has it: kernels of four down and up, slopes of Keras, skips."""
    keras.backend.clear_session()
    plan = layers.Input((16, 16, 3), name="plan")

    def down(x: keras.KerasTensor, i: int, wide: int) -> keras.KerasTensor:
        x = layers.Conv2D(wide, 4, 2, padding="same", use_bias=False, name=f"down{i}")(x)
        x = layers.BatchNormalization(name=f"down_bn{i}")(x) if i > 1 else x
        return layers.LeakyReLU(name=f"leaky{i}")(x)

    one = down(plan, 1, 6)
    two = down(one, 2, 8)
    x = layers.Conv2DTranspose(8, 4, 2, padding="same", use_bias=False, name="up1")(down(two, 3, 8))
    x = layers.Dropout(0.5, name="drop")(layers.BatchNormalization(name="up_bn1")(x))
    x = layers.Concatenate(name="both2")([layers.ReLU(name="up_relu1")(x), two])
    x = layers.Conv2DTranspose(6, 4, 2, padding="same", use_bias=False, name="up2")(x)
    x = layers.ReLU(name="up_relu2")(layers.BatchNormalization(name="up_bn2")(x))
    x = layers.Concatenate(name="both1")([x, one])
    x = layers.Conv2DTranspose(3, 4, 2, padding="same", activation="tanh", name="last")(x)
    model = keras.Model(plan, x)
    fill(model)
    grown(model, 1.5, "up1", "up2")
    return Pair(model, fed(1243, 2, 16, 16, 3), ported(model, Facade), "NHWC->NCHW")


slip("facade/slope-of-the-paper", "leaky? leaky_relu* leaky_relu#* down1 down_bn?", "activation-param")
slip("facade/skip-in-front", "both? cat* up2 last", "concat-order", "operand-order channel-order wiring")
slip("facade/skip-before-the-bend", "both2 cat* leaky2 leaky_relu* down_bn2", "wiring activation-missing",
     "operand-order block-missing")  # fmt: skip
slip("facade/norm-after-the-bend", "up_bn1 up_relu1 relu* drop", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("facade/cropped-at-the-end", "up2 conv_transpose2d* get_item*", "transposed-conv-shift", "pad-asymmetry")
slip("facade/colours-from-zero", "last tanh* sigmoid*", "activation-kind", "operation-kind")
defect("facade/inputs-for-outputs", "up1", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("up1.weight", lambda weight: weight.transpose(0, 1))
)
defect("facade/norm-still-learns", "up_bn2", "bn-mode", "bn-stats norm-axis")(left_on("up_bn2"))
ways("facade", "leaky-by-where")
control("facade/down-folded")(folded("down3", "down_bn3"))
one_layer("facade", "cropped-at-the-end+norm-still-learns", "inputs-for-outputs+norm-after-the-bend")
neighbours("facade", "skip-in-front+skip-before-the-bend")
