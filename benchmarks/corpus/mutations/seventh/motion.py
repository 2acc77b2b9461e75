"""Bodies that move, as graphs over time."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported

_JOINTS, _PARTS = 5, 3


def _bones() -> np.ndarray:
    """Of a body with a root: itself, towards it and away from it, each to one, (3, 5, 5)."""
    to = np.zeros((_PARTS, _JOINTS, _JOINTS), "float32")
    to[0] = np.eye(_JOINTS)
    for child, parent in ((1, 0), (2, 1), (3, 1), (4, 3)):
        to[1, parent, child] = to[2, child, parent] = 1
    return to / np.maximum(to.sum(1, keepdims=True), 1)


class Body(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.data_bn = nn.BatchNorm1d(15, eps=1e-3)
        self.space, self.space_bn = nn.Conv2d(3, 18, 1), nn.BatchNorm2d(6, eps=1e-3)
        self.time, self.time_bn = nn.Conv2d(6, 6, (5, 1), stride=(2, 1)), nn.BatchNorm2d(6, eps=1e-3)
        self.short, self.short_bn = nn.Conv2d(3, 6, 1, stride=(2, 1)), nn.BatchNorm2d(6, eps=1e-3)
        self.edges = nn.ParameterDict({"weight": torch.ones(_PARTS, _JOINTS, _JOINTS)})
        self.head = nn.Linear(6, 4)
        self.register_buffer("bones", torch.from_numpy(_bones()), persistent=False)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        bones = self.bones if "edges-not-weighed" in self.ways else self.bones * self.edges["weight"]
        bones = bones.transpose(1, 2) if "bones-the-other-way" in self.ways else bones
        x = self.space(x)
        x = x.unflatten(1, (6, 3)).transpose(1, 2) if "parts-innermost" in self.ways else x.unflatten(1, (3, 6))
        if "parts-one-by-one" in self.ways:
            return sum(x[:, part] @ bones[part] for part in range(_PARTS))
        return torch.einsum("bkctv,kvw->bctw", x, bones)

    def levelled(self, x: torch.Tensor) -> torch.Tensor:
        if "coordinates-outermost" in self.ways:
            return (
                self.data_bn(x.transpose(2, 3).flatten(2).transpose(1, 2))
                .transpose(1, 2)
                .unflatten(2, (3, 5))
                .transpose(2, 3)
            )
        return self.data_bn(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (5, 3))

    def forward(self, body: torch.Tensor) -> torch.Tensor:
        x = self.levelled(body).permute(0, 3, 1, 2)
        y = self.space_bn(self.spread(x))
        y = y if "space-not-rectified" in self.ways else F.relu(y)
        y = F.pad(y, (0, 0, 2, 2) if "padded-around" in self.ways else (0, 0, 1, 2))
        y = self.time_bn(self.time(y))
        short = self.short_bn(self.short(x[:, :, 1:] if "short-from-the-second" in self.ways else x))
        if "rectified-before-the-sum" in self.ways:
            y = F.relu(y) + short
        else:
            y = F.relu(y if "shortcut-lost" in self.ways else y + short)
        y = y.amax(3).mean(2) if "largest-of-the-joints" in self.ways else y.mean((2, 3))
        return self.head(y)


class _Spread(layers.Layer):  # type: ignore[misc]
    def build(self, shape: tuple[int, ...]) -> None:
        self.weight = self.add_weight(name="weight", shape=(_PARTS, _JOINTS, _JOINTS))

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        x = ops.reshape(x, (-1, 10, _JOINTS, _PARTS, 6))
        return ops.einsum("btvkc,kvw->btwc", x, self.weight * _bones())


@network
def body() -> Pair:
    """ST-GCN: joints of a body by three kinds of bones with learnt weights, then time by a strided kernel."""
    keras.backend.clear_session()
    body = layers.Input((10, _JOINTS, 3), name="body")
    x = layers.Reshape((10, 15), name="flat")(body)
    x = layers.Reshape((10, 5, 3), name="joints")(layers.BatchNormalization(name="data_bn")(x))
    y = _Spread(name="edges")(layers.Conv2D(18, 1, name="space")(x))
    y = layers.ReLU(name="relu1")(layers.BatchNormalization(name="space_bn")(y))
    y = layers.ZeroPadding2D(((1, 2), (0, 0)), name="around")(y)
    y = layers.BatchNormalization(name="time_bn")(layers.Conv2D(6, (5, 1), strides=(2, 1), name="time")(y))
    z = layers.BatchNormalization(name="short_bn")(layers.Conv2D(6, 1, strides=(2, 1), name="short")(x))
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu2")(layers.Add(name="sum")([y, z])))
    model = keras.Model(body, layers.Dense(4, name="head")(x))
    fill(model)
    model.get_layer("edges").weight.assign(np.abs(fed(141, _PARTS, _JOINTS, _JOINTS)) + 0.3)
    return Pair(model, fed(142, 4, 10, _JOINTS, 3), ported(model, Body), "same")


_SPREAD = "edges space unflatten* transpose* mul einsum space_bn"
_SUM = "sum add relu* relu2 pool short_bn time_bn mean"
slip("body/edges-not-weighed", _SPREAD, "block-missing weights-not-loaded", "wiring")
slip(
    "body/bones-the-other-way",
    _SPREAD,
    "axis-permutation dense-transpose",
    "kernel-layout operand-order weights-perturbed",
)
slip("body/parts-innermost", _SPREAD, "reshape-order channel-order", "head-layout kernel-layout wiring")
slip("body/coordinates-outermost", "flat flatten* transpose* unflatten* data_bn joints", "flatten-order reshape-order",
     "channel-order bn-stats weights-perturbed wiring norm-axis")  # fmt: skip
slip("body/space-not-rectified", "space_bn relu1 relu around pad", "activation-missing", "block-missing")
slip("body/padded-around", "around pad time", "pad-asymmetry shift", "pad-mode")
slip("body/short-from-the-second", "short short_bn slice*", "shift stride-position", "pad-asymmetry wiring block-extra")
slip(
    "body/rectified-before-the-sum", _SUM, "residual-order", "activation-missing activation-extra operand-order wiring"
)
slip("body/shortcut-lost", _SUM, "residual-missing", "block-missing wiring")
slip("body/largest-of-the-joints", "pool mean amax relu2 relu_1 head", "pool-kind", "operation-kind block-extra")
defect("body/norm-eps-of-torch", "*_bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d, nn.BatchNorm2d))
defect("body/data-norm-as-begun", "data_bn", "bn-stats weights-not-loaded", "weights-perturbed")(
    lambda port: port.data_bn.reset_running_stats()
)
ways("body", "parts-one-by-one")
one_layer("body", "bones-the-other-way+parts-innermost", "rectified-before-the-sum+largest-of-the-joints")
neighbours("body", "space-not-rectified+padded-around")
