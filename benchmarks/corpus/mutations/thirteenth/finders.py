"""What is where: places that may hold something, limbs of people, and lines of text in a photo."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.thirteenth.registry import (
    control,
    defect,
    each,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)

_SPREADS = np.float32([0.1, 0.1, 0.2, 0.2])


class Proposals(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.fine, self.coarse = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.side4, self.side5 = nn.Conv2d(6, 6, 1), nn.Conv2d(8, 6, 1)
        self.level, self.shared = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.kind, self.box = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 12, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-indices" in self.ways:
            return x[:, :, torch.arange(8) // 2][:, :, :, torch.arange(8) // 2]
        return F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")

    def rows(self, x: torch.Tensor, wide: int) -> torch.Tensor:
        if "rows-by-a-view" in self.ways:
            return x.flatten(1).unflatten(1, (-1, wide))
        if wide == 2 and "kinds-outermost" in self.ways:
            return x.unflatten(1, (wide, -1)).permute(0, 3, 4, 2, 1).flatten(1, 3)
        return x.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, wide))

    def looked(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.shared(x)
        x = x if "shared-left-linear" in self.ways else F.relu(x)
        kinds = F.softmax(self.rows(self.kind(x), 2), dim=1 if "shared-among-anchors" in self.ways else 2)
        return kinds, self.rows(self.box(x), 4)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        fine = F.relu(self.fine(image))
        coarse = self.side5(F.relu(self.coarse(F.max_pool2d(fine, 2))))
        up = self.raised(coarse)
        fine = self.level(up if "side-forgotten" in self.ways else self.side4(fine) + up)
        found = [self.looked(fine), self.looked(coarse), self.looked(coarse[:, :, ::2, ::2])]
        found = found[::-1] if "coarse-levels-first" in self.ways else found
        kinds, boxes = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        if "boxes-by-columns" in self.ways:
            boxes = boxes[:, :, [1, 0, 3, 2]]
        return kinds, boxes if "boxes-not-scaled" in self.ways else boxes * torch.from_numpy(_SPREADS)


@network
def proposals() -> Pair:
    """Mask R-CNN's proposals as Matterport wrote them: two levels and every other place, chances and boxes in rows."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 3), name="image")
    fine = layers.Conv2D(6, 3, padding="same", activation="relu", name="fine")(image)
    coarse = layers.MaxPooling2D(2, name="pool")(fine)
    coarse = layers.Conv2D(8, 3, padding="same", activation="relu", name="coarse")(coarse)
    coarse = layers.Conv2D(6, 1, name="side5")(coarse)
    up = layers.UpSampling2D(2, name="raised")(coarse)
    fine = layers.Add(name="summed")([layers.Conv2D(6, 1, name="side4")(fine), up])
    fine = layers.Conv2D(6, 3, padding="same", name="level")(fine)
    shared = layers.Conv2D(8, 3, padding="same", activation="relu", name="shared")
    kind, box = layers.Conv2D(6, 1, name="kind"), layers.Conv2D(12, 1, name="box")
    shares, kinds, boxes = layers.Softmax(name="chances"), [], []
    for x in (fine, coarse, layers.MaxPooling2D(1, 2, name="coarsest")(coarse)):
        x = shared(x)
        kinds.append(shares(layers.Reshape((-1, 2))(kind(x))))
        boxes.append(layers.Reshape((-1, 4))(box(x)))
    out = layers.Concatenate(axis=1, name="boxes")(boxes) * _SPREADS
    model = keras.Model(image, [layers.Concatenate(axis=1, name="kinds")(kinds), out])
    fill(model)
    return Pair(model, fed(1351, 2, 8, 8, 3), ported(model, Proposals), "NHWC->NCHW")


_ROWS = "reshape* kind box kind#* box#* permute* flatten* unflatten* chances chances#* softmax* kinds boxes"
slip("proposals/raised-smoothly", "raised interpolate* upsample* summed", "resize-mode", "operation-kind")
slip("proposals/side-forgotten", "side4 summed add* level", "residual-missing block-missing", "wiring")
slip("proposals/shared-left-linear", "shared shared#* relu* kind box", "activation-missing", "block-missing")
slip("proposals/rows-by-a-view", _ROWS, "reshape-order flatten-order", "wiring axis-permutation")
slip("proposals/kinds-outermost", _ROWS, "reshape-order channel-order axis-permutation", "wiring weights-perturbed")
slip("proposals/shared-among-anchors", "chances softmax* kinds", "softmax-axis", "operation-kind")
slip("proposals/coarse-levels-first", "kinds boxes cat*", "concat-order", "operand-order wiring axis-permutation")
slip("proposals/boxes-by-columns", "boxes cat* get_item* index* mul* box", "channel-order axis-permutation",
     "weights-perturbed wiring")  # fmt: skip
