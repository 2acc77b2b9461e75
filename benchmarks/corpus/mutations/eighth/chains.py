"""Chains and series: which parts of a protein touch, a trend and what lies on it, and a series built again."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, doubled, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten, set_to


class Contacts(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.read, self.enter = nn.Conv1d(5, 4, 5, padding=2), nn.Conv2d(8, 6, 1)
        self.near, self.norm1 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.GroupNorm(6, 6, eps=1e-3)
        self.far, self.norm2 = nn.Conv2d(6, 6, 3, padding=2, dilation=2, bias=False), nn.GroupNorm(6, 6, eps=1e-3)
        self.touch = nn.Conv2d(6, 1, 1)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if "rectified-for-elu" in self.ways else F.elu(x)

    def entered(self, x: torch.Tensor) -> torch.Tensor:
        if "pairs-never-made" in self.ways:
            first, second = self.enter.weight[:, :4, 0, 0], self.enter.weight[:, 4:, 0, 0]
            one, two = torch.einsum("bil,oi->bol", x, first), torch.einsum("bil,oi->bol", x, second)
            return one[..., None] + two[:, :, None] + self.enter.bias[:, None, None]
        parts = [x[..., None].expand(-1, -1, -1, 9), x[:, :, None].expand(-1, -1, 9, -1)]
        return self.enter(torch.cat(parts[::-1] if "second-of-the-pair-first" in self.ways else parts, dim=1))

    def normed(self, norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        if "normed-at-once" in self.ways:
            return F.group_norm(x, 1, norm.weight, norm.bias, norm.eps)
        if "norm-of-instances" in self.ways:
            return F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
        return norm(x)

    def forward(self, chain: torch.Tensor) -> torch.Tensor:
        x = self.entered(self.bent(self.read(chain)))
        y = self.bent(self.normed(self.norm1, self.near(x)))
        y = self.normed(self.norm2, self.far(y))
        x = self.bent(y if "pairs-forgotten" in self.ways else x + y)
        x = self.touch(x)
        if "both-ways-added" in self.ways:
            x = x + x.transpose(2, 3)
        elif "one-way-alone" not in self.ways:
            x = (x + x.transpose(2, 3)) / 2
        return torch.sigmoid(x)


@network
def contacts() -> Pair:
    """Which parts of a protein touch: two of a chain beside one another, and a residual network on all pairs."""
    keras.backend.clear_session()
    chain = layers.Input((9, 5), name="chain")
    x = layers.Conv1D(4, 5, padding="same", activation="elu", name="read")(chain)
    one = ops.repeat(ops.expand_dims(x, 2), 9, axis=2)
    two = ops.repeat(ops.expand_dims(x, 1), 9, axis=1)
    x = layers.Conv2D(6, 1, name="enter")(layers.Concatenate(name="pairs")([one, two]))
    y = layers.Conv2D(6, 3, padding="same", use_bias=False, name="near")(x)
    y = ops.elu(layers.GroupNormalization(6, name="norm1")(y))
    y = layers.Conv2D(6, 3, padding="same", dilation_rate=2, use_bias=False, name="far")(y)
    y = layers.GroupNormalization(6, name="norm2")(y)
    x = layers.ELU(name="bent")(layers.Add(name="sum")([x, y]))
    x = layers.Conv2D(1, 1, name="touch")(x)
    model = keras.Model(chain, ops.sigmoid((x + ops.transpose(x, (0, 2, 1, 3))) / 2))
    fill(model)
    return Pair(model, fed(871, 3, 9, 5), ported(model, Contacts), "NHWC->NCHW")


_PAIRS, _WAYS = (
    "expand* repeat* unsqueeze* get_item* slice* pairs cat* enter",
    "add* transpose* div* true_divide* divide* touch sigmoid*",
)
slip("contacts/rectified-for-elu", "elu* relu* read bent", "activation-kind")
slip("contacts/second-of-the-pair-first", _PAIRS, "concat-order", "operand-order axis-permutation")
slip("contacts/normed-at-once", "norm? group_norm*", "norm-axis groups", "operation-kind")
slip("contacts/pairs-forgotten", "sum add* bent elu* norm2", "residual-missing", "block-missing wiring")
slip("contacts/both-ways-added", _WAYS, "scale block-missing", "operation-kind")
slip("contacts/one-way-alone", _WAYS, "block-missing", "residual-missing wiring")
defect("contacts/far-not-dilated", "far", "dilation", "pad-mode")(set_to("far", dilation=(1, 1), padding=(1, 1)))
defect("contacts/norm-eps-of-torch", "norm?", "ln-eps", "bn-eps")(epsilon(1e-5, nn.GroupNorm))
defect("contacts/taps-turned", "near", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("near.weight", lambda weight: weight.transpose(2, 3))
)
ways("contacts", "pairs-never-made", "norm-of-instances")
one_layer("contacts", "normed-at-once+norm-eps-of-torch")
neighbours("contacts", "second-of-the-pair-first+taps-turned", "pairs-forgotten+one-way-alone")


# --- a trend ------------------------------------------------------------------------------------------------


class Trend(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.season, self.trend = nn.Linear(12, 12), nn.Linear(12, 12)
        self.affine = nn.ParameterDict({"by": torch.ones(3), "on": torch.zeros(3)})

    def smooth(self, x: torch.Tensor) -> torch.Tensor:
        if "smooth-by-sums" in self.ways:
            total = F.pad(F.pad(x, (2, 2), mode="replicate").cumsum(2), (1, 0))
            return (total[..., 5:] - total[..., :-5]) / 5
        if "zeros-beyond-the-ends" in self.ways:
            return F.avg_pool1d(x, 5, 1, padding=2)
        return F.avg_pool1d(F.pad(x, (4, 0) if "past-repeated-alone" in self.ways else (2, 2), mode="replicate"), 5, 1)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        x = series.transpose(1, 2)
        mean = x.mean(2, keepdim=True)
        spread = torch.sqrt(x.var(2, correction=int("spread-of-torch" in self.ways), keepdim=True) + 1e-5)
        gamma, beta = self.affine["by"][:, None], self.affine["on"][:, None]
        x = (x - mean) / spread * gamma + beta
        smooth = self.smooth(x)
        season = x if "trend-left-in" in self.ways else x - smooth
        if "both-by-one-product" in self.ways:
            weight = torch.cat([self.season.weight, self.trend.weight], dim=1)
            x = F.linear(torch.cat([season, smooth], dim=2), weight, self.season.bias + self.trend.bias)
        else:
            x = self.season(season)
            x = x if "trend-forgotten" in self.ways else x + self.trend(smooth)
        if "levels-not-given-back" in self.ways:
            return x.transpose(1, 2)
        x = x if "beta-left-in" in self.ways else x - beta
        x = x / gamma * spread
        return (x if "mean-not-given-back" in self.ways else x + mean).transpose(1, 2)


class _Affine(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by, self.on = (self.add_weight(name=name, shape=(3,)) for name in ("by", "on"))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.by + self.on

    def back(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return (x - self.on) / self.by


class _Back(layers.Layer):  # type: ignore[misc]
    def __init__(self, affine: _Affine, **own: str) -> None:
        super().__init__(**own)
        self.undone = lambda x: affine.back(x)  # not a layer of this one, whose weights would be carried twice

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self.undone(x)


@network
def trend() -> Pair:
    """DLinear with a norm that is taken back: a moving mean with its ends repeated, and two products along time."""
    keras.backend.clear_session()
    series = layers.Input((12, 3), name="series")
    mean = ops.mean(series, axis=1, keepdims=True)
    spread = ops.sqrt(ops.var(series, axis=1, keepdims=True) + 1e-5)
    affine = _Affine(name="affine")
    x = affine((series - mean) / spread)
    wide = ops.concatenate([ops.repeat(x[:, :1], 2, axis=1), x, ops.repeat(x[:, -1:], 2, axis=1)], axis=1)
    smooth = layers.AveragePooling1D(5, 1, name="smooth")(wide)
    season = layers.Permute((2, 1), name="season_turned")(layers.Subtract(name="less")([x, smooth]))
    smooth = layers.Permute((2, 1), name="trend_turned")(smooth)
    x = layers.Add(name="sum")([layers.Dense(12, name="season")(season), layers.Dense(12, name="trend")(smooth)])
    x = _Back(affine, name="back")(layers.Permute((2, 1), name="turned_back")(x))
    model = keras.Model(series, x * spread + mean)
    fill(model)
    affine.by.assign([0.7, 1.4, 1.1])
    affine.on.assign([0.5, -0.3, 0.4])
    return Pair(model, fed(872, 4, 12, 3).cumsum(axis=1) + 2, ported(model, Trend), "same")


_LEVEL = "mean* var* sqrt* sub* subtract* div* true_divide* divide* mul* multiply* add* affine back transpose*"
_SMOOTH = "smooth avg_pool1d pad* replicat* less sub* cat* concatenate* repeat* trend_turned season_turned"
slip("trend/spread-of-torch", _LEVEL, "std-ddof")
slip("trend/zeros-beyond-the-ends", _SMOOTH, "pad-mode pool-count-include-pad")
slip("trend/past-repeated-alone", _SMOOTH, "pad-asymmetry shift", "pad-mode")
slip("trend/trend-left-in", _SMOOTH + " season", "residual-missing block-missing", "wiring")
slip("trend/trend-forgotten", "sum add* season trend", "residual-missing block-missing", "wiring")
slip("trend/levels-not-given-back", _LEVEL + " turned_back", "block-missing", "input-normalisation wiring")
slip("trend/mean-not-given-back", _LEVEL, "residual-missing block-missing", "bias-missing wiring")
slip("trend/beta-left-in", _LEVEL, "block-missing bias-missing", "wiring")
defect("trend/season-for-trend", "season trend", "weights-swapped", "weights-perturbed wiring")(
    exchanged("season", "trend")
)
defect("trend/season-unturned", "season", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("season.weight", lambda weight: weight.T)
)
ways("trend", "smooth-by-sums", "both-by-one-product")
one_layer("trend", "season-unturned+trend-left-in", "mean-not-given-back+beta-left-in")
neighbours("trend", "zeros-beyond-the-ends+season-for-trend")


# --- a series built again -----------------------------------------------------------------------------------


class Rebuilt(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.read, self.tell, self.head = (
            nn.LSTM(4, 5, batch_first=True),
            nn.LSTM(5, 6, batch_first=True),
            nn.Linear(6, 4),
        )

    def run(self, lstm: nn.LSTM, x: torch.Tensor) -> list[torch.Tensor]:
        """As Keras' layer is told to: rectified where others take the hyperbolic tangent."""
        h = c = x.new_zeros(len(x), lstm.hidden_size)
        weight, bias = torch.cat([lstm.weight_ih_l0, lstm.weight_hh_l0], dim=1), lstm.bias_ih_l0 + lstm.bias_hh_l0
        found, gate = [], F.hardsigmoid if "gates-of-old-keras" in self.ways else torch.sigmoid
        for step in x.unbind(1):
            if "gates-one-by-one" in self.ways:
                parts = zip(weight.chunk(4), bias.chunk(4), strict=True)
                i, f, g, o = (torch.cat([step, h], dim=1) @ own.T + more for own, more in parts)
            else:
                i, f, g, o = F.linear(torch.cat([step, h], dim=1), weight, bias).chunk(4, dim=1)
            g = torch.tanh(g) if "new-by-tanh" in self.ways else F.relu(g)
            c = gate(f) * c + gate(i) * g
            h = gate(o) * (
                c
                if "cell-given-as-it-is" in self.ways
                else torch.tanh(c)
                if "given-by-tanh" in self.ways
                else F.relu(c)
            )
            found.append(h)
        return found

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        if "cells-of-torch" in self.ways:
            code = self.read(series)[0][:, -1]
        else:
            code = self.run(self.read, series)[0 if "first-step-kept" in self.ways else -1]
        x = code[:, None].expand(-1, 7, -1)
        x = self.tell(x)[0] if "cells-of-torch" in self.ways else torch.stack(self.run(self.tell, x), dim=1)
        return self.head(x.flip(1) if "told-backwards" in self.ways else x)


