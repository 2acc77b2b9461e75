"""What is read step by step: comments of which some are short, and a tour."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, fed, ported, rewritten


class Comments(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words = nn.Embedding(18, 5, padding_idx=0)
        self.both = nn.GRU(5, 4, batch_first=True, bidirectional=True)
        self.read, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(14, 5)

    def packed(self, gru: nn.GRU, x: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if "longest-first-for-good" in self.ways and gru is self.both:
            count, order = count.sort(descending=True)
            x = x[order]
        y, last = gru(rnn.pack_padded_sequence(x, count, batch_first=True, enforce_sorted=False))
        return rnn.pad_packed_sequence(y, batch_first=True, total_length=10)[0], last[0]

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        x, count = self.words(words), (words > 0).sum(1)
        x = self.both(x)[0] if "padding-read-both-ways" in self.ways else self.packed(self.both, x, count)[0]
        there = (words > 0).float()[:, :, None]
        if "padding-in-the-mean" in self.ways:
            mean = x.mean(1)
        elif "means-by-a-product" in self.ways:
            mean = torch.bmm((there / count[:, None, None]).transpose(1, 2), x)[:, 0]
        else:
            mean = (x * there).sum(1) / there.sum(1)
        if "read-to-the-last-place" in self.ways:
            last = self.read(x)[0][:, -1]
        elif "last-words-by-index" in self.ways:
            last = self.read(x)[0][torch.arange(len(x)), count - 1]
        else:
            last = self.packed(self.read, x, count)[1]
        x = self.head(torch.cat([last, mean] if "last-first" in self.ways else [mean, last], dim=1))
        return F.softmax(x, dim=1) if "one-label-alone" in self.ways else torch.sigmoid(x)


@network
def comments() -> Pair:
    """What is wrong with a comment: words of which none is padding, read both ways, their mean and what is left."""
    keras.backend.clear_session()
    words = layers.Input((10,), dtype="int32", name="words")
    x = layers.Embedding(18, 5, mask_zero=True, name="words_table")(words)
    x = layers.Bidirectional(layers.GRU(4, return_sequences=True), name="both")(x)
    parts = [layers.GlobalAveragePooling1D(name="mean")(x), layers.GRU(6, name="read")(x)]
    model = keras.Model(
        words, layers.Dense(5, activation="sigmoid", name="head")(layers.Concatenate(name="all")(parts))
    )
    fill(model)
    table, given = model.get_layer("words_table").embeddings, counted(861, 18, 4, 10, least=1)
    table.assign(table * 2)
    given[0, 3:], given[1, 7:], given[3, 8:] = 0, 0, 0
    make = ported(model, Comments, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"words": given}, make, "same")


_MEAN, _LAST = "mean* mul* sum* div* true_divide* all cat*", "read get_item* slice* select* all cat* index*"
slip("comments/padding-read-both-ways", "both", "attention-mask block-missing", "rnn-last-step rnn-direction wiring")
slip("comments/padding-in-the-mean", _MEAN, "pool-kind attention-mask", "operation-kind scale block-missing")
slip("comments/read-to-the-last-place", _LAST, "rnn-last-step attention-mask", "wiring block-missing")
slip("comments/longest-first-for-good", "both sort* get_item* slice*", "wiring axis-permutation shift", "block-extra")
slip("comments/last-first", "all cat* head", "concat-order", "operand-order")
slip("comments/one-label-alone", "head softmax sigmoid", "activation-kind", "logits operation-kind")
defect("comments/gates-of-keras", "both", "gru-gate-order", "weights-perturbed weights-swapped")(
    rewritten("both.*", lambda w: w.unflatten(0, (3, 4))[[1, 0, 2]].flatten(0, 1))
)
defect("comments/directions-exchanged", "both", "weights-swapped rnn-direction", "weights-perturbed concat-order")(
    lambda port: _turned(port.both)
)
defect("comments/recurrent-bias-lost", "read", "rnn-bias", "weights-not-loaded weights-perturbed bias-missing")(
    rewritten("read.bias_hh_l0", torch.zeros_like)
)


def _turned(gru: nn.GRU) -> None:
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        one, two = getattr(gru, name).data, getattr(gru, f"{name}_reverse").data
        kept = one.clone()
        one.copy_(two)
        two.copy_(kept)


ways("comments", "means-by-a-product", "last-words-by-index")
one_layer("comments", "gates-of-keras+padding-read-both-ways", "last-first+one-label-alone")
neighbours("comments", "directions-exchanged+padding-in-the-mean")


# --- a tour -------------------------------------------------------------------------------------------------


class Tour(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.read, self.tell = nn.LSTM(3, 6, batch_first=True), nn.LSTM(3, 6, batch_first=True)
        self.places, self.asked, self.score = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 1, bias=False)

    def forward(self, places_seen: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        x, (state, cell) = self.read(places_seen if "read-forwards" in self.ways else places_seen.flip(1))
        x = x if {"read-forwards", "not-turned-back"} & self.ways else x.flip(1)
        cell = torch.zeros_like(cell) if "cell-left-behind" in self.ways else cell
        y = self.tell(said, (state, cell))[0]
        x, y = self.places(x), self.asked(y)
        likeness = x[:, None] + y[:, :, None]
        likeness = likeness if "likeness-left-linear" in self.ways else torch.tanh(likeness)
        if "scores-as-sums" in self.ways:
            scores = (likeness * self.score.weight[0]).sum(-1)
        else:
            scores = self.score(likeness)[..., 0]
        if "never-twice-forgotten" not in self.ways:
            scores = scores.masked_fill(torch.eye(4, 7, dtype=torch.bool), -1e4)
        return F.softmax(scores, dim=1 if "shared-among-the-asking" in self.ways else 2)


@network
def tour() -> Pair:
    """A pointer network: places read backwards, then told step by step which of them is next, never where one is."""
    keras.backend.clear_session()
    places, said = layers.Input((7, 3), name="places_seen"), layers.Input((4, 3), name="said")
    read = layers.LSTM(6, return_sequences=True, return_state=True, go_backwards=True, name="read")
    x, state, cell = read(places)
    y = layers.LSTM(6, return_sequences=True, name="tell")(said, initial_state=[state, cell])
    x = layers.Dense(6, name="places")(ops.flip(x, axis=1))
    y = layers.Dense(6, use_bias=False, name="asked")(y)
    likeness = ops.tanh(ops.expand_dims(x, 1) + ops.expand_dims(y, 2))
    scores = layers.Reshape((4, 7), name="scores")(layers.Dense(1, use_bias=False, name="score")(likeness))
    here = ops.eye(4, 7)
    model = keras.Model([places, said], layers.Softmax(name="shares")(scores * (1 - here) - 1e4 * here))
    fill(model)
    grown(model, 2, "places", "asked", "score")
    return Pair(model, {"places_seen": fed(862, 3, 7, 3), "said": fed(863, 3, 4, 3)}, ported(model, Tour), "same")


_SHARED = "scores score add* sub* mul* multiply* masked_fill* shares softmax* get_item* slice* select*"
slip("tour/read-forwards", "read flip* places", "rnn-direction", "wiring")
slip("tour/not-turned-back", "read flip* places", "rnn-direction shift block-missing", "axis-permutation wiring")
slip("tour/cell-left-behind", "tell read zeros_like", "wiring block-missing", "weights-not-loaded")
slip("tour/likeness-left-linear", "tanh add* score", "activation-missing", "block-missing")
slip("tour/never-twice-forgotten", _SHARED, "attention-mask", "block-missing")
slip("tour/shared-among-the-asking", _SHARED, "softmax-axis", "operation-kind")
defect("tour/asked-for-places", "places asked", "weights-swapped", "weights-perturbed wiring")(
    lambda port: _crossed(port.places, port.asked)
)
defect("tour/gates-turned-round", "tell", "lstm-gate-order", "weights-perturbed weights-swapped")(
    rewritten("tell.*", lambda w: w.unflatten(0, (4, 6))[[1, 0, 2, 3]].flatten(0, 1))
)


def _crossed(one: nn.Linear, two: nn.Linear) -> None:
    one.weight, two.weight = two.weight, one.weight


ways("tour", "scores-as-sums")
one_layer("tour", "never-twice-forgotten+shared-among-the-asking", "cell-left-behind+gates-turned-round")
neighbours("tour", "asked-for-places+likeness-left-linear")
