"""Waves: a heart by twelve leads of which three are left, and what a hand is about to do, by bands."""

from __future__ import annotations

import keras
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
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.thirteenth.registry import each
from benchmarks.corpus.mutations.twelfth.registry import left_on


class Tracing(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv1d(3, 4, 7, padding=3, bias=False), nn.BatchNorm1d(4, eps=1e-3)
        for i, (given, wide) in {1: (4, 6), 2: (6, 6)}.items():
            self.add_module(f"skip{i}", nn.Conv1d(given, wide, 1, bias=False))
            self.add_module(f"wide{i}", nn.Conv1d(given, wide, 7, padding=3, bias=False))
            self.add_module(f"less{i}", nn.Conv1d(wide, wide, 7, stride=4, bias=False))
            self.add_module(f"bn{i}a", nn.BatchNorm1d(wide, eps=1e-3))
            self.add_module(f"bn{i}b", nn.BatchNorm1d(wide, eps=1e-3))
        self.drop, self.labels = nn.Dropout(0.2), nn.Linear(12, 4)

    def fewer(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        if "every-fourth-step" in self.ways:
            return F.conv1d(x, conv.weight, padding=3)[:, :, 2::4]
        return conv(F.pad(x, (3, 3) if "padded-evenly" in self.ways else (1, 2)))

    def unit(self, i: int, x: torch.Tensor, skip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skip = (F.avg_pool1d if "shortcut-of-means" in self.ways else F.max_pool1d)(skip, 4)
        skip = self.get_submodule(f"skip{i}")(skip)
        x = F.relu(self.get_submodule(f"bn{i}a")(self.get_submodule(f"wide{i}")(x)))
        x = self.fewer(self.get_submodule(f"less{i}"), self.drop(x))
        x = x if i == 2 and "last-skip-forgotten" in self.ways else x + skip
        bent = F.relu(self.get_submodule(f"bn{i}b")(x))
        return bent, bent if "one-road-alone" in self.ways else x

    def forward(self, leads: torch.Tensor) -> torch.Tensor:
        x = leads.flip(1) if "leads-from-the-last" in self.ways else leads
        x = F.relu(self.stem_bn(self.stem(x)))
        x, skip = self.unit(1, x, x)
        x, _ = self.unit(2, x, skip)
        x = self.labels(x.flatten(1) if "flattened-as-it-lies" in self.ways else x.mT.flatten(1))
        if "one-label-alone" in self.ways:
            return F.softmax(x, dim=1)
        return x if "labels-left-as-logits" in self.ways else torch.sigmoid(x)


@network
def tracing() -> Pair:
    """Ribeiro's network for an ECG: two roads of which one is never normed, a stride of four, several labels."""
    keras.backend.clear_session()
    leads = layers.Input((32, 3), name="leads")

    def conv(wide: int, size: int, name: str, step: int = 1) -> layers.Layer:
        return layers.Conv1D(wide, size, step, padding="same", use_bias=False, name=name)

    def bent(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=name)(x))

    x = skip = bent(conv(4, 7, "stem")(leads), "stem_bn")
    for i in (1, 2):
        skip = conv(6, 1, f"skip{i}")(layers.MaxPooling1D(4, padding="same", name=f"pool{i}")(skip))
        x = layers.Dropout(0.2, name=f"drop{i}")(bent(conv(6, 7, f"wide{i}")(x), f"bn{i}a"))
        skip = layers.Add(name=f"sum{i}")([conv(6, 7, f"less{i}", 4)(x), skip])
        x = bent(skip, f"bn{i}b")
    x = layers.Dense(4, activation="sigmoid", name="labels")(layers.Flatten(name="row")(x))
    model = keras.Model(leads, x)
    fill(model)
    return Pair(model, fed(1551, 3, 32, 3), ported(model, Tracing), "NHWC->NCHW")


_ROADS = "sum? add* bn?b bn?b_relu relu* pool? max_pool1d* avg_pool1d* skip?"
slip("tracing/padded-evenly", "less? pad* conv1d*", "pad-asymmetry", "shift")
slip("tracing/shortcut-of-means", "pool? max_pool1d* avg_pool1d* skip?", "pool-kind", "operation-kind")
slip("tracing/last-skip-forgotten", "sum2 add* bn2b skip2 less2", "residual-missing block-missing", "wiring")
slip("tracing/one-road-alone", _ROADS, "wiring residual-order", "operand-order activation-extra block-extra")
slip("tracing/leads-from-the-last", "leads flip* stem", "channel-order", "axis-permutation kernel-layout block-extra")
slip("tracing/flattened-as-it-lies", "row flatten* mT* labels", "flatten-order dense-row-order", "wiring")
slip("tracing/one-label-alone", "labels sigmoid* softmax*", "activation-kind", "operation-kind")
slip("tracing/labels-left-as-logits", "labels sigmoid*", "logits activation-missing", "block-missing")
defect("tracing/norm-still-learns", "bn2a", "bn-mode", "bn-stats norm-axis")(left_on("bn2a"))
defect("tracing/gains-for-shifts", "bn1b", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("bn1b", weight=port.bn1b.bias, bias=port.bn1b.weight)(port)
)
ways("tracing", "every-fourth-step")
control("tracing/first-norms-folded")(each(folded("stem", "stem_bn"), folded("wide1", "bn1a"), folded("wide2", "bn2a")))
one_layer("tracing", "one-road-alone+gains-for-shifts", "flattened-as-it-lies+one-label-alone")
neighbours("tracing", "padded-evenly+norm-still-learns", "last-skip-forgotten+labels-left-as-logits")


# --- bands --------------------------------------------------------------------------------------------------


class Filterbank(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.space, self.bn = nn.Conv2d(4, 12, (6, 1), groups=4), nn.BatchNorm2d(12, eps=1e-3)
        self.out = nn.Linear(48, 4)

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "cut-below-zero" in self.ways:
            return F.relu(x)
        return x * torch.sigmoid(x) if "swish-by-hand" in self.ways else F.silu(x)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        if "every-fourth-together" in self.ways:
            return x.unflatten(2, (8, 4)).var(2, correction=0)
        x = x.unflatten(2, (4, 8))
        if "spread-by-hand" in self.ways:
            return (x - x.mean(3, keepdim=True)).square().mean(3)
        if "mean-left-in" in self.ways:
            return x.square().mean(3)
        return x.var(3, correction=1 if "variance-of-torch" in self.ways else 0)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        if "space-by-einsum" in self.ways:
            weight = self.space.weight.unflatten(0, (4, 3))[..., 0, :, 0]
            x = torch.einsum("gmch,nght->ngmt", weight[:, :, None], bands).flatten(1, 2)[:, :, None]
            x = x + self.space.bias[:, None, None]
        else:
            x = self.space(bands)
        x = self.spread(self.bend(self.bn(x))[:, :, 0])
        if "logarithm-forgotten" not in self.ways:
            x = x.clamp(1e-6, 1e6)
            x = torch.log10(x) if "logarithm-to-ten" in self.ways else torch.log(x)
        x = self.out(x.flatten(1) if "flattened-as-it-lies" in self.ways else x.mT.flatten(1))
        return F.log_softmax(x, dim=1) if "logarithms-of-shares" in self.ways else F.softmax(x, dim=1)


@network
def filterbank() -> Pair:
    """FBCNet: each band has filters over the electrodes of its own, and logarithms of how much they spread."""
    keras.backend.clear_session()
    bands = layers.Input((6, 32, 4), name="bands")
    x = layers.DepthwiseConv2D((6, 1), depth_multiplier=3, name="space")(bands)
    x = layers.Activation("swish", name="swish")(layers.BatchNormalization(name="bn")(x))
    x = ops.var(layers.Reshape((4, 8, 12), name="parts")(x), axis=2)
    x = layers.Flatten(name="row")(ops.log(ops.clip(x, 1e-6, 1e6)))
    model = keras.Model(bands, layers.Dense(4, activation="softmax", name="out")(x))
    fill(model)
    variance = model.get_layer("bn").moving_variance
    variance.assign(variance * 0.02)
    return Pair(model, fed(1552, 3, 6, 32, 4), ported(model, Filterbank), "NHWC->NCHW")


_SPREAD = "var* parts unflatten* square* mean* log* clip* clamp*"
slip("filterbank/cut-below-zero", "swish silu* relu* bn", "activation-kind", "operation-kind")
slip("filterbank/every-fourth-together", _SPREAD, "reshape-order axis-permutation", "wiring operation-kind")
slip("filterbank/variance-of-torch", _SPREAD, "std-ddof", "scale operation-kind")
slip("filterbank/mean-left-in", _SPREAD, "block-missing operation-kind", "wiring residual-missing std-ddof")
slip(
    "filterbank/logarithm-forgotten",
    "log* clip* clamp* row flatten* mT* out var*",
    "activation-missing block-missing",
    "operation-kind",
)
slip("filterbank/logarithm-to-ten", "log* clip* clamp* row flatten* mT* out", "scale operation-kind", "activation-kind")
slip("filterbank/flattened-as-it-lies", "row flatten* mT* out", "flatten-order dense-row-order", "wiring")
slip("filterbank/logarithms-of-shares", "out softmax* log_softmax*", "logits activation-kind", "operation-kind")
defect("filterbank/filters-outermost", "space", "depthwise-order", "weights-perturbed groups weights-swapped")(
    rewritten("space.weight", lambda weight: weight.unflatten(0, (4, 3)).transpose(0, 1).flatten(0, 1).clone())
)
defect("filterbank/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("filterbank", "swish-by-hand", "spread-by-hand", "space-by-einsum")
control("filterbank/norm-folded")(folded("space", "bn"))
one_layer("filterbank", "variance-of-torch+logarithm-to-ten", "every-fourth-together+flattened-as-it-lies")
neighbours("filterbank", "filters-outermost+cut-below-zero")
