"""Series with reasons of their own, steps of an equation, sparse codes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten


class Residual(Port):
    def __init__(self, ways: frozenset[str], inner: int, outer: int, context: bool = False) -> None:
        super().__init__(ways)
        self.enter, self.leave, self.gate = nn.Linear(inner, 6), nn.Linear(6, 6), nn.Linear(6, 2 * outer)
        self.context = nn.Linear(3, 6, bias=False) if context else None
        self.short, self.norm = nn.Linear(inner, outer), nn.LayerNorm(outer, eps=1e-3)

    def forward(self, x: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        y = self.enter(x)
        if self.context is not None and "context-forgotten" not in self.ways:
            y = y + self.context(context)[:, None]
        y = F.relu(y) if "rectified-for-elu" in self.ways else F.elu(y)
        y, gate = self.gate(self.leave(y)).chunk(2, dim=-1)
        y, gate = (gate, y) if "gates-first" in self.ways else (y, gate)
        y = y * torch.sigmoid(gate)
        y = y if "short-lost" in self.ways else self.short(x) + y
        return y if "sums-not-normed" in self.ways else self.norm(y)


class Reasons(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.ones = nn.ModuleList(nn.Linear(1, 4) for _ in range(3))
        self.shares = Residual(ways, 12, 3, context=True)
        self.begin_h, self.begin_c = nn.Linear(3, 5), nn.Linear(3, 5)
        self.read, self.last = nn.LSTM(4, 5, batch_first=True), Residual(ways, 5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, series: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        ones = [layer(series[..., i : i + 1]) for i, layer in enumerate(self.ones)]
        shares = F.softmax(
            self.shares(torch.cat(ones, dim=-1), place), dim=1 if "shares-over-time" in self.ways else -1
        )
        if "weighed-by-name" in self.ways:
            x = torch.einsum("bti,btif->btf", shares, torch.stack(ones, dim=2))
        else:
            stacked = torch.stack(ones, dim=-2)
            x = (stacked * shares[..., None]).mean(2) if "mean-of-the-series" in self.ways else (
                stacked * shares[..., None]
            ).sum(2)  # fmt: skip
        begin = (self.begin_h(place)[None], self.begin_c(place)[None])
        begin = begin[::-1] if "cell-for-state" in self.ways else begin
        x = self.read(x, None if "begun-at-nothing" in self.ways else begin)[0]
        return self.head(self.last(x))


@network
def reasons() -> Pair:
    """A temporal fusion transformer's parts: gated residual units, shares of the series, a state from the place."""
    keras.backend.clear_session()
    series, place = layers.Input((8, 3), name="series"), layers.Input((3,), name="place")

    def residual(x: keras.KerasTensor, outer: int, name: str, context: Any = None) -> keras.KerasTensor:
        y = layers.Dense(6, name=f"{name}.enter")(x)
        if context is not None:
            y = y + ops.expand_dims(layers.Dense(6, use_bias=False, name=f"{name}.context")(context), 1)
        y = layers.Dense(6, name=f"{name}.leave")(ops.elu(y))
        y, gate = ops.split(layers.Dense(2 * outer, name=f"{name}.gate")(y), 2, axis=-1)
        y = layers.Dense(outer, name=f"{name}.short")(x) + y * ops.sigmoid(gate)
        return layers.LayerNormalization(name=f"{name}.norm")(y)

    ones = [layers.Dense(4, name=f"ones.{i}")(series[..., i : i + 1]) for i in range(3)]
    shares = residual(layers.Concatenate(name="joined")(ones), 3, "shares", place)
    shares = layers.Softmax(name="softmax")(shares)
    x = ops.sum(ops.stack(ones, axis=2) * ops.expand_dims(shares, 3), axis=2)
    begin = [layers.Dense(5, name=name)(place) for name in ("begin_h", "begin_c")]
    x = layers.LSTM(5, return_sequences=True, name="read")(x, initial_state=begin)
    model = keras.Model([series, place], layers.Dense(3, name="head")(residual(x, 4, "last")))
    fill(model)
    return Pair(model, {"series": fed(143, 3, 8, 3), "place": fed(144, 3, 3)}, ported(model, Reasons), "same")


