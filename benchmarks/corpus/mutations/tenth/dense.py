"""Maps: objects as points, a nested U-Net, and a judge of patches."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.tenth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Centers(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.deep = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 8, 3, stride=2, groups=4)
        self.up, self.up_bn = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1), nn.BatchNorm2d(6, eps=1e-3)
        self.heat1, self.heat2 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)
        self.offset, self.size = nn.Conv2d(6, 2, 1), nn.Conv2d(6, 2, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up
        if "cropped-at-the-end" in self.ways:
            return F.conv_transpose2d(x, up.weight, up.bias, stride=2)[:, :, :-2, :-2]
        if "raised-by-zeros-between" in self.ways:
            wide = x.new_zeros(*x.shape[:2], 7, 7)
            wide[:, :, ::2, ::2] = x
            return F.conv2d(F.pad(wide, (2, 2, 2, 2)), up.weight.flip(2, 3).transpose(0, 1), up.bias)
        return up(x)

    def peaks(self, heat: torch.Tensor) -> torch.Tensor:
        if "every-place-a-peak" in self.ways:
            return heat
        if "strided-peaks" in self.ways:
            largest = F.interpolate(F.max_pool2d(heat, 2), scale_factor=2)
        else:
            largest = F.max_pool2d(heat, 3, stride=1, padding=1)
        return heat * (largest == heat)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        image = image if "bytes-as-they-are" in self.ways else image / 255
        x = F.relu(self.conv(F.pad(image, (0, 1, 0, 1))))
        x = self.deep(F.pad(x, (1, 1, 1, 1) if "padded-around" in self.ways else (0, 1, 0, 1)))
        x = F.relu(self.up_bn(self.raised(F.relu(x))))
        heat = self.heat1(x)
        heat = self.heat2(heat if "heat-left-linear" in self.ways else F.relu(heat))
        heat = self.peaks(heat if "heat-as-logit" in self.ways else torch.sigmoid(heat))
        return heat, self.offset(x), self.size(x)


@network
def centers() -> Pair:
    """CenterNet: heat where the middles are, of which only peaks stay, offsets and sizes."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 255, name="scaled")(image)
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu", name="conv")(x)
    x = layers.DepthwiseConv2D(3, 2, depth_multiplier=2, padding="same", activation="relu", name="deep")(x)
    x = layers.BatchNormalization(name="up_bn")(layers.Conv2DTranspose(6, 4, 2, padding="same", name="up")(x))
    x = layers.ReLU(name="up_relu")(x)
    heat = layers.Conv2D(6, 3, padding="same", activation="relu", name="heat1")(x)
    heat = layers.Conv2D(2, 1, activation="sigmoid", name="heat2")(heat)
    largest = layers.MaxPooling2D(3, 1, padding="same", name="largest")(heat)
    heat = heat * ops.cast(ops.equal(largest, heat), "float32")
    model = keras.Model(image, [heat, *(layers.Conv2D(2, 1, name=name)(x) for name in ("offset", "size"))])
    fill(model)
    return Pair(model, counted(1031, 256, 3, 16, 16, 3).astype("float32"), ported(model, Centers), "NHWC->NCHW")


def _multiples_outermost(weight: torch.Tensor) -> torch.Tensor:
    """As where a depthwise kernel's axes are turned as a common kernel's, and then made flat."""
    return weight.unflatten(0, (4, 2)).transpose(0, 1).flatten(0, 1)


_PEAKS = "largest max_pool2d* equal* eq* mul* multiply* cast* interpolate* heat2"
slip("centers/bytes-as-they-are", "scaled div* truediv* conv image", "input-scale input-normalisation",
     "scale block-missing")  # fmt: skip
slip("centers/padded-around", "deep pad*", "pad-asymmetry", "shift")
slip("centers/cropped-at-the-end", "up conv_transpose2d* get_item* slice*", "transposed-conv-shift", "pad-asymmetry")
slip("centers/heat-left-linear", "heat? relu*", "activation-missing", "block-missing")
slip("centers/heat-as-logit", "heat2 sigmoid*", "logits activation-missing", "block-missing")
slip("centers/every-place-a-peak", _PEAKS, "block-missing", "wiring")
slip("centers/strided-peaks", _PEAKS, "block-extra resize-mode pool-kind stride-position", "operation-kind wiring")
defect("centers/multiples-outermost", "deep", "depthwise-order", "weights-perturbed")(
    rewritten("deep.weight", _multiples_outermost)
)
defect(
    "centers/size-for-offset", "offset size", "weights-swapped wiring", "weights-perturbed concat-order operand-order"
)(exchanged("offset", "size"))
ways("centers", "raised-by-zeros-between")
one_layer("centers", "padded-around+multiples-outermost", "heat-as-logit+every-place-a-peak")
neighbours("centers", "bytes-as-they-are+padded-around")


