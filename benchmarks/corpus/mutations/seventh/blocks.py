"""Blocks that many networks for pictures are made of: ConvNeXt's, RepVGG's and ShuffleNet's."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to


class Modern(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8, eps=1e-3)
        self.mix, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8, eps=1e-3)
        self.wide, self.narrow = nn.Linear(8, 24), nn.Linear(24, 8)
        self.response = nn.ParameterDict({"weight": torch.ones(24), "bias": torch.zeros(24)})
        self.share = nn.ParameterDict({"weight": torch.ones(8)})
        self.head_norm, self.head = nn.LayerNorm(8, eps=1e-3), nn.Linear(8, 5)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        if "norm-over-the-map" in self.ways:
            return F.layer_norm(x, x.shape[1:], eps=1e-3) * self.norm.weight + self.norm.bias
        if "norm-by-hand" in self.ways:
            variance, mean = torch.var_mean(x, dim=-1, keepdim=True, correction=0)
            return (x - mean) / (variance + 1e-3).sqrt() * self.norm.weight + self.norm.bias
        return self.norm(x)

    def responding(self, x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=(2, 3) if "response-axes-kept" in self.ways else (1, 2), keepdim=True)
        y = x * (length / (length.mean(-1, keepdim=True) + 1e-6))
        y = y * self.response["weight"] + self.response["bias"]
        return y if "response-alone" in self.ways else x + y

    def body(self, x: torch.Tensor) -> torch.Tensor:
        if "pointwise-convolutions" in self.ways:
            y = F.conv2d(x.permute(0, 3, 1, 2), self.wide.weight[:, :, None, None], self.wide.bias)
            y = self.responding(F.gelu(y).permute(0, 2, 3, 1))
            y = F.conv2d(y.permute(0, 3, 1, 2), self.narrow.weight[:, :, None, None], self.narrow.bias)
            return y.permute(0, 2, 3, 1)
        y = F.gelu(self.wide(x), approximate="tanh" if "gelu-by-tanh" in self.ways else "none")
        return self.narrow(self.responding(y))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem_norm(self.stem(image).permute(0, 2, 3, 1))
        y = self.body(self.normed(self.mix(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
        x = x + (y if "share-lost" in self.ways else y * self.share["weight"])
        if "normed-before-the-mean" in self.ways:
            return self.head(self.head_norm(x).mean((1, 2)))
        return self.head(self.head_norm(x.mean((1, 2))))


class _Response(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:])
        self.beta = self.add_weight(name="beta", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        length = ops.sqrt(ops.sum(x * x, axis=(1, 2), keepdims=True))
        return self.gamma * (x * (length / (ops.mean(length, axis=-1, keepdims=True) + 1e-6))) + self.beta + x


class _Share(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.gamma


@network
def modern() -> Pair:
    """A block of ConvNeXt V2: a wide depthwise kernel, a norm of the responses, a learnt share of the sum."""
    keras.backend.clear_session()
    image = layers.Input((16, 12, 3), name="image")
    x = layers.LayerNormalization(name="stem_norm")(layers.Conv2D(8, 2, strides=2, name="stem")(image))
    y = layers.LayerNormalization(name="norm")(layers.DepthwiseConv2D(7, padding="same", name="mix")(x))
    y = _Response(name="response")(layers.Dense(24, activation="gelu", name="wide")(y))
    y = _Share(name="share")(layers.Dense(8, name="narrow")(y))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.Add(name="sum")([x, y]))
    model = keras.Model(image, layers.Dense(5, name="head")(layers.LayerNormalization(name="head_norm")(x)))
    fill(model)
    grown(model, 2, "mix", "wide")
    return Pair(model, fed(101, 3, 16, 12, 3), ported(model, Modern), "NHWC->NCHW")


_RESPONSE = "response linalg_vector_norm* mean true_divide div mul* add* sum* sqrt*"
slip("modern/norm-over-the-map", "norm layer_norm* mul* add*", "norm-axis", "operation-kind")
slip("modern/response-axes-kept", _RESPONSE, "norm-axis", "operation-kind pool-kind")
slip("modern/response-alone", _RESPONSE + " narrow", "residual-missing", "block-missing")
slip("modern/gelu-by-tanh", "wide gelu", "gelu-approx")
slip("modern/share-lost", "share narrow mul* sum add*", "block-missing", "scale weights-not-loaded")
slip("modern/normed-before-the-mean", "pool mean* head_norm head", "residual-order wiring",
     "operation-kind norm-axis block-missing block-extra operand-order")  # fmt: skip
defect("modern/share-as-begun", "share mul*", "weights-not-loaded", "weights-perturbed scale")(
    rewritten("share.weight", lambda gamma: torch.full_like(gamma, 1e-6))
)
defect("modern/norm-eps-of-torch", "*norm", "ln-eps")(epsilon(1e-6, nn.LayerNorm))
defect("modern/taps-transposed", "mix", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("mix.weight", lambda weight: weight.transpose(2, 3))
)
defect("modern/bias-of-the-mix-lost", "mix", "bias-missing", "weights-perturbed weights-not-loaded")(
    rewritten("mix.bias", torch.zeros_like)
)
ways("modern", "norm-by-hand", "pointwise-convolutions")
one_layer("modern", "response-axes-kept+response-alone", "taps-transposed+bias-of-the-mix-lost")
neighbours("modern", "gelu-by-tanh+response-alone", "norm-over-the-map+bias-of-the-mix-lost")


# --- branches made one --------------------------------------------------------------------------------------


class Branches(Port):
    def __init__(self, ways: frozenset[str], inner: int, stride: int) -> None:
        super().__init__(ways)
        self.square = SameConv2d(inner, 6, 3, stride=stride, bias=False)
        self.square_bn = nn.BatchNorm2d(6, eps=1e-3)
        self.point, self.point_bn = nn.Conv2d(inner, 6, 1, stride=stride, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.same_bn = nn.BatchNorm2d(6, eps=1e-3) if stride == 1 else None

    def joined(self, x: torch.Tensor) -> torch.Tensor:
        """All branches in one kernel, as they are deployed."""
        kernel, bias = torch.zeros_like(self.square.weight), torch.zeros(6)
        point, unit = torch.zeros_like(kernel), torch.zeros_like(kernel)
        middle = self.square.around(x)[0]  # where the kernel lies on the pixel that the point takes
        point[:, :, middle, middle] = self.point.weight[:, :, 0, 0]
        parts = [(self.square.weight, self.square_bn), (point, self.point_bn)]
        if self.same_bn is not None and "joined-less-the-input" not in self.ways:
            unit[:, :, 1, 1] = torch.eye(6)
            parts.append((unit, self.same_bn))
        for weight, norm in parts:
            deviation = (norm.running_var + (1e-5 if "joined-with-the-eps-of-torch" in self.ways else 1e-3)).sqrt()
            kernel = kernel + weight * (norm.weight / deviation)[:, None, None, None]
            bias = bias + norm.bias - norm.running_mean * norm.weight / deviation
        return F.relu(F.conv2d(F.pad(x, self.square.around(x)), kernel, bias, stride=self.square.stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if any(way.startswith("joined") for way in self.ways):
            return self.joined(x)
        y, z = self.square_bn(self.square(x)), self.point_bn(self.point(x))
        if "rectified-before-the-sum" in self.ways and self.same_bn is not None:
            y, z = F.relu(y), F.relu(z)
        y = y + z
        if self.same_bn is not None and "input-lost" not in self.ways:
            y = y + (x if "input-not-normed" in self.ways else self.same_bn(x))
        return F.relu(y)


class Plain(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.blocks, self.head = nn.ModuleList([Branches(ways, 3, 2), Branches(ways, 6, 1)]), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image
        for block in self.blocks:
            x = block(x)
        return self.head(x.amax((2, 3)) if "largest-of-the-maps" in self.ways else x.mean((2, 3)))


@network
def plain() -> Pair:
    """RepVGG as it is trained: in each block a square kernel, a point and the input itself, each with its norm."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    x = image
    for i, stride in enumerate((2, 1)):
        name = f"blocks.{i}"
        y = layers.Conv2D(6, 3, strides=stride, padding="same", use_bias=False, name=f"{name}.square")(x)
        z = layers.Conv2D(6, 1, strides=stride, padding="same", use_bias=False, name=f"{name}.point")(x)
        parts = [layers.BatchNormalization(name=f"{name}.{part}_bn")(v) for part, v in (("square", y), ("point", z))]
        if stride == 1:
            parts.append(layers.BatchNormalization(name=f"{name}.same_bn")(x))
        x = layers.ReLU(name=f"{name}.relu")(layers.Add(name=f"{name}.sum")(parts))
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    return Pair(model, fed(102, 3, 12, 12, 3), ported(model, Plain), "NHWC->NCHW")


