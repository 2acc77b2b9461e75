"""Reading on: a decoder that knows what is padding, and a summary that copies words from its source."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
    Scores,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.ninth.registry import both_ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, ported, rewritten


class Chatter(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places = nn.Embedding(20, 6), nn.Embedding(12, 8)
        self.enter, self.leave = nn.Linear(6, 8, bias=False), nn.Linear(8, 6, bias=False)
        self.norm1, self.norm2, self.last = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)

    def looked(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if "one-projection" in self.ways:
            own = (self.query, self.key, self.value)
            weight, bias = torch.cat([one.weight for one in own]), torch.cat([one.bias for one in own])
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=2)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in (q, k, v))
        seen = torch.ones(7, 7).tril() * mask[:, None, None]
        if "padding-seen" in self.ways:
            seen = torch.ones(7, 7).tril().expand(len(x), 1, 7, 7)
        hidden = -1e9 * (1 - seen)
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=hidden)
        else:
            q = q * 4**-0.5
            scores = q @ k.mT / 2 if "scaled-twice" in self.ways else q @ k.mT
            y = F.softmax(scores + hidden, dim=3) @ v
        return self.mix(y.transpose(1, 2).flatten(2))

    def forward(self, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if "padding-has-places" in self.ways:
            places = torch.arange(7).expand(len(words), -1)
        else:
            places = mask.cumsum(1) * mask - 1
        x = self.enter(self.words(words))
        x = x + self.places(places + (1 if "places-from-one" in self.ways else 2))
        if "norms-behind" in self.ways:
            x = self.norm1(x + self.looked(x, mask))
            x = self.norm2(x + self.narrow(F.relu(self.wide(x))))
        else:
            x = x + self.looked(self.norm1(x), mask)
            y = self.wide(self.norm2(x))
            x = x + self.narrow(F.gelu(y) if "gelu-for-relu" in self.ways else F.relu(y))
        x = self.leave(x if "last-norm-forgotten" in self.ways else self.last(x))
        return x @ self.words.weight.T


@network
def chatter() -> Pair:
    """OPT: narrow words, places from two that padding has none of, norms ahead, ReLUs, the words' table for scores."""
    keras.backend.clear_session()
    words, mask = (layers.Input((7,), dtype="int32", name=name) for name in ("words", "mask"))
    table = layers.Embedding(20, 6, name="words_table")
    places = layers.Embedding(12, 8, name="places")(ops.cumsum(mask, axis=1) * mask + 1)
    x = layers.Add(name="placed")([layers.Dense(8, use_bias=False, name="enter")(table(words)), places])

    def norm(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-5, name=name)(x)

    y = norm(x, "norm1")
    heads = [layers.Reshape((7, 2, 4), name=f"{name}_heads")(layers.Dense(8, name=name)(y))
             for name in ("query", "key", "value")]  # fmt: skip
    q, k, v = (ops.transpose(part, (0, 2, 1, 3)) for part in heads)
    past = ops.expand_dims(ops.cast(mask, "float32"), (1, 2)) * ops.tril(ops.ones((7, 7)))
    shares = layers.Softmax(name="shares")(ops.matmul(q * 4**-0.5, ops.transpose(k, (0, 1, 3, 2))) - 1e9 * (1 - past))
    y = layers.Reshape((7, 8), name="joined")(ops.transpose(ops.matmul(shares, v), (0, 2, 1, 3)))
    x = layers.Add(name="sum1")([x, layers.Dense(8, name="mix")(y)])
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="relu", name="wide")(norm(x, "norm2")))
    x = norm(layers.Add(name="sum2")([x, y]), "last")
    x = Scores(table, name="scores")(layers.Dense(6, use_bias=False, name="leave")(x))
    model = keras.Model([words, mask], x)
    fill(model)
    grown(model, 2, "query", "key", "enter")
    there = counted(0, 2, 3, 7, least=1)
    there[0, :3] = there[2, :1] = 0
    inputs = {"words": counted(1411, 20, 3, 7, least=1) * there, "mask": there}
    return Pair(model, inputs, ported(model, Chatter, rename=lambda name: name.removesuffix("_table")), "same")


