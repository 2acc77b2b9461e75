"""Pictures: patches with a token for their class, a detector's heads."""

from __future__ import annotations

import copy
import math
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill, values
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


class Attend(nn.Module):
    """Four heads of four, the projections in one layer, as timm has them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.attention_output = (nn.Linear(16, 16) for _ in range(4))

    def fuse(self) -> None:
        self.qkv = nn.Linear(16, 48)
        own = (self.query, self.key, self.value)
        self.qkv.weight.data = torch.cat([one.weight.data for one in own])
        self.qkv.bias.data = torch.cat([one.bias.data for one in own])
        del self.query, self.key, self.value

    def split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 3, 1, 4)

    def weigh(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (q @ k.transpose(-2, -1) * 4**-0.5).softmax(dim=-1) @ v

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.split(self.qkv(x)).unbind(0)
        return self.attention_output(self.weigh(q, k, v).transpose(1, 2).reshape(x.shape))


class Embed(nn.Module):
    """The token in front, and places for all."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(10, 16))

    def join(self, token: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([token, x], dim=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self.token.expand(len(x), -1, -1), x) + self.places


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.embed = Embed()
        self.norm1, self.attend, self.scale = nn.LayerNorm(16, eps=1e-3), Attend(), LayerScale()
        self.norm2, self.wide, self.narrow = nn.LayerNorm(16, eps=1e-3), nn.Linear(16, 24), nn.Linear(24, 16)
        self.norm, self.head = nn.LayerNorm(16, eps=1e-3), nn.Linear(16, 5)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x / 127.5 - 1

    def patches(self, x: torch.Tensor) -> torch.Tensor:
        return self.patch(x).flatten(2).transpose(1, 2)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale(self.attend(self.norm1(x)))

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.gelu(x)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(self.embed(self.patches(self.prepare(image))))
        x = x + self.narrow(self.act(self.wide(self.norm2(x))))
        return self.head(self.read(self.norm(x)))


class _Embed(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.token = self.add_weight(shape=(1, 1, 16), name="token")
        self.places = self.add_weight(shape=(10, 16), name="places")

    def call(self, x: Any) -> Any:
        return ops.concatenate([ops.tile(self.token, (ops.shape(x)[0], 1, 1)), x], axis=1) + self.places


class _LayerScale(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.gamma = self.add_weight(shape=(16,), name="gamma")

    def call(self, x: Any) -> Any:
        return x * self.gamma


@network
def vit() -> Pair:
    """A vision transformer of one block: bytes in, a token for the class, a scaled attention."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(image)
    x = layers.Reshape((9, 16), name="rows")(layers.Conv2D(16, 4, strides=4, name="patch")(x))
    x = _Embed("embed")(x)
    y = layers.LayerNormalization(name="norm1")(x)
    y = _LayerScale("scale")(layers.MultiHeadAttention(4, 4, name="attend")(y, y))
    x = layers.Add(name="sum_1")([x, y])
    y = layers.Dense(24, activation="gelu", name="wide")(layers.LayerNormalization(name="norm2")(x))
    x = layers.Add(name="sum_2")([x, layers.Dense(16, name="narrow")(y)])
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(image, layers.Dense(5, name="head")(x[:, 0]))
    fill(model)
    for name, factor in (("wide", 2), ("narrow", 4)):
        model.get_layer(name).kernel.assign(model.get_layer(name).kernel * factor)
    for own in (model.get_layer("embed").token, model.get_layer("embed").places):
        own.assign(np.random.default_rng(own.shape[0]).normal(0, 0.6, own.shape))
    inputs = np.random.default_rng(25).integers(0, 256, (2, 12, 12, 3)).astype(np.float32)

    def rename(name: str) -> str:
        return name.replace("attend.attend", "attend")

    def make() -> Any:
        port = carry(model, Vit(), rename)
        port.attend.fuse()
        return port

    return Pair(model, inputs, make, "NHWC->NCHW")


@defect("vit/pixels-of-imagenet", "rescaling div sub patch", "input-normalisation", "input-scale block-extra scale")
def _(port: Any) -> None:
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    port.prepare = lambda x: (x / 255 - mean) / std


@defect("vit/patches-normed", "patch embed layer_norm", "block-extra", "norm-axis operation-kind")
def _(port: Any) -> None:
    """As other vision transformers do behind their patches."""
    patches = port.patches
    port.patches = lambda x: F.layer_norm(patches(x), (16,))


@defect("vit/token-last", "embed get_item slice", "concat-order rnn-last-step",
        "axis-permutation operand-order shift wiring")  # fmt: skip
def _(port: Any) -> None:
    """Read at the end as well, while the places are the reference's."""
    port.embed.join, port.read = lambda token, x: torch.cat([x, token], dim=1), lambda x: x[:, -1]


@defect("vit/places-token-last", "embed", "embedding-offset",
        "weights-perturbed weights-swapped weights-not-loaded shift axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    """The table has the token's row at the end."""
    port.embed.places.data = port.embed.places.data.roll(-1, 0)


@defect("vit/qkv-for-each-head", "attend attend/* attend.qkv attend.reshape* attend.permute attend.unbind",
        "qkv-order",
        "head-layout channel-order axis-permutation weights-swapped concat-order reshape-order")  # fmt: skip
def _(port: Any) -> None:
    port.attend.split = lambda x: x.reshape(x.shape[0], -1, 4, 3, 4).permute(3, 0, 2, 1, 4)


@defect("vit/features-before-heads", "attend attend/* attend.qkv attend.reshape* attend.permute attend.unbind",
        "head-layout reshape-order", "channel-order axis-permutation flatten-order qkv-order")  # fmt: skip
def _(port: Any) -> None:
    port.attend.split = lambda x: x.reshape(x.shape[0], -1, 3, 4, 4).permute(2, 0, 4, 1, 3)


@defect("vit/scored-by-width", "attend attend/* attend.mul attend.softmax attend.matmul", "attention-scale", "scale")
def _(port: Any) -> None:
    port.attend.weigh = lambda q, k, v: (q @ k.transpose(-2, -1) / math.sqrt(16)).softmax(dim=-1) @ v


@defect("vit/output-unturned", "attend attend.attention_output", "dense-transpose",
        "kernel-layout weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """As many features as inputs: the einsum's kernel was only reshaped."""
    port.attend.attention_output.weight.data = port.attend.attention_output.weight.data.T.contiguous()


@defect("vit/layer-scale-lost", "scale sum_1 add", "block-missing", "scale weights-perturbed")
def _(port: Any) -> None:
    port.scale = nn.Identity()


@defect("vit/norm-behind", "norm1 sum_1 add", "residual-order", "wiring block-missing block-extra")
def _(port: Any) -> None:
    port.first = lambda x: port.norm1(x + port.scale(port.attend(x)))


@defect("vit/gelu-by-tanh", "wide gelu", "gelu-approx", "activation-kind")
def _(port: Any) -> None:
    port.act = lambda x: F.gelu(x, approximate="tanh")


@defect("vit/mean-of-patches", "get_item getitem slice mean head", "rnn-last-step pool-kind",
        "operation-kind wiring")  # fmt: skip
def _(port: Any) -> None:
    port.read = lambda x: x[:, 1:].mean(1)


@control("vit/unfolded")
def _(port: Any) -> None:
    """Patches cut out and projected, the framework's attention."""
    dense = nn.Linear(48, 16)
    dense.weight.data, dense.bias.data = port.patch.weight.data.flatten(1), port.patch.bias.data
    port.patch = dense
    port.patches = lambda x: dense(F.unfold(x, 4, stride=4).transpose(1, 2))
    port.attend.weigh = F.scaled_dot_product_attention


@control("vit/torch-attention")
def _(port: Any) -> None:
    own = nn.MultiheadAttention(16, 4, batch_first=True)
    own.in_proj_weight.data, own.in_proj_bias.data = port.attend.qkv.weight.data, port.attend.qkv.bias.data
    own.out_proj.load_state_dict(port.attend.attention_output.state_dict())
    port.attend = _First(own)


class _First(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


one_layer("vit", "features-before-heads+scored-by-width")
neighbours("vit", "pixels-of-imagenet+patches-normed")


# --- a detector ---------------------------------------------------------------------------------------------


def _anchors() -> np.ndarray:
    """Centre and size of two boxes at each place of 8x8 and of 4x4, (160, 4), as y, x, height, width."""
    found = []
    for size, stride in ((8, 2.0), (4, 4.0)):
        ys, xs = np.meshgrid(*(2 * ((np.arange(size) + 0.5) * stride,)), indexing="ij")
        for y, x in zip(ys.ravel(), xs.ravel(), strict=True):
            found += [(y, x, 2 * stride, 2 * stride), (y, x, stride, 3 * stride)]
    return np.array(found, np.float32)


class Detect(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3, self.pad, self.conv4 = (
            nn.Conv2d(12, 8, 1),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(8, 12, 3, stride=2),
        )
        self.side3, self.side4 = nn.Conv2d(8, 6, 1), nn.Conv2d(12, 6, 1)
        self.smooth = nn.Conv2d(6, 6, 3, padding=1)
        self.classes, self.boxes = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.other: nn.Module | None = None
        self.register_buffer("anchors", torch.from_numpy(_anchors()), persistent=False)

    def deepen(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(n, 4 * c, h // 2, w // 2)

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def merge(self, x: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        return x + self.enlarge(below)

    def rows(self, x: torch.Tensor, count: int) -> torch.Tensor:
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, count)

    def levels(self, found: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(found, dim=1)

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)

    def offsets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[..., :2] * 0.1, x[..., 2:] * 0.2

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        place, shape = self.offsets(x)
        centre = place * self.anchors[:, 2:] + self.anchors[:, :2]
        size = torch.exp(shape) * self.anchors[:, 2:]
        return torch.cat([centre - size / 2, centre + size / 2], dim=-1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        three = F.relu(self.conv3(self.deepen(image)))
        four = F.relu(self.conv4(self.pad(three)))
        below = self.side4(four)
        maps = [self.smooth(self.merge(self.side3(three), below)), below]
        heads = [self.classes, self.other or self.classes]
        scores = self.levels([self.rows(head(x), 3) for head, x in zip(heads, maps, strict=True)])
        boxes = torch.cat([self.rows(self.boxes(x), 4) for x in maps], dim=1)
        return self.decode(boxes), self.finish(scores)


@network
def detect() -> Pair:
    """Squares of pixels as channels; two levels, the coarse one added to the fine one; boxes from anchors."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = ops.transpose(ops.reshape(image, (-1, 8, 2, 8, 2, 3)), (0, 1, 3, 2, 4, 5))
    three = layers.Conv2D(8, 1, activation="relu", name="conv3")(layers.Reshape((8, 8, 12), name="deepen")(x))
    four = layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="conv4")(three)
    below = layers.Conv2D(6, 1, name="side4")(four)
    x = layers.Conv2D(6, 1, name="side3")(three)
    x = layers.Add(name="merge")([x, layers.UpSampling2D(2, name="enlarge")(below)])
    maps = [layers.Conv2D(6, 3, padding="same", name="smooth")(x), below]
    found = {}
    for name, count in (("classes", 3), ("boxes", 4)):
        head = layers.Conv2D(2 * count, 3, padding="same", name=name)
        rows = [layers.Reshape((-1, count), name=f"{name}_rows{i}")(head(x)) for i, x in enumerate(maps)]
        found[name] = layers.Concatenate(axis=1, name=f"{name}_levels")(rows)
    scores = layers.Activation("sigmoid", name="scores")(found["classes"])
    anchors = _anchors()
    centre = found["boxes"][..., :2] * 0.1 * anchors[:, 2:] + anchors[:, :2]
    size = ops.exp(found["boxes"][..., 2:] * 0.2) * anchors[:, 2:]
    corners = layers.Concatenate(axis=-1, name="corners")([centre - size / 2, centre + size / 2])
    model = keras.Model(image, [corners, scores])
    fill(model)
    inputs = np.random.default_rng(26).standard_normal((2, 16, 16, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Detect()), "NHWC->NCHW")


_BOXES = (
    "boxes boxes_rows* boxes_levels get_item* slice* mul* multiply* add_[12] exp cat_[12] true_divide* div* corners"
)


@defect("detect/pixels-unshuffled", "reshape transpose deepen view permute pixel_unshuffle conv3",
        "depth-to-space-order",
        "reshape-order channel-order axis-permutation operation-kind")  # fmt: skip
def _(port: Any) -> None:
    """The same shape, another order of channels."""
    port.deepen = lambda x: F.pixel_unshuffle(x, 2)


@defect("detect/coarse-not-added", "merge enlarge smooth", "residual-missing", "block-missing wiring")
def _(port: Any) -> None:
    port.merge = lambda x, below: x


@defect("detect/rows-of-maps", "classes classes_rows* boxes boxes_rows* reshape_[1-4] permute_[1-4]",
        "reshape-order flatten-order",
        "axis-permutation channel-order")  # fmt: skip
def _(port: Any) -> None:
    port.rows = lambda x, count: x.reshape(x.shape[0], -1, count)


@defect("detect/classes-before-anchors", "classes classes_rows* boxes boxes_rows* reshape_[1-8] permute_[1-4]",
        "reshape-order channel-order", "axis-permutation flatten-order concat-order")  # fmt: skip
def _(port: Any) -> None:
    """As a head of another library lays its channels out."""
    port.rows = lambda x, count: x.reshape(x.shape[0], count, 2, *x.shape[2:]).permute(0, 3, 4, 2, 1).reshape(
        x.shape[0], -1, count)  # fmt: skip


@defect("detect/coarse-level-first", "classes_levels cat scores", "concat-order",
        "axis-permutation operand-order shift")  # fmt: skip
def _(port: Any) -> None:
    port.levels = lambda found: torch.cat(found[::-1], dim=1)


@defect("detect/head-for-each-level", "classes#1 other", "weights-not-loaded", "weights-perturbed wiring")
def _(port: Any) -> None:
    """The second has weights of its own, to which nothing was copied."""
    port.other = copy.deepcopy(port.classes)
    weight = port.other.weight.data
    weight.copy_(torch.from_numpy(values("other/kernel", tuple(weight.shape), 54)))


@defect(
    "detect/x-before-y", _BOXES, "channel-order", "axis-permutation concat-order weights-swapped wiring operand-order"
)
def _(port: Any) -> None:
    decode = port.decode
    port.decode = lambda x: decode(x[..., [1, 0, 3, 2]])


@defect("detect/variances-lost", _BOXES, "scale block-missing", "weights-perturbed operation-kind")
def _(port: Any) -> None:
    """Boxes as a loss without them would have them."""
    port.offsets = lambda x: (x[..., :2], x[..., 2:])


@defect(
    "detect/anchors-at-corners", f"{_BOXES} anchors", "shift", "weights-perturbed weights-not-loaded operation-kind"
)
def _(port: Any) -> None:
    """Without half a stride."""
    port.anchors[:, :2] -= torch.cat([torch.full((128, 1), 1.0), torch.full((32, 1), 2.0)])


@defect("detect/one-class-each", "scores sigmoid softmax classes_levels", "activation-kind",
        "logits operation-kind softmax-axis")  # fmt: skip
def _(port: Any) -> None:
    port.finish = lambda x: torch.softmax(x, dim=-1)


@control("detect/rows-by-view")
def _(port: Any) -> None:
    """Heads' outputs as five axes, and the coarse level repeated."""
    port.rows = lambda x, count: x.unflatten(1, (2, count)).permute(0, 3, 4, 1, 2).flatten(1, 3)
    port.enlarge = lambda x: x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@control("detect/levels-finished-apart")
def _(port: Any) -> None:
    """Scores of each level before they are joined."""
    port.levels = lambda found: torch.cat([torch.sigmoid(x) for x in found], dim=1)
    port.finish = lambda x: x


one_layer("detect", "x-before-y+variances-lost")
neighbours("detect", "rows-of-maps+coarse-level-first")
