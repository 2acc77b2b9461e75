"""Words: letters by a highway network, and a block whose attention knows distances alone."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    control,
    counted,
    defect,
    epsilon,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    set_to,
    slip,
    way,
)


class Highway(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.letters, self.conv = nn.Embedding(12, 5), nn.Conv1d(5, 8, 3)
        self.bend, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)
        self.read = nn.LSTM(8, 6, batch_first="steps-for-samples" not in ways)
        self.head = nn.Linear(6, 9)

    def spelled(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv(self.letters(x.flatten(0, 1)).transpose(1, 2))).amax(2)
        return x.unflatten(0, (-1, 4))

    def carried(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bend(x)
        y = y if "way-not-rectified" in self.ways else F.relu(y)
        gate = F.hardsigmoid(self.gate(x)) if "gate-hard" in self.ways else torch.sigmoid(self.gate(x))
        if "gate-the-other-way" in self.ways:
            return (1 - gate) * y + gate * x
        if "gate-by-interpolation" in self.ways:
            return torch.lerp(x, y, gate)
        return gate * y if "nothing-carried" in self.ways else gate * y + (1 - gate) * x

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.read(self.carried(self.spelled(words)))[0]
        return self.head(torch.tanh(x) if "read-squashed-again" in self.ways else x)


@network
def highway() -> Pair:
    """A language model of letters: a convolution, a highway, an LSTM; as many samples as steps."""
    keras.backend.clear_session()
    words = layers.Input((4, 7), dtype="int32", name="words")
    x = layers.Embedding(12, 5, name="letters")(ops.reshape(words, (-1, 7)))
    x = layers.GlobalMaxPooling1D(name="largest")(layers.Conv1D(8, 3, activation="tanh", name="conv")(x))
    x = ops.reshape(x, (-1, 4, 8))
    y = layers.Dense(8, activation="relu", name="bend")(x)
    gate = layers.Dense(8, activation="sigmoid", name="gate")(x)
    x = layers.Add(name="sum")([layers.Multiply(name="bent")([gate, y]), layers.Multiply(name="kept")([1 - gate, x])])
    x = layers.LSTM(6, return_sequences=True, unit_forget_bias=False, name="read")(x)
    model = keras.Model(words, layers.Dense(9, name="head")(x))
    fill(model)
    return Pair(model, counted(92, 12, 4, 4, 7), ported(model, Highway), "same")


_CARRIED = "sum bent kept subtract mul mul_1 rsub sub add lerp"
slip("highway/way-not-rectified", "bend relu bent mul", "activation-missing", "block-missing")
slip("highway/gate-hard", "gate sigmoid hardsigmoid", "activation-kind", "rnn-activation")
slip("highway/gate-the-other-way", _CARRIED, "operand-order weights-swapped wiring residual-order",
     "operation-kind residual-missing scale")  # fmt: skip
slip("highway/nothing-carried", _CARRIED, "residual-missing", "block-missing wiring")
slip("highway/steps-for-samples", "read", "axis-permutation", "rnn-direction rnn-last-step wiring")
slip("highway/read-squashed-again", "read tanh_1 head", "activation-extra", "block-extra rnn-activation")
defect("highway/gate-without-bias", "gate", "bias-missing", "weights-perturbed")(set_to("gate", bias=None))
defect("highway/forgets-more", "read", "rnn-bias", "weights-perturbed")(
    rewritten("read.bias_hh_l0", lambda bias: bias + torch.eye(4)[1].repeat_interleave(6))
)
defect("highway/gates-exchanged", "read", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("read.*", lambda w: w.unflatten(0, (4, 6))[[0, 2, 1, 3]].flatten(0, 1))
)
defect("highway/state-kernel-unturned", "read", "dense-transpose kernel-layout weights-perturbed", "weights-swapped")(
    rewritten("read.weight_hh_l0", lambda w: w.unflatten(0, (4, 6)).transpose(1, 2).flatten(0, 1))
)
defect("highway/letters-from-one", "letters", "embedding-offset", "weights-perturbed shift")(
    rewritten("letters.weight", lambda table: table.roll(1, 0))
)
way("highway/gate-by-interpolation")


@control("highway/steps-first")
def _(port: Any) -> None:
    """Steps before samples inside, as PyTorch has it where nothing is said."""
    inner = nn.LSTM(8, 6)
    inner.load_state_dict(port.read.state_dict())
    port.read.forward = lambda x: (inner(x.transpose(0, 1))[0].transpose(0, 1), None)


one_layer(
    "highway", "gate-hard+gate-without-bias", "forgets-more+gates-exchanged", "steps-for-samples+letters-from-one"
)
neighbours("highway", "gate-the-other-way+way-not-rectified")


# --- distances ----------------------------------------------------------------------------------------------


def _buckets(both: bool = True, few: int = 8, far: int = 16) -> np.ndarray:
    """The bucket of each distance among ten words: exact while near, by logarithms beyond."""
    apart = np.arange(10)[None] - np.arange(10)[:, None]
    start = few // 2 * (apart > 0) if both else 0
    few = few // 2 if both else few
    size = np.abs(apart) if both else np.maximum(-apart, 0)
    near = few // 2
    grown = near + (np.log(np.maximum(size, 1) / near) / np.log(far / near) * (few - near)).astype(int)
    return np.asarray(start + np.where(size < near, size, np.minimum(grown, few - 1)))


class Distance(nn.Module):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 2))
        buckets = torch.from_numpy(_buckets("past-alone-told-apart" not in ways))
        buckets = buckets.T.contiguous() if "keys-before-queries" in ways else buckets
        self.register_buffer("buckets", buckets, persistent=False)

    def forward(self) -> torch.Tensor:
        return self.weight[self.buckets].permute(2, 0, 1)


class Rms(nn.Module):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__()
        self.weight, self.eps, self.ways = nn.Parameter(torch.ones(8)), 1e-3, ways

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "mean-taken-off" in self.ways:
            return F.layer_norm(x, (8,), self.weight, eps=self.eps)
        if "norm-of-torch" in self.ways:
            return F.rms_norm(x, (8,), self.weight, self.eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Apart(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.distance = nn.Embedding(15, 8), Distance(ways)
        self.norm1, self.norm2, self.norm3 = Rms(frozenset()), Rms(ways), Rms(ways & {"norm-of-torch"})
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8, bias=False) for _ in range(4))
        self.wide, self.side, self.narrow = (nn.Linear(a, b, bias=False) for a, b in ((8, 12), (8, 12), (12, 8)))

    def attended(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        q, k, v = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if "fused" in self.ways:
            mask = self.distance() + (there[:, None, None] - 1) * 1e9
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
            return self.o(y.transpose(1, 2).flatten(2))
        if "score-in-half" in self.ways:
            score = (q.bfloat16() @ k.transpose(2, 3).bfloat16()).float()
        else:
            score = q @ k.transpose(2, 3)
        score = score * 0.5 if "divided-by-the-root" in self.ways else score
        score = score if "distances-lost" in self.ways else score + self.distance()
        if "mask-over-queries" in self.ways:
            score = score + (there[:, None, :, None] - 1) * 1e9
        elif "padding-seen" not in self.ways:
            score = score + (there[:, None, None] - 1) * 1e9
        return self.o((F.softmax(score, dim=-1) @ v).transpose(1, 2).flatten(2))

    def fed(self, x: torch.Tensor) -> torch.Tensor:
        if "gelu-of-the-other" in self.ways:
            return self.narrow(self.wide(x) * F.gelu(self.side(x), approximate="tanh"))
        tanh = "none" if "gelu-by-erf" in self.ways else "tanh"
        return self.narrow(F.gelu(self.wide(x), approximate=tanh) * self.side(x))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x, there = self.words(words), (words > 0).float()
        x = x * 8**0.5 if "words-scaled" in self.ways else x
        x = x + self.attended(self.norm1(x), there)
        x = self.norm3(x + self.fed(self.norm2(x)))
        x = x if "head-unscaled" in self.ways else x * 8**-0.5
        return F.linear(x, self.words.weight)


class _Distance(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="embeddings", shape=(8, 2))

    def call(self, score: keras.KerasTensor) -> keras.KerasTensor:
        return score + ops.transpose(ops.take(self.table, ops.convert_to_tensor(_buckets()), axis=0), (2, 0, 1))


class _Rms(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(name="scale", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-3) * self.scale


@network
def apart() -> Pair:
    """A block as T5 has it: no scale, a bias for each distance, a gated network, the words' table for a head."""
    keras.backend.clear_session()
    words = layers.Input((10,), dtype="int32", name="tokens")
    there = ops.cast(words > 0, "float32")
    table = layers.Embedding(15, 8, name="words")
    x = table(words)

    def heads(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.Reshape((10, 2, 4), name=f"{name}_heads")(layers.Dense(8, use_bias=False, name=name)(x))
        return layers.Permute((2, 1, 3), name=f"{name}_turned")(x)

    y = _Rms(name="norm1")(x)
    q, k, v = (heads(y, name) for name in "qkv")
    score = _Distance(name="distance")(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))))
    score = score + ops.reshape((there - 1) * 1e9, (-1, 1, 1, 10))
    y = layers.Permute((2, 1, 3), name="back")(ops.matmul(layers.Softmax(name="shares")(score), v))
    y = layers.Dense(8, use_bias=False, name="o")(layers.Reshape((10, 8), name="joined")(y))
    x = layers.Add(name="sum1")([x, y])
    y = _Rms(name="norm2")(x)
    wide = ops.gelu(layers.Dense(12, use_bias=False, name="wide")(y), approximate=True)
    y = layers.Multiply(name="gated")([wide, layers.Dense(12, use_bias=False, name="side")(y)])
    x = layers.Add(name="sum2")([x, layers.Dense(8, use_bias=False, name="narrow")(y)])
    x = layers.Rescaling(8**-0.5, name="less")(_Rms(name="norm3")(x))
    head = layers.Lambda(lambda x: ops.matmul(x, ops.transpose(table.embeddings)), name="head")
    model = keras.Model(words, head(x))
    fill(model)
    given = counted(93, 15, 3, 10, least=1)
    given[0, 7:] = given[1, 9:] = 0
    return Pair(model, given, ported(model, Apart), "same")


