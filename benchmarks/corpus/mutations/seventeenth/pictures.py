"""Pictures: two ways through a street, boxes on two maps, and channels in parts."""

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
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, set_to


class Twofold(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        parts = (("spatial", 3, 4, 3), ("down1", 3, 5, 3), ("down2", 5, 6, 3), ("fuse", 10, 6, 1))
        for name, given, wide, size in parts:
            self.add_module(name, nn.Conv2d(given, wide, size, 1 if size == 1 else 2, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.refine, self.refine_bn = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, eps=1e-3)
        self.squeeze, self.excite, self.out = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)

    def unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv, norm = self.get_submodule(name), self.get_submodule(f"{name}_bn")
        if conv.stride[0] == 2:
            x = F.pad(x, (1, 1, 1, 1) if name == "spatial" and "street-padded-evenly" in self.ways else (0, 1, 0, 1))
        return F.relu(norm(conv(x)))

    def refined(self, x: torch.Tensor) -> torch.Tensor:
        y = x.amax((2, 3), keepdim=True) if "largest-for-refining" in self.ways else x.mean((2, 3), keepdim=True)
        y = self.refine(y)
        y = y if "refining-not-normed" in self.ways else self.refine_bn(y)
        return x * (F.hardsigmoid(y) if "hard-refining" in self.ways else torch.sigmoid(y))

    def fused(self, x: torch.Tensor) -> torch.Tensor:
        x = self.unit("fuse", x)
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.squeeze(y)
        y = torch.sigmoid(self.excite(y if "squeezed-not-bent" in self.ways else F.relu(y)))
        if "gate-and-one" in self.ways:
            return x * (1 + y)
        return x * y if "fused-not-kept" in self.ways else x * y + x

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        corners = "raised-corner-to-corner" in self.ways
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)

    def forward(self, street: torch.Tensor) -> torch.Tensor:
        near = self.unit("spatial", street)
        x = self.unit("down2", self.unit("down1", street))
        far = self.refined(x)
        if "tail-forgotten" not in self.ways:
            far = far + x.mean((2, 3), keepdim=True)
        far = self.raised(far)
        x = self.fused(torch.cat([far, near] if "far-before-near" in self.ways else [near, far], dim=1))
        return self.out(x)


@network
def twofold() -> Pair:
    """BiSeNet: a way for places and one for what they mean, a refined gate with a tail, and a fusion that keeps."""
    keras.backend.clear_session()
    street = layers.Input((16, 16, 3), name="street")

    def unit(x: keras.KerasTensor, name: str, wide: int, size: int = 3) -> keras.KerasTensor:
        x = layers.Conv2D(wide, size, 1 if size == 1 else 2, padding="same", use_bias=False, name=name)(x)
        return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))

    near = unit(street, "spatial", 4)
    x = unit(unit(street, "down1", 5), "down2", 6)
    tail = layers.GlobalAveragePooling2D(keepdims=True, name="tail")(x)
    y = layers.GlobalAveragePooling2D(keepdims=True, name="refine_pool")(x)
    y = layers.BatchNormalization(name="refine_bn")(layers.Conv2D(6, 1, name="refine")(y))
    y = layers.Multiply(name="refined")([x, layers.Activation("sigmoid", name="refine_gate")(y)])
    far = layers.UpSampling2D(2, interpolation="bilinear", name="raised")(layers.Add(name="context")([y, tail]))
    x = unit(layers.Concatenate(name="both")([near, far]), "fuse", 6, 1)
    y = layers.GlobalAveragePooling2D(keepdims=True, name="fuse_pool")(x)
    y = layers.Conv2D(3, 1, activation="relu", name="squeeze")(y)
    y = layers.Multiply(name="gated")([x, layers.Conv2D(6, 1, activation="sigmoid", name="excite")(y)])
    model = keras.Model(street, layers.Conv2D(3, 1, name="out")(layers.Add(name="kept")([y, x])))
    fill(model)
    grown(model, 2, "refine", "squeeze", "excite")
    return Pair(model, fed(1701, 2, 16, 16, 3), ported(model, Twofold), "NHWC->NCHW")


