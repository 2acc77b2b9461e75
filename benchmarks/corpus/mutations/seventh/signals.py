"""Signals: a pulse at the wrist, a word at the door, a night of sleep."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import (
    control,
    defect,
    grown,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten, set_to


class Pulse(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.bn = nn.Conv1d(2, 6, 5, stride=2, bias=False), nn.BatchNorm1d(6, eps=1e-3)
        self.gru1, self.gru2 = nn.GRU(6, 5, batch_first=True), nn.GRU(5, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "layers-stacked" in self.ways:
            both = nn.GRU(6, 5, num_layers=2, batch_first=True)
            for name, value in both.state_dict().items():
                own = self.gru1 if name.endswith("_l0") else self.gru2
                value.copy_(getattr(own, name.replace("_l1", "_l0")))
            return both(x)[0][:, -1]
        first, last = self.gru1(x)
        if "state-of-the-first-layer" in self.ways:
            return last[0]
        steps = self.gru2(first)[0]
        return steps[:, 0] if "first-step-read" in self.ways else steps[:, -1]

    def forward(self, wrist: torch.Tensor) -> torch.Tensor:
        deviation = wrist.std(1, keepdim=True, correction=int("deviation-unbiased" in self.ways))
        axes = (1, 2) if "level-of-both" in self.ways else 1
        x = (wrist - wrist.mean(axes, keepdim=True)) / (deviation + 1e-6)
        x = F.pad(x.transpose(1, 2), (2, 2) if "padded-around" in self.ways else (1, 2))
        x = F.elu(self.bn(self.conv(x)), 0.5 if "elu-of-half" in self.ways else 1.0)
        x = F.max_pool1d(x, 3, ceil_mode="end-dropped" not in self.ways)
        x = self.head(self.read(x.transpose(1, 2)))
        if "rate-by-rectifier" in self.ways:
            return F.relu(x)
        return torch.logaddexp(x, torch.zeros_like(x)) if "layers-stacked" in self.ways else F.softplus(x)


@network
def pulse() -> Pair:
    """Light at the wrist: levelled in its window, one convolution, two GRU layers, rates above zero."""
    keras.backend.clear_session()
    wrist = layers.Input((40, 2), name="wrist")
    mean, deviation = (f(wrist, axis=1, keepdims=True) for f in (ops.mean, ops.std))
    x = (wrist - mean) / (deviation + 1e-6)
    x = layers.Conv1D(6, 5, strides=2, padding="same", use_bias=False, name="conv")(x)
    x = layers.Activation("elu", name="elu")(layers.BatchNormalization(name="bn")(x))
    x = layers.MaxPooling1D(3, padding="same", name="pool")(x)
    x = layers.GRU(5, return_sequences=True, name="gru1")(x)
    x = layers.GRU(5, name="gru2")(x)
    model = keras.Model(wrist, layers.Dense(2, activation="softplus", name="head")(x))
    fill(model)
    return Pair(model, fed(111, 4, 40, 2) * 3 + 1, ported(model, Pulse), "same")


_LEVELLED = "mean* std* subtract* sub* add* true_divide* div* conv"
slip("pulse/deviation-unbiased", _LEVELLED, "std-ddof", "scale operation-kind")
slip("pulse/level-of-both", _LEVELLED, "norm-axis", "input-normalisation operation-kind pool-kind bias-missing")
slip("pulse/padded-around", "conv pad", "pad-asymmetry", "shift")
slip("pulse/elu-of-half", "elu bn", "activation-param")
slip("pulse/end-dropped", "pool max_pool1d gru1", "pool-ceil-mode", "pad-mode")
slip("pulse/state-of-the-first-layer", "gru2 gru1 slice* head", "block-missing wiring", "rnn-last-step")
slip("pulse/first-step-read", "gru2 slice* head", "rnn-last-step", "wiring")
slip("pulse/rate-by-rectifier", "head softplus relu", "activation-kind")
defect("pulse/gates-of-keras", "gru1", "gru-gate-order", "weights-perturbed weights-swapped")(
    rewritten("gru1.*", lambda w: w.unflatten(0, (3, 5))[[1, 0, 2]].flatten(0, 1))
)
defect("pulse/own-bias-of-the-state-lost", "gru2", "rnn-bias bias-missing", "weights-perturbed weights-not-loaded")(
    rewritten("gru2.bias_hh_l0", torch.zeros_like)
)
defect("pulse/state-kernel-unturned", "gru2", "dense-transpose", "kernel-layout weights-perturbed gru-gate-order")(
    rewritten("gru2.weight_hh_l0", lambda w: w.unflatten(0, (3, 5)).transpose(1, 2).flatten(0, 1))
)


def _by_hand_gru(gru: nn.GRU, reset_after: bool) -> None:
    """Lets a layer be read by cells written out."""

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight, bias = gru.weight_hh_l0, gru.bias_hh_l0
        h, found = x.new_zeros(len(x), 5), []
        for step in x.unbind(1):
            r, z, n = F.linear(step, gru.weight_ih_l0, gru.bias_ih_l0).chunk(3, dim=1)
            s, y, m = F.linear(h, weight, bias).chunk(3, dim=1)
            r, z = torch.sigmoid(r + s), torch.sigmoid(z + y)
            m = r * m if reset_after else F.linear(r * h, weight[10:], bias[10:])
            h = z * h + (1 - z) * torch.tanh(n + m)
            found.append(h)
        return torch.stack(found, dim=1), h[None]

    gru.forward = forward


control("pulse/cells-by-hand")(lambda port: _by_hand_gru(port.gru1, True))
defect("pulse/reset-before", "gru1 gru1.*", "gru-reset-after", "weights-perturbed")(
    lambda port: _by_hand_gru(port.gru1, False)
)
ways("pulse", "layers-stacked")
one_layer("pulse", "deviation-unbiased+level-of-both", "own-bias-of-the-state-lost+state-kernel-unturned")
neighbours("pulse", "elu-of-half+end-dropped", "first-step-read+rate-by-rectifier")


# --- a word -------------------------------------------------------------------------------------------------


class Word(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = SameConv2d(1, 6, (10, 4), stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.deep, self.deep_bn = nn.Conv2d(6, 12, 3, padding=1, groups=6), nn.BatchNorm2d(12, eps=1e-3)
        self.point, self.point_bn = nn.Conv2d(12, 8, 1), nn.BatchNorm2d(8, eps=1e-3)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, 4)
        mean, spread = _level()
        self.register_buffer("mean", torch.from_numpy(mean), persistent=False)
        self.register_buffer("var", torch.from_numpy(spread), persistent=False)

    def levelled(self, sound: torch.Tensor) -> torch.Tensor:
        if "level-forgotten" in self.ways:
            return sound
        over = self.var if "over-the-variance" in self.ways else self.var.sqrt()
        return (sound - self.mean) / over

    def separable(self, x: torch.Tensor) -> torch.Tensor:
        if "separable-at-once" in self.ways:
            norm = self.deep_bn
            share = norm.weight / (norm.running_var + norm.eps).sqrt()
            bias = (self.deep.bias - norm.running_mean) * share + norm.bias
            x = F.relu(F.conv2d(x, self.deep.weight * share[:, None, None, None], bias, padding=1, groups=6))
            norm = self.point_bn
            share = norm.weight / (norm.running_var + norm.eps).sqrt()
            x = torch.einsum("bihw,oi->bohw", x, self.point.weight[:, :, 0, 0] * share[:, None])
            return F.relu(x + ((self.point.bias - norm.running_mean) * share + norm.bias)[:, None, None])
        x = self.deep_bn(self.deep(x))
        x = x if "middle-not-rectified" in self.ways else F.relu(x)
        x = self.point_bn(self.point(x))
        return F.relu6(x) if "rectified-to-six" in self.ways else F.relu(x)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(self.levelled(sound))))
        x = self.separable(x)
        x = x.amax((2, 3)) if "largest-of-the-maps" in self.ways else x.mean((2, 3))
        x = self.head(F.dropout(x, 0.3) if "dropping" in self.ways else self.drop(x))
        return F.log_softmax(x, dim=1) if "logarithms" in self.ways else F.softmax(x, dim=1)


def _level() -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each coefficient over the words one trained with."""
    return fed(112, 10), fed(113, 10) ** 2 + 0.3


