"""Fields and tables: how far away things are, what a flow becomes, and what somebody may want next."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, fed, ported, rewritten


class Depths(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.deep = nn.Conv2d(3, 6, 3, stride=2, groups=3)
        self.point, self.bn = nn.Conv2d(6, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.low, self.join, self.out = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((8, 10), (18, 6), (9, 1)))

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.3 if "slope-of-keras" in self.ways else 0.2)

    def raised(self, x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        if "raised-by-the-nearest" in self.ways:
            return F.interpolate(x, like.shape[2:])
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners="corners-aligned" in self.ways)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if "zeros-counted" in self.ways:
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        if "pooled-by-counting" in self.ways:
            there = F.avg_pool2d(F.pad(torch.ones_like(x[:1, :1]), (0, 1, 0, 1)), 3, 2)
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2) / there
        return F.avg_pool2d(x, 3, 2, ceil_mode="pooled-by-floor" not in self.ways)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if "channels-innermost" in self.ways:
            image = image.contiguous(memory_format=torch.channels_last)
        skip = F.relu(self.bn(self.point(self.deep(F.pad(image, (0, 1, 0, 1))))))
        x = self.leaky(self.low(self.pooled(skip)))
        both = [self.raised(x, skip), skip]
        x = self.leaky(self.join(torch.cat(both[::-1] if "skip-first" in self.ways else both, dim=1)))
        x = self.out(torch.cat([self.raised(x, image), image], dim=1))
        smooth = "thumbnail-not-smoothed" not in self.ways
        return x, F.interpolate(x, (5, 5), mode="bilinear", antialias=smooth)


@network
def depths() -> Pair:
    """DenseDepth on a small network: two maps for each colour, means without padding, two ways up, a thumbnail."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def raised(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.UpSampling2D(2, interpolation="bilinear", name=name)(x)

    x = layers.DepthwiseConv2D(3, 2, padding="same", depth_multiplier=2, name="deep")(image)
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(8, 1, use_bias=False, name="point")(x))
    skip = layers.ReLU(name="relu")(x)
    x = layers.AveragePooling2D(3, 2, padding="same", name="pool")(skip)
    x = layers.LeakyReLU(0.2, name="low_leaky")(layers.Conv2D(10, 3, padding="same", name="low")(x))
    x = layers.Concatenate(name="both")([raised(x, "raised1"), skip])
    x = layers.LeakyReLU(0.2, name="join_leaky")(layers.Conv2D(6, 3, padding="same", name="join")(x))
    x = layers.Concatenate(name="whole")([raised(x, "raised2"), image])
    x = layers.Conv2D(1, 3, padding="same", name="out")(x)
    small = layers.Resizing(5, 5, interpolation="bilinear", antialias=True, name="thumbnail")(x)
    model = keras.Model(image, [x, small])
    fill(model)
    return Pair(model, fed(991, 2, 12, 12, 3), ported(model, Depths), "NHWC->NCHW")


_RAISED = "raised? interpolate* both cat*"
slip("depths/corners-aligned", _RAISED, "resize-align-corners", "resize-mode")
slip("depths/raised-by-the-nearest", _RAISED, "resize-mode", "operation-kind")
slip("depths/zeros-counted", "pool avg_pool2d* pad*", "pool-count-include-pad", "pad-mode scale")
slip("depths/pooled-by-floor", "pool avg_pool2d* low", "pool-ceil-mode", "pad-mode pad-asymmetry")
slip("depths/slope-of-keras", "*_leaky leaky_relu*", "activation-param")
slip("depths/skip-first", "both cat* join", "concat-order", "operand-order channel-order")
slip("depths/thumbnail-not-smoothed", "thumbnail interpolate*", "resize-antialias", "resize-mode")
defect("depths/maps-behind-one-another", "deep", "depthwise-order", "weights-perturbed")(
    rewritten("deep.weight", lambda weight: weight.unflatten(0, (3, 2)).transpose(0, 1).flatten(0, 1))
)
ways("depths", "pooled-by-counting", "channels-innermost")
control("depths/bn-folded")(folded("point", "bn"))
one_layer("depths", "maps-behind-one-another+skip-first")
neighbours("depths", "zeros-counted+slope-of-keras", "raised-by-the-nearest+thumbnail-not-smoothed")


# --- a flow -------------------------------------------------------------------------------------------------