# --- a nested U-Net -----------------------------------------------------------------------------------------


class Nested(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        shapes = {"x00": (1, 4), "x10": (4, 5), "x20": (5, 6), "x01": (9, 4), "x11": (11, 5), "x02": (13, 4)}
        for name, (given, width) in shapes.items():
            self.add_module(name, nn.Conv2d(given, width, 3, padding=1))
        self.head1, self.head2 = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def conv(self, name: str, *parts: torch.Tensor) -> torch.Tensor:
        x = torch.cat(parts[::-1] if "raised-first" in self.ways else parts, dim=1)
        conv = self.get_submodule(name)
        if "joined-by-sums" in self.ways and len(parts) > 1:
            shares = conv.weight.split([part.shape[1] for part in parts], dim=1)
            y = sum(F.conv2d(part, weight, padding=1) for part, weight in zip(parts, shares, strict=True))
            return F.elu(y + conv.bias[:, None, None])
        return F.relu(conv(x)) if "relu-for-elu" in self.ways else F.elu(conv(x))

    def down(self, x: torch.Tensor) -> torch.Tensor:
        if "pooled-by-maximum" in self.ways:
            return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        if "zeros-counted" in self.ways:
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        ones = F.pad(torch.ones_like(x[:1, :1]), (0, 1, 0, 1))
        return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2) / F.avg_pool2d(ones, 3, 2)

    def up(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-repeating" in self.ways:
            return F.interpolate(x, scale_factor=2)
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners="corners-aligned" in self.ways)

    def forward(self, scan: torch.Tensor) -> torch.Tensor:
        x00 = self.conv("x00", scan)
        x10 = self.conv("x10", self.down(x00))
        x20 = self.conv("x20", self.down(x10))
        x01 = self.conv("x01", x00, self.up(x10))
        x11 = self.conv("x11", x10, self.up(x20))
        x02 = self.conv("x02", x00, x00 if "first-skip-twice" in self.ways else x01, self.up(x11))
        one, two = self.head1(x01), self.head2(x02)
        if "last-map-alone" in self.ways:
            return torch.sigmoid(two)
        if "mean-of-the-logits" in self.ways:
            return torch.sigmoid((one + two) / 2)
        return (torch.sigmoid(one) + torch.sigmoid(two)) / 2


