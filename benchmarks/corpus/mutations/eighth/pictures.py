"""Networks for pictures: SqueezeNet, a selective kernel, PoolFormer, and a U-Net that never pads."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.eighth.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported, rewritten, set_to


class _Fire(Port):
    def __init__(self, ways: frozenset[str], inner: int) -> None:
        super().__init__(ways)
        self.squeeze, self.point, self.square = (
            nn.Conv2d(inner, 4, 1),
            nn.Conv2d(4, 6, 1),
            nn.Conv2d(4, 6, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "squeezed-by-name" in self.ways:
            x = torch.einsum("bihw,oi->bohw", x, self.squeeze.weight[:, :, 0, 0]) + self.squeeze.bias[:, None, None]
        else:
            x = self.squeeze(x)
        x = x if "squeezed-left-linear" in self.ways else F.relu(x)
        if "expanded-at-once" in self.ways:
            kernel = torch.cat([F.pad(self.point.weight, (1, 1, 1, 1)), self.square.weight])
            return F.relu(F.conv2d(x, kernel, torch.cat([self.point.bias, self.square.bias]), padding=1))
        parts = [F.relu(self.point(x)), F.relu(self.square(x))]
        return torch.cat(parts[::-1] if "squares-first" in self.ways else parts, dim=1)


class Fire(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.stem, self.fire1, self.fire2 = nn.Conv2d(3, 8, 3, stride=2), _Fire(ways, 8), _Fire(ways, 12)
        self.scores = nn.Conv2d(12, 5, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(image))
        x = F.max_pool2d(x, 3, 2, padding=int("pool-padded" in self.ways), ceil_mode="pool-rounded-up" in self.ways)
        x = self.fire1(x)
        y = self.fire2(x)
        x = self.scores(y if "bypass-lost" in self.ways else x + y)
        x = x if "scores-not-rectified" in self.ways else F.relu(x)
        x = x.amax((2, 3)) if "largest-of-the-scores" in self.ways else x.mean((2, 3))
        return F.log_softmax(x, dim=1) if "logarithms-given" in self.ways else F.softmax(x, dim=1)


@network
def fire() -> Pair:
    """SqueezeNet with a bypass; its pool never reaches beyond the map."""
    keras.backend.clear_session()
    image = layers.Input((33, 33, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(image)
    x = layers.MaxPooling2D(3, 2, name="pool")(x)

    def squeezed(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
        x = layers.Conv2D(4, 1, activation="relu", name=f"{name}.squeeze")(x)
        point = layers.Conv2D(6, 1, activation="relu", name=f"{name}.point")(x)
        square = layers.Conv2D(6, 3, padding="same", activation="relu", name=f"{name}.square")(x)
        return layers.Concatenate(name=f"{name}.both")([point, square])

    x = squeezed(x, "fire1")
    x = layers.Add(name="bypass")([x, squeezed(x, "fire2")])
    x = layers.GlobalAveragePooling2D(name="mean")(layers.Conv2D(5, 1, activation="relu", name="scores")(x))
    model = keras.Model(image, layers.Softmax(name="softmax")(x))
    fill(model)
    return Pair(model, fed(801, 3, 33, 33, 3), ported(model, Fire), "NHWC->NCHW")


_FIRES = "fire1 fire1.* fire2 fire2.*"
slip("fire/pool-rounded-up", "pool max_pool2d fire1.squeeze", "pool-ceil-mode", "pad-mode")
slip("fire/pool-padded", "pool max_pool2d fire1.squeeze", "pad-mode", "pool-ceil-mode pad-asymmetry shift")
slip("fire/squeezed-left-linear", _FIRES, "activation-missing", "block-missing")
slip("fire/squares-first", _FIRES, "concat-order", "operand-order")
slip("fire/bypass-lost", "bypass add fire2 fire2.* scores", "residual-missing", "block-missing wiring")
slip("fire/scores-not-rectified", "scores relu* mean", "activation-missing", "block-missing")
slip("fire/largest-of-the-scores", "mean amax softmax", "pool-kind")
slip("fire/logarithms-given", "softmax log_softmax", "logits", "activation-kind operation-kind")
ways("fire", "squeezed-by-name", "expanded-at-once")
one_layer("fire", "scores-not-rectified+largest-of-the-scores", "squares-first+squeezed-left-linear")
neighbours("fire", "largest-of-the-scores+logarithms-given", "bypass-lost+scores-not-rectified")


# --- a kernel that is selected ------------------------------------------------------------------------------


class Selective(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.near = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
        self.far = nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.near_bn, self.far_bn = nn.BatchNorm2d(8, eps=1e-3), nn.BatchNorm2d(8, eps=1e-3)
        self.told, self.told_bn = nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5, eps=1e-3)
        self.share_near, self.share_far, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        near = F.relu(self.near_bn(self.near(image)))
        if "far-by-a-wide-kernel" in self.ways:
            wide = torch.zeros(8, 2, 5, 5)
            wide[:, :, ::2, ::2] = self.far.weight
            far = F.conv2d(image, wide, padding=2, groups=2)
        else:
            far = self.far(image)
        far = F.relu(self.far_bn(far))
        x = near if "told-by-the-near-alone" in self.ways else near + far
        x = self.told_bn(self.told(x.amax((2, 3)) if "told-by-the-largest" in self.ways else x.mean((2, 3))))
        x = x if "told-left-linear" in self.ways else F.relu(x)
        shares = torch.stack([self.share_near(x), self.share_far(x)], dim=1)
        if "shares-by-one-sigmoid" in self.ways:
            share = torch.sigmoid(shares[:, 0] - shares[:, 1])[:, :, None, None]
            x = share * near + (1 - share) * far
        else:
            independent = "shares-on-their-own" in self.ways
            axis = 2 if "shared-among-channels" in self.ways else 1
            shares = torch.sigmoid(shares) if independent else F.softmax(shares, dim=axis)
            x = (torch.stack([near, far], dim=1) * shares[..., None, None]).sum(1)
        return self.head(x.mean((2, 3)))


@network
def selective() -> Pair:
    """SKNet: a near and a far kernel, and for each channel what it takes of both."""
    keras.backend.clear_session()
    image = layers.Input((12, 10, 4), name="image")
    parts = []
    for name, dilation in (("near", 1), ("far", 2)):
        x = layers.Conv2D(8, 3, padding="same", dilation_rate=dilation, groups=2, use_bias=False, name=name)(image)
        parts.append(layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x)))
    x = layers.GlobalAveragePooling2D(name="mean")(layers.Add(name="both")(parts))
    x = layers.BatchNormalization(name="told_bn")(layers.Dense(5, use_bias=False, name="told")(x))
    x = layers.ReLU(name="told_relu")(x)
    shares = ops.stack([layers.Dense(8, name=f"share_{name}")(x) for name in ("near", "far")], axis=1)
    shares = ops.reshape(layers.Softmax(axis=1, name="shares")(shares), (-1, 2, 1, 1, 8))
    x = ops.sum(ops.stack(parts, axis=1) * shares, axis=1)
    model = keras.Model(image, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D(name="pool")(x)))
    fill(model)
    grown(model, 2, "told", "share_near", "share_far")
    return Pair(model, fed(802, 4, 12, 10, 4), ported(model, Selective), "NHWC->NCHW")


_SHARES = "share_* stack* shares softmax* sigmoid* multiply mul sum* reshape* get_item* slice*"
slip("selective/told-by-the-near-alone", "both add mean mean_? told", "residual-missing", "wiring block-missing")
slip("selective/told-by-the-largest", "mean mean_? amax told", "pool-kind")
slip("selective/told-left-linear", "told_bn told_relu relu* share_*", "activation-missing", "block-missing")
slip("selective/shares-on-their-own", _SHARES, "activation-kind", "operation-kind softmax-axis")
slip("selective/shared-among-channels", _SHARES, "softmax-axis", "operation-kind")
defect("selective/far-not-dilated", "far", "dilation", "pad-mode")(set_to("far", dilation=(1, 1), padding=(1, 1)))
defect("selective/shares-exchanged", "share_near share_far", "weights-swapped", "weights-perturbed wiring")(
    exchanged("share_near", "share_far")
)
defect("selective/norm-of-the-batch", "near_bn far_bn", "bn-mode", "bn-stats weights-not-loaded")(
    lambda port: [set_to(name, running_mean=None, running_var=None)(port) for name in ("near_bn", "far_bn")] and None
)
ways("selective", "far-by-a-wide-kernel", "shares-by-one-sigmoid")
one_layer("selective", "shares-on-their-own+shares-exchanged", "told-by-the-near-alone+told-by-the-largest")
neighbours("selective", "told-left-linear+shared-among-channels")


# --- no attention but a pool --------------------------------------------------------------------------------


class Pooled(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.embed, self.norm1, self.norm2 = nn.Conv2d(3, 8, 7, stride=4), nn.GroupNorm(1, 8), nn.GroupNorm(1, 8)
        self.share1, self.share2 = (nn.ParameterDict({"weight": torch.ones(8)}) for _ in range(2))
        self.wide, self.narrow = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 4)

    def normed(self, norm: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        if "normed-at-each-place" in self.ways:
            return F.layer_norm(x.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)
        if "normed-by-channel" in self.ways:
            return F.group_norm(x, 8, norm.weight, norm.bias, norm.eps)
        return norm(x)

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        if "pool-by-sums" in self.ways:
            ones = torch.ones(8, 1, 3, 3)
            return F.conv2d(x, ones, padding=1, groups=8) / F.conv2d(torch.ones_like(x), ones, padding=1, groups=8) - x
        y = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad="zeros-counted" in self.ways)
        return y if "middle-not-taken-off" in self.ways else y - x

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(F.pad(image, (1, 2, 1, 2) if "padded-as-keras-would" in self.ways else (2, 2, 2, 2)))
        x = x + self.share1["weight"][:, None, None] * self.mixed(self.normed(self.norm1, x))
        y = self.normed(self.norm2, x)
        gelu = "tanh" if "gelu-by-tanh" in self.ways else "none"
        if "points-as-dense" in self.ways:
            y = F.gelu(F.linear(y.permute(0, 2, 3, 1), self.wide.weight.flatten(1), self.wide.bias))
            y = F.linear(y, self.narrow.weight.flatten(1), self.narrow.bias).permute(0, 3, 1, 2)
        else:
            y = self.narrow(F.gelu(self.wide(y), approximate=gelu))
        x = x + self.share2["weight"][:, None, None] * y
        return self.head(x.mean((2, 3)))


class _Share(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.gamma = self.add_weight(name="gamma", shape=shape[-1:])

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return x * self.gamma


@network
def pooled() -> Pair:
    """PoolFormer: neighbours are mixed by a mean less the middle; each branch has learnt shares."""
    keras.backend.clear_session()
    image = layers.Input((28, 28, 3), name="image")
    x = layers.Conv2D(8, 7, strides=4, name="embed")(layers.ZeroPadding2D(2, name="pad")(image))
    y = layers.GroupNormalization(1, epsilon=1e-5, name="norm1")(x)
    y = layers.Subtract(name="less")([layers.AveragePooling2D(3, 1, padding="same", name="pool")(y), y])
    x = layers.Add(name="sum1")([x, _Share(name="share1")(y)])
    y = layers.GroupNormalization(1, epsilon=1e-5, name="norm2")(x)
    y = layers.Conv2D(8, 1, name="narrow")(layers.Conv2D(16, 1, activation="gelu", name="wide")(y))
    x = layers.Add(name="sum2")([x, _Share(name="share2")(y)])
    model = keras.Model(image, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="mean")(x)))
    fill(model)
    grown(model, 2, "wide", "narrow")
    grown(model, 0.5, "embed")
    return Pair(model, fed(803, 3, 28, 28, 3), ported(model, Pooled), "NHWC->NCHW")


_MIXED = "pool avg_pool2d less sub* subtract* share1 mul sum1"
slip("pooled/padded-as-keras-would", "pad embed", "pad-asymmetry", "shift pad-mode")
slip("pooled/normed-at-each-place", "norm? *_norm* permute*", "norm-axis", "operation-kind")
slip("pooled/normed-by-channel", "norm? *_norm*", "norm-axis groups", "operation-kind")
slip("pooled/zeros-counted", _MIXED, "pool-count-include-pad", "pad-mode")
slip("pooled/middle-not-taken-off", _MIXED, "residual-missing block-missing", "wiring")
slip("pooled/gelu-by-tanh", "wide gelu", "gelu-approx")
defect("pooled/shares-as-begun", "share1 share2 mul*", "weights-not-loaded", "weights-perturbed scale")(
    rewritten("share?.weight", lambda gamma: torch.full_like(gamma, 1e-5))
)
defect("pooled/norm-eps-of-keras", "norm?", "ln-eps", "bn-eps")(epsilon(1e-3, nn.GroupNorm))
ways("pooled", "pool-by-sums", "points-as-dense")
one_layer("pooled", "zeros-counted+middle-not-taken-off", "normed-by-channel+norm-eps-of-keras")
neighbours("pooled", "normed-at-each-place+gelu-by-tanh")


# --- a U-Net that never pads --------------------------------------------------------------------------------


class Valid(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.down, self.deep = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3)
        self.up, self.join, self.out = nn.ConvTranspose2d(6, 6, 2, stride=2), nn.Conv2d(12, 6, 3), nn.Conv2d(6, 2, 1)

    def raised(self, x: torch.Tensor) -> torch.Tensor:
        if "raised-by-shuffling" in self.ways:
            kernel = self.up.weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
            return F.pixel_shuffle(F.conv2d(x, kernel, self.up.bias.repeat_interleave(4)), 2)
        return self.up(x)

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        if "cut-by-padding" in self.ways:
            return F.pad(x, (-2, -3, -2, -3))
        if "made-smaller-for-the-cut" in self.ways:
            return F.interpolate(x, (12, 12), mode="bilinear")
        start = 3 if "cut-a-step-later" in self.ways else 0 if "cut-behind-alone" in self.ways else 2
        return x[:, :, start : start + 12, start : start + 12]

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.down(image))
        y = F.avg_pool2d(x, 2) if "means-pooled" in self.ways else F.max_pool2d(x, 2)
        y = F.relu(self.deep(y))
        y = self.raised(F.dropout(y, 0.5) if "dropout-left-on" in self.ways else y)
        parts = [self.cut(x), F.relu(y)]
        x = F.relu(self.join(torch.cat(parts[::-1] if "raised-first" in self.ways else parts, dim=1)))
        x = self.out(x)
        return torch.sigmoid(x) if "classes-on-their-own" in self.ways else F.softmax(x, dim=1)


@network
def valid() -> Pair:
    """A U-Net as it was first: no padding, so that what skips is cut to what comes up, by an odd number."""
    keras.backend.clear_session()
    image = layers.Input((19, 19, 1), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="down")(image)
    y = layers.Conv2D(6, 3, activation="relu", name="deep")(layers.MaxPooling2D(name="pool")(x))
    y = layers.Conv2DTranspose(6, 2, strides=2, activation="relu", name="up")(layers.Dropout(0.5, name="drop")(y))
    x = layers.Concatenate(name="both")([layers.Cropping2D(((2, 3), (2, 3)), name="cut")(x), y])
    x = layers.Conv2D(2, 1, name="out")(layers.Conv2D(6, 3, activation="relu", name="join")(x))
    model = keras.Model(image, layers.Softmax(name="softmax")(x))
    fill(model)
    grown(model, 2, "deep", "up")
    return Pair(model, fed(804, 3, 19, 19, 1), ported(model, Valid), "NHWC->NCHW")


_CUT = "cut slice* get_item* slice* interpolate* both cat join"
slip("valid/cut-a-step-later", _CUT, "shift pad-asymmetry", "wiring")
slip("valid/cut-behind-alone", _CUT, "shift pad-asymmetry", "wiring")
slip("valid/made-smaller-for-the-cut", _CUT, "resize-mode operation-kind", "shift")
slip("valid/raised-first", "both cat join", "concat-order", "operand-order")
slip("valid/means-pooled", "pool *_pool2d deep", "pool-kind")
slip("valid/dropout-left-on", "drop dropout deep relu_1 up", "dropout-mode", "block-extra")
slip("valid/classes-on-their-own", "softmax sigmoid out", "activation-kind", "operation-kind logits softmax-axis")
defect("valid/taps-of-the-raise-flipped", "up", "kernel-flip", "weights-perturbed kernel-layout")(
    rewritten("up.weight", lambda weight: weight.flip(2, 3))
)
defect("valid/raise-unturned", "up", "kernel-layout", "weights-perturbed dense-transpose")(
    rewritten("up.weight", lambda weight: weight.transpose(0, 1))
)
ways("valid", "raised-by-shuffling", "cut-by-padding")
one_layer("valid", "cut-a-step-later+raised-first", "raise-unturned+taps-of-the-raise-flipped")
neighbours("valid", "means-pooled+raise-unturned")
