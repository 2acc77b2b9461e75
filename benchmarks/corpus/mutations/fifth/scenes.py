"""What each pixel shows: dilated convolutions beside one another, and what was seen before the strides."""

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
from benchmarks.corpus.mutations.fifth.registry import control, defect, neighbours, network
from benchmarks.corpus.mutations.pairs import Pair


class Part(nn.Module):
    def __init__(self, inner: int, outer: int, size: int, eps: float, **own: Any) -> None:
        super().__init__()
        self.conv, self.bn = SameConv2d(inner, outer, size, bias=False, **own), nn.BatchNorm2d(outer, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


class Street(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entry, self.deep = Part(3, 6, 3, 1e-3, stride=2), Part(6, 8, 3, 1e-3, stride=2)
        self.point, self.near = Part(8, 5, 1, 1e-5), Part(8, 5, 3, 1e-5, dilation=2)
        self.far, self.whole = Part(8, 5, 3, 1e-5, dilation=3), Part(8, 5, 1, 1e-5)
        self.project, self.low = Part(20, 8, 1, 1e-5), Part(6, 4, 1, 1e-5)
        self.spread, self.mix = SameConv2d(12, 24, 3, groups=12, bias=False), Part(24, 8, 1, 1e-5)
        self.classes = nn.Conv2d(8, 4, 1)

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        return image

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """One vector for the whole picture."""
        return F.adaptive_avg_pool2d(x, 1)

    def context(self, x: torch.Tensor) -> torch.Tensor:
        whole = self.whole(self.seen(x)).expand(-1, -1, *x.shape[2:])
        return torch.cat([self.point(x), self.near(x), self.far(x), whole], dim=1)

    def enlarge(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def finest(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def join(self, x: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, low], dim=1)

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x, dim=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        early = self.entry(self.prepare(image))
        x = self.project(self.context(self.deep(early)))
        x = self.mix(self.spread(self.join(self.enlarge(x), self.low(early))))
        return self.result(self.finest(self.classes(x)))


def _part(x: Any, width: int, size: int, name: str, eps: float = 1e-5, **own: Any) -> Any:
    x = layers.Conv2D(width, size, padding="same", use_bias=False, name=f"{name}_conv", **own)(x)
    return layers.ReLU(name=f"{name}_relu")(layers.BatchNormalization(epsilon=eps, name=f"{name}_bn")(x))


@network
def street() -> Pair:
    """DeepLab's head on a small network: two dilations, the whole picture, and low features joined in."""
    keras.backend.clear_session()
    image = layers.Input((24, 20, 3), name="image")
    early = _part(image, 6, 3, "entry", 1e-3, strides=2)
    x = _part(early, 8, 3, "deep", 1e-3, strides=2)
    whole = _part(layers.GlobalAveragePooling2D(keepdims=True, name="seen")(x), 5, 1, "whole")
    whole = layers.UpSampling2D((6, 5), interpolation="bilinear", name="whole_up")(whole)
    near, far = (_part(x, 5, 3, name, dilation_rate=rate) for name, rate in (("near", 2), ("far", 3)))
    x = _part(layers.Concatenate(name="context")([_part(x, 5, 1, "point"), near, far, whole]), 8, 1, "project")
    x = layers.UpSampling2D(2, interpolation="bilinear", name="enlarge")(x)
    x = layers.Concatenate(name="join")([x, _part(early, 4, 1, "low")])
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="spread")(x)
    x = layers.Conv2D(4, 1, name="classes")(_part(x, 8, 1, "mix"))
    x = layers.UpSampling2D(2, interpolation="bilinear", name="finest")(x)
    model = keras.Model(image, layers.Softmax(name="chances")(x))
    fill(model)
    model.get_layer("classes").kernel.assign(model.get_layer("classes").kernel * 2)
    for name in ("entry_bn", "deep_bn"):
        model.get_layer(name).moving_variance.assign(model.get_layer(name).moving_variance * 0.05)
    inputs = np.random.default_rng(47).uniform(-1, 1, (2, 24, 20, 3)).astype(np.float32)
    return Pair(model, inputs, lambda: carry(model, Street(), lambda name: name.replace("_", ".")), "NHWC->NCHW")


@defect("street/corners-on-corners", "finest interpolate_1", "resize-align-corners", "operation-kind")
def _(port: Any) -> None:
    """The weights of some DeepLabs need align_corners, those of others must not (keras-deeplab-v3-plus#49)."""
    port.finest = lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


@defect("street/nearest", "enlarge interpolate", "resize-mode", "operation-kind")
def _(port: Any) -> None:
    """interpolate() is nearest where nothing is said."""
    port.enlarge = lambda x: F.interpolate(x, scale_factor=2)


@defect("street/rate-of-another-stride", "far_conv far.conv", "dilation", "pad-mode")
def _(port: Any) -> None:
    """The rates belong to the output's stride (PyTorch-Encoding#303)."""
    port.far.conv.dilation = (4, 4)


@defect("street/near-undilated", "near_conv near.conv", "dilation", "pad-mode")
def _(port: Any) -> None:
    port.near.conv.dilation = (1, 1)


@defect("street/whole-first", "context cat project_conv project.conv", "concat-order", "operand-order")
def _(port: Any) -> None:
    """As the paper's figure lists the branches."""

    def context(x: torch.Tensor) -> torch.Tensor:
        whole = port.whole(port.seen(x)).expand(-1, -1, *x.shape[2:])
        return torch.cat([whole, port.point(x), port.near(x), port.far(x)], dim=1)

    port.context = context


@defect("street/low-first", "join cat_1 spread", "concat-order", "operand-order")
def _(port: Any) -> None:
    port.join = lambda x, low: torch.cat([low, x], dim=1)


@defect("street/multiplier-first", "spread", "depthwise-order", "weights-perturbed weights-swapped concat-order")
def _(port: Any) -> None:
    """All channels' first kernels, then all second ones."""
    own = port.spread.weight.data
    own.copy_(own.view(12, 2, 1, 3, 3).transpose(0, 1).reshape(24, 1, 3, 3).clone())


@defect("street/whole-by-largest", "seen adaptive_avg_pool2d adaptive_max_pool2d whole_conv whole.conv", "pool-kind")
def _(port: Any) -> None:
    port.seen = lambda x: F.adaptive_max_pool2d(x, 1)


@defect("street/whole-not-rectified", "whole_relu whole.relu whole_bn whole.bn whole_up expand", "activation-missing",
        "block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.whole.forward = lambda x: port.whole.bn(port.whole.conv(x))


@defect("street/project-without-norm", "project_bn project.bn project_conv project.conv project_relu project.relu",
        "block-missing bn-stats", "weights-not-loaded weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    port.project.bn = nn.Identity()


@defect("street/one-epsilon", "entry_bn deep_bn entry.bn deep.bn", "bn-eps")
def _(port: Any) -> None:
    """The backbone's is 1e-3, the head's 1e-5."""
    port.entry.bn.eps = port.deep.bn.eps = 1e-5


@defect("street/strides-padded-both", "deep_conv deep.conv", "pad-asymmetry")
def _(port: Any) -> None:
    port.deep.conv.around = lambda x: [1, 1, 1, 1]


@defect("street/image-of-bytes", "entry_conv entry.conv image mul*", "input-scale", "weights-perturbed")
def _(port: Any) -> None:
    """Divided by 127.5 in the data's pipeline already."""
    port.prepare = lambda image: image / 127.5


@defect("street/classes-over-rows", "chances softmax", "softmax-axis", "operation-kind")
def _(port: Any) -> None:
    port.result = lambda x: F.softmax(x, dim=2)


@defect("street/norms-of-two-branches", "near_bn far_bn near.bn far.bn", "weights-swapped bn-stats",
        "weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    port.near.bn, port.far.bn = port.far.bn, port.near.bn


@control("street/branches-projected-apart")
def _(port: Any) -> None:
    """The projection's kernel in four parts, their results added."""
    parts = port.project.conv.weight.data.split(5, dim=1)

    def context(x: torch.Tensor) -> torch.Tensor:
        found = (port.point(x), port.near(x), port.far(x), port.whole(port.seen(x)))
        return sum(F.conv2d(one, part) for one, part in zip(found, parts, strict=True))  # type: ignore[return-value]

    port.context, port.project.conv = context, nn.Identity()


@control("street/padded-by-numbers")
def _(port: Any) -> None:
    """Padding where it is symmetric, sizes in place of factors, the mean by hand."""
    for part in (port.near, port.far):
        part.conv.padding, part.conv.around = part.conv.dilation, lambda x: [0, 0, 0, 0]
    port.seen = lambda x: x.mean((2, 3), keepdim=True)
    port.enlarge = lambda x: F.interpolate(x, size=(12, 10), mode="bilinear")


neighbours("street", "nearest+low-first", "corners-on-corners+classes-over-rows", "low-first+multiplier-first",
           "whole-by-largest+whole-not-rectified", "strides-padded-both+one-epsilon")  # fmt: skip
