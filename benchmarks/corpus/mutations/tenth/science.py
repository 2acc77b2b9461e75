"""Fields of science: which molecules are alike, the solution of an equation, and two speeds of a film."""

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
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.tenth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Alike(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.kinds = nn.Embedding(9, 6)
        for i in (1, 2):
            self.add_module(f"own{i}", nn.ParameterDict({"share": torch.zeros(())}))
            self.add_module(f"first{i}", nn.Linear(6, 6))
            self.add_module(f"bn{i}", nn.BatchNorm1d(6, eps=1e-3))
            self.add_module(f"second{i}", nn.Linear(6, 6))
        self.out = nn.Linear(18, 2)

    def normed(self, bn: nn.BatchNorm1d, x: torch.Tensor) -> torch.Tensor:
        if "atoms-normed-as-channels" in self.ways:
            return bn(x)
        if "norm-of-flat-atoms" in self.ways:
            return bn(x.flatten(0, 1)).view_as(x)
        return bn(x.transpose(1, 2)).transpose(1, 2)

    def layer(self, i: int, x: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        first, bn, second = (self.get_submodule(f"{part}{i}") for part in ("first", "bn", "second"))
        near = torch.einsum("bnm,bmf->bnf", bonds, x) if "bonds-by-einsum" in self.ways else bonds @ x
        if "neighbours-averaged" in self.ways:
            near = near / bonds.sum(2, keepdim=True)
        own = x if "share-forgotten" in self.ways else (1 + self.get_submodule(f"own{i}")["share"]) * x
        y = first(near if "atom-itself-forgotten" in self.ways else own + near)
        return F.relu(second(F.relu(self.normed(bn, y))))

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        found = [self.kinds(atoms)]
        for i in (1, 2):
            found.append(self.layer(i, found[-1], bonds))
        x = torch.cat(found[::-1] if "last-layer-first" in self.ways else found, dim=2)
        return self.out(x.mean(1) if "mean-of-the-atoms" in self.ways else x.sum(1))


class _Own(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.share = self.add_weight(name="share", shape=())

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return (1 + self.share) * x


@network
def alike() -> Pair:
    """A graph isomorphism network: what an atom is and its neighbours, all layers beside one another, their sum."""
    keras.backend.clear_session()
    atoms, bonds = layers.Input((6,), dtype="int32", name="atoms"), layers.Input((6, 6), name="bonds")
    found = [layers.Embedding(9, 6, name="kinds")(atoms)]
    for i in (1, 2):
        x = layers.Add(name=f"sum{i}")([_Own(name=f"own{i}")(found[-1]), ops.matmul(bonds, found[-1])])
        x = layers.BatchNormalization(name=f"bn{i}")(layers.Dense(6, name=f"first{i}")(x))
        found.append(layers.Dense(6, activation="relu", name=f"second{i}")(layers.ReLU(name=f"relu{i}")(x)))
    x = ops.sum(layers.Concatenate(name="all")(found), axis=1)
    model = keras.Model([atoms, bonds], layers.Dense(2, name="out")(x))
    fill(model)
    for i, share in ((1, 0.4), (2, -0.3)):
        model.get_layer(f"own{i}").share.assign(share)
    links = (np.random.default_rng(1071).random((4, 6, 6)) < 0.3).astype(np.float32)
    links = np.maximum(np.maximum(links, links.transpose(0, 2, 1)), np.roll(np.eye(6, dtype=np.float32), 1, axis=1))
    return Pair(model, {"atoms": counted(1072, 9, 4, 6), "bonds": links}, ported(model, Alike), "same")


_NEAR = "own? own?.* sum? matmul* add* mul* first? div* truediv* sum*"
slip("alike/atoms-normed-as-channels", "bn? transpose*", "norm-axis bn-stats", "axis-permutation wiring")
slip("alike/neighbours-averaged", _NEAR, "block-extra scale pool-kind", "operation-kind norm-axis")
slip("alike/share-forgotten", _NEAR, "block-missing scale weights-not-loaded", "wiring")
slip("alike/atom-itself-forgotten", _NEAR, "residual-missing", "wiring block-missing")
slip("alike/last-layer-first", "all cat* out sum*", "concat-order", "operand-order channel-order")
slip("alike/mean-of-the-atoms", "sum* mean* out", "pool-kind scale", "operation-kind")
defect("alike/layers-exchanged", "second1 second2", "weights-swapped", "weights-perturbed wiring")(
    exchanged("second1", "second2")
)
defect("alike/first-as-it-lies", "first1", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("first1.weight", lambda weight: weight.T)
)
ways("alike", "norm-of-flat-atoms", "bonds-by-einsum")
control("alike/norm-folded")(folded("first1", "bn1"))
one_layer("alike", "neighbours-averaged+share-forgotten", "last-layer-first+mean-of-the-atoms")
neighbours("alike", "atoms-normed-as-channels+layers-exchanged")


# --- the solution of an equation ----------------------------------------------------------------------------


class Solution(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.branch1, self.branch2 = nn.Linear(8, 8), nn.Linear(8, 6)
        self.trunk1, self.trunk2 = nn.Linear(2, 8), nn.Linear(8, 6)
        self.level = nn.ParameterDict({"shift": torch.zeros(1)})

    def sine(self, dense: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if "heat-before-the-shift" in self.ways:
            return torch.sin(3 * F.linear(x, dense.weight) + dense.bias)
        if "heat-in-the-weights" in self.ways:
            return torch.sin(F.linear(x, 3 * dense.weight, 3 * dense.bias))
        x = dense(x) if "heat-forgotten" in self.ways else 3 * dense(x)
        return torch.tanh(x) if "tanh-for-sine" in self.ways else torch.sin(x)

    def forward(self, sensors: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        if "sensors-from-the-end" in self.ways:
            sensors = sensors.flip(1)
        x = self.branch2(torch.tanh(self.branch1(sensors)))
        places = places if "places-as-they-are" in self.ways else places * 2 - 1
        y = self.trunk2(self.sine(self.trunk1, places))
        y = y if "trunk-left-linear" in self.ways else torch.sin(y)
        if "product-by-batches" in self.ways:
            found = torch.bmm(y, x[:, :, None])[:, :, 0]
        else:
            found = torch.einsum("bi,bpi->bp", x, y)
        found = found / 6**0.5 if "product-scaled" in self.ways else found
        return found if "level-forgotten" in self.ways else found + self.level["shift"]


class _Level(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.shift = self.add_weight(name="shift", shape=(1,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.shift


@network
def solution() -> Pair:
    """DeepONet with sines: what sensors say, times what a place says, for five places at once."""
    keras.backend.clear_session()
    sensors, places = layers.Input((8,), name="sensors"), layers.Input((5, 2), name="places")
    x = layers.Dense(6, name="branch2")(layers.Dense(8, activation="tanh", name="branch1")(sensors))
    y = layers.Rescaling(2.0, -1.0, name="centred")(places)
    y = ops.sin(3 * layers.Dense(8, name="trunk1")(y))
    y = ops.sin(layers.Dense(6, name="trunk2")(y))
    model = keras.Model([sensors, places], _Level(name="level")(ops.einsum("bi,bpi->bp", x, y)))
    fill(model)
    model.get_layer("level").shift.assign([0.7])
    where = np.random.default_rng(1074).random((3, 5, 2)).astype(np.float32)
    return Pair(model, {"sensors": fed(1073, 3, 8), "places": where}, ported(model, Solution), "same")


_SINE = "trunk1 mul* multiply* sin* linear* add* tanh*"
slip("solution/sensors-from-the-end", "branch1 flip* sensors", "channel-order", "axis-permutation block-extra")
slip("solution/places-as-they-are", "centred mul* sub* trunk1 places", "input-normalisation input-scale",
     "block-missing scale")  # fmt: skip
slip("solution/heat-before-the-shift", _SINE, "operand-order wiring residual-order", "scale weights-perturbed")
slip("solution/heat-forgotten", _SINE, "scale block-missing", "input-scale")
slip("solution/tanh-for-sine", _SINE, "activation-kind", "operation-kind")
slip("solution/trunk-left-linear", "trunk2 sin* einsum*", "activation-missing", "block-missing")
slip("solution/product-scaled", "einsum* div* truediv* level add*", "scale attention-scale", "block-extra")
slip("solution/level-forgotten", "level add* einsum*", "bias-missing block-missing")
ways("solution", "heat-in-the-weights", "product-by-batches")
one_layer("solution", "product-scaled+level-forgotten")
neighbours("solution", "trunk-left-linear+product-scaled", "places-as-they-are+tanh-for-sine")


# --- two speeds ---------------------------------------------------------------------------------------------


class Film(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.slow, self.fast = nn.Conv3d(2, 6, (1, 3, 3), padding=(0, 1, 1)), nn.Conv3d(2, 4, (3, 3, 3), padding=1)
        self.slow_bn, self.fast_bn = nn.BatchNorm3d(6, eps=1e-3), nn.BatchNorm3d(4, eps=1e-3)
        self.side = nn.Conv3d(4, 4, (5, 1, 1), stride=(4, 1, 1))
        self.joint, self.head = nn.Conv3d(10, 6, (1, 3, 3), padding=(0, 1, 1)), nn.Linear(10, 4)

    def across(self, fast: torch.Tensor) -> torch.Tensor:
        if "side-by-products" in self.ways:
            steps = F.pad(fast, (0, 0, 0, 0, 0, 1)).unfold(2, 5, 4)
            y = torch.einsum("bcthwk,ock->bothw", steps, self.side.weight[..., 0, 0])
            return y + self.side.bias[:, None, None, None]
        pads = (2, 2) if "side-padded-evenly" in self.ways else (0, 1)
        return self.side(F.pad(fast, (0, 0, 0, 0, *pads)))

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        """The maps' size, five, is odd."""
        if "pooled-by-floor" in self.ways:
            return F.max_pool3d(x, (1, 2, 2))
        if "means-for-largest" in self.ways:
            return F.avg_pool3d(x, (1, 2, 2), ceil_mode=True)
        return F.max_pool3d(x, (1, 2, 2), ceil_mode=True)

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        if "first-frames-for-slow" in self.ways:
            slow = clip[:, :, :2]
        else:
            slow = clip[:, :, int("slow-begins-late" in self.ways) :: 4]
        fast = F.relu(self.fast_bn(self.fast(clip)))
        slow = F.relu(self.slow_bn(self.slow(slow)))
        side = self.across(fast)
        both = [side, slow] if "side-first" in self.ways else [slow, side]
        slow = F.relu(self.joint(self.halved(torch.cat(both, dim=1))))
        fast = F.max_pool3d(fast, (1, 2, 2), ceil_mode=True)
        found = [x.mean((2, 3, 4)) for x in ((fast, slow) if "fast-pooled-first" in self.ways else (slow, fast))]
        return self.head(torch.cat(found, dim=1))


@network
def film() -> Pair:
    """SlowFast: two frames with many features, eight with few, and a strided kernel from these to those."""
    keras.backend.clear_session()
    clip = layers.Input((8, 5, 5, 2), name="clip")

    def conv(x: keras.KerasTensor, width: int, size: int, name: str) -> keras.KerasTensor:
        x = layers.Conv3D(width, (size, 3, 3), padding="same", name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    def halved(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.MaxPooling3D((1, 2, 2), padding="same", name=name)(x)

    slow, fast = conv(clip[:, ::4], 6, 1, "slow"), conv(clip, 4, 3, "fast")
    side = layers.Conv3D(4, (5, 1, 1), (4, 1, 1), padding="same", name="side")(fast)
    slow = halved(layers.Concatenate(name="both")([slow, side]), "slow_pool")
    slow = layers.Conv3D(6, (1, 3, 3), padding="same", activation="relu", name="joint")(slow)
    found = [layers.GlobalAveragePooling3D(name="slow_mean")(slow)]
    found.append(layers.GlobalAveragePooling3D(name="fast_mean")(halved(fast, "fast_pool")))
    model = keras.Model(clip, layers.Dense(4, name="head")(layers.Concatenate(name="all")(found)))
    fill(model)
    grown(model, 1.5, "slow", "fast", "joint")
    return Pair(model, fed(1075, 2, 8, 5, 5, 2), ported(model, Film), "NHWC->NCHW")


_FRAMES = "get_item* slice* slow"
slip("film/first-frames-for-slow", _FRAMES, "wiring stride-position", "shift operand-order")
slip("film/slow-begins-late", _FRAMES, "shift wiring", "operand-order")
slip("film/side-padded-evenly", "side pad*", "pad-asymmetry", "shift")
slip("film/side-first", "both cat* joint *_pool* max_pool3d*", "concat-order", "operand-order channel-order")
slip("film/pooled-by-floor", "slow_pool *max_pool3d* joint", "pool-ceil-mode", "pad-mode pad-asymmetry")
slip("film/means-for-largest", "slow_pool *_pool3d*", "pool-kind", "operation-kind")
slip("film/fast-pooled-first", "all cat* head", "concat-order", "operand-order channel-order")
defect("film/times-turned-round", "fast", "kernel-flip kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("fast.weight", lambda weight: weight.flip(2))
)
defect("film/rows-for-columns", "joint", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("joint.weight", lambda weight: weight.transpose(3, 4))
)
defect("film/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm3d))
defect("film/side-without-bias", "side", "bias-missing", "weights-not-loaded")(set_to("side", bias=None))
ways("film", "side-by-products")
control("film/slow-folded")(folded("slow", "slow_bn"))
one_layer("film", "side-padded-evenly+side-without-bias")
neighbours("film", "slow-begins-late+side-first", "pooled-by-floor+rows-for-columns")
