"""Maps and films: a lesion, lips that are read, and where a whole picture asks itself."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import both_ways, folded, regated, unrolled
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, exchanged, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    one_too_early,
    slip,
    unscaled,
    ways,
)

_LESION = {"part1": (3, 2, 3), "part2": (2, 3, 3), "part3": (3, 4, 3), "short": (3, 9, 1), "path": (9, 6, 3),
           "path_short": (9, 6, 1), "low": (9, 8, 3), "last": (12, 1, 1)}  # fmt: skip


class Lesion(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _LESION.items():
            self.add_module(name, nn.Conv2d(given, wide, size, padding=size // 2, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.block_bn, self.path_last = nn.BatchNorm2d(9, eps=1e-3), nn.BatchNorm2d(6, eps=1e-3)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)

    def conv(self, name: str, x: torch.Tensor, bent: bool = True) -> torch.Tensor:
        x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return F.relu(x) if bent else x

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-a-product" in self.ways:  # windows do not overlap: each pixel becomes four
            x = torch.einsum("bihw,iokl->bohkwl", x, self.up.weight).flatten(4, 5).flatten(2, 3)
            return x + self.up.bias[:, None, None]
        return self.up(x)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        parts = [self.conv("part1", image)]
        parts += [self.conv("part2", parts[0])]
        parts += [self.conv("part3", parts[1])]
        x = torch.cat(parts, dim=1)
        x = x + self.conv("short", image, bent="shortcut-bent" in self.ways)
        x = F.relu(self.block_bn(x)) if "norm-before-the-bend" in self.ways else self.block_bn(F.relu(x))
        path = self.conv("path", x)
        if "path-without-its-shortcut" not in self.ways:
            path = path + self.conv("path_short", x, bent=False)
        path = self.path_last(F.relu(path))
        y = self.raised(self.conv("low", F.max_pool2d(x, 2)))
        x = self.conv("last", torch.cat([path, y] if "path-in-front" in self.ways else [y, path], dim=1), bent=False)
        return x if "map-as-it-is" in self.ways else torch.sigmoid(x)


@network
def lesion() -> Pair:
    """MultiResUNet of one level: three kernels in a chain beside one another, and a path in place of a plain skip."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def conv(name: str, x: keras.KerasTensor, bent: str | None = "relu") -> keras.KerasTensor:
        _, wide, size = _LESION[name]
        x = layers.Conv2D(wide, size, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(scale=False, name=f"{name}_bn")(x)
        return layers.Activation(bent, name=f"{name}_{bent}")(x) if bent else x

    def summed(name: str, x: keras.KerasTensor, y: keras.KerasTensor, norm: str) -> keras.KerasTensor:
        x = layers.Activation("relu", name=f"{name}_relu")(layers.Add(name=f"{name}_sum")([x, y]))
        return layers.BatchNormalization(name=norm)(x)

    parts = [conv("part1", image)]
    parts += [conv("part2", parts[0])]
    parts += [conv("part3", parts[1])]
    x = summed("block", layers.Concatenate(name="parts")(parts), conv("short", image, None), "block_bn")
    path = summed("skip", conv("path", x), conv("path_short", x, None), "path_last")
    y = conv("low", layers.MaxPooling2D(2, name="pool")(x))
    y = layers.Conv2DTranspose(6, 2, 2, padding="same", name="up")(y)
    x = conv("last", layers.Concatenate(name="both")([y, path]), "sigmoid")
    model = keras.Model(image, x)
    fill(model)
    own = unscaled(**{f"{name}_bn": wide for name, (_, wide, _) in _LESION.items()})
    return Pair(model, fed(1341, 2, 12, 12, 3), ported(model, Lesion, own), "NHWC->NCHW")


_BLOCK = "block_* relu* add* short short_bn"
slip("lesion/shortcut-bent", _BLOCK, "activation-extra", "block-extra")
slip("lesion/norm-before-the-bend", _BLOCK, "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("lesion/path-without-its-shortcut", "path_short path_short_bn skip_* add* relu* path_last",
     "residual-missing block-missing", "wiring")  # fmt: skip
slip("lesion/path-in-front", "both cat* last", "concat-order", "operand-order channel-order wiring")
slip("lesion/map-as-it-is", "last_* sigmoid* last", "logits activation-missing", "block-missing")
defect("lesion/rows-for-columns", "up", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("up.weight", lambda weight: weight.transpose(2, 3))
)
defect("lesion/shifts-read-as-scales", "low_bn", "bn-stats", "weights-swapped weights-perturbed")(
    one_too_early("low_bn")
)
ways("lesion", "raised-by-a-product")
control("lesion/all-folded")(each(*(folded(name, f"{name}_bn") for name in _LESION)))
one_layer("lesion", "shortcut-bent+norm-before-the-bend", "path-in-front+rows-for-columns")
neighbours("lesion", "shifts-read-as-scales+rows-for-columns", "path-without-its-shortcut+path-in-front")


# --- lips ---------------------------------------------------------------------------------------------------


class Lips(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv, self.bn = nn.Conv3d(3, 4, (3, 5, 5), stride=(1, 2, 2)), nn.BatchNorm3d(4, eps=1e-3)
        self.drop = nn.Dropout3d(0.5)
        self.gru = nn.GRU(24, 5, batch_first=True, bidirectional=True)
        self.out = nn.Linear(10, 6)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        if "films-as-time" in self.ways:
            return self.gru(x.transpose(0, 1))[0].transpose(0, 1)
        if "second-reader-not-turned-back" in self.ways:
            return torch.cat([unrolled(self.gru, x), unrolled(self.gru, x, "_reverse").flip(1)], dim=2)
        if "reset-before-the-product" in self.ways:
            return torch.cat([unrolled(self.gru, x, end, reset_before=True) for end in ("", "_reverse")], dim=2)
        return both_ways(self.gru, x) if "loops-by-hand" in self.ways else self.gru(x)[0]

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        late = "frames-padded-behind" in self.ways
        x = self.conv(F.pad(frames, (2, 2, 2, 2, 0, 2) if late else (2, 2, 2, 2, 1, 1)))
        x = x if "frames-not-normed" in self.ways else self.bn(x)
        x = F.max_pool3d(self.drop(F.relu(x)), (1, 2, 2))
        if "channels-before-places" in self.ways:
            x = x.transpose(1, 2).flatten(2)
        else:
            x = x.permute(0, 2, 3, 4, 1).flatten(2)
        x = self.out(self.read(x))
        return F.softmax(x, dim=1 if "shared-over-time" in self.ways else 2)


@network
def lips() -> Pair:
    """LipNet: kernels over time and space, each frame as a row, a GRU both ways, letters for each frame."""
    keras.backend.clear_session()
    frames = layers.Input((5, 8, 12, 3), name="frames")
    x = layers.ZeroPadding3D((1, 2, 2), name="around")(frames)
    x = layers.Conv3D(4, (3, 5, 5), (1, 2, 2), name="conv")(x)
    x = layers.Activation("relu", name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.MaxPooling3D((1, 2, 2), name="pool")(layers.SpatialDropout3D(0.5, name="drop")(x))
    x = layers.TimeDistributed(layers.Flatten(), name="rows")(x)
    x = layers.Bidirectional(layers.GRU(5, return_sequences=True), name="gru")(x)
    x = layers.Activation("softmax", name="letters")(layers.Dense(6, name="out")(x))
    model = keras.Model(frames, x)
    fill(model)
    grown(model, 2, "out")
    return Pair(model, fed(1342, 3, 5, 8, 12, 3), ported(model, Lips), "NHWC->NCHW")


slip("lips/frames-padded-behind", "around conv pad*", "pad-asymmetry shift", "pad-mode")
slip("lips/frames-not-normed", "conv bn relu*", "block-missing", "wiring bn-stats")
slip("lips/channels-before-places", "rows permute* transpose* flatten* gru",
     "flatten-order dense-row-order", "wiring axis-permutation")  # fmt: skip
slip("lips/films-as-time", "gru transpose*", "axis-permutation wiring", "rnn-direction block-extra")
slip("lips/second-reader-not-turned-back", "gru flip* cat*", "rnn-direction", "block-extra axis-permutation")
slip("lips/reset-before-the-product", "gru linear* mul* tanh* sigmoid* add* chunk* stack* sub* rsub* cat* flip*",
     "gru-reset-after", "wiring operand-order")  # fmt: skip
slip("lips/shared-over-time", "letters softmax* out", "softmax-axis", "operation-kind")
defect("lips/rows-for-columns", "conv", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("conv.weight", lambda weight: weight.transpose(3, 4))
)
defect(
    "lips/gates-of-keras", "gru linear* sigmoid* tanh* chunk*", "gru-gate-order", "weights-perturbed weights-swapped"
)(regated("gru", 1, 0, 2))
ways("lips", "loops-by-hand")
control("lips/norm-folded")(folded("conv", "bn"))
one_layer("lips", "second-reader-not-turned-back+gates-of-keras", "rows-for-columns+frames-padded-behind")
neighbours("lips", "channels-before-places+gates-of-keras")


# --- a whole picture ----------------------------------------------------------------------------------------


class Scenery(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.query, self.key, self.value = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.place, self.channel = (nn.ParameterDict({"weight": torch.zeros(1)}) for _ in range(2))

    def by_place(self, x: torch.Tensor) -> torch.Tensor:
        own = (self.query, self.key, self.value)
        if "one-kernel-for-three" in self.ways:
            weight, bias = torch.cat([one.weight for one in own]), torch.cat([one.bias for one in own])
            q, k, v = F.conv2d(x, weight, bias).flatten(2).chunk(3, dim=1)
        else:
            q, k, v = (conv(x).flatten(2) for conv in own)
        if "asked-by-torch" in self.ways:
            y = F.scaled_dot_product_attention(q.mT, k.mT, v.mT, scale=1.0).mT
        else:
            scores = q.mT @ k
            scores = scores / 8**0.5 if "scores-scaled" in self.ways else scores
            y = v @ F.softmax(scores, dim=1 if "shared-among-queries" in self.ways else 2).mT
        y = y.unflatten(2, (6, 6))
        y = y.mT if "columns-before-rows" in self.ways else y
        y = y if "place-not-weighed" in self.ways else self.place["weight"] * y
        return y if "place-without-its-skip" in self.ways else y + x

    def by_channel(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(2)
        scores = flat @ flat.mT / 36
        shares = F.softmax(scores.amax(2, keepdim=True) - scores, dim=2)
        return self.channel["weight"] * (shares @ flat).unflatten(2, (6, 6)) + x

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.enter(image))
        x = self.out(self.by_place(x) + self.by_channel(x))
        corners = True if "raised-between-corners" in self.ways else None
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)


class _Place(layers.Layer):  # type: ignore[misc]
    def build(self, *shapes: tuple[int, ...]) -> None:
        self.scale = self.add_weight(name="scale", shape=(1,))

    def call(self, x: keras.KerasTensor, q: keras.KerasTensor, k: keras.KerasTensor, v: keras.KerasTensor) -> object:
        q, k, v = (ops.reshape(y, (-1, 36, 8)) for y in (q, k, v))
        shares = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))), axis=-1)
        return self.scale * ops.reshape(ops.matmul(shares, v), (-1, 6, 6, 8)) + x


