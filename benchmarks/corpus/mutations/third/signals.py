"""One-dimensional convolutions for an ECG, and recurrent networks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.third.registry import control, defect, neighbours, network, one_layer


class Heart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 6, 5, stride=2)
        self.stem_bn = nn.BatchNorm1d(6, eps=1e-3)
        self.square = nn.Conv1d(6, 6, 6, padding="same")
        self.deep = nn.Conv1d(6, 12, 3, padding=1, groups=6)
        self.causal = nn.Conv1d(12, 12, 3, dilation=3)
        self.pool = nn.AvgPool1d(3, stride=2, ceil_mode=True)
        self.hidden, self.head = nn.Linear(96, 9), nn.Linear(9, 4)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean(2, keepdim=True)) / (x.std(2, correction=0, keepdim=True) + 1e-6)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (1, 2))

    def before(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (6, 0))

    def add(self, x: torch.Tensor, branch: torch.Tensor) -> torch.Tensor:
        return F.relu(x + branch)

    def flatten(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).flatten(1)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(self.pad(self.prepare(x)))))
        x = self.deep(self.add(x, self.square(x)))
        x = self.pool(F.elu(self.causal(self.before(x))))
        return self.finish(self.head(F.relu(self.hidden(self.flatten(x)))))


@network
def heart() -> Pair:
    """Leads standardised one by one, SAME at stride 2, a residual, a dilated causal convolution, several labels."""
    keras.backend.clear_session()
    wave = layers.Input((32, 3), name="wave")
    x = (wave - ops.mean(wave, axis=1, keepdims=True)) / (ops.std(wave, axis=1, keepdims=True) + 1e-6)
    x = layers.Conv1D(6, 5, strides=2, padding="same", name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.Add(name="sum")([x, layers.Conv1D(6, 6, padding="same", name="square")(x)])
    x = layers.ReLU(name="sum_relu")(x)
    x = layers.DepthwiseConv1D(3, padding="same", depth_multiplier=2, name="deep")(x)
    x = layers.Conv1D(12, 3, padding="causal", dilation_rate=3, activation="elu", name="causal")(x)
    x = layers.AveragePooling1D(3, strides=2, padding="same", name="pool")(x)
    x = layers.Dense(9, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    model = keras.Model(wave, layers.Dense(4, activation="sigmoid", name="head")(x))
    fill(model)
    inputs = np.random.default_rng(7).standard_normal((2, 32, 3)).astype(np.float32) * 0.4 + 0.3
    return Pair(model, inputs, lambda: carry(model, Heart()), "NHWC->NCHW")


_PREPARED = "subtract mean std add true_divide divide sub div stem"


@defect("heart/std-unbiased", _PREPARED, "std-ddof scale input-normalisation", "input-scale")
def _(port: Any) -> None:
    port.prepare = lambda x: (x - x.mean(2, keepdim=True)) / (x.std(2, keepdim=True) + 1e-6)


@defect("heart/leads-together", _PREPARED, "norm-axis input-normalisation", "input-scale scale")
def _(port: Any) -> None:
    def prepare(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((1, 2), keepdim=True)) / (x.std((1, 2), correction=0, keepdim=True) + 1e-6)

    port.prepare = prepare


@defect("heart/stem-padded-both", "stem pad", "pad-asymmetry", "shift pad-mode block-extra")
def _(port: Any) -> None:
    port.stem.padding, port.pad = (2,), lambda x: x
    port.stem._reversed_padding_repeated_twice = [2, 2]


@defect("heart/stem-without-bias", "stem", "bias-missing", "bn-stats weights-perturbed")
def _(port: Any) -> None:
    """As it is done in front of a BatchNorm."""
    port.stem.bias = None


@defect("heart/stem-norm-eps", "stem_bn", "bn-eps")
def _(port: Any) -> None:
    port.stem_bn.eps = 1e-5


@defect("heart/kernel-as-is", "square", "kernel-layout", "dense-transpose axis-permutation weights-perturbed")
def _(port: Any) -> None:
    """As long as there are channels: every order of the axes fits."""
    port.square.weight.data = port.square.weight.data.permute(2, 1, 0).contiguous()


@defect(
    "heart/sum-of-rectified",
    "sum sum_relu square add_1 relu_1",
    "residual-order",
    "activation-extra activation-missing",
)
def _(port: Any) -> None:
    port.add = lambda x, branch: x + F.relu(branch)


@defect("heart/causal-centred", "causal pad_1 before", "pad-asymmetry pad-mode shift", "block-extra")
def _(port: Any) -> None:
    port.before, port.causal.padding = lambda x: x, (3,)
    port.causal._reversed_padding_repeated_twice = [3, 3]


@defect("heart/causal-undilated", "causal pad_1 before", "dilation", "pad-mode")
def _(port: Any) -> None:
    port.causal.dilation, port.before = (1,), lambda x: F.pad(x, (2, 0))


@defect("heart/causal-mirrored", "causal", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.causal.weight.data = port.causal.weight.data.flip(2).contiguous()


@defect("heart/pool-padded-zeros", "pool pad_2", "pool-count-include-pad",
        "pad-mode pad-asymmetry block-extra")  # fmt: skip
def _(port: Any) -> None:
    """The zeros are written out, and counted."""
    port.pool = nn.Sequential(nn.ConstantPad1d((0, 1), 0.0), nn.AvgPool1d(3, stride=2))


@defect("heart/rows-turned-twice", "flat flatten transpose hidden", "dense-row-order flatten-order",
        "reshape-order axis-permutation weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """The maps are turned, and the rows of the dense layer as well."""
    _turn_rows(port)


def _turn_rows(port: Any) -> None:
    weight = port.hidden.weight.data
    weight.copy_(weight.unflatten(1, (8, 12)).transpose(1, 2).flatten(1).clone())


@defect("heart/one-label", "head sigmoid softmax", "activation-kind logits", "operation-kind softmax-axis")
def _(port: Any) -> None:
    port.finish = lambda x: torch.softmax(x, dim=-1)


@control("heart/rows-turned")
def _(port: Any) -> None:
    _turn_rows(port)
    port.flatten = lambda x: x.flatten(1)


@control("heart/causal-cropped")
def _(port: Any) -> None:
    """Padded on both sides, and the end cut off."""
    port.before, port.causal.padding = lambda x: x, (6,)
    port.causal._reversed_padding_repeated_twice = [6, 6]
    causal = port.causal
    port.causal = Chomp(causal)


class Chomp(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)[:, :, :-6].contiguous()


one_layer("heart", "stem-padded-both+stem-without-bias", "causal-undilated+causal-mirrored")
neighbours("heart", "stem-padded-both+stem-norm-eps", "pool-padded-zeros+rows-turned-twice")


# --- recurrent networks -------------------------------------------------------------------------------------


class ResetBefore(nn.Module):
    """Keras' GRU(reset_after=False), which torch has not."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(size, 3 * width))
        self.recurrent = nn.Parameter(torch.zeros(width, 3 * width))
        self.bias = nn.Parameter(torch.zeros(3 * width))

    def gates(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.chunk(3, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = x.new_zeros(x.shape[0], self.recurrent.shape[0])
        update, reset, new = self.gates(self.recurrent)
        out = []
        for step in (x @ self.kernel + self.bias).unbind(1):
            z, r, h = self.gates(step)
            z, r = torch.sigmoid(z + hidden @ update), torch.sigmoid(r + hidden @ reset)
            hidden = z * hidden + (1 - z) * torch.tanh(h + (r * hidden) @ new)
            out.append(hidden)
        return torch.stack(out, dim=1)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 6)
        self.both = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.gru = ResetBefore(5, 7)
        self.rnn = nn.RNN(7, 5, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(5, 4)

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        ahead, back = x.chunk(2, dim=-1)
        return (ahead + back) / 2

    def last(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.gru(self.merge(self.both(self.words(ids))[0]))
        return torch.softmax(self.head(self.last(self.rnn(x)[0])), dim=-1)


@network
def tagger() -> Pair:
    """Two directions averaged, a GRU that resets before it multiplies, a plain recurrent layer with rectifiers."""
    keras.backend.clear_session()
    ids = layers.Input((9,), dtype="int32", name="ids")
    x = layers.Embedding(30, 6, name="words")(ids)
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), merge_mode="ave", name="both")(x)
    x = layers.GRU(7, reset_after=False, return_sequences=True, name="gru")(x)
    x = layers.SimpleRNN(5, activation="relu", name="rnn")(x)
    model = keras.Model(ids, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    inputs = np.random.default_rng(8).integers(0, 30, (2, 9)).astype(np.int32)
    return Pair(model, inputs, lambda: carry(model, Tagger()), "same")


@defect("tagger/directions-added", "both add div truediv chunk", "scale", "operation-kind block-missing")
def _(port: Any) -> None:
    port.merge = lambda x: x[..., :5] + x[..., 5:]


@defect("tagger/backward-as-forward", "both", "weights-not-loaded weights-swapped rnn-direction", "weights-perturbed")
def _(port: Any) -> None:
    """The loop over the weights took the forward layer's for both."""
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        getattr(port.both, f"{name}_reverse").data.copy_(getattr(port.both, name).data)


class _Only(nn.Module):
    def __init__(self, rnn: Any) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x)[0]


@defect("tagger/gru-of-torch", "gru", "gru-reset-after")
def _(port: Any) -> None:
    old, new = port.gru, nn.GRU(5, 7, batch_first=True)
    order = np.r_[7:14, :7, 14:21]
    new.weight_ih_l0.data.copy_(old.kernel.data.T[order])
    new.weight_hh_l0.data.copy_(old.recurrent.data.T[order])
    new.bias_ih_l0.data.copy_(old.bias.data[order])
    new.bias_hh_l0.data.zero_()
    port.gru = _Only(new)


@defect("tagger/gru-gates-as-torch", "gru", "gru-gate-order", "weights-perturbed weights-swapped")
def _(port: Any) -> None:
    def gates(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        r, z, h = x.chunk(3, dim=-1)
        return z, r, h

    port.gru.gates = gates


@defect("tagger/rnn-tanh", "rnn", "rnn-activation activation-kind", "operation-kind")
def _(port: Any) -> None:
    """The default."""
    new = nn.RNN(7, 5, batch_first=True)
    new.load_state_dict(port.rnn.state_dict())
    port.rnn = new


@defect("tagger/rnn-bias-twice", "rnn", "rnn-bias", "weights-perturbed")
def _(port: Any) -> None:
    port.rnn.bias_hh_l0.data.copy_(port.rnn.bias_ih_l0.data)


@defect("tagger/largest-step", "rnn max amax head", "rnn-last-step pool-kind", "operation-kind")
def _(port: Any) -> None:
    port.last = lambda x: x.amax(1)


@defect("tagger/padding-row-dropped", "words", "embedding-offset",
        "weights-perturbed weights-swapped weights-not-loaded")  # fmt: skip
def _(port: Any) -> None:
    """The table without its first row, which was taken for the padding's."""
    port.words.weight.data.copy_(port.words.weight.data.roll(-1, 0))


@control("tagger/biases-shared-out")
def _(port: Any) -> None:
    for end in ("", "_reverse"):
        first, second = getattr(port.both, f"bias_ih_l0{end}").data, getattr(port.both, f"bias_hh_l0{end}").data
        second.copy_(first * 0.4)
        first.mul_(0.6)
    port.merge = lambda x: x.unflatten(-1, (2, 5)).mean(-2)


one_layer("tagger", "rnn-tanh+rnn-bias-twice")
neighbours("tagger", "padding-row-dropped+backward-as-forward", "gru-gates-as-torch+rnn-tanh")


# --- a stack with attention ---------------------------------------------------------------------------------


class Speech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6, eps=1e-3)
        self.first = nn.LSTM(6, 8, batch_first=True)
        self.back = nn.LSTM(8, 8, batch_first=True)
        self.energy, self.score = nn.Linear(8, 7), nn.Linear(7, 1)
        self.head = nn.Linear(8, 5)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x)

    def reverse(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def squash(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def weigh(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.first(self.normalised(x))[0])
        x = self.back(self.reverse(x))[0]
        weights = self.weigh(self.score(self.squash(self.energy(x))))
        return self.head((weights * x).sum(1))


@network
def speech() -> Pair:
    """Frames normalised, an LSTM forwards and one backwards, a step's weight from a small network."""
    keras.backend.clear_session()
    frames = layers.Input((11, 6), name="frames")
    x = layers.LayerNormalization(name="norm")(frames)
    x = layers.LSTM(8, return_sequences=True, name="first")(x)
    x = layers.Dropout(0.3, name="drop")(x)
    x = layers.LSTM(8, return_sequences=True, go_backwards=True, name="back")(x)
    energy = layers.Dense(7, activation="tanh", name="energy")(x)
    weights = layers.Softmax(axis=1, name="weigh")(layers.Dense(1, name="score")(energy))
    x = ops.sum(layers.Multiply(name="weighted")([weights, x]), axis=1)
    model = keras.Model(frames, layers.Dense(5, name="head")(x))
    fill(model)
    inputs = np.random.default_rng(9).standard_normal((2, 11, 6)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Speech()), "same")


@defect("speech/frames-together", "norm", "norm-axis")
def _(port: Any) -> None:
    def normalised(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (11, 6), eps=1e-3) * port.norm.weight + port.norm.bias

    port.normalised = normalised


@defect("speech/gates-of-onnx", "back", "lstm-gate-order", "weights-perturbed")
def _(port: Any) -> None:
    """The input's kernel, the state's and the bias as i, o, f, c."""
    for value in port.back._parameters.values():
        parts = value.data.unflatten(0, (4, 8))
        parts.copy_(parts[[0, 3, 1, 2]].clone())


@defect("speech/not-backwards", "back flip", "rnn-direction", "axis-permutation block-missing")
def _(port: Any) -> None:
    port.reverse = lambda x: x


@defect("speech/always-dropping", "drop first dropout", "dropout-mode", "scale block-extra")
def _(port: Any) -> None:
    """The function does not know of eval()."""
    port.drop = lambda x: F.dropout(x, 0.3)


@defect("speech/no-tanh", "energy tanh", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.squash = lambda x: x


@defect("speech/weights-of-one", "weigh softmax score", "softmax-axis", "block-missing operation-kind")
def _(port: Any) -> None:
    port.weigh = lambda x: torch.softmax(x, dim=-1)


@defect("speech/weights-by-sigmoid", "weigh softmax sigmoid score", "activation-kind", "softmax-axis operation-kind")
def _(port: Any) -> None:
    port.weigh = torch.sigmoid


@control("speech/one-vector")
def _(port: Any) -> None:
    """The last layer in front of the sum over the steps."""
    port.weigh = lambda x: F.softmax(x.squeeze(-1), dim=-1).unsqueeze(-1)


neighbours("speech", "no-tanh+weights-of-one", "gates-of-onnx+not-backwards")
