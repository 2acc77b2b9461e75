"""Speech: letters without an alignment, and features that a network finds in the wave itself."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to


class Letters(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Conv1d(5, 6, 5, stride=2, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        self.deep = nn.Conv1d(6, 6, 5, padding=2, groups=6, bias=False)
        self.point, self.point_bn = nn.Conv1d(6, 8, 1, bias=False), nn.BatchNorm1d(8, eps=1e-3)
        self.short, self.short_bn = nn.Conv1d(6, 8, 1, bias=False), nn.BatchNorm1d(8, eps=1e-3)
        self.far, self.head = nn.Conv1d(8, 8, 3, padding=2, dilation=2), nn.Conv1d(8, 7, 1)

    def separable(self, x: torch.Tensor) -> torch.Tensor:
        if "taps-and-points-in-one-kernel" in self.ways:
            return F.conv1d(x, self.point.weight * self.deep.weight.transpose(0, 1), padding=2)
        x = self.deep(x)
        return self.point(F.relu(x) if "rectified-between" in self.ways else x)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        pads = (2, 2) if "padded-around" in self.ways else (1, 2)
        x = F.relu(self.enter_bn(self.enter(F.pad(frames, pads))))
        y, z = self.point_bn(self.separable(x)), self.short(x)
        z = z if "shortcut-not-normed" in self.ways else self.short_bn(z)
        x = F.relu(y if "shortcut-lost" in self.ways else y + z)
        x = self.head(F.relu(self.far(x))).transpose(1, 2)
        if "chances-given" in self.ways:
            return F.softmax(x, dim=2)
        return F.log_softmax(x, dim=1 if "letters-over-time" in self.ways else 2)


@network
def letters() -> Pair:
    """QuartzNet: kernels along time for each channel, points across channels, and logarithms of chances for CTC."""
    keras.backend.clear_session()
    frames = layers.Input((20, 5), name="frames")
    x = layers.Conv1D(6, 5, strides=2, padding="same", use_bias=False, name="enter")(frames)
    x = ops.relu(layers.BatchNormalization(name="enter_bn")(x))
    y = layers.DepthwiseConv1D(5, padding="same", use_bias=False, name="deep")(x)
    y = layers.BatchNormalization(name="point_bn")(layers.Conv1D(8, 1, use_bias=False, name="point")(y))
    z = layers.BatchNormalization(name="short_bn")(layers.Conv1D(8, 1, use_bias=False, name="short")(x))
    x = layers.ReLU(name="relu_sum")(layers.Add(name="sum")([y, z]))
    x = layers.Conv1D(8, 3, padding="same", dilation_rate=2, activation="relu", name="far")(x)
    model = keras.Model(frames, ops.log_softmax(layers.Conv1D(7, 1, name="head")(x), axis=-1))
    fill(model)
    return Pair(model, fed(843, 3, 20, 5), ported(model, Letters), "NHWC->NCHW")


_SHORT = "short short_bn sum add* relu_sum relu*"
slip("letters/padded-around", "enter pad*", "pad-asymmetry", "shift")
slip("letters/rectified-between", "deep point relu*", "activation-extra", "block-extra")
slip("letters/shortcut-not-normed", _SHORT, "block-missing", "bn-stats wiring")
slip("letters/shortcut-lost", _SHORT, "residual-missing", "block-missing wiring")
slip("letters/chances-given", "*softmax* head", "logits", "activation-kind operation-kind")
slip("letters/letters-over-time", "*softmax* head", "softmax-axis", "operation-kind")
defect("letters/far-not-dilated", "far", "dilation", "pad-mode")(set_to("far", dilation=(1,), padding=(1,)))
defect("letters/taps-reversed", "deep", "kernel-flip", "weights-perturbed")(
    rewritten("deep.weight", lambda weight: weight.flip(2))
)
defect("letters/head-in-half", "head head.* bfloat16* to* type* float*", "dtype", "weights-perturbed")(
    lambda port: _halved(port.head)
)


def _halved(conv: nn.Conv1d) -> None:
    """Computes a layer in float16, as a mixed policy leaves it."""
    conv.half()
    plain = conv.forward
    conv.forward = lambda x: plain(x.half()).float()


ways("letters", "taps-and-points-in-one-kernel")
one_layer("letters", "shortcut-not-normed+shortcut-lost", "rectified-between+taps-reversed")
neighbours("letters", "padded-around+rectified-between", "far-not-dilated+head-in-half")


# --- the wave itself ----------------------------------------------------------------------------------------


class Raw(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.listen, self.level = nn.Conv1d(1, 8, 10, stride=5, bias=False), nn.GroupNorm(8, 8, eps=1e-5)
        self.norm, self.project = nn.LayerNorm(8, eps=1e-5), nn.Linear(8, 8)
        self.place = nn.ParameterDict({"taps": torch.zeros(4, 4, 8), "share": torch.ones(4), "bias": torch.zeros(8)})
        self.last, self.wide, self.narrow = nn.LayerNorm(8, eps=1e-5), nn.Linear(8, 12), nn.Linear(12, 8)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")

    def placed(self, x: torch.Tensor) -> torch.Tensor:
        kernel = self.place["taps"]  # steps, inputs of a group, outputs
        if "share-of-each-output" in self.ways:
            length = kernel.square().sum((0, 1), keepdim=True).sqrt()
        else:
            length = kernel.square().sum((1, 2), keepdim=True).sqrt()
        kernel = kernel / length * (1 if "shares-as-begun" in self.ways else self.place["share"][:, None, None])
        weight, x = kernel.permute(2, 1, 0), x.transpose(1, 2)
        if "groups-one-by-one" in self.ways:
            x = F.pad(x, (2, 1))
            parts = zip(x.chunk(2, dim=1), weight.chunk(2), strict=True)
            y = torch.cat([F.conv1d(part, own) for part, own in parts], dim=1) + self.place["bias"][:, None]
        else:
            if "groups-interleaved" in self.ways:
                x = x.unflatten(1, (4, 2)).transpose(1, 2).flatten(1, 2)
            y = F.conv1d(x, weight, self.place["bias"], padding=2, groups=2)
            y = y[:, :, 1:] if "first-cut-off" in self.ways else y[:, :, :-1]
        y = y if "places-left-linear" in self.ways else self.bent(y)
        return y.transpose(1, 2)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        x = self.listen(wave.transpose(1, 2))
        if "levelled-at-once" in self.ways:
            x = F.group_norm(x, 1, self.level.weight, self.level.bias, self.level.eps)
        else:
            x = self.level(x)
        x = self.project(self.norm(self.bent(x).transpose(1, 2)))
        y = self.placed(x)
        x = self.last(y if "places-for-features" in self.ways else x + y)
        return x + self.narrow(self.bent(self.wide(x)))


class _Place(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.taps = self.add_weight(name="taps", shape=(4, 4, 8))
        self.share = self.add_weight(name="share", shape=(4,))
        self.bias = self.add_weight(name="bias", shape=(8,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        length = ops.sqrt(ops.sum(ops.square(self.taps), axis=(1, 2), keepdims=True))
        kernel = self.taps / length * self.share[:, None, None]
        parts = zip(
            ops.split(ops.pad(x, ((0, 0), (2, 1), (0, 0))), 2, axis=2), ops.split(kernel, 2, axis=2), strict=True
        )
        return ops.concatenate([ops.conv(part, own) for part, own in parts], axis=2) + self.bias


@network
def raw() -> Pair:
    """wav2vec: kernels on the wave, each channel levelled over time, and places by a wide kernel of normed weights."""
    keras.backend.clear_session()
    wave = layers.Input((60, 1), name="wave")
    x = layers.Conv1D(8, 10, strides=5, use_bias=False, name="listen")(wave)
    x = ops.gelu(layers.GroupNormalization(8, epsilon=1e-5, name="level")(x), approximate=False)
    x = layers.Dense(8, name="project")(layers.LayerNormalization(epsilon=1e-5, name="norm")(x))
    y = ops.gelu(_Place(name="place")(x), approximate=False)
    x = layers.LayerNormalization(epsilon=1e-5, name="last")(layers.Add(name="sum1")([x, y]))
    y = layers.Dense(8, name="narrow")(ops.gelu(layers.Dense(12, name="wide")(x), approximate=False))
    model = keras.Model(wave, layers.Add(name="sum2")([x, y]))
    fill(model)
    place = model.get_layer("place")
    place.share.assign([1.5, 3.0, 2.0, 2.5])
    return Pair(model, fed(844, 3, 60, 1), ported(model, Raw), "same")


_PLACE = (
    "place place.* unflatten* transpose* flatten* square* pow* sum sqrt* div* mul* permute* conv1d* get_item* slice* "
    "add* gelu* sum1"
)
slip("raw/share-of-each-output", _PLACE, "norm-axis", "operation-kind weights-perturbed")
slip("raw/shares-as-begun", _PLACE, "weights-not-loaded block-missing", "weights-perturbed scale")
slip(
    "raw/groups-interleaved", _PLACE, "groups channel-order", "kernel-layout axis-permutation reshape-order block-extra"
)
slip("raw/first-cut-off", _PLACE, "pad-asymmetry shift", "pad-mode")
slip("raw/places-left-linear", _PLACE, "activation-missing", "block-missing")
slip("raw/places-for-features", "sum1 add* last " + _PLACE, "residual-missing", "block-missing wiring")
slip("raw/gelu-by-tanh", "gelu* wide place level", "gelu-approx")
slip("raw/levelled-at-once", "level group_norm*", "norm-axis groups", "operation-kind")
defect("raw/norm-eps-of-keras", "norm last", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("raw", "groups-one-by-one")
one_layer("raw", "share-of-each-output+shares-as-begun", "groups-interleaved+first-cut-off")
neighbours("raw", "places-left-linear+gelu-by-tanh")