_LOOK = "query key value *_heads shares softmax* matmul* mul* sub* add* transpose* mT* tril* div* truediv* joined mix"
_PLACE = "places placed norm1 add* cumsum* mul* sub* arange* expand*"
slip("chatter/places-from-one", _PLACE, "embedding-offset", "shift weights-perturbed")
slip("chatter/padding-has-places", _PLACE, "embedding-offset block-missing", "shift wiring attention-mask")
slip("chatter/padding-seen", _LOOK, "attention-mask", "wiring")
slip("chatter/scaled-twice", _LOOK, "attention-scale", "block-extra")
slip("chatter/norms-behind", "norm1 norm2 sum1 sum2 add* query key value wide", "residual-order wiring",
     "operand-order")  # fmt: skip
slip("chatter/gelu-for-relu", "wide relu* gelu* narrow", "activation-kind")
slip("chatter/last-norm-forgotten", "last leave", "block-missing")
defect("chatter/key-for-query", "query key matmul*", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("query", "key")
)
defect("chatter/value-as-it-lies", "value matmul*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("value.weight", lambda weight: weight.T)
)
ways("chatter", "one-projection", "looked-by-torch")
one_layer("chatter", "padding-seen+scaled-twice", "scaled-twice+value-as-it-lies")
neighbours("chatter", "places-from-one+padding-seen", "gelu-for-relu+last-norm-forgotten")


# --- copying ------------------------------------------------------------------------------------------------


