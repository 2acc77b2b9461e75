"""Scenes: corners with what is around them, boxes without anchors, and outlines at three sizes."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eleventh.registry import control, defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to


class Corners(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        shapes = {"conv1": (1, 6), "conv2": (6, 6), "find": (6, 8), "tell": (6, 8)}
        for name, (given, width) in shapes.items():
            self.add_module(name, nn.Conv2d(given, width, 3, padding=1))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(width, eps=1e-3))
        self.cells, self.words = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 4, 1)

    def bent(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x, bn = self.get_submodule(name)(x), self.get_submodule(f"{name}_bn")
        if "norms-before-the-bends" in self.ways:
            return F.relu(bn(x))
        if "norms-by-function" in self.ways:
            return F.batch_norm(F.relu(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        return bn(F.relu(x))

    def found(self, x: torch.Tensor) -> torch.Tensor:
        if "softmax-without-nowhere" in self.ways:
            x = F.softmax(x[:, :-1], dim=1)
        else:
            x = F.softmax(x, dim=1)
            x = x[:, 1:] if "nowhere-first" in self.ways else x[:, :-1]
        if "cells-by-columns" in self.ways:
            return F.pixel_shuffle(x[:, [0, 2, 1, 3]], 2)
        if "cells-by-hand" in self.ways:
            return x.unflatten(1, (2, 2)).permute(0, 3, 1, 4, 2).flatten(1, 2).flatten(2)[:, None]
        return F.pixel_shuffle(x, 2)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        over = (2, 3) if "words-levelled-over-places" in self.ways else (1,)
        if "levelled-before-raised" in self.ways:
            x = F.normalize(x, dim=1)
            return F.interpolate(x, scale_factor=2, mode="bilinear")
        mode = "bicubic" if "raised-by-cubes" in self.ways else "bilinear"
        x = F.interpolate(x, scale_factor=2, mode=mode, align_corners="corners-aligned" in self.ways)
        return x * torch.rsqrt((x**2).sum(over, keepdim=True) + 1e-12)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = image if "bytes-as-they-are" in self.ways else image / 255
        x = self.bent("conv2", F.max_pool2d(self.bent("conv1", x), 2))
        return self.found(self.cells(self.bent("find", x))), self.told(self.words(self.bent("tell", x)))


@network
def corners() -> Pair:
    """SuperPoint: a chance for each pixel of a cell and one for none of them, and words of length one."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 1), name="image")

    def bent(x: keras.KerasTensor, name: str, width: int) -> keras.KerasTensor:
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=name)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    x = bent(layers.Rescaling(1 / 255, name="scaled")(image), "conv1", 6)
    x = bent(layers.MaxPooling2D(2, name="pool")(x), "conv2", 6)
    cells = layers.Softmax(name="chances")(layers.Conv2D(5, 1, name="cells")(bent(x, "find", 8)))[..., :-1]
    cells = ops.reshape(ops.transpose(ops.reshape(cells, (-1, 6, 6, 2, 2)), (0, 1, 3, 2, 4)), (-1, 12, 12, 1))
    words = layers.Conv2D(4, 1, name="words")(bent(x, "tell", 8))
    words = layers.UpSampling2D(2, interpolation="bilinear", name="raised")(words)
    model = keras.Model(image, [cells, layers.UnitNormalization(name="level")(words)])
    fill(model)
    grown(model, 3, "cells")
    return Pair(model, counted(1131, 256, 3, 12, 12, 1).astype(np.float32), ported(model, Corners), "NHWC->NCHW")