@network
def nested() -> Pair:
    """U-Net++ of two levels: every skip is a kernel of its own, and the map is the mean of two."""
    keras.backend.clear_session()
    scan = layers.Input((12, 12, 1), name="scan")

    def conv(name: str, width: int, *parts: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Concatenate(name=f"{name}_joined")(parts) if len(parts) > 1 else parts[0]
        return layers.Conv2D(width, 3, padding="same", activation="elu", name=name)(x)

    def down(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.AveragePooling2D(3, 2, padding="same", name=f"{name}_down")(x)

    def up(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(x)

    x00 = conv("x00", 4, scan)
    x10 = conv("x10", 5, down(x00, "x00"))
    x20 = conv("x20", 6, down(x10, "x10"))
    x01 = conv("x01", 4, x00, up(x10, "x10"))
    x11 = conv("x11", 5, x10, up(x20, "x20"))
    x02 = conv("x02", 4, x00, x01, up(x11, "x11"))
    maps = [layers.Conv2D(2, 1, activation="sigmoid", name=n)(x) for n, x in (("head1", x01), ("head2", x02))]
    model = keras.Model(scan, layers.Average(name="mean")(maps))
    fill(model)
    return Pair(model, fed(1032, 3, 12, 12, 1), ported(model, Nested), "NHWC->NCHW")


_DOWN = "*_down *_pool2d* pad* div* truediv*"
_MAPS = "head? sigmoid* mean add* div* truediv*"
slip("nested/raised-first", "*_joined cat* x01 x11 x02", "concat-order", "operand-order channel-order")
slip("nested/relu-for-elu", "x?? elu* relu*", "activation-kind", "operation-kind")
slip("nested/pooled-by-maximum", _DOWN, "pool-kind", "operation-kind")
slip("nested/zeros-counted", _DOWN, "pool-count-include-pad")
slip("nested/raised-by-repeating", "*_up interpolate*", "resize-mode", "operation-kind")
slip("nested/corners-aligned", "*_up interpolate*", "resize-align-corners", "resize-mode")
slip("nested/first-skip-twice", "x02_joined cat* x02", "wiring", "operand-order concat-order block-missing")
slip("nested/last-map-alone", _MAPS, "block-missing residual-missing", "wiring")
slip("nested/mean-of-the-logits", _MAPS, "residual-order wiring operand-order", "activation-missing block-missing")
ways("nested", "joined-by-sums")
one_layer("nested", "raised-first+first-skip-twice", "zeros-counted+relu-for-elu")
neighbours("nested", "corners-aligned+raised-first")


# --- a judge of patches -------------------------------------------------------------------------------------


class Judge(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = (nn.Conv2d(n, m, 4, stride=2, padding=1, bias=False) for n, m in ((6, 5), (5, 6)))
        self.conv3, self.bn2, self.bn3 = (
            nn.Conv2d(6, 8, 4, bias=False),
            nn.BatchNorm2d(6, 1e-3),
            nn.BatchNorm2d(8, 1e-3),
        )
        self.last = nn.Conv2d(8, 1, 4)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2 if "slope-of-the-paper" in self.ways else 0.3)

    def normed(self, bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        if "norm-of-instances" in self.ways:
            return F.instance_norm(x, weight=bn.weight, bias=bn.bias, eps=1e-3)
        return bn(x)

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (1, 1, 1, 1), mode="replicate" if "edges-repeated" in self.ways else "constant")

    def forward(self, sketch: torch.Tensor, photo: torch.Tensor) -> torch.Tensor:
        x = torch.cat([photo, sketch] if "photo-first" in self.ways else [sketch, photo], dim=1)
        x = x / 255 if "bytes-between-zero-and-one" in self.ways else x / 127.5 - 1
        if "kernel-along-both-halves" in self.ways:
            one, two = self.conv1.weight.chunk(2, dim=1)
            x = F.conv2d(x[:, :3], one, stride=2, padding=1) + F.conv2d(x[:, 3:], two, stride=2, padding=1)
        else:
            x = self.conv1(x)
        x = self.leaky(x)
        x = self.leaky(self.normed(self.bn2, self.conv2(x)))
        x = self.leaky(self.normed(self.bn3, self.conv3(self.padded(x))))
        x = self.last(self.padded(x))
        return torch.sigmoid(x) if "chances-given" in self.ways else x


@network
def judge() -> Pair:
    """Pix2pix's discriminator: a sketch and a photo beside one another, kernels of four, zeros around the last two."""
    keras.backend.clear_session()
    sketch, photo = (layers.Input((16, 16, 3), name=name) for name in ("sketch", "photo"))

    def leaky(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.LeakyReLU(name=f"leaky{i}")(x)

    x = layers.Concatenate(name="both")([sketch, photo])
    x = layers.Rescaling(1 / 127.5, -1, name="scaled")(x)
    x = leaky(layers.Conv2D(5, 4, 2, padding="same", use_bias=False, name="conv1")(x), 1)
    x = layers.Conv2D(6, 4, 2, padding="same", use_bias=False, name="conv2")(x)
    x = layers.ZeroPadding2D(name="pad1")(leaky(layers.BatchNormalization(name="bn2")(x), 2))
    x = layers.BatchNormalization(name="bn3")(layers.Conv2D(8, 4, use_bias=False, name="conv3")(x))
    x = layers.ZeroPadding2D(name="pad2")(leaky(x, 3))
    model = keras.Model([sketch, photo], layers.Conv2D(1, 4, name="last")(x))
    fill(model)
    names = ("sketch", "photo")
    inputs = {name: counted(1033 + i, 256, 3, 16, 16, 3).astype(np.float32) for i, name in enumerate(names)}
    return Pair(model, inputs, ported(model, Judge), "NHWC->NCHW")


slip("judge/slope-of-the-paper", "leaky*", "activation-param")
slip("judge/norm-of-instances", "bn? instance_norm*", "bn-mode norm-axis bn-stats", "operation-kind")
slip("judge/edges-repeated", "pad* conv3 last", "pad-mode")
slip("judge/photo-first", "both cat* conv1 scaled", "concat-order", "operand-order channel-order")
slip("judge/bytes-between-zero-and-one", "scaled div* truediv* sub* conv1 both cat*",
     "input-normalisation input-scale", "scale block-missing bias-missing")  # fmt: skip
slip("judge/chances-given", "last sigmoid*", "activation-extra logits", "block-extra")
defect("judge/bn-eps-of-torch", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("judge/means-never-loaded", "bn3", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: port.bn3.reset_running_stats()
)
defect("judge/last-without-bias", "last", "bias-missing", "weights-not-loaded")(set_to("last", bias=None))
ways("judge", "kernel-along-both-halves")
control("judge/second-folded")(folded("conv2", "bn2"))
one_layer("judge", "photo-first+bytes-between-zero-and-one", "chances-given+last-without-bias")
neighbours("judge", "slope-of-the-paper+means-never-loaded", "edges-repeated+bn-eps-of-torch")
