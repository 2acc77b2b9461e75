"""A front end for sound: a Fourier transform as convolutions, and mel bands."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


def _window(periodic: bool = True) -> np.ndarray:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(32) / (32 if periodic else 31))


def _waves(window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernels of a short-time Fourier transform, (32, 1, 17): the real and the imaginary part."""
    angles = 2 * np.pi * np.outer(np.arange(32), np.arange(17)) / 32
    return tuple((window[:, None] * part(angles))[:, None].astype(np.float32) for part in (np.cos, np.sin))  # type: ignore[return-value]


def _bands() -> tuple[np.ndarray, np.ndarray]:
    """Ten triangles over seventeen frequencies, and where each begins and ends."""
    edges = 16 * (np.expm1(np.linspace(0, np.log1p(4.0), 12)) / 4)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    place = np.arange(17)[:, None]
    rise, fall = (place - low) / (middle - low), (high - place) / (high - middle)
    return np.clip(np.minimum(rise, fall), 0.02, None).astype(np.float32), high - low


class Listen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.real, self.imag = (nn.Conv1d(1, 17, 32, stride=16, bias=False) for _ in range(2))
        self.mel = nn.Linear(17, 10, bias=False)
        self.conv, self.head = nn.Conv1d(10, 8, 3, padding=1), nn.Linear(8, 4)

    def emphasise(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x[:, :1], x[:, 1:] - 0.97 * x[:, :-1]], dim=1)

    def centre(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (16, 16), mode="reflect")

    def power(self, x: torch.Tensor) -> torch.Tensor:
        return self.real(x) ** 2 + self.imag(x) ** 2

    def log(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x + 1e-2)

    def level(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(1, keepdim=True)

    def forward(self, sound: torch.Tensor) -> torch.Tensor:
        x = self.power(self.centre(self.emphasise(sound).unsqueeze(1)))
        x = self.level(self.log(self.mel(x.transpose(1, 2))))
        return self.head(F.relu(self.conv(x.transpose(1, 2))).amax(2))


@network
def listen() -> Pair:
    """Emphasis, a Fourier transform as two convolutions, mel bands, logarithms less their mean, a small network."""
    keras.backend.clear_session()
    sound = layers.Input((400,), name="sound")
    x = ops.concatenate([sound[:, :1], sound[:, 1:] - 0.97 * sound[:, :-1]], axis=1)
    x = ops.pad(x, ((0, 0), (16, 16)), mode="reflect")
    x = layers.Reshape((432, 1), name="frames")(x)
    real = layers.Conv1D(17, 32, strides=16, use_bias=False, name="real")(x)
    imag = layers.Conv1D(17, 32, strides=16, use_bias=False, name="imag")(x)
    power = ops.square(real) + ops.square(imag)
    x = ops.log(layers.Dense(10, use_bias=False, name="mel")(power) + 1e-2)
    x = x - ops.mean(x, axis=1, keepdims=True)
    x = layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(x)
    model = keras.Model(sound, layers.Dense(4, name="head")(layers.GlobalMaxPooling1D(name="largest")(x)))
    fill(model)
    for name, kernel in zip(("real", "imag"), _waves(_window()), strict=True):
        model.get_layer(name).kernel.assign(kernel)
    model.get_layer("mel").kernel.assign(_bands()[0])
    rng = np.random.default_rng(23)
    tones = np.sin(np.outer(rng.uniform(0.1, 2.5, 2), np.arange(400)))
    inputs = (tones * np.linspace(0.1, 1, 400) + rng.standard_normal((2, 400)) * 0.1).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Listen()), "same")


_TRANSFORM = "real imag square square_1 pow pow_1"


@defect("listen/window-symmetric", _TRANSFORM, "weights-perturbed", "weights-not-loaded")
def _(port: Any) -> None:
    """As numpy and scipy give it."""
    for conv, kernel in zip((port.real, port.imag), _waves(_window(periodic=False)), strict=True):
        conv.weight.data.copy_(torch.from_numpy(kernel.transpose(2, 1, 0).copy()))


@defect("listen/centred-with-zeros", f"pad frames unsqueeze {_TRANSFORM}", "pad-mode", "block-extra")
def _(port: Any) -> None:
    port.centre = lambda x: F.pad(x, (16, 16))


@defect("listen/padded-at-the-end", f"pad frames unsqueeze {_TRANSFORM}", "pad-asymmetry pad-mode", "shift block-extra")
def _(port: Any) -> None:
    port.centre = lambda x: F.pad(x, (0, 32))


@defect("listen/magnitude", "add sqrt mel", "operation-kind activation-extra block-extra", "activation-kind")
def _(port: Any) -> None:
    """power=1.0 of one library is the other's 2.0."""
    port.power = lambda x: torch.sqrt(port.real(x) ** 2 + port.imag(x) ** 2)


@defect("listen/decibels", "log log10 mul_1 mean subtract_1 sub_1", "scale operation-kind",
        "activation-kind block-extra activation-param")  # fmt: skip
def _(port: Any) -> None:
    port.log = lambda x: 10 * torch.log10(x + 1e-2)


@defect("listen/not-emphasised", "subtract concatenate multiply get_item* pad",
        "block-missing", "input-normalisation input-scale residual-missing wiring concat-order")  # fmt: skip
def _(port: Any) -> None:
    port.emphasise = lambda x: x


@defect("listen/bands-of-one-area", "mel", "weights-perturbed", "weights-not-loaded scale")
def _(port: Any) -> None:
    """Slaney's normalisation, which is one library's default."""
    bands, wide = _bands()
    port.mel.weight.data.copy_(torch.from_numpy((bands * 2 / wide).T.astype(np.float32)))


@defect("listen/mean-of-bands", "mean subtract_1 sub_1", "norm-axis pool-kind", "operation-kind input-normalisation")
def _(port: Any) -> None:
    port.level = lambda x: x - x.mean(2, keepdim=True)


@control("listen/one-transform")
def _(port: Any) -> None:
    """Both parts from one convolution."""
    both = nn.Conv1d(1, 34, 32, stride=16, bias=False)
    both.weight.data.copy_(torch.cat([port.real.weight.data, port.imag.weight.data]))
    port.real, port.imag, port.both = nn.Identity(), nn.Identity(), both

    def power(x: torch.Tensor) -> torch.Tensor:
        real, imag = port.both(x).chunk(2, dim=1)
        return real.square() + imag.square()

    port.power = power


one_layer("listen", "window-symmetric+centred-with-zeros")
neighbours("listen", "decibels+mean-of-bands")