class _Channel(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(name="scale", shape=(1,))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        flat = ops.reshape(x, (-1, 36, 8))
        scores = ops.matmul(ops.transpose(flat, (0, 2, 1)), flat) / 36
        shares = ops.softmax(ops.max(scores, axis=2, keepdims=True) - scores, axis=2)
        return self.scale * ops.reshape(ops.matmul(flat, ops.transpose(shares, (0, 2, 1))), (-1, 6, 6, 8)) + x


@network
def scenery() -> Pair:
    """DANet's head: each place asks all places, each channel all channels, each with a learnt share and a skip."""
    keras.backend.clear_session()
    image = layers.Input((6, 6, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="enter")(image)
    q, k, v = (layers.Conv2D(8, 1, name=name)(x) for name in ("query", "key", "value"))
    x = layers.Add(name="both")([_Place(name="place")(x, q, k, v), _Channel(name="channel")(x)])
    x = layers.UpSampling2D(2, interpolation="bilinear", name="raised")(layers.Conv2D(4, 1, name="out")(x))
    model = keras.Model(image, x)
    fill(model)
    return Pair(model, fed(1343, 2, 6, 6, 3), ported(model, Scenery), "NHWC->NCHW")


_PLACE = "place* query key value matmul* softmax* div* truediv* mul* add* unflatten* flatten* mT* transpose* both"
slip("scenery/scores-scaled", _PLACE, "attention-scale scale", "block-extra")
slip("scenery/shared-among-queries", _PLACE, "softmax-axis", "operation-kind")
slip("scenery/columns-before-rows", _PLACE, "axis-permutation reshape-order", "wiring block-extra")
slip("scenery/place-not-weighed", _PLACE, "block-missing scale",
     "wiring weights-perturbed weights-not-loaded")  # fmt: skip
slip("scenery/place-without-its-skip", _PLACE, "residual-missing", "wiring block-missing")
slip("scenery/raised-between-corners", "raised interpolate* upsample* out", "resize-align-corners",
     "resize-mode operation-kind")  # fmt: skip
defect("scenery/keys-for-queries", "query key", "qkv-order weights-swapped", "weights-perturbed wiring")(
    exchanged("query", "key")
)
ways("scenery", "asked-by-torch", "one-kernel-for-three")
one_layer("scenery", "scores-scaled+shared-among-queries", "columns-before-rows+place-not-weighed")
neighbours("scenery", "place-without-its-skip+raised-between-corners")
