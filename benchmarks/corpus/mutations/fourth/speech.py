"""A conformer block over features of speech, with what comes before and behind it."""

from __future__ import annotations

import math
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


def _places(first: int = 0, interleaved: bool = True) -> np.ndarray:
    """Sines and cosines of twelve places, (12, 12)."""
    angles = np.outer(np.arange(first, first + 12), 10000.0 ** (-np.arange(6) / 6))
    parts = np.sin(angles), np.cos(angles)
    return (np.stack(parts, -1).reshape(12, 12) if interleaved else np.concatenate(parts, -1)).astype(np.float32)


class Forward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(12, eps=1e-3), nn.Linear(12, 20), nn.Linear(20, 12)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.act(self.wide(self.norm(x))))


class Attend(nn.Module):
    """Three heads of four features."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attention_output = (nn.Linear(12, 12) for _ in range(4))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1, 3, 4).transpose(1, 2)

    def weigh(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT / math.sqrt(4), dim=-1) @ v

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.heads(part(x)) for part in (self.query, self.key, self.value))
        return self.attention_output(self.weigh(q, k, v).transpose(1, 2).reshape(x.shape))


class Convolve(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.point1 = nn.LayerNorm(12, eps=1e-3), nn.Conv1d(12, 24, 1)
        self.deep = nn.Conv1d(12, 12, 5, groups=12, bias=False)
        self.deep_bn, self.point2 = nn.BatchNorm1d(12, eps=1e-3), nn.Conv1d(12, 12, 1)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return F.glu(x, dim=1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x, (2, 2))

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.silu(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.gate(self.point1(self.norm(x).transpose(1, 2)))
        return self.point2(self.act(self.deep_bn(self.deep(self.pad(y))))).transpose(1, 2)


class Conformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pad: nn.Module = nn.ZeroPad2d((0, 1, 0, 1))
        self.shrink, self.project = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(16, 12)
        self.register_buffer("places", torch.from_numpy(_places()), persistent=False)
        self.ffn1, self.attend_norm, self.attend = Forward(), nn.LayerNorm(12, eps=1e-3), Attend()
        self.convolve, self.ffn2, self.last = Convolve(), Forward(), nn.LayerNorm(12, eps=1e-3)
        self.head = nn.Linear(12, 9)

    def flatten(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).flatten(2)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        return x * math.sqrt(12) + self.places

    def half(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + 0.5 * y

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(x, dim=-1)

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.shrink(self.pad(speech.unsqueeze(1))))
        x = self.embed(self.project(self.flatten(x)))
        x = self.half(x, self.ffn1(x))
        x = x + self.attend(self.attend_norm(x))
        x = x + self.convolve(x)
        x = self.last(self.half(x, self.ffn2(x)))
        return self.finish(self.head(x))


class _Places(layers.Layer):  # type: ignore[misc]
    def call(self, x: Any) -> Any:
        return x * math.sqrt(12) + _places()


def _forward(x: Any, name: str) -> Any:
    y = layers.LayerNormalization(name=f"{name}_norm")(x)
    y = layers.Dense(12, name=f"{name}_narrow")(layers.Dense(20, activation="swish", name=f"{name}_wide")(y))
    return layers.Add(name=f"{name}_add")([x, layers.Rescaling(0.5, name=f"{name}_half")(y)])


@network
def conformer() -> Pair:
    """Features made fewer, places, two half feed-forward networks around an attention and a gated convolution."""
    keras.backend.clear_session()
    speech = layers.Input((24, 8), name="speech")
    x = layers.Reshape((24, 8, 1), name="expand")(speech)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="shrink")(x)
    x = layers.Dense(12, name="project")(layers.Reshape((12, 16), name="flatten")(x))
    x = _forward(_Places(name="places")(x), "ffn1")
    y = layers.LayerNormalization(name="attend_norm")(x)
    x = layers.Add(name="attend_add")([x, layers.MultiHeadAttention(3, 4, name="attend")(y, y)])
    y = layers.Conv1D(24, 1, name="convolve_point1")(layers.LayerNormalization(name="convolve_norm")(x))
    value, gate = ops.split(y, 2, axis=-1)
    y = layers.Multiply(name="convolve_gate")([value, layers.Activation("sigmoid", name="convolve_sigmoid")(gate)])
    y = layers.DepthwiseConv1D(5, padding="same", use_bias=False, name="convolve_deep")(y)
    y = layers.BatchNormalization(name="convolve_deep_bn")(y)
    y = layers.Conv1D(12, 1, name="convolve_point2")(layers.Activation("swish", name="convolve_act")(y))
    x = _forward(layers.Add(name="convolve_add")([x, y]), "ffn2")
    x = layers.Dense(9, name="head")(layers.LayerNormalization(name="last")(x))
    model = keras.Model(speech, layers.Activation("log_softmax", name="finish")(x))
    fill(model)
    inputs = np.random.default_rng(24).standard_normal((2, 24, 8)).astype(np.float32)

    def rename(name: str) -> str:
        if name.startswith(("ffn", "convolve_")):
            return name.replace("_", ".", 1)
        return name.replace("attend.attend.", "attend.")

    return Pair(model, inputs, lambda: carry(model, Conformer(), rename), "same")


@defect("conformer/shrunk-with-padding-one", "shrink pad", "pad-asymmetry", "shift pad-mode block-extra")
def _(port: Any) -> None:
    port.pad, port.shrink.padding = nn.Identity(), (1, 1)


@defect("conformer/shrinking-kernel-turned", "shrink", "kernel-layout", "axis-permutation dense-transpose")
def _(port: Any) -> None:
    """Axes as of a dense kernel reversed, height and width with them."""
    port.shrink.weight.data = port.shrink.weight.data.transpose(2, 3).contiguous()


@defect("conformer/features-of-each-map", "flatten permute transpose reshape project",
        "flatten-order reshape-order dense-row-order", "axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    """(b, t, c * f), as most code in PyTorch has it."""
    port.flatten = lambda x: x.transpose(1, 2).reshape(x.shape[0], 12, 16)


@defect("conformer/unscaled", "places add project", "embedding-scale scale", "block-missing")
def _(port: Any) -> None:
    port.embed = lambda x: x + port.places


@defect("conformer/places-from-one", "places add mul", "embedding-offset shift",
        "weights-perturbed weights-not-loaded operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.places = torch.from_numpy(_places(first=1))


@defect("conformer/sines-then-cosines", "places add mul", "channel-order concat-order",
        "weights-perturbed weights-swapped weights-not-loaded axis-permutation operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.places = torch.from_numpy(_places(interleaved=False))


@defect(
    "conformer/whole-residuals", "ffn?_half ffn?_add mul_[12] add_1 add_4", "scale block-missing", "weights-perturbed"
)
def _(port: Any) -> None:
    port.half = lambda x, y: x + y


@defect("conformer/first-half-gates", "convolve_point1 convolve_gate convolve_sigmoid split convolve.point1 "
        "convolve.chunk convolve.sigmoid convolve.mul convolve.glu", "channel-order concat-order",
        "operand-order weights-swapped axis-permutation wiring")  # fmt: skip
def _(port: Any) -> None:
    def gate(x: torch.Tensor) -> torch.Tensor:
        one, two = x.chunk(2, dim=1)
        return torch.sigmoid(one) * two

    port.convolve.gate = gate


@defect(
    "conformer/deep-causal", "convolve_deep convolve.deep convolve.pad", "pad-asymmetry", "shift pad-mode block-extra"
)
def _(port: Any) -> None:
    """For streaming, which the reference does not do."""
    port.convolve.pad = lambda x: F.pad(x, (4, 0))


@defect("conformer/deep-in-training", "convolve_deep_bn convolve.deep_bn", "bn-mode", "bn-stats norm-axis")
def _(port: Any) -> None:
    """track_running_stats=False."""
    norm = nn.BatchNorm1d(12, eps=1e-3, track_running_stats=False)
    norm.load_state_dict({n: v for n, v in port.convolve.deep_bn.state_dict().items() if n in ("weight", "bias")})
    port.convolve.deep_bn = norm


@defect("conformer/swish-of-quick-gelu", "convolve_act convolve.silu convolve.sigmoid convolve.mul convolve.mul_1",
        "activation-kind activation-param", "operation-kind block-extra scale")  # fmt: skip
def _(port: Any) -> None:
    port.convolve.act = lambda x: x * torch.sigmoid(1.702 * x)


@defect("conformer/probabilities", "finish log_softmax softmax head", "logits", "activation-kind operation-kind")
def _(port: Any) -> None:
    port.finish = lambda x: torch.softmax(x, dim=-1)


@control("conformer/one-call-attention")
def _(port: Any) -> None:
    """The framework's functions, where the port writes them out; a gate written out in its turn."""

    def gate(x: torch.Tensor) -> torch.Tensor:
        value, gates = x.chunk(2, dim=1)
        return value * torch.sigmoid(gates)

    port.attend.weigh = F.scaled_dot_product_attention
    port.convolve.gate = gate
    port.convolve.deep.padding, port.convolve.pad = "same", lambda x: x


@control("conformer/linear-points")
def _(port: Any) -> None:
    """Pointwise convolutions as dense layers, which need no transposing."""
    convolve = port.convolve
    for name in ("point1", "point2"):
        point = getattr(convolve, name)
        dense = nn.Linear(point.in_channels, point.out_channels)
        dense.weight.data, dense.bias.data = point.weight.data.squeeze(-1), point.bias.data
        setattr(convolve, name, _Turned(dense))
    port.half = lambda x, y: torch.add(x, y, alpha=0.5)


class _Turned(nn.Module):
    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x.transpose(1, 2)).transpose(1, 2)


one_layer("conformer", "shrunk-with-padding-one+shrinking-kernel-turned")
neighbours("conformer", "first-half-gates+deep-causal")
