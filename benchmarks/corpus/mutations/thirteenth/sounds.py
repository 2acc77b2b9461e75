"""Sounds: a word that wakes a machine, what a clip is about, and speech without its noise."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.twelfth.registry import left_on

_WAKE = {"stem": (8, 6, 3), "one1": (6, 8, 9), "two1": (8, 8, 9), "short1": (6, 8, 1),
         "one2": (8, 10, 9), "two2": (10, 10, 9), "short2": (8, 10, 1)}  # fmt: skip


class Wake(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _WAKE.items():
            step = 2 if name.startswith(("one", "short")) else 1
            self.add_module(name, nn.Conv1d(given, wide, size, step, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm1d(wide, eps=1e-3))
        self.drop, self.word = nn.Dropout(0.5), nn.Linear(10, 4)

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        size = conv.kernel_size[0]
        if size == 9 and conv.stride == (2,):
            x = F.pad(x, (4, 4) if "padded-evenly" in self.ways else (3, 4))
        elif size > 1:
            x = F.pad(x, (size // 2, size // 2))
        if name == "two2" and "second-in-half" in self.ways:
            return norm(F.conv1d(x.bfloat16(), conv.weight.bfloat16()).float())
        if "kernels-in-two-dimensions" in self.ways:
            return norm(F.conv2d(x[..., None], conv.weight[..., None], conv.bias, (*conv.stride, 1))[..., 0])
        return norm(conv(x))

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(f"two{i}", F.relu(self.conv(f"one{i}", x)))
        skip = self.conv(f"short{i}", x)
        skip = skip if "shortcut-left-linear" in self.ways else F.relu(skip)
        return F.relu(y) + skip if "bent-before-the-sum" in self.ways else F.relu(y + skip)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.block(2, self.block(1, self.conv("stem", mel)))
        x = x[:, :, -1] if "last-step-alone" in self.ways else x.mean(2)
        return F.softmax(self.word(self.drop(x)), dim=1)


@network
def wake() -> Pair:
    """TC-ResNet: coefficients are channels, kernels of nine along time alone, and a shortcut with its own ReLU."""
    keras.backend.clear_session()
    mel = layers.Input((20, 8), name="mel")

    def conv(name: str, x: keras.KerasTensor, step: int = 1, bent: bool = True) -> keras.KerasTensor:
        _, wide, size = _WAKE[name]
        x = layers.Conv1D(wide, size, step, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if bent else x

    x = conv("stem", mel, bent=False)
    for i in (1, 2):
        y = conv(f"two{i}", conv(f"one{i}", x, 2), bent=False)
        x = layers.ReLU(name=f"relu{i}")(layers.Add(name=f"sum{i}")([y, conv(f"short{i}", x, 2)]))
    x = layers.Dropout(0.5, name="drop")(layers.GlobalAveragePooling1D(name="pool")(x))
    model = keras.Model(mel, layers.Dense(4, activation="softmax", name="word")(x))
    fill(model)
    return Pair(model, fed(1361, 3, 20, 8), ported(model, Wake), "NHWC->NCHW")


slip("wake/padded-evenly", "one? pad* conv1d*", "pad-asymmetry", "shift")
slip("wake/shortcut-left-linear", "short? short?_* relu* sum?", "activation-missing", "block-missing")
slip("wake/bent-before-the-sum", "sum? relu* add* two?_bn", "residual-order wiring",
     "operand-order activation-missing activation-extra")  # fmt: skip
slip("wake/last-step-alone", "pool mean* get_item* select* drop", "rnn-last-step pool-kind", "operation-kind wiring")
slip("wake/second-in-half", "two2 conv1d* to* float* bfloat16*", "dtype", "noise weights-perturbed")
defect("wake/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("wake/norms-exchanged", "one1_bn two1_bn", "weights-swapped bn-stats", "weights-perturbed wiring")(
    exchanged("one1_bn", "two1_bn")
)
ways("wake", "kernels-in-two-dimensions")
control("wake/all-folded")(each(*(folded(name, f"{name}_bn") for name in _WAKE)))
one_layer("wake", "shortcut-left-linear+bent-before-the-sum")
neighbours("wake", "last-step-alone+dropout-still-on", "norms-exchanged+padded-evenly")


# --- clips --------------------------------------------------------------------------------------------------


class Tags(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.mel_bn = nn.BatchNorm2d(8, eps=1e-5)
        for i, (given, wide) in enumerate(((1, 6), (6, 6), (6, 8))):
            self.add_module(f"conv{i}", nn.Conv2d(given, wide, 3, padding=1, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(wide, eps=1e-5))
        self.dense, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clamp(min=1e-6)
        x = torch.log(x) if "natural-logarithm" in self.ways else 10 * torch.log10(x)
        if "frames-normed-for-bands" in self.ways:
            return self.mel_bn(x.transpose(1, 2)).transpose(1, 2)
        if "bands-by-hand" in self.ways:
            norm = self.mel_bn
            share = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            return (x - norm.running_mean) * share + norm.bias
        return self.mel_bn(x.transpose(1, 3)).transpose(1, 3)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.levelled(mel)
        for i in range(3):
            conv, norm = self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")
            x = F.relu(norm(conv(x)))
            if i:
                x = (F.max_pool2d if "largest-in-each-block" in self.ways else F.avg_pool2d)(x, 2)
        x = x.mean(3)
        x = x.mean(2) if "largest-forgotten" in self.ways else x.mean(2) + x.amax(2)
        x = self.dense(x)
        x = self.head(x if "dense-left-linear" in self.ways else F.relu(x))
        return F.softmax(x, dim=1) if "one-tag-alone" in self.ways else torch.sigmoid(x)


@network
def tags() -> Pair:
    """PANNs: decibels, a norm for each band, pools of means, and the mean over time with the largest."""
    keras.backend.clear_session()
    mel = layers.Input((8, 8, 1), name="mel")
    x = 10 * ops.log(ops.maximum(mel, 1e-6)) / float(np.log(10))
    x = layers.BatchNormalization(axis=2, epsilon=1e-5, name="mel_bn")(x)
    for i, wide in enumerate((6, 6, 8)):
        x = layers.Conv2D(wide, 3, padding="same", use_bias=False, name=f"conv{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(layers.BatchNormalization(epsilon=1e-5, name=f"bn{i}")(x))
        x = layers.AveragePooling2D(2, name=f"pool{i}")(x) if i else x
    x = ops.mean(x, axis=2)
    x = layers.Add(name="both")([ops.mean(x, axis=1), ops.max(x, axis=1)])
    x = layers.Dense(8, activation="relu", name="dense")(x)
    model = keras.Model(mel, layers.Dense(5, activation="sigmoid", name="head")(x))
    fill(model)
    given = np.square(fed(1362, 3, 8, 8, 1)) + np.float32(1e-3)
    return Pair(model, given, ported(model, Tags), "NHWC->NCHW")


_OVER = "mean* max* amax* both add*"
slip("tags/natural-logarithm", "mel log* mul* multiply* rmul* div* divide* truediv* maximum* clamp* mel_bn transpose*",
     "scale input-scale operation-kind", "input-normalisation block-missing")  # fmt: skip
slip("tags/frames-normed-for-bands", "mel_bn transpose*", "norm-axis bn-stats", "axis-permutation wiring")
slip("tags/largest-in-each-block", "pool? max_pool* avg_pool*", "pool-kind", "operation-kind")
slip("tags/largest-forgotten", _OVER + " dense", "residual-missing block-missing pool-kind", "wiring operation-kind")
slip("tags/dense-left-linear", "dense relu* head", "activation-missing", "block-missing")
slip("tags/one-tag-alone", "head sigmoid* softmax*", "activation-kind", "operation-kind logits softmax-axis")
defect("tags/bn-eps-of-keras", "bn? mel_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("tags", "bands-by-hand")
control("tags/kernels-folded")(each(*(folded(f"conv{i}", f"bn{i}") for i in range(3))))
one_layer("tags", "natural-logarithm+frames-normed-for-bands")
neighbours(
    "tags",
    "largest-forgotten+dense-left-linear",
    "dense-left-linear+one-tag-alone",
    "largest-in-each-block+bn-eps-of-keras",
)


# --- speech without its noise -------------------------------------------------------------------------------


class Clean(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.down2 = nn.Conv2d(1, 4, (2, 3), stride=(1, 2)), nn.Conv2d(4, 8, (2, 3), stride=(1, 2))
        self.bn1, self.bn2, self.up_bn = (nn.BatchNorm2d(n, eps=1e-3) for n in (4, 8, 4))
        self.lstm, self.dense = nn.LSTM(24, 10, batch_first=True), nn.Linear(10, 24)
        self.up = nn.ConvTranspose2d(16, 4, (2, 3), stride=(1, 2))
        self.out = nn.ConvTranspose2d(8, 1, (2, 3), stride=(1, 2))

    def down(self, i: int, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, 1) if "padded-behind" in self.ways else (0, 0, 1, 0))
        return F.elu(self.get_submodule(f"bn{i}")(self.get_submodule(f"down{i}")(x)))

    def raised(self, up: nn.ConvTranspose2d, x: torch.Tensor) -> torch.Tensor:
        x = up(x)
        return x[:, :, 1:] if "first-frame-cut" in self.ways else x[:, :, :-1]

    def remembered(self, x: torch.Tensor) -> torch.Tensor:
        if "channels-before-bands" in self.ways:
            return self.read(x.transpose(1, 2).flatten(2)).unflatten(2, (8, 3)).transpose(1, 2)
        return self.read(x.permute(0, 2, 3, 1).flatten(2)).unflatten(2, (3, 8)).permute(0, 3, 1, 2)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "loop-by-hand" in self.ways:
            return self.dense(unrolled(self.lstm, x))
        return self.dense(self.lstm(x.flip(1))[0].flip(1) if "read-from-the-end" in self.ways else self.lstm(x)[0])

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        one = self.down(1, speech)
        two = self.down(2, one)
        x = self.remembered(two)
        x = torch.cat([two, x] if "skip-in-front" in self.ways else [x, two], dim=1)
        x = F.elu(self.up_bn(self.raised(self.up, x)))
        x = self.raised(self.out, torch.cat([F.pad(x, (0, 1)), one], dim=1))
        x = F.relu(x) if "speech-cut-below-zero" in self.ways else F.softplus(x)
        return x if "mask-for-speech" in self.ways else x * speech


@network
def clean() -> Pair:
    """CRN: kernels that look back one frame and halve the bands, an LSTM in the middle, a mask from the way back."""
    keras.backend.clear_session()
    speech = layers.Input((6, 17, 1), name="speech")

    def down(x: keras.KerasTensor, i: int, wide: int) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(((1, 0), (0, 0)), name=f"before{i}")(x)
        x = layers.BatchNormalization(name=f"bn{i}")(layers.Conv2D(wide, (2, 3), (1, 2), name=f"down{i}")(x))
        return layers.ELU(name=f"elu{i}")(x)

    one = down(speech, 1, 4)
    two = down(one, 2, 8)
    x = layers.LSTM(10, return_sequences=True, name="lstm")(layers.Reshape((6, 24), name="rows")(two))
    x = layers.Reshape((6, 3, 8), name="maps")(layers.Dense(24, name="dense")(x))
    x = layers.Conv2DTranspose(4, (2, 3), (1, 2), name="up")(layers.Concatenate(name="both2")([x, two]))
    x = layers.BatchNormalization(name="up_bn")(layers.Cropping2D(((0, 1), (0, 0)), name="cut2")(x))
    x = layers.ZeroPadding2D(((0, 0), (0, 1)), name="filled")(layers.ELU(name="up_elu")(x))
    x = layers.Conv2DTranspose(1, (2, 3), (1, 2), name="out")(layers.Concatenate(name="both1")([x, one]))
    x = layers.Activation("softplus", name="mask")(layers.Cropping2D(((0, 1), (0, 0)), name="cut1")(x))
    model = keras.Model(speech, layers.Multiply(name="masked")([x, speech]))
    fill(model)
    grown(model, 2, "dense")
    return Pair(model, np.abs(fed(1363, 3, 6, 17, 1)), ported(model, Clean), "NHWC->NCHW")


_ROW = "rows maps permute* transpose* flatten* unflatten* lstm dense"
slip("clean/padded-behind", "before? down? pad*", "pad-asymmetry shift", "pad-mode")
slip("clean/first-frame-cut", "up out cut? get_item*", "transposed-conv-shift shift", "pad-asymmetry")
slip("clean/channels-before-bands", _ROW, "flatten-order reshape-order dense-row-order", "wiring axis-permutation")
slip("clean/read-from-the-end", "lstm flip*", "rnn-direction", "block-extra axis-permutation")
slip("clean/skip-in-front", "both2 cat* up", "concat-order", "operand-order channel-order wiring")
slip("clean/speech-cut-below-zero", "mask softplus* relu*", "activation-kind", "operation-kind")
slip("clean/mask-for-speech", "masked mul* mask softplus*", "block-missing", "wiring scale residual-missing")
defect("clean/gates-of-tensorflow", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
defect("clean/bias-on-both-sides", "lstm", "rnn-bias", "weights-perturbed scale")(doubled("lstm"))
ways("clean", "loop-by-hand")
control("clean/downs-folded")(each(folded("down1", "bn1"), folded("down2", "bn2")))
one_layer("clean", "gates-of-tensorflow+bias-on-both-sides", "read-from-the-end+bias-on-both-sides")
neighbours("clean", "channels-before-bands+gates-of-tensorflow", "speech-cut-below-zero+first-frame-cut")
