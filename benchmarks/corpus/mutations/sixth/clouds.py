"""Points in space, and nodes of a graph."""

from __future__ import annotations

import keras
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.sixth.registry import (
    Port,
    counted,
    defect,
    epsilon,
    exchanged,
    fed,
    neighbours,
    network,
    one_layer,
    ported,
    rewritten,
    slip,
    way,
)


class Points(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.turn_conv, self.turn = nn.Conv1d(3, 6, 1), nn.Linear(6, 9)
        self.conv1, self.bn1 = nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv1d(8, 8, 1), nn.BatchNorm1d(8, eps=1e-3)
        self.conv3, self.bn3 = nn.Conv1d(16, 9, 1), nn.BatchNorm1d(9, eps=1e-3)
        self.parts = nn.Conv1d(9, 4, 1)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(2) if "pooled-in-the-mean" in self.ways else x.amax(2)

    def turned(self, x: torch.Tensor) -> torch.Tensor:
        y = self.turn(self.pool(F.relu(self.turn_conv(x)))).unflatten(1, (3, 3))
        y = y if "identity-lost" in self.ways else y + torch.eye(3)
        if "turned-by-name" in self.ways:
            return torch.einsum("bcd,bcn->bdn", y, x)
        return (y if "turned-back" in self.ways else y.transpose(1, 2)) @ x

    def forward(self, cloud: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(self.turned(cloud))))
        x = self.bn2(F.relu(self.conv2(x))) if "norm-behind-rectifier" in self.ways else F.relu(self.bn2(self.conv2(x)))
        whole = self.pool(x)
        if "whole-viewed" in self.ways:
            whole = whole.repeat(1, 20).view(-1, 8, 20)
        else:
            whole = whole[:, :, None].expand(-1, -1, 20)
        x = torch.cat([whole, x] if "whole-first" in self.ways else [x, whole], dim=1)
        if "perceptrons" in self.ways:
            last = nn.utils.fuse_conv_bn_eval(self.conv3, self.bn3)
            x = F.relu(F.linear(x.transpose(1, 2), last.weight[:, :, 0], last.bias))
            return F.softmax(F.linear(x, self.parts.weight[:, :, 0], self.parts.bias), dim=-1)
        x = self.bn3(self.conv3(x))
        x = self.parts(x if "last-not-rectified" in self.ways else F.relu(x))
        return F.softmax(x, dim=2 if "parts-over-points" in self.ways else 1).transpose(1, 2)


@network
def points() -> Pair:
    """A PointNet that names each point's part; the cloud is turned by what a small network of its own says."""
    keras.backend.clear_session()
    cloud = layers.Input((20, 3), name="cloud")
    x = layers.Conv1D(6, 1, activation="relu", name="turn_conv")(cloud)
    x = layers.Dense(9, name="turn")(layers.GlobalMaxPooling1D(name="turn_pool")(x))
    x = layers.Reshape((3, 3), name="turn_matrix")(x) + ops.eye(3)
    x = layers.Dot(axes=(2, 1), name="turned")([cloud, x])
    for i, width in ((1, 8), (2, 8)):
        x = layers.BatchNormalization(name=f"bn{i}")(layers.Conv1D(width, 1, name=f"conv{i}")(x))
        x = layers.ReLU(name=f"relu{i}")(x)
    whole = layers.RepeatVector(20, name="whole")(layers.GlobalMaxPooling1D(name="pool")(x))
    x = layers.Concatenate(name="joined")([x, whole])
    x = layers.ReLU(name="relu3")(layers.BatchNormalization(name="bn3")(layers.Conv1D(9, 1, name="conv3")(x)))
    model = keras.Model(cloud, layers.Conv1D(4, 1, activation="softmax", name="parts")(x))
    fill(model)
    return Pair(model, fed(61, 3, 20, 3), ported(model, Points), "NHWC->NCHW")


slip("points/turned-back", "turned matmul transpose add turn_matrix add* unflatten", "axis-permutation dense-transpose",
     "wiring reshape-order operand-order shift block-missing")  # fmt: skip
slip("points/identity-lost", "add* turn turn_matrix unflatten turned matmul", "residual-missing bias-missing",
     "block-missing")  # fmt: skip
slip("points/pooled-in-the-mean", "pool turn_pool amax amax_1 mean mean_1", "pool-kind")
slip("points/last-not-rectified", "bn3 relu3 relu_3 parts", "activation-missing", "block-missing")
slip("points/norm-behind-rectifier", "conv2 bn2 relu2 relu_2", "residual-order wiring",
     "operation-kind block-missing block-extra activation-extra activation-missing")  # fmt: skip
