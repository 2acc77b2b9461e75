"""Sounds: a word spotted by broadcast residuals, a vocoder, and a transducer's joint network."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.tenth.registry import control, defect, neighbours, network, one_layer, slip, ways


class Broadcast(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(1, 6, 5, stride=(2, 1)), nn.BatchNorm2d(6, eps=1e-3)
        self.bands, self.bands_bn = nn.Conv2d(6, 6, (3, 1), padding=(1, 0), groups=6), nn.BatchNorm2d(12, eps=1e-3)
        self.time = nn.Conv2d(6, 6, (1, 3), padding=(0, 2), dilation=(1, 2), groups=6)
        self.time_bn, self.point = nn.BatchNorm2d(6, eps=1e-3), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        """Each half of the bands has a norm of its own."""
        bn = self.bands_bn
        if "halves-one-by-one" in self.ways:
            own = (bn.running_mean, bn.running_var, bn.weight, bn.bias)
            parts = zip(x.chunk(2, dim=2), *(tensor.chunk(2) for tensor in own), strict=True)
            return torch.cat([F.batch_norm(*part, eps=bn.eps) for part in parts], dim=2)
        if "halves-innermost" in self.ways:
            return bn(x.reshape(len(x), 12, -1, x.shape[3])).reshape(x.shape)
        y = x.unflatten(2, (2, -1)).transpose(1, 2)
        return bn(y.flatten(1, 2)).unflatten(1, (2, 6)).transpose(1, 2).flatten(2, 3)

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        if "stride-along-time" in self.ways:
            x = F.conv2d(F.pad(bands, (2, 2, 2, 2)), self.stem.weight, self.stem.bias, stride=(1, 2))
            x = F.relu(self.stem_bn(x))
        else:
            x = F.relu(self.stem_bn(self.stem(F.pad(bands, (2, 2, 1, 2)))))
        wide = self.levelled(self.bands(x))
        y = wide.mean(3 if "mean-of-the-times" in self.ways else 2, keepdim=True)
        if "times-not-dilated" in self.ways:
            y = F.conv2d(y, self.time.weight, self.time.bias, padding=(0, 1), groups=6)
        else:
            y = self.time(y)
        y = self.time_bn(y)
        y = self.point(F.relu(y) if "relu-for-swish" in self.ways else F.silu(y))
        x = F.relu(x + y if "bands-not-added" in self.ways else x + wide + y)
        return self.head(x.mean((2, 3)))


@network
def broadcast() -> Pair:
    """BC-ResNet: kernels along the bands, a norm for each half of them, their mean along time and back to all bands."""
    keras.backend.clear_session()
    bands = layers.Input((8, 10, 1), name="bands_in")
    x = layers.Conv2D(6, 5, (2, 1), padding="same", name="stem")(bands)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    y = layers.DepthwiseConv2D((3, 1), padding="same", name="bands")(x)
    y = ops.reshape(ops.transpose(ops.reshape(y, (-1, 2, 2, 10, 6)), (0, 2, 3, 1, 4)), (-1, 2, 10, 12))
    y = ops.reshape(layers.BatchNormalization(name="bands_bn")(y), (-1, 2, 10, 2, 6))
    wide = ops.reshape(ops.transpose(y, (0, 3, 1, 2, 4)), (-1, 4, 10, 6))
    y = ops.mean(wide, axis=1, keepdims=True)
    y = layers.DepthwiseConv2D((1, 3), padding="same", dilation_rate=(1, 2), name="time")(y)
    y = layers.Activation("silu", name="time_silu")(layers.BatchNormalization(name="time_bn")(y))
    x = layers.Add(name="sum1")([x, wide]) + layers.Conv2D(6, 1, name="point")(y)
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(x))
    model = keras.Model(bands, layers.Dense(4, name="head")(x))
    fill(model)
    return Pair(model, fed(1011, 3, 8, 10, 1), ported(model, Broadcast), "NHWC->NCHW")


slip("broadcast/stride-along-time", "stem pad* conv2d*", "stride-position", "axis-permutation")
slip("broadcast/halves-innermost", "bands_bn reshape* transpose* unflatten* flatten*",
     "reshape-order norm-axis channel-order", "wiring bn-stats")  # fmt: skip
slip("broadcast/mean-of-the-times", "mean* time", "axis-permutation norm-axis pool-kind", "operation-kind wiring")
slip("broadcast/times-not-dilated", "time conv2d*", "dilation", "pad-mode")
slip("broadcast/relu-for-swish", "time_bn time_silu silu* relu* point", "activation-kind", "operation-kind")
slip("broadcast/bands-not-added", "sum1 add* relu*", "residual-missing", "wiring block-missing")
defect("broadcast/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("broadcast", "halves-one-by-one")
control("broadcast/times-folded")(folded("time", "time_bn"))
one_layer("broadcast", "halves-innermost+bn-eps-of-torch", "bands-not-added+mean-of-the-times")
neighbours("broadcast", "times-not-dilated+relu-for-swish")


# --- a vocoder ----------------------------------------------------------------------------------------------


class Vocoder(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.pre, self.up = nn.Conv1d(5, 8, 7, padding=3), nn.ConvTranspose1d(8, 6, 4, stride=2, padding=1)
        self.near, self.far = nn.Conv1d(6, 6, 3, padding=1), nn.Conv1d(6, 6, 5, padding=6, dilation=3)
        self.post = nn.Conv1d(6, 1, 7, padding=3)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        up = self.up
        if "cropped-at-the-end" in self.ways:
            return F.conv_transpose1d(x, up.weight, up.bias, stride=2)[:, :, :-2]
        if "weight-normed" in self.ways:
            length = torch.linalg.vector_norm(up.weight, dim=(0, 2), keepdim=True)
            return F.conv_transpose1d(x, length * (up.weight / length), up.bias, stride=2, padding=1)
        return up(x)

    def residual(self, conv: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(x, 0.1)
        if "far-not-dilated" in self.ways and conv is self.far:
            return F.conv1d(y, conv.weight, conv.bias, padding=2) + x
        return conv(y) + (y if "bent-in-place" in self.ways else x)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.raised(F.leaky_relu(self.pre(mel), 0.1))
        near, far = self.residual(self.near, x), self.residual(self.far, x)
        x = near + far
        x = x if "sum-of-the-blocks" in self.ways else x / 2
        x = self.post(F.leaky_relu(x, 0.1 if "one-slope-for-all" in self.ways else 0.01))
        return (x if "tanh-forgotten" in self.ways else torch.tanh(x)).flatten(1)


@network
def vocoder() -> Pair:
    """HiFi-GAN's generator: a transposed kernel, the mean of two residual kernels, and another slope at the end."""
    keras.backend.clear_session()
    mel = layers.Input((6, 5), name="mel")

    def leaky(x: keras.KerasTensor, slope: float, name: str) -> keras.KerasTensor:
        return layers.LeakyReLU(slope, name=f"{name}_leaky")(x)

    x = leaky(layers.Conv1D(8, 7, padding="same", name="pre")(mel), 0.1, "pre")
    x = layers.Conv1DTranspose(6, 4, 2, padding="same", name="up")(x)
    near = layers.Conv1D(6, 3, padding="same", name="near")(leaky(x, 0.1, "near"))
    far = layers.Conv1D(6, 5, padding="same", dilation_rate=3, name="far")(leaky(x, 0.1, "far"))
    x = layers.Average(name="mean")([layers.Add(name="near_sum")([near, x]), layers.Add(name="far_sum")([far, x])])
    x = layers.Conv1D(1, 7, padding="same", name="post")(leaky(x, 0.01, "post"))
    model = keras.Model(mel, layers.Flatten(name="wave")(layers.Activation("tanh", name="tanh")(x)))
    fill(model)
    return Pair(model, fed(1012, 3, 6, 5), ported(model, Vocoder), "NHWC->NCHW")