_SCORE = "distance distance.* matmul* add* shares softmax mul_? mul"
slip("apart/words-scaled", "words mul norm1", "embedding-scale")
slip("apart/score-in-half", _SCORE + " float_1", "dtype")
slip("apart/divided-by-the-root", _SCORE, "attention-scale", "operation-kind")
slip("apart/distances-lost", _SCORE, "block-missing", "bias-missing residual-missing attention-mask wiring")
slip("apart/past-alone-told-apart", _SCORE, "embedding-offset weights-perturbed", "attention-mask")
slip("apart/keys-before-queries", _SCORE, "axis-permutation", "embedding-offset weights-perturbed")
slip("apart/padding-seen", _SCORE, "attention-mask block-missing", "bias-missing residual-missing wiring")
slip("apart/mask-over-queries", _SCORE, "attention-mask axis-permutation", "wiring")
slip("apart/mean-taken-off", "norm2 norm2.*", "norm-axis", "operation-kind block-extra")
slip("apart/gelu-by-erf", "gelu wide", "gelu-approx")
slip("apart/gelu-of-the-other", "gelu wide side gated mul*", "wiring weights-swapped operand-order",
     "activation-missing activation-extra")  # fmt: skip
slip("apart/head-unscaled", "less mul* norm3 linear head", "scale block-missing", "embedding-scale")
defect("apart/norm-eps-of-t5", "norm?", "ln-eps", "bn-eps")(epsilon(1e-6, Rms))
way("apart/fused")
way("apart/norm-of-torch")
one_layer("apart", "divided-by-the-root+keys-before-queries", "mean-taken-off+norm-eps-of-t5",
          "padding-seen+distances-lost")  # fmt: skip
neighbours("apart", "gelu-by-erf+mean-taken-off")
