"""Texts: a word that is masked, and the next word without places."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, ported, rewritten


class Masked(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places, self.kinds = nn.Embedding(24, 8), nn.Embedding(13, 8), nn.Embedding(1, 8)
        self.norm, self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8, eps=1e-5) for _ in range(4))
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow, self.turn = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)
        self.scores = nn.ParameterDict({"bias": torch.zeros(24)})

    def begun(self, words: torch.Tensor) -> torch.Tensor:
        there = (words != 1).long()
        places = there.cumsum(1) * there + 1
        if "places-from-zero" in self.ways:
            places = places - 2 * there
        elif "places-of-padding-as-well" in self.ways:
            places = torch.arange(9).expand_as(words) + 2
        x = F.one_hot(words, 24).float() @ self.words.weight if "words-by-a-product" in self.ways else self.words(words)
        x = x + self.places(places)
        return self.norm(x if "one-kind-forgotten" in self.ways else x + self.kinds.weight[0])

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        if "heads-innermost" in self.ways:
            return x.unflatten(2, (4, 2)).permute(0, 3, 1, 2)
        return x.unflatten(2, (2, 4)).transpose(1, 2)

    def attended(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        parts = (self.query, self.key, self.value)
        if "projected-at-once" in self.ways:
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            q, k, v = (self.heads(part) for part in F.linear(x, weight, bias).chunk(3, dim=2))
        else:
            q, k, v = (self.heads(part(x)) for part in parts)
        seen = None if "padding-attended" in self.ways else there[:, None, None]
        return self.mix(F.scaled_dot_product_attention(q, k, v, seen).transpose(1, 2).flatten(2))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x, approximate="tanh" if "gelu-by-tanh" in self.ways else "none")

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.begun(words)
        y = self.attended(x, words != 1)
        x = self.norm1(y if "words-not-added" in self.ways else x + y)
        x = self.norm2(x + self.narrow(self.bent(self.wide(x))))
        x = self.bent(self.turn(x))
        x = x if "last-norm-forgotten" in self.ways else self.norm3(x)
        x = x @ self.words.weight.T
        return x if "scores-without-bias" in self.ways else x + self.scores["bias"]


class _Kind(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.embeddings = self.add_weight(name="embeddings", shape=(1, 8))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.embeddings[0]


class _Scores(layers.Layer):  # type: ignore[misc]
    def __init__(self, table: layers.Embedding, **own: str) -> None:
        super().__init__(**own)
        self.rows = lambda: table.embeddings  # not a layer of this one, whose weights would be carried twice

    def build(self, shape: tuple[int, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=(24,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.rows())) + self.bias


@network
def masked() -> Pair:
    """RoBERTa: places count from two and leave padding out, one kind for all, and a head on the words' own table."""
    keras.backend.clear_session()
    words = layers.Input((9,), dtype="int32", name="words")
    there = ops.cast(ops.not_equal(words, 1), "int32")
    table = layers.Embedding(24, 8, name="words_table")
    places = layers.Embedding(13, 8, name="places_table")(ops.cumsum(there, axis=1) * there + 1)
    x = _Kind(name="kinds_table")(layers.Add(name="tables")([table(words), places]))
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    q, k, v = (ops.transpose(ops.reshape(layers.Dense(8, name=name)(x), (-1, 9, 2, 4)), (0, 2, 1, 3))
               for name in ("query", "key", "value"))  # fmt: skip
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / 2
    scores = scores - 1e9 * ops.cast(1 - there, "float32")[:, None, None]
    y = ops.matmul(layers.Softmax(name="shares")(scores), v)
    y = layers.Dense(8, name="mix")(ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (-1, 9, 8)))
    x = layers.LayerNormalization(epsilon=1e-5, name="norm1")(layers.Add(name="sum1")([x, y]))
    y = layers.Dense(8, name="narrow")(layers.Dense(16, activation="gelu", name="wide")(x))
    x = layers.LayerNormalization(epsilon=1e-5, name="norm2")(layers.Add(name="sum2")([x, y]))
    x = layers.Dense(8, activation="gelu", name="turn")(x)
    model = keras.Model(words, _Scores(table, name="scores")(layers.LayerNormalization(epsilon=1e-5, name="norm3")(x)))
    fill(model)
    grown(model, 2, "query", "key", "wide", "turn")
    given = counted(851, 24, 4, 9, least=2)
    given[1, 6:], given[2, 4:] = 1, 1
    make = ported(model, Masked, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"words": given}, make, "same")


_TABLES = "words words_table places places_table kinds kinds_table tables add* norm cumsum* mul* get_item* slice*"
_HEADS = "query key value mix matmul* scaled_dot* transpose* reshape* unflatten* shares softmax* sub* sum1 norm1 add*"
slip("masked/places-from-zero", _TABLES, "embedding-offset", "shift weights-perturbed")
slip("masked/places-of-padding-as-well", _TABLES, "embedding-offset attention-mask", "block-missing wiring")
slip("masked/one-kind-forgotten", _TABLES, "block-missing residual-missing bias-missing", "wiring")
slip("masked/padding-attended", _HEADS, "attention-mask", "block-missing")
slip("masked/heads-innermost", _HEADS, "head-layout reshape-order", "channel-order wiring")
slip("masked/words-not-added", _HEADS, "residual-missing", "block-missing wiring")
slip("masked/gelu-by-tanh", "wide turn gelu*", "gelu-approx")
slip("masked/last-norm-forgotten", "norm3 gelu* turn scores matmul*", "block-missing", "wiring")
slip("masked/scores-without-bias", "scores add* matmul*", "bias-missing", "block-missing weights-not-loaded")
defect("masked/mix-unturned", "mix", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("mix.weight", lambda weight: weight.T)
)
ways("masked", "words-by-a-product", "projected-at-once")
one_layer("masked", "places-from-zero+one-kind-forgotten", "padding-attended+heads-innermost")
neighbours("masked", "gelu-by-tanh+last-norm-forgotten", "mix-unturned+words-not-added")


