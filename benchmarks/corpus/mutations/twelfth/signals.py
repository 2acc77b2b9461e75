"""Series of numbers: a book of orders, and a machine that should be found out."""

from __future__ import annotations

import keras
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten
from benchmarks.corpus.mutations.twelfth.registry import (
    defect,
    left_on,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)


class Book(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.pairs, self.past = nn.Conv2d(1, 4, (1, 2), stride=(1, 2)), nn.Conv2d(4, 4, (4, 1))
        self.levels, self.point = nn.Conv2d(4, 4, (1, 4)), nn.Conv2d(4, 6, 1)
        self.near, self.pooled = nn.Conv2d(6, 6, (3, 1), padding=(1, 0)), nn.Conv2d(4, 6, 1)
        self.lstm, self.head = nn.LSTM(12, 8, batch_first=True), nn.Linear(8, 3)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        if "leaky-by-maximum" in self.ways:
            return torch.maximum(x, 0.3 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.3)

    def largest(self, x: torch.Tensor) -> torch.Tensor:
        if "pooled-among-zeros" in self.ways:
            return F.max_pool2d(F.pad(x, (0, 0, 1, 1)), (3, 1), 1)
        if "pooled-in-one-dimension" in self.ways:
            return F.max_pool1d(x[..., 0], 3, 1, padding=1)[..., None]
        return F.max_pool2d(x, (3, 1), 1, padding=(1, 0))

    def forward(self, orders: torch.Tensor) -> torch.Tensor:
        x = self.leaky(self.pairs(orders))
        x = self.past(F.pad(x, (0, 0, 2, 1) if "even-kernel-padded-in-front" in self.ways else (0, 0, 1, 2)))
        x = self.leaky(self.levels(self.leaky(x)))
        one = self.leaky(self.near(self.leaky(self.point(x))))
        two = self.leaky(self.pooled(self.largest(x)))
        x = torch.cat([two, one] if "pool-first" in self.ways else [one, two], dim=1)
        x = x.reshape(len(x), 12, 12) if "steps-by-a-view" in self.ways else x[..., 0].transpose(1, 2)
        if "batch-as-time" in self.ways:
            x = self.lstm(x.transpose(0, 1))[0][-1]
        else:
            x = (unrolled(self.lstm, x) if "loop-by-hand" in self.ways else self.lstm(x)[0])[:, -1]
        return F.softmax(self.head(x), dim=1)


@network
def book() -> Pair:
    """DeepLOB: a price and its size, then the past by an even kernel, two branches, and an LSTM's last step."""
    keras.backend.clear_session()
    orders = layers.Input((12, 8, 1), name="orders")

    def leaky(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LeakyReLU(name=f"{name}_leaky")(x)

    x = leaky(layers.Conv2D(4, (1, 2), (1, 2), name="pairs")(orders), "pairs")
    x = leaky(layers.Conv2D(4, (4, 1), padding="same", name="past")(x), "past")
    x = leaky(layers.Conv2D(4, (1, 4), name="levels")(x), "levels")
    one = leaky(layers.Conv2D(6, 1, name="point")(x), "point")
    one = leaky(layers.Conv2D(6, (3, 1), padding="same", name="near")(one), "near")
    two = layers.MaxPooling2D((3, 1), 1, padding="same", name="largest")(x)
    two = leaky(layers.Conv2D(6, 1, name="pooled")(two), "pooled")
    x = layers.Reshape((12, 12), name="steps")(layers.Concatenate(name="joined")([one, two]))
    model = keras.Model(orders, layers.Dense(3, activation="softmax", name="head")(layers.LSTM(8, name="lstm")(x)))
    fill(model)
    grown(model, 2, "levels", "head")
    return Pair(model, fed(1201, 4, 12, 8, 1), ported(model, Book), "NHWC->NCHW")


slip("book/slope-of-torch", "*_leaky leaky_relu* pairs past levels point near pooled", "activation-param")
slip("book/even-kernel-padded-in-front", "past pad*", "pad-asymmetry", "shift")
slip("book/pooled-among-zeros", "largest max_pool* pad*", "pad-mode", "pool-kind")
slip("book/pool-first", "joined cat*", "concat-order", "operand-order channel-order wiring")
slip("book/steps-by-a-view", "steps reshape* get_item* transpose* lstm", "reshape-order flatten-order",
     "wiring axis-permutation")  # fmt: skip
slip("book/batch-as-time", "lstm transpose* get_item*", "axis-permutation wiring", "rnn-direction block-extra")
defect("book/gates-of-tensorflow", "lstm", "lstm-gate-order", "weights-perturbed weights-swapped")(
    regated("lstm", 0, 2, 1, 3)
)
ways("book", "leaky-by-maximum", "pooled-in-one-dimension", "loop-by-hand")
one_layer("book", "batch-as-time+gates-of-tensorflow")
neighbours("book", "pooled-among-zeros+pool-first", "steps-by-a-view+gates-of-tensorflow")


# --- a machine ----------------------------------------------------------------------------------------------


class Anomaly(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down1, self.down2 = nn.Conv1d(2, 6, 7, stride=2), nn.Conv1d(6, 4, 7, stride=2)
        self.up1, self.up2 = nn.ConvTranspose1d(4, 4, 7, stride=2), nn.ConvTranspose1d(4, 6, 7, stride=2)
        self.drop, self.out = nn.Dropout(0.2), nn.ConvTranspose1d(6, 2, 7, padding=3)

    def raised(self, up: nn.ConvTranspose1d, x: torch.Tensor) -> torch.Tensor:
        if "output-padded" in self.ways:
            return F.conv_transpose1d(x, up.weight, up.bias, stride=2, padding=3, output_padding=1)
        if "raised-by-zeros" in self.ways:
            wide = torch.stack([x, torch.zeros_like(x)], dim=3).flatten(2)
            return F.conv1d(F.pad(wide, (4, 2)), up.weight.transpose(0, 1).flip(2), up.bias)
        return up(x)[:, :, 2:-3]

    def written(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.out.weight.transpose(0, 1)
        if "out-as-a-plain-kernel" in self.ways:
            return F.conv1d(x, weight, self.out.bias, padding=3)
        if "out-as-a-turned-kernel" in self.ways:
            return F.conv1d(x, weight.flip(2), self.out.bias, padding=3)
        return self.out(x)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        around = (3, 3) if "padded-evenly" in self.ways else (2, 3)
        x = self.drop(F.relu(self.down1(F.pad(series, around))))
        x = self.down2(F.pad(x, around))
        x = x if "code-left-linear" in self.ways else F.relu(x)
        x = F.relu(self.raised(self.up2, F.relu(self.raised(self.up1, x))))
        x = self.written(x)
        x = F.relu(x) if "series-rectified" in self.ways else x
        return x.reshape(len(x), 16, 2) if "series-by-a-view" in self.ways else x.transpose(1, 2)


@network
def anomaly() -> Pair:
    """Keras' example for anomalies: kernels of seven halve a series twice, and transposed ones bring it back."""
    keras.backend.clear_session()
    series = layers.Input((16, 2), name="series")
    x = layers.Conv1D(6, 7, 2, padding="same", activation="relu", name="down1")(series)
    x = layers.Conv1D(4, 7, 2, padding="same", activation="relu", name="down2")(layers.Dropout(0.2, name="drop")(x))
    x = layers.Conv1DTranspose(4, 7, 2, padding="same", activation="relu", name="up1")(x)
    x = layers.Conv1DTranspose(6, 7, 2, padding="same", activation="relu", name="up2")(x)
    model = keras.Model(series, layers.Conv1DTranspose(2, 7, padding="same", name="out")(x))
    fill(model)
    grown(model, 2, "up1", "up2")
    return Pair(model, fed(1202, 3, 16, 2), ported(model, Anomaly), "NHWC->NCHW")


slip("anomaly/output-padded", "up? conv_transpose1d* get_item* slice*", "transposed-conv-shift", "pad-asymmetry")
slip(
    "anomaly/out-as-a-plain-kernel",
    "out conv1d* conv_transpose1d*",
    "kernel-flip",
    "weights-perturbed operation-kind axis-permutation",
)
slip("anomaly/padded-evenly", "down? pad*", "pad-asymmetry", "shift")
slip("anomaly/code-left-linear", "down2 relu*", "activation-missing", "block-missing")
slip("anomaly/series-rectified", "out relu*", "activation-extra", "block-extra")
slip("anomaly/series-by-a-view", "out transpose* reshape*", "reshape-order flatten-order axis-permutation", "wiring")
defect("anomaly/inputs-for-outputs", "up1", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("up1.weight", lambda weight: weight.transpose(0, 1))
)
defect("anomaly/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
ways("anomaly", "raised-by-zeros", "out-as-a-turned-kernel")
one_layer("anomaly", "output-padded+inputs-for-outputs", "out-as-a-plain-kernel+series-rectified")
neighbours("anomaly", "code-left-linear+inputs-for-outputs")
