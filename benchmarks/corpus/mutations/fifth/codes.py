"""A variational autoencoder: a picture to a mean and a variance, a sample of them, and back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill, values
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Sample(nn.Module):
    def deviation(self, log_variance: torch.Tensor) -> torch.Tensor:
        return torch.exp(0.5 * log_variance)

    def scatter(self, deviation: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return deviation * noise

    def forward(self, mean: torch.Tensor, log_variance: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return mean + self.scatter(self.deviation(log_variance), noise)


class Dream(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = SameConv2d(1, 8, 3, stride=2), SameConv2d(8, 8, 3, stride=2)
        self.hidden, self.mean, self.log_variance = nn.Linear(72, 10), nn.Linear(10, 4), nn.Linear(10, 4)
        self.sample = Sample()
        self.dense = nn.Linear(4, 72)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 8, 3, stride=2), nn.ConvTranspose2d(8, 6, 3, stride=2)
        self.out = nn.ConvTranspose2d(6, 1, 3, padding=1)

    def flat(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 3, 3, 8).permute(0, 3, 1, 2)

    def cropped(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :-1, :-1]

    def code(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.sample(self.mean(x), self.log_variance(x), noise)

    def grown(self, z: torch.Tensor) -> torch.Tensor:
        return F.relu(self.dense(z))

    def larger(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.cropped(self.up2(F.relu(self.cropped(self.up1(x))))))

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def forward(self, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.down2(F.relu(self.down1(image))))
        z = self.code(F.relu(self.hidden(self.flat(x))), noise)
        return self.result(self.out(self.larger(self.maps(self.grown(z)))))


class _Sample(layers.Layer):  # type: ignore[misc]
    """The mean, and noise times the deviation."""

    def call(self, inputs: Any) -> Any:
        mean, log_variance, noise = inputs
        return mean + ops.exp(0.5 * log_variance) * noise


@network
def dream() -> Pair:
    """A variational autoencoder as Keras' example has it; the noise is an input."""
    keras.backend.clear_session()
    image, noise = layers.Input((12, 12, 1), name="image"), layers.Input((4,), name="noise")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="down1")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="down2")(x)
    x = layers.Dense(10, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    mean, log_variance = layers.Dense(4, name="mean")(x), layers.Dense(4, name="log_variance")(x)
    x = _Sample(name="sample")([mean, log_variance, noise])
    x = layers.Reshape((3, 3, 8), name="maps")(layers.Dense(72, activation="relu", name="dense")(x))
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="relu", name="up1")(x)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="up2")(x)
    x = layers.Conv2DTranspose(1, 3, padding="same", activation="sigmoid", name="out")(x)
    model = keras.Model([image, noise], x)
    fill(model)
    rng = np.random.default_rng(45)
    inputs = {"image": rng.uniform(0, 1, (3, 12, 12, 1)).astype(np.float32),
              "noise": rng.standard_normal((3, 4)).astype(np.float32)}  # fmt: skip
    return Pair(model, inputs, lambda: carry(model, Dream()), "NHWC->NCHW")


@defect("dream/up-as-in-pytorch", "up2 slice_1", "transposed-conv-shift", "pad-asymmetry")
def _(port: Any) -> None:
    """padding=1, output_padding=1: the size is right, the place is not."""
    cropped = port.cropped
    port.up2.padding, port.up2.output_padding = (1, 1), (1, 1)
    port.cropped = lambda x: x if x.shape[1] == 6 else cropped(x)


@defect("dream/up-unturned", "up1", "kernel-layout", "weights-perturbed")
def _(port: Any) -> None:
    """As many channels in as out: a transposed convolution's kernel has them in the other order."""
    port.up1.weight.data = port.up1.weight.data.transpose(0, 1).contiguous()


