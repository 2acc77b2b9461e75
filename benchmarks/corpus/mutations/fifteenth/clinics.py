"""Clinics: lungs on a film, a spot on the skin, and a tumour in a head."""

from __future__ import annotations

import keras
import numpy as np
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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import left_on

_MEANS, _SPREADS = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Lungs(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.narrow = nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.Conv2d(10, 6, 1, bias=False)
        for i, given in ((1, 6), (2, 6)):
            self.add_module(f"point{i}", nn.Conv2d(given, 8, 1, bias=False))
            self.add_module(f"grow{i}", nn.Conv2d(8, 4, 3, padding=1, bias=False))
            self.add_module(f"bn{i}a", nn.BatchNorm2d(given, eps=1.001e-5))
            self.add_module(f"bn{i}b", nn.BatchNorm2d(8, eps=1.001e-5))
        for name, wide in {"stem_bn": 6, "narrow_bn": 10, "last_bn": 10}.items():
            self.add_module(name, nn.BatchNorm2d(wide, eps=1.001e-5))
        self.labels = nn.Linear(10, 5)

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        norm = self.get_submodule(name)
        if "norms-by-hand" in self.ways:
            mean, spread = (y[:, None, None] for y in (norm.running_mean, torch.sqrt(norm.running_var + norm.eps)))
            return F.relu((x - mean) / spread * norm.weight[:, None, None] + norm.bias[:, None, None])
        return F.relu(norm(x))

    def grown(self, i: int, x: torch.Tensor) -> torch.Tensor:
        y = self.get_submodule(f"point{i}")(self.normed(f"bn{i}a", x))
        y = self.get_submodule(f"grow{i}")(self.normed(f"bn{i}b", y))
        return torch.cat([y, x] if "new-before-old" in self.ways else [x, y], dim=1)

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow_bn(x) if "transition-left-linear" in self.ways else self.normed("narrow_bn", x)
        if "pool-before-the-point" in self.ways:  # both are linear
            return self.narrow(F.avg_pool2d(x, 2))
        return (F.max_pool2d if "largest-in-the-transition" in self.ways else F.avg_pool2d)(self.narrow(x), 2)

    def forward(self, film: torch.Tensor) -> torch.Tensor:
        if "levelled-as-tensorflow-does" in self.ways:
            x = film / 127.5 - 1
        else:
            x = film / 255 - torch.from_numpy(_MEANS)[:, None, None]
            x = x if "spreads-forgotten" in self.ways else x / torch.from_numpy(_SPREADS)[:, None, None]
        x = F.max_pool2d(self.normed("stem_bn", self.stem(x)), 3, 2, padding=1)
        x = self.grown(2, self.halved(self.grown(1, x)))
        x = self.last_bn(x) if "last-bend-forgotten" in self.ways else self.normed("last_bn", x)
        x = self.labels(x.mean((2, 3)))
        return F.softmax(x, dim=1) if "one-finding-alone" in self.ways else torch.sigmoid(x)


@network
def lungs() -> Pair:
    """CheXNet on Keras' DenseNet: spreads of its own, an epsilon of its own, and any of five findings."""
    keras.backend.clear_session()
    film = layers.Input((32, 32, 3), name="film")

    def normed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=1.001e-5, name=name)(x)
        return layers.Activation("relu", name=f"{name}_relu")(x)

    x = layers.Rescaling(1 / (255 * _SPREADS), offset=-_MEANS / _SPREADS, name="rescaling")(film)
    x = layers.Conv2D(6, 7, 2, use_bias=False, name="stem")(layers.ZeroPadding2D(3, name="stem_pad")(x))
    x = layers.MaxPooling2D(3, 2, name="pool")(layers.ZeroPadding2D(1, name="pool_pad")(normed(x, "stem_bn")))
    for i in (1, 2):
        if i > 1:
            x = layers.Conv2D(6, 1, use_bias=False, name="narrow")(normed(x, "narrow_bn"))
            x = layers.AveragePooling2D(2, name="narrow_pool")(x)
        y = layers.Conv2D(8, 1, use_bias=False, name=f"point{i}")(normed(x, f"bn{i}a"))
        y = layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"grow{i}")(normed(y, f"bn{i}b"))
        x = layers.Concatenate(name=f"both{i}")([x, y])
    x = layers.GlobalAveragePooling2D(name="mean")(normed(x, "last_bn"))
    model = keras.Model(film, layers.Dense(5, activation="sigmoid", name="labels")(x))
    fill(model)
    grown(model, 2, "labels")
    return Pair(model, counted(1521, 256, 3, 32, 32, 3).astype("float32"), ported(model, Lungs), "NHWC->NCHW")


