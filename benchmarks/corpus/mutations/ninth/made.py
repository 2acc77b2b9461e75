"""What is made or turned round: a step of Glow, and a picture of a class out of noise."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten


class Glow(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.level = nn.ParameterDict({"bias": torch.zeros(12), "logs": torch.zeros(12)})
        self.turn = nn.Conv2d(12, 12, 1, bias=False)
        self.one, self.two, self.three = (
            nn.Conv2d(n, m, k, padding=k // 2) for n, m, k in ((6, 8, 3), (8, 8, 1), (8, 12, 3))
        )

    def squeezed(self, image: torch.Tensor) -> torch.Tensor:
        if "squeezed-as-torch" in self.ways:
            return F.pixel_unshuffle(image, 2)
        x = image.unflatten(3, (4, 2)).unflatten(2, (4, 2))
        return x.permute(0, 3, 5, 1, 2, 4).flatten(1, 3)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        if "points-as-products" in self.ways:
            return torch.einsum("bihw,oi->bohw", x, self.turn.weight[..., 0, 0])
        return self.turn(x)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rate = 1 if "logarithms-not-tripled" in self.ways else 3
        gain = torch.exp(rate * self.level["logs"])[:, None, None]
        shift = self.level["bias"][:, None, None]
        x = self.squeezed(image)
        one, two = self.turned(x * gain + shift if "levelled-then-shifted" in self.ways else (x + shift) * gain).chunk(
            2, 1
        )
        one, two = (two, one) if "second-half-tells" in self.ways else (one, two)
        y = self.three(F.relu(self.two(F.relu(self.one(one)))))
        shift, scale = y.chunk(2, 1) if "scales-behind-shifts" in self.ways else (y[:, ::2], y[:, 1::2])
        scale = scale if "two-not-added" in self.ways else scale + 2
        scale = torch.exp(F.logsigmoid(scale)) if "sigmoid-of-its-logarithm" in self.ways else torch.sigmoid(scale)
        two = two * scale + shift if "scaled-then-shifted" in self.ways else (two + shift) * scale
        both = [two, one] if "second-half-tells" in self.ways else [one, two]
        return torch.cat(both, dim=1), torch.log(scale).sum((1, 2, 3))


class _Level(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.bias, self.logs = (self.add_weight(name=name, shape=(12,)) for name in ("bias", "logs"))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return (x + self.bias) * ops.exp(3 * self.logs)


@network
def glow() -> Pair:
    """A step of Glow: squares of pixels as channels, a level, a turn of the channels, and half tells the other half."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 3), name="image")
    x = ops.transpose(ops.reshape(image, (-1, 4, 2, 4, 2, 3)), (0, 1, 3, 2, 4, 5))
    x = _Level(name="level")(layers.Reshape((4, 4, 12), name="squeezed")(x))
    one, two = ops.split(layers.Conv2D(12, 1, use_bias=False, name="turn")(x), 2, axis=3)
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="one")(one)
    y = layers.Conv2D(8, 1, activation="relu", name="two")(y)
    y = layers.Conv2D(12, 3, padding="same", name="three")(y)
    scale = ops.sigmoid(y[..., 1::2] + 2)
    x = layers.Concatenate(name="both")([one, (two + y[..., ::2]) * scale])
    model = keras.Model(image, [x, ops.sum(ops.log(scale), axis=(1, 2, 3))])
    fill(model)
    return Pair(model, fed(981, 3, 8, 8, 3), ported(model, Glow), "NHWC->NCHW")


_SQUEEZED, _COUPLED = (
    "reshape* transpose* squeezed pixel_unshuffle* permute* flatten* unflatten* level mul* add* turn",
    "chunk* split* get_item* slice* add* mul* multiply* sigmoid* both cat* three",
)
slip("glow/squeezed-as-torch", _SQUEEZED, "depth-to-space-order", "reshape-order wiring")
slip("glow/logarithms-not-tripled", "exp* " + _SQUEEZED, "scale", "weights-perturbed weights-not-loaded")
slip("glow/levelled-then-shifted", _SQUEEZED, "residual-order wiring", "operand-order scale")
slip("glow/second-half-tells", "one " + _COUPLED, "concat-order wiring", "operand-order channel-order")
slip("glow/scales-behind-shifts", _COUPLED, "channel-order concat-order reshape-order", "axis-permutation wiring")
slip("glow/two-not-added", _COUPLED, "bias-missing block-missing", "residual-missing")
slip("glow/scaled-then-shifted", _COUPLED, "residual-order wiring", "operand-order scale")
defect("glow/turned-back", "turn", "kernel-layout dense-transpose", "weights-perturbed")(
    rewritten("turn.weight", lambda weight: weight.transpose(0, 1))
)
ways("glow", "points-as-products", "sigmoid-of-its-logarithm")
one_layer("glow", "squeezed-as-torch+logarithms-not-tripled", "scales-behind-shifts+two-not-added")
neighbours("glow", "levelled-then-shifted+turned-back")


# --- a class ------------------------------------------------------------------------------------------------


