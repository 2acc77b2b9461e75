"""Pictures: weights that are levelled as they are used, and capsules that agree."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    control,
    defect,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    set_to,
    slip,
    way,
)


class Levelled(nn.Conv2d):
    """A convolution whose kernels have mean zero and deviation one."""

    ways: frozenset[str] = frozenset()

    def levelled(self) -> torch.Tensor:
        axes = (0, 2, 3) if "levelled-by-inputs" in self.ways else (1, 2, 3)
        ddof = int("kernels-unbiased" in self.ways)
        variance, mean = torch.var_mean(self.weight, axes, keepdim=True, correction=ddof)
        if "deviation-alone" in self.ways:
            return self.weight / (variance + 1e-4).sqrt()
        if "outside-the-root" in self.ways:
            return (self.weight - mean) / (variance.sqrt() + 1e-4)
        return (self.weight - mean) / (variance + 1e-4).sqrt()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight if "kernels-as-they-are" in self.ways else self.levelled()
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def _conv(ways: frozenset[str], *args: int, **own: int) -> Levelled:
    conv = Levelled(*args, bias=False, **own)
    conv.ways = ways
    return conv


class Transfer(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        rest: frozenset[str] = frozenset()
        self.stem = _conv(rest, 3, 8, 5, stride=2)
        self.norm1, self.norm2 = nn.GroupNorm(2, 8, eps=1e-3), nn.GroupNorm(2, 8, eps=1e-3)
        strides = (1, 2) if "stride-on-the-last" in ways else (2, 1)
        self.short, self.conv1 = _conv(ways, 8, 12, 1, stride=2), _conv(rest, 8, 8, 3, stride=strides[0], padding=1)
        self.conv2 = _conv(rest, 8, 12, 1, stride=strides[1])
        self.last, self.head = nn.GroupNorm(2, 12, eps=1e-3), nn.Linear(12, 5)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        if "edges-never-largest" in self.ways:
            return F.max_pool2d(x, 3, 2, 1)
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.stem(F.pad(image, (1, 2, 1, 2) if "stem-as-same" in self.ways else (2, 2, 2, 2))))
        y = F.relu(self.norm1(x))
        short = self.short(x if "shortcut-before-norm" in self.ways else y)
        y = self.conv1(y)
        y = self.norm2(F.relu(y)) if "norm-behind-rectifier" in self.ways else F.relu(self.norm2(y))
        x = short + self.conv2(y)
        x = self.last(x)
        x = (x if "last-not-rectified" in self.ways else F.relu(x)).mean((2, 3))
        if "head-in-half" in self.ways:
            return F.linear(x.bfloat16(), self.head.weight.bfloat16(), self.head.bias.bfloat16()).float()
        return self.head(x)


class _Levelled(layers.Conv2D):  # type: ignore[misc]
    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        mean, variance = ops.moments(self.kernel, axes=(0, 1, 2), keepdims=True)
        kernel = (self.kernel - mean) / ops.sqrt(variance + 1e-4)
        return ops.conv(x, kernel, strides=self.strides, padding=self.padding)


@network
def transfer() -> Pair:
    """BiT: levelled kernels, group norms before, padded with zeros before the largest is taken."""
    keras.backend.clear_session()

    def conv(x: keras.KerasTensor, width: int, size: int, name: str, **own: object) -> keras.KerasTensor:
        return _Levelled(width, size, use_bias=False, name=name, **own)(x)

    def normed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.ReLU(name=f"{name}_relu")(layers.GroupNormalization(2, epsilon=1e-3, name=name)(x))

    image = layers.Input((16, 18, 3), name="image")
    x = conv(layers.ZeroPadding2D(2, name="stem_pad")(image), 8, 5, "stem", strides=2)
    x = layers.MaxPooling2D(3, strides=2, name="pool")(layers.ZeroPadding2D(1, name="pool_pad")(x))
    y = normed(x, "norm1")
    short = conv(y, 12, 1, "short", strides=2)
    y = conv(layers.ZeroPadding2D(1, name="conv1_pad")(y), 8, 3, "conv1", strides=2)
    y = conv(normed(y, "norm2"), 12, 1, "conv2")
    x = normed(layers.Add(name="sum")([short, y]), "last")
    model = keras.Model(image, layers.Dense(5, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))
    fill(model)
    for name in ("stem", "conv1", "conv2", "short"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * 0.3 + 0.05)
    return Pair(model, fed(94, 2, 16, 18, 3) - 0.3, ported(model, Transfer), "NHWC->NCHW")


slip(
    "transfer/levelled-by-inputs",
    "short",
    "norm-axis weights-perturbed",
    "operation-kind weights-not-loaded kernel-layout",
)
slip("transfer/kernels-unbiased", "short", "std-ddof weights-perturbed scale", "weights-not-loaded")
slip("transfer/deviation-alone", "short", "block-missing weights-perturbed", "weights-not-loaded norm-axis")
slip("transfer/outside-the-root", "short", "ln-eps bn-eps weights-perturbed scale", "weights-not-loaded")
slip("transfer/kernels-as-they-are", "short", "block-missing weights-perturbed weights-not-loaded", "scale")
slip("transfer/edges-never-largest", "pool pool_pad max_pool2d pad_1", "pad-mode", "block-missing pool-kind")
slip("transfer/stem-as-same", "stem_pad stem pad", "pad-asymmetry", "shift")
slip(
    "transfer/shortcut-before-norm",
    "short norm1 norm1_relu relu",
    "residual-order wiring",
    "operand-order block-missing",
)
slip("transfer/norm-behind-rectifier", "norm2 norm2_relu relu_1 conv1 conv2", "residual-order wiring",
     "operation-kind activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("transfer/stride-on-the-last", "conv1 conv2 conv1_pad norm2 norm2_relu relu_1", "stride-position")
slip("transfer/head-in-half", "head bfloat16* float*", "dtype")
slip("transfer/last-not-rectified", "last last_relu relu_2 mean head", "activation-missing", "block-missing")
defect("transfer/norm-of-more-groups", "norm2", "norm-axis", "groups operation-kind")(set_to("norm2", num_groups=4))


def _beforehand(port: Transfer) -> None:
    for conv in (port.stem, port.short, port.conv1, port.conv2):
        conv.weight.data, conv.ways = conv.levelled().detach(), frozenset({"kernels-as-they-are"})


control("transfer/levelled-beforehand")(_beforehand)
one_layer("transfer", "kernels-unbiased+outside-the-root", "norm-behind-rectifier+norm-of-more-groups")
neighbours("transfer", "stem-as-same+edges-never-largest", "shortcut-before-norm+kernels-as-they-are")


# --- capsules -----------------------------------------------------------------------------------------------


class Capsule(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.first = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 12, 3, stride=2)
        self.routes = nn.ParameterDict({"votes": torch.zeros(27, 4, 3, 5)})

    def squashed(self, x: torch.Tensor, last: bool = False) -> torch.Tensor:
        axis = 1 if "squashed-over-capsules" in self.ways and last else -1
        size = x.square().sum(axis, keepdim=True)
        if "length-one" in self.ways and last:
            return x / (size + 1e-4).sqrt()
        return x * size / (1 + size) / (size + 1e-4).sqrt()

    def listed(self, x: torch.Tensor) -> torch.Tensor:
        if "maps-not-turned" in self.ways:
            return x.reshape(len(x), 27, 4)
        return x.permute(0, 2, 3, 1).reshape(len(x), 27, 4)

    def routed(self, votes: torch.Tensor) -> torch.Tensor:
        belief = votes.new_zeros(votes.shape[:3])
        for i in range(1 if "routed-once" in self.ways else 2):
            share = F.softmax(belief, dim=1 if "shares-over-parts" in self.ways else 2)
            found = self.squashed(torch.einsum("bpc,bpcd->bcd", share, votes), True)
            if i == 0:
                agreed = torch.einsum("bpcd,bcd->bpc", votes, found)
                belief = belief + agreed
        return found

    def forward(self, digit: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv(digit))
        x = self.first(x)
        x = self.squashed(self.listed(F.relu(x) if "parts-rectified" in self.ways else x))
        votes = self.routes["votes"]
        if "voted-by-product" in self.ways:
            votes = (x[:, :, None, None] @ votes.transpose(1, 2))[:, :, :, 0]
        else:
            votes = torch.einsum("bpi,picd->bpcd", x, votes)
        found = self.routed(votes).square().sum(-1)
        return found if "squares-of-lengths" in self.ways else (found + 1e-4).sqrt()


def _squashed(x: keras.KerasTensor) -> keras.KerasTensor:
    size = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * size / (1 + size) / ops.sqrt(size + 1e-4)


class _Votes(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.votes = self.add_weight(name="votes", shape=(shape[1], shape[2], 3, 5))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.einsum("bpi,picd->bpcd", x, self.votes)


@network
def capsule() -> Pair:
    """Capsules: parts vote for wholes, twice, and the length says whether one is there."""
    keras.backend.clear_session()
    digit = layers.Input((9, 9, 1), name="digit")
    x = layers.Conv2D(12, 3, strides=2, name="first")(layers.Conv2D(8, 3, activation="relu", name="conv")(digit))
    x = layers.Reshape((-1, 4), name="parts")(x)
    x = layers.Lambda(_squashed, name="squashed")(x)
    votes = _Votes(name="routes")(x)
    found = layers.Lambda(_squashed, name="wholes.0")(ops.sum(votes / 3, axis=1))
    belief = ops.einsum("bpcd,bcd->bpc", votes, found)
    share = layers.Softmax(name="share")(belief)
    found = layers.Lambda(_squashed, name="wholes.1")(ops.einsum("bpc,bpcd->bcd", share, votes))
    length = ops.sqrt(ops.sum(ops.square(found), axis=-1) + 1e-4)
    model = keras.Model(digit, length)
    fill(model)
    model.get_layer("routes").votes.assign(model.get_layer("routes").votes * 6)
    return Pair(model, fed(95, 3, 9, 9, 1), ported(model, Capsule), "NHWC->NCHW")


_ROUTED = "share wholes.* einsum* softmax* sum* square* mul* div* add* sqrt* true_divide*"
slip("capsule/maps-not-turned", "parts reshape permute routes squashed", "reshape-order", "flatten-order wiring")
slip("capsule/parts-rectified", "first relu_1 parts reshape permute squashed", "activation-extra", "block-extra")
slip("capsule/length-one", _ROUTED, "activation-kind activation-missing block-missing", "scale operation-kind")
slip("capsule/squashed-over-capsules", _ROUTED, "norm-axis", "activation-kind operation-kind")
slip("capsule/routed-once", _ROUTED, "block-missing", "wiring pool-kind")
slip("capsule/shares-over-parts", _ROUTED, "softmax-axis", "operation-kind scale")
slip("capsule/squares-of-lengths", "sqrt* add* sum* square*", "activation-missing block-missing", "operation-kind")
defect("capsule/votes-turned", "routes einsum matmul votes", "kernel-layout reshape-order", "weights-perturbed")(
    rewritten("routes.votes", lambda votes: votes.flatten(2).unflatten(2, (5, 3)).transpose(2, 3))
)
defect("capsule/kernel-turned", "conv", "kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("conv.weight", lambda weight: weight.transpose(2, 3))
)
way("capsule/voted-by-product")
one_layer("capsule", "length-one+shares-over-parts", "maps-not-turned+parts-rectified")
neighbours("capsule", "routed-once+squares-of-lengths")
