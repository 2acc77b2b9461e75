"""Texts and speech: a tagger of dilated kernels, a quasi-recurrent layer, and a decoder that knows where it looked."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, exchanged, fed, ported, rewritten
from benchmarks.corpus.mutations.tenth.registry import defect, neighbours, network, one_layer, slip, ways


class Spans(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.cases = nn.Embedding(14, 6), nn.Embedding(4, 3)
        self.first, self.deep1, self.deep2 = nn.Conv1d(9, 8, 3), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 8, 3, dilation=2)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(8, 5)

    def along(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        wide = conv.dilation[0]
        if "kernels-as-products" in self.ways:
            steps = F.pad(x, (wide, wide)).unfold(2, 2 * wide + 1, 1)[..., ::wide]
            y = torch.einsum("bctk,ock->bot", steps, conv.weight) + conv.bias[:, None]
        elif "never-dilated" in self.ways:
            y = F.conv1d(x, conv.weight, conv.bias, padding=1)
        else:
            y = conv(F.pad(x, (2 * wide, 0) if "padded-as-causal" in self.ways else (wide, wide)))
        return y if "kernels-left-linear" in self.ways else F.relu(y)

    def forward(self, words: torch.Tensor, cases: torch.Tensor) -> torch.Tensor:
        both = [self.words(words - 1 if "words-from-zero" in self.ways else words), self.cases(cases)]
        x = torch.cat(both[::-1] if "cases-first" in self.ways else both, dim=2)
        x = self.along(self.first, self.drop(x).transpose(1, 2))
        for _ in range(1 if "one-round" in self.ways else 2):
            x = self.along(self.deep2, self.along(self.deep1, x))
        x = self.out(x.transpose(1, 2))
        return F.softmax(x, dim=1 if "labels-over-steps" in self.ways else 2)


@network
def spans() -> Pair:
    """ID-CNN: names in a sentence by dilated kernels that are gone through twice."""
    keras.backend.clear_session()
    words, cases = (layers.Input((9,), dtype="int32", name=name) for name in ("words", "cases"))
    both = [layers.Embedding(14, 6, name="words_table")(words), layers.Embedding(4, 3, name="cases_table")(cases)]
    x = layers.Dropout(0.3, name="drop")(layers.Concatenate(name="joined")(both))
    x = layers.Conv1D(8, 3, padding="same", activation="relu", name="first")(x)
    deep = [layers.Conv1D(8, 3, dilation_rate=d, padding="same", activation="relu", name=f"deep{d}") for d in (1, 2)]
    for _ in range(2):
        x = deep[1](deep[0](x))
    model = keras.Model([words, cases], layers.Dense(5, activation="softmax", name="out")(x))
    fill(model)
    grown(model, 1.5, "first", "deep1", "deep2")
    inputs = {"words": counted(1051, 14, 3, 9, least=1), "cases": counted(1052, 4, 3, 9)}
    return Pair(model, inputs, ported(model, Spans, rename=lambda name: name.removesuffix("_table")), "same")


_DEEP = "deep1* deep2* conv1d* pad* relu* first"
slip("spans/never-dilated", _DEEP, "dilation", "pad-mode")
slip("spans/padded-as-causal", _DEEP, "pad-asymmetry shift", "pad-mode")
slip("spans/kernels-left-linear", _DEEP, "activation-missing", "block-missing")
slip("spans/one-round", _DEEP + " out", "block-missing", "wiring")
slip("spans/words-from-zero", "words words_table sub* joined", "embedding-offset", "shift weights-perturbed")
slip("spans/cases-first", "joined cat* drop first", "concat-order", "operand-order channel-order")
slip("spans/labels-over-steps", "out softmax*", "softmax-axis", "operation-kind")
defect("spans/dropout-still-on", "drop", "dropout-mode")(lambda port: _dropping(port.drop))


def _dropping(drop: nn.Dropout) -> None:
    """As where ``eval`` was called before this layer was put in."""
    drop.train(True)
    drop.train = lambda mode=True: drop  # type: ignore[method-assign]


ways("spans", "kernels-as-products")
one_layer("spans", "padded-as-causal+kernels-left-linear", "words-from-zero+cases-first")
neighbours("spans", "labels-over-steps+never-dilated")


# --- quasi-recurrent ----------------------------------------------------------------------------------------


class Quasi(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.gates, self.head = nn.Embedding(11, 6), nn.Conv1d(6, 18, 2), nn.Linear(6, 3)

    def gated(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if "two-steps-as-products" in self.ways:
            before = F.pad(x, (1, 0))[:, :, :-1]
            one, two = self.gates.weight.unbind(2)
            y = one @ before + two @ x + self.gates.bias[:, None]
        else:
            y = self.gates(F.pad(x, (0, 1) if "next-step-seen" in self.ways else (1, 0)))
        z, f, o = y.chunk(3, dim=1)
        f, o = (o, f) if "gates-exchanged" in self.ways else (f, o)
        if "hard-gates" in self.ways:
            f, o = ((0.2 * gate + 0.5).clamp(0, 1) for gate in (f, o))
        else:
            f, o = torch.sigmoid(f), torch.sigmoid(o)
        return z if "new-left-linear" in self.ways else torch.tanh(z), f, o

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        z, f, o = self.gated(self.enter(letters).transpose(1, 2))
        c, found = torch.zeros_like(z[:, :, 0]), []
        for t in range(6):
            keep, new = (
                (1 - f[:, :, t], f[:, :, t])
                if "kept-what-is-forgotten" in self.ways
                else (
                    f[:, :, t],
                    1 - f[:, :, t],
                )
            )
            c = keep * c + new * z[:, :, t]
            found.append(c if "cells-given" in self.ways else o[:, :, t] * c)
        x = found[-1] if "last-step-alone" in self.ways else torch.stack(found, dim=2).amax(2)
        return self.head(x)


@network
def quasi() -> Pair:
    """QRNN: a causal kernel gives new values and gates, and a loop without weights; the largest over time."""
    keras.backend.clear_session()
    letters = layers.Input((6,), dtype="int32", name="letters")
    x = layers.Embedding(11, 6, name="enter")(letters)
    z, f, o = ops.split(layers.Conv1D(18, 2, padding="causal", name="gates")(x), 3, axis=2)
    z, f, o = ops.tanh(z), ops.sigmoid(f), ops.sigmoid(o)
    c, found = ops.zeros_like(z[:, 0]), []
    for t in range(6):
        c = f[:, t] * c + (1 - f[:, t]) * z[:, t]
        found.append(o[:, t] * c)
    x = ops.max(ops.stack(found, axis=1), axis=1)
    model = keras.Model(letters, layers.Dense(3, name="head")(x))
    fill(model)
    grown(model, 3, "gates")
    return Pair(model, counted(1053, 11, 4, 6), ported(model, Quasi), "same")


_GATES = "gates split* chunk* sigmoid* tanh* pad* get_item* clamp* mul* multiply* add*"
_LOOP = "mul* multiply* add* sub* subtract* rsub* get_item* stack* max* amax* head"
slip("quasi/next-step-seen", "gates pad*", "pad-asymmetry shift", "pad-mode")
slip("quasi/gates-exchanged", _GATES, "concat-order lstm-gate-order wiring channel-order", "operand-order")
slip("quasi/hard-gates", _GATES, "activation-kind rnn-activation", "operation-kind")
slip("quasi/new-left-linear", _GATES, "activation-missing", "block-missing")
slip("quasi/kept-what-is-forgotten", _LOOP, "operand-order wiring", "operation-kind")
slip("quasi/cells-given", _LOOP, "block-missing", "wiring")
slip("quasi/last-step-alone", _LOOP, "rnn-last-step pool-kind", "operation-kind wiring")
defect("quasi/kernel-turned-round", "gates", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("gates.weight", lambda weight: weight.flip(2))
)
ways("quasi", "two-steps-as-products")
one_layer("quasi", "next-step-seen+kernel-turned-round", "gates-exchanged+new-left-linear")
neighbours("quasi", "cells-given+last-step-alone")


# --- where it looked ----------------------------------------------------------------------------------------


class Locate(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.pre, self.lstm = nn.Linear(4, 5), nn.LSTM(5, 6, batch_first=True)
        self.query, self.memory = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)
        self.place, self.spread = nn.Conv1d(1, 4, 3, padding=1), nn.Linear(4, 5, bias=False)
        self.score, self.out = nn.Linear(5, 1), nn.Linear(12, 3)

    def energy(self, query: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        place = self.place(seen[:, None]).transpose(1, 2)
        x = query + keys if "places-forgotten" in self.ways else query + keys + self.spread(place)
        x = self.score(x if "sum-left-linear" in self.ways else torch.tanh(x))[:, :, 0]
        return x / 5**0.5 if "energies-scaled" in self.ways else x

    def forward(self, text: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.pre(frames))
        states = unrolled(self.lstm, x) if "loop-by-hand" in self.ways else self.lstm(x)[0]
        keys, seen, found = self.memory(text), torch.zeros_like(text[:, :, 0]), []
        for t in range(3):
            query = self.query(states[:, t : t + 1])
            shares = F.softmax(self.energy(query, keys, seen), dim=0 if "shared-among-the-texts" in self.ways else 1)
            seen = shares if "last-look-alone" in self.ways else seen + shares
            if "looked-by-einsum" in self.ways:
                y = torch.einsum("bt,btf->bf", shares, text)
            else:
                y = (shares[:, None] @ text)[:, 0]
            both = [y, states[:, t]] if "text-first" in self.ways else [states[:, t], y]
            found.append(self.out(torch.cat(both, dim=1)))
        return torch.stack(found, dim=1)


@network
def locate() -> Pair:
    """Tacotron 2's attention: three frames look at a text, each with what was looked at before."""
    keras.backend.clear_session()
    text, frames = layers.Input((7, 6), name="text"), layers.Input((3, 4), name="frames")
    states = layers.Dense(5, activation="relu", name="pre")(frames)
    states = layers.LSTM(6, return_sequences=True, name="lstm")(states)
    query, memory, spread = (layers.Dense(5, use_bias=False, name=name) for name in ("query", "memory", "spread"))
    place, score = layers.Conv1D(4, 3, padding="same", name="place"), layers.Dense(1, name="score")
    out, keys, seen, found = layers.Dense(3, name="out"), memory(text), ops.zeros_like(text[:, :, 0]), []
    for t in range(3):
        y = query(states[:, t : t + 1]) + keys + spread(place(ops.expand_dims(seen, 2)))
        shares = ops.softmax(score(ops.tanh(y))[:, :, 0], axis=1)
        seen = seen + shares
        y = layers.Dot(axes=1, name=f"look{t}")([shares, text])
        found.append(out(layers.Concatenate(name=f"both{t}")([states[:, t], y])))
    model = keras.Model([text, frames], ops.stack(found, axis=1))
    fill(model)
    grown(model, 4, "score", "spread", "pre")
    return Pair(model, {"text": fed(1054, 3, 7, 6), "frames": fed(1055, 3, 3, 4)}, ported(model, Locate), "same")


_ENERGY = "query* memory* spread* place* add* tanh* score* softmax* div* truediv* get_item* look? matmul*"
slip("locate/places-forgotten", _ENERGY, "block-missing residual-missing", "wiring")
slip("locate/sum-left-linear", _ENERGY, "activation-missing", "block-missing")
slip("locate/energies-scaled", _ENERGY, "attention-scale scale", "block-extra")
slip("locate/shared-among-the-texts", _ENERGY, "softmax-axis", "operation-kind")
slip("locate/last-look-alone", _ENERGY, "residual-missing wiring", "block-missing")
slip("locate/text-first", "both? cat* out", "concat-order", "operand-order channel-order")
defect("locate/bias-on-both-sides", "lstm", "rnn-bias", "weights-perturbed scale")(doubled("lstm"))
defect("locate/gates-of-tensorflow", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("locate/query-for-memory", "query* memory*", "weights-swapped qkv-order", "weights-perturbed wiring")(
    exchanged("query", "memory")
)
ways("locate", "loop-by-hand", "looked-by-einsum")
one_layer("locate", "bias-on-both-sides+gates-of-tensorflow", "places-forgotten+sum-left-linear")
neighbours("locate", "last-look-alone+text-first")
