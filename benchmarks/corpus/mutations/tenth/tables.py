"""Tables and bags: what else one might read, numbers as waves, and slides of tissue."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, set_to
from benchmarks.corpus.mutations.tenth.registry import defect, neighbours, network, one_layer, slip, ways


class Library(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.code, self.leave, self.out = (
            nn.Linear(*shape) for shape in ((12, 8), (8, 8), (4, 8), (8, 12))
        )

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "counts-as-they-are" in self.ways:
            return x
        if "shares-of-the-sum" in self.ways:
            return x / x.sum(1, keepdim=True)
        if "levelled-by-torch" in self.ways:
            return F.normalize(x, dim=1)
        dim = 0 if "levelled-over-readers" in self.ways else 1
        return x * torch.rsqrt((x**2).sum(dim, keepdim=True))

    def forward(self, counts: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(self.levelled(counts)))
        mean, spread = self.code(x).chunk(2, dim=1)
        mean, spread = (spread, mean) if "spread-first" in self.ways else (mean, spread)
        x = mean + torch.exp(spread if "variance-for-deviation" in self.ways else spread / 2) * noise
        x = self.leave(x)
        x = self.out(x if "decoder-left-linear" in self.ways else torch.tanh(x))
        if "logarithm-by-hand" in self.ways:
            return x - torch.logsumexp(x, dim=1, keepdim=True)
        return x if "logits-given" in self.ways else F.log_softmax(x, dim=1)


@network
def library() -> Pair:
    """Mult-VAE: what one has read, of length one, as a code with noise, and how likely each book is."""
    keras.backend.clear_session()
    counts, noise = layers.Input((12,), name="counts"), layers.Input((4,), name="noise")
    x = counts * ops.rsqrt(ops.sum(ops.square(counts), axis=1, keepdims=True))
    x = layers.Dense(8, activation="tanh", name="enter")(x)
    mean, spread = ops.split(layers.Dense(8, name="code")(x), 2, axis=1)
    x = layers.Add(name="drawn")([mean, ops.exp(spread / 2) * noise])
    x = layers.Dense(12, name="out")(layers.Dense(8, activation="tanh", name="leave")(x))
    model = keras.Model([counts, noise], layers.Activation("log_softmax", name="chances")(x))
    fill(model)
    grown(model, 2, "enter", "code")
    inputs = {"counts": counted(1061, 4, 4, 12).astype(np.float32) + 0.1, "noise": fed(1062, 4, 4)}
    return Pair(model, inputs, ported(model, Library), "same")


_LEVEL = "sum* square* pow* rsqrt* mul* multiply* div* truediv* enter counts"
_DRAWN = "code split* chunk* exp* div* truediv* mul* multiply* drawn add* leave"
slip("library/counts-as-they-are", _LEVEL, "input-normalisation block-missing", "input-scale")
slip("library/shares-of-the-sum", _LEVEL, "input-normalisation operation-kind", "input-scale norm-axis block-missing")
slip("library/levelled-over-readers", _LEVEL, "norm-axis", "operation-kind input-normalisation")
slip("library/spread-first", _DRAWN, "concat-order wiring channel-order", "operand-order")
slip("library/variance-for-deviation", _DRAWN, "scale block-missing", "operation-kind")
slip("library/decoder-left-linear", "leave tanh* out", "activation-missing", "block-missing")
slip("library/logits-given", "out chances log_softmax*", "logits activation-missing", "block-missing")
ways("library", "levelled-by-torch", "logarithm-by-hand")
one_layer("library", "spread-first+variance-for-deviation")
neighbours("library", "decoder-left-linear+logits-given")


# --- numbers as waves ---------------------------------------------------------------------------------------


class Prices(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.waves = nn.ParameterDict({"by": torch.ones(5, 3)})
        self.each = nn.ParameterDict({"by": torch.ones(5, 6, 4), "shifts": torch.ones(5, 4)})
        self.region, self.enter = nn.Embedding(8, 4), nn.Linear(24, 8)
        self.bn1, self.bn2 = nn.BatchNorm1d(8, eps=1e-3), nn.BatchNorm1d(8, eps=1e-3)
        self.wide, self.narrow, self.out = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 1)

    def waved(self, x: torch.Tensor) -> torch.Tensor:
        x = self.waves["by"] * x[:, :, None]
        x = x if "circle-forgotten" in self.ways else 2 * torch.pi * x
        both = [x.cos(), x.sin()] if "cosines-first" in self.ways else [x.sin(), x.cos()]
        x = torch.cat(both, dim=2)
        if "features-one-by-one" in self.ways:
            own = zip(x.unbind(1), self.each["by"], self.each["shifts"], strict=True)
            return F.relu(torch.stack([part @ weight + shift for part, weight, shift in own], dim=1))
        return F.relu(torch.einsum("bfi,fio->bfo", x, self.each["by"]) + self.each["shifts"])

    def forward(self, numbers: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
        spread = numbers.std(1, correction=int("std-of-torch" in self.ways), keepdim=True)
        x = self.waved((numbers - numbers.mean(1, keepdim=True)) / spread)
        x = x.transpose(1, 2).flatten(1) if "features-innermost" in self.ways else x.flatten(1)
        region = self.region(region + 1 if "unknown-counted-first" in self.ways else region)[:, 0]
        x = self.enter(torch.cat([x, region], dim=1))
        y = self.wide(F.relu(self.bn1(x)) if "bent-before-the-block" in self.ways else self.bn1(x))
        y = self.narrow(F.relu(y))
        x = y if "block-not-added" in self.ways else x + y
        if "norm-by-hand" in self.ways:
            bn = self.bn2
            x = (x - bn.running_mean) / torch.sqrt(bn.running_var + bn.eps) * bn.weight + bn.bias
        else:
            x = self.bn2(x)
        return self.out(F.relu(x))


class _Waves(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=(shape[1], 3))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = 2 * np.pi * self.by * x[:, :, None]
        return ops.concatenate([ops.sin(x), ops.cos(x)], axis=2)


class _Each(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=(*shape[1:], 4))
        self.shifts = self.add_weight(name="shifts", shape=(shape[1], 4))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.relu(ops.einsum("bfi,fio->bfo", x, self.by) + self.shifts)


@network
def prices() -> Pair:
    """A residual network for a row: levelled numbers become waves, and each of these has a layer of its own."""
    keras.backend.clear_session()
    numbers, region = layers.Input((5,), name="numbers"), layers.Input((1,), dtype="int32", name="region")
    x = (numbers - ops.mean(numbers, axis=1, keepdims=True)) / ops.std(numbers, axis=1, keepdims=True)
    x = layers.Flatten(name="flatten")(_Each(name="each")(_Waves(name="waves")(x)))
    y = layers.Flatten(name="region_row")(layers.Embedding(8, 4, name="region_table")(region))
    x = layers.Dense(8, name="enter")(layers.Concatenate(name="joined")([x, y]))
    y = layers.Dense(12, activation="relu", name="wide")(layers.BatchNormalization(name="bn1")(x))
    x = layers.Add(name="skip")([x, layers.Dense(8, name="narrow")(y)])
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn2")(x))
    model = keras.Model([numbers, region], layers.Dense(1, name="out")(x))
    fill(model)
    grown(model, 2, "enter", "wide")
    inputs = {"numbers": fed(1063, 6, 5), "region": counted(1064, 7, 6, 1)}
    return Pair(model, inputs, ported(model, Prices, rename=lambda name: name.removesuffix("_table")), "same")


def _learning(bn: nn.BatchNorm1d) -> None:
    """As where a layer was put in behind ``eval``."""
    bn.train(True)
    bn.train = lambda mode=True: bn  # type: ignore[method-assign]


_WAVES = "waves waves.* mul* multiply* cos* sin* cat* concatenate* each each.* einsum*"
slip("prices/std-of-torch", "std* mean* sub* subtract* div* true_divide* truediv* divide* waves mul*", "std-ddof",
     "scale input-normalisation")  # fmt: skip
slip("prices/circle-forgotten", _WAVES, "scale", "block-missing input-scale")
slip("prices/cosines-first", _WAVES, "concat-order", "operand-order channel-order")
slip("prices/features-innermost", "flatten* transpose* joined cat* enter", "flatten-order dense-row-order", "wiring")
slip("prices/unknown-counted-first", "region region_table add* joined cat*", "embedding-offset",
     "shift weights-perturbed")  # fmt: skip
slip("prices/bent-before-the-block", "bn1 relu* wide", "activation-extra", "block-extra")
slip("prices/block-not-added", "skip add* bn2 narrow", "residual-missing", "wiring block-missing")
defect("prices/bn-still-learns", "bn2", "bn-mode", "bn-stats norm-axis")(lambda port: _learning(port.bn2))
ways("prices", "features-one-by-one", "norm-by-hand")
one_layer("prices", "circle-forgotten+cosines-first")
neighbours("prices", "bn-still-learns+block-not-added", "features-innermost+unknown-counted-first")


# --- slides -------------------------------------------------------------------------------------------------


class Slides(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.norm, self.head = nn.Linear(6, 8), nn.LayerNorm(8, eps=1e-3), nn.Linear(8, 2)
        self.told, self.gate, self.score = nn.Linear(8, 5), nn.Linear(8, 5), nn.Linear(5, 1)

    def entered(self, x: torch.Tensor) -> torch.Tensor:
        if "entered-in-half" in self.ways:
            weight, bias = self.enter.weight.bfloat16(), self.enter.bias.bfloat16()
            return F.relu(F.linear(x.bfloat16(), weight, bias).float())
        if "entered-as-points" in self.ways:
            return F.relu(F.conv1d(x.mT, self.enter.weight[..., None], self.enter.bias)).mT
        return F.relu(self.enter(x))

    def forward(self, tiles: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.entered(tiles))
        told = self.told(x)
        told = told if "told-left-linear" in self.ways else torch.tanh(told)
        y = self.score(told if "gate-forgotten" in self.ways else told * torch.sigmoid(self.gate(x)))[:, :, 0]
        dim = 0 if "shared-among-slides" in self.ways else 1
        if "padding-scored" in self.ways:
            shares = F.softmax(y, dim=dim)
        elif "padding-taken-from-shares" in self.ways:
            shares = F.softmax(y, dim=dim) * there
        elif "filled-by-torch" in self.ways:
            shares = F.softmax(y.masked_fill(there == 0, -1e9), dim=dim)
        else:
            shares = F.softmax(y - 1e9 * (1 - there), dim=dim)
        x = (shares[:, None] @ x)[:, 0]
        x = self.head(x)
        return F.softmax(x, dim=1) if "one-of-both" in self.ways else torch.sigmoid(x)


@network
def slides() -> Pair:
    """Gated attention over the tiles of a slide, of which some are padding."""
    keras.backend.clear_session()
    tiles, there = layers.Input((9, 6), name="tiles"), layers.Input((9,), name="there")
    x = layers.LayerNormalization(name="norm")(layers.Dense(8, activation="relu", name="enter")(tiles))
    told = layers.Dense(5, activation="tanh", name="told")(x)
    told = layers.Multiply(name="gated")([told, layers.Dense(5, activation="sigmoid", name="gate")(x)])
    y = layers.Dense(1, name="score")(told)[:, :, 0] - 1e9 * (1 - there)
    shares = layers.Softmax(axis=1, name="shares")(y)
    x = layers.Dot(axes=1, name="pooled")([shares, x])
    model = keras.Model([tiles, there], layers.Dense(2, activation="sigmoid", name="head")(x))
    fill(model)
    grown(model, 3, "score", "told")
    present = np.ones((3, 9), np.float32)
    present[0, 6:] = present[2, 7:] = 0
    return Pair(model, {"tiles": fed(1065, 3, 9, 6), "there": present}, ported(model, Slides), "same")


_GATED = "told gate tanh* sigmoid* gated mul* multiply* score"
_SHARES = "shares softmax* sub* subtract* add* mul* multiply* pooled matmul* masked_fill* score"
slip("slides/entered-in-half", "enter linear* relu* to* bfloat16* float*", "dtype")
slip("slides/told-left-linear", _GATED, "activation-missing", "block-missing")
slip("slides/gate-forgotten", _GATED, "block-missing", "wiring")
slip("slides/shared-among-slides", _SHARES, "softmax-axis", "operation-kind")
slip("slides/padding-scored", _SHARES, "attention-mask", "block-missing")
slip("slides/padding-taken-from-shares", _SHARES, "attention-mask residual-order", "operand-order wiring scale")
slip("slides/one-of-both", "head sigmoid* softmax*", "activation-kind", "operation-kind logits")
defect("slides/norm-eps-of-torch", "norm", "ln-eps")(epsilon(1e-6, nn.LayerNorm))
defect("slides/gate-for-told", "gate told", "weights-swapped", "weights-perturbed wiring")(exchanged("gate", "told"))
defect("slides/told-without-bias", "told", "bias-missing", "weights-not-loaded")(set_to("told", bias=None))
ways("slides", "filled-by-torch", "entered-as-points")
one_layer("slides", "told-left-linear+gate-for-told", "padding-scored+shared-among-slides")
neighbours("slides", "norm-eps-of-torch+told-without-bias", "gate-forgotten+padding-taken-from-shares")
