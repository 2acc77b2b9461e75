"""Transformers: an encoder with padding and a tied head, and a decoder as language models have it today."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill, values
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.third.registry import control, defect, neighbours, network, one_layer

_HEADS = "mix?qkv mix/split mix.chunk mix/reshape mix/reshape_[12] mix.view* mix?transpose* mix?matmul*"
_TURN = (
    "mix/split* mix.slice* mix?mul* mix?sub* mix/add mix/add_1 "
    " mix.add* mix/concatenate* mix.stack* mix.flatten* mix?matmul"
)


class Attention(nn.Module):
    """Three heads, their projections in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x.chunk(3, dim=-1)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], -1, 3, 4).transpose(1, 2)

    def merge(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2).reshape(x.shape[0], -1, 12)

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.transpose(2, 3) / math.sqrt(4)

    def masked(self, scores: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(padding[:, None, None, :], -1e9)

    def weigh(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.softmax(scores, dim=-1)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.heads(part) for part in self.split(self.qkv(x)))
        weights = self.weigh(self.masked(self.scores(q, k), padding))
        return self.out(self.merge(weights @ v))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 12), nn.Embedding(8, 12)
        self.norm0 = nn.LayerNorm(12, eps=1e-3)
        self.mix = Attention()
        self.norm1 = nn.LayerNorm(12, eps=1e-3)
        self.wide, self.gelu, self.narrow = nn.Linear(12, 20), nn.GELU(approximate="tanh"), nn.Linear(20, 12)
        self.norm2 = nn.LayerNorm(12, eps=1e-3)
        self.untied: Any = None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids) * math.sqrt(12) + self.places(torch.arange(8))

    def pool(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        kept = (~padding)[:, :, None].float()
        return (x * kept).sum(1) / kept.sum(1)

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.words.weight.T * 12**-0.5

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        padding = ids == 0
        x = self.norm0(self.embed(ids))
        x = self.norm1(x + self.mix(x, padding))
        x = self.norm2(x + self.narrow(self.gelu(self.wide(x))))
        return self.head(self.pool(x, padding))


class _Attention(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.qkv, self.out = layers.Dense(36, name="qkv"), layers.Dense(12, name="out")

    def call(self, x: Any, padding: Any) -> Any:
        parts = ops.split(self.qkv(x), 3, axis=-1)
        q, k, v = (ops.transpose(ops.reshape(part, (-1, 8, 3, 4)), (0, 2, 1, 3)) for part in parts)
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0
        weights = ops.softmax(scores + padding[:, None, None, :] * -1e9, axis=-1)
        return self.out(ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, 8, 12)))


