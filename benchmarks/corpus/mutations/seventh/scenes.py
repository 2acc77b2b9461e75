"""Scenes: levels that are weighed into one another, how far things are, and what is turned upright first."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Fuse(Port):
    def __init__(self, ways: frozenset[str], count: int) -> None:
        super().__init__(ways)
        self.shares = nn.Parameter(torch.ones(count))
        self.conv, self.bn = SameConv2d(6, 6, 3), nn.BatchNorm2d(6, eps=1e-3)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        if "shares-by-softmax" in self.ways:
            shares = F.softmax(self.shares, dim=0)
        else:
            shares = self.shares if "shares-not-rectified" in self.ways else F.relu(self.shares)
            shares = shares if "shares-not-to-one" in self.ways else shares / (shares.sum() + 1e-4)
        if "fused-by-name" in self.ways:
            x = torch.einsum("n,nbchw->bchw", shares, torch.stack(maps))
        else:
            x = sum(share * map_ for share, map_ in zip(shares, maps, strict=True))
        if "rectified-for-swished" in self.ways:
            x = F.relu(x)
        elif "swished-behind-the-norm" not in self.ways:
            x = F.silu(x)
        x = self.bn(self.conv(x))
        return F.silu(x) if "swished-behind-the-norm" in self.ways else x


class Levels(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.convs = nn.ModuleList(SameConv2d(n, 6, 3, stride=2) for n in (3, 6, 6))
        self.down1, self.down0 = Fuse(ways, 2), Fuse(ways, 2)
        self.up1, self.up2 = Fuse(ways, 3), Fuse(ways, 2)
        self.head, self.norms = SameConv2d(6, 6, 3), nn.ModuleList(nn.BatchNorm2d(6, eps=1e-3) for _ in range(3))
        self.out = SameConv2d(6, 4, 3)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-repeating" in self.ways:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-bilinear" in self.ways else "nearest")

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        if "pooled-around" in self.ways:
            return F.max_pool2d(x, 3, 2, padding=1)
        behind = 0.0 if "pool-with-zeros" in self.ways else float("-inf")
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=behind), 3, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = F.relu(self.convs[0](image))
        middle = F.relu(self.convs[1](fine))
        coarse = F.relu(self.convs[2](middle))
        inner = self.down1(middle, self.raised(coarse))
        fine = self.down0(fine, self.raised(inner))
        inner = inner if "level-itself-forgotten" not in self.ways else middle
        middle = self.up1(middle, inner, self.pooled(fine))
        coarse = self.up2(coarse, self.pooled(middle))
        found = []
        for level, norm in zip((fine, middle, coarse), self.norms, strict=True):
            norm = self.norms[0] if "one-norm-for-all-levels" in self.ways else norm
            found.append(self.out(F.silu(norm(self.head(level)))).permute(0, 2, 3, 1).flatten(1, 2))
        return torch.cat(found, dim=1)


class _Fused(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.shares = self.add_weight(name="shares", shape=(len(shapes),))

    def call(self, maps: list[keras.KerasTensor]) -> keras.KerasTensor:
        shares = ops.relu(self.shares)
        shares = shares / (ops.sum(shares) + 1e-4)
        return ops.silu(sum(shares[i] * map_ for i, map_ in enumerate(maps)))


@network
def levels() -> Pair:
    """A BiFPN of three levels: shares of each sum are learnt; one head for all levels, with a norm for each."""
    keras.backend.clear_session()
    image = layers.Input((24, 16, 3), name="image")

    def fused(name: str, *maps: keras.KerasTensor) -> keras.KerasTensor:
        x = layers.Conv2D(6, 3, padding="same", name=f"{name}.conv")(_Fused(name=name)(list(maps)))
        return layers.BatchNormalization(name=f"{name}.bn")(x)

    x, found = image, []
    for i in range(3):
        x = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name=f"convs.{i}")(x)
        found.append(x)
    fine, middle, coarse = found
    inner = fused("down1", middle, layers.UpSampling2D(name="raise1")(coarse))
    fine = fused("down0", fine, layers.UpSampling2D(name="raise0")(inner))
    middle = fused("up1", middle, inner, layers.MaxPooling2D(3, 2, padding="same", name="pool0")(fine))
    coarse = fused("up2", coarse, layers.MaxPooling2D(3, 2, padding="same", name="pool1")(middle))
    head, out = (layers.Conv2D(n, 3, padding="same", name=name) for n, name in ((6, "head"), (4, "out")))
    found = []
    for i, level in enumerate((fine, middle, coarse)):
        x = layers.Activation("silu", name=f"silu.{i}")(layers.BatchNormalization(name=f"norms.{i}")(head(level)))
        found.append(layers.Reshape((-1, 4), name=f"list.{i}")(out(x)))
    model = keras.Model(image, layers.Concatenate(axis=1, name="lists")(found))
    fill(model)
    for name, shares in (("down1", (0.9, 0.4)), ("down0", (-0.3, 0.8)), ("up1", (0.6, 0.3, 0.9)), ("up2", (0.5, 1.1))):
        model.get_layer(name).shares.assign(np.array(shares, "float32"))
    return Pair(model, fed(104, 2, 24, 16, 3), ported(model, Levels), "NHWC->NCHW")


_FUSED = "down? up? down?.* up?.*"
slip("levels/shares-by-softmax", _FUSED, "activation-kind", "operation-kind softmax-axis")
slip("levels/shares-not-rectified", _FUSED, "activation-missing", "block-missing")
slip("levels/shares-not-to-one", _FUSED, "block-missing scale", "operation-kind")
slip("levels/rectified-for-swished", _FUSED, "activation-kind")
slip("levels/swished-behind-the-norm", _FUSED, "residual-order wiring",
     "activation-missing activation-extra operation-kind block-missing block-extra")  # fmt: skip
slip("levels/raised-bilinear", "raise? interpolate* down?", "resize-mode")
slip("levels/pooled-around", "pool? pad* max_pool2d*", "pad-asymmetry", "shift pad-mode")
slip("levels/pool-with-zeros", "pool? pad* max_pool2d*", "pad-mode", "activation-extra block-extra")
slip("levels/level-itself-forgotten", "up1 up1.*", "wiring", "block-missing concat-order")
slip("levels/one-norm-for-all-levels", "norms norms.* silu*", "wiring weights-swapped",
     "weights-perturbed bn-stats weights-not-loaded block-missing")  # fmt: skip
defect("levels/norm-eps-of-torch", "*.bn norms.?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("levels", "fused-by-name", "raised-by-repeating")
one_layer("levels", "shares-not-rectified+rectified-for-swished", "shares-not-to-one+swished-behind-the-norm")
neighbours("levels", "pool-with-zeros+shares-by-softmax")


# --- two eyes -----------------------------------------------------------------------------------------------


class Depth(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.tower1, self.tower2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.smooth = nn.Conv2d(5, 5, 3, padding=1)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        x = self.tower1(x)
        return self.tower2(x if "tower-not-rectified" in self.ways else F.leaky_relu(x, 0.2))

    def moved(self, x: torch.Tensor, by: int) -> torch.Tensor:
        if "moved-around" in self.ways:
            return x.roll(by, 3)
        if "moved-the-other-way" in self.ways:
            return F.pad(x, (0, by))[..., by:]
        return F.pad(x, (by, 0))[..., : x.shape[3]]

    def costs(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if "costs-by-windows" in self.ways:
            windows = F.pad(right, (4, 0)).unfold(3, 5, 1).flip(4)
            return torch.einsum("bchw,bchwd->bdhw", left, windows) / 6
        products = [left * self.moved(right, by) for by in range(5)]
        return torch.stack([x.sum(1) if "costs-summed" in self.ways else x.mean(1) for x in products], dim=1)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        left, right = self.seen(left), self.seen(right)
        left, right = (right, left) if "eyes-exchanged" in self.ways else (left, right)
        costs = self.smooth(self.costs(left, right))
        shares = F.softmax(
            -costs if "sign-turned" in self.ways else costs, dim=3 if "shares-by-column" in self.ways else 1
        )
        steps = torch.arange(5.0) + ("counted-from-one" in self.ways)
        if "steps-by-convolution" in self.ways:
            return F.conv2d(shares, steps[None, :, None, None])[:, 0]
        return (shares * steps[:, None, None]).sum(1)


@network
def depth() -> Pair:
    """Disparity of two pictures: what they have in common at five shifts, and the mean of the shifts by it."""
    keras.backend.clear_session()
    left, right = layers.Input((8, 12, 3), name="left"), layers.Input((8, 12, 3), name="right")
    tower1, tower2 = (layers.Conv2D(6, 3, padding="same", name=f"tower{i}") for i in (1, 2))
    bend = layers.LeakyReLU(negative_slope=0.2, name="bend")
    x, y = (tower2(bend(tower1(z))) for z in (left, right))
    costs = [ops.mean(x * ops.pad(y, ((0, 0), (0, 0), (i, 0), (0, 0)))[:, :, :12], axis=-1) for i in range(5)]
    costs = layers.Conv2D(5, 3, padding="same", name="smooth")(ops.stack(costs, axis=-1))
    shares = layers.Softmax(name="shares")(costs)
    model = keras.Model([left, right], ops.sum(shares * np.arange(5, dtype="float32"), axis=-1))
    fill(model)
    grown(model, 2, "smooth")
    inputs = {"left": fed(105, 2, 8, 12, 3), "right": fed(106, 2, 8, 12, 3)}
    return Pair(model, inputs, ported(model, Depth), "NHWC->NCHW")


_COSTS = "pad* get_item* slice* multiply* mul* mean* stack smooth"
_STEPS = "shares softmax multiply* mul* sum*"
slip("depth/tower-not-rectified", "tower1* bend* leaky_relu* tower2*", "activation-missing", "block-missing")
slip("depth/moved-around", _COSTS, "pad-mode", "operation-kind")
slip("depth/moved-the-other-way", _COSTS, "shift pad-asymmetry", "pad-mode wiring operand-order")
slip("depth/costs-summed", _COSTS, "pool-kind scale", "operation-kind")
slip("depth/eyes-exchanged", "tower2* " + _COSTS, "operand-order wiring", "concat-order")
slip("depth/sign-turned", "smooth neg " + _STEPS, "scale block-extra", "activation-kind operation-kind")
slip("depth/shares-by-column", _STEPS, "softmax-axis", "operation-kind")
slip("depth/counted-from-one", _STEPS + " add", "embedding-offset weights-perturbed bias-missing block-extra", "shift")
defect("depth/slope-of-torch", "bend* leaky_relu*", "activation-param")(
    lambda port: setattr(port, "seen", _steep(port))
)


def _steep(port: Depth) -> object:
    return lambda x: port.tower2(F.leaky_relu(port.tower1(x)))


defect("depth/smooth-taps-flipped", "smooth", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("smooth.weight", lambda weight: weight.flip(2, 3))
)
ways("depth", "costs-by-windows", "steps-by-convolution")
one_layer("depth", "shares-by-column+counted-from-one", "moved-around+costs-summed")
neighbours("depth", "smooth-taps-flipped+sign-turned", "tower-not-rectified+eyes-exchanged")


# --- turned upright -----------------------------------------------------------------------------------------


class Turned(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.look, self.turn = nn.Conv2d(1, 4, 5, stride=2), nn.Linear(36, 6)
        self.read, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

    def sampled(self, image: torch.Tensor, how: torch.Tensor) -> torch.Tensor:
        size = image.shape[2:]
        if "sampled-by-hats" in self.ways:
            rows, columns = (torch.linspace(-1, 1, n) for n in size)
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            at = torch.einsum("bij,jhw->bihw", how, torch.stack([x, y, torch.ones_like(x)]))
            x, y = (at[:, 0] + 1) / 2 * (size[1] - 1), (at[:, 1] + 1) / 2 * (size[0] - 1)
            x = F.relu(1 - (x[..., None] - torch.arange(size[1])).abs())
            y = F.relu(1 - (y[..., None] - torch.arange(size[0])).abs())
            return torch.einsum("bhwi,bhwj,bcij->bchw", y, x, image)
        corners = "corners-not-aligned" not in self.ways
        grid = F.affine_grid(how, list(image.shape), align_corners=corners)
        grid = grid.flip(3) if "rows-for-columns" in self.ways else grid
        mode = "nearest" if "sampled-by-the-nearest" in self.ways else "bilinear"
        beyond = "border" if "edges-drawn-out" in self.ways else "zeros"
        aligned = corners and "grid-alone-aligned" not in self.ways
        return F.grid_sample(image, grid, mode, beyond, align_corners=aligned)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.look(image)), 2)
        x = self.turn(x.flatten(1) if "maps-outermost" in self.ways else x.permute(0, 2, 3, 1).flatten(1))
        how = (
            x.unflatten(1, (3, 2)).transpose(1, 2) if "rows-of-the-turn-mixed" in self.ways else x.unflatten(1, (2, 3))
        )
        x = self.read(self.sampled(image, how))
        return self.head(F.relu(x).amax((2, 3)))


@network
def turned() -> Pair:
    """A spatial transformer: a small network says how the picture is turned before another reads it."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 1), name="image")
    x = layers.Conv2D(4, 5, strides=2, activation="relu", name="look")(image)
    x = layers.Flatten(name="flat")(layers.MaxPooling2D(2, name="pool")(x))
    how = layers.Reshape((2, 3), name="how")(layers.Dense(6, name="turn")(x))
    rows, columns = np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16), indexing="ij")
    grid = np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1).astype("float32")
    at = (ops.matmul(how, grid) + 1) * 7.5
    columns, rows = (ops.relu(1 - ops.absolute(at[:, i, :, None] - np.arange(16, dtype="float32"))) for i in (0, 1))
    x = ops.einsum("bni,bij->bnj", rows, image[..., 0])
    x = layers.Reshape((16, 16, 1), name="upright")(ops.sum(x * columns, axis=-1))
    x = layers.GlobalMaxPooling2D(name="largest")(layers.Conv2D(6, 3, activation="relu", name="read")(x))
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    grown(model, 0.15, "turn")
    model.get_layer("turn").bias.assign(np.array([0.9, 0.3, 0.1, -0.35, 0.8, -0.15], "float32"))
    grown(model, 2, "read")
    return Pair(model, fed(107, 3, 16, 16, 1), ported(model, Turned), "NHWC->NCHW")