class Copying(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(14, 5)
        self.read, self.write = nn.LSTM(5, 3, batch_first=True, bidirectional=True), nn.LSTM(5, 6, batch_first=True)
        self.start_h, self.start_c = nn.Linear(6, 6), nn.Linear(6, 6)
        self.heard, self.asked = nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.energy, self.mix = nn.Linear(4, 1, bias=False), nn.Linear(12, 6)
        self.vocabulary, self.gate = nn.Linear(6, 14), nn.Linear(17, 1)

    def started(self, states: torch.Tensor, dense: nn.Linear) -> torch.Tensor:
        both = [states[1], states[0]] if "backward-state-first" in self.ways else [states[0], states[1]]
        return F.relu(dense(torch.cat(both, dim=1)))

    def looked(self, x: torch.Tensor, y: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        heard = x @ self.heard.weight.T + self.heard.bias if "heard-by-a-product" in self.ways else self.heard(x)
        both = heard[:, None] + self.asked(y)[:, :, None]
        scores = self.energy(both if "tanh-forgotten" in self.ways else torch.tanh(both))[..., 0]
        if "padding-copied" not in self.ways:
            scores = scores.masked_fill(there[:, None] == 0, -1e9)
        return F.softmax(scores, dim=1 if "shared-among-questions" in self.ways else 2)

    def forward(self, source: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        if "loops-by-hand" in self.ways:
            found = self.words(source)
            x, (h, c) = both_ways(self.read, found), self.read(found)[1]
        else:
            x, (h, c) = self.read(self.words(source))
        start = self.started(h, self.start_h), self.started(c, self.start_c)
        start = start[::-1] if "states-exchanged" in self.ways else start
        given = self.words(told)
        y = self.write(given, (start[0][None], start[1][None]))[0]
        shares = self.looked(x, y, (source != 0).float())
        context = shares @ x
        both = [context, y] if "context-first" in self.ways else [y, context]
        words = self.vocabulary(torch.tanh(self.mix(torch.cat(both, dim=2))))
        words = words if "words-not-shared-out" in self.ways else F.softmax(words, dim=2)
        gate = torch.sigmoid(self.gate(torch.cat([context, y, given], dim=2)))
        if "copied-by-index" in self.ways:
            at = source.long()[:, None].expand(-1, 4, -1)
            copied = torch.zeros_like(words).scatter_add(2, at, shares)
        else:
            copied = shares @ F.one_hot(source.long(), 14).float()
        gate = 1 - gate if "gate-for-copies" in self.ways else gate
        return gate * words + (1 - gate) * copied


@network
def copying() -> Pair:
    """A pointer-generator: what was read both ways, a look at it for each word told, and words made or copied."""
    keras.backend.clear_session()
    source, told = layers.Input((6,), dtype="int32", name="source"), layers.Input((4,), dtype="int32", name="told")
    table = layers.Embedding(14, 5, name="words")
    reader = layers.Bidirectional(layers.LSTM(3, return_sequences=True, return_state=True), name="read")
    x, h1, c1, h2, c2 = reader(table(source))
    h = layers.Dense(6, activation="relu", name="start_h")(layers.Concatenate(name="both_h")([h1, h2]))
    c = layers.Dense(6, activation="relu", name="start_c")(layers.Concatenate(name="both_c")([c1, c2]))
    given = table(told)
    y = layers.LSTM(6, return_sequences=True, name="write")(given, initial_state=[h, c])
    heard = ops.expand_dims(layers.Dense(4, name="heard")(x), 1)
    asked = ops.expand_dims(layers.Dense(4, use_bias=False, name="asked")(y), 2)
    scores = layers.Dense(1, use_bias=False, name="energy")(ops.tanh(heard + asked))
    padding = ops.cast(ops.equal(source, 0), "float32")
    scores = layers.Reshape((4, 6), name="scores")(scores) - 1e9 * ops.expand_dims(padding, 1)
    shares = layers.Softmax(name="shares")(scores)
    context = ops.matmul(shares, x)
    z = layers.Dense(6, activation="tanh", name="mix")(layers.Concatenate(name="told_both")([y, context]))
    made = layers.Dense(14, activation="softmax", name="vocabulary")(z)
    gate = layers.Concatenate(name="known")([context, y, given])
    gate = layers.Dense(1, activation="sigmoid", name="gate")(gate)
    copied = ops.matmul(shares, ops.one_hot(source, 14))
    model = keras.Model([source, told], layers.Add(name="words_out")([gate * made, (1 - gate) * copied]))
    fill(model)
    grown(model, 3, "heard", "energy", "asked", "vocabulary", "gate")
    given_words = counted(1412, 14, 3, 6, least=1)
    given_words[0, 4:] = given_words[2, 3:] = 0
    return Pair(
        model, {"source": given_words, "told": counted(1413, 14, 3, 4, least=1)}, ported(model, Copying), "same"
    )


_SHARE = "shares scores softmax* energy tanh* masked_fill* eq* ne* sub* mul* expand_dims* get_item* select* slice*"
_START = "start_h start_c both_h both_c cat* relu* write"
_MIXED = "gate mul* multiply* sub* rsub* subtract* add* words_out sigmoid*"
slip("copying/tanh-forgotten", _SHARE, "activation-missing", "block-missing")
slip("copying/padding-copied", _SHARE, "attention-mask", "wiring")
slip("copying/shared-among-questions", _SHARE, "softmax-axis", "operation-kind")
slip("copying/backward-state-first", _START, "concat-order", "operand-order wiring rnn-direction")
slip("copying/states-exchanged", _START, "wiring operand-order", "weights-swapped")
slip("copying/context-first", "told_both cat* mix", "concat-order", "operand-order wiring")
slip("copying/words-not-shared-out", "vocabulary softmax* mul* multiply*", "logits activation-missing", "block-missing")
slip("copying/gate-for-copies", _MIXED, "operand-order wiring block-extra", "operation-kind")
ways("copying", "copied-by-index", "heard-by-a-product", "loops-by-hand")
one_layer("copying", "tanh-forgotten+padding-copied", "backward-state-first+states-exchanged")
neighbours("copying", "context-first+words-not-shared-out")