class _Words(layers.Layer):  # type: ignore[misc]
    """A table that is read twice: for the words, and for the scores of all words."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.embeddings = self.add_weight(shape=(40, 12), name="embeddings")

    def call(self, x: Any, scores: bool = False) -> Any:
        if scores:
            return ops.matmul(x, ops.transpose(self.embeddings))
        return ops.take(self.embeddings, x, axis=0)


class _Places(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.embeddings = self.add_weight(shape=(8, 12), name="embeddings")

    def call(self, x: Any) -> Any:
        return x + self.embeddings


@network
def encoder() -> Pair:
    """Scaled words and places, one block with norms behind the sums, the mean of what is no padding, a tied head."""
    keras.backend.clear_session()
    ids = layers.Input((8,), dtype="int32", name="ids")
    words = _Words("words")
    padding = ops.cast(ops.equal(ids, 0), "float32")
    x = _Places("places")(words(ids) * math.sqrt(12))
    x = layers.LayerNormalization(name="norm0")(x)
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="residual_1")([x, _Attention("mix")(x, padding)]))
    y = layers.Dense(20, name="wide")(x)
    y = layers.Dense(12, name="narrow")(ops.gelu(y, approximate=True))
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="residual_2")([x, y]))
    kept = (1.0 - padding)[:, :, None]
    x = ops.sum(x * kept, axis=1) / ops.sum(kept, axis=1)
    model = keras.Model(ids, words(x, scores=True) * 12**-0.5)
    fill(model)
    inputs = np.random.default_rng(10).integers(1, 40, (2, 8)).astype(np.int32)
    inputs[0, 6:], inputs[1, 5:] = 0, 0
    return Pair(model, inputs, lambda: carry(model, Encoder()), "same")


@defect("encoder/places-scaled-too", "words#0 places mul add multiply", "embedding-scale scale",
        "block-extra wiring residual-order")  # fmt: skip
def _(port: Any) -> None:
    port.embed = lambda ids: (port.words(ids) + port.places(torch.arange(8))) * math.sqrt(12)


@defect("encoder/norm-eps-default", "norm0 norm1 norm2", "ln-eps")
def _(port: Any) -> None:
    port.norm0.eps = port.norm1.eps = port.norm2.eps = 1e-5


@defect(
    "encoder/padding-seen", "mix/mul mix/add mix/slice mix.masked_fill mix?softmax", "attention-mask", "block-missing"
)
def _(port: Any) -> None:
    port.mix.masked = lambda scores, padding: scores


@defect("encoder/mean-of-padding", "mul_1 multiply_1 get_item subtract sum sum_1 div true_divide mean",
        "pool-kind attention-mask", "operation-kind block-missing scale")  # fmt: skip
def _(port: Any) -> None:
    port.pool = lambda x, padding: x.mean(1)


@defect("encoder/gelu-exact", "gelu wide", "gelu-approx", "activation-kind")
def _(port: Any) -> None:
    port.gelu = nn.GELU()


@defect(
    "encoder/key-query-value",
    _HEADS,
    "qkv-order weights-swapped",
    "channel-order concat-order",
)
def _(port: Any) -> None:
    def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        k, q, v = x.chunk(3, dim=-1)
        return q, k, v

    port.mix.split = split


@defect("encoder/heads-merged-as-is", "mix?transpose_4 mix/reshape_3 mix.reshape mix?out",
        "head-layout reshape-order flatten-order", "axis-permutation channel-order")  # fmt: skip
def _(port: Any) -> None:
    port.mix.merge = lambda x: x.reshape(x.shape[0], -1, 12)


@defect("encoder/features-before-heads", _HEADS, "head-layout reshape-order",
        "channel-order axis-permutation flatten-order")  # fmt: skip
def _(port: Any) -> None:
    port.mix.heads = lambda x: x.view(x.shape[0], -1, 4, 3).permute(0, 3, 1, 2)


@defect("encoder/out-unturned", "mix?out", "dense-transpose", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.mix.out.weight.data = port.mix.out.weight.data.T.contiguous()


@defect("encoder/scaled-by-width", "mix?div", "attention-scale", "scale")
def _(port: Any) -> None:
    port.mix.scores = lambda q, k: q @ k.transpose(2, 3) / math.sqrt(12)


@defect("encoder/softmax-over-queries", "mix?softmax", "softmax-axis")
def _(port: Any) -> None:
    port.mix.weigh = lambda scores: torch.softmax(scores, dim=-2)


@defect("encoder/projections-without-bias", "mix?qkv", "bias-missing", "weights-perturbed")
def _(port: Any) -> None:
    port.mix.qkv.bias = None


@defect("encoder/head-unscaled", "matmul words#1 mul_2 multiply_2", "scale embedding-scale block-missing",
        "weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    port.head = lambda x: x @ port.words.weight.T


@defect("encoder/head-untied", "matmul words#1 untied", "weights-not-loaded", "weights-perturbed")
def _(port: Any) -> None:
    port.untied = nn.Linear(12, 40, bias=False)
    port.untied.weight.data.copy_(torch.from_numpy(values("untied/embeddings", (40, 12), 1)))
    port.head = lambda x: port.untied(x) * 12**-0.5


@control("encoder/fused")
def _(port: Any) -> None:
    """PyTorch's own attention on the same heads; the head as a layer that shares the table."""
    port.mix.scores = lambda q, k: (q * 0.5) @ k.mT
    port.untied = nn.Linear(12, 40, bias=False)
    port.untied.weight = port.words.weight
    port.head = lambda x: port.untied(x * 12**-0.5)


one_layer("encoder", "out-unturned+heads-merged-as-is", "padding-seen+scaled-by-width")
neighbours("encoder", "places-scaled-too+norm-eps-default", "gelu-exact+mean-of-padding")