slip("vocoder/cropped-at-the-end", "up conv_transpose1d* get_item* slice*", "transposed-conv-shift", "pad-asymmetry")
slip("vocoder/far-not-dilated", "far conv1d*", "dilation", "pad-mode")
slip("vocoder/bent-in-place", "near_sum far_sum add* leaky_relu* *_leaky near far", "activation-extra wiring",
     "block-extra residual-order")  # fmt: skip
slip("vocoder/sum-of-the-blocks", "mean add* div* truediv* post_leaky", "scale block-missing",
     "operation-kind pool-kind")  # fmt: skip
slip("vocoder/one-slope-for-all", "post_leaky leaky_relu* post", "activation-param")
slip("vocoder/tanh-forgotten", "tanh* post wave", "activation-missing", "block-missing logits")
defect("vocoder/normed-over-inputs", "up", "weights-perturbed norm-axis", "scale")(
    rewritten("up.weight", lambda w: w * w.norm(dim=(0, 2), keepdim=True) / w.norm(dim=(1, 2), keepdim=True))
)
defect("vocoder/kernel-turned-round", "post", "kernel-flip", "weights-perturbed axis-permutation")(
    rewritten("post.weight", lambda weight: weight.flip(2))
)
ways("vocoder", "weight-normed")
one_layer("vocoder", "cropped-at-the-end+normed-over-inputs", "one-slope-for-all+kernel-turned-round")
neighbours("vocoder", "far-not-dilated+sum-of-the-blocks", "bent-in-place+one-slope-for-all")


