"""Pictures made again: from a few codes, and around a hole."""

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
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten, set_to


class Codes(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.down2 = SameConv2d(3, 6, 3, stride=2), SameConv2d(6, 4, 3, stride=2)
        self.book = nn.ParameterDict({"codes": torch.zeros(4, 4)})
        self.up1, self.up2 = nn.ConvTranspose2d(4, 6, 3, stride=2), nn.ConvTranspose2d(6, 3, 3, stride=2)

    def coded(self, x: torch.Tensor) -> torch.Tensor:
        codes = self.book["codes"].T if "codes-unturned" in self.ways else self.book["codes"]  # (features, codes)
        flat = x.reshape(-1, 4) if "maps-not-turned" in self.ways else x.permute(0, 2, 3, 1).reshape(-1, 4)
        if "nearest-by-distance" in self.ways:
            distance = torch.cdist(flat, codes.T.contiguous(), compute_mode="donot_use_mm_for_euclid_dist")
        else:
            distance = (flat**2).sum(1, keepdim=True) - 2 * flat @ codes
            distance = distance if "length-of-the-codes-forgotten" in self.ways else distance + (codes**2).sum(0)
        found = codes.T[distance.argmax(1) if "farthest-taken" in self.ways else distance.argmin(1)]
        if "maps-not-turned" in self.ways:
            return found.view_as(x)
        return found.unflatten(0, (len(x), x.shape[2], x.shape[3])).permute(0, 3, 1, 2)

    def raised(self, conv: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        start = 1 if "cut-before" in self.ways else 0
        side = 2 * x.shape[2]
        return conv(x)[:, :, start : start + side, start : start + side]

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.coded(self.down2(F.relu(self.down1(picture))))
        x = self.raised(self.up1, x)
        x = self.raised(self.up2, x if "raised-not-rectified" in self.ways else F.relu(x))
        return x if "colours-unbounded" in self.ways else torch.sigmoid(x)


class _Book(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.codes = self.add_weight(name="codes", shape=(4, 4))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        flat = ops.reshape(x, (-1, 4))
        distance = ops.sum(flat**2, axis=1, keepdims=True) + ops.sum(self.codes**2, axis=0)
        nearest = ops.argmin(distance - 2 * ops.matmul(flat, self.codes), axis=1)
        return ops.reshape(ops.take(ops.transpose(self.codes), nearest, axis=0), ops.shape(x))


@network
def codes() -> Pair:
    """A VQ-VAE with as many codes as features: each place takes the nearest, and a picture is made of them."""
    keras.backend.clear_session()
    picture = layers.Input((16, 16, 3), name="picture")
    x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="down1")(picture)
    x = _Book(name="book")(layers.Conv2D(4, 3, strides=2, padding="same", name="down2")(x))
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up1")(x)
    x = layers.Conv2DTranspose(3, 3, strides=2, padding="same", activation="sigmoid", name="up2")(x)
    model = keras.Model(picture, x)
    fill(model)
    model.get_layer("book").codes.assign(fed(135, 4, 4))
    grown(model, 3, "up1", "up2")
    return Pair(model, fed(136, 3, 16, 16, 3), ported(model, Codes), "NHWC->NCHW")


_BOOK = "book book.* permute* reshape* pow* sum* mul* matmul* sub* add* argm* transpose* slice* unflatten* up1"
slip(
    "codes/codes-unturned",
    _BOOK,
    "dense-transpose axis-permutation",
    "weights-perturbed kernel-layout embedding-offset",
)
slip("codes/maps-not-turned", _BOOK, "reshape-order", "flatten-order wiring")
slip("codes/length-of-the-codes-forgotten", _BOOK, "block-missing bias-missing", "residual-missing operation-kind")
slip("codes/farthest-taken", _BOOK, "pool-kind operation-kind scale")
slip("codes/cut-before", "up1 up2 slice*", "transposed-conv-shift", "pad-asymmetry")
slip("codes/raised-not-rectified", "up1 slice* relu* up2", "activation-missing", "block-missing")
slip("codes/colours-unbounded", "up2 sigmoid slice*", "logits activation-missing", "block-missing")
defect("codes/padded-around", "down1 down1.* down2 down2.*", "pad-asymmetry", "shift")(
    lambda port: [set_to(name, around=lambda x: [1, 1, 1, 1])(port) for name in ("down1", "down2")] and None
)
defect("codes/taps-of-the-second-flipped", "up2", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("up2.weight", lambda weight: weight.flip(2, 3))
)
ways("codes", "nearest-by-distance")
one_layer("codes", "codes-unturned+maps-not-turned", "taps-of-the-second-flipped+colours-unbounded")
neighbours("codes", "raised-not-rectified+length-of-the-codes-forgotten")


# --- around a hole ------------------------------------------------------------------------------------------


class Gated(Port):
    def __init__(self, ways: frozenset[str], inner: int, outer: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(ways)
        self.conv = SameConv2d(inner, 2 * outer, 3, stride=stride, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, gate = self.conv(x).chunk(2, dim=1)
        x, gate = (gate, x) if "gates-first" in self.ways else (x, gate)
        x = x if "features-left-linear" in self.ways else F.elu(x)
        if "gates-by-tanh" in self.ways:
            return x * (1 + torch.tanh(gate / 2)) / 2
        return x * (torch.relu(gate) if "gates-rectified" in self.ways else torch.sigmoid(gate))


class Hole(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down = Gated(ways, 4, 6, stride=2)
        self.far, self.up = Gated(ways, 6, 6, dilation=2), Gated(ways, 6, 6)
        self.out = SameConv2d(6, 3, 3)

    def forward(self, picture: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
        seen = picture if "hole-not-cleared" in self.ways else picture * (1 - hole)
        x = self.down(torch.cat([hole, seen] if "hole-first" in self.ways else [seen, hole], dim=1))
        y = self.far(x)
        y = y if "shortcut-lost" in self.ways else x + y
        if "raised-bilinear" in self.ways:
            y = F.interpolate(y, scale_factor=2, mode="bilinear")
        else:
            y = F.interpolate(y, scale_factor=2)
        x = self.out(self.up(y))
        x = x if "colours-not-cut" in self.ways else F.hardtanh(x)
        if "filled-by-where" in self.ways:
            return torch.where(hole > 0, x, picture)
        return x * (1 - hole) + picture * hole if "hole-kept" in self.ways else x * hole + picture * (1 - hole)


@network
def hole() -> Pair:
    """What belongs into a hole of a picture, by gated convolutions."""
    keras.backend.clear_session()
    picture, hole = layers.Input((12, 10, 3), name="picture"), layers.Input((12, 10, 1), name="hole")

    def gated(x: keras.KerasTensor, name: str, **how: int) -> keras.KerasTensor:
        x = layers.Conv2D(12, 3, padding="same", name=f"{name}.conv", **how)(x)
        x, gate = ops.split(x, 2, axis=-1)
        return ops.elu(x) * ops.sigmoid(gate)

    x = gated(layers.Concatenate(name="both")([picture * (1 - hole), hole]), "down", strides=2)
    x = layers.Add(name="sum")([x, gated(x, "far", dilation_rate=2)])
    x = gated(layers.UpSampling2D(name="raise")(x), "up")
    x = ops.clip(layers.Conv2D(3, 3, padding="same", name="out")(x), -1, 1)
    model = keras.Model([picture, hole], x * hole + picture * (1 - hole))
    fill(model)
    grown(model, 2, "down.conv", "out")
    where = np.zeros((3, 12, 10, 1), "float32")
    where[0, 3:9, 2:7], where[1, :5, 4:], where[2, 6:, :5] = 1, 1, 1
    return Pair(model, {"picture": fed(137, 3, 12, 10, 3), "hole": where}, ported(model, Hole), "NHWC->NCHW")


_GATES = "split* chunk* elu* sigmoid* multiply* mul* down down.* far far.* up up.*"
_FILLED = "multiply* mul* subtract* sub* rsub* add* where clip* hardtanh*"
slip("hole/gates-first", _GATES, "concat-order operand-order channel-order wiring", "activation-kind weights-swapped")
slip("hole/features-left-linear", _GATES, "activation-missing", "block-missing")
slip("hole/gates-rectified", _GATES, "activation-kind")
slip("hole/hole-not-cleared", "both cat down down.* " + _FILLED, "block-missing", "attention-mask wiring")
slip("hole/hole-first", "both cat down down.*", "concat-order", "operand-order channel-order")
slip("hole/shortcut-lost", "sum add far far.* raise interpolate", "residual-missing", "block-missing wiring")
slip("hole/raised-bilinear", "raise interpolate", "resize-mode")
slip("hole/colours-not-cut", "out " + _FILLED, "activation-missing block-missing")
slip("hole/hole-kept", _FILLED, "operand-order wiring", "block-extra")
defect("hole/far-not-dilated", "far far.*", "dilation", "pad-mode")(set_to("far.conv", dilation=(1, 1)))
defect("hole/padded-around", "down down.*", "pad-asymmetry", "shift")(
    set_to("down.conv", around=lambda x: [1, 1, 1, 1])
)
defect("hole/edges-mirrored", "up up.*", "pad-mode", "operation-kind")(lambda port: _mirrored(port.up.conv))


def _mirrored(conv: SameConv2d) -> None:
    conv.forward = lambda x: F.conv2d(F.pad(x, conv.around(x), mode="reflect"), conv.weight, conv.bias)


ways("hole", "filled-by-where", "gates-by-tanh")
one_layer("hole", "gates-first+features-left-linear", "hole-not-cleared+hole-first")
neighbours("hole", "colours-not-cut+hole-kept", "far-not-dilated+shortcut-lost")
