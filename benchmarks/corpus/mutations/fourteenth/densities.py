"""Densities: numbers that each depend on those before alone, and counts of genes in cells."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    Plus,
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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, set_to
from benchmarks.corpus.mutations.twelfth.registry import left_on


def _allowed(begin: np.ndarray, end: np.ndarray, strict: bool) -> np.ndarray:
    """Which units of one layer those of the next may see, by their ranks."""
    return np.asarray(end[None] > begin[:, None] if strict else end[None] >= begin[:, None], np.float32)


_RANKS, _HIDDEN = np.arange(1, 6), np.array([1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
_IN, _OUT = _allowed(_RANKS, _HIDDEN, False), np.tile(_allowed(_HIDDEN, _RANKS, True), 2)


class Ordered(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i in (1, 2):
            self.add_module(f"in{i}", nn.Linear(5, 10))
            self.add_module(f"out{i}", nn.Linear(10, 10))

    def masked(self, name: str, x: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
        layer = self.get_submodule(name)
        allowed = torch.from_numpy(mask)
        if "masked-by-einsum" in self.ways:
            return torch.einsum("bi,io,oi->bo", x, allowed, layer.weight) + layer.bias
        return F.linear(x, layer.weight if "all-allowed" in self.ways else layer.weight * allowed.T, layer.bias)

    def flow(self, i: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen = _allowed(_RANKS, _HIDDEN, True) if "ranks-strict-twice" in self.ways else _IN
        y = self.masked(f"out{i}", F.relu(self.masked(f"in{i}", x, seen)), _OUT)
        if "means-and-scales-in-turn" in self.ways:
            mean, scale = y.unflatten(1, (5, 2)).unbind(2)
        else:
            scale, mean = y.chunk(2, dim=1) if "scales-before-means" in self.ways else y.chunk(2, dim=1)[::-1]
        if "divided" in self.ways:
            return (x - mean) / torch.exp(scale), -scale
        return (x - mean) * torch.exp(scale if "scaled-up" in self.ways else -scale), -scale

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, one = self.flow(1, x)
        x, two = self.flow(2, x if "not-turned" in self.ways else x.flip(1))
        changed = two if "second-change-alone" in self.ways else one + two
        return x, changed.sum(1)


class _Masked(layers.Layer):  # type: ignore[misc]
    """A dense layer whose kernel is nought where a mask is."""

    def __init__(self, mask: np.ndarray, **own: str) -> None:
        super().__init__(**own)
        self.mask = mask

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(name="kernel", shape=self.mask.shape)
        self.bias = self.add_weight(name="bias", shape=self.mask.shape[1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, self.kernel * self.mask) + self.bias


@network
def ordered() -> Pair:
    """A masked autoregressive flow of two steps, turned round between them; a sample, and how its volume changes."""
    keras.backend.clear_session()
    given = layers.Input((5,), name="given")
    x, changed = given, []
    for i in (1, 2):
        x = x if i == 1 else ops.flip(x, axis=1)
        y = layers.ReLU(name=f"bend{i}")(_Masked(_IN, name=f"in{i}")(x))
        mean, scale = ops.split(_Masked(_OUT, name=f"out{i}")(y), 2, axis=1)
        x = layers.Subtract(name=f"centred{i}")([x, mean]) * ops.exp(-scale)
        changed.append(-scale)
    model = keras.Model(given, [x, ops.sum(layers.Add(name="changed")(changed), axis=1)])
    fill(model)
    grown(model, 0.6, "out1", "out2")
    return Pair(model, fed(1481, 5, 5), ported(model, Ordered), "same")


_MASKED = "in? out? linear* bend? relu*"
_FLOW = "out? split* chunk* centred? sub* mul* multiply* exp* neg* linear_1 linear_3"
slip("ordered/all-allowed", _MASKED, "attention-mask weights-perturbed block-missing", "wiring weights-not-loaded")
slip("ordered/ranks-strict-twice", _MASKED, "attention-mask weights-perturbed", "weights-not-loaded shift")
slip("ordered/scales-before-means", _FLOW, "concat-order wiring operand-order", "channel-order")
slip("ordered/means-and-scales-in-turn", _FLOW, "reshape-order", "wiring concat-order channel-order operation-kind")
slip("ordered/scaled-up", _FLOW, "block-missing operation-kind", "scale wiring")
slip("ordered/not-turned", "flip* in2 linear_2 mul_*", "block-missing channel-order axis-permutation", "wiring")
slip("ordered/second-change-alone", "changed add* sum*", "residual-missing block-missing", "wiring")
defect("ordered/second-in-not-biased", "in2 linear*", "bias-missing", "weights-not-loaded")(set_to("in2", bias=None))
ways("ordered", "masked-by-einsum", "divided")


@control("ordered/masked-once")
def _masked_once(port: Ordered) -> Ordered:
    for name, mask in (("in", _IN), ("out", _OUT)):
        for i in (1, 2):
            port.get_submodule(f"{name}{i}").weight.data *= torch.from_numpy(mask.T.copy())
    port.ways = port.ways | {"all-allowed"}
    return port


one_layer("ordered", "scales-before-means+scaled-up", "all-allowed+second-in-not-biased")
neighbours("ordered", "ranks-strict-twice+scaled-up", "not-turned+second-change-alone")


# --- cells --------------------------------------------------------------------------------------------------


class Cells(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Linear(11, 8), nn.BatchNorm1d(8, eps=1e-3)
        self.mean, self.spread = nn.Linear(8, 4), nn.Linear(8, 4)
        self.back, self.back_bn = nn.Linear(7, 8), nn.BatchNorm1d(8, eps=1e-3)
        self.share, self.lost = nn.Linear(8, 8), nn.Linear(8, 8)
        self.rough = nn.ParameterDict({"shift": torch.zeros(8)})

    def shared(self, x: torch.Tensor) -> torch.Tensor:
        if "shared-by-logarithms" in self.ways:
            return torch.exp(x - torch.logsumexp(x, dim=1, keepdim=True))
        return F.softmax(x, dim=0 if "shared-among-cells" in self.ways else 1)

    def forward(self, counts: torch.Tensor, lab: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        where = F.one_hot(lab[:, 0].long(), 3).float()
        size = counts.sum(1, keepdim=True)
        x = torch.log2(counts + 1) if "logarithm-of-two" in self.ways else torch.log1p(counts)
        size = x.sum(1, keepdim=True) if "size-of-logarithms" in self.ways else size
        both = [where, x] if "lab-first" in self.ways else [x, where]
        if "lab-by-columns" in self.ways:
            x = F.linear(x, self.enter.weight[:, :8], self.enter.bias) + self.enter.weight.T[8:][lab[:, 0].long()]
        else:
            x = self.enter(torch.cat(both, dim=1))
        x = F.relu(self.enter_bn(x))
        mean, spread = self.mean(x), self.spread(x)
        z = mean + torch.exp(spread if "variance-for-deviation" in self.ways else spread / 2) * noise
        x = F.relu(self.back_bn(self.back(torch.cat([z, where], dim=1))))
        rate = self.shared(self.share(x))
        rate = rate if "size-not-given-back" in self.ways else rate * size
        return rate, torch.exp(self.rough["shift"]).expand_as(rate), self.lost(x)


@network
def cells() -> Pair:
    """scVI: logarithms of counts and where they were made, a code with noise, shares of a cell's size, and dropouts."""
    keras.backend.clear_session()
    counts, lab = layers.Input((8,), name="counts"), layers.Input((1,), dtype="int32", name="lab")
    noise = layers.Input((4,), name="noise")
    where = ops.one_hot(lab[:, 0], 3)
    x = layers.Dense(8, name="enter")(layers.Concatenate(name="given")([ops.log1p(counts), where]))
    x = layers.ReLU(name="enter_bend")(layers.BatchNormalization(name="enter_bn")(x))
    mean, spread = layers.Dense(4, name="mean")(x), layers.Dense(4, name="spread")(x)
    z = layers.Add(name="code")([mean, ops.exp(0.5 * spread) * noise])
    x = layers.Dense(8, name="back")(layers.Concatenate(name="told")([z, where]))
    x = layers.ReLU(name="back_bend")(layers.BatchNormalization(name="back_bn")(x))
    rate = layers.Dense(8, activation="softmax", name="share")(x) * ops.sum(counts, axis=1, keepdims=True)
    rough = ops.exp(Plus(name="rough")(ops.zeros_like(rate)))
    model = keras.Model([counts, lab, noise], [rate, rough, layers.Dense(8, name="lost")(x)])
    fill(model)
    grown(model, 2, "share", "spread")
    drawn = np.random.default_rng(1482).poisson(np.exp(1.5 * fed(1483, 6, 8))).astype(np.float32)
    inputs = {"counts": drawn, "lab": counted(1484, 3, 6, 1), "noise": fed(1485, 6, 4)}
    return Pair(model, inputs, ported(model, Cells), "same")


