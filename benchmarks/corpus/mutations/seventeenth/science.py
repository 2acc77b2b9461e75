"""Science: a globe that closes, particles that tell one another, and groups in a graph."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
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
from benchmarks.corpus.mutations.sixth.registry import Port, epsilon, fed, ported, rewritten, set_to

_MEAN, _SPREAD = np.array([280.0, 50.0, 5.0], np.float32), np.array([20.0, 10.0, 2.0], np.float32)
_HEIGHT = np.cos(np.linspace(-1.2, 1.2, 6)).astype(np.float32)


class Globe(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.enter, self.leave = nn.Conv2d(4, 6, 5), nn.Conv2d(6, 2, 5)
        for end in "ab":
            self.add_module(f"block_{end}", nn.Conv2d(6, 6, 3))
            self.add_module(f"norm_{end}", nn.BatchNorm2d(6, eps=1e-3))

    def closed(self, x: torch.Tensor, rim: int) -> torch.Tensor:
        if "rows-closed-too" in self.ways:
            return F.pad(x, (rim, rim, rim, rim), mode="circular")
        if "zeros-around-the-globe" in self.ways:
            return F.pad(x, (rim, rim, rim, rim))
        if "closed-by-cutting" in self.ways:
            x = torch.cat([x[..., -rim:], x, x[..., :rim]], dim=3)
        else:
            x = F.pad(x, (rim, rim, 0, 0), mode="circular")
        return F.pad(x, (0, 0, rim, rim), mode="replicate" if "poles-repeated" in self.ways else "constant")

    def bend(self, x: torch.Tensor) -> torch.Tensor:
        if "slope-by-hand" in self.ways:
            return F.relu(x) - 0.3 * F.relu(-x)
        return F.leaky_relu(x, 0.01 if "slope-of-torch" in self.ways else 0.3)

    def forward(self, air: torch.Tensor) -> torch.Tensor:
        x = (air - torch.from_numpy(_MEAN)[:, None, None]) / torch.from_numpy(_SPREAD)[:, None, None]
        height = torch.from_numpy(_HEIGHT)[:, None].expand(len(x), 1, 6, 8)
        x = torch.cat([height, x] if "height-first" in self.ways else [x, height], dim=1)
        x = self.enter(self.closed(x, 2))
        y = x = x if "enter-not-bent" in self.ways else self.bend(x)
        for end in "ab":
            y = self.get_submodule(f"norm_{end}")(self.bend(self.get_submodule(f"block_{end}")(self.closed(y, 1))))
        x = y if "block-not-kept" in self.ways else x + y
        return self.leave(self.closed(x, 2))


@network
def globe() -> Pair:
    """WeatherBench's residual network: levelled air, the sun, a map closed from east to west, zeros beyond."""
    keras.backend.clear_session()
    air = layers.Input((6, 8, 3), name="air")

    def conv(x: keras.KerasTensor, wide: int, size: int, name: str) -> keras.KerasTensor:
        rim = size // 2
        x = ops.concatenate([x[:, :, -rim:], x, x[:, :, :rim]], axis=2)
        x = layers.ZeroPadding2D((rim, 0), name=f"{name}_poles")(x)
        return layers.Conv2D(wide, size, name=name)(x)

    x = (air - _MEAN) / _SPREAD
    height = ops.zeros_like(x[..., :1]) + _HEIGHT[:, None, None]
    x = conv(layers.Concatenate(name="both")([x, height]), 6, 5, "enter")
    y = x = layers.LeakyReLU(0.3, name="enter_leaky")(x)
    for end in "ab":
        y = layers.LeakyReLU(0.3, name=f"leaky_{end}")(conv(y, 6, 3, f"block_{end}"))
        y = layers.BatchNormalization(name=f"norm_{end}")(y)
    x = layers.Add(name="kept")([x, y])
    model = keras.Model(air, conv(x, 2, 5, "leave"))
    fill(model)
    given = fed(1761, 2, 6, 8, 3) * _SPREAD + _MEAN
    return Pair(model, given.astype(np.float32), ported(model, Globe), "NHWC->NCHW")


