"""Pictures that are made: from a style, larger ones, and cells that grow."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, fed, ported, rewritten, set_to


class Modulated(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.map1, self.map2 = nn.Linear(6, 8), nn.Linear(8, 8)
        self.start = nn.ParameterDict({"map": torch.zeros(4, 4, 6)})
        self.style1, self.style2 = nn.Linear(8, 6), nn.Linear(8, 8)
        self.conv, self.noisy = nn.Conv2d(6, 8, 3, bias=False), nn.ParameterDict({"strength": torch.ones(8)})
        self.bend, self.colours = nn.ParameterDict({"bias": torch.zeros(8)}), nn.Conv2d(8, 3, 1)

    def leaky(self, x: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(x, 0.01 if "slopes-of-torch" in self.ways else 0.2)
        return x if "gain-forgotten" in self.ways else x * 2**0.5

    def styled(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        weight = self.conv.weight[None] * style[:, None, :, None, None]
        axes = (1, 3, 4) if "levelled-over-the-outputs" in self.ways else (2, 3, 4)
        level = torch.rsqrt((weight**2).sum(axes, keepdim=True) + 1e-8)
        if "styled-features" in self.ways:
            return F.conv2d(x * style[:, :, None, None], self.conv.weight, padding=1) * level[:, :, 0]
        weight = weight if "never-levelled" in self.ways else weight * level
        count, (height, width) = len(x), x.shape[2:]
        y = F.conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), padding=1, groups=count)
        return y.reshape(count, -1, height, width)

    def forward(self, code: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        w = code
        if "code-not-levelled" not in self.ways:
            w = w * torch.rsqrt((w**2).mean(1, keepdim=True) + 1e-8)
        w = self.leaky(self.map2(self.leaky(self.map1(w))))
        one = 0.0 if "style-around-zero" in self.ways else 1.0
        x = self.start["map"].permute(2, 0, 1).expand(len(code), -1, -1, -1)
        x = F.interpolate(x, scale_factor=2, mode="nearest" if "raised-by-the-nearest" in self.ways else "bilinear")
        x = self.styled(x, self.style1(w) + one)
        noise = noise.permute(0, 3, 1, 2) * self.noisy["strength"][:, None, None]
        bias = self.bend["bias"][:, None, None]
        x = self.leaky(x + bias) + noise if "noise-behind-the-bend" in self.ways else self.leaky(x + noise + bias)
        return self.colours(x * (self.style2(w) + one)[:, :, None, None])


class _Start(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.map = self.add_weight(name="map", shape=(4, 4, 6))

    def call(self, code: keras.KerasTensor) -> keras.KerasTensor:
        return ops.tile(self.map[None], (ops.shape(code)[0], 1, 1, 1))


class _Styled(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.kernel = self.add_weight(name="kernel", shape=(3, 3, 6, 8))

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        x, style = given
        x = ops.conv(x * style[:, None, None], self.kernel, padding="same")
        weight = self.kernel[None] * style[:, None, None, :, None]
        return x * ops.rsqrt(ops.sum(weight**2, axis=(1, 2, 3)) + 1e-8)[:, None, None]


class _Noisy(layers.Layer):  # type: ignore[misc]
    def build(self, shapes: list[tuple[int, ...]]) -> None:
        self.strength = self.add_weight(name="strength", shape=(8,))

    def call(self, given: list[keras.KerasTensor]) -> keras.KerasTensor:
        return given[0] + given[1] * self.strength


class _Bend(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.bias = self.add_weight(name="bias", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return ops.leaky_relu(x + self.bias, 0.2) * 2**0.5


@network
def modulated() -> Pair:
    """StyleGAN2: a style scales a kernel whose outputs are levelled again; noise, and a bend with a gain."""
    keras.backend.clear_session()
    code, noise = layers.Input((6,), name="code"), layers.Input((8, 8, 1), name="noise")
    w = code * ops.rsqrt(ops.mean(code**2, axis=1, keepdims=True) + 1e-8)
    for name in ("map1", "map2"):
        w = ops.leaky_relu(layers.Dense(8, name=name)(w), 0.2) * 2**0.5
    x = layers.UpSampling2D(2, interpolation="bilinear", name="raise")(_Start(name="start")(code))
    x = _Styled(name="conv")([x, layers.Dense(6, name="style1")(w) + 1.0])
    x = _Bend(name="bend")(_Noisy(name="noisy")([x, noise]))
    style = layers.Reshape((1, 1, 8), name="everywhere")(layers.Dense(8, name="style2")(w) + 1.0)
    model = keras.Model([code, noise], layers.Conv2D(3, 1, name="colours")(x * style))
    fill(model)
    inputs = {"code": fed(811, 4, 6), "noise": fed(812, 4, 8, 8, 1)}
    return Pair(model, inputs, ported(model, Modulated), "same")


_CODE, _STYLED = "mean* pow* power* square* rsqrt* add* mul* map1", "conv conv2d* style? rsqrt* mul* sum* pow* add*"
_BENDS = "leaky_relu* mul* multiply* add* noisy bend map? style? colours"
slip("modulated/code-not-levelled", _CODE, "block-missing", "input-normalisation scale")
slip("modulated/slopes-of-torch", _BENDS, "activation-param", "activation-kind")
slip("modulated/gain-forgotten", _BENDS, "scale block-missing", "activation-kind")
slip("modulated/never-levelled", _STYLED, "block-missing", "scale weights-perturbed")
slip("modulated/levelled-over-the-outputs", _STYLED, "norm-axis", "operation-kind")
slip("modulated/style-around-zero", "style? add* " + _STYLED, "bias-missing block-missing residual-missing", "scale")
slip("modulated/raised-by-the-nearest", "raise interpolate conv conv2d*", "resize-mode", "operation-kind")
slip("modulated/noise-behind-the-bend", _BENDS, "residual-order wiring", "operand-order block-missing block-extra")
ways("modulated", "styled-features")
one_layer("modulated", "never-levelled+style-around-zero", "slopes-of-torch+gain-forgotten")
neighbours("modulated", "raised-by-the-nearest+levelled-over-the-outputs")


# --- larger pictures ----------------------------------------------------------------------------------------


class Finer(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.grow1, self.grow2 = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 3, padding=1)
        self.last, self.raised, self.out = (nn.Conv2d(n, m, 3, padding=1) for n, m in ((14, 6), (6, 6), (6, 3)))

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.01 if "slopes-of-torch" in self.ways else 0.2)

    def told(self, conv: nn.Conv2d, parts: list[torch.Tensor]) -> torch.Tensor:
        if "kernels-in-parts" in self.ways:
            weights = conv.weight.split([part.shape[1] for part in parts], dim=1)
            found = sum(F.conv2d(part, weight, padding=1) for part, weight in zip(parts, weights, strict=True))
            return found + conv.bias[:, None, None]
        return conv(torch.cat(parts[::-1] if "newest-first" in self.ways else parts, dim=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if "channels-innermost" in self.ways:
            image = image.contiguous(memory_format=torch.channels_last)
        x = self.first(image)
        one = self.bent(self.grow1(x))
        two = self.bent(self.told(self.grow2, [x, one]))
        y = self.told(self.last, [x, one, two])
        y = self.bent(y) if "last-bent-as-well" in self.ways else y
        y = y if "share-forgotten" in self.ways else y * 0.2
        x = y if "features-not-added" in self.ways else x + y
        x = F.interpolate(x, scale_factor=2, mode="bilinear" if "raised-smoothly" in self.ways else "nearest")
        return self.out(self.bent(self.raised(x)))


@network
def finer() -> Pair:
    """ESRGAN: a dense block whose sum is shared, repeated pixels, and two kernels behind them."""
    keras.backend.clear_session()
    image = layers.Input((9, 7, 3), name="image")

    def bent(width: int, name: str, x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.LeakyReLU(0.2, name=f"{name}_bend")(layers.Conv2D(width, 3, padding="same", name=name)(x))

    x = layers.Conv2D(6, 3, padding="same", name="first")(image)
    one = bent(4, "grow1", x)
    two = bent(4, "grow2", layers.Concatenate(name="both")([x, one]))
    y = layers.Conv2D(6, 3, padding="same", name="last")(layers.Concatenate(name="all")([x, one, two]))
    x = layers.Add(name="sum")([x, layers.Rescaling(0.2, name="share")(y)])
    x = bent(6, "raised", layers.UpSampling2D(2, name="raise")(x))
    model = keras.Model(image, layers.Conv2D(3, 3, padding="same", name="out")(x))
    fill(model)
    grown(model, 2, "grow1", "grow2", "last")
    return Pair(model, fed(813, 3, 9, 7, 3), ported(model, Finer), "NHWC->NCHW")


_JOINED, _SUM = "both all cat* grow2 last", "last share mul* multiply* sum add raise interpolate leaky_relu*"
slip("finer/slopes-of-torch", "*_bend leaky_relu*", "activation-param")
slip("finer/newest-first", _JOINED, "concat-order", "operand-order channel-order")
slip("finer/last-bent-as-well", _SUM, "activation-extra", "block-extra")
slip("finer/share-forgotten", _SUM, "scale block-missing", "residual-missing")
slip("finer/features-not-added", _SUM, "residual-missing", "block-missing wiring")
slip("finer/raised-smoothly", "raise interpolate raised", "resize-mode", "operation-kind")
defect("finer/edges-repeated", "out", "pad-mode")(set_to("out", padding_mode="replicate"))
ways("finer", "kernels-in-parts", "channels-innermost")
one_layer("finer", "newest-first+slopes-of-torch", "share-forgotten+last-bent-as-well")
neighbours("finer", "raised-smoothly+features-not-added")


# --- cells --------------------------------------------------------------------------------------------------

_SLOPE = np.outer([1, 2, 1], [-1, 0, 1]).astype(np.float32) / 8


class Automaton(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.perceive = nn.Conv2d(6, 18, 3, padding=1, groups=6, bias=False)
        self.wide, self.narrow = nn.Conv2d(18, 12, 1), nn.Conv2d(12, 6, 1)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        if "perceived-in-turn" in self.ways:
            kernels = self.perceive.weight.unflatten(0, (6, 3)).unbind(1)
            return torch.stack([F.conv2d(x, one, padding=1, groups=6) for one in kernels], dim=2).flatten(1, 2)
        if "world-is-round" in self.ways:
            x = F.pad(x, (1, 1, 1, 1), mode="circular")
            return F.conv2d(x, self.perceive.weight, groups=6)
        return self.perceive(x)

    def alive(self, x: torch.Tensor) -> torch.Tensor:
        channel = 0 if "life-in-the-first-channel" in self.ways else 3
        return F.max_pool2d(x[:, channel : channel + 1], 3, 1, padding=1) > 0.1

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        x = cells
        for _ in range(1 if "one-step" in self.ways else 2):
            before = self.alive(x)
            y = self.narrow(F.relu(self.wide(self.seen(x))))
            x = y if "change-for-state" in self.ways else x + y
            lives = before if "judged-before-alone" in self.ways else before & self.alive(x)
            x = x * lives.float()
        return x


@network
def automaton() -> Pair:
    """Cells that grow: each sees itself and two slopes of its neighbours; two steps, and only what lives stays."""
    keras.backend.clear_session()
    cells = layers.Input((9, 8, 6), name="cells")
    perceive = layers.DepthwiseConv2D(3, depth_multiplier=3, padding="same", use_bias=False, name="perceive")
    wide, narrow = layers.Conv2D(12, 1, activation="relu", name="wide"), layers.Conv2D(6, 1, name="narrow")
    pool, x = layers.MaxPooling2D(3, 1, padding="same", name="near"), cells
    for _ in range(2):
        before = pool(x[..., 3:4]) > 0.1
        x = x + narrow(wide(perceive(x)))
        x = x * ops.cast(ops.logical_and(before, pool(x[..., 3:4]) > 0.1), "float32")
    model = keras.Model(cells, x)
    fill(model)
    middle = np.zeros((3, 3), np.float32)
    middle[1, 1] = 1
    kernels = np.stack([middle, _SLOPE, _SLOPE.T], axis=-1)[:, :, None]
    perceive.kernel.assign(np.repeat(kernels, 6, axis=2))
    return Pair(model, fed(814, 3, 9, 8, 6), ported(model, Automaton), "NHWC->NCHW")


_LIVES = "near* max_pool2d* gt* greater* get_item* slice* logical_and* and* bitwise_and* mul* multiply* float* cast*"
_STEPS = "add* perceive* wide* narrow* relu*"
slip("automaton/world-is-round", "perceive* pad* conv2d* wide*", "pad-mode")
slip("automaton/life-in-the-first-channel", _LIVES, "wiring channel-order", "shift operand-order")
slip("automaton/one-step", _STEPS + " " + _LIVES, "block-missing", "wiring")
slip("automaton/change-for-state", _STEPS, "residual-missing", "block-missing wiring")
slip("automaton/judged-before-alone", _LIVES, "block-missing attention-mask", "wiring")
defect("automaton/slopes-behind-one-another", "perceive*", "depthwise-order", "weights-perturbed")(
    rewritten("perceive.weight", lambda weight: weight.unflatten(0, (6, 3)).transpose(0, 1).flatten(0, 1))
)
defect("automaton/slopes-turned", "perceive*", "kernel-layout kernel-flip", "weights-perturbed weights-swapped")(
    rewritten("perceive.weight", lambda weight: weight.transpose(2, 3))
)
defect("automaton/slopes-not-shared-out", "perceive*", "weights-perturbed scale", "weights-not-loaded")(
    rewritten("perceive.weight", lambda weight: weight * torch.tensor([1.0, 8, 8]).repeat(6)[:, None, None, None])
)
ways("automaton", "perceived-in-turn")
one_layer("automaton", "slopes-turned+world-is-round", "life-in-the-first-channel+judged-before-alone")
neighbours("automaton", "change-for-state+judged-before-alone")
