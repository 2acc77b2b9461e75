"""Signals of bodies: the pressure behind a pulse, curves that are told apart, and how one moves."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, doubled, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to


class Pressure(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.deep = nn.Conv1d(1, 6, 7, padding=3), nn.Conv1d(6, 6, 5, padding=2)
        self.deeper, self.join1 = nn.Conv1d(6, 6, 3, padding=1), nn.Conv1d(12, 6, 3, padding=1)
        self.join2, self.out = nn.Conv1d(12, 5, 3, padding=1), nn.Conv1d(5, 1, 1)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "window-left-as-it-is" in self.ways:
            return x
        axes = (0, 1, 2) if "levelled-over-the-batch" in self.ways else (1, 2)
        mean = x.mean(axes, keepdim=True)
        return (x - mean) / (x.std(axes, correction=int("spread-of-torch" in self.ways), keepdim=True) + 1e-6)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-in-line" in self.ways:
            return F.interpolate(x, scale_factor=2, mode="linear")
        return x.repeat_interleave(2, dim=2) if "steps-repeated" in self.ways else F.interpolate(x, scale_factor=2)

    def kernel(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        if "kernels-as-sums" in self.ways:
            return torch.einsum("bitk,oik->bot", F.pad(x, (1, 1)).unfold(2, 3, 1), conv.weight) + conv.bias[:, None]
        return conv(x)

    def forward(self, pulse: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.enter(self.levelled(pulse)))
        y = F.relu(self.deep(F.avg_pool1d(x, 2) if "means-pooled" in self.ways else F.max_pool1d(x, 2)))
        z = F.relu(self.deeper(F.max_pool1d(y, 2)))
        parts = [self.raised(z), y]
        y = F.relu(self.kernel(self.join1, torch.cat(parts[::-1] if "skips-first" in self.ways else parts, dim=1)))
        parts = [self.raised(y), x]
        x = F.relu(self.kernel(self.join2, torch.cat(parts[::-1] if "skips-first" in self.ways else parts, dim=1)))
        x = self.out(x).transpose(1, 2)
        return torch.sigmoid(x) if "pressure-bounded" in self.ways else x


@network
def pressure() -> Pair:
    """The pressure in an artery from the pulse at a finger: a U-Net of two levels on a levelled window."""
    keras.backend.clear_session()
    pulse = layers.Input((32, 1), name="pulse")
    mean, spread = (how(pulse, axis=(1, 2), keepdims=True) for how in (ops.mean, ops.std))

    def conv(x: keras.KerasTensor, width: int, size: int, name: str) -> keras.KerasTensor:
        return layers.Conv1D(width, size, padding="same", activation="relu", name=name)(x)

    x = conv((pulse - mean) / (spread + 1e-6), 6, 7, "enter")
    y = conv(layers.MaxPooling1D(name="pool1")(x), 6, 5, "deep")
    z = conv(layers.MaxPooling1D(name="pool2")(y), 6, 3, "deeper")
    y = conv(layers.Concatenate(name="both1")([layers.UpSampling1D(name="raise1")(z), y]), 6, 3, "join1")
    x = conv(layers.Concatenate(name="both2")([layers.UpSampling1D(name="raise2")(y), x]), 5, 3, "join2")
    model = keras.Model(pulse, layers.Conv1D(1, 1, name="out")(x))
    fill(model)
    wave = fed(831, 4, 32, 1)
    return Pair(model, wave.cumsum(axis=1) * 0.5 + 3, ported(model, Pressure), "NHWC->NCHW")


_LEVELLED, _JOINED = "mean* std* sub* subtract* add* div* true_divide* divide* enter", "both? cat* join?"
slip("pressure/window-left-as-it-is", _LEVELLED, "input-normalisation block-missing", "input-scale")
slip("pressure/levelled-over-the-batch", _LEVELLED, "norm-axis input-normalisation", "operation-kind")
slip("pressure/spread-of-torch", _LEVELLED, "std-ddof")
slip("pressure/raised-in-line", "raise? interpolate* " + _JOINED, "resize-mode", "operation-kind")
slip("pressure/means-pooled", "pool? *_pool1d* deep", "pool-kind", "operation-kind")
slip("pressure/skips-first", _JOINED, "concat-order", "operand-order channel-order")
slip("pressure/pressure-bounded", "out sigmoid", "activation-extra", "block-extra logits")
defect("pressure/taps-flipped", "enter", "kernel-flip", "weights-perturbed")(
    rewritten("enter.weight", lambda weight: weight.flip(2))
)
defect("pressure/taps-for-inputs", "deep", "kernel-layout", "weights-perturbed dense-transpose")(
    rewritten("deep.weight", lambda weight: weight.transpose(0, 1))
)
ways("pressure", "steps-repeated", "kernels-as-sums")
one_layer("pressure", "levelled-over-the-batch+spread-of-torch", "taps-for-inputs+means-pooled")
neighbours("pressure", "raised-in-line+skips-first")


# --- curves -------------------------------------------------------------------------------------------------


class Curves(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.narrow = nn.Conv1d(3, 4, 1, bias=False)
        self.wide, self.middle, self.small = (nn.Conv1d(4, 3, size, bias=False) for size in (8, 4, 2))
        self.beside, self.bn = nn.Conv1d(3, 3, 1, bias=False), nn.BatchNorm1d(12, eps=1e-3)
        self.short, self.short_bn, self.head = nn.Conv1d(3, 12, 1), nn.BatchNorm1d(12, eps=1e-3), nn.Linear(12, 4)

    def seen(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        more = conv.kernel_size[0] - 1
        before = more - more // 2 if "odd-step-before" in self.ways else more // 2
        before = more if "past-alone" in self.ways else before
        return conv(F.pad(x, (before, more - before)))

    def branches(self, x: torch.Tensor) -> list[torch.Tensor]:
        y = self.narrow(x)
        if "branches-in-one-kernel" in self.ways:
            kernels = [self.wide.weight, F.pad(self.middle.weight, (2, 2)), F.pad(self.small.weight, (3, 3))]
            found = list(F.conv1d(F.pad(y, (3, 4)), torch.cat(kernels)).chunk(3, dim=1))
        else:
            found = [self.seen(conv, y) for conv in (self.wide, self.middle, self.small)]
        if "mean-beside" in self.ways:
            return [*found, self.beside(F.avg_pool1d(x, 3, 1, padding=1, count_include_pad=False))]
        beside = F.max_pool1d(F.pad(x, (1, 1)), 3, 1) if "pool-with-zeros" in self.ways else F.max_pool1d(x, 3, 1, 1)
        return [*found, self.beside(beside)]

    def forward(self, curve: torch.Tensor) -> torch.Tensor:
        found = self.branches(curve)
        x = self.bn(torch.cat(found[::-1] if "smallest-first" in self.ways else found, dim=1))
        y = self.short(curve)
        y = y if "shortcut-not-normed" in self.ways else self.short_bn(y)
        x = F.relu(x) + y if "rectified-before-the-sum" in self.ways else F.relu(x + y)
        x = self.head(x[:, :, -1] if "last-step-alone" in self.ways else x.mean(2))
        return x if "scores-given" in self.ways else F.softmax(x, dim=1)


@network
def curves() -> Pair:
    """InceptionTime: three even kernels and a pool beside one another, and a shortcut with a norm of its own."""
    keras.backend.clear_session()
    curve = layers.Input((15, 3), name="curve")
    y, found = layers.Conv1D(4, 1, use_bias=False, name="narrow")(curve), []
    for name, size in (("wide", 8), ("middle", 4), ("small", 2)):
        found.append(layers.Conv1D(3, size, padding="same", use_bias=False, name=name)(y))
    pool = layers.MaxPooling1D(3, 1, padding="same", name="pool")(curve)
    found.append(layers.Conv1D(3, 1, use_bias=False, name="beside")(pool))
    x = layers.BatchNormalization(name="bn")(layers.Concatenate(name="all")(found))
    y = layers.BatchNormalization(name="short_bn")(layers.Conv1D(12, 1, name="short")(curve))
    x = layers.ReLU(name="relu")(layers.Add(name="sum")([x, y]))
    x = layers.Dense(4, name="head")(layers.GlobalAveragePooling1D(name="mean")(x))
    model = keras.Model(curve, layers.Softmax(name="softmax")(x))
    fill(model)
    grown(model, 2, "head")
    return Pair(model, fed(832, 4, 15, 3) - 1, ported(model, Curves), "NHWC->NCHW")


_BRANCHES, _SUM = "wide middle small pad*", "sum add* relu* bn short short_bn"
slip("curves/odd-step-before", _BRANCHES, "pad-asymmetry", "shift")
slip("curves/past-alone", _BRANCHES, "pad-asymmetry pad-mode shift")
slip("curves/pool-with-zeros", "pool pad* max_pool1d beside", "pad-mode", "activation-extra block-extra")
slip("curves/mean-beside", "pool *_pool1d beside", "pool-kind", "operation-kind")
slip("curves/smallest-first", "all cat bn", "concat-order", "operand-order channel-order")
slip("curves/shortcut-not-normed", _SUM, "block-missing", "bn-stats wiring")
slip("curves/rectified-before-the-sum", _SUM, "residual-order", "operand-order wiring")
slip(
    "curves/last-step-alone", "mean* get_item* slice* select* head", "rnn-last-step pool-kind", "operation-kind wiring"
)
slip("curves/scores-given", "softmax head", "logits activation-missing", "block-missing")
defect("curves/norm-eps-of-torch", "bn short_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("curves/variance-for-mean", "short_bn", "bn-stats", "weights-perturbed weights-swapped")(
    lambda port: set_to(
        "short_bn", running_mean=port.short_bn.running_var, running_var=port.short_bn.running_mean.abs()
    )(port)
)
ways("curves", "branches-in-one-kernel")
one_layer("curves", "shortcut-not-normed+rectified-before-the-sum", "last-step-alone+scores-given")
neighbours("curves", "odd-step-before+smallest-first")


# --- movements ----------------------------------------------------------------------------------------------


class Moves(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(1, 4, (5, 1)), nn.Conv2d(4, 4, (5, 1))
        self.lstm1 = nn.LSTM(20, 6, batch_first="steps-for-samples" not in ways)
        self.lstm2, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        if "sensors-one-by-one" in self.ways:
            flat = x.transpose(1, 2).flatten(0, 1)[:, None]
            flat = F.relu(F.conv1d(flat, self.conv1.weight[..., 0], self.conv1.bias))
            flat = F.relu(F.conv1d(flat, self.conv2.weight[..., 0], self.conv2.bias))
            return flat.unflatten(0, (len(x), 5)).permute(0, 3, 1, 2).flatten(2)
        y = F.relu(self.conv1(x[:, None]))
        y = self.conv2(y)
        y = y if "second-left-linear" in self.ways else F.relu(y)
        if "features-as-torch-has-them" in self.ways:
            return y.transpose(1, 2).flatten(2)
        return y.reshape(len(x), 12, 20) if "features-viewed" in self.ways else y.permute(0, 2, 3, 1).flatten(2)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "cells-by-hand" in self.ways:
            h = c = x.new_zeros(len(x), 6)
            found = []
            for step in x.unbind(1):
                gates = F.linear(step, self.lstm1.weight_ih_l0, self.lstm1.bias_ih_l0)
                gates = gates + F.linear(h, self.lstm1.weight_hh_l0, self.lstm1.bias_hh_l0)
                i, f, g, o = gates.chunk(4, dim=1)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                found.append(h)
            return torch.stack(found, dim=1)
        return self.lstm1(x)[0]

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        x, (_, cell) = self.lstm2(self.read(self.seen(steps)))
        if "mean-of-the-steps" in self.ways:
            return self.head(x.mean(1))
        return self.head(
            cell[0] if "cell-for-state" in self.ways else x[:, 0 if "first-step-read" in self.ways else -1]
        )


@network
def moves() -> Pair:
    """DeepConvLSTM: kernels along time for each sensor alone, then two LSTM layers, of which the last step counts."""
    keras.backend.clear_session()
    steps = layers.Input((20, 5), name="steps")
    x = layers.Reshape((20, 5, 1), name="picture")(steps)
    x = layers.Conv2D(4, (5, 1), activation="relu", name="conv2")(
        layers.Conv2D(4, (5, 1), activation="relu", name="conv1")(x)
    )
    x = layers.LSTM(6, return_sequences=True, name="lstm1")(layers.Reshape((12, 20), name="series")(x))
    model = keras.Model(steps, layers.Dense(3, name="head")(layers.LSTM(5, name="lstm2")(x)))
    fill(model)
    grown(model, 2, "conv1", "conv2")
    return Pair(model, fed(833, 4, 20, 5), ported(model, Moves), "same")


_SERIES = "series reshape* permute* flatten* transpose* lstm1"
_LAST = "lstm2 get_item* slice* select* head mean"
slip("moves/second-left-linear", "conv2 relu* " + _SERIES, "activation-missing", "block-missing")
slip("moves/features-as-torch-has-them", _SERIES, "flatten-order", "channel-order wiring")
slip("moves/features-viewed", _SERIES, "reshape-order", "wiring")
slip("moves/steps-for-samples", "lstm1", "axis-permutation wiring", "rnn-direction operation-kind")
slip("moves/mean-of-the-steps", _LAST, "rnn-last-step pool-kind", "operation-kind wiring")
slip("moves/cell-for-state", _LAST, "wiring rnn-last-step", "operation-kind operand-order activation-missing")
slip("moves/first-step-read", _LAST, "rnn-last-step", "rnn-direction wiring")
defect("moves/gates-of-tensorflow", "lstm1", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("lstm1.*", lambda w: w.unflatten(0, (4, 6))[[0, 2, 1, 3]].flatten(0, 1))
)
defect("moves/forgetting-counted-twice", "lstm2", "rnn-bias", "weights-perturbed")(
    rewritten("lstm2.bias_hh_l0", lambda b: b + torch.tensor([0.0, 1, 0, 0]).repeat_interleave(5))
)
defect("moves/bias-on-both-sides", "lstm1", "rnn-bias", "weights-perturbed scale")(doubled("lstm1"))
ways("moves", "sensors-one-by-one", "cells-by-hand")
one_layer("moves", "gates-of-tensorflow+bias-on-both-sides", "cell-for-state+forgetting-counted-twice")
neighbours("moves", "features-as-torch-has-them+gates-of-tensorflow", "second-left-linear+features-viewed")
