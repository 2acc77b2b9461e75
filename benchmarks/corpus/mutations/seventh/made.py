"""Pictures that something else tells about: a question, or a map of what is where."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten


def _normed(x: torch.Tensor, axes: tuple[int, ...], eps: float) -> torch.Tensor:
    variance, mean = torch.var_mean(x, axes, keepdim=True, correction=0)
    return (x - mean) / (variance + eps).sqrt()


class Asked(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.words, self.read = nn.Embedding(15, 5), nn.GRU(5, 6, batch_first=True)
        self.stem, self.told = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(6, 16)
        self.mix, self.conv = nn.Conv2d(10, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8, eps=1e-3, affine=False)
        self.last, self.head = nn.Conv2d(10, 6, 1), nn.Linear(6, 5)

    def placed(self, x: torch.Tensor) -> torch.Tensor:
        least = 0 if "places-from-zero" in self.ways else -1
        rows, columns = torch.meshgrid(torch.linspace(least, 1, 5), torch.linspace(least, 1, 5), indexing="ij")
        both = [columns, rows] if "columns-as-rows" in self.ways else [rows, columns]
        places = torch.stack(both).expand(len(x), -1, -1, -1)
        return torch.cat([places, x] if "places-first" in self.ways else [x, places], dim=1)

    def changed(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = told[:, :, None, None].chunk(2, dim=1)
        scale, shift = (shift, scale) if "shift-first" in self.ways else (scale, shift)
        if "norm-in-the-scale" in self.ways:
            share = (1 + scale) * (self.bn.running_var + 1e-3).rsqrt()[:, None, None]
            return torch.addcmul(shift - share * self.bn.running_mean[:, None, None], share, self.conv(x))
        if "changed-before-the-norm" in self.ways:
            return self.bn((1 + scale) * self.conv(x) + shift)
        scale = scale if "one-not-added" in self.ways else 1 + scale
        return scale * self.bn(self.conv(x)) + shift

    def forward(self, picture: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        told = self.told(self.read(self.words(question))[0][:, -1])
        x = F.relu(self.mix(self.placed(F.relu(self.stem(picture)))))
        y = self.changed(x, told)
        y = y if "changed-not-rectified" in self.ways else F.relu(y)
        x = y if "shortcut-lost" in self.ways else x + y
        x = F.relu(self.last(self.placed(x)))
        return self.head(x.mean((2, 3)) if "mean-of-the-map" in self.ways else x.amax((2, 3)))


class _Placed(layers.Layer):  # type: ignore[misc]
    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        places = np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2, indexing="ij"), axis=-1).astype("float32")
        return ops.concatenate([x, ops.broadcast_to(places[None], (*ops.shape(x)[:3], 2))], axis=-1)


@network
def asked() -> Pair:
    """FiLM: a question scales and shifts what is seen in a picture; places are channels of their own."""
    keras.backend.clear_session()
    picture, question = layers.Input((20, 20, 3), name="picture"), layers.Input((6,), dtype="int32", name="question")
    told = layers.GRU(6, name="read")(layers.Embedding(15, 5, name="words")(question))
    told = layers.Reshape((1, 1, 16), name="everywhere")(layers.Dense(16, name="told")(told))
    x = layers.Conv2D(8, 4, strides=4, activation="relu", name="stem")(picture)
    x = layers.Conv2D(8, 1, activation="relu", name="mix")(_Placed(name="placed1")(x))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = layers.BatchNormalization(center=False, scale=False, name="bn")(y)
    y = layers.ReLU(name="relu")((1 + told[..., :8]) * y + told[..., 8:])
    x = layers.Conv2D(6, 1, activation="relu", name="last")(_Placed(name="placed2")(layers.Add(name="sum")([x, y])))
    x = layers.GlobalMaxPooling2D(name="largest")(x)
    model = keras.Model([picture, question], layers.Dense(5, name="head")(x))
    fill(model)
    grown(model, 2, "told", "conv")
    inputs = {"picture": fed(131, 4, 20, 20, 3), "question": counted(132, 15, 4, 6)}
    return Pair(model, inputs, ported(model, Asked), "NHWC->NCHW")


_PLACED = "placed1 placed2 linspace* meshgrid* stack* expand* cat* mix last"
_CHANGED = "add* multiply* mul* get_item* slice* chunk* bn conv relu relu_2"
slip("asked/places-from-zero", _PLACED, "input-scale input-normalisation weights-perturbed scale",
     "shift embedding-offset")  # fmt: skip
slip("asked/columns-as-rows", _PLACED, "channel-order concat-order", "axis-permutation operand-order")
slip("asked/places-first", _PLACED, "concat-order", "operand-order channel-order")
slip(
    "asked/shift-first",
    "told everywhere " + _CHANGED,
    "concat-order operand-order channel-order",
    "weights-swapped wiring",
)
slip(
    "asked/changed-before-the-norm",
    _CHANGED,
    "residual-order wiring",
    "operand-order bn-stats block-missing block-extra",
)
slip("asked/one-not-added", _CHANGED, "residual-missing block-missing", "bias-missing scale")
slip("asked/changed-not-rectified", "sum " + _CHANGED, "activation-missing", "block-missing")
slip("asked/shortcut-lost", "sum add* relu* placed2 last", "residual-missing", "block-missing wiring")
slip("asked/mean-of-the-map", "largest amax mean head", "pool-kind")
defect("asked/norm-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("asked/gates-of-keras", "read", "gru-gate-order", "weights-perturbed weights-swapped")(
    rewritten("read.*", lambda w: w.unflatten(0, (3, 6))[[1, 0, 2]].flatten(0, 1))
)
ways("asked", "norm-in-the-scale")
one_layer("asked", "columns-as-rows+places-from-zero", "shift-first+one-not-added")
neighbours("asked", "changed-not-rectified+shortcut-lost")


# --- by a map -----------------------------------------------------------------------------------------------


class Painted(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.seed, self.shared = nn.Linear(5, 96), nn.Conv2d(3, 6, 3, padding=1)
        self.gamma, self.beta = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.conv, self.out = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def by(self, x: torch.Tensor, map_: torch.Tensor) -> torch.Tensor:
        if "map-drawn-bilinear" in self.ways:
            map_ = F.interpolate(map_, (8, 8), mode="bilinear")
        else:
            map_ = (
                map_[:, :, 1::2, 1::2]
                if "map-by-step" in self.ways
                else F.interpolate(map_, (8, 8), mode="nearest-exact")
            )
        y = F.relu(self.shared(map_))
        gamma, beta = self.gamma(y), self.beta(y)
        if "norm-of-torch" in self.ways:
            x = F.instance_norm(x, eps=1e-5)
        elif "normed-over-the-batch" in self.ways:
            x = _normed(x, (0, 2, 3), 1e-5)
        else:
            x = _normed(x, (1, 2, 3) if "normed-at-once" in self.ways else (2, 3), 1e-5)
        return x * gamma + beta if "one-not-added" in self.ways else x * (1 + gamma) + beta

    def forward(self, noise: torch.Tensor, painted: torch.Tensor) -> torch.Tensor:
        x = self.seed(noise)
        x = (
            x.unflatten(1, (6, 4, 4))
            if "seed-maps-outermost" in self.ways
            else x.unflatten(1, (4, 4, 6)).permute(0, 3, 1, 2)
        )
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners="corners-aligned" in self.ways)
        x = self.by(x, painted.permute(0, 3, 1, 2))
        x = x if "not-bent" in self.ways else F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2)
        x = self.out(F.relu(self.conv(x)))
        return torch.sigmoid(x) if "colours-by-sigmoid" in self.ways else torch.tanh(x)


@network
def painted() -> Pair:
    """SPADE: a picture from noise, its instances normed and then scaled and shifted by a map of what is where."""
    keras.backend.clear_session()
    noise, map_ = layers.Input((5,), name="noise"), layers.Input((16, 16, 3), name="painted")
    x = layers.Reshape((4, 4, 6), name="seeds")(layers.Dense(96, name="seed")(noise))
    x = layers.UpSampling2D(2, interpolation="bilinear", name="raise")(x)
    y = layers.Resizing(8, 8, interpolation="nearest", name="smaller")(map_)
    y = layers.Conv2D(6, 3, padding="same", activation="relu", name="shared")(y)
    gamma, beta = (layers.Conv2D(6, 3, padding="same", name=name)(y) for name in ("gamma", "beta"))
    mean, variance = ops.mean(x, axis=(1, 2), keepdims=True), ops.var(x, axis=(1, 2), keepdims=True)
    x = (x - mean) / ops.sqrt(variance + 1e-5) * (1 + gamma) + beta
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")(layers.LeakyReLU(0.2, name="bend")(x))
    x = layers.Conv2D(3, 3, padding="same", activation="tanh", name="out")(x)
    model = keras.Model([noise, map_], x)
    fill(model)
    grown(model, 0.5, "out")
    inputs = {"noise": fed(133, 3, 5), "painted": fed(134, 3, 16, 16, 3)}
    return Pair(model, inputs, ported(model, Painted), "same")


_NORMED = "mean* var* subtract* sub* add* sqrt* true_divide* div* multiply* mul* gamma"
slip("painted/map-drawn-bilinear", "smaller interpolate* slice* shared", "resize-mode", "operation-kind")
slip("painted/normed-over-the-batch", _NORMED, "norm-axis", "operation-kind bn-mode")
slip("painted/normed-at-once", _NORMED, "norm-axis", "operation-kind")
slip("painted/one-not-added", _NORMED + " beta bend leaky_relu", "residual-missing block-missing", "bias-missing scale")
slip("painted/seed-maps-outermost", "seed seeds unflatten permute raise interpolate", "reshape-order flatten-order",
     "kernel-layout wiring")  # fmt: skip
slip("painted/corners-aligned", "raise interpolate", "resize-align-corners", "resize-mode")
slip("painted/not-bent", "bend leaky_relu add* conv", "activation-missing", "block-missing")
slip("painted/slope-of-torch", "bend leaky_relu", "activation-param")
slip("painted/colours-by-sigmoid", "out tanh sigmoid", "activation-kind", "logits")
defect("painted/beta-for-gamma", "gamma beta", "weights-swapped", "weights-perturbed wiring")(
    lambda port: _exchanged(port)
)


def _exchanged(port: Painted) -> None:
    port.gamma, port.beta = port.beta, port.gamma


defect("painted/shared-in-half", "shared shared.*", "dtype", "weights-perturbed")(lambda port: _halved(port.shared))


def _halved(conv: nn.Conv2d) -> None:
    """Computes a layer in bfloat16, as autocast would."""
    conv.bfloat16()
    plain = conv.forward
    conv.forward = lambda x: plain(x.bfloat16()).float()


ways("painted", "norm-of-torch", "map-by-step")
one_layer("painted", "normed-at-once+one-not-added")
neighbours("painted", "corners-aligned+seed-maps-outermost", "not-bent+one-not-added", "slope-of-torch+beta-for-gamma")