@network
def rebuilt() -> Pair:
    """An autoencoder of two LSTM layers that rectify: all steps become one code, and the code becomes the steps."""
    keras.backend.clear_session()
    series = layers.Input((7, 4), name="series")
    x = layers.RepeatVector(7, name="repeated")(layers.LSTM(5, activation="relu", name="read")(series))
    x = layers.LSTM(6, activation="relu", return_sequences=True, name="tell")(x)
    model = keras.Model(series, layers.TimeDistributed(layers.Dense(4, name="head"), name="each")(x))
    fill(model)
    return Pair(
        model, fed(873, 4, 7, 4), ported(model, Rebuilt, rename=lambda name: name.removeprefix("each.")), "same"
    )


_CELLS = "read tell *sigmoid* relu* tanh* cat* linear* chunk* mul* add* stack"
slip("rebuilt/cells-of-torch", _CELLS, "activation-kind rnn-activation", "operation-kind")
slip("rebuilt/new-by-tanh", _CELLS, "activation-kind rnn-activation", "operation-kind")
slip("rebuilt/given-by-tanh", _CELLS, "activation-kind rnn-activation", "operation-kind")
slip("rebuilt/gates-of-old-keras", _CELLS, "rnn-activation activation-kind", "operation-kind")
slip("rebuilt/first-step-kept", _CELLS + " repeated expand* get_item* slice*", "rnn-last-step", "wiring rnn-direction")
slip(
    "rebuilt/told-backwards", "stack flip* head each tell", "rnn-direction block-extra", "axis-permutation shift wiring"
)
defect("rebuilt/gates-exchanged", _CELLS, "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("tell.*", lambda w: w.unflatten(0, (4, 6))[[0, 1, 3, 2]].flatten(0, 1))
)
defect("rebuilt/bias-counted-twice", _CELLS, "rnn-bias", "weights-perturbed scale")(doubled("read"))
ways("rebuilt", "gates-one-by-one")
one_layer("rebuilt", "gates-exchanged+gates-of-old-keras", "new-by-tanh+bias-counted-twice")
neighbours("rebuilt", "first-step-kept+gates-exchanged", "told-backwards+given-by-tanh")
