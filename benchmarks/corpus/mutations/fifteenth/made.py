"""Pictures that are made: a sharper one of a small one, and a drawing of a photograph."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten
from benchmarks.corpus.mutations.thirteenth.registry import each


class Photoreal(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.leave, self.last = nn.Conv2d(3, 6, 9), nn.Conv2d(6, 6, 3), nn.Conv2d(4, 3, 9)
        self.first, self.second, self.more = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 16, 3)
        for name in ("first", "second", "leave"):
            self.add_module(f"{name}_bn", nn.BatchNorm2d(6, eps=1e-3))
        for name, wide in {"enter": 6, "first": 6, "more": 4}.items():
            self.add_module(f"{name}_bend", nn.PReLU(wide))

    def conv(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(name)
        far = conv.kernel_size[0] // 2
        return conv(F.pad(x, [far] * 4, mode="reflect" if "edges-mirrored" in self.ways else "constant"))

    def larger(self, x: torch.Tensor) -> torch.Tensor:
        if "shuffled-by-torch" in self.ways:
            return F.pixel_shuffle(x, 2)
        if "larger-by-hand" in self.ways:
            x = x.unflatten(1, (2, 2, 4)).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(4, 5).flatten(2, 3)
        return F.pixel_shuffle(x.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2), 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = image / 127.5 - 1 if "levelled-about-zero" in self.ways else image / 255
        x = skip = self.enter_bend(self.conv("enter", x))
        y = self.first_bend(self.first_bn(self.conv("first", x)))
        y = self.conv("second", y)
        x = self.second_bn(x + y) if "sum-before-the-norm" in self.ways else x + self.second_bn(y)
        x = self.leave_bn(self.conv("leave", x))
        x = x if "long-skip-forgotten" in self.ways else x + skip
        x = self.conv("more", x)
        x = self.more_bend(self.larger(x))
        x = self.conv("last", x)
        if "tangent-by-a-sigmoid" in self.ways:
            x = 2 * torch.sigmoid(2 * x) - 1
        else:
            x = x if "end-left-open" in self.ways else torch.tanh(x)
        return x if "not-back-to-bytes" in self.ways else (x + 1) * 127.5


@network
def photoreal() -> Pair:
    """SRGAN's generator: shares of one, a slope for each channel, a long skip, squares from channels, bytes again."""
    keras.backend.clear_session()
    image = layers.Input((8, 8, 3), name="image")

    def conv(wide: int, size: int, name: str) -> layers.Layer:
        return layers.Conv2D(wide, size, padding="same", name=name)

    def bend(name: str) -> layers.Layer:
        return layers.PReLU(shared_axes=[1, 2], name=f"{name}_bend")

    x = skip = bend("enter")(conv(6, 9, "enter")(image / 255))
    y = bend("first")(layers.BatchNormalization(name="first_bn")(conv(6, 3, "first")(x)))
    y = layers.BatchNormalization(name="second_bn")(conv(6, 3, "second")(y))
    x = layers.Add(name="sum")([x, y])
    x = layers.BatchNormalization(name="leave_bn")(conv(6, 3, "leave")(x))
    x = conv(16, 3, "more")(layers.Add(name="long_sum")([x, skip]))
    x = layers.Lambda(lambda y: tf.nn.depth_to_space(y, 2), output_shape=(16, 16, 4), name="larger")(x)
    x = layers.Activation("tanh", name="tanh")(conv(3, 9, "last")(bend("more")(x)))
    model = keras.Model(image, (x + 1) * 127.5)
    fill(model)
    grown(model, 0.4, "last")
    return Pair(model, counted(1581, 256, 2, 8, 8, 3).astype("float32"), ported(model, Photoreal), "NHWC->NCHW")