_FILM = "rescaling film div* truediv* sub* stem stem_pad pad*"
_NARROW = "narrow narrow_* relu* avg_pool2d* max_pool2d*"
slip("lungs/levelled-as-tensorflow-does", _FILM, "input-normalisation input-scale", "shift scale")
slip("lungs/spreads-forgotten", _FILM, "input-normalisation input-scale", "scale block-missing")
slip("lungs/new-before-old", "both? cat* narrow_bn last_bn", "concat-order", "operand-order wiring")
slip("lungs/transition-left-linear", _NARROW, "activation-missing", "block-missing")
slip("lungs/largest-in-the-transition", _NARROW, "pool-kind", "operation-kind")
slip("lungs/last-bend-forgotten", "last_bn last_bn_relu relu* mean*", "activation-missing", "block-missing")
slip("lungs/one-finding-alone", "labels sigmoid* softmax*", "activation-kind", "operation-kind")
defect("lungs/bn-eps-of-keras", "*_bn bn??", "bn-eps")(epsilon(1e-3, nn.BatchNorm2d))
defect("lungs/mean-for-variance", "last_bn", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("last_bn", running_mean=port.last_bn.running_var, running_var=port.last_bn.running_mean.abs())(
        port
    )
)
defect("lungs/kernel-on-its-side", "grow1", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("grow1.weight", lambda weight: weight.transpose(2, 3))
)
ways("lungs", "norms-by-hand", "pool-before-the-point")
one_layer("lungs", "transition-left-linear+largest-in-the-transition", "last-bend-forgotten+mean-for-variance")
neighbours("lungs", "new-before-old+kernel-on-its-side", "spreads-forgotten+bn-eps-of-keras")


# --- a spot -------------------------------------------------------------------------------------------------


