"""Voices: whose a voice is, what of a song belongs to whom, and how long each sound of a text lasts."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import both_ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import (
    control,
    defect,
    folded_ahead,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)


class Timbre(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.conv_bn = nn.Conv1d(6, 8, 3, padding=1), nn.BatchNorm1d(8, eps=1e-3)
        for i in (1, 2, 3):
            self.add_module(f"branch{i}", nn.Conv1d(2, 2, 3, padding=2, dilation=2))
        self.point, self.point_bn = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8, eps=1e-3)
        self.squeeze, self.excite = nn.Linear(8, 3), nn.Linear(3, 8)
        self.look, self.score = nn.Conv1d(8, 4, 1), nn.Conv1d(4, 8, 1)
        self.stats_bn, self.head = nn.BatchNorm1d(16, eps=1e-3), nn.Linear(16, 5)

    def branched(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = x.chunk(4, dim=1)
        found, y = [first], 0
        for i, part in enumerate(rest, 1):
            branch = self.get_submodule(f"branch{i}")
            part = part if "branches-apart" in self.ways or i == 1 else part + y
            if "branches-not-dilated" in self.ways:
                y = F.relu(F.conv1d(part, branch.weight, branch.bias, padding=1))
            else:
                y = F.relu(branch(part))
            found.append(y)
        return torch.cat(found, dim=1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        x = self.conv_bn(F.relu(self.conv(frames)))
        y = self.point_bn(F.relu(self.point(self.branched(x))))
        gate = self.excite(F.relu(self.squeeze(y.mean(2))))
        y = y * torch.sigmoid(gate)[:, :, None]
        x = y if "skip-forgotten" in self.ways else x + y
        shares = self.score(torch.tanh(self.look(x)))
        shares = F.softmax(shares, dim=1 if "shared-among-features" in self.ways else 2)
        mean = torch.einsum("bct,bct->bc", shares, x) if "means-by-einsum" in self.ways else (shares * x).sum(2)
        spread = ((shares * x**2).sum(2) - mean**2).clamp(min=1e-4)
        spread = spread if "variance-for-deviation" in self.ways else spread.sqrt()
        both = [spread, mean] if "spread-before-mean" in self.ways else [mean, spread]
        return self.head(self.stats_bn(torch.cat(both, dim=1)))


@network
def timbre() -> Pair:
    """ECAPA: parts of the features that hear one another, a gate, and means and spreads by learnt shares."""
    keras.backend.clear_session()
    frames = layers.Input((10, 6), name="frames")
    x = layers.Conv1D(8, 3, padding="same", activation="relu", name="conv")(frames)
    x = layers.BatchNormalization(name="conv_bn")(x)
    first, *rest = ops.split(x, 4, axis=2)
    found = [first]
    for i, part in enumerate(rest, 1):
        part = part if i == 1 else layers.Add(name=f"chain{i}")([part, found[-1]])
        conv = layers.Conv1D(2, 3, padding="same", dilation_rate=2, activation="relu", name=f"branch{i}")
        found.append(conv(part))
    y = layers.Conv1D(8, 1, activation="relu", name="point")(layers.Concatenate(name="joined")(found))
    y = layers.BatchNormalization(name="point_bn")(y)
    gate = layers.Dense(3, activation="relu", name="squeeze")(layers.GlobalAveragePooling1D(name="pool")(y))
    gate = layers.Reshape((1, 8), name="row")(layers.Dense(8, activation="sigmoid", name="excite")(gate))
    x = layers.Add(name="skip")([x, layers.Multiply(name="gated")([y, gate])])
    shares = layers.Conv1D(8, 1, name="score")(layers.Conv1D(4, 1, activation="tanh", name="look")(x))
    shares = layers.Softmax(axis=1, name="shares")(shares)
    mean = ops.sum(shares * x, axis=1)
    spread = ops.sqrt(ops.maximum(ops.sum(shares * ops.square(x), axis=1) - ops.square(mean), 1e-4))
    x = layers.BatchNormalization(name="stats_bn")(layers.Concatenate(name="stats")([mean, spread]))
    model = keras.Model(frames, layers.Dense(5, name="head")(x))
    fill(model)
    grown(model, 3, "score", "excite")
    return Pair(model, fed(1221, 3, 10, 6), ported(model, Timbre), "NHWC->NCHW")


_STATS = "stats cat* sum* mul* multiply* square* pow* sqrt* sub* subtract* clamp* maximum* einsum*"
_BRANCHES = "branch? chain? add* relu* joined cat* conv1d* chunk* split*"
slip("timbre/branches-apart", _BRANCHES, "residual-missing", "wiring block-missing")
slip("timbre/branches-not-dilated", _BRANCHES, "dilation", "pad-mode")
slip("timbre/skip-forgotten", "skip add* look", "residual-missing", "wiring block-missing")
slip("timbre/shared-among-features", "shares softmax* score", "softmax-axis", "operation-kind")
slip("timbre/variance-for-deviation", _STATS, "block-missing", "operation-kind scale wiring")
slip("timbre/spread-before-mean", _STATS + " stats_bn", "concat-order", "operand-order channel-order wiring")
defect("timbre/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
ways("timbre", "means-by-einsum")
control("timbre/stats-folded")(folded_ahead("stats_bn", "head"))
one_layer("timbre", "variance-for-deviation+spread-before-mean", "branches-apart+branches-not-dilated")
neighbours("timbre", "skip-forgotten+shared-among-features")


# --- a song -------------------------------------------------------------------------------------------------


class Band(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down, self.widen = nn.Conv1d(1, 6, 8, stride=4), nn.Conv1d(6, 12, 1)
        self.lstm, self.narrow = nn.LSTM(6, 5, batch_first=True, bidirectional=True), nn.Linear(10, 6)
        self.blend, self.up = nn.Conv1d(6, 12, 3, padding=1), nn.ConvTranspose1d(6, 2, 8, stride=4)

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        if "gate-by-torch" in self.ways:
            return F.glu(x, dim=1)
        value, gate = x.chunk(2, dim=1)
        value, gate = (gate, value) if "gate-in-front" in self.ways else (value, gate)
        return value * torch.sigmoid(gate)

    def forward(self, song: torch.Tensor) -> torch.Tensor:
        mean, spread = (
            song.mean(2, keepdim=True),
            song.std(2, correction=int("std-of-torch" in self.ways), keepdim=True),
        )
        x = self.down((song - mean) / (spread + 1e-5))
        skip = self.gated(self.widen(x if "down-left-linear" in self.ways else F.relu(x)))
        y = skip.transpose(1, 2)
        y = both_ways(self.lstm, y) if "loops-by-hand" in self.ways else self.lstm(y)[0]
        if "backward-before-forward" in self.ways:
            y = torch.cat(y.chunk(2, dim=2)[::-1], dim=2)
        y = self.narrow(y).transpose(1, 2)
        x = self.gated(self.blend(y + skip))
        x = self.up(x)
        x = x if "level-not-given-back" in self.ways else x * spread + mean
        return x.reshape(len(x), 36, 2) if "stems-by-a-view" in self.ways else x.transpose(1, 2)


@network
def band() -> Pair:
    """Demucs of one level: a song is levelled, halves gate halves, an LSTM both ways, and two stems from a skip."""
    keras.backend.clear_session()
    song = layers.Input((36, 1), name="song")

    def gated(x: keras.KerasTensor) -> keras.KerasTensor:
        value, gate = ops.split(x, 2, axis=2)
        return value * ops.sigmoid(gate)

    mean, spread = ops.mean(song, axis=1, keepdims=True), ops.std(song, axis=1, keepdims=True)
    x = layers.Conv1D(6, 8, 4, activation="relu", name="down")((song - mean) / (spread + 1e-5))
    skip = gated(layers.Conv1D(12, 1, name="widen")(x))
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="lstm")(skip)
    y = layers.Add(name="skip")([layers.Dense(6, name="narrow")(y), skip])
    x = gated(layers.Conv1D(12, 3, padding="same", name="blend")(y))
    x = layers.Conv1DTranspose(2, 8, 4, name="up")(x)
    model = keras.Model(song, x * spread + mean)
    fill(model)
    grown(model, 2, "down", "narrow")
    return Pair(model, 3 * fed(1222, 3, 36, 1) + 1, ported(model, Band), "NHWC->NCHW")


_LEVEL = "mean* std* sub* subtract* div* truediv* true_divide* divide* add* song down"
_GATE = "split* chunk* sigmoid* mul* multiply* widen blend glu*"
slip("band/std-of-torch", _LEVEL, "std-ddof", "scale input-normalisation")
slip("band/gate-in-front", _GATE, "concat-order wiring channel-order", "operand-order")
slip("band/down-left-linear", "down relu* widen", "activation-missing", "block-missing")
slip("band/backward-before-forward", "lstm narrow cat* chunk*", "concat-order rnn-direction",
     "operand-order channel-order block-extra")  # fmt: skip
slip("band/level-not-given-back", "up mul* multiply* add* transpose*", "block-missing", "scale wiring")
slip("band/stems-by-a-view", "up mul* multiply* add* reshape* transpose*",
     "reshape-order flatten-order axis-permutation", "wiring")  # fmt: skip
defect("band/bias-on-both-sides", "lstm", "rnn-bias", "weights-perturbed scale")(doubled("lstm"))
defect("band/kernel-turned-round", "up", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("up.weight", lambda weight: weight.flip(2))
)
ways("band", "gate-by-torch", "loops-by-hand")
one_layer("band", "backward-before-forward+bias-on-both-sides", "kernel-turned-round+level-not-given-back")
neighbours("band", "down-left-linear+gate-in-front")


# --- how long -----------------------------------------------------------------------------------------------


def _places() -> np.ndarray:
    """Waves of six places in eight features: all sines, then all cosines."""
    angles = np.arange(6)[:, None] / 100 ** (np.arange(4) / 4)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class Lengths(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.sounds, self.pitch = nn.Embedding(12, 8), nn.Linear(1, 8)
        self.wide, self.narrow, self.norm = nn.Conv1d(8, 10, 3), nn.Conv1d(10, 8, 1), nn.LayerNorm(8, eps=1e-6)
        self.hear, self.hear_norm = nn.Conv1d(8, 6, 3), nn.LayerNorm(6, eps=1e-6)
        self.length, self.mel = nn.Linear(6, 1), nn.Linear(8, 5)

    def near(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        around = (2, 0) if "padded-as-causal" in self.ways and conv is self.wide else (1, 1)
        return F.relu(conv(F.pad(x.transpose(1, 2), around)).transpose(1, 2))

    def spread(self, x: torch.Tensor, lasting: torch.Tensor) -> torch.Tensor:
        ends = lasting.cumsum(1)
        frames = torch.arange(9)[None, :, None] + int("frames-from-one" in self.ways)
        there = (frames >= (ends - lasting)[:, None]) & (frames < ends[:, None])
        if "repeated-by-index" in self.ways:
            return there.any(2)[:, :, None] * x.gather(1, there.int().argmax(2)[:, :, None].expand(-1, -1, 8))
        return there.to(x.dtype) @ x

    def forward(self, sounds: torch.Tensor, pitch: torch.Tensor, lasting: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = torch.from_numpy(_places())
        if "sines-and-cosines-in-turn" in self.ways:
            places = torch.stack(places.chunk(2, dim=1), dim=2).flatten(1)
        x = self.sounds(sounds)
        x = (x * 8**0.5 if "sounds-scaled" in self.ways else x) + places
        y = self.narrow(self.near(self.wide, x).transpose(1, 2)).transpose(1, 2)
        x = x + self.norm(y) if "norm-before-the-sum" in self.ways else self.norm(x + y)
        length = self.length(self.hear_norm(self.near(self.hear, x)))[:, :, 0]
        x = self.spread(x if "pitch-forgotten" in self.ways else x + self.pitch(pitch[:, :, None]), lasting)
        return self.mel(x), length if "length-may-be-negative" in self.ways else F.softplus(length)


@network
def lengths() -> Pair:
    """FastSpeech 2's parts: how long each sound lasts, its pitch, and sounds repeated for as many frames."""
    keras.backend.clear_session()
    sounds, pitch = layers.Input((6,), dtype="int32", name="sounds"), layers.Input((6,), name="pitch")
    lasting = layers.Input((6,), dtype="int32", name="lasting")
    x = layers.Embedding(12, 8, name="sounds_table")(sounds) + _places()
    y = layers.Conv1D(10, 3, padding="same", activation="relu", name="wide")(x)
    y = layers.Add(name="skip")([x, layers.Conv1D(8, 1, name="narrow")(y)])
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(y)
    length = layers.Conv1D(6, 3, padding="same", activation="relu", name="hear")(x)
    length = layers.LayerNormalization(epsilon=1e-6, name="hear_norm")(length)
    length = ops.softplus(layers.Dense(1, name="length")(length)[:, :, 0])
    x = layers.Add(name="sung")([x, layers.Dense(8, name="pitch_dense")(ops.expand_dims(pitch, 2))])
    ends, frames = ops.cumsum(lasting, axis=1), np.arange(9, dtype=np.int32)[None, :, None]
    begun = ops.greater_equal(frames, ops.expand_dims(ends - lasting, 1))
    there = ops.logical_and(begun, ops.less(frames, ops.expand_dims(ends, 1)))
    x = ops.matmul(ops.cast(there, "float32"), x)
    model = keras.Model([sounds, pitch, lasting], [layers.Dense(5, name="mel")(x), length])
    fill(model)
    inputs = {"sounds": counted(1223, 12, 3, 6), "pitch": fed(1224, 3, 6), "lasting": counted(1225, 3, 3, 6)}
    rename = {"sounds_table": "sounds", "pitch_dense": "pitch"}
    return Pair(model, inputs, ported(model, Lengths, rename=lambda name: rename.get(name, name)), "same")