_UNITS = "shares shares.* last last.* add* elu* relu* split* chunk* sigmoid* multiply* mul* expand_dims*"
_WEIGHED = "softmax stack* multiply* mul* sum mean* slice* expand_dims* read"
slip("reasons/context-forgotten", _UNITS, "block-missing residual-missing bias-missing", "wiring")
slip("reasons/rectified-for-elu", _UNITS, "activation-kind")
slip(
    "reasons/gates-first", _UNITS, "concat-order operand-order channel-order wiring", "activation-kind weights-swapped"
)
slip("reasons/short-lost", _UNITS, "residual-missing", "block-missing wiring")
slip("reasons/sums-not-normed", _UNITS + " softmax head", "block-missing", "wiring")
slip("reasons/shares-over-time", _WEIGHED, "softmax-axis", "operation-kind")
slip("reasons/mean-of-the-series", _WEIGHED, "pool-kind scale", "operation-kind")
slip("reasons/begun-at-nothing", "read begin_h begin_c", "block-missing wiring", "weights-not-loaded")
slip("reasons/cell-for-state", "read begin_h begin_c slice* unsqueeze*", "operand-order wiring concat-order",
     "weights-swapped")  # fmt: skip
defect("reasons/begins-exchanged", "begin_h begin_c", "weights-swapped", "weights-perturbed wiring")(
    exchanged("begin_h", "begin_c")
)
defect("reasons/gates-of-the-cell", "read", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("read.*", lambda w: w.unflatten(0, (4, 5))[[3, 0, 1, 2]].flatten(0, 1))
)
defect("reasons/norm-eps-of-torch", "shares.norm last.norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
ways("reasons", "weighed-by-name")
one_layer("reasons", "shares-over-time+mean-of-the-series", "gates-of-the-cell+begun-at-nothing")
neighbours("reasons", "gates-first+sums-not-normed")


# --- steps of an equation -----------------------------------------------------------------------------------


class Steps(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.hidden, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)

    def slope(self, t: float, x: torch.Tensor) -> torch.Tensor:
        if "time-in-the-bias" in self.ways:
            y = F.linear(x, self.enter.weight[:, :5], self.enter.bias + t * self.enter.weight[:, 5])
        else:
            t = torch.full_like(x[:, :1], 0.0 if "time-stands-still" in self.ways else t)
            y = self.enter(torch.cat([t, x] if "time-first" in self.ways else [x, t], dim=1))
        y = self.hidden(torch.tanh(y))
        if "second-left-linear" in self.ways:
            return self.leave(y)
        return self.leave(F.elu(y) if "elu-for-tanh" in self.ways else torch.tanh(y))

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        x, h = state, 0.25
        for i in range(3 if "one-step-more" in self.ways else 2):
            t = i * h
            k1 = self.slope(t, x)
            k2 = self.slope(t + h / 2, x + h / 2 * k1)
            k3 = self.slope(t + h / 2, x + h / 2 * (k1 if "third-from-the-first" in self.ways else k2))
            k4 = self.slope(t + h, x + h * k3)
            total = k1 + 2 * k2 + 2 * k3 + k4
            total = k1 + k2 + k3 + k4 if "all-weighed-alike" in self.ways else total
            x = x + total * (h / 4 if "mean-of-four" in self.ways else h / 6)
        return x


@network
def steps() -> Pair:
    """Two steps of Runge and Kutta through a small network that is told the time."""
    keras.backend.clear_session()
    state = layers.Input((5,), name="state")
    enter, hidden = (layers.Dense(8, activation="tanh", name=name) for name in ("enter", "hidden"))
    leave, x, h = layers.Dense(5, name="leave"), state, 0.25

    def slope(t: float, x: keras.KerasTensor) -> keras.KerasTensor:
        return leave(hidden(enter(ops.concatenate([x, ops.full_like(x[:, :1], t)], axis=1))))

    for i in range(2):
        t = i * h
        k1 = slope(t, x)
        k2 = slope(t + h / 2, x + h / 2 * k1)
        k3 = slope(t + h / 2, x + h / 2 * k2)
        k4 = slope(t + h, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    model = keras.Model(state, x)
    fill(model)
    grown(model, 2, "enter", "leave")
    return Pair(model, fed(145, 5, 5), ported(model, Steps), "same")


_TIMES, _SLOPES = "concatenate* cat* full_like* get_item* slice* enter", "hidden leave elu*"
_SUMS = "add* multiply* mul* leave* true_divide* div*"
slip("steps/time-stands-still", _TIMES, "weights-perturbed embedding-offset block-missing", "scale shift")
slip("steps/time-first", _TIMES, "concat-order", "operand-order")
slip("steps/second-left-linear", _SLOPES, "activation-missing", "block-missing")
slip("steps/elu-for-tanh", _SLOPES, "activation-kind")
slip("steps/one-step-more", "*#8 *#9 *#10 *#11 add_13 add_14 add_20 multiply_11 mul_11 mul_17", "block-extra", "wiring")
slip("steps/third-from-the-first", _SUMS, "wiring", "operand-order")
slip("steps/all-weighed-alike", _SUMS, "scale block-missing", "operation-kind")
slip("steps/mean-of-four", _SUMS, "scale", "weights-perturbed operation-kind")
defect("steps/hidden-unturned", "hidden*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("hidden.weight", lambda weight: weight.T)
)
ways("steps", "time-in-the-bias")
one_layer("steps", "second-left-linear+hidden-unturned", "all-weighed-alike+mean-of-four")
neighbours("steps", "time-first+elu-for-tanh")


# --- sparse codes -------------------------------------------------------------------------------------------


class Sparse(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.look, self.among = nn.Linear(7, 9, bias=False), nn.Linear(9, 9, bias=False)
        self.bars = nn.ParameterDict({"level": torch.ones(9)})
        self.show = nn.Linear(9, 7)

    def shrunk(self, x: torch.Tensor) -> torch.Tensor:
        level = self.bars["level"]
        if "shrunk-by-cutting" in self.ways:
            return x - torch.maximum(torch.minimum(x, level), -level)
        if "shrunk-on-one-side" in self.ways:
            return F.relu(x - level)
        if "kept-beyond-the-level" in self.ways:
            return torch.where(x.abs() > level, x, torch.zeros(()))
        return torch.sign(x) * F.relu(x.abs() - level)

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        given = self.look(seen)
        x = self.shrunk(given)
        for _ in range(1 if "one-round-less" in self.ways else 2):
            y = self.among(x)
            y = y if "what-was-seen-forgotten" in self.ways else given + y
            x = y if "rounds-left-linear" in self.ways else self.shrunk(y)
        return self.show(x)


class _Shrunk(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.level = self.add_weight(name="level", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.sign(x) * ops.relu(ops.absolute(x) - self.level)


@network
def sparse() -> Pair:
    """LISTA: three rounds of shrinking towards a sparse code, each level learnt, and what the code shows."""
    keras.backend.clear_session()
    seen = layers.Input((7,), name="seen")
    given = layers.Dense(9, use_bias=False, name="look")(seen)
    among, shrunk = layers.Dense(9, use_bias=False, name="among"), _Shrunk(name="bars")
    x = shrunk(given)
    for i in range(2):
        x = shrunk(layers.Add(name=f"sum.{i}")([given, among(x)]))
    model = keras.Model(seen, layers.Dense(7, name="show")(x))
    fill(model)
    model.get_layer("bars").level.assign(np.random.default_rng(146).uniform(0.2, 0.7, 9))
    return Pair(model, fed(147, 6, 7), ported(model, Sparse), "same")


_BARS = "bars* sign* abs* sub* relu* mul* where* gt* show"
slip("sparse/shrunk-on-one-side", _BARS, "activation-kind", "operation-kind block-missing")
slip("sparse/kept-beyond-the-level", _BARS, "activation-kind", "operation-kind")
slip("sparse/one-round-less", _BARS + " among* sum.* add*", "block-missing", "wiring")
slip("sparse/what-was-seen-forgotten", "sum.* add* among* " + _BARS, "residual-missing", "block-missing wiring")
slip("sparse/rounds-left-linear", _BARS + " sum.* add*", "activation-missing block-missing")
defect("sparse/levels-as-begun", _BARS, "weights-not-loaded", "weights-perturbed activation-param")(
    rewritten("bars.level", lambda level: torch.full_like(level, 0.1))
)
defect("sparse/among-unturned", "among*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("among.weight", lambda weight: weight.T)
)
defect("sparse/show-without-bias", "show", "bias-missing", "weights-not-loaded weights-perturbed")(
    rewritten("show.bias", torch.zeros_like)
)
ways("sparse", "shrunk-by-cutting")
one_layer("sparse", "kept-beyond-the-level+levels-as-begun")
neighbours("sparse", "what-was-seen-forgotten+among-unturned", "rounds-left-linear+show-without-bias")
