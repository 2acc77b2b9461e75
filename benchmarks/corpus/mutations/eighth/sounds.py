"""Sounds: what is heard, and who speaks."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Heard(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.wide, self.embed = nn.Linear(48, 10), nn.Linear(10, 6)
        self.mean = nn.ParameterDict({"bias": torch.zeros(6)})
        self.turn = nn.Linear(6, 6, bias=False)

    def logged(self, bands: torch.Tensor) -> torch.Tensor:
        x = bands + (1e-6 if "offset-of-others" in self.ways else 0.01)
        return torch.log10(x) if "decades" in self.ways else torch.log(x)

    def listed(self, x: torch.Tensor) -> torch.Tensor:
        if "rows-in-the-weights" in self.ways:
            return F.linear(x.flatten(1), self.wide.weight.unflatten(1, (4, 2, 6)).permute(0, 3, 1, 2).flatten(1),
                            self.wide.bias)  # fmt: skip
        return self.wide(x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        x = self.logged(bands)
        if "bands-for-steps" in self.ways:
            x = x.transpose(1, 2).reshape(bands.shape)
        x = F.max_pool2d(F.relu(self.conv1(x[:, None])), 2)
        x = F.relu(self.conv2(x))
        x = F.relu(self.listed(F.avg_pool2d(x, 2) if "means-pooled" in self.ways else F.max_pool2d(x, 2)))
        x = self.embed(x) if "features-left-linear" in self.ways else F.relu(self.embed(x))
        x = x if "mean-left-in" in self.ways else x - self.mean["bias"]
        if "turned-and-cut-by-hand" in self.ways:
            return torch.minimum(torch.maximum(x @ self.turn.weight.T, -torch.ones(())), torch.ones(()))
        x = self.turn(x)
        return x if "never-cut" in self.ways else x.clamp(-1, 1)


class _Centred(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x - self.bias


@network
def heard() -> Pair:
    """VGGish: logarithms of mel bands, two kernels, and features that are turned to their main axes and cut."""
    keras.backend.clear_session()
    bands = layers.Input((16, 8), name="bands")
    x = layers.Reshape((16, 8, 1), name="picture")(ops.log(bands + 0.01))
    for i, width in enumerate((4, 6), 1):
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Dense(10, activation="relu", name="wide")(layers.Flatten(name="list")(x))
    x = _Centred(name="mean")(layers.Dense(6, activation="relu", name="embed")(x))
    model = keras.Model(bands, ops.clip(layers.Dense(6, use_bias=False, name="turn")(x), -1, 1))
    fill(model)
    grown(model, 2, "turn")
    return Pair(model, np.exp(fed(841, 4, 16, 8) - 3), ported(model, Heard), "same")


_LOG, _TURNED = "log* add* conv1 picture", "mean turn sub* clip* clamp* embed"
slip("heard/decades", _LOG, "scale activation-kind", "operation-kind")
slip("heard/offset-of-others", _LOG, "bias-missing activation-param weights-perturbed", "input-normalisation shift")
slip(
    "heard/bands-for-steps",
    "picture reshape* transpose* get_item* slice* conv1",
    "reshape-order axis-permutation flatten-order",
    "wiring",
)
slip("heard/means-pooled", "pool2 *_pool2d* list", "pool-kind", "operation-kind")
slip("heard/maps-outermost", "list permute* flatten* wide", "flatten-order dense-row-order", "wiring")
slip("heard/features-left-linear", "embed relu* mean sub*", "activation-missing", "block-missing")
slip("heard/mean-left-in", _TURNED, "bias-missing block-missing", "wiring")
slip("heard/never-cut", _TURNED, "activation-missing block-missing", "operation-kind")
defect("heard/axes-unturned", "turn", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("turn.weight", lambda weight: weight.T)
)
ways("heard", "rows-in-the-weights", "turned-and-cut-by-hand")
one_layer("heard", "decades+offset-of-others", "axes-unturned+never-cut")
neighbours("heard", "features-left-linear+mean-left-in", "means-pooled+maps-outermost")


# --- who speaks ---------------------------------------------------------------------------------------------


class Speaker(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Conv1d(5, 8, 5), nn.BatchNorm1d(8, eps=1e-3)
        self.later, self.later_bn = nn.Conv1d(4, 4, 3, padding=2, dilation=2), nn.BatchNorm1d(4, eps=1e-3)
        self.last = nn.Conv1d(8, 7, 1)
        self.embed, self.embed_bn = nn.Linear(14, 6), nn.BatchNorm1d(6, eps=1e-3)

    def spread(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        if "spread-of-torch" in self.ways:
            return torch.sqrt(x.var(2) + 1e-5)
        if "spread-by-squares" in self.ways:
            return torch.sqrt(torch.linalg.vecdot(x - mean[:, :, None], x - mean[:, :, None]) / x.shape[2] + 1e-5)
        variance = x.var(2, correction=0)
        return variance if "variance-for-spread" in self.ways else torch.sqrt(variance + 1e-5)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = frames if "frames-not-centred" in self.ways else frames - frames.mean(2, keepdim=True)
        x = self.enter(x)
        x = F.relu(self.enter_bn(x)) if "normed-before-rectified" in self.ways else self.enter_bn(F.relu(x))
        one, two = x.chunk(2, dim=1)
        two = two if "halves-apart" in self.ways else two + one
        two = F.relu(self.later_bn(self.later(two)))
        y = torch.cat([two, one] if "second-half-first" in self.ways else [one, two], dim=1)
        x = F.relu(self.last(y if "frames-forgotten" in self.ways else x + y))
        mean = x.mean(2)
        both = [mean, self.spread(x, mean)]
        x = self.embed_bn(self.embed(torch.cat(both[::-1] if "spread-first" in self.ways else both, dim=1)))
        return F.normalize(x, dim=0 if "length-over-the-batch" in self.ways else 1, eps=1e-12)


@network
def speaker() -> Pair:
    """Who speaks: centred frames, halves of which one hears the other, mean and spread over time, a length of one."""
    keras.backend.clear_session()
    frames = layers.Input((14, 5), name="frames")
    x = frames - ops.mean(frames, axis=1, keepdims=True)
    x = layers.BatchNormalization(name="enter_bn")(layers.Conv1D(8, 5, activation="relu", name="enter")(x))
    one, two = ops.split(x, 2, axis=2)
    two = layers.Conv1D(4, 3, padding="same", dilation_rate=2, name="later")(two + one)
    two = ops.relu(layers.BatchNormalization(name="later_bn")(two))
    y = layers.Concatenate(name="halves")([one, two])
    x = layers.Conv1D(7, 1, activation="relu", name="last")(layers.Add(name="sum")([x, y]))
    both = [ops.mean(x, axis=1), ops.sqrt(ops.var(x, axis=1) + 1e-5)]
    x = layers.Dense(6, name="embed")(layers.Concatenate(name="statistics")(both))
    x = layers.BatchNormalization(name="embed_bn")(x)
    model = keras.Model(frames, layers.UnitNormalization(name="length")(x))
    fill(model)
    return Pair(model, fed(842, 4, 14, 5) + 1, ported(model, Speaker), "NHWC->NCHW")


_STATISTICS = "mean* var* sqrt* add* statistics cat* embed std*"
_HALVES = "split* chunk* add* later later_bn halves cat* sum last"
slip("speaker/frames-not-centred", "mean sub* subtract* enter", "input-normalisation block-missing", "wiring")
slip("speaker/normed-before-rectified", "enter enter_bn relu*", "residual-order wiring",
     "operation-kind activation-missing activation-extra block-missing block-extra operand-order")  # fmt: skip
slip("speaker/halves-apart", _HALVES, "residual-missing", "block-missing wiring")
slip("speaker/second-half-first", _HALVES, "concat-order", "operand-order channel-order")
slip("speaker/frames-forgotten", _HALVES, "residual-missing", "block-missing wiring")
slip("speaker/spread-of-torch", _STATISTICS, "std-ddof")
slip("speaker/variance-for-spread", _STATISTICS, "block-missing activation-missing", "operation-kind")
slip("speaker/spread-first", _STATISTICS, "concat-order", "operand-order channel-order")
slip("speaker/length-over-the-batch", "length normalize*", "norm-axis", "operation-kind")
defect("speaker/norms-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("speaker", "spread-by-squares")
one_layer("speaker", "variance-for-spread+spread-first", "halves-apart+second-half-first")
neighbours("speaker", "spread-of-torch+length-over-the-batch", "frames-not-centred+normed-before-rectified")