_SECOND = "blocks.1 blocks.1.*"
_ALL = "blocks blocks.*"
slip("plain/joined-with-the-eps-of-torch", _ALL, "bn-eps weights-perturbed", "scale bn-stats")
slip("plain/joined-less-the-input", _SECOND, "residual-missing weights-perturbed block-missing", "bn-stats wiring")
slip("plain/rectified-before-the-sum", _SECOND, "residual-order activation-extra", "block-extra")
slip("plain/input-lost", _SECOND, "residual-missing block-missing", "wiring")
slip("plain/input-not-normed", _SECOND, "block-missing", "bn-stats wiring")
slip("plain/largest-of-the-maps", "pool mean amax head", "pool-kind")
defect("plain/padded-around", "blocks.0.square blocks.0.pad", "pad-asymmetry", "shift pad-mode")(
    set_to("blocks.0.square", around=lambda x: [1, 1, 1, 1])
)
defect("plain/deviation-for-variance", "blocks.1.square_bn", "bn-stats", "weights-perturbed scale")(
    rewritten("blocks.1.square_bn.running_var", torch.sqrt)
)
defect("plain/norm-eps-of-torch", "blocks.?.*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("plain/point-taps-unturned", "blocks.1.point", "kernel-layout dense-transpose", "weights-perturbed")(
    rewritten("blocks.1.point.weight", lambda weight: weight.transpose(0, 1))
)
ways("plain", "joined")
one_layer("plain", "input-not-normed+rectified-before-the-sum", "deviation-for-variance+norm-eps-of-torch")
neighbours("plain", "point-taps-unturned+input-lost")


