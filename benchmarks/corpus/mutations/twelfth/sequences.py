"""Steps in time: visits of which some are missing, and a strand read in both senses."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import both_ways, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import defect, neighbours, network, one_layer, slip, ways

_MEANS, _VARIANCES = np.float32([61.0, 0.4, 27.5]), np.float32([210.0, 0.24, 22.0])


class Visits(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.gru1, self.gru2 = nn.GRU(5, 6, batch_first=True), nn.GRU(6, 5, batch_first=True)
        self.join, self.risk = nn.Linear(8, 6), nn.Linear(6, 2)

    def read(self, gru: nn.GRU, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        h, found = x.new_zeros(1, len(x), gru.hidden_size), []
        for t in range(x.shape[1]):
            new, seen = gru(x[:, t : t + 1], h)[1], there[None, :, t, None]
            if "state-lost-where-masked" in self.ways:
                h = new * seen
            elif "masked-by-shares" in self.ways:
                h = h + (new - h) * seen
            else:
                h = new if "padding-read" in self.ways else torch.where(seen, new, h)
            found.append(h[0])
        return torch.stack(found, dim=1)

    def levelled(self, person: torch.Tensor) -> torch.Tensor:
        means, variances = torch.from_numpy(_MEANS), torch.from_numpy(_VARIANCES)
        if "person-as-it-is" in self.ways:
            return person
        return (person - means) / (variances if "variances-for-deviations" in self.ways else variances.sqrt())

    def forward(self, codes: torch.Tensor, person: torch.Tensor) -> torch.Tensor:
        there = (codes != 0).any(2)
        if "known-by-length" in self.ways:
            there = there.flip(1).cummax(1)[0].flip(1)
        x = self.read(self.gru2, self.read(self.gru1, codes, there), there)
        x = x[:, 0 if "first-state-taken" in self.ways else -1]
        x = F.relu(self.join(torch.cat([x, self.levelled(person)], dim=1)))
        return torch.sigmoid(self.risk(x))


@network
def visits() -> Pair:
    """Who will come back to a ward: two GRU layers over visits, of which rows of zeros are none, and the person."""
    keras.backend.clear_session()
    codes, person = layers.Input((6, 5), name="codes"), layers.Input((3,), name="person")
    x = layers.GRU(6, return_sequences=True, name="gru1")(layers.Masking(0.0, name="masking")(codes))
    x = layers.GRU(5, name="gru2")(x)
    y = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(person)
    x = layers.Dense(6, activation="relu", name="join")(layers.Concatenate(name="both")([x, y]))
    model = keras.Model([codes, person], layers.Dense(2, activation="sigmoid", name="risk")(x))
    fill(model)
    grown(model, 2, "risk")
    given = fed(1261, 4, 6, 5)
    given[0, 4:] = given[2, 3:] = given[1, 2] = given[2, 1] = 0
    people = fed(1262, 4, 3) * np.sqrt(_VARIANCES) + _MEANS
    return Pair(model, {"codes": given, "person": people}, ported(model, Visits), "same")


_STEPS = "gru1 gru2 where* masking* ne* not_equal* any* mul* sub* add* get_item* stack*"
slip("visits/padding-read", _STEPS, "attention-mask rnn-last-step", "block-missing wiring")
slip("visits/state-lost-where-masked", _STEPS, "attention-mask", "rnn-last-step wiring block-missing block-extra")
slip("visits/known-by-length", _STEPS + " flip* cummax*", "attention-mask", "block-extra")
slip("visits/first-state-taken", _STEPS + " join both", "rnn-last-step", "rnn-direction wiring")
slip("visits/person-as-it-is", "normalization person sub* div* both join", "input-normalisation block-missing",
     "input-scale wiring")  # fmt: skip
slip("visits/variances-for-deviations", "normalization person sub* div* truediv* sqrt* join both",
     "input-normalisation input-scale", "scale weights-perturbed")  # fmt: skip
defect("visits/gates-of-keras", "gru2", "gru-gate-order", "weights-perturbed weights-swapped")(regated("gru2", 1, 0, 2))
ways("visits", "masked-by-shares")
one_layer("visits", "state-lost-where-masked+gates-of-keras", "first-state-taken+gates-of-keras")


# --- a strand -----------------------------------------------------------------------------------------------


class Motifs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.scan, self.lstm = nn.Conv1d(4, 8, 6), nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.drop, self.dense, self.out = nn.Dropout(0.5), nn.Linear(60, 8), nn.Linear(8, 3)

    def scanned(self, x: torch.Tensor) -> torch.Tensor:
        if "scanned-by-products" in self.ways:
            x = torch.einsum("bctk,ock->bot", x.unfold(2, 6, 1), self.scan.weight) + self.scan.bias[:, None]
        else:
            x = self.scan(x)
        x = F.max_pool1d(F.relu(x), 3)
        return self.drop(x).transpose(1, 2)

    def strand(self, x: torch.Tensor) -> torch.Tensor:
        x = self.scanned(x)
        if "second-reader-not-turned-back" in self.ways:
            x = torch.cat([unrolled(self.lstm, x), unrolled(self.lstm, x, "_reverse").flip(1)], dim=2)
        else:
            x = both_ways(self.lstm, x) if "loops-by-hand" in self.ways else self.lstm(x)[0]
        x = self.dense(x.transpose(1, 2).flatten(1) if "steps-innermost" in self.ways else x.flatten(1))
        return torch.sigmoid(self.out(F.relu(x)))

    def forward(self, bases: torch.Tensor) -> torch.Tensor:
        other = bases.flip(2) if "turned-not-complemented" in self.ways else bases.flip(1, 2)
        if "strands-as-one-batch" in self.ways:
            one, two = self.strand(torch.cat([bases, other])).chunk(2)
        else:
            one, two = self.strand(bases), self.strand(other)
        return torch.maximum(one, two) if "larger-of-both" in self.ways else (one + two) / 2


@network
def motifs() -> Pair:
    """DanQ: motifs along a strand and an LSTM both ways, and the mean of what both senses of the strand give."""
    keras.backend.clear_session()
    bases = layers.Input((24, 4), name="bases")
    scan = layers.Conv1D(8, 6, activation="relu", name="scan")
    lstm = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm")
    dense, out = layers.Dense(8, activation="relu", name="dense"), layers.Dense(3, activation="sigmoid", name="out")
    pool, drop, flatten = layers.MaxPooling1D(3, name="pool"), layers.Dropout(0.5, name="drop"), layers.Flatten()

    def strand(x: keras.KerasTensor) -> keras.KerasTensor:
        return out(dense(flatten(lstm(drop(pool(scan(x)))))))

    model = keras.Model(bases, layers.Average(name="mean")([strand(bases), strand(ops.flip(bases, axis=(1, 2)))]))
    fill(model)
    grown(model, 2, "scan", "out")
    drawn = np.eye(4, dtype=np.float32)[np.random.default_rng(1263).integers(0, 4, (3, 24))]
    return Pair(model, drawn, ported(model, Motifs), "NHWC->NCHW")


slip("motifs/turned-not-complemented", "flip* bases scan*", "channel-order axis-permutation", "wiring operation-kind")
slip("motifs/second-reader-not-turned-back", "lstm* flip*", "rnn-direction", "block-extra axis-permutation")
slip("motifs/steps-innermost", "flatten* transpose* dense*", "flatten-order dense-row-order", "wiring")
slip("motifs/larger-of-both", "mean add* div* truediv* maximum*", "pool-kind operation-kind")
defect("motifs/kernel-turned-round", "scan*", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("scan.weight", lambda weight: weight.flip(2))
)
defect("motifs/gates-of-tensorflow", "lstm*", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("motifs/bias-on-both-sides", "lstm*", "rnn-bias", "weights-perturbed scale")(doubled("lstm"))
ways("motifs", "loops-by-hand", "scanned-by-products", "strands-as-one-batch")
one_layer("motifs", "gates-of-tensorflow+bias-on-both-sides", "second-reader-not-turned-back+bias-on-both-sides")
neighbours("motifs", "steps-innermost+second-reader-not-turned-back", "turned-not-complemented+kernel-turned-round")