# --- a transducer -------------------------------------------------------------------------------------------


class Transducer(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.encoder, self.predictor = nn.LSTM(12, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)
        self.letters, self.norm = nn.Embedding(10, 6), nn.LayerNorm(6, eps=1e-3)
        self.heard, self.told, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 9)

    def stacked(self, frames: torch.Tensor) -> torch.Tensor:
        if "halves-stacked" in self.ways:
            return torch.cat(frames.chunk(2, dim=1), dim=2)
        if "stacked-by-slices" in self.ways:
            return torch.cat([frames[:, ::2], frames[:, 1::2]], dim=2)
        return frames.reshape(len(frames), 4, 12)

    def forward(self, frames: torch.Tensor, letters: torch.Tensor) -> torch.Tensor:
        x = self.stacked(frames)
        x = unrolled(self.encoder, x) if "loops-by-hand" in self.ways else self.encoder(x)[0]
        y = self.letters(letters + 1 if "blank-counted-first" in self.ways else letters)
        y = unrolled(self.predictor, y) if "loops-by-hand" in self.ways else self.predictor(y)[0]
        x, y = self.heard(x if "heard-not-normed" in self.ways else self.norm(x)), self.told(y)
        z = x[:, None] + y[:, :, None] if "letters-outermost" in self.ways else x[:, :, None] + y[:, None]
        z = self.out(F.relu(z) if "joint-rectified" in self.ways else torch.tanh(z))
        z = F.softmax(z, dim=3) if "probabilities-given" in self.ways else F.log_softmax(z, dim=3)
        return z.flatten(1, 2)


@network
def transducer() -> Pair:
    """RNN-T: two frames become one, an LSTM hears, a GRU predicts, and each frame meets each letter."""
    keras.backend.clear_session()
    frames, letters = layers.Input((8, 6), name="frames"), layers.Input((5,), dtype="int32", name="letters")
    x = layers.LSTM(6, return_sequences=True, name="encoder")(layers.Reshape((4, 12), name="stacked")(frames))
    x = layers.Dense(8, name="heard")(layers.LayerNormalization(name="norm")(x))
    y = layers.Embedding(10, 6, name="letters_table")(letters)
    y = layers.Dense(8, name="told")(layers.GRU(6, return_sequences=True, name="predictor")(y))
    z = ops.tanh(ops.expand_dims(x, 2) + ops.expand_dims(y, 1))
    z = ops.log_softmax(layers.Dense(9, name="out")(z), axis=-1)
    model = keras.Model([frames, letters], layers.Reshape((20, 9), name="all")(z))
    fill(model)
    grown(model, 3, "heard", "told")
    inputs = {"frames": fed(1013, 3, 8, 6), "letters": counted(1014, 9, 3, 5)}
    return Pair(model, inputs, ported(model, Transducer, rename=lambda name: name.removesuffix("_table")), "same")


_JOINT = "add* expand_dims* get_item* tanh* relu* out all flatten* log_softmax* softmax*"
slip("transducer/halves-stacked", "stacked reshape* cat* chunk* encoder", "reshape-order", "concat-order wiring")
slip("transducer/blank-counted-first", "letters letters_table add*", "embedding-offset",
     "shift weights-perturbed")  # fmt: skip
slip("transducer/heard-not-normed", "norm heard", "block-missing", "wiring")
slip("transducer/letters-outermost", _JOINT, "reshape-order axis-permutation", "wiring operand-order")
slip("transducer/joint-rectified", _JOINT, "activation-kind", "operation-kind")
slip("transducer/probabilities-given", _JOINT, "logits", "activation-kind operation-kind")
defect("transducer/gates-of-keras", "predictor", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("predictor", 1, 0, 2)
)
defect("transducer/bias-on-both-sides", "encoder", "rnn-bias", "weights-perturbed scale")(doubled("encoder"))
ways("transducer", "stacked-by-slices", "loops-by-hand")
one_layer("transducer", "joint-rectified+letters-outermost")
neighbours("transducer", "halves-stacked+bias-on-both-sides", "blank-counted-first+gates-of-keras")
