"""Fields of pixels: what each shows, by two heads."""

from __future__ import annotations

import keras
import torch
from keras import layers
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
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten, set_to


class Streets(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.expand = nn.Conv2d(3, 6, 3, 2, bias=False), nn.Conv2d(6, 12, 1, bias=False)
        self.deep, self.project = nn.Conv2d(12, 12, 5, 2, groups=12, bias=False), nn.Conv2d(12, 8, 1, bias=False)
        for name, wide in {"stem": 6, "expand": 12, "deep": 12, "project": 8, "high": 8}.items():
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.high, self.whole = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False)
        self.low_kinds, self.high_kinds = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 4, 1)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "swish-for-lines" in self.ways:
            return F.silu(x)
        return x * F.relu6(x + 3) / 6 if "bent-by-hand" in self.ways else F.hardswish(x)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        x = self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True))))
        return (0.2 * x + 0.5).clamp(0, 1) if "gate-of-old-keras" in self.ways else F.hardsigmoid(x)

    def same(self, x: torch.Tensor, size: int) -> torch.Tensor:
        if "padded-evenly" in self.ways:
            return F.pad(x, [size // 2] * 4)
        return F.pad(x, [(size - 2) // 2, size // 2] * 2)

    def resized(self, x: torch.Tensor, size: tuple[int, int], corners: bool = False) -> torch.Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=corners)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        high = F.relu(self.high_bn(self.high(x)))
        x = F.avg_pool2d(x, 3, 2)
        x = self.whole(x)
        x = x if "whole-not-squashed" in self.ways else torch.sigmoid(x)
        size = (high.shape[2], high.shape[3])
        x = F.interpolate(x, size) if "whole-by-nearest" in self.ways else self.resized(x, size)
        return high + x if "added-for-weighed" in self.ways else high * x

    def forward(self, street: torch.Tensor) -> torch.Tensor:
        low = self.bend(self.stem_bn(self.stem(self.same(street, 3))))
        x = self.bend(self.expand_bn(self.expand(low)))
        x = self.deep_bn(self.deep(self.same(x, 5)))
        if "gate-before-the-bend" in self.ways:
            x = self.bend(x * self.gate(x))
        else:
            x = self.bend(x)
            x = x * self.gate(x)
        x = self.project_bn(self.project(x))
        x = self.head(self.bend(x) if "narrow-end-bent" in self.ways else x)
        if "kinds-before-raising" in self.ways:  # a point and a resize may change places
            x = self.resized(self.high_kinds(x), (12, 12))
        else:
            x = self.high_kinds(self.resized(x, (12, 12), "between-corners" in self.ways))
        return x if "low-map-forgotten" in self.ways else x + self.low_kinds(low)


@network
def streets() -> Pair:
    """Lite R-ASPP on MobileNetV3: hard swishes, a gate of lines, wide windows as a weight, and a finer map's kinds."""
    keras.backend.clear_session()
    street = layers.Input((24, 24, 3), name="street")

    def normed(x: keras.KerasTensor, name: str, bend: str = "") -> keras.KerasTensor:
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.Activation(bend, name=f"{name}_bend")(x) if bend else x

    def point(wide: int, name: str, bias: bool = False, **own: str) -> layers.Layer:
        return layers.Conv2D(wide, 1, use_bias=bias, name=name, **own)

    x = layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="stem")(street)
    low = normed(x, "stem", "hard_swish")
    x = normed(point(12, "expand")(low), "expand", "hard_swish")
    x = layers.DepthwiseConv2D(5, 2, padding="same", use_bias=False, name="deep")(x)
    x = normed(x, "deep", "hard_swish")
    y = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze_pool")(x)
    y = point(4, "squeeze", True, activation="relu")(y)
    y = point(12, "excite", True, activation="hard_sigmoid")(y)
    x = normed(point(8, "project")(layers.Multiply(name="gated")([x, y])), "project")
    high = normed(point(8, "high")(x), "high", "relu")
    y = layers.AveragePooling2D(3, 2, name="wide_pool")(x)
    y = layers.Activation("sigmoid", name="whole_gate")(point(8, "whole")(y))
    y = layers.Resizing(6, 6, interpolation="bilinear", name="whole_resized")(y)
    x = layers.Multiply(name="weighed")([high, y])
    x = layers.Resizing(12, 12, interpolation="bilinear", name="resized")(x)
    x = layers.Add(name="sum")([point(4, "high_kinds", True)(x), point(4, "low_kinds", True)(low)])
    model = keras.Model(street, x)
    fill(model)
    grown(model, 2, "squeeze", "excite", "expand")
    grown(model, 4, "whole")
    return Pair(model, fed(1541, 2, 24, 24, 3), ported(model, Streets), "NHWC->NCHW")


_SE = "squeeze excite hardsigmoid* clamp* gated mul* multiply* deep_bend hardswish*"
_WHOLE = "whole whole_* sigmoid* interpolate* upsample* resize* weighed mul* add*"
slip("streets/swish-for-lines", "*_bend hardswish* silu*", "activation-kind", "operation-kind")
slip("streets/gate-of-old-keras", _SE, "activation-kind activation-param", "operation-kind")
slip("streets/gate-before-the-bend", _SE, "residual-order wiring", "operand-order activation-missing activation-extra")
slip("streets/padded-evenly", "stem deep pad*", "pad-asymmetry", "shift")
slip("streets/whole-not-squashed", _WHOLE, "activation-missing", "block-missing")
slip("streets/whole-by-nearest", _WHOLE, "resize-mode", "operation-kind")
slip("streets/added-for-weighed", _WHOLE, "operation-kind", "wiring residual-missing")
slip("streets/between-corners", "resized interpolate* upsample* high_kinds", "resize-align-corners", "resize-mode")
slip(
    "streets/narrow-end-bent",
    "project project_bn hardswish* high wide_pool avg_pool2d*",
    "activation-extra",
    "block-extra",
)
slip(
    "streets/low-map-forgotten",
    "sum add* low_kinds high_kinds",
    "residual-missing block-missing",
    "wiring bias-missing",
)
defect("streets/taps-on-their-side", "deep", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("deep.weight", lambda weight: weight.transpose(2, 3))
)
ways("streets", "bent-by-hand", "kinds-before-raising")
control("streets/points-folded")(
    lambda port: [folded(name, f"{name}_bn")(port) for name in ("expand", "project")] and None
)
one_layer("streets", "whole-not-squashed+whole-by-nearest", "gate-of-old-keras+gate-before-the-bend")
neighbours("streets", "between-corners+low-map-forgotten", "padded-evenly+taps-on-their-side")


# --- three sizes --------------------------------------------------------------------------------------------


class Coarse(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, wide in (("conv1", 3, 4), ("conv2", 4, 6), ("conv3", 6, 8)):
            self.add_module(name, nn.Conv2d(given, wide, 3, padding=1))
        self.fc, self.score, self.middle, self.fine = (
            nn.Conv2d(8, 10, 3, padding=1),
            *(nn.Conv2d(n, 3, 1) for n in (10, 6, 4)),
        )
        self.up1, self.up2 = nn.ConvTranspose2d(3, 3, 4, 2, bias=False), nn.ConvTranspose2d(3, 3, 4, 2, bias=False)

    def raised(self, up: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        if "raised-without-a-kernel" in self.ways:
            return F.interpolate(x, scale_factor=2, mode="bilinear")
        if "cropped-inside-torch" in self.ways:
            return F.conv_transpose2d(x, up.weight, None, 2, padding=1)
        x = up(x)
        return x[:, :, 2:, 2:] if "cropped-in-front" in self.ways else x[:, :, 1:-1, 1:-1]

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = picture if "red-first" in self.ways else picture.flip(1)
        skips = []
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu(conv(x))
            x = F.avg_pool2d(x, 2) if "mean-for-largest" in self.ways else F.max_pool2d(x, 2)
            skips.append(x)
        x = self.score(F.relu(self.fc(x)))
        fine, middle = skips[0], skips[1]
        fine, middle = (fine * 1e-2, middle * 1e-1) if "pools-weighed" in self.ways else (fine, middle)
        x = self.raised(self.up1, x) + self.middle(middle)
        x = self.raised(self.up2, x)
        x = x if "finest-forgotten" in self.ways else x + self.fine(fine)
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if "shares-by-hand" in self.ways:
            x = (x - x.amax(1, keepdim=True)).exp()
            return x / x.sum(1, keepdim=True)
        if "shared-over-rows" in self.ways:
            return F.softmax(x, dim=2)
        return torch.sigmoid(x) if "kinds-each-alone" in self.ways else F.softmax(x, dim=1)


@network
def coarse() -> Pair:
    """FCN-8s: scores of three pools, two learnt kernels of four whose rims are cut off, shares of each pixel."""
    keras.backend.clear_session()
    picture = layers.Input((16, 16, 3), name="picture")
    x, skips = picture[..., ::-1], []
    for i, wide in ((1, 4), (2, 6), (3, 8)):
        x = layers.Conv2D(wide, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
        skips.append(x)
    x = layers.Conv2D(3, 1, name="score")(layers.Conv2D(10, 3, padding="same", activation="relu", name="fc")(x))
    for i, (name, skip) in enumerate((("middle", skips[1]), ("fine", skips[0])), 1):
        x = layers.Cropping2D(1, name=f"crop{i}")(layers.Conv2DTranspose(3, 4, 2, use_bias=False, name=f"up{i}")(x))
        x = layers.Add(name=f"sum{i}")([x, layers.Conv2D(3, 1, name=name)(skip)])
    x = layers.Softmax(name="shares")(layers.UpSampling2D(2, name="grown")(x))
    model = keras.Model(picture, x)
    fill(model)
    return Pair(model, fed(1542, 2, 16, 16, 3), ported(model, Coarse), "NHWC->NCHW")


_RAISE = "up? crop? get_item* getitem* slice* interpolate* upsample* sum?"
_SHARE = "shares softmax* sigmoid* grown repeat_interleave*"
slip(
    "coarse/red-first",
    "picture get_item* getitem* flip* conv1",
    "channel-order",
    "axis-permutation kernel-layout block-missing",
)
slip("coarse/mean-for-largest", "pool? max_pool2d* avg_pool2d*", "pool-kind", "operation-kind")
slip("coarse/cropped-in-front", _RAISE, "transposed-conv-shift", "pad-asymmetry")
slip("coarse/raised-without-a-kernel", _RAISE, "operation-kind block-missing", "resize-mode weights-not-loaded")
slip(
    "coarse/finest-forgotten",
    "sum2 add* fine up2 crop2 grown repeat_interleave*",
    "residual-missing block-missing",
    "wiring",
)
slip(
    "coarse/pools-weighed", "mul* multiply* pool1 pool2 middle fine sum? add*", "scale block-extra", "weights-perturbed"
)
slip("coarse/shared-over-rows", _SHARE, "softmax-axis", "operation-kind")
slip("coarse/kinds-each-alone", _SHARE, "activation-kind", "operation-kind")
defect("coarse/up-turned", "up1", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("up1.weight", lambda weight: weight.transpose(0, 1))
)
defect("coarse/fine-not-biased", "fine sum2", "bias-missing", "weights-not-loaded")(set_to("fine", bias=None))
ways("coarse", "cropped-inside-torch", "shares-by-hand")
one_layer("coarse", "cropped-in-front+up-turned")
neighbours("coarse", "finest-forgotten+kinds-each-alone", "red-first+mean-for-largest")
