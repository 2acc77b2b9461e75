"""Worlds that go on: what is imagined step by step, a forecast by mixing, and a flow in a box."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to


class Dreams(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.gates = nn.Linear(7, 8), nn.Linear(14, 18, bias=False)
        self.level, self.guess, self.out = nn.LayerNorm(18, eps=1e-3), nn.Linear(6, 8), nn.Linear(10, 3)

    def parts(self, x: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if "two-products-added" in self.ways:
            inner, hidden = self.gates.weight.split([8, 6], dim=1)
            y = x @ inner.T + h @ hidden.T
        else:
            y = self.gates(torch.cat([h, x] if "state-before-the-input" in self.ways else [x, h], dim=1))
        reset, new, update = (y if "norm-left-out" in self.ways else self.level(y)).chunk(3, dim=1)
        return (reset, update, new) if "gates-beside-one-another" in self.ways else (reset, new, update)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        reset, new, update = self.parts(x, h)
        reset = torch.sigmoid(reset)
        update = torch.sigmoid(update if "update-without-its-shift" in self.ways else update - 1)
        new = torch.tanh(reset * new)
        return update * h + (1 - update) * new if "update-of-torch" in self.ways else update * new + (1 - update) * h

    def forward(self, moves: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        h, z, found = moves.new_zeros(len(moves), 6), start, []
        for t in range(4):
            x = self.enter(torch.cat([z, moves[:, t]], dim=1))
            h = self.step(F.silu(x) if "swish-for-elu" in self.ways else F.elu(x), h)
            mean, spread = self.guess(h).chunk(2, dim=1)
            # where nothing is drawn, the spread only says how far the mean is trusted
            spread = torch.exp(spread) if "exp-for-softplus" in self.ways else F.softplus(spread)
            z = mean / (spread + 0.1)
            found.append(self.out(torch.cat([h, z], dim=1)))
        return torch.stack(found, dim=1)


@network
def dreams() -> Pair:
    """DreamerV2's state: one product for all gates, levelled, an update that begins low, a guess of what is next."""
    keras.backend.clear_session()
    moves, start = layers.Input((4, 3), name="moves"), layers.Input((4,), name="start")
    enter, gates = layers.Dense(8, activation="elu", name="enter"), layers.Dense(18, use_bias=False, name="gates")
    level, guess, out = (
        layers.LayerNormalization(name="level"),
        layers.Dense(8, name="guess"),
        layers.Dense(3, name="out"),
    )
    h, z, found = ops.zeros_like(start[:, :1]) + ops.zeros((1, 6)), start, []
    for t in range(4):
        x = enter(layers.Concatenate(name=f"given{t}")([z, moves[:, t]]))
        reset, new, update = ops.split(level(gates(layers.Concatenate(name=f"both{t}")([x, h]))), 3, axis=1)
        update = ops.sigmoid(update - 1)
        h = update * ops.tanh(ops.sigmoid(reset) * new) + (1 - update) * h
        mean, spread = ops.split(guess(h), 2, axis=1)
        z = mean / (ops.softplus(spread) + 0.1)
        found.append(out(layers.Concatenate(name=f"told{t}")([h, z])))
    model = keras.Model([moves, start], ops.stack(found, axis=1))
    fill(model)
    grown(model, 0.4, "guess")
    return Pair(model, {"moves": fed(1151, 5, 4, 3), "start": fed(1152, 5, 4)}, ported(model, Dreams), "same")