@network
def word() -> Pair:
    """A separable network that spots a word in cepstral coefficients; its first kernel is even on both sides."""
    keras.backend.clear_session()
    sound = layers.Input((25, 10, 1), name="sound")
    mean, variance = (v[:, None] for v in _level())
    x = (sound - mean) / np.sqrt(variance)
    x = layers.Conv2D(6, (10, 4), strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="relu0")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="deep")(x)
    x = layers.ReLU(name="relu1")(layers.BatchNormalization(name="deep_bn")(x))
    x = layers.BatchNormalization(name="point_bn")(layers.Conv2D(8, 1, name="point")(x))
    x = layers.AveragePooling2D((13, 5), name="pool")(layers.ReLU(name="relu2")(x))
    x = layers.Dropout(0.3, name="drop")(layers.Flatten(name="flat")(x))
    model = keras.Model(sound, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 3, "deep", "point")
    return Pair(model, fed(114, 3, 25, 10, 1) * 1.5, ported(model, Word), "NHWC->NCHW")


_CEPSTRUM = "subtract sub true_divide div stem"
slip("word/level-forgotten", _CEPSTRUM, "input-normalisation block-missing", "input-scale")
slip("word/over-the-variance", _CEPSTRUM, "input-normalisation", "scale input-scale operation-kind block-missing")
slip("word/middle-not-rectified", "deep_bn relu1 relu_1 point", "activation-missing", "block-missing")
slip("word/rectified-to-six", "point_bn relu2 relu6 relu_2", "activation-kind")
slip("word/largest-of-the-maps", "pool flat mean amax drop", "pool-kind")
slip("word/dropping", "drop dropout head", "dropout-mode", "scale block-extra")
slip("word/logarithms", "head softmax log_softmax", "logits", "activation-kind operation-kind")
defect("word/odd-row-before", "stem stem.pad", "pad-asymmetry", "shift")(set_to("stem", around=lambda x: [1, 1, 5, 4]))
defect("word/multiples-outermost", "deep", "depthwise-order", "weights-perturbed")(
    rewritten("deep.weight", lambda weight: weight.unflatten(0, (6, 2)).transpose(0, 1).flatten(0, 1))
)
defect("word/gamma-for-beta", "deep_bn", "bn-swapped", "weights-swapped weights-perturbed")(
    lambda port: _swapped(port.deep_bn)
)


