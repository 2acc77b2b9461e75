"""Signals of the body: a mobile network for an ECG, a pulse read by LSTM layers, and records with gaps."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported
from benchmarks.corpus.mutations.tenth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Arrhythmia(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv1d(3, 6, 5, stride=2, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        for i, (given, wide, step) in enumerate(((6, 12, 2), (8, 16, 1)), 1):
            self.add_module(f"expand{i}", nn.Conv1d(given, wide, 1, bias=False))
            self.add_module(f"expand_bn{i}", nn.BatchNorm1d(wide, eps=1e-3))
            self.add_module(f"deep{i}", nn.Conv1d(wide, wide, 3, stride=step, groups=wide, bias=False))
            self.add_module(f"deep_bn{i}", nn.BatchNorm1d(wide, eps=1e-3))
            self.add_module(f"project{i}", nn.Conv1d(wide, 8, 1, bias=False))
            self.add_module(f"project_bn{i}", nn.BatchNorm1d(8, eps=1e-3))
        self.score, self.head = nn.Linear(8, 1), nn.Linear(8, 5)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "relu6-by-clamp" in self.ways:
            return x.clamp(0, 6)
        return F.relu(x) if "relu-for-relu6" in self.ways else F.relu6(x)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        expand, deep, project = (self.get_submodule(f"{part}{i}") for part in ("expand", "deep", "project"))
        bn1, bn2, bn3 = (self.get_submodule(f"{part}_bn{i}") for part in ("expand", "deep", "project"))
        if "stride-on-the-expansion" in self.ways and i == 1:
            x = self.bent(bn1(F.conv1d(x, expand.weight, stride=2)))
            x = F.conv1d(F.pad(x, (1, 1)), deep.weight, groups=12)
        else:
            even = i == 2 or "depthwise-padded-evenly" in self.ways
            x = deep(F.pad(self.bent(bn1(expand(x))), (1, 1) if even else (0, 1)))
        x = bn3(project(self.bent(bn2(x))))
        return self.bent(x) if "bottleneck-bent" in self.ways else x

    def forward(self, signal: torch.Tensor) -> torch.Tensor:
        x = self.bent(self.stem_bn(self.stem(F.pad(signal, (1, 2)))))
        x = self.block(1, x)
        y = self.block(2, x)
        x = (y if "no-skip" in self.ways else x + y).transpose(1, 2)
        shares = F.softmax(self.score(x), dim=2 if "softmax-over-last" in self.ways else 1)
        x = (shares.transpose(1, 2) @ x)[:, 0] if "pooled-by-product" in self.ways else (shares * x).sum(1)
        x = self.head(x)
        return F.softmax(x, dim=1) if "one-label" in self.ways else torch.sigmoid(x)


@network
def arrhythmia() -> Pair:
    """Inverted residuals along an ECG, pooled by an attention over time; several labels."""
    keras.backend.clear_session()
    signal = layers.Input((32, 3), name="signal")

    def bn(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.BatchNormalization(name=name)(x)

    def block(x: keras.KerasTensor, i: int, wide: int, step: int) -> keras.KerasTensor:
        x = bn(layers.Conv1D(wide, 1, use_bias=False, name=f"expand{i}")(x), f"expand_bn{i}")
        x = layers.ReLU(6.0, name=f"expand_relu{i}")(x)
        x = layers.DepthwiseConv1D(3, step, padding="same", use_bias=False, name=f"deep{i}")(x)
        x = layers.ReLU(6.0, name=f"deep_relu{i}")(bn(x, f"deep_bn{i}"))
        return bn(layers.Conv1D(8, 1, use_bias=False, name=f"project{i}")(x), f"project_bn{i}")

    x = layers.Conv1D(6, 5, 2, padding="same", use_bias=False, name="stem")(signal)
    x = block(layers.ReLU(6.0, name="stem_relu")(bn(x, "stem_bn")), 1, 12, 2)
    x = layers.Add(name="skip")([x, block(x, 2, 16, 1)])
    shares = layers.Softmax(axis=1, name="shares")(layers.Dense(1, name="score")(x))
    x = ops.sum(layers.Multiply(name="weighted")([shares, x]), axis=1)
    model = keras.Model(signal, layers.Dense(5, activation="sigmoid", name="head")(x))
    fill(model)
    grown(model, 3, "stem", "expand1")
    return Pair(model, fed(1001, 3, 32, 3), ported(model, Arrhythmia), "NHWC->NCHW")


_SHARES = "score shares softmax* weighted mul* sum* matmul*"
slip("arrhythmia/relu-for-relu6", "*_relu* relu* stem_bn *_bn?", "activation-kind")
slip("arrhythmia/depthwise-padded-evenly", "deep1 pad*", "pad-asymmetry", "shift")
slip("arrhythmia/stride-on-the-expansion", "expand? deep? conv1d* pad* *_bn1 *relu*", "stride-position", "shift")
slip("arrhythmia/bottleneck-bent", "project_bn? relu6* skip add*", "activation-extra", "block-extra")
slip("arrhythmia/no-skip", "skip add* project_bn2", "residual-missing", "wiring block-missing")
slip("arrhythmia/softmax-over-last", _SHARES, "softmax-axis", "operation-kind")
slip("arrhythmia/one-label", "head sigmoid* softmax*", "activation-kind", "operation-kind logits")
defect("arrhythmia/bn-eps-of-torch", "*_bn *_bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("arrhythmia", "relu6-by-clamp", "pooled-by-product")
control("arrhythmia/stem-folded")(folded("stem", "stem_bn"))
control("arrhythmia/depthwise-folded")(folded("deep2", "deep_bn2"))
one_layer("arrhythmia", "depthwise-padded-evenly+bn-eps-of-torch")
neighbours("arrhythmia", "bottleneck-bent+no-skip", "softmax-over-last+one-label")


# --- a pulse ------------------------------------------------------------------------------------------------


class Pressure(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.bn = nn.Conv1d(2, 6, 4), nn.BatchNorm1d(6, eps=1e-3)
        self.lstm1, self.lstm2 = (nn.LSTM(6, 6, batch_first=True) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(6, eps=1e-3), nn.Linear(6, 2)

    def read(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        return unrolled(lstm, x) if "loop-by-hand" in self.ways else lstm(x)[0]

    def hard(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(len(x), 6)
        found = []
        for step in x.unbind(1):
            given = F.linear(step, lstm.weight_ih_l0, lstm.bias_ih_l0) + F.linear(h, lstm.weight_hh_l0)
            i, f, g, o = given.chunk(4, dim=1)
            c = (0.2 * f + 0.5).clamp(0, 1) * c + (0.2 * i + 0.5).clamp(0, 1) * torch.tanh(g)
            h = (0.2 * o + 0.5).clamp(0, 1) * torch.tanh(c)
            found.append(h)
        return torch.stack(found, dim=1)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(F.pad(window, (2, 1) if "even-kernel-padded-in-front" in self.ways else (1, 2))))
        x = self.bn(F.max_pool1d(x, 2)).transpose(1, 2)
        x = self.hard(self.lstm1, x) if "gates-of-old-keras" in self.ways else self.read(self.lstm1, x)
        if "batch-as-time" in self.ways:
            y = self.lstm2(x.transpose(0, 1))[0].transpose(0, 1)
        elif "read-backwards" in self.ways:
            y = self.lstm2(x.flip(1))[0]
        else:
            y = self.read(self.lstm2, x)
        x = self.norm(y if "layers-not-summed" in self.ways else x + y)
        x = self.head(x.mean(1) if "mean-of-the-steps" in self.ways else x[:, -1])
        return F.relu(x) if "relu-for-softplus" in self.ways else F.softplus(x)


@network
def pressure() -> Pair:
    """Blood pressure from light at a finger: a kernel of even width, two LSTM layers with a sum, the last step."""
    keras.backend.clear_session()
    window = layers.Input((24, 2), name="window")
    x = layers.Conv1D(6, 4, padding="same", activation="relu", name="conv")(window)
    x = layers.BatchNormalization(name="bn")(layers.MaxPooling1D(2, name="pool")(x))
    x = layers.LSTM(6, return_sequences=True, name="lstm1")(x)
    x = layers.Add(name="sum")([x, layers.LSTM(6, return_sequences=True, name="lstm2")(x)])
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(window, layers.Dense(2, activation="softplus", name="head")(x[:, -1]))
    fill(model)
    return Pair(model, fed(1002, 4, 24, 2), ported(model, Pressure), "NHWC->NCHW")


slip("pressure/even-kernel-padded-in-front", "conv pad*", "pad-asymmetry", "shift")
slip("pressure/gates-of-old-keras", "lstm1", "rnn-activation activation-kind")
slip("pressure/batch-as-time", "lstm2 transpose*", "axis-permutation wiring", "rnn-direction block-extra")
slip("pressure/read-backwards", "lstm2 flip*", "rnn-direction", "block-extra axis-permutation")
slip("pressure/layers-not-summed", "sum add* norm", "residual-missing", "wiring block-missing")
slip("pressure/mean-of-the-steps", "get_item* mean* head select* slice*", "pool-kind rnn-last-step", "operation-kind")
slip("pressure/relu-for-softplus", "head softplus* relu*", "activation-kind", "operation-kind")
defect("pressure/norm-eps-of-torch", "norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("pressure/gates-in-another-order", "lstm1", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm1", 0, 1, 3, 2)
)
ways("pressure", "loop-by-hand")
one_layer("pressure", "gates-of-old-keras+gates-in-another-order", "layers-not-summed+norm-eps-of-torch")
neighbours("pressure", "mean-of-the-steps+relu-for-softplus")


# --- records with gaps --------------------------------------------------------------------------------------

_MEANS = np.float32([0.4, -0.7, 1.1, 0.2])


class Gaps(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.decay_x, self.decay_h = nn.Linear(4, 4), nn.Linear(4, 5)
        self.update, self.reset, self.new = (nn.Linear(13, n) for n in (5, 5, 5))
        self.out = nn.Linear(5, 2)

    def decay(self, dense: nn.Linear, gaps: torch.Tensor) -> torch.Tensor:
        x = dense(gaps)
        return torch.exp(-x if "decay-may-grow" in self.ways else -F.relu(x))

    def step(self, given: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        both = torch.cat([given, h], dim=1)
        if "gates-in-one-product" in self.ways:
            weight = torch.cat([self.update.weight, self.reset.weight])
            bias = torch.cat([self.update.bias, self.reset.bias])
            z, r = torch.sigmoid(F.linear(both, weight, bias)).chunk(2, dim=1)
        else:
            z, r = torch.sigmoid(self.update(both)), torch.sigmoid(self.reset(both))
        if "reset-after-the-product" in self.ways:
            inner, hidden = self.new.weight.split([8, 5], dim=1)
            new = torch.tanh(F.linear(given, inner, self.new.bias) + r * F.linear(h, hidden))
        else:
            new = torch.tanh(self.new(torch.cat([given, r * h], dim=1)))
        return z * h + (1 - z) * new if "update-of-torch" in self.ways else (1 - z) * h + z * new

    def forward(self, values: torch.Tensor, seen: torch.Tensor, gaps: torch.Tensor) -> torch.Tensor:
        gaps = gaps * 24 if "hours-for-days" in self.ways else gaps
        keep_x, keep_h = self.decay(self.decay_x, gaps), self.decay(self.decay_h, gaps)
        means = torch.from_numpy(_MEANS)
        h, last = values.new_zeros(len(values), 5), means.expand(len(values), -1)
        for t in range(4):
            x, m, g = values[:, t], seen[:, t], keep_x[:, t]
            last = m * x + (1 - m) * last
            x = m * x + (1 - m) * (g * last + (1 - g) * means)
            h = h if "state-not-decayed" in self.ways else keep_h[:, t] * h
            h = self.step(torch.cat([m, x] if "mask-first" in self.ways else [x, m], dim=1), h)
        return self.out(h)


@network
def gaps() -> Pair:
    """GRU-D: what was not measured fades to its mean, and so does the state; the steps are written out."""
    keras.backend.clear_session()
    values, seen, since = (layers.Input((4, 4), name=name) for name in ("values", "seen", "gaps"))
    update, reset = (layers.Dense(5, activation="sigmoid", name=name) for name in ("update", "reset"))
    new = layers.Dense(5, activation="tanh", name="new")
    keep_x = ops.exp(-layers.Dense(4, activation="relu", name="decay_x")(since))
    keep_h = ops.exp(-layers.Dense(5, activation="relu", name="decay_h")(since))
    h, last = ops.zeros_like(keep_h[:, 0]), ops.zeros_like(values[:, 0]) + _MEANS
    for t in range(4):
        x, m, g = values[:, t], seen[:, t], keep_x[:, t]
        last = m * x + (1 - m) * last
        x = m * x + (1 - m) * (g * last + (1 - g) * _MEANS)
        h, given = keep_h[:, t] * h, layers.Concatenate(name=f"given{t}")([x, m])
        both = layers.Concatenate(name=f"both{t}")([given, h])
        z, r = update(both), reset(both)
        h = (1 - z) * h + z * new(layers.Concatenate(name=f"held{t}")([given, r * h]))
    model = keras.Model([values, seen, since], layers.Dense(2, name="out")(h))
    fill(model)
    grown(model, 2, "update", "reset", "new")
    measured = (np.random.default_rng(1003).random((4, 4, 4)) < 0.6).astype(np.float32)
    inputs = {"values": fed(1004, 4, 4, 4), "seen": measured, "gaps": np.abs(fed(1005, 4, 4, 4))}
    return Pair(model, inputs, ported(model, Gaps), "same")


_STEP = "update* reset* new* sigmoid* tanh* cat* both? held? mul* multiply* add* sub* subtract* linear* split*"
slip("gaps/decay-may-grow", "decay_? relu* neg* exp*", "activation-missing", "block-missing")
slip("gaps/reset-after-the-product", _STEP, "gru-reset-after", "wiring operand-order")
slip("gaps/update-of-torch", _STEP, "operand-order wiring gru-gate-order", "operation-kind")
slip("gaps/hours-for-days", "decay_? mul* multiply* gaps neg* exp*", "input-scale", "scale block-extra")
slip("gaps/state-not-decayed", _STEP + " get_item*", "block-missing", "wiring")
slip("gaps/mask-first", _STEP + " given?", "concat-order", "operand-order channel-order")
defect("gaps/gates-exchanged", "update* reset*", "gru-gate-order weights-swapped", "weights-perturbed wiring")(
    exchanged("update", "reset")
)
ways("gaps", "gates-in-one-product")
one_layer("gaps", "reset-after-the-product+update-of-torch", "decay-may-grow+hours-for-days")
neighbours("gaps", "mask-first+gates-exchanged")
