"""A picture made sharper: halved in a bottleneck and drawn larger by its channels."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten


class Sharper(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        later = "stride-in-the-middle" in ways
        self.narrow, self.bn1 = nn.Conv2d(3, 4, 1, stride=1 if later else 2, bias=False), nn.BatchNorm2d(4, eps=1e-3)
        self.square = nn.Conv2d(4, 4, 3, stride=2 if later else 1, padding=1, groups=2, bias=False)
        self.bn2, self.wide, self.bn3 = nn.BatchNorm2d(4, eps=1e-3), nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8, eps=1e-3)
        self.short, self.short_bn = nn.Conv2d(3, 8, 1, stride=2), nn.BatchNorm2d(8, eps=1e-3)
        self.small, self.grow = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)

    def halved(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn2(self.square(F.relu(self.bn1(self.narrow(x))))))
        y = self.bn3(self.wide(y))
        y = F.relu(y) if "last-rectified-as-well" in self.ways else y
        return F.relu(y + self.short_bn(self.short(x)))

    def thumbnail(self, x: torch.Tensor) -> torch.Tensor:
        if "thumbnail-by-the-nearest" in self.ways:
            return F.interpolate(x, (8, 8), mode="nearest")
        smooth = "thumbnail-not-smoothed" not in self.ways
        if "thumbnail-in-rows-and-columns" in self.ways:
            x = F.interpolate(x, (8, x.shape[3]), mode="bilinear", antialias=True)
        return F.interpolate(x, (8, 8), mode="bilinear", antialias=smooth)

    def grown(self, x: torch.Tensor) -> torch.Tensor:
        if "channels-of-torch" in self.ways:
            return F.pixel_shuffle(x, 2)
        if "grown-by-hand" in self.ways:
            x = x.unflatten(1, (2, 2, 3)).permute(0, 3, 4, 1, 5, 2)
            return x.flatten(4, 5).flatten(2, 3)
        return F.pixel_shuffle(x.unflatten(1, (4, 3)).transpose(1, 2).flatten(1, 2), 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = F.avg_pool2d(image, 3, 1, padding=1, count_include_pad="zeros-counted" in self.ways)
        small = self.small(self.thumbnail(x))
        y = self.halved(x)
        y = y * small if "thumbnail-multiplied" in self.ways else y + small
        y = self.grown(self.grow(F.relu(y)))
        return torch.tanh(y) if "details-bounded" in self.ways else y


@network
def sharper() -> Pair:
    """A bottleneck whose first kernel has the stride, a smoothed thumbnail, and depth to space."""
    keras.backend.clear_session()
    image = layers.Input((16, 16, 3), name="image")
    x = layers.AveragePooling2D(3, 1, padding="same", name="smooth")(image)
    y = layers.Conv2D(4, 1, strides=2, use_bias=False, name="narrow")(x)
    y = layers.ReLU(name="relu1")(layers.BatchNormalization(name="bn1")(y))
    y = layers.Conv2D(4, 3, padding="same", groups=2, use_bias=False, name="square")(y)
    y = layers.ReLU(name="relu2")(layers.BatchNormalization(name="bn2")(y))
    y = layers.BatchNormalization(name="bn3")(layers.Conv2D(8, 1, name="wide")(y))
    z = layers.BatchNormalization(name="short_bn")(layers.Conv2D(8, 1, strides=2, name="short")(x))
    y = layers.ReLU(name="relu3")(layers.Add(name="sum")([y, z]))
    small = ops.image.resize(x, (8, 8), interpolation="bilinear", antialias=True)
    y = layers.Add(name="both")([y, layers.Conv2D(8, 3, padding="same", name="small")(small)])
    y = layers.Conv2D(12, 3, padding="same", name="grow")(layers.ReLU(name="relu4")(y))
    y = ops.transpose(ops.reshape(y, (-1, 8, 8, 2, 2, 3)), (0, 1, 3, 2, 4, 5))
    model = keras.Model(image, layers.Reshape((16, 16, 3), name="grown")(y))
    fill(model)
    return Pair(model, fed(151, 3, 16, 16, 3), ported(model, Sharper), "NHWC->NCHW")


_GROWN = "grow reshape* transpose* unflatten* flatten* grown pixel_shuffle* permute*"
_BLOCK = "narrow bn1 relu* square bn2"
slip("sharper/zeros-counted", "smooth avg_pool2d", "pool-count-include-pad", "pad-mode")
slip("sharper/stride-in-the-middle", _BLOCK, "stride-position", "shift pad-asymmetry")
slip("sharper/last-rectified-as-well", "bn3 sum add relu* relu3", "activation-extra residual-order", "block-extra")
slip("sharper/thumbnail-not-smoothed", "resize* interpolate small", "resize-antialias", "resize-mode")
slip("sharper/thumbnail-by-the-nearest", "resize* interpolate small", "resize-mode", "resize-antialias operation-kind")
slip("sharper/thumbnail-multiplied", "both add_1 mul* relu4 small", "operation-kind", "residual-missing")
slip("sharper/channels-of-torch", _GROWN, "depth-to-space-order", "wiring")
slip("sharper/details-bounded", "tanh " + _GROWN, "activation-extra", "block-extra")
defect("sharper/groups-exchanged", "square", "weights-swapped kernel-layout groups channel-order", "weights-perturbed")(
    rewritten("square.weight", lambda weight: weight.roll(2, 0))
)
defect("sharper/point-unturned", "short", "kernel-layout", "weights-perturbed dense-transpose")(
    rewritten("short.weight", lambda weight: weight.reshape(3, 8, 1, 1).transpose(0, 1))
)
defect("sharper/norms-as-begun", "bn? short_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: [norm.reset_running_stats() for norm in (port.bn1, port.bn2, port.bn3, port.short_bn)] and None
)
defect("sharper/norm-eps-of-torch", "bn? short_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
ways("sharper", "grown-by-hand", "thumbnail-in-rows-and-columns")
one_layer("sharper", "channels-of-torch+details-bounded", "norms-as-begun+norm-eps-of-torch")
neighbours("sharper", "last-rectified-as-well+thumbnail-multiplied")
