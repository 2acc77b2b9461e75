"""Finders: what lies in a picture and where, by two networks."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifteenth.registry import (
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, ported
from benchmarks.corpus.mutations.thirteenth.registry import each

_SIZES = np.float32([[1.3, 0.8], [0.6, 1.9]])
_YOLO = {"stem": (3, 4, 3), "wide": (4, 6, 3), "deep": (6, 8, 3), "past": (6, 4, 1), "join": (24, 8, 3)}


class Reorg(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _YOLO.items():
            self.add_module(name, nn.Conv2d(given, wide, size, padding=size // 2, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.out = nn.Conv2d(8, 16, 1)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        if "slope-by-hand" in self.ways:
            return torch.maximum(x, 0.1 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.1)

    def deeper(self, x: torch.Tensor) -> torch.Tensor:
        if "unshuffled-by-torch" in self.ways:
            return F.pixel_unshuffle(x, 2)
        if "deeper-by-slices" in self.ways:
            return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
        return F.pixel_unshuffle(x, 2).unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = image / 127.5 - 1 if "levelled-about-zero" in self.ways else image / 255
        x = self.block("wide", F.max_pool2d(self.block("stem", x), 2))
        past = self.deeper(self.block("past", x))
        x = self.block("deep", F.max_pool2d(x, 2))
        x = F.max_pool2d(
            F.pad(x, (1, 0, 1, 0) if "padded-in-front" in self.ways else (0, 1, 0, 1), value=-torch.inf), 2, 1
        )
        x = self.out(self.block("join", torch.cat([x, past] if "past-behind" in self.ways else [past, x], dim=1)))
        if "sizes-outermost" in self.ways:
            x = x.permute(0, 2, 3, 1).unflatten(3, (8, 2)).transpose(3, 4)
        else:
            x = x.permute(0, 2, 3, 1).unflatten(3, (2, 8))
        rows = torch.arange(4.0)[:, None].expand(4, 4)
        grid = torch.stack([rows, rows.T] if "rows-before-columns" in self.ways else [rows.T, rows], dim=2)[:, :, None]
        middle = (torch.sigmoid(x[..., :2]) + grid) / 4
        size = x[..., 2:4].exp() * torch.from_numpy(_SIZES)
        size = size if "size-in-cells" in self.ways else size / 4
        kinds = torch.sigmoid(x[..., 5:]) if "kinds-each-alone" in self.ways else F.softmax(x[..., 5:], dim=-1)
        boxes, sure = torch.cat([middle, size], dim=-1), torch.sigmoid(x[..., 4:5])
        return boxes.flatten(1, 3), (sure * kinds).flatten(1, 3)


@network
def reorg() -> Pair:
    """YOLOv2: squares of finer cells as channels beside the coarse ones, a pool that moves by one, boxes from sizes."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")

    def block(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        _, wide, size = _YOLO[name]
        x = layers.Conv2D(wide, size, padding="same", use_bias=False, name=name)(x)
        return layers.LeakyReLU(negative_slope=0.1, name=f"{name}_leaky")(
            layers.BatchNormalization(name=f"{name}_bn")(x)
        )

    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = block(layers.MaxPooling2D(2, name="stem_pool")(block(x, "stem")), "wide")
    past = layers.Lambda(lambda y: tf.nn.space_to_depth(y, 2), output_shape=(4, 4, 16), name="deeper")(block(x, "past"))
    x = block(layers.MaxPooling2D(2, name="wide_pool")(x), "deep")
    x = layers.MaxPooling2D(2, 1, padding="same", name="deep_pool")(x)
    x = block(layers.Concatenate(name="beside")([past, x]), "join")
    x = layers.Reshape((4, 4, 2, 8), name="cells")(layers.Conv2D(16, 1, name="out")(x))
    columns, rows = np.meshgrid(np.arange(4), np.arange(4))
    grid = np.stack([columns, rows], axis=2)[:, :, None].astype(np.float32)
    boxes = layers.Concatenate(name="boxes")([(ops.sigmoid(x[..., :2]) + grid) / 4, ops.exp(x[..., 2:4]) * _SIZES / 4])
    sure = ops.sigmoid(x[..., 4:5]) * ops.softmax(x[..., 5:])
    found = [layers.Reshape((32, 4), name="boxes_row")(boxes), layers.Reshape((32, 3), name="kinds_row")(sure)]
    model = keras.Model(image, found)
    fill(model)
    return Pair(model, counted(1531, 256, 2, 16, 16, 3).astype("float32"), ported(model, Reorg), "NHWC->NCHW")


_DIVIDE = "div* truediv* true_divide* divide*"
slip(
    "reorg/levelled-about-zero",
    "rescaling image div* truediv* sub* stem",
    "input-scale input-normalisation",
    "shift scale",
)
slip("reorg/slope-of-torch", "*_leaky leaky_relu*", "activation-param", "activation-kind")
slip("reorg/unshuffled-by-torch", "deeper pixel_unshuffle* unflatten* transpose* flatten* cat* beside past_leaky",
     "depth-to-space-order", "wiring")  # fmt: skip
slip("reorg/padded-in-front", "deep_pool pad* max_pool2d* deep_leaky", "pad-asymmetry", "shift")
slip("reorg/past-behind", "beside cat* join", "concat-order", "operand-order wiring")
slip("reorg/sizes-outermost", "cells out permute* unflatten* transpose* get_item* getitem* sigmoid* exp* softmax*",
     "reshape-order", "wiring channel-order head-layout")  # fmt: skip
slip(
    "reorg/rows-before-columns",
    f"{_DIVIDE} sigmoid* add* boxes cat*",
    "concat-order axis-permutation wiring",
    "operand-order channel-order shift",
)
slip("reorg/size-in-cells", f"{_DIVIDE} exp* mul* boxes cat*", "scale block-missing", "operation-kind")
slip(
    "reorg/kinds-each-alone", "softmax* sigmoid* get_item* getitem* mul* multiply*", "activation-kind", "operation-kind"
)
defect("reorg/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("reorg", "slope-by-hand", "deeper-by-slices")
control("reorg/all-folded")(each(*(folded(name, f"{name}_bn") for name in _YOLO)))
one_layer("reorg", "rows-before-columns+size-in-cells", "unshuffled-by-torch+past-behind")
neighbours("reorg", "padded-in-front+past-behind", "sizes-outermost+kinds-each-alone")


# --- a light finder -----------------------------------------------------------------------------------------

_BOXES = np.random.default_rng(1532).uniform(0.1, 0.6, (90, 4)).astype(np.float32)
"""Where boxes begin: the middle's row and column, height and width."""


class Lite(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.more, self.more_bn = nn.Conv2d(6, 6, 3, 2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        for head, wide in (("kind", 8), ("box", 8)):
            for i in (1, 2):
                self.add_module(f"{head}{i}_deep", nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False))
                self.add_module(f"{head}{i}_bn", nn.BatchNorm2d(6, eps=1e-3))
                self.add_module(f"{head}{i}", nn.Conv2d(6, wide, 1))

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x) if "bends-without-an-end" in self.ways else F.relu6(x)

    def smaller(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1))
        return self.bend(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def head(self, name: str, x: torch.Tensor) -> torch.Tensor:
        deep, point = self.get_submodule(f"{name}_deep"), self.get_submodule(name)
        x = self.get_submodule(f"{name}_bn")(deep(x))
        x = x if "heads-left-linear" in self.ways else self.bend(x)
        if "points-by-einsum" in self.ways:
            return (torch.einsum("bchw,oc->bhwo", x, point.weight[..., 0, 0]) + point.bias).reshape(len(x), -1, 4)
        x = point(x)
        return (x if "rows-as-they-lie" in self.ways else x.permute(0, 2, 3, 1)).reshape(len(x), -1, 4)

    def decoded(self, x: torch.Tensor) -> torch.Tensor:
        given = torch.from_numpy(_BOXES)
        x = x if "variances-forgotten" in self.ways else x / x.new_tensor([10, 10, 5, 5])
        if "decoded-at-once" in self.ways:
            middle, half = x[..., :2] * given[:, 2:] + given[:, :2], x[..., 2:].exp() * given[:, 2:] / 2
            return torch.cat([middle - half, middle + half], dim=2)
        y, x, h, w = x[..., [1, 0, 3, 2]].unbind(2) if "across-before-down" in self.ways else x.unbind(2)
        y, x = y * given[:, 2] + given[:, 0], x * given[:, 3] + given[:, 1]
        h, w = h.exp() * given[:, 2], w.exp() * given[:, 3]
        if "corner-and-size" in self.ways:
            return torch.stack([y - h / 2, x - w / 2, h, w], dim=2)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], dim=2)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = image / 255 if "bytes-as-shares" in self.ways else image * (2 / 255) - 1
        fine = self.smaller("stem", x)
        maps = [fine, self.smaller("more", fine)]
        boxes = torch.cat([self.head(f"box{i}", x) for i, x in enumerate(maps, 1)], dim=1)
        if "coarse-kinds-first" in self.ways:
            kinds = torch.cat([self.head(f"kind{i}", maps[i - 1]) for i in (2, 1)], dim=1)
        else:
            kinds = torch.cat([self.head(f"kind{i}", x) for i, x in enumerate(maps, 1)], dim=1)
        chances = F.softmax(kinds, dim=2) if "one-kind-alone" in self.ways else torch.sigmoid(kinds)
        return self.decoded(boxes), chances[..., 1:]