_REFINE = "refine* mean* amax* sigmoid* hardsigmoid* mul* context add* refined"
_FUSE = "fuse_pool squeeze excite relu* sigmoid* gated kept mul* add* out"
slip("twofold/street-padded-evenly", "spatial pad* spatial_bn", "pad-asymmetry shift")
slip("twofold/largest-for-refining", _REFINE, "pool-kind")
slip("twofold/refining-not-normed", _REFINE, "block-missing", "bn-stats")
slip("twofold/hard-refining", _REFINE, "activation-kind")
slip("twofold/squeezed-not-bent", _FUSE, "activation-missing", "block-missing")
slip("twofold/fused-not-kept", _FUSE, "residual-missing", "block-missing wiring")
slip("twofold/raised-corner-to-corner", "raised interpolate* both cat*", "resize-align-corners")
slip("twofold/tail-forgotten", f"{_REFINE} tail raised interpolate*", "residual-missing block-missing", "wiring")
slip("twofold/far-before-near", "both cat* fuse", "concat-order", "operand-order wiring")
ways("twofold", "gate-and-one")
control("twofold/norms-in-the-kernels")(folded("spatial", "spatial_bn"))
control("twofold/channels-last")(channels_last)
one_layer("twofold", "largest-for-refining+hard-refining", "squeezed-not-bent+fused-not-kept")
neighbours("twofold", "raised-corner-to-corner+far-before-near", "refining-not-normed+tail-forgotten")


# --- boxes --------------------------------------------------------------------------------------------------


