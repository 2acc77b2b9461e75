"""Machines: how long an engine lasts, when it fails, and what is unlike a usual window."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, exchanged, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import left_on

_LEAST, _MOST = np.float32([500.0, 0.2, 8.0, 40.0, -1.0]), np.float32([650.0, 1.4, 9.5, 48.0, 1.0])


class Engine(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.near1, self.near2 = nn.Conv2d(1, 4, (6, 1)), nn.Conv2d(4, 4, (6, 1))
        self.last, self.drop = nn.Conv2d(4, 2, (3, 1), padding=(1, 0)), nn.Dropout(0.5)
        self.dense, self.left = nn.Linear(120, 8), nn.Linear(8, 1)

    def along(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if "padded-as-torch-has-it" in self.ways:
            x = F.conv2d(x, conv.weight, conv.bias, padding="same")
        elif "each-sensor-a-sample" in self.ways:
            y = F.pad(x.permute(0, 3, 1, 2).flatten(0, 1), (2, 3))
            y = F.conv1d(y, conv.weight[..., 0], conv.bias)
            x = y.unflatten(0, (-1, 5)).permute(0, 2, 3, 1)
        else:
            around = (0, 0, 5, 0) if "only-the-past-seen" in self.ways else (0, 0, 2, 3)
            x = conv(F.pad(x, (0, 0, 3, 2) if "more-padding-in-front" in self.ways else around))
        return F.relu(x) if "relu-for-tanh" in self.ways else torch.tanh(x)

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        least, most = torch.from_numpy(_LEAST), torch.from_numpy(_MOST)
        x = (sensors - least) / (most - least)
        x = x if "between-zero-and-one" in self.ways else 2 * x - 1
        x = self.along(self.near2, self.along(self.near1, x[:, None]))
        x = torch.tanh(self.last(x))
        x = x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1)
        x = torch.tanh(self.dense(self.drop(x)))
        x = self.left(x)
        return x if "life-not-capped" in self.ways else x.clamp(0, 1)


@network
def engine() -> Pair:
    """A network for remaining life: levelled sensors, even kernels along time alone, tanh, and a life with a cap."""
    keras.backend.clear_session()
    sensors = layers.Input((12, 5), name="sensors")
    x = 2 * ((sensors - _LEAST) / (_MOST - _LEAST)) - 1
    x = layers.Reshape((12, 5, 1), name="picture")(x)
    for i in (1, 2):
        x = layers.Conv2D(4, (6, 1), padding="same", activation="tanh", name=f"near{i}")(x)
    x = layers.Conv2D(2, (3, 1), padding="same", activation="tanh", name="last")(x)
    x = layers.Dropout(0.5, name="drop")(layers.Flatten(name="flat")(x))
    x = layers.Dense(1, name="left")(layers.Dense(8, activation="tanh", name="dense")(x))
    model = keras.Model(sensors, layers.ReLU(max_value=1.0, name="capped")(x))
    fill(model)
    grown(model, 1.5, "near2", "last", "dense")
    bias = model.get_layer("left").bias
    bias.assign(bias + 0.6)
    given = _LEAST + (_MOST - _LEAST) * np.random.default_rng(1431).random((6, 12, 5)).astype(np.float32)
    return Pair(model, given, ported(model, Engine), "same")


_ALONG = "near? pad* conv2d* tanh* relu*"
_LEVEL = "sensors sub* div* truediv* true_divide* divide* mul* multiply* picture near1 pad unsqueeze* get_item* slice*"
slip("engine/more-padding-in-front", _ALONG, "pad-asymmetry shift")
slip("engine/only-the-past-seen", _ALONG, "pad-asymmetry shift", "pad-mode")
slip("engine/relu-for-tanh", _ALONG, "activation-kind")
slip("engine/between-zero-and-one", _LEVEL, "input-scale input-normalisation block-missing", "scale shift")
slip("engine/maps-outermost", "flat flatten* permute* drop dense", "flatten-order dense-row-order", "wiring")
slip("engine/life-not-capped", "capped clamp* left", "activation-missing", "block-missing")
defect("engine/kernel-turned-round", "near2 conv2d*", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("near2.weight", lambda weight: weight.flip(2))
)
defect("engine/drop-still-on", "drop", "dropout-mode")(left_on("drop"))
ways("engine", "padded-as-torch-has-it", "each-sensor-a-sample")


@control("engine/rows-in-the-weights")
def _reordered(port: Engine) -> Engine:
    weight = port.dense.weight.unflatten(1, (12, 5, 2)).permute(0, 3, 1, 2).flatten(1)
    port.dense.weight = nn.Parameter(weight.clone())
    port.ways = port.ways | {"maps-outermost"}
    return port


one_layer("engine", "more-padding-in-front+relu-for-tanh", "more-padding-in-front+kernel-turned-round")
neighbours("engine", "between-zero-and-one+more-padding-in-front", "maps-outermost+life-not-capped")


# --- when it fails ------------------------------------------------------------------------------------------


class Failure(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.gru = nn.ParameterDict({"kernel": torch.zeros(4, 15), "recurrent": torch.zeros(5, 15),
                                     "bias": torch.zeros(15)})  # fmt: skip
        self.both = nn.Linear(5, 2)

    def step(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        kernel, recurrent, bias = (self.gru[name] for name in ("kernel", "recurrent", "bias"))
        if "one-product-for-gates" in self.ways:
            weight = torch.cat([kernel[:, :10], recurrent[:, :10]])
            z, r = torch.sigmoid(torch.cat([x, h], dim=1) @ weight + bias[:10]).chunk(2, dim=1)
        else:
            z, r = torch.sigmoid(x @ kernel[:, :10] + bias[:10] + h @ recurrent[:, :10]).chunk(2, dim=1)
        if "gates-exchanged" in self.ways:
            z, r = r, z
        given = x @ kernel[:, 10:] + bias[10:]
        if "reset-behind-the-product" in self.ways:
            new = torch.tanh(given + r * (h @ recurrent[:, 10:]))
        else:
            new = torch.tanh(given + (r * h) @ recurrent[:, 10:])
        if "kept-by-the-rest" in self.ways:
            return (1 - z) * h + z * new
        return new + z * (h - new) if "blended-at-once" in self.ways else z * h + (1 - z) * new

    def forward(self, sensors: torch.Tensor) -> torch.Tensor:
        there = (sensors != (0 if "zeros-hidden" in self.ways else -99)).any(2)
        h, found = sensors.new_zeros(len(sensors), 5), []
        for t in range(7):
            new, seen = self.step(sensors[:, t], h), there[:, t, None]
            h = torch.where(seen, new, h)
            found.append(h * seen if "zeros-where-hidden" in self.ways else h)
        x = self.both(torch.stack(found, dim=1))
        a, b = x.flip(2).chunk(2, dim=2) if "shape-before-scale" in self.ways else x.chunk(2, dim=2)
        a = F.softplus(a) if "softplus-for-both" in self.ways else torch.exp(a)
        return torch.cat([20 * a, F.softplus(b)], dim=2)


@network
def failure() -> Pair:
    """WTTE-RNN: steps of -99 are none, a GRU of the older kind, and scale and shape of Weibull's distribution."""
    keras.backend.clear_session()
    sensors = layers.Input((7, 4), name="sensors")
    x = layers.Masking(-99.0, name="masking")(sensors)
    x = layers.GRU(5, reset_after=False, return_sequences=True, name="gru")(x)
    x = layers.Dense(2, name="both")(x)
    a, b = ops.split(x, 2, axis=2)
    model = keras.Model(sensors, layers.Concatenate(name="weibull")([20 * ops.exp(a), ops.softplus(b)]))
    fill(model)
    grown(model, 2, "both")
    given = fed(1432, 4, 7, 4)
    given[0, 4:] = given[2, 5:] = given[3, 2:] = -99
    return Pair(model, given, ported(model, Failure), "same")


