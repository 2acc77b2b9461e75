"""Sound: gated, dilated causal convolutions, sample after sample."""

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


class CausalConv1d(nn.Conv1d):
    def ahead(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, ((self.kernel_size[0] - 1) * self.dilation[0], 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.ahead(x))


class Level(nn.Module):
    """A filter times a gate, to the skips and to the next level."""

    def __init__(self, dilation: int, last: bool) -> None:
        super().__init__()
        self.filter, self.gate = (CausalConv1d(8, 8, 2, dilation=dilation) for _ in range(2))
        self.skip, self.res = nn.Conv1d(8, 8, 1), None if last else nn.Conv1d(8, 8, 1)

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.filter(x)) * torch.sigmoid(self.gate(x))

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.5**0.5

    def next(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x if self.res is None else self.halved(self.add(x, self.res(y)))

    def split(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.next(x, y), self.skip(y)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.split(x, self.gated(x))


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front = CausalConv1d(1, 8, 2)
        self.levels = nn.ModuleList([Level(dilation, dilation == 4) for dilation in (1, 2, 4)])
        self.post, self.out = nn.Conv1d(8, 10, 1), nn.Conv1d(10, 6, 1)

    def skips(self, found: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack(found).sum(0)

    def rectified(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x)

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x, dim=1)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        x, found = self.front(sound), []
        for level in self.levels:
            x, skip = level(x)
            found.append(skip)
        x = self.out(F.relu(self.post(self.rectified(self.skips(found)))))
        return self.result(x).transpose(1, 2)


@network
def wave() -> Pair:
    """A WaveNet of three levels: six classes for each sample."""
    keras.backend.clear_session()
    sound = layers.Input((30, 1), name="sound")
    x = layers.Conv1D(8, 2, padding="causal", name="front")(sound)
    skips = []
    for i, dilation in enumerate((1, 2, 4)):
        two = [
            layers.Conv1D(8, 2, padding="causal", dilation_rate=dilation, activation=act, name=f"levels.{i}.{part}")(x)
            for part, act in (("filter", "tanh"), ("gate", "sigmoid"))
        ]
        y = layers.Multiply(name=f"levels.{i}.times")(two)
        skips.append(layers.Conv1D(8, 1, name=f"levels.{i}.skip")(y))
        if i == 2:
            break
        y = layers.Conv1D(8, 1, name=f"levels.{i}.res")(y)
        x = layers.Rescaling(0.5**0.5, name=f"levels.{i}.half")(layers.Add(name=f"levels.{i}.add")([x, y]))
    x = layers.ReLU(name="skips_relu")(layers.Add(name="skips")(skips))
    x = layers.Conv1D(10, 1, activation="relu", name="post")(x)
    model = keras.Model(sound, layers.Conv1D(6, 1, activation="softmax", name="out")(x))
    fill(model)
    for layer in model.layers:
        if layer.name.endswith(".skip"):
            layer.kernel.assign(layer.kernel * 1.5)
    inputs = np.random.default_rng(43).standard_normal((2, 30, 1)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Wave()), "NHWC->NCHW")


_GATED = "levels.1.filter levels.1.gate levels.1.tanh levels.1.sigmoid levels.1.times levels.1.mul"


@defect("wave/padded-around", "levels.2.filter levels.2.gate levels.2.times", "pad-asymmetry shift", "pad-mode")
def _(port: Any) -> None:
    """padding="same" in place of causal, for one level."""
    for conv in (port.levels[2].filter, port.levels[2].gate):
        conv.ahead = lambda x, conv=conv: F.pad(x, (conv.dilation[0] // 2, conv.dilation[0] - conv.dilation[0] // 2))


@defect("wave/all-undilated", "levels.2.filter levels.2.gate", "dilation", "pad-mode")
def _(port: Any) -> None:
    """The last dilation starts again at one, as of a cycle of two."""
    for conv in (port.levels[2].filter, port.levels[2].gate):
        conv.dilation = (1,)


@defect("wave/gate-and-filter-exchanged", _GATED, "weights-swapped activation-kind",
        "weights-perturbed operand-order wiring")  # fmt: skip
def _(port: Any) -> None:
    level = port.levels[1]
    level.filter, level.gate = level.gate, level.filter


@defect("wave/one-convolution-for-both", _GATED, "weights-swapped weights-not-loaded wiring", "weights-perturbed")
def _(port: Any) -> None:
    """Sigmoid and tanh of the same tensor (golbin/WaveNet#3)."""
    level = port.levels[1]

    def gated(x: torch.Tensor) -> torch.Tensor:
        y = level.filter(x)
        return torch.tanh(y) * torch.sigmoid(y)

    level.gated = gated


@defect("wave/filter-linear", "levels.1.filter levels.1.tanh levels.1.times levels.1.mul", "activation-missing",
        "block-missing activation-kind")  # fmt: skip
def _(port: Any) -> None:
    """A gated linear unit, which later networks have."""
    level = port.levels[1]
    level.gated = lambda x: level.filter(x) * torch.sigmoid(level.gate(x))


@defect(
    "wave/half-lost",
    "levels.?.half levels.?.add levels.?.mul_1 levels.?.add_1",
    "scale",
    "block-missing residual-missing",
)
def _(port: Any) -> None:
    """The square root of one half, which some leave out and some do not (r9y9/wavenet_vocoder#73)."""
    for level in port.levels:
        level.halved = lambda x: x


@defect("wave/residual-lost", "levels.1.add levels.1.half levels.1.mul_1 levels.1.res", "residual-missing",
        "wiring block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.levels[1].add = lambda x, y: y


@defect("wave/skip-behind-sum", "levels.1.skip", "residual-order wiring", "operand-order")
def _(port: Any) -> None:
    """The skip's convolution reads what goes to the next level."""
    level = port.levels[1]

    def split(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = level.next(x, y)
        return x, level.skip(x)

    level.split = split


@defect("wave/first-skip-passed-over", "skips skips_relu sum stack relu", "residual-missing", "wiring block-missing")
def _(port: Any) -> None:
    """The loop began at one (pytorch-UniWaveNet#6)."""
    port.skips = lambda found: torch.stack(found[1:]).sum(0)


@defect("wave/skips-averaged", "skips skips_relu sum mean stack relu", "scale operation-kind", "pool-kind")
def _(port: Any) -> None:
    port.skips = lambda found: torch.stack(found).mean(0)


@defect("wave/skips-not-rectified", "skips skips_relu sum relu relu_1 post", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.rectified = lambda x: x


@defect("wave/classes-over-time", "out softmax", "softmax-axis", "operation-kind")
def _(port: Any) -> None:
    """dim=-1, which is the channels in Keras alone."""
    port.result = lambda x: F.softmax(x, dim=-1)


@defect("wave/log-probabilities", "out softmax log_softmax", "logits", "activation-kind operation-kind")
def _(port: Any) -> None:
    """As NLLLoss takes them."""
    port.result = lambda x: F.log_softmax(x, dim=1)


@defect("wave/taps-turned", "front", "kernel-flip", "weights-perturbed kernel-layout")
def _(port: Any) -> None:
    """The newer sample's tap first, as a queue of past samples has them."""
    port.front.weight.data = port.front.weight.data.flip(2).contiguous()


@defect("wave/skip-without-bias", "levels.2.skip", "bias-missing", "weights-perturbed")
def _(port: Any) -> None:
    port.levels[2].skip.bias = None


@control("wave/filter-and-gate-at-once")
def _(port: Any) -> None:
    """One convolution of twice the width, as most write it."""
    for level in port.levels:
        both = CausalConv1d(8, 16, 2, dilation=level.filter.dilation)
        both.weight.data = torch.cat([level.filter.weight.data, level.gate.weight.data])
        both.bias.data = torch.cat([level.filter.bias.data, level.gate.bias.data])  # type: ignore[union-attr]
        level.both = both
        del level.filter, level.gate

        def gated(x: torch.Tensor, level: Any = level) -> torch.Tensor:
            a, b = level.both(x).chunk(2, dim=1)
            return torch.tanh(a) * torch.sigmoid(b)

        level.gated = gated


@control("wave/skips-as-they-come")
def _(port: Any) -> None:
    """Added one after another; the gate as a linear unit of its own; a division."""
    port.skips = lambda found: found[0] + found[1] + found[2]
    for level in port.levels:
        level.gated = lambda x, own=level: F.glu(torch.cat([torch.tanh(own.filter(x)), own.gate(x)], 1), dim=1)
        level.halved = lambda x: x.div(2**0.5)


@control("wave/one-point-convolutions-as-dense")
def _(port: Any) -> None:
    """Channels last between."""
    for name in ("post", "out"):
        conv = getattr(port, name)
        dense = nn.Linear(conv.in_channels, conv.out_channels)
        dense.weight.data, dense.bias.data = conv.weight.data[:, :, 0], conv.bias.data
        conv.forward = lambda x, dense=dense: dense(x.transpose(1, 2)).transpose(1, 2)


one_layer("wave", "padded-around+all-undilated", "residual-lost+half-lost")
neighbours("wave", "first-skip-passed-over+skips-not-rectified", "skips-not-rectified+classes-over-time")