class Spectral(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.lift, self.point1, self.point2 = nn.Linear(2, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.waves1, self.waves2 = (nn.ParameterDict({part: torch.zeros(6, 6, 5) for part in ("real", "imaginary")})
                                    for _ in range(2))  # fmt: skip
        self.wide, self.out = nn.Linear(6, 8), nn.Linear(8, 1)

    def transformed(self, own: nn.ParameterDict, x: torch.Tensor) -> torch.Tensor:
        weight = torch.complex(own["real"], own["imaginary"])
        weight = weight.transpose(0, 1) if "inputs-for-outputs" in self.ways else weight
        if "transform-by-products" in self.ways:
            angles = 2 * torch.pi / 16 * torch.outer(torch.arange(16), torch.arange(5)).float()
            turn = torch.complex(angles.cos(), -angles.sin())
            y = torch.einsum("bim,iom->bom", x.transpose(1, 2).to(turn.dtype) @ turn, weight)
            y = y * torch.tensor([1.0, 2, 2, 2, 2]) / 16
            return (y @ turn.conj().T).real.transpose(1, 2)
        first = int("mean-left-out" in self.ways)
        y = torch.fft.rfft(x, dim=1)[:, first : 5 + first]
        y = torch.einsum("bmi,iom->bmo", y, weight)
        y = F.pad(y, (0, 0, first, 4 - first))
        return torch.fft.irfft(
            y, n=16, dim=1, norm="forward" if "not-divided-by-the-steps" in self.ways else "backward"
        )

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")

    def forward(self, values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        both = [places, values] if "places-first" in self.ways else [values, places]
        x = self.lift(torch.cat(both, dim=2))
        x = self.bent(self.transformed(self.waves1, x) + self.point1(x))
        y = self.transformed(self.waves2, x)
        x = y if "points-forgotten" in self.ways else y + self.point2(x)
        x = self.bent(x) if "last-bent-as-well" in self.ways else x
        return self.out(self.bent(self.wide(x)))


class _Waves(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.real, self.imaginary = (self.add_weight(name=name, shape=(6, 6, 5)) for name in ("real", "imaginary"))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        real, imaginary = (part[..., :5] for part in ops.rfft(ops.transpose(x, (0, 2, 1))))
        product = "bim,iom->bom"
        found = (ops.einsum(product, real, self.real) - ops.einsum(product, imaginary, self.imaginary),
                 ops.einsum(product, real, self.imaginary) + ops.einsum(product, imaginary, self.real))  # fmt: skip
        found = tuple(ops.pad(part, ((0, 0), (0, 0), (0, 4))) for part in found)
        return ops.transpose(ops.irfft(found, fft_length=16), (0, 2, 1))


@network
def spectral() -> Pair:
    """A Fourier neural operator: the slow waves of a field are weighed, and each place beside them."""
    keras.backend.clear_session()
    values, places = layers.Input((16, 1), name="values"), layers.Input((16, 1), name="places")
    x = layers.Dense(6, name="lift")(layers.Concatenate(name="both")([values, places]))
    x = layers.Add(name="sum1")([_Waves(name="waves1")(x), layers.Dense(6, name="point1")(x)])
    x = ops.gelu(x, approximate=False)
    x = layers.Add(name="sum2")([_Waves(name="waves2")(x), layers.Dense(6, name="point2")(x)])
    x = ops.gelu(layers.Dense(8, name="wide")(x), approximate=False)
    model = keras.Model([values, places], layers.Dense(1, name="out")(x))
    fill(model)
    grown(model, 2, "lift", "wide")
    for name in ("waves1", "waves2"):
        for part in model.get_layer(name).weights:
            part.assign(part * 3)
    inputs = {
        "values": fed(992, 3, 16, 1),
        "places": np.tile(np.linspace(0, 1, 16, dtype=np.float32)[:, None], (3, 1, 1)),
    }
    return Pair(model, inputs, ported(model, Spectral), "same")


_WAVES = "waves? waves?.* *fft* einsum* pad* get_item* slice* complex*"
slip(
    "spectral/inputs-for-outputs",
    _WAVES + " transpose*",
    "dense-transpose kernel-layout",
    "weights-perturbed axis-permutation",
)
slip("spectral/mean-left-out", _WAVES, "shift", "wiring weights-perturbed block-missing")
slip("spectral/not-divided-by-the-steps", _WAVES, "scale", "operation-kind")
slip("spectral/gelu-by-tanh", "gelu* wide", "gelu-approx")
slip("spectral/places-first", "both cat* lift", "concat-order", "operand-order channel-order")
slip("spectral/points-forgotten", "sum2 add* point2 waves2*", "residual-missing", "block-missing wiring")
slip("spectral/last-bent-as-well", "gelu* sum2 add* wide", "activation-extra", "block-extra")
ways("spectral", "transform-by-products")
one_layer("spectral", "inputs-for-outputs+not-divided-by-the-steps", "points-forgotten+last-bent-as-well")
neighbours("spectral", "places-first+gelu-by-tanh")


# --- two towers ---------------------------------------------------------------------------------------------


class Towers(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items, self.countries = nn.Embedding(14, 6, padding_idx=0), nn.Embedding(5, 3)
        self.wide, self.drop, self.user = nn.Linear(10, 8), nn.Dropout(0.3), nn.Linear(8, 6)
        self.kinds, self.item = nn.Linear(4, 6), nn.Linear(6, 6)

    def seen(self, history: torch.Tensor) -> torch.Tensor:
        if "bag-of-torch" in self.ways:
            return F.embedding_bag(history, self.items.weight, mode="mean", padding_idx=0)
        found, there = self.items(history), (history > 0).float()[..., None]
        return found.mean(1) if "padding-in-the-mean" in self.ways else (found * there).sum(1) / there.sum(1)

    def length(self, x: torch.Tensor) -> torch.Tensor:
        return x if "lengths-left" in self.ways else F.normalize(x, dim=1, eps=1e-12)

    def forward(
        self, history: torch.Tensor, country: torch.Tensor, age: torch.Tensor, item: torch.Tensor, kinds: torch.Tensor
    ) -> torch.Tensor:
        age = age if "age-as-it-is" in self.ways else (age - 40) / (100 if "age-by-its-variance" in self.ways else 10)
        own = self.countries(country - 1 if "countries-from-one" in self.ways else country)
        x = torch.cat([self.seen(history), own, age], dim=1)
        x = self.wide(x)
        user = self.user(self.drop(x if "wide-left-linear" in self.ways else F.relu(x)))
        item = self.item(self.items(item) + self.kinds(kinds))
        if "likeness-of-torch" in self.ways:
            alike = F.cosine_similarity(user, item, dim=1)[:, None]
        else:
            alike = (self.length(user) * self.length(item)).sum(1, keepdim=True)
        return torch.sigmoid(alike if "heat-forgotten" in self.ways else alike / 0.2)


@network
def towers() -> Pair:
    """Two towers of a recommender: what was read, where one lives and how old one is, beside what is offered."""
    keras.backend.clear_session()
    history, item = layers.Input((6,), dtype="int32", name="history"), layers.Input((), dtype="int32", name="item")
    country, age = layers.Input((), dtype="int32", name="country"), layers.Input((1,), name="age")
    kinds = layers.Input((4,), name="kinds")
    items = layers.Embedding(14, 6, name="items")
    there = ops.expand_dims(ops.cast(history > 0, "float32"), 2)
    read = ops.sum(items(history) * there, axis=1) / ops.sum(there, axis=1)
    parts = [read, layers.Embedding(5, 3, name="countries")(country),
             layers.Normalization(mean=40.0, variance=100.0, name="age_scaled")(age)]  # fmt: skip
    x = layers.Dense(8, activation="relu", name="wide")(layers.Concatenate(name="person")(parts))
    user = layers.Dense(6, name="user")(layers.Dropout(0.3, name="drop")(x))
    offered = layers.Dense(6, name="item_tower")(
        layers.Add(name="offer")([items(item), layers.Dense(6, name="kinds_tower")(kinds)])
    )
    both = [layers.UnitNormalization(name=f"{name}_length")(side) for name, side in (("user", user), ("item", offered))]
    alike = ops.sum(layers.Multiply(name="alike")(both), axis=1, keepdims=True)
    model = keras.Model([history, country, age, item, kinds], ops.sigmoid(alike / 0.2))
    fill(model)
    grown(model, 2, "wide")
    table = model.get_layer("items").embeddings
    table.assign(2 * table)
    given = counted(993, 14, 5, 6, least=1)
    given[0, 2:], given[2, 4:], given[3, 1:] = 0, 0, 0
    inputs = {"history": given, "country": np.int32([1, 4, 2, 3, 1]), "age": np.float32([[23], [61], [38], [45], [30]]),
              "item": counted(994, 14, 5, least=1), "kinds": (fed(995, 5, 4) > 0).astype(np.float32)}  # fmt: skip
    return Pair(model, inputs, ported(model, Towers, rename=lambda name: name.removesuffix("_tower")), "same")


_READ = "items sum* mean* mul* multiply* div* true_divide* person cat*"
_AGE = "age age_scaled sub* subtract* div* true_divide* person cat* wide"
_ALIKE = "*_length normalize* alike mul* sum* div* true_divide* sigmoid*"
slip("towers/padding-in-the-mean", _READ, "pool-kind attention-mask", "operation-kind scale block-missing")
slip("towers/age-as-it-is", _AGE, "input-normalisation input-scale block-missing", "scale")
slip("towers/age-by-its-variance", _AGE, "scale input-scale input-normalisation", "bn-stats std-ddof")
slip("towers/countries-from-one", "countries person cat* sub*", "embedding-offset", "shift weights-perturbed")
slip("towers/wide-left-linear", "wide relu* drop user", "activation-missing", "block-missing")
slip("towers/lengths-left", _ALIKE + " user item", "block-missing", "scale wiring")
slip("towers/heat-forgotten", _ALIKE, "scale block-missing", "attention-scale")
defect("towers/half-precision", "user user.*", "dtype", "weights-perturbed")(lambda port: _halved(port.user))
defect("towers/still-forgets", "drop", "dropout-mode")(lambda port: _forgetting(port.drop))


def _halved(dense: Any) -> None:
    """As a mixed policy leaves a layer."""
    dense.bfloat16()
    plain = dense.forward
    dense.forward = lambda x: plain(x.bfloat16()).float()


def _forgetting(drop: Any) -> None:
    """As where ``F.dropout`` was not told of ``eval``."""
    drop.train(True)
    drop.train = lambda mode=True: drop


ways("towers", "bag-of-torch", "likeness-of-torch")
one_layer("towers", "lengths-left+heat-forgotten")
neighbours("towers", "age-as-it-is+countries-from-one", "wide-left-linear+half-precision")