_CELL = "gru both sigmoid* tanh* matmul* mul* add* sub* chunk* split* where* slice* stack* masking not_equal* ne* any*"
_WEIBULL = "both split* chunk* exp* softplus* weibull cat* mul* multiply* flip*"
slip("failure/reset-behind-the-product", _CELL, "gru-reset-after", "wiring operand-order")
slip("failure/gates-exchanged", _CELL, "gru-gate-order", "wiring operand-order concat-order")
slip("failure/kept-by-the-rest", _CELL, "operand-order wiring gru-gate-order", "operation-kind")
slip("failure/zeros-hidden", _CELL, "attention-mask", "rnn-last-step shift wiring operation-kind")
slip("failure/zeros-where-hidden", _CELL, "attention-mask", "rnn-last-step block-extra wiring scale")
slip("failure/shape-before-scale", _WEIBULL, "channel-order concat-order wiring operand-order", "block-extra")
slip("failure/softplus-for-both", _WEIBULL, "activation-kind", "operation-kind")
ways("failure", "one-product-for-gates", "blended-at-once")
one_layer("failure", "reset-behind-the-product+gates-exchanged", "shape-before-scale+softplus-for-both")
neighbours("failure", "zeros-where-hidden+softplus-for-both")


# --- unlike -------------------------------------------------------------------------------------------------


