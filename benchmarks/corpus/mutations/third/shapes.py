"""Networks that give pictures: a segmenter, one that enlarges, an autoencoder; and patches mixed with one another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.third.registry import control, defect, neighbours, network, one_layer


class Segment(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc1 = nn.Conv2d(3, 5, 3, padding=1)
        self.enc1_act = nn.LeakyReLU(0.2)
        self.pool = nn.MaxPool2d(2)
        self.enc2 = nn.Conv2d(5, 7, 3, padding=1)
        self.mid_norm = nn.GroupNorm(7, 7, eps=1e-3)
        self.mid_act = nn.SELU()
        self.up = nn.ConvTranspose2d(7, 5, 3, stride=2)
        self.dec = nn.Conv2d(10, 6, 3, padding=1, bias=False)
        self.out = nn.Conv2d(6, 4, 1)

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :, :12, :8]

    def skip(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return after

    def join(self, skip: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.cat([skip, up], dim=1)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x, dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.enc1(x)
        after = self.enc1_act(before)
        x = self.mid_act(self.mid_norm(self.enc2(self.pool(after))))
        x = F.relu(self.dec(self.join(self.skip(before, after), self.crop(self.up(x)))))
        return self.finish(self.out(x))


@network
def segment() -> Pair:
    """A small U-Net: instance normalisation in the middle, a transposed convolution, a skip, classes for each pixel."""
    keras.backend.clear_session()
    image = layers.Input((12, 8, 3), name="image")
    x = layers.Conv2D(5, 3, padding="same", name="enc1")(image)
    skip = layers.LeakyReLU(0.2, name="enc1_act")(x)
    x = layers.Conv2D(7, 3, padding="same", name="enc2")(layers.MaxPooling2D(2, name="pool")(skip))
    x = layers.GroupNormalization(-1, name="mid_norm")(x)
    x = layers.Activation("selu", name="mid_act")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="up")(x)
    x = layers.Concatenate(name="join")([skip, x])
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, activation="relu", name="dec")(x)
    x = layers.Conv2D(4, 1, name="out")(x)
    model = keras.Model(image, layers.Softmax(name="finish")(x))
    fill(model)
    inputs = np.random.default_rng(3).standard_normal((2, 12, 8, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Segment()), "NHWC->NCHW")


@defect("segment/softmax-over-width", "finish softmax", "softmax-axis")
def _(port: Any) -> None:
    port.finish = lambda x: torch.softmax(x, dim=-1)


@defect("segment/no-softmax", "finish softmax out", "logits activation-missing", "block-missing")
def _(port: Any) -> None:
    port.finish = lambda x: x


@defect("segment/up-then-skip", "join cat dec", "concat-order", "channel-order axis-permutation operand-order")
def _(port: Any) -> None:
    port.join = lambda skip, up: torch.cat([up, skip], dim=1)


@defect("segment/up-padded", "up slice getitem", "transposed-conv-shift shift", "pad-asymmetry pad-mode")
def _(port: Any) -> None:
    """What gives the right shape: padding=1, output_padding=1."""
    port.up.padding, port.up.output_padding = (1, 1), (1, 1)
    port.crop = lambda x: x


@defect("segment/up-flipped", "up slice getitem", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.up.weight.data = port.up.weight.data.flip(2, 3).contiguous()


@defect("segment/one-group", "mid_norm", "norm-axis", "operation-kind")
def _(port: Any) -> None:
    port.mid_norm.num_groups = 1


@defect("segment/norm-eps-default", "mid_norm", "ln-eps bn-eps")
def _(port: Any) -> None:
    port.mid_norm.eps = 1e-5


@defect("segment/elu-for-selu", "mid_act", "activation-kind", "activation-param operation-kind scale")
def _(port: Any) -> None:
    port.mid_act = nn.ELU()


@defect("segment/slope-default", "enc1_act", "activation-param", "activation-kind")
def _(port: Any) -> None:
    port.enc1_act = nn.LeakyReLU()


@defect("segment/skip-before-activation", "enc1 enc1_act join cat dec", "activation-missing residual-order",
        "wiring block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.skip = lambda before, after: before


@control("segment/crop-by-padding")
def _(port: Any) -> None:
    port.crop = lambda x: F.pad(x, (0, -1, 0, -1))
    port.mid_norm = _instance(port.mid_norm)


def _instance(norm: Any) -> Any:
    other = nn.InstanceNorm2d(7, eps=1e-3, affine=True)
    other.load_state_dict(norm.state_dict())
    return other


one_layer("segment", "one-group+norm-eps-default", "up-padded+up-flipped")
neighbours("segment", "up-then-skip+slope-default", "norm-eps-default+elu-for-selu")


# --- another size -------------------------------------------------------------------------------------------


class Enlarge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5)
        self.act = nn.PReLU(8)
        self.second = nn.Conv2d(8, 12, 3, padding=1)

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x[:, :, :2].flip(2), x, x[:, :, -2:].flip(2)], dim=2)
        return torch.cat([x[..., :2].flip(3), x, x[..., -2:].flip(3)], dim=3)

    def shuffle(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        x = x.reshape(n, 2, 2, c // 4, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(n, c // 4, 2 * h, 2 * w)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(20, 12), mode="bicubic", antialias=True)

    def thumbnail(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, size=(8, 5), mode="bilinear", antialias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.shuffle(self.second(self.act(self.first(self.pad(x)))))
        return self.thumbnail(fine + self.coarse(x))


@network
def enlarge() -> Pair:
    """Padded by mirroring, depth to space, added to a bicubic enlargement, made smaller again for a thumbnail."""
    keras.backend.clear_session()
    image = layers.Input((10, 6, 3), name="image")
    x = ops.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="symmetric")
    x = layers.PReLU(shared_axes=[1, 2], name="act")(layers.Conv2D(8, 5, name="first")(x))
    x = layers.Conv2D(12, 3, padding="same", name="second")(x)
    x = layers.Reshape((10, 6, 2, 2, 3), name="shuffle_split")(x)
    x = layers.Permute((1, 3, 2, 4, 5), name="shuffle_turn")(x)
    x = layers.Reshape((20, 12, 3), name="shuffle_join")(x)
    coarse = layers.Resizing(20, 12, interpolation="bicubic", name="coarse")(image)
    x = layers.Add(name="sum")([x, coarse])
    model = keras.Model(image, layers.Resizing(8, 5, antialias=True, name="thumbnail")(x))
    fill(model)
    inputs = np.random.default_rng(4).uniform(0, 1, (2, 10, 6, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Enlarge()), "NHWC->NCHW")


@defect("enlarge/mirror-without-edge", "pad cat cat_1 flip slice first", "pad-mode", "block-extra pad-asymmetry")
def _(port: Any) -> None:
    port.pad = lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect")


@defect("enlarge/pixel-shuffle", "shuffle_split shuffle_turn shuffle_join pixel_shuffle", "depth-to-space-order",
        "reshape-order channel-order axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    port.shuffle = lambda x: F.pixel_shuffle(x, 2)


@defect("enlarge/bicubic-of-torch", "coarse interpolate", "resize-mode resize-antialias", "operation-kind")
def _(port: Any) -> None:
    """Its bicubic has another coefficient, -0.75."""
    port.coarse = lambda x: F.interpolate(x, size=(20, 12), mode="bicubic")


@defect("enlarge/bicubic-bilinear", "coarse interpolate", "resize-mode", "operation-kind")
def _(port: Any) -> None:
    port.coarse = lambda x: F.interpolate(x, size=(20, 12), mode="bilinear")


@defect("enlarge/thumbnail-aliased", "thumbnail interpolate interpolate_1", "resize-antialias", "resize-mode")
def _(port: Any) -> None:
    port.thumbnail = lambda x: F.interpolate(x, size=(8, 5), mode="bilinear")


@defect("enlarge/thumbnail-corners", "thumbnail interpolate interpolate_1", "resize-align-corners", "resize-mode")
def _(port: Any) -> None:
    port.thumbnail = lambda x: F.interpolate(x, size=(8, 5), mode="bilinear", antialias=True, align_corners=True)


@defect("enlarge/slopes-fresh", "act", "activation-param weights-not-loaded", "weights-perturbed")
def _(port: Any) -> None:
    nn.init.constant_(port.act.weight, 0.25)


@control("enlarge/weights-shuffled")
def _(port: Any) -> None:
    """The order of depth to space in the weights in front of it."""
    for value in (port.second.weight.data, port.second.bias.data):
        value.copy_(value.unflatten(0, (4, 3)).transpose(0, 1).flatten(0, 1).clone())
    port.shuffle = lambda x: F.pixel_shuffle(x, 2)


neighbours("enlarge", "mirror-without-edge+slopes-fresh")


# --- an autoencoder -----------------------------------------------------------------------------------------


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(60, 9)
        self.expand = nn.Linear(9, 60)
        self.up = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        self.out = nn.Conv2d(3, 1, 3, padding=1)

    def unit(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1)

    def shape(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 3, 5, 4).permute(0, 3, 1, 2)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.unit(self.encode(x.flatten(1)))
        x = F.softplus(self.up(self.shape(torch.tanh(self.expand(x)))))
        return self.finish(self.out(x))


@network
def autoencoder() -> Pair:
    """One channel, a code of length one, maps from a dense layer."""
    keras.backend.clear_session()
    image = layers.Input((6, 10, 1), name="image")
    x = layers.Dense(9, name="encode")(layers.Flatten(name="flat")(image))
    x = layers.UnitNormalization(name="unit")(x)
    x = layers.Dense(60, activation="tanh", name="expand")(x)
    x = layers.Reshape((3, 5, 4), name="shape")(x)
    x = layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="softplus", name="up")(x)
    model = keras.Model(image, layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="out")(x))
    fill(model)
    inputs = np.random.default_rng(5).standard_normal((2, 6, 10, 1)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Autoencoder()), "NHWC->NCHW")


@defect("autoencoder/maps-as-is", "shape view permute up", "reshape-order flatten-order",
        "axis-permutation dense-row-order")  # fmt: skip
def _(port: Any) -> None:
    port.shape = lambda x: x.view(-1, 4, 3, 5)


@defect("autoencoder/no-sigmoid", "out sigmoid", "logits activation-missing", "block-missing")
def _(port: Any) -> None:
    port.finish = lambda x: x


@defect("autoencoder/bias-unmoved", "expand shape view up", "dense-row-order reshape-order weights-perturbed",
        "flatten-order channel-order axis-permutation bias-missing weights-not-loaded")  # fmt: skip
def _(port: Any) -> None:
    """The layer's outputs were turned, its bias forgotten."""
    weight = port.expand.weight.data
    weight.copy_(weight.unflatten(0, (3, 5, 4)).permute(2, 0, 1, 3).flatten(0, 2).clone())
    port.shape = lambda x: x.view(-1, 4, 3, 5)


