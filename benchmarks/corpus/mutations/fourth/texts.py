"""A translator: a recurrent encoder and decoder with an attention between them."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Translate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source_words, self.target_words = nn.Embedding(20, 6), nn.Embedding(18, 6)
        self.encode = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.bridge, self.decode = nn.Linear(10, 7), nn.GRU(6, 7, batch_first=True)
        self.query = nn.Linear(7, 10, bias=False)
        self.combine, self.head = nn.Linear(17, 9), nn.Linear(9, 18)

    def encoded(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen, (h, _) = self.encode(x)
        return seen, self.states(h)

    def states(self, h: torch.Tensor) -> torch.Tensor:
        return torch.cat([h[0], h[1]], dim=-1)

    def bridged(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.bridge(x))

    def decoded(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        return self.decode(x, state[None])[0]

    def scores(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.bmm(q, k.transpose(1, 2))

    def masked(self, scores: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill((source == 0)[:, None, :], -1e9)

    def weigh(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.softmax(scores, dim=-1)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen, x = self.encoded(self.source_words(source))
        x = self.decoded(self.target_words(target), self.bridged(x))
        context = torch.bmm(self.weigh(self.masked(self.scores(self.query(x), seen), source)), seen)
        return self.head(torch.tanh(self.combine(torch.cat([context, x], dim=-1))))


@network
def translate() -> Pair:
    """Both directions read the source, their last states begin the decoder, which attends to what was read."""
    keras.backend.clear_session()
    source, target = layers.Input((8,), dtype="int32", name="source"), layers.Input((6,), dtype="int32", name="target")
    encode = layers.Bidirectional(layers.LSTM(5, return_sequences=True, return_state=True), name="encode")
    seen, ahead, _, back, _ = encode(layers.Embedding(20, 6, name="source_words")(source))
    state = layers.Concatenate(name="states")([ahead, back])
    state = layers.Dense(7, activation="tanh", name="bridge")(state)
    x = layers.Embedding(18, 6, name="target_words")(target)
    x = layers.GRU(7, return_sequences=True, name="decode")(x, initial_state=state)
    query = layers.Dense(10, use_bias=False, name="query")(x)
    scores = layers.Dot(axes=(2, 2), name="scores")([query, seen])
    scores = scores + ops.cast(ops.equal(source, 0), "float32")[:, None, :] * -1e9
    weights = layers.Softmax(name="weights")(scores)
    context = layers.Dot(axes=(2, 1), name="context")([weights, seen])
    x = layers.Concatenate(name="join")([context, x])
    x = layers.Dense(9, activation="tanh", name="combine")(x)
    model = keras.Model([source, target], layers.Dense(18, name="head")(x))
    fill(model)
    rng = np.random.default_rng(30)
    inputs = {"source": rng.integers(1, 20, (3, 8)).astype(np.int32),
              "target": rng.integers(1, 18, (3, 6)).astype(np.int32)}  # fmt: skip
    inputs["source"][0, 6:] = inputs["source"][1, 5:] = 0
    return Pair(model, inputs, lambda: carry(model, Translate()), "same")


_ATTENTION = "scores weights add bmm softmax masked_fill query"


@defect("translate/states-exchanged", "states cat getitem* bridge", "concat-order rnn-direction",
        "channel-order operand-order axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    port.states = lambda h: torch.cat([h[1], h[0]], dim=-1)


@defect("translate/states-viewed", "states reshape bridge", "reshape-order axis-permutation flatten-order",
        "concat-order channel-order")  # fmt: skip
def _(port: Any) -> None:
    """The directions come before the samples: a view gives each sample another's."""
    port.states = lambda h: h.reshape(-1, 10)


@defect("translate/cells-for-states", "encode states cat getitem* bridge", "rnn-last-step wiring", "operation-kind")
def _(port: Any) -> None:
    """c where h was meant."""

    def encoded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen, (_, c) = port.encode(x)
        return seen, port.states(c)

    port.encoded = encoded