_FOUND = "chances softmax* get_item* slice* cells reshape* transpose* pixel_shuffle*"
_TOLD = "raised interpolate* level mul* pow* sum* rsqrt* normalize* words"
slip("corners/norms-before-the-bends", "*_bn relu* conv? find tell", "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
slip("corners/softmax-without-nowhere", _FOUND, "residual-order wiring block-missing", "operand-order scale")
slip(
    "corners/nowhere-first",
    _FOUND,
    "channel-order wiring shift concat-order",
    "axis-permutation operand-order block-extra",
)
slip("corners/cells-by-columns", _FOUND, "depth-to-space-order", "channel-order")
slip("corners/words-levelled-over-places", _TOLD, "norm-axis", "operation-kind")
slip("corners/levelled-before-raised", _TOLD, "residual-order wiring", "operand-order block-missing block-extra")
slip("corners/raised-by-cubes", _TOLD, "resize-mode", "operation-kind")
slip("corners/corners-aligned", _TOLD, "resize-align-corners", "resize-mode")
slip("corners/bytes-as-they-are", "scaled image conv1 div* truediv*", "input-scale", "scale block-missing")
defect("corners/tell-for-find", "find tell", "weights-swapped", "weights-perturbed wiring")(exchanged("find", "tell"))
ways("corners", "norms-by-function", "cells-by-hand")
one_layer("corners", "nowhere-first+cells-by-columns", "corners-aligned+words-levelled-over-places")
neighbours("corners", "bytes-as-they-are+norms-before-the-bends")


# --- boxes without anchors ----------------------------------------------------------------------------------


class Fields(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
        self.side = nn.Conv2d(8, 8, 1)
        for name in ("kind_tower", "box_tower"):
            self.add_module(name, nn.Conv2d(8, 8, 3, padding=1))
            self.add_module(f"{name}_norm", nn.GroupNorm(4, 8, eps=1e-3))
        self.kind, self.middle, self.box = (nn.Conv2d(8, n, 3, padding=1) for n in (3, 1, 4))
        self.share1, self.share2 = (nn.ParameterDict({"by": torch.ones(())}) for _ in range(2))

    def tower(self, name: str, x: torch.Tensor) -> torch.Tensor:
        x, norm = self.get_submodule(name)(x), self.get_submodule(f"{name}_norm")
        if "groups-by-hand" in self.ways:
            y = x.unflatten(1, (4, 2))
            y = (y - y.mean((2, 3, 4), keepdim=True)) * torch.rsqrt(
                y.var((2, 3, 4), correction=0, keepdim=True) + norm.eps
            )
            return F.relu(y.flatten(1, 2) * norm.weight[:, None, None] + norm.bias[:, None, None])
        groups = 2 if "half-the-groups" in self.ways else 4
        return F.relu(F.group_norm(x, groups, norm.weight, norm.bias, norm.eps))

    def listed(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1, x.shape[1]) if "maps-read-as-rows" in self.ways else x.flatten(2).transpose(1, 2)

    def level(self, i: int, x: torch.Tensor) -> list[torch.Tensor]:
        kinds, boxes = self.tower("kind_tower", x), self.tower("box_tower", x)
        share = 1 if "shares-forgotten" in self.ways else self.get_submodule(f"share{i}")["by"]
        box = self.box(boxes) * share
        box = F.relu(box) if "relu-for-exp" in self.ways else torch.exp(box)
        box = box if "strides-forgotten" in self.ways else box * 2**i
        middle = self.middle(kinds if "middles-beside-the-kinds" in self.ways else boxes)
        return [self.listed(part) for part in (self.kind(kinds), middle, box)]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = F.relu(self.fine(F.pad(image, (0, 1, 0, 1))))
        around = (1, 1, 1, 1) if "padded-around" in self.ways else (0, 1, 0, 1)
        coarse = F.relu(self.coarse(F.pad(fine, around)))
        side = self.side(fine)
        side = side if "nothing-from-above" in self.ways else side + F.interpolate(coarse, scale_factor=2)
        levels = [self.level(1, side), self.level(2, coarse)]
        levels = levels[::-1] if "coarse-first" in self.ways else levels
        return tuple(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))


class _Share(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.by = self.add_weight(name="by", shape=())

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.by


@network
def fields() -> Pair:
    """FCOS: one head on two levels, a learnt share for each, and how far it is to the four sides of a box."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    fine = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="fine")(image)
    coarse = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="coarse")(fine)
    above = layers.UpSampling2D(2, name="raised")(coarse)
    maps = [layers.Add(name="sum")([layers.Conv2D(8, 1, name="side")(fine), above]), coarse]
    convs = {name: layers.Conv2D(8, 3, padding="same", name=name) for name in ("kind_tower", "box_tower")}
    norms = {name: layers.GroupNormalization(4, name=f"{name}_norm") for name in convs}
    heads = {name: layers.Conv2D(n, 3, padding="same", name=name) for name, n in (("kind", 3), ("middle", 1))}
    heads["box"] = layers.Conv2D(4, 3, padding="same", name="box")
    found: dict[str, list[keras.KerasTensor]] = {name: [] for name in heads}
    for i, x in enumerate(maps, 1):
        kinds, boxes = (ops.relu(norms[name](convs[name](x))) for name in convs)
        box = ops.exp(_Share(name=f"share{i}")(heads["box"](boxes))) * 2**i
        for name, y in {"kind": heads["kind"](kinds), "middle": heads["middle"](boxes), "box": box}.items():
            found[name].append(layers.Reshape((-1, y.shape[-1]), name=f"{name}_list{i}")(y))
    model = keras.Model(image, [layers.Concatenate(1, name=f"{name}_all")(parts) for name, parts in found.items()])
    fill(model)
    for i, share in ((1, 0.6), (2, 1.3)):
        model.get_layer(f"share{i}").by.assign(share)
    return Pair(model, fed(1132, 2, 12, 12, 3), ported(model, Fields), "NHWC->NCHW")


_BOX = "box* share? share?.* exp* mul* relu*"
slip("fields/padded-around", "coarse pad*", "pad-asymmetry", "shift")
slip("fields/nothing-from-above", "sum add* raised side", "residual-missing", "wiring block-missing")
slip("fields/half-the-groups", "*_norm* group_norm*", "norm-axis", "operation-kind")
slip("fields/maps-read-as-rows", "*_list? reshape* flatten* transpose*", "flatten-order reshape-order", "wiring")
slip("fields/shares-forgotten", _BOX, "scale block-missing weights-not-loaded", "wiring")
slip("fields/relu-for-exp", _BOX, "activation-kind operation-kind")
slip("fields/strides-forgotten", _BOX, "scale block-missing", "wiring")
slip("fields/middles-beside-the-kinds", "middle*", "wiring", "operand-order")
slip("fields/coarse-first", "*_all cat*", "concat-order", "operand-order channel-order axis-permutation")
defect("fields/norm-eps-of-torch", "*_norm* group_norm*", "ln-eps", "bn-eps")(epsilon(1e-5, nn.GroupNorm))
ways("fields", "groups-by-hand")
one_layer("fields", "shares-forgotten+strides-forgotten", "maps-read-as-rows+coarse-first")
neighbours("fields", "half-the-groups+middles-beside-the-kinds", "padded-around+nothing-from-above")


# --- outlines at three sizes --------------------------------------------------------------------------------

_CAFFE = np.float32([103.939, 116.779, 123.68])


class Outlines(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((3, 6), (6, 8), (8, 8)))
        self.side1, self.side2, self.side3 = (nn.Conv2d(n, 1, 1) for n in (6, 8, 8))
        self.up2, self.up3 = nn.ConvTranspose2d(1, 1, 4, 2, bias=False), nn.ConvTranspose2d(1, 1, 8, 4, bias=False)
        self.fuse = nn.Conv2d(3, 1, 1, bias=False)

    def down(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, 2) if "pooled-by-mean" in self.ways else F.max_pool2d(x, 2)

    def raised(self, i: int, x: torch.Tensor) -> torch.Tensor:
        up = self.get_submodule(f"up{i}")
        start = 0 if "cropped-at-the-end" in self.ways else i - 1  # half of what the kernel reaches too far
        return up(x)[:, :, start : start + 12, start : start + 12]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = image if "red-before-blue" in self.ways else image.flip(1)
        x = x / 255 if "bytes-as-shares" in self.ways else x - torch.from_numpy(_CAFFE)[:, None, None]
        one = F.relu(self.conv1(x))
        two = F.relu(self.conv2(self.down(one)))
        three = F.relu(self.conv3(self.down(two)))
        maps = [self.side1(one), self.raised(2, self.side2(two)), self.raised(3, self.side3(three))]
        shown = [torch.sigmoid(part) for part in maps]
        parts = shown if "chances-fused" in self.ways else maps
        parts = parts[::-1] if "coarse-first" in self.ways else parts
        if "fused-as-a-sum" in self.ways:
            last = sum(part * share for part, share in zip(parts, self.fuse.weight[0, :, 0, 0], strict=True))
        else:
            last = self.fuse(torch.cat(parts, dim=1))
        return [*shown, last if "fused-as-logit" in self.ways else torch.sigmoid(last)]


@network
def outlines() -> Pair:
    """HED on a small VGG: a map from each size, raised by transposed kernels, and what all of them say."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")
    x, maps = image[..., ::-1] - _CAFFE, []
    for i, width in enumerate((6, 8, 8), 1):
        x = layers.MaxPooling2D(2, name=f"pool{i}")(x) if i > 1 else x
        x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{i}")(x)
        y = layers.Conv2D(1, 1, name=f"side{i}")(x)
        up = {"padding": "same", "use_bias": False, "name": f"up{i}"}
        maps.append(layers.Conv2DTranspose(1, 2**i, 2 ** (i - 1), **up)(y) if i > 1 else y)
    last = layers.Conv2D(1, 1, use_bias=False, name="fuse")(layers.Concatenate(name="all")(maps))
    model = keras.Model(image, [layers.Activation("sigmoid", name=f"shown{i}")(y) for i, y in enumerate([*maps, last])])
    fill(model)
    kernel = model.get_layer("conv1").kernel
    kernel.assign(kernel / 80)
    grown(model, 2, "up2", "up3")
    return Pair(model, counted(1133, 256, 2, 12, 12, 3).astype(np.float32), ported(model, Outlines), "NHWC->NCHW")


_LAST = "all cat* fuse shown3 sigmoid* add* div* truediv* sum*"
slip(
    "outlines/red-before-blue",
    "get_item* slice* flip* sub* conv1 image",
    "channel-order",
    "axis-permutation block-missing",
)
slip("outlines/bytes-as-shares", "sub* div* truediv* conv1 image", "input-normalisation input-scale", "scale")
slip("outlines/pooled-by-mean", "pool? *pool2d*", "pool-kind", "operation-kind")
slip("outlines/cropped-at-the-end", "up? get_item* slice*", "transposed-conv-shift", "pad-asymmetry")
slip("outlines/chances-fused", _LAST, "activation-extra wiring", "block-extra residual-order operand-order")
slip("outlines/coarse-first", _LAST, "concat-order", "operand-order channel-order")
slip("outlines/fused-as-logit", _LAST, "logits activation-missing", "block-missing")
defect("outlines/first-without-bias", "conv1", "bias-missing", "weights-not-loaded")(set_to("conv1", bias=None))
defect("outlines/kernel-over-rows", "up3", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("up3.weight", lambda weight: weight.transpose(2, 3))
)
ways("outlines", "fused-as-a-sum")
control("outlines/channels-last")(lambda port: port.to(memory_format=torch.channels_last))
one_layer("outlines", "chances-fused+coarse-first", "red-before-blue+bytes-as-shares",
          "cropped-at-the-end+kernel-over-rows")  # fmt: skip
neighbours("outlines", "pooled-by-mean+first-without-bias")