class Darknet(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        for name, given, wide, size in (("stem", 3, 4, 3), ("down1", 4, 8, 3), ("small", 8, 4, 1), ("large", 4, 8, 3),
                                        ("down2", 8, 8, 3), ("route", 8, 4, 1)):  # fmt: skip
            step = 2 if name.startswith("down") else 1
            padding = size // 2 if step == 1 else 0
            self.add_module(name, nn.Conv2d(given, wide, size, step, padding, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(wide, eps=1e-3))
        self.coarse, self.fine = nn.Conv2d(8, 14, 1), nn.Conv2d(12, 14, 1)

    def unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        conv = self.get_submodule(name)
        if conv.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1) if "padded-behind" in self.ways else (1, 0, 1, 0))
        x = self.get_submodule(f"{name}_bn")(conv(x))
        if "slope-by-maximum" in self.ways:
            return torch.maximum(x, 0.1 * x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.1)

    def boxes(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.shape[0]
        if "boxes-as-they-lie" in self.ways:
            x = x.reshape(wide, -1, 7)
        elif "anchors-split-first" in self.ways:
            x = x.unflatten(1, (2, 7)).permute(0, 3, 4, 1, 2).reshape(wide, -1, 7)
        else:
            x = x.permute(0, 2, 3, 1).reshape(wide, -1, 7)
        middle = x[..., :2] if "middles-not-squashed" in self.ways else torch.sigmoid(x[..., :2])
        size = F.softplus(x[..., 2:4]) if "sizes-by-softplus" in self.ways else torch.exp(x[..., 2:4])
        return torch.cat([middle, size, torch.sigmoid(x[..., 4:])], dim=2)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = picture / 127.5 - 1 if "bytes-around-zero" in self.ways else picture / 255
        x = self.unit("down1", self.unit("stem", x))
        y = self.unit("large", self.unit("small", x))
        skip = y if "shortcut-forgotten" in self.ways else x + y
        x = self.unit("down2", skip)
        mode = "bilinear" if "raised-by-lines" in self.ways else "nearest"
        y = F.interpolate(self.unit("route", x), scale_factor=2, mode=mode)
        y = torch.cat([skip, y] if "skip-first" in self.ways else [y, skip], dim=1)
        return torch.cat([self.boxes(self.coarse(x)), self.boxes(self.fine(y))], dim=1)


@network
def darknet() -> Pair:
    """YOLOv3 of two maps: zeros ahead where it is halved, a shortcut, a route to a finer map, rows of boxes."""
    keras.backend.clear_session()
    picture = layers.Input((8, 8, 3), name="picture")

    def unit(x: keras.KerasTensor, name: str, wide: int, size: int, step: int = 1) -> keras.KerasTensor:
        if step == 2:
            x = layers.ZeroPadding2D(((1, 0), (1, 0)), name=f"{name}_pad")(x)
        padding = "same" if step == 1 else "valid"
        x = layers.Conv2D(wide, size, step, padding=padding, use_bias=False, name=name)(x)
        return layers.LeakyReLU(0.1, name=f"{name}_leaky")(layers.BatchNormalization(name=f"{name}_bn")(x))

    def boxes(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.Conv2D(14, 1, name=name)(x)
        x = layers.Reshape((-1, 7), name=f"{name}_rows")(x)
        return ops.concatenate([ops.sigmoid(x[..., :2]), ops.exp(x[..., 2:4]), ops.sigmoid(x[..., 4:])], axis=2)

    x = layers.Rescaling(1 / 255, name="shares")(picture)
    x = unit(unit(x, "stem", 4, 3), "down1", 8, 3, 2)
    skip = layers.Add(name="shortcut")([x, unit(unit(x, "small", 4, 1), "large", 8, 3)])
    x = unit(skip, "down2", 8, 3, 2)
    y = layers.UpSampling2D(2, name="raised")(unit(x, "route", 4, 1))
    y = layers.Concatenate(name="both")([y, skip])
    model = keras.Model(picture, layers.Concatenate(axis=1, name="all")([boxes(x, "coarse"), boxes(y, "fine")]))
    fill(model)
    grown(model, 0.5, "coarse", "fine")
    grown(model, 3, "stem")
    return Pair(model, counted(1702, 256, 2, 8, 8, 3).astype("float32"), ported(model, Darknet), "NHWC->NCHW")


_ROWS = "coarse* fine* permute* reshape* get_item* getitem* slice* sigmoid* exp* softplus* concatenate* cat* all"
slip("darknet/padded-behind", "down? down?_pad pad*", "pad-asymmetry shift")
slip("darknet/slope-of-torch", "*_leaky leaky_relu*", "activation-param", "activation-kind")
slip("darknet/boxes-as-they-lie", _ROWS, "reshape-order", "wiring block-missing")
slip("darknet/middles-not-squashed", _ROWS, "activation-missing", "block-missing logits")
slip("darknet/sizes-by-softplus", _ROWS, "activation-kind")
slip("darknet/bytes-around-zero", "picture shares div* truediv* sub* stem", "input-normalisation",
     "input-scale block-extra")  # fmt: skip
slip("darknet/shortcut-forgotten", "shortcut add* large* down2*", "residual-missing", "block-missing wiring")
slip("darknet/raised-by-lines", "raised interpolate* both cat*", "resize-mode", "operation-kind")
slip("darknet/skip-first", "both cat* fine", "concat-order", "operand-order wiring")
defect("darknet/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("darknet", "slope-by-maximum", "anchors-split-first")
control("darknet/norm-in-the-kernel")(folded("large", "large_bn"))
one_layer("darknet", "boxes-as-they-lie+middles-not-squashed", "padded-behind+slope-of-torch")
neighbours("darknet", "raised-by-lines+skip-first", "shortcut-forgotten+bn-eps-of-torch")


# --- scales -----------------------------------------------------------------------------------------------


class Scales(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.enter_bn = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.down, self.down_bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.up, self.up_bn = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        for i in (1, 2, 3):
            self.add_module(f"part{i}", nn.Conv2d(2, 2, 3, padding=1, bias=False))
            self.add_module(f"part{i}_bn", nn.BatchNorm2d(2, eps=1e-3))
        self.kinds = nn.Linear(8, 4)

    def unit(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)))

    def parts(self, x: torch.Tensor) -> list[torch.Tensor]:
        given = [x[:, i::4] for i in range(4)] if "every-fourth-channel" in self.ways else x.split(2, dim=1)
        found = [given[0]]
        for i in (1, 2, 3):
            alone = i == 1 or "parts-alone" in self.ways
            found.append(self.unit(f"part{i}", given[i] if alone else given[i] + found[-1]))
        return found[1:] + found[:1] if "first-part-last" in self.ways else found

    def block(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.parts(self.unit("down", x))
        if "added-part-by-part" in self.ways:
            weights = self.up.weight.split(2, dim=1)
            y = sum(F.conv2d(part, weight) for part, weight in zip(parts, weights, strict=True))
        else:
            y = self.up(torch.cat(parts, dim=1))
        y = self.up_bn(y)
        y = F.relu(y) if "up-bent" in self.ways else y
        if "bent-before-the-sum" in self.ways:
            return x + F.relu(y)
        return x + y if "sum-not-bent" in self.ways else F.relu(x + y)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.enter_bn(self.enter(picture))
        if "pool-padded-evenly" in self.ways:
            x = F.max_pool2d(x, 3, 2, padding=1)
        else:
            x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)
        x = self.block(F.leaky_relu(x, 0.2)).mean((2, 3))
        x = self.kinds(x)
        return F.log_softmax(x, dim=1) if "logarithms-told" in self.ways else F.softmax(x, dim=1)


@network
def scales() -> Pair:
    """Res2Net's block: channels in four parts, each but the first beside what the one before has found; a shortcut."""
    keras.backend.clear_session()
    picture = layers.Input((10, 10, 3), name="picture")

    def unit(x: keras.KerasTensor, name: str, wide: int, size: int, bent: bool = True) -> keras.KerasTensor:
        x = layers.Conv2D(wide, size, padding="same", use_bias=False, name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.ReLU(name=f"{name}_relu")(x) if bent else x

    x = layers.MaxPooling2D(3, 2, padding="same", name="pool")(unit(picture, "enter", 8, 3, bent=False))
    x = layers.LeakyReLU(0.2, name="leaky")(x)
    given = ops.split(unit(x, "down", 8, 1), 4, axis=3)
    found = [given[0]]
    for i in (1, 2, 3):
        y = given[i] if i == 1 else layers.Add(name=f"beside{i}")([given[i], found[-1]])
        found.append(unit(y, f"part{i}", 2, 3))
    y = unit(layers.Concatenate(name="mixed")(found), "up", 8, 1, bent=False)
    x = layers.ReLU(name="bend")(layers.Add(name="sum")([x, y]))
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(picture, layers.Dense(4, activation="softmax", name="kinds")(x))
    fill(model)
    grown(model, 2, "kinds")
    return Pair(model, fed(1703, 3, 10, 10, 3), ported(model, Scales), "NHWC->NCHW")


_SUM = "up up_bn sum bend add* relu* mean"
slip("scales/every-fourth-channel", "split* slice* get_item* getitem* part? beside? mixed cat*", "channel-order wiring",
     "reshape-order axis-permutation")  # fmt: skip
slip("scales/parts-alone", "beside? add* part?", "residual-missing", "wiring block-missing")
slip("scales/first-part-last", "mixed cat* up", "concat-order", "operand-order wiring")
slip("scales/up-bent", _SUM, "activation-extra", "block-extra")
slip("scales/sum-not-bent", _SUM, "activation-missing", "block-missing")
slip("scales/bent-before-the-sum", _SUM, "residual-order", "wiring operand-order activation-extra activation-missing")
slip("scales/pool-padded-evenly", "pool max_pool2d* pad* leaky leaky_relu*", "pad-asymmetry shift")
slip("scales/logarithms-told", "kinds softmax* log_softmax*", "logits", "activation-kind operation-kind block-extra")
defect("scales/kernels-exchanged", "part2 part3", "weights-swapped", "weights-perturbed wiring")(
    exchanged("part2", "part3")
)
defect("scales/statistics-not-loaded", "down_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    set_to("down_bn", running_mean=torch.zeros(8), running_var=torch.ones(8))
)
ways("scales", "added-part-by-part")
control("scales/norms-in-the-kernels")(folded("part2", "part2_bn"))
one_layer("scales", "every-fourth-channel+first-part-last")
neighbours("scales", "parts-alone+up-bent", "sum-not-bent+logarithms-told")
