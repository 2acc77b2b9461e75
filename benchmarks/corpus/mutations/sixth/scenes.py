"""Scenes: what lies in boxes, and where the joints of a body are."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    defect,
    epsilon,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    set_to,
    slip,
    way,
)

_ANCHORS, _KINDS = 2, 4


def _priors() -> np.ndarray:
    """Middles, widths and heights of the anchors, level after level, row after row."""
    found = []
    for height, width in ((6, 5), (3, 3)):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        middles = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)[:, :, None]
        sizes = np.array([[0.3, 0.3], [0.2, 0.5]]) * (10 / (height + width))
        both = np.broadcast_arrays(middles, sizes)
        found.append(np.concatenate(both, axis=-1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


class Head(Port):
    def __init__(self, ways: frozenset[str], inner: int) -> None:
        super().__init__(ways)
        self.boxes = SameConv2d(inner, _ANCHORS * 4, 3)
        self.kinds = SameConv2d(inner, _ANCHORS * _KINDS, 3)

    def listed(self, x: torch.Tensor, each: int) -> torch.Tensor:
        if "maps-not-turned" in self.ways:
            return x.reshape(len(x), -1, each)
        if "anchors-innermost" in self.ways:
            return x.permute(0, 2, 3, 1).unflatten(3, (each, _ANCHORS)).transpose(3, 4).reshape(len(x), -1, each)
        if "anchors-split-off" in self.ways:
            return x.unflatten(1, (_ANCHORS, each)).permute(0, 3, 4, 1, 2).reshape(len(x), -1, each)
        return x.permute(0, 2, 3, 1).reshape(len(x), -1, each)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.listed(self.boxes(x), 4), self.listed(self.kinds(x), _KINDS)


class Anchors(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = SameConv2d(3, 8, 3, stride=2), SameConv2d(8, 8, 3, stride=2)
        self.conv3 = SameConv2d(8, 10, 3, stride=2)
        self.length = nn.ParameterDict({"weight": torch.ones(8)})
        self.fine, self.coarse = Head(ways, 8), Head(ways, 10)
        self.register_buffer("priors", torch.from_numpy(_priors()), persistent=False)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "length-lost" in self.ways:
            return x
        x = F.normalize(x, dim=(2, 3) if "length-of-the-maps" in self.ways else 1, eps=1e-6)
        return x * self.length["weight"][:, None, None]

    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        priors = self.priors
        shares = (1.0, 1.0) if "variances-lost" in self.ways else (0.1, 0.2)
        middles = priors[:, :2] + x[..., :2] * shares[0] * priors[:, 2:]
        grown = x[..., 2:] * shares[1]
        sizes = priors[:, 2:] * (1 + grown if "sizes-linear" in self.ways else torch.exp(grown))
        if "corners-from-whole-sizes" in self.ways:
            return torch.cat([middles - sizes, middles + sizes], dim=-1)
        return torch.cat([middles - sizes / 2, middles + sizes / 2], dim=-1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = F.relu(self.conv2(F.relu(self.conv1(image))))
        found = [self.fine(self.levelled(fine)), self.coarse(F.relu(self.conv3(fine)))]
        found = found[::-1] if "coarse-first" in self.ways else found
        boxes, kinds = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        kinds = torch.sigmoid(kinds) if "kinds-one-by-one" in self.ways else F.softmax(kinds, dim=-1)
        return self.decoded(boxes), kinds


class _Length(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.normalize(x, axis=-1, epsilon=1e-6) * self.scale


@network
def anchors() -> Pair:
    """SSD's heads on two levels, the finer brought to a learnt length; boxes from their anchors."""
    keras.backend.clear_session()
    image = layers.Input((24, 20, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv1")(image)
    fine = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    coarse = layers.Conv2D(10, 3, strides=2, padding="same", activation="relu", name="conv3")(fine)
    boxes, kinds = [], []
    for x, level in ((_Length(name="length")(fine), "fine"), (coarse, "coarse")):
        for found, name, each in ((boxes, "boxes", 4), (kinds, "kinds", _KINDS)):
            y = layers.Conv2D(_ANCHORS * each, 3, padding="same", name=f"{level}.{name}")(x)
            found.append(layers.Reshape((-1, each), name=f"{level}.{name}_list")(y))
    x, priors = layers.Concatenate(axis=1, name="boxes")(boxes), ops.convert_to_tensor(_priors())
    middles = priors[:, :2] + x[..., :2] * 0.1 * priors[:, 2:]
    sizes = priors[:, 2:] * ops.exp(x[..., 2:] * 0.2)
    corners = layers.Concatenate(name="corners")([middles - sizes / 2, middles + sizes / 2])
    kinds = layers.Softmax(name="kinds_softmax")(layers.Concatenate(axis=1, name="kinds")(kinds))
    model = keras.Model(image, [corners, kinds])
    fill(model)
    return Pair(model, fed(72, 2, 24, 20, 3), ported(model, Anchors), "NHWC->NCHW")


_LISTED = "fine fine.* coarse coarse.* boxes kinds cat cat_1"
_DECODED = "boxes corners cat* mul* add* sub* div* exp* get_item* slice* subtract* true_divide*"
slip("anchors/maps-not-turned", _LISTED, "reshape-order flatten-order", "wiring")
slip("anchors/anchors-innermost", _LISTED, "reshape-order channel-order", "kernel-layout weights-perturbed")
slip("anchors/length-lost", "length fine fine.* normalize mul", "block-missing", "norm-axis ln-eps")
slip("anchors/length-of-the-maps", "length normalize mul", "norm-axis", "operation-kind")
slip("anchors/variances-lost", _DECODED, "scale block-missing", "operation-kind")
slip("anchors/sizes-linear", _DECODED, "activation-kind activation-missing block-missing", "operation-kind")
slip("anchors/corners-from-whole-sizes", _DECODED, "scale block-missing", "operation-kind")
slip("anchors/coarse-first", "boxes kinds cat cat_1 kinds_softmax softmax", "concat-order", "operand-order")
slip(
    "anchors/kinds-one-by-one", "kinds kinds_softmax softmax sigmoid", "activation-kind", "softmax-axis operation-kind"
)
defect("anchors/stem-padded-around", "conv1", "pad-asymmetry", "shift")(set_to("conv1", around=lambda x: [1, 1, 1, 1]))
defect("anchors/length-left", "length mul", "weights-not-loaded", "weights-perturbed scale")(
    rewritten("length.weight", lambda scale: torch.full_like(scale, 20))
)
way("anchors/anchors-split-off")
one_layer("anchors", "variances-lost+corners-from-whole-sizes", "length-of-the-maps+length-left")
neighbours("anchors", "coarse-first+kinds-one-by-one", "length-lost+maps-not-turned")


# --- joints -------------------------------------------------------------------------------------------------


class Pose(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = SameConv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.high, self.low = SameConv2d(8, 8, 3), SameConv2d(8, 10, 3, stride=2)
        self.to_high, self.to_low = nn.Conv2d(10, 8, 1), SameConv2d(8, 10, 3, stride=2)
        self.maps = nn.Conv2d(18, 4, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "corners-aligned" in self.ways:
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if "raised-by-the-nearest" in self.ways:
            return F.interpolate(x, scale_factor=2)
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    def placed(self, maps: torch.Tensor) -> torch.Tensor:
        maps = maps if "maps-not-sharpened" in self.ways else 3 * maps
        if "shares-by-row" in self.ways:
            shares = F.softmax(maps, dim=-1) / 8
        elif "shares-of-the-joints" in self.ways:
            shares = F.softmax(maps, dim=1) / 16
        else:
            shares = F.softmax(maps.flatten(2), dim=-1).view_as(maps)
        rows, columns = torch.arange(8.0), torch.arange(10.0)
        if "places-to-one" in self.ways:
            rows, columns = rows / 8, columns / 10
        if "placed-by-name" in self.ways:
            x, y = torch.einsum("bjhw,w->bj", shares, columns), torch.einsum("bjhw,h->bj", shares, rows)
        else:
            x, y = (shares.sum(2) * columns).sum(-1), (shares.sum(3) * rows).sum(-1)
        return torch.stack([y, x] if "rows-first" in self.ways else [x, y], dim=-1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(image)))
        high, low = F.relu(self.high(x)), F.relu(self.low(x))
        # Once through a convolution before it is enlarged, which is the same behind.
        if "enlarged-before-the-convolution" in self.ways:
            risen = self.to_high(self.raised(low))
        else:
            risen = self.raised(self.to_high(low))
        fused_low = F.relu(low + (self.to_low(x) if "lowered-before-high" in self.ways else self.to_low(high)))
        fused = F.relu(high if "nothing-risen" in self.ways else high + risen)
        return self.placed(self.maps(torch.cat([fused, self.raised(fused_low)], dim=1)))


@network
def pose() -> Pair:
    """Two resolutions that exchange what they found, and joints at the middle of what their maps say."""
    keras.backend.clear_session()
    image = layers.Input((16, 20, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    high = layers.Conv2D(8, 3, padding="same", activation="relu", name="high")(x)
    low = layers.Conv2D(10, 3, strides=2, padding="same", activation="relu", name="low")(x)
    risen = layers.Conv2D(8, 1, name="to_high")(low)
    risen = layers.UpSampling2D(2, interpolation="bilinear", name="raise1")(risen)
    fallen = layers.Conv2D(10, 3, strides=2, padding="same", name="to_low")(high)
    low = layers.ReLU(name="low_relu")(layers.Add(name="low_sum")([low, fallen]))
    high = layers.ReLU(name="high_relu")(layers.Add(name="high_sum")([high, risen]))
    low = layers.UpSampling2D(2, interpolation="bilinear", name="raise2")(low)
    x = layers.Conv2D(4, 1, name="maps")(layers.Concatenate(name="joined")([high, low]))
    x = layers.Reshape((80, 4), name="flat")(layers.Rescaling(3.0, name="sharper")(x))
    x = layers.Softmax(axis=1, name="shares")(x)
    rows, columns = (part.reshape(80, 1).astype("float32") for part in np.meshgrid(range(8), range(10), indexing="ij"))
    x = ops.stack([ops.sum(x * columns, axis=1), ops.sum(x * rows, axis=1)], axis=-1)
    model = keras.Model(image, x)
    fill(model)
    for weight, share in ((model.get_layer("maps").kernel, 0.5), (model.get_layer("stem_bn").moving_variance, 0.1)):
        weight.assign(weight * share)
    return Pair(model, fed(73, 2, 16, 20, 3), ported(model, Pose), "NHWC->NCHW")


_PLACED = "stack sum sum_* mul mul_* multiply multiply_* true_divide* div*"
slip("pose/corners-aligned", "raise? interpolate interpolate_1", "resize-align-corners", "resize-mode")
slip("pose/raised-by-the-nearest", "raise? interpolate interpolate_1", "resize-mode", "operation-kind")
slip("pose/maps-not-sharpened", "sharper mul maps flat flatten shares softmax", "scale block-missing")
slip("pose/shares-by-row", "shares softmax div flat flatten", "softmax-axis", "operation-kind flatten-order")
slip("pose/shares-of-the-joints", "shares softmax div flat flatten", "softmax-axis", "operation-kind")
slip("pose/places-to-one", _PLACED, "scale", "block-extra weights-perturbed")
slip("pose/rows-first", "stack", "concat-order", "operand-order wiring")
slip("pose/lowered-before-high", "to_low low_sum add", "wiring residual-order", "operand-order")
slip("pose/nothing-risen", "high_sum high_relu add_1 relu_4 to_high raise1 interpolate", "residual-missing",
     "block-missing wiring")  # fmt: skip
defect("pose/norm-eps-default", "stem_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("pose/low-padded-around", "low", "pad-asymmetry", "shift")(set_to("low", around=lambda x: [1, 1, 1, 1]))
defect("pose/joints-of-another-set", "maps", "channel-order weights-swapped", "axis-permutation weights-perturbed")(
    rewritten("maps.*", lambda values: values.roll(1, 0))
)
way("pose/enlarged-before-the-convolution")
way("pose/placed-by-name")
one_layer("pose", "maps-not-sharpened+shares-by-row", "places-to-one+rows-first")
neighbours("pose", "nothing-risen+corners-aligned")