_SPREAD = "matmul* greater* less* ge* lt* logical_and* and* bitwise* cumsum* add* cast* to* arange* mel __* sung"
slip("lengths/padded-as-causal", "wide pad*", "pad-asymmetry shift", "pad-mode")
slip("lengths/frames-from-one", _SPREAD, "shift block-extra", "wiring embedding-offset")
slip("lengths/sines-and-cosines-in-turn", "sounds sounds_table add* stack* flatten* wide skip",
     "concat-order channel-order axis-permutation", "weights-perturbed")  # fmt: skip
slip("lengths/sounds-scaled", "sounds sounds_table mul* add*", "embedding-scale")
slip("lengths/norm-before-the-sum", "norm skip add*", "residual-order wiring", "operand-order")
slip("lengths/pitch-forgotten", "pitch pitch_dense sung add* matmul*", "block-missing residual-missing", "wiring")
slip("lengths/length-may-be-negative", "length softplus* get_item*", "activation-missing", "block-missing")
defect("lengths/norm-eps-of-keras", "norm hear_norm", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
ways("lengths", "repeated-by-index")
one_layer("lengths", "sines-and-cosines-in-turn+sounds-scaled", "norm-before-the-sum+norm-eps-of-keras")
neighbours("lengths", "pitch-forgotten+frames-from-one")
