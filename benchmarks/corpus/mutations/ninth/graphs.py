"""Graphs: bonds of a molecule, the nearest points of a cloud, and sensors along a road."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.ninth.registry import (
    control,
    defect,
    folded,
    neighbours,
    network,
    one_layer,
    regated,
    slip,
    ways,
)
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import grown
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, exchanged, fed, ported


class Bonds(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.bond1, self.bond2 = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.update = nn.GRU(6, 6, batch_first=True)
        self.gate, self.tell, self.out = nn.Linear(11, 4), nn.Linear(6, 4), nn.Linear(4, 2)

    def updated(self, message: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        given, kept = message.flatten(0, 1), state.flatten(0, 1)
        given, kept = (kept, given) if "state-for-message" in self.ways else (given, kept)
        if "cell-of-torch" in self.ways:
            own = self.update
            new = torch.gru_cell(given, kept, own.weight_ih_l0, own.weight_hh_l0, own.bias_ih_l0, own.bias_hh_l0)
        elif "every-round-from-zero" in self.ways:
            new = self.update(given[:, None])[0][:, 0]
        else:
            new = self.update(given[:, None], kept[None])[0][:, 0]
        return new.view_as(state)

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.enter(atoms))
        bonds = bonds.transpose(2, 3) if "bonds-turned" in self.ways else bonds
        for _ in range(1 if "one-round" in self.ways else 2):
            x = self.updated(bonds[:, 0] @ self.bond1(x) + bonds[:, 1] @ self.bond2(x), x)
        both = [atoms, x] if "atoms-first" in self.ways else [x, atoms]
        told = self.tell(x)
        told = told if "told-left-linear" in self.ways else torch.tanh(told)
        x = torch.sigmoid(self.gate(torch.cat(both, dim=2))) * told
        return self.out(x.mean(1) if "mean-of-the-atoms" in self.ways else x.sum(1))


@network
def bonds() -> Pair:
    """A gated graph network: two kinds of bonds with a direction, a GRU for each atom, a gated sum of all."""
    keras.backend.clear_session()
    atoms, kinds = layers.Input((7, 5), name="atoms"), layers.Input((2, 7, 7), name="bonds")
    x = layers.Dense(6, activation="tanh", name="enter")(atoms)
    own = [layers.Dense(6, name=name) for name in ("bond1", "bond2")]
    update = layers.GRU(6, name="update")
    for _ in range(2):
        message = ops.matmul(kinds[:, 0], own[0](x)) + ops.matmul(kinds[:, 1], own[1](x))
        flat = update(ops.reshape(message, (-1, 1, 6)), initial_state=ops.reshape(x, (-1, 6)))
        x = ops.reshape(flat, (-1, 7, 6))
    gate = layers.Dense(4, activation="sigmoid", name="gate")(layers.Concatenate(name="both")([x, atoms]))
    x = ops.sum(layers.Multiply(name="gated")([gate, layers.Dense(4, activation="tanh", name="tell")(x)]), axis=1)
    model = keras.Model([atoms, kinds], layers.Dense(2, name="out")(x))
    fill(model)
    links = (np.random.default_rng(971).random((3, 2, 7, 7)) < 0.25).astype(np.float32)
    return Pair(model, {"atoms": fed(972, 3, 7, 5), "bonds": links}, ported(model, Bonds), "same")


_ROUND = "update* matmul* bond1 bond2 transpose* get_item* add* reshape* view* flatten*"
slip("bonds/state-for-message", _ROUND, "wiring operand-order", "weights-swapped")
slip("bonds/every-round-from-zero", _ROUND, "wiring block-missing", "weights-not-loaded")
slip("bonds/bonds-turned", _ROUND, "axis-permutation", "wiring block-extra")
slip("bonds/one-round", _ROUND, "block-missing", "wiring")
slip("bonds/atoms-first", "both cat* gate", "concat-order", "operand-order channel-order")
slip("bonds/told-left-linear", "tell tanh* gated mul*", "activation-missing", "block-missing")
slip("bonds/mean-of-the-atoms", "sum* mean* out", "pool-kind scale", "operation-kind")
defect("bonds/gates-of-keras", "update", "gru-gate-order", "weights-perturbed weights-swapped")(
    regated("update", 1, 0, 2)
)
defect("bonds/kinds-exchanged", "bond1 bond2", "weights-swapped", "weights-perturbed wiring")(
    exchanged("bond1", "bond2")
)
ways("bonds", "cell-of-torch")
one_layer("bonds", "gates-of-keras+every-round-from-zero", "bonds-turned+kinds-exchanged")
neighbours("bonds", "atoms-first+told-left-linear")


# --- the nearest points -------------------------------------------------------------------------------------


class Edges(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.one, self.bn1 = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.two, self.bn2 = nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.wide, self.head = nn.Conv1d(12, 8, 1), nn.Linear(16, 3)

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        apart = ((x[:, :, :, None] - x[:, :, None]) ** 2).sum(1)
        return apart.topk(3, dim=2, largest=False).indices

    def edged(self, conv: nn.Conv2d, bn: nn.Module, x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        every = near.flatten(1)[:, None]
        if "edges-in-two-products" in self.ways:
            away, here = conv.weight[..., 0, 0].chunk(2, dim=1)
            found = (away @ x).gather(2, every.expand(-1, len(away), -1)).view(*x.shape[:1], len(away), -1, 3)
            y = found + ((here - away) @ x)[..., None]
        else:
            others = x.gather(2, every.expand(-1, x.shape[1], -1)).view(*x.shape, 3)
            own = x[..., None].expand_as(others)
            parts = [others if "places-for-differences" in self.ways else others - own, own]
            y = conv(torch.cat(parts[::-1] if "own-place-first" in self.ways else parts, dim=1))
        y = F.leaky_relu(bn(y), 0.01 if "slope-of-torch" in self.ways else 0.2)
        return y.mean(3) if "mean-of-the-nearest" in self.ways else y.amax(3)

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        near = self.nearest(points)
        x = self.edged(self.one, self.bn1, points, near)
        y = self.edged(self.two, self.bn2, x, near if "graph-of-the-first-layer" in self.ways else self.nearest(x))
        z = F.leaky_relu(self.wide(torch.cat([x, y], dim=1)), 0.2)
        both = [z.mean(2), z.amax(2)] if "mean-first" in self.ways else [z.amax(2), z.mean(2)]
        return self.head(torch.cat(both, dim=1))


@network
def edges() -> Pair:
    """DGCNN: what lies between a point and its nearest, the largest of these; the second graph is of features."""
    keras.backend.clear_session()
    points = layers.Input((9, 3), name="points")

    def edged(x: keras.KerasTensor, dense: str, bn: str) -> keras.KerasTensor:
        width = x.shape[2]
        apart = ops.sum(ops.square(ops.expand_dims(x, 2) - ops.expand_dims(x, 1)), axis=3)
        near = ops.reshape(ops.top_k(-apart, 3)[1], (-1, 27, 1))
        others = ops.reshape(ops.take_along_axis(x, ops.repeat(near, width, axis=2), axis=1), (-1, 9, 3, width))
        own = ops.repeat(ops.expand_dims(x, 2), 3, axis=2)
        y = layers.Concatenate(name=f"{dense}_both")([others - own, own])
        y = layers.BatchNormalization(name=bn)(layers.Conv2D(6, 1, use_bias=False, name=dense)(y))
        return ops.max(layers.LeakyReLU(0.2, name=f"{dense}_leaky")(y), axis=2)

    x = edged(points, "one", "bn1")
    y = edged(x, "two", "bn2")
    z = layers.Conv1D(8, 1, name="wide")(layers.Concatenate(name="levels")([x, y]))
    z = layers.LeakyReLU(0.2, name="wide_leaky")(z)
    both = layers.Concatenate(name="pooled")([ops.max(z, axis=1), ops.mean(z, axis=1)])
    model = keras.Model(points, layers.Dense(3, name="head")(both))
    fill(model)
    return Pair(model, fed(973, 3, 9, 3), ported(model, Edges), "NHWC->NCHW")


_EDGES = "one_both two_both cat* sub* subtract* one two"
slip("edges/places-for-differences", _EDGES, "residual-missing block-missing", "wiring")
slip("edges/own-place-first", _EDGES, "concat-order", "operand-order channel-order")
slip("edges/slope-of-torch", "*_leaky leaky_relu*", "activation-param")
slip("edges/mean-of-the-nearest", "max* amax* mean*", "pool-kind", "operation-kind")
slip("edges/graph-of-the-first-layer", "top*k* sum* sub* subtract* gather* take_along_axis* two_both cat* two",
     "wiring", "operand-order block-missing")  # fmt: skip
slip("edges/mean-first", "pooled cat* head", "concat-order", "operand-order channel-order")
defect("edges/bn-eps-of-torch", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("edges/bn-still-learns", "bn1", "bn-mode", "bn-stats norm-axis")(lambda port: _learning(port.bn1))


def _learning(bn: Any) -> None:
    """As where a part of a network was built anew behind ``eval``."""
    bn.train(True)
    bn.train = lambda mode=True: bn


ways("edges", "edges-in-two-products")
control("edges/bn-folded")(folded("two", "bn2"))
one_layer("edges", "places-for-differences+own-place-first")
neighbours("edges", "slope-of-torch+mean-of-the-nearest", "bn-still-learns+slope-of-torch")


# --- a road -------------------------------------------------------------------------------------------------


class Traffic(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.before, self.short = nn.Conv2d(2, 8, (3, 1)), nn.Conv2d(2, 4, 1)
        self.theta, self.after = nn.Linear(4, 4), nn.Conv2d(4, 8, (3, 1))
        self.norm, self.last, self.out = nn.LayerNorm((5, 4), eps=1e-3), nn.Conv2d(4, 4, (6, 1)), nn.Conv2d(4, 1, 1)

    def gated(self, conv: nn.Conv2d, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        y = conv(x)
        skip = skip[:, :, :-2] if "first-steps-skip" in self.ways else skip[:, :, 2:]
        if "glu-of-torch" in self.ways:
            return F.glu(torch.cat([y[:, :4] + skip, y[:, 4:]], dim=1), dim=1)
        one, two = y.chunk(2, dim=1)
        one, two = (two, one) if "gate-first" in self.ways else (one, two)
        one = one if "steps-not-added" in self.ways else one + skip
        return (torch.tanh(one) if "gated-tanh" in self.ways else one) * torch.sigmoid(two)

    def spread(self, x: torch.Tensor) -> torch.Tensor:
        links = torch.from_numpy(_LINKS.T.copy() if "road-backwards" in self.ways else _LINKS)
        if "road-as-product" in self.ways:
            y = (x @ links.T).permute(0, 2, 3, 1)
        else:
            y = torch.einsum("mn,bctn->btmc", links, x)
        return F.relu(self.theta(y).permute(0, 3, 1, 2) + x)

    def forward(self, speeds: torch.Tensor) -> torch.Tensor:
        x = self.spread(self.gated(self.before, speeds, self.short(speeds)))
        x = self.gated(self.after, x, x).permute(0, 2, 3, 1)
        if "features-alone-normed" in self.ways:
            x = F.layer_norm(x, (4,), eps=1e-3) * self.norm.weight + self.norm.bias
        else:
            x = self.norm(x)
        return self.out(F.relu(self.last(x.permute(0, 3, 1, 2))))[:, 0, 0]


_LINKS = np.float32([[0.5, 0.5, 0, 0, 0], [0.2, 0.4, 0.4, 0, 0], [0, 0, 0.6, 0.4, 0], [0, 0.1, 0, 0.5, 0.4],
                     [0.3, 0, 0, 0.2, 0.5]])  # fmt: skip


@network
def traffic() -> Pair:
    """STGCN: gated kernels along time around a graph of the road, and a norm over sensors and features at once."""
    keras.backend.clear_session()
    speeds = layers.Input((10, 5, 2), name="speeds")

    def gated(x: keras.KerasTensor, skip: keras.KerasTensor, name: str) -> keras.KerasTensor:
        one, two = ops.split(layers.Conv2D(8, (3, 1), name=name)(x), 2, axis=3)
        one = layers.Add(name=f"{name}_sum")([one, layers.Cropping2D(((2, 0), (0, 0)), name=f"{name}_crop")(skip)])
        return layers.Multiply(name=f"{name}_gated")([one, ops.sigmoid(two)])

    x = gated(speeds, layers.Conv2D(4, 1, name="short")(speeds), "before")
    y = layers.Dense(4, name="theta")(ops.einsum("mn,btnc->btmc", ops.convert_to_tensor(_LINKS), x))
    x = layers.ReLU(name="relu")(layers.Add(name="sum")([y, x]))
    x = layers.LayerNormalization(axis=(2, 3), name="norm")(gated(x, x, "after"))
    x = layers.Conv2D(1, 1, name="out")(layers.Conv2D(4, (6, 1), activation="relu", name="last")(x))
    model = keras.Model(speeds, layers.Reshape((5,), name="next")(x))
    fill(model)
    grown(model, 2, "before", "last")
    return Pair(model, fed(974, 3, 10, 5, 2), ported(model, Traffic), "NHWC->NCHW")


_GATED = "before* after* short split* chunk* get_item* slice* add* mul* sigmoid* tanh*"
slip("traffic/first-steps-skip", _GATED, "shift pad-asymmetry", "axis-permutation wiring")
slip("traffic/gate-first", _GATED, "concat-order wiring channel-order", "operand-order")
slip("traffic/steps-not-added", _GATED, "residual-missing", "block-missing wiring")
slip("traffic/gated-tanh", _GATED, "activation-extra", "block-extra")
slip(
    "traffic/road-backwards",
    "einsum* matmul* theta sum add*",
    "axis-permutation dense-transpose",
    "wiring weights-perturbed",
)
slip("traffic/features-alone-normed", "norm layer_norm*", "norm-axis", "operation-kind")
defect("traffic/norm-eps-of-torch", "norm", "ln-eps")(epsilon(1e-5, nn.LayerNorm))
ways("traffic", "glu-of-torch", "road-as-product")
one_layer("traffic", "gate-first+steps-not-added", "first-steps-skip+gated-tanh")
neighbours("traffic", "road-backwards+features-alone-normed")