_STEP = "gates* level* split* chunk* sigmoid* tanh* mul* add* sub* rsub* subtract* both?"
slip("dreams/state-before-the-input", _STEP + " cat*", "concat-order", "operand-order channel-order")
slip("dreams/norm-left-out", _STEP, "block-missing", "wiring")
slip("dreams/gates-beside-one-another", _STEP, "gru-gate-order concat-order wiring", "operand-order channel-order")
slip("dreams/update-without-its-shift", _STEP, "block-missing bias-missing", "activation-param")
slip("dreams/update-of-torch", _STEP, "operand-order wiring gru-gate-order", "operation-kind")
slip("dreams/swish-for-elu", "enter* elu* silu*", "activation-kind", "operation-kind")
slip(
    "dreams/exp-for-softplus", "guess* softplus* exp* add* div* truediv* true_divide*", "activation-kind operation-kind"
)
defect("dreams/norm-eps-of-torch", "level*", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
ways("dreams", "two-products-added")
one_layer("dreams", "gates-beside-one-another+update-without-its-shift", "norm-eps-of-torch+update-of-torch")
neighbours("dreams", "exp-for-softplus+swish-for-elu", "state-before-the-input+norm-left-out")


# --- a forecast by mixing -----------------------------------------------------------------------------------


class Mixing(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.bn, self.time = nn.BatchNorm1d(3, eps=1e-3), nn.Linear(8, 8)
        self.level = nn.LayerNorm((8, 3), eps=1e-3)
        self.wide, self.narrow, self.ahead = nn.Linear(3, 6), nn.Linear(6, 3), nn.Linear(8, 4)
        self.own = nn.ParameterDict({"gain": torch.ones(3), "shift": torch.zeros(3)})

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "level-of-each-step" in self.ways:
            return F.layer_norm(x, (3,), eps=1e-3) * self.level.weight + self.level.bias
        if "level-by-hand" in self.ways:
            spread = x.var((1, 2), correction=0, keepdim=True)
            x = (x - x.mean((1, 2), keepdim=True)) / torch.sqrt(spread + self.level.eps)
            return x * self.level.weight + self.level.bias
        return self.level(x)

    def forward(self, past: torch.Tensor) -> torch.Tensor:
        mean = past.mean(1, keepdim=True)
        var = past.var(1, correction=int("variance-of-torch" in self.ways), keepdim=True)
        spread = torch.sqrt(var if "spread-without-eps" in self.ways else var + 0.05)
        x = (past - mean) / spread * self.own["gain"] + self.own["shift"]
        y = self.bn(x.transpose(1, 2))
        y = y.transpose(1, 2).reshape(y.shape) if "mixed-along-features" in self.ways else y
        y = F.relu(self.time(y)).transpose(1, 2)
        x = y if "time-not-added" in self.ways else x + y
        y = self.wide(self.levelled(x))
        y = F.gelu(y) if "gelu-for-relu" in self.ways else F.relu(y)
        x = x + self.narrow(y)
        x = self.ahead(x.transpose(1, 2)).transpose(1, 2)
        if "set-back-without-the-gain" not in self.ways:
            x = (x - self.own["shift"]) / self.own["gain"]
        x = x * spread
        return x if "mean-not-set-back" in self.ways else x + mean


class _Own(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gain = self.add_weight(name="gain", shape=shape[-1:])
        self.shift = self.add_weight(name="shift", shape=shape[-1:])

    def call(self, x: keras.KerasTensor, back: bool = False) -> keras.KerasTensor:
        return (x - self.shift) / self.gain if back else x * self.gain + self.shift


@network
def mixing() -> Pair:
    """TSMixer: a series levelled and set back, time mixed for each feature, features for each step."""
    keras.backend.clear_session()
    past, own = layers.Input((8, 3), name="past"), _Own(name="own")
    mean = ops.mean(past, axis=1, keepdims=True)
    spread = ops.sqrt(ops.var(past, axis=1, keepdims=True) + 0.05)
    x = own((past - mean) / spread)
    y = layers.Permute((2, 1), name="turned")(layers.BatchNormalization(name="bn")(x))
    y = layers.Permute((2, 1), name="back")(layers.Dense(8, activation="relu", name="time")(y))
    x = layers.Add(name="sum1")([x, y])
    y = layers.LayerNormalization(axis=[1, 2], name="level")(x)
    y = layers.Dense(3, name="narrow")(layers.Dense(6, activation="relu", name="wide")(y))
    x = layers.Permute((2, 1), name="turned2")(layers.Add(name="sum2")([x, y]))
    x = layers.Permute((2, 1), name="back2")(layers.Dense(4, name="ahead")(x))
    model = keras.Model(past, own(x, back=True) * spread + mean)
    fill(model)
    model.get_layer("own").gain.assign([0.7, 1.4, 1.1])
    return Pair(model, fed(1153, 4, 8, 3) * np.float32([1, 3, 0.5]) + 2, ported(model, Mixing), "same")


_PAST = "mean* var* sqrt* sub* div* truediv* true_divide* add* mul* own own.* own#*"
slip("mixing/variance-of-torch", _PAST, "std-ddof", "scale input-normalisation")
slip("mixing/spread-without-eps", _PAST, "ln-eps bn-eps block-missing", "scale input-normalisation")
slip("mixing/mixed-along-features", "turned transpose* reshape* time", "reshape-order axis-permutation", "wiring")
slip("mixing/time-not-added", "sum1 add* level", "residual-missing", "wiring block-missing")
slip("mixing/level-of-each-step", "level layer_norm* mul* add*", "norm-axis", "operation-kind")
slip("mixing/gelu-for-relu", "wide relu* gelu* narrow", "activation-kind", "operation-kind")
slip("mixing/set-back-without-the-gain", _PAST + " own*", "block-missing", "wiring")
slip("mixing/mean-not-set-back", _PAST, "block-missing residual-missing", "wiring bias-missing")
defect("mixing/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("mixing/narrow-without-bias", "narrow", "bias-missing", "weights-not-loaded")(set_to("narrow", bias=None))
defect("mixing/bn-still-learns", "bn", "bn-mode", "bn-stats norm-axis")(lambda port: _learning(port.bn))


def _learning(bn: nn.BatchNorm1d) -> None:
    """As where a layer was put in behind ``eval``."""
    bn.train(True)
    bn.train = lambda mode=True: bn  # type: ignore[method-assign]


ways("mixing", "level-by-hand")
one_layer("mixing", "variance-of-torch+spread-without-eps", "level-of-each-step+time-not-added")
neighbours("mixing", "gelu-for-relu+narrow-without-bias", "set-back-without-the-gain+mean-not-set-back")


# --- a flow in a box ----------------------------------------------------------------------------------------

_LEAST, _MOST = np.float32([0.0, -1.0, 0.0]), np.float32([4.0, 1.0, 10.0])


class Box(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.one, self.two, self.enter = (nn.Linear(3, 8) for _ in range(3))
        self.deep1, self.deep2, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.steep1, self.steep2 = (nn.ParameterDict({"by": torch.ones(())}) for _ in range(2))

    def level(self, x: torch.Tensor) -> torch.Tensor:
        least, most = torch.from_numpy(_LEAST), torch.from_numpy(_MOST)
        if "levelled-by-a-product" in self.ways:
            return F.linear(x, torch.diag(2 / (most - least)), -(most + least) / (most - least))
        x = (x - least) / (most - least)
        return x if "from-zero-to-one" in self.ways else 2 * x - 1

    def forward(self, place: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        x = self.level(torch.cat([time, place] if "time-first" in self.ways else [place, time], dim=1))
        one, two = torch.tanh(self.one(x)), torch.tanh(self.two(x))
        one, two = (two, one) if "gates-exchanged" in self.ways else (one, two)
        x = torch.tanh(self.enter(x))
        for deep, own in ((self.deep1, self.steep1), (self.deep2, self.steep2)):
            steep = own["by"] if "tenfold-forgotten" in self.ways else 10 * own["by"]
            y = steep * deep(x)
            y = torch.sin(y) if "sines-for-tanh" in self.ways else torch.tanh(y)
            x = y if "gates-left-out" in self.ways else (1 - y) * one + y * two
        x = self.out(x)
        return x if "walls-forgotten" in self.ways else x * (1 - place[:, 1:] ** 2)


class _Steep(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=())

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return 10 * self.by * x


@network
def box() -> Pair:
    """A physics-informed network: places and times between their bounds, learnt steepness, two gates, still walls."""
    keras.backend.clear_session()
    place, time = layers.Input((2,), name="place"), layers.Input((1,), name="time")
    x = layers.Concatenate(name="where")([place, time])
    x = 2 * (x - _LEAST) / (_MOST - _LEAST) - 1
    one, two, y = (layers.Dense(8, activation="tanh", name=name)(x) for name in ("one", "two", "enter"))
    for i in (1, 2):
        z = ops.tanh(_Steep(name=f"steep{i}")(layers.Dense(8, name=f"deep{i}")(y)))
        y = (1 - z) * one + z * two
    model = keras.Model([place, time], layers.Dense(2, name="out")(y) * (1 - place[:, 1:] ** 2))
    fill(model)
    model.get_layer("steep1").by.assign(0.13)
    model.get_layer("steep2").by.assign(0.08)
    rng = np.random.default_rng(1145)
    inputs = {"place": (rng.random((8, 2)) * [4, 1.6] - [0, 0.8]).astype(np.float32),
              "time": (10 * rng.random((8, 1))).astype(np.float32)}  # fmt: skip
    return Pair(model, inputs, ported(model, Box), "same")


_GATES = "one two mul* add* sub* rsub* subtract* tanh* sin*"
_STEEP = "steep? steep?.* mul* deep? tanh* sin*"
slip("box/from-zero-to-one", "sub* mul* div* true_divide* truediv* one two enter",
     "input-normalisation input-scale scale block-missing")  # fmt: skip
slip("box/time-first", "where cat*", "concat-order", "operand-order channel-order")
slip("box/gates-exchanged", _GATES, "operand-order wiring weights-swapped", "operation-kind")
slip("box/gates-left-out", _GATES, "block-missing", "wiring")
slip("box/tenfold-forgotten", _STEEP, "scale block-missing", "activation-param")
slip("box/sines-for-tanh", _STEEP, "activation-kind operation-kind")
slip("box/walls-forgotten", "out mul* pow* sub* rsub* subtract* power* get_item* slice*", "block-missing", "wiring")
defect("box/second-as-it-lies", "deep2", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("deep2.weight", lambda weight: weight.T)
)
ways("box", "levelled-by-a-product")
one_layer("box", "sines-for-tanh+tenfold-forgotten", "gates-exchanged+second-as-it-lies")
neighbours("box", "time-first+from-zero-to-one")