# --- shuffled halves ----------------------------------------------------------------------------------------


class Shuffled(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = SameConv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.before, self.before_bn = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.deep, self.deep_bn = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.behind, self.behind_bn = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.last, self.head = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.Linear(8, 4)

    def deepened(self, x: torch.Tensor) -> torch.Tensor:
        if "norm-in-the-kernel" in self.ways:
            norm = self.deep_bn
            share = norm.weight / (norm.running_var + norm.eps).sqrt()
            weight, bias = self.deep.weight * share[:, None, None, None], norm.bias - norm.running_mean * share
            return F.conv2d(x, weight, bias, padding=1, groups=4)
        x = self.deep_bn(self.deep(x))
        return F.relu(x) if "deep-rectified" in self.ways else x

    def shuffled(self, x: torch.Tensor) -> torch.Tensor:
        if "never-shuffled" in self.ways:
            return x
        if "shuffled-by-index" in self.ways:
            return x[:, [0, 4, 1, 5, 2, 6, 3, 7]]
        return x.unflatten(1, (4, 2) if "shuffled-back" in self.ways else (2, 4)).transpose(1, 2).flatten(1, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image / 255 if "bytes-to-one" in self.ways else image / 127.5 - 1
        x = F.relu(self.stem_bn(self.stem(x)))
        x, y = (x[:, ::2], x[:, 1::2]) if "split-in-turn" in self.ways else x.chunk(2, dim=1)
        x, y = (y, x) if "first-half-deepened" in self.ways else (x, y)
        y = self.before_bn(self.before(y))
        y = self.deepened(y if "before-not-rectified" in self.ways else F.relu(y))
        y = F.relu(self.behind_bn(self.behind(y)))
        x = self.shuffled(torch.cat([y, x] if "deepened-first" in self.ways else [x, y], dim=1))
        x = self.head(F.relu(self.last(x)).mean((2, 3)))
        return x if "no-shares" in self.ways else F.softmax(x, dim=1)


@network
def shuffled() -> Pair:
    """A unit of ShuffleNet V2: half of the channels go by, then both halves are shuffled; bytes in."""
    keras.backend.clear_session()
    image = layers.Input((13, 11, 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1, name="rescaling")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="relu0")(layers.BatchNormalization(name="stem_bn")(x))
    x, y = ops.split(x, 2, axis=-1)
    y = layers.BatchNormalization(name="before_bn")(layers.Conv2D(4, 1, use_bias=False, name="before")(y))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="deep")(layers.ReLU(name="relu1")(y))
    y = layers.Conv2D(4, 1, use_bias=False, name="behind")(layers.BatchNormalization(name="deep_bn")(y))
    y = layers.ReLU(name="relu2")(layers.BatchNormalization(name="behind_bn")(y))
    x = layers.Reshape((7, 6, 2, 4), name="groups")(layers.Concatenate(name="joined")([x, y]))
    x = layers.Reshape((7, 6, 8), name="channels")(layers.Permute((1, 2, 4, 3), name="shuffle")(x))
    x = layers.Conv2D(8, 3, padding="same", groups=2, activation="relu", name="last")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(4, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 3, "deep")
    return Pair(model, counted(103, 256, 3, 13, 11, 3).astype("float32"), ported(model, Shuffled), "NHWC->NCHW")


_SHUFFLE = "joined groups shuffle channels cat unflatten transpose flatten last slice* get_item*"
_SPLIT = "split* chunk slice* get_item* joined cat before"
slip("shuffled/bytes-to-one", "rescaling div sub stem", "input-scale input-normalisation", "bias-missing")
slip("shuffled/deep-rectified", "deep_bn relu* behind", "activation-extra", "block-extra")
slip("shuffled/never-shuffled", _SHUFFLE, "channel-order block-missing", "axis-permutation wiring")
slip("shuffled/shuffled-back", _SHUFFLE, "channel-order reshape-order", "wiring")
slip("shuffled/split-in-turn", _SPLIT, "channel-order reshape-order", "axis-permutation wiring")
slip("shuffled/first-half-deepened", _SPLIT, "concat-order channel-order wiring", "operand-order axis-permutation")
slip("shuffled/before-not-rectified", "before_bn relu1 relu* deep", "activation-missing", "block-missing")
slip("shuffled/deepened-first", _SHUFFLE, "concat-order", "operand-order")
slip("shuffled/no-shares", "head softmax", "logits activation-missing", "block-missing")
defect("shuffled/stem-of-bgr", "image rescaling stem flip", "channel-order", "kernel-layout weights-perturbed")(
    rewritten("stem.weight", lambda weight: weight.flip(1))
)
defect("shuffled/groups-of-the-last-turned", "last", "kernel-layout groups weights-swapped channel-order",
       "weights-perturbed")(rewritten("last.weight", lambda weight: weight.roll(4, 0)))  # fmt: skip
ways("shuffled", "shuffled-by-index", "norm-in-the-kernel")
one_layer("shuffled", "deepened-first+shuffled-back", "first-half-deepened+never-shuffled")
neighbours("shuffled", "before-not-rectified+deep-rectified", "bytes-to-one+stem-of-bgr")