_RIM = "pad* concatenate* cat* get_item* getitem* enter enter_poles block_? block_?_poles leave leave_poles"
slip("globe/rows-closed-too", _RIM, "pad-mode")
slip("globe/zeros-around-the-globe", _RIM, "pad-mode", "block-missing")
slip("globe/poles-repeated", _RIM, "pad-mode")
slip("globe/slope-of-torch", "*leaky* leaky_relu*", "activation-param", "activation-kind")
slip("globe/height-first", "both cat* enter", "concat-order", "operand-order wiring")
slip("globe/enter-not-bent", "enter enter_leaky leaky_relu*", "activation-missing", "block-missing")
slip("globe/block-not-kept", "kept add* norm_b leave*", "residual-missing", "block-missing wiring")
defect("globe/bn-eps-of-torch", "norm_?", "bn-eps")(epsilon(1e-5, nn.BatchNorm2d))
defect("globe/rows-for-columns", "enter", "kernel-layout", "weights-perturbed axis-permutation dense-transpose")(
    rewritten("enter.weight", lambda weight: weight.transpose(2, 3))
)
defect("globe/leave-in-half", "leave", "dtype weights-perturbed", "block-extra")(
    rewritten("leave.weight", lambda weight: weight.half().float())
)
ways("globe", "closed-by-cutting", "slope-by-hand")
control("globe/channels-last")(channels_last)
one_layer("globe", "zeros-around-the-globe+rows-for-columns")
neighbours("globe", "enter-not-bent+block-not-kept", "slope-of-torch+bn-eps-of-torch")


# --- particles ----------------------------------------------------------------------------------------------

_TO, _FROM = (np.array(side) for side in zip(*((i, j) for i in range(5) for j in range(5) if i != j), strict=True))


