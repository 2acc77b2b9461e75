"""Forecasts: halves of a series that tell one another, coarse and fine rates, and sales as a distribution."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, fed, ported, set_to


class Halves(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name in ("share_odd", "share_even", "plus", "minus"):
            self.add_module(f"{name}_near", nn.Conv1d(4, 6, 3))
            self.add_module(f"{name}_point", nn.Conv1d(6, 4, 1))
        self.ahead = nn.Linear(16, 5)

    def told(self, name: str, x: torch.Tensor) -> torch.Tensor:
        name = "share_odd" if name == "share_even" and "one-network-for-both" in self.ways else name
        if "edges-of-zeros" in self.ways:
            x = F.pad(x, (1, 1))
        else:
            x = F.pad(x, (1, 1), mode="reflect" if "edges-mirrored" in self.ways else "replicate")
        x = F.leaky_relu(self.get_submodule(f"{name}_near")(x), 0.01 if "slope-of-torch" in self.ways else 0.3)
        point = self.get_submodule(f"{name}_point")
        if "points-by-products" in self.ways:
            return torch.tanh(torch.einsum("bct,oc->bot", x, point.weight[:, :, 0]) + point.bias[:, None])
        return torch.tanh(point(x))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        if "halves-by-folding" in self.ways:
            even, odd = series.unflatten(2, (8, 2)).unbind(3)
        else:
            even, odd = series[:, :, ::2], series[:, :, 1::2]
        d = odd * torch.exp(self.told("share_odd", even))
        share = self.told("share_even", odd)
        c = even * (share if "share-not-raised" in self.ways else torch.exp(share))
        more, less = c + self.told("plus", d), d - self.told("minus", c)
        both = [less, more] if "odd-before-even" in self.ways else [more, less]
        x = torch.cat(both, dim=2) if "halves-behind-one-another" in self.ways else torch.stack(both, 3).flatten(2)
        x = x if "series-not-added" in self.ways else x + series
        return self.ahead(x)


@network
def halves() -> Pair:
    """SCINet of one level: even and odd steps that scale and shift one another, put together again and told ahead."""
    keras.backend.clear_session()
    series = layers.Input((16, 4), name="series")

    def told(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.Conv1D(6, 3, name=f"{name}_near")(ops.pad(x, ((0, 0), (1, 1), (0, 0)), mode="symmetric"))
        return layers.Conv1D(4, 1, activation="tanh", name=f"{name}_point")(layers.LeakyReLU(name=f"{name}_bend")(x))

    even, odd = series[:, ::2], series[:, 1::2]
    d = layers.Multiply(name="odd_scaled")([odd, ops.exp(told(even, "share_odd"))])
    c = layers.Multiply(name="even_scaled")([even, ops.exp(told(odd, "share_even"))])
    more = layers.Add(name="even_told")([c, told(d, "plus")])
    less = layers.Subtract(name="odd_told")([d, told(c, "minus")])
    x = layers.Reshape((16, 4), name="together")(ops.stack([more, less], axis=2))
    x = layers.Permute((2, 1), name="turned")(layers.Add(name="added")([x, series]))
    model = keras.Model(series, layers.Dense(5, name="ahead")(x))
    fill(model)
    return Pair(model, fed(1421, 3, 16, 4), ported(model, Halves), "NHWC->NCHW")


_NEAR = "*_near *_bend *_point pad* leaky_relu* conv1d*"
_TOGETHER = "together stack* flatten* added add* turned ahead cat*"
slip("halves/edges-of-zeros", _NEAR, "pad-mode", "pad-asymmetry")
slip("halves/edges-mirrored", _NEAR, "pad-mode", "pad-asymmetry")
slip("halves/slope-of-torch", _NEAR, "activation-param", "activation-kind")
slip("halves/one-network-for-both", "share_even* share_odd* even_scaled mul* exp*",
     "weights-swapped wiring weights-not-loaded weights-perturbed", "block-missing block-extra")  # fmt: skip
slip("halves/share-not-raised", "share_even* even_scaled mul* exp*", "activation-missing block-missing", "scale wiring")
slip("halves/odd-before-even", _TOGETHER, "concat-order", "operand-order wiring reshape-order")
slip("halves/halves-behind-one-another", _TOGETHER, "reshape-order concat-order", "operation-kind wiring")
slip("halves/series-not-added", _TOGETHER, "residual-missing", "wiring block-missing")
ways("halves", "halves-by-folding", "points-by-products")
one_layer("halves", "edges-of-zeros+slope-of-torch", "odd-before-even+series-not-added")
neighbours("halves", "series-not-added+halves-behind-one-another", "share-not-raised+slope-of-torch")


# --- rates --------------------------------------------------------------------------------------------------


class Rates(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for i, width, knots in ((1, 6, 2), (2, 11, 3)):
            self.add_module(f"one{i}", nn.Linear(width, 10))
            self.add_module(f"two{i}", nn.Linear(10, 8))
            self.add_module(f"knots{i}", nn.Linear(8, 22 + knots))

    def pooled(self, x: torch.Tensor, size: int) -> torch.Tensor:
        if "means-of-windows" in self.ways:
            return F.avg_pool1d(x[:, None], size, padding=1 if size == 4 else 0, count_include_pad=False)[:, 0]
        if "pooled-by-ceiling" in self.ways:
            return F.max_pool1d(x[:, None], size, ceil_mode=True)[:, 0]
        if "pooled-by-folding" in self.ways:
            x = F.pad(x, (1, 1), value=-torch.inf) if size == 4 else x
            return x.unflatten(1, (-1, size)).amax(2)
        return F.max_pool1d(x[:, None], size, padding=1 if size == 4 else 0)[:, 0]

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-a-product" in self.ways:
            at = ((torch.arange(6) + 0.5) * x.shape[1] / 6 - 0.5).clamp(0, x.shape[1] - 1)
            return x @ (1 - (at[None] - torch.arange(x.shape[1])[:, None]).abs()).clamp(min=0)
        if "knots-repeated" in self.ways:
            return F.interpolate(x[:, None], 6, mode="nearest")[:, 0]
        return F.interpolate(x[:, None], 6, mode="linear", align_corners="knots-at-the-ends" in self.ways)[:, 0]

    def block(self, i: int, size: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one, two, knots = (self.get_submodule(f"{name}{i}") for name in ("one", "two", "knots"))
        x = knots(F.relu(two(F.relu(one(self.pooled(x, size))))))
        x = F.relu(x) if "knots-bent" in self.ways else x
        if "forecast-cut-first" in self.ways:
            return x[:, -22:], self.raised(x[:, :-22])
        return x[:, :22], self.raised(x[:, 22:])

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        past, first = self.block(1, 4, series)
        _, second = self.block(2, 2, series if "series-explained-anew" in self.ways else series - past)
        return second if "first-rate-forgotten" in self.ways else first + second


@network
def rates() -> Pair:
    """N-HiTS of two blocks: the largest of wide windows, a few knots ahead, and lines between these."""
    keras.backend.clear_session()
    series = layers.Input((22,), name="series")
    left, ahead = series, []
    for i, size, knots in ((1, 4, 2), (2, 2, 3)):
        x = layers.Reshape((22, 1), name=f"column{i}")(left)
        x = layers.MaxPooling1D(size, padding="same", name=f"pool{i}")(x)
        x = layers.Dense(10, activation="relu", name=f"one{i}")(layers.Flatten(name=f"row{i}")(x))
        x = layers.Dense(22 + knots, name=f"knots{i}")(layers.Dense(8, activation="relu", name=f"two{i}")(x))
        left = layers.Subtract(name=f"left{i}")([left, x[:, :22]]) if i == 1 else left
        x = ops.image.resize(layers.Reshape((1, knots, 1), name=f"line{i}")(x[:, 22:]), (1, 6))
        ahead.append(layers.Reshape((6,), name=f"ahead{i}")(x))
    model = keras.Model(series, layers.Add(name="all")(ahead))
    fill(model)
    grown(model, 2, "one1", "one2")
    return Pair(model, np.cumsum(fed(1422, 4, 22), axis=1).astype(np.float32) / 2, ported(model, Rates), "same")


_POOL = "column? pool? max_pool1d* avg_pool1d* one? row?"
_RAISE = "line? ahead? interpolate* resize* get_item* slice* all add*"
slip("rates/pooled-by-ceiling", _POOL, "pad-asymmetry pool-ceil-mode", "pad-mode shift")
slip("rates/means-of-windows", _POOL, "pool-kind")
slip("rates/knots-at-the-ends", _RAISE, "resize-align-corners")
slip("rates/knots-repeated", _RAISE, "resize-mode")
slip("rates/forecast-cut-first", _RAISE + " knots? left1 sub*", "concat-order wiring shift", "operand-order")
slip("rates/knots-bent", "knots? relu* get_item* slice*", "activation-extra", "block-extra")
slip("rates/series-explained-anew", "left1 sub* column2 pool2 max_pool1d_1", "residual-missing wiring block-missing")
slip("rates/first-rate-forgotten", "all add* ahead? interpolate* slice*", "residual-missing block-missing", "wiring")
defect("rates/knots-not-biased", "knots2", "bias-missing", "weights-not-loaded")(set_to("knots2", bias=None))
ways("rates", "pooled-by-folding", "raised-by-a-product")
one_layer("rates", "knots-bent+knots-not-biased")
neighbours("rates", "knots-repeated+first-rate-forgotten", "knots-at-the-ends+forecast-cut-first")


# --- sales --------------------------------------------------------------------------------------------------


class Sales(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.items = nn.Embedding(6, 3)
        self.lstm1, self.lstm2 = nn.LSTM(6, 6, batch_first=True), nn.LSTM(6, 6, batch_first=True)
        self.centre, self.spread = nn.Linear(6, 1), nn.Linear(6, 1)

    def read(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        if "gates-of-torch" in self.ways:
            return lstm(x)[0]
        h = c = x.new_zeros(len(x), 6)
        found = []
        for step in x.unbind(1):
            if "one-product-for-all" in self.ways:
                weight = torch.cat([lstm.weight_ih_l0, lstm.weight_hh_l0], dim=1)
                gates = F.linear(torch.cat([step, h], dim=1), weight, lstm.bias_ih_l0 + lstm.bias_hh_l0)
            else:
                gates = F.linear(step, lstm.weight_ih_l0, lstm.bias_ih_l0)
                gates = gates + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)
            i, f, g, o = gates.chunk(4, dim=1)
            i, f, o = F.hardsigmoid(i), F.hardsigmoid(f), F.hardsigmoid(o)
            c = f * c + i * torch.tanh(g)
            h = o * torch.tanh(c)
            found.append(h)
        return torch.stack(found, dim=1)

    def positive(self, x: torch.Tensor) -> torch.Tensor:
        if "positive-by-logarithms" in self.ways:
            return torch.logaddexp(x, torch.zeros_like(x))
        return torch.exp(x) if "exponential-for-softplus" in self.ways else F.softplus(x)

    def forward(self, sold: torch.Tensor, known: torch.Tensor, item: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = sold.mean(1, keepdim=True)
        scale = scale if "mean-without-one" in self.ways else 1 + scale
        item = item - 1 if "items-from-one" in self.ways else item
        item = self.items(item).expand(-1, 7, -1)
        x = sold if "sales-not-scaled" in self.ways else sold / scale
        parts = [known, x, item] if "known-first" in self.ways else [x, known, item]
        x = self.read(self.lstm2, self.read(self.lstm1, torch.cat(parts, dim=2)))
        mean = self.positive(self.centre(x))
        mean = mean if "mean-not-scaled-back" in self.ways else mean * scale
        return mean, self.positive(self.spread(x)) / (scale if "root-forgotten" in self.ways else scale.sqrt())


@network
def sales() -> Pair:
    """DeepAR: sales by their own mean, an item's row at each step, two LSTMs with hard gates, a mean and a spread."""
    keras.backend.clear_session()
    sold, known = layers.Input((7, 1), name="sold"), layers.Input((7, 2), name="known")
    item = layers.Input((1,), dtype="int32", name="item")
    scale = 1 + ops.mean(sold, axis=1, keepdims=True)
    rows = layers.Flatten(name="item_row")(layers.Embedding(6, 3, name="items")(item))
    rows = layers.RepeatVector(7, name="each_step")(rows)
    x = layers.Concatenate(name="given")([sold / scale, known, rows])
    for i in (1, 2):
        x = layers.LSTM(6, return_sequences=True, recurrent_activation="hard_sigmoid", name=f"lstm{i}")(x)
    mean = layers.Dense(1, activation="softplus", name="centre")(x) * scale
    spread = layers.Dense(1, activation="softplus", name="spread")(x) / ops.sqrt(scale)
    model = keras.Model([sold, known, item], [mean, spread])
    fill(model)
    grown(model, 2, "centre", "spread")
    inputs = {"sold": np.abs(fed(1423, 4, 7, 1)) * 6, "known": fed(1424, 4, 7, 2),
              "item": counted(1425, 6, 4, 1, least=1)}  # fmt: skip
    return Pair(model, inputs, ported(model, Sales), "same")


