"""Reading: letters on a plate from a picture on its side, and a sentence about a picture."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.fourteenth.registry import drawn_bias, zeroed_row
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import each
from benchmarks.corpus.mutations.twelfth.registry import folded_ahead


class Plates(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.dense, self.letters = nn.Linear(12, 6), nn.Linear(10, 7)
        for name, given in {"gru1": 6, "gru1b": 6, "gru2": 5, "gru2b": 5}.items():
            self.add_module(name, nn.GRU(given, 5, batch_first=True))

    def run(self, name: str, x: torch.Tensor) -> torch.Tensor:
        rnn = self.get_submodule(name)
        backward = name.endswith("b") and "both-read-forwards" not in self.ways
        x = x.flip(1) if backward else x
        x = unrolled(rnn, x) if "loops-by-hand" in self.ways else rnn(x)[0]
        return x.flip(1) if backward and "steps-put-back" in self.ways else x

    def first(self, x: torch.Tensor) -> torch.Tensor:
        if "first-layer-in-one" in self.ways:
            both = nn.GRU(6, 5, batch_first=True, bidirectional=True)
            for rnn, end in ((self.gru1, ""), (self.gru1b, "_reverse")):
                for name, tensor in rnn.named_parameters():
                    getattr(both, name + end).data.copy_(tensor)
            there, back = both(x)[0].chunk(2, dim=2)
            return there + back.flip(1)
        there, back = self.run("gru1", x), self.run("gru1b", x)
        if "product-for-sum" in self.ways:
            return there * back
        return (there + back) / 2 if "mean-for-sum" in self.ways else there + back

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(picture)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.transpose(1, 2).flatten(2) if "channels-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(2)
        x = self.dense(x)
        x = self.first(x if "dense-left-linear" in self.ways else F.relu(x))
        both = [self.run("gru2", x), self.run("gru2b", x)]
        x = self.letters(torch.cat(both[::-1] if "backwards-in-front" in self.ways else both, dim=2))
        return F.softmax(x, dim=1 if "shared-over-steps" in self.ways else 2)


@network
def plates() -> Pair:
    """Keras' example for text in a picture: width before height, steps read backwards that are never put back."""
    keras.backend.clear_session()
    picture = layers.Input((24, 12, 1), name="picture")
    x = picture
    for i in (1, 2):
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x)
    x = layers.Dense(6, activation="relu", name="dense")(layers.Reshape((6, 12), name="steps")(x))
    both = [
        layers.GRU(5, return_sequences=True, go_backwards=name.endswith("b"), name=name)(x)
        for name in ("gru1", "gru1b")
    ]
    x = layers.Add(name="sum")(both)
    both = [
        layers.GRU(5, return_sequences=True, go_backwards=name.endswith("b"), name=name)(x)
        for name in ("gru2", "gru2b")
    ]
    x = layers.Dense(7, name="letters")(layers.Concatenate(name="both")(both))
    model = keras.Model(picture, layers.Activation("softmax", name="softmax")(x))
    fill(model)
    grown(model, 2, "letters")
    for name in ("gru1", "gru1b", "gru2", "gru2b"):
        cell = model.get_layer(name).cell
        cell.bias.assign(cell.bias * 2)
    return Pair(model, fed(1591, 3, 24, 12, 1), ported(model, Plates), "NHWC->NCHW")


_BACK = "gru1b gru2b flip* sum both cat* add*"
_SUM = "sum add* mul* div* truediv* gru1 gru1b"
slip(
    "plates/channels-outermost",
    "steps permute* transpose* flatten* dense",
    "flatten-order reshape-order dense-row-order",
    "wiring",
)
slip("plates/dense-left-linear", "dense relu* gru1 gru1b", "activation-missing", "block-missing")
slip("plates/steps-put-back", _BACK, "rnn-direction axis-permutation", "wiring block-extra")
slip("plates/both-read-forwards", _BACK, "rnn-direction", "block-missing wiring")
slip("plates/mean-for-sum", _SUM, "scale block-extra", "operation-kind")
slip("plates/product-for-sum", _SUM, "operation-kind")
slip("plates/backwards-in-front", "both cat* letters", "concat-order", "operand-order wiring")
slip("plates/shared-over-steps", "softmax* letters", "softmax-axis", "operation-kind")
defect("plates/gates-of-keras", "gru1", "gru-gate-order", "weights-perturbed weights-swapped")(regated("gru1", 1, 0, 2))
defect("plates/one-bias-alone", "gru2", "rnn-bias bias-missing weights-not-loaded weights-perturbed")(
    rewritten("gru2.bias_hh_l0", torch.zeros_like)
)
defect("plates/biases-summed", "gru2b", "rnn-bias gru-reset-after weights-perturbed")(
    each(
        lambda port: port.gru2b.bias_ih_l0.data.add_(port.gru2b.bias_hh_l0),
        lambda port: port.gru2b.bias_hh_l0.data.zero_(),
    )
)
defect("plates/directions-exchanged", "gru1 gru1b", "weights-swapped rnn-direction", "weights-perturbed wiring")(
    exchanged("gru1", "gru1b")
)
ways("plates", "loops-by-hand", "first-layer-in-one")
one_layer("plates", "gates-of-keras+mean-for-sum", "one-bias-alone+backwards-in-front")
neighbours("plates", "channels-outermost+dense-left-linear", "biases-summed+shared-over-steps")


