"""Tokens that mix: heads that talk to one another, gates along the tokens, and a Fourier transform of a text."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten


class Talking(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.patch, self.places = nn.Conv2d(3, 8, 4, stride=4), nn.Embedding(6, 8)
        self.qkv, self.talk1, self.talk2, self.mix = nn.Linear(8, 24), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(8, 8)
        self.norm1, self.norm2, self.last = (nn.LayerNorm(8, eps=1e-6) for _ in range(3))
        self.share1, self.share2 = (nn.ParameterDict({"by": torch.ones(8)}) for _ in range(2))
        self.whole = nn.ParameterDict({"token": torch.zeros(1, 1, 8)})
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        if "heads-innermost" in self.ways:
            return x.unflatten(2, (4, 2)).permute(0, 3, 1, 2)
        return x.unflatten(2, (2, 4)).transpose(1, 2)

    def talked(self, dense: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        if "talk-as-points" in self.ways:
            return F.conv2d(x, dense.weight[..., None, None], dense.bias)
        return dense(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.heads(part) for part in self.qkv(x).chunk(3, dim=2))
        scores = q @ k.transpose(2, 3)
        scores = self.talked(self.talk1, scores if "scores-unscaled" in self.ways else scores / 2)
        shares = F.softmax(scores, dim=-1)
        shares = shares if "second-talk-forgotten" in self.ways else self.talked(self.talk2, shares)
        return self.mix((shares @ v).transpose(1, 2).flatten(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.patch(image)
        x = (x.transpose(2, 3) if "patches-by-columns" in self.ways else x).flatten(2).transpose(1, 2)
        x = x + self.places.weight
        y = self.attended(self.norm1(x))
        x = x + (y if "share-forgotten" in self.ways else self.share1["by"] * y)
        token = self.whole["token"].expand(len(x), -1, -1)
        y = self.norm2(torch.cat([token, x], dim=1))
        q = self.heads(self.query(y[:, -1:] if "last-token-asks" in self.ways else y[:, :1]))
        seen = y[:, 1:] if "token-not-seen" in self.ways else y
        k, v = self.heads(self.key(seen)), self.heads(self.value(seen))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head(self.last(token + self.share2["by"] * y)[:, 0])


class _Placed(layers.Layer):  # type: ignore[misc]
    def __init__(self, count: int, **own: str) -> None:
        super().__init__(**own)
        self.count = count

    def build(self, shape: tuple[int, ...]) -> None:
        self.embeddings = self.add_weight(name="embeddings", shape=(self.count, 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.embeddings[: x.shape[1]]


class _Share(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.by


class _Whole(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.token = self.add_weight(name="token", shape=(1, 1, 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.tile(self.token, (ops.shape(x)[0], 1, 1))


@network
def talking() -> Pair:
    """CaiT: heads that talk before and after the softmax, learnt shares of each sum, a token that alone asks."""
    keras.backend.clear_session()
    image = layers.Input((8, 12, 3), name="image")
    x = layers.Reshape((6, 8), name="tokens")(layers.Conv2D(8, 4, 4, name="patch")(image))
    x = _Placed(6, name="places")(x)

    def heads(x: keras.KerasTensor, count: int) -> keras.KerasTensor:
        return ops.transpose(ops.reshape(x, (-1, count, 2, 4)), (0, 2, 1, 3))

    def talked(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return ops.transpose(layers.Dense(2, name=name)(ops.transpose(x, (0, 2, 3, 1))), (0, 3, 1, 2))

    def read(x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, x.shape[2], 8))

    y = layers.Dense(24, name="qkv")(layers.LayerNormalization(epsilon=1e-6, name="norm1")(x))
    q, k, v = (heads(part, 6) for part in ops.split(y, 3, axis=2))
    scores = talked(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2, "talk1")
    y = layers.Dense(8, name="mix")(read(ops.matmul(talked(layers.Softmax(name="shares")(scores), "talk2"), v)))
    x = layers.Add(name="sum1")([x, _Share(name="share1")(y)])
    token = _Whole(name="whole")(x)
    y = layers.LayerNormalization(epsilon=1e-6, name="norm2")(layers.Concatenate(axis=1, name="all")([token, x]))
    q = heads(layers.Dense(8, name="query")(y[:, :1]), 1)
    k, v = heads(layers.Dense(8, name="key")(y), 7), heads(layers.Dense(8, name="value")(y), 7)
    y = read(ops.matmul(layers.Softmax(name="shares_whole")(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2), v))
    x = layers.Add(name="sum2")([token, _Share(name="share2")(y)])
    x = layers.LayerNormalization(epsilon=1e-6, name="last")(x)
    model = keras.Model(image, layers.Dense(5, name="head")(x[:, 0]))
    fill(model)
    grown(model, 2, "qkv", "talk1", "talk2", "query", "key")
    for name, least in (("share1", 0.6), ("share2", 0.9)):
        model.get_layer(name).by.assign(np.linspace(least, least + 0.7, 8))
    return Pair(model, fed(951, 3, 8, 12, 3), ported(model, Talking), "NHWC->NCHW")


_TALK = "talk? matmul* div* true_divide* divide* softmax* shares permute* transpose* conv2d*"
_WHOLE = "whole all cat* norm2 query key value get_item* slice* expand*"
slip("talking/scores-unscaled", _TALK, "attention-scale", "scale block-missing operation-kind")
slip("talking/heads-innermost", "qkv query key value unflatten* reshape* permute* transpose* matmul* scaled_dot*",
     "head-layout reshape-order", "channel-order wiring")  # fmt: skip
slip("talking/second-talk-forgotten", _TALK, "block-missing", "wiring")
slip(
    "talking/patches-by-columns",
    "patch tokens transpose* flatten* places add* norm1",
    "reshape-order axis-permutation",
    "wiring",
)
slip("talking/share-forgotten", "share1 mul* sum1 add* mix", "block-missing scale weights-not-loaded", "wiring")
slip("talking/last-token-asks", _WHOLE, "wiring rnn-last-step shift", "operand-order")
slip("talking/token-not-seen", _WHOLE + " scaled_dot* matmul* shares_whole softmax*",
     "block-missing block-extra attention-mask", "wiring concat-order")  # fmt: skip
defect("talking/norm-eps-of-keras", "norm? last", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("talking/talks-exchanged", "talk1 talk2", "weights-swapped", "weights-perturbed wiring")(
    exchanged("talk1", "talk2")
)
ways("talking", "talk-as-points")
one_layer("talking", "talks-exchanged+scores-unscaled", "last-token-asks+token-not-seen")
neighbours("talking", "second-talk-forgotten+share-forgotten")


# --- gates along the tokens ---------------------------------------------------------------------------------


class Along(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(8, 8)
        self.norm, self.gate_norm = nn.LayerNorm(8, eps=1e-5), nn.LayerNorm(8, eps=1e-5)
        self.along, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        if "tokens-as-channels" in self.ways:
            return F.conv1d(x, self.along.weight[..., None], self.along.bias)
        return self.along(x) if "features-mixed" in self.ways else self.along(x.transpose(1, 2)).transpose(1, 2)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        x = self.enter(steps)
        y = F.gelu(self.wide(self.norm(x)), approximate="tanh" if "gelu-by-tanh" in self.ways else "none")
        kept, gate = y.chunk(2, dim=2)
        kept, gate = (gate, kept) if "halves-exchanged" in self.ways else (kept, gate)
        gate = self.mixed(gate if "gate-not-normed" in self.ways else self.gate_norm(gate))
        x = x + self.narrow(F.silu(kept) * gate if "kept-half-bent" in self.ways else kept * gate)
        return self.head(x.amax(1) if "largest-token" in self.ways else x.mean(1))


@network
def along() -> Pair:
    """gMLP: half of the features gates the other half, mixed along as many tokens as it has features."""
    keras.backend.clear_session()
    steps = layers.Input((8, 6), name="steps")
    x = layers.Dense(8, name="enter")(steps)
    y = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    y = ops.gelu(layers.Dense(16, name="wide")(y), approximate=False)
    kept, gate = ops.split(y, 2, axis=2)
    gate = layers.Permute((2, 1), name="turned")(layers.LayerNormalization(epsilon=1e-5, name="gate_norm")(gate))
    gate = layers.Permute((2, 1), name="turned_back")(layers.Dense(8, name="along")(gate))
    x = layers.Add(name="sum")([x, layers.Dense(8, name="narrow")(layers.Multiply(name="gated")([kept, gate]))])
    model = keras.Model(steps, layers.Dense(3, name="head")(layers.GlobalAveragePooling1D(name="mean")(x)))
    fill(model)
    grown(model, 2, "enter", "wide")
    return Pair(model, fed(952, 4, 8, 6), ported(model, Along), "same")


_HALVES = "split* chunk* gated mul* multiply* gate_norm along transpose* turned* narrow"
slip("along/gelu-by-tanh", "gelu* wide", "gelu-approx")
slip("along/halves-exchanged", _HALVES, "concat-order wiring channel-order", "operand-order")
slip("along/gate-not-normed", _HALVES, "block-missing", "wiring")
slip("along/features-mixed", _HALVES, "axis-permutation", "wiring dense-transpose block-missing")
slip("along/kept-half-bent", _HALVES + " silu*", "activation-extra", "block-extra")
slip("along/largest-token", "mean* amax* head", "pool-kind", "operation-kind")
defect("along/tokens-unturned", "along", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("along.weight", lambda weight: weight.T)
)
ways("along", "tokens-as-channels")
one_layer("along", "halves-exchanged+tokens-unturned")
neighbours("along", "gelu-by-tanh+gate-not-normed", "features-mixed+kept-half-bent")


# --- a Fourier transform ------------------------------------------------------------------------------------


class Waves(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places = nn.Embedding(16, 8), nn.Embedding(9, 8)
        self.norm, self.norm1, self.norm2 = (nn.LayerNorm(8, eps=1e-3) for _ in range(3))
        self.wide, self.narrow, self.pool, self.head = (
            nn.Linear(8, 12),
            nn.Linear(12, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        if "transform-by-products" in self.ways:
            parts = []
            for size in (8, 8):
                angles = 2 * torch.pi / size * torch.outer(torch.arange(size), torch.arange(size)).float()
                parts.append((angles.cos(), angles.sin()))
            (one, two), (three, four) = parts
            return one @ x @ three - two @ x @ four
        if "features-alone-transformed" in self.ways:
            return torch.fft.fft(x, dim=2).real
        y = torch.fft.fft2(x, norm="ortho" if "transform-of-length-one" in self.ways else "backward")
        return y.abs() if "length-for-real-part" in self.ways else y.real

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        x = x * 8**0.5 if "words-scaled" in self.ways else x
        x = self.norm(x + self.places(torch.arange(8) + int("places-from-one" in self.ways)))
        y = self.mixed(x)
        x = self.norm1(y if "text-not-added" in self.ways else x + y)
        x = self.norm2(x + self.narrow(F.gelu(self.wide(x))))
        x = self.pool(x[:, -1] if "last-token-pooled" in self.ways else x[:, 0])
        return self.head(x if "pool-left-linear" in self.ways else torch.tanh(x))


@network
def waves() -> Pair:
    """FNet: the real part of a Fourier transform along words and features where others attend."""
    keras.backend.clear_session()
    words = layers.Input((8,), dtype="int32", name="tokens")
    x = _Placed(9, name="places")(layers.Embedding(16, 8, name="words")(words))
    x = layers.LayerNormalization(name="norm")(x)
    real, _ = ops.fft2((x, ops.zeros_like(x)))
    x = layers.LayerNormalization(name="norm1")(layers.Add(name="sum1")([x, real]))
    y = layers.Dense(12, name="wide")(x)
    y = layers.Dense(8, name="narrow")(ops.gelu(y, approximate=False))
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="sum2")([x, y]))
    model = keras.Model(words, layers.Dense(3, name="head")(layers.Dense(8, activation="tanh", name="pool")(x[:, 0])))
    fill(model)
    return Pair(model, counted(953, 16, 4, 8), ported(model, Waves), "same")


_MIXED = "fft* real* abs* sum1 add* norm1"
_TABLES = "words places add* mul* norm arange*"
slip("waves/transform-of-length-one", _MIXED, "scale", "block-extra operation-kind")
slip("waves/features-alone-transformed", _MIXED, "block-missing norm-axis", "operation-kind")
slip("waves/length-for-real-part", _MIXED, "activation-kind operation-kind block-missing", "activation-extra")
slip("waves/text-not-added", _MIXED, "residual-missing", "block-missing wiring")
slip("waves/words-scaled", _TABLES, "embedding-scale", "scale block-extra")
slip("waves/places-from-one", _TABLES, "embedding-offset", "shift weights-perturbed")
slip("waves/last-token-pooled", "get_item* select* slice* pool", "rnn-last-step pool-kind", "wiring operand-order")
slip("waves/pool-left-linear", "pool tanh* head", "activation-missing", "block-missing")
defect("waves/norm-eps-of-torch", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
ways("waves", "transform-by-products")
one_layer("waves", "words-scaled+places-from-one", "features-alone-transformed+text-not-added")
neighbours("waves", "last-token-pooled+pool-left-linear")