@defect("dream/up-flipped", "out", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.out.weight.data = port.out.weight.data.flip(2, 3).contiguous()


@defect("dream/down-padded-both", "down1", "pad-asymmetry")
def _(port: Any) -> None:
    port.down1.around = lambda x: [1, 1, 1, 1]


@defect("dream/down-of-mirrors", "down2", "pad-mode")
def _(port: Any) -> None:
    """Another helper for SAME, that mirrors."""
    conv = port.down2
    conv.forward = lambda x: F.conv2d(F.pad(x, conv.around(x), "reflect"), conv.weight, conv.bias, stride=2)


@defect("dream/maps-flattened-first", "flat flatten permute hidden", "flatten-order dense-row-order", "channel-order")
def _(port: Any) -> None:
    """nn.Flatten of (C, H, W): the outputs differ and nothing fails (henrysky.github.io)."""
    port.flat = lambda x: x.flatten(1)


@defect("dream/maps-viewed", "maps view permute_1 reshape dense", "reshape-order flatten-order", "dense-row-order")
def _(port: Any) -> None:
    port.maps = lambda x: x.view(-1, 8, 3, 3)


@defect("dream/variance-for-deviation", "sample sample.*", "scale", "operation-kind weights-perturbed block-missing")
def _(port: Any) -> None:
    """exp(logvar) is the variance (keras#9972)."""
    port.sample.deviation = torch.exp


@defect("dream/deviation-always-added", "sample sample.*", "block-missing wiring", "operation-kind scale")
def _(port: Any) -> None:
    """mu + sigma without the noise, once it no longer trains (MONAI#8413)."""
    port.sample.scatter = lambda deviation, noise: deviation


@defect("dream/mean-alone", "sample sample.*", "block-missing residual-missing", "wiring operation-kind")
def _(port: Any) -> None:
    """No sample outside training, as many ports have it."""
    port.sample.forward = lambda mean, log_variance, noise: mean


@defect(
    "dream/variance-softened",
    "log_variance log_variance.* softplus sample sample.*",
    "activation-extra",
    "block-extra activation-kind",
)
def _(port: Any) -> None:
    """A softplus on what is a logarithm already (airc-rl-agent#43)."""
    deviation = port.sample.deviation
    port.sample.deviation = lambda x: deviation(F.softplus(x))


@defect("dream/heads-exchanged", "mean log_variance", "weights-swapped", "weights-perturbed wiring operand-order")
def _(port: Any) -> None:
    port.mean.weight, port.log_variance.weight = port.log_variance.weight, port.mean.weight
    port.mean.bias, port.log_variance.bias = port.log_variance.bias, port.mean.bias


@defect("dream/dense-fresh", "dense", "weights-not-loaded", "weights-perturbed")
def _(port: Any) -> None:
    """strict=False: its name differs, it stays as it was made."""
    own = port.dense.weight.data
    own.copy_(torch.from_numpy(values("fresh/kernel", tuple(own.shape), 12)))


@defect("dream/grown-linear", "dense relu_3 maps view", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.grown = lambda z: port.dense(z)


@defect("dream/no-probabilities", "out sigmoid", "logits activation-missing", "block-missing")
def _(port: Any) -> None:
    """binary_cross_entropy_with_logits is more stable."""
    port.result = lambda x: x


@control("dream/cropped-by-the-layer")
def _(port: Any) -> None:
    """The end is left off by hand, the deviation is a root, and the code a fused sum."""
    port.cropped = lambda x: F.pad(x, (0, -1, 0, -1))
    port.sample.forward = lambda mean, log_variance, noise: torch.addcmul(mean, log_variance.exp().sqrt(), noise)


@control("dream/rows-moved")
def _(port: Any) -> None:
    """The dense layers' rows in PyTorch's order, so that nothing is turned."""
    to = torch.arange(72).view(3, 3, 8).permute(2, 0, 1).flatten()
    port.hidden.weight.data = port.hidden.weight.data[:, to]
    port.dense.weight.data, port.dense.bias.data = port.dense.weight.data[to], port.dense.bias.data[to]
    port.flat, port.maps = lambda x: x.flatten(1), lambda x: x.view(-1, 8, 3, 3)


@control("dream/last-as-convolution")
def _(port: Any) -> None:
    """Without a stride, a transposed convolution is one with a turned kernel."""
    out = nn.Conv2d(6, 1, 3, padding=1)
    out.weight.data, out.bias.data = port.out.weight.data.flip(2, 3).transpose(0, 1).contiguous(), port.out.bias.data
    port.out = out


one_layer("dream", "variance-for-deviation+variance-softened", "dense-fresh+grown-linear")
neighbours("dream", "down-padded-both+down-of-mirrors", "heads-exchanged+variance-for-deviation")