class Classed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.begin, self.bn = nn.Linear(6, 96), nn.BatchNorm2d(6, eps=1e-3, affine=False)
        self.gains, self.shifts = nn.Embedding(5, 6), nn.Embedding(5, 6)
        self.conv, self.value = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.key, self.query = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)
        self.share, self.paint = nn.ParameterDict({"by": torch.ones(1)}), nn.Conv2d(8, 3, 3, padding=1)

    def classed(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        label = label - 1 if "classes-from-one" in self.ways else label
        gain, shift = self.gains(label)[..., None, None], self.shifts(label)[..., None, None]
        gain = gain if "gains-around-zero" in self.ways else 1 + gain
        if "norm-in-the-gain" in self.ways:
            gain = gain * torch.rsqrt(self.bn.running_var + 1e-3)[:, None, None]
            return torch.addcmul(shift, x - self.bn.running_mean[:, None, None], gain)
        return self.bn(x) * gain + shift

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        k, q, v = (conv(x).flatten(2) for conv in (self.key, self.query, self.value))
        if "attention-of-torch" in self.ways:
            y = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), scale=1).transpose(1, 2)
        else:
            scores = q.transpose(1, 2) @ k
            scores = scores / 2 if "scores-scaled" in self.ways else scores
            y = v @ F.softmax(scores, dim=1 if "shared-among-the-asking" in self.ways else 2).transpose(1, 2)
        y = y.view_as(x)
        return x + (y if "share-forgotten" in self.ways else self.share["by"] * y)

    def forward(self, noise: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        x = self.begin(noise)
        x = x.view(-1, 6, 4, 4) if "map-as-torch-has-it" in self.ways else x.view(-1, 4, 4, 6).permute(0, 3, 1, 2)
        x = F.relu(self.classed(x, label))
        x = self.conv(
            F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")
        )
        return torch.tanh(self.paint(F.relu(self.attended(x))))


class _Shared(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=(1,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.by


@network
def classed() -> Pair:
    """SAGAN's generator: a norm whose gain and shift are the class's, and an attention with a learnt share."""
    keras.backend.clear_session()
    noise, label = layers.Input((6,), name="noise"), layers.Input((), dtype="int32", name="label")
    x = layers.Reshape((4, 4, 6), name="map")(layers.Dense(96, name="begin")(noise))
    gain, shift = (layers.Reshape((1, 1, 6), name=f"{name}_everywhere")(layers.Embedding(5, 6, name=name)(label))
                   for name in ("gains", "shifts"))  # fmt: skip
    x = layers.BatchNormalization(center=False, scale=False, name="bn")(x) * (1 + gain) + shift
    x = layers.UpSampling2D(2, name="raised")(layers.ReLU(name="relu1")(x))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    k, q, v = (layers.Reshape((64, width), name=f"{name}_list")(layers.Conv2D(width, 1, name=name)(x))
               for name, width in (("key", 4), ("query", 4), ("value", 8)))  # fmt: skip
    shares = layers.Softmax(name="shares")(layers.Dot(axes=2, name="scores")([q, k]))
    y = layers.Reshape((8, 8, 8), name="found")(layers.Dot(axes=(2, 1), name="read")([shares, v]))
    x = layers.ReLU(name="relu2")(layers.Add(name="sum")([x, _Shared(name="share")(y)]))
    model = keras.Model([noise, label], layers.Conv2D(3, 3, padding="same", activation="tanh", name="paint")(x))
    fill(model)
    grown(model, 0.5, "paint", "key", "query")
    model.get_layer("share").by.assign([0.6])
    return Pair(model, {"noise": fed(982, 4, 6), "label": np.int32([1, 4, 2, 3])}, ported(model, Classed), "same")


_CLASS = "gains* shifts* bn add* mul* multiply* addcmul* sub* relu*"
_READ = "scores shares softmax* read matmul* div* true_divide* key query value transpose* found"
slip("classed/map-as-torch-has-it", "map view* reshape* permute* bn begin", "reshape-order", "wiring")
slip("classed/classes-from-one", _CLASS, "embedding-offset", "shift weights-perturbed")
slip("classed/gains-around-zero", _CLASS, "residual-missing block-missing bias-missing", "scale")
slip("classed/raised-smoothly", "raised interpolate* conv", "resize-mode", "operation-kind")
slip("classed/scores-scaled", _READ, "attention-scale", "scale block-extra operation-kind")
slip("classed/shared-among-the-asking", _READ, "softmax-axis", "operation-kind")
slip("classed/share-forgotten", "share sum add* mul* relu*", "block-missing scale weights-not-loaded", "wiring")
defect("classed/key-for-query", "key query scores matmul*", "qkv-order", "weights-perturbed wiring operand-order")(
    exchanged("key", "query")
)
defect("classed/norm-eps-of-torch", "bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("classed", "norm-in-the-gain", "attention-of-torch")
one_layer("classed", "classes-from-one+gains-around-zero", "scores-scaled+shared-among-the-asking")
neighbours("classed", "map-as-torch-has-it+gains-around-zero", "raised-smoothly+share-forgotten")
