"""What else is carried over: adverts, relations between things, and leaves of any size."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, fed, ported, rewritten

_STARTS = np.int32([0, 5, 10, 15])
"""Where the rows of each field begin in the table of all."""
_PAIRS = list(itertools.combinations(range(4), 2))


class Adverts(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.rows, self.alone = nn.Embedding(20, 4), nn.Embedding(20, 1)
        self.squeeze, self.excite = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.twist, self.wide, self.out = nn.Linear(4, 4, bias=False), nn.Linear(48, 8), nn.Linear(8, 1)

    def weighed(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.squeeze(x.amax(2) if "largest-squeezed" in self.ways else x.mean(2)))
        y = self.excite(y)
        y = torch.sigmoid(y) if "sigmoid-of-the-excited" in self.ways else F.relu(y)
        return x * y[:, :, None]

    def crossed(self, x: torch.Tensor) -> torch.Tensor:
        one, two = zip(*_PAIRS, strict=True)
        if "pairs-by-the-second" in self.ways:
            one, two = zip(*sorted(_PAIRS, key=lambda pair: pair[::-1]), strict=True)
        if "all-twisted-at-once" in self.ways:
            return self.twist(x)[:, list(one)] * x[:, list(two)]
        if "second-twisted" in self.ways:
            return torch.stack([x[:, i] * self.twist(x[:, j]) for i, j in zip(one, two, strict=True)], dim=1)
        return torch.stack([self.twist(x[:, i]) * x[:, j] for i, j in zip(one, two, strict=True)], dim=1)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        fields = fields if "one-table-for-all" in self.ways else fields + torch.from_numpy(_STARTS)
        x = self.rows(fields)
        parts = [self.crossed(x), self.crossed(x if "weighed-forgotten" in self.ways else self.weighed(x))]
        x = torch.cat(parts, dim=1)
        x = x.transpose(1, 2).flatten(1) if "features-outermost" in self.ways else x.flatten(1)
        x = self.out(F.relu(self.wide(x)))
        x = x if "linear-part-forgotten" in self.ways else x + self.alone(fields).sum(1)
        return torch.sigmoid(x)


@network
def adverts() -> Pair:
    """FiBiNET: fields weighed by one another, each two multiplied behind a twist, weighed and as they are."""
    keras.backend.clear_session()
    fields = layers.Input((4,), dtype="int32", name="fields")
    places = fields + _STARTS
    x = layers.Embedding(20, 4, name="rows")(places)
    y = layers.Dense(2, activation="relu", use_bias=False, name="squeeze")(ops.mean(x, axis=2))
    y = layers.Dense(4, activation="relu", use_bias=False, name="excite")(y)
    weighed = layers.Multiply(name="weighed")([x, ops.expand_dims(y, 2)])
    twist, found = layers.Dense(4, use_bias=False, name="twist"), []
    for part in (x, weighed):
        found += [twist(part[:, i]) * part[:, j] for i, j in _PAIRS]
    x = layers.Flatten(name="flatten")(ops.stack(found, axis=1))
    x = layers.Dense(1, name="out")(layers.Dense(8, activation="relu", name="wide")(x))
    x = layers.Add(name="joint")([x, ops.sum(layers.Embedding(20, 1, name="alone")(places), axis=1)])
    model = keras.Model(fields, layers.Activation("sigmoid", name="chance")(x))
    fill(model)
    for name, share in (("rows", 2), ("alone", 2)):
        table = model.get_layer(name).embeddings
        table.assign(table * share)
    for name in ("squeeze", "excite"):  # so that not all that is weighed is nothing
        kernel = model.get_layer(name).kernel
        kernel.assign(2 * ops.abs(kernel))
    grown(model, 2, "wide")
    return Pair(model, counted(1171, 5, 6, 4), ported(model, Adverts), "same")


_GATE = "squeeze excite mean* amax* relu* sigmoid* weighed mul*"
_CROSSED = "twist* mul* get_item* slice* stack* cat* flatten* select*"
slip("adverts/one-table-for-all", "rows alone add*", "embedding-offset block-missing", "shift weights-perturbed")
slip("adverts/largest-squeezed", _GATE, "pool-kind", "operation-kind")
slip("adverts/sigmoid-of-the-excited", _GATE, "activation-kind", "operation-kind")
slip("adverts/weighed-forgotten", _GATE + " twist*", "block-missing wiring")
slip("adverts/second-twisted", _CROSSED, "operand-order wiring", "operation-kind")
slip("adverts/pairs-by-the-second", _CROSSED, "concat-order", "operand-order channel-order axis-permutation")
slip("adverts/features-outermost", "flatten* transpose* wide", "flatten-order dense-row-order", "wiring")
slip("adverts/linear-part-forgotten", "joint add* alone chance sigmoid*", "residual-missing block-missing", "wiring")
defect("adverts/twist-as-it-lies", "twist*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("twist.weight", lambda weight: weight.T)
)
ways("adverts", "all-twisted-at-once")
one_layer("adverts", "second-twisted+twist-as-it-lies", "largest-squeezed+sigmoid-of-the-excited")
neighbours("adverts", "pairs-by-the-second+features-outermost")


# --- relations ----------------------------------------------------------------------------------------------


class Relations(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.near = nn.ParameterDict({"shares": torch.ones(3, 2), "bases": torch.ones(2, 6, 6)})
        self.own, self.deep, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6, eps=1e-3)
        self.judge = nn.ParameterDict({"by": torch.ones(3, 6)})

    def told(self, x: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        links = links.mT if "links-turned-round" in self.ways else links
        if "counted-over-all-relations" in self.ways:
            links = links / links.sum((1, 3), keepdim=True).clamp(min=1)
        elif "links-not-counted" not in self.ways:
            links = links / links.sum(3, keepdim=True).clamp(min=1)
        if "bases-first" in self.ways:
            y = torch.einsum("bnf,kfo->bkno", x, self.near["bases"])
            return torch.einsum("brnm,rk,bkmo->bno", links, self.near["shares"], y)
        kernels = torch.einsum("rk,kfo->rfo", self.near["shares"], self.near["bases"])
        kernels = kernels.mT if "bases-as-in-dense-layers" in self.ways else kernels
        return (links @ (x[:, None] @ kernels)).sum(1)

    def forward(self, things: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        x = self.told(things, links)
        x = F.relu(x if "thing-itself-forgotten" in self.ways else x + self.own(things))
        x = self.deep(x)
        x = self.norm(x) if "things-normed-as-features" in self.ways else self.norm(x.mT).mT
        judged = x[:, None] * self.judge["by"][:, None]
        x = (judged @ x[:, None].mT).flatten(1, 2)
        return x / 6 if "mean-of-the-features" in self.ways else x


class _Near(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.shares = self.add_weight(name="shares", shape=(3, 2))
        self.bases = self.add_weight(name="bases", shape=(2, 6, 6))

    def call(self, x: keras.KerasTensor, links: keras.KerasTensor) -> keras.KerasTensor:
        kernels = ops.einsum("rk,kfo->rfo", self.shares, self.bases)
        return ops.einsum("brnm,bmf,rfo->bno", links, x, kernels)


class _Judge(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=(3, 6))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.reshape(ops.einsum("bnf,rf,bmf->brnm", x, self.by, x), (-1, 18, 6))


@network
def relations() -> Pair:
    """R-GCN: a kernel for each of three relations, made of two bases, and how likely each relation is for each two."""
    keras.backend.clear_session()
    things, links = layers.Input((6, 6), name="things"), layers.Input((3, 6, 6), name="links")
    counts = ops.maximum(ops.sum(links, axis=3, keepdims=True), 1)
    x = layers.Add(name="joint")([_Near(name="near")(things, links / counts), layers.Dense(6, name="own")(things)])
    x = layers.Dense(6, name="deep")(layers.ReLU(name="relu")(x))
    model = keras.Model([things, links], _Judge(name="judge")(layers.BatchNormalization(name="norm")(x)))
    fill(model)
    present = (np.random.default_rng(1172).random((3, 3, 6, 6)) < 0.4).astype(np.float32)
    return Pair(model, {"things": fed(1173, 3, 6, 6), "links": present}, ported(model, Relations), "same")


_NEAR = "near near.* near/* einsum* matmul* sum* div* truediv* true_divide* clamp* maximum* transpose* mT*"
_JUDGED = "judge judge.* judge/* matmul* mul* div* truediv*"
slip("relations/links-turned-round", _NEAR, "axis-permutation operand-order wiring", "dense-transpose kernel-layout")
slip("relations/counted-over-all-relations", _NEAR, "norm-axis", "operation-kind scale")
slip("relations/links-not-counted", _NEAR, "block-missing", "wiring scale")
slip("relations/bases-as-in-dense-layers", _NEAR, "kernel-layout dense-transpose", "weights-perturbed axis-permutation")
slip("relations/thing-itself-forgotten", "joint add* own relu*", "residual-missing block-missing", "wiring")
slip("relations/things-normed-as-features", "norm transpose* mT*", "norm-axis bn-stats axis-permutation", "wiring")
slip("relations/mean-of-the-features", _JUDGED, "scale", "pool-kind block-extra")
defect("relations/judges-shifted", "judge judge.* judge/* mul*", "weights-perturbed channel-order embedding-offset",
       "shift axis-permutation")(rewritten("judge.by", lambda rows: rows.roll(1, 0)))  # fmt: skip
ways("relations", "bases-first")
control("relations/deep-folded")(folded("deep", "norm"))
one_layer("relations", "links-turned-round+counted-over-all-relations", "mean-of-the-features+judges-shifted")
neighbours("relations", "thing-itself-forgotten+links-not-counted")


# --- leaves -------------------------------------------------------------------------------------------------


class Leaf(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.deep = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1, groups=4)
        self.bn, self.point, self.head = nn.BatchNorm2d(8, eps=1e-3), nn.Conv2d(8, 8, 2), nn.Linear(8, 4)

    def small(self, image: torch.Tensor) -> torch.Tensor:
        mode = "bicubic" if "made-small-by-cubes" in self.ways else "bilinear"
        return F.interpolate(image, (8, 8), mode=mode, antialias="made-small-at-points" not in self.ways)

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.point(x)), 2, ceil_mode="last-row-kept" in self.ways)
        return F.avg_pool2d(x, 3, 2, 1, count_include_pad="zeros-counted" in self.ways)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.small(image)
        x = x / 128 - 1 if "bytes-by-a-power-of-two" in self.ways else x / 127.5 - 1
        x = self.stem(x)
        x = F.relu(x) if "unbounded-above" in self.ways else F.relu6(x)
        if "channels-one-by-one" in self.ways:
            parts = zip(x.split(1, dim=1), self.deep.weight.split(2), self.deep.bias.split(2), strict=True)
            x = torch.cat([F.conv2d(part, weight, bias, padding=1) for part, weight, bias in parts], dim=1)
        else:
            x = self.deep(x)
        return self.head(self.halved(F.relu6(self.bn(x))).mean((2, 3)))


@network
def leaf() -> Pair:
    """A leaf's kind: made small, two features of each channel, a pool of odd maps, means that leave padding out."""
    keras.backend.clear_session()
    image = layers.Input((20, 20, 3), name="image")
    x = ops.image.resize(image, (8, 8), interpolation="bilinear", antialias=True)
    x = layers.Rescaling(1 / 127.5, -1, name="scaled")(x)
    x = layers.ReLU(6, name="stem_relu")(layers.Conv2D(4, 3, padding="same", name="stem")(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    x = layers.ReLU(6, name="deep_relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.MaxPooling2D(2, name="pool")(layers.Conv2D(8, 2, activation="relu", name="point")(x))
    x = layers.AveragePooling2D(3, 2, padding="same", name="halved")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))
    fill(model)
    grown(model, 40, "stem")
    return Pair(model, counted(1174, 256, 3, 20, 20, 3).astype(np.float32), ported(model, Leaf), "NHWC->NCHW")


slip("leaf/made-small-at-points", "resize* interpolate* image", "resize-antialias", "resize-mode")
slip("leaf/made-small-by-cubes", "resize* interpolate* image", "resize-mode", "operation-kind")
slip("leaf/bytes-by-a-power-of-two", "scaled div* sub* truediv* stem", "input-normalisation input-scale", "scale")
slip("leaf/unbounded-above", "stem_relu relu* stem", "activation-kind activation-param", "operation-kind")
slip("leaf/zeros-counted", "halved avg_pool2d* pad*", "pool-count-include-pad")
slip("leaf/last-row-kept", "pool max_pool2d* mean*", "pool-ceil-mode")
defect("leaf/multiples-innermost", "deep", "depthwise-order", "weights-perturbed")(
    rewritten("deep.*", lambda tensor: tensor.unflatten(0, (2, 4)).transpose(0, 1).flatten(0, 1))
)
defect("leaf/shifts-never-loaded", "bn", "bn-stats weights-not-loaded bias-missing", "weights-perturbed")(
    rewritten("bn.bias", torch.zeros_like)
)
ways("leaf", "channels-one-by-one")
control("leaf/deep-folded")(folded("deep", "bn"))
one_layer("leaf", "multiples-innermost+shifts-never-loaded", "made-small-at-points+bytes-by-a-power-of-two")
neighbours("leaf", "zeros-counted+last-row-kept", "unbounded-above+multiples-innermost")