slip("proposals/boxes-not-scaled", "boxes cat* mul* multiply*", "block-missing", "scale wiring")
ways("proposals", "raised-by-indices")
one_layer("proposals", "rows-by-a-view+coarse-levels-first", "boxes-by-columns+boxes-not-scaled")
neighbours("proposals", "shared-left-linear+kinds-outermost", "side-forgotten+raised-smoothly")


# --- limbs --------------------------------------------------------------------------------------------------


class Limbs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        for part, wide in (("limb", 4), ("joint", 3)):
            self.add_module(f"{part}1", nn.Conv2d(8, 6, 3, padding=1))
            self.add_module(f"{part}2", nn.Conv2d(6, wide, 1))
            self.add_module(f"{part}3", nn.Conv2d(15, 6, 7, padding=3))
            self.add_module(f"{part}4", nn.Conv2d(6, wide, 1))

    def branch(self, part: str, stage: int, x: torch.Tensor) -> torch.Tensor:
        wide = self.get_submodule(f"{part}{stage}")
        if wide.kernel_size[0] == 7 and "wide-kernel-by-shifts" in self.ways:
            padded = F.pad(x, (3, 3, 3, 3)).unfold(2, 7, 1).unfold(3, 7, 1)
            x = torch.einsum("bchwkl,ockl->bohw", padded, wide.weight) + wide.bias[:, None, None]
        else:
            x = wide(x)
        return self.get_submodule(f"{part}{stage + 1}")(F.relu(x))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = image / (255 if "levelled-by-255" in self.ways else 256) - 0.5
        x = x.flip(1) if "red-for-blue" in self.ways else x
        x = F.relu(self.conv1(x))
        if "means-for-largest" in self.ways:
            x = F.avg_pool2d(x, 2)
        else:
            x = F.max_pool2d(x, 2, ceil_mode="pooled-as-in-caffe" in self.ways)
        x = F.relu(self.conv2(x))
        limb, joint = self.branch("limb", 1, x), self.branch("joint", 1, x)
        limb = F.relu(limb) if "first-guess-bent" in self.ways else limb
        found = [joint, limb, x] if "joints-before-limbs" in self.ways else [limb, joint, x]
        x = torch.cat(found, dim=1)
        return self.branch("limb", 3, x), self.branch("joint", 3, x)


@network
def limbs() -> Pair:
    """OpenPose of two stages: what points along a limb and where a joint is, and both again with a wide look."""
    keras.backend.clear_session()
    image = layers.Input((13, 13, 3), name="image")

    def branch(part: str, wide: int, stage: int, x: keras.KerasTensor) -> keras.KerasTensor:
        size = 3 if stage == 1 else 7
        x = layers.Conv2D(6, size, padding="same", activation="relu", name=f"{part}{stage}")(x)
        return layers.Conv2D(wide, 1, name=f"{part}{stage + 1}")(x)

    x = image / 256 - 0.5
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.Concatenate(name="seen")([branch("limb", 4, 1, x), branch("joint", 3, 1, x), x])
    model = keras.Model(image, [branch("limb", 4, 3, x), branch("joint", 3, 3, x)])
    fill(model)
    given = counted(1352, 256, 2, 13, 13, 3).astype("float32")
    return Pair(model, given, ported(model, Limbs), "NHWC->NCHW")


slip("limbs/levelled-by-255", "image div* truediv* true_divide* divide* sub* subtract* conv1",
     "input-scale input-normalisation")  # fmt: skip
slip("limbs/red-for-blue", "image div* truediv* sub* subtract* flip* conv1", "channel-order",
     "axis-permutation kernel-layout")  # fmt: skip
slip("limbs/means-for-largest", "pool max_pool* avg_pool*", "pool-kind", "operation-kind")
slip("limbs/pooled-as-in-caffe", "pool max_pool*", "pool-ceil-mode", "pad-mode")
slip("limbs/first-guess-bent", "limb2 relu* seen cat*", "activation-extra", "block-extra")
slip("limbs/joints-before-limbs", "seen cat* limb3 joint3", "concat-order", "operand-order channel-order wiring")
defect("limbs/limbs-for-joints", "limb1 joint1", "weights-swapped", "weights-perturbed wiring")(
    exchanged("limb1", "joint1")
)
defect("limbs/across-before-along", "limb4", "channel-order weights-perturbed", "axis-permutation weights-swapped")(
    each(*(rewritten(f"limb4.{part}", lambda w: w[[1, 0, 3, 2]]) for part in ("weight", "bias")))
)
defect("limbs/joint-not-biased", "joint3", "bias-missing", "weights-not-loaded")(set_to("joint3", bias=None))
ways("limbs", "wide-kernel-by-shifts")
one_layer("limbs", "levelled-by-255+red-for-blue")
neighbours("limbs", "first-guess-bent+joints-before-limbs", "across-before-along+joint-not-biased")