slip("points/whole-viewed", "whole expand unsqueeze getitem* repeat view joined cat", "reshape-order axis-permutation")
slip("points/whole-first", "joined cat conv3", "concat-order", "operand-order")
slip("points/parts-over-points", "parts softmax", "softmax-axis", "operation-kind")
defect("points/norm-eps-default", "bn?", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("points/mean-left", "bn1", "bn-stats", "weights-not-loaded weights-perturbed")(
    rewritten("bn1.running_mean", torch.zeros_like)
)
way("points/turned-by-name")
way("points/perceptrons")
one_layer("points", "norm-eps-default+mean-left", "identity-lost+turned-back")
neighbours("points", "whole-first+whole-viewed")


# --- a graph ------------------------------------------------------------------------------------------------


class Hop(Port):
    """What a node is and what its neighbours are in the mean."""

    def __init__(self, ways: frozenset[str], inner: int, outer: int) -> None:
        super().__init__(ways)
        self.own, self.near = nn.Linear(inner, outer), nn.Linear(inner, outer, bias=False)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        degree = edges.sum(-1, keepdim=True)
        near = torch.einsum("bij,bjc->bic", edges, x) if "summed-by-name" in self.ways else edges @ x
        near = near if "neighbours-summed" in self.ways else near / degree.clamp(min=1)
        if "joined" in self.ways:
            both = torch.cat([self.own.weight, self.near.weight], dim=1)
            x = F.relu(F.linear(torch.cat([x, near], dim=-1), both, self.own.bias))
        else:
            x = F.relu(self.own(x) + self.near(near))
        return F.normalize(x, dim=1 if "length-over-nodes" in self.ways else -1)


class Sage(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        rest = ways - {"length-over-nodes"}
        self.hop1, self.hop2 = Hop(rest, 6, 8), Hop(ways - {"neighbours-summed"}, 8, 8)
        self.gate, self.value, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        edges = edges.transpose(1, 2) if "edges-turned" in self.ways else edges
        edges = edges + torch.eye(9) if "itself-a-neighbour" in self.ways else edges
        x = self.hop2(self.hop1(nodes, edges), edges)
        x = torch.sigmoid(self.gate(x)) * torch.tanh(self.value(x))
        x = x if "all-nodes-there" in self.ways else x * there[:, :, None]
        return self.head(x.mean(1) if "graph-in-the-mean" in self.ways else x.sum(1))


@network
def sage() -> Pair:
    """GraphSAGE with directed edges: means of neighbours, vectors of length one, a gated sum of the nodes there."""
    keras.backend.clear_session()
    nodes, edges = layers.Input((9, 6), name="nodes"), layers.Input((9, 9), name="edges")
    there = layers.Input((9,), name="there")
    degree = ops.maximum(ops.sum(edges, axis=-1, keepdims=True), 1.0)
    x = nodes
    for i in (1, 2):
        near = layers.Dot(axes=(2, 1), name=f"hop{i}.sum")([edges, x]) / degree
        own = layers.Dense(8, name=f"hop{i}.own")(x)
        x = layers.Add(name=f"hop{i}.add")([own, layers.Dense(8, use_bias=False, name=f"hop{i}.near")(near)])
        x = layers.UnitNormalization(name=f"hop{i}.length")(layers.ReLU(name=f"hop{i}.relu")(x))
    gate = layers.Dense(8, activation="sigmoid", name="gate")(x)
    x = layers.Multiply(name="gated")([gate, layers.Dense(8, activation="tanh", name="value")(x)])
    x = layers.Multiply(name="masked")([x, ops.expand_dims(there, -1)])
    model = keras.Model([nodes, edges, there], layers.Dense(3, name="head")(ops.sum(x, axis=1)))
    fill(model)
    lines = counted(63, 10, 3, 9, 9) < 3
    lines[:, 4] = False
    inputs = {"nodes": fed(62, 3, 9, 6), "edges": lines.astype("float32"),
              "there": (counted(64, 10, 3, 9) < 7).astype("float32")}  # fmt: skip
    return Pair(model, inputs, ported(model, Sage), "same")


def _exchanged(hop: Hop) -> None:
    hop.own.weight, hop.near.weight = hop.near.weight, hop.own.weight


slip("sage/neighbours-summed", "hop1.* *divide* *div*", "pool-kind block-missing", "operation-kind scale")
slip(
    "sage/edges-turned", "edges transpose hop?.sum hop?.matmul sum* hop?.sum*", "axis-permutation", "wiring block-extra"
)
slip(
    "sage/itself-a-neighbour", "edges add hop?.sum hop?.matmul sum* hop?.sum*", "block-extra", "wiring residual-missing"
)
slip("sage/length-over-nodes", "hop2.length hop2.normalize", "norm-axis", "operation-kind")
slip("sage/all-nodes-there", "masked gated mul mul_1 expand_dims sum sum_*", "attention-mask block-missing", "wiring")
slip("sage/graph-in-the-mean", "sum sum_1 mean head", "pool-kind scale", "operation-kind")
defect("sage/own-for-near", "hop2.own hop2.near", "weights-swapped", "weights-perturbed operand-order wiring")(
    lambda port: _exchanged(port.hop2)
)
defect("sage/near-unturned", "hop2.near", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("hop2.near.weight", lambda weight: weight.T)
)
defect("sage/gate-and-value-exchanged", "gate value gated mul sigmoid tanh", "weights-swapped activation-kind",
       "weights-perturbed operand-order wiring")(exchanged("gate", "value"))  # fmt: skip

way("sage/summed-by-name")
way("sage/joined")
one_layer("sage", "neighbours-summed+edges-turned", "own-for-near+near-unturned")
neighbours("sage", "all-nodes-there+graph-in-the-mean")
