"""Signals: sleep from two widths of kernels, a series read along its other axis, and a cell of closed form."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.ninth.registry import both_ways, folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten, set_to


class Epochs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.small, self.small_bn = nn.Conv1d(1, 4, 6, stride=3, bias=False), nn.BatchNorm1d(4, eps=1e-3)
        self.large, self.large_bn = nn.Conv1d(1, 4, 12, stride=6, bias=False), nn.BatchNorm1d(4, eps=1e-3)
        self.lstm = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.short, self.head = nn.Linear(8, 10), nn.Linear(10, 5)

    def branch(self, name: str, x: torch.Tensor, before: int, after: int, pool: int) -> torch.Tensor:
        if "padded-by-half" in self.ways and name == "large":
            before = after = 6
        x = F.pad(x, (before, after))
        conv, bn = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        x = F.relu(bn(conv(x)))
        if "pooled-by-mean" in self.ways:
            return F.avg_pool1d(x, pool)
        return F.max_pool1d(x, pool)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "loops-by-hand" in self.ways:
            return both_ways(self.lstm, x)
        y = self.lstm(x)[0]
        return y[..., :5] + y[..., 5:] if "directions-doubled" in self.ways else y

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        one, two = self.branch("small", wave, 1, 2, 4), self.branch("large", wave, 3, 3, 2)
        x = torch.cat([two, one] if "large-first" in self.ways else [one, two], dim=1).transpose(1, 2)
        y = self.short(x)
        x = self.read(x) + (y if "shortcut-left-linear" in self.ways else F.relu(y))
        x = self.head(x)
        return F.log_softmax(x, dim=2) if "logarithms-given" in self.ways else F.softmax(x, dim=2)


@network
def epochs() -> Pair:
    """DeepSleepNet: a near and a far kernel on the wave, two directions, and a dense layer around these."""
    keras.backend.clear_session()
    wave = layers.Input((48, 1), name="wave")

    def branch(name: str, width: int, stride: int, pool: int) -> keras.KerasTensor:
        x = layers.Conv1D(4, width, stride, padding="same", use_bias=False, name=name)(wave)
        x = layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))
        return layers.MaxPooling1D(pool, name=f"{name}_pool")(x)

    x = layers.Concatenate(name="joined")([branch("small", 6, 3, 4), branch("large", 12, 6, 2)])
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm")(x)
    x = layers.Add(name="sum")([y, layers.Dense(10, activation="relu", name="short")(x)])
    model = keras.Model(wave, layers.Dense(5, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 2, "large", "head")
    return Pair(model, fed(1101, 4, 48, 1), ported(model, Epochs), "NHWC->NCHW")


slip("epochs/padded-by-half", "large pad*", "pad-asymmetry", "shift pad-mode")
slip("epochs/pooled-by-mean", "*_pool *pool1d*", "pool-kind", "operation-kind")
slip("epochs/large-first", "joined cat*", "concat-order", "operand-order channel-order")
slip("epochs/shortcut-left-linear", "short sum relu* add*", "activation-missing", "block-missing")
slip("epochs/logarithms-given", "head softmax* log_softmax*", "logits activation-kind", "operation-kind")
defect("epochs/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("epochs/backward-without-its-bias", "lstm", "rnn-bias weights-not-loaded bias-missing", "weights-perturbed")(
    rewritten("lstm.bias_ih_l0_reverse", torch.zeros_like)
)
ways("epochs", "loops-by-hand")
control("epochs/near-folded")(folded("small", "small_bn"))
one_layer("epochs", "padded-by-half+bn-eps-of-torch", "large-first+shortcut-left-linear")
neighbours("epochs", "pooled-by-mean+backward-without-its-bias")


# --- along the other axis -----------------------------------------------------------------------------------


class Series(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.lstm = nn.LSTM(16, 6, batch_first=True)
        for i, (given, width, kernel) in enumerate(((2, 6, 8), (6, 8, 5), (8, 6, 3)), 1):
            self.add_module(f"conv{i}", nn.Conv1d(given, width, kernel))
            self.add_module(f"bn{i}", nn.BatchNorm1d(width, eps=1e-3))
        self.head = nn.Linear(12, 3)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        conv, bn = self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")
        total = conv.kernel_size[0] - 1
        back = "even-kernel-reaches-back" in self.ways and i == 1
        ends = (total - total // 2, total // 2) if back else (total // 2, total - total // 2)
        x = F.pad(x, ends, mode="replicate" if "ends-repeated" in self.ways else "constant")
        if "kernels-as-products" in self.ways:
            x = torch.einsum("bctk,ock->bot", x.unfold(2, total + 1, 1), conv.weight) + conv.bias[:, None]
        else:
            x = conv(x)
        if "norm-left-out" in self.ways and i == 2:
            return F.relu(x)
        return bn(F.relu(x)) if "bent-before-the-norm" in self.ways else F.relu(bn(x))

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        x = series
        for i in (1, 2, 3):
            x = self.block(i, x)
        x = x.amax(2) if "largest-over-time" in self.ways else x.mean(2)
        if "steps-viewed-as-variables" in self.ways:
            turned = series.transpose(1, 2).reshape(len(series), 2, 16)
        else:
            turned = series
        y = unrolled(self.lstm, turned) if "loop-by-hand" in self.ways else self.lstm(turned)[0]
        y = y[:, 0] if "first-step-given" in self.ways else y[:, -1]
        x = torch.cat([x, y] if "kernels-first" in self.ways else [y, x], dim=1)
        x = self.head(x)
        return F.softmax(x, dim=0 if "shared-among-the-batch" in self.ways else 1)


@network
def series() -> Pair:
    """LSTM-FCN: two variables are two steps for an LSTM, beside three kernels along time."""
    keras.backend.clear_session()
    series = layers.Input((16, 2), name="series")
    x = series
    for i, (width, kernel) in enumerate(((6, 8), (8, 5), (6, 3)), 1):
        x = layers.Conv1D(width, kernel, padding="same", name=f"conv{i}")(x)
        x = layers.Activation("relu", name=f"relu{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    y = layers.LSTM(6, name="lstm")(layers.Permute((2, 1), name="turned")(series))
    y = layers.Dropout(0.8, name="drop")(y)
    x = layers.Concatenate(name="joined")([y, x])
    model = keras.Model(series, layers.Dense(3, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 3, "head")
    return Pair(model, fed(1102, 5, 16, 2), ported(model, Series), "NHWC->NCHW")


slip("series/even-kernel-reaches-back", "conv1 conv1d* pad*", "pad-asymmetry", "shift")
slip("series/ends-repeated", "conv? conv1d* pad*", "pad-mode")
slip("series/norm-left-out", "conv2 bn2 relu*", "block-missing", "wiring bn-stats")
slip("series/bent-before-the-norm", "bn? relu* conv?", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("series/largest-over-time", "pool mean* amax*", "pool-kind", "operation-kind")
slip("series/steps-viewed-as-variables", "turned transpose* reshape* lstm", "reshape-order", "wiring")
slip("series/first-step-given", "lstm get_item* slice* joined select*", "rnn-last-step", "wiring")
slip("series/kernels-first", "joined cat* head", "concat-order", "operand-order channel-order")
slip("series/shared-among-the-batch", "head softmax*", "softmax-axis", "operation-kind")
defect("series/gates-of-tensorflow", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("series/bias-on-both-sides", "lstm", "rnn-bias", "weights-perturbed scale")(doubled("lstm"))
ways("series", "loop-by-hand", "kernels-as-products")
control("series/last-folded")(folded("conv3", "bn3"))
one_layer("series", "gates-of-tensorflow+first-step-given", "even-kernel-reaches-back+bent-before-the-norm")
neighbours("series", "kernels-first+shared-among-the-batch", "norm-left-out+largest-over-time")


# --- a liquid cell ------------------------------------------------------------------------------------------


class Liquid(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.backbone = nn.Linear(9, 10)
        self.first, self.second, self.rate, self.offset = (nn.Linear(10, 6) for _ in range(4))
        self.out = nn.Linear(6, 2)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "tanh-without-its-gain" in self.ways:
            return torch.tanh(x)
        if "two-thirds-forgotten" in self.ways:
            return 1.7159 * torch.tanh(x)
        return 1.7159 * torch.tanh(0.666 * x)

    def step(self, x: torch.Tensor, h: torch.Tensor, passed: torch.Tensor) -> torch.Tensor:
        y = self.bent(self.backbone(torch.cat([h, x] if "state-before-the-input" in self.ways else [x, h], dim=1)))
        if "four-in-one-product" in self.ways:
            parts = (self.first, self.second, self.rate, self.offset)
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            one, two, rate, offset = F.linear(y, weight, bias).chunk(4, dim=1)
        else:
            one, two, rate, offset = self.first(y), self.second(y), self.rate(y), self.offset(y)
        one = one if "first-left-linear" in self.ways else torch.tanh(one)
        two = torch.tanh(two)
        rate = rate if "time-forgotten" in self.ways else rate * passed
        share = torch.sigmoid(rate + offset)
        return one * share + two * (1 - share) if "shares-exchanged" in self.ways else one * (1 - share) + two * share

    def forward(self, steps: torch.Tensor, passed: torch.Tensor) -> torch.Tensor:
        h, found = steps.new_zeros(len(steps), 6), []
        for t in range(4):
            h = self.step(steps[:, t], h, passed[:, t])
            found.append(self.out(h))
        return torch.stack(found, dim=1)


@network
def liquid() -> Pair:
    """A closed-form continuous network: two answers, and the time that has passed says how much of each."""
    keras.backend.clear_session()
    steps, passed = layers.Input((4, 3), name="steps"), layers.Input((4, 1), name="passed")
    backbone, out = layers.Dense(10, name="backbone"), layers.Dense(2, name="out")
    first, second = (layers.Dense(6, activation="tanh", name=name) for name in ("first", "second"))
    rate, offset = (layers.Dense(6, name=name) for name in ("rate", "offset"))
    h, found = ops.zeros_like(steps[:, 0, :1]) + ops.zeros((1, 6)), []
    for t in range(4):
        y = backbone(layers.Concatenate(name=f"both{t}")([steps[:, t], h]))
        y = 1.7159 * ops.tanh(0.666 * y)
        share = ops.sigmoid(rate(y) * passed[:, t] + offset(y))
        h = first(y) * (1 - share) + second(y) * share
        found.append(out(h))
    model = keras.Model([steps, passed], ops.stack(found, axis=1))
    fill(model)
    grown(model, 2, "backbone", "rate")
    inputs = {"steps": fed(1103, 5, 4, 3), "passed": abs(fed(1104, 5, 4, 1)) + 0.2}
    return Pair(model, inputs, ported(model, Liquid), "same")


_BENT = "backbone* tanh* mul* multiply*"
_SHARE = "first* second* rate* offset* sigmoid* tanh* mul* add* sub* rsub* get_item* slice* linear* chunk*"
slip("liquid/tanh-without-its-gain", _BENT, "activation-param activation-kind scale block-missing", "operation-kind")
slip("liquid/two-thirds-forgotten", _BENT, "scale activation-param activation-kind block-missing", "operation-kind")
slip("liquid/state-before-the-input", "both? cat* backbone*", "concat-order", "operand-order channel-order")
slip("liquid/first-left-linear", _SHARE, "activation-missing", "block-missing")
slip("liquid/time-forgotten", _SHARE, "block-missing", "wiring scale")
slip("liquid/shares-exchanged", _SHARE, "operand-order wiring", "operation-kind weights-swapped")
defect("liquid/first-for-second", "first* second*", "weights-swapped", "weights-perturbed wiring")(
    exchanged("first", "second")
)
defect("liquid/offset-without-bias", "offset*", "bias-missing", "weights-not-loaded")(set_to("offset", bias=None))
ways("liquid", "four-in-one-product")
one_layer("liquid", "first-left-linear+first-for-second", "time-forgotten+offset-without-bias")
neighbours("liquid", "state-before-the-input+tanh-without-its-gain")
