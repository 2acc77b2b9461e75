"""Pictures: an EfficientNet, five points of a face, and a residual network whose norms come first."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import folded
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, fed, ported, rewritten, set_to
from benchmarks.corpus.mutations.twelfth.registry import (
    control,
    defect,
    left_on,
    neighbours,
    network,
    one_layer,
    slip,
    ways,
)

_MEANS, _VARIANCES = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Efficient(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.stem_bn = nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.expand, self.expand_bn = nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12, eps=1e-3)
        self.deep, self.deep_bn = nn.Conv2d(12, 12, 5, padding=2, groups=12, bias=False), nn.BatchNorm2d(12, eps=1e-3)
        self.squeeze, self.excite = nn.Conv2d(12, 3, 1), nn.Conv2d(3, 12, 1)
        self.project, self.project_bn = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, 5)

    def swish(self, x: torch.Tensor) -> torch.Tensor:
        if "swish-by-hand" in self.ways:
            return x * torch.sigmoid(x)
        return F.hardswish(x) if "hard-swish" in self.ways else F.silu(x)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        means, variances = torch.from_numpy(_MEANS)[:, None, None], torch.from_numpy(_VARIANCES)[:, None, None]
        x = x / 127.5 - 1 if "levelled-as-mobile-nets" in self.ways else x / 255
        if "levelled-as-mobile-nets" in self.ways:
            return x
        return (x - means) / (variances if "deviations-as-named" in self.ways else variances.sqrt())

    def excited(self, x: torch.Tensor) -> torch.Tensor:
        y = self.squeeze(F.adaptive_avg_pool2d(x, 1) if "pooled-by-torch" in self.ways else x.mean((2, 3), True))
        y = F.relu(y) if "squeezed-by-relu" in self.ways else self.swish(y)
        return x * torch.sigmoid(self.excite(y))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        around = (1, 1, 1, 1) if "stem-padded-evenly" in self.ways else (0, 1, 0, 1)
        x = self.swish(self.stem_bn(self.stem(F.pad(self.levelled(image), around))))
        y = self.swish(self.expand_bn(self.expand(x)))
        y = self.deep_bn(self.deep(y))
        y = self.excited(y) if "gate-before-the-bend" in self.ways else self.excited(self.swish(y))
        y = self.swish(y) if "gate-before-the-bend" in self.ways else y
        x = x + self.project_bn(self.project(y))
        return F.softmax(self.head(self.drop(x.mean((2, 3)))), dim=1)


@network
def efficient() -> Pair:
    """EfficientNet of one block: bytes levelled by what Keras takes for variances, swishes, a gate, a skip."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def normed(x: keras.KerasTensor, name: str, bent: bool = True) -> keras.KerasTensor:
        x = layers.BatchNormalization(name=f"{name}_bn")(x)
        return layers.Activation("swish", name=f"{name}_swish")(x) if bent else x

    x = layers.Rescaling(1 / 255, name="rescaling")(image)
    x = layers.Normalization(mean=_MEANS, variance=_VARIANCES, name="normalization")(x)
    x = normed(layers.Conv2D(6, 3, 2, padding="same", use_bias=False, name="stem")(x), "stem")
    y = normed(layers.Conv2D(12, 1, use_bias=False, name="expand")(x), "expand")
    y = normed(layers.DepthwiseConv2D(5, padding="same", use_bias=False, name="deep")(y), "deep")
    z = layers.Reshape((1, 1, 12), name="row")(layers.GlobalAveragePooling2D(name="pool")(y))
    z = layers.Conv2D(3, 1, activation="swish", name="squeeze")(z)
    y = layers.Multiply(name="gated")([y, layers.Conv2D(12, 1, activation="sigmoid", name="excite")(z)])
    y = normed(layers.Conv2D(6, 1, use_bias=False, name="project")(y), "project", False)
    x = layers.GlobalAveragePooling2D(name="mean_pool")(layers.Add(name="skip")([x, y]))
    x = layers.Dropout(0.2, name="drop")(x)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))
    fill(model)
    grown(model, 2, "excite", "head")
    return Pair(model, counted(1231, 256, 3, 12, 12, 3).astype("float32"), ported(model, Efficient), "NHWC->NCHW")


