"""Graphs: a crystal's bonds with gates, atoms that move, and four ways to ask one's neighbours."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.fourteenth.registry import (
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
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, set_to


def _links(seed: int, *shape: int) -> np.ndarray:
    """Who has whom for a neighbour, one at least and never oneself."""
    drawn = np.random.default_rng(seed).random(shape) < 0.5
    n = shape[-1]
    drawn[:, np.arange(n), (np.arange(n) + 1) % n] = True
    drawn[:, np.arange(n), np.arange(n)] = False
    return drawn.astype(np.float32)


class Crystal(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter = nn.Linear(3, 5)
        self.gate, self.core = nn.Linear(12, 5), nn.Linear(12, 5)
        self.gate_bn, self.bn = nn.BatchNorm1d(5, eps=1e-3), nn.BatchNorm1d(5, eps=1e-3)
        self.wide, self.energy = nn.Linear(5, 6), nn.Linear(6, 1)

    def normed(self, bn: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return bn(x.flatten(0, -2)).reshape(x.shape)

    def bonded(self, layer: nn.Linear, x: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        if "split-by-what-is-bonded" in self.ways:
            own, other, bond = layer.weight.split([5, 5, 2], dim=1)
            return (x @ own.T)[:, :, None] + (x @ other.T)[:, None] + bonds @ bond.T + layer.bias
        own, other = x[:, :, None].expand(-1, -1, 4, -1), x[:, None].expand(-1, 4, -1, -1)
        parts = [other, own, bonds] if "neighbour-first" in self.ways else [own, other, bonds]
        return layer(torch.cat(parts, dim=3))

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        x = self.enter(atoms)
        gate = torch.sigmoid(self.normed(self.gate_bn, self.bonded(self.gate, x, bonds)))
        core = self.bonded(self.core, x, bonds)
        core = F.relu(core) if "relu-for-softplus" in self.ways else F.softplus(core)
        told = gate * core
        if "told-by-all" not in self.ways:
            told = told * (links.mT if "links-turned" in self.ways else links)[..., None]
        y = self.normed(self.bn, told.sum(1 if "summed-over-oneself" in self.ways else 2))
        x = F.softplus(x) + y if "bent-before-the-sum" in self.ways else F.softplus(x + y)
        x = x.sum(1) if "sum-of-atoms" in self.ways else x.mean(1)
        return self.energy(F.softplus(self.wide(x)))


@network
def crystal() -> Pair:
    """CGCNN: gates and cores from both ends of a bond and its length, softplus everywhere, the mean of the atoms."""
    keras.backend.clear_session()
    atoms, bonds = layers.Input((4, 3), name="atoms"), layers.Input((4, 4, 2), name="bonds")
    links = layers.Input((4, 4), name="links")
    x = layers.Dense(5, name="enter")(atoms)
    own, other = ops.tile(ops.expand_dims(x, 2), (1, 1, 4, 1)), ops.tile(ops.expand_dims(x, 1), (1, 4, 1, 1))
    z = layers.Concatenate(name="ends")([own, other, bonds])
    gate = layers.BatchNormalization(name="gate_bn")(layers.Dense(5, name="gate")(z))
    gate = layers.Activation("sigmoid", name="open")(gate)
    told = layers.Multiply(name="told")([gate, layers.Dense(5, activation="softplus", name="core")(z)])
    y = layers.BatchNormalization(name="bn")(ops.sum(told * ops.expand_dims(links, 3), axis=2))
    x = layers.Activation("softplus", name="bend")(layers.Add(name="joined")([x, y]))
    x = layers.Dense(6, activation="softplus", name="wide")(layers.GlobalAveragePooling1D(name="pool")(x))
    model = keras.Model([atoms, bonds, links], layers.Dense(1, name="energy")(x))
    fill(model)
    inputs = {"atoms": fed(1471, 3, 4, 3), "bonds": fed(1472, 3, 4, 4, 2), "links": _links(1473, 3, 4, 4)}
    return Pair(model, inputs, ported(model, Crystal), "same")


_ENDS = "ends cat* gate core expand* tile* linear*"
_TOLD = "told mul* multiply* links sum* transpose* mT* bn"
slip("crystal/neighbour-first", _ENDS, "concat-order", "operand-order wiring")
slip("crystal/relu-for-softplus", "core softplus* relu* told mul*", "activation-kind")
slip("crystal/told-by-all", _TOLD, "attention-mask block-missing", "wiring")
slip("crystal/links-turned", _TOLD, "axis-permutation wiring", "attention-mask operand-order block-extra")
slip("crystal/summed-over-oneself", _TOLD, "norm-axis axis-permutation wiring", "operation-kind pool-kind")
slip("crystal/bent-before-the-sum", "joined add* bend softplus*", "residual-order", "wiring operand-order")
slip("crystal/sum-of-atoms", "pool mean* sum* wide", "pool-kind scale", "operation-kind block-missing")
defect("crystal/bn-eps-of-torch", "*bn", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("crystal/core-not-biased", "core", "bias-missing", "weights-not-loaded")(set_to("core", bias=None))
ways("crystal", "split-by-what-is-bonded")
control("crystal/norm-folded")(folded("gate", "gate_bn"))
one_layer("crystal", "relu-for-softplus+core-not-biased", "told-by-all+summed-over-oneself")
neighbours("crystal", "neighbour-first+bn-eps-of-torch", "links-turned+bent-before-the-sum")


# --- atoms that move ----------------------------------------------------------------------------------------


class Moving(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.edge1, self.edge2 = nn.Linear(7, 6), nn.Linear(6, 4)
        self.push1, self.push2 = nn.Linear(4, 5), nn.Linear(5, 1, bias=False)
        self.node1, self.node2 = nn.Linear(7, 6), nn.Linear(6, 3)

    def bent(self, x: torch.Tensor) -> torch.Tensor:
        if "swish-by-hand" in self.ways:
            return x * torch.sigmoid(x)
        return F.relu(x) if "relu-for-swish" in self.ways else F.silu(x)

    def told(self, features: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        if "far-by-products" in self.ways:
            square = (places**2).sum(2)
            far = (square[:, :, None] + square[:, None] - 2 * places @ places.mT)[..., None]
        else:
            far = ((places[:, :, None] - places[:, None]) ** 2).sum(3, keepdim=True)
        far = torch.sqrt(far) if "lengths-for-squares" in self.ways else far
        own, other = features[:, :, None].expand(-1, -1, 4, -1), features[:, None].expand(-1, 4, -1, -1)
        x = self.edge2(self.bent(self.edge1(torch.cat([own, other, far], dim=3))))
        return x if "told-not-bent" in self.ways else self.bent(x)

    def forward(self, features: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        told = self.told(features, places)
        apart = places[:, :, None] - places[:, None]
        apart = -apart if "pushed-the-other-way" in self.ways else apart
        push = (apart * self.push2(self.bent(self.push1(told)))).sum(2)
        places = places + push / (4 if "divided-by-all" in self.ways else 3)
        others = told if "oneself-heard" in self.ways else told * (1 - torch.eye(4))[..., None]
        heard = others.sum(2)
        x = self.node2(self.bent(self.node1(torch.cat([features, heard], dim=2))))
        return x if "features-not-added" in self.ways else features + x, places


@network
def moving() -> Pair:
    """EGNN: what each two tell by the square of how far they are, pushes along what lies between, and new features."""
    keras.backend.clear_session()
    features, places = layers.Input((4, 3), name="features"), layers.Input((4, 3), name="places")
    apart = ops.expand_dims(places, 2) - ops.expand_dims(places, 1)
    far = ops.sum(ops.square(apart), axis=3, keepdims=True)
    own, other = (ops.repeat(ops.expand_dims(features, axis), 4, axis=axis) for axis in (2, 1))
    x = layers.Dense(6, activation="silu", name="edge1")(layers.Concatenate(name="ends")([own, other, far]))
    told = layers.Dense(4, activation="silu", name="edge2")(x)
    push = layers.Dense(5, activation="silu", name="push1")(told)
    push = ops.sum(apart * layers.Dense(1, use_bias=False, name="push2")(push), axis=2) / 3
    others = 1 - np.eye(4, dtype=np.float32)[..., None]
    x = layers.Concatenate(name="known")([features, ops.sum(told * others, axis=2)])
    x = layers.Dense(3, name="node2")(layers.Dense(6, activation="silu", name="node1")(x))
    both = [layers.Add(name="new_features")([features, x]), layers.Add(name="new_places")([places, push])]
    model = keras.Model([features, places], both)
    fill(model)
    return Pair(model, {"features": fed(1474, 4, 4, 3), "places": fed(1475, 4, 4, 3)}, ported(model, Moving), "same")


_FAR = "ends cat* sum* pow* square* sqrt* sub* edge1"
_PUSH = "push2 mul* multiply* sum* div* truediv* true_divide* divide* sub* subtract* neg* new_places add*"
_HEARD = "known cat* sum* mul* multiply* node1"
slip("moving/lengths-for-squares", _FAR, "block-extra operation-kind", "activation-extra")
slip("moving/relu-for-swish", "edge? push1 node1 silu* relu*", "activation-kind")
slip("moving/told-not-bent", "edge2 silu* push1 mul*", "activation-missing", "block-missing")
slip("moving/pushed-the-other-way", _PUSH, "operand-order scale block-extra", "wiring operation-kind")
slip("moving/divided-by-all", _PUSH, "scale")
slip("moving/oneself-heard", _HEARD, "attention-mask block-missing", "wiring")
slip("moving/features-not-added", "new_features add* node2", "residual-missing", "wiring block-missing")
ways("moving", "swish-by-hand", "far-by-products")
one_layer("moving", "pushed-the-other-way+divided-by-all")
neighbours("moving", "lengths-for-squares+told-not-bent", "oneself-heard+features-not-added")


# --- four ways ----------------------------------------------------------------------------------------------


class Asked(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.say, self.mix, self.bn = nn.Linear(4, 4), nn.Linear(36, 4), nn.BatchNorm1d(4, eps=1e-3)
        self.head = nn.Linear(4, 2)

    def gathered(self, x: torch.Tensor, links: torch.Tensor) -> list[torch.Tensor]:
        size = links.sum(2, keepdim=True)
        there = links[..., None]
        if "means-by-einsum" in self.ways:
            mean, square = (torch.einsum("bij,bjc->bic", links, v) / size for v in (x, x**2))
        else:
            mean, square = links @ x / size, links @ x**2 / size
        spread = F.relu(square - mean**2)
        spread = spread * size / (size - 1).clamp(min=1) if "spread-of-torch" in self.ways else spread
        spread = spread + 1e-5 if "variance-for-deviation" in self.ways else torch.sqrt(spread + 1e-5)
        all_ = x[:, None].expand(-1, 5, -1, -1)
        if "largest-beside-zeros" in self.ways:
            most, least = (all_ * there).amax(2), (all_ * there).amin(2)
        else:
            most = all_.masked_fill(there == 0, -1e9).amax(2)
            least = all_.masked_fill(there == 0, 1e9).amin(2)
        return [most, mean, least, spread] if "largest-before-mean" in self.ways else [mean, most, least, spread]

    def forward(self, nodes: torch.Tensor, links: torch.Tensor) -> torch.Tensor:
        said = F.relu(self.say(nodes))
        x = torch.cat(self.gathered(said, links), dim=2)
        size = torch.log1p(links.sum(2, keepdim=True))
        y = self.mix(torch.cat([nodes, x, x * size], dim=2))
        y = F.relu(self.bn(y.flatten(0, 1)).unflatten(0, (-1, 5)))
        x = y if "nodes-not-added" in self.ways else nodes + y
        return self.head(x.mean(1))


@network
def asked() -> Pair:
    """PNA: the mean, the largest, the least and the spread of one's neighbours, as they are and by how many."""
    keras.backend.clear_session()
    nodes, links = layers.Input((5, 4), name="nodes"), layers.Input((5, 5), name="links")
    said = layers.Dense(4, activation="relu", name="say")(nodes)
    size = ops.sum(links, axis=2, keepdims=True)
    mean = ops.matmul(links, said) / size
    spread = ops.relu(ops.matmul(links, ops.square(said)) / size - ops.square(mean))
    none = 1e9 * (1 - ops.expand_dims(links, 3))
    each = ops.expand_dims(said, 1)
    most, least = ops.max(each - none, axis=2), ops.min(each + none, axis=2)
    x = layers.Concatenate(name="gathered")([mean, most, least, ops.sqrt(spread + 1e-5)])
    x = layers.Concatenate(name="scaled")([nodes, x, x * ops.log1p(size)])
    x = layers.BatchNormalization(name="bn")(layers.Dense(4, name="mix")(x))
    x = layers.Add(name="joined")([nodes, layers.ReLU(name="bend")(x)])
    model = keras.Model([nodes, links], layers.Dense(2, name="head")(layers.GlobalAveragePooling1D(name="pool")(x)))
    fill(model)
    return Pair(model, {"nodes": fed(1476, 3, 5, 4), "links": _links(1477, 3, 5, 5)}, ported(model, Asked), "same")


_GATHER = ("gathered cat* matmul* einsum* div* true_divide* pow* square* sub* relu* sqrt* add* amax* amin* max* min* "
           "masked_fill* mul*")  # fmt: skip
slip("asked/spread-of-torch", _GATHER, "std-ddof", "block-extra wiring")
slip("asked/variance-for-deviation", _GATHER, "block-missing", "activation-missing operation-kind scale wiring")
slip("asked/largest-beside-zeros", _GATHER, "attention-mask pad-mode", "operation-kind wiring activation-extra")
slip("asked/largest-before-mean", _GATHER, "concat-order", "operand-order wiring")
slip("asked/nodes-not-added", "joined add* bend pool mean*", "residual-missing", "wiring block-missing")
defect("asked/gains-not-loaded", "bn", "weights-not-loaded bn-stats weights-perturbed")(
    set_to("bn", weight=nn.Parameter(torch.ones(4)), bias=nn.Parameter(torch.zeros(4)))
)
ways("asked", "means-by-einsum")
control("asked/norm-folded")(folded("mix", "bn"))
one_layer("asked", "spread-of-torch+largest-before-mean", "variance-for-deviation+largest-beside-zeros")
neighbours("asked", "gains-not-loaded+nodes-not-added")