class Unlike(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.code = nn.Linear(18, 10), nn.Linear(10, 5)
        for i in (1, 2):
            self.add_module(f"back{i}", nn.Linear(5, 10))
            self.add_module(f"out{i}", nn.Linear(10, 18))

    def coded(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.enter(x))
        return self.code(x) if "code-not-bent" in self.ways else F.relu(self.code(x))

    def decoded(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"out{i}")(F.relu(self.get_submodule(f"back{i}")(x)))
        return x if "logits-for-values" in self.ways and i == 1 else torch.sigmoid(x)

    def far(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if "absolute-for-squared" in self.ways:
            return (x - y).abs().mean(1)
        if "far-by-torch" in self.ways:
            return F.mse_loss(x, y, reduction="none").mean(1)
        return ((x - y) ** 2).sum(1) if "summed-for-mean" in self.ways else ((x - y) ** 2).mean(1)

    def forward(self, window: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = window.flatten(1) if "sensors-outermost" in self.ways else window.transpose(1, 2).flatten(1)
        code = self.coded(x)
        one = self.decoded(1, code)
        made = one.unflatten(1, (3, 6)).mT.flatten(1) if "order-in-the-weights" in self.ways else one
        again = self.decoded(2, code if "first-code-again" in self.ways else self.coded(one))
        shares = (0.8, 0.2) if "shares-exchanged" in self.ways else (0.2, 0.8)
        return made, shares[0] * self.far(x, one) + shares[1] * self.far(x, again)


@network
def unlike() -> Pair:
    """USAD: a code with two ways back, of which the second mends what the first has made; how far both are."""
    keras.backend.clear_session()
    window = layers.Input((6, 3), name="window")
    x = layers.Flatten(name="flat")(window)
    enter, code = layers.Dense(10, activation="relu", name="enter"), layers.Dense(5, activation="relu", name="code")
    backs = [layers.Dense(10, activation="relu", name=f"back{i}") for i in (1, 2)]
    outs = [layers.Dense(18, activation="sigmoid", name=f"out{i}") for i in (1, 2)]
    one = outs[0](backs[0](code(enter(x))))
    again = outs[1](backs[1](code(enter(one))))
    near = ops.mean(ops.square(layers.Subtract(name="apart1")([x, one])), axis=1)
    far = ops.mean(ops.square(layers.Subtract(name="apart2")([x, again])), axis=1)
    model = keras.Model(window, [one, layers.Add(name="score")([0.2 * near, 0.8 * far])])
    fill(model)
    grown(model, 1.5, "enter", "code", "back1", "back2")
    given = np.random.default_rng(1433).random((5, 6, 3)).astype(np.float32)
    return Pair(model, given, ported(model, Unlike), "NHWC->NCHW")


_FAR = "apart? sub* pow* square* mean* sum* score mul* multiply* add* abs*"
slip("unlike/sensors-outermost", "flat flatten* transpose* enter", "flatten-order dense-row-order", "wiring")
slip("unlike/code-not-bent", "code relu* back?", "activation-missing", "block-missing")
slip("unlike/logits-for-values", "out1 sigmoid* enter", "logits activation-missing", "block-missing")
slip("unlike/first-code-again", "back2 out2 enter code", "wiring block-missing")
slip("unlike/absolute-for-squared", _FAR, "operation-kind")
slip("unlike/summed-for-mean", _FAR, "scale pool-kind operation-kind")
slip("unlike/shares-exchanged", _FAR, "operand-order scale wiring")
defect("unlike/second-way-first", "back? out?", "weights-swapped", "weights-perturbed wiring")(
    lambda port: [exchanged(f"{name}1", f"{name}2")(port) for name in ("back", "out")] and None
)
ways("unlike", "far-by-torch")


@control("unlike/order-in-the-weights")
def _window_as_it_is(port: Unlike) -> Unlike:
    def turned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(-1, (6, 3)).transpose(-1, -2).flatten(-2).clone()

    port.enter.weight = nn.Parameter(turned(port.enter.weight))
    port.ways = port.ways | {"sensors-outermost", "order-in-the-weights"}
    for out in (port.out1, port.out2):
        out.weight, out.bias = nn.Parameter(turned(out.weight.T).T), nn.Parameter(turned(out.bias))
    return port


one_layer("unlike", "absolute-for-squared+shares-exchanged")
neighbours("unlike", "sensors-outermost+code-not-bent", "first-code-again+summed-for-mean")