# --- a language model ---------------------------------------------------------------------------------------


class Grouped(nn.Module):
    """Four heads of queries, two of keys and values, turned by their places."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(16, n, bias=False) for n in (16, 8, 8))
        self.o = nn.Linear(16, 16, bias=False)
        angles = torch.outer(torch.arange(10.0), 10000 ** (-torch.arange(2) / 2))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        one, two = x[..., :2], x[..., 2:]
        return torch.cat([one * self.cos - two * self.sin, two * self.cos + one * self.sin], dim=-1)

    def share(self, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(2, dim=1)

    def mask(self) -> torch.Tensor:
        return torch.ones(10, 10, dtype=torch.bool).triu(1)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], 10, -1, 4).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.turn(self.heads(self.q(x))), self.turn(self.heads(self.k(x))), self.heads(self.v(x))
        scores = q @ self.share(k).transpose(2, 3) / 2
        weights = torch.softmax(scores.masked_fill(self.mask(), -1e9), dim=-1)
        return self.o((weights @ self.share(v)).transpose(1, 2).reshape(x.shape[0], 10, 16))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(16, 40, bias=False), nn.Linear(20, 16, bias=False)

    def glu(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(self.glu(self.gate_up(x)))


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 16)
        self.norm1, self.norm2, self.norm3 = (nn.RMSNorm(16, eps=1e-3) for _ in range(3))
        self.mix, self.ffn = Grouped(), Gated()
        self.head = nn.Linear(16, 32, bias=False)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.mix(self.norm1(x))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.first(self.words(ids))
        x = x + self.ffn(self.norm2(x))
        return self.head(self.norm3(x))


class _Grouped(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.q, self.k, self.v = (layers.Dense(n, use_bias=False, name=m) for n, m in ((16, "q"), (8, "k"), (8, "v")))
        self.o = layers.Dense(16, use_bias=False, name="o")
        angles = np.outer(np.arange(10), 10000.0 ** (-np.arange(2) / 2))
        self.angles = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def _heads(self, x: Any, count: int) -> Any:
        return ops.transpose(ops.reshape(x, (-1, 10, count, 4)), (0, 2, 1, 3))

    def _turn(self, x: Any) -> Any:
        cos, sin = self.angles
        one, two = ops.split(x, 2, axis=-1)
        return ops.concatenate([one * cos - two * sin, two * cos + one * sin], axis=-1)

    def call(self, x: Any) -> Any:
        q = self._turn(self._heads(self.q(x), 4))
        k, v = self._turn(self._heads(self.k(x), 2)), self._heads(self.v(x), 2)
        k, v = ops.repeat(k, 2, axis=1), ops.repeat(v, 2, axis=1)
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2.0
        ahead = np.triu(np.full((10, 10), -1e9, np.float32), 1)
        weights = ops.softmax(scores + ahead, axis=-1)
        return self.o(ops.reshape(ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3)), (-1, 10, 16)))


class _Gated(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.gate_up = layers.Dense(40, use_bias=False, name="gate_up")
        self.down = layers.Dense(16, use_bias=False, name="down")

    def call(self, x: Any) -> Any:
        gate, up = ops.split(self.gate_up(x), 2, axis=-1)
        return self.down(ops.silu(gate) * up)


@network
def decoder() -> Pair:
    """RMS norms, rotated places, fewer keys than queries, a gated network."""
    keras.backend.clear_session()
    ids = layers.Input((10,), dtype="int32", name="ids")
    x = layers.Embedding(32, 16, name="words")(ids)
    y = _Grouped("mix")(layers.RMSNormalization(epsilon=1e-3, name="norm1")(x))
    x = layers.Add(name="residual_1")([x, y])
    y = _Gated("ffn")(layers.RMSNormalization(epsilon=1e-3, name="norm2")(x))
    x = layers.RMSNormalization(epsilon=1e-3, name="norm3")(layers.Add(name="residual_2")([x, y]))
    model = keras.Model(ids, layers.Dense(32, use_bias=False, name="head")(x))
    fill(model)
    model.get_layer("words").embeddings.assign(model.get_layer("words").embeddings * 0.2)
    inputs = np.random.default_rng(11).integers(0, 32, (2, 10)).astype(np.int32)
    return Pair(model, inputs, lambda: carry(model, Decoder()), "same")


@defect("decoder/turned-in-pairs", _TURN, "head-layout channel-order concat-order",
        "axis-permutation reshape-order qkv-order operation-kind")  # fmt: skip
def _(port: Any) -> None:
    """Neighbours are turned, where the halves are."""
    mix = port.mix

    def turn(x: torch.Tensor) -> torch.Tensor:
        one, two = x[..., ::2], x[..., 1::2]
        return torch.stack([one * mix.cos - two * mix.sin, two * mix.cos + one * mix.sin], dim=-1).flatten(-2)

    mix.turn = turn


@defect(
    "decoder/heads-tiled",
    "mix?repeat* mix?transpose_3 mix?matmul*",
    "head-layout",
    "channel-order concat-order axis-permutation qkv-order",
)
def _(port: Any) -> None:
    port.mix.share = lambda x: x.repeat(1, 2, 1, 1)


@defect("decoder/one-ahead", "mix/add_2 mix.masked_fill mix?softmax", "attention-mask")
def _(port: Any) -> None:
    port.mix.mask = lambda: torch.ones(10, 10, dtype=torch.bool).triu(2)


@defect(
    "decoder/up-then-gate",
    "ffn?gate_up ffn/split ffn.chunk ffn?silu ffn?mul",
    "concat-order channel-order weights-swapped",
    "axis-permutation operand-order",
)
def _(port: Any) -> None:
    def glu(x: torch.Tensor) -> torch.Tensor:
        up, gate = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    port.ffn.glu = glu


@defect("decoder/gate-linear", "ffn?silu ffn?mul", "activation-missing", "block-missing")
def _(port: Any) -> None:
    def glu(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        return gate * up

    port.ffn.glu = glu


@defect("decoder/down-in-bfloat16", "ffn?down ffn.linear ffn.bfloat16* ffn.float", "dtype", "weights-perturbed")
def _(port: Any) -> None:
    down = port.ffn.down
    port.ffn.project = lambda x: F.linear(x.bfloat16(), down.weight.bfloat16()).float()


@defect("decoder/last-norm-missing", "norm3 head", "block-missing", "scale")
def _(port: Any) -> None:
    port.norm3 = nn.Identity()


@defect("decoder/norm-eps-default", "norm1 norm2 norm3", "ln-eps")
def _(port: Any) -> None:
    """Without one torch takes the type's smallest."""
    port.norm1.eps = port.norm2.eps = port.norm3.eps = None


