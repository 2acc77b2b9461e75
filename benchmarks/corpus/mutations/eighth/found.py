"""What is found in a map: boxes, a move on a board, and patches that attend."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten

_ANCHORS = np.array([[1.2, 0.7], [0.5, 2.0]], np.float32)


class Boxes(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down, self.down_bn = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.narrow, self.square = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.deep, self.gathered = nn.Conv2d(6, 5, 3, stride=2), nn.Conv2d(15, 4, 1)
        self.head = nn.Conv2d(10, 14, 1)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2 if "slopes-of-old-tensorflow" in self.ways else 0.1)

    def halved(self, conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if "padded-around" in self.ways:  # what is behind an even map is never read
            return F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
        return conv(F.pad(x, (0, 1, 0, 1) if "padded-behind" in self.ways else (1, 0, 1, 0)))

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        if "norm-by-hand" in self.ways:
            norm = self.down_bn
            share = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            return x * share[:, None, None] + (norm.bias - norm.running_mean * share)[:, None, None]
        return self.down_bn(x)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if "pools-behind-pools" in self.ways:
            near = F.max_pool2d(x, 3, 1, padding=1)
            parts = [F.max_pool2d(near, 3, 1, padding=1), near, x]
        else:
            parts = [F.max_pool2d(x, 5, 1, padding=2), F.max_pool2d(x, 3, 1, padding=1), x]
        return torch.cat(parts[::-1] if "narrowest-pool-first" in self.ways else parts, dim=1)

    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        x = x.unflatten(1, (7, 2)).transpose(1, 2) if "anchors-innermost" in self.ways else x.unflatten(1, (2, 7))
        x = x.permute(0, 3, 4, 1, 2)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        grid = torch.stack([rows, columns] if "rows-as-columns" in self.ways else [columns, rows], dim=-1)
        size = torch.tensor([width, height])
        anchors = torch.from_numpy(_ANCHORS)
        anchors = anchors.flip(1) if "anchors-turned" in self.ways else anchors
        middle = (torch.sigmoid(x[..., :2]) + grid[:, :, None]) / size
        extent = x[..., 2:4] if "extents-not-raised" in self.ways else torch.exp(x[..., 2:4])
        chances = x[..., 4:] if "chances-left-as-scores" in self.ways else torch.sigmoid(x[..., 4:])
        return torch.cat([middle, extent * anchors / size, chances], dim=-1).flatten(1, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.bent(self.normed(self.halved(self.down, image)))
        x = x + self.bent(self.square(self.bent(self.narrow(x))))
        y = self.bent(self.halved(self.deep, x))
        y = self.bent(self.gathered(self.pooled(y)))
        y = F.interpolate(y, scale_factor=2, mode="nearest")
        return self.decoded(self.head(torch.cat([x, y] if "fine-first" in self.ways else [y, x], dim=1)))


@network
def boxes() -> Pair:
    """YOLO: padded before alone where it is halved, a pyramid of pools, and boxes from their anchors."""
    keras.backend.clear_session()
    image = layers.Input((16, 12, 3), name="image")

    def halved(x: keras.KerasTensor, width: int, bias: bool, name: str) -> keras.KerasTensor:
        x = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"{name}_pad")(x)
        return layers.Conv2D(width, 3, strides=2, use_bias=bias, name=name)(x)

    def bent(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.LeakyReLU(0.1, name=f"{name}_bend")(x)

    x = bent(layers.BatchNormalization(name="down_bn")(halved(image, 6, False, "down")), "down")
    y = bent(layers.Conv2D(3, 1, name="narrow")(x), "narrow")
    x = layers.Add(name="sum")([x, bent(layers.Conv2D(6, 3, padding="same", name="square")(y), "square")])
    y = bent(halved(x, 5, True, "deep"), "deep")
    pools = [layers.MaxPooling2D(size, 1, padding="same", name=f"pool{size}")(y) for size in (5, 3)]
    y = bent(layers.Conv2D(4, 1, name="gathered")(layers.Concatenate(name="pools")([*pools, y])), "gathered")
    x = layers.Concatenate(name="levels")([layers.UpSampling2D(2, name="raise")(y), x])
    x = layers.Reshape((8, 6, 2, 7), name="anchors")(layers.Conv2D(14, 1, name="head")(x))
    rows, columns = np.meshgrid(np.arange(8), np.arange(6), indexing="ij")
    grid, size = np.stack([columns, rows], -1).astype("float32")[:, :, None], np.array([6, 8], "float32")
    middle = (ops.sigmoid(x[..., :2]) + grid) / size
    parts = [middle, ops.exp(x[..., 2:4]) * _ANCHORS / size, ops.sigmoid(x[..., 4:])]
    model = keras.Model(image, layers.Reshape((96, 7), name="list")(ops.concatenate(parts, axis=-1)))
    fill(model)
    return Pair(model, fed(821, 3, 16, 12, 3), ported(model, Boxes), "NHWC->NCHW")


_DECODED = "anchors unflatten permute transpose head get_item* slice* meshgrid stack* sigmoid* exp* add* mul* div*"
_DECODED += " *cat* *divide* list flatten multiply* flip"
slip("boxes/slopes-of-old-tensorflow", "*_bend leaky_relu*", "activation-param")
slip("boxes/padded-behind", "down down_pad deep deep_pad pad*", "pad-asymmetry", "shift")
slip(
    "boxes/narrowest-pool-first", "pools pool? max_pool2d* cat* gathered", "concat-order", "operand-order channel-order"
)
slip("boxes/anchors-innermost", _DECODED, "reshape-order", "channel-order wiring")
slip(
    "boxes/rows-as-columns", _DECODED, "channel-order concat-order operand-order", "axis-permutation weights-perturbed"
)
slip(
    "boxes/anchors-turned",
    _DECODED,
    "channel-order weights-perturbed weights-swapped",
    "axis-permutation operand-order",
)
slip("boxes/extents-not-raised", _DECODED, "activation-missing", "block-missing")
slip("boxes/chances-left-as-scores", _DECODED, "activation-missing logits", "block-missing")
slip("boxes/fine-first", "levels cat* head", "concat-order", "operand-order channel-order")
defect("boxes/norm-eps-of-torch", "down_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("boxes", "padded-around", "norm-by-hand", "pools-behind-pools")
one_layer("boxes", "rows-as-columns+extents-not-raised", "padded-behind+norm-eps-of-torch")
neighbours("boxes", "narrowest-pool-first+fine-first", "anchors-innermost+fine-first")


# --- a board ------------------------------------------------------------------------------------------------


class Board(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-3)
        self.conv1, self.bn1 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-3)
        self.moves, self.moves_bn, self.move = nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2, eps=1e-3), nn.Linear(50, 26)
        self.worth, self.worth_bn = nn.Conv2d(6, 1, 1), nn.BatchNorm2d(1, eps=1e-3)
        self.wide, self.value = nn.Linear(25, 8), nn.Linear(8, 1)

    def normed(self, conv: nn.Conv2d, norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        if "norms-in-their-kernels" in self.ways:
            share = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = (conv.bias - norm.running_mean) * share + norm.bias
            return F.conv2d(x, conv.weight * share[:, None, None, None], bias, padding=conv.padding)
        return norm(conv(x))

    def listed(self, x: torch.Tensor) -> torch.Tensor:
        if "moves-by-a-kernel" in self.ways:
            return F.conv2d(x, self.move.weight.unflatten(1, (5, 5, 2)).permute(0, 3, 1, 2), self.move.bias).flatten(1)
        return self.move(x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))

    def forward(self, stones: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = F.relu(self.normed(self.enter, self.enter_bn, stones))
        y = self.normed(self.conv2, self.bn2, F.relu(self.normed(self.conv1, self.bn1, x)))
        x = x + F.relu(y) if "rectified-before-the-sum" in self.ways else F.relu(x + y)
        moves = self.listed(F.relu(self.normed(self.moves, self.moves_bn, x)))
        value = F.relu(self.wide(F.relu(self.normed(self.worth, self.worth_bn, x)).flatten(1)))
        value = self.value(value)
        value = torch.sigmoid(value) if "value-by-sigmoid" in self.ways else torch.tanh(value)
        return F.softmax(moves, dim=0 if "moves-over-the-batch" in self.ways else 1), value


@network
def board() -> Pair:
    """AlphaZero: a residual tower, a chance for each move, and what the place is worth."""
    keras.backend.clear_session()
    stones = layers.Input((5, 5, 4), name="stones")

    def normed(x: keras.KerasTensor, width: int, size: int, name: str, norm: str) -> keras.KerasTensor:
        return layers.BatchNormalization(name=norm)(layers.Conv2D(width, size, padding="same", name=name)(x))

    x = ops.relu(normed(stones, 6, 3, "enter", "enter_bn"))
    y = normed(ops.relu(normed(x, 6, 3, "conv1", "bn1")), 6, 3, "conv2", "bn2")
    x = layers.ReLU(name="relu_sum")(layers.Add(name="sum")([x, y]))
    y = ops.relu(normed(x, 2, 1, "moves", "moves_bn"))
    moves = layers.Dense(26, activation="softmax", name="move")(layers.Flatten(name="moves_list")(y))
    y = ops.relu(normed(x, 1, 1, "worth", "worth_bn"))
    y = layers.Dense(8, activation="relu", name="wide")(layers.Flatten(name="worth_list")(y))
    model = keras.Model(stones, [moves, layers.Dense(1, activation="tanh", name="value")(y)])
    fill(model)
    return Pair(model, fed(822, 4, 5, 5, 4), ported(model, Board), "NHWC->NCHW")


_ROWS = torch.arange(50).view(2, 25).T.flatten()
"""Where the columns of the last kernel are from, if maps were thought to come one behind another."""
slip("board/maps-outermost", "moves_list permute* flatten* move", "flatten-order dense-row-order", "wiring")
defect("board/rows-of-the-moves-reordered", "move moves_list", "dense-row-order flatten-order", "weights-perturbed")(
    rewritten("move.weight", lambda weight: weight[:, _ROWS])
)
slip("board/rectified-before-the-sum", "sum relu* add* bn2", "residual-order", "operand-order wiring activation-extra")
slip("board/value-by-sigmoid", "value tanh sigmoid", "activation-kind", "logits")
slip("board/moves-over-the-batch", "move softmax*", "softmax-axis", "operation-kind")
defect("board/taps-turned", "conv1", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("conv1.weight", lambda weight: weight.transpose(2, 3))
)
defect("board/gamma-for-beta", "bn2", "bn-stats", "weights-perturbed weights-swapped")(lambda port: _crossed(port.bn2))
defect("board/bias-before-the-norm-lost", "enter", "bias-missing", "weights-not-loaded weights-perturbed")(
    rewritten("enter.bias", torch.zeros_like)
)


def _crossed(norm: nn.BatchNorm2d) -> None:
    norm.weight, norm.bias = norm.bias, norm.weight


ways("board", "norms-in-their-kernels", "moves-by-a-kernel")
one_layer("board", "maps-outermost+moves-over-the-batch", "gamma-for-beta+rectified-before-the-sum")
neighbours("board", "taps-turned+gamma-for-beta")


# --- patches that attend ------------------------------------------------------------------------------------


class Unfolded(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.local, self.enter = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 8, 1)
        self.norm1, self.norm2 = nn.LayerNorm(8, eps=1e-5), nn.LayerNorm(8, eps=1e-5)
        self.query, self.key, self.value, self.mix = (nn.Linear(8, 8) for _ in range(4))
        self.wide, self.narrow = nn.Linear(8, 12), nn.Linear(12, 8)
        self.leave, self.fuse = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)

    def unfolded(self, x: torch.Tensor) -> torch.Tensor:
        if "unfolded-by-torch" in self.ways:
            return F.unfold(x, 2, stride=2).unflatten(1, (8, 4)).permute(0, 2, 3, 1)
        x = x.permute(0, 2, 3, 1)
        if "pixels-in-rows" in self.ways:
            return x.reshape(-1, 4, 12, 8)
        x = x.unflatten(1, (3, 2)).unflatten(3, (4, 2)).permute(0, 2, 4, 1, 3, 5)
        return x.flatten(3, 4).flatten(1, 2)

    def folded(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unflatten(2, (3, 4)).unflatten(1, (2, 2))
        x = x.transpose(1, 2) if "folded-by-columns" in self.ways else x
        return x.permute(0, 5, 3, 1, 4, 2).flatten(4, 5).flatten(2, 3)

    def attended(self, x: torch.Tensor) -> torch.Tensor:
        x = x.transpose(1, 2) if "pixels-of-one-patch" in self.ways else x
        parts = [self.query(x), self.value(x), self.key(x)] if "values-asked" in self.ways else [
            self.query(x), self.key(x), self.value(x)]  # fmt: skip
        q, k, v = (part.unflatten(3, (2, 4)).transpose(2, 3) for part in parts)
        if "attention-of-torch" in self.ways:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = F.softmax(q @ k.transpose(3, 4) / (8**0.5 if "scaled-by-all-features" in self.ways else 2), dim=-1) @ v
        y = y.reshape(*x.shape) if "heads-not-turned-back" in self.ways else y.transpose(2, 3).flatten(3)
        y = self.mix(y)
        return y.transpose(1, 2) if "pixels-of-one-patch" in self.ways else y

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.unfolded(self.enter(F.silu(self.local(image))))
        x = x + self.attended(self.norm1(x))
        y = self.wide(self.norm2(x))
        x = x + self.narrow(F.relu(y) if "rectified-for-swish" in self.ways else F.silu(y))
        x = self.leave(self.folded(x))
        return self.fuse(torch.cat([x, image] if "patches-first" in self.ways else [image, x], dim=1))


@network
def unfolded() -> Pair:
    """MobileViT: the same pixel of every patch attends to its like, between two kernels."""
    keras.backend.clear_session()
    image = layers.Input((6, 8, 4), name="image")
    x = layers.Conv2D(4, 3, padding="same", activation="silu", name="local")(image)
    x = ops.reshape(layers.Conv2D(8, 1, name="enter")(x), (-1, 3, 2, 4, 2, 8))
    x = ops.reshape(ops.transpose(x, (0, 2, 4, 1, 3, 5)), (-1, 4, 12, 8))
    y = layers.LayerNormalization(epsilon=1e-5, name="norm1")(x)
    q, k, v = (ops.transpose(ops.reshape(layers.Dense(8, name=name)(y), (-1, 4, 12, 2, 4)), (0, 1, 3, 2, 4))
               for name in ("query", "key", "value"))  # fmt: skip
    scores = layers.Softmax(name="shares")(ops.matmul(q, ops.transpose(k, (0, 1, 2, 4, 3))) / 2)
    y = ops.reshape(ops.transpose(ops.matmul(scores, v), (0, 1, 3, 2, 4)), (-1, 4, 12, 8))
    x = layers.Add(name="sum1")([x, layers.Dense(8, name="mix")(y)])
    y = layers.Dense(12, activation="silu", name="wide")(layers.LayerNormalization(epsilon=1e-5, name="norm2")(x))
    x = layers.Add(name="sum2")([x, layers.Dense(8, name="narrow")(y)])
    x = ops.transpose(ops.reshape(x, (-1, 2, 2, 3, 4, 8)), (0, 3, 1, 4, 2, 5))
    x = layers.Conv2D(4, 1, name="leave")(ops.reshape(x, (-1, 6, 8, 8)))
    x = layers.Conv2D(4, 3, padding="same", name="fuse")(layers.Concatenate(name="both")([image, x]))
    model = keras.Model(image, x)
    fill(model)
    grown(model, 2, "query", "key", "value", "enter")
    return Pair(model, fed(823, 2, 6, 8, 4), ported(model, Unfolded), "NHWC->NCHW")


_TURNED = "reshape* transpose* unflatten* permute* flatten* enter norm1 leave"
_ATTENDED = "query key value mix matmul* softmax shares div* true_divide* divide* " + _TURNED
slip("unfolded/pixels-in-rows", _TURNED, "reshape-order", "wiring")
slip("unfolded/folded-by-columns", _TURNED, "reshape-order", "wiring")
slip("unfolded/pixels-of-one-patch", _ATTENDED, "axis-permutation reshape-order", "wiring softmax-axis head-layout")
slip("unfolded/values-asked", _ATTENDED, "qkv-order", "operand-order wiring")
slip("unfolded/scaled-by-all-features", _ATTENDED, "attention-scale", "operation-kind")
slip("unfolded/heads-not-turned-back", _ATTENDED, "head-layout reshape-order", "wiring")
slip("unfolded/rectified-for-swish", "wide silu* relu* narrow", "activation-kind")
slip("unfolded/patches-first", "both cat fuse", "concat-order", "operand-order channel-order")
defect("unfolded/norm-eps-of-keras", "norm?", "ln-eps")(epsilon(1e-3, nn.LayerNorm))
defect("unfolded/key-for-query", "query key", "qkv-order", "weights-perturbed wiring")(exchanged("query", "key"))
ways("unfolded", "unfolded-by-torch", "attention-of-torch")
one_layer("unfolded", "scaled-by-all-features+heads-not-turned-back")
neighbours("unfolded", "rectified-for-swish+folded-by-columns")