@defect("translate/gates-of-the-backward-layer", "encode", "lstm-gate-order", "weights-perturbed weights-swapped")
def _(port: Any) -> None:
    """The output's gate before the cell's, in one of the two loops over the weights."""
    for name, value in port.encode.named_parameters():
        if name.endswith("_reverse"):
            parts = value.data.unflatten(0, (4, 5))
            parts.copy_(parts[[0, 1, 3, 2]].clone())


@defect("translate/forgetting-less", "encode", "rnn-bias", "weights-perturbed")
def _(port: Any) -> None:
    """unit_forget_bias was added to a bias that had it."""
    port.encode.bias_hh_l0.data[5:10] += 1
    port.encode.bias_hh_l0_reverse.data[5:10] += 1


@defect("translate/steps-left-backwards", "encode flip cat_1 scores context bmm bmm_1", "rnn-direction",
        "axis-permutation block-extra concat-order operation-kind")  # fmt: skip
def _(port: Any) -> None:
    """Written as two layers, of which the second's steps were not turned back."""
    encoded = port.encoded

    def turned(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen, state = encoded(x)
        return torch.cat([seen[..., :5], seen[..., 5:].flip(1)], dim=-1), state

    port.encoded = turned


@defect("translate/bridge-linear", "bridge tanh decode", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.bridged = lambda x: port.bridge(x)


@defect("translate/cold-start", "decode bridge", "rnn-last-step wiring",
        "block-missing operation-kind rnn-bias weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """The state was not handed over."""
    port.decoded = lambda x, state: port.decode(x)[0]


@defect("translate/gates-as-they-were", "decode", "gru-gate-order", "weights-perturbed weights-swapped")
def _(port: Any) -> None:
    """z, r, h: as Keras keeps them."""
    for value in port.decode._parameters.values():
        parts = value.data.unflatten(0, (3, 7))
        parts.copy_(parts[[1, 0, 2]].clone())


@defect("translate/one-bias", "decode", "rnn-bias", "weights-perturbed weights-not-loaded bias-missing")
def _(port: Any) -> None:
    """The second row of Keras' bias was not looked at."""
    port.decode.bias_hh_l0.data.zero_()


@defect("translate/padding-attended", _ATTENTION, "attention-mask", "block-missing")
def _(port: Any) -> None:
    port.masked = lambda scores, source: scores


@defect("translate/scaled-scores", f"{_ATTENTION} div*", "attention-scale", "scale block-extra")
def _(port: Any) -> None:
    port.scores = lambda q, k: torch.bmm(q, k.transpose(1, 2)) / math.sqrt(10)


@defect("translate/weights-over-targets", "weights softmax", "softmax-axis")
def _(port: Any) -> None:
    """softmax(dim=1) was written for one step."""
    port.weigh = lambda scores: torch.softmax(scores, dim=1)


@defect("translate/row-of-padding", "source_words", "embedding-offset", "weights-perturbed weights-not-loaded")
def _(port: Any) -> None:
    """padding_idx=0, whose row is made of zeros; in the reference it was trained."""
    port.source_words.weight.data[0] = 0
    port.source_words.padding_idx = 0


@control("translate/written-out")
def _(port: Any) -> None:
    """Biases of the first two gates in one, products over named axes, a mask that is added."""
    bias = port.decode.bias_hh_l0.data
    port.decode.bias_ih_l0.data[:14] += bias[:14]
    bias[:14] = 0
    port.scores = lambda q, k: torch.einsum("btd,bsd->bts", q, k)
    port.masked = lambda scores, source: scores + (source == 0)[:, None, :] * -1e9
    port.states = lambda h: h.transpose(0, 1).flatten(1)


@control("translate/query-on-the-other-side")
def _(port: Any) -> None:
    """Softmax of the turned scores."""
    port.weigh = lambda scores: torch.softmax(scores.transpose(1, 2), dim=1).transpose(1, 2)


one_layer("translate", "gates-as-they-were+one-bias", "scaled-scores+weights-over-targets")
neighbours("translate", "states-exchanged+bridge-linear")
