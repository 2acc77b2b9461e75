"""Words in pictures: convolutions, then what was read from left to right and back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Read(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8, eps=1e-3)
        self.pool1: nn.Module = nn.MaxPool2d(2)
        self.pool2: nn.Module = nn.MaxPool2d((2, 1))
        self.narrow = nn.Linear(16, 10)
        self.both = nn.LSTM(10, 6, batch_first=True, bidirectional=True)
        self.letters = nn.Linear(12, 7)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv2(x)))

    def columns(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 2, 1).flatten(2)

    def narrowed(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.narrow(x))

    def read(self, x: torch.Tensor) -> torch.Tensor:
        return self.both(x)[0]

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x, dim=-1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool1(F.relu(self.conv1(image)))
        x = self.columns(self.pool2(self.normed(x)))
        return self.result(self.letters(self.read(self.narrowed(x))))


@network
def read() -> Pair:
    """Text in a picture: columns become steps, both directions read them, a letter or none for each."""
    keras.backend.clear_session()
    image = layers.Input((8, 24, 1), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(image)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.BatchNormalization(name="bn")(layers.Conv2D(8, 3, padding="same", name="conv2")(x))
    x = layers.MaxPooling2D((2, 1), name="pool2")(layers.Activation("relu", name="relu2")(x))
    x = layers.Reshape((12, 16), name="columns")(layers.Permute((2, 1, 3), name="turn")(x))
    x = layers.Dense(10, activation="relu", name="narrow")(x)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(x)
    model = keras.Model(image, layers.Dense(7, activation="softmax", name="letters")(x))
    fill(model)
    model.get_layer("bn").moving_variance.assign(model.get_layer("bn").moving_variance * 0.05)
    inputs = np.random.default_rng(44).uniform(0, 1, (3, 8, 24, 1)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Read()), "NHWC->NCHW")


_COLUMNS = "turn columns permute flatten reshape* view* narrow"


@defect("read/viewed-without-turning", _COLUMNS, "reshape-order flatten-order axis-permutation", "block-missing wiring")
def _(port: Any) -> None:
    """The width has to be time: a Permute was missing (keras#8047)."""
    port.columns = lambda x: x.reshape(len(x), 12, 16)


@defect("read/maps-before-rows", _COLUMNS, "flatten-order dense-row-order", "channel-order")
def _(port: Any) -> None:
    """permute(0, 3, 1, 2), as networks that began in PyTorch have it."""
    port.columns = lambda x: x.permute(0, 3, 1, 2).flatten(2)


@defect("read/norm-behind-rectifier", "bn relu2 relu_1 conv2", "residual-order wiring activation-missing "
        "activation-extra", "block-missing block-extra operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.normed = lambda x: port.bn(F.relu(port.conv2(x)))


@defect("read/norm-of-the-batch", "bn", "bn-mode", "bn-stats")
def _(port: Any) -> None:
    """eval() was never called; the running statistics are still those of training."""
    bn = port.bn
    bn.forward = lambda x: F.batch_norm(x, None, None, bn.weight, bn.bias, training=True, eps=bn.eps)


@defect("read/pool-of-means", "pool2", "pool-kind")
def _(port: Any) -> None:
    port.pool2 = nn.AvgPool2d((2, 1))


@defect("read/narrow-linear", "narrow relu_2", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.narrowed = lambda x: port.narrow(x)


@defect("read/bias-twice", "both", "rnn-bias", "weights-perturbed")
def _(port: Any) -> None:
    """PyTorch has two bias terms and Keras one, which went into both (discuss.pytorch.org 110741)."""
    for end in ("", "_reverse"):
        getattr(port.both, f"bias_hh_l0{end}").data.copy_(getattr(port.both, f"bias_ih_l0{end}").data)


@defect("read/gates-of-another-library", "both", "lstm-gate-order", "weights-perturbed weights-swapped")
def _(port: Any) -> None:
    """c, f, o, i: the order of the library that the weights went through."""
    for parameter in port.both.parameters():
        parts = parameter.data.unflatten(0, (4, 6))
        parts.copy_(parts[[2, 1, 3, 0]].clone())


@defect("read/recurrent-unturned", "both", "dense-transpose kernel-layout weights-perturbed", "weights-swapped")
def _(port: Any) -> None:
    """Each gate's recurrent kernel is square: it fits unturned."""
    for end in ("", "_reverse"):
        gates = getattr(port.both, f"weight_hh_l0{end}").data.unflatten(0, (4, 6))
        gates.copy_(gates.transpose(1, 2).clone())


@defect(
    "read/backward-weights-forward", "both", "weights-swapped rnn-direction", "weights-not-loaded weights-perturbed"
)
def _(port: Any) -> None:
    """The two directions' weights exchanged."""
    own = port.both.state_dict()
    port.both.load_state_dict({
        name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse": value.clone()
        for name, value in own.items()
    })  # fmt: skip


@defect("read/backward-first", "both letters cat* split* chunk*", "concat-order", "channel-order axis-permutation "
        "rnn-direction operand-order")  # fmt: skip
def _(port: Any) -> None:
    def read(x: torch.Tensor) -> torch.Tensor:
        ahead, back = port.both(x)[0].chunk(2, dim=-1)
        return torch.cat([back, ahead], dim=-1)

    port.read = read


@defect("read/samples-as-steps", "both", "rnn-direction axis-permutation", "operation-kind wiring")
def _(port: Any) -> None:
    """batch_first was forgotten: the samples are read as if they were steps."""
    port.both.batch_first = False


@defect("read/letters-over-steps", "letters softmax", "softmax-axis", "operation-kind")
def _(port: Any) -> None:
    port.result = lambda x: F.softmax(x, dim=1)


@defect("read/log-for-ctc", "letters softmax log_softmax", "logits", "operation-kind activation-kind")
def _(port: Any) -> None:
    """CTCLoss takes logarithms, ctc_batch_cost does not."""
    port.result = lambda x: F.log_softmax(x, dim=-1)


@control("read/two-readers")
def _(port: Any) -> None:
    """Two layers of one direction, the second turned before and behind."""
    for name, end in (("ahead", ""), ("back", "_reverse")):
        one = nn.LSTM(10, 6, batch_first=True)
        own = port.both.state_dict()
        one.load_state_dict({f"{kind}_l0": own[f"{kind}_l0{end}"]
                             for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})  # fmt: skip
        setattr(port, name, one)
    del port.both
    port.read = lambda x: torch.cat([port.ahead(x)[0], port.back(x.flip(1))[0].flip(1)], dim=-1)


@control("read/steps-first")
def _(port: Any) -> None:
    """Time in front, as CTCLoss wants it, biases shared out; turned again at the end."""
    port.both.batch_first = False
    for end in ("", "_reverse"):
        port.both.get_parameter(f"bias_ih_l0{end}").data.mul_(0.5)
        port.both.get_parameter(f"bias_hh_l0{end}").data.copy_(port.both.get_parameter(f"bias_ih_l0{end}").data)
    port.columns = lambda x: x.permute(3, 0, 2, 1).reshape(12, -1, 16)
    port.result = lambda x: F.softmax(x, dim=2).transpose(0, 1)


one_layer("read", "bias-twice+gates-of-another-library", "recurrent-unturned+bias-twice")
neighbours("read", "maps-before-rows+narrow-linear", "backward-first+bias-twice")
