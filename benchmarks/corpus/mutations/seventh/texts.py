"""Texts: a light encoder, whether one sentence follows from another, and words about a picture."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    counted,
    epsilon,
    exchanged,
    fed,
    ported,
    rewritten,
)


class Attention(Port):
    """As Keras' layer of many heads has it; names of ways begin with its place."""

    def __init__(self, ways: frozenset[str], place: str) -> None:
        super().__init__(ways)
        self.place = place
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.attention_output = nn.Linear(8, 8)

    def told(self, name: str) -> bool:
        return f"{self.place}-{name}" in self.ways

    def forward(self, x: torch.Tensor, given: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        if self.told("in-one-product") and x is given:
            parts = (self.query, self.key, self.value)
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            q, k, v = F.linear(x, weight, bias).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (part(y).unflatten(2, (2, 4)).transpose(1, 2)
                       for part, y in ((self.query, x), (self.key, given), (self.value, given)))  # fmt: skip
        if self.told("of-torch"):
            y = F.scaled_dot_product_attention(q, k, v, seen)
        else:
            scores = q @ k.transpose(2, 3)
            scores = scores if self.told("unscaled") else scores / 2
            if seen is not None:
                scores = scores.masked_fill(~seen, -1e9)
            y = F.softmax(scores, dim=-1) @ v
        return self.attention_output(y.transpose(1, 2).flatten(2))


class Light(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.kinds, self.places = nn.Embedding(30, 5), nn.Embedding(2, 5), nn.Embedding(12, 5)
        self.norm, self.widen = nn.LayerNorm(5, eps=1e-6), nn.Linear(5, 8)
        self.att, self.norm1, self.norm2 = Attention(ways, "att"), nn.LayerNorm(8, eps=1e-6), nn.LayerNorm(8, eps=1e-6)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.pooler, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def layer(self, x: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        if "norms-before" in self.ways:
            y = self.norm1(x)
            x = x + self.att(y, y, seen)
            return x + self.narrow(F.gelu(self.wide(self.norm2(x)), approximate="tanh"))
        y = self.att(x, x, seen)
        x = self.norm1(y if "words-not-added" in self.ways else x + y)
        return self.norm2(
            x + self.narrow(F.gelu(self.wide(x), approximate="none" if "gelu-exact" in self.ways else "tanh"))
        )

    def forward(self, words: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        places = torch.arange(9) + (2 if "places-from-two" in self.ways else 0)
        x = self.words(words) + self.places(places)
        x = x if "kinds-forgotten" in self.ways else x + self.kinds(kinds)
        x = self.widen(x if "words-not-normed" in self.ways else self.norm(x))
        seen = None if "padding-attended" in self.ways else (words > 0)[:, None, None]
        for _ in range(1 if "one-layer" in self.ways else 2):
            x = self.layer(x, seen)
        x = x.mean(1) if "mean-of-the-words" in self.ways else x[:, -1] if "last-word-pooled" in self.ways else x[:, 0]
        x = self.pooler(x)
        return self.head(x if "pooler-linear" in self.ways else torch.tanh(x))


class _Places(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="embeddings", shape=(12, shape[-1]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table[: x.shape[1]]


@network
def light() -> Pair:
    """ALBERT: narrow tables, and one layer that is gone through twice."""
    keras.backend.clear_session()
    words, kinds = (layers.Input((9,), dtype="int32", name=name) for name in ("words", "kinds"))
    tables = [
        layers.Embedding(n, 5, name=f"{name}")(x)
        for n, name, x in ((30, "words_table", words), (2, "kinds_table", kinds))
    ]
    x = _Places(name="places")(layers.Add(name="tables")(tables))
    x = layers.Dense(8, name="widen")(layers.LayerNormalization(epsilon=1e-6, name="norm")(x))
    att, wide = layers.MultiHeadAttention(2, 4, name="att"), layers.Dense(16, name="wide")
    norm1, norm2 = (layers.LayerNormalization(epsilon=1e-6, name=f"norm{i}") for i in (1, 2))
    narrow, seen = layers.Dense(8, name="narrow"), (words > 0)[:, None]
    for _ in range(2):
        x = norm1(x + att(x, x, attention_mask=seen))
        x = norm2(x + narrow(ops.gelu(wide(x), approximate=True)))
    x = layers.Dense(8, activation="tanh", name="pooler")(x[:, 0])
    model = keras.Model([words, kinds], layers.Dense(3, name="head")(x))
    fill(model)
    grown(model, 3, "narrow")
    grown(model, 0.5, "pooler")
    inputs = {"words": counted(116, 30, 4, 9, least=1), "kinds": np.repeat([[0] * 5 + [1] * 4], 4, 0).astype(np.int32)}
    inputs["words"][1, 6:], inputs["words"][2, 4:], inputs["words"][3, 8:] = 0, 0, 0
    return Pair(model, inputs, ported(model, Light, rename=lambda name: name.removesuffix("_table")), "same")


_TABLES = "words words_table kinds kinds_table places tables add add_1 add_? norm widen"
_SHARES, _SUMS = "att greater get_item", "att#? att.attention_output norm1 norm2 add add_?"
slip("light/kinds-forgotten", _TABLES, "block-missing residual-missing", "embedding-offset wiring bias-missing")
slip("light/places-from-two", _TABLES, "embedding-offset", "shift weights-perturbed")
slip("light/words-not-normed", _TABLES, "block-missing", "wiring")
slip("light/padding-attended", _SHARES, "attention-mask", "block-missing")
slip("light/gelu-exact", "wide gelu gelu_1", "gelu-approx")
slip(
    "light/norms-before",
    "wide " + _SUMS,
    "residual-order wiring",
    "operand-order block-missing block-extra operation-kind",
)
slip("light/words-not-added", _SUMS, "residual-missing", "block-missing wiring")
slip("light/one-layer", "*#1 gelu_1 norm2 slice get_item_1 pooler", "block-missing", "wiring")
slip("light/mean-of-the-words", "get_item* slice* mean pooler", "pool-kind", "rnn-last-step operation-kind")
slip("light/last-word-pooled", "get_item* slice* pooler", "rnn-last-step", "wiring embedding-offset pool-kind")
slip("light/pooler-linear", "pooler tanh head", "activation-missing", "block-missing")
defect("light/pooler-unturned", "pooler", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("pooler.weight", lambda weight: weight.T)
)
defect("light/norm-eps-of-keras", "norm norm? norm?#*", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("light", "att-in-one-product", "att-of-torch")
one_layer("light", "places-from-two+kinds-forgotten", "pooler-linear+pooler-unturned")
neighbours("light", "gelu-exact+words-not-added", "mean-of-the-words+pooler-linear")


# --- what follows -------------------------------------------------------------------------------------------


class Follows(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.attend = nn.Embedding(25, 6), nn.Linear(6, 8)
        self.compare, self.head = nn.Linear(24, 10), nn.Linear(20, 3)

    def aligned(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self.attend(a), self.attend(b)
        x, y = (x, y) if "likeness-not-rectified" in self.ways else (F.relu(x), F.relu(y))
        likeness = x @ y.transpose(1, 2)
        likeness = likeness / 8**0.5 if "likeness-scaled" in self.ways else likeness
        for_a = F.softmax(likeness, dim=2)
        for_b = for_a.transpose(1, 2) if "shared-out-once" in self.ways else F.softmax(likeness.transpose(1, 2), dim=2)
        if "aligned-by-name" in self.ways:
            return torch.einsum("bpq,bqe->bpe", for_a, b), torch.einsum("bqp,bpe->bqe", for_b, a)
        return for_a @ b, for_b @ a

    def compared(self, x: torch.Tensor, there: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        less = there - x if "difference-turned" in self.ways else x - there
        less = less.abs() if "difference-unsigned" in self.ways else less
        parts = [x, there, less, x * there]
        if "product-before-difference" in self.ways:
            parts[2], parts[3] = parts[3], parts[2]
        y = F.relu(self.compare(torch.cat(parts, dim=-1)))
        y = y if "padding-counted" in self.ways else y * own[:, :, None]
        return y.mean(1) if "mean-of-the-words" in self.ways else y.sum(1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        a, b = self.words(first), self.words(second)
        for_a, for_b = self.aligned(a, b)
        x, y = self.compared(a, for_a, (first > 0).float()), self.compared(b, for_b, (second > 0).float())
        return self.head(torch.cat([y, x] if "second-first" in self.ways else [x, y], dim=-1))


@network
def follows() -> Pair:
    """Parikh's alignment: each word beside what the other sentence has for it, compared, summed."""
    keras.backend.clear_session()
    first, second = (layers.Input((7,), dtype="int32", name=name) for name in ("first", "second"))
    words, attend = layers.Embedding(25, 6, name="words"), layers.Dense(8, activation="relu", name="attend")
    a, b = words(first), words(second)
    likeness = layers.Dot(axes=2, name="likeness")([attend(a), attend(b)])
    for_a = layers.Dot(axes=(2, 1), name="for_a")([layers.Softmax(name="share_a")(likeness), b])
    turned = layers.Permute((2, 1), name="turned")(likeness)
    for_b = layers.Dot(axes=(2, 1), name="for_b")([layers.Softmax(name="share_b")(turned), a])
    compare, found = layers.Dense(10, activation="relu", name="compare"), []
    for given, x, there in ((first, a, for_a), (second, b, for_b)):
        y = compare(layers.Concatenate(name=f"parts_{len(found)}")([x, there, x - there, x * there]))
        found.append(ops.sum(y * ops.expand_dims(ops.cast(given > 0, "float32"), 2), axis=1))
    model = keras.Model([first, second], layers.Dense(3, name="head")(layers.Concatenate(name="both")(found)))
    fill(model)
    words.embeddings.assign(words.embeddings * 2)
    inputs = {"first": counted(117, 25, 4, 7, least=1), "second": counted(118, 25, 4, 7, least=1)}
    inputs["first"][1, 5:], inputs["second"][2, 4:] = 0, 0
    return Pair(model, inputs, ported(model, Follows), "same")


_ALIGNED = "attend attend#* relu* likeness turned share_? for_? matmul* div* softmax* transpose* einsum*"
_COMPARED = "subtract* sub* abs* multiply* mul* neg* parts_* cat* compare compare#* relu* sum* mean*"
slip("follows/likeness-not-rectified", _ALIGNED, "activation-missing", "block-missing")
slip("follows/likeness-scaled", _ALIGNED, "attention-scale block-extra", "scale")
slip("follows/shared-out-once", _ALIGNED, "softmax-axis", "wiring block-missing axis-permutation")
slip("follows/difference-turned", _COMPARED, "operand-order scale")
slip("follows/difference-unsigned", _COMPARED, "activation-extra", "block-extra activation-kind operation-kind")
slip("follows/product-before-difference", _COMPARED, "concat-order", "operand-order")
slip("follows/mean-of-the-words", _COMPARED, "pool-kind scale", "operation-kind")
slip("follows/padding-counted", _COMPARED, "attention-mask block-missing", "operation-kind")
slip("follows/second-first", "both cat* head", "concat-order", "operand-order wiring")
ways("follows", "aligned-by-name")
one_layer("follows", "difference-turned+product-before-difference", "likeness-scaled+shared-out-once")
neighbours("follows", "padding-counted+second-first", "likeness-not-rectified+difference-unsigned")


# --- words about a picture ----------------------------------------------------------------------------------


class Words(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places, self.seen = nn.Embedding(20, 8), nn.Embedding(12, 8), nn.Linear(5, 8)
        self.own, self.cross = Attention(ways, "own"), Attention(ways, "cross")
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(8, eps=1e-3) for _ in range(3))
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scores = nn.ParameterDict({"bias": torch.zeros(20)})

    def forward(self, words: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        x = x if "words-not-scaled" in self.ways else x * 8**0.5
        places = torch.arange(7) + int("places-from-one" in self.ways)
        x = x + self.places(places)
        past = torch.ones(7, 7, dtype=torch.bool).tril(1 if "next-word-seen" in self.ways else 0)
        past = None if "future-seen" in self.ways else past
        x = self.norm1(x + self.own(x, x, past))
        grid = self.seen(grid.flatten(1, 2))
        grid = grid if "picture-not-bent" in self.ways else torch.tanh(grid)
        y = self.cross(x, x if "picture-not-looked-at" in self.ways else grid, None)
        x = self.norm2(y if "picture-replaces-words" in self.ways else x + y)
        y = self.wide(x)
        y = self.narrow(F.gelu(y) if "gelu-for-relu" in self.ways else F.relu(y))
        x = self.norm3(x + y)
        x = F.linear(x, self.words.weight)
        return x if "scores-without-bias" in self.ways else x + self.scores["bias"]


class _Scores(layers.Layer):  # type: ignore[misc]
    def __init__(self, table: layers.Embedding, **own: str) -> None:
        super().__init__(**own)
        self.rows = lambda: table.embeddings  # not a layer of this one, whose weights would be carried twice

    def build(self, shape: tuple[int, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=(20,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.matmul(x, ops.transpose(self.rows())) + self.bias


@network
def words() -> Pair:
    """A caption's next words: what was said, a look at a picture's grid, and the words' own table for scores."""
    keras.backend.clear_session()
    said, grid = layers.Input((7,), dtype="int32", name="words"), layers.Input((3, 2, 5), name="grid")
    table = layers.Embedding(20, 8, name="words_table")
    x = _Places(name="places")(layers.Rescaling(8**0.5, name="scaled")(table(said)))
    x = layers.Add(name="sum1")([x, layers.MultiHeadAttention(2, 4, name="own")(x, x, use_causal_mask=True)])
    x = layers.LayerNormalization(name="norm1")(x)
    y = layers.Dense(8, activation="tanh", name="seen")(layers.Reshape((6, 5), name="list")(grid))
    x = layers.Add(name="sum2")([x, layers.MultiHeadAttention(2, 4, name="cross")(x, y)])
    x = layers.LayerNormalization(name="norm2")(x)
    y = layers.Dense(8, name="narrow")(layers.Dense(16, activation="relu", name="wide")(x))
    x = layers.LayerNormalization(name="norm3")(layers.Add(name="sum3")([x, y]))
    model = keras.Model([said, grid], _Scores(table, name="scores")(x))
    fill(model)
    inputs = {"words": counted(119, 20, 3, 7), "grid": fed(120, 3, 3, 2, 5)}
    return Pair(model, inputs, ported(model, Words, rename=lambda name: name.removesuffix("_table")), "same")


_OWN = "own own.* sum1 add* masked_fill* softmax* div* matmul* tril norm1"
_CROSS = "cross cross.* sum2 add* softmax* div* matmul* norm2"
slip("words/words-not-scaled", "words words_table multiply mul places add", "embedding-scale scale block-missing")
slip("words/places-from-one", "places embedding* add", "embedding-offset", "shift weights-perturbed")
slip("words/next-word-seen", _OWN, "attention-mask", "shift")
slip("words/future-seen", _OWN, "attention-mask", "block-missing")
slip("words/own-unscaled", _OWN, "attention-scale", "scale")
slip("words/picture-not-bent", "seen tanh " + _CROSS, "activation-missing", "block-missing")
slip("words/picture-not-looked-at", _CROSS, "wiring", "block-missing operand-order")
slip("words/picture-replaces-words", _CROSS, "residual-missing", "block-missing wiring")
slip("words/gelu-for-relu", "wide gelu relu narrow", "activation-kind")
slip("words/scores-without-bias", "scores add* linear", "bias-missing", "block-missing weights-not-loaded")
defect("words/value-for-key", "cross cross.*", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("cross.key", "cross.value")
)
defect("words/norm-eps-of-torch", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("words/heads-in-turn", "own own.*", "head-layout", "channel-order weights-perturbed kernel-layout")(
    rewritten("own.query.*", lambda w: w.unflatten(0, (4, 2)).transpose(0, 1).flatten(0, 1))
)
ways("words", "own-in-one-product", "cross-of-torch")
one_layer("words", "own-unscaled+next-word-seen", "picture-replaces-words+value-for-key")
neighbours("words", "words-not-scaled+places-from-one", "gelu-for-relu+picture-replaces-words")
