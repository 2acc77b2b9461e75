"""Decoders: one with capped scores that looks back a few words, and one that tells a date from what was read."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.fourteenth.registry import Scores
from benchmarks.corpus.mutations.ninth.registry import regated
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixteenth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, ported, rewritten

_STEPS, _WIDTH = 6, 6
_ANGLES = np.arange(_STEPS)[:, None] / 100 ** (np.arange(_WIDTH // 2) / (_WIDTH // 2))
_COS, _SIN = (np.tile(f(_ANGLES), 2).astype(np.float32) for f in (np.cos, np.sin))
_SEEN = np.tril(np.ones((_STEPS, _STEPS), bool)) & ~np.tril(np.ones((_STEPS, _STEPS), bool), -3)


class _Gains(nn.Module):
    """An RMS norm whose gain is one more than its weight."""

    def __init__(self, width: int, ways: frozenset[str]) -> None:
        super().__init__()
        self.gain, self.ways = nn.Parameter(torch.zeros(width)), ways

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gain = self.gain if "gains-without-one" in self.ways else 1 + self.gain
        if "norms-by-torch" in self.ways:
            return F.rms_norm(x, gain.shape, gain, 1e-6)
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain


class Gemma(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(20, 8)
        for name in ("before", "looked", "between", "behind", "last"):
            self.add_module(name, _Gains(8, ways))
        self.query, self.key, self.value = (nn.Linear(8, n, bias=False) for n in (12, 6, 6))
        self.mix = nn.Linear(12, 8, bias=False)
        self.gate, self.up = nn.Linear(8, 10, bias=False), nn.Linear(8, 10, bias=False)
        self.down = nn.Linear(10, 8, bias=False)

    def rotated(self, x: torch.Tensor) -> torch.Tensor:
        cos, sin = torch.from_numpy(_COS), torch.from_numpy(_SIN)
        if "rotated-as-complex" in self.ways:
            z = torch.complex(*x.chunk(2, dim=3)) * torch.complex(cos[:, :3], sin[:, :3])
            return torch.cat([z.real, z.imag], dim=3)
        if "rotated-the-other-way" in self.ways:
            sin = -sin
        one, two = x.chunk(2, dim=3)
        return x * cos + torch.cat([-two, one], dim=3) * sin

    def look(self, x: torch.Tensor) -> torch.Tensor:
        if "one-projection" in self.ways:
            weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
            q, k, v = F.linear(x, weight).split([12, 6, 6], dim=2)
        else:
            q, k, v = self.query(x), self.key(x), self.value(x)
        q, k = self.rotated(q.unflatten(2, (2, 6)).transpose(1, 2)), self.rotated(k[:, None])
        scores = q @ k.mT / (8**0.5 if "scaled-by-the-model" in self.ways else 6**0.5)
        if "scores-not-capped" not in self.ways:
            scores = 2 * torch.tanh(scores / 2)
        seen = torch.ones(_STEPS, _STEPS).tril().bool() if "all-the-past-seen" in self.ways else torch.from_numpy(_SEEN)
        y = F.softmax(scores.masked_fill(~seen, -torch.inf), dim=3) @ v[:, None]
        return self.mix(y.transpose(1, 2).flatten(2))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "swish-for-gelu" in self.ways:
            return F.silu(x)
        return F.gelu(x, approximate="none" if "gelu-by-erf" in self.ways else "tanh")

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        x = x if "words-not-scaled" in self.ways else x * 8**0.5
        y = self.look(self.before(x))
        x = x + (y if "looked-not-normed" in self.ways else self.looked(y))
        y = self.between(x)
        x = x + self.behind(self.down(self.bent(self.gate(y)) * self.up(y)))
        scores = self.last(x) @ self.words.weight.T
        return scores if "answers-not-capped" in self.ways else 3 * torch.tanh(scores / 3)


class _Level(layers.Layer):  # type: ignore[misc]
    """An RMS norm whose gain is one more than its weight."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.gain = self.add_weight(name="gain", shape=(shape[-1],))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + 1e-6) * (1 + self.gain)


