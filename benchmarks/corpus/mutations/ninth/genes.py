"""What lives: a stretch of DNA, the fragments of a peptide, and a molecule that is written as a word."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import (
    both_ways,
    defect,
    neighbours,
    network,
    one_layer,
    regated,
    slip,
    unrolled,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to


class Genome(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.point = nn.Conv1d(4, 6, 7, padding=3), nn.Conv1d(6, 6, 1)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm1d(6, eps=1e-3) for _ in range(3))
        self.pool = nn.Linear(6, 6, bias=False)
        self.far, self.near = nn.Conv1d(6, 6, 3, padding=4, dilation=4, bias=False), nn.Conv1d(6, 6, 1)
        self.last, self.tracks = nn.Linear(6, 8), nn.Linear(8, 3)

    def gelu(self, x: torch.Tensor) -> torch.Tensor:
        if "gelu-by-silu" in self.ways:
            return F.silu(1.702 * x) / 1.702
        return F.gelu(x) if "gelu-of-torch" in self.ways else x * torch.sigmoid(1.702 * x)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2).unflatten(1, (-1, 2))
        if "pool-of-means" in self.ways:
            return x.mean(2).transpose(1, 2)
        shares = F.softmax(self.pool(x), dim=3 if "shared-among-the-channels" in self.ways else 2)
        return (x * shares).sum(2).transpose(1, 2)

    def forward(self, bases: torch.Tensor) -> torch.Tensor:
        x = self.stem(bases[:, [0, 3, 2, 1]] if "bases-in-another-order" in self.ways else bases)
        x = self.pooled(x + self.point(self.gelu(self.bn1(x))))
        y = self.near(self.gelu(self.bn3(self.far(self.gelu(self.bn2(x))))))
        x = x + y
        if "cropped-by-padding" in self.ways:
            x = F.pad(x, (-4, -4))
        else:
            x = x[:, :, :16] if "first-bins-kept" in self.ways else x[:, :, 4:-4]
        x = self.tracks(self.gelu(self.last(x.transpose(1, 2))))
        return F.relu(x) if "relu-for-softplus" in self.ways else F.softplus(x)


@network
def genome() -> Pair:
    """Basenji and Enformer: a quick gelu, a pool whose shares are learnt, a kernel that looks far, and a crop."""
    keras.backend.clear_session()
    bases = layers.Input((48, 4), name="bases")

    def gelu(x: keras.KerasTensor) -> keras.KerasTensor:
        return x * ops.sigmoid(1.702 * x)

    x = layers.Conv1D(6, 7, padding="same", name="stem")(bases)
    y = layers.Conv1D(6, 1, name="point")(gelu(layers.BatchNormalization(name="bn1")(x)))
    x = layers.Reshape((24, 2, 6), name="pairs")(layers.Add(name="sum1")([x, y]))
    x = ops.sum(x * layers.Softmax(axis=2, name="shares")(layers.Dense(6, use_bias=False, name="pool")(x)), axis=2)
    y = gelu(layers.BatchNormalization(name="bn2")(x))
    y = layers.Conv1D(6, 3, padding="same", dilation_rate=4, use_bias=False, name="far")(y)
    y = layers.Conv1D(6, 1, name="near")(gelu(layers.BatchNormalization(name="bn3")(y)))
    x = layers.Cropping1D(4, name="crop")(layers.Add(name="sum2")([x, y]))
    x = gelu(layers.Dense(8, name="last")(x))
    model = keras.Model(bases, layers.Dense(3, activation="softplus", name="tracks")(x))
    fill(model)
    grown(model, 2, "stem", "pool")
    letters = np.eye(4, dtype=np.float32)[counted(921, 4, 2, 48)]
    return Pair(model, letters, ported(model, Genome), "NHWC->NCHW")


_POOL = "pool softmax shares pairs mul* multiply* sum_* sum mean* unflatten*"
slip("genome/gelu-of-torch", "mul* multiply* sigmoid* gelu* last", "activation-kind gelu-approx", "operation-kind")
slip("genome/pool-of-means", _POOL, "pool-kind block-missing", "operation-kind")
slip("genome/shared-among-the-channels", _POOL, "softmax-axis", "operation-kind")
slip("genome/bases-in-another-order", "stem bases get_item*", "channel-order", "weights-perturbed kernel-layout")
slip("genome/first-bins-kept", "crop get_item* slice* last", "shift pad-asymmetry", "wiring")
slip("genome/relu-for-softplus", "tracks relu* softplus*", "activation-kind", "operation-kind")
defect("genome/far-not-dilated", "far", "dilation", "pad-mode")(set_to("far", dilation=(1,), padding=(1,)))
defect("genome/bn-eps-of-torch", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("genome/pool-unturned", "pool", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("pool.weight", lambda weight: weight.T)
)
ways("genome", "gelu-by-silu", "cropped-by-padding")
one_layer("genome", "shared-among-the-channels+pool-unturned")
neighbours("genome", "far-not-dilated+bn-eps-of-torch", "gelu-of-torch+relu-for-softplus")


# --- a peptide ----------------------------------------------------------------------------------------------


class Peptide(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.acids, self.both = nn.Embedding(12, 6), nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.read, self.score = nn.GRU(10, 8, batch_first=True), nn.Linear(8, 1)
        self.meta, self.tell, self.ions = nn.Linear(4, 8), nn.GRU(8, 7, batch_first=True), nn.Linear(7, 3)

    def forward(self, sequence: torch.Tensor, charge: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
        acids = self.acids(sequence)
        x = both_ways(self.both, acids) if "loops-by-hand" in self.ways else self.both(acids)[0]
        if "reset-before-the-product" in self.ways:
            x = unrolled(self.read, x, reset_before=True)
        else:
            x = unrolled(self.read, x) if "loops-by-hand" in self.ways else self.read(x)[0]
        scores = self.score(x)
        scores = scores if "scores-left-linear" in self.ways else torch.tanh(scores)
        x = (x * F.softmax(scores, dim=2 if "shared-among-the-features" in self.ways else 1)).sum(1)
        both = [energy, charge] if "energy-first" in self.ways else [charge, energy]
        x = x if "charge-forgotten" in self.ways else x * self.meta(torch.cat(both, dim=1))
        steps = x[:, None].expand(-1, 4, -1)
        if "repeated-over-the-batch" in self.ways:
            steps = x.repeat(4, 1).view(-1, 4, 8)
        x = self.ions(unrolled(self.tell, steps) if "loops-by-hand" in self.ways else self.tell(steps)[0])
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.3).flatten(1)


@network
def peptide() -> Pair:
    """Prosit: how often each fragment of a peptide is seen, by its amino acids, its charge and the energy."""
    keras.backend.clear_session()
    sequence = layers.Input((8,), dtype="int32", name="sequence")
    charge, energy = layers.Input((3,), name="charge"), layers.Input((1,), name="energy")
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="both")(
        layers.Embedding(12, 6, name="acids")(sequence)
    )
    x = layers.GRU(8, return_sequences=True, name="read")(x)
    x = ops.sum(x * layers.Softmax(axis=1, name="shares")(layers.Dense(1, activation="tanh", name="score")(x)), axis=1)
    meta = layers.Dense(8, name="meta")(layers.Concatenate(name="known")([charge, energy]))
    x = layers.RepeatVector(4, name="repeated")(layers.Multiply(name="told")([x, meta]))
    x = layers.Dense(3, name="ions")(layers.GRU(7, return_sequences=True, name="tell")(x))
    x = layers.Flatten(name="flatten")(layers.LeakyReLU(name="leaky")(x))
    model = keras.Model([sequence, charge, energy], x)
    fill(model)
    grown(model, 3, "score", "meta")
    model.get_layer("acids").embeddings.assign(3 * model.get_layer("acids").embeddings)
    inputs = {"sequence": counted(922, 12, 5, 8), "charge": np.eye(3, dtype=np.float32)[[0, 1, 2, 1, 0]],
              "energy": fed(923, 5, 1)}  # fmt: skip
    return Pair(model, inputs, ported(model, Peptide), "same")


_SHARES = "score tanh* shares softmax* mul* multiply* sum*"
slip("peptide/reset-before-the-product", "read linear* stack*", "gru-reset-after", "weights-perturbed rnn-bias")
slip("peptide/scores-left-linear", _SHARES, "activation-missing", "block-missing")
slip("peptide/shared-among-the-features", _SHARES, "softmax-axis", "operation-kind pool-kind block-missing")
slip("peptide/energy-first", "known cat* meta", "concat-order", "operand-order channel-order")
slip("peptide/charge-forgotten", "told mul* multiply* meta repeated", "block-missing", "residual-missing wiring")
slip("peptide/repeated-over-the-batch", "repeated repeat* view* expand* told mul* tell",
     "axis-permutation reshape-order", "wiring shift")  # fmt: skip
slip("peptide/slope-of-torch", "leaky leaky_relu* ions", "activation-param")
defect("peptide/gates-of-keras", "both", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("both", 1, 0, 2)
)
defect("peptide/recurrent-bias-lost", "tell", "rnn-bias", "weights-not-loaded weights-perturbed bias-missing")(
    rewritten("tell.bias_hh_l0", torch.zeros_like)
)
ways("peptide", "loops-by-hand")
one_layer("peptide", "charge-forgotten+repeated-over-the-batch")
neighbours("peptide", "scores-left-linear+energy-first", "gates-of-keras+reset-before-the-product")
neighbours("peptide", "recurrent-bias-lost+slope-of-torch")


# --- a molecule ---------------------------------------------------------------------------------------------


class Smiles(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2, self.wide = nn.Conv1d(9, 5, 3), nn.Conv1d(5, 6, 3), nn.Linear(30, 8)
        self.mean, self.spread, self.begin = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(4, 6)
        self.tell1 = nn.GRU(6, 7, batch_first=True)
        self.tell2 = nn.GRU(7, 7, batch_first="samples-for-steps" not in ways)
        self.out = nn.Linear(7, 9)

    def told(self, gru: nn.GRU, x: torch.Tensor) -> torch.Tensor:
        return unrolled(gru, x) if "loops-by-hand" in self.ways else gru(x)[0]

    def forward(self, letters: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        x = letters if "kernels-along-the-alphabet" in self.ways else letters.transpose(1, 2)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.wide(x.flatten(1) if "channels-outermost" in self.ways else x.transpose(1, 2).flatten(1))
        x = F.elu(x) if "elu-for-selu" in self.ways else F.selu(x)
        spread = self.spread(x)
        spread = torch.exp(spread if "variance-for-deviation" in self.ways else spread / 2)
        noise = noise if "share-of-the-noise-forgotten" in self.ways else noise * 0.1
        x = self.begin(self.mean(x) + spread * noise)
        x = x if "begin-left-linear" in self.ways else F.selu(x)
        x = self.out(self.told(self.tell2, self.told(self.tell1, x[:, None].repeat(1, 9, 1))))
        return F.softmax(x, dim=1 if "letters-over-the-places" in self.ways else 2)


@network
def smiles() -> Pair:
    """A molecule's word as a code and back: kernels along the word, a code with noise, two GRU layers."""
    keras.backend.clear_session()
    letters, noise = layers.Input((9, 9), name="letters"), layers.Input((4,), name="noise")
    x = layers.Conv1D(5, 3, activation="relu", name="conv1")(letters)
    x = layers.Flatten(name="flatten")(layers.Conv1D(6, 3, activation="relu", name="conv2")(x))
    x = layers.Dense(8, activation="selu", name="wide")(x)
    mean, spread = layers.Dense(4, name="mean")(x), layers.Dense(4, name="spread")(x)
    x = mean + ops.exp(spread / 2) * (noise * 0.1)
    x = layers.RepeatVector(9, name="repeated")(layers.Dense(6, activation="selu", name="begin")(x))
    for name in ("tell1", "tell2"):
        x = layers.GRU(7, return_sequences=True, name=name)(x)
    out = layers.TimeDistributed(layers.Dense(9, activation="softmax", name="out"), name="each")(x)
    model = keras.Model([letters, noise], out)
    fill(model)
    words = np.eye(9, dtype=np.float32)[counted(924, 9, 4, 9)]
    grown(model, 2, "conv1", "conv2", "begin")
    make = ported(model, Smiles, rename=lambda name: name.removeprefix("each."))
    return Pair(model, {"letters": words, "noise": fed(925, 4, 4)}, make, "same")


_CODE = "exp* div* true_divide* divide* mul* multiply* add* mean spread"
slip("smiles/kernels-along-the-alphabet", "conv1 transpose* letters", "axis-permutation", "wiring block-missing")
slip("smiles/channels-outermost", "flatten* transpose* wide", "flatten-order dense-row-order", "wiring")
slip("smiles/elu-for-selu", "wide selu* elu* spread mean", "activation-kind", "activation-param scale operation-kind")
slip("smiles/variance-for-deviation", _CODE, "block-missing scale", "operation-kind")
slip("smiles/share-of-the-noise-forgotten", _CODE, "scale block-missing", "input-scale")
slip("smiles/begin-left-linear", "begin selu* repeated repeat*", "activation-missing", "block-missing")
slip("smiles/samples-for-steps", "tell2", "axis-permutation wiring", "rnn-direction operation-kind")
slip("smiles/letters-over-the-places", "out each each.* each/* softmax*", "softmax-axis", "operation-kind")
ways("smiles", "loops-by-hand")
one_layer("smiles", "variance-for-deviation+share-of-the-noise-forgotten")
neighbours("smiles", "begin-left-linear+elu-for-selu")
