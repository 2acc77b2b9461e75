"""Texts: a sentence by three widths, a document of sentences, a story with a question."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    control,
    counted,
    defect,
    exchanged,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Sentence(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(30, 8)
        self.convs = nn.ModuleList(nn.Conv1d(8, 5, width) for width in (2, 3, 4))
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(15, 4)

    def found(self, conv: Any, x: torch.Tensor) -> torch.Tensor:
        if "windows-unfolded" in self.ways:
            x = x.unfold(2, conv.kernel_size[0], 1)
            x = torch.einsum("bctk,ock->bot", x, conv.weight) + conv.bias[:, None]
        elif "edges-padded" in self.ways:
            x = conv(F.pad(x, (0, conv.kernel_size[0] - 1)))
        else:
            x = conv(x)
        x = torch.tanh(x) if "found-by-tanh" in self.ways else x if "not-rectified" in self.ways else F.relu(x)
        return x.mean(2) if "mean-of-the-places" in self.ways else x.amax(2)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x = self.words(words)
        x = x.reshape(len(x), 8, -1) if "words-viewed" in self.ways else x.transpose(1, 2)
        found = [self.found(conv, x) for conv in self.convs]
        x = torch.cat(found[::-1] if "widest-first" in self.ways else found, dim=1)
        x = self.head(F.dropout(x, 0.3) if "dropping" in self.ways else self.drop(x))
        return F.log_softmax(x, dim=1) if "logarithms" in self.ways else F.softmax(x, dim=1)


@network
def sentence() -> Pair:
    """Kim's convolutions of three widths over the words of a sentence."""
    keras.backend.clear_session()
    words = layers.Input((11,), dtype="int32", name="sentence")
    x, found = layers.Embedding(30, 8, name="words")(words), []
    for i, width in enumerate((2, 3, 4)):
        y = layers.Conv1D(5, width, activation="relu", name=f"convs.{i}")(x)
        found.append(layers.GlobalMaxPooling1D(name=f"largest.{i}")(y))
    x = layers.Dropout(0.3, name="drop")(layers.Concatenate(name="joined")(found))
    model = keras.Model(words, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    for i in range(3):
        bias = model.get_layer(f"convs.{i}").bias
        bias.assign(bias - 0.7)
    given = counted(88, 30, 4, 11)
    given[:, 5] = 0
    model.get_layer("words").embeddings.assign(model.get_layer("words").embeddings * 2)
    return Pair(model, given, ported(model, Sentence), "same")


_FOUND = "largest.* relu* amax* mean* tanh*"
slip("sentence/edges-padded", "convs convs.* pad*", "pad-mode", "block-extra")
slip("sentence/found-by-tanh", "convs convs.* " + _FOUND, "activation-kind")
slip("sentence/not-rectified", "convs convs.* joined cat " + _FOUND, "activation-missing", "block-missing")
slip("sentence/mean-of-the-places", _FOUND, "pool-kind")
slip(
    "sentence/words-viewed",
    "words transpose reshape convs convs.*",
    "reshape-order axis-permutation",
    "kernel-layout wiring",
)
slip("sentence/widest-first", "joined cat drop head", "concat-order", "operand-order")
slip("sentence/dropping", "drop dropout", "dropout-mode", "scale block-extra")
slip("sentence/logarithms", "head softmax log_softmax", "logits", "activation-kind operation-kind")
defect("sentence/taps-turned", "convs.1", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("convs.1.weight", lambda weight: weight.flip(2))
)
defect(
    "sentence/first-word-as-padding", "words", "weights-not-loaded embedding-offset", "weights-perturbed block-missing"
)(rewritten("words.weight", lambda table: torch.cat([torch.zeros(1, 8), table[1:]])))
way("sentence/windows-unfolded")
one_layer("sentence", "taps-turned+mean-of-the-places", "words-viewed+first-word-as-padding")
neighbours("sentence", "widest-first+logarithms")


# --- a document ---------------------------------------------------------------------------------------------


class Weigh(Port):
    """What matters of a list, by its likeness to a learnt direction."""

    def __init__(self, ways: frozenset[str], place: str) -> None:
        super().__init__(ways)
        self.place = place
        self.project, self.context = nn.Linear(10, 8), nn.Linear(8, 1, bias=False)

    def told(self, name: str) -> bool:
        return f"{self.place}-{name}" in self.ways

    def forward(self, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        y = self.project(x)
        score = self.context(y if self.told("not-squashed") else torch.tanh(y))[:, :, 0]
        score = score if self.told("padding-weighed") else score + (there - 1) * 1e9
        share = F.softmax(score, dim=0 if self.told("over-the-batch") else 1)
        if "weighed-by-product" in self.ways:
            return (share[:, None] @ x)[:, 0]
        return (share[:, :, None] * x).sum(1)


class Document(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.table = nn.Embedding(25, 6)
        self.words, self.weigh_words = nn.GRU(6, 5, batch_first=True, bidirectional=True), Weigh(ways, "words")
        self.lines, self.weigh_lines = nn.GRU(10, 5, batch_first=True, bidirectional=True), Weigh(ways, "lines")
        self.head = nn.Linear(10, 3)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        there = (text > 0).float()
        flat = text.flatten(0, 1)
        x = self.words(self.table(flat))[0]
        x = self.weigh_words(x, (flat > 0).float())
        x = x.unflatten(0, (4, -1)).transpose(0, 1) if "lines-outermost" in self.ways else x.unflatten(0, (-1, 4))
        x = self.lines(x.transpose(0, 1))[0].transpose(0, 1) if "lines-as-the-batch" in self.ways else self.lines(x)[0]
        if "backward-lines-first" in self.ways:
            x = torch.cat([x[:, :, 5:], x[:, :, :5]], dim=-1)
        if "last-line-alone" in self.ways:
            return self.head(x[:, -1])
        return self.head(self.weigh_lines(x, there.amax(2)))


@network
def document() -> Pair:
    """A hierarchical attention network: words make sentences, sentences make a document."""
    keras.backend.clear_session()
    text = layers.Input((4, 6), dtype="int32", name="text")
    there = ops.cast(text > 0, "float32")

    def weighed(x: keras.KerasTensor, there: keras.KerasTensor, name: str) -> keras.KerasTensor:
        y = layers.Dense(8, activation="tanh", name=f"{name}.project")(x)
        y = layers.Dense(1, use_bias=False, name=f"{name}.context")(y)[..., 0] + (there - 1) * 1e9
        return layers.Dot(axes=(1, 1), name=f"{name}.sum")([layers.Softmax(name=f"{name}.share")(y), x])

    flat = ops.reshape(text, (-1, 6))
    x = layers.Embedding(25, 6, name="table")(flat)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="words")(x)
    x = ops.reshape(weighed(x, ops.reshape(there, (-1, 6)), "weigh_words"), (-1, 4, 10))
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="lines")(x)
    x = weighed(x, ops.max(there, axis=2), "weigh_lines")
    model = keras.Model(text, layers.Dense(3, name="head")(x))
    fill(model)
    given = counted(89, 25, 4, 4, 6, least=1)
    given[0, :, 4:], given[1, 1, 3:], given[2, 3] = 0, 0, 0
    return Pair(model, given, ported(model, Document), "same")


_WORDS, _LINES = "weigh_words weigh_words.*", "weigh_lines weigh_lines.*"
slip("document/words-not-squashed", _WORDS, "activation-missing", "block-missing")
slip("document/words-padding-weighed", _WORDS, "attention-mask block-missing bias-missing", "residual-missing wiring")
slip("document/lines-padding-weighed", _LINES, "attention-mask block-missing bias-missing", "residual-missing wiring")
slip("document/lines-over-the-batch", _LINES, "softmax-axis", "operation-kind")
slip("document/lines-outermost", "reshape* unflatten transpose lines " + _WORDS, "reshape-order", "wiring")
slip("document/lines-as-the-batch", "lines transpose*", "axis-permutation", "rnn-direction rnn-last-step wiring")
slip("document/backward-lines-first", "lines cat weigh_lines.project", "concat-order channel-order rnn-direction",
     "axis-permutation block-extra")  # fmt: skip
slip("document/last-line-alone", "head slice* getitem* " + _LINES, "rnn-last-step block-missing pool-kind", "wiring")
defect("document/gates-of-keras", "words", "gru-gate-order", "weights-perturbed weights-swapped")(
    rewritten("words.*", lambda w: w.unflatten(0, (3, 5))[[1, 0, 2]].flatten(0, 1))
)
defect("document/rows-of-the-bias-added", "lines", "rnn-bias gru-reset-after", "weights-perturbed bias-missing")(
    lambda port: _joined_bias(port.lines)
)
defect("document/directions-exchanged", "lines", "rnn-direction weights-swapped", "weights-perturbed channel-order")(
    lambda port: _turned(port.lines)
)


def _joined_bias(gru: nn.GRU) -> None:
    """As one bias, which it is for two of the three gates alone."""
    for end in ("", "_reverse"):
        given, kept = getattr(gru, f"bias_ih_l0{end}").data, getattr(gru, f"bias_hh_l0{end}").data
        given += kept
        kept.zero_()


def _turned(gru: nn.GRU) -> None:
    state = gru.state_dict()
    turned = {name: state[name[:-8] if name.endswith("_reverse") else f"{name}_reverse"].clone() for name in state}
    gru.load_state_dict(turned)


way("document/weighed-by-product")


def _by_hand(port: Any, reset_after: bool) -> None:
    """Lets the sentences be read by cells written out."""
    gru = port.lines

    def read(x: torch.Tensor, end: str) -> torch.Tensor:
        weight, bias = getattr(gru, f"weight_hh_l0{end}"), getattr(gru, f"bias_hh_l0{end}")
        h, found = x.new_zeros(len(x), 5), []
        for step in x.unbind(1):
            given = F.linear(step, *(getattr(gru, f"{part}_ih_l0{end}") for part in ("weight", "bias")))
            r, z, n = given.chunk(3, 1)
            s, y, m = F.linear(h, weight, bias).chunk(3, 1)
            r, z = torch.sigmoid(r + s), torch.sigmoid(z + y)
            m = r * m if reset_after else F.linear(r * h, weight[10:], bias[10:])
            h = z * h + (1 - z) * torch.tanh(n + m)
            found.append(h)
        return torch.stack(found, dim=1)

    gru.forward = lambda x: (torch.cat([read(x, ""), read(x.flip(1), "_reverse").flip(1)], dim=-1), None)


control("document/cells-by-hand")(lambda port: _by_hand(port, True))
defect("document/reset-before", "lines lines.*", "gru-reset-after", "weights-perturbed")(
    lambda port: _by_hand(port, False)
)
one_layer("document", "words-not-squashed+words-padding-weighed", "directions-exchanged+rows-of-the-bias-added",
          "lines-padding-weighed+lines-over-the-batch")  # fmt: skip
neighbours("document", "gates-of-keras+words-not-squashed")


# --- a story --------------------------------------------------------------------------------------------------


def _places() -> np.ndarray:
    """Weights of the words of a sentence by place and feature, (5, 8)."""
    j, k = np.arange(1, 6)[:, None] / 5, np.arange(1, 9)[None] / 8
    return ((1 - j) - k * (1 - 2 * j)).astype(np.float32)


class Story(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.asked, self.looked, self.told = (nn.Embedding(20, 8) for _ in range(3))
        self.when = nn.Embedding(6, 8)
        self.turn, self.answer = nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.register_buffer("places", torch.from_numpy(_places()), persistent=False)

    def bag(self, x: torch.Tensor) -> torch.Tensor:
        if "words-not-placed" in self.ways:
            return x.sum(-2)
        if "bags-by-name" in self.ways:
            return torch.einsum("...wd,wd->...d", x, self.places)
        x = x * self.places
        return x.mean(-2) if "words-in-the-mean" in self.ways else x.sum(-2)

    def hop(self, u: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        score = torch.einsum("bd,bsd->bs", u, keys)
        score = score / 8**0.5 if "likeness-scaled" in self.ways else score
        share = score if "likeness-linear" in self.ways else F.softmax(score, dim=1)
        found = torch.einsum("bs,bsd->bd", share, values)
        return found if "question-forgotten" in self.ways else self.turn(u) + found

    def forward(self, story: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        when = self.when.weight[1:] if "time-from-one" in self.ways else self.when.weight[:5]
        when = when.flip(0) if "time-backwards" in self.ways else when
        u = self.bag(self.asked(question))
        keys = self.bag(self.looked(story)) + when
        values = keys if "keys-for-values" in self.ways else self.bag(self.told(story))
        for _ in range(1 if "one-hop" in self.ways else 2):
            u = self.hop(u, keys, values)
        return self.answer(u)


class _Bag(layers.Layer):  # type: ignore[misc]
    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.sum(x * ops.convert_to_tensor(_places()), axis=-2)


class _When(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.table = self.add_weight(name="embeddings", shape=(shape[1] + 1, shape[2]))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.table[:-1]


@network
def story() -> Pair:
    """A memory network: two looks at what was told, and a word for an answer."""
    keras.backend.clear_session()
    told, asked = layers.Input((5, 5), dtype="int32", name="story"), layers.Input((5,), dtype="int32", name="question")
    u, keys, values = (
        _Bag(name=f"{name}_bag")(layers.Embedding(20, 8, name=name)(x))
        for name, x in (("asked", asked), ("looked", told), ("told", told))
    )
    keys = _When(name="when")(keys)
    turn = layers.Dense(8, name="turn")
    for i in range(2):
        share = layers.Softmax(name=f"share.{i}")(layers.Dot(axes=(1, 2), name=f"likeness.{i}")([u, keys]))
        found = layers.Dot(axes=(1, 1), name=f"found.{i}")([share, values])
        u = layers.Add(name=f"sum.{i}")([turn(u), found])
    model = keras.Model([told, asked], layers.Dense(20, use_bias=False, name="answer")(u))
    fill(model)
    inputs = {"story": counted(90, 20, 3, 5, 5), "question": counted(91, 20, 3, 5)}
    return Pair(model, inputs, ported(model, Story), "same")


_BAGS = "*_bag multiply* sum sum_? mul* mean*"
_HOPS = "div* likeness.* share.* found.* sum.* softmax* einsum* add* turn turn#*"
slip("story/words-not-placed", _BAGS, "block-missing", "scale embedding-scale")
slip("story/words-in-the-mean", _BAGS, "pool-kind scale", "operation-kind")
slip("story/likeness-scaled", _HOPS, "attention-scale", "block-extra")
slip("story/likeness-linear", _HOPS, "activation-missing", "block-missing")
slip("story/question-forgotten", _HOPS, "residual-missing", "block-missing wiring")
slip("story/time-from-one", "when when.weight add slice", "embedding-offset", "shift weights-perturbed")
slip(
    "story/time-backwards",
    "when when.weight add slice flip",
    "axis-permutation embedding-offset",
    "weights-perturbed rnn-direction",
)
slip(
    "story/keys-for-values",
    "told told_bag found.* sum_2 mul_2 einsum_1 einsum_3",
    "wiring block-missing",
    "weights-swapped",
)
slip("story/one-hop", _HOPS + " answer", "block-missing", "wiring")
defect("story/tables-exchanged", "looked told", "weights-swapped", "weights-perturbed wiring")(
    exchanged("looked", "told")
)
defect("story/turn-unturned", "turn turn#*", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("turn.weight", lambda weight: weight.T)
)
way("story/bags-by-name")
one_layer("story", "likeness-scaled+question-forgotten", "time-from-one+time-backwards")
neighbours("story", "tables-exchanged+words-not-placed")