@network
def lite() -> Pair:
    """SSDLite of TensorFlow's object detection: light heads, down before across, boxes by scales of ten and five."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def bent(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        return layers.ReLU(6, name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    x = layers.Rescaling(2 / 255, offset=-1, name="rescaling")(image)
    fine = bent(layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="stem")(x), "stem")
    coarse = bent(layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="more")(fine), "more")
    rows: dict[str, list[keras.KerasTensor]] = {"kind": [], "box": []}
    for head, found in rows.items():
        for i, x in enumerate((fine, coarse), 1):
            x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{head}{i}_deep")(x)
            x = layers.Conv2D(8, 1, name=f"{head}{i}")(bent(x, f"{head}{i}"))
            found.append(layers.Reshape((-1, 4), name=f"{head}{i}_row")(x))
    kinds, boxes = (layers.Concatenate(axis=1, name=f"{name}_rows")(found) for name, found in rows.items())
    boxes = boxes / np.float32([10, 10, 5, 5])
    y, x = (boxes[..., i] * _BOXES[:, 2 + i] + _BOXES[:, i] for i in (0, 1))
    h, w = (ops.exp(boxes[..., 2 + i]) * _BOXES[:, 2 + i] for i in (0, 1))
    boxes = ops.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], axis=2)
    model = keras.Model(image, [boxes, layers.Activation("sigmoid", name="chances")(kinds)[..., 1:]])
    fill(model)
    grown(model, 4, "stem")
    return Pair(model, counted(1533, 256, 2, 12, 12, 3).astype("float32"), ported(model, Lite), "NHWC->NCHW")


slip(
    "lite/bytes-as-shares", "rescaling image div* mul* sub* pad* stem", "input-scale input-normalisation", "scale shift"
)
slip("lite/padded-evenly", "stem more pad*", "pad-asymmetry", "shift")
slip("lite/bends-without-an-end", "*_relu relu* relu6*", "activation-kind activation-param", "operation-kind")
slip("lite/heads-left-linear", "kind?_relu box?_relu kind?_bn box?_bn kind? box? relu6*", "activation-missing",
     "block-missing")  # fmt: skip
slip(
    "lite/rows-as-they-lie",
    "kind?_row box?_row kind? box? permute* reshape* *_rows cat*",
    "flatten-order reshape-order",
    "wiring",
)
slip(
    "lite/variances-forgotten",
    f"{_DIVIDE} box_rows cat* unbind* get_item* getitem*",
    "scale block-missing",
    "operation-kind",
)
slip(
    "lite/across-before-down",
    f"{_DIVIDE} unbind* get_item* getitem* mul* exp*",
    "channel-order wiring",
    "operand-order axis-permutation concat-order",
)
slip(
    "lite/corner-and-size",
    f"{_DIVIDE} stack* add* sub* subtract*",
    "block-missing wiring",
    "operation-kind concat-order residual-missing",
)
slip("lite/coarse-kinds-first", "kind_rows cat* kind?_row chances sigmoid*", "concat-order", "operand-order wiring")
slip("lite/one-kind-alone", "chances sigmoid* softmax* get_item* getitem*", "activation-kind", "operation-kind")
defect("lite/heads-exchanged", "kind1_deep box1_deep", "weights-swapped", "weights-perturbed wiring")(
    exchanged("kind1_deep", "box1_deep")
)
ways("lite", "points-by-einsum", "decoded-at-once")
one_layer("lite", "variances-forgotten+across-before-down")
neighbours("lite", "coarse-kinds-first+one-kind-alone", "bytes-as-shares+padded-evenly")
