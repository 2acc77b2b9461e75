"""What stands out of a picture, and what is left when its noise is taken away."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventeenth.registry import (
    channels_last,
    control,
    defect,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to

_UNITS = (("enter", 3, 5, 1), ("near", 5, 4, 1), ("low", 4, 4, 1), ("deep", 4, 4, 2), ("back", 8, 4, 1),
          ("leave", 8, 5, 1))  # fmt: skip


class Salient(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, wide, rate in _UNITS:
            rate = 1 if "deep-not-widened" in ways else rate
            self.add_module(name, nn.Conv2d(given, wide, 3, padding=rate, dilation=rate))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.side, self.last = nn.Conv2d(5, 1, 3, padding=1), nn.Conv2d(2, 1, 1)
        self.wide = nn.Conv2d(4, 1, 3, padding=1)

    def unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-products" in self.ways:
            at = ((torch.arange(11, dtype=torch.float64) + 0.5) * 6 / 11 - 0.5).clamp(0, 5)
            lines = (1 - (at[None] - torch.arange(6)[:, None]).abs()).clamp(min=0).float()
            return torch.einsum("bchw,hi,wj->bcij", x, lines, lines)
        if "raised-to-the-nearest" in self.ways:
            return F.interpolate(x, (11, 11))
        return F.interpolate(x, (11, 11), mode="bilinear", align_corners="raised-end-to-end" in self.ways)

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        enter = self.unit("enter", picture)
        near = self.unit("near", enter)
        half = self.unit("low", F.max_pool2d(near, 2, ceil_mode="last-row-dropped" not in self.ways))
        deep = self.unit("deep", half)
        back = self.unit("back", torch.cat([half, deep] if "half-first" in self.ways else [deep, half], dim=1))
        x = self.unit("leave", torch.cat([self.raised(back), near], dim=1))
        x = x if "block-not-kept" in self.ways else x + enter
        side, wide = self.side(x), self.raised(self.wide(back))
        last = self.last(torch.cat([wide, side] if "wide-side-first" in self.ways else [side, wide], dim=1))
        return (last, side) if "scores-told" in self.ways else (torch.sigmoid(last), torch.sigmoid(side))


@network
def salient() -> Pair:
    """U2-Net of one block: a small U of which the bottom is widened, kept with what came in; sides and their mix."""
    keras.backend.clear_session()
    picture = layers.Input((11, 11, 3), name="picture")

    def unit(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        _, _, wide, rate = next(one for one in _UNITS if one[0] == name)
        x = layers.Conv2D(wide, 3, padding="same", dilation_rate=rate, name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    enter = unit(picture, "enter")
    near = unit(enter, "near")
    half = unit(layers.MaxPooling2D(2, padding="same", name="pool")(near), "low")
    back = unit(layers.Concatenate(name="beneath")([unit(half, "deep"), half]), "back")
    y = layers.Concatenate(name="high")([ops.image.resize(back, (11, 11)), near])
    x = layers.Add(name="kept")([unit(y, "leave"), enter])
    side = layers.Conv2D(1, 3, padding="same", name="side")(x)
    wide = ops.image.resize(layers.Conv2D(1, 3, padding="same", name="wide")(back), (11, 11))
    last = layers.Conv2D(1, 1, name="last")(layers.Concatenate(name="sides")([side, wide]))
    told = [layers.Activation("sigmoid", name=f"{name}_chance")(one) for name, one in (("last", last), ("side", side))]
    model = keras.Model(picture, told)
    fill(model)
    grown(model, 2, "last")
    return Pair(model, fed(1704, 2, 11, 11, 3), ported(model, Salient), "NHWC->NCHW")


_RAISED = "resize* interpolate* high cat* sides"
slip("salient/deep-not-widened", "deep", "dilation", "weights-perturbed")
slip("salient/raised-to-the-nearest", _RAISED, "resize-mode", "operation-kind")
slip("salient/raised-end-to-end", _RAISED, "resize-align-corners")
slip("salient/last-row-dropped", "pool max_pool2d* low", "pool-ceil-mode", "pad-mode shift")
slip("salient/half-first", "beneath cat* back", "concat-order", "operand-order wiring")
slip("salient/block-not-kept", "kept add* leave* side", "residual-missing", "block-missing wiring")
slip("salient/wide-side-first", "sides cat* last", "concat-order", "operand-order wiring")
slip("salient/scores-told", "last side *_chance sigmoid*", "logits activation-missing", "block-missing")
defect("salient/rows-for-columns", "near", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("near.weight", lambda weight: weight.transpose(2, 3))
)
ways("salient", "raised-by-products")
control("salient/norm-in-the-kernel")(folded("back", "back_bn"))
control("salient/channels-last")(channels_last)
one_layer("salient", "raised-end-to-end+last-row-dropped")
neighbours("salient", "deep-not-widened+half-first", "wide-side-first+scores-told")


# --- noise --------------------------------------------------------------------------------------------------


class Residue(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first, self.last = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 12, 3, padding=1, bias=False)
        self.middle, self.norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-4)
        self.slope = nn.PReLU(6)

    def squares(self, x: torch.Tensor) -> torch.Tensor:
        if "squares-of-torch" in self.ways:
            return F.pixel_unshuffle(x, 2)
        if "squares-by-slices" in self.ways:
            return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=1)
        return x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 3, 5, 1, 2, 4).flatten(1, 3)

    def told(self, x: torch.Tensor) -> torch.Tensor:
        if "shuffled-as-torch-has-it" in self.ways:
            return F.pixel_shuffle(x, 2)
        return F.pixel_shuffle(x.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2), 2)

    def forward(self, grain: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        x = self.squares(grain[:, :1])
        wide = level[:, :, None, None].expand(-1, -1, *x.shape[2:])
        x = self.first(torch.cat([wide, x] if "level-first" in self.ways else [x, wide], dim=1))
        x = x if "first-not-bent" in self.ways else F.relu(x)
        x = self.norm(self.middle(x))
        x = F.leaky_relu(x, 0.01) if "one-slope-for-all" in self.ways else self.slope(x)
        x = self.told(self.last(x))
        return x if "noise-told" in self.ways else grain - x


@network
def residue() -> Pair:
    """FFDNet with DnCNN's end: squares of a picture, how much noise there is as a map, and what is left without it."""
    keras.backend.clear_session()
    grain, level = layers.Input((8, 8, 3), name="grain"), layers.Input((1,), name="level")
    x = layers.Reshape((4, 2, 4, 2), name="cut")(grain[..., :1])
    x = layers.Reshape((4, 4, 4), name="squares")(layers.Permute((1, 3, 2, 4), name="turned")(x))
    wide = layers.Reshape((4, 4, 1), name="map")(layers.RepeatVector(16, name="repeated")(level))
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(layers.Concatenate(name="both")([x, wide]))
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="middle")(x)
    x = layers.BatchNormalization(epsilon=1e-4, name="norm")(x)
    x = layers.PReLU(shared_axes=(1, 2), name="slope")(x)
    x = layers.Conv2D(12, 3, padding="same", use_bias=False, name="last")(x)
    x = layers.Reshape((4, 4, 2, 2, 3), name="split")(x)
    x = layers.Reshape((8, 8, 3), name="noise")(layers.Permute((1, 3, 2, 4, 5), name="turned_back")(x))
    model = keras.Model([grain, level], layers.Subtract(name="clean")([grain, x]))
    fill(model)
    norm = model.get_layer("norm").moving_variance
    norm.assign(norm * 0.002)
    grown(model, 0.1, "middle")
    return Pair(model, {"grain": fed(1705, 2, 8, 8, 3), "level": fed(1706, 2, 1) + 1}, ported(model, Residue),
                "NHWC->NCHW")  # fmt: skip


