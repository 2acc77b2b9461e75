"""Pictures: kernels in groups, pixels one after another, and a small transformer on what kernels saw."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to

_MEANS, _VARIANCES = np.float32([123.7, 116.3, 103.5]), np.float32([3411.0, 3262.0, 3290.0])


class Cardinal(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.narrow, self.narrow_bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.near = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2, bias=False)
        self.near_bn = nn.BatchNorm2d(8, eps=1e-3)
        self.wide, self.wide_bn = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12, eps=1e-3)
        self.short, self.short_bn = nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12, eps=1e-3)
        self.head = nn.Linear(12, 5)

    def grouped(self, x: torch.Tensor) -> torch.Tensor:
        near = self.near
        if "each-group-alone" in self.ways:
            parts = zip(x.chunk(2, dim=1), near.weight.chunk(2), strict=True)
            return torch.cat([F.conv2d(part, weight, stride=2, padding=1) for part, weight in parts], dim=1)
        if "every-other-channel-a-group" in self.ways:
            x = torch.cat([x[:, ::2], x[:, 1::2]], dim=1)
        if "stride-before-the-groups" in self.ways:
            return F.conv2d(x[:, :, ::2, ::2], near.weight, padding=1, groups=2)
        return near(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means, spreads = torch.from_numpy(_MEANS)[:, None, None], torch.from_numpy(_VARIANCES).sqrt()[:, None, None]
        image = image.flip(1) if "blue-before-red" in self.ways else image
        x = image / 127.5 - 1 if "levelled-as-mobile-networks" in self.ways else (image - means) / spreads
        x = F.relu(self.stem_bn(self.stem(x)))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2) if "pooled-as-same" in self.ways else F.max_pool2d(x, 3, 2, 1)
        y = F.relu(self.narrow_bn(self.narrow(x)))
        y = self.wide_bn(self.wide(F.relu(self.near_bn(self.grouped(y)))))
        short = self.short(x)
        short = short if "shortcut-without-its-norm" in self.ways else self.short_bn(short)
        x = short + F.relu(y) if "bent-before-the-sum" in self.ways else F.relu(short + y)
        return self.head(x.mean((2, 3)))


@network
def cardinal() -> Pair:
    """ResNeXt as Keras has it: levelled bytes, zeros put around, a block with groups and a stride."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(image)

    def conv(x: keras.KerasTensor, name: str, *shape: int, groups: int = 1, bent: bool = True) -> keras.KerasTensor:
        x = layers.Conv2D(*shape, use_bias=False, groups=groups, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if bent else x

    x = conv(layers.ZeroPadding2D(name="pad1")(x), "stem", 8, 3, 2)
    x = layers.MaxPooling2D(3, 2, name="pool")(layers.ZeroPadding2D(name="pad2")(x))
    y = layers.ZeroPadding2D(name="pad3")(conv(x, "narrow", 8, 1))
    y = conv(conv(y, "near", 8, 3, 2, groups=2), "wide", 12, 1, bent=False)
    x = layers.Add(name="sum")([conv(x, "short", 12, 1, 2, bent=False), y])
    x = layers.GlobalAveragePooling2D(name="mean_pool")(layers.ReLU(name="relu")(x))
    model = keras.Model(image, layers.Dense(5, name="head")(x))
    fill(model)
    return Pair(model, counted(1121, 256, 3, 16, 16, 3).astype("float32"), ported(model, Cardinal), "NHWC->NCHW")


_LEVEL = "normalization sub* div* truediv* true_divide* stem image flip*"
slip("cardinal/every-other-channel-a-group", "near cat* get_item* slice* conv2d*",
     "groups channel-order kernel-layout", "weights-perturbed block-extra concat-order axis-permutation")  # fmt: skip
slip(
    "cardinal/stride-before-the-groups",
    "near pad3 conv2d* get_item* slice*",
    "stride-position dilation",
    "shift block-extra",
)
slip("cardinal/blue-before-red", _LEVEL, "channel-order", "axis-permutation block-extra")
slip("cardinal/levelled-as-mobile-networks", _LEVEL, "input-normalisation input-scale", "scale")
slip("cardinal/pooled-as-same", "pool pad2 pad* max_pool2d*", "pad-asymmetry", "shift")
slip("cardinal/shortcut-without-its-norm", "short short_bn sum add*", "block-missing", "wiring bn-stats")
slip("cardinal/bent-before-the-sum", "sum relu add* relu* wide_bn", "residual-order",
     "wiring activation-extra activation-missing operand-order")  # fmt: skip
defect("cardinal/variance-as-deviation", "narrow_bn", "bn-stats", "weights-perturbed")(
    rewritten("narrow_bn.running_var", torch.sqrt)
)
ways("cardinal", "each-group-alone")
control("cardinal/shortcut-folded")(folded("short", "short_bn"))
one_layer("cardinal", "every-other-channel-a-group+stride-before-the-groups",
          "blue-before-red+levelled-as-mobile-networks")  # fmt: skip
neighbours("cardinal", "shortcut-without-its-norm+bent-before-the-sum", "pooled-as-same+variance-as-deviation")


# --- pixels one after another -------------------------------------------------------------------------------


def _past(size: int, own: bool) -> np.ndarray:
    """Which of a kernel's places are read before the middle, with the middle or without."""
    mask = np.zeros((size, size), np.float32)
    mask[: size // 2] = 1
    mask[size // 2, : size // 2 + own] = 1
    return mask


class Pixels(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.narrow, self.wide = nn.Conv2d(1, 8, 5, padding=2), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.past, self.last, self.out = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)

    def masked(self, conv: nn.Conv2d, own: bool, x: torch.Tensor) -> torch.Tensor:
        size = conv.kernel_size[0]
        mask = torch.from_numpy(_past(size, own))
        if "columns-before-rows" in self.ways:
            mask = mask.T
        if "masked-below-as-well" in self.ways and own:
            mask = torch.ones_like(mask)
        if "padded-before-alone" in self.ways:
            half = size // 2
            return F.conv2d(F.pad(x, (half, half, half, 0)), (conv.weight * mask)[:, :, : half + 1], conv.bias)
        return F.conv2d(x, conv.weight * mask, conv.bias, padding=size // 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.masked(self.first, "middle-seen-at-once" in self.ways, image))
        y = self.narrow(x if "block-begins-linear" in self.ways else F.relu(x))
        y = F.relu(self.masked(self.past, True, F.relu(y)))
        y = self.wide(y)
        y = y if "block-ends-linear" in self.ways else F.relu(y)
        x = y if "block-not-added" in self.ways else x + y
        x = self.out(F.relu(self.last(x)))
        return x if "logits-given" in self.ways else torch.sigmoid(x)


class _Past(layers.Layer):  # type: ignore[misc]
    def __init__(self, width: int, size: int, own: bool, **more: str) -> None:
        super().__init__(**more)
        self.width, self.size, self.own = width, size, own

    def build(self, shape: tuple[int, ...]) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(self.size, self.size, shape[-1], self.width))
        self.bias = self.add_weight(name="bias", shape=(self.width,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        kernel = self.kernel * _past(self.size, self.own)[:, :, None, None]
        return ops.relu(ops.conv(x, kernel, padding="same") + self.bias)


@network
def pixels() -> Pair:
    """PixelCNN as Keras' example has it: kernels that read what is above and before, and a residual block."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 1), name="image")
    x = _Past(8, 5, False, name="first")(image)
    y = layers.Conv2D(4, 1, activation="relu", name="narrow")(x)
    y = layers.Conv2D(8, 1, activation="relu", name="wide")(_Past(4, 3, True, name="past")(y))
    x = layers.Conv2D(8, 1, activation="relu", name="last")(layers.Add(name="sum")([x, y]))
    model = keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", name="out")(x))
    fill(model)
    grown(model, 2, "out")
    return Pair(model, (fed(1122, 3, 8, 8, 1) > 0).astype(np.float32), ported(model, Pixels), "NHWC->NCHW")


_MASKED = "first past first/* past/* conv2d* mul* multiply*"
slip("pixels/middle-seen-at-once", _MASKED, "attention-mask weights-perturbed block-missing", "kernel-layout")
slip("pixels/columns-before-rows", _MASKED, "kernel-layout attention-mask weights-perturbed axis-permutation")
slip("pixels/masked-below-as-well", _MASKED, "block-missing attention-mask weights-perturbed", "kernel-layout")
slip("pixels/block-ends-linear", "wide relu* sum add*", "activation-missing", "block-missing")
slip("pixels/block-not-added", "sum add* last", "residual-missing", "wiring block-missing")
slip("pixels/logits-given", "out sigmoid*", "logits activation-missing", "block-missing")
defect("pixels/last-as-it-lies", "last", "kernel-layout dense-transpose", "weights-perturbed")(
    rewritten("last.weight", lambda weight: weight.transpose(0, 1))
)
defect("pixels/kernel-turned-over", "first first/* conv2d*", "kernel-layout kernel-flip", "weights-perturbed")(
    rewritten("first.weight", lambda weight: weight.transpose(2, 3))
)
ways("pixels", "padded-before-alone", "block-begins-linear")
one_layer("pixels", "middle-seen-at-once+kernel-turned-over", "block-ends-linear+block-not-added")
neighbours("pixels", "last-as-it-lies+logits-given")


# --- a small transformer ------------------------------------------------------------------------------------


class Compact(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.tokens, self.places = nn.Conv2d(3, 8, 3, bias=False), nn.ParameterDict({"rows": torch.zeros(25, 8)})
        self.norm1, self.norm2, self.last = (nn.LayerNorm(8, eps=1e-5) for _ in range(3))
        parts = ("query", "key", "value", "attention_output")
        self.attention = nn.ModuleDict({part: nn.Linear(8, 8) for part in parts})
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.share, self.head = nn.Linear(8, 1), nn.Linear(8, 4)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        own = [self.attention[part] for part in ("query", "key", "value")]
        if "three-in-one-product" in self.ways:
            weight, bias = torch.cat([part.weight for part in own]), torch.cat([part.bias for part in own])
            q, k, v = F.linear(x, weight, bias).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        elif "features-outermost" in self.ways:
            q, k, v = (part(x).unflatten(2, (4, 2)).permute(0, 3, 1, 2) for part in own)
        else:
            q, k, v = (part(x).unflatten(2, (2, 4)).transpose(1, 2) for part in own)
        y = F.scaled_dot_product_attention(q, k, v, scale=8**-0.5 if "scaled-by-the-whole-width" in self.ways else None)
        return self.attention["attention_output"](y.transpose(1, 2).flatten(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.tokens(image))
        x = F.max_pool2d(x, 3, 2, 1) if "pooled-around" in self.ways else F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)
        x = (x.transpose(2, 3) if "columns-before-rows" in self.ways else x).flatten(2).transpose(1, 2)
        x = x if "places-forgotten" in self.ways else x + self.places["rows"]
        x = x + self.attended(self.norm1(x))
        y = F.gelu(self.wide(self.norm2(x)), approximate="tanh" if "gelu-by-tanh" in self.ways else "none")
        x = self.last(x + self.narrow(y))
        if "tokens-averaged" in self.ways:
            return self.head(x.mean(1))
        shares = F.softmax(self.share(x), dim=2 if "shares-of-one" in self.ways else 1)
        return self.head((shares * x).sum(1) if "pooled-by-a-sum" in self.ways else (shares.mT @ x)[:, 0])


class _Places(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.rows = self.add_weight(name="rows", shape=shape[1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x + self.rows


@network
def compact() -> Pair:
    """A compact convolutional transformer: tokens by a kernel and a pool, one block, a learnt mean of the tokens."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", use_bias=False, name="tokens")(image)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool")(x)
    x = _Places(name="places")(layers.Reshape((25, 8), name="line")(x))
    y = layers.LayerNormalization(epsilon=1e-5, name="norm1")(x)
    x = layers.Add(name="sum1")([x, layers.MultiHeadAttention(2, 4, name="attention")(y, y)])
    y = layers.LayerNormalization(epsilon=1e-5, name="norm2")(x)
    y = layers.Dense(8, name="narrow")(layers.Dense(12, activation="gelu", name="wide")(y))
    x = layers.LayerNormalization(epsilon=1e-5, name="last")(layers.Add(name="sum2")([x, y]))
    shares = ops.softmax(layers.Dense(1, name="share")(x), axis=1)
    x = ops.squeeze(ops.matmul(ops.transpose(shares, (0, 2, 1)), x), axis=1)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    grown(model, 2, "share", "head")
    return Pair(model, fed(1123, 3, 12, 12, 3), ported(model, Compact), "NHWC->NCHW")


_LOOK = "attention attention.* attention/* scaled_dot* unflatten* transpose* permute* flatten*"
_POOL = "share softmax* matmul* mul* sum* squeeze* mean* head"
slip("compact/features-outermost", _LOOK, "head-layout reshape-order", "wiring channel-order")
slip("compact/scaled-by-the-whole-width", _LOOK, "attention-scale", "scale")
slip("compact/pooled-around", "pool pad* max_pool2d*", "pad-asymmetry", "shift")
slip("compact/columns-before-rows", "line reshape* transpose* flatten* places places.*",
     "flatten-order axis-permutation reshape-order", "wiring")  # fmt: skip
slip("compact/places-forgotten", "places places.* add* norm1", "block-missing", "wiring bias-missing")
slip("compact/gelu-by-tanh", "gelu* wide narrow", "gelu-approx")
slip("compact/shares-of-one", _POOL, "softmax-axis", "operation-kind scale")
slip("compact/tokens-averaged", _POOL, "pool-kind block-missing", "operation-kind wiring")
defect("compact/norm-eps-of-keras", "norm? last", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("compact/query-for-key", "attention attention.* attention/*", "qkv-order weights-swapped",
       "weights-perturbed wiring")(exchanged("attention.query", "attention.key"))  # fmt: skip
defect("compact/value-without-bias", "attention attention.* attention/*", "bias-missing", "weights-not-loaded")(
    set_to("attention.value", bias=None)
)
ways("compact", "three-in-one-product", "pooled-by-a-sum")
one_layer("compact", "query-for-key+scaled-by-the-whole-width", "features-outermost+value-without-bias")
neighbours("compact", "pooled-around+columns-before-rows", "gelu-by-tanh+norm-eps-of-keras")
