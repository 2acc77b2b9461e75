"""Series and rows: a power grid with its days, how long a patient lives, and who pays a loan back."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, set_to
from benchmarks.corpus.mutations.twelfth.registry import (
    control,
    defect,
    folded_ahead,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)


class Grid(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.gru = nn.Conv1d(4, 6, 3), nn.GRU(6, 5, batch_first=True)
        self.daily, self.out, self.highway = nn.GRU(6, 4, batch_first=True), nn.Linear(17, 4), nn.Linear(5, 1)

    def read(self, gru: nn.GRU, x: torch.Tensor) -> torch.Tensor:
        if "reset-before-the-product" in self.ways:
            return unrolled(gru, x, reset_before=True)[:, -1]
        return unrolled(gru, x)[:, -1] if "loops-by-hand" in self.ways else gru(x)[1][0]

    def by_day(self, x: torch.Tensor) -> torch.Tensor:
        if "days-by-slices" in self.ways:
            return torch.cat([self.read(self.daily, x[:, 1 + i :: 3]) for i in range(3)], dim=1)
        x = (x[:, :9] if "days-from-the-start" in self.ways else x[:, -9:]).unflatten(1, (3, 3))
        x = x if "days-not-turned" in self.ways else x.transpose(1, 2)
        return self.read(self.daily, x.flatten(0, 1)).unflatten(0, (-1, 3)).flatten(1)

    def forward(self, loads: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(loads)).transpose(1, 2)
        x = self.out(torch.cat([self.read(self.gru, x), self.by_day(x)], dim=1))
        if "highway-forgotten" in self.ways:
            return x
        last = loads[:, :, :5] if "highway-from-the-start" in self.ways else loads[:, :, -5:]
        return x + self.highway(last)[:, :, 0]


@network
def grid() -> Pair:
    """LSTNet: kernels along time, a GRU, one that goes from day to day at the same hour, and a linear highway."""
    keras.backend.clear_session()
    loads = layers.Input((12, 4), name="loads")
    x = layers.Conv1D(6, 3, activation="relu", name="conv")(loads)
    y = ops.transpose(layers.Reshape((3, 3, 6), name="days")(x[:, -9:]), (0, 2, 1, 3))
    y = layers.GRU(4, name="daily")(ops.reshape(y, (-1, 3, 6)))
    x = layers.Concatenate(name="both")([layers.GRU(5, name="gru")(x), ops.reshape(y, (-1, 12))])
    straight = layers.Dense(1, name="highway")(layers.Permute((2, 1), name="turned")(loads[:, -5:]))
    straight = layers.Reshape((4,), name="row")(straight)
    model = keras.Model(loads, layers.Add(name="sum")([layers.Dense(4, name="out")(x), straight]))
    fill(model)
    grown(model, 2, "conv")
    return Pair(model, fed(1272, 4, 12, 4), ported(model, Grid), "NHWC->NCHW")


_DAYS = "days daily get_item* transpose* reshape* flatten* unflatten*"
slip(
    "grid/reset-before-the-product",
    "gru daily linear* mul* tanh* sigmoid* add* chunk* stack* sub* rsub*",
    "gru-reset-after",
    "wiring operand-order",
)
slip("grid/days-from-the-start", _DAYS, "shift", "wiring")
slip("grid/days-not-turned", _DAYS, "reshape-order axis-permutation", "wiring")
slip("grid/highway-forgotten", "sum add* highway row out", "residual-missing", "wiring block-missing")
slip("grid/highway-from-the-start", "get_item* turned highway", "shift", "wiring")
defect("grid/gates-of-keras", "daily", "gru-gate-order", "weights-perturbed weights-swapped")(regated("daily", 1, 0, 2))
defect("grid/out-not-biased", "out", "bias-missing", "weights-not-loaded")(set_to("out", bias=None))
ways("grid", "loops-by-hand", "days-by-slices")
one_layer("grid", "days-not-turned+gates-of-keras", "days-from-the-start+days-not-turned")
neighbours("grid", "highway-forgotten+out-not-biased")


# --- a life -------------------------------------------------------------------------------------------------

_MEANS, _VARIANCES = np.float32([58.0, 1.2, 140.0, 4.5]), np.float32([150.0, 0.6, 400.0, 2.2])


class Survival(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stage, self.enter, self.bn = nn.Embedding(6, 3), nn.Linear(7, 8), nn.BatchNorm1d(8, eps=1e-3)
        self.one, self.two, self.drop = nn.Linear(8, 8), nn.Linear(8, 8), nn.AlphaDropout(0.2)
        self.cause1, self.cause2 = nn.Linear(8, 5), nn.Linear(8, 5)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "selu-by-hand" in self.ways:
            return 1.0507009873554805 * torch.where(x > 0, x, 1.6732632423543772 * torch.expm1(x))
        return F.elu(x) if "elu-for-selu" in self.ways else F.selu(x)

    def forward(self, numbers: torch.Tensor, stage: torch.Tensor) -> torch.Tensor:
        means, variances = torch.from_numpy(_MEANS), torch.from_numpy(_VARIANCES)
        if "variances-for-deviations" in self.ways:
            x = (numbers - means) / variances
        else:
            x = numbers / variances.sqrt() if "means-not-taken" in self.ways else (numbers - means) / variances.sqrt()
        stage = self.stage(stage - 1 if "stages-from-zero" in self.ways else stage)[:, 0]
        x = self.drop(self.bent(self.bn(self.enter(torch.cat([x, stage], dim=1)))))
        x = x + self.two(self.bent(self.one(x)))
        x = torch.stack([self.cause1(x), self.cause2(x)], dim=1)
        if "shared-for-each-cause" in self.ways:
            x = F.softmax(x, dim=2)
        elif "shared-by-logarithms" in self.ways:
            x = torch.exp(F.log_softmax(x.flatten(1), dim=1)).unflatten(1, (2, 5))
        else:
            x = F.softmax(x.flatten(1), dim=1).unflatten(1, (2, 5))
        x = x.sum(1).cumsum(1)
        return x if "deaths-for-lives" in self.ways else 1 - x


@network
def survival() -> Pair:
    """DeepHit: levelled numbers, SELUs, chances for two causes at five times, and who is still alive at each."""
    keras.backend.clear_session()
    numbers, stage = layers.Input((4,), name="numbers"), layers.Input((1,), dtype="int32", name="stage")
    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(numbers)
    y = layers.Flatten(name="stage_row")(layers.Embedding(6, 3, name="stage_table")(stage))
    x = layers.Dense(8, name="enter")(layers.Concatenate(name="both")([x, y]))
    x = layers.Activation("selu", name="selu")(layers.BatchNormalization(name="bn")(x))
    x = layers.AlphaDropout(0.2, name="drop")(x)
    y = layers.Dense(8, name="two")(layers.Dense(8, activation="selu", name="one")(x))
    x = layers.Add(name="skip")([x, y])
    x = layers.Concatenate(name="causes")([layers.Dense(5, name=f"cause{i}")(x) for i in (1, 2)])
    x = layers.Reshape((2, 5), name="times")(layers.Softmax(name="chances")(x))
    model = keras.Model([numbers, stage], 1 - ops.cumsum(ops.sum(x, axis=1), axis=1))
    fill(model)
    given = fed(1273, 4, 4) * np.sqrt(_VARIANCES) + _MEANS
    port = ported(model, Survival, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"numbers": given, "stage": counted(1274, 6, 4, 1, least=1)}, port, "same")


_LEVEL2 = "normalization numbers sub* div* truediv* sqrt* both cat*"
_LIVES = "sum* cumsum* flip* rsub* sub* subtract* times chances"
slip("survival/variances-for-deviations", _LEVEL2, "input-normalisation input-scale", "scale weights-perturbed")
slip("survival/means-not-taken", _LEVEL2, "input-normalisation shift block-missing", "bias-missing")
slip("survival/stages-from-zero", "stage stage_* sub* both cat*", "embedding-offset", "shift weights-perturbed")
slip("survival/elu-for-selu", "selu* elu* one bn", "activation-kind activation-param", "operation-kind")
slip("survival/shared-for-each-cause", "causes chances softmax* stack* times flatten* unflatten*",
     "softmax-axis norm-axis", "operation-kind wiring")  # fmt: skip
slip("survival/deaths-for-lives", _LIVES, "block-missing", "scale shift wiring")
defect("survival/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("survival/two-for-one", "one two", "weights-swapped", "weights-perturbed wiring")(exchanged("one", "two"))
ways("survival", "selu-by-hand", "shared-by-logarithms")
control("survival/norm-folded")(folded("enter", "bn"))
one_layer("survival", "variances-for-deviations+stages-from-zero")
neighbours("survival", "bn-eps-of-torch+elu-for-selu", "two-for-one+elu-for-selu")


# --- a loan -------------------------------------------------------------------------------------------------

_AGES, _LEAST, _MOST = [25.0, 35.0, 50.0], np.float32([0.0, 1.0]), np.float32([9.0, 12.0])


class Lending(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.job, self.band, self.cross = nn.Embedding(6, 3), nn.Embedding(4, 2), nn.Embedding(24, 1)
        self.straight, self.one, self.bn = nn.Linear(2, 1), nn.Linear(7, 8), nn.BatchNorm1d(8, eps=1e-3)
        self.two, self.deep = nn.Linear(8, 6), nn.Linear(6, 1)

    def forward(self, sums: torch.Tensor, age: torch.Tensor, job: torch.Tensor) -> torch.Tensor:
        x = sums if "logarithm-forgotten" in self.ways else torch.log1p(sums)
        least, most = torch.from_numpy(_LEAST), torch.from_numpy(_MOST)
        x = (x - least) / most if "divided-by-the-most" in self.ways else (x - least) / (most - least)
        bounds = torch.tensor(_AGES)
        if "compared-one-by-one" in self.ways:
            band = (age[..., None] >= bounds).sum(2)
        else:
            band = torch.bucketize(age, bounds, right="edges-below" not in self.ways)
        job = job + 1 if "unknown-job-in-front" in self.ways else job
        cross = band * 6 + job if "bands-outermost" in self.ways else job * 4 + band
        wide = self.straight(x) + self.cross(cross)[:, 0]
        parts = [self.job(job)[:, 0], self.band(band)[:, 0], x]
        y = self.one(torch.cat(parts, dim=1))
        y = self.deep(F.relu(self.two(self.bn(F.relu(y)))))
        return torch.sigmoid(y if "wide-part-forgotten" in self.ways else wide + y)


@network
def lending() -> Pair:
    """Wide and deep: logarithms of sums, ages in bands, jobs crossed with these, and a deep network beside."""
    keras.backend.clear_session()
    sums, age = layers.Input((2,), name="sums"), layers.Input((1,), name="age")
    job = layers.Input((1,), dtype="int32", name="job")
    x = (ops.log1p(sums) - _LEAST) / (_MOST - _LEAST)
    band = layers.Discretization(bin_boundaries=_AGES, name="bands")(age)
    cross = layers.Flatten(name="cross_row")(layers.Embedding(24, 1, name="cross_table")(job * 4 + band))
    wide = layers.Add(name="wide")([layers.Dense(1, name="straight")(x), cross])
    parts = [layers.Flatten(name="job_row")(layers.Embedding(6, 3, name="job_table")(job)),
             layers.Flatten(name="band_row")(layers.Embedding(4, 2, name="band_table")(band)), x]  # fmt: skip
    y = layers.Dense(8, activation="relu", name="one")(layers.Concatenate(name="joined")(parts))
    y = layers.Dense(6, activation="relu", name="two")(layers.BatchNormalization(name="bn")(y))
    x = layers.Add(name="both")([wide, layers.Dense(1, name="deep")(y)])
    model = keras.Model([sums, age, job], layers.Activation("sigmoid", name="chance")(x))
    fill(model)
    ages = np.float32([[25], [31], [50], [35], [67], [19]])
    inputs = {"sums": np.exp(np.abs(fed(1284, 6, 2)) * 3), "age": ages, "job": counted(1285, 5, 6, 1)}
    return Pair(model, inputs, ported(model, Lending, rename=lambda name: name.removesuffix("_table")), "same")


_SUMS = "sums log1p* sub* div* truediv* true_divide* divide* straight joined cat*"
_JOB = "job job_* cross cross_* mul* add* bands bucketize* band band_* joined cat*"
slip("lending/logarithm-forgotten", _SUMS, "input-normalisation block-missing", "input-scale wiring")
slip("lending/divided-by-the-most", _SUMS, "input-normalisation input-scale", "scale")
slip("lending/edges-below", _JOB, "embedding-offset", "shift operation-kind weights-perturbed")
slip("lending/unknown-job-in-front", _JOB, "embedding-offset", "shift weights-perturbed block-extra")
slip("lending/bands-outermost", _JOB, "operand-order wiring embedding-offset", "reshape-order axis-permutation")
slip("lending/wide-part-forgotten", "both add* deep chance sigmoid*", "residual-missing block-missing", "wiring")
defect("lending/two-not-biased", "two", "bias-missing", "weights-not-loaded")(set_to("two", bias=None))
defect("lending/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("lending", "compared-one-by-one")
control("lending/norm-in-the-next-layer")(folded_ahead("bn", "two"))
one_layer("lending", "logarithm-forgotten+divided-by-the-most", "edges-below+unknown-job-in-front")
neighbours("lending", "two-not-biased+bn-eps-of-torch")