_END = "last tanh* add* mul* multiply* sigmoid*"
slip(
    "photoreal/levelled-about-zero",
    "image div* truediv* true_divide* divide* sub* pad* enter",
    "input-scale input-normalisation",
    "shift scale",
)
slip("photoreal/edges-mirrored", "enter first second leave more last pad*", "pad-mode", "operation-kind")
slip("photoreal/sum-before-the-norm", "sum add* second_bn", "residual-order wiring", "operand-order")
slip("photoreal/long-skip-forgotten", "long_sum add* leave_bn more", "residual-missing", "block-missing wiring")
slip(
    "photoreal/shuffled-by-torch",
    "larger pixel_shuffle* unflatten* transpose* permute* flatten*",
    "depth-to-space-order",
    "wiring",
)
slip("photoreal/end-left-open", _END, "activation-missing", "block-missing")
slip("photoreal/not-back-to-bytes", _END, "block-missing scale", "shift operation-kind")
defect(
    "photoreal/slopes-of-torch",
    "enter_bend",
    "activation-param weights-not-loaded",
    "weights-perturbed activation-kind",
)(rewritten("enter_bend.weight", lambda weight: torch.full_like(weight, 0.25)))
defect("photoreal/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("photoreal/statistics-never-loaded", "leave_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    each(rewritten("leave_bn.running_mean", torch.zeros_like), rewritten("leave_bn.running_var", torch.ones_like))
)
ways("photoreal", "larger-by-hand", "tangent-by-a-sigmoid")
control("photoreal/all-folded")(each(*(folded(name, f"{name}_bn") for name in ("first", "second", "leave"))))


@control("photoreal/order-in-the-kernel")
def _shuffled(port: Photoreal) -> None:
    """PyTorch's shuffle, and the kernel ahead with its rows in that order."""
    order = torch.arange(16).unflatten(0, (4, 4)).T.flatten()
    port.ways = port.ways | {"shuffled-by-torch"}
    port.more.weight, port.more.bias = (nn.Parameter(tensor[order]) for tensor in (port.more.weight, port.more.bias))


one_layer("photoreal", "end-left-open+not-back-to-bytes", "sum-before-the-norm+bn-eps-of-torch")
neighbours("photoreal", "levelled-about-zero+slopes-of-torch", "statistics-never-loaded+long-skip-forgotten")


# --- a drawing ----------------------------------------------------------------------------------------------

_DRAWN = {"enter": (3, 6, 7), "less": (6, 8, 3), "expand": (8, 12, 1), "deep": (12, 12, 3), "project": (12, 8, 1),
          "up": (8, 6, 3)}  # fmt: skip