_SAMPLED = "matmul add* multiply* absolute* relu* subtract* einsum sum upright affine_grid* grid_sample* read"
slip("turned/corners-not-aligned", _SAMPLED, "resize-align-corners", "shift scale operation-kind")
slip("turned/grid-alone-aligned", _SAMPLED, "resize-align-corners", "shift scale operation-kind")
slip("turned/rows-for-columns", _SAMPLED + " flip", "axis-permutation channel-order", "concat-order wiring")
slip("turned/sampled-by-the-nearest", _SAMPLED, "resize-mode", "operation-kind")
slip("turned/edges-drawn-out", _SAMPLED, "pad-mode", "operation-kind")
slip("turned/maps-outermost", "flat flatten permute turn", "flatten-order dense-row-order", "wiring")
slip("turned/rows-of-the-turn-mixed", "how turn unflatten transpose " + _SAMPLED, "reshape-order axis-permutation",
     "wiring")  # fmt: skip
defect("turned/turn-as-begun", "turn", "weights-not-loaded", "weights-perturbed weights-swapped")(
    rewritten("turn.weight", torch.zeros_like)
)
defect("turned/rows-turned-as-well", "turn", "dense-row-order", "weights-perturbed flatten-order kernel-layout")(
    rewritten("turn.weight", lambda w: w.unflatten(1, (3, 3, 4)).permute(0, 3, 1, 2).flatten(1))
)
ways("turned", "sampled-by-hats")
one_layer("turned", "sampled-by-the-nearest+edges-drawn-out")
neighbours("turned", "rows-of-the-turn-mixed+corners-not-aligned", "maps-outermost+rows-of-the-turn-mixed")