_NOISE = "split turned_back noise pixel_shuffle* unflatten* transpose* flatten* clean sub* rsub*"
slip("residue/shuffled-as-torch-has-it", _NOISE, "depth-to-space-order reshape-order channel-order")
slip("residue/level-first", "both cat* first", "concat-order", "operand-order wiring")
slip("residue/first-not-bent", "first relu* middle", "activation-missing", "block-missing")
slip("residue/one-slope-for-all", "slope leaky_relu* last", "activation-param activation-kind", "weights-not-loaded")
slip("residue/noise-told", _NOISE, "residual-missing block-missing", "wiring scale")
defect("residue/norm-eps-of-torch", "norm", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("residue/norm-eps-of-keras", "norm", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("residue/first-not-biased", "first", "bias-missing", "weights-not-loaded")(set_to("first", bias=None))
defect("residue/middle-turned-round", "middle", "kernel-flip", "kernel-layout weights-perturbed")(
    rewritten("middle.weight", lambda weight: weight.flip(2, 3))
)
ways("residue", "squares-by-slices", "squares-of-torch")
control("residue/norm-in-the-kernel")(folded("middle", "norm"))
one_layer("residue", "first-not-bent+first-not-biased", "middle-turned-round+norm-eps-of-keras")
neighbours("residue", "one-slope-for-all+shuffled-as-torch-has-it")