class Drawn(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, (given, wide, size) in _DRAWN.items():
            groups, step = wide if name == "deep" else 1, 2 if name == "less" else 1
            self.add_module(name, nn.Conv2d(given, wide, size, step, groups=groups, bias=False))
            self.add_module(f"{name}_norm", nn.GroupNorm(1, wide, eps=1e-3))
        self.out = nn.Conv2d(6, 3, 7, bias=False)

    def padded(self, x: torch.Tensor, before: int, behind: int) -> torch.Tensor:
        if "mirrored-by-hand" in self.ways:
            for axis in (2, 3):
                size = x.shape[axis]
                there = torch.arange(-before, size + behind).abs()
                x = x.index_select(axis, size - 1 - (size - 1 - there).abs())
            return x
        return F.pad(x, [before, behind] * 2, mode="constant" if "zeros-around" in self.ways else "reflect")

    def block(self, name: str, x: torch.Tensor, bent: bool = True) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_norm")
        if conv.stride == (2, 2):
            x = self.padded(x, 1, 1) if "padded-evenly" in self.ways else self.padded(x, 0, 1)
        elif conv.kernel_size[0] > 1:
            x = self.padded(x, *[conv.kernel_size[0] // 2] * 2)
        x = conv(x)
        if "norms-of-instances" in self.ways:
            x = F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
        elif "norms-by-torch" in self.ways:
            wide = [tensor[:, None, None].expand(x.shape[1:]) for tensor in (norm.weight, norm.bias)]
            x = F.layer_norm(x, x.shape[1:], *wide, norm.eps)
        else:
            x = norm(x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.2) if bent else x

    def grown(self, x: torch.Tensor) -> torch.Tensor:
        if "grown-by-matrices" in self.ways:
            lines = F.interpolate(torch.eye(8)[None], 16, mode="linear")[0]
            return torch.einsum("bchw,hy,wx->bcyx", x, lines, lines)
        if "grown-by-nearest" in self.ways:
            return F.interpolate(x, scale_factor=2)
        corners = "grown-between-corners" in self.ways
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)

    def forward(self, photo: torch.Tensor) -> torch.Tensor:
        x = self.block("less", self.block("enter", photo.flip(1) if "blue-first" in self.ways else photo))
        y = self.block("deep", self.block("expand", x))
        y = self.block("project", y, bent="narrow-end-bent" in self.ways)
        x = y if "skip-forgotten" in self.ways else x + y
        x = self.block("up", self.grown(x))
        x = self.out(self.padded(x, 3, 3))
        return x if "end-left-open" in self.ways else torch.tanh(x)


@network
def drawn() -> Pair:
    """AnimeGANv2's generator: mirrored edges, one norm over all channels, an inverted residual, lines to grow by."""
    keras.backend.clear_session()
    photo = layers.Input((16, 16, 3), name="photo")

    def padded(x: keras.KerasTensor, before: int, behind: int) -> keras.KerasTensor:
        return ops.pad(x, ((0, 0), (before, behind), (before, behind), (0, 0)), mode="reflect")

    def block(x: keras.KerasTensor, name: str, bent: bool = True) -> keras.KerasTensor:
        _, wide, size = _DRAWN[name]
        if size > 1:
            x = padded(x, 0 if name == "less" else size // 2, size // 2)
        own = {"strides": 2 if name == "less" else 1, "use_bias": False, "name": name}
        x = layers.DepthwiseConv2D(size, **own)(x) if name == "deep" else layers.Conv2D(wide, size, **own)(x)
        x = layers.GroupNormalization(groups=1, name=f"{name}_norm")(x)
        return layers.LeakyReLU(negative_slope=0.2, name=f"{name}_leaky")(x) if bent else x

    x = block(block(photo, "enter"), "less")
    x = layers.Add(name="sum")([x, block(block(block(x, "expand"), "deep"), "project", bent=False)])
    x = block(layers.UpSampling2D(2, interpolation="bilinear", name="grown")(x), "up")
    x = layers.Conv2D(3, 7, use_bias=False, name="out")(padded(x, 3, 3))
    model = keras.Model(photo, layers.Activation("tanh", name="tanh")(x))
    fill(model)
    grown(model, 0.3, "out")
    return Pair(model, np.clip(fed(1582, 2, 16, 16, 3), -1, 1), ported(model, Drawn), "NHWC->NCHW")


_GROW = "grown interpolate* upsample* up pad*"
slip("drawn/blue-first", "photo flip* pad* enter", "channel-order", "axis-permutation kernel-layout block-extra")
slip("drawn/zeros-around", "pad* enter less deep up out", "pad-mode", "operation-kind")
slip("drawn/padded-evenly", "less pad*", "pad-asymmetry", "shift")
slip("drawn/norms-of-instances", "*_norm group_norm* instance_norm*", "norm-axis", "operation-kind")
slip("drawn/slope-of-torch", "*_leaky leaky_relu*", "activation-param", "activation-kind")
slip("drawn/grown-by-nearest", _GROW, "resize-mode", "operation-kind")
slip("drawn/grown-between-corners", _GROW, "resize-align-corners", "resize-mode")
slip("drawn/narrow-end-bent", "project project_norm leaky_relu* sum add*", "activation-extra", "block-extra")
slip("drawn/skip-forgotten", "sum add* project_norm grown", "residual-missing", "block-missing wiring")
slip("drawn/end-left-open", "out tanh*", "activation-missing", "block-missing")
defect("drawn/gains-never-loaded", "up_norm", "weights-not-loaded", "weights-perturbed bn-stats")(
    each(rewritten("up_norm.weight", torch.ones_like), rewritten("up_norm.bias", torch.zeros_like))
)
ways("drawn", "mirrored-by-hand", "norms-by-torch", "grown-by-matrices")
one_layer("drawn", "norms-of-instances+slope-of-torch", "narrow-end-bent+skip-forgotten")
neighbours("drawn", "zeros-around+end-left-open", "grown-by-nearest+gains-never-loaded")