def _swapped(norm: nn.BatchNorm2d) -> None:
    norm.weight, norm.bias = norm.bias, norm.weight


defect("word/averages-as-begun", "point_bn", "bn-stats weights-not-loaded", "weights-perturbed scale")(
    lambda port: port.point_bn.reset_running_stats()
)


@defect("word/norms-in-training", "stem_bn deep_bn point_bn", "bn-mode", "bn-stats")
def _(port: Any) -> Any:
    port.eval()
    for norm in (port.stem_bn, port.deep_bn, port.point_bn):
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None


ways("word", "separable-at-once")
one_layer("word", "gamma-for-beta+middle-not-rectified")
neighbours(
    "word", "odd-row-before+multiples-outermost", "rectified-to-six+averages-as-begun", "largest-of-the-maps+logarithms"
)


# --- a night ------------------------------------------------------------------------------------------------


class Night(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.wave = nn.Conv1d(1, 4, 6, stride=3)
        self.lstm1 = nn.LSTM(16, 5, batch_first=True, bidirectional=True)
        self.lstm2 = nn.LSTM(10, 5, batch_first=True, bidirectional=True)
        self.short, self.head = nn.Linear(16, 10), nn.Linear(10, 5)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, 1, 28)
        x = F.max_pool1d(F.relu(self.wave(x)), 2)
        x = x.flatten(1) if "maps-outermost" in self.ways else x.transpose(1, 2).flatten(1)
        return x.unflatten(0, (6, -1)).transpose(0, 1) if "epochs-outermost" in self.ways else x.unflatten(0, (-1, 6))

    def read(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        return lstm(x.transpose(0, 1))[0].transpose(0, 1) if "epochs-as-the-batch" in self.ways else lstm(x)[0]

    def forward(self, night: torch.Tensor) -> torch.Tensor:
        x = self.told(night)
        y = self.read(self.lstm1, x)
        y = y.flip(1) if "second-layer-from-the-end" in self.ways else y
        y = self.read(self.lstm2, y)
        y = y if "shortcut-lost" in self.ways else y + F.relu(self.short(x))
        y = self.head(y)
        return F.softmax(y, dim=1 if "shares-over-the-night" in self.ways else 2)


@network
def night() -> Pair:
    """Sleep stages of as many epochs as the batch has nights: a convolution for each, two layers both ways."""
    keras.backend.clear_session()
    night = layers.Input((6, 28), name="night")
    x = ops.reshape(night, (-1, 28, 1))
    x = layers.Conv1D(4, 6, strides=3, activation="relu", name="wave")(x)
    x = layers.Flatten(name="flat")(layers.MaxPooling1D(2, name="pool")(x))
    x = ops.reshape(x, (-1, 6, 16))
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm1")(x)
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm2")(y)
    y = layers.Add(name="sum")([y, layers.Dense(10, activation="relu", name="short")(x)])
    model = keras.Model(night, layers.Dense(5, activation="softmax", name="head")(y))
    fill(model)
    return Pair(model, fed(115, 6, 6, 28), ported(model, Night), "same")


_EPOCHS = "reshape* flat flatten* unflatten* transpose* lstm1 short"
slip("night/maps-outermost", _EPOCHS, "flatten-order dense-row-order", "wiring kernel-layout")
slip("night/epochs-outermost", _EPOCHS, "reshape-order axis-permutation", "wiring")
slip("night/epochs-as-the-batch", "lstm1 lstm2 transpose*", "axis-permutation", "rnn-direction rnn-last-step wiring")
slip("night/second-layer-from-the-end", "lstm1 lstm2 flip", "rnn-direction axis-permutation", "wiring")
slip("night/shortcut-lost", "sum add relu* short lstm2 head", "residual-missing", "block-missing wiring")
slip("night/shares-over-the-night", "head softmax", "softmax-axis", "operation-kind")
defect("night/gates-exchanged", "lstm1", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("lstm1.*", lambda w: w.unflatten(0, (4, 5))[[0, 2, 1, 3]].flatten(0, 1))
)
defect("night/bias-twice", "lstm2", "rnn-bias", "weights-perturbed")(
    lambda port: _from(port.lstm2, "bias_hh", "bias_ih")
)
defect("night/one-direction-twice", "lstm1", "weights-swapped weights-not-loaded", "weights-perturbed rnn-direction")(
    lambda port: _from(port.lstm1, "_reverse", "")
)


def _from(lstm: nn.LSTM, to: str, from_: str) -> None:
    """Gives parameters the values of those that have another part of the name."""
    state = lstm.state_dict()
    lstm.load_state_dict({name: state[name.replace(to, from_)].clone() for name in state})


def _by_hand(port: Any, sigmoid: Any) -> None:
    """Lets the second layer be read by cells written out."""
    lstm = port.lstm2

    def read(x: torch.Tensor, end: str) -> torch.Tensor:
        given, kept = ([getattr(lstm, f"{part}_{of}_l0{end}") for part in ("weight", "bias")] for of in ("ih", "hh"))
        h = c = x.new_zeros(len(x), 5)
        found = []
        for step in x.unbind(1):
            i, f, g, o = (F.linear(step, *given) + F.linear(h, *kept)).chunk(4, dim=1)
            c = sigmoid(f) * c + sigmoid(i) * torch.tanh(g)
            h = sigmoid(o) * torch.tanh(c)
            found.append(h)
        return torch.stack(found, dim=1)

    lstm.forward = lambda x: (torch.cat([read(x, ""), read(x.flip(1), "_reverse").flip(1)], dim=-1), None)


control("night/cells-by-hand")(lambda port: _by_hand(port, torch.sigmoid))
defect("night/hard-gates", "lstm2 lstm2.*", "rnn-activation", "activation-kind")(
    lambda port: _by_hand(port, F.hardsigmoid)
)
one_layer("night", "gates-exchanged+one-direction-twice", "hard-gates+bias-twice")
neighbours("night", "second-layer-from-the-end+shortcut-lost", "epochs-outermost+gates-exchanged")