# --- the next word without places ---------------------------------------------------------------------------


class Sloped(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.begin = nn.Embedding(20, 8), nn.LayerNorm(8, eps=1e-5)
        self.norm1, self.norm2, self.last = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        self.qkv, self.mix = nn.Linear(8, 24), nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        if "thirds-behind-one-another" in self.ways:
            q, k, v = self.qkv(x).unflatten(2, (3, 4, 2)).permute(2, 0, 3, 1, 4)
        else:
            order = (0, 2, 1) if "value-before-key" in self.ways else (0, 1, 2)
            q, k, v = self.qkv(x).unflatten(2, (4, 3, 2)).permute(3, 0, 2, 1, 4)[list(order)]
        rates = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625])
        rates = 2.0 ** -torch.arange(4) if "slopes-of-eight-heads" in self.ways else rates
        apart = torch.arange(8)[None] - torch.arange(8)[:, None]
        apart = apart.abs() if "slopes-upwards" in self.ways else apart
        bias = torch.zeros(()) if "slopes-forgotten" in self.ways else rates[:, None, None] * apart
        past = apart <= 0 if "slopes-upwards" not in self.ways else torch.ones(8, 8, dtype=torch.bool).tril()
        bias = bias.expand(4, 8, 8) if "future-seen" in self.ways else torch.where(past, bias, -1e9)
        if "attention-of-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, bias)
        else:
            y = F.softmax(q @ k.transpose(2, 3) * 2**-0.5 + bias, dim=-1) @ v
        return self.mix(y.transpose(1, 2).flatten(2))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        x = x if "words-not-normed" in self.ways else self.begin(x)
        y = self.norm1(x)
        x = (y if "sum-behind-the-norm" in self.ways else x) + self.attended(y)
        y = F.gelu(self.wide(self.norm2(x)), approximate="none" if "gelu-exact" in self.ways else "tanh")
        x = x + self.narrow(y)
        x = x if "last-norm-forgotten" in self.ways else self.last(x)
        if "scores-by-name" in self.ways:
            return torch.einsum("btf,wf->btw", x, self.words.weight)
        return F.linear(x, self.words.weight)


class _Rows(layers.Layer):  # type: ignore[misc]
    def __init__(self, table: layers.Embedding, **own: str) -> None:
        super().__init__(**own)
        self.rows = lambda: table.embeddings  # not a layer of this one, whose weights would be carried twice

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.rows()))


@network
def sloped() -> Pair:
    """BLOOM: normed words, heads that each hold their query, key and value, and slopes in place of places."""
    keras.backend.clear_session()
    words = layers.Input((8,), dtype="int32", name="words")
    table = layers.Embedding(20, 8, name="words_table")

    def normed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    x = normed(table(words), "begin")
    y = ops.reshape(layers.Dense(24, name="qkv")(normed(x, "norm1")), (-1, 8, 4, 3, 2))
    q, k, v = ops.unstack(ops.transpose(y, (3, 0, 2, 1, 4)), axis=0)
    apart = np.arange(8)[None] - np.arange(8)[:, None]
    bias = np.where(apart <= 0, 2.0 ** -np.arange(2, 9, 2)[:, None, None] * apart, -1e9).astype("float32")
    scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 2**-0.5 + bias
    y = ops.transpose(ops.matmul(layers.Softmax(name="shares")(scores), v), (0, 2, 1, 3))
    x = layers.Add(name="sum1")([x, layers.Dense(8, name="mix")(ops.reshape(y, (-1, 8, 8)))])
    y = ops.gelu(layers.Dense(16, name="wide")(normed(x, "norm2")), approximate=True)
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    model = keras.Model(words, _Rows(table, name="scores")(normed(x, "last")))
    fill(model)
    grown(model, 2, "qkv", "mix", "wide")
    make = ported(model, Sloped, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"words": counted(852, 20, 4, 8)}, make, "same")


_QKV = "qkv reshape* transpose* unflatten* permute* unstack* unbind* get_item* slice* mix matmul* shares softmax*"
_BIAS = "add* where* mul* multiply* matmul* shares softmax* sub* abs*"
slip("sloped/thirds-behind-one-another", _QKV, "qkv-order head-layout reshape-order", "channel-order wiring")
slip("sloped/value-before-key", _QKV, "qkv-order", "operand-order wiring")
slip("sloped/slopes-of-eight-heads", _BIAS, "weights-perturbed attention-mask scale", "attention-scale")
slip("sloped/slopes-upwards", _BIAS, "attention-mask scale operand-order", "weights-perturbed block-extra")
slip(
    "sloped/slopes-forgotten", _BIAS, "attention-mask block-missing bias-missing residual-missing", "weights-perturbed"
)
slip("sloped/future-seen", _BIAS, "attention-mask", "block-missing weights-perturbed")
slip("sloped/words-not-normed", "begin words words_table norm1", "block-missing", "wiring")
slip("sloped/sum-behind-the-norm", "sum1 add* norm1 mix", "wiring residual-order", "operand-order block-extra")
slip("sloped/gelu-exact", "wide gelu*", "gelu-approx")
slip("sloped/last-norm-forgotten", "last scores linear* sum2 add*", "block-missing", "wiring")
ways("sloped", "attention-of-torch", "scores-by-name")
one_layer("sloped", "slopes-forgotten+future-seen")
neighbours("sloped", "value-before-key+slopes-of-eight-heads", "gelu-exact+last-norm-forgotten")