class Jets(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.norm = nn.BatchNorm1d(3, eps=1e-3)
        for name, given, wide in (("edge1", 6, 8), ("edge2", 8, 4), ("node1", 7, 8), ("node2", 8, 5), ("jet", 5, 6)):
            self.add_module(name, nn.Linear(given, wide))
        self.kinds = nn.Linear(6, 3)

    def edges(self, x: torch.Tensor) -> torch.Tensor:
        to, source = x[:, _TO], x[:, _FROM]
        if "first-layer-by-ends" in self.ways:
            weight = self.edge1.weight
            x = F.linear(to, weight[:, :3], self.edge1.bias) + F.linear(source, weight[:, 3:])
        else:
            x = self.edge1(torch.cat([source, to] if "sender-first" in self.ways else [to, source], dim=2))
        x = self.edge2(F.relu(x))
        return x if "edges-not-bent" in self.ways else F.relu(x)

    def gathered(self, y: torch.Tensor) -> torch.Tensor:
        if "gathered-by-index" in self.ways or "gathered-at-senders" in self.ways:
            own = torch.from_numpy(_FROM if "gathered-at-senders" in self.ways else _TO)
            return y.new_zeros(len(y), 5, 4).index_add(1, own, y)
        y = y.unflatten(1, (5, 4))
        return y.mean(2) if "means-gathered" in self.ways else y.sum(2)

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        x = parts if "particles-not-normed" in self.ways else self.norm(parts.mT).mT
        y = self.gathered(self.edges(x))
        y = torch.cat([y, x] if "told-first" in self.ways else [x, y], dim=2)
        x = F.relu(self.node2(F.relu(self.node1(y))))
        if "largest-of-particles" in self.ways:
            x = x.amax(1)
        else:
            x = x.mean(1) if "mean-of-particles" in self.ways else x.sum(1)
        x = F.relu(self.jet(x))
        return F.softmax(self.kinds(x), dim=1)


@network
def jets() -> Pair:
    """An interaction network for jets: what each two particles tell the first, sums of it, and the sum of all."""
    keras.backend.clear_session()
    parts = layers.Input((5, 3), name="parts")
    x = layers.BatchNormalization(name="norm")(parts)
    y = layers.Concatenate(name="ends")([ops.take(x, _TO, axis=1), ops.take(x, _FROM, axis=1)])
    y = layers.Dense(8, activation="relu", name="edge1")(y)
    y = layers.Dense(4, activation="relu", name="edge2")(y)
    y = ops.sum(layers.Reshape((5, 4, 4), name="by_receiver")(y), axis=2)
    y = layers.Dense(8, activation="relu", name="node1")(layers.Concatenate(name="told")([x, y]))
    x = ops.sum(layers.Dense(5, activation="relu", name="node2")(y), axis=1)
    x = layers.Dense(6, activation="relu", name="jet")(x)
    model = keras.Model(parts, layers.Dense(3, activation="softmax", name="kinds")(x))
    fill(model)
    grown(model, 0.4, "node2", "jet")
    return Pair(model, fed(1762, 6, 5, 3), ported(model, Jets), "same")


_GATHER = "by_receiver unflatten* sum* mean* index_add* told cat* node1 edge2"
slip("jets/sender-first", "ends take* get_item* getitem* cat* edge1", "concat-order operand-order", "wiring")
slip("jets/edges-not-bent", "edge2 relu* by_receiver unflatten*", "activation-missing", "block-missing")
slip("jets/gathered-at-senders", _GATHER, "wiring reshape-order axis-permutation",
     "operand-order operation-kind weights-perturbed block-extra")  # fmt: skip
slip("jets/means-gathered", _GATHER, "pool-kind scale", "operation-kind")
slip("jets/particles-not-normed", "norm parts mT* ends get_item* getitem* take*", "block-missing input-normalisation",
     "bn-stats")  # fmt: skip
slip("jets/told-first", "told cat* node1", "concat-order", "operand-order wiring")
slip("jets/largest-of-particles", "node2 relu* sum* amax* jet", "pool-kind", "operation-kind")
slip("jets/mean-of-particles", "node2 relu* sum* mean* jet", "pool-kind scale", "operation-kind")
defect("jets/deviation-for-variance", "norm", "bn-stats", "weights-perturbed")(
    rewritten("norm.running_var", torch.sqrt)
)
defect("jets/node-not-biased", "node1", "bias-missing", "weights-not-loaded")(set_to("node1", bias=None))
ways("jets", "first-layer-by-ends", "gathered-by-index")
one_layer("jets", "sender-first+edges-not-bent")
neighbours("jets", "told-first+node-not-biased", "deviation-for-variance+means-gathered")


# --- groups -----------------------------------------------------------------------------------------------


class Groups(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.embed, self.assign = nn.Linear(4, 6, bias=False), nn.Linear(4, 3, bias=False)
        self.deep, self.norm, self.label = nn.Linear(6, 6), nn.BatchNorm1d(6, eps=1e-3), nn.Linear(12, 2)

    def levelled(self, graph: torch.Tensor) -> torch.Tensor:
        graph = graph if "self-forgotten" in self.ways else graph + torch.eye(graph.shape[1])
        if "levelled-by-rows" in self.ways:
            return graph / graph.sum(2, keepdim=True)
        share = graph.sum(2) ** -0.5
        if "levelled-by-diagonals" in self.ways:
            return torch.diag_embed(share) @ graph @ torch.diag_embed(share)
        return share[:, :, None] * graph * share[:, None]

    def forward(self, nodes: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
        near = self.levelled(graph)
        z = near @ self.embed(nodes)
        z = z if "embedding-not-bent" in self.ways else F.relu(z)
        shares = F.softmax(near @ self.assign(nodes), dim=1 if "shared-among-nodes" in self.ways else 2)
        if "length-forgotten" not in self.ways:
            z = F.normalize(z, dim=1 if "length-over-nodes" in self.ways else 2, eps=1e-12)
        if "groups-by-einsum" in self.ways:
            x, among = torch.einsum("bng,bnf->bgf", shares, z), torch.einsum("bng,bnm,bmh->bgh", shares, graph, shares)
        else:
            x, among = shares.mT @ z, shares.mT @ graph @ shares
        x = self.deep(x if "groups-apart" in self.ways else among @ x)
        x = self.norm(F.relu(x).mT).mT
        first = z.mean(1) if "mean-of-nodes" in self.ways else z.amax(1)
        both = [x.amax(1), first] if "groups-first" in self.ways else [first, x.amax(1)]
        return self.label(torch.cat(both, dim=1))


@network
def groups() -> Pair:
    """DiffPool: a levelled graph, nodes of length one, their shares in three groups, a graph of these, the largest."""
    keras.backend.clear_session()
    nodes, graph = layers.Input((7, 4), name="nodes"), layers.Input((7, 7), name="graph")
    own = graph + np.eye(7, dtype=np.float32)
    share = ops.rsqrt(ops.sum(own, axis=2, keepdims=True))
    near = own * share * ops.transpose(share, (0, 2, 1))
    z = ops.relu(ops.matmul(near, layers.Dense(6, use_bias=False, name="embed")(nodes)))
    z = layers.UnitNormalization(axis=2, name="length")(z)
    shares = ops.matmul(near, layers.Dense(3, use_bias=False, name="assign")(nodes))
    shares = layers.Softmax(name="shares")(shares)
    turned = ops.transpose(shares, (0, 2, 1))
    x, among = ops.matmul(turned, z), ops.matmul(ops.matmul(turned, graph), shares)
    x = layers.Dense(6, activation="relu", name="deep")(ops.matmul(among, x))
    x = layers.BatchNormalization(name="norm")(x)
    both = layers.Concatenate(name="both")([ops.max(z, axis=1), layers.GlobalMaxPooling1D(name="largest")(x)])
    model = keras.Model([nodes, graph], layers.Dense(2, name="label")(both))
    fill(model)
    grown(model, 2, "assign", "label")
    drawn = np.triu(fed(1764, 4, 7, 7) > 0.5, 1) | np.eye(7, k=1, dtype=bool)
    bonds = (drawn | drawn.transpose(0, 2, 1)).astype(np.float32)
    return Pair(model, {"nodes": fed(1763, 4, 7, 4), "graph": bonds}, ported(model, Groups), "same")


_LEVEL = "add* div* slice* sum* rsqrt* pow* mul* multiply* truediv* transpose* get_item* getitem* eye* matmul*"
_Z = "relu* matmul* length* normalize* embed shares"
slip("groups/self-forgotten", _LEVEL, "block-missing residual-missing", "wiring")
slip("groups/levelled-by-rows", _LEVEL, "operation-kind norm-axis block-missing", "scale wiring")
slip("groups/embedding-not-bent", _Z, "activation-missing", "block-missing")
slip("groups/length-forgotten", _Z, "block-missing", "scale")
slip("groups/length-over-nodes", _Z, "norm-axis", "operation-kind")
slip("groups/shared-among-nodes", "assign shares softmax* matmul*", "softmax-axis")
slip("groups/groups-apart", "matmul* transpose* mT* deep", "block-missing", "wiring")
slip("groups/mean-of-nodes", "max* amax* mean* both cat* length* normalize*", "pool-kind", "operation-kind")
slip("groups/groups-first", "both cat* label", "concat-order", "operand-order wiring")
defect("groups/embedding-as-drawn", "embed", "weights-not-loaded weights-perturbed", "weights-swapped")(
    rewritten("embed.weight", lambda weight: torch.from_numpy(fed(1765, *weight.shape)) * 0.3)
)
ways("groups", "levelled-by-diagonals", "groups-by-einsum")
one_layer("groups", "self-forgotten+levelled-by-rows", "embedding-not-bent+length-over-nodes")
neighbours("groups", "shared-among-nodes+groups-apart", "mean-of-nodes+groups-first")