# --- a sentence ---------------------------------------------------------------------------------------------


class Teller(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.bn, self.seen, self.words = nn.BatchNorm1d(9, eps=1e-3), nn.Linear(9, 6), nn.Embedding(12, 6)
        self.lstm, self.next = nn.LSTM(6, 6, batch_first=True), nn.Linear(6, 12)

    def read(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        if "image-as-a-state" in self.ways:
            _, state = self.lstm(image[:, None])
            return self.lstm(words, state)[0]
        x = torch.cat([words, image[:, None]] if "image-behind" in self.ways else [image[:, None], words], dim=1)
        x = unrolled(self.lstm, x) if "loops-by-hand" in self.ways else self.lstm(x)[0]
        return x[:, :-1] if "one-step-late" in self.ways else x[:, 1:]

    def forward(self, image: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        x = self.seen(self.bn(image))
        x = F.relu(x) if "image-bent" in self.ways else x
        y = (
            F.one_hot(words.long(), 12).float() @ self.words.weight
            if "rows-by-products" in self.ways
            else self.words(words)
        )
        y = y * 6**0.5 if "words-scaled" in self.ways else y
        x = self.next(self.read(x, y))
        return F.log_softmax(x, dim=2) if "logarithms-of-shares" in self.ways else F.softmax(x, dim=2)


@network
def teller() -> Pair:
    """Show and tell: a picture's features, normed and made as wide as a word, are what an LSTM reads first."""
    keras.backend.clear_session()
    image, words = layers.Input((9,), name="image"), layers.Input((5,), dtype="int32", name="words")
    x = layers.Dense(6, name="seen")(layers.BatchNormalization(name="bn")(image))
    y = layers.Embedding(12, 6, name="words_table")(words)
    x = layers.Concatenate(axis=1, name="told")([ops.expand_dims(x, 1), y])
    x = layers.LSTM(6, return_sequences=True, name="lstm")(x)[:, 1:]
    model = keras.Model([image, words], layers.Dense(12, activation="softmax", name="next")(x))
    fill(model)
    grown(model, 3, "next")
    lstm = model.get_layer("lstm").cell
    lstm.kernel.assign(lstm.kernel * 2)
    given = counted(1592, 12, 4, 5, least=1)
    given[0, 3:] = given[2, 4:] = 0
    port = ported(model, Teller, rename=lambda name: name.removesuffix("_table"))
    return Pair(model, {"image": np.abs(fed(1593, 4, 9)), "words": given}, port, "same")


_TABLE = "words words_table told cat* lstm sub*"
_SEEN = "bn seen relu* told expand_dims* getitem* get_item* cat*"
slip("teller/image-bent", _SEEN, "activation-extra", "block-extra")
slip(
    "teller/image-behind",
    "told cat* lstm getitem* get_item* slice*",
    "concat-order",
    "operand-order wiring shift axis-permutation",
)
slip("teller/one-step-late", "lstm getitem* get_item* slice* next", "shift wiring", "rnn-last-step embedding-offset")
slip("teller/words-scaled", f"{_TABLE} mul*", "embedding-scale", "block-extra weights-perturbed")
slip("teller/logarithms-of-shares", "next softmax* log_softmax*", "logits activation-kind", "operation-kind")
defect(
    "teller/padding-row-of-zeros", _TABLE, "weights-perturbed weights-not-loaded embedding-offset", "attention-mask"
)(zeroed_row("words"))
defect("teller/rows-from-one", _TABLE, "embedding-offset", "weights-perturbed shift weights-swapped axis-permutation")(
    rewritten("words.weight", lambda table: table.roll(1, 0))
)
defect("teller/gates-of-another", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("teller/forget-bias-added-again", "lstm", "rnn-bias weights-perturbed")(
    rewritten("lstm.bias_ih_l0", lambda bias: bias + torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(6))
)
defect("teller/second-bias-as-drawn", "lstm", "rnn-bias weights-not-loaded weights-perturbed")(drawn_bias("lstm"))
defect("teller/bn-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("teller/spread-for-variance", "bn", "bn-stats", "weights-perturbed")(
    rewritten("bn.running_var", lambda variance: variance.sqrt())
)
ways("teller", "image-as-a-state", "loops-by-hand", "rows-by-products")
control("teller/norm-in-the-dense")(folded_ahead("bn", "seen"))
one_layer(
    "teller", "gates-of-another+forget-bias-added-again", "rows-from-one+words-scaled", "image-bent+spread-for-variance"
)
neighbours("teller", "image-bent+padding-row-of-zeros", "second-bias-as-drawn+logarithms-of-shares")