_LEVEL = "rescaling normalization sub* div* truediv* true_divide* sqrt* image stem pad*"
_GATE = "pool mean* row squeeze excite silu* relu* sigmoid* gated mul* swish* deep_swish *_swish"
slip("efficient/deviations-as-named", _LEVEL, "input-normalisation input-scale", "scale weights-perturbed")
slip("efficient/levelled-as-mobile-nets", _LEVEL, "input-normalisation input-scale", "scale block-missing")
slip("efficient/stem-padded-evenly", "stem pad*", "pad-asymmetry", "shift")
slip("efficient/hard-swish", "*_swish silu* hardswish* squeeze", "activation-kind", "operation-kind")
slip("efficient/squeezed-by-relu", _GATE, "activation-kind", "operation-kind")
slip("efficient/gate-before-the-bend", _GATE, "residual-order wiring",
     "operand-order activation-missing activation-extra block-missing block-extra")  # fmt: skip
defect("efficient/dropout-still-on", "drop", "dropout-mode")(left_on("drop"))
defect("efficient/bn-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("efficient", "swish-by-hand", "pooled-by-torch")
control("efficient/all-folded")(
    lambda port: [folded(name, f"{name}_bn")(port) for name in ("stem", "expand", "deep", "project")] and None
)
one_layer("efficient", "squeezed-by-relu+gate-before-the-bend")
neighbours("efficient", "deviations-as-named+stem-padded-evenly", "bn-eps-of-torch+stem-padded-evenly")


# --- a face -------------------------------------------------------------------------------------------------


class Landmarks(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.conv1, self.prelu1 = nn.Conv2d(3, 6, 3), nn.PReLU(6)
        self.conv2, self.prelu2 = nn.Conv2d(6, 8, 3), nn.PReLU(8)
        self.dense, self.prelu3 = nn.Linear(32, 8), nn.PReLU(8)
        self.face, self.box, self.points = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(8, 10)

    def bent(self, prelu: nn.PReLU, x: torch.Tensor) -> torch.Tensor:
        if "prelu-by-two-relus" in self.ways:
            slope = prelu.weight.reshape(-1, *[1] * (x.dim() - 2))
            return F.relu(x) - slope * F.relu(-x)
        return F.prelu(x, prelu.weight.mean()[None]) if "one-slope-for-all" in self.ways else prelu(x)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = image.flip(1) if "blue-before-red" in self.ways else image
        x = x / 127.5 - 1 if "levelled-by-half" in self.ways else (x - 127.5) / 128
        x = self.bent(self.prelu1, self.conv1(x))
        x = F.pad(x, (1, 1, 1, 1)) if "pooled-among-zeros" in self.ways else x
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)[:, :, :5, :5]
        x = F.max_pool2d(self.bent(self.prelu2, self.conv2(x)), 2, 2, ceil_mode=True)
        if "rows-first-as-in-matlab" in self.ways:
            x = x.permute(0, 3, 2, 1).flatten(1)
        else:
            x = x.flatten(1) if "flattened-as-it-lies" in self.ways else x.permute(0, 2, 3, 1).flatten(1)
        x = self.bent(self.prelu3, self.dense(x))
        face = F.softmax(self.face(x), dim=1)
        points = self.points(x)
        if "points-in-turn" in self.ways:
            points = points.unflatten(1, (2, 5)).transpose(1, 2).flatten(1)
        return face, self.box(x), points


@network
def landmarks() -> Pair:
    """MTCNN's last network: levelled bytes, a slope for each channel, pools that go beyond the edge, three answers."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def bent(x: keras.KerasTensor, i: int) -> keras.KerasTensor:
        return layers.PReLU(shared_axes=[1, 2] if i < 3 else None, name=f"prelu{i}")(x)

    x = bent(layers.Conv2D(6, 3, name="conv1")((image - 127.5) / 128.0), 1)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = layers.MaxPooling2D(2, 2, padding="same", name="pool2")(bent(layers.Conv2D(8, 3, name="conv2")(x), 2))
    x = bent(layers.Dense(8, name="dense")(layers.Flatten(name="flatten")(x)), 3)
    face = layers.Dense(2, activation="softmax", name="face")(x)
    model = keras.Model(image, [face, layers.Dense(4, name="box")(x), layers.Dense(10, name="points")(x)])
    fill(model)
    return Pair(model, counted(1232, 256, 3, 12, 12, 3).astype("float32"), ported(model, Landmarks), "NHWC->NCHW")


_BENT = "prelu? prelu#* relu* conv1 conv2 dense mul* sub*"
slip("landmarks/blue-before-red", "image sub* flip* conv1", "channel-order", "axis-permutation kernel-layout")
slip("landmarks/levelled-by-half", "image sub* div* truediv* true_divide* conv1", "input-scale input-normalisation")
slip("landmarks/one-slope-for-all", _BENT, "activation-param weights-perturbed")
slip("landmarks/pooled-among-zeros", "pool1 max_pool* pad* get_item*", "pad-asymmetry pad-mode", "shift")
slip("landmarks/flattened-as-it-lies", "flatten* permute* dense", "flatten-order dense-row-order", "wiring")
slip("landmarks/rows-first-as-in-matlab", "flatten* permute* dense", "flatten-order dense-row-order", "wiring")
slip("landmarks/points-in-turn", "points unflatten* transpose* flatten*",
     "reshape-order axis-permutation channel-order", "weights-perturbed")  # fmt: skip
defect("landmarks/rows-for-columns", "conv2", "kernel-layout", "weights-perturbed axis-permutation kernel-flip")(
    rewritten("conv2.weight", lambda weight: weight.transpose(2, 3))
)
ways("landmarks", "prelu-by-two-relus")


@control("landmarks/flattened-with-other-rows")
def _rows(port: Landmarks) -> Landmarks:
    dense = port.dense
    dense.weight = nn.Parameter(dense.weight.unflatten(1, (2, 2, 8)).permute(0, 3, 1, 2).flatten(1))
    port.ways = port.ways | {"flattened-as-it-lies"}
    return port


one_layer("landmarks", "flattened-as-it-lies+one-slope-for-all", "blue-before-red+levelled-by-half")
neighbours("landmarks", "rows-for-columns+flattened-as-it-lies", "pooled-among-zeros+rows-for-columns")


# --- norms that come first ----------------------------------------------------------------------------------


class Preact(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem = nn.Conv2d(3, 6, 5, stride=2)
        for i, step in ((1, 1), (2, 2)):
            self.add_module(f"pre_bn{i}", nn.BatchNorm2d(6 if i == 1 else 8, eps=1.001e-5))
            self.add_module(f"one{i}", nn.Conv2d(6 if i == 1 else 8, 4, 1, bias=False))
            self.add_module(f"one_bn{i}", nn.BatchNorm2d(4, eps=1.001e-5))
            self.add_module(f"two{i}", nn.Conv2d(4, 4, 3, stride=step, padding=1, bias=False))
            self.add_module(f"two_bn{i}", nn.BatchNorm2d(4, eps=1.001e-5))
            self.add_module(f"three{i}", nn.Conv2d(4, 8, 1))
        self.short, self.post_bn, self.head = nn.Conv2d(6, 8, 1), nn.BatchNorm2d(8, eps=1.001e-5), nn.Linear(8, 4)

    def block(self, i: int, x: torch.Tensor) -> torch.Tensor:
        pre, one, one_bn, two, two_bn, three = (
            self.get_submodule(f"{name}{i}") for name in ("pre_bn", "one", "one_bn", "two", "two_bn", "three")
        )
        y = pre(x)
        y = y if "pre-left-linear" in self.ways and i == 2 else F.relu(y)
        if i == 1:
            skip = self.short(x if "shortcut-before-the-norm" in self.ways else y)
        elif "skip-by-slices" in self.ways:
            skip = x[:, :, ::2, ::2]
        else:
            skip = F.max_pool2d(x, 1, 2)
        x_in, y = y, F.relu(one_bn(one(y)))
        if "padded-at-the-end" in self.ways and i == 2:
            y = F.conv2d(F.pad(y, (0, 1, 0, 1)), two.weight, stride=2)
        elif "stride-on-the-first" in self.ways and i == 2:
            y = F.conv2d(F.relu(one_bn(F.conv2d(x_in, one.weight, stride=2))), two.weight, padding=1)
        else:
            y = two(y)
        x = skip + three(F.relu(two_bn(y)))
        return F.relu(x) if "sum-rectified" in self.ways else x

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.stem(F.pad(image, (2, 2, 2, 2)))
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1), value=-torch.inf if "pooled-beyond" in self.ways else 0), 3, 1)
        x = self.post_bn(self.block(2, self.block(1, x)))
        return self.head(F.relu(x).mean((2, 3)))


@network
def preact() -> Pair:
    """ResNet50V2 as Keras has it: zeros put around by hand, one shortcut behind the norm and one that only strides."""
    keras.backend.clear_session()
    image = layers.Input((12, 12, 3), name="image")

    def normed(x: keras.KerasTensor, name: str, i: int | str = "") -> keras.KerasTensor:
        x = layers.BatchNormalization(epsilon=1.001e-5, name=f"{name}_bn{i}")(x)
        return layers.ReLU(name=f"{name}_relu{i}")(x)

    x = layers.Conv2D(6, 5, 2, name="stem")(layers.ZeroPadding2D(2, name="around")(image))
    x = layers.MaxPooling2D(3, 1, name="pool")(layers.ZeroPadding2D(1, name="pool_around")(x))
    for i, step in ((1, 1), (2, 2)):
        y = normed(x, "pre", i)
        skip = layers.Conv2D(8, 1, name="short")(y) if i == 1 else layers.MaxPooling2D(1, 2, name="thinned")(x)
        y = normed(layers.Conv2D(4, 1, use_bias=False, name=f"one{i}")(y), "one", i)
        y = layers.ZeroPadding2D(1, name=f"two_around{i}")(y)
        y = normed(layers.Conv2D(4, 3, step, use_bias=False, name=f"two{i}")(y), "two", i)
        x = layers.Add(name=f"sum{i}")([skip, layers.Conv2D(8, 1, name=f"three{i}")(y)])
    x = layers.GlobalAveragePooling2D(name="mean_pool")(normed(x, "post"))
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    return Pair(model, fed(1233, 3, 12, 12, 3), ported(model, Preact), "NHWC->NCHW")


slip("preact/pre-left-linear", "pre_bn2 pre_relu2 relu* one2", "activation-missing", "block-missing")
slip("preact/shortcut-before-the-norm", "short pre_bn1 relu* pre_relu1", "wiring residual-order",
     "operand-order block-missing activation-missing")  # fmt: skip
slip("preact/padded-at-the-end", "two2 two_around2 pad* conv2d*", "pad-asymmetry", "shift")
slip("preact/stride-on-the-first", "one2 two2 conv2d* two_around2 *_bn2 *relu*", "stride-position", "shift")
slip("preact/sum-rectified", "sum? add* relu* pre_bn2 post_bn", "activation-extra residual-order", "block-extra")
slip("preact/pooled-beyond", "pool pool_around pad* max_pool*", "pad-mode", "pool-kind")
defect("preact/gains-for-shifts", "one_bn1", "bn-stats", "weights-swapped weights-perturbed")(
    lambda port: set_to("one_bn1", weight=port.one_bn1.bias, bias=port.one_bn1.weight)(port)
)
defect("preact/bias-left-behind", "three1", "bias-missing", "weights-not-loaded")(set_to("three1", bias=None))
ways("preact", "skip-by-slices")
control("preact/inner-folded")(folded("one2", "one_bn2"))
one_layer("preact", "pre-left-linear+stride-on-the-first", "sum-rectified+bias-left-behind")
neighbours("preact", "padded-at-the-end+sum-rectified", "gains-for-shifts+shortcut-before-the-norm")