_GIVEN = "given cat* log1p* log2* add* one_hot* enter"
_RATE = "share softmax* mul* multiply* sum* counts"
slip("cells/logarithm-of-two", _GIVEN, "input-scale input-normalisation scale operation-kind", "activation-kind")
slip("cells/lab-first", _GIVEN, "concat-order", "operand-order wiring channel-order")
slip("cells/size-of-logarithms", _RATE, "wiring", "scale block-extra operand-order")
slip("cells/size-not-given-back", _RATE, "block-missing", "scale wiring")
slip("cells/shared-among-cells", _RATE, "softmax-axis", "operation-kind")
slip(
    "cells/variance-for-deviation",
    "spread mul* multiply* div* exp* code add* told cat* back",
    "block-missing scale",
    "wiring",
)
defect("cells/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("cells/norm-still-training", "back_bn", "bn-mode", "bn-stats")(left_on("back_bn"))
defect("cells/statistics-not-loaded", "enter_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    set_to("enter_bn", running_mean=torch.zeros(8), running_var=torch.ones(8))
)
ways("cells", "shared-by-logarithms", "lab-by-columns")
control("cells/norms-folded")(lambda port: [folded(n, f"{n}_bn")(port) for n in ("enter", "back")] and port)
one_layer("cells", "shared-among-cells+size-not-given-back", "logarithm-of-two+lab-first")
neighbours("cells", "statistics-not-loaded+variance-for-deviation", "lab-first+bn-eps-of-torch")
