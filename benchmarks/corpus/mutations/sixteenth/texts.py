"""Texts: a bag of words and pairs, a word between what is left and right of it, and the best match of each word."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, ported, rewritten


class Gist(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.table = nn.Embedding(32, 6, padding_idx=0)
        self.hidden, self.label = nn.Linear(6, 6), nn.Linear(6, 5)

    def bag(self, ids: torch.Tensor) -> torch.Tensor:
        if "bag-by-torch" in self.ways:
            return F.embedding_bag(ids, self.table.weight, mode="mean", padding_idx=0)
        x, there = self.table(ids), (ids != 0).float()[:, :, None]
        if "mean-with-padding" in self.ways:
            return x.mean(1)
        if "largest-for-mean" in self.ways:
            return x.masked_fill(there == 0, -1e9).amax(1)
        return (x * there).sum(1) / there.sum(1)

    def forward(self, words: torch.Tensor, grams: torch.Tensor) -> torch.Tensor:
        first = 20 if "pairs-one-row-on" in self.ways else 19
        grams = torch.where(grams > 0, grams + first, 0)
        x = self.hidden(self.bag(torch.cat([words, grams], dim=1)))
        x = self.label(F.relu(x) if "relu-for-tanh" in self.ways else torch.tanh(x))
        if "shares-by-logarithms" in self.ways:
            return torch.exp(F.log_softmax(x, dim=1))
        return F.log_softmax(x, dim=1) if "logarithms-of-shares" in self.ways else F.softmax(x, dim=1)


@network
def gist() -> Pair:
    """fastText: words and pairs of them from one table, the mean of those that are there, a small network."""
    keras.backend.clear_session()
    words, grams = (layers.Input((n,), dtype="int32", name=name) for n, name in ((6, "words"), (5, "grams")))
    moved = ops.where(ops.greater(grams, 0), grams + 19, 0)
    ids = layers.Concatenate(axis=1, name="ids")([words, moved])
    x = layers.Embedding(32, 6, mask_zero=True, name="table")(ids)
    x = layers.Dense(6, activation="tanh", name="hidden")(layers.GlobalAveragePooling1D(name="bag")(x))
    model = keras.Model([words, grams], layers.Dense(5, activation="softmax", name="label")(x))
    fill(model)
    grown(model, 3, "hidden", "label")
    first, second = counted(1601, 20, 4, 6, least=1), counted(1602, 12, 4, 5, least=1)
    first[0, 3:] = first[2, 5:] = second[0, 2:] = second[2, 4:] = second[3, 1:] = 0
    return Pair(model, {"words": first, "grams": second}, ported(model, Gist), "same")


_BAG = "bag mean* amax* max* sum* mul* div* true_divide* ne* masked_fill* eq* embedding_bag* hidden"
_IDS = "ids cat* where* add* gt* greater* table"
slip("gist/pairs-one-row-on", _IDS, "embedding-offset", "shift weights-perturbed")
slip("gist/mean-with-padding", _BAG, "attention-mask pool-count-include-pad block-missing",
     "pool-kind scale operation-kind wiring")  # fmt: skip
slip("gist/largest-for-mean", _BAG, "pool-kind")
slip("gist/relu-for-tanh", "hidden tanh* relu* label", "activation-kind")
slip("gist/logarithms-of-shares", "label softmax* log_softmax*", "logits activation-kind",
     "activation-extra block-extra")  # fmt: skip
defect("gist/hidden-as-it-lies", "hidden", "dense-transpose", "kernel-layout weights-perturbed axis-permutation")(
    rewritten("hidden.weight", lambda weight: weight.T)
)
ways("gist", "bag-by-torch", "shares-by-logarithms")
one_layer("gist", "hidden-as-it-lies+relu-for-tanh")
neighbours("gist", "pairs-one-row-on+mean-with-padding", "largest-for-mean+hidden-as-it-lies")


# --- left and right -----------------------------------------------------------------------------------------


class Context(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(20, 5)
        self.left, self.right = (nn.LSTM(5, 4, batch_first=True) for _ in range(2))
        self.meaning, self.label = nn.Linear(13, 6), nn.Linear(6, 4)

    def read(self, lstm: nn.LSTM, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        return unrolled(lstm, x) if "loops-by-hand" in self.ways else lstm(x)[0]

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        before = words if "left-with-the-word" in self.ways else F.pad(words[:, :-1], (1, 0), value=19)
        behind = F.pad(words[:, 1:], (0, 1), value=19)
        left = self.read(self.left, before)
        right = self.read(self.right, behind.flip(1))
        right = right if "right-not-turned-back" in self.ways else right.flip(1)
        x = self.words(words)
        parts = [x, left, right] if "word-first" in self.ways else [left, x, right]
        x = torch.cat(parts, dim=2)
        if "meaning-by-a-kernel" in self.ways:
            x = torch.tanh(F.conv1d(x.mT, self.meaning.weight[:, :, None], self.meaning.bias)).mT
        else:
            x = self.meaning(x)
            x = x if "meaning-not-bent" in self.ways else torch.tanh(x)
        if "last-for-largest" in self.ways:
            return self.label(x[:, -1])
        return self.label(x.mean(1) if "mean-for-largest" in self.ways else x.amax(1))


@network
def context() -> Pair:
    """RCNN: what is left of a word read forwards, what is right of it backwards, with the word, the largest of all."""
    keras.backend.clear_session()
    words = layers.Input((7,), dtype="int32", name="tokens")
    table = layers.Embedding(20, 5, name="words")
    before = ops.pad(words[:, :-1], ((0, 0), (1, 0)), constant_values=19)
    behind = ops.pad(words[:, 1:], ((0, 0), (0, 1)), constant_values=19)
    left = layers.LSTM(4, return_sequences=True, name="left")(table(before))
    right = layers.LSTM(4, return_sequences=True, go_backwards=True, name="right")(table(behind))
    x = layers.Concatenate(name="both")([left, table(words), ops.flip(right, axis=1)])
    x = layers.GlobalMaxPooling1D(name="largest")(layers.Dense(6, activation="tanh", name="meaning")(x))
    model = keras.Model(words, layers.Dense(4, name="label")(x))
    fill(model)
    grown(model, 2, "meaning")
    for name in ("left", "right"):
        kernel = model.get_layer(name).cell.kernel
        kernel.assign(kernel * 2)
    return Pair(model, counted(1603, 19, 4, 7), ported(model, Context), "same")


_SIDES = "left right flip* both cat* words pad* get_item* slice* sigmoid* tanh* linear* stack*"
_MEANING = "both cat* meaning tanh* largest amax* mean* get_item* slice* select* label"
slip("context/right-not-turned-back", _SIDES, "rnn-direction block-missing", "axis-permutation")
slip("context/left-with-the-word", _SIDES, "shift wiring block-missing", "embedding-offset")
slip("context/word-first", _MEANING, "concat-order", "operand-order wiring")
slip("context/meaning-not-bent", _MEANING, "activation-missing", "block-missing")
slip("context/last-for-largest", _MEANING, "pool-kind", "rnn-last-step wiring")
slip("context/mean-for-largest", _MEANING, "pool-kind")
defect("context/gates-of-another", "left", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("left", 0, 2, 1, 3)
)
defect("context/bias-twice", "right", "rnn-bias weights-perturbed")(doubled("right"))
ways("context", "loops-by-hand", "meaning-by-a-kernel")
one_layer("context", "meaning-not-bent+last-for-largest")
neighbours("context", "right-not-turned-back+word-first", "gates-of-another+left-with-the-word")


# --- the best match -----------------------------------------------------------------------------------------


class Matched(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.places, self.norm0 = nn.Embedding(18, 6), nn.Embedding(9, 6), nn.LayerNorm(6, eps=1e-12)
        self.attention = nn.ModuleDict({name: nn.Linear(6, 6) for name in ("query", "key", "value")})
        self.attention["attention_output"] = nn.Linear(6, 6)
        self.norm1, self.norm2 = nn.LayerNorm(6, eps=1e-12), nn.LayerNorm(6, eps=1e-12)
        self.wide, self.narrow, self.project = nn.Linear(6, 10), nn.Linear(10, 6), nn.Linear(6, 4, bias=False)

    def looked(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        own = [self.attention[name] for name in ("query", "key", "value")]
        if "one-projection" in self.ways:
            weight, bias = torch.cat([one.weight for one in own]), torch.cat([one.bias for one in own])
            q, k, v = F.linear(x, weight, bias).chunk(3, dim=2)
        else:
            q, k, v = (one(x) for one in own)
        q, k, v = (part.unflatten(2, (2, 3)).transpose(1, 2) for part in (q, k, v))
        if "looked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        else:
            scores = q @ k.mT / 3**0.5
            if "padding-seen" not in self.ways:
                scores = scores.masked_fill(~there[:, None, None], -torch.inf)
            y = F.softmax(scores, dim=3) @ v
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def coded(self, ids: torch.Tensor) -> torch.Tensor:
        places = self.places.weight[: ids.shape[1]]
        x = self.norm0(self.words(ids) + places)
        x = self.norm1(x + self.looked(x, ids != 0))
        y = F.relu(self.wide(x)) if "relu-for-gelu" in self.ways else F.gelu(self.wide(x))
        x = self.norm2(x + self.narrow(y))
        x = self.project(x)
        if "lengths-by-hand" in self.ways:
            return x * torch.rsqrt((x * x).sum(2, keepdim=True))
        return x if "lengths-kept" in self.ways else F.normalize(x, dim=2)

    def forward(self, query: torch.Tensor, passage: torch.Tensor) -> torch.Tensor:
        scores = self.coded(query) @ self.coded(passage).mT
        hidden = (passage == 0)[:, None]
        if "mean-for-best" in self.ways:
            best = scores.masked_fill(hidden, 0).sum(2) / (~hidden).sum(2)
        else:
            best = (scores if "padding-matched" in self.ways else scores.masked_fill(hidden, -1e4)).amax(2)
        return best.mean(1) if "mean-of-matches" in self.ways else best.sum(1)


@network
def matched() -> Pair:
    """ColBERT: one encoder for a question and a passage, words of length one, and the best match of each word asked."""
    keras.backend.clear_session()
    query, passage = (layers.Input((n,), dtype="int32", name=name) for n, name in ((5, "query"), (8, "passage")))
    words, places = layers.Embedding(18, 6, name="words"), layers.Embedding(9, 6, name="places")
    norms = [layers.LayerNormalization(epsilon=1e-12, name=f"norm{i}") for i in range(3)]
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    wide, narrow = layers.Dense(10, activation="gelu", name="wide"), layers.Dense(6, name="narrow")
    project, unit = layers.Dense(4, use_bias=False, name="project"), layers.UnitNormalization(name="unit")

    def coded(ids: keras.KerasTensor) -> keras.KerasTensor:
        x = norms[0](words(ids) + places(ops.cumsum(ops.ones_like(ids), axis=1) - 1))
        x = norms[1](x + attention(x, x, attention_mask=ops.expand_dims(ops.not_equal(ids, 0), 1)))
        return unit(project(norms[2](x + narrow(wide(x)))))

    scores = ops.matmul(coded(query), ops.transpose(coded(passage), (0, 2, 1)))
    hidden = ops.cast(ops.equal(passage, 0), "float32")
    best = ops.max(scores - 1e4 * ops.expand_dims(hidden, 1), axis=2)
    model = keras.Model([query, passage], ops.sum(best, axis=1))
    fill(model)
    grown(model, 2, "wide", "narrow")
    for name in ("words", "places"):
        table = model.get_layer(name).embeddings
        table.assign(table * 0.1)
    first, second = counted(1604, 18, 6, 5, least=1), counted(1605, 18, 6, 8, least=1)
    first[1, 3:] = second[0, 4:] = second[2, 6:] = second[3, 2:] = second[5, 5:] = 0
    return Pair(model, {"query": first, "passage": second}, ported(model, Matched), "same")


_LOOK = "attention matmul* softmax* masked_fill* div* truediv* transpose* unflatten* flatten* norm1 add*"
_MATCH = "matmul* sub* mul* masked_fill* eq* amax* max* mean* sum* project unit"
slip("matched/padding-seen", _LOOK, "attention-mask", "wiring")
slip("matched/relu-for-gelu", "wide gelu* relu* narrow", "activation-kind")
slip("matched/lengths-kept", "project unit normalize* matmul*", "block-missing", "scale wiring")
slip("matched/padding-matched", _MATCH, "attention-mask block-missing", "wiring")
slip("matched/mean-for-best", _MATCH, "pool-kind")
slip("matched/mean-of-matches", _MATCH, "pool-kind scale", "operation-kind")
defect("matched/norm-eps-of-torch", "norm0 norm1 norm2", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("matched/value-for-key", "attention", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("attention.key", "attention.value")
)
ways("matched", "looked-by-torch", "one-projection", "lengths-by-hand")
one_layer("matched", "padding-seen+value-for-key", "padding-matched+mean-of-matches")
neighbours("matched", "lengths-kept+mean-for-best", "padding-seen+norm-eps-of-torch")