@defect("decoder/norm-with-mean", "norm2", "norm-axis operation-kind", "block-extra")
def _(port: Any) -> None:
    """LayerNorm for RMSNorm."""
    norm = nn.LayerNorm(16, eps=1e-3, bias=False)
    norm.weight.data.copy_(port.norm2.weight.data)
    port.norm2 = norm


@defect("decoder/shortcut-normalised", "norm1 residual_1 add", "residual-order", "wiring block-extra")
def _(port: Any) -> None:
    def first(x: torch.Tensor) -> torch.Tensor:
        x = port.norm1(x)
        return x + port.mix(x)

    port.first = first


@defect("decoder/head-of-eight-bits", "head", "weights-perturbed dtype")
def _(port: Any) -> None:
    weight = port.head.weight.data
    step = weight.abs().max() / 127
    weight.copy_((weight / step).round() * step)


@defect("decoder/words-normalised", "words norm1", "block-extra", "scale embedding-scale")
def _(port: Any) -> None:
    """As another family of language models has it, whose code was taken."""
    port.words = nn.Sequential(port.words, nn.LayerNorm(16))


@control("decoder/fused")
def _(port: Any) -> None:
    mix = port.mix
    mix.share = lambda x: x[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2)
    mix.turn = lambda x: (
        torch.cat([mix.cos, mix.cos], -1) * x
        + torch.cat([mix.sin, mix.sin], -1) * torch.cat([-x[..., 2:], x[..., :2]], -1)
    )


one_layer("decoder", "heads-tiled+one-ahead", "up-then-gate+down-in-bfloat16")
neighbours("decoder", "last-norm-missing+head-of-eight-bits")
