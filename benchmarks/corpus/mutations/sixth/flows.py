"""Densities: a flow that can be run back, and pictures beside their captions."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    counted,
    defect,
    epsilon,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Couple(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.level = nn.ParameterDict({"weight": torch.ones(8), "bias": torch.zeros(8)})
        self.hidden, self.scale, self.move = nn.Linear(4, 10), nn.Linear(10, 4), nn.Linear(10, 4)
        self.rate = nn.ParameterDict({"rate": torch.zeros(4)})

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = self.level["weight"], self.level["bias"]
        x = (x + bias) * weight if "levelled-from-behind" in self.ways else x * weight + bias
        kept, moved = x.chunk(2, dim=1)
        kept, moved = (moved, kept) if "other-half-moved" in self.ways else (kept, moved)
        y = F.relu(self.hidden(kept))
        s = self.scale(y)
        s = (s if "scale-unbounded" in self.ways else torch.tanh(s)) * self.rate["rate"]
        if "scale-behind-move" in self.ways:
            moved = (moved + self.move(y)) * torch.exp(s)
        else:
            moved = torch.addcmul(self.move(y), moved, torch.exp(s))
        x = torch.cat([moved, kept] if "other-half-moved" in self.ways else [kept, moved], dim=1)
        volume = s.sum(1)
        return x, volume if "volume-without-level" in self.ways else volume + weight.abs().log().sum()


class Flow(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.steps = nn.ModuleList(Couple(ways) for _ in range(3))

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if "halves-exchanged" in self.ways:
            return x.roll(4, 1)
        if "turned-by-a-matrix" in self.ways:
            return x @ torch.eye(8).flip(0)
        return x if "never-turned" in self.ways else x.flip(1)

    def forward(self, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, volume = sample, []
        for step in self.steps:
            x, grown = step(x)
            x = self.turned(x)
            volume.append(grown)
        total = torch.stack(volume).sum(0)
        ends = -0.5 * x.square() if "constant-left-out" in self.ways else -0.5 * (x.square() + np.log(2 * np.pi))
        ends = ends.mean(1) if "density-in-the-mean" in self.ways else ends.sum(1)
        return x, ends - total if "volume-taken-off" in self.ways else ends + total


class _Level(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(name="gamma", shape=(shape[-1],))
        self.beta = self.add_weight(name="beta", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor]:
        return x * self.gamma + self.beta, ops.sum(ops.log(ops.absolute(self.gamma))) + 0 * x[:, 0]


class _Rate(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.rate = self.add_weight(name="rate", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.rate


@network
def flow() -> Pair:
    """A RealNVP of three steps: where a sample comes from, and how likely it is."""
    keras.backend.clear_session()
    sample = layers.Input((8,), name="sample")
    x, volume = sample, []
    for i in range(3):
        x, grown = _Level(name=f"steps.{i}.level")(x)
        kept, moved = x[:, :4], x[:, 4:]
        y = layers.Dense(10, activation="relu", name=f"steps.{i}.hidden")(kept)
        s = _Rate(name=f"steps.{i}.rate")(layers.Dense(4, activation="tanh", name=f"steps.{i}.scale")(y))
        moved = layers.Add(name=f"moved.{i}")([moved * ops.exp(s), layers.Dense(4, name=f"steps.{i}.move")(y)])
        x = ops.flip(layers.Concatenate(name=f"joined.{i}")([kept, moved]), axis=1)
        volume.append(ops.sum(s, axis=1) + grown)
    ends = ops.sum(-0.5 * (ops.square(x) + float(np.log(2 * np.pi))), axis=1)
    model = keras.Model(sample, [x, layers.Add(name="likely")([ends, layers.Add(name="volume")(volume)])])
    fill(model)
    for i in range(3):
        rate = model.get_layer(f"steps.{i}.rate").rate
        rate.assign(ops.abs(rate) + 0.3)
    return Pair(model, fed(96, 4, 8), ported(model, Flow), "same")


_MOVED = "moved.* exp* multiply* steps.?.mul* steps.?.exp steps.?.add* steps.?.addcmul steps.?.cat"
_LIKELY = "likely volume square* multiply* add* sum* mul* sub* neg* stack mean*"
slip(
    "flow/levelled-from-behind",
    "steps.?.level steps.?.level/* steps.?.mul steps.?.add*",
    "residual-order wiring",
    "bias-missing operand-order",
)
slip("flow/other-half-moved", "steps.?.hidden get_item* steps.?.chunk* steps.?.cat joined.* " + _MOVED,
     "wiring concat-order channel-order", "operand-order")  # fmt: skip
slip(
    "flow/scale-unbounded",
    "steps.?.scale steps.?.tanh steps.?.rate steps.?.mul*",
    "activation-missing",
    "block-missing",
)
slip("flow/scale-behind-move", _MOVED, "residual-order wiring", "operand-order operation-kind")
slip("flow/volume-without-level", "steps.?.level steps.?.level/* steps.?.sum* steps.?.log steps.?.abs " + _LIKELY,
     "block-missing bias-missing", "residual-missing")  # fmt: skip
slip("flow/halves-exchanged", "flip* roll* steps.?.hidden", "axis-permutation channel-order", "shift concat-order")
slip(
    "flow/never-turned",
    "flip* joined.* steps.?.hidden steps.?.level",
    "axis-permutation block-missing channel-order",
    "wiring",
)
slip("flow/constant-left-out", _LIKELY, "bias-missing block-missing", "residual-missing")
slip("flow/density-in-the-mean", _LIKELY, "pool-kind scale", "operation-kind")
slip("flow/volume-taken-off", _LIKELY, "operation-kind scale", "operand-order residual-order")
defect("flow/rates-left", "steps.1.rate steps.1.mul*", "weights-not-loaded", "weights-perturbed scale")(
    rewritten("steps.1.rate.rate", torch.ones_like)
)
way("flow/turned-by-a-matrix")
one_layer("flow", "other-half-moved+scale-behind-move", "constant-left-out+density-in-the-mean")
neighbours("flow", "never-turned+volume-taken-off", "rates-left+scale-unbounded")


# --- pictures and captions ----------------------------------------------------------------------------------


class Caption(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.seen1, self.seen_bn, self.seen2 = nn.Linear(12, 10), nn.BatchNorm1d(10, eps=1e-3), nn.Linear(10, 6)
        self.words, self.said, self.said_norm = nn.Embedding(20, 8), nn.Linear(8, 6), nn.LayerNorm(6, eps=1e-3)
        self.heat = nn.ParameterDict({"log": torch.zeros(1)})

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        x = self.seen1(x)
        if "norm-of-the-batch" in self.ways:
            x = F.batch_norm(x, None, None, self.seen_bn.weight, self.seen_bn.bias, True, eps=1e-3)
        else:
            x = self.seen_bn(x)
        return self.seen2(x if "seen-not-rectified" in self.ways else F.relu(x))

    def read(self, words: torch.Tensor) -> torch.Tensor:
        x, there = self.words(words), (words > 0)[:, :, None].float()
        if "padding-read" in self.ways:
            x = x.mean(1)
        elif "sum-over-all-places" in self.ways:
            x = (x * there).mean(1)
        elif "mean-by-bags" in self.ways:
            x = F.embedding_bag(words, self.words.weight, mode="mean", padding_idx=0)
        else:
            x = (x * there).sum(1) / there.sum(1)
        return self.said_norm(self.said(x))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=0 if "length-of-the-batch" in self.ways else -1)

    def forward(self, picture: torch.Tensor, caption: torch.Tensor) -> torch.Tensor:
        seen, read = self.seen(picture), self.read(caption)
        if "lengths-left" not in self.ways:
            seen, read = self.normed(seen), self.normed(read)
        alike = read @ seen.T if "captions-by-rows" in self.ways else seen @ read.T
        heat = self.heat["log"]
        if "heat-as-it-is" in self.ways:
            return alike * heat
        return alike / torch.exp(heat) if "divided-by-heat" in self.ways else alike * torch.exp(heat)


class _Heat(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.log = self.add_weight(name="log", shape=(1,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * ops.exp(self.log)


@network
def caption() -> Pair:
    """How alike each picture and each caption are, by vectors of length one and a learnt heat."""
    keras.backend.clear_session()
    picture, words = layers.Input((12,), name="picture"), layers.Input((6,), dtype="int32", name="caption")
    x = layers.BatchNormalization(name="seen_bn")(layers.Dense(10, name="seen1")(picture))
    x = layers.Dense(6, name="seen2")(layers.ReLU(name="seen_relu")(x))
    there = ops.expand_dims(ops.cast(words > 0, "float32"), -1)
    y = layers.Multiply(name="there")([layers.Embedding(20, 8, name="words")(words), there])
    y = ops.sum(y, axis=1) / ops.sum(there, axis=1)
    y = layers.LayerNormalization(name="said_norm")(layers.Dense(6, name="said")(y))
    x, y = (layers.UnitNormalization(name=f"{name}_length")(z) for name, z in (("seen", x), ("said", y)))
    model = keras.Model([picture, words], _Heat(name="heat")(ops.matmul(x, ops.transpose(y))))
    fill(model)
    model.get_layer("heat").log.assign([0.7])
    model.get_layer("said").kernel.assign(model.get_layer("said").kernel * 0.5)
    given = counted(98, 20, 5, 6, least=1)
    given[0, 3:] = given[3, 4:] = 0
    return Pair(model, {"picture": fed(97, 5, 12), "caption": given}, ported(model, Caption), "same")


_LENGTH = "*_length normalize* div* abs* sum*"
_HEAT = "heat heat/* mul* exp* div* matmul*"
slip("caption/norm-of-the-batch", "seen_bn batch_norm*", "bn-mode", "bn-stats")
slip("caption/seen-not-rectified", "seen_bn seen_relu relu seen2", "activation-missing", "block-missing")
slip(
    "caption/padding-read",
    "there mul* sum* true_divide* div* mean* said",
    "attention-mask block-missing",
    "pool-kind wiring",
)
slip(
    "caption/sum-over-all-places",
    "sum* true_divide* div* mean* said",
    "scale pool-kind",
    "attention-mask operation-kind",
)
slip("caption/length-of-the-batch", _LENGTH, "norm-axis", "operation-kind")
slip("caption/lengths-left", _LENGTH + " matmul*", "block-missing", "norm-axis")
slip(
    "caption/captions-by-rows",
    "matmul* transpose* numpy_t* t t_* permute* T heat",
    "axis-permutation operand-order",
    "wiring",
)
slip("caption/heat-as-it-is", _HEAT, "scale activation-missing block-missing", "weights-perturbed")
slip("caption/divided-by-heat", _HEAT, "scale operation-kind", "weights-perturbed")
defect("caption/norm-eps-default", "said_norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("caption/statistics-exchanged", "seen_bn", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: rewritten("seen_bn.running_var", lambda _: port.seen_bn.weight)(port)
)
way("caption/mean-by-bags")
one_layer("caption", "statistics-exchanged+seen-not-rectified")
neighbours("caption", "captions-by-rows+divided-by-heat", "padding-read+norm-eps-default")
