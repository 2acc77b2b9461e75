"""Sequences: words of which some are padding, an attention without a softmax, and bands of noise."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.eleventh.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten


class Ratings(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.drop = nn.Embedding(12, 6), nn.Dropout(0.4)
        self.lstm1, self.lstm2 = nn.LSTM(6, 5, batch_first=True), nn.LSTM(5, 5, batch_first=True)
        self.wide, self.out = nn.Linear(10, 6), nn.Linear(6, 1)

    def read(self, lstm: nn.LSTM, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if "packed" in self.ways:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=x.shape[1])[0]
        return unrolled(lstm, x) if "loops-by-hand" in self.ways else lstm(x)[0]

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        lengths = (words > 0).sum(1)
        x = self.words((words + 1) % 12 if "words-one-further" in self.ways else words)
        x = self.drop(x * 6**0.5 if "words-scaled" in self.ways else x)
        x = self.read(self.lstm1, x, lengths)
        mean = x.mean(1) if "padding-averaged" in self.ways else (x * (words > 0)[:, :, None]).sum(1) / lengths[:, None]
        y = self.read(self.lstm2, x, lengths)
        y = y[:, -1] if "padding-read" in self.ways else y[torch.arange(len(y)), lengths - 1]
        x = torch.cat([mean, y] if "mean-first" in self.ways else [y, mean], dim=1)
        if "dense-in-half" in self.ways:
            x = F.linear(x.bfloat16(), self.wide.weight.bfloat16(), self.wide.bias.bfloat16()).float()
        else:
            x = self.wide(x)
        x = self.out(F.relu(x))
        return torch.tanh(x) if "tanh-for-sigmoid" in self.ways else torch.sigmoid(x)


@network
def ratings() -> Pair:
    """What a review says: two LSTM layers that stop where the padding begins, their last step and their mean."""
    keras.backend.clear_session()
    words = layers.Input((7,), dtype="int32", name="tokens")
    x = layers.Dropout(0.4, name="drop")(layers.Embedding(12, 6, mask_zero=True, name="words")(words))
    x = layers.LSTM(5, return_sequences=True, name="lstm1")(x)
    y = layers.GlobalAveragePooling1D(name="mean")(x)
    x = layers.Concatenate(name="joined")([layers.LSTM(5, name="lstm2")(x), y])
    x = layers.Dense(6, activation="relu", name="wide")(x)
    model = keras.Model(words, layers.Dense(1, activation="sigmoid", name="out")(x))
    fill(model)
    grown(model, 3, "wide", "out")
    tokens = counted(1161, 12, 5, 7, least=1)
    tokens[0, 4:] = tokens[2, 2:] = tokens[3, 6:] = 0
    return Pair(model, tokens, ported(model, Ratings), "same")


def _dropping(drop: nn.Dropout) -> None:
    """As where ``eval`` was called before this layer was put in."""
    drop.train(True)
    drop.train = lambda mode=True: drop  # type: ignore[method-assign]


slip("ratings/words-one-further", "words add* remainder* drop", "embedding-offset", "shift weights-perturbed")
slip("ratings/words-scaled", "words mul* drop", "embedding-scale", "scale block-extra")
slip("ratings/padding-averaged", "mean* sum* mul* div* truediv* joined cat*", "attention-mask pool-kind",
     "scale block-missing operation-kind")  # fmt: skip
slip("ratings/padding-read", "lstm2 get_item* slice* joined cat*", "rnn-last-step attention-mask", "wiring shift")
slip("ratings/mean-first", "joined cat* wide", "concat-order", "operand-order channel-order")
slip("ratings/dense-in-half", "wide linear* relu* to* bfloat16* float*", "dtype")
slip("ratings/tanh-for-sigmoid", "out sigmoid* tanh*", "activation-kind", "operation-kind")
defect("ratings/dropout-still-on", "drop", "dropout-mode")(lambda port: _dropping(port.drop))
defect("ratings/bias-on-both-sides", "lstm1", "rnn-bias", "weights-perturbed scale")(doubled("lstm1"))
defect("ratings/output-gate-first", "lstm2", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm2", 3, 0, 1, 2)
)
ways("ratings", "packed", "loops-by-hand")
one_layer("ratings", "padding-read+output-gate-first", "padding-averaged+mean-first")
neighbours("ratings", "words-one-further+bias-on-both-sides", "dense-in-half+tanh-for-sigmoid")


# --- without a softmax --------------------------------------------------------------------------------------


def _waves(count: int, first: int = 0, *, joined: bool = False) -> np.ndarray:
    """Sines and cosines of places by turns, or all sines before all cosines."""
    angles = np.arange(first, first + count)[:, None] * 10000.0 ** (-np.arange(0, 8, 2) / 8)
    both = [np.sin(angles), np.cos(angles)]
    found = np.concatenate(both, axis=1) if joined else np.stack(both, axis=2).reshape(count, 8)
    return found.astype(np.float32)


class Summed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.norm1, self.norm2 = nn.Embedding(11, 8), nn.LayerNorm(8, eps=1e-3), nn.LayerNorm(8, eps=1e-3)
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow, self.out = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 5)

    def feature(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(2, (2, 4)).transpose(1, 2)
        if "rectified-features" in self.ways:
            return F.relu(x) + 1e-3
        return torch.exp(x) if "exponential-features" in self.ways else F.elu(x) + 1

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        q, k = self.feature(self.query(x)), self.feature(self.key(x))
        v = self.value(x).unflatten(2, (2, 4)).transpose(1, 2)
        if "by-scores" in self.ways:
            scores = (q @ k.mT).tril()
            y = scores @ v / (scores.sum(3, keepdim=True) + 1e-6)
        else:
            both = torch.einsum("bhtf,bhtv->bhtfv", k, v)
            seen = "future-seen" in self.ways
            both, keys = (part.sum(2, keepdim=True) if seen else part.cumsum(2) for part in (both, k))
            y = (q[..., None] * both).sum(3)
            y = y if "shares-not-levelled" in self.ways else y / ((q * keys).sum(3, keepdim=True) + 1e-6)
        return self.mix((y if "heads-not-turned-back" in self.ways else y.transpose(1, 2)).reshape(x.shape))

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        places = _waves(6, int("places-from-one" in self.ways), joined="sines-before-cosines" in self.ways)
        x = self.words(words)
        x = x if "words-unscaled" in self.ways else x * 8**0.5
        x = x + torch.from_numpy(places)
        if "norms-before-the-sums" in self.ways:
            x = x + self.attended(self.norm1(x))
            x = x + self.narrow(F.relu(self.wide(self.norm2(x))))
        else:
            x = self.norm1(x + self.attended(x))
            x = self.norm2(x + self.narrow(F.relu(self.wide(x))))
        return self.out(x)


@network
def summed() -> Pair:
    """A linear transformer: what was seen so far is one sum of keys times values; waves for places, norms behind."""
    keras.backend.clear_session()
    words = layers.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(11, 8, name="words")(words) * 8**0.5 + _waves(6)
    q, k, v = (layers.Dense(8, name=name)(x) for name in ("query", "key", "value"))
    q, k, v = (ops.reshape(part, (-1, 6, 2, 4)) for part in (q, k, v))
    q, k = (ops.elu(part) + 1 for part in (q, k))
    both = ops.cumsum(ops.einsum("bthf,bthv->bthfv", k, v), axis=1)
    level = ops.sum(q * ops.cumsum(k, axis=1), axis=-1, keepdims=True) + 1e-6
    y = layers.Reshape((6, 8), name="heads")(ops.einsum("bthf,bthfv->bthv", q, both) / level)
    x = layers.Add(name="sum1")([x, layers.Dense(8, name="mix")(y)])
    x = layers.LayerNormalization(name="norm1")(x)
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="relu", name="wide")(x))
    x = layers.LayerNormalization(name="norm2")(layers.Add(name="sum2")([x, y]))
    model = keras.Model(words, layers.Dense(5, name="out")(x))
    fill(model)
    return Pair(model, counted(1162, 11, 3, 6), ported(model, Summed), "same")


_SUMMED = "query key value mix elu* exp* relu* einsum* cumsum* sum* mul* div* truediv* true_divide* add* matmul*"
_WORDS = "words mul* add*"
slip("summed/rectified-features", _SUMMED, "activation-kind", "operation-kind")
slip("summed/future-seen", _SUMMED, "attention-mask operation-kind pool-kind", "block-missing")
slip("summed/shares-not-levelled", _SUMMED, "block-missing", "wiring scale")
slip("summed/heads-not-turned-back", _SUMMED + " heads reshape* transpose*", "head-layout reshape-order",
     "wiring channel-order")  # fmt: skip
slip("summed/places-from-one", _WORDS, "embedding-offset shift", "weights-perturbed")
slip("summed/sines-before-cosines", _WORDS, "concat-order channel-order weights-perturbed", "operand-order")
slip("summed/words-unscaled", _WORDS, "embedding-scale", "scale block-missing")
slip("summed/norms-before-the-sums", "norm? sum? add* mix query key value wide", "residual-order wiring",
     "operand-order block-missing block-extra")  # fmt: skip
defect("summed/norm-eps-of-torch", "norm?", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
defect("summed/key-as-it-lies", "key", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("key.weight", lambda weight: weight.T)
)
ways("summed", "by-scores")
one_layer("summed", "rectified-features+key-as-it-lies", "places-from-one+words-unscaled",
          "future-seen+heads-not-turned-back")  # fmt: skip
neighbours("summed", "norm-eps-of-torch+shares-not-levelled")


# --- bands of noise -----------------------------------------------------------------------------------------


class Bands(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.voice, self.gains = nn.Linear(10, 6), nn.Linear(5, 1), nn.Linear(6, 4)
        for name, given, width in (("speech", 6, 5), ("noise", 21, 6)):
            shapes = {"kernel": (given, 3 * width), "recurrent": (width, 3 * width), "bias": (3 * width,)}
            self.add_module(name, nn.ParameterDict({part: torch.ones(shape) for part, shape in shapes.items()}))

    def read(self, name: str, x: torch.Tensor) -> torch.Tensor:
        own = self.get_submodule(name)
        kernel, recurrent, bias = own["kernel"], own["recurrent"], own["bias"]
        width, found = len(recurrent), []
        h = x.new_zeros(len(x), width)
        whole = x @ kernel + bias if "products-beforehand" in self.ways else None
        for t in range(x.shape[1]):
            given = x[:, t] @ kernel + bias if whole is None else whole[:, t]
            z, r, n = given.split(width, dim=1)
            zh, rh, nh = recurrent.split(width, dim=1)
            z, r = z + h @ zh, r + h @ rh
            z, r = (r, z) if "reset-first" in self.ways else (z, r)
            if "hard-gates" in self.ways:
                z, r = (0.2 * z + 0.5).clamp(0, 1), (0.2 * r + 0.5).clamp(0, 1)
            else:
                z, r = torch.sigmoid(z), torch.sigmoid(r)
            n = n + (r * (h @ nh) if "reset-after-the-product" in self.ways else (r * h) @ nh)
            bent = name == "noise" and "noise-by-tanh" not in self.ways
            n = F.relu(n) if bent else torch.tanh(n)
            h = z * h + (1 - z) * n
            found.append(h)
        return torch.stack(found[::-1] if "steps-in-reverse" in self.ways else found, dim=1)

    def forward(self, bands: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tanh(self.enter(bands))
        speech = self.read("speech", x)
        parts = [speech, x, bands] if "speech-first" in self.ways else [x, speech, bands]
        noise = self.read("noise", torch.cat(parts, dim=2))
        gains = self.gains(noise)
        gains = gains if "gains-unbounded" in self.ways else torch.sigmoid(gains)
        return gains, torch.sigmoid(self.voice(speech))


@network
def bands() -> Pair:
    """RNNoise: layers of the older GRU, of which one rectifies, that read each other and the bands as they are."""
    keras.backend.clear_session()
    bands = layers.Input((5, 10), name="bands")
    x = layers.Dense(6, activation="tanh", name="enter")(bands)
    speech = layers.GRU(5, return_sequences=True, reset_after=False, name="speech")(x)
    y = layers.Concatenate(name="both")([x, speech, bands])
    y = layers.GRU(6, activation="relu", return_sequences=True, reset_after=False, name="noise")(y)
    gains = layers.Dense(4, activation="sigmoid", name="gains")(y)
    model = keras.Model(bands, [gains, layers.Dense(1, activation="sigmoid", name="voice")(speech)])
    fill(model)
    return Pair(model, fed(1163, 4, 5, 10), ported(model, Bands), "same")


_READ = "speech noise speech.* noise.* sigmoid* tanh* relu* matmul* mul* add* split* stack* clamp*"
slip("bands/reset-first", _READ, "gru-gate-order wiring", "operand-order weights-swapped")
slip("bands/hard-gates", _READ, "rnn-activation activation-kind", "operation-kind")
slip("bands/reset-after-the-product", _READ, "gru-reset-after", "wiring operand-order")
slip("bands/noise-by-tanh", _READ, "rnn-activation activation-kind", "operation-kind")
slip("bands/steps-in-reverse", _READ, "rnn-direction", "concat-order axis-permutation block-extra")
slip("bands/speech-first", "both cat* noise", "concat-order", "operand-order channel-order")
slip("bands/gains-unbounded", "gains sigmoid*", "activation-missing logits", "block-missing")
ways("bands", "products-beforehand")
one_layer("bands", "hard-gates+reset-after-the-product", "noise-by-tanh+reset-first")
neighbours("bands", "speech-first+gains-unbounded")