@network
def gemma() -> Pair:
    """Gemma 2: scaled words, norms before and behind, one key for both heads, capped scores, three words seen."""
    keras.backend.clear_session()
    words = layers.Input((_STEPS,), dtype="int32", name="tokens")
    table = layers.Embedding(20, 8, name="words")
    x = layers.Rescaling(8**0.5, name="scaled")(table(words))

    def dense(width: int, name: str, **more: Any) -> layers.Layer:
        return layers.Dense(width, use_bias=False, name=name, **more)

    def rotated(x: keras.KerasTensor) -> keras.KerasTensor:
        one, two = ops.split(x, 2, axis=3)
        return x * _COS + ops.concatenate([-two, one], axis=3) * _SIN

    y = _Level(name="before")(x)
    q = rotated(ops.transpose(layers.Reshape((_STEPS, 2, 6), name="heads")(dense(12, "query")(y)), (0, 2, 1, 3)))
    k = rotated(ops.expand_dims(dense(6, "key")(y), 1))
    scores = 2 * ops.tanh(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * 6**-0.5 / 2)
    shares = layers.Softmax(name="shares")(scores - 1e9 * (1 - _SEEN.astype(np.float32)))
    y = ops.matmul(shares, ops.expand_dims(dense(6, "value")(y), 1))
    y = dense(8, "mix")(layers.Reshape((_STEPS, 12), name="joined")(ops.transpose(y, (0, 2, 1, 3))))
    x = layers.Add(name="sum1")([x, _Level(name="looked")(y)])
    y = _Level(name="between")(x)
    gate = ops.gelu(dense(10, "gate")(y), approximate=True)
    y = dense(8, "down")(layers.Multiply(name="gated")([gate, dense(10, "up")(y)]))
    x = layers.Add(name="sum2")([x, _Level(name="behind")(y)])
    model = keras.Model(words, 3 * ops.tanh(Scores(table, name="scores")(_Level(name="last")(x)) / 3))
    fill(model)
    grown(model, 2, "query", "key", "gate")
    return Pair(model, counted(1611, 20, 3, _STEPS), ported(model, Gemma), "same")


_LOOK = ("query key value heads shares softmax* matmul* mul* multiply* tanh* div* true_divide* masked_fill* sub* add* "
         "transpose* mT* cat* concatenate* neg* joined mix")  # fmt: skip
_ANSWER = "last scores matmul* tanh* mul* multiply* div* true_divide*"
slip("gemma/gains-without-one", "before* looked* between* behind* last*", "weights-perturbed block-missing",
     "scale weights-not-loaded bias-missing")  # fmt: skip
slip("gemma/words-not-scaled", "words scaled mul* before* sum1 add*", "embedding-scale block-missing")
slip("gemma/rotated-the-other-way", _LOOK, "operand-order wiring block-missing",
     "operation-kind scale weights-perturbed")  # fmt: skip
slip("gemma/scaled-by-the-model", _LOOK, "attention-scale")
slip("gemma/scores-not-capped", _LOOK, "activation-missing block-missing", "scale")
slip("gemma/all-the-past-seen", _LOOK, "attention-mask")
slip("gemma/swish-for-gelu", "gate gelu* silu* mul* multiply* gated down", "activation-kind")
slip("gemma/gelu-by-erf", "gate gelu* mul* multiply* gated down", "gelu-approx")
slip("gemma/looked-not-normed", "looked* mix sum1 add*", "block-missing", "scale")
slip("gemma/answers-not-capped", _ANSWER, "activation-missing block-missing", "scale")
defect("gemma/gate-for-up", "gate up gelu* mul* multiply* gated", "weights-swapped wiring operand-order",
       "weights-perturbed")(exchanged("gate", "up"))  # fmt: skip
ways("gemma", "norms-by-torch", "rotated-as-complex", "one-projection")
one_layer("gemma", "scaled-by-the-model+all-the-past-seen", "scores-not-capped+rotated-the-other-way")
neighbours("gemma", "words-not-scaled+all-the-past-seen", "gate-for-up+gelu-by-erf")


# --- dates --------------------------------------------------------------------------------------------------


