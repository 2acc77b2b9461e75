"""Signals of bodies: twelve leads of a heart, and electrodes on a head."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import (
    control,
    defect,
    folded,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Leads(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv1d(4, 6, 7, padding=3, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        for i, (given, width) in enumerate(((6, 8), (8, 10)), 1):
            self.add_module(f"short{i}", nn.Conv1d(given, width, 1, bias=False))
            self.add_module(f"conv{i}a", nn.Conv1d(given, width, 7, bias=False))
            self.add_module(f"bn{i}a", nn.BatchNorm1d(width, eps=1e-3))
            self.add_module(f"conv{i}b", nn.Conv1d(width, width, 7, bias=False))
            self.add_module(f"bn{i}b", nn.BatchNorm1d(width, eps=1e-3))
        self.head = nn.Linear(20, 5)

    def unit(self, i: int, x: torch.Tensor, skip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        own = {part: self.get_submodule(part) for part in (f"conv{i}a", f"conv{i}b", f"bn{i}a", f"bn{i}b", f"short{i}")}
        if "skip-pooled-by-reshaping" in self.ways:
            skip = skip.unflatten(2, (-1, 4)).amax(3)
        else:
            skip = F.avg_pool1d(skip, 4) if "skip-averaged" in self.ways else F.max_pool1d(skip, 4)
        skip = own[f"short{i}"](skip)
        even, halved = ((2, 1) if "padded-in-front" in self.ways else (1, 2)), "first-kernel-strided" in self.ways
        first, second = own[f"conv{i}a"].weight, own[f"conv{i}b"].weight
        x = F.conv1d(F.pad(x, even), first, stride=4) if halved else F.conv1d(x, first, padding=3)
        x = F.relu(own[f"bn{i}a"](x))
        x = F.conv1d(x, second, padding=3) if halved else F.conv1d(F.pad(x, even), second, stride=4)
        x = x if "skip-lost" in self.ways else x + skip
        y = F.relu(own[f"bn{i}b"](x))
        return y, (y if "skip-behind-the-bn" in self.ways else x)

    def forward(self, leads: torch.Tensor) -> torch.Tensor:
        x = skip = F.relu(self.stem_bn(self.stem(leads)))
        for i in (1, 2):
            x, skip = self.unit(i, x, skip)
        x = self.head(x.flatten(1) if "channels-outermost" in self.ways else x.transpose(1, 2).flatten(1))
        return F.softmax(x, dim=1) if "one-finding-alone" in self.ways else torch.sigmoid(x)


@network
def leads() -> Pair:
    """Ribeiro's residual network for an ECG: what skips is pooled, and taken before its BatchNorm."""
    keras.backend.clear_session()
    given = layers.Input((32, 4), name="leads")

    def conv(x: keras.KerasTensor, width: int, name: str, size: int = 7, step: int = 1) -> keras.KerasTensor:
        return layers.Conv1D(width, size, step, padding="same", use_bias=False, name=name)(x)

    x = layers.BatchNormalization(name="stem_bn")(conv(given, 6, "stem"))
    x = y = layers.ReLU(name="stem_relu")(x)
    for i, width in enumerate((8, 10), 1):
        y = conv(layers.MaxPooling1D(4, 4, padding="same", name=f"pool{i}")(y), width, f"short{i}", 1)
        x = layers.BatchNormalization(name=f"bn{i}a")(conv(x, width, f"conv{i}a"))
        x = conv(layers.ReLU(name=f"relu{i}a")(x), width, f"conv{i}b", step=4)
        x = y = layers.Add(name=f"sum{i}")([x, y])
        x = layers.ReLU(name=f"relu{i}b")(layers.BatchNormalization(name=f"bn{i}b")(x))
    x = layers.Dense(5, activation="sigmoid", name="head")(layers.Flatten(name="flatten")(x))
    model = keras.Model(given, x)
    fill(model)
    return Pair(model, fed(911, 4, 32, 4), ported(model, Leads), "NHWC->NCHW")


_CONVS, _SKIPS = "conv?? conv1d* pad*", "sum? add* short? bn?b relu*"
slip("leads/skip-averaged", "pool? max_pool1d* avg_pool1d* short?", "pool-kind", "operation-kind")
slip("leads/padded-in-front", _CONVS, "pad-asymmetry", "shift")
slip("leads/first-kernel-strided", _CONVS, "stride-position", "pad-asymmetry operation-kind")
slip("leads/skip-lost", _SKIPS, "residual-missing", "block-missing wiring")
slip("leads/skip-behind-the-bn", _SKIPS + " pool? max_pool1d*", "wiring residual-order",
     "operand-order block-extra activation-extra")  # fmt: skip