@defect("autoencoder/unit-over-samples", "unit normalize encode", "norm-axis")
def _(port: Any) -> None:
    port.unit = lambda x: F.normalize(x, dim=0)


one_layer("autoencoder", "no-sigmoid+out-mirrored")


@defect("autoencoder/out-mirrored", "out sigmoid", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.out.weight.data = port.out.weight.data.flip(2, 3).contiguous()


# --- patches ------------------------------------------------------------------------------------------------


class Sharpen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def exp(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.exp(self.logit_scale)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6, eps=1e-6)
        self.tokens = nn.Linear(6, 6)
        self.channels_norm = nn.LayerNorm(6, eps=1e-6)
        self.channels = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5, bias=False)
        self.sharpen = Sharpen()

    def flatten(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).transpose(1, 2)

    def roll(self, x: torch.Tensor) -> torch.Tensor:
        return torch.roll(x, -2, dims=1)

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(self.tokens(x.transpose(1, 2))).transpose(1, 2)

    def unit(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.roll(self.flatten(self.patch(x)))
        x = x + self.mix(self.norm(x))
        x = x + F.gelu(self.channels(self.channels_norm(x)))
        return self.sharpen(self.head(self.unit(x))).mean(1)


class _Sharpen(layers.Layer):  # type: ignore[misc]
    def build(self, shape: Any) -> None:
        self.logit_scale = self.add_weight(shape=(1,), name="logit_scale")

    def call(self, x: Any) -> Any:
        return x * ops.exp(self.logit_scale)


@network
def patches() -> Pair:
    """As many patches as channels, rolled and mixed; features of length one against a learnt temperature."""
    keras.backend.clear_session()
    image = layers.Input((12, 8, 3), name="image")
    x = layers.Conv2D(6, 4, strides=4, name="patch")(image)
    x = ops.roll(layers.Reshape((6, 6), name="flatten")(x), -2, axis=1)
    y = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    y = layers.Permute((2, 1), name="turn")(y)
    y = layers.Permute((2, 1), name="turn_back")(layers.Dense(6, activation="gelu", name="tokens")(y))
    x = layers.Add(name="sum_1")([x, y])
    y = layers.LayerNormalization(epsilon=1e-6, name="channels_norm")(x)
    x = layers.Add(name="sum_2")([x, layers.Dense(6, activation="gelu", name="channels")(y)])
    x = layers.Dense(5, use_bias=False, name="head")(layers.UnitNormalization(name="unit")(x))
    x = _Sharpen(name="sharpen")(x)
    model = keras.Model(image, layers.GlobalAveragePooling1D(name="mean")(x))
    fill(model)
    inputs = np.random.default_rng(6).standard_normal((2, 12, 8, 3)).astype(np.float32)

    return Pair(model, inputs, lambda: carry(model, Mixer()), "NHWC->NCHW")


@defect("patches/tokens-unturned", "turn tokens turn_back transpose_1 gelu", "axis-permutation",
        "block-missing dense-transpose reshape-order wiring")  # fmt: skip
def _(port: Any) -> None:
    """Mixes channels once more; the shapes fit."""
    port.mix = lambda x: F.gelu(port.tokens(x))


@defect("patches/rolled-back", "roll", "shift", "axis-permutation")
def _(port: Any) -> None:
    port.roll = lambda x: torch.roll(x, 2, dims=1)


@defect("patches/unit-over-tokens", "unit normalize", "norm-axis")
def _(port: Any) -> None:
    """normalize's default is the second axis."""
    port.unit = F.normalize


@defect("patches/temperature-logarithmic", "sharpen", "scale activation-missing block-missing", "weights-perturbed")
def _(port: Any) -> None:
    port.sharpen.exp = lambda x: x


@defect("patches/columns-first", "flatten transpose roll", "flatten-order reshape-order",
        "axis-permutation channel-order shift")  # fmt: skip
def _(port: Any) -> None:
    port.flatten = lambda x: x.transpose(2, 3).flatten(2).transpose(1, 2)


@defect("patches/gains-left", "channels_norm", "weights-not-loaded", "weights-perturbed bn-stats")
def _(port: Any) -> None:
    """gamma and beta under names that the loader passed over."""
    port.channels_norm.reset_parameters()


neighbours("patches", "columns-first+rolled-back", "unit-over-tokens+temperature-logarithmic")