class Dates(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.letters, self.signs = nn.Embedding(16, 5), nn.Embedding(9, 4)
        self.encode, self.decode = nn.LSTM(5, 6, batch_first=True), nn.LSTM(4, 6, batch_first=True)
        self.join, self.sign = nn.Linear(12, 6), nn.Linear(6, 9)

    def read(self, source: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        x, there = self.letters(source), source != 0
        if "padding-read" in self.ways:
            return self.encode(x)
        if "steps-by-hand" in self.ways:
            own = (self.encode.weight_ih_l0, self.encode.weight_hh_l0, self.encode.bias_ih_l0, self.encode.bias_hh_l0)
            h = c = x.new_zeros(len(x), 6)
            found = []
            for t in range(x.shape[1]):
                gates = F.linear(x[:, t], own[0], own[2]) + F.linear(h, own[1], own[3])
                i, f, g, o = gates.chunk(4, dim=1)
                new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                kept = there[:, t, None]
                c = torch.where(kept, new, c)
                h = torch.where(kept, torch.sigmoid(o) * torch.tanh(new), h)
                found.append(h)
            return torch.stack(found, dim=1), (h[None], c[None])
        packed = pack_padded_sequence(x, there.sum(1), batch_first=True, enforce_sorted=False)
        y, states = self.encode(packed)
        return pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])[0], states

    def forward(self, source: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        x, (h, c) = self.read(source)
        if "cell-begins-anew" in self.ways:
            c = torch.zeros_like(c)
        y = self.decode(self.signs(told), (c, h) if "states-exchanged" in self.ways else (h, c))[0]
        hidden = (source == 0)[:, None]
        if "looked-by-torch" in self.ways:
            seen = F.scaled_dot_product_attention(y, x, x, attn_mask=~hidden, scale=1.0)
        else:
            scores = y @ x.mT / (6**0.5 if "scores-scaled" in self.ways else 1)
            scores = scores if "padding-seen" in self.ways else scores.masked_fill(hidden, -1e9)
            seen = F.softmax(scores, dim=2) @ x
        both = torch.cat([seen, y] if "seen-first" in self.ways else [y, seen], dim=2)
        x = self.join(both)
        x = self.sign(x if "join-not-bent" in self.ways else torch.tanh(x))
        return x if "shares-forgotten" in self.ways else F.softmax(x, dim=2)


@network
def dates() -> Pair:
    """Luong's translation: letters read up to the padding, the state handed on, a look without a scale."""
    keras.backend.clear_session()
    source, told = layers.Input((7,), dtype="int32", name="source"), layers.Input((4,), dtype="int32", name="told")
    x = layers.Embedding(16, 5, mask_zero=True, name="letters")(source)
    x, h, c = layers.LSTM(6, return_sequences=True, return_state=True, name="encode")(x)
    y = layers.Embedding(9, 4, name="signs")(told)
    y = layers.LSTM(6, return_sequences=True, name="decode")(y, initial_state=[h, c])
    seen = layers.Attention(name="look")([y, x], mask=[None, ops.not_equal(source, 0)])
    z = layers.Dense(6, activation="tanh", name="join")(layers.Concatenate(name="both")([y, seen]))
    model = keras.Model([source, told], layers.Dense(9, activation="softmax", name="sign")(z))
    fill(model)
    grown(model, 2, "join", "sign")
    for name in ("encode", "decode"):
        kernel = model.get_layer(name).cell.kernel
        kernel.assign(kernel * 2)
    given = counted(1612, 16, 4, 7, least=1)
    given[0, 4:] = given[2, 3:] = given[3, 6:] = 0
    return Pair(model, {"source": given, "told": counted(1613, 9, 4, 4)}, ported(model, Dates), "same")


_READ = "letters encode* pack* _pack* pad_packed* sum* ne* decode* look"
_SEE = "look matmul* softmax* masked_fill* eq* mT* div* truediv* both cat*"
slip("dates/padding-read", _READ, "attention-mask rnn-last-step", "block-missing wiring")
slip("dates/cell-begins-anew", "encode* decode* zeros_like*", "wiring block-missing", "weights-not-loaded block-extra")
slip("dates/states-exchanged", "encode* decode*", "wiring operand-order", "weights-swapped")
slip("dates/scores-scaled", _SEE, "attention-scale", "block-extra")
slip("dates/padding-seen", _SEE, "attention-mask", "wiring")
slip("dates/seen-first", _SEE + " join", "concat-order", "operand-order wiring")
slip("dates/join-not-bent", "join tanh* sign", "activation-missing", "block-missing")
slip("dates/shares-forgotten", "sign softmax*", "logits activation-missing", "block-missing")
defect("dates/bias-twice", "encode*", "rnn-bias weights-perturbed")(doubled("encode"))
defect("dates/gates-of-keras-past", "decode*", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("decode", 0, 1, 3, 2)
)
defect("dates/recurrent-as-it-lies", "encode*", "dense-transpose kernel-layout weights-perturbed")(
    rewritten("encode.weight_hh_l0", lambda weight: torch.cat([part.T for part in weight.chunk(4)]))
)
ways("dates", "steps-by-hand", "looked-by-torch")
one_layer("dates", "scores-scaled+padding-seen", "bias-twice+recurrent-as-it-lies")
neighbours("dates", "states-exchanged+gates-of-keras-past", "seen-first+join-not-bent")