_SCALE = "sold mean mean_1 add* div* truediv* true_divide* divide* given cat* lstm1"
_GIVEN = "given cat* lstm1 items item_row each_step item sub* expand*"
_OUT = "centre spread mul* multiply* div* truediv* true_divide* divide* sqrt* softplus*"
_CELLS = "lstm? linear* hardsigmoid* tanh* mul* add* chunk* split* stack* centre spread"
slip("sales/mean-without-one", _SCALE, "input-scale input-normalisation block-missing", "scale shift bias-missing")
slip("sales/sales-not-scaled", _SCALE, "input-scale input-normalisation block-missing", "scale wiring")
slip("sales/items-from-one", _GIVEN, "embedding-offset", "shift weights-perturbed block-extra")
slip("sales/known-first", _GIVEN, "concat-order", "operand-order channel-order wiring")
slip("sales/mean-not-scaled-back", _OUT, "block-missing", "scale wiring")
slip("sales/root-forgotten", _OUT, "block-missing", "scale wiring operation-kind")
slip("sales/exponential-for-softplus", _OUT + " exp*", "activation-kind", "operation-kind")
slip("sales/gates-of-torch", _CELLS, "rnn-activation",
     "activation-kind")  # fmt: skip
defect("sales/second-layer-first", _CELLS, "weights-swapped", "weights-perturbed wiring")(exchanged("lstm1", "lstm2"))
ways("sales", "one-product-for-all", "positive-by-logarithms")
one_layer("sales", "gates-of-torch+second-layer-first", "mean-not-scaled-back+exponential-for-softplus")
neighbours("sales", "items-from-one+known-first", "mean-without-one+gates-of-torch")
