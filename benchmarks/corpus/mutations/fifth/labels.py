"""A name for each word: the word, its letters, and its neighbours on both sides."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill, values
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Spell(nn.Module):
    """Features of each word's six letters."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.conv = nn.Embedding(15, 5), nn.Conv1d(5, 7, 3, padding=1)

    def largest(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(2)

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        x = self.letters(letters.flatten(0, 1)).transpose(1, 2)
        return self.largest(F.relu(self.conv(x))).unflatten(0, letters.shape[:2])


class Name(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.spell = nn.Embedding(20, 8), Spell()
        self.kinds = nn.Embedding(6, 8)
        self.read = nn.GRU(15, 6, batch_first=True, bidirectional=True)
        self.hidden, self.norm, self.head = nn.Linear(6, 10), nn.LayerNorm(10, eps=1e-3), nn.Linear(10, 5)

    def word(self, words: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        return self.words(words) * 8**0.5 + self.kinds(kinds)

    def joined(self, words: torch.Tensor, spelled: torch.Tensor) -> torch.Tensor:
        return torch.cat([words, spelled], dim=-1)

    def merged(self, ahead: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        return ahead + back

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.act(self.hidden(x)))

    def forward(self, words: torch.Tensor, kinds: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        x = self.joined(self.word(words, kinds), self.spell(letters))
        return self.head(self.normed(self.merged(*self.read(x)[0].chunk(2, dim=-1))))


@network
def name() -> Pair:
    """Words and their kinds, letters by a convolution, two directions summed; a score for each label."""
    keras.backend.clear_session()
    words, kinds = (layers.Input((9,), dtype="int32", name=key) for key in ("words", "kinds"))
    letters = layers.Input((9, 6), dtype="int32", name="letters")
    x = layers.Embedding(15, 5, name="spell_letters")(letters)
    x = layers.TimeDistributed(layers.Conv1D(7, 3, padding="same", activation="relu"), name="spell_conv")(x)
    x = layers.TimeDistributed(layers.GlobalMaxPooling1D(), name="largest")(x)
    y = layers.Embedding(20, 8, name="words_table")(words) * ops.sqrt(8.0)
    y = layers.Add(name="word")([y, layers.Embedding(6, 8, name="kinds_table")(kinds)])
    x = layers.Concatenate(name="joined")([y, x])
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True), merge_mode="sum", name="read")(x)
    x = layers.LayerNormalization(name="norm")(layers.Dense(10, activation="tanh", name="hidden")(x))
    model = keras.Model([words, kinds, letters], layers.Dense(5, name="head")(x))
    fill(model)
    for weight in model.get_layer("hidden").weights:
        weight.assign(weight * 0.3)
    rng = np.random.default_rng(48)
    inputs = {"words": rng.integers(1, 20, (3, 9)).astype(np.int32),
              "kinds": rng.integers(0, 6, (3, 9)).astype(np.int32),
              "letters": rng.integers(0, 15, (3, 9, 6)).astype(np.int32)}  # fmt: skip

    def rename(name: str) -> str:
        for old, new in (("spell_conv.conv1d", "spell.conv"), ("spell_", "spell."), ("_table", "")):
            name = name.replace(old, new)
        return name

    return Pair(model, inputs, lambda: carry(model, Name(), rename), "same")


@defect("name/words-unscaled", "words_table words mul* multiply* word add", "embedding-scale", "block-missing")
def _(port: Any) -> None:
    """The square root of the width was in the other side's embedding layer."""
    port.word = lambda words, kinds: port.words(words) + port.kinds(kinds)


@defect("name/kinds-scaled-too", "kinds_table kinds mul* multiply* word add", "embedding-scale residual-order",
        "block-extra wiring operand-order")  # fmt: skip
def _(port: Any) -> None:
    port.word = lambda words, kinds: (port.words(words) + port.kinds(kinds)) * 8**0.5


@defect("name/kinds-from-one", "kinds_table kinds", "embedding-offset", "weights-perturbed shift")
def _(port: Any) -> None:
    """Its first row was taken for padding and left out."""
    port.kinds.weight.data = port.kinds.weight.data.roll(-1, 0)


@defect("name/letters-fresh", "spell_letters spell.letters", "weights-not-loaded", "weights-perturbed")
def _(port: Any) -> None:
    port.spell.letters.weight.data.copy_(torch.from_numpy(values("fresh/embeddings", (15, 5), 5)))


@defect("name/spelled-in-the-mean", "largest spell.amax spell.mean joined", "pool-kind")
def _(port: Any) -> None:
    port.spell.largest = lambda x: x.mean(2)


@defect("name/letters-without-edges", "spell_conv spell.conv", "pad-mode", "pad-asymmetry")
def _(port: Any) -> None:
    """Which the largest of all places does not notice in its shape."""
    port.spell.conv.padding = (0,)


@defect("name/letters-viewed", "spell_conv spell.conv spell.transpose spell.view spell.reshape spell_letters",
        "reshape-order axis-permutation flatten-order", "kernel-layout wiring")  # fmt: skip
def _(port: Any) -> None:
    """view() where transpose() was needed."""
    spell = port.spell

    def forward(letters: torch.Tensor) -> torch.Tensor:
        x = spell.letters(letters.flatten(0, 1)).reshape(-1, 5, 6)
        return spell.largest(F.relu(spell.conv(x))).unflatten(0, letters.shape[:2])

    spell.forward = forward


@defect("name/letters-before-word", "joined cat read", "concat-order", "operand-order")
def _(port: Any) -> None:
    port.joined = lambda words, spelled: torch.cat([spelled, words], dim=-1)


@defect("name/gates-of-keras", "read", "gru-gate-order", "weights-perturbed weights-swapped")
def _(port: Any) -> None:
    """z, r, h where r, z, n are taken (keras#15915)."""
    for parameter in port.read.parameters():
        parts = parameter.data.unflatten(0, (3, 6))
        parts.copy_(parts[[1, 0, 2]].clone())


@defect("name/one-row-of-the-bias", "read", "rnn-bias", "weights-perturbed weights-not-loaded bias-missing")
def _(port: Any) -> None:
    """bias[0] is the input's; the recurrent one stayed at zero."""
    for end in ("", "_reverse"):
        getattr(port.read, f"bias_hh_l0{end}").data.zero_()


@defect("name/directions-in-the-mean", "read add_1 div mean hidden", "scale", "operation-kind block-extra pool-kind")
def _(port: Any) -> None:
    """merge_mode="ave"."""
    port.merged = lambda ahead, back: (ahead + back) / 2


@defect(
    "name/forward-alone", "read add_1 hidden", "rnn-direction block-missing residual-missing", "operation-kind wiring"
)
def _(port: Any) -> None:
    port.merged = lambda ahead, back: ahead


@defect(
    "name/backward-turned-back-twice", "read add_1 flip hidden", "rnn-direction", "axis-permutation block-extra wiring"
)
def _(port: Any) -> None:
    """Bidirectional has turned the second direction's steps already."""
    port.merged = lambda ahead, back: ahead + back.flip(1)


@defect("name/hidden-rectified", "hidden tanh relu", "activation-kind")
def _(port: Any) -> None:
    port.act = torch.relu


@defect("name/norm-eps-default", "norm", "ln-eps")
def _(port: Any) -> None:
    port.norm.eps = 1e-5


@defect("name/norm-of-the-steps", "norm layer_norm", "norm-axis", "operation-kind")
def _(port: Any) -> None:
    """Over the words as well: normalized_shape was x.shape[1:]."""
    norm = port.norm

    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[1:], eps=norm.eps) * norm.weight + norm.bias

    norm.forward = forward


@control("name/letters-in-a-plane")
def _(port: Any) -> None:
    """The words' letters as a plane's columns; the scale in the table."""
    spell = port.spell

    def forward(letters: torch.Tensor) -> torch.Tensor:
        x = spell.letters(letters).permute(0, 3, 1, 2)
        x = F.conv2d(x, spell.conv.weight[:, :, None], spell.conv.bias, padding=(0, 1))
        return F.relu(x).amax(3).transpose(1, 2)

    spell.forward = forward
    port.words.weight.data *= 8**0.5
    port.word = lambda words, kinds: port.words(words) + port.kinds(kinds)


@control("name/directions-apart")
def _(port: Any) -> None:
    own = port.read.state_dict()
    for part, end in (("ahead", ""), ("back", "_reverse")):
        one = nn.GRU(15, 6, batch_first=True)
        one.load_state_dict({key.removesuffix("_reverse"): own[key.removesuffix("_reverse") + end] for key in own})
        setattr(port, part, one)
    del port.read

    def forward(words: torch.Tensor, kinds: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        x = port.joined(port.word(words, kinds), port.spell(letters))
        return port.head(port.normed(port.ahead(x)[0] + port.back(x.flip(1))[0].flip(1)))

    port.forward = forward


one_layer("name", "gates-of-keras+one-row-of-the-bias", "norm-eps-default+norm-of-the-steps")
neighbours("name", "kinds-from-one+words-unscaled", "hidden-rectified+directions-in-the-mean",
           "letters-before-word+spelled-in-the-mean")  # fmt: skip