class Spot(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given in {"stem": 3, "first": 6, "second": 6}.items():
            self.add_module(name, nn.Conv2d(given, 6, 3, padding=1, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(6, eps=1e-3))
        self.squeeze, self.excite, self.where = (
            nn.Linear(6, 3),
            nn.Linear(3, 6),
            nn.Conv2d(2, 1, 7, padding=3, bias=False),
        )
        self.kind = nn.Linear(6, 4)

    def said(self, x: torch.Tensor) -> torch.Tensor:
        y = self.squeeze(x)
        return self.excite(y if "squeeze-left-linear" in self.ways else F.relu(y))

    def which(self, x: torch.Tensor) -> torch.Tensor:
        mean, most = x.mean((2, 3)), x.amax((2, 3))
        if "mean-alone" in self.ways:
            y = self.said(mean)
        elif "both-at-once" in self.ways:
            y = torch.stack(self.said(torch.cat([mean, most])).chunk(2)).sum(0)
        else:
            y = self.said(mean) + self.said(most)
        y = F.hardsigmoid(y) if "gate-by-lines" in self.ways else torch.sigmoid(y)
        return x * y[:, :, None, None]

    def place(self, x: torch.Tensor) -> torch.Tensor:
        mean, most = x.mean(1, keepdim=True), x.amax(1, keepdim=True)
        y = torch.cat([most, mean] if "largest-first" in self.ways else [mean, most], dim=1)
        if "where-by-windows" in self.ways:
            y = F.unfold(y, 7, padding=3)
            y = torch.einsum("bkp,ok->bop", y, self.where.weight.flatten(1)).unflatten(2, x.shape[2:])
        else:
            y = self.where(y)
        return x * torch.sigmoid(y)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem_bn(self.stem(image)))
        y = self.second_bn(self.second(F.relu(self.first_bn(self.first(x)))))
        if "looked-at-behind-the-sum" in self.ways:
            x = F.relu(self.place(self.which(x + y)))
        else:
            y = self.which(self.place(y)) if "where-before-which" in self.ways else self.place(self.which(y))
            x = F.relu(x + y)
        return self.kind(x.mean((2, 3)))


@network
def spot() -> Pair:
    """CBAM in a residual block: one small network for the mean and the largest, then where by both of these."""
    keras.backend.clear_session()
    image = layers.Input((10, 10, 3), name="image")

    def normed(x: keras.KerasTensor, name: str, bent: bool = True) -> keras.KerasTensor:
        x = layers.Conv2D(6, 3, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if bent else x

    x = normed(image, "stem")
    y = normed(normed(x, "first"), "second", bent=False)
    squeeze, excite = layers.Dense(3, activation="relu", name="squeeze"), layers.Dense(6, name="excite")
    said = []
    for name, pool in (("mean", layers.GlobalAveragePooling2D), ("most", layers.GlobalMaxPooling2D)):
        z = layers.Reshape((1, 1, 6), name=f"{name}_row")(pool(name=f"{name}_pool")(y))
        said.append(excite(squeeze(z)))
    which = layers.Activation("sigmoid", name="which")(layers.Add(name="said")(said))
    y = layers.Multiply(name="weighed")([y, which])
    z = [ops.mean(y, axis=3, keepdims=True), ops.max(y, axis=3, keepdims=True)]
    z = layers.Concatenate(name="seen")(z)
    z = layers.Conv2D(1, 7, padding="same", activation="sigmoid", use_bias=False, name="where")(z)
    y = layers.Multiply(name="placed")([y, z])
    x = layers.ReLU(name="last_relu")(layers.Add(name="sum")([x, y]))
    model = keras.Model(image, layers.Dense(4, name="kind")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    grown(model, 2, "squeeze", "excite", "kind")
    grown(model, 6, "where")
    return Pair(model, fed(1522, 3, 10, 10, 3), ported(model, Spot), "NHWC->NCHW")


_SAID = "squeeze excite said which sigmoid* hardsigmoid* relu* add* mean* most* amax* weighed mul*"
_WHERE = "seen where cat* max* mean* amax* sigmoid* placed mul* weighed sum add*"
slip("spot/squeeze-left-linear", "squeeze excite relu*", "activation-missing", "block-missing")
slip(
    "spot/mean-alone",
    "mean* most_* amax* squeeze excite relu* said add*",
    "block-missing residual-missing",
    "wiring pool-kind",
)
slip("spot/gate-by-lines", "said which sigmoid* hardsigmoid* weighed mul*", "activation-kind", "operation-kind")
slip("spot/largest-first", "seen cat* max* mean* amax* where", "concat-order channel-order", "operand-order wiring")
slip("spot/where-before-which", f"{_SAID} {_WHERE}", "wiring residual-order", "operand-order")
slip("spot/looked-at-behind-the-sum", f"{_SAID} {_WHERE} second_bn last_relu", "residual-order wiring", "operand-order")
defect("spot/where-turned-round", "where", "kernel-flip", "weights-perturbed axis-permutation kernel-layout")(
    rewritten("where.weight", lambda weight: weight.flip(2, 3))
)
defect("spot/spread-for-variance", "second_bn", "bn-stats", "weights-perturbed")(
    rewritten("second_bn.running_var", lambda variance: variance.sqrt())
)
ways("spot", "both-at-once", "where-by-windows")
control("spot/stem-folded")(folded("stem", "stem_bn"))
one_layer("spot", "squeeze-left-linear+gate-by-lines", "largest-first+where-turned-round")
neighbours("spot", "mean-alone+largest-first")


# --- a tumour -----------------------------------------------------------------------------------------------


class Tumour(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        shapes = {"enter": (2, 4, 3), "down": (4, 6, 3), "first": (6, 6, 3), "second": (6, 6, 3), "up": (6, 4, 3),
                  "join": (8, 4, 3)}  # fmt: skip
        for name, (given, wide, size) in shapes.items():
            step = 2 if name == "down" else 1
            self.add_module(name, nn.Conv3d(given, wide, size, step, 0 if step == 2 else size // 2))
            self.add_module(f"{name}_in", nn.GroupNorm(wide, wide, eps=1e-3))
        self.drop, self.low, self.high = nn.Dropout3d(0.3), nn.Conv3d(6, 2, 1), nn.Conv3d(4, 2, 1)

    def normed(self, name: str, x: torch.Tensor) -> torch.Tensor:
        norm = self.get_submodule(f"{name}_in")
        if "instances-by-torch" in self.ways:
            return F.instance_norm(x, weight=norm.weight, bias=norm.bias, eps=norm.eps)
        if "normed-over-channels-too" in self.ways:
            return F.group_norm(x, 1, norm.weight, norm.bias, norm.eps)
        return norm(x)

    def block(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(name)
        if name == "down" and "every-other-place" in self.ways:
            x = F.conv3d(x, conv.weight, conv.bias, 1, 1)[:, :, 1::2, 1::2, 1::2]
        elif name == "down":
            x = conv(F.pad(x, (1, 1) * 3 if "padded-evenly" in self.ways else (0, 1) * 3))
        else:
            x = conv(x)
        return F.leaky_relu(self.normed(name, x), 0.01 if "slope-of-torch" in self.ways else 0.3)

    def grown(self, x: torch.Tensor) -> torch.Tensor:
        if "grown-by-repeats" in self.ways:
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        if "grown-smoothly" in self.ways:
            return F.interpolate(x, scale_factor=2, mode="trilinear")
        return F.interpolate(x, scale_factor=2)

    def forward(self, scan: torch.Tensor) -> torch.Tensor:
        skip = self.block("enter", scan)
        x = self.block("down", skip)
        y = self.block("second", self.drop(self.block("first", x)))
        x = y if "context-without-its-skip" in self.ways else x + y
        low = self.low(x)
        x = self.block("up", self.grown(x))
        x = self.block("join", torch.cat([skip, x] if "skip-in-front" in self.ways else [x, skip], dim=1))
        x = self.high(x)
        x = x if "low-map-forgotten" in self.ways else x + self.grown(low)
        return torch.sigmoid(x).permute(0, 2, 3, 4, 1)


@network
def tumour() -> Pair:
    """Isensee's network for tumours: a scan of four axes, instances normed, a context, maps of two sizes summed."""
    keras.backend.clear_session()
    scan = layers.Input((6, 6, 6, 2), name="scan")

    def block(x: keras.KerasTensor, name: str, wide: int, step: int = 1) -> keras.KerasTensor:
        x = layers.Conv3D(wide, 3, step, padding="same", name=name)(x)
        x = layers.GroupNormalization(groups=-1, name=f"{name}_in")(x)
        return layers.LeakyReLU(name=f"{name}_leaky")(x)

    skip = block(scan, "enter", 4)
    x = block(skip, "down", 6, 2)
    y = block(layers.SpatialDropout3D(0.3, name="drop")(block(x, "first", 6)), "second", 6)
    x = layers.Add(name="context")([x, y])
    low = layers.Conv3D(2, 1, name="low")(x)
    x = block(layers.UpSampling3D(2, name="grown")(x), "up", 4)
    x = block(layers.Concatenate(name="both")([x, skip]), "join", 4)
    low = layers.UpSampling3D(2, name="low_grown")(low)
    x = layers.Add(name="maps")([layers.Conv3D(2, 1, name="high")(x), low])
    model = keras.Model(scan, layers.Activation("sigmoid", name="mask")(x))
    fill(model)
    return Pair(model, fed(1523, 2, 6, 6, 6, 2), ported(model, Tumour), "NHWC->NCHW")


_GROW = "grown low_grown interpolate* upsample* up"
slip("tumour/normed-over-channels-too", "*_in group_norm* instance_norm*", "norm-axis", "operation-kind")
slip("tumour/padded-evenly", "down pad* conv3d*", "pad-asymmetry", "shift")
slip("tumour/slope-of-torch", "*_leaky leaky_relu*", "activation-param", "activation-kind")
slip("tumour/grown-smoothly", _GROW, "resize-mode", "operation-kind")
slip(
    "tumour/context-without-its-skip",
    "context add* drop second second_* low grown",
    "residual-missing",
    "block-missing wiring",
)
slip("tumour/skip-in-front", "both cat* join", "concat-order", "operand-order wiring")
slip(
    "tumour/low-map-forgotten",
    "maps add* low low_grown interpolate* high mask sigmoid*",
    "residual-missing block-missing",
    "wiring",
)
defect("tumour/norm-eps-of-torch", "*_in", "ln-eps", "bn-eps")(epsilon(1e-5, nn.GroupNorm))
defect("tumour/axes-from-the-last", "first", "kernel-layout", "weights-perturbed axis-permutation")(
    rewritten("first.weight", lambda weight: weight.permute(0, 1, 4, 3, 2))
)
defect("tumour/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
ways("tumour", "instances-by-torch", "every-other-place", "grown-by-repeats")
one_layer("tumour", "normed-over-channels-too+norm-eps-of-torch", "grown-smoothly+low-map-forgotten")
neighbours("tumour", "context-without-its-skip+axes-from-the-last", "padded-evenly+slope-of-torch")
