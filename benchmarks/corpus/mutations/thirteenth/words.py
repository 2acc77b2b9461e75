"""Words for a photo: the network that joins what was seen with what was said so far."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import regated
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead, left_on


class Merge(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.photo_bn, self.seen, self.words = nn.BatchNorm1d(6, eps=1e-3), nn.Linear(6, 8), nn.Embedding(14, 8)
        self.lstm, self.drop = nn.LSTM(8, 8, batch_first=True), nn.Dropout(0.5)
        self.join, self.next = nn.Linear(8, 8), nn.Linear(8, 14)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        if "gates-of-torch" in self.ways:
            return torch.sigmoid(x)
        return (0.2 * x + 0.5).clamp(0, 1) if "gates-of-old-keras" in self.ways else F.hardsigmoid(x)

    def read(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        own = self.lstm
        if "zeros-expected-behind" in self.ways:
            there = torch.arange(there.shape[1]) < there.sum(1, keepdim=True)
        h = c = x.new_zeros(len(x), 8)
        for i, step in enumerate(x.unbind(1)):
            gates = F.linear(step, own.weight_ih_l0, own.bias_ih_l0)
            a, f, g, o = (gates + F.linear(h, own.weight_hh_l0, own.bias_hh_l0)).chunk(4, dim=1)
            new = self.gate(f) * c + self.gate(a) * torch.tanh(g)
            said = self.gate(o) * torch.tanh(new)
            if "padding-read" in self.ways:
                h, c = said, new
            elif "masked-by-shares" in self.ways:
                share = there[:, i, None].to(x.dtype)
                h, c = share * said + (1 - share) * h, share * new + (1 - share) * c
            else:
                h, c = torch.where(there[:, i, None], said, h), torch.where(there[:, i, None], new, c)
        return h

    def forward(self, photo: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        x = self.seen(self.photo_bn(photo))
        x = x if "seen-left-linear" in self.ways else F.relu(x)
        table = self.words(words + 1 if "words-from-two" in self.ways else words)
        y = self.read(self.drop(table), words != 0)
        y = F.relu(self.join(y if "photo-forgotten" in self.ways else x + y))
        y = self.next(y)
        return y if "scores-as-they-are" in self.ways else F.softmax(y, dim=1)


@network
def merge() -> Pair:
    """The merge model for captions: a photo's features, words with zeros in front read by an LSTM of hard gates."""
    keras.backend.clear_session()
    photo, words = layers.Input((6,), name="photo"), layers.Input((7,), dtype="int32", name="words")
    x = layers.Dense(8, activation="relu", name="seen")(layers.BatchNormalization(name="photo_bn")(photo))
    y = layers.Embedding(14, 8, mask_zero=True, name="words_table")(words)
    y = layers.LSTM(8, recurrent_activation="hard_sigmoid", name="lstm")(layers.Dropout(0.5, name="drop")(y))
    y = layers.Dense(8, activation="relu", name="join")(layers.Add(name="merged")([x, y]))
    model = keras.Model([photo, words], layers.Dense(14, activation="softmax", name="next")(y))
    fill(model)
    grown(model, 2, "next")
    for kernel in (model.get_layer("lstm").cell.kernel, model.get_layer("lstm").cell.recurrent_kernel):
        kernel.assign(2 * kernel)
    said = counted(1391, 13, 4, 7, least=1)
    said[0, :3] = said[1, :5] = said[3, :1] = 0
    port = ported(model, Merge, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"photo": np.abs(fed(1392, 4, 6)), "words": said}, port, "same")


_STEPS = "lstm* linear* sigmoid* hardsigmoid* tanh* mul* add* clamp* chunk* unbind* where* drop merged"
slip("merge/seen-left-linear", "seen relu* merged add*", "activation-missing", "block-missing")
slip("merge/gates-of-torch", _STEPS, "rnn-activation activation-kind", "operation-kind")
slip("merge/gates-of-old-keras", _STEPS, "rnn-activation activation-kind activation-param", "operation-kind")
slip("merge/padding-read", _STEPS, "attention-mask", "block-missing wiring rnn-last-step")
slip("merge/zeros-expected-behind", _STEPS, "attention-mask", "shift rnn-last-step wiring block-extra")
slip("merge/words-from-two", "words words_table add*", "embedding-offset", "shift weights-perturbed")
slip("merge/photo-forgotten", "merged add* join seen relu*", "residual-missing block-missing", "wiring")
slip("merge/scores-as-they-are", "next softmax*", "logits activation-missing", "block-missing")
defect("merge/gates-of-tensorflow", "lstm* linear* chunk*", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("merge/bn-eps-of-torch", "photo_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("merge/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("merge/join-as-it-lies", "join", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("join.weight", lambda weight: weight.T)
)
ways("merge", "masked-by-shares")
control("merge/norm-in-the-next-layer")(folded_ahead("photo_bn", "seen"))
one_layer(
    "merge",
    "padding-read+gates-of-torch",
    "zeros-expected-behind+gates-of-tensorflow",
    "gates-of-old-keras+gates-of-tensorflow",
)
neighbours("merge", "words-from-two+dropout-still-on", "photo-forgotten+join-as-it-lies")
