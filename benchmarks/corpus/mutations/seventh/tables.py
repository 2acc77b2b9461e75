"""Tables: whom one may like, what is crossed with what, which columns are looked at, and sets of any size."""

from __future__ import annotations

import keras
import numpy as np
import torch
from keras import layers, ops
from torch import nn
from torch.nn import functional as F

from benchmarks.corpus.mutations.carrying import fill
from benchmarks.corpus.mutations.pairs import Pair
from benchmarks.corpus.mutations.seventh.registry import defect, grown, neighbours, network, one_layer, slip, ways
from benchmarks.corpus.mutations.sixth.registry import Port, counted, epsilon, exchanged, fed, ported, rewritten


class Taste(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.user_near, self.item_near = nn.Embedding(12, 6), nn.Embedding(12, 6)
        self.user_deep, self.item_deep = nn.Embedding(12, 4), nn.Embedding(12, 4)
        self.deep1, self.deep2, self.head = nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(12, 1)

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
        item = item - 1 if "items-from-one" in self.ways else item
        near, other = self.user_near(user), self.item_near(user if "user-for-item" in self.ways else item)
        near = near + other if "near-by-sum" in self.ways else near * other
        x = [self.user_deep(user), self.item_deep(item)]
        x = torch.cat(x[::-1] if "item-first" in self.ways else x, dim=1)
        x = self.deep1(x)
        x = self.deep2(x if "deep-not-rectified" in self.ways else F.relu(x))
        x = x if "deep-left-linear" in self.ways else F.relu(x)
        if "head-in-parts" in self.ways:
            near, deep = F.linear(near, self.head.weight[:, :6]), F.linear(x, self.head.weight[:, 6:], self.head.bias)
            return 0.5 * (torch.tanh((near + deep) / 2) + 1)
        x = self.head(torch.cat([x, near] if "deep-first" in self.ways else [near, x], dim=1))
        return x if "scores-for-chances" in self.ways else torch.sigmoid(x)


@network
def taste() -> Pair:
    """Neural collaborative filtering: a product of two tables' rows beside a deep network on two others'."""
    keras.backend.clear_session()
    user, item = (layers.Input((), dtype="int32", name=name) for name in ("user", "item"))
    near, deep = (
        [layers.Embedding(12, n, name=f"{name}_{kind}")(x) for name, x in (("user", user), ("item", item))]
        for kind, n in (("near", 6), ("deep", 4))
    )
    near, x = layers.Multiply(name="product")(near), layers.Concatenate(name="pair")(deep)
    x = layers.Dense(6, activation="relu", name="deep2")(layers.Dense(8, activation="relu", name="deep1")(x))
    x = layers.Concatenate(name="both")([near, x])
    model = keras.Model([user, item], layers.Dense(1, activation="sigmoid", name="head")(x))
    fill(model)
    grown(model, 2, "head", "deep1")
    for name in ("user_near", "item_near"):
        table = model.get_layer(name).embeddings
        table.assign(table * 2)
    inputs = {"user": counted(124, 12, 8), "item": counted(125, 12, 8, least=1)}
    return Pair(model, inputs, ported(model, Taste), "same")


slip("taste/items-from-one", "item_near item_deep item sub*", "embedding-offset", "shift weights-perturbed block-extra")
slip("taste/user-for-item", "item_near product mul*", "wiring", "weights-swapped embedding-offset operand-order")
slip("taste/near-by-sum", "product mul* add*", "operation-kind", "residual-extra")
slip("taste/item-first", "pair cat deep1", "concat-order", "operand-order")
slip("taste/deep-not-rectified", "deep1 relu deep2", "activation-missing", "block-missing")
slip("taste/deep-left-linear", "deep2 relu* both cat*", "activation-missing", "block-missing")
slip("taste/deep-first", "both cat_1 head", "concat-order", "operand-order")
slip("taste/scores-for-chances", "head sigmoid", "logits activation-missing", "block-missing")
defect("taste/tables-exchanged", "user_deep item_deep", "weights-swapped", "weights-perturbed wiring")(
    exchanged("user_deep", "item_deep")
)
defect("taste/first-unturned", "deep1", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("deep1.weight", lambda weight: weight.T)
)
ways("taste", "head-in-parts")
one_layer("taste", "deep-not-rectified+first-unturned")
neighbours("taste", "item-first+deep-not-rectified", "near-by-sum+deep-first")


# --- crossed ------------------------------------------------------------------------------------------------


class Crossed(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.table, self.linear = nn.Embedding(20, 4), nn.Embedding(20, 1)
        self.cross1, self.cross2 = nn.Conv1d(16, 5, 1), nn.Conv1d(20, 5, 1)
        self.deep, self.head = nn.Linear(16, 6), nn.Linear(16, 1)
        self.register_buffer("starts", torch.tensor([0, 6, 10, 15]), persistent=False)

    def crossed(self, conv: nn.Conv1d, x: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        if "crossed-by-name" in self.ways:
            weight = conv.weight[:, :, 0].unflatten(1, (x.shape[1], 4))
            return F.relu(torch.einsum("bhd,bmd,ohm->bod", x, first, weight) + conv.bias[:, None])
        y = x[:, :, None] * first[:, None]
        y = conv((y.transpose(1, 2) if "first-field-outermost" in self.ways else y).flatten(1, 2))
        return y if "crosses-not-rectified" in self.ways else F.relu(y)

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        fields = fields if "starts-forgotten" in self.ways else fields + self.starts
        x = self.table(fields)
        y = self.crossed(self.cross1, x, x)
        z = self.crossed(self.cross2, y, y[:, :4] if "crossed-with-itself" in self.ways else x)
        y = torch.cat([y, z], dim=1)
        y = y.mean(2) if "mean-of-the-factors" in self.ways else y.sum(2)
        if "factors-outermost" in self.ways:
            x = x.transpose(1, 2)
        x = F.relu(self.deep(x.flatten(1)))
        x = self.head(torch.cat([x, y] if "deep-first" in self.ways else [y, x], dim=1))
        if "linear-part-lost" in self.ways:
            return torch.sigmoid(x)
        return torch.sigmoid(x + self.linear(fields).sum(1))


@network
def crossed() -> Pair:
    """xDeepFM: factors of four fields crossed twice with the first, beside a deep and a linear part."""
    keras.backend.clear_session()
    fields = layers.Input((4,), dtype="int32", name="fields")
    rows = fields + np.array([0, 6, 10, 15], "int32")
    x = layers.Embedding(20, 4, name="table")(rows)

    def cross(x: keras.KerasTensor, first: keras.KerasTensor, name: str) -> keras.KerasTensor:
        y = ops.expand_dims(x, 2) * ops.expand_dims(first, 1)
        y = layers.Permute((2, 1), name=f"{name}_turned")(ops.reshape(y, (-1, x.shape[1] * 4, 4)))
        y = layers.Conv1D(5, 1, activation="relu", name=name)(y)
        return layers.Permute((2, 1), name=f"{name}_back")(y)

    y = cross(x, x, "cross1")
    y = layers.Concatenate(axis=1, name="orders")([y, cross(y, x, "cross2")])
    deep = layers.Dense(6, activation="relu", name="deep")(layers.Flatten(name="flat")(x))
    y = layers.Concatenate(name="both")([ops.sum(y, axis=2), deep])
    y = layers.Dense(1, name="head")(y) + ops.sum(layers.Embedding(20, 1, name="linear")(rows), axis=1)
    model = keras.Model(fields, layers.Activation("sigmoid", name="chance")(y))
    fill(model)
    table = model.get_layer("table").embeddings
    table.assign(table * 2)
    return Pair(model, counted(126, 4, 6, 4), ported(model, Crossed), "same")


_CROSSES = (
    "expand_dims* multiply* mul* reshape* transpose* flatten* cross? cross?_turned cross?_back relu relu_1 slice*"
)
slip("crossed/starts-forgotten", "fields table linear add", "embedding-offset block-missing", "bias-missing")
slip("crossed/first-field-outermost", _CROSSES, "reshape-order flatten-order", "kernel-layout wiring operand-order")
slip("crossed/crosses-not-rectified", _CROSSES, "activation-missing", "block-missing")
slip("crossed/crossed-with-itself", _CROSSES, "wiring", "operand-order")
slip("crossed/mean-of-the-factors", "sum mean both", "pool-kind scale", "operation-kind")
slip("crossed/factors-outermost", "flat flatten* transpose* deep", "flatten-order dense-row-order", "wiring")
slip("crossed/deep-first", "both cat_1 head", "concat-order", "operand-order")
slip("crossed/linear-part-lost", "linear sum* add* chance sigmoid head", "residual-missing block-missing",
     "bias-missing wiring")  # fmt: skip
defect("crossed/rows-of-the-second-as-of-keras", "cross2", "kernel-layout", "weights-perturbed dense-transpose")(
    rewritten("cross2.weight", lambda w: w[:, :, 0].T.reshape(5, 20, 1))
)
defect("crossed/linear-as-begun", "linear sum*", "weights-not-loaded", "weights-perturbed block-missing")(
    rewritten("linear.weight", torch.zeros_like)
)
ways("crossed", "crossed-by-name")
one_layer("crossed", "first-field-outermost+crosses-not-rectified")
neighbours("crossed", "mean-of-the-factors+deep-first", "factors-outermost+deep-first")


# --- which columns ------------------------------------------------------------------------------------------


def _sparse(x: torch.Tensor) -> torch.Tensor:
    """Shares that may be none, of which the differences are the scores' own (arXiv:1602.02068, algorithm 1)."""
    ordered = x.sort(dim=1, descending=True).values
    sums = ordered.cumsum(1) - 1
    count = (ordered * torch.arange(1, x.shape[1] + 1) > sums).sum(1, keepdim=True)
    return F.relu(x - sums.gather(1, count - 1) / count)


class Columns(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.norm, self.shared = nn.BatchNorm1d(7, eps=1e-3), nn.Linear(7, 16, bias=False)
        self.own = nn.ModuleList(nn.Linear(8, 16, bias=False) for _ in range(3))
        self.own_bn = nn.ModuleList(nn.BatchNorm1d(16, eps=1e-3) for _ in range(3))
        self.ask = nn.ModuleList(nn.Linear(4, 7, bias=False) for _ in range(2))
        self.ask_bn, self.head = nn.ModuleList(nn.BatchNorm1d(7, eps=1e-3) for _ in range(2)), nn.Linear(4, 3)

    def gated(self, x: torch.Tensor) -> torch.Tensor:
        if "gates-of-torch" in self.ways:
            return F.glu(x, dim=1)
        x, gate = x.chunk(2, dim=1)
        x, gate = (gate, x) if "gate-first" in self.ways else (x, gate)
        return x * (torch.tanh(gate) if "gates-by-tanh" in self.ways else torch.sigmoid(gate))

    def told(self, x: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.gated(self.shared(x))
        y = self.gated(self.own_bn[step](self.own[step](x)))
        y = y if "shared-not-added" in self.ways else x + y
        y = y if "sum-not-shrunk" in self.ways else y * 0.5**0.5
        return y[:, :4], y[:, 4:]

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        row = self.norm(row)
        _, ask = self.told(row, 0)
        prior, total = torch.ones_like(row), torch.zeros(len(row), 4)
        for step in (0, 1):
            score = self.ask_bn[step](self.ask[step](ask))
            score = score if "prior-forgotten" in self.ways else score * prior
            share = F.softmax(score, dim=1) if "shares-never-none" in self.ways else _sparse(score)
            prior = prior * (1.5 - share)
            found, ask = self.told(row * share, step + 1)
            total = total + (found if "steps-not-rectified" in self.ways else F.relu(found))
        return self.head(total / 2 if "mean-of-the-steps" in self.ways else total)


class _Sparse(layers.Layer):  # type: ignore[misc]
    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        ordered = ops.flip(ops.sort(x, axis=1), axis=1)
        many = np.arange(1, 8, dtype="float32")
        sums = ops.cumsum(ordered, axis=1) - 1
        return ops.relu(x - ops.max(sums / many, axis=1, keepdims=True))  # the threshold is the largest of these


@network
def columns() -> Pair:
    """TabNet of two steps: sparse shares of a row's columns, gated layers of which the first are shared."""
    keras.backend.clear_session()
    given = layers.Input((7,), name="row")
    shared = layers.Dense(16, use_bias=False, name="shared")

    def gated(x: keras.KerasTensor) -> keras.KerasTensor:
        x, gate = ops.split(x, 2, axis=1)
        return x * ops.sigmoid(gate)

    def told(x: keras.KerasTensor, step: int) -> keras.KerasTensor:
        x = gated(shared(x))
        y = layers.Dense(16, use_bias=False, name=f"own.{step}")(x)
        y = gated(layers.BatchNormalization(name=f"own_bn.{step}")(y))
        return layers.Add(name=f"sum.{step}")([x, y]) * 0.5**0.5

    row = layers.BatchNormalization(name="norm")(given)
    ask, prior, found = told(row, 0)[:, 4:], None, []
    for step in (0, 1):
        score = layers.Dense(7, use_bias=False, name=f"ask.{step}")(ask)
        score = layers.BatchNormalization(name=f"ask_bn.{step}")(score)
        share = _Sparse(name=f"share.{step}")(score if prior is None else score * prior)
        prior = 1.5 - share
        y = told(row * share, step + 1)
        found.append(layers.ReLU(name=f"relu.{step}")(y[:, :4]))
        ask = y[:, 4:]
    model = keras.Model(given, layers.Dense(3, name="head")(layers.Add(name="total")(found)))
    fill(model)
    grown(model, 2, "shared", "own.0", "own.1", "own.2", "ask.0", "ask.1")
    return Pair(model, fed(127, 6, 7), ported(model, Columns), "same")


_SHARES = (
    "share.* ask_bn.* multiply* mul* rsub* subtract* sub* softmax* sort* cumsum* gather* relu* div* ones_like own.*"
)
_GATED = "split* chunk* sigmoid* tanh* multiply* mul* sum.* add* shared* own.* own_bn.*"
_SUMS = "relu.* total relu* add* slice* get_item* head zeros div*"
slip("columns/shares-never-none", _SHARES, "activation-kind", "operation-kind softmax-axis")
slip("columns/prior-forgotten", _SHARES, "block-missing", "wiring attention-mask")
slip("columns/gate-first", _GATED, "concat-order operand-order channel-order wiring", "activation-kind")
slip("columns/gates-by-tanh", _GATED, "activation-kind")
slip("columns/shared-not-added", _GATED, "residual-missing", "block-missing wiring")
slip("columns/sum-not-shrunk", _GATED, "scale block-missing")
slip("columns/steps-not-rectified", _SUMS, "activation-missing", "block-missing")
slip("columns/mean-of-the-steps", _SUMS, "scale pool-kind block-extra", "operation-kind")
defect("columns/norm-eps-of-torch", "norm own_bn.? ask_bn.?", "bn-eps")(epsilon(1e-5, nn.BatchNorm1d))
defect("columns/steps-exchanged", "ask.? ask_bn.?", "weights-swapped", "weights-perturbed wiring")(
    exchanged("ask.0", "ask.1")
)
ways("columns", "gates-of-torch")
one_layer("columns", "gate-first+gates-by-tanh", "shared-not-added+sum-not-shrunk")
neighbours("columns", "steps-not-rectified+mean-of-the-steps", "steps-exchanged+shares-never-none")


# --- sets ---------------------------------------------------------------------------------------------------


class Sets(Port):
    def __init__(self, ways: frozenset[str]) -> None:
        super().__init__(ways)
        self.each1, self.each2 = nn.Linear(4, 8), nn.Linear(8, 8)
        self.all1, self.all2 = nn.Linear(16, 8), nn.Linear(8, 2)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        there = (items.abs().sum(2, keepdim=True) > 0).float()
        x = self.each1(items)
        x = F.relu(x) if "rectified-for-elu" in self.ways else F.elu(x)
        x = self.each2(x)
        mean = (x * there).sum(1)
        if "mean-of-all-places" in self.ways:
            mean = mean / x.shape[1]
        elif "means-by-weights" in self.ways:
            mean = torch.einsum("bnf,bn->bf", x, F.normalize(there[:, :, 0], p=1, dim=1))
        elif "sum-for-mean" not in self.ways:
            mean = mean / there.sum(1)
        most = (x if "empty-places-among-the-largest" in self.ways else torch.where(there > 0, x, -1e9)).amax(1)
        x = self.all1(torch.cat([most, mean] if "largest-first" in self.ways else [mean, most], dim=1))
        return self.all2(F.gelu(x, approximate="tanh") if "gelu-by-tanh" in self.ways else F.gelu(x))


@network
def sets() -> Pair:
    """Deep sets: each item alone, then the mean and the largest of those that are there."""
    keras.backend.clear_session()
    items = layers.Input((6, 4), name="items")
    there = ops.cast(ops.sum(ops.absolute(items), axis=2, keepdims=True) > 0, "float32")
    x = layers.Dense(8, name="each2")(layers.Dense(8, activation="elu", name="each1")(items))
    mean = ops.sum(x * there, axis=1) / ops.sum(there, axis=1)
    most = ops.max(x + (there - 1) * 1e9, axis=1)
    x = layers.Dense(8, activation="gelu", name="all1")(layers.Concatenate(name="both")([mean, most]))
    model = keras.Model(items, layers.Dense(2, name="all2")(x))
    fill(model)
    grown(model, 2, "each1", "all1")
    items = fed(128, 5, 6, 4)
    items[0, 4:], items[1, 2:], items[2, 5:] = 0, 0, 0
    bias = model.get_layer("each2").bias
    bias.assign(bias + 2)
    return Pair(model, items, ported(model, Sets), "same")


_MEAN = "multiply mul sum* true_divide div both cat all1"
_MOST = "add max amax amin where multiply_1 subtract both cat all1"
slip("sets/rectified-for-elu", "each1 elu relu each2", "activation-kind")
slip("sets/mean-of-all-places", _MEAN, "pool-kind attention-mask", "operation-kind scale block-missing")
slip("sets/sum-for-mean", _MEAN, "pool-kind block-missing", "operation-kind scale")
slip("sets/empty-places-among-the-largest", _MOST, "attention-mask block-missing", "pad-mode bias-missing")
slip("sets/largest-first", "both cat all1", "concat-order", "operand-order")
slip("sets/gelu-by-tanh", "all1 gelu all2", "gelu-approx")
defect("sets/second-unturned", "each2", "dense-transpose", "kernel-layout weights-perturbed")(
    rewritten("each2.weight", lambda weight: weight.T)
)


ways("sets", "means-by-weights")
one_layer("sets", "rectified-for-elu+second-unturned")
neighbours("sets", "mean-of-all-places+largest-first")