slip("leads/channels-outermost", "flatten* transpose* head", "flatten-order dense-row-order", "wiring")
slip("leads/one-finding-alone", "head softmax sigmoid", "activation-kind", "logits operation-kind")
defect("leads/bn-eps-of-torch", "*bn *bn*", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("leads/mean-and-variance-left", "stem_bn", "bn-stats", "weights-not-loaded weights-perturbed")(
    lambda port: port.stem_bn.reset_running_stats()
)
defect("leads/rows-of-the-other-list", "head", "dense-row-order", "weights-perturbed flatten-order")(
    rewritten("head.weight", lambda weight: weight.unflatten(1, (2, 10)).transpose(1, 2).flatten(1))
)
ways("leads", "skip-pooled-by-reshaping")
control("leads/stem-folded")(folded("stem", "stem_bn"))
one_layer("leads", "padded-in-front+skip-lost", "channels-outermost+one-finding-alone")
neighbours("leads", "skip-averaged+skip-behind-the-bn")


# --- electrodes ---------------------------------------------------------------------------------------------


class Shallow(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.times, self.places = nn.Conv2d(1, 5, (1, 7)), nn.Conv2d(5, 5, (6, 1), bias=False)
        self.bn, self.head = nn.BatchNorm2d(5, eps=1e-5), nn.Linear(35, 3)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        if "places-by-name" in self.ways:
            return torch.einsum("bcet,oce->bot", self.times(x), self.places.weight[..., 0])[:, :, None]
        return self.places(self.times(x))

    def forward(self, electrodes: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.seen(electrodes[:, None]))
        if "powers-not-squared" in self.ways:
            x = F.relu(x)
        elif "elu-for-square" in self.ways:
            x = F.elu(x)
        else:
            x = x**2
        if "means-by-unfolding" in self.ways:
            x = x.unfold(3, 10, 4).mean(4)
        elif "largest-for-mean" in self.ways:
            x = F.max_pool2d(x, (1, 10), (1, 4))
        else:
            x = F.avg_pool2d(x, (1, 10), (1, 4))
        x = x.clamp(1e-7, 1e4)
        if "decades" in self.ways:
            x = torch.log10(x)
        elif "power-not-logged" not in self.ways:
            x = torch.log(x)
        x = self.head(x.flatten(1) if "channels-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))
        return F.softmax(x, dim=1)


@network
def shallow() -> Pair:
    """ShallowConvNet: time, then all electrodes, then the logarithm of the power in windows that overlap."""
    keras.backend.clear_session()
    electrodes = layers.Input((6, 40), name="electrodes")
    x = layers.Reshape((6, 40, 1), name="picture")(electrodes)
    x = layers.Conv2D(5, (6, 1), use_bias=False, name="places")(layers.Conv2D(5, (1, 7), name="times")(x))
    x = ops.square(layers.BatchNormalization(epsilon=1e-5, momentum=0.9, name="bn")(x))
    x = layers.AveragePooling2D((1, 10), (1, 4), name="power")(x)
    x = layers.Flatten(name="flatten")(ops.log(ops.clip(x, 1e-7, 1e4)))
    model = keras.Model(electrodes, layers.Dense(3, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 0.5, "head")
    return Pair(model, fed(912, 4, 6, 40), ported(model, Shallow), "same")


_POWER = "square* pow* relu* elu* bn power *_pool2d*"
_LOG = "log* clip* clamp* flatten* power *_pool2d*"
slip("shallow/powers-not-squared", _POWER, "activation-kind", "operation-kind activation-missing")
slip("shallow/elu-for-square", _POWER, "activation-kind", "operation-kind activation-missing")
slip("shallow/largest-for-mean", "power *_pool2d* clip* clamp*", "pool-kind", "operation-kind")
slip("shallow/decades", _LOG, "scale activation-kind", "operation-kind")
slip("shallow/power-not-logged", _LOG, "activation-missing block-missing", "operation-kind")
slip("shallow/channels-outermost", "flatten* permute* head", "flatten-order dense-row-order", "wiring")
defect("shallow/bn-eps-of-keras", "bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("shallow/times-flipped", "times", "kernel-flip", "weights-perturbed")(
    rewritten("times.weight", lambda weight: weight.flip(3))
)
defect("shallow/maps-exchanged", "places", "kernel-layout", "weights-perturbed dense-transpose")(
    rewritten("places.weight", lambda weight: weight.transpose(0, 1))
)
ways("shallow", "places-by-name", "means-by-unfolding")
control("shallow/bn-folded")(folded("places", "bn"))
one_layer("shallow", "decades+channels-outermost")
neighbours("shallow", "times-flipped+maps-exchanged", "elu-for-square+largest-for-mean")
