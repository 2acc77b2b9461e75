"""Pictures: a residual network that weighs its channels, and one of branches beside one another."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fifth.padded import SameConv2d
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class Gate(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, width // 2), nn.Linear(width // 2, width)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.squeeze(x))

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.excite(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.hidden(self.pool(x)))[:, :, None, None]


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = SameConv2d(inner, outer, 3, stride=stride, bias=False), _norm(outer)
        self.conv2, self.bn2 = SameConv2d(outer, outer, 3, bias=False), _norm(outer)
        self.se = Gate(outer)
        self.short: nn.Module = nn.Identity()
        if stride == 2:
            self.short = nn.Sequential(nn.Conv2d(inner, outer, 1, stride=2, bias=False), _norm(outer))

    def main(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def join(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.se(y) + x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.join(self.main(x), self.short(x))


class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_bn = SameConv2d(3, 8, 3, stride=2, bias=False), _norm(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.block1, self.block2, self.head = Block(8, 8, 1), Block(8, 12, 2), nn.Linear(12, 5)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x / 127.5 - 1

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x, dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.stem_bn(self.stem(self.prepare(image)))))
        x = self.block2(self.block1(x)).mean((2, 3))
        return self.result(self.head(x))


def _block(x: Any, width: int, stride: int, name: str) -> Any:
    y = layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False, name=f"{name}_conv1")(x)
    y = layers.ReLU(name=f"{name}_relu1")(layers.BatchNormalization(name=f"{name}_bn1")(y))
    y = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_conv2")(y)
    y = layers.BatchNormalization(name=f"{name}_bn2")(y)
    gate = layers.GlobalAveragePooling2D(name=f"{name}_pool")(y)
    gate = layers.Dense(width // 2, activation="relu", name=f"{name}_squeeze")(gate)
    gate = layers.Dense(width, activation="sigmoid", name=f"{name}_excite")(gate)
    y = layers.Multiply(name=f"{name}_times")([y, layers.Reshape((1, 1, width), name=f"{name}_gate")(gate)])
    if stride == 2:
        x = layers.Conv2D(width, 1, strides=2, use_bias=False, name=f"{name}_short")(x)
        x = layers.BatchNormalization(name=f"{name}_short_bn")(x)
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([y, x]))


@network
def excite() -> Pair:
    """A residual network with squeeze and excitation: bytes in, probabilities out."""
    keras.backend.clear_session()
    image = layers.Input((18, 14, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_bn")(x))
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="pool")(x)
    x = _block(_block(x, 8, 1, "block1"), 12, 2, "block2")
    x = layers.GlobalAveragePooling2D(name="mean")(x)
    model = keras.Model(image, layers.Dense(5, activation="softmax", name="head")(x))
    fill(model)
    for name in ("block1_bn1", "block2_bn2"):
        model.get_layer(name).moving_variance.assign(model.get_layer(name).moving_variance * 0.04)
    inputs = np.random.default_rng(41).integers(0, 256, (3, 18, 14, 3)).astype(np.float32)

    def rename(name: str) -> str:
        for old, new in (("_short_bn", ".short.1"), ("_short", ".short.0"), ("_squeeze", ".se.squeeze"),
                         ("_excite", ".se.excite"), ("1_", "1."), ("2_", "2.")):  # fmt: skip
            name = name.replace(old, new)
        return name

    return Pair(model, inputs, lambda: carry(model, Excite(), rename), "NHWC->NCHW")


@defect("excite/stem-padded-both", "stem", "pad-asymmetry")
def _(port: Any) -> None:
    """padding=1 where SAME pads the end alone: the commonest finding of those who port (spleeter-pytorch#2)."""
    port.stem.around = lambda x: [1, 1, 1, 1]


@defect("excite/bytes-to-one", "rescaling div sub stem", "input-normalisation input-scale", "weights-perturbed")
def _(port: Any) -> None:
    """ToTensor's range where the network knows -1 to 1."""
    port.prepare = lambda x: x / 255


@defect("excite/blue-first", "rescaling div stem flip image", "channel-order", "weights-swapped kernel-layout")
def _(port: Any) -> None:
    """Read with OpenCV."""
    prepare = port.prepare
    port.prepare = lambda x: prepare(x.flip(1))


@defect("excite/norm-eps-default", "block?_bn? block2_short_bn stem_bn block?.bn? block2.short.1", "bn-eps")
def _(port: Any) -> None:
    """1e-5 where Keras has 1e-3 (devgem: identical weights, different outputs)."""
    for module in port.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5


@defect("excite/statistics-left", "block1_bn1 block1.bn1", "bn-stats", "weights-not-loaded weights-perturbed")
def _(port: Any) -> None:
    """parameters() was copied, not buffers()."""
    port.block1.bn1.reset_running_stats()


@defect("excite/shortcut-norm-for-main", "block2_bn2 block2_short_bn block2.bn2 block2.short.1", "weights-swapped",
        "bn-stats weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """get_weights() comes in the order of the layers, which is not that of the module."""
    one, two = port.block2.bn2, port.block2.short[1]
    port.block2.bn2, port.block2.short[1] = two, one


@defect("excite/stride-on-second", "block2_conv1 block2_conv2 block2.conv1 block2.conv2", "stride-position",
        "pad-asymmetry shift")  # fmt: skip
def _(port: Any) -> None:
    port.block2.conv1.stride, port.block2.conv2.stride = (1, 1), (2, 2)


@defect("excite/squeezed-by-largest", "block1_pool block1.se.mean block1.se.amax block1_squeeze block1.se.squeeze",
        "pool-kind")  # fmt: skip
def _(port: Any) -> None:
    port.block1.se.pool = lambda x: x.amax((2, 3))


@defect("excite/gate-hard", "block?_excite block?.se.excite block?.se.sigmoid block?.se.hardsigmoid block?_times",
        "activation-kind")  # fmt: skip
def _(port: Any) -> None:
    """As MobileNetV3 has its gates."""
    for block in (port.block1, port.block2):
        block.se.gate = lambda x, se=block.se: F.hardsigmoid(se.excite(x))


@defect("excite/squeeze-linear", "block2_squeeze block2.se.squeeze block2.se.relu block2_excite block2.se.excite",
        "activation-missing", "block-missing")  # fmt: skip
def _(port: Any) -> None:
    """Two linear layers in a row, as UGATIT-pytorch#11 had them."""
    port.block2.se.hidden = lambda x: port.block2.se.squeeze(x)


@defect("excite/gate-after-sum", "block1_times block1_add block1_relu2 block1.se block1.add block1.relu_1",
        "residual-order wiring", "operand-order operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.block1.join = lambda y, x: F.relu(port.block1.se(y + x))


@defect("excite/shortcut-lost", "block1_add block1.add block1.relu_1 block1_relu2", "residual-missing",
        "block-missing wiring")  # fmt: skip
def _(port: Any) -> None:
    port.block1.join = lambda y, x: F.relu(port.block1.se(y))


@defect("excite/scores-alone", "head softmax", "logits activation-missing", "block-missing")
def _(port: Any) -> None:
    """CrossEntropyLoss takes scores."""
    port.result = lambda x: x


@control("excite/gate-of-convolutions")
def _(port: Any) -> None:
    """1x1 convolutions in place of the dense layers, as torchvision has them."""
    for block in (port.block1, port.block2):
        for name in ("squeeze", "excite"):
            dense = getattr(block.se, name)
            conv = nn.Conv2d(dense.in_features, dense.out_features, 1)
            conv.weight.data, conv.bias.data = dense.weight.data[:, :, None, None], dense.bias.data
            setattr(block.se, name, conv)
        block.se.pool = lambda x: F.adaptive_avg_pool2d(x, 1)
        block.se.forward = lambda x, se=block.se: se.gate(se.hidden(se.pool(x))) * x


@control("excite/stem-folded")
def _(port: Any) -> None:
    """The first norm in the first convolution's weights."""
    port.stem = nn.utils.fusion.fuse_conv_bn_eval(port.stem, port.stem_bn)
    port.stem_bn = nn.Identity()


one_layer("excite", "bytes-to-one+blue-first", "statistics-left+norm-eps-default")
neighbours("excite", "stem-padded-both+norm-eps-default", "shortcut-lost+squeezed-by-largest",
           "squeeze-linear+gate-hard")  # fmt: skip


# --- branches -----------------------------------------------------------------------------------------------


class Point(nn.Module):
    """A convolution, its norm and a rectifier."""

    def __init__(self, inner: int, outer: int, size: int | tuple[int, int], **own: Any) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(inner, outer, size, bias=False, **own), _norm(outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = Point(3, 8, 3)
        self.one = Point(8, 4, 1)
        self.five1, self.five2 = Point(8, 4, 1), Point(4, 6, 5, padding=2)
        self.tall1, self.tall2, self.tall3 = (
            Point(8, 6, 1),
            Point(6, 6, (1, 5), padding=(0, 2)),
            Point(6, 6, (5, 1), padding=(2, 0)),
        )
        self.around, self.pooled = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False), Point(8, 4, 1)
        self.reduce1, self.reduce2 = Point(20, 6, 3, stride=2), nn.MaxPool2d(3, stride=2)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(26, 4)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def tall(self, x: torch.Tensor) -> torch.Tensor:
        return self.tall3(self.tall2(self.tall1(x)))

    def mixed(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.five2(self.five1(x)), self.tall(x), self.pooled(self.around(x))], 1)

    def reduced(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.reduce1(x), self.reduce2(x)], 1)

    def read(self, x: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.reduced(self.mixed(self.stem(self.prepare(image))))
        return self.head(self.drop(self.read(x)))


def _point(x: Any, width: int, size: Any, name: str, stride: int = 1, padding: str = "same") -> Any:
    x = layers.Conv2D(width, size, strides=stride, padding=padding, use_bias=False, name=f"{name}_conv")(x)
    return layers.Activation("relu", name=f"{name}_relu")(layers.BatchNormalization(name=f"{name}_bn")(x))


@network
def inception() -> Pair:
    """Four branches beside one another, then a stride and a pool beside one another."""
    keras.backend.clear_session()
    image = layers.Input((15, 13, 3), name="image")
    x = _point(image, 8, 3, "stem", padding="valid")
    tall = _point(_point(_point(x, 6, 1, "tall1"), 6, (1, 5), "tall2"), 6, (5, 1), "tall3")
    pooled = _point(layers.AveragePooling2D(3, strides=1, padding="same", name="around")(x), 4, 1, "pooled")
    five = _point(_point(x, 4, 1, "five1"), 6, 5, "five2")
    x = layers.Concatenate(name="mixed")([_point(x, 4, 1, "one"), five, tall, pooled])
    small = _point(x, 6, 3, "reduce1", stride=2, padding="valid")
    x = layers.Concatenate(name="reduced")([small, layers.MaxPooling2D(3, strides=2, name="reduce2")(x)])
    x = layers.Dropout(0.3, name="drop")(layers.GlobalAveragePooling2D(name="mean")(x))
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    fill(model)
    for name in ("five2_bn", "tall3_bn"):
        model.get_layer(name).moving_variance.assign(model.get_layer(name).moving_variance * 0.04)
    inputs = np.random.default_rng(42).standard_normal((2, 15, 13, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Inception(), lambda name: name.replace("_", ".")), "NHWC->NCHW")


@defect("inception/zeros-counted", "around", "pool-count-include-pad", "pad-mode pool-kind")
def _(port: Any) -> None:
    """The corners are divided by 9 rather than 4 (MMdnn#628)."""
    port.around.count_include_pad = True


@defect("inception/pool-branch-of-largest", "around", "pool-kind")
def _(port: Any) -> None:
    port.around = nn.MaxPool2d(3, stride=1, padding=1)


@defect("inception/pool-branch-first", "mixed cat reduce1 reduce1_conv reduce2", "concat-order", "operand-order")
def _(port: Any) -> None:
    def mixed(x: torch.Tensor) -> torch.Tensor:
        found = [port.pooled(port.around(x)), port.one(x), port.five2(port.five1(x)), port.tall(x)]
        return torch.cat(found, 1)

    port.mixed = mixed


@defect("inception/pool-before-stride", "reduced cat_1 adaptive_avg_pool2d mean flatten head", "concat-order",
        "operand-order")  # fmt: skip
def _(port: Any) -> None:
    """The stem block of keras.applications lists them the other way."""
    port.reduced = lambda x: torch.cat([port.reduce2(x), port.reduce1(x)], 1)


@defect("inception/kernels-on-their-side", "tall2_conv tall3_conv tall2.conv tall3.conv", "kernel-layout",
        "weights-swapped weights-perturbed axis-permutation")  # fmt: skip
def _(port: Any) -> None:
    """(W, H, in, out) was read, so 1x5 became 5x1."""
    for point, pad in ((port.tall2, (2, 0)), (port.tall3, (0, 2))):
        point.conv.weight.data = point.conv.weight.data.transpose(2, 3).contiguous()
        point.conv.kernel_size, point.conv.padding = point.conv.kernel_size[::-1], pad


@defect(
    "inception/third-step-forgotten", "tall3 tall3_conv tall3_bn tall3_relu mixed cat", "block-missing layer-missing"
)
def _(port: Any) -> None:
    port.tall = lambda x: port.tall2(port.tall1(x))


@defect("inception/branch-not-rectified", "five2_relu five2.relu five2_bn five2.bn mixed cat", "activation-missing",
        "block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.five2.forward = lambda x: port.five2.bn(port.five2.conv(x))


@defect("inception/norm-behind-rectifier", "five1_bn five1_relu five1.bn five1.relu five1", "residual-order wiring "
        "activation-missing activation-extra", "block-missing block-extra operation-kind")  # fmt: skip
def _(port: Any) -> None:
    """A helper of another repository: convolution, rectifier, norm."""
    port.five1.forward = lambda x: port.five1.bn(F.relu(port.five1.conv(x)))


@defect(
    "inception/input-transformed", "stem.conv stem_conv mul* add* sub* div* image", "input-normalisation input-scale"
)
def _(port: Any) -> None:
    """transform_input=True of torchvision, of a picture that is in Keras' range already."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    port.prepare = lambda x: x * (std / 0.5) + (mean - 0.5) / 0.5


@defect("inception/dropping-always", "drop dropout head", "dropout-mode", "scale block-extra")
def _(port: Any) -> None:
    """F.dropout without self.training."""
    port.drop.forward = lambda x: F.dropout(x, 0.3)


@defect("inception/norm-eps-default", "five2_bn tall3_bn *_bn *.bn", "bn-eps")
def _(port: Any) -> None:
    for module in port.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-5


@defect("inception/largest-for-mean", "mean adaptive_avg_pool2d adaptive_max_pool2d flatten head", "pool-kind")
def _(port: Any) -> None:
    """pooling="max" was meant for another model."""
    port.read = lambda x: F.adaptive_max_pool2d(x, 1).flatten(1)


@control("inception/padded-by-name")
def _(port: Any) -> None:
    """padding="same", the mean from sums and counts, a norm in a functional call."""
    for point in (port.five2, port.tall2, port.tall3):
        point.conv.padding = "same"
    port.around.divisor_override = 1
    summed = port.around.forward
    port.around.forward = lambda x: summed(x) / summed(torch.ones_like(x[:1, :1]))
    bn = port.one.bn
    port.one.forward = lambda x: F.relu(
        F.batch_norm(port.one.conv(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    )


@control("inception/first-steps-at-once")
def _(port: Any) -> None:
    """The 1x1 convolutions on the same input as one, their norms folded."""
    firsts = [nn.utils.fusion.fuse_conv_bn_eval(p.conv, p.bn) for p in (port.one, port.five1, port.tall1)]
    port.firsts = nn.Conv2d(8, 14, 1)
    port.firsts.weight.data = torch.cat([conv.weight.data for conv in firsts])
    port.firsts.bias.data = torch.cat([conv.bias.data for conv in firsts])  # type: ignore[union-attr]

    def mixed(x: torch.Tensor) -> torch.Tensor:
        one, five, tall = F.relu(port.firsts(x)).split((4, 4, 6), dim=1)
        return torch.cat([one, port.five2(five), port.tall3(port.tall2(tall)), port.pooled(port.around(x))], 1)

    port.mixed = mixed


one_layer("inception", "norm-behind-rectifier+norm-eps-default")
neighbours("inception", "zeros-counted+pool-branch-first", "branch-not-rectified+pool-branch-first")
