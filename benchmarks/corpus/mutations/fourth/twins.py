"""Two pictures compared: one tower for both."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill, values
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network
from benchmarks.corpus.mutations.pairs import Pair


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 3)
        self.pool, self.dense = nn.AvgPool2d(2, ceil_mode=True), nn.Linear(8, 7)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x / 255

    def largest(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax((2, 3))

    def deepen(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(x)

    def unit(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(x, dim=-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(self.prepare(x))))
        return self.unit(self.dense(self.largest(F.relu(self.deepen(x)))))


class Twins(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = Tower(), nn.Linear(7, 3)

    def towers(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.tower(left), self.tower(right)

    def distance(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        return (one - two).abs()

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.distance(*self.towers(left, right))))


@network
def twins() -> Pair:
    """A siamese network: one tower for both pictures, features of length one, what their distance says."""
    keras.backend.clear_session()
    picture = layers.Input((15, 13, 1), name="picture")
    x = layers.Rescaling(1 / 255, name="rescaling")(picture)
    x = layers.AveragePooling2D(2, padding="same", name="pool")(layers.Conv2D(6, 5, activation="relu", name="conv1")(x))
    x = layers.GlobalMaxPooling2D(name="largest")(layers.Conv2D(8, 3, activation="relu", name="conv2")(x))
    x = layers.UnitNormalization(name="unit")(layers.Dense(7, name="dense")(x))
    tower = keras.Model(picture, x, name="tower")
    left, right = layers.Input((15, 13, 1), name="left"), layers.Input((15, 13, 1), name="right")
    apart = ops.abs(layers.Subtract(name="difference")([tower(left), tower(right)]))
    model = keras.Model([left, right], layers.Dense(3, activation="sigmoid", name="head")(apart))
    fill(model)
    rng = np.random.default_rng(27)
    inputs = {name: rng.integers(0, 256, (2, 15, 13, 1)).astype(np.float32) for name in ("left", "right")}
    return Pair(
        model, inputs, lambda: carry(model, Twins(), lambda n: n if n == "head" else f"tower.{n}"), "NHWC->NCHW"
    )


@defect("twins/bytes-twice", "tower?rescaling* tower?conv1* tower.div* rescaling conv1", "input-scale",
        "scale block-extra input-normalisation weights-perturbed")  # fmt: skip
def _(port: Any) -> None:
    """ToTensor had divided by 255 already."""
    port.tower.prepare = lambda x: x / 255 / 255


@defect("twins/kernel-of-a-convolution", "tower?conv1* conv1", "kernel-flip", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    """Weights of a library that turns its kernels."""
    port.tower.conv1.weight.data = port.tower.conv1.weight.data.flip(2, 3).contiguous()


@defect("twins/pool-without-the-rest", "tower?pool* pool", "pool-ceil-mode pad-mode", "pad-asymmetry pool-kind shift")
def _(port: Any) -> None:
    """The largest of all places is taken, whatever their number."""
    port.tower.pool.ceil_mode = False


@defect("twins/mean-of-maps", "tower?largest* tower?mean* tower?amax* largest tower?dense* dense", "pool-kind",
        "operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.tower.largest = lambda x: x.mean((2, 3))


@defect(
    "twins/sum-of-one", "tower?unit* tower?normalize* unit tower?div* tower?sum*", "norm-axis operation-kind", "scale"
)
def _(port: Any) -> None:
    """Another norm: the sum of what is absolute."""
    port.tower.unit = lambda x: F.normalize(x, p=1, dim=-1)


@defect("twins/maps-in-bfloat16", "tower?conv2* tower?bfloat16* tower?float* conv2", "dtype", "weights-perturbed")
def _(port: Any) -> None:
    conv = port.tower.conv2
    port.tower.deepen = lambda x: F.conv2d(x.bfloat16(), conv.weight.bfloat16(), conv.bias.bfloat16()).float()


@defect("twins/own-tower", "tower?conv1#1 other.conv1", "weights-not-loaded", "weights-perturbed wiring")
def _(port: Any) -> None:
    """The right picture's tower is another, of which the first convolution got nothing."""
    port.other = copy.deepcopy(port.tower)
    weight = port.other.conv1.weight.data
    weight.copy_(torch.from_numpy(values("tower2/kernel", tuple(weight.shape), 25)))
    port.towers = lambda left, right: (port.tower(left), port.other(right))


@defect(
    "twins/squares", "abs pow mul square difference sub head", "activation-kind operation-kind", "block-extra wiring"
)
def _(port: Any) -> None:
    port.distance = lambda one, two: (one - two) ** 2


@control("twins/one-batch")
def _(port: Any) -> None:
    """Both pictures at once, behind one another."""
    port.towers = lambda left, right: port.tower(torch.cat([left, right])).chunk(2)


@control("twins/written-out")
def _(port: Any) -> None:
    port.tower.unit = lambda x: x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    port.tower.largest = lambda x: F.adaptive_max_pool2d(x, 1).flatten(1)


neighbours("twins", "maps-in-bfloat16+mean-of-maps")