# --- lines of text ------------------------------------------------------------------------------------------


class Quads(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.far, self.near = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 8, 3, stride=2)
        self.point, self.merge = nn.Conv2d(14, 6, 1), nn.Conv2d(6, 6, 3, padding=1)
        self.far_bn, self.point_bn, self.merge_bn = (nn.BatchNorm2d(6, eps=1e-5) for _ in range(3))
        self.score, self.sides, self.angle = nn.Conv2d(6, 1, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 1, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        mode = "nearest" if "raised-by-repetition" in self.ways else "bilinear"
        corners = True if "raised-between-corners" in self.ways else None
        return F.interpolate(x, scale_factor=2, mode=mode, align_corners=corners)

    def forward(self, photo: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        around = (1, 1, 1, 1) if "padded-evenly" in self.ways else (0, 1, 0, 1)
        photo = F.interpolate(photo, size=(16, 16), mode="bilinear", antialias="photo-smoothed" in self.ways)
        early = F.relu(self.far_bn(self.far(F.pad(photo, around))))
        x = self.raised(F.relu(self.near(F.pad(early, around))))
        x = torch.cat([x, early], dim=1)
        if "point-as-a-product" in self.ways:
            x = F.linear(x.permute(0, 2, 3, 1), self.point.weight[:, :, 0, 0], self.point.bias).permute(0, 3, 1, 2)
        else:
            x = self.point(x)
        x = F.relu(self.merge_bn(self.merge(F.relu(self.point_bn(x)))))
        score = self.score(x)
        score = score if "score-as-it-is" in self.ways else torch.sigmoid(score)
        sides = torch.sigmoid(self.sides(x))
        sides = sides if "sides-as-shares" in self.ways else sides * 64
        turn = torch.pi if "turned-twice-as-far" in self.ways else torch.pi / 2
        angle = (torch.sigmoid(self.angle(x)) - 0.5) * turn
        found = [angle, sides] if "angle-before-sides" in self.ways else [sides, angle]
        return score, torch.cat(found, dim=1)


@network
def quads() -> Pair:
    """EAST: features raised and joined, whether there is text, how far it is to its sides, and how it is turned."""
    keras.backend.clear_session()
    photo = layers.Input((24, 24, 3), name="photo")

    def normed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=1e-5, name=f"{name}_bn")(x)
        return layers.Activation("relu", name=f"{name}_relu")(x)

    fit = layers.Resizing(16, 16, name="fit")(photo)
    early = normed(layers.Conv2D(6, 3, 2, padding="same", name="far")(fit), "far")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="near")(early)
    x = layers.Resizing(8, 8, name="raised")(x)
    x = normed(layers.Conv2D(6, 1, name="point")(layers.Concatenate(name="both")([x, early])), "point")
    x = normed(layers.Conv2D(6, 3, padding="same", name="merge")(x), "merge")
    score = layers.Conv2D(1, 1, activation="sigmoid", name="score")(x)
    sides = layers.Conv2D(4, 1, activation="sigmoid", name="sides")(x) * 64
    angle = (layers.Conv2D(1, 1, activation="sigmoid", name="angle")(x) - 0.5) * (np.pi / 2)
    model = keras.Model(photo, [score, ops.concatenate([sides, angle], axis=-1)])
    fill(model)
    return Pair(model, fed(1353, 2, 24, 24, 3), ported(model, Quads), "NHWC->NCHW")


_TURN = "angle sides sigmoid* sub* subtract* mul* multiply* cat* concatenate*"
slip("quads/photo-smoothed", "fit photo interpolate* upsample* far", "resize-antialias", "resize-mode operation-kind")
slip("quads/padded-evenly", "far near pad*", "pad-asymmetry", "shift")
slip("quads/raised-between-corners", "raised interpolate* upsample* both", "resize-align-corners",
     "resize-mode operation-kind")  # fmt: skip
slip("quads/raised-by-repetition", "raised interpolate* upsample* both", "resize-mode", "operation-kind")
slip("quads/score-as-it-is", "score sigmoid*", "logits activation-missing", "block-missing")
slip("quads/sides-as-shares", _TURN, "block-missing scale", "wiring")
slip("quads/turned-twice-as-far", _TURN, "scale", "block-extra weights-perturbed")
slip("quads/angle-before-sides", _TURN, "concat-order", "operand-order channel-order wiring axis-permutation")
defect("quads/bn-eps-of-keras", "*_bn", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
ways("quads", "point-as-a-product")
control("quads/all-folded")(each(*(folded(name, f"{name}_bn") for name in ("far", "point", "merge"))))
one_layer("quads", "turned-twice-as-far+angle-before-sides", "raised-by-repetition+bn-eps-of-keras")
neighbours(
    "quads", "photo-smoothed+padded-evenly", "padded-evenly+bn-eps-of-keras", "sides-as-shares+angle-before-sides"
)
