"""Sounds: the pitch of a voice, a song without its singer, and a spoken command."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import doubled
from benchmarks.corpus.mutations.ninth.registry import (
    both_ways,
    defect,
    neighbours,
    network,
    one_layer,
    regated,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten

_CENTS = (np.linspace(0, 7180, 10) / 1000 + 1.997).astype(np.float32)


class Pitch(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.bn1 = nn.Conv2d(1, 6, (16, 1), stride=(4, 1)), nn.BatchNorm2d(6, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, (8, 1)), nn.BatchNorm2d(8, eps=1e-3)
        self.classifier = nn.Linear(32, 10)

    def standardised(self, frame: torch.Tensor) -> torch.Tensor:
        if "frame-as-it-is" in self.ways:
            return frame
        spread = frame.std(1, correction=int("std-of-torch" in self.ways), keepdim=True)
        return (frame - frame.mean(1, keepdim=True)) / spread

    def convolved(self, x: torch.Tensor, conv: nn.Conv2d, bn: nn.BatchNorm2d, pads: tuple[int, int]) -> torch.Tensor:
        if "one-axis-alone" in self.ways:
            x = F.conv1d(F.pad(x[..., 0], pads), conv.weight[..., 0], conv.bias, stride=conv.stride[0])[..., None]
        else:
            x = conv(F.pad(x, (0, 0, *pads)))
        x = F.relu(bn(x)) if "bn-before-relu" in self.ways else bn(F.relu(x))
        return F.max_pool2d(x, (2, 1))

    def forward(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.standardised(frame)[:, None, :, None]
        x = self.convolved(x, self.conv1, self.bn1, (6, 6))
        x = self.convolved(x, self.conv2, self.bn2, (4, 3) if "odd-sample-in-front" in self.ways else (3, 4))
        x = self.classifier(x.flatten(1) if "channels-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))
        x = x if "bins-as-logits" in self.ways else torch.sigmoid(x)
        cents = (x * torch.from_numpy(_CENTS)).sum(1)
        return x, cents if "weights-not-summed-to-one" in self.ways else cents / x.sum(1)


@network
def pitch() -> Pair:
    """CREPE: a standardised frame, kernels along time in two dimensions, a chance for each pitch and their mean."""
    keras.backend.clear_session()
    frame = layers.Input((64,), name="frame")
    x = (frame - ops.mean(frame, axis=1, keepdims=True)) / ops.std(frame, axis=1, keepdims=True)
    x = layers.Reshape((64, 1, 1), name="picture")(x)
    for i, (width, size, step) in enumerate(((6, 16, 4), (8, 8, 1)), 1):
        x = layers.Conv2D(width, (size, 1), (step, 1), padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.MaxPooling2D((2, 1), name=f"pool{i}")(layers.BatchNormalization(name=f"bn{i}")(x))
    x = layers.Flatten(name="flatten")(layers.Permute((2, 1, 3), name="transpose")(x))
    x = layers.Dense(10, activation="sigmoid", name="classifier")(x)
    model = keras.Model(frame, [x, ops.sum(x * _CENTS, axis=1) / ops.sum(x, axis=1)])
    fill(model)
    grown(model, 2, "conv1", "conv2")
    return Pair(model, 0.3 * fed(901, 4, 64) + 0.1, ported(model, Pitch), "same")


_FRAME = "mean* std* sub* subtract* div* true_divide* divide* conv1 picture"
slip("pitch/frame-as-it-is", _FRAME, "input-normalisation block-missing", "input-scale")
slip("pitch/std-of-torch", _FRAME, "std-ddof")
slip("pitch/bn-before-relu", "conv? bn? relu*", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("pitch/odd-sample-in-front", "conv2 pad*", "pad-asymmetry", "shift")
slip("pitch/channels-outermost", "permute* transpose flatten* classifier", "flatten-order dense-row-order", "wiring")
slip("pitch/bins-as-logits", "classifier sigmoid", "logits activation-missing", "block-missing")
slip("pitch/weights-not-summed-to-one", "sum* div* true_divide* divide* mul* multiply*", "block-missing", "scale")
defect("pitch/bn-eps-of-torch", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("pitch", "one-axis-alone")
one_layer("pitch", "channels-outermost+bins-as-logits", "bn-before-relu+bn-eps-of-torch")


# --- a song -------------------------------------------------------------------------------------------------


class Stems(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.bn1 = nn.Conv2d(2, 5, 5, stride=2), nn.BatchNorm2d(5, eps=1e-3)
        self.down2, self.bn2 = nn.Conv2d(5, 6, 5, stride=2), nn.BatchNorm2d(6, eps=1e-3)
        self.up1, self.up_bn1 = nn.ConvTranspose2d(6, 5, 5, stride=2), nn.BatchNorm2d(5, eps=1e-3)
        self.up2, self.up_bn2 = nn.ConvTranspose2d(10, 4, 5, stride=2), nn.BatchNorm2d(4, eps=1e-3)
        self.mask = nn.Conv2d(4, 2, 4, dilation=2)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        if "leaky-by-maximum" in self.ways:
            return torch.maximum(x, 0.2 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)

    def down(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        return conv(F.pad(x, (2, 2, 2, 2) if "padded-evenly" in self.ways else (1, 2, 1, 2)))

    def up(self, conv: nn.ConvTranspose2d, bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        if "cropped-by-torch" in self.ways:
            x = F.conv_transpose2d(x, conv.weight, conv.bias, stride=2, padding=1)[:, :, :-1, :-1]
        elif "output-padding-of-torch" in self.ways:
            x = F.conv_transpose2d(x, conv.weight, conv.bias, stride=2, padding=2, output_padding=1)
        else:
            x = conv(x)[:, :, 1:-2, 1:-2]
        return F.relu(bn(x)) if "bn-before-relu" in self.ways else bn(F.relu(x))

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        one = self.down(self.down1, spectrum)
        rel = self.leaky(self.bn1(one))
        x = self.leaky(self.bn2(self.down(self.down2, rel)))
        x = self.up(self.up1, self.up_bn1, x)
        both = [rel if "skip-behind-the-bn" in self.ways else one, x]
        x = torch.cat(both[::-1] if "raised-first" in self.ways else both, dim=1)
        x = self.up(self.up2, self.up_bn2, x)
        if "mask-not-dilated" in self.ways:
            x = F.conv2d(F.pad(x, (1, 2, 1, 2)), self.mask.weight, self.mask.bias)
        else:
            x = self.mask(F.pad(x, (3, 3, 3, 3)))
        x = torch.sigmoid(x)
        return x if "mask-for-song" in self.ways else x * spectrum


@network
def stems() -> Pair:
    """Spleeter: a U-Net that halves by even padding's rest behind, doubles by cropping, and gives a mask."""
    keras.backend.clear_session()
    spectrum = layers.Input((16, 12, 2), name="spectrum")

    def leaky(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LeakyReLU(0.2, name=f"{name}_leaky")(layers.BatchNormalization(name=name)(x))

    one = layers.Conv2D(5, 5, 2, padding="same", name="down1")(spectrum)
    x = leaky(layers.Conv2D(6, 5, 2, padding="same", name="down2")(leaky(one, "bn1")), "bn2")
    for i, width in enumerate((5, 4), 1):
        x = layers.Conv2DTranspose(width, 5, 2, padding="same", activation="relu", name=f"up{i}")(x)
        x = layers.BatchNormalization(name=f"up_bn{i}")(x)
        x = layers.Concatenate(name="joined")([one, x]) if i == 1 else x
    x = layers.Conv2D(2, 4, dilation_rate=2, padding="same", activation="sigmoid", name="mask")(x)
    model = keras.Model(spectrum, layers.Multiply(name="song")([x, spectrum]))
    fill(model)
    return Pair(model, np.abs(fed(902, 2, 16, 12, 2)), ported(model, Stems), "NHWC->NCHW")


_UP = "up? up_bn? relu* conv_transpose2d* get_item* slice*"
slip("stems/slope-of-torch", "*_leaky leaky_relu*", "activation-param")
slip("stems/padded-evenly", "down? pad*", "pad-asymmetry", "shift")
slip("stems/output-padding-of-torch", _UP, "transposed-conv-shift", "pad-asymmetry")
slip("stems/bn-before-relu", _UP, "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("stems/skip-behind-the-bn", "joined cat* up2", "wiring", "operand-order concat-order block-extra activation-extra")
slip("stems/raised-first", "joined cat* up2", "concat-order", "operand-order channel-order")
slip("stems/mask-not-dilated", "mask conv2d* pad*", "dilation", "pad-mode")
slip("stems/mask-for-song", "song mul* mask sigmoid", "block-missing residual-missing", "wiring")
defect("stems/kernel-turned-round", "up1", "kernel-flip", "weights-perturbed")(
    rewritten("up1.weight", lambda weight: weight.flip(2, 3))
)
ways("stems", "leaky-by-maximum", "cropped-by-torch")
one_layer("stems", "output-padding-of-torch+bn-before-relu", "mask-not-dilated+mask-for-song")
neighbours("stems", "padded-evenly+slope-of-torch")


# --- a command ----------------------------------------------------------------------------------------------


class Command(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, (5, 1), padding=(2, 0)), nn.BatchNorm2d(4, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(4, 1, (5, 1), padding=(2, 0)), nn.BatchNorm2d(1, eps=1e-3)
        self.lstm1, self.lstm2 = (nn.LSTM(n, 5, batch_first=True, bidirectional=True) for n in (8, 10))
        self.query, self.wide, self.out = nn.Linear(10, 10), nn.Linear(10, 8), nn.Linear(8, 4)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(2, 3) if "kernels-along-the-bands" in self.ways else x
        x = self.bn2(F.relu(self.conv2(self.bn1(F.relu(self.conv1(x))))))
        return x.transpose(2, 3) if "kernels-along-the-bands" in self.ways else x

    def forward(self, bands: torch.Tensor) -> torch.Tensor:
        x = self.seen(bands[:, None])[:, 0]
        if "loops-by-hand" in self.ways:
            x = both_ways(self.lstm2, both_ways(self.lstm1, x))
            last = x[:, -1]
        else:
            x, (state, _) = self.lstm2(self.lstm1(x)[0])
            last = torch.cat([state[0], state[1]], dim=1) if "last-states-asked" in self.ways else x[:, -1]
        query = self.query(last)
        scores = torch.einsum("btf,bf->bt", x, query)
        scores = scores / 10**0.5 if "scores-scaled" in self.ways else scores
        shares = F.softmax(scores, dim=0 if "shared-among-the-sounds" in self.ways else 1)
        x = (x * shares[:, :, None]).sum(1)
        x = self.wide(x)
        x = self.out(x if "wide-left-linear" in self.ways else F.relu(x))
        return F.log_softmax(x, dim=1) if "logarithms-given" in self.ways else F.softmax(x, dim=1)


@network
def command() -> Pair:
    """A spoken command: kernels along time, two layers that read both ways, and the last step asks all the others."""
    keras.backend.clear_session()
    bands = layers.Input((12, 8), name="bands")
    x = layers.Reshape((12, 8, 1), name="picture")(bands)
    for i, width in enumerate((4, 1), 1):
        x = layers.Conv2D(width, (5, 1), padding="same", activation="relu", name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"bn{i}")(x)
    x = layers.Reshape((12, 8), name="series")(x)
    for name in ("lstm1", "lstm2"):
        x = layers.Bidirectional(layers.LSTM(5, return_sequences=True), name=name)(x)
    query = layers.Dense(10, name="query")(x[:, -1])
    shares = layers.Softmax(name="shares")(layers.Dot(axes=(1, 2), name="scores")([query, x]))
    x = layers.Dot(axes=(1, 1), name="found")([shares, x])
    x = layers.Dense(8, activation="relu", name="wide")(x)
    model = keras.Model(bands, layers.Dense(4, activation="softmax", name="out")(x))
    fill(model)
    grown(model, 3, "conv1", "conv2", "query", "wide")
    return Pair(model, fed(903, 6, 12, 8), ported(model, Command), "same")


_ASKED = "scores shares softmax found einsum* div* true_divide* query"
slip("command/kernels-along-the-bands", "conv? transpose* bn? picture", "axis-permutation kernel-layout", "wiring")
slip("command/last-states-asked", "lstm2 get_item* cat* slice* select* query", "rnn-last-step wiring", "rnn-direction")
slip("command/scores-scaled", _ASKED, "attention-scale", "scale block-extra")
slip("command/shared-among-the-sounds", _ASKED, "softmax-axis", "operation-kind")
slip("command/wide-left-linear", "wide relu* out", "activation-missing", "block-missing")
slip("command/logarithms-given", "out softmax* log_softmax*", "logits", "activation-kind operation-kind")
defect("command/gates-of-tensorflow", "lstm1", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm1", 0, 2, 1, 3)
)
defect("command/bias-on-both-sides", "lstm2", "rnn-bias", "weights-perturbed scale")(doubled("lstm2"))
ways("command", "loops-by-hand")
one_layer("command", "last-states-asked+bias-on-both-sides", "scores-scaled+shared-among-the-sounds")
neighbours("command", "wide-left-linear+logarithms-given")
