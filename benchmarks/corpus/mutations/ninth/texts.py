"""Texts: a sentence in another language, an answer in a passage, and which word depends on which."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import (
    both_ways,
    defect,
    neighbours,
    network,
    one_layer,
    regated,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten


class _Look(nn.Module):
    """Keras' MultiHeadAttention of two heads, and what may be wrong with it."""

    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__()
        self.ways = ways
        self.query, self.key, self.value, self.attention_output = (nn.Linear(8, 8) for _ in range(4))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (2, 4)).transpose(1, 2)

    def forward(self, x: torch.Tensor, seen: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if "looked-by-torch" in self.ways:
            parts = (self.query, self.key, self.value)
            weight, bias = torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
            hidden = None if mask is None else ~mask.expand(len(x), 2, x.shape[1], -1).flatten(0, 1)
            out = self.attention_output
            given = (x.transpose(0, 1), seen.transpose(0, 1), seen.transpose(0, 1))
            return F.multi_head_attention_forward(
                *given, 8, 2, weight, bias, None, None, False, 0.0, out.weight, out.bias, False, attn_mask=hidden
            )[0].transpose(0, 1)
        q, k, v = self.heads(self.query(x)), self.heads(self.key(seen)), self.heads(self.value(seen))
        scale = 8**-0.5 if "scaled-by-the-whole-width" in self.ways else 0.5
        y = F.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        return self.attention_output(
            (y if "heads-not-turned-back" in self.ways else y.transpose(1, 2)).reshape(x.shape)
        )


class Spanish(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.source, self.target = nn.Embedding(15, 8), nn.Embedding(13, 8)
        self.look, self.past, self.across = (_Look(ways) for _ in range(3))
        for i in range(1, 6):
            self.add_module(f"norm{i}", nn.LayerNorm(8, eps=1e-6))
        self.wide1, self.narrow1, self.wide2, self.narrow2 = (nn.Linear(n, 20 - n) for n in (8, 12, 8, 12))
        self.out = nn.Linear(8, 13)

    def placed(self, x: torch.Tensor) -> torch.Tensor:
        x = x if "words-unscaled" in self.ways else x * 8**0.5
        angles = torch.arange(x.shape[1])[:, None] * 10000 ** -(torch.arange(4) / 4)
        both = [angles.sin(), angles.cos()]
        return x + (torch.stack(both, 2).flatten(1) if "sines-and-cosines-in-turn" in self.ways else torch.cat(both, 1))

    def normed(self, i: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.get_submodule(f"norm{i}")(x + y)

    def forward(self, english: torch.Tensor, spanish: torch.Tensor) -> torch.Tensor:
        there = (english != 0)[:, None, None]
        inside = torch.ones_like(there) if "padding-attended" in self.ways else there
        x = self.placed(self.source(english))
        x = self.normed(1, x, self.look(x, x, ~inside if "mask-turned-round" in self.ways else inside))
        x = self.normed(2, x, self.narrow1(F.relu(self.wide1(x))))
        y = self.placed(self.target(spanish))
        past = torch.ones(6, 6, dtype=torch.bool).tril(1 if "next-word-seen" in self.ways else 0)[None, None]
        y = self.normed(3, y, self.past(y, y, past))
        z = self.across(y, x, None if "padding-read-across" in self.ways else there)
        y = self.normed(4, y, z)
        return self.out(self.normed(5, y, self.narrow2(F.relu(self.wide2(y)))))


@network
def spanish() -> Pair:
    """The Transformer of TensorFlow's tutorial: all sines before all cosines, two masks, norms behind the sums."""
    keras.backend.clear_session()
    english, told = layers.Input((7,), dtype="int32", name="english"), layers.Input((6,), dtype="int32", name="spanish")

    def placed(ids: keras.KerasTensor, words: int, name: str) -> keras.KerasTensor:
        angles = np.arange(ids.shape[1])[:, None] / 10000 ** (np.arange(4) / 4)
        places = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")
        return layers.Embedding(words, 8, name=name)(ids) * 8**0.5 + places

    def normed(x: keras.KerasTensor, y: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.LayerNormalization(epsilon=1e-6, name=f"norm{i}")(layers.Add(name=f"sum{i}")([x, y]))

    def fed_forward(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.Dense(8, name=f"narrow{i}")(layers.Dense(12, activation="relu", name=f"wide{i}")(x))

    look, past, across = (layers.MultiHeadAttention(2, 4, name=name) for name in ("look", "past", "across"))
    there = ops.not_equal(english, 0)[:, None]
    x = placed(english, 15, "source")
    x = normed(x, look(x, x, attention_mask=there), 1)
    x = normed(x, fed_forward(x, 1), 2)
    y = placed(told, 13, "target")
    y = normed(y, past(y, y, use_causal_mask=True), 3)
    y = normed(y, across(y, x, attention_mask=there), 4)
    model = keras.Model([english, told], layers.Dense(13, name="out")(normed(y, fed_forward(y, 2), 5)))
    fill(model)
    for name in ("source", "target"):
        table = model.get_layer(name).embeddings
        table.assign(table * 0.6)
    given = counted(961, 15, 3, 7, least=1)
    given[0, 4:], given[1, 6:], given[2, 5:] = 0, 0, 0
    make = ported(model, Spanish)
    return Pair(model, {"english": given, "spanish": counted(962, 13, 3, 6, least=1)}, make, "same")


_SEEN, _LOOKS = "look sum1 norm1 ones_like*", "look past across"
_WORDS = "source target mul* multiply* add* stack* cat* flatten*"
slip("spanish/words-unscaled", _WORDS, "embedding-scale", "scale block-missing")
slip(
    "spanish/sines-and-cosines-in-turn", _WORDS, "concat-order reshape-order", "operation-kind weights-perturbed wiring"
)
slip("spanish/padding-attended", _SEEN, "attention-mask", "block-missing")
slip("spanish/mask-turned-round", _SEEN, "attention-mask", "block-extra")
slip("spanish/next-word-seen", "past sum3 norm3", "attention-mask", "block-missing")
slip("spanish/padding-read-across", "across sum4 norm4", "attention-mask", "block-missing")
slip("spanish/scaled-by-the-whole-width", _LOOKS, "attention-scale", "scale")
slip("spanish/heads-not-turned-back", _LOOKS, "head-layout reshape-order", "wiring")
defect("spanish/key-for-query", "look.query look.key look", "qkv-order", "weights-perturbed wiring operand-order")(
    exchanged("look.query", "look.key")
)
defect("spanish/norm-eps-of-keras", "norm?", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("spanish", "looked-by-torch")
one_layer("spanish", "words-unscaled+sines-and-cosines-in-turn", "scaled-by-the-whole-width+heads-not-turned-back")
neighbours("spanish", "next-word-seen+padding-read-across")


# --- an answer ----------------------------------------------------------------------------------------------


class Answer(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.read = nn.LSTM(5, 4, batch_first=True, bidirectional=True)
        self.alike, self.modelled = nn.Linear(24, 1), nn.LSTM(32, 4, batch_first=True, bidirectional=True)
        self.start = nn.Linear(40, 1)

    def run(self, lstm: nn.LSTM, x: torch.Tensor) -> torch.Tensor:
        return both_ways(lstm, x) if "loops-by-hand" in self.ways else lstm(x)[0]

    def likeness(self, c: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        if "likeness-in-three-parts" in self.ways:
            one, two, three = self.alike.weight[0].split(8)
            return (c @ one)[:, :, None] + (q @ two)[:, None] + (c * three) @ q.transpose(1, 2) + self.alike.bias
        both = [c[:, :, None].expand(-1, -1, 5, -1), q[:, None].expand(-1, 7, -1, -1)]
        return self.alike(torch.cat([*(both[::-1] if "question-first" in self.ways else both), both[0] * both[1]], 3))[
            ..., 0
        ]

    def forward(self, passage: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        c, q = self.run(self.read, passage), self.run(self.read, question)
        scores = self.likeness(c, q)
        told = F.softmax(scores, dim=1 if "shared-along-the-passage" in self.ways else 2) @ q
        most = scores.mean(2) if "mean-for-largest" in self.ways else scores.amax(2)
        whole = (F.softmax(most, dim=1)[:, None] @ c).expand(-1, 7, -1)
        last = whole if "last-product-forgotten" in self.ways else c * whole
        parts = [c, told, last, c * told] if "products-exchanged" in self.ways else [c, told, c * told, last]
        found = torch.cat(parts, dim=2)
        x = self.start(torch.cat([found, self.run(self.modelled, found)], dim=2))[..., 0]
        return x if "start-as-scores" in self.ways else F.softmax(x, dim=1)


@network
def answer() -> Pair:
    """BiDAF: each word of a passage with what the question has for it, and where an answer starts."""
    keras.backend.clear_session()
    passage, question = layers.Input((7, 5), name="passage"), layers.Input((5, 5), name="question")
    read = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="read")
    c, q = read(passage), read(question)
    one, two = ops.repeat(ops.expand_dims(c, 2), 5, axis=2), ops.repeat(ops.expand_dims(q, 1), 7, axis=1)
    both = layers.Concatenate(name="both")([one, two, one * two])
    scores = layers.Reshape((7, 5), name="scores")(layers.Dense(1, name="alike")(both))
    told = ops.matmul(layers.Softmax(name="shares")(scores), q)
    whole = ops.matmul(ops.expand_dims(layers.Softmax(name="shares_whole")(ops.max(scores, axis=2)), 1), c)
    found = layers.Concatenate(name="found")([c, told, c * told, c * whole])
    modelled = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="modelled")(found)
    x = layers.Dense(1, name="start")(layers.Concatenate(name="all")([found, modelled]))
    x = layers.Softmax(name="softmax")(layers.Reshape((7,), name="starts")(x))
    model = keras.Model([passage, question], x)
    fill(model)
    grown(model, 3, "alike", "start")
    inputs = {"passage": 2 * fed(963, 3, 7, 5), "question": 2 * fed(964, 3, 5, 5)}
    return Pair(model, inputs, ported(model, Answer), "same")


_FOUND = "found cat* mul* multiply* matmul* expand* all modelled"
slip("answer/question-first", "both cat* alike expand* repeat*", "concat-order", "operand-order wiring")
slip("answer/shared-along-the-passage", "shares softmax* matmul*", "softmax-axis", "operation-kind")
slip("answer/mean-for-largest", "max* amax* mean* shares_whole softmax*", "pool-kind", "operation-kind")
slip("answer/last-product-forgotten", _FOUND, "block-missing", "wiring residual-missing")
slip("answer/products-exchanged", _FOUND, "concat-order", "operand-order wiring")
slip("answer/start-as-scores", "softmax* start starts", "logits activation-missing", "block-missing")
defect("answer/gates-of-tensorflow", "modelled", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("modelled", 0, 2, 1, 3)
)
ways("answer", "loops-by-hand", "likeness-in-three-parts")
one_layer("answer", "last-product-forgotten+products-exchanged")
neighbours("answer", "shared-along-the-passage+mean-for-largest", "gates-of-tensorflow+start-as-scores")


# --- who depends on whom ------------------------------------------------------------------------------------


class Parser(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.tags = nn.Embedding(17, 5), nn.Embedding(6, 3)
        self.read = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.heads, self.tails = nn.Linear(10, 6), nn.Linear(10, 6)
        self.arcs = nn.ParameterDict({"form": torch.zeros(7, 6)})
        self.kinds = nn.ParameterDict({"form": torch.zeros(3, 7, 7)})

    def one_more(self, x: torch.Tensor) -> torch.Tensor:
        one = torch.zeros_like(x[..., :1]) if "one-more-as-zero" in self.ways else torch.ones_like(x[..., :1])
        return torch.cat([x, one], dim=2)

    def forward(self, words: torch.Tensor, tags: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = [self.words(words), self.tags(tags)]
        x = torch.cat(both[::-1] if "tags-first" in self.ways else both, dim=2)
        x = both_ways(self.read, x) if "loops-by-hand" in self.ways else self.read(x)[0]
        x = torch.cat([x[..., :5], x[..., 5:].flip(1)], dim=2) if "second-half-not-turned-back" in self.ways else x
        slope = 0.01 if "slope-of-torch" in self.ways else 0.1
        heads, tails = F.leaky_relu(self.heads(x), slope), F.leaky_relu(self.tails(x), slope)
        if "heads-for-tails" in self.ways:
            heads, tails = tails, heads
        arcs = self.one_more(tails) @ self.arcs["form"] @ heads.transpose(1, 2)
        arcs = arcs.transpose(1, 2) if "arcs-turned" in self.ways else arcs
        heads, tails = self.one_more(heads), self.one_more(tails)
        if "kinds-in-two-products" in self.ways:
            kinds = (tails[:, None] @ self.kinds["form"] @ heads[:, None].transpose(2, 3)).permute(0, 2, 3, 1)
        else:
            kinds = torch.einsum("bxi,rij,byj->bxyr", tails, self.kinds["form"], heads)
        shares = F.softmax(arcs, dim=1 if "shared-among-the-tails" in self.ways else 2)
        return shares, (kinds * shares[..., None]).sum(2)


class _Arcs(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.form = self.add_weight(name="form", shape=(7, 6))

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        return ops.einsum("bxi,ij,byj->bxy", given[0], self.form, given[1])


class _Kinds(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.form = self.add_weight(name="form", shape=(3, 7, 7))

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        return ops.einsum("bxi,rij,byj->bxyr", given[0], self.form, given[1])


@network
def parser() -> Pair:
    """Dozat and Manning's parser: each word as a head and as a tail, and products of both."""
    keras.backend.clear_session()
    words, tags = (layers.Input((6,), dtype="int32", name=name) for name in ("words", "tags"))
    both = [layers.Embedding(17, 5, name="words_table")(words), layers.Embedding(6, 3, name="tags_table")(tags)]
    x = layers.Concatenate(name="both")(both)
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="read")(x)
    heads, tails = (ops.leaky_relu(layers.Dense(6, name=name)(x), 0.1) for name in ("heads", "tails"))
    more = [layers.Concatenate(name=f"{name}_more")([side, ops.ones_like(side[..., :1])])
            for name, side in (("heads", heads), ("tails", tails))]  # fmt: skip
    arcs = _Arcs(name="arcs")([more[1], heads])
    kinds = _Kinds(name="kinds")([more[1], more[0]])
    shares = layers.Softmax(name="shares")(arcs)
    model = keras.Model([words, tags], [shares, ops.sum(kinds * ops.expand_dims(shares, 3), axis=2)])
    fill(model)
    make = ported(model, Parser, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"words": counted(965, 17, 3, 6), "tags": counted(966, 6, 3, 6)}, make, "same")


_ARCS = "arcs arcs.* matmul* shares softmax* heads_more tails_more cat* transpose*"
slip("parser/tags-first", "both cat* read", "concat-order", "operand-order channel-order")
slip("parser/second-half-not-turned-back", "read flip* cat* heads tails", "rnn-direction",
     "axis-permutation shift block-extra")  # fmt: skip
slip("parser/slope-of-torch", "leaky_relu* heads tails", "activation-param")
slip(
    "parser/heads-for-tails",
    "heads tails leaky_relu* kinds einsum* " + _ARCS,
    "wiring weights-swapped",
    "operand-order",
)
slip("parser/one-more-as-zero", "kinds* ones_like* zeros_like* " + _ARCS, "bias-missing block-missing", "scale")
slip("parser/arcs-turned", _ARCS, "axis-permutation", "wiring block-extra softmax-axis")
slip("parser/shared-among-the-tails", "shares softmax*", "softmax-axis", "operation-kind")
defect("parser/gates-turned-round", "read", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("read", 1, 0, 2, 3)
)
defect("parser/cell-reads-twice", "read", "rnn-bias", "weights-perturbed")(
    rewritten("read.bias_hh_l0*", lambda bias: bias + torch.tensor([0.0, 1, 0, 0]).repeat_interleave(5))
)
ways("parser", "loops-by-hand", "kinds-in-two-products")
one_layer("parser", "gates-turned-round+cell-reads-twice", "arcs-turned+shared-among-the-tails")
neighbours("parser", "tags-first+slope-of-torch")
