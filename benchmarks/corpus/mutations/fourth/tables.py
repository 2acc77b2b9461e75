"""Rows of a table with embeddings and crossed features, and molecules as graphs."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import carry, fill
from benchmarks.corpus.mutations.fourth.registry import control, defect, neighbours, network, one_layer
from benchmarks.corpus.mutations.pairs import Pair

_MEAN = np.array([40.0, 1.5, 0.2, 12.0, 300.0, 5.0], np.float32)
_VARIANCE = np.array([120.0, 0.4, 0.02, 30.0, 9000.0, 2.0], np.float32)


class Cross(nn.Module):
    """x0 ⊙ (W x + b) + x."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(18, 18)

    def cross(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x0 * self.dense(x) + x

    def forward(self, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.cross(x0, x)


class Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(_MEAN), persistent=False)
        self.register_buffer("deviation", torch.from_numpy(np.sqrt(_VARIANCE)), persistent=False)
        self.city, self.job, self.shop = nn.Embedding(8, 4), nn.Embedding(8, 4), nn.Embedding(6, 4)
        self.joined_bn = nn.BatchNorm1d(18, eps=1e-3, momentum=0.01)
        self.cross1, self.cross2 = Cross(), Cross()
        self.hidden1, self.hidden1_bn = nn.Linear(18, 16), nn.BatchNorm1d(16, eps=1e-3, momentum=0.01)
        self.hidden2, self.head = nn.Linear(16, 16), nn.Linear(16, 1)

    def standardise(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.deviation

    def ids(self, kinds: torch.Tensor) -> torch.Tensor:
        return kinds

    def crossed(self, x0: torch.Tensor) -> torch.Tensor:
        return self.cross2(x0, self.cross1(x0, x0))

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.3)

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden1_bn(self.slope(self.hidden1(x)))

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(x, 0.1, self.training)

    def forward(self, numbers: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        kinds = self.ids(kinds)
        found = [table(kinds[:, i]) for i, table in enumerate((self.city, self.job, self.shop))]
        x = self.joined_bn(torch.cat([self.standardise(numbers), *found], dim=1))
        x = F.selu(self.hidden2(self.drop(self.first(self.crossed(x)))))
        return torch.sigmoid(self.head(x))


@network
def table() -> Pair:
    """Numbers standardised, three tables, a normalisation of all, two crossings, two dense layers."""
    keras.backend.clear_session()
    numbers, kinds = layers.Input((6,), name="numbers"), layers.Input((3,), dtype="int32", name="kinds")
    found = [layers.Normalization(mean=_MEAN, variance=_VARIANCE, name="standardise")(numbers)]
    for i, (name, size) in enumerate((("city", 8), ("job", 8), ("shop", 6))):
        found.append(layers.Embedding(size, 4, name=name)(kinds[:, i]))
    x = x0 = layers.BatchNormalization(name="joined_bn")(layers.Concatenate(name="join")(found))
    for name in ("cross1", "cross2"):
        y = layers.Multiply(name=f"{name}_times")([x0, layers.Dense(18, name=f"{name}_dense")(x)])
        x = layers.Add(name=f"{name}_add")([y, x])
    x = layers.LeakyReLU(name="hidden1_slope")(layers.Dense(16, name="hidden1")(x))
    x = layers.Dropout(0.1, name="drop")(layers.BatchNormalization(name="hidden1_bn")(x))
    x = layers.Dense(16, activation="selu", name="hidden2")(x)
    model = keras.Model([numbers, kinds], layers.Dense(1, activation="sigmoid", name="head")(x))
    fill(model)
    rng = np.random.default_rng(28)
    inputs = {"numbers": (rng.standard_normal((4, 6)) * np.sqrt(_VARIANCE) + _MEAN).astype(np.float32),
              "kinds": rng.integers(1, 6, (4, 3)).astype(np.int32)}  # fmt: skip
    return Pair(model, inputs, lambda: carry(model, Table(), lambda n: n.replace("_dense", ".dense")), "same")


_STANDARD = "standardise sub div truediv subtract mean deviation"


@defect("table/divided-by-variance", _STANDARD, "input-normalisation",
        "input-scale scale weights-perturbed bn-stats std-ddof norm-axis operation-kind")  # fmt: skip
def _(port: Any) -> None:
    """What the layer keeps is the variance."""
    port.deviation = torch.from_numpy(_VARIANCE)


@defect("table/deviation-of-pandas", _STANDARD, "std-ddof input-normalisation scale", "input-scale weights-perturbed")
def _(port: Any) -> None:
    """Over n - 1, of forty rows."""
    port.deviation = port.deviation * (40 / 39) ** 0.5


@defect("table/ids-without-unknown", "city job shop sub", "embedding-offset",
        "weights-perturbed shift block-extra weights-not-loaded")  # fmt: skip
def _(port: Any) -> None:
    """The lookup's place for what is unknown was left out."""
    port.ids = lambda kinds: kinds - 1


@defect("table/tables-exchanged", "city job", "weights-swapped", "weights-not-loaded concat-order wiring")
def _(port: Any) -> None:
    """Loaded in the alphabet's order of other names."""
    kept = copy.deepcopy(port.city.state_dict())
    port.city.load_state_dict(port.job.state_dict())
    port.job.load_state_dict(kept)


@defect("table/gamma-for-beta", "joined_bn", "bn-stats", "weights-perturbed weights-swapped weights-not-loaded")
def _(port: Any) -> None:
    norm = port.joined_bn
    kept = norm.weight.data.clone()
    norm.weight.data.copy_(norm.bias.data)
    norm.bias.data.copy_(kept)


@defect("table/momentum-copied", "joined_bn hidden1_bn", "training-bn-momentum", latent=True)
def _(port: Any) -> None:
    port.joined_bn.momentum = port.hidden1_bn.momentum = 0.99


@defect("table/crossed-with-itself", "cross2_times cross2?mul cross2", "wiring", "operation-kind operand-order")
def _(port: Any) -> None:
    port.crossed = lambda x0: port.cross2(port.cross1(x0, x0), port.cross1(x0, x0))


@defect("table/crossed-without-residual", "cross1_add cross1?add cross1_times cross1?mul", "residual-missing",
        "block-missing")  # fmt: skip
def _(port: Any) -> None:
    port.cross1.cross = lambda x0, x: x0 * port.cross1.dense(x)


@defect("table/slope-of-torch", "hidden1_slope leaky_relu", "activation-param", "activation-kind")
def _(port: Any) -> None:
    port.slope = F.leaky_relu


@defect("table/norm-before-activation", "hidden1_slope leaky_relu hidden1_bn hidden1",
        "wiring residual-order activation-missing activation-extra",
        "block-missing block-extra operation-kind")  # fmt: skip
def _(port: Any) -> None:
    port.first = lambda x: port.slope(port.hidden1_bn(port.hidden1(x)))


@defect("table/dropping-always", "drop dropout", "dropout-mode", "scale block-extra")
def _(port: Any) -> None:
    """The function drops unless it is told not to."""
    port.drop = lambda x: F.dropout(x, 0.1)


@defect("table/square-unturned", "hidden2", "dense-transpose", "kernel-layout weights-perturbed")
def _(port: Any) -> None:
    port.hidden2.weight.data = port.hidden2.weight.data.T.contiguous()


@defect("table/bias-forgotten", "hidden2", "bias-missing", "weights-perturbed weights-not-loaded")
def _(port: Any) -> None:
    port.hidden2.bias.data.zero_()


@control("table/normalised-in-weights")
def _(port: Any) -> None:
    """The standardisation as a multiplication, and the selu written out."""
    factor = 1 / port.deviation
    port.standardise = lambda x: x * factor - port.mean * factor
    port.slope = lambda x: torch.where(x > 0, x, 0.3 * x)


@control("table/tables-by-product")
def _(port: Any) -> None:
    """Embeddings as rows picked with ones and zeros."""
    for name in ("city", "job", "shop"):
        setattr(port, name, _Picked(getattr(port, name)))


class _Picked(nn.Module):
    def __init__(self, table: Any) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.one_hot(ids.long(), len(self.weight)).float() @ self.weight


one_layer("table", "square-unturned+bias-forgotten")
neighbours("table", "ids-without-unknown+gamma-for-beta")


# --- graphs -------------------------------------------------------------------------------------------------


class Neighbours(nn.Module):
    """A graph attention of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 7, bias=False)
        self.source, self.target = nn.Linear(7, 1, bias=False), nn.Linear(7, 1, bias=False)

    def pairs(self, h: torch.Tensor) -> torch.Tensor:
        return self.source(h) + self.target(h).transpose(1, 2)

    def slope(self, x: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(x, 0.2)

    def masked(self, scores: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(joined == 0, -1e9)

    def weigh(self, scores: torch.Tensor) -> torch.Tensor:
        return torch.softmax(scores, dim=-1)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return F.elu(x)

    def forward(self, x: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
        h = self.project(x)
        return self.act(self.weigh(self.masked(self.slope(self.pairs(h)), joined)) @ h)


class GraphConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(8, 8)), nn.Parameter(torch.zeros(8))

    def normalised(self, joined: torch.Tensor) -> torch.Tensor:
        root = joined.sum(-1).clamp(min=1).rsqrt()
        return root[:, :, None] * joined * root[:, None, :]

    def spread(self, joined: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.normalised(joined) @ x

    def forward(self, x: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
        return self.spread(joined, x @ self.weight.T) + self.bias


class Molecule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Linear(5, 8), GraphConvolution()
        self.attend, self.head = Neighbours(), nn.Linear(7, 3)

    def looped(self, bonds: torch.Tensor) -> torch.Tensor:
        return bonds + torch.eye(9)

    def read(self, x: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
        there = (atoms.abs().sum(-1, keepdim=True) > 0).float()
        return (x * there).sum(1) / there.sum(1)

    def forward(self, atoms: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        joined = self.looped(bonds)
        x = F.relu(self.conv(torch.tanh(self.embed(atoms)), joined))
        return self.head(self.read(self.attend(x, joined), atoms))


class _GraphConvolution(layers.Layer):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.kernel = self.add_weight(shape=(8, 8), name="kernel")
        self.bias = self.add_weight(shape=(8,), name="bias")

    def call(self, x: Any, joined: Any) -> Any:
        root = ops.rsqrt(ops.maximum(ops.sum(joined, axis=-1), 1.0))
        spread = ops.expand_dims(root, 2) * joined * ops.expand_dims(root, 1)
        return ops.matmul(spread, ops.matmul(x, self.kernel)) + self.bias


@network
def molecule() -> Pair:
    """A graph convolution, a graph attention, the mean of the atoms that are there; bonds have a direction."""
    keras.backend.clear_session()
    atoms, bonds = layers.Input((9, 5), name="atoms"), layers.Input((9, 9), name="bonds")
    joined = bonds + np.eye(9, dtype=np.float32)
    x = layers.Dense(8, activation="tanh", name="embed")(atoms)
    x = layers.ReLU(name="conv_relu")(_GraphConvolution("conv")(x, joined))
    h = layers.Dense(7, use_bias=False, name="attend_project")(x)
    source = layers.Dense(1, use_bias=False, name="attend_source")(h)
    target = layers.Permute((2, 1), name="attend_turn")(layers.Dense(1, use_bias=False, name="attend_target")(h))
    scores = layers.LeakyReLU(0.2, name="attend_slope")(source + target)
    scores = ops.where(ops.equal(joined, 0.0), -1e9, scores)
    weights = layers.Softmax(name="attend_weights")(scores)
    x = layers.ELU(name="attend_elu")(ops.matmul(weights, h))
    there = ops.cast(ops.sum(ops.abs(atoms), axis=-1, keepdims=True) > 0, "float32")
    x = ops.sum(x * there, axis=1) / ops.sum(there, axis=1)
    model = keras.Model([atoms, bonds], layers.Dense(3, name="head")(x))
    fill(model)
    for name in ("attend_source", "attend_target"):
        model.get_layer(name).kernel.assign(model.get_layer(name).kernel * 3)
    rng = np.random.default_rng(29)
    atoms_, bonds_ = rng.standard_normal((2, 9, 5)).astype(np.float32), np.zeros((2, 9, 9), np.float32)
    for i, count in enumerate((7, 8)):
        bonds_[i, :count, :count] = np.triu(rng.uniform(0, 1, (count, count)) < 0.4, 1)
        bonds_[i, np.arange(1, count), np.arange(count - 1)] = 1
        atoms_[i, count:] = 0

    def make() -> Any:
        return carry(model, Molecule(), lambda name: name.replace("attend_", "attend."))

    return Pair(model, {"atoms": atoms_, "bonds": bonds_}, make, "same")


_SPREAD = "conv add bonds"
_SCORES = "attend_slope add_1 where equal attend_weights attend.masked_fill attend.softmax attend.leaky_relu"


@defect(
    "molecule/no-loops",
    f"{_SPREAD} eye",
    "block-missing residual-missing",
    "operation-kind attention-mask bias-missing",
)
def _(port: Any) -> None:
    """An atom does not belong to its own neighbours; the attention keeps them apart from it."""
    port.looped = lambda bonds: bonds


@defect("molecule/mean-of-neighbours", _SPREAD, "norm-axis operation-kind", "scale wiring block-missing")
def _(port: Any) -> None:
    """By the rows' sums alone."""
    port.conv.normalised = lambda joined: joined / joined.sum(-1, keepdim=True).clamp(min=1)


@defect("molecule/bonds-turned", _SPREAD, "axis-permutation", "wiring operand-order norm-axis operation-kind")
def _(port: Any) -> None:
    """From target to source, as the list of edges was written."""
    spread = port.conv.spread
    port.conv.spread = lambda joined, x: spread(joined.transpose(1, 2), x)


@defect("molecule/source-for-target", "attend_source attend_target attend_turn add_1 attend.source attend.target "
        "attend.add attend.transpose", "weights-swapped axis-permutation operand-order", "wiring")  # fmt: skip
def _(port: Any) -> None:
    port.attend.pairs = lambda h: port.attend.source(h).transpose(1, 2) + port.attend.target(h)


@defect("molecule/slope-default", "attend_slope attend.leaky_relu", "activation-param", "activation-kind")
def _(port: Any) -> None:
    port.attend.slope = F.leaky_relu


@defect("molecule/everyone-attended", _SCORES, "attention-mask", "block-missing operation-kind wiring")
def _(port: Any) -> None:
    port.attend.masked = lambda scores, joined: scores


@defect("molecule/weights-of-columns", "attend_weights attend.softmax", "softmax-axis")
def _(port: Any) -> None:
    port.attend.weigh = lambda scores: torch.softmax(scores, dim=1)


@defect("molecule/elu-left-out", "attend_elu attend.elu attend.matmul matmul_1", "activation-missing", "block-missing")
def _(port: Any) -> None:
    port.attend.act = lambda x: x


@defect("molecule/mean-of-nine", "sum* mul* multiply* true_divide* div* truediv* mean head", "pool-kind attention-mask",
        "operation-kind block-missing scale wiring")  # fmt: skip
def _(port: Any) -> None:
    """Places without an atom are counted."""
    port.read = lambda x, atoms: x.mean(1)


@control("molecule/infinite-mask")
def _(port: Any) -> None:
    """The mask added, degrees as a diagonal matrix, a product over named axes."""

    def normalised(joined: torch.Tensor) -> torch.Tensor:
        root = torch.diag_embed(joined.sum(-1).clamp(min=1) ** -0.5)
        return root @ joined @ root

    port.conv.normalised = normalised
    port.attend.masked = lambda scores, joined: scores + torch.where(joined == 0, float("-inf"), 0.0)
    port.conv.spread = lambda joined, x: torch.einsum("bij,bjc->bic", normalised(joined), x)


one_layer("molecule", "source-for-target+slope-default")
neighbours("molecule", "elu-left-out+mean-of-nine")
